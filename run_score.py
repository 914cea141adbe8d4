#!/usr/bin/env python3
"""Score posteriors against the truth that is known: table, coverage, score.json, submission zip."""
import json
import pathlib
import sys

from wl.core import cli
from wl.core.checks import InputError, within
from wl.core.progress import fail, say, warn
from wl.posterior.options import merge
from wl.scoring import export, figures, report, table
from wl.scoring.score import SCORE_FLOOR

DESCRIPTION = """\
Score one or more posterior.h5 files, whichever method made them.

The truth of the test maps is label_test.npy of the data set, that of the hold-out maps label.npy.
The public test set has no truth: its hold-out maps are scored instead. Printed are, best first, the
challenge's score with its bootstrap error, the mean squared error in units of the labels' variance,
R2, the share of truths within one and two error bars (68.3 and 95.4 % if the bars are right) and
the mean error bars; then all figures of each posterior, cosmologies on and off the design apart.
score.json is written beside each posterior.

examples:
  python run_score.py data/runs/*/posterior.h5
      one line a run, best score first, then the details of each
  python run_score.py data/runs/main/posterior.shard-*-of-4.h5 --merge data/runs/main/posterior.h5
      join the shards of one run, then score it
  python run_score.py data/runs/main/posterior.h5 --ood data/runs/other/posterior.h5
      how well chi2 tells the other maps from these: mean true-positive rate at false-positive
      rates 0.001-0.05
  python run_score.py data/runs/main/posterior.h5 --data data/public --submission data/main.zip
      score with the labels in another folder and write the challenge's zip
"""


def parser() -> cli.Parser:
    """The options of this script."""
    parser = cli.Parser(description=DESCRIPTION)
    add = parser.add_argument
    add("posterior", nargs="+", metavar="POSTERIOR", help="posterior.h5 files")
    add("--data", metavar="DIR",
        help="folder with the label files (default: the one that each posterior was made from)")
    add("--submission", metavar="FILE.zip",
        help="write the challenge's zip from the test maps of the one posterior given")
    add("--merge", metavar="FILE",
        help="join the shards given (of run_mcmc.py --shard) into FILE first, bit for bit what a "
             "run without shards writes, and score that")
    add("--allow-unconverged", action="store_true",
        help="with --merge: exit 0 even if the run has not converged (see run_mcmc.py --help)")
    add("--ood", metavar="FILE",
        help="out-of-distribution maps: a posterior.h5 of such, or .npy with a bool per test map "
             "of the one posterior given")
    add("--figure", metavar="FILE",
        help="draw truth against estimate and the coverage of the one posterior given (.png, .pdf "
             "or .svg; needs matplotlib)")
    add("--json", action="store_true",
        help="print the content of score.json as a list instead of the table")
    add("--bootstrap", type=int, default=1000, metavar="N",
        help="resamples of the maps for the errors")
    add("--floor", action="store_true",
        help=f"report no score below {SCORE_FLOOR:g}, as the organisers do")
    return cli.add_common(parser, threads=False)


def main(argv: list | None = None) -> None:
    """Parse, merge, submit, score, print. argv: list of str, None for the command line."""
    options = cli.parse(parser(), argv)
    within("--bootstrap", options.bootstrap, 1, 10**6)
    if options.merge is not None:
        merge(options.posterior, options.merge)
        say(f"{options.merge}: joined {len(options.posterior)} shards", options.quiet)
        options.posterior = [options.merge]
    for name in ("ood", "submission", "figure"):
        if getattr(options, name) is not None and len(options.posterior) != 1:
            raise InputError(f"--{name}: expected one posterior, got {len(options.posterior)}; "
                             "name one")
    if options.figure is not None:
        figures.check(options.figure)
    if options.submission is not None:
        if pathlib.Path(options.submission).suffix != ".zip":
            raise InputError("--submission: expected a name that ends in .zip, got "
                             f"{options.submission}")
        count = export.submit(options.posterior[0], options.submission)
        say(f"{options.submission}: {count} test maps to submit", options.quiet)
    results, failures = [], []
    for path in dict.fromkeys(options.posterior):
        try:
            result = report.score_posterior(
                path, options.data, bootstrap=options.bootstrap, seed=options.seed,
                floor=SCORE_FLOOR if options.floor else None)
        except InputError as error:            # the others are still scored
            failures.append(error)
            continue
        if options.ood is not None:
            result["out_of_distribution"] = report.out_of_distribution(path, options.ood)
        results.append(result)
        if options.figure is not None:
            title = f"score {result['score']:.2f}" if result["score"] is not None else ""
            figures.draw(options.figure, *report.scored_maps(path, options.data), title)
            say(f"{options.figure}: picture", options.quiet)
        try:
            report.save(result)
        except InputError as error:            # a colleague's folder: the table is still wanted
            warn(f"no score.json, {error}")
    if options.json:
        print(json.dumps(results, indent=1, sort_keys=True, allow_nan=False))
    elif results:
        if len(results) == 1:
            print(table.verdict(results[0]), end="\n\n")
        print(table.overview(results))
        for result in results:
            print("\n" + table.details(result))
    for error in failures[:-1]:
        fail(error, cli.EXIT_USAGE)
    if failures:
        sys.stdout.flush()
        raise failures[-1]
    if options.merge is not None:
        report.check_convergence(options.merge, options.allow_unconverged)


if __name__ == "__main__":
    cli.run(main)
