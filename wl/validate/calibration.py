"""Is a posterior right? Simulation-based calibration of a finished run's emulator, prior and sampler.

    python -m wl.validate calibration data/runs/simulated_compact

Cosmologies are drawn from the run's prior and summaries from its emulator, so that all that is left to fail is
the inference itself: rank statistics (Talts et al. 2018), TARP (Lemos et al. 2023) and coverage have to hold
within their sampling error. --scale 0.7 shrinks the posteriors about their means: the checks have to fail then.
Coverage of real maps, where emulator and prior are put to the test as well, is what run_score.py prints.
"""
import pathlib

import numpy as np

from ..scoring import score
from ..core import hdf5, seeds
from ..core.checks import InputError, RunError, positive
from ..core.params import INTERVALS, LEVELS, PARAMS
from ..core.files import refuse_difference
from ..posterior.posterior import coverage_curve, uniform_p_value
from ..posterior.emulator import triangle_areas
from ..core.progress import Progress

MAPS = 4000
DRAWS = 100                                # of each map, far apart in the chain: ranks want independent ones
LEAST_P = 0.01
TOLERANCE = {"68": 0.02, "95": 0.015}      # of the coverage
NOMINAL = {name: (LEVELS[high] - LEVELS[low], low, high) for name, (low, high) in INTERVALS.items()}


def draw(emulator, n, seed):
    """n cosmologies from the emulator's prior, and a summary of each from its likelihood.

    Returns theta (n, 2), summary (n, d) float64.
    """
    rng = seeds.generator(seed, seeds.CALIBRATION_DRAW)
    at, prior = emulator.triangles, emulator.vertex_log_prior
    top = prior[at].max(1)
    share = triangle_areas(emulator.theta, at) * np.exp(top - top.max())
    theta = np.empty((0, 2))
    while len(theta) < n:                  # uniform in a triangle, kept by the density's ratio to its highest there
        t = rng.choice(len(at), size=n, p=share / share.sum())
        corners = rng.dirichlet(np.ones(3), size=n)
        keep = np.log(rng.uniform(size=n)) < (corners * prior[at[t]]).sum(1) - top[t]
        theta = np.concatenate([theta, np.einsum("nc,nck->nk", corners, emulator.theta[at[t]])[keep]])
    theta = theta[:n]
    mean, covariance, _ = emulator.interpolate(theta)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=mean.shape))
    return theta, mean + noise


