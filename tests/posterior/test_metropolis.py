"""Chains against independent routes, reproducibility, adapted proposals, diagnostics and
refusals."""
import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats
from scipy.interpolate import LinearNDInterpolator

from wl.core import seeds
from wl.core.checks import InputError
from wl.kernels import metropolis as kernels
from wl.kernels import noise as generators
from wl.posterior import metropolis
from wl.posterior.emulator import build
from wl.posterior.posterior import Chains
from wl.posterior.quadrature import exact, survey


RESULTS = tuple(field.name for field in dataclasses.fields(Chains))


def digest(chains):
    return hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for k in RESULTS
                                   if (value := getattr(chains, k)) is not None)).hexdigest()


def same(a, b):
    return all(getattr(b, k) is None if getattr(a, k) is None else
               np.array_equal(getattr(a, k), getattr(b, k), equal_nan=True) for k in RESULTS)


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(80)


@pytest.fixture(scope="module")
def maps(emulator):
    return synthetic.draw(emulator, 300)


@pytest.fixture(scope="module")
def truth(emulator, maps):
    return exact(emulator, maps[1])


@pytest.mark.parametrize("d", [2, 4])
def test_equals_a_plain_loop(d):
    """Step by step the same chain as a Metropolis loop in NumPy and SciPy with the same numbers."""
    emulator = synthetic.emulator(40, d)
    summary = synthetic.draw(emulator, 2)[1]
    nstep, sigma, seed = 300, 0.04, 3
    chains = synthetic.chains(emulator, summary, nstep=nstep, sigma=sigma, burn_in=0.0, chains=2,
                                seed=seed, map_index=[7, 5], draws=2, thin=1)
    values = LinearNDInterpolator(emulator.theta, np.concatenate(
        [emulator.mean, emulator.covariance.reshape(-1, d * d), emulator.vertex_log_prior[:, None]],
        axis=1))

    def log_posterior(theta, e):
        v = values(theta)[0]
        if np.isnan(v[0]):
            return -np.inf
        return v[-1] + stats.multivariate_normal.logpdf(e, v[:d], v[d:-1].reshape(d, d))

    for m, index in enumerate((7, 5)):
        for c in range(2):
            state = np.empty(4, np.uint64)
            generators.seed_state(state, seed, seeds.METROPOLIS + 256 * c, index)
            theta = chains.draws[m, c, 0]
            moves = 0
            lp = log_posterior(theta, summary[m])
            for k in range(3):                       # the first step led to draw 0
                generators.normal(state) if k < 2 else generators.exponential(state)
            for step in range(1, nstep):
                new = theta + sigma * np.array([generators.normal(state), generators.normal(state)])
                threshold = generators.exponential(state)
                new_lp = log_posterior(new, summary[m])
                if new_lp > lp - threshold:
                    theta, lp, moves = new, new_lp, moves + 1
                assert np.allclose(chains.draws[m, c, step], theta, rtol=0, atol=1e-12)
                assert np.isclose(chains.lp[m, c, step] - 0.5 * d * np.log(2 * np.pi), lp,
                                  atol=1e-9)
            assert moves > 20


def test_moments_are_those_of_the_draws(emulator, maps):
    """Sums in the kernel equal NumPy's moments of every kept step; histogram quantiles the sorted
    ones."""
    chains = synthetic.chains(emulator, maps[1][:5], nstep=20000, sigma=0.06, chains=3, seed=1,
                              draws=5,
                                thin=1)
    x = chains.draws.reshape(5, -1, 2)
    assert x.shape[1] == 3 * 16000
    assert np.allclose(chains.mean, x.mean(axis=1), rtol=0, atol=1e-12)
    assert np.allclose(chains.sd, x.std(axis=1), rtol=1e-9)
    rho = [np.corrcoef(v.T)[0, 1] for v in x]
    assert np.allclose(chains.correlation, rho, atol=1e-9)
    moved = (np.diff(chains.draws, axis=2) != 0.0).any(axis=3).mean(axis=(1, 2))
    assert np.allclose(chains.acceptance, moved, atol=2e-4)
    entered = chains.draws[:, :, ::kernels.EVERY].reshape(5, -1, 2)
    exact = np.quantile(entered, [0.025, 0.16, 0.5, 0.84, 0.975], axis=1)
    for i in range(5):
        error = (synthetic.quantiles(chains, i) - exact[:, i].T) / chains.sd[i][:, None]
        assert np.abs(error).max() < 0.015           # bins are 0.02 sd wide
    some = synthetic.chains(emulator, maps[1][:5], nstep=20000, sigma=0.06, chains=3, seed=1,
                            draws=5, thin=7)
    assert np.array_equal(some.draws, chains.draws[:, :, 6::7])
    assert np.array_equal(some.lp, chains.lp[:, :, 6::7])
    lp = emulator.log_posterior(chains.draws[2, 1, :50], maps[1][2:3])[0] + np.log(2 * np.pi)
    assert np.allclose(chains.lp[2, 1, :50], lp, atol=1e-9)


