"""The architectures: sizes by hand, shapes, receptive fields, and the layers that torch does not have."""
import copy

import numpy as np
import pytest
import torch
from conftest import one_line
from torch import nn

from wl.core.checks import InputError
from wl.summaries.layers import BatchRenorm2d, Dropout, conv_block
from wl.summaries.networks import build, count_parameters

torch.set_num_threads(1)


def test_parameters_of_the_published_network():
    """Counted by hand from the paper's layers, frame 1424 x 176 -> 712 x 88 -> 356 x 44 -> ... -> 44 x 5."""
    convolutions = 1 * 16 * 25 + 16 * 32 * 9 + 32 * 64 * 9 + 64 * 128 * 9
    norms = 2 * (16 + 32 + 64 + 128)
    head = (128 * 44 * 5 * 512 + 512) + (512 * 128 + 128) + (128 * 2 + 2)
    found = count_parameters(build("simple_cnn", (1424, 176), 2))
    assert found == convolutions + norms + head == 14_582_002
    assert count_parameters(build("simple_cnn", (1424, 176), 4)) == found + 2 * 128 + 2


def test_parameters_of_the_compact_network():
    convolutions = 1 * 32 * 49 + 32 * 48 * 9 + 48 * 64 * 9 + 64 * 96 * 9
    norms = 2 * (32 + 48 + 64 + 96)
    head = (192 * 128 + 128) + (128 * 2 + 2)
    assert count_parameters(build("compact", (1840, 104), 2)) == convolutions + norms + head


@pytest.mark.parametrize("name", ["compact", "simple_cnn"])
@pytest.mark.parametrize("frame", [(1424, 176), (1840, 104), (64, 48), (96, 200), (88, 88), (32, 32)])
@pytest.mark.parametrize("n_out", [2, 4])
def test_output_shapes(name, frame, n_out):
    net = build(name, frame, n_out).eval()
    with torch.inference_mode():
        out = net(torch.zeros(2, 1, *frame))
    assert out.shape == (2, n_out) and torch.isfinite(out).all()


@pytest.mark.parametrize("name", ["compact", "simple_cnn"])
@pytest.mark.parametrize("frame", [(8, 8), (16, 176), (1424, 16)])
def test_frames_too_small_are_refused(name, frame):
    with pytest.raises(InputError) as error:
        build(name, frame, 2)
    one_line(error, name, frame[0], frame[1])


def test_unknown_network():
    with pytest.raises(InputError) as error:
        build("huge", (64, 48), 2)
    one_line(error, "--model", "compact, simple_cnn", "huge")


@pytest.mark.parametrize("name, size, jump, place", [("compact", 88, 24, (3, 3)),
                                                     ("simple_cnn", 91, 32, (2, 2))])
def test_receptive_field(name, size, jump, place):
    """The pixels that one feature sees, from gradients of a copy without nonlinearities."""
    net = build(name, (288, 288), 2)
    layers = copy.deepcopy(net.features if name == "compact" else net.convolutions)
    for block in layers:
        for i, layer in enumerate(block):
            if isinstance(layer, nn.ReLU):
                block[i] = nn.Identity()
            elif isinstance(layer, nn.MaxPool2d):
                block[i] = nn.AvgPool2d(layer.kernel_size)
            elif isinstance(layer, nn.Conv2d):
                nn.init.uniform_(layer.weight, 0.5, 1.0)
    layers.double().eval()
    edges = []
    for step in (0, 1):
        x = torch.zeros(1, 1, 288, 288, dtype=torch.double, requires_grad=True)
        layers(x)[0, :, place[0] + step, place[1]].sum().backward()
        rows, columns = (np.flatnonzero(x.grad[0, 0].abs().sum(axis).numpy()) for axis in (1, 0))
        assert len(rows) == len(columns) == size == rows[-1] - rows[0] + 1
        edges.append(rows[0])
    assert edges[1] - edges[0] == jump


def test_compact_weights_serve_any_frame():
    one, two = build("compact", (1840, 104), 2), build("compact", (96, 64), 2)
    two.load_state_dict(one.state_dict())
    # global pooling: a pattern moved by a whole step of the features gives the same answer
    x = torch.zeros(1, 1, 288, 288)
    x[..., 120:140, 120:140] = torch.randn(20, 20, generator=torch.Generator().manual_seed(1))
    two.eval()
    with torch.inference_mode():
        assert torch.allclose(two(x), two(torch.roll(x, (24, -48), (2, 3))), atol=1e-5)
        assert not torch.allclose(two(x), two(2 * x), atol=1e-3)


