"""The information limit: the best score that any method can expect of a Gaussian sky.

    python -m wl.simulate --out data/gaussian --field gaussian --mask none --periodic --realisations 1
    python -m wl.validate limit --data data/gaussian

The modes of a Gaussian field on its periodic grid are independent, so a noisy map's likelihood is exact:
ln L = -1/2 sum over bins of n_b (ln P_b + Phat_b / P_b), n_b modes of the plane in a bin of |ell|, Phat_b
their mean power (e.g. Bond, Jaffe & Knox 2000, ApJ 533, 19). Nuisances are averaged over their priors.
"""
import pathlib

import numpy as np
import scipy.fft
from scipy.spatial import Delaunay
from scipy.special import logsumexp, ndtri

from ..core import cli, hdf5, seeds
from ..maps import dataset
from ..posterior import posterior
from ..scoring import report, table
from .bandpowers import CosmologyTable, periodic_window
from ..core.checks import InputError, array, positive, triangulate
from ..simulate.draw import generator
from ..simulate.fields import ARCMIN, Grid
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, HOLDOUT, PARAMS, T_AGN_RANGE, TEST, noise_sigma
from ..posterior.emulator import log_prior
from ..posterior.emulator import quadrature_points
from ..scoring.report import LIMIT_FILE, STAMPS
from ..simulate.sky import Sky, of_set
from ..simulate.mask import DESIGN_SCALE, FIXED_NUISANCES
from ..simulate.theory import Theory
from ..core.progress import Progress

PRIORS = {"design": LIMIT_FILE, "flat": "limit_flat.h5"}
N_BIN = 48               # of |ell|, logarithmic: with 96 scores move by less than 0.005
FORECAST = 1000          # maps other than the test maps
BLOCK = 16               # maps whose terms fit into a core's cache
SIDE, MOST = 0.4, 48     # of a triangle in sd of the challenge's design: posteriors are as narrow as 0.15
MAPS = 2000              # maps whose ln L is held at a time, 0.3 GB
NEGLIGIBLE = 50.0        # terms of ln L this far below the best


class BandPowers:
    """Expected power in bins of |ell|, in units of a fiducial one, for cosmologies near a design.

    grid: fields.Grid; theta: (n, 2) design; n_gal: galaxies per square arcminute; n_bin: bins; sky: sky.Sky.
    count: modes per bin in the whole plane; white: the noise's part, see bandpowers.periodic_window.
    """

    def __init__(self, grid, theta, n_gal, n_bin=N_BIN, sky=Sky()):
        self.grid, self.sky = grid, sky
        highest = np.hypot(grid.ell_y[-1], grid.ell_x[-1])
        edges = np.geomspace(0.999 * min(grid.ell_y[1], grid.ell_x[1]), 1.001 * highest, n_bin + 1)
        noise = noise_sigma(n_gal, grid.pixel / ARCMIN)**2 * grid.pixel**2
        centre = Theory(*theta.mean(axis=0), sky).c_ell(grid.ell, 0.0, *FIXED_NUISANCES[:2])
        window, white, count, which, self.weight = periodic_window(grid, edges, centre, noise)
        used = np.flatnonzero(count)
        self.window, self.white, self.count = window[used], white[used], count[used]
        self.per_variance = self.white / noise * grid.pixel**2      # of white scatter with a variance of one
        self.cell = np.where(which < 0, len(used), np.searchsorted(used, which)).ravel()
        self.low, self.high, self.nuisances = theta.min(axis=0), theta.max(axis=0), None

    def measure(self, kappa):
        """Mean power of the bins in one map, float64 (n_bin,). kappa: (rows, columns), all of the grid."""
        modes = scipy.fft.rfft2(kappa, workers=1)
        power = modes.real.astype(float)**2 + modes.imag.astype(float)**2
        power[1:] = 0.5 * (power[1:] + power[:0:-1])                # rows mirror one another
        power = power[:self.grid.quarter[0]] * self.weight * (self.grid.pixel**2 / kappa.size)
        return np.bincount(self.cell, power.ravel(), len(self.count) + 1)[:-1] / self.count

    def signal(self, theta, nuisances):
        """Without noise, at one cosmology: (m, n_bin) for nuisances (m, 3)."""
        return Theory(*theta, self.sky).table(self.grid.ell)(*nuisances.T) @ self.window.T

    def tabulate(self, nuisances):
        """Prepare signals() for nuisances (m, 3); nothing to do if it was for them already."""
        if np.array_equal(nuisances, self.nuisances):
            return
        self.nuisances = nuisances
        self.shape = len(nuisances), len(self.count)
        self.table = CosmologyTable(self.low, self.high, lambda *theta: self.signal(theta, nuisances))

    def signals(self, theta):
        """Without noise, at theta (n, 2) for the nuisances of tabulate(): float64 (n, m, n_bin)."""
        return self.table(theta).reshape(len(theta), *self.shape)


