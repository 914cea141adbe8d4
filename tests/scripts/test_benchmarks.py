"""The benchmarks of training: tables from small runs that are not repeated, and the baseline they hold up."""
import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT, one_line
from test_ensemble import data  # noqa: F401
from torch import nn

sys.path.insert(0, str(ROOT / "benchmarks"))
import budgets  # noqa: E402
import commands  # noqa: E402
import compare_networks as compare  # noqa: E402
import comparison_table  # noqa: E402
import statistics_mlp  # noqa: E402
from variants import SETS, variant  # noqa: E402
from wl.validate import figures
from wl.summaries import options as models, pipeline, training  # noqa: E402
from wl.core.checks import InputError, RunError  # noqa: E402
from wl.summaries.dense import Dense  # noqa: E402
from wl.summaries.losses import Loss  # noqa: E402
from wl.summaries.architectures import build, count_parameters  # noqa: E402
from wl.core.params import HOLDOUT, STATISTICS, TEST  # noqa: E402


def cost(spec, frame=(1840, 104)):
    """Multiplications of the convolutions of one map."""
    options = pipeline.options("", [o for o in spec["options"] if "=" in o], models.MODELS[spec["model"]])
    total = []

    def count(module, given, out):
        if isinstance(module, nn.Conv2d):
            total.append(out.numel() * module.weight[0].numel())
    with torch.device("meta"):
        net = build(spec["model"], frame, 2, **options).eval()
        for module in net.modules():
            module.register_forward_hook(count)
        net(torch.zeros(1, 1, *frame))
    return sum(total)


def test_every_variant_is_a_command_of_the_scripts():
    args = compare.arguments(["--seeds", "1", "--learning-rate", "0.004"])
    rates = set()
    for question, variants in SETS.values():
        assert question and len(variants) > 1
        first = next(iter(variants))
        for name, spec in variants.items():
            over = variants[spec.get("over", first)]
            assert "over" not in over and (name == spec.get("over", first)) == (over is spec), name
            parsed = commands.parsed(args, spec, 1, 9, "x")
            rates.add(parsed.learning_rate)
            assert parsed.lanes == 1 or "lanes" in name
            if commands.convolutions(spec) is None:
                continue
            settings = pipeline.training_settings(parsed, 100)
            part = pipeline.of_part(settings, commands.convolutions(spec))
            build(part["model"], (128, 96), Loss(settings["loss"]).n_out, **part["model_options"])
            assert (parsed.loss == "mse") != spec["direct"], name
            other = pipeline.training_settings(commands.parsed(args, over, 1, 9, "x"), 100)
            if "over" in spec:                                  # one question at a time, and the rate that goes with it
                settings["views"], other["views"] = parsed.views, commands.parsed(args, over, 1, 9, "x").views
                changed = {k for k in settings if settings[k] != other[k]}
                assert 1 <= len(changed - {"learning_rate"}) <= 1 + ("pooled" in name), name
    assert rates == {0.004, 0.002, 0.008}
    designs = {spec["model"] for spec in SETS["designs"][1].values()}
    assert designs == set(models.MODELS) | {"statistics_mlp", models.DEFAULT_MODEL}


def test_the_users_questions_are_asked():
    args = compare.arguments([])
    asked = {s: [pipeline.training_settings(commands.parsed(args, v, 1, 9, "x"), 100) for v in variants.values()]
             for s, (_, variants) in SETS.items() if s != "designs"}

    def values(name, key, model):
        return {str(s["model_options"].get(key, s.get(key))) for s in asked[name] if s["model"] == model}
    for model in ("simple_cnn", "resnet_reduced"):
        assert values("batch", "batch_size", model) == {"4", "16", "32", "64"}
    assert values("precision", "precision", "simple_cnn") == {"float32", "float64", "bfloat16"}
    assert values("attention", "attention", "resnet_attention") == {"0", "4"}
    assert values("dropout", "dropout", "resnet_attention") == {"[0.3, 0.2]", "[0.0, 0.0]"}
    assert values("head", "head", "simple_cnn") == {"flatten", "pool"}
    assert values("noise", "noise", "compact") == values("noise", "noise", "simple_cnn") == {"fixed", "fresh"}


