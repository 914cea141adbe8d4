"""Posteriors of Omega_m and S_8 for many maps by Metropolis chains.

    chains = metropolis(emulator, summary, Walk(nstep=10000, sigma=0.06))
    chains.mean, chains.sd, chains.acceptance
"""
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from ..core import seeds
from ..core.checks import InputError
from ..core.params import LEVELS
from ..kernels import metropolis as kernels
from .diagnostics import histogram_quantiles, rank_diagnostics
from .emulator import Emulator, summaries
from .options import Walk
from .posterior import Chains, spread
from .quadrature import survey

WORK = 2e7             # steps of one thread between two reports of progress, half a second
MAX_BYTES = 1 << 28    # of the draws and histograms that are held at a time
DISPERSION = 0.5       # how far towards another cosmology of the design further chains start


def metropolis(emulator: Emulator, summary: np.ndarray, walk: Walk, *, seed: int = 0,
               map_index: np.ndarray | None = None, draws: int = 0, guess: np.ndarray | None = None,
               progress=None) -> Chains:
    """Random-walk Metropolis for every map (Metropolis et al. 1953), all maps in one kernel.

    Memory does not grow with the steps: a map's draws are reduced as soon as its chains end.
    emulator: of emulator.build().
    summary: (n, d) float64.
    walk: Walk.
    seed: int.
    map_index: (n,) int, global index of each map, which alone decides its random numbers; None:
        0 ... n - 1.
    draws: int, how many maps, from the first, return their draws.
    guess: (n, 2) float64, first points of the maps' first chains where they lie in the hull, or
        None.
    progress: an object with update(maps), or None.
    Returns Chains. Raises InputError for summaries or indices that make no sense.
    """
    summary = summaries(summary, emulator.d)
    n, seed = len(summary), int(seed) % 2**64
    index, edges = _map_index(map_index, n), walk.edges
    best, edge, _ = survey(emulator, summary)
    begin = starts(emulator, best, walk.chains, seed, index, guess)
    schedule = kernels.Schedule(walk.sigma, bool(walk.adapt), edges, walk.stride, np.uint64(seed),
                                seeds.METROPOLIS)
    chains, size, levels = walk.chains, walk.kept // walk.stride, np.array(list(LEVELS.values()))
    stored = min(max(int(draws), 0), n)
    batches = np.empty((n, chains, len(edges) - 1, kernels.SUMS))
    accepted, lp = np.empty((n, chains), np.int64), np.empty((stored, chains, size))
    kept, ess, rhat = np.empty((stored, chains, size, 2)), np.empty((n, 2)), np.empty((n, 2))
    quantiles = np.empty((n, 2, len(levels)))
    threads, limits = numba.get_num_threads(), np.ascontiguousarray(emulator.limits)
    for first in range(0, n, block_size(walk, threads)):
        part = slice(first, min(first + block_size(walk, threads), n))
        maps = kernels.Maps(summary[part], begin[part], index[part])
        out = kernels.Output(batches[part], accepted[part],
                             np.zeros((len(maps.index), 2, kernels.BINS), np.int32),
                             np.empty((len(maps.index), 2, chains, size)), lp[part])
        _walk(emulator.triangulation, maps, schedule, limits, out)
        for k in range(2):
            quantiles[part, k] = histogram_quantiles(out.histogram[:, k], limits[:, k], levels)
            rhat[part, k], ess[part, k] = rank_diagnostics(out.draws[:, k])
        kept[part] = np.moveaxis(out.draws[:len(lp[part])], 1, 3)
        if progress is not None:
            progress.update(len(maps.index))
    mean, covariance = _moments(batches, walk.kept, begin[:, :, None])
    sd, correlation = spread(covariance)
    tau = autocorrelation_time(batches, np.diff(edges), begin)
    nan = np.full((n, 2), np.nan)
    return Chains(mean, sd, correlation, *np.moveaxis(quantiles, 2, 0),
                  accepted.mean(axis=1) / walk.kept, ess, rhat, tau, edge, nan, nan, nan[:, 0],
                  kept, lp)