def sobol_nuisances(n, pixel_scatter=0.0):
    """n points of the nuisances' priors: float64 (n, 4), log10 T_AGN, f_0, Delta_z, variance of white scatter."""
    from scipy.stats import qmc
    u = qmc.Sobol(4, scramble=False).random(n) + 0.5 / n            # the middle of each cell
    return np.column_stack([T_AGN_RANGE[0] + np.ptp(T_AGN_RANGE) * u[:, 0], F_0_RANGE[0] + np.ptp(F_0_RANGE) * u[:, 1],
                            DELTA_Z_SIGMA * ndtri(u[:, 2]), pixel_scatter * u[:, 3]])


def log_likelihoods(powers, theta, white, measured, count, least=None):
    """ln L averaged over the nuisances of powers.tabulate(), up to a constant of each map: float64 (k, n).

    theta: (n, 2); white: (m, n_bin) noise for each nuisance; measured: (k, n_bin); count: (n_bin,) modes;
    least: (k,) or None, below which the largest term stands for the average, which is less.
    """
    expected = (powers.signals(theta) + white).reshape(-1, len(count))
    constant = 0.5 * np.log(expected) @ count
    inverse = np.ascontiguousarray((1.0 / expected).T)
    out = np.empty((len(measured), len(theta)))
    for first in range(0, len(measured), BLOCK):
        part = slice(first, first + BLOCK)
        value = -(0.5 * measured[part] * count @ inverse + constant).reshape(-1, len(theta), len(white))
        out[part] = highest = value.max(axis=2)
        near = np.ones(highest.shape, bool) if least is None else highest > least[part, None]
        out[part][near] += np.log(np.exp(value[near] - highest[near][:, None]).mean(axis=1))
    return out


def posteriors(powers, nuisances, design, priors, measured, count, order=6, progress=None):
    """Exact posteriors of (Omega_m, S_8) from measured band powers, nuisances averaged over.

    powers: BandPowers; nuisances: (m, 4) equally likely ones; design: (n, 2), whose hull and triangles the
    priors live on; priors: {name: log densities (n,)}; measured: (k, n_bin); count: (n_bin,) effective
    modes; order: quadrature points per side of a small triangle. Returns {name: (mean (k, 2), sd (k, 2),
    correlation (k,))}.
    """
    triangles = Delaunay(design).simplices
    rules = [quadrature_points(design, one[None], n) for one, n in zip(triangles, _sides(design, triangles, order))]
    flat = np.concatenate([points[0] for points, _, _ in rules])
    powers.tabulate(nuisances[:, :3])
    white = powers.white + nuisances[:, 3:] * powers.per_variance
    log_l, best, at, out = np.empty((len(measured), len(flat))), np.full(len(measured), -np.inf), 0, {}
    for points, _, _ in rules:                                      # a triangle at a time bounds the memory
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
            moments[first:first + BLOCK, 2:] = p @ (flat[:, [0, 1, 0]] * flat[:, [0, 1, 1]])   # twelve digits remain
        mean, second = moments[:, :2], moments[:, 2:]
        sd = np.sqrt(second[:, :2] - mean**2)
        out[name] = mean, sd, (second[:, 2] - mean[:, 0] * mean[:, 1]) / sd.prod(axis=1)
    return out


def _sides(design, triangles, order):
    """Quadrature points per side of each triangle: `order`, more in triangles longer than SIDE, at most MOST."""
    corner = design[triangles] / DESIGN_SCALE
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    return np.clip(np.ceil(order * longest / SIDE), order, max(order, MOST)).astype(int)


