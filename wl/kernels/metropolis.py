"""Random-walk Metropolis (Metropolis et al. 1953) over many maps at once, several chains a map.

LANES chains walk in step. A step is a few loops over the lanes, most of which the compiler turns into
vector instructions; branches that the processor cannot foresee are kept out of them (a list of the few
lanes that have to walk took a step from 24.5 to 20.6 ns). A chain's numbers come from a generator of its
own, seeded by (seed, stream + 256 chain, global map index): results depend on neither lanes, blocks,
shards nor threads.
"""
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from . import njit
from .diagnostics import rank_diagnostics
from .generators import exponential, normal, seed_state
from .likelihood import log_densities, log_density, log_gaussian_2
from .triangles import Triangulation, find, interpolate_one, locate, weights

LANES = 16             # chains that walk in step
AHEAD = 32             # steps whose random numbers are drawn at a time
BINS = 1024            # of the marginal histograms, over the hull's bounding box
EVERY = 4              # steps between two entries into them: they are correlated over more
SUMS = 5               # x, y, x^2, y^2, x y, relative to the chain's start
ADAPTATIONS = 4        # of the proposal, at equal distances in the burn-in
MIN_MOVES = 20         # accepted steps from which a proposal is learnt; below, it is halved

# rows of the lanes' table: one array with fixed strides, so that no loop has to fear overlaps
X, Y, P = 0, 1, 2                      # where the chain is, and its log-posterior there
NEW_X, NEW_Y, NEW_P = 3, 4, 5          # the proposal
ORIGIN_X, ORIGIN_Y = 6, 7
E0, E1 = 8, 9                          # the summary, for d = 2
S0 = 10                                # five sums over the steps of a batch
V0 = 15                                # log-prior, mean, covariance at the proposal, for d = 2
COUNT = 21                             # accepted steps
A00, A10, A11 = 22, 23, 24             # Cholesky factor of the proposal's covariance
ROWS = 25


class Schedule(NamedTuple):
    """How all chains walk.

    sigma: float64, width of the isotropic Gaussian proposal in Omega_m and S_8.
    adapt: bool, learn each chain's proposal in its burn-in.
    edges: (batches + 1,) int64, the kept steps [edges[0], edges[-1]) cut into batches.
    stride: int, steps between the draws that R-hat and ESS are made of.
    seed: uint64, of the generators.
    stream: int, of core/seeds.py.
    """
    sigma: float
    adapt: bool
    edges: np.ndarray
    stride: int
    seed: int
    stream: int


class Reduction(NamedTuple):
    """What is made of a map's steps.

    limits: (2, 2) float64, the hull's lowest and highest Omega_m and S_8.
    levels: (levels,) float64, increasing probabilities of the quantiles.
    scores: (2 size + 1,) float64, see diagnostics.py.
    """
    limits: np.ndarray
    levels: np.ndarray
    scores: np.ndarray


class Output(NamedTuple):
    """What metropolis() fills.

    batches: (n, chains, batches, 5) float64, sums over the steps of a batch.
    accepted: (n, chains) int64, among the kept steps.
    quantiles: (n, 2, levels) float64, of all chains together.
    diagnostics: (n, 2, 2) float64, R-hat and ESS of each parameter.
    draws: (k, chains, m, 2) float64, of the first k <= n maps.
    lp: (k, chains, m) float64, their log-posteriors up to a constant.
    """
    batches: np.ndarray
    accepted: np.ndarray
    quantiles: np.ndarray
    diagnostics: np.ndarray
    draws: np.ndarray
    lp: np.ndarray


class Lanes(NamedTuple):
    """LANES chains that walk in step, and their room to work; idle lanes repeat the last chain.

    live: int, lanes that are not idle.
    table: (ROWS, LANES) float64, by the rows above.
    noise: (AHEAD, 3, LANES) float64, proposals and acceptance thresholds of the steps ahead.
    place: (2, LANES) int64, where a proposal lies.
    owner: (2, LANES) int64, map and chain of each lane: divisions cost 2.5 ns a step.
    state: (LANES, 4) uint64, of the generators.
    summary, values, work: (d, LANES), (quantities, LANES), (2 d + 2 + d (d + 1) / 2, LANES) float64,
        for d other than 2.
    value: (quantities,) float64.
    """
    live: int
    table: np.ndarray
    noise: np.ndarray
    place: np.ndarray
    owner: np.ndarray
    state: np.ndarray
    summary: np.ndarray
    values: np.ndarray
    work: np.ndarray
    value: np.ndarray


class Record(NamedTuple):
    """The steps of the maps whose chains share lanes.

    first: int, the first of these maps.
    histogram: (maps, 2, BINS) int32.
    kept: (maps, 2, chains, m) float64, every stride-th step.
    """
    first: int
    histogram: np.ndarray
    kept: np.ndarray


