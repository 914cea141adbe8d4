"""Faults that a run can meet: each ends in one line and the right exit code, in no traceback."""
import errno
import json
import pathlib

import numpy as np
import pytest
import torch
from conftest import one_line

from wl.maps import dataset
from wl.summaries import network
from wl.core.checks import InputError
from wl.simulate.simulate import simulate


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    np.save(folder / "mask.npy", np.ones((64, 48), bool))
    simulate(folder / "set", cosmologies=6, realisations=16, test=8, mask=folder / "mask.npy",
             processes=1, quiet=True)
    return folder / "set"


@pytest.mark.parametrize("n_gal", ["abc", None, -1, 0, float("nan"), [3]])
def test_a_damaged_noise_level_is_refused(tmp_path, n_gal):
    (tmp_path / dataset.SIMULATION_FILE).write_text(json.dumps({"settings": {"n_gal": n_gal}}))
    with pytest.raises(InputError) as error:
        dataset.read_simulation(tmp_path)
    one_line(error, dataset.SIMULATION_FILE, "n_gal")


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, monkeypatch):
    """So that the scripts say it in one line; torch's own writer raises a RuntimeError."""
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        network.save_torch(tmp_path / "model.pt", {"settings": {}})
    assert list(tmp_path.iterdir()) == []


def test_too_few_realisations_to_recalibrate(called, small_set):
    """Refused before any work: each fold leaves some realisations out."""
    done = called("run_mcmc.py", "--data", small_set, "--emulator-fraction", "0.125", "--out",
                  "few", cwd=small_set.parent)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "--recalibrate" in done.stderr and "got 2" in done.stderr
    assert not list((small_set.parent / "few").glob("*.h5"))


def test_a_flipped_bit_in_a_network_is_noticed(tmp_path):
    weights = torch.arange(4096, dtype=torch.float32)
    path = tmp_path / "model.pt"
    network.save_torch(path, {"weights": weights})
    assert torch.equal(network.load_torch(path)["weights"], weights)
    content = bytearray(path.read_bytes())
    place = content.find(weights[1000:1010].numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        network.load_torch(path)
    one_line(error, path, "damaged")
