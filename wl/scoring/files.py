"""Posterior files joined with the truth of their maps, the only place that reads it, and exported.

Other tools read the challenge's zip, GetDist's chains, a table, or ArviZ's netCDF.
"""
import contextlib
import csv
import dataclasses
import glob
import io
import json
import os
import pathlib
import re
import zipfile

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, array
from ..core.files import atomic
from ..core.params import EMULATOR, HOLDOUT, LATEX, LEVELS, PARAMS, SPLITS, TEST, TRAIN
from ..maps import dataset
from ..posterior.posterior import STUCK
from . import score

FORMATS = ("getdist", "csv", "arviz")
ON_DESIGN = 1e-6            # a test cosmology this near to one of the design counts as seen
GIVE = "give --data FOLDER with the label files of the maps it was made from"


@dataclasses.dataclass
class Maps:
    """The maps of a posterior file."""
    path: pathlib.Path
    file: hdf5.File
    folder: pathlib.Path                     # of the data
    split: np.ndarray                        # (n,) int64, as are the next two
    cosmology: np.ndarray
    realisation: np.ndarray
    ids: np.ndarray                          # (n,) int, the coordinate `map`
    summary: dict                            # {name: (n, ...)}
    truth: np.ndarray                        # (n, 2), NaN where nobody has it, or none was read
    design: np.ndarray | None = None         # (n_cosmology, 2)
    cluster: np.ndarray | None = None        # (n,) numbers that dependent hold-out maps share
    digests: dict = dataclasses.field(default_factory=dict)           # {name: sha256}, files read
    notes: list = dataclasses.field(default_factory=list)             # of str

    bars = property(lambda self: "errorbar" if "errorbar" in self.summary else "sd",
                    doc="The variable that is scored as error bars.")
    failed = property(lambda self: (self.summary.get("flag", 0 * self.split) & STUCK) > 0,
                      doc="Maps (n,) whose chains never moved: they have no posterior.")

    def numbers(self, pick: np.ndarray) -> score.Posterior:
        """Of some maps, recalibrated where the file has it."""
        some = {name: values[pick] for name, values in self.summary.items()}
        quantiles = {name: some.get(f"recalibrated_{name}", some[name])
                     for name in LEVELS if name in some}
        return score.Posterior(some["posterior_mean"], some[self.bars], some.get("correlation"),
                               quantiles)

    def subsets(self) -> dict:
        """{name: bool (n,)} of the maps to score apart, the headline first."""
        known = np.isfinite(self.truth[:, 0]) & ~self.failed
        found = {SPLITS[code]: known & (self.split == code)
                 for code in (TEST, HOLDOUT, EMULATOR, TRAIN)}
        near = self._is_one_of(self.design, found["test"])
        if (found["test"] & ~near).any():
            found = {"test": found["test"], "test_on_design": near,
                     "test_off_design": found["test"] & ~near, **found}
        first = next((name for name, pick in found.items() if pick.any()), None)
        if first and len(self.design) > 3:
            from scipy.spatial import ConvexHull, QhullError
            with contextlib.suppress(QhullError):
                corners = self.design[ConvexHull(self.design).vertices]
                found[f"{first}_at_hull"] = self._is_one_of(corners, found[first])
        return {name: pick for name, pick in found.items() if pick.any()}

    def _is_one_of(self, theta, pick):
        near, off = pick.copy(), np.abs(self.truth[pick][:, None] - theta).max(axis=2)
        near[pick] = (off <= ON_DESIGN).any(axis=1)
        return near


def read_maps(path) -> Maps:
    """A posterior file without the truth. path: str or Path, posterior.h5 of any method.

    Raises InputError, also for a file that lacks what every posterior has.
    """
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data", "constant_data"))
    try:
        summary, observed = file.groups["summary"], file.groups["observed_data"]
        keys = [observed[name].astype(np.int64) for name in ("split", "cosmology", "realisation")]
        n = len(keys[0])
        maps = Maps(pathlib.Path(path), file, pathlib.Path(file.origin.get("data", "")), *keys,
                    file.coords["summary"].get("map", np.arange(n)), summary,
                    np.full((n, 2), np.nan))
        for name in ("posterior_mean", "sd", maps.bars):
            array(f"{path}: summary/{name}", summary[name], (n, 2), finite=False)
    except KeyError as error:
        raise InputError(f"{path}: expected a posterior with {error}; repeat its run") from None
    return maps


def open_maps(path, data=None) -> Maps:
    """A posterior file with the truth of its maps.

    path: as read_maps() takes it
    data: str or Path, folder with the label files; None for the one in the file's origin
    Raises InputError, also for another set's label files.
    """
    maps = read_maps(path)
    file, cosmology, test = maps.file, maps.cosmology, maps.split == TEST
    maps.design = file.groups.get("constant_data", {}).get("design")
    if file.settings.get("method") == "given":           # predictions of others hold their truth
        maps.truth = np.where(cosmology[:, None] >= 0, maps.design[cosmology], np.nan)
        return maps
    new = file.origin.get("new_maps")                    # of --apply: whose truth nobody has
    if new and data is None:
        return maps
    maps.folder = folder = pathlib.Path(data if data is not None else maps.folder)
    if (data is None and "data" not in file.origin) or not folder.is_dir():
        raise InputError(f"{path}: its data folder {str(folder)!r} is not there; {GIVE}")
    if new:
        where = dataset.test_file(folder, file.settings.get("release", "public"))
        if where is None or hdf5.digest_file(where) != new:
            raise InputError(f"--data {folder}: expected the set whose test maps {path} is of, "
                             "found others there; give no --data, and nothing is scored")
    if maps.design is not None:
        array(f"{path}: constant_data/design", maps.design, (None, 2), "f", advice="make it again")
    if maps.design is None or not test.all():
        _join_labels(maps, ~test)
    where = folder / dataset.TRUTH_FILE
    if test.any() and where.is_file():
        _check_digest(maps, "label_test", where)
        label = dataset.read_truth(folder)
        _in_range(file, where, maps.realisation[test], len(label), "maps")
        known = file.origin.get("maps", {}).get("noisy_test")
        there = [*folder.glob("*kappa*test*.npy")] if "label_test" not in file.origin else []
        if known and there and len(label) not in (       # truth that came later, or of other maps
                len(dataset.load_npy(p, True)) for p in there if hdf5.digest_file(p) == known):
            raise InputError(f"{where}: expected the truth of the test maps of {path}, got that of "
                             f"others; {GIVE}")
        maps.truth[test] = label[maps.realisation[test], :2]
    return maps


