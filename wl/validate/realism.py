"""How well simulated maps stand in for a real one: spectrum, one-point PDF, third moments, peak counts.

    python -m wl.validate realism --map data/public/WIDE12H_bin2_2arcmin_kappa_noisy_test.npy --row 0 --figure real.png
    python -m wl.validate realism --spectra kit_spectra.npz --mask data/public/WIDE12H_bin2_2arcmin_mask.npy

Finds the cosmology and nuisances whose spectrum fits the noisy map best, and the white scatter beyond the shape
noise that its highest multipoles ask for, simulates maps there, and prints for each statistic chi2 against their
mean and covariance and the p-value of it: small ones are where simulated maps are not like the real one. With
--spectra, noisy spectra of maps whose truth is known take the place of the map, see wl/labelled.py: their mean signals,
responses to the nuisances and scatter.
"""
import pathlib

import numpy as np
from scipy.optimize import minimize
from scipy.stats import f as f_distribution

from ..core import cli, seeds
from . import labelled
from ..maps import dataset
from .bandpowers import CosmologyTable, masked_window
from ..core.checks import InputError, array, positive, within
from ..simulate.draw import Field, draw_maps
from ..simulate.fields import GAUSSIAN_SHARE, LAMBDA_FACTOR, Grid
from ..simulate.interpolate import lagrange_weights
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, LABELS, N_GAL, T_AGN_RANGE, noise_sigma
from ..summaries.handmade import Shapes, Spectrum
from ..simulate.mask import FIXED_NUISANCES, OMEGA_M_RANGE, S_8_RANGE, design, procedural_mask
from ..simulate.theory import Theory
from ..core.progress import Progress

ELL_RANGE, N_BIN = (100.0, 4100.0), 8
WHITE_RANGE, N_WHITE = (4100.0, 7000.0), 5   # where white scatter shows
LEAST = 5.0                                  # expected peaks in a bin; emptier bins join their neighbour
PIXELS = 10_000                              # least number whose histograms have a covariance
FIRST = 100                                  # maps that give the fit its covariance


