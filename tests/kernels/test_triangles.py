"""Which triangle holds a point: grid, walk and search against SciPy, on awkward designs too."""
import numpy as np
import pytest
import synthetic
from scipy.spatial import Delaunay

from wl.kernels import triangles
from wl.posterior.emulator import build


def designs():
    rng = np.random.default_rng(0)
    side = np.linspace(0.0, 1.0, 6)
    lattice = np.stack(np.meshgrid(0.1 + 0.5 * side, 0.7 + 0.2 * side), axis=-1).reshape(-1, 2)
    sliver = np.concatenate([rng.uniform(size=(20, 2)), [[0.0, 1.2], [0.5, 1.2 + 1e-7], [1.0, 1.2]]])
    spike = np.array([[0.1, 0.7], [0.101, 0.7], [0.6, 0.9], [0.3, 0.7805]])   # thinner than a grid cell
    return {"random": synthetic.design(40), "lattice": lattice, "sliver": sliver, "spike": spike,
            "three": lattice[[0, 3, 20]]}


@pytest.mark.parametrize("name", list(designs()))
def test_location(name, rng):
    """The grid, the walk from any triangle and the search agree with SciPy, on awkward designs too."""
    theta = designs()[name]
    emulator = build(theta, *synthetic.statistics(theta), prior="flat")
    low, high = emulator.limits
    points = rng.uniform(low - 0.1 * (high - low), high + 0.1 * (high - low), size=(4000, 2))
    near = theta + 10.0 ** -rng.uniform(1, 6, size=(50, len(theta), 1)) * (theta.mean(axis=0) - theta)
    points = np.concatenate([points, near.reshape(-1, 2)])                    # into every corner
    expected = Delaunay(theta).find_simplex(points) >= 0
    found = triangles.find_all(points, emulator.triangulation)
    assert np.array_equal(found >= 0, expected)
    for t, (x, y) in zip(found[:400], points[:400]):
        begin = int(rng.integers(len(emulator.triangles)))
        walked = triangles.locate(x, y, emulator.triangulation.coefficient, emulator.neighbours, begin)
        searched = triangles.search(x, y, emulator.triangulation.coefficient)
        assert (walked >= 0) == (searched >= 0) == (t >= 0)
        if t >= 0:
            for k in (walked, searched, t):
                c0, c1 = triangles.weights(x, y, emulator.triangulation.coefficient, k)
                assert min(c0, c1, 1.0 - c0 - c1) >= -1e-11


def test_a_walk_that_loops_gives_way_to_a_search():
    """With neighbours that lead in a circle the triangle is still found."""
    emulator = synthetic.emulator(40)
    n = len(emulator.triangles)
    broken = np.where(emulator.neighbours >= 0, (np.arange(n)[:, None] + 1) % 2, -1).astype(np.int32)
    point = emulator.theta[emulator.triangles[n - 1]].mean(axis=0)
    right = triangles.locate(*point, emulator.triangulation.coefficient, emulator.neighbours, 0)
    assert right == n - 1
    assert triangles.search(*point, emulator.triangulation.coefficient) == right
    loop = np.zeros_like(broken)
    assert triangles.locate(*point, emulator.triangulation.coefficient, loop, 0) == right
