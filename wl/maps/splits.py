"""Which maps a run uses, and which realisations train, feed the emulator, or are held out.

Realisations are split, never single maps.
"""
import dataclasses

import numpy as np

from ..core import seeds
from ..core.checks import InputError, Options, option
from ..core.params import EMULATOR, HOLDOUT, TARGETS, TEST, TRAIN
from .dataset import RELEASES

DEFAULT_DATA = "data"
DEFAULT_REALISATIONS, DEFAULT_HOLDOUT, DEFAULT_EMULATOR = 32, 0.15, 0.25


@dataclasses.dataclass(frozen=True)
class MapOptions(Options):
    """Which maps, and how their realisations are split."""
    data: str = option(
        DEFAULT_DATA, "folder of a data set, or of several (simulated is taken); one without "
        "is simulated, on the mask and labels that are there", metavar="DIR")
    release: str = option("auto", "which of several releases in one folder",
                          choices=("auto", *RELEASES))
    test_maps: str | None = option(
        None, "name of the file of test maps, where the folder has several", metavar="NAME")
    realisations: int | None = option(
        None, "realisations per cosmology of a set that is simulated (default: "
        f"{DEFAULT_REALISATIONS}); a set that is there must have this number",
        metavar="N", positive=True)
    emulator_fraction: float | None = option(
        None, "share of the realisations kept from training, for the mean and covariance of the "
        f"summaries (default: {DEFAULT_EMULATOR}; with folds all feed them)", metavar="F",
        within=(0.0, 1.0))
    holdout_fraction: float | None = option(
        None, "share of the realisations kept from both, for a score (default: 0 where the test "
        f"maps have a truth and only they are asked for, else {DEFAULT_HOLDOUT})", metavar="F",
        within=(0.0, 1.0))
    target: str | None = option(
        None, "maps to infer (default: test where they have a truth, else both)", choices=TARGETS)

    def __post_init__(self):
        super().__post_init__()
        if self.target in ("holdout", "both") and self.holdout_fraction == 0.0:
            raise InputError(f"--target {self.target}: expected --holdout-fraction above 0, got 0")
        holdout, emulator = self.holdout_fraction or 0.0, self.emulator_fraction
        emulator = DEFAULT_EMULATOR if emulator is None else emulator
        if emulator == 0.0 or emulator + holdout >= 1.0:
            raise InputError("--emulator-fraction and --holdout-fraction: expected fractions that "
                             f"leave some for training, got {emulator} and {holdout}")

    def for_set(self, maps) -> "MapOptions":
        """The same with what is left open decided for a MapSet. Raises InputError."""
        default = ("test" if maps.has_truth else "both") if maps.n_test else "holdout"
        target, holdout = self.target or default, self.holdout_fraction
        if target != "holdout" and maps.n_test == 0:
            raise InputError(f"--target {target}: {maps.folder} has no test maps; give holdout")
        if holdout is None:
            holdout = 0.0 if target == "test" else DEFAULT_HOLDOUT
        return dataclasses.replace(self, release=maps.release, target=target,
                                   holdout_fraction=holdout,
                                   emulator_fraction=self.emulator_fraction or DEFAULT_EMULATOR)


@dataclasses.dataclass(frozen=True)
class Split:
    """What each realisation of a data set is used for."""
    code: np.ndarray                # (n_realisation,) int8, of params.SPLITS
    fold: np.ndarray                # (n_realisation,) int8, its fold, -1 without folds
    is_shared: np.ndarray           # (n_realisation,) bool, of a fold, but train no network
    n_cosmology: int
    n_test: int                     # test maps that are inferred
    options: MapOptions             # decided for the set

    has_folds = property(lambda self: bool((self.fold >= 0).any()),
                         doc="Whether several networks take turns in what they train on.")
    n_emulator = property(lambda self: int((self.code == EMULATOR).sum()),
                          doc="Realisations per cosmology that feed the emulator.")

    def rows_of(self, chosen: np.ndarray) -> np.ndarray:
        """Maps (n,) int64 of the chosen realisations (n_realisation,) bool, in their order."""
        return np.flatnonzero(np.tile(chosen, self.n_cosmology))

    def inferred(self) -> np.ndarray:
        """Codes of the hold-out and test maps, one for each: (n,) int."""
        return np.repeat((HOLDOUT, TEST), (len(self.rows(HOLDOUT)), self.n_test))

    def rows(self, code: int) -> np.ndarray:
        """Maps of one split, (n,) int64. code: TRAIN, EMULATOR or HOLDOUT."""
        return self.rows_of(self.code == code)

    @property
    def n_train(self) -> int:
        """Maps that one network trains on (the first, where folds differ by one realisation)."""
        chosen = (self.fold > 0) & ~self.is_shared if self.has_folds else self.code == TRAIN
        return int(chosen.sum()) * self.n_cosmology

    def stored(self) -> dict:
        """What a file of summaries says of the split."""
        o = self.options
        return {"release": o.release, "target": o.target, "holdout_fraction": o.holdout_fraction,
                "emulator_fraction": None if self.has_folds else o.emulator_fraction}


