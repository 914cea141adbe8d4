"""Names, order and survey constants of the challenge, and what each variable of the files is."""
import numpy as np

PARAMS = ("Omega_m", "S_8")
NUISANCES = ("log10_T_AGN", "f_0", "Delta_z")
LABELS = PARAMS + NUISANCES            # the columns of label.npy

FRAME = (1424, 176)                    # rows, columns of the full map
PIXEL_ARCMIN = 2.0                     # side of a pixel
N_OBSERVED = 132_019                   # observed pixels of the HSC Y3 mask
N_GAL = 30.0                           # source galaxies per square arcminute
SHAPE_NOISE = 0.4                      # ellipticity dispersion, both components together
FILE_PREFIX = "WIDE12H_bin2_2arcmin"   # first part of the public file names
SCORE_WEIGHT = 1000.0                  # of the squared error in the challenge's score
T_AGN_RANGE, F_0_RANGE = (7.2, 8.5), (0.0, 0.0265)     # uniform priors of log10 T_AGN and f_0
DELTA_Z_SIGMA = 0.022                  # normal prior of Delta_z, mean zero

SPLITS = ("train", "emulator", "holdout", "test")     # codes 0, 1, 2, 3 in every file
TRAIN, EMULATOR, HOLDOUT, TEST = range(4)
TARGETS = {"test": [TEST], "holdout": [HOLDOUT], "both": [TEST, HOLDOUT]}    # of --target

FLAGS = {1: "acceptance_outside_0.2_to_0.5", 2: "effective_sample_size_below_100",
         4: "R_hat_above_1.05", 16: "p_value_below_0.001", 32: "chain_never_moved"}
LATEX = {"Omega_m": r"\Omega_\mathrm{m}", "S_8": "S_8"}

# quantiles of a posterior, the central intervals that they bound, and highest-density regions
LEVELS = {"q2_5": 0.025, "q16": 0.16, "q50": 0.5, "q84": 0.84, "q97_5": 0.975}
INTERVALS = {"68": ("q16", "q84"), "95": ("q2_5", "q97_5")}
REGIONS = {"68": 0.682689492137, "95": 0.954499736104}

NAMES = {"mean": "posterior_mean"}     # in files: ds.mean is a method of xarray

# what each variable of the files is; those not in UNITS have no dimension
UNITS = {"tau": "steps"}
VARIABLES = {
    "summaries": "what a map becomes: a network's predictions, or log10 of a binned spectrum",
    "sd": "standard deviation of the posterior", "posterior_mean": "mean of the posterior",
    "summary_mean": "mean of a cosmology's summaries, smooth over the design unless orders are -1",
    "covariance": "their covariance from map to map, likewise smooth, for a mean over all folds, "
                  "over N - d - 2", "loss": "mean loss of the maps that train",
    "S_8": "draws of S_8", "truth": "true Omega_m and S_8, NaN where unknown",
    "mask": "survey mask, True where a pixel is observed", "network": "file of the network",
    "n_maps": "maps that mean and covariance are made of", "ell": "central multipole of the bin",
    "cosmology": "index into the design, -1 for test maps", "log_evidence": "ln of the evidence",
    "realisation": "realisation of the cosmology, for test maps the row in their file",
    "fold": "fold whose networks predicted the map, -1 for a mean over all",
    "between": "covariance between the folds' networks for the same map",
    "stacking": "coefficients that combine the summaries of a model's parts",
    "trained": "epochs (of dense networks: passes over the maps) behind a network",
    "validation": "mean loss of the maps that choose the epoch",
    "entry": "entry of the history of a training",
    "feature": "hand-made statistic, by its kind", "tau": "autocorrelation time of the chains",
    "errorbar": "recalibrated error bar: what is scored and submitted", "chain": "chain of the map",
    "correlation": "correlation of Omega_m and S_8 in the posterior", "Omega_m": "draws of Omega_m",
    "acceptance": "share of accepted proposals among the kept steps",
    "ess": "bulk effective sample size of about 500 draws a chain (Vehtari et al. 2021); moments "
           "are of all steps", "rhat": "rank-normalised split R-hat of these draws",
    "edge": "ln of the highest density on the edge of all vertices relative to the highest",
    "chi2": "r^T C^-1 r of what the emulator leaves of the summaries at the posterior's mean",
    "p_value": "probability of a larger chi2 with as many degrees of freedom as summaries: too "
               "large, as two parameters were fitted",
    "lp": "ln of the unnormalised posterior density of each draw",
    "vertex": "corner of the emulator's Delaunay triangles: the design's cosmologies and, for the "
              "prior of the design, points 0.5 of its sd beyond them",
    "vertex_theta": "Omega_m and S_8 of the vertex", "vertex_mean": "mean of the summaries there",
    "vertex_log_prior": "ln of the prior density at the vertex, linear between vertices",
    "vertex_covariance": "covariance of the summaries at the vertex",
    "quadrature_error": "largest difference to a finer quadrature, in posterior sd: mean and sd "
                        "by order 6 and by order 8, quantiles",
    "temperature": "factor between sd and errorbar", "param": "cosmological parameter",
    "recalibration": "isotonic map of probabilities at the knots of the normal score",
    "widening": "factor of the quantiles about the median for a posterior at the hull",
    "kind": "what the map is used for: test, holdout, emulator or train",
    "fixed": "hand-made statistics of every map of the set, in its order",
    "fresh": "hand-made statistics under further draws of noise, of the maps that train",
    "noise_draw": "further draw of noise", "test_map": "row of the file of test maps",
    "rows": "maps that train, by their place in `fixed`", "knot": "normal score of the knot",
    "test": "hand-made statistics of the test maps", "order": "what is compared",
    "flag": "sum of the bits of what is wrong with the posterior, 0 if nothing is",
    "map": "index of the map in its set, the same in all runs: test maps first",
    "draw": "step of the chain that a draw is of; for independent draws their number",
    "term": "summaries of one part of the model after the other, then a constant",
    "row": "row of the table or the frame", "column": "column of the frame",
    "split": "what the realisation is used for",
    **dict.fromkeys(("theta", "design"), "Omega_m and S_8 of each cosmology of the design"),
    **{f"p_value_{name}": f"share of simulated maps whose {what} less like those of simulations "
                          "with the same summaries"
       for name, what in (("spectrum", "spectrum is"), ("one_point", "moments and PDFs are"),
                          ("small_scales", "spectrum beyond its middle is"),
                          ("fine_bands", "moments and PDFs in the two finest bands are"),
                          ("all", "statistics, taken together, are"))},
    **dict.fromkeys(("summary", "summary_2"), "summary of a map"),
    **{q: f"{100 * p:g} % quantile of the posterior" for q, p in LEVELS.items()},
    **{f"recalibrated_{q}": f"recalibrated {100 * p:g} % quantile" for q, p in LEVELS.items()},
    **{f"{what}_{name}": f"{words} of the smallest region that holds {100 * share:.1f} %"
       for name, share in REGIONS.items()
       for what, words in (("contour", "ln of the density at the edge"), ("area", "area"))},
}


def noise_sigma(n_gal: float = N_GAL, pixel_arcmin: float = PIXEL_ARCMIN) -> float:
    """Standard deviation of the shape noise in a pixel of convergence: 0.025820 in the challenge.

    n_gal, pixel_arcmin: floats, source galaxies per square arcminute, side of a pixel in arcminutes
    Returns 0.4 / sqrt(2 n_gal A) (van Waerbeke 2000, MNRAS 313, 524).
    """
    return SHAPE_NOISE / np.sqrt(2.0 * n_gal * pixel_arcmin**2)
