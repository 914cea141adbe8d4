"""Densities, logarithm and exponential against SciPy and NumPy; which triangle holds a point."""
import numpy as np
import pytest
import synthetic
from scipy.spatial import Delaunay

from wl.kernels import likelihood, metropolis
from wl.posterior.emulator import build


@pytest.mark.parametrize("d", [1, 3, 10])
def test_lanes_equal_scipy(d, rng):
    """The density of many chains in step equals SciPy's, one lane at a time."""
    lanes, value, summary, oracle = 16, [], rng.normal(size=(16, d)), []
    for e in summary:
        root = rng.normal(size=(d, 3 * d))
        c, m, prior = root @ root.T / 7, rng.normal(size=d), rng.normal()
        value.append(np.concatenate([[prior], m, c[np.tril_indices(d)]]))
        chi2 = (e - m) @ np.linalg.solve(c, e - m)
        oracle.append(prior - 0.5 * (chi2 + np.linalg.slogdet(c)[1]))
    out = np.empty(lanes)
    likelihood.log_densities(np.ascontiguousarray(np.array(value).T),
                             np.ascontiguousarray(summary.T),
                             np.empty((2 * d + 2 + d * (d + 1) // 2, lanes)), out)
    assert np.allclose(out, oracle, rtol=1e-10, atol=1e-10)


def test_two_dimensions_equal_the_general_case(rng):
    """The sampler's written-out d = 2 and the Cholesky of any d give the same density."""
    def general(value, summary):
        out = np.empty(1)
        likelihood.log_densities(value[:, None], summary[:, None], np.empty((9, 1)), out)
        return out[0]
    summary = rng.normal(size=(2, metropolis.LANES))
    for _ in range(50):
        a = rng.normal(size=(2, 2))
        c = a @ a.T + 0.1 * np.eye(2)
        value = np.array([*rng.normal(size=3), c[0, 0], c[1, 0], c[1, 1]])
        lane = np.zeros((metropolis.ROWS, metropolis.LANES))
        flat = np.concatenate([np.zeros(6), value, np.zeros(12)])[None]    # the same everywhere
        metropolis._density_2(lane, np.zeros((2, metropolis.LANES), np.int64), flat, summary)
        assert np.allclose(lane[metropolis.NEW_P], [general(value, s) for s in summary.T.copy()],
                           rtol=1e-11)
    bad = np.array([0.0, 0.0, 0.0, 1.0, 2.0, 1.0])
    assert np.isnan(general(bad, np.zeros(2)))          # which no chain accepts


def test_logarithm_and_exponential(rng):
    """Within one unit in the last place of the C library's."""
    x = np.exp(rng.uniform(-600, 600, 20000))
    ours = np.array([likelihood.log(v) for v in x])
    assert (np.abs(ours - np.log(x)) <= np.spacing(np.abs(np.log(x)))).all()
    x = rng.uniform(-690, 690, 20000)
    ours = np.array([likelihood.exp(v) for v in x])
    assert (np.abs(ours - np.exp(x)) <= 1.01 * np.spacing(np.exp(x))).all()
    assert likelihood.log(1.0) == 0.0 and likelihood.exp(0.0) == 1.0
    assert likelihood.exp(-np.inf) < 1e-300


# ---------------------------------------------------------------- where a point lies
def designs():
    rng = np.random.default_rng(0)
    side = np.linspace(0.0, 1.0, 6)
    lattice = np.stack(np.meshgrid(0.1 + 0.5 * side, 0.7 + 0.2 * side), axis=-1).reshape(-1, 2)
    sliver = np.concatenate(
        [rng.uniform(size=(20, 2)), [[0.0, 1.2], [0.5, 1.2 + 1e-7], [1.0, 1.2]]])
    # thinner than a grid cell
    spike = np.array([[0.1, 0.7], [0.101, 0.7], [0.6, 0.9], [0.3, 0.7805]])
    return {"random": synthetic.design(40), "lattice": lattice, "sliver": sliver, "spike": spike,
            "three": lattice[[0, 3, 20]]}


@pytest.mark.parametrize("name", list(designs()))
def test_location(name, rng):
    """The grid, the walk from any triangle and the search agree with SciPy, on awkward designs
    too."""
    theta = designs()[name]
    emulator = build(theta, *synthetic.statistics(theta), prior="flat")
    low, high = emulator.limits
    points = rng.uniform(low - 0.1 * (high - low), high + 0.1 * (high - low), size=(4000, 2))
    near = theta + 10.0 ** -rng.uniform(1, 6, size=(50, len(theta), 1)) * (
        theta.mean(axis=0) - theta)
    points = np.concatenate([points, near.reshape(-1, 2)])                    # into every corner
    expected = Delaunay(theta).find_simplex(points) >= 0
    found, values = likelihood.interpolate(points, emulator.triangulation)
    assert np.array_equal(np.isfinite(values).all(axis=1), expected)
    assert np.array_equal(found >= 0, expected)
    for t, (x, y) in zip(found[:400], points[:400]):
        begin = int(rng.integers(len(emulator.triangles)))
        walked = likelihood.locate(x, y, emulator.triangulation.coefficient, emulator.neighbours,
                                   begin)
        searched = likelihood._search(x, y, emulator.triangulation.coefficient)
        assert (walked >= 0) == (searched >= 0) == (t >= 0)
        if t >= 0:
            for k in (walked, searched, t):
                c0, c1 = likelihood.weights(x, y, emulator.triangulation.coefficient, k)
                assert min(c0, c1, 1.0 - c0 - c1) >= -1e-11


def test_a_walk_that_loops_gives_way_to_a_search():
    """With neighbours that lead in a circle the triangle is still found."""
    emulator = synthetic.emulator(40)
    n = len(emulator.triangles)
    broken = np.where(emulator.neighbours >= 0, (np.arange(n)[:, None] + 1) % 2,
                      -1).astype(np.int32)
    point = emulator.theta[emulator.triangles[n - 1]].mean(axis=0)
    right = likelihood.locate(*point, emulator.triangulation.coefficient, emulator.neighbours, 0)
    assert right == n - 1
    assert likelihood._search(*point, emulator.triangulation.coefficient) == right
    loop = np.zeros_like(broken)
    assert likelihood.locate(*point, emulator.triangulation.coefficient, loop, 0) == right
