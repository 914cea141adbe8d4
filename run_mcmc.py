#!/usr/bin/env python3
"""Omega_m and S_8 of convergence maps by a network, or the spectrum, and a Metropolis sampler."""
from wl.core import cli

DESCRIPTION = """Infer Omega_m and S_8, with error bars, from weak-lensing convergence maps.

  maps -> network -> predictions.h5 -> statistics.h5 -> emulator -> sampler -> posterior.h5
       -> score.json

A network compresses each map to two numbers. Maps it was not trained on give their mean and
covariance at each cosmology of the design; between cosmologies both are interpolated on a Delaunay
triangulation, which makes a Gaussian likelihood, and a Metropolis chain per map samples the
posterior. Stages that were done before with the same settings are not repeated. All files land in
--out.

examples:
  python run_mcmc.py --nstep 10000 --sigma 0.06
      the whole chain; simulates maps if data/ has none
  python run_mcmc.py --data data/public --target both
      the public release: test and hold-out maps
  python run_mcmc.py --method spectrum --nstep 100000 --sigma 0.02
      the organisers' baseline
  python run_mcmc.py --folds 5 --members 2
      ten networks, every realisation feeds the emulator
  python run_mcmc.py --sampler exact
      quadrature in place of chains, same file
  python run_mcmc.py --shard 2/4
      a quarter of the maps, as one job of four"""


def parser() -> cli.Parser:
    """The options of this script."""
    from wl.maps import splits as maps
    from wl.posterior import options as posterior
    from wl.summaries import options as summaries
    parser = cli.Parser(description=DESCRIPTION)
    maps.add_options(parser)
    add = parser.add_argument
    add("--method", default="network", choices=("network", "spectrum"),
        help="what summarises a map: a network, or its power spectrum in 10 bins")
    add("--predictions", default=None, metavar="FILE",
        help="a predictions.h5 to infer from: nothing is trained, and the options of maps and "
             "network are those it was made with")
    summaries.add_options(parser, loss="mse")
    posterior.add_options(parser)
    posterior.add_output_options(parser)
    return cli.add_common(parser)


def main(argv: list | None = None) -> None:
    """Parse, open, predict, infer, report. argv: list of str, None for the command line."""
    args = cli.parse(parser(), argv)
    from wl.posterior import infer
    from wl.posterior.options import PosteriorOptions, shard_of
    from wl.scoring import report
    posterior, shard = PosteriorOptions.of(args), shard_of(args.shard)
    stage = predicted if args.predictions is None else given
    predictions, folder, wanted = stage(args, posterior, shard)
    if predictions is None:                               # --only: one network of several
        return
    path = infer.infer(predictions, posterior, folder, wanted)
    if shard is not None:                                 # the joined file is what must converge
        report.check_convergence(path, allowed=True)
        print(f"{path}: join it with the other shards by run_score.py --merge")
        return
    report.report_on(path, args.seed, args.data if is_elsewhere(args) else None)
    report.check_convergence(path, args.allow_unconverged)


def predicted(args, posterior, shard=None) -> tuple:
    """Summaries of a data set, made if need be.

    args: the command line's values
    posterior: PosteriorOptions
    shard: (int, int) or None
    Returns hdf5.File, Folder and Wanted; None for the first after one network of several (--only).
    Raises InputError before any work if the inference cannot end well.
    """
    from wl.maps.splits import MapOptions
    from wl.posterior import infer
    from wl.posterior.options import Wanted
    from wl.simulate.sets import locate
    from wl.summaries import predict
    from wl.summaries.options import NetworkOptions
    map_options, network = MapOptions.of(args), NetworkOptions.of(args, args.method)
    cli.prepare_process(args.threads, allocator=args.method != "spectrum")
    maps = locate(args)
    folder = cli.folder(args, f"{maps.name}_{'direct_' * (args.method == 'direct')}{network.model}")
    work = predict.prepare(maps, map_options, network, folder)
    wanted = Wanted(work.split.options.target, shard)
    infer.refuse_early(predict.settings_of(work), work.split.n_emulator, maps.theta, posterior,
                       folder, wanted)
    return predict.predict(work), folder, wanted


def given(args, posterior, shard) -> tuple:
    """As predicted(), from a finished predictions.h5 and the options that it was made with."""
    from wl.core import hdf5
    from wl.core.checks import InputError
    from wl.core.files import refuse_difference
    from wl.maps.dataset import open_set
    from wl.posterior import infer
    from wl.posterior.options import Wanted
    cli.prepare_process(args.threads)
    predictions = hdf5.read(args.predictions, "predictions")
    made, design = predictions.settings, predictions.groups["constant_data"]["design"]
    target = args.target or made["target"]
    if made["target"] not in (target, "both"):
        raise InputError(f"--target {target}: {args.predictions} holds predictions for --target "
                         f"{made['target']}; leave the option out, or predict again")
    folder = cli.folder(args, f"{predictions.origin['name']}_{made['model']}")
    if is_elsewhere(args):
        refuse_difference(f"{args.predictions}: was made from other maps,", predictions.inputs,
                          folder.digests(open_set(args.data, made["release"]).files),
                          "give the --data it was made from")
    n_emulator, wanted = infer.emulator_maps(predictions)[0].shape[1], Wanted(target, shard)
    infer.refuse_early(made, n_emulator, design, posterior, folder, wanted)
    return predictions, folder, wanted


def is_elsewhere(args) -> bool:
    """Whether finished predictions are used with a data set that the user names."""
    from wl.maps.splits import DEFAULT_DATA
    return args.predictions is not None and args.data != DEFAULT_DATA


if __name__ == "__main__":
    cli.run(main)
