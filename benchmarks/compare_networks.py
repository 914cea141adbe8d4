#!/usr/bin/env python3
"""All networks, and one question each about their training, on the same maps and splits.

  python benchmarks/compare_networks.py --data data/large --sets designs --seeds 1 2 3
  python benchmarks/compare_networks.py --data data/large --sets batch precision noise head
  python benchmarks/compare_networks.py --data data/large --sets designs --table
  python benchmarks/compare_networks.py --data data/large -- --batch-size 16 --views 1
  python benchmarks/compare_networks.py --list

A row is one variant trained with one seed: a run of run_mcmc.py with the quadrature posterior, or
of run_direct.py where the variant says direct, in OUT/VARIANT/seedN. The scripts do the rest: they
repeat no finished stage, go on with a killed training, and refuse a folder of other settings. The
seed splits the realisations, draws the noise and starts the weights, the same for all variants:
gains are taken seed by seed and map by map. A batch is trained in one lane and on one thread, so
that batch norm sees the whole of it, as published: start one process per core, with other --seeds
and the same OUT, then give --table. Options behind "--" go to every row. Times are of trainings
alone. OUT/table_SETS.md holds the table too, OUT/curves_SETS.png the curves. The last line holds
the test MSE of the first set's best variant by validation score, and of what it is compared with.
"""
import itertools
import json
import pathlib
import subprocess
import sys
from collections import namedtuple

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from variants import SETS  # noqa: E402

from wl.core import cli  # noqa: E402
from wl.core.checks import InputError, RunError  # noqa: E402
from wl.core.progress import say  # noqa: E402
from wl.core.files import refuse_difference  # noqa: E402

OF_ALL = ("--target", "both", "--emulator-fraction", "0.2", "--holdout-fraction", "0.1",
          "--patience", "0", "--lanes", "1")
HEAD = ("network", "parameters", "rate", "epochs", "ms/map", "min/epoch", "seeds", "loss",
        "validation score", "test score", "error", "MSE", "68 %", "95 %", "gain")

Row = namedtuple("Row", "name seed score each parameters n_train seconds history")
Row.__doc__ = """A variant trained with one seed: score.json; score of each test map, (n_test,);
maps that it learnt from; seconds of all its trainings; history of the first of its networks."""


def arguments(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--data", default="data/large", metavar="DIR", help="data set with truth of its test maps")
    add("--out", default="data/compare", metavar="DIR", help="folder of the rows and the table")
    add("--sets", nargs="+", default=["designs"], choices=tuple(SETS), metavar="SET",
        help="one or more of " + ", ".join(SETS))
    add("--variants", nargs="+", default=None, metavar="NAME", help="only these of the sets")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="a row for each")
    add("--epochs", type=int, default=10, metavar="N", help="of every network")
    add("--learning-rate", type=float, default=4e-3, metavar="X", help="peak, for all")
    add("--threads", type=int, default=1, metavar="N", help="of a row; training uses one a lane")
    add("--table", action="store_true", help="train nothing, make the table of finished rows")
    add("--list", action="store_true", help="list the sets and their variants")
    add("--quiet", action="store_true", help="no progress")
    add("rest", nargs="*", metavar="-- OPTION", help="of run_mcmc.py and run_direct.py, for all")
    args = parser.parse_args(argv)
    args.data, args.out = pathlib.Path(args.data).resolve(), pathlib.Path(args.out).resolve()
    return args


def chosen(args):
    """{set: {name: variant}} of the sets and variants asked for. Raises InputError."""
    names = {n for s in args.sets for n in SETS[s][1]}
    wanted = set(args.variants or names)
    if wanted - names:
        raise InputError(f"--variants: expected some of {', '.join(sorted(names))}, "
                         f"got {', '.join(sorted(wanted - names))}")
    return {s: {n: v for n, v in SETS[s][1].items() if n in wanted} for s in args.sets}


def command(args, spec, seed, folder):
    """The script of a row and its options, strs; those of the variant come last and win."""
    script = ["run_direct.py"] if spec["direct"] else [
        "run_mcmc.py", "--sampler", "exact", "--allow-unconverged"]
    rate = args.learning_rate
    asked = {"data": args.data, "out": folder, "seed": seed, "threads": args.threads,
             "epochs": args.epochs, "learning-rate": rate, "model": spec["model"]}
    own = [str(rate * float(w[1:])) if w in ("x0.5", "x2") else w for w in spec["options"]]
    return [*script, *OF_ALL, *(str(w) for k, v in asked.items() for w in ("--" + k, v)),
            *["--quiet"] * args.quiet, *args.rest, *own]


