"""Matter in flat LCDM: background, growth, linear power, and its non-linear form by halofit.

No radiation, no neutrinos; h = 0.7, Omega_b = 0.046, n_s = 0.97 as in the challenge. Wavenumbers k
in h/Mpc, distances in comoving Mpc/h, powers in (Mpc/h)^3. Then what tabulates such functions:
polynomials through Chebyshev points, smooth functions of few variables from few values.
"""
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import hyp2f1

from ..core.checks import InputError
from ..core.params import sigma_8_of

H, OMEGA_B, N_S, T_CMB = 0.7, 0.046, 0.97, 2.7255
HUBBLE_DISTANCE = 2997.92458           # c / H_0, Mpc/h
Z_MAX = 1.35                           # the background is tabulated up to here
K_RANGE = (1e-5, 1e4)                  # of the integrals over the linear power

_X48, _W48 = np.polynomial.legendre.leggauss(48)


def transfer(k: np.ndarray, omega_m: float, omega_b: float = OMEGA_B) -> np.ndarray:
    """Matter transfer function with baryon oscillations, one for k -> 0.

    k: h/Mpc
    omega_m, omega_b: densities today
    Eisenstein & Hu 1998, ApJ 496, 605, equations 2-24.
    """
    k = np.asarray(k, float) * H                                   # 1/Mpc from here on
    om, ob = omega_m * H * H, omega_b * H * H
    fb, theta = omega_b / omega_m, T_CMB / 2.7
    fc = 1.0 - fb
    z_eq = 2.50e4 * om * theta**-4
    k_eq = 7.46e-2 * om * theta**-2
    b1 = 0.313 * om**-0.419 * (1.0 + 0.607 * om**0.674)
    b2 = 0.238 * om**0.223
    z_d = 1291.0 * om**0.251 / (1.0 + 0.659 * om**0.828) * (1.0 + b1 * ob**b2)
    r_d = 31.5 * ob * theta**-4 * (1000.0 / z_d)
    r_eq = 31.5 * ob * theta**-4 * (1000.0 / z_eq)
    s = (2.0 / (3.0 * k_eq) * np.sqrt(6.0 / r_eq)
         * np.log((np.sqrt(1.0 + r_d) + np.sqrt(r_d + r_eq)) / (1.0 + np.sqrt(r_eq))))
    k_silk = 1.6 * ob**0.52 * om**0.73 * (1.0 + (10.4 * om)**-0.95)
    q = k / (13.41 * k_eq)

    a1 = (46.9 * om)**0.670 * (1.0 + (32.1 * om)**-0.532)
    a2 = (12.0 * om)**0.424 * (1.0 + (45.0 * om)**-0.582)
    alpha_c = a1**-fb * a2**-fb**3
    c1 = 0.944 / (1.0 + (458.0 * om)**-0.708)
    c2 = (0.395 * om)**-0.0266
    beta_c = 1.0 / (1.0 + c1 * (fc**c2 - 1.0))

    log_term = np.log(np.e + 1.8 * beta_c * q)
    plain = np.log(np.e + 1.8 * q)
    wide = 386.0 / (1.0 + 69.9 * q**1.08)
    t_1 = log_term / (log_term + (14.2 + wide) * q * q)
    t_alpha = log_term / (log_term + (14.2 / alpha_c + wide) * q * q)
    ks = k * s
    f = 1.0 / (1.0 + (ks / 5.4)**4)
    t_c = f * t_1 + (1.0 - f) * t_alpha

    y = (1.0 + z_eq) / (1.0 + z_d)
    root = np.sqrt(1.0 + y)
    g = y * (-6.0 * root + (2.0 + 3.0 * y) * np.log((root + 1.0) / (root - 1.0)))
    alpha_b = 2.07 * k_eq * s * (1.0 + r_d)**-0.75 * g
    beta_b = 0.5 + fb + (3.0 - 2.0 * fb) * np.sqrt((17.2 * om)**2 + 1.0)
    beta_node = 8.41 * om**0.435
    s_tilde = s / (1.0 + (beta_node / ks)**3)**(1.0 / 3.0)
    t_0 = plain / (plain + (14.2 + wide) * q * q)
    t_b = (t_0 / (1.0 + (ks / 5.2)**2) + alpha_b / (1.0 + (beta_b / ks)**3)
           * np.exp(-(k / k_silk)**1.4)) * np.sinc(k * s_tilde / np.pi)
    return fb * t_b + fc * t_c


