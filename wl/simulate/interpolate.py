"""Polynomial interpolation on Chebyshev points: smooth functions of few variables from few values."""
import numpy as np


def chebyshev_nodes(low, high, n):
    """n Chebyshev points of the first kind between low and high, ascending: float64 (n,)."""
    return 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def interval_of(nodes):
    """The interval (low, high) whose chebyshev_nodes() these are."""
    half = 0.5 * (nodes[-1] - nodes[0]) / np.cos(0.5 * np.pi / len(nodes))
    middle = 0.5 * (nodes[-1] + nodes[0])
    return middle - half, middle + half


def lagrange_weights(nodes, x):
    """Weights w with f(x) = w @ f(nodes), exact for polynomials: float64 (m, n) for x (m,), nodes (n,)."""
    weight = np.ones((len(x), len(nodes)))
    for i, node in enumerate(nodes):
        for j, other in enumerate(nodes):
            if i != j:
                weight[:, i] *= (x - other) / (node - other)
    return weight


def cubic_weights(place, n):
    """Four-point Lagrange weights on an even grid.

    place: array, position in units of the grid step from its first point; n: points of the grid.
    Returns (first, weights): the first of the four points, and four arrays of the shape of place.
    """
    first = np.clip(place.astype(np.int64) - 1, 0, n - 4)
    u = place - first
    return first, (-(u - 1) * (u - 2) * (u - 3) / 6, u * (u - 2) * (u - 3) / 2,
                   -u * (u - 1) * (u - 3) / 2, u * (u - 1) * (u - 2) / 6)