def limit(data, *, out=None, sobol=256, order=6, n_gal=None, nuisances=None, count="auto", seed=1, quiet=False):
    """Write DIR/limit.h5 (design prior) and DIR/limit_flat.h5 of a data set; returns their paths.

    data: folder of a set; out: folder to write to (None: data); sobol: points that average over the nuisances;
    order: quadrature points per side of a small triangle of the design; n_gal, nuisances: None for the set's own;
    other values are negative controls ("fixed": as if the nuisances were known), whose files are named
    control_limit.h5 and control_limit_flat.h5; count: "exact" for the
    measured modes of a Gaussian field on a periodic frame, "modes" for a forecast by counting (as many modes
    as the observed part of the grid has, spectra drawn at the maps' true parameters), "auto" the first
    where it holds; seed: of the forecast. Raises InputError.
    """
    data = dataset.open_set(data)
    triangulate(str(data.files["label"]), data.theta)
    knobs = data.simulation
    exact = bool(knobs.get("field") == "gaussian" and knobs.get("periodic") and data.mask.all() and data.n_test)
    if count == "exact" and not exact:
        raise InputError(f"{data.folder}: expected test maps of a Gaussian field on a periodic frame without a "
                         "mask; simulate with --field gaussian --mask none --periodic, or give --count modes")
    exact = exact and count != "modes"
    n_gal = data.n_gal if n_gal is None else positive("--n-gal", n_gal)
    sobol, order = positive("--sobol", sobol, integer=True), positive("--order", order, integer=True)
    if sobol & (sobol - 1):
        raise InputError(f"--sobol: expected a power of two, for which the points are even, got {sobol}")
    known = "fixed" if knobs.get("nuisances") == "fixed" else "drawn"
    nuisances = nuisances or known
    # what assumes too much or too little must not stand beside scores as their limit
    prefix = "" if (n_gal, nuisances) == (data.n_gal, known) else "control_"
    sky, scatter = of_set(knobs)
    settings = {"method": "limit", "count": "exact" if exact else "modes", "sobol": sobol,
                "order": order, "n_gal": n_gal, "nuisances": nuisances, "pixel_scatter": scatter,
                **sky._asdict(), "n_bin": N_BIN,
                "field": knobs.get("field")}
    points = sobol_nuisances(sobol, scatter)
    if nuisances == "fixed":
        points[:, :3] = FIXED_NUISANCES
        points = points[:1] if not scatter else points
    grid = Grid(data.mask, periodic=exact or bool(knobs.get("periodic")))
    powers = BandPowers(grid, data.theta, data.n_gal, sky=sky)
    if exact:
        where = np.full(data.n_test, TEST), np.full(data.n_test, -1), np.arange(data.n_test)
        measured = np.stack([
            powers.measure(array(f"{data.files['noisy_test']}, map {i}", k.astype(np.float32)).reshape(data.mask.shape))
            for i, k in enumerate(data.noisy_test)])
        modes = powers.count
    else:
        *where, label = _truths(data, seed)
        modes = powers.count * data.mask.sum() / (grid.rows * grid.columns)
        measured = _forecast(powers, label, modes, scatter, seed)
    powers.white *= (noise_sigma(n_gal) / noise_sigma(data.n_gal))**2
    triangles = Delaunay(data.theta).simplices
    priors = {name: log_prior(name, data.theta, triangles) for name in PRIORS}
    starts = range(0, len(measured), MAPS)
    bar = Progress(len(triangles) * len(starts), f"limit of {len(measured)} maps", quiet)
    parts = [posteriors(powers, points, data.theta, priors, measured[i:i + MAPS], modes, order, bar) for i in starts]
    bar.close()
    found = {name: tuple(map(np.concatenate, zip(*(part[name] for part in parts)))) for name in PRIORS}
    inputs = {name: hdf5.digest_file(data.files[name], quick=True) for name in STAMPS if name in data.files}
    paths = []
    for name, (mean, sd, correlation) in found.items():
        paths.append(pathlib.Path(out or data.folder) / (prefix + PRIORS[name]))
        _write(paths[-1], data, where, measured, {**posterior.gaussian(mean, sd), "correlation": correlation},
               {**settings, "prior": name}, seed, inputs)
    return paths


