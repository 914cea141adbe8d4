"""From (Omega_m, S_8, nuisances) to the angular power spectrum of the convergence, in flat LCDM.

    spectrum = Theory(0.3, 0.8).table(log_ell_grid())             # once per cosmology, 50 ms
    c_ell = spectrum(log10_t_agn=7.8, f_0=0.02, delta_z=0.0)      # steradian

No radiation, no neutrinos. k in h/Mpc, distances in comoving Mpc/h, powers in (Mpc/h)^3; C_ell in
steradian, without the pixel window (fields.py has it). Feedback is the response of HMcode-2020's
halo model, R(k, z) = P_feedback / P_gravity, both from the same halo model (linear power + one-halo
term), so that its errors cancel: Mead et al. 2021, MNRAS 502, 1401, sections 4 and 6, table 5.
"""
from collections import namedtuple
from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import erf, hyp2f1, sici

from ..core.checks import InputError
from ..core.params import F_0_RANGE, LABELS, T_AGN_RANGE

H, OMEGA_B, N_S, T_CMB = 0.7, 0.046, 0.97, 2.7255
HUBBLE_DISTANCE = 2997.92458           # c / H_0, Mpc/h
RHO_CRIT = 2.77536627e11               # Msun/h per (Mpc/h)^3
Z_LOW, Z_HIGH, Z_SMEAR = 0.6, 0.9, 0.06   # source redshifts of bin 2: top-hat, its Gaussian error
DELTA_Z_MAX = 0.15           # of the table, 6.8 sigma of the prior
Z_MAX = 1.35                 # the background is tabulated up to here: 0.9 + 5 x 0.06 + DELTA_Z_MAX
K_RANGE = (1e-5, 1e4)        # of the integrals over the linear power
MASSES = np.exp(np.linspace(np.log(1e8), np.log(1e17), 60))    # sigma_8 is 1.5 at Omega_m 0.09
LN_K = np.linspace(np.log(3e-3), np.log(300.0), 70)
N_Z = 6                      # Chebyshev points in redshift
# of labels: where the formulas have a meaning, and ends of the table
LIMITS = dict(zip(LABELS, ((1.1 * OMEGA_B, 1.0), (0.1, 3.0), T_AGN_RANGE, F_0_RANGE,
                           (-DELTA_Z_MAX, DELTA_Z_MAX))))

_X48, _W48 = np.polynomial.legendre.leggauss(48)
_X64, _W64 = np.polynomial.legendre.leggauss(64)

Sky = namedtuple("Sky", "delta_z_sign source_shift f_b_max stellar_boost nonlinear_tilt",
                 defaults=(-1, -0.046, 1.0, 2.5, -0.40))
Sky.__doc__ = """What the spectrum is made of beyond cosmology and nuisances; see SimulationOptions.

benchmarks/fit_sky.py fits the defaults to half of 60 real spectra with truth and to the in-mask
standard deviation 0.01137 of the public training set's signal.
delta_z_sign: Li et al. 2023, PRD 108, 123518; real spectra fall by 5 % per Delta_z of 0.022
f_b_max: of Omega_b/Omega_m; real spectra at Omega_m = 0.195 exclude 0.15 and have no use for one
stellar_boost: a galaxy draws dark matter inwards, Blumenthal et al. 1986, ApJ 301, 27
nonlinear_tilt: halofit was made for sigma_8 of 0.75 to 0.9, the challenge has 0.5 to 1.6"""
PUBLISHED = Sky(1, 0.0, 0.2, 1.0, 0.0)   # and sets made before there were such settings
PIXEL_SCATTER = 2.1e-5       # largest white variance of a pixel, from zero: twice the fitted mean


def chebyshev_nodes(low: float, high: float, n: int) -> np.ndarray:
    """n Chebyshev points of the first kind between low and high, ascending."""
    return 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.pi * (np.arange(n) + 0.5) / n)


# nodes of the table: 2e-4 of C_ell at worst; f_0 enters as a quadratic polynomial
TABLE = {name: chebyshev_nodes(*LIMITS[name], n)
         for name, n in (("Delta_z", 7), ("log10_T_AGN", 8), ("f_0", 3))}


