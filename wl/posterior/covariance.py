"""Summaries of maps -> mean and covariance per cosmology, raw or smoothed.

Both vary slowly over the design: smoothing fits one polynomial in theta to all cosmologies, of the
order that best predicts realisations left out; with many realisations that is no smoothing.
"""
import functools

import numpy as np

from ..core import seeds
from ..core.checks import InputError, array, choice

SMOOTHS = ("auto", "none", "always")
ORDERS = (1, 2, 3, 4, 5)               # of the polynomials tried for the mean
SPREAD_ORDERS = (0, 1, 2, 3)           # and for the covariance
RAW = -1                               # no smoothing, in place of an order
N_FOLDS = 4                            # of the cross-validation
MIN_EIGENVALUE = 1e-10                 # of a correlation matrix that is not singular
MORE = "simulate more, or raise --emulator-fraction"


def per_cosmology(summary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n, d) and covariance (n, d, d) float64 of summaries (n, realisations, d).

    The covariance is the scatter divided by N - d - 2, which makes its inverse unbiased (Hartlap et
    al. 2007, A&A 464, 399). Raises InputError when there are too few realisations.
    """
    check_count(*summary.shape[1:])
    return _fit(None, summary, RAW, RAW)


def as_average(summary: np.ndarray, between: np.ndarray, folds: int) -> np.ndarray:
    """Out-of-fold predictions that scatter like the mean of all networks, which test maps get.

    All networks see a part of scatter C, each adds one of scatter B: S = C + B out of fold, and
    C + B / K = S - (1 - 1/K) B in their mean. A symmetric matrix takes S, the mean over the design,
    to that; it multiplies the residuals about each cosmology's mean. Returns an array like summary.
    summary: (n_cosmology, n_realisation, d) float64, each map by the network of its own fold.
    between: (d, d) float64, B: covariance between the networks for the same map; folds: int, K.
    """
    n_cosmology, n, d = summary.shape
    mean = summary.mean(1, keepdims=True)
    residual = summary - mean
    scatter = np.einsum("cri,crj->ij", residual, residual) / (n_cosmology * max(n - 1, 1))
    power, axes = np.linalg.eigh(scatter)
    if power[0] <= 0:
        return summary                 # summaries that do not vary are refused where they are used
    root, inverse = (axes * power**0.5) @ axes.T, (axes * power**-0.5) @ axes.T
    share, axes = np.linalg.eigh(inverse @ between @ inverse)
    factor = np.sqrt(1.0 - (1.0 - 1.0 / folds) * np.clip(share, 0.0, 1.0))
    return mean + residual @ (root @ (axes * factor) @ axes.T @ inverse).T


def check_count(n: int, d: int) -> None:
    """Raise InputError if n realisations are too few for a raw covariance of d summaries."""
    if n - d - 2 <= 0:
        raise InputError(f"covariance of {d} summaries: expected at least {d + 3} realisations per "
                         f"cosmology, got {n}; {MORE}, or leave --smooth on auto")


def smoothed(theta: np.ndarray, summary: np.ndarray, smooth: str = "auto",
             seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict]:
    """Mean and covariance over the design, as smooth as cross-validation finds best.

    theta: (n_cosmology, 2), summary: (n_cosmology, n_realisation, d) float64.
    smooth, seed: "auto", "none", or "always" (raw only where the design is too small for a
        polynomial); int, of the cross-validation's folds.
    Returns mean and covariance as per_cosmology(), and the choice: orders "mean", "covariance"
    (-1: raw), and "gain", cross-validated log-likelihood per map over the raw or lowest ones.
    Raises InputError for too few realisations, or summaries that do not vary.
    """
    choice("--smooth", smooth, SMOOTHS)
    _, n, d = array("summary", summary, (len(theta), None, None), "f",
                    advice="make the predictions again").shape
    if smooth == "none":
        return *per_cosmology(summary), {"mean": RAW, "covariance": RAW, "gain": 0.0}
    if n < 2:
        raise InputError(f"covariance: expected at least 2 maps a cosmology, got {n}; {MORE}")
    residual = (summary - summary.mean(1, keepdims=True)).reshape(-1, d)
    unit = np.sqrt((residual**2).mean(0))                # scatter about a cosmology's mean
    dead = unit <= 1e-10 * np.abs(summary).max((0, 1))
    if not dead.any() and len(residual) - len(theta) > d:
        residual /= unit
        dead = np.linalg.eigvalsh(residual.T @ residual / len(residual))[:1] < MIN_EIGENVALUE
    if dead.any():
        raise InputError(f"covariance of {d} summaries: expected summaries that all vary, got a "
                         "singular covariance; one is constant, or follows from others")
    centre, u = summary.mean((0, 1)), theta - theta.mean(0)
    scaled, u = (summary - centre) / unit, u / np.maximum(np.abs(u).max(0), 1e-300)
    shuffled = seeds.generator(seed, seeds.COVARIANCE_FOLDS).permutation(n)
    order, spread, gain = _choose(u, scaled, np.array_split(shuffled, min(N_FOLDS, n)), smooth)
    found = {"mean": order, "covariance": spread, "gain": float(gain)}
    if (order, spread) == (RAW, RAW):
        return *per_cosmology(summary), found
    mean, covariance = _fit(u, scaled, order, spread)
    return centre + unit * mean, covariance * np.outer(unit, unit), found


def _choose(u, summary, folds, smooth):
    """Orders of mean (with a plain covariance), then covariance, that predict best; their gain."""
    n_cosmology, n, d = summary.shape
    left = n - max(len(f) for f in folds)
    polynomials, spreads = ([o for o in tried if _terms(o) <= max(n_cosmology // 2, 1)]
                            for tried in (ORDERS, SPREAD_ORDERS))
    orders = [RAW] * (smooth == "auto" or not polynomials) + polynomials
    spreads = [RAW] * (smooth == "auto") + spreads
    possible = {(o, s) for o in orders for s in spreads if _freedom(n_cosmology, left, d, o, s) > 0}
    score = functools.cache(lambda pair: _cross_validate(u, summary, folds, *pair))
    trials = next(filter(None, ([(o, base) for o in orders if (o, base) in possible]
                                for base in (1, 0, *spreads))), None)
    if trials is None:
        raise InputError(f"covariance of {d} summaries: expected more than {n} realisations of "
                         f"{n_cosmology} cosmologies, even for a smooth one; {MORE}")
    order, _ = max(trials, key=score)
    reference = (RAW, RAW) if (RAW, RAW) in possible else trials[0]
    chosen = max([reference, *((order, s) for s in spreads if (order, s) in possible)], key=score)
    return *chosen, score(chosen) - score(reference) if score(reference) > -np.inf else 0.0


def _freedom(n_cosmology, n, d, order, spread):
    lost = n_cosmology if order == RAW else _terms(order)
    if spread == RAW:
        return n - lost / n_cosmology - d - 1
    return n_cosmology * n - lost - (d - 1) * _terms(min(spread, 1)) - _terms(spread)


def _terms(order):
    return (order + 1) * (order + 2) // 2


def _polynomials(u, order):
    """Products of Legendre polynomials up to a total order, (n, terms); u: (n, 2)."""
    powers = np.polynomial.legendre.legvander(u, order)
    return np.stack([powers[:, 0, i] * powers[:, 1, j]
                     for i in range(order + 1) for j in range(order + 1 - i)], 1)


def _fit(u, summary, order, spread):
    """Mean and covariance at the design's points from a polynomial of each order, or raw."""
    n_cosmology, n, d = summary.shape
    local = summary.mean(1)
    mean, lost = local, n_cosmology
    if order != RAW:
        basis, lost = _polynomials(u, order), _terms(order)
        mean = basis @ np.linalg.lstsq(basis, local)[0]
        for _ in range(2):     # weights by the scatter change over the design: twice is converged
            weight = 1.0 / np.sqrt(_variances(_polynomials(u, 1), summary - mean[:, None]))
            mean = np.stack([basis @ np.linalg.lstsq(basis * w[:, None], y * w)[0]
                             for w, y in zip(weight.T, local.T)], 1)
    residual = summary - mean[:, None]
    if spread == RAW:
        # about a mean that took a share h of a degree of freedom, the scatter has n - h of them;
        # its inverse is unbiased after division by n - h - d - 1, for a raw mean n - d - 2
        return mean, (np.einsum("cri,crj->cij", residual, residual)
                      / _freedom(n_cosmology, n, d, order, RAW))
    return mean, _smooth_covariance(u, residual, spread, n_cosmology * n / (n_cosmology * n - lost))


