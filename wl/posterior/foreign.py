"""Somebody else's predictions: summaries of maps of known cosmology, in whatever file they are.

What is taken, and under which names, stands in HELP, which run_mcmc.py --help shows.
"""
import csv
import pathlib

import numpy as np

from ..core import seeds
from ..core.checks import InputError, array
from ..core.files import digest_file
from ..core.hdf5 import File, arrays_of
from ..core.params import EMULATOR, HOLDOUT, PARAMS, TEST

SUMMARIES = ("summaries", "estimate", "estimates", "predictions", "prediction", "pred")
TRUTHS = ("truth", "theta", "cosmology", "label", "labels", "params")
EMULATOR_SHARE = 2 / 3         # of the maps that every cosmology has; the others are inferred
HELP = f"""predictions of others, --predictions FILE (.npz, .csv, .h5 or .hdf5):
  arrays   {", ".join(SUMMARIES)}: (map, d), any d;
           {", ".join(TRUTHS)}: (map, 2 or more), Omega_m and S_8 first; a map whose
           cosmology is NaN is inferred and not scored
  columns  of a .csv: Omega_m and S_8, all others are summaries
  Two thirds of the maps of each cosmology, at random, feed the emulator; the others are inferred
  and scored."""


def is_foreign(path) -> bool:
    """Whether a file holds predictions that wl did not make. path: str or Path."""
    return pathlib.Path(path).suffix.lower() in (".npz", ".csv") or arrays_of(path) is not None


def read(path, seed: int) -> File:
    """The predictions of others as a predictions.h5 holds them, in memory.

    path: str or Path, see HELP
    seed: int, decides which maps feed the emulator
    Raises InputError.
    """
    path = pathlib.Path(path)
    summaries, truth = _tables(path)
    known = np.isfinite(truth).all(1)
    theta, cosmology = np.unique(truth[known], axis=0, return_inverse=True)
    count = np.bincount(cosmology.ravel(), minlength=1)
    n_emulator = round(EMULATOR_SHARE * count.min())
    if len(theta) < 3 or n_emulator < 2:
        raise InputError(f"{path}: expected at least 3 cosmologies of 3 maps or more, got "
                         f"{len(theta)} of {count.min()} to {count.max()}")
    cosmologies = np.full(len(truth), -1, np.int32)
    cosmologies[known] = cosmology.ravel()
    realisation, split = np.arange(len(truth), dtype=np.int32), np.full(len(truth), TEST, np.int8)
    for c in range(len(theta)):
        rows = np.flatnonzero(cosmologies == c)
        realisation[rows], split[rows] = np.arange(len(rows)), HOLDOUT
        # maps at one place of all cosmologies may share a seed: with the same places everywhere,
        # S_8 of the Columbia maps came out 0.24 sd off
        split[seeds.generator(seed, seeds.SPLIT, c).permutation(rows)[:n_emulator]] = EMULATOR
    digest, names = digest_file(path), [f"summary_{k}" for k in range(summaries.shape[1])]
    group = {"summaries": summaries, "split": split, "cosmology": cosmologies,
             "realisation": realisation}
    return File(
        path=path, kind="predictions", seed=seed, inputs={"label": digest}, dims={}, attrs={},
        settings={"method": "given", "model": "given", "n_summary": summaries.shape[1],
                  "target": "both" if (split == TEST).any() else "holdout"},
        groups={"predictions": group, "constant_data": {"design": theta}},
        coords={"predictions": {"map": np.arange(len(truth)), "summary": np.array(names)}},
        versions={}, code_version="", created_at="", digest=digest,
        origin={"name": path.stem, "predictions": str(path)})


def _tables(path):
    """Summaries (n, d) and cosmologies (n, 2), float64, of a file."""
    kind = path.suffix.lower()
    if kind == ".csv":
        found = _columns(path)
    else:
        found = _npz(path) if kind == ".npz" else arrays_of(path)
        shown = ", ".join(found) or "none"
        for names in (SUMMARIES, TRUTHS):
            if not set(names) & set(found):
                raise InputError(f"{path}: expected an array called {', '.join(names[:-1])} or "
                                 f"{names[-1]}, got {shown}; see run_mcmc.py --help")
        found = [next(found[name] for name in names if name in found)
                 for names in (SUMMARIES, TRUTHS)]
    summaries, truth = (np.asarray(value) for value in found)
    if truth.ndim != 2 or truth.shape[1] < 2 or truth.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected cosmologies of shape (map, 2 or more), got shape "
                         f"{truth.shape} of {truth.dtype}; give Omega_m and S_8 of each map")
    summaries = array(f"{path}: summaries", summaries, (len(truth), None), ("f", "i"),
                      advice="give a row of finite numbers for each map")
    return (np.ascontiguousarray(summaries, np.float64),
            np.ascontiguousarray(truth[:, :2], np.float64))


def _npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:             # a damaged archive raises anything from zipfile to NumPy
        raise InputError(f"{path}: cannot be read as .npz ({error})") from None


def _columns(path):
    """Summaries and cosmologies of a .csv with a header."""
    try:
        with open(path, newline="") as stream:
            head, *rows = csv.reader(stream)
        head, values = [name.strip() for name in head], np.array(rows, dtype=np.float64)
        if not set(PARAMS) < set(head) or len(set(head)) < len(head):
            raise ValueError(f"its columns are {', '.join(head)}")
        values = values.reshape(len(rows), len(head))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a first line with Omega_m, S_8 and the names of the "
                         f"summaries, and numbers in all others ({error})") from None
    at = [head.index(name) for name in PARAMS]
    return np.delete(values, at, axis=1), values[:, at]
