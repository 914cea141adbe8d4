"""Shards of one run: who takes which maps, and how their files (one each: several writers cannot share) are joined."""
import dataclasses
import os

import numpy as np

from ..core.checks import InputError
from ..core.hdf5 import Var, read, write
from ..core.params import HOLDOUT, TEST
from ..core.files import refuse_difference


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which maps a run, or one job of several, infers.

    target: str, "test", "holdout" or "both"
    shard: (int, int) or None, the I-th of N jobs, from 1; it takes every N-th map
    """
    target: str
    shard: tuple | None = None

    def rows(self, code: np.ndarray) -> np.ndarray:
        """Rows (n,) int of a predictions file, whose splits are code (n_map,), that are inferred."""
        test, holdout = self.target != "holdout", self.target != "test"
        rows = np.flatnonzero(((code == TEST) & test) | ((code == HOLDOUT) & holdout))
        first, step = (0, 1) if self.shard is None else (self.shard[0] - 1, self.shard[1])
        return rows[first::step]

    def position(self, count: int) -> int:
        """How many of the first `count` maps of all jobs are this one's."""
        first, step = (0, 1) if self.shard is None else (self.shard[0] - 1, self.shard[1])
        return len(range(first, count, step))

    @property
    def file_name(self) -> str:
        """Of the posterior: posterior.h5, or that of a shard."""
        return "posterior.h5" if self.shard is None else "posterior.shard-{}-of-{}.h5".format(*self.shard)

    def stored(self) -> dict:
        """What a file says of it."""
        return {} if self.shard is None else {"shard": list(self.shard)}


def shard_of(text: str | None) -> tuple | None:
    """"I/N" as (I, N), I from 1; None stays None. Raises InputError."""
    if text is None:
        return None
    head, _, tail = str(text).partition("/")
    plain = head.isascii() and tail.isascii() and head.isdigit() and tail.isdigit()
    if not plain or max(len(head), len(tail)) > 9 or not 1 <= int(head) <= int(tail):
        raise InputError(f"--shard: expected I/N with I from 1 to N, such as 1/4, got {text!r}")
    return int(head), int(tail)


def merge(paths, out):
    """Join the shards of one run along the dimension `map` by copying, sorted by the map coordinate.

    paths: one file per shard, in any order; out: the file to write. The settings of each hold
    shard = [i, n] (i from 0 or from 1); all else must be equal, and variables without `map` identical.
    Returns the digest of the result, whose settings hold no shard. Raises InputError, also if `out` is one of
    the shards, or holds another result than theirs.
    """
    files = [read(path) for path in paths]
    if not files:
        raise InputError("merge: expected the files of the shards, got none; give their paths")
    if os.path.realpath(out) in [os.path.realpath(path) for path in paths]:
        raise InputError(f"{out}: is one of the files to join; give another one to write")
    first = files[0]
    shards, whole = {}, None
    for file in files:
        shard = file.settings.pop("shard", None)
        if not (isinstance(shard, list) and len(shard) == 2):
            raise InputError(f"{file.path}: is not a shard of a run; merge only what --shard i/n made")
        same = {"kind": file.kind, "shards": shard[1], "seed": file.seed, "input": file.inputs, **file.settings}
        refuse_difference(f"{first.path}: has", whole := whole or same, same, "merge shards of one run", file.path)
        if shard[0] in shards:
            raise InputError(f"{file.path}: is shard {shard[0]} of {shard[1]} as {shards[shard[0]]} is; give each once")
        shards[shard[0]] = file.path
    count = shard[1]
    if set(shards) not in (set(range(count)), set(range(1, count + 1))):
        raise InputError(f"{out}: expected {count} shards, got {len(shards)} "
                         f"({', '.join(str(i) for i in sorted(shards))}); run the missing ones first")
    if os.path.lexists(out):
        there = read(out, first.kind)
        refuse_difference(f"{out}: was made with", {"seed": there.seed, "input": there.inputs, **there.settings},
                          {"seed": first.seed, "input": first.inputs, **first.settings},
                          "remove it, or give another file to write", "the run of these shards")
    groups, coords = {}, {}
    for group in dict.fromkeys(g for file in files for g in file.groups):
        parts = [file for file in files if group in file.groups]
        groups[group], joined = _join(group, parts)
        coords.update({(group, dim): values for dim, values in joined.items()})
    return write(out, first.kind, groups, coords=coords, settings=first.settings, seed=first.seed,
                 inputs=first.inputs, origin=first.origin)


def _join(group, files):
    """One group of several files -> ({name: Var}, {dimension: values})."""
    first = files[0]
    dims, coords = first.dims[group], dict(first.coords[group])
    order = None
    if "map" in coords:
        maps = np.concatenate([file.coords[group]["map"] for file in files])
        order = np.argsort(maps, kind="stable")
        coords["map"] = maps[order]
        twice = coords["map"][1:][coords["map"][1:] == coords["map"][:-1]]
        if twice.size:
            raise InputError(f"{first.path}: map {twice[0]} of group {group} is in two shards; merge shards "
                             "of one run")
    variables = {}
    for file in files:
        if file.dims[group] != dims or any(not np.array_equal(file.coords[group][d], coords[d])
                                           for d in coords if d != "map"):
            raise InputError(f"{file.path}: group {group} is laid out otherwise than in {first.path}; merge "
                             "shards of one run")
    for name in dims:
        arrays = [file.groups[group][name] for file in files]
        if "map" in dims[name]:
            axis = dims[name].index("map")
            values = np.take(np.concatenate(arrays, axis=axis), order, axis=axis)
        else:
            values = arrays[0]
            for file, array in zip(files, arrays):
                if not np.array_equal(array, values, equal_nan=array.dtype.kind == "f"):
                    raise InputError(f"{file.path}: {group}/{name} differs from that of {first.path}; merge "
                                     "shards of one run")
        variables[name] = Var(dims[name], values, first.attrs[group][name])
    return variables, coords
