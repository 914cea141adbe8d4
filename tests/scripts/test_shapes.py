"""Moments, PDF and peaks: the compiled pass against scipy and NumPy, smoothing against a direct sum."""
import os

import numpy as np
import pytest
from conftest import ROOT
from scipy import ndimage

from wl.maps.batches import NO_NOISE, Batches, Frame
from wl.kernels.summaries import bin_of, describe
from wl.core.params import noise_sigma
from wl.summaries.handmade import Shapes, measure

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


@pytest.mark.parametrize("shape, part", [((40, 33), 0.9), ((7, 60), 1.0), ((3, 3), 1.0), ((1, 9), 1.0),
                                         ((20, 20), 0.0)])
def test_against_numpy_and_scipy(shape, part, rng):
    field = ndimage.gaussian_filter(rng.normal(size=shape), 0.7).astype(np.float32) * 2
    valid = rng.random(shape) < part
    moments, histogram, peaks = describe(field, valid, PDF, PEAK)
    values = field[valid].astype(float)
    if part:
        d = values - values.mean()
        assert np.allclose(moments, [np.mean(d**k) for k in (2, 3, 4)], rtol=1e-10, atol=0.0)
    assert np.array_equal(histogram, binned(values, PDF)) and histogram.sum() == valid.sum()
    found = slow_peaks(field, valid)
    assert np.array_equal(peaks, binned(found, PEAK)) and peaks.sum() == len(found)
    if shape == (40, 33):
        assert peaks.sum() > 20


def test_a_plateau_is_no_peak_and_a_lone_pixel_is_one():
    field, valid = np.zeros((7, 9), np.float32), np.ones((7, 9), bool)
    bins = np.array([0.0, 1.0, 3.0])
    assert describe(field, valid, bins, bins)[2].sum() == 0
    field[3, 4] = 1.5
    assert describe(field, valid, bins, bins)[2].tolist() == [0, 1, 0]
    field[3, 5] = 1.5
    assert describe(field, valid, bins, bins)[2].sum() == 0
    field[3, 5], valid[2, 3] = 0.0, False
    assert describe(field, valid, bins, bins)[2].sum() == 0


def test_what_lies_beyond_the_bins_goes_to_the_ends():
    bins = np.array([-1.0, 0.5, 4.0])
    values = (-9.0, -1.0, -0.6, -0.5, 0.99, 1.0, 7.0, np.nan, np.inf, -np.inf)
    assert [bin_of(v, bins) for v in values] == [0, 0, 0, 1, 3, 3, 3, 0, 3, 0]


def test_compiled_code_equals_the_plain_one(python):
    code = ("import sys, numpy as np; from wl.kernels.summaries import describe; r = np.random.default_rng(5); "
            "f = r.normal(size=(30, 25)).astype(np.float32); v = r.random((30, 25)) < 0.8; "
            "m, h, p = describe(f, v, np.array([-2.0, 0.5, 9.0]), np.array([-1.0, 0.25, 14.0])); "
            "print(m.tobytes().hex(), h.tolist(), p.tolist())")
    out = [python(code, env={"NUMBA_DISABLE_JIT": flag, "PYTHONPATH": os.fspath(ROOT)}) for flag in ("0", "1")]
    assert out[0].returncode == 0, out[0].stderr
    assert out[0].stdout == out[1].stdout and len(out[0].stdout) > 50


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
            assert field[j, k] == pytest.approx(np.sum(weight * kappa[y, x]) / weight.sum(), rel=2e-3, abs=2e-6)
        else:
            assert field[j, k] == 0.0
    assert not shapes.valid[0, 24, 8] and shapes.valid[0].sum() > 0.8 * mask.sum()
    assert np.all(mask[shapes.valid[0]])


def test_white_noise_has_the_variance_it_should(rng):
    mask = np.ones((300, 170), bool)
    shapes = Shapes(mask)
    noise = rng.normal(0, noise_sigma(), (4, *mask.shape)).astype(np.float32)
    moments, pdf, peaks = shapes.describe(noise)
    # a Gaussian of s pixels leaves 1 / (4 pi s^2) of the variance: 1, 2 and 4 pixels here, edges add some
    expected = noise_sigma()**2 / (4 * np.pi * np.array([1.0, 4.0, 16.0]))
    assert np.allclose(shapes.noise**2, expected, rtol=2e-3, atol=0.0)
    assert np.allclose(moments[:, :, 0].mean(0), shapes.noise**2, rtol=0.15, atol=0.0)
    skewness = moments[..., 1] / moments[..., 0]**1.5
    assert np.abs(skewness.mean(0)).max() < 0.15
    assert np.allclose((moments[..., 2] / moments[..., 0]**2).mean(0), 3.0, atol=0.35)
    assert np.allclose(pdf.sum(2), 1.0) and peaks[:, 0].sum() > 3 * peaks[:, 1].sum()


def test_flips_change_nothing(rng):
    mask = rng.random((50, 36)) < 0.9
    kappa = np.where(mask, rng.normal(0, 0.02, mask.shape), 0).astype(np.float32)
    straight = Shapes(mask)(kappa[None])
    flipped = Shapes(mask[::-1, ::-1])(np.ascontiguousarray(kappa[::-1, ::-1])[None])
    assert np.allclose(straight, flipped, rtol=1e-4, atol=1e-9)


def test_measure_takes_shapes_as_it_takes_spectra(rng):
    mask = rng.random((40, 30)) < 0.9
    batches = Batches(rng.normal(0, 0.02, (9, mask.sum())).astype(np.float16), Frame(mask, pack=False), scale=1.0,
                      n_gal=None)
    frame = batches.frame.shape
    padded = np.zeros(frame, bool)
    padded[:40, :30] = mask
    shapes = Shapes(padded, scales=(2.0, 4.0))
    assert shapes.width == 2 * (3 + 16 + 12)
    one, two = (measure(shapes, batches, np.arange(9), NO_NOISE, threads=t) for t in (1, 2))
    assert one.shape == (9, shapes.width) and np.array_equal(one, two)
    moments, pdf, peaks = shapes.describe(batches.fetch(np.array([4]), noise=NO_NOISE)[:, 0])
    assert np.array_equal(one[4], np.concatenate([moments.ravel(), pdf.ravel(), peaks.ravel()]))
