"""Extreme inputs of the simulator: refused in one line before any work, or right."""
import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
from conftest import one_line

from wl.core.checks import InputError, RunError
from wl.maps.dataset import TEST_FILE, TRUTH_FILE, UNFINISHED
from wl.simulate import simulate as module
from wl.simulate.fields import Grid, log_normal_shift
from wl.simulate.plan import KAPPA_FILE, LABEL_FILE, Plan, SimulationOptions
from wl.simulate.halo_sky import draw_maps
from wl.simulate.simulate import simulate

NUMBERS = [
    f for f in dataclasses.fields(SimulationOptions)
    if not isinstance(f.default, (bool, str)) and "choices" not in f.metadata and f.name not in (
        "design", "mask")
]
SIZES = ("cosmologies", "realisations", "test", "unseen", "seed", "boxes")
SMALL = ["--cosmologies", "3", "--realisations", "2", "--test", "2", "--processes", "1", "--quiet"]


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    np.save(path, np.ones((48, 40), bool))
    return path


@pytest.mark.parametrize("option, value", [("--n-gal", "0"), ("--n-gal", "1e-300"),
                                           ("--n-gal", "1e300"), ("--n-gal", "nan"),
                                           ("--pixel-scatter", "1e30"),
                                           ("--pixel-scatter", "-1e-9"), ("--pixel-scatter", "inf"),
                                           ("--lambda-factor", "1e-9"), ("--lambda-factor", "1e9"),
                                           ("--lambda-factor", "nan"), ("--lambda-scatter", "1e3"),
                                           ("--gaussian-share", "1"), ("--gaussian-below", "1e300"),
                                           ("--source-shift", "-0.74"), ("--source-shift", "5"),
                                           ("--nonlinear-tilt", "50"), ("--f-b-max", "-inf"),
                                           ("--stellar-boost", "1e9"),
                                           ("--cosmologies", "10000000000000000000"),
                                           ("--realisations", "10000000000000000000"),
                                           ("--test", str(2**63)), ("--unseen", str(2**64)),
                                           ("--test", "-1"), ("--processes", "1000000"),
                                           ("--processes", "0"), ("--boxes", "1000000000000"),
                                           ("--boxes", "-1"), ("--seed", str(2**63)),
                                           ("--cosmologies", "1e400"), ("--out", "")])
def test_extremes_are_refused_at_once(mask_file, tmp_path, capsys, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    with pytest.raises((InputError, SystemExit)) as end:
        module.main(["--out", "set", "--mask", str(mask_file), *SMALL, f"{option}={value}"])
    said = capsys.readouterr().err.strip()
    assert not isinstance(end.value, SystemExit) or end.value.code == 2
    one_line(said or end.value, option.replace("--", "") if said else option)
    assert not list(tmp_path.iterdir()) and time.process_time() - start < 3.0


@pytest.mark.parametrize("field", NUMBERS, ids=lambda f: f.name)
def test_every_number_has_a_range(field):
    """A new option without one fails here."""
    low, high = field.metadata["within"]
    for value in (float("nan"), float("inf"), -float("inf"), low - 1, 2 * high + 1, "much"):
        with pytest.raises(InputError) as error:
            SimulationOptions(**{field.name: value})
        one_line(error, "--" + field.name.replace("_", "-"), low)


@pytest.mark.parametrize("field", [f for f in NUMBERS if f.name not in SIZES], ids=lambda f: f.name)
def test_the_ends_of_a_range_give_maps(mask_file, field):
    """Finite in float16, and no two pixels alike, of the darkest and the brightest cosmology."""
    mask = np.load(mask_file)
    grid = Grid(mask)
    for value in field.metadata["within"]:
        options = SimulationOptions(**{field.name: value})
        for theta in ((0.0913, 0.72), (0.619, 0.74)):
            labels = np.array([[*theta, 8.4, 0.0, 0.05], [*theta, 7.2, 0.0265, -0.05]])
            for kappa in draw_maps(grid, labels, 1, [(9, 0), (9, 1)], options, 0.02):
                kappa = kappa.astype(np.float16)
                assert np.isfinite(kappa).all() and len(np.unique(kappa)) > 0.2 * kappa.size


def test_a_log_normal_too_skewed_for_its_correlations_stays_finite(mask_file):
    grid = Grid(np.load(mask_file))
    power = grid.pixel_power(np.full((1, len(grid.ell)), 1e-9))[0]
    assert np.isfinite(grid.gaussian_power(power, 1e-6 * float(log_normal_shift(0.3, 0.8)))).all()


def test_maps_that_are_no_maps_end_the_run(mask_file, tmp_path, monkeypatch):
    """A map without variance, or one that float16 cannot hold, is never called complete."""
    plan = Plan(SimulationOptions(cosmologies=3, realisations=1, test=0, mask=str(mask_file)))
    monkeypatch.setitem(module._worker, "options", plan.options)
    monkeypatch.setitem(module._worker, "mask", plan.mask)
    np.save(tmp_path / "maps.npy", np.empty((0, plan.n_observed), "<f2"))
    size = (tmp_path / "maps.npy").stat().st_size
    _, _, places, labels, keys, noise = next(plan.tasks())
    for spoilt in (np.zeros(plan.n_observed, np.float32), np.full(plan.n_observed, 7e4, np.float32),
                   np.full(plan.n_observed, np.nan, np.float32)):
        monkeypatch.setattr(module, "draw_maps", lambda *_: iter([spoilt]))
        with pytest.raises(RunError) as error:
            module.write_maps(tmp_path / "maps.npy", places, labels, keys, noise)
        one_line(error, "pixels", "Omega_m")
    assert (tmp_path / "maps.npy").stat().st_size == size


def test_a_damaged_set_is_not_complete(mask_file, tmp_path):
    settings = dict(cosmologies=3, realisations=2, test=3, mask=mask_file, processes=1, quiet=True)
    whole = tmp_path / "whole"
    assert simulate(whole, **settings) and not simulate(whole, **settings)

    def cut(path):
        path.write_bytes(path.read_bytes()[:-500])

    def empty(path):
        maps = np.load(path)
        maps.reshape(-1, maps.shape[-1])[-1] = 0.0
        np.save(path, maps)

    def swap(path):
        np.save(path, np.load(path)[::-1])

    for damage, name in ((cut, KAPPA_FILE), (cut, TEST_FILE), (empty, KAPPA_FILE),
                         (empty, TEST_FILE), (swap, TRUTH_FILE), (swap, LABEL_FILE)):
        out = tmp_path / "damaged"
        shutil.copytree(whole, out)
        damage(out / name)
        with pytest.raises(InputError) as error:
            simulate(out, **settings)
        one_line(error, name if name != TRUTH_FILE else out, "--force")
        if damage is swap:               # making it anew takes a second, whatever the damage
            assert simulate(out, force=True, **settings) and not (out / UNFINISHED).exists()
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        shutil.rmtree(out)


def test_a_proof_that_is_no_dictionary_is_refused(mask_file, tmp_path):
    (tmp_path / module.SIMULATION_FILE).write_text(json.dumps([1]))
    with pytest.raises(InputError) as error:
        simulate(tmp_path, cosmologies=3, realisations=2, test=0, mask=mask_file, quiet=True)
    one_line(error, module.SIMULATION_FILE)
