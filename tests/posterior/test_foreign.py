"""Predictions of others: what is read, what is refused, and that known ones score as they
should."""
import h5py
import numpy as np
import pytest
import synthetic
from conftest import REAL, one_line, run_code

import wl
from wl.core.checks import InputError
from wl.core.params import EMULATOR, HOLDOUT, TEST
from wl.posterior import infer, options as foreign
from wl.scoring import report

COLUMBIA = "columbia_cnn_predictions.npz"


def predictions(n_cosmology=12, n=60, d=3, seed=1):
    """Summaries (n_map, d) linear in the cosmology, in random order, and the cosmologies."""
    rng = np.random.default_rng(seed)
    theta = synthetic.design(n_cosmology, seed=4)
    which = rng.permutation(np.repeat(np.arange(n_cosmology), n))
    mixing = np.random.default_rng(0).normal(size=(2, d)) * [[10.0], [15.0]]
    return theta[which] @ mixing + rng.normal(0.0, 0.3, size=(len(which), d)), theta[which]


def written(folder, form, summaries, truth):
    path = folder / f"theirs.{form}"
    if form == "npz":
        np.savez(path, estimate=summaries, labels=np.column_stack([truth, truth[:, :1]]))
    elif form == "csv":
        names = ["S_8", *(f"x{k}" for k in range(summaries.shape[1])), "Omega_m"]
        np.savetxt(path, np.column_stack([truth[:, 1], summaries, truth[:, 0]]), delimiter=",",
                   header=",".join(names), comments="", fmt="%.17g")
    else:
        with h5py.File(path, "w") as file:
            file["predictions"], file["theta"] = summaries, truth
    return path


@pytest.mark.parametrize("form", ["npz", "csv", "h5"])
def test_read(form, tmp_path):
    """Two thirds of the maps of each cosmology for the emulator, by the seed; no map is lost."""
    summaries, truth = predictions()
    truth[[3, 500]] = np.nan
    path = written(tmp_path, form, summaries, truth)
    file = foreign.read_predictions(path, 1)
    group, theta = file.groups["predictions"], file.groups["constant_data"]["design"]
    assert np.array_equal(group["summaries"], summaries)
    assert np.array_equal(group["split"] == TEST, np.isnan(truth[:, 0]))
    assert (group["split"] == TEST).sum() == 2
    known = group["cosmology"] >= 0
    assert np.array_equal(theta[group["cosmology"][known]], truth[known])
    counts = np.bincount(group["cosmology"][group["split"] == EMULATOR])
    assert (counts == counts[0]).all() and counts[0] in (39, 40)
    assert infer.emulator_maps(file)[0].shape == (12, counts[0], 3)
    again, other = foreign.read_predictions(path, 1), foreign.read_predictions(path, 2)
    assert np.array_equal(again.groups["predictions"]["split"], group["split"])
    assert not np.array_equal(other.groups["predictions"]["split"], group["split"])


def test_a_table_of_a_spreadsheet(tmp_path):
    """Which begins with a mark of its encoding, and may end in empty lines."""
    path = written(tmp_path, "csv", *predictions())
    plain = foreign.read_predictions(path, 1).groups["predictions"]["summaries"]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    again = foreign.read_predictions(path, 1).groups["predictions"]["summaries"]
    assert np.array_equal(again, plain)


