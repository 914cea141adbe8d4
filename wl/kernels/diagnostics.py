"""What is made of one map's chains: quantiles, rank-normalised split R-hat, bulk effective sample
size.

Vehtari et al. 2021, Bayesian Analysis 16, 667; reduced inside the sampler, so that no chain
outlives its map. Every chain is cut into halves. Ranks over all of them (ties share the mean rank)
become normal scores by a table, ndtri((rank - 3/8) / (size + 1/4)); R-hat is the larger of that of
the scores and that of the scores of |x - median|; ESS is Geyer's initial monotone sequence on the
scores.
"""
import math
from typing import NamedTuple

import numpy as np

from . import njit

BINS = 1024            # of the marginal histograms, over the hull's bounding box
MAX_BUCKET = 64        # values in one bucket up to which inserting them in order is cheap


class Reduction(NamedTuple):
    """What reduce_map() makes of a map's steps.

    limits: (2, 2) float64, the hull's lowest and highest Omega_m and S_8.
    levels: (levels,) float64, increasing probabilities of the quantiles.
    scores: (2 size + 1,) float64, see rank_diagnostics().
    """
    limits: np.ndarray
    levels: np.ndarray
    scores: np.ndarray


@njit(error_model="numpy", cache=True)
def reduce_map(histogram: np.ndarray, kept: np.ndarray, reduction: Reduction, quantiles: np.ndarray,
               diagnostics: np.ndarray) -> None:
    """Quantiles, R-hat and ESS of both parameters of a map.

    histogram: (2, BINS) int32, of the steps of all its chains, between reduction.limits.
    kept: (2, chains, m) float64, every so many steps.
    reduction: Reduction.
    quantiles: (2, levels) float64, filled.
    diagnostics: (2, 2) float64, filled, R-hat and ESS of each parameter.
    """
    for p in range(2):
        _histogram_quantiles(histogram[p], reduction.limits[:, p], reduction.levels, quantiles[p])
        rank_diagnostics(kept[p], reduction.scores, diagnostics[p])


@njit(error_model="numpy", cache=True)
def _histogram_quantiles(histogram, limits, levels, out):
    """Quantiles `levels` of a histogram (bins,) between two limits, linear inside a bin."""
    total = 0
    for b in range(BINS):
        total += histogram[b]
    low, width = limits[0], (limits[1] - limits[0]) / BINS
    level, below = 0, 0
    for b in range(BINS):
        here = histogram[b]
        while level < levels.size and here > 0 and below + here >= levels[level] * total:
            out[level] = low + width * (b + (levels[level] * total - below) / here)
            level += 1
        below += here


