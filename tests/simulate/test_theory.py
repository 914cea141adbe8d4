"""Each ingredient of the theory against something that shares no line with it."""
import numpy as np
import pytest
from scipy import integrate
from scipy.interpolate import CubicSpline

from wl.simulate import theory as module
from wl.core.checks import InputError
from wl.simulate.plan import SimulationOptions
from wl.simulate.theory import (HUBBLE_DISTANCE, PUBLISHED, Z_MAX, Sky, Theory, growth,
                                log_ell_grid, of_set, source_density, transfer)

# CAMB 2.0.5 (h = 0.7, Omega_b = 0.046, n_s = 0.97, massless neutrinos, T_CMB = 2.7255 K), k in
# h/Mpc,
# P in (Mpc/h)^3, rows z = 0, 0.5, 1. takahashi: its halofit; feedback: mead2020_feedback /
# mead2020.
K = np.array([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])
Z = np.array([0.0, 0.5, 1.0])
CAMB = {
    (0.3, 0.8): {
        "linear": [
         [1.18733e4, 5.25902e3, 1.88695e3, 3.07014e2, 6.63549e1, 1.29052e1, 1.32141, 2.21318e-1],
         [7.09835e3, 3.14405e3, 1.12809e3, 1.83545e2, 3.96696e1, 7.71525, 7.89991e-1, 1.32313e-1],
         [4.44498e3, 1.96880e3, 7.06411e2, 1.14936e2, 2.48411e1, 4.83128, 4.94692e-1, 8.28544e-2],
        ],
        "takahashi": [
         [1.16273e4, 5.30663e3, 2.23689e3, 7.41511e2, 3.84310e2, 1.74591e2, 3.84137e1, 9.50365],
         [7.00663e3, 3.16545e3, 1.25916e3, 3.55220e2, 1.66382e2, 7.48401e1, 1.76469e1, 4.39294],
         [4.41489e3, 1.98572e3, 7.63699e2, 1.87673e2, 7.90759e1, 3.49649e1, 9.10472, 2.42165],
        ],
        7.3: [
         [1.0, 0.9997, 0.9990, 0.9964, 0.9936, 0.9899, 0.9847, 1.0146],
         [1.0, 0.9997, 0.9989, 0.9951, 0.9896, 0.9827, 0.9716, 1.0188],
         [1.0, 0.9999, 0.9991, 0.9951, 0.9878, 0.9800, 0.9743, 1.0389],
        ],
        7.8: [
         [0.9997, 0.9977, 0.9931, 0.9748, 0.9526, 0.9163, 0.8486, 0.8578],
         [0.9999, 0.9985, 0.9935, 0.9711, 0.9380, 0.8953, 0.8310, 0.8663],
         [1.0, 0.9994, 0.9956, 0.9762, 0.9391, 0.8953, 0.8479, 0.9016],
        ],
        8.3: [
         [0.9991, 0.9919, 0.9753, 0.9132, 0.8505, 0.7900, 0.7373, 0.7447],
         [0.9998, 0.9961, 0.9834, 0.9278, 0.8544, 0.7931, 0.7460, 0.7691],
         [0.9999, 0.9988, 0.9918, 0.9561, 0.8910, 0.8286, 0.7843, 0.8159],
        ],
    },
    (0.55, 0.75): {
        "linear": [
         [3.23821e3, 2.13858e3, 9.52611e2, 2.15676e2, 5.41886e1, 1.17212e1, 1.32219, 2.33258e-1],
         [1.67536e3, 1.10644e3, 4.92856e2, 1.11585e2, 2.80357e1, 6.06422, 6.84063e-1, 1.20681e-1],
         [9.86007e2, 6.51179e2, 2.90062e2, 6.56716e1, 1.65000e1, 3.56900, 4.02594e-1, 7.10250e-2],
        ],
        "takahashi": [
         [3.18226e3, 2.09924e3, 9.84637e2, 3.13952e2, 1.44324e2, 7.12264e1, 1.95332e1, 5.11984],
         [1.65748e3, 1.09021e3, 4.97531e2, 1.40672e2, 5.80061e1, 2.73194e1, 8.47927, 2.48400],
         [9.79890e2, 6.45865e2, 2.92362e2, 7.67229e1, 2.81585e1, 1.21433e1, 3.95181, 1.30828],
        ],
        7.3: [
         [1.0, 0.9999, 0.9994, 0.9979, 0.9952, 0.9918, 0.9858, 1.0004],
         [1.0, 0.9999, 0.9995, 0.9977, 0.9937, 0.9876, 0.9781, 0.9886],
         [1.0, 1.0, 0.9998, 0.9987, 0.9958, 0.9903, 0.9865, 1.0042],
        ],
        7.8: [
         [0.9999, 0.9992, 0.9967, 0.9878, 0.9719, 0.9494, 0.9065, 0.9032],
         [0.9999, 0.9998, 0.9980, 0.9905, 0.9737, 0.9475, 0.9097, 0.9053],
         [1.0, 1.0, 0.9994, 0.9957, 0.9863, 0.9671, 0.9414, 0.9402],
        ],
        8.3: [
         [0.9999, 0.9981, 0.9920, 0.9706, 0.9346, 0.8951, 0.8486, 0.8336],
         [1.0, 0.9996, 0.9968, 0.9845, 0.9576, 0.9187, 0.8713, 0.8489],
         [1.0, 1.0, 0.9992, 0.9943, 0.9817, 0.9557, 0.9161, 0.8923],
        ],
    },
}
# colossus 1.4.0, modelEisenstein98(k, 0.7, Omega_m, 0.046, 2.7255): the same paper, another hand
EH98_K = np.array([0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0])
EH98 = {
    0.1: [
        9.52351473e-01, 4.69810742e-01, 9.01975207e-02, 5.63675302e-02, 2.01157334e-02,
        6.32111502e-03, 1.30375697e-03, 3.96295160e-04, 2.24961503e-05
    ], 0.3: [
        9.92256797e-01, 7.80173378e-01, 4.34522115e-01, 2.73207885e-01, 1.31734474e-01,
        5.54551695e-02, 1.42529834e-02, 4.73992013e-03, 3.09871808e-04
    ], 0.55: [
        0.99746455, 0.88962445, 0.64143749, 0.47094721, 0.28040904, 0.13409997, 0.04019422,
        0.01426044, 0.00102624
    ]
}
CORNERS = [(0.0913, 0.72), (0.12, 0.95), (0.3, 0.8), (0.619, 0.73)]


