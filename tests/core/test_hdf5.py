"""Files: round trips, the layout other tools expect, and every way in which a file can be bad."""
import errno
import hashlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from conftest import one_line
from wl.core import files, hdf5, params
from wl.core.checks import InputError, RunError
from wl.core.hdf5 import Var
from wl.posterior.options import merge

MAPS = 12


def contents(rng, maps=np.arange(MAPS), shard=None, draws=(0, 5, 7)):
    """Groups, coordinates and settings of a small posterior, or of one shard of it."""
    mean, draw = rng.normal(size=(MAPS, 2)), rng.normal(size=(2, 30, len(draws)))
    kept = [i for i, m in enumerate(draws) if m in maps]
    groups = {
        "posterior": {"Omega_m": Var(("chain", "draw", "map"), draw[..., kept], {"units": "1"}),
                      "S_8": Var(("chain", "draw", "map"), -draw[..., kept])},
        "summary": {"posterior_mean": Var(("map", "param"), mean[maps]),
                    "converged": Var(("map",), mean[maps, 0] > 0),
                    "flag": Var(("map",), maps.astype(np.int8))},
        "constant_data": {"design": Var(("cosmology", "param"), np.arange(10.0).reshape(5, 2)),
                          "prior": Var((), "flat")}}
    coords = {"param": ["Omega_m", "S_8"], "map": maps, ("posterior", "map"): np.array(draws)[kept]}
    if not kept:
        del groups["posterior"]
    settings = {"nstep": 10000, "sigma": 0.06, "sampler": {"chains": 1, "start": None}}
    return groups, coords, settings if shard is None else {**settings, "shard": shard}


def make(path, seed=1, **options):
    groups, coords, settings = contents(np.random.default_rng(seed), **options)
    hdf5.write(path, "posterior", groups, coords=coords, settings=settings, seed=seed,
                inputs={"label": "ab" * 32})
    return path


@pytest.fixture()
def path(tmp_path):
    return make(tmp_path / "posterior.h5")


