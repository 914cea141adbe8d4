"""Simulate a data set in the layout of the public release.

    python -m wl.simulate --out data/simulated --cosmologies 101 --realisations 32 --test 512 --seed 1

Until it is complete a set lives in DIR/.unfinished; the same command goes on where a killed run stopped.
"""
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import sys

import numpy as np

from . import cli
from .checks import InputError, RunError
from .drawing import start_worker, write_maps
from .fields import GAUSSIAN_SHARE
from .maps import MASK_FILE, SIMULATION_FILE, TEST_FILE, TRUTH_FILE
from .params import FRAME, N_GAL
from .plan import FIELDS, KAPPA_FILE, LABEL_FILE, NUISANCE_WAYS, Plan, whole
from .provenance import code_version, first_difference, to_json, versions
from .survey import WIDE_BOX

UNFINISHED = ".unfinished"
# in the order they are moved into place: what a reader looks for comes late, the proof of completeness last
FILES = (MASK_FILE, TRUTH_FILE, TEST_FILE, LABEL_FILE, KAPPA_FILE, SIMULATION_FILE)


def simulate(out, *, processes=None, quiet=False, force=False, **options):
    """Write a data set; do nothing if it is there already.

    out: folder; processes: default all CPUs; force: overwrite a simulated set made with other settings;
    options, all stored with the set:
    cosmologies: how many (default 101, or all of the design file); realisations: noiseless maps of each
    (default 32); test: noisy test maps at cosmologies of the design (512); unseen: further ones off the design;
    seed: of everything random; field: "lognormal" or "gaussian"; gaussian_share, lambda_factor,
    lambda_scatter, pixel_scatter: see drawing.Field; mask: .npy file, bool (rows, columns), "none" for the
    whole frame, or None for the procedural one; periodic: the frame is the periodic grid; design: .npy file,
    (n_cosmology, n_realisation, 5) labels or (n_cosmology, 2) Omega_m and S_8, or None for the procedural
    one; wide: a procedural one over a wider box; nuisances: "drawn", "fixed", "design", or None for the
    design file's if it has any, else drawn; shared_seeds: realisation i has the same random numbers in
    every cosmology; n_gal: source galaxies per square arcminute.
    Returns True if maps were made. Raises InputError, RunError.
    """
    out, plan = pathlib.Path(out), Plan(**options)
    processes = cli.available_cpus() if processes is None else whole("--processes", processes, 1)
    if _is_complete(out, plan, force):
        return False
    part = out / UNFINISHED
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); give another --out") from None
    try:
        with _lock(part):
            done = _prepare(part, plan, force)
            tasks = [task for task in plan.tasks() if task[0] not in done]
            if tasks:
                _run(part, plan, tasks, processes, quiet)
            _finish(out, part, plan)
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; the maps made so far are kept, run the "
                       "same command again to go on") from None
    return True


@contextlib.contextmanager
def _lock(part):
    """Keep a second run out of the unfinished folder; a killed run's lock goes with it. Raises InputError."""
    with open(part / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{part.parent}: another run is making this set; wait for it, or give another "
                             "--out") from None
        yield


def _is_complete(out, plan, force):
    """True if the folder holds this very set; refuses any other one, removes a simulated one if forced."""
    proof, present = out / SIMULATION_FILE, [name for name in FILES if (out / name).exists()]
    if not proof.is_file():
        if present and not (out / UNFINISHED / SIMULATION_FILE).is_file():
            raise InputError(f"{out}: holds {present[0]} but no {SIMULATION_FILE}, so it was not simulated "
                             "and stays untouched; give another --out")
        return False
    before = _read_json(proof)
    same = _compare(out, before, plan, force)
    needed = [name for name in FILES if len(plan.label_test) or name not in (TEST_FILE, TRUTH_FILE)]
    missing = [name for name in needed if not (out / name).is_file()]
    if same and not missing:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)      # of a run that was killed at its last step
        return True
    if same and not force:
        raise InputError(f"{out}: {missing[0]} is gone from this simulated set; give --force to make it "
                         "again")
    for name in reversed(FILES):                 # the proof goes first
        (out / name).unlink(missing_ok=True)
    return False


def _compare(folder, before, plan, force):
    """True if settings and inputs are the plan's; InputError with both values unless force."""
    differ = (first_difference(before.get("settings"), plan.settings)
              or first_difference(before.get("inputs"), plan.inputs, "sha256"))
    if differ and not force:
        name, was, now = differ
        raise InputError(f"{folder}: holds maps simulated with {name} = {was}, asked for {now}; "
                         "give --force to replace them, or another --out")
    return differ is None


