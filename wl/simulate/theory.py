"""From (Omega_m, S_8, nuisances) to the angular power spectrum of the convergence.

    spectrum = Theory(0.3, 0.8).table(log_ell_grid())             # once per cosmology, 50 ms
    c_ell = spectrum(log10_t_agn=7.8, f_0=0.02, delta_z=0.0)      # steradian
    Theory(0.3, 0.8, PUBLISHED)                             # every formula as its paper has it

Units as in matter.py; C_ell in steradian, without the pixel window (fields.py puts it in). Baryonic
feedback is the response of HMcode-2020's halo model, R(k, z) = P_feedback / P_gravity, both from
the same simple halo model (linear power + one-halo term), so that its errors cancel: Mead,
Brieden, Troester & Heymans 2021, MNRAS 502, 1401, sections 4 and 6, table 5.
"""
from collections import namedtuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import erf, sici

from ..core.checks import InputError
from ..core.params import F_0_RANGE, T_AGN_RANGE
from .matter import (HUBBLE_DISTANCE, OMEGA_B, Z_MAX, Matter, chebyshev_nodes, cubic_weights,
                     growth, interval_of, lagrange_weights)

Z_LOW, Z_HIGH, Z_SMEAR = 0.6, 0.9, 0.06   # source redshifts of bin 2: top-hat, its Gaussian error
DELTA_Z_MAX = 0.15           # of the table, 6.8 sigma of the prior; Z_MAX = 0.9 + 5 x 0.06 + this
RHO_CRIT = 2.77536627e11     # Msun/h per (Mpc/h)^3
MASSES = np.exp(np.linspace(np.log(1e8), np.log(1e17), 60))    # sigma_8 is 1.5 at Omega_m 0.09
LN_K = np.linspace(np.log(3e-3), np.log(300.0), 70)
N_Z = 6                      # Chebyshev points in redshift

_X64, _W64 = np.polynomial.legendre.leggauss(64)

Sky = namedtuple("Sky", "delta_z_sign source_shift f_b_max stellar_boost nonlinear_tilt",
                 defaults=(-1, -0.046, 1.0, 2.5, -0.40))
Sky.__doc__ = """What the convergence spectrum is made of beyond cosmology and nuisances.

benchmarks/fit_sky.py fits the defaults, to half of 60 real spectra (3 cosmologies, 20 realisations,
known nuisances) and the mean signal of the public training set, in-mask standard deviation 0.01137.
delta_z_sign: -1, n(z) -> n(z + Delta_z) as HSC Y3 writes it (Li et al. 2023, PRD 108, 123518;
    sources come nearer), or 1; real spectra fall by 5 % per Delta_z of 0.022 in every bin
source_shift: redshift added to all sources, fitted
f_b_max: the baryon response's cap on the baryon fraction Omega_b/Omega_m, 1 for none: real spectra
    at Omega_m = 0.195 exclude 0.15 and have no use for one
stellar_boost: central mass per stellar mass f_0 (a galaxy draws dark matter inwards, Blumenthal et
    al. 1986, ApJ 301, 27), fitted to the response to f_0
nonlinear_tilt: exponent t in P_nonlinear - P_linear, of halofit, times (sigma_8 / 0.8)^t, fitted:
    halofit was made for sigma_8 of 0.75 to 0.9, the challenge has 0.5 to 1.6"""

PUBLISHED = Sky(1, 0.0, 0.2, 1.0, 0.0)   # and sets made before there were such settings

# Largest variance of the white scatter in a pixel, uniform between zero and this: twice the fitted
# mean.
PIXEL_SCATTER = 2.1e-5


def of_set(settings: dict) -> tuple[Sky, float]:
    """The Sky and the pixel scatter of a data set.

    settings: its simulator's, {} for maps that were not simulated. What a simulated set does not
        name is as PUBLISHED, and no scatter: the set is older than the setting.
    """
    if not settings:
        return Sky(), PIXEL_SCATTER
    return (Sky(*(settings.get(name, was) for name, was in PUBLISHED._asdict().items())),
            float(settings.get("pixel_scatter", 0.0)))


