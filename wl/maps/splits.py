"""Which realisations train, feed the statistics, or are held out: always whole realisations, never single maps."""
import numpy as np

from ..core.checks import InputError
from ..core.params import HOLDOUT, STATISTICS, TRAIN

SPLIT_STREAM = 100


def split_realisations(n_realisation, statistics, holdout, seed):
    """Which realisations train the network, feed the statistics, or are held out.

    By realisation and never by map: the first public release shares its 256 seeds between the
    cosmologies, so that two maps of one realisation are not independent.
    statistics, holdout: fractions in [0, 1); seed: int. Returns int8 (n_realisation,) of the codes
    of params.SPLITS. Raises InputError when a part would be empty.
    """
    if not (0 < statistics < 1 and 0 <= holdout < 1 and statistics + holdout < 1):
        raise InputError("--statistics-fraction and --holdout-fraction: expected fractions that leave some "
                         f"for training, got {statistics} and {holdout}")
    n_statistics = max(1, round(statistics * n_realisation))
    n_holdout = _held_out(n_realisation, holdout)
    if n_statistics + n_holdout >= n_realisation:
        raise InputError(f"expected enough realisations to split, got {n_realisation} for fractions "
                         f"{statistics} and {holdout}; simulate more realisations")
    order = _order(n_realisation, seed)
    split = np.full(n_realisation, TRAIN, np.int8)
    split[order[:n_statistics]] = STATISTICS
    split[order[n_statistics:n_statistics + n_holdout]] = HOLDOUT
    return split


def split_folds(n_realisation, folds, holdout, seed):
    """Folds of realisations, for networks that each predict what they were not trained on.

    Network k trains on the realisations of the other folds. One in 32 realisations belongs to a fold but trains
    no network: on these maps all networks can be compared (statistics.as_average). holdout: fraction held out
    from all. Returns split, int8 (n_realisation,), codes of params.SPLITS with STATISTICS for every realisation
    of a fold; fold, int8 (n_realisation,), -1 for the hold-out; shared, bool (n_realisation,), those that train
    none. Raises InputError.
    """
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout-fraction: expected a fraction from 0 to below 1, got {holdout}")
    n_holdout = _held_out(n_realisation, holdout)
    n_shared = max(1, round(n_realisation / 32))
    rest = n_realisation - n_holdout - n_shared
    if not 2 <= folds <= min(rest, 100):
        raise InputError(f"--folds: expected 2 to {max(min(rest, 100), 2)} for {n_realisation} realisations, got "
                         f"{folds}; simulate more realisations, or give fewer folds")
    order = _order(n_realisation, seed)
    split, fold = np.full(n_realisation, STATISTICS, np.int8), np.full(n_realisation, -1, np.int8)
    split[order[:n_holdout]] = HOLDOUT
    fold[order[n_holdout:]] = np.arange(n_realisation - n_holdout) % folds
    shared = np.zeros(n_realisation, bool)
    shared[order[n_holdout:n_holdout + n_shared]] = True
    return split, fold, shared


def _held_out(n_realisation, holdout):
    return max(1, round(holdout * n_realisation)) if holdout > 0 else 0


def _order(n_realisation, seed):
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLIT_STREAM,))).permutation(n_realisation)
