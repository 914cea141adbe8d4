"""Maps with halos: the spectrum they are held to, what is in them, bits that are their seed's."""
import json

import numpy as np
import pytest
from conftest import one_line
from test_fields import binned, measured

from wl.validate.spectra import masked_window
from wl.simulate.fields import UNTURNED, Boxes, Grid, generator
from wl.simulate.halo_sky import HaloMaps, HaloSky, draw_maps, halo_sky
from wl.simulate.halos import Halos
from wl.maps.dataset import TEST_FILE
from wl.simulate.plan import FIXED_NUISANCES, KAPPA_FILE, Plan, SimulationOptions, procedural_mask
from wl.simulate.simulate import simulate
from wl.simulate.theory import Theory
from wl.core.checks import InputError
from wl.kernels.halos import Turn
from wl.core.params import FRAME, N_OBSERVED
from wl.summaries.handmade import Spectrum

NUISANCE = np.array(FIXED_NUISANCES)
EDGES = np.geomspace(150.0, 7000.0, 9)


@pytest.fixture(scope="module")
def full():
    """The survey's grid, maps at (0.3, 0.8), the pixel spectrum and what holds maps to it."""
    grid = Grid(procedural_mask())
    theory = Theory(0.3, 0.8)
    power = grid.pixel_power(theory.table(grid.ell)(*NUISANCE[:, None]))
    maps = HaloMaps(HaloSky(grid), theory)
    return grid, maps, power, maps.hold(NUISANCE[None], power)


@pytest.fixture(scope="module")
def drawn(full):
    """Thirty whole maps."""
    _, maps, _, held = full
    return [maps.draw(held, 0, NUISANCE, generator(5, r), full=True) for r in range(30)]


def test_spectrum_is_the_theory(full, drawn):
    grid, _, power, _ = full
    found = np.array([binned(grid, measured(grid, kappa), EDGES) for kappa in drawn])
    expected = binned(grid, power[0], EDGES)
    ratio, error = found.mean(0) / expected, found.std(0) / np.sqrt(len(found)) / expected
    assert np.all(error < 0.025) and np.all(error[2:] < 0.015)
    assert np.all(np.abs(ratio - 1.0) < 0.015 + 2.0 * error), (ratio, error)


def computed(grid, maps):
    """Pixel spectrum of painted halos and the smooth part, before anything holds them."""
    painted, cross, smooth, _ = (grid.pixel_power(c)[0]
                                 for c in maps.spectrum(*NUISANCE[:, None]))
    return painted * maps.sky.window + 2.0 * cross + smooth


def test_halos_alone_have_the_spectrum_computed_for_them(full):
    """Before anything holds them to the theory: the two spectra are not the same."""
    grid, maps, power, _ = full
    expected = computed(grid, maps)
    found = []
    for r in range(30):
        maps.paint(NUISANCE, lambda s: (generator(6, r, s), UNTURNED), everywhere=True)
        modes = np.fft.rfft2(maps.sky.map).astype(np.complex64)
        maps.sky.add_smooth(modes, np.ones(grid.quarter))
        found.append(binned(grid, measured(grid, np.fft.irfft2(modes)), EDGES))
    expected = binned(grid, expected, EDGES)
    ratio, error = np.mean(found, axis=0) / expected, np.std(found, axis=0) / np.sqrt(30) / expected
    assert np.all(np.abs(ratio - 1.0) < 0.015 + 2.5 * error), (ratio, error)
    theory = np.mean(found, axis=0) / binned(grid, power[0], EDGES)
    assert theory.min() < 0.9


@pytest.mark.parametrize("crowd, edges, n", [(40.0, (700.0, 1000.0, 1500.0, 2000.0), 8),
                                             (1.0, (4000.0, 5000.0, 6000.0, 7000.0), 40)])
