"""Isotonic recalibration: what a posterior says of probabilities, mapped to what the statistics split shows.

The probabilities below the truth (PIT) of maps whose cosmology is known have an empirical distribution R; a
calibrated posterior has R(p) = p. Replacing the posterior's distribution function F by R(F) makes it so
(Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263). R is monotone, so quantiles stay in order.
"""
import numpy as np
from scipy.special import ndtri

from .posterior import LEVELS

KNOTS = 41                     # of R, at equal distances of the normal score
WIDEST = 4.0                   # normal score of the outermost knots
PRIOR_COUNT = 10.0             # maps' worth of R(p) = p that is mixed in: R rises strictly


def isotonic(pit):
    """R at the knots. pit: (n, 2) of the statistics split, never of maps to be scored. Returns (KNOTS, 2)."""
    from scipy.special import ndtr
    p = ndtr(np.linspace(-WIDEST, WIDEST, KNOTS))
    share = (np.asarray(pit)[None] <= p[:, None, None]).sum(1)
    return (share + PRIOR_COUNT * p[:, None]) / (len(pit) + PRIOR_COUNT)


def apply(summary, curve):
    """Recalibrated quantiles and error bars.

    summary: with "mean" and the quantiles LEVELS, (n, 2) each; curve: of isotonic(). Between the quantiles that
    are known, and beyond them, the normal score is linear in the parameter. Returns {"errorbar": rms distance
    from the mean under the recalibrated distribution, "recalibrated_q2_5": ..., all (n, 2)}.
    """
    known = np.stack([summary[name] for name in LEVELS])
    scores = ndtri(np.array(list(LEVELS.values())))
    knots = np.linspace(-WIDEST, WIDEST, KNOTS)
    grid = (np.arange(400) + 0.5) / 400
    out = {f"recalibrated_{name}": np.empty_like(summary["mean"]) for name in LEVELS}
    out["errorbar"] = np.empty_like(summary["mean"])
    for k in range(2):
        back = np.interp(ndtri([*LEVELS.values(), *grid]), ndtri(np.clip(curve[:, k], 1e-12, 1 - 1e-12)), knots)
        right = np.clip(np.searchsorted(scores, back), 1, len(scores) - 1)
        part = (back - scores[right - 1]) / (scores[right] - scores[right - 1])
        value = known[right - 1, :, k] + part[:, None] * (known[right, :, k] - known[right - 1, :, k])
        for name, row in zip(LEVELS, value):
            out[f"recalibrated_{name}"][:, k] = row
        out["errorbar"][:, k] = np.sqrt(((value[len(LEVELS):] - summary["mean"][:, k])**2).mean(0))
    return out
