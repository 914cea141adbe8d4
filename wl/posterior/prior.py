"""Densities over the design's hull: flat, the one that its points follow, or a user's file."""
import os
import pathlib

import numpy as np
from scipy.spatial import Delaunay, QhullError

from ..core.checks import InputError, array
from .triangles import quadrature_points

BANDWIDTH = 1.5        # of the kernels, times n^(-1/6) of the design's sd (Scott 1992)
EDGE_ORDER = 6         # quadrature order of a kernel's mass inside the hull
MAX_LOG_RATIO = 1e6    # of two densities that is still a prior and not a slip


def normalise(log_density: np.ndarray, theta: np.ndarray, triangles: np.ndarray,
              order: int = 12) -> np.ndarray:
    """Shift log densities at the design's points so that the interpolated density integrates to
    one.

    log_density: (n,) float64, linear inside each triangle.
    theta: (n, 2) float64, the design.
    triangles: (t, 3) int, rows of theta.
    order: int, of the quadrature.
    Returns (n,) float64.
    """
    _, weight, corners = quadrature_points(theta, triangles, order)
    inside = log_density[triangles] @ corners.T
    highest = inside.max()
    return log_density - (highest + np.log((weight * np.exp(inside - highest)).sum()))


def design_log_density(theta: np.ndarray, triangles: np.ndarray | None = None,
                       bandwidth: float = BANDWIDTH) -> np.ndarray:
    """Logarithm of the density that the design's points follow, at these points.

    Gaussian kernels with the covariance of the design, widened where points are sparse by the
    inverse root of a first estimate (Abramson 1982), each divided by its mass inside the hull so
    that nothing leaks out at the edge.
    theta: (n, 2) float64, the design.
    triangles: (t, 3) int, rows of theta; None: Delaunay's.
    bandwidth: float, in units of n^(-1/6) of the design's sd.
    Returns (n,) float64, normalised over the hull.

    Chosen by what generalises. Challenge score of 101 x 200 synthetic maps on the real design, each
    with the prior made without its own cosmology: flat 11.88, Delaunay field estimator 11.82, fixed
    kernels with this bandwidth 11.92, this 11.96; with their cosmologies inside the hull 12.33,
    12.36, 12.62 and 12.67. Mean ln density of fresh points of a known density (12 designs of 101
    Sobol points): 2.23, 2.50, 2.52 and 2.54.
    """
    if triangles is None:
        triangles = Delaunay(theta).simplices
    points, weight, _ = quadrature_points(theta, triangles, EDGE_ORDER)
    factor = np.linalg.inv(np.linalg.cholesky(np.cov(theta.T)))
    centre, points = theta @ factor.T, points.reshape(-1, 2) @ factor.T
    square = ((centre[:, None] - centre) ** 2).sum(axis=2)
    width = np.full(len(theta), bandwidth * len(theta) ** (-1 / 6))
    for sharpen in (True, False):
        mass = _masses(centre, width, points, weight.ravel())
        density = (np.exp(-0.5 * square / width**2) / mass).mean(axis=1)
        if sharpen:
            width = width * np.sqrt(np.exp(np.log(density).mean()) / density)
    return normalise(np.log(density), theta, triangles)