def test_windows_of_cells_and_of_stamps(monkeypatch, crowd, edges, n):
    """Cells blur the clustering of halos, seen in a crowd of light ones; stamps blur profiles.

    Without the cells' window the first spectrum would be 5, 9 and 18 % off, without the stamps' the
    second 2, 4 and 10 %.
    """
    class Crowd(Halos):
        def __init__(self, theory, coarse):
            super().__init__(theory, coarse)
            self.number *= crowd
            self.area /= crowd
    monkeypatch.setattr("wl.simulate.halo_sky.Halos", Crowd)
    grid = Grid(np.ones((300, 200), bool))
    maps = HaloMaps(HaloSky(grid), Theory(0.3, 0.8))
    expected = computed(grid, maps)
    found = []
    for r in range(n):
        maps.paint(NUISANCE, lambda s: (generator(3, r, s), UNTURNED), everywhere=True)
        modes = np.fft.rfft2(maps.sky.map).astype(np.complex64)
        maps.sky.add_smooth(modes, np.ones(grid.quarter))
        found.append(binned(grid, measured(grid, np.fft.irfft2(modes)), edges))
    expected = binned(grid, expected, edges)
    ratio, error = np.mean(found, axis=0) / expected, np.std(found, axis=0) / np.sqrt(n) / expected
    assert np.all(error < 0.02) and np.all(np.abs(ratio - 1.0) < 0.02 + error), (ratio, error)


def test_too_much_power_is_damped(full):
    """Asked for half of the power, where halos have more, maps have half: at every mode's sign."""
    grid, maps, power, _ = full
    held = maps.hold(NUISANCE[None], np.float32(0.5) * power)
    assert np.median(held.transfer) < 0.9
    drawn = [maps.draw(held, 0, NUISANCE, generator(5, r), full=True) for r in range(8)]
    found = np.mean([binned(grid, measured(grid, kappa), EDGES) for kappa in drawn], axis=0)
    assert found[3:] == pytest.approx(0.5 * binned(grid, power[0], EDGES)[3:], rel=0.06)


def test_smooth_part_lies_where_its_cells_are(full):
    """A wave sampled at the cells' centres is the same wave in the pixels, averaged over each."""
    grid, maps, _, _ = full
    rows, columns = maps.sky.smooth.shape

    def wave(y, x):
        return np.cos(2.0 * np.pi * (130.0 * y[:, None] / rows + 17.0 * x / columns) + 0.3)
    maps.sky.smooth[...] = wave(np.arange(rows) + 0.5, np.arange(columns) + 0.5)
    modes = np.zeros((grid.rows, grid.quarter[1]), np.complex64)
    maps.sky.add_smooth(modes, np.ones(grid.quarter))
    expected = wave(0.5 * np.arange(grid.rows) + 0.25, 0.5 * np.arange(grid.columns) + 0.25)
    expected *= np.sinc(130.0 / grid.rows) * np.sinc(17.0 / grid.columns)
    assert np.fft.irfft2(modes) == pytest.approx(expected, abs=2e-5)


def test_masked_spectrum_is_the_theory():
    """Maps as they are written, with halos painted near observed pixels alone."""
    mask, n = procedural_mask(), 72
    grid, spectrum = Grid(mask), Spectrum(FRAME, N_OBSERVED, n_bin=5, ell_min=100.0, ell_max=6000.0)
    labels = np.tile([0.3, 0.8, *FIXED_NUISANCES], (n, 1))
    frame, found = np.zeros((1, *FRAME), np.float32), []
    field = SimulationOptions(field="halo", pixel_scatter=0.0)
    for kappa in draw_maps(grid, labels, 11, [(1, 0, r) for r in range(n)], field):
        frame[0][mask] = kappa.astype(np.float16)
        found.append(10.0**spectrum(frame)[0])
    c_ell = Theory(0.3, 0.8).c_ell(grid.ell, 0.0, 7.85, 0.01325)
    expected = masked_window(grid, mask, spectrum) @ c_ell
    ratio, error = np.mean(found, axis=0) / expected, np.std(found, axis=0) / np.sqrt(n) / expected
    assert np.all(error < 0.022)
    assert np.all(np.abs(ratio - 1.0) < 0.01 + 2.0 * error), (ratio, error)