def split_set(maps, options, folds: int, trains: bool, seed: int) -> Split:
    """Split the realisations of a data set.

    maps, options, seed: dataset.MapSet, MapOptions, int
    folds: int, networks that each predict what they were not trained on; 1 for none
    trains: bool, whether a network is trained; else all but the hold-out feed the emulator
    Raises InputError when a part would be empty.
    """
    options, n = options.for_set(maps), maps.n_realisation
    n_test = maps.n_test if options.target != "holdout" else 0
    code, fold = np.full(n, EMULATOR, np.int8), np.full(n, -1, np.int8)
    is_shared = np.zeros(n, bool)
    if folds > 1:
        code, fold, is_shared = split_folds(n, folds, options.holdout_fraction, seed)
    elif trains or options.holdout_fraction > 0:
        code = split_realisations(n, options.emulator_fraction, options.holdout_fraction, seed)
    if not trains:
        code[code == TRAIN] = EMULATOR
    return Split(code, fold, is_shared, maps.n_cosmology, n_test, options)


def split_realisations(n_realisation: int, emulator: float, holdout: float,
                       seed: int) -> np.ndarray:
    """Which realisations train the network, feed the emulator, or are held out.

    By realisation and never by map: the first public release shares its 256 seeds between the
    cosmologies, so that two maps of one realisation are not independent.
    emulator, holdout: floats, shares of the realisations
    Returns (n_realisation,) int8, codes of params.SPLITS. Raises InputError for an empty part.
    """
    n_emulator = max(1, round(emulator * n_realisation))
    n_holdout = max(int(holdout > 0), round(holdout * n_realisation))
    if n_emulator + n_holdout >= n_realisation:
        raise InputError(f"expected enough realisations to split, got {n_realisation} for "
                         f"fractions {emulator} and {holdout}; simulate more realisations")
    order = seeds.generator(seed, seeds.SPLIT).permutation(n_realisation)
    code = np.full(n_realisation, TRAIN, np.int8)
    code[order[:n_emulator]] = EMULATOR
    code[order[n_emulator:n_emulator + n_holdout]] = HOLDOUT
    return code


def split_folds(n_realisation: int, folds: int, holdout: float, seed: int) -> tuple:
    """Folds of realisations, for networks that each predict what they were not trained on.

    Network k trains on the realisations of the other folds. One in 32 realisations belongs to a
    fold but trains no network: on these maps all networks can be compared (covariance.as_average).
    holdout: float, share of the realisations held out from all
    Returns (n_realisation,) each: code, int8 with EMULATOR for every realisation of a fold; fold,
    int8, -1 for the hold-out; is_shared, bool, those that train no network. Raises InputError.
    """
    n_holdout = max(int(holdout > 0), round(holdout * n_realisation))
    n_shared = max(1, round(n_realisation / 32))
    max_folds = min(n_realisation - n_holdout - n_shared, 100)
    if not 2 <= folds <= max_folds:
        raise InputError(
            f"--folds: expected 2 to {max_folds} for {n_realisation} realisations, got {folds}; "
            "simulate more realisations, or give fewer folds" if max_folds >= 2 else
            f"expected at least {n_holdout + n_shared + 2} realisations for --folds {folds}, got "
            f"{n_realisation}; simulate more")
    order = seeds.generator(seed, seeds.SPLIT).permutation(n_realisation)
    code, fold = np.full(n_realisation, EMULATOR, np.int8), np.full(n_realisation, -1, np.int8)
    code[order[:n_holdout]] = HOLDOUT
    fold[order[n_holdout:]] = np.arange(n_realisation - n_holdout) % folds
    is_shared = np.zeros(n_realisation, bool)
    is_shared[order[n_holdout:n_holdout + n_shared]] = True
    return code, fold, is_shared
