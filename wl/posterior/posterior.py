"""One structure for every posterior, from chains, quadrature or a network; its calibration.

Error bars are the sd times one factor per parameter, a temperature. Quantiles are mapped
isotonically: the probabilities below the truth (PIT) of maps whose cosmology is known have an
empirical distribution R; a calibrated posterior has R(p) = p. Replacing the posterior's
distribution function F by R(F) makes it so (Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263). R is
monotone, so quantiles stay in order. The score reads this file and needs no SciPy: imports inside.
"""
import dataclasses

import numpy as np

from ..core.checks import InputError, array
from ..core.params import LEVELS, PARAMS, REGIONS

ACCEPTANCE = (0.2, 0.5)        # range in which a random walk in two dimensions mixes well
MIN_ESS, MAX_RHAT, MIN_P_VALUE = 100.0, 1.05, 1e-3
MAX_UNCONVERGED = 0.01         # share of a run's maps that may miss one of the two by chance
EDGE = -0.5                    # ln density, relative to the highest, where one sd ends
KNOTS = 41                     # of R, at equal distances of the normal score
MAX_SCORE = 4.0                # normal score of the outermost knots
PRIOR_COUNT = 10.0             # maps' worth of R(p) = p that is mixed in: R rises strictly


Chains = dataclasses.make_dataclass(
    "Chains", "mean sd correlation q2_5 q16 q50 q84 q97_5 acceptance ess rhat "
    "tau edge contour area log_evidence draws lp".split())
Chains.__module__ = __name__
Chains.__doc__ = """Posteriors of n maps in numbers; NaN where a quantity has no meaning.

mean, sd, q2_5, q16, q50, q84, q97_5: (n, 2) float64, Omega_m and S_8, with the quantiles.
correlation, log_evidence, acceptance: (n,) float64, the last the share of the kept steps.
ess, rhat: (n, 2) float64, bulk ESS and rank-normalised split R-hat of the kept draws (Vehtari
    et al. 2021).
tau: (n, 2) float64, autocorrelation time in steps, by batch means of all steps.
edge: (n,) float64, ln of the highest density on the hull's edge relative to the highest one.
contour, area: (n, 2) float64, ln of the posterior density at the edge of the smallest regions
    that hold 68.3 and 95.4 %, and their areas.
draws, lp: (k, chains, m, 2) and (k, chains, m) float64, of the first k maps, and their
    log-posteriors.
"""


def join(parts: list[Chains]) -> Chains:
    """Chains of several groups of maps as one; those that keep draws have to come first."""
    return Chains(*(np.concatenate([getattr(part, field.name) for part in parts])
                    for field in dataclasses.fields(Chains)))


