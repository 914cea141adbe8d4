"""The t-likelihood and the vectorised Gaussian against SciPy; credible regions; adapted proposals."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats
from scipy.interpolate import LinearNDInterpolator

from wl.posterior import contours, posterior, metropolis
from wl.core.checks import InputError
from wl.posterior.emulator import build
from wl.kernels import generators, likelihood
from wl.kernels import metropolis as kernels


def of_count(n, d, count):
    theta = synthetic.design(n)
    return build(theta, *synthetic.statistics(theta, d), count=count)


# ---------------------------------------------------------------- Sellentin & Heavens
@pytest.mark.parametrize("d", [2, 5])
def test_t_likelihood_between_covariances(d):
    """Against scipy.stats.multivariate_t, constants included: N - d degrees of freedom, shape S (N - 1) / (N - d)."""
    count = 17.0
    emulator = of_count(40, d, count)
    theta, estimate = synthetic.draw(emulator, 8)
    s = LinearNDInterpolator(emulator.theta, synthetic.statistics(emulator.theta, d)[1].reshape(-1, d * d))(theta)
    s = s.reshape(-1, d, d) * (count - d - 2) / (count - 1)             # from scatter / (N - d - 2)
    mean = LinearNDInterpolator(emulator.theta, emulator.mean)(theta)
    oracle = np.array([[stats.multivariate_t.logpdf(e, m, c * (count - 1) / (count - d), df=count - d)
                        for m, c in zip(mean, s)] for e in estimate])
    assert np.allclose(emulator.log_likelihood(theta, estimate), oracle, rtol=1e-10, atol=1e-10)


def test_t_tends_to_the_gaussian():
    theta = synthetic.design(40)
    estimate = synthetic.draw(of_count(40, 2, None), 6)[1]
    gaussian = of_count(40, 2, None).log_likelihood(theta, estimate)
    for count, tolerance in ((1e4, 0.05), (1e8, 1e-5)):
        difference = np.abs(of_count(40, 2, count).log_likelihood(theta, estimate) - gaussian)[gaussian > -10]
        assert difference.max() < tolerance
    assert np.abs(of_count(40, 2, 12.0).log_likelihood(theta, estimate) - gaussian).max() > 0.5


@pytest.mark.parametrize("d", [2, 4])
def test_t_posterior_by_three_routes(d):
    """Quadrature, chain, and a plain sum over a grid of scipy.stats densities."""
    emulator = of_count(40, d, 12.0)
    estimate = synthetic.draw(emulator, 3)[1]
    exact = metropolis.exact(emulator, estimate)
    chains = metropolis.metropolis(emulator, estimate, nstep=100000, sigma=0.05, chains=2)
    assert (np.abs(chains.mean - exact.mean) / exact.sd < 0.1).all()
    assert (np.abs(chains.sd / exact.sd - 1.0) < 0.1).all()
    n, (low, high) = 250, emulator.limits
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = emulator.log_posterior(points, estimate)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert (np.abs(p @ points - exact.mean) / exact.sd < 0.02).all()
    cell = np.prod(high - low) / n**2
    assert np.allclose(np.log(np.exp(log_p).sum(1) * cell), exact.log_evidence, atol=0.02)
    gaussian = metropolis.exact(of_count(40, d, None), estimate)
    assert np.abs(exact.sd / gaussian.sd - 1.0).max() > 0.03            # it matters at 12 realisations


def test_t_p_value_is_hotellings():
    """Summaries about a known mean with covariances from 12 realisations have uniform p-values."""
    rng, d, count, n = np.random.default_rng(0), 3, 12, 4000
    sample = rng.normal(size=(n, count, d))
    covariance = np.stack([np.cov(s.T) for s in sample])
    chains = metropolis.exact(synthetic.emulator(30, d), np.zeros((n, d)))
    found = posterior.summarise(chains, rng.normal(size=(n, d)), np.zeros((n, d)), covariance, float(count))["p_value"]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    wrong = posterior.summarise(chains, rng.normal(size=(n, d)), np.zeros((n, d)), covariance)["p_value"]
    assert stats.kstest(wrong, "uniform").pvalue < 1e-6


def test_too_few_realisations_for_t():
    with pytest.raises(InputError) as error:
        of_count(30, 5, 7.0)
    one_line(error, "7", "t-likelihood")


@pytest.mark.parametrize("count", [0.0, 9.0])
@pytest.mark.parametrize("d", [1, 3, 10])
def test_lanes_equal_scipy(d, count, rng):
    """The density of many chains in step equals SciPy's, one lane at a time."""
    lanes, value, estimate, oracle = 16, [], rng.normal(size=(16, d)), []
    for e in estimate:
        root = rng.normal(size=(d, 3 * d))
        c, m, prior = root @ root.T / 7, rng.normal(size=d), rng.normal()
        value.append(np.concatenate([[prior], m, c[np.tril_indices(d)]]))
        chi2 = (e - m) @ np.linalg.solve(c, e - m)
        chi2 = count * np.log1p(chi2 / (count - 1)) if count else chi2
        oracle.append(prior - 0.5 * (chi2 + np.linalg.slogdet(c)[1]))
    out = np.empty(lanes)
    likelihood.log_densities(np.ascontiguousarray(np.array(value).T), np.ascontiguousarray(estimate.T), count,
                             np.empty((2 * d + 2 + d * (d + 1) // 2, lanes)), out)
    assert np.allclose(out, oracle, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- highest-density regions
@pytest.fixture(scope="module")
def toy():
    """Identity mean, constant covariance, flat prior, hull far away: the posterior is N(estimate, C)."""
    rng = np.random.default_rng(1)
    theta = np.concatenate([rng.uniform(-1, 1, (40, 2)), 3.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])])
    covariance = np.array([[0.04, 0.018], [0.018, 0.02]])
    emulator = build(theta, theta, np.tile(covariance, (len(theta), 1, 1)), prior="flat")
    return emulator, covariance, rng.uniform(-0.5, 0.5, (20, 2))


def test_regions_of_a_gaussian(toy):
    """Density at the edge, area and line are those of the ellipses that hold 68.3 and 95.4 %."""
    emulator, covariance, estimate = toy
    exact = metropolis.exact(emulator, estimate)
    root = np.sqrt(np.linalg.det(covariance))
    for k, probability in enumerate((0.682689, 0.954500)):
        radius2 = stats.chi2.ppf(probability, 2)
        assert np.allclose(exact.contour[:, k], -np.log(2 * np.pi * root) - 0.5 * radius2, atol=0.12)
        assert abs((exact.contour[:, k] + np.log(2 * np.pi * root) + 0.5 * radius2).mean()) < 0.02
        assert np.allclose(exact.area[:, k], np.pi * radius2 * root, rtol=0.1)
        assert abs(exact.area[:, k].mean() / (np.pi * radius2 * root) - 1.0) < 0.02
        pieces = contours.contour(emulator, estimate[0], -np.log(2 * np.pi * root) - 0.5 * radius2,
                                  exact.log_evidence[0], resolution=24)
        r = pieces.reshape(-1, 2) - estimate[0]
        assert np.abs(np.einsum("pi,ij,pj->p", r, np.linalg.inv(covariance), r) / radius2 - 1.0).max() < 0.05
        length = np.linalg.norm(np.diff(pieces, axis=1)[:, 0], axis=1).sum()
        a, b = np.sqrt(np.linalg.eigvalsh(covariance) * radius2)
        h = ((a - b) / (a + b)) ** 2                                   # Ramanujan's perimeter of an ellipse
        assert abs(length / (np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))) - 1.0) < 0.01


