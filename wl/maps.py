"""Open a data set in the public layout by memory map, check it, and split it by realisation."""
import json
import os
import pathlib

import numpy as np

from .checks import InputError, array, positive
from .params import FILE_PREFIX, HOLDOUT, LABELS, N_GAL, STATISTICS, TRAIN
from .provenance import digest_file
from .store import atomic

# (maps, labels) of each published form, in the order they are looked for
RELEASES = {
    "public": (f"{FILE_PREFIX}_kappa.npy", "label.npy"),
    "newrealization": (f"{FILE_PREFIX}_kappa_newrealization.npy", "label_newrealization.npy"),
    "sampled": (f"sampled_{FILE_PREFIX}_kappa.npy", "sampled_label.npy"),
}
MASK_FILE = f"{FILE_PREFIX}_mask.npy"
TEST_FILE = f"{FILE_PREFIX}_kappa_noisy_test.npy"
TRUTH_FILE = "label_test.npy"
SIMULATION_FILE = "simulation.json"


class MapSet:
    """One data set on disk; nothing is read until it is asked for.

    folder: Path; release: key of RELEASES; kappa: memory map (n_cosmology, n_realisation,
    n_observed) float16, noiseless; label: (n_cosmology, n_realisation, 5) float64 in the order of
    params.LABELS; theta: (n_cosmology, 2) float64; mask: (rows, columns) bool; noisy_test: memory
    map (n_test, n_observed) float16 or None; has_truth: a label_test.npy lies beside it;
    simulation: settings of the simulator, or {}; files: {name: Path} of what it consists of.
    """

    def __init__(self, folder, release, kappa, label, mask, noisy_test, files):
        self.folder, self.release = pathlib.Path(folder), release
        self.kappa, self.label, self.mask, self.noisy_test = kappa, label, mask, noisy_test
        self.files = files
        self.theta = np.ascontiguousarray(label[:, 0, :2])
        self.has_truth = (self.folder / TRUTH_FILE).is_file()
        self.simulation = read_simulation(self.folder)

    @property
    def n_cosmology(self):
        return self.label.shape[0]

    @property
    def n_realisation(self):
        return self.label.shape[1]

    @property
    def n_test(self):
        return 0 if self.noisy_test is None else self.noisy_test.shape[0]

    @property
    def n_gal(self):
        """Source galaxies per square arcminute that set the noise."""
        return float(self.simulation.get("n_gal", N_GAL))

    def check_maps(self, progress=None):
        """Read every map once and refuse NaN and inf. Raises InputError that names the map."""
        for name, maps in (("kappa", self.kappa), ("noisy_test", self.noisy_test)):
            if maps is None:
                continue
            rows = maps.reshape(-1, maps.shape[-1])
            step = max(1, (1 << 24) // rows.shape[1])
            for start in range(0, len(rows), step):
                # exponent all ones: inf or NaN in float16; integers test ten times faster than isfinite
                bad = (rows[start:start + step].view(np.uint16) & 0x7C00) == 0x7C00
                if bad.any():
                    row, pixel = (int(i) for i in np.argwhere(bad)[0])
                    where = (row + start,) if maps.ndim == 2 else divmod(row + start, maps.shape[1])
                    raise InputError(f"{self.files[name]}: expected finite numbers, got "
                                     f"{rows[row + start, pixel]} at index {(*where, pixel)}; repair or "
                                     "download the file again")
                if progress is not None:
                    progress.update(len(bad))


def read_simulation(folder):
    """Settings of the simulator that made a folder's maps; {} for maps from elsewhere."""
    path = pathlib.Path(folder) / SIMULATION_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        settings = dict(content.get("settings", content))
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: expected the simulator's JSON, could not read it ({error}); "
                         "simulate the set again") from None
    positive(f"{path}: n_gal", settings.get("n_gal", N_GAL))
    return settings


def load_npy(path, mmap=False):
    """A .npy array, in memory or as a read-only memory map. Raises InputError for anything else."""
    path = pathlib.Path(path)
    try:
        value = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: file is missing; the README says what a data set consists of") from None
    except Exception as error:            # a damaged header raises errors of half a dozen kinds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: expected a complete .npy file, could not read it ({reason}); copy or "
                         "download it again") from None
    if not isinstance(value, np.ndarray):
        value.close()
        raise InputError(f"{path}: expected a .npy file, got a .npz archive; save its array with numpy.save")
    if mmap and not value.flags.c_contiguous:
        raise InputError(f"{path}: expected an array in C order, got Fortran order, of which no map could be "
                         "read without all others; save it again with numpy.ascontiguousarray")
    return value


