"""All compiled code. The cache folder carries a digest of this package's sources.

Numba's cache looks only at the file of the function itself: a change in a callee or constant in
another file leaves a stale binary, silently. A folder per state of the sources cannot go stale.
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
_before = numba.config.CACHE_DIR
numba.config.CACHE_DIR = CACHE_FOLDER  # read when a function is decorated, i.e. during the imports below
try:
    from . import generators  # noqa: E402
    from . import triangles, likelihood, diagnostics, metropolis, quadrature  # noqa: E402
    from . import batches, peaks, halos  # noqa: E402
finally:
    numba.config.CACHE_DIR = _before