@pytest.mark.parametrize("model", ["resnet_reduced", "compact"])
def test_depth_against_width_at_the_same_work(model):
    base, deep, wide = (SETS["depth"][1][f"{model}{end}"] for end in ("", ", deep", ", wide"))
    assert cost(deep) > 1.2 * cost(base) and cost(deep) == pytest.approx(cost(wide), rel=0.05)


@pytest.fixture()
def small(data, tmp_path):  # noqa: F811
    out = tmp_path / "compare"
    return ["--data", str(data), "--out", str(out), "--statistics-fraction", "0.4", "--holdout-fraction", "0.2",
            "--epochs", "2", "--batch-size", "8", "--threads", "2", "--quiet"], out


def test_a_table_of_rows_that_are_not_repeated(small, capsys, monkeypatch):
    options, out = small
    options += ["--sets", "noise", "precision", "--variants", "compact", "compact, fixed noise", "compact, float32"]
    compare.main([*options, "--seeds", "1", "2"])
    text = capsys.readouterr().out
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| compact")]
    assert [r[1].strip() for r in rows] == ["compact", "compact, fixed noise", "compact, float32"]
    assert all(r[7].strip() == "2" for r in rows) and "5 test maps" in text
    table = json.loads((out / "table_noise_precision_2epochs.json").read_text())["sets"]
    first, second = table["noise"]
    assert (out / "table_noise_precision_2epochs.md").read_text() == text
    assert first["seeds"] == [1, 2] and len(first["test"]) == 2 and "gain" not in first
    assert np.allclose(second["gain"]["seeds"], np.subtract(second["test"], first["test"]), atol=1e-6)
    assert first["parameters"] == count_parameters(build("compact", (64, 48), 2)) and first["epochs"] == 2
    same = models.pick_precision() == "float32"                   # then compact and compact, float32 are one row
    assert len(list(out.glob("*/*/row.json"))) == (4 if same else 6)
    for path in out.glob("*/*/row.json"):
        found = json.loads(path.read_text())
        assert len(found["history"]) == 2 and found["seconds"] > 0 and {"test", "holdout"} == set(found["subsets"])
        assert found["settings"]["noise"] == ("fixed" if "fixed" in found["name"] else "fresh")
        assert found["settings"]["lanes"] == 1
    scores = json.loads((out / "compact_2epochs/seed1/score.json").read_text())["subsets"]
    assert first["test"][0] == scores["test"]["score"] and first["validation"][0] == scores["holdout"]["score"]
    assert len(list(out.glob("curves_noise_precision_2epochs.png"))) == ("matplotlib" in sys.modules)

    def never(*args, **options):
        raise AssertionError("trained again")
    monkeypatch.setattr(training, "train", never)
    compare.main([*options, "--seeds", "1", "2"])
    assert capsys.readouterr().out == text
    compare.main([*options, "--seeds", "1", "2", "3", "--table"])
    assert capsys.readouterr().out == text
    for change in (["--learning-rate", "0.001"], ["--batch-size", "4"], ["--statistics-fraction", "0.3"]):
        with pytest.raises(InputError) as error:
            compare.main([*options, *change, "--seeds", "1"])
        one_line(error, change[0][2:].replace("-", "_"), "give another --out")


