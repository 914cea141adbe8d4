"""All compiled code: arrays in, arrays out. kernels/X is the compiled half of ROOM/X.

In come NumPy arrays that were checked at the border, NamedTuples of them, and the number of a
random stream (core/seeds.py). Out go arrays, which are returned or filled in place. Nothing here
reads a file, knows an option or checks an input: a wrong index is not noticed.

In Python:

    import numpy as np; from wl.kernels.noise import normal, seed_state
    state = np.empty(4, np.uint64); seed_state(state, 12, 3, 0)
    print(normal(state))

A kernel is decorated by njit() of this file, never by Numba's own. Numba's cache looks only at the
file of the function itself: a change in a callee or constant in another file leaves a stale binary,
silently. The cache folder therefore carries a digest of all sources of this room.
"""
import hashlib
import os
import pathlib
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numba


def _cache_folder():
    here = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(here.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    asked = os.environ.get("NUMBA_CACHE_DIR")
    homes = [pathlib.Path(asked)] if asked else []
    homes += [here / "__pycache__", pathlib.Path.home() / ".cache" / "wl",
              pathlib.Path(tempfile.gettempdir()) / f"wl-cache-{os.getuid()}"]
    for home in homes:
        try:
            folder = home / f"wl-{digest.hexdigest()[:16]}"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return str(folder)
        except OSError:
            continue
    return tempfile.mkdtemp(prefix="wl-cache-")


CACHE_FOLDER = _cache_folder()


def njit(**options):
    """numba.njit(**options), a decorator whose compiled code is kept in CACHE_FOLDER."""
    def decorate(function):
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = CACHE_FOLDER          # read while a function is decorated
        try:
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before
    return decorate


def on_threads(call, n: int, step: int = 1) -> None:
    """Call call(slice) for parts of 0 ... n - 1 on numba.get_num_threads() threads.

    call: runs a kernel that is compiled with nogil=True; as a parallel region of Numba's it took
        twice as long to compile. step: int, what the parts are multiples of.
    """
    threads = 1 if numba.config.DISABLE_JIT else numba.get_num_threads()
    size = max(-(-n // (threads * step)), 1) * step
    parts = [slice(k, min(k + size, n)) for k in range(0, n, size)]
    with ThreadPoolExecutor(threads) as pool:
        list((pool.map if len(parts) > 1 else map)(call, parts))
