"""p-values of maps given their summaries: uniform for maps like known ones, small for others."""
import numpy as np
import pytest
from scipy import stats

from wl.summaries import likeness

BLOCKS = {"one": range(6), "two": range(6, 10)}
WEIGHTS = np.random.default_rng(3).normal(size=(2, 10))


def maps(n, seed, shift=0.0):
    """Summaries and statistics of a world where both follow from a cosmology, with noise.

    The scatter grows with the first parameter, and numbers of a block are correlated.
    """
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-1, 1, (n, 2))
    noise = rng.normal(size=(n, 10)) @ (np.eye(10) + 0.3 * np.ones((10, 10)))
    x = theta @ WEIGHTS + 0.5 * theta[:, :1]**2 + np.exp(0.4 * theta[:, :1]) * noise
    x[:, 7] += shift
    return theta + rng.normal(0, 0.2, theta.shape), x


@pytest.fixture(scope="module")
def known():
    return maps(1500, 1), np.arange(1500) // 30


def test_maps_like_the_known_ones_have_uniform_p_values(known):
    new = maps(3000, 2)
    found = likeness.p_values(BLOCKS, *known, new)
    assert set(found) == {"p_value_one", "p_value_two", "p_value_all"}
    for name, p in found.items():
        assert stats.kstest(p, "uniform").pvalue > 1e-3, name
        assert 0.003 < (p < 0.01).mean() < 0.025, name


def test_an_alien_block_is_found_and_no_other(known):
    found = likeness.p_values(BLOCKS, *known, maps(1000, 5, shift=6.0))
    assert np.median(found["p_value_two"]) < 1e-3 and np.median(found["p_value_all"]) < 1e-2
    assert 0.3 < np.median(found["p_value_one"]) < 0.7


def test_chi2_against_the_formula():
    """With one block, no dependence and many maps chi2 is the Mahalanobis distance."""
    rng = np.random.default_rng(0)
    s, x = rng.normal(size=(20_000, 2)), rng.normal(size=(20_000, 3)) * (1.0, 5.0, 0.1)
    new = rng.normal(size=(50, 2)), rng.normal(size=(50, 3)) * (1.0, 5.0, 0.1)
    found = likeness.likeness((s, x), new)
    # the mean of ln of a squared normal is -1.27: the scatter is e^-0.635 of the sd
    assert np.allclose(found, ((new[1] / (1.0, 5.0, 0.1))**2).sum(1), rtol=0.1, atol=0.1)


def test_each_map_is_judged_alone(known):
    new = maps(40, 6)
    whole = likeness.p_values(BLOCKS, *known, new)["p_value_all"]
    half = likeness.p_values(BLOCKS, *known, (new[0][::2], new[1][::2]))["p_value_all"]
    assert np.allclose(half, whole[::2], rtol=1e-9)


def test_constant_numbers_and_few_maps(known):
    (s, x), group = known
    flat = np.concatenate([x, np.ones((len(x), 2))], 1)
    new = s[:50], flat[:50]
    found = likeness.p_values({**BLOCKS, "flat": (10, 11)}, (s, flat), group, new)
    assert "p_value_flat" not in found and np.isfinite(found["p_value_all"]).all()
    assert likeness.p_values(BLOCKS, (s[:50], x[:50]), group[:50], new) == {}
    assert likeness.p_values(BLOCKS, (s, x), np.zeros(len(s), int), new) == {}  # none left out


def test_a_number_that_few_maps_have_changes_nothing(known):
    """A bin that is filled in three maps has no scatter where these are left out."""
    (s, x), group = known
    rare = np.zeros((len(x), 1))
    rare[group == 0] = np.arange(30.0)[:, None]
    new = maps(200, 8)
    more = s, np.concatenate([x, rare], 1)
    found = likeness.p_values(BLOCKS | {"two": range(6, 11)}, more, group,
                              (new[0], np.pad(new[1], ((0, 0), (0, 1)))))
    plain = likeness.p_values(BLOCKS, *known, new)
    assert np.allclose(found["p_value_all"], plain["p_value_all"], rtol=1e-9)


def test_a_few_far_maps_do_not_hide_the_others():
    """One in 200 scatters ten times as much: still 1 % of all have a p-value below 0.01."""
    def world(n, seed):
        s, x = maps(n, seed)
        return s, x * np.where(np.random.default_rng(seed).random(n) < 0.005, 10.0, 1.0)[:, None]
    found = likeness.p_values(BLOCKS, world(6000, 1), np.arange(6000) // 60, world(20_000, 2))
    for name, p in found.items():
        assert 0.007 < (p < 0.01).mean() < 0.013, (name, (p < 0.01).mean())


def test_new_maps_are_judged_as_known_ones_are():
    """However few the known maps are: those of a fit lie nearer to it than others do."""
    blocks = {name: range(k, k + 20) for k, name in enumerate(("one", "two"))}
    means = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(1000, 21))
        known = (x[:240, :2] * 0.01, x[:240])
        new = x[240:, :2] * 0.01, x[240:]
        means.append(likeness.p_values(blocks, known, np.arange(240) // 4, new)["p_value_all"])
    assert abs(np.mean(means) - 0.5) < 0.02, np.mean(means)


def test_every_fit_counts(known):
    """What a new map is given is the mean over the fits, in whatever order these come."""
    new, orders = maps(200, 9), []
    for shift in range(2):
        group = (known[1] + shift) % likeness.N_GROUP
        orders.append(likeness.p_values(BLOCKS, known[0], group, new)["p_value_all"])
    assert np.allclose(*orders, rtol=1e-9)


@pytest.mark.parametrize("n, count", [(400, 20), (4000, 50)])
def test_the_tail_begins_where_the_last_known_maps_do(n, count):
    """There the p-value is a share of the known maps; beyond, it falls by their mean excess."""
    known = np.arange(n, dtype=float)
    share = np.exp(likeness._log_p(known, np.array([n - count - 0.5, n - 1.0, n + 2.0 * count])))
    assert np.isclose(share[0], count / n, rtol=0.06)
    assert np.isclose(share[1], count / n * np.exp(-2.0), rtol=0.1)
    assert 0.0 < share[2] < 1e-2 * share[0]
