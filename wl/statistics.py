"""Predictions or summaries of maps -> mean, covariance and count per cosmology, raw or smoothed.

A few realisations give each cosmology a noisy mean and covariance; both vary slowly over the design.
Smoothing fits one polynomial in theta to all cosmologies at once, its order chosen by how well it
predicts realisations that were left out; with many realisations the choice falls on no smoothing.
"""
import numpy as np

from .checks import InputError

ORDERS = (1, 2, 3, 4, 5)               # of the polynomials tried for the mean
SPREAD_ORDERS = (0, 1, 2, 3)           # and for the covariance
RAW = -1                               # no smoothing, in place of an order


def per_cosmology(estimate):
    """Mean and covariance of each cosmology's realisations.

    estimate: (n_cosmology, n_realisation, d) float64. The covariance is the scatter divided by
    N - d - 2, which makes its inverse unbiased (Hartlap et al. 2007, A&A 464, 399). Returns mean
    (n_cosmology, d), covariance (n_cosmology, d, d), count (n_cosmology,) int64. Raises InputError
    when there are too few realisations.
    """
    n_cosmology, n, d = estimate.shape
    if n - d - 2 <= 0:
        raise InputError(f"covariance of {d} summaries: expected at least {d + 3} realisations per cosmology, got {n}; "
                         "simulate more, raise --statistics-fraction, or leave --smooth on auto")
    mean = estimate.mean(1)
    residual = estimate - mean[:, None]
    return mean, np.einsum("cri,crj->cij", residual, residual) / (n - d - 2), np.full(n_cosmology, n, np.int64)


def smoothed(theta, estimate, smooth="auto", seed=0):
    """Mean and covariance over the design, as smooth as cross-validation finds best.

    theta: (n_cosmology, 2); estimate: (n_cosmology, n_realisation, d); smooth: "auto", "none", or
    "always" (never raw). Returns mean, covariance, count, and the orders chosen: dict with "mean" and
    "covariance" (-1: raw) and "gain", the cross-validated log-likelihood per map over the raw one, or
    over the lowest orders where raw is impossible. Raises InputError.
    """
    n_cosmology, n, d = estimate.shape
    possible = n - d - 2 > 0
    if smooth == "none":
        return (*per_cosmology(estimate), {"mean": RAW, "covariance": RAW, "gain": 0.0})
    if n < 2:
        raise InputError(f"covariance: expected at least 2 realisations per cosmology, got {n}; simulate more")
    if n_cosmology < 4:
        if not possible:
            per_cosmology(estimate)
        return (*per_cosmology(estimate), {"mean": RAW, "covariance": RAW, "gain": 0.0})
    u = _whiten(theta)
    folds = _folds(n, seed)
    fewest = min(n - len(f) for f in folds)
    raw = [RAW] if smooth == "auto" and fewest - d - 2 > 0 else []
    orders = raw + [o for o in ORDERS if _terms(o) <= n_cosmology // 2]
    spread_orders = raw + [o for o in SPREAD_ORDERS if _terms(o) <= n_cosmology // 2]
    spread = next((o for o in (1, 0) if o in spread_orders), RAW)
    scores = {}
    for order in orders:
        scores[order, spread] = _cross_validate(u, estimate, folds, order, spread)
    order = max(orders, key=lambda o: scores[o, spread])
    for other in spread_orders:
        if (order, other) not in scores:
            scores[order, other] = _cross_validate(u, estimate, folds, order, other)
    best = max((k for k in scores if k[0] == order), key=scores.get)
    start = (RAW, RAW) if (RAW, RAW) in scores else (orders[0], spread)
    if raw and (RAW, RAW) not in scores:
        scores[RAW, RAW] = _cross_validate(u, estimate, folds, RAW, RAW)
        start = (RAW, RAW)
    if scores[start] > scores[best]:
        best = start
    mean, covariance = _fit(u, estimate, *best)
    return mean, covariance, np.full(n_cosmology, n, np.int64), {
        "mean": best[0], "covariance": best[1], "gain": float(scores[best] - scores[start])}


def _whiten(theta):
    """Parameters centred and scaled to the design, (n, 2)."""
    return (theta - theta.mean(0)) / theta.std(0)


def _terms(order):
    return (order + 1) * (order + 2) // 2


def _polynomials(u, order):
    """Products of Legendre polynomials up to a total order, (n, terms); u: (n, 2)."""
    x = u / np.abs(u).max(0)
    powers = np.polynomial.legendre.legvander(x, order) if order > 0 else np.ones((*x.shape, 1))
    return np.stack([powers[:, 0, i] * powers[:, 1, j] for i in range(order + 1) for j in range(order + 1 - i)], 1)


def _folds(n, seed, count=4):
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(110,))).permutation(n)
    return np.array_split(order, min(count, n))


