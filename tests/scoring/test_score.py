"""The score and the calibration checks, each by an independent route, with negative controls."""
import math

import numpy as np
import pytest
from scipy import stats

from conftest import one_line
from wl.core import params
from wl.core.checks import InputError
from wl.posterior.posterior import coverage_curve, uniform_p_value
from wl.scoring import score, table
from wl.scoring.score import Posterior
from wl.validate import inference as calibration

CORRELATION = -0.6


@pytest.fixture(scope="module")
def posterior():
    """4000 maps with calibrated, correlated Gaussian posteriors: truth, mean, sd, rho."""
    rng = np.random.default_rng(5)
    n = 4000
    mean = np.array([0.29, 0.81]) + rng.normal(size=(n, 2)) * [0.1, 0.066]
    sd = np.array([0.03, 0.015]) * rng.uniform(0.5, 2.0, size=(n, 2))
    truth = mean + sd * pairs(rng, n)                              # drawn from its posterior
    return truth, mean, sd, np.full(n, CORRELATION)


def pairs(rng, *shape):
    a, b = rng.normal(size=(2, *shape))
    return np.stack([a, CORRELATION * a + math.sqrt(1 - CORRELATION**2) * b], axis=-1)


# ---------------------------------------------------------------- the score
def test_score_by_hand():
    """Map 1: e = 0.02, s = 0.04 and e = -0.01, s = 0.01; map 2: no error, s = 1, 1."""
    truth, mean = np.array([[0.30, 0.80], [0.4, 0.7]]), np.array([[0.32, 0.79], [0.4, 0.7]])
    sd = np.array([[0.04, 0.01], [1.0, 1.0]])
    first = -((0.25 + 2 * math.log(0.04) + 0.4) + (1.0 + 2 * math.log(0.01) + 0.1))
    np.testing.assert_allclose(score.challenge_score(truth, mean, sd), [first, 0.0], rtol=1e-12,
                               atol=1e-12)
    np.testing.assert_allclose(score._score_terms(truth, mean, sd)[0, :, 0],
                               [0.25, 2 * math.log(0.04), 0.4])


def test_score_follows_from_the_gaussian_log_likelihood(posterior):
    """-2 log N(truth) of scipy, less its constant, plus the weighted square: no line shared."""
    truth, mean, sd, _ = posterior
    log_likelihood = stats.norm(mean, sd).logpdf(truth)
    want = (2 * log_likelihood + math.log(2 * math.pi)).sum(1) - 1000 * ((truth - mean)**2).sum(1)
    np.testing.assert_allclose(score.challenge_score(truth, mean, sd), want, rtol=1e-10)


def test_honest_error_bars_score_best(posterior):
    """The expected score is greatest at the true width: wider or narrower bars lose."""
    truth, mean, sd, _ = posterior
    at = [score.challenge_score(truth, mean, sd * f).mean() for f in (0.7, 0.9, 1.0, 1.1, 1.4)]
    assert np.argmax(at) == 2


def test_prior_only_by_hand():
    """Pulls of a design by its own mean and sd have mean square 1: -sum(1 + ln var + 1000 var)."""
    theta = np.array([[0.2, 0.7], [0.4, 0.9], [0.3, 0.74]])
    want = -(1 + np.log(theta.var(0)) + 1000 * theta.var(0)).sum()
    assert score.prior_score(theta) == pytest.approx(want, rel=1e-12)


def test_prior_only_scores_what_was_published(real):
    theta = np.load(real / "label.npy")[:, 0, :2]
    assert score.prior_score(theta) == pytest.approx(-7.56, abs=0.005)


@pytest.mark.parametrize("change, part", [
    (lambda t, m, s: (t, m[:-1], s), "shape"),
    (lambda t, m, s: (t[:, :1], m[:, :1], s[:, :1]), "shape"),
    (lambda t, m, s: (t[:0], m[:0], s[:0]), "at least one map"),
    (lambda t, m, s: (t, m, np.where(np.arange(9)[:, None] == 4, 0.0, s)), "map 4"),
    (lambda t, m, s: (t, m, np.where(np.arange(9)[:, None] == 4, -0.1, s)), "map 4"),
    (lambda t, m, s: (t, np.where(np.arange(9)[:, None] == 4, np.nan, m), s), "(4, 0)"),
    (lambda t, m, s: (t, m, np.where(np.arange(9)[:, None] == 4, np.inf, s)), "(4, 0)")])
def test_bad_arrays(posterior, change, part):
    truth, mean, sd, _ = posterior
    with pytest.raises(InputError) as error:
        score.challenge_score(*change(truth[:9], mean[:9], sd[:9]))
    one_line(error, part)


