#!/usr/bin/env python3
"""How time and memory of each stage grow: maps, cosmologies, realisations, frame, steps.

  python benchmarks/scaling.py
  python benchmarks/scaling.py --stages simulate metropolis
  python benchmarks/scaling.py --smallest 2                # two sizes each: a smoke run

Each size is a process of its own on one thread: its CPU seconds, and the peak of its resident
memory, which begins with 0.1 to 0.4 GB of imports. Each row is fitted by a + b x^p: a is what a
stage costs at any size, p how it grows. The last line compares maps per CPU second, over the stages
that take maps, at the most maps and at the fewest.
"""
import argparse
import contextlib
import io
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from scipy.optimize import curve_fit  # noqa: E402

COLUMNS, ROWS = 176, 1424              # of the survey's frame
# stage: (sizes that stay, {what grows: sizes})
STAGES = {
    "simulate": (dict(cosmologies=3, realisations=16, rows=ROWS),
                 dict(realisations=(16, 64, 256), cosmologies=(3, 12, 48), rows=(356, 1424, 5696))),
    "measure": (dict(maps=96, rows=ROWS), dict(maps=(48, 192, 768), rows=(356, 1424, 5696))),
    "train": (dict(steps=6, rows=ROWS), dict(steps=(3, 12, 48), rows=(356, 1424, 5696))),
    "exact": (dict(maps=1000, cosmologies=100, realisations=32),
              dict(maps=(500, 2000, 8000), cosmologies=(25, 100, 400), realisations=(16, 64, 256))),
    "metropolis": (dict(maps=1000, cosmologies=100, realisations=32, steps=4000),
                   dict(maps=(500, 2000, 8000), steps=(2000, 8000, 32000))),
    "apply": (dict(maps=64), dict(maps=(32, 128, 512))),
}
BATCH = 16                             # maps of a training step


# ---------------------------------------------------------------- a stage, in a process of its own
def prepared(stage, size, folder):
    """A function that does the work of a stage of one size; what it needs is made before."""
    rng, n = np.random.default_rng(1), size.get("maps", 0)
    mask = np.ones((size.get("rows", ROWS), COLUMNS), bool)
    if stage == "simulate":
        from wl.simulate.simulate import simulate
        np.save(folder / "mask.npy", mask)
        return lambda: simulate(folder / "set", cosmologies=size["cosmologies"], test=1,
                                realisations=size["realisations"], mask=folder / "mask.npy",
                                processes=1, quiet=True)
    if stage in ("exact", "metropolis"):
        return inference(stage, size, folder, rng)
    if stage == "run":                     # a set and a finished run for the stage "apply"
        from wl.simulate.simulate import simulate
        simulate(folder.parent / "set", cosmologies=6, realisations=12, test=32, processes=1,
                 quiet=True)
        return script("--data", folder.parent / "set", "--model", "statistics", "--sampler",
                      "exact", "--out", folder.parent / "run", "--model-option", "networks=2")
    if stage == "apply":
        source = np.load(folder.parent / "set" / "WIDE12H_bin2_2arcmin_kappa_noisy_test.npy")
        np.save(folder / "new.npy", source[np.arange(n) % len(source)])
        return script("--apply", folder.parent / "run", "--maps", folder / "new.npy", "--sampler",
                      "exact", "--allow-unconverged", "--out", folder / "out")
    from wl.maps.batches import FIXED, Batches, Frame
    kappa = rng.normal(0.0, 0.0114, (BATCH, mask.sum())).astype(np.float16)
    if stage == "measure":
        from wl.summaries.handmade import Features, measure
        from wl.summaries.options import MODELS
        frame = Frame(mask, pack=False)
        features = Features(frame.observed, 30.0, MODELS["statistics"]["scales"])
        batches = Batches(kappa, frame, scale=1.0, seed=1)
        return lambda: measure(features, batches, np.arange(n) % BATCH, FIXED)
    from wl.summaries import training
    from wl.summaries.options import NetworkOptions
    options = NetworkOptions(model="compact", epochs=1, batch_size=BATCH, patience=0, lanes=2,
                             precision="float32").decided(len(kappa))
    frame = Frame(mask, pack=options.packs)
    recipe = training.Recipe(**options.training(), frame=frame.shape, scale=0.0205, n_gal=30.0,
                             split=[], seed=1, label_mean=[0.0, 0.0], label_sd=[1.0, 1.0])
    rows = np.resize(np.arange(len(kappa)), size["steps"] * BATCH)
    source, label = Batches(kappa, frame, scale=0.0205, seed=1), rng.normal(size=(len(kappa), 2))
    return lambda: training.train(source, label, (rows, np.arange(2)), recipe)


