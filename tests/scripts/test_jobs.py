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
                      'n=$(wc -l < "$LOG"); [ "$n" != "${REFUSED:-}" ] || exit "${CODE:-1}"\n'
                      'echo "$((100 + n))${CLUSTER:-}"\n')
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
    (tmp_path / "a b").mkdir()
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
                  ("out", "4", "--", "--model", "x"), ("out", "4", "--", "--sigma", "-1"),
                  ("out\nx", "4"), ("log/x", "4"), ("out", "4", "stray"), ("out", "4", "--", "-"),
                  *(("out", "4", "--", *words.split()) for words in (
                      "--shard 1/2", "--only=1", "--out x", "--dry-run", "--data nowhere",
                      "--prior nowhere.npy", "--init nowhere", "--predictions x.h5"))):
        done, calls = call(SUBMIT, *words)
        assert done.returncode == 2 and not calls, words
        assert len(done.stderr.splitlines()) == 1 and "error: " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", ["1", "0"])
def test_jobs_that_wait_for_one_that_sbatch_refused_are_named(call, code):
    """Also where it gives no id, and says that all is well."""
    done, calls = call(SUBMIT, "out", 2, "--", "--method", "spectrum", REFUSED="3", CODE=code)
    assert done.returncode == 1 and len(calls) == 3
    assert done.stderr == ("submit.sh: error: sbatch made no job score; cancel those before it by "
                           "scancel 101 102\n")
    done, _ = call(SUBMIT, "out", 2, "--", "--method", "spectrum", REFUSED="1", CODE=code)
    assert done.stderr == "submit.sh: error: sbatch made no job infer-first\n"


def test_a_job_has_the_threads_and_folders_of_its_node(call, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$* $TMPDIR $NUMBA_CACHE_DIR"\n')
    python.chmod(0o755)
    variables = {"WL_PYTHON": str(python), "SLURM_CPUS_PER_TASK": "7", "SLURM_TMPDIR": "/scratch/1",
                 "SLURM_ARRAY_TASK_ID": "5", "NUMBA_CACHE_DIR": ""}
    done, _ = call(RUN, "run_mcmc.py", "--shard", "@task/9", **variables)
    assert done.stdout == (f"{ROOT}/run_mcmc.py --threads 7 --shard 5/9 /scratch/1 /scratch/1/"
                           f"wl-numba-{os.getuid()}\n"), done.stderr
    done, _ = call(RUN, "run_score.py", "x.h5", **variables)
    assert done.stdout.startswith(f"{ROOT}/run_score.py x.h5 /scratch/1 ")


# ---------------------------------------------------------------- a real Slurm
def begin(folder):
    """A graph whose first job is preempted, and a job that is cancelled, on a Slurm of one node.

    Returns the folder, the first job's id, what squeue had of all when it had been preempted, and
    what submit.sh printed.
    """
    if not all(shutil.which(name) for name in NEEDED) or os.getuid() != 0:
        pytest.skip("no Slurm: apt-get install slurm-wlm munge, as root")
    if not (SLURM / "start_slurm.sh").is_file():
        pytest.skip("no ../shared/slurm/start_slurm.sh beside the clone")
    state = folder / "slurm"
    try:
        cache = pathlib.Path(kernels.CACHE_FOLDER or state).parent
        env = {**os.environ, "SLURM_CONF": str(state / "slurm.conf"), "WL_PYTHON": sys.executable,
               "NUMBA_CACHE_DIR": str(cache)}
        for _ in range(2):                              # on a busy machine its daemons are slow
            for command in (["bash", SLURM / "start_slurm.sh", state],
                            ["srun", "-n1", "--mem=10M", "true"]):       # its node may never come
                said = subprocess.run(["timeout", "30", *command], env=env, capture_output=True,
                                      text=True)
                if said.returncode:
                    break
            if said.returncode == 0:
                return worked(folder, env)
            stop(state)
        pytest.skip(f"Slurm starts no job, or another has its ports: {said.stderr[-150:]}")
    finally:
        stop(state)


def stop(state):
    subprocess.run(["bash", SLURM / "stop_slurm.sh", state], capture_output=True, timeout=60)


def worked(folder, env):
    def slurm(*words):
        done = subprocess.run([*map(str, words)], env=env, cwd=folder, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(is_done):
        """Wait until is_done(), which gets the ids and states of all jobs. Returns them."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            jobs = dict(line.split()[:2] for line in slurm("squeue", "-h", "-o", "%i %T")
                        .splitlines())
            if is_done(jobs):
                return jobs
            time.sleep(0.2)
        pytest.fail(f"still {jobs} after 300 s")

    def trains(out):
        return lambda _: (folder / out).exists() and any((folder / out).glob("checkpoint*.pt"))
    options = ["--data", make_set(folder / "set"), "--model", "compact", "--members", "2",
               *TINY, "--epochs", "80", "--patience", "0"]
    printed = slurm(SUBMIT, "out", 2, "--cpus-per-task=1", "--mem=100M", "--", *options)
    first, *_ = [line.split()[0] for line in printed.splitlines()]
    whole = [sys.executable, ROOT / "run_mcmc.py", *options, "--out", "whole", "--threads", "1"]
    whole = subprocess.Popen([*map(str, whole)], cwd=folder, env=env, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    wait_for(trains("out"))
    slurm("sbatch", "-p", "high", "-n1", "--cpus-per-task=2", "--mem=100M", "--output=/dev/null",
          "--wrap=true")                                    # which preempts the first
    preempted = wait_for(lambda jobs: jobs.get(first) == "PENDING")
    command = " ".join(map(str, ["exec", "bash", RUN, "run_mcmc.py", *options, "--only", "0",
                                 "--out", "cancelled"]))
    cancelled = slurm("sbatch", "--parsable", "--requeue", "-n1", "--cpus-per-task=1",
                      "--mem=100M", "--output=cancelled.log", f"--wrap={command}").strip()

    def has_ended(jobs):                                # a requeued job waits for two minutes
        if jobs.get(first) == "PENDING":
            slurm("bash", "-c", f"scontrol update JobId={first} StartTime=now || true")
        if jobs.get(cancelled) == "RUNNING" and trains("cancelled")(jobs):
            slurm("scancel", cancelled)
        return not jobs
    wait_for(has_ended)
    assert whole.wait(600) == 0
    return folder, first, preempted, printed


def test_a_preempted_graph_on_a_real_slurm_makes_the_bits_of_one_process(begun):
    folder, first, preempted, printed = begun
    names = [line.split()[1] for line in printed.splitlines()]
    assert names == ["measure", "network", "infer", "score"]
    out = folder / "out"
    logs = {p.name: p.read_text() for p in sorted((out / "logs").iterdir())}
    assert len(logs) == 5 and (out / "score.json").is_file(), logs
    (log,) = [text for name, text in logs.items() if name.startswith("measure")]
    assert log.count("stopped by SIGTERM") == 1 and preempted[first] == "PENDING", log
    assert len(preempted) >= 4, preempted               # the others wait for it
    joined, one = (hdf5.read(folder / name / "posterior.h5") for name in ("out", "whole"))
    assert joined.digest == one.digest and len(one.groups["summary"]["posterior_mean"]) > 3
    assert not list(out.glob(".*"))


def test_a_cancelled_job_does_not_go_on(begun):
    folder, *_ = begun
    out = folder / "cancelled"
    assert list(out.glob("checkpoint*.pt")) and not list(out.glob("*.h5")), [*out.iterdir()]
    assert "stopped by SIGTERM" in (folder / "cancelled.log").read_text()
