"""The only place that knows HDF5: the layout of the files, atomic writes, digests.

The layout is netCDF-4's and ArviZ's: a group per kind of content, each with its own dimension
scales, so that `xarray.open_dataset(path, group="posterior")`, `arviz.from_netcdf` and `h5dump`
open a file unchanged. float16 variables crash netCDF4-python, a "/" in a name hides the variable,
libver "latest" shuts out HDF5 1.10, and a bool has no netCDF type.

Two digests guard a file. The seal, 40 bytes behind the end of the HDF5 file, is the sha256 of all
bytes, checked before HDF5 opens the file: a flipped bit can abort the process. The content digest
is the sha256 of settings, seed, inputs and arrays: later files name it as their input.
"""
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections import namedtuple

import h5py
import numpy as np

from .. import __version__
from .checks import InputError, RunError, within
from .files import (atomic, code_version, digest_array, digest_file, refuse_difference, to_json,
                    unusable, versions)
from .params import FLAGS, LATEX, SPLITS, UNITS, VARIABLES
from .progress import say, stop, warn

SCHEMA_VERSION = 3
# kind of file: the command that makes it
KINDS = {"statistics": "run_mcmc.py", **dict.fromkeys(("predictions", "posterior", "features"),
                                                      "run_mcmc.py or run_direct.py")}
SEAL = b"\nwl-seal"           # behind the HDF5 file, with 32 bytes of sha256 after it
# of settings, the ones that a message names first: the others follow from them
LEADING = ("method", "model", "sampler")

Var = namedtuple("Var", "dims values attrs", defaults=((),))
Var.__doc__ = """One variable: names of dimensions, an array, attributes beyond params.VARIABLES."""

File = namedtuple("File", "path kind settings seed inputs groups dims coords attrs versions "
                          "code_version created_at digest origin")
File.__doc__ = """A file that was read and verified; digest is the one of its contents.

settings, inputs, versions, origin: dicts; seed: int; path: Path; the rest: str
groups, dims, attrs: {group: {name: array, tuple, dict}}; coords: {group: {dimension: array}}
"""


def write(path, kind: str, groups: dict, *, coords: dict | None = None,
          settings: dict | None = None, seed: int = 0, inputs: dict | None = None,
          origin: dict | None = None) -> str:
    """Write one file atomically; equal contents give equal bytes but for the time of writing, which
    the environment variable SOURCE_DATE_EPOCH (seconds) replaces.

    groups: {group: {name: Var}}
    coords: {dimension: values} for every group, or {(group, dimension): values} for one (the maps
        whose draws are kept, say); a dimension without one counts from 0
    settings, seed: dict of JSON values, and int, all that the contents depend on
    inputs: {name: sha256 hex} of what the file was made from
    origin: dict of JSON values, where the inputs lay; no part of the file's identity
    Returns the digest of the contents (File.digest). Raises RunError when the disk fails.
    """
    parts = {group: _prepared(group, named, coords or {}) for group, named in groups.items()}
    dims, attrs = ({g: {n: getattr(v, what) for n, v in part.items()} for g, part in parts.items()}
                   for what in ("dims", "attrs"))
    digests = {f"{g}/{n}": digest_array(v.values) for g in parts for n, v in parts[g].items()}
    root = {"schema_version": SCHEMA_VERSION, "kind": kind, "settings": to_json(settings or {}),
            "seed": int(seed), "inputs": to_json(inputs or {}), "digests": to_json(digests)}
    identity = to_json([list(root.values()), dims, attrs])
    root |= {"content": hashlib.sha256(identity.encode()).hexdigest(), "origin": to_json(
        origin or {}), "versions": to_json(versions()), "code_version": code_version()}
    created = within("SOURCE_DATE_EPOCH in the environment", os.environ.get("SOURCE_DATE_EPOCH")
                     or int(time.time()), 0, 1 << 36, integer=True)
    common = {"created_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(created)),
              "inference_library": "wl", "inference_library_version": __version__}
    image = _image({**root, **common}, common, parts)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        stream.write(image)
        stream.write(SEAL + hashlib.sha256(image).digest())
    return root["content"]


