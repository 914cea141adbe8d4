"""One structure for every posterior, from chains, quadrature or a network."""
import dataclasses

import numpy as np
from scipy import special

from ..core.checks import InputError
from ..core.params import LEVELS, REGIONS

ACCEPTANCE = (0.2, 0.5)        # range in which a random walk in two dimensions mixes well
MIN_ESS, MAX_RHAT, MIN_P_VALUE = 100.0, 1.05, 1e-3
MAX_UNCONVERGED = 0.01         # share of a run's maps that may miss one of the two by chance
EDGE = -0.5                    # ln density, relative to the highest, where one sd ends


@dataclasses.dataclass
class Chains:
    """Posteriors of n maps in numbers; NaN where a quantity has no meaning for the method.

    mean, sd: (n, 2) float64, Omega_m and S_8.
    correlation: (n,) float64.
    q2_5, q16, q50, q84, q97_5: (n, 2) float64, quantiles.
    acceptance: (n,) float64, share of the kept steps.
    ess, rhat: (n, 2) float64, bulk ESS and rank-normalised split R-hat of the kept draws (Vehtari
        et al. 2021).
    tau: (n, 2) float64, autocorrelation time in steps, by batch means of all steps.
    edge: (n,) float64, ln of the highest density on the hull's edge relative to the highest
        anywhere.
    contour, area: (n, 2) float64, ln of the posterior density at the edge of the smallest regions
        that hold 68.3 and 95.4 %, and their areas.
    log_evidence: (n,) float64.
    draws: (k, chains, m, 2) float64, of the first k maps.
    lp: (k, chains, m) float64, their log-posteriors.
    """
    mean: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    q2_5: np.ndarray
    q16: np.ndarray
    q50: np.ndarray
    q84: np.ndarray
    q97_5: np.ndarray
    acceptance: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    tau: np.ndarray
    edge: np.ndarray
    contour: np.ndarray
    area: np.ndarray
    log_evidence: np.ndarray
    draws: np.ndarray
    lp: np.ndarray


def join(parts: list[Chains]) -> Chains:
    """Chains of several groups of maps as one; those that keep draws have to come first."""
    return Chains(*(np.concatenate([getattr(part, field.name) for part in parts])
                    for field in dataclasses.fields(Chains)))


def spread(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations and correlation of covariances.

    covariance: (n, 2, 2) float64.
    Returns sd (n, 2) and correlation (n,), 0 where nothing varies.
    """
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    product = sd[:, 0] * sd[:, 1]
    ratio = covariance[:, 0, 1] / np.where(product > 0.0, product, 1.0)
    return sd, np.where(product > 0.0, ratio, 0.0)


def summarise(chains: Chains, summary: np.ndarray, mean: np.ndarray,
              covariance: np.ndarray) -> dict[str, np.ndarray]:
    """The result of chains or of a quadrature, as /summary of posterior.h5 holds it.

    chi2 = r^T C^-1 r of what the emulator leaves of the summary at the posterior's mean, and
    p_value its probability with d degrees of freedom (conservative: the parameters were fitted).
    chains: of n maps.
    summary: (n, d) float64.
    mean: (n, d) float64, of the emulator at the posterior's mean.
    covariance: (n, d, d) float64, likewise.
    Returns {name: array}: mean, sd, q2_5, q16, q50, q84, q97_5, ess, rhat, tau (n, 2) and
    correlation, acceptance, edge, contour_68, contour_95, area_68, area_95, log_evidence, chi2,
    p_value (n,) float64, flag (n,) int16, a sum of the keys of variables.FLAGS.
    """
    residual = summary - mean
    chi2 = np.einsum("nd,nd->n", residual,
                     np.linalg.solve(covariance, residual[..., None])[..., 0])
    p_value = special.chdtrc(summary.shape[1], chi2)
    result = {name: getattr(chains, name)
              for name in ("mean", "sd", "correlation", *LEVELS, "acceptance", "ess", "rhat", "tau",
                           "edge", "log_evidence")}
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
    """Why the chains of a run have not converged, in one line; None if they have, or there are
    none.

    They have when at most MAX_UNCONVERGED of the maps have an ESS below MIN_ESS (the Monte Carlo
    error of a mean is then a tenth of its sd) or an R-hat above MAX_RHAT, and none never moved.
    result: of summarise() or gaussian().
    """
    n, flag = len(result["flag"]), np.asarray(result["flag"])
    with np.errstate(invalid="ignore"):
        still = int(((flag & 6) > 0)[(np.asarray(result["ess"]) <= 0.0).any(1)].sum())
    few, wide = int(((flag & 2) > 0).sum()), int(((flag & 4) > 0).sum())
    bad = int(((flag & 6) > 0).sum())
    if bad <= int(MAX_UNCONVERGED * n) and not still:
        return None
    return (f"not converged: of {n} maps {few} have an effective sample size below {MIN_ESS:.0f}, "
            f"{wide} an R-hat above {MAX_RHAT}" + (f", {still} never moved" if still else "")
            + "; raise --nstep, or set --sigma for an acceptance of 0.2 to 0.5")


def gaussian(mean: np.ndarray, sd: np.ndarray) -> dict[str, np.ndarray]:
    """The result of a network's own means and error bars; NaN where it has no such thing.

    mean, sd: (n, 2) float64, Omega_m and S_8.
    Returns the same names as summarise().
    Raises InputError for means that are not finite and error bars that are not positive.
    """
    n = len(mean)
    fine = np.isfinite(mean) & np.isfinite(sd) & (np.asarray(sd) > 0.0)
    bad = np.flatnonzero(~fine.all(axis=1))
    if bad.size:
        raise InputError("posterior: expected finite means and error bars above zero, got "
                         f"{mean[bad[0]]} and {sd[bad[0]]} for map {bad[0]} ({bad.size} such "
                         "maps); look at the training")
    result = {"mean": mean, "sd": sd, "correlation": np.zeros(n)}
    result |= {name: mean + sd * special.ndtri(level) for name, level in LEVELS.items()}
    result |= {name: np.full((n, 2), np.nan) for name in ("ess", "rhat", "tau")}
    result |= {name: np.full(n, np.nan)
               for name in ("acceptance", "edge", "chi2", "p_value", "log_evidence")}
    result |= {f"{name}_{region}": np.full(n, np.nan)
               for name in ("contour", "area") for region in REGIONS}
    result["flag"] = np.zeros(n, np.int16)
    return result


def warnings(result: dict[str, np.ndarray]) -> list[str]:
    """What a user should know of the chains, one line each; [] if all is well.

    result: of summarise() or gaussian().
    """
    n, flag = len(result["flag"]), result["flag"]
    lines = []
    off = (flag & 1) > 0
    if off.any():
        rate = result["acceptance"]
        advice = "lower --sigma" if np.median(rate[off]) < ACCEPTANCE[0] else "raise --sigma"
        lines.append(f"acceptance of {off.sum()} of {n} maps is outside {ACCEPTANCE[0]}-"
                     f"{ACCEPTANCE[1]} ({rate.min():.2f} to {rate.max():.2f}): {advice}")
    few = (flag & 2) > 0
    if few.any():
        lines.append(f"effective sample size of {few.sum()} of {n} maps is below {MIN_ESS:.0f} "
                     f"(lowest {np.nanmin(result['ess']):.0f}): raise --nstep")
    wide = (flag & 4) > 0
    if wide.any():
        lines.append(f"R-hat of {wide.sum()} of {n} maps is above {MAX_RHAT} "
                     f"(highest {np.nanmax(result['rhat']):.3f}): raise --nstep")
    return lines