def find_sets(folder):
    """Folders that hold a data set: the folder itself, or those directly below it."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    below = sorted(p for p in folder.iterdir() if p.is_dir())
    return [p for p in [folder, *below] if _releases(p)]


def _releases(folder):
    return [name for name, (maps, _) in RELEASES.items() if (folder / maps).is_file()]


def open_set(folder, release="auto"):
    """Open and check a data set: names, shapes, dtypes, labels and mask (not yet every pixel).

    folder: where the files lie; release: "public", "newrealization", "sampled", or "auto" for
    the first of them that is there. Returns a MapSet. Raises InputError.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --data a folder with a data set")
    found = _releases(folder)
    if release == "auto":
        if not found:
            raise InputError(f"{folder}: expected {' or '.join(m for m, _ in RELEASES.values())}, "
                             "found none; see the README for where the public files go")
        release = found[0]
    maps_name, label_name = RELEASES[release]
    files = {"kappa": folder / maps_name, "label": folder / label_name,
             "mask": _with_prefix(folder, MASK_FILE, release)}
    mask = read_mask(files["mask"])
    label = read_label(files["label"])
    kappa = load_npy(files["kappa"], mmap=True)
    array(files["kappa"], kappa, (label.shape[0], label.shape[1], None), np.float16, finite=False,
          advice=f"its maps must match {label_name}")
    _check_pixels(files["kappa"], kappa, mask, files["mask"])
    noisy_test, test_path = None, _with_prefix(folder, TEST_FILE, release)
    if test_path.is_file():
        files["noisy_test"] = test_path
        noisy_test = read_test(test_path, mask, files["mask"])
    return MapSet(folder, release, kappa, label, mask, noisy_test, files)


def _with_prefix(folder, name, release):
    """The kit's sample carries its prefix on some files and shares the others."""
    special = folder / f"sampled_{name}"
    return special if release == "sampled" and special.is_file() else folder / name


def read_mask(path):
    """A survey mask (rows, columns) bool, True = observed. Raises InputError."""
    mask = array(path, load_npy(path), (None, None), np.bool_, advice="True must mean observed")
    if not mask.any():
        raise InputError(f"{path}: expected observed pixels (True), got none; check the mask")
    return mask


def read_label(path):
    """Labels (n_cosmology, n_realisation, 5) float64, one (Omega_m, S_8) per cosmology. Raises InputError."""
    label = array(path, load_npy(path), (None, None, len(LABELS)), ("f",),
                  advice=f"the columns are {', '.join(LABELS)}").astype(np.float64, copy=False)
    if 0 in label.shape:
        raise InputError(f"{path}: expected at least one cosmology and realisation, got shape {label.shape}")
    differs = np.abs(label[:, :, :2] - label[:, :1, :2]).max(axis=(1, 2)) > 0
    if differs.any():
        i = int(np.argmax(differs))
        raise InputError(f"{path}: expected the same Omega_m and S_8 in all realisations of a cosmology, "
                         f"got different ones in cosmology {i}; sort the labels as the maps")
    return label


def check_design(path, theta):
    """Raise InputError if cosmologies (n, 2) cannot be triangulated: fewer than 3, repeated, or on a line."""
    if len(theta) < 3 or np.linalg.matrix_rank((theta - theta.mean(0)) / np.maximum(theta.std(0), 1e-12), 1e-9) < 2:
        raise InputError(f"{path}: expected at least 3 cosmologies that span Omega_m and S_8, got {len(theta)} on "
                         "a line; add cosmologies")
    same = np.flatnonzero((theta[:, None] == theta).all(-1).sum(1) > 1)
    if same.size:
        raise InputError(f"{path}: expected different cosmologies, got the same in {same[0]} and {same[1]}; "
                         "merge their realisations")


def read_test(path, mask, mask_path):
    """Noisy test maps as a memory map (n_test, n_observed) float16. Raises InputError."""
    noisy = array(path, load_npy(path, mmap=True), (None, None), np.float16, finite=False,
                  advice="one row of observed pixels per map")
    _check_pixels(path, noisy, mask, mask_path)
    return noisy


