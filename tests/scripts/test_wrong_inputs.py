"""Wrong inputs: each ends in one line and exit 2, at once, before any work, and leaves nothing.

One process imports everything and gives all commands. Some are real processes too.
"""
import ast
import contextlib
import gc
import io
import os
import pathlib
import shutil
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_code

HUGE, ABSURD = str(2**63), "1000000000"
MCMC, DIRECT, SCORE = ("run_mcmc.py --data set", "run_direct.py --data set",
                       "run_score.py run/posterior.h5")
SIMULATE, LIMIT = "-m wl.simulate --out new --mask mask.npy", "-m wl.validate limit --data set"
REALISM, CALIBRATION = ("-m wl.validate realism --map set/noisy.npy",
                        "-m wl.validate calibration run")
SPECTRUM = MCMC + " --method spectrum"

# command, options: what is wrong in each; a ' stands for an empty text
CASES = [
    *((MCMC, f"{option} {value}") for value in (HUGE, "nan", "-1", "1.5", "'", "x") for option in (
        "--folds", "--epochs", "--batch-size", "--nstep", "--thin", "--chains", "--members",
        "--lanes", "--draws", "--threads", "--seed", "--only")),
    *((MCMC, f"{option} {value}") for option in (
        "--sigma", "--burn-in", "--learning-rate", "--weight-decay", "--emulator-fraction",
        "--holdout-fraction") for value in ("nan", "inf", "-1", "'", "1e999", "x")),
    *((MCMC, f"{option} {ABSURD}") for option in (
        "--members", "--folds", "--lanes", "--epochs", "--chains", "--threads", "--realisations")),
    *((MCMC, f"{option} '") for option in (
        "--data", "--out", "--predictions", "--prior", "--model", "--release", "--shard",
        "--config",
        "--model-option", "--method", "--sampler", "--test-maps")),
    *((MCMC, words) for words in (
        f"--shard 1/{HUGE}", f"--shard {HUGE}/1", "--shard 2/1", "--shard 0/4", "--shard 1/4/4",
        "--model compact+compact", "--model compact+nothing", "--model-option scales=nan",
        "--model-option scales=3,1", "--model-option networks=1e9", "--model-option draws=-1",
        "--model-option widths=0", "--model-option nothing=3", "--model-option widths",
        "--loss nothing", "--prior nowhere.npy",
        "--prior set/label.npy", "--prior mask.npy", "--smooth none --emulator-fraction 0.1",
        "--emulator-fraction 0.1", "--emulator-fraction 0.99", "--holdout-fraction 0.99",
        "--target holdout --holdout-fraction 0", "--release sampled", "--test-maps nowhere.npy",
        "--only 0 --model compact --folds 1", "--lanes 64", "--batch-size 2 --lanes 4",
        "--folds 17",
        "--draws -3", "--nstep 3 --thin 9", "--nstep 1000 --thin 100 --draws 9", "--burn-in 1",
        "--predictions nowhere.h5",
        "--predictions set/label.npy", "--config nowhere.json", "--config mask.npy", "--views 3",
        "--config set/wrong.json", "--out mask.npy", "--out mask.npy/x", "--out set/label.npy",
        "--realisations 5", "--maps set/noisy.npy", "--apply nowhere --maps set/noisy.npy")),
    *((MCMC, f"--config {name}") for name in (
        "deep.json", "part.json", "list.json", "value.json", "pipe", "/dev/zero", "set")),
    *((MCMC, words) for words in (
        "--shard 1/2 --only 0", f"--out {'x' * 300}", "--init nowhere",
        f"--data {'x' * 300}", "--data pipe", "--prior /dev/zero", "--out /dev/null")),
    *(("run_mcmc.py", f"--predictions {name}") for name in (
        "empty.npz", "negative.npz", "huge.npz", "long.csv", "pipe",
        "run/predictions.h5 --model compact", "run/predictions.h5 --folds 3 --dry-run")),
    *(("run_mcmc.py --apply run", f"--maps {name}") for name in (
        "scalar.npy", "pipe", "mask.npy", "set/noisy.npy --data set", "set/noisy.npy --only 0",
        "set/noisy.npy --model compact", "set/noisy.npy --method spectrum --dry-run")),
    *((SPECTRUM, words) for words in (
        "--smooth none --emulator-fraction 0.5 --holdout-fraction 0.4", "--prior nowhere.npy",
        "--holdout-fraction 0.95", "--draws -2", "--nstep -3")),
    *((DIRECT, words) for words in (
        "--loss mse", "--loss kl --loss-option start=3", "--sigma 0.1", "--nstep 100",
        "--data nowhere",
        "--data mask.npy", "--model spectrum", "--patience -1")),
    *((SCORE, words) for words in (
        "--bootstrap 0", f"--bootstrap {HUGE}", f"--bootstrap {ABSURD}", "--bootstrap nan",
        "--data '",
        "--data nowhere", "--submission out.txt", "--submission '", "--merge '", "--merge run/x.h5",
        "--ood nowhere.npy", "--ood mask.npy", "--ood '", "--figure picture.doc", "--seed -1")),
    ("run_score.py", ""), ("run_score.py nowhere.h5", ""), ("run_score.py mask.npy", ""),
    ("run_score.py '", ""), ("run_score.py run", ""), ("run_score.py run/predictions.h5", ""),
    *((SIMULATE, words) for words in (
        f"--cosmologies {HUGE}", f"--realisations {ABSURD}", f"--test {HUGE}", "--test -1",
        f"--unseen {ABSURD}", "--boxes -1", f"--boxes {HUGE}", "--n-gal 0", "--n-gal nan",
        "--n-gal 1e-300", "--n-gal 1e300", "--processes 0", f"--processes {HUGE}", "--out '",
        "--mask '", "--mask nowhere.npy", "--mask set/label.npy", "--design nowhere.npy",
        "--design mask.npy", "--design '", "--lambda-factor 0", "--pixel-scatter -1",
        "--source-shift nan", "--nonlinear-tilt 2", "--gaussian-share 1", "--cosmologies 0",
        "--field cube", "--nuisances design", "--out mask.npy", "--design none.npy",
        "--design pipe", f"--out {'x' * 300}")),
    *((LIMIT, words) for words in (
        f"--sobol {HUGE}", "--sobol 3", "--sobol 0", f"--order {ABSURD}", "--order 0",
        "--n-gal 30", "--data nowhere", "--data '", "--out '")),
    *((REALISM, words) for words in (
        f"--maps {HUGE}", "--maps 0", "--map nowhere.npy", "--map '", f"--row {HUGE}", "--row x",
        "--n-gal inf", "--figure picture.doc")),
    *((CALIBRATION, words) for words in (
        f"--maps {HUGE}", "--maps 0", "--scale nan", "--scale 0", "--nstep 0", f"--nstep {HUGE}",
        "--threads 0")),
    ("-m wl.validate calibration nowhere", ""), ("-m wl.validate nothing", ""),
    ("run_mcmc.py --dat set", ""), ("run_mcmc.py stray", ""),
]


