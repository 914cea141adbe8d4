"""Posterior -> score: only this room, and the checks of `validate`, read the truth of test maps.

Comes in: posterior.h5 of any method, and label files. Goes out: score.json, a table, the
challenge's zip. The score is defined in `score.challenge_score`: minus the mean over the
maps of the sum over Omega_m and S_8 of e^2 / s^2 + ln s^2 + 1000 e^2, with error e and error bar s.
In Python:

    from wl.scoring.report import score_posterior
    result = score_posterior("data/runs/main/posterior.h5")
    print(result["score"], result["score_error"])
"""
