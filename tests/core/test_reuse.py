"""What exists is used: no trial of a sampler trains again; what is damaged is said and, with --force, made again."""
import os

import numpy as np
import pytest
from conftest import one_line
from test_ensemble import QUICK, data  # noqa: F401

import run_mcmc
from wl.posterior import infer, posterior
from wl.summaries import pipeline, prediction, training
from wl.core import hdf5
from wl.core.checks import InputError, RunError


@pytest.fixture()
def begin(data, monkeypatch, tmp_path):  # noqa: F811
    """begin(*options) starts a run in an empty working folder; the second value is of --predictions."""
    monkeypatch.chdir(tmp_path)

    def start(*options):
        args = run_mcmc.parser().parse_args([*QUICK, "--statistics-fraction", "0.5",
                                             *([] if "--predictions" in options else ["--data", str(data)]),
                                             *map(str, options)])
        given = infer.given_predictions(args)
        return pipeline.Run(args, args.method), given
    return start


def refuse_training(*_, **__):
    raise RuntimeError("trained again")


def test_a_trial_elsewhere_takes_the_same_predictions(begin, monkeypatch, tmp_path):
    first = prediction.predict(begin()[0])
    assert first.path.resolve() == tmp_path / "data" / "runs" / "set_compact" / "predictions.h5"
    monkeypatch.setattr(training, "train", refuse_training)
    again = prediction.predict(begin("--sampler", "exact", "--out", "exact")[0])
    assert again.digest == first.digest and not list(tmp_path.glob("exact/*.pt"))
    for other in (("--epochs", "3"), ("--seed", "2"), ("--views", "2")):
        with pytest.raises(RuntimeError):
            prediction.predict(begin(*other, "--out", "other")[0])


def test_predictions_given_by_name(begin, monkeypatch, tmp_path, data):  # noqa: F811
    plain, _ = begin("--sampler", "exact", "--out", "plain", "--loss", "kl")
    settings = infer.settings_of(plain.args)
    whole = infer.infer(plain, prediction.predict(plain), settings)
    monkeypatch.setattr(training, "train", refuse_training)
    file = plain.out / "predictions.h5"
    run, given = begin("--sampler", "exact", "--out", "given", "--epochs", "7", "--predictions", file)
    infer.refuse_early(run, settings, None, given)
    path = infer.infer(run, given, settings)
    assert path.parent == run.out and hdf5.read(path).digest == hdf5.read(whole).digest
    infer.refuse_early(run, settings, None, given)                 # a second run finds its own posterior
    with pytest.raises(InputError) as error:
        infer.refuse_early(run, {**settings, "prior": "flat"}, None, given)
    one_line(error, "prior = ")
    with pytest.raises(InputError) as error:                           # and not one of the chains' own options
        infer.refuse_early(run, {**settings, "sampler": "metropolis", "adapt": False}, None, given)
    one_line(error, "sampler = ")
    with pytest.raises(InputError) as error:
        begin("--predictions", file, "--target", "both")
    one_line(error, file, "--target")
    with pytest.raises(InputError) as error:
        begin("--predictions", whole)
    one_line(error, whole, "expected a predictions file")
    label = np.load(data / "label.npy")
    label[0, :, :2] += 0.01
    np.save(data / "label.npy", label)
    run, given = begin("--predictions", file, "--out", "given")
    with pytest.raises(InputError) as error:
        infer.refuse_early(run, settings, None, given)
    one_line(error, file, "other maps", "--data")


@pytest.mark.parametrize("options", [("--nstep", "20", "--sigma", "1e6"), ("--burn-in", "0.9999"), ("--nstep", "1"),
                                     ("--sigma", "1e300", "--chains", "3")])
def test_chains_that_never_moved_fail_without_a_posterior(begin, options, tmp_path):
    run, _ = begin(*options)
    predictions = prediction.predict(run)
    with pytest.raises(RunError) as error:
        infer.infer(run, predictions, infer.settings_of(run.args))
    one_line(error, "posterior.h5", "not written", "never moved", "--sigma")
    assert not (run.out / "posterior.h5").exists() and not list(run.out.glob("sampling*"))


def test_stuck_counts_maps():
    """Several chains that each stand still somewhere have a spread, and no acceptance; quadrature has none to give."""
    sd, acceptance = np.array([[0.1, 0.1], [0.0, 0.1], [0.1, np.nan], [0.1, 0.1]]), np.array([0.3, 0.3, 0.3, 0.0])
    assert posterior.stuck({"sd": sd, "acceptance": acceptance}) == 3
    assert posterior.stuck({"sd": sd[:1], "acceptance": np.array([np.nan])}) == 0


@pytest.mark.parametrize("options, words", [
    (("--nstep", 2**31), ("--nstep", 2**31)), (("--chains", 5 * 10**6), ("--chains", "5000000")),
    (("--nstep", 10**30), ("--nstep", 10**30)), (("--thin", 10**30), ("--thin", "at most 100")),
    (("--thin", 101), ("--thin", "at most 100")), (("--adapt", "--nstep", 20), ("--adapt", "got 4")),
    (("--sampler", "exact", "--nstep", 2**31), ("--nstep",))])
def test_settings_that_the_sampler_would_refuse_are_refused_first(options, words):
    args = run_mcmc.parser().parse_args([*QUICK, *map(str, options)])
    with pytest.raises(InputError) as error:
        infer.settings_of(args)
    one_line(error, *words)


def test_largest_settings_pass():
    most = 2**31 - 1
    args = run_mcmc.parser().parse_args(["--nstep", str(most), "--thin", str((most - int(0.2 * most)) // 4)])
    assert infer.settings_of(args)["nstep"] == most


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.pt"])
def test_a_damaged_checkpoint_or_network(begin, name, capsys):
    run, _ = begin()
    run.out.mkdir(parents=True)
    (run.out / name).write_bytes(b"PK not a checkpoint")
    with pytest.raises(InputError) as error:
        prediction.predict(run)
    one_line(error, run.out / name, "remove it", "--force")
    run, _ = begin("--force")
    assert prediction.predict(run).path.exists()
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and name in said and not (run.out / "checkpoint.pt").exists()


def test_damaged_statistics_are_noticed(begin, capsys):
    run, _ = begin("--sampler", "exact")
    settings, predictions = infer.settings_of(run.args), prediction.predict(run)
    before = hdf5.read(infer.infer(run, predictions, settings)).digest
    path = run.out / "statistics.h5"
    whole = hdf5.read(path).digest
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(InputError) as error:
        infer.infer(run, predictions, settings)
    one_line(error, path, "--force")
    run.args.force = True
    assert hdf5.read(infer.infer(run, predictions, settings)).digest == before
    assert hdf5.read(path).digest == whole and "statistics.h5" in capsys.readouterr().err
