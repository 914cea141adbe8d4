"""A trained run on new maps: its networks summarise them, nothing is trained again."""
import hashlib
import pathlib

import numpy as np

from ..core import hdf5
from ..core.checks import InputError
from ..core.files import digest_file, to_json
from ..core.hdf5 import Folder
from ..core.params import EMULATOR, TEST, noise_sigma
from ..core.progress import Progress, warn
from ..maps.batches import NO_NOISE, Batches, Frame
from ..maps.dataset import read_new
from .combine import combined, over_parts
from .options import SPECTRUM, NetworkOptions
from .predict import Job

MAX_RMS_RATIO = 1.15           # of the new maps to the run's, or the inverse, without a warning


def open_run(folder) -> hdf5.File:
    """The predictions of a finished run, whose networks lie beside them unchanged.

    folder: str or Path, --out of the run
    Raises InputError.
    """
    file = hdf5.read(pathlib.Path(folder) / "predictions.h5", "predictions")
    if "mask" not in file.groups["constant_data"]:
        raise InputError(f"{file.path}: holds no mask, it is of an earlier version; repeat its "
                         "run with --force")
    for name, digest in file.origin["networks"].items():
        path = file.path.with_name(name)
        if not path.is_file() or digest_file(path) != digest:
            raise InputError(f"{path}: is {'not ' if path.is_file() else 'missing, not '}the "
                             f"network that {file.path.name} was made with; repeat the run")
    return file


def first_of(job: Job, kind: type):
    """The network of --init that a job begins with: in turn, where the run there has fewer.

    kind: Network or Dense
    Raises InputError where there is none.
    """
    from .network import load_torch
    run, o = pathlib.Path(job.options.init), job.options
    names = [name for name in sorted(open_run(run).origin["networks"])
             if load_torch(run / name)["settings"]["model"] == job.part]
    if not names:
        raise InputError(f"--init {run}: expected a run with a network {job.part}, got none; give "
                         "a run of this --model")
    return kind.load(run / names[(job.fold * o.members + job.member) % len(names)])


def apply(run: hdf5.File, path, wanted, threads: int, quiet: bool) -> hdf5.File:
    """Summaries of new maps by a run's networks, beside its summaries of the emulator split.

    run: hdf5.File of open_run()
    path: str or Path, .npy of the new maps, as dataset.read_new() takes them
    wanted: function of the split codes (n_map,) that gives the rows that are needed; the summaries
        of other new maps are NaN
    threads: int, changes no result
    quiet: bool, whether no progress is shown
    Returns a File like the run's, in memory: the new maps in place of hold-out and test maps.
    Raises InputError for maps that do not fit the run.
    """
    mask = run.groups["constant_data"]["mask"]
    maps = read_new(path, mask)
    _check_rms(path, maps, run.settings["n_gal"])
    old = run.groups["predictions"]
    kept, n = np.flatnonzero(old["split"] == EMULATOR), len(maps)
    group = {name: np.concatenate([values[kept], np.full((n, *values.shape[1:]), _fill(values))])
             for name, values in old.items()}
    group["split"][len(kept):] = TEST
    group["realisation"][len(kept):] = np.arange(n)
    rows = wanted(group["split"])
    summaries, sd, features = _summarise(run, maps, mask, rows - len(kept), threads, quiet)
    group["summaries"][rows] = summaries
    if sd is not None:
        group["sd"][rows] = sd
    for name, values in _likeness(run, kept, features, summaries).items():
        group[name][rows] = values
    inputs = {"label": run.inputs["label"], "run": run.digest, "maps": digest_file(path)}
    named = {**run.coords["predictions"], "map": np.concatenate([n + np.arange(len(kept)),
                                                                 np.arange(n)])}
    return run._replace(
        path=pathlib.Path(path), inputs=inputs, groups={**run.groups, "predictions": group},
        coords={**run.coords, "predictions": named}, origin={"name": pathlib.Path(path).stem},
        settings={**run.settings, "target": "test", "holdout_fraction": 0.0},
        digest=hashlib.sha256(to_json(inputs).encode()).hexdigest())


