"""A trained run on new maps: the same numbers as in the run itself, and one line for what does not
fit."""
import dataclasses
import shutil

import numpy as np
import pytest
from conftest import one_line
from runs import N_TEST, shared, start  # noqa: F401

import run_mcmc
import run_score
import wl
from wl.core import hdf5
from wl.core.checks import InputError
from wl.core.params import EMULATOR, TEST
from wl.maps import dataset
from wl.posterior.options import Wanted, options_of
from wl.summaries import apply, handmade, likeness, predict

MODELS = ("--model", "compact+statistics", "--folds", "2", "--epochs", "1", "--model-option",
          "networks=2")


@pytest.fixture(scope="module")
def run(shared):  # noqa: F811
    """A finished run: folder of its set, and its predictions; its maps are few for p-values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "MAPS_PER_NUMBER", 0)
        yield shared, predict.predict(start(shared, *MODELS))


def applied(run, path, wanted=Wanted("test"), threads=1):
    return apply.apply(apply.open_run(run.path.parent), path, wanted.rows, threads, quiet=True)


def summaries(file, code):
    group = file.groups["predictions"]
    return group["summaries"][group["split"] == code]


@pytest.fixture(scope="module")
def frames(run, tmp_path_factory):
    """The test maps as big-endian frames with NaN outside the mask, as FITS files become."""
    data, _ = run
    mask, maps = np.load(data / dataset.MASK_FILE), np.load(data / dataset.TEST_FILE)
    out = np.full((len(maps), *mask.shape), np.nan, ">f4")
    out[:, mask] = maps
    path = tmp_path_factory.mktemp("new") / "frames.npy"
    np.save(path, out)
    return path


def test_test_maps_get_the_summaries_of_the_run(run, frames):
    data, file = run
    for path, threads in ((data / dataset.TEST_FILE, 1), (frames, 2)):
        found = applied(file, path, threads=threads)
        assert np.array_equal(summaries(found, TEST), summaries(file, TEST))
        assert np.array_equal(summaries(found, EMULATOR), summaries(file, EMULATOR))
        ours, theirs = found.groups["predictions"], file.groups["predictions"]
        for name in ("p_value_spectrum", "p_value_one_point", "p_value_all"):
            assert np.allclose(ours[name][-N_TEST:], theirs[name][-N_TEST:], rtol=1e-6)
        ids = found.coords["predictions"]["map"]
        assert np.array_equal(ids[-N_TEST:], np.arange(N_TEST)) and len(set(ids)) == len(ids)


def test_every_map_is_summarised_alone(run, frames, tmp_path):
    """A map's summary does not depend on its neighbours, its place, nor on the shard it is in."""
    whole = summaries(applied(run[1], frames), TEST)
    np.save(tmp_path / "turned.npy", np.load(frames)[::-1])
    turned = summaries(applied(run[1], tmp_path / "turned.npy"), TEST)
    assert np.array_equal(turned[::-1], whole) and not np.array_equal(turned, whole)
    np.save(tmp_path / "one.npy", np.load(frames)[3])
    assert np.array_equal(summaries(applied(run[1], tmp_path / "one.npy"), TEST), whole[3:4])
    part = summaries(applied(run[1], frames, Wanted("test", (2, 3))), TEST)
    assert np.array_equal(part[1::3], whole[1::3]) and np.isnan(part[::3]).all()


