"""The survey mask of simulated sets, wl/simulate/mask.npz: a formula that imitates HSC Y3's.

    python benchmarks/mask.py            # compares the file with the formula
    python benchmarks/mask.py --write    # writes it again

It copies none of the real mask's numbers, but resembles it in what matters to an analysis: shape,
number of observed pixels, holes by size. tests/simulate/test_mask.py holds both against it.
"""
import functools
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from wl.core.params import FRAME, N_OBSERVED  # noqa: E402
from wl.simulate.plan import GOLDEN, procedural_mask  # noqa: E402


def make() -> np.ndarray:
    """A survey mask that imitates HSC Y3's wide 12-hour field: bool (1424, 176), True = observed.

    A strip with scalloped edges, a deep block, a notch, and about 860 holes: discs around bright
    stars, blobs, streaks along the edges, single pixels. Exactly 132,019 pixels are observed.
    """
    chance = chances(20056065)
    mask = _envelope(chance)
    taken = ~mask                    # holes keep a pixel's distance from one another
    for shape, number, near_edge in HOLES:
        for _ in range(number):
            _place(mask, taken, shape(chance), near_edge, chance)
    trim(mask, N_OBSERVED, chance)
    return mask


def chances(state):
    """Numbers from 0 to 1 that no library version changes: splitmix64, Steele et al. 2014."""
    while True:
        z = state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield ((z ^ (z >> 31)) >> 11) * 2.0**-53


def _whole(chance, low, high):
    return low + int(next(chance) * (high - low))


def _scallops(n, chance):
    """Heights (n,) of an edge: pointed humps of 3-9 pixels every 17-21 pixels."""
    height, x = np.zeros(n), 0.0
    while x < n + 21:
        width, top = 3.0 + 2.0 * next(chance), 3.0 + 6.0 * next(chance)**2
        hump = np.clip(1.0 - np.abs(np.arange(n) - x) / (1.3 * width), 0.0, 1.0)
        height = np.maximum(height, top * hump)
        x += 17.0 + 4.0 * next(chance)
    return height


def _envelope(chance):
    """The survey's outline: strip, deep block, notch."""
    (rows, columns), (x, y) = FRAME, map(np.arange, FRAME)
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


def _blob(chance):
    """A fat cross of 5, 3x3 without two corners (7, the commonest), or up to 9 pixels."""
    cells = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    number = (5, 6, 7, 7, 7, 8, 9)[_whole(chance, 0, 7)]
    return np.array(cells[:number]) * (1, 1 if next(chance) < 0.5 else -1)


def _streak(chance):
    """A diagonal dash of 12 to 28 pixels, two wide at its head."""
    n, slope = _whole(chance, 7, 14), (next(chance) - 0.5) * 2.4
    cells = {(i, int(round(slope * i))) for i in range(n)}
    cells |= {(i, int(round(slope * i)) + 1) for i in range(_whole(chance, n // 2, n + 2))}
    return np.array(sorted(cells))


def _specks(chance, more=0):
    """A pixel and more that touch: steps to the right or up or both."""
    steps = [((0, 1), (1, 0), (1, 1), (1, -1))[_whole(chance, 0, 4)] for _ in range(more)]
    return np.cumsum([(0, 0), *steps], axis=0)


DISC = np.argwhere(np.hypot(*np.mgrid[-4:5, -4:5]) <= 4.0) - 4       # around a bright star
# holes of the mask: shape, number, share at the strip's edges; about 860 with what lies outside
HOLES = ((lambda _: DISC, 61, 0.0), (_blob, 333, 0.15), (_streak, 117, 0.6),
         *((functools.partial(_specks, more=i), n, 0.2) for i, n in ((2, 38), (1, 86), (0, 222))))


def _place(mask, taken, cells, near_edge, chance):
    """Cut the cells out of mask at a free place; the share near_edge goes to the strip's edges."""
    rows, columns = FRAME
    while True:
        x, edge = _whole(chance, 0, rows), (0, columns)
        if next(chance) < near_edge:
            edge = (1, 10) if next(chance) < 0.5 else (64, 76)
        at = cells + (x, _whole(chance, *edge))
        if at.min() < 1 or (at >= (rows - 1, columns - 1)).any():
            continue
        y, x = at.T
        if not any(taken[y + i, x + j].any() for i in (-1, 0, 1) for j in (-1, 0, 1)):
            mask[y, x], taken[y, x] = False, True
            return


def trim(mask, target, chance):
    """Raise or lower the strip's upper edge, a pixel a column, until target pixels are observed."""
    start = (np.arange(len(mask)) + _whole(chance, 0, len(mask))) % len(mask)
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


def main():
    mask, path = make(), ROOT / "wl" / "simulate" / "mask.npz"
    if "--write" in sys.argv[1:]:
        np.savez_compressed(path, mask=np.packbits(mask, axis=1))
    same = path.is_file() and np.array_equal(mask, procedural_mask())
    print(f"{path.name}: {'is' if same else 'is NOT'} what the formula gives, {mask.sum()} pixels")


if __name__ == "__main__":
    main()