class Comparison:
    """The statistics of a survey's maps and what the theory expects of them.

    mask: bool (rows, columns); n_gal: source galaxies per square arcminute; field: drawing.Field of the
    simulated maps.
    """

    def __init__(self, mask, n_gal=N_GAL, field=Field()):
        self.mask, self.n_gal, self.field = mask, n_gal, field
        self.grid = Grid(mask)
        self.spectrum = Spectrum(mask.shape, mask.sum(), N_BIN, *ELL_RANGE)
        self.beyond = Spectrum(mask.shape, mask.sum(), N_WHITE, *WHITE_RANGE)
        self.shapes = Shapes(mask, n_gal=n_gal)
        least = int(self.shapes.valid.sum(axis=(1, 2)).min())
        if least < PIXELS:
            raise InputError(f"--mask: expected a survey with {PIXELS} pixels to smooth to 8 arcmin, got {least}; its "
                             "histograms would be empty")
        # binned spectra of noiseless maps at the nodes of the nuisances
        window = np.concatenate([masked_window(self.grid, mask, s) for s in (self.spectrum, self.beyond)])
        self.nodes = Theory(0.3, 0.8, field.sky).table(self.grid.ell).nodes
        self.table = CosmologyTable(*zip(OMEGA_M_RANGE, S_8_RANGE),
                                    lambda *theta: Theory(*theta, field.sky).table(self.grid.ell).values @ window.T)
        self.area = self.grid.pixel**2
        theta = design(101)
        self.centre, self.spread = theta.mean(axis=0), np.cov(theta.T)

    def statistics(self, kappa):
        """Of one noisy map (n_observed,): dict of spectrum, beyond, moments, pdf, peaks."""
        frame = np.zeros((1, *self.mask.shape), np.float32)
        frame[0][self.mask] = kappa
        moments, pdf, peaks = self.shapes.describe(frame)
        return {"spectrum": 10.0**self.spectrum(frame)[0], "beyond": 10.0**self.beyond(frame)[0],
                "moments": moments[0], "pdf": pdf[0], "peaks": peaks[0]}

    def expected(self, labels):
        """Binned spectra of noiseless maps, bins of self.spectrum then of self.beyond: (n, bins) at labels (n, 5)."""
        values = self.table(labels[:, :2]).reshape(len(labels), *map(len, self.nodes), -1)
        weights = [lagrange_weights(nodes, labels[:, i]) for nodes, i in zip(self.nodes, (4, 2, 3))]
        return np.einsum("na,nb,nc,nabck->nk", *weights, values, optimize=True)

    def fit(self, found, covariance=None):
        """Cosmology, nuisances and white scatter that fit a map's spectrum best.

        found: statistics(); covariance: of the spectrum, or None for that of a Gaussian sky with as many modes
        as the observed part of the frame has. The priors of the nuisances count, and as the spectrum alone leaves
        Omega_m open by 0.1, so do mean and covariance of the design. Returns label (5,), scatter (variance per
        pixel, 0 or more), chi2 with the priors'.
        """
        white = noise_sigma(self.n_gal)**2 * self.area
        modes = [s.count[s.used] * self.mask.mean() for s in (self.spectrum, self.beyond)]

        def levels(labels):
            """Expected spectrum (n, bins) and scatter (n, 1) at labels (n, 5)."""
            both = self.expected(labels) + white
            low, high = both[:, :self.spectrum.width], both[:, self.spectrum.width:]
            weight = modes[1] / high**2
            excess = np.sum(weight * (found["beyond"] - high), axis=1, keepdims=True)
            scatter = np.maximum(0.0, excess / weight.sum(axis=1, keepdims=True) / self.area)
            return low + self.area * scatter, scatter

        def chi2(labels):
            level, _ = levels(labels)
            rest, off = found["spectrum"] - level, labels[:, :2] - self.centre
            prior = np.einsum("nd,nd->n", off, np.linalg.solve(self.spread, off.T).T)
            prior += (labels[:, 4] / DELTA_Z_SIGMA)**2
            if covariance is None:
                return prior + np.sum(0.5 * modes[0] * (rest / level)**2, axis=1)
            return prior + np.einsum("nd,nd->n", rest, np.linalg.solve(covariance, rest.T).T)

        low, high = np.array([OMEGA_M_RANGE, S_8_RANGE, T_AGN_RANGE, F_0_RANGE, (-0.1, 0.1)]).T
        theta = np.meshgrid(*(np.linspace(*b, 30) for b in (OMEGA_M_RANGE, S_8_RANGE)))
        grid = np.column_stack([*map(np.ravel, theta), np.tile(FIXED_NUISANCES, (900, 1))])
        start = grid[np.argmin(chi2(grid))]
        best = minimize(lambda x: float(chi2((low + x * (high - low))[None])[0]), (start - low) / (high - low),
                        method="Nelder-Mead", bounds=[(0.0, 1.0)] * 5,
                        options={"xatol": 1e-3, "fatol": 1e-3, "maxiter": 2000, "adaptive": True})
        label = low + best.x * (high - low)
        return label, float(levels(label[None])[1][0, 0]), best.fun

    def simulate(self, label, scatter, n, seed, progress=None):
        """n noisy maps (n_observed,) at label (5,), one after another."""
        labels = np.tile(label, (n, 1))
        keys = [(seeds.REALISM, int(r)) for r in range(n)]
        sigma = np.sqrt(noise_sigma(self.n_gal)**2 + scatter)
        field = self.field._replace(pixel_scatter=0.0)         # the map's own scatter stands for it
        for kappa in draw_maps(self.grid, labels, seed, keys, field, sigma):
            if progress is not None:
                progress.update()
            yield kappa

    def compare(self, kappa, n=200, seed=1, progress=None):
        """Compare a real noisy map with n simulated ones at its best-fitting cosmology.

        kappa: (n_observed,). Returns a dict: label (5,), scatter, n; tests, for each of spectrum, beyond (higher
        multipoles), "pdf 2", "pdf 4", ..., "peaks 8" a dict with real, mean, sd (bins), chi2, bins, p_value;
        third, skewness (with the noise's variance) and kurtosis (kurtosis / skewness^2 without it), for each scale
        a dict with real, mean, sd; example, a simulated map (n_observed,).
        """
        found = self.statistics(kappa)
        label, scatter, _ = self.fit(found)
        first = [self.statistics(k)["spectrum"] for k in self.simulate(label, scatter, FIRST, seed + 1)]
        label, scatter, _ = self.fit(found, np.cov(np.array(first).T))
        example, parts = None, []
        for one in self.simulate(label, scatter, n, seed, progress):
            example = one.copy() if example is None else example
            parts.append(self.statistics(one))
        drawn = {name: np.array([p[name] for p in parts]) for name in parts[0]}
        out = {"label": label, "scatter": scatter, "n": n, "example": example, "tests": {}}
        white = self.shapes.noise**2 * (1.0 + scatter / noise_sigma(self.n_gal)**2)
        for name, of in (("third", lambda k2, k3, m4: k3), ("skewness", lambda k2, k3, m4: k3 / k2**1.5),
                         ("kurtosis", lambda k2, k3, m4: (m4 - 3.0 * k2**2) * (k2 - white) / k3**2)):
            real, values = of(*found["moments"].T), of(*np.moveaxis(drawn["moments"], 2, 0))
            out[name] = {scale: {"real": real[i], "mean": values[:, i].mean(), "sd": values[:, i].std(ddof=1)}
                         for i, scale in enumerate(self.shapes.scales)}
        for name in ("spectrum", "beyond"):
            out["tests"][name] = goodness(found[name], drawn[name])
        for i, scale in enumerate(self.shapes.scales):
            pixels = self.shapes.valid[i].sum()
            out["tests"][f"pdf {scale:g}"] = goodness(found["pdf"][i] * pixels, drawn["pdf"][:, i] * pixels, total=True)
        for i, scale in enumerate(self.shapes.scales):
            out["tests"][f"peaks {scale:g}"] = goodness(found["peaks"][i], drawn["peaks"][:, i])
        return out


