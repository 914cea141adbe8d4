"""Lanes: their gradients add up to the batch's, and what they share and what they do not."""
import numpy as np
import pytest
import torch
from torch import nn
from trainings import FRAME, LABEL, ROWS, Plain, recipe, run, same_weights, source

from wl.maps.batches import FIXED
from wl.summaries import architectures, training
from wl.summaries.architectures import Dropout, build
from wl.summaries.lanes import Lanes
from wl.summaries.network import Loss


def running_mean(net):
    """The first running mean of a network's norms."""
    return next(b for name, b in net.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("loss", ["mse", "kl"])
@pytest.mark.parametrize("n, lanes", [(8, 2), (8, 3), (7, 4), (2, 4), (1, 2)])
def test_lanes_add_up_to_the_whole_batch(loss, n, lanes):
    """Uneven and empty lanes: the gradient of the mean over the batch, and its loss."""
    torch.manual_seed(2)
    loss = Loss(loss, LABEL.std(0))
    net = Plain(FRAME.shape, loss.n_out)
    x, target = source().fetch(np.arange(n), noise=FIXED), torch.randn(n, 2)
    value = loss(net(torch.from_numpy(x)), target)
    value.backward()
    oracle = [p.grad.clone() for p in net.parameters()]
    with Lanes(net, recipe(lanes=lanes), 2) as parallel:
        for _ in range(2):                               # no gradient is left from the step before
            assert parallel.step(x, target, loss) == pytest.approx(value.item(), rel=1e-5)
            for p, g in zip(net.parameters(), oracle):
                assert torch.allclose(p.grad, g, rtol=1e-4, atol=1e-6)
        with torch.inference_mode():
            assert torch.allclose(parallel.predict(x), net(torch.from_numpy(x)), atol=1e-6)


@pytest.mark.parametrize("lanes, n", [(3, 9), (4, 3)])
def test_lanes_share_weights_and_average_their_statistics(lanes, n):
    """Over the lanes that have seen maps: one without has no say."""
    torch.manual_seed(2)
    net = build("compact", FRAME.shape, 2)
    with Lanes(net, recipe(lanes=lanes), 1) as parallel:
        assert all(a.data_ptr() == b.data_ptr() for other in parallel.copies[1:]
                   for a, b in zip(net.parameters(), other.parameters()))
        parallel.copies.train()
        parallel.step(source().fetch(np.arange(n), noise=FIXED), torch.zeros(n, 2), Loss("mse"))
        each = [running_mean(c).clone() for c in parallel.copies]
        assert not torch.equal(each[0], each[1]) and not any(e.any() for e in each[3:])
        parallel.share_buffers()
        for other in parallel.copies:
            assert torch.allclose(running_mean(other), torch.stack(each[:3]).mean(0), atol=1e-7)


def test_what_is_stored_of_lanes_restores_them():
    x = source().fetch(np.arange(6), noise=FIXED)
    with Lanes(build("compact", FRAME.shape, 2), recipe(lanes=3), 1) as lanes:
        lanes.copies.train()
        lanes.step(x, torch.zeros(6, 2), Loss("mse"))
        saved = {"used": lanes.used, "buffers": [{k: v.clone() for k, v in b.items()}
                                                 for b in lanes.stored()["buffers"]]}
        with Lanes(build("compact", FRAME.shape, 2), recipe(lanes=3), 1) as other:
            other.restore(saved)
            assert other.used == 3
            for mine, theirs in zip(lanes.copies, other.copies):
                assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), theirs.buffers()))


def test_float64_is_that_to_the_end():
    x = source().fetch(np.arange(3), noise=FIXED)
    double = recipe(lanes=2, precision="float64")
    with Lanes(build("compact", FRAME.shape, 2).double(), double, 1) as lanes:
        lanes.copies.eval()
        with torch.inference_mode():
            whole = lanes.net(torch.from_numpy(x).double())
        found = lanes.predict(x)
    assert found.dtype == torch.double and torch.allclose(found, whole, rtol=1e-13, atol=1e-15)


# ---------------------------------------------------------------- in a training
def test_lanes_agree_without_batch_norm(monkeypatch):
    monkeypatch.setitem(architectures.NETWORKS, "plain", Plain)
    one, two = run(model="plain", lanes=1), run(model="plain", lanes=2)
    a, b = one.net.state_dict(), two.net.state_dict()
    assert all(torch.allclose(a[k], b[k], rtol=1e-3, atol=1e-5) for k in a)
    assert not same_weights(one, two)


def test_lanes_train_in_training_and_share_their_statistics_in_validation(monkeypatch):
    """Training mode at every step; evaluation mode, with equal buffers, in validation."""
    step, validate, seen = Lanes.step, training._Training.validate, []

    def stepped(self, *args):
        seen.append("step" if all(net.training for net in self.copies) else "idle step")
        return step(self, *args)

    def validated(self):
        copies = self.lanes.copies
        value, found = validate(self), [dict(net.named_buffers()) for net in copies]
        equal = all(torch.equal(found[0][k], other[k]) for other in found[1:]
                    for k in found[0] if "mean" in k)
        idle = not any(net.training for net in copies)
        seen.append("validation" if equal and idle else "unfit")
        return value
    monkeypatch.setattr(Lanes, "step", stepped)
    monkeypatch.setattr(training._Training, "validate", validated)
    run(epochs=2, lanes=3, model="resnet_reduced", model_options={"stem": 3, "widths": [3, 4]})
    assert seen == (["step"] * 4 + ["validation"]) * 2


def test_momentum_of_a_run(monkeypatch):
    """The schedule reaches batch renorm in every lane, and leaves plain batch norm alone."""
    step, seen = Lanes.step, []

    def stepped(self, *args):
        seen.append([[m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
                     for net in self.copies])
        return step(self, *args)
    monkeypatch.setattr(Lanes, "step", stepped)
    run(epochs=2)
    steps = 2 * (len(ROWS) // 8)
    expected = [{training.norm_momentum(i, steps)} for i in range(steps)]
    assert [set(sum(one, [])) for one in seen] == expected
    assert len(seen[0]) == 2 and len(seen[0][0]) == 4 and seen[-1][0][0] < 0.05
    seen.clear()
    run(epochs=2, model="simple_cnn")
    assert {m for one in seen for m in sum(one, [])} == {0.1}


def test_dropout_differs_from_step_to_step_lane_to_lane_layer_to_layer_and_seed_to_seed():
    states = set()
    with Lanes(build("simple_cnn", (32, 32), 2), recipe(lanes=3), 1) as lanes:
        for seed, step in ((3, 7), (3, 8), (4, 7)):
            lanes.begin_step(0.1, seed, step)
            layers = [m for net in lanes.copies for m in net.modules() if isinstance(m, Dropout)]
            states |= {m.generator.get_state().numpy().tobytes() for m in layers}
    assert len(layers) == 3 * 2 and len(states) == 3 * 3 * 2
