"""Calibration of error bars: probabilities below the truth, and what makes a posterior hold them.

Error bars are the sd times one factor per parameter, a temperature. Quantiles are mapped
isotonically: the probabilities below the truth (PIT) of maps whose cosmology is known have an
empirical distribution R; a calibrated posterior has R(p) = p. Replacing the posterior's
distribution function F by R(F) makes it so (Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263). R is
monotone, so quantiles stay in order.
"""
import numpy as np

from ..core.checks import InputError, array
from ..core.params import PARAMS
from ..core.params import LEVELS

KNOTS = 41                     # of R, at equal distances of the normal score
MAX_SCORE = 4.0                # normal score of the outermost knots
PRIOR_COUNT = 10.0             # maps' worth of R(p) = p that is mixed in: R rises strictly


# ---------------------------------------------------------------- probabilities below the truth
def pit(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Probability below the truth in a Gaussian posterior: uniform in (0, 1) if calibrated.

    truth, mean, sd: (n, 2) float64, Omega_m and S_8.
    Returns (n, 2) float64. Raises InputError as checked() does.
    """
    from scipy.special import ndtr                 # the score alone needs no SciPy
    truth, mean, sd = checked(truth, mean, sd)
    return ndtr((truth - mean) / sd)


def pit_quantiles(truth: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The same from quantiles of the posterior.

    Between them the pull is linear in the parameter, beyond them it goes on with the outermost
    slope: exact for a Gaussian.
    truth: (n, 2) float64.
    levels: (k,) float64, increasing probabilities.
    quantiles: (k, n, 2) float64.
    Returns (n, 2) float64.
    """
    from scipy.special import ndtr, ndtri
    pull, quantiles = ndtri(np.asarray(levels)), np.asarray(quantiles, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    right = np.clip((quantiles <= truth).sum(axis=0), 1, len(pull) - 1)
    low = np.take_along_axis(quantiles, right[None] - 1, axis=0)[0]
    high = np.take_along_axis(quantiles, right[None], axis=0)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = (truth - low) / (high - low)
    return ndtr(pull[right - 1] + step * (pull[right] - pull[right - 1]))


def coverage_curve(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of truths inside the central interval of each level: equal to levels if calibrated.

    values: (n, ...) float64, of pit() or pit_quantiles().
    levels: (k,) float64 in (0, 1).
    Returns (k, ...) float64.
    """
    half = np.abs(2.0 * np.asarray(values) - 1.0)
    return np.stack([(half <= level).mean(axis=0) for level in levels])


def uniform_p_value(values: np.ndarray) -> float:
    """p-value of the Kolmogorov-Smirnov test that values are uniform in (0, 1).

    The limiting distribution with Stephens' (1970, JRSS B 32, 115) correction for the sample size:
    within 0.025 of the exact one from n = 5 on, without the second that importing scipy.stats
    takes.
    values: (n,) float64.
    """
    from scipy.special import kolmogorov
    values = np.sort(np.asarray(values, dtype=np.float64))
    n = len(values)
    step = np.arange(n) / n
    distance = max((values - step).max(), (step + 1.0 / n - values).max())
    return float(kolmogorov(distance * (np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n))))


def checked(truth: np.ndarray, mean: np.ndarray,
            sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, means and error bars of the same maps as float64.

    truth, mean, sd: (n, 2), Omega_m and S_8.
    Raises InputError for shapes that differ, non-finite values, sd <= 0 and no maps, naming the
    map.
    """
    truth = array("truth", np.asarray(truth, dtype=np.float64), (None, len(PARAMS)))
    if len(truth) == 0:
        raise InputError("score: expected at least one map, got none; check the posterior")
    mean, sd = (array(name, np.asarray(value, dtype=np.float64), truth.shape,
                      advice="the sampler failed for this map")
                for name, value in (("mean", mean), ("sd", sd)))
    if (sd <= 0).any():
        row, col = (int(i) for i in np.argwhere(sd <= 0)[0])
        raise InputError(f"sd: expected error bars above 0, got {sd[row, col]} for {PARAMS[col]} "
                         f"of map {row}; the sampler failed for this map")
    return truth, mean, sd


# ---------------------------------------------------------------- error bars that hold them
def temperature(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """What error bars have to be multiplied by to match the errors of maps whose cosmology is
    known.

    The factor is that of the greatest Gaussian likelihood, rms(error / sd) of each parameter (Guo
    et al. 2017, arXiv:1706.04599, for two numbers instead of classes). What it absorbs: cosmologies
    on the edge of the design, 12 % of the challenge's, lie where the posterior is cut off by the
    hull (their squared pulls are 2 instead of 1).
    truth, mean, sd: (n, 2) float64 of the emulator split, never of maps to be scored.
    Returns (2,) float64.
    """
    return np.sqrt((((truth - mean) / sd)**2).mean(0))


def isotonic(values: np.ndarray) -> np.ndarray:
    """R at the knots.

    values: (n, 2) float64, PIT of the emulator split, never of maps to be scored.
    Returns (KNOTS, 2) float64.
    """
    from scipy.special import ndtr
    p = ndtr(np.linspace(-MAX_SCORE, MAX_SCORE, KNOTS))
    share = (np.asarray(values)[None] <= p[:, None, None]).sum(1)
    return (share + PRIOR_COUNT * p[:, None]) / (len(values) + PRIOR_COUNT)


def recalibrate(kind: str, result: dict[str, np.ndarray], truth: np.ndarray, mean: np.ndarray,
                sd: np.ndarray, values: np.ndarray) -> tuple[dict, dict]:
    """What a recalibration adds to a posterior's result, and the curves that it learnt.

    Temperature gives "errorbar" alone, isotonic the quantiles "recalibrated_q2_5", ... too: they
    say where the truth lies in cosmologies on the hull's edge as well, where no factor of a width
    can.
    kind: "temperature" or "isotonic".
    result: of posterior.summarise() or gaussian(); "mean", "sd" and the quantiles LEVELS are read.
    truth, mean, sd: (k, 2) float64 of maps of the emulator split.
    values: (k, 2) float64, their PIT.
    Returns two dicts: for the result, (n, 2) float64 each; "temperature" (2,) and, if isotonic,
    "recalibration" (KNOTS, 2).
    """
    factor = temperature(truth, mean, sd)
    found, learnt = {"errorbar": result["sd"] * factor}, {"temperature": factor}
    if kind == "isotonic":
        learnt["recalibration"] = isotonic(values)
        found |= quantiles(result, learnt["recalibration"])
    return found, learnt


def quantiles(result: dict[str, np.ndarray], curve: np.ndarray) -> dict[str, np.ndarray]:
    """Recalibrated quantiles.

    Between the quantiles that are known, and beyond them, the normal score is linear in the
    parameter.
    result: as in recalibrate().
    curve: (KNOTS, 2) float64, of isotonic().
    Returns {"recalibrated_q2_5": (n, 2) float64, ...}.
    """
    from scipy.special import ndtri
    known = np.stack([result[name] for name in LEVELS])
    scores = ndtri(np.array(list(LEVELS.values())))
    knots = np.linspace(-MAX_SCORE, MAX_SCORE, KNOTS)
    out = {f"recalibrated_{name}": np.empty_like(result["mean"]) for name in LEVELS}
    for k in range(2):
        back = np.interp(scores, ndtri(np.clip(curve[:, k], 1e-12, 1 - 1e-12)), knots)
        right = np.clip(np.searchsorted(scores, back), 1, len(scores) - 1)
        part = (back - scores[right - 1]) / (scores[right] - scores[right - 1])
        step = part[:, None] * (known[right, :, k] - known[right - 1, :, k])
        for name, row in zip(LEVELS, known[right - 1, :, k] + step):
            out[f"recalibrated_{name}"][:, k] = row
    return out
