"""The simulator's spectra against real ones with truth, on realisations that were not fitted."""
import numpy as np
import pytest
from conftest import one_line

from wl.validate import spectra as module
from wl.validate import realism as command
from wl.core.checks import InputError
from wl.simulate.plan import FIXED_NUISANCES, SimulationOptions, draw_nuisances
from wl.simulate.theory import PUBLISHED
from wl.validate.spectra import Spectra, Survey, compare, read_spectra, regress, simulate
from wl.maps.dataset import MASK_FILE, read_label, read_mask

SPECTRA = "kit_spectra.npz"
# before the calibration
OLD = SimulationOptions(gaussian_below=0.0, lambda_factor=1.0, pixel_scatter=0.0,
                        **PUBLISHED._asdict())


@pytest.fixture(scope="module")
def kit(real):
    """Real spectra, their survey and the labels of the training set."""
    if not (real / SPECTRA).is_file():
        pytest.skip(f"no {SPECTRA} among the real files")
    mask = read_mask(real / MASK_FILE)
    spectra = read_spectra(real / SPECTRA, mask)
    return spectra, spectra.survey, read_label(real / "label.npy")


def half(spectra, which):
    return spectra._replace(power=spectra.power[:, which], label=spectra.label[:, which])


CHECK = np.arange(20) % 4 >= 2                    # benchmarks/fit_sky.py fits the others


@pytest.fixture(scope="module")
def drawn(kit):
    return simulate(kit[1], kit[0].label, SimulationOptions(), repeats=3)


def test_files_are_read_as_their_readme_says(kit, real):
    spectra, survey, label = kit
    assert np.array_equal(spectra.label, label[:3, :20])
    assert spectra.survey.noise == pytest.approx(1.1886e-10, rel=1e-4)
    again = read_spectra(real / SPECTRA, survey.mask, label)
    assert np.array_equal(again.label, spectra.label)


def test_signals_of_realisations_that_were_not_fitted(kit, drawn):
    """30 mean signals within 5 % plus their error; of ten realisations bin 10 may be off by
    more."""
    spectra, survey, _ = kit
    expected = survey.expected(spectra.label, SimulationOptions())
    part = compare(half(spectra, CHECK), expected[:, CHECK], drawn[:, :, CHECK])
    assert np.all(part["ratio_p"] > 0.05), part["ratio"]
    off = np.abs(part["ratio"] - 1.0) > 0.05 + part["ratio_error"]
    assert off.sum() <= 2 and not off[:, :9].any(), part["ratio"]
    whole = compare(spectra, expected, drawn)
    verdicts = [whole[name] for name in ("means", "signs", "responses", "scatters")]
    assert all(verdicts), module.table(whole, spectra.label)
    # what maps really have is what the window says
    assert np.all(np.abs(whole["drawn"] - 1.0) < 0.02 + 3.5 * whole["drawn_error"]), whole["drawn"]


def test_responses_of_realisations_that_were_not_fitted(kit, drawn):
    """Within two errors in bins 4-8, with the right sign; the sign of Delta_z is no matter of
    chance."""
    spectra, survey, _ = kit
    expected = survey.expected(spectra.label, SimulationOptions())
    part = compare(half(spectra, CHECK), expected[:, CHECK], drawn[:, :, CHECK])
    assert part["signs"] and part["responses"], part["slope_p"]
    least = module.SIGNAL_FLOOR * spectra.survey.noise
    slope, error, _ = regress(spectra.power - spectra.survey.noise, spectra.label, least)
    assert np.all(slope[:, 2, 3:8] + error[:, 2, 3:8] < 0.0)


def test_rms_of_the_training_set(kit):
    _, survey, label = kit
    assert survey.rms(label, SimulationOptions()) == pytest.approx(0.01137, rel=0.01)


@pytest.mark.parametrize("change, fails", [
    (PUBLISHED._asdict(), ("means", "signs", "responses")), (dict(pixel_scatter=0.0), ("means",)),
    (dict(delta_z_sign=1), ("signs", "responses")),
    (dict(stellar_boost=1.0), ("means", "responses")),
    (dict(nonlinear_tilt=0.0), ("means",)),
    (dict(source_shift=0.0), ("means",))])
def test_each_setting_is_needed(kit, drawn, change, fails):
    """Negative controls: without one of the fitted settings the same comparison fails."""
    spectra, survey, _ = kit
    result = compare(spectra, survey.expected(spectra.label, SimulationOptions(**change)), drawn)
    assert not any(result[name] for name in fails), module.table(result, spectra.label)


