"""Posteriors of Omega_m and S_8 for many maps: Metropolis chains, or quadrature as the exact answer.

    chains = metropolis(emulator, estimate, nstep=10000, sigma=0.06)
    chains.mean, chains.sd, chains.acceptance
    truth = exact(emulator, estimate)
"""
import dataclasses

import numba
import numpy as np
from scipy import special

from ..core import checks
from ..core.checks import InputError
from .emulator import estimates
from ..kernels import metropolis as kernels, quadrature as quadrature_kernels
from .quadrature import Tables, survey

BATCHES = 32           # of a chain, for its autocorrelation time
WORK = 2e7             # steps of one thread between two reports of progress, half a second
STORED = 500           # draws kept of each chain unless `thin` says otherwise: R-hat and ESS cost a tenth of the walk
LEAST_ADAPTED = kernels.ADAPTATIONS * kernels.AHEAD        # steps of burn-in to learn a proposal from
ORDER = 8              # of the quadrature
# orders for maps whose best chi2 on the design lies in a range: far out the posterior falls off steeply
FINER = ((1, -np.inf, 40.0), (2, 40.0, 400.0), (4, 400.0, np.inf))
DISPERSION = 0.5       # how far towards another cosmology of the design further chains start


@dataclasses.dataclass
class Chains:
    """Posterior summaries of n maps; NaN where a quantity has no meaning for the method.

    mean, sd, q2_5, q16, q50, q84, q97_5 (n, 2): Omega_m, S_8; correlation (n,); acceptance (n,) among
    the kept steps; ess, rhat (n, 2): bulk ESS and rank-normalised split R-hat of the kept draws (Vehtari et
    al. 2021); tau (n, 2): autocorrelation time in steps, by batch means of all steps; edge (n,) ln of the
    highest density on the hull's edge relative to the highest anywhere; contour, area (n, 2): ln of the
    posterior density at the edge of the smallest regions that hold 68.3 and 95.4 %, and their areas;
    log_evidence (n,); draws (k, chains, m, 2) and lp (k, chains, m) of the first k maps.
    """
    mean: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    q2_5: np.ndarray
    q16: np.ndarray
    q50: np.ndarray
    q84: np.ndarray
    q97_5: np.ndarray
    acceptance: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    tau: np.ndarray
    edge: np.ndarray
    contour: np.ndarray
    area: np.ndarray
    log_evidence: np.ndarray
    draws: np.ndarray
    lp: np.ndarray


def join(parts):
    """Chains of several groups of maps as one; those that keep draws have to come first."""
    return Chains(*(np.concatenate([getattr(part, field.name) for part in parts])
                    for field in dataclasses.fields(Chains)))


