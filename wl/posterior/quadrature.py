"""The exact posterior of Omega_m and S_8 for many maps, by quadrature over triangles."""
import numpy as np
from scipy.special import roots_legendre

from ..core import checks, seeds
from ..core.params import LEVELS, REGIONS
from ..kernels import on_threads, quadrature as kernels
from .emulator import Emulator, quadrature_points, summaries, triangle_areas
from .posterior import Chains, spread

ORDER = 8              # of the quadrature
# orders for maps whose best chi2 on the design lies in a range: far out the posterior falls steeply
FINER = ((1, -np.inf, 40.0), (2, 40.0, 400.0), (4, 400.0, np.inf))
LINES = 128            # of each marginal density. A density of a hundredth of the design has
CELL = 0.3             # quantiles within 0.06 sd then, within 0.0034 sd on lines this many sd apart
EDGE = -5.0            # of Chains.edge: above it the hull cuts the density, which needs
MORE = 4               # times as many lines; so do those that are broad enough for it
MAX_NUMBERS = 5e7      # of (d, d) matrices at all points of these, 0.4 GB
NEAR = 16.0            # sd, rounded down to a power of two, beside a narrow posterior at least
MAX_SIDE, MAX_ALONG = 32, 128    # points per side of any triangle, and in it along a line near one
BLOCK = 1024           # maps whose posteriors survey() holds at a time
DRAW_CELLS = 4         # cells per side for each point of the quadrature, for draws
DRAW_BYTES = 1 << 27   # of the densities of cells held at a time
PER_EDGE = 8           # points that survey() looks at along each hull edge
MAX_LOOKS = 64         # maps that quadrature_error() infers again


def exact(emulator: Emulator, summary: np.ndarray, order: int = ORDER,
          lines: int | None = None) -> Chains:
    """The posterior of every map by Gauss quadrature in each triangle of the design.

    Mean, covariance and log-prior are linear in each: it converges exponentially with the order.
    emulator: Emulator; summary: (n, d) float64; order: int, points per side, see _sides().
    lines: int, of each marginal density at least; None for LINES.
    Returns Chains without acceptance, ess, rhat, tau, draws. Raises InputError for a wrong summary.
    """
    summary = summaries(summary, emulator.d)
    order, n = checks.positive("order", order, integer=True), len(summary)
    _, edge, chi2 = survey(emulator, summary)
    results = kernels.Output(*map(np.empty, ((n, 6), (n, 2, len(LEVELS)), (n, 2, len(REGIONS)))))
    lines = lines or LINES
    for factor, low, high in FINER:
        some = np.flatnonzero((chi2 >= low) & (chi2 < high))
        points = _integrate(emulator, summary, some, factor * order, lines, results)
        with np.errstate(divide="ignore", invalid="ignore"):
            sd = np.sqrt(results.moments[some, 2:4])
            need = (np.ptp(emulator.limits, axis=0) / (CELL * lines * sd)).max(axis=1)
        need = np.maximum(need, np.where(edge[some] > EDGE, 1.01, 0.0))
        more = (need > 1.0) & (need <= MORE) & (MORE * points * emulator.d**2 < MAX_NUMBERS)
        _integrate(emulator, summary, some[more], factor * order, MORE * lines, results)
        _narrow(emulator, summary, some[(need > 1.0) & (need < np.inf) & ~more], factor * order,
                CELL * LINES / lines, results)
    moments, quantiles, regions = results
    return Chains(moments[:, :2], *spread(moments[:, [[2, 4], [4, 3]]]),
                  *np.moveaxis(quantiles, 2, 0), edge=edge, contour=regions[:, :, 0],
                  area=regions[:, :, 1], log_evidence=moments[:, 5] + emulator.log_constant)


def _integrate(emulator, summary, some, order, lines, results):
    """Fill the rows `some` of a kernels.Output. Returns how many points lie on the lines."""
    if not some.size:
        return 0
    points, on_lines, centre = _tables(emulator, order, lines)
    levels, shares = np.array(list(LEVELS.values())), np.array(list(REGIONS.values()))
    found, these = kernels.Output(*(values[some] for values in results)), summary[some]
    on_threads(lambda part: kernels.quadrature(
        points, on_lines, these[part], levels, shares,
        kernels.Output(*(array[part] for array in found))), some.size)
    found.moments[:, :2] += centre
    for result, values in zip(results, found):
        result[some] = values
    return on_lines.base.size