def test_agrees_with_quadrature(emulator, maps, truth):
    """Means within 0.15 posterior sd for 97 % of the maps at 10,000 steps; errors fall as
    1/sqrt(nstep)."""
    summary = maps[1]
    rms = {}
    for nstep, n in ((1000, 300), (10000, 300), (100000, 100)):
        chains = synthetic.chains(emulator, summary[:n], nstep=nstep, sigma=0.06, seed=2)
        z = (chains.mean - truth.mean[:n]) / truth.sd[:n]
        # robust: the median of chi2 is 0.455
        rms[nstep] = np.sqrt(np.median(z**2) / 0.455)
        if nstep == 10000:
            assert (np.abs(z) < 0.15).all(axis=1).mean() >= 0.97
            assert np.abs(np.log(chains.sd / truth.sd)).mean() < 0.1
            assert np.abs(chains.correlation - truth.correlation).mean() < 0.06
            for q in ("q16", "q50", "q84"):
                assert np.abs((getattr(chains, q) - getattr(truth, q)) / truth.sd).mean() < 0.1
    for a, b in ((1000, 10000), (10000, 100000)):
        assert 0.7 < rms[a] / rms[b] / np.sqrt(10.0) < 1.4
    assert rms[100000] < 0.02


def test_chain_at_the_edge_and_outside():
    """Where the summary lies outside of what the emulator can predict, the chain stays in the hull
    and still agrees with the quadrature."""
    emulator = synthetic.emulator(60)
    summary = synthetic.places(emulator)
    truth = exact(emulator, summary)
    chains = synthetic.chains(emulator, summary, nstep=100000, sigma=0.05, chains=2, draws=4)
    assert synthetic.contains(emulator, chains.draws.reshape(-1, 2)).all()
    assert (np.abs(chains.mean - truth.mean) / truth.sd < 0.15).all()
    assert (np.abs(chains.sd / truth.sd - 1.0) < 0.15).all()
    # up to some thirty sigma outside
    far = summary[:1] + [[0.1, -0.05], [0.3, -0.15], [0.8, -0.4]]
    truth = exact(emulator, far)
    chains = synthetic.chains(emulator, far, nstep=200000, sigma=0.008, seed=1)
    assert (0.0 < truth.sd).all() and (truth.sd[2] < 0.01).all()
    assert (np.abs(chains.mean - truth.mean) / truth.sd < 0.3).all()
    assert (np.abs(chains.sd / truth.sd - 1.0) < 0.3).all()
    hopeless = exact(emulator, np.array([[50.0, -30.0]]))
    assert np.isfinite(hopeless.mean).all() and synthetic.contains(emulator, hopeless.mean).all()


