"""Chains and quadrature against independent routes, reproducibility, diagnostics and refusals."""
import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import ConvexHull

from wl.posterior import metropolis
from wl.core.checks import InputError
from wl.posterior.emulator import build
from wl.kernels import generators
from wl.posterior.quadrature import triangle_rule

RESULTS = tuple(field.name for field in dataclasses.fields(metropolis.Chains))


def digest(chains):
    return hashlib.sha256(b"".join(np.ascontiguousarray(getattr(chains, k)).tobytes()
                                   for k in RESULTS)).hexdigest()


def same(a, b):
    return all(np.array_equal(getattr(a, k), getattr(b, k), equal_nan=True) for k in RESULTS)


def quantiles(chains, i):
    return np.array([getattr(chains, q)[i] for q in ("q2_5", "q16", "q50", "q84", "q97_5")]).T


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(80)


@pytest.fixture(scope="module")
def maps(emulator):
    return synthetic.draw(emulator, 300)


@pytest.fixture(scope="module")
def truth(emulator, maps):
    return metropolis.exact(emulator, maps[1])


@pytest.mark.parametrize("d", [2, 4])
def test_equals_a_plain_loop(d):
    """Step by step the same chain as a Metropolis loop in NumPy and SciPy with the same numbers."""
    emulator = synthetic.emulator(40, d)
    estimate = synthetic.draw(emulator, 2)[1]
    nstep, sigma, seed = 300, 0.04, 3
    chains = metropolis.metropolis(emulator, estimate, nstep=nstep, sigma=sigma, burn_in=0.0, chains=2,
                                seed=seed, map_index=[7, 5], draws=2, thin=1)
    values = LinearNDInterpolator(emulator.theta, np.concatenate(
        [emulator.mean, emulator.covariance.reshape(-1, d * d), emulator.vertex_log_prior[:, None]], axis=1))

    def log_posterior(theta, e):
        v = values(theta)[0]
        if np.isnan(v[0]):
            return -np.inf
        return v[-1] + stats.multivariate_normal.logpdf(e, v[:d], v[d:-1].reshape(d, d))

    for m, index in enumerate((7, 5)):
        for c in range(2):
            state = np.empty(4, np.uint64)
            generators.seed_state(state, seed, generators.METROPOLIS + 256 * c, index)
            theta = chains.draws[m, c, 0]
            moves = 0
            lp = log_posterior(theta, estimate[m])
            for k in range(3):                       # the first step led to draw 0
                generators.normal(state) if k < 2 else generators.exponential(state)
            for step in range(1, nstep):
                new = theta + sigma * np.array([generators.normal(state), generators.normal(state)])
                threshold = generators.exponential(state)
                new_lp = log_posterior(new, estimate[m])
                if new_lp > lp - threshold:
                    theta, lp, moves = new, new_lp, moves + 1
                assert np.allclose(chains.draws[m, c, step], theta, rtol=0, atol=1e-12)
                assert np.isclose(chains.lp[m, c, step] - 0.5 * d * np.log(2 * np.pi), lp, atol=1e-9)
            assert moves > 20


def test_moments_are_those_of_the_draws(emulator, maps):
    """Sums in the kernel equal NumPy's moments of every kept step; histogram quantiles the sorted ones."""
    chains = metropolis.metropolis(emulator, maps[1][:5], nstep=20000, sigma=0.06, chains=3, seed=1, draws=5,
                                thin=1)
    x = chains.draws.reshape(5, -1, 2)
    assert x.shape[1] == 3 * 16000
    assert np.allclose(chains.mean, x.mean(axis=1), rtol=0, atol=1e-12)
    assert np.allclose(chains.sd, x.std(axis=1), rtol=1e-9)
    rho = [np.corrcoef(v.T)[0, 1] for v in x]
    assert np.allclose(chains.correlation, rho, atol=1e-9)
    moved = (np.diff(chains.draws, axis=2) != 0.0).any(axis=3).mean(axis=(1, 2))
    assert np.allclose(chains.acceptance, moved, atol=2e-4)
    exact = np.quantile(x, [0.025, 0.16, 0.5, 0.84, 0.975], axis=1)
    for i in range(5):
        error = (quantiles(chains, i) - exact[:, i].T) / chains.sd[i][:, None]
        assert np.abs(error).max() < 0.03            # every fourth step enters, bins are 0.02 sd wide
    some = metropolis.metropolis(emulator, maps[1][:5], nstep=20000, sigma=0.06, chains=3, seed=1, draws=5, thin=7)
    assert np.array_equal(some.draws, chains.draws[:, :, 6::7]) and np.array_equal(some.lp, chains.lp[:, :, 6::7])
    lp = emulator.log_posterior(chains.draws[2, 1, :50], maps[1][2:3])[0] + np.log(2 * np.pi)
    assert np.allclose(chains.lp[2, 1, :50], lp, atol=1e-9)


