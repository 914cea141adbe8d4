"""Open a data set in the public layout by memory map, and check it."""
import dataclasses
import json
import pathlib

import numpy as np

from ..core.checks import InputError, array, choice, plausible, positive
from ..core.files import digest_array, digest_file
from ..core.params import FILE_PREFIX, LABELS, N_GAL
from ..core.progress import Progress, warn

# (maps, labels) of each published form, in the order they are looked for
RELEASES = {
    "public": (f"{FILE_PREFIX}_kappa.npy", "label.npy"),
    "newrealization": (f"{FILE_PREFIX}_kappa_newrealization.npy", "label_newrealization.npy"),
    "sampled": (f"sampled_{FILE_PREFIX}_kappa.npy", "sampled_label.npy"),
}
MASK_FILE = f"{FILE_PREFIX}_mask.npy"
TEST_FILE = f"{FILE_PREFIX}_kappa_noisy_test.npy"
TEST_FILES = (TEST_FILE, *(f"{FILE_PREFIX}_kappa_test_phase2_{v}.npy" for v in ("new_v2", "new")))
TRUTH_FILE, SIMULATION_FILE = "label_test.npy", "simulation.json"
LIMIT_FILE = "limit.h5"                  # the information limit of its maps
UNFINISHED = ".unfinished"               # folder of a simulated set until it is complete
COLUMNS = f"the columns are {', '.join(LABELS)}"


@dataclasses.dataclass(frozen=True)
class MapSet:
    """One data set on disk; nothing is read until it is asked for."""
    folder: pathlib.Path
    release: str                    # key of RELEASES
    kappa: np.ndarray               # (n_cosmology, n_realisation, n_observed) float16, noiseless
    label: np.ndarray               # (n_cosmology, n_realisation, 5) float64, of params.LABELS
    mask: np.ndarray                # (rows, columns) bool, True = observed
    noisy_test: np.ndarray | None   # (n_test, n_observed) float16; a memory map, as kappa is
    files: dict                     # {name: Path} of what the set consists of
    name: str                       # what results are called after
    has_truth: bool                 # whether a label_test.npy lies beside the maps
    simulation: dict                # settings of the simulator; {} for maps from elsewhere
    _passed: list = dataclasses.field(default_factory=list, repr=False)  # check_maps() reads once

    n_cosmology = property(lambda self: self.label.shape[0], doc="Cosmologies of the design.")
    n_realisation = property(lambda self: self.label.shape[1], doc="Maps of each cosmology.")
    n_test = property(lambda self: 0 if self.noisy_test is None else len(self.noisy_test),
                      doc="Noisy test maps.")
    n_gal = property(lambda self: float(self.simulation.get("n_gal", N_GAL)),
                     doc="Source galaxies per square arcminute that set the noise.")
    theta = property(lambda self: np.ascontiguousarray(self.label[:, 0, :2]),
                     doc="Omega_m and S_8 of each cosmology, (n_cosmology, 2) float64.")
    flat_kappa = property(lambda self: self.kappa.reshape(-1, self.kappa.shape[-1]),
                          doc="The maps cosmology by cosmology, (n_map, n_observed), a view.")
    flat_theta = property(lambda self: self.label.reshape(-1, self.label.shape[-1])[:, :2],
                          doc="Omega_m and S_8 of each of them, (n_map, 2) float64.")

    def origin(self) -> dict:
        """Where the set lies, its name and truth, for the files that are made from it."""
        truth = {"label_test": digest_file(self.folder / TRUTH_FILE)} if self.has_truth else {}
        return {"data": str(self.folder.resolve()), "name": self.name, **truth}

    def told(self) -> str:
        """What was taken of the folder, and every file in it that no stage reads, in a line."""
        read = {*(path.name for path in self.files.values()), SIMULATION_FILE, LIMIT_FILE}
        read |= {TRUTH_FILE} if self.has_truth else set()
        left = sorted(p.name for p in self.folder.iterdir() if p.is_file() and p.name not in read)
        return (f"{self.folder}: {self.files['kappa'].name}, {self.n_cosmology} x "
                f"{self.n_realisation} maps; "
                + (f"{self.files['noisy_test'].name}, {self.n_test}" if self.n_test else "no test "
                   "maps") + (f"; not read: {', '.join(left)}" if left else ""))

    def changed(self, digests: dict | None = None) -> list:
        """Names of files not as the simulator wrote them; maps too, by digests {name: sha256}."""
        proof = read_proof(self.folder / SIMULATION_FILE)
        now = {"mask": digest_array(self.mask), "label": digest_array(self.label)}
        pairs = (("inputs", now), ("maps", {n: digests[n] for n in ("kappa", "noisy_test")
                                            if n in (digests or ())}))
        return [self.files[name].name for key, known in pairs for name, digest in known.items()
                if isinstance(was := proof.get(key), dict) and was.get(name, digest) != digest]

    def check_maps(self, quiet: bool = True) -> None:
        """Read every map once. Raises InputError that names one with NaN, inf, or no variance."""
        if self._passed:
            return
        progress = Progress(len(self.flat_kappa) + self.n_test, "checking the maps", quiet)
        for name, maps in (("kappa", self.kappa), ("noisy_test", self.noisy_test)):
            if maps is not None:
                _check_values(self.files[name], maps, progress.update)
        progress.close()
        self._passed.append(True)


