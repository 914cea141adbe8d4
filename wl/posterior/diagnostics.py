"""Quantiles of chains, rank-normalised split R-hat and bulk effective sample size, for many maps.

Vehtari et al. 2021, Bayesian Analysis 16, 667. Every chain is cut into halves. Ranks over all halves
(ties share the mean rank) become normal scores; R-hat is the larger of that of the scores and that of
the scores of |x - median|; ESS is Geyer's initial monotone sequence on the scores. NumPy needs 0.18 ms
of CPU a map for 500 draws of two parameters, and no compilation (6.5 s for a kernel).
"""
import numpy as np
import scipy.fft
from scipy.special import ndtri


def rank_diagnostics(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R-hat and ESS of the chains of many maps.

    draws: (n, chains, m) float64
    Returns R-hat and ESS, (n,) float64 each; inf and 0 for chains that never moved, or have fewer
    than four draws.
    """
    n, half = len(draws), draws.shape[2] // 2
    rhat, ess = np.full(n, np.inf), np.zeros(n)
    value = np.concatenate([draws[..., :half], draws[..., draws.shape[2] - half:]], axis=1)
    moved = np.flatnonzero(np.ptp(value, axis=(1, 2)) > 0.0) if half > 1 else []
    if len(moved):
        value = value[moved]
        score = _normal_scores(value)
        folded = np.abs(value - np.median(value, axis=(1, 2), keepdims=True))
        rhat[moved] = np.maximum(_rhat(score), _rhat(_normal_scores(folded)))
        ess[moved] = _ess(score)
    return rhat, ess


def histogram_quantiles(histogram: np.ndarray, limits: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of histograms, linear inside a bin.

    histogram: (n, bins) int, counts of equal bins between the limits
    limits: (2,) float64
    levels: (levels,) float64, increasing probabilities
    Returns (n, levels) float64.
    """
    bins, total = histogram.shape[1], histogram.sum(1)
    upto = histogram.cumsum(1)
    wanted = levels * total[:, None]
    at = np.stack([np.minimum((upto < w[:, None]).sum(1), bins - 1) for w in wanted.T], 1)
    at = np.where(total[:, None] > 0, at, 0)
    here = np.take_along_axis(histogram, at, 1)
    below = np.take_along_axis(upto, at, 1) - here
    part = (wanted - below) / np.maximum(here, 1)
    return limits[0] + (limits[1] - limits[0]) / bins * (at + part)


def _normal_scores(value):
    """Normal scores of the ranks of values (n, chains, m) among all of a map; ties share one."""
    n, size = len(value), value[0].size
    flat = value.reshape(n, size)
    order = flat.argsort(axis=1, kind="stable")
    ordered, place = np.take_along_axis(flat, order, 1), np.arange(size)
    new = np.ones((n, size), bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.concatenate([new[:, 1:], np.ones((n, 1), bool)], axis=1)
    last = np.minimum.accumulate(np.where(ends, place, size)[:, ::-1], axis=1)[:, ::-1]
    score = ndtri((0.5 * np.arange(2 * size + 1) - 0.375) / (size + 0.25))
    out = np.empty((n, size))
    np.put_along_axis(out, order, score[first + last + 2], 1)
    return out.reshape(value.shape)


def _rhat(score):
    """R-hat of chains (n, chains, m)."""
    m = score.shape[2]
    within = score.var(axis=2, ddof=1).mean(1)
    between = score.mean(2).var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.sqrt((m * between / within + m - 1) / m)
    return np.where(within > 0.0, rhat, np.inf)


def _ess(score):
    """Effective sample size of chains (n, chains, m) by Geyer's initial monotone sequence."""
    n, chains, m = score.shape
    mean = score.mean(2, keepdims=True)
    power = np.abs(scipy.fft.rfft(score - mean, scipy.fft.next_fast_len(2 * m, True), axis=2))**2
    size = scipy.fft.next_fast_len(2 * m, True)
    covariance = scipy.fft.irfft(power.mean(1), size, axis=1)[:, :m] / m
    within = covariance[:, :1] * m / (m - 1.0)
    plus = within * (m - 1.0) / m + mean[:, :, 0].var(axis=1, ddof=1)[:, None]
    rho = 1.0 - (within - covariance) / plus
    rho[:, 0] = 1.0
    count = max((m - 2) // 2 + (m - 2) % 2, 1)          # pairs of lags that are looked at
    pairs = rho[:, 0:2 * count:2] + rho[:, 1:2 * count:2] if m > 4 else np.ones((n, 1))
    negative = pairs <= 0.0
    negative[:, 0] = False                              # the first pair is taken as it is
    stop = np.where(negative.any(1), negative.argmax(1), pairs.shape[1] - 1)
    row = np.arange(n)
    even = rho[row, 2 * stop]
    tail = np.where((even > 0.0) | (pairs[row, stop] >= 0.0), even, 0.0)
    kept = np.arange(pairs.shape[1]) < stop[:, None]
    total = np.where(kept, np.minimum.accumulate(pairs, axis=1), 0.0).sum(1)
    tau = 2.0 * total - 1.0 + tail
    return chains * m / np.maximum(tau, 1.0 / np.log10(chains * m))
