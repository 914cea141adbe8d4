"""The networks on maps by name, each in its paper's form: plain modules without any I/O.

    net = build("resnet_reduced", frame=(1840, 104), n_out=4, attention=0, widths=(24, 48))

Each maps a batch (n, 1, rows, columns) to (n, n_out). A new one is a class below, a line in
NETWORKS, and its options with their defaults in options.MODELS. Its `stride`, if it has one, is the
least frame each way. Nothing here draws from torch's global generator in training.
"""
import copy
import functools
from collections.abc import Sequence

import torch
from torch import nn

from ..core.checks import InputError, choice
from .options import MODELS


class Dropout(nn.Module):
    """Dropout of a share p, from a generator of its own: the global one knows the thread count."""

    def __init__(self, p: float):
        super().__init__()
        self.p, self.generator = p, torch.Generator()

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self.generator)
        return x * keep / (1.0 - self.p)


def convolution(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Convolution that keeps the frame but for its stride; no bias, a norm follows."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


def conv_block(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, pool: int = 1,
               lean: bool = False) -> nn.Module:
    """Convolution, batch norm, max-pooling, ReLU; pooling first gives the same values cheaper.

    lean: batch renorm after the pooling, which sees a quarter of the numbers
    """
    norm = [BatchRenorm2d(c_out) if lean else nn.BatchNorm2d(c_out)]
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    return nn.Sequential(convolution(c_in, c_out, kernel, stride),
                         *(pooling + norm if lean else norm + pooling), nn.ReLU(inplace=True))


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch norm that trains with the running statistics (Ioffe 2017, arXiv:1702.03275).

    A batch's own statistics carry the amplitude of its maps, which is what S_8 is: plain batch norm
    in a lane of 8 maps blurs it, and its evaluation lags behind (validation losses of 0.2 and 2.4
    in turn at the peak learning rate). The running ones include the batch (not so in the paper), so
    that training gives what evaluation gives. The correction comes in over steps 60 to 180.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y, mean, inverse_sd = torch.native_batch_norm(
            x, None, None, self.running_mean, self.running_var, True, self.momentum, self.eps)
        self.num_batches_tracked += 1
        share = min(max((int(self.num_batches_tracked) - 60) / 120.0, 0.0), 1.0)
        with torch.no_grad():
            running = (self.running_var + self.eps).rsqrt()                         # (c,)
            ratio = (running / inverse_sd).clamp(1.0 / (1.0 + 2.0 * share), 1.0 + 2.0 * share)
            shift = ((mean - self.running_mean) * running).clamp(-5.0 * share, 5.0 * share)
        scale, offset = self.weight * ratio, self.weight * shift + self.bias
        scale, offset = (v.to(y.dtype)[:, None, None] for v in (scale, offset))    # (c, 1, 1)
        return torch.addcmul(offset, y, scale)


class Residual(nn.Module):
    """end(main(x) + shortcut(x)), of three modules."""

    def __init__(self, main: nn.Module, shortcut: nn.Module, end: nn.Module):
        super().__init__()
        self.main, self.shortcut, self.end = main, shortcut, end

    def forward(self, x):
        return self.end(self.main(x) + self.shortcut(x))


def residual_conv(c_in: int, c_out: int) -> nn.Module:
    """conv_block with a shortcut: a projection by 1 x 1 pixels (He et al. 2016, option B)."""
    return Residual(nn.Sequential(convolution(c_in, c_out), nn.BatchNorm2d(c_out)),
                    nn.Sequential(convolution(c_in, c_out, 1), nn.BatchNorm2d(c_out)),
                    nn.Sequential(nn.MaxPool2d(2), nn.ReLU(inplace=True)))


def basic_block(c_in: int, c_out: int, stride: int = 1) -> nn.Module:
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 5, left)."""
    main = nn.Sequential(conv_block(c_in, c_out, stride=stride), convolution(c_out, c_out),
                         nn.BatchNorm2d(c_out))
    shortcut = () if stride == 1 and c_in == c_out else (convolution(c_in, c_out, 1, stride),
                                                         nn.BatchNorm2d(c_out))
    return Residual(main, nn.Sequential(*shortcut), nn.ReLU(inplace=True))


def down_block(c_in: int, c_out: int, first: bool = False) -> nn.Module:
    """Residual block of BigGAN's discriminator (Brock et al. 2018, figure 15), half the size.

    Main: norm, ReLU (not in the first block), 3 x 3, norm, ReLU, 3 x 3, mean-pooling; shortcut:
    mean-pooling, 1 x 1 (as in the other order, a quarter of the work). Batch norm takes the place
    of spectral norm, which a regression of an amplitude has no use for.
    """
    before = [] if first else [nn.BatchNorm2d(c_in), nn.ReLU()]
    main = nn.Sequential(*before, convolution(c_in, c_out), nn.BatchNorm2d(c_out),
                         nn.ReLU(inplace=True), convolution(c_out, c_out), nn.AvgPool2d(2))
    return Residual(main, nn.Sequential(nn.AvgPool2d(2), convolution(c_in, c_out, 1)),
                    nn.Identity())


class CBAM(nn.Module):
    """Block attention: which channels, then where (Woo et al. 2018, arXiv:1807.06521).

    Channels: sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)), W0 reduces them; places: sigmoid of a 7 x
    7 convolution of the mean and maximum over the channels.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        middle = max(channels // reduction, 1)
        self.channel = nn.Sequential(nn.Linear(channels, middle, bias=False), nn.ReLU(inplace=True),
                                     nn.Linear(middle, channels, bias=False))
        self.place = convolution(2, 1, 7)

    def forward(self, x):
        gate = torch.sigmoid(self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3))))  # (n, c)
        x = x * gate[:, :, None, None].to(x.dtype)                              # (n, c, H, W)
        where = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.place(where)).to(x.dtype)         # by (n, 1, H, W)


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole map holds (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        middle = max(channels // reduction, 1)
        self.gate = nn.Sequential(nn.Linear(channels, middle), nn.ReLU(inplace=True),
                                  nn.Linear(middle, channels), nn.Sigmoid())

    def forward(self, x):
        gate = self.gate(x.mean((2, 3)))                        # (n, c, H, W) -> (n, c)
        return x * gate[:, :, None, None].to(x.dtype)           # by (n, c, 1, 1)


class SelfAttention(nn.Module):
    """Every place looks at all others, x + gamma o (Zhang et al. 2019, arXiv:1805.08318).

    As in BigGAN: queries, keys of c/8 channels, values of c/2, the last two after max-pooling.
    """

    def __init__(self, channels: int):
        super().__init__()
        few, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query, self.key = convolution(channels, few, 1), convolution(channels, few, 1)
        self.value, self.out = convolution(channels, half, 1), convolution(half, channels, 1)
        self.pool, self.gamma = nn.MaxPool2d(2), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        query = self.query(x).flatten(2)                        # (n, c/8, H W)
        key = self.pool(self.key(x)).flatten(2)                 # (n, c/8, H W / 4)
        value = self.pool(self.value(x)).flatten(2)             # (n, c/2, H W / 4)
        weight = torch.softmax(query.transpose(1, 2) @ key, 2)  # (n, H W, H W / 4)
        seen = value @ weight.transpose(1, 2).to(value.dtype)   # (n, c/2, H W)
        return x + self.gamma.to(x.dtype) * self.out(seen.unflatten(2, x.shape[2:]))


class InceptionBlock(nn.Module):
    """Four views side by side: 1 x 1; 3 x 3; two 3 x 3; 3 x 3 max-pooling (Szegedy et al. 2016).

    Each makes a quarter of the c_out channels, the three that look around after a 1 x 1 that
    reduces to as many; then squeeze and excitation with the reduction `squeeze`, 0 for none.
    """

    def __init__(self, c_in: int, c_out: int, squeeze: int):
        super().__init__()
        q = c_out // 4
        self.views = nn.ModuleList([
            conv_block(c_in, c_out - 3 * q, 1),
            nn.Sequential(conv_block(c_in, q, 1), conv_block(q, q)),
            nn.Sequential(conv_block(c_in, q, 1), conv_block(q, q), conv_block(q, q)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_block(c_in, q, 1))])
        self.end = SqueezeExcitation(c_out, squeeze) if squeeze else nn.Identity()

    def forward(self, x):
        return self.end(torch.cat([view(x) for view in self.views], 1))   # 4 x (n, c_out/4, H, W)


class Pooled(nn.Module):
    """A network that is features, a global mean and a head: its weights serve any frame.

    features, head: modules (n, 1, H, W) -> (n, c, H / stride, W / stride), (n, c) -> (n, n_out)
    begin: function that draws the first weights of a convolution, as He et al. (2015) if not given
    """

    def __init__(self, features: nn.Module, head: nn.Module, stride: int, begin=functools.partial(
            nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")):
        super().__init__()
        self.features, self.head, self.stride = features, head, stride
        for module in features.modules():
            if isinstance(module, nn.Conv2d):
                begin(module.weight)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))        # -> (n, c) -> (n, n_out)


def dense_head(c_in: int, hidden: Sequence[int], dropout: Sequence[float], n_out: int) -> nn.Module:
    """Dense layers (n, c_in) -> (n, n_out), each hidden one with ReLU and its share of dropout."""
    widths, layers = (c_in, *hidden), []
    for before, width, p in zip(widths, hidden, dropout):
        layers += [nn.Linear(before, width), nn.ReLU(), Dropout(p)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))


class Compact(nn.Module):
    """Few filters at a third of the resolution, early max-pooling, global pooling, small head.

    The first layer takes 7 x 7 pixels at stride 3: shape noise passes the signal at ell = 1000,
    five pixels, so that full resolution costs time and gains nothing.

    widths, hidden: channels of the convolutions, every other of which halves the frame; of the head
    """

    def __init__(self, frame, n_out, *, widths, hidden):
        super().__init__()
        pools = [1 + i % 2 for i in range(1, len(widths))]
        blocks = (conv_block(*c, pool=p, lean=True) for *c, p in zip(widths, widths[1:], pools))
        self.features = nn.Sequential(conv_block(1, widths[0], 7, 3, 2, lean=True), *blocks)
        self.head = nn.Sequential(nn.Linear(2 * widths[-1], hidden), nn.ReLU(inplace=True),
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
        self.flat = head == "flatten"
        c_in = widths[-1] * (rows * columns if self.flat else 1)
        self.head = nn.Sequential(nn.Flatten(), dense_head(c_in, hidden, dropout, n_out))

    def forward(self, x):
        x = self.convolutions(x)                    # (n, 1, H, W) -> (n, 128, H/32, W/32)
        return self.head(x if self.flat else x.mean((2, 3)))


class ResNet(Pooled):
    """Residual network (He et al. 2016) with CBAM after its stages (Woo et al. 2018).

    A stem of 7 x 7 with stride 2 and 3 x 3 max-pooling, then stages of basic blocks, all but the
    first of which halve the frame. Four stages of two blocks are ResNet-18.

    stem, widths, blocks: channels of the stem and of the stages, blocks a stage
    attention: int, how many of the last stages end in a CBAM; hidden, dropout: of dense_head
    """

    def __init__(self, frame, n_out, *, stem, widths, blocks, attention, hidden, dropout):
        layers = [convolution(1, stem, 7, 2), nn.BatchNorm2d(stem), nn.MaxPool2d(3, 2, 1),
                  nn.ReLU(inplace=True)]
        for i, (c_in, c_out) in enumerate(zip((stem, *widths), widths)):
            layers.append(basic_block(c_in, c_out, 2 if i > 0 else 1))
            layers += [basic_block(c_out, c_out) for _ in range(blocks - 1)]
            if i >= len(widths) - attention:
                layers.append(CBAM(c_out))
        head = dense_head(widths[-1], hidden, dropout, n_out)
        super().__init__(nn.Sequential(*layers), head, 2**(len(widths) + 1))


class BigGANEncoder(Pooled):
    """Encoder of the residual blocks of BigGAN's discriminator (Brock et al. 2018).

    First weights are orthogonal. Where the paper takes a sum over the frame, this takes a mean.

    input_pool: int, side of the squares of pixels whose means are taken before all else
    widths: channels of the blocks, each of which halves the frame
    attention: int, number of the block that self-attention follows, 0 for none
    """

    def __init__(self, frame, n_out, *, input_pool, widths, attention):
        layers = [nn.AvgPool2d(input_pool)] if input_pool > 1 else []
        for i, (c_in, c_out) in enumerate(zip((1, *widths), widths), 1):
            layers.append(down_block(c_in, c_out, first=i == 1))
            if i == attention:
                layers.append(SelfAttention(c_out))
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        attended = 2**(attention + 1) if attention else 1    # attention pools what the block leaves
        super().__init__(nn.Sequential(*layers), nn.Linear(widths[-1], n_out),
                         input_pool * max(2**len(widths), attended), nn.init.orthogonal_)


class Inception(Pooled):
    """A small Inception (Szegedy et al. 2016, arXiv:1512.00567) with squeeze and excitation.

    A stem of 5 x 5 with stride 2, then blocks; 2 x 2 max-pooling follows all but the last.

    stem, widths: channels of the stem, of the blocks
    squeeze: int, reduction of squeeze and excitation, 0 for none
    """

    def __init__(self, frame, n_out, *, stem, widths, squeeze):
        layers = [conv_block(1, stem, 5, 2, 2)]
        for c_in, c_out in zip((stem, *widths), widths):
            layers += [InceptionBlock(c_in, c_out, squeeze), nn.MaxPool2d(2)]
        super().__init__(nn.Sequential(*layers[:-1]), nn.Linear(widths[-1], n_out),
                         2**(len(widths) + 1))


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
    seen, net = [], copy.deepcopy(net).eval()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.register_forward_hook(lambda _, x, out: seen.append(out.shape[2] * out.shape[3]))
    with torch.inference_mode():
        net(next(net.parameters()).new_zeros(1, 1, *frame))
    return min(seen, default=2)
