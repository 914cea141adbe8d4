"""The benchmarks: each runs and ends in a line of the known form, and its tables are right."""
import json
import re
import shlex
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT, one_line
from torch import nn

sys.path.insert(0, str(ROOT / "benchmarks"))
import compare_networks as compare  # noqa: E402
from variants import SETS, variant  # noqa: E402

import run_direct  # noqa: E402
import run_mcmc  # noqa: E402
from wl.core import hdf5  # noqa: E402
from wl.core.checks import InputError  # noqa: E402
from wl.core.params import HOLDOUT, TEST  # noqa: E402
from wl.maps import dataset  # noqa: E402
from wl.scoring.score import challenge_score  # noqa: E402
from wl.summaries import dense, network, options as models  # noqa: E402
from wl.summaries.architectures import build  # noqa: E402
from wl.summaries.network import Loss  # noqa: E402

LAST = r"{} ratio=\d+\.\d+ ours=[\d.e+-]+ reference=[\d.e+-]+ n=\d+"
README = (ROOT / "benchmarks" / "README.md").read_text()
N_COSMOLOGY, N_REALISATION, N_TEST = 7, 8, 6


# the benchmarks that are run, beside the other tests, and their options
OF_COMPARISON = ["--sets", "noise", "--variants", "compact", "--seeds", "2", "--quiet"]
SMALL = ["--", "--emulator-fraction", "0.4", "--holdout-fraction", "0.2", "--batch-size", "8",
         "--views", "1", "--model-option", "widths=8,12,16,24"]
RUNS = {
    "compare_networks": [*OF_COMPARISON, "--epochs", "2", *SMALL],
    "train_step": ["--steps", "1", "--reference-steps", "1", "--rounds", "1", "--frame", "64x48",
                   "--batch-size", "4", "--lanes", "2", "--threads", "1", "--leak-steps", "10",
                   "--leak-batch", "2"],
    "simulate": ["--maps", "2", "--rounds", "1"],
    "sampler": ["--maps", "40", "--nstep", "200", "--reference-steps", "3", "--repeats", "1",
                "--threads", "1"],
    "scaling": ["--stages", "measure", "--smallest", "2"]}


def begin(folder):
    """Run the benchmarks. Returns what each said, and the folder of set and comparison."""
    where = ["--data", make_maps(folder), "--out", folder / "out"]
    return {name: subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py",
         *map(str, where * (name == "compare_networks")), *words],
        capture_output=True, text=True, timeout=900) for name, words in RUNS.items()}, folder


@pytest.fixture(scope="module")
def benchmark(begun):
    """benchmark(name): the lines of a benchmark, the last of which has the form of all."""
    def lines_of(name):
        run = begun[0][name]
        assert run.returncode == 0, run.stderr
        lines = run.stdout.splitlines()
        assert re.fullmatch(LAST.format(name), lines[-1]), lines[-1]
        return lines
    return lines_of


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return make_maps(tmp_path_factory.mktemp("benchmarks"))


def make_maps(home):
    """A small public set: white pixels and a wave, whose amplitudes are the parameters."""
    rng, mask = np.random.default_rng(6), np.ones((64, 48), bool)
    mask[20:30, 10:15] = False
    angle = 2.0 * np.pi * np.arange(N_COSMOLOGY) / (N_COSMOLOGY - 1)
    theta = np.column_stack([0.3 + 0.1 * np.cos(angle), 0.8 + 0.1 * np.sin(angle)])
    theta[-1] = 0.31, 0.81
    wave = np.sin(np.arange(64) / 3.0)[:, None] * np.ones(48)

    def draw(values):
        white = rng.normal(size=(len(values), *mask.shape))
        kappa = 0.07 * values[:, 0, None, None] * white + (values[:, 1, None, None] - 0.8) * wave
        return kappa[:, mask].astype(np.float16)
    folder = home / "set"
    folder.mkdir()
    label = np.zeros((N_COSMOLOGY, N_REALISATION, 5))
    label[..., :2] = theta[:, None]
    truth = label[np.arange(N_TEST) % N_COSMOLOGY, 0]
    kappa = draw(label[..., :2].reshape(-1, 2)).reshape(N_COSMOLOGY, N_REALISATION, -1)
    for name, value in {dataset.MASK_FILE: mask, dataset.RELEASES["public"][0]: kappa,
                        "label.npy": label, dataset.TEST_FILE: draw(truth[:, :2]),
                        dataset.TRUTH_FILE: truth}.items():
        np.save(folder / name, np.ascontiguousarray(value))
    (folder / dataset.SIMULATION_FILE).write_text(json.dumps({"settings": {"n_gal": 3000.0}}))
    return folder


