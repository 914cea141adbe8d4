"""The procedural mask and design against the challenge's files, and their own promises."""
import hashlib
import runpy

import numpy as np
import pytest
from conftest import ROOT
from scipy import ndimage
from scipy.spatial import ConvexHull, Delaunay

from wl.core.checks import InputError
from wl.core.params import DELTA_Z_SIGMA, FRAME, N_OBSERVED
from wl.simulate.plan import DESIGN_SCALE, _draw_unseen, design, draw_nuisances, procedural_mask

EIGHT = np.ones((3, 3))
RECIPE = runpy.run_path(str(ROOT / "benchmarks" / "mask.py"))


def test_mask_has_the_challenges_pixels_and_never_changes():
    mask = procedural_mask()
    assert mask.shape == FRAME and mask.dtype == bool
    assert int(mask.sum()) == N_OBSERVED == 132_019
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    assert digest == hashlib.sha256(np.packbits(procedural_mask()).tobytes()).hexdigest()
    assert digest.startswith("035b50658e70c3fb")


def test_the_file_is_what_the_formula_gives():
    assert np.array_equal(procedural_mask(), RECIPE["make"]())


def hole_sizes(mask):
    label, n = ndimage.label(~mask, EIGHT)
    return np.sort(np.bincount(label.ravel())[1:])


def test_mask_geometry():
    """Shape and holes as facts about HSC Y3's wide 12-hour field, without the file."""
    mask = procedural_mask()
    sizes = hole_sizes(mask)
    assert abs(len(sizes) - 863) < 20
    assert np.sum((sizes >= 40) & (sizes < 200)) == pytest.approx(61, abs=3)
    assert np.sum(sizes == 49) >= 55                              # discs of radius 4
    top = np.array([np.flatnonzero(row)[-1] for row in mask])
    strip = np.concatenate([top[30:600], top[1060:]])
    assert np.all((strip >= 70) & (strip <= 90))
    assert np.all(top[660:800] == 175)
    assert 140 <= np.median(top[840:980]) <= 150
    assert not mask[200:385, :5].any() and mask[400:600, :12].mean() > 0.8
    tips = np.flatnonzero((top[100:600] > 80) & (top[99:599] <= 80))
    assert 15 <= np.median(np.diff(tips)) <= 24                   # scallops


def test_mask_resembles_the_real_one(real):
    mask, true = procedural_mask(), np.load(real / "WIDE12H_bin2_2arcmin_mask.npy")
    assert (mask & true).sum() > 0.9 * N_OBSERVED
    rows, columns = (np.abs(mask.sum(axis) - true.sum(axis).astype(float)).mean()
                     / true.sum(axis).mean() for axis in (1, 0))
    assert rows < 0.10 and columns < 0.15
    edges = [1, 2, 4, 12, 40, 200]
    ours, theirs = (np.histogram(hole_sizes(m), edges)[0] for m in (mask, true))
    assert np.all(np.abs(ours - theirs) <= 0.1 * theirs + 3)
    assert not np.array_equal(mask, true)


@pytest.mark.parametrize("change", [-300, 300])
def test_trim_reaches_any_count(change):
    mask = procedural_mask()
    RECIPE["trim"](mask, N_OBSERVED + change, RECIPE["chances"](1))
    assert int(mask.sum()) == N_OBSERVED + change


def test_design_follows_the_challenges_density():
    theta = design(101)
    assert theta.shape == (101, 2)
    assert np.allclose(theta.min(0), (0.0913, 0.680), atol=0.003)
    assert np.allclose(theta.max(0), (0.619, 0.955), atol=0.003)
    assert np.allclose(theta.mean(0), (0.290, 0.8135), atol=(0.005, 0.003))
    assert np.allclose(theta.std(0), (0.1055, 0.0660), rtol=0.07)
    assert np.corrcoef(theta.T)[0, 1] == pytest.approx(-0.18, abs=0.04)
    near = np.hypot(*((theta - (0.3, 0.8)) / DESIGN_SCALE).T)
    assert np.sum(near < 0.5) / 0.5**2 > 1.6 * np.sum(near < 1.5) / 1.5**2     # densest there


def test_design_resembles_the_real_one(real):
    from scipy.stats import ks_2samp
    theta, true = design(101), np.load(real / "label.npy")[:, 0, :2]

    def neighbours(points):
        x = points / DESIGN_SCALE
        return np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, 1]

    assert np.median(neighbours(theta)) == pytest.approx(np.median(neighbours(true)), rel=0.15)
    assert np.percentile(neighbours(theta), 90) == pytest.approx(
        np.percentile(neighbours(true), 90), rel=0.3)
    assert ConvexHull(theta).volume == pytest.approx(ConvexHull(true).volume, rel=0.1)
    for column in (0, 1):
        assert ks_2samp(theta[:, column], true[:, column]).pvalue > 0.3
    radius = [np.hypot(*((t - (0.3, 0.8)) / DESIGN_SCALE).T) for t in (theta, true)]
    assert ks_2samp(*radius).pvalue > 0.3
    # and copies none of its points
    assert np.abs(theta[:, None] - true).max(axis=2).min() > 1e-5


@pytest.mark.parametrize("n", [3, 4, 5, 8, 24, 300])
def test_design_of_any_size(n):
    theta = design(n)
    assert theta.shape == (n, 2) and len(np.unique(theta.round(6), axis=0)) == n
    assert ConvexHull(theta).volume > 0.01
    assert np.array_equal(theta, design(n))
    assert np.all(theta > (0.08, 0.67)) and np.all(theta < (0.63, 0.96))


def test_design_needs_an_area():
    with pytest.raises(InputError, match="3"):
        design(2)
    line = np.column_stack([np.linspace(0.1, 0.5, 5), np.linspace(0.7, 0.9, 5)])
    with pytest.raises(InputError, match="area"):
        _draw_unseen(line, 3, np.random.default_rng(0))


def test_unseen_cosmologies_lie_in_the_hull_and_off_the_design(rng):
    theta = design(101)
    unseen = _draw_unseen(theta, 3000, rng)
    assert unseen.shape == (3000, 2)
    assert np.all(Delaunay(theta).find_simplex(unseen) >= 0)
    assert np.abs(unseen[:, None] - theta).max(axis=2).min() > 1e-7
    # the density of the design, drawn in by the hull
    assert np.allclose(unseen.mean(0), theta.mean(0), atol=(0.015, 0.008))
    assert np.allclose(unseen.std(0), theta.std(0), rtol=0.15)


def test_nuisances_follow_their_priors(rng):
    from scipy import stats
    values = draw_nuisances(4000, rng)
    assert stats.kstest(values[:, 0], "uniform", (7.2, 1.3)).pvalue > 1e-3
    assert stats.kstest(values[:, 1], "uniform", (0.0, 0.0265)).pvalue > 1e-3
    assert stats.kstest(values[:, 2], stats.norm(0.0, DELTA_Z_SIGMA).cdf).pvalue > 1e-3
