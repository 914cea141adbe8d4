"""Simulated spectra against those of real maps whose cosmology and nuisances are known.

    real = read_spectra("kit_spectra.npz", mask)
    survey = Survey(mask, real.edges)
    drawn = simulate(survey, real.label, field, repeats=6)
    result = compare(real, survey.expected(real.label, field), drawn)
    print(table(result, real.label))

Spectra are as the starting kit has them: |F|^2 of the zero-filled frame, mean over the modes of a
bin, times pixel area over the number of pixels of the frame. Three things are compared: the mean
signal of each cosmology, the responses d ln P / d nuisance by regression on the realisations, and
the scatter of log10 P between realisations.
"""
from collections import namedtuple
import zipfile

import numpy as np
from scipy import stats

from .bandpowers import masked_window
from ..core import seeds
from ..core.checks import InputError, array
from ..simulate.draw import draw_maps
from ..simulate.fields import Grid
from ..core.progress import Progress
from ..core.params import N_GAL, NUISANCES, noise_sigma
from ..summaries.handmade import Spectrum
from ..simulate.mask import FIXED_NUISANCES
from ..simulate.theory import Theory

UNITS = (1.0, 0.0133, 0.022)     # of the responses: 1 dex of T_AGN, half of f_0's range, one Delta_z sigma
TOLERANCE = 0.05                 # of a mean signal, beyond its statistical error
SCATTER_TOLERANCE = 0.15
RESPONSE_BINS = slice(3, 8)      # bins 4-8: sample variance hides those below, noise those above
SCATTER_BINS = slice(3, 9)
SIGNAL_FLOOR = 1e-3              # of the noise: a signal that noise turns negative has no logarithm

Spectra = namedtuple("Spectra", "power label edges noise")
Spectra.__doc__ = """Noisy spectra with their truth.

power: (n_cosmology, n_realisation, n_bin) steradian; label: (n_cosmology, n_realisation, 5); edges:
(n_bin + 1,) multipoles; noise: mean power of the shape noise."""


