"""Random-walk Metropolis (Metropolis et al. 1953) over many maps at once, several chains a map.

LANES chains walk in step. A step is a few loops over the lanes, most of which the compiler turns into
vector instructions; branches that the processor cannot foresee are kept out of them (a list of the few
lanes that have to walk took a step from 24.5 to 20.6 ns). A chain's numbers come from a generator of its
own, seeded by (seed, stream + 256 chain, global map index): results depend on neither lanes, blocks,
shards nor threads.
"""
import math

import numpy as np
from numba import njit, prange

from .diagnostics import rank_diagnostics
from .generators import METROPOLIS, exponential, normal, seed_state
from .likelihood import log_densities, log_density, log_gaussian_2, log_t_2
from .triangles import find, interpolate_one, locate, weights

LANES = 16             # chains that walk in step
AHEAD = 32             # steps whose random numbers are drawn at a time
BINS = 1024            # of the marginal histograms, over the hull's bounding box
EVERY = 4              # steps between two entries into them: they are correlated over more
SUMS = 5               # x, y, x^2, y^2, x y, relative to the chain's start
ADAPTATIONS = 4        # of the proposal, at equal distances in the burn-in
LEAST_MOVES = 20       # accepted steps from which a proposal is learnt; below, it is halved
LEVELS = np.array([0.025, 0.16, 0.5, 0.84, 0.975])

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


