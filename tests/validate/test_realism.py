"""Simulated maps against real ones, statistics against other routes to them, the picture."""
import copy

import numpy as np
import pytest
from conftest import one_line
from scipy import ndimage, stats

from wl.core.checks import InputError
from wl.core.params import PARAMS
from wl.maps.dataset import MASK_FILE, TEST_FILE
from wl.summaries.handmade import PEAK_BINS
from wl.simulate.plan import SimulationOptions
from wl.simulate.plan import FIXED_NUISANCES
from wl.validate import spectra
from wl.validate import realism as module
from wl.validate.realism import Comparison, _goodness, _join, _minkowski, read_maps, table

LABEL = (0.3, 0.8, *FIXED_NUISANCES)


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """Fewer points of the cosmology and maps for the fit's covariance: a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "NODES", (4, 3))
        patch.setattr(module, "N_FIRST", 40)
        yield


# ---------------------------------------------------------------- statistics
def test_minkowski_functionals_of_a_gaussian_field():
    """Adler 1981: expectations in a box, Euler characteristic with its border terms."""
    side, width, thresholds = 400, 4.0, np.array([-1.5, -0.5, 0.0, 1.0, 2.0])
    found, rng = [], np.random.default_rng(3)
    for _ in range(24):
        field = ndimage.gaussian_filter(rng.standard_normal((side + 64, side + 64)), width)
        field = field[32:-32, 32:-32] * 2.0 * width * np.sqrt(np.pi)          # variance one
        found.append(_minkowski(field, np.ones((side, side), bool), thresholds))
    tau, fall = 1.0 / (np.sqrt(2.0) * width), np.exp(-0.5 * thresholds**2)    # rms of the slope
    above = stats.norm.sf(thresholds)
    euler = (side**2 * tau**2 * thresholds * fall * (2.0 * np.pi)**-1.5
             + 2.0 * side * tau * fall / (2.0 * np.pi) + above)
    # a contour crosses a row tau exp(-nu^2/2) / pi times a pixel (Rice 1944); the border counts
    length = 2.0 * side**2 * tau * fall / np.pi + 4.0 * side * above
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(24)
    for values, one, expected in zip(mean, error, (side**2 * above, length, euler)):
        assert np.all(np.abs(values - expected) < 4.0 * one + 0.02 * np.abs(expected)), values
        assert np.all(one < 0.07 * np.abs(expected).max())


def test_minkowski_functionals_by_labelling():
    """Parts and holes by SciPy's labels, the border pixel by pixel; masked pixels are below."""
    rng = np.random.default_rng(5)
    field, valid = rng.normal(size=(40, 30)), rng.random((40, 30)) < 0.9
    thresholds = np.array([-0.7, 0.3, 1.1])
    for i, level in enumerate(thresholds):
        inside = np.pad((field > level) & valid, 1)
        parts = ndimage.label(inside)[1]
        holes = ndimage.label(~inside, np.ones((3, 3)))[1] - 1
        sides = sum(np.sum(inside & ~np.roll(inside, s, a)) for s in (1, -1) for a in (0, 1))
        found = _minkowski(field, valid, thresholds)[:, i]
        assert found.tolist() == [inside.sum(), sides, parts - holes]


def test_minima_are_local_minima(small):
    """By SciPy's minimum filter: lower than all eight neighbours, all of which count."""
    kappa = next(small.simulate(LABEL, 0.0, 1, 5))
    found, shapes = small.statistics(kappa), small.shapes
    smooth = shapes.smooth(small.frame(kappa))
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    for i, scale in ((1, "2"), (3, "8")):
        lower = smooth[i] < ndimage.minimum_filter(smooth[i], footprint=ring, mode="nearest")
        whole = ndimage.binary_erosion(shapes.valid[i], np.ones((3, 3)))
        depth = -smooth[i][lower & whole]
        low, width, n = PEAK_BINS
        place = np.clip(np.floor((depth / shapes.unit[i] - low) / width), 0, n - 1)
        assert found[f"minima {scale}"].tolist() == np.bincount(place.astype(int),
                                                                minlength=int(n)).tolist()
        assert found[f"minima {scale}"].tolist() != found[f"peaks {scale}"].tolist()


def test_moments_are_those_of_the_smoothed_pixels(small):
    kappa = next(small.simulate(LABEL, 0.0, 1, 5))
    found = small.statistics(kappa)
    smooth = small.shapes.smooth(small.frame(kappa))
    for i in range(4):
        pixels = smooth[i][small.shapes.valid[i]].astype(float)
        assert found["third"][i] == pytest.approx(stats.moment(pixels, 3), rel=1e-3)
        assert found["fourth"][i] == pytest.approx(stats.kstat(pixels, 4), rel=2e-2)


