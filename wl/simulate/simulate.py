"""Simulate a data set in the layout of the public release.

    python -m wl.simulate --out data/simulated --cosmologies 101 --realisations 32 --test 512

Until it is complete a set lives in DIR/.unfinished; the same command goes on where a killed run
stopped. A map's numbers come from (seed, stream, cosmology, realisation) alone: it depends neither
on the number of processes nor on the maps drawn before it.
"""
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing.connection
import os
import pathlib
import shutil
import signal
import sys
import threading
from argparse import Namespace

import numpy as np

from ..core import cli
from ..core.checks import InputError, RunError
from ..core.files import (LOCK_FILE, code_version, digest_file, first_difference, lock, versions,
                          write_json)
from ..core.progress import ENDING, Progress, say, warn
from ..maps import dataset
from ..maps.dataset import MASK_FILE, SIMULATION_FILE, TEST_FILE, TRUTH_FILE, UNFINISHED
from ..maps.splits import DEFAULT_DATA, DEFAULT_REALISATIONS
from .fields import Grid
from .halo_sky import draw_maps
from .plan import KAPPA_FILE, LABEL_FILE, Plan, SimulationOptions
from .theory import PUBLISHED

SIMULATED = "simulated"                # below the folder of --data: the set that a script simulates
DEFAULT_TEST = 1024
# in the order they are moved into place: what a reader looks for comes late, the proof last
FILES = (MASK_FILE, TRUTH_FILE, TEST_FILE, LABEL_FILE, KAPPA_FILE, SIMULATION_FILE)
# one process per core: BLAS threads would compete, and change the last bits of the spectra
WORKER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                      **cli.ALLOCATOR}
_worker = {}             # of a worker process: mask, options, grid


def simulate(out, options: SimulationOptions | None = None, *, processes: int | None = None,
             quiet: bool = False, force: bool = False, **settings) -> bool:
    """Write a data set; do nothing if it is there already.

    out, options: folder; of the set, or its fields by keyword, as settings
    processes, quiet: None for all CPUs; no progress
    force: overwrite a simulated set made with other options
    Returns whether maps were made. Raises InputError, RunError.
    """
    out = pathlib.Path(out)
    processes = cli.thread_count(processes, "--processes")
    plan = Plan(options or SimulationOptions(**settings), room(out))
    if _is_complete(out, plan, force):
        return False
    part = out / UNFINISHED
    held = lock(part)
    try:
        done = prepare(part, plan, force)
        tasks = [task for task in plan.tasks() if task[0] not in done]
        if tasks:
            _run(part, plan, tasks, processes, quiet)
        _finish(out, part, plan)
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; the maps made so far are kept, "
                       "run the same command again to go on") from None
    finally:
        del held
    return True


def _run(part, plan, tasks, processes, quiet):
    """Draw the maps of the tasks on all processes."""
    bar = Progress(plan.label[..., 0].size + len(plan.label_test), "simulate", quiet)
    bar.begin_at(bar.total - sum(len(task[2]) for task in tasks))
    others, ended = set(multiprocessing.active_children()), False
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("spawn"), _start_worker,
        (plan.mask, plan.options))
    try:
        with open(part / "done", "a") as done:
            with _own_start():
                names = {pool.submit(write_maps, part / (file + ".part"), *rest): name
                         for name, file, *rest in tasks}
            for future in concurrent.futures.as_completed(names):
                bar.update(future.result())
                done.write(names[future] + "\n")
                done.flush()
        ended = True
    except concurrent.futures.process.BrokenProcessPool:
        raise RunError("a worker process died (out of memory?); run the same command again to go "
                       "on, with fewer --processes") from None
    finally:
        for child in () if ended else set(multiprocessing.active_children()) - others:
            child.kill()                   # a task that is not noted as done is drawn again
        pool.shutdown(wait=True, cancel_futures=True)
    bar.close()


