"""Hand-made statistics of maps: the binned angular power spectrum."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft

from .checks import InputError
from .params import PIXEL_ARCMIN

N_BIN, ELL_MIN, ELL_MAX = 10, 100.0, 10_000.0    # the organisers' baseline (Dai et al. 2026)


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


def measure(spectrum, batches, rows, noise, threads=1, progress=None, chunk=8):
    """Spectra of many maps on several threads, the same for any number of them.

    batches: Batches on an unpacked frame, scale 1; rows: (n,) maps; noise: see Batches.fetch. Returns
    (n, bins) float64. Raises InputError for a map of zeros, which has no spectrum.
    """
    out = np.empty((len(rows), len(spectrum.used)))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), chunk * threads):
            part = rows[start:start + chunk * threads]
            kappa = batches.fetch(part, noise=noise)[:, 0]
            pieces = np.array_split(np.arange(len(part)), min(threads, len(part)))
            out[start:start + len(part)] = np.concatenate(list(pool.map(
                lambda piece: spectrum(kappa[piece[0]:piece[-1] + 1]), pieces)))
            if progress is not None:
                progress.update(len(part))
    dead = ~np.isfinite(out).all(1)
    if dead.any():
        row = rows[int(np.argmax(dead))]
        raise InputError(f"map {row} of {len(batches.maps)}: expected a convergence map, got no"
                         " power at all in a bin of ell; repair the file")
    return out