def _prepared(group, named, coords):
    """The variables of a group in a form that can be stored, its coordinates first."""
    sizes, found, made = {}, {}, {}
    for name, var in named.items():
        dims, values, attrs = Var(*var)
        values = _storable(f"{group}/{name}", values)
        for one in (group, name, *dims):
            if not one or "/" in one or one.startswith((".", "_")) or not one.isprintable():
                raise ValueError(f"{one!r} cannot name a group, variable or dimension")
        if len(dims) != values.ndim or len({name, *dims}) <= len(dims) or any(
                sizes.setdefault(dim, size) != size for dim, size in zip(dims, values.shape)):
            raise ValueError(f"{group}/{name}: {dims} do not fit {values.shape} and {sizes}")
        found[name] = Var(tuple(dims), values, _clean_attrs(name, values.dtype, dict(attrs)))
    for dim, size in sizes.items():
        values = coords.get((group, dim), coords.get(dim, np.arange(size, dtype=np.int32)))
        values = _storable(dim, values)
        if values.shape != (size,) or dim in named:
            raise ValueError(f"{group}/{dim}: expected {size} coordinates, got {values.shape}")
        made = {dim: Var((dim,), values, _clean_attrs(dim, values.dtype, {})), **made}
    return {**made, **found}


def _image(root, common, parts):
    """The bytes of the HDF5 file, made in memory: on a full disk HDF5 itself crashes at the end."""
    name = f"image{os.urandom(8).hex()}"                        # of two threads that write at once
    with h5py.File(name, "w", driver="core", backing_store=False, libver=("earliest", "v110"),
                   track_order=True) as file:
        file.attrs.update(root)
        for group, variables in parts.items():
            target = file.create_group(group, track_order=True)
            target.attrs.update(common)
            for name, (dims, values, attrs) in variables.items():
                options, kind = {}, values.dtype.kind
                if kind == "O":                # filters see only the pointers of strings
                    options["dtype"] = h5py.string_dtype()
                elif values.size and values.ndim:
                    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True,
                               **({"fillvalue": np.nan} if kind == "f" else {})}
                data = values.astype(np.int8) if kind == "b" else values
                dataset = target.create_dataset(name, data=data, **options)
                if dims == (name,):
                    dataset.make_scale(name)
                dataset.attrs.update(attrs)
                for axis, dim in enumerate(dims if dims != (name,) else ()):
                    dataset.dims[axis].attach_scale(target[dim])       # coordinates came first
        file.flush()
        return file.id.get_file_image()


def _storable(name, values):
    values = np.asarray(values)
    if values.dtype.kind in "OU" and all(isinstance(x, str) for x in values.ravel().tolist()):
        return values.astype(object)
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise ValueError(f"{name}: values of dtype {values.dtype} cannot be stored")
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _clean_attrs(name, dtype, own):
    """Attributes as strings, numbers and arrays; HDF5 refuses long lists, so they become JSON."""
    known = {}
    if name in VARIABLES:
        known = {"units": UNITS.get(name, "1"), "long_name": VARIABLES[name]}
    if name in LATEX:
        known["latex"] = LATEX[name]
    if name in ("flag", "split"):
        which, words = ("masks", FLAGS) if name == "flag" else ("values", dict(enumerate(SPLITS)))
        known |= {f"flag_{which}": np.array([*words], dtype),
                  "flag_meanings": " ".join(words.values())}
    attrs = {n: v.item() if isinstance(v, np.generic) else v for n, v in {**known, **own}.items()}
    attrs = {n: v if isinstance(v, (str, float, np.ndarray)) or type(v) is int else to_json(v)
             for n, v in attrs.items()}
    return {**attrs, "dtype": "bool"} if dtype.kind == "b" else attrs


