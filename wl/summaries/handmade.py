"""Hand-made statistics of maps: power spectrum, moments, one-point PDF, peaks; and measuring them.

A new statistic is a class with a NAME and a width, and an entry in Features.statistics: called with
maps (n, rows, columns) float32, zero outside the mask, it gives (n, width) float64, and a map's
numbers depend on that map alone. benchmarks/README.md says which others gained nothing.
"""
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft

from ..core import hdf5, seeds
from ..core.checks import InputError
from ..core.files import code_version
from ..core.params import HOLDOUT, N_GAL, PIXEL_ARCMIN, TRAIN, noise_sigma
from ..core.progress import Progress, saving, stop, stopped
from ..kernels import summaries as kernels
from ..maps.batches import FIXED, Batches, Frame, parts_to_summarise
from ..maps.dataset import MapSet
from ..maps.splits import Split
from .options import NetworkOptions

N_BIN, ELL_MIN, ELL_MAX = 10, 100.0, 10_000.0    # the organisers' baseline (Dai et al. 2026)
FINE_BINS = 28                          # of the spectrum among the Features
PDF_BINS = (-3.0, 0.5, 16)              # lowest edge, width, number, in units of Shapes.unit
PEAK_BINS = (0.0, 0.5, 12)
SIGNAL = 0.0114                         # typical standard deviation of kappa in a pixel
REACH = 5.2                             # of a Gaussian, in its standard deviations: 1.3e-6 is left
FAR = 1 << 14                           # pixels of the transform that a kernel comes from
MIN_TRAINING_MAPS = 100_000             # that dense networks want, all draws of noise together
MAX_DRAWS = 8     # of noise per training map, two at least: 3 leave 4.7 % more squared error than 8
MIN_PIXELS = 100                        # that a smoothed field needs to be a feature
PART_FILE, BLOCK, SAVE_SECONDS = "features.part.h5", 256, 60.0     # of measuring that was stopped


class Spectrum:
    """log10 C_ell in logarithmic bins of ell, of maps on a frame with zeros outside the mask.

    shape, n_observed: (rows, columns) of the frame, pixels inside the mask
    n_bin, ell_min, ell_max: int and floats, the bins
    |FFT|^2 x pixel area / n_observed, so that white noise of variance v has C_ell = v x pixel area;
    the mask's mode coupling stays in (a pseudo-C_ell), the same in every map. Has edges (n_bin +
    1,); count, modes per bin; used, the width bins with modes; ell, their centres.
    """

    NAME = "spectrum"

    def __init__(self, shape, n_observed, n_bin=N_BIN, ell_min=ELL_MIN, ell_max=ELL_MAX):
        side, (rows, columns) = np.radians(PIXEL_ARCMIN / 60.0), shape
        ell = 2.0 * np.pi / side * np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
        self.edges = np.geomspace(ell_min, ell_max, n_bin + 1)
        inside = (ell >= ell_min) & (ell < ell_max)
        self.bin = np.where(inside, np.digitize(ell, self.edges) - 1, n_bin).ravel()
        weight = np.full(ell.shape, 2.0)            # a column stands for its mirror image too
        weight[:, [0] if columns % 2 else [0, -1]] = 1.0
        self.count = np.bincount(self.bin, weight.ravel(), n_bin + 1)[:n_bin]
        self.order = np.argsort(self.bin, kind="stable")[:np.count_nonzero(self.bin < n_bin)]
        self.times = weight.ravel()[self.order].astype(np.float32)
        self.first = np.searchsorted(self.bin[self.order], np.arange(n_bin + 1))
        self.used = np.flatnonzero(self.count > 0)      # the lowest are empty on a small frame
        self.norm, self.width = side**2 / n_observed, len(self.used)
        self.ell = np.sqrt(self.edges[:-1] * self.edges[1:])[self.used]

    def __call__(self, kappa: np.ndarray) -> np.ndarray:
        """(n, width) float64, log10 of C_ell in steradian; -inf for a bin without power."""
        binned = np.empty((len(kappa), len(self.count)))
        for row, one in zip(binned, kappa):       # a map's bits must not depend on its neighbours
            modes = scipy.fft.rfft2(one, workers=1)
            row[:] = kernels.bin_power(modes.ravel(), self.order, self.times, self.first)
        with np.errstate(divide="ignore"):
            return np.log10(binned[:, self.used] / self.count[self.used] * self.norm)


