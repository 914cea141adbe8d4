"""The posterior's result: chi2, flags, warnings, a network's Gaussian; PIT and recalibration."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats

from wl.core import params as variables
from wl.core.checks import InputError
from wl.core.params import LEVELS
from wl.posterior import posterior
from wl.posterior.options import PosteriorOptions
from wl.posterior.posterior import pit_quantiles, uniform_p_value
from wl.scoring.score import Posterior, probabilities
from wl.posterior.quadrature import exact
from wl.scoring import report


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(60)


def result_of(emulator, summary, chains):
    mean, covariance, inside = emulator.interpolate(chains.mean)
    assert inside.all()                               # the hull is convex: a mean cannot leave it
    return posterior.summarise(chains, summary, mean, covariance)


def test_chi2_and_p_value(emulator):
    """r^T C^-1 r by explicit inverses; p-values of maps that the emulator made are not small too
    often."""
    theta, summary = synthetic.draw(emulator, 500)
    chains = exact(emulator, summary)
    result = result_of(emulator, summary, chains)
    mean, covariance, _ = emulator.interpolate(chains.mean)
    for i in range(5):
        r = summary[i] - mean[i]
        chi2 = r @ np.linalg.inv(covariance[i]) @ r
        assert np.isclose(result["chi2"][i], chi2)
        assert np.isclose(result["p_value"][i], stats.chi2.sf(chi2, 2))
    # the parameters were fitted: fewer than by chance
    assert (result["p_value"] < 0.05).mean() < 0.05
    assert not (result["flag"] & 16).any()
    far = summary[:3] + 0.6
    assert (result_of(emulator, far, exact(emulator, far))["flag"] & 16).all()


def test_every_flag(emulator):
    """Each bit is raised by its own fault and by nothing else; contact with the hull is no
    fault."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 7, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert (result_of(emulator, summary, chains)["flag"] == 0).all()
    assert (result_of(emulator, summary, exact(emulator, summary))["flag"] == 0).all()
    chains.acceptance[0], chains.acceptance[1] = 0.19, 0.51
    chains.ess[2, 1] = 99.0
    chains.rhat[3, 0] = 1.06
    chains.edge[4] = -0.4
    summary[5] += 3.0
    chains.sd[6] = 0.0
    assert list(result_of(emulator, summary, chains)["flag"]) == [1, 1, 2, 4, 0, 16, 32]
    assert set(variables.FLAGS) == set(report.FLAGS) == {1, 2, 4, 16, 32}


def test_a_chain_that_never_moved_is_flagged(emulator):
    summary = synthetic.draw(emulator, 4)[1]
    chains = synthetic.chains(emulator, summary, nstep=1000, sigma=500.0)
    result = result_of(emulator, summary, chains)
    assert (result["flag"] == posterior.STUCK).all() and (result["acceptance"] == 0.0).all()
    for name in ("mean", "sd", "correlation", "q16", "rhat", "tau", "chi2", "p_value"):
        assert np.isnan(result[name]).all(), name
    assert "4 never moved" in posterior.unconverged(result)


def test_one_chain_that_never_moved_leaves_the_others_alone(emulator):
    """Several chains that stand still have a spread and no acceptance."""
    summary = synthetic.draw(emulator, 4)[1]
    chains = synthetic.chains(emulator, summary, nstep=1000, sigma=0.05)
    whole = result_of(emulator, summary, chains)
    chains.acceptance[1], chains.sd[2, 1] = 0.0, np.nan
    result = result_of(emulator, summary, chains)
    assert list(result["flag"] == posterior.STUCK) == [False, True, True, False]
    assert np.isnan(result["mean"][1:3]).all()
    assert np.array_equal(result["mean"][[0, 3]], whole["mean"][[0, 3]])