def _variances(basis, residual):
    return np.stack([_log_linear(basis, (residual[:, :, k]**2).mean(1))
                     for k in range(residual.shape[2])], 1)


def _smooth_covariance(u, residual, order, correction):
    """Covariances whose modified Cholesky factors are polynomials (Pourahmadi 1999, Biomet. 86)."""
    n_cosmology, n, d = residual.shape
    basis, slope_basis = (_polynomials(u, o) for o in (order, min(order, 1)))   # slopes vary less
    # without this division a slope follows the ratio of two sd, of a factor of ten over the design
    sd = np.sqrt(_variances(basis, residual))
    flat, slope_rows = (residual / sd[:, None]).reshape(-1, d), np.repeat(slope_basis, n, axis=0)
    lower, diagonal = np.tile(np.eye(d), (n_cosmology, 1, 1)), np.empty((n_cosmology, d))
    for k in range(d):
        left = flat[:, k]
        variance = _variances(basis, left.reshape(n_cosmology, n, 1))[:, 0]
        if k > 0:
            design = (flat[:, :k, None] * slope_rows[:, None, :]).reshape(len(flat), -1)
            for _ in range(2):
                weight = 1.0 / np.sqrt(np.repeat(variance, n))
                slopes = np.linalg.lstsq(design * weight[:, None], flat[:, k] * weight)[0]
                left = flat[:, k] - design @ slopes
                variance = _variances(basis, left.reshape(n_cosmology, n, 1))[:, 0]
            lower[:, k, :k] = -np.einsum("ct,jt->cj", slope_basis, slopes.reshape(k, -1))
        lost = k * slope_basis.shape[1] + basis.shape[1]
        diagonal[:, k] = variance * correction * len(flat) / (len(flat) - lost)
    factor = sd[:, :, None] * np.linalg.inv(lower)
    return np.einsum("cik,ck,cjk->cij", factor, diagonal, factor)


