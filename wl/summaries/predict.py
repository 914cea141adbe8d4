"""The stage maps -> summaries: one network, several of folds and members, or the power spectrum.

With folds, network k trains on the realisations of the other folds, so that each map has a
prediction by a network that has not seen it and all realisations feed the emulator; it chooses its
best epoch on its own fold. Members differ in their seed: weights, order, noise, dropout. Averages
are plain means of the predictions (of the log sigmas for error bars): over the members for all
maps, and over the folds for hold-out and test maps, which no network has seen. A mean over folds
scatters less than an out-of-fold prediction; covariance.as_average makes the two comparable with
`between`, measured here on the realisations that trained no network.

A model of several parts, compact+statistics say, has such networks for each of them. Their
predictions are combined linearly (stacked, Wolpert 1992) with the weights that fit the emulator
split best; a map of that split by weights that have not seen its realisation, so that its scatter
is that of a new map.
"""
from collections import namedtuple

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, triangulate
from ..core.hdf5 import Folder
from ..core.params import EMULATOR, HOLDOUT, PARAMS
from ..core.progress import Progress, say
from ..maps.dataset import MapSet
from ..maps.splits import split_set
from .job import Job, Predicted, write
from .options import PRECISIONS, SPECTRUM, NetworkOptions

STACK_FOLDS = 4                # of the emulator split's realisations

Work = namedtuple("Work", "maps split options folder")
Work.__doc__ = """What predictions need: a MapSet, a Split, decided NetworkOptions, a Folder."""


def prepare(maps: MapSet, map_options, options: NetworkOptions, folder: Folder) -> Work:
    """Split the maps and decide what is left open in the options, before any work.

    maps: MapSet
    map_options: maps.splits.MapOptions
    options: NetworkOptions
    folder: Folder
    Raises InputError for options that do not fit the set.
    """
    triangulate(str(maps.files["label"]), maps.theta)
    split = split_set(maps, map_options, options.folds, options.method != SPECTRUM, folder.seed)
    found = None
    if options.method != SPECTRUM and options.precision == "auto" and not folder.force:
        found = _precision_of(folder)
    return Work(maps, split, options.decided(split.n_train, found), folder)


def settings_of(work: Work) -> dict:
    """All that the predictions of a run depend on beyond the maps themselves."""
    stored = {**work.split.stored(), **work.options.stored(), "n_gal": work.maps.n_gal}
    if work.options.method == SPECTRUM:
        from .handmade import ELL_MAX, ELL_MIN, N_BIN
        # the fraction does not feed the emulator here, but decides which realisations are held out
        stored |= {"n_bin": N_BIN, "ell_min": ELL_MIN, "ell_max": ELL_MAX}
    return stored


def predict(work: Work) -> hdf5.File | None:
    """predictions.h5 of a run, made if need be; None after one network of several (--only).

    Raises InputError where files of other settings stand in the way.
    """
    if work.options.only is not None:
        return _only(work)
    name, kind, settings = "predictions.h5", "predictions", settings_of(work)
    found = work.folder.reuse(name, kind, settings, work.folder.digests(work.maps.files),
                              at_home=True)
    if found is not None:
        return found
    predicted = spectra(work) if work.options.method == SPECTRUM else networks(work)
    return write(work, name, work.split.rows(EMULATOR), predicted, settings)


def spectra(work: Work) -> Predicted:
    """The power spectrum of every map."""
    from ..maps import batches
    from . import handmade
    maps, split, quiet = work.maps, work.split, work.folder.quiet
    maps.check_maps(quiet)
    frame = batches.Frame(maps.mask, pack=False)
    spectrum = handmade.Spectrum(frame.shape, maps.kappa.shape[-1])
    rows = np.concatenate([split.rows(EMULATOR), split.rows(HOLDOUT)])
    progress = Progress(len(rows) + split.n_test, "measuring spectra", quiet)
    parts = batches.parts_to_summarise(maps, split, rows, frame, seed=work.folder.seed)
    out = [handmade.measure(spectrum, part.source, part.rows, part.noise, work.options.threads,
                            progress) for part in parts]
    progress.close()
    return Predicted(np.concatenate(out))


def networks(work: Work) -> Predicted:
    """Predictions by all networks of a run, averaged and stacked."""
    jobs = [Job(*work, i) for i in range(work.options.n_networks)]
    if len(jobs) == 1:
        return jobs[0].predict()
    o = work.options
    done = [(job.fold, job.part, job.done().groups["predictions"]) for job in jobs]
    # of each fold and part: its members
    groups = [[[group for *of, group in done if of == [k, part]] for part in o.parts]
              for k in range(o.folds)]
    # of each fold: means over the members, the parts side by side
    summaries = [np.concatenate([np.mean([m["summaries"] for m in part], 0) for part in fold], 1)
                 for fold in groups]
    log_sds = None
    if "sd" in groups[0][0][0]:
        log_sds = [np.mean([np.mean([np.log(m["sd"]) for m in part], 0) for part in fold], 0)
                   for fold in groups]
    if o.folds == 1:
        found = Predicted(summaries[0], None if log_sds is None else np.exp(log_sds[0]))
    else:
        kept = [job.rows() for job in jobs if (job.part, job.member) == (o.parts[0], 0)]
        found = _over_folds(work, summaries, log_sds, kept)
    return found if len(o.parts) == 1 else parts_as_one(work, found)


