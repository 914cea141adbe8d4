"""Predictions of several networks as one: members, folds, and the parts of a model. Pure NumPy."""
import numpy as np

from .options import NetworkOptions


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
