"""Posterior files joined with the truth of their maps: the only place that reads it."""
import contextlib
import dataclasses
import pathlib

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, array
from ..core.params import EMULATOR, HOLDOUT, LEVELS, SPLITS, TEST, TRAIN
from ..maps import dataset
from ..posterior.posterior import STUCK
from . import score

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
        """Which of the maps of pick, (n,) bool, have one of the cosmologies theta, (n,) bool."""
        near = pick.copy()
        off = np.abs(self.truth[pick][:, None] - theta).max(axis=2)
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
        raise InputError(f"{path}: expected a posterior with {error} in it; repeat the run "
                         "that made it") from None
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
    maps.folder = folder = pathlib.Path(data if data is not None else maps.folder)
    if (data is None and "data" not in file.origin) or not folder.is_dir():
        raise InputError(f"{path}: its data folder {str(folder)!r} is not there; {GIVE}")
    if maps.design is not None:
        array(f"{path}: constant_data/design", maps.design, (None, 2), "f",
              advice="repeat the run of it")
    if maps.design is None or not test.all():
        _join_labels(maps, ~test)
    where = folder / dataset.TRUTH_FILE
    if test.any() and where.is_file():
        _check_digest(maps, "label_test", where)
        label = dataset.read_truth(folder)
        _in_range(file, where, maps.realisation[test], len(label), "maps")
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
    """Keep the digest of a truth; InputError if it is not the one beside the maps back then."""
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
