"""The lines at which a posterior has a given density, for pictures of its credible regions.

    chains = sampler.exact(emulator, estimate)
    for line in contour(emulator, estimate[0], chains.contour[0, 0], chains.log_evidence[0]):
        axes.plot(*line.T)
"""
import numpy as np

from .emulator import estimates
from ..kernels import quadrature as kernels
from .quadrature import whitened


def contour(emulator, estimate, level, log_evidence, resolution=8):
    """Pieces of the line where the ln of the posterior density of one map is `level`.

    estimate: (d,) its summary; level, log_evidence: of sampler.exact(), e.g. contour[i, 0] for the 68.3 %
    region; resolution: parts into which every edge of the design's triangles is cut. The density is evaluated
    at the corners of the parts, and linear between them. Returns (m, 2, 2) float64, the ends (Omega_m, S_8) of m
    straight pieces, in no order; where the region touches the hull it stays open.
    """
    wanted = estimates(np.asarray(estimate)[None], emulator.d)
    corners, parts = _lattice(resolution)
    n = len(emulator.triangles)
    triangle = np.repeat(np.arange(n), len(corners))
    everywhere = np.tile(corners, (n, 1))
    white, base = whitened(emulator, triangle, everywhere, np.zeros(len(triangle)))
    value = kernels.log_posteriors(white, base, wanted, emulator.count)[0]
    value = value + emulator.log_constant - log_evidence - level
    place = np.einsum("pc,tck->tpk", corners, emulator.theta[emulator.triangles])[:, parts].reshape(-1, 3, 2)
    value = value.reshape(n, -1)[:, parts].reshape(-1, 3)
    above = value > 0.0
    alone = np.where(above.sum(1) == 1, above.argmax(1), (~above).argmax(1))     # the corner on its own side
    cut = np.flatnonzero((above.sum(1) == 1) | (above.sum(1) == 2))
    i, ends = alone[cut], []
    for step in (1, 2):
        j = (i + step) % 3
        a, b = value[cut, i], value[cut, j]
        ends.append(place[cut, i] + (a / (a - b))[:, None] * (place[cut, j] - place[cut, i]))
    return np.stack(ends, axis=1)


def _lattice(n):
    """Barycentric corners (p, 3) of the n^2 equal parts of a triangle, and the parts (n^2, 3) int."""
    number = {(i, j): k for k, (i, j) in enumerate((i, j) for i in range(n + 1) for j in range(n + 1 - i))}
    corners = np.array([(i, j, n - i - j) for i, j in number]) / n
    up = [(number[i, j], number[i + 1, j], number[i, j + 1]) for i in range(n) for j in range(n - i)]
    down = [(number[i + 1, j + 1], number[i, j + 1], number[i + 1, j]) for i in range(n) for j in range(n - 1 - i)]
    return corners, np.array(up + down)
