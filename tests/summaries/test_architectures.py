"""The published designs: parameter counts by other routes, what a feature sees, invariances."""
import dataclasses
import copy

import numpy as np
import pytest
import torch
from conftest import one_line
from torch import nn
from trainings import (FRAME, LABEL, ROWS, VALIDATION, count_parameters, recipe, same,
                       source)

from wl.core.checks import InputError
from wl.summaries import options, training
from wl.summaries.architectures import (CBAM, NETWORKS, Dropout, SelfAttention, SqueezeExcitation,
                                        build, values_per_norm)
from wl.summaries.network import Network

torch.set_num_threads(1)
POOLED = [name for name in NETWORKS if "simple" not in name]
# the same designs, thin, for tests of what does not depend on the width
THIN = {"compact": {"widths": (3, 4, 5, 6), "hidden": 4},
        "simple_cnn": {"widths": (3, 4, 5, 6), "hidden": (6, 5)},
        "simple_cnn_residual": {"widths": (3, 4, 5, 6), "hidden": (6, 5)},
        "resnet_attention": {"stem": 4, "widths": (4, 5, 6, 7), "hidden": (5, 4)},
        "resnet_reduced": {"stem": 4, "widths": (4, 5), "hidden": (5, 4)},
        "biggan_encoder": {"widths": (4, 8, 8, 8), "input_pool": 2},
        "inception": {"stem": 4, "widths": (8, 8, 12, 12)}}


def thin(name, frame=(64, 48), n_out=2, seed=1, **changes):
    torch.manual_seed(seed)
    return build(name, frame, n_out, **{**THIN[name], **changes})


# ---------------------------------------------------------------- parameters
def conv(c_in, c_out, k):
    return c_in * c_out * k * k


def norm(c):
    return 2 * c


def dense(c_in, c_out):
    return c_in * c_out + c_out


def test_parameters_of_the_published_network():
    """Counted by hand from the paper's layers: 1424 x 176 -> 712 x 88 -> ... -> 44 x 5."""
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