def test_the_command_prints_each_map_and_writes_the_same_posterior(run, frames, tmp_path, capsys):
    data, file = run
    common = ["--sampler", "exact", "--quiet", "--threads", "1", "--recalibrate", "temperature"]
    run_mcmc.main(["--predictions", str(file.path), "--out", str(tmp_path / "own"), *common])
    capsys.readouterr()
    out = tmp_path / "new"
    run_mcmc.main(["--apply", str(file.path.parent), "--maps", str(frames), "--out", str(out),
                   *common])
    text = capsys.readouterr().out
    assert f"{N_TEST} new maps" in text and "p-value" in text and str(out) in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    own, new = (hdf5.read(folder / "posterior.h5") for folder in (tmp_path / "own", out))
    for name, values in own.groups["summary"].items():
        if values.dtype.kind == "f":
            assert np.array_equal(values, new.groups["summary"][name], equal_nan=True), name
    assert set(own.groups) == set(new.groups)
    assert "noisy_test" not in new.inputs and new.settings["target"] == "test"
    run_mcmc.main(["--apply", str(file.path.parent), "--maps", str(frames), "--out", str(out),
                   *common])                                             # nothing stands in the way


def test_new_maps_get_the_prior_and_the_recalibration_of_the_run(run, tmp_path, capsys):
    """In place of the defaults, by which the same maps got other posteriors."""
    data, file = run
    folder = tmp_path / "run"
    shutil.copytree(file.path.parent, folder)
    common = ["--sampler", "exact", "--threads", "1", "--no-figures"]
    run_mcmc.main(["--predictions", str(folder / "predictions.h5"), "--out", str(folder), *common,
                   "--prior", "flat", "--smooth", "always", "--recalibrate", "none"])
    new = ["--apply", str(folder), "--maps", str(data / dataset.TEST_FILE), *common]
    capsys.readouterr()
    run_mcmc.main([*new, "--out", str(tmp_path / "new")])
    said = capsys.readouterr().err
    assert all(f"--{words} unless given" in said for words in ("prior flat", "smooth always",
                                                      "recalibrate none"))
    own, found = (hdf5.read(f / "posterior.h5") for f in (folder, tmp_path / "new"))
    assert np.array_equal(own.groups["summary"]["posterior_mean"],
                          found.groups["summary"]["posterior_mean"])
    assert "recalibrated_q50" not in found.groups["summary"]
    run_mcmc.main([*new, "--out", str(tmp_path / "own"), "--recalibrate", "temperature"])
    found = hdf5.read(tmp_path / "own" / "posterior.h5").settings
    assert (found["recalibrate"], found["prior"]) == ("temperature", "flat")
    run_mcmc.main([*new, "--out", str(tmp_path / "default"), "--prior", "design"])
    found = hdf5.read(tmp_path / "default" / "posterior.h5").settings
    assert (found["recalibrate"], found["prior"]) == ("none", "design")
    summaries = wl.apply(folder, data / dataset.TEST_FILE, threads=1)
    notebook = wl.infer(summaries, tmp_path / "notebook", sampler="exact")
    assert notebook.settings == hdf5.read(tmp_path / "new" / "posterior.h5").settings
    assert np.array_equal(own.groups["summary"]["sd"], notebook.groups["summary"]["sd"])
    given = wl.infer(summaries, tmp_path / "given", sampler="exact", prior="design").settings
    assert (given["recalibrate"], given["prior"]) == ("none", "design")


def test_a_run_on_held_out_maps_is_applied_too(shared, tmp_path):
    held = predict.predict(start(shared, *MODELS, "--target", "holdout", "--holdout-fraction", "0.25",
                                 out="held"))
    run_mcmc.main(["--apply", str(held.path.parent), "--maps", str(shared / dataset.TEST_FILE),
                   "--sampler", "exact", "--smooth", "always", "--threads", "1", "--quiet",
                   "--out", str(tmp_path / "new")])
    found = hdf5.read(tmp_path / "new" / "posterior.h5").groups["summary"]["posterior_mean"]
    assert len(found) == N_TEST and np.isfinite(found).all()


