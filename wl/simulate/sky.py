"""Settings of the sky that published formulas leave open, fitted to real maps whose truth is known.

    Theory(0.3, 0.8)                        # the sky of the challenge's maps
    Theory(0.3, 0.8, PUBLISHED)             # every formula as its paper has it

benchmarks/fit_sky.py makes the fitted numbers: from half of 60 real spectra (3 cosmologies, 20
realisations, known nuisances) and the mean signal of the public training set, in-mask standard
deviation 0.01137.
"""
from collections import namedtuple

from ..core.checks import InputError, within

Sky = namedtuple("Sky", "delta_z_sign source_shift f_b_max stellar_boost nonlinear_tilt",
                 defaults=(-1, -0.046, 1.0, 2.5, -0.40))
Sky.__doc__ = """What the convergence spectrum is made of beyond cosmology and nuisances.

delta_z_sign: -1, n(z) -> n(z + Delta_z) as HSC Y3 writes it (Li et al. 2023, PRD 108, 123518;
sources come nearer), or 1; real spectra fall by 5 % per Delta_z of 0.022 in every bin.
source_shift: redshift added to all sources, fitted; f_b_max: the baryon response's cap on the
baryon fraction Omega_b/Omega_m, 1 for none: real spectra at Omega_m = 0.195 exclude 0.15 and have
no use for one. stellar_boost: central mass per stellar mass f_0 (a galaxy draws dark matter
inwards, Blumenthal et al. 1986, ApJ 301, 27), fitted to the response to f_0. nonlinear_tilt:
exponent t in P_nonlinear - P_linear, of halofit, times (sigma_8 / 0.8)^t, fitted: halofit was made
for sigma_8 of 0.75 to 0.9, the challenge has 0.5 to 1.6."""

PUBLISHED = Sky(1, 0.0, 0.2, 1.0, 0.0)   # and sets made before there were such settings

# Largest variance of the white scatter in a pixel, uniform between zero and this: twice the fitted
# mean.
PIXEL_SCATTER = 2.1e-5


def checked(delta_z_sign, source_shift, f_b_max, stellar_boost, nonlinear_tilt):
    """A Sky of numbers in their ranges. Raises InputError."""
    if delta_z_sign not in (-1, 1):
        raise InputError(f"--delta-z-sign: expected 1 or -1, got {delta_z_sign}")
    # sources beyond 0.9 + 5 x 0.06 + 0.15 are not tabulated (theory.DELTA_Z_MAX): a shift upwards
    # is small
    return Sky(int(delta_z_sign), within("--source-shift", source_shift, -0.3, 0.05),
               within("--f-b-max", f_b_max, 0.0, 1.0),
               within("--stellar-boost", stellar_boost, 0.0, 10.0),
               within("--nonlinear-tilt", nonlinear_tilt, -1.0, 1.0))


def add_options(parser):
    """Add the settings of a Sky to a command's options, defaults included."""
    published = " ".join(f"--{name.replace('_', '-')} {value:g}"
                         for name, value in PUBLISHED._asdict().items())
    add = parser.add_argument_group(
        "spectrum", "Defaults are fitted to real spectra (benchmarks/fit_sky.py). As published: "
        + published).add_argument
    fitted = Sky()
    add("--delta-z-sign", type=int, default=fitted.delta_z_sign, choices=(-1, 1),
        help="-1: n(z) -> n(z + Delta_z), as HSC Y3 writes it (default); 1: sources move to higher "
        "redshift with Delta_z")
    add("--source-shift", type=float, default=fitted.source_shift, metavar="Z",
        help="redshift added to all sources, whose mean is 0.75 without it "
        f"(default {fitted.source_shift:g})")
    add("--f-b-max", type=float, default=fitted.f_b_max, metavar="X",
        help="cap on the baryon fraction that feels feedback (default 1: none)")
    add("--stellar-boost", type=float, default=fitted.stellar_boost, metavar="X",
        help="mass that f_0 concentrates in a halo's middle, in units of the stars' "
        f"(default {fitted.stellar_boost:g})")
    add("--nonlinear-tilt", type=float, default=fitted.nonlinear_tilt, metavar="X",
        help="multiply non-linear minus linear power by (sigma_8 / 0.8)^X "
        f"(default {fitted.nonlinear_tilt:g})")


def of_set(settings):
    """(Sky, pixel_scatter) of a data set; settings: its simulator's, {} for maps that were not simulated.

    Settings that a simulated set does not name are those of PUBLISHED and no scatter: it is older
    than they are.
    """
    if not settings:
        return Sky(), PIXEL_SCATTER
    return (Sky(*(settings.get(name, was) for name, was in PUBLISHED._asdict().items())),
            float(settings.get("pixel_scatter", 0.0)))
