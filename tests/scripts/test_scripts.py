"""The three scripts as a user runs them: from another folder, on a small simulated set."""
import json
import os
import pathlib
import re
import shutil

import h5py
import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from conftest import ROOT
from wl.core import hdf5, params
from wl.maps import dataset
from wl.simulate.simulate import DEFAULT_TEST, simulate

QUICK = ("--epochs", "2", "--batch-size", "16", "--quiet", "--nstep", "2000", "--sigma", "0.06",
         "--allow-unconverged", "--no-figures", "--details",
         "--folds", "1")
DRAWS = ("--draws", "300", "--draw-maps", "0-2")
DIRECT = ("--epochs", "2", "--batch-size", "16", "--quiet", "--no-figures")
MCMC = ("run_mcmc.py", "--data", "data/small", *QUICK)
RUN = pathlib.Path("data", "runs", "small_compact+statistics")


@pytest.fixture(scope="module")
def work(tmp_path_factory, called):
    """A working folder with data/small (simulated) and the finished run RUN."""
    folder = tmp_path_factory.mktemp("work")
    mask = np.zeros((96, 64), bool)
    mask[4:90, 3:60] = True
    mask[30:50, 20:40] = False
    np.save(folder / "mask.npy", mask)
    simulate(folder / "data" / "small", cosmologies=12, realisations=16, test=24,
             mask=folder / "mask.npy", processes=1, quiet=True)
    run = called(*MCMC, *DRAWS, cwd=folder)
    assert run.returncode == 0, run.stderr
    (folder / "stdout.txt").write_text(run.stdout)
    return folder


@pytest.fixture()
def copied(work, tmp_path):
    """A fresh copy of the data set, for damage; with the mask beside it."""
    shutil.copytree(work / "data" / "small", tmp_path / "data" / "small")
    return tmp_path


def posterior(folder, name="small_compact+statistics"):
    with h5py.File(folder / "data" / "runs" / name / "posterior.h5") as file:
        return {key: values[:] for key, values in file["summary"].items()
                if values.dtype.kind in "fi"}


def test_main_job_writes_every_file_and_prints_a_score(work):
    out = work / RUN
    parts = {f"{kind}_{part}.{suffix}" for part in ("compact", "statistics")
             for kind, suffix in (("model", "pt"), ("predictions", "h5"))}
    assert {p.name for p in out.iterdir()} == parts | {
        "features.h5", "inputs.json", "posterior.h5", "predictions.h5", "score.json",
        "statistics.h5"}
    score = json.loads((out / "score.json").read_text())
    assert score["scored"] == "test" and np.isfinite(score["score"]) and score["score_error"] > 0
    text = (work / "stdout.txt").read_text()
    assert re.search(r"autocorrelation time \d+ steps \(most \d+\)", text)
    assert re.search(r"score +-?\d+\.\d\d \+- \d+\.\d\d", text) and "truth within 1 sd" in text
    with h5py.File(out / "posterior.h5") as file:
        assert file["posterior/Omega_m"].shape[2] == 3
        assert file["summary/posterior_mean"].shape == (24, 2)
        assert (file["observed_data/split"][:] == params.TEST).all()
    for path in out.glob("*.h5"):
        with h5py.File(path) as file:
            for group in file.values():
                for var in group.values():
                    assert var.is_scale or "long_name" in var.attrs, (path, var)


