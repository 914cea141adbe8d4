#!/usr/bin/env python3
"""Score posteriors against the truth that is known: table, coverage, score.json, submission zip."""
import functools
import json
import pathlib
import sys

try:
    from wl.core import cli
    from wl.core.checks import InputError, choice, within
    from wl.core.progress import fail, say
    from wl.posterior.options import merge
    from wl.scoring import files, report, table
except ImportError as error:
    raise SystemExit(f"error: {error}; use the Python of a .venv as the README makes it") from None

DESCRIPTION = """\
Score one or more posterior.h5 files, whichever method made them.

The truth of the test maps is label_test.npy of the data set, that of the hold-out maps label.npy.
The public test set has no truth: its hold-out maps are scored instead. Printed are, best first, the
challenge's score with its bootstrap error, the mean squared error in units of the labels' variance
and the share of truths in the 68 and 95 % intervals; of one posterior a verdict in words, with
--details all figures, cosmologies on and off the design apart. Written beside it are score.json,
report.html (one page with all) and, with matplotlib, figures/; several give comparison.html in the
folder that holds them.

examples:
  python run_score.py data/runs/*/posterior.h5
      one line a run, best score first
  python run_score.py data/runs/main/posterior.shard-*-of-4.h5 --merge data/runs/main/posterior.h5
      join the shards of one run, then score it
  python run_score.py data/runs/main/posterior.h5 --ood data/runs/other/posterior.h5
      how well chi2 tells the other maps from these: mean true-positive rate at false-positive
      rates 0.001-0.05
  python run_score.py data/runs/main/posterior.h5 --data data/public --submission data/main.zip
      score with the labels in another folder and write the challenge's zip
  python run_score.py data/runs/main/posterior.h5 --export csv main.csv
      a table for other programs; getdist PREFIX and arviz FILE likewise
"""
MIN_BOOTSTRAP, MAX_BOOTSTRAP = 20, 100_000


def parser() -> cli.Parser:
    """The options of this script."""
    parser = cli.Parser(description=DESCRIPTION)
    add = parser.add_argument
    add("posterior", nargs="+", metavar="POSTERIOR", help="posterior.h5 files")
    add("--data", metavar="DIR",
        help="folder with the label files (default: the one that each posterior was made from)")
    add("--submission", metavar="FILE.zip",
        help="write the challenge's zip from the test maps of the one posterior given")
    add("--force", action="store_true", help="replace a --submission that has other contents")
    add("--export", nargs=2, action="append", metavar=("FORMAT", "FILE"),
        help="write the one posterior given, with the truth where it is known, for another tool: "
             "csv FILE, arviz FILE (netCDF), getdist PREFIX (chains of the maps that kept draws); "
             "may be given several times")
    add("--merge", metavar="FILE",
        help="join the shards given (of run_mcmc.py --shard) into FILE first, with the numbers of "
             "a run without shards, and score that")
    add("--allow-unconverged", action="store_true",
        help="with --merge: exit 0 even if the run has not converged (see run_mcmc.py --help)")
    add("--ood", metavar="FILE",
        help="say how well p_value_all, or chi2 without it, tells strange maps: a posterior.h5 of "
             "such maps, or .npy with a bool per test map of the one posterior given")
    cli.add_shown(parser)
    add("--json", action="store_true",
        help="print the content of score.json as a list instead of the table")
    add("--bootstrap", type=int, default=1000, metavar="N",
        help="resamples of the maps for the errors")
    return cli.add_common(parser, threads=False)


def of_run(path, args, data=None) -> None:
    """Score the posterior of a run and print the verdict.

    path: str or Path; args: the values of the run's command line
    data: str or Path, folder with the label files; None for the one it was made from
    """
    maps = files.open_maps(path, data)
    show([(maps, report.score_maps(maps, seed=args.seed))], args.figures, args.details)


def show(scored: list, figures: bool, details: bool, as_json: bool = False) -> None:
    """Write the files of each score, print the verdict of one, or the table of several.

    scored: pairs as report.publish() takes them
    figures, details, as_json: bools, values of options
    """
    written, results = report.publish(scored, figures), [result for _, result in scored]
    if as_json:
        return print(json.dumps(results, indent=1, sort_keys=True, allow_nan=False))
    print(table.verdict(results[0], written) if len(results) == 1 else table.overview(results))
    for result in results if details else ():
        print("\n" + table.details(result))
    for result in results:
        print(table.last_line(result))


def main(argv: list | None = None) -> None:
    """Parse, merge, submit, score, print. argv: list of str, None for the command line."""
    options = cli.parse(parser(), argv)
    within("--bootstrap", options.bootstrap, MIN_BOOTSTRAP, MAX_BOOTSTRAP)
    for one in options.export or ():
        choice("--export", one[0], files.FORMATS)
    if options.ood is not None and not pathlib.Path(options.ood).is_file():
        raise InputError(f"--ood: expected a file, got {options.ood}; check the path")
    if options.submission is not None and pathlib.Path(options.submission).suffix != ".zip":
        raise InputError(f"--submission: expected a name that ends in .zip, got "
                         f"{options.submission}")
    for name in ("ood", "submission", "export") if options.merge is None else ():
        if getattr(options, name) is not None and len(options.posterior) != 1:
            raise InputError(f"--{name}: expected one posterior, got {len(options.posterior)}; "
                             "name one")
    if options.merge is not None:
        merge(options.posterior, options.merge)
        say(f"{options.merge}: joined {len(options.posterior)} shards", options.quiet)
        options.posterior = [options.merge]
    scored, failures = [], []
    for path in dict.fromkeys(options.posterior):
        try:
            maps = files.open_maps(path, options.data)
            result = report.score_maps(maps, bootstrap=options.bootstrap, seed=options.seed)
        except InputError as error:            # the others are still scored
            failures.append(error)
            continue
        if options.ood is not None:
            result["out_of_distribution"] = report.out_of_distribution(path, options.ood)
        for one in options.export or ():
            files.check(maps, *one)
        scored.append((maps, result))
    if options.submission is not None:          # behind all that may be refused
        count = files.submit(options.posterior[0], options.submission, options.force)
        say(f"{options.submission}: {count} test maps to submit", options.quiet)
    for maps, one in [(maps, one) for maps, _ in scored for one in options.export or ()]:
        for name in files.export(maps, *one):
            say(f"{name}: written", options.quiet)
    if scored:
        show(scored, options.figures, options.details, options.json)
    elif options.json:
        print("[]")
    for error in failures[:-1]:
        fail(error, cli.EXIT_USAGE)
    if failures:
        sys.stdout.flush()
        raise failures[-1]
    if options.merge is not None:
        report.check_convergence(options.merge, options.allow_unconverged)


command = functools.partial(cli.run, main)            # wl-score, when installed

if __name__ == "__main__":
    command()
