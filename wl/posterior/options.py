"""How summaries become a posterior: the options, their checks, and what comes in from elsewhere.

Several jobs can share the maps of a run. Each writes a file of its own, a shard, and merge() joins
them. read_predictions() takes those of others too, in the files that FOREIGN_HELP names.
"""
import argparse
import csv
import dataclasses
import os
import pathlib
import re

import numpy as np

from ..core import seeds
from ..core.checks import InputError, Options, array, choice, option, plausible
from ..core.cli import add_shown
from ..core.files import digest_file, refuse_difference
from ..core.hdf5 import File, Var, arrays_of, read, write
from ..core.params import EMULATOR, HOLDOUT, PARAMS, TARGETS, TEST
from ..core.progress import say, warn
from .covariance import SMOOTHS

SAMPLERS, RECALIBRATIONS = ("metropolis", "exact"), ("isotonic", "temperature", "none")
PRIORS = ("design", "flat")    # anything else is a file
OF_RUN = ("prior", "smooth", "recalibrate")     # options that --apply takes from its run
WALK = ("nstep", "sigma", "burn_in", "chains", "thin", "adapt")     # options of the chains alone
MAX_STEPS = 2**31              # of all chains of a map: the kernels count in 32 bits
MIN_DRAWS, MAX_DRAWS = 4, 10**6          # of a chain, for an R-hat; of a map
MIN_ADAPT_STEPS = 128          # of burn-in, to learn a proposal from: 1, 2 and 4 times 32
BATCHES, STORED = 32, 500      # of a chain: batches for its autocorrelation time, draws for ESS
PLAUSIBLE = (1e-3, 1.0), (1e-2, 3.0)     # Omega_m, S_8 of others, who may go far
MAX_SUMMARY = 1e70             # in the file of others: its fourth power is finite
ONE_RUN = "merge shards of one run"

SUMMARIES = ("summaries", "estimate", "estimates", "predictions", "prediction", "pred")
TRUTHS = ("truth", "theta", "cosmology", "label", "labels", "params")
EMULATOR_SHARE = 2 / 3         # of the maps that every cosmology has; the others are inferred
FOREIGN_HELP = f"""predictions of others, --predictions FILE (.npz, .csv, .h5 or .hdf5):
  arrays   {", ".join(SUMMARIES)}: (map, d), any d;
           {", ".join(TRUTHS)}: (map, 2 or more), Omega_m and S_8 first; a map whose
           cosmology is NaN is inferred and not scored
  columns  of a .csv: Omega_m and S_8, all others are summaries
  The same number of maps of every cosmology, two thirds of the smallest count, drawn at random,
  feeds the emulator; all others are inferred and scored."""