def _join_labels(maps, pick):
    """The truth of maps at known cosmologies, from the labels of the set."""
    file, c, r = maps.file, maps.cosmology[pick], maps.realisation[pick]
    names = [label for name, (_, label) in dataset.RELEASES.items()
             if file.settings.get("release") in ("auto", None, name)]
    where = next((path for name in names if (path := maps.folder / name).is_file()), None)
    if where is None:
        raise InputError(f"{file.path}: expected {' or '.join(names)} in {maps.folder}, found "
                         f"none; {GIVE}")
    label = dataset.read_label(where)
    _in_range(file, where, c, label.shape[0], "cosmologies")
    _in_range(file, where, r, label.shape[1], "realisations")
    maps.truth[pick] = label[c, r, :2]
    maps.design = label[:, 0, :2] if maps.design is None else maps.design
    if (c.max(initial=-1) >= len(maps.design)
            or np.abs(maps.design[c] - maps.truth[pick]).max(initial=0.0) > ON_DESIGN):
        raise InputError(f"{where}: expected the cosmologies of {file.path}, got others; {GIVE}")
    _check_digest(maps, "label", where)
    simulation, nuisances = dataset.read_simulation(maps.folder), label[:, :, 2:]
    shared = simulation.get("shared_seeds",     # a set may have the public labels, but own seeds
                            len(label) > 1 and (nuisances == nuisances[:1]).all()
                            and (nuisances != nuisances[:, :1]).any())
    if c.size and shared:
        maps.cluster = maps.realisation
        maps.notes.append("the cosmologies share their seeds: errors of hold-out figures are a "
                          "bootstrap over realisations")


def _check_digest(maps, name, where):
    file, now = maps.file, hdf5.digest_file(where)
    then = {**file.origin, **file.inputs}.get(name, now)
    if then != now:
        raise InputError(f"{where}: is not the one that {file.path} was made from (sha256 "
                         f"{then[:12]} then, {now[:12]} now); give its --data, or repeat the run")
    maps.digests[name] = now


def _in_range(file, label_path, index, size, what):
    if index.max(initial=-1) >= size or index.min(initial=0) < 0:
        raise InputError(f"{label_path}: holds {size} {what}, {file.path} refers to number "
                         f"{index.max()}; {GIVE}")


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
        raise InputError(f"{path}: holds no test maps for a submission; give --target test")
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
        raise InputError(f"--submission {out}: is there, another one; give --force to replace it")
    with atomic(out) as part:
        part.write_bytes(content.getvalue())
    return len(test)


def check(maps: Maps, form: str, out) -> None:
    """Raise InputError, before anything is written, where export() of the same values would."""
    is_folder = os.path.isdir(out) or str(out).endswith(os.sep)
    out = pathlib.Path(out)
    if form != "getdist" and out.resolve() == maps.path.resolve():
        raise InputError(f"--export {form} {out}: is the posterior itself; give another name")
    if is_folder:
        raise InputError(f"--export {form} {out}: is a folder; give the name of a file in it")
    if form == "csv" and out.is_file():
        with open(out, "rb") as stream:
            if stream.read(9) != b"map,kind,":
                raise InputError(f"--export csv {out}: is there, no table of ours; give another")
    if form == "arviz" and out.is_file():
        there = hdf5.read(out, "posterior", groups=("constant_data",))      # refuses other kinds
        if "truth" not in there.groups.get("constant_data", {}):
            raise InputError(f"--export arviz {out}: is a run's posterior; give another name")
    if form == "getdist" and not hdf5.read(maps.path, "posterior", groups=("posterior",)).groups:
        raise InputError(f"{maps.path}: has no draws for GetDist; repeat the run with --draws 500")


def export(maps: Maps, form: str, out) -> list[pathlib.Path]:
    """Write a posterior for another tool, with the truth where it is known.

    maps: Maps; form: str, of FORMATS
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
        groups = {g: {n: hdf5.Var(file.dims[g][n], v, file.attrs[g][n]) for n, v in named.items()}
                  for g, named in file.groups.items()}
        groups["constant_data"]["truth"] = hdf5.Var(("map", "param"), maps.truth)
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
    for old in prefix.parent.glob(glob.escape(prefix.name) + "_map*"):      # GetDist would read it
        if re.fullmatch(r"_map\d+(_\d+\.txt|\.paramnames)", old.name[len(prefix.name):]):
            old.unlink()
    for k, number in enumerate(file.coords["posterior"]["map"]):
        root = f"{prefix.name}_map{number}"
        for i, (density, points) in enumerate(zip(lp[..., k], draws[:, :, k]), 1):
            path, weight = prefix.with_name(f"{root}_{i}.txt"), np.ones(len(points))
            with atomic(path) as part:
                np.savetxt(part, np.column_stack([weight, -density, points]), fmt="%.9g")
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
