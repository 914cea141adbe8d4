#!/usr/bin/env python3
"""All networks, and the questions about their training, on the same maps, splits, loss and optimiser.

  python benchmarks/compare_networks.py --data data/large --sets designs --epochs 15 --seeds 1 2 3
  python benchmarks/compare_networks.py --data data/large --sets designs --minutes 20       # equal wall-clock
  python benchmarks/compare_networks.py --data data/large --sets batch precision noise head --epochs 15
  python benchmarks/compare_networks.py --list                                              # what there is

A row is one variant trained with one seed: the whole chain of run_mcmc.py with the quadrature posterior (of
run_direct.py where the variant says direct), with its files in OUT/NAME_BUDGET/seedN. A finished row is kept and
not trained again; a killed one goes on at its last epoch; several processes may share OUT with other --sets or
--seeds. The seed splits the realisations, draws the noise and starts the weights, the same for all variants: score
differences are taken seed by seed and map by map. --minutes gives each network the epochs that fit into so much
wall-clock, timed on this machine with nothing else running, else as many as --epochs. Everything learnt lands in
OUT/table_BUDGET.md and .json, the training curves in OUT/curves_BUDGET.png if matplotlib is there.
"""
import contextlib
import io
import json
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

from wl import cli  # noqa: E402
from wl.checks import InputError  # noqa: E402
from wl.models import MODELS  # noqa: E402


def variant(model, *options, direct=False):
    """A variant: its model, further options of run_mcmc.py or run_direct.py, and whether the latter infers."""
    return {"model": model, "options": options, "direct": direct}


def option(text):
    return ("--model-option", text)


# name of a set: what it asks, and its variants; the first is what the others are compared with
SETS = {
    "designs": ("every published design", {"compact": variant("compact"), "statistics_mlp": variant("statistics_mlp"),
                                           **{m: variant(m) for m in MODELS if m != "compact"}}),
    "direct": ("emulator and posterior, or the network's own error bars", {
        "compact": variant("compact"), "compact, kl direct": variant("compact", "--loss", "kl", direct=True),
        "simple_cnn, kl direct": variant("simple_cnn", "--loss", "kl", direct=True)}),
    "batch": ("batch 4, 16, 64; also with the learning rate as the root of the batch", {
        "simple_cnn, batch 16": variant("simple_cnn", "--batch-size", "16"),
        "simple_cnn, batch 4": variant("simple_cnn", "--batch-size", "4"),
        "simple_cnn, batch 64": variant("simple_cnn", "--batch-size", "64"),
        "simple_cnn, batch 4, half the rate": variant("simple_cnn", "--batch-size", "4", "--learning-rate", "x0.5"),
        "simple_cnn, batch 64, twice the rate": variant("simple_cnn", "--batch-size", "64", "--learning-rate", "x2")}),
    "precision": ("float64, float32, bfloat16", {
        f"{m}, {p}": variant(m, "--precision", p) for m in ("compact", "simple_cnn")
        for p in ("float32", "bfloat16", "float64")}),
    "attention": ("with and without attention", {
        "resnet_attention": variant("resnet_attention"),
        "resnet_attention, none": variant("resnet_attention", *option("attention=0")),
        "resnet_reduced": variant("resnet_reduced"),
        "resnet_reduced, none": variant("resnet_reduced", *option("attention=0")),
        "biggan_encoder": variant("biggan_encoder"),
        "biggan_encoder, none": variant("biggan_encoder", *option("attention=0")),
        "inception": variant("inception"),
        "inception, no squeeze": variant("inception", *option("squeeze=0"))}),
    "dropout": ("with and without dropout", {
        "simple_cnn": variant("simple_cnn"), "simple_cnn, none": variant("simple_cnn", *option("dropout=0,0")),
        "resnet_reduced": variant("resnet_reduced"),
        "resnet_reduced, none": variant("resnet_reduced", *option("dropout=0,0"))}),
    "depth": ("depth against width, about the same time a map", {
        "resnet_reduced": variant("resnet_reduced"),
        "resnet_reduced, 4 blocks": variant("resnet_reduced", *option("blocks=4")),
        "resnet_reduced, width 48, 96": variant("resnet_reduced", *option("widths=48,96"), *option("stem=48")),
        "resnet_reduced, 3 stages": variant("resnet_reduced", *option("widths=32,64,128")),
        "compact": variant("compact"),
        "compact, 6 layers": variant("compact", *option("widths=32,48,64,96,96,96")),
        "compact, twice as wide": variant("compact", *option("widths=64,96,128,192"))}),
    "head": ("flatten against global pooling", {
        "simple_cnn": variant("simple_cnn"),
        "simple_cnn, pooled": variant("simple_cnn", *option("head=pool"), "--pack", "no"),
        "simple_cnn, pooled, packed": variant("simple_cnn", *option("head=pool"))}),
    "noise": ("noise fixed against fresh", {
        f"{m}, {n}": variant(m, "--noise", n) for m in ("simple_cnn", "compact") for n in ("fresh", "fixed")}),
    "residual": ("residual connections in the simple network", {
        "simple_cnn": variant("simple_cnn"),
        **{f"simple_cnn, {n} residual": variant("simple_cnn_residual", *option(f"residual={n}")) for n in (1, 2)}}),
    "losses": ("the losses, direct", {
        f"compact, {loss} direct": variant("compact", "--loss", loss, *more, direct=True)
        for loss, more in (("kl", ()), ("score", ()), ("three_term", ()), ("beta_nll", ()))}
        | {"compact, score from -5 direct": variant("compact", "--loss", "score", "--loss-option", "start=-5",
                                                    direct=True)}),
    "ema": ("moving average of the weights", {
        "compact": variant("compact"), "compact, ema 0.99": variant("compact", "--ema", "0.99"),
        "compact, ema 0.998": variant("compact", "--ema", "0.998")}),
}


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
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="of all that do not say otherwise")
    parser.add_argument("--statistics-fraction", type=float, default=0.2, metavar="F", help="as in run_mcmc.py")
    parser.add_argument("--holdout-fraction", type=float, default=0.1, metavar="F",
                        help="realisations for the validation score")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--table", action="store_true", help="train nothing, make the table of what is there")
    parser.add_argument("--list", action="store_true", help="list the sets and their variants")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    if args.minutes is not None and not args.minutes > 0:
        parser.error(f"--minutes: expected a positive number, got {args.minutes}")
    args.threads = cli.thread_count(args.threads)
    return args