def test_known_posterior():
    """Identity mean, constant covariance, flat prior, hull far away: N(summary, C), by both
    samplers."""
    rng = np.random.default_rng(1)
    corners = 3.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    theta = np.concatenate([rng.uniform(-1, 1, (40, 2)), corners])
    covariance = np.array([[0.04, 0.018], [0.018, 0.02]])
    emulator = build(theta, theta, np.tile(covariance, (len(theta), 1, 1)), prior="flat")
    summary = rng.uniform(-0.5, 0.5, (40, 2))
    sd = np.sqrt(np.diag(covariance))
    truth = exact(emulator, summary)
    chains = synthetic.chains(emulator, summary, nstep=50000, sigma=0.25, seed=4)
    assert np.allclose(truth.mean, summary, atol=1e-6) and np.allclose(truth.sd, sd, rtol=1e-5)
    assert np.allclose(truth.correlation, 0.018 / sd.prod(), atol=1e-5)
    z = stats.norm.ppf([0.025, 0.16, 0.5, 0.84, 0.975])
    for i in range(40):
        assert np.allclose(synthetic.quantiles(truth, i), summary[i][:, None] + sd[:, None] * z,
                           atol=0.01 * sd.max())
    pull = (chains.mean - summary) / sd * np.sqrt(40000 / chains.tau)
    # tau predicts the error of the mean
    assert 0.75 < np.sqrt((pull**2).mean()) < 1.3
    assert np.abs(chains.sd / sd - 1.0).mean() < 0.03


def test_calibration():
    """Truths from the prior and summaries from the emulator: quantile intervals cover as they say
    and ranks are uniform; with error bars multiplied by 0.7 they do not."""
    emulator = synthetic.emulator(80)
    theta, summary = synthetic.draw(emulator, 3000, seed=8)
    truth = exact(emulator, summary)
    for low, high, level in (("q16", "q84", 0.68), ("q2_5", "q97_5", 0.95)):
        inside = (theta > getattr(truth, low)) & (theta < getattr(truth, high))
        assert (np.abs(inside.mean(axis=0) - level) < 4.0
                * np.sqrt(level * (1 - level) / 3000)).all()
    chains = synthetic.chains(emulator, summary[:1200], nstep=8000, sigma=0.06, draws=1200, thin=64)
    for scale in (1.0, 0.7):
        draws = chains.mean[:, None, None] + scale * (chains.draws - chains.mean[:, None, None])
        rank = (draws[:, 0] < theta[:1200, None]).mean(axis=1)
        p = [stats.kstest(rank[:, k], "uniform").pvalue for k in range(2)]
        assert min(p) > 0.01 if scale == 1.0 else max(p) < 0.01


@pytest.fixture(scope="module")
def small(emulator, maps):
    options = dict(nstep=400, sigma=0.05, chains=3, seed=11, draws=60, thin=7)
    return options, synthetic.chains(emulator, maps[1][:60], **options)


def test_same_for_any_block(emulator, maps, small, monkeypatch):
    options, whole = small
    for block in (1, 7, 60):
        monkeypatch.setattr(metropolis, "_block_size", lambda *_: block)
        assert same(whole, synthetic.chains(emulator, maps[1][:60], **options))


def test_same_for_shards(emulator, maps, small):
    """Shards with the global map indices, put together, equal the whole; permuted maps give
    permuted answers; without the indices another chain is drawn."""
    options, whole = small
    for part in (np.arange(0, 60, 3), np.random.default_rng(0).permutation(60)):
        piece = synthetic.chains(emulator, maps[1][part], map_index=part, **options)
        assert all(np.array_equal(getattr(piece, k), getattr(whole, k)[part], equal_nan=True)
                   for k in RESULTS if getattr(whole, k) is not None)
    other = synthetic.chains(emulator, maps[1][:60], map_index=np.arange(100, 160), **options)
    assert not np.array_equal(other.mean, whole.mean)
    reseeded = synthetic.chains(emulator, maps[1][:60], **{**options, "seed": 12})
    assert not np.array_equal(reseeded.mean, whole.mean)


def test_chains_do_not_depend_on_how_many(emulator, maps):
    """The first chain is the same alone, among 3, and among 20 (more than walk in step)."""
    options = dict(nstep=200, sigma=0.05, seed=1, draws=5, thin=1)
    one, three, twenty = (synthetic.chains(emulator, maps[1][:5], chains=c, **options)
                          for c in (1, 3, 20))
    assert np.array_equal(one.draws[:, 0], three.draws[:, 0])
    assert np.array_equal(three.draws, twenty.draws[:, :3])
    assert len(np.unique(twenty.draws[0, :, -1, 0])) == 20
    assert np.allclose(twenty.mean, twenty.draws.mean(axis=(1, 2)), atol=1e-12)