def test_the_old_fields_scatter_is_larger(kit, drawn):
    """Negative control: without Gaussian large scales maps scatter more, by 4-6 % in bins 4-9."""
    spectra, survey, _ = kit
    expected = survey.expected(spectra.label, SimulationOptions())
    options = SimulationOptions(gaussian_below=0.0, lambda_factor=0.85)
    old = simulate(survey, spectra.label, options, repeats=3)
    scatter = [compare(spectra, expected, one)["scatter"][module.SCATTER_BINS].mean()
               for one in (drawn, old)]
    assert scatter[1] > 1.02 * scatter[0] and abs(scatter[0] - 1.0) < 0.1


@pytest.fixture(scope="module")
def small():
    mask = np.random.default_rng(3).random((200, 100)) < 0.8
    return Survey(mask, np.geomspace(200.0, 5000.0, 6))


@pytest.fixture(scope="module")
def own(small):
    """Spectra of simulated maps in the place of real ones."""
    rng = np.random.default_rng(5)
    theta = np.repeat([[[0.3, 0.8]], [[0.2, 0.9]]], 12, axis=1)
    label = np.concatenate([theta, draw_nuisances(24, rng).reshape(2, 12, 3)], axis=2)
    power = simulate(small, label, SimulationOptions(), 1, seed=7)[0]
    return Spectra(power, label, small)


def test_simulated_maps_pass_as_real(small, own):
    drawn = simulate(small, own.label, SimulationOptions(), 4)
    result = compare(own, small.expected(own.label, SimulationOptions()), drawn)
    assert result["ratio_p"].min() > 1e-3 and result["slope_p"].min() > 1e-3
    assert result["scatter_p"].min() > 1e-3
    assert np.all(np.abs(result["drawn"] - 1.0) < 4.0 * result["drawn_error"])
    assert not compare(own, small.expected(own.label, OLD), drawn)["means"]


def test_expected_signal_is_the_mean_of_drawn_maps_with_their_scatter(small):
    label = np.tile([0.3, 0.8, *FIXED_NUISANCES], (1, 40, 1))
    loud = SimulationOptions(pixel_scatter=4e-4)
    power = simulate(small, label, loud, 4).reshape(-1, small.spectrum.width) - small.noise
    error = power.std(axis=0) / np.sqrt(len(power))
    assert np.all(np.abs(power.mean(axis=0) - small.expected(label, loud)[0, 0]) < 4.0 * error)
    quiet = small.expected(label, SimulationOptions())[0, 0, -1]
    assert np.all(power.mean(axis=0)[-1] > 1.5 * quiet)


def test_regression_finds_the_slopes_that_were_put_in(rng):
    label = np.concatenate([np.tile([0.3, 0.8], (1, 60, 1)), draw_nuisances(60, rng)[None]], axis=2)
    truth = np.array([[-0.2, 0.1], [0.3, 0.0], [-0.05, -0.07]])
    x = (label[0, :, 2:] - FIXED_NUISANCES) / module.UNITS
    noise = 0.03 * rng.standard_normal((400, 60, 2))
    found = [regress(np.exp(1.0 + x @ truth + one)[None], label, 1e-30)[:2] for one in noise]
    slope, error = (np.array([f[i][0] for f in found]) for i in (0, 1))
    assert np.allclose(slope.mean(axis=0), truth, atol=5.0 * 0.01 / 20)
    assert np.allclose(np.sqrt(np.mean(error**2, axis=0)), slope.std(axis=0), rtol=0.15)


def test_command(small, own, tmp_path, capsys):
    np.save(tmp_path / "mask.npy", small.mask)
    np.savez(tmp_path / "spectra.npz", power=own.power, label=own.label,
             ell_edges=own.survey.spectrum.edges)
    np.save(tmp_path / "label.npy", own.label)
    options = ["--spectra", str(tmp_path / "spectra.npz"), "--mask", str(tmp_path / "mask.npy"),
               "--quiet", "--maps", "48"]
    command.realism_main([*options, "--label", str(tmp_path / "label.npy")])
    out = capsys.readouterr().out
    for word in ("2 simulated maps of each", "d ln P / d Delta_z", "scatter of log10 P", "p-value",
                 "standard deviation of the signal"):
        assert word in out
    np.savez(tmp_path / "bare.npz", power=own.power, ell_edges=own.survey.spectrum.edges)
    few = dict(power=own.power[:, :5], label=own.label[:, :5])
    np.savez(tmp_path / "few.npz", ell_edges=own.survey.spectrum.edges, **few)
    np.savez(tmp_path / "linear.npz", power=own.power, label=own.label,
             ell_edges=np.linspace(200.0, 5000.0, 6))
    np.savez(tmp_path / "other.npz", spectra=own.power)
    (tmp_path / "text.npz").write_text("no archive")
    for name, word in (("bare", "--label"), ("few", "realisations"), ("linear", "ell_edges"),
                       ("other", "power"), ("text", "--spectra"), ("absent", "--spectra")):
        with pytest.raises(InputError) as error:
            read_spectra(tmp_path / f"{name}.npz", small.mask)
        one_line(error, word)
