"""Densities, logarithm and exponential of the kernels against SciPy, NumPy and each other."""
import numpy as np
import pytest

from wl.kernels import likelihood


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
    likelihood.log_densities(np.ascontiguousarray(np.array(value).T), np.ascontiguousarray(summary.T),
                             np.empty((2 * d + 2 + d * (d + 1) // 2, lanes)), out)
    assert np.allclose(out, oracle, rtol=1e-10, atol=1e-10)


def test_two_dimensions_equal_the_general_case(rng):
    """The written-out d = 2 and the Cholesky of any d give the same density."""
    for _ in range(50):
        a = rng.normal(size=(2, 2))
        c, r = a @ a.T + 0.1 * np.eye(2), rng.normal(size=2)
        value = np.array([0.0, 0.0, 0.0, c[0, 0], c[1, 0], c[1, 1]])
        general = likelihood.log_gaussian(value, r[None], 0, np.empty((3, 2)))
        assert np.isclose(likelihood.log_gaussian_2(*r, c[0, 0], c[1, 0], c[1, 1]), general, rtol=1e-11)
    bad = np.array([0.0, 0.0, 0.0, 1.0, 2.0, 1.0])
    assert likelihood.log_gaussian(bad, np.zeros((1, 2)), 0, np.empty((3, 2))) == -np.inf


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
