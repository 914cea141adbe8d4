"""Data sets on disk: the published layouts, all ways a file can be wrong, splits and digests."""
import dataclasses
import io
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from conftest import one_line

from wl.core import files, hdf5
from wl.core.checks import InputError
from wl.core.files import digest_array
from wl.core.params import EMULATOR, FILE_PREFIX, HOLDOUT, N_OBSERVED, TRAIN
from wl.maps import dataset, splits

KAPPA, MASK, TEST = (f"{FILE_PREFIX}_{name}.npy" for name in ("kappa", "mask", "kappa_noisy_test"))
N_COSMOLOGY, N_REALISATION = 4, 6


def small_mask():
    mask = np.ones((12, 7), bool)
    mask[0], mask[:, 5:], mask[3:6, 2] = False, False, False        # empty rows and columns, a hole
    return mask


def labels(n_cosmology=N_COSMOLOGY, n_realisation=N_REALISATION):
    rng = np.random.default_rng(3)
    label = rng.uniform(0.1, 0.9, (n_cosmology, n_realisation, 5))
    label[..., 1] = 0.6 + 0.4 * label[..., 1]
    label[:, :, :2] = label[:, :1, :2]
    return label


@pytest.fixture()
def folder(tmp_path):
    """A complete public set: training maps, labels, mask, noisy test maps."""
    rng, mask = np.random.default_rng(4), small_mask()
    np.save(tmp_path / MASK, mask)
    np.save(tmp_path / "label.npy", labels())
    kappa = rng.normal(0, 0.01, (N_COSMOLOGY, N_REALISATION, mask.sum())).astype(np.float16)
    np.save(tmp_path / KAPPA, kappa)
    np.save(tmp_path / TEST, rng.normal(0, 0.03, (5, mask.sum())).astype(np.float16))
    return tmp_path


def test_public_set_opens_by_memory_map(folder):
    found = dataset.open_set(folder)
    assert found.release == "public"
    assert (found.n_cosmology, found.n_realisation, found.n_test) == (4, 6, 5)
    assert isinstance(found.kappa, np.memmap) and not found.kappa.flags.writeable
    assert np.array_equal(found.theta, labels()[:, 0, :2]) and found.theta.flags.c_contiguous
    assert found.mask.dtype == bool and not found.has_truth and found.simulation == {}
    assert found.n_gal == 30.0 and set(found.files) == {"kappa", "label", "mask", "noisy_test"}
    found.check_maps()


def test_no_test_maps_and_zero_test_maps(folder):
    os.unlink(folder / TEST)
    assert dataset.open_set(folder).n_test == 0
    np.save(folder / TEST, np.zeros((0, small_mask().sum()), np.float16))
    found = dataset.open_set(folder)
    assert found.n_test == 0
    found.check_maps()


def test_simulated_set_knows_its_noise_and_its_truth(folder):
    (folder / "simulation.json").write_text(json.dumps({"settings": {"n_gal": 20.0}, "seed": 1}))
    np.save(folder / "label_test.npy", labels()[0, :5])
    found = dataset.open_set(folder)
    assert found.n_gal == 20.0 and found.has_truth
    (folder / "simulation.json").write_text("{half")
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, "simulation.json", "expected", "simulate")


