"""Log-likelihood of a summary whose mean and covariance vary over the design, for any dimension d.

Gaussian: log L = -1/2 (r^T C^-1 r + ln det C) with r = summary - mean. Constants that depend on
neither the parameters nor the summary are left to the callers. Log-prior, mean and covariance are
linear in each triangle of the design, which has one row of `coefficient` (t, 6 + 3 k) float64:
corner 2 (x, y), the matrix T (row-major) that takes (point - corner 2) to the weights c0, c1 of
corners 0 and 1, then of k quantities (log-prior, d means, packed lower triangle of the covariance)
the values v2 at corner 2, the differences v0 - v2, and the differences v1 - v2.
"""
import math
from collections import namedtuple

import numpy as np

from . import njit

TOLERANCE = 1e-12      # how negative a barycentric weight may be by rounding
_SQRT_HALF_BITS, _EXPONENT, _BIAS = (np.int64(n) for n in (0x3FE6A09E667F3BCD, 52, 1023))
_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_INV_LN2 = 1.44269504088896338700


Triangulation = namedtuple("Triangulation", "coefficient neighbours grid box")
Triangulation.__doc__ = """What the kernels take of an emulator.

coefficient: (t, 6 + 3 k) float64, see above; neighbours: (t, 3) int32, across the edge opposite to
each corner, -1 at the hull; box: Cells, those of grid: (nx, ny) int32, the look-up grid. Codes:
t >= 0 the whole cell lies in triangle t, -1 the whole cell is outside, -2 - t begin a walk at
triangle t. The outermost cells are all -1, so that cell() may clamp.
"""

Cells = namedtuple("Cells", "low_x low_y per_x per_y last_x last_y")
Cells.__doc__ = """Equal cells of a box, float64: its corner, cells per unit, index of the last."""


@njit(forceinline=True)
def weights(x: float, y: float, coefficient: np.ndarray, t: int) -> tuple[float, float]:
    """Barycentric weights c0, c1 of (x, y) in triangle t; the third is 1 - c0 - c1."""
    u, v = x - coefficient[t, 0], y - coefficient[t, 1]
    return (coefficient[t, 2] * u + coefficient[t, 3] * v,
            coefficient[t, 4] * u + coefficient[t, 5] * v)


@njit(forceinline=True)
def locate(x: float, y: float, coefficient: np.ndarray, neighbours: np.ndarray, t: int) -> int:
    """The triangle that holds (x, y), found by walking from triangle t; -1 outside the hull.

    It crosses the edge of the most negative weight. The hull is convex: a point beyond a hull edge
    is outside. A walk that does not end (rounding) gives way to a search of all.
    """
    for _ in range(coefficient.shape[0]):
        c0, c1 = weights(x, y, coefficient, t)
        c2 = 1.0 - c0 - c1
        corner, low = (1, c1) if c1 < c0 else (0, c0)
        if c2 < low:
            corner, low = 2, c2
        if low >= -TOLERANCE:
            return np.int64(t)
        t = np.int64(neighbours[t, corner])
        if t < 0:
            return t
    return _search(x, y, coefficient)


@njit()
def _search(x: float, y: float, coefficient: np.ndarray) -> int:
    """The triangle that holds (x, y) by looking at all of them; -1 outside the hull."""
    best, best_low = np.int64(-1), -TOLERANCE
    for t in range(coefficient.shape[0]):
        c0, c1 = weights(x, y, coefficient, t)
        low = min(c0, c1, 1.0 - c0 - c1)
        if low >= best_low:
            best, best_low = np.int64(t), low
    return best


@njit(forceinline=True)
def cell(x: float, y: float, cells: Cells) -> tuple[int, int]:
    """The cell that (x, y) lies in, the nearest one outside of the box."""
    u = min(max((x - cells.low_x) * cells.per_x, 0.0), cells.last_x)
    v = min(max((y - cells.low_y) * cells.per_y, 0.0), cells.last_y)
    return np.int64(u), np.int64(v)


