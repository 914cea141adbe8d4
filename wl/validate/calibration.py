"""Is a posterior right? Calibration of a finished run's emulator, prior and sampler.

    python -m wl.validate calibration data/runs/simulated_compact

Cosmologies are drawn from the run's prior and summaries from its emulator, so that all that is left
to fail is the inference itself. Tested are the coverage of the reported intervals, the share of
truths between the reported quantiles, the truths' ranks among draws of the chains (Talts et al.
2018) and TARP (Lemos et al. 2023), each against its own sampling error: all together, a calibrated
run fails one time in a hundred, whatever the number of maps. --scale 0.7 shrinks the posteriors
about their means: the checks have to fail then. Coverage of real maps, where emulator and prior are
put to the test as well, is what run_score.py prints.
"""
import numpy as np
from scipy import stats

from ..core import cli, seeds
from ..core.checks import RunError, positive, within
from ..core.params import INTERVALS, LEVELS, PARAMS
from ..core.progress import Progress
from ..posterior.posterior import coverage_curve, uniform_p_value
from ..posterior.emulator import triangle_areas
from ..posterior.infer import load_emulator as load
from ..scoring import score

MAPS, MIN_MAPS, MAX_MAPS = 4000, 50, 200_000
DRAWS = 100                                # of each map, far apart in the chain: independent
FALSE_ALARMS = 0.01                        # of all tests together
NOMINAL = {name: (LEVELS[high] - LEVELS[low], low, high) for name, (low, high) in INTERVALS.items()}
TESTS = {**{f"coverage {name}": f"coverage at {name} %" for name in NOMINAL},
         "quantiles": "truths between quantiles", "sbc": "ranks", "tarp": "TARP"}


def draw(emulator, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n cosmologies (n, 2) from an emulator's prior, and a summary (n, d) of each."""
    rng = seeds.generator(seed, seeds.CALIBRATION_DRAW)
    at, prior = emulator.triangles, emulator.vertex_log_prior
    top = prior[at].max(1)
    share = triangle_areas(emulator.theta, at) * np.exp(top - top.max())
    theta = np.empty((0, 2))
    while len(theta) < n:      # uniform in a triangle, kept by the density over its highest there
        t = rng.choice(len(at), size=n, p=share / share.sum())
        corners = rng.dirichlet(np.ones(3), size=n)
        keep = np.log(rng.uniform(size=n)) < (corners * prior[at[t]]).sum(1) - top[t]
        drawn = np.einsum("nc,nck->nk", corners, emulator.theta[at[t]])
        theta = np.concatenate([theta, drawn[keep]])
    theta = theta[:n]
    mean, covariance, _ = emulator.interpolate(theta)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=mean.shape))
    return theta, mean + noise


