"""One lock per folder: its owner is named, it ends with its owner, nothing of it stays behind."""
import errno
import fcntl
import gc
import subprocess
import sys

import pytest
from conftest import ROOT, one_line

from wl.core import files, hdf5
from wl.core.checks import InputError

HOLD = ("import json, sys; sys.path.insert(0, sys.argv[1]); from wl.core.files import lock\n"
        "held = lock(sys.argv[2], json.loads(sys.argv[3])); print('held', flush=True)\n"
        "sys.stdin.read()")


@pytest.fixture()
def owner():
    """owner(folder, job) starts a process that holds the lock; they end with the test."""
    started = []

    def start(folder, job="null"):
        command = [sys.executable, "-c", HOLD, str(ROOT), str(folder), job]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_and_the_first_is_named(owner, tmp_path):
    first = owner(tmp_path / "out")
    for job in (None, {"model": "compact"}):
        with pytest.raises(InputError) as error:
            files.lock(tmp_path / "out", job)
        one_line(error, tmp_path / "out", first.pid, "is writing there", "--out")
    assert not list(tmp_path.glob("out/*.h5"))
    other = files.lock(tmp_path / "other")                          # another folder is free
    assert files.lock(tmp_path / "." / "other") is other         # and is had already


def test_a_killed_owner_leaves_neither_lock_nor_temporary_files(owner, tmp_path):
    out = tmp_path / "out"
    first = owner(out)
    (out / ".posterior.0123456789ab.tmp.h5").write_text("half")
    theirs = {"posterior.h5", ".notes.tmp", ".a.tmp.swp", ".folder.0123456789ab.tmp"}
    for name in (n for n in theirs if "folder" not in n):
        (out / name).write_text("whole")
    (out / ".folder.0123456789ab.tmp").mkdir()
    first.kill()
    first.wait()
    held = files.lock(out)
    assert {p.name for p in out.iterdir()} == {files.LOCK_FILE, *theirs}
    del held
    gc.collect()
    assert {p.name for p in out.iterdir()} == theirs


def test_folders_made_for_a_run_that_wrote_nothing_go_with_it(tmp_path):
    held = files.lock(tmp_path / "a" / "b")
    hdf5.Folder(tmp_path / "a" / "b").digests({})
    assert (tmp_path / "a" / "b").is_dir() and files.lock(tmp_path / "a" / "b") is held
    del held
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_one_run_share_a_folder_others_do_not(owner, tmp_path):
    job = {"model": "compact", "seed": 1}
    first, second = (owner(tmp_path, '{"model": "compact", "seed": 1}') for _ in range(2))
    held = files.lock(tmp_path, job)
    del held
    gc.collect()
    with pytest.raises(InputError) as error:
        files.lock(tmp_path, {"model": "compact", "seed": 2})
    one_line(error, "seed = 1", "seed = 2")
    with pytest.raises(InputError):
        files.lock(tmp_path)                                        # a whole run is none of them
    for process in (first, second):
        process.communicate("")
    assert not list(tmp_path.iterdir())                             # the last one put it away
    assert files.lock(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("job", [None, {"seed": 1}])
def test_file_systems_without_locks(tmp_path, monkeypatch, capsys, number, job):
    def refuse(*_):
        raise OSError(number, "no locks here")
    monkeypatch.setattr(fcntl, "flock", refuse)
    held = files.lock(tmp_path / "out", job)
    text = capsys.readouterr().err
    assert one_line(text.strip(), "warning", "no locks", "no second run") and held
    del held
    gc.collect()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path / "file", "/proc/out"):
        with pytest.raises(InputError) as error:
            files.lock(path)
        one_line(error, path, "--out")
