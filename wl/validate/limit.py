"""The information limit: the best score that any method can expect of a Gaussian sky.

    python -m wl.simulate --out data/gaussian --field gaussian --mask none --periodic
    python -m wl.validate limit --data data/gaussian

The modes of a Gaussian field on its periodic grid are independent, so a noisy map's likelihood is
exact: ln L = -1/2 sum over bins of n_b (ln P_b + Phat_b / P_b), n_b modes of the plane in a bin of
|ell|, Phat_b their mean power (e.g. Bond, Jaffe & Knox 2000, ApJ 533, 19). Nuisances are averaged
over their priors.
"""
import dataclasses
import pathlib

import numpy as np
import scipy.fft
from scipy.spatial import Delaunay
from scipy.special import logsumexp, ndtri
from scipy.stats import qmc

from ..core import cli, hdf5, seeds
from ..core.checks import InputError, Options, array, option, triangulate
from ..core.params import (DELTA_Z_SIGMA, F_0_RANGE, HOLDOUT, NAMES, PARAMS, T_AGN_RANGE, TEST,
                           noise_sigma)
from ..core.progress import Progress
from ..maps import dataset
from ..maps.dataset import LIMIT_FILE
from ..posterior import posterior
from ..posterior.emulator import BANDWIDTH, log_prior, quadrature_points
from ..scoring import report, table
from ..scoring.report import STAMPS
from ..simulate.fields import ARCMIN, Grid, generator, mirror_weights
from ..simulate.plan import DESIGN_SCALE, FIXED_NUISANCES
from ..simulate.theory import Sky, Theory, of_set
from .labelled import CosmologyTable

EDGE_ORDER = 6         # quadrature order of a kernel's mass inside the hull
PRIORS = {"design": LIMIT_FILE, "flat": "limit_flat.h5"}
N_BIN = 48               # of |ell|, logarithmic: with 96 scores move by less than 0.005
FORECAST = 1000          # maps other than the test maps
BLOCK = 16               # maps whose terms fit into a core's cache
SIDE, MAX_SIDE = 0.4, 48     # of a triangle in sd of the challenge's design; posteriors have 0.15
MAPS = 2000              # maps whose ln L is held at a time, 0.3 GB
NEGLIGIBLE = 50.0        # terms of ln L this far below the best


def periodic_window(grid: Grid, edges: np.ndarray, c_fiducial: np.ndarray, noise: float) -> tuple:
    """Bins of |ell| of the whole periodic grid, each mode divided by its fiducial power.

    edges: (n_bin + 1,) of |ell|
    c_fiducial: (n,) steradian at grid.ell; noise: white power in steradian
    window @ c + white is the mean of |F|^2 / P_fiducial over the modes of a bin, one where c is the
    fiducial spectrum: bins need not be narrow. Returns window (n_bin, n), white (n_bin,), count
    (n_bin,) of modes in the whole plane (conjugates both counted), which (quarter) int, a cell's
    bin or -1, and weight (quarter), times in the plane / fiducial power.
    """
    images = grid.image_matrix()
    ell = np.hypot.outer(grid.ell_y, grid.ell_x)
    times = np.outer(*map(mirror_weights, grid.quarter))
    which = np.digitize(ell, edges) - 1
    which[(which == len(edges) - 1) | (ell == 0.0)] = -1
    weight = times / ((images @ c_fiducial.astype(np.float32)).reshape(grid.quarter) + noise)
    flat, n_bin = which.ravel(), len(edges) - 1
    inside = flat >= 0
    count = np.bincount(flat[inside], times.ravel()[inside], n_bin)
    white = np.bincount(flat[inside], weight.ravel()[inside], n_bin)
    white *= noise / np.maximum(count, 1.0)
    window = np.zeros((n_bin, len(grid.ell)))
    for b in np.flatnonzero(count):
        cells = flat == b
        window[b] = weight.ravel()[cells] @ images[cells].astype(float) / count[b]
    return window, white, count, which, weight


