"""wl: weak-lensing convergence maps to Omega_m and S_8 with error bars that can be trusted.

Data flows one way through eight rooms; a room (a subpackage) imports only from those above it.

    core, kernels    what every room needs; all compiled code
    maps             a data set: opened, checked, split
    simulate         (cosmology, nuisances, seed) -> maps
    summaries        a map -> a few numbers, in predictions.h5
    posterior        numbers -> posterior.h5
    scoring          posterior -> score; reads the truth
    validate         checks of the whole chain

From Python: open_set, simulate_set, predict, infer, score and apply of wl itself (`api` has them).
"""
__version__ = "0.2.0"
__all__ = ["apply", "infer", "open_set", "predict", "score", "simulate_set"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'wl' has no attribute {name!r}")
    from . import api
    return getattr(api, name)
