"""Random-walk Metropolis (Metropolis et al. 1953) over many maps at once, several chains a map.

LANES chains walk in step. A step is a few loops over the lanes, most of which become vector
instructions; branches that the processor cannot foresee are kept out of them (a list of the few
lanes that have to walk took a step from 24.5 to 20.6 ns). A chain has its own generator, seeded by
(seed, stream + 256 chain, global map index): neither lanes, blocks, shards nor threads matter.
"""
import math
from collections import namedtuple

import numpy as np

from . import njit
from .likelihood import Cells, Triangulation, cell, locate, log, log_densities, weights
from .noise import exponential, normal, seed_state

LANES = 16             # chains that walk in step
AHEAD = 32             # steps whose random numbers are drawn at a time
EVERY = 4              # steps between two entries into the histograms: they are correlated
BINS = 1024            # of the marginal histograms, over the hull's bounding box
SUMS = 5               # x, y, x^2, y^2, x y, relative to the chain's start
WINDOWS = 16           # of the burn-in; a proposal is learnt after 1, 2, 4, 8 and 16 of them
MIN_MOVES = 20         # accepted steps from which a proposal is learnt; below, it is halved
ACCEPTANCE = 0.35      # that a proposal's size aims at: best for a Gaussian in two dimensions
MEMORY = 0.33          # weight of the proposal before in the shape of the next one

# rows of the lanes' table: one array with fixed strides, so that no loop has to fear overlaps
X, Y, P, NEW_X, NEW_Y, NEW_P = range(6)      # the chain and its log-posterior; the proposal's
ORIGIN_X, ORIGIN_Y = 6, 7      # the chain's start
S0, COUNT, V0 = 8, 13, 14      # sums of a batch; accepted steps; quantities proposed, for d = 2
A00, A10, A11 = range(20, 23)  # Cholesky factor of the proposal
SCALE, ROWS = 23, 24     # of the proposal in units of the chain's covariance, 0: never learnt

Maps = namedtuple("Maps", "summary start index")
Maps.__doc__ = """What is known of each map.

summary: (n, d), start: (n, chains, 2) float64, inside the hull; index: (n,) int64, global.
"""

Schedule = namedtuple("Schedule", "sigma adapt edges stride seed stream")
Schedule.__doc__ = """How all chains walk.

sigma: float64, width of the isotropic Gaussian proposal in Omega_m and S_8; adapt: bool, learn each
chain's proposal in its burn-in; edges: (batches + 1,) int64, the kept steps [edges[0], edges[-1])
cut into batches; stride: int, steps between the draws that R-hat and ESS are made of; seed, stream:
uint64 and int, of the generators, see core/seeds.py.
"""

Output = namedtuple("Output", "batches accepted histogram draws lp")
Output.__doc__ = """What metropolis() fills.

batches: (n, chains, batches, 5) float64, sums over the steps of a batch; accepted: (n, chains)
int64, among the kept steps; histogram: (n, 2, BINS) int32, every EVERY-th kept step of all chains,
zero at the start; draws: (n, 2, chains, m) float64, every stride-th kept step; lp: (n, chains, m)
float64, log-posteriors of the draws, up to a constant.
"""


