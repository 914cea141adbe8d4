"""The halos of a cosmology: how many, how clustered and concentrated, and what feedback leaves.

    halos = Halos(Theory(0.3, 0.8))            # 2 ms
    halos.number                               # (distance, mass), per steradian

Masses M in Msun/h inside R, the radius of 200 times the mean density; R and distances in comoving
Mpc/h. Halos lighter than LOG10_M_PAINTED are too many to be painted one by one: the `light` ones.
"""
import numpy as np
from scipy.interpolate import CubicSpline

from . import baryons
from .baryons import RHO_CRIT
from .matter import HUBBLE_DISTANCE, OMEGA_B, growth
from .theory import Theory

OVERDENSITY = 200.0      # times the mean density, as in all three fits below
C_SCATTER = 0.15 * np.log(10.0)    # standard deviation of ln c: 0.15 dex, Duffy et al. 2008
# The stars of a halo are in its middle up to 10^13 Msun/h. Beyond, the share of its central galaxy
# falls as M^-0.6 (Kravtsov, Vikhlinin & Meshcheryakov 2018, Astron. Lett. 44, 8), and the stars of
# satellites lie where matter does. With all in the middle the third moment of a pixel is ruled by
# few clusters: at f_0 = 0.016 it is 1.6 to 2.0 times a real map's, this way 1.0 times.
M_CENTRAL, CENTRAL_SLOPE = 1e13, -0.6
LOG10_M_PAINTED = 12.7   # 350,000 halos on the survey's grid; lighter ones bring 2 % of C_1000
STEP = 0.075             # dex, width of a bin of mass
N_HEAVY, N_LIGHT = 44, 30    # bins up to 10^16 and down to 10^10.45: below are 0.3 % of C_10000
SLICES, PARTS = 8, 3     # slices with a density field of their own; distances in each
Z_FAR = 1.0              # end of the last slice; behind it is less than 10^-8 of C_1000


def mass_function(sigma: np.ndarray, z: np.ndarray) -> np.ndarray:
    """f(sigma) of dn/dlnM = f rho/M |dln sigma/dlnM|: Tinker et al. 2008, ApJ 688, 709, eq. 3-8.

    sigma: rms of the linear density in spheres of mass M at redshift z.
    z: redshift; broadcasts against sigma.
    """
    alpha = 10.0**-((0.75 / np.log10(OVERDENSITY / 75.0))**1.2)
    grow = 1.0 + z
    return (0.186 * grow**-0.14 * ((sigma * grow**alpha / 2.57)**(-1.47 * grow**-0.06) + 1.0)
            * np.exp(-1.19 / sigma**2))


def bias(sigma: np.ndarray) -> np.ndarray:
    """Linear bias of halos: Tinker et al. 2010, ApJ 724, 878, eq. 6 and table 2.

    sigma: as in mass_function().
    """
    y = np.log10(OVERDENSITY)
    nu = 1.686 / sigma
    fall = np.exp(-(4.0 / y)**4)
    power = nu**(0.44 * y - 0.88)
    return (1.0 - (1.0 + 0.24 * y * fall) * power / (power + 1.686**(0.44 * y - 0.88))
            + 0.183 * nu**1.5 + (0.019 + 0.107 * y + 0.19 * fall) * nu**2.4)


