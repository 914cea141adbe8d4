"""The spectrum that maps with halos have by construction, before they are held to the theory's.

    slices = Slices(Halos(theory), coarse)                    # density fields of the slices
    spectrum = HaloSpectrum(slices, grid.ell, grid.pixel)     # once per cosmology, 0.1 s
    whole, light = spectrum(log10_t_agn, f_0, delta_z)        # (n, ell) each, steradian
"""
from math import factorial

import numpy as np
import scipy.fft
from scipy.interpolate import CubicSpline

from .fields import Grid
from .halos import C_SCATTER, PARTS, SLICES, Halos
from .interpolate import chebyshev_nodes, lagrange_weights
from .matter import growth
from ..core.params import F_0_RANGE, T_AGN_RANGE
from .profiles import Windows

ORDERS = 5               # of xi_g in the log-normal correlations exp(b_1 b_2 xi_g) - 1
MOST_CLUSTERED = 1.2     # largest b sigma_g of halos in a cell: see Slices
LONGEST = ((0.42, 320.0), (np.inf, 704.0))   # up to a redshift, longest wave of the fields, Mpc/h
N_T, N_F = 5, 3          # Chebyshev nodes in log10 T_AGN and f_0


def cell_window(ell: np.ndarray, side: float) -> np.ndarray:
    """Fourier transform of a square cell of weight one, its mean over directions: (n,).

    ell: (n,).
    side: of the cell, radian.
    """
    angle = (np.arange(16) + 0.5) * np.pi / 32.0
    x = np.asarray(ell)[:, None] * side / (2.0 * np.pi)
    return np.mean(np.sinc(x * np.cos(angle)) * np.sinc(x * np.sin(angle)), axis=1)


class Slices:
    """Gaussian density fields g of the slices of a cosmology, on a periodic grid of cells.

    halos, coarse: the halos, and the grid of the cells.
    power: (slice, quarter cells) float32, spectra of g, steradian: linear theory.
    variance: (slice,) of g in a cell.
    ell, powers: (n,) and (slice, ORDERS, n), spectra of the powers of the correlation function.
    bias: (distance, heavy mass) of halos, in exp(b g).
    smooth, smooth_bias: (distance,) share of the mass that is not painted, and the bias that is
    left for it, so that the whole has the mean density and follows matter.

    Waves longer than LONGEST are not in g: the boxes of the challenge's real maps have none, and
    with them the scatter of log10 P between maps is up to a tenth larger from ell 400 to 1600. The
    bias is cut at MOST_CLUSTERED / sigma_g: exp(b g) would pile rare halos up in a cell, where they
    exclude one another. That number is fitted, to third moments of three real maps at 2 to 8
    arcmin: simulated over real, at 0, 2, 4, 8 arcmin, 0.82 1.10 1.06 0.89 (+- 0.08 0.18 0.25 0.32).
    """

    def __init__(self, halos: Halos, coarse: Grid):
        self.halos, self.coarse = halos, coarse
        self.ell = coarse.ell_y[1:]
        self.power = self._linear()
        self.variance = np.array([coarse.variance(power) for power in self.power])
        self.powers = np.array([self._powers(power) for power in self.power])
        most = MOST_CLUSTERED / np.sqrt(self.variance).repeat(PARTS)
        self.bias = np.minimum(halos.bias[:, halos.heavy], most[:, None])
        self.smooth = 1.0 - halos.share.sum(1)
        self.smooth_bias = (1.0 - (halos.share * self.bias).sum(1)) / self.smooth

    def _linear(self):
        """Spectra of the slices by Limber, weighted by the lensing at Delta_z = 0."""
        halos, theory = self.halos, self.halos.theory
        ell = np.hypot.outer(self.coarse.ell_y, self.coarse.ell_x).ravel()
        ell[0] = ell[1]
        step = np.linspace(np.log(ell.min()), np.log(ell.max()), 400)
        k = np.exp(step) / halos.chi[:, None]
        # a field of matter does not know of an error of the sources' redshifts
        weight = (halos.lensing(np.zeros(1))[0] * halos.depth).reshape(SLICES, PARTS)
        weight = (weight / weight.sum(1, keepdims=True)).ravel()
        weight = (weight * growth(halos.z, theory.omega_m) / halos.chi)**2 / halos.depth
        side = np.array([next(side for z, side in LONGEST if own < z) for own in halos.z])
        power = weight[:, None] * theory.linear_power(k) * (k > 2.0 * np.pi / side[:, None])
        power = power.reshape(SLICES, PARTS, -1).sum(1)
        out = np.array([np.interp(np.log(ell), step, p) for p in power], np.float32)
        out[:, 0] = 0.0
        return out

    def _powers(self, power):
        """Spectra of xi_g^m, m = 1 to ORDERS, along one axis: (ORDERS, n)."""
        quarter, area = self.coarse.quarter, self.coarse.pixel**2
        cells = self.coarse.rows * self.coarse.columns
        xi = scipy.fft.dctn(power.reshape(quarter).astype(float), type=1, workers=1)
        xi /= cells * area
        mirrored = np.full(quarter[1], 2.0)            # ell_x = 0 is a sum over all columns
        mirrored[[0, -1]] = 1.0
        out = [scipy.fft.dct(xi**m @ mirrored, type=1)[1:] * area for m in range(1, ORDERS + 1)]
        return np.maximum(out, 0.0)