class BandPowers:
    """Expected power in bins of |ell|, in units of a fiducial one, for cosmologies near a design.

    theta: (n, 2) design; n_gal: galaxies per square arcminute
    count: modes per bin in the whole plane; white: the noise's part, of periodic_window()
    """

    def __init__(self, grid: Grid, theta: np.ndarray, n_gal: float, n_bin: int = N_BIN,
                 sky: Sky = Sky()):
        self.grid, self.sky = grid, sky
        highest = np.hypot(grid.ell_y[-1], grid.ell_x[-1])
        edges = np.geomspace(0.999 * min(grid.ell_y[1], grid.ell_x[1]), 1.001 * highest, n_bin + 1)
        noise = noise_sigma(n_gal, grid.pixel / ARCMIN)**2 * grid.pixel**2
        centre = Theory(*theta.mean(axis=0), sky).c_ell(grid.ell, 0.0, *FIXED_NUISANCES[:2])
        window, white, count, which, self.weight = periodic_window(grid, edges, centre, noise)
        used = np.flatnonzero(count)
        self.window, self.white, self.count = window[used], white[used], count[used]
        self.per_variance = self.white / noise * grid.pixel**2  # of scatter with a variance of one
        self.cell = np.where(which < 0, len(used), np.searchsorted(used, which)).ravel()
        self.low, self.high, self.nuisances = theta.min(axis=0), theta.max(axis=0), None

    def measure(self, kappa: np.ndarray) -> np.ndarray:
        """Mean power of the bins in one map (rows, columns), all of the grid: float64 (n_bin,)."""
        modes = scipy.fft.rfft2(kappa, workers=1)
        power = modes.real.astype(float)**2 + modes.imag.astype(float)**2
        power[1:] = 0.5 * (power[1:] + power[:0:-1])                # rows mirror one another
        power = power[:self.grid.quarter[0]] * self.weight * (self.grid.pixel**2 / kappa.size)
        return np.bincount(self.cell, power.ravel(), len(self.count) + 1)[:-1] / self.count

    def signal(self, theta: np.ndarray, nuisances: np.ndarray) -> np.ndarray:
        """Without noise, at one cosmology: (m, n_bin) for nuisances (m, 3)."""
        return Theory(*theta, self.sky).table(self.grid.ell)(*nuisances.T) @ self.window.T

    def tabulate(self, nuisances: np.ndarray) -> None:
        """Prepare signals() for nuisances (m, 3); nothing to do if it was for them already."""
        if np.array_equal(nuisances, self.nuisances):
            return
        self.nuisances = nuisances
        self.shape = len(nuisances), len(self.count)
        self.table = CosmologyTable(self.low, self.high,
                                    lambda *theta: self.signal(theta, nuisances))

    def signals(self, theta: np.ndarray) -> np.ndarray:
        """Without noise, at theta (n, 2) for the nuisances of tabulate(): float64 (n, m, n_bin)."""
        return self.table(theta).reshape(len(theta), *self.shape)


def sobol_nuisances(n: int, pixel_scatter: float = 0.0) -> np.ndarray:
    """n points of the priors (n, 4): log10 T_AGN, f_0, Delta_z, variance of white scatter."""
    u = qmc.Sobol(4, scramble=False).random(n) + 0.5 / n            # the middle of each cell
    flat = [low + (high - low) * u[:, i]
            for i, (low, high) in enumerate((T_AGN_RANGE, F_0_RANGE))]
    return np.column_stack([*flat, DELTA_Z_SIGMA * ndtri(u[:, 2]), pixel_scatter * u[:, 3]])


def log_likelihoods(powers: BandPowers, theta: np.ndarray, white: np.ndarray, measured: np.ndarray,
                    count: np.ndarray, minimum: np.ndarray | None = None) -> np.ndarray:
    """ln L averaged over the nuisances of powers.tabulate(), up to a constant of each map: (k, n).

    theta: (n, 2); white: (m, n_bin) noise for each nuisance
    measured: (k, n_bin); count: (n_bin,) modes
    minimum: (k,), below which the largest term stands for the average, which is less
    """
    expected = (powers.signals(theta) + white).reshape(-1, len(count))
    constant = 0.5 * np.log(expected) @ count
    inverse = np.ascontiguousarray((1.0 / expected).T)
    out = np.empty((len(measured), len(theta)))
    for first in range(0, len(measured), BLOCK):
        part = slice(first, first + BLOCK)
        value = -(0.5 * measured[part] * count @ inverse + constant)
        value = value.reshape(-1, len(theta), len(white))
        out[part] = highest = value.max(axis=2)
        near = np.ones(highest.shape, bool) if minimum is None else highest > minimum[part, None]
        out[part][near] += np.log(np.exp(value[near] - highest[near][:, None]).mean(axis=1))
    return out


