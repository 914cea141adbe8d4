"""The simulator's knobs: each does what it says, is stored with the set, and refuses nonsense."""
import json

import numpy as np
import pytest
from conftest import one_line

from wl.core.checks import InputError
from wl.simulate.fields import Grid, component_shift, generator, log_normal_shift
from wl.simulate.plan import (FIXED_NUISANCES, KAPPA_FILE, LABEL_FILE, Plan, SimulationOptions,
                              design, draw_nuisances)
from wl.simulate.halo_sky import draw_maps
from wl.simulate.simulate import parser, simulate
from wl.simulate.theory import PUBLISHED, Sky, Theory
from wl.core.params import FRAME

SMALL = dict(cosmologies=3, realisations=4, test=2, processes=1, quiet=True)
LABEL = np.array([[0.3, 0.8, *FIXED_NUISANCES]])


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    np.save(path, np.ones((176, 176), bool))
    return path


@pytest.fixture(scope="module")
def grid(mask_file):
    return Grid(np.load(mask_file))


def plan_of(**options):
    return Plan(SimulationOptions(**options))


def drawn(grid, n, **knobs):
    """n maps at (0.3, 0.8), float64 (n, n_observed), of one log-normal without white scatter unless
    asked otherwise."""
    field = SimulationOptions(**{"gaussian_below": 0.0, "lambda_factor": 1.0, "pixel_scatter": 0.0,
                                 **PUBLISHED._asdict(), **knobs})
    labels, keys = np.repeat(LABEL, n, axis=0), [(1, 0, r) for r in range(n)]
    return np.array(list(draw_maps(grid, labels, 5, keys, field)), float)


def cumulants(kappa):
    """Standard deviation, skewness, excess kurtosis of all pixels together."""
    d = kappa - kappa.mean()
    return d.std(), np.mean(d**3) / d.std()**3, np.mean(d**4) / d.std()**4 - 3.0


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_component_shift_keeps_variance_and_third_moment(share):
    """By the log-normal's cumulants in their textbook form, in w = exp(v)."""
    variance, lam = 1.2e-4, 0.0154

    def third(lam, variance):
        w = 1.0 + variance / lam**2
        return variance**1.5 * (w + 2.0) * np.sqrt(w - 1.0)

    part = component_shift(lam, variance, share)
    assert third(part, (1.0 - share) * variance) == pytest.approx(third(lam, variance), rel=1e-10)
    assert part <= lam * (1.0 + 1e-12)


def test_gaussian_share_keeps_skewness_and_raises_kurtosis(grid):
    pure, mixed = (cumulants(drawn(grid, 120, gaussian_share=x)) for x in (0.0, 0.2))
    assert mixed[0] == pytest.approx(pure[0], rel=0.02)
    for skewness in (pure[1], mixed[1]):
        assert 2.2 < skewness < 2.8
    assert pure[2] / pure[1]**2 < 2.3 < 2.45 < mixed[2] / mixed[1]**2


def test_left_tail_and_clipped_kurtosis_come_nearer_to_real_maps(grid):
    """As the real maps were seen: clipped to -0.02 ... 0.07, kurtosis/skewness^2 2.0, skewness
    1.70-1.94."""
    ratio = {}
    for share in (0.0, 0.2):
        kappa = drawn(grid, 120, gaussian_share=share)
        _, skewness, kurtosis = cumulants(np.clip(kappa, -0.02, 0.07))
        ratio[share] = kurtosis / skewness**2, skewness, np.quantile(kappa, 1e-3)
    assert ratio[0.0][0] < 1.62 and 1.68 < ratio[0.2][0] < 2.1
    assert 1.75 < ratio[0.2][1] < 2.1
    assert ratio[0.0][2] > -0.0145 > -0.0185 > ratio[0.2][2] > -0.0215


def test_wrong_third_moment_would_be_seen(grid):
    """Negative control: a Gaussian part without the correction loses a fifth of the skewness."""
    power = grid.pixel_power(Theory(0.3, 0.8).c_ell(grid.ell, 0.0, 7.85, 0.01325))[0]
    lam = float(log_normal_shift(0.3, 0.8))
    kappa = np.array([
        grid.draw(np.float32(0.85) * power, lam, generator(1, r))
        + np.sqrt(0.15) * grid.draw(power, None, generator(2, r)) for r in range(80)
    ], float)
    assert cumulants(kappa)[1] < 2.1


