"""Simulated spectra against those of real maps whose cosmology and nuisances are known.

    real = read_spectra("kit_spectra.npz", mask)
    survey = Survey(mask, real.edges)
    drawn = simulate(survey, real.label, field, repeats=6)
    result = compare(real, survey.expected(real.label, field), drawn)
    print(table(result, real.label))

Nothing is drawn for expected spectra: they are linear maps of C_ell. Spectra are as the starting
kit has them: |F|^2 of the zero-filled frame, mean over the modes of a bin, times pixel area over
the number of pixels of the frame. Compared are the mean signal of each cosmology, the responses
d ln P / d nuisance by regression on the realisations, and the scatter of log10 P between them.
"""
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator

import numpy as np
import scipy.fft
from scipy import stats

from ..core import seeds
from ..core.checks import InputError, array
from ..core.params import N_GAL, NUISANCES, noise_sigma
from ..core.progress import Progress
from ..simulate.fields import Field, Grid, mirror_weights
from ..simulate.halo_sky import draw_maps
from ..simulate.plan import FIXED_NUISANCES
from ..simulate.theory import Theory, chebyshev_nodes, lagrange_weights
from ..summaries.handmade import Spectrum

NODES = (7, 6)      # Chebyshev points in ln Omega_m (on either side of BREAK) and in S_8
BREAK = 0.23        # Omega_m where the panels meet: where PUBLISHED caps its baryon fraction at 0.2
MIN_COUNT = 5.0     # expected in a bin; emptier bins join their neighbour
UNITS = (1.0, 0.0133, 0.022)     # of responses: 1 dex of T_AGN, half of f_0's range, Delta_z sigma
TOLERANCE = 0.05                 # of a mean signal, beyond its statistical error
SCATTER_TOLERANCE = 0.15
RESPONSE_BINS = slice(3, 8)      # bins 4-8: sample variance hides those below, noise those above
SCATTER_BINS = slice(3, 9)
SIGNAL_FLOOR = 1e-3              # of the noise: a signal that noise turns negative has no logarithm

Spectra = namedtuple("Spectra", "power label edges noise")
Spectra.__doc__ = """Noisy spectra with their truth.

power: (n_cosmology, n_realisation, n_bin) steradian; label: (n_cosmology, n_realisation, 5); edges:
(n_bin + 1,) multipoles; noise: mean power of the shape noise."""


def masked_window(grid: Grid, mask: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """What Spectrum measures of a masked map on average: (bins used, n), times C_ell at grid.ell.

    mask: bool (rows, columns), that of the grid and of the spectrum's frame
    The mean of |F(l)|^2 is a sum over separations of correlation function times the mask's own
    correlation (Hivon et al. 2002, ApJ 567, 2, in flat sky and without an average over angles):
    exact for maps of this grid, pixel window and aliases included.
    """
    rows, columns = mask.shape
    size = (2 * rows, 2 * columns)
    pairs = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(mask.astype(float), s=size))**2, s=size)
    # separation of each cell: 0 ... n - 1, then -n ... -1; modulo frame and grid
    lag_y, lag_x = (np.r_[0:n, -n:0] for n in (rows, columns))
    place = np.add.outer((lag_y % grid.rows) * grid.columns, lag_x % grid.columns).ravel()
    scale = grid.pixel**2 / mask.sum() / (grid.rows * grid.columns * grid.pixel**2)
    kernel = np.empty((len(spectrum.used), grid.quarter[0] * grid.quarter[1]))
    for i, b in enumerate(spectrum.used):
        chosen = (spectrum.bin == b).reshape(rows, -1)
        waves = scipy.fft.irfft2(chosen.astype(float), s=(rows, columns)) * rows * columns
        at = (pairs * waves[np.ix_(lag_y % rows, lag_x % columns)]).ravel()
        at = np.bincount(place, at, grid.rows * grid.columns).reshape(grid.rows, grid.columns)
        modes = scipy.fft.rfft2(at).real
        modes[1:] = 0.5 * (modes[1:] + modes[:0:-1])               # fold the two halves of the rows
        folded = modes[:grid.quarter[0]] * np.outer(*map(mirror_weights, grid.quarter))
        kernel[i] = folded.ravel() * scale / spectrum.count[b]
    images = grid.image_matrix()
    return np.stack([k @ images for k in kernel.astype(np.float32)]).astype(float)


