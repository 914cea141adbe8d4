"""The networks of a run: one, or several of folds and members, each a job with its own seed and files.

With folds, network k trains on the realisations of the other folds, so that each map has a prediction by a
network that has not seen it and all realisations feed the statistics; it chooses its best epoch on its own fold.
Members differ in their seed: weights, order, noise, dropout. Averages are plain means of the predictions (of the
log sigmas for error bars): over the members for all maps, and over the folds for hold-out and test maps, which
no network has seen. A mean over folds scatters less than an out-of-fold prediction; statistics.as_average makes
the two comparable with `between`, measured here on the realisations that trained no network.

A model of several parts, compact+statistics say, has such networks for each of them. Their predictions are combined
linearly (stacked, Wolpert 1992) with the weights that fit the statistics split best; a statistics map by weights
that have not seen its realisation, so that its scatter is that of a new map.
"""
import numpy as np

from ..core.checks import InputError
from ..core.progress import say
from .job import Job, count
from ..core.params import PARAMS, STATISTICS
from .pipeline import Predicted, of_part

STACK_FOLDS = 4                # of the statistics split's realisations


def predict(run, settings):
    """Predictions by all networks of a run, averaged and stacked; for Run.predictions.

    settings: of the predictions file. Returns Predicted.
    """
    jobs = [Job(run, i) for i in range(count(run))]
    if len(jobs) == 1:
        return jobs[0].predict(settings)
    files = [[[job.done(of_part(settings, part)) for job in jobs if (job.part, job.fold) == (part, k)]
              for k in range(run.folds)] for part in run.parts]
    # of each fold: means over the members, the parts side by side
    estimates = [np.concatenate([_mean(files[p][k], "estimate") for p in range(len(files))], 1)
                 for k in range(run.folds)]
    log_sds = None
    if "sd" in files[0][0][0].groups["predictions"]:
        log_sds = [np.mean([_mean(files[p][k], "sd", np.log) for p in range(len(files))], 0)
                   for k in range(run.folds)]
    if run.folds == 1:
        found = Predicted(estimates[0], None if log_sds is None else np.exp(log_sds[0]))
    else:
        kept = [job.rows() for job in jobs if (job.part, job.member) == (run.parts[0], 0)]
        statistics, shared = run.rows(STATISTICS), run.rows_of(run.shared)
        fold = run.fold[statistics % run.set.n_realisation].astype(np.int64)
        estimate = combine(estimates, kept, statistics, fold)
        sd = None if log_sds is None else np.exp(combine(log_sds, kept, statistics, fold))
        on_shared = np.stack([v[np.searchsorted(rows, shared)] for v, rows in zip(estimates, kept)])
        fold = np.concatenate([fold, np.full(len(estimate) - len(fold), -1)])
        found = Predicted(estimate, sd, fold, covariance_between(on_shared))
    return found if len(run.parts) == 1 else parts_as_one(run, found)


def _mean(files, name, function=lambda x: x):
    return np.mean([function(f.groups["predictions"][name]) for f in files], 0)


def parts_as_one(run, found):
    """Predicted of several parts side by side, (n_map, n_part x 2), to one of their best linear combination."""
    rows = run.rows(STATISTICS)
    truth = run.set.theta[rows // run.set.n_realisation]
    group = np.unique(rows % run.set.n_realisation, return_inverse=True)[1] % STACK_FOLDS
    estimate, weights = stack(found.estimate, truth, group)
    between = found.between if found.between is None else weights[:-1].T @ found.between @ weights[:-1]
    say("parts combined: " + "; ".join(
        f"{p} " + " ".join(f"{w:+.2f} {part}" for w, part in zip(weights[k:-1:2, k], run.parts))
        for k, p in enumerate(PARAMS)), run.args.quiet)
    return found._replace(estimate=estimate, between=between, weights=weights)


def stack(estimate, truth, group):
    """The linear combination of predictions that fits the truth best.

    estimate: (n, c), of which the first k have a truth (k, 2); group: (k,) int: these rows are combined by weights
    fitted to the other groups, all further ones by weights of all k. With one group alone nothing is left out.
    Returns (n, 2) and the weights of all k, (c + 1, 2) float64, the constant last.
    """
    x = np.concatenate([estimate, np.ones((len(estimate), 1))], 1)
    known = x[:len(truth)]

    def fitted(rows):
        return np.linalg.lstsq(known[rows], truth[rows], rcond=None)[0]
    weights = fitted(np.full(len(known), True))
    out = x @ weights
    for g in np.unique(group) if group.any() else ():
        out[:len(truth)][group == g] = known[group == g] @ fitted(group != g)
    return out, weights


def combine(values, kept, statistics, fold):
    """Statistics maps by their own fold's networks, all others by the mean over the folds.

    values: per fold (len(kept[k]) + n_other, d); kept: per fold sorted maps; statistics: (n,) sorted maps; fold:
    (n,) their folds. Returns (n + n_other, d).
    """
    out = np.empty((len(statistics), values[0].shape[1]))
    for k, (value, rows) in enumerate(zip(values, kept)):
        mine = fold == k
        out[mine] = value[np.searchsorted(rows, statistics[mine])]
    return np.concatenate([out, np.mean([v[len(rows):] for v, rows in zip(values, kept)], 0)])


def covariance_between(estimate):
    """Covariance between networks for the same map, its mean over the maps. estimate: (folds, n, d). Returns (d, d)."""
    residual = estimate - estimate.mean(0)
    return np.einsum("kni,knj->ij", residual, residual) / ((len(estimate) - 1) * estimate.shape[1])


def only(run, settings, index):
    """Do one job of a run and no more; for array jobs on a cluster. Raises InputError."""
    total = count(run)
    if total == 1 or not 0 <= index < total:
        raise InputError(f"--only: expected a number from 0 to parts x folds x members - 1, with more than one of "
                         f"them, got {index} of {total}")
    job = Job(run, index)
    job.done(of_part({**run.settings, **settings}, job.part))
    there = sum((run.out / Job(run, i).file).exists() for i in range(total))
    say(f"{job.part}, fold {job.fold}, member {job.member}: {run.out / job.file}; {there} of {total} networks are done",
        run.args.quiet)
