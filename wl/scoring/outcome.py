"""What a finished run says of itself: its table, score.json, and whether it converged."""
from . import report, table
from ..core import hdf5
from ..core.checks import InputError, RunError
from ..core.progress import warn

MOST_QUADRATURE_ERROR = 0.01   # sd, of a mean or sd


def report_on(path, args):
    """Score a posterior, save score.json, print the table."""
    result = report.score_posterior(path, seed=args.seed)
    print(table.overview([result]))
    print(table.details(result))
    try:
        report.save(result)
    except InputError as error:                     # a finished run on a disk that is only read from now on
        warn(error)


def check_convergence(path, args, shard=None):
    """Raise RunError if the chains of a posterior have not converged and that was not allowed.

    Of a shard it is only said: the maps of all of them decide, once they are joined.
    """
    from ..posterior import posterior
    file = hdf5.read(path, "posterior", groups=("summary", "constant_data"))
    reason = posterior.unconverged(file.groups["summary"])
    error = file.groups["constant_data"].get("quadrature_error")
    if reason is None and error is not None and error[-1] > MOST_QUADRATURE_ERROR:
        reason = f"not converged: the quadrature is {error[-1]:.2g} sd from a higher order; give --sampler metropolis"
    if reason is not None and (args.allow_unconverged or shard is not None):
        warn(reason)
    elif reason is not None:
        raise RunError(f"{path}: {reason}; --allow-unconverged takes it as it is")
