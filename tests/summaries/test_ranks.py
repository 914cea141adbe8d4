"""Training on several processes gives the bits of one, and the first alone writes."""
import pathlib
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from runs import QUICK, shared  # noqa: F401

from wl.core import hdf5
from wl.summaries.network import load_torch


def run(processes, data, out, *options, timeout=300):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*start, ROOT / "run_mcmc.py", "--data", data, "--out", out, *QUICK, "--no-figures",
         "--allow-unconverged", "--folds", "1", "--recalibrate", "none", *options],
        capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def alone(shared):  # noqa: F811
    return finished(run(1, shared, shared.parent / "alone", "--lanes", "3"), shared.parent / "alone")


def finished(done, out):
    assert done.returncode == 0, done.stderr
    return load_torch(out / "model.pt"), hdf5.read(out / "posterior.h5").digest


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_the_same_bits(alone, shared, processes):  # noqa: F811
    """With lanes that the processes share unevenly, and with a process that has none."""
    out = shared.parent / f"of_{processes}"
    network, posterior = finished(run(processes, shared, out, "--lanes", "3"), out)
    weights = alone[0]["weights"]
    assert all(torch.equal(weights[name], value) for name, value in network["weights"].items())
    assert network["history"] == alone[0]["history"] and posterior == alone[1]
    assert {p.name for p in pathlib.Path(out).iterdir()} == {
        p.name for p in (shared.parent / "alone").iterdir()}


def test_a_mistake_ends_all_processes(shared, tmp_path):  # noqa: F811
    done = run(2, tmp_path / "nothing" / "here", tmp_path / "out", timeout=60)
    assert done.returncode != 0
    assert sum("error:" in line and "run_mcmc.py" in line for line in done.stderr.splitlines()) == 1
