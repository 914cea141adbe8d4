"""The challenge's score and what tells whether error bars can be trusted: functions of arrays.

Shapes: n maps, 2 parameters in the order of params.PARAMS. truth, mean, sd: (n, 2) float64. An
error is e = mean - truth, its pull z = e / sd.
"""
from collections import namedtuple

import numpy as np

from ..core import params
from ..core.checks import InputError, array
from ..posterior.posterior import checked, coverage_curve, pit_quantiles, uniform_p_value

LEVELS = {"68": (0.682689, 1.0), "95": (0.954500, 2.0)}    # (probability, half width in sd)
RATES = np.geomspace(0.001, 0.05, 100)                     # of maps taken for strange ones

Posterior = namedtuple("Posterior", "mean sd correlation quantiles", defaults=(None, {}))
Posterior.__doc__ = """What is scored of n maps: mean, sd (n, 2); correlation (n,), or None;
quantiles {name of params.LEVELS: (n, 2)}, those there are."""


def _score_terms(truth, mean, sd):
    """The terms e^2/sd^2, ln sd^2 and 1000 e^2 of the challenge's score, (n, 3, 2) float64."""
    square = (mean - truth)**2
    return np.stack([square / sd**2, 2.0 * np.log(sd), params.SCORE_WEIGHT * square], axis=1)