class Shapes:
    """Moments, one-point PDF and peak counts of maps smoothed by a Gaussian, at several scales.

    mask, scales: (rows, columns) bool; standard deviations of the Gaussians in arcminutes
    bands: pairs of indices of scales, fine and coarse, whose difference has moments and PDF too
    n_gal: float, galaxies per square arcminute
    The smoothed map is divided by the smoothed mask; a pixel counts where it is observed and at
    least COVERAGE of its Gaussian is. The first and last of the bins take what lies beyond.
    Has noise and unit (n_scale + n_band,), standard deviations of smoothed noise and of a typical
    noisy map; valid (n_scale, rows, columns), pixels that count; count (n_scale + n_band,) of them.
    """

    COVERAGE = 0.6

    def __init__(self, mask, scales=(2.0, 4.0, 8.0), bands=(), n_gal=N_GAL):
        self.scales, self.bands = tuple(map(float, scales)), tuple(bands)
        self.frame, width = mask.shape, np.array(self.scales) / PIXEL_ARCMIN
        self.smoothings, kernel = _smoothings(mask, width), np.stack([_gaussian(w) for w in width])
        common = (kernel @ kernel.T)**2        # of white noise smoothed along a row, per variance
        signal = SIGNAL**2 / (1.0 + np.array(self.scales) / 2.0)
        fine, coarse = (np.array([band[k] for band in self.bands], int) for k in (0, 1))
        white, signal = (
            np.concatenate([value, value[fine] + value[coarse] - twice]) for value, twice in (
                (common.diagonal(), 2.0 * common[fine, coarse]), (signal, 2.0 * signal[coarse])))
        self.noise = noise_sigma(n_gal) * np.sqrt(white)
        self.unit = np.sqrt(self.noise**2 + signal)
        cover = [self._plain(b) for b in next(self._blocks(mask[None].astype(np.float32)))]
        self.valid = np.stack([mask & (c >= self.COVERAGE) for c in cover])
        self.weight = [np.where(v, 1.0 / np.maximum(c, 0.5), 0.0).astype(np.float32)
                       for v, c in zip(self.valid, cover)]
        self.block_weight = [in_blocks(w) for w in self.weight]
        both = [in_blocks(np.float32(self.valid[i] & self.valid[j])) for i, j in self.bands]
        self.field_weight = [*self.block_weight, *both]
        self.count = np.array([np.count_nonzero(w) for w in self.field_weight])

    def _blocks(self, kappa):
        """Map by map, the maps smoothed at all scales, in blocks; the next overwrites them."""
        lanes, pad = kernels.LANES, self.smoothings[0].pad
        down, right = (-(-n // lanes) for n in self.frame)
        sizes = (down, right, pad), (right, down, pad), *[(right, down, 0)] * len(self.smoothings)
        turned, between, *out = (_aligned_zeros(n, (m * lanes + 2 * more) * lanes)
                                 for n, m, more in sizes)
        for one in kappa:
            kernels.turn(one, pad, turned)
            for smoothing, block in zip(self.smoothings, out):
                kernels.smooth(turned, smoothing, between, block)
            yield out

    def _plain(self, block):
        rows, columns = self.frame
        lanes = block.reshape(len(block), -1, kernels.LANES)[:, :rows].swapaxes(0, 1)
        return lanes.reshape(rows, -1)[:, :columns]

    def smooth(self, kappa: np.ndarray) -> np.ndarray:
        """(n_scale, rows, columns) float32 of a map, zero where no pixel counts."""
        blocks = next(self._blocks(kappa[None]))
        return np.stack([weight * self._plain(block) for weight, block in zip(self.weight, blocks)])

    def distributions(self, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moments 2, 3, 4 (n, n_scale + n_band, 3) and histograms (n, ..., n_bin) of n maps."""
        n, bins, scales = (len(kappa), len(self.count)), np.array(PDF_BINS), len(self.scales)
        moments, histogram = np.empty((*n, 3)), np.empty((*n, PDF_BINS[2]))
        between, along = np.zeros_like(self.field_weight[0]), self.smoothings[0].along
        for i, blocks in enumerate(self._blocks(kappa)):
            for j, (unit, weight) in enumerate(zip(self.unit, self.field_weight)):
                if j >= scales:
                    fine, coarse = self.bands[j - scales]
                    kernels.subtract(blocks[fine], self.block_weight[fine], blocks[coarse],
                                     self.block_weight[coarse], along, between)
                moments[i, j], histogram[i, j] = kernels.distribution(
                    blocks[j] if j < scales else between, weight, along, bins * (unit, unit, 1.0))
        return moments, histogram

    def peaks(self, smoothed: np.ndarray) -> np.ndarray:
        """Peaks (n_scale, n_bin) by height of a map that smooth() gave; of its negative, minima."""
        return np.stack([peak_counts(field, valid, np.array(PEAK_BINS) * (unit, unit, 1.0))
                         for field, valid, unit in zip(smoothed, self.valid, self.unit)])


class OnePoint:
    """Of maps smoothed as by Shapes and of neighbouring scales' differences moments and PDF.

    Ln variance, skewness, kurtosis; root of the share of the pixels in each bin: nearly Gaussian.
    """

    NAME = "one_point"

    def __init__(self, mask: np.ndarray, n_gal: float, scales):
        self.shapes = Shapes(mask, scales, [(k, k + 1) for k in range(len(scales) - 1)], n_gal)
        self.used = np.flatnonzero(self.shapes.count >= MIN_PIXELS)
        self.width = len(self.used) * (3 + PDF_BINS[2])

    def __call__(self, kappa: np.ndarray) -> np.ndarray:
        """(n, width) float64 of maps (n, rows, columns) float32; infinite for one without power."""
        moments, histogram = (values[:, self.used] for values in self.shapes.distributions(kappa))
        variance, third, fourth = np.moveaxis(moments, 2, 0)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.log(variance), third / variance**1.5, fourth / variance**2,
                     np.sqrt(histogram / histogram.sum(2, keepdims=True))]
        return np.concatenate(parts, 2).reshape(len(kappa), self.width)


class Features:
    """All statistics that the dense networks learn from; a new one joins the list here."""

    def __init__(self, mask: np.ndarray, n_gal: float, scales):
        self.statistics = [Spectrum(mask.shape, int(mask.sum()), n_bin=FINE_BINS),
                           OnePoint(mask, n_gal, scales)]
        self.width = sum(statistic.width for statistic in self.statistics)

    def __call__(self, kappa: np.ndarray) -> np.ndarray:
        """(n, width) float64 of maps (n, rows, columns) float32, zero outside the mask."""
        return np.concatenate([statistic(kappa) for statistic in self.statistics], axis=1)


def blocks(file: hdf5.File) -> dict[str, np.ndarray]:
    """{name: columns} of each statistic in a features_file(); its finest parts are blocks too."""
    kind = [name.rpartition("_")[0] for name in file.coords["features"]["feature"]]
    found = {name: np.flatnonzero(np.array(kind) == name) for name in dict.fromkeys(kind)}
    found["small_scales"] = found["spectrum"][len(found["spectrum"]) // 2:]
    each = found.get("one_point", np.arange(0)).reshape(-1, 3 + PDF_BINS[2])  # scales, then bands
    found["fine_bands"] = each[len(each) // 2 + 1:][:2].ravel()
    return found


def _gaussian(width):
    """exp(-2 pi^2 width^2 f^2), f up to 1/2, as a kernel (FAR,) at distances 0, 1, ..., -2, -1."""
    # a narrow one is cut off at the highest frequency and rings: it falls as 1 / distance^2
    return np.fft.irfft(np.exp(-2.0 * (np.pi * width * np.fft.rfftfreq(FAR))**2), FAR)


def _smoothings(mask, width):
    """kernels.Smoothing on a mask for each width (n,), standard deviations in pixels."""
    # geometric series of fixed ratios fit a ringing tail: a kernel is at most 2e-5 of its norm off
    # (at a width of 0.5), and smoothed maps 1.2e-5 of their standard deviation
    reach = [kernels.GROUP * max(1, int(np.ceil(REACH * w / kernels.GROUP))) for w in width]
    ratio = (-np.exp(-np.geomspace(0.015, 0.4, kernels.TRAILS))).astype(np.float32)
    areas, out, distance = _observed_blocks(mask, max(reach)), [], np.arange(FAR // 2)
    series = ratio.astype(float) ** distance[:, None]
    for w, near in zip(width, reach):
        value, far = _gaussian(w)[distance], distance > near
        share = np.zeros(kernels.TRAILS, np.float32)
        if np.linalg.norm(value[far]) > 1e-5 * np.linalg.norm(value):
            share = np.linalg.lstsq(series[far], value[far])[0].astype(np.float32)
            value[1:] -= series[1:] @ share
        taps = value[:near + 1].astype(np.float32)
        out.append(kernels.Smoothing(taps, ratio, share, max(reach), *areas))
    return out


def _observed_blocks(mask, margin):
    """across and along of kernels.Smoothing: observed pixels with `margin` rows around."""
    lanes = kernels.LANES
    down, right = (-(-n // lanes) for n in mask.shape)
    across, along = np.zeros((down, 2), np.int64), np.zeros((right, 2), np.int64)
    need = np.zeros((down * lanes, right), bool)
    for c in range(right):
        rows = np.flatnonzero(mask[:, c * lanes:(c + 1) * lanes].any(1))
        if rows.size:
            along[c] = max(rows[0] - margin, 0), min(rows[-1] + 1 + margin, len(mask))
            need[along[c, 0]:along[c, 1], c] = True
    for b in range(down):
        found = np.flatnonzero(need[b * lanes:(b + 1) * lanes].any(0))
        if found.size:
            across[b] = found[0], found[-1] + 1
    return across, along


def _aligned_zeros(rows, columns):
    """Zeros (rows, columns) float32 that begin on a cache line: 0.8 ms a smoothing, 1.1 else."""
    raw = np.zeros(rows * columns + 16, np.float32)
    return raw[-(raw.ctypes.data // 4) % 16:][:rows * columns].reshape(rows, columns)


def peak_counts(field: np.ndarray, valid: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Histogram (bins[2],) int64 of peaks: pixels above eight neighbours, all valid, in the frame.

    field, valid: (rows, columns) float, bool; bins: (3,), as kernels.distribution() takes them
    """
    (rows, columns), middle = field.shape, field[1:-1, 1:-1]
    found = np.ones(middle.shape, bool)
    for j, k in np.ndindex(3, 3):
        around = np.s_[j:rows - 2 + j, k:columns - 2 + k]
        found &= valid[around] & ((middle > field[around]) | (j == k == 1))
    place = (middle[found].astype(float) - bins[0]) / bins[1]
    return np.bincount(np.clip(place, 0, bins[2] - 1).astype(int), minlength=int(bins[2]))


def in_blocks(field: np.ndarray) -> np.ndarray:
    """A map (rows, columns) in the kernels' blocks of columns, zeros around it."""
    out = np.pad(field, [(0, -n % kernels.LANES) for n in field.shape])
    turned = out.reshape(len(out), -1, kernels.LANES).swapaxes(0, 1)
    return turned.reshape(len(turned), -1)


def measure(statistic, batches: Batches, rows: np.ndarray, noise: int, threads: int = 1,
            progress=None, chunk: int = 8) -> np.ndarray:
    """A Spectrum or Features of many maps, the same for any number of threads.

    batches, rows, noise: Batches on an unpacked frame, scale 1; (n,) int, its maps; for fetch()
    progress, chunk: with update(n), or None; int, maps that a thread takes at a time
    Returns (n, width) float64. Raises InputError for a number that is not finite.
    """
    out, step = np.empty((len(rows), statistic.width)), chunk * threads
    frames = np.empty((min(len(rows), step), 1, *batches.frame.shape), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), step):
            part = rows[start:start + step]
            kappa = batches.fetch(part, noise=noise, out=frames[:len(part)])[:, 0]
            pieces = np.array_split(kappa, min(threads, len(part)))
            out[start:start + step] = np.concatenate(list(pool.map(statistic, pieces)))
            if progress is not None:
                progress.update(len(part))
    dead = ~np.isfinite(out).all(1)
    if dead.any():
        raise InputError(f"map {rows[dead.argmax()]} of {len(batches.maps)}: expected finite "
                         "statistics, got NaN, or no power in a bin of ell; repair the file")
    return out


def draws_of(split: Split, options: NetworkOptions) -> tuple[np.ndarray, int]:
    """The maps that train, rows (n,) int64, and how many draws of noise each of them gets."""
    rows = split.rows_of(split.code != HOLDOUT if split.has_folds else split.code == TRAIN)
    least = min(max(2, -(-MIN_TRAINING_MAPS // len(rows))), MAX_DRAWS)
    return rows, options.of_statistics()["draws"] or least


def features_file(maps: MapSet, split: Split, options: NetworkOptions,
                  folder: hdf5.Folder) -> hdf5.File:
    """features.h5 of a run whose options have the part "statistics", made if need be.

    Returns the file: "fixed" (map, feature) of all maps in their order, with the noise of emulator
    and hold-out maps; "fresh" (noise_draw, row, feature), further draws of noise for the maps
    `rows` that train; "test" (test_map, feature). Raises InputError.
    """
    own, seed, (rows, draws) = options.of_statistics(), folder.seed, draws_of(split, options)
    frame, every = Frame(maps.mask, pack=False), np.arange(len(maps.flat_kappa))
    features = Features(frame.observed, maps.n_gal, own["scales"])
    statistics = {one.NAME: one.width for one in features.statistics}
    settings = {"scales": list(own["scales"]), "statistics": statistics, "draws": draws,
                "rows": hdf5.digest_array(rows), "n_gal": maps.n_gal, "test_maps": split.n_test}
    digests = folder.digests(maps.files)
    found = folder.reuse("features.h5", "features", settings, digests)
    if found is not None:
        return found
    maps.check_maps(folder.quiet)
    parts = [*parts_to_summarise(maps, split, every, frame, seed=seed)]
    # FIXED noise, whose tails are exact, as emulator and test maps have
    parts += [(Batches(maps.flat_kappa, frame, scale=1.0, n_gal=maps.n_gal,
                       seed=seeds.number(seed, seeds.NOISE_DRAW, k)), rows, FIXED)
              for k in range(1, draws)]
    progress = Progress(sum(len(part[1]) for part in parts), "measuring statistics", folder.quiet)
    made = {"settings": settings, "inputs": digests}
    values = _kept(folder, made, parts, lambda *part: measure(
        features, *part, options.threads, progress).astype(np.float32), progress)
    groups = {"fixed": hdf5.Var(("map", "feature"), values[0]), "rows": hdf5.Var(("row",), rows)}
    if draws > 1:
        groups["fresh"] = hdf5.Var(("noise_draw", "row", "feature"), np.stack(values[1 - draws:]))
    if split.n_test:
        groups["test"] = hdf5.Var(("test_map", "feature"), values[1])
    progress.close()
    names = [f"{name}_{k + 1}" for name, width in statistics.items() for k in range(width)]
    file = folder.write("features.h5", "features", {"features": groups}, **made,
                        origin=maps.origin(), coords={"feature": names, "map": maps.n_test + every})
    (folder.out / PART_FILE).unlink(missing_ok=True)
    return file


def _kept(folder, made, parts, measured, progress):
    """measured(*part) of each part; what is done is kept each minute and at a signal."""
    try:
        found = hdf5.reusable(folder.out / PART_FILE, "features", **made, seed=folder.seed)
    except InputError:                                  # damaged, or of other settings
        found = None
    known = found is not None and found.code_version.split()[0] == code_version().split()[0]
    old, new, saved = found.groups["features"]["done"] if known else (), [], time.monotonic()
    progress.begin_at(len(old))
    with saving():
        for batches, rows, noise in parts:
            for start in range(0, len(rows), BLOCK):
                some = rows[start:start + BLOCK]
                values, old = old[:len(some)], old[len(some):]
                new.append(values if len(values) == len(some) else measured(batches, some, noise))
                if stopped() or time.monotonic() - saved > SAVE_SECONDS:
                    done = hdf5.Var(("row", "feature"), np.concatenate(new))
                    folder.write(PART_FILE, "features", {"features": {"done": done}}, **made)
                    saved = time.monotonic()
                    stop()
    return np.split(np.concatenate(new), np.cumsum([len(rows) for _, rows, _ in parts])[:-1])