def test_evidence_is_the_integral(toy):
    """For the toy: the flat prior's density, as all of the likelihood lies in the hull."""
    emulator, _, estimate = toy
    assert np.allclose(metropolis.exact(emulator, estimate).log_evidence, -np.log(36.0), atol=1e-5)


def test_regions_hold_their_share():
    """Of truths from the prior, where the hull cuts posteriors too."""
    emulator = synthetic.emulator(80)
    theta, estimate = synthetic.draw(emulator, 2000, seed=3)
    exact = metropolis.exact(emulator, estimate)
    density = np.array([emulator.log_posterior(t[None], e[None])[0, 0] for t, e in zip(theta, estimate)])
    for k, probability in enumerate((0.683, 0.954)):
        inside = (density - exact.log_evidence >= exact.contour[:, k]).mean()
        assert abs(inside - probability) < 4.0 * np.sqrt(probability * (1 - probability) / 2000)


def test_quadrature_error():
    """Falls with the order, is small at the default one, and shows a quadrature that is too coarse."""
    emulator = synthetic.emulator(80)
    estimate = synthetic.draw(emulator, 100)[1]
    error = metropolis.quadrature_error(emulator, estimate, orders=(2, 6, 8))
    assert error[0] > 30 * error[1] > 300 * error[2] and error[2] < 1e-5 and error[0] > 0.01
    assert np.isnan(metropolis.quadrature_error(emulator, estimate[:0])).all()