def of_set(settings: dict) -> tuple[Sky, float]:
    """Sky and pixel scatter of a set with these settings, {} for real maps; old sets have fewer."""
    if not settings:
        return Sky(), PIXEL_SCATTER
    sky = Sky(*(settings.get(name, was) for name, was in PUBLISHED._asdict().items()))
    return sky, float(settings.get("pixel_scatter", 0.0))


def check(**values) -> None:
    """Refuse values of labels, given by their names in LABELS, beyond LIMITS. Raises InputError."""
    for name, value in values.items():
        (low, high), value = LIMITS[name], np.atleast_1d(value)
        # a fit may end a rounding beyond
        inside = np.abs(value - 0.5 * (low + high)) <= (0.5 + 1e-9) * (high - low)
        if not inside.all():
            raise InputError(f"{name}: expected {low:g} to {high:g}, got {value[~inside][0]:g}; "
                             "check the labels")


def transfer(k: np.ndarray, omega_m: float, omega_b: float = OMEGA_B) -> np.ndarray:
    """Matter transfer function, k in h/Mpc: Eisenstein & Hu 1998, ApJ 496, 605, equations 2-24."""
    k, theta = np.asarray(k, float) * H, T_CMB / 2.7               # 1/Mpc from here on
    om, ob, fb, fc = omega_m * H * H, omega_b * H * H, omega_b / omega_m, 1.0 - omega_b / omega_m
    z_eq, k_eq = 2.50e4 * om * theta**-4, 7.46e-2 * om * theta**-2
    b1, b2 = 0.313 * om**-0.419 * (1.0 + 0.607 * om**0.674), 0.238 * om**0.223
    z_d = 1291.0 * om**0.251 / (1.0 + 0.659 * om**0.828) * (1.0 + b1 * ob**b2)
    r_d, r_eq = (31.5 * ob * theta**-4 * (1000.0 / z) for z in (z_d, z_eq))
    s = (2.0 / (3.0 * k_eq) * np.sqrt(6.0 / r_eq)
         * np.log((np.sqrt(1.0 + r_d) + np.sqrt(r_d + r_eq)) / (1.0 + np.sqrt(r_eq))))
    k_silk, q = 1.6 * ob**0.52 * om**0.73 * (1.0 + (10.4 * om)**-0.95), k / (13.41 * k_eq)
    a1 = (46.9 * om)**0.670 * (1.0 + (32.1 * om)**-0.532)
    a2 = (12.0 * om)**0.424 * (1.0 + (45.0 * om)**-0.582)
    alpha_c = a1**-fb * a2**-fb**3
    c1, c2 = 0.944 / (1.0 + (458.0 * om)**-0.708), (0.395 * om)**-0.0266
    beta_c = 1.0 / (1.0 + c1 * (fc**c2 - 1.0))
    log_term, plain = np.log(np.e + 1.8 * beta_c * q), np.log(np.e + 1.8 * q)
    wide = 386.0 / (1.0 + 69.9 * q**1.08)
    t_1 = log_term / (log_term + (14.2 + wide) * q * q)
    t_alpha = log_term / (log_term + (14.2 / alpha_c + wide) * q * q)
    ks, f = k * s, 1.0 / (1.0 + (k * s / 5.4)**4)
    t_c = f * t_1 + (1.0 - f) * t_alpha
    y, root = (1.0 + z_eq) / (1.0 + z_d), np.sqrt(1.0 + (1.0 + z_eq) / (1.0 + z_d))
    g = y * (-6.0 * root + (2.0 + 3.0 * y) * np.log((root + 1.0) / (root - 1.0)))
    alpha_b = 2.07 * k_eq * s * (1.0 + r_d)**-0.75 * g
    beta_b = 0.5 + fb + (3.0 - 2.0 * fb) * np.sqrt((17.2 * om)**2 + 1.0)
    s_tilde = s / (1.0 + (8.41 * om**0.435 / ks)**3)**(1.0 / 3.0)
    t_0 = plain / (plain + (14.2 + wide) * q * q)
    t_b = (t_0 / (1.0 + (ks / 5.2)**2) + alpha_b / (1.0 + (beta_b / ks)**3)
           * np.exp(-(k / k_silk)**1.4)) * np.sinc(k * s_tilde / np.pi)
    return fb * t_b + fc * t_c


