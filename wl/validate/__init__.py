"""Is it right? Checks of the whole chain against something outside of it.

Comes in: a data set or a finished run. Goes out: the information limit of a simulated set
(`limit`), real maps beside simulated ones (`realism`, and `labelled` where the truth is known),
ranks and coverage of a run's posteriors (`calibration`).

In Python:

    from wl.validate import calibration
    result = calibration.check(calibration.load("data/runs/main"), 400)
    print(calibration.failures(result))
"""
