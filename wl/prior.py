"""Densities over the hull of the design: flat, or the density that the design's points follow."""
import numpy as np
from scipy.spatial import Delaunay
from scipy.special import roots_jacobi, roots_legendre

from .checks import InputError

BANDWIDTHS = np.array([0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.85, 1.0])   # in units of the design's sd
EDGE_ORDER = 6         # quadrature order of a kernel's mass inside the hull


def triangle_rule(order):
    """Gauss quadrature on a triangle by a collapsed square (Duffy 1982; Stroud 1971).

    order: points per side, so order^2 in all, exact for polynomials of degree 2 order - 1.
    Returns barycentric weights (order^2, 3) float64 and quadrature weights (order^2,) that sum to
    one (times the triangle's area they integrate).
    """
    u, wu = roots_legendre(order)
    v, wv = roots_jacobi(order, 1.0, 0.0)
    u, v = 0.5 * (u + 1.0), 0.5 * (v + 1.0)
    c0 = np.repeat(v, order)
    c1 = np.tile(u, order) * (1.0 - c0)
    weight = np.repeat(wv, order) * np.tile(wu, order)
    return np.stack([c0, c1, 1.0 - c0 - c1], axis=1), weight / weight.sum()


def quadrature_points(theta, triangles, order):
    """Quadrature points of a whole triangulation.

    theta: (n, 2) float64; triangles: (t, 3) int. Returns points (t, order^2, 2), weights
    (t, order^2) that sum to the hull's area, and barycentric weights (order^2, 3).
    """
    corners, weight = triangle_rule(order)
    points = np.einsum("pc,tck->tpk", corners, theta[triangles])
    return points, triangle_areas(theta, triangles)[:, None] * weight, corners


def triangle_areas(theta, triangles):
    """Areas of triangles (t, 3) with corners theta (n, 2). Returns (t,) float64."""
    a, b = theta[triangles[:, 1]] - theta[triangles[:, 0]], theta[triangles[:, 2]] - theta[triangles[:, 0]]
    return 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def normalise(log_density, theta, triangles, order=12):
    """Shift log densities at the design's points so that the interpolated density integrates to one.

    log_density: (n,) float64, linear inside each triangle. Returns (n,) float64.
    """
    _, weight, corners = quadrature_points(theta, triangles, order)
    inside = log_density[triangles] @ corners.T
    highest = inside.max()
    return log_density - (highest + np.log((weight * np.exp(inside - highest)).sum()))


def design_log_density(theta, triangles=None, bandwidth=None):
    """Logarithm of the density that the design's points follow, at these points.

    A Gaussian kernel with the covariance of the design times bandwidth^2, each kernel divided by its
    mass inside the hull, so that nothing leaks out at the edge. bandwidth: None takes the one of
    BANDWIDTHS with the highest leave-one-out likelihood. theta: (n, 2) float64.
    Returns (n,) float64, normalised over the hull.
    """
    if triangles is None:
        triangles = Delaunay(theta).simplices
    kernels = _Kernels(theta, triangles)
    if bandwidth is None:
        bandwidth = BANDWIDTHS[np.argmax([kernels.leave_one_out(h).mean() for h in BANDWIDTHS])]
    return normalise(np.log(kernels.matrix(bandwidth).mean(axis=1)), theta, triangles)


class _Kernels:
    """Kernels on the points of a design, whitened by the design's covariance."""

    def __init__(self, theta, triangles):
        covariance = np.cov(theta.T)
        points, weight, _ = quadrature_points(theta, triangles, EDGE_ORDER)
        factor = np.linalg.inv(np.linalg.cholesky(covariance))
        centre, points = theta @ factor.T, points.reshape(-1, 2) @ factor.T
        self.square = ((centre[:, None] - centre) ** 2).sum(axis=2)
        self.points_square = ((points[:, None] - centre) ** 2).sum(axis=2)
        self.weight = weight.ravel()

    def matrix(self, bandwidth):
        """(n, n): kernel j at point i, divided by kernel j's mass inside the hull."""
        scale = -0.5 / bandwidth**2
        mass = self.weight @ np.exp(scale * self.points_square)
        return np.exp(scale * self.square) / mass

    def leave_one_out(self, bandwidth):
        """(n,) log density at each point from the others."""
        k = self.matrix(bandwidth)
        np.fill_diagonal(k, 0.0)
        return np.log(k.sum(axis=1) / (len(k) - 1) + 1e-300)


def log_prior(prior, theta, triangles):
    """The log-prior at the design's points; linear inside each triangle, normalised over the hull.

    prior: "flat", "design", or an array (n,) of log densities at the design's points.
    Raises InputError for anything else.
    """
    if isinstance(prior, str):
        if prior == "flat":
            return normalise(np.zeros(len(theta)), theta, triangles)
        if prior == "design":
            return design_log_density(theta, triangles)
        raise InputError(f"prior: expected flat or design, got {prior!r}")
    values = np.asarray(prior, dtype=np.float64)
    if values.shape != (len(theta),) or not np.isfinite(values).all():
        raise InputError(f"prior: expected {len(theta)} finite log densities, one for each cosmology, "
                         f"got shape {values.shape}")
    return normalise(values, theta, triangles)