def _opened(path):
    """A file without a lock, which some disks do not have; with one if xarray holds it open."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:                   # HDF5 opens no file twice with and without locks
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")


def read(path, kind: str | None = None, groups: tuple | None = None) -> File:
    """Read and verify a file.

    kind, groups: str, what it must be, and names of the groups to read; None for any, and for all
    Raises InputError, naming the file and what to do, if it is missing, truncated, damaged, changed
    by another program, not ours, of another kind or of another schema version.
    """
    path, maker = pathlib.Path(path), KINDS.get(kind, "the run that made it")
    def refused(what, advice=f"check the path or make it with {maker}"):
        return InputError(f"{path}: {what}; {advice}")
    again = "delete it and repeat the run that made it, or copy it again"
    try:
        with open(path, "rb") as stream:
            start, size = stream.read(8), os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - 40))
            seal = stream.read(40)
    except OSError as error:
        raise refused(f"expected a {kind or 'result'} file, cannot read it "
                      f"({error.strerror})") from None
    if start != b"\x89HDF\r\n\x1a\n":
        raise refused(f"expected an HDF5 file, got {'another kind of' if size else 'an empty'} one")
    sealed = seal.startswith(SEAL)
    if sealed and digest_file(path, end=size - 40) != seal[8:].hex():
        raise refused("is truncated, damaged or was changed", again)
    try:
        with _opened(path) as file:
            root = _plain_attrs(file)
            if not {"schema_version", "kind", "content"} <= set(root):
                raise refused("is an HDF5 file, but not one of wl")
            version, found = root["schema_version"], root["kind"]
            if version != SCHEMA_VERSION:
                raise refused(f"has schema version {version}, this wl reads {SCHEMA_VERSION}",
                              f"make it anew with {KINDS.get(found, maker)} --force")
            if not sealed:
                raise refused("was changed by another program", again)
            if kind not in (None, found):
                raise refused(f"expected a {kind} file, got a {found} file", "check the path")
            return _read_groups(path, file, root, groups)
    except InputError:
        raise
    except Exception as error:          # h5py raises anything from OSError to UnicodeDecodeError
        stop()                          # and a SystemError in place of a signal's exception
        raise refused(f"is truncated, damaged or was changed ({type(error).__name__})",
                      again) from error


def _read_groups(path, file, root, wanted):
    """The File of an open HDF5 file. wanted: names of the groups to read, None for all."""
    chosen = [g for g in file if wanted is None or g in wanted]
    groups, dims, coords, attrs = ({g: {} for g in chosen} for _ in range(4))
    for group in chosen:
        for name, dataset in file[group].items():
            array = dataset.asstr()[...] if h5py.check_string_dtype(dataset.dtype) else dataset[...]
            array = np.asarray(array).astype(str) if array.dtype.kind == "O" else np.asarray(array)
            array = array.astype(bool) if dataset.attrs.get("dtype") == "bool" else array
            (coords if dataset.is_scale else groups)[group][name] = array
            if not dataset.is_scale:
                dims[group][name] = tuple(d[0].name.rsplit("/", 1)[1] for d in dataset.dims)
                attrs[group][name] = _plain_attrs(dataset)
    texts = {n: json.loads(root[n]) for n in ("settings", "inputs", "versions", "origin")}
    plain = {n: root[n] for n in ("kind", "seed", "code_version", "created_at")}
    return File(path=path, groups=groups, dims=dims, coords=coords, attrs=attrs,
                digest=root["content"], **texts, **plain)


def _plain_attrs(node):
    hidden = ("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST")
    return {n: v.item() if isinstance(v, np.generic) else v
            for n, v in node.attrs.items() if n not in hidden}


def arrays_of(path) -> dict | None:
    """{name: array} at the root of another program's HDF5 file; None for any other path."""
    try:
        with _opened(path) as file:
            if {"schema_version", "kind"} <= set(file.attrs):
                return None
            return {name: node[...] for name, node in file.items()
                    if isinstance(node, h5py.Dataset)}
    except Exception:                       # h5py raises anything from OSError to RuntimeError
        return None