def test_agrees_with_quadrature(emulator, maps, truth):
    """Means within 0.15 posterior sd for 97 % of the maps at 10,000 steps; errors fall as 1/sqrt(nstep)."""
    estimate = maps[1]
    rms = {}
    for nstep, n in ((1000, 300), (10000, 300), (100000, 100)):
        chains = metropolis.metropolis(emulator, estimate[:n], nstep=nstep, sigma=0.06, seed=2)
        z = (chains.mean - truth.mean[:n]) / truth.sd[:n]
        rms[nstep] = np.sqrt(np.median(z**2) / 0.455)            # robust: the median of chi2 is 0.455
        if nstep == 10000:
            assert (np.abs(z) < 0.15).all(axis=1).mean() >= 0.97
            assert np.abs(np.log(chains.sd / truth.sd)).mean() < 0.1
            assert np.abs(chains.correlation - truth.correlation).mean() < 0.06
            for q in ("q16", "q50", "q84"):
                assert np.abs((getattr(chains, q) - getattr(truth, q)) / truth.sd).mean() < 0.1
    for a, b in ((1000, 10000), (10000, 100000)):
        assert 0.7 < rms[a] / rms[b] / np.sqrt(10.0) < 1.4
    assert rms[100000] < 0.02


def places(emulator):
    """Summaries that put the posterior in the middle, at the edge and outside of the hull, one far."""
    middle = emulator.interpolate(np.array([[0.28, 0.81]]))[0][0]
    corner = emulator.theta[np.argmax(emulator.theta[:, 0])]
    edge = emulator.interpolate(corner[None] + 0.02 * (np.array([0.28, 0.81]) - corner))[0][0]
    outward = edge - middle
    return np.stack([middle, edge, edge + 0.25 * outward, edge + outward])


@pytest.mark.parametrize("d", [2, 5])
def test_quadrature_against_a_grid(d):
    """Moments and quantiles of posteriors in the middle, at the edge and outside of the hull against a
    brute-force sum; the sum with the log-determinant's sign turned is far off."""
    emulator = synthetic.emulator(60, d)
    estimate = places(emulator)
    exact = metropolis.exact(emulator, estimate)
    assert exact.edge[0] < -1.5 and (exact.edge[2:] > -0.5).all()
    wrong = []
    for i, e in enumerate(estimate):
        mean, sd, correlation, q = synthetic.grid_posterior(emulator, e)
        tolerance = 2e-3 if i < 2 else 2e-2               # a grid is poor at a narrow peak on the edge
        assert np.abs((exact.mean[i] - mean) / sd).max() < tolerance
        assert np.abs(exact.sd[i] / sd - 1.0).max() < 2 * tolerance
        assert abs(exact.correlation[i] - correlation) < 2 * tolerance
        assert np.abs((quantiles(exact, i) - q) / sd[:, None]).max() < 0.02
        mean, sd, _, _ = synthetic.grid_posterior(emulator, e, n=200, sign=-1.0)
        wrong.append(np.abs((exact.mean[i] - mean) / sd).max())
    assert max(wrong) > 0.1