def feedback_parameters(log10_t_agn) -> tuple:
    """Table 5 of Mead et al. 2021: B_0, B_z, log10 M_b0, M_bz, f_z for log10 T_AGN."""
    theta = np.asarray(log10_t_agn, float) - 7.8
    return (3.44 - 0.496 * theta, -0.0671 - 0.0371 * theta, 13.87 + 1.81 * theta,
            -0.108 + 0.195 * theta, 0.409 + 0.0224 * theta)


def nfw_window(x: np.ndarray, c) -> np.ndarray:
    """Fourier transform of an NFW halo cut at its virial radius, one for x -> 0.

    x: k r_s
    c: concentration; broadcasts against x
    Cooray & Sheth 2002, Phys. Rep. 372, eq. 81.
    """
    s_in, c_in = sici(x)
    s_out, c_out = sici((1.0 + c) * x)
    bracket = np.sin(x) * (s_out - s_in) + np.cos(x) * (c_out - c_in)
    bracket -= np.sin(c * x) / ((1.0 + c) * x)
    return bracket / (np.log1p(c) - c / (1.0 + c))


def response(matter: Matter, z: np.ndarray, ln_k: np.ndarray, log10_t_agn: np.ndarray,
             f_0: np.ndarray, sky: Sky) -> np.ndarray:
    """R(k, z) for every feedback temperature and stellar fraction.

    z: (n_z,)
    ln_k: (n, n_z), k in h/Mpc
    log10_t_agn: (t,), kelvin
    f_0: (f,), stellar fraction today
    Returns float64 (t, f, n, n_z).
    """
    z_nodes = chebyshev_nodes(0.0, Z_MAX, N_Z)
    nodes = response_grid(matter, z_nodes, log10_t_agn, f_0, sky)        # (t, f, n_z_nodes, n_k)
    at_z = np.einsum("za,tfak->tfkz", lagrange_weights(z_nodes, z), nodes, optimize=True)
    # cubic interpolation in ln k with constant ends: above 300 h/Mpc nothing reaches a map
    step = LN_K[1] - LN_K[0]
    place = np.clip((ln_k - LN_K[0]) / step, 0.0, len(LN_K) - 1.0)
    first, weights = cubic_weights(place, len(LN_K))
    column = np.arange(len(z))
    return sum(w * at_z[:, :, first + i, column] for i, w in enumerate(weights))


