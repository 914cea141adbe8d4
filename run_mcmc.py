#!/usr/bin/env python3
"""Omega_m and S_8 of convergence maps by a network, or the spectrum, and a Metropolis sampler."""
import functools
import os

try:
    from wl import api
    from wl.core import cli
except ImportError as error:
    raise SystemExit(f"error: {error}; use the Python of a .venv as the README makes it") from None

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
  python run_mcmc.py --apply data/runs/main --maps new.npy
      a trained run on new maps: nothing is trained again
  python run_mcmc.py --shard 2/4
      a quarter of the maps, as one job of four
  torchrun --nproc-per-node=2 run_mcmc.py
      two processes share the training; the bits of one"""


def parser() -> cli.Parser:
    """The options of this script."""
    from wl.maps import splits as maps
    from wl.posterior import options as posterior
    from wl.summaries import options as summaries
    parser = cli.Parser(description=DESCRIPTION)
    parser.add_presets(summaries.PRESETS)
    maps.MapOptions.add_to(parser, "maps")
    add = parser.add_argument
    add("--method", default="network", choices=("network", "spectrum"),
        help="what summarises a map: a network, or its power spectrum in 10 bins")
    add("--predictions", default=None, metavar="FILE",
        help="a predictions.h5 to infer from: nothing is trained, and the options of maps and "
             "network are those it was made with; or predictions of others, see below")
    add("--apply", default=None, metavar="RUN",
        help="folder of a finished run, whose networks and emulator infer the maps of --maps; "
             "nothing is trained, only those maps are measured, and the defaults of --prior, "
             "--smooth and --recalibrate are what that run had")
    add("--maps", default=None, metavar="FILE",
        help="with --apply: .npy of noisy maps, (n, pixels inside the run's mask) or frames "
             "(n, rows, columns), where pixels outside the mask may be NaN")
    summaries.add_options(parser, loss="mse")
    posterior.add_options(parser)
    parser.epilog = f"{posterior.FOREIGN_HELP}\n\n{parser.epilog}"
    return cli.add_common(parser)


def main(argv: list | None = None) -> None:
    """Parse, open, predict, infer, report. argv: list of str, None for the command line."""
    known = parser()
    args = cli.parse(known, argv)
    if args.apply is not None:
        from wl.posterior.options import options_of
        known.set_defaults(**options_of(args.apply, args.quiet))
        args = cli.parse(known, argv)
    trains = args.method != "spectrum" and (args.predictions, args.apply) == (None, None)
    # before what takes seconds to import; a caller of this function is not restarted
    cli.prepare_process(args.threads, allocator=trains and argv is None)
    if cli.processes() == 1:
        return run(args)
    from wl.summaries import lanes
    lanes.shared(lambda: run(args), args.threads)


def run(args) -> None:
    """Open, predict, infer, report. args: the command line's values."""
    from wl.core.checks import InputError
    from wl.posterior import infer
    from wl.posterior.options import PosteriorOptions, shard_of
    import run_score
    from wl.scoring import files, report, table
    posterior, shard = PosteriorOptions.of(args), shard_of(args.shard)
    if args.maps is not None and args.apply is None:
        raise InputError("--maps: expected --apply RUN, the finished run to use on them")
    if args.only is not None and args.shard is not None:
        raise InputError("--only: trains one network, --shard infers; give one of them")
    refuse_idle(args)
    stage = applied if args.apply is not None else predicted if args.predictions is None else given
    predictions, folder, wanted = stage(args, posterior, shard)
    if predictions is None:                               # --only: one network of several
        return
    path = infer.infer(predictions, posterior, folder, wanted)
    if shard is not None:                                 # the joined file is what must converge
        report.check_convergence(path, allowed=True)
        print(f"{path}: join it with the other shards by run_score.py --merge")
        return
    if args.apply is not None:
        print(table.new_maps(files.read_maps(path)))
    else:
        of_file = args.predictions is not None and not is_elsewhere(args)
        run_score.of_run(path, args, None if of_file else args.data)
    report.check_convergence(path, args.allow_unconverged)


def refuse_idle(args) -> None:
    """Raise InputError for an option of maps or networks that a finished run decides.

    With --method spectrum, options of networks get a warning alone: scripts share them.
    """
    import dataclasses
    from wl.core.checks import InputError
    from wl.core.progress import warn
    from wl.maps.splits import MapOptions
    from wl.summaries.options import NetworkOptions
    of = next((name for name in ("apply", "predictions") if getattr(args, name) is not None), None)
    if args.config is not None or (of is None and args.method != "spectrum"):
        return
    kinds = (MapOptions, NetworkOptions) if of else (NetworkOptions,)
    used = {None: ("method", "threads"), "apply": ("threads",),
            "predictions": ("threads", "data", "target", "test_maps")}[of]
    decided = parser()
    decided.set_defaults(**decided.presets[args.preset])
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    given = [f"--{name.replace('_', '-')}" for name in ("method", "model_option", *names)
             if name in args and name not in used
             and getattr(args, name) != decided.get_default(name)]
    if given and of:
        raise InputError(f"{given[0]}: is decided by the run that --{of} names; leave it out")
    if given:
        warn(f"{', '.join(given)}: changes nothing, as --method spectrum has no network")


