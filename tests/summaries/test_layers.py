"""The layers against plain formulas: attention, blocks, dropout, batch renorm."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from wl.summaries.architectures import (CBAM, BatchRenorm2d, Dropout, InceptionBlock, SelfAttention,
                                        SqueezeExcitation, basic_block, build, conv_block,
                                        down_block, residual_conv)

torch.set_num_threads(1)


def randomise(module, seed=3):
    torch.manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, 0.0, 0.5)
    return module.double().eval()


def values(*shape, seed=4):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_cbam_formula():
    layer, x = randomise(CBAM(6, 2)), values(2, 6, 9, 8)
    out, a = layer(x).detach().numpy(), x.numpy()
    w0, w1 = (layer.channel[i].weight.detach().numpy() for i in (0, 2))
    mlp = lambda v: np.maximum(v @ w0.T, 0.0) @ w1.T                                 # noqa: E731
    a = a * sigmoid(mlp(a.mean((2, 3))) + mlp(a.max((2, 3))))[:, :, None, None]
    two = np.pad(np.stack([a.mean(1), a.max(1)], 1), ((0, 0), (0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(two, (7, 7), (2, 3))
    place = np.einsum("ncyxij,cij->nyx", windows, layer.place.weight.detach().numpy()[0])
    assert np.allclose(out, a * sigmoid(place)[:, None], atol=1e-12)


def test_squeeze_excitation_formula():
    layer, x = randomise(SqueezeExcitation(6, 3)), values(2, 6, 5, 4)
    first, second = layer.gate[0], layer.gate[2]
    w0, b0, w1, b1 = (p.detach().numpy() for p in (first.weight, first.bias, second.weight,
                                                   second.bias))
    gate = sigmoid(np.maximum(x.numpy().mean((2, 3)) @ w0.T + b0, 0.0) @ w1.T + b1)
    assert np.allclose(layer(x).detach().numpy(), x.numpy() * gate[:, :, None, None], atol=1e-12)


def test_self_attention_formula():
    layer, x = randomise(SelfAttention(16)), values(2, 16, 6, 4)
    parts = layer.query, layer.key, layer.value, layer.out
    w = [m.weight.detach().numpy()[:, :, 0, 0] for m in parts]
    a = x.numpy()

    def pool(v):
        return v.reshape(*v.shape[:2], 3, 2, 2, 2).max((3, 5)).reshape(*v.shape[:2], 6)
    q = np.einsum("ij,njyx->niyx", w[0], a).reshape(2, 2, 24)
    k, v = (pool(np.einsum("ij,njyx->niyx", u, a)) for u in w[1:3])
    logits = np.einsum("niq,nik->nqk", q, k)
    weight = np.exp(logits - logits.max(2, keepdims=True))
    weight /= weight.sum(2, keepdims=True)
    seen = np.einsum("nik,nqk->niq", v, weight)
    oracle = a + layer.gamma.item() * np.einsum("ij,njq->niq", w[3], seen).reshape(a.shape)
    assert np.allclose(layer(x).detach().numpy(), oracle, atol=1e-12)
    assert torch.equal(SelfAttention(16).double()(x), x)         # gamma starts at 0


def test_blocks_are_their_parts_added_up():
    functional = nn.functional
    x = values(2, 4, 8, 6)
    block = randomise(residual_conv(4, 5))
    added = torch.relu(block.main(x) + block.shortcut(x))
    assert torch.allclose(block(x), functional.max_pool2d(added, 2))
    block = randomise(basic_block(4, 4))
    assert len(block.shortcut) == 0 and torch.allclose(block(x), torch.relu(block.main(x) + x))
    half = randomise(basic_block(4, 6, 2))
    assert half(x).shape == (2, 6, 4, 3)
    assert torch.allclose(half(x), torch.relu(half.main(x) + half.shortcut(x)))
    inception = randomise(InceptionBlock(4, 9, 0))
    assert torch.equal(inception(x), torch.cat([view(x) for view in inception.views], 1))
    assert inception(x).shape == (2, 9, 8, 6)
    assert torch.equal(inception.views[3][0](x), functional.max_pool2d(x, 3, 1, 1))
    down = randomise(down_block(4, 5))
    conv_first, conv_second, shortcut = down.main[2], down.main[5], down.shortcut[1]
    h = conv_second(torch.relu(down.main[3](conv_first(torch.relu(down.main[0](x))))))
    paper = functional.avg_pool2d(h, 2) + functional.avg_pool2d(shortcut(x), 2)      # its order
    assert torch.allclose(down(x), paper, atol=1e-12)
    first = randomise(down_block(4, 5, first=True))
    assert isinstance(first.main[0], nn.Conv2d) and first(x).shape == (2, 5, 4, 3)


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