@njit()
def interpolate(theta: np.ndarray, triangulation: Triangulation) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (m,) int64, quantities (m, k) float64 at theta (m, 2); -1, NaN outside the hull."""
    coefficient, neighbours, grid, box = triangulation
    k, triangle = (coefficient.shape[1] - 6) // 3, np.empty(theta.shape[0], np.int64)
    out = np.full((theta.shape[0], k), np.nan)
    for p in range(theta.shape[0]):
        x, y = theta[p, 0], theta[p, 1]
        i, j = cell(x, y, box)
        t = np.int64(grid[i, j])
        t = t if t >= -1 else locate(x, y, coefficient, neighbours, -2 - t)
        triangle[p] = t
        if t >= 0:
            c0, c1 = weights(x, y, coefficient, t)
            for q in range(k):
                out[p, q] = (coefficient[t, 6 + q] + c0 * coefficient[t, 6 + k + q]
                             + c1 * coefficient[t, 6 + 2 * k + q])
    return triangle, out


@njit()
def build_grid(coefficient: np.ndarray, neighbours: np.ndarray, box: Cells) -> np.ndarray:
    """The look-up grid of a Triangulation.

    Triangles are convex: four corners in one put the whole cell there. A cell is outside for
    certain if all four corners lie beyond one and the same hull edge.
    """
    nx, ny = np.int64(box.last_x) + 1, np.int64(box.last_y) + 1
    corner = np.empty((nx + 1, ny + 1), np.int64)
    for i in range(nx + 1):
        t = np.int64(0)
        for j in range(ny + 1):
            corner[i, j] = locate(box.low_x + i / box.per_x, box.low_y + j / box.per_y,
                                  coefficient, neighbours, t)
            t = max(corner[i, j], np.int64(0))
    grid = np.full((nx, ny), -1, np.int32)
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            a, b, c, d = corner[i, j], corner[i + 1, j], corner[i, j + 1], corner[i + 1, j + 1]
            t = max(a, b, c, d)
            if t < 0 and _outside(i, j, coefficient, neighbours, box):
                continue
            if t >= 0 and a == b == c == d:
                grid[i, j] = t
            else:
                middle = locate(box.low_x + (i + 0.5) / box.per_x,
                                box.low_y + (j + 0.5) / box.per_y, coefficient, neighbours,
                                max(t, np.int64(0)))
                grid[i, j] = -2 - max(middle if middle >= 0 else t, np.int64(0))
    return grid


@njit()
def _outside(i, j, coefficient, neighbours, box):
    """Whether all four corners of cell (i, j) lie beyond one hull edge."""
    for t in range(coefficient.shape[0]):
        for k in range(3):
            if neighbours[t, k] >= 0:
                continue
            beyond = 0
            for a in range(4):
                c0, c1 = weights(box.low_x + (i + a // 2) / box.per_x,
                                 box.low_y + (j + a % 2) / box.per_y, coefficient, t)
                beyond += (c0 if k == 0 else c1 if k == 1 else 1.0 - c0 - c1) < -TOLERANCE
            if beyond == 4:
                return True
    return False


@njit(forceinline=True)
def log(x: float) -> float:
    """Natural logarithm of a positive normal number, within one unit in the last place.

    The fdlibm series (Sun Microsystems 1993) in arithmetic alone: unlike a call into the C library
    it inlines, vectorises, and gives the same bits when the JIT is off.
    """
    bits = np.float64(x).view(np.int64)
    k = (bits - _SQRT_HALF_BITS) >> _EXPONENT
    f = np.int64(bits - (k << _EXPONENT)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    t1 = w * (0.3999999999940941908 + w * (0.2222219843214978396 + w * 0.1531383769920937332))
    t2 = z * (0.6666666666666735130 + w * (0.2857142874366239149 + w * (
        0.1818357216161805012 + w * 0.1479819860511658591)))
    half = 0.5 * f * f
    return k * _LN2_HI - ((half - (s * (half + (t1 + t2)) + k * _LN2_LO)) - f)


@njit(forceinline=True)
def exp(x: float) -> float:
    """Exponential up to 700, as log(); that of -700 for all below (fdlibm's rational form)."""
    x = max(x, -700.0)
    k = np.int64(math.floor(x * _INV_LN2 + 0.5))
    high, low = x - k * _LN2_HI, k * _LN2_LO
    r = high - low
    z = r * r
    c = r - z * (1.66666666666666019037e-01 + z * (-2.77777777770155933842e-03 + z * (
        6.61375632143793436117e-05 + z * (
            -1.65339022054652515390e-06 + z * 4.13813679705723846039e-08))))
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    return y * np.int64((k + _BIAS) << _EXPONENT).view(np.float64)


@njit()
def log_densities(value: np.ndarray, summary: np.ndarray, work: np.ndarray,
                  out: np.ndarray) -> None:
    """log-prior plus log-likelihood of as many summaries as there are lanes, each at its own place.

    value: (1 + d + d (d + 1) / 2, lanes) float64, log-prior, mean, packed lower triangle of the
    covariance; NaN comes out if this is not positive definite; summary: (d, lanes) float64; work:
    (2 d + 2 + d (d + 1) / 2, lanes) float64, overwritten; out: (lanes,) float64, filled.
    Inner loops go over the lanes, in a few vector instructions: d = 10 took 153 ns a step, not 267.
    """
    d, lanes = summary.shape
    low, quadratic, log_det = 2 * d + 2, work[2 * d], work[2 * d + 1]
    work[2 * d:low] = 0.0
    for a in range(d):
        row = low + a * (a + 1) // 2
        z, mean, e = work[a], value[1 + a], summary[a]
        for l in range(lanes):
            z[l] = e[l] - mean[l]
        for b in range(a + 1):
            s, c = work[row + b], value[1 + d + a * (a + 1) // 2 + b]
            other = low + b * (b + 1) // 2
            for l in range(lanes):
                s[l] = c[l]
            for k in range(b):
                f, g = work[row + k], work[other + k]
                for l in range(lanes):
                    s[l] -= f[l] * g[l]
            inverse = work[d + b]
            if b < a:
                before = work[b]
                for l in range(lanes):
                    s[l] *= inverse[l]
                    z[l] -= s[l] * before[l]
            else:
                for l in range(lanes):
                    log_det[l] += log(s[l])
                    inverse[l] = 1.0 / math.sqrt(s[l])
                    z[l] *= inverse[l]
                    quadratic[l] += z[l] * z[l]
    for l in range(lanes):
        out[l] = value[0, l] - 0.5 * (quadratic[l] + log_det[l])
