"""Quadrature against a grid and known posteriors, its convergence, credible regions."""
import numpy as np
import pytest
import synthetic
from scipy import stats
from scipy.spatial import ConvexHull

from wl.core.params import LEVELS
from wl.kernels import quadrature as kernels
from wl.posterior import quadrature
from wl.posterior.emulator import build
from wl.posterior.quadrature import draw, exact, quadrature_error
from wl.posterior.emulator import quadrature_points


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(80)


@pytest.fixture(scope="module")
def maps(emulator):
    return synthetic.draw(emulator, 300)


@pytest.fixture(scope="module")
def truth(emulator, maps):
    return exact(emulator, maps[1])


@pytest.mark.parametrize("d", [2, 5])
def test_quadrature_against_a_grid(d):
    """Moments and quantiles of posteriors in the middle, at the edge and outside of the hull
    against a brute-force sum; the sum with the log-determinant's sign turned is far off."""
    emulator = synthetic.emulator(60, d)
    summary = synthetic.places(emulator)
    truth = exact(emulator, summary)
    assert truth.edge[0] < -1.5 and (truth.edge[2:] > -0.5).all()
    wrong = []
    for i, e in enumerate(summary):
        mean, sd, correlation, q = synthetic.grid_posterior(emulator, e, n=600)
        # a grid is poor at a narrow peak on the edge
        tolerance = 2e-3 if i < 2 else 2e-2
        assert np.abs((truth.mean[i] - mean) / sd).max() < tolerance
        assert np.abs(truth.sd[i] / sd - 1.0).max() < 2 * tolerance
        assert abs(truth.correlation[i] - correlation) < 2 * tolerance
        assert np.abs((synthetic.quantiles(truth, i) - q) / sd[:, None]).max() < 0.02
        mean, sd, _, _ = synthetic.grid_posterior(emulator, e, n=200, sign=-1.0)
        wrong.append(np.abs((truth.mean[i] - mean) / sd).max())
    assert max(wrong) > 0.1


def test_edge_is_the_highest_density_on_the_whole_hull(emulator, maps, truth):
    """ln of it relative to the highest anywhere, by SciPy's hull and many points on and in it."""
    corner = emulator.theta[ConvexHull(emulator.theta).vertices]
    part = np.linspace(0, 1, 100)[:, None]
    rim = np.concatenate([part * a + (1 - part) * b
                          for a, b in zip(corner, np.roll(corner, 1, axis=0))])
    rim = rim + 1e-9 * (corner.mean(axis=0) - rim)
    points = np.random.default_rng(1).uniform(*emulator.limits, size=(20000, 2))
    on, within = (emulator.log_posterior(p, maps[1]).max(axis=1) for p in (rim, points))
    assert np.abs(truth.edge - (on - np.maximum(on, within))).max() < 0.8     # 0.63
    # 0.105
    assert np.sqrt(np.mean((truth.edge - (on - np.maximum(on, within)))**2)) < 0.15
    assert 5 < (truth.edge > -0.5).sum() < 280


def test_line_quantiles_of_a_linear_density():
    """p(x) = 2 x on twenty lines of [0, 1], two points each: the root of the level, to rounding."""
    weight, levels, out = np.repeat(np.arange(20) + 0.5, 2), np.array([0.2, 0.5, 0.8]), np.empty(3)
    kernels.line_quantiles(weight, np.arange(0, 41, 2), np.array([0.0, 1.0]), levels, out)
    assert np.allclose(out, np.sqrt(levels), rtol=0, atol=1e-12)


def test_quadrature_converges():
    """Orders 6, 8 and 12: errors fall by orders of magnitude; 8 is good to 1e-5 of 12."""
    emulator = synthetic.emulator(100)
    summary = synthetic.draw(emulator, 200)[1]
    results = {order: exact(emulator, summary, order) for order in (4, 6, 8, 12)}
    error = {o: max(np.abs(results[o].mean - results[12].mean).max(),
                    np.abs(results[o].sd - results[12].sd).max()) for o in (4, 6, 8)}
    assert error[4] > 20 * error[6] > 400 * error[8]
    assert error[6] < 1e-4 and error[8] < 1e-6