def test_a_dry_run_says_what_it_would_do_and_does_nothing(work, called, tmp_path):
    before = sorted(map(str, work.rglob("*")))
    for options, words in (((), "nothing is trained"), (("--out", "new"), "2 networks"),
                           (("--out", "new", "--method", "spectrum"), "spectrum of 216 maps"),
                           (("--out", "new", "--sampler", "exact"), "by quadrature")):
        run = called(*MCMC, *([] if "exact" in options else DRAWS), *options, "--dry-run", cwd=work)
        assert run.returncode == 0 and words in run.stdout, (run.stdout, run.stderr)
        heads = [line.split(":")[0] for line in run.stdout.splitlines()]
        assert heads[0] == "read" and heads[2:] == ["infer", "time", "write"], heads
        assert "24 maps by" in run.stdout and "12 x 16 maps" in run.stdout
        assert ("as --method spectrum has no network" in run.stderr) == ("spectrum" in options)
        assert "statistics.h5, posterior.h5, score.json" in run.stdout
    run = called("run_direct.py", "--data", "data/small", *DIRECT, "--dry-run", cwd=work)
    assert run.returncode == 0 and "own error bars" in run.stdout, run.stderr
    assert "statistics.h5" not in run.stdout
    assert sorted(map(str, work.rglob("*"))) == before
    said = called("run_mcmc.py", "--dry-run", cwd=tmp_path).stdout
    assert f"{101 * 32 + DEFAULT_TEST} are simulated" in said
    assert called("run_mcmc.py", "--data", "nowhere", "--dry-run", cwd=tmp_path).returncode == 2
    assert called(*MCMC, "--dry-run", "--sigma", "0.05", cwd=work).returncode == 2
    assert not list(tmp_path.iterdir())


def test_posterior_lies_in_the_hull_and_matches_its_draws(work):
    from scipy.spatial import Delaunay
    from wl.posterior.emulator import beyond
    found = posterior(work)
    theta = np.load(work / "data" / "small" / "label.npy")[:, 0, :2]
    theta, *_ = beyond(theta, theta, np.zeros((len(theta), 2, 2)))
    assert (Delaunay(theta).find_simplex(found["posterior_mean"]) >= 0).all()
    with h5py.File(work / RUN / "posterior.h5") as file:
        draws = np.stack([file[f"posterior/{p}"][:] for p in params.PARAMS], -1)
    assert (Delaunay(theta).find_simplex(draws.reshape(-1, 2)) >= 0).all()
    assert np.allclose(draws.mean((0, 1)), found["posterior_mean"][:3], atol=5e-3)


def test_second_run_repeats_nothing(work, script):
    out = work / RUN
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != "score.json"}
    run = script(*[a for a in MCMC if a != "--quiet"], *DRAWS, cwd=work)
    assert run.returncode == 0 and run.stdout == (work / "stdout.txt").read_text()
    assert run.stderr.count("not repeated") == 2
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != "score.json"}


def test_other_settings_are_refused_and_force_replaces_only_what_differs(work, copied, called):
    shutil.copytree(work / "data" / "runs", copied / "data" / "runs")
    out = copied / RUN
    common = (*MCMC, *DRAWS)
    # set and run were moved together: nothing is repeated
    before = (out / "posterior.h5").stat().st_mtime_ns
    run = called(*common, cwd=copied)
    assert run.returncode == 0 and (out / "posterior.h5").stat().st_mtime_ns == before, run.stderr
    model = (out / "model_compact.pt").stat().st_mtime_ns
    run = called(*common, "--sigma", "0.05", cwd=copied)
    assert run.returncode == 2 and "sigma = 0.06" in run.stderr and "sigma = 0.05" in run.stderr
    assert len(run.stderr.splitlines()) == 1 and run.stdout == ""
    assert called(*common, "--sigma", "0.05", "--force", cwd=copied).returncode == 0
    assert (out / "model_compact.pt").stat().st_mtime_ns == model
    with h5py.File(out / "posterior.h5") as file:
        assert json.loads(file.attrs["settings"])["sigma"] == 0.05


def test_results_do_not_depend_on_threads(work, copied, called):
    run = called(*MCMC, *DRAWS, "--threads", "1", cwd=copied)
    assert run.returncode == 0, run.stderr
    one, two = posterior(copied), posterior(work)
    assert one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name], equal_nan=True), name


