"""The networks on maps by name, each in its paper's form: plain modules without any I/O.

    net = build("compact", frame=(1840, 104), n_out=2)
    net = build("resnet_reduced", frame=(1840, 104), n_out=4, attention=0, widths=(24, 48))

Each maps a batch (n, 1, rows, columns) to (n, n_out). A new one is a class below, a line in
NETWORKS, and its options with their defaults in options.MODELS. Its `stride`, if it has one, is the
least frame each way.
"""
from collections.abc import Sequence

import torch
from torch import nn

from ..core.checks import InputError, choice
from .layers import (CBAM, Dropout, InceptionBlock, SelfAttention, basic_block, conv_block,
                     convolution, down_block, residual_conv)
from .options import MODELS


class GlobalMean(nn.Module):
    """(n, c, H, W) -> (n, c)."""

    def forward(self, x):
        return x.mean((2, 3))


class Pooled(nn.Module):
    """A network that is features, a global mean and a head: its weights serve any frame.

    features, head: modules (n, 1, H, W) -> (n, c, H / stride, W / stride), (n, c) -> (n, n_out)
    """

    def __init__(self, features: nn.Module, head: nn.Module, stride: int):
        super().__init__()
        self.features, self.head, self.stride = features, head, stride
        for module in features.modules():
            if isinstance(module, nn.Conv2d):
                self.begin(module.weight)

    @staticmethod
    def begin(weight: torch.Tensor) -> None:
        """First weights of a convolution (He et al. 2015, arXiv:1502.01852)."""
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))        # -> (n, c) -> (n, n_out)


def dense_head(c_in: int, hidden: Sequence[int], dropout: Sequence[float], n_out: int) -> nn.Module:
    """Dense layers (n, c_in) -> (n, n_out), each hidden one with ReLU and its share of dropout."""
    layers = []
    for width, p in zip(hidden, dropout):
        layers += [nn.Linear(c_in, width), nn.ReLU(), Dropout(p)]
        c_in = width
    return nn.Sequential(*layers, nn.Linear(c_in, n_out))


class Compact(nn.Module):
    """Few filters at a third of the resolution, early max-pooling, global pooling, small head.

    The first layer takes 7 x 7 pixels at stride 3: shape noise passes the signal at ell = 1000,
    five pixels, so that full resolution costs time and gains nothing.

    widths, hidden: channels of the convolutions, every other of which halves the frame; of the head
    """

    def __init__(self, frame, n_out, *, widths, hidden):
        super().__init__()
        c = (1, *widths)
        pools = [1 + i % 2 for i in range(1, len(widths))]
        blocks = (conv_block(c[i], c[i + 1], pool=p, lean=True) for i, p in enumerate(pools, 1))
        self.features = nn.Sequential(conv_block(1, c[1], 7, 3, 2, lean=True), *blocks)
        self.head = nn.Sequential(nn.Linear(2 * c[-1], hidden), nn.ReLU(inplace=True),
                                  nn.Linear(hidden, n_out))
        self.stride = 6 * 2**sum(p == 2 for p in pools)

    def forward(self, x):
        x = self.features(x)                                    # (n, 1, H, W) -> (n, c, H/24, W/24)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))    # (n, 2 c) -> (n, n_out)