def test_edge_is_the_highest_density_on_the_whole_hull(emulator, maps, truth):
    """ln of it relative to the highest anywhere, by SciPy's hull and many points on and in it."""
    corner = emulator.theta[ConvexHull(emulator.theta).vertices]
    part = np.linspace(0, 1, 100)[:, None]
    rim = np.concatenate([part * a + (1 - part) * b for a, b in zip(corner, np.roll(corner, 1, axis=0))])
    rim = rim + 1e-9 * (corner.mean(axis=0) - rim)
    points = np.random.default_rng(1).uniform(*emulator.limits, size=(20000, 2))
    on, within = (emulator.log_posterior(p, maps[1]).max(axis=1) for p in (rim, points))
    assert np.abs(truth.edge - (on - np.maximum(on, within))).max() < 0.4
    assert np.sqrt(np.mean((truth.edge - (on - np.maximum(on, within)))**2)) < 0.1
    assert 20 < (truth.edge > -0.5).sum() < 280


def test_chain_at_the_edge_and_outside():
    """Where the estimate lies outside of what the emulator can predict, the chain stays in the hull and
    still agrees with the quadrature."""
    emulator = synthetic.emulator(60)
    estimate = places(emulator)
    exact = metropolis.exact(emulator, estimate)
    chains = metropolis.metropolis(emulator, estimate, nstep=100000, sigma=0.05, chains=2, draws=4)
    assert emulator.contains(chains.draws.reshape(-1, 2)).all()
    assert (np.abs(chains.mean - exact.mean) / exact.sd < 0.15).all()
    assert (np.abs(chains.sd / exact.sd - 1.0) < 0.15).all()
    far = estimate[:1] + [[0.1, -0.05], [0.3, -0.15], [0.8, -0.4]]      # up to some thirty sigma outside
    exact = metropolis.exact(emulator, far)
    chains = metropolis.metropolis(emulator, far, nstep=200000, sigma=0.008, seed=1)
    assert (0.0 < exact.sd).all() and (exact.sd[2] < 0.01).all()
    assert (np.abs(chains.mean - exact.mean) / exact.sd < 0.3).all()
    assert (np.abs(chains.sd / exact.sd - 1.0) < 0.3).all()
    hopeless = metropolis.exact(emulator, np.array([[50.0, -30.0]]))
    assert np.isfinite(hopeless.mean).all() and emulator.contains(hopeless.mean).all()


def test_known_posterior():
    """Identity mean, constant covariance, flat prior, hull far away: N(estimate, C), by both samplers."""
    rng = np.random.default_rng(1)
    corners = 3.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    theta = np.concatenate([rng.uniform(-1, 1, (40, 2)), corners])
    covariance = np.array([[0.04, 0.018], [0.018, 0.02]])
    emulator = build(theta, theta, np.tile(covariance, (len(theta), 1, 1)), prior="flat")
    estimate = rng.uniform(-0.5, 0.5, (40, 2))
    sd = np.sqrt(np.diag(covariance))
    exact = metropolis.exact(emulator, estimate)
    chains = metropolis.metropolis(emulator, estimate, nstep=50000, sigma=0.25, seed=4)
    assert np.allclose(exact.mean, estimate, atol=1e-6) and np.allclose(exact.sd, sd, rtol=1e-5)
    assert np.allclose(exact.correlation, 0.018 / sd.prod(), atol=1e-5)
    z = stats.norm.ppf([0.025, 0.16, 0.5, 0.84, 0.975])
    for i in range(40):
        assert np.allclose(quantiles(exact, i), estimate[i][:, None] + sd[:, None] * z, atol=0.01 * sd.max())
    pull = (chains.mean - estimate) / sd * np.sqrt(40000 / chains.tau)
    assert 0.75 < np.sqrt((pull**2).mean()) < 1.3                 # tau predicts the error of the mean
    assert np.abs(chains.sd / sd - 1.0).mean() < 0.03


def test_quadrature_converges():
    """Orders 6, 8 and 12: errors fall by orders of magnitude; 8 is good to 1e-5 of 12."""
    emulator = synthetic.emulator(100)
    estimate = synthetic.draw(emulator, 200)[1]
    results = {order: metropolis.exact(emulator, estimate, order) for order in (4, 6, 8, 12)}
    error = {o: max(np.abs(results[o].mean - results[12].mean).max(),
                    np.abs(results[o].sd - results[12].sd).max()) for o in (4, 6, 8)}
    assert error[4] > 20 * error[6] > 400 * error[8]
    assert error[6] < 1e-4 and error[8] < 1e-6


