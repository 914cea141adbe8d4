"""Drawn maps against the spectra and moments they are asked to have, and the grid against brute
force."""
import numpy as np
import pytest

from wl.validate.spectra import masked_window
from wl.core.checks import InputError
from wl.simulate.fields import (ARCMIN, GAUSSIAN_SHARE, Grid, generator, grid_size,
                                log_normal_shift)
from wl.simulate.halo_sky import draw_maps
from wl.simulate.plan import FIXED_NUISANCES, SimulationOptions, procedural_mask
from wl.simulate.theory import Theory
from wl.core.params import FRAME, N_OBSERVED
from wl.summaries.handmade import Spectrum


@pytest.fixture(scope="module")
def full():
    """The survey's grid, the pixel spectrum at (0.3, 0.8) and its log-normal shift."""
    grid = Grid(procedural_mask())
    power = grid.pixel_power(Theory(0.3, 0.8).c_ell(grid.ell, 0.0, 7.85, 0.01325))[0]
    return grid, power, float(log_normal_shift(0.3, 0.8))


def measured(grid, kappa):
    """Periodogram on the quarter grid, float64, with the mirror images averaged in."""
    transform = np.abs(np.fft.rfft2(np.asarray(kappa, float)))**2 * grid.pixel**2 / kappa.size
    mirrored = transform.copy()
    mirrored[1:] = transform[:0:-1]
    return 0.5 * (transform + mirrored)[:grid.quarter[0]]


def binned(grid, power, edges):
    """Mean over the modes in |ell| bins, counting mirror images."""
    ell = np.hypot.outer(grid.ell_y, grid.ell_x)
    times = np.outer(*(np.r_[1.0, np.full(n - 2, 2.0), 1.0] for n in grid.quarter))
    which = np.digitize(ell, edges)
    return np.array([
        np.sum((power.reshape(grid.quarter) * times)[which == i]) / times[which == i].sum()
        for i in range(1, len(edges))
    ])


@pytest.mark.parametrize("field, share", [("gaussian", 0.0), ("lognormal", 0.0),
                                          ("lognormal", GAUSSIAN_SHARE)])
def test_drawn_spectrum_is_the_theory_to_one_per_cent(full, field, share):
    grid, power, lam = full
    lam = None if field == "gaussian" else lam
    edges = np.geomspace(100.0, 6000.0, 6)
    n = 160
    drawn = [
        binned(grid, measured(grid, grid.draw(power, lam, generator(5, r), share, full=True)),
               edges) for r in range(n)
    ]
    ratio = np.mean(drawn, axis=0) / binned(grid, power, edges)
    error = np.std(drawn, axis=0) / np.sqrt(n) / binned(grid, power, edges)
    assert np.all(error < 0.008) and np.all(error[1:] < 0.004)       # the first bin has few modes
    assert np.all(np.abs(ratio - 1.0) < 0.01 + 2.0 * error * (error > 0.003))


def test_masked_spectrum_is_the_theory_to_one_per_cent(full):
    """Maps as they are written, behind the mask: the mean of their pseudo-spectra is what the mask
    makes of C_ell."""
    grid, _, _ = full
    mask, n = procedural_mask(), 240
    spectrum = Spectrum(FRAME, N_OBSERVED, n_bin=5, ell_min=100.0, ell_max=6000.0)
    labels = np.tile([0.3, 0.8, *FIXED_NUISANCES], (n, 1))
    frame, found = np.zeros((1, *FRAME), np.float32), []
    for kappa in draw_maps(grid, labels, 11, [(1, 0, r) for r in range(n)],
                           SimulationOptions(pixel_scatter=0.0)):
        frame[0][mask] = kappa.astype(np.float16)
        found.append(10.0**spectrum(frame)[0])
    expected = masked_window(grid, mask, spectrum) @ Theory(0.3, 0.8).c_ell(
        grid.ell, 0.0, 7.85, 0.01325)
    ratio, error = np.mean(found, axis=0) / expected, np.std(found, axis=0) / np.sqrt(n) / expected
    # skewed maps share their amplitude at all ell
    assert np.all(error < 0.011) and np.all(error[1:] < 0.006)
    assert np.all(np.abs(ratio - 1.0) < 0.01 + 2.0 * error * (error > 0.005)), ratio


def test_moments_at_the_pixel(full):
    grid, power, lam = full
    kappa = np.array([grid.draw(power, lam, generator(6, r)) for r in range(60)], float)
    assert kappa.shape == (60, N_OBSERVED)
    sigma = np.sqrt(grid.variance(power))
    assert kappa.std() == pytest.approx(sigma, rel=0.02)
    assert abs(kappa.mean()) < 3e-4
    assert kappa.min() > -lam
    skewness = np.mean((kappa - kappa.mean())**3) / kappa.std()**3
    assert 2.2 < skewness < 2.8
    # of a shifted log-normal the skewness is known: (e^v + 2) sqrt(e^v - 1), v its Gaussian
    # variance
    growth = 1.0 + (sigma / lam)**2
    assert skewness == pytest.approx((growth + 2.0) * np.sqrt(growth - 1.0), rel=0.05)