def test_large_scales_are_gaussian_below(grid):
    """Spectrum and pixel third moment stay; what large scales make of the power of small ones
    goes."""
    def modulation(kappa):
        modes = np.fft.rfft2(kappa.reshape(-1, 176, 176))
        ell = 2 * np.pi / grid.pixel * np.hypot(
            np.fft.fftfreq(176)[:, None],
            np.fft.rfftfreq(176)[None, :])
        large = np.fft.irfft2(modes * (ell < 200.0), s=(176, 176)).ravel()
        small = np.fft.irfft2(modes * (ell > 1000.0), s=(176, 176)).ravel()**2
        return np.mean(large * small) / large.std() / small.mean()

    one, mixed = drawn(grid, 60), drawn(grid, 60, gaussian_below=300.0)
    assert mixed.std() == pytest.approx(one.std(), rel=0.02)
    assert cumulants(mixed)[1] == pytest.approx(cumulants(one)[1], rel=0.1)
    assert modulation(one) > 0.25 and modulation(mixed) < 0.5 * modulation(one)
    share = grid.share(0.2, 50.0).reshape(grid.quarter)
    ell = np.hypot.outer(grid.ell_y, grid.ell_x)
    assert share[0, 0] == 1.0 and np.all(share[(ell > 150.0) & (ell < 250.0)] < 0.08)
    assert share[-1, -1] == pytest.approx(0.2, abs=1e-3) and np.all(share[ell > 2000.0] > 0.19)
    assert np.all(grid.share(0.2, 0.0)[ell.ravel() < 80.0] < 0.01)
    assert not grid.share(0.0, 0.0).any()


def test_lambda_factor_and_scatter(grid):
    plain, flat = drawn(grid, 60), drawn(grid, 60, lambda_factor=1.5)
    assert cumulants(flat)[1] < 0.8 * cumulants(plain)[1]
    assert flat.std() == pytest.approx(plain.std(), rel=0.02)
    spread = {
        x: np.array(
            [cumulants(k)[1] for k in drawn(grid, 60, gaussian_share=0.0, lambda_scatter=x)])
        for x in (0.0, 0.4)
    }
    assert np.std(np.log(spread[0.4])) > 1.25 * np.std(np.log(spread[0.0]))
    # the floor of a log-normal is its own lambda: scattered by 0.4 in the logarithm
    floor = np.log(-drawn(grid, 60, gaussian_share=0.0, lambda_scatter=0.4).min(axis=1))
    assert np.std(floor) == pytest.approx(0.4, rel=0.3)


def test_pixel_scatter_is_white_and_uniform_in_variance(grid):
    extra = drawn(grid, 200, pixel_scatter=4e-5) - drawn(grid, 200)
    variance = extra.var(axis=1)
    assert variance.max() < 4.05e-5 and variance.mean() == pytest.approx(2e-5, rel=0.15)
    assert np.quantile(variance, 0.25) == pytest.approx(1e-5, rel=0.35)
    field = extra[np.argmax(variance)].reshape(176, 176)
    assert abs(np.mean(field[1:] * field[:-1])) < 0.03 * field.var()


def test_shared_seeds_share_fields_and_nuisances(mask_file, tmp_path):
    for name, flag in (("own", False), ("shared", True)):
        simulate(tmp_path / name, mask=mask_file, shared_seeds=flag, **SMALL)
    own, shared = (np.load(tmp_path / n / KAPPA_FILE).astype(float) for n in ("own", "shared"))
    same = [np.corrcoef(shared[0, r], shared[2, r])[0, 1] for r in range(4)]
    other = [np.corrcoef(own[0, r], own[2, r])[0, 1] for r in range(4)]
    assert min(same) > 0.8 and max(map(abs, other)) < 0.3
    assert abs(np.corrcoef(shared[0, 0], shared[2, 1])[0, 1]) < 0.3
    label = np.load(tmp_path / "shared" / LABEL_FILE)
    assert np.array_equal(label[:, :, 2:], np.repeat(label[:1, :, 2:], 3, axis=0))
    assert np.array_equal(shared[0], own[0])                   # the first cosmology is as it was


def test_nuisances_fixed_and_of_the_design(mask_file, tmp_path):
    fixed = plan_of(cosmologies=4, realisations=2, test=5, unseen=2, mask=mask_file,
                    nuisances="fixed")
    assert np.all(fixed.label[..., 2:] == FIXED_NUISANCES) and np.all(
        fixed.label_test[:, 2:] == FIXED_NUISANCES)
    label = np.empty((4, 3, 5))
    label[:, :, :2] = design(4)[:, None]
    label[:, :, 2:] = draw_nuisances(12, np.random.default_rng(1)).reshape(4, 3, 3)
    np.save(tmp_path / "label.npy", label)
    options = dict(test=0, mask=mask_file, design=tmp_path / "label.npy")
    assert np.array_equal(plan_of(**options).label, label)
    drawn = plan_of(nuisances="drawn", realisations=9, **options)
    assert drawn.label.shape == (4, 9, 5) and np.array_equal(drawn.label[:, 0, :2], label[:, 0, :2])
    assert len(np.unique(drawn.label[..., 2])) == 36
    assert drawn.settings["nuisances"] == "drawn" and plan_of(
        **options).settings["nuisances"] == "design"
    with pytest.raises(InputError) as error:
        plan_of(cosmologies=4, mask=mask_file, nuisances="design")
    one_line(error, "--nuisances", "--design")