def response_grid(matter: Matter, z: np.ndarray, log10_t_agn: np.ndarray, f_0: np.ndarray,
                  sky: Sky) -> np.ndarray:
    """R on the wavenumbers exp(LN_K): float64 (t, f, n_z, n_k); arguments as response().

    A halo's window is W = (f_c + f_g) u + f_* with f_g = (f_b - f_*) m^2/(1 + m^2), m = M/M_b (eq.
    24-25); it is linear in f_*, so three mass integrals serve every f_0. With sky.stellar_boost f_*
    stands for all mass that is concentrated like stars, dark matter too: it may exceed f_b.
    """
    om = matter.omega_m
    k = np.exp(LN_K)
    f_b = min(OMEGA_B / om, sky.f_b_max)
    radius = (3.0 * MASSES / (4.0 * np.pi * RHO_CRIT * om))**(1.0 / 3.0)
    # sigma of 0.01 M (for the collapse time) comes from the same table, two decades further down
    young = np.log(radius) - np.log(100.0) / 3.0
    ln_r = np.linspace(young[0] - 0.01, np.log(radius[-1]) + 0.01, 60)
    sigma = CubicSpline(ln_r, np.log(matter.top_hat_sigma(np.exp(ln_r))))
    ln_sigma = sigma(np.log(radius))
    slope = sigma(np.log(radius), 1) / 3.0                               # d ln sigma / d ln M
    sigma_young = np.exp(sigma(young))
    z_form = np.linspace(0.0, 60.0, 400)
    inverse_growth = CubicSpline(np.log(growth(z_form, om))[::-1], z_form[::-1])
    linear = matter.linear_power(k)
    ln_step = np.log(MASSES[1] / MASSES[0])

    b_0, b_z, log_mb, mb_z, f_z = feedback_parameters(log10_t_agn)
    out = np.empty((len(log10_t_agn), len(f_0), len(z), len(k)))
    for i, redshift in enumerate(z):
        d = float(growth(redshift, om))
        omz = float(matter.omega_m_at(redshift))
        delta_c = 1.686 * (1.0 + 0.0123 * np.log10(omz))                 # Nakamura & Suto 1997
        x = omz - 1.0
        overdensity = (18.0 * np.pi**2 + 82.0 * x - 39.0 * x * x) / omz  # Bryan & Norman 1998
        nu = delta_c / (np.exp(ln_sigma) * d)
        # Sheth & Tormen 1999; dnu = -nu dln(sigma)
        count = (0.2162 * (1.0 + (0.707 * nu * nu)**-0.3) * np.exp(-0.3535 * nu * nu) * nu * -slope
                 * ln_step)
        weight = count * MASSES / (RHO_CRIT * om)                  # of W^2 in the one-halo term
        form = np.maximum(inverse_growth(np.log(np.minimum(delta_c / sigma_young, 1.0))), redshift)
        shape = (1.0 + form) / (1.0 + redshift)             # Bullock et al. 2001, times B
        virial = radius * overdensity**(-1.0 / 3.0)
        k_star = 0.05618 * (matter.sigma_8 * d)**-1.013                  # eq. 17
        damp = (k / k_star)**4 / (1.0 + (k / k_star)**4)
        p_linear = linear * d * d

        u = nfw_window(k[:, None] * virial / (4.0 * shape), 4.0 * shape)
        gravity = p_linear + damp * ((u * u) @ weight)
        for j in range(len(log10_t_agn)):
            c = b_0[j] * 10.0**(redshift * b_z[j]) * shape
            u = nfw_window(k[:, None] * virial / c, c)
            m = (MASSES / 10.0**(log_mb[j] + redshift * mb_z[j]))**2
            gas = m / (1.0 + m)
            w_0 = (1.0 - f_b + f_b * gas) * u
            w_1 = 1.0 - gas * u
            i_00, i_01, i_11 = (w_0 * w_0) @ weight, (w_0 * w_1) @ weight, (w_1 * w_1) @ weight
            f = (sky.stellar_boost * f_0 * 10.0**(redshift * f_z[j]))[:, None]
            out[j, :, i] = (p_linear + damp * (i_00 + 2.0 * f * i_01 + f * f * i_11)) / gravity
    return out


def source_density(z: np.ndarray, delta_z: float = 0.0) -> np.ndarray:
    """Source redshift distribution, integral one: a top-hat (0.6, 0.9) behind a Gaussian of 0.06.

    delta_z: shift of all sources to higher redshift
    """
    t = np.asarray(z, float) - delta_z
    scale = np.sqrt(2.0) * Z_SMEAR
    return (erf((t - Z_LOW) / scale) - erf((t - Z_HIGH) / scale)) / (2.0 * (Z_HIGH - Z_LOW))


def log_ell_grid(low: float = 4.0, high: float = 9.0e4, step: float = 0.1) -> np.ndarray:
    """Multipoles spaced evenly in ln(ell + 1/2), the abscissae of the tables: float64 (n,)."""
    n = int(np.ceil(np.log((high + 0.5) / (low + 0.5)) / step)) + 1
    return (low + 0.5) * np.exp(step * np.arange(n)) - 0.5