def _truths(data, seed):
    """Whose spectra a forecast draws: split, cosmology, realisation (n,) and labels (n, 5).

    The test maps whose truth is known, and FORECAST of the others, of which a pipeline may hold out some.
    """
    row = np.sort(generator(seed, seeds.FORECAST).permutation(data.n_cosmology * data.n_realisation)[:FORECAST])
    cosmology, realisation = np.divmod(row, data.n_realisation)
    label = data.label[cosmology, realisation]
    n = 0
    if data.has_truth and data.n_test:
        tests = dataset.read_truth(data.folder)
        n, label = len(tests), np.concatenate([tests, label])
    return (np.repeat([TEST, HOLDOUT], [n, len(row)]), np.concatenate([np.full(n, -1), cosmology]),
            np.concatenate([np.arange(n), realisation]), label)


def _forecast(powers, label, modes, scatter, seed):
    """Band powers of Gaussian skies at labels (n, 5), (n, n_bin): chi-squared numbers of their modes."""
    rng = generator(seed, seeds.FORECAST, 1)
    expected = np.empty((len(label), len(modes)))
    for theta in np.unique(label[:, :2], axis=0):
        rows = (label[:, :2] == theta).all(axis=1)
        expected[rows] = powers.signal(theta, label[rows, 2:])
    expected += powers.white + scatter * rng.random((len(label), 1)) * powers.per_variance
    return expected * rng.chisquare(modes, expected.shape) / modes


def _write(path, data, where, measured, summary, settings, seed, inputs):
    var = hdf5.Var
    groups = {"summary": {name: var(("map", "param")[:value.ndim], value) for name, value in summary.items()},
              "observed_data": {"summaries": var(("map", "summary"), measured), **{
                  name: var(("map",), value.astype(np.int32)) for name, value in
                  zip(("split", "cosmology", "realisation"), where)}},
              "constant_data": {"design": var(("cosmology", "param"), data.theta)}}
    groups["observed_data"]["split"] = var(("map",), where[0].astype(np.int8))
    hdf5.write(path, "posterior", groups, coords={"param": np.array(PARAMS)}, settings=settings, seed=seed,
               inputs=inputs, origin=data.origin())


def parser():
    """The options of python -m wl.validate limit."""
    parser = cli.Parser(prog="python -m wl.validate limit", description=__doc__ + f"""
Writes {' and '.join(PRIORS.values())} ({' and '.join(PRIORS)} prior) into DIR, posteriors like any other, and
prints their scores. From then on run_score.py shows the limit beside every score of the same maps.

With a mask, or a field that is not Gaussian, modes are counted: spectra are drawn at the maps' true
parameters with as many independent modes as the observed part of the grid has. That forecast holds for a
Gaussian sky; of a log-normal one a method can learn more.""")
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder of the data set")
    add("--out", metavar="DIR", help="folder of the results (default: that of the set)")
    add("--count", default="auto", choices=("auto", "exact", "modes"),
        help="exact: the modes measured in each noisy test map; modes: a forecast; auto: exact where it holds")
    add("--sobol", type=int, default=256, metavar="N", help="points that average over the nuisances, a power of two")
    add("--order", type=int, default=6, metavar="N",
        help="quadrature points per side of a small triangle of the design, more in larger ones")
    add("--nuisances", choices=("drawn", "fixed"),
        help="fixed: as if they were known to be at their centres (default: as the set was made)")
    add("--n-gal", type=float, metavar="X", help="noise level to assume (default: the set's). Another one than the "
        "set's, or other nuisances, are a negative control, written to control_limit.h5")
    return cli.add_common(parser, threads=False)


def main(argv=None):
    """The command line: python -m wl.validate limit."""
    options = vars(parser().parse_args(argv))
    paths = limit(options.pop("data"), **options)
    results = [report.score_posterior(path, seed=options["seed"]) for path in paths]
    for result in results:
        report.save(result)
    print(table.overview(results))
    for result in results:
        settings, part = result["settings"], result["subsets"][result["scored"]]
        how = "exact" if settings["count"] == "exact" else "by counting modes"
        print(f"information limit, {how}, nuisances {settings['nuisances']}, {settings['prior']} prior: "
              f"{result['score']:.2f} +- {result['score_error']:.2f}, expected {part['expected_score']:.2f} +- "
              f"{part['expected_score_error']:.2f}")