# ---------------------------------------------------------------- round trip and layout
def test_round_trip(tmp_path, rng):
    arrays = {"f64": rng.normal(size=(7, 3)), "f32": rng.normal(size=(7, 3)).astype(np.float32),
              "big_endian": rng.normal(size=(7, 3)).astype(">f8"),
              "fortran": np.asfortranarray(rng.normal(size=(7, 3))),
              "strided": rng.normal(size=(14, 3))[::2], "nan": np.full((7, 3), np.nan),
              "i64": rng.integers(-9, 9, (7, 3)), "u8": rng.integers(0, 9, (7, 3)).astype(np.uint8),
              "yes": rng.random((7, 3)) > 0.5}
    attrs = {"units": "arcmin", "long": 3, "x": 0.5, "list": [1, 2]}
    groups = {"summary": {name: Var(("map", "param"), a, attrs) for name, a in arrays.items()},
              "constant_data": {"scalar": Var((), 3.5), "word": (("i",), ["é", "", "b"]),
                                "none": Var(("j",), np.zeros(0))}}
    digest = hdf5.write(tmp_path / "a b é.h5", "posterior", groups, seed=7, inputs={"x": "00"},
                        coords={"param": ["a", "b", "c"]},
                        settings={"path": tmp_path, "t": (1, np.int64(2))})
    file = hdf5.read(tmp_path / "a b é.h5", "posterior")
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.groups["summary"][name], array)
        assert file.groups["summary"][name].dtype.kind == array.dtype.kind
    constant = file.groups["constant_data"]
    assert constant["scalar"] == 3.5 and constant["none"].shape == (0,)
    assert list(constant["word"]) == ["é", "", "b"]
    assert list(file.coords["summary"]["param"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(file.coords["summary"]["map"], np.arange(7))
    assert file.dims["summary"]["f64"] == ("map", "param")
    assert file.dims["constant_data"]["scalar"] == ()
    assert file.attrs["summary"]["f64"] == {"units": "arcmin", "long": 3, "x": 0.5,
                                            "list": "[1, 2]"}
    assert file.settings == {"path": str(tmp_path), "t": [1, 2]}
    assert file.seed == 7 and file.inputs == {"x": "00"}
    assert file.digest == digest and file.kind == "posterior"
    assert file.versions["numpy"] == np.__version__


def test_float16_is_widened_without_loss(tmp_path, rng):
    half = rng.normal(size=9).astype(np.float16)
    hdf5.write(tmp_path / "p.h5", "predictions", {"predictions": {"estimate": Var(("map",), half)}})
    array = hdf5.read(tmp_path / "p.h5").groups["predictions"]["estimate"]
    assert array.dtype == np.float32 and np.array_equal(array, half)


def test_layout_that_other_tools_need(path):
    with h5py.File(path) as file:
        assert {"posterior", "summary", "constant_data"} == set(file)
        for group in file.values():
            common = {"created_at", "inference_library", "inference_library_version"}
            assert common <= set(group.attrs)
            for name, data in group.items():
                assert "_Netcdf4Dimid" not in data.attrs and data.dtype != np.float16
                if data.is_scale:
                    continue
                for dim in data.dims:            # each dimension has its scale in the same group
                    assert dim[0].parent == group and dim[0].is_scale
                if data.ndim:
                    assert (data.compression, data.shuffle) == ("gzip", True)
                if data.ndim and data.dtype.kind == "f":
                    assert np.isnan(data.fillvalue)
        names = list(file["posterior"])
        assert names == ["map", "draw", "chain", "Omega_m", "S_8"]                # as created
        converged = file["summary/converged"]
        assert converged.dtype == np.int8 and converged.attrs["dtype"] == "bool"
        assert json.loads(file.attrs["settings"])["nstep"] == 10000
    # superblock version: 3, of libver "latest", can refuse to open again
    assert path.read_bytes()[8] < 3


def test_variables_say_what_they_are(tmp_path):
    """Units and words for known ones, bits as the CF conventions have them; own ones win."""
    groups = {"summary": {"flag": Var(("map",), np.array([0, 3], np.int16)),
                          "split": Var(("map",), np.zeros(2, np.int8)),
                          "ess": Var(("map",), np.ones(2), {"units": "draws"}),
                          "mine": Var(("map",), np.ones(2))}}
    first = hdf5.write(tmp_path / "p.h5", "posterior", groups)
    with h5py.File(tmp_path / "p.h5") as file:
        found = {name: dict(file["summary"][name].attrs) for name in groups["summary"]}
    masks = found["flag"]["flag_masks"]
    assert masks.dtype == np.int16 and masks.tolist() == list(params.FLAGS)
    assert len(found["flag"]["flag_meanings"].split()) == 5 and found["flag"]["units"] == "1"
    assert found["split"]["flag_values"].dtype == np.int8
    assert found["split"]["flag_meanings"].split() == list(params.SPLITS)
    assert found["ess"]["units"] == "draws" and "effective" in found["ess"]["long_name"]
    assert "long_name" not in found["mine"]
    file = hdf5.read(tmp_path / "p.h5")
    again = {n: Var(("map",), v, file.attrs["summary"][n])
             for n, v in file.groups["summary"].items()}
    assert hdf5.write(tmp_path / "q.h5", "posterior", {"summary": again}) == first == file.digest


def test_settings_above_64_kB(tmp_path):
    hdf5.write(tmp_path / "p.h5", "posterior", {"g": {"x": Var((), 1.0, {"note": "n" * 100_000})}},
                settings={"note": "x" * 200_000})
    file = hdf5.read(tmp_path / "p.h5")
    assert len(file.settings["note"]) == 200_000 and len(file.attrs["g"]["x"]["note"]) == 100_000


def test_equal_contents_give_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = make(tmp_path / "1.h5").read_bytes(), make(tmp_path / "2.h5").read_bytes()
    assert first == second
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000001")
    assert make(tmp_path / "3.h5").read_bytes() != first
    assert hdf5.read(tmp_path / "3.h5").digest == hdf5.read(tmp_path / "1.h5").digest
    assert hdf5.read(make(tmp_path / "4.h5", seed=2)).digest != hdf5.read(tmp_path / "1.h5").digest


def test_a_file_that_this_process_holds_open_is_read(path):
    """A notebook keeps it open in xarray, with a lock; HDF5 would not open it again without."""
    with h5py.File(path, "r"):
        assert hdf5.read(path).kind == "posterior"
    assert hdf5.read(path).kind == "posterior"


def test_xarray_and_arviz_open_it(path):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed (an optional reader)")
    try:
        data = xarray.open_dataset(path, group="posterior")
    except ValueError as error:
        pytest.skip(f"xarray has no engine for netCDF-4 here: {error}")
    assert data["Omega_m"].dims == ("chain", "draw", "map")
    assert list(data["map"].values) == [0, 5, 7]
    assert xarray.open_dataset(path, group="summary")["converged"].dtype == bool


def test_only_the_groups_asked_for(path):
    file = hdf5.read(path, groups=("summary",))
    assert set(file.groups) == {"summary"} and file.digest == hdf5.read(path).digest


@pytest.mark.parametrize("name, var", [
    ("a/b", Var(("map",), np.zeros(3))), ("_x", Var(("map",), np.zeros(3))),
    ("", Var(("map",), np.zeros(3))), ("map", Var(("map",), np.zeros(3))),
    ("x", Var(("a/b",), np.zeros(3))),
    ("x", Var(("map", "map"), np.zeros((3, 3)))),
    ("x", Var(("map",), np.zeros((3, 3)))), ("x", Var(("map",), np.zeros(3, complex))),
    ("x", Var(("map",), np.zeros(4)))])
def test_what_netcdf_cannot_hold_is_refused(tmp_path, name, var):
    with pytest.raises(ValueError):
        hdf5.write(tmp_path / "p.h5", "posterior",
                   {"g": {"first": Var(("map",), np.zeros(3)), name: var}})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad files
def test_missing_file_folder_and_kind(tmp_path, path):
    for bad in (tmp_path / "no.h5", tmp_path / "no" / "no.h5", tmp_path):
        with pytest.raises(InputError) as error:
            hdf5.read(bad, "posterior")
        one_line(error, bad)
    with pytest.raises(InputError) as error:
        hdf5.read(path, "predictions")
    one_line(error, path, "predictions", "posterior")


@pytest.mark.parametrize("text", [b"", b"Omega_m S_8\n0.3 0.8\n", b"\x89HDF\r\n\x1a\n",
                                  b"\x93NUMPY\x01\x00", b"\x00" * 4096])
def test_not_an_hdf5_file(tmp_path, text):
    bad = tmp_path / "posterior.h5"
    bad.write_bytes(text)
    with pytest.raises(InputError) as error:
        hdf5.read(bad, "posterior")
    one_line(error, bad, "repeat the run" if text.startswith(b"\x89HDF") else "make it")
    assert bad.read_bytes() == text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[:int(share * len(raw))])
    with pytest.raises(InputError) as error:
        hdf5.read(path, "posterior")
    one_line(error, path, "truncated")


def test_flipped_bits_never_pass(path, rng):
    """Each flip is caught, or (in the 8 bytes that say that a seal follows) changes nothing."""
    raw, good = path.read_bytes(), hdf5.read(path)
    for bit in rng.integers(0, 8 * len(raw), 300):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bad)
        try:
            file = hdf5.read(path, "posterior")
        except InputError as error:
            one_line(error, path)
            continue
        assert len(raw) - 40 <= bit // 8 < len(raw) - 32 and file.digest == good.digest