@njit(error_model="numpy", cache=True, parallel=True)
def metropolis(coefficient, neighbours, grid, box, limits, estimate, count, start, index, seed, sigma,
               adapt, edges, stride, scores, batches, accepted, quantiles, diagnostics, draws, lp):
    """Walk all chains of all maps.

    coefficient, neighbours, grid, box: the emulator (triangles.py); limits: (2, 2) float64, the
    hull's lowest and highest Omega_m and S_8; estimate: (n, d) float64; count: float64, see
    likelihood.py; start: (n, chains, 2) float64 inside the hull; index: (n,) int64, global map index;
    seed: uint64; sigma: float64; adapt: bool, learn each chain's proposal in its burn-in; edges:
    (batches + 1,) int64, the kept steps [edges[0], edges[-1]) cut into batches; stride: int64, steps
    between the draws that R-hat and ESS are made of; scores: see diagnostics.py.
    Filled: batches (n, chains, batches, 5) float64, sums over the steps of a batch; accepted
    (n, chains) int64 among the kept; quantiles (n, 2, 5) float64 of all chains together; diagnostics
    (n, 2, 2) float64, R-hat and ESS of each parameter; draws (k, chains, m, 2) and lp (k, chains, m)
    float64 for the first k <= n maps.
    """
    n, chains = start.shape[0], start.shape[1]
    size = max(LANES // chains, 1)
    for group in prange((n + size - 1) // size):
        first = group * size
        last = min(first + size, n)
        histogram = np.zeros((last - first, 2, BINS), np.int32)
        kept = np.empty((last - first, 2, chains, (edges[-1] - edges[0]) // stride))
        for item in range(first * chains, last * chains, LANES):
            _walk(item, min(item + LANES, last * chains), first, coefficient, neighbours, grid, box, limits,
                  estimate, count, start, index, seed, sigma, adapt, edges, stride, batches, accepted, histogram,
                  kept, lp)
        for m in range(first, last):
            for p in range(2):
                _quantiles(histogram[m - first, p], limits[0, p], limits[1, p], quantiles[m, p])
                rank_diagnostics(kept[m - first, p], scores, diagnostics[m, p])
            if m < draws.shape[0]:
                for c in range(chains):
                    for k in range(kept.shape[3]):
                        draws[m, c, k, 0], draws[m, c, k, 1] = kept[m - first, 0, c, k], kept[m - first, 1, c, k]


@njit(error_model="numpy", cache=True)
def _walk(item, end, first, coefficient, neighbours, grid, box, limits, estimate, count, start, index, seed, sigma,
          adapt, edges, stride, batches, accepted, histogram, kept, lp):
    """The chains item to end - 1, where item = map * chains + chain; idle lanes repeat the last."""
    chains, d, live = start.shape[1], estimate.shape[1], end - item
    lane = np.zeros((ROWS, LANES))
    noise = np.empty((AHEAD, 3, LANES))
    place = np.empty((2, LANES), np.int64)
    owner = np.empty((2, LANES), np.int64)      # map and chain of each lane: divisions cost 2.5 ns a step
    state = np.empty((LANES, 4), np.uint64)
    work = np.empty((d + 1, d))
    value = np.empty((coefficient.shape[1] - 6) // 3)
    values, wanted = np.empty((value.size, LANES)), np.empty((d, LANES))       # for d != 2
    factors = np.empty((2 * d + 2 + d * (d + 1) // 2, LANES))
    bins_x, bins_y = BINS / (limits[1, 0] - limits[0, 0]), BINS / (limits[1, 1] - limits[0, 1])
    low_x, low_y = limits[0, 0], limits[0, 1]
    box_x, box_y, per_x, per_y = box[0], box[1], box[2], box[3]
    nx, ny = grid.shape
    for l in range(LANES):
        m, c = min(item + l, end - 1) // chains, min(item + l, end - 1) % chains
        owner[0, l], owner[1, l] = m, c
        seed_state(state[l], seed, METROPOLIS + 256 * c, index[m])
        lane[X, l], lane[Y, l] = start[m, c, 0], start[m, c, 1]
        t = find(start[m, c, 0], start[m, c, 1], coefficient, neighbours, grid, box)
        lane[P, l] = log_density(start[m, c, 0], start[m, c, 1], t, coefficient, estimate, m, count, value,
                                 work)
        lane[ORIGIN_X, l], lane[ORIGIN_Y, l] = lane[X, l], lane[Y, l]
        lane[A00, l], lane[A11, l] = sigma, sigma
        for a in range(d):
            wanted[a, l] = estimate[m, a]
        if d == 2:
            lane[E0, l], lane[E1, l] = estimate[m, 0], estimate[m, 1]

    burn, nstep, batch, stored = edges[0], edges[-1], 0, 0
    window = max(burn // ADAPTATIONS // AHEAD * AHEAD, 1)
    for step in range(nstep):
        ahead = step % AHEAD
        if ahead == 0:
            if adapt and step % window == 0 and 0 < step <= ADAPTATIONS * window:
                for l in range(LANES):
                    _adapt(lane, l, window)
            for l in range(LANES):
                _draw(state[l], lane, noise, l, AHEAD)
        if step == burn:                        # behind the last adaptation, which may fall on this very step
            for l in range(LANES):
                lane[COUNT, l] = 0.0
                for s in range(SUMS):
                    lane[S0 + s, l] = 0.0
        for l in range(LANES):
            lane[NEW_X, l] = lane[X, l] + noise[ahead, 0, l]
            lane[NEW_Y, l] = lane[Y, l] + noise[ahead, 1, l]
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
            place[0, l] = locate(lane[NEW_X, l], lane[NEW_Y, l], coefficient, neighbours, -2 - place[0, l])
        for l in range(LANES):
            t, x, y = place[0, l], lane[NEW_X, l], lane[NEW_Y, l]
            if d == 2:
                t = max(t, 0)
                c0, c1 = weights(x, y, coefficient, t)
                for q in range(6):
                    lane[V0 + q, l] = (coefficient[t, 6 + q] + c0 * coefficient[t, 12 + q]
                                       + c1 * coefficient[t, 18 + q])
            else:
                if t < 0:                       # anything inside will do, its density is not used
                    x, y, t = coefficient[0, 0], coefficient[0, 1], np.int64(0)
                interpolate_one(x, y, t, coefficient, value)
                for q in range(value.size):
                    values[q, l] = value[q]
        if d != 2:
            log_densities(values, wanted, count, factors, lane[NEW_P])
            for l in range(LANES):
                lane[NEW_P, l] = lane[NEW_P, l] if place[0, l] >= 0 else -math.inf
        elif count > 0.0:
            for l in range(LANES):
                p = lane[V0, l] + log_t_2(
                    lane[E0, l] - lane[V0 + 1, l], lane[E1, l] - lane[V0 + 2, l], lane[V0 + 3, l],
                    lane[V0 + 4, l], lane[V0 + 5, l], count)
                lane[NEW_P, l] = p if place[0, l] >= 0 else -math.inf
        else:
            for l in range(LANES):
                p = lane[V0, l] + log_gaussian_2(
                    lane[E0, l] - lane[V0 + 1, l], lane[E1, l] - lane[V0 + 2, l], lane[V0 + 3, l],
                    lane[V0 + 4, l], lane[V0 + 5, l])
                lane[NEW_P, l] = p if place[0, l] >= 0 else -math.inf
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
        if step < burn:
            continue
        if (step - burn) % EVERY == 0:
            for l in range(LANES):
                place[0, l] = np.int64(min(max((lane[X, l] - low_x) * bins_x, 0.0), BINS - 1.0))
                place[1, l] = np.int64(min(max((lane[Y, l] - low_y) * bins_y, 0.0), BINS - 1.0))
            for l in range(live):
                m = owner[0, l] - first
                histogram[m, 0, place[0, l]] += 1
                histogram[m, 1, place[1, l]] += 1
        if step == edges[batch + 1] - 1:
            for l in range(live):
                for s in range(SUMS):
                    batches[owner[0, l], owner[1, l], batch, s] = lane[S0 + s, l]
            for l in range(LANES):
                for s in range(SUMS):
                    lane[S0 + s, l] = 0.0
            batch += 1
        if (step - burn + 1) % stride == 0:
            for l in range(live):
                m, c = owner[0, l], owner[1, l]
                kept[m - first, 0, c, stored] = lane[X, l]
                kept[m - first, 1, c, stored] = lane[Y, l]
                if m < lp.shape[0]:
                    lp[m, c, stored] = lane[P, l]
            stored += 1
    for l in range(live):
        accepted[owner[0, l], owner[1, l]] = np.int64(lane[COUNT, l])


@njit(error_model="numpy", cache=True, forceinline=True)
def _draw(state, lane, noise, l, steps):
    """A chain's proposals and acceptance thresholds (-ln of a uniform) for some steps ahead."""
    a00, a10, a11 = lane[A00, l], lane[A10, l], lane[A11, l]
    for k in range(steps):
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
    if lane[COUNT, l] < LEAST_MOVES:
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


@njit(error_model="numpy", cache=True, parallel=True)
def random_numbers(chains, nstep, sigma, seed):
    """What metropolis() draws for so many chains and steps, and nothing else: to time it.

    Returns (chains,) float64, one of the last numbers of each.
    """
    out = np.empty(chains)
    for group in prange((chains + LANES - 1) // LANES):
        noise, lane = np.empty((AHEAD, 3, LANES)), np.zeros((ROWS, LANES))
        state = np.empty((LANES, 4), np.uint64)
        for l in range(LANES):
            seed_state(state[l], seed, METROPOLIS, group * LANES + l)
            lane[A00, l], lane[A11, l] = sigma, sigma
        for _ in range(0, nstep, AHEAD):
            for l in range(LANES):
                _draw(state[l], lane, noise, l, AHEAD)
        for l in range(min(LANES, chains - group * LANES)):
            out[group * LANES + l] = noise[AHEAD - 1, 0, l]
    return out


@njit(error_model="numpy", cache=True)
def _quantiles(histogram, low, high, out):
    """LEVELS of a histogram (bins,), linear inside a bin, into out (5,)."""
    total = 0
    for b in range(BINS):
        total += histogram[b]
    width = (high - low) / BINS
    level, below = 0, 0
    for b in range(BINS):
        here = histogram[b]
        while level < LEVELS.size and here > 0 and below + here >= LEVELS[level] * total:
            out[level] = low + width * (b + (LEVELS[level] * total - below) / here)
            level += 1
        below += here
