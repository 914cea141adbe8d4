"""Where a point lies in the triangulation of the design, and barycentric interpolation there.

Every triangle has one row of `coefficient` (t, 6 + 3 k) float64: corner 2 (x, y), the matrix T
(row-major) that takes (point - corner 2) to the weights c0, c1 of corners 0 and 1, then for k
quantities their values v2 at corner 2, the differences v0 - v2, and the differences v1 - v2.
Quantities are the log-prior, the d means and the packed lower triangle of the covariance.
"""
from typing import NamedTuple

import numpy as np

from . import njit

TOLERANCE = 1e-12      # how negative a barycentric weight may be by rounding


class Triangulation(NamedTuple):
    """What the kernels take of an emulator.

    coefficient: (t, 6 + 3 k) float64, one row a triangle, see above.
    neighbours: (t, 3) int32, the triangle across the edge opposite to each corner, -1 at the hull.
    grid: (nx, ny) int32, the look-up grid. Codes: t >= 0 the whole cell lies in triangle t, -1 the
        whole cell is outside, -2 - t begin a walk at triangle t. The outermost cells are all -1, so
        that cell() may clamp.
    box: (4,) float64, corner (x, y) of the grid and its cells per unit in x and y.
    """
    coefficient: np.ndarray
    neighbours: np.ndarray
    grid: np.ndarray
    box: np.ndarray


class Cells(NamedTuple):
    """Equal cells of a box, by numbers alone.

    low_x, low_y: float64, its corner.
    per_x, per_y: float64, cells per unit.
    last_x, last_y: float64, index of the last cell.
    """
    low_x: float
    low_y: float
    per_x: float
    per_y: float
    last_x: float
    last_y: float


@njit(error_model="numpy", cache=True, forceinline=True)
def weights(x: float, y: float, coefficient: np.ndarray, t: int) -> tuple[float, float]:
    """Barycentric weights c0, c1 of (x, y) in triangle t; the third is 1 - c0 - c1."""
    u, v = x - coefficient[t, 0], y - coefficient[t, 1]
    return (coefficient[t, 2] * u + coefficient[t, 3] * v,
            coefficient[t, 4] * u + coefficient[t, 5] * v)


@njit(error_model="numpy", cache=True, forceinline=True)
def locate(x: float, y: float, coefficient: np.ndarray, neighbours: np.ndarray, t: int) -> int:
    """The triangle that holds (x, y), found by walking from triangle t; -1 outside the hull.

    The walk crosses the edge of the most negative weight. The hull is convex, so a point beyond a
    hull edge is outside; a walk that does not end (rounding) gives way to a search of all.
    coefficient, neighbours: of a Triangulation.
    """
    for _ in range(coefficient.shape[0]):
        c0, c1 = weights(x, y, coefficient, t)
        c2 = 1.0 - c0 - c1
        corner, low = 0, c0
        if c1 < low:
            corner, low = 1, c1
        if c2 < low:
            corner, low = 2, c2
        if low >= -TOLERANCE:
            return np.int64(t)
        across = np.int64(neighbours[t, corner])
        if across < 0:
            return np.int64(-1)
        t = across
    return search(x, y, coefficient)


@njit(error_model="numpy", cache=True)
def search(x: float, y: float, coefficient: np.ndarray) -> int:
    """The triangle that holds (x, y) by looking at all of them; -1 outside the hull."""
    best, best_low = np.int64(-1), -TOLERANCE
    for t in range(coefficient.shape[0]):
        c0, c1 = weights(x, y, coefficient, t)
        low = min(c0, c1, 1.0 - c0 - c1)
        if low >= best_low:
            best, best_low = np.int64(t), low
    return best


@njit(error_model="numpy", cache=True, forceinline=True)
def cells_of(grid: np.ndarray, box: np.ndarray) -> Cells:
    """The cells of a Triangulation's grid."""
    return Cells(box[0], box[1], box[2], box[3], grid.shape[0] - 1.0, grid.shape[1] - 1.0)


@njit(error_model="numpy", cache=True, forceinline=True)
def cell(x: float, y: float, cells: Cells) -> tuple[int, int]:
    """The cell that (x, y) lies in, the nearest one outside of the box."""
    u = min(max((x - cells.low_x) * cells.per_x, 0.0), cells.last_x)
    v = min(max((y - cells.low_y) * cells.per_y, 0.0), cells.last_y)
    return np.int64(u), np.int64(v)