def words_of(case):
    return ["" if word == "'" else word for word in " ".join(case).split()]


def make(folder):
    """A small set, and a finished run on it."""
    import run_mcmc
    from wl.core import cli
    from wl.simulate.simulate import simulate
    os.chdir(folder)
    mask = np.ones((64, 48), bool)
    mask[20:30, 10:15] = False
    np.save("mask.npy", mask)
    simulate("set", cosmologies=8, realisations=16, test=8, mask="mask.npy", processes=1,
             quiet=True)
    np.save("set/noisy.npy", np.load("set/WIDE12H_bin2_2arcmin_kappa_noisy_test.npy"))
    pathlib.Path("set/wrong.json").write_text('{"settings": {"nsetp": 100}}')
    long = f"Omega_m,S_8,x\n{'9' * 200_000}"
    value = '{"settings": {"model_options": {"compact": {"hidden": ""}}}}'
    for name, text in (("deep.json", "[" * 100_000), ("long.csv", long), ("value.json", value),
                       ("part.json", '{"settings": {"model_options": {"nothing": {}}}}'),
                       ("list.json", '{"settings": {"model_options": [1]}}')):
        pathlib.Path(name).write_text(text)
    truth = np.repeat(np.random.default_rng(1).uniform(0.2, 0.9, (6, 2)), 10, axis=0)
    for name, summaries, sign in (("empty", truth[:, :0], 1), ("negative", truth, -1),
                                  ("huge", 1e300 * truth, 1)):
        np.savez(name, summaries=summaries, truth=sign * truth)
    np.save("scalar.npy", np.float16(1)), np.save("none.npy", np.zeros((0, 2)))
    os.mkfifo("pipe")
    devnull = open(os.devnull, "w")
    sys.stdout, out = devnull, sys.stdout
    run_mcmc.main("--data set --method spectrum --sampler exact --quiet --out run".split())
    sys.stdout = out
    gc.collect()
    assert not pathlib.Path("run/.lock").exists() and cli