def growth(z: np.ndarray, omega_m: float) -> np.ndarray:
    """Linear growth in flat LCDM relative to today: D(z)/D(0), shape of z.

    D = a 2F1(1/3, 1; 11/6; -a^3 (1 - Omega_m)/Omega_m), e.g. Silveira & Waga 1994, PRD 50, 4890.
    """
    a = 1.0 / (1.0 + np.asarray(z, float))
    x = (1.0 - omega_m) / omega_m
    return a * hyp2f1(1 / 3, 1.0, 11 / 6, -x * a**3) / hyp2f1(1 / 3, 1.0, 11 / 6, -x)


class Matter:
    """Background, growth and powers of one cosmology.

    omega_m: matter density today, 0.051 to 1
    s_8: sigma_8 sqrt(omega_m / 0.3)
    Raises InputError.
    """

    def __init__(self, omega_m: float, s_8: float):
        self.check(omega_m, s_8)
        self.omega_m, self.s_8 = float(omega_m), float(s_8)
        self.sigma_8 = float(sigma_8_of(omega_m, s_8))
        # 1100 points hold sigma_8 to 1e-7 (the oscillations need about 20 points a period)
        self._ln_k = np.linspace(*np.log(K_RANGE), 1100)
        self._k = np.exp(self._ln_k)
        self._delta2 = self._k**(3.0 + N_S) * transfer(self._k, self.omega_m)**2
        self._step = self._ln_k[1] - self._ln_k[0]
        self._norm = (self.sigma_8 / self.top_hat_sigma(np.array([8.0]))[0])**2
        self._delta2 *= self._norm
        self._z_grid = np.linspace(0.0, Z_MAX, 181)
        self._chi = CubicSpline(self._z_grid, self._chi_of(self._z_grid))

    @staticmethod
    def check(omega_m: float, s_8: float) -> None:
        """Refuse a cosmology for which the formulas have no meaning. Raises InputError."""
        if not (1.1 * OMEGA_B < omega_m <= 1.0 and 0.1 <= s_8 <= 3.0):
            raise InputError(f"cosmology: expected {1.1 * OMEGA_B:.4f} < Omega_m <= 1 and "
                             f"0.1 <= S_8 <= 3, got Omega_m = {omega_m:g}, S_8 = {s_8:g}; "
                             "check the design")

    def hubble(self, z: np.ndarray) -> np.ndarray:
        """H(z)/H_0."""
        return np.sqrt(self.omega_m * (1.0 + np.asarray(z, float))**3 + 1.0 - self.omega_m)

    def omega_m_at(self, z: np.ndarray) -> np.ndarray:
        """Matter density parameter at redshift z."""
        return self.omega_m * (1.0 + np.asarray(z, float))**3 / self.hubble(z)**2

    def _chi_of(self, z):
        z = np.asarray(z, float)
        t = 0.5 * z[..., None] * (_X48 + 1.0)
        return 0.5 * HUBBLE_DISTANCE * z * np.sum(_W48 / self.hubble(t), axis=-1)

    def distance(self, z: np.ndarray) -> np.ndarray:
        """Comoving distance, Mpc/h, for z from 0 to Z_MAX (spline through exact values, 1e-9)."""
        return self._chi(z)

    def linear_power(self, k: np.ndarray) -> np.ndarray:
        """Linear P(k) today, (Mpc/h)^3; k in h/Mpc."""
        k = np.asarray(k, float)
        return 2.0 * np.pi**2 * self._norm * k**N_S * transfer(k, self.omega_m)**2

    def top_hat_sigma(self, radius: np.ndarray) -> np.ndarray:
        """Rms of the linear density today in spheres of the radii (n,), Mpc/h."""
        x = self._k * np.asarray(radius, float)[:, None]
        small = x < 0.05
        w = np.where(small, 1.0 - x * x / 10.0, 0.0)
        xb = x[~small]
        w[~small] = 3.0 * (np.sin(xb) - xb * np.cos(xb)) / xb**3
        return np.sqrt(self._step * np.sum(w * w * self._delta2, axis=1))

    def _halofit_scale(self, z):
        """k_sigma (h/Mpc), n_eff and curvature at z, from the Gaussian-smoothed variance."""
        ln_r = np.linspace(np.log(0.005), np.log(30.0), 160)
        x2 = (self._k * np.exp(ln_r)[:, None])**2
        weight = self._step * self._delta2 * np.exp(-x2)
        s0 = weight.sum(1)
        s1 = -2.0 * (x2 * weight).sum(1)                # d sigma^2 / d ln R
        s2 = (-4.0 * x2 * weight + 4.0 * x2 * x2 * weight).sum(1)
        ln_sigma = 0.5 * np.log(s0)
        at = CubicSpline(-ln_sigma, ln_r)(np.log(growth(z, self.omega_m)))   # sigma(R) D = 1
        slope = CubicSpline(ln_r, s1 / s0)(at)
        curve = CubicSpline(ln_r, s2 / s0 - (s1 / s0)**2)(at)
        return np.exp(-at), -3.0 - slope, -curve

    def nonlinear_power(self, k: np.ndarray, z: np.ndarray, tilt: float = 0.0) -> np.ndarray:
        """Matter power without baryonic feedback, (Mpc/h)^3, shape of k.

        k: h/Mpc, last axis along z
        z: (n_z,)
        tilt: theory.Sky.nonlinear_tilt
        Takahashi et al. 2012, ApJ 761, 152, appendix (halofit after Smith et al. 2003).
        """
        k, z = np.asarray(k, float), np.asarray(z, float)
        ks, n, c = self._halofit_scale(z)
        om = self.omega_m_at(z)
        a_n = 10.0**(1.5222 + n * (2.8553 + n * (2.3706 + n * (0.9903 + n * 0.2250)))
                     - 0.6038 * c)
        b_n = 10.0**(-0.5642 + n * (0.5864 + n * 0.5716) - 1.5474 * c)
        c_n = 10.0**(0.3698 + n * (2.0404 + n * 0.8161) + 0.5869 * c)
        gamma = 0.1971 - 0.0843 * n + 0.8460 * c
        alpha = np.abs(6.0835 + n * (1.3373 - n * 0.1959) - 5.5274 * c)
        beta = (2.0379 + n * (-0.7354 + n * (0.3157 + n * (1.2490 + n * 0.3980)))
                - 0.1682 * c)
        nu = 10.0**(5.2105 + 3.6902 * n)
        f1, f2, f3 = om**-0.0307, om**-0.0585, om**0.0743
        volume = k**3 / (2.0 * np.pi**2)
        linear = volume * self.linear_power(k) * growth(z, self.omega_m)**2
        y = k / ks
        two = (linear * (1.0 + linear)**beta / (1.0 + alpha * linear)
               * np.exp(-y / 4.0 - y * y / 8.0))
        one = a_n * y**(3.0 * f1) / (1.0 + b_n * y**f2 + (c_n * f3 * y)**(3.0 - gamma))
        whole = two + one / (1.0 + nu / (y * y))
        return (linear + (whole - linear) * (self.sigma_8 / 0.8)**tilt) / volume


