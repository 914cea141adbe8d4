"""Posterior moments, quantiles and credible regions by quadrature over the design's triangles.

Log-posteriors and exponentials are loops of their own, which vectorise; sums stay in one order.
"""
import math
from collections import namedtuple

import numpy as np

from . import njit
from .likelihood import exp

POINTS = 512           # points per pass for d > 2: what a pass needs stays in the first-level cache
DEPTH, BINS = 20.0, 1000       # ln density below the highest that regions may reach, and its bins

Points = namedtuple("Points", "theta log_weight white base")
Points.__doc__ = """Quadrature points in all triangles.

theta: (2, m) float64, relative to any fixed point; log_weight: (m,) float64, ln of their
quadrature weights; white (d + d (d + 1) / 2, m) and base (m,) float64: of whiten().
"""

Lines = namedtuple("Lines", "white base first limits")
Lines.__doc__ = """Points on lines of constant Omega_m, then of constant S_8.

white, base: as in Points; first: (2, lines + 1) int64, where each line's points begin; limits:
(2, 2) float64, lowest and highest Omega_m, S_8; lines are the centres of equal cells between them.
"""

Output = namedtuple("Output", "moments quantiles regions")
Output.__doc__ = """What quadrature() fills.

moments: (n, 6) float64, mean x, mean y, var x, var y, covariance, and ln of the evidence up to the
likelihood's constant; quantiles: (n, 2, levels) float64; regions: (n, 2, 2) float64, for each
probability the ln of the posterior density at the region's edge, and its area.
"""