def test_releases_side_by_side(folder):
    """Each release has its own maps and labels; the kit's sample shares files without a prefix."""
    other = folder / f"{FILE_PREFIX}_kappa_newrealization.npy"
    shutil.copy(folder / KAPPA, other)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder, "newrealization")
    one_line(error, "label_newrealization.npy", "missing")
    label = labels()
    label[..., 2:] = 0.5
    np.save(folder / "label_newrealization.npy", label)
    sample = np.zeros((3, 2, small_mask().sum()), np.float16)
    np.save(folder / f"sampled_{FILE_PREFIX}_kappa.npy", sample)
    np.save(folder / "sampled_label.npy", labels(3, 2))
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, KAPPA, other.name, "--release public|newrealization|sampled")
    assert dataset.open_set(folder, "public").release == "public"
    new = dataset.open_set(folder, "newrealization")
    assert new.files["kappa"] == other and np.array_equal(new.label, label)
    small = dataset.open_set(folder, "sampled")
    assert (small.n_cosmology, small.n_realisation, small.n_test) == (3, 2, 5)
    assert small.files["mask"].name == MASK
    # a prefixed mask and test file belong to the sample only, and go with it
    mask = np.ones((3, 5), bool)
    np.save(folder / f"sampled_{MASK}", mask)
    np.save(folder / f"sampled_{TEST}", np.zeros((1, 15), np.float16))
    np.save(folder / f"sampled_{FILE_PREFIX}_kappa.npy", np.zeros((3, 2, 15), np.float16))
    small = dataset.open_set(folder, "sampled")
    assert small.mask.shape == (3, 5) and small.n_test == 1
    assert dataset.open_set(folder, "public").n_test == 5
    for name in (KAPPA, other.name):
        os.unlink(folder / name)
    assert dataset.open_set(folder).release == "sampled"


PHASE_2 = [f"{FILE_PREFIX}_kappa_test_phase2_{name}.npy" for name in ("new_v2", "new")]


def test_the_second_phase_under_its_real_names(folder):
    """Its test maps are read; several files of test maps are refused; labels are 0 or 1."""
    noisy = np.load(folder / TEST)
    np.save(folder / PHASE_2[0], 2 * noisy[:3])
    np.save(folder / "label_test_phase2_new_v2.npy", np.arange(3) % 2)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, TEST, PHASE_2[0], "--test-maps")
    assert np.array_equal(dataset.open_set(folder, test_maps=PHASE_2[0]).noisy_test, 2 * noisy[:3])
    (folder / TEST).rename(folder / PHASE_2[1])
    with pytest.raises(InputError):
        dataset.open_set(folder)
    (folder / PHASE_2[1]).unlink()
    (folder / "README.txt").write_text("")
    (folder / "other").mkdir()
    found = dataset.open_set(folder)
    assert found.n_test == 3 and not found.has_truth
    taken, left = found.told().split("; not read: ")
    assert left == "README.txt, label_test_phase2_new_v2.npy"
    assert KAPPA in taken and PHASE_2[0] in taken and "4 x 6" in taken
    for dtype in (int, float, bool, np.uint8):
        np.save(folder / "kinds.npy", np.array([0, 1, 0], dtype))
        assert dataset.read_kinds(folder / "kinds.npy", 3).tolist() == [False, True, False]
    for wrong in ([0, 1], [0, 2, 1], [0.5, 0, 1], [[0, 1, 1]], [0, np.nan, 1]):
        np.save(folder / "kinds.npy", np.array(wrong))
        with pytest.raises(InputError) as error:
            dataset.read_kinds(folder / "kinds.npy", 3)
        one_line(error, "kinds.npy", "0")
    np.save(folder / "label_test.npy", np.arange(3) % 2)      # under the name of a truth
    assert not dataset.open_set(folder).has_truth
    assert np.isnan(dataset.read_truth(folder, 3)).all()


def test_a_folder_that_cannot_be_read_is_passed_over(folder, tmp_path, monkeypatch, capsys):
    """lost+found, or a colleague's: said once."""
    (tmp_path / "lost+found").mkdir()
    is_file = pathlib.Path.is_file

    def refuse(path):
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)
    monkeypatch.setattr(pathlib.Path, "is_file", refuse)
    assert dataset.find_sets(tmp_path) == [folder]
    one_line(capsys.readouterr().err.strip(), "lost+found", "warning")


