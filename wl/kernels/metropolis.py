"""Random-walk Metropolis (Metropolis et al. 1953) over many maps at once, several chains a map.

LANES chains walk in step. A step is a few loops over the lanes, most of which the compiler turns
into vector instructions; branches that the processor cannot foresee are kept out of them (a list of
the few lanes that have to walk took a step from 24.5 to 20.6 ns). A chain's numbers come from a
generator of its own, seeded by (seed, stream + 256 chain, global map index): results depend on
neither lanes, blocks, shards nor threads.
"""
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from . import njit
from .diagnostics import BINS, Reduction, reduce_map
from .generators import exponential, normal, seed_state
from .likelihood import log_densities, log_density, log_gaussian_2
from .triangles import Cells, Triangulation, cell, cells_of, find, locate, weights

LANES = 16             # chains that walk in step
AHEAD = 32             # steps whose random numbers are drawn at a time
EVERY = 4              # steps between two entries into the histograms: they are correlated
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


class Maps(NamedTuple):
    """What is known of each map.

    summary: (n, d) float64.
    start: (n, chains, 2) float64, where the chains begin, inside the hull.
    index: (n,) int64, global index.
    """
    summary: np.ndarray
    start: np.ndarray
    index: np.ndarray


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


class Record(NamedTuple):
    """The steps of the maps whose chains share lanes.

    first: int, the first of these maps.
    histogram: (maps, 2, BINS) int32.
    kept: (maps, 2, chains, m) float64, every stride-th step.
    """
    first: int
    histogram: np.ndarray
    kept: np.ndarray


