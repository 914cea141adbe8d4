"""Simulated maps against real ones, the comparison against maps whose answer is known, and the picture."""
import copy
import sys

import numpy as np
import pytest
from conftest import one_line

from wl.validate import figures
from wl.validate import realism as module
from wl.core.checks import InputError
from wl.simulate.draw import Field
from wl.maps.dataset import MASK_FILE, TEST_FILE
from wl.core.params import PARAMS
from wl.validate.realism import Comparison, goodness, join, read_map, table
from wl.simulate.mask import FIXED_NUISANCES


LABEL = (0.3, 0.8, *FIXED_NUISANCES)


def check(result):
    """What issue figures and further real maps have to meet."""
    tests = result["tests"]
    assert tests["spectrum"]["bins"] == 8 and tests["spectrum"]["chi2"] < 15.0, table(result)
    assert tests["peaks 2"]["bins"] >= 10 and tests["peaks 2"]["chi2"] < 45.0, table(result)
    for scale in (2.0, 4.0):
        third = result["third"][scale]
        assert 0.6 < third["real"] / third["mean"] < 1.4, table(result)
    for name in ("pdf 2", "pdf 4", "pdf 8", "peaks 4", "peaks 8"):
        assert tests[name]["p_value"] > 1e-3, table(result)
    for scale in (2.0, 4.0, 8.0):
        skewness = result["skewness"][scale]
        assert abs(skewness["real"] - skewness["mean"]) < 3.0 * skewness["sd"], table(result)


@pytest.fixture(scope="module")
def real_map(real):
    return read_map(real / TEST_FILE, 0, real / MASK_FILE)


@pytest.fixture(scope="module")
def compared(real_map):
    """The real map, its comparison with log-normal maps, and the result."""
    kappa, mask = real_map
    comparison = Comparison(mask)
    return kappa, comparison, comparison.compare(kappa, n=150)


def test_the_real_map_is_met(compared):
    result = compared[2]
    check(result)
    theta = result["label"]
    assert 0.15 < theta[0] < 0.6 and 0.72 < theta[1] < 0.92 and result["scatter"] < 3e-5


def with_field(comparison, **knobs):
    """The same comparison with other simulated maps."""
    other = copy.copy(comparison)
    other.field = Field(**knobs)
    return other


def test_a_gaussian_sky_is_not_mistaken_for_it(compared):
    """Negative control: the same spectrum without skewness is rejected by everything but the spectrum."""
    kappa, comparison, _ = compared
    tests = with_field(comparison, field="gaussian").compare(kappa, n=60)["tests"]
    assert tests["spectrum"]["chi2"] < 15.0
    assert tests["peaks 2"]["chi2"] > 100.0 and tests["pdf 2"]["chi2"] > 100.0


def test_a_gaussian_share_comes_nearer_to_the_real_map(compared):
    """In the PDF and in kurtosis / skewness^2 (noise removed), which is 2.40 in the real map."""
    kappa, comparison, mixed = compared
    pure = with_field(comparison, gaussian_share=0.0, gaussian_below=0.0).compare(kappa, n=150)
    assert mixed["tests"]["pdf 2"]["chi2"] < pure["tests"]["pdf 2"]["chi2"] - 3.0
    assert mixed["tests"]["peaks 2"]["chi2"] < pure["tests"]["peaks 2"]["chi2"] + 4.0
    mixed, pure = mixed["kurtosis"][2.0], pure["kurtosis"][2.0]
    assert abs(mixed["real"] - mixed["mean"]) < min(mixed["sd"], abs(pure["real"] - pure["mean"]))


@pytest.fixture(scope="module")
def small():
    mask = np.random.default_rng(2).random((400, 170)) < 0.9
    return Comparison(mask)


def test_simulated_maps_pass_as_real(small):
    """Fits and chi2 of maps whose cosmology is known."""
    fits, p_values = [], []
    for seed in range(3):
        kappa = next(small.simulate(LABEL, 0.0, 1, 100 + seed))
        result = small.compare(kappa, n=60, seed=seed)
        fits.append(result["label"][:2])
        p_values += [t["p_value"] for t in result["tests"].values()]
    sigma_like = np.array([s * np.sqrt(om / 0.3)**0.1 for om, s in fits])
    assert np.abs(sigma_like - 0.8).max() < 0.08
    assert min(p_values) > 1e-4 and np.median(p_values) > 0.2


def test_white_scatter_is_found(small):
    kappa = next(small.simulate(LABEL, 6e-5, 1, 7))
    _, scatter, _ = small.fit(small.statistics(kappa))
    assert scatter == pytest.approx(6e-5, abs=2.5e-5)
    assert small.fit(small.statistics(next(small.simulate(LABEL, 0.0, 1, 7))))[1] < 2.5e-5