def metropolis(emulator, estimate, *, nstep, sigma, burn_in=0.2, chains=1, seed=0, map_index=None,
               draws=0, thin=None, start=None, guess=None, adapt=False, progress=None, block=None):
    """Random-walk Metropolis for every map (Metropolis et al. 1953), all maps in one kernel.

    emulator: of emulator.build(); estimate: (n, d) float64 summaries; nstep: steps of each chain;
    sigma: width of the isotropic Gaussian proposal in Omega_m and S_8; burn_in: fraction of the steps
    that is dropped; chains: of each map; seed: int; map_index: (n,) int, global index of each map,
    which alone decides its random numbers (0 ... n-1 if None); thin: steps between the kept draws, which
    R-hat and ESS are made of (None: 500 draws a chain or a few more); draws: how many maps, from the first,
    return theirs; start: (n, 2) first points of every map's first chain (None: the design's point of
    highest posterior); guess: (n, 2) or None, the same where it lies in the hull; adapt: learn the
    proposal of each chain in its burn-in, beginning with sigma; progress: an object with update(maps), or
    None; block: maps between two calls of it (no result depends on it). Memory does not grow with nstep:
    a map's draws are reduced as soon as its chains end.
    Returns Chains. Raises InputError for settings or summaries that make no sense.
    """
    estimate = estimates(estimate, emulator.d)
    n = len(estimate)
    nstep = checks.positive("nstep", nstep, integer=True)
    sigma = checks.positive("sigma", sigma)
    chains = checks.positive("chains", chains, integer=True)
    threads = numba.get_num_threads()
    block = (max(4 * threads * kernels.LANES, int(WORK * threads / (nstep * chains))) if block is None
             else checks.positive("block", block, integer=True))
    burn_in = float(burn_in)
    if not 0.0 <= burn_in < 1.0:
        raise InputError(f"burn-in: expected a fraction from 0 to below 1, got {burn_in}")
    if nstep * chains >= 2**31:
        raise InputError(f"nstep: expected fewer than {2**31} steps for all chains of a map, "
                         f"got {nstep} x {chains}")
    index = _map_index(map_index, n)
    burn = int(burn_in * nstep)
    if adapt and burn < LEAST_ADAPTED:
        raise InputError(f"adapt: expected at least {LEAST_ADAPTED} steps of burn-in to learn a proposal from, "
                         f"got {burn}; raise nstep")
    kept = nstep - burn
    thin = max(kept // STORED, 1) if thin is None else checks.positive("thin", thin, integer=True)
    stored = min(max(int(draws), 0), n)
    batches = BATCHES if kept >= 2 * BATCHES else 1
    edges = burn + np.arange(batches + 1, dtype=np.int64) * kept // batches
    best, edge, _ = survey(emulator, estimate)
    begin = starts(emulator, best, chains, seed, index, start, guess)
    limits = np.ascontiguousarray(emulator.limits)

    sums = np.empty((n, chains, batches, kernels.SUMS))
    accepted = np.empty((n, chains), np.int64)
    quantiles = np.empty((n, 2, len(kernels.LEVELS)))
    mixing = np.empty((n, 2, 2))
    kept_draws = np.empty((stored, chains, kept // thin, 2))
    lp = np.empty((stored, chains, kept // thin))
    scores = normal_scores(2 * chains * (kept // thin // 2))
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        kernels.metropolis(
            *emulator.arrays, limits, estimate[part], emulator.count, begin[part], index[part],
            np.uint64(seed % 2**64), sigma, bool(adapt), edges, np.int64(thin), scores, sums[part],
            accepted[part], quantiles[part], mixing[part], kept_draws[first:part.stop], lp[first:part.stop])
        if progress is not None:
            progress.update(part.stop - first)
    mean, covariance = _moments(sums, kept, begin[:, :, None])
    sd, correlation = _spread(covariance)
    nan = np.full((n, 2), np.nan)
    return Chains(mean, sd, correlation, *np.moveaxis(quantiles, 2, 0), accepted.mean(axis=1) / kept,
                  mixing[:, :, 1], mixing[:, :, 0], autocorrelation_time(sums, np.diff(edges), begin), edge,
                  nan, nan, nan[:, 0], kept_draws, lp)


def exact(emulator, estimate, order=ORDER):
    """The posterior of every map by Gauss quadrature in each triangle of the design.

    Mean, covariance and log-prior are linear inside a triangle, so the posterior is smooth there and
    converges exponentially with the order. emulator: of emulator.build(); estimate: (n, d) float64;
    order: points per side of a triangle of usual size (quadrature.sides). The marginal densities that
    the quantiles need are integrals along quadrature.LINES lines for each parameter.
    Returns Chains with NaN for acceptance, ess, rhat and tau, and no draws. Raises InputError.
    """
    estimate = estimates(estimate, emulator.d)
    order = checks.positive("order", order, integer=True)
    _, edge, chi2 = survey(emulator, estimate)
    n = len(estimate)
    results = np.empty((n, 6)), np.empty((n, 2, len(kernels.LEVELS))), np.empty((n, 2, 2))
    limits = np.ascontiguousarray(emulator.limits)
    for factor, low, high in FINER:
        some = np.flatnonzero((chi2 >= low) & (chi2 < high))
        if some.size:
            tables = Tables(emulator, factor * order)
            part = [np.empty((some.size,) + result.shape[1:]) for result in results]
            quadrature_kernels.quadrature(*tables.arrays, limits, estimate[some], emulator.count, *part)
            part[0][:, :2] += tables.centre
            for result, values in zip(results, part):
                result[some] = values
    moments, quantiles, regions = results
    covariance = np.stack([moments[:, [2, 4]], moments[:, [4, 3]]], axis=1)
    sd, correlation = _spread(covariance)
    nan = np.full((n, 2), np.nan)
    return Chains(moments[:, :2], sd, correlation, *np.moveaxis(quantiles, 2, 0), nan[:, 0], nan, nan, nan, edge,
                  regions[:, :, 0], regions[:, :, 1], moments[:, 5] + emulator.log_constant,
                  np.empty((0, 1, 0, 2)), np.empty((0, 1, 0)))


def quadrature_error(emulator, estimate, orders=(6, ORDER), against=12, maps=64):
    """How far exact() has converged: its largest difference from a higher order.

    estimate: (n, d), of which at most `maps`, at even distances, are looked at. Returns (len(orders),)
    float64, the largest difference of a mean or sd from order `against`, in units of the sd; NaN without maps.
    """
    some = np.unique(np.linspace(0, len(estimate) - 1, maps).astype(int)) if len(estimate) else []
    if not len(some):
        return np.full(len(orders), np.nan)
    best = exact(emulator, estimate[some], against)
    parts = [exact(emulator, estimate[some], order) for order in orders]
    return np.array([max(np.abs((p.mean - best.mean) / best.sd).max(), np.abs(p.sd / best.sd - 1.0).max())
                     for p in parts])


def starts(emulator, best, chains, seed, index, start=None, guess=None):
    """Where each chain begins, inside the hull.

    The first chain of a map begins at start (n, 2); else at guess (n, 2), drawn a thousandth towards the
    centre, where that lies in the hull; else at the design's point best (n,) int, drawn likewise (a corner
    of the hull is on its edge). Further ones begin DISPERSION of the way from there to a random cosmology
    of the design, which the convex hull holds.
    Returns (n, chains, 2) float64.
    """
    centre = emulator.theta.mean(axis=0)
    inner = emulator.theta + 1e-3 * (centre - emulator.theta)
    if start is None:
        start = inner[best]
        if guess is not None:
            within = emulator.contains(guess)
            start[within] = guess[within] + 1e-3 * (centre - guess[within])
    else:
        start = checks.array("start", np.asarray(start, dtype=np.float64), (len(best), 2))
        outside = np.flatnonzero(~emulator.contains(start))
        if outside.size:
            raise InputError(f"start: map {outside[0]} begins at {start[outside[0]]}, outside of the "
                             "design's hull; begin inside")
    begin = np.repeat(start[:, None], chains, axis=1)
    if chains > 1:
        for i, m in enumerate(index):
            rng = np.random.default_rng((seed % 2**64, int(m)))
            other = inner[rng.integers(len(inner), size=chains - 1)]
            begin[i, 1:] += DISPERSION * (other - begin[i, 1:])
    return np.ascontiguousarray(begin)


def autocorrelation_time(sums, size, begin):
    """Integrated autocorrelation time in steps, by batch means, from sums over batches of all steps.

    sums: (n, chains, batches, 5) float64, relative to begin (n, chains, 2); size: (batches,) steps.
    b var(batch means) / var over the batches of all chains (Flegal & Jones 2010), at least 1. It tells the
    error of the mean, sd (tau / steps)^1/2, to some 13 %, of chains however long, where ESS counts kept
    draws alone. inf for a chain that never moved or is too short for batches. Returns (n, 2) float64.
    """
    n, chains, batches, _ = sums.shape
    if batches < 2:
        return np.full((n, 2), np.inf)
    means = sums[..., :2] / size[:, None] + begin[:, :, None]
    mean, covariance = _moments(sums, size.sum(), begin[:, :, None])
    var = np.einsum("nii->ni", covariance)
    between = (size[:, None] * (means - mean[:, None, None]) ** 2).sum(axis=(1, 2)) / (chains * batches - 1)
    moved = var > 1e-24
    return np.where(moved, np.maximum(between / np.where(moved, var, 1.0), 1.0), np.inf)


def normal_scores(size):
    """Normal score of each doubled rank among `size` draws, (2 size + 1,): what the diagnostics kernel takes."""
    return special.ndtri((0.5 * np.arange(2 * size + 1) - 0.375) / (size + 0.25))


def _moments(sums, total, begin):
    """Mean (n, 2) and covariance (n, 2, 2) over chains; total: kept steps of one chain."""
    chain = sums.sum(axis=2) / total                       # (n, chains, 5)
    begin = begin[:, :, 0]
    reference = begin[:, :1]
    shift = begin - reference                              # moments relative to the first chain's start
    mean = (chain[..., :2] + shift).mean(axis=1)
    square = np.empty(chain.shape[:2] + (2, 2))
    square[..., 0, 0], square[..., 1, 1] = chain[..., 2], chain[..., 3]
    square[..., 0, 1] = square[..., 1, 0] = chain[..., 4]
    cross = chain[..., :2, None] * shift[..., None, :]
    square += cross + np.swapaxes(cross, -1, -2) + shift[..., :, None] * shift[..., None, :]
    covariance = square.mean(axis=1) - mean[:, :, None] * mean[:, None, :]
    return mean + reference[:, 0], covariance


def _spread(covariance):
    """Standard deviations (n, 2) and correlation (n,), 0 where nothing varies."""
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    product = sd[:, 0] * sd[:, 1]
    return sd, np.where(product > 0.0, covariance[:, 0, 1] / np.where(product > 0.0, product, 1.0), 0.0)


def _map_index(map_index, n):
    if map_index is None:
        return np.arange(n, dtype=np.int64)
    index = np.ascontiguousarray(map_index, dtype=np.int64)
    if index.shape != (n,) or (n and index.min() < 0) or len(np.unique(index)) != n:
        raise InputError(f"map_index: expected {n} different whole numbers from 0, got shape {index.shape}")
    return index
