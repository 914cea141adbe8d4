"""R-hat and bulk ESS against ArviZ's figures, an independent SciPy route, and series of known
truth."""
import numpy as np
import pytest
import synthetic
from scipy import stats

from wl.posterior import metropolis as diagnostics


def series(chains, draws, rho, seed, ties=0.0, shift=0.0):
    """AR(1) chains; a share of the draws repeats the one before, the first chain is shifted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(chains, draws))
    for k in range(1, draws):
        x[:, k] = rho * x[:, k - 1] + np.sqrt(1 - rho**2) * x[:, k]
    repeat = rng.uniform(size=x.shape) < ties
    for k in range(1, draws):
        x[repeat[:, k], k] = x[repeat[:, k], k - 1]
    x[0] += shift
    return x


def ours(x):
    rhat, ess = diagnostics._rank_diagnostics(np.asarray(x)[None])
    return rhat[0], ess[0]


def independent(x):
    """Vehtari et al. (2021) with SciPy's ranks and all autocovariances by a Fourier transform."""
    half = x.shape[1] // 2
    halves = np.concatenate([x[:, :half], x[:, -half:]])

    def scores(y):
        return stats.norm.ppf((stats.rankdata(y).reshape(y.shape) - 0.375) / (y.size + 0.25))

    def rhat(y):
        within = y.var(axis=1, ddof=1).mean()
        return np.sqrt(((half - 1) / half * within + y.mean(axis=1).var(ddof=1)) / within)

    z = scores(halves)
    centred = np.concatenate([z - z.mean(axis=1, keepdims=True), np.zeros_like(z)], axis=1)
    covariance = np.fft.irfft(np.abs(np.fft.rfft(centred, axis=1))**2,
                              axis=1)[:, :half].mean(axis=0) / half
    within = covariance[0] * half / (half - 1)
    plus = covariance[0] + z.mean(axis=1).var(ddof=1)
    rho = 1.0 - (within - covariance) / plus
    rho[0] = 1.0
    pairs = [rho[k] + rho[k + 1] for k in range(0, half - 3, 2)]
    positive = next((k for k, p in enumerate(pairs) if p < 0.0), (half - 3) // 2)
    last = max(rho[2 * positive], 0.0)
    tau = -1.0 + 2.0 * np.minimum.accumulate(pairs[:positive]).sum() + last
    return max(rhat(z), rhat(scores(np.abs(halves - np.median(halves))))), z.size / tau


ARVIZ = [            # az.rhat and az.ess(method="bulk") of ArviZ 0.23.4
    ((4, 250, 0.9, 1, 0.3, 0.0), 1.091704512034399, 37.35649862536742),
    ((4, 250, 0.9, 2, 0.0, 1.5), 1.3707378463188498, 10.0376653757142),
    ((2, 501, -0.5, 3, 0.2, 0.0), 0.9993209437054162, 965.6328247952351),
    ((1, 1000, 0.5, 4, 0.7, 0.0), None, 188.23865027257645),
    ((4, 101, 0.99, 5, 0.0, 0.0), 1.9669895401557802, 6.036548961645179)]


@pytest.mark.parametrize("arguments, rhat, ess", ARVIZ)
def test_equal_to_arviz(arguments, rhat, ess):
    found = ours(series(*arguments))
    assert np.isclose(found[1], ess, rtol=1e-9)
    # ArviZ gives none for a single chain; ours compares halves
    if rhat is not None:
        assert np.isclose(found[0], rhat, rtol=1e-10)


@pytest.mark.parametrize("chains, draws, rho, ties",
                         [(1, 1000, 0.6, 0.0), (4, 300, 0.9, 0.3), (3, 77, 0.2, 0.9),
                                                      (2, 2000, 0.97, 0.0)])
def test_equal_to_an_independent_route(chains, draws, rho, ties):
    for seed in range(4):
        x = series(chains, draws, rho, seed, ties)
        rhat, ess = independent(x)
        found = ours(x)
        assert np.isclose(found[0], rhat, rtol=1e-10)
        assert np.isclose(found[1], ess, rtol=1e-9)


def test_ranks_do_not_depend_on_the_scale():
    """Any monotone map leaves ranks as they are; an outlier that fills one bucket of the sort
    changes nothing."""
    x = series(3, 200, 0.7, 1)
    found = ours(x)
    # nearly all values in the first of 600 equal buckets
    bent = ours(np.exp(9.0 * x))
    assert np.isclose(bent[1], found[1], rtol=1e-12)


def test_many_maps_at_once_are_each_alone(rng):
    """Chains that never moved, and others, side by side."""
    x = np.stack([series(2, 60, 0.5, 1, 0.4), np.ones((2, 60)), series(2, 60, 0.9, 2)])
    rhat, ess = diagnostics._rank_diagnostics(x)
    assert [ours(one) for one in x] == list(zip(rhat, ess)) and (rhat[1], ess[1]) == (np.inf, 0.0)


def test_quantiles_of_a_histogram(rng):
    """Against NumPy on the values themselves, to a bin; exact where counts are equal."""
    levels, limits = np.array([0.025, 0.16, 0.5, 0.975]), np.array([-1.0, 3.0])
    values = rng.normal(1.0, 0.5, (5, 4000))
    histogram = np.stack([np.histogram(v, 1024, limits)[0] for v in values])
    found = diagnostics._histogram_quantiles(histogram, limits, levels)
    assert np.abs(found - np.quantile(values, levels, axis=1).T).max() < 2 * 4.0 / 1024
    flat = diagnostics._histogram_quantiles(np.full((1, 8), 3), limits, levels)
    assert np.allclose(flat, -1.0 + 4.0 * levels)
    gap = diagnostics._histogram_quantiles(np.array([[2, 0, 0, 2]]), limits, np.array([0.5, 0.75]))
    assert np.allclose(gap, [[0.0, 2.5]])


@pytest.mark.parametrize("rho, chains", [(0.0, 1), (0.8, 1), (0.8, 4), (-0.4, 4)])
def test_known_autocorrelation(rho, chains):
    """The median over 40 series is that of an AR(1) process."""
    ess = np.median([ours(series(chains, 2000, rho, seed))[1] for seed in range(40)])
    assert abs(ess / (chains * 2000 * (1 - rho) / (1 + rho)) - 1.0) < 0.06


def test_faults_show():
    """R-hat sees a chain elsewhere, a drift in one chain, and a chain of another width (by the
    folded ranks)."""
    x = series(4, 1000, 0.3, 2)
    assert ours(x)[0] < 1.01
    drift, wide = x.copy(), x.copy()
    drift[2, 500:] += 1.0
    wide[1] *= 3.0
    for bad in (x + np.array([[1.0], [0], [0], [0]]), drift, wide):
        assert ours(bad)[0] > 1.05
    assert ours(x + np.array([[3.0], [0], [0], [0]]))[1] < 100 < ours(x)[1]
    single = series(1, 1000, 0.3, 2)
    single[0, 500:] += 1.0
    assert ours(single)[0] > 1.05


def test_chains_without_a_spread():
    for x in (np.ones((2, 50)), np.random.default_rng(0).normal(size=(2, 3)), np.empty((1, 0))):
        assert ours(x) == (np.inf, 0.0)


@pytest.mark.parametrize("chains, thin", [(1, None), (4, None), (3, 1), (20, 5)])
def test_of_the_kept_draws(chains, thin):
    """What the sampler reports of a map is what its kept draws give, however many chains walk in
    step."""
    emulator = synthetic.emulator(60)
    summary = synthetic.draw(emulator, 20)[1]
    found = synthetic.chains(emulator, summary, nstep=1200, sigma=0.06, chains=chains, thin=thin,
                             draws=20)
    for m in range(20):
        for k in range(2):
            expected = ours(found.draws[m, :, :, k])
            assert found.rhat[m, k] == expected[0] and found.ess[m, k] == expected[1]
    few = synthetic.chains(emulator, summary, nstep=1200, sigma=0.06, chains=chains, thin=thin)
    assert np.array_equal(few.rhat, found.rhat) and np.array_equal(few.ess, found.ess)
