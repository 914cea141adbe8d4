"""Halos against another code's numbers, profiles against integrals of the density."""
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import CubicSpline

from wl.simulate import halos as module
from wl.simulate.fields import Grid
from wl.simulate.halo_sky import CORNER, SHAPES, SIZES, profiles, projected_mass
from wl.simulate.halos import HaloSpectrum, Halos, cell_window, windows
from wl.simulate.theory import RHO_CRIT, Theory, growth

# From Colossus (Diemer 2018, ApJS 239, 35), tinker08, tinker10 and duffy08 at 200 x mean:
# (Omega_m, S_8, z): halos per (Mpc/h)^3 above 10^12.7, 13.0, 13.9, 14.8; bias at 10^13, 14, 15
COLOSSUS = {
    (0.3, 0.8, 0.0): ((9.9679e-4, 4.9696e-4, 4.1527e-5, 7.2193e-7), (1.141, 2.122, 5.991)),
    (0.3, 0.8, 0.5): ((7.7948e-4, 3.5072e-4, 1.6629e-5, 6.1755e-8), (1.580, 3.325, 10.282)),
    (0.3, 0.8, 0.9): ((5.6699e-4, 2.2788e-4, 5.8046e-6, 3.8456e-9), (2.111, 4.790, 15.555)),
    (0.195, 0.955, 0.0): ((6.0742e-4, 3.2067e-4, 3.9255e-5, 2.3706e-6), (0.899, 1.382, 2.998)),
    (0.195, 0.955, 0.9): ((4.9297e-4, 2.3610e-4, 1.7143e-5, 2.8880e-7), (1.333, 2.455, 6.261))}
DUFFY = (5.9098, 4.9042, 4.0698)      # concentration at z = 0.5 and 10^13, 14, 15


@pytest.fixture(scope="module")
def halos():
    return Halos(Theory(0.3, 0.8), Grid(np.ones((768, 128), bool), 4.0, periodic=True))


@pytest.mark.parametrize("case", COLOSSUS)
def test_numbers_and_bias_are_those_of_another_code(case, halos, monkeypatch):
    """Biases without the cut."""
    monkeypatch.setattr("wl.simulate.halos.MAX_CLUSTERING", np.inf)
    halos = Halos(Theory(*case[:2]), halos.coarse)
    density = halos.share * case[0] * RHO_CRIT / halos.mass[halos.heavy]
    above = [CubicSpline(halos.z, np.log(density[:, k:].sum(1)))(case[2]) for k in (0, 4, 16, 28)]
    # bins of 0.075 dex at their middle: 3 % for the steepest end, where there is no halo in a map
    assert np.exp(above) == pytest.approx(COLOSSUS[case][0], rel=0.035)
    assert np.exp(above[:3]) == pytest.approx(COLOSSUS[case][0][:3], rel=0.01)
    at_z = CubicSpline(halos.z, halos.bias)(case[2])
    bias = np.interp(np.log([1e13, 1e14, 1e15]), np.log(halos.mass[halos.heavy]), at_z)
    assert bias == pytest.approx(COLOSSUS[case][1], rel=0.01)


def test_concentration_is_that_of_another_code(halos):
    at_z = CubicSpline(halos.z, np.log(halos.concentration))(0.5)
    found = np.exp(np.interp(np.log([1e13, 1e14, 1e15]), np.log(halos.mass), at_z))
    assert found == pytest.approx(DUFFY, rel=1e-3)


def test_radius_holds_two_hundred_times_the_mean_density(halos):
    radius = halos.angle * halos.chi[:, None]
    inside = halos.mass / (4.0 / 3.0 * np.pi * radius**3)
    assert inside == pytest.approx(np.full_like(inside, 200.0 * 0.3 * RHO_CRIT))