class CosmologyTable:
    """Positive numbers as a function of the cosmology, their logarithm by Chebyshev interpolation.

    low, high: (2,) Omega_m and S_8 of the box
    function: (omega_m, s_8) -> (k,) numbers; spectra of the challenge's region come out to 2e-4
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, function: Callable):
        edges = [low[0], *([BREAK] if low[0] < BREAK < high[0] else []), high[0]]
        self.s_8 = chebyshev_nodes(low[1], high[1], NODES[1])
        self.panels = []
        for left, right in zip(edges[:-1], edges[1:]):
            ln_om = chebyshev_nodes(np.log(left), np.log(right), NODES[0])
            values = [np.ravel(function(np.exp(x), s)) for x in ln_om for s in self.s_8]
            self.panels.append((right, ln_om, np.log(values)))

    def __call__(self, theta: np.ndarray) -> np.ndarray:
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


def read_spectra(path, mask: np.ndarray, label: np.ndarray | None = None,
                 n_gal: float = N_GAL) -> Spectra:
    """Read an .npz with power, ell_edges and, unless label is given, label.

    mask: bool (rows, columns) behind which they were measured
    label: (any, any, 5), of which the first cosmologies and realisations are the spectra's
    Raises InputError.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in ("power", "ell_edges", "label") if name in file}
    except (OSError, ValueError, zipfile.BadZipFile):
        found = {}
    if not {"power", "ell_edges"} <= set(found):
        raise InputError(f"{path}: expected an .npz file with arrays power and ell_edges, got "
                         f"{', '.join(found) or 'none'}; check --spectra")
    power = array(f"{path}: power", found["power"], (None, None, None), "f").astype(float)
    edges = array(f"{path}: ell_edges", found["ell_edges"], (power.shape[2] + 1,), "f")
    if label is None and "label" not in found:
        raise InputError(f"{path}: expected an array label; give the labels by --label")
    label = found["label"] if label is None else label[:power.shape[0], :power.shape[1]]
    label = array(f"{path}: label", label, (*power.shape[:2], 5), "f").astype(float)
    if power.shape[1] < len(NUISANCES) + 3:
        raise InputError(f"{path}: expected at least {len(NUISANCES) + 3} realisations of a "
                         f"cosmology to regress on the nuisances, got {power.shape[1]}; give more")
    edges = edges.astype(float)
    return Spectra(power, label, edges, Survey(mask, edges, n_gal).noise)


class Survey:
    """A mask, its grid and its spectrum's bins.

    mask: bool (rows, columns)
    edges: (n_bin + 1,) multipoles, evenly spaced in their logarithm
    n_gal: galaxies per square arcminute
    norm: what turns Spectrum's values into the kit's; noise: mean noise power
    """

    def __init__(self, mask: np.ndarray, edges: np.ndarray, n_gal: float = N_GAL):
        self.mask, self.sigma = mask, noise_sigma(n_gal)
        self.grid = Grid(mask)
        self.spectrum = Spectrum(mask.shape, mask.sum(), len(edges) - 1, edges[0], edges[-1])
        even = np.allclose(self.spectrum.edges, edges, rtol=1e-6)
        if not even or self.spectrum.width != len(edges) - 1:
            raise InputError("ell_edges: expected multipoles evenly spaced in their logarithm, all "
                             "with modes on the frame of the mask; check --spectra and --mask")
        self.norm = float(mask.mean())
        self.noise = self.sigma**2 * self.grid.pixel**2 * self.norm

    def expected(self, label: np.ndarray, field: Field) -> np.ndarray:
        """Mean signal of each map without drawing any: (n_cosmology, n_realisation, n_bin).

        label: (n_cosmology, n_realisation, 5)
        """
        if not hasattr(self, "window"):
            self.window = masked_window(self.grid, self.mask, self.spectrum)
        white = 0.5 * field.pixel_scatter * self.grid.pixel**2
        return np.stack([(c_ell @ self.window.T + white) * self.norm
                         for c_ell in self._tables(label, field)])

    def _tables(self, label, field) -> Iterator:
        """C_ell (n_realisation, n) of one cosmology after the other."""
        return (Theory(*one[0, :2], field.sky).table(self.grid.ell)(*one[:, 2:].T) for one in label)

    def rms(self, label: np.ndarray, field: Field) -> float:
        """In-mask standard deviation of all noiseless maps at label, as expected()."""
        mean = np.stack([c_ell.mean(axis=0) for c_ell in self._tables(label, field)])
        variance = [self.grid.variance(power) for power in self.grid.pixel_power(mean)]
        return float(np.sqrt(np.mean(variance) + 0.5 * field.pixel_scatter))


def simulate(survey: Survey, label: np.ndarray, field: Field, repeats: int = 4, seed: int = 1,
             progress: Progress | None = None) -> np.ndarray:
    """Noisy spectra of drawn maps: (repeats, n_cosmology, n_realisation, n_bin).

    label: (n_cosmology, n_realisation, 5); repeats: maps of each
    """
    out = np.empty((repeats, *label.shape[:2], survey.spectrum.width))
    frame = np.zeros((1, *survey.mask.shape), np.float32)
    for c, one in enumerate(label):
        labels = np.tile(one, (repeats, 1))
        keys = [(seeds.LABELLED, c, i) for i in range(len(labels))]
        maps = draw_maps(survey.grid, labels, seed, keys, field, survey.sigma)
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