def test_pooling_before_relu_gives_the_same_values():
    torch.manual_seed(3)
    block = conv_block(3, 5, pool=2)
    x = torch.randn(4, 3, 12, 10)
    block.train()(x)
    block.eval()
    convolution, norm, pool, _ = block
    assert torch.equal(block(x), pool(torch.relu(norm(convolution(x)))))


# ---------------------------------------------------------------- dropout
def test_dropout_follows_its_own_generator():
    layer = Dropout(0.3).train()
    x = torch.ones(50, 400)
    layer.generator.manual_seed(5)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    assert torch.equal(torch.get_rng_state(), state)           # the global generator is left alone
    layer.generator.manual_seed(5)
    torch.manual_seed(99)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)
    assert sorted(first.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert first.mean() == pytest.approx(1.0, abs=5 * np.sqrt(0.3 / 0.7 / 20000))
    assert torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0).train()(x), x)


def test_dropout_lets_gradients_through_where_it_keeps():
    layer = Dropout(0.5).train()
    x = torch.ones(200, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_copies_carry_a_generator_of_their_own():
    net = build("simple_cnn", (32, 32), 2)
    other = copy.deepcopy(net)
    ours, theirs = ([m for m in n.modules() if isinstance(m, Dropout)] for n in (net, other))
    assert len(ours) == 2 and [m.p for m in ours] == [0.2, 0.1]
    assert all(a.generator is not b.generator for a, b in zip(ours, theirs))
    theirs[0].generator.manual_seed(1)
    ours[0].generator.manual_seed(2)
    before = ours[0].generator.get_state()
    theirs[0].train()(torch.ones(8))
    assert torch.equal(before, ours[0].generator.get_state())


# ---------------------------------------------------------------- batch renorm
def renorm(running_mean, running_var, steps):
    layer = BatchRenorm2d(2).double().train()
    layer.running_mean += torch.tensor(running_mean).double()
    layer.running_var *= torch.tensor(running_var).double()
    layer.num_batches_tracked += steps
    with torch.no_grad():
        layer.weight += torch.tensor([0.3, -0.4]).double()
        layer.bias += torch.tensor([0.1, 0.2]).double()
    return layer


def activations(seed=4):
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 1.3 * torch.randn(6, 2, 5, 7, generator=generator, dtype=torch.double)


def test_batch_renorm_begins_as_batch_norm():
    x, layer = activations(), renorm([0.0, 0.0], [1.0, 1.0], 0)
    plain = nn.BatchNorm2d(2).double().train()
    plain.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(x), plain(x), atol=1e-12)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(layer, name).double(), getattr(plain, name).double())
    assert torch.equal(layer.eval()(x), plain.eval()(x))


def test_batch_renorm_ends_with_the_running_statistics():
    """Later its training step gives what evaluation gives, so that the two cannot drift apart."""
    x, layer = activations(), renorm([0.3, 0.5], [1.5, 2.0], 1000)
    y = layer(x)
    assert torch.allclose(y, layer.eval()(x), atol=1e-12)
    batch = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, True)
    assert (y - batch).abs().max() > 0.05


def test_batch_renorm_gradient_goes_through_the_batch_statistics():
    """Ioffe's equation: y = r (x - mu_B) / sigma_B + d with r and d held fixed."""
    x, layer = activations().requires_grad_(), renorm([0.3, 0.5], [1.5, 2.0], 1000)
    weight = torch.randn(6, 2, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    (layer(x) * weight).sum().backward()
    z = x.detach().clone().requires_grad_()
    mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
    sd = (var + layer.eps).sqrt()
    running = (layer.running_var + layer.eps).sqrt()[:, None, None]
    r, d = (sd / running).detach(), ((mean - layer.running_mean[:, None, None]) / running).detach()
    y = layer.weight[:, None, None] * ((z - mean) / sd * r + d) + layer.bias[:, None, None]
    (y * weight).sum().backward()
    assert torch.allclose(x.grad, z.grad, atol=1e-10)
    assert x.grad.sum((0, 2, 3)).abs().max() < 1e-9          # a shift of the batch changes nothing


def test_batch_renorm_correction_is_bounded():
    """Far-off running statistics move the output by at most 5 of its units and a factor of 3."""
    x = activations()
    far = renorm([50.0, -50.0], [1e-6, 1e6], 1000)(x).detach()
    plain = nn.functional.batch_norm(x, None, None, training=True)
    assert torch.isfinite(far).all() and far.abs().max() <= 1.3 * (3 * plain.abs().max() + 5) + 0.2
