"""Names, order and survey constants of the challenge; everything else takes them from here."""
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

T_AGN_RANGE = (7.2, 8.5)               # uniform prior of log10 T_AGN
F_0_RANGE = (0.0, 0.0265)              # uniform prior of f_0
DELTA_Z_SIGMA = 0.022                  # normal prior of Delta_z, mean zero

SPLITS = ("train", "emulator", "holdout", "test")     # codes 0, 1, 2, 3 in every file
TRAIN, EMULATOR, HOLDOUT, TEST = range(4)


def noise_sigma(n_gal=N_GAL, pixel_arcmin=PIXEL_ARCMIN):
    """Standard deviation of the shape noise in one pixel of convergence.

    n_gal: galaxies per square arcminute; pixel_arcmin: side in arcminutes. Returns a float,
    0.4 / sqrt(2 n_gal A) (van Waerbeke 2000, MNRAS 313, 524): 0.025820 for the challenge.
    """
    return SHAPE_NOISE / np.sqrt(2.0 * n_gal * pixel_arcmin**2)


def sigma_8_of(omega_m, s_8):
    """sigma_8 = S_8 / sqrt(Omega_m / 0.3); arrays or floats."""
    return s_8 / np.sqrt(np.asarray(omega_m) / 0.3)
