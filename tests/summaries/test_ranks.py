"""Training on several processes gives the bits of one, and the first alone writes."""
import subprocess
import sys

import torch
from conftest import ROOT, run_code
from runs import QUICK, make_set

from wl.core import hdf5
from wl.summaries.network import load_torch

# one process imports everything; the others are its children, as torchrun starts them
CHILDREN = """
import os, socket, sys
import numba, torch, torch.distributed, run_mcmc
from wl.core import cli
from wl.kernels import metropolis
from wl.posterior import infer, metropolis, posterior
from wl.scoring import report, table
from wl.summaries import lanes, predict, training
folder, *words = sys.argv[1:]
with socket.create_server(("127.0.0.1", 0)) as free:
    port = str(free.getsockname()[1])
for name, n, more in (("alone", 1, []), ("of_4", 4, []), ("wrong", 2, ["--data", "nothing/here"])):
    children = []
    for rank in range(n):
        if (child := os.fork()) == 0:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank),
                              LOCAL_RANK=str(rank), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n))
            log = os.open(f"{folder}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.argv[:] = ["run_mcmc.py", *words, "--out", f"{folder}/{name}", *more]
            try:
                cli.run(run_mcmc.main)
            except SystemExit as end:
                os._exit(end.code)
        children.append(child)
    print(name, *[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def begin(folder):
    """Runs of 1, 4 and 2 processes, and a wrong one of 2. Returns the folder and what they say."""
    words = ["--data", make_set(folder / "set"), *QUICK, "--lanes", "3", "--threads", "1",
             "--allow-unconverged", "--recalibrate", "none"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             ROOT / "run_mcmc.py", *words, "--out", folder / "of_2"]
    done = subprocess.run([*map(str, start)], capture_output=True, text=True, timeout=600)
    return folder, run_code(CHILDREN, folder, *words, timeout=600), done


def test_any_number_of_processes_gives_the_same_bits(begun):
    """With lanes that two processes share unevenly, and with a fourth that has none."""
    folder, children, torchrun = begun
    assert torchrun.returncode == 0, torchrun.stderr
    assert children.stdout.splitlines()[:2] == ["alone 0", "of_4 0 0 0 0"], children
    networks, posteriors, names = zip(*[
        (load_torch(out / "model.pt"), hdf5.read(out / "posterior.h5").digest,
         {p.name for p in out.iterdir()})
        for out in (folder / name for name in ("alone", "of_2", "of_4"))])
    for network in networks[1:]:
        assert all(torch.equal(network["weights"][name], value)
                   for name, value in networks[0]["weights"].items())
        assert network["history"] == networks[0]["history"]
    assert len(set(posteriors)) == 1 and names[0] == names[1] == names[2]


def test_a_mistake_ends_all_processes(begun):
    folder, children, _ = begun
    name, *codes = children.stdout.splitlines()[2].split()
    assert name == "wrong" and codes[0] == "2" and len(codes) == 2, children
    text = (folder / "wrong.log").read_text()
    assert sum("error:" in line and "run_mcmc.py" in line for line in text.splitlines()) == 1