def _masses(centre, width, points, weight, block=1 << 21):
    """Integral of each kernel (n,) over points (m, 2) with quadrature weights (m,).

    block: numbers at a time.
    """
    mass, step = np.empty(len(centre)), max(block // len(points), 1)
    for first in range(0, len(centre), step):     # all at once takes 0.42 GB for 500 cosmologies
        part = slice(first, first + step)
        square = ((points[:, None] - centre[part]) ** 2).sum(axis=2)
        mass[part] = weight @ np.exp(-0.5 * square / width[part]**2)
    return mass


def log_prior(prior: str | np.ndarray, theta: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The log-prior at the design's points; linear inside each triangle, normalised over the hull.

    prior: "flat", "design", or an array (n,) of log densities at the design's points.
    theta: (n, 2) float64, the design.
    triangles: (t, 3) int, rows of theta.
    Returns (n,) float64. Raises InputError for any other prior.
    """
    if isinstance(prior, str):
        if prior == "flat":
            return normalise(np.zeros(len(theta)), theta, triangles)
        if prior == "design":
            return design_log_density(theta, triangles)
        raise InputError(f"prior: expected flat or design, got {prior!r}")
    values = np.asarray(prior, dtype=np.float64)
    if values.shape != (len(theta),) or not np.isfinite(values).all():
        raise InputError(f"prior: expected {len(theta)} finite log densities, one for each "
                         f"cosmology, got shape {values.shape}")
    return normalise(values, theta, triangles)


def read_prior(path: str | os.PathLike, theta: np.ndarray) -> tuple[np.ndarray, float]:
    """A user's own prior at the design's points.

    The emulator interpolates ln density linearly between the cosmologies, so that features finer
    than their distances are lost.
    path: .npy, or text (blanks or commas, # comments), with one of
     - n numbers, the ln density at each cosmology of the design, in its order;
     - rows of Omega_m, S_8, density: any three or more points that span the design, a grid say,
     with
       densities above zero in any normalisation. ln density is interpolated linearly between them.
    theta: (n, 2) float64, the design.
    Returns log densities (n,), not normalised, and how much is lost: the density-weighted rms of
    the difference in ln density at the file's points in the hull (0 for the first form).
    Raises InputError.
    """
    path = pathlib.Path(path)
    name = f"--prior {path}"
    table = _read_table(path, name)
    if table.ndim < 2 or table.shape[1] == 1:
        values = array(name, table.ravel(), (len(theta),), ("f", "i"), advice="give one ln density "
                       "for each cosmology, or rows of Omega_m, S_8, density")
        values = np.asarray(values, dtype=np.float64)
        if values.max() > values.min() + MAX_LOG_RATIO:
            raise InputError(f"{name}: expected ln densities within {MAX_LOG_RATIO:g} of each "
                             f"other, got {values.min():g} to {values.max():g}; check the file")
        return values, 0.0
    table = array(name, table, (None, 3), ("f", "i"), advice="give rows of Omega_m, S_8, density")
    table = np.asarray(table, float)
    if (table[:, 2] <= 0.0).any():
        raise InputError(f"{name}: expected densities above 0, got {table[:, 2].min():g} in row "
                         f"{int(table[:, 2].argmin())}; give a small one where the prior excludes")
    return _at_design(table[:, :2], np.log(table[:, 2]), theta, name)


def _read_table(path, name):
    """The numbers of a .npy or text file; name: for messages."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text()
        if not text.strip():
            raise ValueError("it is empty")
        return np.loadtxt(text.splitlines(), delimiter="," if "," in text else None, ndmin=1)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); give design, flat "
                         "or a file") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{name}: is not a table of numbers ({error}); see the README for the "
                         "format") from None


def _at_design(points, log_density, theta, name):
    """ln densities at points (m, 2), interpolated to the design; returns as read_prior()."""
    from scipy.interpolate import LinearNDInterpolator      # 0.1 s that only this needs
    try:
        values = LinearNDInterpolator(points, log_density)(theta)
    except (QhullError, ValueError):
        raise InputError(f"{name}: expected points that span an area, got {len(points)} on one "
                         "line") from None
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise InputError(f"{name}: expected points all around the design, cosmology {bad[0]} at "
                         f"{theta[bad[0]]} is outside of them ({bad.size} such); extend the table")
    difference = LinearNDInterpolator(theta, values)(points) - log_density
    inside = np.isfinite(difference)
    if not inside.any():
        return values, 0.0
    weight = np.exp(log_density[inside] - log_density[inside].max())
    # the normalisation is free
    difference = difference[inside] - weight @ difference[inside] / weight.sum()
    return values, float(np.sqrt(weight @ difference**2 / weight.sum()))