def check(emulator, n=MAPS, *, nstep=10000, sigma=0.06, seed=1, scale=1.0, progress=None):
    """All checks on n simulated maps.

    emulator: of emulator.build(); nstep, sigma: of the chains whose draws are ranked; scale: of the
    posteriors about their means, 1 but for a negative control. Returns a dict: "coverage" {"68": (2,), "95": (2,)}
    of the exact quantile intervals, "error_bars" the same of mean +- sd and +- 2 sd, "region" {"68", "95"} of the
    exact highest-density regions (not scaled), "curve" (9, 2) central coverage at 0.1 ... 0.9 by ranks, and
    p-values "sbc" (2,), "pit" (2,), "tarp".
    """
    from ..posterior import metropolis, quadrature
    theta, summary = draw(emulator, n, seed)
    exact = quadrature.exact(emulator, summary)
    walk = metropolis.Walk(nstep, sigma, thin=max((nstep - int(0.2 * nstep)) // DRAWS, 1))
    chains = metropolis.metropolis(emulator, summary, walk, seed=seed, draws=n,
                                   guess=summary if emulator.d == 2 else None, progress=progress)
    middle = exact.mean

    def scaled(value):
        return middle + scale * (value - middle)

    draws = middle[:, None] + scale * (chains.draws[:, 0] - middle[:, None])
    ranks = score.sbc_ranks(theta, draws)
    rng = seeds.generator(seed, seeds.CALIBRATION_TIE)
    pit = (ranks + rng.uniform(size=ranks.shape)) / (draws.shape[1] + 1.0)
    density = np.concatenate([np.diag(emulator.log_posterior(theta[k:k + 256], summary[k:k + 256]))
                              for k in range(0, n, 256)]) - exact.log_evidence
    inside = {name: (theta >= scaled(getattr(exact, low))) & (theta <= scaled(getattr(exact, high)))
              for name, (_, low, high) in NOMINAL.items()}
    return {"coverage": {name: value.mean(0) for name, value in inside.items()},
            "error_bars": {name: (np.abs(theta - middle) <= width * scale * exact.sd).mean(0)
                           for name, (_, width) in score.LEVELS.items()},
            "region": {name: float((density >= exact.contour[:, k]).mean()) for k, name in enumerate(NOMINAL)},
            "curve": coverage_curve(pit, np.arange(1, 10) / 10),
            "sbc": np.array([score.rank_p_value(ranks[:, k], draws.shape[1]) for k in range(2)]),
            "pit": np.array([uniform_p_value(pit[:, k]) for k in range(2)]),
            "tarp": uniform_p_value(score.tarp(theta, draws, seed=seed))}


def failures(result):
    """What a result of check() fails: a list of words, empty if the posterior is calibrated."""
    out = [f"coverage at {name} %" for name, (level, _, _) in NOMINAL.items()
           if (np.abs(result["coverage"][name] - level) > TOLERANCE[name]).any()]
    return out + [words for key, words in (("sbc", "ranks"), ("pit", "PIT"), ("tarp", "TARP"))
                  if np.min(result[key]) < LEAST_P]


def load(folder):
    """The emulator of a finished run: its folder's statistics.h5, and the prior in posterior.h5.

    Raises InputError, also where the two are of different runs, one of which was stopped.
    """
    from ..posterior import emulator
    folder = pathlib.Path(folder)
    file = hdf5.read(folder / "statistics.h5", "statistics")
    stat = file.groups["statistics"]
    made = hdf5.read(folder / "posterior.h5", "posterior", groups=("constant_data",))
    constant = made.groups["constant_data"]
    if "vertex_log_prior" not in constant:
        raise InputError(f"{folder}: expected a run of run_mcmc.py, got one without emulator; give another")
    before, now = ({"seed": f.seed, "input": f.inputs, **f.settings, "orders": None} for f in (file, made))
    refuse_difference(f"{file.path}: has", before, now, "repeat the run with --force", "posterior.h5 beside it")
    return emulator.build(stat["theta"], stat["mean"], stat["covariance"], constant["vertex_log_prior"])


def table(result):
    """A result as aligned text."""
    lines = [f"{'':34}{PARAMS[0]:>10}{PARAMS[1]:>10}"]
    for name, (level, low, high) in NOMINAL.items():
        lines.append(f"{f'truth in {low}-{high}, % ({100 * level:.0f})':34}"
                     + "".join(f"{100 * v:10.1f}" for v in result["coverage"][name]))
    for name, (level, width) in score.LEVELS.items():
        lines.append(f"{f'truth within {width:.0f} sd, % (Gauss: {100 * level:.1f})':34}"
                     + "".join(f"{100 * v:10.1f}" for v in result["error_bars"][name]))
    for key, words in (("sbc", "p-value of uniform ranks"), ("pit", "p-value of uniform PIT")):
        lines.append(f"{words:34}" + "".join(f"{v:10.3f}" for v in result[key]))
    lines.append(f"{'coverage at 10, 20 ... 90 %':34}" + " ".join(
        f"{100 * v:.0f}" for v in result["curve"].mean(1)) + " (mean of both)")
    lines.append(f"{'both: truth in 68.3, 95.4 % region':34}  " + ", ".join(
        f"{100 * v:.1f}" for v in result["region"].values()))
    lines.append(f"{'both: p-value of TARP':34}{result['tarp']:10.3f}")
    return "\n".join(lines)


def parser():
    from ..core import cli
    parser = cli.Parser(prog="python -m wl.validate calibration", description=__doc__.split("\n\n")[0] + "\n\n"
                        + __doc__.split("\n\n")[2] + "\nExit code 0: calibrated, 1: not.")
    parser.add_argument("run", metavar="DIR", help="folder of a finished run of run_mcmc.py")
    parser.add_argument("--maps", type=int, default=MAPS, metavar="N", help="maps to simulate")
    parser.add_argument("--nstep", type=int, default=10000, metavar="N", help="steps of the chains that are ranked")
    parser.add_argument("--sigma", type=float, default=0.06, metavar="X", help="width of their proposal")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X",
                        help="multiply every posterior's width: a negative control where it is not 1")
    return cli.add_common(parser)


def main(argv=None):
    from ..core import cli
    args = parser().parse_args(argv)
    n, scale = positive("--maps", args.maps, integer=True), positive("--scale", args.scale)
    cli.prepare_process(cli.thread_count(args.threads))
    emulator = load(args.run)
    progress = Progress(n, f"sampling {n} maps", args.quiet)
    result = check(emulator, n, nstep=args.nstep, sigma=args.sigma, seed=args.seed, scale=scale, progress=progress)
    progress.close()
    print(table(result))
    failed = failures(result)
    if failed:
        raise RunError(f"{args.run}: not calibrated: {', '.join(failed)}")
    print("calibrated")
