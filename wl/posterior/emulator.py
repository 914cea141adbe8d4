"""Mean and covariance of a summary, and the prior, at any cosmology inside the design's hull.

    emulator = build(theta, mean, covariance, prior="design")
    mean, covariance, inside = emulator.interpolate(np.array([[0.3, 0.8]]))
"""
import numpy as np

from ..core import checks
from ..core.checks import InputError
from ..kernels import likelihood, triangles as kernels
from .prior import log_prior

GRID = 256             # cells of the look-up grid along each parameter, without the margin


class Emulator:
    """A piecewise linear emulator as flat arrays; made by build().

    The design is triangulated in Omega_m and S_8 as they are. Rotations and other scales of the two
    gain
    nothing: leaving out one of the 89 inner cosmologies, its mean is predicted to 0.034 standard
    deviations of a network's prediction (d = 2) and 0.044 of a 10-bin spectrum; the best of 30
    rotations, scales and logarithms gave 0.030 and 0.042, each another one.

    theta: (n, 2) float64, Omega_m and S_8 of the design.
    triangles: (t, 3) int32, corners.
    neighbours: (t, 3) int32, -1 at the hull.
    mean: (n, d) float64, of the summary at the design's points.
    covariance: (n, d, d) float64.
    vertex_log_prior: (n,) float64.
    d: int, dimension of the summary.
    limits: (2, 2) float64, lowest and highest theta.
    triangulation: kernels.triangles.Triangulation, what the kernels take.
    """

    def __init__(self, theta: np.ndarray, triangles: np.ndarray, neighbours: np.ndarray,
                 mean: np.ndarray, covariance: np.ndarray, vertex_log_prior: np.ndarray):
        self.theta, self.triangles, self.neighbours = theta, triangles, neighbours
        self.mean, self.covariance = mean, covariance
        self.vertex_log_prior = vertex_log_prior
        self.d = mean.shape[1]
        self.limits = np.stack([theta.min(axis=0), theta.max(axis=0)])
        coefficient = _coefficients(theta, triangles, vertex_log_prior, mean, covariance)
        step = (self.limits[1] - self.limits[0]) / GRID
        box = np.concatenate([self.limits[0] - 1.5 * step, 1.0 / step])
        grid = kernels.build_grid(coefficient, neighbours, GRID + 3, GRID + 3, box)
        self.triangulation = kernels.Triangulation(coefficient, neighbours, grid, box)

    def contains(self, theta: np.ndarray) -> np.ndarray:
        """Whether points theta (m, 2) lie in the hull. Returns (m,) bool."""
        return kernels.find_all(_points(theta), self.triangulation) >= 0

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        """ln of the prior density at theta (m, 2), -inf outside the hull. Returns (m,) float64."""
        values = self._values(_points(theta))[0][:, 0]
        return np.where(np.isnan(values), -np.inf, values)

    def interpolate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and covariance of the summary at points.

        Equal to scipy.interpolate.LinearNDInterpolator on the same design.
        theta: (m, 2) float64.
        Returns mean (m, d) and covariance (m, d, d) float64, NaN outside the hull, and inside (m,)
        bool.
        """
        theta = _points(theta)
        values, triangle = self._values(theta)
        rows, columns = np.tril_indices(self.d)
        covariance = np.empty((len(theta), self.d, self.d))
        covariance[:, rows, columns] = covariance[:, columns, rows] = values[:, 1 + self.d:]
        return values[:, 1:1 + self.d], covariance, triangle >= 0

    def log_likelihood(self, theta: np.ndarray, summary: np.ndarray) -> np.ndarray:
        """ln of the Gaussian likelihood of summaries at cosmologies, all constants included.

        theta: (m, 2) float64.
        summary: (k, d) float64.
        Returns (k, m) float64, -inf outside the hull.
        """
        log_density, prior = self.log_posterior(theta, summary), self.log_prior(theta)
        inside = np.isfinite(prior)
        return np.where(inside, log_density - np.where(inside, prior, 0.0), -np.inf)

    def log_posterior(self, theta: np.ndarray, summary: np.ndarray) -> np.ndarray:
        """log_likelihood + log_prior, up to the evidence. Shapes as log_likelihood."""
        summary = summaries(summary, self.d)
        theta = _points(theta)
        triangle = kernels.find_all(theta, self.triangulation)
        return (likelihood.log_density_all(theta, triangle, self.triangulation.coefficient, summary)
                + self.log_constant)

    @property
    def log_constant(self) -> float:
        """ln of the likelihood's factor that depends on neither parameters nor summary."""
        return -0.5 * self.d * np.log(2.0 * np.pi)

    def _values(self, theta):
        """All quantities at points, and the triangles that hold these."""
        triangle = kernels.find_all(theta, self.triangulation)
        return kernels.interpolate(theta, triangle, self.triangulation.coefficient), triangle