# ---------------------------------------------------------------- real maps
@pytest.fixture(scope="module")
def compared(real):
    """A real map, its comparison with log-normal maps, and the result."""
    maps, mask = read_maps(real / TEST_FILE, "0", real / MASK_FILE)
    comparison = Comparison(mask)
    return maps[0], comparison, comparison.compare(maps[0], n=60)


def test_the_real_map_is_met(compared):
    result = compared[2]
    tests, theta = result["tests"], result["label"]
    assert tests["spectrum"]["bins"] == 8 and tests["peaks 2"]["bins"] >= 10
    for name, test in tests.items():
        assert test["p_value"] > 1e-3, (name, table({0: result}))
    for scale in (1, 2):
        assert 0.6 < tests["third"]["mean"][scale] / tests["third"]["real"][scale] < 1.4
    assert 0.15 < theta[0] < 0.6 and 0.72 < theta[1] < 0.92 and result["scatter"] < 3e-5


def test_a_gaussian_sky_is_not_mistaken_for_it(compared):
    """Negative control: the same spectrum without skewness is rejected, but by the spectrum."""
    kappa, comparison, _ = compared
    other = copy.copy(comparison)
    other.field = SimulationOptions(field="gaussian")
    result = other.compare(kappa, n=40)
    tests = result["tests"]
    assert tests["spectrum"]["chi2"] < 15.0
    for name in ("peaks 2", "pdf 2", "area 2", "euler 4"):
        assert tests[name]["p_value"] < 1e-4, (name, tests[name])
    assert tests["third"]["p_value"] == 1 / 41 and tests["third"]["chi2"] > 100.0
    assert result["together"]["PDF"] == result["together"]["Minkowski functionals"] == 1 / 41


@pytest.fixture(scope="module")
def small():
    mask = np.random.default_rng(2).random((240, 170)) < 0.9
    return Comparison(mask)


def test_simulated_maps_pass_as_real(small):
    """Fits and chi2 of maps whose cosmology is known."""
    fits, p_values, together = [], [], []
    for seed in range(3):
        kappa = next(small.simulate(LABEL, 0.0, 1, 100 + seed))
        result = small.compare(kappa, n=50, seed=seed)
        fits.append(result["label"][:2])
        p_values += [t["p_value"] for t in result["tests"].values()]
        together += result["together"].values()
    sigma_like = np.array([s * np.sqrt(om / 0.3)**0.1 for om, s in fits])
    assert np.abs(sigma_like - 0.8).max() < 0.1
    assert min(p_values) > 1e-4 and np.median(p_values) > 0.2
    assert min(together) >= 1 / 51 and 0.2 < np.mean(together) < 0.8


def test_white_scatter_is_found(small):
    kappa = next(small.simulate(LABEL, 6e-5, 1, 7))
    _, scatter, _ = small.fit(small.statistics(kappa))
    assert scatter == pytest.approx(6e-5, abs=2.5e-5)
    assert small.fit(small.statistics(next(small.simulate(LABEL, 0.0, 1, 7))))[1] < 2.5e-5


def test_wrong_noise_is_not_mistaken_for_cosmology(small):
    """Negative control: a map with 17 % less noise than assumed fits no cosmology."""
    weak = copy.copy(small)
    weak.n_gal = 36.0
    kappa = next(weak.simulate(LABEL, 0.0, 1, 3))
    tests = small.compare(kappa, n=50)["tests"]
    assert min(tests[name]["p_value"] for name in ("spectrum", "beyond")) < 1e-4


def test_goodness_follows_its_distribution(rng):
    """p-values of maps from the simulations' own distribution are uniform; low counts are
    joined."""
    mix = np.array([[1, 0.5, 0], [0, 1, 0.2], [0, 0, 1]])
    p_values = []
    for _ in range(300):
        drawn = rng.normal(10.0, [1.0, 2.0, 0.5], (25, 3)) @ mix
        p_values.append(_goodness("area", drawn[0], drawn[1:])["p_value"])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    counts = rng.poisson([200.0, 90.0, 20.0, 3.0, 1.0, 0.5], (50, 6))
    joined = _goodness("peaks", counts[0], counts[1:])
    assert joined["bins"] == 3 and joined["p_value"] > 1e-3
    scaled = _goodness("area", 1e-9 * drawn[0], 1e-9 * drawn[1:])      # moments are small numbers
    assert scaled["p_value"] == pytest.approx(p_values[-1], rel=1e-6)
    with pytest.raises(InputError, match="--maps"):
        _goodness("area", np.ones(5), rng.normal(size=(6, 5)))