def make_row(args, name, spec, seed, folder):
    """Train, infer and score one variant with one seed. Raises InputError or RunError."""
    say(f"{name}, seed {seed}", args.quiet)
    args.out.mkdir(parents=True, exist_ok=True)
    script, *options = command(args, spec, seed, folder)
    # OUT has no data/runs, from which the scripts would take a network trained before
    code = subprocess.run([sys.executable, str(ROOT / script), *options], cwd=args.out,
                          stdout=subprocess.DEVNULL).returncode
    if code:
        raise (InputError if code == cli.EXIT_USAGE else RunError)(
            f"{name}, seed {seed}: {script} ended with {code}; its message stands above")


def read_row(name, seed, folder):
    """A Row from its files, None where it is not finished. Raises InputError."""
    if not (folder / "score.json").exists():
        return None
    from wl.core import params
    from wl.maps.dataset import read_truth
    from wl.scoring import files, score
    from wl.summaries import dense, network
    maps = files.read_maps(folder / "posterior.h5")
    file, test = maps.file, np.flatnonzero(maps.split == params.TEST)
    truth = read_truth(file.origin["data"])[maps.realisation[test], :2]
    answers = (maps.summary[key][test] for key in ("posterior_mean", maps.bars))
    alone = file.settings["model"] == "statistics"
    nets = [(dense.Dense if alone or "statistics" in path.stem else network.Network).load(path)
            for path in sorted(folder.glob("model*.pt"))]   # model_compact before model_statistics
    passes = np.cumsum([h.get("passes", 1) for h in nets[0].history])          # of each schedule
    per_cosmology = nets[0].recipe.split.count(params.TRAIN)
    return Row(name, seed, json.loads((folder / "score.json").read_text()),
               score.challenge_score(truth, *answers),
               sum(p.numel() for n in nets for p in n.net.parameters()),
               per_cosmology * len(file.groups["constant_data"]["design"]),
               sum(sum(n.seconds) for n in nets),
               [{**h, "epoch": int(n)} for n, h in zip(passes, nets[0].history)])


def gain(mine, others):
    """Mean score over another variant's rows, its error by seed and by map, or None."""
    over = {r.seed: r.each for r in others}
    found = [r.each - over[r.seed] for r in mine if r.seed in over]
    if not found:
        return None
    seeds, maps = np.mean(found, 1), np.mean(found, 0)
    by_seed, by_map = (v.std(ddof=1) / len(v)**0.5 if len(v) > 1 else None for v in (seeds, maps))
    return seeds.mean(), by_seed, by_map


def of(rows, subset, key):
    """A figure of score.json for each row, (n_row,)."""
    return np.array([r.score["subsets"][subset][key] for r in rows])