@contextlib.contextmanager
def _own_start():
    """Workers begun here have one thread, need no main script, and leave signals to the parent."""
    main, before = sys.modules["__main__"], dict(os.environ)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    os.environ.update(WORKER_ENVIRONMENT)
    sys.modules["__main__"] = type(sys)("__main__")          # its __spec__ is None
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name in WORKER_ENVIRONMENT:
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_worker(mask, options):
    def end_with_parent():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker.update(mask=mask, options=options)


def write_maps(path: pathlib.Path, places, labels: np.ndarray, keys: list, noise: float) -> int:
    """Draw maps of one cosmology and write them as float16 rows of a .npy; returns their number."""
    options = _worker["options"]
    if "grid" not in _worker:            # not at the start: errors have to reach the parent
        _worker["grid"] = Grid(_worker["mask"], periodic=options.periodic)
    first, size = np.load(path, mmap_mode="r").offset, 2 * len(_worker["grid"].observed)
    maps = draw_maps(_worker["grid"], labels, options.seed, keys, options, noise)
    with open(path, "r+b") as file:          # buffered: what the disk does not take is an error
        for place, kappa in zip(places, maps):
            with np.errstate(over="ignore"):
                row = kappa.astype("<f2")
            if not np.isfinite(row).all() or (row.size > 1 and (row == row[0]).all()):
                raise RunError("a map at Omega_m = {:g}, S_8 = {:g} has infinite, undefined or "
                               "equal pixels; give options nearer to their defaults".format(
                                   *labels[0]))
            file.seek(first + int(place) * size)
            file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())              # the parent notes the task as done: it has to be
    return len(places)


def room(out: pathlib.Path) -> int:
    """Bytes that a set in a folder may take: the disk's free ones and those of the set in it."""
    own = sum(min(path.stat().st_size, 512 * path.stat().st_blocks)          # begun ones are sparse
              for folder in (out, out / UNFINISHED) for path in folder.glob("*")
              if path.name.removesuffix(".part") in FILES)
    disk = next(path for path in (out, *out.absolute().parents) if path.exists())
    return shutil.disk_usage(disk).free + own


def _is_complete(out, plan, force):
    """Whether the folder holds this very set; refuses another (InputError) unless forced."""
    proof, present = out / SIMULATION_FILE, [name for name in FILES if (out / name).exists()]
    if not proof.is_file():
        if present and not (out / UNFINISHED / SIMULATION_FILE).is_file():
            raise InputError(f"{out}: holds {present[0]} but no {SIMULATION_FILE}, so it was not "
                             "simulated and stays untouched; give another --out")
        return False
    if _is_plans(out, dataset.read_proof(proof), plan, force):
        try:
            _check_whole(out, plan)
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of a run killed at its last step
            return True
        except InputError as error:
            if not force:
                raise InputError(f"{error}; or give --force to simulate it again") from None
    for name in reversed(FILES):                 # the proof goes first
        (out / name).unlink(missing_ok=True)
    return False


def _check_whole(out, plan):
    found = dataset.open_set(out)
    found.check_maps()
    changed = found.changed({key: digest_file(path) for key, path in found.files.items()})
    truth = dataset.read_truth(out) if len(plan.label_test) else plan.label_test
    if found.n_test != len(truth) or not np.array_equal(truth, plan.label_test):
        changed.append(TEST_FILE)
    if changed:
        raise InputError(f"{out / changed[0]}: is not what the simulator wrote")


def _is_plans(folder, before, plan, force):
    """True if settings and inputs are the plan's; InputError with both values unless force."""
    differ = (first_difference(before.get("settings"), plan.settings)
              or first_difference(before.get("inputs"), plan.inputs, "sha256"))
    if differ and not force:
        name, was, now = differ
        raise InputError(f"{folder}: holds maps simulated with {name} = {was}, asked for {now}; "
                         "give --force to replace them, or another --out")
    return differ is None


