"""Settings of the sky that published formulas leave open, fitted to real maps whose truth is known.

    Theory(0.3, 0.8)                        # the sky of the challenge's maps
    Theory(0.3, 0.8, PUBLISHED)             # every formula as its paper has it

benchmarks/fit_sky.py makes the fitted numbers: from half of 60 real spectra (3 cosmologies, 20 realisations,
known nuisances) and the mean signal of the public training set, in-mask standard deviation 0.01137.
"""
from collections import namedtuple

from .checks import InputError, within

Sky = namedtuple("Sky", "delta_z_sign source_shift f_b_max stellar_boost nonlinear_tilt",
                 defaults=(-1, -0.046, 1.0, 2.5, -0.40))
Sky.__doc__ = """What the convergence spectrum is made of beyond cosmology and nuisances.

delta_z_sign: -1, n(z) -> n(z + Delta_z) as HSC Y3 writes it (Li et al. 2023, PRD 108, 123518; sources come
nearer), or 1; real spectra fall by 5 % per Delta_z of 0.022 in every bin. source_shift: redshift added to all
sources, fitted; f_b_max: the baryon response's cap on the baryon fraction Omega_b/Omega_m, 1 for none: real
spectra at Omega_m = 0.195 exclude 0.15 and have no use for one. stellar_boost: central mass per stellar
mass f_0 (a galaxy draws dark matter inwards, Blumenthal et al. 1986, ApJ 301, 27), fitted to the response to f_0.
nonlinear_tilt: exponent t in P_nonlinear - P_linear, of halofit, times (sigma_8 / 0.8)^t, fitted: halofit was made
for sigma_8 of 0.75 to 0.9, the challenge has 0.5 to 1.6."""

PUBLISHED = Sky(1, 0.0, 0.2, 1.0, 0.0)   # and sets made before there were such settings

# Largest variance of the white scatter in a pixel, uniform between zero and this: twice the fitted mean.
PIXEL_SCATTER = 2.1e-5


def checked(delta_z_sign, source_shift, f_b_max, stellar_boost, nonlinear_tilt):
    """A Sky of numbers in their ranges. Raises InputError."""
    if delta_z_sign not in (-1, 1):
        raise InputError(f"--delta-z-sign: expected 1 or -1, got {delta_z_sign}")
    # sources beyond 0.9 + 5 x 0.06 + 0.15 are not tabulated (theory.DELTA_Z_MAX): a shift upwards is small
    return Sky(int(delta_z_sign), within("--source-shift", source_shift, -0.3, 0.05),
               within("--f-b-max", f_b_max, 0.0, 1.0), within("--stellar-boost", stellar_boost, 0.0, 10.0),
               within("--nonlinear-tilt", nonlinear_tilt, -1.0, 1.0))


def of_set(settings):
    """(Sky, pixel_scatter) of a data set; settings: its simulator's, {} for maps that were not simulated.

    Settings that a simulated set does not name are those of PUBLISHED and no scatter: it is older than they are.
    """
    if not settings:
        return Sky(), PIXEL_SCATTER
    return (Sky(*(settings.get(name, was) for name, was in PUBLISHED._asdict().items())),
            float(settings.get("pixel_scatter", 0.0)))
