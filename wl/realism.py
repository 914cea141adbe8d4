"""How well simulated maps stand in for a real one: spectrum, one-point PDF, third moments, peak counts.

    python -m wl.realism --map data/public/WIDE12H_bin2_2arcmin_kappa_noisy_test.npy --row 0 --figure real.png

Finds the cosmology whose spectrum fits the noisy map best, simulates maps there, and compares.
"""
import pathlib

import numpy as np
from scipy.optimize import minimize
from scipy.stats import f as f_distribution

from . import cli, maps
from .bandpowers import CosmologyTable, masked_window
from .checks import InputError, array, positive
from .drawing import Field, draw_maps, generator
from .fields import GAUSSIAN_SHARE, Grid
from .params import N_GAL, PARAMS, noise_sigma
from .summaries import Shapes, Spectrum
from .survey import FIXED_NUISANCES, OMEGA_M_RANGE, S_8_RANGE, procedural_mask
from .theory import Theory

ELL_RANGE, N_BIN = (100.0, 4100.0), 8
WHITE_RANGE, N_WHITE = (4100.0, 7000.0), 5   # where white scatter shows
STREAM = 9                                   # of random numbers
LEAST = 5.0                                  # expected peaks in a bin; emptier bins join their neighbour
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
        # binned spectra of noiseless maps, nuisances at the centres of their priors
        window = np.concatenate([masked_window(self.grid, mask, s) for s in (self.spectrum, self.beyond)])
        log10_t_agn, f_0, delta_z = FIXED_NUISANCES
        self.expected = CosmologyTable(*zip(OMEGA_M_RANGE, S_8_RANGE), lambda *theta: window @ Theory(*theta).c_ell(
            self.grid.ell, delta_z, log10_t_agn, f_0))
        self.shapes = Shapes(mask, n_gal=n_gal)
        self.area = self.grid.pixel**2

    def statistics(self, kappa):
        """Of one noisy map (n_observed,): dict of spectrum, beyond, moments, pdf, peaks."""
        frame = np.zeros((1, *self.mask.shape), np.float32)
        frame[0][self.mask] = kappa
        moments, pdf, peaks = self.shapes.describe(frame)
        return {"spectrum": 10.0**self.spectrum(frame)[0], "beyond": 10.0**self.beyond(frame)[0],
                "moments": moments[0], "pdf": pdf[0], "peaks": peaks[0]}

    def fit(self, found, covariance=None):
        """Cosmology and white scatter that fit a map's spectrum best.

        found: statistics(); covariance: of the spectrum, or None for that of a Gaussian sky with as many modes
        as the observed part of the frame has. Returns theta (2,), scatter (variance per pixel, 0 or more), chi2.
        """
        white = noise_sigma(self.n_gal)**2 * self.area
        modes = [s.count[s.used] * self.mask.mean() for s in (self.spectrum, self.beyond)]

        def levels(theta):
            """Expected spectrum (n, bins) and scatter (n, 1) at theta (n, 2)."""
            both = self.expected(theta) + white
            low, high = both[:, :self.spectrum.width], both[:, self.spectrum.width:]
            weight = modes[1] / high**2
            excess = np.sum(weight * (found["beyond"] - high), axis=1, keepdims=True)
            scatter = np.maximum(0.0, excess / weight.sum(axis=1, keepdims=True) / self.area)
            return low + self.area * scatter, scatter

        def chi2(theta):
            level, _ = levels(theta)
            rest = found["spectrum"] - level
            if covariance is None:
                return np.sum(0.5 * modes[0] * (rest / level)**2, axis=1)
            return np.einsum("nd,nd->n", rest, np.linalg.solve(covariance, rest.T).T)

        bounds = OMEGA_M_RANGE, S_8_RANGE
        grid = np.stack(np.meshgrid(*(np.linspace(*b, 60) for b in bounds)), axis=-1).reshape(-1, 2)
        start = grid[np.argmin(chi2(grid))]
        best = minimize(lambda x: float(chi2(x[None])[0]), start, method="Nelder-Mead", bounds=bounds,
                        options={"xatol": 1e-4, "fatol": 1e-3})
        return best.x, float(levels(best.x[None])[1][0, 0]), best.fun

    def simulate(self, theta, scatter, n, seed, progress=None):
        """n noisy maps (n_observed,) at theta, one after another."""
        labels = np.tile([*theta, *FIXED_NUISANCES], (n, 1))
        keys = [(STREAM, int(r)) for r in range(n)]
        sigma = np.sqrt(noise_sigma(self.n_gal)**2 + scatter)
        for kappa in draw_maps(self.grid, labels, seed, keys, self.field, sigma):
            if progress is not None:
                progress.update()
            yield kappa

    def compare(self, kappa, n=200, seed=1, progress=None):
        """Compare a real noisy map with n simulated ones at its best-fitting cosmology.

        kappa: (n_observed,). Returns a dict: theta, scatter, n; tests, for each of spectrum, beyond (higher
        multipoles), "pdf 2", "pdf 4", ..., "peaks 8" a dict with real, mean, sd (bins), chi2, bins, p_value; third
        and skewness, for each scale a dict with real, mean, sd; example, a simulated map (n_observed,).
        """
        found = self.statistics(kappa)
        theta, scatter, _ = self.fit(found)
        first = [self.statistics(k)["spectrum"] for k in self.simulate(theta, scatter, FIRST, seed + 1)]
        theta, scatter, _ = self.fit(found, np.cov(np.array(first).T))
        example, parts = None, []
        for one in self.simulate(theta, scatter, n, seed, progress):
            example = one.copy() if example is None else example
            parts.append(self.statistics(one))
        drawn = {name: np.array([p[name] for p in parts]) for name in parts[0]}
        out = {"theta": theta, "scatter": scatter, "n": n, "example": example, "tests": {}, "third": {}, "skewness": {}}
        for name in ("spectrum", "beyond"):
            out["tests"][name] = goodness(found[name], drawn[name])
        for i, scale in enumerate(self.shapes.scales):
            pixels = self.shapes.valid[i].sum()
            out["tests"][f"pdf {scale:g}"] = goodness(found["pdf"][i] * pixels, drawn["pdf"][:, i] * pixels, total=True)
            real, simulated = found["moments"][i], drawn["moments"][:, i]
            for name, power in (("third", 0.0), ("skewness", 1.5)):
                values = simulated[:, 1] / simulated[:, 0]**power
                out[name][scale] = {"real": real[1] / real[0]**power, "mean": values.mean(), "sd": values.std(ddof=1)}
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
    theta, lines = result["theta"], []
    lines.append("best-fitting cosmology: " + ", ".join(f"{p} = {t:.4f}" for p, t in zip(PARAMS, theta))
                 + f"; white scatter {result['scatter']:.1e} (variance per pixel); {result['n']} simulated maps")
    lines.append(f"{'statistic':34s}{'bins':>5s}{'chi2':>8s}{'p-value':>9s}")
    titles = {"spectrum": f"spectrum, ell {ELL_RANGE[0]:g}-{ELL_RANGE[1]:g}",
              "beyond": f"spectrum, ell {WHITE_RANGE[0]:g}-{WHITE_RANGE[1]:g}",
              "pdf": "one-point PDF at {} arcmin", "peaks": "peak counts at {} arcmin"}
    for name, test in result["tests"].items():
        kind, _, scale = name.partition(" ")
        lines.append(f"{titles[kind].format(scale):34s}{test['bins']:5d}{test['chi2']:8.1f}{test['p_value']:9.3f}")
    for scale, third in result["third"].items():
        skewness = result["skewness"][scale]
        lines.append(f"{f'third moment at {scale:g} arcmin':34s}real / simulated {third['real'] / third['mean']:.2f} +- "
                     f"{third['sd'] / third['mean']:.2f}; skewness {skewness['real']:.3f}, simulated "
                     f"{skewness['mean']:.3f} +- {skewness['sd']:.3f}")
    return "\n".join(lines)