def chosen(args):
    """{name: variant} of the sets asked for; one that stands in several sets is one row."""
    found = {}
    for name in args.sets:
        found.update(SETS[name][1])
    unknown = set(args.variants or ()) - set(found)
    if unknown:
        raise InputError(f"--variants: expected some of {', '.join(found)}, got {', '.join(sorted(unknown))}")
    return {n: v for n, v in found.items() if args.variants is None or n in args.variants}


# ---------------------------------------------------------------- one row
def command(args, spec, seed, epochs, out):
    """The options of run_mcmc.py or run_direct.py that make a row."""
    line = ["--data", args.data, "--out", str(out), "--target", "both", "--seed", str(seed),
            "--threads", str(args.threads), "--statistics-fraction", str(args.statistics_fraction),
            "--holdout-fraction", str(args.holdout_fraction), "--epochs", str(epochs), "--patience", "0",
            "--batch-size", str(args.batch_size), "--learning-rate", str(args.learning_rate)] + ["--quiet"] * args.quiet
    if not spec["direct"]:
        line += ["--sampler", "exact"]
    if spec["model"] in MODELS:
        line += ["--model", spec["model"]]
    for word in spec["options"]:
        line.append(str(args.learning_rate * float(word[1:])) if word[:1] == "x" and word[1:2].isdigit() else word)
    return line


def make_row(args, name, spec, seed, folder):
    """Train, infer and score one variant with one seed; returns its figures, also in row.json."""
    import run_direct
    import run_mcmc
    from wl import inference, pipeline, report
    module, method = (run_direct, "direct") if spec["direct"] else (run_mcmc, "network")
    epochs = args.epochs if args.minutes is None else fitting_epochs(args, spec, seed, folder, module)
    parsed = module.parser().parse_args(command(args, spec, seed, epochs, folder))
    parsed.threads = args.threads
    run = pipeline.Run(parsed, method)
    if spec["model"] == "statistics_mlp":
        predictions, figures = hand_made(run)
    else:
        predictions = inference.predict(run)
        figures = trained(run)
    if spec["direct"]:
        posterior = inference.infer_direct(run, predictions, {"recalibrate": parsed.recalibrate})
    else:
        posterior = inference.infer(run, predictions, inference.settings_of(parsed))
    result = report.score_posterior(posterior, seed=seed)
    report.save(result)
    kept = ("n", "score", "score_error", "mse", "mse_mean", "coverage_68_mean", "coverage_95_mean")
    subsets = {key: {k: result["subsets"][key][k] for k in kept} for key in ("test", "holdout")}
    row = {"name": name, "seed": seed, "model": spec["model"], "options": list(spec["options"]), 
           "direct": spec["direct"], "epochs": len(figures["history"]), "batch_size": parsed.batch_size, **figures,
           "subsets": subsets, "settings": predictions.settings, "posterior": str(posterior)}
    (folder / "row.json").write_text(json.dumps(row, indent=1))
    return row


