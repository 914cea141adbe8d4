"""How well simulated maps stand in for real ones, by spectrum, PDF, moments, peaks and contours.

    python -m wl.validate realism --map data/public/WIDE12H_bin2_2arcmin_kappa_noisy_test.npy
    python -m wl.validate realism --spectra kit_spectra.npz --mask mask.npy

Finds the cosmology and nuisances whose spectrum fits a noisy map best, and the white scatter beyond
the shape noise that its highest multipoles ask for, simulates maps there, and prints chi2 of each
statistic against their mean and covariance, and its p-value. With --spectra, noisy spectra of maps
with truth take the map's place: mean signals, responses d ln P / d nuisance by regression on the
realisations, scatter of log10 P between them.
"""
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from scipy import stats
from scipy.optimize import minimize

from ..core import cli, seeds
from ..core.checks import InputError, array, within
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, LABELS, T_AGN_RANGE, noise_sigma
from ..core.progress import Progress
from ..maps import dataset
from ..simulate.fields import Grid
from ..simulate.halo_sky import draw_maps
from ..simulate.plan import (FIXED_NUISANCES, OMEGA_M_RANGE, S_8_RANGE, SimulationOptions, design,
                             procedural_mask)
from ..simulate.theory import TABLE, Theory, lagrange_weights
from ..summaries.handmade import Shapes, Spectrum
from . import spectra

ELL_RANGE, N_BIN = (100.0, 4100.0), 8
WHITE_RANGE, N_WHITE = (4100.0, 7000.0), 5   # where white scatter shows
SCALES = (0.0, 2.0, 4.0, 8.0)                # arcmin; single pixels have moments alone
MIN_PIXELS = 10_000                          # whose histograms have a covariance
MIN_COUNT = 5.0                              # expected in a bin; emptier bins join their neighbour
N_FIRST = 600                                # maps that give the fit its covariance
THRESHOLDS = np.linspace(-2.0, 3.5, 12)      # of Minkowski functionals, in units of Shapes.unit
TITLES = {"spectrum": "spectrum, ell {0[0]:g}-{0[1]:g}".format(ELL_RANGE),
          "beyond": "spectrum, ell {0[0]:g}-{0[1]:g}".format(WHITE_RANGE),
          "third": "third moments, all scales", "fourth": "fourth cumulants, all scales",
          "pdf": "one-point PDF at {} arcmin", "peaks": "peak counts at {} arcmin",
          "minima": "minima counts at {} arcmin", "area": "area above thresholds, {} arcmin",
          "length": "length of contours, {} arcmin", "euler": "Euler characteristic, {} arcmin"}
RANKED = ("third", "fourth")     # heavy tails: T^2 gives 3 to 7 % of maps a p-value below 0.01
TOGETHER = {"PDF": ("pdf",), "peak counts": ("peaks",), "minima counts": ("minima",),
            "Minkowski functionals": ("area", "length", "euler")}


def _minkowski(field, valid, thresholds):
    """Area, length of the border and Euler characteristic of what is above: (3, thresholds)."""
    # Mantz, Jacobs & Mecke 2008, J. Stat. Mech. P12015: sums over pixels, pairs of them, squares
    # of four, each above where its lowest pixel is; parts less holes, of pixels that share a side
    one = np.where(valid, field, -np.inf)
    down, right = np.minimum(one[1:], one[:-1]), np.minimum(one[:, 1:], one[:, :-1])
    def above(values):
        place = np.searchsorted(thresholds, values.ravel())
        return np.bincount(place, minlength=len(thresholds) + 1)[:0:-1].cumsum()[::-1]
    pixels, pairs = above(one), above(down) + above(right)
    squares = above(np.minimum(down[:, 1:], down[:, :-1]))
    return np.array([pixels, 4 * pixels - 2 * pairs, pixels - pairs + squares], float)


