"""Probabilities below the truth against SciPy; what recalibration mends, and what it leaves alone."""
import numpy as np
import pytest
from scipy import stats

from wl.core.params import LEVELS
from wl.posterior import recalibration
from wl.posterior.recalibration import pit, pit_quantiles, uniform_p_value


def test_pit(rng):
    mean, sd = rng.normal(size=(4000, 2)), rng.uniform(0.5, 2.0, size=(4000, 2))
    truth = mean + sd * rng.normal(size=(4000, 2))
    values = pit(truth, mean, sd)
    np.testing.assert_allclose(values, stats.norm(mean, sd).cdf(truth), rtol=1e-10)
    levels = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    quantiles = stats.norm.ppf(levels)[:, None, None] * sd + mean
    np.testing.assert_allclose(pit_quantiles(truth, levels, quantiles), values, rtol=1e-7, atol=1e-12)


def test_pit_of_a_skewed_posterior(rng):
    """Gamma posteriors: quantiles give a PIT that is uniform, mean and sd do not."""
    shape, levels = 2.0, np.linspace(0.01, 0.99, 25)
    truth = rng.gamma(shape, size=(4000, 2))
    quantiles = np.broadcast_to(stats.gamma(shape).ppf(levels)[:, None, None], (25, 4000, 2))
    good = pit_quantiles(truth, levels, quantiles)
    assert uniform_p_value(good[:, 0]) > 0.01
    gaussian = pit(truth, np.full((4000, 2), shape), np.full((4000, 2), shape**0.5))
    assert uniform_p_value(gaussian[:, 0]) < 1e-6


@pytest.mark.parametrize("n", [5, 30, 4000])
def test_uniformity_test_against_scipy(rng, n):
    for _ in range(20):
        values = rng.random(n)**rng.uniform(0.8, 1.2)
        want = stats.kstest(values, "uniform").pvalue
        assert uniform_p_value(values) == pytest.approx(want, abs=0.025)


def gaussian_summary(mean, sd):
    return {"mean": mean, "sd": sd, **{q: mean + sd * stats.norm.ppf(p) for q, p in LEVELS.items()}}


def test_isotonic_corrects_width_and_bias(rng):
    """Fitted on half of the maps, the other half is covered as it should be, whatever was wrong."""
    truth = rng.normal(size=(6000, 2)) * [1.0, 2.0]
    for scale, shift in ((0.6, 0.0), (1.5, 0.0), (1.0, 0.5)):
        mean, sd = np.full(truth.shape, shift), np.tile([1.0, 2.0], (6000, 1)) * scale
        curve = recalibration.isotonic(pit(truth[:3000], mean[:3000], sd[:3000]))
        assert (np.diff(curve, axis=0) > 0).all()
        known = truth[:3000], mean[:3000], sd[:3000]
        found, made_of = recalibration.recalibrate("isotonic", gaussian_summary(mean[3000:], sd[3000:]), *known,
                                                   pit(*known))
        assert np.array_equal(made_of["recalibration"], curve)
        for low, high, level in (("q16", "q84", 0.68), ("q2_5", "q97_5", 0.95)):
            inside = (truth[3000:] > found[f"recalibrated_{low}"]) & (truth[3000:] < found[f"recalibrated_{high}"])
            assert (np.abs(inside.mean(0) - level) < 4 * np.sqrt(level * (1 - level) / 3000) + 0.01).all()
        expected = np.sqrt(np.mean((truth - shift)**2, axis=0))
        assert np.allclose(found["errorbar"], expected, rtol=0.06)


def test_isotonic_leaves_the_calibrated_alone(rng):
    mean, sd = rng.normal(size=(4000, 2)), np.full((4000, 2), 0.1)
    truth = mean + 0.1 * rng.normal(size=mean.shape)
    summary = gaussian_summary(mean, sd)
    found, _ = recalibration.recalibrate("isotonic", summary, truth, mean, sd, pit(truth, mean, sd))
    assert np.allclose(found["errorbar"], sd, rtol=0.05)
    assert set(recalibration.recalibrate("temperature", summary, truth, mean, sd, None)[0]) == {"errorbar"}
    for q in LEVELS:
        assert np.abs(found[f"recalibrated_{q}"] - summary[q]).max() < 0.02
