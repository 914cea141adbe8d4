"""Is the inference right? The information limit of a simulated set, calibration of a run.

    python -m wl.simulate --out data/gaussian --field gaussian --mask none --periodic
    python -m wl.validate limit --data data/gaussian
    python -m wl.validate calibration data/runs/simulated_compact
"""
import dataclasses
import pathlib

import numpy as np
from scipy import stats
from scipy.spatial import Delaunay
from scipy.special import logsumexp

from ..core import cli, hdf5, seeds
from ..core.checks import (InputError, Options, RunError, array, option, positive, triangulate,
                           within)
from ..core.hdf5 import Var
from ..core.params import INTERVALS, LEVELS, NAMES, PARAMS, TEST
from ..core.progress import Progress
from ..maps import dataset
from ..posterior import posterior
from ..posterior.emulator import design_log_density, log_prior, quadrature_points, triangle_areas
from ..posterior.infer import load_emulator as load
from ..scoring import report, score, table as score_table
from ..simulate.fields import Grid
from ..simulate.plan import DESIGN_SCALE, FIXED_NUISANCES
from ..simulate.theory import of_set
from .spectra import N_BIN, BandPowers, sobol_nuisances

PRIORS = {"design": dataset.LIMIT_FILE, "flat": "limit_flat.h5"}
BLOCK = 16               # maps whose terms fit into a core's cache
SIDE, MAX_SIDE = 0.4, 48     # of a triangle in sd of the challenge's design; posteriors have 0.15
MAPS = 2000              # maps whose ln L is held at a time, 0.3 GB
NEGLIGIBLE = 50.0        # terms of ln L this far below the best
DRAWS = 100              # that are ranked, of each map, far apart in the chain: independent
FALSE_ALARMS = 0.01      # of all tests of the calibration together
NOMINAL = {name: (LEVELS[high] - LEVELS[low], low, high) for name, (low, high) in INTERVALS.items()}
TESTS = {**{f"coverage {name}": f"coverage at {name} %" for name in NOMINAL},
         "quantiles": "truths between quantiles", "sbc": "ranks", "tarp": "TARP"}


def _log_likelihoods(expected, measured, count, minimum):
    """ln L (k, n), of means over nuisances, of measured (k, n_bin) and expected (n, m, n_bin)."""
    n, m, n_bin = expected.shape
    expected = expected.reshape(-1, n_bin)
    constant, out = 0.5 * np.log(expected) @ count, np.empty((len(measured), n))
    inverse = np.ascontiguousarray((1.0 / expected).T)
    for first in range(0, len(measured), BLOCK):
        part = slice(first, first + BLOCK)
        value = -(0.5 * measured[part] * count @ inverse + constant).reshape(-1, n, m)
        out[part] = highest = value.max(axis=2)
        near = highest > minimum[part, None]       # below, the largest term stands for the mean
        out[part][near] += np.log(np.exp(value[near] - highest[near][:, None]).mean(axis=1))
    return out


