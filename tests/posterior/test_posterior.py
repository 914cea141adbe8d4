"""The posterior's summary: chi2, flags, warnings, the Gaussian of a network."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats

from wl.posterior import posterior, metropolis
from wl.scoring import report
from wl.core import params as variables
from wl.core.checks import InputError


@pytest.fixture(scope="module")
def emulator():
    return synthetic.emulator(60)


def summary_of(emulator, estimate, chains):
    mean, covariance, inside = emulator.interpolate(chains.mean)
    assert inside.all()                               # the hull is convex: a mean cannot leave it
    return posterior.summarise(chains, estimate, mean, covariance)


def test_chi2_and_p_value(emulator):
    """r^T C^-1 r by explicit inverses; p-values of maps that the emulator made are not small too often."""
    theta, estimate = synthetic.draw(emulator, 500)
    chains = metropolis.exact(emulator, estimate)
    summary = summary_of(emulator, estimate, chains)
    mean, covariance, _ = emulator.interpolate(chains.mean)
    for i in range(5):
        r = estimate[i] - mean[i]
        chi2 = r @ np.linalg.inv(covariance[i]) @ r
        assert np.isclose(summary["chi2"][i], chi2)
        assert np.isclose(summary["p_value"][i], stats.chi2.sf(chi2, 2))
    assert (summary["p_value"] < 0.05).mean() < 0.05      # the parameters were fitted: fewer than by chance
    assert not (summary["flag"] & 16).any()
    far = estimate[:3] + 0.6
    assert (summary_of(emulator, far, metropolis.exact(emulator, far))["flag"] & 16).all()


def test_every_flag(emulator):
    """Each bit is raised by its own fault and by nothing else; NaN raises none."""
    estimate = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 6, axis=0)
    chains = metropolis.metropolis(emulator, estimate, nstep=20000, sigma=0.05)
    assert (summary_of(emulator, estimate, chains)["flag"] == 0).all()
    assert (summary_of(emulator, estimate, metropolis.exact(emulator, estimate))["flag"] == 0).all()
    chains.acceptance[0], chains.acceptance[1] = 0.19, 0.51
    chains.ess[2, 1] = 99.0
    chains.rhat[3, 0] = 1.06
    chains.edge[4] = -0.4
    estimate[5] += 3.0
    assert list(summary_of(emulator, estimate, chains)["flag"]) == [1, 1, 2, 4, 8, 16]
    assert set(variables.FLAGS) == set(report.FLAGS) == {1, 2, 4, 8, 16}


def test_a_chain_that_never_moved_is_flagged(emulator):
    estimate = synthetic.draw(emulator, 4)[1]
    chains = metropolis.metropolis(emulator, estimate, nstep=1000, sigma=500.0)
    summary = summary_of(emulator, estimate, chains)
    assert (summary["sd"] == 0.0).all() and (summary["flag"] & 7 == 7).all()
    text = " ".join(posterior.warnings(summary))
    assert posterior.stuck(summary) == 4 and "4 of 4" in text and "lower --sigma" in text


def test_warnings(emulator):
    """None for a good run; a small sigma asks for a larger one, a short run for more steps."""
    estimate = synthetic.draw(emulator, 30)[1]
    assert posterior.warnings(summary_of(emulator, estimate, metropolis.exact(emulator, estimate))) == []
    slow = metropolis.metropolis(emulator, estimate, nstep=500, sigma=0.003)
    lines = posterior.warnings(summary_of(emulator, estimate, slow))
    assert any("raise --sigma" in line for line in lines) and any("raise --nstep" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_unconverged_runs_say_so(emulator):
    """1 % of the maps may miss a threshold by chance; more, a map alone, or a chain that never moved may not."""
    estimate = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 250, axis=0)
    chains = metropolis.metropolis(emulator, estimate, nstep=20000, sigma=0.05)
    assert posterior.unconverged(summary_of(emulator, estimate, chains)) is None
    assert posterior.unconverged(summary_of(emulator, estimate[:5], metropolis.exact(emulator, estimate[:5]))) is None
    chains.ess[:2, 0], chains.rhat[2, 1] = 60.0, 1.2
    reason = posterior.unconverged(summary_of(emulator, estimate, chains))
    assert one_line(reason, "2 have an effective", "1 an R-hat", "--nstep")
    chains.rhat[2, 1] = 1.0
    assert posterior.unconverged(summary_of(emulator, estimate, chains)) is None
    chains.ess[0, 0], chains.rhat[0, 0] = 0.0, np.inf
    assert "1 never moved" in posterior.unconverged(summary_of(emulator, estimate, chains))
    one = metropolis.metropolis(emulator, estimate[:1], nstep=300, sigma=0.05)
    assert posterior.unconverged(summary_of(emulator, estimate[:1], one))
    assert posterior.unconverged(posterior.gaussian(estimate, np.full((250, 2), 0.02))) is None


def test_gaussian():
    """A network's posterior: quantiles of the Gaussian, no flags, NaN for what it does not have."""
    mean, sd = np.array([[0.3, 0.8], [0.2, 0.75]]), np.array([[0.03, 0.02], [0.05, 0.01]])
    summary = posterior.gaussian(mean, sd)
    for name, level in (("q2_5", 0.025), ("q16", 0.16), ("q50", 0.5), ("q84", 0.84), ("q97_5", 0.975)):
        assert np.allclose(summary[name], stats.norm.ppf(level, mean, sd))
    assert (summary["flag"] == 0).all() and np.isnan(summary["acceptance"]).all()
    for wrong in (0.0, -1.0, np.nan, np.inf):
        bad = sd.copy()
        bad[1, 0] = wrong
        with pytest.raises(InputError) as error:
            posterior.gaussian(mean, bad)
        one_line(error, "map 1", "error bars")


def test_one_structure_for_all(emulator):
    """Chains, quadrature and a network give the same names with the same shapes and dtypes."""
    estimate = synthetic.draw(emulator, 5)[1]
    forms = [{k: (v.shape, v.dtype) for k, v in s.items()} for s in (
        summary_of(emulator, estimate, metropolis.metropolis(emulator, estimate, nstep=200, sigma=0.05)),
        summary_of(emulator, estimate, metropolis.exact(emulator, estimate)),
        posterior.gaussian(estimate, np.full((5, 2), 0.02)))]
    assert forms[0] == forms[1] == forms[2]


def test_imports_neither_numba_nor_torch(python):
    run = python("import sys, wl.posterior.posterior; print([m for m in ('numba', 'torch') if m in sys.modules])")
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
