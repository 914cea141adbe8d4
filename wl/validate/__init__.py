"""Is it right? Checks of the whole chain against something outside of it.

Comes in: a data set or a finished run. Goes out: the information limit of a simulated set and ranks
and coverage of a run's posteriors (`inference`), real maps beside simulated ones (`realism`), both
by what the theory expects of binned `spectra`. In Python:

    from wl.validate import inference
    result = inference.check(inference.load("data/runs/main"), 400)
    print(inference.failures(result))
"""
