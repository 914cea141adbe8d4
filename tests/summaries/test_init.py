"""--init: what a network takes from another run, and that all that follows is reproducible."""
import numpy as np
import pytest
from conftest import one_line
from runs import QUICK, data, interrupt, shared, start  # noqa: F401
from trainings import finished, recipe, source

from wl.core import cli
from wl.core.checks import InputError
from wl.maps import dataset
from wl.summaries import apply, dense, predict
from wl.summaries.network import Network
from wl.summaries.options import PRESETS, NetworkOptions

BOTH = [a for a in QUICK if a != "compact"]
BOTH.insert(1, "compact+statistics")
BOTH += ["--model-option", "scales=2,4", "--model-option", "networks=2", "--model-option",
         "layers=8,6"]


@pytest.fixture(scope="module")
def first(shared):  # noqa: F811
    """Folder of a finished run of two parts, on other maps: no test may leave it changed."""
    path = shared / dataset.RELEASES["public"][0]
    np.save(path, np.load(path)[..., ::-1])
    work = start(shared, "--seed", "5", out="first", quick=BOTH)
    predict.predict(work)
    return work.folder.out


@pytest.mark.parametrize("loss", ["mse", "score"])
def test_a_network_says_the_same_in_other_units(loss):
    """Whatever the labels are standardised by, the first answer is the other network's."""
    old = finished(loss=loss, epochs=1)
    new = recipe(loss=loss, epochs=1, label_mean=[0.25, 0.9], label_sd=[0.03, 0.2], seed=8)
    net = new.build()
    new.begin_from(net, old)
    rows = np.arange(4)
    (mean, sd), (old_mean, old_sd) = (n.predict(source(), rows) for n in (Network(net, new), old))
    assert np.allclose(mean, old_mean, rtol=0.0, atol=2e-6)
    assert sd is None or np.allclose(sd, old_sd, rtol=1e-5)
    assert not np.allclose(new.label_mean, old.recipe.label_mean)


def test_dense_networks_say_the_same_in_other_units():
    plain = dict(model="statistics", loss="kl", seed=1, split=[], members=3,
                 layers=(8,), features="")
    one, two = (dense.Recipe(label_mean=m, label_sd=s, **plain) for m, s in
                (([0.3, 0.8], [0.1, 0.05]), ([0.2, 0.9], [0.02, 0.4])))
    nets = [dense.first_networks(np.zeros(6), 10, r) for r in (one, two)]
    scale = np.zeros(6, np.float32), np.ones(6, np.float32), np.ones(6, bool)
    old, new = (dense.Dense(net, r, scaling=scale) for net, r in zip(nets, (one, two)))
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    assert not np.allclose(new.predict(x)[0], old.predict(x)[0], atol=1e-3)
    two.begin_from(new.net, old)
    for mine, theirs in zip(new.predict(x), old.predict(x)):
        assert np.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_run_begins_from_another_and_is_the_same_for_any_threads_and_after_a_kill(
        data, first, monkeypatch):  # noqa: F811
    init = ("--init", str(first))
    whole = predict.predict(start(data, *init, quick=BOTH))
    plain = predict.predict(start(data, out="plain", quick=BOTH))
    assert len(whole.settings["start"]) == 64 and plain.settings["start"] == ""
    assert "init" not in whole.settings
    assert not np.allclose(*(f.groups["predictions"]["summaries"] for f in (whole, plain)))
    one = predict.predict(start(data, *init, "--threads", "1", out="one", quick=BOTH))
    assert one.digest == whole.digest
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(start(data, *init, out="killed", quick=BOTH))
    assert predict.predict(start(data, *init, out="killed", quick=BOTH)).digest == whole.digest
    with pytest.raises(InputError) as error:
        predict.predict(start(data, quick=BOTH))
    one_line(error, "start", "--force")


def test_folds_take_the_networks_of_a_run_in_turn(data, first):
    work = start(data, "--init", str(first), "--folds", "2", quick=BOTH)
    found = predict.predict(work)
    assert np.isfinite(found.groups["predictions"]["summaries"]).all()
    alone = [predict.hdf5.read(work.folder.out / f"predictions_{part}.h5")
             for part in work.options.parts]
    both = np.concatenate([file.groups["predictions"]["summaries"] for file in alone], 1)
    stacked = found.groups["constant_data"]["stacking"]
    unfolded = found.groups["predictions"]["split"] != 1
    assert np.allclose((both @ stacked[:-1] + stacked[-1])[unfolded],
                       found.groups["predictions"]["summaries"][unfolded])