def test_exact_sampler_agrees_with_the_chains(work, predicted, called):
    found = {}
    for name, options in {"chains": ("--nstep", "20000"),
                          "exact": ("--sampler", "exact", "--force")}.items():
        run = called("run_mcmc.py", "--data", "data/small", *QUICK, *options, "--out", predicted,
                     cwd=work)
        assert run.returncode == 0, run.stderr
        found[name] = hdf5.read(predicted / "posterior.h5").groups["summary"]
    chains, exact = found["chains"], found["exact"]
    difference = np.abs(chains["posterior_mean"] - exact["posterior_mean"])
    assert (difference < 0.2 * exact["sd"]).mean() > 0.95
    assert "ess" in chains and "ess" not in exact


def digest_of(path):
    with h5py.File(path) as file:
        return file.attrs["content"]


@pytest.fixture()
def predicted(work, tmp_path):
    """A folder for results that holds the finished predictions of `work`, to be used from there."""
    out = tmp_path / "run"
    out.mkdir()
    for name in ("predictions.h5", "inputs.json"):
        shutil.copy(work / RUN / name, out)
    return out


def test_shards_merged_are_the_whole(work, predicted, called):
    """In any order, with the draws of the first maps; a missing shard, one twice, nonsense are not.

    None of them judges whether the run has converged: joining them does.
    """
    common = (*MCMC, *DRAWS, "--nstep", "100", "--draws", "50", "--out", predicted)
    whole = called(*common, cwd=work)
    assert whole.returncode == 0, whole.stderr
    whole = (predicted / "posterior.h5").rename(predicted / "whole.h5")
    for shard in ("3/3", "1/3", "2/3"):
        run = called(*[a for a in common if a != "--allow-unconverged"], "--shard", shard, cwd=work)
        assert run.returncode == 0 and "--merge" in run.stdout, run.stderr
        assert "not converged" in run.stderr
    shards = sorted(predicted.glob("posterior.shard-*-of-3.h5"))
    assert len(shards) == 3
    merged = predicted / "posterior.h5"
    for wrong in (shards[:2], [*shards, shards[0]]):
        assert "shard" in one_line(called("run_score.py", *wrong, "--merge", merged, cwd=work))
        assert not merged.exists()
    merge = ("run_score.py", *shards, "--merge", merged, "--no-figures")
    run = called(*merge, "--data", "data/small", cwd=work)
    assert run.returncode == 1 and "score" in run.stdout, run.stderr
    assert "not converged" in run.stderr
    assert called(*merge, "--allow-unconverged", cwd=work).returncode == 0
    assert digest_of(merged) == digest_of(whole)
    again = called(*common, cwd=work)                 # the merged file stands for the whole run
    assert again.returncode == 0 and merged.stat().st_size
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0", "-1/3"):
        assert "--shard" in one_line(called(*common[:-2], "--shard=" + wrong, cwd=work))


def test_a_run_that_has_not_converged_exits_1(work, predicted, called):
    """The files are written and the answer printed; a second run says so, and may be allowed."""
    common = [a for a in (*MCMC, "--out", predicted) if a != "--allow-unconverged"]
    short = [*common, "--nstep", "100"]
    for _ in range(2):
        run = called(*short, cwd=work)
        *lines, last = run.stderr.splitlines()              # warnings are said although it is quiet
        assert run.returncode == 1 and "error: " in last and "not converged" in last, run.stderr
        assert all("warning: " in line for line in lines)
        assert "score" in run.stdout and (predicted / "posterior.h5").is_file()
        assert (predicted / "score.json").is_file()
    assert called(*short, "--allow-unconverged", cwd=work).returncode == 0
    longer = called(*common, "--nstep", "60000", "--force", cwd=work)
    assert longer.returncode == 0