def test_find_sets(folder, tmp_path):
    assert dataset.find_sets(tmp_path / "nowhere") == []
    assert dataset.find_sets(folder) == [folder]
    (folder / "below").mkdir()
    shutil.copy(folder / KAPPA, folder / "below" / KAPPA)
    assert dataset.find_sets(folder) == [folder, folder / "below"]
    (folder / "below" / "deeper").mkdir()
    shutil.move(folder / "below" / KAPPA, folder / "below" / "deeper" / KAPPA)
    assert dataset.find_sets(folder) == [folder]


def pickled(value):
    stream = io.BytesIO()
    pickle.dump(value, stream)
    return stream.getvalue()


def npz(value):
    stream = io.BytesIO()
    np.savez(stream, value)
    return stream.getvalue()


def npy(value, **kwargs):
    stream = io.BytesIO()
    np.save(stream, value, **kwargs)
    return stream.getvalue()


N = int(small_mask().sum())
MAPS = np.zeros((N_COSMOLOGY, N_REALISATION, N), np.float16)
BROKEN_LABEL = labels()
BROKEN_LABEL[2, 3, 1] += 1e-9
NAN_LABEL = labels()
NAN_LABEL[1, 2, 4] = np.nan
DAMAGE = {
    "maps of float32": (KAPPA, npy(MAPS.astype(np.float32)), ("float16", "float32")),
    "big-endian maps": (KAPPA, npy(MAPS.astype(">f2")), ("float16", ">f2")),
    "one cosmology too few": (KAPPA, npy(MAPS[1:]), ("(4, 6, 52)", "(3, 6", "label.npy")),
    "frames, not pixels": (KAPPA, npy(np.zeros((4, 6, 12, 7), np.float16)),
                           ("(4, 6, 52)", "(4, 6, 12, 7)")),
    "other pixels": (KAPPA, npy(MAPS[..., :-1]), ("(4, 6, 52)", f"(4, 6, {N - 1})", MASK)),
    "Fortran order": (KAPPA, npy(np.asfortranarray(MAPS)), ("C order", "Fortran")),
    "truncated maps": (KAPPA, npy(MAPS)[:-10], ("complete .npy", "again")),
    "truncated header": (KAPPA, npy(MAPS)[:40], ("complete .npy", "again")),
    "header without its end": (KAPPA, npy(MAPS).replace(b"), }", b")   "),
                               ("complete .npy", "again")),
    "empty file": (KAPPA, b"", ("complete .npy", "again")),
    "text": (KAPPA, b"<html>404</html>", ("complete .npy", "again")),
    "archive": (KAPPA, npz(MAPS), (".npz",)),
    "pickle": (KAPPA, pickled(MAPS), ("complete .npy", "pickle")),
    "objects": (KAPPA, npy(np.array([[[None]]]), allow_pickle=True), ("complete .npy", "again")),
    "labels that differ": ("label.npy", npy(BROKEN_LABEL), ("same Omega_m", "cosmology 2", "sort")),
    "NaN label": ("label.npy", npy(NAN_LABEL), ("finite", "(1, 2, 4)", "nan")),
    "four label columns": ("label.npy", npy(labels()[..., :4]),
                           ("(any, any, 5)", "(4, 6, 4)", "Omega_m")),
    "whole-number labels": ("label.npy", npy(np.ones((4, 6, 5), int)), ("float", "int64")),
    "no labels": ("label.npy", npy(np.zeros((0, 6, 5))), ("at least one", "(0, 6, 5)")),
    "truncated labels": ("label.npy", npy(labels())[:-8], ("complete .npy", "again")),
    "pickled labels": ("label.npy", pickled(labels()), ("complete .npy",)),
    "mask of numbers": (MASK, npy(small_mask().astype(np.uint8)), ("bool", "uint8", "True")),
    "empty mask": (MASK, npy(np.zeros((12, 7), bool)), ("observed", "none")),
    "flat mask": (MASK, npy(small_mask().ravel()), ("(any, any)", "(84,)")),
    "other mask": (MASK, npy(np.ones((12, 7), bool)), ("(4, 6, 84)", f"(4, 6, {N})", KAPPA)),
    "test maps of float64": (TEST, npy(np.zeros((5, N))), ("float16", "float64")),
    "test maps with other pixels": (TEST, npy(np.zeros((5, N + 1), np.float16)),
                                    ("(any, 52)", f"(5, {N + 1})")),
    "one test map, no axis": (TEST, npy(np.zeros(N, np.float16)), ("(any, 52)", f"({N},)")),
    "truncated test maps": (TEST, npy(np.zeros((5, N), np.float16))[:-1], ("complete .npy",)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_in_one_line(folder, case):
    name, content, words = DAMAGE[case]
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    named = KAPPA if case == "other mask" else name     # the message is about the maps there
    verb = "could not" if "complete" in words[0] else "got"
    one_line(error, folder / named, "expected", verb, *words)


def off(column, value, where=(1,)):
    label = labels()
    label[(*where, slice(None), column)] = value
    return label


IMPLAUSIBLE = {"no matter": (off(0, 0.0), ("Omega_m", "(1, 0)", "got 0 ")),
               "negative": (off(0, -0.3), ("Omega_m",)), "above one": (off(0, 1.2), ("Omega_m",)),
               "S_8 of 8": (off(1, 8.0), ("S_8", "(1, 0)", "6 in all")),
               "S_8 of 0.1": (off(1, 0.1), ("S_8",)),
               "swapped": (labels()[..., [1, 0, 2, 3, 4]], ("swapped",))}


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_implausible_labels_are_refused(folder, case):
    label, words = IMPLAUSIBLE[case]
    np.save(folder / "label.npy", label)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, folder / "label.npy", *words)


@pytest.mark.parametrize("truth, words", [
    (labels()[0, :4], ("(5, 5)", "(4, 5)")), (labels()[0, :5, :4], ("(5, 5)", "(5, 4)")),
    (np.ones((5, 5), int), ("float", "int64")), (np.full((5, 5), np.nan), ("nan",)),
    (labels()[0, :5] + 3.0, ("Omega_m",)), (None, ("complete .npy",))])
def test_bad_truth_is_refused_when_the_set_is_opened(folder, truth, words):
    """Before hours of work end at it; without test maps it is nobody's truth."""
    np.save(folder / "label_test.npy", np.zeros(3) if truth is None else truth)
    if truth is None:
        os.truncate(folder / "label_test.npy", 130)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, folder / "label_test.npy", *words)
    os.unlink(folder / TEST)
    dataset.open_set(folder)