def _narrow(emulator, summary, some, order, cell, results):
    """Quantiles of the rows `some` of results, on lines near each posterior, `cell` sd apart."""
    levels, sides = np.array(list(LEVELS.values())), _sides(emulator, order, MAX_ALONG)
    for axis in range(2):
        mean, sd = results.moments[some, axis], np.sqrt(results.moments[some, 2 + axis])
        # lines follow from a power of two and a multiple of it, so that no map sees its company
        unit = np.exp2(np.floor(np.log2(sd)))
        keys, group = np.unique([unit, np.floor(mean / (NEAR * unit))], axis=1, return_inverse=True)
        for k, (width, place) in enumerate(keys.T):
            span = np.clip(NEAR * width * np.array([place - 1.0, place + 2.0]),
                           *emulator.limits[:, axis])
            table = _line_points(emulator.theta, emulator.triangles, axis, span,
                                 int(np.ceil(np.ptp(span) / (cell * width))), sides)
            white, base = _whitened(emulator, *table[:2], np.log(table[2]))
            mine = some[group.ravel() == k]
            block = max(DRAW_BYTES // (8 * len(base)), 1)
            for first in range(0, len(mine), block):
                part = mine[first:first + block]
                for i, row in zip(part, _densities(white, base, summary[part])):
                    kernels.line_quantiles(np.exp(row - row.max()), table[3], span, levels,
                                           results.quantiles[i, axis])


def draw(emulator: Emulator, summary: np.ndarray, count: int, *, seed: int,
         map_index: np.ndarray) -> np.ndarray:
    """Independent draws of each map's posterior, (n, 1, count, 2) float64.

    A triangle of the design is cut into cells of equal area; a cell is drawn by its share of the
    posterior, and in it a point. Cells an eighth of a sd wide make the sd 0.1 % too large.
    emulator: Emulator; summary: (n, d) float64; count, seed: ints.
    map_index: (n,) int, which with the seed alone decides a map's random numbers.
    """
    summary = summaries(summary, emulator.d)
    side = DRAW_CELLS * _sides(emulator, ORDER)
    triangle = np.repeat(np.arange(len(side)), side**2)
    n, cell = side[triangle], np.concatenate([np.arange(k * k) for k in side])
    place = np.stack([cell // n, cell % n])
    area = triangle_areas(emulator.theta, emulator.triangles)[triangle] / n**2
    white, base = _whitened(emulator, triangle, _even((place + 0.5) / n), np.log(area))
    out, block = np.empty((len(summary), 1, count, 2)), max(DRAW_BYTES // (8 * len(base)), 1)
    for first in range(0, len(summary), block):
        for i, row in enumerate(_densities(white, base, summary[first:first + block]), first):
            rng = seeds.generator(seed, seeds.EXACT_DRAW, int(map_index[i]))
            upto = np.cumsum(np.exp(row - row.max()))
            at = np.searchsorted(upto, upto[-1] * (1.0 - rng.random(count)))
            corners = _even((place[:, at] + rng.random((2, count))) / n[at])
            out[i, 0] = np.einsum("mc,mck->mk", corners,
                                  emulator.theta[emulator.triangles[triangle[at]]])
    return out


def _densities(white, base, summary):
    out = np.empty((len(summary), len(base)))
    on_threads(lambda rows: kernels.log_posteriors(white, base, summary[rows], out[rows]),
               len(summary))
    return out


def _even(square):
    """Barycentric weights (m, 3) of a point (2, m) of the unit square, areas kept (Turk 1990)."""
    c0 = 1.0 - np.sqrt(1.0 - square[0])
    c1 = (1.0 - c0) * square[1]
    return np.stack([c0, c1, 1.0 - c0 - c1], axis=1)


def quadrature_error(emulator: Emulator, summary: np.ndarray,
                     orders: tuple = (6, ORDER)) -> np.ndarray:
    """How far exact() is from a finer quadrature: the largest differences, in sd.

    emulator: Emulator; summary: (n, d) float64, of which MAX_LOOKS are looked at, evenly.
    orders: ints, of exact(). Returns (len(orders) + 1,) float64, NaN without maps: of mean and sd
    from those by order 12; of quantiles by the last order from those by twice as many lines.
    """
    if not len(summary):
        return np.full(len(orders) + 1, np.nan)
    some = summary[np.unique(np.linspace(0, len(summary) - 1, MAX_LOOKS).astype(int))]
    best, *parts = (exact(emulator, some, order) for order in (12, *orders))
    finer, last = exact(emulator, some, orders[-1], 2 * LINES), parts[-1]
    quantiles = np.abs([getattr(last, name) - getattr(finer, name) for name in LEVELS])
    return np.array([*(max(np.abs((p.mean - best.mean) / best.sd).max(),
                           np.abs(p.sd / best.sd - 1.0).max()) for p in parts),
                     (quantiles / best.sd).max()])


def _tables(emulator, order, n_line):
    """Points in triangles and on lines for the kernel, and (2,) what points are relative to."""
    theta, at = emulator.theta, emulator.triangles
    side, centre, parts = _sides(emulator, order), theta.mean(axis=0), []
    for n in np.unique(side):
        t = np.flatnonzero(side == n)
        points, weight, corners = quadrature_points(theta, at[t], n)
        parts.append((np.repeat(t, n * n), np.tile(corners, (len(t), 1)), weight.ravel(),
                      points.reshape(-1, 2) - centre))
    triangle, corners, weight, points = (np.concatenate(v) for v in zip(*parts))
    sides = np.maximum(side - 2, 3)
    lines = [_line_points(theta, at, axis, emulator.limits[:, axis], n_line, sides)
             for axis in range(2)]
    first = np.stack([lines[0][3], lines[1][3] + len(lines[0][0])])
    on_line, line_corners, line_weight = (np.concatenate(v) for v in list(zip(*lines))[:3])
    return (kernels.Points(np.ascontiguousarray(points.T), np.log(weight),
                           *_whitened(emulator, triangle, corners, np.log(weight))),
            kernels.Lines(*_whitened(emulator, on_line, line_corners, np.log(line_weight)), first,
                          emulator.limits), centre)


def _sides(emulator, order, most=MAX_SIDE):
    """Points per side of each triangle, (t,): `order` if its corners' summaries are 4 sd apart."""
    at, inverse = emulator.triangles, np.linalg.inv(emulator.covariance)
    square = np.zeros(len(at))
    for i in range(3):
        step = emulator.mean[at[:, i]] - emulator.mean[at[:, i - 1]]
        for k in range(3):
            square = np.maximum(square, np.einsum("ta,tab,tb->t", step, inverse[at[:, k]], step))
    side = np.ceil(order * np.maximum(0.7, 0.4 + 0.15 * np.sqrt(square)))
    return np.clip(side, 2, max(most, order)).astype(int)


def _line_points(theta, triangles, axis, span, lines, order):
    """Triangles, barycentric and quadrature weights of Gauss points on lines, and their begins."""
    low, high = span
    at = low + (high - low) * (np.arange(lines) + 0.5) / lines
    place = theta[triangles]                                     # (t, 3, 2)
    sort = np.argsort(place[:, :, axis], axis=1)
    a = np.take_along_axis(place[:, :, axis], sort, axis=1)
    line, t = np.nonzero((a[:, 0] < at[:, None]) & (a[:, 2] > at[:, None]))
    # where a line enters and leaves: edge 0-2 of the sorted corners, and 0-1 or 1-2
    a, sort, c, row, ends = a[t], sort[t], at[line], np.arange(len(t)), np.zeros((2, len(t), 3))
    upper = (c >= a[:, 1]).astype(int)
    for end, low, high in zip(ends, (0 * row, upper), (0 * row + 2, upper + 1)):
        part = (c - a[row, low]) / (a[row, high] - a[row, low])
        end[row, sort[row, low]], end[row, sort[row, high]] = 1.0 - part, part
    length = np.abs(np.subtract(*np.einsum("enc,nc->en", ends, place[t, :, 1 - axis])))
    piece, rules = np.lexsort((order[t], line)), {n: roots_legendre(n) for n in np.unique(order)}
    u, w = 0.5 * np.concatenate([rules[n] for n in order[t[piece]]], axis=1)
    u, piece = u[:, None] + 0.5, np.repeat(piece, order[t[piece]])
    corners = (1.0 - u) * ends[0, piece] + u * ends[1, piece]
    first = np.searchsorted(line[piece], np.arange(lines + 1)).astype(np.int64)
    return t[piece], corners, np.maximum(length[piece] * w, 1e-300), first


def _whitened(emulator, triangle, corners, log_weight):
    at = emulator.triangles[triangle]
    mean = np.einsum("pc,pcd->pd", corners, emulator.mean[at])
    covariance = np.einsum("pc,pcde->pde", corners, emulator.covariance[at])
    log_prior = np.einsum("pc,pc->p", corners, emulator.vertex_log_prior[at])
    return kernels.whiten(mean, covariance, log_weight + log_prior)


def survey(emulator: Emulator, summary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A look at the posterior of each summary (n, d) on cosmologies, triangle centres and the hull.

    Returns best (n,) int, the cosmology of highest posterior; edge (n,) float64, ln of the highest
    density on the hull's edge relative to the highest anywhere, below -3.1 if the edge is outside
    of the 95 % region; chi2 (n,) float64, of the summary at cosmology best.
    """
    at, hull = emulator.triangles, np.argwhere(emulator.neighbours < 0)
    n, t, unit = len(emulator.theta), len(at), np.eye(3)
    part = np.arange(PER_EDGE)[:, None] / PER_EDGE
    along = [part * unit[(k + 1) % 3] + (1.0 - part) * unit[(k + 2) % 3] for _, k in hull]
    vertex, corner = np.empty((2, n), int)
    for k in range(3):
        vertex[at[:, k]], corner[at[:, k]] = np.arange(t), k
    triangle = np.concatenate([vertex, np.arange(t), np.repeat(hull[:, 0], PER_EDGE)])
    corners = np.concatenate([unit[corner], np.full((t, 3), 1.0 / 3.0), *along])
    white, base = _whitened(emulator, triangle, corners, np.zeros(len(triangle)))
    best, edge, chi2 = (np.empty(len(summary), kind) for kind in (int, float, float))
    for first in range(0, len(summary), BLOCK):
        part = slice(first, first + BLOCK)
        out = _densities(white, base, summary[part])
        best[part] = out[:, :n].argmax(axis=1)
        edge[part] = out[:, n + t:].max(axis=1) - out.max(axis=1)
        chi2[part] = 2.0 * (base[best[part]] - out[:, :n].max(axis=1))
    return best, edge, chi2