def _over_folds(work, summaries, log_sds, kept):
    """Predicted from the folds' means. kept: for each fold the emulator maps it has."""
    split = work.split
    rows, shared = split.rows(EMULATOR), split.rows_of(split.is_shared)
    fold = split.fold[rows % work.maps.n_realisation].astype(np.int64)
    combined = combine(summaries, kept, rows, fold)
    sd = None if log_sds is None else np.exp(combine(log_sds, kept, rows, fold))
    on_shared = np.stack([v[np.searchsorted(mine, shared)] for v, mine in zip(summaries, kept)])
    fold = np.concatenate([fold, np.full(len(combined) - len(fold), -1)])
    return Predicted(combined, sd, fold, covariance_between(on_shared))


def parts_as_one(work: Work, found: Predicted) -> Predicted:
    """Several parts side by side, (n_map, n_part x 2), to their best linear combination."""
    rows, n = work.split.rows(EMULATOR), work.maps.n_realisation
    truth = work.maps.theta[rows // n]
    group = np.unique(rows % n, return_inverse=True)[1] % STACK_FOLDS
    summaries, weights = stack(found.summaries, truth, group)
    between = found.between
    if between is not None:
        between = weights[:-1].T @ between @ weights[:-1]
    parts = work.options.parts
    say("parts combined: " + "; ".join(
        f"{p} " + " ".join(f"{w:+.2f} {part}" for w, part in zip(weights[k:-1:2, k], parts))
        for k, p in enumerate(PARAMS)), work.folder.quiet)
    return found._replace(summaries=summaries, between=between, weights=weights)


def stack(summaries: np.ndarray, truth: np.ndarray, group: np.ndarray) -> tuple:
    """The linear combination of predictions that fits the truth best.

    summaries: (n, c), of which the first k have a truth
    truth: (k, 2)
    group: (k,) int; these rows are combined by weights fitted to the other groups, all further
        ones by weights of all k; with one group alone nothing is left out
    Returns (n, 2) and the weights of all k, (c + 1, 2) float64, the constant last.
    """
    x = np.concatenate([summaries, np.ones((len(summaries), 1))], 1)
    known = x[:len(truth)]

    def fitted(rows):
        return np.linalg.lstsq(known[rows], truth[rows], rcond=None)[0]
    weights = fitted(np.full(len(known), True))
    out = x @ weights
    for g in np.unique(group) if group.any() else ():
        out[:len(truth)][group == g] = known[group == g] @ fitted(group != g)
    return out, weights


def combine(values: list, kept: list, rows: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Emulator maps by their own fold's networks, all others by the mean over the folds.

    values: per fold (len(kept[k]) + n_other, d)
    kept: per fold sorted maps
    rows: (n,) sorted maps
    fold: (n,) their folds
    Returns (n + n_other, d).
    """
    out = np.empty((len(rows), values[0].shape[1]))
    for k, (value, mine) in enumerate(zip(values, kept)):
        own = fold == k
        out[own] = value[np.searchsorted(mine, rows[own])]
    return np.concatenate([out, np.mean([v[len(mine):] for v, mine in zip(values, kept)], 0)])


def covariance_between(predicted: np.ndarray) -> np.ndarray:
    """Covariance between networks for the same map, its mean over the maps.

    predicted: (folds, n, d)
    Returns (d, d).
    """
    residual, (folds, n, _) = predicted - predicted.mean(0), predicted.shape
    return np.einsum("kni,knj->ij", residual, residual) / ((folds - 1) * n)


def _only(work):
    """Do one job of a run and no more; for array jobs on a cluster."""
    job = Job(*work, work.options.only)
    job.done()
    total = work.options.n_networks
    there = sum(Job(*work, i).predictions.exists() for i in range(total))
    say(f"{job.part}, fold {job.fold}, member {job.member}: {job.predictions}; {there} of {total} "
        "networks are done", work.folder.quiet)


def _precision_of(folder):
    """Number type that the folder's networks were begun with, None if there are none.

    A run goes on where it was, and its networks are of one type, on machines that differ.
    """
    for pattern in ("predictions*.h5", "model*.pt", "checkpoint*.pt"):
        for path in sorted(folder.out.glob(pattern)):
            found = _stored_settings(path).get("precision")
            if found in PRECISIONS:
                return found
    return None


def _stored_settings(path):
    """Settings of a file of predictions, a network or its training; {} for an unreadable one."""
    try:
        if path.suffix == ".h5":
            return hdf5.read(path, "predictions", groups=()).settings
        from .network import load_torch
        found = load_torch(path)
        return found["settings"] if isinstance(found, dict) else {}
    except (InputError, KeyError):
        return {}