@njit()
def whiten(mean: np.ndarray, covariance: np.ndarray,
           log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cholesky factors at the quadrature points, laid out for quadrature().

    mean: (m, d), covariance: (m, d, d) float64; log_weight: (m,), ln of quadrature weight x prior.
    Returns white (d + d (d + 1) / 2, m) float64, for each row a of the summary L^-1 mean and the
    packed row of L^-1, and base (m,) float64, log_weight - 1/2 ln det C.
    """
    m, d = mean.shape
    white, base = np.empty((d + d * (d + 1) // 2, m)), np.empty(m)
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


@njit()
def log_posteriors(white: np.ndarray, base: np.ndarray, summary: np.ndarray,
                   out: np.ndarray) -> None:
    """base - 1/2 |L^-1 (summary - mean)|^2 of every map at every point, for on_threads().

    white, base: of whiten(); summary: (n, d) float64; out: (n, m) float64, filled.
    """
    z_all, square_all = np.empty(POINTS), np.empty(POINTS)
    for i in range(summary.shape[0]):
        if summary.shape[1] == 2:
            e0, e1 = summary[i, 0], summary[i, 1]
            m0, l00, m1, l10, l11 = white[0], white[1], white[2], white[3], white[4]
            row = out[i]
            for p in range(base.size):
                z0 = l00[p] * e0 - m0[p]
                z1 = l10[p] * e0 + l11[p] * e1 - m1[p]
                row[p] = base[p] - 0.5 * (z0 * z0 + z1 * z1)
            continue
        for first in range(0, base.size, POINTS):
            last = min(first + POINTS, base.size)
            z, square, q = z_all[:last - first], square_all[:last - first], 0
            square[:] = 0.0
            for a in range(summary.shape[1]):
                z[:] = 0.0
                for b in range(a + 1):
                    row, e = white[q + 1 + b, first:last], summary[i, b]
                    for p in range(z.size):
                        z[p] += row[p] * e
                row = white[q, first:last]
                for p in range(z.size):
                    square[p] += (z[p] - row[p]) * (z[p] - row[p])
                q += a + 2
            row, base_part = out[i, first:last], base[first:last]
            for p in range(square.size):
                row[p] = base_part[p] - 0.5 * square[p]


@njit()
def quadrature(points: Points, lines: Lines, summary: np.ndarray, levels: np.ndarray,
               probabilities: np.ndarray, out: Output) -> None:
    """Posterior moments, quantiles and highest-density regions of every map, for on_threads().

    summary: (n, d) float64; levels: (levels,) float64, increasing probabilities of the quantiles;
    probabilities: (2,) float64, increasing, of the regions; out: Output, filled.
    """
    base, log_weight, limits = points.base, points.log_weight, lines.limits
    x, y = points.theta[0], points.theta[1]
    all_weight, all_line_weight = np.empty((1, base.size)), np.empty((1, lines.base.size))
    weight, line_weight, density = all_weight[0], all_line_weight[0], np.empty(base.size)
    for i in range(summary.shape[0]):
        moments, regions = out.moments[i], out.regions[i]
        log_posteriors(points.white, base, summary[i:i + 1], all_weight)
        for p in range(base.size):
            density[p] = weight[p] - log_weight[p]
        highest = weight.max()
        for p in range(weight.size):
            weight[p] = exp(weight[p] - highest)
        total, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for p in range(weight.size):
            wx, wy = weight[p] * x[p], weight[p] * y[p]
            total, sx, sy = total + weight[p], sx + wx, sy + wy
            sxx, syy, sxy = sxx + wx * x[p], syy + wy * y[p], sxy + wx * y[p]
        sx, sy = sx / total, sy / total
        moments[0], moments[1], moments[2] = sx, sy, sxx / total - sx * sx
        moments[3], moments[4] = syy / total - sy * sy, sxy / total - sx * sy
        moments[5] = math.log(total) + highest
        _regions(density, weight, log_weight, total, probabilities, regions)
        for k in range(probabilities.size):
            regions[k, 0] -= moments[5]
        log_posteriors(lines.white, lines.base, summary[i:i + 1], all_line_weight)
        for p in range(line_weight.size):
            line_weight[p] = exp(line_weight[p] - highest)
        for k in range(2):
            line_quantiles(line_weight, lines.first[k], limits[:, k], levels, out.quantiles[i, k])


@njit()
def _regions(density, weight, log_weight, total, probabilities, out):
    """The smallest regions that hold shares of the weight (m,), whose sum is total."""
    # a histogram over ln density: the edge's has an rms error of 0.02, the area one of 0.5 %
    highest, per, mass = density.max(), BINS / DEPTH, np.zeros(BINS)
    for p in range(density.size):
        if density[p] > highest - DEPTH:   # few are: the branch is cheap, what it skips is not
            mass[np.int64(min((highest - density[p]) * per, BINS - 1.0))] += weight[p]
    level, above = 0, 0.0
    for b in range(BINS):
        while (level < probabilities.size and mass[b] > 0.0
               and above + mass[b] >= probabilities[level] * total):
            out[level, 0] = highest - (b + (probabilities[level] * total - above) / mass[b]) / per
            level += 1
        above += mass[b]
    out[:, 1], out[level:, 0] = 0.0, highest - DEPTH
    for p in range(density.size):
        if density[p] >= out[probabilities.size - 1, 0]:
            area = exp(log_weight[p])
            for k in range(probabilities.size):
                out[k, 1] += area if density[p] >= out[k, 0] else 0.0


@njit()
def line_quantiles(weight, first, limits, levels, out):
    """Quantiles (levels,) of a marginal density, linear in a cell around each line.

    weight, first: (m,) float64, at the points of all lines; (lines + 1,) int64, as in Lines
    limits, levels: (2,) and (levels,) float64, between which lines lie; out: (levels,), filled
    """
    lines, total = first.size - 1, 0.0
    density = np.zeros(lines + 2)                 # with an empty cell at either end
    for j in range(lines):
        for p in range(first[j], first[j + 1]):
            density[j + 1] += weight[p]
        total += density[j + 1]
    low, high, level, below = limits[0], limits[1], 0, 0.0
    width = (high - low) / lines
    for j in range(lines):
        here = density[j + 1]
        while level < levels.size and here > 0.0 and below + here >= levels[level] * total:
            slope = min(max((density[j + 2] - density[j]) / (4.0 * here), -0.99), 0.99)
            part = max(levels[level] * total - below, 0.0) / here
            root = math.sqrt((1.0 - slope) * (1.0 - slope) + 4.0 * slope * part)
            out[level] = low + width * (j + 2.0 * part / (1.0 - slope + root))
            level += 1
        below += here
    out[level:] = high                            # only by rounding of the sum