def concentration(mass: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Median R/r_s without feedback: Duffy et al. 2008, MNRAS 390, L64, table 1, all halos.

    mass: Msun/h.
    z: redshift; broadcasts against mass.
    """
    return 10.14 * (mass / 2e12)**-0.081 * (1.0 + z)**-1.01


class Halos:
    """Halos in front of Z_FAR by distance (SLICES x PARTS of them) and mass.

    theory: the cosmology.
    z, chi, depth: (distance,) redshift, comoving distance and thickness in Mpc/h.
    mass: (mass,) Msun/h, ascending; light and heavy are slices of it.
    number: (distance, mass) per steradian.
    bias, concentration: (distance, mass).
    angle: (distance, mass) R/chi, radian.
    area: (distance, mass) M/(rho chi^2), the convergence in steradian where lensing() is one.
    share: (distance, heavy mass) of the mean density.
    """

    def __init__(self, theory: Theory):
        self.theory = theory
        om, rho = theory.omega_m, RHO_CRIT * theory.omega_m
        edges = np.linspace(0.0, float(theory.distance(Z_FAR)), SLICES * PARTS + 1)
        near, far = edges[:-1], edges[1:]
        z_grid = np.linspace(0.0, Z_FAR, 200)
        volume = (far**3 - near**3) / 3.0                                 # per steradian
        self.depth = far - near
        self.chi = np.sqrt(volume / self.depth)        # halos and a smooth density lens alike
        self.z = CubicSpline(theory.distance(z_grid), z_grid)(self.chi)
        self.mass = 10.0**(LOG10_M_PAINTED + STEP * (np.arange(-N_LIGHT, N_HEAVY) + 0.5))
        self.light, self.heavy = slice(0, N_LIGHT), slice(N_LIGHT, None)
        lagrange = (3.0 * self.mass / (4.0 * np.pi * rho))**(1.0 / 3.0)
        ln_r = np.linspace(np.log(lagrange[0]) - 0.1, np.log(lagrange[-1]) + 0.1, 60)
        ln_sigma = CubicSpline(ln_r, np.log(theory.top_hat_sigma(np.exp(ln_r))))
        slope = -ln_sigma(np.log(lagrange), 1) / 3.0                      # d ln sigma / d ln M
        z = self.z[:, None]
        sigma = np.exp(ln_sigma(np.log(lagrange))) * growth(z, om)
        density = mass_function(sigma, z) * rho / self.mass * slope * STEP * np.log(10.0)
        self.number = density * volume[:, None]
        self.bias = bias(sigma)
        self.concentration = concentration(self.mass, z)
        self.angle = lagrange * OVERDENSITY**(-1.0 / 3.0) / self.chi[:, None]
        self.area = self.mass / (rho * self.chi[:, None]**2)
        self.share = (density * self.mass)[:, self.heavy] / rho

    def lensing(self, delta_z: np.ndarray) -> np.ndarray:
        """Convergence of a comoving Mpc/h of mean density, h/Mpc: float64 (n, distance).

        delta_z: (n,) of the labels.
        q = 3/2 Omega_m (H_0/c)^2 (1+z) chi (1 - chi <1/chi_s>): Bartelmann & Schneider 2001, Phys.
        Rep. 340, eq. 6.19-6.21.
        """
        weight = self.theory.lensing_weight(self.z, delta_z)              # (c/H) (q/chi)^2
        return self.chi * np.sqrt(weight * self.theory.hubble(self.z) / HUBBLE_DISTANCE)

    def feedback(self, log10_t_agn: float, f_0: float) -> tuple:
        """What feedback leaves of halos, as in the theory's spectrum (baryons.response_grid).

        log10_t_agn: log10 of the feedback temperature in kelvin.
        f_0: stellar fraction today.
        Returns extended (distance, mass), the share of the mass in dark matter and gas; swell
        (distance, 1), a factor of its concentration; stars (distance, mass), the share of a point
        in the middle. The rest is gas that left the halo. Mead et al. 2021, MNRAS 502, 1401, eq.
        24-25 and table 5; swell is B over its value without feedback, 4.
        """
        b_0, b_z, log_mb, mb_z, f_z = baryons.feedback_parameters(log10_t_agn)
        sky, z = self.theory.sky, self.z[:, None]
        f_b = min(OMEGA_B / self.theory.omega_m, sky.f_b_max)
        stars = sky.stellar_boost * f_0 * 10.0**(z * f_z)
        m = (self.mass / 10.0**(log_mb + z * mb_z))**2
        extended = 1.0 - f_b + (f_b - stars) * m / (1.0 + m)
        central = stars * np.maximum(self.mass / M_CENTRAL, 1.0)**CENTRAL_SLOPE
        return extended + stars - central, b_0 * 10.0**(z * b_z) / 4.0, central