THREADS = """
import hashlib, numba, numpy as np
import synthetic, test_metropolis
from wl.posterior.quadrature import exact
emulator = synthetic.emulator(80)
summary = synthetic.draw(emulator, 70)[1]
for threads in (1, 2, 4):
    numba.set_num_threads(threads)
    chains = synthetic.chains(emulator, summary, nstep=300, sigma=0.05, chains=2, draws=3)
    learnt = synthetic.chains(emulator, summary, nstep=300, sigma=0.5, burn_in=0.5, adapt=True)
    print(test_metropolis.digest(chains), test_metropolis.digest(learnt),
          test_metropolis.digest(exact(emulator, summary)))
"""


def test_same_for_any_thread_count(python):
    run = python(THREADS, env={"NUMBA_NUM_THREADS": "4"})
    assert run.returncode == 0, run.stderr
    lines = run.stdout.split("\n")
    assert len(lines[0]) > 100 and lines[0] == lines[1] == lines[2]


JIT = """
import synthetic, test_metropolis
from wl.posterior import emulator as emulators, quadrature
emulators.GRID, quadrature.LINES, quadrature.CELL = 24, 12, 1e9
for d in (2, 3):
    emulator = synthetic.emulator(14, d)
    summary = synthetic.draw(emulator, 3)[1]
    chains = synthetic.chains(emulator, summary, nstep=200, sigma=0.3, burn_in=0.65, chains=2,
                              draws=3, thin=2, adapt=True)
    exact = quadrature.exact(emulator, summary, order=3)
    print(test_metropolis.digest(chains), test_metropolis.digest(exact))
"""


def test_same_without_jit(python):
    on = python(JIT)
    strict = "import warnings; warnings.simplefilter('error')\n"
    off = python(strict + JIT, env={"NUMBA_DISABLE_JIT": "1"})
    assert on.returncode == 0 and off.returncode == 0, on.stderr + off.stderr
    assert len(on.stdout) > 200 and on.stdout == off.stdout


def test_no_result_depends_on_the_look_up_grid(emulator, maps, monkeypatch):
    before = synthetic.chains(emulator, maps[1][:20], nstep=500, sigma=0.06)
    monkeypatch.setattr("wl.posterior.emulator.GRID", 9)
    coarse = synthetic.emulator(80)
    assert coarse.triangulation.grid.shape == (12, 12)
    assert np.array_equal(before.mean,
                          synthetic.chains(coarse, maps[1][:20], nstep=500, sigma=0.06).mean)


