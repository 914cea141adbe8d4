"""Checks at the border, each of which refuses in one line, and options with theirs."""
import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Collection

import numpy as np

from .params import PARAMS

KIND_WORDS = {"f": "float", "i": "int", "u": "unsigned int", "b": "bool", "c": "complex"}
PLAUSIBLE = ((0.02, 1.0), (0.2, 2.0))    # Omega_m, S_8: beyond these a label is a mistake
MIN_HEIGHT = 1e-9      # of a triangle, in units of the design's sd; below it counts as flat


class InputError(Exception):
    """Wrong usage or input: says what was expected, what came and what to do (exit 2)."""


class RunError(Exception):
    """The run itself failed or did not converge (exit 1)."""


def array(name: str, value, shape: tuple | None = None, dtype=None, finite: bool = True,
          advice: str = "check the file") -> np.ndarray:
    """An array, checked without a copy. Raises InputError.

    name, advice: str, what a message calls it, and says to do
    shape: tuple or None, of an int, or None for any length, per axis
    dtype: a NumPy dtype, a letter of its kind ("f" for any float), or a tuple of these
    finite: bool, whether NaN and inf are refused (reads the array once)
    """
    value = np.asanyarray(value)
    if dtype is not None:
        kinds = dtype if isinstance(dtype, tuple) else (dtype,)
        if not any(value.dtype.kind == k if isinstance(k, str) and len(k) == 1
                   else value.dtype == np.dtype(k) for k in kinds):
            words = " or ".join(KIND_WORDS.get(k) or np.dtype(k).name for k in kinds)
            raise InputError(f"{name}: expected dtype {words}, got {value.dtype}; {advice}")
    if shape is not None and (value.ndim != len(shape) or any(
            n not in (None, m) for n, m in zip(shape, value.shape))):
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{name}: expected shape ({want}), got {value.shape}; {advice}")
    if finite and value.dtype.kind in "fc" and (bad := ~np.isfinite(value)).any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}: expected finite numbers, got {value[where]} at index {where} "
                         f"({int(bad.sum())} in all); {advice}")
    return value


def positive(name: str, value, integer: bool = False) -> float | int:
    """A number above zero, as float or, if integer, as int. Raises InputError."""
    found = number(value)
    if not 0 < found < math.inf or (integer and found != int(found)):        # NaN fails the first
        shown = repr(value) if isinstance(value, str) else value
        raise InputError(f"{name}: expected a positive {'whole ' * integer}number, got {shown}; "
                         f"give {'a larger' if found <= 0 else 'another'} one")
    whole = value if isinstance(value, (int, np.integer)) else found          # a float has 53 bits
    return int(whole) if integer else found


def within(name: str, value, low: float, high: float, integer: bool = False) -> float | int:
    """A number from low to high, as float or, if integer, as int. Raises InputError."""
    found = value if type(value) is int else number(value)     # 2^63 - 1 is no float
    if not low <= found <= high or (integer and found != int(found)):     # NaN fails the first
        shown = repr(value) if isinstance(value, str) else value
        raise InputError(f"{name}: expected a {'whole ' * integer}number between {low} and {high}, "
                         f"got {shown}; give another one")
    return int(found) if integer else float(found)


def choice(name: str, value, options: Collection):
    """One of several words or numbers. Raises InputError that lists them."""
    if value not in [*options]:
        words = [*map(str, options)]
        raise InputError(f"{name}: expected one of {', '.join(words)}, got {value!r}"
                         + meant(value, words))
    return value


def meant(word, known: Collection, shown: str = "; {}") -> str:
    """A question for the known word that is nearest to one, "" if none is near."""
    near = difflib.get_close_matches(str(word), known, 1)
    return shown.format(f"did you mean {near[0]}?") if near else ""