# ---------------------------------------------------------------- what is compared
def parsed(spec, *words):
    """The options of a variant's command, checked and complete, and as they were parsed."""
    args = compare.arguments(["--epochs", "9", *words])
    script, *line = compare.command(args, spec, 1, "x")
    parser, method = {"run_mcmc.py": (run_mcmc.parser, "network"),
                      "run_direct.py": (run_direct.parser, "direct")}[script]
    found = parser().parse_args(line)
    found.threads = found.threads or 1
    return models.NetworkOptions.of(found, method).decided(100), found


def test_every_variant_is_a_command_of_the_scripts():
    rates, known = set(), {}
    for question, variants in SETS.values():
        assert question and len(variants) > 1
        first = next(iter(variants))
        for name, spec in variants.items():
            over = variants[spec.get("over", first)]
            assert "over" not in over and (name == spec.get("over", first)) == (over is spec), name
            options, args = parsed(spec, "--learning-rate", "0.004")
            rates.add(options.learning_rate)
            assert options.lanes == 1 or "lanes" in name
            assert args.target == "both" and args.holdout_fraction > 0.0
            assert (options.loss == "mse") != spec["direct"], name
            assert known.setdefault(name, options) == options       # one folder, one command
            for part in (options.of_part(p) for p in options.parts if p != "statistics"):
                build(part.model, (128, 96), Loss(part.loss).n_out, **part.model_options)
            if "over" in spec:              # one question at a time, and the rate that goes with it
                one, other = options.stored(), parsed(over, "--learning-rate", "0.004")[0].stored()
                changed = {k for k in one if one[k] != other[k]}
                assert 1 <= len(changed - {"learning_rate"}) <= 1 + ("pooled" in name), name
    assert rates == {0.004, 0.002, 0.008}
    compared = {spec["model"] for spec in SETS["designs"][1].values()}
    assert compared == set(models.MODELS) | {models.DEFAULT_MODEL}


def test_options_behind_the_dashes_go_to_all_rows_and_a_variant_over_them():
    words = ["--seeds", "4", "--", "--batch-size", "8", "--views", "1"]
    for spec, size in ((variant("compact"), 8), (SETS["batch"][1]["simple_cnn, batch 4"], 4)):
        options, args = parsed(spec, *words)
        assert options.batch_size == size and options.views == 1 and options.epochs == 9
        assert args.sampler == "exact"


def test_the_users_questions_are_asked():
    asked = {s: [parsed(v)[0] for v in variants.values()] for s, (_, variants) in SETS.items()}

    def values(name, key, model):
        return {str(o.model_options.get(key, getattr(o, key, None)))
                for o in asked[name] if o.model == model}
    for model in ("simple_cnn", "resnet_reduced"):
        assert values("batch", "batch_size", model) == {"4", "16", "32", "64"}
    assert values("precision", "precision", "simple_cnn") == {"float32", "float64", "bfloat16"}
    assert values("attention", "attention", "resnet_attention") == {"0", "4"}
    assert values("dropout", "dropout", "resnet_attention") == {"[0.3, 0.2]", "[0.0, 0.0]"}
    assert values("head", "head", "simple_cnn") == {"flatten", "pool"}
    for model in ("compact", "simple_cnn"):
        assert values("noise", "noise", model) == {"fixed", "fresh"}


