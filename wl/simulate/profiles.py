"""Projected NFW halos, cut at their radius R: averaged over pixels, and in Fourier space."""
import functools

import numpy as np

from .baryons import nfw_window
from ..kernels.halos import Profiles

PER_PIXEL = 16           # radial steps of the profiles in a pixel
SIZES = np.geomspace(0.12, 48.0, 33)       # radii R in pixels; a smaller halo is a point
SHAPES = np.geomspace(0.5, 60.0, 33)       # concentrations
CORNER = np.sqrt(0.5)    # from a pixel's centre to its corner

_NODE, _WEIGHT = np.polynomial.legendre.leggauss(64)
_NODE, _WEIGHT = 0.5 * (_NODE + 1.0), 0.5 * _WEIGHT


def projected_mass(x: np.ndarray, c: float) -> np.ndarray:
    """Share of a halo's mass inside a cylinder of radius x R about its middle.

    x: (n,) 0 to 1.
    c: concentration.
    The integral over shells of what a shell has inside; the projected density in closed form is in
    Takada & Jain 2003, MNRAS 340, 580, eq. 27.
    """
    # r^2 = x^2 + (1 - x^2) t^2 makes the integrand smooth, t = s^2 thickens the nodes in the core
    t, weight = _NODE**2, 2.0 * _NODE * _WEIGHT
    rest = (1.0 - x * x)[:, None]
    r = np.maximum(np.sqrt(x[:, None]**2 + rest * t * t), 1e-12)
    outside = np.sum(weight * rest**1.5 * t * t / (r * (r + 1.0 / c)**2), axis=1)
    return 1.0 - outside / (np.log1p(c) - c / (1.0 + c))


def pixel_share(r: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of a ring's mass in a pixel, the mean over the pixel's orientations.

    r: distance of the pixel's centre from the ring's, in pixels.
    y: radius of the ring, in pixels; broadcasts against r.
    A circle of radius d about a pixel's centre is inside up to d = 1/2, then the part
    1 - 4/pi arccos(1/(2d)) of it, and nothing beyond the corners.
    """
    r, y = np.broadcast_arrays(np.asarray(r, float), np.asarray(y, float))
    # the ring's points up to the angle at which it leaves the circle through the corners
    cosine = (r * r + y * y - CORNER**2) / np.maximum(2.0 * r * y, 1e-9)
    widest = np.arccos(np.clip(cosine, -1.0, 1.0))
    angle = widest[..., None] * _NODE
    d2 = r[..., None]**2 + y[..., None]**2 - 2.0 * (r * y)[..., None] * np.cos(angle)
    d = np.sqrt(np.maximum(d2, 1e-12))
    share = np.where(d <= 0.5, 1.0, 1.0 - 4.0 / np.pi * np.arccos(np.minimum(0.5 / d, 1.0)))
    share[d > CORNER] = 0.0
    return widest / np.pi * np.sum(_WEIGHT * share, axis=-1)


@functools.cache
def profiles() -> Profiles:
    """The table of pixel-averaged profiles that painting reads: 0.05 s, once a process."""
    band = int(np.ceil(CORNER * PER_PIXEL)) + 1
    reach = SIZES + CORNER
    width = np.ceil(reach * PER_PIXEL).astype(np.int64) + 2
    first = np.concatenate([[0], np.cumsum(width * len(SHAPES))])
    radius = np.arange(width[-1])[:, None]
    ring = radius + np.arange(-band, band)             # the rings that a pixel at a radius meets
    share = pixel_share(radius / PER_PIXEL, np.maximum(ring + 0.5, 0.5) / PER_PIXEL)
    share = np.where(ring >= 0, share, 0.0)
    x = np.linspace(0.0, 1.0, 400)                     # its square: more points in the core
    inside = np.array([projected_mass(x * x, c) for c in SHAPES])
    value = np.empty(first[-1], np.float32)
    for i, size in enumerate(SIZES):
        edge = np.minimum(np.arange(width[i] + 2 * band) / (PER_PIXEL * size), 1.0)
        mass = np.diff([np.interp(np.sqrt(edge), x, row) for row in inside], axis=1)
        rows = np.einsum("rk,srk->sr", share[:width[i]], mass[:, np.maximum(ring[:width[i]], 0)])
        value[first[i]:first[i + 1]] = rows.ravel()
    return Profiles(first, reach, value, len(SHAPES), float(PER_PIXEL))


def size_place(radius: np.ndarray) -> np.ndarray:
    """Place among the SIZES of a radius in pixels, a fraction of the way between two."""
    return np.log(radius / SIZES[0]) / np.log(SIZES[1] / SIZES[0])


def shape_place(c: np.ndarray) -> np.ndarray:
    """Place among the SHAPES of a concentration, a fraction of the way between two."""
    return np.log(c / SHAPES[0]) / np.log(SHAPES[1] / SHAPES[0])


class Windows:
    """Fourier transform of halos of mass one, and its square, averaged over their concentrations.

    scatter: standard deviation of ln c.
    """

    LN_X = np.linspace(np.log(1e-3), np.log(300.0), 180)       # x = ell R/chi
    LN_C = np.linspace(np.log(0.4), np.log(60.0), 40)

    def __init__(self, scatter: float):
        node, weight = np.polynomial.hermite_e.hermegauss(5)
        weight = weight / weight.sum()
        x = np.exp(self.LN_X)[:, None, None]
        c = np.exp(self.LN_C[:, None] + scatter * node)
        u = nfw_window(x / c, c)
        self.table = np.stack([u @ weight, (u * u) @ weight], axis=-1)        # (x, c, 2)

    def __call__(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Mean and mean square of the window, (..., 2), by bilinear interpolation.

        x: ell R/chi.
        c: median concentration; broadcasts against x.
        """
        x, c = np.broadcast_arrays(np.log(x), np.log(c))
        (i, p), (j, q), t = self._cell(x, self.LN_X), self._cell(c, self.LN_C), self.table
        return ((1 - p) * ((1 - q) * t[i, j] + q * t[i, j + 1])
                + p * ((1 - q) * t[i + 1, j] + q * t[i + 1, j + 1]))

    @staticmethod
    def _cell(value, nodes):
        place = np.clip((value - nodes[0]) / (nodes[1] - nodes[0]), 0.0, len(nodes) - 1.001)
        first = place.astype(np.int64)
        return first, (place - first)[..., None]
