"""Posteriors in the forms that others read: the challenge's zip, GetDist, a table, ArviZ."""
import csv
import io
import json
import pathlib
import zipfile

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, array
from ..core.files import atomic
from ..core.hdf5 import Var
from ..core.params import LATEX, PARAMS, SPLITS, TEST
from .truth import Maps, read_maps

FORMATS = ("getdist", "csv", "arviz")


def submit(path, out, force: bool = False) -> int:
    """Write the challenge's zip, return the number of maps; equal posteriors give equal bytes.

    path, out: str or Path, posterior.h5, and the zip with result.json = {"means": [[Omega_m, S_8],
        ...], "errorbars": [[...], ...]} in the order of the test maps
    force: bool, whether another zip there is replaced
    Raises InputError unless all test maps are there once, and for a zip with other contents.
    """
    maps = read_maps(path)
    one, of = maps.file.settings.get("shard") or (1, 1)
    if of != 1:
        raise InputError(f"{path}: is shard {one} of {of}, a submission needs all test maps; merge "
                         "the shards first")
    test = np.flatnonzero(maps.split == TEST)
    if not test.size:
        raise InputError(f"{path}: holds no test maps, a submission needs them; run with --target "
                         "test")
    test = test[np.argsort(maps.realisation[test], kind="stable")]
    if not np.array_equal(maps.realisation[test], np.arange(len(test))):
        raise InputError(f"{path}: expected test maps 0 to {maps.realisation[test].max()} once "
                         f"each, got {len(test)}; run with --target test on the whole set")
    failed = "the sampler failed for this map"
    mean, sd = (array(f"{path}: summary/{name} of the test maps", maps.summary[name][test],
                      (None, 2), advice=failed) for name in ("posterior_mean", maps.bars))
    if (sd <= 0).any():
        raise InputError(f"{path}: expected error bars above 0, got {sd.min()}; {failed}")
    info = zipfile.ZipInfo("result.json", date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    content, out = io.BytesIO(), pathlib.Path(out)
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(info, json.dumps({"means": mean.tolist(), "errorbars": sd.tolist()}))
    if out.is_file() and not force and out.read_bytes() != content.getvalue():
        raise InputError(f"--submission {out}: is there with other contents; give another name, or "
                         "--force to replace it")
    with atomic(out) as part:
        part.write_bytes(content.getvalue())
    return len(test)


def check(maps: Maps, form: str, out) -> None:
    """Raise InputError, before anything is written, where export() of the same values would."""
    out = pathlib.Path(out)
    if form != "getdist" and (out.is_dir() or out.resolve() == maps.path.resolve()):
        what = "a folder" if out.is_dir() else "the posterior itself"
        raise InputError(f"--export {form} {out}: is {what}; give another name")
    if form == "getdist" and not hdf5.read(maps.path, "posterior", groups=("posterior",)).groups:
        raise InputError(f"{maps.path}: keeps no draws, which GetDist needs; repeat the run with "
                         "--draws 500")


def export(maps: Maps, form: str, out) -> list[pathlib.Path]:
    """Write a posterior for another tool, with the truth where it is known.

    maps: truth.Maps; form: str, of FORMATS
    out: str or Path: "csv" a table with a row for each map; "arviz" the posterior file with the
        truth in /constant_data; "getdist" a prefix of PREFIX_map12_1.txt (a map and chain), ...
    Returns the paths. Raises InputError as check() does.
    """
    check(maps, form, out)
    out = pathlib.Path(out)
    if form == "csv":
        return [_csv(maps, out)]
    file = hdf5.read(maps.path, "posterior")
    if form == "arviz":
        groups = {g: {n: Var(file.dims[g][n], v, file.attrs[g][n]) for n, v in named.items()}
                  for g, named in file.groups.items()}
        groups["constant_data"]["truth"] = Var(("map", "param"), maps.truth)
        coords = {(g, dim): v for g, named in file.coords.items() for dim, v in named.items()}
        coords |= {("constant_data", "map"): maps.ids, ("constant_data", "param"): [*PARAMS]}
        hdf5.write(out, "posterior", groups, coords=coords, settings=file.settings, seed=file.seed,
                   inputs=file.inputs, origin=file.origin)
        return [out]
    return list(_getdist(file, out))


def _getdist(file, prefix):
    """Weight, -ln posterior (0 where unknown) and parameters of each draw, a file a chain."""
    draws = np.stack([file.groups["posterior"][p] for p in PARAMS], axis=-1)
    lp = file.groups.get("sample_stats", {}).get("lp", np.zeros(draws.shape[:-1]))
    for k, number in enumerate(file.coords["posterior"]["map"]):
        root = f"{prefix.name}_map{number}"
        for chain in range(len(draws)):
            path = prefix.with_name(f"{root}_{chain + 1}.txt")
            with atomic(path) as part:
                np.savetxt(part, np.column_stack([np.ones(draws.shape[1]), -lp[chain, :, k],
                                                  draws[chain, :, k]]), fmt="%.9g")
            yield path
        path = prefix.with_name(f"{root}.paramnames")
        with atomic(path) as part:
            part.write_text("".join(f"{name} {LATEX[name]}\n" for name in PARAMS))
        yield path


def _csv(maps, out):
    """A row for each map: which it is, its truth if known, and all of its posterior's numbers."""
    columns = {"map": maps.ids, "kind": np.array(SPLITS)[maps.split],
               "cosmology": maps.cosmology, "realisation": maps.realisation}
    columns |= {f"true_{p}": maps.truth[:, k] for k, p in enumerate(PARAMS)}
    for name, values in maps.summary.items():
        if values.ndim == 2:
            columns |= {f"{name}_{p}": values[:, k] for k, p in enumerate(PARAMS)}
        elif name != "kind":
            columns[name] = values
    with atomic(out) as part, open(part, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*(["" if v != v else v for v in values.tolist()]
                               for values in columns.values())))
    return out