def read_spectra(path, mask, label=None, n_gal=N_GAL):
    """Read an .npz with power, ell_edges and, unless label is given, label; returns Spectra.

    mask: bool (rows, columns) behind which they were measured; label: (any, any, 5), of which the
    first cosmologies and realisations are those of the spectra; n_gal: galaxies per square
    arcminute. Raises InputError.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in ("power", "ell_edges", "label") if name in file}
    except (OSError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{path}: expected an .npz file of spectra, could not read it; "
                         "check --spectra") from None
    if not {"power", "ell_edges"} <= set(found):
        raise InputError(f"{path}: expected arrays power and ell_edges, got "
                         f"{', '.join(found) or 'none'}; check --spectra")
    power = array(f"{path}: power", found["power"], (None, None, None), "f").astype(float)
    edges = array(f"{path}: ell_edges", found["ell_edges"], (power.shape[2] + 1,), "f").astype(float)
    if label is None and "label" not in found:
        raise InputError(f"{path}: expected an array label; give the labels by --label")
    label = found["label"] if label is None else label[:power.shape[0], :power.shape[1]]
    label = array(f"{path}: label", label, (*power.shape[:2], 5), "f").astype(float)
    if power.shape[1] < len(NUISANCES) + 3:
        raise InputError(f"{path}: expected at least {len(NUISANCES) + 3} realisations of a cosmology "
                         f"to regress on the nuisances, got {power.shape[1]}; give more")
    return Spectra(power, label, edges, Survey(mask, edges, n_gal).noise)


class Survey:
    """A mask, its grid and its spectrum's bins.

    mask: bool (rows, columns); edges: (n_bin + 1,) multipoles, evenly spaced in their logarithm;
    n_gal: galaxies per square arcminute. grid: fields.Grid; norm: what turns Spectrum's values into
    the kit's; noise: mean noise power.
    """

    def __init__(self, mask, edges, n_gal=N_GAL):
        self.mask, self.sigma = mask, noise_sigma(n_gal)
        self.grid = Grid(mask)
        self.spectrum = Spectrum(mask.shape, mask.sum(), len(edges) - 1, edges[0], edges[-1])
        even = np.allclose(self.spectrum.edges, edges, rtol=1e-6)
        if not even or self.spectrum.width != len(edges) - 1:
            raise InputError("ell_edges: expected multipoles evenly spaced in their logarithm, all with "
                             "modes on the frame of the mask; check --spectra and --mask")
        self.norm = float(mask.mean())
        self.noise = self.sigma**2 * self.grid.pixel**2 * self.norm

    def expected(self, label, field):
        """Mean signal of each map without drawing any: (n_cosmology, n_realisation, n_bin).

        label: (n_cosmology, n_realisation, 5); field: drawing.Field.
        """
        if not hasattr(self, "window"):
            self.window = masked_window(self.grid, self.mask, self.spectrum)
        white = 0.5 * field.pixel_scatter * self.grid.pixel**2
        return np.stack([(c_ell @ self.window.T + white) * self.norm
                         for c_ell in self._tables(label, field)])

    def _tables(self, label, field):
        """C_ell (n_realisation, n) of one cosmology after the other."""
        return (Theory(*one[0, :2], field.sky).table(self.grid.ell)(*one[:, 2:].T) for one in label)

    def rms(self, label, field):
        """In-mask standard deviation of all noiseless maps at label (n_cosmology, n_realisation, 5)."""
        mean = np.stack([c_ell.mean(axis=0) for c_ell in self._tables(label, field)])
        variance = [self.grid.variance(power) for power in self.grid.pixel_power(mean)]
        return float(np.sqrt(np.mean(variance) + 0.5 * field.pixel_scatter))


def simulate(survey, label, field, repeats=4, seed=1, progress=None):
    """Noisy spectra of drawn maps: (repeats, n_cosmology, n_realisation, n_bin).

    label: (n_cosmology, n_realisation, 5); field: drawing.Field; repeats: maps of each label.
    """
    out = np.empty((repeats, *label.shape[:2], survey.spectrum.width))
    frame = np.zeros((1, *survey.mask.shape), np.float32)
    for c, one in enumerate(label):
        labels = np.tile(one, (repeats, 1))
        keys = [(seeds.LABELLED, c, i) for i in range(len(labels))]
        for i, kappa in enumerate(draw_maps(survey.grid, labels, seed, keys, field, survey.sigma)):
            frame[0][survey.mask] = kappa
            out[i // len(one), c, i % len(one)] = survey.norm * 10.0**survey.spectrum(frame)[0]
            if progress is not None:
                progress.update()
    return out


def regress(signal, label, least):
    """d ln P / d nuisance in UNITS, by least squares over the realisations.

    signal: (n_cosmology, n_realisation, n_bin); label: (n_cosmology, n_realisation, 5); least:
    smallest signal that counts. Returns slope, error: (n_cosmology, 3, n_bin); rest: residuals of
    ln P, of signal's shape.
    """
    slope, error, rest = [], [], []
    for one, truth in zip(np.log(np.maximum(signal, least)), label):
        x = np.column_stack([np.ones(len(truth)), (truth[:, 2:] - FIXED_NUISANCES) / UNITS])
        found = np.linalg.lstsq(x, one, rcond=None)[0]
        rest.append(one - x @ found)
        variance = np.sum(rest[-1]**2, axis=0) / (len(x) - x.shape[1])
        slope.append(found[1:])
        error.append(np.sqrt(np.multiply.outer(np.diag(np.linalg.inv(x.T @ x))[1:], variance)))
    return np.array(slope), np.array(error), np.array(rest)


def mean_errors(signal, label, least):
    """Relative errors of mean signals (n_cosmology, n_bin), from scatter beyond the nuisances'."""
    rest = regress(signal, label, least)[2]
    return np.sqrt(np.sum(rest**2, axis=1) / (signal.shape[1] - 1 - len(UNITS)) / signal.shape[1])


