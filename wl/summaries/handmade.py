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
REACH = 5.2                             # of a Gaussian, in standard deviations: it has fallen to 1.3e-6
FAR = 1 << 14                           # pixels of the transform that a kernel comes from


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
        weight = weight.ravel()
        self.count = np.bincount(self.bin, weight, n_bin + 1)[:n_bin]
        self.order = np.argsort(self.bin, kind="stable")[:np.count_nonzero(self.bin < n_bin)]
        self.times = weight[self.order].astype(np.float32)
        self.first = np.searchsorted(self.bin[self.order], np.arange(n_bin + 1))
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
        binned = np.empty((len(kappa), len(self.count)))
        for row, one in zip(binned, kappa):    # map by map: a map's bits must not depend on its neighbours
            modes = scipy.fft.rfft2(one, workers=1)
            row[:] = kernels.bin_power(modes.ravel(), self.order, self.times, self.first)
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
        self.frame, width = mask.shape, np.array(self.scales) / pixel_arcmin
        self.smoothings = smoothings(mask, width)
        self.noise = noise_sigma(n_gal, pixel_arcmin) * np.array([np.sum(gaussian(w)**2) for w in width])
        self.unit = np.hypot(self.noise, SIGNAL / np.sqrt(1.0 + np.array(self.scales) / 2.0))
        cover = [self._plain(block) for block in self._blocks(mask[None].astype(np.float32))]
        self.valid = np.stack([mask & (c >= self.COVERAGE) for c in cover])
        self.weight = [np.where(v, 1.0 / np.maximum(c, 0.5), 0.0).astype(np.float32)
                       for v, c in zip(self.valid, cover)]
        self.block_weight = [in_blocks(w) for w in self.weight]

    def _blocks(self, kappa):
        """Map by map, scale by scale, the smoothed map in the kernels' blocks; the next overwrites it."""
        lanes, pad = kernels.LANES, self.smoothings[0].pad
        down, right = (-(-n // lanes) for n in self.frame)
        turned, between, out = (aligned_zeros(n, (m * lanes + 2 * more) * lanes)
                                for n, m, more in ((down, right, pad), (right, down, pad), (right, down, 0)))
        for one in kappa:
            kernels.turn(one, pad, turned)
            for smoothing in self.smoothings:
                kernels.smooth(turned, smoothing, between, out)
                yield out

    def _plain(self, block):
        """A map in blocks as (rows, columns)."""
        rows, columns = self.frame
        lanes = block.reshape(len(block), -1, kernels.LANES)[:, :rows].swapaxes(0, 1)
        return lanes.reshape(rows, -1)[:, :columns]

    def smooth(self, kappa):
        """kappa: (rows, columns) float32, zero outside the mask. Returns (n_scale, rows, columns) float32,
        zero where no pixel counts."""
        blocks = self._blocks(kappa[None])
        return np.stack([weight * self._plain(block) for weight, block in zip(self.weight, blocks)])

    def distributions(self, kappa, bins):
        """Moments and histograms without peaks.

        kappa: (n, rows, columns) float32, zero outside the mask; bins: (lowest edge, width, number)
        in units of `unit`. Returns moments (n, n_scale, 3), the variance, third and fourth central
        moment, and histogram (n, n_scale, n_bin), numbers of pixels: float64.
        """
        n = len(kappa), len(self.scales)
        moments, histogram = np.empty((*n, 3)), np.empty((*n, int(bins[2])))
        edges = [np.array([bins[0] * unit, bins[1] * unit, bins[2]]) for unit in self.unit]
        for k, block in enumerate(self._blocks(kappa)):
            i, j = divmod(k, len(self.scales))
            moments[i, j], histogram[i, j] = kernels.distribution(
                block, self.block_weight[j], self.smoothings[j].along, edges[j])
        return moments, histogram

    def describe(self, kappa):
        """kappa: (n, rows, columns) float32, zero outside the mask.

        Returns moments (n, n_scale, 3), the variance, third and fourth central moment; pdf (n, n_scale,
        n_bin), shares of the pixels; peaks (n, n_scale, n_bin), numbers: float64.
        """
        pdf, peak = self.bins
        moments, histogram = self.distributions(kappa, pdf)
        peaks = np.empty((len(kappa), len(self.scales), int(peak[2])))
        for one, row in zip(kappa, peaks):
            for j, field in enumerate(self.smooth(one)):
                bins = peak * (self.unit[j], self.unit[j], 1.0)
                row[j] = kernels.peak_counts(field, self.valid[j], bins)
        return moments, histogram / self.valid.sum((1, 2))[:, None], peaks

    def __call__(self, kappa):
        """All numbers of describe() in a row: (n, width) float64."""
        return np.concatenate([part.reshape(len(kappa), -1) for part in self.describe(kappa)], axis=1)

    @property
    def width(self):
        """Numbers per map."""
        return len(self.scales) * int(3 + self.bins[0][2] + self.bins[1][2])


def gaussian(width):
    """A Gaussian as a kernel for pixels: exp(-2 pi^2 width^2 f^2) at frequencies f up to 1/2.

    width: standard deviation in pixels. Returns (FAR,) float64, the values at distances 0, 1, ...
    and, from the end, -1, -2, .... A narrow Gaussian is cut off at the pixels' highest frequency
    and rings: the kernel falls as 1 / distance^2.
    """
    return np.fft.irfft(np.exp(-2.0 * (np.pi * width * np.fft.rfftfreq(FAR))**2), FAR)


def smoothings(mask, width):
    """kernels.Smoothing on a mask for each width (n,), standard deviations in pixels.

    A ringing tail is fitted by geometric series of fixed ratios, which leaves a kernel at most 2e-5
    of its norm off (at a width of 0.5), and the survey's smoothed maps 1.2e-5 of their standard
    deviation; what rows beyond the reach would add is not seen beside that.
    """
    reach = [kernels.GROUP * max(1, int(np.ceil(REACH * w / kernels.GROUP))) for w in width]
    ratio = (-np.exp(-np.geomspace(0.015, 0.4, kernels.TRAILS))).astype(np.float32)
    areas = observed_blocks(mask, max(reach))
    out, distance = [], np.arange(FAR // 2)
    series = ratio.astype(float) ** distance[:, None]
    for w, near in zip(width, reach):
        value, far, share = gaussian(w)[distance], distance > near, np.zeros(kernels.TRAILS, np.float32)
        if np.linalg.norm(value[far]) > 1e-5 * np.linalg.norm(value):
            share = np.linalg.lstsq(series[far], value[far])[0].astype(np.float32)
            value[1:] -= series[1:] @ share
        out.append(kernels.Smoothing(value[:near + 1].astype(np.float32), ratio, share, max(reach), *areas))
    return out


def observed_blocks(mask, margin):
    """The areas of kernels.Smoothing: across and along, observed pixels with `margin` rows around."""
    down, right = (-(-n // kernels.LANES) for n in mask.shape)
    across, along = np.zeros((down, 2), np.int64), np.zeros((right, 2), np.int64)
    need = np.zeros((down * kernels.LANES, right), bool)
    for c in range(right):
        rows = np.flatnonzero(mask[:, c * kernels.LANES:(c + 1) * kernels.LANES].any(1))
        if rows.size:
            along[c] = max(rows[0] - margin, 0), min(rows[-1] + 1 + margin, len(mask))
            need[along[c, 0]:along[c, 1], c] = True
    for b in range(down):
        blocks = np.flatnonzero(need[b * kernels.LANES:(b + 1) * kernels.LANES].any(0))
        if blocks.size:
            across[b] = blocks[0], blocks[-1] + 1
    return across, along


def aligned_zeros(rows, columns):
    """Zeros (rows, columns) float32 that begin on a cache line: smoothing a map took 1.1 ms else, now 0.8."""
    line = 16
    raw = np.zeros(rows * columns + line, np.float32)
    return raw[-(raw.ctypes.data // 4) % line:][:rows * columns].reshape(rows, columns)


def in_blocks(field):
    """A map (rows, columns) in the kernels' blocks of columns, zeros around it."""
    rows, columns = (-(-n // kernels.LANES) * kernels.LANES for n in field.shape)
    out = np.zeros((rows, columns), field.dtype)
    out[:field.shape[0], :field.shape[1]] = field
    turned = out.reshape(rows, columns // kernels.LANES, kernels.LANES).swapaxes(0, 1)
    return turned.reshape(columns // kernels.LANES, -1)


def measure(statistic, batches, rows, noise, threads=1, progress=None, chunk=8):
    """A Spectrum or Shapes of many maps on several threads, the same for any number of them.

    batches: Batches on an unpacked frame, scale 1; rows: (n,) maps; noise: see Batches.fetch. Returns
    (n, width) float64. Raises InputError for a map of zeros, which has no spectrum.
    """
    out = np.empty((len(rows), statistic.width))
    frames = np.empty((min(len(rows), chunk * threads), 1, *batches.frame.shape), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), chunk * threads):
            part = rows[start:start + chunk * threads]
            kappa = batches.fetch(part, noise=noise, out=frames[:len(part)])[:, 0]
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
