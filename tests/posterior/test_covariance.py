"""Mean and covariance per cosmology: divisors by derivation and by drawing, smoothing against known
truth."""
import numpy as np
import pytest
from conftest import one_line
from scipy import stats

from wl.posterior import covariance as statistics
from wl.core.checks import InputError
from wl.posterior.covariance import RAW, per_cosmology, smoothed
from wl.simulate.plan import design

THETA = design(101)
U = (THETA - THETA.mean(0)) / THETA.std(0)


def draw(mean, covariance, n, rng):
    """n realisations per cosmology: (n_cosmology, n, d)."""
    lower = np.linalg.cholesky(covariance)
    normal = rng.standard_normal((len(mean), n, mean.shape[1]))
    return mean[:, None] + np.einsum("cij,crj->cri", lower, normal)


def scaled(theta):
    """Parameters about the design's mean, at most one in size."""
    return (theta - theta.mean(0)) / np.abs(theta - theta.mean(0)).max(0)


def log_likelihood(summary, mean, covariance):
    """Mean of scipy's Gaussian log-density per map, constants and all."""
    return np.mean([stats.multivariate_normal(m, c).logpdf(e)
                    for e, m, c in zip(summary, mean, covariance)])


def network_like(u=U):
    """Two correlated summaries whose scatter grows over the design, as a network's estimates do."""
    mean = np.stack([0.3 + 0.08 * u[:, 0] + 0.02 * np.tanh(u[:, 1]),
                     0.81 + 0.05 * u[:, 1] + 0.004 * u[:, 0]**2], 1)
    sd = np.stack([0.03 * np.exp(0.35 * u[:, 0]), 0.02 * np.exp(0.1 * u[:, 1] - 0.15 * u[:, 0])], 1)
    rho = np.tanh(-0.8 + 0.2 * u[:, 0])
    correlation = np.eye(2) + rho[:, None, None] * (1 - np.eye(2))
    covariance = np.einsum("ci,cj->cij", sd, sd) * correlation
    return mean, covariance


def spectrum_like(d=10, u=U):
    k = np.arange(d)
    mean = -8 - 0.2 * k + u[:, 1:] * (0.10 + 0.02 * k) + u[:, :1] * (0.1 - 0.02 * k)
    mean += 0.02 * u[:, :1]**2
    sd = 0.05 * np.exp(-0.1 * k) * np.exp(0.2 * u[:, :1])
    return mean, np.einsum("ci,cj->cij", sd, sd) * 0.6**np.abs(k[:, None] - k)


# ---------------------------------------------------------------- raw
@pytest.mark.parametrize("n, d", [(5, 2), (51, 2), (13, 10), (40, 1)])
def test_per_cosmology_against_numpy(n, d, rng):
    summary = rng.standard_normal((7, n, d)) @ rng.standard_normal((d, d)) + 5
    mean, covariance = per_cosmology(summary)
    for c in range(7):
        oracle = np.atleast_2d(np.cov(summary[c].T)) * (n - 1) / (n - d - 2)
        assert np.allclose(covariance[c], oracle, rtol=1e-12)
        assert np.allclose(mean[c], summary[c].mean(0))
    assert np.array_equal(covariance, covariance.transpose(0, 2, 1))


@pytest.mark.parametrize("n, d, smooth",
                         [(4, 2, "none"), (1, 2, "none"), (12, 10, "none"), (0, 2, "none"),
                                          (1, 2, "auto"), (1, 2, "always"), (0, 2, "auto")])
def test_too_few_realisations(n, d, smooth):
    with pytest.raises(InputError) as error:
        smoothed(THETA, np.zeros((101, n, d)), smooth)
    one_line(error, "expected at least", f"got {n}", "simulate more")


