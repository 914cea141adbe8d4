"""The stage maps -> summaries: one network, several of folds and members, or the power spectrum.

With folds, network k trains on the realisations of the other folds: each map has a prediction by a
network that has not seen it, and all feed the emulator. Members differ in their seed. Predictions
(of error bars the logarithms) are averaged over the members, and over the folds for hold-out and
test maps, which no network has seen. A mean over folds scatters less than one fold's prediction;
covariance.as_average makes them comparable with `between`, of realisations that trained no network.

A model of several parts, compact+statistics say, has such networks for each. The weighted mean of
their predictions (stacking, Wolpert 1992) fits the emulator split best; a map of that split is
weighted by what all other realisations say, so that it scatters as a new map does.
"""
import dataclasses
import pathlib
from collections import namedtuple
from collections.abc import Callable

import numpy as np

from ..core import hdf5, seeds
from ..core.checks import InputError, RunError, triangulate
from ..core.files import cpu, digest_file, refuse_difference
from ..core.params import EMULATOR, HOLDOUT, PARAMS, TEST, TRAIN
from ..core.progress import Progress, say, warn
from ..maps import batches
from ..maps.dataset import MapSet
from ..maps.splits import split_set
from . import handmade
from .apply import precision_of, refuse_seen, start_of
from .likeness import p_values
from .options import SPECTRUM, NetworkOptions

Work = namedtuple("Work", "maps split options folder")
Work.__doc__ = """What predictions need: a MapSet, a Split, decided NetworkOptions, a Folder."""

Predicted = namedtuple("Predicted", "summaries sd fold between weights ell", defaults=(None,) * 5)
Predicted.__doc__ = """Summaries (n_map, d) of maps: the emulator split's, hold-out's, test maps.

sd: (n_map, 2), error bars of the network's own, or None
fold: (n_map,) int32, the fold whose networks predicted a map, -1 for a mean over all; or None
between: (d, d), covariance between the folds' networks for the same map, or None
weights: (n_part x d + 1, d), of the parts of a model and a constant, "stacking" in files; or None
ell: (d,), central multipoles of a spectrum's bins, or None
"""


def prepare(maps: MapSet, map_options, options: NetworkOptions, folder: hdf5.Folder) -> Work:
    """Split the maps by MapOptions and decide what is left open in the options, before any work.

    Raises InputError for options that do not fit the set.
    """
    triangulate(str(maps.files["label"]), maps.theta)
    split = split_set(maps, map_options, options.folds, options.method != SPECTRUM, folder.seed)
    if options.init is not None:
        options = dataclasses.replace(options, start=start_of(options, folder))
    found = precision_of(folder) if options.precision == "auto" and not folder.force else None
    return Work(maps, split, options.decided(split.n_train, found), folder)


def settings_of(work: Work) -> dict:
    """All that the predictions of a run depend on beyond the maps themselves."""
    bins = {"n_bin": handmade.N_BIN, "ell_min": handmade.ELL_MIN, "ell_max": handmade.ELL_MAX}
    return {**work.split.stored(), **work.options.stored(), "n_gal": work.maps.n_gal,
            **(bins if work.options.method == SPECTRUM else {})}


def predict(work: Work) -> hdf5.File | None:
    """predictions.h5 of a run, made if need be; None after one network of several (--only).

    Raises InputError where files of other settings stand in the way, RunError for a dead network.
    """
    digests = work.folder.digests(work.maps.files)
    for changed in set(work.maps.changed(digests)) - set(work.maps.changed()):    # said before
        work.maps.check_maps(work.folder.quiet)              # damaged ones are refused in a line
        warn(f"{work.maps.folder / changed} is not what the simulator wrote: it was changed since")
    refuse_seen(work, digests)
    if work.options.only is not None:                        # for array jobs on a cluster
        jobs = jobs_of(work)
        job = jobs[work.options.only]
        job.done()
        return say(f"{job.part}, fold {job.fold}, member {job.member}: {job.predictions}; "
                   f"{sum(other.predictions.exists() for other in jobs)} of {len(jobs)} networks "
                   "are done", work.folder.quiet)
    name, settings = "predictions.h5", settings_of(work)
    found = work.folder.reuse(name, "predictions", settings, digests, at_home=True)
    if found is not None:
        return found
    predicted = (_spectra if work.options.method == SPECTRUM else _networks)(work)
    return _write(work, name, work.split.rows(EMULATOR), predicted, settings,
                  _likeness(work, predicted.summaries))


def jobs_of(work: Work) -> list:
    """The Job of every network of a run, in their order."""
    return [Job(work, i) for i in range(work.options.n_networks)]