def posteriors(powers: BandPowers, nuisances: np.ndarray, design: np.ndarray, priors: dict,
               measured: np.ndarray, count: np.ndarray, order: int = 6,
               progress: Progress | None = None) -> dict:
    """Exact posteriors of (Omega_m, S_8) from measured band powers, nuisances averaged over.

    nuisances: (m, 4) equally likely ones
    design: (n, 2), whose hull and triangles the priors live on; priors: {name: log densities (n,)}
    measured: (k, n_bin); count: (n_bin,) effective modes
    order: quadrature points per side of a small triangle
    Returns {name: (mean (k, 2), sd (k, 2), correlation (k,))}.
    """
    triangles = Delaunay(design).simplices
    rules = [quadrature_points(design, one[None], n)
             for one, n in zip(triangles, _sides(design, triangles, order))]
    flat = np.concatenate([points[0] for points, _, _ in rules])
    powers.tabulate(nuisances[:, :3])
    white = powers.white + nuisances[:, 3:] * powers.per_variance
    log_l, at, out = np.empty((len(measured), len(flat))), 0, {}
    best = np.full(len(measured), -np.inf)
    for points, _, _ in rules:                  # a triangle at a time bounds the memory
        one = log_likelihoods(powers, points[0], white, measured, count, best - NEGLIGIBLE)
        log_l[:, at:at + one.shape[1]] = one
        at, best = at + one.shape[1], np.maximum(best, one.max(axis=1))
        if progress is not None:
            progress.update()
    for name, log_density in priors.items():
        log_p = np.concatenate([np.log(weight[0]) + corners @ log_density[one]
                                for one, (_, weight, corners) in zip(triangles, rules)])
        moments = np.empty((len(measured), 5))
        for first in range(0, len(measured), BLOCK):
            p = log_l[first:first + BLOCK] + log_p
            p = np.exp(p - logsumexp(p, axis=1)[:, None])
            moments[first:first + BLOCK, :2] = p @ flat
            moments[first:first + BLOCK, 2:] = p @ (flat[:, [0, 1, 0]] * flat[:, [0, 1, 1]])
        mean, second = moments[:, :2], moments[:, 2:]
        sd = np.sqrt(second[:, :2] - mean**2)
        out[name] = mean, sd, (second[:, 2] - mean[:, 0] * mean[:, 1]) / sd.prod(axis=1)
    return out


def _sides(design, triangles, order):
    """Quadrature points per side of each triangle: `order`, more in those longer than SIDE."""
    corner = design[triangles] / DESIGN_SCALE
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    return np.clip(np.ceil(order * longest / SIDE), order, max(order, MAX_SIDE)).astype(int)


@dataclasses.dataclass(frozen=True)
class LimitOptions(Options):
    """What the information limit assumes."""
    count: str = option(
        "auto", "exact: the modes measured in each noisy test map; modes: a forecast by counting; "
        "auto: exact where it holds", choices=("auto", "exact", "modes"))
    sobol: int = option(256, "points that average over the nuisances, a power of two", metavar="N",
                        within=(1, 2**16))
    order: int = option(6, "quadrature points per side of a small triangle of the design, more in "
                        "larger ones", metavar="N", within=(1, MAX_SIDE))
    nuisances: str | None = option(
        None, "fixed: as if they were known to be at their centres (default: as the set was made)",
        choices=("drawn", "fixed"))
    n_gal: float | None = option(
        None, "noise level to assume (default: the set's). Another one than the set's, or other "
        "nuisances, are a negative control, written to control_limit.h5", metavar="X",
        within=(0.01, 1e6))

    def __post_init__(self):
        super().__post_init__()
        if self.sobol & (self.sobol - 1):
            raise InputError("--sobol: expected a power of two, for which the points are even, got "
                             f"{self.sobol}")