def read_map(path, row, mask):
    """Row of a file of noisy maps and its mask; mask: file, or None for the one beside the map, else a formula's."""
    path = pathlib.Path(path)
    if mask is None:
        beside = path.parent / maps.MASK_FILE
        observed = maps.read_mask(beside) if beside.is_file() else procedural_mask()
    else:
        observed = maps.read_mask(mask)
    kappa = maps.load_npy(path, mmap=True)
    kappa = array(path, kappa if kappa.ndim > 1 else kappa[None], (None, int(observed.sum())), "f", finite=False,
                  advice="the observed pixels of the mask, give --mask")
    if not 0 <= row < len(kappa):
        raise InputError(f"--row: expected 0 to {len(kappa) - 1}, got {row}")
    return array(f"{path}, row {row}", kappa[row].astype(np.float32)), observed


def parser():
    """The options of python -m wl.realism."""
    parser = cli.Parser(prog="python -m wl.realism", description=__doc__)
    add = parser.add_argument
    add("--map", required=True, metavar="FILE", help=".npy with noisy maps (any, n_observed) or one (n_observed,)")
    add("--row", type=int, default=0, metavar="I", help="which of them (default: 0)")
    add("--mask", metavar="FILE", help=".npy bool (default: the public file beside the map, else a formula)")
    add("--maps", type=int, default=200, metavar="N", help="maps to simulate")
    add("--field", default="lognormal", choices=("lognormal", "gaussian"), help="of the simulated maps")
    add("--gaussian-share", type=float, default=GAUSSIAN_SHARE, metavar="X", help="as in wl.simulate")
    add("--lambda-factor", type=float, default=1.0, metavar="X", help="as in wl.simulate")
    add("--n-gal", type=float, default=N_GAL, metavar="X", help="source galaxies per square arcminute")
    add("--figure", metavar="FILE", help="picture (.png, .pdf) of the real map, a simulated one and the statistics")
    return cli.add_common(parser, threads=False)


def main(argv=None):
    """The command line: python -m wl.realism."""
    options = parser().parse_args(argv)
    kappa, mask = read_map(options.map, options.row, options.mask)
    field = Field(options.field, options.gaussian_share, positive("--lambda-factor", options.lambda_factor))
    n = positive("--maps", options.maps, integer=True)
    if options.figure:
        from . import figures
        figures.check(options.figure)
    comparison = Comparison(mask, positive("--n-gal", options.n_gal), field)
    progress = cli.Progress(n, "realism", options.quiet)
    result = comparison.compare(kappa, n, options.seed, progress)
    progress.close()
    print(f"{options.map}, row {options.row}: {table(result)}")
    if options.figure:
        figures.realism(options.figure, comparison, kappa, result)
        print(f"picture: {options.figure}")


if __name__ == "__main__":
    cli.run(main)