def test_lensing_weights_give_the_spectrum_of_the_theory(halos):
    """A sum over distances is Limber's integral, which the theory does by other nodes."""
    ell = np.array([200.0, 1000.0, 4000.0])
    for delta_z in (0.0, 0.04):
        q = halos.lensing(np.array([delta_z]))[0]
        k = (ell[:, None] + 0.5) / halos.chi
        power = halos.theory.nonlinear_power(k, halos.z)
        c = np.sum(halos.depth * (q / halos.chi)**2 * power, axis=1)
        assert c == pytest.approx(halos.theory.c_ell(ell, delta_z), rel=0.02)


def test_all_matter_is_there_and_follows_matter(halos):
    assert halos.smooth + halos.share.sum(1) == pytest.approx(np.ones(24))
    clustered = halos.smooth * halos.smooth_bias + (halos.share * halos.bias).sum(1)
    assert clustered == pytest.approx(np.ones(24))
    assert np.all(halos.smooth > 0.6) and np.all(halos.smooth_bias > 0.5)


def test_feedback_moves_matter_and_loses_none(halos):
    """At low multipoles a slice has all of its matter, whatever the nuisances."""
    spectrum = HaloSpectrum(halos, np.geomspace(2.0, 2e4, 60), 5.8e-4)
    first = spectrum.two[:, :, 0, :, 0] + spectrum.even[:, :, 0]
    assert first == pytest.approx(np.broadcast_to(halos.depth, first.shape), rel=0.01)
    ell = spectrum.sparse
    t_agn, f_0 = np.array([7.3, 8.4, 7.8, 7.8]), np.array([0.01, 0.01, 0.0, 0.02])
    painted, cross, smooth, light = spectrum(t_agn, f_0, np.zeros(4))
    whole = painted + 2.0 * cross + smooth + light
    at = np.searchsorted(spectrum.ell, 3000.0)
    assert whole[1, at] < 0.9 * whole[0, at] and whole[3, at] > 1.1 * whole[2, at]
    assert whole[:, 0] == pytest.approx(np.full(4, whole[0, 0]), rel=0.02) and ell[0] == 2.0


def test_slices_add_up_to_the_linear_spectrum(halos, monkeypatch):
    """Without an end of waves; by a direct sum over distances."""
    monkeypatch.setattr("wl.simulate.halos.LONGEST", ((np.inf, 1e9),))
    free = Halos(halos.theory, halos.coarse)
    q = halos.lensing(np.zeros(1))[0]
    per_slice = (q * halos.depth).reshape(8, 3).sum(1)
    ell = np.array([30.0, 300.0, 2000.0])
    found = np.array([np.interp(ell, free.ell, p[0]) for p in free.powers])
    linear = halos.theory.linear_power(ell[:, None] / halos.chi)
    linear = linear * growth(halos.z, 0.3)**2 * (q / halos.chi)**2 * halos.depth
    assert per_slice**2 @ found == pytest.approx(linear.sum(1), rel=0.02)
    assert halos.powers[4, 0, 0] < 0.1 * free.powers[4, 0, 0]     # waves over 704 Mpc/h are cut


@pytest.mark.parametrize("c", [0.7, 4.0, 25.0])
def test_projected_mass_is_the_integral_of_the_density(c):
    """Mass in a cylinder, by SciPy along the line of sight and then over the disc."""
    norm = 4.0 * np.pi * (np.log1p(c) - c / (1.0 + c)) / c**3

    def surface(radius):
        def density(z):
            r = c * np.hypot(radius, z)
            return 1.0 / (r * (1.0 + r)**2) / norm
        return 2.0 * quad(density, 0.0, np.sqrt(max(1.0 - radius * radius, 0.0)), limit=200)[0]

    for x in (0.03, 0.3, 0.9):
        mass = quad(lambda r: 2.0 * np.pi * r * surface(r), 0.0, x, limit=200)[0]
        assert projected_mass(np.array([x]), c)[0] == pytest.approx(mass, rel=2e-4)
    assert projected_mass(np.array([0.0, 1.0]), c) == pytest.approx([0.0, 1.0], abs=1e-9)


