"""Data sets: layout, reproducibility, resuming, refusals. Small masks, real processes."""
import errno
import fcntl
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, one_line

from wl.simulate import simulate as module
from wl.core.checks import InputError, RunError
from wl.maps.dataset import TEST_FILE, TRUTH_FILE
from wl.simulate.fields import Grid
from wl.simulate.plan import KAPPA_FILE, LABEL_FILE, Plan, SimulationOptions, design
from wl.simulate.simulate import FILES, simulate
from wl.simulate.theory import Theory
from wl.maps.dataset import UNFINISHED, open_set
from wl.core.params import DELTA_Z_SIGMA, FILE_PREFIX, noise_sigma

SMALL_SIZES = dict(cosmologies=4, realisations=2, test=4)
SMALL = dict(cosmologies=4, realisations=5, test=7, unseen=3, processes=1, quiet=True)


@pytest.fixture(scope="module")
def small(mask_file, tmp_path_factory):
    """A finished small set."""
    out = tmp_path_factory.mktemp("set") / "small"
    assert simulate(out, mask=mask_file, **SMALL) is True
    return out


def same_files(a, b):
    """The same bytes in all arrays, the same settings and digests."""
    proof = [json.loads((folder / "simulation.json").read_text()) for folder in (a, b)]
    return (all((a / name).read_bytes() == (b / name).read_bytes()
                for name in FILES if name.endswith(".npy"))
            and all(proof[0][key] == proof[1][key] for key in ("settings", "inputs", "seed")))


def test_layout_is_the_public_one(small, mask_file):
    assert sorted(p.name for p in small.iterdir()) == sorted(FILES)
    data = open_set(small)
    mask = np.load(mask_file)
    assert np.array_equal(data.mask, mask)
    assert data.kappa.shape == (4, 5, mask.sum()) and data.kappa.dtype == np.float16
    assert data.label.shape == (4, 5, 5) and data.label.dtype == np.float64
    assert data.noisy_test.shape == (10, mask.sum()) and data.noisy_test.dtype == np.float16
    truth = np.load(small / TRUTH_FILE)
    assert truth.shape == (10, 5) and truth.dtype == np.float64
    assert KAPPA_FILE == f"{FILE_PREFIX}_kappa.npy"
    proof = json.loads((small / "simulation.json").read_text())
    assert proof["settings"]["realisations"] == 5 and proof["seed"] == 1
    assert len(
        proof["inputs"]["mask"]) == 64 and proof["versions"]["numpy"] and proof["code_version"]
    assert np.isfinite(data.kappa).all() and np.isfinite(data.noisy_test).all()


def test_test_maps_on_and_off_the_design(small):
    theta, truth = np.load(small / LABEL_FILE)[:, 0, :2], np.load(small / TRUTH_FILE)
    distance = np.abs(truth[:, None, :2] - theta).max(axis=2).min(axis=1)
    assert np.all(distance[:7] == 0.0) and np.all(distance[7:] > 1e-6)


def test_nuisances_differ_between_maps(small):
    label = np.load(small / LABEL_FILE)
    assert len(np.unique(label[:, :, 2])) == 20
    assert np.all((label[..., 2] >= 7.2) & (label[..., 2] <= 8.5))
    assert np.all((label[..., 3] >= 0.0) & (label[..., 3] <= 0.0265))
    assert np.abs(label[..., 4]).max() < 6 * DELTA_Z_SIGMA


def test_same_bytes_for_any_number_of_processes(small, mask_file, tmp_path):
    simulate(tmp_path / "two", mask=mask_file, **{**SMALL, "processes": 2})
    assert same_files(small, tmp_path / "two")