def spread(values, digits=2):
    """Mean +- sd over the seeds; the mean alone of one."""
    text = f"{np.mean(values):.{digits}f}"
    return text + (f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def cells(mine, gained, over):
    """The cells of a variant. mine: its rows; gained: gain() over another."""
    settings, epochs = mine[0].score["settings"], mine[0].history[-1]["epoch"]
    rate = "" if settings["model"] == "statistics" else f"{settings['learning_rate']:g}"
    seconds = np.mean([r.seconds / r.history[-1]["epoch"] for r in mine])
    inside = [f"{100 * of(mine, 'test', f'coverage_{p}_mean').mean():.1f}" for p in ("68", "95")]
    mean, *errors = gained or (None, None, None)
    by_seed, by_map = ("" if e is None else f"{e:.2f}" for e in errors)
    text = f"{mean:+.2f}{by_seed and ' +- '}{by_seed} (maps {by_map}) over {over}" if gained else ""
    return [mine[0].name, f"{mine[0].parameters:,}", rate, str(epochs),
            f"{1e3 * seconds / mine[0].n_train:.1f}", f"{seconds / 60:.2f}", str(len(mine)),
            spread([min(h["validation"] for h in r.history) for r in mine], 4),
            spread(of(mine, "holdout", "score")), spread(of(mine, "test", "score")),
            f"{of(mine, 'test', 'score_error').mean():.2f}",
            f"{of(mine, 'test', 'mse_mean').mean():.3f}", *inside, text]


def table(rows, variants, title):
    """A set's rows in Markdown: +- of scores is their sd over the seeds, of gains the error."""
    lines, first = [HEAD, ("---", *["---:"] * (len(HEAD) - 2), "---")], next(iter(variants))
    for name, spec in variants.items():
        mine, over = [r for r in rows if r.name == name], spec.get("over", first)
        if mine:
            lines.append(cells(mine, gain(mine, [r for r in rows if r.name == over != name]), over))
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"### {title}, {len(rows[0].each)} test maps\n\n{text}"


def last_line(rows, sets):
    """Mean squared errors of the best variant by validation score, and of its reference."""
    variants = next(v for v in sets.values() if {r.name for r in rows} & set(v))
    by = {n: [r for r in rows if r.name == n] for n in variants if n in {r.name for r in rows}}
    best = max(by, key=lambda name: of(by[name], "holdout", "score").mean())
    over = variants[best].get("over", next(iter(by)))
    ours, reference = (of(by.get(n, by[best]), "test", "mse_mean").mean() for n in (best, over))
    ratio = f"ratio={reference / ours:.2f} ours={ours:.4g} reference={reference:.4g}"
    return f"compare_networks {ratio} n={len(by[best])}"


def training_curves(path, rows):
    """Draw validation loss against epochs and minutes, a line a row. False without matplotlib."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return False
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), sharey=True, layout="constrained")
    names = [r.name for r in rows]
    for i, r in enumerate(rows):
        k, first = list(dict.fromkeys(names)).index(r.name), names.index(r.name) == i
        epoch, loss = ([h[key] for h in r.history] for key in ("epoch", "validation"))
        style = {"color": f"C{k % 10}", "linestyle": ("-", "--", ":")[k // 10 % 3], "linewidth": 1}
        axes[0].plot(epoch, loss, label=r.name if first else None, **style)
        axes[1].plot([e * r.seconds / epoch[-1] / 60 for e in epoch], loss, **style)
    logarithmic = all(h["validation"] > 0 for r in rows for h in r.history)   # not of error bars
    for axis, text in zip(axes, ("epoch", "minutes of training")):
        axis.set(xlabel=text, ylabel="validation loss", yscale="log" if logarithmic else "linear")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def main(argv=None):
    args = arguments(argv)
    if args.list:
        for name, (question, variants) in SETS.items():
            print(f"{name}: {question}\n  " + "; ".join(variants))
        return
    sets, rows, name = chosen(args), [], "_".join(args.sets)
    if not args.table:
        from wl.maps.dataset import open_set
        if not open_set(args.data).has_truth:
            raise InputError(f"--data {args.data}: expected test maps with a truth, to score the "
                             "networks on; give another set, e.g. one that wl.simulate makes")
    for seed in args.seeds:                          # a whole table of one seed first
        for n, spec in {n: spec for v in sets.values() for n, spec in v.items()}.items():
            folder = args.out / n.replace(", ", "-").replace(" ", "_") / f"seed{seed}"
            if not args.table:
                make_row(args, n, spec, seed, folder)
            rows.append(read_row(n, seed, folder))
    rows = [r for r in rows if r is not None]
    for a, b in itertools.combinations(rows, 2):     # --table reads whatever stands in OUT
        if a.name == b.name:
            refuse_difference(f"{a.name}, seed {a.seed}: was made with", a.score["settings"],
                              b.score["settings"], "train one of them anew", f"seed {b.seed}")
    if len({r.score["truth"]["label_test"] for r in rows}) != 1:
        raise InputError(f"{args.out}: expected finished rows of one data set, found none or rows "
                         "of several; leave out --table, or give another --out for each set")
    text = "\n".join(table(rows, v, f"{s}: {SETS[s][0]}") for s, v in sets.items())
    (args.out / f"table_{name}.md").write_text(text)
    if not training_curves(args.out / f"curves_{name}.png", rows):
        say("no picture of the training curves: pip install matplotlib", args.quiet)
    print(text + "\n" + last_line(rows, sets))


if __name__ == "__main__":
    cli.run(main)
