"""How summaries become a posterior: the options, their checks, and the shards of a run.

Several jobs can share the maps of a run. Each writes a file of its own, as several writers cannot
share one, and merge() joins them.
"""
import argparse
import dataclasses
import os
import re

import numpy as np

from ..core.checks import InputError, Options, option
from ..core.cli import add_shown
from ..core.files import refuse_difference
from ..core.hdf5 import Var, read, write
from ..core.params import HOLDOUT, TEST

SMOOTHS, SAMPLERS = ("auto", "none", "always"), ("metropolis", "exact")
RECALIBRATIONS = ("isotonic", "temperature", "none")
PRIORS = ("design", "flat")    # anything else is a file
MAX_STEPS = 2**31              # of all chains of a map: the kernels count in 32 bits
MIN_DRAWS = 4                  # of a chain, for an R-hat
MAX_DRAWS = 10**6              # of a map
MIN_ADAPT_STEPS = 128          # of burn-in, to learn a proposal from: 1, 2 and 4 times 32
BATCHES = 32                   # of a chain, for its autocorrelation time
STORED = 500                   # draws of a chain: R-hat and ESS cost a tenth of the walk
ONE_RUN = "merge shards of one run"


@dataclasses.dataclass(frozen=True)
class Walk(Options):
    """How the chains of every map walk."""
    nstep: int = option(10000, "steps of each chain", metavar="N", positive=True)
    sigma: float = option(
        0.06, "width of the proposal in Omega_m and S_8; aim at an acceptance of 0.2 to 0.5",
        metavar="X", positive=True)
    burn_in: float = option(0.2, "fraction of the steps dropped", metavar="F")
    chains: int = option(1, "chains per map", metavar="N", positive=True)
    thin: int | None = option(
        None, "steps between the draws that R-hat and effective sample size are made of, and that "
        f"are kept (default: {STORED} draws a chain or a few more)", metavar="N", positive=True)
    adapt: bool = option(
        True, "learn each chain's proposal in its burn-in, beginning with --sigma (of at least "
        f"{MIN_ADAPT_STEPS} steps); --no-adapt keeps --sigma, as published")
    draws: int = option(
        0, "thinned draws of each map that the file keeps, over all its chains; --sampler exact "
        "makes independent ones", metavar="N", within=(0, MAX_DRAWS))

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.burn_in < 1.0:
            raise InputError("--burn-in: expected a fraction from 0 to below 1, got "
                             f"{self.burn_in}")
        if self.nstep * self.chains >= MAX_STEPS:
            raise InputError(f"--nstep, --chains: expected fewer than {MAX_STEPS} steps for all "
                             f"chains of a map, got {self.nstep} x {self.chains}; give fewer")
        if self.thin is not None and self.thin > max(self.kept // MIN_DRAWS, 1):
            raise InputError(f"--thin: expected at most {max(self.kept // MIN_DRAWS, 1)}, so that "
                             f"each chain keeps {MIN_DRAWS} draws of its {self.kept} steps, got "
                             f"{self.thin}")

    @property
    def burn(self) -> int:
        """Steps that are dropped."""
        return int(self.burn_in * self.nstep)

    @property
    def adapts(self) -> bool:
        """Whether proposals are learnt, which takes some burn-in."""
        return bool(self.adapt) and self.burn >= MIN_ADAPT_STEPS

    @property
    def kept(self) -> int:
        """Steps behind them."""
        return self.nstep - self.burn

    @property
    def stride(self) -> int:
        """Steps between two draws of a chain."""
        wanted = max(STORED, -(-self.draws // self.chains))
        return max(self.kept // wanted, 1) if self.thin is None else self.thin

    @property
    def draw_steps(self) -> np.ndarray:
        """Steps behind the burn-in whose draws are returned: --draws of them, all for 0."""
        size = self.kept // self.stride
        count = min(-(-self.draws // self.chains) or size, size)
        return (np.arange(1, count + 1) * size // max(count, 1)) * self.stride

    @property
    def edges(self) -> np.ndarray:
        """Where the batches of the kept steps begin, and the end: (batches + 1,) int64."""
        batches = BATCHES if self.kept >= 2 * BATCHES else 1
        return self.burn + np.arange(batches + 1, dtype=np.int64) * self.kept // batches


@dataclasses.dataclass(frozen=True)
class PosteriorOptions(Walk):
    """How summaries become a posterior."""
    smooth: str = option(
        "auto", "fit mean and covariance over the design by polynomials of cross-validated order; "
        "auto includes the raw values among the candidates", choices=SMOOTHS)
    prior: str = option(
        "design", "density of the design, which the challenge's test maps follow, flat in its "
        "hull, or a file (.npy or text) with rows of Omega_m, S_8, density",
        metavar="design|flat|FILE")
    sampler: str = option("metropolis", "chains, or quadrature over the triangles of the design",
                          choices=SAMPLERS)
    draw_maps: str = option(
        "all", "which maps keep their --draws: all, or numbers and ranges such as 0-9,25",
        metavar="MAPS")
    recalibrate: str = option(
        "isotonic", "fit what is scored on the emulator split: the error bars by one factor per "
        "parameter and (isotonic) the quantiles by their ranks; the posterior itself stays as it "
        "is", choices=RECALIBRATIONS)

    def __post_init__(self):
        super().__post_init__()
        if self.draws > self.kept * self.chains and self.sampler == "metropolis":
            raise InputError(f"--draws: expected at most the {self.kept} steps of each chain that "
                             f"are kept, got {self.draws} of {self.chains} chains; raise --nstep")
        self.drawn(np.arange(0))

    def stored(self, direct: bool = False) -> dict:
        """What a posterior depends on beyond the summaries. direct: bool, no emulator, no chain."""
        if direct:
            return {"recalibrate": self.recalibrate}
        stored = dataclasses.asdict(self)
        if self.sampler == "exact":
            for field in dataclasses.fields(Walk):
                if field.name != "draws":
                    del stored[field.name]
        return stored

    def drawn(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the maps that keep draws. ids: (n,) int, the maps' numbers. Raises InputError."""
        if not self.draws:
            return np.arange(0)
        if self.draw_maps == "all":
            return np.arange(len(ids))
        chosen = np.zeros(len(ids), bool)
        for part in self.draw_maps.split(","):
            found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
            low, high = (int(end or found[1]) for end in found.groups()) if found else (1, 0)
            if low > high:
                raise InputError("--draw-maps: expected all, or numbers and ranges such as "
                                 f"0-9,25, got {self.draw_maps!r}")
            chosen |= (ids >= low) & (ids <= high)
        return np.flatnonzero(chosen)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of PosteriorOptions to a parser, but for --recalibrate."""
    add = PosteriorOptions.add_to(parser, "posterior", without={"recalibrate"})
    add("--allow-unconverged", action="store_true",
        help="exit 0 even if more than 1 %% of the maps have an effective sample size below 100 "
             "or an R-hat above 1.05")
    add("--shard", default=None, metavar="I/N",
        help="infer only every N-th map from the I-th; join the files with run_score.py --merge")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what becomes of the results."""
    add = PosteriorOptions.add_to(parser, "output", only={"recalibrate"})
    add("--out", default=None, metavar="DIR",
        help="folder of the results (default: data/runs/SET_MODEL, or SET_direct_MODEL)")
    add("--force", action="store_true",
        help="replace results that were made with other settings or inputs")
    add("--dry-run", action="store_true",
        help="say what would be read, trained, inferred and written, check it, and do nothing")
    add_shown(parser)


# ---------------------------------------------------------------- shards
@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which maps a run, or one job of several, infers.

    target: str, "test", "holdout" or "both"
    shard: (int, int) or None, the I-th of N jobs, from 1; it takes every N-th map
    """
    target: str
    shard: tuple | None = None

    @property
    def _every(self):
        return slice(None) if self.shard is None else slice(self.shard[0] - 1, None, self.shard[1])

    def rows(self, code: np.ndarray) -> np.ndarray:
        """Rows of a predictions file that are inferred.

        code: (n_map,) int, the split of each
        Returns (n,) int64.
        """
        test, holdout = self.target != "holdout", self.target != "test"
        chosen = ((code == TEST) & test) | ((code == HOLDOUT) & holdout)
        return np.flatnonzero(chosen)[self._every]

    @property
    def file_name(self) -> str:
        """Name of the posterior's file: posterior.h5, or that of a shard."""
        name = "posterior.h5" if self.shard is None else "posterior.shard-{}-of-{}.h5"
        return name.format(*self.shard or ())

    def stored(self) -> dict:
        """What a file says of it."""
        return {} if self.shard is None else {"shard": list(self.shard)}


def shard_of(text: str | None) -> tuple | None:
    """"I/N" as (I, N), I from 1; None stays None. Raises InputError."""
    if text is None:
        return None
    head, _, tail = str(text).partition("/")
    plain = all(t.isascii() and t.isdigit() and len(t) < 10 for t in (head, tail))
    if not plain or not 1 <= int(head) <= int(tail):
        raise InputError(f"--shard: expected I/N with I from 1 to N, such as 1/4, got {text!r}")
    return int(head), int(tail)


def merge(paths: list, out) -> str:
    """Join the shards of one run along the dimension `map`, sorted by the map coordinate.

    paths: one file per shard, in any order; the settings of each hold shard = [i, n], i from 0 or
        from 1; all else must be equal
    out: str or Path, the file to write
    Returns the digest of the result, whose settings hold no shard. Raises InputError, also if `out`
    is one of the shards, or holds another result than theirs.
    """
    files = [read(path) for path in paths]
    if not files:
        raise InputError("merge: expected the files of the shards, got none; give their paths")
    if os.path.realpath(out) in [os.path.realpath(path) for path in paths]:
        raise InputError(f"{out}: is one of the files to join; give another one to write")
    first, shards, whole = files[0], {}, None
    for file in files:
        shard = file.settings.pop("shard", None)
        if not (isinstance(shard, list) and len(shard) == 2):
            raise InputError(f"{file.path}: is not a shard of a run; merge only what --shard i/n "
                             "made")
        same = {"kind": file.kind, "shards": shard[1], **_made(file)}
        whole = whole or same
        refuse_difference(f"{first.path}: has", whole, same, ONE_RUN, file.path)
        if shard[0] in shards:
            raise InputError(f"{file.path}: is shard {shard[0]} of {shard[1]} as "
                             f"{shards[shard[0]]} is; give each once")
        shards[shard[0]] = file.path
    count = whole["shards"]
    if set(shards) not in (set(range(count)), set(range(1, count + 1))):
        raise InputError(f"{out}: expected {count} shards, got {len(shards)} "
                         f"({', '.join(map(str, sorted(shards)))}); run the missing ones first")
    if os.path.lexists(out):
        refuse_difference(f"{out}: was made with", _made(read(out, first.kind)), _made(first),
                          "remove it, or give another file to write", "the run of these shards")
    groups, coords = {}, {}
    for group in dict.fromkeys(g for file in files for g in file.groups):
        groups[group], joined = _join(group, [file for file in files if group in file.groups])
        coords |= {(group, dim): values for dim, values in joined.items()}
    return write(out, first.kind, groups, coords=coords, settings=first.settings, seed=first.seed,
                 inputs=first.inputs, origin=first.origin)


def _made(file):
    return {"seed": file.seed, "input": file.inputs, **file.settings}


def _join(group, files):
    """One group of several files as ({name: Var}, {dimension: values})."""
    first, variables = files[0], {}
    dims, coords, order = first.dims[group], dict(first.coords[group]), None
    if "map" in coords:
        maps = np.concatenate([file.coords[group]["map"] for file in files])
        order = np.argsort(maps, kind="stable")
        coords["map"] = maps[order]
        twice = coords["map"][1:][np.diff(coords["map"]) == 0]
        if twice.size:
            raise InputError(f"{first.path}: map {twice[0]} of group {group} is in two shards; "
                             f"{ONE_RUN}")
    for file in files:
        if file.dims[group] != dims or any(not np.array_equal(file.coords[group][d], coords[d])
                                           for d in coords if d != "map"):
            raise InputError(f"{file.path}: group {group} is laid out otherwise than in "
                             f"{first.path}; {ONE_RUN}")
    for name, along in dims.items():
        arrays = [file.groups[group][name] for file in files]
        values = arrays[0]
        if "map" in along:
            axis = along.index("map")
            values = np.take(np.concatenate(arrays, axis=axis), order, axis=axis)
        for file, array in zip(files, () if "map" in along else arrays):
            if not np.array_equal(array, values, equal_nan=array.dtype.kind == "f"):
                raise InputError(f"{file.path}: {group}/{name} differs from that of {first.path}; "
                                 f"{ONE_RUN}")
        variables[name] = Var(along, values, first.attrs[group][name])
    return variables, coords