@pytest.mark.parametrize("change", ["values", "attribute", "settings", "missing", "extra", "dims"])
def test_a_file_changed_by_another_program_is_refused(path, change):
    """What h5py or h5repack rewrites has no seal any more, or a wrong one."""
    with h5py.File(path, "a") as file:
        if change == "values":
            file["summary/posterior_mean"][3, 1] += 1e-12
        elif change == "attribute":
            file["posterior/Omega_m"].attrs["units"] = "arcmin"
        elif change == "settings":
            file.attrs["settings"] = file.attrs["settings"].replace("0.06", "0.05")
        elif change == "missing":
            del file["summary/flag"]
        elif change == "extra":
            file["summary/extra"] = np.zeros(3)
        else:
            file["summary"].move("param", "other")
    for _ in range(2):
        with pytest.raises(InputError) as error:
            hdf5.read(path)
        one_line(error, path, "changed", "repeat the run that made it")
        path.write_bytes(path.read_bytes().replace(hdf5.SEAL, b"\0" * 8))
    assert "by another program" in str(error.value)


def test_schema_1_is_refused_by_a_sentence_that_says_what_makes_it_anew(tmp_path, monkeypatch):
    for kind, command in hdf5.KINDS.items():
        with monkeypatch.context() as before:
            before.setattr(hdf5, "SCHEMA_VERSION", 1)
            hdf5.write(tmp_path / "old.h5", kind, {"g": {"x": Var((), 1.0)}})
        with pytest.raises(InputError) as error:
            hdf5.read(tmp_path / "old.h5")
        one_line(error, "old.h5: has schema version 1, this wl reads 3; make it anew with "
                        f"{command} --force")


