"""The posterior's result: chi2, flags, warnings, the Gaussian of a network."""
import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy import stats

from wl.core import params as variables
from wl.core.checks import InputError
from wl.posterior import posterior
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
    """r^T C^-1 r by explicit inverses; p-values of maps that the emulator made are not small too often."""
    theta, summary = synthetic.draw(emulator, 500)
    chains = exact(emulator, summary)
    result = result_of(emulator, summary, chains)
    mean, covariance, _ = emulator.interpolate(chains.mean)
    for i in range(5):
        r = summary[i] - mean[i]
        chi2 = r @ np.linalg.inv(covariance[i]) @ r
        assert np.isclose(result["chi2"][i], chi2)
        assert np.isclose(result["p_value"][i], stats.chi2.sf(chi2, 2))
    assert (result["p_value"] < 0.05).mean() < 0.05      # the parameters were fitted: fewer than by chance
    assert not (result["flag"] & 16).any()
    far = summary[:3] + 0.6
    assert (result_of(emulator, far, exact(emulator, far))["flag"] & 16).all()


def test_every_flag(emulator):
    """Each bit is raised by its own fault and by nothing else; NaN raises none."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 6, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert (result_of(emulator, summary, chains)["flag"] == 0).all()
    assert (result_of(emulator, summary, exact(emulator, summary))["flag"] == 0).all()
    chains.acceptance[0], chains.acceptance[1] = 0.19, 0.51
    chains.ess[2, 1] = 99.0
    chains.rhat[3, 0] = 1.06
    chains.edge[4] = -0.4
    summary[5] += 3.0
    assert list(result_of(emulator, summary, chains)["flag"]) == [1, 1, 2, 4, 8, 16]
    assert set(variables.FLAGS) == set(report.FLAGS) == {1, 2, 4, 8, 16}


def test_a_chain_that_never_moved_is_flagged(emulator):
    summary = synthetic.draw(emulator, 4)[1]
    chains = synthetic.chains(emulator, summary, nstep=1000, sigma=500.0)
    result = result_of(emulator, summary, chains)
    assert (result["sd"] == 0.0).all() and (result["flag"] & 7 == 7).all()
    text = " ".join(posterior.warnings(result))
    assert posterior.stuck(result) == 4 and "4 of 4" in text and "lower --sigma" in text


def test_warnings(emulator):
    """None for a good run; a small sigma asks for a larger one, a short run for more steps."""
    summary = synthetic.draw(emulator, 30)[1]
    assert posterior.warnings(result_of(emulator, summary, exact(emulator, summary))) == []
    slow = synthetic.chains(emulator, summary, nstep=500, sigma=0.003)
    lines = posterior.warnings(result_of(emulator, summary, slow))
    assert any("raise --sigma" in line for line in lines) and any("raise --nstep" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_unconverged_runs_say_so(emulator):
    """1 % of the maps may miss a threshold by chance; more, a map alone, or a chain that never moved may not."""
    summary = np.repeat(emulator.interpolate(np.array([[0.28, 0.81]]))[0], 250, axis=0)
    chains = synthetic.chains(emulator, summary, nstep=20000, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    assert posterior.unconverged(result_of(emulator, summary[:5], exact(emulator, summary[:5]))) is None
    chains.ess[:2, 0], chains.rhat[2, 1] = 60.0, 1.2
    reason = posterior.unconverged(result_of(emulator, summary, chains))
    assert one_line(reason, "2 have an effective", "1 an R-hat", "--nstep")
    chains.rhat[2, 1] = 1.0
    assert posterior.unconverged(result_of(emulator, summary, chains)) is None
    chains.ess[0, 0], chains.rhat[0, 0] = 0.0, np.inf
    assert "1 never moved" in posterior.unconverged(result_of(emulator, summary, chains))
    one = synthetic.chains(emulator, summary[:1], nstep=300, sigma=0.05)
    assert posterior.unconverged(result_of(emulator, summary[:1], one))
    assert posterior.unconverged(posterior.gaussian(summary, np.full((250, 2), 0.02))) is None


def test_gaussian():
    """A network's posterior: quantiles of the Gaussian, no flags, NaN for what it does not have."""
    mean, sd = np.array([[0.3, 0.8], [0.2, 0.75]]), np.array([[0.03, 0.02], [0.05, 0.01]])
    result = posterior.gaussian(mean, sd)
    for name, level in (("q2_5", 0.025), ("q16", 0.16), ("q50", 0.5), ("q84", 0.84), ("q97_5", 0.975)):
        assert np.allclose(result[name], stats.norm.ppf(level, mean, sd))
    assert (result["flag"] == 0).all() and np.isnan(result["acceptance"]).all()
    for wrong in (0.0, -1.0, np.nan, np.inf):
        bad = sd.copy()
        bad[1, 0] = wrong
        with pytest.raises(InputError) as error:
            posterior.gaussian(mean, bad)
        one_line(error, "map 1", "error bars")


def test_one_structure_for_all(emulator):
    """Chains, quadrature and a network give the same names with the same shapes and dtypes."""
    summary = synthetic.draw(emulator, 5)[1]
    forms = [{k: (v.shape, v.dtype) for k, v in s.items()} for s in (
        result_of(emulator, summary, synthetic.chains(emulator, summary, nstep=200, sigma=0.05)),
        result_of(emulator, summary, exact(emulator, summary)),
        posterior.gaussian(summary, np.full((5, 2), 0.02)))]
    assert forms[0] == forms[1] == forms[2]


def test_imports_neither_numba_nor_torch(python):
    run = python("import sys, wl.posterior.posterior; print([m for m in ('numba', 'torch') if m in sys.modules])")
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
