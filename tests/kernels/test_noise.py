"""Generators: published vectors, distributions, streams, and the same bits with the JIT off."""
import hashlib

import numpy as np
import pytest
from numba import njit
from scipy import stats

from wl.kernels import noise as g


@njit
def draws(n, seed, stream, index):
    state = np.empty(4, np.uint64)
    g.seed_state(state, seed, stream, index)
    out = np.empty((3, n))
    for i in range(n):
        out[0, i] = g.normal(state)
        out[1, i] = g.exponential(state)
        out[2, i] = g.uniform(state)
    return out


@njit
def beyond(n, r):
    """Those of n normals that lie beyond +-r: 260 of a million."""
    state, out, found = np.empty(4, np.uint64), np.empty(n // 1000), 0
    g.seed_state(state, 7, 1, 0)
    for _ in range(n):
        x = g.normal(state)
        if abs(x) > r:
            out[found] = x
            found += 1
    return out[:found]


@pytest.fixture(scope="module")
def sample():
    return draws(2_000_000, 12, 3, 0)


def test_published_vectors():
    """xoshiro256++ from the state 1, 2, 3, 4 and splitmix64 from 1234567, as other libraries test
    them."""
    state = np.array([1, 2, 3, 4], np.uint64)
    expected = [
        41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205,
        9973669472204895162, 14011001112246962877, 12406186145184390807, 15849039046786891736,
        10450023813501588000
    ]
    assert [int(g.next_uint64(state)) for _ in expected] == expected
    golden = 0x9E3779B97F4A7C15
    mixed = [int(g._mix(np.uint64((1234567 + k * golden) % 2**64))) for k in (1, 2, 3)]
    assert mixed == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_layers_have_equal_area():
    """All 256 layers of both ziggurats, the base with its tail, have the same area."""
    for f, accept_scale in ((g._NORMAL_F, None), (g._EXPONENTIAL_F, None)):
        width = (g._NORMAL_W * 2.0**52) if f is g._NORMAL_F else (g._EXPONENTIAL_W * 2.0**53)
        areas = width[1:] * np.diff(f[1:])
        assert np.allclose(areas, width[0] * f[1], rtol=1e-11)


@pytest.mark.parametrize("row, law", [(0, stats.norm), (1, stats.expon), (2, stats.uniform)])
def test_distribution(sample, row, law):
    """Kolmogorov-Smirnov, 500 equal bins and four moments."""
    x = sample[row]
    assert stats.kstest(x, law.cdf).pvalue > 1e-3
    counts = np.histogram(law.cdf(x), 500, (0.0, 1.0))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    for k in range(1, 5):
        error = np.sqrt((law.moment(2 * k) - law.moment(k) ** 2) / x.size)
        assert abs((x**k).mean() - law.moment(k)) < 4.0 * error


def test_tails(sample):
    """Beyond the last layer: as many as there should be, of both signs, distributed as the tail is.

    A tail accepted by b > a * a in place of 2 b > a * a is seen in 2600 numbers, not in 260.
    """
    n, r = 20_000_000, g._NORMAL_R
    x = beyond(n, r)
    for side in (x[x > r], -x[x < -r]):
        assert abs(side.size - n * stats.norm.sf(r)) < 4.0 * np.sqrt(n * stats.norm.sf(r))
        assert stats.kstest(stats.norm.sf(side) / stats.norm.sf(r), "uniform").pvalue > 1e-3
    e = sample[1][sample[1] > g._EXPONENTIAL_R] - g._EXPONENTIAL_R
    assert e.size > 500 and stats.kstest(e, "expon").pvalue > 1e-3


def test_uniform_range():
    """The largest and smallest bits give numbers in [0, 1)."""
    assert np.int64(np.uint64(2**64 - 1) >> np.uint64(11)) * g._TO_UNIT < 1.0
    assert draws(1000, 1, 1, 1)[2].min() >= 0.0


def test_streams_are_apart():
    """Seeds, streams and indices give other states, uncorrelated between neighbours, and no order
    of
    the three is mistaken for another."""
    states = set()
    for seed in range(8):
        for stream in range(8):
            for index in range(8):
                state = np.empty(4, np.uint64)
                g.seed_state(state, seed, stream, index)
                states.add(tuple(int(s) for s in state))
    assert len(states) == 512
    a, b, c = (draws(100_000, 7, 3, i)[0] for i in (0, 1, 2))
    for x, y in ((a, b), (b, c), (a, c), (a[1:], b[:-1])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.0 / np.sqrt(x.size)


def test_successive_draws_are_uncorrelated(sample):
    x = sample[0]
    for lag in (1, 2, 3):
        assert abs((x[lag:] * x[:-lag]).mean()) < 4.0 / np.sqrt(x.size)
        assert abs((x[lag:] ** 2 * x[:-lag] ** 2).mean() - 1.0) < 4.0 * np.sqrt(8.0 / x.size)


def test_same_bits_without_jit(python):
    """NUMBA_DISABLE_JIT=1 gives the same numbers, without a warning."""
    code = """
import hashlib, numpy as np
from wl.kernels import noise as g
state = np.empty(4, np.uint64)
g.seed_state(state, 12, 3, 4)
x = np.array([[g.normal(state), g.exponential(state), g.uniform(state)] for _ in range(3000)])
print(hashlib.sha256(np.ascontiguousarray(x.T).tobytes()).hexdigest())
"""
    run = python("import warnings; warnings.simplefilter('error')\n" + code,
                 env={"NUMBA_DISABLE_JIT": "1"})
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == hashlib.sha256(draws(3000, 12, 3, 4).tobytes()).hexdigest()
