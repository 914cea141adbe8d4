"""Files that are there whole or not at all; digests, versions and settings of what made them."""
import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import secrets
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator

import numpy as np

from .. import __version__
from .checks import InputError, RunError
from .progress import Stopped, program, saving, warn

PACKAGES = ("numpy", "scipy", "numba", "torch", "h5py")
STALE_SECONDS = 3600.0         # age of a temporary file that a killed run left
LOCK_FILE, LOCK_TRIES = ".lock", 30
# errors of file systems without locks
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def atomic(path) -> Iterator[pathlib.Path]:
    """A temporary path beside a file, whose place it takes when the block ends without an error.

    The suffix stays. Raises InputError for an unusable folder, RunError when the disk fails.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file is to be written there; give another --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
            with contextlib.suppress(OSError):     # somebody else removed it, or it is not ours
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink()
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise unusable(path, "written", error) from None
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror or error}); free some space "
                       "or give another --out") from None
    finally:
        temporary.unlink(missing_ok=True)


class Lock:
    """What keeps other runs out of a folder, until it is dropped or the process ends, however."""


_locks = weakref.WeakValueDictionary()      # by folder, of this process


def lock(folder, job: dict | None = None) -> Lock:
    """Keep other runs out of a folder, made if need be, for as long as the result is kept.

    Nothing is left of an ended run: no lock, no half of a killed write, no folder that stays empty.
    job: JSON values that say which run this is a job of; those share it. InputError names the owner
    """
    folder = pathlib.Path(os.path.realpath(folder))
    held, path = _locks.get(folder) or Lock(), folder / LOCK_FILE
    if folder in _locks:
        return held
    try:
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(LOCK_TRIES):
            handle, taken = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
            try:
                if taken := _take(handle, path, job):
                    break
            finally:
                if not taken:
                    os.close(handle)
            time.sleep(0.1)                         # until the first of several jobs has signed
        else:
            raise _in_use(path)
    except OSError as error:
        raise unusable(folder, "used", error) from None
    weakref.finalize(held, _release, handle, path, made, os.getpid())
    _locks[folder] = held
    return held


def _take(handle, path, job):
    """Sign the lock's file if it is to be had, alone or shared by jobs; whether it was."""
    if (free := _flock(handle, fcntl.LOCK_EX)) is None:
        warn(f"{path.parent}: its file system has no locks: start no second run in it")
        return True
    if not free and job is None:
        raise _in_use(path)
    if not free:
        if shared := _flock(handle, fcntl.LOCK_SH):
            refuse_difference(f"{path.parent}: another job of it runs with",
                              read_json(path).get("job"), job, "wait for it, or give another --out")
        return shared
    if not _is_at(handle, path):                    # its owner has just removed it
        return False
    for old in path.parent.glob(".*.tmp*"):         # of killed writes, see atomic()
        if re.fullmatch(r"\..*\.[0-9a-f]{12}\.tmp(\..*)?", old.name) and old.is_file():
            old.unlink(missing_ok=True)
    os.ftruncate(handle, 0)
    os.pwrite(handle, to_json({"process": os.getpid(), "host": platform.node(), "job": job,
                               "command": " ".join([program(), *sys.argv[1:]])}).encode(), 0)
    if job is not None:
        fcntl.flock(handle, fcntl.LOCK_SH)
    return True


def _flock(handle, kind):
    """Whether a lock was free, None where the file system has none."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if not isinstance(error, BlockingIOError):
            raise
        return False


def read_json(path: pathlib.Path) -> dict:
    """The object that a JSON file holds, {} for a file that is missing, damaged or another."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text()))
    return {}


def _in_use(path):
    process, host, command = (read_json(path).get(n, "?") for n in ("process", "host", "command"))
    return InputError(f"{path.parent}: process {process} on {host} is writing there "
                      f"({command[:120]}); wait for it, or give another --out")


def _is_at(handle, path):
    return path.exists() and os.path.samestat(os.fstat(handle), os.stat(path))