def check(emulator, n: int = MAPS, *, nstep: int = 10000, sigma: float = 0.06, seed: int = 1,
          scale: float = 1.0, progress: Progress | None = None) -> dict:
    """All checks on n simulated maps.

    emulator: of emulator.build()
    nstep, sigma: of the chains whose draws are ranked
    scale: of the posteriors about their means, 1 but for a negative control
    Returns a dict: "coverage" {"68": (2,), "95": (2,)} of the exact quantile intervals,
    "error_bars" the same of mean +- sd and +- 2 sd, "region" {"68", "95"} of the exact
    highest-density regions (not scaled), "curve" (9, 2) central coverage at 0.1 ... 0.9 by ranks,
    and "p_values", {one of TESTS: (2,), or (1,) for "tarp"}.
    """
    from ..posterior import metropolis, quadrature
    theta, summary = draw(emulator, n, seed)
    exact = quadrature.exact(emulator, summary)
    walk = metropolis.Walk(nstep, sigma, thin=max((nstep - int(0.2 * nstep)) // DRAWS, 1))
    chains = metropolis.metropolis(emulator, summary, walk, seed=seed, keep=np.arange(n),
                                   guess=summary if emulator.d == 2 else None, progress=progress)
    middle = exact.mean
    draws = middle[:, None] + scale * (chains.draws[:, 0] - middle[:, None])
    ranks = (draws < theta[:, None]).sum(axis=1)              # Talts et al. 2018, arXiv:1804.06788
    blocks = [slice(k, k + 256) for k in range(0, n, 256)]
    density = np.concatenate([np.diag(emulator.log_posterior(theta[k], summary[k]))
                              for k in blocks]) - exact.log_evidence
    above = np.sum([theta > middle + scale * (getattr(exact, name) - middle) for name in LEVELS], 0)
    count = np.array([(above == k).sum(0) for k in range(len(LEVELS) + 1)])
    share = np.diff([0.0, *LEVELS.values(), 1.0])[:, None]
    names = list(LEVELS)
    inside = {name: count[names.index(low) + 1:names.index(high) + 1].sum(0)
              for name, (_, low, high) in NOMINAL.items()}
    p_values = {f"coverage {name}": np.array([stats.binomtest(int(k), n, NOMINAL[name][0]).pvalue
                                              for k in number]) for name, number in inside.items()}
    p_values |= {"quantiles": stats.chisquare(count, n * share).pvalue,
                 "sbc": np.array([rank_p_value(rank, draws.shape[1]) for rank in ranks.T]),
                 "tarp": np.array([uniform_p_value(tarp(theta, draws, seed))])}
    return {"coverage": {name: number / n for name, number in inside.items()},
            "error_bars": {name: (np.abs(theta - middle) <= width * scale * exact.sd).mean(0)
                           for name, (_, width) in score.LEVELS.items()},
            "region": {name: float((density >= exact.contour[:, k]).mean())
                       for k, name in enumerate(NOMINAL)},
            "curve": coverage_curve((ranks + 0.5) / (draws.shape[1] + 1.0),
                                    np.arange(1, 10) / 10), "p_values": p_values}


def rank_p_value(ranks: np.ndarray, n_draws: int, bins: int = 20) -> float:
    """p-value of a chi2 test that ranks (n,) are uniform on 0 ... n_draws; bins: at most."""
    edges = np.linspace(0, n_draws + 1, min(bins, n_draws + 1) + 1)
    count, share = (np.histogram(v, edges)[0] for v in (ranks, np.arange(n_draws + 1)))
    return float(stats.chisquare(count, share * (len(ranks) / (n_draws + 1))).pvalue)


def tarp(truth: np.ndarray, draws: np.ndarray, seed: int = 1) -> np.ndarray:
    """Share of draws (n, k, 2) nearer to a random reference than the truth (n, 2) is, (n,) float64.

    It is uniform in (0, 1) if the joint posterior is calibrated (Lemos et al. 2023,
    arXiv:2302.03026). References are uniform in the box of the truths, distances in units of its
    sides; the rank of the truth is spread over its step at random, so that few draws do not show.
    """
    low, side = truth.min(axis=0), np.ptp(truth, axis=0)
    side = np.where(side > 0, side, 1.0)
    rng = np.random.default_rng(seed)
    reference = low + side * rng.random(truth.shape)
    far = (((truth - reference) / side)**2).sum(axis=1)
    near = (((draws - reference[:, None]) / side)**2).sum(axis=2) < far[:, None]
    return (near.sum(axis=1) + rng.random(len(truth))) / (draws.shape[1] + 1.0)


def failures(result: dict) -> list[str]:
    """What a result of check() fails: a list of words, empty if the posterior is calibrated."""
    number = sum(map(len, result["p_values"].values()))              # Bonferroni 1936
    return [words for name, words in TESTS.items()
            if np.min(result["p_values"][name]) < FALSE_ALARMS / number]


def advice(failed: list[str]) -> str:
    """What to do about failures."""
    if set(failed) <= {TESTS["sbc"], TESTS["tarp"]}:
        return "the exact quantiles hold and the chains do not: give a larger --nstep"
    return ("a calibrated run fails so one time in a hundred: repeat with another --seed and more "
            "--maps; if it fails again, do not use these error bars")


def table(result: dict) -> str:
    """A result as aligned text."""
    lines = [f"{'':34}{PARAMS[0]:>10}{PARAMS[1]:>10}"]
    for name, (level, low, high) in NOMINAL.items():
        lines.append(f"{f'truth in {low}-{high}, % ({100 * level:.0f})':34}"
                     + "".join(f"{100 * v:10.1f}" for v in result["coverage"][name]))
    for name, (level, width) in score.LEVELS.items():
        lines.append(f"{f'truth within {width:.0f} sd, % (Gauss: {100 * level:.1f})':34}"
                     + "".join(f"{100 * v:10.1f}" for v in result["error_bars"][name]))
    lines += [f"{f'p-value: {words}':34}" + "".join(f"{v:10.3f}" for v in result["p_values"][name])
              for name, words in TESTS.items()]
    lines.append(f"{'coverage at 10, 20 ... 90 %':34}" + " ".join(
        f"{100 * v:.0f}" for v in result["curve"].mean(1)) + " (mean of both)")
    lines.append(f"{'both: truth in 68.3, 95.4 % region':34}  " + ", ".join(
        f"{100 * v:.1f}" for v in result["region"].values()))
    return "\n".join(lines)


def parser() -> cli.Parser:
    """The options of python -m wl.validate calibration."""
    title, _, explanation, *_ = (__doc__ or "\n\n\n\n").split("\n\n")
    parser = cli.Parser(prog="python -m wl.validate calibration", description=title + "\n\n"
                        + explanation + "\nExit code 0: calibrated, 1: not.")
    add = parser.add_argument
    add("run", metavar="DIR", help="folder of a finished run of run_mcmc.py")
    add("--maps", type=int, default=MAPS, metavar="N", help="maps to simulate")
    add("--nstep", type=int, default=10000, metavar="N", help="steps of the chains that are ranked")
    add("--sigma", type=float, default=0.06, metavar="X", help="width of their proposal")
    add("--scale", type=float, default=1.0, metavar="X",
        help="multiply every posterior's width: a negative control where it is not 1")
    return cli.add_common(parser)


def main(argv: list | None = None) -> None:
    """The command line: python -m wl.validate calibration."""
    args = cli.parse(parser(), argv)
    n = within("--maps", args.maps, MIN_MAPS, MAX_MAPS, integer=True)
    nstep = within("--nstep", args.nstep, 2 * DRAWS, 10**8, integer=True)
    scale, sigma = positive("--scale", args.scale), positive("--sigma", args.sigma)
    cli.prepare_process(args.threads)
    emulator = load(args.run)
    progress = Progress(n, f"sampling {n} maps", args.quiet)
    result = check(emulator, n, nstep=nstep, sigma=sigma, seed=args.seed, scale=scale,
                   progress=progress)
    progress.close()
    print(table(result))
    failed = failures(result)
    if failed:
        raise RunError(f"{args.run}: not calibrated: {', '.join(failed)}; {advice(failed)}")
    print("calibrated")