@dataclasses.dataclass(frozen=True)
class PosteriorOptions(Options):
    """How the chains of every map walk, and how summaries become a posterior."""
    nstep: int = option(10000, "steps of each chain", metavar="N", positive=True)
    sigma: float = option(0.06, "width of the proposal in Omega_m and S_8; aim at an acceptance of "
                          "0.2 to 0.5", metavar="X", positive=True)
    burn_in: float = option(0.2, "fraction of the steps dropped", metavar="F", within=(0.0, 0.999))
    chains: int = option(1, "chains per map", metavar="N", positive=True)
    thin: int | None = option(
        None, "steps between draws, of which R-hat and effective sample size are made (default: "
        f"{STORED} draws a chain or a few more)", metavar="N", positive=True)
    adapt: bool = option(
        True, "learn each chain's proposal in its burn-in, beginning with --sigma (of at least "
        f"{MIN_ADAPT_STEPS} steps); --no-adapt keeps --sigma, as published")
    draws: int = option(
        0, "thinned draws of each map that the file keeps, over all its chains; --sampler exact "
        "makes independent ones", metavar="N", within=(0, MAX_DRAWS))
    smooth: str = option(
        "auto", "fit mean and covariance over the design by polynomials of cross-validated order; "
        "auto includes the raw values among the candidates", choices=SMOOTHS)
    prior: str = option(
        "design", "design: the density of the simulated cosmologies, as the challenge's test "
        "maps have it, and 0.5 of their sd beyond their hull; flat: constant in their hull; or a "
        "file (.npy or text) with rows of Omega_m, S_8, density", metavar="design|flat|FILE")
    sampler: str = option("metropolis", "chains, or integration over the triangles of the design",
                          choices=SAMPLERS)
    draw_maps: str | int = option("all", "which maps keep their --draws: all, or numbers and "
                                  "ranges such as 0-9,25", metavar="MAPS")
    recalibrate: str = option(
        "isotonic", "learn from the emulator split a factor for each parameter's error bars, and "
        "(isotonic) a correction of the quantiles; the posterior itself stays as it is",
        choices=RECALIBRATIONS)

    def __post_init__(self):
        super().__post_init__()
        if self.nstep * self.chains >= MAX_STEPS:
            raise InputError(f"--nstep, --chains: expected fewer than {MAX_STEPS} steps for all "
                             f"chains of a map, got {self.nstep} x {self.chains}; give fewer")
        most = max(self.kept // MIN_DRAWS, 1)
        if self.thin is not None and self.thin > most:
            raise InputError(f"--thin: expected at most {most}, for {MIN_DRAWS} draws of "
                             f"{self.kept} steps, got {self.thin}")
        most = self.kept // (self.thin or 1) * self.chains
        if self.draws > most and self.sampler == "metropolis":
            raise InputError(f"--draws: expected at most {most}, which --nstep, --burn-in, --thin "
                             f"and --chains leave, got {self.draws}; raise --nstep")
        self.drawn(np.arange(0))

    burn = property(lambda self: int(self.burn_in * self.nstep), doc="Steps that are dropped.")
    kept = property(lambda self: self.nstep - self.burn, doc="Steps behind them.")
    adapts = property(lambda self: bool(self.adapt) and self.burn >= MIN_ADAPT_STEPS,
                      doc="Whether proposals are learnt, which takes some burn-in.")
    per_chain = property(lambda self: -(-self.draws // self.chains), doc="Draws kept of a chain.")
    stride = property(lambda self: self.thin or max(self.kept // max(STORED, self.per_chain), 1),
                      doc="Steps between two draws of a chain.")

    @property
    def draw_steps(self) -> np.ndarray:
        """Steps behind the burn-in whose draws are returned: --draws of them, all for 0."""
        size = self.kept // self.stride
        count = min(self.per_chain or size, size)
        return (np.arange(1, count + 1) * size // max(count, 1)) * self.stride

    @property
    def edges(self) -> np.ndarray:
        """Where the batches of the kept steps begin, and the end: (batches + 1,) int64."""
        batches = BATCHES if self.kept >= 2 * BATCHES else 1
        return self.burn + np.arange(batches + 1, dtype=np.int64) * self.kept // batches

    def stored(self, direct: bool = False) -> dict:
        """What a posterior depends on beyond the summaries. direct: bool, no emulator, no chain."""
        if direct:
            return {"recalibrate": self.recalibrate}
        return {name: value for name, value in dataclasses.asdict(self).items()
                if self.sampler == "metropolis" or name not in WALK}

    def drawn(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the maps that keep draws. ids: (n,) int, the maps' numbers. Raises InputError."""
        if not self.draws:
            return np.arange(0)
        if self.draw_maps == "all":
            return np.arange(len(ids))
        chosen = np.zeros(len(ids), bool)
        for part in str(self.draw_maps).split(","):
            found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
            low, high = (int(end or found[1]) for end in found.groups()) if found else (1, 0)
            if low > high:
                raise InputError("--draw-maps: expected all, or numbers and ranges such as "
                                 f"0-9,25, got {self.draw_maps!r}")
            chosen |= (ids >= low) & (ids <= high)
        if chosen.size and not chosen.any():
            warn(f"--draw-maps {self.draw_maps}: names none of the maps {ids.min()} to "
                 f"{ids.max()}; no draws are kept")
        return np.flatnonzero(chosen)


def options_of(run, quiet: bool = True) -> dict:
    """Prior, smoothing and recalibration of a finished run, {option: value}, {} if it has none.

    run: str or Path, its folder; quiet: bool, whether those that are no defaults are not said
    """
    run = pathlib.Path(run)
    if not (run / "posterior.h5").exists() or not (run / "predictions.h5").exists():
        return {}
    file = read(run / "posterior.h5", "posterior", groups=())
    if file.inputs.get("predictions") != read(run / "predictions.h5", groups=()).digest:
        return warn(f"{file.path}: is of other predictions, its --prior, --smooth and "
                    "--recalibrate are not taken") or {}
    found = {name: file.settings[name] for name in OF_RUN if name in file.settings}
    for name, value in found.items():
        if value != getattr(PosteriorOptions, name):
            say(f"--{name} {value} unless given, as {file.path} has it", quiet)
    known = file.inputs.get("prior")
    if known and not (os.path.isfile(found["prior"]) and digest_file(found["prior"]) == known):
        warn(f"--prior {found['prior']}: is not there, or was changed since {file.path} was made")
    return found


def add_options(parser: argparse.ArgumentParser, direct: bool = False) -> None:
    """Add the options of a posterior and of the output. direct: bool, without emulator, chain."""
    if not direct:
        add = PosteriorOptions.add_to(parser, "posterior", without={"recalibrate"})
        add("--allow-unconverged", action="store_true", help="exit 0 even if more than 1 %% of the "
            "maps have an effective sample size below 100 or an R-hat above 1.05")
        add("--shard", default=None, metavar="I/N", help="infer only every N-th map from the I-th; "
            "join the files with run_score.py --merge")
    add = PosteriorOptions.add_to(parser, "output", only={"recalibrate"})
    add("--out", default=None, metavar="DIR",
        help="folder of the results (default: data/runs/SET_MODEL, or SET_direct_MODEL)")
    add("--force", action="store_true",
        help="replace results that were made with other settings or inputs")
    add("--dry-run", action="store_true",
        help="say what would be read, trained, inferred and written, check it, and do nothing")
    add_shown(parser)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which maps a run, or one job of several, infers.

    target: str, "test", "holdout" or "both"
    shard: (int, int) or None, the I-th of N jobs, from 1; it takes every N-th map
    """
    target: str
    shard: tuple | None = None

    def __post_init__(self):
        choice("--target", self.target, TARGETS)

    @classmethod
    def of(cls, predictions: File, target: str | None, shard: tuple | None = None) -> "Wanted":
        """Of finished predictions. target: str, None for all they are for. Raises InputError."""
        wanted = cls(target or predictions.settings["target"], shard)
        if (made := predictions.settings["target"]) not in (wanted.target, "both"):
            raise InputError(f"--target {target}: {predictions.path} holds predictions for --target"
                             f" {made}; leave the option out, or predict again")
        return wanted

    def rows(self, code: np.ndarray) -> np.ndarray:
        """Rows (n,) int64 of a predictions file that are inferred. code: (n_map,) int, splits."""
        first, every = self.shard or (1, 1)
        found = np.flatnonzero(np.isin(code, TARGETS[self.target]))
        if not len(found):
            raise InputError(f"--target {self.target}: there are no such maps; give another")
        if every > len(found):
            raise InputError(f"--shard: expected at most {len(found)} shards, one a map, got "
                             f"{every}; give a smaller N")
        return found[first - 1::every]

    @property
    def file_name(self) -> str:
        """Name of the posterior's file: posterior.h5, or that of a shard."""
        return "posterior.shard-{}-of-{}.h5".format(*self.shard) if self.shard else "posterior.h5"

    def stored(self) -> dict:
        """What a file says of it."""
        return {} if self.shard is None else {"shard": list(self.shard)}


def shard_of(text: str | None) -> tuple | None:
    """"I/N" as (I, N), I from 1; None stays None. Raises InputError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(text), re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard: expected I/N with I from 1 to N, such as 1/4, got {text!r}")
    return int(found[1]), int(found[2])


def merge(paths: list, out) -> str:
    """Join the shards of one run along the dimension `map`, sorted by the map coordinate.

    paths: files whose settings hold shard = [i, n], i from 1; out: str or Path, to write
    Returns the digest of the result, whose settings hold no shard. Raises InputError, also if `out`
    is one of the shards, or holds another result than theirs.
    """
    files, numbers, made, count = [read(path) for path in paths], [], [], 1
    for file in files:
        if "shard" not in file.settings:
            raise InputError(f"{file.path}: is no shard of a run; merge only what --shard I/N made")
        number, count = file.settings.pop("shard")
        numbers.append(number)
        made.append({"kind": file.kind, "shards": count, **_made(file)})
        refuse_difference(f"{files[0].path}: has", made[0], made[-1], ONE_RUN, file.path)
    if sorted(numbers) != [*range(1, count + 1)]:
        raise InputError(f"{out}: expected the shards 1 to {count}, each once, got "
                         f"{', '.join(map(str, numbers)) or 'none'}; run the missing ones first")
    first = files[0]
    if os.path.lexists(out):
        refuse_difference(f"{out}: was made with", _made(read(out, first.kind)), _made(first),
                          "give another file to write", "the run of these shards")
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
    first, coords, dims, joined = files[0], files[0].coords[group], files[0].dims[group], {}
    maps = np.concatenate([file.coords[group].get("map", np.arange(0)) for file in files])
    order = np.argsort(maps, kind="stable")
    for twice in maps[order][1:][np.diff(maps[order]) == 0][:1]:
        raise InputError(f"{first.path}: map {twice} of group {group} is in two shards; {ONE_RUN}")
    for file in files:
        if file.dims[group] != dims:
            raise InputError(f"{file.path}: group {group} is laid out otherwise than in "
                             f"{first.path}; {ONE_RUN}")
    for name, along in {**{dim: (dim,) for dim in coords}, **dims}.items():
        values, *others = ({**file.coords[group], **file.groups[group]}[name] for file in files)
        if "map" in along:
            axis = along.index("map")
            values = np.concatenate([values, *others], axis).take(order, axis)
        elif any(not np.array_equal(values, other, equal_nan=values.dtype.kind == "f")
                 for other in others):
            raise InputError(f"{first.path}: {group}/{name} differs in another shard; {ONE_RUN}")
        joined[name] = values
    return ({name: Var(dims[name], joined[name], first.attrs[group][name]) for name in dims},
            {dim: joined[dim] for dim in coords})


def read_predictions(path, seed: int) -> File:
    """A predictions.h5, or what it would hold of the predictions of others (method "given").

    path: str or Path, see FOREIGN_HELP; seed: int, of others' emulator split. Raises InputError.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in (".npz", ".csv") and arrays_of(path) is None:
        return read(path, "predictions")
    summaries, truth = _foreign_tables(path)
    known, cosmologies = np.isfinite(truth).all(1), np.full(len(truth), -1, np.int32)
    theta, cosmologies[known] = np.unique(truth[known], axis=0, return_inverse=True)
    count = np.bincount(cosmologies[known], minlength=1)
    n_emulator = round(EMULATOR_SHARE * count.min())
    if len(theta) < 3 or n_emulator < 3:
        raise InputError(f"{path}: expected at least 3 cosmologies of 4 maps or more, got "
                         f"{len(theta)} of {count.min()} to {count.max()}")
    if 2 * count.min() < count.max():
        warn(f"{path}: cosmologies have {count.min()} to {count.max()} maps, {n_emulator} of each "
             "feed the emulator; leave out those of few maps")
    realisation, split = np.arange(len(truth), dtype=np.int32), np.full(len(truth), TEST, np.int8)
    for c in range(len(theta)):
        rows = np.flatnonzero(cosmologies == c)
        realisation[rows], split[rows] = np.arange(len(rows)), HOLDOUT
        # maps at one place of all cosmologies may share a seed: with the same places everywhere,
        # S_8 of the Columbia maps came out 0.24 sd off
        split[seeds.generator(seed, seeds.SPLIT, c).permutation(rows)[:n_emulator]] = EMULATOR
    digest, d = digest_file(path), summaries.shape[1]
    data = {"summaries": summaries, "split": split, "cosmology": cosmologies,
            "realisation": realisation}
    named = {"map": np.arange(len(truth)), "summary": np.array([f"summary_{k}" for k in range(d)])}
    return File(path=path, kind="predictions", seed=seed, inputs={"label": digest}, dims={},
                settings={"method": "given", "model": "given", "n_summary": d,
                          "target": "both" if (split == TEST).any() else "holdout"}, attrs={},
                groups={"predictions": data, "constant_data": {"design": theta}}, versions={},
                coords={"predictions": named}, code_version="", created_at="", digest=digest,
                origin={"name": path.stem, "predictions": str(path)})


def _foreign_tables(path):
    """Summaries (n, d) and cosmologies (n, 2), float64, of a file."""
    kind = path.suffix.lower()
    found = _columns(path) if kind == ".csv" else arrays_of(path)
    try:
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = dict(file)
    except Exception as error:             # a damaged archive raises anything from zipfile to NumPy
        raise InputError(f"{path}: cannot be read as .npz ({error})") from None
    for names in (SUMMARIES, TRUTHS):
        if not set(names) & set(found):
            raise InputError(f"{path}: expected an array called {' or '.join(names)}, got "
                             f"{', '.join(found) or 'none'}; see run_mcmc.py --help")
        tables = [name for name in names if name in found and np.ndim(found[name]) == 2]
        if len(tables) > 1:
            raise InputError(f"{path}: expected one of {' and '.join(tables)}, got both; keep one")
    summaries, truth = (next(np.asarray(found[name]) for name in names if name in found)
                        for names in (SUMMARIES, TRUTHS))
    truth = array(f"{path}: cosmologies", truth, (None, None), ("f", "i", "u"), finite=False,
                  advice="give Omega_m and S_8 of each map")
    summaries = array(f"{path}: summaries", summaries, (len(truth), None), ("f", "i", "u"),
                      advice="give a row of finite numbers for each map").astype(np.float64)
    size, truth = np.abs(summaries).max(initial=0.0), truth[:, :2].astype(np.float64)
    if not 1.0 / MAX_SUMMARY < size < MAX_SUMMARY:
        raise InputError(f"{path}: expected summaries of a size from {1.0 / MAX_SUMMARY:g} to "
                         f"{MAX_SUMMARY:g}, got up to {size:g}; scale them")
    if truth.shape[1] < 2 or (np.isnan(truth).sum(1) == 1).any():
        raise InputError(f"{path}: expected both Omega_m and S_8 of each map, or NaN for both, got "
                         "one without the other; give both")
    if np.isfinite(truth).any():
        plausible(path, truth, "give Omega_m and S_8 of each map", PLAUSIBLE)
    return np.ascontiguousarray(summaries), np.ascontiguousarray(truth)


def _columns(path):
    """Summaries and cosmologies of a .csv with a header."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:     # Excel begins with a mark
            head, *rows = csv.reader(stream)
        head = [name.strip() for name in head]
        if not set(PARAMS) < set(head) or len(set(head)) < len(head) or (
                {name.lower() for name in head} & {"", "map", "index", "id", "unnamed: 0"}):
            raise ValueError(f"got {', '.join(name or '(no name)' for name in head)}")
        for i, row in enumerate(rows, 2):
            if len(row) not in (0, len(head)):
                raise ValueError(f"line {i} has {len(row)} values, the first {len(head)}")
        rows = [row for row in rows if row]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(head))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a first line with Omega_m, S_8 and the names of the "
                         f"summaries alone, and numbers in all others ({error})") from None
    at = [head.index(name) for name in PARAMS]
    return {SUMMARIES[0]: np.delete(values, at, axis=1), TRUTHS[0]: values[:, at]}
