"""The survey without its files: a mask, a design of cosmologies, nuisances from their priors.

    mask = procedural_mask()         # bool (1424, 176), exactly 132,019 observed pixels
    theta = design(101)              # float64 (101, 2): Omega_m, S_8

Both are formulas that imitate the challenge's files in what matters to an analysis (shape, holes,
density) and copy none of their numbers.
"""
import functools

import numpy as np
from scipy.spatial import Delaunay, QhullError

from ..core.checks import InputError
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, FRAME, N_OBSERVED, T_AGN_RANGE

OMEGA_M_RANGE, S_8_RANGE = (0.0913, 0.619), (0.680, 0.9552)   # of the challenge's design
DESIGN_SCALE = np.array([0.1055, 0.0660])    # standard deviations of the design, a metric
DESIGN_CENTRE = np.array([0.28, 0.822])      # where the design is densest
FIXED_NUISANCES = (7.85, 0.01325, 0.0)       # the centres of the priors
GOLDEN = 0.6180339887498949

# holes of the mask by kind; together with what lies outside the survey about 860 regions
DISCS, BLOBS, STREAKS, TRIPLES, PAIRS, SINGLES = 61, 333, 117, 38, 86, 222


def draw_nuisances(n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows of (log10 T_AGN, f_0, Delta_z) from the published priors: float64 (n, 3)."""
    return np.column_stack([rng.uniform(*T_AGN_RANGE, n), rng.uniform(*F_0_RANGE, n),
                            rng.normal(0.0, DELTA_Z_SIGMA, n)])


def design(n: int) -> np.ndarray:
    """n cosmologies spread like the challenge's: float64 (n, 2), Omega_m and S_8.

    A sunflower (angles by the golden section, so any n is evenly spread) inside the published
    region, thinning outwards, and about sqrt(n) points on its boundary that span the hull. Raises
    InputError below 3 points.
    """
    if n < 3:
        raise InputError(f"--cosmologies: expected at least 3 to span a region, got {n}; give a "
                         "--design file for fewer")
    edge = (_region() - DESIGN_CENTRE) / DESIGN_SCALE
    angle = np.arctan2(edge[:, 1], edge[:, 0])
    first = angle[np.argmax(edge[:, 0])]          # a boundary point sits on the largest Omega_m
    order = np.argsort(angle)
    grid = first + np.linspace(0.0, 2.0 * np.pi, 2001)
    border = np.interp(grid, angle[order], np.hypot(*edge[order].T), period=2.0 * np.pi)
    # share of the points per angle ~ border^0.6: between even (0) and the same density (2)
    share = np.concatenate([[0.0], np.cumsum(border[1:]**0.6 + border[:-1]**0.6)])
    outer = min(n, max(3, round(1.1 * np.sqrt(n))))
    inner = np.arange(n - outer)
    # radius = border x quantile^(1/1.2): a uniform density has 1/2, a real design is denser inside
    radius = ((inner + 0.5) / max(n - outer, 1))**(1.0 / 1.2) * (1.0 - 0.6 / np.sqrt(n))
    at = np.concatenate([np.interp((inner * GOLDEN) % 1.0, share / share[-1], grid),
                         first + 2.0 * np.pi * np.arange(outer) / outer])
    radius = np.concatenate([radius, np.ones(outer)]) * np.interp(at, grid, border)
    direction = np.column_stack([np.cos(at), np.sin(at)])
    return DESIGN_CENTRE + DESIGN_SCALE * radius[:, None] * direction


def _region():
    """The border of the challenge's region as a dense closed polygon, float64 (m, 2)."""
    low, high = OMEGA_M_RANGE
    om = low + (high - low) * (0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 300)))
    bottom = (S_8_RANGE[0] + 0.045 * np.clip((0.16 - om) / 0.0687, 0, 1)**1.5
              + 0.050 * np.clip((om - 0.42) / 0.199, 0, 1)**1.5)
    top = (S_8_RANGE[1] - 0.215 * np.clip((om - 0.20) / 0.419, 0, 1)**2
           - 0.130 * np.clip((0.135 - om) / 0.0437, 0, 1)**2)
    corner = np.concatenate([np.column_stack([om, bottom]), np.column_stack([om, top])[::-1]])
    parts = []
    for a, b in zip(corner, np.roll(corner, -1, axis=0)):  # sides of at most 0.01
        m = max(1, int(np.hypot(*((b - a) / DESIGN_SCALE)) / 0.01))
        parts.append(a + (b - a) * np.arange(m)[:, None] / m)
    return np.concatenate(parts)


def draw_unseen(theta: np.ndarray, n: int, rng: np.random.Generator,
                width: float = 0.5) -> np.ndarray:
    """n cosmologies off the design, from its density, inside its hull: float64 (n, 2).

    theta: (m, 2), Omega_m and S_8 of the design
    width: spread about a design point in units of its distance to the third neighbour
    Raises InputError when the design spans no area.
    """
    x = np.unique(np.asarray(theta, float), axis=0) / DESIGN_SCALE
    try:
        hull = Delaunay(x)
    except (QhullError, ValueError):
        raise InputError(f"design: {len(x)} different cosmologies span no area; unseen ones need "
                         "at least 3 that are not on a line") from None
    distance = np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, min(3, len(x) - 1)]
    out = np.empty((0, 2))
    while len(out) < n:
        pick = rng.integers(len(x), size=n + 16)
        trial = x[pick] + width * distance[pick, None] * rng.standard_normal((len(pick), 2))
        out = np.concatenate([out, trial[hull.find_simplex(trial) >= 0]])
    return out[:n] * DESIGN_SCALE


