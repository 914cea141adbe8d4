"""One structure for every posterior, from chains, quadrature or a network; its calibration.

Error bars are the sd times one factor per parameter, a temperature. Quantiles are mapped
isotonically: with R the distribution of the probabilities below the truth (PIT) of maps of known
cosmology, a posterior's distribution function F becomes R(F) (Kuleshov, Fenner & Ermon 2018,
arXiv:1807.00263). Before, those at the design's hull are widened about the median, so that they
hold for its cosmologies too. The score reads this file and needs no SciPy: imports inside.
"""
import dataclasses

import numpy as np

from ..core.checks import InputError, array
from ..core.params import LEVELS, PARAMS, REGIONS

ACCEPTANCE = (0.2, 0.5)        # range in which a random walk in two dimensions mixes well
MIN_ESS, MAX_RHAT, MIN_P_VALUE = 100.0, 1.05, 1e-3     # ESS: the mean is known to sd / 10
MAX_UNCONVERGED = 0.01         # share of a run's maps that may miss one of the two by chance
HULL_SD = 2.0                  # a posterior whose mean is so many sd inside the hull is not at it
FULL_SD = 0.5                  # and from here on it wholly is
MAX_WIDENING, MIN_WIDENED = 2.0, 20      # factor, and maps that it can be fitted on
WIDENINGS = 5                  # rounds of the fit
KNOT_SCORES = np.linspace(-4.0, 4.0, 41)       # normal scores of the knots of R
PRIOR_COUNT = 10.0             # maps' worth of R(p) = p that is mixed in: R rises strictly
STRANGE, STUCK = 16, 32        # of params.FLAGS

FIELDS = ("mean", "sd", "correlation", *LEVELS, "acceptance", "ess", "rhat", "tau", "edge",
          "contour", "area", "log_evidence", "draws", "lp")
Chains = dataclasses.make_dataclass("Chains", [(name, object, None) for name in FIELDS])
Chains.__module__ = __name__
Chains.__doc__ = """Posteriors of n maps in numbers; None where a method has no such thing.

mean, sd, q2_5, q16, q50, q84, q97_5: (n, 2) float64, Omega_m and S_8, with the quantiles.
correlation, log_evidence, acceptance: (n,) float64, the last the share of the kept steps.
ess, rhat: (n, 2) float64, bulk ESS and rank-normalised split R-hat of the kept draws.
tau: (n, 2) float64, autocorrelation time in steps, by batch means of all steps.
edge: (n,) float64, ln of the highest density on the hull's edge relative to the highest one.
contour, area: (n, 2) float64, ln of the posterior density at the edge of the smallest regions
    that hold 68.3 and 95.4 %, and their areas.
draws, lp: (k, chains, m, 2), (k, chains, m) float64, of maps that keep draws, and their densities.
"""