@njit(error_model="numpy", cache=True, parallel=True)
def metropolis(triangulation: Triangulation, summary: np.ndarray, start: np.ndarray,
               index: np.ndarray, schedule: Schedule, reduction: Reduction, out: Output) -> None:
    """Walk all chains of all maps.

    triangulation: of the emulator.
    summary: (n, d) float64.
    start: (n, chains, 2) float64, inside the hull.
    index: (n,) int64, global map index.
    schedule: Schedule.
    reduction: Reduction.
    out: Output, filled.
    """
    n, chains = start.shape[0], start.shape[1]
    size = max(LANES // chains, 1)
    draws = (schedule.edges[-1] - schedule.edges[0]) // schedule.stride
    for group in prange((n + size - 1) // size):
        first = group * size
        last = min(first + size, n)
        record = Record(first, np.zeros((last - first, 2, BINS), np.int32),
                        np.empty((last - first, 2, chains, draws)))
        for item in range(first * chains, last * chains, LANES):
            live = min(LANES, last * chains - item)
            lanes = _begin(item, live, triangulation, summary, start, index, schedule)
            _walk(lanes, triangulation, schedule, reduction.limits, record, out)
        _reduce(record, reduction, out)


@njit(error_model="numpy", cache=True)
def _begin(item, live, triangulation, summary, start, index, schedule):
    """Lanes of the chains item to item + live - 1, where item = map * chains + chain."""
    chains, d = start.shape[1], summary.shape[1]
    quantities = (triangulation.coefficient.shape[1] - 6) // 3
    lanes = Lanes(live, np.zeros((ROWS, LANES)), np.empty((AHEAD, 3, LANES)),
                  np.empty((2, LANES), np.int64), np.empty((2, LANES), np.int64),
                  np.empty((LANES, 4), np.uint64), np.empty((d, LANES)),
                  np.empty((quantities, LANES)), np.empty((2 * d + 2 + d * (d + 1) // 2, LANES)),
                  np.empty(quantities))
    work, lane = np.empty((d + 1, d)), lanes.table
    for l in range(LANES):
        m, c = (item + min(l, live - 1)) // chains, (item + min(l, live - 1)) % chains
        x, y = start[m, c, 0], start[m, c, 1]
        lanes.owner[0, l], lanes.owner[1, l] = m, c
        seed_state(lanes.state[l], schedule.seed, schedule.stream + 256 * c, index[m])
        lane[X, l], lane[Y, l] = x, y
        lane[P, l] = log_density(x, y, find(x, y, triangulation), triangulation.coefficient, summary,
                                 m, lanes.value, work)
        lane[ORIGIN_X, l], lane[ORIGIN_Y, l] = x, y
        lane[A00, l], lane[A11, l] = schedule.sigma, schedule.sigma
        for a in range(d):
            lanes.summary[a, l] = summary[m, a]
        if d == 2:
            lane[E0, l], lane[E1, l] = summary[m, 0], summary[m, 1]
    return lanes


@njit(error_model="numpy", cache=True)
def _walk(lanes, triangulation, schedule, limits, record, out):
    """All steps of the chains of some lanes."""
    edges, stride = schedule.edges, schedule.stride
    burn, batch, stored = edges[0], 0, 0
    window = max(burn // ADAPTATIONS // AHEAD * AHEAD, 1)
    for step in range(edges[-1]):
        ahead = step % AHEAD
        if ahead == 0:
            if schedule.adapt and step % window == 0 and 0 < step <= ADAPTATIONS * window:
                for l in range(LANES):
                    _adapt(lanes.table, l, window)
            for l in range(LANES):
                _draw(lanes.state[l], lanes.table, lanes.noise, l)
        if step == burn:                        # behind the last adaptation, which may fall on this very step
            _clear(lanes.table, True)
        _propose(lanes.table, lanes.noise[ahead], lanes.place, triangulation)
        if lanes.summary.shape[0] == 2:
            _density_2(lanes.table, lanes.place, triangulation.coefficient)
        else:
            _density(lanes, triangulation.coefficient)
        _accept(lanes.table, lanes.noise[ahead])
        if step < burn:
            continue
        if (step - burn) % EVERY == 0:
            _count(lanes, limits, record)
        if step == edges[batch + 1] - 1:
            for l in range(lanes.live):
                for s in range(SUMS):
                    out.batches[lanes.owner[0, l], lanes.owner[1, l], batch, s] = lanes.table[S0 + s, l]
            _clear(lanes.table, False)
            batch += 1
        if (step - burn + 1) % stride == 0:
            _keep(lanes, stored, record, out.lp)
            stored += 1
    for l in range(lanes.live):
        out.accepted[lanes.owner[0, l], lanes.owner[1, l]] = np.int64(lanes.table[COUNT, l])


@njit(error_model="numpy", cache=True, forceinline=True)
def _draw(state, lane, noise, l):
    """A chain's proposals and acceptance thresholds (-ln of a uniform) for all steps of noise."""
    a00, a10, a11 = lane[A00, l], lane[A10, l], lane[A11, l]
    for k in range(noise.shape[0]):
        first, second = normal(state), normal(state)
        noise[k, 0, l] = a00 * first
        noise[k, 1, l] = a10 * first + a11 * second
        noise[k, 2, l] = exponential(state)


@njit(error_model="numpy", cache=True)
def _adapt(lane, l, steps):
    """The proposal of lane l for the time being: 2.38^2 / 2 times the covariance of its last steps.

    The width that is best for a Gaussian in two dimensions (Roberts, Gelman & Gilks 1997). A chain that
    hardly moved gets half of its present one. Sums and counts begin anew.
    """
    if lane[COUNT, l] < MIN_MOVES:
        for row in (A00, A10, A11):
            lane[row, l] *= 0.5
    else:
        x, y = lane[S0, l] / steps, lane[S0 + 1, l] / steps
        xx, yy = lane[S0 + 2, l] / steps - x * x, lane[S0 + 3, l] / steps - y * y
        xy = lane[S0 + 4, l] / steps - x * y
        if xx > 0.0 and yy > 0.0:
            scale = 2.38 / math.sqrt(2.0)
            lane[A00, l] = scale * math.sqrt(xx)
            lane[A10, l] = scale * xy / math.sqrt(xx)
            lane[A11, l] = scale * math.sqrt(max(yy - xy * xy / xx, 0.01 * yy))
    lane[COUNT, l] = 0.0
    for s in range(SUMS):
        lane[S0 + s, l] = 0.0


@njit(error_model="numpy", cache=True, forceinline=True)
def _clear(lane, count):
    """The sums of all lanes, and on demand the counts of accepted steps, begin anew."""
    for l in range(LANES):
        if count:
            lane[COUNT, l] = 0.0
        for s in range(SUMS):
            lane[S0 + s, l] = 0.0


@njit(error_model="numpy", cache=True, forceinline=True)
def _propose(lane, noise, place, triangulation):
    """New points of all lanes, and into place[0] the triangles that hold them, -1 outside."""
    grid, box = triangulation.grid, triangulation.box
    box_x, box_y, per_x, per_y = box[0], box[1], box[2], box[3]
    nx, ny = grid.shape
    for l in range(LANES):
        lane[NEW_X, l] = lane[X, l] + noise[0, l]
        lane[NEW_Y, l] = lane[Y, l] + noise[1, l]
        u = min(max((lane[NEW_X, l] - box_x) * per_x, 0.0), nx - 1.0)
        v = min(max((lane[NEW_Y, l] - box_y) * per_y, 0.0), ny - 1.0)
        place[0, l] = np.int64(u)
        place[1, l] = np.int64(v)
    near = 0                                # lanes in cells that several triangles share
    for l in range(LANES):
        t = np.int64(grid[place[0, l], place[1, l]])
        place[0, l] = t
        place[1, near] = l
        near += t < -1
    for k in range(near):
        l = place[1, k]
        place[0, l] = locate(lane[NEW_X, l], lane[NEW_Y, l], triangulation.coefficient,
                             triangulation.neighbours, -2 - place[0, l])


@njit(error_model="numpy", cache=True, forceinline=True)
def _density_2(lane, place, coefficient):
    """log-posterior of all lanes at their new points, for d = 2."""
    for l in range(LANES):
        t = max(place[0, l], 0)
        c0, c1 = weights(lane[NEW_X, l], lane[NEW_Y, l], coefficient, t)
        for q in range(6):
            lane[V0 + q, l] = (coefficient[t, 6 + q] + c0 * coefficient[t, 12 + q]
                               + c1 * coefficient[t, 18 + q])
    for l in range(LANES):
        p = lane[V0, l] + log_gaussian_2(
            lane[E0, l] - lane[V0 + 1, l], lane[E1, l] - lane[V0 + 2, l], lane[V0 + 3, l],
            lane[V0 + 4, l], lane[V0 + 5, l])
        lane[NEW_P, l] = p if place[0, l] >= 0 else -math.inf


@njit(error_model="numpy", cache=True)
def _density(lanes, coefficient):
    """log-posterior of all lanes at their new points, for any d."""
    lane, place, value = lanes.table, lanes.place, lanes.value
    for l in range(LANES):
        t, x, y = place[0, l], lane[NEW_X, l], lane[NEW_Y, l]
        if t < 0:                           # anything inside will do, its density is not used
            x, y, t = coefficient[0, 0], coefficient[0, 1], np.int64(0)
        interpolate_one(x, y, t, coefficient, value)
        for q in range(value.size):
            lanes.values[q, l] = value[q]
    log_densities(lanes.values, lanes.summary, lanes.work, lane[NEW_P])
    for l in range(LANES):
        lane[NEW_P, l] = lane[NEW_P, l] if place[0, l] >= 0 else -math.inf


@njit(error_model="numpy", cache=True, forceinline=True)
def _accept(lane, noise):
    """The step of all lanes to their new points, or none, and its part of the sums."""
    for l in range(LANES):
        accept = lane[NEW_P, l] > lane[P, l] - noise[2, l]
        lane[X, l] = lane[NEW_X, l] if accept else lane[X, l]
        lane[Y, l] = lane[NEW_Y, l] if accept else lane[Y, l]
        lane[P, l] = lane[NEW_P, l] if accept else lane[P, l]
        lane[COUNT, l] += 1.0 if accept else 0.0
        x, y = lane[X, l] - lane[ORIGIN_X, l], lane[Y, l] - lane[ORIGIN_Y, l]
        lane[S0, l] += x
        lane[S0 + 1, l] += y
        lane[S0 + 2, l] += x * x
        lane[S0 + 3, l] += y * y
        lane[S0 + 4, l] += x * y


@njit(error_model="numpy", cache=True, forceinline=True)
def _count(lanes, limits, record):
    """Enter where the chains are into the histograms of their maps."""
    lane, place = lanes.table, lanes.place
    low_x, low_y = limits[0, 0], limits[0, 1]
    bins_x, bins_y = BINS / (limits[1, 0] - low_x), BINS / (limits[1, 1] - low_y)
    for l in range(LANES):
        place[0, l] = np.int64(min(max((lane[X, l] - low_x) * bins_x, 0.0), BINS - 1.0))
        place[1, l] = np.int64(min(max((lane[Y, l] - low_y) * bins_y, 0.0), BINS - 1.0))
    for l in range(lanes.live):
        m = lanes.owner[0, l] - record.first
        record.histogram[m, 0, place[0, l]] += 1
        record.histogram[m, 1, place[1, l]] += 1


@njit(error_model="numpy", cache=True, forceinline=True)
def _keep(lanes, stored, record, lp):
    """Store where the chains are as draw number `stored`."""
    for l in range(lanes.live):
        m, c = lanes.owner[0, l], lanes.owner[1, l]
        record.kept[m - record.first, 0, c, stored] = lanes.table[X, l]
        record.kept[m - record.first, 1, c, stored] = lanes.table[Y, l]
        if m < lp.shape[0]:
            lp[m, c, stored] = lanes.table[P, l]


@njit(error_model="numpy", cache=True)
def _reduce(record, reduction, out):
    """Quantiles, diagnostics and draws of the maps of a record."""
    limits, kept = reduction.limits, record.kept
    for i in range(kept.shape[0]):
        m = record.first + i
        for p in range(2):
            _quantiles(record.histogram[i, p], limits[:, p], reduction.levels, out.quantiles[m, p])
            rank_diagnostics(kept[i, p], reduction.scores, out.diagnostics[m, p])
        if m < out.draws.shape[0]:
            for c in range(kept.shape[2]):
                for k in range(kept.shape[3]):
                    out.draws[m, c, k, 0], out.draws[m, c, k, 1] = kept[i, 0, c, k], kept[i, 1, c, k]


@njit(error_model="numpy", cache=True)
def _quantiles(histogram, limits, levels, out):
    """Quantiles `levels` of a histogram (bins,) between two limits, linear inside a bin."""
    total = 0
    for b in range(BINS):
        total += histogram[b]
    low, width = limits[0], (limits[1] - limits[0]) / BINS
    level, below = 0, 0
    for b in range(BINS):
        here = histogram[b]
        while level < levels.size and here > 0 and below + here >= levels[level] * total:
            out[level] = low + width * (b + (levels[level] * total - below) / here)
            level += 1
        below += here


@njit(error_model="numpy", cache=True, parallel=True)
def random_numbers(chains: int, nstep: int, sigma: float, seed: int, stream: int) -> np.ndarray:
    """What metropolis() draws for so many chains and steps, and nothing else: to time it.

    Returns (chains,) float64, one of the last numbers of each.
    """
    out = np.empty(chains)
    for group in prange((chains + LANES - 1) // LANES):
        noise, lane = np.empty((AHEAD, 3, LANES)), np.zeros((ROWS, LANES))
        state = np.empty((LANES, 4), np.uint64)
        for l in range(LANES):
            seed_state(state[l], seed, stream, group * LANES + l)
            lane[A00, l], lane[A11, l] = sigma, sigma
        for _ in range(0, nstep, AHEAD):
            for l in range(LANES):
                _draw(state[l], lane, noise, l)
        for l in range(min(LANES, chains - group * LANES)):
            out[group * LANES + l] = noise[AHEAD - 1, 0, l]
    return out