def test_foreign_and_older_files(tmp_path, path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(InputError) as error:
        hdf5.read(tmp_path / "foreign.h5")
    one_line(error, "foreign.h5", "not one of wl")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 0
    path.write_bytes(path.read_bytes().replace(hdf5.SEAL, b"\0" * 8))
    with pytest.raises(InputError) as error:
        hdf5.read(path)
    one_line(error, path, "schema version 0", "--force")


# ---------------------------------------------------------------- atomic writes
KILLED = """
import os, signal, sys
from wl.core import hdf5
import test_hdf5
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
point = sys.argv[2]
if point == "group":
    inner = hdf5.h5py.Group.create_group
    hdf5.h5py.Group.create_group = lambda *a, **k: (inner(*a, **k), die())
elif point == "half written":
    hdf5.SEAL = type("Seal", (), {"__add__": die})()
else:
    setattr(os, point, die)
test_hdf5.make(sys.argv[1], seed=9)
"""


@pytest.mark.parametrize("point", ["group", "half written", "fsync", "replace"])
def test_kill_leaves_the_old_file_or_none(tmp_path, python, point):
    code = KILLED
    out = tmp_path / "posterior.h5"
    assert python(code, out, point).returncode == -signal.SIGKILL
    assert not out.exists()
    make(out)
    before = out.read_bytes()
    assert python(code, out, point).returncode == -signal.SIGKILL
    assert out.read_bytes() == before and hdf5.read(out, "posterior").seed == 1


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, python):
    code = """
import resource, signal, sys, numpy as np
from wl.core import checks, hdf5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    values = np.random.default_rng(0).random(100_000)
    hdf5.write(sys.argv[1], "posterior", {"g": {"x": hdf5.Var(("i",), values)}})
except checks.RunError as error:
    print(error)
"""
    done = python(code, tmp_path / "p.h5")
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout and not list(tmp_path.iterdir())


def test_atomic(tmp_path):
    out = tmp_path / "new" / "score.json"
    with files.atomic(out) as part:
        part.write_text("1")
        assert part.parent == out.parent and part.suffix == ".json" and not out.exists()
    assert out.read_text() == "1"
    with pytest.raises(KeyboardInterrupt):
        with files.atomic(out) as part:
            part.write_text("2")
            raise KeyboardInterrupt
    with pytest.raises(RunError) as error:
        with files.atomic(out):
            raise OSError(errno.ENOSPC, "No space left on device")
    one_line(error, out, "No space", "free some space")
    assert out.read_text() == "1" and [p.name for p in out.parent.iterdir()] == ["score.json"]
    stale, fresh = out.with_name(".score.aaaa.tmp.json"), out.with_name(".score.bbbb.tmp.json")
    for leftover in (stale, fresh):
        leftover.write_text("")
    os.utime(stale, (time.time() - 2 * files.STALE_SECONDS,) * 2)
    with files.atomic(out) as part:
        part.write_text("3")
    assert not stale.exists() and fresh.exists() and out.read_text() == "3"
    assert (out.stat().st_mode & 0o777) == 0o666 & ~_umask()
    for bad in (tmp_path, out / "below" / "x.h5"):
        with pytest.raises(InputError) as error:
            with files.atomic(bad):
                pass
        one_line(error, bad)