def posteriors(powers: BandPowers, nuisances: np.ndarray, design: np.ndarray, priors: dict,
               measured: np.ndarray, order: int = 6, quiet: bool = True) -> dict:
    """Exact posteriors of (Omega_m, S_8) from measured band powers, nuisances averaged over.

    nuisances, design: (m, 4) equally likely ones; (n, 2), on whose triangles the priors live
    priors, measured: {name: log densities (n,)}; (k, n_bin)
    order: quadrature points per side of a small triangle, more in one longer than SIDE
    Returns {name: (mean (k, 2), sd (k, 2), correlation (k,))}.
    """
    triangles = Delaunay(design).simplices
    corner = design[triangles] / DESIGN_SCALE
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    sides = np.clip(np.ceil(order * longest / SIDE), order, max(order, MAX_SIDE)).astype(int)
    rules = [quadrature_points(design, one[None], n) for one, n in zip(triangles, sides)]
    log_p = {name: np.concatenate([np.log(weight[0]) + corners @ log_density[one]
                                   for one, (_, weight, corners) in zip(triangles, rules)])
             for name, log_density in priors.items()}
    points = [rule[0][0] for rule in rules]
    flat, signals = np.concatenate(points), powers.tabulate(nuisances[:, :3])
    white = powers.white + nuisances[:, 3:] * powers.per_variance
    basis = np.column_stack([flat, flat[:, [0, 1, 0]] * flat[:, [0, 1, 1]]])
    moments = {name: np.empty((len(measured), 5)) for name in priors}
    starts = range(0, len(measured), MAPS)
    bar = Progress(len(points) * len(starts), f"limit of {len(measured)} maps", quiet)
    for start in starts:
        some, log_l = measured[start:start + MAPS], []
        best = np.full(len(some), -np.inf)
        for theta in points:                    # a triangle at a time bounds the memory
            expected, least = signals(theta) + white, best - NEGLIGIBLE
            log_l.append(_log_likelihoods(expected, some, powers.count, least))
            best = np.maximum(best, log_l[-1].max(axis=1))
            bar.update()
        log_l = np.concatenate(log_l, axis=1)
        for first in range(0, len(some), BLOCK):
            for name, out in moments.items():
                p = log_l[first:first + BLOCK] + log_p[name]
                p = np.exp(p - logsumexp(p, axis=1)[:, None])
                out[start + first:start + first + len(p)] = p @ basis
    bar.close()
    sd = {name: np.sqrt(out[:, 2:4] - out[:, :2]**2) for name, out in moments.items()}
    return {name: (out[:, :2], sd[name], (out[:, 4] - out[:, 0] * out[:, 1]) / sd[name].prod(1))
            for name, out in moments.items()}


@dataclasses.dataclass(frozen=True)
class LimitOptions(Options):
    """How finely the information limit integrates."""
    sobol: int = option(256, "points that average over the nuisances, a power of two: others are "
                        "not even", metavar="N", choices=tuple(2**k for k in range(17)))
    order: int = option(6, "quadrature points per side of a small triangle of the design",
                        metavar="N", within=(1, MAX_SIDE))


def limit(data, options: LimitOptions | None = None, *, out=None, quiet: bool = False,
          **settings) -> list[pathlib.Path]:
    """Write DIR/limit.h5 (design prior) and DIR/limit_flat.h5 of a data set; returns their paths.

    data, out: folder of a set; to write to, None for data
    options: or its fields by keyword, as settings
    Raises InputError, also for maps whose likelihood is not exact.
    """
    options, data = options or LimitOptions(**settings), dataset.open_set(data)
    triangles, _ = triangulate(str(data.files["label"]), data.theta)
    knobs = data.simulation
    if not (knobs.get("field") == "gaussian" and knobs.get("periodic") and data.mask.all()
            and data.n_test and data.has_truth):
        raise InputError(f"{data.folder}: expected test maps, with their truth, of a Gaussian "
                         "field on a periodic frame without a mask; simulate with --field gaussian "
                         "--mask none --periodic")
    nuisances = "fixed" if knobs.get("nuisances") == "fixed" else "drawn"
    sky, scatter = of_set(knobs)
    stored = {**dataclasses.asdict(options), **sky._asdict(), "method": "limit", "n_bin": N_BIN,
              "n_gal": data.n_gal, "nuisances": nuisances, "pixel_scatter": scatter}
    points = sobol_nuisances(options.sobol, scatter)
    if nuisances == "fixed":
        points = points[:None if scatter else 1]
        points[:, :3] = FIXED_NUISANCES
    powers = BandPowers(Grid(data.mask, periodic=True), data.theta, data.n_gal, sky=sky)
    maps = (array(f"{data.files['noisy_test']}, map {i}", kappa.astype(np.float32))
            for i, kappa in enumerate(data.noisy_test))
    measured = np.stack([powers.measure(kappa.reshape(data.mask.shape)) for kappa in maps])
    observed = {"summaries": Var(("map", "summary"), measured),
                "split": Var(("map",), np.full(data.n_test, TEST, np.int8)),
                "cosmology": Var(("map",), np.full(data.n_test, -1, np.int32)),
                "realisation": Var(("map",), np.arange(data.n_test, dtype=np.int32))}
    priors = {name: log_prior(prior, data.theta, triangles) for name, prior in (
        ("design", design_log_density(data.theta, data.theta, triangles)), ("flat", "flat"))}
    found = posteriors(powers, points, data.theta, priors, measured, options.order, quiet)
    inputs = {name: hdf5.digest_file(data.files[name]) for name in report.STAMPS}
    paths = []
    for name, (mean, sd, correlation) in found.items():
        paths.append(pathlib.Path(out or data.folder) / PRIORS[name])
        summary = {NAMES.get(key, key): Var(("map", "param")[:value.ndim], value) for key, value in
                   {**posterior.gaussian(mean, sd), "correlation": correlation}.items()}
        groups = {"summary": summary, "observed_data": observed,
                  "constant_data": {"design": Var(("cosmology", "param"), data.theta)}}
        hdf5.write(paths[-1], "posterior", groups, coords={"param": np.array(PARAMS)},
                   settings={**stored, "prior": name}, inputs=inputs, origin=data.origin())
    return paths


