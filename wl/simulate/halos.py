"""The halos of a cosmology, and the spectrum that maps with them have.

    halos = Halos(Theory(0.3, 0.8), coarse)
    spectrum = HaloSpectrum(halos, grid.ell, grid.pixel)                    # 0.1 s
    painted, cross, smooth, light = spectrum(log10_t_agn, f_0, delta_z)     # (n, ell), steradian

Masses M in Msun/h inside R, the radius of 200 times the mean density; R and distances in comoving
Mpc/h. Halos lighter than LOG10_M_PAINTED are too many to be painted one by one: the `light` ones.
The spectrum is the one by construction, before halo_sky holds maps to the theory's.
"""
import functools
from math import factorial

import numpy as np
import scipy.fft
from scipy.interpolate import CubicSpline

from ..core.params import F_0_RANGE, T_AGN_RANGE
from .fields import Grid
from .theory import (HUBBLE_DISTANCE, OMEGA_B, RHO_CRIT, Theory, chebyshev_nodes,
                     feedback_parameters, growth, lagrange_weights, nfw_window)

OVERDENSITY = 200.0      # times the mean density, as in all three fits below
C_SCATTER = 0.15 * np.log(10.0)    # standard deviation of ln c: 0.15 dex, Duffy et al. 2008
# A halo's stars are in its middle up to 10^13 Msun/h. Beyond, the share of its central galaxy falls
# as M^-0.6 (Kravtsov et al. 2018, Astron. Lett. 44, 8), and satellites lie where matter does. With
# all in the middle a pixel's third moment is 1.6 to 2.0 times a real map's at f_0 = 0.016.
M_CENTRAL, CENTRAL_SLOPE = 1e13, -0.6
LOG10_M_PAINTED = 12.7   # 350,000 halos on the survey's grid; lighter ones bring 2 % of C_1000
STEP = 0.075             # dex, width of a bin of mass
N_HEAVY, N_LIGHT = 44, 30    # bins up to 10^16 and down to 10^10.45: below are 0.3 % of C_10000
SLICES, PARTS = 8, 3     # slices with a density field of their own; distances in each
Z_FAR = 1.0              # end of the last slice; behind it is less than 10^-8 of C_1000
ORDERS = 5               # of xi_g in the log-normal correlations exp(b_1 b_2 xi_g) - 1
MAX_CLUSTERING = 1.3     # largest b sigma_g of halos in a cell: see Halos
LONGEST = ((0.42, 320.0), (np.inf, 704.0))   # up to a redshift, longest wave of the fields, Mpc/h
N_T, N_F = 5, 3          # Chebyshev nodes in log10 T_AGN and f_0
LN_X = np.linspace(np.log(1e-3), np.log(300.0), 180)       # of the windows' table, x = ell R/chi
LN_C = np.linspace(np.log(0.4), np.log(60.0), 40)


def mass_function(sigma: np.ndarray, z: np.ndarray) -> np.ndarray:
    """f(sigma) of dn/dlnM = f rho/M |dln sigma/dlnM|: Tinker et al. 2008, ApJ 688, 709, eq. 3-8."""
    alpha, grow = 10.0**-((0.75 / np.log10(OVERDENSITY / 75.0))**1.2), 1.0 + z
    return (0.186 * grow**-0.14 * ((sigma * grow**alpha / 2.57)**(-1.47 * grow**-0.06) + 1.0)
            * np.exp(-1.19 / sigma**2))


def bias(sigma: np.ndarray) -> np.ndarray:
    """Linear bias of halos: Tinker et al. 2010, ApJ 724, 878, eq. 6 and table 2."""
    y, nu = np.log10(OVERDENSITY), 1.686 / sigma
    fall, power = np.exp(-(4.0 / y)**4), nu**(0.44 * y - 0.88)
    return (1.0 - (1.0 + 0.24 * y * fall) * power / (power + 1.686**(0.44 * y - 0.88))
            + 0.183 * nu**1.5 + (0.019 + 0.107 * y + 0.19 * fall) * nu**2.4)