def cost(spec, frame=(1840, 104)):
    """Multiplications of the convolutions of one map."""
    total = []

    def count(module, given, out):
        if isinstance(module, nn.Conv2d):
            total.append(out.numel() * module.weight[0].numel())
    with torch.device("meta"):
        net = build(spec["model"], frame, 2, **parsed(spec)[0].model_options).eval()
        for module in net.modules():
            module.register_forward_hook(count)
        net(torch.zeros(1, 1, *frame))
    return sum(total)


@pytest.mark.parametrize("model", ["resnet_reduced", "compact"])
def test_depth_against_width_at_the_same_work(model):
    base, deep, wide = (SETS["depth"][1][f"{model}{end}"] for end in ("", ", deep", ", wide"))
    assert cost(deep) > 1.2 * cost(base) and cost(deep) == pytest.approx(cost(wide), rel=0.05)


# ---------------------------------------------------------------- the table
def made_up(name, seed, each, mse=0.2, validation=1.0, **settings):
    part = {"score": each.mean(), "score_error": 0.1, "mse_mean": mse, "coverage_68_mean": 0.7,
            "coverage_95_mean": 0.9}
    score = {"subsets": {"test": part, "holdout": {**part, "score": validation}},
             "settings": {"model": "compact", "learning_rate": 1e-3, **settings},
             "truth": {"label_test": "abc"}}
    history = [{"epoch": e, "validation": 0.5 / e} for e in (1, 2)]
    return compare.Row(name, seed, score, each, 7, 100, 6.0, history)


def test_gains_are_over_the_variant_that_the_set_names():
    """Seed by seed and map by map; a seed that only one of the two has is left out."""
    rng = np.random.default_rng(1)
    each = {(n, s): rng.normal(size=50) for n in ("a", "a, b", "c", "c, d") for s in (1, 2, 3)}
    rows = [made_up(n, s, value) for (n, s), value in each.items() if (n, s) != ("c", 2)]
    variants = {"a": variant("x"), "a, b": {**variant("x"), "over": "a"}, "c": variant("y"),
                "c, d": {**variant("y"), "over": "c"}}
    by = {n: [r for r in rows if r.name == n] for n in variants}
    mean, by_seed, by_map = compare.gain(by["c, d"], by["c"])
    difference = np.array([each["c, d", s] - each["c", s] for s in (1, 3)])
    assert mean == pytest.approx(difference.mean())
    assert by_seed == pytest.approx(abs(np.diff(difference.mean(1))[0]) / 2)
    assert by_map == pytest.approx(difference.mean(0).std(ddof=1) / 50**0.5)
    assert compare.gain(by["a"], []) is None and compare.gain(by["a"][:1], by["a, b"][1:]) is None
    assert compare.gain(by["a"][:1], by["a, b"][:1])[1] is None               # of one seed
    text = compare.table(rows, variants, "title")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    assert text.startswith("### title, 50 test maps\n\n| network |") and len(lines) == 2 + 4
    assert f"| {mean:+.2f} +- {by_seed:.2f} (maps {by_map:.2f}) over c |" in lines["c, d"]
    assert "over a |" in lines["c"] and lines["a"].endswith("|  |")
    seeds = [each["a", s].mean() for s in (1, 2, 3)]
    assert f"| {np.mean(seeds):.2f} +- {np.std(seeds, ddof=1):.2f} | 0.10 | 0.200 |" in lines["a"]
    # 6 s for 2 epochs of 100 maps; the best validation loss of each
    assert "| a | 7 | 0.001 | 2 | 30.0 | 0.05 | 3 | 0.2500 +- 0.0000 |" in lines["a"]


def test_the_last_line_takes_the_best_by_validation():
    value, variants = np.zeros(5), {"a": variant("x"), "b": variant("y"), "c": variant("z")}
    rows = [made_up("a", 1, value, mse=0.3), made_up("b", 1, value, mse=0.2, validation=3.0),
            made_up("c", 1, value, mse=0.1, validation=2.0)]
    line = compare.last_line(rows, {"other": {"d": variant("x")}, "set": variants})
    assert line == "compare_networks ratio=1.50 ours=0.2 reference=0.3 n=1"
    assert re.fullmatch(LAST.format("compare_networks"), line)
    assert compare.last_line(rows[1:2], {"set": variants}).split()[1] == "ratio=1.00"


