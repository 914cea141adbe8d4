"""What the theory expects of binned spectra, without drawing a map: linear maps of C_ell.

    signal = Survey(mask, edges).expected(label, field)     # behind a mask, as the kit measures
    powers = BandPowers(grid, theta, n_gal)                 # of a whole periodic grid
"""
import contextlib
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import scipy.fft
from scipy import stats
from scipy.special import ndtri

from ..core import seeds
from ..core.checks import InputError, array
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, N_GAL, NUISANCES, T_AGN_RANGE, noise_sigma
from ..core.progress import Progress
from ..simulate.fields import ARCMIN, Grid
from ..simulate.halo_sky import draw_maps
from ..simulate.plan import FIXED_NUISANCES, SimulationOptions
from ..simulate.theory import Sky, Theory, chebyshev_nodes, lagrange_weights
from ..summaries.handmade import Spectrum

NODES = (7, 6)      # Chebyshev points in ln Omega_m (on either side of BREAK) and in S_8
BREAK = 0.23        # Omega_m where the panels meet: where PUBLISHED caps its baryon fraction at 0.2
N_BIN = 48          # of |ell|, logarithmic: with 96 scores move by less than 0.005
UNITS = (1.0, 0.0133, 0.022)     # of responses: 1 dex of T_AGN, half of f_0's range, Delta_z sigma
TOLERANCE, SCATTER_TOLERANCE = 0.05, 0.15    # of a mean signal, beyond its statistical error
RESPONSE_BINS = slice(3, 8)      # bins 4-8: sample variance hides those below, noise those above
SCATTER_BINS = slice(3, 9)
SIGNAL_FLOOR = 1e-3              # of the noise: a signal that noise turns negative has no logarithm
VERDICTS = {"means": f"signals within {TOLERANCE:.0%} plus their error",
            "signs": "signs of the responses, bins 4-8",
            "responses": "responses within 2 errors, bins 4-8",
            "scatters": f"scatter within {SCATTER_TOLERANCE:.0%}, bins 4-9"}

Spectra = namedtuple("Spectra", "power label survey")
Spectra.__doc__ = """Noisy power (n_cosmology, n_realisation, n_bin), steradian, at label (..., 5),
and the Survey behind whose mask it was measured."""


def masked_window(grid: Grid, mask: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """What Spectrum measures behind the grid's mask on average: (bins used, n), times C_ell.

    The mean of |F(l)|^2 is a sum over separations of correlation function times the mask's own
    correlation (Hivon et al. 2002, ApJ 567, 2, in flat sky and without an average over angles):
    exact for maps of this grid, pixel window and aliases included.
    """
    rows, columns = mask.shape
    size, cells = (2 * rows, 2 * columns), grid.rows * grid.columns
    pairs = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(mask.astype(float), s=size))**2, s=size)
    # separation of each cell: 0 ... n - 1, then -n ... -1; modulo frame and grid
    lag_y, lag_x = (np.r_[0:n, -n:0] for n in (rows, columns))
    place = np.add.outer((lag_y % grid.rows) * grid.columns, lag_x % grid.columns).ravel()
    scale = grid.pixel**2 / mask.sum() / (cells * grid.pixel**2)
    kernel = np.empty((len(spectrum.used), grid.quarter[0] * grid.quarter[1]))
    for i, b in enumerate(spectrum.used):
        chosen = (spectrum.bin == b).reshape(rows, -1)
        waves = scipy.fft.irfft2(chosen.astype(float), s=(rows, columns)) * rows * columns
        at = (pairs * waves[np.ix_(lag_y % rows, lag_x % columns)]).ravel()
        modes = scipy.fft.rfft2(np.bincount(place, at, cells).reshape(grid.shape)).real
        modes[1:] = 0.5 * (modes[1:] + modes[:0:-1])               # fold the two halves of the rows
        folded = modes[:grid.quarter[0]] * np.outer(*grid.times)
        kernel[i] = folded.ravel() * scale / spectrum.count[b]
    return np.stack([k @ grid.image_matrix for k in kernel.astype(np.float32)]).astype(float)


