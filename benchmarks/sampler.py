#!/usr/bin/env python3
"""Speed of the compiled sampler against the usual SciPy loop, alternately in one run.

  python benchmarks/sampler.py                  # 4000 maps, 10,000 steps, d = 2, all threads
  python benchmarks/sampler.py --threads 1
  python benchmarks/sampler.py --summaries 10 --sigma 0.02

The reference advances all chains at once with LinearNDInterpolator for mean and covariance and
NumPy for
the Gaussian, as the challenge's kit does; its cost per step is constant, so it runs fewer of them.
Figures
are chain-steps per second, everything included (starts, diagnostics, quantiles); compilation is
not.
"""
import argparse
import os
import pathlib
import resource
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=4000,
                        help="maps, one chain each (default 4000)")
    parser.add_argument("--nstep", type=int, default=10000, help="steps of ours (default 10000)")
    parser.add_argument("--sigma", type=float, default=0.06, help="proposal width (default 0.06)")
    parser.add_argument("--summaries", type=int, default=2, metavar="D",
                        help="dimension of the summary (default 2)")
    parser.add_argument("--reference-steps", type=int, default=200,
                        help="steps of the reference (default 200)")
    parser.add_argument("--repeats", type=int, default=5, help="alternations (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                        help="threads of ours (default all)")
    return parser.parse_args()


def problem(np, n_map, d):
    """A design of 101 cosmologies like the challenge's, an emulator of d summaries on it, and
    maps."""
    rng = np.random.default_rng(1)
    z = np.clip(rng.normal(size=(101, 2)), -2.2, 2.4)
    theta = np.stack([0.275 * np.exp(0.36 * z[:, 0]), 0.81 + 0.065 * z[:, 1]], axis=1)
    z = (theta - [0.29, 0.8135]) / [0.1055, 0.066]
    if d == 2:
        mean = [0.29, 0.8135] + np.array([0.1055, 0.066]) * 0.9 * np.arcsinh(z)
        sd = np.array([0.023, 0.015]) * np.exp(0.35 * z * [1.0, -0.5])
        covariance = sd[:, :, None] * sd[:, None, :] * np.array([[1.0, -0.3], [-0.3, 1.0]])
    else:
        mean = z @ rng.normal(size=(2, d)) + 0.1 * z**2 @ rng.normal(size=(2, d))
        root = rng.normal(size=(101, d, 3 * d)) * np.exp(0.2 * z[:, :1, None])
        covariance = root @ root.transpose(0, 2, 1) / (3 * d)
    which = rng.integers(101, size=n_map)
    noise = np.einsum("nij,nj->ni",
                      np.linalg.cholesky(covariance)[which], rng.normal(size=(n_map, d)))
    return theta, mean, covariance, mean[which] + noise


def reference(np, theta, mean, covariance, summary, nstep, sigma, seed):
    """The usual loop: all chains at once, every state kept. Returns states (nstep, n, 2)."""
    from scipy.interpolate import LinearNDInterpolator
    rng = np.random.default_rng(seed)
    n, d = summary.shape
    mean_of = LinearNDInterpolator(theta, mean, fill_value=np.nan)
    covariance_of = LinearNDInterpolator(theta, covariance, fill_value=np.nan)
    prior_of = LinearNDInterpolator(theta, np.zeros((len(theta), 1)), fill_value=-np.inf)

    def log_posterior(x):
        log_prior = prior_of(x).flatten()
        inside = np.isfinite(log_prior)
        out = np.full(len(x), -np.inf)
        delta = summary[inside] - mean_of(x[inside])
        c = covariance_of(x[inside])
        out[inside] = (log_prior[inside]
                       - 0.5 * np.einsum("ni,nij,nj->n", delta, np.linalg.inv(c), delta)
                       - 0.5 * np.linalg.slogdet(c)[1])
        return out

    current = theta[rng.integers(len(theta), size=n)]
    current = current + 1e-3 * (theta.mean(axis=0) - current)
    log_current = log_posterior(current)
    states = []
    for _ in range(nstep):
        proposal = current + sigma * rng.normal(size=(n, 2))
        log_proposal = log_posterior(proposal)
        accept = np.log(rng.uniform(size=n)) < log_proposal - log_current
        current = np.where(accept[:, None], proposal, current)
        log_current = np.where(accept, log_proposal, log_current)
        states.append(current)
    return np.array(states)


def draws_alone(np):
    """A kernel that draws what metropolis() draws for so many chains and steps, and nothing
    else."""
    import numba
    from wl.kernels import metropolis as kernels
    from wl.kernels.noise import seed_state
    rows, lanes, ahead, a00, a11 = (kernels.ROWS, kernels.LANES, kernels.AHEAD, kernels.A00,
                                    kernels.A11)
    draw = kernels._draw

    @numba.njit(error_model="numpy", parallel=True)
    def random_numbers(chains, nstep, sigma, seed, stream):
        out = np.empty(chains)
        for group in numba.prange((chains + lanes - 1) // lanes):
            noise, lane = np.empty((ahead, 3, lanes)), np.zeros((rows, lanes))
            state = np.empty((lanes, 4), np.uint64)
            for l in range(lanes):
                seed_state(state[l], seed, stream, group * lanes + l)
                lane[a00, l], lane[a11, l] = sigma, sigma
            for _ in range(0, nstep, ahead):
                for l in range(lanes):
                    draw(state[l], lane, noise, l)
            for l in range(min(lanes, chains - group * lanes)):
                out[group * lanes + l] = noise[ahead - 1, 0, l]
        return out
    return random_numbers


def main():
    args = arguments()
    os.environ["NUMBA_NUM_THREADS"] = str(args.threads)
    import numpy as np
    from wl.core.seeds import METROPOLIS
    from wl.posterior.emulator import build
    from wl.posterior.metropolis import metropolis
    from wl.posterior.options import PosteriorOptions
    from wl.posterior.quadrature import exact as quadrature
    theta, mean, covariance, summary = problem(np, args.maps, args.summaries)
    emulator = build(theta, mean, covariance, prior="flat")

    def timed(run, *arguments, **options):
        start = time.perf_counter()
        result = run(*arguments, **options)
        return time.perf_counter() - start, result

    first, _ = timed(metropolis, emulator, summary[:32], PosteriorOptions(32, args.sigma))
    exact_first, _ = timed(quadrature, emulator, summary[:32])
    random_numbers = draws_alone(np)
    random_numbers(16, 32, args.sigma, np.uint64(0), METROPOLIS)
    reference(np, theta, mean, covariance, summary, 2, args.sigma, 0)
    ours, theirs, random, exact = [], [], [], []
    for k in range(args.repeats):
        seconds, states = timed(reference, np, theta, mean, covariance, summary,
                                args.reference_steps, args.sigma, k)
        theirs.append(args.maps * args.reference_steps / seconds)
        seconds, chains = timed(metropolis, emulator, summary,
                                PosteriorOptions(args.nstep, args.sigma), seed=k)
        ours.append(args.maps * args.nstep / seconds)
        seconds, _ = timed(random_numbers, args.maps, args.nstep, args.sigma, np.uint64(k),
                           METROPOLIS)
        random.append(args.maps * args.nstep / seconds)
        seconds, truth = timed(quadrature, emulator, summary)
        exact.append(seconds)
        print(
            f"run {k + 1}: ours {ours[-1] / 1e6:.1f} M chain-steps/s, "
            f"reference {theirs[-1] / 1e6:.3f}, "
            f"ratio {ours[-1] / theirs[-1]:.1f}, "
            f"whole step / random numbers {random[-1] / ours[-1]:.2f}, "
            f"exact {exact[-1]:.3f} s", flush=True)
    some = summary[::max(args.maps // 200, 1)]
    order_8, order_12 = quadrature(emulator, some), quadrature(emulator, some, 12)
    off = max(np.abs(order_8.mean - order_12.mean).max(), np.abs(order_8.sd - order_12.sd).max())
    peak = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    for nstep in (args.nstep, 10 * args.nstep):
        metropolis(emulator, summary[:64], PosteriorOptions(nstep, args.sigma))
        peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    moved = (np.diff(states, axis=0) != 0.0).any(axis=2).mean()
    z = np.abs(chains.mean - truth.mean) / truth.sd
    share = statistics.median(o / r for o, r in zip(ours, random))
    ratio = statistics.median(o / r for o, r in zip(ours, theirs))
    print(
        f"{args.maps} maps x {args.nstep} steps, sigma {args.sigma}, d = {args.summaries}, "
        f"{args.threads} threads; first calls (compilation or its cache) "
        f"{first:.2f} s and {exact_first:.2f} s"
    )
    print(
        f"acceptance ours {chains.acceptance.mean():.3f}, reference {moved:.3f}; "
        "mean within 0.15 sd of the "
        f"exact for {100 * (z < 0.15).all(axis=1).mean():.1f} % of the maps")
    print(
        f"exact: {statistics.median(exact):.3f} s for {args.maps} maps, "
        f"moments within {off:.1e} of order 12; peak "
        f"memory {peak[1] / 1024:.0f} MB, "
        f"with 10 times the steps {(peak[2] - peak[1]) / 1024:+.1f} MB"
    )
    print(
        f"random numbers take {100 * share:.0f} % of our time: "
        f"a whole step costs {1.0 / share:.1f} times as much"
    )
    print(f"sampler ratio={ratio:.1f} ours={statistics.median(ours):.4g} "
          f"reference={statistics.median(theirs):.4g} n={args.repeats}")


if __name__ == "__main__":
    main()