def _walk(triangulation, maps, schedule, limits, out):
    """The kernel for a block of maps on all threads, in parts whose chains fill the lanes."""
    n, chains = maps.start.shape[:2]
    threads, group = numba.get_num_threads(), max(kernels.LANES // chains, 1)
    size = -(-n // (threads * group)) * group
    parts = [slice(k, min(k + size, n)) for k in range(0, n, size)]

    def run(part):
        kernels.metropolis(triangulation, kernels.Maps(*(array[part] for array in maps)), schedule,
                           limits, kernels.Output(*(array[part] for array in out)))

    with ThreadPoolExecutor(threads) as pool:
        list((pool.map if len(parts) > 1 else map)(run, parts))


def block_size(walk: Walk, threads: int) -> int:
    """Maps between two reports of progress, within MAX_BYTES of draws; no result depends on it."""
    by_time = int(WORK * threads / (walk.nstep * walk.chains))
    by_memory = MAX_BYTES // (16 * walk.chains * (walk.kept // walk.stride) + 8 * kernels.BINS)
    return max(min(max(4 * threads * kernels.LANES, by_time), by_memory), 1)


def starts(emulator: Emulator, best: np.ndarray, chains: int, seed: int, index: np.ndarray,
           guess: np.ndarray | None = None) -> np.ndarray:
    """Where each chain begins, inside the hull.

    The first chain of a map begins at its guess, drawn a thousandth towards the centre, where that
    lies in the hull; else at the design's point `best`, drawn likewise (a corner of the hull is on
    its edge). Further ones begin DISPERSION of the way from there to a random cosmology of the
    design, which the convex hull holds.
    best: (n,) int, cosmologies.
    chains: int, of each map.
    seed: int.
    index: (n,) int, global index of each map.
    guess: (n, 2) float64, or None.
    Returns (n, chains, 2) float64.
    """
    centre = emulator.theta.mean(axis=0)
    inner = emulator.theta + 1e-3 * (centre - emulator.theta)
    start = inner[best]
    if guess is not None:
        within = emulator.contains(guess)
        start[within] = guess[within] + 1e-3 * (centre - guess[within])
    begin = np.repeat(start[:, None], chains, axis=1)
    if chains > 1:
        for i, m in enumerate(index):
            rng = seeds.generator(seed, seeds.CHAIN_START, int(m))
            other = inner[rng.integers(len(inner), size=chains - 1)]
            begin[i, 1:] += DISPERSION * (other - begin[i, 1:])
    return np.ascontiguousarray(begin)


def autocorrelation_time(sums: np.ndarray, size: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Integrated autocorrelation time by batch means, from sums over batches of all steps.

    b var(batch means) / var over the batches of all chains (Flegal & Jones 2010), at least 1. It
    tells the error of the mean, sd (tau / steps)^1/2, to some 13 %, of chains however long, where
    ESS counts kept draws alone.
    sums: (n, chains, batches, 5) float64, relative to begin.
    size: (batches,) int, steps.
    begin: (n, chains, 2) float64.
    Returns (n, 2) float64, steps; inf for a chain that never moved or is too short for batches.
    """
    n, chains, batches, _ = sums.shape
    if batches < 2:
        return np.full((n, 2), np.inf)
    means = sums[..., :2] / size[:, None] + begin[:, :, None]
    mean, covariance = _moments(sums, size.sum(), begin[:, :, None])
    var = np.einsum("nii->ni", covariance)
    squares = size[:, None] * (means - mean[:, None, None]) ** 2
    between = squares.sum(axis=(1, 2)) / (chains * batches - 1)
    moved = var > 1e-24
    return np.where(moved, np.maximum(between / np.where(moved, var, 1.0), 1.0), np.inf)


def _moments(sums, total, begin):
    """Mean (n, 2) and covariance (n, 2, 2) over chains; total: kept steps of one chain."""
    chain = sums.sum(axis=2) / total                       # (n, chains, 5)
    begin = begin[:, :, 0]
    reference = begin[:, :1]
    shift = begin - reference                 # moments relative to the first chain's start
    mean = (chain[..., :2] + shift).mean(axis=1)
    square = np.empty(chain.shape[:2] + (2, 2))
    square[..., 0, 0], square[..., 1, 1] = chain[..., 2], chain[..., 3]
    square[..., 0, 1] = square[..., 1, 0] = chain[..., 4]
    cross = chain[..., :2, None] * shift[..., None, :]
    square += cross + np.swapaxes(cross, -1, -2) + shift[..., :, None] * shift[..., None, :]
    covariance = square.mean(axis=1) - mean[:, :, None] * mean[:, None, :]
    return mean + reference[:, 0], covariance


def _map_index(map_index, n):
    if map_index is None:
        return np.arange(n, dtype=np.int64)
    index = np.ascontiguousarray(map_index, dtype=np.int64)
    if index.shape != (n,) or (n and index.min() < 0) or len(np.unique(index)) != n:
        raise InputError(f"map_index: expected {n} different whole numbers from 0, got shape "
                         f"{index.shape}")
    return index