def test_a_row_is_read_from_its_files(maps, tmp_path):
    """A made-up folder with the files of a run: two parts, hold-out and test maps."""
    frame, net = [64, 48], build("compact", (64, 48), 2)
    task = {"loss": "mse", "label_mean": [0.3, 0.8], "label_sd": [0.1, 0.1],
            "split": [0, 0, 0, 1, 2], "seed": 1}
    history = [{"epoch": 1, "validation": 0.4}, {"epoch": 2, "validation": 0.3}]
    options = models.NetworkOptions(model="compact", precision="float32").decided(100).training()
    one = network.Recipe(**{**options, **task}, frame=frame, scale=1.0, n_gal=30.0)
    network.Network(net, one, history, [1.0, 2.0]).save(tmp_path / "model_compact.pt")
    two = dense.Recipe(model="statistics", members=2, layers=[4], features="x", **task)
    scaling = np.zeros(3, np.float32), np.ones(3, np.float32), np.ones(3, bool)
    schedules = [{"passes": n, "validation": 0.2} for n in (10, 30)]
    side = two.build(scaling[0])
    dense.Dense(side, two, schedules, [0.5, 0.25], scaling).save(tmp_path / "model_statistics.pt")
    rng, var, n = np.random.default_rng(2), hdf5.Var, N_TEST
    split = np.r_[np.full(2, HOLDOUT), np.full(n, TEST)].astype(np.int8)
    number = np.r_[0, 1, np.arange(n)].astype(np.int32)
    mean, bar = rng.normal(0.5, 0.1, (2 + n, 2)), rng.uniform(0.01, 0.1, (2 + n, 2))
    groups = {"summary": {"posterior_mean": var(("map", "param"), mean),
                          "sd": var(("map", "param"), bar / 2),
                          "errorbar": var(("map", "param"), bar)},
              "observed_data": {"split": var(("map",), split), "realisation": var(("map",), number),
                                "cosmology": var(("map",), np.zeros(2 + n, np.int32))},
              "constant_data": {"design": var(("cosmology", "param"), np.zeros((N_COSMOLOGY, 2)))}}
    hdf5.write(tmp_path / "posterior.h5", "posterior", groups, origin={"data": str(maps)},
               settings={"model": "compact+statistics"})
    assert compare.read_row("x", 3, tmp_path) is None                          # not scored yet
    (tmp_path / "score.json").write_text(json.dumps({"score": 1.5}))
    row = compare.read_row("x", 3, tmp_path)
    truth = np.load(maps / dataset.TRUTH_FILE)[:, :2]
    assert np.allclose(row.each, challenge_score(truth, mean[2:], bar[2:]))
    assert (row.name, row.seed, row.score) == ("x", 3, {"score": 1.5})
    assert row.parameters == sum(p.numel() for one in (net, side) for p in one.parameters())
    assert row.n_train == 3 * N_COSMOLOGY and row.seconds == pytest.approx(3.75)
    assert row.history == history
    (tmp_path / "model_compact.pt").unlink()
    (tmp_path / "model_statistics.pt").rename(tmp_path / "model.pt")
    hdf5.write(tmp_path / "posterior.h5", "posterior", groups, origin={"data": str(maps)},
               settings={"model": "statistics"})
    assert [h["epoch"] for h in compare.read_row("x", 3, tmp_path).history] == [10, 40]