@njit(error_model="numpy", cache=True, nogil=True)
def metropolis(triangulation: Triangulation, maps: Maps, schedule: Schedule,
               reduction: Reduction, out: Output) -> None:
    """Walk all chains of all maps, on one thread; as a parallel region it took 5 s more to compile.

    triangulation: of the emulator.
    maps: Maps.
    schedule: Schedule.
    reduction: Reduction.
    out: Output, filled.
    """
    n, chains = maps.start.shape[0], maps.start.shape[1]
    size = max(LANES // chains, 1)
    draws = (schedule.edges[-1] - schedule.edges[0]) // schedule.stride
    for first in range(0, n, size):
        last = min(first + size, n)
        record = Record(first, np.zeros((last - first, 2, BINS), np.int32),
                        np.empty((last - first, 2, chains, draws)))
        for item in range(first * chains, last * chains, LANES):
            live = min(LANES, last * chains - item)
            _walk(item, live, triangulation, maps, schedule, reduction.limits, record, out)
        _reduce(record, reduction, out)


@njit(error_model="numpy", cache=True)
def _walk(item, live, triangulation, maps, schedule, limits, record, out):
    """All steps of the chains item to item + live - 1, where item = map * chains + chain.

    Idle lanes repeat the last chain.
    What is called for one lane is inlined and holds no loop: only then does the compiler leave out
    the reference counts of its arrays, which took a step from 24 to 27 ns.
    """
    edges, grid, coefficient = schedule.edges, triangulation.grid, triangulation.coefficient
    d, cells, bins = maps.summary.shape[1], cells_of(grid, triangulation.box), _bins(limits)
    lane, noise = np.zeros((ROWS, LANES)), np.empty((AHEAD, 3, LANES))
    place, state = np.empty((2, LANES), np.int64), np.empty((LANES, 4), np.uint64)
    owner = np.empty((2, LANES), np.int64)      # map and chain: divisions cost 2.5 ns a step
    values, wanted = np.empty((1 + d + d * (d + 1) // 2, LANES)), np.empty((d, LANES))
    work = np.empty((2 * d + 2 + d * (d + 1) // 2, LANES))
    for l in range(LANES):
        _begin(item + min(l, live - 1), triangulation, maps, schedule, lane, owner, state, l)
        for a in range(d):
            wanted[a, l] = maps.summary[owner[0, l], a]
    burn, batch, stored = edges[0], 0, 0
    window = max(burn // ADAPTATIONS // AHEAD * AHEAD, 1)
    for step in range(edges[-1]):
        ahead = step % AHEAD
        if ahead == 0:
            learn = schedule.adapt and step % window == 0 and 0 < step <= ADAPTATIONS * window
            _look_ahead(lane, state, noise, window if learn else 0)
        if step == burn:          # behind the last adaptation, which may fall on this very step
            lane[COUNT, :] = 0.0
            lane[S0:S0 + SUMS, :] = 0.0
        for l in range(LANES):
            _propose(lane, noise, place, ahead, cells, l)
        near = 0                                # lanes in cells that several triangles share
        for l in range(LANES):
            near += _look_up(grid, place, near, l)
        for k in range(near):
            l = place[1, k]
            place[0, l] = locate(lane[NEW_X, l], lane[NEW_Y, l], coefficient,
                                 triangulation.neighbours, -2 - place[0, l])
        if d == 2:
            for l in range(LANES):
                _interpolate_2(lane, place, coefficient, l)
            for l in range(LANES):
                _density_2(lane, place, l)
        else:
            _density(lane, place, coefficient, values, wanted, work)
        for l in range(LANES):
            _accept(lane, noise, ahead, l)
        if step >= burn and (step - burn) % EVERY == 0:
            for l in range(LANES):
                place[0, l], place[1, l] = cell(lane[X, l], lane[Y, l], bins)
            for l in range(live):
                record.histogram[owner[0, l] - record.first, 0, place[0, l]] += 1
                record.histogram[owner[0, l] - record.first, 1, place[1, l]] += 1
        if step == edges[batch + 1] - 1:
            _store_sums(lane, owner, live, out.batches, batch)
            batch += 1
        if step >= burn and (step - burn + 1) % schedule.stride == 0:
            _store_draws(lane, owner, live, stored, record, out.lp)
            stored += 1
    for l in range(live):
        out.accepted[owner[0, l], owner[1, l]] = np.int64(lane[COUNT, l])


@njit(error_model="numpy", cache=True)
def _bins(limits):
    """The histograms' bins."""
    low_x, low_y, high_x, high_y = limits[0, 0], limits[0, 1], limits[1, 0], limits[1, 1]
    return Cells(low_x, low_y, BINS / (high_x - low_x), BINS / (high_y - low_y), BINS - 1.0,
                 BINS - 1.0)


@njit(error_model="numpy", cache=True)
def _begin(item, triangulation, maps, schedule, lane, owner, state, l):
    """Put the chain `item` on its start, into lane l."""
    start, summary = maps.start, maps.summary
    chains, d = start.shape[1], summary.shape[1]
    m, c = item // chains, item % chains
    x, y = start[m, c, 0], start[m, c, 1]
    owner[0, l], owner[1, l] = m, c
    seed_state(state[l], schedule.seed, schedule.stream + 256 * c, maps.index[m])
    lane[X, l], lane[Y, l] = x, y
    lane[P, l] = log_density(x, y, find(x, y, triangulation), triangulation.coefficient, summary, m,
                             np.empty(1 + d + d * (d + 1) // 2), np.empty((d + 1, d)))
    lane[ORIGIN_X, l], lane[ORIGIN_Y, l] = x, y
    lane[A00, l], lane[A11, l] = schedule.sigma, schedule.sigma
    if d == 2:
        lane[E0, l], lane[E1, l] = summary[m, 0], summary[m, 1]


@njit(error_model="numpy", cache=True)
def _look_ahead(lane, state, noise, learn):
    """Learn the proposals of all lanes from their last `learn` steps, if any; draw the next."""
    for l in range(LANES):
        if learn > 0:
            _adapt(lane, l, learn)
        _draw(state[l], lane, noise, l)


@njit(error_model="numpy", cache=True, forceinline=True)
def _draw(state, lane, noise, l):
    """Proposals and acceptance thresholds (-ln of a uniform) of lane l for all steps of noise."""
    a00, a10, a11 = lane[A00, l], lane[A10, l], lane[A11, l]
    for k in range(noise.shape[0]):
        first, second = normal(state), normal(state)
        noise[k, 0, l] = a00 * first
        noise[k, 1, l] = a10 * first + a11 * second
        noise[k, 2, l] = exponential(state)


@njit(error_model="numpy", cache=True)
def _adapt(lane, l, steps):
    """The proposal of lane l for the time being: 2.38^2 / 2 times the covariance of its last steps.

    The width that is best for a Gaussian in two dimensions (Roberts, Gelman & Gilks 1997). A chain
    that hardly moved gets half of its present one. Sums and counts begin anew.
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
def _propose(lane, noise, place, ahead, cells, l):
    """The new point of lane l, and its cell of the look-up grid."""
    lane[NEW_X, l] = lane[X, l] + noise[ahead, 0, l]
    lane[NEW_Y, l] = lane[Y, l] + noise[ahead, 1, l]
    place[0, l], place[1, l] = cell(lane[NEW_X, l], lane[NEW_Y, l], cells)


@njit(error_model="numpy", cache=True, forceinline=True)
def _look_up(grid, place, near, l):
    """The code of lane l's cell of the look-up grid, and l among the lanes that have to walk.

    Returns 1 if it has to, else 0.
    """
    t = np.int64(grid[place[0, l], place[1, l]])
    place[0, l] = t
    place[1, near] = l
    return np.int64(t < -1)


@njit(error_model="numpy", cache=True, forceinline=True)
def _interpolate_2(lane, place, coefficient, l):
    """Log-prior, mean and covariance at the new point of lane l, for d = 2."""
    t = max(place[0, l], 0)
    c0, c1 = weights(lane[NEW_X, l], lane[NEW_Y, l], coefficient, t)
    for q in range(6):
        lane[V0 + q, l] = (coefficient[t, 6 + q] + c0 * coefficient[t, 12 + q]
                           + c1 * coefficient[t, 18 + q])


@njit(error_model="numpy", cache=True, forceinline=True)
def _density_2(lane, place, l):
    """Log-posterior at the new point of lane l, for d = 2."""
    p = lane[V0, l] + log_gaussian_2(
        lane[E0, l] - lane[V0 + 1, l], lane[E1, l] - lane[V0 + 2, l], lane[V0 + 3, l],
        lane[V0 + 4, l], lane[V0 + 5, l])
    lane[NEW_P, l] = p if place[0, l] >= 0 else -math.inf


@njit(error_model="numpy", cache=True)
def _density(lane, place, coefficient, values, wanted, work):
    """Log-posterior at the new points of all lanes, for any d.

    values, wanted, work: the first three arguments of log_densities().
    """
    k = values.shape[0]
    for l in range(LANES):
        t, x, y = place[0, l], lane[NEW_X, l], lane[NEW_Y, l]
        if t < 0:                           # anything inside will do, its density is not used
            x, y, t = coefficient[0, 0], coefficient[0, 1], np.int64(0)
        c0, c1 = weights(x, y, coefficient, t)
        for q in range(k):
            values[q, l] = (coefficient[t, 6 + q] + c0 * coefficient[t, 6 + k + q]
                            + c1 * coefficient[t, 6 + 2 * k + q])
    log_densities(values, wanted, work, lane[NEW_P])
    for l in range(LANES):
        lane[NEW_P, l] = lane[NEW_P, l] if place[0, l] >= 0 else -math.inf


@njit(error_model="numpy", cache=True, forceinline=True)
def _accept(lane, noise, ahead, l):
    """The step of lane l to its new point, or none, and its part of the sums."""
    accept = lane[NEW_P, l] > lane[P, l] - noise[ahead, 2, l]
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


@njit(error_model="numpy", cache=True)
def _store_sums(lane, owner, live, batches, batch):
    """The sums of all lanes as those of a batch, and their new beginning."""
    for l in range(live):
        for s in range(SUMS):
            batches[owner[0, l], owner[1, l], batch, s] = lane[S0 + s, l]
    lane[S0:S0 + SUMS, :] = 0.0


@njit(error_model="numpy", cache=True)
def _store_draws(lane, owner, live, stored, record, lp):
    """Where the chains are as draw number `stored`."""
    kept, first = record.kept, record.first
    for l in range(live):
        m, c = owner[0, l], owner[1, l]
        kept[m - first, 0, c, stored] = lane[X, l]
        kept[m - first, 1, c, stored] = lane[Y, l]
        if m < lp.shape[0]:
            lp[m, c, stored] = lane[P, l]


@njit(error_model="numpy", cache=True)
def _reduce(record, reduction, out):
    """Quantiles, diagnostics and draws of the maps of a record."""
    kept = record.kept
    for i in range(kept.shape[0]):
        m = record.first + i
        reduce_map(record.histogram[i], kept[i], reduction, out.quantiles[m], out.diagnostics[m])
        if m < out.draws.shape[0]:
            for c in range(kept.shape[2]):
                for k in range(kept.shape[3]):
                    out.draws[m, c, k, 0] = kept[i, 0, c, k]
                    out.draws[m, c, k, 1] = kept[i, 1, c, k]


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