@njit(error_model="numpy", cache=True, forceinline=True)
def find(x: float, y: float, triangulation: Triangulation) -> int:
    """The triangle that holds (x, y) by the look-up grid and, near edges, a walk; -1 outside."""
    i, j = cell(x, y, cells_of(triangulation.grid, triangulation.box))
    code = np.int64(triangulation.grid[i, j])
    if code >= -1:
        return code
    return locate(x, y, triangulation.coefficient, triangulation.neighbours, -2 - code)


@njit(error_model="numpy", cache=True)
def find_all(theta: np.ndarray, triangulation: Triangulation) -> np.ndarray:
    """find() for many points.

    theta: (m, 2) float64.
    Returns (m,) int64.
    """
    out = np.empty(theta.shape[0], np.int64)
    for i in range(theta.shape[0]):
        out[i] = find(theta[i, 0], theta[i, 1], triangulation)
    return out


@njit(error_model="numpy", cache=True, forceinline=True)
def interpolate_one(x: float, y: float, t: int, coefficient: np.ndarray, value: np.ndarray) -> None:
    """All quantities at (x, y) in triangle t, into value (k,) float64."""
    k = value.size
    c0, c1 = weights(x, y, coefficient, t)
    for q in range(k):
        value[q] = (coefficient[t, 6 + q] + c0 * coefficient[t, 6 + k + q]
                    + c1 * coefficient[t, 6 + 2 * k + q])


@njit(error_model="numpy", cache=True)
def interpolate(theta: np.ndarray, triangle: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """All quantities at points whose triangle is known.

    theta: (m, 2) float64.
    triangle: (m,) int64, -1 outside.
    coefficient: of a Triangulation.
    Returns (m, k) float64, NaN outside.
    """
    out = np.full((theta.shape[0], (coefficient.shape[1] - 6) // 3), np.nan)
    for i in range(theta.shape[0]):
        if triangle[i] >= 0:
            interpolate_one(theta[i, 0], theta[i, 1], triangle[i], coefficient, out[i])
    return out


@njit(error_model="numpy", cache=True)
def build_grid(coefficient: np.ndarray, neighbours: np.ndarray, nx: int, ny: int,
               box: np.ndarray) -> np.ndarray:
    """The look-up grid of a Triangulation; a cell is pure if its corners agree.

    Triangles are convex, so four corners in one triangle put the whole cell there. A cell is
    outside for certain if all four corners lie beyond one and the same hull edge.
    coefficient, neighbours, box: of the Triangulation that gets it.
    nx, ny: cells, the margin among them.
    Returns (nx, ny) int32.
    """
    corner = np.empty((nx + 1, ny + 1), np.int64)
    for i in range(nx + 1):
        t = np.int64(0)
        for j in range(ny + 1):
            found = locate(box[0] + i / box[2], box[1] + j / box[3], coefficient, neighbours, t)
            corner[i, j] = found
            t = max(found, np.int64(0))
    grid = np.full((nx, ny), -1, np.int32)
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            a, b, c, d = corner[i, j], corner[i + 1, j], corner[i, j + 1], corner[i + 1, j + 1]
            t = max(a, b, c, d)
            if t < 0 and _outside(i, j, coefficient, neighbours, box):
                continue
            if t >= 0 and a == b and a == c and a == d:
                grid[i, j] = t
            else:
                middle = locate(box[0] + (i + 0.5) / box[2], box[1] + (j + 0.5) / box[3],
                                coefficient, neighbours, max(t, np.int64(0)))
                grid[i, j] = -2 - max(middle if middle >= 0 else t, np.int64(0))
    return grid


@njit(error_model="numpy", cache=True)
def _outside(i, j, coefficient, neighbours, box):
    """Whether all four corners of cell (i, j) lie beyond one hull edge."""
    for t in range(coefficient.shape[0]):
        for k in range(3):
            if neighbours[t, k] >= 0:
                continue
            beyond = 0
            for a in range(2):
                for b in range(2):
                    c0, c1 = weights(box[0] + (i + a) / box[2], box[1] + (j + b) / box[3],
                                     coefficient, t)
                    low = c0 if k == 0 else c1 if k == 1 else 1.0 - c0 - c1
                    beyond += low < -TOLERANCE
            if beyond == 4:
                return True
    return False
