"""Validation at the border: each function returns the clean value or raises InputError in one line."""
import math

import numpy as np

from .params import PARAMS

# kinds of dtype as a user knows them
KIND_WORDS = {"f": "float", "i": "int", "u": "unsigned int", "b": "bool", "c": "complex"}


class InputError(Exception):
    """Wrong usage or input: the message says what was expected, what came and what to do (exit 2)."""


class RunError(Exception):
    """The run itself failed or did not converge: a one-line message (exit 1)."""


def array(name, value, shape=None, dtype=None, finite=True, advice="check the file"):
    """Check an array without copying it.

    name: what to call it in a message; value: array-like; shape: tuple with an int, or None for
    any length, per axis; dtype: a NumPy kind or tuple of dtypes it must have ("f" any float);
    finite: refuse NaN and inf (reads the array once). Returns the array. Raises InputError.
    """
    value = np.asanyarray(value)
    if dtype is not None:
        kinds = dtype if isinstance(dtype, tuple) else (dtype,)
        if not any(value.dtype.kind == k if isinstance(k, str) and len(k) == 1
                   else value.dtype == np.dtype(k) for k in kinds):
            words = [KIND_WORDS.get(k) or np.dtype(k).name for k in kinds]
            raise InputError(f"{name}: expected dtype {' or '.join(words)}, got {value.dtype}; {advice}")
    if shape is not None:
        want = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        if value.ndim != len(shape) or any(n is not None and n != m
                                           for n, m in zip(shape, value.shape)):
            raise InputError(f"{name}: expected shape {want}, got {value.shape}; {advice}")
    if finite and value.dtype.kind in "fc":
        bad = ~np.isfinite(value)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(f"{name}: expected finite numbers, got {value[where]} at index {where} "
                             f"({int(bad.sum())} in all); {advice}")
    return value


def positive(name, value, integer=False):
    """A number above zero, returned as float (or int). Raises InputError."""
    want, shown = f"{name}: expected a positive {'whole ' if integer else ''}number", _shown(value)
    number = _number(value)
    if number is None or not math.isfinite(number) or (integer and number != int(number)):
        raise InputError(f"{want}, got {shown}; give another one")
    if number <= 0:
        raise InputError(f"{want}, got {shown}; give a larger one")
    if not integer:
        return number
    return int(value) if isinstance(value, (int, np.integer)) else int(number)


def within(name, value, low, high):
    """A number with low <= value <= high, returned as float. Raises InputError."""
    number = _number(value)
    if number is None or not low <= number <= high:       # NaN fails every comparison
        raise InputError(f"{name}: expected a number between {low} and {high}, got {_shown(value)}; "
                         "give another one")
    return number


def _number(value):
    """value as a float, None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(value):
    return repr(value) if isinstance(value, str) else str(value)


def choice(name, value, options):
    """One of a set of words. Raises InputError that lists them."""
    if value not in options:
        raise InputError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
    return value


FLAT = 1e-9            # height of a triangle, in units of the design's sd, that counts as none


def triangulate(what: str, theta: np.ndarray) -> tuple:
    """Delaunay triangles of a design, those without area left out.

    A sheared regular grid has such triangles along its hull (32 of 600 natural grids): their matrix is
    singular, and nothing lies in them.
    what: str, the design's name in a message
    theta: (n, 2) float64, Omega_m and S_8
    Returns triangles (t, 3) int32, and neighbours (t, 3) int32, opposite to each corner, -1 at the hull.
    Raises InputError for fewer than 3 cosmologies, for equal ones, and for a design that spans no area.
    """
    if len(theta) < 3:
        raise InputError(f"{what}: expected at least 3 cosmologies that span Omega_m and S_8, got {len(theta)}; "
                         "add cosmologies")
    order = np.lexsort(theta.T)
    same = np.flatnonzero((np.diff(theta[order], axis=0) == 0.0).all(axis=1))
    if same.size:
        i, j = sorted(order[same[0]:same[0] + 2])
        raise InputError(f"{what}: expected different cosmologies, {name_of(theta, i)} and cosmology {j} are the "
                         "same; merge their realisations")
    on_line = InputError(f"{what}: expected cosmologies that span Omega_m and S_8, got {len(theta)} on one line; "
                         "add some off it")
    unit = (theta - theta.mean(0)) / np.maximum(theta.std(0), 1e-12)
    spread = np.linalg.svd(unit, compute_uv=False)
    if spread[1] < FLAT * spread[0]:
        raise on_line
    from scipy.spatial import Delaunay, QhullError       # 0.1 s that only this needs
    try:
        found = Delaunay(theta)
    except QhullError:
        raise on_line from None
    if found.coplanar.size:
        i, _, j = found.coplanar[0]
        raise InputError(f"{what}: {name_of(theta, i)} is too near to cosmology {j} to triangulate; merge them")
    return _with_area(what, unit, found)


def _with_area(what, unit, found):
    """Triangles and neighbours without the flat ones, which may lie on the hull alone."""
    corner = unit[found.simplices]
    side = corner - np.roll(corner, 1, axis=1)
    twice = np.abs(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0])
    flat = twice < FLAT * np.linalg.norm(side, axis=2).max(1)
    neighbours = found.neighbors.copy()
    on_hull = (neighbours < 0).any(1)
    while (flat & ~on_hull).any():                   # a flat triangle behind a flat one on the hull
        behind = flat & ~on_hull & np.isin(neighbours, np.flatnonzero(flat & on_hull)).any(1)
        if not behind.any():
            raise InputError(f"{what}: has triangles without area inside; move cosmologies off a line")
        on_hull |= behind
    number = np.where(flat, -1, np.cumsum(~flat) - 1)
    neighbours = np.where(neighbours < 0, -1, number[neighbours])
    return (np.ascontiguousarray(found.simplices[~flat], np.int32),
            np.ascontiguousarray(neighbours[~flat], np.int32))


def name_of(theta: np.ndarray, i: int) -> str:
    """A cosmology of the design as a message names it."""
    return f"cosmology {i} ({PARAMS[0]} = {theta[i, 0]:.6g}, {PARAMS[1]} = {theta[i, 1]:.6g})"