def goodness(real, drawn, total=False):
    """chi2 of a real map's numbers against simulated ones: scatter of a new map about the mean of n.

    real: (bins,); drawn: (n, bins); total: they add up to a constant, so that the last bin says nothing new.
    Bins with fewer than LEAST expected (where numbers are counts) are joined with their neighbour nearer to the
    fullest. chi2 has Hartlap's factor (Hartlap et al. 2007, A&A 464, 399); p_value is that of Hotelling's T^2.
    """
    n, mean, sd = len(drawn), drawn.mean(axis=0), drawn.std(axis=0, ddof=1)
    group = join(mean) if mean.max() > LEAST else np.arange(len(mean))
    a, b = (np.add.reduceat(v, np.unique(group, return_index=True)[1], axis=-1) for v in (real, drawn))
    if total:
        a, b = a[:-1], b[:, :-1]
    d = len(a)
    if n < d + 3:
        raise InputError(f"--maps: expected at least {d + 3} for {d} bins, got {n}; give more")
    rest = a - b.mean(axis=0)
    t2 = rest @ np.linalg.solve(np.cov(b.T), rest) / (1.0 + 1.0 / n)
    return {"real": real, "mean": mean, "sd": sd, "bins": d, "chi2": float(t2 * (n - d - 2) / (n - 1)),
            "p_value": float(f_distribution.sf(t2 * (n - d) / (d * (n - 1)), d, n - d))}


def join(mean):
    """Number of the group of each bin, ascending: both tails joined until each group expects LEAST."""
    top, group = int(np.argmax(mean)), np.arange(len(mean))
    for order in (range(top), range(len(mean) - 1, top, -1)):
        held = 0.0
        for i in order:
            step = 1 if i < top else -1
            held += mean[i]
            if held < LEAST:
                group[group == group[i]] = group[i + step]
            else:
                held = 0.0
    return np.searchsorted(np.unique(group), group)


def table(result):
    """The comparison as aligned text."""
    lines = []
    lines.append("best fit: " + ", ".join(f"{name} = {value:.4g}" for name, value in zip(LABELS, result["label"]))
                 + f"; white scatter {result['scatter']:.1e} (variance per pixel); {result['n']} simulated maps")
    lines.append(f"{'statistic':34s}{'bins':>5s}{'chi2':>8s}{'p-value':>9s}")
    titles = {"spectrum": f"spectrum, ell {ELL_RANGE[0]:g}-{ELL_RANGE[1]:g}",
              "beyond": f"spectrum, ell {WHITE_RANGE[0]:g}-{WHITE_RANGE[1]:g}",
              "pdf": "one-point PDF at {} arcmin", "peaks": "peak counts at {} arcmin"}
    for name, test in result["tests"].items():
        kind, _, scale = name.partition(" ")
        lines.append(f"{titles[kind].format(scale):34s}{test['bins']:5d}{test['chi2']:8.1f}{test['p_value']:9.3f}")
    lines.append(f"{'smoothed with':16s}{'third moment, real / sim.':>26s}{'skewness, real   simulated':>30s}"
                 f"{'kurtosis / skewness^2, noise removed':>40s}")
    for scale, third in result["third"].items():
        skewness, kurtosis = result["skewness"][scale], result["kurtosis"][scale]
        lines.append(f"{f'{scale:g} arcmin':16s}{third['real'] / third['mean']:18.2f} +- "
                     f"{third['sd'] / third['mean']:.2f}"
                     f"{skewness['real']:15.3f}  {skewness['mean']:.3f} +- {skewness['sd']:.3f}"
                     f"{kurtosis['real']:24.2f}  {kurtosis['mean']:.2f} +- {kurtosis['sd']:.2f}")
    return "\n".join(lines)


