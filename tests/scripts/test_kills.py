"""Runs that are killed or stopped at random times: the same command ends in the same bits.

One process imports everything; each run is a child of it, so that a kill costs a second.
"""
import ast
import gc
import os
import pathlib
import random
import signal
import sys
import time

import numpy as np
from conftest import run_code
from runs import make_set

KILLS = int(os.environ.get("WL_KILLS", 12))
STOPS = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
RUN = ["run_mcmc.py", "--data", "data", "--epochs", "2", "--batch-size", "8", "--lanes", "2",
       "--precision", "float32", "--model-option", "widths=3,4,4,5", "--model-option", "hidden=6",
       "--model-option", "networks=1", "--model-option", "layers=8", "--views", "1", "--draws", "2",
       "--nstep", "2000", "--allow-unconverged", "--emulator-fraction", "0.5", "--threads", "1",
       "--no-figures"]
SIMULATE = ["python -m wl.simulate", "--mask", "mask.npy", "--cosmologies", "6", "--realisations",
            "8", "--test", "6", "--processes", "1"]


def child(command, out, log):
    """Start a command as a child. Returns its process id."""
    gc.collect()
    number = os.fork()
    if number:
        return number
    sys.argv[:] = [*command, "--out", out]
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1), os.dup2(handle, 2)
    import run_mcmc
    from wl.core import cli
    from wl.simulate import simulate
    try:
        cli.run(simulate.main if "simulate" in command[0] else run_mcmc.main)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code)


def ended(number):
    """The exit code of a child, minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def contents(out):
    """What a folder holds, by name: digests of the results, bytes of the maps."""
    from wl.core import hdf5
    from wl.summaries.network import load_torch
    found = {}
    for path in sorted(pathlib.Path(out).iterdir()):
        if path.suffix == ".h5":
            found[path.name] = hdf5.read(path).digest
        elif path.suffix == ".pt":
            content = load_torch(path)
            weights = content["weights"] if "weights" in content else content
            found[path.name] = hdf5.digest_array(np.frombuffer(repr(weights).encode(), np.uint8))
        elif path.suffix == ".npy":
            found[path.name] = hdf5.digest_array(np.load(path))
        else:
            found[path.name] = path.name
    return found


def main(kills, seed):
    """Kill and compare; prints one line a command that ended otherwise, and the counts."""
    import numba, torch, run_mcmc  # noqa: E401, F401
    from wl.kernels import metropolis, quadrature, summaries  # noqa: F401
    from wl.posterior import infer, metropolis as m, quadrature as q, posterior  # noqa: F401
    from wl.scoring import report, table  # noqa: F401
    from wl.summaries import dense, handmade, predict, training  # noqa: F401
    from wl.simulate import simulate  # noqa: F401
    rng, counts, wrong = random.Random(seed), {}, []
    for command, share in ((RUN, 0.75), (SIMULATE, 0.25)):
        name = "simulate" if command is SIMULATE else "run"
        for warm in range(2 if command is RUN else 1):       # the first compiles
            began, reference = time.monotonic(), f"{name}-whole-{warm}"
            if (code := ended(child(command, reference, "log"))) != 0:
                print("reference", code, open("log").read())
                return
        length, todo, k = time.monotonic() - began, round(kills * share), 0
        expected = contents(reference)
        while todo > 0:
            out, k = f"{name}-{k}", k + 1
            for _ in range(min(3, todo)):
                todo -= 1
                how = rng.choice([signal.SIGKILL, signal.SIGKILL, *STOPS])
                number = child(command, out, out + ".log")
                time.sleep(rng.uniform(0.02, 1.0) * length)
                try:
                    os.kill(number, how)
                    sent = time.monotonic()
                    if how == signal.SIGINT:
                        time.sleep(0.01)
                        os.kill(number, how)
                except ProcessLookupError:
                    pass
                code = ended(number)
                counts[how.name, code] = counts.get((how.name, code), 0) + 1
                right = {0, STOPS.get(how, -9)}
                if code not in right or time.monotonic() - sent > 30:
                    wrong.append((out, how.name, code, open(out + ".log").read()[-600:]))
            code, found = ended(child(command, out, out + ".log")), contents(out)
            text = open(out + ".log").read()
            if code or found != expected or "Traceback" in text or "damaged" in text:
                differ = {n for n in {*found, *expected} if found.get(n) != expected.get(n)}
                shown = max(0, min(text.find("Traceback") % 2**31, text.find("damaged") % 2**31,
                                   len(text)) - 300)
                wrong.append((out, code, differ, text[shown:shown + 1500], text[-600:]))
    print(repr((counts, wrong)))


def begin(folder):
    made = make_set(folder / "data")
    (made / "simulation.json").unlink()
    np.save(folder / "mask.npy", np.ones((64, 48), bool))
    code = f"import os, test_kills; os.chdir({str(folder)!r}); test_kills.main({KILLS}, 7)"
    return run_code(code, env={"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}, timeout=3000)


def test_runs_killed_at_random_times_end_in_the_same_bits(begun):
    assert begun.returncode == 0 and begun.stdout.startswith("("), begun.stdout + begun.stderr
    counts, wrong = ast.literal_eval(begun.stdout.splitlines()[-1])
    assert not wrong, wrong
    assert sum(counts.values()) == KILLS and len(counts) >= 3, counts