def test_rows_of_other_settings_or_other_maps_are_not_in_one_table(monkeypatch, tmp_path):
    def main(rows):
        monkeypatch.setattr(compare, "read_row", lambda name, seed, folder: rows.get((name, seed)))
        compare.main(["--table", "--out", str(tmp_path), "--sets", "noise", "--seeds", "1", "2"])
    one, two = (made_up("compact", s, np.arange(5.0)) for s in (1, 2))
    main({("compact", 1): one, ("compact", 2): two})
    with pytest.raises(InputError) as error:
        main({})
    one_line(error, "none", "--table")
    with pytest.raises(InputError) as error:
        main({("compact", 1): one, ("compact", 2): made_up("compact", 2, two.each, epochs=3)})
    one_line(error, "compact, seed 1", "epochs = none", "seed 2 has epochs = 3")
    two.score["truth"] = {"label_test": "def"}
    with pytest.raises(InputError) as error:
        main({("compact", 1): one, ("compact", 2): two})
    one_line(error, "one data set")


def test_a_picture_has_a_line_for_each_row_and_a_name_for_each_variant(monkeypatch, tmp_path):
    """On a stand-in for matplotlib; negative losses, of error bars, fit no logarithmic axis."""
    calls = []

    class Anything:
        def __getattr__(self, key):
            return lambda *args, **options: calls.append((key, args, options))
    module, pyplot = types.ModuleType("matplotlib"), types.ModuleType("matplotlib.pyplot")
    module.pyplot, pyplot.close = pyplot, (lambda figure: None)
    pyplot.switch_backend = lambda name: None
    pyplot.subplots = lambda *args, **options: (Anything(), [Anything(), Anything()])
    monkeypatch.setitem(sys.modules, "matplotlib", module)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    history = [{"epoch": 10, "validation": 0.4}, {"epoch": 40, "validation": 0.3}]
    rows = [made_up(name, seed, np.zeros(2))._replace(seconds=120.0, history=history)
            for name in "ab" for seed in (1, 2)]
    negative = rows[0]._replace(name="c", history=[{"epoch": 1, "validation": -0.1}])
    for more, scale in (([], "log"), ([negative], "linear")):
        calls.clear()
        assert compare.training_curves(tmp_path / "x.png", rows + more)
        assert [c[1] for c in calls if c[0] == "savefig"] == [(tmp_path / "x.png",)]
        lines = [c for c in calls if c[0] == "plot"]
        assert len(lines) == 2 * (4 + len(more))
        assert [c[2]["label"] for c in lines if "label" in c[2]][:4] == ["a", None, "b", None]
        assert lines[0][1] == ([10, 40], [0.4, 0.3]) and lines[1][1] == ([0.5, 2.0], [0.4, 0.3])
        assert {c[2]["yscale"] for c in calls if c[0] == "set"} == {scale}
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not compare.training_curves(tmp_path / "x.png", rows)


def test_unknown_variants_and_sets_without_truth_are_refused(maps, tmp_path, monkeypatch):
    words = ["--data", str(maps), "--out", str(tmp_path), "--sets", "noise"]
    with pytest.raises(InputError) as error:
        compare.main([*words, "--variants", "huge"])
    one_line(error, "--variants", "huge", "compact, fixed")
    blind = tmp_path / "blind"
    blind.mkdir()
    for path in maps.iterdir():
        if path.name != dataset.TRUTH_FILE:
            (blind / path.name).symlink_to(path)
    monkeypatch.setattr(compare, "make_row", None)
    with pytest.raises(InputError) as error:
        compare.main(["--data", str(blind), "--out", str(tmp_path)])
    one_line(error, "--data", "truth")