def test_gaussian_maps_are_gaussian(full):
    grid, power, _ = full
    kappa = np.array([grid.draw(power, None, generator(7, r)) for r in range(40)], float)
    assert kappa.std() == pytest.approx(np.sqrt(grid.variance(power)), rel=0.02)
    assert abs(np.mean(kappa**3)) / kappa.std()**3 < 0.03
    assert np.mean(kappa**4) / kappa.std()**4 == pytest.approx(3.0, abs=0.05)


def test_modes_are_complex_normal_numbers(full):
    from scipy import stats
    grid, _, _ = full
    power = np.full(grid.quarter, 2.0 * grid.pixel**2 / (grid.rows * grid.columns), np.float32)
    modes = grid.modes(power.ravel(), generator(8, 1))[:, 1:-1].copy()
    for part in (modes.real, modes.imag):
        assert stats.kstest(part.ravel(), "norm").pvalue > 1e-3
    assert abs(np.mean(modes**2)) < 0.01 and np.mean(np.abs(modes)**4) == pytest.approx(
        8.0, rel=0.02)


def test_pixel_window_and_aliases_by_averaging_a_finer_field():
    """White-noise-filtered fields drawn on a grid 8 times finer and averaged over the pixels."""
    grid = Grid(np.ones((16, 16), bool))
    fine, n = 8, 120
    shape = (grid.rows * fine, grid.columns * fine)
    step = grid.pixel / fine
    ell = 2 * np.pi * np.hypot(
        np.fft.fftfreq(shape[0], step)[:, None], np.fft.rfftfreq(shape[1], step))

    def spectrum(l):
        return 1e-9 * (np.asarray(l) / 1000.0)**-1.2 / (1.0 + (np.asarray(l) / 9000.0)**2)

    amplitude = np.zeros_like(ell)
    amplitude[ell > 0] = np.sqrt(spectrum(ell[ell > 0])) / step
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(n):
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
        pixels = field.reshape(grid.rows, fine, grid.columns, fine).mean(axis=(1, 3))
        total = total + measured(grid, pixels)
    edges = np.array([150.0, 800.0, 2000.0, 3500.0, 5000.0, 5400.0, 7700.0])
    predicted = binned(grid, grid.pixel_power(spectrum(grid.ell))[0], edges)
    assert np.allclose(binned(grid, total / n, edges), predicted, rtol=0.03, atol=0.0)
    # without window and aliases it would be far off
    plain = binned(grid,
                   spectrum(np.maximum(np.hypot.outer(grid.ell_y, grid.ell_x), 1.0)).ravel(), edges)
    assert np.max(np.abs(plain / predicted - 1.0)) > 0.2


def test_log_normal_transform_on_the_correlation_function(full):
    """lam^2 (exp(xi_g) - 1) is the correlation function again, by numpy.fft on the whole grid."""
    grid, power, lam = full

    def correlation(quarter):
        whole = np.concatenate([quarter, quarter[-2:0:-1]]).astype(float)
        return np.fft.irfft2(whole, s=(grid.rows, grid.columns)) / grid.pixel**2

    target = correlation(power.reshape(grid.quarter))
    back = lam**2 * np.expm1(correlation(grid.gaussian_power(power, lam)))
    assert np.abs(back - target).max() < 2e-3 * target[0, 0]
    assert grid.variance(power) == pytest.approx(target[0, 0], rel=1e-5)


def test_mean_of_the_grid_has_no_power(full):
    grid, power, _ = full
    assert power[0] == 0.0 and power.min() >= 0.0
    assert abs(grid.draw(power, None, generator(9, 1), full=True).mean(dtype=float)) < 1e-8


def test_grid_sizes():
    assert (grid_size(FRAME[0]), grid_size(FRAME[1])) == (1536, 256)
    for n in (1, 7, 16, 100, 999, 1424):
        size = grid_size(n)
        assert size >= n + 80 and size % 2 == 0
    grid = Grid(np.ones((30, 44), bool))
    nothing = np.zeros(grid.quarter[0] * grid.quarter[1], np.float32)
    assert grid.draw(nothing, 0.01, generator(1, 1)).shape == (1320,)
    with pytest.raises(InputError, match="2000"):
        Grid(np.ones((4000, 3000), bool))


def test_pixels_come_in_the_order_of_the_mask(full):
    grid, power, lam = full
    mask = procedural_mask()
    whole = grid.draw(power, lam, generator(3, 1), full=True)
    assert np.array_equal(whole[:FRAME[0], :FRAME[1]][mask], grid.draw(power, lam, generator(3, 1)))


def test_opposite_edges_do_not_know_of_one_another(full):
    grid, power, lam = full
    ends = np.array(
        [(w[:4, :80].mean(), w[FRAME[0] - 4:FRAME[0], :80].mean(), w[4:8, :80].mean())
         for w in (grid.draw(power, lam, generator(4, r), full=True) for r in range(300))])
    correlation = np.corrcoef(ends.T)
    assert abs(correlation[0, 1]) < 0.2 < correlation[0, 2]


def test_pixel_is_two_arcminutes(full):
    assert full[0].pixel == pytest.approx(2.0 * ARCMIN) == pytest.approx(5.8178e-4, rel=1e-4)
