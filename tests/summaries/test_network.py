"""A trained network: its recipe, its predictions, its file."""
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from conftest import one_line
from trainings import FRAME, KAPPA, LABEL, VALIDATION, recipe, run, same, source

from wl.core.checks import InputError
from wl.maps.batches import FIXED, NO_NOISE, Batches
from wl.summaries.network import LOG_SIGMA_RANGE
from wl.summaries.network import Network, Recipe, save_torch


@pytest.fixture(scope="module")
def learnt():
    return run(epochs=2)


# ---------------------------------------------------------------- recipe
def test_a_recipe_is_what_is_stored_of_it():
    one = recipe(model_options={"widths": (3, 4, 5, 6)}, seed=np.int64(5))
    stored = one.stored()
    assert stored["model_options"]["widths"] == [3, 4, 5, 6]
    assert stored["frame"] == list(FRAME.shape) and stored["label_mean"] == LABEL.mean(0).tolist()
    assert Recipe(**stored) == one and dataclasses.replace(one, seed=6) != one
    assert set(stored) == {field.name for field in dataclasses.fields(Recipe)}
    assert [one.batches_of(n) for n in (0, 7, 8, 31)] == [1, 1, 1, 3]


def test_a_misspelt_setting_cannot_pass():
    with pytest.raises(TypeError, match="lerning_rate"):
        recipe(lerning_rate=1e-3)
    stored = recipe().stored()
    with pytest.raises(TypeError, match="noise"):
        Recipe(**{k: v for k, v in stored.items() if k != "noise"})
    for name, value, word in (("noise", "fixd", "--noise"), ("loss", "kll", "--loss"),
                              ("precision", "float16", "--precision")):
        with pytest.raises(InputError) as error:
            Recipe(**{**stored, name: value})
        one_line(error, word)


def test_labels_go_to_targets_and_back():
    one = recipe()
    target = one.standardised(LABEL)
    assert target.dtype == torch.float32
    assert np.allclose(target.numpy().mean(0), 0.0, atol=1e-6)
    assert np.allclose(target.numpy().std(0), 1.0, atol=1e-6)
    assert np.allclose(one.answers(target.double().numpy(), "")[0], LABEL, atol=1e-7)


# ---------------------------------------------------------------- prediction
def test_prediction_is_the_mean_over_the_views(learnt):
    rows = VALIDATION[:5]
    every, _ = learnt.predict(source(), rows)
    net, views = learnt.net.eval(), []
    for s in range(4):
        x = source().fetch(rows, noise=FIXED, symmetry=np.full(5, s))
        with torch.inference_mode():
            views.append(net(torch.from_numpy(x)))
    oracle = LABEL.mean(0) + LABEL.std(0) * torch.stack(views).double().mean(0).numpy()
    assert np.allclose(every, oracle, atol=1e-6)
    one, _ = learnt.predict(source(), rows, symmetries=1)
    assert not np.allclose(one, every, atol=1e-6)
    noiseless = Batches(KAPPA, FRAME, scale=0.02, n_gal=None)
    assert not np.allclose(learnt.predict(noiseless, rows, noise=NO_NOISE)[0], every, atol=1e-6)
    mean, sd = learnt.predict(source(), np.arange(0))
    assert mean.shape == (0, 2) and sd is None


def test_prediction_does_not_depend_on_the_batch(learnt):
    whole, _ = learnt.predict(source(), np.arange(20))
    few, _ = learnt.predict(source(), np.array([3, 11]), batch_size=2)
    assert np.allclose(whole[[3, 11]], few, atol=1e-6)


def test_wild_log_sigmas_are_cut_in_prediction_as_in_the_loss():
    network = run(epochs=1, loss="kl")
    with torch.no_grad():
        network.net.head[-1].bias[2:] = torch.tensor([60.0, -60.0])
    _, sd = network.predict(source(), VALIDATION[:3])
    assert np.allclose(sd, LABEL.std(0) * np.exp([LOG_SIGMA_RANGE[1], LOG_SIGMA_RANGE[0]]))


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("model, loss, precision", [
    ("compact", "mse", "float32"), ("compact", "kl", "bfloat16"), ("simple_cnn", "kl", "float32"),
    ("compact", "mse", "float64")])
def test_save_and_load(tmp_path, model, loss, precision):
    network = run(model=model, loss=loss, precision=precision, epochs=1)
    network.save(tmp_path / "model.pt")
    loaded = Network.load(tmp_path / "model.pt")
    assert loaded.recipe == network.recipe and same(network, loaded)
    assert loaded.seconds == network.seconds
    for a, b in zip(network.predict(source(), VALIDATION), loaded.predict(source(), VALIDATION)):
        assert (a is None and b is None) or np.array_equal(a, b)


@pytest.mark.parametrize("damage, words", [
    ("missing", ["could not be read"]), ("empty", ["could not be read", "remove it"]),
    ("truncated", ["could not be read", "remove it"]), ("text", ["could not be read", "remove it"]),
    ("other content", ["no network", "remove it"]), ("no settings", ["missing", "remove it"]),
    ("a setting too many", ["'ema'", "remove it"]),
    ("other weights", ["no network", "remove it"]), ("a flipped bit", ["damaged", "remove it"])])
def test_damaged_model_files(tmp_path, learnt, damage, words):
    path, settings, weights = tmp_path / "model.pt", learnt.recipe.stored(), learnt.net.state_dict()
    learnt.save(path)
    content = path.read_bytes()
    cut = {"empty": b"", "truncated": content[:len(content) // 2], "text": b"hello"}
    other = {"other content": [1, 2], "no settings": {"settings": {}, "weights": weights},
             "a setting too many": {"settings": {**settings, "ema": 0.9}, "weights": weights},
             "other weights": {"settings": settings, "weights": {"first.weight": torch.zeros(3)}}}
    if damage == "missing":
        path.unlink()
    elif damage in cut:
        path.write_bytes(cut[damage])
    elif damage == "a flipped bit":
        outer = torch.load(path, weights_only=True)
        outer["data"][len(outer["data"]) // 2] ^= 1
        torch.save(outer, path)
    else:
        save_torch(path, other[damage])
    with pytest.raises(InputError) as error:
        Network.load(path)
    one_line(error, "model.pt", *words)


def test_a_model_file_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))
    with open(tmp_path / "model.pt", "wb") as stream:
        pickle.dump({"settings": Evil(), "weights": {}}, stream, protocol=2)
    with pytest.raises(InputError):
        Network.load(tmp_path / "model.pt")
    assert not (tmp_path / "proof").exists()
