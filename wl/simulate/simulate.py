"""Simulate a data set in the layout of the public release.

    python -m wl.simulate --out data/simulated --cosmologies 101 --realisations 32 --test 512

Until it is complete a set lives in DIR/.unfinished; the same command goes on where a killed run
stopped. Every map's numbers come from (seed, stream, cosmology, realisation), so that no map
depends on which process drew it, on how many there are, or on the maps drawn before it.
"""
import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator

import numpy as np

from ..core import cli, seeds
from ..core.checks import RunError, within
from ..core.files import lock
from ..core.progress import Progress
from ..maps.dataset import MASK_FILE, SIMULATION_FILE, TEST_FILE, TRUTH_FILE, UNFINISHED
from .fields import Boxes, Field, Grid, generator, log_normal_shift
from .halo_sky import HaloMaps, HaloSky
from .plan import Plan, SimulationOptions
from .sets import KAPPA_FILE, LABEL_FILE, finish, is_complete, prepare, room
from .theory import Theory

CHUNK = 16               # spectra made in one matrix product
_worker = {}             # of a worker process: mask, seed, field, grid


def simulate(out, options: SimulationOptions | None = None, *, processes: int | None = None,
             quiet: bool = False, force: bool = False, **settings) -> bool:
    """Write a data set; do nothing if it is there already.

    out: folder
    options: of the set; or its fields by keyword, as settings
    processes: None for all CPUs
    quiet: no progress
    force: overwrite a simulated set made with other options
    Returns whether maps were made. Raises InputError, RunError.
    """
    out = pathlib.Path(out)
    processes = cli.available_cpus() if processes is None else processes
    processes = within("--processes", processes, 1, 1024, integer=True)
    plan = Plan(options or SimulationOptions(**settings), room(out))
    if is_complete(out, plan, force):
        return False
    part = out / UNFINISHED
    held = lock(part)
    try:
        done = prepare(part, plan, force)
        tasks = [task for task in plan.tasks() if task[0] not in done]
        if tasks:
            _run(part, plan, tasks, processes, quiet)
        finish(out, part, plan)
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; the maps made so far are kept, "
                       "run the same command again to go on") from None
    finally:
        del held
    return True


