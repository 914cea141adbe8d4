"""The Slurm scripts with stand-ins for sbatch and python3 that write down how they were called."""
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from runs import data  # noqa: F401

from wl import kernels
from wl.core import hdf5


@pytest.fixture()
def call(tmp_path):
    """call(words...) runs a command in an empty folder; returns what it printed and the calls of the stand-ins."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, answer in (("sbatch", 'n=$(wc -l < "$LOG"); echo "$((100 + n))${CLUSTER:-}"'), ("python3", ":")):
        (stand_ins / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$LOG"\n{answer}\n')
        (stand_ins / name).chmod(0o755)

    def run(*words, **variables):
        log = tmp_path / "log"
        log.write_text("")
        env = {"PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}", "LOG": str(log), **variables}
        done = subprocess.run(["bash", *map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True,
                              timeout=60)
        return done, log.read_text().splitlines()
    return run


ARRAY = ROOT / "jobs" / "array.sh"


@pytest.mark.parametrize("cluster", ["", ";west"])
def test_array_waits_for_the_first_and_the_merge_for_all(call, cluster):
    done, calls = call(ARRAY, "data/runs/x", 3, "--data", "data/public", CLUSTER=cluster)
    assert done.returncode == 0 and done.stdout.strip() == "103" + cluster, done.stderr
    first, rest, merge = calls
    assert "--array=1 " in first and "afterok" not in first and first.endswith("--data data/public --out data/runs/x")
    assert "--array=2-3 " in rest and "afterok:101 " in rest
    assert all("--export=ALL,WL_SHARDS=3 " in c for c in (first, rest))
    assert "afterok:102 " in merge and merge.endswith("posterior.shard-*-of-3.h5 --merge data/runs/x/posterior.h5")
    assert all("--kill-on-invalid-dep=yes" in c for c in (rest, merge))
    assert len(call(ARRAY, "data/runs/x", 1)[1]) == 2
    merge = call(ARRAY, "my run's", 2, "--allow-unconverged")[1][-1]
    assert merge.endswith(r"my\ run\'s/posterior.shard-*-of-2.h5 --merge my\ run\'s/posterior.h5 --allow-unconverged")


def test_array_refuses_before_it_submits(call):
    for words in ((), ("out",), ("out", "four"), ("out", "0"), ("out", "-2"), ("out", "--data"), ("", "4")):
        done, calls = call(ARRAY, *words)
        assert done.returncode == 2 and not calls, words
        assert "usage" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_job_of_the_array_takes_its_shard(call):
    for variables, end in (({}, "--data d"), ({"WL_SHARDS": "4", "SLURM_ARRAY_TASK_ID": "3"}, "--data d --shard 3/4")):
        done, calls = call(ROOT / "jobs" / "mcmc.sbatch", "--data", "d", **variables)
        assert done.returncode == 0 and len(calls) == 1 and calls[0].endswith(end), (done.stderr, calls)
        assert "run_mcmc.py --nstep 10000 --sigma 0.06 --threads" in calls[0]


def test_a_network_of_the_array(call, tmp_path):
    done, calls = call(ROOT / "jobs" / "networks.sbatch", "--data", "d", "--folds", "5", SLURM_ARRAY_TASK_ID="3",
                       SLURM_CPUS_PER_TASK="2")
    assert done.returncode == 0 and len(calls) == 1, (done.stderr, calls)
    assert calls[0].endswith("run_mcmc.py --threads 2 --data d --folds 5 --only 3"), calls
    done, calls = call(ROOT / "jobs" / "networks.sbatch", "--data", "d")
    assert done.returncode != 0 and not calls and "submit it as an array" in done.stderr
    text = (ROOT / "jobs" / "networks.sbatch").read_text()
    first, second = re.findall(r"^#   .*?(jobs/.*?\.sbatch.*)$", text, re.M)
    assert first.split("--data")[1].rstrip(")") == second.split("--data")[1]       # the same options in both


def test_a_network_of_the_array_is_really_trained(data, tmp_path):  # noqa: F811
    """The job script on tiny maps, with the interpreter of the tests: one network and no other, and a wrong task."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    env = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "NUMBA_DISABLE_JIT": "1",
           "SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    for name in ("run_mcmc.py", "wl"):
        (tmp_path / name).symlink_to(ROOT / name)
    out = tmp_path / "out"

    def task(index):
        command = ["bash", ROOT / "jobs" / "networks.sbatch", "--data", data, "--out", out, "--folds", "2",
                   "--epochs", "1", "--model", "compact", "--model-option", "widths=3,4,4,5", "--views", "1",
                   "--batch-size", "8", "--quiet"]
        return subprocess.run([str(c) for c in command], env={**env, "SLURM_ARRAY_TASK_ID": str(index)}, cwd="/",
                              capture_output=True, text=True, timeout=600)
    wrong = task(2)
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1 and "--only" in wrong.stderr
    done = task(1)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == {"model_f1_m0.pt", "predictions_f1_m0.h5", "inputs.json"}


def test_array_really_joins_what_its_jobs_make(data, tmp_path):  # noqa: F811
    """All jobs of the array, one after the other by a stand-in for sbatch, make the whole run, bit for bit."""
    for name in ("run_mcmc.py", "run_score.py", "wl"):
        (tmp_path / name).symlink_to(ROOT / name)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    (stand_ins / "python3").write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    (stand_ins / "sbatch").write_text(SBATCH)
    for name in ("python3", "sbatch"):
        (stand_ins / name).chmod(0o755)
    (tmp_path / "wl-numba-u").symlink_to(pathlib.Path(kernels.CACHE_FOLDER).parent)    # what is compiled already
    env = {**os.environ, "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "1",
           "TMPDIR": str(tmp_path), "USER": "u"}
    options = ("--data", str(data), "--method", "spectrum", "--sampler", "exact", "--quiet")

    def run(*command):
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    run("bash", ARRAY, "out put", "2", *options)
    run(sys.executable, "run_mcmc.py", "--nstep", "10000", "--sigma", "0.06", *options, "--out", "whole")
    joined, whole = (hdf5.read(tmp_path / folder / "posterior.h5") for folder in ("out put", "whole"))
    assert joined.digest == whole.digest and len(whole.groups["summary"]["mean"]) > 3
    assert (tmp_path / "out put" / "score.json").is_file()


# runs what is submitted at once, every task of an array, and prints a job's number
SBATCH = r"""#!/bin/bash
wrap= array=1
while [ "${1#-}" != "$1" ]; do
    case "$1" in
        --wrap=*) wrap=${1#*=} ;;
        --array=*) array=${1#*=} ;;
        --export=ALL,*) export "${1#*ALL,}" ;;
    esac
    shift
done
if [ -n "$wrap" ]; then
    sh -c "$wrap" >&2 || exit 1
else
    for task in $(seq "${array%-*}" "${array#*-}"); do
        SLURM_ARRAY_TASK_ID=$task bash "$@" >&2 || exit 1
    done
fi
echo 7
"""
