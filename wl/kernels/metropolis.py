"""Random-walk Metropolis (Metropolis et al. 1953) over many maps at once, several chains a map.

A group of chains walks in step. Each step is a few loops over the chains without a branch that
depends on the data, so that the processor overlaps the chains; only a cell of the grid that several
triangles share needs one. A chain's numbers come from a generator of its own, seeded by (seed,
stream + 256 chain, global map index): results depend on neither groups, blocks, shards nor threads.
"""
import math

import numpy as np
from numba import njit, prange

from .generators import METROPOLIS, exponential, normal, seed_state
from .likelihood import log_density, log_density_2, log_density_d
from .triangles import cell, locate, weights

LANES = 16             # chains that walk in step (more if one map has more chains)
AHEAD = 32             # steps whose random numbers are drawn at a time
BINS = 1024            # of the marginal histograms, over the hull's bounding box
SUMS = 5               # x, y, x^2, y^2, x y, relative to the chain's start
LEVELS = np.array([0.025, 0.16, 0.5, 0.84, 0.975])


@njit(cache=True, parallel=True)
def metropolis(coefficient, neighbours, grid, box, limits, estimate, start, index, seed, sigma, edges,
               stride, batches, accepted, quantiles, draws, lp):
    """Walk all chains of all maps.

    coefficient, neighbours, grid, box: the emulator (triangles.py); limits: (2, 2) float64, the
    hull's lowest and highest Omega_m and S_8; estimate: (n, d) float64; start: (n, chains, 2)
    float64 inside the hull; index: (n,) int64, global map index; seed: uint64; sigma: float64;
    edges: (batches + 1,) int64, the kept steps [edges[0], edges[-1]) cut into batches; stride:
    int64, steps between stored draws.
    Filled: batches (n, chains, batches, 5) float64, sums over the steps of a batch; accepted
    (n, chains) int64 among the kept; quantiles (n, 2, 5) float64 of all chains together;
    draws (k, chains, m, 2) and lp (k, chains, m) float64 for the first k <= n maps.
    """
    n, chains = start.shape[0], start.shape[1]
    size = max(LANES // chains, 1)
    for group in prange((n + size - 1) // size):
        first = group * size
        _walk(first, min(first + size, n), coefficient, neighbours, grid, box, limits, estimate, start,
              index, seed, sigma, edges, stride, batches, accepted, quantiles, draws, lp)


@njit(cache=True)
def _walk(first, last, coefficient, neighbours, grid, box, limits, estimate, start, index, seed, sigma,
          edges, stride, batches, accepted, quantiles, draws, lp):
    """metropolis() for maps first to last - 1; lane l is chain l % chains of map first + l // chains."""
    chains, d = start.shape[1], estimate.shape[1]
    lanes = (last - first) * chains
    now = np.empty((3, lanes))                 # x, y, log-posterior
    new = np.empty((3, lanes))
    origin = np.empty((2, lanes))
    given = np.empty((2, lanes))               # the summaries, for d = 2
    triangle = np.empty(lanes, np.int64)
    sums = np.zeros((SUMS, lanes))
    count = np.zeros(lanes, np.int64)
    histogram = np.zeros((lanes, 2, BINS), np.int32)
    state = np.empty((lanes, 4), np.uint64)
    noise = np.empty((AHEAD, 3, lanes))
    work = np.empty((d + 1, d))
    bins_x, bins_y = BINS / (limits[1, 0] - limits[0, 0]), BINS / (limits[1, 1] - limits[0, 1])
    for l in range(lanes):
        m, c = first + l // chains, l % chains
        seed_state(state[l], seed, METROPOLIS + 256 * c, index[m])
        now[0, l], now[1, l] = start[m, c, 0], start[m, c, 1]
        now[2, l] = log_density(now[0, l], now[1, l], coefficient, neighbours, grid, box, estimate, m,
                                work)
        origin[0, l], origin[1, l] = now[0, l], now[1, l]
        given[0, l], given[1, l] = estimate[m, 0], estimate[m, 1]

    burn, nstep, batch, stored = edges[0], edges[-1], 0, 0
    for step in range(nstep):
        k = step % AHEAD
        if k == 0:
            for l in range(lanes):
                _draw(state[l], sigma, noise, l, min(AHEAD, nstep - step))
        for l in range(lanes):
            new[0, l] = now[0, l] + noise[k, 0, l]
            new[1, l] = now[1, l] + noise[k, 1, l]
            triangle[l] = cell(new[0, l], new[1, l], grid, box)
        for l in range(lanes):
            if triangle[l] < -1:
                triangle[l] = locate(new[0, l], new[1, l], coefficient, neighbours, -2 - triangle[l])
        if d == 2:
            for l in range(lanes):
                t = max(triangle[l], 0)
                c0, c1 = weights(new[0, l], new[1, l], coefficient, t)
                p = log_density_2(c0, c1, coefficient, t, given[0, l], given[1, l])
                new[2, l] = p if triangle[l] >= 0 else -math.inf
        else:
            for l in range(lanes):
                t = triangle[l]
                new[2, l] = -math.inf
                if t >= 0:
                    c0, c1 = weights(new[0, l], new[1, l], coefficient, t)
                    new[2, l] = log_density_d(c0, c1, coefficient, t, estimate, first + l // chains, work)
        for l in range(lanes):
            accept = new[2, l] > now[2, l] - noise[k, 2, l]
            now[0, l] = new[0, l] if accept else now[0, l]
            now[1, l] = new[1, l] if accept else now[1, l]
            now[2, l] = new[2, l] if accept else now[2, l]
            count[l] += accept
            x, y = now[0, l] - origin[0, l], now[1, l] - origin[1, l]
            sums[0, l] += x
            sums[1, l] += y
            sums[2, l] += x * x
            sums[3, l] += y * y
            sums[4, l] += x * y
        if step < burn:
            if step == burn - 1:
                count[:] = 0
                sums[:] = 0.0
            continue
        for l in range(lanes):
            i = np.int64((now[0, l] - limits[0, 0]) * bins_x)
            j = np.int64((now[1, l] - limits[0, 1]) * bins_y)
            histogram[l, 0, min(max(i, 0), BINS - 1)] += 1
            histogram[l, 1, min(max(j, 0), BINS - 1)] += 1
        if step == edges[batch + 1] - 1:
            for l in range(lanes):
                for s in range(SUMS):
                    batches[first + l // chains, l % chains, batch, s] = sums[s, l]
                    sums[s, l] = 0.0
            batch += 1
        if first < draws.shape[0] and (step - burn + 1) % stride == 0 and stored < draws.shape[2]:
            for l in range(min(lanes, (draws.shape[0] - first) * chains)):
                m, c = first + l // chains, l % chains
                draws[m, c, stored, 0], draws[m, c, stored, 1] = now[0, l], now[1, l]
                lp[m, c, stored] = now[2, l]
            stored += 1
    for l in range(lanes):
        accepted[first + l // chains, l % chains] = count[l]
    for m in range(first, last):
        for p in range(2):
            _quantiles(histogram[(m - first) * chains:(m - first + 1) * chains, p], limits[0, p],
                       limits[1, p], quantiles[m, p])


@njit(cache=True, forceinline=True)
def _draw(state, sigma, noise, lane, steps):
    """A chain's proposals and acceptance thresholds (-ln of a uniform) for some steps ahead."""
    for k in range(steps):
        noise[k, 0, lane] = sigma * normal(state)
        noise[k, 1, lane] = sigma * normal(state)
        noise[k, 2, lane] = exponential(state)


@njit(cache=True)
def _quantiles(histogram, low, high, out):
    """LEVELS of the summed histograms (chains, bins), linear inside a bin, into out (5,)."""
    total = 0
    for c in range(histogram.shape[0]):
        for b in range(BINS):
            total += histogram[c, b]
    width = (high - low) / BINS
    level, below = 0, 0
    for b in range(BINS):
        here = 0
        for c in range(histogram.shape[0]):
            here += histogram[c, b]
        while level < LEVELS.size and below + here > 0 and below + here >= LEVELS[level] * total:
            inside = (LEVELS[level] * total - below) / here if here > 0 else 0.0
            out[level] = low + width * (b + min(max(inside, 0.0), 1.0))
            level += 1
        below += here