def test_unconverged_runs_say_so(emulator):
    """1 % of the maps may miss a threshold by chance; more, a map alone, or a chain that never
    moved may not."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 250, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    assert posterior.unconverged(result_of(emulator, summary[:5],
                                           exact(emulator, summary[:5]))) is None
    chains.ess[:2, 0], chains.rhat[2, 1] = 60.0, 1.2
    reason = posterior.unconverged(result_of(emulator, summary, chains))
    assert one_line(reason, "2 have an effective", "1 an R-hat", "--nstep")
    chains.rhat[2, 1] = 1.0
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    chains.acceptance[0] = 0.0
    assert "1 never moved" in posterior.unconverged(result_of(emulator, summary, chains))
    one = synthetic.chains(emulator, summary[:1], nstep=300, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary[:1], one))
    assert posterior.unconverged(posterior.gaussian(summary, np.full((250, 2), 0.02))) is None


def test_maps_that_keep_draws(capsys):
    """Numbers and ranges, of those there are; none of them is said, as draws are missed later."""
    ids = np.array([3, 4, 5, 9])
    some = PosteriorOptions(draws=10, draw_maps="0-3, 5,77")
    assert some.drawn(ids).tolist() == [0, 2] and not capsys.readouterr().err
    assert not PosteriorOptions(draws=10, draw_maps="10-20").drawn(ids).size
    one_line(capsys.readouterr().err.strip(), "--draw-maps 10-20", "3 to 9")


def test_gaussian():
    """A network's posterior: quantiles of the Gaussian, no flags, nothing that it does not have."""
    mean, sd = np.array([[0.3, 0.8], [0.2, 0.75]]), np.array([[0.03, 0.02], [0.05, 0.01]])
    result = posterior.gaussian(mean, sd)
    for name, level in (("q2_5", 0.025), ("q16", 0.16), ("q50", 0.5), ("q84", 0.84),
                        ("q97_5", 0.975)):
        assert np.allclose(result[name], stats.norm.ppf(level, mean, sd))
    assert (result["flag"] == 0).all() and not {"acceptance", "ess", "p_value"} & set(result)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        bad = sd.copy()
        bad[1, 0] = wrong
        with pytest.raises(InputError) as error:
            posterior.gaussian(mean, bad)
        one_line(error, "map 1", "error bars")


def test_one_structure_for_all(emulator):
    """What chains, quadrature and a network have in common has the same shape and dtype; none is
    all NaN."""
    summary = synthetic.draw(emulator, 5)[1]
    forms = [{k: (v.shape, v.dtype) for k, v in s.items()} for s in (
        result_of(emulator, summary, synthetic.chains(emulator, summary, nstep=200, sigma=0.05)),
        result_of(emulator, summary, exact(emulator, summary)),
        posterior.gaussian(summary, np.full((5, 2), 0.02)))]
    chains, quadrature, network = forms
    assert set(network) < set(chains) & set(quadrature)
    assert set(chains) - set(quadrature) == {"acceptance", "ess", "rhat", "tau"}
    assert set(quadrature) - set(chains) == {"log_evidence", "contour_68", "contour_95", "area_68",
                                             "area_95"}
    for name in set(chains) | set(quadrature):
        assert len({str(form[name]) for form in forms if name in form}) == 1


def test_imports_neither_numba_nor_torch(python):
    run = python("import sys, wl.posterior.posterior; "
                 "print([m for m in ('numba', 'torch') if m in sys.modules])")
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


# ---------------------------------------------------------------- calibration
def test_pit(rng):
    mean, sd = rng.normal(size=(4000, 2)), rng.uniform(0.5, 2.0, size=(4000, 2))
    truth = mean + sd * rng.normal(size=(4000, 2))
    values = probabilities(truth, Posterior(mean, sd))
    np.testing.assert_allclose(values, stats.norm(mean, sd).cdf(truth), rtol=1e-10)
    levels = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    quantiles = stats.norm.ppf(levels)[:, None, None] * sd + mean
    np.testing.assert_allclose(pit_quantiles(truth, levels, quantiles), values, rtol=1e-7,
                               atol=1e-12)


def test_pit_of_a_skewed_posterior(rng):
    """Gamma posteriors: quantiles give a PIT that is uniform, mean and sd do not."""
    shape, levels = 2.0, np.linspace(0.01, 0.99, 25)
    truth = rng.gamma(shape, size=(4000, 2))
    quantiles = np.broadcast_to(stats.gamma(shape).ppf(levels)[:, None, None], (25, 4000, 2))
    good = pit_quantiles(truth, levels, quantiles)
    assert uniform_p_value(good[:, 0]) > 0.01
    gaussian = probabilities(truth, Posterior(*np.full((2, 4000, 2), [[[shape]], [[shape**0.5]]])))
    assert uniform_p_value(gaussian[:, 0]) < 1e-6


@pytest.mark.parametrize("n", [5, 30, 4000])
def test_uniformity_test_against_scipy(rng, n):
    for _ in range(20):
        values = rng.random(n)**rng.uniform(0.8, 1.2)
        want = stats.kstest(values, "uniform").pvalue
        assert uniform_p_value(values) == pytest.approx(want, abs=0.025)


# its hull is far from all below
DESIGN = np.array([[-50.0, -50.0], [50.0, -50.0], [0.0, 90.0]])


def clusters(rng, n_cluster, size, shift):
    """Values uniform in all, but each cluster's own are shifted by `shift` of its own."""
    offset = np.repeat(rng.normal(0.0, shift, n_cluster), size)
    return stats.norm.cdf((rng.normal(size=n_cluster * size) + offset) / np.sqrt(1 + shift**2))