@pytest.mark.parametrize("cosmologies, word", [
    ([[0.3, 0.8], [0.2, 0.7], [0.3, 0.8], [0.2, 0.9]], "same"),
    ([[0.2, 0.7], [0.3, 0.8], [0.4, 0.9]], "line"),
    ([[0.8, 0.3], [0.7, 0.2], [0.9, 0.2]], "swapped")])
def test_a_design_that_no_run_would_take_is_refused_before_maps_are_drawn(cosmologies, word,
                                                                          mask_file, tmp_path):
    np.save(tmp_path / "theta.npy", np.array(cosmologies))
    with pytest.raises(InputError) as error:
        plan_of(mask=mask_file, design=str(tmp_path / "theta.npy"), realisations=2, test=0)
    one_line(error, "theta.npy", word)


@pytest.mark.parametrize("theta", [(0.08, 0.60), (0.08, 1.05), (0.70, 0.60), (0.70, 1.05)])
def test_corners_beyond_the_design_can_be_drawn(grid, theta):
    labels = np.array([[*theta, t, f, z] for t, f, z in ((7.2, 0.0, -0.1), (8.5, 0.0265, 0.1))])
    maps = list(draw_maps(grid, labels, 1, [(1, 0, 0), (1, 0, 1)], SimulationOptions()))
    power = grid.pixel_power(Theory(*theta).table(grid.ell)(*labels[:, 2:].T))
    for kappa, p in zip(maps, power):
        assert np.isfinite(kappa).all()
        assert kappa.std() == pytest.approx(np.sqrt(grid.variance(p)), rel=0.35)


def test_whole_periodic_frame():
    plan = plan_of(cosmologies=3, realisations=1, test=0, mask="none", periodic=True,
                   field="gaussian")
    assert plan.mask.all() and plan.mask.shape == FRAME
    grid = Grid(plan.mask, periodic=True)
    assert (grid.rows, grid.columns) == FRAME and len(grid.observed) == FRAME[0] * FRAME[1]
    power = grid.pixel_power(Theory(0.3, 0.8).c_ell(grid.ell, 0.0, 7.85, 0.01325))[0]
    kappa = np.array([grid.draw(power, None, generator(3, r)).reshape(FRAME) for r in range(30)],
                     float)
    assert kappa.var() == pytest.approx(grid.variance(power), rel=0.02)
    # opposite edges are neighbours, and modes of the frame do not know of one another
    assert np.corrcoef(kappa[:, 0].ravel(), kappa[:, -1].ravel())[0, 1] > 0.5
    modes = np.fft.rfft2(kappa)[:, :40, :40].reshape(30, -1)
    assert np.mean(np.abs(np.mean(modes[:, 1:] * modes[:, :-1].conj(),
                                  0))) < 0.3 * np.mean(np.abs(modes)**2)
    assert plan.settings["periodic"] is True and plan.origin["mask"] == "none"


def test_every_knob_is_stored_and_told_apart(mask_file, tmp_path):
    options = dict(mask=mask_file, **SMALL)
    simulate(tmp_path / "set", **options)
    settings = json.loads((tmp_path / "set" / "simulation.json").read_text())["settings"]
    assert {
        "gaussian_share", "gaussian_below", *Sky._fields, "lambda_factor", "lambda_scatter",
        "pixel_scatter", "shared_seeds", "nuisances", "n_gal", "periodic", "field"
    } <= set(settings)
    for change in (dict(gaussian_share=0.0), dict(lambda_factor=1.1), dict(lambda_scatter=0.1),
                   dict(pixel_scatter=1e-5), dict(gaussian_below=10.0), dict(delta_z_sign=1),
                   dict(source_shift=0.0), dict(f_b_max=0.2), dict(stellar_boost=1.0),
                   dict(nonlinear_tilt=0.0), dict(shared_seeds=True), dict(nuisances="fixed"),
                   dict(n_gal=20.0), dict(periodic=True), dict(field="gaussian")):
        with pytest.raises(InputError) as error:
            simulate(tmp_path / "set", **{**options, **change})
        one_line(error, *change, "--force")


def test_options_of_the_command_have_the_fields_defaults():
    """One place for each number: what the command line takes is what a sky in Python has."""
    options = SimulationOptions.of(parser().parse_args(["--out", "x"]))
    assert options == SimulationOptions() and options.sky == Sky()


def test_odd_frames_cannot_be_periodic(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((30, 31), bool))
    with pytest.raises(InputError) as error:
        simulate(tmp_path / "out", mask=tmp_path / "mask.npy", periodic=True, **SMALL)
    one_line(error, "--periodic", "even")