def test_gains_are_over_the_variant_that_the_set_names(monkeypatch):
    """Seed by seed and map by map; a seed that only one of the two has is left out."""
    rng, rows = np.random.default_rng(1), []
    each = {(n, s): rng.normal(size=50) for n in ("a", "a, b", "c", "c, d") for s in (1, 2, 3)}
    for (name, seed), value in each.items():
        found = {"n": 50, "score": value.mean(), "score_error": 0.1, "mse_mean": 0.2, "coverage_68_mean": 0.7,
                 "coverage_95_mean": 0.9}
        if (name, seed) != ("c", 2):
            rows.append({"name": name, "seed": seed, "parameters": 7, "epochs": 2, "history": [1, 2], "seconds": 6.0,
                         "n_train": 100, "precision": "float32", "learning_rate": 1e-3,
                         "subsets": {"test": found, "holdout": found}})
    monkeypatch.setattr(comparison_table, "map_scores", lambda row: each[row["name"], row["seed"]])
    variants = {"a": variant("x"), "a, b": {**variant("x"), "over": "a"}, "c": variant("y"),
                "c, d": {**variant("y"), "over": "c"}}
    lines = {s["name"]: s for s in comparison_table.summary(rows, variants)}
    assert "gain" not in lines["a"] and lines["c"]["gain"]["over"] == "a"
    gain = lines["c, d"]["gain"]
    assert gain["over"] == "c" and len(gain["seeds"]) == 2
    difference = np.array([each["c, d", s] - each["c", s] for s in (1, 3)])
    assert np.allclose(gain["seeds"], difference.mean(1)) and gain["mean"] == pytest.approx(difference.mean())
    assert gain["seed_error"] == pytest.approx(abs(np.diff(difference.mean(1))[0]) / 2)
    assert gain["map_error"] == pytest.approx(difference.mean(0).std(ddof=1) / 50**0.5)
    assert lines["a"]["ms_per_map"] == pytest.approx(30.0) and lines["a"]["minutes_per_epoch"] == pytest.approx(0.05)
    text = comparison_table.markdown(list(lines.values()), "title")
    assert f"{gain['mean']:+.2f} +- {gain['seed_error']:.2f} (maps {gain['map_error']:.2f}) over c" in text


def test_a_picture_has_a_line_for_each_row_and_a_name_for_each_variant(monkeypatch, tmp_path):
    """On a stand-in for matplotlib; negative losses, of error bars, do not fit a logarithmic axis."""
    calls = []

    class Anything:
        def __init__(self, name=""):
            self.name = name

        def __getattr__(self, key):
            return lambda *args, **options: calls.append((key, args, options))
    figure, axes = Anything(), [Anything("epochs"), Anything("minutes")]
    module, pyplot = types.ModuleType("matplotlib"), types.ModuleType("matplotlib.pyplot")
    module.use, module.pyplot, pyplot.close = (lambda name: None), pyplot, (lambda figure: None)
    pyplot.subplots = lambda *args, **options: (figure, axes)
    monkeypatch.setitem(sys.modules, "matplotlib", module)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    rows = [{"name": name, "posterior": f"{name}{seed}", "seconds": 120.0,
             "history": [{"epoch": 10, "validation": 0.4}, {"epoch": 40, "validation": 0.3}]}
            for name in "ab" for seed in (1, 2)]
    for more, scale in (([], "log"), ([{**rows[0], "name": "c", "posterior": "c", "history": [
            {"epoch": 1, "validation": -0.1}]}], "linear")):
        calls.clear()
        figures.training_curves(tmp_path / "x.png", rows + rows[:1] + more)
        assert [c[1] for c in calls if c[0] == "savefig"] == [(tmp_path / "x.png",)]
        lines = [c for c in calls if c[0] == "plot"]
        assert len(lines) == 2 * (4 + len(more))
        assert [c[2]["label"] for c in lines if "label" in c[2]][:4] == ["a", None, "b", None]
        assert lines[0][1] == ([10, 40], [0.4, 0.3]) and lines[1][1] == ([0.5, 2.0], [0.4, 0.3])
        assert {c[2]["yscale"] for c in calls if c[0] == "set"} == {scale}


def test_equal_wall_clock_gives_a_slower_network_fewer_epochs(small, tmp_path):
    options, out = small
    args = compare.arguments([*options, "--minutes", "2"])
    found = {}
    for name in ("compact", "resnet_attention"):
        folder = tmp_path / name / "seed1"
        found[name] = budgets.fitting_epochs(args, variant(name), 1, folder)
        note = json.loads((folder.parent / "epochs.json").read_text())
        assert note["epochs"] == found[name] == max(1, int(120 / note["seconds_per_epoch"]))
        (folder.parent / "epochs.json").write_text(json.dumps({"epochs": 77}))
        assert budgets.fitting_epochs(args, variant(name), 2, folder) == 77     # settled
    assert found["resnet_attention"] < found["compact"]