class Halos:
    """Halos of a theory in front of Z_FAR, and the Gaussian density fields g that they follow.

    coarse: the periodic grid of the cells that hold g
    z, chi, depth: (distance,) redshift, comoving distance and thickness in Mpc/h of SLICES x PARTS
    mass: (mass,) Msun/h, ascending; light and heavy are slices of it
    number, concentration, angle, area: (distance, mass), number per steradian, R/chi in radian,
        M/(rho chi^2), the convergence in steradian where lensing() is one
    share, bias: (distance, heavy mass) of the mean density; of halos, in exp(b g)
    power, variance: (slice, quarter cells) linear spectra of g, (slice,) its variance in a cell
    ell, powers: (n,) and (slice, ORDERS, n), spectra of the powers of the correlation function
    smooth, smooth_bias: (distance,) share of the mass that is not painted, and the bias left for it
    Waves longer than LONGEST are not in g: the boxes of the challenge's real maps have none, and
    log10 P would scatter up to a tenth more from ell 400 to 1600. The bias is cut at MAX_CLUSTERING
    / sigma_g, fitted to third moments of real maps: exp(b g) would pile up rare halos.
    """

    def __init__(self, theory: Theory, coarse: Grid):
        self.theory, self.coarse, self.ell = theory, coarse, coarse.ell_y[1:]
        om, rho = theory.omega_m, RHO_CRIT * theory.omega_m
        edges = np.linspace(0.0, float(theory.distance(Z_FAR)), SLICES * PARTS + 1)
        z_grid = np.linspace(0.0, Z_FAR, 200)
        volume = (edges[1:]**3 - edges[:-1]**3) / 3.0                     # per steradian
        self.depth = np.diff(edges)
        self.chi = np.sqrt(volume / self.depth)        # halos and a smooth density lens alike
        self.z = CubicSpline(theory.distance(z_grid), z_grid)(self.chi)
        self.mass = 10.0**(LOG10_M_PAINTED + STEP * (np.arange(-N_LIGHT, N_HEAVY) + 0.5))
        self.light, self.heavy = slice(0, N_LIGHT), slice(N_LIGHT, None)
        lagrange = (3.0 * self.mass / (4.0 * np.pi * rho))**(1.0 / 3.0)
        ln_sigma = theory.ln_sigma(np.log(lagrange[0]) - 0.1, np.log(lagrange[-1]) + 0.1)
        slope, z = -ln_sigma(np.log(lagrange), 1) / 3.0, self.z[:, None]  # d ln sigma / d ln M
        sigma = np.exp(ln_sigma(np.log(lagrange))) * growth(z, om)
        density = mass_function(sigma, z) * rho / self.mass * slope * STEP * np.log(10.0)
        self.number = density * volume[:, None]
        # median R/r_s without feedback: Duffy et al. 2008, MNRAS 390, L64, table 1, all halos
        self.concentration = 10.14 * (self.mass / 2e12)**-0.081 * (1.0 + z)**-1.01
        self.angle = lagrange * OVERDENSITY**(-1.0 / 3.0) / self.chi[:, None]
        self.area = self.mass / (rho * self.chi[:, None]**2)
        self.share = (density * self.mass)[:, self.heavy] / rho
        # by Limber with the lensing at Delta_z = 0: matter knows no error of the source redshifts
        ell = np.hypot.outer(coarse.ell_y, coarse.ell_x).ravel()
        ell[0] = ell[1]
        step = np.linspace(np.log(ell.min()), np.log(ell.max()), 400)
        k = np.exp(step) / self.chi[:, None]
        weight = (self.lensing(np.zeros(1))[0] * self.depth).reshape(SLICES, PARTS)
        weight = (weight / weight.sum(1, keepdims=True)).ravel()
        weight = (weight * growth(self.z, om) / self.chi)**2 / self.depth
        longest = np.array([next(side for end, side in LONGEST if own < end) for own in self.z])
        power = weight[:, None] * theory.linear_power(k) * (k > 2.0 * np.pi / longest[:, None])
        power = power.reshape(SLICES, PARTS, -1).sum(1)
        self.power = np.array([np.interp(np.log(ell), step, p) for p in power], np.float32)
        self.power[:, 0] = 0.0
        self.variance = np.array([coarse.variance(power) for power in self.power])
        self.powers = np.array([self._powers(power) for power in self.power])
        most = MAX_CLUSTERING / np.sqrt(self.variance).repeat(PARTS)
        self.bias = np.minimum(bias(sigma)[:, self.heavy], most[:, None])
        self.smooth = 1.0 - self.share.sum(1)
        self.smooth_bias = (1.0 - (self.share * self.bias).sum(1)) / self.smooth

    def _powers(self, power):
        coarse, area = self.coarse, self.coarse.pixel**2
        xi = scipy.fft.dctn(power.reshape(coarse.quarter).astype(float), type=1, workers=1)
        xi /= coarse.rows * coarse.columns * area
        # ell_x = 0 is a sum over all columns
        return np.maximum([scipy.fft.dct(xi**m @ coarse.times[1], type=1)[1:] * area
                           for m in range(1, ORDERS + 1)], 0.0)

    def lensing(self, delta_z: np.ndarray) -> np.ndarray:
        """Convergence of a comoving Mpc/h of mean density, h/Mpc: (n, distance) for delta_z (n,).

        Bartelmann & Schneider 2001, Phys. Rep. 340, eq. 6.19-6.21.
        """
        weight = self.theory.lensing_weight(self.z, delta_z)              # (c/H) (q/chi)^2
        return self.chi * np.sqrt(weight * self.theory.hubble(self.z) / HUBBLE_DISTANCE)

    def feedback(self, log10_t_agn: float, f_0: float) -> tuple:
        """What feedback leaves of halos, as in theory.response_grid(); the rest is gas that left.

        Returns extended (distance, mass), the share of the mass in dark matter and gas; swell
        (distance, 1), a factor of its concentration, B over its value without feedback, 4; stars
        (distance, mass), the share of a point in the middle.
        """
        b_0, b_z, log_mb, mb_z, f_z = feedback_parameters(log10_t_agn)
        sky, z = self.theory.sky, self.z[:, None]
        f_b = min(OMEGA_B / self.theory.omega_m, sky.f_b_max)
        stars = sky.stellar_boost * f_0 * 10.0**(z * f_z)
        m = (self.mass / 10.0**(log_mb + z * mb_z))**2
        extended = 1.0 - f_b + (f_b - stars) * m / (1.0 + m)
        central = stars * np.maximum(self.mass / M_CENTRAL, 1.0)**CENTRAL_SLOPE
        return extended + stars - central, b_0 * 10.0**(z * b_z) / 4.0, central


