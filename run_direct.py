#!/usr/bin/env python3
"""Omega_m and S_8 of convergence maps, straight from a network with mean and log-sigma heads."""
import functools

try:
    from run_mcmc import predicted
    from wl.core import cli
except ImportError as error:
    raise SystemExit(f"error: {error}; use the Python of a .venv as the README makes it") from None

DESCRIPTION = """Infer Omega_m and S_8, with error bars, from weak-lensing maps by a network alone.

  maps -> network with an uncertainty head -> posterior.h5 -> score.json

The network returns a mean and a log sigma for each parameter and is trained by a loss of both: the
Gaussian negative log-likelihood (the KL loss of the challenge's starting kit), or the challenge's
score itself. No emulator, no chains: the posterior file is the same as that of run_mcmc.py, and
run_score.py cannot tell them apart.

examples:
  python run_direct.py
      the default network; simulates maps if data/ has none
  python run_direct.py --model simple_cnn --epochs 15
      the published network
  python run_direct.py --loss score
      trained on the challenge's score
  python run_direct.py --data data/public --target both --out data/runs/direct
      the public release: test and hold-out maps"""


def parser() -> cli.Parser:
    """The options of this script."""
    from wl.maps import splits as maps
    from wl.posterior import options as posterior
    from wl.summaries import options as summaries
    parser = cli.Parser(description=DESCRIPTION)
    maps.MapOptions.add_to(parser, "maps")
    summaries.add_options(parser, loss="kl")
    posterior.add_options(parser, direct=True)
    parser.set_defaults(method="direct")
    return cli.add_common(parser)


def main(argv: list | None = None) -> None:
    """Parse, open, predict, infer, report. argv: list of str, None for the command line."""
    args = cli.parse(parser(), argv)
    # before what takes seconds to import; a caller of this function is not restarted
    cli.prepare_process(args.threads, allocator=argv is None)
    if cli.processes() == 1:
        return run(args)
    from wl.summaries import lanes
    lanes.shared(lambda: run(args), args.threads)


def run(args) -> None:
    """Open, predict, infer, report. args: the command line's values."""
    import run_score
    from wl.posterior.infer import infer
    from wl.posterior.options import PosteriorOptions
    options = PosteriorOptions.of(args)
    predictions, folder, wanted = predicted(args, options)
    if predictions is not None:                           # else --only: one network of several
        run_score.of_run(infer(predictions, options, folder, wanted), args, args.data)


command = functools.partial(cli.run, main)            # wl-direct, when installed

if __name__ == "__main__":
    command()
