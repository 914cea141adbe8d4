"""Folders of data sets: the one that --data means, and how a simulated one becomes complete.

A simulated set lives in DIR/.unfinished until all maps are drawn; then its files move into place,
simulation.json last.
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from argparse import Namespace
from typing import TYPE_CHECKING

import numpy as np

from ..core.checks import InputError
from ..core.files import LOCK_FILE, atomic, code_version, first_difference, to_json, versions
from ..core.progress import say, warn
from ..maps import dataset
from ..maps.dataset import MASK_FILE, RELEASES, SIMULATION_FILE, TEST_FILE, TRUTH_FILE, UNFINISHED
from ..maps.splits import DEFAULT_DATA, DEFAULT_REALISATIONS

if TYPE_CHECKING:
    from .plan import Plan

SIMULATED = "simulated"                # below the folder of --data: the set that a script simulates
DEFAULT_TEST = 1024
KAPPA_FILE, LABEL_FILE = RELEASES["public"]
# in the order they are moved into place: what a reader looks for comes late, the proof last
FILES = (MASK_FILE, TRUTH_FILE, TEST_FILE, LABEL_FILE, KAPPA_FILE, SIMULATION_FILE)


def locate(args: Namespace) -> dataset.MapSet:
    """The data set that --data means, simulated first if there is none.

    args: the command line's values, with data, release, realisations, seed, threads, quiet, force
    Of several sets in the folder the one that a script simulated is taken. Raises InputError.
    """
    folder = pathlib.Path(args.data)
    if not folder.is_dir() and args.data != DEFAULT_DATA:
        raise InputError(f"--data {args.data}: no such folder; give one with a data set, or none "
                         "to simulate one")
    sets = [p for p in dataset.find_sets(folder) if p.name != "runs"]
    ours = folder / SIMULATED
    begun = (ours / dataset.UNFINISHED).is_dir() and (ours not in sets or dataset.interrupted(ours))
    if folder in sets or (sets and not begun):
        return _checked(args, dataset.open_set(
            _one_of(args, folder, sets), args.release, args.test_maps))
    mask, label = folder / MASK_FILE, folder / LABEL_FILE
    given = mask.is_file() and label.is_file() and not (folder / SIMULATION_FILE).is_file()
    if not given and folder.is_dir() and any(folder.glob("*.npy")):
        raise InputError(f"{folder}: expected {KAPPA_FILE} among its files, found none; complete "
                         "the set, or give --data another folder")
    return _checked(args, _simulated(args, folder, *((mask, label) if given else (None, None))))


def _one_of(args, folder, sets):
    """The set to open among those found in a folder."""
    ours = folder / SIMULATED
    if folder in sets:
        return folder
    if len(sets) > 1 and ours not in sets:
        raise InputError(f"--data {args.data}: expected one data set, found "
                         f"{', '.join(p.name for p in sets)}; give one of them, e.g. --data "
                         f"{sets[0]}")
    chosen = sets[0] if len(sets) == 1 else ours
    others = ", ".join(p.name for p in sets if p != chosen)
    say(f"maps of {chosen}" + (f" (there are also {others})" if others else ""), args.quiet)
    return chosen


def _checked(args, found):
    """A set, held against the options that would have simulated it, and its simulation.json."""
    if args.realisations not in (None, found.n_realisation):
        raise InputError(f"--realisations {args.realisations}: {found.folder} is there already, "
                         f"with {found.n_realisation}; leave the option out, or simulate another "
                         "set by python -m wl.simulate and give its --data")
    for name in found.changed():
        warn(f"{found.folder / name} is not what the simulator wrote: it was changed after "
             f"{SIMULATION_FILE}")
    seed = found.simulation.get("seed", args.seed)
    if seed != args.seed:
        say(f"--seed {args.seed}: the maps of {found.folder} stay those of seed {seed}; split, "
            "noise, weights and chains are new", args.quiet)
    return found


def _simulated(args, folder, mask, label):
    from .simulate import simulate           # half a second that a set on disk does not need
    test_path = dataset.test_file(folder, name=args.test_maps)
    if mask is None:
        out, test = folder / SIMULATED, DEFAULT_TEST
        say(f"no maps in {folder}: simulating a set into {out}", args.quiet)
    else:
        settings = str((args.realisations or DEFAULT_REALISATIONS, args.seed))
        stamp = hashlib.sha256(mask.read_bytes() + label.read_bytes() + settings.encode())
        out, test = pathlib.Path(DEFAULT_DATA) / "simulations" / stamp.hexdigest()[:12], 0
        say(f"mask and labels but no maps in {folder}: simulating maps for them into {out}",
            args.quiet)
    simulate(out, realisations=args.realisations, test=test, seed=args.seed, mask=mask,
             design=label, processes=args.threads, quiet=args.quiet, force=args.force)
    found = dataset.open_set(out)
    if mask is not None:
        found = dataclasses.replace(found, name=folder.resolve().name)    # not the digest
        if test_path is not None:
            noisy = dataset.read_test(test_path, found.mask, mask)
            found = dataclasses.replace(found, noisy_test=noisy,
                                        files={**found.files, "noisy_test": test_path})
    return found


def room(out: pathlib.Path) -> int:
    """Bytes that a set in a folder may take: the disk's free ones and those of the set in it."""
    there = (path / f"{name}{end}" for path in (out, out / UNFINISHED) for name in FILES
             for end in ("", ".part"))
    own = sum(path.stat().st_size for path in there if path.is_file())
    disk = next(path for path in (out, *out.absolute().parents) if path.exists())
    return shutil.disk_usage(disk).free + own


