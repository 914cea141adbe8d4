"""What earlier runs give: predictions, first weights, a number type; summaries of new maps."""
import contextlib
import hashlib
import pathlib

import numpy as np

from ..core import hdf5
from ..core.checks import InputError
from ..core.files import digest_file, refuse_difference, to_json
from ..core.hdf5 import Folder
from ..core.params import EMULATOR, TEST, noise_sigma
from ..core.progress import Progress, warn
from ..maps.batches import NO_NOISE, Batches, Frame, Part
from ..maps.dataset import read_new
from . import handmade
from .likeness import p_values
from .options import PRECISIONS, SPECTRUM, NetworkOptions

MAX_RMS_RATIO = 1.15           # of the noise alone to the new maps, without a warning


def open_run(folder) -> hdf5.File:
    """The predictions of a folder's finished run, its networks unchanged. Raises InputError."""
    file = hdf5.read(pathlib.Path(folder) / "predictions.h5", "predictions")
    if "mask" not in file.groups["constant_data"]:
        raise InputError(f"{file.path}: holds no mask, it is too old; repeat its run with --force")
    for name, digest in file.origin["networks"].items():
        path = file.path.with_name(name)
        if not path.is_file() or digest_file(path) != digest:
            state, what = ("not", "both") if path.is_file() else ("missing, not", file.path.name)
            raise InputError(f"{path}: is {state} the network of {file.path.name}; delete {what} "
                             "and repeat the run")
    return file


def start_of(options: NetworkOptions, folder: Folder) -> str:
    """Digest of the networks of --init. Raises InputError where they are none to begin with."""
    run, name = open_run(options.init), f"--init {options.init}"
    if folder.out.resolve() == run.path.parent.resolve():
        raise InputError(f"{name}: is where this run's results go; give another --out")
    for part in {*options.parts} - {*run.settings["model"].split("+")}:
        raise InputError(f"{name}: expected a network {part}, got {run.settings['model']}; give a "
                         "run of this --model")
    return hashlib.sha256(to_json(run.origin["networks"]).encode()).hexdigest()


def refuse_seen(work, inputs: dict) -> None:
    """InputError where a predict.Work splits the file of maps that --init learnt from otherwise."""
    o = work.options
    run = None if o.init is None else open_run(o.init)
    if run is not None and run.inputs.get("kappa") == inputs["kappa"]:
        names = "seed", "folds", "holdout_fraction", "emulator_fraction"
        old, new = ({k: of.get(k) for k in names} for of in (
            {**run.settings, "seed": run.seed},
            {**work.split.stored(), "folds": o.folds, "seed": work.folder.seed}))
        refuse_difference(f"--init {o.init}: learnt from these very maps, split by", old, new,
                          "give that run's --seed, --folds, --target and fractions")


def first_of(job, kind: type):
    """The Network or Dense that a job of --init begins with: that of its fold. None without it."""
    if job.options.init is None:
        return None
    run = open_run(job.options.init)
    parts, folds, members = (run.settings[name] for name in ("model", "folds", "members"))
    tag = f"_{job.part}" if "+" in parts else ""
    if folds * members > 1:
        tag += f"_f{job.fold % folds}_m{job.member % members}"
    return kind.load(run.path.with_name(f"model{tag}.pt"))


def precision_of(folder: Folder) -> str | None:
    """Number type that the folder's networks were begun with, or None: it stays on any machine."""
    for path in sum((sorted(folder.out.glob(name)) for name in
                     ("predictions*.h5", "model*.pt", "checkpoint*.pt")), []):
        with contextlib.suppress(InputError, LookupError, TypeError):     # of a damaged file
            if path.suffix == ".h5":
                settings = hdf5.read(path, "predictions", groups=()).settings
            else:
                from .network import load_torch
                settings = load_torch(path)["settings"]
            if settings["precision"] in PRECISIONS:
                return settings["precision"]