def prepare(part: pathlib.Path, plan: Plan, force: bool) -> set[str]:
    """Set up or take up the unfinished folder; returns the names of the tasks that are done."""
    state, begun = part / "state.json", not (part / SIMULATION_FILE).is_file()
    now = {"settings": plan.settings, "inputs": plan.inputs, "code": code_version().split()[0]}
    files = {part / (name + ".part"): (*label.shape[:-1], plan.n_observed) for name, label in (
        (KAPPA_FILE, plan.label), (TEST_FILE, plan.label_test)) if label.size}
    if state.is_file():
        before = dataset.read_proof(state)
        if _is_plans(part.parent, before, plan, force) and before.get("code") == now["code"]:
            try:
                done = set((part / "done").read_text().split("\n")[:-1])
                for path in files if begun else ():
                    np.load(path, mmap_mode="r")
                return done
            except (FileNotFoundError, EOFError, ValueError) as error:
                warn(f"{part}: a file is missing or cut, so all maps are drawn again ({error})")
    # other code draws other maps
    for old in (*(part.parent / name for name in (() if begun else FILES)), *part.iterdir()):
        if old.name != LOCK_FILE:
            old.unlink(missing_ok=True)
    (part / "done").write_text("")
    for path, shape in files.items():
        np.lib.format.open_memmap(path, "w+", np.dtype("<f2"), shape)
    write_json(state, now)
    return set()


def _finish(out, part, plan):
    """Move everything into place, simulation.json last; taken up again if it is killed half-way."""
    if not (part / SIMULATION_FILE).is_file():
        for name, values in ((MASK_FILE, plan.mask), (LABEL_FILE, plan.label),
                             (TRUTH_FILE, plan.label_test)):
            if len(values):
                np.save(part / name, values)
        write_json(part / SIMULATION_FILE, {
            "settings": plan.settings, "seed": plan.options.seed, "inputs": plan.inputs,
            "maps": {key: digest_file(path)
                     for key, name in (("kappa", KAPPA_FILE), ("noisy_test", TEST_FILE))
                     if (path := part / (name + ".part")).is_file()},
            "origin": plan.origin, "versions": versions(), "code_version": code_version()})
    for name in FILES:
        for source in (part / name, part / (name + ".part")):
            if source.is_file():
                os.replace(source, out / name)
    shutil.rmtree(part)


def locate(args: Namespace) -> dataset.MapSet:
    """The data set that a command line's --data means, simulated if there is none; InputError."""
    folder = pathlib.Path(args.data)
    if not folder.is_dir() and args.data != DEFAULT_DATA:
        raise InputError(f"--data {args.data}: no such folder; leave it out to simulate a set")
    sets, ours = [p for p in dataset.find_sets(folder) if p.name != "runs"], folder / SIMULATED
    begun = (ours / UNFINISHED).is_dir() and (ours not in sets or dataset.interrupted(ours))
    mask, label = folder / MASK_FILE, folder / LABEL_FILE
    if folder in sets or (sets and not begun):
        chosen = folder if folder in sets else ours if ours in sets else sets[0]
        others = ", ".join(p.name for p in sets if p != chosen)
        if chosen not in (folder, ours) and others:
            raise InputError(f"--data {args.data}: expected one data set, found {chosen.name}, "
                             f"{others}; give one of them, e.g. --data {chosen}")
        if chosen != folder:
            say(f"maps of {chosen}" + (f" (there are also {others})" if others else ""), args.quiet)
        found = dataset.open_set(chosen, args.release, args.test_maps)
    elif mask.is_file() and label.is_file() and not (folder / SIMULATION_FILE).is_file():
        found = _simulated_for(args, folder, mask, label)
    elif folder.is_dir() and any(folder.glob("*.npy")):
        raise InputError(f"{folder}: expected {KAPPA_FILE} among its files, found none; complete "
                         "the set, or give --data another folder")
    else:
        say(f"no maps in {folder}: simulating a set into {ours}", args.quiet)
        found = _simulated(args, ours, test=DEFAULT_TEST)
    if args.realisations not in (None, found.n_realisation):
        raise InputError(f"--realisations {args.realisations}: {found.folder} is there already, "
                         f"with {found.n_realisation}; leave the option out, or simulate another "
                         "set by python -m wl.simulate and give its --data")
    for name in found.changed():
        warn(f"{found.folder / name} is not what the simulator wrote: it was changed since")
    seed = found.simulation.get("seed", args.seed)
    if seed != args.seed:
        say(f"--seed {args.seed}: the maps of {found.folder} stay those of seed {seed}; split, "
            "noise, weights and chains are new", args.quiet)
    return found