def limit(data, options: LimitOptions | None = None, *, out=None, seed: int = 1,
          quiet: bool = False, **settings) -> list[pathlib.Path]:
    """Write DIR/limit.h5 (design prior) and DIR/limit_flat.h5 of a data set; returns their paths.

    data: folder of a set
    options: or its fields by keyword, as settings
    out: folder to write to, None for data
    seed: of the forecast
    Raises InputError.
    """
    options, data = options or LimitOptions(**settings), dataset.open_set(data)
    triangles, _ = triangulate(str(data.files["label"]), data.theta)
    knobs = data.simulation
    exact = bool(knobs.get("field") == "gaussian" and knobs.get("periodic") and data.mask.all()
                 and data.n_test)
    if options.count == "exact" and not exact:
        raise InputError(f"{data.folder}: expected test maps of a Gaussian field on a periodic "
                         "frame without a mask; simulate with --field gaussian --mask none "
                         "--periodic, or give --count modes")
    exact = exact and options.count != "modes"
    n_gal = options.n_gal or data.n_gal
    known = "fixed" if knobs.get("nuisances") == "fixed" else "drawn"
    nuisances = options.nuisances or known
    # what assumes too much or too little must not stand beside scores as their limit
    prefix = "" if (n_gal, nuisances) == (data.n_gal, known) else "control_"
    sky, scatter = of_set(knobs)
    stored = {**dataclasses.asdict(options), "method": "limit", "n_gal": n_gal,
              "count": "exact" if exact else "modes", "nuisances": nuisances,
              "pixel_scatter": scatter, **sky._asdict(), "n_bin": N_BIN,
              "field": knobs.get("field")}
    points = sobol_nuisances(options.sobol, scatter)
    if nuisances == "fixed":
        points[:, :3] = FIXED_NUISANCES
        points = points[:1] if not scatter else points
    grid = Grid(data.mask, periodic=exact or bool(knobs.get("periodic")))
    powers = BandPowers(grid, data.theta, data.n_gal, sky=sky)
    where, measured, modes = (_measured(powers, data) if exact else
                              _forecast_of(powers, data, scatter, seed))
    powers.white *= (noise_sigma(n_gal) / noise_sigma(data.n_gal))**2
    design = _density_in_hull(data.theta, triangles)
    priors = {name: log_prior("flat" if name == "flat" else design, data.theta, triangles)
              for name in PRIORS}
    starts = range(0, len(measured), MAPS)
    bar = Progress(len(triangles) * len(starts), f"limit of {len(measured)} maps", quiet)
    parts = [posteriors(powers, points, data.theta, priors, measured[i:i + MAPS], modes,
                        order=options.order, progress=bar) for i in starts]
    bar.close()
    paths = []
    for name in PRIORS:
        mean, sd, correlation = map(np.concatenate, zip(*(part[name] for part in parts)))
        paths.append(pathlib.Path(out or data.folder) / (prefix + PRIORS[name]))
        summary = {**posterior.gaussian(mean, sd), "correlation": correlation}
        _write(paths[-1], data, where, measured, summary, {**stored, "prior": name}, seed)
    return paths


def _density_in_hull(theta, triangles):
    """ln of the density of a design (n, 2) at its points, none of it beyond the hull.

    emulator.design_log_density() whose kernels are each divided by their mass inside: a prior that
    ends at the hull, on whose corners an eighth of the truths lie, must not fall towards it.
    """
    points, weight, _ = quadrature_points(theta, triangles, EDGE_ORDER)
    factor = np.linalg.inv(np.linalg.cholesky(np.cov(theta.T)))
    centre, points = theta @ factor.T, points.reshape(-1, 2) @ factor.T
    width = np.full(len(theta), BANDWIDTH * len(theta) ** (-1 / 6))
    for last in (False, True):
        mass = np.array([weight.ravel() @ np.exp(-0.5 * ((points - c)**2).sum(1) / w**2)
                         for c, w in zip(centre, width)])
        square = ((centre[:, None] - centre) ** 2).sum(axis=2)
        density = (np.exp(-0.5 * square / width**2) / mass).mean(axis=1)
        if not last:
            width = width * np.sqrt(np.exp(np.log(density).mean()) / density)
    return np.log(density)



def _measured(powers, data):
    """Test maps' split, cosmology, realisation (n,); their band powers; modes of the bins."""
    where = np.full(data.n_test, TEST), np.full(data.n_test, -1), np.arange(data.n_test)
    maps = (array(f"{data.files['noisy_test']}, map {i}", kappa.astype(np.float32))
            for i, kappa in enumerate(data.noisy_test))
    return where, np.stack([powers.measure(k.reshape(data.mask.shape)) for k in maps]), powers.count


