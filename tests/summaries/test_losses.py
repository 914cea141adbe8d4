"""The losses against NumPy and SciPy formulas, their gradients by differences, their minima."""
import numpy as np
import pytest
import torch
from conftest import one_line
from scipy import stats
from trainings import LABEL, VALIDATION, run, source

from wl.core.checks import InputError
from wl.scoring import score
from wl.summaries import options
from wl.summaries.architectures import build
from wl.summaries.network import LOG_SIGMA_RANGE, Loss

SD = np.array([0.1055, 0.0660])
NAMES = options.LOSSES


def batch(n=7, seed=1, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), 0.7 * rng.normal(size=(n, 2)), spread * rng.normal(size=(n, 2))


def value(loss, target, mean, log_sigma):
    out = np.concatenate([mean, log_sigma], 1)[:, :loss.n_out]
    return float(loss(torch.tensor(out), torch.tensor(target)))


def test_every_loss_is_in_the_table_and_knows_its_outputs():
    for name in NAMES:
        loss = Loss(name, SD)
        assert loss.n_out == (2 if name == "mse" else 4) and loss.has_sigma == (name != "mse")
    with pytest.raises(InputError) as error:
        Loss("rmse", SD)
    one_line(error, "--loss", "mse, kl, score", "rmse")


def test_mse_and_kl():
    target, mean, log_sigma = batch()
    found = value(Loss("mse", SD), target, mean, log_sigma)
    assert found == pytest.approx(np.mean((target - mean)**2))
    density = stats.norm(mean, np.exp(log_sigma)).logpdf(target) + 0.5 * np.log(2 * np.pi)
    assert value(Loss("kl", SD), target, mean, log_sigma) == pytest.approx(-density.sum(1).mean())


def test_score_is_minus_the_challenges():
    target, mean, log_sigma = batch()
    centre = np.array([0.29, 0.8135])
    oracle = score.challenge_score(centre + SD * target, centre + SD * mean,
                                   SD * np.exp(log_sigma)).mean()
    loss = Loss("score", SD)
    assert value(loss, target, mean, log_sigma) == pytest.approx(-oracle)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "mse"])
def test_error_bars_are_those_of_the_errors_at_the_best_fit(name):
    loss, log_sigma = Loss(name, SD), torch.zeros(1, 2, dtype=torch.double, requires_grad=True)
    errors = torch.tensor([[0.3, 0.2], [-0.3, -0.2]], dtype=torch.double)
    optimiser = torch.optim.Adam([log_sigma], 0.02)
    for _ in range(800):
        optimiser.zero_grad()
        loss(torch.cat([torch.zeros(2, 2), log_sigma.expand(2, 2)], 1), errors).backward()
        optimiser.step()
    assert np.allclose(np.exp(log_sigma.detach().numpy()), [[0.3, 0.2]], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_differences(name):
    target, mean, log_sigma = batch(spread=0.5)
    loss = Loss(name, SD)
    out = torch.tensor(np.concatenate([mean, log_sigma], 1)[:, :loss.n_out], requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: loss(o, torch.tensor(target)), out)


@pytest.mark.parametrize("name", NAMES)
def test_wild_outputs_stay_finite(name):
    loss = Loss(name, SD)
    for wild in (-1e4, 1e4):
        out = torch.tensor([[0.0, 0.0, wild, -wild]])[:, :loss.n_out].requires_grad_()
        one = loss(out, torch.ones(1, 2))
        one.backward()
        assert torch.isfinite(one) and torch.isfinite(out.grad).all() and one.dtype == torch.float32
    assert LOG_SIGMA_RANGE[0] < -5 and LOG_SIGMA_RANGE[1] > 1


def test_a_network_learns_its_error_bars():
    network = run(loss="score", epochs=16)
    losses = [h["validation"] for h in network.history]
    mean, sd = network.predict(source(), VALIDATION)
    pull = (mean - LABEL[VALIDATION]) / sd
    assert sd.shape == mean.shape and 0.3 < np.sqrt(np.mean(pull**2)) < 3.0
    assert losses[-1] < losses[0]
    one, bars = network.predict(source(), VALIDATION, symmetries=1)
    found = -score.challenge_score(LABEL[VALIDATION], one, bars).mean()
    assert found == pytest.approx(min(losses), rel=1e-4)       # the loss is minus the score
