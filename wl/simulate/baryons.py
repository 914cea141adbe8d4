"""What baryonic feedback does to the matter power: the response of HMcode-2020's halo model.

R(k, z) = P_feedback / P_gravity, both from the same simple halo model (linear power + one-halo term), so
that its errors cancel. Mead, Brieden, Troester & Heymans 2021, MNRAS 502, 1401, sections 4 and 6, table 5.
"""
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import sici

from .interpolate import chebyshev_nodes, cubic_weights, lagrange_weights
from .matter import OMEGA_B, Z_MAX, growth

RHO_CRIT = 2.77536627e11     # Msun/h per (Mpc/h)^3
MASSES = np.exp(np.linspace(np.log(1e8), np.log(1e17), 60))    # 1e17: sigma_8 is 1.5 at Omega_m 0.09
LN_K = np.linspace(np.log(3e-3), np.log(300.0), 70)
N_Z = 6                  # Chebyshev points in redshift


def feedback_parameters(log10_t_agn):
    """Table 5 of Mead et al. 2021: (B_0, B_z, log10 M_b0, M_bz, f_z) for log10 T_AGN (array or float)."""
    theta = np.asarray(log10_t_agn, float) - 7.8
    return (3.44 - 0.496 * theta, -0.0671 - 0.0371 * theta, 13.87 + 1.81 * theta,
            -0.108 + 0.195 * theta, 0.409 + 0.0224 * theta)


def nfw_window(x, c):
    """Fourier transform of an NFW halo cut at its virial radius, one for x -> 0.

    x: k r_s, array; c: concentration, broadcast against x. Cooray & Sheth 2002, Phys. Rep. 372, eq. 81.
    """
    s_in, c_in = sici(x)
    s_out, c_out = sici((1.0 + c) * x)
    bracket = np.sin(x) * (s_out - s_in) + np.cos(x) * (c_out - c_in) - np.sin(c * x) / ((1.0 + c) * x)
    return bracket / (np.log1p(c) - c / (1.0 + c))


def response(matter, z, ln_k, log10_t_agn, f_0, sky):
    """R(k, z) for every feedback temperature and stellar fraction.

    matter: matter.Matter; z: float64 (n_z,); ln_k: float64 (n, n_z), k in h/Mpc; log10_t_agn:
    float64 (t,), kelvin; f_0: float64 (f,), stellar fraction today; sky: sky.Sky. Returns float64 (t, f, n, n_z).
    """
    z_nodes = chebyshev_nodes(0.0, Z_MAX, N_Z)
    nodes = response_grid(matter, z_nodes, log10_t_agn, f_0, sky)            # (t, f, n_z_nodes, n_k)
    at_z = np.einsum("za,tfak->tfkz", lagrange_weights(z_nodes, z), nodes, optimize=True)
    # cubic interpolation in ln k with constant ends: above 300 h/Mpc nothing reaches a map of 2 arcmin
    step = LN_K[1] - LN_K[0]
    place = np.clip((ln_k - LN_K[0]) / step, 0.0, len(LN_K) - 1.0)
    first, weights = cubic_weights(place, len(LN_K))
    column = np.arange(len(z))
    return sum(w * at_z[:, :, first + i, column] for i, w in enumerate(weights))


def response_grid(matter, z, log10_t_agn, f_0, sky):
    """R on the wavenumbers exp(LN_K): float64 (t, f, n_z, n_k); arguments as response().

    A halo's window is W = (f_c + f_g) u + f_* with f_g = (f_b - f_*) m^2/(1 + m^2), m = M/M_b (eq. 24-25);
    it is linear in f_*, so three mass integrals serve every f_0. With sky.stellar_boost f_* stands for all mass
    that is concentrated like stars, of which dark matter gives a part: it may exceed f_b.
    """
    om = matter.omega_m
    k = np.exp(LN_K)
    f_b = min(OMEGA_B / om, sky.f_b_max)
    radius = (3.0 * MASSES / (4.0 * np.pi * RHO_CRIT * om))**(1.0 / 3.0)
    # sigma of 0.01 M (for the collapse time) comes from the same table, two decades further down
    ln_r = np.linspace(np.log(radius[0]) - np.log(100.0) / 3.0 - 0.01, np.log(radius[-1]) + 0.01, 60)
    sigma = CubicSpline(ln_r, np.log(matter.top_hat_sigma(np.exp(ln_r))))
    ln_sigma = sigma(np.log(radius))
    slope = sigma(np.log(radius), 1) / 3.0                               # d ln sigma / d ln M
    sigma_young = np.exp(sigma(np.log(radius) - np.log(100.0) / 3.0))
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
        count = 0.2162 * (1.0 + (0.707 * nu * nu)**-0.3) * np.exp(-0.3535 * nu * nu) * nu * -slope * ln_step
        weight = count * MASSES / (RHO_CRIT * om)                        # of W^2 in the one-halo term
        form = np.maximum(inverse_growth(np.log(np.minimum(delta_c / sigma_young, 1.0))), redshift)
        shape = (1.0 + form) / (1.0 + redshift)                          # Bullock et al. 2001, times B
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
