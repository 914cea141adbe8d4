"""What each variable of the files is, in words and units, and what the numbers of its flags mean (CF conventions)."""
import numpy as np

from .params import SPLITS

FLAGS = {1: "acceptance_outside_0.2_to_0.5", 2: "effective_sample_size_below_100", 4: "R_hat_above_1.05",
         8: "hull_edge_cuts_the_one_sigma_region", 16: "p_value_below_0.001"}

# quantiles of a posterior, the central intervals that they bound, and highest-density regions
LEVELS = {"q2_5": 0.025, "q16": 0.16, "q50": 0.5, "q84": 0.84, "q97_5": 0.975}
INTERVALS = {"68": ("q16", "q84"), "95": ("q2_5", "q97_5")}
REGIONS = {"68": 0.682689492137, "95": 0.954499736104}

_QUANTILES = {name: f"{100 * level:g}" for name, level in LEVELS.items()}
# variable: (units, description); "1" is dimensionless
VARIABLES = {
    "estimate": ("1", "summaries of a map: a network's point estimates, or log10 of a binned spectrum"),
    "sd": ("1", "standard deviation of the posterior"),
    "mean": ("1", "mean: of the posterior, or of a cosmology's summaries"),
    "covariance": ("1", "covariance of a cosmology's summaries from map to map"),
    "theta": ("1", "Omega_m and S_8 of each cosmology of the design"),
    "design": ("1", "Omega_m and S_8 of each cosmology of the design"),
    "count": ("1", "maps that mean and covariance are made of"),
    "cosmology": ("1", "index into the design, -1 for test maps"),
    "realisation": ("1", "realisation of the cosmology, for test maps the row in their file"),
    "fold": ("1", "fold whose networks predicted the map, -1 for a mean over all"),
    "between": ("1", "covariance between the folds' networks for the same map"),
    "stack": ("1", "coefficients that make one estimate of those of a model's parts"),
    "errorbar": ("1", "recalibrated error bar: what is scored and submitted"),
    "correlation": ("1", "correlation of Omega_m and S_8 in the posterior"),
    "acceptance": ("1", "share of accepted proposals among the kept steps"),
    "ess": ("1", "bulk effective sample size of the kept draws (Vehtari et al. 2021)"),
    "rhat": ("1", "rank-normalised split R-hat of the kept draws (Vehtari et al. 2021)"),
    "tau": ("steps", "autocorrelation time of the chains"),
    "edge": ("1", "ln of the highest density on the hull's edge relative to the highest anywhere"),
    "chi2": ("1", "r^T C^-1 r of what the emulator leaves of the summaries at the posterior's mean"),
    "p_value": ("1", "probability of a larger chi2 with as many degrees of freedom as summaries"),
    "log_evidence": ("1", "ln of the evidence"),
    "Omega_m": ("1", "draws of Omega_m"), "S_8": ("1", "draws of S_8"),
    "lp": ("1", "ln of the unnormalised posterior density of each draw"),
    "vertex_log_prior": ("1", "ln of the prior density at each cosmology of the design"),
    "quadrature_error": ("1", "largest difference to a higher order of the quadrature, in posterior sd"),
    "temperature": ("1", "factor between sd and errorbar"),
    "recalibration": ("1", "isotonic map of probabilities at the knots of the normal score"),
    "fixed": ("1", "hand-made statistics of every map of the set, in its order"),
    "fresh": ("1", "the same with further draws of noise, of the maps that train"),
    "rows": ("1", "maps that train, by their place in the set"),
    "test": ("1", "hand-made statistics of the test maps"),
    "flag": ("1", "sum of the bits of what is wrong with the posterior, 0 if nothing is"),
    "split": ("1", "what the realisation is used for"),
    **{name: ("1", f"{level} % quantile of the posterior") for name, level in _QUANTILES.items()},
    **{f"recalibrated_{name}": ("1", f"recalibrated {level} % quantile") for name, level in _QUANTILES.items()},
    **{f"contour_{p}": ("1", f"ln of the density at the edge of the smallest region that holds {v} %")
       for p, v in (("68", "68.3"), ("95", "95.4"))},
    **{f"area_{p}": ("1", f"area of the smallest region that holds {v} %")
       for p, v in (("68", "68.3"), ("95", "95.4"))},
}


def attributes(name, dtype):
    """Attributes of a variable by its name, {} for one that is not known. dtype: of its values."""
    if name not in VARIABLES:
        return {}
    units, description = VARIABLES[name]
    found = {"units": units, "long_name": description}
    if name == "flag":
        found |= {"flag_masks": np.array(list(FLAGS), dtype), "flag_meanings": " ".join(FLAGS.values())}
    if name == "split":
        found |= {"flag_values": np.arange(len(SPLITS), dtype=dtype), "flag_meanings": " ".join(SPLITS)}
    return found
