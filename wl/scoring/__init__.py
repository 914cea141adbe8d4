"""Posterior -> score: the only room that reads the truth of held-out maps.

Comes in: posterior.h5 of any method, and the label files of its data set. Goes out: score.json, a
table, the challenge's zip. The score is defined in `score.challenge_score`; coverage and errors
stand beside it.

In Python:

    from wl.scoring.report import score_posterior
    result = score_posterior("data/runs/main/posterior.h5")
    print(result["score"], result["score_error"])
"""
