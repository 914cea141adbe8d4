"""From maps on disk to batches for a network: frames, fresh or fixed noise, symmetries."""
from collections import namedtuple
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from ..core import seeds
from ..core.params import noise_sigma
from ..kernels import on_threads
from ..kernels.noise import Layout, Noise, fill_batch

N_SYMMETRY = 4                         # identity, rows reversed, columns reversed, both
NO_NOISE, FRESH, FIXED = range(3)


class Frame:
    """Where the observed pixels of a mask lie in the array that a network sees.

    mask: (rows, columns) bool
    pack: bool, lay the columns that only some rows reach below the others: no pixel is lost, and
        1424 x 176 of the survey become 1840 x 104, 24 % fewer pixels to convolve
    overlap: int, columns that both parts of a folded frame hold
    Has shape, (rows, columns) of the result, and targets and copies for kernels.noise.Layout.
    """

    def __init__(self, mask: np.ndarray, pack: bool = True, overlap: int = 32):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        self.shape = tuple(-(-n // 8) * 8 for n in box.shape)
        y, x = np.nonzero(box)
        flat, first, folds = y * self.shape[1] + x, np.zeros((0, 2), np.int64), []
        for cut in range(overlap + 1, box.shape[1] if pack else 0):
            beyond = np.flatnonzero(box[:, cut:].any(1))
            # room above and below lets a filter see the overlap's surroundings
            top, bottom = max(beyond[0] - 8, 0), min(beyond[-1] + 9, box.shape[0])
            area = (box.shape[0] + bottom - top) * max(cut, box.shape[1] - cut + overlap)
            folds.append((area, cut, top, bottom))
        area, cut, top, bottom = min(folds, default=(self.size, 0, 0, 0))
        if area < 0.9 * self.size:
            width = -(-max(cut, box.shape[1] - cut + overlap) // 8) * 8
            self.shape = int(-(-(box.shape[0] + bottom - top) // 8) * 8), int(width)
            above, below = y * width + x, (box.shape[0] + y - top) * width + x - cut + overlap
            flat = np.where(x < cut, above, below)
            twice = (x >= cut - overlap) & (x < cut) & (y >= top) & (y < bottom)
            first = np.stack([above[twice], below[twice]], 1)
        place = np.arange(self.size, dtype=np.int32).reshape(self.shape)
        turned = np.stack([np.flip(place, axes).ravel() for axes in ((), 0, 1, (0, 1))])
        self.targets, self.copies = turned.take(flat, 1), turned.take(first, 1)

    size = property(lambda self: self.shape[0] * self.shape[1], doc="Pixels of the frame.")

    @property
    def observed(self) -> np.ndarray:
        """Where the observed pixels lie, (rows, columns) bool."""
        return np.bincount(self.targets[0], minlength=self.size).reshape(self.shape) > 0


class Batches:
    """Draws batches of standardised maps from a memory map.

    maps: (n_map, n_observed) float16, noiseless, or noisy with n_gal=None; frame: Frame
    scale: float, what a pixel is divided by (the training set's rms, signal and noise together)
    n_gal: float, source galaxies per square arcminute, or None; seed: int, of the noise
    """

    def __init__(self, maps: np.ndarray, frame: Frame, *, scale: float,
                 n_gal: float | None = 30.0, seed: int = 0):
        if maps.ndim != 2 or maps.shape[1] != frame.targets.shape[1]:
            raise ValueError(f"maps of shape {maps.shape} do not fit a mask of "
                             f"{frame.targets.shape[1]} pixels")
        self.maps, self.frame, self.seed = maps.view(np.uint16), frame, int(seed)
        bits = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
        with np.errstate(invalid="ignore"):
            self.decode = (bits / scale).astype(np.float32)
        self.noise = 0.0 if n_gal is None else noise_sigma(n_gal) / scale
        z = ndtri((np.arange(65536) + 0.5) / 65536)
        self.quantiles = (self.noise * z / z.std()).astype(np.float32)

    def fetch(self, rows: np.ndarray, *, noise: int, draws: np.ndarray | None = None,
              symmetry: np.ndarray | int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """A batch (n, 1, height, width) float32; allocates nothing that depends on n_map.

        rows: (n,) int, maps
        noise: int, NO_NOISE, FRESH (a new draw per index in draws), FIXED (an exact one per map)
        draws: (n,) int64 for FRESH alone, e.g. epoch x n_map + row
        symmetry, out: (n,) int, 0 to 3, or one for all; contiguous array to write to, or None
        """
        rows = np.ascontiguousarray(rows, np.int64)
        draws = rows if draws is None or noise != FRESH else np.ascontiguousarray(draws, np.int64)
        symmetry = np.full(len(rows), symmetry, np.int64)
        for name, at, n in (("rows", rows, len(self.maps)), ("symmetry", symmetry, N_SYMMETRY)):
            if len(at) and not 0 <= at.min() <= at.max() < n:           # compiled code never looks
                raise IndexError(f"{name}: expected 0 to {n - 1}, got {at.min()} to {at.max()}")
        if out is None:
            out = np.empty((len(rows), 1, *self.frame.shape), np.float32)
        noise = NO_NOISE if self.noise == 0.0 else noise
        stream = seeds.TRAINING_NOISE if noise == FRESH else seeds.FIXED_NOISE
        quantiles = self.quantiles if noise != NO_NOISE else self.quantiles[:0]
        flat, layout = (out.reshape(len(rows), self.frame.size),
                        Layout(self.frame.targets, self.frame.copies))
        drawn = Noise(quantiles, self.noise, noise == FIXED, self.seed, stream)
        on_threads(lambda part: fill_batch(flat[part], self.maps, self.decode, rows[part],
                                           draws[part], symmetry[part], layout, drawn), len(rows))
        return out


Part = namedtuple("Part", "source rows noise")
Part.__doc__ = """Maps summarised alike: a Batches, (n,) int64 of its maps, noise for fetch()."""


def parts_to_summarise(maps, split, rows: np.ndarray, frame: Frame, *, scale: float = 1.0,
                       seed: int = 0) -> Iterator[Part]:
    """The maps that get summaries, in the order of a predictions file, with their lasting noise.

    rows: (n,) int64, noiseless maps, those of the emulator split and the hold-out
    scale, seed: what a pixel is divided by; of the noise, the same for every network
    Yields Part: noiseless maps with their noise, then the test maps as they are.
    """
    noiseless = Batches(maps.flat_kappa, frame, scale=scale, n_gal=maps.n_gal, seed=seed)
    yield Part(noiseless, rows, FIXED)
    if split.n_test:
        test = Batches(maps.noisy_test, frame, scale=scale, n_gal=None)
        yield Part(test, np.arange(split.n_test), NO_NOISE)


def rms(maps: np.ndarray, n_gal: float = 30.0) -> float:
    """Rms of a pixel, signal and noise, from 256 of noiseless maps (n_map, n_observed) float16."""
    rows = np.random.default_rng(0).choice(len(maps), min(256, len(maps)), replace=False)
    signal = np.mean([np.mean(maps[r].astype(np.float64)**2) for r in np.sort(rows)])
    return float(np.sqrt(signal + noise_sigma(n_gal)**2))