def _fit(u, estimate, order, spread):
    """Mean and covariance at the design's points from a polynomial of each order, or raw."""
    n_cosmology, n, d = estimate.shape
    local = estimate.mean(1)
    basis, mean = None, local
    if order != RAW:
        basis = _polynomials(u, order)
        mean = basis @ np.linalg.lstsq(basis, local, rcond=None)[0]
        for _ in range(2):             # weights by the scatter change over the design: twice is converged
            weight = 1.0 / np.sqrt(_variances(u, estimate - mean[:, None]))
            mean = np.stack([basis @ np.linalg.lstsq(basis * weight[:, k:k + 1], local[:, k] * weight[:, k],
                                                     rcond=None)[0] for k in range(d)], 1)
    residual = estimate - mean[:, None]
    if spread == RAW:
        if order == RAW:
            return mean, per_cosmology(estimate)[1]
        return mean, np.einsum("cri,crj->cij", residual, residual) / (n - d - 2)
    lost = n_cosmology if order == RAW else basis.shape[1]
    return mean, _smooth_covariance(u, residual, spread, n_cosmology * n / (n_cosmology * n - lost))


def _variances(u, residual):
    """Smooth variance of each summary, (n_cosmology, d), for use as weights."""
    return np.stack([_log_linear(_polynomials(u, 1), (residual[:, :, k]**2).mean(1))
                     for k in range(residual.shape[2])], 1)


def _smooth_covariance(u, residual, order, correction):
    """Covariance whose modified Cholesky factors are polynomials (Pourahmadi 1999, Biometrika 86, 677).

    residual: (n_cosmology, n, d). Each summary is regressed on those before it with coefficients that
    vary over the design, the variance left over follows a log-linear model; both are of the greatest
    likelihood, and the result is positive definite whatever the coefficients. correction: for the degrees
    of freedom that the mean took. Returns (n_cosmology, d, d).
    """
    n_cosmology, n, d = residual.shape
    basis = _polynomials(u, order)
    flat = residual.reshape(-1, d)
    rows = np.repeat(basis, n, axis=0)
    lower, diagonal = np.broadcast_to(np.eye(d), (n_cosmology, d, d)).copy(), np.empty((n_cosmology, d))
    for k in range(d):
        left = flat[:, k]
        terms = min(order, 1)                       # slopes vary more slowly than variances
        slope_basis = _polynomials(u, terms)
        slope_rows = np.repeat(slope_basis, n, axis=0)
        if k > 0:
            design = (flat[:, :k, None] * slope_rows[:, None, :]).reshape(len(flat), -1)
            for _ in range(2):
                weight = 1.0 / np.sqrt(np.repeat(_log_linear(basis, (left**2).reshape(n_cosmology, n).mean(1)), n))
                slopes = np.linalg.lstsq(design * weight[:, None], flat[:, k] * weight, rcond=None)[0]
                left = flat[:, k] - design @ slopes
            lower[:, k, :k] = -np.einsum("ct,jt->cj", slope_basis, slopes.reshape(k, -1))
        lost = k * slope_basis.shape[1] + rows.shape[1]
        diagonal[:, k] = _log_linear(basis, (left**2).reshape(n_cosmology, n).mean(1)) * correction \
            * len(flat) / max(len(flat) - lost, 1)
    inverse = np.linalg.inv(lower)
    return np.einsum("cik,ck,cjk->cij", inverse, diagonal, inverse)


def _log_linear(basis, power):
    """Variance exp(basis @ c) of the greatest Gaussian likelihood, by Fisher scoring.

    basis: (n, terms); power: (n,) mean squares. Returns (n,).
    """
    floor = 1e-12 * power.mean() + 1e-300
    c = np.linalg.lstsq(basis, np.log(np.maximum(power, floor)), rcond=None)[0]
    c[0] += np.log(np.mean(power / np.exp(basis @ c)))          # basis[:, 0] is one
    for _ in range(30):
        step = np.linalg.lstsq(basis, power / np.exp(basis @ c) - 1.0, rcond=None)[0]
        c = c + step * min(1.0, 2.0 / (np.abs(basis @ step).max() + 1e-300))
        if np.abs(step).max() < 1e-8:
            break
    return np.exp(basis @ c)


def _cross_validate(u, estimate, folds, order, spread):
    """Mean log-likelihood per map of realisations left out of the fit."""
    total, everything = 0.0, np.arange(estimate.shape[1])
    for fold in folds:
        mean, covariance = _fit(u, estimate[:, np.setdiff1d(everything, fold)], order, spread)
        residual = estimate[:, fold] - mean[:, None]
        sign, log_det = np.linalg.slogdet(covariance)
        if (sign <= 0).any():
            return -np.inf
        chi2 = np.einsum("cri,cij,crj->cr", residual, np.linalg.inv(covariance), residual)
        total -= 0.5 * (chi2 + log_det[:, None]).sum()
    return total / (estimate.shape[0] * estimate.shape[1])