def mean_errors(signal: np.ndarray, label: np.ndarray, minimum: float) -> np.ndarray:
    """Relative errors of mean signals (n_cosmology, n_bin), from scatter beyond the nuisances'."""
    rest = regress(signal, label, minimum)[2]
    return np.sqrt(np.sum(rest**2, axis=1) / (signal.shape[1] - 1 - len(UNITS)) / signal.shape[1])


def compare(real: Spectra, expected: np.ndarray, simulated: np.ndarray) -> dict:
    """Means, responses and scatter of simulated spectra against real ones.

    expected: mean signals, of real.power's shape, as Survey.expected() gives them
    simulated: noisy spectra (repeats, *real.power.shape)
    Returns ratio, ratio_error, ratio_p (n_cosmology, n_bin), expected over real signals and the
    probability that they agree to TOLERANCE; slope, slope_real, slope_error, slope_p (n_cosmology,
    3, n_bin); drawn, drawn_error (n_cosmology, n_bin), mean of `simulated` over expected; scatter,
    scatter_error, scatter_p (n_bin), of log10 P, simulated over real; means, responses, signs,
    scatters: whether all bins meet what the module's constants ask for. Errors of the scatter take
    cosmologies as independent; real ones share seeds: up to 1.7 times larger.
    """
    minimum, dof = SIGNAL_FLOOR * real.noise, real.power.shape[1] - 1 - len(UNITS)
    signal, drawn = real.power - real.noise, simulated - real.noise
    out = {"ratio": expected.mean(axis=1) / signal.mean(axis=1)}
    out["ratio_error"] = error = mean_errors(signal, real.label, minimum)
    off = np.maximum(0.0, np.abs(out["ratio"] - 1.0) - TOLERANCE)
    out["ratio_p"] = 2.0 * stats.norm.sf(off / error)
    out["means"] = bool(np.all(off <= error))

    out["slope_real"], error, _ = regress(signal, real.label, minimum)
    out["slope"], out["slope_error"] = regress(expected, real.label, minimum)[0], error
    pull = (out["slope"] - out["slope_real"]) / error
    out["slope_p"] = 2.0 * stats.t.sf(np.abs(pull), dof)
    out["responses"] = bool(np.all(np.abs(pull[:, :, RESPONSE_BINS]) <= 2.0))
    # of the mean over cosmologies and bins: single real ones are known to two errors at times
    along = [v[:, :, RESPONSE_BINS].mean(axis=(0, 2)) for v in (out["slope"], out["slope_real"])]
    out["signs"] = bool(np.all(np.sign(along[0]) == np.sign(along[1])))

    out["drawn"] = drawn.mean(axis=(0, 2)) / expected.mean(axis=1)
    out["drawn_error"] = mean_errors(signal, real.label, minimum) / np.sqrt(len(drawn))
    variance = [np.log10(np.maximum(v, minimum)).var(axis=-2, ddof=1)
                for v in (simulated, real.power)]
    ratio = variance[0].mean(axis=(0, 1)) / variance[1].mean(axis=0)
    count = len(real.power) * (real.power.shape[1] - 1)
    out["scatter"] = np.sqrt(ratio)
    out["scatter_error"] = out["scatter"] * np.sqrt(0.5 / count * (1.0 + 1.0 / len(simulated)))
    out["scatter_p"] = 2.0 * np.minimum(stats.f.sf(ratio, count * len(simulated), count),
                                        stats.f.cdf(ratio, count * len(simulated), count))
    out["scatters"] = bool(np.all(np.abs(out["scatter"][SCATTER_BINS] - 1.0) <= SCATTER_TOLERANCE))
    return out


