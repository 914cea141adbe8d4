"""Quadrature points in a triangulated design."""
import numpy as np
from scipy.special import roots_jacobi, roots_legendre


def triangle_rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss quadrature on a triangle by a collapsed square (Duffy 1982; Stroud 1971).

    order: int, points per side, so order^2 in all, exact for polynomials of degree 2 order - 1.
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


def quadrature_points(theta: np.ndarray, triangles: np.ndarray,
                      order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quadrature points of a whole triangulation.

    theta: (n, 2) float64, the corners.
    triangles: (t, 3) int, rows of theta.
    order: int, points per side of a triangle.
    Returns points (t, order^2, 2), weights (t, order^2) that sum to the hull's area, and
    barycentric weights (order^2, 3), all float64.
    """
    corners, weight = triangle_rule(order)
    points = np.einsum("pc,tck->tpk", corners, theta[triangles])
    return points, triangle_areas(theta, triangles)[:, None] * weight, corners


def triangle_areas(theta: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Areas of triangles.

    theta: (n, 2) float64, the corners.
    triangles: (t, 3) int, rows of theta.
    Returns (t,) float64.
    """
    first = theta[triangles[:, 0]]
    a, b = theta[triangles[:, 1]] - first, theta[triangles[:, 2]] - first
    return 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