def _prepare(part, plan, force):
    """Set up or take up the unfinished folder; returns the names of the tasks that are done."""
    state = part / "state.json"
    now = {"settings": plan.settings, "inputs": plan.inputs, "code": _drawing_code()}
    if state.is_file():
        before = _read_json(state)
        if _compare(part.parent, before, plan, force) and before.get("code") == now["code"]:
            return set((part / "done").read_text().split("\n")[:-1])
        # other code draws other maps: begin again
    if (part / SIMULATION_FILE).is_file():       # it was being moved into place
        for name in FILES:
            (part.parent / name).unlink(missing_ok=True)
    for old in part.iterdir():
        if old.name != "lock":
            old.unlink()
    need, free = plan.bytes_needed(), shutil.disk_usage(part).free
    if need > 0.98 * free:
        raise InputError(f"{part.parent}: the set needs {need / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB "
                         "are free; make room, or ask for fewer maps")
    (part / "done").write_text("")
    for name, shape in ((KAPPA_FILE, plan.label.shape[:2]), (TEST_FILE, plan.label_test.shape[:1])):
        if np.prod(shape):
            _allocate(part / (name + ".part"), (*shape, plan.n_observed))
    _write_json(state, now)
    return set()


def _drawing_code():
    """Digest of the sources that decide what a map is made of."""
    here, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    for name in ("params", "interpolate", "matter", "baryons", "theory", "fields", "survey", "plan",
                 "drawing"):
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _allocate(path, shape):
    """A .npy file of float16 zeros with its space reserved, so that a full disk shows at the start."""
    maps = np.lib.format.open_memmap(path, "w+", np.dtype("<f2"), shape)
    size = maps.offset + maps.nbytes
    del maps
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) == 28:
                raise


def _run(part, plan, tasks, processes, quiet):
    bar = cli.Progress(plan.label.shape[0] * plan.label.shape[1] + len(plan.label_test), "simulate", quiet)
    bar.begin_at(bar.total - sum(len(task[2]) for task in tasks))
    start = {name: np.load(part / (name + ".part"), mmap_mode="r").offset
             for name in {task[1] for task in tasks}}
    # one process per core: BLAS threads would compete with them, and change the last bits of the spectra
    setting = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **cli.ALLOCATOR}
    before = {name: os.environ.get(name) for name in setting}
    os.environ.update(setting)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("spawn"), start_worker,
        (plan.mask, plan.seed, plan.field))
    try:
        with open(part / "done", "a") as done:
            with _no_main():
                names = {pool.submit(write_maps, part / (file + ".part"), start[file], *rest): name
                         for name, file, *rest in tasks}
            for future in concurrent.futures.as_completed(names):
                bar.update(future.result())
                done.write(names[future] + "\n")
                done.flush()
    except concurrent.futures.process.BrokenProcessPool:
        raise RunError("a worker process died (out of memory?); run the same command again to go on, "
                       "with fewer --processes") from None
    finally:
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


def _finish(out, part, plan):
    """Move everything into place, simulation.json last; taken up again if it is killed half-way."""
    if not (part / SIMULATION_FILE).is_file():
        np.save(part / MASK_FILE, plan.mask)
        np.save(part / LABEL_FILE, plan.label)
        if len(plan.label_test):
            np.save(part / TRUTH_FILE, plan.label_test)
        _write_json(part / SIMULATION_FILE, {
            "settings": plan.settings, "seed": plan.seed, "inputs": plan.inputs, "origin": plan.origin,
            "versions": versions(), "code_version": code_version()})
    for name in FILES:
        for source in (part / name, part / (name + ".part")):
            if source.is_file():
                os.replace(source, out / name)
    shutil.rmtree(part)