def build(theta: np.ndarray, mean: np.ndarray, covariance: np.ndarray,
          prior: str | np.ndarray = "design") -> Emulator:
    """Triangulate a design and make the emulator of a summary on it.

    theta: (n, 2) float64, Omega_m and S_8.
    mean: (n, d) float64.
    covariance: (n, d, d) float64, symmetric positive definite.
    prior: "design" the density that the design's points follow, "flat" constant in the hull, or
        (n,) log densities at the design's points.
    Returns an Emulator.
    Raises InputError: fewer than 3 cosmologies, all on one line or two of them equal; a covariance
    that is not positive definite (with the cosmology's index and parameters).
    """
    theta = checks.array("design", np.array(theta, dtype=np.float64), (None, 2))
    n = len(theta)
    mean = checks.array("emulator mean", np.array(mean, dtype=np.float64), (n, None))
    d = mean.shape[1]
    covariance = np.array(covariance, dtype=np.float64)
    covariance = checks.array("emulator covariance", covariance, (n, d, d))
    _check_covariances(theta, covariance)
    triangles, neighbours = checks.triangulate("design", theta)
    return Emulator(theta, triangles, neighbours, mean, covariance,
                    log_prior(prior, theta, triangles))


def summaries(value: np.ndarray, d: int) -> np.ndarray:
    """Summaries checked for the kernels: finite, (k, d), contiguous float64. Raises InputError."""
    value = np.asarray(value)
    if value.dtype.kind not in "fiu":
        raise InputError(f"summary: expected numbers, got dtype {value.dtype}")
    value = checks.array("summary", value, (None, d),
                         advice="give one row of summaries for each map")
    return np.ascontiguousarray(value, dtype=np.float64)


def _points(theta):
    theta = np.ascontiguousarray(theta, dtype=np.float64)
    if theta.ndim != 2 or theta.shape[1] != 2:
        raise InputError(f"theta: expected shape (any, 2), got {theta.shape}")
    return theta


def _check_covariances(theta, covariance):
    scale = np.sqrt(np.abs(np.einsum("nii->ni", covariance)))
    scale = np.where(scale > 0.0, scale, 1.0)
    unit = covariance / (scale[:, :, None] * scale[:, None, :])     # so that units do not matter
    if not np.allclose(unit, unit.transpose(0, 2, 1), rtol=0.0, atol=1e-9):
        bad = int(np.argmax(np.abs(unit - unit.transpose(0, 2, 1)).max(axis=(1, 2))))
        raise InputError(f"emulator covariance: not symmetric at {checks.name_of(theta, bad)}")
    lowest = np.linalg.eigvalsh(unit)[:, 0]
    bad = np.flatnonzero((lowest < 1e-12) | (np.einsum("nii->ni", covariance) <= 0.0).any(axis=1))
    if bad.size:
        raise InputError(
            f"emulator covariance: not positive definite at {checks.name_of(theta, bad[0])}"
            + (f" and {bad.size - 1} more" if bad.size > 1 else "")
            + f", lowest eigenvalue of the correlation {lowest[bad[0]]:.3g}; use more realisations "
            "for each cosmology or fewer summaries")


def _coefficients(theta, triangles, prior, mean, covariance):
    """The rows of kernels/triangles.py for every triangle."""
    rows, columns = np.tril_indices(mean.shape[1])
    value = np.concatenate([prior[:, None], mean, covariance[:, rows, columns]], axis=1)
    corner = theta[triangles]
    edge = np.stack([corner[:, 0] - corner[:, 2], corner[:, 1] - corner[:, 2]], axis=2)
    at = value[triangles]
    return np.ascontiguousarray(np.concatenate(
        [corner[:, 2], np.linalg.inv(edge).reshape(-1, 4),
         at[:, 2], at[:, 0] - at[:, 2], at[:, 1] - at[:, 2]], axis=1))
