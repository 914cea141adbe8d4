"""Gaussian log-likelihood of a summary whose mean and covariance vary over the design.

log L = -1/2 (r^T C^-1 r + ln det C) with r = estimate - mean, for any dimension d; d = 2 is written
out. The constant -d/2 ln 2 pi is left to the callers. Coefficients are those of triangles.py.
"""
import math

import numpy as np
from numba import njit

from .triangles import find, weights

_SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)
_EXPONENT = np.int64(52)
_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@njit(cache=True, forceinline=True)
def log(x):
    """Natural logarithm of a positive normal number, within one unit in the last place.

    The fdlibm series (Sun Microsystems 1993) in arithmetic alone: it inlines and vectorises, where a
    call into the C library does neither, and gives the same bits when the JIT is off.
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


@njit(cache=True, forceinline=True)
def log_density_2(c0, c1, coefficient, t, e0, e1):
    """Log-prior + log-likelihood for d = 2 at barycentric weights c0, c1 of triangle t.

    e0, e1: the summary. Returns float64.
    """
    prior = coefficient[t, 6] + c0 * coefficient[t, 7] + c1 * coefficient[t, 8]
    r0 = e0 - (coefficient[t, 9] + c0 * coefficient[t, 10] + c1 * coefficient[t, 11])
    r1 = e1 - (coefficient[t, 12] + c0 * coefficient[t, 13] + c1 * coefficient[t, 14])
    c00 = coefficient[t, 15] + c0 * coefficient[t, 16] + c1 * coefficient[t, 17]
    c10 = coefficient[t, 18] + c0 * coefficient[t, 19] + c1 * coefficient[t, 20]
    c11 = coefficient[t, 21] + c0 * coefficient[t, 22] + c1 * coefficient[t, 23]
    det = c00 * c11 - c10 * c10
    quadratic = (c11 * r0 * r0 - 2.0 * c10 * r0 * r1 + c00 * r1 * r1) / det
    return prior - 0.5 * (quadratic + log(det))


@njit(cache=True, forceinline=True)
def log_density_d(c0, c1, coefficient, t, estimate, i, work):
    """log_density_2 for any d, by Cholesky.

    estimate: (n, d) float64, of which row i; work: (d + 1, d) float64, overwritten.
    Returns float64, -inf if the covariance is not positive definite.
    """
    d = estimate.shape[1]
    quadratic, log_det = 0.0, 0.0
    q = 9 + 3 * d                                    # the packed covariance begins here
    for a in range(d):
        z = estimate[i, a] - (coefficient[t, 9 + 3 * a] + c0 * coefficient[t, 10 + 3 * a]
                              + c1 * coefficient[t, 11 + 3 * a])
        pivot = 0.0
        for b in range(a + 1):
            s = coefficient[t, q] + c0 * coefficient[t, q + 1] + c1 * coefficient[t, q + 2]
            q += 3
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
    return (coefficient[t, 6] + c0 * coefficient[t, 7] + c1 * coefficient[t, 8]
            - 0.5 * (quadratic + log_det))


@njit(cache=True, forceinline=True)
def log_density(x, y, coefficient, neighbours, grid, box, estimate, i, work):
    """Log-posterior (without constants) of summary i at (x, y); -inf outside the hull."""
    t = find(x, y, coefficient, neighbours, grid, box)
    if t < 0:
        return -math.inf
    c0, c1 = weights(x, y, coefficient, t)
    if estimate.shape[1] == 2:
        return log_density_2(c0, c1, coefficient, t, estimate[i, 0], estimate[i, 1])
    return log_density_d(c0, c1, coefficient, t, estimate, i, work)


@njit(cache=True)
def log_density_all(theta, coefficient, neighbours, grid, box, estimate):
    """log_density of every summary at every point.

    theta: (m, 2) float64; estimate: (k, d) float64. Returns (k, m) float64.
    """
    work = np.empty((estimate.shape[1] + 1, estimate.shape[1]))
    out = np.empty((estimate.shape[0], theta.shape[0]))
    for i in range(estimate.shape[0]):
        for j in range(theta.shape[0]):
            out[i, j] = log_density(theta[j, 0], theta[j, 1], coefficient, neighbours, grid, box,
                                    estimate, i, work)
    return out