def test_uniformity_of_maps_that_share_a_cosmology(rng):
    """Clusters make the plain test fail far too often; with them it fails as seldom as it says. Of
    independent maps both say nearly the same."""
    cluster = np.repeat(np.arange(100), 40)
    plain, aware, same = [], [], []
    for _ in range(200):
        values = clusters(rng, 100, 40, 0.5)
        plain.append(uniform_p_value(values))
        aware.append(uniform_p_value(values, cluster))
        free = rng.random(4000)
        same.append(abs(uniform_p_value(free) - uniform_p_value(free, cluster)))
    assert np.mean(np.array(plain) < 0.05) > 0.4 and 0.0 <= np.mean(np.array(aware) < 0.05) < 0.1
    assert np.mean(same) < 0.05
    assert uniform_p_value(rng.random(4000)**1.3, cluster) < 1e-6


def test_quantiles_hold_at_the_hull(rng):
    """Cosmologies on the hull, one parameter more off than the other: each then holds 68 % there.

    Cosmologies far inside do too.
    """
    design = np.concatenate([10.0 * DESIGN / 50.0, rng.uniform(-3, 3, size=(40, 2))])
    index = np.tile(np.arange(43), 160)
    truth = design[index]
    mean = truth + rng.normal(size=truth.shape) * np.where(index[:, None] < 3, [1.9, 1.4], 1.0)
    summary = gaussian_summary(mean - 0.03 * mean, np.ones_like(mean))
    half = np.arange(len(index)) < len(index) // 2
    known, new = ({k: v[part] for k, v in summary.items()} for part in (half, ~half))
    found, learnt = posterior.recalibrate("isotonic", new, truth[half], known, design)
    assert (1.2 < learnt["widening"]).all() and (learnt["widening"] <= 2.0).all()
    inside = (truth[~half] > found["recalibrated_q16"]) & (truth[~half] < found["recalibrated_q84"])
    for part in (index[~half] < 3, index[~half] >= 3):
        assert (np.abs(inside[part].mean(0) - 0.68) < 0.06).all()


def gaussian_summary(mean, sd):
    return {"mean": mean, "sd": sd, "correlation": np.zeros(len(mean)),
            **{q: mean + sd * stats.norm.ppf(p) for q, p in LEVELS.items()}}


def test_isotonic_corrects_width_and_bias(rng):
    """Fitted on half of the maps, the other half is covered as it should be, whatever was wrong."""
    truth = rng.normal(size=(6000, 2)) * [1.0, 2.0]
    for scale, shift in ((0.6, 0.0), (1.5, 0.0), (1.0, 0.5)):
        mean, sd = np.full(truth.shape, shift), np.tile([1.0, 2.0], (6000, 1)) * scale
        curve = posterior.isotonic(probabilities(truth, Posterior(mean, sd))[:3000])
        assert (np.diff(curve, axis=0) > 0).all()
        found, made_of = posterior.recalibrate("isotonic", gaussian_summary(mean[3000:], sd[3000:]),
                                               truth[:3000],
                                               gaussian_summary(mean[:3000], sd[:3000]), DESIGN)
        assert np.allclose(made_of["recalibration"], curve, atol=1e-3)
        assert (made_of["widening"] == 1.0).all()
        for low, high, level in (("q16", "q84", 0.68), ("q2_5", "q97_5", 0.95)):
            low, high = (found[f"recalibrated_{name}"] for name in (low, high))
            inside = (truth[3000:] > low) & (truth[3000:] < high)
            error = np.sqrt(level * (1 - level) / 3000)
            assert (np.abs(inside.mean(0) - level) < 4 * error + 0.01).all()
        expected = np.sqrt(np.mean((truth - shift)**2, axis=0))
        assert np.allclose(found["errorbar"], expected, rtol=0.06)


def test_isotonic_leaves_the_calibrated_alone(rng):
    mean, sd = rng.normal(size=(4000, 2)), np.full((4000, 2), 0.1)
    truth = mean + 0.1 * rng.normal(size=mean.shape)
    summary = gaussian_summary(mean, sd)
    found, _ = posterior.recalibrate("isotonic", summary, truth, summary, DESIGN)
    assert np.allclose(found["errorbar"], sd, rtol=0.05)
    assert set(posterior.recalibrate("temperature", summary, truth, summary,
                                     DESIGN)[0]) == {"errorbar"}
    for q in LEVELS:
        assert np.abs(found[f"recalibrated_{q}"] - summary[q]).max() < 0.02