def test_triangle_rule():
    """Exact for all polynomials up to degree 2 order - 1, with weights that sum to one."""
    for order in (1, 2, 5):
        corners, weight = triangle_rule(order)
        assert (corners >= 0.0).all() and np.allclose(corners.sum(axis=1), 1.0)
        for a in range(2 * order):
            for b in range(2 * order - a):
                from math import factorial as f
                exact = 2.0 * f(a) * f(b) / f(a + b + 2)
                assert np.isclose(weight @ (corners[:, 0] ** a * corners[:, 1] ** b), exact, rtol=1e-12)


def test_calibration():
    """Truths from the prior and summaries from the emulator: quantile intervals cover as they say and
    ranks are uniform; with error bars multiplied by 0.7 they do not."""
    emulator = synthetic.emulator(80)
    theta, estimate = synthetic.draw(emulator, 3000, seed=8)
    exact = metropolis.exact(emulator, estimate)
    for low, high, level in (("q16", "q84", 0.68), ("q2_5", "q97_5", 0.95)):
        inside = (theta > getattr(exact, low)) & (theta < getattr(exact, high))
        assert (np.abs(inside.mean(axis=0) - level) < 4.0 * np.sqrt(level * (1 - level) / 3000)).all()
    chains = metropolis.metropolis(emulator, estimate[:600], nstep=8000, sigma=0.06, draws=600, thin=64)
    for scale in (1.0, 0.7):
        draws = chains.mean[:, None, None] + scale * (chains.draws - chains.mean[:, None, None])
        rank = (draws[:, 0] < theta[:600, None]).mean(axis=1)
        p = [stats.kstest(rank[:, k], "uniform").pvalue for k in range(2)]
        assert min(p) > 0.01 if scale == 1.0 else max(p) < 0.01


@pytest.fixture(scope="module")
def small(emulator, maps):
    options = dict(nstep=400, sigma=0.05, chains=3, seed=11, draws=60, thin=7)
    return options, metropolis.metropolis(emulator, maps[1][:60], **options)


def test_same_for_any_block(emulator, maps, small):
    options, whole = small
    for block in (1, 7, 60):
        assert same(whole, metropolis.metropolis(emulator, maps[1][:60], block=block, **options))


def test_same_for_shards(emulator, maps, small):
    """Shards with the global map indices, put together, equal the whole; permuted maps give permuted
    answers; without the indices another chain is drawn."""
    options, whole = small
    for part in (np.arange(0, 60, 3), np.random.default_rng(0).permutation(60)):
        piece = metropolis.metropolis(emulator, maps[1][part], map_index=part, **options)
        assert all(np.array_equal(getattr(piece, k), getattr(whole, k)[part], equal_nan=True) for k in RESULTS)
    other = metropolis.metropolis(emulator, maps[1][:60], map_index=np.arange(100, 160), **options)
    assert not np.array_equal(other.mean, whole.mean)
    reseeded = metropolis.metropolis(emulator, maps[1][:60], **{**options, "seed": 12})
    assert not np.array_equal(reseeded.mean, whole.mean)


def test_chains_do_not_depend_on_how_many(emulator, maps):
    """The first chain is the same alone, among 3, and among 20 (more than walk in step)."""
    options = dict(nstep=200, sigma=0.05, seed=1, draws=5, thin=1)
    one, three, twenty = (metropolis.metropolis(emulator, maps[1][:5], chains=c, **options) for c in (1, 3, 20))
    assert np.array_equal(one.draws[:, 0], three.draws[:, 0])
    assert np.array_equal(three.draws, twenty.draws[:, :3])
    assert len(np.unique(twenty.draws[0, :, -1, 0])) == 20
    assert np.allclose(twenty.mean, twenty.draws.mean(axis=(1, 2)), atol=1e-12)