def compare(real, expected, simulated):
    """Means, responses and scatter of simulated spectra against real ones.

    real: Spectra; expected: mean signals, of real.power's shape, as Survey.expected() gives them;
    simulated: noisy spectra (repeats, *real.power.shape). Signals and responses are those of
    `expected`, the scatter that of `simulated`. Returns a dict: ratio, ratio_error, ratio_p
    (n_cosmology, n_bin), simulated over real signals and the probability that they agree to
    TOLERANCE; slope, slope_real, slope_error, slope_p (n_cosmology, 3, n_bin); drawn, drawn_error
    (n_cosmology, n_bin), mean signal of the simulated spectra over the expected one; scatter,
    scatter_error, scatter_p (n_bin), standard deviations of log10 P, squares averaged over the
    cosmologies, simulated over real; means, responses, signs, scatters: whether all bins meet what
    the module's constants ask for. Errors of the scatter take cosmologies as independent; real ones
    share seeds, which makes their error up to 1.7 times larger.
    """
    least, dof = SIGNAL_FLOOR * real.noise, real.power.shape[1] - 1 - len(UNITS)
    signal, drawn = real.power - real.noise, simulated - real.noise
    out = {"ratio": expected.mean(axis=1) / signal.mean(axis=1)}
    out["ratio_error"] = error = mean_errors(signal, real.label, least)
    off = np.maximum(0.0, np.abs(out["ratio"] - 1.0) - TOLERANCE)
    out["ratio_p"] = 2.0 * stats.norm.sf(off / error)
    out["means"] = bool(np.all(off <= error))

    out["slope_real"], error, _ = regress(signal, real.label, least)
    out["slope"], out["slope_error"] = regress(expected, real.label, least)[0], error
    pull = (out["slope"] - out["slope_real"]) / error
    out["slope_p"] = 2.0 * stats.t.sf(np.abs(pull), dof)
    out["responses"] = bool(np.all(np.abs(pull[:, :, RESPONSE_BINS]) <= 2.0))
    # the sign is a matter of the mean over cosmologies and bins: single real ones are known to two
    # errors at times
    along = [v[:, :, RESPONSE_BINS].mean(axis=(0, 2)) for v in (out["slope"], out["slope_real"])]
    out["signs"] = bool(np.all(np.sign(along[0]) == np.sign(along[1])))

    out["drawn"] = drawn.mean(axis=(0, 2)) / expected.mean(axis=1)
    out["drawn_error"] = mean_errors(signal, real.label, least) / np.sqrt(len(drawn))
    variance = [np.log10(np.maximum(v, least)).var(axis=-2, ddof=1) for v in (simulated, real.power)]
    ratio = variance[0].mean(axis=(0, 1)) / variance[1].mean(axis=0)
    count = len(real.power) * (real.power.shape[1] - 1)
    out["scatter"] = np.sqrt(ratio)
    out["scatter_error"] = out["scatter"] * np.sqrt(0.5 / count * (1.0 + 1.0 / len(simulated)))
    out["scatter_p"] = 2.0 * np.minimum(stats.f.sf(ratio, count * len(simulated), count),
                                        stats.f.cdf(ratio, count * len(simulated), count))
    out["scatters"] = bool(np.all(np.abs(out["scatter"][SCATTER_BINS] - 1.0) <= SCATTER_TOLERANCE))
    return out


def table(result, label):
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


def report(path, mask, label, field, maps=240, n_gal=N_GAL, seed=1, quiet=False):
    """The whole comparison as text.

    label: of the whole set, or None; maps: to draw, rounded up to whole repeats.
    """
    real = read_spectra(path, mask, label, n_gal)
    survey, (n_cosmology, n_realisation) = Survey(mask, real.edges, n_gal), real.power.shape[:2]
    repeats = -(-maps // (n_cosmology * n_realisation))
    progress = Progress(repeats * n_cosmology * n_realisation, "realism", quiet)
    drawn = simulate(survey, real.label, field, repeats, seed, progress)
    progress.close()
    lines = [f"{n_cosmology} cosmologies, {n_realisation} realisations; {repeats} simulated maps of each",
             table(compare(real, survey.expected(real.label, field), drawn), real.label)]
    if label is not None:
        lines.append("standard deviation of the signal in a pixel over all labels: "
                     f"{survey.rms(label, field):.5f}")
    return "\n".join(lines)