def _check_pixels(path, maps, mask, mask_path):
    if maps.shape[-1] != int(mask.sum()):
        raise InputError(f"{path}: expected {int(mask.sum())} observed pixels a map as in {mask_path.name}, "
                         f"got {maps.shape[-1]}; use the mask that belongs to the maps")


def split_realisations(n_realisation, statistics, holdout, seed):
    """Which realisations train the network, feed the statistics, or are held out.

    By realisation and never by map: the first public release shares its 256 seeds between the
    cosmologies, so that two maps of one realisation are not independent.
    statistics, holdout: fractions in [0, 1); seed: int. Returns int8 (n_realisation,) of the codes
    of params.SPLITS. Raises InputError when a part would be empty.
    """
    if not (0 < statistics < 1 and 0 <= holdout < 1 and statistics + holdout < 1):
        raise InputError("--statistics-fraction and --holdout-fraction: expected fractions that leave some "
                         f"for training, got {statistics} and {holdout}")
    n_statistics = max(1, round(statistics * n_realisation))
    n_holdout = max(1, round(holdout * n_realisation)) if holdout > 0 else 0
    if n_statistics + n_holdout >= n_realisation:
        raise InputError(f"expected enough realisations to split, got {n_realisation} for fractions "
                         f"{statistics} and {holdout}; simulate more realisations")
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(100,))).permutation(n_realisation)
    split = np.full(n_realisation, TRAIN, np.int8)
    split[order[:n_statistics]] = STATISTICS
    split[order[n_statistics:n_statistics + n_holdout]] = HOLDOUT
    return split


def split_folds(n_realisation, folds, holdout, seed):
    """Folds of realisations, for networks that each predict what they were not trained on.

    Network k trains on the realisations of the other folds. One in 32 realisations belongs to a fold but trains
    no network: on these maps all networks can be compared (statistics.as_average). holdout: fraction held out
    from all. Returns split, int8 (n_realisation,), codes of params.SPLITS with STATISTICS for every realisation
    of a fold; fold, int8 (n_realisation,), -1 for the hold-out; shared, bool (n_realisation,), those that train
    none. Raises InputError.
    """
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout-fraction: expected a fraction from 0 to below 1, got {holdout}")
    n_holdout = max(1, round(holdout * n_realisation)) if holdout > 0 else 0
    n_shared = max(1, round(n_realisation / 32))
    rest = n_realisation - n_holdout - n_shared
    if not 2 <= folds <= min(rest, 100):
        raise InputError(f"--folds: expected 2 to {max(min(rest, 100), 2)} for {n_realisation} realisations, got "
                         f"{folds}; simulate more realisations, or give fewer folds")
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(100,))).permutation(n_realisation)
    split, fold = np.full(n_realisation, STATISTICS, np.int8), np.full(n_realisation, -1, np.int8)
    split[order[:n_holdout]] = HOLDOUT
    fold[order[n_holdout:]] = np.arange(n_realisation - n_holdout) % folds
    shared = np.zeros(n_realisation, bool)
    shared[order[n_holdout:n_holdout + n_shared]] = True
    return split, fold, shared


def digests(files, cache=None):
    """sha256 of each file; a cache file spares reading gigabytes again while size and time agree.

    files: {name: Path}; cache: Path of a JSON file or None. Returns {name: hex}. Raises InputError for a
    file that cannot be read.
    """
    known, fresh = {}, {}
    if cache is not None and pathlib.Path(cache).is_file():
        try:
            known = json.loads(pathlib.Path(cache).read_text())
            known = {name: {"stamp": list(entry["stamp"]), "sha256": str(entry["sha256"])}
                     for name, entry in known.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            known = {}                            # damaged: all is read again
    for name, path in files.items():
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
        # the change time too: archives and copies give other contents the same modification time
        stamp = [str(pathlib.Path(path).resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if name in known and known[name]["stamp"] == stamp:
            fresh[name] = known[name]
        else:
            fresh[name] = {"stamp": stamp, "sha256": digest_file(path)}
    if cache is not None and fresh != known:
        with atomic(cache) as part:
            pathlib.Path(part).write_text(json.dumps(fresh, indent=1))
    return {name: entry["sha256"] for name, entry in fresh.items()}
