"""After the networks: their predictions as one, a run on new maps, p-values. No torch up here.

p_values() judges whether a map looks like the simulations. Maps of the emulator split give the mean
and scatter of each statistic as smooth functions of the map's summaries, so that a posterior that
moves to fit an alien map hides only what a cosmology can explain. What is left is a chi2 for each
block of statistics. Its p-value is its rank among emulator maps whose realisations were left out,
with an exponential tail (peaks over a threshold); the blocks together are judged by the sum of ln p
(Fisher 1925), ranked in the same way. The mean true-positive rate at false-positive rates of 0.001
to 0.05 (by chance 0.0128) of halo-painted maps smoothed by a pixel, with other feedback, with other
n(z), and of log-normal ones is 0.264; of the spectrum alone 0.246.
"""
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from ..core import hdf5
from ..core.checks import InputError
from ..core.files import digest_file, to_json
from ..core.hdf5 import Folder
from ..core.params import EMULATOR, TEST, noise_sigma
from ..core.progress import Progress, warn
from ..maps.batches import NO_NOISE, Batches, Frame
from ..maps.dataset import read_new
from .options import SPECTRUM, NetworkOptions

MAX_RMS_RATIO = 1.15           # of the new maps to the run's, or the inverse, without a warning
# of p_values(): orders of the polynomials in the summaries, parts that the emulator maps are left
# out in, shrinkage of the residuals' covariance to its diagonal, share of the known maps beyond
# which p-values are extrapolated, emulator maps that a number of a block needs at least
MEAN_ORDER, SCATTER_ORDER, N_GROUP, SHRINKAGE, TAIL, MAPS_PER_NUMBER = 3, 1, 6, 0.02, 0.05, 4


def open_run(folder) -> hdf5.File:
    """The predictions of a finished run in a folder, whose networks lie beside them unchanged.

    Raises InputError.
    """
    file = hdf5.read(pathlib.Path(folder) / "predictions.h5", "predictions")
    if "mask" not in file.groups["constant_data"]:
        raise InputError(f"{file.path}: holds no mask, it is of an earlier version; repeat its run "
                         "with --force")
    for name, digest in file.origin["networks"].items():
        path = file.path.with_name(name)
        if not path.is_file() or digest_file(path) != digest:
            raise InputError(f"{path}: is {'not ' if path.is_file() else 'missing, not '}the "
                             f"network that {file.path.name} was made with; repeat the run")
    return file