def test_every_map_is_tested_against_all_others(rng):
    """of_each is what goodness() says of each map in the real one's place."""
    drawn = rng.normal(10.0, [1.0, 2.0, 0.5], (25, 3))
    of_each = _goodness("area", drawn[0], drawn[1:])["of_each"]
    again = [_goodness("area", one, np.delete(drawn, i, axis=0))["p_value"]
             for i, one in enumerate(drawn)]
    assert of_each == pytest.approx(again, rel=1e-9)


def test_ranked_p_values_hold_for_heavy_tails(rng):
    """Numbers whose squares hardly have a mean: Hotelling's p-values fail, ranks are uniform."""
    drawn = np.exp(2.0 * rng.normal(size=(400, 41, 1))) * rng.normal(size=(400, 41, 2))
    small = {
        kind: np.mean([_goodness(kind, d[0], d[1:])["p_value"] < 0.05 for d in drawn])
        for kind in ("area", "third")
    }
    assert small["area"] > 0.08 and abs(small["third"] - 2 / 41) < 0.033
    one = _goodness("third", np.full(2, 1e3), rng.normal(size=(40, 2)))
    assert one["p_value"] == 1 / 41


@pytest.mark.parametrize("mean, groups", [([9, 9, 9], [0, 1, 2]),
                                          ([1, 9, 9, 2, 2, 2], [0, 0, 1, 2, 2, 2]),
                                          ([0.5, 1, 30, 20, 2, 4, 0.2], [0, 0, 0, 1, 2, 3, 3]),
                                          ([30, 1, 1], [0, 0, 0]), ([0, 0, 6, 30], [0, 0, 0, 1])])
def test_join(mean, groups):
    got = _join(np.array(mean, float))
    sums = np.bincount(got, mean)
    assert np.all(np.diff(got) >= 0) and np.all(np.diff(got) <= 1)
    assert np.all(sums >= 5.0) and sums.sum() == pytest.approx(np.sum(mean))
    assert len(sums) == max(groups) + 1 or len(mean) > 6


def test_maps_that_cannot_be_read(tmp_path):
    mask = np.ones((20, 10), bool)
    np.save(tmp_path / MASK_FILE, mask)
    np.save(tmp_path / "map.npy", np.zeros((2, 200), np.float16))
    maps, found = read_maps(tmp_path / "map.npy", "1", None)
    assert list(maps) == [1] and maps[1].shape == (200,) and np.array_equal(found, mask)
    assert list(read_maps(tmp_path / "map.npy", "all", None)[0]) == [0, 1]
    np.save(tmp_path / "one.npy", np.zeros(200, np.float32))
    assert read_maps(tmp_path / "one.npy", "0", None)[0][0].dtype == np.float32
    np.save(tmp_path / "wrong.npy", np.zeros((2, 199)))
    np.save(tmp_path / "nan.npy", np.full((1, 200), np.nan))
    for name, row, word in (("map.npy", "2", "--row"), ("map.npy", "-1", "--row"),
                            ("wrong.npy", "0", "--mask"), ("nan.npy", "0", "finite"),
                            ("absent.npy", "0", "absent.npy")):
        with pytest.raises(InputError) as error:
            read_maps(tmp_path / name, row, None)
        one_line(error, word)


def test_a_survey_too_small_is_one_line():
    with pytest.raises(InputError) as error:
        Comparison(np.ones((64, 64), bool))
    one_line(error, "--mask", "10000")


def test_command(tmp_path, small, capsys):
    np.save(tmp_path / "mask.npy", small.mask)
    np.save(tmp_path / "map.npy", np.array(list(small.simulate(LABEL, 0.0, 2, 1))))
    options = ["--map", str(tmp_path / "map.npy"), "--mask", str(tmp_path / "mask.npy"),
               "--maps", "30", "--row", "all", "--quiet"]
    module.realism_main(options)
    out = capsys.readouterr().out
    for word in ("row 1, best fit", *PARAMS, "spectrum, ell 100-4100", "one-point PDF at 2",
                 "peak counts at 2", "minima counts at 8", "Euler characteristic, 4", "8 arcmin",
                 "third moment, row 1", "fourth cumulant, all rows"):
        assert word in out, out
    assert max(map(len, out.splitlines()[3:])) <= 110