def challenge_score(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Score of each map (higher is better), (n,) float64; their mean is the challenge's.

    It is minus the sum of e^2/sd^2 + ln sd^2 + 1000 e^2; Dai et al. 2026, arXiv:2604.14451.
    truth, mean, sd: (n, 2) float64
    Raises InputError for shapes that differ, non-finite values and sd <= 0, naming the map.
    """
    return -_score_terms(*checked(truth, mean, sd)).sum(axis=(1, 2))


def expected_score(sd: np.ndarray) -> np.ndarray:
    """Score (n,) that error bars sd (n, 2) promise: the expectation where <e^2> = sd^2."""
    sd = np.asarray(sd, dtype=np.float64)
    return -(1.0 + 2.0 * np.log(sd) + params.SCORE_WEIGHT * sd**2).sum(axis=1)


def prior_score(theta: np.ndarray) -> float:
    """Score of the mean and sd of a design theta (n_cosmology, 2); -7.56 for the challenge's."""
    theta = np.asarray(theta, dtype=np.float64)
    mean, sd = (np.broadcast_to(value, theta.shape) for value in (theta.mean(0), theta.std(0)))
    return float(challenge_score(theta, mean, sd).mean())


def bootstrap_means(values: np.ndarray, count: int = 1000, seed: int = 1,
                    cluster: np.ndarray | None = None) -> np.ndarray:
    """Means over resampled maps, (count, k); their standard deviation is the error of the mean.

    values: (n, k), a row a map; cluster: (n,) int, equal for maps that are drawn together; or None
    count, seed: ints, resamples; the same seed and n draw the same maps
    """
    values = np.asarray(values, dtype=np.float64)
    size = np.ones(len(values))
    if cluster is not None:
        _, inverse, number = np.unique(cluster, return_inverse=True, return_counts=True)
        values = np.stack([np.bincount(inverse, column) for column in values.T], axis=1)
        size = number.astype(np.float64)
    n, rng, means = len(values), np.random.default_rng(seed), np.empty((count, values.shape[1]))
    for start in range(0, count, 64):                # blocks bound the memory
        drawn = rng.integers(0, n, size=(min(64, count - start), n))
        weight = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
        # einsum and not @: BLAS may round otherwise with another number of threads
        total = np.einsum("bn,nk->bk", weight, values)
        means[start:start + 64] = total / np.einsum("bn,n->b", weight, size)[:, None]
    return means


def joint_distance(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray,
                   correlation: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of the truth, (n,): chi2 of 2 degrees of freedom if calibrated.

    truth, mean, sd: (n, 2); correlation: (n,)
    """
    rho, (a, b) = array("correlation", correlation, (len(truth),)), ((truth - mean) / sd).T
    return (a * a - 2.0 * rho * a * b + b * b) / np.maximum(1.0 - rho * rho, 1e-12)


def out_of_distribution(inside: np.ndarray, outside: np.ndarray) -> float:
    """Mean true-positive rate of a test for maps that the simulations do not cover.

    The mean is over the false-positive RATES, the metric of the challenge's second phase; a test
    that knows nothing has 0.0127. Raises InputError.
    inside, outside: (n,), (m,) float64, the test's value (chi2) of maps from the simulations'
        distribution and of others; larger is more suspect, inf allowed
    """
    both = np.concatenate([inside, outside])
    if not (len(inside) and len(outside)) or np.isnan(both).any():
        raise InputError("out-of-distribution test: expected maps of both kinds, each with a chi2, "
                         f"which only run_mcmc.py gives; got {len(inside)} and {len(outside)}, "
                         f"{np.isnan(both).sum()} of them without one")
    thresholds = np.unique(both)[::-1]
    false, true = (np.append(0.0, 1.0 - np.searchsorted(np.sort(v), thresholds) / len(v))
                   for v in (inside, outside))
    right = np.searchsorted(false, RATES, side="right")    # false[right - 1] <= rate < false[right]
    part = (RATES - false[right - 1]) / (false[right] - false[right - 1])
    return float((true[right - 1] + part * (true[right] - true[right - 1])).mean())


def summarise(truth: np.ndarray, posterior: Posterior, label_variance: np.ndarray, *,
              count: int = 1000, seed: int = 1, cluster: np.ndarray | None = None) -> dict:
    """Everything that run_score.py reports of one set of maps.

    truth: (n, 2); posterior: Posterior; count, seed, cluster: of bootstrap_means()
    label_variance: (2,), of the design, the unit of the mean squared error
    Returns a dict of plain numbers: an error beside each mean, None where undefined, lists in the
    order of params.PARAMS, and "coverage_curve", share of truths inside the central intervals of
    0.1 ... 0.9. Raises InputError as challenge_score() does.
    """
    truth, mean, sd = checked(truth, posterior.mean, posterior.sd)
    terms = _score_terms(truth, mean, sd)
    columns = _columns(truth, posterior._replace(mean=mean, sd=sd), terms, label_variance)
    table = np.column_stack([*columns.values()]).astype(np.float64)
    n_independent = len(truth) if cluster is None else len(np.unique(cluster))
    spread = np.full(table.shape[1], np.nan)
    if n_independent > 1 and count > 1:
        spread = bootstrap_means(table, count, seed).std(axis=0, ddof=1)
        if cluster is not None:       # few clusters underestimate: never below the error by map
            by_cluster = bootstrap_means(table, count, seed, cluster).std(axis=0, ddof=1)
            spread = np.maximum(spread, by_cluster)
    # all or none inside: resampling gives no error, Agresti & Coull's (1998) interval one to keep
    all_or_none = np.sqrt(2.0 * (n_independent + 2.0) / (n_independent + 4.0)**3)
    out, at = {"n": len(truth)}, 0
    for name, values in columns.items():
        pick = slice(at, at + values[0].size) if values.ndim > 1 else at
        at, error = at + values[0].size, spread[pick]
        if name.startswith("coverage"):
            error = np.where(error == 0, all_or_none, error)
        out[name], out[f"{name}_error"] = plain(table[:, pick].mean(axis=0)), plain(error)
    out["score_terms"] = dict(zip(("pull2", "ln_sd2", "weighted_e2"), plain(terms.mean(axis=0))))
    mse, variance = ((mean - truth)**2).mean(axis=0), truth.var(axis=0)
    out["r2"] = [None if v == 0 else float(1.0 - m / v) for m, v in zip(mse, variance)]
    below = probabilities(truth, posterior)
    _, same = np.unique(truth, axis=0, return_inverse=True)
    p_value = [uniform_p_value(u, same.ravel()) for u in below.T] if len(truth) > 1 else None
    return out | {"coverage_curve": plain(coverage_curve(below, np.arange(1, 10) / 10)),
                  "pit_p_value": p_value}


def probabilities(truth: np.ndarray, posterior: Posterior) -> np.ndarray:
    """Probability below the truth (n, 2), by the quantiles if all are there, else mean and sd."""
    if len(posterior.quantiles) < len(params.LEVELS):
        from scipy.special import ndtr
        return ndtr((truth - posterior.mean) / posterior.sd)
    return pit_quantiles(truth, list(params.LEVELS.values()),
                         [posterior.quantiles[name] for name in params.LEVELS])


def _columns(truth, posterior, terms, label_variance):
    """What summarise() averages over the maps: {name: (n,) or (n, 2)}."""
    mean, sd, correlation, quantiles = posterior
    offset = mean - truth
    columns = {"score": -terms.sum(axis=(1, 2)), "expected_score": expected_score(sd),
               "mse": offset**2 / np.asarray(label_variance), "bias": offset, "mean_sd": sd,
               "mean_pull2": terms[:, 0]}
    columns["mse_mean"] = columns["mse"].mean(axis=1)
    for name, (probability, width) in LEVELS.items():
        inside = {"": np.abs(offset) <= width * sd}
        if set(params.INTERVALS[name]) <= set(quantiles):
            low, high = (quantiles[q] for q in params.INTERVALS[name])
            inside["_quantiles"] = (low <= truth) & (truth <= high)
        for kind, values in inside.items():
            columns |= {f"coverage_{name}{kind}": values,
                        f"coverage_{name}{kind}_mean": values.mean(axis=1)}
        if correlation is not None:
            distance = joint_distance(truth, mean, sd, correlation)
            columns[f"coverage_{name}_joint"] = distance <= -2.0 * np.log1p(-probability)
    return columns


def plain(value: np.ndarray) -> list | float | None:
    """Numbers and lists for JSON of an array or a number; NaN becomes None."""
    value = np.asarray(value, dtype=np.float64)
    return np.where(np.isfinite(value), value.astype(object), None).tolist()