def growth(z: np.ndarray, omega_m: float) -> np.ndarray:
    """Linear growth D(z)/D(0), shape of z: Silveira & Waga 1994, PRD 50, 4890."""
    a, x = 1.0 / (1.0 + np.asarray(z, float)), (1.0 - omega_m) / omega_m
    return a * hyp2f1(1 / 3, 1.0, 11 / 6, -x * a**3) / hyp2f1(1 / 3, 1.0, 11 / 6, -x)


def feedback_parameters(log10_t_agn) -> tuple:
    """Table 5 of Mead et al. 2021: B_0, B_z, log10 M_b0, M_bz, f_z for log10 T_AGN."""
    theta = np.asarray(log10_t_agn, float) - 7.8
    return (3.44 - 0.496 * theta, -0.0671 - 0.0371 * theta, 13.87 + 1.81 * theta,
            -0.108 + 0.195 * theta, 0.409 + 0.0224 * theta)


def nfw_window(x: np.ndarray, c) -> np.ndarray:
    """Transform of an NFW halo cut at c r_s; x = k r_s. Cooray & Sheth 2002, Phys. Rep. 372, 81."""
    (s_in, c_in), (s_out, c_out) = sici(x), sici((1.0 + c) * x)
    bracket = np.sin(x) * (s_out - s_in) + np.cos(x) * (c_out - c_in)
    bracket -= np.sin(c * x) / ((1.0 + c) * x)
    return bracket / (np.log1p(c) - c / (1.0 + c))


def response_grid(theory: "Theory", z: np.ndarray, log10_t_agn: np.ndarray,
                  f_0: np.ndarray) -> np.ndarray:
    """R at exp(LN_K), (t, f, n_z, n_k), for z (n_z,), log10_t_agn (t,), f_0 (f,) of today.

    A halo's window is W = (f_c + f_g) u + f_* with f_g = (f_b - f_*) m^2/(1 + m^2), m = M/M_b (eq.
    24-25); it is linear in f_*, so three mass integrals serve every f_0. With sky.stellar_boost f_*
    stands for all mass that is concentrated like stars, dark matter too: it may exceed f_b.
    """
    om, sky, k = theory.omega_m, theory.sky, np.exp(LN_K)
    f_b = min(OMEGA_B / om, sky.f_b_max)
    radius = (3.0 * MASSES / (4.0 * np.pi * RHO_CRIT * om))**(1.0 / 3.0)
    # sigma of 0.01 M (for the collapse time) comes from the same table, two decades further down
    young = np.log(radius) - np.log(100.0) / 3.0
    sigma = theory.ln_sigma(young[0] - 0.01, np.log(radius[-1]) + 0.01)
    ln_sigma, sigma_young = sigma(np.log(radius)), np.exp(sigma(young))
    slope = sigma(np.log(radius), 1) / 3.0                               # d ln sigma / d ln M
    z_form = np.linspace(0.0, 60.0, 400)
    inverse_growth = CubicSpline(np.log(growth(z_form, om))[::-1], z_form[::-1])
    linear, ln_step = theory.linear_power(k), np.log(MASSES[1] / MASSES[0])
    b_0, b_z, log_mb, mb_z, f_z = feedback_parameters(log10_t_agn)
    out = np.empty((len(log10_t_agn), len(f_0), len(z), len(k)))
    for i, redshift in enumerate(z):
        d, omz = float(growth(redshift, om)), om * (1.0 + redshift)**3 / theory.hubble(redshift)**2
        x, delta_c = omz - 1.0, 1.686 * (1.0 + 0.0123 * np.log10(omz))   # Nakamura & Suto 1997
        overdensity = (18.0 * np.pi**2 + 82.0 * x - 39.0 * x * x) / omz  # Bryan & Norman 1998
        nu = delta_c / (np.exp(ln_sigma) * d)
        # Sheth & Tormen 1999; dnu = -nu dln(sigma)
        count = 0.2162 * (1.0 + (0.707 * nu * nu)**-0.3) * np.exp(-0.3535 * nu * nu) * nu * -slope
        weight = count * ln_step * MASSES / (RHO_CRIT * om)        # of W^2 in the one-halo term
        form = np.maximum(inverse_growth(np.log(np.minimum(delta_c / sigma_young, 1.0))), redshift)
        shape = (1.0 + form) / (1.0 + redshift)             # Bullock et al. 2001, times B
        virial = radius * overdensity**(-1.0 / 3.0)
        k_star = 0.05618 * (theory.sigma_8 * d)**-1.013                  # eq. 17
        damp, p_linear = (k / k_star)**4 / (1.0 + (k / k_star)**4), linear * d * d
        u = nfw_window(k[:, None] * virial / (4.0 * shape), 4.0 * shape)
        gravity = p_linear + damp * ((u * u) @ weight)
        for j in range(len(log10_t_agn)):
            c = b_0[j] * 10.0**(redshift * b_z[j]) * shape
            u = nfw_window(k[:, None] * virial / c, c)
            m = (MASSES / 10.0**(log_mb[j] + redshift * mb_z[j]))**2
            gas = m / (1.0 + m)
            w_0, w_1 = (1.0 - f_b + f_b * gas) * u, 1.0 - gas * u
            i_00, i_01, i_11 = (w_0 * w_0) @ weight, (w_0 * w_1) @ weight, (w_1 * w_1) @ weight
            f = (sky.stellar_boost * f_0 * 10.0**(redshift * f_z[j]))[:, None]
            out[j, :, i] = (p_linear + damp * (i_00 + 2.0 * f * i_01 + f * f * i_11)) / gravity
    return out