def main(folder):
    """Run all cases; prints a line for each that falls short."""
    import importlib
    import run_direct, run_mcmc, run_score  # noqa: E401
    from wl.core import cli
    make(folder)
    mains = {"run_mcmc.py": run_mcmc.main, "run_direct.py": run_direct.main,
             "run_score.py": run_score.main}
    from wl.simulate import simulate
    mains["wl.simulate"] = simulate.main
    for name, module in (("limit", "inference"), ("realism", "realism"),
                         ("calibration", "inference")):
        mains[name] = getattr(importlib.import_module(f"wl.validate.{module}"), f"{name}_main")
    import torch  # noqa: F401
    from wl.summaries import apply, dense, handmade, training  # noqa: F401
    before = {str(p): p.stat().st_mtime_ns for p in pathlib.Path(".").rglob("*")}
    counted = 0
    gc.freeze()                                          # else each collection costs 0.3 s
    for case in CASES:
        words = words_of(case)
        if "nothing" in words[:3]:
            continue                                     # a real process below
        kind, start = words[0], 1
        if kind == "-m":
            kind, start = (words[2], 3) if words[1] == "wl.validate" else (words[1], 2)
        sys.argv[:] = [kind, *words[start:]]
        streams, began = (io.StringIO(), io.StringIO()), time.process_time()
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                cli.run(lambda: mains[kind](words[start:]))
            except SystemExit as end:
                code, counted = end.code, counted + 1
        gc.collect()
        (out, err), used = (stream.getvalue() for stream in streams), time.process_time() - began
        after = {str(p): p.stat().st_mtime_ns for p in pathlib.Path(".").rglob("*")}
        left = sorted({*after} ^ {*before})
        wrong = [what for what, is_wrong in (
            (f"code {code}", code != 2), ("lines", err.count("\n") != 1), ("stdout", out != ""),
            (f"left {left}", left), (f"{used:.1f} s", used > 3),
            ("words", "error: " not in err or len(err) > 600 or "Traceback" in err)) if is_wrong]
        if wrong:
            print(repr((" ".join(case), wrong, err[-400:])))
            for path in {*left} & {*after}:
                shutil.rmtree(path, ignore_errors=True)
    print(counted)


def begin(folder):
    return run_code(f"import test_wrong_inputs as t; t.main({str(folder)!r})", timeout=3000,
                    env={"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})


def test_wrong_inputs_end_in_one_line_at_once_and_leave_nothing(begun):
    assert begun.returncode == 0, begun.stdout + begun.stderr
    *short, counted = begun.stdout.splitlines()
    assert not short, "\n".join(short)
    assert int(counted) >= 200 and begun.stderr == ""


@pytest.mark.parametrize("case", [
    "run_mcmc.py --members 1000000000", "run_mcmc.py --data '", "run_direct.py --epochs nan",
    "run_score.py nowhere.h5", "-m wl.simulate --out new --cosmologies 1e30",
    "-m wl.validate nothing", "-m wl.validate limit --data nowhere"])
def test_some_of_them_as_a_user_gives_them(tmp_path, case):
    import subprocess
    words = words_of([case])
    if words[0] != "-m":
        words[0] = str(ROOT / words[0])
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert run.returncode == 2 and run.stdout == "" and run.stderr.count("\n") == 1, run.stderr
    assert not list(tmp_path.iterdir())


def test_the_cases_are_many_and_differ():
    assert len({" ".join(case) for case in CASES}) == len(CASES) >= 200
    assert ast.literal_eval(repr(CASES)) == CASES