class Comparison:
    """The statistics of a survey's maps, and what the theory expects of their spectra.

    mask, field: bool (rows, columns); of simulated maps, n_gal too. Raises InputError.
    """

    def __init__(self, mask: np.ndarray, field: SimulationOptions = SimulationOptions()):
        self.mask, self.n_gal, self.field, self.grid = mask, field.n_gal, field, Grid(mask)
        self.both = [Spectrum(mask.shape, mask.sum(), n, *span)
                     for n, span in ((N_BIN, ELL_RANGE), (N_WHITE, WHITE_RANGE))]
        self.shapes = Shapes(mask, SCALES, n_gal=self.n_gal)
        if (pixels := self.shapes.count.min()) < MIN_PIXELS:
            raise InputError(f"--mask: expected a survey with {MIN_PIXELS} pixels to smooth to 8 "
                             f"arcmin, got {pixels}; its histograms would be empty")
        # binned spectra of noiseless maps at the nodes of the nuisances
        window = np.concatenate([spectra.masked_window(self.grid, mask, s) for s in self.both])
        self.table = spectra.CosmologyTable(
            *zip(OMEGA_M_RANGE, S_8_RANGE), lambda *theta: Theory(*theta, field.sky).c_ell(
                self.grid.ell, *TABLE.values()) @ window.T)
        self.centre, self.spread = design(101).mean(axis=0), np.cov(design(101).T)

    def frame(self, kappa: np.ndarray) -> np.ndarray:
        """Pixels (n_observed,) as float32 (rows, columns), zero where nothing is observed."""
        frame = np.zeros(self.mask.shape, np.float32)
        frame[self.mask] = kappa
        return frame

    def spectra(self, kappa: np.ndarray) -> list[np.ndarray]:
        """Binned spectra of a map (n_observed,) in ELL_RANGE and in WHITE_RANGE."""
        return [10.0**spectrum(self.frame(kappa)[None])[0] for spectrum in self.both]

    def statistics(self, kappa: np.ndarray) -> dict:
        """Of one noisy map (n_observed,): each name of TITLES, those with a scale as "pdf 2"."""
        frame = self.frame(kappa)
        moments, pdf = (part[0] for part in self.shapes.distributions(frame[None]))
        smoothed = self.shapes.smooth(frame)
        peaks, minima = self.shapes.peaks(smoothed), self.shapes.peaks(-smoothed)
        two, three, four = moments.T
        out = dict(zip(TITLES, (*self.spectra(kappa), three, four - 3.0 * two**2)))
        for i, scale in list(enumerate(SCALES))[1:]:
            found = (pdf[i], peaks[i], minima[i], *_minkowski(
                smoothed[i], self.shapes.valid[i], THRESHOLDS * self.shapes.unit[i]))
            out.update((f"{name} {scale:g}", v) for name, v in zip(list(TITLES)[4:], found))
        return out

    def expected(self, labels: np.ndarray) -> np.ndarray:
        """Binned spectra of noiseless maps at labels (n, 5), both in a row: (n, bins)."""
        values = self.table(labels[:, :2]).reshape(len(labels), *map(len, TABLE.values()), -1)
        weights = map(lagrange_weights, TABLE.values(), labels[:, (4, 2, 3)].T)
        return np.einsum("na,nb,nc,nabck->nk", *weights, values, optimize=True)

    def fit(self, found: dict, covariance: np.ndarray | None = None) -> tuple:
        """Cosmology, nuisances and white scatter that fit a map's spectrum best.

        found: statistics()
        covariance: of both spectra, or None for a Gaussian sky's with the observed part's modes
        The nuisances' priors count, and as the spectrum alone leaves Omega_m open by 0.1, so do
        mean and covariance of the design. Returns label (5,), scatter (variance per pixel), chi2.
        """
        real, n = np.concatenate([found["spectrum"], found["beyond"]]), self.both[0].width
        area, white = self.grid.pixel**2, noise_sigma(self.n_gal)**2 * self.grid.pixel**2
        modes = np.concatenate([s.count[s.used] for s in self.both]) * self.mask.mean()
        def levels(labels):
            level = self.expected(labels) + white
            weight = modes[n:] / level[:, n:]**2
            excess = np.sum(weight * (real[n:] - level[:, n:]), axis=1, keepdims=True)
            scatter = np.maximum(0.0, excess / weight.sum(axis=1, keepdims=True) / area)
            return level + area * scatter, scatter
        def chi2(labels):
            level, _ = levels(labels)
            rest, off = real - level, labels[:, :2] - self.centre
            prior = np.einsum("nd,nd->n", off, np.linalg.solve(self.spread, off.T).T)
            prior += (labels[:, 4] / DELTA_Z_SIGMA)**2
            if covariance is None:
                return prior + np.sum(0.5 * modes * (rest / level)**2, axis=1)
            return prior + np.einsum("nd,nd->n", rest, np.linalg.solve(covariance, rest.T).T)
        low, high = np.array([OMEGA_M_RANGE, S_8_RANGE, T_AGN_RANGE, F_0_RANGE, (-0.1, 0.1)]).T
        theta = np.meshgrid(*(np.linspace(*b, 30) for b in (OMEGA_M_RANGE, S_8_RANGE)))
        grid = np.column_stack([*map(np.ravel, theta), np.tile(FIXED_NUISANCES, (900, 1))])
        start = grid[np.argmin(chi2(grid))]
        best = minimize(lambda x: float(chi2((low + x * (high - low))[None])[0]),
                        (start - low) / (high - low), method="Nelder-Mead", bounds=[(0.0, 1.0)] * 5,
                        options={"xatol": 1e-3, "fatol": 1e-3, "maxiter": 2000, "adaptive": True})
        label = low + best.x * (high - low)
        return label, float(levels(label[None])[1][0, 0]), best.fun

    def simulate(self, label: np.ndarray, scatter: float, n: int, seed: int,
                 progress: Progress | None = None) -> Iterator[np.ndarray]:
        """Yield n noisy maps (n_observed,) at label (5,), with the white scatter of a fit()."""
        labels, keys = np.tile(label, (n, 1)), [(seeds.REALISM, r) for r in range(n)]
        sigma = np.sqrt(noise_sigma(self.n_gal)**2 + scatter)
        field = dataclasses.replace(self.field, pixel_scatter=0.0)     # the map's own stands for it
        for kappa in draw_maps(self.grid, labels, seed, keys, field, sigma):
            if progress is not None:
                progress.update()
            yield kappa

    def compare(self, kappa: np.ndarray, n: int = 200, seed: int = 1,
                progress: Progress | None = None) -> dict:
        """Compare a real noisy map (n_observed,) with n simulated ones at its best fit.

        Returns a dict: label (5,), scatter, n; together, of each of TOGETHER the share of all n + 1
        maps whose lowest p-value of its tests at all scales is as low as the real map's; tests, of
        each of statistics() a dict: real, mean, sd (bins,); bins, after few counts were joined;
        chi2 with the factor of Hartlap et al. 2007, A&A 464, 399; p_value of Hotelling's T^2, for
        RANKED the share of all maps as far from their mean; of_each (n + 1,), of every map against
        all others, the real one first. Raises InputError for too few maps.
        """
        found = self.statistics(kappa)
        label, scatter, _ = self.fit(found)
        first = [np.concatenate(self.spectra(k))
                 for k in self.simulate(label, scatter, N_FIRST, seed + 1)]
        label, scatter, _ = self.fit(found, np.cov(np.array(first).T))
        parts = [self.statistics(k) for k in self.simulate(label, scatter, n, seed, progress)]
        tests = {name: _goodness(name.split()[0], real, np.array([part[name] for part in parts]))
                 for name, real in found.items()}
        lowest = {title: np.min([test["of_each"] for name, test in tests.items()
                                 if name.split()[0] in kinds], axis=0)
                  for title, kinds in TOGETHER.items()}
        together = {title: float(np.mean(p <= p[0])) for title, p in lowest.items()}
        return {"label": label, "scatter": scatter, "n": n, "tests": tests, "together": together}


