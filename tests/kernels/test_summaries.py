"""Moments, PDF and peaks against scipy and NumPy, smoothing against a direct sum."""
import os

import numpy as np
import pytest
from conftest import ROOT
from scipy import ndimage

from wl.maps.batches import NO_NOISE, Batches, Frame
from wl.kernels import summaries as peaks
from wl.core.params import noise_sigma
from wl.summaries.handmade import (PDF_BINS, OnePoint, Shapes, in_blocks, measure,
                                   peak_counts)

PDF, PEAK = np.array([-2.0, 0.5, 9.0]), np.array([-1.0, 0.25, 14.0])


def slow_peaks(field, valid):
    """Values of the peaks by scipy's maximum filter: all neighbours valid and below."""
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    highest = ndimage.maximum_filter(field, footprint=ring, mode="constant", cval=np.inf)
    inside = ndimage.minimum_filter(valid.astype(int), size=3, mode="constant", cval=0) > 0
    return field[inside & (field > highest)]


def binned(values, bins):
    edges = bins[0] + bins[1] * np.arange(int(bins[2]) + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    return np.histogram(values, edges)[0]


@pytest.mark.parametrize("shape, part", [
    ((40, 33), 0.9), ((7, 60), 1.0), ((3, 3), 1.0), ((1, 9), 1.0), ((20, 20), 0.0),
    ((65, 64), 0.5)])
def test_against_numpy_and_scipy(shape, part, rng):
    field = ndimage.gaussian_filter(rng.normal(size=shape), 0.7).astype(np.float32) * 2
    valid = rng.random(shape) < part
    weight = np.where(valid, rng.uniform(1.0, 1.5, shape), 0.0).astype(np.float32)
    everywhere = np.tile([0, shape[0]], (-(-shape[1] // peaks.LANES), 1))
    moments, histogram = peaks.distribution(in_blocks(field), in_blocks(weight), everywhere, PDF)
    values = (field * weight)[valid].astype(float)
    if part:
        d = values - values.mean()
        assert np.allclose(moments, [np.mean(d**k) for k in (2, 3, 4)], rtol=1e-10, atol=1e-12)
    assert np.array_equal(histogram, binned(values, PDF)) and histogram.sum() == valid.sum()
    found = slow_peaks(field, valid)
    counts = peak_counts(field, valid, PEAK)
    assert np.array_equal(counts, binned(found, PEAK)) and counts.sum() == len(found)
    if shape == (40, 33):
        assert counts.sum() > 20


def test_a_plateau_is_no_peak_and_a_lone_pixel_is_one():
    field, valid = np.zeros((7, 9), np.float32), np.ones((7, 9), bool)
    bins = np.array([0.0, 1.0, 3.0])
    assert peak_counts(field, valid, bins).sum() == 0
    field[3, 4] = 1.5
    assert peak_counts(field, valid, bins).tolist() == [0, 1, 0]
    field[3, 5] = 1.5
    assert peak_counts(field, valid, bins).sum() == 0
    field[3, 5], valid[2, 3] = 0.0, False
    assert peak_counts(field, valid, bins).sum() == 0


def test_what_lies_beyond_the_bins_goes_to_the_ends():
    bins = np.array([-1.0, 0.5, 4.0])
    values = (-9.0, -1.0, -0.6, -0.5, 0.99, 1.0, 7.0, np.nan, np.inf, -np.inf)
    one = np.ones((1, peaks.LANES), np.float32)
    for value, home in zip(values, (0, 0, 0, 1, 3, 3, 3, 0, 3, 0)):
        histogram = peaks.distribution(one * np.float32(value), one, np.array([[0, 1]]), bins)[1]
        assert histogram.tolist() == [peaks.LANES * (b == home) for b in range(4)]


def test_a_band_is_the_difference_of_two_scales(rng):
    """Against NumPy on the smoothed maps; noise and unit against measured standard deviations."""
    mask = ragged_mask((200, 90), rng)
    kappa = np.where(mask, rng.normal(0, noise_sigma(), mask.shape), 0.0).astype(np.float32)
    shapes = Shapes(mask, scales=(0.6, 2.0, 5.0), bands=[(0, 1), (0, 2), (1, 2)])
    moments, histogram = shapes.distributions(kappa[None])
    smooth = shapes.smooth(kappa)
    assert moments.shape == (1, 6, 3)
    for k, (fine, coarse) in enumerate(shapes.bands, 3):
        both = shapes.valid[fine] & shapes.valid[coarse]
        values = (smooth[fine] - smooth[coarse])[both].astype(float)
        d = values - values.mean()
        assert np.allclose(moments[0, k], [np.mean(d**n) for n in (2, 3, 4)], rtol=1e-6, atol=1e-13)
        bins = np.array(PDF_BINS) * (shapes.unit[k], shapes.unit[k], 1.0)
        assert np.abs(histogram[0, k] - binned(values, bins)).max() <= 2       # a rounded edge
        assert shapes.count[k] == both.sum() == histogram[0, k].sum()
        assert shapes.noise[k] == pytest.approx(values.std(), rel=0.15)
        assert shapes.noise[k] < shapes.unit[k] < 2.0 * shapes.noise[k]


PLAIN = """
import hashlib, numpy as np
from wl.kernels import summaries as peaks
from wl.summaries.handmade import Shapes, Spectrum
rng = np.random.default_rng(5)
mask = rng.random((20, 35)) < 0.9
mask[8:, 30:] = False
kappa = np.where(mask, rng.normal(0, 0.02, (2, 20, 35)), 0.0).astype(np.float32)
shapes = Shapes(mask, scales=(0.6, 3.0), bands=[(0, 1)])
smoothed = shapes.smooth(kappa[0])
found = [*shapes.distributions(kappa), smoothed, shapes.peaks(smoothed),
         Spectrum(mask.shape, mask.sum())(kappa)]
print([hashlib.sha256(f.tobytes()).hexdigest() for f in found])
"""


def test_compiled_code_equals_the_plain_one(python):
    out = [python(PLAIN, env={"NUMBA_DISABLE_JIT": flag, "PYTHONPATH": os.fspath(ROOT)})
           for flag in ("0", "1")]
    assert out[0].returncode == 0 and out[1].returncode == 0, out[0].stderr + out[1].stderr
    assert out[0].stdout == out[1].stdout and len(out[0].stdout) > 300


def ragged_mask(shape, rng):
    """A strip with holes that a block reaches beyond on one side, as the survey's does."""
    mask = rng.random(shape) < 0.93
    mask[:, shape[1] // 2:] = False
    mask[shape[0] // 3:shape[0] // 2] = rng.random((shape[0] // 2 - shape[0] // 3, shape[1])) < 0.95
    mask[4:9, 3:9] = False
    return mask


def by_fourier(field, width):
    """Smoothed on a plane so large that no edge sees another. field: (rows, columns)."""
    shape = tuple(n + 1000 for n in field.shape)
    ell2 = np.fft.fftfreq(shape[0])[:, None]**2 + np.fft.rfftfreq(shape[1])**2
    modes = np.fft.rfft2(field.astype(float), s=shape) * np.exp(-2.0 * np.pi**2 * width**2 * ell2)
    return np.fft.irfft2(modes, s=shape)[:field.shape[0], :field.shape[1]]


def error_by_fourier(shapes, mask, kappa, j):
    """Root mean square difference from by_fourier(), divided by the map's standard deviation."""
    width, valid = shapes.scales[j] / 2.0, shapes.valid[j]
    cover = by_fourier(mask, width)
    assert np.array_equal(valid, mask & (cover >= Shapes.COVERAGE)) and valid.sum() >= 100
    expected = by_fourier(kappa, width)[valid] / cover[valid]
    found = shapes.smooth(kappa)[j]
    assert not found[~valid].any()
    return np.sqrt(np.mean((found[valid] - expected)**2)) / expected.std()


@pytest.mark.parametrize("shape", [(150, 90), (97, 64), (64, 33), (40, 176)])
@pytest.mark.parametrize("scale", [0.0, 0.1, 0.6, 1.0, 1.5, 2.0, 3.0, 6.0, 20.0])
def test_smoothing_against_a_fourier_transform(shape, scale, rng):
    """All widths, those whose kernel rings among them: 1e-4 of the map's sd or better."""
    mask = ragged_mask(shape, rng)
    kappa = np.where(mask, rng.normal(0, 0.02, shape), 0.0).astype(np.float32)
    assert error_by_fourier(Shapes(mask, scales=(scale,)), mask, kappa, 0) < 3e-5


def test_smoothing_against_scipy(rng):
    """Where the kernel does not ring it is the Gaussian at the pixels' centres."""
    mask = ragged_mask((90, 70), rng)
    kappa = np.where(mask, rng.normal(0, 0.02, mask.shape), 0.0)
    shapes = Shapes(mask, scales=(4.0, 7.0))
    smooth = shapes.smooth(kappa.astype(np.float32))
    for found, valid, width in zip(smooth, shapes.valid, (2.0, 3.5)):
        top, bottom = (ndimage.gaussian_filter(m.astype(float), width, mode="constant",
                                               truncate=6.0)
                       for m in (kappa, mask))
        right = top[valid] / bottom[valid]
        assert np.allclose(found[valid], right, rtol=0.0, atol=1e-5 * kappa.std())


@pytest.mark.parametrize("damage", ["no tail", "a wrong ratio", "a wrong tap", "too much skipped"])
def test_a_damaged_kernel_is_noticed(damage, rng):
    """Negative controls of the tests above."""
    mask = ragged_mask((150, 90), rng)
    kappa = np.where(mask, rng.normal(0, 0.02, mask.shape), 0.0).astype(np.float32)
    shapes = Shapes(mask, scales=(0.6,))
    whole = shapes.smoothings[0]
    part = {"no tail": {"share": 0.0 * whole.share}, "a wrong ratio": {"ratio": 0.9 * whole.ratio},
            "a wrong tap": {"taps": whole.taps * np.where(np.arange(9) == 3, np.float32(1.1),
                                                          np.float32(1.0))},
            "too much skipped": {"along": np.maximum(whole.along, [[1, 0]])}}[damage]
    shapes.smoothings = [whole._replace(**part)]
    assert error_by_fourier(shapes, mask, kappa, 0) > 6e-5


def test_smoothing_is_a_gaussian_that_knows_the_mask(rng):
    """A direct sum over the observed pixels, weights divided by their sum."""
    mask = rng.random((60, 40)) < 0.85
    mask[20:30, 5:12] = False
    kappa = np.where(mask, rng.normal(0, 0.02, mask.shape), 0.0).astype(np.float32)
    shapes = Shapes(mask, scales=(4.0,))
    field = shapes.smooth(kappa)[0]
    y, x = np.nonzero(mask)
    for j, k in ((10, 10), (0, 3), (35, 20), (59, 39), (31, 8)):
        weight = np.exp(-((y - j)**2 + (x - k)**2) / (2.0 * 2.0**2))      # 4 arcmin are two pixels
        if shapes.valid[0, j, k]:
            right = np.sum(weight * kappa[y, x]) / weight.sum()
            assert field[j, k] == pytest.approx(right, rel=2e-3, abs=2e-6)
        else:
            assert field[j, k] == 0.0
    assert not shapes.valid[0, 24, 8] and shapes.valid[0].sum() > 0.8 * mask.sum()
    assert np.all(mask[shapes.valid[0]])


def test_white_noise_has_the_variance_it_should(rng):
    mask = np.ones((300, 170), bool)
    shapes = Shapes(mask)
    noise = rng.normal(0, noise_sigma(), (4, *mask.shape)).astype(np.float32)
    moments, histogram = shapes.distributions(noise)
    pdf = histogram / shapes.count[:, None]
    counts = np.stack([shapes.peaks(shapes.smooth(one)) for one in noise])
    # a Gaussian of s pixels leaves 1 / (4 pi s^2) of the variance: here 1, 2 and 4; edges add some
    expected = noise_sigma()**2 / (4 * np.pi * np.array([1.0, 4.0, 16.0]))
    assert np.allclose(shapes.noise**2, expected, rtol=2e-3, atol=0.0)
    assert np.allclose(moments[:, :, 0].mean(0), shapes.noise**2, rtol=0.15, atol=0.0)
    skewness = moments[..., 1] / moments[..., 0]**1.5
    assert np.abs(skewness.mean(0)).max() < 0.15
    assert np.allclose((moments[..., 2] / moments[..., 0]**2).mean(0), 3.0, atol=0.35)
    assert np.allclose(pdf.sum(2), 1.0) and counts[:, 0].sum() > 3 * counts[:, 1].sum()


def test_flips_change_nothing(rng):
    mask = rng.random((50, 36)) < 0.9
    kappa = np.where(mask, rng.normal(0, 0.02, mask.shape), 0).astype(np.float32)

    def described(shapes, kappa):
        return *shapes.distributions(kappa[None]), shapes.peaks(shapes.smooth(kappa))
    straight = described(Shapes(mask), kappa)
    flipped = described(Shapes(mask[::-1, ::-1]), np.ascontiguousarray(kappa[::-1, ::-1]))
    for one, other in zip(straight, flipped):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-9)


def test_measure_takes_shapes_as_it_takes_spectra(rng):
    mask = rng.random((40, 30)) < 0.9
    batches = Batches(rng.normal(0, 0.02, (9, mask.sum())).astype(np.float16),
                      Frame(mask, pack=False), scale=1.0, n_gal=None)
    padded = np.zeros(batches.frame.shape, bool)
    padded[:40, :30] = mask
    shapes = OnePoint(padded, 30.0, (2.0, 4.0))
    assert shapes.width == 3 * (3 + 16)
    one, two = (measure(shapes, batches, np.arange(9), NO_NOISE, threads=t) for t in (1, 2))
    assert one.shape == (9, shapes.width) and np.array_equal(one, two)
    assert np.array_equal(one[4], shapes(batches.fetch(np.array([4]), noise=NO_NOISE)[:, 0])[0])
    order = rng.permutation(9)
    assert np.array_equal(measure(shapes, batches, order, NO_NOISE, threads=2, chunk=2), one[order])