def _check_values(path, maps, passed=lambda count: None):
    """Raise InputError for a map, of (..., n_observed) float16, with NaN, inf, or one value."""
    flat = maps.reshape(-1, maps.shape[-1])
    step = max(1, (1 << 24) // flat.shape[1])
    for start in range(0, len(flat), step):
        block = flat[start:start + step].view(np.uint16) & 0x7FFF         # no sign: -0 is 0 too
        # exponent all ones: inf or NaN in float16; integers test ten times faster than isfinite
        bad = (block & 0x7C00) == 0x7C00
        same = (block == block[:, :1]).all(1) & (block.shape[1] > 1)
        if bad.any() or same.any():
            row, pixel = np.argwhere(bad if bad.any() else same[:, None])[0].tolist()
            where = tuple(map(int, np.unravel_index(start + row, maps.shape[:-1])))
            value = flat[start + row, pixel]
            raise InputError(
                f"{path}: expected finite numbers up to 65504, got {value} in map {start + row}, "
                f"at index {(*where, pixel)}; repair or download the file again" if bad.any() else
                f"{path}: expected maps that vary, got {value} in every pixel of map {start + row},"
                f" at index {where}; the file is not complete: download or simulate it again")
        passed(len(block))


def read_simulation(folder) -> dict:
    """Settings of the simulator that made a folder's maps, {} for others. Raises InputError."""
    path = pathlib.Path(folder) / SIMULATION_FILE
    content = read_proof(path)
    settings = content.get("settings", content)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected settings, got {settings!r}; simulate the set again")
    positive(f"{path}: n_gal", settings.get("n_gal", N_GAL))
    return settings


def read_proof(path: pathlib.Path) -> dict:
    """What simulation.json, or what the simulator keeps until then, holds. Raises InputError."""
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the simulator's JSON, could not read it ({error}); "
                         "remove it and simulate the set again") from None


def load_npy(path, mmap: bool = False) -> np.ndarray:
    """A .npy array, in memory or as a read-only memory map. Raises InputError for others."""
    path = pathlib.Path(path)
    try:
        value = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: file is missing; the README lists what a set holds") from None
    except Exception as error:            # a damaged header raises errors of half a dozen kinds
        raise InputError(f"{path}: expected a complete .npy file, could not read it "
                         f"({str(error)[:160]}); copy or download it again") from None
    if not isinstance(value, np.ndarray):
        value.close()
        raise InputError(f"{path}: expected a .npy file, got a .npz archive; save its array")
    if mmap and not value.flags.c_contiguous:
        raise InputError(f"{path}: expected an array in C order, got Fortran order, where a map "
                         "cannot be read without all others; save it again with "
                         "numpy.ascontiguousarray")
    return value