def _simulated(args, out, **settings):
    simulate(out, realisations=args.realisations, seed=args.seed, processes=args.threads,
             quiet=args.quiet, force=args.force, **settings)
    return dataset.open_set(out)


def _simulated_for(args, folder, mask, label):
    """The set of a folder that has mask, labels and perhaps noisy maps: maps drawn for them."""
    test_path = dataset.test_file(folder, name=args.test_maps)
    settings = str((args.realisations or DEFAULT_REALISATIONS, args.seed))
    stamp = hashlib.sha256(mask.read_bytes() + label.read_bytes() + settings.encode())
    out = pathlib.Path(DEFAULT_DATA) / "simulations" / stamp.hexdigest()[:12]
    say(f"mask and labels but no maps in {folder}: simulating maps for them into {out}", args.quiet)
    found = _simulated(args, out, test=0, mask=mask, design=label)
    if (folder / TRUTH_FILE).is_file():
        warn(f"{folder / TRUTH_FILE}: is not read here; score by run_score.py --data {folder}")
    more = {"name": folder.resolve().name}                            # not the digest
    if test_path is not None:
        more |= {"noisy_test": dataset.read_test(test_path, found.mask, mask),
                 "files": {**found.files, "noisy_test": test_path}}
    return dataclasses.replace(found, **more)


def parser() -> cli.Parser:
    """The options of python -m wl.simulate."""
    parser = cli.Parser(prog="python -m wl.simulate", description=(__doc__ or "") + f"""
Writes into DIR, in the layout of the public release (264 kB a map):
  {KAPPA_FILE}  (cosmology, realisation, pixel) float16, noiseless
  {LABEL_FILE}  (cosmology, realisation, 5) Omega_m, S_8, log10 T_AGN, f_0, Delta_z
  {MASK_FILE}  (rows, columns) bool, True = observed
  {TEST_FILE}  (test + unseen, pixel) float16, noisy
  {TRUTH_FILE}  (test + unseen, 5), which only scoring reads
  {SIMULATION_FILE}  settings, seed, versions, digests""")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the set")
    published = " ".join(f"--{name.replace('_', '-')} {value:g}"
                         for name, value in PUBLISHED._asdict().items())
    names = list(SimulationOptions.__dataclass_fields__)
    at = [0, *map(names.index, ("design", "field", "delta_z_sign")), None]
    for i, title in enumerate(("size", "cosmologies and nuisances", "sky", "spectrum (fitted by "
                               f"benchmarks/fit_sky.py; as published: {published})")):
        SimulationOptions.add_to(parser, title, only=names[at[i]:at[i + 1]])
    add = parser.add_argument_group("run").add_argument
    add("--processes", type=int, metavar="N", help="their number changes no byte (default: all)")
    add("--force", action="store_true", help="replace a set that was simulated with other settings")
    return cli.add_common(parser, threads=False)


def main(argv: list | None = None) -> None:
    """The command line: python -m wl.simulate."""
    args = cli.parse(parser(), argv)
    made = simulate(args.out, SimulationOptions.of(args), processes=args.processes,
                    quiet=args.quiet, force=args.force)
    print(f"{args.out}: {'complete' if made else 'complete already, nothing to do'}")


command = functools.partial(cli.run, main)            # wl-simulate, when installed