def _fill(values):
    return np.nan if values.dtype.kind == "f" else -1


def _check_rms(path, maps, n_gal):
    """Warn of new maps whose noise cannot be the run's."""
    found = np.sqrt(np.mean(maps[:64].astype(np.float64)**2))
    noise = noise_sigma(n_gal)
    if not noise / MAX_RMS_RATIO < found < 2.0 * noise:
        warn(f"{path}: a pixel has an rms of {found:.4f}, the noise that the run learnt alone has "
             f"{noise:.4f} ({n_gal:g} galaxies per square arcminute): give noisy maps of the same "
             "depth")


def _summarise(run, maps, mask, rows, threads, quiet):
    """Summaries (n, d) of new maps, their error bars (n, 2) or None, {scales: statistics}."""
    settings = run.settings
    if settings["method"] == SPECTRUM:
        from . import handmade
        frame = Frame(mask, pack=False)
        statistic = handmade.Spectrum(frame.shape, int(mask.sum()))
        return _measured(statistic, maps, frame, rows, threads, quiet), None, {}
    names = [name for name in settings if name in NetworkOptions.__dataclass_fields__]
    options = NetworkOptions(**{name: settings[name] for name in names}, threads=threads)
    folder = Folder(run.path.parent, seed=run.seed, quiet=quiet)
    jobs = [Job(None, None, options, folder, i) for i in range(options.n_networks)]
    features = {}

    def of(job):
        own = options.of_part(job.part)
        if job.part == "statistics":
            from . import dense, handmade
            network, scales = dense.Dense.load(job.model), tuple(own.model_options["scales"])
            if scales not in features:
                frame = Frame(mask, pack=False)
                statistic = handmade.Features(frame.observed, settings["n_gal"], scales)
                measured = _measured(statistic, maps, frame, rows, threads, quiet)
                features[scales] = measured.astype(np.float32)
            return network.predict(features[scales])
        from .network import Network
        network, frame = Network.load(job.model), Frame(mask, pack=own.packs)
        source = Batches(maps, frame, scale=network.recipe.scale, n_gal=None)
        progress = Progress(len(rows), f"predicting{job.name}", quiet)
        found = network.predict(source, rows, noise=NO_NOISE, threads=threads,
                                symmetries=own.views, progress=progress)
        progress.close()
        return found

    found = over_parts(options, [(job.fold, job.part, *of(job)) for job in jobs])
    summaries = np.mean([fold for fold, _ in found], 0)
    sd = None if found[0][1] is None else np.exp(np.mean([log_sd for _, log_sd in found], 0))
    if "stacking" in run.groups["constant_data"]:
        summaries = combined(summaries, run.groups["constant_data"]["stacking"])
    return summaries, sd, features


def _likeness(run, kept, features, summaries):
    """p-values of new maps as the run's own test maps have them, {} if these have none."""
    names = [name for name in run.groups["predictions"] if name.startswith("p_value_")]
    if not names:
        return {}
    from . import handmade, likeness
    old, ((scales, measured),) = run.groups["predictions"], features.items()
    own = hdf5.read(run.path.with_name("features.h5"), "features").groups["features"]["fixed"]
    n_realisation = len(own) // len(run.groups["constant_data"]["design"])
    realisation = old["realisation"][kept]
    known = old["summaries"][kept], own[old["cosmology"][kept] * n_realisation + realisation]
    blocks = handmade.blocks(run.groups["constant_data"]["mask"], scales)
    return likeness.p_values(blocks, known, realisation, (summaries, measured))


def _measured(statistic, maps, frame, rows, threads, quiet):
    from . import handmade
    progress = Progress(len(rows), "measuring the maps", quiet)
    out = handmade.measure(statistic, Batches(maps, frame, scale=1.0, n_gal=None), rows, NO_NOISE,
                           threads, progress)
    progress.close()
    return out