def first_of(job, kind: type):
    """The Network or Dense of --init that a job begins with: in turn, where that run has fewer.

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
    threads, quiet: int, changes no result; bool, whether no progress is shown
    Returns a File like the run's, in memory: the new maps in place of hold-out and test maps.
    Raises InputError for maps that do not fit the run.
    """
    mask = run.groups["constant_data"]["mask"]
    maps = read_new(path, mask)
    _check_rms(path, maps, run.settings["n_gal"])
    old = run.groups["predictions"]
    kept, n = np.flatnonzero(old["split"] == EMULATOR), len(maps)
    group = {name: np.concatenate([values[kept], np.full(
        (n, *values.shape[1:]), np.nan if values.dtype.kind == "f" else -1)])
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
    ids = np.concatenate([n + np.arange(len(kept)), np.arange(n)])
    coords = {**run.coords, "predictions": {**run.coords["predictions"], "map": ids}}
    return run._replace(
        path=pathlib.Path(path), inputs=inputs, groups={**run.groups, "predictions": group},
        coords=coords, origin={"name": pathlib.Path(path).stem},
        settings={**run.settings, "target": "test", "holdout_fraction": 0.0},
        digest=hashlib.sha256(to_json(inputs).encode()).hexdigest())


def _check_rms(path, maps, n_gal):
    """Warn of new maps whose noise cannot be the run's."""
    found = np.sqrt(np.mean(maps[:64].astype(np.float64)**2))
    noise = noise_sigma(n_gal)
    if not noise / MAX_RMS_RATIO < found < 2.0 * noise:
        warn(f"{path}: a pixel has an rms of {found:.4f}, the noise that the run learnt alone has "
             f"{noise:.4f} ({n_gal:g} galaxies per square arcminute): give noisy maps of the same "
             "depth")


def _summarise(run, maps, mask, rows, threads, quiet):
    """Summaries (n, d) of new maps, their error bars (n, 2) and statistics, both or None."""
    from .predict import Job
    settings, frame = run.settings, Frame(mask, pack=False)

    def measured(kind, *words, **more):
        from . import handmade
        progress = Progress(len(rows), "measuring the maps", quiet)
        out = handmade.measure(getattr(handmade, kind)(*words, **more), Batches(
            maps, frame, scale=1.0, n_gal=None), rows, NO_NOISE, threads, progress)
        progress.close()
        return out
    if settings["method"] == SPECTRUM:
        return measured("Spectrum", frame.shape, int(mask.sum())), None, None
    names = [name for name in settings if name in NetworkOptions.__dataclass_fields__]
    options = NetworkOptions(**{name: settings[name] for name in names}, threads=threads)
    folder, features = Folder(run.path.parent, seed=run.seed, quiet=quiet), None
    if options.of_statistics():
        scales = options.of_statistics()["scales"]
        features = measured("Features", frame.observed, settings["n_gal"], scales)
        features = features.astype(np.float32)

    def of(job):
        if job.part == "statistics":
            from . import dense
            return dense.Dense.load(job.model).predict(features)
        from .network import Network
        own, network = options.of_part(job.part), Network.load(job.model)
        source = Batches(maps, Frame(mask, pack=own.packs), scale=network.recipe.scale, n_gal=None)
        progress = Progress(len(rows), f"predicting{job.name}", quiet)
        found = network.predict(source, rows, noise=NO_NOISE, threads=threads,
                                symmetries=own.views, progress=progress)
        progress.close()
        return found
    jobs = [Job(None, None, options, folder, i) for i in range(options.n_networks)]
    summaries, log_sds = zip(*over_parts(options, [(job.fold, job.part, *of(job)) for job in jobs]))
    summaries = np.mean(summaries, 0)
    if "stacking" in run.groups["constant_data"]:
        summaries = combined(summaries, run.groups["constant_data"]["stacking"])
    return summaries, None if log_sds[0] is None else np.exp(np.mean(log_sds, 0)), features


def _likeness(run, kept, features, summaries):
    """p-values of new maps as the run's own test maps have them, {} if these have none."""
    old = run.groups["predictions"]
    if not any(name.startswith("p_value_") for name in old):
        return {}
    from . import handmade
    options, constant = run.settings["model_options"], run.groups["constant_data"]
    own = hdf5.read(run.path.with_name("features.h5"), "features").groups["features"]["fixed"]
    realisation = old["realisation"][kept]
    place = old["cosmology"][kept] * (len(own) // len(constant["design"])) + realisation
    blocks = handmade.blocks(constant["mask"], options.get("statistics", options)["scales"])
    return p_values(blocks, (old["summaries"][kept], own[place]), realisation,
                    (summaries, features))


def over_parts(options: NetworkOptions, found: list) -> list:
    """Predictions of all networks of a run as one array a fold, the mean over the members.

    found: (fold, part, summaries (n, 2), sd (n, 2) or None) of each network
    Returns for each fold the summaries (n, n_part x 2), parts side by side, and the mean logarithm
    of the error bars (n, 2), or None.
    """
    out = []
    for k in range(options.folds):
        parts = [[one for fold, name, *one in found if (fold, name) == (k, part)]
                 for part in options.parts]
        mean = np.concatenate([np.mean([m for m, _ in part], 0) for part in parts], 1)
        has_sd = parts[0][0][1] is not None
        out.append((mean, np.mean([np.mean([np.log(s) for _, s in part], 0) for part in parts], 0)
                    if has_sd else None))
    return out


def stack(summaries: np.ndarray, truth: np.ndarray, group: np.ndarray) -> tuple:
    """The linear combination of predictions that fits the truth best.

    summaries, truth: (n, c), of which the first k have a truth, (k, 2)
    group: (k,) int; these rows are combined by weights fitted to the other groups, all further
        ones by weights of all k; with one group alone nothing is left out
    Returns (n, 2) and the weights of all k, (c + 1, 2) float64, the constant last.
    """
    x = np.concatenate([summaries, np.ones((len(summaries), 1))], 1)
    known = x[:len(truth)]

    def fitted(rows):
        return np.linalg.lstsq(known[rows], truth[rows], rcond=None)[0]
    weights = fitted(np.full(len(known), True))
    out = combined(summaries, weights)
    for g in np.unique(group) if group.any() else ():
        out[:len(truth)][group == g] = combined(summaries[:len(truth)][group == g],
                                                fitted(group != g))
    return out, weights


def combined(summaries: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, d) of (n, c) by weights (c + 1, d), the constant last: bits as of one map alone."""
    return (summaries[:, :, None] * weights[:-1]).sum(1) + weights[-1]


def combine(values: list, kept: list, rows: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Emulator maps by their own fold's networks, all others by the mean over the folds.

    values, kept: per fold (len(kept[k]) + n_other, d), and sorted maps; rows, fold: (n,), sorted
        maps and their folds. Returns (n + n_other, d).
    """
    out = np.empty((len(rows), values[0].shape[1]))
    for k, (value, mine) in enumerate(zip(values, kept)):
        own = fold == k
        out[own] = value[np.searchsorted(mine, rows[own])]
    return np.concatenate([out, np.mean([v[len(mine):] for v, mine in zip(values, kept)], 0)])


def covariance_between(predicted: np.ndarray) -> np.ndarray:
    """(d, d) between networks for the same map, its mean over the maps, of (folds, n, d)."""
    residual, (folds, n, _) = predicted - predicted.mean(0), predicted.shape
    return np.einsum("kni,knj->ij", residual, residual) / ((folds - 1) * n)


def likeness(summaries: np.ndarray, statistics: np.ndarray) -> Callable:
    """What known maps leave of their statistics (n, c), given their summaries (n, d).

    Returns a function of others' summaries and statistics: chi2 of what these leave, (n,) float64.
    """
    centre, width = summaries.mean(0), summaries.std(0)

    def terms(summaries, order):
        x, y = ((summaries - centre) / width)[:, :2].T
        return np.stack([x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)], 1)

    def fitted(order, values):
        return np.linalg.lstsq(terms(summaries, order), values, rcond=None)[0]
    mean = fitted(MEAN_ORDER, statistics)
    left = statistics - terms(summaries, MEAN_ORDER) @ mean
    size = fitted(SCATTER_ORDER, np.log(left**2 + 1e-12 * left.var(0)))

    def scaled(summaries, statistics):
        left = statistics - terms(summaries, MEAN_ORDER) @ mean
        return left * np.exp(-0.5 * (terms(summaries, SCATTER_ORDER) @ size))
    covariance = np.cov(scaled(summaries, statistics).T).reshape(2 * [left.shape[1]])
    covariance[~np.eye(len(covariance), dtype=bool)] *= 1.0 - SHRINKAGE
    inverse = np.linalg.inv(covariance)

    def chi2(summaries, statistics):
        left = scaled(summaries, statistics)
        return np.einsum("ij,jk,ik->i", left, inverse, left)
    return chi2


def p_values(blocks: dict[str, Sequence[int]], known: tuple, group: np.ndarray,
             new: tuple) -> dict[str, np.ndarray]:
    """How often a map like the known ones is further off than each new map, judged alone.

    blocks: {name: columns of the statistics}; one that is the same in 90 % of the maps is left out
    known: summaries (n, d) and statistics (n, c) of the emulator split
    group: (n,) int, the realisation of each; maps of one realisation are left out together
    new: summaries (m, d) and statistics (m, c) of the maps that are judged
    Returns {"p_value_" + name: (m,) float64} and "p_value_all"; {} of too few known maps.
    """
    part = np.unique(group, return_inverse=True)[1] % N_GROUP
    theirs, ours = np.zeros(len(part)), np.zeros(len(new[0]))
    found, known, new = {}, *([np.asarray(v, float) for v in pair] for pair in (known, new))
    for name, columns in blocks.items():
        low, high = np.quantile(known[1][:, columns], (0.05, 0.95), axis=0)
        columns = np.asarray(columns)[high - low > 1e-6]   # else none where those are left out
        if not len(columns) or len(part) < MAPS_PER_NUMBER * (len(columns) + 10):
            continue
        s, x, s_new, x_new = known[0], known[1][:, columns], new[0], new[1][:, columns]
        chi2 = np.empty(len(part))
        for k in np.unique(part):
            rest = part != k
            chi2[~rest] = likeness(s[rest], x[rest])(s[~rest], x[~rest])
        log_p = _log_p(chi2, likeness(s, x)(s_new, x_new))
        found[f"p_value_{name}"] = np.exp(log_p)
        ours -= log_p
        theirs -= _log_p(chi2, chi2)
    return found | {"p_value_all": np.exp(_log_p(theirs, ours))} if found else {}


def _log_p(known, values):
    """ln of the share of known values above each value; beyond their last 5 % an exponential."""
    rank = np.sort(known)
    start = np.quantile(rank, 1.0 - TAIL)
    above = 1.0 - (np.searchsorted(rank, values) - 0.5).clip(0.5) / (len(rank) + 1.0)
    beyond = values - start
    tail = np.log(TAIL) - beyond / np.mean(rank[rank > start] - start)
    return np.where(beyond > 0.0, tail, np.log(np.maximum(above, TAIL)))