@pytest.mark.parametrize("options, words", [
    (("--model-option", "hidden=7"), ("--init", "compact", "--model-option")),
    (("--model", "inception", "--model-option", "widths=4,4,4,4"),
     ("--init", "inception", "--model"))])
def test_other_architectures_are_refused_in_a_line(data, first, options, words):
    quick = BOTH if "--model" not in options else [
        "--quiet", "--epochs", "1", "--batch-size", "8", "--lanes", "2", "--folds", "1"]
    with pytest.raises(InputError) as error:
        predict.predict(start(data, "--init", str(first), *options, quick=quick))
    one_line(error, *words)
    if "--model" in options:
        assert not list((data.parent / "out").glob("*.pt"))                   # before any work


def test_networks_that_saw_what_this_run_holds_out_are_refused(shared, first):
    """Another split of the same maps would judge networks by maps that they learnt from."""
    own = "--seed", "5"
    for options in ((), (*own, "--folds", "2"), (*own, "--emulator-fraction", "0.4")):
        with pytest.raises(InputError) as error:
            predict.predict(start(shared, "--init", str(first), *options, out="leaks", quick=BOTH))
        one_line(error, "these very maps", "split by")
    assert not list((shared.parent / "leaks").glob("model*"))
    work = start(shared, "--init", str(first), "--seed", "5", out="goes on", quick=BOTH)
    assert predict.predict(work) is not None


def test_a_fold_begins_with_the_network_of_its_own_fold(shared):
    """Whatever the number of members, and with more than ten folds, whose names sort otherwise."""
    options = ("--folds", "4", "--members", "2", "--epochs", "1")
    old = start(shared, *options, out="four")
    predict.predict(old)
    new = start(shared, *options, "--members", "3", "--init", str(old.folder.out), out="more")
    for job in predict.jobs_of(new):
        net = apply.first_of(job, Network)
        assert net.recipe.seed == predict.jobs_of(old)[2 * job.fold + job.member % 2].seed


def test_a_run_is_no_beginning_of_its_own_folder(shared, first):
    files = {path: path.read_bytes() for path in first.glob("[!.]*")}
    with pytest.raises(InputError) as error:
        start(shared, "--seed", "5", "--force", "--init", str(first), out="first", quick=BOTH)
    one_line(error, "--init", "--out")
    assert files == {path: path.read_bytes() for path in first.glob("[!.]*")}


def test_a_folder_without_a_run_is_refused(data):
    with pytest.raises(InputError) as error:
        start(data, "--init", str(data))
    one_line(error, "predictions.h5")


# ---------------------------------------------------------------- presets
@pytest.mark.parametrize("name", [name for name, of in PRESETS.items() if of])
def test_a_preset_is_a_whole_run_and_says_its_settings(data, called, name):  # noqa: F811
    out = data.parent / name
    run = called("run_mcmc.py", "--preset", name, "--data", data, "--out", out, "--epochs", "1",
                 "--batch-size", "8", "--precision", "float32", "--quiet", "--threads", "2",
                 "--emulator-fraction", "0.65", "--nstep", "1000", "--allow-unconverged",
                 "--no-figures", cwd=data.parent)
    assert run.returncode == 0 and "Score" in run.stdout, run.stderr
    made = predict.hdf5.read(out / "posterior.h5").settings
    assert (made["batch_size"], made["epochs"], made["nstep"]) == (8, 1, 1000)  # what is given
    for key, value in PRESETS[name].items():
        if key == "model_option":
            assert made["model_options"]["statistics"]["draws"] == 8
        else:
            assert key in ("batch_size", "epochs", "nstep") or made[key] == value, key
    if name == "published":
        assert made["model_options"]["head"] == "flatten"


def test_the_options_of_a_presets_model_go_where_another_model_is_asked_for():
    import run_mcmc
    draws = {}
    for name, words in {"preset": [], "own": ["--model-option", "draws=2"],
                        "other": ["--model", "statistics"], "none": ["--model", "compact"]}.items():
        args = cli.parse(run_mcmc.parser(), ["--preset", "best", *words])
        draws[name] = NetworkOptions.of(args, args.method).of_statistics().get("draws")
    assert draws == {"preset": 8, "own": 2, "other": 0, "none": None}