def test_resnet_is_resnet_18_with_attention():
    """ResNet-18's published 11,689,512 parameters, less its 3-colour stem and its 1000 classes."""
    trunk = 11_689_512 - dense(512, 1000) - 2 * conv(1, 64, 7)
    cbam = sum(2 * c * (c // 16) + 2 * 49 for c in (64, 128, 256, 512))
    head = dense(512, 256) + dense(256, 128) + dense(128, 2)
    net = build("resnet_attention", (1424, 176), 2)
    assert count_parameters(net) == trunk + cbam + head == 11_378_634
    kinds = [type(m).__name__ for m in net.head]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [m.p for m in net.head if isinstance(m, Dropout)] == [0.3, 0.2]
    assert count_parameters(build("resnet_attention", (64, 64), 2, attention=0)) == trunk + head
    one = build("resnet_attention", (64, 64), 2, attention=1)
    assert count_parameters(one) == trunk + head + 2 * 512 * 32 + 98
    assert [type(m) for m in one.features].count(CBAM) == 1 and isinstance(one.features[-1], CBAM)


def test_convolutions_start_as_their_papers_say():
    """He et al. 2015: variance 2 / (c_out k^2), 6 times torch's default; BigGAN: orthogonal."""
    torch.manual_seed(1)
    for name in ("resnet_attention", "inception"):
        convolutions = [m for m in build(name, (64, 64), 2).modules()
                        if isinstance(m, nn.Conv2d) and m.weight.numel() > 3000]
        ratio = [float(m.weight.detach().var()) * m.out_channels * m.kernel_size[0]**2 / 2
                 for m in convolutions]
        assert len(ratio) > 4 and np.allclose(ratio, 1.0, atol=0.1), name
    for module in build("biggan_encoder", (128, 128), 2).features.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels <= module.weight[0].numel():
            w = module.weight.detach().flatten(1).double()
            assert torch.allclose(w @ w.T, torch.eye(len(w), dtype=torch.double), atol=1e-5)


def test_reduced_resnet():
    blocks = 4 * conv(32, 32, 3) + conv(32, 64, 3) + 3 * conv(64, 64, 3) + conv(32, 64, 1)
    norms = norm(32) * 5 + norm(64) * 5
    cbam, head = 2 * 64 * 4 + 98, dense(64, 128) + dense(128, 64) + dense(64, 2)
    net = build("resnet_reduced", (1424, 176), 2)
    assert count_parameters(net) == conv(1, 32, 7) + blocks + norms + cbam + head < 200_000
    assert sum(isinstance(m, CBAM) for m in net.modules()) == 1
    assert [m.p for m in net.modules() if isinstance(m, Dropout)] == [0.2, 0.1]
    deep, wide = (count_parameters(build("resnet_reduced", (64, 64), 2, **o))
                  for o in ({"blocks": 3}, {"widths": (40, 80)}))
    more = 2 * (conv(32, 32, 3) + norm(32) + conv(64, 64, 3) + norm(64))
    assert deep == count_parameters(net) + more < 2 * wide


def test_residual_connections_of_the_simple_network():
    frame, plain = (1424, 176), count_parameters(build("simple_cnn", (1424, 176), 2))
    one, two = conv(64, 128, 1) + norm(128), conv(32, 64, 1) + norm(64)
    assert count_parameters(build("simple_cnn_residual", frame, 2)) == plain + one + two
    assert count_parameters(build("simple_cnn_residual", frame, 2, residual=1)) == plain + one
    assert count_parameters(build("simple_cnn_residual", frame, 2, residual=0)) == plain
    pooled = count_parameters(build("simple_cnn", frame, 2, head="pool"))
    assert plain - pooled == 512 * 128 * (44 * 5 - 1)


def test_biggan_encoder():
    def block(a, b, first=False):
        return (0 if first else norm(a)) + conv(a, b, 3) + norm(b) + conv(b, b, 3) + conv(a, b, 1)
    blocks = block(1, 32, True) + block(32, 64) + block(64, 128) + block(128, 256)
    body = blocks + norm(256) + dense(256, 2)
    attention = 2 * conv(64, 8, 1) + 2 * conv(64, 32, 1) + 1
    assert count_parameters(build("biggan_encoder", (1424, 176), 2)) == body + attention
    plain = build("biggan_encoder", (1424, 176), 2, attention=0, input_pool=2)
    assert count_parameters(plain) == body


def test_inception():
    def block(a, b, squeeze=16):
        q, s = b // 4, b // squeeze
        return 4 * conv(a, q, 1) + 3 * conv(q, q, 3) + 7 * norm(q) + dense(b, s) + dense(s, b)
    blocks = block(24, 64) + block(64, 96) + block(96, 128) + block(128, 160)
    body = conv(1, 24, 5) + norm(24) + blocks
    assert count_parameters(build("inception", (1424, 176), 2)) == body + dense(160, 2)
    bare = build("inception", (1424, 176), 2, squeeze=0)
    assert count_parameters(bare) < body
    assert not any(isinstance(m, SqueezeExcitation) for m in bare.modules())
    pools = [i for i, m in enumerate(bare.features) if isinstance(m, nn.MaxPool2d)]
    assert any(isinstance(m, nn.MaxPool2d) for m in bare.features[0]) and pools == [2, 4, 6]


def test_every_option_changes_the_network():
    for name in NETWORKS:
        defaults = options.MODELS[name]
        base = thin(name)
        for option, value in defaults.items():
            changed = {"head": "pool", "squeeze": 0, "input_pool": 1, "residual": 1}.get(option)
            if option == "dropout":
                net = thin(name, dropout=(0.05, 0.04))
                layers = [m for m in net.modules() if isinstance(m, Dropout)]
                assert [m.p for m in layers] == [0.05, 0.04]
                continue
            if changed is None:
                old = THIN[name].get(option, value)
                one = -1 if option == "attention" else 1
                changed = [v + 4 for v in old] if isinstance(old, tuple) else old + one
            other = thin(name, **{option: changed})
            before, after = ((count_parameters(net), net.stride) for net in (base, other))
            assert before != after, (name, option)


# ---------------------------------------------------------------- shapes
def test_unknown_network():
    with pytest.raises(InputError) as error:
        build("huge", (64, 48), 2)
    one_line(error, "--model", "compact, simple_cnn", "huge")


@pytest.mark.parametrize("name", NETWORKS)
def test_output_on_the_survey_and_on_other_frames(name):
    for frame in ((1424, 176), (1840, 104), (96, 200), (88, 72), (64, 48), (32, 32)):
        for n_out in (2, 4):
            net = thin(name, frame, n_out).eval()
            with torch.inference_mode():
                out = net(torch.ones(2, 1, *frame))
            assert out.shape == (2, n_out) and torch.isfinite(out).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_least_frame_and_one_below(name):
    least = thin(name, (256, 256)).stride
    with torch.inference_mode():
        assert thin(name, (least, least)).eval()(torch.ones(1, 1, least, least)).shape == (1, 2)
    for frame in ((least - 1, 200), (1424, least - 1)):
        with pytest.raises(InputError) as error:
            thin(name, frame)
        one_line(error, f"--model {name}", least, frame[0], frame[1])


def test_attention_after_the_last_block_needs_two_pixels_more():
    net = thin("biggan_encoder", (64, 64), attention=4)
    assert net.stride == 64 and thin("biggan_encoder", (64, 64), attention=3).stride == 32
    with torch.inference_mode():
        assert net.eval()(torch.ones(1, 1, 64, 64)).shape == (1, 2)
    with pytest.raises(InputError):
        thin("biggan_encoder", (63, 64), attention=4)


@pytest.mark.parametrize("name", POOLED)
def test_the_norm_that_sees_the_fewest_values(name):
    """On frames of 1, 2 x 1 and 2 x 3 features at the end of the network."""
    net = thin(name, (256, 256))
    for height, width in ((1, 1), (2, 1), (2, 3)):
        frame = (height * net.stride, width * net.stride)
        with torch.inference_mode():
            end = net.eval().features(torch.ones(1, 1, *frame))
        net.train()
        assert end.shape[2:] == (height, width)
        assert values_per_norm(net, frame) >= height * width and net.training
        try:
            net(torch.ones(1, 1, *frame))
        except ValueError:                               # torch refuses to normalise one value
            assert values_per_norm(net, frame) == 1
        else:
            assert values_per_norm(net, frame) > 1 or name == "compact"


# ---------------------------------------------------------------- what one feature sees
def linear(module):
    """A copy without nonlinearities and gates, all weights positive: no gradient, nothing seen."""
    module = copy.deepcopy(module)
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.ReLU, CBAM, SqueezeExcitation, SelfAttention)):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        else:
            setattr(module, name, linear(child))
    for p in module.parameters():
        nn.init.uniform_(p, 0.5, 1.0)
    return module