def chebyshev_nodes(low: float, high: float, n: int) -> np.ndarray:
    """n Chebyshev points of the first kind between low and high, ascending."""
    return 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def interval_of(nodes: np.ndarray) -> tuple[float, float]:
    """The interval (low, high) whose chebyshev_nodes() these are."""
    half = 0.5 * (nodes[-1] - nodes[0]) / np.cos(0.5 * np.pi / len(nodes))
    middle = 0.5 * (nodes[-1] + nodes[0])
    return middle - half, middle + half


def lagrange_weights(nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights w (m, n) with f(x) = w @ f(nodes) for x (m,), nodes (n,), exact for polynomials."""
    weight = np.ones((len(x), len(nodes)))
    for i, node in enumerate(nodes):
        for j, other in enumerate(nodes):
            if i != j:
                weight[:, i] *= (x - other) / (node - other)
    return weight


def cubic_weights(place: np.ndarray, n: int) -> tuple[np.ndarray, tuple]:
    """Four-point Lagrange weights on an even grid.

    place: position in units of the grid step from its first point
    n: points of the grid
    Returns the first of the four points, and four arrays of the shape of place.
    """
    first = np.clip(place.astype(np.int64) - 1, 0, n - 4)
    u = place - first
    return first, (-(u - 1) * (u - 2) * (u - 3) / 6, u * (u - 2) * (u - 3) / 2,
                   -u * (u - 1) * (u - 3) / 2, u * (u - 1) * (u - 2) / 6)
