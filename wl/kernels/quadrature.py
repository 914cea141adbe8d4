"""Posterior moments and marginal quantiles by quadrature over the triangles of the design."""
import math

import numpy as np
from numba import njit, prange

from .likelihood import log
from .metropolis import LEVELS

FAINT = 60.0           # points this far (in ln) below the highest weigh nothing in double precision
POINTS = 512           # points per pass: their log-posteriors stay in the first-level cache


@njit(cache=True)
def whiten(mean, covariance, log_weight):
    """Cholesky factors at the quadrature points, laid out for quadrature().

    mean: (m, d); covariance: (m, d, d); log_weight: (m,) ln of quadrature weight times prior.
    Returns white (d + d (d + 1) / 2, m) float64, for each row a of the summary L^-1 mean and the
    packed row of L^-1, and base (m,) float64, log_weight - 1/2 ln det C.
    """
    m, d = mean.shape
    white = np.empty((d + d * (d + 1) // 2, m))
    base = np.empty(m)
    factor, inverse = np.zeros((d, d)), np.zeros((d, d))
    for p in range(m):
        log_det = 0.0
        for a in range(d):
            for b in range(a + 1):
                s = covariance[p, a, b]
                for k in range(b):
                    s -= factor[a, k] * factor[b, k]
                factor[a, b] = math.sqrt(s) if a == b else s / factor[b, b]
            log_det += 2.0 * math.log(factor[a, a])
            for b in range(a + 1):
                s = 1.0 if a == b else 0.0
                for k in range(b, a):
                    s -= factor[a, k] * inverse[k, b]
                inverse[a, b] = s / factor[a, a]
        q = 0
        for a in range(d):
            s = 0.0
            for b in range(a + 1):
                s += inverse[a, b] * mean[p, b]
                white[q + 1 + b, p] = inverse[a, b]
            white[q, p] = s
            q += a + 2
        base[p] = log_weight[p] - 0.5 * log_det
    return white, base


@njit(cache=True, parallel=True)
def quadrature(theta, white, base, rank, estimate, moments, quantiles):
    """Posterior moments and quantiles of every map.

    theta: (2, m) float64, the points; white, base: of whiten(); rank: (2, m) int64, the order of the
    points in Omega_m and in S_8; estimate: (n, d) float64.
    Filled: moments (n, 6) float64, mean x, mean y, var x, var y, covariance, and ln of the evidence
    up to the likelihood's constant; quantiles (n, 2, 5) float64.
    """
    for i in prange(estimate.shape[0]):
        _one(theta, white, base, rank, estimate[i], moments[i], quantiles[i])


@njit(cache=True)
def _one(theta, white, base, rank, estimate, moments, quantiles):
    m, d = theta.shape[1], estimate.size
    weight = np.empty(m)
    z = np.empty(POINTS)
    for first in range(0, m, POINTS):
        size = min(POINTS, m - first)
        part = weight[first:first + size]
        for p in range(size):
            part[p] = 0.0
        q = 0
        for a in range(d):
            for p in range(size):
                z[p] = -white[q, first + p]
            for b in range(a + 1):
                e = estimate[b]
                for p in range(size):
                    z[p] += white[q + 1 + b, first + p] * e
            for p in range(size):
                part[p] += z[p] * z[p]
            q += a + 2
    highest = -math.inf
    for p in range(m):
        weight[p] = base[p] - 0.5 * weight[p]
        highest = max(highest, weight[p])
    total, sx, sy = 0.0, 0.0, 0.0
    for p in range(m):
        w = weight[p] - highest
        w = math.exp(w) if w > -FAINT else 0.0
        weight[p] = w
        if w > 0.0:
            total += w
            sx += w * theta[0, p]
            sy += w * theta[1, p]
    sx /= total
    sy /= total
    vx, vy, cov = 0.0, 0.0, 0.0
    for p in range(m):
        w = weight[p]
        if w > 0.0:
            x, y = theta[0, p] - sx, theta[1, p] - sy
            vx += w * x * x
            vy += w * y * y
            cov += w * x * y
    moments[0], moments[1] = sx, sy
    moments[2], moments[3], moments[4] = vx / total, vy / total, cov / total
    moments[5] = highest + math.log(total)
    for k in range(2):
        _weighted_quantiles(theta[k], weight, rank[k], total, quantiles[k])


@njit(cache=True)
def _weighted_quantiles(x, weight, rank, total, out):
    """Quantiles LEVELS of weighted points: the cumulative weight at a point counts half of its own."""
    level, below, last_x, last_c = 0, 0.0, x[rank[0]], 0.0
    for p in range(x.size):
        w = weight[rank[p]]
        if w == 0.0:
            continue
        here, c = x[rank[p]], (below + 0.5 * w) / total
        while level < LEVELS.size and c >= LEVELS[level]:
            part = (LEVELS[level] - last_c) / (c - last_c) if below > 0.0 else 1.0
            out[level] = last_x + part * (here - last_x)
            level += 1
        below += w
        last_x, last_c = here, c
    while level < LEVELS.size:
        out[level] = last_x
        level += 1
