"""Expected binned spectra of maps as linear maps of C_ell: nothing is drawn, nothing fitted.

    window = masked_window(grid, mask, Spectrum(mask.shape, mask.sum()))     # (n_bin, len(grid.ell))
    expected = window @ c_ell                                                # of a noiseless map

Both functions return a window matrix for spectra at grid.ell in steradian, pixel window and aliases
included.
"""
import numpy as np
import scipy.fft

from ..simulate.interpolate import chebyshev_nodes, lagrange_weights

NODES = (7, 6)               # Chebyshev points in ln Omega_m (on either side of BREAK) and in S_8
BREAK = 0.23                 # Omega_m where the panels meet: where PUBLISHED caps its baryon fraction at 0.2


def mirror_weights(n):
    """How often each of n cells of a half axis stands in the whole axis, both ends once: float64 (n,)."""
    return np.r_[1.0, np.full(n - 2, 2.0), 1.0]


def periodic_window(grid, edges, c_fiducial, noise):
    """Bins of |ell| of the whole periodic grid, each mode divided by its fiducial power.

    grid: fields.Grid; edges: (n_bin + 1,) of |ell|; c_fiducial: (n,) steradian at grid.ell; noise: white
    power in steradian. With P = (window @ c + white) the mean of |F|^2 / P_fiducial over the modes of a bin,
    one where c is the fiducial spectrum: bins need not be narrow for shapes that differ little from it.
    Returns window (n_bin, n), white (n_bin,), count (n_bin,), the number of modes in the whole plane
    (conjugates both counted), which (quarter) int, a cell's bin or -1, and weight (quarter), times in the
    plane / fiducial power; the mean mode is in no bin.
    """
    images = grid.image_matrix()
    ell = np.hypot.outer(grid.ell_y, grid.ell_x)
    times = np.outer(*(mirror_weights(n) for n in grid.quarter))
    which = np.digitize(ell, edges) - 1
    which[(which == len(edges) - 1) | (ell == 0.0)] = -1
    weight = times / ((images @ c_fiducial.astype(np.float32)).reshape(grid.quarter) + noise)
    flat, n_bin = which.ravel(), len(edges) - 1
    inside = flat >= 0
    count = np.bincount(flat[inside], times.ravel()[inside], n_bin)
    white = noise * np.bincount(flat[inside], weight.ravel()[inside], n_bin) / np.maximum(count, 1.0)
    window = np.zeros((n_bin, len(grid.ell)))
    for b in np.flatnonzero(count):
        cells = flat == b
        window[b] = weight.ravel()[cells] @ images[cells].astype(float) / count[b]
    return window, white, count, which, weight


def masked_window(grid, mask, spectrum):
    """What summaries.Spectrum measures of a masked map, on average.

    grid: fields.Grid of the mask; mask: bool (rows, columns); spectrum: summaries.Spectrum of its frame.
    The mean of |F(l)|^2 is a sum over separations of correlation function times the mask's own correlation
    (Hivon et al. 2002, ApJ 567, 2, in flat sky and without an average over angles): exact for maps of this
    grid. Returns float64 (bins used, n).
    """
    rows, columns = mask.shape
    double = (2 * rows, 2 * columns)
    pairs = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(mask.astype(float), s=double))**2, s=double)
    # separation of each cell: 0 ... n - 1, then -n ... -1; the same modulo the frame and modulo the grid
    lag_y, lag_x = (np.r_[0:n, -n:0] for n in (rows, columns))
    place = np.add.outer((lag_y % grid.rows) * grid.columns, lag_x % grid.columns).ravel()
    half = (grid.rows, grid.columns // 2 + 1)
    scale = grid.pixel**2 / mask.sum() / (grid.rows * grid.columns * grid.pixel**2)
    kernel = np.empty((len(spectrum.used), grid.quarter[0] * grid.quarter[1]))
    for i, b in enumerate(spectrum.used):
        chosen = (spectrum.bin == b).reshape(rows, -1)
        waves = scipy.fft.irfft2(chosen.astype(float), s=(rows, columns)) * rows * columns
        at = (pairs * waves[np.ix_(lag_y % rows, lag_x % columns)]).ravel()
        at = np.bincount(place, at, grid.rows * grid.columns).reshape(grid.rows, grid.columns)
        modes = scipy.fft.rfft2(at).real.reshape(half)
        modes[1:] = 0.5 * (modes[1:] + modes[:0:-1])               # fold the two halves of the rows
        folded = modes[:grid.quarter[0]] * np.outer(*(mirror_weights(n) for n in grid.quarter))
        kernel[i] = folded.ravel() * scale / spectrum.count[b]
    images = grid.image_matrix()
    return np.stack([k @ images for k in kernel.astype(np.float32)]).astype(float)


class CosmologyTable:
    """Positive numbers as a smooth function of the cosmology, by Chebyshev interpolation of their logarithm.

    low, high: (2,) Omega_m and S_8 of the box; function: (omega_m, s_8) -> (k,) numbers, called 84 times at
    most. Spectra of the challenge's region come out to 2e-4.
    """

    def __init__(self, low, high, function):
        edges = [low[0], *([BREAK] if low[0] < BREAK < high[0] else []), high[0]]
        self.s_8 = chebyshev_nodes(low[1], high[1], NODES[1])
        self.panels = []
        for left, right in zip(edges[:-1], edges[1:]):
            ln_om = chebyshev_nodes(np.log(left), np.log(right), NODES[0])
            values = [np.ravel(function(np.exp(x), s)) for x in ln_om for s in self.s_8]
            self.panels.append((right, ln_om, np.log(values)))

    def __call__(self, theta):
        """At theta (n, 2) inside the box: float64 (n, k)."""
        out = np.empty((len(theta), self.panels[0][2].shape[1]))
        todo = np.ones(len(theta), bool)
        for right, ln_om, values in self.panels:
            part = todo & ((theta[:, 0] <= right) | (right == self.panels[-1][0]))
            weight = np.einsum("na,nb->nab", lagrange_weights(ln_om, np.log(theta[part, 0])),
                               lagrange_weights(self.s_8, theta[part, 1]))
            out[part] = np.exp(weight.reshape(-1, len(values)) @ values)
            todo &= ~part
        return out
