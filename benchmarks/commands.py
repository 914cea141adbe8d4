"""A variant as a command of run_mcmc.py or run_direct.py, and what tells its rows from those of others."""
import argparse
import contextlib
import functools
import json
import pathlib

from variants import SETS

from wl.core.checks import InputError

BASELINE = "statistics_mlp"       # no network on maps: has a training of its own, always the same


def command(args, spec, seed, epochs, out, rate=None):
    """The options of run_mcmc.py or run_direct.py that make a row. rate: in place of --learning-rate."""
    rate = args.learning_rate if rate is None else rate
    line = ["--data", args.data, "--out", str(out), "--target", "both", "--seed", str(seed),
            "--threads", str(args.threads), "--statistics-fraction", str(args.statistics_fraction),
            "--holdout-fraction", str(args.holdout_fraction), "--epochs", str(epochs), "--patience", "0",
            "--batch-size", str(args.batch_size), "--lanes", str(args.lanes),
            "--learning-rate", str(rate)] + ["--quiet"] * args.quiet
    if not spec["direct"]:
        line += ["--sampler", "exact"]
    line += ["--model", "statistics" if spec["model"] == BASELINE else spec["model"]]
    for word in spec["options"]:
        line.append(str(rate * float(word[1:])) if word[:1] == "x" and word[1:2].isdigit() else word)
    return line


def parsed(args, spec, *rest, **rate):
    """command() as the options of the script that it is for."""
    import run_direct
    import run_mcmc
    found = (run_direct if spec["direct"] else run_mcmc).parser().parse_args(command(args, spec, *rest, **rate))
    found.threads = args.threads
    return found


def identity(args, spec):
    """What makes a row but for its seed, as JSON: two variants of one identity are the same row."""
    from wl.summaries import pipeline
    if spec["model"] == BASELINE:
        found = {"model": BASELINE}
    else:
        options = parsed(args, spec, 1, args.epochs, "x")
        found = pipeline.training_settings(options, 1)
    if args.minutes is not None:
        found["epochs"] = None                       # follows from the budget
    return json.dumps({**found, "direct": spec["direct"], "data": str(pathlib.Path(args.data).resolve()),
                       "statistics_fraction": args.statistics_fraction, "holdout_fraction": args.holdout_fraction,
                       "minutes": args.minutes, "tune": args.tune}, sort_keys=True)


def folder_of(args, spec):
    """Folder of a variant's rows, named after the first variant of its identity."""
    return pathlib.Path(args.out) / _names(json.dumps(vars(args), sort_keys=True))[identity(args, spec)]


@functools.lru_cache(maxsize=1)
def _names(text):
    args, names = argparse.Namespace(**json.loads(text)), {}
    for _, variants in SETS.values():
        for name, spec in variants.items():
            with contextlib.suppress(InputError):          # one that so few epochs cannot hold is refused when used
                names.setdefault(identity(args, spec), f"{name.replace(', ', '-').replace(' ', '_')}_{budget(args)}")
    return names


def budget(args):
    """The budget of all networks, in names of files."""
    tuned = f"_tuned{args.tune}" if args.tune else ""
    return (f"{args.epochs}epochs" if args.minutes is None else f"{args.minutes:g}min") + tuned


def convolutions(spec):
    """The part of a variant's model that is a network on maps, with epochs and a rate; None without one."""
    return next((part for part in spec["model"].split("+") if part not in ("statistics", BASELINE)), None)