def test_divisor_makes_the_inverse_unbiased(rng):
    """E[S^-1] = Sigma^-1: the Wishart mean, by drawing, for both divisors that are in use."""
    truth = np.array([[2.0, 0.9], [0.9, 1.0]])
    summary = draw(np.zeros((20000, 2)), np.broadcast_to(truth, (20000, 2, 2)), 8, rng)
    _, covariance = per_cosmology(summary)
    inverse = np.linalg.inv(covariance)
    error = 5 * inverse.std(0) / np.sqrt(20000)
    assert (np.abs(inverse.mean(0) - np.linalg.inv(truth)) < error).all() and error.max() < 0.1
    # about a known mean the scatter has n degrees of freedom in place of n - 1: divisor n - d - 1.
    # A smooth mean of many cosmologies is nearly that; n - d - 2 would be 25 % off here
    theta = np.random.default_rng(1).uniform(-1, 1, (20000, 2))
    _, covariance = statistics._fit(scaled(theta), summary, 1, RAW)
    inverse = np.linalg.inv(covariance)
    error = 5 * inverse.std(0) / np.sqrt(20000)
    assert (np.abs(inverse.mean(0) - np.linalg.inv(truth)) < error).all() and error.max() < 0.1


def test_smooth_covariance_is_unbiased(rng):
    """Few realisations, a mean that takes many degrees of freedom: the variance is right on
    average."""
    theta, found = design(24), {}
    u = scaled(theta)
    truth = np.diag([4.0, 0.25])
    for order in (RAW, 3):
        drawn = (draw(np.zeros((24, 2)), np.broadcast_to(truth, (24, 2, 2)), 4, rng)
                 for _ in range(300))
        total = [statistics._fit(u, summary, order, 0)[1][0] for summary in drawn]
        found[order] = np.mean(total, 0)
        error = 5 * np.std(total, 0) / np.sqrt(300)
        error += 0.01 * np.outer([2, 0.5], [2, 0.5])
        assert (np.abs(found[order] - truth) < error).all(), found


# ---------------------------------------------------------------- smooth
@pytest.mark.parametrize("order", [1, 2, 3])
def test_known_polynomial_mean_is_recovered(order, rng):
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    coefficient = rng.normal(0, 0.3, (len(powers), 2))
    mean = sum(c * (U[:, :1]**i * U[:, 1:]**j) for c, (i, j) in zip(coefficient, powers))
    covariance = np.broadcast_to(np.diag([0.04, 0.01]), (101, 2, 2))
    found, _, chosen = smoothed(THETA, draw(mean, covariance, 6, rng))
    assert chosen["mean"] >= order
    pull = (found - mean) / np.sqrt(np.array([0.04, 0.01]) / 6)
    # a fit of t terms has t degrees of freedom per summary, the raw means 101
    assert np.sum(pull**2) < stats.chi2.ppf(0.999, 2 * statistics._terms(chosen["mean"]))
    exact, *_ = smoothed(THETA, mean[:, None] + 1e-6 * rng.standard_normal((101, 6, 2)), "always")
    assert np.abs(exact - mean).max() < 3e-6


def test_known_varying_covariance_is_recovered(rng):
    mean, covariance = network_like()
    found_mean, found, chosen = smoothed(THETA, draw(mean, covariance, 20, rng))
    assert chosen["covariance"] >= 1
    ratio = np.sqrt(np.einsum("cii->ci", found) / np.einsum("cii->ci", covariance))
    assert np.abs(np.log(ratio)).max() < 0.25 and abs(np.log(ratio).mean()) < 0.02
    def rho(c):
        return c[:, 0, 1] / np.sqrt(c[:, 0, 0] * c[:, 1, 1])
    assert np.sqrt(np.mean((rho(found) - rho(covariance))**2)) < 0.04      # raw: about 0.13
    # it does vary
    assert np.std(np.sqrt(covariance[:, 0, 0])) > 0.3 * np.mean(np.sqrt(covariance[:, 0, 0]))