def test_triangle_rule():
    """Exact for all polynomials up to degree 2 order - 1, with weights that sum to the area."""
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for order in (1, 2, 5):
        _, (weight,), corners = quadrature_points(unit, np.array([[0, 1, 2]]), order)
        assert (corners >= 0.0).all() and np.allclose(corners.sum(axis=1), 1.0)
        for a in range(2 * order):
            for b in range(2 * order - a):
                from math import factorial as f
                exact, powers = f(a) * f(b) / f(a + b + 2), corners[:, :2] ** [a, b]
                assert np.isclose(weight @ powers.prod(axis=1), exact, rtol=1e-12)


@pytest.fixture(scope="module")
def toy():
    """Identity mean, constant covariance, flat prior, hull far away: the posterior is N(summary,
    C)."""
    rng = np.random.default_rng(1)
    theta = np.concatenate([rng.uniform(-1, 1, (40, 2)),
                            3.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])])
    covariance = np.array([[0.04, 0.018], [0.018, 0.02]])
    emulator = build(theta, theta, np.tile(covariance, (len(theta), 1, 1)), prior="flat")
    return emulator, covariance, rng.uniform(-0.5, 0.5, (20, 2))


def test_regions_of_a_gaussian(toy):
    """Density at the edge and area are those of the ellipses that hold 68.3 and 95.4 %."""
    emulator, covariance, summary = toy
    truth = exact(emulator, summary)
    root = np.sqrt(np.linalg.det(covariance))
    for k, probability in enumerate((0.682689, 0.954500)):
        radius2 = stats.chi2.ppf(probability, 2)
        assert np.allclose(truth.contour[:, k], -np.log(2 * np.pi * root) - 0.5 * radius2,
                           atol=0.12)
        assert abs((truth.contour[:, k] + np.log(2 * np.pi * root) + 0.5 * radius2).mean()) < 0.02
        assert np.allclose(truth.area[:, k], np.pi * radius2 * root, rtol=0.1)
        assert abs(truth.area[:, k].mean() / (np.pi * radius2 * root) - 1.0) < 0.02


def test_evidence_is_the_integral(toy):
    """For the toy: the flat prior's density, as all of the likelihood lies in the hull."""
    emulator, _, summary = toy
    assert np.allclose(exact(emulator, summary).log_evidence, -np.log(36.0), atol=1e-5)


def test_regions_hold_their_share():
    """Of truths from the prior, where the hull cuts posteriors too."""
    emulator = synthetic.emulator(80)
    theta, summary = synthetic.draw(emulator, 2000, seed=3)
    truth = exact(emulator, summary)
    density = np.concatenate([np.diag(emulator.log_posterior(theta[k:k + 200], summary[k:k + 200]))
                              for k in range(0, 2000, 200)])
    for k, probability in enumerate((0.683, 0.954)):
        inside = (density - truth.log_evidence >= truth.contour[:, k]).mean()
        assert abs(inside - probability) < 4.0 * np.sqrt(probability * (1 - probability) / 2000)


def test_quantiles_of_narrow_posteriors(monkeypatch):
    """Gaussians of a hundredth of the design against their own; with lines too few they are off,
    and quadrature_error() says so."""
    theta, level = synthetic.design(80), stats.norm.ppf(list(LEVELS.values()))
    sd = np.ptp(theta, axis=0) / 100
    emulator = build(theta, theta, np.tile(np.diag(sd**2), (80, 1, 1)), prior="flat")
    middle = theta.mean(0) + sd * np.random.default_rng(1).uniform(-9.0, 9.0, (100, 2))

    def error():
        found = exact(emulator, middle)
        off = [(getattr(found, name) - middle) / sd - pull for name, pull in zip(LEVELS, level)]
        return np.abs(off).max(), quadrature_error(emulator, middle)[-1]
    worst, said = error()                          # 0.0033, 0.0025
    assert worst < 0.01 and said < 0.01
    monkeypatch.setattr(quadrature, "MAX_NUMBERS", 0.0)       # on lines around each posterior alone
    worst, said = error()
    assert worst < 0.01 and said < 0.01
    every, some = exact(emulator, middle), exact(emulator, middle[3:9])
    assert all((getattr(some, name) == getattr(every, name)[3:9]).all() for name in LEVELS)
    monkeypatch.setattr(quadrature, "CELL", 1e9)
    worst, said = error()                          # 0.059, 0.047
    assert worst > 0.03 and said > 0.02