class CosmologyTable:
    """Positive numbers (k,) = function(omega_m, s_8) in a box, ln of them by Chebyshev nodes.

    low, high: (2,) Omega_m and S_8. Spectra of the challenge's region come out to 2e-4.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, function: Callable):
        edges = [low[0], *([BREAK] if low[0] < BREAK < high[0] else []), high[0]]
        self.s_8, self.panels = chebyshev_nodes(low[1], high[1], NODES[1]), []
        for left, right in zip(edges[:-1], edges[1:]):
            ln_om = chebyshev_nodes(np.log(left), np.log(right), NODES[0])
            values = [np.ravel(function(np.exp(x), s)) for x in ln_om for s in self.s_8]
            self.panels.append((right, ln_om, np.log(values)))

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        """At theta (n, 2) inside the box: float64 (n, k)."""
        out = np.empty((len(theta), self.panels[0][2].shape[1]))
        panel = np.searchsorted([right for right, *_ in self.panels[:-1]], theta[:, 0])
        for i, (_, ln_om, values) in enumerate(self.panels):
            part = theta[panel == i]
            weight = np.einsum("na,nb->nab", lagrange_weights(ln_om, np.log(part[:, 0])),
                               lagrange_weights(self.s_8, part[:, 1]))
            out[panel == i] = np.exp(weight.reshape(-1, len(values)) @ values)
        return out


def sobol_nuisances(n: int, pixel_scatter: float = 0.0) -> np.ndarray:
    """n points of the priors (n, 4): log10 T_AGN, f_0, Delta_z, variance of white scatter."""
    u = (stats.qmc.Sobol(4, scramble=False).random(n) + 0.5 / n).T        # the middle of each cell
    flat = [low + (high - low) * v for (low, high), v in zip((T_AGN_RANGE, F_0_RANGE), u)]
    return np.column_stack([*flat, DELTA_Z_SIGMA * ndtri(u[2]), pixel_scatter * u[3]])


class BandPowers:
    """Mean power in bins of |ell| of all of a periodic grid, each mode over its fiducial power.

    theta: (n, 2), a design whose mean is fiducial, and near which cosmologies are asked for
    Bins need not be narrow, then. Has edges (n_bin + 1,) of |ell|; of the bins with modes count, in
    the whole plane, window, times C_ell at grid.ell, and white, the noise's.
    """

    def __init__(self, grid: Grid, theta: np.ndarray, n_gal: float, n_bin: int = N_BIN,
                 sky: Sky = Sky()):
        self.grid, self.sky, images = grid, sky, grid.image_matrix
        ell, times = np.hypot.outer(grid.ell_y, grid.ell_x), np.outer(*grid.times)
        self.edges = np.geomspace(0.999 * min(grid.ell_y[1], grid.ell_x[1]), 1.001 * ell[-1, -1],
                                  n_bin + 1)
        noise = noise_sigma(n_gal, grid.pixel / ARCMIN)**2 * grid.pixel**2
        fiducial = Theory(*theta.mean(axis=0), sky).c_ell(grid.ell, 0.0, *FIXED_NUISANCES[:2])
        power = (images @ fiducial.astype(np.float32)).reshape(grid.quarter) + noise
        self.weight = times / power
        # the cell of the map's mean, below all edges, is bin 0: it has no power
        self.cell = np.unique(np.digitize(ell, self.edges), return_inverse=True)[1].ravel()
        self.count, self.white = (np.bincount(self.cell, v.ravel())[1:]
                                  for v in (times, self.weight))
        self.white *= noise / self.count
        self.window = np.array([
            self.weight.ravel()[self.cell == b] @ images[self.cell == b].astype(float) / n
            for b, n in enumerate(self.count, 1)])
        self.per_variance = self.white / noise * grid.pixel**2  # of scatter with a variance of one
        self.low, self.high = theta.min(axis=0), theta.max(axis=0)

    def measure(self, kappa: np.ndarray) -> np.ndarray:
        """Mean power of the bins in one map (rows, columns), all of the grid: float64 (n_bin,)."""
        modes = scipy.fft.rfft2(kappa, workers=1)
        power = modes.real.astype(float)**2 + modes.imag.astype(float)**2
        power[1:] = 0.5 * (power[1:] + power[:0:-1])                # rows mirror one another
        power = power[:self.grid.quarter[0]] * self.weight * (self.grid.pixel**2 / kappa.size)
        return np.bincount(self.cell, power.ravel())[1:] / self.count

    def tabulate(self, nuisances: np.ndarray) -> Callable:
        """theta (n, 2) -> signals without noise at nuisances (m, 3): float64 (n, m, n_bin)."""
        table = CosmologyTable(self.low, self.high, lambda *theta: Theory(*theta, self.sky).table(
            self.grid.ell)(*nuisances.T) @ self.window.T)
        return lambda theta: table(theta).reshape(len(theta), len(nuisances), -1)


class Survey:
    """A mask (rows, columns), its grid and its spectrum's bins, with values as the kit has them.

    They are |F|^2 of the zero-filled frame, mean over a bin, times pixel area / number of pixels.
    edges: (n_bin + 1,) multipoles, evenly spaced in their logarithm
    norm: what turns Spectrum's values into the kit's; noise: mean noise power
    """

    def __init__(self, mask: np.ndarray, edges: np.ndarray, n_gal: float = N_GAL):
        self.mask, self.sigma, self.grid = mask, noise_sigma(n_gal), Grid(mask)
        self.spectrum = Spectrum(mask.shape, mask.sum(), len(edges) - 1, edges[0], edges[-1])
        even = np.allclose(self.spectrum.edges, edges, rtol=1e-6)
        if not even or self.spectrum.width != len(edges) - 1:
            raise InputError("ell_edges: expected multipoles evenly spaced in their logarithm, all "
                             "with modes on the frame of the mask; check --spectra and --mask")
        self.norm, self.window = float(mask.mean()), masked_window(self.grid, mask, self.spectrum)
        self.noise = self.sigma**2 * self.grid.pixel**2 * self.norm

    def expected(self, label: np.ndarray, field: SimulationOptions) -> np.ndarray:
        """Mean signal of each map, of label's shape (n_cosmology, n_realisation, 5) but n_bin."""
        white = 0.5 * field.pixel_scatter * self.grid.pixel**2
        return np.stack([(c_ell @ self.window.T + white) * self.norm
                         for c_ell in self._c_ell(label, field)])

    def _c_ell(self, label, field):
        return (Theory(*one[0, :2], field.sky).table(self.grid.ell)(*one[:, 2:].T) for one in label)

    def rms(self, label: np.ndarray, field: SimulationOptions) -> float:
        """In-mask standard deviation of all noiseless maps at label, as expected()."""
        mean = np.stack([c_ell.mean(axis=0) for c_ell in self._c_ell(label, field)])
        variance = [self.grid.variance(power) for power in self.grid.pixel_power(mean)]
        return float(np.sqrt(np.mean(variance) + 0.5 * field.pixel_scatter))