def test_priors_and_recalibrations(work, predicted, called):
    """Each leaves its mark: a prior of one's own moves the means, isotonic writes quantiles."""
    theta = np.load(work / "data" / "small" / "label.npy")[:, 0, :2]
    density = np.exp(-0.5 * ((theta[:, 1] - 0.7) / 0.02)**2)
    np.savetxt(predicted / "prior.txt", np.column_stack([theta, density]))
    common = (*MCMC, "--sampler", "exact", "--out", predicted, "--force")
    found = {}
    for name, options in {"plain": (), "prior": ("--prior", predicted / "prior.txt"),
                          "temperature": ("--recalibrate", "temperature")}.items():
        run = called(*common, *options, cwd=work)
        assert run.returncode == 0, run.stderr
        with h5py.File(predicted / "posterior.h5") as file:
            found[name] = {key: file["summary"][key][:] for key in file["summary"]}
    with_prior, without = (found[k]["posterior_mean"][:, 1].mean() for k in ("prior", "plain"))
    assert with_prior < without - 0.01
    assert (found["plain"]["area_95"] > 0).all()
    assert {"recalibrated_q16", "errorbar"} <= set(found["plain"])
    assert "recalibrated_q16" not in found["temperature"]
    assert np.array_equal(found["plain"]["errorbar"], found["temperature"]["errorbar"])
    bad = predicted / "bad.txt"
    bad.write_text("1 2 3\n")
    assert "--prior" in one_line(called(*common, "--prior", bad, cwd=work))


def test_truth_that_comes_later_is_of_the_same_maps(copied, called):
    """Of a release without truth; that of other maps was scored in silence."""
    small, real = copied / "data" / "small", copied / "data" / "real"
    shutil.copytree(small, real)
    for name in ("label_test.npy", "simulation.json"):
        (real / name).unlink()
    run = called("run_mcmc.py", "--data", real, "--method", "spectrum", "--target", "test", "--quiet",
                 "--smooth", "always", "--sampler", "exact", "--no-figures", "--out", "run",
                 cwd=copied)
    assert run.returncode == 0 and "No truth is known" in run.stdout, run.stderr
    score = ("run_score.py", "run/posterior.h5", "--no-figures")
    other, label = copied / "data" / "other", np.load(small / "label_test.npy")
    shutil.copytree(small, other)
    maps = np.load(other / dataset.TEST_FILE)
    np.save(other / dataset.TEST_FILE, maps[::-1])
    assert "of others" in one_line(called(*score, "--data", other, cwd=copied))
    np.save(real / "label_test.npy", np.concatenate([label, label[:3]]))
    assert "of others" in one_line(called(*score, cwd=copied))
    np.save(real / "label_test.npy", label)
    assert "on 24 test maps" in called(*score, cwd=copied).stdout
    assert "on 24 test maps" in called(*score, "--data", small, cwd=copied).stdout


def test_out_of_distribution_metric(work, predicted, called):
    """Labels of the test maps, or another posterior file; only with one posterior."""
    path, label = RUN / "posterior.h5", predicted / "label.npy"
    np.save(label, np.arange(24) % 3 == 0)
    for other in (label, path):
        run = called("run_score.py", path, "--ood", other, "--no-figures", cwd=work)
        assert run.returncode == 0 and "true-positive rate" in run.stdout, run.stdout
    np.save(label, np.ones(5, bool))
    assert "24" in one_line(called("run_score.py", path, "--ood", label, cwd=work))
    file = hdf5.read(work / path)
    groups = {g: {n: hdf5.Var(file.dims[g][n], a) for n, a in file.groups[g].items()}
              for g in ("summary", "observed_data")}
    p_values = {"p_value_all": hdf5.Var(("map",), np.ones(24))}        # of hand-made statistics
    for d, more, words in ((3, {}, "chi2 of 3"), (2, p_values, "p_value_all of 2")):
        groups["observed_data"]["summaries"] = hdf5.Var(("map", "summary"), np.ones((24, d)))
        groups["summary"] |= more
        hdf5.write(predicted / "other.h5", "posterior", groups, settings=file.settings)
        line = one_line(called("run_score.py", path, "--ood", predicted / "other.h5", cwd=work))
        assert f"has {words} summaries" in line and "has chi2 of 2 summaries" in line