def _run(part, plan, tasks, processes, quiet):
    train, test = plan.label.shape[:2], len(plan.label_test)
    bar = Progress(train[0] * train[1] + test, "simulate", quiet)
    bar.begin_at(bar.total - sum(len(task[2]) for task in tasks))
    start = {name: np.load(part / (name + ".part"), mmap_mode="r").offset
             for name in {task[1] for task in tasks}}
    # one process per core: BLAS threads would compete, and change the last bits of the spectra
    setting = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
               **cli.ALLOCATOR}
    before = {name: os.environ.get(name) for name in setting}
    os.environ.update(setting)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("spawn"), start_worker,
        (plan.mask, plan.options.seed, plan.field))
    others, ended = multiprocessing.active_children(), False
    try:
        with open(part / "done", "a") as done:
            with _no_main(), _no_signals():
                names = {pool.submit(write_maps, part / (file + ".part"), start[file], *rest): name
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
        for child in () if ended else set(multiprocessing.active_children()) - set(others):
            child.kill()                   # a task that is not noted as done is drawn again
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    bar.close()


@contextlib.contextmanager
def _no_main():
    """Let the workers start without importing the main script again: they need nothing of it."""
    main, empty = sys.modules["__main__"], type(sys)("__main__")
    empty.__spec__ = None
    sys.modules["__main__"] = empty
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_signals():
    """Children begun here leave the signals of a whole process group to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM,
                                                       signal.SIGUSR1, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(mask: np.ndarray, seed: int, field: Field) -> None:
    """Initialise a worker process, which ends with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(mask=mask, seed=seed, field=field)


def _end_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def write_maps(path: pathlib.Path, first_byte: int, places, labels: np.ndarray, keys: list,
               noise: float) -> int:
    """Draw maps of one cosmology and write them as float16 rows of a file; returns their number."""
    if "grid" not in _worker:            # not at the start: errors have to reach the parent
        _worker["grid"] = Grid(_worker["mask"], periodic=_worker["field"].periodic)
    grid, size = _worker["grid"], 2 * len(_worker["grid"].observed)
    maps = draw_maps(grid, labels, _worker["seed"], keys, _worker["field"], noise)
    with open(path, "r+b", buffering=0) as file:
        for place, kappa in zip(places, maps):
            with np.errstate(over="ignore"):
                row = kappa.astype("<f2")
            if not np.isfinite(row).all() or (row.size > 1 and (row == row[0]).all()):
                raise RunError(f"a map at Omega_m = {labels[0, 0]:g}, S_8 = {labels[0, 1]:g} has "
                               "infinite, undefined or equal pixels; give options nearer to their "
                               "defaults")
            file.seek(first_byte + int(place) * size)
            file.write(row.tobytes())
        os.fsync(file.fileno())              # the parent notes the task as done: it has to be
    return len(places)


halo_sky = functools.lru_cache(maxsize=2)(HaloSky)     # made once for a grid


def draw_maps(grid: Grid, labels: np.ndarray, seed: int, keys: list, field: Field,
              noise: float = 0.0) -> Iterator[np.ndarray]:
    """Yield maps of one cosmology, float32 (n_observed,).

    labels: (n, 5), Omega_m and S_8 the same in all
    keys: n tuples, each map's stream and indices
    noise: standard deviation of the shape noise, 0 for none
    """
    omega_m, s_8 = labels[0, :2]
    theory = Theory(omega_m, s_8, field.sky)
    spectrum = theory.table(grid.ell)
    halos = HaloMaps(halo_sky(grid), theory) if field.field == "halo" else None
    # boxes belong to a cosmology, whatever its index: test maps share those of the others
    bits = np.array([omega_m, s_8]).view(np.uint64).tolist()
    of_box = functools.partial(generator, seed, seeds.BOX, *bits)
    share = grid.share(field.gaussian_share, field.gaussian_below)
    shift = field.lambda_factor * float(log_normal_shift(omega_m, s_8))
    for first in range(0, len(labels), CHUNK):
        part = labels[first:first + CHUNK, 2:]
        # always CHUNK rows: a matrix product of another shape may round otherwise in its last bit
        full = np.concatenate([part, np.repeat(part[-1:], CHUNK - len(part), axis=0)])
        power = grid.pixel_power(spectrum(*full.T))
        held = halos.hold(full, power) if halos else None
        for i, key in enumerate(keys[first:first + CHUNK]):
            rng, own = generator(seed, *key), generator(seed, seeds.SCATTER, *key)
            boxes = Boxes(field.boxes, rng, of_box) if field.boxes else None
            lam = None
            if field.field != "gaussian":
                lam = shift * np.exp(field.lambda_scatter * own.normal())
            if halos:
                kappa = halos.draw(held, i, full[i], rng, boxes)
            else:
                kappa = grid.draw(power[i], lam, rng, share, boxes=boxes)
            if field.pixel_scatter:
                sigma = np.sqrt(field.pixel_scatter * own.random())
                kappa += np.float32(sigma) * own.standard_normal(len(kappa), dtype=np.float32)
            if noise:
                rng = generator(seed, seeds.TEST_NOISE, *key)
                kappa += np.float32(noise) * rng.standard_normal(len(kappa), dtype=np.float32)
            yield kappa


def parser() -> cli.Parser:
    """The options of python -m wl.simulate."""
    parser = cli.Parser(prog="python -m wl.simulate", description=(__doc__ or "") + f"""
Writes into DIR, in the layout of the public release:
  {KAPPA_FILE}  (cosmology, realisation, pixel) float16, noiseless
  {LABEL_FILE}  (cosmology, realisation, 5) Omega_m, S_8, log10 T_AGN, f_0, Delta_z
  {MASK_FILE}  (1424, 176) bool, True = observed
  {TEST_FILE}  (test + unseen, pixel) float16, noisy
  {TRUTH_FILE}  (test + unseen, 5), which only scoring reads
  {SIMULATION_FILE}  settings, seed, versions, digests

Disk: 264 kB a map, 1 GB for 101 x 32 + 512 maps.""")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the set")
    SimulationOptions.add_groups(parser)
    add = parser.add_argument_group("run").add_argument
    add("--processes", type=int, metavar="N",
        help="processes; their number changes no byte (default: all CPUs)")
    add("--force", action="store_true",
        help="replace a simulated set that was made with other settings")
    return cli.add_common(parser, threads=False)


def main(argv: list | None = None) -> None:
    """The command line: python -m wl.simulate."""
    args = cli.parse(parser(), argv)
    made = simulate(args.out, SimulationOptions.of(args), processes=args.processes,
                    quiet=args.quiet, force=args.force)
    print(f"{args.out}: {'complete' if made else 'complete already, nothing to do'}")


command = functools.partial(cli.run, main)            # wl-simulate, when installed
