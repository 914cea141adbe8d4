"""The benchmarks of training: tables from small runs that are not repeated, and the baseline they hold up."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, one_line
from test_ensemble import data  # noqa: F401

sys.path.insert(0, str(ROOT / "benchmarks"))
import compare_networks as compare  # noqa: E402
import statistics_mlp  # noqa: E402
import run_direct  # noqa: E402
import run_mcmc  # noqa: E402
from wl import models, pipeline, train  # noqa: E402
from wl.checks import InputError  # noqa: E402
from wl.losses import Loss  # noqa: E402
from wl.networks import build, count_parameters  # noqa: E402
from wl.params import HOLDOUT, STATISTICS, TEST  # noqa: E402


def test_every_variant_is_a_command_of_the_scripts():
    args = compare.arguments(["--seeds", "1", "--learning-rate", "0.004"])
    rates = set()
    for question, variants in compare.SETS.values():
        assert question and len(variants) > 1
        for name, spec in variants.items():
            module = run_direct if spec["direct"] else run_mcmc
            parsed = module.parser().parse_args(compare.command(args, spec, 1, 3, "x"))
            rates.add(parsed.learning_rate)
            if spec["model"] == "statistics_mlp":
                continue
            settings = pipeline.training_settings(parsed, 100)
            build(settings["model"], (128, 96), Loss(settings["loss"]).n_out, **settings["model_options"])
            assert (parsed.loss == "mse") != spec["direct"] or parsed.loss == "mse", name
    assert rates == {0.004, 0.002, 0.008}
    designs = {spec["model"] for spec in compare.SETS["designs"][1].values()}
    assert designs == set(models.MODELS) | {"statistics_mlp"}


def test_depth_and_width_cost_about_the_same_parameters_or_time():
    """The question is about depth against width: the two variants must really differ in them."""
    nets = {n: build(s["model"], (128, 96), 2, **pipeline.options("", [o for o in s["options"] if "=" in o],
                                                                   models.MODELS[s["model"]]))
            for n, s in compare.SETS["depth"][1].items()}
    base, deep, wide = (count_parameters(nets[f"resnet_reduced{end}"]) for end in ("", ", 4 blocks", ", width 48, 96"))
    assert base < deep < 3 * base and base < wide < 3 * base


@pytest.fixture()
def small(data, tmp_path):  # noqa: F811
    out = tmp_path / "compare"
    return ["--data", str(data), "--out", str(out), "--statistics-fraction", "0.4", "--holdout-fraction", "0.2",
            "--epochs", "2", "--batch-size", "8", "--threads", "2", "--quiet"], out


def test_a_table_of_rows_that_are_not_repeated(small, capsys, monkeypatch):
    options, out = small
    options += ["--sets", "noise", "--variants", "compact, fresh", "compact, fixed"]
    compare.main([*options, "--seeds", "1", "2"])
    text = capsys.readouterr().out
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| compact")]
    assert [r[1].strip() for r in rows] == ["compact, fresh", "compact, fixed"]
    assert all(r[6].strip() == "2" for r in rows)
    table = json.loads((out / "table_noise_2epochs.json").read_text())["sets"]["noise"]
    assert (out / "table_noise_2epochs.md").read_text() == text
    first, second = table
    assert first["seeds"] == [1, 2] and len(first["test"]) == 2 and "gain" not in first
    assert np.allclose(second["gain"]["seeds"], np.subtract(second["test"], first["test"]), atol=1e-6)
    assert first["parameters"] == count_parameters(build("compact", (64, 48), 2)) and first["epochs"] == 2
    for row in out.glob("*/*/row.json"):
        found = json.loads(row.read_text())
        assert len(found["history"]) == 2 and found["seconds"] > 0 and {"test", "holdout"} == set(found["subsets"])
        assert found["settings"]["noise"] == ("fixed" if "fixed" in found["name"] else "fresh")
    scores = json.loads((out / "compact-fresh_2epochs/seed1/score.json").read_text())["subsets"]
    assert first["test"][0] == scores["test"]["score"] and first["validation"][0] == scores["holdout"]["score"]
    assert len(list(out.glob("curves_noise_2epochs.png"))) == ("matplotlib" in sys.modules)

    def never(*args, **options):
        raise AssertionError("trained again")
    monkeypatch.setattr(train, "train", never)
    compare.main([*options, "--seeds", "1", "2"])
    assert capsys.readouterr().out == text
    compare.main([*options, "--seeds", "1", "2", "3", "--table"])
    assert capsys.readouterr().out == text


def test_equal_wall_clock_gives_a_slower_network_fewer_epochs(small, tmp_path):
    options, out = small
    args = compare.arguments([*options, "--minutes", "2"])
    found = {}
    for name in ("compact", "resnet_attention"):
        folder = tmp_path / name / "seed1"
        found[name] = compare.fitting_epochs(args, compare.variant(name), 1, folder, run_mcmc)
        note = json.loads((folder.parent / "epochs.json").read_text())
        assert note["epochs"] == found[name] == max(1, int(120 / (note["seconds_per_step"] * 2)))
        (folder.parent / "epochs.json").write_text(json.dumps({"epochs": 77}))
        assert compare.fitting_epochs(args, compare.variant(name), 2, folder, run_mcmc) == 77     # settled
    assert found["resnet_attention"] < found["compact"]


def test_unknown_variants_are_refused(small):
    with pytest.raises(InputError) as error:
        compare.main([*small[0], "--sets", "noise", "--variants", "huge"])
    one_line(error, "--variants", "huge", "compact, fresh")


def test_the_baseline_learns_and_stands_in_the_table(small, capsys):
    options, out = small
    compare.main([*options, "--sets", "designs", "--variants", "statistics_mlp", "--seeds", "1"])
    assert "statistics_mlp" in capsys.readouterr().out
    row = json.loads((out / "statistics_mlp_2epochs/seed1/row.json").read_text())
    losses = [h["validation"] for h in row["history"]]
    assert len(losses) == 60 and min(losses) < 0.6                   # of the labels' variance; 1 knows nothing
    figures = json.loads((out / "statistics_mlp_2epochs/seed1/figures.json").read_text())
    assert figures["parameters"] == row["parameters"] > 256 * 256
    from wl import store
    file = store.read(out / "statistics_mlp_2epochs/seed1/predictions.h5").groups["predictions"]
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
