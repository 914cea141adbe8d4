"""All compiled code: arrays in, arrays out. A loop over maps, chains or pixels goes here.

In come NumPy arrays that were checked by the caller, NamedTuples of them, and the number of a
random stream (core/seeds.py). Out go arrays, returned or filled in place. Nothing here reads a
file, knows an option or checks an input: indices are not checked. In Python:

    import numpy as np; from wl.kernels.noise import normal, seed_state
    state = np.empty(4, np.uint64); seed_state(state, 12, 3, 0)
    print(normal(state))

A kernel is decorated by njit() of this file: the cache of Numba's own sees no change in another
file. Here the cache folder carries a digest of all sources of the room. Loading compiled code runs
it: the folder has to be the user's own, and each file carries a digest of its content, as a cut one
once crashed a process. Without such a folder, or on a full disk, every process compiles.
"""
import contextlib
import hashlib
import os
import pathlib
import pickle
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numba
from numba.core.serialize import dumps


def _cache_folder():
    """The first folder that can be written and belongs to nobody else, None if there is none."""
    here, digest = pathlib.Path(__file__).parent, hashlib.sha256(numba.__version__.encode())
    for source in sorted(here.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    homes = [*map(pathlib.Path, filter(None, [os.environ.get("NUMBA_CACHE_DIR")])),
             here / "__pycache__"]
    with contextlib.suppress(RuntimeError):              # no HOME and no entry in passwd
        homes.append(pathlib.Path.home() / ".cache" / "wl")
    with contextlib.suppress(OSError):                   # the temporary folder's disk is full
        homes.append(pathlib.Path(tempfile.gettempdir()) / f"wl-cache-{os.getuid()}")
    for home in homes:
        with contextlib.suppress(OSError):
            folder = home / f"wl-{digest.hexdigest()[:16]}"
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            # only this user and root can put a file there, or (sticky bit) replace the folder
            found = home.stat(), folder.stat(), home.lstat(), folder.lstat()
            others = any(part.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for part in found[:2])
            if {part.st_uid for part in found} <= {os.getuid(), 0} and not others:
                with tempfile.TemporaryFile(dir=folder):
                    return str(folder)
    return None


class _Sealed:
    """Numba's store of one function's compiled code, a file for each signature and kind of CPU."""

    def __init__(self, start):
        self.start = start

    def _path(self, key):
        return f"{self.start}-{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.bin"

    def load(self, key):
        """What save() kept under a key, None where that is missing or damaged."""
        with contextlib.suppress(OSError):
            content = pathlib.Path(self._path(key)).read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return pickle.loads(content[32:])

    def save(self, key, data):
        """Keep compiled code if the disk takes it; another process sees all of it or nothing."""
        content, path = dumps(data), self._path(key)
        part = pathlib.Path(f"{path}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            try:
                part.write_bytes(hashlib.sha256(content).digest() + content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


CACHE_FOLDER = _cache_folder()


def njit(**options):
    """numba.njit(**options), a decorator whose compiled code is kept in CACHE_FOLDER.

    Division as NumPy's: Python's checks for zero keep loops from being vectorised. The lock of the
    interpreter is released. Nothing is compiled for callers in C, a twentieth of the time.
    """
    options = {"error_model": "numpy", "nogil": True, "cache": CACHE_FOLDER is not None,
               "no_cfunc_wrapper": True, **options}
    def decorate(function):
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = CACHE_FOLDER or before      # read while a function is made
        try:
            made = numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before
        if options["cache"] and not numba.config.DISABLE_JIT:
            name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
            made._cache._cache_file = _Sealed(f"{CACHE_FOLDER}/{name}")
        return made
    return decorate


def threads() -> int:
    """Threads that kernels run on, as numba.set_num_threads() has them."""
    try:
        return 1 if numba.config.DISABLE_JIT else numba.get_num_threads()
    except ValueError:         # NUMBA_THREADING_LAYER names one that is not installed: another
        numba.config.THREADING_LAYER = "default"
        return numba.get_num_threads()


def on_threads(call, n: int, step: int = 1) -> None:
    """Call call(slice) for parts of 0 ... n - 1, multiples of step, on threads() threads.

    call: runs a kernel that is compiled with nogil=True: parallel regions compile twice as long.
    """
    count = threads()
    size = max(-(-n // (count * step)), 1) * step
    parts = [slice(k, min(k + size, n)) for k in range(0, n, size)]
    with ThreadPoolExecutor(count) as pool:
        list((pool.map if len(parts) > 1 else map)(call, parts))
