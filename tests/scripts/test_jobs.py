"""The jobs of a cluster: the graph that is submitted, and the same on a real Slurm of one node."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from runs import make_set

from wl import kernels
from wl.core import hdf5
from wl.summaries.network import load_torch

SUBMIT, RUN = ROOT / "jobs" / "submit.sh", ROOT / "jobs" / "run.sh"
SLURM = ROOT.parent / "shared" / "slurm"
NEEDED = ("sbatch", "slurmctld", "munged")
TINY = ("--epochs", "2", "--batch-size", "8", "--lanes", "2", "--precision", "float32", "--views",
        "1", "--model-option", "widths=3,4,4,5", "--model-option", "hidden=6", "--quiet",
        "--emulator-fraction", "0.5", "--allow-unconverged", "--nstep", "500", "--no-figures")


@pytest.fixture()
def call(tmp_path):
    """call(words...) runs a command in an empty folder; gives it and the calls of a stand-in."""
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/bin/bash\nprintf "%s\\n" "$*" >> "$LOG"\n'
                      'n=$(wc -l < "$LOG"); echo "$((100 + n))${CLUSTER:-}"\n')
    sbatch.chmod(0o755)

    def run(*words, **variables):
        log = tmp_path / "log"
        log.write_text("")
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
               "LOG": str(log), "WL_PYTHON": sys.executable, **variables}
        done = subprocess.run(["bash", *map(str, words)], cwd=tmp_path, env=env, text=True,
                              capture_output=True, timeout=60)
        return done, log.read_text().splitlines()
    return run


@pytest.mark.parametrize("cluster", ["", ";west"])
def test_the_graph(call, cluster, tmp_path):
    """One network first, which measures; then the others, the shards, and what joins them."""
    done, calls = call(SUBMIT, "my runs/x", 3, "--partition=cpu", "--time=1:00:00", "--",
                       "--data", "a b", "--folds", 2, "--allow-unconverged", CLUSTER=cluster)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["101 measure", "102 network", "103 infer", "104 score"]
    measure, network, infer, score = calls
    assert "--only 2 " in measure and "afterok" not in measure and "--array" not in measure
    assert "--array=0-1,3-3 " in network and "--only @task " in network
    assert "--array=1-3 " in infer and "--shard @task/3 " in infer
    assert r"--merge my\ runs/x/posterior.h5 --allow-unconverged" in score
    assert all(rf"my\ runs/x/posterior.shard-{i}-of-3.h5" in score for i in (1, 2, 3))
    for i, words in enumerate(calls):
        assert (f"--dependency=afterok:{100 + i} --kill-on-invalid-dep=yes" in words) == (i > 0)
        for option in ("--requeue", "--open-mode=append", "--signal=B:TERM@120",
                       f"--chdir={tmp_path}", "--output=my runs/x/logs/"):
            assert option in words, (option, words)
        assert words.index("--partition=cpu") > words.index("--time=04:00:00")  # the last one wins
        assert words.index("--time=1:00:00") > words.index("--time=04:00:00")
    assert (tmp_path / "my runs" / "x" / "logs").is_dir()


@pytest.mark.parametrize("options, names", [
    (("--method", "spectrum"), ["infer-first", "infer", "score"]),
    (("--model", "compact", "--folds", "1"), ["infer-first", "infer", "score"]),
    (("--model", "compact", "--folds", "1", "--members", "3"),
     ["measure", "network", "infer", "score"])])
def test_graphs_of_other_models(call, options, names):
    done, calls = call(SUBMIT, "out", 2, "--", *options)
    assert [line.split()[1] for line in done.stdout.splitlines()] == names, done.stderr
    assert ("--array=1-2 " in calls[1]) == (names[1] == "network")
    assert len(call(SUBMIT, "out", 1, "--", "--method", "spectrum")[1]) == 2


def test_wrong_usage_is_refused_before_anything_is_submitted(call, tmp_path):
    for words in ((), ("out",), ("out", "four"), ("out", "0"), ("out", "-2"), ("out", "--data"),
                  ("", "4"), ("out", "4", "--", "--epochs", "many"), ("out", "4", "--", "--nope"),
                  ("out", "4", "--", "--model", "x"), ("out", "4", "--", "--sigma", "-1")):
        done, calls = call(SUBMIT, *words)
        assert done.returncode == 2 and not calls, words
        assert len(done.stderr.splitlines()) == 1 and "error: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_job_has_the_threads_and_folders_of_its_node(call, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$* $TMPDIR $NUMBA_CACHE_DIR"\n')
    python.chmod(0o755)
    variables = {"WL_PYTHON": str(python), "SLURM_CPUS_PER_TASK": "7", "SLURM_TMPDIR": "/scratch/1",
                 "SLURM_ARRAY_TASK_ID": "5", "NUMBA_CACHE_DIR": ""}
    if (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("the clone has an interpreter of its own")
    done, _ = call(RUN, "run_mcmc.py", "--shard", "@task/9", **variables)
    assert done.stdout == (f"{ROOT}/run_mcmc.py --threads 7 --shard 5/9 /scratch/1 /scratch/1/"
                           f"wl-numba-{os.getuid()}\n"), done.stderr
    done, _ = call(RUN, "run_score.py", "x.h5", **variables)
    assert done.stdout.startswith(f"{ROOT}/run_score.py x.h5 /scratch/1 ")


# ---------------------------------------------------------------- a real Slurm
@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a Slurm of one node, which is started for this file."""
    if not all(shutil.which(name) for name in NEEDED) or os.getuid() != 0:
        pytest.skip("no Slurm: apt-get install slurm-wlm munge, as root")
    if not (SLURM / "start_slurm.sh").is_file():
        pytest.skip("no ../shared/slurm/start_slurm.sh beside the clone")
    state = tmp_path_factory.mktemp("slurm")
    for _ in range(2):                                  # on a busy machine its daemons are slow
        started = subprocess.run(["timeout", "30", "bash", SLURM / "start_slurm.sh", state],
                                 capture_output=True, text=True)
        if started.returncode == 0:
            break
        subprocess.run(["bash", SLURM / "stop_slurm.sh", state], capture_output=True, timeout=60)
    else:
        pytest.skip(f"Slurm does not start, or another has its ports: {started.stderr[-150:]}")
    cache = pathlib.Path(kernels.CACHE_FOLDER or state).parent
    yield {**os.environ, "SLURM_CONF": str(state / "slurm.conf"), "WL_PYTHON": sys.executable,
           "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run(["bash", SLURM / "stop_slurm.sh", state], capture_output=True, timeout=60)


def slurm(cluster, *words, cwd=None):
    done = subprocess.run([*map(str, words)], env=cluster, cwd=cwd, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(cluster, seconds, is_done):
    """Wait until is_done(), which gets the ids and states of all jobs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        jobs = dict(line.split()[:2] for line in slurm(cluster, "squeue", "-h", "-o", "%i %T")
                    .splitlines())
        if is_done(jobs):
            return
        time.sleep(0.3)
    pytest.fail(f"still {jobs} after {seconds} s")


def test_the_graph_on_a_real_slurm_makes_the_bits_of_one_process(cluster, tmp_path):
    data = make_set(tmp_path / "set")
    options = ("--data", data, "--model", "compact", "--members", "2", *TINY)
    printed = slurm(cluster, SUBMIT, "out", 2, "--cpus-per-task=1", "--mem=100M", "--", *options,
                    cwd=tmp_path)
    assert [line.split()[1] for line in printed.splitlines()] == [
        "measure", "network", "infer", "score"]
    whole = subprocess.run([sys.executable, ROOT / "run_mcmc.py", *map(str, options), "--out",
                            "whole"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr
    wait_for(cluster, 600, lambda jobs: not jobs)
    logs = {p.name: p.read_text() for p in sorted((tmp_path / "out" / "logs").iterdir())}
    assert len(logs) == 5 and (tmp_path / "out" / "score.json").is_file(), logs
    joined, one = (hdf5.read(tmp_path / name / "posterior.h5") for name in ("out", "whole"))
    assert joined.digest == one.digest and len(one.groups["summary"]["posterior_mean"]) > 3
    assert not list((tmp_path / "out").glob(".*"))


def test_a_preempted_training_goes_on_and_a_cancelled_one_does_not(cluster, tmp_path):
    data = make_set(tmp_path / "set")
    options = ["--data", data, "--model", "compact", *TINY[2:], "--epochs", "100", "--patience", "0",
               "--sampler", "exact"]
    options = [o for o in map(str, options) if o not in ("--quiet", "--nstep", "500")]

    def start(out):
        command = " ".join(["exec", "bash", str(RUN), "run_mcmc.py", *options, "--out", out])
        return slurm(cluster, "sbatch", "--parsable", "--requeue", "--open-mode=append", "-n1",
                     "--cpus-per-task=2", f"--output={out}.log", f"--wrap={command}",
                     cwd=tmp_path).strip()

    def trains(out):
        return lambda _: (tmp_path / out / "checkpoint.pt").exists()
    job = start("out")
    wait_for(cluster, 300, trains("out"))
    # as a preemption does it, which Slurm begins up to half a minute after the other job came
    slurm(cluster, "scontrol", "requeue", job)
    wait_for(cluster, 60, lambda jobs: jobs == {job: "PENDING"})
    assert "stopped by SIGTERM" in (tmp_path / "out.log").read_text()

    def has_ended(jobs):                                # a requeued job waits for two minutes
        if jobs.get(job) == "PENDING":
            slurm(cluster, "scontrol", "update", f"JobId={job}", "StartTime=now")
        return job not in jobs
    wait_for(cluster, 600, has_ended)
    cancelled = start("cancelled")
    text = (tmp_path / "out.log").read_text()
    assert text.count("training compact") >= 1 and "Score" in text, text
    wait_for(cluster, 300, trains("cancelled"))
    slurm(cluster, "scancel", cancelled)
    wait_for(cluster, 60, lambda jobs: not jobs)
    assert not (tmp_path / "cancelled" / "posterior.h5").exists()
    whole = subprocess.run([sys.executable, ROOT / "run_mcmc.py", *options, "--out", "whole"],
                           cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr
    one, other = (load_torch(tmp_path / out / "model.pt")["weights"] for out in ("out", "whole"))
    assert all((one[name] == other[name]).all() for name in one)
