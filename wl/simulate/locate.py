"""The data set that --data means: found, or simulated where there is none."""
import dataclasses
import hashlib
import pathlib

from ..core.checks import InputError
from ..core.progress import say, warn
from ..maps import dataset
from ..maps.splits import DEFAULT_DATA, DEFAULT_REALISATIONS

SIMULATED = "simulated"                # below the folder of --data: the set that a script simulates
DEFAULT_TEST = 1024


def locate(args):
    """The data set that --data means, simulated first if there is none.

    args: the command line's values, with data, release, realisations, seed, threads, quiet, force
    Of several sets in the folder the one that a script simulated is taken. Returns a dataset.MapSet.
    Raises InputError.
    """
    folder = pathlib.Path(args.data)
    if not folder.is_dir() and args.data != DEFAULT_DATA:
        raise InputError(f"--data {args.data}: no such folder; give one with a data set, or none to simulate one")
    sets = [p for p in dataset.find_sets(folder) if p.name != "runs"]
    ours = folder / SIMULATED
    begun = (ours / dataset.UNFINISHED).is_dir() and (ours not in sets or dataset.interrupted(ours))
    if folder in sets or (sets and not begun):
        return _checked(args, dataset.open_set(_one_of(args, folder, sets), args.release))
    mask, label = folder / dataset.MASK_FILE, folder / dataset.RELEASES["public"][1]
    given = mask.is_file() and label.is_file() and not (folder / dataset.SIMULATION_FILE).is_file()
    if not given and folder.is_dir() and any(folder.glob("*.npy")):
        raise InputError(f"{folder}: expected {dataset.RELEASES['public'][0]} among its files, found none; complete "
                         "the set, or give --data another folder")
    return _checked(args, _simulated(args, folder, mask if given else None, label if given else None))


def _one_of(args, folder, sets):
    """The set to open among those found in a folder."""
    ours = folder / SIMULATED
    if folder in sets:
        return folder
    if len(sets) > 1 and ours not in sets:
        raise InputError(f"--data {args.data}: expected one data set, found {', '.join(p.name for p in sets)}; "
                         f"give one of them, e.g. --data {sets[0]}")
    chosen = sets[0] if len(sets) == 1 else ours
    others = ", ".join(p.name for p in sets if p != chosen)
    say(f"maps of {chosen}" + (f" (there are also {others})" if others else ""), args.quiet)
    return chosen


def _checked(args, found):
    """A set, held against the options that would have simulated it otherwise and against its simulation.json."""
    if args.realisations not in (None, found.n_realisation):
        raise InputError(f"--realisations {args.realisations}: {found.folder} is there already, with "
                         f"{found.n_realisation}; leave the option out, or simulate another set by python -m "
                         "wl.simulate and give its --data")
    for name in found.changed():
        warn(f"{found.folder / name} is not what the simulator wrote: it was changed after {dataset.SIMULATION_FILE}")
    seed = found.simulation.get("seed", args.seed)
    if seed != args.seed:
        say(f"--seed {args.seed}: the maps of {found.folder} stay those of seed {seed}; split, noise, weights and "
            "chains are new", args.quiet)
    return found


def _simulated(args, folder, mask, label):
    from .simulate import simulate
    test_path = folder / dataset.TEST_FILE
    if mask is None:
        out, test = folder / SIMULATED, DEFAULT_TEST
        say(f"no maps in {folder}: simulating a set into {out}", args.quiet)
    else:
        settings = str((args.realisations or DEFAULT_REALISATIONS, args.seed))
        stamp = hashlib.sha256(mask.read_bytes() + label.read_bytes() + settings.encode())
        out, test = pathlib.Path(DEFAULT_DATA) / "simulations" / stamp.hexdigest()[:12], 0
        say(f"mask and labels but no maps in {folder}: simulating maps for them into {out}", args.quiet)
    simulate(out, realisations=args.realisations, test=test, seed=args.seed, mask=mask, design=label,
             processes=args.threads, quiet=args.quiet, force=args.force)
    found = dataset.open_set(out)
    if mask is not None:
        found = dataclasses.replace(found, name=folder.resolve().name)             # the user's, not the digest
        if test_path.is_file():
            found = dataclasses.replace(found, noisy_test=dataset.read_test(test_path, found.mask, mask),
                                        files={**found.files, "noisy_test": test_path})
    return found
