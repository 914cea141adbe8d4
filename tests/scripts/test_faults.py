"""Faults that a run can meet: each ends in one line and the right exit code, in no traceback."""
import errno
import hashlib
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from conftest import one_line

from wl.maps import dataset
from wl.posterior import emulator
from wl.summaries import network
from wl.core import files
from wl.core.checks import InputError, RunError
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


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    """It names the file; torch's own writer raises a RuntimeError."""
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(RunError, match="model.pt: could not be written .No space left"):
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


class Planted:
    """What a pickle of it does when it is loaded: it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def test_no_file_runs_a_command(tmp_path):
    """Neither a prior's, nor a network's, whose seal is right, nor a data set's."""
    mark, theta = tmp_path / "mark", np.random.default_rng(1).uniform(0.1, 0.9, (9, 2))
    np.save(tmp_path / "x.npy", np.array([Planted(mark)], object), allow_pickle=True)
    inner = io.BytesIO()
    torch.save({"settings": Planted(mark)}, inner)
    data = torch.frombuffer(bytearray(inner.getvalue()), dtype=torch.uint8)
    seal = hashlib.sha256(inner.getvalue()).hexdigest()
    torch.save({"sha256": seal, "data": data}, tmp_path / "inner.pt")
    torch.save({"sha256": Planted(mark), "data": data}, tmp_path / "outer.pt")
    for read, words in (
            (emulator.read_prior, (str(tmp_path / "x.npy"), theta)),
            (dataset.load_npy, (tmp_path / "x.npy",)),
            (network.load_torch, (tmp_path / "inner.pt",)),
            (network.load_torch, (tmp_path / "outer.pt",))):
        with pytest.raises(InputError):
            read(*words)
        assert not mark.exists(), read
    np.load(tmp_path / "x.npy", allow_pickle=True)              # the mark can be left
    assert mark.exists()


def test_files_name_the_cpu_that_predicted():
    assert files.cpu() == torch.backends.cpu.get_cpu_capability() != ""


SPECTRUM = ("--method", "spectrum", "--sampler", "exact", "--draws", "20", "--no-figures")


@pytest.fixture(scope="module")
def moved_run(small_set, tmp_path_factory, called):
    """A finished run, whose data have moved since."""
    home = tmp_path_factory.mktemp("moved")
    shutil.copytree(small_set, home / "before")
    done = called("run_mcmc.py", "--data", "before", *SPECTRUM, "--out", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "before").rename(home / "after")
    return home


def test_data_may_move(moved_run, called):
    """Inputs are recognised by content: the truth is read where they are now."""
    done = called("run_mcmc.py", "--data", "after", *SPECTRUM, "--out", "run", cwd=moved_run)
    assert done.returncode == 0 and "Score" in done.stdout, done.stderr


def test_a_shard_of_other_settings_leaves_the_run_as_it_is(moved_run, called):
    before = (moved_run / "run" / "statistics.h5").read_bytes()
    done = called("run_mcmc.py", "--data", "after", *SPECTRUM, "--smooth", "none", "--shard", "1/2",
                  "--out", "run", cwd=moved_run)
    assert done.returncode == 2 and "statistics.h5: was made with" in done.stderr
    assert (moved_run / "run" / "statistics.h5").read_bytes() == before


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_too_many_shards_are_refused_before_any_work(moved_run, called, more):
    done = called("run_mcmc.py", "--data", "after", "--method", "spectrum", "--shard", "9/9",
                  "--out", "shards", *more, cwd=moved_run)
    assert done.returncode == 2 and "at most 8 shards" in done.stderr
    assert not list((moved_run / "shards").glob("*.h5"))


def test_an_export_replaces_no_run_and_leaves_no_old_chain(moved_run, called):
    def export(form, out):
        return called("run_score.py", "run/posterior.h5", "--data", "after", "--export", form, out,
                      "--no-figures", cwd=moved_run)
    shutil.copytree(moved_run / "run", moved_run / "other")
    done = export("arviz", "other/posterior.h5")
    assert done.returncode == 2 and "is a run's posterior" in done.stderr
    assert export("arviz", "x.h5").returncode == export("arviz", "x.h5").returncode == 0
    for name in ("g_map0_2.txt", "g_map99.paramnames", "g_map0_2.txt.gz", "gg_map0_1.txt"):
        (moved_run / name).write_text("of before")
    assert export("getdist", "g").returncode == 0
    left = {path.name for path in moved_run.glob("g*_map*")}
    assert {"g_map0_1.txt", "g_map0_2.txt.gz", "gg_map0_1.txt"} <= left
    assert not {"g_map0_2.txt", "g_map99.paramnames"} & left