def test_the_time_of_an_epoch_holds_its_share_of_validation(small, monkeypatch):
    """100 s of training and validation over a third of the maps: 300 s an epoch."""
    def short(source, label, rows, validation, recipe, **options):
        seen.append((len(rows), len(validation)))
        return training.Network(None, recipe, [{"validation": 1.0}] * 2, [1e9, 100.0])
    seen = []
    monkeypatch.setattr(training, "train", short)
    monkeypatch.setattr(budgets, "TIMED_BATCHES", 1)
    args = compare.arguments([*small[0], "--batch-size", "6", "--minutes", "60"])
    assert budgets.fitting_epochs(args, variant("compact"), 1, small[1] / "x" / "seed1") == 12
    whole = compare.arguments([*small[0], "--batch-size", "6"])
    budgets.short_training(whole, variant("compact"), 1, 2)
    (few, few_valid), (n, n_valid) = seen
    assert few == 6 and n == 18 and few_valid == round(n_valid / 3)


def test_each_network_gets_the_rate_that_trains_it_best(small, tmp_path, monkeypatch):
    best = {"compact": 0.0006, "simple_cnn": 0.004}

    def short(source, label, rows, validation, recipe, **options):
        rate = recipe.learning_rate
        if rate > 0.003 and recipe.model == "compact":
            raise RunError("the loss became nan")
        tried.append(rate)
        assert recipe.epochs == 3 and recipe.seed == budgets.TUNING_SEED
        history = [{"validation": abs(rate - best[recipe.model])}]
        return training.Network(None, recipe, history, [1.0])
    monkeypatch.setattr(training, "train", short)
    args = compare.arguments([*small[0], "--tune", "3"])
    for name, rate in best.items():
        tried = []
        assert budgets.tuned_rate(args, variant(name), tmp_path / name / "seed1") == pytest.approx(rate)
        assert tried == pytest.approx([0.0002, 0.0006, 0.002, 0.004, 0.008][:3 if name == "compact" else 5])
        assert json.loads((tmp_path / name / "rate.json").read_text())["rate"] == pytest.approx(rate)
        tried = []
        assert budgets.tuned_rate(args, variant(name), tmp_path / name / "seed2") == pytest.approx(rate) and not tried
    assert commands.parsed(args, SETS["batch"][1]["simple_cnn, batch 4, half the rate"], 1, 2, "x",
                          rate=0.004).learning_rate == 0.002
    assert commands.budget(args) == "2epochs_tuned3"


def test_unknown_variants_are_refused(small):
    with pytest.raises(InputError) as error:
        compare.main([*small[0], "--sets", "noise", "--variants", "huge"])
    one_line(error, "--variants", "huge", "compact, fixed noise")


def test_a_set_without_truth_is_refused_before_any_training(small, data, monkeypatch):  # noqa: F811
    monkeypatch.setattr(training, "train", None)
    (data / "label_test.npy").unlink()
    with pytest.raises(InputError) as error:
        compare.main([*small[0], "--sets", "designs", "--variants", "compact", "--seeds", "1"])
    one_line(error, "--data", "truth")


