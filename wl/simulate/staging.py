"""When a simulated set is complete, and how a killed run's becomes so.

It lives in DIR/.unfinished until all maps are drawn; then its files move into place, simulation.json last.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np

from ..core.checks import InputError
from ..maps.dataset import MASK_FILE, SIMULATION_FILE, TEST_FILE, TRUTH_FILE, UNFINISHED
from .plan import KAPPA_FILE, LABEL_FILE
from ..core.files import code_version, first_difference, to_json, versions

# in the order they are moved into place: what a reader looks for comes late, the proof of completeness last
FILES = (MASK_FILE, TRUTH_FILE, TEST_FILE, LABEL_FILE, KAPPA_FILE, SIMULATION_FILE)


def room(out):
    """Bytes that a set in the folder `out` may take: the disk's free ones and those of the set that is there."""
    there = [path / f"{name}{end}" for path in (out, out / UNFINISHED) for name in FILES for end in ("", ".part")]
    disk = next(path for path in (out, *out.absolute().parents) if path.exists())
    return shutil.disk_usage(disk).free + sum(path.stat().st_size for path in there if path.is_file())


@contextlib.contextmanager
def lock(part):
    """Keep a second run out of the unfinished folder; a killed run's lock goes with it. Raises InputError."""
    with open(part / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{part.parent}: another run is making this set; wait for it, or give another "
                             "--out") from None
        yield


def is_complete(out, plan, force):
    """True if the folder holds this very set; refuses any other one, removes a simulated one if forced."""
    proof, present = out / SIMULATION_FILE, [name for name in FILES if (out / name).exists()]
    if not proof.is_file():
        if present and not (out / UNFINISHED / SIMULATION_FILE).is_file():
            raise InputError(f"{out}: holds {present[0]} but no {SIMULATION_FILE}, so it was not simulated "
                             "and stays untouched; give another --out")
        return False
    before = _read_json(proof)
    same = _compare(out, before, plan, force)
    needed = [name for name in FILES if len(plan.label_test) or name not in (TEST_FILE, TRUTH_FILE)]
    missing = [name for name in needed if not (out / name).is_file()]
    if same and not missing:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)      # of a run that was killed at its last step
        return True
    if same and not force:
        raise InputError(f"{out}: {missing[0]} is gone from this simulated set; give --force to make it "
                         "again")
    for name in reversed(FILES):                 # the proof goes first
        (out / name).unlink(missing_ok=True)
    return False


def _compare(folder, before, plan, force):
    """True if settings and inputs are the plan's; InputError with both values unless force."""
    differ = (first_difference(before.get("settings"), plan.settings)
              or first_difference(before.get("inputs"), plan.inputs, "sha256"))
    if differ and not force:
        name, was, now = differ
        raise InputError(f"{folder}: holds maps simulated with {name} = {was}, asked for {now}; "
                         "give --force to replace them, or another --out")
    return differ is None


def prepare(part, plan, force):
    """Set up or take up the unfinished folder; returns the names of the tasks that are done."""
    state = part / "state.json"
    now = {"settings": plan.settings, "inputs": plan.inputs, "code": _drawing_code()}
    if state.is_file():
        before = _read_json(state)
        if _compare(part.parent, before, plan, force) and before.get("code") == now["code"]:
            return set((part / "done").read_text().split("\n")[:-1])
        # other code draws other maps: begin again
    if (part / SIMULATION_FILE).is_file():       # it was being moved into place
        for name in FILES:
            (part.parent / name).unlink(missing_ok=True)
    for old in part.iterdir():
        if old.name != "lock":
            old.unlink()
    (part / "done").write_text("")
    for name, shape in ((KAPPA_FILE, plan.label.shape[:2]), (TEST_FILE, plan.label_test.shape[:1])):
        if np.prod(shape):
            _allocate(part / (name + ".part"), (*shape, plan.n_observed))
    _write_json(state, now)
    return set()


def _drawing_code():
    """Digest of the sources that decide what a map is made of."""
    here, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    kernels = here.parent / "kernels"
    for source in (*sorted(here.glob("*.py")), here.parent / "core" / "params.py",
                   here.parent / "core" / "seeds.py", kernels / "noise.py", kernels / "halos.py"):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _allocate(path, shape):
    """A .npy file of float16 zeros with its space reserved, so that a full disk shows at the start."""
    maps = np.lib.format.open_memmap(path, "w+", np.dtype("<f2"), shape)
    size = maps.offset + maps.nbytes
    del maps
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) == 28:
                raise


def finish(out, part, plan):
    """Move everything into place, simulation.json last; taken up again if it is killed half-way."""
    if not (part / SIMULATION_FILE).is_file():
        np.save(part / MASK_FILE, plan.mask)
        np.save(part / LABEL_FILE, plan.label)
        if len(plan.label_test):
            np.save(part / TRUTH_FILE, plan.label_test)
        _write_json(part / SIMULATION_FILE, {
            "settings": plan.settings, "seed": plan.seed, "inputs": plan.inputs, "origin": plan.origin,
            "versions": versions(), "code_version": code_version()})
    for name in FILES:
        for source in (part / name, part / (name + ".part")):
            if source.is_file():
                os.replace(source, out / name)
    shutil.rmtree(part)


def _write_json(path, content):
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(json.dumps(json.loads(to_json(content)), indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_json(path):
    try:
        content = json.loads(path.read_text())
        return {**content} if isinstance(content, dict) else {}
    except ValueError:
        raise InputError(f"{path}: expected JSON, could not read it; remove the folder or give another "
                         "--out") from None