@pytest.mark.parametrize("d, n", [(2, 3), (2, 6), (2, 51), (5, 3), (10, 6), (5, 16), (1, 5)])
def test_always_positive_definite(d, n, rng):
    factor = rng.standard_normal((101, d, d + 1))
    wild = rng.normal(size=(101, d)), factor @ factor.transpose(0, 2, 1) + 1e-4 * np.eye(d)
    for truth in (network_like() if d == 2 else spectrum_like(d), wild):
        mean, covariance, _ = smoothed(THETA, draw(*truth, n, rng))
        assert np.isfinite(mean).all() and (np.linalg.eigvalsh(covariance) > 0).all()
        assert np.allclose(covariance, covariance.transpose(0, 2, 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("d, n, case", [(2, 6, "smooth"), (2, 51, "smooth"), (10, 20, "smooth"),
                                        (2, 60, "rough"), (2, 8, "rough"), (10, 20, "rough")])
def test_never_worse_than_raw_on_new_maps(d, n, case, rng):
    """Held-out log-likelihood: the gain where the truth is smooth, no loss where it is not."""
    mean, covariance = network_like() if d == 2 else spectrum_like()
    # each cosmology its own mean and scatter
    if case == "rough":
        mean = rng.normal(0, 1, mean.shape)
        covariance = covariance * np.exp(rng.normal(0, 1, (101, 1, 1)))
    summary, new = draw(mean, covariance, n, rng), draw(mean, covariance, 60, rng)
    *found, chosen = smoothed(THETA, summary)
    raw = log_likelihood(new, *per_cosmology(summary)[:2])
    ours, best = log_likelihood(new, *found), log_likelihood(new, mean, covariance)
    assert ours >= raw - 1e-9 and chosen["gain"] >= 0
    if case == "rough":
        assert chosen["mean"] == RAW
        # few maps: a common scatter may predict better
        assert chosen["covariance"] == RAW or n < 10 * d
    else:
        assert chosen["mean"] > RAW and chosen["covariance"] > RAW
        parameters = d * statistics._terms(chosen["mean"]) + d * (d - 1) / 2 * 3 + d * 6
        assert ours > best - 2.0 * parameters / 2 / (101 * n) - 0.01, (ours - best, chosen)
        # the gain that is reported is what new maps find, to the noise of cross-validation
        assert (ours - raw) > 0.3 * chosen["gain"] - 0.02


def test_raw_is_chosen_for_many_realisations_of_a_rough_design(rng):
    mean = rng.normal(0, 1, (101, 2))
    covariance = network_like()[1] * np.exp(rng.normal(0, 1, (101, 1, 1)))
    summary = draw(mean, covariance, 256, rng)
    found_mean, found, chosen = smoothed(THETA, summary)
    assert (chosen["mean"], chosen["covariance"], chosen["gain"]) == (RAW, RAW, 0.0)
    raw = per_cosmology(summary)
    assert np.array_equal(found_mean, raw[0]) and np.array_equal(found, raw[1])


def test_modes(rng):
    summary = draw(*network_like(), 12, rng)
    none = smoothed(THETA, summary, "none")
    assert np.array_equal(none[1], per_cosmology(summary)[1])
    assert none[2] == {"mean": RAW, "covariance": RAW, "gain": 0.0}
    always = smoothed(THETA, draw(rng.normal(0, 1, (101, 2)), network_like()[1], 100, rng),
                      "always")[2]
    assert always["mean"] > RAW and always["covariance"] > RAW
    with pytest.raises(InputError) as error:
        smoothed(THETA, summary, "a little")
    one_line(error, "--smooth", "auto, none, always")


@pytest.mark.parametrize("d, n", [(2, 6), (4, 12)])
def test_units_do_not_matter(d, n, rng):
    """Rescaled and shifted summaries give rescaled and shifted answers, rescaled parameters the
    same."""
    mean, covariance = network_like() if d == 2 else spectrum_like(d)
    summary = draw(mean, covariance, n, rng)
    scale, shift = 10.0**rng.uniform(-4, 4, d), rng.normal(0, 1, d)
    first = smoothed(THETA, summary, seed=3)
    second = smoothed(THETA, (summary + shift) * scale, seed=3)
    third = smoothed(THETA * [1000.0, 0.1] + 7.0, summary, seed=3)
    for other in (second, third):
        assert first[2] == pytest.approx(other[2], abs=1e-6)
    unit = np.sqrt(np.einsum("cii->ci", first[1]))
    assert np.abs((second[0] / scale - shift - first[0]) / unit).max() < 1e-6
    assert np.abs(second[1] / np.outer(scale, scale) / first[1] - 1).max() < 1e-4
    assert np.abs((third[0] - first[0]) / unit).max() < 1e-9
    assert np.allclose(third[1], first[1], rtol=1e-8)


def test_order_of_cosmologies_does_not_matter(rng):
    summary = draw(*network_like(), 7, rng)
    order = rng.permutation(101)
    first, second = smoothed(THETA, summary), smoothed(THETA[order], summary[order])
    assert first[2] == pytest.approx(second[2], abs=1e-8)
    assert np.allclose(first[0][order], second[0], rtol=1e-8)
    assert np.allclose(first[1][order], second[1], rtol=1e-6, atol=0)


def test_the_same_seed_gives_the_same_bits(rng):
    summary = draw(*network_like(), 7, rng)
    first, second = smoothed(THETA, summary, seed=4), smoothed(THETA, summary.copy(), seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], second[:3]))
    assert first[2] == second[2]