def test_memory_does_not_grow_with_steps(emulator, maps):
    def peak(nstep):
        tracemalloc.start()
        synthetic.chains(emulator, maps[1][:64], nstep=nstep, sigma=0.06)
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
    return np.concatenate([y.sum(axis=3), (y**2).sum(axis=3),
                           (y[..., :1] * y[..., 1:]).sum(axis=3)],
                          axis=3), np.full(batches, steps // batches)


@pytest.mark.parametrize("rho, chains", [(0.0, 1), (0.9, 1), (0.9, 4)])
def test_autocorrelation_time(rho, chains, rng):
    """Of an AR(1) series whose time is known, within the scatter of 32 batches."""
    x = autoregressive(rho, 100, chains, 6400, rng)
    begin = rng.normal(size=(100, chains, 2))
    sums, size = batch_sums(x, begin)
    moments = metropolis._moments(sums, size.sum(), begin)
    tau = metropolis._autocorrelation_time(sums, size, begin, *moments)
    assert abs(np.median(tau) * (1 - rho) / (1 + rho) - 1.0) < 0.12


def test_stuck_and_short_chains_show(emulator, maps):
    """A chain that never moves and one too short for batches have ESS 0 and R-hat inf."""
    stuck = synthetic.chains(emulator, maps[1][:3], nstep=1000, sigma=1e3)
    assert (stuck.acceptance == 0.0).all() and (stuck.sd == 0.0).all()
    assert np.isfinite(stuck.mean).all()
    short = synthetic.chains(emulator, maps[1][:3], nstep=1, sigma=0.05)
    for chains in (stuck, short):
        assert (chains.ess == 0.0).all() and np.isinf(chains.rhat).all()
        assert np.isinf(chains.tau).all()


def test_starts(emulator, maps):
    """The first chain begins at the design's point of highest posterior, all begin inside, further
    ones apart, by the global index of the map alone."""
    summary = maps[1][:40]
    best, _, _ = survey(emulator, summary)
    assert np.array_equal(best, np.argmax(emulator.log_posterior(emulator.theta, summary), axis=1))
    begin = metropolis._starts(emulator, best, 4, 0, np.arange(40))
    assert synthetic.contains(emulator, begin.reshape(-1, 2)).all()
    assert np.abs(begin[:, 0] - emulator.theta[best]).max() < 1e-3
    assert (begin[:, 1:] - begin[:, :1]).std(axis=(0, 1)).min() > 0.02
    some = metropolis._starts(emulator, best[[7, 3]], 4, 0, np.array([7, 3]))
    assert np.array_equal(some, begin[[7, 3]])
    assert not np.array_equal(metropolis._starts(emulator, best, 4, 1, np.arange(40))[:, 1:],
                              begin[:, 1:])


def test_progress_counts_maps(emulator, maps, monkeypatch):
    class Count:
        calls = []

        def update(self, step):
            self.calls.append(step)
    monkeypatch.setattr(metropolis, "_block_size", lambda *_: 16)
    synthetic.chains(emulator, maps[1][:50], nstep=10, sigma=0.1, progress=Count())
    assert Count.calls == [16, 16, 16, 2]


@pytest.mark.parametrize("wrong, word", [
    ({"nstep": 0}, "nstep"), ({"nstep": -5}, "nstep"), ({"sigma": 0.0}, "sigma"),
    ({"sigma": -1.0}, "sigma"),
    ({"sigma": np.nan}, "sigma"), ({"burn_in": 1.0}, "burn"), ({"burn_in": -0.1}, "burn"),
    ({"burn_in": np.nan}, "burn"), ({"chains": 0}, "chains"), ({"thin": 0}, "thin"),
    ({"nstep": 2**31}, "nstep"), ({"nstep": 2**30, "chains": 2}, "--chains"),
    ({"thin": 3}, "at most 2"),
    ({"nstep": 4.5}, "nstep"), ({"map_index": [0, 0, 1]}, "map_index"),
    ({"map_index": [0, 1]}, "map_index")])
def test_refused_settings(emulator, maps, wrong, word):
    with pytest.raises(InputError) as error:
        synthetic.chains(emulator, maps[1][:3], **{"nstep": 10, "sigma": 0.1, **wrong})
    one_line(error, word)


def test_a_walk_counts_its_steps():
    """Dropped, kept, between draws, and batches that hold each kept step once; none can be
    changed."""
    walk = metropolis.PosteriorOptions(10000, 0.06)
    assert (walk.burn, walk.kept, walk.stride) == (2000, 8000, 16)
    assert list(walk.edges) == list(range(2000, 10001, 250)) and walk.edges.dtype == np.int64
    assert metropolis.PosteriorOptions(10000, 0.06, thin=5.0).stride == 5
    # too short for batches
    assert list(metropolis.PosteriorOptions(50, 0.06, burn_in=0.0).edges) == [0, 50]
    with pytest.raises(dataclasses.FrozenInstanceError):
        walk.nstep = 5


def test_refused_summaries(emulator):
    bad = np.full((3, 2), 0.5)
    bad[1, 1] = np.inf
    for summary in (bad, np.zeros((3, 5)), np.zeros(2)):
        for run in (lambda e: synthetic.chains(emulator, e, nstep=10, sigma=0.1),
                    lambda e: exact(emulator, e)):
            with pytest.raises(InputError) as error:
                run(summary)
            one_line(error, "summary")
    with pytest.raises(InputError):
        exact(emulator, np.full((1, 2), 0.5), order=0)


def test_no_maps(emulator):
    """None in, none out."""
    for chains in (synthetic.chains(emulator, np.empty((0, 2)), nstep=10, sigma=0.1),
                   exact(emulator, np.empty((0, 2)))):
        assert chains.mean.shape == (0, 2) and chains.edge.shape == (0,)


@pytest.mark.parametrize("sigma", [0.002, 0.06, 0.6])
def test_adapted_proposals(sigma):
    """From widths that are far too small and too large to a good acceptance, and the right
    posterior."""
    emulator = synthetic.emulator(80)
    summary = synthetic.draw(emulator, 40)[1]
    truth = exact(emulator, summary)
    options = dict(nstep=20000, sigma=sigma, seed=3)
    chains = synthetic.chains(emulator, summary, adapt=True, **options)
    assert 0.2 < np.median(chains.acceptance) < 0.5 and chains.acceptance.min() > 0.1
    assert np.sqrt(np.mean(((chains.mean - truth.mean) / truth.sd) ** 2)) < 0.06
    assert np.abs(np.log(chains.sd / truth.sd)).mean() < 0.05
    plain = synthetic.chains(emulator, summary, **options)
    if sigma != 0.06:
        assert np.median(chains.ess) > 2 * np.median(plain.ess)


def test_a_learnt_proposal_has_the_shape_of_the_chain(rng):
    """Its numbers have 2.38^2 / 2 times the covariance of the steps that it was learnt from,
    correlation too."""
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
    kernels._draw(state, lane, noise, 3)
    assert np.allclose(np.cov(noise[:, :2, 3].T), 2.38**2 / 2 * np.cov(steps.T), rtol=0.05)
    assert abs(noise[:, 2, 3].mean() - 1.0) < 0.03


def test_the_proposal_is_frozen_after_the_burn_in(monkeypatch):
    """Burn-in and seed alone fix the proposal: a longer run goes on as the shorter one."""
    emulator = synthetic.emulator(60)
    summary = synthetic.draw(emulator, 5)[1]
    options = dict(sigma=0.3, seed=1, draws=5, thin=1, adapt=True)
    short = synthetic.chains(emulator, summary, nstep=1000, burn_in=0.5, **options)
    long = synthetic.chains(emulator, summary, nstep=2000, burn_in=0.25, **options)
    assert np.array_equal(short.draws, long.draws[:, :, :500])
    for part in ([3, 1], [4]):
        piece = synthetic.chains(emulator, summary[part], nstep=1000, burn_in=0.5, map_index=part,
                                   **{**options, "draws": 2})
        assert np.array_equal(piece.draws, short.draws[part])


@pytest.mark.parametrize("burn", [608, 640])
def test_the_last_adaptation_may_end_the_burn_in(burn):
    """A burn-in that is a multiple of the four windows learns as well as another: its last sums
    count too."""
    emulator = synthetic.emulator(60)
    summary = synthetic.draw(emulator, 40)[1]
    chains = synthetic.chains(emulator, summary, nstep=burn + 3000,
                              burn_in=(burn + 0.5) / (burn + 3000), sigma=0.06,
                                adapt=True)
    assert 0.25 < np.median(chains.acceptance) < 0.45


def test_adapting_takes_a_burn_in():
    """Chains that drop fewer than 128 steps keep their proposal."""
    emulator = synthetic.emulator(30)
    summary = synthetic.draw(emulator, 3)[1]
    for nstep, kept in ((500, True), (640, False)):
        plain, learnt = (synthetic.chains(emulator, summary, nstep=nstep, sigma=0.1, adapt=adapt)
                         for adapt in (False, True))
        assert same(plain, learnt) == kept


def test_guesses_are_taken_inside_the_hull():
    emulator = synthetic.emulator(60)
    guess = np.array([[0.28, 0.81], [5.0, 5.0]])
    summary = np.repeat(emulator.interpolate(guess[:1])[0], 2, axis=0)
    begin = metropolis._starts(emulator, np.array([3, 4]), 1, 0, np.arange(2), guess=guess)
    assert np.abs(begin[0, 0] - guess[0]).max() < 1e-3
    assert np.abs(begin[1, 0] - emulator.theta[4]).max() < 1e-3
    found = synthetic.chains(emulator, summary, nstep=1, sigma=1e-9, burn_in=0.0, guess=guess)
    best = survey(emulator, summary)[0][1]
    assert np.allclose(found.mean[0], begin[0, 0], atol=1e-7)
    assert np.abs(found.mean[1] - emulator.theta[best]).max() < 1e-3
