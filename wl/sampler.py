"""Posteriors of Omega_m and S_8 for many maps: Metropolis chains, or quadrature as the exact answer.

    chains = metropolis(emulator, estimate, nstep=10000, sigma=0.06)
    chains.mean, chains.sd, chains.acceptance
    truth = exact(emulator, estimate)
"""
import dataclasses

import numba
import numpy as np

from . import checks
from .checks import InputError
from .emulator import estimates
from .kernels import metropolis as kernels, quadrature as quadrature_kernels
from .quadrature import Tables, survey

BATCHES = 32           # of a chain, for ESS and R-hat; even, so that they split into halves
WORK = 2e7             # steps of one thread between two reports of progress, half a second
STORED = 1000          # draws kept of each chain unless `thin` says otherwise
# orders for maps whose best chi2 on the design lies in a range: far out the posterior falls off steeply
FINER = ((1, -np.inf, 40.0), (2, 40.0, 400.0), (4, 400.0, np.inf))
DISPERSION = 0.5       # how far towards another cosmology of the design further chains start


@dataclasses.dataclass
class Chains:
    """Posterior summaries of n maps; NaN where a quantity has no meaning for the method.

    mean, sd, q2_5, q16, q50, q84, q97_5 (n, 2): Omega_m, S_8; correlation (n,); acceptance (n,) among
    the kept steps; ess, rhat (n, 2); edge (n,) ln of the highest density on the hull's edge relative
    to the highest anywhere; draws (k, chains, m, 2) and lp (k, chains, m) of the first k maps.
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
    edge: np.ndarray
    draws: np.ndarray
    lp: np.ndarray


def metropolis(emulator, estimate, *, nstep, sigma, burn_in=0.2, chains=1, seed=0, map_index=None,
               draws=0, thin=None, start=None, progress=None, block=None):
    """Random-walk Metropolis for every map (Metropolis et al. 1953), all maps in one kernel.

    emulator: of emulator.build(); estimate: (n, d) float64 summaries; nstep: steps of each chain;
    sigma: width of the isotropic Gaussian proposal in Omega_m and S_8; burn_in: fraction of the steps
    that is dropped; chains: of each map; seed: int; map_index: (n,) int, global index of each map,
    which alone decides its random numbers (0 ... n-1 if None); draws: how many maps, from the first,
    keep thinned draws; thin: steps between them (None: about 1000 draws a chain); start: (n, 2) first
    points of every map's first chain (None: the design's point of highest posterior); progress: an
    object with update(maps), or None; block: maps between two calls of it (no result depends on it).
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
    kept = nstep - burn
    thin = max(kept // STORED, 1) if thin is None else checks.positive("thin", thin, integer=True)
    stored = min(max(int(draws), 0), n)
    batches = BATCHES if kept >= 2 * BATCHES else 1
    edges = burn + np.arange(batches + 1, dtype=np.int64) * kept // batches
    best, edge, _ = survey(emulator, estimate)
    begin = starts(emulator, best, chains, seed, index, start)
    limits = np.ascontiguousarray(emulator.limits)

    sums = np.empty((n, chains, batches, kernels.SUMS))
    accepted = np.empty((n, chains), np.int64)
    quantiles = np.empty((n, 2, len(kernels.LEVELS)))
    kept_draws = np.empty((stored, chains, kept // thin, 2))
    lp = np.empty((stored, chains, kept // thin))
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        kernels.metropolis(
            *emulator.arrays, limits, estimate[part], begin[part], index[part], np.uint64(seed % 2**64),
            sigma, edges, np.int64(thin), sums[part], accepted[part], quantiles[part],
            kept_draws[first:part.stop], lp[first:part.stop])
        if progress is not None:
            progress.update(part.stop - first)
    mean, covariance = _moments(sums, kept, begin[:, :, None])
    sd, correlation = _spread(covariance)
    ess, rhat = diagnostics(sums, np.diff(edges), begin)
    return Chains(mean, sd, correlation, *np.moveaxis(quantiles, 2, 0), accepted.mean(axis=1) / kept, ess,
                  rhat, edge, kept_draws, lp)


def exact(emulator, estimate, order=8):
    """The posterior of every map by Gauss quadrature in each triangle of the design.

    Mean, covariance and log-prior are linear inside a triangle, so the posterior is smooth there and
    converges exponentially with the order. emulator: of emulator.build(); estimate: (n, d) float64;
    order: points per side of a triangle of usual size (quadrature.sides). The marginal densities that
    the quantiles need are integrals along quadrature.LINES lines for each parameter.
    Returns Chains with NaN for acceptance, ess and rhat, and no draws. Raises InputError.
    """
    estimate = estimates(estimate, emulator.d)
    order = checks.positive("order", order, integer=True)
    _, edge, chi2 = survey(emulator, estimate)
    n = len(estimate)
    moments, quantiles = np.empty((n, 6)), np.empty((n, 2, len(kernels.LEVELS)))
    limits = np.ascontiguousarray(emulator.limits)
    for factor, low, high in FINER:
        some = np.flatnonzero((chi2 >= low) & (chi2 < high))
        if some.size:
            tables = Tables(emulator, factor * order)
            part = np.empty((some.size, 6)), np.empty((some.size,) + quantiles.shape[1:])
            quadrature_kernels.quadrature(*tables.arrays, limits, estimate[some], *part)
            moments[some], quantiles[some] = part
            moments[some, :2] += tables.centre
    covariance = np.stack([moments[:, [2, 4]], moments[:, [4, 3]]], axis=1)
    sd, correlation = _spread(covariance)
    nan = np.full((n, 2), np.nan)
    return Chains(moments[:, :2], sd, correlation, *np.moveaxis(quantiles, 2, 0), nan[:, 0], nan, nan, edge,
                  np.empty((0, 1, 0, 2)), np.empty((0, 1, 0)))


def starts(emulator, best, chains, seed, index, start=None):
    """Where each chain begins, inside the hull.

    The first chain of a map begins at the design's point best (n,) int, drawn a thousandth towards the
    centre (a corner of the hull is on its edge), or at start (n, 2). Further ones begin DISPERSION of
    the way from there to a random cosmology of the design, which the convex hull holds.
    Returns (n, chains, 2) float64.
    """
    centre = emulator.theta.mean(axis=0)
    inner = emulator.theta + 1e-3 * (centre - emulator.theta)
    if start is None:
        start = inner[best]
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


def diagnostics(sums, size, begin):
    """Effective sample size by batch means and split R-hat, from sums over batches.

    sums: (n, chains, batches, 5) float64, relative to begin (n, chains, 2); size: (batches,) steps.
    ESS is N var / (b var(batch means)) over the batches of all chains (Flegal & Jones 2010); R-hat
    compares halves of chains (Gelman et al. 2013). A chain that never moved, or is too short for
    batches, has ESS 0 and R-hat inf. Returns ess, rhat (n, 2) float64.
    """
    n, chains, batches, _ = sums.shape
    if batches < 2:
        return np.zeros((n, 2)), np.full((n, 2), np.inf)
    total = size.sum()
    means = sums[..., :2] / size[:, None] + begin[:, :, None]
    mean, covariance = _moments(sums, total, begin[:, :, None])
    var = np.einsum("nii->ni", covariance)
    between = (size[:, None] * (means - mean[:, None, None]) ** 2).sum(axis=(1, 2)) / (chains * batches - 1)
    moved = var > 1e-24
    most = chains * total
    ess = np.where(moved, np.minimum(most * var / np.where(moved, between, 1.0), most), 0.0)

    half = batches // 2
    length = np.array([size[:half].sum(), size[half:].sum()], dtype=np.float64)[:, None]
    parts = np.stack([sums[:, :, :half].sum(axis=2), sums[:, :, half:].sum(axis=2)], axis=2)
    first = parts[..., :2] / length
    within = ((parts[..., 2:4] / length - first**2) * length / (length - 1.0)).mean(axis=(1, 2))
    level = (first + begin[:, :, None]).reshape(n, -1, 2)
    between = level.var(axis=1, ddof=1)
    length = length.mean()
    good = within > 1e-24
    rhat = np.where(good, np.sqrt((length - 1.0) / length + between / np.where(good, within, 1.0)), np.inf)
    return ess, rhat


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