def apply(run: hdf5.File, path, wanted, threads: int, quiet: bool) -> hdf5.File:
    """Summaries of new maps by a run's networks, beside its summaries of the emulator split.

    run: hdf5.File of open_run()
    path: str or Path, .npy of the new maps, as dataset.read_new() takes them
    wanted: function of the split codes (n_map,) that gives the rows needed; other summaries are NaN
    threads, quiet: int, changes no result; bool, whether no progress is shown
    Returns a File like the run's, in memory: the new maps in place of hold-out and test maps.
    Raises InputError for maps that do not fit the run.
    """
    mask = run.groups["constant_data"]["mask"]
    maps = read_new(path, mask)
    some, n_gal = maps[::-(-len(maps) // 64)].astype(np.float64), run.settings["n_gal"]
    found, noise = np.sqrt(np.mean(some**2)), noise_sigma(n_gal)
    if not noise / MAX_RMS_RATIO < found < 2.0 * noise:
        warn(f"{path}: a pixel has an rms of {found:.3g}, the noise that the run learnt alone has "
             f"{noise:.3g} ({n_gal:g} galaxies per square arcminute): give maps of this depth")
    old = run.groups["predictions"]
    kept, n = np.flatnonzero(old["split"] == EMULATOR), len(maps)
    group = {name: np.concatenate([values[kept], np.full(
        (n, *values.shape[1:]), np.nan if values.dtype.kind == "f" else -1)])
        for name, values in old.items()}
    group["split"][len(kept):] = TEST
    group["realisation"][len(kept):] = np.arange(n)
    if "p_value_all" in old and not (own := run.path.with_name("features.h5")).exists():
        raise InputError(f"{own}: is missing; delete {run.path.name} and repeat the run")
    rows = wanted(group["split"])
    summaries, sd, features = _summarise(run, maps, mask, rows - len(kept), threads, quiet)
    group["summaries"][rows] = summaries
    if sd is not None:
        group["sd"][rows] = sd
    for name, values in _likeness(run, kept, features, summaries).items():
        group.setdefault(name, np.full(len(group["split"]), np.nan))[rows] = values
    inputs = {"label": run.inputs["label"], "run": run.digest, "maps": digest_file(path)}
    ids = np.concatenate([n + np.arange(len(kept)), np.arange(n)])
    coords = {**run.coords, "predictions": {**run.coords["predictions"], "map": ids}}
    return run._replace(
        path=pathlib.Path(path), inputs=inputs, groups={**run.groups, "predictions": group},
        coords=coords, origin={"name": pathlib.Path(path).stem, "new_maps": inputs["maps"]},
        settings={**run.settings, "target": "test", "holdout_fraction": 0.0},
        digest=hashlib.sha256(to_json(inputs).encode()).hexdigest())


def _summarise(run, maps, mask, rows, threads, quiet):
    """Summaries (n, d) of new maps, their error bars (n, 2) and statistics, both or None."""
    from . import predict
    settings, frame = run.settings, Frame(mask, pack=False)
    def measured(statistic):
        progress = Progress(len(rows), "measuring the maps", quiet)
        source = Batches(maps, frame, scale=1.0, n_gal=None)
        out = handmade.measure(statistic, source, rows, NO_NOISE, threads, progress)
        progress.close()
        return out
    if settings["method"] == SPECTRUM:
        return measured(handmade.Spectrum(frame.shape, int(mask.sum()))), None, None
    names = [name for name in settings if name in NetworkOptions.__dataclass_fields__]
    options = NetworkOptions(**{name: settings[name] for name in names}, threads=threads)
    folder, features = Folder(run.path.parent, seed=run.seed, quiet=quiet), None
    if own := options.of_statistics():
        features = measured(handmade.Features(frame.observed, settings["n_gal"], own["scales"]))
        features = features.astype(np.float32)
    def of(job):
        if job.part == "statistics":
            from . import dense
            return dense.Dense.load(job.model).predict(features)
        from .network import Network
        own, network = options.of_part(job.part), Network.load(job.model)
        source = Batches(maps, Frame(mask, pack=own.packs), scale=network.recipe.scale, n_gal=None)
        return job.summarised(network, [Part(source, rows, NO_NOISE)])
    jobs = predict.jobs_of(predict.Work(None, None, options, folder))
    summaries, log_sds = predict.over_parts(options, [of(job) for job in jobs])
    summaries = np.mean(summaries, 0)
    if "stacking" in run.groups["constant_data"]:
        summaries = predict.combined(summaries, run.groups["constant_data"]["stacking"])
    return summaries, None if log_sds is None else np.exp(np.mean(log_sds, 0)), features


def _likeness(run, kept, features, summaries):
    """p-values of new maps as the run's own test maps have them, {} if these have none."""
    old = run.groups["predictions"]
    if "p_value_all" not in old:
        return {}
    file = hdf5.read(run.path.with_name("features.h5"), "features")
    if (file.seed, {**run.inputs, **file.inputs}) != (run.seed, run.inputs):
        raise InputError(f"{file.path}: is not what the run's summaries were made from; delete "
                         f"{run.path.name} and repeat the run")
    realisation = old["realisation"][kept]
    own, n_cosmology = file.groups["features"]["fixed"], len(run.groups["constant_data"]["design"])
    place = old["cosmology"][kept] * (len(own) // n_cosmology) + realisation
    return p_values(handmade.blocks(file), (old["summaries"][kept], own[place]), realisation,
                    (summaries, features))
