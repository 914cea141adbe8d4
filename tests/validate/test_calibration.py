"""Calibration on simulated maps, with negative controls; the out-of-distribution metric."""
import types

import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats

from wl.validate import inference as calibration
from wl.posterior.options import PosteriorOptions
from wl.posterior import infer, quadrature
from wl.scoring import score
from wl.core.checks import InputError, RunError


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(100)


@pytest.fixture(scope="module")
def result(emulator):
    return calibration.check(emulator, 4000, nstep=4000, seed=5)


def test_posteriors_are_calibrated(result):
    """Coverage 68 +- 2 and 95 +- 1.5 %, truths between the quantiles, ranks, TARP, regions."""
    assert calibration.failures(result) == []
    for name, tolerance in (("68", 0.02), ("95", 0.015)):
        level = calibration.NOMINAL[name][0]
        assert (np.abs(result["coverage"][name] - level) < tolerance).all()
        assert abs(result["region"][name] - score.LEVELS[name][0]) < 0.03
    assert np.concatenate([*result["p_values"].values()]).min() > 0.002
    assert np.abs(result["curve"] - np.arange(1, 10)[:, None] / 10).max() < 0.03
    assert "coverage at" in calibration.table(result)


@pytest.mark.parametrize("n", [100, 300])
def test_few_maps_of_a_calibrated_run_pass_and_wrong_ones_fail(emulator, n):
    """Fixed tolerances failed calibrated runs of 100 to 500 maps three times of four."""
    for seed in range(6):
        assert not calibration.failures(calibration.check(emulator, n, nstep=1500, seed=seed))
    failed = calibration.failures(calibration.check(emulator, n, nstep=1500, scale=0.5))
    assert set(failed) >= {"coverage at 68 %", "truths between quantiles"}


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_wrong_error_bars_fail_every_check(emulator, scale):
    failed = calibration.failures(calibration.check(emulator, 2500, nstep=2000, seed=5,
                                                    scale=scale))
    assert failed == list(calibration.TESTS.values())


def test_chains_too_short_are_told_from_a_wrong_posterior(emulator):
    failed = calibration.failures(calibration.check(emulator, 2000, nstep=200, sigma=0.002))
    assert "ranks" in failed and "truths between quantiles" not in failed


def test_command_respects_threads_and_refuses_extremes(emulator, monkeypatch, capsys):
    import numba
    before, used = numba.get_num_threads(), []

    def check(*_, **how):
        used.append(numba.get_num_threads())
        return {**small, "scale": how["scale"]}
    small = calibration.check(emulator, 60, nstep=500)
    monkeypatch.setattr(calibration, "load", lambda run: emulator)
    monkeypatch.setattr(calibration, "check", check)
    try:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        calibration.calibration_main(["run", "--threads", "1", "--quiet"])
    finally:
        numba.set_num_threads(before)
    assert used == [1] and "calibrated" in capsys.readouterr().out
    for failed, advice in (("ranks", "--nstep"), ("truths between quantiles", "--seed")):
        monkeypatch.setattr(calibration, "failures", lambda result: [failed])
        with pytest.raises(RunError) as error:
            calibration.calibration_main(["run", "--quiet"])
        one_line(error, "not calibrated", failed, advice)
    for option, value in (("--maps", 10), ("--maps", 10**19), ("--nstep", 10**19), ("--nstep", 3),
                          ("--sigma", 0), ("--sigma", "nan"), ("--scale", "inf"),
                          ("--threads", 0)):
        with pytest.raises((InputError, SystemExit)) as end:
            calibration.calibration_main(["run", option, str(value)])
        one_line(capsys.readouterr().err.strip() or end.value, option)


def test_a_wrong_prior_or_likelihood_fails(emulator, monkeypatch):
    """Summaries and cosmologies of one emulator, posteriors of another: prior, covariance, mean."""
    flat = synthetic.emulator(100, prior="flat")
    drawn = calibration.draw(flat, 3000, 1)
    monkeypatch.setattr(calibration, "draw", lambda *_: drawn)
    assert "ranks" in calibration.failures(calibration.check(emulator, 3000, nstep=3000))
    biased = drawn[0], drawn[1] + [0.01, 0.0]
    monkeypatch.setattr(calibration, "draw", lambda *_: biased)
    assert "ranks" in calibration.failures(calibration.check(flat, 3000, nstep=3000))