def _goodness(kind, real, drawn):
    """Numbers of a kind of TITLES, a real map's (bins,) against simulated ones' (n, bins)."""
    n, mean, sd = len(drawn), drawn.mean(axis=0), drawn.std(axis=0, ddof=1)
    group = _join(mean) if kind in ("pdf", "peaks", "minima") else np.arange(len(mean))
    a, b = (np.add.reduceat(v, np.unique(group, return_index=True)[1], axis=-1)
            for v in (real, drawn))
    unit = b.std(axis=0)                 # moments of 1e-8 and areas of 1e5 pixels alike
    used = unit > 0.0                    # thresholds that a map reaches
    used[-1] &= kind != "pdf"            # which adds up to a constant
    all_maps, d = np.vstack([a, b])[:, used] / unit[used], int(used.sum())
    if n < d + 3:
        raise InputError(f"--maps: expected at least {d + 3} for {d} bins, got {n}; give more")
    off = all_maps - all_maps.mean(axis=0)
    far = np.einsum("nd,nd->n", off, np.linalg.solve(np.cov(off.T), off.T).T)
    share = (n + 1) * far / n**2     # T^2 of a map against all others: (n - 1) share / (1 - share)
    of_each = stats.beta.sf(share, 0.5 * d, 0.5 * (n - d))
    return {"real": real, "mean": mean, "sd": sd, "bins": d, "of_each": of_each,
            "chi2": float((n - d - 2) * share[0] / (1.0 - share[0])),
            "p_value": float(np.mean(far >= far[0]) if kind in RANKED else of_each[0])}