@pytest.mark.parametrize("n_cosmology", [3, 4, 5, 6, 12])
@pytest.mark.parametrize("n, d", [(2, 2), (3, 2), (5, 2), (24, 2), (6, 10), (24, 10)])
@pytest.mark.parametrize("smooth", ["auto", "always"])
def test_small_designs_answer_or_refuse(n_cosmology, n, d, smooth, rng):
    """The kit's sample has 3 cosmologies: an answer that is sane, or one line; never a crash."""
    theta = design(n_cosmology)
    u = scaled(theta)
    mean, covariance = network_like(u) if d == 2 else spectrum_like(u=u)
    try:
        found_mean, found, _ = smoothed(theta, draw(mean, covariance, n, rng), smooth)
    except InputError as error:
        one_line(error, "covariance", "expected", "simulate more")
        assert n_cosmology * n < 6 * d
        return
    assert (np.linalg.eigvalsh(found) > 0).all()
    pull = (found_mean - mean) / np.sqrt(np.einsum("cii->ci", covariance))
    assert np.sqrt(np.mean(pull**2)) < 2.5


@pytest.mark.parametrize("theta", [np.column_stack([np.linspace(0.1, 0.5, 12), np.full(12, 0.8)]),
                                   np.column_stack([np.linspace(0.1, 0.5, 12)] * 2),
                                   np.full((12, 2), 0.3)])
def test_degenerate_designs_do_not_crash(theta, rng):
    """Refusing them is the emulator's part."""
    mean, covariance, _ = smoothed(theta, rng.standard_normal((12, 8, 2)))
    assert np.isfinite(mean).all() and (np.linalg.eigvalsh(covariance) > 0).all()


@pytest.mark.parametrize("case", ["constant", "twice", "nothing", "nan"])
@pytest.mark.parametrize("smooth", ["auto", "always"])
def test_summaries_without_a_covariance(case, smooth, rng):
    summary = draw(*network_like(), 8, rng)
    if case == "constant":
        summary[:, :, 1] = 0.8
    elif case == "twice":
        summary[:, :, 1] = 2 * summary[:, :, 0] + 1
    elif case == "nothing":
        summary[:] = 0.0
    else:
        summary[3, 4, 1] = np.nan
    with pytest.raises(InputError) as error:
        smoothed(THETA, summary, smooth)
    one_line(error, "(3, 4, 1)" if case == "nan" else "singular")


# ---------------------------------------------------------------- what it is for
@pytest.mark.parametrize("n", [6, 51])
def test_coverage_of_new_maps(n):
    """chi2 of new maps is below its 68 % point for 68 % of them: the error bars downstream stand on
    it."""
    inside, rng = [], np.random.default_rng(n)
    mean, covariance = network_like()
    for _ in range(5):
        found_mean, found, _ = smoothed(THETA, draw(mean, covariance, n, rng))
        new = draw(mean, covariance, 100, rng) - found_mean[:, None]
        chi2 = np.einsum("cri,cij,crj->cr", new, np.linalg.inv(found), new)
        inside.append(np.mean(chi2 < stats.chi2.ppf(0.6827, 2)))
    assert np.mean(inside) == pytest.approx(0.6827, abs=0.02)


def test_variance_model_is_the_maximum():
    """Fisher scoring against a general optimiser, from even and from wild mean squares."""
    from scipy.optimize import minimize
    rng = np.random.default_rng(2)
    basis = statistics._polynomials(scaled(THETA), 2)
    for wild in (0.3, 1.0, 3.0):
        power = np.exp(rng.normal(0, wild, 101)) * 1e-4

        def cost(c):
            return np.sum(basis @ c + power * 1e4 * np.exp(-(basis @ c)))
        oracle = np.exp(basis @ minimize(cost, np.zeros(6), method="BFGS", tol=1e-9).x) * 1e-4
        assert np.allclose(statistics._log_linear(basis, power), oracle, rtol=1e-3)