def test_draws_follow_prior_and_likelihood():
    """Means of functions over the prior against quadrature; pulls of the summaries."""
    from wl.posterior.emulator import quadrature_points
    emulator = synthetic.emulator(60)
    theta, estimate = calibration.draw(emulator, 20000, 1)
    assert synthetic.contains(emulator, theta).all()
    points, weight, corners = quadrature_points(emulator.theta, emulator.triangles, 10)
    weight = weight * np.exp(emulator.vertex_log_prior[emulator.triangles] @ corners.T)
    for power in (1, 2):
        expected = (weight[..., None] * points**power).sum((0, 1))
        assert np.allclose((theta**power).mean(0), expected, atol=5 *
                           (theta**power).std(0) / np.sqrt(20000))
    mean, covariance, _ = emulator.interpolate(theta)
    r = estimate - mean
    chi2 = np.einsum("ni,nij,nj->n", r, np.linalg.inv(covariance), r)
    assert stats.kstest(chi2, stats.chi2(2).cdf).pvalue > 0.01


def test_recalibration_is_fitted_on_maps_that_its_emulator_has_not_seen():
    """Another realisation of a map's own fold changes nothing for it, one of another fold does."""
    n, emulator = 24, synthetic.emulator(20, prior="flat")
    noise = np.random.default_rng(0).normal(size=(len(emulator.theta), n, 2))
    estimate = emulator.mean[:, None] + np.einsum("cij,crj->cri",
                                                  np.linalg.cholesky(emulator.covariance), noise)
    options = PosteriorOptions(smooth="none", prior="flat")

    def means(changed):
        moved = estimate.copy()
        moved[:, changed] += 0.05
        folder = types.SimpleNamespace(seed=1, quiet=True)
        truth, known = infer._held_out(emulator, moved, options, folder)
        # the first fold holds realisations 0 and 12, in turns from cosmology to cosmology
        first = slice(0, 2 * len(emulator.theta))
        assert np.array_equal(truth[first], np.repeat(emulator.theta, 2, axis=0))
        zero = np.arange(2 * len(emulator.theta)).reshape(-1, 2)[:, 0]
        return known["mean"][zero]
    before = means([])
    assert np.array_equal(before, means([12])) and np.abs(before - means([1])).min() > 0.0


# ---------------------------------------------------------------- out of distribution
def test_out_of_distribution_of_known_tests(rng):
    """Two Gaussians at a distance have a known curve; a blind test gives the mean rate, a perfect
    one 1."""
    rates = np.geomspace(0.001, 0.05, 100)
    inside = rng.normal(size=400000)
    for shift in (0.0, 1.0, 3.0):
        expected = stats.norm.sf(stats.norm.isf(rates) - shift).mean()
        found = score.out_of_distribution(inside, rng.normal(size=400000) + shift)
        assert abs(found - expected) < 0.003
    assert score.out_of_distribution(inside, np.full(10, 99.0)) == 1.0
    assert score.out_of_distribution(inside, np.full(10, -99.0)) == 0.0
    # ties tell nothing
    assert score.out_of_distribution(np.zeros(50), np.zeros(70)) == pytest.approx(rates.mean())
    assert score.out_of_distribution(inside, np.full(3, np.inf)) == 1.0
    order = rng.permutation(400000)
    assert score.out_of_distribution(inside[order], inside[:900]) == score.out_of_distribution(
        inside, inside[:900])


def test_out_of_distribution_refusals():
    for inside, outside in (([], [1.0]), ([1.0], []), ([1.0, np.nan], [1.0])):
        with pytest.raises(InputError) as error:
            score.out_of_distribution(inside, outside)
        one_line(error, "out-of-distribution")


def test_chi2_finds_summaries_that_no_cosmology_gives():
    """d = 6 summaries off the emulator's surface are told from simulated ones; d = 2 would fit
    nearly all."""
    emulator = synthetic.emulator(60, 6)
    estimate = calibration.draw(emulator, 1500, 3)[1]
    strange = calibration.draw(
        emulator, 500, 4)[1] + 2.0 * np.sqrt(np.einsum("nii->ni", emulator.covariance)).mean(0)

    def chi2(e):
        chains = quadrature.exact(emulator, e, order=4)
        mean, covariance, _ = emulator.interpolate(chains.mean)
        r = e - mean
        return np.einsum("nd,nd->n", r, np.linalg.solve(covariance, r[..., None])[..., 0])
    assert score.out_of_distribution(chi2(estimate), chi2(strange)) > 0.1
    assert score.out_of_distribution(chi2(estimate[:750]), chi2(estimate[750:])) < 0.05