def test_a_wrong_time_of_writing_is_one_line(tmp_path, monkeypatch):
    for text in ("abc", "-1", "1e99"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(InputError) as error:
            hdf5.write(tmp_path / "x.h5", "posterior", {})
        one_line(error, "SOURCE_DATE_EPOCH", text)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    hdf5.write(tmp_path / "x.h5", "posterior", {})


def test_data_that_change_during_a_run_are_refused(tmp_path):
    """What is open stays the old file: its results must not be sealed with the new one's digest."""
    path, folder = tmp_path / "kappa.npy", hdf5.Folder(tmp_path / "out")
    path.write_bytes(b"old")
    digests = folder.digests({"kappa": path})
    assert folder.digests({"kappa": path}) == digests
    (tmp_path / "new.npy").write_bytes(b"new")
    os.replace(tmp_path / "new.npy", path)
    with pytest.raises(RunError) as error:
        folder.digests({"kappa": path})
    one_line(error, path, "changed")
    assert hdf5.Folder(tmp_path / "out").digests({"kappa": path}) != digests       # another run's


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------- reuse
def test_reusable(path, tmp_path):
    settings, inputs = hdf5.read(path).settings, {"label": "ab" * 32}
    assert hdf5.reusable(tmp_path / "none.h5", "posterior", settings, inputs, 1) is None
    for same in (settings, {**settings, "nstep": 10000.0}, {**settings, "unset": None},
                 dict(reversed(settings.items()))):
        found = hdf5.reusable(path, "posterior", same, inputs, 1)
        assert found.digest == hdf5.read(path).digest
    for other, parts in (({"sigma": 0.02}, ("sigma", "0.06", "0.02")),
                         ({"sampler": {"chains": 2}}, ("sampler.chains = 1", "chains = 2")),
                         ({"extra": True}, ("extra = none", "extra = true")),
                         ({"sampler": {"chains": True}}, ("chains = 1", "chains = true"))):
        with pytest.raises(InputError) as error:
            hdf5.reusable(path, "posterior", {**settings, **other}, inputs, 1)
        one_line(error, path, "--force", "--out", *parts)
    with pytest.raises(InputError) as error:
        hdf5.reusable(path, "posterior", settings, {"label": "cd" * 32}, 1)
    one_line(error, path, "label", "abab", "cdcd")
    with pytest.raises(InputError) as error:
        hdf5.reusable(path, "posterior", settings, inputs, 2)
    one_line(error, "seed = 1", "seed = 2")
    path.write_bytes(b"")
    with pytest.raises(InputError) as error:
        hdf5.reusable(path, "posterior", settings, inputs, 1)
    one_line(error, path, "--force")


# ---------------------------------------------------------------- shards
def make_shards(folder, count=3, **options):
    parts = np.array_split(np.arange(MAPS), count)
    return [make(folder / f"s{i}.h5", maps=part, shard=[i, count], **options)
            for i, part in enumerate(parts, 1)]


def test_merged_shards_equal_the_whole(tmp_path, path):
    paths = make_shards(tmp_path)
    whole = hdf5.read(path)
    digest = merge([paths[2], paths[0], paths[1]], tmp_path / "merged.h5")
    merged = hdf5.read(tmp_path / "merged.h5", "posterior")
    assert digest == merged.digest
    for group in whole.groups:
        for name, array in whole.groups[group].items():
            np.testing.assert_array_equal(merged.groups[group][name], array)
        for dim, array in whole.coords[group].items():
            np.testing.assert_array_equal(merged.coords[group][dim], array)
    assert merged.settings == whole.settings and digest == whole.digest


def test_merge_refuses(tmp_path, path):
    paths, out = make_shards(tmp_path), tmp_path / "merged.h5"
    other = make(tmp_path / "other.h5", seed=2, maps=np.arange(8, 12), shard=[3, 3])
    wrong_count = make(tmp_path / "count.h5", maps=np.arange(8, 12), shard=[3, 4])
    overlap = make(tmp_path / "overlap.h5", maps=np.arange(7, 12), shard=[3, 3])
    two = paths[:2]
    for given, part in (([], "none"), (two, "shards 1 to 3, each once, got 1, 2;"),
                        ([*two, paths[0]], "got 1, 2, 1;"), ([path], "no shard"),
                        ([*two, other], "seed"), ([*two, wrong_count], "shards = 4"),
                        ([*two, overlap], "map 7"), ([paths[2], other], "seed")):
        with pytest.raises(InputError) as error:
            merge(given, out)
        one_line(error, part)
        assert not out.exists()
    one_line(error, f"{paths[2]}: has seed = 1, {other} has seed = 2")    # not "given twice"


def test_merge_overwrites_only_its_own(tmp_path, path):
    """Neither a shard, nor another run's result, nor another kind of file; the same run's again."""
    paths = make_shards(tmp_path)
    before = {p: p.read_bytes() for p in (*paths, path)}
    merge(paths, path)                                         # the whole run, in one piece
    assert hdf5.read(path).digest == merge(paths, path)
    foreign = tmp_path / "foreign.h5"
    make(foreign, seed=2)
    before[foreign] = foreign.read_bytes()
    link = tmp_path / "link.h5"
    link.symlink_to(paths[1])
    joined = "shard = [2, 3]"
    for out, part in ((paths[1], joined), (link, joined), (foreign, "seed")):
        with pytest.raises(InputError) as error:
            merge(paths, out)
        one_line(error, out, part)
    assert all(p.read_bytes() == content for p, content in before.items() if p != path)


# ---------------------------------------------------------------- digests
def test_digest_array(rng):
    array = rng.normal(size=(5, 4))
    same = hdf5.digest_array(array)
    for equal in (np.asfortranarray(array), array.astype(">f8"), np.repeat(array, 2, axis=0)[::2]):
        assert hdf5.digest_array(equal) == same
    changed = array.copy()
    changed[2, 2] = np.nextafter(changed[2, 2], 9)
    others = [changed, array.reshape(4, 5), array.astype(np.float32), array.view(np.int64)]
    assert len({same, *map(hdf5.digest_array, others)}) == 5
    assert hdf5.digest_array(["a", "b"]) != hdf5.digest_array(["ab", ""])


def test_digest_file(tmp_path):
    small, content = tmp_path / "small", b"x" * 3_000_001
    small.write_bytes(content)
    want = hashlib.sha256(content).hexdigest()
    assert hdf5.digest_file(small) == want
    assert hdf5.digest_file(small, end=10) == hashlib.sha256(content[:10]).hexdigest()
    with pytest.raises(InputError) as error:
        hdf5.digest_file(tmp_path / "none")
    one_line(error, tmp_path / "none")


def test_versions_and_code_without_heavy_imports(python):
    done = python("import sys, wl.core.hdf5 as s; s.versions(), s.code_version(); "
                  "print({'torch', 'numba', 'scipy'} & set(sys.modules), "
                  "len(s.code_version().split()[0]))")
    assert done.stdout.strip() == "set() 16", done.stderr


def test_settings_that_json_cannot_hold():
    with pytest.raises((TypeError, ValueError)):
        files.to_json({"x": object()})
    with pytest.raises(ValueError):
        files.to_json({"x": float("nan")})


def test_a_stage_of_other_code_is_warned_of_and_made_again_by_force(tmp_path, monkeypatch, capsys):
    values = {"g": {"x": hdf5.Var(("n",), np.arange(3.0))}}
    hdf5.Folder(tmp_path).write("features.h5", "features", values, settings={"a": 1})

    def reuse(force):
        return hdf5.Folder(tmp_path, force=force, quiet=True).reuse("features.h5", "features",
                                                                   {"a": 1}, {})
    assert reuse(False) is not None and reuse(True) is not None
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(hdf5, "code_version", lambda: "0" * 16)
    assert reuse(False) is not None and "other code" in capsys.readouterr().err
    assert reuse(True) is None


def test_threads_write_at_once(tmp_path):
    """HDF5 holds no two files of one name open for writing, in memory neither."""
    def job(k):
        values = np.full((300, 300), k)
        hdf5.write(tmp_path / f"{k}.h5", "x", {"g": {"v": Var(("a", "b"), values)}})
        return (hdf5.read(tmp_path / f"{k}.h5").groups["g"]["v"] == k).all()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(job, range(40)))