def inference(stage, size, folder, rng):
    """Covariance, emulator, posterior and score of summaries that come from a file."""
    cosmologies, real, n = size["cosmologies"], 2 * size["realisations"], size["maps"]
    theta = rng.uniform((0.1, 0.7), (0.6, 0.95), (cosmologies, 2))
    truth = np.repeat(theta, real, axis=0)           # half feed the emulator, half are held out
    summaries = truth + rng.normal(size=truth.shape) * (0.02, 0.015)
    again = rng.integers(len(truth), size=n)
    np.savez(folder / "x.npz", summaries=np.concatenate([summaries, summaries[again]]),
             truth=np.concatenate([truth, np.full((n, 2), np.nan)]))
    words = ["--predictions", folder / "x.npz", "--target", "test", "--allow-unconverged", "--out",
             folder / "out"]
    chains = ("--sampler", "metropolis", "--nstep", size.get("steps"), "--sigma", "0.02")
    return script(*words, *(chains if stage == "metropolis" else ("--sampler", "exact")))


def script(*words):
    """run_mcmc.py with these words, as a function; what it prints is dropped."""
    import run_mcmc

    def call():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run_mcmc.main([*map(str, words), "--no-figures", "--quiet", "--threads", "1"])
    return call


def one(stage, size, folder):
    """Print CPU seconds and peak memory in MB of a stage of one size, children included."""
    def seconds():
        of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in of), of[1].ru_maxrss / 1024
    with tempfile.TemporaryDirectory(dir=folder) as own:
        work = prepared(stage, size, pathlib.Path(own))
        begun, _ = seconds()
        work()
        ended, of_child = seconds()
    # ru_maxrss of a process begins with that of its parent
    own = int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps([ended - begun, max(own, of_child)]))


# ---------------------------------------------------------------- all sizes, and their laws
def child(folder, stage, size):
    """one() in a process of its own."""
    words = ["--one", json.dumps([stage, size, str(folder)])]
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{stage} {size}: {run.stderr[-800:]}")
    return json.loads(run.stdout.splitlines()[-1])


def law(x, y):
    """a, b, p of a + b x^p, by least squares of relative errors; p is 1 where there are two x.

    What changes by less than a twentieth is a constant, b = 0.
    """
    x, y = np.array(x, float), np.maximum(np.array(y, float), 1e-3)
    top, y_top = x[-1], y[-1]
    if y.max() < 1.05 * y.min():
        return y.mean(), 0.0, 0.0
    if len(x) == 2:
        b = max(np.diff(y)[0] / np.diff(x)[0], 0.0)
        return max(y[0] - b * x[0], 0.0), b, 1.0
    with warnings.catch_warnings(action="ignore"):          # three points give no errors
        (a, b, p), *_ = curve_fit(lambda u, a, b, p: a + b * u**p, x / top, y / y_top,
                                  (0.1, 0.9, 1.0), sigma=y / y_top,
                                  bounds=((0.0, 0.0, 0.0), (1.0, 2.0, 3.0)))
    return a * y_top, b * y_top / top**p, p


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--smallest", type=int, default=9, metavar="N", help="sizes of each, from "
                        "the smallest on (default: all)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(*json.loads(options.one))
    began, fast, slow, count = time.monotonic(), 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        if "apply" in options.stages:
            child(name, "run", {})
        print(f"{'stage':10} {'grows':12} {'sizes':24} {'CPU seconds':32} law of seconds; MB, law")
        for stage in options.stages:
            fixed, growing = STAGES[stage]
            first = {what: sizes[0] for what, sizes in list(growing.items())[:1]}
            child(name, stage, {**fixed, **first})                # compiled code is kept
            for what, sizes in growing.items():
                sizes = sizes[:max(options.smallest, 2)]
                found = np.array([child(name, stage, {**fixed, what: x}) for x in sizes])
                laws = [law(sizes, values) for values in found.T]
                count += len(sizes)
                if what == "maps":
                    slow, fast = slow + found[0, 0] / sizes[0], fast + found[-1, 0] / sizes[-1]
                texts = ["{:.3g} + {:.3g} x^{:.2f}".format(*of) if of[1] else f"{of[0]:.3g}"
                         for of in laws]
                print(f"{stage:10} {what:12} {' '.join(map(str, sizes)):24} "
                      f"{' '.join(f'{s:.2f}' for s in found[:, 0]):32} {texts[0]}; "
                      f"{' '.join(f'{m:.0f}' for m in found[:, 1])}, {texts[1]}", flush=True)
    print(f"all sizes in {time.monotonic() - began:.0f} s")
    slow, fast = slow or 1.0, fast or 1.0                          # no stage that takes maps
    print(f"scaling ratio={slow / fast:.2f} ours={1 / fast:.4g} reference={1 / slow:.4g} n={count}")


if __name__ == "__main__":
    main()
