"""Log-likelihood of a summary whose mean and covariance vary over the design, for any dimension d.

Gaussian: log L = -1/2 (r^T C^-1 r + ln det C) with r = summary - mean. Constants that depend on
neither the parameters nor the summary are left to the callers. Coefficients are those of
triangles.py. error_model="numpy": Python's, which checks each division for zero, keeps loops from
being vectorised.
"""
import math

import numpy as np
from numba import prange

from . import njit
from .triangles import interpolate_one

_SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)
_EXPONENT = np.int64(52)
_BIAS = np.int64(1023)
_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_INV_LN2 = 1.44269504088896338700


@njit(error_model="numpy", cache=True, forceinline=True)
def log(x: float) -> float:
    """Natural logarithm of a positive normal number, within one unit in the last place.

    The fdlibm series (Sun Microsystems 1993) in arithmetic alone: it inlines and vectorises, where
    a call into the C library does neither, and gives the same bits when the JIT is off.
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


@njit(error_model="numpy", cache=True, forceinline=True)
def exp(x: float) -> float:
    """Exponential of a number from -700 (taken for all below) to 700, within one unit in the last
    place.

    fdlibm's rational form, for the same reasons as log().
    """
    x = max(x, -700.0)
    k = np.int64(math.floor(x * _INV_LN2 + 0.5))
    high = x - k * _LN2_HI
    low = k * _LN2_LO
    r = high - low
    z = r * r
    c = r - z * (1.66666666666666019037e-01 + z * (-2.77777777770155933842e-03 + z * (
        6.61375632143793436117e-05 + z * (
            -1.65339022054652515390e-06 + z * 4.13813679705723846039e-08))))
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    return y * np.int64((k + _BIAS) << _EXPONENT).view(np.float64)


@njit(error_model="numpy", cache=True, forceinline=True)
def log_gaussian_2(r0: float, r1: float, c00: float, c10: float, c11: float) -> float:
    """-1/2 (r^T C^-1 r + ln det C) for a residual (r0, r1) and a covariance c00, c10, c11."""
    det = c00 * c11 - c10 * c10
    quadratic = (c11 * r0 * r0 - 2.0 * c10 * r0 * r1 + c00 * r1 * r1) / det
    return -0.5 * (quadratic + log(det))


@njit(error_model="numpy", cache=True, forceinline=True)
def log_gaussian(value: np.ndarray, summary: np.ndarray, i: int, work: np.ndarray) -> float:
    """log_gaussian_2 for any d, by Cholesky.

    value: (1 + d + d (d + 1) / 2,) float64, log-prior (unused), mean, packed lower triangle of the
        covariance.
    summary: (n, d) float64, of which row i.
    work: (d + 1, d) float64, overwritten.
    Returns float64, -inf if the covariance is not positive definite.
    """
    d = summary.shape[1]
    quadratic, log_det = 0.0, 0.0
    q = 1 + d
    for a in range(d):
        z = summary[i, a] - value[1 + a]
        pivot = 0.0
        for b in range(a + 1):
            s = value[q]
            q += 1
            for k in range(b):
                s -= work[a, k] * work[b, k]
            if b < a:
                s *= work[b, b]                      # the diagonal holds 1 / L_bb
                work[a, b] = s
                z -= s * work[d, b]
            else:
                pivot = s
        if not pivot > 0.0:
            return -math.inf
        inverse = 1.0 / math.sqrt(pivot)
        work[a, a] = inverse
        z *= inverse
        work[d, a] = z
        quadratic += z * z
        log_det += log(pivot)
    return -0.5 * (quadratic + log_det)


@njit(error_model="numpy", cache=True)
def log_densities(value: np.ndarray, summary: np.ndarray, work: np.ndarray,
                  out: np.ndarray) -> None:
    """log-prior plus log_gaussian of as many summaries as there are lanes, each at its own place.

    value: (1 + d + d (d + 1) / 2, lanes) float64, with positive definite covariances.
    summary: (d, lanes) float64.
    work: (2 d + 2 + d (d + 1) / 2, lanes) float64, overwritten.
    out: (lanes,) float64, filled.
    The loops over the lanes are the inner ones, so that each is a few vector instructions: d = 10
    took 153 ns a step in place of 267.
    """
    d, lanes = summary.shape
    low = 2 * d + 2
    quadratic, log_det = work[2 * d], work[2 * d + 1]
    for l in range(lanes):
        quadratic[l] = 0.0
        log_det[l] = 0.0
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


@njit(error_model="numpy", cache=True, forceinline=True)
def log_density(x: float, y: float, t: int, coefficient: np.ndarray, summary: np.ndarray, i: int,
                value: np.ndarray, work: np.ndarray) -> float:
    """Log-posterior (without constants) of a summary at (x, y) in triangle t; -inf if t is -1.

    coefficient: see triangles.py.
    summary: (n, d) float64, of which row i.
    value: (1 + d + d (d + 1) / 2,) float64, overwritten.
    work: (d + 1, d) float64, overwritten.
    Returns float64.
    """
    if t < 0:
        return -math.inf
    interpolate_one(x, y, t, coefficient, value)
    if summary.shape[1] != 2:
        return value[0] + log_gaussian(value, summary, i, work)
    r0, r1 = summary[i, 0] - value[1], summary[i, 1] - value[2]
    return value[0] + log_gaussian_2(r0, r1, value[3], value[4], value[5])


@njit(error_model="numpy", cache=True, parallel=True)
def log_density_all(theta: np.ndarray, triangle: np.ndarray, coefficient: np.ndarray,
                    summary: np.ndarray) -> np.ndarray:
    """log_density of every summary at every point.

    theta: (m, 2) float64.
    triangle: (m,) int64, -1 outside.
    coefficient: see triangles.py.
    summary: (k, d) float64.
    Returns (k, m) float64.
    """
    out = np.empty((summary.shape[0], theta.shape[0]))
    for i in prange(summary.shape[0]):
        work = np.empty((summary.shape[1] + 1, summary.shape[1]))
        value = np.empty((coefficient.shape[1] - 6) // 3)
        for j in range(theta.shape[0]):
            out[i, j] = log_density(theta[j, 0], theta[j, 1], triangle[j], coefficient, summary, i,
                                    value, work)
    return out