# ---------------------------------------------------------------- bootstrap
def test_bootstrap_equals_a_plain_loop(rng):
    values = rng.normal(size=(37, 3))
    means = score.bootstrap_means(values, count=150, seed=3)
    again = np.random.default_rng(3)
    for start, stop in ((0, 64), (64, 128), (128, 150)):
        drawn = again.integers(0, 37, size=(stop - start, 37))
        want = [values[row].mean(0) for row in drawn]
        np.testing.assert_allclose(means[start:stop], want, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(means, score.bootstrap_means(values, count=150, seed=3))
    assert not np.array_equal(means, score.bootstrap_means(values, count=150, seed=4))


def test_bootstrap_error_of_a_mean(rng):
    values = rng.exponential(size=(2000, 1))
    error = score.bootstrap_means(values, count=2000).std(ddof=1)
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(2000), rel=0.06)


def test_bootstrap_of_clusters(rng):
    """Every map ten times over: by map the error is too small by sqrt(10), by cluster right."""
    values = rng.normal(size=(300, 1))
    tenfold, cluster = np.tile(values, (10, 1)), np.tile(np.arange(300), 10) * 7
    by_cluster = score.bootstrap_means(tenfold, 500, 1, cluster)
    np.testing.assert_allclose(by_cluster, score.bootstrap_means(values, 500, 1), rtol=1e-9,
                               atol=1e-12)
    assert score.bootstrap_means(tenfold, 500, 1).std() < 0.4 * by_cluster.std()


# ---------------------------------------------------------------- calibration
def test_rank_test_against_scipy(rng):
    for n_draws in (9, 99, 100):
        ranks = rng.integers(0, n_draws + 1, 3000)
        bins = min(20, n_draws + 1)
        edges = np.searchsorted(np.arange(n_draws + 1) * bins // (n_draws + 1), np.arange(bins + 1))
        count = np.histogram(ranks, np.append(edges[:-1], n_draws + 1) - 0.5)[0]
        want = stats.chisquare(count, np.diff(edges) / (n_draws + 1) * 3000).pvalue
        assert calibration.rank_p_value(ranks, n_draws) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("scale, good", [(1.0, True), (0.7, False), (1.4, False)])
def test_calibration_separates_right_from_wrong_error_bars(posterior, scale, good):
    truth, mean, sd, rho = posterior
    sd, rng = scale * sd, np.random.default_rng(2)
    values = score.probabilities(truth, score.Posterior(mean, sd))
    draws = mean[:, None] + sd[:, None] * pairs(rng, len(truth), 99)
    p_values = [uniform_p_value(values[:, 0]),
                calibration.rank_p_value((draws < truth[:, None]).sum(1)[:, 1], 99),
                uniform_p_value(calibration.tarp(truth, draws)),
                uniform_p_value(np.exp(-0.5 * score.joint_distance(truth, mean, sd, rho)))]
    assert all(p > 0.01 if good else p < 1e-6 for p in p_values), p_values
    levels = [0.5, 0.682689, 0.9545]
    want = [math.erf(stats.norm.ppf(0.5 + level / 2) * scale / math.sqrt(2)) for level in levels]
    np.testing.assert_allclose(coverage_curve(values, levels), np.transpose([want, want]),
                               atol=0.025)


def test_joint_checks_see_a_wrong_correlation(posterior):
    """Both parameters alone are calibrated; only the ellipse and TARP can tell."""
    truth, mean, sd, rho = posterior
    rng = np.random.default_rng(2)
    wrong = mean[:, None] + sd[:, None] * pairs(rng, len(truth), 99) * [1, -1]
    assert calibration.rank_p_value((wrong < truth[:, None]).sum(1)[:, 0], 99) > 0.01
    assert uniform_p_value(calibration.tarp(truth, wrong)) < 0.01
    assert uniform_p_value(np.exp(-0.5 * score.joint_distance(truth, mean, sd, -rho))) < 1e-6


def test_joint_distance_against_linear_algebra(posterior):
    truth, mean, sd, rho = posterior
    for i in range(5):
        off = rho[i] * sd[i, 0] * sd[i, 1]
        e = truth[i] - mean[i]
        want = e @ np.linalg.solve([[sd[i, 0]**2, off], [off, sd[i, 1]**2]], e)
        assert score.joint_distance(truth, mean, sd, rho)[i] == pytest.approx(want, rel=1e-10)


# ---------------------------------------------------------------- the summary
def test_summary(posterior):
    truth, mean, sd, rho = posterior
    variance = np.array([0.01, 0.004])
    given = Posterior(mean, sd, correlation=rho,
                      quantiles={"q16": mean - 0.5 * sd, "q84": mean + 0.5 * sd})
    out = score.summarise(truth, given, variance, count=300)
    error = mean - truth
    assert out["n"] == 4000
    assert out["score"] == pytest.approx(score.challenge_score(truth, mean, sd).mean())
    np.testing.assert_allclose(out["mse"], (error**2).mean(0) / variance)
    assert out["mse_mean"] == pytest.approx(np.mean(out["mse"]))
    scatter = ((truth - truth.mean(0))**2).sum(0)
    np.testing.assert_allclose(out["r2"], 1 - (error**2).sum(0) / scatter)
    np.testing.assert_allclose(out["bias"], error.mean(0), atol=1e-15)
    np.testing.assert_allclose(out["bias_error"], error.std(0) / math.sqrt(4000), rtol=0.15)
    np.testing.assert_allclose(out["mean_sd"], sd.mean(0))
    np.testing.assert_allclose(out["coverage_68"], (np.abs(error / sd) <= 1).mean(0))
    np.testing.assert_allclose(out["coverage_95"], (np.abs(error / sd) <= 2).mean(0))
    np.testing.assert_allclose(out["coverage_68_quantiles"], (np.abs(error / sd) <= 0.5).mean(0))
    for name, want in (("coverage_68_mean", 0.6827), ("coverage_95_mean", 0.9545),
                       ("coverage_68_joint", 0.6827), ("coverage_95_joint", 0.9545)):
        assert abs(out[name] - want) < 4 * out[f"{name}_error"] < 0.05
    assert out["score"] == pytest.approx(-np.sum(list(out["score_terms"].values())))
    assert min(out["pit_p_value"]) > 0.01
    assert out == score.summarise(truth, given, variance, count=300)


def test_the_curve_is_that_of_the_quantiles(posterior):
    """All five quantiles of half the width give their own curve; without one it is that of the
    error bars."""
    truth, mean, sd, _ = posterior
    quantiles = {name: mean + 0.5 * sd * stats.norm.ppf(p) for name, p in params.LEVELS.items()}
    given, level = Posterior(mean, sd, quantiles=quantiles), np.arange(1, 10) / 10
    curve = score.summarise(truth, given, [0.01, 0.004], count=2)["coverage_curve"]
    want = [2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.5 + p / 2)) - 1 for p in level]
    np.testing.assert_allclose(curve, np.array([want] * 2).T, atol=0.03)
    del quantiles["q50"]
    curve = score.summarise(truth, given, [0.01, 0.004], count=2)["coverage_curve"]
    np.testing.assert_allclose(curve, np.array([level] * 2).T, atol=0.03)


