"""Emulator: SciPy's interpolator and Gaussians as oracles, and refusals."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy.interpolate import LinearNDInterpolator
from scipy.stats import multivariate_normal

from wl.core.checks import InputError
from wl.posterior.emulator import build


@pytest.mark.parametrize("d", [1, 2, 10])
def test_equals_linear_nd_interpolator(d, rng):
    """Mean and covariance to 1e-12, and the same points inside."""
    theta = synthetic.design(101)
    mean, covariance = synthetic.statistics(theta, max(d, 2))
    mean, covariance = mean[:, :d], covariance[:, :d, :d]
    emulator = build(theta, mean, covariance)
    low, high = theta.min(axis=0) - 0.05, theta.max(axis=0) + 0.05
    points = rng.uniform(low, high, size=(20000, 2))
    ours, ours_c, inside = emulator.interpolate(points)
    values = np.concatenate([mean, covariance.reshape(-1, d * d)], axis=1)
    values = LinearNDInterpolator(theta, values)(points)
    assert np.array_equal(inside, np.isfinite(values[:, 0])) and 5000 < inside.sum() < 15000
    assert np.abs(ours[inside] - values[inside, :d]).max() < 1e-12 * max(1.0, np.abs(mean).max())
    assert np.abs(ours_c[inside].reshape(-1, d * d) - values[inside, d:]).max() < 1e-12 * max(
        1.0, np.abs(covariance).max())
    assert np.isnan(ours[~inside]).all() and np.isnan(ours_c[~inside]).all()
    assert np.isneginf(emulator.log_prior(points)[~inside]).all()
    assert np.isneginf(emulator.log_likelihood(points, mean[:1])[0, ~inside]).all()
    assert np.array_equal(emulator.contains(points), inside)


def test_exact_at_the_design():
    """At a cosmology of the design, the corners of the hull too, the emulator gives what it was given."""
    emulator = synthetic.emulator(101)
    mean, covariance, inside = emulator.interpolate(emulator.theta)
    assert inside.all()
    assert np.allclose(mean, emulator.mean, rtol=0, atol=1e-13)
    assert np.allclose(covariance, emulator.covariance, rtol=0, atol=1e-15)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_log_likelihood_between_covariances(d, rng):
    """All of it, and differences between cosmologies of other covariances, against scipy.stats."""
    emulator = synthetic.emulator(50, d)
    theta, summary = synthetic.draw(emulator, 12)
    ours = emulator.log_likelihood(theta, summary)
    values = LinearNDInterpolator(emulator.theta, np.concatenate(
        [emulator.mean, emulator.covariance.reshape(-1, d * d)], axis=1))(theta)
    oracle = np.array([[multivariate_normal.logpdf(e, v[:d], v[d:].reshape(d, d)) for v in values]
                       for e in summary])
    assert np.ptp([np.linalg.slogdet(v[d:].reshape(d, d))[1] for v in values]) > 0.3
    assert np.allclose(np.diff(ours, axis=1), np.diff(oracle, axis=1), rtol=1e-9, atol=1e-9)
    assert np.allclose(ours, oracle, rtol=1e-9, atol=1e-9)
    posterior = emulator.log_posterior(theta, summary)
    assert np.allclose(posterior, oracle + emulator.log_prior(theta), rtol=1e-9, atol=1e-9)


def test_order_of_the_design_does_not_matter(rng):
    theta = synthetic.design(60)
    mean, covariance = synthetic.statistics(theta)
    order = rng.permutation(60)
    points = rng.uniform(theta.min(axis=0), theta.max(axis=0), size=(500, 2))
    one = build(theta, mean, covariance)
    other = build(theta[order], mean[order], covariance[order])
    inside = one.contains(points)
    assert np.allclose(one.interpolate(points)[0][inside], other.interpolate(points)[0][inside], atol=1e-12)
    assert np.allclose(one.log_prior(points)[inside], other.log_prior(points)[inside], atol=1e-9)


def test_refusals():
    """Each wrong input in one line that names what is wrong."""
    theta = synthetic.design(30)
    mean, covariance = synthetic.statistics(theta)

    def refused(theta=theta, mean=mean, covariance=covariance, prior="design"):
        with pytest.raises(InputError) as error:
            build(theta, mean, covariance, prior=prior)
        return error

    one_line(refused(theta[:2], mean[:2], covariance[:2]), "at least 3", "got 2")
    line = np.stack([np.linspace(0.1, 0.6, 30), np.linspace(0.7, 0.9, 30)], axis=1)
    one_line(refused(line), "one line")
    one_line(refused(np.concatenate([theta[:29], theta[4:5]])), "cosmology 4", "29", "same")
    one_line(refused(np.where(np.arange(60).reshape(30, 2) == 9, np.nan, theta)), "nan")
    bad = covariance.copy()
    bad[7, 0, 1] = bad[7, 1, 0] = 2.0 * np.sqrt(bad[7, 0, 0] * bad[7, 1, 1])
    one_line(refused(covariance=bad), "cosmology 7", f"{theta[7, 0]:.6g}", f"{theta[7, 1]:.6g}",
             "positive definite")
    bad = covariance.copy()
    bad[3] = 0.0
    one_line(refused(covariance=bad), "cosmology 3", "positive definite")
    bad = covariance.copy()
    bad[5, 0, 1] *= -1.0
    one_line(refused(covariance=bad), "cosmology 5", "symmetric")
    few = np.random.default_rng(0).normal(size=(30, 3, 2))            # 3 realisations of 5 summaries
    few = np.repeat(few, 3, axis=2)[:, :, :5]
    singular = np.einsum("nra,nrb->nab", few, few)
    one_line(refused(mean=np.zeros((30, 5)), covariance=singular), "positive definite", "realisations")
    one_line(refused(mean=mean[:29]), "(29, 2)")
    one_line(refused(covariance=covariance[:, :1]), "shape")
    one_line(refused(prior="other"), "flat", "design", "other")
    one_line(refused(prior=np.zeros(7)), "30")
    emulator = build(theta, mean, covariance)
    for summary in (np.zeros((4, 3)), np.array([[0.3, np.nan]]), np.array([["a", "b"]])):
        with pytest.raises(InputError) as error:
            emulator.log_likelihood(theta, summary)
        one_line(error, "summary")