def predicted(args, posterior, shard=None) -> tuple:
    """Summaries of a data set, made if need be.

    args: the command line's values
    posterior: PosteriorOptions
    shard: (int, int) or None
    Returns hdf5.File, Folder and Wanted; None for the first after one network of several (--only).
    Raises InputError before any work if the inference cannot end well.
    """
    from wl.core.progress import say
    from wl.maps.dataset import find_sets
    from wl.maps.splits import DEFAULT_DATA, MapOptions
    from wl.posterior import infer
    from wl.posterior.options import Wanted
    from wl.simulate.simulate import locate
    from wl.summaries import predict
    from wl.summaries.options import NetworkOptions
    map_options, network = MapOptions.of(args), NetworkOptions.of(args, args.method)
    is_there = args.data == DEFAULT_DATA or os.path.isdir(args.data)
    if args.dry_run and is_there and not find_sets(args.data):
        print(api.rehearsed_set(args.data, args.realisations, args.threads))
        return None, None, None
    maps = locate(args)
    folder = cli.folder(args, f"{maps.name}_{'direct_' * (args.method == 'direct')}{network.model}")
    work = predict.prepare(maps, map_options, network, folder)
    wanted = Wanted(work.split.options.target, shard)
    infer.refuse_early(predict.settings_of(work), work.split.n_emulator, maps.theta, posterior,
                       folder, wanted)
    wanted.rows(work.split.inferred())
    if args.dry_run:
        print(api.rehearsed(work, posterior, wanted, args.threads))
        return None, folder, wanted
    say(maps.told(), args.quiet)
    args.data = str(maps.folder)                  # where the truth is now: data may have moved
    return predict.predict(work), folder, wanted


def given(args, posterior, shard) -> tuple:
    """As predicted(), from a finished predictions.h5 and the options that it was made with."""
    from wl.core.checks import InputError
    from wl.core.files import refuse_difference
    from wl.maps.dataset import open_set
    from wl.posterior import infer
    from wl.posterior.options import Wanted, read_predictions
    predictions = read_predictions(args.predictions, args.seed)
    made, design = predictions.settings, predictions.groups["constant_data"]["design"]
    wanted = Wanted.of(predictions, args.target, shard)
    if made["method"] == "given" and is_elsewhere(args):
        raise InputError(f"--data: {args.predictions} holds the cosmologies of its maps itself; "
                         "leave the option out")
    folder = cli.folder(args, f"{predictions.origin['name']}_{made['model']}")
    if is_elsewhere(args):
        refuse_difference(f"{args.predictions}: was made from other maps,", predictions.inputs,
                          folder.digests(open_set(args.data, made["release"],
                                                  args.test_maps).files),
                          "give the --data it was made from")
    n_emulator = infer.emulator_maps(predictions)[0].shape[1]
    infer.refuse_early(made, n_emulator, design, posterior, folder, wanted)
    if args.dry_run:
        print(api.rehearsed_file(predictions, args.predictions, posterior, wanted, folder,
                                 args.threads))
        return None, folder, wanted
    return predictions, folder, wanted


def applied(args, posterior, shard) -> tuple:
    """As predicted(), of the new maps of --maps by the networks of a finished run."""
    import dataclasses
    import pathlib
    from wl.core.checks import InputError
    from wl.posterior import infer
    from wl.posterior.options import Wanted
    if not args.maps or args.predictions is not None:
        raise InputError("--apply: expected --maps FILE with the new maps, and no --predictions")
    from wl.summaries import apply
    run = apply.open_run(args.apply)
    args.seed, wanted = run.seed, Wanted("test", shard)
    home = f"{pathlib.Path(args.apply).resolve().name}_on_{pathlib.Path(args.maps).stem}"
    folder = cli.folder(args, home)
    n_emulator = infer.emulator_maps(run)[0].shape[1]
    infer.refuse_early({**run.settings, "holdout_fraction": 0.0}, n_emulator,
                       run.groups["constant_data"]["design"], posterior, folder, wanted)
    if args.dry_run:
        print(api.rehearsed_file(run, args.maps, posterior, wanted, folder, args.threads, new=True))
        return None, folder, wanted
    # the check of a quadrature looks at the maps of all shards
    every = dataclasses.replace(wanted, shard=None) if posterior.sampler == "exact" else wanted
    return apply.apply(run, args.maps, every.rows, args.threads, args.quiet), folder, wanted


def is_elsewhere(args) -> bool:
    """Whether finished predictions are used with a data set that the user names."""
    from wl.maps.splits import DEFAULT_DATA
    return args.predictions is not None and args.data != DEFAULT_DATA


command = functools.partial(cli.run, main)            # wl-mcmc, when installed

if __name__ == "__main__":
    command()
