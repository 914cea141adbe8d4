"""The sampling of one run: which maps a shard takes, and parts that survive an interruption.

Long sampling is cut into parts of some seconds. Each part's result is a file of its own in the run's
folder, written whole or not at all, and a run that was stopped goes on behind the last. A map's random
numbers follow from its global index alone, so neither parts, shards nor interruptions change a bit.
"""
import dataclasses

from . import metropolis, posterior, quadrature
from ..core import hdf5
from ..core.checks import InputError
from ..core.progress import Progress
from .shards import name_of

PART = 1e9                     # chain-steps of a part for d = 2: some ten seconds of two cores
LEAST = 256                    # maps of a part: fewer leave threads and vector lanes idle


def sample(run, emulator, estimate, index, guess, settings, inputs, shard=None):
    """Chains of the maps `estimate` (n, d), by settings["sampler"]; parts that an earlier run left are taken.

    run: pipeline.Run, for its folder and options; index: (n,) global map indices; guess: (n, 2) first points or
    None; settings, inputs: of the posterior, all that the chains depend on. Returns posterior.Chains.
    """
    n, args = len(estimate), run.args
    progress = Progress(n, f"sampling {n} maps", args.quiet)
    if settings["sampler"] == "exact":
        chains = quadrature.exact(emulator, estimate)
        progress.close()
        return chains
    walk = metropolis.Walk(*(settings[k] for k in ("nstep", "sigma", "burn_in", "chains", "thin", "adapt")))
    steps = walk.nstep * walk.chains * max(emulator.d / 2.0, 1.0)
    size = max(int(PART / steps), LEAST)
    paths = [run.out / name_of(shard, f"sampling.{first}") for first in range(0, n, size)]
    parts = []
    for path, first in zip(paths, range(0, n, size)):
        part = slice(first, min(first + size, n))
        from_maps = {**inputs, "maps": hdf5.digest_array(index[part])}
        chains = _load(path, settings, from_maps, args.seed)
        if chains is None:
            chains = metropolis.metropolis(
                emulator, estimate[part], walk, seed=args.seed, map_index=index[part], progress=progress,
                draws=min(max(settings["draws"] - first, 0), part.stop - first),
                guess=None if guess is None else guess[part])
            if len(paths) > 1:
                _save(path, chains, settings, from_maps, args.seed)
        else:
            progress.begin_at(part.stop)
        parts.append(chains)
    progress.close()
    return posterior.join(parts) if parts else metropolis.metropolis(emulator, estimate, walk)


def forget(run, shard=None):
    """Remove the parts of a run or shard that is complete."""
    for path in run.out.glob(name_of(shard, "sampling.*")):
        if path.name.count(".") == name_of(shard, "sampling.0").count("."):
            path.unlink(missing_ok=True)


def _save(path, chains, settings, inputs, seed):
    values = {field.name: getattr(chains, field.name) for field in dataclasses.fields(chains)}
    dims = {"draws": ("kept", "chain", "draw", "param"), "lp": ("kept", "chain", "draw")}
    hdf5.write(path, "sampling", {"chains": {
        name: hdf5.Var(dims.get(name, ("map", "column")[:value.ndim]), value) for name, value in values.items()}},
        settings=settings, seed=seed, inputs=inputs)


def _load(path, settings, inputs, seed):
    """The chains of a part, None if it is missing, damaged or of another run."""
    try:
        file = hdf5.reusable(path, "sampling", settings, inputs, seed)
    except InputError:
        return None
    return None if file is None else posterior.Chains(**file.groups["chains"])