# ---------------------------------------------------------------- adapted proposals
@pytest.mark.parametrize("sigma", [0.002, 0.06, 0.6])
def test_adapted_proposals(sigma):
    """From widths that are far too small and too large to a good acceptance, and the right posterior."""
    emulator = synthetic.emulator(80)
    estimate = synthetic.draw(emulator, 40)[1]
    exact = metropolis.exact(emulator, estimate)
    options = dict(nstep=20000, sigma=sigma, seed=3)
    chains = metropolis.metropolis(emulator, estimate, adapt=True, **options)
    assert 0.2 < np.median(chains.acceptance) < 0.5 and chains.acceptance.min() > 0.1
    assert np.sqrt(np.mean(((chains.mean - exact.mean) / exact.sd) ** 2)) < 0.06
    assert np.abs(np.log(chains.sd / exact.sd)).mean() < 0.05
    plain = metropolis.metropolis(emulator, estimate, **options)
    if sigma != 0.06:
        assert np.median(chains.ess) > 2 * np.median(plain.ess)


def test_a_learnt_proposal_has_the_shape_of_the_chain(rng):
    """Its numbers have 2.38^2 / 2 times the covariance of the steps that it was learnt from, correlation too."""
    covariance = np.array([[0.04, -0.027], [-0.027, 0.0225]])
    steps = rng.multivariate_normal([0.3, -0.2], covariance, size=5000)
    lane = np.zeros((kernels.ROWS, kernels.LANES))
    lane[kernels.COUNT, 3] = 999
    lane[kernels.S0:kernels.S0 + 5, 3] = np.concatenate([steps.sum(axis=0), (steps**2).sum(axis=0),
                                                         [steps.prod(axis=1).sum()]])
    kernels._adapt(lane, 3, len(steps))
    assert (lane[kernels.S0:kernels.S0 + 5] == 0.0).all() and lane[kernels.COUNT, 3] == 0.0
    state, noise = np.empty(4, np.uint64), np.empty((40000, 3, kernels.LANES))
    generators.seed_state(state, 1, 2, 3)
    kernels._draw(state, lane, noise, 3, len(noise))
    assert np.allclose(np.cov(noise[:, :2, 3].T), 2.38**2 / 2 * np.cov(steps.T), rtol=0.05)
    assert abs(noise[:, 2, 3].mean() - 1.0) < 0.03


def test_the_proposal_is_frozen_after_the_burn_in(monkeypatch):
    """Burn-in and seed alone fix the proposal: a longer run goes on as the shorter one."""
    emulator = synthetic.emulator(60)
    estimate = synthetic.draw(emulator, 5)[1]
    options = dict(sigma=0.3, seed=1, draws=5, thin=1, adapt=True)
    short = metropolis.metropolis(emulator, estimate, nstep=1000, burn_in=0.5, **options)
    long = metropolis.metropolis(emulator, estimate, nstep=2000, burn_in=0.25, **options)
    assert np.array_equal(short.draws, long.draws[:, :, :500])
    for part in ([3, 1], [4]):
        piece = metropolis.metropolis(emulator, estimate[part], nstep=1000, burn_in=0.5, map_index=part,
                                   **{**options, "draws": 2})
        assert np.array_equal(piece.draws, short.draws[part])


@pytest.mark.parametrize("burn", [608, 640])
def test_the_last_adaptation_may_end_the_burn_in(burn):
    """A burn-in that is a multiple of the four windows learns as well as another: its last sums count too."""
    emulator = synthetic.emulator(60)
    estimate = synthetic.draw(emulator, 40)[1]
    chains = metropolis.metropolis(emulator, estimate, nstep=burn + 3000, burn_in=(burn + 0.5) / (burn + 3000), sigma=0.06,
                                adapt=True)
    assert 0.25 < np.median(chains.acceptance) < 0.45


def test_adapting_takes_a_burn_in():
    emulator = synthetic.emulator(30)
    with pytest.raises(InputError) as error:
        metropolis.metropolis(emulator, np.full((1, 2), 0.5), nstep=500, sigma=0.1, burn_in=0.2, adapt=True)
    one_line(error, "adapt", "100", "128")


def test_guesses_are_taken_inside_the_hull():
    emulator = synthetic.emulator(60)
    guess = np.array([[0.28, 0.81], [5.0, 5.0]])
    estimate = np.repeat(emulator.interpolate(guess[:1])[0], 2, axis=0)
    begin = metropolis.starts(emulator, np.array([3, 4]), 1, 0, np.arange(2), guess=guess)
    assert np.abs(begin[0, 0] - guess[0]).max() < 1e-3
    assert np.abs(begin[1, 0] - emulator.theta[4]).max() < 1e-3
    found = metropolis.metropolis(emulator, estimate, nstep=1, sigma=1e-9, burn_in=0.0, guess=guess)
    best = metropolis.survey(emulator, estimate)[0][1]
    assert np.allclose(found.mean[0], begin[0, 0], atol=1e-7)
    assert np.abs(found.mean[1] - emulator.theta[best]).max() < 1e-3