def test_the_baseline_learns_and_stands_in_the_table(small, capsys):
    options, out = small
    compare.main([*options, "--sets", "designs", "--variants", "statistics_mlp", "--seeds", "1"])
    assert "statistics_mlp" in capsys.readouterr().out
    row = json.loads((out / "statistics_mlp_2epochs/seed1/row.json").read_text())
    losses = [h["validation"] for h in row["history"]]
    assert len(losses) == 60 and min(losses) < 0.6                   # of the labels' variance; 1 knows nothing
    figures = json.loads((out / "statistics_mlp_2epochs/seed1/figures.json").read_text())
    assert figures["parameters"] == row["parameters"] > 256 * 256
    compare.main([*options, "--sets", "designs", "--variants", models.DEFAULT_MODEL, "statistics", "--seeds", "1"])
    text = capsys.readouterr().out
    rows = {n: json.loads((out / f"{n}_2epochs/seed1/row.json").read_text())
            for n in (models.DEFAULT_MODEL, "statistics")}
    both, alone = rows[models.DEFAULT_MODEL], rows["statistics"]
    assert f"| {models.DEFAULT_MODEL} | {both['parameters']:,} | 0.002 |" in text
    assert both["parameters"] == alone["parameters"] + count_parameters(build("compact", (64, 48), 2))
    assert len(both["history"]) == both["epochs"] == 2 and both["learning_rate"] == 0.002
    assert alone["learning_rate"] is None and alone["epochs"] == sum(h["passes"] for h in alone["history"])
    folder = out / f"{models.DEFAULT_MODEL}_2epochs/seed1"
    parts = [training.Network.load(folder / "model_compact.pt"), Dense.load(folder / "model_statistics.pt")]
    measured = json.loads((folder / "features.json").read_text())["seconds"]
    assert both["seconds"] == pytest.approx(measured + sum(sum(p.seconds) for p in parts)) and measured > 0
    (folder / "row.json").unlink()                                # killed at the end: nothing left to do but the row
    compare.main([*options, "--sets", "designs", "--variants", models.DEFAULT_MODEL, "--seeds", "1"])
    assert json.loads((folder / "row.json").read_text()) == both
    from wl.core import hdf5
    file = hdf5.read(out / "statistics_mlp_2epochs/seed1/predictions.h5").groups["predictions"]
    assert set(file["split"]) == {STATISTICS, HOLDOUT, TEST} and np.isfinite(file["estimate"]).all()


def test_features_are_those_of_the_summaries():
    mask = np.ones((64, 48), bool)
    mask[20:30, 10:15] = False
    kappa = np.where(mask, np.random.default_rng(1).normal(0, 0.01, (3, 64, 48)), 0.0).astype(np.float32)
    features = statistics_mlp.Features(mask, 30.0)
    found = features(kappa)
    n = len(features.spectrum.used)
    assert found.shape == (3, features.width) and features.width == n + 3 * (3 + 16 + 12)
    assert np.array_equal(found[:, :n], features.spectrum(kappa))
    moments, pdf, peaks = features.shapes.describe(kappa)
    assert np.allclose(found[:, n:n + 3], np.log(moments[..., 0]))
    assert np.allclose(found[:, n + 9:n + 9 + 48]**2, pdf.reshape(3, -1))
    assert np.allclose(found[:, -36:]**2, peaks.reshape(3, -1))
    assert np.allclose(features(kappa[1:2]), found[1:2])


def test_train_step_prints_its_line():
    command = [sys.executable, ROOT / "benchmarks" / "train_step.py", "--steps", "2", "--reference-steps", "2",
               "--rounds", "1", "--frame", "96x64", "--batch-size", "8", "--leak-steps", "10", "--leak-batch", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert re.fullmatch(r"train_step ratio=\d+\.\d ours=\S+ reference=\S+ n=1", lines[-1])
    assert any("anonymous memory over 10 steps" in line for line in lines)
    assert sum("data path" in line for line in lines) == 2


@pytest.mark.parametrize("options", [["--frame", "abc"], ["--frame", "9x9"], ["--steps", "0"], ["--precision", "int8"]])
def test_train_step_refuses_in_one_line(options):
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "train_step.py", *options], capture_output=True,
                         text=True, timeout=100)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1 and options[0] in run.stderr


def test_statistics_kernel_prints_its_line_and_both_ways_agree():
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "statistics_kernel.py", "--maps", "2", "--rounds", "1"],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    first, last = run.stdout.splitlines()
    assert re.fullmatch(r"statistics_kernel ratio=\d+\.\d\d ours=\S+ ms reference=\S+ ms n=2", last)
    largest, mean = map(float, re.search(r"difference (\S+), mean (\S+) ", first).groups())
    assert largest < 1e-3 and mean < 2e-5               # a few pixels on the edges of the PDF's bins
