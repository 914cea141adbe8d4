"""All compiled code: arrays in, arrays out. kernels/X is the compiled half of ROOM/X.

In come NumPy arrays that were checked at the border, NamedTuples of them, and the number of a
random stream (core/seeds.py). Out go arrays, which are returned or filled in place. Nothing here reads
a file, knows an option or checks an input: a wrong index is not noticed.

In Python:

    import numpy as np; from wl.kernels.generators import normal, seed_state
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

import numba


def _cache_folder():
    here = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(here.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    name = f"wl-{digest.hexdigest()[:16]}"
    asked = os.environ.get("NUMBA_CACHE_DIR")
    homes = [pathlib.Path(asked)] if asked else []
    homes += [here / "__pycache__", pathlib.Path.home() / ".cache" / "wl",
              pathlib.Path(tempfile.gettempdir()) / f"wl-cache-{os.getuid()}"]
    for home in homes:
        try:
            folder = home / name
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return str(folder)
        except OSError:
            continue
    return tempfile.mkdtemp(prefix="wl-cache-")


CACHE_FOLDER = _cache_folder()


def njit(**options):
    """numba.njit(**options) whose compiled code is kept in CACHE_FOLDER.

    options: of numba.njit; cache=True is what the folder is for.
    Returns a decorator.
    """
    def decorate(function):
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = CACHE_FOLDER          # read while a function is decorated
        try:
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before
    return decorate