def limit_parser() -> cli.Parser:
    """The options of python -m wl.validate limit."""
    parser = cli.Parser(prog="python -m wl.validate limit", description=f"""
The information limit: the best score that any method can expect of a Gaussian sky.

Writes {' and '.join(PRIORS.values())} ({' and '.join(PRIORS)} prior) into DIR, posteriors like any
other, and prints their scores; run_score.py shows the limit beside every score of the same maps.

The modes of a Gaussian field on its periodic grid are independent, so a noisy map's likelihood is
exact: ln L = -1/2 sum over bins of n_b (ln P_b + Phat_b / P_b), n_b modes of the plane in a bin of
|ell|, Phat_b their mean power (e.g. Bond, Jaffe & Knox 2000, ApJ 533, 19). Nuisances are averaged
over their priors.""")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--out", metavar="DIR", help="of the results (default: that of the set)")
    LimitOptions.add_to(parser, "limit")
    return cli.add_common(parser, threads=False)


def limit_main(argv: list | None = None) -> None:
    """The command line: python -m wl.validate limit."""
    args = cli.parse(limit_parser(), argv)
    paths = limit(args.data, LimitOptions.of(args), out=args.out, quiet=args.quiet)
    results = [report.score_posterior(path, seed=args.seed) for path in paths]
    print(score_table.overview(results))
    for result in results:
        report.save(result)
        settings, part = result["settings"], result["subsets"][result["scored"]]
        print(f"information limit, nuisances {settings['nuisances']}, {settings['prior']} prior: "
              f"{result['score']:.2f} +- {result['score_error']:.2f}, expected "
              f"{part['expected_score']:.2f} +- {part['expected_score_error']:.2f}")


def draw(emulator, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n cosmologies (n, 2) from an emulator's prior, and a summary (n, d) of each."""
    rng, prior = seeds.generator(seed, seeds.CALIBRATION_DRAW), emulator.vertex_log_prior
    at, top = emulator.triangles, prior[emulator.triangles].max(1)
    share, theta = triangle_areas(emulator.theta, at) * np.exp(top - top.max()), np.empty((0, 2))
    while len(theta) < n:      # uniform in a triangle, kept by the density over its highest there
        t = rng.choice(len(at), size=n, p=share / share.sum())
        corners = rng.dirichlet(np.ones(3), size=n)
        keep = np.log(rng.uniform(size=n)) < (corners * prior[at[t]]).sum(1) - top[t]
        drawn = np.einsum("nc,nck->nk", corners, emulator.theta[at[t]])
        theta = np.concatenate([theta, drawn[keep]])
    mean, covariance, _ = emulator.interpolate(theta[:n])
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=mean.shape))
    return theta[:n], mean + noise