def _release(handle, path, made, process):
    """Remove a lock that nobody shares any more, and folders that were made for nothing."""
    if os.getpid() != process:                      # a child has the handle too
        return
    # closed whatever happens; an exception of a signal would be printed and dropped here
    with contextlib.suppress(OSError, Stopped), saving(), open(handle, "w"):
        if _flock(handle, fcntl.LOCK_EX) is False:
            return
        if _is_at(handle, path):
            path.unlink()
        if made and {p.name for p in made[0].iterdir()} == {"inputs.json"}:
            (made[0] / "inputs.json").unlink()
        for folder in made:
            folder.rmdir()


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:                      # some network file systems refuse fsync on a folder
        if not os.path.isdir(path):
            raise
    finally:
        os.close(handle)


def digest_array(array) -> str:
    """sha256 (hex) of an array: of type, shape and values, whatever their order in memory."""
    array = np.asarray(array)
    if array.dtype.kind in "OU":
        head, body = "str", json.dumps([str(x) for x in array.ravel()]).encode()
    else:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        head, body = little.dtype.str, little.reshape(-1).view(np.uint8)
    digest = hashlib.sha256(f"{head}{list(array.shape)}".encode())
    digest.update(body)
    return digest.hexdigest()


def digest_file(path, end: int | None = None) -> str:
    """sha256 (hex) of a file, or of its first `end` bytes. InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size if end is None else end
            while block := stream.read(min(1 << 20, size - stream.tell())):
                digest.update(block)
    except OSError as error:
        raise unusable(path, "read", error) from None
    return digest.hexdigest()


def unusable(path, what: str, error: OSError) -> InputError:
    """The error of a path that cannot be read, written or used (what)."""
    advice = "check the path" if what == "read" else "give another --out"
    return InputError(f"{path}: cannot be {what} ({error.strerror}); {advice}")


@functools.cache
def code_version() -> str:
    """sha256 (16 hex digits) of the sources of wl, with `git describe` behind it in a clone."""
    here, digest = pathlib.Path(__file__).parent.parent, hashlib.sha256()
    for source in sorted(here.rglob("*.py")):
        digest.update(source.relative_to(here).as_posix().encode() + b"\0" + source.read_bytes())
    text, git = digest.hexdigest()[:16], (here.parent / ".git").exists()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "--no-optional-locks", "describe", "--always", "--dirty"]
        text += " " + subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=5.0,
                                     check=True).stdout.strip() if git else ""
    return text


@functools.cache
def versions() -> dict:
    """{package: version} of Python, wl and the packages it stands on; imports none of them."""
    found = {"python": platform.python_version(), "wl": __version__}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cpu() -> str | None:
    """Instructions that torch computes by: others move a prediction. None without torch."""
    torch = sys.modules.get("torch")
    return torch and torch.backends.cpu.get_cpu_capability()


def to_json(value) -> str:
    """JSON text with sorted keys; NumPy scalars, arrays, paths and tuples become plain values."""
    return json.dumps(value, sort_keys=True, allow_nan=False, default=lambda it: (
        it.tolist() if isinstance(it, (np.generic, np.ndarray)) else os.fspath(it)))


def write_json(path, content) -> None:
    """Write a value as to_json() has it, indented, whole or not at all."""
    with atomic(path) as part:
        part.write_text(json.dumps(json.loads(to_json(content)), indent=1, sort_keys=True) + "\n")


def first_difference(before, now, name: str = "") -> tuple | None:
    """The first difference of two JSON values: (dotted name, before, now), None if equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        each = (first_difference(before.get(key), now.get(key), f"{name}.{key}" if name else key)
                for key in sorted({*before, *now}))
        return next(filter(None, each), None)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        differ = any(map(first_difference, before, now))
    else:
        differ = before != now or isinstance(before, bool) != isinstance(now, bool)
    return (name, before, now) if differ else None


def refuse_difference(start: str, before, now, end: str = "give --force to overwrite it, or "
                      "another --out", other: str = "this run") -> None:
    """InputError "START name = before, OTHER has name = now; END" if the JSON values differ."""
    if found := first_difference(before, json.loads(to_json(now))):
        name, *both = found
        old, new = (text if len(text) <= 80 else text[:77] + "..." for text in
                    ("none" if value is None else to_json(value) for value in both))
        raise InputError(f"{start} {name} = {old}, {other} has {name} = {new}; {end}")
