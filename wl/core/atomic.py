"""Files that are there whole or not at all."""
import contextlib
import glob
import os
import pathlib
import secrets
import time

from .checks import InputError

STALE_SECONDS = 3600.0         # a temporary file of a killed run that nobody has written to for so long


@contextlib.contextmanager
def atomic(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The folder is made if need be. The temporary name keeps the suffix, so that np.save and the like add
    none. At the end the file is synced and renamed: a reader, or a run killed at any moment, sees the
    old file or the new one. On an error it is removed. Raises InputError if the folder cannot be used.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file is to be written there; give another --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
            with contextlib.suppress(OSError):               # somebody else removed it, or it is not ours
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink()
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another --out") from None
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:                      # some network file systems refuse fsync on a folder
        if not os.path.isdir(path):
            raise
    finally:
        os.close(handle)