def number(value) -> float:
    """The value as a float, NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def plausible(what: str, theta: np.ndarray, advice: str, ranges: tuple = PLAUSIBLE) -> None:
    """Raise InputError for cosmologies that no simulation can have had, naming the first.

    theta: (..., 2 or more) float, Omega_m, S_8 and others, NaN where nobody knows them
    what, advice: str, what a message calls them, and says to do; ranges: of Omega_m and S_8
    """
    first, second = np.nanmean(theta.reshape(-1, theta.shape[-1])[:, :2], axis=0)
    if second < first <= ranges[0][1]:
        raise InputError(f"{what}: expected Omega_m below S_8, got means of {first:.3f} and "
                         f"{second:.3f}, as if the columns were swapped; {advice}")
    for name, column, (low, high) in zip(PARAMS, np.moveaxis(theta, -1, 0), ranges):
        off = np.argwhere((column < low) | (column > high))
        if len(off):
            at = tuple(int(i) for i in off[0])
            raise InputError(f"{what}: expected {name} between {low} and {high}, got "
                             f"{column[at]:g} at index {at} ({len(off)} in all); {advice}")


def triangulate(what: str, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Delaunay triangles of a design, without the flat ones, whose matrix is singular.

    A sheared regular grid has them along its hull (32 of 600 natural grids).
    what, theta: str, the design's name in a message; (n, 2) float64, Omega_m and S_8
    Returns triangles (t, 3) int32, and the neighbour opposite to each corner (t, 3) int32, -1 at
    the hull. Raises InputError for fewer than 3 cosmologies, equal ones, or none off a line.
    """
    wanted = f"{what}: expected at least 3 cosmologies that span Omega_m and S_8, got {len(theta)}"
    if len(theta) < 3:
        raise InputError(f"{wanted}; add cosmologies")
    _, first, same = np.unique(theta, axis=0, return_index=True, return_inverse=True)
    for j in np.flatnonzero(first[same] != np.arange(len(theta)))[:1]:
        raise InputError(f"{what}: expected different cosmologies, {name_of(theta, first[same[j]])}"
                         f" and cosmology {j} are the same; merge their realisations")
    unit = (theta - theta.mean(0)) / np.maximum(theta.std(0), 1e-12)
    spread = np.linalg.svd(unit, compute_uv=False)
    from scipy.spatial import Delaunay, QhullError       # 0.1 s that only this needs
    found = None
    with contextlib.suppress(QhullError):
        found = Delaunay(theta) if spread[1] >= MIN_HEIGHT * spread[0] else None
    if found is None:
        raise InputError(f"{wanted} on one line; add some off it")
    if found.coplanar.size:
        i, _, j = found.coplanar[0]
        raise InputError(f"{what}: {name_of(theta, i)} is too near to cosmology {j} to "
                         "triangulate; merge them")
    side = unit[found.simplices]
    side = side - np.roll(side, 1, axis=1)
    twice = np.abs(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0])
    flat = twice < MIN_HEIGHT * np.linalg.norm(side, axis=2).max(1)
    on_hull = (found.neighbors < 0).any(1)
    while (flat & ~on_hull).any():                   # a flat triangle behind a flat one on the hull
        behind = np.isin(found.neighbors, np.flatnonzero(flat & on_hull)).any(1) & flat & ~on_hull
        if not behind.any():
            raise InputError(f"{what}: has triangles without area; move cosmologies off a line")
        on_hull |= behind
    order = np.where(flat, -1, np.cumsum(~flat) - 1)
    neighbours = np.where(found.neighbors < 0, -1, order[found.neighbors])
    return tuple(np.ascontiguousarray(a[~flat], np.int32) for a in (found.simplices, neighbours))


def name_of(theta: np.ndarray, i: int) -> str:
    """A cosmology of the design as a message names it."""
    return f"cosmology {i} ({PARAMS[0]} = {theta[i, 0]:.6g}, {PARAMS[1]} = {theta[i, 1]:.6g})"


def option(default, help: str | None = None, **more):
    """A field of a dataclass of options, and its default.

    help: str, what --help says; None for a field that is no option of the command line
    more: metavar and choices as argparse has them; positive=True, or within=(low, high)
    """
    return dataclasses.field(default=default, metadata={"help": help, **more})


class Options:
    """Base of the dataclasses of options, which are checked whenever one is made."""

    def __post_init__(self):
        for field, flag, kind in self._fields():
            value, more = getattr(self, field.name), field.metadata
            if value is None and field.default is None:
                continue
            if isinstance(value, (np.generic, os.PathLike)):
                value = value.item() if isinstance(value, np.generic) else os.fspath(value)
            if np.ndim(value) or (kind in (str, bool) and not isinstance(value, field.type)):
                words = {str: "a text", bool: "True or False"}.get(kind, "one value")
                raise InputError(f"{flag}: expected {words}, got {repr(value)[:80]}")
            if "choices" in more:
                choice(flag, value, more["choices"])
            if "positive" in more:                    # 1e4 for a whole number becomes one
                value = positive(flag, value, integer=kind is int)
            if "within" in more:
                value = within(flag, value, *more["within"], integer=kind is int)
            object.__setattr__(self, field.name, value)

    @classmethod
    def _fields(cls):
        for field in dataclasses.fields(cls):
            kind, *_ = typing.get_args(field.type) or [field.type]
            yield field, "--" + field.name.replace("_", "-"), kind

    @classmethod
    def of(cls, args: argparse.Namespace, **more):
        """From the command line's values; more: fields that it does not name. Raises InputError."""
        given = {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if f.name in args}
        return cls(**{**given, **more})

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser, title: str, *, only=None, without=(),
               **defaults):
        """Add the options to a parser, as a group; returns its add_argument.

        parser, title: ArgumentParser, and str, of the group
        only, without: names of fields to add, None for all, and to leave out
        defaults: other ones than the fields'
        """
        add = parser.add_argument_group(title).add_argument
        for field, flag, kind in cls._fields():
            if (field.name in without or field.name not in (only or {field.name})
                    or field.metadata.get("help") is None):
                continue
            shown = {k: v for k, v in field.metadata.items() if k in ("help", "metavar", "choices")}
            on = argparse.BooleanOptionalAction if field.default else "store_true"  # --[no-]name
            how = {"action": on} if kind is bool else {"type": kind}
            add(flag, default=defaults.get(field.name, field.default), **shown, **how)
        return add