def _likeness(work, summaries):
    if not work.options.of_statistics():
        return {}
    emulator, holdout = work.split.rows(EMULATOR), work.split.rows(HOLDOUT)
    file, n = handmade.features_file(*work), len(emulator)
    features = _features_of(file, np.concatenate([emulator, holdout]))
    return p_values(handmade.blocks(file), (summaries[:n], features[:n]),
                    emulator % work.maps.n_realisation, (summaries[n:], features[n:]))


def _features_of(file, rows):
    values = file.groups["features"]
    return np.concatenate([values["fixed"][rows], values.get("test", values["fixed"][:0])])


def _spectra(work):
    """The power spectrum of every map."""
    maps, split, options, folder = work
    maps.check_maps(folder.quiet)
    frame = batches.Frame(maps.mask, pack=False)
    spectrum = handmade.Spectrum(frame.shape, maps.kappa.shape[-1])
    rows = np.concatenate([split.rows(EMULATOR), split.rows(HOLDOUT)])
    progress = Progress(len(rows) + split.n_test, "measuring spectra", folder.quiet)
    parts = batches.parts_to_summarise(maps, split, rows, frame, seed=folder.seed)
    out = [handmade.measure(spectrum, *part, options.threads, progress) for part in parts]
    progress.close()
    return Predicted(np.concatenate(out), ell=spectrum.ell)


def _networks(work):
    """Predictions by all networks of a run, averaged and stacked. Raises RunError for dead ones."""
    o, jobs = work.options, jobs_of(work)
    if len(jobs) == 1:
        found = jobs[0].predict()
        summaries = [found.summaries]
    else:
        done = [job.done().groups["predictions"] for job in jobs]
        summaries, log_sds = over_parts(o, [(one["summaries"], one.get("sd")) for one in done])
    for fold, values in enumerate(summaries):                            # (n, parts x 2)
        dead = (np.ptp(values, 0) == 0.0).reshape(len(o.parts), len(PARAMS)).all(0)
        if dead.any():
            of_fold = f", fold {fold}," if o.folds > 1 else ""
            raise RunError(f"the network {o.model}{of_fold} gives every map the same "
                           f"{PARAMS[np.argmax(dead)]}: it has learnt nothing; train again with "
                           "--force and a lower --learning-rate or another --seed")
    if len(jobs) == 1:
        return found
    split, kept = work.split, [job.rows() for job in jobs[:o.folds * o.members:o.members]]
    rows, shared = split.rows(EMULATOR), split.rows_of(split.is_shared)
    fold = split.fold[rows % work.maps.n_realisation].clip(0).astype(np.int32)
    sd = None if log_sds is None else np.exp(combine(log_sds, kept, rows, fold))
    found = Predicted(combine(summaries, kept, rows, fold), sd)
    if split.has_folds:
        on_shared = [v[np.searchsorted(mine, shared)] for v, mine in zip(summaries, kept)]
        fold = np.concatenate([fold, np.full(len(found.summaries) - len(fold), -1, np.int32)])
        found = found._replace(fold=fold, between=covariance_between(np.stack(on_shared)))
    return found if len(o.parts) == 1 else _parts_as_one(work, found)


