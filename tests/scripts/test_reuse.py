"""What exists is used: no trial of a sampler trains again; --force makes damaged files anew."""
import os
import types

import numpy as np
import pytest
from conftest import one_line
from runs import QUICK, data  # noqa: F401

import run_mcmc
from wl.core import cli, hdf5
from wl.core.checks import InputError, RunError
from wl.maps.splits import MapOptions
from wl.posterior import infer, posterior
from wl.posterior.options import PosteriorOptions, Wanted
from wl.simulate.simulate import locate
from wl.summaries import predict, training
from wl.summaries.options import NetworkOptions


def parsed(*options):
    return cli.parse(run_mcmc.parser(), [*QUICK, *map(str, options)])


@pytest.fixture()
def begin(data, monkeypatch, tmp_path):  # noqa: F811
    """begin(*options) prepares a run in an empty working folder as run_mcmc.py does."""
    monkeypatch.chdir(tmp_path)

    def start(*options):
        named = [] if "--predictions" in options or "--data" in options else ["--data", data]
        args = parsed("--emulator-fraction", "0.5", *named, *options)
        run = types.SimpleNamespace(args=args, posterior=PosteriorOptions.of(args), work=None)
        if args.predictions is not None:
            run.predictions, run.folder, run.wanted = run_mcmc.given(args, run.posterior, None)
            return run
        maps, network = locate(args), NetworkOptions.of(args, args.method)
        run.folder = cli.folder(args, f"{maps.name}_{network.model}")
        run.work = predict.prepare(maps, MapOptions.of(args), network, run.folder)
        run.wanted = Wanted(run.work.split.options.target)
        return run
    return start


def inferred(run, predictions=None):
    """The posterior of a run. Returns its path."""
    predictions = predictions or predict.predict(run.work)
    return infer.infer(predictions, run.posterior, run.folder, run.wanted)


def refuse_training(*_, **__):
    raise RuntimeError("trained again")


def test_a_trial_elsewhere_takes_the_same_predictions(begin, monkeypatch, tmp_path):
    first = predict.predict(begin().work)
    assert first.path.resolve() == tmp_path / "data" / "runs" / "set_compact" / "predictions.h5"
    monkeypatch.setattr(training, "train", refuse_training)
    again = predict.predict(begin("--sampler", "exact", "--out", "exact").work)
    assert again.digest == first.digest and not list(tmp_path.glob("exact/*.pt"))
    for other in (("--epochs", "3"), ("--seed", "2"), ("--views", "2")):
        with pytest.raises(RuntimeError):
            predict.predict(begin(*other, "--out", "other").work)


def test_predictions_given_by_name(begin, monkeypatch, tmp_path, data):  # noqa: F811
    plain = begin("--sampler", "exact", "--out", "plain", "--loss", "kl")
    whole = inferred(plain)
    monkeypatch.setattr(training, "train", refuse_training)
    file = plain.folder.out / "predictions.h5"
    options = ("--sampler", "exact", "--out", "given", "--epochs", "7", "--predictions", file)
    run = begin(*options)
    path = inferred(run, run.predictions)
    assert path.parent == run.folder.out and hdf5.read(path).digest == hdf5.read(whole).digest
    begin(*options)                                          # a second run finds its own posterior
    for other, words in ((("--prior", "flat"), "prior = "),
                         (("--sampler", "metropolis"), "sampler = ")):
        with pytest.raises(InputError) as error:
            begin(*options, *other)
        one_line(error, words)
    with pytest.raises(InputError) as error:
        begin("--predictions", file, "--target", "both")
    one_line(error, file, "--target both", "--target test")
    with pytest.raises(InputError) as error:
        begin("--predictions", whole)
    one_line(error, whole, "expected a predictions file")
    begin(*options, "--data", data)                                # the same maps, named
    label = np.load(data / "label.npy")
    label[0, :, :2] += 0.01
    np.save(data / "label.npy", label)
    with pytest.raises(InputError) as error:
        begin(*options, "--data", data)
    one_line(error, file, "other maps", "--data")


def test_a_moved_set_stays_the_same_set(begin, tmp_path, data, monkeypatch):  # noqa: F811
    """A run belongs to what its inputs hold, not to where they lay."""
    first = inferred(begin("--sampler", "exact", "--out", "out"))
    moved = tmp_path / "moved" / "set"
    moved.parent.mkdir()
    data.rename(moved)
    monkeypatch.setattr(training, "train", refuse_training)
    run = begin("--sampler", "exact", "--out", "out", "--data", moved)
    assert hdf5.read(inferred(run)).digest == hdf5.read(first).digest


@pytest.mark.parametrize("options", [
    ("--nstep", "20", "--sigma", "1e6"), ("--burn-in", "0.99", "--sigma", "1e6"), ("--nstep", "1"),
    ("--sigma", "1e300", "--chains", "3")])
def test_chains_that_never_moved_fail_without_a_posterior(begin, options, tmp_path):
    run = begin(*options)
    with pytest.raises(RunError) as error:
        inferred(run)
    one_line(error, "posterior.h5", "not written", "never moved", "--sigma")
    assert not (run.folder.out / "posterior.h5").exists()


@pytest.mark.parametrize("options, words", [
    (("--nstep", 2**31), ("--nstep", 2**31)), (("--chains", 5 * 10**6), ("--chains", "5000000")),
    (("--nstep", 10**11), ("--nstep", 10**11)), (("--thin", 10**11), ("--thin", "at most 100")),
    (("--thin", 101), ("--thin", "at most 100")),
    (("--sampler", "exact", "--nstep", 2**31), ("--nstep",))])
def test_settings_that_the_sampler_would_refuse_are_refused_first(options, words):
    with pytest.raises(InputError) as error:
        PosteriorOptions.of(parsed(*options))
    one_line(error, *words)


def test_largest_settings_pass():
    most = 2**31 - 1
    args = parsed("--nstep", most, "--thin", (most - int(0.2 * most)) // 4)
    assert PosteriorOptions.of(args).stored()["nstep"] == most


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.pt"])
def test_a_damaged_checkpoint_or_network(begin, name, capsys):
    run = begin()
    path = run.folder.out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PK not a checkpoint")
    with pytest.raises(InputError) as error:
        predict.predict(run.work)
    one_line(error, path, "remove it", "--force")
    assert predict.predict(begin("--force").work).path.exists()
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and name in said
    assert not path.with_name("checkpoint.pt").exists()


def test_damaged_statistics_are_noticed(begin, capsys):
    run = begin("--sampler", "exact")
    before = hdf5.read(inferred(run)).digest
    path = run.folder.out / "statistics.h5"
    whole = hdf5.read(path).digest
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(InputError) as error:
        inferred(begin("--sampler", "exact"))
    one_line(error, path, "--force")
    assert hdf5.read(inferred(begin("--sampler", "exact", "--force"))).digest == before
    assert hdf5.read(path).digest == whole and "statistics.h5" in capsys.readouterr().err
