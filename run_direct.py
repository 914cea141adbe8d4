#!/usr/bin/env python3
"""Omega_m and S_8 of convergence maps, straight from a network with mean and log-sigma heads."""
from wl.core import cli

DESCRIPTION = """Infer Omega_m and S_8, with error bars, from weak-lensing convergence maps by a network alone.

  maps -> network with an uncertainty head -> posterior.h5 -> score.json

The network returns a mean and a log sigma for each parameter and is trained by a loss of both: the Gaussian
negative log-likelihood (the KL loss of the challenge's starting kit), or the challenge's score itself. No
emulator, no chains: the posterior file is the same as that of run_mcmc.py, and run_score.py cannot tell them
apart.

examples:
  python run_direct.py                                          the default network; simulates maps if data/ has none
  python run_direct.py --model simple_cnn --epochs 15           the published network
  python run_direct.py --loss score --loss-option start=-5      trained on the challenge's score
  python run_direct.py --data data/public --target both --out data/runs/direct"""


def parser():
    from wl.summaries import arguments
    parser = cli.Parser(description=DESCRIPTION)
    arguments.add_data_options(parser)
    arguments.add_training_options(parser, loss="kl")
    arguments.add_output_options(parser)
    cli.add_common(parser)
    return parser


def main():
    args = parser().parse_args()
    args.threads = cli.thread_count(args.threads)
    cli.prepare_process(args.threads, allocator=True)
    from wl.posterior import infer
    from wl.scoring import outcome
    from wl.summaries import pipeline, prediction
    from wl.core.checks import InputError
    if args.loss == "mse":
        raise InputError("--loss mse: has no error bars; expected kl or score here, or give run_mcmc.py the means")
    run, settings = pipeline.Run(args, "direct"), infer.settings_of(args)
    infer.refuse_early(run, settings)
    predictions = prediction.predict(run)
    if predictions is not None:
        outcome.report_on(infer.infer(run, predictions, settings), args)


if __name__ == "__main__":
    cli.run(main)