class Theory(Matter):
    """The convergence spectrum of one cosmology under a Sky. Raises InputError, as Matter does."""

    def __init__(self, omega_m: float, s_8: float, sky: Sky = Sky()):
        super().__init__(omega_m, s_8)
        self.sky = sky

    def lensing_weight(self, z: np.ndarray, delta_z: np.ndarray) -> np.ndarray:
        """Weight w(z) of C_ell = integral dz w(z) P((ell + 1/2)/chi, z): float64 (m, n_z).

        z: (n_z,)
        delta_z: (m,), of the label
        w = (c/H) q^2 / chi^2 with q = 3/2 Omega_m (H_0/c)^2 (1+z) chi (1 - chi <1/chi_s>): Limber
        with the flat-sky prefactor, Kilbinger et al. 2017, MNRAS 472, 2126.
        """
        z, delta_z = np.asarray(z, float), np.atleast_1d(np.asarray(delta_z, float))
        chi = self.distance(z)
        shift = self.sky.source_shift + self.sky.delta_z_sign * delta_z
        half = 0.5 * (Z_MAX - z)
        zs = z[:, None] + half[:, None] * (_X64 + 1.0)               # sources behind each lens
        gain = half[:, None] * _W64 * (1.0 - chi[:, None] / self.distance(zs))
        efficiency = np.stack([np.sum(gain * source_density(zs, d), axis=1) for d in shift])
        q = 1.5 * self.omega_m / HUBBLE_DISTANCE**2 * (1.0 + z) * efficiency
        return HUBBLE_DISTANCE / self.hubble(z) * q * q

    def c_ell(self, ell: np.ndarray, delta_z=0.0, log10_t_agn=None, f_0=None) -> np.ndarray:
        """Convergence spectrum in steradian, without pixel window.

        ell: (n,), evenly spaced in ln(ell + 1/2) as log_ell_grid() gives them
        delta_z: of the label
        log10_t_agn: of the feedback temperature in kelvin, or None for dark matter only
        f_0: stellar fraction today
        Returns float64 (n,), or (n_delta_z, n_log10_t_agn, n_f_0, n) for arrays. Limber at
        ell + 1/2 (LoVerde & Afshordi 2008, PRD 78, 123506).
        """
        scalar = np.ndim(delta_z) == 0
        ell = np.asarray(ell, float)
        # dz = 2 t dt thickens the nodes near z = 0, where k = ell/chi runs away
        t = np.sqrt(Z_MAX) * 0.5 * (_X64 + 1.0)
        z = t * t
        dz = np.sqrt(Z_MAX) * _W64 * t
        ln_k = np.log(ell + 0.5)[:, None] - np.log(self.distance(z))
        power = self.nonlinear_power(np.exp(ln_k), z, self.sky.nonlinear_tilt)       # (n, n_z)
        weight = dz * self.lensing_weight(z, delta_z)                # (m, n_z)
        if log10_t_agn is None:
            c = weight @ power.T
            return c[0] if scalar else c
        parts = response(self, z, ln_k, np.atleast_1d(np.asarray(log10_t_agn, float)),
                                 np.atleast_1d(np.asarray(f_0, float)), self.sky)   # (T, f, n, n_z)
        c = np.einsum("mz,tfnz->mtfn", weight, parts * power, optimize=True)
        return c[0, 0, 0] if scalar else c

    def table(self, ell: np.ndarray) -> "Spectrum":
        """C_ell for all nuisances at once, through Chebyshev nodes; ell as in c_ell()."""
        # 7, 8, 3 nodes: 2e-4 of C_ell at worst; f_0 enters as a quadratic polynomial
        nodes = (chebyshev_nodes(-DELTA_Z_MAX, DELTA_Z_MAX, 7), chebyshev_nodes(*T_AGN_RANGE, 8),
                 chebyshev_nodes(*F_0_RANGE, 3))
        return Spectrum(ell, nodes, self.c_ell(ell, *nodes))


class Spectrum:
    """C_ell of one cosmology as a polynomial in Delta_z, log10 T_AGN and f_0.

    ell: (n,)
    nodes: three arrays
    values: (n_z, n_t, n_f, n), steradian
    """

    def __init__(self, ell: np.ndarray, nodes: tuple, values: np.ndarray):
        self.ell, self.nodes, self.values = ell, nodes, values

    def __call__(self, log10_t_agn, f_0, delta_z) -> np.ndarray:
        """C_ell in steradian, float64 (m, n) for nuisances of shape (m,), (n,) for scalars."""
        args = [np.atleast_1d(np.asarray(v, float)) for v in (delta_z, log10_t_agn, f_0)]
        for name, value, node in zip(("Delta_z", "log10 T_AGN", "f_0"), args, self.nodes):
            low, high = interval_of(node)
            slack = 1e-9 * (high - low)
            if value.min() < low - slack or value.max() > high + slack or np.isnan(value).any():
                bad = value[~((value >= low - slack) & (value <= high + slack))][0]
                raise InputError(f"{name}: expected {low:g} to {high:g}, got {bad}; check the "
                                 "labels")
        weights = [lagrange_weights(node, value) for node, value in zip(self.nodes, args)]
        c = np.einsum("ma,mb,mc,abcn->mn", *weights, self.values, optimize=True)
        return c[0] if np.ndim(delta_z) == 0 else c