@njit(error_model="numpy", cache=True)
def rank_diagnostics(x: np.ndarray, scores: np.ndarray, out: np.ndarray) -> None:
    """R-hat and ESS of the chains of one parameter.

    x: (chains, m) float64.
    scores: (2 size + 1,) float64, normal score of each doubled rank, size = 2 chains (m // 2).
    Filled: out (2,) float64, R-hat and ESS; inf and 0 for chains that never moved or have fewer
    than four draws.
    """
    chains, half = 2 * x.shape[0], x.shape[1] // 2
    size = chains * half
    out[0], out[1] = math.inf, 0.0
    if half < 2:
        return
    value = np.empty(size)
    for c in range(x.shape[0]):
        for k in range(half):
            value[2 * c * half + k] = x[c, k]
            value[(2 * c + 1) * half + k] = x[c, x.shape[1] - half + k]
    ordered = np.empty(size)
    order = _sort(value, ordered)
    if ordered[0] == ordered[size - 1]:
        return
    z, means = np.empty(size), np.empty(chains)
    _scores(ordered, order, scores, z)
    rhat = _rhat(z, means)
    out[1] = _ess(z, means)
    middle = 0.5 * (ordered[size // 2 - 1] + ordered[size // 2])
    folded = np.empty(size, np.int64)
    left, right = size // 2 - 1, size // 2
    low, high = 0, size - 1
    # both sides of the median are in order already: merge them, the nearest from the middle and the
    # farthest from the ends, so that neither runs out
    for i in range(size // 2):
        below, above = middle - ordered[left], ordered[right] - middle
        take = below <= above
        folded[i] = order[left] if take else order[right]
        value[i] = below if take else above
        left -= take
        right += not take
        below, above = middle - ordered[low], ordered[high] - middle
        take = below > above
        folded[size - 1 - i] = order[low] if take else order[high]
        value[size - 1 - i] = below if take else above
        low += take
        high -= not take
    _scores(value, folded, scores, z)
    out[0] = max(rhat, _rhat(z, means))


@njit(error_model="numpy", cache=True)
def _sort(value, ordered):
    """value (size,) sorted into ordered (size,): into equal buckets, four for each, then by
    insertion.

    Returns (size,) int64, where each came from.
    """
    size = value.size
    low, high = value[0], value[0]
    for i in range(size):
        low, high = min(low, value[i]), max(high, value[i])
    order = np.arange(size)
    if not high > low:
        ordered[:] = value
        return order
    per = (4 * size - 1) / (high - low)
    count = np.zeros(4 * size + 1, np.int32)
    bucket = np.empty(size, np.int32)
    for i in range(size):
        bucket[i] = np.int32((value[i] - low) * per)
        count[bucket[i] + 1] += 1
    fullest = 0
    for b in range(4 * size):
        fullest = max(fullest, count[b + 1])
        count[b + 1] += count[b]
    if fullest > MAX_BUCKET:
        order = np.argsort(value, kind="mergesort")
        for i in range(size):
            ordered[i] = value[order[i]]
        return order
    for i in range(size):
        k = count[bucket[i]]
        order[k], ordered[k] = i, value[i]
        count[bucket[i]] = k + 1
    for i in range(1, size):
        this, at, k = ordered[i], order[i], i
        while k > 0 and ordered[k - 1] > this:
            ordered[k], order[k] = ordered[k - 1], order[k - 1]
            k -= 1
        ordered[k], order[k] = this, at
    return order


@njit(error_model="numpy", cache=True)
def _scores(ordered, order, scores, z):
    """Normal scores z (size,) of sorted values that came from `order`.

    Ties get that of their mean rank.
    """
    for i in range(ordered.size):
        z[order[i]] = scores[2 * i + 2]
    for i in range(1, ordered.size):
        if ordered[i] == ordered[i - 1] and (i + 1 == ordered.size or ordered[i + 1] != ordered[i]):
            first = i - 1                       # i is the last of equal ones
            while first > 0 and ordered[first - 1] == ordered[i]:
                first -= 1
            for k in range(first, i + 1):
                z[order[k]] = scores[first + i + 2]


@njit(error_model="numpy", cache=True)
def _rhat(z, means):
    """R-hat of chains that lie one behind the other in z.

    Takes their means out of z, into means (chains,).
    """
    chains = means.size
    n, within = z.size // chains, 0.0
    for c in range(chains):
        part = z[c * n:(c + 1) * n]
        means[c] = _mean(part)
        for i in range(n):
            part[i] -= means[c]
        within += _product(part, 0) / (n - 1)
    within /= chains
    if not within > 0.0:
        return math.inf
    return math.sqrt((n * _variance(means) / within + n - 1) / n)


@njit(error_model="numpy", cache=True)
def _ess(z, means):
    """Effective sample size of centred chains that lie one behind the other in z.

    means: (chains,), what was taken out.
    """
    chains = means.size
    n = z.size // chains
    rho = np.zeros(n)
    variance = _autocovariance(z, chains, 0) * n / (n - 1.0)
    plus = variance * (n - 1.0) / n + _variance(means)
    even, odd = 1.0, 1.0 - (variance - _autocovariance(z, chains, 1)) / plus
    rho[0], rho[1] = even, odd
    t = 1
    while t < n - 3 and even + odd > 0.0:
        even = 1.0 - (variance - _autocovariance(z, chains, t + 1)) / plus
        odd = 1.0 - (variance - _autocovariance(z, chains, t + 2)) / plus
        if even + odd >= 0.0:
            rho[t + 1], rho[t + 2] = even, odd
        t += 2
    most = t - 2
    if even > 0.0:
        rho[most + 1] = even
    t = 1
    while t <= most - 2:
        if rho[t + 1] + rho[t + 2] > rho[t - 1] + rho[t]:
            rho[t + 1] = 0.5 * (rho[t - 1] + rho[t])
            rho[t + 2] = rho[t + 1]
        t += 2
    tau = -1.0 + rho[most + 1]
    for k in range(most + 1):
        tau += 2.0 * rho[k]
    return chains * n / max(tau, 1.0 / math.log10(chains * n))


@njit(error_model="numpy", cache=True)
def _autocovariance(z, chains, lag):
    """Mean over the chains in z, centred, of the autocovariance at a lag; divisor draws."""
    n, total = z.size // chains, 0.0
    for c in range(chains):
        total += _product(z[c * n:(c + 1) * n], lag)
    return total / (chains * n)


@njit(error_model="numpy", cache=True)
def _product(z, lag):
    """Sum of z_i z_{i + lag}, in eight interleaved sums: they need not wait for each other."""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    n = z.size - lag
    later = z[lag:]
    for i in range(0, n - 7, 8):
        a += z[i] * later[i]
        b += z[i + 1] * later[i + 1]
        c += z[i + 2] * later[i + 2]
        d += z[i + 3] * later[i + 3]
        e += z[i + 4] * later[i + 4]
        f += z[i + 5] * later[i + 5]
        g += z[i + 6] * later[i + 6]
        h += z[i + 7] * later[i + 7]
    for i in range(n - n % 8, n):
        a += z[i] * later[i]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@njit(error_model="numpy", cache=True)
def _mean(z):
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, z.size - 3, 4):
        a += z[i]
        b += z[i + 1]
        c += z[i + 2]
        d += z[i + 3]
    for i in range(z.size - z.size % 4, z.size):
        a += z[i]
    return ((a + b) + (c + d)) / z.size


@njit(error_model="numpy", cache=True)
def _variance(x):
    """Variance with divisor size - 1."""
    mean, total = _mean(x), 0.0
    for i in range(x.size):
        total += (x[i] - mean) * (x[i] - mean)
    return total / (x.size - 1)