def spread(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sd (n, 2) and correlation (n,), 0 where nothing varies, of covariances (n, 2, 2)."""
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    product = sd[:, 0] * sd[:, 1]
    ratio = covariance[:, 0, 1] / np.where(product > 0.0, product, 1.0)
    return sd, np.where(product > 0.0, ratio, 0.0)


def summarise(chains: Chains, summary: np.ndarray, mean: np.ndarray,
              covariance: np.ndarray) -> dict[str, np.ndarray]:
    """The result of chains or of a quadrature, as /summary of posterior.h5 holds it.

    summary, mean: (n, d), covariance: (n, d, d) float64, of the emulator at the posterior's mean.
    Returns {name: array}: what Chains has but for draws, contour_68, ... (n,), chi2 = r^T C^-1 r of
    what the emulator leaves of the summary, its p_value (conservative: parameters were fitted), and
    flag (n,) int16, a sum of the keys of params.FLAGS. A map whose chains never moved has STUCK for
    its flag and NaN for all that would tell of a posterior.
    """
    from scipy.special import chdtrc
    residual = summary - mean
    chi2 = np.einsum("nd,nd->n", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    result = {name: np.array(value) for name, value in vars(chains).items()
              if value is not None and name not in ("draws", "lp")}
    for name in ("contour", "area") if chains.area is not None else ():
        result |= {f"{name}_{r}": v for r, v in zip(REGIONS, result.pop(name).T)}
    result |= {"chi2": chi2, "p_value": chdtrc(summary.shape[1], chi2)}
    raised, still = {STRANGE: result["p_value"] < MIN_P_VALUE}, ~(chains.sd > 0.0).all(1)
    if chains.acceptance is not None:
        still |= chains.acceptance == 0.0
        raised |= {1: np.abs(chains.acceptance - np.mean(ACCEPTANCE)) > np.ptp(ACCEPTANCE) / 2,
                   2: (chains.ess < MIN_ESS).any(1), 4: (chains.rhat > MAX_RHAT).any(1)}
    flag = sum(bit * found for bit, found in raised.items())
    for name in result.keys() - {"acceptance", "ess", "edge"}:
        result[name][still] = np.nan
    return result | {"flag": np.where(still, STUCK, flag).astype(np.int16)}


def unconverged(result: dict[str, np.ndarray]) -> str | None:
    """Why the chains of a result, of summarise(), have not converged, in one line, or None.

    At most MAX_UNCONVERGED of the maps may miss MIN_ESS or MAX_RHAT, and every chain has to move.
    """
    n, flag = len(result["flag"]), np.asarray(result["flag"])
    few, wide, still, bad = (int(((flag & bits) > 0).sum()) for bits in (2, 4, STUCK, 6 + STUCK))
    if bad <= int(MAX_UNCONVERGED * n) and not still:
        return None
    return (f"not converged: of {n} maps {few} have an effective sample size below {MIN_ESS:.0f}, "
            f"{wide} an R-hat above {MAX_RHAT}" + (f", {still} never moved" if still else "")
            + "; raise --nstep, lower --thin, or set --sigma for an acceptance of 0.2 to 0.5")


def gaussian(mean: np.ndarray, sd: np.ndarray) -> dict[str, np.ndarray]:
    """The result of a network's own means and error bars, as summarise() gives it.

    mean, sd: (n, 2) float64, Omega_m and S_8. Raises InputError unless finite, and sd above 0.
    """
    from scipy.special import ndtri
    n = len(mean)
    bad = np.flatnonzero(~(np.isfinite(mean) & (0.0 < sd) & (sd < np.inf)).all(axis=1))
    for i in bad[:1]:
        raise InputError(f"posterior: expected finite means and error bars above 0, got {mean[i]} "
                         f"and {sd[i]} for map {i} ({bad.size} such maps); look at the training")
    return {"mean": mean, "sd": sd, "correlation": np.zeros(n), "flag": np.zeros(n, np.int16),
            **{name: mean + sd * ndtri(level) for name, level in LEVELS.items()}}


def pit_quantiles(truth: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Probability below the truth by quantiles, between which the pull is linear in the parameter.

    Beyond them it goes on with the outermost slope: exact for a Gaussian.
    truth: (n, 2), levels: (k,), increasing probabilities, quantiles: (k, n, 2), float64.
    Returns (n, 2) float64, uniform in (0, 1) if calibrated.
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

    values: (n, ...) float64, of pit_quantiles(); levels: (k,) float64. Returns (k, ...) float64.
    """
    half = np.abs(2.0 * np.asarray(values) - 1.0)
    return np.stack([(half <= level).mean(axis=0) for level in levels])


def uniform_p_value(values: np.ndarray, cluster: np.ndarray | None = None) -> float:
    """p-value of the Kolmogorov-Smirnov test that values (n,) float64 are uniform in (0, 1).

    Stephens' (1970, JRSS B 32, 115) correction for n is within 0.025 of the exact value from n = 5
    on, and spares the second that importing scipy.stats takes.
    cluster: (n,) int, equal for maps that depend on each other, or None. n is divided by the factor
        by which the variance of the share below 0.1, 0.2 ... 0.9 exceeds that of independent maps,
        about the level: about the mean of 5 clusters 3 % of p-values fell below 0.001. With fewer
        than 12 none falls there, whatever they share.
    """
    from scipy.special import kolmogorov
    order = np.argsort(values)
    values, n = np.asarray(values, dtype=np.float64)[order], len(values)
    step = np.arange(n) / n
    distance = max((values - step).max(), (step + 1.0 / n - values).max())
    if cluster is not None:
        level = np.arange(1, 10) / 10
        _, which = np.unique(np.asarray(cluster)[order], return_inverse=True)
        excess = np.zeros((which.max() + 1, len(level)))
        np.add.at(excess, which, (values[:, None] <= level) - level)
        n = n / max(((excess**2).sum(0) / (n * level * (1.0 - level))).mean(), 1.0)
    return float(kolmogorov(distance * (np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n))))


