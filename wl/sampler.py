"""Posteriors of Omega_m and S_8 for many maps: Metropolis chains, or quadrature as the exact answer.

    chains = metropolis(emulator, estimate, nstep=10000, sigma=0.06)
    chains.mean, chains.sd, chains.acceptance
    truth = exact(emulator, estimate)
"""
import dataclasses

import numpy as np
from scipy.special import roots_legendre

from . import checks
from .checks import InputError
from .emulator import estimates
from .kernels import metropolis as _metropolis, quadrature as _quadrature
from .prior import quadrature_points

BATCHES = 32           # of a chain, for ESS and R-hat; even, so that they split into halves
BLOCK = 512            # maps between two reports of progress; no result depends on it
STORED = 1000          # draws kept of each chain unless `thin` says otherwise
LINES = 128            # of each marginal density
MOST = 32              # points per side of any triangle
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
               draws=0, thin=None, start=None, progress=None, block=BLOCK):
    """Random-walk Metropolis for every map (Metropolis et al. 1953), all maps in one kernel.

    emulator: of emulator.build(); estimate: (n, d) float64 summaries; nstep: steps of each chain;
    sigma: width of the isotropic Gaussian proposal in Omega_m and S_8; burn_in: fraction of the steps
    that is dropped; chains: of each map; seed: int; map_index: (n,) int, global index of each map,
    which alone decides its random numbers (0 ... n-1 if None); draws: how many maps, from the first,
    keep thinned draws; thin: steps between them (None: about 1000 draws a chain); start: (n, 2) first
    points of every map's first chain (None: the design's point of highest posterior); progress: an
    object with update(maps), or None; block: maps between two calls of it.
    Returns Chains. Raises InputError for settings or summaries that make no sense.
    """
    estimate = estimates(estimate, emulator.d)
    n = len(estimate)
    nstep = checks.positive("nstep", nstep, integer=True)
    sigma = checks.positive("sigma", sigma)
    chains = checks.positive("chains", chains, integer=True)
    block = checks.positive("block", block, integer=True)
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
    best, edge = survey(emulator, estimate)
    begin = starts(emulator, best, chains, seed, index, start)
    limits = np.ascontiguousarray(emulator.limits)

    sums = np.empty((n, chains, batches, _metropolis.SUMS))
    accepted = np.empty((n, chains), np.int64)
    quantiles = np.empty((n, 2, len(_metropolis.LEVELS)))
    kept_draws = np.empty((stored, chains, kept // thin, 2))
    lp = np.empty((stored, chains, kept // thin))
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        _metropolis.metropolis(
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
    order: points per side of a triangle (order^2 points in each).
    Returns Chains with NaN for acceptance, ess and rhat, and no draws. Raises InputError.
    """
    estimate = estimates(estimate, emulator.d)
    order = checks.positive("order", order, integer=True)
    tables = _Quadrature(emulator, order)
    n = len(estimate)
    moments, quantiles = np.empty((n, 6)), np.empty((n, 2, len(_metropolis.LEVELS)))
    _quadrature.quadrature(*tables.arrays, np.ascontiguousarray(emulator.limits), estimate, moments, quantiles)
    mean = moments[:, :2] + tables.centre
    covariance = np.stack([moments[:, [2, 4]], moments[:, [4, 3]]], axis=1)
    sd, correlation = _spread(covariance)
    nan = np.full((n, 2), np.nan)
    return Chains(mean, sd, correlation, *np.moveaxis(quantiles, 2, 0), nan[:, 0], nan, nan,
                  survey(emulator, estimate)[1], np.empty((0, 1, 0, 2)), np.empty((0, 1, 0)))


class _Quadrature:
    """What kernels.quadrature takes, for one emulator: points in triangles and on lines."""

    def __init__(self, emulator, order):
        theta, at = emulator.theta, emulator.triangles
        side = sides(emulator, order)
        self.centre = theta.mean(axis=0)
        parts = []
        for n in np.unique(side):
            t = np.flatnonzero(side == n)
            points, weight, corners = quadrature_points(theta, at[t], n)
            parts.append((np.repeat(t, n * n), np.tile(corners, (len(t), 1)), weight.ravel(),
                          points.reshape(-1, 2) - self.centre))
        triangle, corners, weight, points = (np.concatenate(v) for v in zip(*parts))
        lines = [line_points(theta, at, axis, LINES, np.maximum(side - 2, 3)) for axis in range(2)]
        first = np.stack([lines[0][3], lines[1][3] + len(lines[0][0])])
        line_triangle, line_corners, line_weight = (np.concatenate(v) for v in list(zip(*lines))[:3])
        self.arrays = (np.ascontiguousarray(points.T),
                       *whitened(emulator, triangle, corners, np.log(weight)),
                       *whitened(emulator, line_triangle, line_corners, np.log(line_weight)), first)


def sides(emulator, order):
    """Points per side that each triangle gets: `order` if its corners' summaries are 4 sigma apart.

    A posterior narrower than the triangle needs more: the side grows with the distance, from 0.7 order
    to MOST. Returns (t,) int.
    """
    at = emulator.triangles
    inverse = np.linalg.inv(emulator.covariance)
    distance = np.zeros(len(at))
    for i in range(3):
        step = emulator.mean[at[:, i]] - emulator.mean[at[:, i - 1]]
        for k in range(3):
            square = np.einsum("ta,tab,tb->t", step, inverse[at[:, k]], step)
            distance = np.maximum(distance, np.sqrt(square))
    return np.clip(np.ceil(order * np.maximum(0.7, 0.4 + 0.15 * distance)), 2, max(MOST, order)).astype(int)


def line_points(theta, triangles, axis, lines, order):
    """Gauss points along lines of constant parameter `axis`, the centres of equal cells of its range.

    theta: (n, 2) float64; triangles: (t, 3) int; order: (t,) int, points where a line crosses a
    triangle. Returns, sorted by line, triangle (m,) int, barycentric weights (m, 3), quadrature weights
    (m,) and where each line begins (lines + 1,) int64.
    """
    low, high = theta[:, axis].min(), theta[:, axis].max()
    at = low + (high - low) * (np.arange(lines) + 0.5) / lines
    place = theta[triangles]                                     # (t, 3, 2)
    sort = np.argsort(place[:, :, axis], axis=1)
    a = np.take_along_axis(place[:, :, axis], sort, axis=1)
    line, t = np.nonzero((a[:, 0] < at[:, None]) & (a[:, 2] > at[:, None]))
    a, sort, c = a[t], sort[t], at[line]
    row = np.arange(len(t))
    ends = np.zeros((2, len(t), 3))                              # where the line enters and leaves
    part = (c - a[:, 0]) / (a[:, 2] - a[:, 0])
    ends[0, row, sort[:, 0]], ends[0, row, sort[:, 2]] = 1.0 - part, part
    upper = (c >= a[:, 1]).astype(int)                           # the second end: edge 0-1 or edge 1-2
    part = (c - a[row, upper]) / (a[row, upper + 1] - a[row, upper])
    ends[1, row, sort[row, upper]], ends[1, row, sort[row, upper + 1]] = 1.0 - part, part
    length = np.abs(np.subtract(*np.einsum("enc,nc->en", ends, place[t, :, 1 - axis])))
    parts = []
    for n in np.unique(order[t]):
        k = np.flatnonzero(order[t] == n)
        u, w = roots_legendre(n)
        u, w = 0.5 * (u[:, None] + 1.0), 0.5 * w
        corners = (1.0 - u) * ends[0, k, None] + u * ends[1, k, None]
        parts.append((np.repeat(line[k], n), np.repeat(t[k], n), corners.reshape(-1, 3),
                      (length[k, None] * w).ravel()))
    line, t, corners, weight = (np.concatenate(v) for v in zip(*parts))
    sort = np.argsort(line, kind="stable")
    first = np.searchsorted(line[sort], np.arange(lines + 1)).astype(np.int64)
    return t[sort], corners[sort], np.maximum(weight[sort], 1e-300), first


def whitened(emulator, triangle, corners, log_weight):
    """Cholesky factors for the kernels at points given by triangle (m,) and barycentric weights (m, 3)."""
    at = emulator.triangles[triangle]
    mean = np.einsum("pc,pcd->pd", corners, emulator.mean[at])
    covariance = np.einsum("pc,pcde->pde", corners, emulator.covariance[at])
    log_prior = np.einsum("pc,pc->p", corners, emulator.vertex_log_prior[at])
    return _quadrature.whiten(mean, covariance, log_weight + log_prior)


def survey(emulator, estimate, per_edge=8):
    """A look at every posterior on the design's points, triangle centres and the hull's edge.

    per_edge: points evaluated along each hull edge. Returns (n,) int, the cosmology of highest
    posterior, and (n,) float64, ln of the highest density on the hull's edge relative to the highest
    anywhere: 0 for a posterior that climbs to the edge, below -3.1 if the edge is outside of the 95 %
    region.
    """
    theta, at = emulator.theta, emulator.triangles
    n, t = len(theta), len(at)
    on_hull = np.flatnonzero((emulator.neighbours < 0).any(axis=1))
    edges = [(i, k) for i in on_hull for k in range(3) if emulator.neighbours[i, k] < 0]
    part = np.arange(per_edge)[:, None] / per_edge
    along = [part * np.eye(3)[(k + 1) % 3] + (1.0 - part) * np.eye(3)[(k + 2) % 3] for _, k in edges]
    vertex = np.empty(n, int)
    corner = np.empty(n, int)
    for k in range(3):
        vertex[at[:, k]], corner[at[:, k]] = np.arange(t), k
    triangle = np.concatenate([vertex, np.arange(t), np.repeat([i for i, _ in edges], per_edge)])
    corners = np.concatenate([np.eye(3)[corner], np.full((t, 3), 1.0 / 3.0), *along])
    white, base = whitened(emulator, triangle, corners, np.zeros(len(triangle)))
    best, edge = np.empty(len(estimate), int), np.empty(len(estimate))
    for first in range(0, len(estimate), BLOCK):
        part = slice(first, first + BLOCK)
        log_posterior = _quadrature.log_posteriors(white, base, estimate[part])
        best[part] = log_posterior[:, :n].argmax(axis=1)
        edge[part] = log_posterior[:, n + t:].max(axis=1) - log_posterior.max(axis=1)
    return best, edge


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
    compares halves of chains (Gelman et al. 2013). A chain that never moved has ESS 0 and R-hat inf.
    Returns ess, rhat (n, 2) float64, NaN if there are too few steps for batches.
    """
    n, chains, batches, _ = sums.shape
    if batches < 4:
        return np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    total = size.sum()
    means = sums[..., :2] / size[:, None] + begin[:, :, None]
    mean, covariance = _moments(sums, total, begin[:, :, None])
    var = np.einsum("nii->ni", covariance)
    between = (size[:, None] * (means - mean[:, None, None]) ** 2).sum(axis=(1, 2)) / (chains * batches - 1)
    moved = var > 1e-24
    ess = np.where(moved, np.minimum(chains * total * var / np.where(moved, between, 1.0), chains * total), 0.0)

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
