"""One structure for every posterior, from chains, quadrature or a network: the arrays of /summary."""
import numpy as np
from scipy import special

from ..core.checks import InputError

ACCEPTANCE = (0.2, 0.5)        # range in which a random walk in two dimensions mixes well
LEAST_ESS, MOST_RHAT, LEAST_P = 100.0, 1.05, 1e-3
MOST_UNCONVERGED = 0.01        # share of a run's maps that may miss one of the two by chance
EDGE = -0.5                    # ln density, relative to the highest, where one standard deviation ends
REGIONS = ("68", "95")         # highest-density regions, with 68.3 and 95.4 % of the probability
LEVELS = {"q2_5": 0.025, "q16": 0.16, "q50": 0.5, "q84": 0.84, "q97_5": 0.975}
INTERVALS = {"68": ("q16", "q84"), "95": ("q2_5", "q97_5")}


def summarise(chains, estimate, mean, covariance, count=0.0):
    """The summary of chains or of a quadrature.

    chains: sampler.Chains of n maps; estimate: (n, d) their summaries; mean (n, d), covariance (n, d, d): of
    the emulator at the posterior's mean. chi2 = r^T C^-1 r of what the emulator leaves of the summary there,
    and p_value its probability with d degrees of freedom (conservative: the parameters were fitted); count:
    Emulator.count, for a t-likelihood Hotelling's T^2 takes the place of chi2.
    Returns {name: array}: mean, sd, q2_5, q16, q50, q84, q97_5, ess, rhat, tau (n, 2) and correlation,
    acceptance, edge, contour_68, contour_95, area_68, area_95, log_evidence, chi2, p_value (n,) float64, flag
    (n,) int16, a sum of the keys of variables.FLAGS.
    """
    residual = estimate - mean
    chi2 = np.einsum("nd,nd->n", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    d = estimate.shape[1]
    p_value = special.chdtrc(d, chi2) if count == 0.0 else special.fdtrc(d, count - d,
                                                                         chi2 * (count - d) / (d * (count - 1.0)))
    summary = {name: getattr(chains, name)
               for name in ("mean", "sd", "correlation", *LEVELS, "acceptance", "ess", "rhat", "tau", "edge",
                            "log_evidence")}
    for k, region in enumerate(REGIONS):
        summary |= {f"contour_{region}": chains.contour[:, k], f"area_{region}": chains.area[:, k]}
    summary |= {"chi2": chi2, "p_value": p_value}
    low, high = ACCEPTANCE
    with np.errstate(invalid="ignore"):            # NaN: the method has no such thing, no flag
        raised = {1: (chains.acceptance < low) | (chains.acceptance > high),
                  2: (chains.ess < LEAST_ESS).any(1), 4: (chains.rhat > MOST_RHAT).any(1),
                  8: chains.edge > EDGE, 16: p_value < LEAST_P}
    summary["flag"] = sum(bit * found for bit, found in raised.items()).astype(np.int16)
    return summary


def stuck(summary):
    """How many maps have chains without any spread, or without one accepted step: no posterior at all."""
    return int(((~(np.asarray(summary["sd"]) > 0.0)).any(1) | (np.asarray(summary["acceptance"]) == 0.0)).sum())


def unconverged(summary):
    """Why the chains of a run have not converged, in one line; None if they have, or there are none.

    They have when at most MOST_UNCONVERGED of the maps have an ESS below LEAST_ESS (the Monte Carlo error of a
    mean is then a tenth of its sd) or an R-hat above MOST_RHAT, and none never moved.
    """
    n, flag = len(summary["flag"]), np.asarray(summary["flag"])
    with np.errstate(invalid="ignore"):
        still = int(((flag & 6) > 0)[(np.asarray(summary["ess"]) <= 0.0).any(1)].sum())
    few, wide = int(((flag & 2) > 0).sum()), int(((flag & 4) > 0).sum())
    bad = int(((flag & 6) > 0).sum())
    if bad <= int(MOST_UNCONVERGED * n) and not still:
        return None
    return (f"not converged: of {n} maps {few} have an effective sample size below {LEAST_ESS:.0f}, {wide} an R-hat "
            f"above {MOST_RHAT}" + (f", {still} never moved" if still else "")
            + "; raise --nstep, or set --sigma for an acceptance of 0.2 to 0.5")


def gaussian(mean, sd):
    """The summary of a network's own means and error bars, (n, 2) each; NaN where it has no such thing.

    Raises InputError for means that are not finite and error bars that are not positive.
    """
    n = len(mean)
    bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(sd) & (np.asarray(sd) > 0.0)).all(axis=1))
    if bad.size:
        raise InputError(f"posterior: expected finite means and error bars above zero, got {mean[bad[0]]} "
                         f"and {sd[bad[0]]} for map {bad[0]} ({bad.size} such maps); look at the training")
    summary = {"mean": mean, "sd": sd, "correlation": np.zeros(n)}
    summary |= {name: mean + sd * special.ndtri(level) for name, level in LEVELS.items()}
    summary |= {name: np.full((n, 2), np.nan) for name in ("ess", "rhat", "tau")}
    summary |= {name: np.full(n, np.nan) for name in ("acceptance", "edge", "chi2", "p_value", "log_evidence")}
    summary |= {f"{name}_{region}": np.full(n, np.nan) for name in ("contour", "area") for region in REGIONS}
    summary["flag"] = np.zeros(n, np.int16)
    return summary


def warnings(summary):
    """What a user should know of the chains, one line each; [] if all is well."""
    n, flag = len(summary["flag"]), summary["flag"]
    lines = []
    off = (flag & 1) > 0
    if off.any():
        rate = summary["acceptance"]
        advice = "lower --sigma" if np.median(rate[off]) < ACCEPTANCE[0] else "raise --sigma"
        lines.append(f"acceptance of {off.sum()} of {n} maps is outside {ACCEPTANCE[0]}-{ACCEPTANCE[1]} "
                     f"({rate.min():.2f} to {rate.max():.2f}): {advice}")
    few = (flag & 2) > 0
    if few.any():
        lines.append(f"effective sample size of {few.sum()} of {n} maps is below {LEAST_ESS:.0f} "
                     f"(least {np.nanmin(summary['ess']):.0f}): raise --nstep")
    wide = (flag & 4) > 0
    if wide.any():
        lines.append(f"R-hat of {wide.sum()} of {n} maps is above {MOST_RHAT} "
                     f"(most {np.nanmax(summary['rhat']):.3f}): raise --nstep")
    return lines