def check(emulator, n: int = 4000, *, nstep: int = 10000, sigma: float = 0.06, seed: int = 1,
          scale: float = 1.0, progress: Progress | None = None) -> dict:
    """All checks of an emulator on n simulated maps; nstep, sigma: of the chains that are ranked.

    scale: of the posteriors about their means, 1 but for a negative control
    Returns "coverage" {"68": (2,), "95": (2,)} of the exact quantile intervals, "error_bars" the
    same of mean +- sd and +- 2 sd, "region" of the exact highest-density regions (not scaled),
    "curve" (9, 2) central coverage at 0.1 ... 0.9 by ranks, "p_values" {of TESTS: (2,) or (1,)}.
    """
    from ..posterior import metropolis, quadrature
    theta, summary = draw(emulator, n, seed)
    exact, thin = quadrature.exact(emulator, summary), max((nstep - int(0.2 * nstep)) // DRAWS, 1)
    walk = metropolis.PosteriorOptions(nstep, sigma, thin=thin)
    chains = metropolis.metropolis(emulator, summary, walk, seed=seed, keep=np.arange(n),
                                   guess=summary if emulator.d == 2 else None, progress=progress)
    middle = exact.mean
    draws = middle[:, None] + scale * (chains.draws[:, 0] - middle[:, None])
    ranks = (draws < theta[:, None]).sum(axis=1)              # Talts et al. 2018, arXiv:1804.06788
    density = np.concatenate([np.diag(emulator.log_posterior(theta[k:k + 256], summary[k:k + 256]))
                              for k in range(0, n, 256)]) - exact.log_evidence
    above = np.sum([theta > middle + scale * (getattr(exact, name) - middle) for name in LEVELS], 0)
    count = np.array([(above == k).sum(0) for k in range(len(LEVELS) + 1)])
    share, names = np.diff([0.0, *LEVELS.values(), 1.0])[:, None], list(LEVELS)
    inside = {name: count[names.index(low) + 1:names.index(high) + 1].sum(0)
              for name, (_, low, high) in NOMINAL.items()}
    p_values = {f"coverage {name}": np.array([stats.binomtest(int(k), n, NOMINAL[name][0]).pvalue
                                              for k in number]) for name, number in inside.items()}
    p_values |= {"quantiles": stats.chisquare(count, n * share).pvalue,
                 "sbc": np.array([rank_p_value(rank, draws.shape[1]) for rank in ranks.T]),
                 "tarp": np.array([posterior.uniform_p_value(tarp(theta, draws, seed))])}
    return {"coverage": {name: number / n for name, number in inside.items()},
            "error_bars": {name: (np.abs(theta - middle) <= width * scale * exact.sd).mean(0)
                           for name, (_, width) in score.LEVELS.items()},
            "region": {name: float((density >= exact.contour[:, k]).mean())
                       for k, name in enumerate(NOMINAL)},
            "curve": posterior.coverage_curve((ranks + 0.5) / (draws.shape[1] + 1.0),
                                              np.arange(1, 10) / 10), "p_values": p_values}


def rank_p_value(ranks: np.ndarray, n_draws: int) -> float:
    """p-value of a chi2 test that ranks (n,) are uniform on 0 ... n_draws."""
    edges = np.linspace(0, n_draws + 1, min(20, n_draws + 1) + 1)
    count, share = (np.histogram(v, edges)[0] for v in (ranks, np.arange(n_draws + 1)))
    return float(stats.chisquare(count, share * (len(ranks) / (n_draws + 1))).pvalue)


def tarp(truth: np.ndarray, draws: np.ndarray, seed: int = 1) -> np.ndarray:
    """Share (n,) of draws (n, k, 2) nearer to a random point than the truth (n, 2) is.

    Uniform if the joint posterior is calibrated (Lemos et al. 2023, arXiv:2302.03026).
    """
    low, side, rng = truth.min(axis=0), np.ptp(truth, axis=0), np.random.default_rng(seed)
    side = np.where(side > 0, side, 1.0)
    reference = low + side * rng.random(truth.shape)         # uniform in the truths' box
    far = (((truth - reference) / side)**2).sum(axis=1)
    near = (((draws - reference[:, None]) / side)**2).sum(axis=2) < far[:, None]
    return (near.sum(axis=1) + rng.random(len(truth))) / (draws.shape[1] + 1.0)


def failures(result: dict) -> list[str]:
    """What a result of check() fails: a list of words, empty if the posterior is calibrated."""
    number = sum(map(len, result["p_values"].values()))              # Bonferroni 1936
    return [words for name, words in TESTS.items()
            if np.min(result["p_values"][name]) < FALSE_ALARMS / number]


def table(result: dict) -> str:
    """A result of check() as aligned text."""
    rows = [(f"truth in {low}-{high}, % ({100 * level:.0f})", 100 * result["coverage"][name], ".1f")
            for name, (level, low, high) in NOMINAL.items()]
    rows += [(f"truth within {width:.0f} sd, % (Gauss: {100 * level:.1f})",
              100 * result["error_bars"][name], ".1f")
             for name, (level, width) in score.LEVELS.items()]
    rows += [(f"p-value: {words}", result["p_values"][name], ".3f")
             for name, words in TESTS.items()]
    lines = [f"{words:34}" + "".join(f"{v:>10{form}}" for v in values)
             for words, values, form in [("", PARAMS, ""), *rows]]
    curve = " ".join(f"{100 * v:.0f}" for v in result["curve"].mean(1))
    region = ", ".join(f"{100 * v:.1f}" for v in result["region"].values())
    return "\n".join([*lines, f"{'coverage at 10, 20 ... 90 %':34}{curve} (mean of both)",
                      f"{'both: truth in 68.3, 95.4 % region':34}  {region}"])


def calibration_parser() -> cli.Parser:
    """The options of python -m wl.validate calibration."""
    parser = cli.Parser(prog="python -m wl.validate calibration", description="""
Is a posterior right? Calibration of a finished run's emulator, prior and sampler.

Cosmologies are drawn from the run's prior and summaries from its emulator: what can fail is the
inference itself. Tested are the coverage of the reported intervals, the share of truths between the
reported quantiles, the truths' ranks among draws of the chains (Talts et al. 2018) and TARP (Lemos
et al. 2023), each against its sampling error: a calibrated run fails one time in a hundred.
Exit code 0: calibrated, 1: not.""")
    add = parser.add_argument
    add("run", metavar="DIR", help="folder of a finished run of run_mcmc.py")
    for name, default, text in (
            ("--maps", 4000, "maps to simulate"), ("--nstep", 10000, "steps of the chains"),
            ("--sigma", 0.06, "width of their proposal"), ("--scale", 1.0, "multiply every "
             "posterior's width about its mean: a negative control where it is not 1")):
        add(name, type=type(default), default=default, metavar="X", help=text)
    return cli.add_common(parser)


def calibration_main(argv: list | None = None) -> None:
    """The command line: python -m wl.validate calibration."""
    args = cli.parse(calibration_parser(), argv)
    n = within("--maps", args.maps, 50, 200_000, integer=True)
    nstep = within("--nstep", args.nstep, 2 * DRAWS, 10**8, integer=True)
    scale, sigma = positive("--scale", args.scale), positive("--sigma", args.sigma)
    cli.prepare_process(args.threads)
    emulator, progress = load(args.run), Progress(n, f"sampling {n} maps", args.quiet)
    result = check(emulator, n, nstep=nstep, sigma=sigma, seed=args.seed, scale=scale,
                   progress=progress)
    progress.close()
    print(table(result))
    failed, chains = failures(result), {TESTS["sbc"], TESTS["tarp"]}
    if failed:
        advice = ("the exact quantiles hold and the chains do not: give a larger --nstep" if
                  chains >= {*failed} else "one calibrated run of a hundred fails so: repeat with "
                  "another --seed and more --maps; if it fails again, do not use these error bars")
        raise RunError(f"{args.run}: not calibrated: {', '.join(failed)}; {advice}")
    print("calibrated")
