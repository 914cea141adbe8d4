"""From (Omega_m, S_8, nuisances) to the angular power spectrum of the convergence.

    spectrum = Theory(0.3, 0.8).table(log_ell_grid())             # once per cosmology, 50 ms
    c_ell = spectrum(log10_t_agn=7.8, f_0=0.02, delta_z=0.0)      # steradian

Units as in wl/matter.py; C_ell in steradian, without the pixel window (wl/fields.py puts it in).
"""
import numpy as np
from scipy.special import erf

from . import baryons
from ..core.checks import InputError
from .interpolate import chebyshev_nodes, interval_of, lagrange_weights
from .matter import HUBBLE_DISTANCE, Z_MAX, Matter
from ..core.params import F_0_RANGE, T_AGN_RANGE
from .sky import Sky

Z_LOW, Z_HIGH, Z_SMEAR = 0.6, 0.9, 0.06   # source redshifts of bin 2: top-hat and its Gaussian error
DELTA_Z_MAX = 0.15                     # of the table, 6.8 sigma of the prior; Z_MAX = 0.9 + 5 x 0.06 + this

_X64, _W64 = np.polynomial.legendre.leggauss(64)


def source_density(z, delta_z=0.0):
    """Source redshift distribution, integral one: a top-hat (0.6, 0.9) convolved with a Gaussian of 0.06.

    z: array; delta_z: shift of all sources to higher redshift. Returns n(z), shape of z.
    """
    t = np.asarray(z, float) - delta_z
    scale = np.sqrt(2.0) * Z_SMEAR
    return (erf((t - Z_LOW) / scale) - erf((t - Z_HIGH) / scale)) / (2.0 * (Z_HIGH - Z_LOW))


def log_ell_grid(low=4.0, high=9.0e4, step=0.1):
    """Multipoles spaced evenly in ln(ell + 1/2), the abscissae of the tables; returns float64 (n,)."""
    n = int(np.ceil(np.log((high + 0.5) / (low + 0.5)) / step)) + 1
    return (low + 0.5) * np.exp(step * np.arange(n)) - 0.5


class Theory(Matter):
    """The convergence spectrum of one cosmology (omega_m, s_8) under a sky (sky.Sky); Matter's errors."""

    def __init__(self, omega_m, s_8, sky=Sky()):
        super().__init__(omega_m, s_8)
        self.sky = sky

    def lensing_weight(self, z, delta_z):
        """Weight w(z) of C_ell = integral dz w(z) P((ell + 1/2)/chi, z).

        z: float64 (n_z,); delta_z: float64 (m,), of the label. Returns float64 (m, n_z).
        w = (c/H) q^2 / chi^2 with q = 3/2 Omega_m (H_0/c)^2 (1+z) chi (1 - chi <1/chi_s>): Limber with
        the flat-sky prefactor, Kilbinger et al. 2017, MNRAS 472, 2126.
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

    def c_ell(self, ell, delta_z=0.0, log10_t_agn=None, f_0=None):
        """Convergence spectrum in steradian, without pixel window.

        ell: float64 (n,), evenly spaced in ln(ell + 1/2) as log_ell_grid() gives them; delta_z: of the
        label; log10_t_agn: log10 of the feedback temperature in kelvin, or None for dark matter
        only; f_0: stellar fraction today. Scalars, or arrays: then the result has the shape
        (n_delta_z, n_log10_t_agn, n_f_0, n). Limber at ell + 1/2 (LoVerde & Afshordi 2008, PRD 78, 123506).
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
        parts = baryons.response(self, z, ln_k, np.atleast_1d(np.asarray(log10_t_agn, float)),
                                 np.atleast_1d(np.asarray(f_0, float)), self.sky)    # (T, f, n, n_z)
        c = np.einsum("mz,tfnz->mtfn", weight, parts * power, optimize=True)
        return c[0, 0, 0] if scalar else c

    def table(self, ell):
        """C_ell for all nuisances at once: a Spectrum through Chebyshev nodes; ell as in c_ell()."""
        # 7, 8, 3 nodes: 2e-4 of C_ell at worst; f_0 enters as a quadratic polynomial
        nodes = (chebyshev_nodes(-DELTA_Z_MAX, DELTA_Z_MAX, 7), chebyshev_nodes(*T_AGN_RANGE, 8),
                 chebyshev_nodes(*F_0_RANGE, 3))
        return Spectrum(ell, nodes, self.c_ell(ell, *nodes))


class Spectrum:
    """C_ell of one cosmology as a polynomial in Delta_z, log10 T_AGN and f_0.

    ell: float64 (n,); nodes: three float64 arrays; values: float64 (n_z, n_t, n_f, n), steradian.
    Largest relative error over ell 7-20,000 and the prior: measured in tests/test_theory.py.
    """

    def __init__(self, ell, nodes, values):
        self.ell, self.nodes, self.values = ell, nodes, values

    def __call__(self, log10_t_agn, f_0, delta_z):
        """C_ell in steradian, float64 (m, n) for nuisances of shape (m,), (n,) for scalars."""
        args = [np.atleast_1d(np.asarray(v, float)) for v in (delta_z, log10_t_agn, f_0)]
        for name, value, node in zip(("Delta_z", "log10 T_AGN", "f_0"), args, self.nodes):
            low, high = interval_of(node)
            slack = 1e-9 * (high - low)
            if value.min() < low - slack or value.max() > high + slack or np.isnan(value).any():
                bad = value[~((value >= low - slack) & (value <= high + slack))][0]
                raise InputError(f"{name}: expected {low:g} to {high:g}, got {bad}; check the labels")
        weights = [lagrange_weights(node, value) for node, value in zip(self.nodes, args)]
        c = np.einsum("ma,mb,mc,abcn->mn", *weights, self.values, optimize=True)
        return c[0] if np.ndim(delta_z) == 0 else c