@njit()
def metropolis(triangulation: Triangulation, maps: Maps, schedule: Schedule, bins: Cells,
               out: Output, wide: int | None) -> None:
    """Walk all chains of all maps, on one thread: for on_threads().

    bins: BINS of each parameter, of the histograms, over the hull's bounding box; out: filled;
    wide: d, but None for d = 2, which spares the compilation of what d > 2 needs.
    """
    coefficient, neighbours, grid, cells = triangulation
    edges, d = schedule.edges, maps.summary.shape[1]
    items = maps.start.shape[0] * maps.start.shape[1]
    lane, noise = np.empty((ROWS, LANES)), np.empty((AHEAD, 3, LANES))
    place, state = np.empty((2, LANES), np.int64), np.empty((LANES, 4), np.uint64)
    values, wanted = np.empty((1 + d + d * (d + 1) // 2, LANES)), np.empty((d, LANES))
    owner, work = np.empty((2, LANES), np.int64), np.empty((2 * d + 2 + d * (d + 1) // 2, LANES))
    burn, window = edges[0], max(edges[0] // WINDOWS // AHEAD, 1) * AHEAD
    for item in range(0, items, LANES):
        live, batch, stored, learnt = min(LANES, items - item), 0, 0, 0
        noise[:] = 0.0                          # step -1, of length 0, finds the start's density
        _begin(item, live, maps, schedule, lane, owner, wanted, state)
        for step in range(-1, edges[-1]):
            ahead = step % AHEAD
            if ahead == 0:
                learn = schedule.adapt and 0 < step <= burn and step == max(2 * learnt, window)
                for l in range(LANES):
                    if learn:
                        _adapt(lane, l, step - learnt)
                    _draw(state[l], lane, noise, l)
                learnt = step if learn else learnt
            if step == burn:      # behind the last adaptation, which may fall on this very step
                lane[S0:COUNT + 1] = 0.0
            near = _propose(lane, noise, place, ahead, cells, grid)
            for k in range(near):
                l = place[1, k]
                place[0, l] = locate(lane[NEW_X, l], lane[NEW_Y, l], coefficient, neighbours,
                                     -2 - place[0, l])
            if wide is None:
                _density_2(lane, place, coefficient, wanted)
            else:
                _density(lane, place, coefficient, values, wanted, work)
            _accept(lane, noise, ahead)
            if step >= burn and (step - burn) % EVERY == 0:
                for l in range(LANES):
                    place[0, l], place[1, l] = cell(lane[X, l], lane[Y, l], bins)
                for l in range(live):
                    out.histogram[owner[0, l], 0, place[0, l]] += 1
                    out.histogram[owner[0, l], 1, place[1, l]] += 1
            if step == edges[batch + 1] - 1:
                for l in range(live):
                    for k in range(SUMS):       # a slice would compile messages of errors, 1.5 s
                        out.batches[owner[0, l], owner[1, l], batch, k] = lane[S0 + k, l]
                lane[S0:S0 + SUMS] = 0.0
                batch += 1
            if step >= burn and (step - burn + 1) % schedule.stride == 0:
                for l in range(live):
                    m, c = owner[0, l], owner[1, l]
                    out.draws[m, 0, c, stored], out.draws[m, 1, c, stored] = lane[X, l], lane[Y, l]
                    out.lp[m, c, stored] = lane[P, l]
                stored += 1
        for l in range(live):
            out.accepted[owner[0, l], owner[1, l]] = np.int64(lane[COUNT, l])


@njit()
def _begin(item, live, maps, schedule, lane, owner, wanted, state):
    """Put chains item to item + live - 1 (map * chains + chain) on their starts; others repeat."""
    lane[:] = 0.0
    for l in range(LANES):
        m, c = divmod(item + min(l, live - 1), maps.start.shape[1])
        x, y = maps.start[m, c, 0], maps.start[m, c, 1]
        owner[0, l], owner[1, l] = m, c         # kept, as divisions cost 2.5 ns a step
        seed_state(state[l], schedule.seed, schedule.stream + 256 * c, maps.index[m])
        lane[X, l], lane[Y, l], lane[P, l], lane[COUNT, l] = x, y, -math.inf, -1.0
        lane[ORIGIN_X, l], lane[ORIGIN_Y, l] = x, y
        lane[A00, l], lane[A11, l] = schedule.sigma, schedule.sigma
        for a in range(maps.summary.shape[1]):
            wanted[a, l] = maps.summary[m, a]


@njit()
def _draw(state, lane, noise, l):
    """Proposals and acceptance thresholds (-ln of a uniform) of lane l for all steps of noise."""
    a00, a10, a11 = lane[A00, l], lane[A10, l], lane[A11, l]
    for k in range(noise.shape[0]):
        first, second = normal(state), normal(state)
        noise[k, 0, l], noise[k, 1, l] = a00 * first, a10 * first + a11 * second
        noise[k, 2, l] = exponential(state)


@njit()
def _adapt(lane, l, steps):
    """The proposal of lane l from the covariance of its last steps; sums and count begin anew."""
    if lane[COUNT, l] < MIN_MOVES:
        for row in (A00, A10, A11):
            lane[row, l] *= 0.5
    else:
        x, y = lane[S0, l] / steps, lane[S0 + 1, l] / steps
        xx, yy = lane[S0 + 2, l] / steps - x * x, lane[S0 + 3, l] / steps - y * y
        xy = lane[S0 + 4, l] / steps - x * y
        scale = lane[SCALE, l]
        # the shape keeps a part of the one before, the size follows the acceptance: posteriors that
        # the hull cuts off need small steps. Outside of 0.2-0.5 accept 0.9 % of 3030 maps, not 1.5
        if scale > 0.0:
            b00, b10, b11 = lane[A00, l] / scale, lane[A10, l] / scale, lane[A11, l] / scale
            xx += MEMORY * (b00 * b00 - xx)
            yy += MEMORY * (b10 * b10 + b11 * b11 - yy)
            xy += MEMORY * (b00 * b10 - xy)
            scale *= math.exp(lane[COUNT, l] / steps - ACCEPTANCE)
        else:
            scale = 2.38 / math.sqrt(2.0)          # Roberts, Gelman & Gilks (1997), for a Gaussian
        if xx > 0.0 and yy > 0.0:
            lane[SCALE, l], lane[A00, l] = scale, scale * math.sqrt(xx)
            lane[A10, l] = scale * xy / math.sqrt(xx)
            lane[A11, l] = scale * math.sqrt(max(yy - xy * xy / xx, 0.01 * yy))
    lane[S0:COUNT + 1, l] = 0.0


@njit(forceinline=True)
def _propose(lane, noise, place, ahead, cells, grid):
    """The new points and the codes of their cells; returns how many lanes have to walk."""
    for l in range(LANES):
        lane[NEW_X, l] = lane[X, l] + noise[ahead, 0, l]
        lane[NEW_Y, l] = lane[Y, l] + noise[ahead, 1, l]
        place[0, l], place[1, l] = cell(lane[NEW_X, l], lane[NEW_Y, l], cells)
    near = 0
    for l in range(LANES):
        t = np.int64(grid[place[0, l], place[1, l]])
        place[0, l], place[1, near] = t, l
        near += np.int64(t < -1)
    return near


@njit(forceinline=True)
def _density_2(lane, place, coefficient, wanted):
    """Log-posterior at the new points of all lanes, for d = 2."""
    for l in range(LANES):
        t = max(place[0, l], 0)
        c0, c1 = weights(lane[NEW_X, l], lane[NEW_Y, l], coefficient, t)
        for q in range(6):
            lane[V0 + q, l] = (coefficient[t, 6 + q] + c0 * coefficient[t, 12 + q]
                               + c1 * coefficient[t, 18 + q])
    for l in range(LANES):
        r0, r1 = wanted[0, l] - lane[V0 + 1, l], wanted[1, l] - lane[V0 + 2, l]
        c00, c10, c11 = lane[V0 + 3, l], lane[V0 + 4, l], lane[V0 + 5, l]
        det = c00 * c11 - c10 * c10
        quadratic = (c11 * r0 * r0 - 2.0 * c10 * r0 * r1 + c00 * r1 * r1) / det
        p = lane[V0, l] - 0.5 * (quadratic + log(det))
        lane[NEW_P, l] = p if place[0, l] >= 0 else -math.inf


@njit()
def _density(lane, place, coefficient, values, wanted, work):
    """Log-posterior at the new points of all lanes, for any d."""
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


@njit(forceinline=True)
def _accept(lane, noise, ahead):
    """The steps of all lanes to their new points, or none, and their part of the sums."""
    for l in range(LANES):
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