def source_density(z: np.ndarray, delta_z: float = 0.0) -> np.ndarray:
    """Source redshift distribution, integral one; delta_z: shift of all to higher redshift."""
    t, scale = z - delta_z, np.sqrt(2.0) * Z_SMEAR
    return (erf((t - Z_LOW) / scale) - erf((t - Z_HIGH) / scale)) / (2.0 * (Z_HIGH - Z_LOW))


def log_ell_grid(low: float = 4.0, high: float = 9.0e4, step: float = 0.1) -> np.ndarray:
    """Multipoles spaced evenly in ln(ell + 1/2), the abscissae of the tables: float64 (n,)."""
    n = int(np.ceil(np.log((high + 0.5) / (low + 0.5)) / step)) + 1
    return (low + 0.5) * np.exp(step * np.arange(n)) - 0.5


class Theory:
    """Background, growth, powers and convergence spectrum of one cosmology under a Sky.

    omega_m, s_8: matter density today, 0.051 to 1; sigma_8 sqrt(omega_m / 0.3). Raises InputError.
    """

    def __init__(self, omega_m: float, s_8: float, sky: Sky = Sky()):
        check(Omega_m=omega_m, S_8=s_8)
        self.omega_m, self.sky = float(omega_m), sky
        self.sigma_8 = float(s_8 / np.sqrt(omega_m / 0.3))
        # 1100 points hold sigma_8 to 1e-7 (the oscillations need about 20 points a period)
        ln_k = np.linspace(*np.log(K_RANGE), 1100)
        self._k, self._step = np.exp(ln_k), ln_k[1] - ln_k[0]
        self._delta2 = self._k**(3.0 + N_S) * transfer(self._k, self.omega_m)**2
        self._norm = (self.sigma_8 / self.top_hat_sigma(np.array([8.0]))[0])**2
        self._delta2 *= self._norm
        # comoving distance, Mpc/h, for z from 0 to Z_MAX: a spline through exact values, 1e-9
        z = np.linspace(0.0, Z_MAX, 181)
        inverse = np.sum(_W48 / self.hubble(0.5 * z[:, None] * (_X48 + 1.0)), axis=-1)
        self.distance = CubicSpline(z, 0.5 * HUBBLE_DISTANCE * z * inverse)

    def hubble(self, z: np.ndarray) -> np.ndarray:
        """H(z)/H_0."""
        return np.sqrt(self.omega_m * (1.0 + z)**3 + 1.0 - self.omega_m)

    def linear_power(self, k: np.ndarray) -> np.ndarray:
        """Linear P(k) today, (Mpc/h)^3; k in h/Mpc."""
        return 2.0 * np.pi**2 * self._norm * k**N_S * transfer(k, self.omega_m)**2

    def top_hat_sigma(self, radius: np.ndarray) -> np.ndarray:
        """Rms of the linear density today in spheres of the radii (n,), Mpc/h."""
        x = self._k * radius[:, None]
        w = np.where(x < 0.05, 1.0 - x * x / 10.0, 3.0 * (np.sin(x) - x * np.cos(x)) / x**3)
        return np.sqrt(self._step * np.sum(w * w * self._delta2, axis=1))

    def ln_sigma(self, low: float, high: float) -> CubicSpline:
        """ln of top_hat_sigma() as a spline of the radius's logarithm between low and high."""
        ln_r = np.linspace(low, high, 60)
        return CubicSpline(ln_r, np.log(self.top_hat_sigma(np.exp(ln_r))))

    def _halofit_scale(self, z):
        ln_r = np.linspace(np.log(0.005), np.log(30.0), 160)
        x2 = (self._k * np.exp(ln_r)[:, None])**2
        weight = self._step * self._delta2 * np.exp(-x2)
        s0, s1 = weight.sum(1), -2.0 * (x2 * weight).sum(1)      # sigma^2, d sigma^2 / d ln R
        s2 = (-4.0 * x2 * weight + 4.0 * x2 * x2 * weight).sum(1)
        at = CubicSpline(-0.5 * np.log(s0), ln_r)(np.log(growth(z, self.omega_m)))  # sigma(R) D = 1
        slope, curve = (CubicSpline(ln_r, y)(at) for y in (s1 / s0, s2 / s0 - (s1 / s0)**2))
        return np.exp(-at), -3.0 - slope, -curve

    def nonlinear_power(self, k: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Power without feedback at k (..., n_z), z (n_z,): Takahashi et al. 2012, ApJ 761, 152."""
        om, (ks, n, c) = self.omega_m * (1.0 + z)**3 / self.hubble(z)**2, self._halofit_scale(z)
        a_n = 10.0**(1.5222 + n * (2.8553 + n * (2.3706 + n * (0.9903 + n * 0.2250))) - 0.6038 * c)
        b_n = 10.0**(-0.5642 + n * (0.5864 + n * 0.5716) - 1.5474 * c)
        c_n = 10.0**(0.3698 + n * (2.0404 + n * 0.8161) + 0.5869 * c)
        gamma = 0.1971 - 0.0843 * n + 0.8460 * c
        alpha = np.abs(6.0835 + n * (1.3373 - n * 0.1959) - 5.5274 * c)
        beta = 2.0379 + n * (-0.7354 + n * (0.3157 + n * (1.2490 + n * 0.3980))) - 0.1682 * c
        nu = 10.0**(5.2105 + 3.6902 * n)
        f1, f2, f3 = om**-0.0307, om**-0.0585, om**0.0743
        volume, y = k**3 / (2.0 * np.pi**2), k / ks
        linear = volume * self.linear_power(k) * growth(z, self.omega_m)**2
        two = linear * (1.0 + linear)**beta / (1.0 + alpha * linear) * np.exp(-y / 4 - y * y / 8)
        one = a_n * y**(3.0 * f1) / (1.0 + b_n * y**f2 + (c_n * f3 * y)**(3.0 - gamma))
        whole = two + one / (1.0 + nu / (y * y))
        return (linear + (whole - linear) * (self.sigma_8 / 0.8)**self.sky.nonlinear_tilt) / volume

    def lensing_weight(self, z: np.ndarray, delta_z: np.ndarray) -> np.ndarray:
        """Weight w(z) of C_ell = integral dz w(z) P((ell + 1/2)/chi, z): (m, n_z) for delta_z (m,).

        w = (c/H) q^2 / chi^2 with q = 3/2 Omega_m (H_0/c)^2 (1+z) chi (1 - chi <1/chi_s>): Limber
        with the flat-sky prefactor, Kilbinger et al. 2017, MNRAS 472, 2126.
        """
        chi, half = self.distance(z), 0.5 * (Z_MAX - z)
        shift = self.sky.source_shift + self.sky.delta_z_sign * np.atleast_1d(delta_z)
        zs = z[:, None] + half[:, None] * (_X64 + 1.0)               # sources behind each lens
        gain = half[:, None] * _W64 * (1.0 - chi[:, None] / self.distance(zs))
        efficiency = np.stack([np.sum(gain * source_density(zs, d), axis=1) for d in shift])
        q = 1.5 * self.omega_m / HUBBLE_DISTANCE**2 * (1.0 + z) * efficiency
        return HUBBLE_DISTANCE / self.hubble(z) * q * q

    def c_ell(self, ell: np.ndarray, delta_z=0.0, log10_t_agn=None, f_0=None) -> np.ndarray:
        """Convergence spectrum in steradian: (n,), or (delta_z, log10_t_agn, f_0, n) for arrays.

        ell: (n,), evenly spaced in ln(ell + 1/2) as log_ell_grid() gives them
        delta_z, log10_t_agn, f_0: of the label, log10_t_agn None for dark matter alone
        Limber at ell + 1/2 (LoVerde & Afshordi 2008, PRD 78, 123506).
        """
        # dz = 2 t dt thickens the nodes near z = 0, where k = ell/chi runs away
        t = np.sqrt(Z_MAX) * 0.5 * (_X64 + 1.0)
        z, dz = t * t, np.sqrt(Z_MAX) * _W64 * t
        ln_k = np.log(ell + 0.5)[:, None] - np.log(self.distance(z))
        power = self.nonlinear_power(np.exp(ln_k), z)                # (n, n_z)
        weight = dz * self.lensing_weight(z, delta_z)                # (m, n_z)
        if log10_t_agn is None:
            c = weight @ power.T
        else:
            nodes = chebyshev_nodes(0.0, Z_MAX, N_Z)
            response = response_grid(self, nodes, np.atleast_1d(log10_t_agn), np.atleast_1d(f_0))
            at_z = np.einsum("za,tfak->tfkz", lagrange_weights(nodes, z), response, optimize=True)
            # cubic interpolation in ln k with constant ends: above 300 h/Mpc nothing reaches a map
            place = np.clip((ln_k - LN_K[0]) / (LN_K[1] - LN_K[0]), 0.0, len(LN_K) - 1.0)
            first, weights = cubic_weights(place, len(LN_K))
            response = sum(w * at_z[:, :, first + i, np.arange(len(z))]      # (t, f, n, n_z)
                           for i, w in enumerate(weights))
            c = np.einsum("mz,tfnz->mtfn", weight, response * power, optimize=True)
        return c if np.ndim(delta_z) else c.reshape(-1)

    def table(self, ell: np.ndarray) -> Callable:
        """C_ell as a function of log10 T_AGN, f_0 and Delta_z, by TABLE's nodes; ell as in c_ell().

        The function returns float64 (m, n) for nuisances of shape (m,), (n,) for numbers.
        """
        values = self.c_ell(ell, *TABLE.values())
        def spectrum(log10_t_agn, f_0, delta_z):
            at = [np.atleast_1d(np.asarray(v, float)) for v in (delta_z, log10_t_agn, f_0)]
            check(**dict(zip(TABLE, at)))
            weights = map(lagrange_weights, TABLE.values(), at)
            c = np.einsum("ma,mb,mc,abcn->mn", *weights, values, optimize=True)
            return c[0] if np.ndim(delta_z) == 0 else c
        return spectrum


def lagrange_weights(nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights w (m, n) with f(x) = w @ f(nodes) for x (m,), nodes (n,), exact for polynomials."""
    weight = np.ones((len(x), len(nodes)))
    for i, node in enumerate(nodes):
        for other in np.delete(nodes, i):
            weight[:, i] *= (x - other) / (node - other)
    return weight


def cubic_weights(place: np.ndarray, n: int) -> tuple[np.ndarray, tuple]:
    """First of four points and their Lagrange weights; place: in steps from the first of n."""
    first = np.clip(place.astype(np.int64) - 1, 0, n - 4)
    u = place - first
    return first, (-(u - 1) * (u - 2) * (u - 3) / 6, u * (u - 2) * (u - 3) / 2,
                   -u * (u - 1) * (u - 3) / 2, u * (u - 1) * (u - 2) / 6)