@pytest.mark.parametrize("sd, knob, worse, off", [
    (0.09, "EDGE", 0.0, 0.012), (0.004, "MAX_ALONG", 32, 0.1)])
def test_quantiles_at_the_end_of_the_design(monkeypatch, sd, knob, worse, off):
    """A Gaussian that a steep side of the hull cuts, against its sum along the first axis; with
    128 lines everywhere, or too few points along a line, the quantiles are off."""
    corner = np.array([[-1.0, -0.9], [-0.8, 1.0], [1.0, 0.9], [0.8, -1.0]])
    inside = np.random.default_rng(1).uniform(-0.9, 0.9, (60, 2))
    theta, side = np.concatenate([corner, inside]), -1.0 + 0.2 * 0.9 / 1.9
    emulator = build(theta, theta, np.tile(sd**2 * np.eye(2), (64, 1, 1)), prior="flat")
    summary = np.column_stack([side + np.linspace(-0.5, 2.0, 9) * sd, np.zeros(9)])
    x = np.linspace(max(side - 6.0 * sd, -1.0), side + 12.0 * sd, 200_001)
    below = np.minimum((x + 1.0) / 0.2 * 1.9 - 0.9, 1.0)    # the side, from its lower corner on
    density = stats.norm.cdf(below / sd) - stats.norm.cdf(-0.9 / sd)
    truth = []
    for mean in summary[:, 0]:
        upto = np.cumsum(density * stats.norm.pdf(x, mean, sd))
        truth.append(np.interp(list(LEVELS.values()), upto / upto[-1], x))

    def error():
        found = exact(emulator, summary)
        values = np.stack([getattr(found, name)[:, 0] for name in LEVELS], 1)
        return np.abs((values - truth) / found.sd[:, :1]).max()
    assert error() < 0.01
    monkeypatch.setattr(quadrature, knob, worse)
    assert error() > off


def test_quadrature_error():
    """Falls with the order, is small at the default one, and shows a quadrature that is too
    coarse."""
    emulator = synthetic.emulator(80)
    summary = synthetic.draw(emulator, 100)[1]
    error = quadrature_error(emulator, summary, orders=(2, 6, 8))
    assert error[0] > 30 * error[1] > 300 * error[2] and error[2] < 1e-5 and error[0] > 0.01
    assert 0.0 < error[3] < 0.01                                   # quantiles
    assert np.isnan(quadrature_error(emulator, summary[:0])).all()


def test_independent_draws(emulator, maps, truth):
    """Moments and quantiles of the quadrature, no correlation between draws, from (seed, map)
    alone."""
    some = np.array([3, 40, 41, 200])
    draws = draw(emulator, maps[1][some], 40000, seed=5, map_index=some)[:, 0]
    assert synthetic.contains(emulator, draws.reshape(-1, 2)).all()
    error = truth.sd[some] / 200.0
    assert (np.abs(draws.mean(axis=1) - truth.mean[some]) < 4.5 * error).all()
    assert np.abs(draws.std(axis=1) / truth.sd[some] - 1.0).max() < 0.03
    for i, m in enumerate(some):
        inside = (draws[i][:, :, None] < synthetic.quantiles(truth, m)).mean(axis=0)
        assert np.abs(inside - [0.025, 0.16, 0.5, 0.84, 0.975]).max() < 0.015
        first, then = draws[i, :-1], draws[i, 1:]
        assert abs(np.corrcoef(first[:, 0], then[:, 0])[0, 1]) < 0.025
    again = draw(emulator, maps[1][some[2:]], 40000, seed=5, map_index=some[2:])[:, 0]
    assert np.array_equal(again, draws[2:])
    assert not np.array_equal(draw(emulator, maps[1][:1], 50, seed=6, map_index=[3]),
                              draw(emulator, maps[1][:1], 50, seed=5, map_index=[3]))