def find_sets(folder) -> list:
    """Folders that hold a data set: the folder itself, and those directly below it."""
    folder, found = pathlib.Path(folder), []
    for path in (folder, *sorted(folder.iterdir())) if folder.is_dir() else ():
        try:
            if path.is_dir() and any((path / maps).is_file() for maps, _ in RELEASES.values()):
                found.append(path)
        except PermissionError:                    # lost+found
            warn(f"{path}: cannot be read, passed over")
    return found


def _only(folder, names, option):
    """The one file of these names in a folder, None if there is none. Raises InputError for two."""
    found = [name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder}: expected one of {', '.join(found)}, found {len(found)}; say "
                         f"which by {option}")
    return found[0] if found else None


def open_set(folder, release: str = "auto", test_maps: str | None = None) -> MapSet:
    """Open and check a data set: names, shapes, dtypes, labels and mask (not yet every pixel).

    folder: str or Path, where the files lie
    release: str, key of RELEASES, or "auto" for the only one that is there
    test_maps: str, name of the noisy test maps; None for the only ones. Raises InputError.

        maps = wl.open_set("data/small")
        print(maps.kappa.shape, maps.theta)
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --data a folder with a data set")
    if interrupted(folder):
        raise InputError(f"{folder}: its simulation was interrupted in its last step; repeat the "
                         "command that simulated it")
    if release == "auto":
        known = {maps: name for name, (maps, _) in RELEASES.items()}
        found = _only(folder, known, f"--release {'|'.join(RELEASES)}")
        if found is None:
            raise InputError(f"{folder}: expected {' or '.join(known)}, found none; see the README")
        release = known[found]
    choice("--release", release, RELEASES)
    names = (*RELEASES[release], _with_prefix(folder, MASK_FILE, release).name)
    files = {key: folder / name for key, name in zip(("kappa", "label", "mask"), names)}
    mask, label = read_mask(files["mask"]), read_label(files["label"])
    kappa = array(files["kappa"], load_npy(files["kappa"], mmap=True),
                  (*label.shape[:2], int(mask.sum())), np.float16, finite=False,
                  advice=f"its maps must match {names[1]}, their pixels {names[2]}; use these")
    noisy_test, test_path = None, test_file(folder, release, test_maps)
    has_truth = (folder / TRUTH_FILE).is_file()
    if test_path is not None:
        files["noisy_test"] = test_path
        noisy_test = read_test(test_path, mask, files["mask"])
        if has_truth:                                 # looked at only to refuse it before any work
            has_truth = bool(np.isfinite(read_truth(folder, len(noisy_test))).all())
    return MapSet(folder, release, kappa, label, mask, noisy_test, files, folder.resolve().name,
                  has_truth, read_simulation(folder))


def test_file(folder, release: str = "public", name: str | None = None) -> pathlib.Path | None:
    """The file of noisy test maps in a folder, None without one. Parameters as of open_set()."""
    special = _with_prefix(folder, TEST_FILE, release).name
    if name is None:
        name = special if special != TEST_FILE else _only(folder, TEST_FILES, "--test-maps")
    return None if name is None else folder / name


def interrupted(folder) -> bool:
    """Whether a killed run was moving the simulated set into place."""
    begun, done = pathlib.Path(folder, UNFINISHED, SIMULATION_FILE), folder / SIMULATION_FILE
    return begun.is_file() and not done.is_file()


def _with_prefix(folder, name, release):
    special = folder / f"sampled_{name}"
    return special if release == "sampled" and special.is_file() else folder / name


def read_mask(path) -> np.ndarray:
    """A survey mask (rows, columns) bool, True = observed. Raises InputError."""
    mask = array(path, load_npy(path), (None, None), np.bool_, advice="True must mean observed")
    if not mask.any():
        raise InputError(f"{path}: expected observed pixels (True), got none; check the mask")
    return mask


def read_label(path) -> np.ndarray:
    """Labels (n_cosmology, n_realisation, 5) float64. Raises InputError."""
    label = array(path, load_npy(path), (None, None, len(LABELS)), "f", advice=COLUMNS)
    label = label.astype(np.float64, copy=False)
    if 0 in label.shape:
        raise InputError(f"{path}: expected at least one cosmology and realisation, got shape "
                         f"{label.shape}")
    differs = np.abs(label[:, :, :2] - label[:, :1, :2]).max(axis=(1, 2)) > 0
    if differs.any():
        i = int(np.argmax(differs))
        raise InputError(f"{path}: expected the same Omega_m and S_8 in all realisations of a "
                         f"cosmology, got different ones in cosmology {i}; sort as the maps")
    plausible(path, label, COLUMNS)
    return label


def read_truth(folder, n_test: int | None = None) -> np.ndarray:
    """Labels of a set's test maps, (n_test, 5); only for scores. Raises InputError.

    NaN where the file says only which maps are out of distribution, as the second phase's.
    """
    path = pathlib.Path(folder) / TRUTH_FILE
    label = load_npy(path)
    if label.ndim == 1:
        return np.full((len(read_kinds(path, n_test)), len(LABELS)), np.nan)
    array(path, label, (n_test, len(LABELS)), "f", advice=COLUMNS)
    if len(label):
        plausible(path, label, COLUMNS)
    return label


def read_kinds(path, n_test: int | None = None) -> np.ndarray:
    """Which test maps are out of distribution, (n_test,) bool, from bools or 0/1; for scores."""
    label = array(path, load_npy(path), (n_test,), tuple("biuf"), advice="give a 0 or 1 per test "
                  "map, 1 where it is out of distribution")
    for value in label[~np.isin(label, (0, 1))]:
        raise InputError(f"{path}: expected 0 and 1 (out of distribution), got {value}")
    return label == 1


def read_test(path, mask: np.ndarray, mask_path: pathlib.Path) -> np.ndarray:
    """Noisy test maps as a memory map (n_test, n_observed) float16. Raises InputError."""
    return array(path, load_npy(path, mmap=True), (None, int(mask.sum())), np.float16, finite=False,
                 advice=f"give one row of the pixels of {mask_path.name} per map")


def read_new(path, mask: np.ndarray) -> np.ndarray:
    """Noisy maps from a bare file, on a known mask (rows, columns) bool.

    path: str or Path, .npy of floats: (n, n_observed) observed pixels in C order of the mask, or
        frames (n, rows, columns), NaN or anything outside the mask; one map without first axis
    Returns (n, n_observed) float16, as the public release has test maps; a memory map if it is
    that in the file. Raises InputError, naming the map, for others, NaN, inf and constant maps.
    """
    maps, n_observed = load_npy(path, mmap=True), int(mask.sum())
    array(path, maps, None, "f", finite=False, advice="give convergence maps")
    if maps.shape in ((n_observed,), mask.shape):
        maps = maps[None]
    if not maps.size or maps.shape[1:] not in ((n_observed,), mask.shape):
        raise InputError(f"{path}: expected maps of {n_observed} observed pixels each, (n, "
                         f"{n_observed}), or frames (n, {mask.shape[0]}, {mask.shape[1]}) as the "
                         f"mask of the run, got shape {maps.shape}; cut them to that mask")
    if maps.ndim == 3 or maps.dtype != np.float16:
        found, maps = maps, np.empty((len(maps), n_observed), np.float16)
        with np.errstate(over="ignore"):
            for i, one in enumerate(found):
                maps[i] = one if found.ndim == 2 else one[mask]
    _check_values(path, maps)
    return maps