def read_spectra(path, mask: np.ndarray, label: np.ndarray | None = None,
                 n_gal: float = N_GAL) -> Spectra:
    """Read an .npz with power (behind the mask), ell_edges and, unless it is given, label.

    label: (any, any, 5), whose first cosmologies and realisations are meant. Raises InputError.
    """
    names, found = ("power", "ell_edges", "label")[:2 + (label is None)], {}
    with contextlib.suppress(Exception):    # what is no archive raises errors of half a dozen kinds
        with np.load(path) as file:
            found = {name: file[name] for name in names if name in file}
    if len(found) < len(names):
        raise InputError(f"{path}: expected an .npz file with arrays {', '.join(names)}, got "
                         f"{', '.join(found) or 'none'}; beside --spectra, --label may give labels")
    def checked(name, values, shape):
        return array(f"{path}: {name}", values, shape, "f").astype(float)
    power = checked("power", found["power"], (None, None, None))
    edges = checked("ell_edges", found["ell_edges"], (power.shape[2] + 1,))
    label = found["label"] if label is None else label[:power.shape[0], :power.shape[1]]
    label = checked("label", label, (*power.shape[:2], 5))
    if power.shape[1] < len(NUISANCES) + 3:
        raise InputError(f"{path}: expected at least {len(NUISANCES) + 3} realisations of a "
                         f"cosmology to regress on the nuisances, got {power.shape[1]}; give more")
    return Spectra(power, label, Survey(mask, edges, n_gal))


