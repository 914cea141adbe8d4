"""The binned spectrum: level, bins and mode counts against slow and analytic routes."""
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import one_line

from wl.maps.batches import FIXED, NO_NOISE, Batches, Frame
from wl.core.checks import InputError
from wl.core.params import noise_sigma
from wl.summaries.handmade import (ELL_MAX, ELL_MIN, N_BIN, Features, Spectrum, blocks, measure)

SIDE = np.radians(2.0 / 60.0)                  # of a pixel, radians


def slow_spectrum(kappa, n_observed, edges):
    """C_ell in bins of a map (rows, columns) by the definition: a Fourier sum for each mode."""
    rows, columns = kappa.shape
    y, x = np.arange(rows) * SIDE, np.arange(columns) * SIDE
    total, count = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for i in range(-(rows // 2), rows - rows // 2):
        for j in range(-(columns // 2), columns - columns // 2):
            ell_y, ell_x = 2 * np.pi * i / (rows * SIDE), 2 * np.pi * j / (columns * SIDE)
            ell = np.sqrt(ell_y**2 + ell_x**2)
            for b in range(len(edges) - 1):
                if edges[b] <= ell < edges[b + 1]:
                    phase = ell_y * y[:, None] + ell_x * x[None, :]
                    mode = SIDE**2 * np.sum(kappa * np.exp(-1j * phase))
                    total[b] += abs(mode)**2 / (n_observed * SIDE**2)
                    count[b] += 1
    with np.errstate(invalid="ignore"):
        return total / count, count


@pytest.mark.parametrize("shape", [(12, 16), (13, 10), (9, 15), (16, 7), (1, 12), (24, 1)])
def test_against_the_definition(shape, rng):
    """Even and odd frames: the half plane of the real transform counts each mode once."""
    kappa = rng.normal(0, 0.02, shape).astype(np.float32)
    kappa[rng.random(shape) < 0.2] = 0.0
    n_observed = int((kappa != 0).sum())
    spectrum = Spectrum(shape, n_observed)
    c_ell, count = slow_spectrum(kappa.astype(float), n_observed, np.geomspace(100, 10000, 11))
    assert np.array_equal(spectrum.count, count)
    assert np.array_equal(spectrum.used, np.flatnonzero(count))
    assert np.allclose(10.0**spectrum(kappa[None])[0], c_ell[count > 0], rtol=1e-5, atol=0.0)


def test_bins_are_the_organisers():
    spectrum = Spectrum((1424, 176), 132019)
    assert (N_BIN, ELL_MIN, ELL_MAX) == (10, 100.0, 10_000.0)
    assert np.allclose(spectrum.edges, 10.0**np.linspace(2, 4, 11))
    assert len(spectrum.used) == 10
    # modes of a periodic plane, where a bin holds full circles:
    # pi (ell_2^2 - ell_1^2) x area / (2 pi)^2
    area = 1424 * 176 * SIDE**2
    expected = np.pi * np.diff(spectrum.edges**2) * area / (2 * np.pi)**2
    full = spectrum.edges[1:] < np.pi / SIDE
    assert full.sum() == 8 and np.allclose(spectrum.count[full][3:], expected[full][3:], rtol=0.02)


def test_white_noise_has_its_level(rng):
    """C_ell = pixel variance x pixel area, in every bin, whatever part of the frame is observed."""
    mask = np.zeros((192, 128), bool)
    mask[10:180, :90] = rng.random((170, 90)) < 0.85
    spectrum = Spectrum(mask.shape, mask.sum())
    kappa = np.zeros((60, *mask.shape), np.float32)
    kappa[:, mask] = rng.normal(0, noise_sigma(), (60, int(mask.sum())))
    measured = 10.0**spectrum(kappa)
    level = noise_sigma()**2 * SIDE**2
    assert level == pytest.approx(2.2565e-10, rel=1e-3)
    error = measured.std(0) / np.sqrt(60) / level
    assert (np.abs(measured.mean(0) / level - 1) < 4 * error + 1e-3).all()
    assert error[3:].max() < 0.02


@pytest.mark.parametrize("i, j", [(3, 0), (0, 5), (7, 4), (-7, 4), (32, 0), (20, 24)])
def test_a_wave_lands_in_its_bin(i, j):
    shape, amplitude = (64, 48), 0.01
    y, x = np.mgrid[:shape[0], :shape[1]]
    kappa = amplitude * np.cos(2 * np.pi * (i * y / shape[0] + j * x / shape[1]) + 0.3)
    spectrum = Spectrum(shape, y.size)
    power = 10.0**spectrum(kappa.astype(np.float32)[None])[0]
    ell = 2 * np.pi / SIDE * np.hypot(i / shape[0], j / shape[1])
    home = np.searchsorted(spectrum.edges[spectrum.used], ell) - 1
    assert np.argmax(power) == home and np.delete(power, home).max() < 1e-8 * power[home]
    # the map's variance, spread over the bin's modes
    total = power[home] * spectrum.count[spectrum.used][home] / (y.size * SIDE**2)
    assert total == pytest.approx(np.mean(kappa**2), rel=1e-4)


@pytest.mark.parametrize("shape", [(40, 32), (41, 33), (40, 33)])
def test_parseval(shape, rng):
    """All modes together hold the map's mean square."""
    kappa = rng.normal(0, 0.02, (2, *shape)).astype(np.float32)
    spectrum = Spectrum(shape, kappa[0].size, n_bin=6, ell_min=1e-3, ell_max=1e5)
    power, area = 10.0**spectrum(kappa) * spectrum.count[spectrum.used], kappa[0].size * SIDE**2
    total = power.sum(1) / area
    mean_square = kappa.astype(float).var((1, 2))             # ell = 0 is left out
    assert np.allclose(total, mean_square, rtol=1e-6, atol=0.0)
    assert spectrum.count.sum() == kappa[0].size - 1


def test_flips_change_nothing(rng):
    kappa = rng.normal(0, 0.02, (1, 40, 32)).astype(np.float32)
    spectrum = Spectrum((40, 32), 1280)
    for flipped in (kappa[:, ::-1], kappa[:, :, ::-1], np.roll(kappa, 5, 1)):
        assert np.allclose(spectrum(np.ascontiguousarray(flipped)), spectrum(kappa), atol=1e-6)


@pytest.fixture(scope="module")
def batches():
    mask = np.zeros((90, 50), bool)
    mask[5:86, 3:] = np.random.default_rng(1).random((81, 47)) < 0.9
    kappa = np.random.default_rng(2).normal(0, 0.01, (37, mask.sum())).astype(np.float16)
    return Batches(kappa, Frame(mask, pack=False), scale=1.0, seed=3)


def test_measure_is_the_same_for_any_grouping(batches):
    spectrum = Spectrum(batches.frame.shape, batches.maps.shape[1])
    rows = np.array([36, 0, 5, *range(7, 30)])
    steps = []
    progress = type("Progress", (), {"update": lambda self, n: steps.append(n)})()
    one = measure(spectrum, batches, rows, FIXED, threads=1, progress=progress)
    assert sum(steps) == len(rows)
    oracle = np.concatenate([spectrum(batches.fetch([r], noise=FIXED)[:, 0]) for r in rows])
    assert one.dtype == np.float64 and np.array_equal(one, oracle)
    for threads, chunk in ((2, 8), (3, 2), (2, 1)):
        assert np.array_equal(one,
                              measure(spectrum, batches, rows, FIXED, threads=threads, chunk=chunk))
    assert measure(spectrum, batches, np.arange(0), FIXED).shape == (0, len(spectrum.used))


def test_noise_is_in_the_spectrum(batches):
    spectrum = Spectrum(batches.frame.shape, batches.maps.shape[1])
    noisy = 10.0**measure(spectrum, batches, np.arange(37), FIXED)
    clean = 10.0**measure(spectrum, batches, np.arange(37), NO_NOISE)
    assert np.allclose((noisy - clean).mean(0)[2:], noise_sigma()**2 * SIDE**2, rtol=0.1, atol=0.0)


def test_a_map_of_zeros_is_refused(batches):
    kappa = np.full((3, batches.maps.shape[1]), 0.01, np.float16)
    kappa[1] = 0
    dead = Batches(kappa, batches.frame, scale=1.0, n_gal=None)
    spectrum = Spectrum(batches.frame.shape, kappa.shape[1])
    with pytest.raises(InputError) as error:
        measure(spectrum, dead, np.array([0, 1, 2]), NO_NOISE)
    one_line(error, "map 1 of 3", "no power")


@pytest.mark.parametrize("scales, used", [((0.6, 1.2, 2.2, 4.0), 4), ((0.6, 2.0, 60.0), 2)])
def test_fine_bands_are_those_between_the_three_finest_scales(scales, used, rng):
    """Their numbers do not see a constant that is added to a map; other one-point numbers do."""
    mask = np.zeros((160, 96), bool)
    mask[40:64] = True                                # too narrow for a scale of 60 arcmin
    features = Features(mask, 30.0, scales)
    names = [f"{one.NAME}_{k}" for one in features.statistics for k in range(one.width)]
    found = blocks(SimpleNamespace(coords={"features": {"feature": np.array(names)}}))
    assert len(found["one_point"]) == (2 * used - 1) * len(found["fine_bands"]) / min(used - 1, 2)
    kappa = (rng.normal(0.0, 0.03, (1, *mask.shape)) * mask).astype(np.float32)
    before, after = features(kappa)[0], features(kappa + np.float32(0.02) * mask)[0]
    moved = np.abs(after - before) > 0.02             # a bin's pixel may change sides by rounding
    bands = found["one_point"][used * 19:]
    assert np.array_equal(found["fine_bands"], bands[:38]) and not moved[bands].any()
    assert moved[found["one_point"][:used * 19]].reshape(used, 19).any(1).all()


def test_no_scale_with_enough_pixels_is_no_block():
    mask = np.zeros((160, 96), bool)
    mask[40:64] = True
    names = [f"{one.NAME}_{k}" for one in Features(mask, 30.0, (60.0,)).statistics
             for k in range(one.width)]
    found = blocks(SimpleNamespace(coords={"features": {"feature": np.array(names)}}))
    assert set(found) == {"spectrum", "small_scales", "fine_bands"} and not len(found["fine_bands"])