def test_a_run_on_them(tmp_path, script):
    """One command, which scores what it did not see; its posteriors are those of their
    likelihood."""
    summaries, truth = predictions(d=2)
    path = written(tmp_path, "npz", summaries, truth)
    run = script("run_mcmc.py", "--predictions", path, "--sampler", "exact", "--no-figures",
                 "--threads", "1",
                 cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    result = report.score_posterior(tmp_path / "data" / "runs" / "theirs_given" / "posterior.h5")
    part = result["subsets"]["holdout"]
    assert part["n"] == 12 * 20 and abs(part["coverage_68_quantiles_mean"] - 0.68) < 0.08
    assert f"Score {result['score']:.2f}" in run.stdout
    again = wl.infer(path, tmp_path / "python", sampler="exact", threads=1)
    assert wl.score(again)["score"] == result["score"]
    with pytest.raises(InputError, match="seed"):
        wl.infer(path, tmp_path / "refused", seed=-1)
    assert not (tmp_path / "refused").exists()
    assert "--data" in one_line(script("run_mcmc.py", "--predictions", path, "--data", tmp_path,
                                       cwd=tmp_path).stderr.strip())


def test_refusals(tmp_path):
    summaries, truth = predictions()
    good = {"estimate": summaries, "truth": truth}
    wrong = {"names": ({"a": summaries, "truth": truth}, "predictions"),
             "lengths": (good | {"truth": truth[:9]}, "shape"),
             "nan": (good | {"estimate": np.where(truth[:, :1] > 0.3, np.nan, summaries)},
                     "finite"),
             "one": (good | {"truth": np.full_like(truth, 0.3)}, "3 cosmologies"),
             "each": (good | {"truth": truth + np.arange(len(truth))[:, None] * 1e-5}, "4 maps"),
             "words": (good | {"estimate": summaries.astype(str)}, "dtype"),
             "flat": (good | {"truth": truth[:, 0]}, "Omega_m"),
             "both": (good | {"predictions": -summaries}, "one of"),
             "turned": (good | {"truth": truth[:, ::-1]}, "swapped"),
             "percent": (good | {"truth": truth * [100.0, 1.0]}, "Omega_m between"),
             "infinite": (good | {"truth": np.where(truth == truth[0], np.inf, truth)}, "between"),
             "half": (good | {"truth": np.where(truth == truth[0, 0], np.nan, truth)}, "both"),
             "huge": (good | {"estimate": 1e80 * summaries}, "1e+70"),
             "tiny": (good | {"estimate": 1e-80 * summaries}, "1e-70")}
    for name, (arrays, word) in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(InputError) as error:
            foreign.read_predictions(tmp_path / f"{name}.npz", 1)
        one_line(error, f"{name}.npz", word)
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("x,y\n1,2\n")
    (tmp_path / "words.csv").write_text("Omega_m,S_8,x\n0.3,0.8,much\n")
    np.savez(tmp_path / "pickle.npz", estimate=np.array([{}], object), truth=truth)
    (tmp_path / "index.csv").write_text(",Omega_m,S_8,x\n0,0.3,0.8,1.0\n")
    (tmp_path / "number.csv").write_text("map,Omega_m,S_8,x\n0,0.3,0.8,1.0\n")
    (tmp_path / "ragged.csv").write_text("Omega_m,S_8,x\n0.3,0.8,1.0\n\n0.3,0.8\n")
    for name in ("text.npz", "empty.csv", "head.csv", "words.csv", "pickle.npz", "missing.npz",
                 "missing.csv", "index.csv", "ragged.csv", "number.csv"):
        with pytest.raises(InputError) as error:
            foreign.read_predictions(tmp_path / name, 1)
        one_line(error, name, *{"index.csv": ["no name"], "ragged.csv": ["line 4"],
                                   "number.csv": ["summaries alone"]}.get(name, ()))
    with pytest.raises(InputError, match=r"missing\.h5"):
        foreign.read_predictions(tmp_path / "missing.h5", 1)


def test_a_cosmology_of_few_maps_costs_the_others_theirs_which_is_said(tmp_path, capsys):
    summaries, truth = predictions()
    few = truth[:, 0] == truth[0, 0]
    keep = ~few | (np.cumsum(few) <= 9)
    file = foreign.read_predictions(written(tmp_path, "npz", summaries[keep], truth[keep]), 1)
    assert "9 to 60 maps, 6 of each" in capsys.readouterr().err
    assert infer.emulator_maps(file)[0].shape[1] == 6


def begin(folder):
    """The command on all of the published predictions takes half a minute."""
    if (REAL / COLUMBIA).is_file():
        return folder, run_code(f"import os; os.chdir({str(folder)!r}); import run_mcmc; "
                                "run_mcmc.main()", "--predictions", REAL / COLUMBIA, "--no-figures",
                                "--threads", "1", "--out", "run")


def test_published_predictions_of_real_maps(real, begun):
    """A network's on ray-traced N-body maps: 15.97 by an exact posterior of other code (facts)."""
    folder, run = begun
    assert run.returncode == 0, run.stderr
    result = report.score_posterior(folder / "run" / "posterior.h5", bootstrap=100)
    part = result["subsets"]["holdout"]
    assert part["n"] == 4183 and abs(result["score"] - 15.97) < 0.1
    for value in part["coverage_68"]:
        assert 0.655 < value < 0.695
    assert min(part["pit_p_value"]) > 0.01 and result["diagnostics"]["flagged"] < 42
    split = foreign.read_predictions(real / COLUMBIA, 1).groups["predictions"]["split"]
    assert (split == HOLDOUT).sum() == 4183
