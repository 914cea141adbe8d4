"""Halos: drawn from a slice's density field and painted into the map, one pass over its cells."""
from collections import namedtuple

import numpy as np

from . import njit
from .noise import exponential, next_uint64, normal, seed_state

HALOS = 5                # stream of random numbers, beside those of core/seeds.py
_U16, _U32, _LOW_16, _LOW_32 = (np.uint64(n) for n in (16, 32, 0xFFFF, 0xFFFFFFFF))
_TO_UNIT_16, _TO_UNIT_32 = 2.0**-16, 2.0**-32

Table = namedtuple("Table", "low step rate smooth mean chance other")
Table.__doc__ = """What a slice's Gaussian field g makes of a cell, at levels of g.

low, step: first level, and distance of levels; rate, smooth, mean: (levels,) float64, mean number
of halos, convergence without them, and with all of them even over the cell; chance, other: (levels,
kinds) float32, int16, of alias(): they draw the kind of a halo.
"""

Kinds = namedtuple("Kinds", "mass point size shape scatter")
Kinds.__doc__ = """The halos of a slice by kind, a distance and a mass: (kinds,) float32 each.

mass, point: sums over the pixels of the convergence of the extended part and of a point; size,
shape: places of radius and median concentration in Profiles; scatter: float, sd of the latter.
"""

Profiles = namedtuple("Profiles", "first reach value shapes per_pixel")
Profiles.__doc__ = """Pixel-averaged profiles of mass one by size, shape and distance from middle.

first: (sizes + 1,) int64, where the rows of a size begin, one row a shape; reach: (sizes,) float64,
where the profile ends, pixels; value: (any,) float32, all rows; shapes: number of shapes;
per_pixel: values of a row in a pixel.
"""

Turn = namedtuple("Turn", "flip_y flip_x shift_y shift_x")
Turn.__doc__ = "Where a slice's field lies in the map: flips of both axes, periodic cell shifts."


@njit()
def scatter(field, near, turn, table, smooth, seed):
    """Add the smooth part of a slice and place its halos, a Poisson process even over each cell.

    field: (rows, columns) float32, g; near: (rows, columns) bool, cells of the map that get halos;
    turn, table, seed: Turn, Table and integer of the slice; smooth: float32 as near, added to.
    Returns (n, 3) float64: y, x of each halo in cells of the map, the place of g among the levels.
    """
    rows, columns = field.shape
    rates, smooths, means = table.rate, table.smooth, table.mean
    low, per_step, last = table.low, 1.0 / table.step, len(rates) - 1 - 1e-6
    out, state = np.empty((1024, 3)), np.empty(4, np.uint64)
    seed_state(state, seed, HALOS, 0)
    rate, due, count = 0.0, exponential(state), 0
    for y in range(rows):
        to_y = ((rows - 1 - y if turn.flip_y else y) + turn.shift_y) % rows
        for x in range(columns):
            to_x = (columns - 1 - x if turn.flip_x else x) + turn.shift_x
            if to_x >= columns:
                to_x %= columns
            at = min(max((field[y, x] - low) * per_step, 0.0), last)
            i = int(at)
            part = at - i
            if not near[to_y, to_x]:
                smooth[to_y, to_x] += means[i] + part * (means[i + 1] - means[i])
                continue
            smooth[to_y, to_x] += smooths[i] + part * (smooths[i + 1] - smooths[i])
            rate += rates[i] + part * (rates[i + 1] - rates[i])
            while due < rate:              # gaps of a Poisson process are exponential
                due += exponential(state)
                if count == len(out):
                    out = np.concatenate((out, np.empty_like(out)))
                bits = next_uint64(state)
                off_y, off_x = (bits >> _U32) * _TO_UNIT_32, (bits & _LOW_32) * _TO_UNIT_32
                out[count, 0] = to_y + (1.0 - off_y if turn.flip_y else off_y)
                out[count, 1] = to_x + (1.0 - off_x if turn.flip_x else off_x)
                out[count, 2], count = at, count + 1
    return out[:count]


