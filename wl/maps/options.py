"""Which maps a run uses and what for: the options, their checks, and what of them goes into files."""
import argparse
import dataclasses

from ..core.checks import InputError, choice, positive, within
from .dataset import RELEASES

DEFAULT_DATA = "data"
DEFAULT_REALISATIONS = 32
DEFAULT_HOLDOUT = 0.15
TARGETS = ("test", "holdout", "both")


@dataclasses.dataclass(frozen=True)
class MapOptions:
    """Which maps, and how their realisations are split.

    data: str, folder of the set, or of folders with one
    release: str, "auto" or a key of dataset.RELEASES
    realisations: int or None, of a set that has to be simulated
    emulator_fraction: float, share of the realisations that feed mean and covariance
    holdout_fraction: float or None, share kept from both; None for what the target needs
    target: str or None, which maps are inferred; None for what the set allows
    """
    data: str = DEFAULT_DATA
    release: str = "auto"
    realisations: int | None = None
    emulator_fraction: float = 0.25
    holdout_fraction: float | None = None
    target: str | None = None

    def __post_init__(self):
        choice("--release", self.release, ("auto", *RELEASES))
        if self.realisations is not None:
            positive("--realisations", self.realisations, integer=True)
        within("--emulator-fraction", self.emulator_fraction, 0.0, 1.0)
        if self.holdout_fraction is not None:
            within("--holdout-fraction", self.holdout_fraction, 0.0, 1.0)
        if self.target is not None:
            choice("--target", self.target, TARGETS)
        if self.target in ("holdout", "both") and self.holdout_fraction == 0.0:
            raise InputError(f"--target {self.target}: expected --holdout-fraction above 0, got 0")
        if self.emulator_fraction + (self.holdout_fraction or 0.0) >= 1.0 or self.emulator_fraction <= 0.0:
            raise InputError("--emulator-fraction and --holdout-fraction: expected fractions that leave some "
                             f"for training, got {self.emulator_fraction} and {self.holdout_fraction or 0.0}")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "MapOptions":
        """From the command line's values. Raises InputError."""
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})

    def for_set(self, maps) -> "MapOptions":
        """The same with target and holdout_fraction decided for a data set.

        maps: dataset.MapSet
        Raises InputError for a target that the set does not have.
        """
        default = "test" if maps.has_truth and maps.n_test else "both" if maps.n_test else "holdout"
        target = self.target or default
        if target != "holdout" and maps.n_test == 0:
            raise InputError(f"--target {target}: {maps.folder} has no test maps; give --target holdout")
        holdout = self.holdout_fraction
        if holdout is None:
            holdout = 0.0 if target == "test" else DEFAULT_HOLDOUT
        if target != "test" and holdout == 0.0:
            raise InputError(f"--target {target}: expected --holdout-fraction above 0, got 0")
        return dataclasses.replace(self, release=maps.release, target=target, holdout_fraction=holdout)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of MapOptions to a parser."""
    add = parser.add_argument_group("maps").add_argument
    add("--data", default=DEFAULT_DATA, metavar="DIR",
        help="folder of the data set, or of folders with one (of several: simulated); a set is simulated "
             "when it holds none, on the mask and labels found there if they are")
    add("--release", default="auto", choices=("auto", *RELEASES),
        help="which of several releases in one folder")
    add("--realisations", type=int, default=None, metavar="N",
        help="realisations per cosmology of a set that has to be simulated (default: "
             f"{DEFAULT_REALISATIONS}); one that is there with another number is refused")
    add("--emulator-fraction", type=float, default=0.25, metavar="F",
        help="share of the realisations kept from training, for the mean and covariance of the summaries")
    add("--holdout-fraction", type=float, default=None, metavar="F",
        help="share of the realisations kept from both, for a score (default: 0 where the test maps have a "
             f"truth and only they are asked for, else {DEFAULT_HOLDOUT})")
    add("--target", default=None, choices=TARGETS,
        help="maps to infer (default: test where they have a truth, else both)")