class HaloSpectrum:
    """C_ell of maps with halos in a cosmology, as a function of the nuisances.

    slices: of the cosmology.
    ell: (n,) multipoles, ascending.
    pixel: side of a pixel of the map, radian; a cell has two.

    One-halo terms are those of a Poisson process (Cooray & Sheth 2002, Phys. Rep. 372, eq. 89),
    two-halo terms those of log-normal densities in cells: of all pairs of halos, and of the smooth
    part. All are polynomials in log10 T_AGN and f_0; Delta_z enters by the lensing.
    """

    EVERY = 2                # multipoles of the terms, with a cubic spline between

    def __init__(self, slices: Slices, ell: np.ndarray, pixel: float):
        self.slices, self.ell = slices, ell
        self.few = np.append(ell[:-1:self.EVERY], ell[-1])
        self.nodes = chebyshev_nodes(*T_AGN_RANGE, N_T), chebyshev_nodes(*F_0_RANGE, N_F)
        shape = (N_T, N_F, SLICES * PARTS, len(self.few))
        self.heavy, self.light = np.empty(shape), np.empty(shape)
        self.two = np.empty((N_T, N_F, ORDERS, *shape[2:]))
        windows, cell = Windows(C_SCATTER), cell_window(self.few, 2.0 * pixel)
        halos = slices.halos
        for t, log10_t_agn in enumerate(self.nodes[0]):
            c = halos.concentration * halos.feedback(log10_t_agn, 0.0)[1]
            u = windows(self.few * halos.angle[..., None], c[..., None])
            u = np.ascontiguousarray(np.moveaxis(u, -1, 0))
            for f, f_0 in enumerate(self.nodes[1]):
                self._fill((t, f), halos.feedback(log10_t_agn, f_0), u, cell)
        # beyond the multipoles of cells there are one-halo terms alone
        ln_few, ln_ell = np.log(self.few), np.log(slices.ell)
        self.correlations = np.array(
            [[np.interp(ln_few, ln_ell, power, right=0.0) / factorial(m + 1)
              for m, power in enumerate(powers)] for powers in slices.powers])

    def _fill(self, at, feedback, u, cell):
        """Terms where lensing() is one, at two nodes; u: mean of the window and of its square."""
        halos, slices, h = self.slices.halos, self.slices, self.slices.halos.heavy
        extended, _, stars = feedback
        mean = halos.number * halos.area
        for part, out in ((halos.light, self.light), (h, self.heavy)):
            e, point = extended[:, part], stars[:, part]
            w = (mean * halos.area)[:, part]
            out[at] = (np.einsum("km,kml->kl", w * e * e, u[1][:, part])
                       + 2.0 * np.einsum("km,kml->kl", w * e * point, u[0][:, part])
                       + (w * point**2).sum(1)[:, None])
        order = np.arange(1, ORDERS + 1)[:, None]
        weight = slices.bias**order[..., None] * mean[:, h]        # (order, distance, mass)
        painted = np.einsum("okm,kml->okl", weight * extended[:, h], u[0][:, h], optimize=True)
        painted += (weight * stars[:, h]).sum(-1)[..., None]
        lost = (weight * (1.0 - extended - stars)[:, h]).sum(-1)
        smooth = halos.depth * slices.smooth * slices.smooth_bias**order
        self.two[at] = cell * painted + (lost + smooth)[..., None]

    def __call__(self, log10_t_agn: np.ndarray, f_0: np.ndarray,
                 delta_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spectrum of the whole map, and of the light halos that are in it: (n, ell), steradian.

        log10_t_agn, f_0, delta_z: (n,) nuisances.
        """
        weights = [lagrange_weights(nodes, x) for nodes, x in zip(self.nodes, (log10_t_agn, f_0))]
        both = np.einsum("na,nb->nab", *weights)
        q = self.slices.halos.lensing(delta_z)
        light, heavy = (np.einsum("nab,abkl,nk->nl", both, one, q * q, optimize=True)
                        for one in (self.light, self.heavy))
        two = np.einsum("nab,abokl,nk->nokl", both, self.two, q, optimize=True)
        two = two.reshape(len(q), ORDERS, SLICES, PARTS, -1).sum(3)
        whole = heavy + light + np.einsum("nosl,sol->nl", two**2, self.correlations)
        return self._spread(whole), self._spread(light)

    def _spread(self, c):
        """From the few multipoles to all."""
        return np.exp(CubicSpline(np.log(self.few), np.log(c), axis=1)(np.log(self.ell)))