class SimpleCNN(nn.Module):
    """The published network of the challenge's starting kit (Dai et al. 2026, arXiv:2604.14451).

    Four convolutions, the first 5 x 5 with stride 2, each with batch norm, ReLU and 2 x 2
    max-pooling, then a dense head on the flattened map, which ties the weights to one frame.

    widths, hidden, dropout: channels of the convolutions; of dense_head
    residual, head: how many of the last convolutions get a shortcut; "flatten", or "pool" the frame
    """

    def __init__(self, frame, n_out, *, widths, hidden, dropout, residual, head):
        super().__init__()
        blocks = [conv_block(1, widths[0], 5, 2, 2)]
        for i, (c_in, c_out) in enumerate(zip(widths, widths[1:]), 1):
            blocks.append(residual_conv(c_in, c_out) if i >= len(widths) - residual
                          else conv_block(c_in, c_out, pool=2))
        self.convolutions, self.stride = nn.Sequential(*blocks), 2**(len(widths) + 1)
        rows, columns = (max(-(-n // 2) >> len(widths), 1) for n in frame)
        flat = head == "flatten"
        c_in = widths[-1] * (rows * columns if flat else 1)
        self.head = nn.Sequential(nn.Flatten() if flat else GlobalMean(),
                                  dense_head(c_in, hidden, dropout, n_out))

    def forward(self, x):
        return self.head(self.convolutions(x))      # (n, 1, H, W) -> (n, 128, H/32, W/32)


class ResNet(Pooled):
    """Residual network (He et al. 2016) with CBAM after its stages (Woo et al. 2018).

    A stem of 7 x 7 with stride 2 and 3 x 3 max-pooling, then stages of basic blocks, all but the
    first of which halve the frame. Four stages of two blocks are ResNet-18.

    stem, widths, blocks: channels of the stem and of the stages, blocks a stage
    attention: int, how many stages, counted from the last, end in a CBAM
    hidden, dropout: of dense_head
    """

    def __init__(self, frame, n_out, *, stem, widths, blocks, attention, hidden, dropout):
        layers = [convolution(1, stem, 7, 2), nn.BatchNorm2d(stem), nn.MaxPool2d(3, 2, 1),
                  nn.ReLU(inplace=True)]
        c_in = stem
        for i, c_out in enumerate(widths):
            for k in range(blocks):
                layers.append(basic_block(c_in, c_out, 2 if i > 0 and k == 0 else 1))
                c_in = c_out
            if i >= len(widths) - attention:
                layers.append(CBAM(c_out))
        head = dense_head(c_in, hidden, dropout, n_out)
        super().__init__(nn.Sequential(*layers), head, 2**(len(widths) + 1))


class BigGANEncoder(Pooled):
    """Encoder of the residual blocks of BigGAN's discriminator (Brock et al. 2018).

    A mean over the frame takes the place of the paper's sum, which would grow with the frame.

    input_pool: int, side of the squares of pixels whose means are taken before all else
    widths: channels of the blocks, each of which halves the frame
    attention: int, number of the block that self-attention follows, 0 for none
    """

    def __init__(self, frame, n_out, *, input_pool, widths, attention):
        layers = [nn.AvgPool2d(input_pool)] if input_pool > 1 else []
        c_in = 1
        for i, c_out in enumerate(widths):
            layers.append(down_block(c_in, c_out, first=i == 0))
            if i + 1 == attention:
                layers.append(SelfAttention(c_out))
            c_in = c_out
        layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
        attended = 2**(attention + 1) if attention else 1    # attention pools what the block leaves
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, n_out),
                         input_pool * max(2**len(widths), attended))

    @staticmethod
    def begin(weight: torch.Tensor) -> None:
        """Orthogonal first weights, as BigGAN."""
        nn.init.orthogonal_(weight)


class Inception(Pooled):
    """A small Inception (Szegedy et al. 2016, arXiv:1512.00567) with squeeze and excitation.

    A stem of 5 x 5 with stride 2, then blocks; 2 x 2 max-pooling follows all but the last.

    stem, widths: channels of the stem, of the blocks
    squeeze: int, reduction of squeeze and excitation, 0 for none
    """

    def __init__(self, frame, n_out, *, stem, widths, squeeze):
        layers, c_in = [conv_block(1, stem, 5, 2, 2)], stem
        for i, c_out in enumerate(widths):
            layers.append(InceptionBlock(c_in, c_out, squeeze))
            if i + 1 < len(widths):
                layers.append(nn.MaxPool2d(2))
            c_in = c_out
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, n_out), 2**(len(widths) + 1))


NETWORKS = {"compact": Compact, "simple_cnn": SimpleCNN, "simple_cnn_residual": SimpleCNN,
            "resnet_attention": ResNet, "resnet_reduced": ResNet, "biggan_encoder": BigGANEncoder,
            "inception": Inception}


def build(name: str, frame: tuple[int, int], n_out: int, **options) -> nn.Module:
    """A network by name, its weights from torch's global generator.

    name, options: key of NETWORKS, and what differs from options.MODELS[name]
    frame, n_out: (rows, columns) of the maps in pixels; int, numbers that it returns for a map
    Raises InputError for an unknown name and for a frame that is too small.
    """
    choice("--model", name, tuple(NETWORKS))
    net = NETWORKS[name](frame, n_out, **{**MODELS.get(name, {}), **options})
    least = getattr(net, "stride", 1)
    if min(frame) < least:
        raise InputError(f"--model {name}: expected a frame of at least {least} pixels each way, "
                         f"got {frame[0]} x {frame[1]}; give maps of a larger mask")
    return net


def values_per_norm(net: nn.Module, frame: tuple[int, int]) -> int:
    """Values that one map gives a channel of the batch norm that sees the fewest; 2 without any."""
    seen, training = [], net.training
    hooks = [m.register_forward_hook(lambda m, x, out: seen.append(out.shape[2] * out.shape[3]))
             for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 1, *frame))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return min(seen, default=2)


def count_parameters(net: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