def seen(net, place, rows=1024, columns=64):
    x = torch.zeros(1, 1, rows, columns, dtype=torch.double, requires_grad=True)
    net(x)[0, :, place, 0].sum().backward()
    touched = np.flatnonzero(x.grad[0, 0].abs().sum(1).numpy())
    assert len(touched) == touched[-1] - touched[0] + 1        # without holes
    return len(touched), touched[0]


def field(*layers):
    """Size and step from (kernel, stride) of each layer: r grows by (kernel - 1) steps."""
    size, jump = 1, 1
    for kernel, stride in layers:
        size, jump = size + (kernel - 1) * jump, jump * stride
    return size, jump


STEM = [(7, 2), (3, 2)]
FIELDS = {
    "resnet_attention": field(*STEM, *[(3, 1)] * 4, *([(3, 2), (3, 1), (3, 1), (3, 1)] * 3)),
    "resnet_reduced": field(*STEM, *[(3, 1)] * 4, (3, 2), (3, 1), (3, 1), (3, 1)),
    "compact": field((7, 3), (2, 2), (3, 1), (2, 2), (3, 1), (3, 1), (2, 2)),
    "simple_cnn": field((5, 2), (2, 2), *[(3, 1), (2, 2)] * 3),
    "simple_cnn_residual": field((5, 2), (2, 2), *[(3, 1), (2, 2)] * 3),
    "biggan_encoder": field((2, 2), *[(3, 1), (3, 1), (2, 2)] * 4),
    "inception": field((5, 2), (2, 2), *([(3, 1), (3, 1), (2, 2)] * 3), (3, 1), (3, 1))}
