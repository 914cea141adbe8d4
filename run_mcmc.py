#!/usr/bin/env python3
"""Omega_m and S_8 of convergence maps by a network (or the power spectrum) and a Metropolis sampler."""
from wl.core import cli

DESCRIPTION = """Infer Omega_m and S_8, with error bars, from weak-lensing convergence maps.

  maps -> network -> predictions.h5 -> statistics.h5 -> emulator -> sampler -> posterior.h5 -> score.json

A network compresses each map to two numbers. Maps it was not trained on give their mean and covariance
at each cosmology of the design; between cosmologies both are interpolated on a Delaunay triangulation,
which makes a Gaussian likelihood, and a Metropolis chain per map samples the posterior. Stages that were
done before with the same settings are not repeated. All files land in --out.

examples:
  python run_mcmc.py --nstep 10000 --sigma 0.06                 the whole chain; simulates maps if data/ has none
  python run_mcmc.py --data data/public --target both           the public release: test and hold-out maps
  python run_mcmc.py --method spectrum --nstep 100000 --sigma 0.02       the organisers' baseline
  python run_mcmc.py --folds 5 --members 2                      ten networks, every realisation in the statistics
  python run_mcmc.py --sampler exact                            quadrature in place of chains, same file
  python run_mcmc.py --shard 2/4                                a quarter of the maps, as one job of four"""


def parser():
    from wl.summaries import arguments
    parser = cli.Parser(description=DESCRIPTION)
    arguments.add_data_options(parser)
    parser.add_argument("--method", default="network", choices=("network", "spectrum"),
                        help="what compresses a map: a network, or its power spectrum in 10 bins")
    parser.add_argument("--predictions", default=None, metavar="FILE",
                        help="a predictions.h5 to infer from: nothing is trained, and the options of maps and network "
                             "are those it was made with")
    arguments.add_training_options(parser, loss="mse")
    group = parser.add_argument_group("posterior")
    group.add_argument("--smooth", default="auto", choices=("auto", "none", "always"),
                       help="fit mean and covariance over the design by polynomials of cross-validated order; auto "
                            "includes the raw values among the candidates")
    group.add_argument("--prior", default="design", metavar="design|flat|FILE",
                       help="density of the design, which the challenge's test maps follow, flat in its hull, or a "
                            "file (.npy or text) with rows of Omega_m, S_8, density")
    group.add_argument("--sampler", default="metropolis", choices=("metropolis", "exact"),
                       help="chains, or quadrature over the triangles of the design")
    group.add_argument("--nstep", type=int, default=10000, metavar="N", help="steps of each chain")
    group.add_argument("--sigma", type=float, default=0.06, metavar="X",
                       help="width of the proposal in Omega_m and S_8; aim at an acceptance of 0.2 to 0.5")
    group.add_argument("--burn-in", type=float, default=0.2, metavar="F", help="fraction of the steps dropped")
    group.add_argument("--chains", type=int, default=1, metavar="N", help="chains per map")
    group.add_argument("--adapt", action="store_true",
                       help="learn each chain's proposal in its burn-in, beginning with --sigma")
    group.add_argument("--allow-unconverged", action="store_true",
                       help="exit 0 even if more than 1 %% of the maps have an effective sample size below 100 or an "
                            "R-hat above 1.05")
    group.add_argument("--shard", default=None, metavar="I/N",
                       help="infer only every N-th map from the I-th; join the files with run_score.py --merge")
    group.add_argument("--draws", type=int, default=0, metavar="N",
                       help="maps, from the first, whose thinned chains are kept in the file")
    group.add_argument("--thin", type=int, default=None, metavar="N",
                       help="steps between the draws that R-hat and effective sample size are made of, and that "
                            "are kept (default: 500 draws a chain or a few more)")
    arguments.add_output_options(parser)
    cli.add_common(parser)
    return parser


def main():
    args = parser().parse_args()
    args.threads = cli.thread_count(args.threads)
    cli.prepare_process(args.threads, allocator=args.method == "network")
    from wl.posterior import infer, shards
    from wl.scoring import outcome
    from wl.summaries import pipeline, prediction
    settings, shard = infer.settings_of(args), shards.shard_of(args.shard)   # wrong values end the run here
    given = infer.given_predictions(args)
    run = pipeline.Run(args, args.method)
    infer.refuse_early(run, settings, shard, given)
    predictions = given or prediction.predict(run)
    if predictions is None:                               # --only: one network of several is trained
        return
    path = infer.infer(run, predictions, settings, shard)
    if shard is None:
        outcome.report_on(path, args)
    else:
        print(f"{path}: join it with the other shards by run_score.py --merge")
    outcome.check_convergence(path, args, shard)


if __name__ == "__main__":
    cli.run(main)