def read_map(path, row, mask):
    """Row of a file of noisy maps and its mask; mask: file, or None for the one beside the map, else a formula's."""
    path = pathlib.Path(path)
    if mask is None:
        beside = path.parent / dataset.MASK_FILE
        observed = dataset.read_mask(beside) if beside.is_file() else procedural_mask()
    else:
        observed = dataset.read_mask(mask)
    kappa = dataset.load_npy(path, mmap=True)
    kappa = array(path, kappa if kappa.ndim > 1 else kappa[None], (None, int(observed.sum())), "f", finite=False,
                  advice="the observed pixels of the mask, give --mask")
    if not 0 <= row < len(kappa):
        raise InputError(f"--row: expected 0 to {len(kappa) - 1}, got {row}")
    return array(f"{path}, row {row}", kappa[row].astype(np.float32)), observed


def parser():
    """The options of python -m wl.validate realism."""
    parser = cli.Parser(prog="python -m wl.validate realism", description=__doc__)
    add = parser.add_argument
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--map", metavar="FILE", help=".npy with noisy maps (any, n_observed) or one (n_observed,)")
    one("--spectra", metavar="FILE", help=".npz with arrays power (cosmology, realisation, bin), ell_edges, and label "
        "(cosmology, realisation, 5) unless --label is given")
    add("--label", metavar="FILE", help="labels of the whole set (.npy), of which --spectra has the first cosmologies and "
        "realisations; the rms of the signal over all of them is printed too")
    add("--row", type=int, default=0, metavar="I", help="which of them (default: 0)")
    add("--mask", metavar="FILE", help=".npy bool (default: the public file beside the map, else a formula)")
    add("--maps", type=int, default=200, metavar="N", help="maps to simulate (with --spectra at least one per spectrum)")
    add("--field", default="lognormal", choices=("lognormal", "halo", "gaussian"), help="of the simulated maps")
    add("--gaussian-share", type=float, default=GAUSSIAN_SHARE, metavar="X", help="as in wl.simulate")
    add("--lambda-factor", type=float, default=LAMBDA_FACTOR, metavar="X", help="as in wl.simulate")
    add("--n-gal", type=float, default=N_GAL, metavar="X", help="source galaxies per square arcminute")
    add("--figure", metavar="FILE", help="picture (.png, .pdf) of the real map, a simulated one and the statistics")
    return cli.add_common(parser, threads=False)


def main(argv=None):
    """The command line: python -m wl.validate realism."""
    options = parser().parse_args(argv)
    field = Field(options.field, within("--gaussian-share", options.gaussian_share, 0.0, 0.9),
                  lambda_factor=positive("--lambda-factor", options.lambda_factor))
    n, n_gal = positive("--maps", options.maps, integer=True), positive("--n-gal", options.n_gal)
    if options.spectra:
        mask = procedural_mask() if options.mask is None else dataset.read_mask(options.mask)
        label = None if options.label is None else dataset.read_label(options.label)
        print(f"{options.spectra}: " + labelled.report(options.spectra, mask, label, field, n, n_gal, options.seed,
                                                       options.quiet))
        return
    kappa, mask = read_map(options.map, options.row, options.mask)
    if options.figure:
        from . import figures
        figures.check(options.figure)
    comparison = Comparison(mask, n_gal, field)
    progress = Progress(n, "realism", options.quiet)
    result = comparison.compare(kappa, n, options.seed, progress)
    progress.close()
    print(f"{options.map}, row {options.row}: {table(result)}")
    if options.figure:
        figures.realism(options.figure, comparison, kappa, result)
        print(f"picture: {options.figure}")