def spread(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sd (n, 2) and correlation (n,), 0 where nothing varies, of covariances (n, 2, 2)."""
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    product = sd[:, 0] * sd[:, 1]
    ratio = covariance[:, 0, 1] / np.where(product > 0.0, product, 1.0)
    return sd, np.where(product > 0.0, ratio, 0.0)


def summarise(chains: Chains, summary: np.ndarray, mean: np.ndarray,
              covariance: np.ndarray) -> dict[str, np.ndarray]:
    """The result of chains or of a quadrature, as /summary of posterior.h5 holds it.

    chi2 = r^T C^-1 r of what the emulator leaves of the summary at the posterior's mean, and
    p_value its probability with d degrees of freedom (conservative: the parameters were fitted).
    summary, mean: (n, d), covariance: (n, d, d) float64, the last two of the emulator at the
        posterior's mean.
    Returns {name: array}: mean, sd, q2_5, q16, q50, q84, q97_5, ess, rhat, tau (n, 2) and
    correlation, acceptance, edge, contour_68, contour_95, area_68, area_95, log_evidence, chi2,
    p_value (n,) float64, flag (n,) int16, a sum of the keys of params.FLAGS.
    """
    from scipy.special import chdtrc
    residual = summary - mean
    chi2 = np.einsum("nd,nd->n", residual,
                     np.linalg.solve(covariance, residual[..., None])[..., 0])
    p_value = chdtrc(summary.shape[1], chi2)
    names = "mean", "sd", "correlation", *LEVELS, "acceptance", "ess", "rhat", "tau", "edge"
    result = {name: getattr(chains, name) for name in (*names, "log_evidence")}
    for k, region in enumerate(REGIONS):
        result |= {f"contour_{region}": chains.contour[:, k], f"area_{region}": chains.area[:, k]}
    result |= {"chi2": chi2, "p_value": p_value}
    low, high = ACCEPTANCE
    with np.errstate(invalid="ignore"):            # NaN: the method has no such thing, no flag
        raised = {1: (chains.acceptance < low) | (chains.acceptance > high),
                  2: (chains.ess < MIN_ESS).any(1), 4: (chains.rhat > MAX_RHAT).any(1),
                  8: chains.edge > EDGE, 16: p_value < MIN_P_VALUE}
    result["flag"] = sum(bit * found for bit, found in raised.items()).astype(np.int16)
    return result


def stuck(result: dict[str, np.ndarray]) -> int:
    """How many maps have chains without any spread, or without one accepted step: no posterior."""
    still = (~(np.asarray(result["sd"]) > 0.0)).any(1)
    return int((still | (np.asarray(result["acceptance"]) == 0.0)).sum())


def unconverged(result: dict[str, np.ndarray]) -> str | None:
    """Why the chains of a run have not converged, in one line; None if they have or there are none.

    They have when at most MAX_UNCONVERGED of the maps have an ESS below MIN_ESS (the Monte Carlo
    error of a mean is then a tenth of its sd) or an R-hat above MAX_RHAT, and none never moved.
    result: of summarise() or gaussian().
    """
    n, flag = len(result["flag"]), np.asarray(result["flag"])
    few, wide, bad = (int(((flag & bits) > 0).sum()) for bits in (2, 4, 6))
    with np.errstate(invalid="ignore"):
        still = int(((flag & 6) > 0)[(np.asarray(result["ess"]) <= 0.0).any(1)].sum())
    if bad <= int(MAX_UNCONVERGED * n) and not still:
        return None
    return (f"not converged: of {n} maps {few} have an effective sample size below {MIN_ESS:.0f}, "
            f"{wide} an R-hat above {MAX_RHAT}" + (f", {still} never moved" if still else "")
            + "; raise --nstep, or set --sigma for an acceptance of 0.2 to 0.5")


def gaussian(mean: np.ndarray, sd: np.ndarray) -> dict[str, np.ndarray]:
    """The result of a network's own means and error bars; NaN where it has no such thing.

    mean, sd: (n, 2) float64, Omega_m and S_8. Returns the same names as summarise().
    Raises InputError for means that are not finite and error bars that are not positive.
    """
    from scipy.special import ndtri
    n = len(mean)
    fine = np.isfinite(mean) & np.isfinite(sd) & (np.asarray(sd) > 0.0)
    bad = np.flatnonzero(~fine.all(axis=1))
    if bad.size:
        raise InputError("posterior: expected finite means and error bars above zero, got "
                         f"{mean[bad[0]]} and {sd[bad[0]]} for map {bad[0]} ({bad.size} such "
                         "maps); look at the training")
    result = {"mean": mean, "sd": sd, "correlation": np.zeros(n)}
    result |= {name: mean + sd * ndtri(level) for name, level in LEVELS.items()}
    result |= {name: np.full((n, 2), np.nan) for name in ("ess", "rhat", "tau")}
    regions = [f"{name}_{region}" for name in ("contour", "area") for region in REGIONS]
    result |= {name: np.full(n, np.nan) for name in (
        "acceptance", "edge", "chi2", "p_value", "log_evidence", *regions)}
    result["flag"] = np.zeros(n, np.int16)
    return result


def warnings(result: dict[str, np.ndarray]) -> list[str]:
    """What a user should know of the chains of a result, one line each; [] if all is well."""
    n, flag, lines = len(result["flag"]), result["flag"], []
    off, few, wide = ((flag & bit) > 0 for bit in (1, 2, 4))
    if off.any():
        rate = result["acceptance"]
        advice = "lower --sigma" if np.median(rate[off]) < ACCEPTANCE[0] else "raise --sigma"
        lines.append(f"acceptance of {off.sum()} of {n} maps is outside {ACCEPTANCE[0]}-"
                     f"{ACCEPTANCE[1]} ({rate.min():.2f} to {rate.max():.2f}): {advice}")
    if few.any():
        lines.append(f"effective sample size of {few.sum()} of {n} maps is below {MIN_ESS:.0f} "
                     f"(lowest {np.nanmin(result['ess']):.0f}): raise --nstep")
    if wide.any():
        lines.append(f"R-hat of {wide.sum()} of {n} maps is above {MAX_RHAT} "
                     f"(highest {np.nanmax(result['rhat']):.3f}): raise --nstep")
    return lines


# ---------------------------------------------------------------- probabilities below the truth
def pit(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Probability below the truth in a Gaussian posterior: uniform in (0, 1) if calibrated.

    Returns (n, 2) float64. Shapes and errors as checked() has them.
    """
    from scipy.special import ndtr
    truth, mean, sd = checked(truth, mean, sd)
    return ndtr((truth - mean) / sd)


def pit_quantiles(truth: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The same from quantiles of the posterior, between which the pull is linear in the parameter.

    Beyond them it goes on with the outermost slope: exact for a Gaussian.
    truth: (n, 2), levels: (k,), increasing probabilities, quantiles: (k, n, 2), float64.
    Returns (n, 2) float64.
    """
    from scipy.special import ndtr, ndtri
    pull, quantiles, truth = ndtri(levels), np.asarray(quantiles), np.asarray(truth)
    right = np.clip((quantiles <= truth).sum(axis=0), 1, len(pull) - 1)
    low = np.take_along_axis(quantiles, right[None] - 1, axis=0)[0]
    high = np.take_along_axis(quantiles, right[None], axis=0)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = (truth - low) / (high - low)
    return ndtr(pull[right - 1] + step * (pull[right] - pull[right - 1]))


def coverage_curve(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of truths inside the central interval of each level: equal to levels if calibrated.

    values: (n, ...) float64, of pit(); levels: (k,) float64 in (0, 1). Returns (k, ...) float64.
    """
    half = np.abs(2.0 * np.asarray(values) - 1.0)
    return np.stack([(half <= level).mean(axis=0) for level in levels])


def uniform_p_value(values: np.ndarray) -> float:
    """p-value of the Kolmogorov-Smirnov test that values (n,) float64 are uniform in (0, 1).

    The limiting distribution with Stephens' (1970, JRSS B 32, 115) correction for the sample size:
    within 0.025 of the exact one from n = 5 on, without the second that importing scipy.stats
    takes.
    """
    from scipy.special import kolmogorov
    values, n = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    step = np.arange(n) / n
    distance = max((values - step).max(), (step + 1.0 / n - values).max())
    return float(kolmogorov(distance * (np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n))))


def checked(truth: np.ndarray, mean: np.ndarray,
            sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, means and error bars (n, 2), Omega_m and S_8, of the same maps as float64.

    Raises InputError for other shapes, non-finite values, sd <= 0 (naming the map) and no maps.
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
    """What error bars have to be multiplied by to match the errors of maps of known cosmology.

    The factor is that of the greatest Gaussian likelihood, rms(error / sd) of each parameter (Guo
    et al. 2017, arXiv:1706.04599, for two numbers instead of classes). What it absorbs: cosmologies
    on the edge of the design, 12 % of the challenge's, lie where the posterior is cut off by the
    hull (their squared pulls are 2 instead of 1).
    truth, mean, sd: (n, 2) float64 of the emulator split, never of maps to be scored.
    Returns (2,) float64.
    """
    return np.sqrt((((truth - mean) / sd)**2).mean(0))


def isotonic(values: np.ndarray) -> np.ndarray:
    """R at the knots, (KNOTS, 2) float64, from values (n, 2), PIT of the emulator split alone."""
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
    result: of summarise() or gaussian(); "mean", "sd" and the quantiles LEVELS are read.
    truth, mean, sd, values: (k, 2) float64 of maps of the emulator split, and their PIT.
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
    """Recalibrated quantiles; between and beyond the known ones the normal score is linear.

    result: as in recalibrate(); curve: (KNOTS, 2) float64, of isotonic().
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
