"""One process's share of a simulated data set: maps of one cosmology, written at their places in a file.

Every map's numbers come from SeedSequence(seed, spawn_key=(stream, cosmology, realisation)), so that no
map depends on which process drew it, on how many there are, or on the maps drawn before it.
"""
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import namedtuple

import numpy as np

from ..core import seeds
from .boxes import Boxes
from .fields import GAUSSIAN_BELOW, GAUSSIAN_SHARE, LAMBDA_FACTOR, Grid, log_normal_shift
from .halo_sky import HaloSky
from .sky import PIXEL_SCATTER, Sky
from .theory import Theory

CHUNK = 16               # spectra made in one matrix product

Field = namedtuple("Field", "field gaussian_share gaussian_below lambda_factor lambda_scatter pixel_scatter periodic "
                   "sky boxes", defaults=("lognormal", GAUSSIAN_SHARE, GAUSSIAN_BELOW, LAMBDA_FACTOR, 0.0, PIXEL_SCATTER,
                                    False, Sky(), 0))
Field.__doc__ = """What maps are made of; the options of python -m wl.simulate, where they are explained.

field: "lognormal", "halo" or "gaussian"; gaussian_share: part of the power at high multipoles;
gaussian_below: multipole under which modes are Gaussian; lambda_factor: of every shift; lambda_scatter: standard deviation of ln lambda;
pixel_scatter: largest variance of the white scatter; periodic: the frame is the periodic grid; sky: sky.Sky of the
spectrum; boxes: number of boxes (boxes.py) that the maps of a cosmology share, 0 for none."""

# SFC64 draws a field's normals faster than NumPy's default
generator = functools.partial(seeds.generator, kind=np.random.SFC64)

_worker = {}             # of a worker process: mask, seed, field, grid


def start_worker(mask, seed, field):
    """Initialise a worker process; it ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(mask=mask, seed=seed, field=field)


def _end_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def write_maps(path, first_byte, places, labels, keys, noise):
    """Draw maps of one cosmology and write them; returns their number.

    path: file to write into, as float16 (any, n_observed) from first_byte on; places: int (n,) rows in it;
    labels: float64 (n, 5), Omega_m and S_8 the same in all; keys: n tuples, the maps' stream and indices;
    noise: standard deviation of the shape noise, 0 for none.
    """
    if "grid" not in _worker:                    # here and not at the start: an error has to reach the parent
        _worker["grid"] = Grid(_worker["mask"], periodic=_worker["field"].periodic)
    grid, seed = _worker["grid"], _worker["seed"]
    size = 2 * len(grid.observed)
    with open(path, "r+b", buffering=0) as file:
        for place, kappa in zip(places, draw_maps(grid, labels, seed, keys, _worker["field"], noise)):
            file.seek(first_byte + int(place) * size)
            file.write(kappa.astype("<f2").tobytes())
        os.fsync(file.fileno())              # the parent notes the task as done: it has to be
    return len(places)


@functools.lru_cache(maxsize=2)
def halo_sky(grid):
    """The HaloSky of a grid, made once."""
    return HaloSky(grid)


def draw_maps(grid, labels, seed, keys, field, noise=0.0):
    """Yield maps of one cosmology, float32 (n_observed,); field: Field; other arguments as write_maps()."""
    omega_m, s_8 = labels[0, :2]
    theory = Theory(omega_m, s_8, field.sky)
    spectrum = theory.table(grid.ell)
    halos = halo_sky(grid).of(theory) if field.field == "halo" else None
    # boxes belong to a cosmology, whatever its index: test maps share those of the others
    of_box = functools.partial(generator, seed, seeds.BOX, *np.array([omega_m, s_8]).view(np.uint64).tolist())
    share = grid.share(field.gaussian_share, field.gaussian_below)
    shift = field.lambda_factor * float(log_normal_shift(omega_m, s_8))
    for first in range(0, len(labels), CHUNK):
        part = labels[first:first + CHUNK, 2:]
        # always CHUNK rows: a matrix product of another shape may round otherwise in its last bit
        full = np.concatenate([part, np.repeat(part[-1:], CHUNK - len(part), axis=0)])
        power = grid.pixel_power(spectrum(*full.T))
        held = halos.hold(full, power) if halos else None
        for i, key in enumerate(keys[first:first + CHUNK]):
            rng = generator(seed, *key)
            boxes = Boxes(field.boxes, rng, of_box) if field.boxes else None
            own = generator(seed, seeds.SCATTER, *key)
            lam = None if field.field == "gaussian" else shift * np.exp(field.lambda_scatter * own.normal())
            if halos:
                kappa = halos.draw(held, i, full[i], rng, boxes)
            else:
                kappa = grid.draw(power[i], lam, rng, share, boxes=boxes)
            if field.pixel_scatter:
                sigma = np.sqrt(field.pixel_scatter * own.random())
                kappa += np.float32(sigma) * own.standard_normal(len(kappa), dtype=np.float32)
            if noise:
                white = generator(seed, seeds.TEST_NOISE, *key).standard_normal(len(kappa), dtype=np.float32)
                kappa += np.float32(noise) * white
            yield kappa