def _join(mean):
    """Number of the group of each bin, ascending: tails joined until each expects MIN_COUNT."""
    top, group = int(np.argmax(mean)), np.arange(len(mean))
    for order, step in ((range(top), 1), (range(len(mean) - 1, top, -1), -1)):
        held = 0.0
        for i in order:
            held += mean[i]
            if held < MIN_COUNT:
                group[group == group[i]] = group[i + step]
            held *= held < MIN_COUNT
    return np.unique(group, return_inverse=True)[1]


def table(results: dict[int, dict]) -> str:
    """Comparisons as aligned text, a column each; results: row of the file -> compare()'s."""
    lines = [f"row {row}, best fit: "
             + ", ".join(f"{name} = {value:.4g}" for name, value in zip(LABELS, one["label"]))
             + f"; white scatter {one['scatter']:.1e} (variance per pixel); {one['n']} maps"
             for row, one in results.items()]
    lines += ["", f"{'chi2 / bins, p-value':36s}" + "".join(f"{f'row {r}':>20s}" for r in results)]
    tests = [one["tests"] for one in results.values()]
    for name in sorted(tests[0], key=lambda n: list(TITLES).index(n.partition(" ")[0])):
        kind, _, scale = name.partition(" ")
        lines.append(f"{TITLES[kind].format(scale):36s}" + "".join(
            "{chi2:10.1f}/{bins:2d} {p_value:6.3f}".format(**t[name]) for t in tests))
    lines += ["", "chance of a lowest p-value like the map's, all scales together"]
    lines += [f"{title:36s}" + "".join(f"{one['together'][title]:20.3f}"
                                       for one in results.values()) for title in TOGETHER]
    lines += ["", f"{'simulated / real, +- scatter':36s}" + "".join(
        f"{f'{scale:g} arcmin':>16s}" for scale in SCALES)]
    for kind, title in (("third", "third moment"), ("fourth", "fourth cumulant")):
        real, mean, sd = (np.array([t[kind][k] for t in tests]) for k in ("real", "mean", "sd"))
        rows = [(f"row {row}", *three) for row, *three in zip(results, mean, sd, real)]
        if len(results) > 1:
            rows.append(("all rows", mean.mean(0), np.sqrt((sd**2).sum(0)) / len(sd), real.mean(0)))
        lines += [f"{f'{title}, {row}':36s}" + "".join(
            f"{f'{m / r:.2f} +- {abs(s / r):.2f}':>16s}" for m, s, r in zip(*values))
            for row, *values in rows]
    return "\n".join(lines)