def test_options_of_other_predictions_are_not_taken(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run[1].path.parent, folder)
    hdf5.write(folder / "posterior.h5", "posterior", {}, settings={"prior": "flat"},
               inputs={"predictions": "0" * 64})
    assert options_of(folder, False) == {}
    assert "other predictions" in capsys.readouterr().err
    prior = tmp_path / "prior.txt"
    prior.write_text("0.3 0.8 1")
    hdf5.write(folder / "posterior.h5", "posterior", {}, settings={"prior": str(prior)},
               inputs={"predictions": run[1].digest, "prior": "0" * 64})
    assert options_of(folder, True)["prior"] == str(prior)
    assert "was changed since" in capsys.readouterr().err


def test_what_the_message_of_a_missing_file_says_makes_it_again(shared, tmp_path):
    """A repeated run alone finds its predictions done, and makes no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "MAPS_PER_NUMBER", 0)
        first = predict.predict(start(shared, *MODELS, out="whole"))
        folder = first.path.parent
        for name in ("features.h5", "model_compact_f1_m0.pt"):
            (folder / name).unlink()
            with pytest.raises(InputError) as error:
                applied(first, shared / dataset.TEST_FILE)
            one_line(error, name, "missing", "predictions.h5", "delete", "repeat the run")
            (folder / "predictions.h5").unlink()
            again = predict.predict(start(shared, *MODELS, out="whole"))
            assert again.digest == first.digest and (folder / name).exists()


def test_the_depth_of_new_maps_is_judged_by_all_of_them(run, tmp_path, capsys):
    data, file = run
    maps = np.repeat(np.load(data / dataset.TEST_FILE)[:1], 80, axis=0)
    maps[70:] *= 6
    np.save(tmp_path / "deep.npy", maps)
    applied(file, tmp_path / "deep.npy", Wanted("test", (1, 80)))
    assert "give maps of this depth" in capsys.readouterr().err


def test_strange_maps_are_flagged_and_distrusted(run, frames, tmp_path, capsys):
    """By p_value_all too: maps of other noise fit the summaries well, but not the statistics."""
    for factor in (1.0, 2.0):
        np.save(tmp_path / "new.npy", (factor * np.load(frames)).astype("f4"))
        out, common = tmp_path / f"{factor}", ["--sampler", "exact", "--quiet", "--threads", "1"]
        run_mcmc.main(["--apply", str(run[1].path.parent), "--maps", str(tmp_path / "new.npy"),
                       "--out", str(out), *common])
        found = hdf5.read(out / "posterior.h5").groups["summary"]
        strange = (found["p_value_all"] < 1e-3) | (found["p_value"] < 1e-3)
        assert ((found["flag"] & 16 > 0) == strange).all()
        assert strange.all() if factor > 1.0 else strange.sum() <= 1
        capsys.readouterr()
        run_score.main([str(out / "posterior.h5"), "--no-figures"])
        assert ("Distrust" in capsys.readouterr().out) == (factor > 1.0)


def test_spectra_of_new_maps(shared, tmp_path, capsys):  # noqa: F811
    args = run_mcmc.parser().parse_args(
        ["--data", str(shared), "--method", "spectrum", "--sampler", "exact", "--smooth", "always",
         "--out", str(tmp_path), "--quiet"])
    args.threads = 1
    file, *_ = run_mcmc.predicted(args, run_mcmc_options())
    found = applied(file, shared / dataset.TEST_FILE)
    assert np.array_equal(summaries(found, TEST), summaries(file, TEST))
    run_mcmc.main(["--apply", str(tmp_path), "--maps", str(shared / dataset.TEST_FILE), "--smooth",
                   "always", "--out", str(tmp_path / "new"), "--dry-run"])
    said = capsys.readouterr().out
    assert f"{N_TEST} maps" in said and "measure" in said and not (tmp_path / "new").exists()
    assert "statistics.h5, posterior.h5, about" in said                  # without truth no score


def test_new_maps_are_scored_by_the_truth_of_their_own_set_alone(run, frames, tmp_path, capsys):
    """Without --data they have none, of other maps it is refused; shards join, a table is made."""
    data, file = run
    for maps, out in ((data / dataset.TEST_FILE, "own"), (frames, "new")):
        for shard in ("1/2", "2/2"):
            run_mcmc.main(["--apply", str(file.path.parent), "--maps", str(maps), "--out",
                           str(tmp_path / out), "--sampler", "exact", "--smooth", "always",
                           "--quiet", "--threads", "1", "--shard", shard])
    own, new = (tmp_path / out / "posterior.h5" for out in ("own", "new"))
    for path in (own, new):
        run_score.main([*map(str, path.parent.glob("*shard*")), "--merge", str(path), "--quiet",
                        "--no-figures", "--export", "csv", str(path.with_name("x.csv"))])
        assert "No truth is known" in capsys.readouterr().out
        assert path.with_name("x.csv").read_text().count("\n") == N_TEST + 1
    run_score.main([str(own), "--data", str(data), "--no-figures", "--quiet"])
    assert f"on {N_TEST} test maps" in capsys.readouterr().out
    with pytest.raises(InputError) as error:
        run_score.main([str(new), "--data", str(data), "--no-figures", "--quiet"])
    one_line(error, "--data", "others")
    with pytest.raises(InputError) as error:
        applied(file, frames, Wanted("test", (1, N_TEST + 1)))
    one_line(error, "--shard", f"at most {N_TEST}")
    with pytest.raises(InputError) as error:
        run_mcmc.main(["--config", str(new), "--dry-run"])
    one_line(error, "--config", "--apply")


def test_a_run_is_repeated_from_its_result(run, tmp_path, capsys, monkeypatch):
    """Of networks, and of predictions of others; a score is none, and is said to be none."""
    monkeypatch.chdir(tmp_path)
    data, file = run
    run_mcmc.main(["--config", str(file.path), "--out", "again", "--threads", "1", "--dry-run"])
    said = capsys.readouterr().out
    assert f"read: {data}" in said and "compact+statistics, 2 folds" in said and "1 epochs" in said
    theirs = np.random.default_rng(1).normal(0.5, 0.01, (30, 2))
    np.savez("theirs.npz", summaries=theirs, truth=np.repeat([[0.2, 0.7], [0.3, 0.9], [0.4, 0.8]],
                                                             10, axis=0))
    common = ["--quiet", "--threads", "1", "--no-figures"]
    run_mcmc.main(["--predictions", "theirs.npz", "--out", "a", "--sampler", "exact", *common])
    run_mcmc.main(["--config", "a/posterior.h5", "--out", "b", *common])
    a, b = (hdf5.read(f"{name}/posterior.h5") for name in "ab")
    assert np.array_equal(a.groups["summary"]["sd"], b.groups["summary"]["sd"])
    with pytest.raises(InputError) as error:
        run_mcmc.main(["--config", "a/score.json", "--dry-run"])
    one_line(error, "--config a/score.json", "a score")


def run_mcmc_options():
    from wl.posterior.options import PosteriorOptions
    return PosteriorOptions(sampler="exact", smooth="always")


# ---------------------------------------------------------------- what does not fit
def spoilt(frames, how):
    """Frames with one fault, and the words that the message must have."""
    maps = np.load(frames).astype(np.float32)
    inside = ~np.isnan(maps[0])
    if how == "NaN":
        maps[2][tuple(np.argwhere(inside)[7])] = np.nan
        return maps, ("finite", "map 2")
    if how == "overflow":
        maps[1][inside] = 1e9
        return maps, ("finite", "map 1", "inf")
    if how == "constant":
        maps[4] = 0.5
        return maps, ("vary", "map 4")
    if how == "turned":
        return maps.transpose(0, 2, 1), ("mask", "shape")
    if how == "integers":
        return np.nan_to_num(maps).astype(int), ("dtype",)
    return {"no map": maps[:0], "pixels": maps[:, inside][:, :-1].copy("C")}[how], ("shape",)


@pytest.mark.parametrize("how", ["NaN", "overflow", "constant", "turned", "integers", "no map",
                                 "pixels"])
def test_maps_that_do_not_fit_are_refused(run, frames, tmp_path, how):
    maps, words = spoilt(frames, how)
    np.save(tmp_path / "bad.npy", maps)
    with pytest.raises(InputError) as error:
        applied(run[1], tmp_path / "bad.npy")
    one_line(error, "bad.npy", *words)


@pytest.mark.parametrize("harm", ["missing", "other"])
def test_networks_that_are_not_the_runs_are_refused(run, tmp_path, harm):
    folder = tmp_path / "run"
    shutil.copytree(run[1].path.parent, folder)
    model = folder / "model_compact_f1_m0.pt"
    if harm == "missing":
        model.unlink()
    else:
        shutil.copy(folder / "model_compact_f0_m0.pt", model)
    with pytest.raises(InputError) as error:
        apply.open_run(folder)
    one_line(error, model.name, "delete predictions.h5" if harm == "missing" else "delete both")


@pytest.mark.parametrize("change", ["seed", "inputs"])
def test_statistics_of_another_run_are_refused(run, frames, monkeypatch, change):
    """As a killed --force leaves them: they would give wrong p-values."""
    read = apply.hdf5.read
    def other(path, kind, **more):
        file = read(path, kind, **more)
        if kind != "features":
            return file
        return file._replace(**({"seed": 9} if change == "seed" else
                                {"inputs": {**file.inputs, "kappa": "0" * 64}}))
    monkeypatch.setattr(apply.hdf5, "read", other)
    with pytest.raises(InputError) as error:
        applied(run[1], frames)
    one_line(error, "features.h5", "delete predictions.h5", "repeat the run")


def test_a_run_of_other_statistics_is_refused(run, frames, monkeypatch):
    """Of code from before a statistic was added, say."""
    monkeypatch.setattr(handmade, "measure", lambda *words: np.ones((len(words[2]), 3)))
    with pytest.raises(InputError) as error:
        applied(run[1], frames)
    one_line(error, "statistics of a map", "this code measures 3", "repeat the run")


def test_a_run_from_before_a_p_value_gets_it_for_new_maps(run, frames):
    file = apply.open_run(run[1].path.parent)
    del file.groups["predictions"]["p_value_one_point"]
    found = apply.apply(file, frames, Wanted("test").rows, 1, quiet=True).groups["predictions"]
    assert np.isnan(found["p_value_one_point"][:-N_TEST]).all()
    new = found["p_value_one_point"][-N_TEST:]
    assert np.array_equal(new, applied(run[1], frames).groups["predictions"]["p_value_one_point"][
        -N_TEST:]) and np.isfinite(new).all()


def test_another_depth_is_warned_of(run, frames, tmp_path, capsys):
    """The run's own maps have a signal far above the noise of 3000 galaxies, and are warned of."""
    applied(run[1], frames)
    assert "depth" in capsys.readouterr().err
    maps = np.load(frames)
    np.save(tmp_path / "noise.npy", maps * (0.0028 / np.nanstd(maps)))
    applied(run[1], tmp_path / "noise.npy")
    assert "depth" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--apply", "x"), ("--maps", "x"),
                                     ("--apply", "x", "--maps", "y", "--predictions", "z")])
def test_half_a_request_is_refused(options):
    with pytest.raises(InputError) as error:
        run_mcmc.main([*options])
    one_line(error, "--apply")


def test_the_run_is_described_by_its_file(run):
    """Networks and mask of a run lie in its predictions: a moved folder is enough."""
    file = run[1]
    assert set(file.origin["networks"]) == {
        f"model_{part}_f{k}_m0.pt" for part in ("compact", "statistics") for k in (0, 1)}
    mask = np.load(run[0] / dataset.MASK_FILE)
    assert np.array_equal(file.groups["constant_data"]["mask"], mask)
    assert dataclasses.asdict(Wanted("test"))["shard"] is None