def trained(run):
    """Figures of a trained network from its file."""
    from wl import train
    from wl.networks import count_parameters
    network = train.Network.load(run.out / "model.pt")
    return {"parameters": count_parameters(network.net), "history": network.history, "seconds": sum(network.seconds),
            "n_train": run.n_train, "precision": network.settings["precision"]}


def hand_made(run):
    """The baseline on hand-made statistics: predictions.h5 of a run, and its figures."""
    import statistics_mlp
    path, figures = run.out / "figures.json", {}

    def predict(run, settings):
        predicted, found = statistics_mlp.predict(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        return predicted
    run.settings["model"] = "statistics_mlp"
    predictions = run.predictions({"statistics_fraction": run.args.statistics_fraction}, predict)
    figures = json.loads(path.read_text())
    return predictions, {**figures, "precision": "float32"}


def fitting_epochs(args, spec, seed, folder, module):
    """Epochs that fit into --minutes, from the time of 12 steps; settled once for all seeds of a variant."""
    note = folder.parent / "epochs.json"
    if note.exists():
        return json.loads(note.read_text())["epochs"]
    if spec["model"] == "statistics_mlp":
        return args.epochs
    import numpy as np

    from wl import ensemble, pipeline, train
    from wl.batches import Batches, Frame, rms
    parsed = module.parser().parse_args(command(args, spec, seed, 1, folder))
    parsed.threads = args.threads
    run = pipeline.Run(parsed, "direct" if spec["direct"] else "network")
    settings, s = pipeline.training_settings(parsed, run.n_train), run.set
    kappa, frame = s.kappa.reshape(-1, s.kappa.shape[-1]), Frame(s.mask, pack=pipeline.packs(settings))
    source = Batches(kappa, frame, scale=rms(kappa, s.n_gal), n_gal=s.n_gal, seed=seed)
    settings |= {"precision": train.pick_precision(parsed.precision), "seed": seed, "frame": list(frame.shape),
                 "label_mean": s.theta.mean(0).tolist(), "label_sd": s.theta.std(0).tolist()}
    times = []

    class Clock:
        note = ""

        def begin_at(self, done):
            pass

        def update(self, step=1):
            times.append(time.monotonic())
    rows = run.rows_of(ensemble.Job(run, 0).split() == 0)
    few = np.resize(rows, 16 * parsed.batch_size)
    train.train(source, s.label.reshape(-1, 5)[:, :2], few, rows[:2], settings, threads=args.threads, progress=Clock())
    step = (times[-1] - times[3]) / (len(times) - 4)
    epochs = max(1, int(60.0 * args.minutes / (step * max(1, len(rows) // parsed.batch_size))))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"epochs": epochs, "seconds_per_step": step, "minutes": args.minutes}))
    return epochs


# ---------------------------------------------------------------- the table
def map_scores(row):
    """Challenge score of each test map of a row, (n_test,)."""
    import h5py
    import numpy as np

    from wl.maps import TRUTH_FILE
    from wl.params import TEST
    from wl.score import challenge_score
    with h5py.File(row["posterior"]) as file:
        test = file["observed_data/split"][:] == TEST
        number = file["observed_data/realisation"][:][test]
        mean, sd = file["summary/mean"][:][test], file["summary/errorbar"][:][test]
    truth = np.load(pathlib.Path(row["settings"]["data"]) / TRUTH_FILE)[number, :2]
    return challenge_score(truth, mean, sd)


def summary(rows, names):
    """One dict per variant, means and spreads over its seeds; gain: score over the first variant, seed by seed."""
    import numpy as np
    scores = {(r["name"], r["seed"]): map_scores(r) for r in rows}
    out = []
    for name in names:
        mine = sorted((r for r in rows if r["name"] == name), key=lambda r: r["seed"])
        if not mine:
            continue
        each = {key: np.array([r["subsets"][key]["score"] for r in mine]) for key in ("test", "holdout")}
        first = mine[0]

        def mean_of(key):
            return float(np.mean([r["subsets"]["test"][key] for r in mine]))
        coverage = {level: mean_of(f"coverage_{level}_mean") for level in ("68", "95")}
        line = {"name": name, "parameters": first["parameters"], "epochs": first["epochs"],
                "ms_per_map": float(np.mean([1e3 * r["seconds"] / (r["n_train"] * r["epochs"]) for r in mine])),
                "minutes_per_epoch": float(np.mean([r["seconds"] / r["epochs"] / 60 for r in mine])),
                "seeds": [r["seed"] for r in mine], "validation": each["holdout"].tolist(),
                "test": each["test"].tolist(), "test_error": mean_of("score_error"), "mse": mean_of("mse_mean"),
                "coverage": coverage}
        common = [s for s in line["seeds"] if (names[0], s) in scores and name != names[0]]
        gains = np.array([np.mean(scores[name, s] - scores[names[0], s]) for s in common])
        if len(gains):
            noise = np.std(np.mean([scores[name, s] - scores[names[0], s] for s in common], 0), ddof=1)
            line["gain"] = {"over": names[0], "mean": float(gains.mean()), "seeds": gains.tolist(),
                            "map_error": float(noise / np.sqrt(len(scores[name, common[0]])))}
        out.append(line)
    return out


def spread(values):
    """Mean +- sd over the seeds; the mean alone of one."""
    import numpy as np
    text = f"{np.mean(values):.2f}"
    return text + (f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def markdown(lines, title):
    head = ["network", "parameters", "ms/map", "min/epoch", "epochs", "seeds", "validation score", "test score",
            "error", "MSE", "68 %", "95 %", "over the first"]
    table = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for s in lines:
        gain = "" if "gain" not in s else f"{spread(s['gain']['seeds'])} (maps: {s['gain']['map_error']:.2f})"
        inside = [f"{100 * s['coverage'][level]:.1f}" for level in ("68", "95")]
        table.append([s["name"], f"{s['parameters']:,}", f"{s['ms_per_map']:.1f}", f"{s['minutes_per_epoch']:.2f}",
                      str(s["epochs"]), str(len(s["seeds"])), spread(s["validation"]), spread(s["test"]),
                      f"{s['test_error']:.2f}", f"{s['mse']:.3f}", *inside, gain])
    return f"### {title}\n\n" + "\n".join("| " + " | ".join(r) + " |" for r in table) + "\n"


def curves(rows, path):
    """Validation loss against epochs and wall-clock, a line per row. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), sharey=True, layout="constrained")
    names = list(dict.fromkeys(r["name"] for r in rows))
    for r in rows:
        number = names.index(r["name"])
        epoch, valid = [h["epoch"] for h in r["history"]], [h["validation"] for h in r["history"]]
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "linewidth": 1.0}
        label = r["name"] if r is next(x for x in rows if x["name"] == r["name"]) else None
        axes[0].plot(epoch, valid, label=label, **style)
        axes[1].plot([e * r["seconds"] / r["epochs"] / 60 for e in epoch], valid, **style)
    for axis, text in zip(axes, ("epoch", "minutes of training")):
        axis.set(xlabel=text, yscale="log")
    axes[0].set_ylabel("validation loss")
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
    if argv is None:
        cli.prepare_process(args.threads, allocator=True)
    variants, out = chosen(args), pathlib.Path(args.out)
    budget = f"{args.epochs}epochs" if args.minutes is None else f"{args.minutes:g}min"
    rows = []
    for seed in args.seeds:                # a whole table of one seed first
        for name, spec in variants.items():
            folder = out / f"{name.replace(', ', '-').replace(' ', '_')}_{budget}" / f"seed{seed}"
            if (folder / "row.json").exists():
                rows.append(json.loads((folder / "row.json").read_text()))
            elif not args.table:
                cli.say(f"{name}, seed {seed}", args.quiet)
                with contextlib.redirect_stdout(io.StringIO()):
                    rows.append(make_row(args, name, spec, seed, folder))
    lines, text = {}, []
    for name in args.sets:
        names = [n for n in SETS[name][1] if n in variants]
        lines[name] = summary(rows, names)
        text.append(markdown(lines[name], f"{name}: {SETS[name][0]}, {budget}"))
    title = "_".join(args.sets)
    path = out / f"table_{title}_{budget}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text("\n".join(text))
    path.with_suffix(".json").write_text(json.dumps({"budget": budget, "data": args.data, "sets": lines}, indent=1))
    if rows and not curves(rows, out / f"curves_{title}_{budget}.png"):
        cli.say("no picture of the training curves: pip install matplotlib", args.quiet)
    print("\n".join(text), end="")


if __name__ == "__main__":
    cli.run(main)