THREADS = """
import hashlib, numba, numpy as np
import synthetic, test_metropolis
from wl.posterior import metropolis
emulator = synthetic.emulator(80)
estimate = synthetic.draw(emulator, 70)[1]
for threads in (1, 2, 4):
    numba.set_num_threads(threads)
    chains = metropolis.metropolis(emulator, estimate, nstep=300, sigma=0.05, chains=2, draws=3)
    learnt = metropolis.metropolis(emulator, estimate, nstep=300, sigma=0.5, burn_in=0.5, adapt=True)
    print(test_metropolis.digest(chains), test_metropolis.digest(learnt),
          test_metropolis.digest(metropolis.exact(emulator, estimate)))
"""


def test_same_for_any_thread_count(python):
    run = python(THREADS, env={"NUMBA_NUM_THREADS": "4"})
    assert run.returncode == 0, run.stderr
    lines = run.stdout.split("\n")
    assert len(lines[0]) > 100 and lines[0] == lines[1] == lines[2]


JIT = """
import synthetic, test_metropolis
from wl.posterior import emulator as emulators, metropolis, quadrature
emulators.GRID, quadrature.LINES = 24, 12
for d, count in ((2, 0.0), (3, 0.0), (2, 9.0)):
    emulator = synthetic.emulator(14, d)
    estimate = synthetic.draw(emulator, 3)[1]
    emulator.count = count                       # of realisations: the t-likelihood
    chains = metropolis.metropolis(emulator, estimate, nstep=200, sigma=0.3, burn_in=0.65, chains=2, draws=3, thin=2,
                                adapt=True)
    print(test_metropolis.digest(chains), test_metropolis.digest(metropolis.exact(emulator, estimate, order=3)))
"""


def test_same_without_jit(python):
    on = python(JIT)
    strict = "import warnings; warnings.simplefilter('error')\n"
    off = python(strict + JIT, env={"NUMBA_DISABLE_JIT": "1"})
    assert on.returncode == 0 and off.returncode == 0, on.stderr + off.stderr
    assert len(on.stdout) > 200 and on.stdout == off.stdout


def test_no_result_depends_on_the_look_up_grid(emulator, maps, monkeypatch):
    before = metropolis.metropolis(emulator, maps[1][:20], nstep=500, sigma=0.06)
    monkeypatch.setattr("wl.posterior.emulator.GRID", 9)
    coarse = synthetic.emulator(80)
    assert coarse.grid.shape == (12, 12)
    assert np.array_equal(before.mean, metropolis.metropolis(coarse, maps[1][:20], nstep=500, sigma=0.06).mean)


def test_memory_does_not_grow_with_steps(emulator, maps):
    def peak(nstep):
        tracemalloc.start()
        metropolis.metropolis(emulator, maps[1][:64], nstep=nstep, sigma=0.06)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    peak(100)
    assert peak(50000) < peak(500) + 1e6            # the chains themselves would take 51 MB


def autoregressive(rho, n, chains, steps, rng):
    x = np.empty((n, chains, steps, 2))
    x[:, :, 0] = rng.normal(size=(n, chains, 2))
    for k in range(1, steps):
        x[:, :, k] = rho * x[:, :, k - 1] + np.sqrt(1 - rho**2) * rng.normal(size=(n, chains, 2))
    return x


