"""The posterior's result: chi2, flags, warnings, a network's Gaussian; PIT and recalibration."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats

from wl.core import params as variables
from wl.core.checks import InputError
from wl.core.params import LEVELS
from wl.posterior import posterior
from wl.posterior.posterior import pit, pit_quantiles, uniform_p_value
from wl.posterior.quadrature import exact
from wl.scoring import report


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(60)


def result_of(emulator, summary, chains):
    mean, covariance, inside = emulator.interpolate(chains.mean)
    assert inside.all()                               # the hull is convex: a mean cannot leave it
    return posterior.summarise(chains, summary, mean, covariance)


def test_chi2_and_p_value(emulator):
    """r^T C^-1 r by explicit inverses; p-values of maps that the emulator made are not small too often."""
    theta, summary = synthetic.draw(emulator, 500)
    chains = exact(emulator, summary)
    result = result_of(emulator, summary, chains)
    mean, covariance, _ = emulator.interpolate(chains.mean)
    for i in range(5):
        r = summary[i] - mean[i]
        chi2 = r @ np.linalg.inv(covariance[i]) @ r
        assert np.isclose(result["chi2"][i], chi2)
        assert np.isclose(result["p_value"][i], stats.chi2.sf(chi2, 2))
    assert (result["p_value"] < 0.05).mean() < 0.05      # the parameters were fitted: fewer than by chance
    assert not (result["flag"] & 16).any()
    far = summary[:3] + 0.6
    assert (result_of(emulator, far, exact(emulator, far))["flag"] & 16).all()


def test_every_flag(emulator):
    """Each bit is raised by its own fault and by nothing else; NaN raises none."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 6, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert (result_of(emulator, summary, chains)["flag"] == 0).all()
    assert (result_of(emulator, summary, exact(emulator, summary))["flag"] == 0).all()
    chains.acceptance[0], chains.acceptance[1] = 0.19, 0.51
    chains.ess[2, 1] = 99.0
    chains.rhat[3, 0] = 1.06
    chains.edge[4] = -0.4
    summary[5] += 3.0
    assert list(result_of(emulator, summary, chains)["flag"]) == [1, 1, 2, 4, 8, 16]
    assert set(variables.FLAGS) == set(report.FLAGS) == {1, 2, 4, 8, 16}


def test_a_chain_that_never_moved_is_flagged(emulator):
    summary = synthetic.draw(emulator, 4)[1]
    chains = synthetic.chains(emulator, summary, nstep=1000, sigma=500.0)
    result = result_of(emulator, summary, chains)
    assert (result["sd"] == 0.0).all() and (result["flag"] & 7 == 7).all()
    text = " ".join(posterior.warnings(result))
    assert posterior.stuck(result) == 4 and "4 of 4" in text and "lower --sigma" in text


def test_warnings(emulator):
    """None for a good run; a small sigma asks for a larger one, a short run for more steps."""
    summary = synthetic.draw(emulator, 30)[1]
    assert posterior.warnings(result_of(emulator, summary, exact(emulator, summary))) == []
    slow = synthetic.chains(emulator, summary, nstep=500, sigma=0.003)
    lines = posterior.warnings(result_of(emulator, summary, slow))
    assert any("raise --sigma" in line for line in lines) and any("raise --nstep" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_unconverged_runs_say_so(emulator):
    """1 % of the maps may miss a threshold by chance; more, a map alone, or a chain that never moved may not."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 250, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    assert posterior.unconverged(result_of(emulator, summary[:5], exact(emulator, summary[:5]))) is None
    chains.ess[:2, 0], chains.rhat[2, 1] = 60.0, 1.2
    reason = posterior.unconverged(result_of(emulator, summary, chains))
    assert one_line(reason, "2 have an effective", "1 an R-hat", "--nstep")
    chains.rhat[2, 1] = 1.0
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    chains.ess[0, 0], chains.rhat[0, 0] = 0.0, np.inf
    assert "1 never moved" in posterior.unconverged(result_of(emulator, summary, chains))
    one = synthetic.chains(emulator, summary[:1], nstep=300, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary[:1], one))
    assert posterior.unconverged(posterior.gaussian(summary, np.full((250, 2), 0.02))) is None


def test_gaussian():
    """A network's posterior: quantiles of the Gaussian, no flags, NaN for what it does not have."""
    mean, sd = np.array([[0.3, 0.8], [0.2, 0.75]]), np.array([[0.03, 0.02], [0.05, 0.01]])
    result = posterior.gaussian(mean, sd)
    for name, level in (("q2_5", 0.025), ("q16", 0.16), ("q50", 0.5), ("q84", 0.84), ("q97_5", 0.975)):
        assert np.allclose(result[name], stats.norm.ppf(level, mean, sd))
    assert (result["flag"] == 0).all() and np.isnan(result["acceptance"]).all()
    for wrong in (0.0, -1.0, np.nan, np.inf):
        bad = sd.copy()
        bad[1, 0] = wrong
        with pytest.raises(InputError) as error:
            posterior.gaussian(mean, bad)
        one_line(error, "map 1", "error bars")


def test_one_structure_for_all(emulator):
    """Chains, quadrature and a network give the same names with the same shapes and dtypes."""
    summary = synthetic.draw(emulator, 5)[1]
    forms = [{k: (v.shape, v.dtype) for k, v in s.items()} for s in (
        result_of(emulator, summary, synthetic.chains(emulator, summary, nstep=200, sigma=0.05)),
        result_of(emulator, summary, exact(emulator, summary)),
        posterior.gaussian(summary, np.full((5, 2), 0.02)))]
    assert forms[0] == forms[1] == forms[2]


def test_imports_neither_numba_nor_torch(python):
    run = python("import sys, wl.posterior.posterior; print([m for m in ('numba', 'torch') if m in sys.modules])")
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


# ---------------------------------------------------------------- calibration
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
        curve = posterior.isotonic(pit(truth[:3000], mean[:3000], sd[:3000]))
        assert (np.diff(curve, axis=0) > 0).all()
        known = truth[:3000], mean[:3000], sd[:3000]
        found, made_of = posterior.recalibrate("isotonic", gaussian_summary(mean[3000:], sd[3000:]), *known,
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
    found, _ = posterior.recalibrate("isotonic", summary, truth, mean, sd, pit(truth, mean, sd))
    assert np.allclose(found["errorbar"], sd, rtol=0.05)
    assert set(posterior.recalibrate("temperature", summary, truth, mean, sd, None)[0]) == {"errorbar"}
    for q in LEVELS:
        assert np.abs(found[f"recalibrated_{q}"] - summary[q]).max() < 0.02