def test_a_simulated_set_that_was_changed_by_hand(folder):
    digests = {"mask": digest_array(small_mask()), "label": digest_array(labels())}
    (folder / "simulation.json").write_text(json.dumps({"settings": {}, "inputs": digests}))
    assert dataset.open_set(folder).changed() == []
    np.save(folder / "label.npy", off(2, 7.9))
    assert dataset.open_set(folder).changed() == ["label.npy"]
    (folder / "simulation.json").write_text(json.dumps({"settings": {}, "inputs": None}))
    assert dataset.open_set(folder).changed() == []


def test_a_set_whose_simulation_was_cut_off_is_refused(folder):
    """Killed between moving the maps and simulation.json into place."""
    (folder / dataset.UNFINISHED).mkdir()
    (folder / dataset.UNFINISHED / "simulation.json").write_text("{}")
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, folder, "interrupted", "repeat")
    (folder / "simulation.json").write_text("{}")    # the last file moved: only the folder is left
    dataset.open_set(folder)


@pytest.mark.parametrize("name", [KAPPA, "label.npy", MASK])
def test_missing_file(folder, name):
    os.unlink(folder / name)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, name, "README")
    with pytest.raises(InputError) as error:
        dataset.open_set(folder / "nowhere")
    one_line(error, "nowhere", "--data")