def _parts_as_one(work, found):
    """Several parts side by side, (n_map, n_part x 2), to their best linear combination."""
    rows, n, parts = work.split.rows(EMULATOR), work.maps.n_realisation, work.options.parts
    # by weights of all other realisations: in four groups, shared nuisances widen bars by a tenth
    group = np.unique(rows % n, return_inverse=True)[1]
    summaries, weights = stack(found.summaries, work.maps.theta[rows // n], group)
    between = found.between
    for k, part in enumerate(parts if between is not None and found.sd is None else ()):
        own, alone = slice(2 * k, 2 * k + 2), work.options.of_part(part)    # to score it alone
        one = Predicted(found.summaries[:, own], None, found.fold, between[own, own])
        _write(work, f"predictions_{part}.h5", rows, one, settings_of(work._replace(options=alone)))
    if between is not None:
        between = weights[:-1].T @ between @ weights[:-1]
    say("parts combined: " + "; ".join(
        f"{p} " + " ".join(f"{w:+.2f} {part}" for w, part in zip(weights[k:-1:2, k], parts))
        for k, p in enumerate(PARAMS)), work.folder.quiet)
    return found._replace(summaries=summaries, between=between, weights=weights)


def over_parts(options: NetworkOptions, found: list) -> tuple[list, list]:
    """Predictions of all networks of a run as one array a fold, the mean over the members.

    found: summaries (n, 2), and sd (n, 2) or None, of each Job in their order
    Returns lists with a member for each fold: the summaries (n, n_part x 2), parts side by side;
    and the mean logarithms of the error bars (n, 2), or None in place of the list.
    """
    a_part, m, means, log_sds = options.folds * options.members, options.members, [], []
    for first in range(0, a_part, m):
        mean, sd = zip(*[zip(*found[i:i + m]) for i in range(first, len(found), a_part)])
        means.append(np.concatenate([np.mean(one, 0) for one in mean], 1))
        if found[0][1] is not None:
            log_sds.append(np.mean([np.mean(np.log(one), 0) for one in sd], 0))
    return means, log_sds or None


def stack(summaries: np.ndarray, truth: np.ndarray, group: np.ndarray) -> tuple:
    """The mean of the parts' predictions, weighted for each parameter, that fits the truth best.

    summaries, truth: (n, c), parts side by side, of which the first k have a truth, (k, 2)
    group: (k,) int; these rows are combined by weights fitted to the other groups, all further
        ones by weights of all k; with one group alone nothing is left out
    Returns (n, 2) and the weights of all k, (c + 1, 2) float64, the last for a constant, zero.
    """
    known, n = summaries[:len(truth)], truth.shape[1]
    def fitted(rows):
        # free ones follow nuisances that cosmologies share: 1.2 to 1.6 % more squared error at 48
        weights = np.zeros((known.shape[1] + 1, n))
        for k in range(n):
            parts, last = known[rows, k:-n:n], known[rows, k - n]
            own = np.linalg.lstsq(parts - last[:, None], truth[rows, k] - last, rcond=None)[0]
            weights[k:-1:n, k] = [*own, 1.0 - own.sum()]
        return weights
    weights = fitted(slice(None))
    out = combined(summaries, weights)
    for g in np.unique(group) if group.any() else ():
        own = np.flatnonzero(group == g)
        out[own] = combined(summaries[own], fitted(group != g))
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


class Job:
    """One network of a run: what it learns from, its seed and files, training and predictions.

    index: int, from 0; parts, folds and members in that order
    Has part (str), fold and member (ints), its seed, and the Paths of the trained network (model),
    of a training under way (checkpoint) and of its own predictions.
    """

    def __init__(self, work: Work, index: int):
        self.work, (self.maps, self.split, self.options, self.folder) = work, work
        o, folder, self.name = self.options, self.folder, ""
        part, rest = divmod(index, o.folds * o.members)
        self.part, (self.fold, self.member) = o.parts[part], divmod(rest, o.members)
        tag = f"_{self.part}" if len(o.parts) > 1 else ""
        if o.folds * o.members > 1:
            tag += f"_f{self.fold}_m{self.member}"
            self.name = f" (network {index + 1} of {o.n_networks})"        # for messages
        names = f"model{tag}.pt", f"checkpoint{tag}.pt", f"predictions{tag}.h5"
        self.model, self.checkpoint, self.predictions = (folder.out / name for name in names)
        self.seed = seeds.number(folder.seed, seeds.NETWORK, self.fold, self.member) if (
            self.fold or self.member) else folder.seed

    def rows(self) -> np.ndarray:
        """Maps of the emulator split that it predicts: its fold's, and those that train none."""
        wanted = self.split.code == EMULATOR
        if self.split.has_folds:
            wanted &= (self.split.fold == self.fold) | self.split.is_shared
        return self.split.rows_of(wanted)

    def predict(self) -> Predicted:
        """Train or load the network and predict with it: of the emulator split only rows()."""
        rows = np.concatenate([self.rows(), self.split.rows(HOLDOUT)])
        if self.part == "statistics":
            from . import dense
            file = handmade.features_file(*self.work)
            dense.of_jobs([self] if self.options.only is not None else [
                job for job in jobs_of(self.work) if job.part == self.part], file)
            return Predicted(*dense.of_job(self, file).predict(_features_of(file, rows)))
        from . import training
        self.maps.check_maps(self.folder.quiet)
        frame = batches.Frame(self.maps.mask, pack=self.options.of_part(self.part).packs)
        network = training.of_job(self, frame)
        # every network sees a map with the same noise, whatever its own seed
        parts = batches.parts_to_summarise(self.maps, self.split, rows, frame,
                                           scale=network.recipe.scale, seed=self.folder.seed)
        return Predicted(*self.summarised(network, parts))

    def done(self) -> hdf5.File:
        """The job's own predictions file, made if need be."""
        stored = {**self.split.stored(), **self.options.of_part(self.part).stored(),
                  "part": self.part, "fold": self.fold, "member": self.member}
        del stored["members"]                          # more members keep those there are
        name, digests = self.predictions.name, self.folder.digests(self.maps.files)
        found = self.folder.reuse(name, "predictions", stored, digests)
        return (found if found is not None and self.model.exists() else
                _write(self, name, self.rows(), self.predict(), stored))

    def task(self) -> tuple[dict, np.ndarray, np.ndarray]:
        """Fields of network.Task; maps (n,) int64 to learn from, and to choose the epoch by."""
        split, theta = self.split, self.maps.theta
        code = split.code                    # of each realisation; EMULATOR: it chooses the epoch
        if split.has_folds:
            code = np.select([split.is_shared | (split.fold < 0), split.fold == self.fold],
                             [HOLDOUT, EMULATOR], TRAIN).astype(np.int8)
        task = dict(seed=self.seed, split=code, start=self.options.start, label_mean=theta.mean(0),
                    label_sd=theta.std(0))
        return task, split.rows_of(code == TRAIN), split.rows_of(code == EMULATOR)

    def summarised(self, network, parts) -> tuple[np.ndarray, np.ndarray | None]:
        """Means (n, 2), and error bars or None, of batches.Parts by a Network of this job."""
        o, parts = self.options.of_part(self.part), [*parts]
        progress = Progress(sum(len(part.rows) for part in parts), f"predicting{self.name}",
                            self.folder.quiet)
        mean, sd = zip(*[network.predict(
            part.source, part.rows, noise=part.noise, threads=o.threads, symmetries=o.views,
            progress=progress) for part in parts])
        progress.close()
        return np.concatenate(mean), None if sd[0] is None else np.concatenate(sd)

    def stored(self, path: pathlib.Path, read: Callable, recipe):
        """What read(path) gives of an earlier run's network or checkpoint, None without one.

        Raises InputError for a damaged one, or one of another recipe, without --force.
        """
        if not path.exists():
            return None
        try:
            found = read(path)
        except InputError:
            if not self.folder.force:
                raise
            return warn(f"{path}: damaged, trained again")
        before = found["settings"] if isinstance(found, dict) else found.recipe.stored()
        if not self.folder.force:
            refuse_difference(f"{path}: was made with", before, recipe.stored())
        return found if before == recipe.stored() else None


def _write(job, name, rows, predicted, settings, p_values=None):
    """The predictions file of a Work or a Job: `rows` of the emulator split, and all others."""
    maps, n_real, n_test = job.maps, job.maps.n_realisation, job.split.n_test
    every, test = np.concatenate([rows, job.split.rows(HOLDOUT)]), np.arange(n_test)
    code = np.repeat([EMULATOR, HOLDOUT, TEST], [len(rows), len(every) - len(rows), n_test])
    cosmology = np.concatenate([every // n_real, np.full(n_test, -1)])
    realisation = np.concatenate([every % n_real, test])
    names = PARAMS if job.options.method != SPECTRUM else [
        f"log10_C_ell_{i + 1}" for i in range(predicted.summaries.shape[1])]
    group = {"summaries": (("map", "summary"), predicted.summaries),
             "split": (("map",), code.astype(np.int8)),
             "cosmology": (("map",), cosmology.astype(np.int32)),
             "realisation": (("map",), realisation.astype(np.int32)),
             "sd": (("map", "param"), predicted.sd), "fold": (("map",), predicted.fold)}
    group |= {variable: (("map",), np.concatenate([np.full(len(rows), np.nan), values]))
              for variable, values in (p_values or {}).items()}
    constant = {"design": (("cosmology", "param"), maps.theta),
                "mask": (("row", "column"), maps.mask),
                "between": (("summary", "summary_2"), predicted.between),
                "ell": (("summary",), predicted.ell),
                "stacking": (("term", "summary"), predicted.weights)}
    # the same number for a map in all runs of a set: test maps first, then the noiseless ones
    coords = {"map": np.concatenate([maps.n_test + every, test]), "summary": np.array(names),
              "summary_2": np.array(names), "param": np.array(PARAMS)}
    groups, used = {kind: {n: hdf5.Var(*v) for n, v in values.items() if v[1] is not None}
                    for kind, values in (("predictions", group), ("constant_data", constant))}, {}
    if isinstance(job, Work) and job.options.method != SPECTRUM:
        from .network import histories
        models = [one.model for one in jobs_of(job)]
        used = {path.name: digest_file(path) for path in models}
        groups["training"] = histories(models)
    return job.folder.write(name, "predictions", groups, coords={**coords, "network": [*used]},
                            settings=settings, inputs=(digests := job.folder.digests(maps.files)),
                            origin={**maps.origin(), "networks": used, "cpu": cpu(),
                                    "maps": {n: d for n, d in digests.items() if n != "label"}})