def test_expected_score_is_the_mean_score_of_right_error_bars(rng):
    sd = rng.uniform(0.005, 0.05, (200, 2))
    draws = [score.challenge_score(np.zeros_like(sd), sd * rng.normal(size=sd.shape), sd)
             for _ in range(2000)]
    np.testing.assert_allclose(score.expected_score(sd), np.mean(draws, axis=0), atol=0.5)
    assert abs(score.expected_score(sd).mean() - np.mean(draws)) < 0.02


def test_the_mean_of_the_labels_has_mse_one(posterior):
    truth = posterior[0]
    guess = np.broadcast_to(truth.mean(0), truth.shape)
    out = score.summarise(truth, Posterior(guess, np.ones_like(truth)), truth.var(0), count=10)
    np.testing.assert_allclose(out["mse"] + out["r2"], [1, 1, 0, 0], atol=1e-12)


def test_errors_that_resampling_cannot_give(posterior):
    """All truths inside: not "100 +- 0"; dependent maps: the error of clusters, if larger."""
    truth, _, sd, _ = (a[:60] for a in posterior)
    out = score.summarise(truth, Posterior(truth, sd), [0.01, 0.01], count=50)
    assert out["coverage_68"] == [1.0, 1.0] and 0.01 < out["coverage_68_error"][0] < 0.04
    truth, mean, sd = (np.tile(a[:40], (10, 1)) for a in posterior[:3])
    by_map, by_seed = (score.summarise(truth, Posterior(mean, sd), [0.01, 0.01], count=300,
                                       cluster=cluster)
                       for cluster in (None, np.tile(np.arange(40), 10)))
    assert by_seed["score"] == by_map["score"]
    assert by_seed["score_error"] > 2.5 * by_map["score_error"]


def test_one_map():
    given = Posterior([[0.31, 0.8]], [[1e-6, 1e-6]])
    out = score.summarise([[0.3, 0.8]], given, [0.01, 0.01])
    assert out["score"] < -9e7 and out["score_error"] is None and out["r2"] == [None, None]


def test_no_heavy_imports(python):
    done = python("import sys, wl.scoring.score; "
                  "print({'torch', 'numba', 'scipy', 'h5py'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


def test_a_single_map_says_nothing_of_error_bars():
    """Its coverage is 0 or 100 %, without an error."""
    part = {"score": 1.0, "score_error": None, "n": 1}
    for name in ("68", "95"):
        part |= {f"coverage_{name}_mean": 0.0, f"coverage_{name}_mean_error": None}
    result = {"scored": "test", "subsets": {"test": part}, "diagnostics": {}, "path": "p.h5"}
    assert " bars=None " in table.last_line(result)
    for error, word in ((0.02, "fail"), (0.5, "hold")):
        part |= {f"coverage_{name}_mean_error": error for name in ("68", "95")}
        assert f" bars={word} " in table.last_line(result)