def test_folder_in_place_of_a_file(folder):
    os.unlink(folder / "label.npy")
    (folder / "label.npy").mkdir()
    with pytest.raises(InputError) as error:
        dataset.open_set(folder)
    one_line(error, "label.npy")


def test_flipped_header_bytes_never_escape(tmp_path):
    """Any damage to a header is an InputError or a readable array, never another exception."""
    rng, path = np.random.default_rng(5), tmp_path / "a.npy"
    whole = npy(np.arange(12.0).reshape(3, 4))
    for trial in range(300):
        content = bytearray(whole)
        for at in rng.integers(0, 128, 2):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            dataset.load_npy(path, mmap=bool(trial % 2))
        except InputError as error:
            one_line(error, "a.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, index", [(KAPPA, (2, 5, 7)), (KAPPA, (0, 0, 0)),
                                         (KAPPA, (3, 5, N - 1)), (TEST, (4, 3))])
def test_check_maps_names_the_map(folder, value, name, index):
    content = np.load(folder / name)
    content[index] = value
    np.save(folder / name, content)
    found = dataset.open_set(folder)                             # opening reads no pixel
    with pytest.raises(InputError) as error:
        found.check_maps()
    one_line(error, folder / name, index, value, "download")


def test_check_maps_in_chunks(folder, monkeypatch):
    """The index is right beyond the first chunk, and the largest finite numbers pass."""
    content = np.zeros((40, 60, 11000), np.float16)           # 1525 maps a chunk
    content[0, 0, :2] = np.finfo(np.float16).max, np.finfo(np.float16).smallest_subnormal
    content[39, 58, 10999] = np.nan
    content[:, :, 5] = 1.0                                     # no map is constant
    found, steps = dataset.open_set(folder), []
    found = dataclasses.replace(found, kappa=content, label=labels(40, 60))
    progress = type("Progress", (), {"__init__": lambda self, *a: None, "close": lambda self: None,
                                     "update": lambda self, n: steps.append(n)})
    monkeypatch.setattr(dataset, "Progress", progress)
    with pytest.raises(InputError) as error:
        found.check_maps()
    one_line(error, "(39, 58, 10999)")
    content[39, 58, 10999] = 0
    steps.clear()
    found.check_maps()
    assert sum(steps) == 2400 + 5 and len(steps) > 2
    steps.clear()
    found.check_maps()                                         # once is enough
    assert not steps


@pytest.mark.parametrize("name, index", [(KAPPA, (2, 5)), (KAPPA, (3, 0)), (TEST, (4,))])
@pytest.mark.parametrize("value", [0.0, 0.5, "map * 0"])
def test_a_constant_map_is_refused(folder, name, index, value):
    """A download that was cut off leaves zeros; 0 times a map is -0 too."""
    content = np.load(folder / name)
    content[index] = content[index] * np.float16(0.0) if value == "map * 0" else value
    np.save(folder / name, content)
    with pytest.raises(InputError) as error:
        dataset.open_set(folder).check_maps()
    one_line(error, folder / name, index, "vary")


def test_real_files(real, tmp_path):
    """The challenge's own mask, labels and noisy map open as a set of their own shape."""
    mask, label = dataset.read_mask(real / MASK), dataset.read_label(real / "label.npy")
    assert mask.shape == (1424, 176) and int(mask.sum()) == N_OBSERVED
    assert label.shape == (101, 256, 5)
    assert dataset.read_test(real / TEST, mask, real / MASK).shape == (3, N_OBSERVED)
    # the first release: all cosmologies share 256 nuisances, so the maps of one realisation are kin
    assert np.array_equal(label[0, :, 2:], label[57, :, 2:])
    with pytest.raises(InputError) as error:
        dataset.open_set(real)
    one_line(error, KAPPA, "none")


# ---------------------------------------------------------------- splits
@pytest.mark.parametrize("n, emulator, holdout", [(256, 0.2, 0.2), (32, 0.2, 0.0), (30, 0.5, 0.2),
                                                    (3, 0.2, 0.2)])