def test_calibration_of_a_finished_run(work, predicted, called):
    """Calibrated: exit 0; shrunk posteriors: 1; a run without emulator, or two runs' files: 2."""
    run_folder = work / RUN

    def calibrate(*options):
        return called("wl.validate.__main__", "calibration", *options, "--maps", "3000", "--quiet")
    run = calibrate(run_folder)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "calibrated", run.stderr
    run = calibrate(run_folder, "--scale", "0.7")
    assert run.returncode == 1 and "TARP" in run.stderr
    assert "not calibrated: coverage at 68 %" in run.stderr
    assert "posterior.h5" in one_line(calibrate(predicted))
    file = hdf5.read(run_folder / "posterior.h5")
    design = hdf5.Var(("cosmology", "param"), file.groups["constant_data"]["design"])
    hdf5.write(predicted / "posterior.h5", "posterior", {"constant_data": {"design": design}})
    assert "without emulator" in one_line(calibrate(predicted))


def test_a_posterior_follows_from_its_file_alone(work, called):
    """SciPy's interpolation between its vertices, Gaussian likelihood, prior: a sum over a grid
    gives the means and standard deviations of the quadrature."""
    run = called("run_mcmc.py", "--predictions", RUN / "predictions.h5", "--sampler", "exact",
                 "--out", "alone", "--no-figures", "--quiet", "--allow-unconverged", cwd=work)
    assert run.returncode == 0, run.stderr
    groups = hdf5.read(work / "alone" / "posterior.h5").groups
    theta, mean, covariance, prior = (groups["constant_data"][f"vertex_{name}"] for name in (
        "theta", "mean", "covariance", "log_prior"))
    assert len(theta) > len(groups["constant_data"]["design"])           # the prior goes beyond it
    axes = [np.linspace(low, high, 500) for low, high in zip(theta.min(0), theta.max(0))]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    values = np.column_stack([prior, mean, covariance.reshape(len(theta), -1)])
    values = LinearNDInterpolator(theta, values)(points)
    points, values = (v[np.isfinite(values[:, 0])] for v in (points, values))
    inverse = np.linalg.inv(values[:, 3:].reshape(-1, 2, 2))
    for i, summary in enumerate(groups["observed_data"]["summaries"]):
        left = summary - values[:, 1:3]
        log_density = values[:, 0] + 0.5 * (np.log(np.linalg.det(inverse)) - np.einsum(
            "pi,pij,pj->p", left, inverse, left))
        weight = np.exp(log_density - log_density.max())
        weight /= weight.sum()
        expected = weight @ points
        sd = np.sqrt(weight @ (points - expected)**2)
        assert np.abs(expected - groups["summary"]["posterior_mean"][i]).max() < 0.01 * sd.min()
        assert np.allclose(sd, groups["summary"]["sd"][i], rtol=0.01)


def test_spectrum_runs_end_to_end(work, called):
    run = called("run_mcmc.py", "--data", "data/small", "--method", "spectrum", "--quiet",
                 "--nstep", "3000", "--sigma", "0.04", "--allow-unconverged", "--no-figures",
                 cwd=work)
    assert run.returncode == 0, run.stderr
    assert np.isfinite(posterior(work, "small_spectrum")["posterior_mean"]).all()