def _write_json(path, content):
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(json.dumps(json.loads(to_json(content)), indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_json(path):
    try:
        content = json.loads(path.read_text())
        return {**content} if isinstance(content, dict) else {}
    except ValueError:
        raise InputError(f"{path}: expected JSON, could not read it; remove the folder or give another "
                         "--out") from None


def parser():
    """The options of python -m wl.simulate."""
    parser = cli.Parser(prog="python -m wl.simulate", description=__doc__ + f"""
Writes into DIR, in the layout of the public release:
  {KAPPA_FILE}  (cosmology, realisation, pixel) float16, noiseless
  {LABEL_FILE}  (cosmology, realisation, 5) Omega_m, S_8, log10 T_AGN, f_0, Delta_z
  {MASK_FILE}  (1424, 176) bool, True = observed
  {TEST_FILE}  (test + unseen, pixel) float16, noisy
  {TRUTH_FILE}  (test + unseen, 5), which only scoring reads
  {SIMULATION_FILE}  settings, seed, versions, digests

Disk: 264 kB a map, 1 GB for 101 x 32 + 512 maps.""")
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder of the set")
    add = parser.add_argument_group("size").add_argument
    add("--cosmologies", type=int, metavar="N",
        help="cosmologies (default: 101, or all of the --design file)")
    add("--realisations", type=int, metavar="N",
        help="noiseless maps of each cosmology (default: 32, or what the --design file has if fewer)")
    add("--test", type=int, default=512, metavar="N",
        help="noisy test maps at cosmologies of the design, each as likely as the others")
    add("--unseen", type=int, default=0, metavar="N",
        help="further noisy test maps at cosmologies off the design, drawn from its density")
    add = parser.add_argument_group("cosmologies and nuisances").add_argument
    add("--design", metavar="FILE",
        help=".npy labels (cosmology, realisation, 5), whose cosmologies and nuisances are used, or "
        "(cosmology, 2) Omega_m, S_8 (default: points spread like the challenge's)")
    add("--wide", action="store_true",
        help="spread the cosmologies evenly over a box wider than the challenge's region, for pretraining: "
        f"Omega_m {WIDE_BOX[0][0]} to {WIDE_BOX[1][0]}, S_8 {WIDE_BOX[0][1]} to {WIDE_BOX[1][1]}")
    add("--nuisances", choices=NUISANCE_WAYS,
        help="log10 T_AGN, f_0 and Delta_z of each map: drawn from the published priors; fixed at their "
        "centres; or those of the --design file (default: design if the file has them, else drawn). Test maps "
        "take them from the priors unless they are fixed")
    add("--shared-seeds", action="store_true",
        help="give realisation i the same random field and nuisances in every cosmology: the flaw of the first "
        "public release, for tests of what it does")
    add = parser.add_argument_group("sky").add_argument
    add("--field", default="lognormal", choices=FIELDS,
        help="shifted log-normal, or Gaussian with the same spectrum")
    add("--gaussian-share", type=float, default=GAUSSIAN_SHARE, metavar="X",
        help="part of a log-normal map's variance that an independent Gaussian field brings at every scale; the "
        "map keeps its third moment, its tails come nearer to real ones. 0: a pure shifted log-normal")
    add("--lambda-factor", type=float, default=1.0, metavar="X",
        help="multiply the shift lambda of every log-normal (kappa > -lambda): above 1 less skewed")
    add("--lambda-scatter", type=float, default=0.0, metavar="X",
        help="scatter of ln lambda from map to map, so that skewness is no exact function of the cosmology")
    add("--pixel-scatter", type=float, default=0.0, metavar="V",
        help="white scatter on top of each map with a variance per pixel between 0 and V (real maps: up to 3e-5)")
    add("--n-gal", type=float, default=N_GAL, metavar="X",
        help="source galaxies per square arcminute, which set the noise of the test maps")
    add("--mask", metavar="FILE|none",
        help=f".npy bool (rows, columns), True = observed; none: all of {FRAME[0]} x {FRAME[1]} pixels (default: "
        "a formula that imitates HSC Y3's wide 12-hour field, pixels of 2 arcmin)")
    add("--periodic", action="store_true",
        help="no margin: the frame itself is the periodic grid. With --mask none and --field gaussian every map "
        "has an exact likelihood (python -m wl.limit)")
    add = parser.add_argument_group("run").add_argument
    add("--processes", type=int, metavar="N",
        help="processes; their number changes no byte (default: all CPUs)")
    add("--force", action="store_true", help="replace a simulated set that was made with other settings")
    return cli.add_common(parser, threads=False)


def main(argv=None):
    """The command line: python -m wl.simulate."""
    options = vars(parser().parse_args(argv))
    made = simulate(**options)
    print(f"{options['out']}: {'complete' if made else 'complete already, nothing to do'}")


if __name__ == "__main__":
    cli.run(main)
