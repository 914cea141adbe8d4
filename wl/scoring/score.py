"""The challenge's score and what tells whether error bars can be trusted: pure functions of arrays.

Shapes: n maps, 2 parameters in the order of params.PARAMS. truth, mean, sd: (n, 2) float64.
An error is e = mean - truth, its pull z = e / sd.
"""
import numpy as np

from ..core.checks import InputError, array
from ..core.params import SCORE_WEIGHT
from ..posterior.recalibration import (
    checked, coverage_curve, pit, pit_quantiles, uniform_p_value)

SCORE_FLOOR = -1e6                                 # the organisers show no score below it
LEVELS = {"68": (0.682689, 1.0), "95": (0.954500, 2.0)}    # name: (probability, half width in sd)


# ---------------------------------------------------------------- the score
def score_terms(truth, mean, sd):
    """The three terms of the challenge's score for each map and parameter.

    Returns (n, 3, 2): e^2/sd^2, ln sd^2 and 1000 e^2; the score of a map is minus their sum.
    Raises InputError for shapes that differ, non-finite values and sd <= 0, naming the map.
    """
    truth, mean, sd = checked(truth, mean, sd)
    square = (mean - truth)**2
    return np.stack([square / sd**2, 2.0 * np.log(sd), SCORE_WEIGHT * square], axis=1)


def challenge_score(truth, mean, sd):
    """Score of each map (higher is better), whose mean over the maps is the challenge's.

    - sum over Omega_m and S_8 of (e^2/sd^2 + ln sd^2 + 1000 e^2); Dai et al. 2026, arXiv:2604.14451.
    Returns (n,) float64. Raises InputError as score_terms does.
    """
    return -score_terms(truth, mean, sd).sum(axis=(1, 2))


def expected_score(sd):
    """Score of each map that its error bars promise, <e^2> = sd^2: (n,) float64 for sd (n, 2).

    An exact posterior has it as the expectation of its score; the score itself scatters about it from map to map.
    """
    sd = np.asarray(sd, dtype=np.float64)
    return -(1.0 + 2.0 * np.log(sd) + SCORE_WEIGHT * sd**2).sum(axis=1)


def prior_score(theta):
    """Score of an answer that knows only the design: its mean and sd for every map.

    theta: (n_cosmology, 2). Returns a float: -7.56 for the challenge's 101 cosmologies.
    """
    theta = np.asarray(theta, dtype=np.float64)
    mean, sd = np.broadcast_to(theta.mean(0), theta.shape), np.broadcast_to(theta.std(0), theta.shape)
    return float(challenge_score(theta, mean, sd).mean())


def bootstrap_means(values, count=1000, seed=1, cluster=None):
    """Means over resampled maps; their standard deviation is the error of the mean.

    values: (n, k), one row per map; count: resamples; seed: int, the same seed and n draw the same
    maps, so that differences of two runs can be taken resample by resample; cluster: (n,) int or
    None, maps of equal number are drawn together (they share a noise-free seed, so are dependent).
    Returns (count, k) float64.
    """
    values = np.asarray(values, dtype=np.float64)
    size = np.ones(len(values))
    if cluster is not None:
        _, inverse, number = np.unique(cluster, return_inverse=True, return_counts=True)
        sums = np.zeros((len(number), values.shape[1]))
        np.add.at(sums, inverse, values)
        values, size = sums, number.astype(np.float64)
    n, rng = len(values), np.random.default_rng(seed)
    means = np.empty((count, values.shape[1]))
    for start in range(0, count, 64):                # blocks bound the memory
        drawn = rng.integers(0, n, size=(min(64, count - start), n))
        weight = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
        # einsum and not @: BLAS may round otherwise with another number of threads
        total = np.einsum("bn,nk->bk", weight, values)
        means[start:start + 64] = total / np.einsum("bn,n->b", weight, size)[:, None]
    return means


# ---------------------------------------------------------------- calibration
def sbc_ranks(truth, draws):
    """Number of draws below the truth (Talts et al. 2018, arXiv:1804.06788).

    draws: (n, k, 2), thinned until independent. Returns (n, 2) int, uniform on 0 ... k if calibrated.
    """
    return (np.asarray(draws) < np.asarray(truth)[:, None]).sum(axis=1)


