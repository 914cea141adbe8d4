"""Which data set a run takes, when one is simulated, and what is said of it."""
import json
import os
import types

import numpy as np
import pytest
from conftest import one_line
from test_dataset import KAPPA, MASK, TEST, labels, small_mask

from wl.simulate import simulate as module
from wl.maps import dataset
from wl.core.checks import InputError
from wl.core.files import digest_array


def make_set(folder, seed=None, label=None):
    """A tiny public set, simulated with `seed` unless None."""
    folder.mkdir(parents=True, exist_ok=True)
    label = labels() if label is None else label
    np.save(folder / MASK, small_mask())
    np.save(folder / "label.npy", label)
    np.save(folder / KAPPA, np.zeros((*label.shape[:2], small_mask().sum()), np.float16))
    if seed is not None:
        inputs = {"mask": digest_array(small_mask()), "label": digest_array(label)}
        (folder / "simulation.json").write_text(
            json.dumps({"settings": {"seed": seed}, "inputs": inputs}))


@pytest.fixture()
def find(tmp_path, monkeypatch):
    """find(data, **options) locates a set from an empty working folder; find.calls are those of the
    simulator."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def stand_in(out, **options):
        calls.append((str(out), options))
        make_set(out, options["seed"],
                 np.load(options["design"]) if "design" in options else None)
    monkeypatch.setattr(module, "simulate", stand_in)

    def run(data="data", **options):
        defaults = dict(data=data, release="auto", test_maps=None, realisations=None, seed=1,
                        threads=1,
                        quiet=False, force=False)
        return module.locate(types.SimpleNamespace(**{**defaults, **options}))
    run.calls = calls
    return run


def test_an_empty_folder_is_simulated_into_and_found_again(find, capsys):
    assert str(find().folder) == str(find().folder) == "data/simulated"
    assert [c[0] for c in find.calls] == ["data/simulated"
                                          ] and "data/simulated" in capsys.readouterr().err


def test_of_several_sets_the_simulated_one_is_taken_and_named(find, tmp_path, capsys):
    for name in ("large", "simulated", "zoo"):
        make_set(tmp_path / "data" / name, 1)
    assert find().name == "simulated"
    said = capsys.readouterr().err
    assert "data/simulated" in said and "large, zoo" in said
    assert find("data/large").name == "large"


def test_one_other_set_is_taken_and_several_are_asked_about(find, tmp_path, capsys):
    make_set(tmp_path / "data" / "large", 1)
    assert find().name == "large" and "data/large" in capsys.readouterr().err
    make_set(tmp_path / "data" / "zoo", 1)
    with pytest.raises(InputError) as error:
        find()
    one_line(error, "large, zoo", "--data data/large")
    assert not find.calls


@pytest.mark.parametrize("last_step", [False, True])
def test_an_interrupted_simulation_goes_on_although_another_set_is_there(find, tmp_path, last_step):
    """Also one that was killed between moving the maps and simulation.json into place."""
    make_set(tmp_path / "data" / "large", 1)
    if last_step:
        make_set(tmp_path / "data" / "simulated")
    part = tmp_path / "data" / "simulated" / dataset.UNFINISHED
    part.mkdir(parents=True)
    (part / "simulation.json" if last_step else part / "done").write_text("{}")
    assert find().name == "simulated" and len(find.calls) == 1


def test_realisations_of_a_set_that_is_there(find, tmp_path):
    make_set(tmp_path / "data" / "simulated", 1)
    assert find(realisations=6).n_realisation == find().n_realisation == 6
    with pytest.raises(InputError) as error:
        find(realisations=64)
    one_line(error, "--realisations 64", "with 6", "wl.simulate")
    with pytest.raises(InputError) as error:
        find(realisations=0)
    one_line(error, "--realisations")


def test_seed_of_a_simulated_set_is_said(find, tmp_path, capsys):
    make_set(tmp_path / "data" / "simulated", 1)
    make_set(tmp_path / "public")
    find(seed=5)
    said = capsys.readouterr().err
    assert "--seed 5" in said and "seed 1;" in said
    find()
    find("public", seed=5)
    assert "seed" not in capsys.readouterr().err


def test_a_set_changed_by_hand_is_warned_of_even_when_quiet(find, tmp_path, capsys):
    make_set(tmp_path / "data" / "simulated", 1)
    mask = small_mask()
    mask[0, 0], mask[1, 1] = True, False
    np.save(tmp_path / "data" / "simulated" / MASK, mask)
    find(quiet=True)
    said = capsys.readouterr().err
    assert "warning: " in said and MASK in said and said.count("\n") == 1


def test_maps_simulated_for_real_labels_keep_the_folders_name(find, tmp_path):
    folder = tmp_path / "survey"
    make_set(folder)
    (folder / KAPPA).unlink()
    np.save(folder / TEST, np.zeros((3, small_mask().sum()), np.float16))
    found = find("survey")
    assert found.name == "survey" and found.n_test == 3
    assert found.folder.parent.name == "simulations"
    assert find("survey", seed=2).folder != found.folder


def test_room_counts_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    assert module.room(tmp_path / "a" / "b") == 1000
    (tmp_path / dataset.UNFINISHED).mkdir()
    (tmp_path / "label.npy").write_bytes(bytes(30))
    (tmp_path / dataset.UNFINISHED / (KAPPA + ".part")).write_bytes(bytes(500))
    (tmp_path / "notes.txt").write_bytes(bytes(77))
    assert module.room(tmp_path) == 1530
    os.truncate(tmp_path / dataset.UNFINISHED / (KAPPA + ".part"), 10**9)     # holes take nothing
    assert module.room(tmp_path) < 10**5