# the last is ResNet-18's, as published
BY_HAND = {"compact": (88, 24), "simple_cnn": (91, 32), "resnet_attention": (435, 32)}


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_field(name):
    net = thin(name)
    net = linear(net.convolutions if name.startswith("simple") else net.features).double().eval()
    size, jump = FIELDS[name]
    place = 512 // jump
    (one, start), (two, next_start) = seen(net, place), seen(net, place + 1)
    assert one == two == size and next_start - start == jump
    if name in BY_HAND:
        assert (size, jump) == BY_HAND[name]


# ---------------------------------------------------------------- invariances
@pytest.mark.parametrize("name", POOLED)
def test_weights_of_pooled_networks_serve_any_frame_and_any_place(name):
    side = min(64 * -(-(48 + 2 * FIELDS[name][0]) // 64), 896)
    net, big = thin(name, (64, 48)), thin(name, (side, side), seed=2)
    for module in net.modules():
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.5)
    big.load_state_dict(net.state_dict())
    # no feature sees the pattern and an edge
    step, middle = big.stride, slice(side // 2 - 24, side // 2 + 24)
    x = torch.zeros(1, 1, side, side, dtype=torch.double)
    x[..., middle, middle] = torch.randn(48, 48, generator=torch.Generator().manual_seed(1))
    big.double().eval()
    with torch.inference_mode():
        assert torch.allclose(big(x), big(torch.roll(x, (step, -step), (2, 3))), rtol=0, atol=1e-12)
        assert not torch.allclose(big(x), big(3 * x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_does_not_feel_its_neighbours_in_evaluation(name):
    net, generator = thin(name).double().eval(), torch.Generator().manual_seed(2)
    x = torch.randn(5, 1, 64, 48, generator=generator, dtype=torch.double)
    with torch.inference_mode():
        assert torch.allclose(net(x)[3:4], net(x[3:4]), rtol=0, atol=1e-12)
        assert not torch.allclose(net(x)[3], net(x)[2], rtol=0, atol=1e-8)


# ---------------------------------------------------------------- lanes, precisions, files
@pytest.mark.parametrize("name", NETWORKS)
def test_training_follows_from_the_recipe_in_both_precisions(name, tmp_path):
    for precision in ("float32", "bfloat16"):
        s = recipe(model=name, model_options=THIN[name], precision=precision, epochs=1, lanes=3)
        one, two = (training.train(source(), LABEL, (ROWS[:24], VALIDATION[:8]), s, threads=n)
                    for n in (1, 3))
        assert same(one, two) and np.isfinite(one.history[0]["validation"])
        one.save(tmp_path / "model.pt")
        loaded = Network.load(tmp_path / "model.pt")
        assert same(one, loaded)
        assert count_parameters(loaded.net) == count_parameters(thin(name, FRAME.shape))
        mean, _ = one.predict(source(), VALIDATION[:5], threads=2)
        assert np.array_equal(mean, loaded.predict(source(), VALIDATION[:5])[0])


def test_channels_last_changes_nothing():
    x = torch.randn(3, 1, 64, 48, generator=torch.Generator().manual_seed(2))
    for name in NETWORKS:
        net = thin(name).eval()
        with torch.inference_mode():
            plain = net(x)
            turned = x.contiguous(memory_format=torch.channels_last)
            last = net.to(memory_format=torch.channels_last)(turned)
            with torch.autocast("cpu", torch.bfloat16):
                low = net(turned).float()
        assert torch.allclose(plain, last, atol=1e-5), name
        assert torch.allclose(plain, low, atol=0.05 + 0.05 * float(plain.abs().max())), name


# ---------------------------------------------------------------- options from the command line
def test_options_take_the_types_of_their_defaults():
    texts = ["widths=8,16", "head=pool", "dropout=0,0.5", "residual=1"]
    found = options.options(texts, options.MODELS["simple_cnn"])
    assert found == {"widths": [8, 16], "hidden": [512, 128], "dropout": [0.0, 0.5], "residual": 1,
                     "head": "pool"}


@pytest.mark.parametrize("name, text, words", [
    ("compact", "width=3", ("width=3", "widths=32,48,64,96", "hidden")),
    ("compact", "widths", ("NAME=VALUE",)),
    ("compact", "widths=8,x", ("widths", "'x'")), ("compact", "hidden=0", ("hidden", "1 and")),
    ("compact", "hidden=2.5", ("whole",)), ("simple_cnn", "dropout=0.2", ("dropout", "2 numbers")),
    ("simple_cnn", "dropout=0.2,1.5", ("dropout", "0.9")),
    ("simple_cnn", "head=flat", ("flatten, pool", "flat")),
    ("resnet_reduced", "attention=-1", ("attention", "0 and")),
    ("simple_cnn", "dropout=0,nan", ("dropout", "nan"))])
def test_wrong_options_are_refused_in_one_line(name, text, words):
    with pytest.raises(InputError) as error:
        options.options([text], options.MODELS[name])
    one_line(error, "--model-option", *words)


@pytest.mark.parametrize("name, texts, words", [
    ("biggan_encoder", ["attention=5"], ["attention", "at most 4"]),
    ("resnet_attention", ["attention=3", "widths=8,16"], ["attention", "at most 2"]),
    ("simple_cnn", ["residual=4"], ["residual", "at most 3"]),
    ("inception", ["widths=8,3"], ["widths", "at least 4", "inception"])])
def test_options_that_no_network_can_have(name, texts, words):
    with pytest.raises(InputError) as error:
        options.model_options(name, texts)
    one_line(error, "--model-option", *words)
    with pytest.raises(InputError):
        options.model_options(f"{name}+statistics", texts)


def test_a_default_that_counts_stages_follows_their_number():
    for name, plain in options.MODELS.items():
        expected = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        assert options.model_options(name, None) == expected
    assert options.model_options("resnet_attention", ["widths=8,16"])["attention"] == 2
    assert options.model_options("simple_cnn_residual", ["widths=8,16"])["residual"] == 1
    assert options.model_options("biggan_encoder", ["widths=8,16,32"])["attention"] == 2


def test_precision():
    plain = options.NetworkOptions()
    assert dataclasses.replace(plain, precision="float64").decided(100).precision == "float64"
    assert plain.decided(100).precision in ("float32", "bfloat16")
    # a run goes on as it began
    assert plain.decided(100, found="float64").precision == "float64"
    with pytest.raises(InputError) as error:
        dataclasses.replace(plain, precision="float16")
    one_line(error, "--precision", "float16", "bfloat16")


def test_default_epochs_make_27000_maps_and_leave_the_options_alone():
    for plain, want in ((options.NetworkOptions(model="compact"), [60, 14, 9, 9]),
                        (options.NetworkOptions(), [60, 11, 8, 7])):
        assert [plain.decided(n).epochs for n in (100, 2000, 3000, 30000)] == want
        assert plain.epochs is None and plain.views is None
    views = [options.NetworkOptions(model=model, views=given).decided(3000).views
             for model in (options.DEFAULT_MODEL, "compact") for given in (None, 2)]
    assert views == [1, 2, 4, 2]