def tarp(truth, draws, seed=1):
    """Share of draws nearer to a random reference than the truth is (Lemos et al. 2023, 2302.03026).

    draws: (n, k, 2). References are uniform in the box of the truths, distances in units of its sides.
    The rank of the truth among the k + 1 is spread over its step at random, so that few draws do not
    show. Returns (n,) float64, uniform in (0, 1) if the joint posterior is calibrated.
    """
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    low, side = truth.min(axis=0), np.ptp(truth, axis=0)
    side = np.where(side > 0, side, 1.0)
    rng = np.random.default_rng(seed)
    reference = low + side * rng.random(truth.shape)
    far = (((truth - reference) / side)**2).sum(axis=1)
    near = (((draws - reference[:, None]) / side)**2).sum(axis=2) < far[:, None]
    return (near.sum(axis=1) + rng.random(len(truth))) / (draws.shape[1] + 1.0)


def joint_distance(truth, mean, sd, correlation):
    """Squared Mahalanobis distance of the truth; correlation: (n,). Returns (n,), chi2 of 2 if calibrated."""
    truth, mean, sd = checked(truth, mean, sd)
    rho = array("correlation", correlation, (len(truth),))
    a, b = ((truth - mean) / sd).T
    return (a * a - 2.0 * rho * a * b + b * b) / np.maximum(1.0 - rho * rho, 1e-12)


def out_of_distribution(inside, outside, count=100, low=0.001, high=0.05):
    """Mean true-positive rate of a test for maps that the simulations do not cover.

    inside, outside: (n,), (m,) float64, the test's value (chi2) of maps from the simulations' distribution and of
    others; larger is more suspect, inf allowed. The rate is averaged over `count` false-positive rates from low to
    high at equal ratios, the metric of the challenge's second phase; each rate's threshold is the value that so
    many of the inside maps exceed, on the straight line between two of them. Returns a float, 0.0127 for a test
    that knows nothing (the mean of the rates is the least that counts). Raises InputError.
    """
    inside, outside = (array(name, np.asarray(value, dtype=np.float64), (None,), finite=False)
                       for name, value in (("in-distribution maps", inside), ("out-of-distribution maps", outside)))
    if not (len(inside) and len(outside)) or np.isnan(inside).any() or np.isnan(outside).any():
        raise InputError(f"out-of-distribution test: expected a value of each map, got {len(inside)} in- and "
                         f"{len(outside)} out-of-distribution maps"
                         + (" with NaN among them" if len(inside) and len(outside) else ""))
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]        # the ROC curve, ties as steps
    false, true = (np.concatenate([[0.0], 1.0 - np.searchsorted(np.sort(value), thresholds) / len(value)])
                   for value in (inside, outside))
    rates = np.geomspace(low, high, count)
    right = np.searchsorted(false, rates, side="right")          # false[right - 1] <= rate < false[right]
    part = (rates - false[right - 1]) / (false[right] - false[right - 1])
    return float((true[right - 1] + part * (true[right] - true[right - 1])).mean())