def batch_sums(x, begin, batches=32):
    n, chains, steps, _ = x.shape
    y = (x - begin[:, :, None]).reshape(n, chains, batches, -1, 2)
    return np.concatenate([y.sum(axis=3), (y**2).sum(axis=3), (y[..., :1] * y[..., 1:]).sum(axis=3)],
                          axis=3), np.full(batches, steps // batches)


@pytest.mark.parametrize("rho, chains", [(0.0, 1), (0.9, 1), (0.9, 4)])
def test_autocorrelation_time(rho, chains, rng):
    """Of an AR(1) series whose time is known, within the scatter of 32 batches."""
    x = autoregressive(rho, 100, chains, 6400, rng)
    begin = rng.normal(size=(100, chains, 2))
    tau = metropolis.autocorrelation_time(*batch_sums(x, begin), begin)
    assert abs(np.median(tau) * (1 - rho) / (1 + rho) - 1.0) < 0.12


def test_stuck_and_short_chains_show(emulator, maps):
    """A chain that never moves and one too short for batches have ESS 0 and R-hat inf."""
    stuck = metropolis.metropolis(emulator, maps[1][:3], nstep=1000, sigma=1e3)
    assert (stuck.acceptance == 0.0).all() and (stuck.sd == 0.0).all() and np.isfinite(stuck.mean).all()
    short = metropolis.metropolis(emulator, maps[1][:3], nstep=1, sigma=0.05)
    for chains in (stuck, short):
        assert (chains.ess == 0.0).all() and np.isinf(chains.rhat).all() and np.isinf(chains.tau).all()


def test_starts(emulator, maps):
    """The first chain begins at the design's point of highest posterior, all begin inside, further ones
    apart; points of one's own are taken, and refused outside."""
    estimate = maps[1][:40]
    best, _, _ = metropolis.survey(emulator, estimate)
    assert np.array_equal(best, np.argmax(emulator.log_posterior(emulator.theta, estimate), axis=1))
    begin = metropolis.starts(emulator, best, 4, 0, np.arange(40))
    assert emulator.contains(begin.reshape(-1, 2)).all()
    assert np.abs(begin[:, 0] - emulator.theta[best]).max() < 1e-3
    assert (begin[:, 1:] - begin[:, :1]).std(axis=(0, 1)).min() > 0.02
    own = np.tile([0.28, 0.8], (40, 1))
    a = metropolis.metropolis(emulator, estimate, nstep=1, sigma=1e-9, burn_in=0.0, start=own)
    assert np.allclose(a.mean, own, atol=1e-7)
    own[3] = 5.0
    with pytest.raises(InputError) as error:
        metropolis.metropolis(emulator, estimate, nstep=10, sigma=0.1, start=own)
    one_line(error, "map 3", "hull")


def test_progress_counts_maps(emulator, maps):
    class Count:
        calls = []

        def update(self, step):
            self.calls.append(step)
    metropolis.metropolis(emulator, maps[1][:50], nstep=10, sigma=0.1, block=16, progress=Count())
    assert Count.calls == [16, 16, 16, 2]


@pytest.mark.parametrize("wrong, word", [
    ({"nstep": 0}, "nstep"), ({"nstep": -5}, "nstep"), ({"sigma": 0.0}, "sigma"), ({"sigma": -1.0}, "sigma"),
    ({"sigma": np.nan}, "sigma"), ({"burn_in": 1.0}, "burn"), ({"burn_in": -0.1}, "burn"),
    ({"burn_in": np.nan}, "burn"), ({"chains": 0}, "chains"), ({"thin": 0}, "thin"),
    ({"nstep": 2**31}, "nstep"), ({"map_index": [0, 0, 1]}, "map_index"),
    ({"map_index": [0, 1]}, "map_index")])
def test_refused_settings(emulator, maps, wrong, word):
    with pytest.raises(InputError) as error:
        metropolis.metropolis(emulator, maps[1][:3], **{"nstep": 10, "sigma": 0.1, **wrong})
    one_line(error, word)


def test_refused_estimates(emulator):
    bad = np.full((3, 2), 0.5)
    bad[1, 1] = np.inf
    for estimate in (bad, np.zeros((3, 5)), np.zeros(2)):
        for run in (lambda e: metropolis.metropolis(emulator, e, nstep=10, sigma=0.1),
                    lambda e: metropolis.exact(emulator, e)):
            with pytest.raises(InputError) as error:
                run(estimate)
            one_line(error, "estimate")
    with pytest.raises(InputError):
        metropolis.exact(emulator, np.full((1, 2), 0.5), order=0)


def test_no_maps(emulator):
    """None in, none out."""
    for chains in (metropolis.metropolis(emulator, np.empty((0, 2)), nstep=10, sigma=0.1),
                   metropolis.exact(emulator, np.empty((0, 2)))):
        assert chains.mean.shape == (0, 2) and chains.acceptance.shape == (0,)