@functools.cache
def _window_table():
    """Transform of halos of mass one and its square, averaged over the scatter: (x, c, 2)."""
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    weight = weight / weight.sum()
    c = np.exp(LN_C[:, None] + C_SCATTER * node)
    u = nfw_window(np.exp(LN_X)[:, None, None] / c, c)
    return np.stack([u @ weight, (u * u) @ weight], axis=-1)


def windows(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Mean and mean square of the transforms, (..., 2); x: ell R/chi; c: median concentration."""
    places = np.broadcast_arrays(*(
        np.clip((np.log(value) - nodes[0]) / (nodes[1] - nodes[0]), 0.0, len(nodes) - 1.001)
        for value, nodes in ((x, LN_X), (c, LN_C))))
    (i, p), (j, q) = ((at.astype(np.int64), (at - at.astype(np.int64))[..., None]) for at in places)
    t = _window_table()
    return ((1 - p) * ((1 - q) * t[i, j] + q * t[i, j + 1])
            + p * ((1 - q) * t[i + 1, j] + q * t[i + 1, j + 1]))


def cell_window(ell: np.ndarray, side: float) -> np.ndarray:
    """Fourier transform (n,) of a square cell of weight one, its mean over directions."""
    angle, x = (np.arange(16) + 0.5) * np.pi / 32.0, ell[:, None] * side / (2.0 * np.pi)
    return np.mean(np.sinc(x * np.cos(angle)) * np.sinc(x * np.sin(angle)), axis=1)


class HaloSpectrum:
    """C_ell of maps with halos in a cosmology, as a function of the nuisances.

    ell, pixel: (n,) multipoles, ascending; side of the map's pixels, radian: a cell has two
    One-halo terms are those of a Poisson process (Cooray & Sheth 2002, Phys. Rep. 372, eq. 89),
    two-halo terms those of log-normal densities in cells: of all pairs of halos, and of the smooth
    part. All are polynomials in log10 T_AGN and f_0; Delta_z enters by the lensing.
    """

    def __init__(self, halos: Halos, ell: np.ndarray, pixel: float):
        self.halos, self.ell = halos, ell
        self.sparse = np.append(ell[:-1:2], ell[-1])      # with a cubic spline between
        self.nodes = chebyshev_nodes(*T_AGN_RANGE, N_T), chebyshev_nodes(*F_0_RANGE, N_F)
        self.one = np.empty((2, N_T, N_F, SLICES * PARTS, len(self.sparse)))    # heavy, light
        self.two = np.empty((N_T, N_F, ORDERS, *self.one.shape[3:]))
        self.even, cell = np.empty(self.two.shape[:-1]), cell_window(self.sparse, 2.0 * pixel)
        for t, log10_t_agn in enumerate(self.nodes[0]):
            c = halos.concentration * halos.feedback(log10_t_agn, 0.0)[1]
            u = windows(self.sparse * halos.angle[..., None], c[..., None])
            u = np.ascontiguousarray(np.moveaxis(u, -1, 0))
            for f, f_0 in enumerate(self.nodes[1]):
                self._fill((t, f), halos.feedback(log10_t_agn, f_0), u, cell)
        # beyond the multipoles of cells halos, even over each, repeat what they have within
        highest = halos.ell[-1]
        image = np.abs((self.sparse + highest) % (2.0 * highest) - highest)
        ln_image, ln_ell = np.log(np.maximum(image, halos.ell[0])), np.log(halos.ell)
        self.correlations = np.array([[np.interp(ln_image, ln_ell, p) / factorial(m + 1)
                                       for m, p in enumerate(powers)] for powers in halos.powers])

    def _fill(self, at, feedback, u, cell):
        """Terms where lensing() is one, at two nodes; u: mean of the window and of its square."""
        halos, (extended, _, stars) = self.halos, feedback
        h, mean = halos.heavy, halos.number * halos.area
        for part, out in zip((h, halos.light), self.one):
            e, point = extended[:, part], stars[:, part]
            w = (mean * halos.area)[:, part]
            out[at] = (np.einsum("km,kml->kl", w * e * e, u[1][:, part])
                       + 2.0 * np.einsum("km,kml->kl", w * e * point, u[0][:, part])
                       + (w * point**2).sum(1)[:, None])
        order = np.arange(1, ORDERS + 1)[:, None]
        weight = halos.bias**order[..., None] * mean[:, h]        # (order, distance, mass)
        painted = np.einsum("okm,kml->okl", weight * extended[:, h], u[0][:, h], optimize=True)
        painted += (weight * stars[:, h]).sum(-1)[..., None]
        lost = (weight * (1.0 - extended - stars)[:, h]).sum(-1)
        smooth = halos.depth * halos.smooth * halos.smooth_bias**order
        self.two[at], self.even[at] = cell * painted, lost + smooth

    def __call__(self, log10_t_agn: np.ndarray, f_0: np.ndarray,
                 delta_z: np.ndarray) -> list[np.ndarray]:
        """Spectra of painted halos, of them with the smooth part, of it, and of light halos.

        Each (n, ell), steradian; the whole is the first, twice the second, and the others.
        """
        weights = [lagrange_weights(nodes, x) for nodes, x in zip(self.nodes, (log10_t_agn, f_0))]
        both, q = np.einsum("na,nb->nab", *weights), self.halos.lensing(delta_z)
        heavy, light = (np.einsum("nab,abkl,nk->nl", both, one, q * q, optimize=True)
                        for one in self.one)
        two = np.einsum("nab,abokl,nk->nokl", both, self.two, q, optimize=True)
        two = two.reshape(len(q), ORDERS, SLICES, PARTS, -1).sum(3)
        even = np.einsum("nab,abok,nk->nok", both, self.even, q, optimize=True)
        even = np.broadcast_to(even.reshape(len(q), ORDERS, SLICES, PARTS, 1).sum(3), two.shape)
        painted, cross, smooth = (np.einsum("nosl,nosl,sol->nl", a, b, self.correlations)
                                  for a, b in ((two, two), (two, even), (even, even)))
        known = np.log(np.maximum([heavy + painted, cross, smooth, light], 1e-30))
        out = np.exp(CubicSpline(np.log(self.sparse), known, axis=2)(np.log(self.ell)))
        out[1:3, :, self.ell > self.halos.ell[-1]] = 0.0       # of waves that cells do not hold
        return list(out)