def test_direct_runs_end_to_end_and_holdout_is_scored(work, called):
    run = called("run_direct.py", "--data", "data/small", *DIRECT, "--target", "both", cwd=work)
    assert run.returncode == 0, run.stderr
    found = posterior(work, "small_direct_compact+statistics")
    assert (found["sd"] > 0).all()
    out = work / "data" / "runs" / "small_direct_compact+statistics"
    with h5py.File(out / "posterior.h5") as file:
        split, cosmology = file["observed_data/split"][:], file["observed_data/cosmology"][:]
    assert set(split) == {params.TEST, params.HOLDOUT}
    assert (cosmology[split == params.HOLDOUT] >= 0).all()
    assert (np.diff(split) <= 0).all() and params.TEST > params.HOLDOUT      # as maps are numbered
    given = hdf5.read(out / "predictions.h5").groups
    data, design = given["predictions"], given["constant_data"]["design"]
    some = data["split"] == params.EMULATOR
    pull = (design[data["cosmology"][some]] - data["summaries"][some]) / data["sd"][some]
    assert np.allclose(found["correlation"], np.corrcoef(pull.T)[0, 1], atol=1e-9)
    score = json.loads((out / "score.json").read_text())
    assert {"test", "holdout"} <= set(score["subsets"])


def test_run_score_and_submission(work, called):
    run = called("run_score.py", RUN / "posterior.h5", "--submission", "out.zip", "--no-figures",
                 cwd=work)
    assert run.returncode == 0 and (work / "out.zip").is_file(), run.stderr


def test_help_of_every_script(script):
    for name in ("run_mcmc.py", "run_direct.py", "run_score.py"):
        run = script(name, "--help")
        assert run.returncode == 0 and "examples" in run.stdout and "--seed" in run.stdout
        assert script(name, "--version").stdout.startswith("wl ")


def test_warm_start_imports_no_torch(work, python):
    code = ("import sys, os; os.chdir(sys.argv[1]); sys.argv = ['run_mcmc.py'] + sys.argv[2:]\n"
            "from wl.core import cli; os.environ.update(cli.ALLOCATOR)\n"
            "import run_mcmc\nrun_mcmc.main()\nassert 'torch' not in sys.modules")
    run = python(code, work, "--data", "data/small", *QUICK, *DRAWS)
    assert run.returncode == 0, run.stderr