def is_complete(out: pathlib.Path, plan: "Plan", force: bool) -> bool:
    """Whether the folder holds this very set; refuses another (InputError) unless forced."""
    proof, present = out / SIMULATION_FILE, [name for name in FILES if (out / name).exists()]
    if not proof.is_file():
        if present and not (out / UNFINISHED / SIMULATION_FILE).is_file():
            raise InputError(f"{out}: holds {present[0]} but no {SIMULATION_FILE}, so it was not "
                             "simulated and stays untouched; give another --out")
        return False
    same = _compare(out, _read_json(proof), plan, force)
    damage = _damage(out, plan) if same else ""
    if same and not damage:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)      # of a run killed at its last step
        return True
    if same and not force:
        raise InputError(f"{damage}; or give --force to simulate it again")
    for name in reversed(FILES):                 # the proof goes first
        (out / name).unlink(missing_ok=True)
    return False


def _damage(out, plan):
    """What is wrong with the files of a set that was complete once, or nothing."""
    needed = [name for name in FILES
              if len(plan.label_test) or name not in (TEST_FILE, TRUTH_FILE)]
    missing = [name for name in needed if not (out / name).is_file()]
    if missing:
        return f"{out}: {missing[0]} is gone from this simulated set"
    try:
        found = dataset.open_set(out)
        found.check_maps()
    except InputError as error:
        return str(error)
    changed = found.changed()
    if found.n_test != len(plan.label_test) or (
            len(plan.label_test) and not np.array_equal(dataset.read_truth(out), plan.label_test)):
        changed.append(TEST_FILE)
    return f"{out / changed[0]}: is not what the simulator wrote" if changed else ""


def _compare(folder, before, plan, force):
    """True if settings and inputs are the plan's; InputError with both values unless force."""
    differ = (first_difference(before.get("settings"), plan.settings)
              or first_difference(before.get("inputs"), plan.inputs, "sha256"))
    if differ and not force:
        name, was, now = differ
        raise InputError(f"{folder}: holds maps simulated with {name} = {was}, asked for {now}; "
                         "give --force to replace them, or another --out")
    return differ is None


def prepare(part: pathlib.Path, plan: "Plan", force: bool) -> set[str]:
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
        if old.name != LOCK_FILE:
            old.unlink()
    (part / "done").write_text("")
    for name, shape in ((KAPPA_FILE, plan.label.shape[:2]),
                        (TEST_FILE, plan.label_test.shape[:1])):
        if np.prod(shape):
            _allocate(part / (name + ".part"), (*shape, plan.n_observed))
    _write_json(state, now)
    return set()


def _drawing_code():
    """Digest of the sources that decide what a map is made of."""
    here, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    others = ("core/params.py", "core/seeds.py", "kernels/noise.py", "kernels/halos.py")
    for source in (*sorted(here.glob("*.py")), *(here.parent / name for name in others)):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _allocate(path, shape):
    """A .npy file of float16 zeros, its space reserved: a full disk shows at the start."""
    maps = np.lib.format.open_memmap(path, "w+", np.dtype("<f2"), shape)
    size = maps.offset + maps.nbytes
    del maps
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) == 28:
                raise


def finish(out: pathlib.Path, part: pathlib.Path, plan: "Plan") -> None:
    """Move everything into place, simulation.json last; taken up again if it is killed half-way."""
    if not (part / SIMULATION_FILE).is_file():
        np.save(part / MASK_FILE, plan.mask)
        np.save(part / LABEL_FILE, plan.label)
        if len(plan.label_test):
            np.save(part / TRUTH_FILE, plan.label_test)
        _write_json(part / SIMULATION_FILE, {
            "settings": plan.settings, "seed": plan.options.seed, "inputs": plan.inputs,
            "origin": plan.origin, "versions": versions(), "code_version": code_version()})
    for name in FILES:
        for source in (part / name, part / (name + ".part")):
            if source.is_file():
                os.replace(source, out / name)
    shutil.rmtree(part)


def _write_json(path, content):
    with atomic(path) as part:
        part.write_text(json.dumps(json.loads(to_json(content)), indent=1, sort_keys=True) + "\n")


def _read_json(path):
    try:
        return {**json.loads(path.read_text())}
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected JSON, could not read it; remove the folder or give "
                         "another --out") from None
