"""Whether a map looks like the simulations: p-values of its hand-made statistics.

Maps of the emulator split give the mean and scatter of each statistic as smooth functions of the
map's summaries, so that a posterior that moves to fit an alien map hides only what a cosmology can
explain. What is left is a chi2 for each block of statistics. Its p-value is its rank among emulator
maps whose realisations were left out, with an exponential tail; the blocks together are judged by
the sum of ln p (Fisher 1925), ranked in the same way. benchmarks/README.md says what it finds.
"""
from collections.abc import Sequence

import numpy as np

# orders of the polynomials in the summaries, parts that the emulator maps are left out in,
# shrinkage of the residuals' covariance to its diagonal, emulator maps that a number needs at least
MEAN_ORDER, SCATTER_ORDER, N_GROUP, SHRINKAGE, MAPS_PER_NUMBER = 3, 1, 6, 0.02, 4
TAIL = 0.05, 50     # share and number of the known maps, at most, that give p-values their tail


def likeness(known: tuple, new: tuple) -> np.ndarray:
    """Chi2 (m,) float64 of the statistics of new maps, given what those of known maps scatter by.

    known, new: summaries (n, d) and statistics (n, c) of known maps; (m, d) and (m, c) of others
    """
    summaries, statistics = known
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
    covariance = np.cov(scaled(*known).T).reshape(2 * [left.shape[1]])
    covariance[~np.eye(len(covariance), dtype=bool)] *= 1.0 - SHRINKAGE
    left = scaled(*new)
    return np.einsum("ij,jk,ik->i", left, np.linalg.inv(covariance), left)


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
    parts, theirs, ours = np.unique(part), np.zeros(len(part)), np.zeros(len(new[0]))
    found, known, new = {}, *([np.asarray(v, float) for v in pair] for pair in (known, new))
    for name, columns in blocks.items():
        low, high = np.quantile(known[1][:, columns], (0.05, 0.95), axis=0)
        columns = np.asarray(columns)[high - low > 1e-6]   # else none where those are left out
        if not len(columns) or len(part) < MAPS_PER_NUMBER * (len(columns) + 10) or len(parts) < 2:
            continue
        s, x = known[0], known[1][:, columns]
        chi2, of_new = np.empty(len(part)), np.zeros(len(new[0]))
        for k in parts:     # by one fit of all 1010 maps the mean p of new ones is 0.542, not 0.527
            rest = part != k
            chi2[~rest] = likeness((s[rest], x[rest]), (s[~rest], x[~rest]))
            of_new += likeness((s[rest], x[rest]), (new[0], new[1][:, columns])) / len(parts)
        log_p = _log_p(chi2, of_new)
        found[f"p_value_{name}"] = np.exp(log_p)
        ours -= log_p
        theirs -= _log_p(chi2, chi2)
    return found | {"p_value_all": np.exp(_log_p(theirs, ours))} if found else {}


def _log_p(known, values):
    """ln of the share of known values above each value; beyond the last ones an exponential."""
    rank, share = np.sort(known), min(TAIL[0], TAIL[1] / len(known))
    start = np.quantile(rank, 1.0 - share)
    above = 1.0 - (np.searchsorted(rank, values) - 0.5).clip(0.5) / (len(rank) + 1.0)
    beyond = values - start
    tail = np.log(share) - beyond / np.mean(rank[rank > start] - start)
    return np.where(beyond > 0.0, tail, np.log(np.maximum(above, share)))