# ---------------------------------------------------------------- faults: one line, exit 2, no file
def damage(folder, what):
    data = folder / "data" / "small"
    kappa = data / f"{params.FILE_PREFIX}_kappa.npy"
    if what == "missing maps":
        kappa.unlink()
    elif what == "missing mask":
        (data / dataset.MASK_FILE).unlink()
    elif what == "missing labels":
        (data / "label.npy").unlink()
    elif what == "truncated maps":
        os.truncate(kappa, kappa.stat().st_size // 2)
    elif what == "no npy":
        kappa.write_text("these are not maps")
    elif what == "pickle":
        np.save(kappa, np.array([{}, None]), allow_pickle=True)
    elif what in ("nan in maps", "inf in maps"):
        values = np.load(kappa)
        values[3, 4, 5] = np.nan if "nan" in what else np.inf
        np.save(kappa, values)
    elif what == "nan in test maps":
        values = np.load(data / dataset.TEST_FILE)
        values[2, 7] = np.nan
        np.save(data / dataset.TEST_FILE, values)
    elif what == "dtype":
        np.save(kappa, np.load(kappa).astype(np.float64))
    elif what == "shape":
        np.save(kappa, np.load(kappa)[:, :3])
    elif what == "pixels":
        mask = np.load(data / dataset.MASK_FILE)
        mask[0, 0] = True
        np.save(data / dataset.MASK_FILE, mask)
    elif what == "mask dtype":
        np.save(data / dataset.MASK_FILE, np.load(data / dataset.MASK_FILE).astype(np.float32))
    else:
        label = np.load(data / "label.npy")
        if what == "nan in labels":
            label[1, 2, 0] = np.nan
        elif what == "labels differ":
            label[1, 2, 0] += 0.01
        elif what == "label columns":
            label = label[..., :4]
        elif what == "same cosmology twice":
            label[1, :, :2] = label[0, :, :2]
        np.save(data / "label.npy", label)


FAULTS = ["missing maps", "missing mask", "missing labels", "truncated maps", "no npy", "pickle",
          "nan in maps", "inf in maps", "nan in test maps", "dtype", "shape", "pixels",
          "mask dtype", "nan in labels", "labels differ", "label columns"]


def one_line(run):
    assert run.returncode == 2, (run.returncode, run.stderr)
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and "error:" in lines[0] and "Traceback" not in run.stderr, run.stderr
    assert run.stdout == ""
    return lines[0]


def test_damaged_data_is_refused_in_one_line(copied, work, python):
    """A process for each fault would cost minutes of imports: one runs the script for all."""
    code = ("import sys, io, contextlib, os, shutil\n"
            "import pathlib, test_scripts, run_mcmc\nfrom wl.core import cli\n"
            "os.environ.update(cli.ALLOCATOR)\n"
            "os.chdir(sys.argv[2]); base = pathlib.Path('.')\n"
            "for fault in test_scripts.FAULTS:\n"
            "    shutil.rmtree('data/small'); shutil.copytree(sys.argv[3], 'data/small')\n"
            "    test_scripts.damage(base, fault)\n"
            "    err, out = io.StringIO(), io.StringIO()\n"
            "    sys.argv[:] = [*test_scripts.MCMC, *sys.argv[1:4]]\n"
            "    saved = sys.argv[-3:]; del sys.argv[-3:]\n"
            "    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):\n"
            "        try:\n"
            "            cli.run(run_mcmc.main)\n"
            "        except SystemExit as end:\n"
            "            code = end.code\n"
            "    sys.argv[1:] = saved\n"
            "    left = [str(p) for p in base.rglob('*')\n"
            "            if 'runs' in p.parts and p.is_file() and p.name != 'inputs.json']\n"
            "    print(repr((fault, code, err.getvalue(), out.getvalue(), left)))\n")
    run = python(code, ROOT, copied, work / "data" / "small", timeout=900)
    assert run.returncode == 0, run.stderr
    import ast
    results = [ast.literal_eval(line) for line in run.stdout.splitlines()]
    assert [r[0] for r in results] == FAULTS
    for fault, code, err, out, left in results:
        assert code == 2 and len(err.splitlines()) == 1, (fault, code, err)
        assert "Traceback" not in err, (fault, err)
        assert out == "" and left == [], (fault, out, left)


@pytest.mark.parametrize("option, value, word", [
    ("--sigma", "0", "--sigma"), ("--sigma", "-1", "--sigma"), ("--sigma", "nan", "--sigma"),
    ("--nstep", "0", "--nstep"), ("--nstep", "-5", "--nstep"), ("--burn-in", "1.0", "--burn-in"),
    ("--model", "nonsense", "--model")])
def test_wrong_settings_are_refused(copied, called, option, value, word):
    line = one_line(called(*MCMC, option, value, cwd=copied))
    assert word in line
    assert not list(copied.glob("data/runs/**/*.h5"))


def test_too_few_realisations_for_raw_covariances(copied, called):
    line = one_line(called(*MCMC, "--smooth", "none", "--emulator-fraction", "0.2", cwd=copied))
    assert "realisations" in line


@pytest.mark.parametrize("harm", ["truncated", "text", "foreign"])
def test_damaged_outputs_are_refused(work, copied, called, harm):
    shutil.copytree(work / "data" / "runs", copied / "data" / "runs")
    path = copied / RUN / "posterior.h5"
    if harm == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif harm == "text":
        path.write_text("not HDF5")
    else:
        with h5py.File(path, "w") as file:
            file["x"] = [1, 2, 3]
    assert "posterior.h5" in one_line(called("run_score.py", path, cwd=copied))
    assert "posterior.h5" in one_line(called(*MCMC, cwd=copied))


def test_missing_folder(tmp_path, script):
    assert "nowhere" in one_line(script("run_mcmc.py", "--data", "nowhere", cwd=tmp_path))