def test_number_of_halos_is_that_of_the_mass_function(full):
    grid, maps, _, _ = full
    counts = []
    for r in range(12):
        maps.paint(NUISANCE, lambda s: (generator(7, r, s), UNTURNED), everywhere=True)
        counts.append(maps.count)
    halos = maps.halos
    expected = halos.number[:, halos.heavy].sum() * grid.rows * grid.columns * grid.pixel**2
    assert np.mean(counts) == pytest.approx(expected, rel=0.01)
    assert np.std(counts) > 1.5 * np.sqrt(expected)            # they are clustered


def test_convergence_of_painted_halos_is_their_mean(full):
    """The map's mean is that of the halos' mass, and with the smooth part it is zero."""
    grid, maps, _, _ = full
    h, q = maps.halos, maps.halos.lensing(np.zeros(1))[0]
    extended, _, stars = h.feedback(*NUISANCE[:2])
    mass = (q[:, None] * h.number * h.area * (extended + stars))[:, h.heavy].sum()
    found = []
    for r in range(12):
        maps.paint(NUISANCE, lambda s: (generator(8, r, s), UNTURNED), everywhere=True)
        found.append((maps.sky.map.mean(dtype=float), maps.sky.smooth.mean(dtype=float)))
    painted, smooth = np.mean(found, axis=0)
    lost = (q[:, None] * h.number * h.area * (1.0 - extended - stars))[:, h.heavy].sum()
    assert painted == pytest.approx(mass, rel=0.02)
    assert smooth == pytest.approx(lost, abs=0.02 * mass)


def third(maps, nuisance, power, n=16):
    held = maps.hold(nuisance[None], power)
    kappa = [maps.draw(held, 0, nuisance, generator(9, r)).astype(float) for r in range(n)]
    return np.mean([np.mean((k - k.mean())**3) for k in kappa])


def test_skewness_feels_feedback_and_stars_beyond_the_spectrum(full):
    """At one spectrum: stars sharpen halos, feedback blunts them."""
    _, maps, power, _ = full
    middle = third(maps, NUISANCE, power)
    assert 2e-6 < middle < 6e-6
    assert third(maps, NUISANCE + [0.5, 0.0, 0.0], power) < 0.95 * middle
    assert third(maps, NUISANCE + [0.0, 0.013, 0.0], power) > 1.05 * middle


def test_shift_of_the_sources_goes_through_the_lensing(full):
    _, maps, _, _ = full
    painted = []
    for delta_z in (-0.05, 0.05):
        shifted = NUISANCE + [0.0, 0.0, delta_z]
        maps.paint(shifted, lambda s: (generator(3, s), UNTURNED), everywhere=True)
        painted.append(maps.sky.map.copy())
    q = maps.halos.lensing(np.array([-0.05, 0.05]))
    assert painted[1].mean() / painted[0].mean() < 0.99 and q[1].sum() < q[0].sum()
    assert np.corrcoef(painted[0].ravel(), painted[1].ravel())[0, 1] > 0.99     # the same halos


SMALL = dict(cosmologies=3, realisations=3, test=3, unseen=1, quiet=True, field="halo")


@pytest.mark.parametrize("boxes", [0, 2])
def test_same_bytes_for_any_number_of_processes(mask_file, tmp_path, boxes):
    options = dict(mask=mask_file, boxes=boxes, **SMALL)
    assert simulate(tmp_path / "one", processes=1, **options)
    simulate(tmp_path / "two", processes=2, **{**options, "realisations": 4})
    proof = json.loads((tmp_path / "one" / "simulation.json").read_text())
    assert proof["settings"]["boxes"] == boxes and proof["settings"]["field"] == "halo"
    less, more = (np.load(tmp_path / folder / KAPPA_FILE) for folder in ("one", "two"))
    assert np.array_equal(more[:, :3], less) and np.isfinite(less).all()
    tests = [(tmp_path / folder / TEST_FILE).read_bytes() for folder in ("one", "two")]
    assert tests[0] == tests[1]