def test_transfer_goes_to_one_and_to_the_zero_baryon_form():
    assert transfer(np.array([1e-6]), 0.3)[0] == pytest.approx(1.0, abs=1e-4)
    # without baryons: T = L/(L + C q^2), q = k theta^2/(Omega h^2), equations 28-29 of the paper
    k = np.geomspace(1e-3, 10.0, 50)
    q = k * 0.7 * (2.7255 / 2.7)**2 / (0.3 * 0.49)
    log = np.log(2.0 * np.e + 1.8 * q)
    plain = log / (log + (14.2 + 731.0 / (1.0 + 62.5 * q)) * q * q)
    # the two forms of the paper differ by a few per cent themselves
    assert np.allclose(transfer(k, 0.3, omega_b=1e-5), plain, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("omega_m", EH98)
def test_transfer_against_another_implementation(omega_m):
    assert np.allclose(transfer(EH98_K, omega_m), EH98[omega_m], rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("cosmology", CAMB)
def test_linear_power_against_a_boltzmann_code(cosmology):
    matter = Theory(*cosmology, PUBLISHED)
    ours = np.array([matter.linear_power(K) * growth(z, cosmology[0])**2 for z in Z])
    # the fit's own accuracy
    assert np.allclose(ours, CAMB[cosmology]["linear"], rtol=0.05, atol=0.0)


def test_transfer_has_oscillations_at_the_sound_horizon():
    k = np.linspace(0.02, 0.35, 2000)
    smooth = np.polynomial.Polynomial.fit(np.log(k), np.log(transfer(k, 0.3)), 5)
    wiggle = CubicSpline(k, np.log(transfer(k, 0.3)) - smooth(np.log(k)))
    zeros = wiggle.derivative().roots(extrapolate=False)
    # r_s = 44.5 ln(9.83/om) / sqrt(1 + 10 ob^0.75) Mpc, equation 26 of the paper; half periods are
    # pi / r_s
    sound = 44.5 * np.log(9.83 / 0.147) / np.sqrt(1.0 + 10.0 * (0.046 * 0.49)**0.75) * 0.7
    assert np.median(np.diff(zeros)) == pytest.approx(np.pi / sound, rel=0.05)


@pytest.mark.parametrize("omega_m", [0.0913, 0.3, 0.619, 1.0])
def test_growth_solves_its_differential_equation(omega_m):
    # x = ln a; D'' + (2 + H'/H) D' = 1.5 Om(a) D
    def slope(x, y):
        a3 = omega_m * np.exp(-3.0 * x)
        om = a3 / (a3 + 1.0 - omega_m)
        return [y[1], 1.5 * om * y[0] - (2.0 - 1.5 * om) * y[1]]

    start = np.log(1e-3)
    z = np.array([3.0, 1.0, 0.5, 0.0])
    solution = integrate.solve_ivp(slope, (start, 0.0), [1e-3, 1e-3], t_eval=-np.log1p(z),
                                   rtol=1e-9, atol=1e-12)
    assert np.allclose(growth(z, omega_m), solution.y[0] / solution.y[0][-1], rtol=2e-6)


@pytest.mark.parametrize("cosmology", CORNERS)
def test_sigma_8_by_integration_and_distance_by_quadrature(cosmology):
    matter = Theory(*cosmology, PUBLISHED)

    def integrand(k):
        x = 8.0 * k
        w = 3.0 * (np.sin(x) - x * np.cos(x)) / x**3
        return k * k * matter.linear_power(np.array([k]))[0] * w * w / (2.0 * np.pi**2)

    edges = [1e-4, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0, 6.0, 20.0]
    variance = sum(
        integrate.quad(integrand, a, b, limit=200)[0] for a, b in zip(edges[:-1], edges[1:]))
    assert np.sqrt(variance) == pytest.approx(cosmology[1] / np.sqrt(cosmology[0] / 0.3), rel=1e-4)
    chi = integrate.quad(lambda z: HUBBLE_DISTANCE / matter.hubble(z), 0.0, 0.77)[0]
    assert matter.distance(0.77) == pytest.approx(chi, rel=1e-8)


@pytest.mark.parametrize("cosmology", CAMB)
def test_halofit_against_camb(cosmology):
    matter, reference = Theory(*cosmology, PUBLISHED), CAMB[cosmology]
    power = np.array([matter.nonlinear_power(K[:, None], np.array([z]))[:, 0] for z in Z])
    assert np.allclose(power, reference["takahashi"], rtol=0.05, atol=0.0)
    # the boost over linear theory hardly knows that our linear power is a fit
    linear = np.array([matter.linear_power(K) * growth(z, cosmology[0])**2 for z in Z])
    boost = np.array(reference["takahashi"]) / reference["linear"]
    assert np.allclose(power / linear, boost, rtol=0.035, atol=0.0)


def test_halofit_scale_by_direct_integration():
    matter = Theory(0.3, 0.8)
    scale, n_eff, curvature = (float(x[0]) for x in matter._halofit_scale(np.array([0.5])))

    def ln_variance(ln_r):
        k = np.geomspace(1e-5, 1e3, 40001)
        f = k**3 * matter.linear_power(k) / (2.0 * np.pi**2) * np.exp(-(k * np.exp(ln_r))**2)
        return np.log(growth(0.5, 0.3)**2 * integrate.simpson(f, x=np.log(k)))

    at, step = -np.log(scale), 0.02
    low, middle, high = (ln_variance(at + d) for d in (-step, 0.0, step))
    assert middle == pytest.approx(0.0, abs=1e-4)
    assert n_eff == pytest.approx(-3.0 - (high - low) / (2.0 * step), abs=1e-3)
    assert curvature == pytest.approx(-(high - 2.0 * middle + low) / step**2, abs=3e-3)


@pytest.mark.parametrize("cosmology", CAMB)
@pytest.mark.parametrize("log_t", [7.3, 7.8, 8.3])
def test_feedback_against_hmcode(cosmology, log_t):
    # table 5: what HMcode takes for f_0
    f_0 = (2.01 - 0.30 * (log_t - 7.8)) * 1e-2
    ours = module.response_grid(Theory(*cosmology, PUBLISHED), Z, np.array([log_t]),
                                np.array([f_0]))[0, 0]
    ours = np.array([CubicSpline(module.LN_K, r)(np.log(K)) for r in ours])
    assert np.allclose(ours, CAMB[cosmology][log_t], atol=0.004)


def test_feedback_without_baryons_is_none_and_f_b_is_capped(monkeypatch):
    none = PUBLISHED._replace(f_b_max=0.0, stellar_boost=0.0)
    at = Z, np.array([7.8]), np.array([0.01])
    # no gas to lose and no stars: only the concentrations differ (B_0 = 4 here would do)
    monkeypatch.setattr(module, "feedback_parameters",
                        lambda t: (np.array([4.0]),) + tuple(np.zeros((4, 1))))
    assert np.allclose(module.response_grid(Theory(0.3, 0.8, none), *at), 1.0, atol=1e-12)
    monkeypatch.undo()
    capped, free = (module.response_grid(
        Theory(0.0913, 0.72, PUBLISHED._replace(f_b_max=x)), Z[1:2], np.array([8.0]),
        np.array([0.01])) for x in (0.2, 1.0))
    assert free.min() < 0.8 * capped.min()


def test_nfw_window_is_the_transform_of_the_profile():
    c, x = 6.0, np.array([1e-3, 0.1, 0.7, 3.0, 12.0])
    r = np.linspace(1e-6, c, 400001)
    density = 1.0 / (r * (1.0 + r)**2)
    mass = integrate.simpson(density * r * r, x=r)
    direct = [integrate.simpson(density * r * np.sin(q * r) / q, x=r) / mass for q in x]
    assert np.allclose(module.nfw_window(x, c), direct, atol=2e-6)


def test_sources():
    z = np.linspace(0.0, 2.0, 20001)
    for shift in (-0.05, 0.0, 0.05):
        n = source_density(z, shift)
        assert integrate.simpson(n, x=z) == pytest.approx(1.0, abs=1e-6)
        assert integrate.simpson(n * z, x=z) == pytest.approx(0.75 + shift, abs=1e-6)
    kernel = np.exp(-0.5 * ((z - 1.0) / 0.06)**2) / (0.06 * np.sqrt(2.0 * np.pi))
    box = np.where((z >= 0.6) & (z <= 0.9), 1.0 / 0.3, 0.0)
    smeared = np.convolve(box, kernel, mode="same") * (z[1] - z[0])
    assert np.allclose(source_density(z), smeared, atol=5e-3)


@pytest.mark.parametrize("cosmology", CORNERS)
def test_c_ell_by_a_second_quadrature(cosmology):
    """The double integral over lens and source distances by plain trapezoids in comoving
    distance."""
    theory, shift = Theory(*cosmology, Sky(source_shift=0.05, nonlinear_tilt=-0.3)), 0.03
    z = np.linspace(0.0, Z_MAX, 3001)[1:]
    chi = np.array([
        HUBBLE_DISTANCE * integrate.fixed_quad(lambda t: 1.0 / theory.hubble(t), 0.0, v, n=40)[0]
        for v in z
    ])
    # shifts of 0.05 and, n(z + Delta_z), -0.03
    n_z = source_density(z, 0.02)
    n_z /= integrate.trapezoid(n_z, z)
    step = np.gradient(z)
    q = np.array([
        1.5 * theory.omega_m / HUBBLE_DISTANCE**2 * (1.0 + a) * c * np.sum(
            (n_z * step * (1.0 - c / chi))[i:]) for i, (a, c) in enumerate(zip(z, chi))
    ])
    ell = log_ell_grid(20.0, 6000.0, 0.5)
    keep = slice(8, None, 4)
    for value, l in zip(theory.c_ell(ell, shift), ell):
        k = (l + 0.5) / chi[keep]
        power = Theory(*cosmology, Sky(nonlinear_tilt=0.0)).nonlinear_power(k, z[keep])
        linear = theory.linear_power(k) * growth(z[keep], cosmology[0])**2
        power = linear + (power - linear) * (theory.sigma_8 / 0.8)**-0.3
        direct = integrate.trapezoid(q[keep]**2 / chi[keep]**2 * power, chi[keep])
        assert value / direct == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("cosmology", CORNERS)
def test_table_over_the_nuisances(cosmology):
    theory, ell = Theory(*cosmology), log_ell_grid(7.0, 2e4)
    table = theory.table(ell)
    rng = np.random.default_rng(3)
    log_t, f_0, shift = rng.uniform(7.2, 8.5, 6), rng.uniform(0.0, 0.0265, 6), rng.normal(0.0, 0.03,
    6)
    log_t[:2], f_0[2:4] = (7.2, 8.5), (0.0, 0.0265)
    values = table(log_t, f_0, shift)
    for i in range(6):
        direct = theory.c_ell(ell, shift[i], log_t[i], f_0[i])
        assert np.allclose(values[i], direct, rtol=5e-4, atol=0.0)
        assert np.allclose(table(log_t[i], f_0[i], shift[i]), values[i], rtol=1e-12, atol=0.0)


def test_nuisances_move_the_spectrum_the_right_way():
    table = Theory(0.3, 0.8).table(log_ell_grid())
    at = np.argmin(np.abs(log_ell_grid() - 3000.0))
    base = table(7.8, 0.01, 0.0)[at]
    assert table(8.3, 0.01, 0.0)[at] < 0.97 * base          # hotter gas is expelled further
    assert table(7.8, 0.02, 0.0)[at] > base                 # stars stay in the middle
    # n(z + Delta_z): nearer sources are lensed less
    assert table(7.8, 0.01, 0.03)[at] < 0.97 * base
    far = Theory(0.3, 0.8, Sky(delta_z_sign=1)).table(log_ell_grid())
    assert far(7.8, 0.01, 0.03)[at] == pytest.approx(table(7.8, 0.01, -0.03)[at], rel=1e-9) and far(
        7.8, 0.01, 0.03)[at] > base


def test_settings_of_the_sky_do_what_they_say():
    ell = log_ell_grid(20.0, 6000.0)
    plain = Theory(0.3, 0.8, PUBLISHED).c_ell(ell, 0.01, 7.8, 0.02)

    def other(cosmology=(0.3, 0.8), delta_z=0.01, f_0=0.02, **settings):
        return Theory(*cosmology, PUBLISHED._replace(**settings)).c_ell(ell, delta_z, 7.8, f_0)

    assert np.allclose(other(source_shift=-0.03), other(delta_z=-0.02), rtol=1e-12)
    # f_* is boost times f_0
    assert np.allclose(other(stellar_boost=2.0, f_0=0.01), plain, rtol=1e-12)
    assert np.all(other(stellar_boost=2.0)[ell > 2000.0] > 1.05 * plain[ell > 2000.0])
    # f_b is 0.153 there
    assert np.allclose(other(f_b_max=1.0), plain, rtol=1e-12)
    assert other((0.15, 0.8), f_b_max=1.0).min() < other((0.15, 0.8)).min()
    # sigma_8 is 0.8 there
    assert np.allclose(other(nonlinear_tilt=-0.4), plain, rtol=1e-12)
    ratio = other((0.195, 0.955), nonlinear_tilt=-0.4) / other((0.195, 0.955))
    assert ratio[0] == pytest.approx(1.0, abs=0.01) and ratio[-1] == pytest.approx(
        (0.955 / 0.65**0.5 / 0.8)**-0.4, abs=0.01)


def test_settings_of_a_set():
    """Old simulated sets are as published, newer ones as they say, others like the real maps."""
    assert of_set({"n_gal": 30.0}) == (PUBLISHED, 0.0)
    assert of_set({**Sky(stellar_boost=3.0)._asdict(), "pixel_scatter": 1e-5
                   }) == (Sky(stellar_boost=3.0), 1e-5)
    sky, scatter = of_set({})
    assert sky == Sky() != PUBLISHED and scatter > 0.0


@pytest.mark.parametrize("change, word", [(dict(delta_z_sign=0), "--delta-z-sign"),
                                          (dict(source_shift=0.2), "--source-shift"),
                                          (dict(f_b_max=1.5), "--f-b-max"),
                                          (dict(stellar_boost=-1.0), "--stellar-boost"),
                                          (dict(nonlinear_tilt=np.nan), "--nonlinear-tilt")])
def test_wrong_settings_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        SimulationOptions(**change)


def test_amplitude_at_low_ell_is_linear():
    ell = log_ell_grid(8.0, 100.0)
    ratio = Theory(0.3, 0.82).c_ell(ell)[0] / Theory(0.3, 0.80).c_ell(ell)[0]
    assert ratio == pytest.approx((0.82 / 0.80)**2, rel=2e-3)


@pytest.mark.parametrize("values, name", [((7.0, 0.01, 0.0), "T_AGN"), ((7.8, 0.03, 0.0), "f_0"),
                                          ((7.8, 0.01, 0.2), "Delta_z"),
                                          ((7.8, np.nan, 0.0), "f_0")])
def test_nuisances_outside_the_table_are_refused(values, name):
    table = Theory(0.3, 0.8).table(log_ell_grid(10.0, 1000.0, 0.5))
    with pytest.raises(InputError, match=name):
        table(*values)


@pytest.mark.parametrize("cosmology", [(0.04, 0.8), (1.2, 0.8), (0.3, -1.0), (np.nan, 0.8)])
def test_impossible_cosmologies_are_refused(cosmology):
    with pytest.raises(InputError, match="S_8" if cosmology[1] < 0 else "Omega_m"):
        Theory(*cosmology)
