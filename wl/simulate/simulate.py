"""Simulate a data set in the layout of the public release.

    python -m wl.simulate --out data/simulated --cosmologies 101 --realisations 32 --test 512 --seed 1

Until it is complete a set lives in DIR/.unfinished; the same command goes on where a killed run stopped.
"""
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import sys

import numpy as np

from ..core import cli
from . import sky
from ..core.checks import InputError, RunError
from .staging import finish, is_complete, lock, prepare, room
from .draw import start_worker, write_maps
from .fields import GAUSSIAN_BELOW, GAUSSIAN_SHARE, LAMBDA_FACTOR
from ..maps.dataset import MASK_FILE, SIMULATION_FILE, TEST_FILE, TRUTH_FILE, UNFINISHED
from ..core.params import FRAME, N_GAL
from .plan import FIELDS, KAPPA_FILE, LABEL_FILE, NUISANCE_WAYS, Plan, whole
from .sky import PIXEL_SCATTER
from .mask import WIDE_BOX
from ..core.progress import Progress


def simulate(out, *, processes=None, quiet=False, force=False, **options):
    """Write a data set; do nothing if it is there already.

    out: folder; processes: default all CPUs; force: overwrite a simulated set made with other settings;
    options, all stored with the set:
    cosmologies: how many (default 101, or all of the design file); realisations: noiseless maps of each
    (default 32); test: noisy test maps at cosmologies of the design (512); unseen: further ones off the design;
    seed: of everything random; field: "lognormal", "halo" or "gaussian"; gaussian_share, gaussian_below,
    lambda_factor, lambda_scatter, pixel_scatter, boxes: see drawing.Field; delta_z_sign, source_shift, f_b_max,
    stellar_boost, nonlinear_tilt: see sky.Sky; mask: .npy file, bool (rows, columns), "none" for the
    whole frame, or None for the procedural one; periodic: the frame is the periodic grid; design: .npy file,
    (n_cosmology, n_realisation, 5) labels or (n_cosmology, 2) Omega_m and S_8, or None for the procedural
    one; wide: a procedural one over a wider box; nuisances: "drawn", "fixed", "design", or None for the
    design file's if it has any, else drawn; shared_seeds: realisation i has the same random numbers in
    every cosmology; n_gal: source galaxies per square arcminute.
    Returns True if maps were made. Raises InputError, RunError.
    """
    out = pathlib.Path(out)
    plan = Plan(**options, room=room(out))
    processes = cli.available_cpus() if processes is None else whole("--processes", processes, 1)
    if is_complete(out, plan, force):
        return False
    part = out / UNFINISHED
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); give another --out") from None
    try:
        with lock(part):
            done = prepare(part, plan, force)
            tasks = [task for task in plan.tasks() if task[0] not in done]
            if tasks:
                _run(part, plan, tasks, processes, quiet)
            finish(out, part, plan)
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; the maps made so far are kept, run the "
                       "same command again to go on") from None
    return True


def _run(part, plan, tasks, processes, quiet):
    bar = Progress(plan.label.shape[0] * plan.label.shape[1] + len(plan.label_test), "simulate", quiet)
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
        help="shifted log-normal; halos in log-normal slices; or Gaussian; all with the same spectrum")
    add("--boxes", type=int, default=0, metavar="N",
        help="boxes of large-scale structure that the maps of a cosmology share, each of a map's layers one of them, "
        "turned and shifted, as maps from few simulations do (default: 0, all independent)")
    add("--gaussian-share", type=float, default=GAUSSIAN_SHARE, metavar="X",
        help="part of a log-normal map's power that an independent Gaussian field brings at high multipoles; the "
        "map keeps its third moment, its tails come nearer to real ones. With --gaussian-below 0, 0: a pure shifted "
        "log-normal")
    add("--gaussian-below", type=float, default=GAUSSIAN_BELOW, metavar="ELL",
        help="multipole under which all of the power is Gaussian, so that large scales do not rule small ones too "
        f"strongly, default {GAUSSIAN_BELOW:g}. 0: the same share at every multipole")
    add("--lambda-factor", type=float, default=LAMBDA_FACTOR, metavar="X",
        help="multiply the shift lambda of every log-normal (kappa > -lambda): above 1 less skewed")
    add("--lambda-scatter", type=float, default=0.0, metavar="X",
        help="scatter of ln lambda from map to map, so that skewness is no exact function of the cosmology")
    add("--pixel-scatter", type=float, default=PIXEL_SCATTER, metavar="V",
        help="white scatter on top of each map with a variance per pixel between 0 and V, as real maps have it "
        f"(default {PIXEL_SCATTER:g}, twice the fitted mean)")
    add("--n-gal", type=float, default=N_GAL, metavar="X",
        help="source galaxies per square arcminute, which set the noise of the test maps")
    add("--mask", metavar="FILE|none",
        help=f".npy bool (rows, columns), True = observed; none: all of {FRAME[0]} x {FRAME[1]} pixels (default: "
        "a formula that imitates HSC Y3's wide 12-hour field, pixels of 2 arcmin)")
    add("--periodic", action="store_true",
        help="no margin: the frame itself is the periodic grid. With --mask none and --field gaussian every map "
        "has an exact likelihood (python -m wl.validate limit)")
    sky.add_options(parser)
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