def table(result: dict, label: np.ndarray) -> str:
    """The comparison as aligned text; label as in Spectra."""
    def row(name, values, form="7.3f"):
        return f"{name:34s}" + "".join(f"{v:{form}}" for v in values)

    lines = [f"{'bin':34s}" + "".join(f"{b:7d}" for b in range(1, result["scatter"].size + 1))]
    for c, one in enumerate(label):
        name = f"({one[0, 0]:.3f}, {one[0, 1]:.3f})"
        lines += [row(f"{name} signal, simulated / real", result["ratio"][c]),
                  row("    +-", result["ratio_error"][c]),
                  row("    drawn maps / expected", result["drawn"][c]),
                  row(f"    p-value, within {TOLERANCE:.0%}", result["ratio_p"][c])]
        for i, nuisance in enumerate(NUISANCES):
            lines += [row(f"    d ln P / d {nuisance}, simulated", result["slope"][c, i]),
                      row("        real", result["slope_real"][c, i]),
                      row("        +-", result["slope_error"][c, i]),
                      row("        p-value", result["slope_p"][c, i])]
    lines += [row("scatter of log10 P, sim. / real", result["scatter"]),
              row("    +-", result["scatter_error"]),
              row("    p-value", result["scatter_p"])]
    span = {name: f"{s.start + 1}-{s.stop}"
            for name, s in (("r", RESPONSE_BINS), ("s", SCATTER_BINS))}
    for name, words in (("means", f"signals within {TOLERANCE:.0%} plus their error"),
                        ("signs", f"signs of the responses, bins {span['r']}"),
                        ("responses", f"responses within 2 errors, bins {span['r']}"),
                        ("scatters", f"scatter within {SCATTER_TOLERANCE:.0%}, bins {span['s']}")):
        lines.append(f"{words}: {'yes' if result[name] else 'NO'}")
    return "\n".join(lines)


def goodness(real: np.ndarray, drawn: np.ndarray, counts: bool = False, total: bool = False,
             ranked: bool = False) -> dict:
    """chi2 of a real map's numbers against n simulated ones, as of one more map about their mean.

    real: (bins,); drawn: (n, bins)
    counts: bins with fewer than MIN_COUNT expected join their neighbour nearer to the fullest
    total: they add up to a constant, so that the last bin says nothing new
    ranked: p_value is the share of all n + 1 maps that lie as far from the mean of all as the real
        one: exact for moments, whose tails are heavy (Hotelling's is below 0.01 in 3 to 7 % of maps
        from the simulations themselves)
    Returns a dict: real, mean, sd (bins,); bins, chi2 with Hartlap's factor (Hartlap et al. 2007,
    A&A 464, 399), p_value of Hotelling's T^2. Raises InputError for too few maps.
    """
    n, mean, sd = len(drawn), drawn.mean(axis=0), drawn.std(axis=0, ddof=1)
    group = join(mean) if counts else np.arange(len(mean))
    a, b = (np.add.reduceat(v, np.unique(group, return_index=True)[1], axis=-1)
            for v in (real, drawn))
    if total:
        a, b = a[:-1], b[:, :-1]
    d = len(a)
    if n < d + 3:
        raise InputError(f"--maps: expected at least {d + 3} for {d} bins, got {n}; give more")
    unit = b.std(axis=0)                 # moments of 1e-8 and areas of 1e5 pixels alike
    rest = (a - b.mean(axis=0)) / unit
    t2 = rest @ np.linalg.solve(np.cov((b / unit).T), rest) / (1.0 + 1.0 / n)
    p_value = stats.f.sf(t2 * (n - d) / (d * (n - 1)), d, n - d)
    if ranked:
        all_maps = np.vstack([a, b]) / unit
        off = all_maps - all_maps.mean(axis=0)
        far = np.einsum("nd,nd->n", off, np.linalg.solve(np.cov(off.T), off.T).T)
        p_value = np.mean(far >= far[0])
    return {"real": real, "mean": mean, "sd": sd, "bins": d,
            "chi2": float(t2 * (n - d - 2) / (n - 1)), "p_value": float(p_value)}


def join(mean: np.ndarray) -> np.ndarray:
    """Number of the group of each bin, ascending: tails joined until each expects MIN_COUNT."""
    top, group = int(np.argmax(mean)), np.arange(len(mean))
    for order in (range(top), range(len(mean) - 1, top, -1)):
        held = 0.0
        for i in order:
            step = 1 if i < top else -1
            held += mean[i]
            if held < MIN_COUNT:
                group[group == group[i]] = group[i + step]
            else:
                held = 0.0
    return np.searchsorted(np.unique(group), group)


def report(real: Spectra, survey: Survey, label: np.ndarray | None, field: Field, maps: int = 240,
           seed: int = 1, quiet: bool = False) -> str:
    """The whole comparison as text; label: of the whole set, or None; maps: to draw at least."""
    n_cosmology, n_realisation = real.power.shape[:2]
    repeats = -(-maps // (n_cosmology * n_realisation))
    progress = Progress(repeats * n_cosmology * n_realisation, "realism", quiet)
    drawn = simulate(survey, real.label, field, repeats, seed, progress)
    progress.close()
    lines = [f"{n_cosmology} cosmologies, {n_realisation} realisations; {repeats} simulated maps "
             "of each",
             table(compare(real, survey.expected(real.label, field), drawn), real.label)]
    if label is not None:
        lines.append("standard deviation of the signal in a pixel over all labels: "
                     f"{survey.rms(label, field):.5f}")
    return "\n".join(lines)
