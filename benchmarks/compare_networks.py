#!/usr/bin/env python3
"""All networks, and the questions about their training, on the same maps, splits, loss and optimiser.

  python benchmarks/compare_networks.py --data data/large --sets designs --epochs 15 --tune 3 --seeds 1 2 3
  python benchmarks/compare_networks.py --data data/large --sets designs --minutes 20       # equal wall-clock
  python benchmarks/compare_networks.py --data data/large --sets batch precision noise head --epochs 15
  python benchmarks/compare_networks.py --list                                              # what there is

A row is one variant trained with one seed: the whole chain of run_mcmc.py with the quadrature posterior (of
run_direct.py where the variant says direct), with its files in OUT/NAME_BUDGET/seedN. A finished row is kept and
not trained again, and refused where it was made with other settings; variants that come to the same command are
one row; a killed row goes on at its last epoch. The seed splits the realisations, draws the noise and starts the
weights, the same for all variants: score differences are taken seed by seed and map by map, over the variant that
the table names.

A batch is trained in one lane and on one thread, so that batch norm sees the whole of it, as it does in the
published designs: start one process per core with other --seeds or --sets and the same OUT. --minutes gives each
network the epochs that fit into so much wall-clock, timed on this machine with the same number of such processes
running, else as many as --epochs; a part on hand-made statistics takes what it takes. --tune gives each network its
own learning rate: the best validation loss after N epochs of --learning-rate times 0.1, 0.3, 1, 2 and 4, with seed 0.
Everything learnt lands in OUT/table_SETS_BUDGET.md and .json, the training curves in OUT/curves_SETS_BUDGET.png if
matplotlib is there.
"""
import json
import pathlib
import sys

import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import comparison_table  # noqa: E402
from budgets import feature_seconds, fitting_epochs, tuned_rate  # noqa: E402
from commands import BASELINE, budget, convolutions, folder_of, identity, parsed  # noqa: E402
from variants import SETS  # noqa: E402

from wl.core import cli
from wl.validate import figures  # noqa: E402
from wl.core.checks import InputError  # noqa: E402
from wl.core.files import refuse_difference  # noqa: E402
from wl.core.progress import say


def arguments(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--data", default="data", metavar="DIR",
                        help="folder of the data set, whose test maps need a truth")
    parser.add_argument("--out", default="data/compare", metavar="DIR", help="folder of the rows and the table")
    parser.add_argument("--sets", nargs="+", default=["designs"], choices=tuple(SETS), metavar="SET",
                        help="one or more of " + ", ".join(SETS))
    parser.add_argument("--variants", nargs="+", default=None, metavar="NAME", help="only these of the sets' variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="one row for each")
    parser.add_argument("--epochs", type=int, default=15, metavar="N", help="of every network")
    parser.add_argument("--minutes", type=float, default=None, metavar="X",
                        help="wall-clock for the training of each network, in place of --epochs")
    parser.add_argument("--learning-rate", type=float, default=2e-3, metavar="X", help="peak, for all")
    parser.add_argument("--tune", type=int, default=0, metavar="N",
                        help="epochs of the trainings that choose each network's own rate; 0: --learning-rate for all")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="of all that do not say otherwise")
    parser.add_argument("--lanes", type=int, default=1, metavar="N",
                        help="parts of a batch trained side by side, each with a batch norm of its own")
    parser.add_argument("--statistics-fraction", type=float, default=0.2, metavar="F", help="as in run_mcmc.py")
    parser.add_argument("--holdout-fraction", type=float, default=0.1, metavar="F",
                        help="realisations for the validation score")
    parser.add_argument("--threads", type=int, default=None, metavar="N",
                        help="CPU threads; more than lanes are idle in training (default: --lanes)")
    parser.add_argument("--table", action="store_true", help="train nothing, make the table of what is there")
    parser.add_argument("--list", action="store_true", help="list the sets and their variants")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    if args.minutes is not None and not args.minutes > 0:
        parser.error(f"--minutes: expected a positive number, got {args.minutes}")
    if args.tune < 0:
        parser.error(f"--tune: expected 0 or more epochs, got {args.tune}")
    args.threads = cli.thread_count(args.lanes if args.threads is None else args.threads)
    return args


def chosen(args):
    """{set: {name: variant}} of the sets and variants asked for."""
    names = {n for s in args.sets for n in SETS[s][1]}
    unknown = set(args.variants or ()) - names
    if unknown:
        raise InputError(f"--variants: expected some of {', '.join(sorted(names))}, got {', '.join(sorted(unknown))}")
    return {s: {n: v for n, v in SETS[s][1].items() if args.variants is None or n in args.variants} for s in args.sets}