def _forecast_of(powers, data, scatter, seed):
    """As _measured(), of spectra drawn at true parameters with the modes of the observed part.

    Of the test maps whose truth is known, and of FORECAST others, which a pipeline may hold out.
    """
    rng = generator(seed, seeds.FORECAST)
    row = np.sort(rng.permutation(data.n_cosmology * data.n_realisation)[:FORECAST])
    cosmology, realisation = np.divmod(row, data.n_realisation)
    label = data.label[cosmology, realisation]
    n = 0
    if data.has_truth and data.n_test:
        tests = dataset.read_truth(data.folder)
        n, label = len(tests), np.concatenate([tests, label])
    modes = powers.count * data.mask.sum() / (powers.grid.rows * powers.grid.columns)
    where = (np.repeat([TEST, HOLDOUT], [n, len(row)]), np.concatenate([np.full(n, -1), cosmology]),
             np.concatenate([np.arange(n), realisation]))
    return where, _forecast(powers, label, modes, scatter, seed), modes


def _forecast(powers, label, modes, scatter, seed):
    """Band powers (n, n_bin) of Gaussian skies at labels (n, 5): chi-squared numbers of modes."""
    rng = generator(seed, seeds.FORECAST, 1)
    expected = np.empty((len(label), len(modes)))
    for theta in np.unique(label[:, :2], axis=0):
        rows = (label[:, :2] == theta).all(axis=1)
        expected[rows] = powers.signal(theta, label[rows, 2:])
    expected += powers.white + scatter * rng.random((len(label), 1)) * powers.per_variance
    return expected * rng.chisquare(modes, expected.shape) / modes


def _write(path, data, where, measured, summary, settings, seed):
    var, (split, cosmology, realisation) = hdf5.Var, where
    groups = {"summary": {NAMES.get(name, name): var(("map", "param")[:value.ndim], value)
                          for name, value in summary.items()},
              "observed_data": {"summaries": var(("map", "summary"), measured),
                                "split": var(("map",), split.astype(np.int8)),
                                "cosmology": var(("map",), cosmology.astype(np.int32)),
                                "realisation": var(("map",), realisation.astype(np.int32))},
              "constant_data": {"design": var(("cosmology", "param"), data.theta)}}
    inputs = {name: hdf5.digest_file(data.files[name], quick=True)
              for name in STAMPS if name in data.files}
    hdf5.write(path, "posterior", groups, coords={"param": np.array(PARAMS)}, settings=settings,
               seed=seed, inputs=inputs, origin=data.origin())


def parser() -> cli.Parser:
    """The options of python -m wl.validate limit."""
    parser = cli.Parser(prog="python -m wl.validate limit", description=(__doc__ or "") + f"""
Writes {' and '.join(PRIORS.values())} ({' and '.join(PRIORS)} prior) into DIR, posteriors like any
other, and prints their scores. From then on run_score.py shows the limit beside every score of the
same maps.

With a mask, or a field that is not Gaussian, spectra are drawn at the maps' true parameters with as
many independent modes as the observed part of the grid has: of such skies a method can learn more.
""")
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder of the data set")
    add("--out", metavar="DIR", help="folder of the results (default: that of the set)")
    LimitOptions.add_to(parser, "limit")
    return cli.add_common(parser, threads=False)


def main(argv: list | None = None) -> None:
    """The command line: python -m wl.validate limit."""
    args = cli.parse(parser(), argv)
    paths = limit(args.data, LimitOptions.of(args), out=args.out, seed=args.seed, quiet=args.quiet)
    results = [report.score_posterior(path, seed=args.seed) for path in paths]
    for result in results:
        report.save(result)
    print(table.overview(results))
    for result in results:
        settings, part = result["settings"], result["subsets"][result["scored"]]
        how = "exact" if settings["count"] == "exact" else "by counting modes"
        print(f"information limit, {how}, nuisances {settings['nuisances']}, {settings['prior']} "
              f"prior: {result['score']:.2f} +- {result['score_error']:.2f}, expected "
              f"{part['expected_score']:.2f} +- {part['expected_score_error']:.2f}")