def test_a_write_that_takes_only_a_part_is_gone_on_with(mask_file, tmp_path, monkeypatch):
    """As on a disk that is nearly full: the kernel takes some bytes without an error."""
    class Short(io.FileIO):
        def write(self, data):
            return super().write(memoryview(data)[:max(1, len(data) // 2)])

    def opened(path, mode, buffering=-1):
        return Short(path, "r+") if buffering == 0 else io.BufferedRandom(Short(path, "r+"))
    mask = np.load(mask_file)
    monkeypatch.setattr(module, "_worker", {"mask": mask, "options": SimulationOptions()})
    for name in ("whole", "short"):
        if name == "short":
            monkeypatch.setattr(module, "open", opened, raising=False)
        np.lib.format.open_memmap(tmp_path / name, "w+", np.dtype("<f2"), (2, int(mask.sum())))
        module.write_maps(tmp_path / name, [0, 1], np.tile([0.3, 0.8, 7.8, 0.01, 0.0], (2, 1)),
                          [(1, 0, 0), (1, 0, 1)], 0.0)
    assert (tmp_path / "short").read_bytes() == (tmp_path / "whole").read_bytes()


def test_another_seed_gives_other_maps_and_a_longer_run_the_same(small, mask_file, tmp_path):
    simulate(tmp_path / "seed", mask=mask_file, **{**SMALL, "seed": 2})
    assert not np.array_equal(np.load(tmp_path / "seed" / KAPPA_FILE), np.load(small / KAPPA_FILE))
    simulate(tmp_path / "more", mask=mask_file, **{**SMALL, "realisations": 8, "test": 9})
    assert np.array_equal(
        np.load(tmp_path / "more" / KAPPA_FILE)[:, :5], np.load(small / KAPPA_FILE))
    assert np.array_equal(
        np.load(tmp_path / "more" / TEST_FILE)[:7],
        np.load(small / TEST_FILE)[:7])


def test_maps_of_a_set_are_independent(small):
    kappa = np.load(small / KAPPA_FILE).astype(float).reshape(20, -1)
    correlation = np.corrcoef(kappa) - np.eye(20)
    # cosmic variance of a field of one square degree
    assert np.abs(correlation).max() < 0.6
    assert abs(correlation.sum() / 380) < 0.05


def test_noise_is_added_once_with_the_right_level(mask_file, tmp_path):
    simulate(tmp_path / "a", mask=mask_file, **{**SMALL, "test": 40, "unseen": 0})
    simulate(tmp_path / "b", mask=mask_file, n_gal=1e6, **{**SMALL, "test": 40, "unseen": 0})
    noise = np.load(tmp_path / "a" / TEST_FILE).astype(float) - np.load(tmp_path / "b" / TEST_FILE)
    assert noise.std() == pytest.approx(noise_sigma(), rel=0.01)
    assert noise_sigma() == pytest.approx(0.025820, rel=1e-4)
    assert abs(noise.mean()) < 5 * noise_sigma() / np.sqrt(noise.size)
    assert np.abs(np.corrcoef(noise) - np.eye(40)).max() < 0.15
    assert np.array_equal(np.load(tmp_path / "a" / KAPPA_FILE),
                          np.load(tmp_path / "b" / KAPPA_FILE))


def test_gaussian_field_has_the_same_spectrum_and_no_skewness(small, mask_file, tmp_path):
    simulate(tmp_path / "g", mask=mask_file, field="gaussian", **SMALL)
    maps = {"g": np.load(tmp_path / "g" / KAPPA_FILE).astype(float),
            "l": np.load(small / KAPPA_FILE).astype(float)}
    skewness = {k: np.mean([np.mean((m - m.mean())**3) / m.std()**3 for m in v.reshape(20, -1)])
                for k, v in maps.items()}
    assert abs(skewness["g"]) < 0.15 and skewness["l"] > 1.0
    assert maps["g"].std() == pytest.approx(maps["l"].std(), rel=0.15)


def test_a_complete_set_is_left_alone(small, mask_file):
    before = {p.name: p.stat().st_mtime_ns for p in small.iterdir()}
    assert simulate(small, mask=mask_file, **SMALL) is False
    assert {p.name: p.stat().st_mtime_ns for p in small.iterdir()} == before


@pytest.mark.parametrize("change, values",
                         [({"seed": 2}, ("seed = 1", "asked for 2")),
                          ({"field": "gaussian"}, ("field = lognormal", "gaussian")),
                          ({"realisations": 6}, ("realisations = 5", "6"))])
def test_other_settings_are_refused_with_both_values(small, mask_file, change, values):
    with pytest.raises(InputError) as error:
        simulate(small, mask=mask_file, **{**SMALL, **change})
    one_line(error, *values, "--force")


def test_force_replaces_a_simulated_set_and_only_that(small, mask_file, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(small, out)
    assert simulate(out, mask=mask_file, force=True, **{**SMALL, "seed": 3, "test": 0,
                                                        "unseen": 0}) is True
    assert not (out / TEST_FILE).exists() and not (out / TRUTH_FILE).exists()
    assert json.loads((out / "simulation.json").read_text())["settings"]["seed"] == 3
    foreign = tmp_path / "public"
    foreign.mkdir()
    np.save(foreign / LABEL_FILE, np.zeros(3))
    with pytest.raises(InputError, match="stays untouched"):
        simulate(foreign, mask=mask_file, force=True, **SMALL)
    assert [p.name for p in foreign.iterdir()] == [LABEL_FILE]


def test_a_set_with_a_file_gone_is_not_complete(small, mask_file, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(small, out)
    (out / TEST_FILE).unlink()
    with pytest.raises(InputError) as error:
        simulate(out, mask=mask_file, **SMALL)
    one_line(error, TEST_FILE, "--force")
    assert simulate(out, mask=mask_file, force=True, **SMALL) is True
    assert same_files(out, small)


def test_labels_of_a_design_file_are_used(mask_file, tmp_path):
    label = np.empty((5, 6, 5))
    label[:, :, :2] = design(5)[:, None]
    label[:, :, 2:] = np.column_stack([np.linspace(*limits, 6)
                                       for limits in ((7.3, 8.4), (0.0, 0.02), (-0.04, 0.04))])
    np.save(tmp_path / "label.npy", label)
    options = dict(mask=mask_file, design=tmp_path / "label.npy", test=2, processes=1, quiet=True)
    simulate(tmp_path / "part", cosmologies=3, realisations=4, **options)
    assert np.array_equal(np.load(tmp_path / "part" / LABEL_FILE), label[:3, :4])
    whole = Plan(SimulationOptions(mask=mask_file, design=tmp_path / "label.npy", test=2))
    assert np.array_equal(whole.label, label)
    with pytest.raises(InputError, match="at most 6"):
        simulate(tmp_path / "x", realisations=7, **options)
    with pytest.raises(InputError, match="at most 5"):
        simulate(tmp_path / "x", cosmologies=6, **options)
    np.save(tmp_path / "theta.npy", design(5))
    plan = Plan(SimulationOptions(realisations=3, test=0, mask=mask_file,
                                   design=tmp_path / "theta.npy"))
    assert np.array_equal(plan.label[:, 0, :2], design(5)) and len(np.unique(plan.label[...,
                                                                                        2])) == 15


def spoil(label, kind):
    label = label.copy()
    if kind == "nan":
        label[1, 1, 2] = np.nan
    elif kind == "differs":
        label[1, 1, 0] += 0.01
    elif kind == "range":
        label[1, 1, 3] = 0.5
    elif kind == "columns":
        label = label[..., :4]
    elif kind == "omega":
        label[1, :, 0] = 0.01
    return label


@pytest.mark.parametrize("kind, word", [("nan", "finite"), ("differs", "cosmology 1"),
                                        ("range", "f_0"), ("columns", "shape"),
                                        ("omega", "Omega_m")])
def test_spoilt_designs_are_refused(mask_file, tmp_path, kind, word):
    label = np.empty((3, 2, 5))
    label[:, :, :2], label[:, :, 2:] = design(3)[:, None], (7.8, 0.01, 0.0)
    np.save(tmp_path / "label.npy", spoil(label, kind))
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", mask=mask_file, design=tmp_path / "label.npy", quiet=True)
    one_line(error, word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mask, word", [(np.ones((4, 4)), "dtype"),
                                        (np.zeros((4, 4), bool), "observed"),
                                        (np.ones(9, bool), "shape"),
                                        (np.ones((4000, 4000), bool), "2000")])
def test_spoilt_masks_are_refused(tmp_path, mask, word):
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", mask=tmp_path / "mask.npy", **SMALL)
    one_line(error, word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, word", [({"mask": "absent.npy"}, "absent.npy"),
                                          ({"design": "absent.npy"}, "absent"),
                                          ({"field": "cauchy"}, "lognormal"),
                                          ({"nuisances": "some"}, "--nuisances"),
                                          ({"cosmologies": 2}, "3")])
def test_wrong_settings_are_refused(mask_file, tmp_path, change, word):
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", **{"mask": mask_file, **SMALL, **change})
    one_line(error, word)
    assert not (tmp_path / "out").exists()


def test_too_little_disk_is_said_before_the_start(mask_file, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", mask=mask_file, **SMALL)
    one_line(error, "GB", "free")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [{"realisations": 10**9}, {"cosmologies": 10**9}, {"test": 10**9}, {"unseen": 10**12}])
def test_far_too_many_maps_are_refused_before_their_labels_are_drawn(mask_file, tmp_path, change):
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", **{"mask": mask_file, **SMALL, **change})
    one_line(error, "GB", "free", "fewer")
    assert not (tmp_path / "out").exists()


def test_a_complete_set_needs_no_room(small, mask_file, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert simulate(small, mask=mask_file, **SMALL) is False


def command(out, mask_file, *more):
    return [
        sys.executable, "-m", "wl.simulate", "--out",
        str(out), "--mask",
        str(mask_file), "--processes", "1", *map(str, more)
    ]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_command_line(mask_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dict(capture_output=True, text=True, env=environment(), cwd=tmp_path)
    line = command("set", mask_file, "--cosmologies", 3, "--realisations", 2, "--test", 2)
    first = subprocess.run(line, **run)
    assert first.returncode == 0, first.stderr
    assert "complete" in first.stdout and "simulate" in first.stderr
    again = module.main([*line[3:], "--quiet"])
    assert again is None and "nothing to do" in capsys.readouterr().out
    wrong = subprocess.run([*line, "--seed", "9"], **run)
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.strip().count("\n") == 0
    assert "seed = 1" in wrong.stderr
    with pytest.raises(SystemExit) as end:
        module.main([*line[3:], "--field", "cauchy"])
    assert end.value.code == 2 and capsys.readouterr().err.strip().count("\n") == 0
    help_text = module.parser().format_help()
    for word in ("512", "lognormal", "arcminute", "priors", KAPPA_FILE):
        assert word in help_text


def listen():
    """Hear SIGINT, which children of a job in the background are born deaf to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def whole(mask_file, tmp_path_factory):
    """What the killed runs have to come to."""
    out = tmp_path_factory.mktemp("set") / "whole"
    simulate(out, cosmologies=12, realisations=32, test=10, mask=mask_file, processes=2, quiet=True)
    return out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_nothing_complete_and_goes_on(mask_file, whole, tmp_path, how):
    size = ("--cosmologies", 12, "--realisations", 32, "--test", 10, "--quiet")
    out = tmp_path / "set"
    process = subprocess.Popen(command(out, mask_file,
                                       *size), env=environment(), stderr=subprocess.PIPE, text=True,
                               stdin=subprocess.DEVNULL, preexec_fn=listen)
    done = out / ".unfinished" / "done"
    limit = time.monotonic() + 60
    while not (done.exists() and done.read_text().count("\n") >= 3) and time.monotonic() < limit:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(how)
    message = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "Traceback" not in message
    assert [p.name for p in out.iterdir()] == [".unfinished"]
    assert not any(name in FILES for name in os.listdir(out / ".unfinished"))
    with pytest.raises(InputError):
        open_set(out)
    finished = done.read_text().split("\n")[:-1]
    assert 3 <= len(finished) < 18
    # spoil a finished task's first map: if it were done again, the mark would vanish
    part = out / ".unfinished" / (KAPPA_FILE + ".part")
    maps = np.load(part, mmap_mode="r+")
    index = int(next(name for name in finished if name.startswith("train")).split()[1])
    keep = maps[index, 0].copy()
    maps[index, 0] = 7.0
    maps.flush()
    del maps
    same = dict(cosmologies=12, realisations=32, test=10, mask=mask_file, processes=1, quiet=True)
    with pytest.raises(InputError, match="seed"):
        simulate(out, seed=2, **same)
    assert simulate(out, **same) is True
    maps = np.load(out / KAPPA_FILE, mmap_mode="r+")
    assert np.all(maps[index, 0] == 7.0)
    maps[index, 0] = keep
    maps.flush()
    assert same_files(out, whole)


def killed_at(moves, out, mask_file, monkeypatch):
    """Simulate into `out`, killed at the first of the moves, a function of the target, that is
    true."""
    replace = os.replace

    def until(source, target):
        if moves(os.fspath(target)):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", until)
        with pytest.raises(KeyboardInterrupt):
            simulate(out, mask=mask_file, **SMALL)


def test_killed_while_moving_into_place(small, mask_file, tmp_path, monkeypatch):
    out, moved = tmp_path / "set", []

    def third(target):
        if target.startswith(os.fspath(out)) and ".unfinished" not in target:
            moved.append(target)
        return len(moved) == 3

    killed_at(third, out, mask_file, monkeypatch)
    assert not (out / KAPPA_FILE).exists()
    assert simulate(out, mask=mask_file, **SMALL) is True
    assert same_files(out, small) and sorted(p.name for p in out.iterdir()) == sorted(FILES)


def test_killed_before_the_last_file_moved(small, mask_file, tmp_path, monkeypatch):
    """All maps in place, simulation.json not: no reader takes it, the same command completes it."""
    out = tmp_path / "set"
    killed_at(lambda target: target == os.fspath(out / "simulation.json"), out, mask_file,
    monkeypatch)
    assert (out / KAPPA_FILE).exists()
    with pytest.raises(InputError) as error:
        open_set(out)
    one_line(error, "interrupted", "repeat the command")
    monkeypatch.delattr(module, "_run")                              # no map is drawn again
    assert simulate(out, mask=mask_file, **SMALL) is True and same_files(out, small)
    assert open_set(out).changed() == []


def test_a_full_disk_is_one_line(mask_file, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "sys.argv = ['simulate'] + sys.argv[1:]; from wl.core import cli; "
        "from wl.simulate import simulate; cli.run(simulate.main)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *command(tmp_path / "set", mask_file, "--quiet")[3:]],
        env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and len(run.stderr.strip().split("\n")) == 1, run.stderr
    assert "same command again" in run.stderr
    assert not any((tmp_path / "set").glob("*.npy"))


def test_a_dead_worker_is_one_line(mask_file, tmp_path, monkeypatch):
    pool = module.concurrent.futures.ProcessPoolExecutor
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda self, function, *arguments: submit(self, os._exit,
    3))
    with pytest.raises(RunError) as error:
        simulate(tmp_path / "set", mask=mask_file, **SMALL)
    one_line(error, "worker", "again")
    assert not (tmp_path / "set" / KAPPA_FILE).exists()


def test_other_code_begins_again(mask_file, tmp_path, monkeypatch):
    tmp_path = tmp_path / UNFINISHED
    tmp_path.mkdir()
    plan = Plan(SimulationOptions(cosmologies=3, realisations=2, test=0, mask=mask_file))
    assert module.prepare(tmp_path, plan, False) == set()
    # the second line was cut off by a kill
    (tmp_path / "done").write_text("train 0\ntrain")
    assert module.prepare(tmp_path, plan, False) == {"train 0"}
    monkeypatch.setattr(module, "code_version", lambda: "another")
    (tmp_path.parent / KAPPA_FILE).write_text("of the other code, in its place already")
    (tmp_path / "simulation.json").write_text("{}")
    assert module.prepare(tmp_path, plan, False) == set()
    assert (tmp_path / "done").read_text() == "" and not (tmp_path.parent / KAPPA_FILE).exists()


@pytest.mark.parametrize("name, damage", [
    ("done", pathlib.Path.unlink), (KAPPA_FILE + ".part", pathlib.Path.unlink),
    (KAPPA_FILE + ".part", lambda path: os.truncate(path, 0)),
    (TEST_FILE + ".part", lambda path: os.truncate(path, path.stat().st_size // 2)),
    ("none of them", str)])
def test_an_unfinished_set_with_damaged_files_is_begun_anew(mask_file, tmp_path, name, damage,
                                                             capsys):
    part = tmp_path / "set" / UNFINISHED
    plan = Plan(SimulationOptions(mask=mask_file, **SMALL_SIZES))
    part.mkdir(parents=True)
    module.prepare(part, plan, False)
    (part / "done").write_text("train 0\ntest 0\n")                 # whose maps are all 0 as yet
    damage(part / name)
    simulate(tmp_path / "set", mask=mask_file, processes=1, quiet=True, **SMALL_SIZES)
    assert ("drawn again" in capsys.readouterr().err) == (name != "none of them")
    kappa = np.load(tmp_path / "set" / KAPPA_FILE)
    assert kappa[0].any() == (name != "none of them") and kappa[1:].any(axis=2).all()


def test_an_error_of_the_moment_loses_no_map(mask_file, tmp_path, monkeypatch):
    """As of memory or of a network's disk: the folder is whole, and the same command goes on."""
    part, plan = tmp_path / UNFINISHED, Plan(SimulationOptions(mask=mask_file, **SMALL_SIZES))
    part.mkdir()
    module.prepare(part, plan, False)
    (part / "done").write_text("train 0\n")
    def refuse(*words, **more):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    with monkeypatch.context() as patch:
        patch.setattr(module.np, "load", refuse)
        with pytest.raises(OSError):
            module.prepare(part, plan, False)
    assert module.prepare(part, plan, False) == {"train 0"}


def test_two_runs_do_not_share_a_folder(mask_file, tmp_path):
    (tmp_path / "set" / UNFINISHED).mkdir(parents=True)
    with open(tmp_path / "set" / UNFINISHED / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)                           # as another process has it
        with pytest.raises(InputError) as error:
            simulate(tmp_path / "set", mask=mask_file, **SMALL)
    one_line(error, "is writing there")
    assert simulate(tmp_path / "set", mask=mask_file, **SMALL) is True


def test_a_script_without_a_main_guard_may_simulate(mask_file, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"from wl.simulate.simulate import simulate\nprint(simulate({str(tmp_path / 'set')!r}, "
        f"mask={str(mask_file)!r}, cosmologies=3, realisations=2, test=0, quiet=True))\n")
    run = subprocess.run([sys.executable, str(script)], env=environment(), capture_output=True,
                         text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "True\n", "")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are listed by way of /proc")
def test_workers_end_with_their_parent(mask_file, tmp_path):
    line = command(tmp_path / "set", mask_file, "--cosmologies", 200, "--realisations", 200,
                   "--quiet")
    process = subprocess.Popen(line, env=environment(), start_new_session=True)
    group, limit = process.pid, time.monotonic() + 30

    def members():
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:                         # it ended while we looked
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.parent.name))
        return found

    while len(members()) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    process.kill()
    process.wait()
    limit = time.monotonic() + 20
    while members() and time.monotonic() < limit:
        time.sleep(0.05)
    assert members() == []


def rms_of_the_pixels(plan):
    """Root mean square of kappa over the maps of a plan, from their spectra."""
    grid = Grid(plan.mask)
    variance = [
        grid.variance(power) for label in plan.label for power in grid.pixel_power(
            Theory(*label[0, :2], plan.options.sky).table(grid.ell)(*label[:, 2:].T))
    ]
    return np.sqrt(np.mean(variance) + 0.5 * plan.options.pixel_scatter)


def test_rms_over_the_design():
    """0.01137 +- 2 % over the challenge's cosmologies and nuisances (real maps)."""
    plan = Plan(SimulationOptions(realisations=1, test=0))
    assert rms_of_the_pixels(plan) == pytest.approx(0.01137, rel=0.02)