@njit()
def paint(sky, halos, table, kinds, profiles, seed):
    """Draw the kinds of halos and add them to the map.

    sky: (2 rows, 2 columns) float32, pixels, periodic, added to; halos: (n, 3) float64, of
    scatter(); table, kinds, profiles, seed: Table, Kinds, Profiles and integer of the slice.
    Size, shape and level lie between two that are tabulated, and are rounded to one at random.
    """
    (rows, columns), chance, other = sky.shape, table.chance, table.other
    mass, point, sizes, shapes, spread = kinds
    first, reach, value, n_shape, per_pixel = profiles
    n_kind, state = chance.shape[1], np.empty(4, np.uint64)
    seed_state(state, seed, HALOS, 1)
    stamp = np.empty((int(2.0 * np.max(reach)) + 3)**2, np.float32)
    for h in range(len(halos)):
        bits, more = next_uint64(state), next_uint64(state)
        level = int(halos[h, 2] + (bits & _LOW_16) * _TO_UNIT_16)
        pick = (bits >> _U32) * (_TO_UNIT_32 * n_kind)
        kind = int(pick)
        if (more >> _U32) * _TO_UNIT_32 >= chance[level, kind]:
            kind = int(other[level, kind])
        size = int(sizes[kind] + ((bits >> _U16) & _LOW_16) * _TO_UNIT_16)
        at = shapes[kind] + spread * normal(state) + (more & _LOW_16) * _TO_UNIT_16
        shape = min(int(max(at, 0.0)), n_shape - 1)
        size = min(max(size, 0), len(reach) - 1)
        width = (first[size + 1] - first[size]) // n_shape
        row = first[size] + shape * width
        y, x = 2.0 * halos[h, 0], 2.0 * halos[h, 1]
        _add_stamp(sky, stamp, value[row:row + width], (y, x, reach[size], per_pixel), mass[kind])
        sky[min(int(y), rows - 1), min(int(x), columns - 1)] += point[kind]


@njit(forceinline=True)
def _add_stamp(sky, stamp, profile, where, mass):
    """Add a round profile (n,) about a point, scaled so that its pixels add up to its mass."""
    (rows, columns), (at_y, at_x, far, per_pixel) = sky.shape, where     # pixel (0, 0): 0 to 1
    y0, x0, reach = np.float32(at_y - 0.5), np.float32(at_x - 0.5), np.float32(far)
    low_y, high_y = int(np.ceil(y0 - reach)), int(np.floor(y0 + reach))
    low_x, high_x = int(np.ceil(x0 - reach)), int(np.floor(x0 + reach))
    scale, top = np.float32(per_pixel), np.float32(len(profile) - 2)
    total, k = np.float32(0.0), 0
    for y in range(low_y, high_y + 1):
        dy2 = (np.float32(y) - y0)**2
        for x in range(low_x, high_x + 1):
            dx = np.float32(x) - x0
            at = min(np.sqrt(dy2 + dx * dx) * scale, top)
            i = int(at)
            stamp[k] = profile[i] + (at - np.float32(i)) * (profile[i + 1] - profile[i])
            total += stamp[k]
            k += 1
    factor, k = np.float32(mass) / total, 0
    for y in range(low_y, high_y + 1):
        to_y = y + rows if y < 0 else y - rows if y >= rows else y
        for x in range(low_x, high_x + 1):
            to_x = x + columns if x < 0 else x - columns if x >= columns else x
            sky[to_y, to_x] += factor * stamp[k]
            k += 1


@njit()
def alias(weight, chance, other):
    """Tables for drawing a kind in proportion to its weight with one comparison (Vose 1991).

    weight: (levels, kinds) float64; chance, other: (levels, kinds) float32, int16, filled: chance
    of staying with a kind drawn evenly, and the kind to take instead.
    """
    levels, kinds = weight.shape
    small, large, share = np.empty(kinds, np.int64), np.empty(kinds, np.int64), np.empty(kinds)
    for level in range(levels):
        total, n_small, n_large = 0.0, 0, 0
        for i in range(kinds):
            total += weight[level, i]
        for i in range(kinds):
            share[i] = weight[level, i] * kinds / total
            other[level, i], chance[level, i] = i, 1.0
            if share[i] < 1.0:
                small[n_small], n_small = i, n_small + 1
            else:
                large[n_large], n_large = i, n_large + 1
        while n_small > 0 and n_large > 0:
            n_small -= 1
            i, j = small[n_small], large[n_large - 1]
            chance[level, i], other[level, i] = share[i], j
            share[j] -= 1.0 - share[i]
            if share[j] < 1.0:
                n_large -= 1
                small[n_small], n_small = j, n_small + 1