def test_maps_do_not_depend_on_the_maps_before_them(mask_file):
    grid = Grid(np.load(mask_file))
    labels = np.tile([0.3, 0.8, *FIXED_NUISANCES], (20, 1))
    keys, field = [(1, 0, r) for r in range(20)], SimulationOptions(field="halo")
    whole = list(draw_maps(grid, labels, 4, keys, field))
    part = list(draw_maps(Grid(np.load(mask_file)), labels[17:], 4, keys[17:], field))
    assert np.array_equal(whole[17:], part)
    assert not np.array_equal(whole[0], whole[1])
    assert halo_sky(grid) is halo_sky(grid)


def test_a_frame_that_cells_do_not_fill_is_one_line(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((40, 42), bool))
    with pytest.raises(InputError) as error:
        Plan(SimulationOptions(field="halo", periodic=True, mask=tmp_path / "mask.npy",
                               cosmologies=3, realisations=1))
    one_line(error, "--field halo", "multiples of 4", "(40, 42)")
    with pytest.raises(InputError, match="--boxes"):
        SimulationOptions(boxes=-1, cosmologies=3, realisations=1)
    HaloSky(Grid(np.ones((40, 44), bool), periodic=True))


def test_boxes_are_shared_and_turned(full):
    """Maps from one box a slice have the same halos, elsewhere; without boxes each has its own."""
    _, maps, _, _ = full
    counts, totals = [], []
    for r in range(3):
        boxes = Boxes(1, generator(1, r), lambda *key: generator(2, *key))
        maps.paint(NUISANCE, boxes, everywhere=True)
        counts.append(maps.count)
        totals.append(maps.sky.map.sum(dtype=float))
    assert len(set(counts)) == 1 and totals == pytest.approx([totals[0]] * 3, rel=1e-6)
    maps.paint(NUISANCE, lambda s: (generator(1, 0, s), UNTURNED), everywhere=True)
    assert maps.count != counts[0]
    picks = Boxes(3, generator(4, 4), lambda layer, box: (layer, box))
    assert {picks(0)[0] for _ in range(60)} == {(0, 0), (0, 1), (0, 2)}


def test_a_turned_box_is_numpys_roll(full):
    _, maps, _, _ = full
    turn = Turn(True, False, 37, 200)
    skies = []
    for one in (UNTURNED, turn):
        maps.paint(NUISANCE, lambda s: (generator(5, s), one), everywhere=True)
        skies.append((maps.sky.map.copy(), maps.sky.smooth.copy()))
    (plain, smooth), (turned, turned_smooth) = skies
    assert turned == pytest.approx(np.roll(plain[::-1], (74, 400), (0, 1)), abs=2e-5)
    assert turned_smooth == pytest.approx(np.roll(smooth[::-1], (37, 200), (0, 1)), abs=1e-6)


@pytest.mark.parametrize("field", ["lognormal", "gaussian"])
def test_boxes_leave_a_fingerprint(field):
    """The mean power of 24 maps scatters more from seed to seed than that of independent ones.

    With halos it does so too, but a few clusters rule it: 1.6 and 3.9 in 32 seeds of 8 maps.
    """
    grid = Grid(np.ones((176, 176), bool))
    spectrum = Spectrum((176, 176), 176 * 176, n_bin=1, ell_min=300.0, ell_max=1000.0)
    labels, keys = np.tile([0.3, 0.8, *FIXED_NUISANCES], (24, 1)), [(1, 0, r) for r in range(24)]

    def excess(boxes):
        power = []
        for seed in range(6):
            maps = draw_maps(grid, labels, seed, keys, SimulationOptions(field=field, boxes=boxes))
            power.append(spectrum(np.array(list(maps)).reshape(-1, 176, 176))[:, 0])
        power = np.array(power)
        return 24 * power.mean(1).var(ddof=1) / power.var(1, ddof=1).mean()
    assert excess(1) > 3.0 > excess(0)