def test_wrong_noise_is_not_mistaken_for_cosmology(small):
    """Negative control: a map with 17 % less noise than assumed fits no cosmology."""
    weak = Comparison(small.mask, n_gal=36.0)
    kappa = next(weak.simulate(LABEL, 0.0, 1, 3))
    tests = small.compare(kappa, n=60)["tests"]
    assert min(tests[name]["p_value"] for name in ("spectrum", "beyond")) < 1e-4


def test_goodness_follows_its_distribution(rng):
    """p-values of maps from the simulations' own distribution are uniform; counts with few are joined."""
    from scipy import stats
    p_values = []
    for _ in range(300):
        drawn = rng.normal(10.0, [1.0, 2.0, 0.5], (25, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.2], [0, 0, 1]])
        p_values.append(goodness(drawn[0], drawn[1:])["p_value"])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    counts = rng.poisson([200.0, 90.0, 20.0, 3.0, 1.0, 0.5], (50, 6))
    assert goodness(counts[0], counts[1:])["bins"] == 3 and goodness(counts[0], counts[1:])["p_value"] > 1e-3
    with pytest.raises(InputError, match="--maps"):
        goodness(np.ones(5), rng.normal(size=(6, 5)))


@pytest.mark.parametrize("mean, groups", [([9, 9, 9], [0, 1, 2]), ([1, 9, 9, 2, 2, 2], [0, 0, 1, 2, 2, 2]),
                                          ([0.5, 1, 30, 20, 2, 4, 0.2], [0, 0, 0, 1, 2, 3, 3]),
                                          ([30, 1, 1], [0, 0, 0]), ([0, 0, 6, 30], [0, 0, 0, 1])])
def test_join(mean, groups):
    got = join(np.array(mean, float))
    sums = np.bincount(got, mean)
    assert np.all(np.diff(got) >= 0) and np.all(np.diff(got) <= 1)
    assert np.all(sums >= 5.0) and sums.sum() == pytest.approx(np.sum(mean))
    assert len(sums) == max(groups) + 1 or len(mean) > 6


def test_maps_that_cannot_be_read(tmp_path, small):
    mask = np.ones((20, 10), bool)
    np.save(tmp_path / MASK_FILE, mask)
    np.save(tmp_path / "map.npy", np.zeros((2, 200), np.float16))
    kappa, found = read_map(tmp_path / "map.npy", 1, None)
    assert kappa.shape == (200,) and np.array_equal(found, mask)
    np.save(tmp_path / "one.npy", np.zeros(200, np.float32))
    assert read_map(tmp_path / "one.npy", 0, None)[0].dtype == np.float32
    np.save(tmp_path / "wrong.npy", np.zeros((2, 199)))
    np.save(tmp_path / "nan.npy", np.full((1, 200), np.nan))
    for name, row, word in (("map.npy", 2, "--row"), ("wrong.npy", 0, "--mask"), ("nan.npy", 0, "finite"),
                            ("absent.npy", 0, "absent.npy")):
        with pytest.raises(InputError) as error:
            read_map(tmp_path / name, row, None)
        one_line(error, word)


def test_a_survey_too_small_is_one_line():
    with pytest.raises(InputError) as error:
        Comparison(np.ones((64, 64), bool))
    one_line(error, "--mask", "10000")


def test_command_and_picture(tmp_path, small, capsys, monkeypatch):
    np.save(tmp_path / "mask.npy", small.mask)
    np.save(tmp_path / "map.npy", next(small.simulate(LABEL, 0.0, 1, 1))[None])
    options = ["--map", str(tmp_path / "map.npy"), "--mask", str(tmp_path / "mask.npy"), "--maps", "40", "--quiet"]
    module.main(options)
    out = capsys.readouterr().out
    for word in ("best fit", *PARAMS, "spectrum, ell 100-4100", "one-point PDF at 2", "peak counts at 2",
                 "third moment", "8 arcmin"):
        assert word in out
    with pytest.raises(InputError) as error:
        module.main([*options, "--figure", str(tmp_path / "picture.txt")])
    one_line(error, "--figure", ".png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(InputError) as error:
            module.main([*options, "--figure", str(tmp_path / "picture.png")])
        one_line(error, "matplotlib", "pip install")
        return
    module.main([*options, "--figure", str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "picture.png").stat().st_size > 50_000


def test_pictures_without_matplotlib_say_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError) as error:
        figures.check(tmp_path / "a.png")
    one_line(error, "matplotlib", "pip install")
    with pytest.raises(InputError) as error:
        figures.check(tmp_path / "absent" / "a.png")
    one_line(error, "folder")