def _print_spectra(args, options, n):
    mask = procedural_mask() if args.mask is None else dataset.read_mask(args.mask)
    label = None if args.label is None else dataset.read_label(args.label)
    real = spectra.read_spectra(args.spectra, mask, label, options.n_gal)
    survey, number = real.survey, real.power[..., 0].size
    repeats = -(-n // number)
    progress = Progress(repeats * number, "realism", args.quiet)
    drawn = spectra.simulate(survey, real.label, options, repeats, args.seed, progress)
    progress.close()
    print("{}: {} cosmologies, {} realisations; {} simulated maps of each".format(
        args.spectra, *real.label.shape[:2], repeats))
    found = spectra.compare(real, survey.expected(real.label, options), drawn)
    print(spectra.table(found, real.label))
    if label is not None:
        print("standard deviation of the signal in a pixel over all labels: "
              f"{survey.rms(label, options):.5f}")


def read_maps(path: str, rows: str, mask: str | None) -> tuple[dict, np.ndarray]:
    """Maps of a file {row: float32 (n_observed,)} and their mask, by default the one beside them.

    rows: a number, or "all". Raises InputError.
    """
    beside = pathlib.Path(mask or pathlib.Path(path).parent / dataset.MASK_FILE)
    observed = dataset.read_mask(beside) if mask or beside.is_file() else procedural_mask()
    kappa = dataset.load_npy(path, mmap=True)
    kappa = array(path, kappa if kappa.ndim > 1 else kappa[None], (None, int(observed.sum())), "f",
                  finite=False, advice="the observed pixels of the mask, give --mask")
    if rows != "all" and not (str(rows).isdigit() and int(rows) < len(kappa)):
        raise InputError(f"--row: expected 0 to {len(kappa) - 1} or all, got {rows}")
    return {row: array(f"{path}, row {row}", kappa[row].astype(np.float32))
            for row in (range(len(kappa)) if rows == "all" else [int(rows)])}, observed


def realism_parser() -> cli.Parser:
    """The options of python -m wl.validate realism."""
    parser = cli.Parser(prog="python -m wl.validate realism", description=__doc__)
    add = parser.add_argument
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--map", metavar="FILE", help=".npy with noisy maps (any, n_observed) or one (n_observed,)")
    one("--spectra", metavar="FILE", help=".npz with power (cosmology, realisation, bin), ell_edges"
        " and, unless --label is given, label (cosmology, realisation, 5)")
    add("--label", metavar="FILE", help="labels of the whole set (.npy), of which --spectra has "
        "the first cosmologies and realisations; the rms of the signal over all is printed too")
    add("--row", default="0", metavar="I|all", help="which of the maps; all: each in its column")
    add("--mask", metavar="FILE", help=".npy bool (default: the public file, else a formula)")
    add("--maps", type=int, default=200, metavar="N", help="maps to simulate for each (with "
        "--spectra at least one per spectrum)")
    SimulationOptions.add_to(parser, "simulated maps", only=("field", "gaussian_share",
                                                             "lambda_factor", "n_gal"))
    return cli.add_common(parser, threads=False)


def realism_main(argv: list | None = None) -> None:
    """The command line: python -m wl.validate realism."""
    args = cli.parse(realism_parser(), argv)
    options, n = SimulationOptions.of(args), within("--maps", args.maps, 1, 10**6, integer=True)
    if args.spectra:
        return _print_spectra(args, options, n)
    maps, mask = read_maps(args.map, args.row, args.mask)
    comparison, progress = Comparison(mask, options), Progress(n * len(maps), "realism", args.quiet)
    results = {row: comparison.compare(kappa, n, args.seed, progress)
               for row, kappa in maps.items()}
    progress.close()
    print(f"{args.map}, {args.field} maps\n{table(results)}")