# ---------------------------------------------------------------- the benchmarks themselves
def test_compare_networks_trains_scores_and_refuses_other_settings(begun, benchmark, capsys):
    home, lines = begun[1], benchmark("compare_networks")
    words = ["--data", str(home / "set"), "--out", str(home / "out"), *OF_COMPARISON]
    folder, table = home / "out" / "compact" / "seed2", home / "out" / "table_noise.md"
    assert lines[:-2] == table.read_text().splitlines() and "6 test maps" in lines[0]
    subsets = json.loads((folder / "score.json").read_text())["subsets"]
    row = compare.read_row("compact", 2, folder)
    assert row.each.mean() == pytest.approx(subsets["test"]["score"], rel=1e-5)
    cells = [cell.strip() for cell in lines[4].split("|")]
    assert cells[1:5] == ["compact", f"{row.parameters:,}", "0.004", "2"]
    assert cells[9:11] == [f"{subsets[part]['score']:.2f}" for part in ("holdout", "test")]
    assert row.n_train == N_COSMOLOGY * 3
    began = (folder / "model.pt").stat().st_mtime_ns
    with pytest.raises(InputError) as error:
        compare.main([*words, "--epochs", "3", *SMALL])
    one_line(error, "compact, seed 2", "run_mcmc.py ended with 2")
    assert (folder / "model.pt").stat().st_mtime_ns == began
    compare.main([*words, "--table"])
    assert capsys.readouterr().out.splitlines() == lines


def test_train_step_prints_its_line(benchmark):
    lines = benchmark("train_step")
    assert any("anonymous memory over 10 steps" in line for line in lines)
    assert sum("data path" in line for line in lines) == 2


@pytest.mark.parametrize("words", [["--frame", "abc"], ["--frame", "9x9"], ["--steps", "0"],
                                   ["--precision", "int8"]])
def test_train_step_refuses_in_one_line(words, capsys):
    import train_step
    with pytest.raises(SystemExit) as end:
        train_step.arguments(words)
    message = capsys.readouterr().err
    assert end.value.code == 2 and len(message.splitlines()) == 1 and words[0] in message


def test_simulate_prints_its_line(benchmark):
    first = benchmark("simulate")[0]
    sigma = [float(s) for s in re.findall(r"0\.0\d+", first)]
    assert len(sigma) == 4 and max(sigma) < 1.2 * min(sigma)        # the same maps but for chance


def test_sampler_prints_its_line(benchmark):
    benchmark("sampler")


def test_scaling_prints_its_line_and_finds_laws(benchmark):
    import scaling
    head, *rows = benchmark("scaling")[:-2]
    assert "law" in head and [row.split()[:2] for row in rows] == [["measure", "maps"],
                                                                  ["measure", "rows"]]
    x = np.array([16, 64, 256])
    assert np.allclose(scaling.law(x, 1.0 + 0.02 * x**1.5), (1.0, 0.02, 1.5), rtol=0.02)
    assert np.allclose(scaling.law(x[:2], 3.0 + 2.0 * x[:2]), (3.0, 2.0, 1.0))
    assert scaling.law(x, [5.0, 5.1, 5.0])[1:] == (0.0, 0.0)


# ---------------------------------------------------------------- the page of the tables
def test_commands_of_the_page_and_of_the_docstrings_parse():
    text = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    for path in (ROOT / "benchmarks").glob("*.py"):
        text += "\n" + path.read_text().split('"""')[1]
    commands = re.findall(r"^ *python (benchmarks/\w+\.py|run_\w+\.py)(.*?)(?:  .*)?$", text, re.M)
    assert {name for name, _ in commands} > {f"benchmarks/{name}.py" for name in (
        "compare_networks", "sampler", "simulate", "train_step")}
    for name, rest in commands:
        words = shlex.split(rest.split(" #")[0])
        if name == "benchmarks/compare_networks.py":
            compare.chosen(compare.arguments(words))
        elif name in ("run_mcmc.py", "run_direct.py"):
            (run_mcmc if name == "run_mcmc.py" else run_direct).parser().parse_args(words)
        else:
            for option in (w for w in words if w.startswith("--")):
                assert f'"{option}"' in (ROOT / name).read_text(), (name, option)


def test_every_model_of_the_page_is_there_or_said_to_be_gone():
    gone = README.split("## Tried and removed")[1]
    for name in re.findall(r"^\| `(\w+)`", README.split("## Tried and removed")[0], re.M):
        assert name in models.MODELS or f"`{name}`" in gone, name
    for option in ("--pretrain", "--coarse", "--ema", "--symmetries", "--likelihood", "--minutes"):
        assert option in gone, option
