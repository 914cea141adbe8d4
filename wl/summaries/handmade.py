"""Hand-made statistics of maps: the binned angular power spectrum, and what lies beyond it."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft

from ..core.checks import InputError
from ..kernels import summaries as kernels
from ..core.params import N_GAL, PIXEL_ARCMIN, noise_sigma

N_BIN, ELL_MIN, ELL_MAX = 10, 100.0, 10_000.0    # the organisers' baseline (Dai et al. 2026)
PDF_BINS = (-3.0, 0.5, 16)              # lowest edge, width, number, in units of Shapes.unit
PEAK_BINS = (0.0, 0.5, 12)
SIGNAL = 0.0114                         # standard deviation of kappa in a pixel, typical of the survey


class Spectrum:
    """log10 C_ell in logarithmic bins of ell, of maps on a frame with zeros outside the mask.

    shape: (rows, columns) of the frame; n_observed: pixels inside the mask; n_bin, ell_min, ell_max: bins;
    pixel_arcmin: side of a pixel. |FFT|^2 x pixel area / n_observed, so that white noise of variance v has
    C_ell = v x pixel area; the mask's mode coupling stays in (a pseudo-C_ell), the same in every map.
    edges: (n_bin + 1,); count: modes per bin; used: bins that have modes on this frame.
    """

    def __init__(self, shape, n_observed, n_bin=N_BIN, ell_min=ELL_MIN, ell_max=ELL_MAX,
                 pixel_arcmin=PIXEL_ARCMIN):
        side = np.radians(pixel_arcmin / 60.0)
        rows, columns = shape
        ell = 2.0 * np.pi / side * np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
        self.edges = np.geomspace(ell_min, ell_max, n_bin + 1)
        inside = (ell >= ell_min) & (ell < ell_max)
        self.bin = np.where(inside, np.digitize(ell, self.edges) - 1, n_bin).ravel()
        # a column of the half-spectrum stands for its mirror image too
        weight = np.full(ell.shape, 2.0)
        weight[:, 0] = 1.0
        if columns % 2 == 0:
            weight[:, -1] = 1.0
        self.weight, self.n_bin = weight.ravel(), n_bin
        self.count = np.bincount(self.bin, self.weight, n_bin + 1)[:n_bin]
        self.norm = side**2 / n_observed               # pseudo-C_ell over the observed fraction of the frame
        self.used = np.flatnonzero(self.count > 0)      # a small frame has no modes in the lowest bins

    @property
    def width(self):
        """Numbers per map."""
        return len(self.used)

    def __call__(self, kappa):
        """kappa: (n, rows, columns) float32. Returns (n, bins used) float64, log10 of C_ell in steradian.

        A map without any power in a bin gets -inf there.
        """
        binned = np.empty((len(kappa), self.n_bin))
        for row, one in zip(binned, kappa):    # map by map: a map's bits must not depend on its neighbours
            modes = scipy.fft.rfft2(one, workers=1)
            power = (modes.real**2 + modes.imag**2).ravel() * self.weight
            row[:] = np.bincount(self.bin, power, self.n_bin + 1)[:self.n_bin]
        with np.errstate(divide="ignore"):
            return np.log10(binned[:, self.used] / self.count[self.used] * self.norm)


class Shapes:
    """Moments, one-point PDF and peak counts of maps smoothed by a Gaussian, at several scales.

    mask: (rows, columns) bool; scales: standard deviations of the Gaussian in arcminutes, 0 for none;
    pdf, peak: (lowest edge, width, number) of the bins in units of a typical noisy map's standard deviation
    at that scale, the first and last of which take what lies beyond; n_gal: galaxies per square arcminute.
    Smoothing knows the mask: the smoothed map is divided by the smoothed mask, and a pixel counts where it
    is observed and at least COVERAGE of its Gaussian is. noise, unit: (n_scale,) standard deviations of
    smoothed noise and of a typical noisy map; valid: (n_scale, rows, columns).
    """

    COVERAGE = 0.6

    def __init__(self, mask, scales=(2.0, 4.0, 8.0), pdf=PDF_BINS, peak=PEAK_BINS, n_gal=N_GAL,
                 pixel_arcmin=PIXEL_ARCMIN):
        self.scales, self.bins = tuple(map(float, scales)), (np.array(pdf, float), np.array(peak, float))
        width = np.array(self.scales) / pixel_arcmin
        # four standard deviations of empty sky keep opposite edges apart on the periodic transform
        self.frame, margin = mask.shape, int(np.ceil(4.0 * width.max()))
        self.shape = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in mask.shape)
        k2 = np.fft.fftfreq(self.shape[0])[:, None]**2 + np.fft.rfftfreq(self.shape[1])**2
        self.filters = [np.exp(-2.0 * np.pi**2 * w * w * k2).astype(np.float32) for w in width]
        fine = [np.fft.irfft2(f.astype(float), s=self.shape) for f in self.filters]
        self.noise = noise_sigma(n_gal, pixel_arcmin) * np.array([np.sqrt(np.sum(f * f)) for f in fine])
        self.unit = np.hypot(self.noise, SIGNAL / np.sqrt(1.0 + np.array(self.scales) / 2.0))
        cover = list(self._smooth(np.asarray(mask, np.float32)))
        self.valid = np.stack([mask & (c >= self.COVERAGE) for c in cover])
        self.weight = [np.where(v, 1.0 / np.maximum(c, 0.5), 0.0).astype(np.float32)
                       for v, c in zip(self.valid, cover)]

    def _smooth(self, kappa):
        modes = scipy.fft.rfft2(kappa, s=self.shape, workers=1)
        for one in self.filters:
            yield scipy.fft.irfft2(modes * one, s=self.shape, workers=1)[:self.frame[0], :self.frame[1]]

    def smooth(self, kappa):
        """kappa: (rows, columns) float32, zero outside the mask. Returns (n_scale, rows, columns) float32,
        zero where no pixel counts."""
        return np.stack([weight * field for weight, field in zip(self.weight, self._smooth(kappa))])

    def describe(self, kappa):
        """kappa: (n, rows, columns) float32, zero outside the mask.

        Returns moments (n, n_scale, 3), the variance, third and fourth central moment; pdf (n, n_scale,
        n_bin), shares of the pixels; peaks (n, n_scale, n_bin), numbers: float64.
        """
        out = [np.empty((len(kappa), len(self.scales), n)) for n in (3, *(int(b[2]) for b in self.bins))]
        for i, one in enumerate(kappa):
            for j, field in enumerate(self.smooth(one)):
                bins = (b * (self.unit[j], self.unit[j], 1.0) for b in self.bins)
                for array, value in zip(out, kernels.describe(field, self.valid[j], *bins)):
                    array[i, j] = value
        out[1] /= self.valid.sum((1, 2))[:, None]
        return tuple(out)

    def __call__(self, kappa):
        """All numbers of describe() in a row: (n, width) float64."""
        return np.concatenate([part.reshape(len(kappa), -1) for part in self.describe(kappa)], axis=1)

    @property
    def width(self):
        """Numbers per map."""
        return len(self.scales) * int(3 + self.bins[0][2] + self.bins[1][2])


def measure(statistic, batches, rows, noise, threads=1, progress=None, chunk=8):
    """A Spectrum or Shapes of many maps on several threads, the same for any number of them.

    batches: Batches on an unpacked frame, scale 1; rows: (n,) maps; noise: see Batches.fetch. Returns
    (n, width) float64. Raises InputError for a map of zeros, which has no spectrum.
    """
    out = np.empty((len(rows), statistic.width))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), chunk * threads):
            part = rows[start:start + chunk * threads]
            kappa = batches.fetch(part, noise=noise)[:, 0]
            pieces = np.array_split(np.arange(len(part)), min(threads, len(part)))
            out[start:start + len(part)] = np.concatenate(list(pool.map(
                lambda piece: statistic(kappa[piece[0]:piece[-1] + 1]), pieces)))
            if progress is not None:
                progress.update(len(part))
    dead = ~np.isfinite(out).all(1)
    if dead.any():
        row = rows[int(np.argmax(dead))]
        raise InputError(f"map {row} of {len(batches.maps)}: expected a convergence map, got no"
                         " power at all in a bin of ell; repair the file")
    return out