def row_of(table, size, shape):
    width = (table.first[size + 1] - table.first[size]) // table.shapes
    return table.value[table.first[size] + shape * width:][:width]


@pytest.mark.parametrize("size, shape", [(5, 10), (17, 16), (24, 22)])
def test_painted_profiles_are_means_over_pixels(size, shape):
    """A halo's mass thrown at random into pixels of all orientations at a distance."""
    rng, n = np.random.default_rng(3), 400_000
    x = np.linspace(0.0, 1.0, 4000)**2
    radius = SIZES[size] * np.interp(rng.random(n), projected_mass(x, SHAPES[shape]), x)
    angle = 2.0 * np.pi * rng.random(n)
    y, x = radius * np.sin(angle), radius * np.cos(angle)
    table = profiles()
    row = row_of(table, size, shape)
    for r in (0.0, 0.6, 1.7):
        turn = 2.0 * np.pi * rng.random(n)
        u = (x - r) * np.cos(turn) + y * np.sin(turn)
        v = y * np.cos(turn) - (x - r) * np.sin(turn)
        found = np.mean((np.abs(u) < 0.5) & (np.abs(v) < 0.5))
        error = np.sqrt(max(found, 1e-6) / n)
        there = np.interp(r * table.per_pixel, np.arange(len(row)), row)
        assert there == pytest.approx(found, abs=4.0 * error + 0.003 * row[0])


def test_profiles_hold_all_mass_and_end():
    table = profiles()
    for size in (0, 10, 20, 30):
        for shape in (0, 16, 32):
            row = row_of(table, size, shape).astype(float)
            r = np.arange(len(row)) / table.per_pixel
            assert np.sum(2.0 * np.pi * r * row) / table.per_pixel == pytest.approx(1.0, abs=0.005)
            assert np.all(row[r > SIZES[size] + CORNER + 0.07] == 0.0) and row[0] > 0.99 * row.max()


def test_windows_are_means_over_the_scatter():
    """By numerical transforms of the projected mass and many draws of the concentration."""
    rng = np.random.default_rng(5)
    x = np.linspace(0.0, 1.0, 2000)**2
    from scipy.special import j0
    for ell, c in ((0.5, 5.0), (3.0, 5.0), (3.0, 15.0)):
        found = []
        for one in c * np.exp(0.345 * rng.standard_normal(300)):
            mass = projected_mass(x, one)
            found.append(np.sum(np.diff(mass) * j0(ell * 0.5 * (x[1:] + x[:-1]))))
        found = np.array(found)
        error = found.std() / np.sqrt(300)
        mean, square = windows(np.array([ell]), np.array([c]))[0]
        assert mean == pytest.approx(found.mean(), abs=3.0 * error + 2e-3)
        assert square == pytest.approx(np.mean(found**2), abs=6.0 * error + 4e-3)


def test_cell_window():
    assert cell_window(np.array([1e-6]), 1e-3)[0] == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (200_000, 2)) * 2e-3
    ell, angle = 2500.0, rng.uniform(0.0, 2.0 * np.pi, 200_000)
    found = np.mean(np.cos(ell * (points[:, 0] * np.cos(angle) + points[:, 1] * np.sin(angle))))
    assert cell_window(np.array([ell]), 2e-3)[0] == pytest.approx(found, abs=0.006)


def test_settings_are_what_the_comments_say(halos):
    cells = 1536 * 256 * (2.0 * np.pi / 10800.0)**2
    assert 3.2e5 < halos.number[:, halos.heavy].sum() * cells < 3.8e5
    assert np.log10(halos.mass[halos.heavy][0]) == pytest.approx(module.LOG10_M_PAINTED + 0.0375)
    assert 10.4 < np.log10(halos.mass[0]) < 10.5 and np.log10(halos.mass[-1]) < 16.0
