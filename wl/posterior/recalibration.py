"""Recalibration: what a posterior says of probabilities, mapped to what the statistics split shows.

Error bars are the sd times one factor per parameter, a temperature. Quantiles are mapped isotonically:
the probabilities below the truth (PIT) of maps whose cosmology is known have an empirical distribution R; a
calibrated posterior has R(p) = p. Replacing the posterior's distribution function F by R(F) makes it so
(Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263). R is monotone, so quantiles stay in order.
"""
import numpy as np
from scipy.special import ndtri

from .posterior import LEVELS

KNOTS = 41                     # of R, at equal distances of the normal score
WIDEST = 4.0                   # normal score of the outermost knots
PRIOR_COUNT = 10.0             # maps' worth of R(p) = p that is mixed in: R rises strictly


def temperature(truth, mean, sd):
    """What error bars have to be multiplied by to match the errors of maps whose cosmology is known.

    truth, mean, sd: (n, 2) of the statistics split, never of maps to be scored. The factor is that of the
    greatest Gaussian likelihood, rms(error / sd) of each parameter (Guo et al. 2017, arXiv:1706.04599, for
    two numbers instead of classes). What it absorbs: cosmologies on the edge of the design, 12 % of the
    challenge's, lie where the posterior is cut off by the hull (their squared pulls are 2 instead of 1).
    Returns (2,) float64.
    """
    return np.sqrt((((truth - mean) / sd)**2).mean(0))


def isotonic(pit):
    """R at the knots. pit: (n, 2) of the statistics split, never of maps to be scored. Returns (KNOTS, 2)."""
    from scipy.special import ndtr
    p = ndtr(np.linspace(-WIDEST, WIDEST, KNOTS))
    share = (np.asarray(pit)[None] <= p[:, None, None]).sum(1)
    return (share + PRIOR_COUNT * p[:, None]) / (len(pit) + PRIOR_COUNT)


def recalibrate(kind, summary, truth, mean, sd, pit):
    """What `kind`, "temperature" or "isotonic", adds to a summary, and what it was made of.

    summary: with "mean", "sd" and the quantiles LEVELS, (n, 2) each; truth, mean, sd, pit: (k, 2) of maps of the
    statistics split. Temperature gives "errorbar" alone, isotonic the quantiles "recalibrated_q2_5", ... too: they
    say where the truth lies in cosmologies on the hull's edge as well, where no factor of a width can. Returns
    two dicts: for the summary, (n, 2) each; "temperature" (2,) and, if isotonic, "recalibration" (KNOTS, 2).
    """
    factor = temperature(truth, mean, sd)
    found, made_of = {"errorbar": summary["sd"] * factor}, {"temperature": factor}
    if kind == "isotonic":
        made_of["recalibration"] = isotonic(pit)
        found |= quantiles(summary, made_of["recalibration"])
    return found, made_of


def quantiles(summary, curve):
    """Recalibrated quantiles {"recalibrated_q2_5": ..., all (n, 2)}.

    summary: as in recalibrate(); curve: of isotonic(). Between the quantiles that are known, and beyond them, the
    normal score is linear in the parameter.
    """
    known = np.stack([summary[name] for name in LEVELS])
    scores = ndtri(np.array(list(LEVELS.values())))
    knots = np.linspace(-WIDEST, WIDEST, KNOTS)
    out = {f"recalibrated_{name}": np.empty_like(summary["mean"]) for name in LEVELS}
    for k in range(2):
        back = np.interp(scores, ndtri(np.clip(curve[:, k], 1e-12, 1 - 1e-12)), knots)
        right = np.clip(np.searchsorted(scores, back), 1, len(scores) - 1)
        part = (back - scores[right - 1]) / (scores[right] - scores[right - 1])
        value = known[right - 1, :, k] + part[:, None] * (known[right, :, k] - known[right - 1, :, k])
        for name, row in zip(LEVELS, value):
            out[f"recalibrated_{name}"][:, k] = row
    return out
