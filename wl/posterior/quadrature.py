"""Quadrature over a triangulated design: rules, points, and what the compiled loops take of an emulator."""
import numpy as np
from scipy.special import roots_jacobi, roots_legendre

from ..kernels import quadrature as kernels

LINES = 128            # of each marginal density
MOST = 32              # points per side of any triangle
BLOCK = 1024           # maps whose posteriors survey() holds at a time


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


class Tables:
    """What the compiled quadrature takes of one emulator: points in triangles and on lines.

    arrays: the first arguments of kernels.quadrature.quadrature(); centre: (2,) what its means are
    relative to.
    """

    def __init__(self, emulator, order):
        theta, at = emulator.theta, emulator.triangles
        side = sides(emulator, order)
        self.centre = theta.mean(axis=0)
        parts = []
        for n in np.unique(side):
            t = np.flatnonzero(side == n)
            points, weight, corners = quadrature_points(theta, at[t], n)
            parts.append((np.repeat(t, n * n), np.tile(corners, (len(t), 1)), weight.ravel(),
                          points.reshape(-1, 2) - self.centre))
        triangle, corners, weight, points = (np.concatenate(v) for v in zip(*parts))
        lines = [line_points(theta, at, axis, LINES, np.maximum(side - 2, 3)) for axis in range(2)]
        first = np.stack([lines[0][3], lines[1][3] + len(lines[0][0])])
        line_triangle, line_corners, line_weight = (np.concatenate(v) for v in list(zip(*lines))[:3])
        self.arrays = (np.ascontiguousarray(points.T), np.log(weight),
                       *whitened(emulator, triangle, corners, np.log(weight)),
                       *whitened(emulator, line_triangle, line_corners, np.log(line_weight)), first)


def sides(emulator, order):
    """Points per side that each triangle gets: `order` if its corners' summaries are 4 sigma apart.

    A posterior narrower than the triangle needs more: the side grows with the distance, from 0.7 order
    to MOST. Returns (t,) int.
    """
    at = emulator.triangles
    inverse = np.linalg.inv(emulator.covariance)
    distance = np.zeros(len(at))
    for i in range(3):
        step = emulator.mean[at[:, i]] - emulator.mean[at[:, i - 1]]
        for k in range(3):
            square = np.einsum("ta,tab,tb->t", step, inverse[at[:, k]], step)
            distance = np.maximum(distance, np.sqrt(square))
    return np.clip(np.ceil(order * np.maximum(0.7, 0.4 + 0.15 * distance)), 2, max(MOST, order)).astype(int)


def line_points(theta, triangles, axis, lines, order):
    """Gauss points along lines of constant parameter `axis`, the centres of equal cells of its range.

    theta: (n, 2) float64; triangles: (t, 3) int; order: (t,) int, points where a line crosses a
    triangle. Returns, sorted by line, triangle (m,) int, barycentric weights (m, 3), quadrature weights
    (m,) and where each line begins (lines + 1,) int64.
    """
    low, high = theta[:, axis].min(), theta[:, axis].max()
    at = low + (high - low) * (np.arange(lines) + 0.5) / lines
    place = theta[triangles]                                     # (t, 3, 2)
    sort = np.argsort(place[:, :, axis], axis=1)
    a = np.take_along_axis(place[:, :, axis], sort, axis=1)
    line, t = np.nonzero((a[:, 0] < at[:, None]) & (a[:, 2] > at[:, None]))
    a, sort, c = a[t], sort[t], at[line]
    row = np.arange(len(t))
    ends = np.zeros((2, len(t), 3))                              # where the line enters and leaves
    part = (c - a[:, 0]) / (a[:, 2] - a[:, 0])
    ends[0, row, sort[:, 0]], ends[0, row, sort[:, 2]] = 1.0 - part, part
    upper = (c >= a[:, 1]).astype(int)                           # the second end: edge 0-1 or edge 1-2
    part = (c - a[row, upper]) / (a[row, upper + 1] - a[row, upper])
    ends[1, row, sort[row, upper]], ends[1, row, sort[row, upper + 1]] = 1.0 - part, part
    length = np.abs(np.subtract(*np.einsum("enc,nc->en", ends, place[t, :, 1 - axis])))
    parts = []
    for n in np.unique(order[t]):
        k = np.flatnonzero(order[t] == n)
        u, w = roots_legendre(n)
        u, w = 0.5 * (u[:, None] + 1.0), 0.5 * w
        corners = (1.0 - u) * ends[0, k, None] + u * ends[1, k, None]
        parts.append((np.repeat(line[k], n), np.repeat(t[k], n), corners.reshape(-1, 3),
                      (length[k, None] * w).ravel()))
    line, t, corners, weight = (np.concatenate(v) for v in zip(*parts))
    sort = np.argsort(line, kind="stable")
    first = np.searchsorted(line[sort], np.arange(lines + 1)).astype(np.int64)
    return t[sort], corners[sort], np.maximum(weight[sort], 1e-300), first


def whitened(emulator, triangle, corners, log_weight):
    """Cholesky factors for the kernels at points given by triangle (m,) and barycentric weights (m, 3)."""
    at = emulator.triangles[triangle]
    mean = np.einsum("pc,pcd->pd", corners, emulator.mean[at])
    covariance = np.einsum("pc,pcde->pde", corners, emulator.covariance[at])
    log_prior = np.einsum("pc,pc->p", corners, emulator.vertex_log_prior[at])
    return kernels.whiten(mean, covariance, log_weight + log_prior)


def survey(emulator, estimate, per_edge=8):
    """A look at every posterior on the design's points, triangle centres and the hull's edge.

    per_edge: points evaluated along each hull edge. Returns best (n,) int, the cosmology of highest
    posterior; edge (n,) float64, ln of the highest density on the hull's edge relative to the highest
    anywhere: 0 for a posterior that climbs to the edge, below -3.1 if the edge is outside of the 95 %
    region; chi2 (n,) float64, of the summary at cosmology best (of a t-likelihood what takes its place).
    """
    theta, at = emulator.theta, emulator.triangles
    n, t = len(theta), len(at)
    on_hull = np.flatnonzero((emulator.neighbours < 0).any(axis=1))
    edges = [(i, k) for i in on_hull for k in range(3) if emulator.neighbours[i, k] < 0]
    part = np.arange(per_edge)[:, None] / per_edge
    along = [part * np.eye(3)[(k + 1) % 3] + (1.0 - part) * np.eye(3)[(k + 2) % 3] for _, k in edges]
    vertex = np.empty(n, int)
    corner = np.empty(n, int)
    for k in range(3):
        vertex[at[:, k]], corner[at[:, k]] = np.arange(t), k
    triangle = np.concatenate([vertex, np.arange(t), np.repeat([i for i, _ in edges], per_edge)])
    corners = np.concatenate([np.eye(3)[corner], np.full((t, 3), 1.0 / 3.0), *along])
    white, base = whitened(emulator, triangle, corners, np.zeros(len(triangle)))
    best, edge, chi2 = np.empty(len(estimate), int), np.empty(len(estimate)), np.empty(len(estimate))
    for first in range(0, len(estimate), BLOCK):
        part = slice(first, first + BLOCK)
        log_posterior = kernels.log_posteriors(white, base, estimate[part], emulator.count)
        best[part] = log_posterior[:, :n].argmax(axis=1)
        edge[part] = log_posterior[:, n + t:].max(axis=1) - log_posterior.max(axis=1)
        chi2[part] = 2.0 * (base[best[part]] - log_posterior[:, :n].max(axis=1))
    return best, edge, chi2