def checked(truth: np.ndarray, mean: np.ndarray,
            sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, means and error bars (n, 2), Omega_m and S_8, of the same maps as float64.

    Raises InputError for other shapes, non-finite values, sd <= 0 (naming the map) and no maps.
    """
    truth = array("truth", np.asarray(truth, dtype=np.float64), (None, len(PARAMS)))
    if len(truth) == 0:
        raise InputError("score: expected at least one map, got none; check the posterior")
    failed = "the sampler failed for this map"
    mean, sd = (array(name, np.asarray(value, dtype=np.float64), truth.shape, advice=failed)
                for name, value in (("mean", mean), ("sd", sd)))
    for row, col in np.argwhere(sd <= 0)[:1]:
        raise InputError(f"sd: expected error bars above 0, got {sd[row, col]} for {PARAMS[col]} "
                         f"of map {row}; {failed}")
    return truth, mean, sd


def isotonic(values: np.ndarray) -> np.ndarray:
    """R at the knots, (41, 2) float64, from values (n, 2), PIT of the emulator split alone."""
    from scipy.special import ndtr
    p = ndtr(KNOT_SCORES)
    share = (np.asarray(values)[None] <= p[:, None, None]).sum(1)
    return (share + PRIOR_COUNT * p[:, None]) / (len(values) + PRIOR_COUNT)


def recalibrate(kind: str, result: dict[str, np.ndarray], truth: np.ndarray,
                known: dict[str, np.ndarray], design: np.ndarray) -> tuple[dict, dict]:
    """What a recalibration adds to a posterior's result, and what it learnt.

    "temperature" gives "errorbar" alone, "isotonic" the quantiles "recalibrated_q2_5", ... too.
    Those are first widened about the median by 1 + (h - 1) x, x in 0 ... 1 being how much the
    posterior is at the hull; h makes them hold 68 % of the truths of the cosmologies on the hull.
    kind: str; result, known: of summarise() or gaussian(), known of maps of the emulator split.
    truth: (k, 2) float64, of those maps; design: (n_cosmology, 2) float64.
    Returns two dicts: for the result, (n, 2) float64 each; "temperature" (2,) and, if isotonic,
    "widening" h (2,) and "recalibration" (41, 2).
    """
    from scipy.spatial import ConvexHull
    # rms(pull) has the greatest likelihood (Guo et al. 2017, arXiv:1706.04599), the quantile, 5 %
    # smaller, holds 68.3 % of the truths. Their geometric mean costs 0.003 of score
    pull = np.abs(truth - known["mean"]) / known["sd"]
    factor = np.sqrt(np.sqrt((pull**2).mean(0)) * np.quantile(pull, REGIONS["68"], axis=0))
    if kind == "temperature":
        return {"errorbar": result["sd"] * factor}, {"temperature": factor}
    hull, h = ConvexHull(design), np.ones(2)
    on_hull = (truth[:, None] == design[hull.vertices]).all(2).any(1)
    for _ in range(WIDENINGS):            # R narrows what h has widened, and so on
        wide = _widened(known, h, hull.equations)
        curve = isotonic(pit_quantiles(truth, list(LEVELS.values()), list(wide.values())))
        learnt = {"temperature": factor, "widening": h, "recalibration": curve}
        if on_hull.sum() < MIN_WIDENED:
            break
        true = truth[on_hull]
        low, middle, high = (v[on_hull] for v in list(_quantiles(wide, curve).values())[1:4])
        half = np.maximum(np.where(true > middle, high - middle, middle - low), 1e-9)
        short = np.quantile(np.abs(true - middle) / half, LEVELS["q84"] - LEVELS["q16"], axis=0)
        h = np.clip(h * short, 1.0, MAX_WIDENING)
    wide = _widened(result, learnt["widening"], hull.equations)
    return {"errorbar": result["sd"] * factor} | _quantiles(wide, curve), learnt


def _widened(result, h, equations):
    """Quantiles with their distances from the median multiplied by h at the hull, 1 far inside."""
    normal, offset, middle = equations[:, :2], equations[:, 2], result["q50"]
    a, b = (normal[:, k] * result["sd"][:, k:k + 1] for k in range(2))
    width = np.sqrt(a * a + b * b + 2.0 * result["correlation"][:, None] * a * b)
    distance = (-(result["mean"] @ normal.T + offset) / width).min(axis=1, keepdims=True)
    near = np.clip((HULL_SD - distance) / (HULL_SD - FULL_SD), 0.0, 1.0)
    return {name: middle + (1.0 + (h - 1.0) * near) * (result[name] - middle) for name in LEVELS}


def _quantiles(result, curve):
    """Recalibrated quantiles; between and beyond the known ones the normal score is linear."""
    from scipy.special import ndtri
    known = np.stack([result[name] for name in LEVELS])
    scores, out = ndtri([*LEVELS.values()]), np.empty_like(known)
    for k in range(2):
        back = np.interp(scores, ndtri(np.clip(curve[:, k], 1e-12, 1 - 1e-12)), KNOT_SCORES)
        right = np.clip(np.searchsorted(scores, back), 1, len(scores) - 1)
        part = (back - scores[right - 1]) / (scores[right] - scores[right - 1])
        low, high = known[right - 1, :, k], known[right, :, k]
        out[:, :, k] = low + part[:, None] * (high - low)
    return {f"recalibrated_{name}": values for name, values in zip(LEVELS, out)}