def rank_p_value(ranks, n_draws, bins=20):
    """p-value of a chi2 test that ranks (n,) int are uniform on 0 ... n_draws, in at most `bins` bins."""
    from scipy.special import chdtrc
    bins = min(bins, n_draws + 1)
    share = np.bincount(np.arange(n_draws + 1) * bins // (n_draws + 1), minlength=bins) / (n_draws + 1)
    count = np.bincount(np.asarray(ranks) * bins // (n_draws + 1), minlength=bins)
    expected = share * count.sum()
    return float(chdtrc(bins - 1, ((count - expected)**2 / expected).sum()))


# ---------------------------------------------------------------- all of it for one set of maps
def summarise(truth, mean, sd, label_variance, *, plain_sd=None, correlation=None, intervals=None, quantiles=None,
              count=1000, seed=1, cluster=None, floor=None):
    """Everything that run_score.py reports of one set of maps.

    label_variance: (2,), of the design, the unit of the mean squared error; plain_sd: (n, 2) before any
    recalibration, or None: adds what they hold under names that end in "_plain"; correlation: (n,) or None;
    intervals: {"68": (low, high), ...}, each (n, 2), of quantiles, or None; quantiles: (levels, quantiles) of
    pit_quantiles() or None; count, seed, cluster: of bootstrap_means; floor: None or the least score to report
    (SCORE_FLOOR). Returns a dict of plain numbers: an error beside each mean, None where
    undefined, lists in the order of params.PARAMS, and "coverage_curve", central coverage at 0.1 ... 0.9.
    """
    truth, mean, sd = checked(truth, mean, sd)
    offset, terms = mean - truth, score_terms(truth, mean, sd)
    columns = {"score": -terms.sum(axis=(1, 2)), "expected_score": expected_score(sd),
               "mse": offset**2 / np.asarray(label_variance), "bias": offset,
               "mean_sd": sd, "mean_pull2": terms[:, 0]}
    if plain_sd is not None:
        columns["score_plain"] = challenge_score(truth, mean, plain_sd)
    columns["mse_mean"] = columns["mse"].mean(axis=1)
    for name, (probability, width) in LEVELS.items():
        inside = np.abs(offset) <= width * sd
        columns[f"coverage_{name}"] = inside
        columns[f"coverage_{name}_mean"] = inside.mean(axis=1)
        if plain_sd is not None:
            columns[f"coverage_{name}_plain"] = np.abs(offset) <= width * np.asarray(plain_sd)
        if correlation is not None:
            distance = joint_distance(truth, mean, sd, correlation)
            columns[f"coverage_{name}_joint"] = distance <= -2.0 * np.log1p(-probability)
        if intervals and name in intervals:
            low, high = intervals[name]
            columns[f"coverage_{name}_quantiles"] = (low <= truth) & (truth <= high)
    table = np.concatenate([v.reshape(len(truth), -1) for v in columns.values()], axis=1).astype(np.float64)
    n_independent = len(truth) if cluster is None else len(np.unique(cluster))
    spread = np.full(table.shape[1], np.nan)
    if n_independent > 1 and count > 1:
        spread = bootstrap_means(table, count, seed).std(axis=0, ddof=1)
        if cluster is not None:               # few clusters underestimate: never below the error by map
            spread = np.maximum(spread, bootstrap_means(table, count, seed, cluster).std(axis=0, ddof=1))
    # all or none inside: resampling gives no error at all, Agresti & Coull's (1998) interval one to keep
    all_or_none = np.sqrt(2.0 * (n_independent + 2.0) / (n_independent + 4.0)**3)
    out, at = {"n": len(truth)}, 0
    for name, values in columns.items():
        width = values[0].size
        pick = slice(at, at + width) if values.ndim > 1 else at
        error = np.where(spread[pick] == 0, all_or_none, spread[pick]) if name.startswith("coverage") \
            else spread[pick]
        out[name], out[f"{name}_error"] = _plain(table[:, pick].mean(axis=0)), _plain(error)
        at += width
    if floor is not None:
        out["score"] = max(out["score"], floor)
    out["score_terms"] = dict(zip(("pull2", "ln_sd2", "weighted_e2"), _plain(terms.mean(axis=0))))
    scatter = truth.var(axis=0)
    out["r2"] = [None if v == 0 else float(1.0 - m / v) for m, v in zip((offset**2).mean(axis=0), scatter)]
    levels = np.arange(1, 10) / 10
    out["coverage_curve"] = {"level": _plain(levels),
                             "error_bars": _plain(coverage_curve(pit(truth, mean, sd), levels))}
    if quantiles is not None:
        out["coverage_curve"]["quantiles"] = _plain(coverage_curve(pit_quantiles(truth, *quantiles), levels))
    out["pit_p_value"] = [uniform_p_value(u) for u in pit(truth, mean, sd).T] if len(truth) > 1 else None
    return out


def _plain(value):
    """Numbers and lists for JSON; NaN becomes None."""
    value = np.asarray(value, dtype=np.float64)
    if value.ndim:
        return [_plain(v) for v in value]
    return float(value) if np.isfinite(value) else None