def reusable(path, kind: str, settings: dict, inputs: dict, seed: int) -> File | None:
    """The verified file that was made with these settings and inputs, None if there is none.

    Raises InputError for a damaged file, and at the first setting or input that differs as JSON.
    """
    if not os.path.lexists(path):
        return None
    try:
        file = read(path, kind)
    except InputError as error:
        raise InputError(f"{error}; or give --force to overwrite it") from None
    refuse_difference(f"{path}: was made with", {**file.settings, "seed": file.seed},
                      {**settings, "seed": seed})
    refuse_difference(f"{path}: was made from other input,", file.inputs, inputs)
    return file


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where a run's files go."""
    out: pathlib.Path
    home: pathlib.Path | None = None    # of the run without --out: its predictions serve others
    seed: int = 1                       # of everything random
    force: bool = False                 # whether results with other settings are replaced
    quiet: bool = False                 # whether notes are left out
    lock: object = dataclasses.field(default=None, repr=False, compare=False)     # a files.Lock
    seen: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)  # of digests()

    def digests(self, files: dict) -> dict:
        """{name: sha256} of files {name: Path}. Raises InputError for one that cannot be read.

        inputs.json spares reading gigabytes again. RunError for one that changed since the first
        call: maps that are open may stay the old ones.
        """
        known, fresh, cache = {}, {}, self.out / "inputs.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            known = {name: {"stamp": list(entry["stamp"]), "sha256": str(entry["sha256"])}
                     for name, entry in json.loads(cache.read_text()).items()}
        for name, path in files.items():              # a damaged cache: all is read again
            try:
                at = os.stat(path)
            except OSError as error:
                raise unusable(path, "read", error) from None
            file = at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns
            if self.seen.setdefault(path, file) != file:
                raise RunError(f"{path}: was changed during the run; run the same command again")
            # the change time too: archives and copies give other contents the same one of writing
            stamp = [os.path.realpath(path), at.st_size, at.st_mtime_ns, at.st_ctime_ns]
            same = name in known and known[name]["stamp"] == stamp
            fresh[name] = known[name] if same else {"stamp": stamp, "sha256": digest_file(path)}
        if fresh != known:
            with atomic(cache) as part:
                part.write_text(json.dumps(fresh, indent=1))
        return {name: entry["sha256"] for name, entry in fresh.items()}

    def reuse(self, name: str, kind: str, settings: dict, inputs: dict,
              at_home: bool = False) -> File | None:
        """The file of a stage if it stands, None if the stage has to be done.

        kind, settings, inputs: as in write(), what the file must have been made with and from
        at_home: bool, whether one in the run's home will do; another prior trains nothing
        Raises InputError for a damaged file, or other settings or inputs, without --force.
        """
        for folder in (self.out, self.home)[:1 + (at_home and self.home is not None)]:
            try:
                found = reusable(folder / name, kind, settings, inputs, self.seed)
            except InputError:
                if folder == self.out and not self.force:
                    raise
                continue
            other = found and found.code_version.split()[0] != code_version().split()[0]
            if found is not None and not (other and self.force):
                if other:
                    warn(f"{found.path}: was made by other code; --force makes it again")
                say(f"{found.path}: done before, not repeated", self.quiet)
                return found
        return None

    def refuse_other(self, name: str, kind: str, settings: dict) -> None:
        """Raise InputError if a file is there that has other settings or another seed."""
        path = self.out / name
        if self.force or not path.exists():
            return
        file = read(path, kind, groups=())
        both = {**file.settings, "seed": file.seed}, {**settings, "seed": self.seed}
        for part in ([{k: one.get(k) for k in LEADING} for one in both], both):
            refuse_difference(f"{path}: was made with", *part)

    def is_whole(self, name: str, kind: str) -> bool:
        """False for a missing file, or a damaged one that --force replaces. Raises InputError."""
        try:
            return (self.out / name).exists() and bool(read(self.out / name, kind, groups=()))
        except InputError as error:
            if not self.force:
                raise InputError(f"{error}; or give --force") from None
            warn(error)
            return False

    def write(self, name: str, kind: str, groups: dict, **contents) -> File:
        """Write a stage's file and read it back. contents: as write() takes them, but the seed."""
        digest = write(self.out / name, kind, groups, seed=self.seed, **contents)
        file = read(self.out / name, kind)
        if file.digest != digest:
            raise RunError(f"{file.path}: was written over by another run; give another --out")
        return file
