"""Posteriors of Omega_m and S_8 for many maps by Metropolis chains."""
import numpy as np
import scipy.fft
from scipy.special import ndtri

from ..core import seeds
from ..core.checks import InputError
from ..core.params import LEVELS
from ..kernels import metropolis as kernels, on_threads, threads
from .emulator import Emulator, summaries
from .options import PosteriorOptions
from .posterior import Chains, spread
from .quadrature import survey

WORK = 2e7             # steps of one thread between two reports of progress, half a second
MAX_BYTES = 1 << 28    # of the draws and histograms that are held at a time
DISPERSION = 0.5       # how far towards another cosmology of the design further chains start


def metropolis(emulator: Emulator, summary: np.ndarray, walk: PosteriorOptions, *, seed: int = 0,
               map_index: np.ndarray | None = None, keep: np.ndarray = (),
               guess: np.ndarray | None = None, progress=None) -> Chains:
    """Random-walk Metropolis for every map (Metropolis et al. 1953), all maps in one kernel.

    emulator: Emulator; summary: (n, d) float64; walk: PosteriorOptions; seed: int.
    map_index: (n,) int, global indices, which with the seed alone decide random numbers; or None.
    keep: (k,) int, sorted rows of the maps that return their draws, those of walk.draw_steps.
    guess: (n, 2) float64, first points of the maps' first chains in the hull, or None.
    progress: an object with update(maps), or None.
    Returns Chains. Raises InputError for summaries or indices that make no sense.
    """
    summary = summaries(summary, emulator.d)
    n, seed, edges = len(summary), int(seed) % 2**64, walk.edges
    index = np.arange(n) if map_index is None else np.ascontiguousarray(map_index, np.int64)
    if index.shape != (n,) or index.min(initial=0) < 0 or len(np.unique(index)) != n:
        raise InputError(f"map_index: expected {n} different whole numbers from 0, got shape "
                         f"{index.shape}")
    best, edge, _ = survey(emulator, summary)
    begin = _starts(emulator, best, walk.chains, seed, index, guess)
    schedule = kernels.Schedule(walk.sigma, walk.adapts, edges, walk.stride, np.uint64(seed),
                                seeds.METROPOLIS)
    chains, size, levels = walk.chains, walk.kept // walk.stride, np.array(list(LEVELS.values()))
    keep, chosen = np.asarray(keep, np.int64), walk.draw_steps // walk.stride - 1
    batches = np.empty((n, chains, len(edges) - 1, kernels.SUMS))
    accepted, lp = np.empty((n, chains), np.int64), np.empty((len(keep), chains, len(chosen)))
    kept, ess, rhat = np.empty((*lp.shape, 2)), np.empty((n, 2)), np.empty((n, 2))
    quantiles, block = np.empty((n, 2, len(levels))), _block_size(walk, threads())
    limits, d, last = emulator.limits, None if emulator.d == 2 else emulator.d, kernels.BINS - 1.0
    bins = kernels.Cells(*limits[0], *kernels.BINS / (limits[1] - limits[0]), last, last)
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        maps = kernels.Maps(summary[part], begin[part], index[part])
        count = len(maps.index)
        out = kernels.Output(batches[part], accepted[part],
                             np.zeros((count, 2, kernels.BINS), np.int32),
                             np.empty((count, 2, chains, size)), np.empty((count, chains, size)))
        on_threads(lambda rows: kernels.metropolis(
            emulator.triangulation, kernels.Maps(*(array[rows] for array in maps)), schedule,
            bins, kernels.Output(*(array[rows] for array in out)), d), count,
            max(kernels.LANES // chains, 1))                # parts whose chains fill the lanes
        for k in range(2):
            quantiles[part, k] = _histogram_quantiles(out.histogram[:, k], limits[:, k], levels)
            rhat[part, k], ess[part, k] = _rank_diagnostics(out.draws[:, k])
        some = slice(*np.searchsorted(keep, [part.start, part.stop]))
        rows = keep[some] - part.start
        kept[some] = np.moveaxis(out.draws[rows], 1, 3)[:, :, chosen]
        lp[some] = out.lp[rows][:, :, chosen]
        if progress is not None:
            progress.update(count)
    mean, covariance = _moments(batches, walk.kept, begin)
    tau = _autocorrelation_time(batches, np.diff(edges), begin, mean, covariance)
    return Chains(mean, *spread(covariance), *np.moveaxis(quantiles, 2, 0),
                  accepted.mean(axis=1) / walk.kept, ess, rhat, tau, edge, draws=kept, lp=lp)


def _block_size(walk, threads):
    """Maps between two reports of progress, within MAX_BYTES of draws; no result depends on it."""
    by_time = max(int(WORK * threads / (walk.nstep * walk.chains)), 4 * threads * kernels.LANES)
    by_memory = MAX_BYTES // (24 * walk.chains * (walk.kept // walk.stride) + 8 * kernels.BINS)
    return max(min(by_time, by_memory), 1)


def _starts(emulator, best, chains, seed, index, guess=None):
    """First points (n, chains, 2): of a map's first chain its guess in the hull, or `best`."""
    centre = emulator.theta.mean(axis=0)
    inner = emulator.theta + 1e-3 * (centre - emulator.theta)    # corners of the hull are on it
    start = inner[best]
    if guess is not None:
        _, _, within = emulator.interpolate(guess)
        start[within] = guess[within] + 1e-3 * (centre - guess[within])
    begin = np.repeat(start[:, None], chains, axis=1)
    for i, m in enumerate(index) if chains > 1 else ():
        rng = seeds.generator(seed, seeds.CHAIN_START, int(m))
        other = inner[rng.integers(len(inner), size=chains - 1)]
        begin[i, 1:] += DISPERSION * (other - begin[i, 1:])
    return np.ascontiguousarray(begin)


def _autocorrelation_time(sums, size, begin, mean, covariance):
    """Integrated autocorrelation time in steps by batch means (Flegal & Jones 2010), (n, 2)."""
    n, chains, batches, _ = sums.shape
    tau, var = np.full((n, 2), np.inf), np.einsum("nii->ni", covariance)
    if batches < 2:
        return tau
    means = sums[..., :2] / size[:, None] + begin[:, :, None]
    squares = size[:, None] * (means - mean[:, None, None]) ** 2
    between = squares.sum(axis=(1, 2)) / (chains * batches - 1)
    return np.maximum(np.divide(between, var, out=tau, where=var > 1e-24), 1.0)


def _moments(sums, total, begin):
    chain, reference = sums.sum(axis=2) / total, begin[:, :1]     # chain: (n, chains, 5)
    shift = begin - reference                 # moments relative to the first chain's start
    mean = (chain[..., :2] + shift).mean(axis=1)
    square = chain[..., [2, 4, 4, 3]].reshape(*chain.shape[:2], 2, 2)
    cross = chain[..., :2, None] * shift[..., None, :]
    square += cross + np.swapaxes(cross, -1, -2) + shift[..., :, None] * shift[..., None, :]
    return mean + reference[:, 0], square.mean(axis=1) - mean[:, :, None] * mean[:, None, :]


def _rank_diagnostics(draws):
    """R-hat and bulk ESS (n,) of draws (n, chains, m) (Vehtari et al. 2021, Bayes. Anal. 16)."""
    # NumPy needs 0.18 ms of CPU a map for 500 draws of two parameters, a kernel 6.5 s to compile
    n, half = len(draws), draws.shape[2] // 2
    rhat, ess = np.full(n, np.inf), np.zeros(n)
    value = np.concatenate([draws[..., :half], draws[..., draws.shape[2] - half:]], axis=1)
    moved = np.flatnonzero(np.ptp(value, axis=(1, 2)) > 0.0) if half > 1 else []
    if len(moved):
        value = value[moved]
        score = _normal_scores(value)
        folded = np.abs(value - np.median(value, axis=(1, 2), keepdims=True))
        rhat[moved] = np.maximum(_rhat(score), _rhat(_normal_scores(folded)))
        ess[moved] = _ess(score)
    return rhat, ess


def _histogram_quantiles(histogram, limits, levels):
    bins, upto = histogram.shape[1], histogram.cumsum(1)
    wanted = levels * upto[:, -1:]
    at = np.stack([np.minimum((upto < w[:, None]).sum(1), bins - 1) for w in wanted.T], 1)
    here = np.take_along_axis(histogram, at, 1)
    below = np.take_along_axis(upto, at, 1) - here
    part = (wanted - below) / np.maximum(here, 1)
    return limits[0] + (limits[1] - limits[0]) / bins * (at + part)


def _normal_scores(value):
    """Normal scores of the ranks of values (n, chains, m) among all of a map; ties share one."""
    size = value[0].size
    flat = value.reshape(-1, size)
    twice = [np.searchsorted(order, one) + np.searchsorted(order, one, "right")    # 2 rank - 1
             for order, one in zip(np.sort(flat, axis=1), flat)]
    score = ndtri((0.5 * np.arange(2 * size + 1) - 0.375) / (size + 0.25))
    return score[np.array(twice) + 1].reshape(value.shape)


def _rhat(score):
    m = score.shape[2]
    within, between = score.var(axis=2, ddof=1).mean(1), score.mean(2).var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(within > 0.0, np.sqrt((m * between / within + m - 1) / m), np.inf)


def _ess(score):
    """Effective sample size of chains (n, chains, m) by Geyer's initial monotone sequence."""
    n, chains, m = score.shape
    mean, size = score.mean(2, keepdims=True), scipy.fft.next_fast_len(2 * m, True)
    power = np.abs(scipy.fft.rfft(score - mean, size, axis=2))**2
    covariance = scipy.fft.irfft(power.mean(1), size, axis=1)[:, :m] / m
    within = covariance[:, :1] * m / (m - 1.0)
    plus = within * (m - 1.0) / m + mean[:, :, 0].var(axis=1, ddof=1)[:, None]
    rho = 1.0 - (within - covariance) / plus
    rho[:, 0] = 1.0
    count = max((m - 2) // 2 + (m - 2) % 2, 1)          # pairs of lags that are looked at
    pairs = rho[:, 0:2 * count:2] + rho[:, 1:2 * count:2] if m > 4 else np.ones((n, 1))
    negative = pairs <= 0.0
    negative[:, 0] = False                              # the first pair is taken as it is
    stop, row = np.where(negative.any(1), negative.argmax(1), pairs.shape[1] - 1), np.arange(n)
    even = rho[row, 2 * stop]
    tail = np.where((even > 0.0) | (pairs[row, stop] >= 0.0), even, 0.0)
    kept = np.arange(pairs.shape[1]) < stop[:, None]
    tau = 2.0 * np.where(kept, np.minimum.accumulate(pairs, axis=1), 0.0).sum(1) - 1.0 + tail
    return chains * m / np.maximum(tau, 1.0 / np.log10(chains * m))