def make_row(args, name, spec, seed, folder):
    """Train, infer and score one variant with one seed; returns its figures, also in row.json."""
    from wl.posterior import infer
    from wl.summaries import pipeline, prediction
    from wl.scoring import report
    epochs, rate = args.epochs, None
    if convolutions(spec):
        rate = tuned_rate(args, spec, folder) if args.tune else None
        epochs = epochs if args.minutes is None else fitting_epochs(args, spec, seed, folder)
    options = parsed(args, spec, seed, epochs, folder, rate=rate)
    run = pipeline.Run(options, "direct" if spec["direct"] else "network")
    run.home = run.out                       # each network is trained here, whatever an earlier run has made
    if not run.set.has_truth:
        raise InputError(f"--data {args.data}: expected test maps with a truth, to score the networks on; give another "
                         "set, e.g. one that wl.simulate makes")
    if spec["model"] == BASELINE:
        predictions, found = hand_made(run)
    else:
        measured = feature_seconds(run, folder) if "statistics" in run.parts else 0.0
        predictions = prediction.predict(run)
        found = trained(run, measured)
    posterior = infer.infer(run, predictions, infer.settings_of(options))
    result = report.score_posterior(posterior, seed=seed)
    report.save(result)
    kept = ("n", "score", "score_error", "mse", "mse_mean", "coverage_68_mean", "coverage_95_mean")
    subsets = {key: {k: result["subsets"][key][k] for k in kept} for key in ("test", "holdout")}
    row = {"name": name, "seed": seed, "epochs": found["history"][-1]["epoch"], "batch_size": options.batch_size,
           "learning_rate": options.learning_rate if convolutions(spec) else None, **found, "subsets": subsets,
           "identity": json.loads(identity(args, spec)), "settings": predictions.settings, "posterior": str(posterior)}
    (folder / "row.json").write_text(json.dumps(row, indent=1))
    return row


def row_there(args, spec, folder):
    """The finished row of a folder, or None. Raises InputError for one of other settings."""
    if not (folder / "row.json").exists():
        return None
    row = json.loads((folder / "row.json").read_text())
    refuse_difference(f"{folder}: was made with", row.get("identity", {}), json.loads(identity(args, spec)),
                      "give another --out")
    return row


def trained(run, measured):
    """Figures of a trained model from its files. measured: seconds that measuring its statistics took."""
    from wl.summaries.job import Job, count
    from wl.summaries.architectures import count_parameters
    jobs = (Job(run, i) for i in range(count(run)))
    nets = {job.part: job.kind.load(job.model) for job in jobs}
    main = next((n for part, n in nets.items() if part != "statistics"), nets.get("statistics"))
    passes = np.cumsum([h.get("passes", 1) for h in main.history]).tolist()        # schedules start anew
    history = [{**h, "epoch": n} for n, h in zip(passes, main.history)]
    return {"parameters": sum(count_parameters(n.net) for n in nets.values()), "history": history,
            "seconds": measured + sum(sum(n.seconds) for n in nets.values()), "n_train": run.n_train,
            "precision": getattr(main.recipe, "precision", "float32")}


def hand_made(run):
    """The baseline on hand-made statistics: predictions.h5 of a run, and its figures."""
    import statistics_mlp
    path = run.out / "figures.json"

    def predict(run, settings):
        predicted, found = statistics_mlp.predict(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        return predicted
    run.settings["model"] = BASELINE
    predictions = run.predictions({"statistics_fraction": run.args.statistics_fraction}, predict)
    return predictions, {**json.loads(path.read_text()), "precision": "float32"}


def main(argv=None):
    args = arguments(argv)
    if args.list:
        for name, (question, variants) in SETS.items():
            print(f"{name}: {question}\n  " + "; ".join(variants))
        return
    if argv is None:
        cli.prepare_process(args.threads, allocator=True)
    sets, out, rows = chosen(args), pathlib.Path(args.out), {}
    for seed in args.seeds:                # a whole table of one seed first
        for name, spec in {n: v for variants in sets.values() for n, v in variants.items()}.items():
            folder = folder_of(args, spec) / f"seed{seed}"
            row = row_there(args, spec, folder)
            if row is None and not args.table:
                say(f"{name}, seed {seed}", args.quiet)
                row = make_row(args, name, spec, seed, folder)
            if row is not None:
                rows[name, seed] = {**row, "name": name}
    rows, lines, text = list(rows.values()), {}, []
    for name, variants in sets.items():
        lines[name] = comparison_table.summary(rows, variants)
        text.append(comparison_table.markdown(lines[name], f"{name}: {SETS[name][0]}, {budget(args)}"))
    title = f"{'_'.join(args.sets)}_{budget(args)}"
    path = out / f"table_{title}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".md").write_text("\n".join(text))
    path.with_name(path.name + ".json").write_text(
        json.dumps({"budget": budget(args), "data": args.data, "sets": lines}, indent=1))
    if rows:
        try:
            figures.training_curves(out / f"curves_{title}.png", rows)
        except InputError:
            say("no picture of the training curves: pip install matplotlib", args.quiet)
    print("\n".join(text), end="")


if __name__ == "__main__":
    cli.run(main)