def simulate(survey: Survey, label: np.ndarray, field: SimulationOptions, repeats: int = 4,
             seed: int = 1, progress: Progress | None = None) -> np.ndarray:
    """Noisy spectra of maps drawn at label: (repeats, n_cosmology, n_realisation, n_bin)."""
    out = np.empty((repeats, *label.shape[:2], survey.spectrum.width))
    frame = np.zeros((1, *survey.mask.shape), np.float32)
    for c, one in enumerate(label):
        keys = [(seeds.LABELLED, c, i) for i in range(repeats * len(one))]
        maps = draw_maps(survey.grid, np.tile(one, (repeats, 1)), seed, keys, field, survey.sigma)
        for i, kappa in enumerate(maps):
            frame[0][survey.mask] = kappa
            out[i // len(one), c, i % len(one)] = survey.norm * 10.0**survey.spectrum(frame)[0]
            if progress is not None:
                progress.update()
    return out


def regress(signal: np.ndarray, label: np.ndarray, minimum: float) -> tuple:
    """d ln P / d nuisance in UNITS, by least squares over the realisations.

    signal, label: (n_cosmology, n_realisation, ...); minimum: of the signal that counts
    Returns slope, error: (n_cosmology, 3, n_bin); residuals of ln P, of signal's shape.
    """
    slope, error, rest = [], [], []
    for one, truth in zip(np.log(np.maximum(signal, minimum)), label):
        x = np.column_stack([np.ones(len(truth)), (truth[:, 2:] - FIXED_NUISANCES) / UNITS])
        found = np.linalg.lstsq(x, one, rcond=None)[0]
        rest.append(one - x @ found)
        variance = np.sum(rest[-1]**2, axis=0) / (len(x) - x.shape[1])
        slope.append(found[1:])
        error.append(np.sqrt(np.multiply.outer(np.diag(np.linalg.inv(x.T @ x))[1:], variance)))
    return np.array(slope), np.array(error), np.array(rest)


def compare(real: Spectra, expected: np.ndarray, simulated: np.ndarray) -> dict:
    """Means, responses and scatter of simulated spectra against real ones.

    expected, simulated: mean signals of Survey.expected(); noisy spectra of simulate()
    Returns ratio, ratio_error, ratio_p (n_cosmology, n_bin), expected over real signals and the
    chance that they agree to TOLERANCE; drawn, drawn_error, simulated over expected; slope,
    slope_real, slope_error, slope_p (n_cosmology, 3, n_bin); scatter, scatter_error, scatter_p
    (n_bin), of log10 P, simulated over real; and whether each of VERDICTS holds. Real cosmologies
    share seeds, which makes the scatter's error up to 1.7 times larger.
    """
    noise, dof = real.survey.noise, real.power.shape[1] - 1 - len(UNITS)
    signal, drawn, minimum = real.power - noise, simulated - noise, SIGNAL_FLOOR * noise
    out = {"ratio": expected.mean(axis=1) / signal.mean(axis=1)}
    out["slope_real"], out["slope_error"], rest = regress(signal, real.label, minimum)
    # of means, from the scatter beyond the nuisances'
    out["ratio_error"] = error = np.sqrt(np.sum(rest**2, axis=1) / dof / signal.shape[1])
    off = np.maximum(0.0, np.abs(out["ratio"] - 1.0) - TOLERANCE)
    out["ratio_p"] = 2.0 * stats.norm.sf(off / error)
    out["drawn"] = drawn.mean(axis=(0, 2)) / expected.mean(axis=1)
    out["drawn_error"] = error / np.sqrt(len(drawn))
    out["means"] = bool(np.all(off <= error))
    out["slope"] = regress(expected, real.label, minimum)[0]
    pull = (out["slope"] - out["slope_real"]) / out["slope_error"]
    out["slope_p"] = 2.0 * stats.t.sf(np.abs(pull), dof)
    out["responses"] = bool(np.all(np.abs(pull[:, :, RESPONSE_BINS]) <= 2.0))
    # of the mean over cosmologies and bins: single real ones are known to two errors at times
    along = [np.sign(out[name][:, :, RESPONSE_BINS].mean(axis=(0, 2)))
             for name in ("slope", "slope_real")]
    out["signs"] = bool(np.all(along[0] == along[1]))
    variance = [np.log10(np.maximum(v, minimum)).var(axis=-2, ddof=1)
                for v in (simulated, real.power)]
    ratio = variance[0].mean(axis=(0, 1)) / variance[1].mean(axis=0)
    count = len(real.power) * (real.power.shape[1] - 1)
    out["scatter"] = np.sqrt(ratio)
    out["scatter_error"] = out["scatter"] * np.sqrt(0.5 / count * (1.0 + 1.0 / len(simulated)))
    above = stats.f.sf(ratio, count * len(simulated), count)
    out["scatter_p"] = 2.0 * np.minimum(above, 1.0 - above)
    out["scatters"] = bool(np.all(np.abs(out["scatter"][SCATTER_BINS] - 1.0) <= SCATTER_TOLERANCE))
    return out


def table(result: dict, label: np.ndarray) -> str:
    """The comparison of spectra as aligned text; label as in Spectra."""
    rows = [("bin", range(1, result["scatter"].size + 1))]
    for c, one in enumerate(label):
        rows += zip(("({:.3f}, {:.3f}) signal, simulated / real".format(*one[0]), "    +-",
                     "    drawn maps / expected", f"    p-value, within {TOLERANCE:.0%}"),
                    (result[name][c] for name in ("ratio", "ratio_error", "drawn", "ratio_p")))
        for i, nuisance in enumerate(NUISANCES):
            rows += zip((f"    d ln P / d {nuisance}, simulated", *("        " + word for word in (
                "real", "+-", "p-value"))), (result["slope" + name][c, i] for name in (
                    "", "_real", "_error", "_p")))
    rows += zip(("scatter of log10 P, sim. / real", "    +-", "    p-value"),
                (result["scatter" + name] for name in ("", "_error", "_p")))
    lines = [f"{name:34s}" + "".join(f"{v:7d}" if isinstance(v, int) else f"{v:7.3f}"
                                     for v in values) for name, values in rows]
    return "\n".join([*lines, *(f"{words}: {'yes' if result[name] else 'NO'}"
                                for name, words in VERDICTS.items())])
