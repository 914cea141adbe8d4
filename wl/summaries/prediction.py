"""The stage maps -> predictions, by whichever method a run has."""
from . import ensemble
from .pipeline import prediction_settings


def predict(run):
    """predictions.h5 of a run, made if need be. Returns the store.File, or None after one network with --only."""
    settings = prediction_settings(run)
    if run.method == "spectrum":
        from . import spectrum                # numba, 0.4 s that a run with finished predictions need not wait
        return run.predictions(settings, spectrum.predict)
    if run.args.only is not None:
        return ensemble.only(run, settings, run.args.only)
    return run.predictions(settings, ensemble.predict)