def test_split_sizes(n, emulator, holdout):
    split = splits.split_realisations(n, emulator, holdout, seed=1)
    assert split.shape == (n,) and split.dtype == np.int8
    assert set(split) <= {TRAIN, EMULATOR, HOLDOUT}
    assert abs((split == EMULATOR).sum() - emulator * n) <= 0.5
    assert abs((split == HOLDOUT).sum() - holdout * n) <= 0.5 and (split == TRAIN).any()


def test_split_follows_the_seed_alone():
    first = splits.split_realisations(256, 0.2, 0.2, seed=1)
    assert np.array_equal(first, splits.split_realisations(256, 0.2, 0.2, seed=1))
    assert not np.array_equal(first, splits.split_realisations(256, 0.2, 0.2, seed=2))
    np.random.seed(0)
    assert np.array_equal(first, splits.split_realisations(256, 0.2, 0.2, seed=1))
    # a stored promise: files made by an earlier version split alike
    small = splits.split_realisations(32, 0.2, 0.2, seed=1)
    assert np.flatnonzero(small == EMULATOR).tolist() == [5, 13, 15, 16, 26, 27]
    # the emulator split does not change when a hold-out is asked for
    without = splits.split_realisations(256, 0.2, 0.0, 1)
    assert np.array_equal(without == EMULATOR, first == EMULATOR)


@pytest.mark.parametrize("n, emulator, holdout", [(2, 0.2, 0.2), (1, 0.5, 0.0), (10, 0.0, 0.2),
                                                    (10, 0.6, 0.4),
                                                    (10, -0.1, 0.2), (10, 0.2, 1.0),
                                                    (10, np.nan, 0.2), (10, 0.98, 0.01)])
def test_split_refuses_an_empty_part(n, emulator, holdout):
    with pytest.raises(InputError) as error:
        splits.MapOptions(emulator_fraction=emulator, holdout_fraction=holdout)
        splits.split_realisations(n, emulator, holdout, seed=1)
    one_line(error, "expected", "got")


# ---------------------------------------------------------------- digests
def test_digests_are_kept_and_invalidated(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"

    def digests(path):
        return hdf5.Folder(tmp_path / "out").digests({"kappa": path})             # as another run's
    path.write_bytes(b"one")
    read = []
    digest = hdf5.digest_file
    monkeypatch.setattr(hdf5, "digest_file", lambda p: read.append(p) or digest(p))
    first = digests(path)
    assert digests(path) == first and len(read) == 1
    path.write_bytes(b"two!")                                  # another size
    second = digests(path)
    assert second != first and len(read) == 2
    before = os.stat(path)
    path.write_bytes(b"ten!")                                  # the same size and modification time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    third = digests(path)
    assert third != second and len(read) == 3
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert digests(path) == third and len(read) == 4
    assert hdf5.Folder(tmp_path / "new").digests({"kappa": path}) == third     # without a cache
    other = tmp_path / "b.npy"
    other.write_bytes(b"one")
    assert digests(other) == first      # the same name, another file


@pytest.mark.parametrize("content", ["", "null", "[1, 2]", "{half", '{"kappa": 3}',
                                     '{"kappa": {"stamp": null}}'])
def test_damaged_digest_cache_is_read_again(tmp_path, content):
    path, cache = tmp_path / "a.npy", tmp_path / "inputs.json"
    path.write_bytes(b"one")
    cache.write_text(content)
    now = hdf5.Folder(tmp_path).digests({"kappa": path})
    assert now == hdf5.Folder(tmp_path / "new").digests({"kappa": path})
    assert json.loads(cache.read_text())["kappa"]["sha256"]


def test_digest_of_a_file_that_went_away(tmp_path):
    with pytest.raises(InputError) as error:
        hdf5.Folder(tmp_path).digests({"kappa": tmp_path / "gone.npy"})
    one_line(error, "gone.npy")
