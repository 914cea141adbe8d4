"""The folder of a run's results: which stages stand, and what is refused."""
import dataclasses
import pathlib

from . import hdf5
from .checks import InputError
from .progress import say, warn
from .provenance import digest_files, refuse_difference

# a message names these first: the other settings follow from them
LEADING = ("method", "model", "sampler")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where a run's files go.

    out: Path, the folder
    home: Path or None, the folder that the run has without --out; finished predictions are taken from there
    seed: int, of everything random
    force: bool, whether results with other settings are replaced
    quiet: bool, whether notes are left out
    """
    out: pathlib.Path
    home: pathlib.Path | None = None
    seed: int = 1
    force: bool = False
    quiet: bool = False

    def digests(self, files: dict) -> dict:
        """sha256 of each of a data set's files, kept in inputs.json: a second run reads no gigabytes."""
        return digest_files(files, self.out / "inputs.json")

    def reuse(self, name: str, kind: str, settings: dict, inputs: dict) -> hdf5.File | None:
        """The file of a stage if it stands, None if the stage has to be done.

        name: of the file
        kind: one of hdf5.KINDS
        settings, inputs: what the file must have been made with and from
        Raises InputError for a file with other settings or inputs, or a damaged one, without --force.
        """
        try:
            found = hdf5.reusable(self.out / name, kind, settings, inputs, seed=self.seed)
        except InputError:
            if not self.force:
                raise
            return None
        if found is not None:
            say(f"{found.path}: done before, not repeated", self.quiet)
        return found

    def at_home(self, name: str, kind: str, settings: dict, inputs: dict) -> hdf5.File | None:
        """The same file in the run's usual folder: another --out for another prior trains nothing."""
        if self.home is None:
            return None
        try:
            found = hdf5.reusable(self.home / name, kind, settings, inputs, seed=self.seed)
        except InputError:
            return None
        if found is not None:
            say(f"{found.path}: the same {kind}, not repeated", self.quiet)
        return found

    def refuse_other(self, name: str, kind: str, settings: dict) -> None:
        """Raise InputError if a file is there that was made with other settings or another seed."""
        path = self.out / name
        if self.force or not path.exists():
            return
        file, start = hdf5.read(path, kind, groups=()), f"{path}: was made with"
        refuse_difference(start, {k: file.settings.get(k) for k in LEADING},
                          {k: settings.get(k) for k in LEADING})
        refuse_difference(start, file.settings, settings)
        refuse_difference(start, {"seed": file.seed}, {"seed": self.seed})

    def is_whole(self, name: str, kind: str) -> bool:
        """False for a missing file, or a damaged one that --force replaces. Raises InputError."""
        if not (self.out / name).exists():
            return False
        try:
            return bool(hdf5.read(self.out / name, kind, groups=()))
        except InputError as error:
            if not self.force:
                raise InputError(f"{error}; or give --force") from None
            warn(error)
            return False

    def write(self, name: str, kind: str, groups: dict, *, coords: dict | None = None,
              settings: dict, inputs: dict, origin: dict | None = None) -> hdf5.File:
        """Write a stage's file whole or not at all, and read it back; arguments as hdf5.write()."""
        hdf5.write(self.out / name, kind, groups, coords=coords, settings=settings, seed=self.seed,
                   inputs=inputs, origin=origin)
        return hdf5.read(self.out / name, kind)