def _log_linear(basis, power):
    """Variance (n,) = exp(basis @ c) of greatest likelihood for mean squares, by Fisher scoring."""
    inverse = np.linalg.pinv(basis)
    log_variance = basis @ (inverse @ np.log(np.maximum(power, 1e-12 * power.mean() + 1e-300)))
    log_variance += np.log(np.mean(power * np.exp(-log_variance)))
    cost = np.sum(log_variance + power * np.exp(-log_variance))
    for _ in range(100):
        step = basis @ (inverse @ (power * np.exp(-log_variance) - 1.0))
        size = min(1.0, 2.0 / (np.abs(step).max() + 1e-300))
        while size > 1e-6:         # full steps swing about the maximum where powers are uneven
            trial = log_variance + size * step
            new = np.sum(trial + power * np.exp(-trial))
            if new <= cost:
                break
            size *= 0.5
        else:
            break
        log_variance, cost = trial, new
        if np.abs(step).max() < 1e-8:
            break
    return np.exp(log_variance)


def _cross_validate(u, summary, folds, order, spread):
    """Mean log-likelihood per map of realisations left out of the fit."""
    total = 0.0
    for fold in folds:
        mean, covariance = _fit(u, np.delete(summary, fold, axis=1), order, spread)
        residual = summary[:, fold] - mean[:, None]
        sign, log_det = np.linalg.slogdet(covariance)
        if (sign <= 0).any():
            return -np.inf
        chi2 = np.einsum("cri,cij,crj->cr", residual, np.linalg.inv(covariance), residual)
        total -= 0.5 * (chi2 + log_det[:, None]).sum()
    return total / summary[..., 0].size