def procedural_mask() -> np.ndarray:
    """A survey mask that imitates HSC Y3's wide 12-hour field: bool (1424, 176), True = observed.

    A strip with scalloped edges, a deep block, a notch, and about 860 holes: bright-star discs of
    radius 4, blobs, streaks along the edges, single pixels. Exactly 132,019 pixels are observed;
    every call gives the same mask (its own integer generator, no library's).
    """
    chance = _Chance(20056065)
    mask = _envelope(chance)
    taken = ~mask                    # holes keep a pixel's distance from one another
    for shapes, number, near_edge in ((_disc, DISCS, 0.0), (_blob, BLOBS, 0.15),
                                      (_streak, STREAKS, 0.6),
                                      *((functools.partial(_specks, number=i + 1), n, 0.2)
                                        for i, n in ((2, TRIPLES), (1, PAIRS), (0, SINGLES)))):
        for _ in range(number):
            _place(mask, taken, shapes(chance), near_edge, chance)
    _trim(mask, N_OBSERVED, chance)
    return mask


class _Chance:
    """splitmix64 (Steele, Lea & Flood 2014): numbers that no library version changes."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        """A number from 0 to 1."""
        self.state = z = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def whole(self, low, high):
        """A whole number from low to high - 1."""
        return low + int(self.uniform() * (high - low))


def _scallops(n, chance):
    """Heights (n,) of an edge: pointed humps of 3-9 pixels every 17-21 pixels."""
    height = np.zeros(n)
    x = 0.0
    while x < n + 21:
        width, top = 3.0 + 2.0 * chance.uniform(), 3.0 + 6.0 * chance.uniform()**2
        hump = np.clip(1.0 - np.abs(np.arange(n) - x) / (1.3 * width), 0.0, 1.0)
        height = np.maximum(height, top * hump)
        x += 17.0 + 4.0 * chance.uniform()
    return height


def _envelope(chance):
    """The survey's outline: strip, deep block, notch."""
    rows, columns = FRAME
    x, y = np.arange(rows), np.arange(columns)
    top = 77.0 + _scallops(rows, chance) + 15.0 * np.clip((17.0 - x) / 8.0, 0.0, 1.0)
    # the deep block and its stairs down: flat at the end to 812, at 144 to 985, back by 1035
    block = np.interp(x, (808, 832, 985, 1006, 1012, 1035),
                      (190.0, 144.0, 144.0, 108.0, 94.0, 77.0))
    top = np.where(x >= 632, np.maximum(top, block + _scallops(rows, chance)), top)
    bottom = np.where((x >= 190) & (x < 392), 17.0 - _scallops(rows, chance), 0.0)
    mask = (y <= top[:, None]) & (y >= bottom[:, None])
    left = 640.0 - 1.6 * _scallops(columns, chance)                  # frayed left side of the block
    mask |= (x[:, None] >= left) & (x[:, None] < 640) & (y > 70)
    mask &= ~((x[:, None] < left) & (x[:, None] >= 600) & (y > 84))
    return mask


def _disc(chance):
    """The cells within a bright star's radius of 4."""
    y, x = np.mgrid[-4:5, -4:5]
    return np.argwhere(x * x + y * y <= 16) - 4


def _blob(chance):
    """A fat cross of 5, 3x3 without two corners (7, the commonest), or up to 9 pixels."""
    cells = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    number = (5, 6, 7, 7, 7, 8, 9)[chance.whole(0, 7)]
    flip = 1 if chance.uniform() < 0.5 else -1
    return np.array(cells[:number]) * (1, flip)


def _streak(chance):
    """A diagonal dash of 12 to 28 pixels, two wide at its head."""
    length, slope = chance.whole(7, 14), (chance.uniform() - 0.5) * 2.4
    cells = {(i, int(round(slope * i))) for i in range(length)}
    cells |= {(i, int(round(slope * i)) + 1) for i in range(chance.whole(length // 2, length + 2))}
    return np.array(sorted(cells))


def _specks(chance, number):
    """1 to 3 pixels that touch: steps to the right or up or both."""
    steps = [((0, 1), (1, 0), (1, 1), (1, -1))[chance.whole(0, 4)] for _ in range(number - 1)]
    return np.cumsum([(0, 0), *steps], axis=0)


def _place(mask, taken, cells, near_edge, chance):
    """Cut the cells out of mask at a free place; the share near_edge goes to the strip's edges."""
    rows, columns = FRAME
    while True:
        x = chance.whole(0, rows)
        if chance.uniform() < near_edge:
            y = chance.whole(1, 10) if chance.uniform() < 0.5 else chance.whole(64, 76)
        else:
            y = chance.whole(0, columns)
        at = cells + (x, y)
        if at.min() < 1 or (at >= (rows - 1, columns - 1)).any():
            continue
        around = [(at[:, 0] + i, at[:, 1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        if any(taken[a].any() for a in around):
            continue
        mask[at[:, 0], at[:, 1]] = False
        taken[at[:, 0], at[:, 1]] = True
        return


def _trim(mask, target, chance):
    """Raise or lower the strip's upper edge, a pixel a column, until target pixels are observed."""
    start = (np.arange(len(mask)) + chance.whole(0, len(mask))) % len(mask)
    columns = start[(start < 600) | (start > 1060)]
    while True:
        for x in columns[np.argsort((columns * GOLDEN) % 1.0)]:
            missing = target - int(mask.sum())
            if missing == 0:
                return
            top = int(np.flatnonzero(mask[x])[-1])
            if missing > 0:
                mask[x, top + 1] = True
            elif mask[x, top - 1]:                       # not down to a hole
                mask[x, top] = False
