"""The design of cosmologies as triangles: checked once, before any work."""
import numpy as np
from scipy.spatial import Delaunay, QhullError

from .checks import InputError
from .params import PARAMS

FLAT = 1e-9            # height of a triangle, in units of the design's sd, that counts as none


def triangulate(what: str, theta: np.ndarray) -> tuple:
    """Delaunay triangles of a design, those without area left out.

    A sheared regular grid has such triangles along its hull (32 of 600 natural grids): their matrix is
    singular, and nothing lies in them.
    what: str, the design's name in a message
    theta: (n, 2) float64, Omega_m and S_8
    Returns triangles (t, 3) int32, and neighbours (t, 3) int32, opposite to each corner, -1 at the hull.
    Raises InputError for fewer than 3 cosmologies, for equal ones, and for a design that spans no area.
    """
    if len(theta) < 3:
        raise InputError(f"{what}: expected at least 3 cosmologies that span Omega_m and S_8, got {len(theta)}; "
                         "add cosmologies")
    order = np.lexsort(theta.T)
    same = np.flatnonzero((np.diff(theta[order], axis=0) == 0.0).all(axis=1))
    if same.size:
        i, j = sorted(order[same[0]:same[0] + 2])
        raise InputError(f"{what}: expected different cosmologies, {name_of(theta, i)} and cosmology {j} are the "
                         "same; merge their realisations")
    on_line = InputError(f"{what}: expected cosmologies that span Omega_m and S_8, got {len(theta)} on one line; "
                         "add some off it")
    unit = (theta - theta.mean(0)) / np.maximum(theta.std(0), 1e-12)
    spread = np.linalg.svd(unit, compute_uv=False)
    if spread[1] < FLAT * spread[0]:
        raise on_line
    try:
        found = Delaunay(theta)
    except QhullError:
        raise on_line from None
    if found.coplanar.size:
        i, _, j = found.coplanar[0]
        raise InputError(f"{what}: {name_of(theta, i)} is too near to cosmology {j} to triangulate; merge them")
    return _with_area(what, unit, found)


def _with_area(what, unit, found):
    """Triangles and neighbours without the flat ones, which may lie on the hull alone."""
    corner = unit[found.simplices]
    side = corner - np.roll(corner, 1, axis=1)
    twice = np.abs(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0])
    flat = twice < FLAT * np.linalg.norm(side, axis=2).max(1)
    neighbours = found.neighbors.copy()
    on_hull = (neighbours < 0).any(1)
    while (flat & ~on_hull).any():                   # a flat triangle behind a flat one on the hull
        behind = flat & ~on_hull & np.isin(neighbours, np.flatnonzero(flat & on_hull)).any(1)
        if not behind.any():
            raise InputError(f"{what}: has triangles without area inside; move cosmologies off a line")
        on_hull |= behind
    number = np.where(flat, -1, np.cumsum(~flat) - 1)
    neighbours = np.where(neighbours < 0, -1, number[neighbours])
    return (np.ascontiguousarray(found.simplices[~flat], np.int32),
            np.ascontiguousarray(neighbours[~flat], np.int32))


def name_of(theta: np.ndarray, i: int) -> str:
    """A cosmology of the design as a message names it."""
    return f"cosmology {i} ({PARAMS[0]} = {theta[i, 0]:.6g}, {PARAMS[1]} = {theta[i, 1]:.6g})"
