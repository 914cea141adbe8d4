"""The architectures by name: plain modules from a batch (n, 1, rows, columns) to (n, n_out); no I/O here.

    net = build("compact", frame=(1840, 104), n_out=2)
    net = build("resnet_reduced", frame=(1840, 104), n_out=4, attention=0, widths=(24, 48))
"""
import torch
from torch import nn

from .architectures import BigGANEncoder, Inception, ResNet, SimpleCNN
from ..core.checks import InputError, choice
from .layers import lean_block
from .options import MODELS


class Compact(nn.Module):
    """Few filters at a third of the resolution, early max-pooling, global mean and maximum, small head.

    The first layer takes 7 x 7 pixels at stride 3: shape noise passes the signal at ell = 1000, five
    pixels, so that full resolution costs time and gains nothing. Global pooling makes the answer an
    average over the survey of a local function, and the weights independent of the frame.
    """

    def __init__(self, frame, n_out, *, widths, hidden):
        super().__init__()
        c = (1, *widths)
        pools = [1 + i % 2 for i in range(1, len(widths))]
        self.features = nn.Sequential(lean_block(1, c[1], 7, 3, 2),
                                      *(lean_block(c[i], c[i + 1], pool=p) for i, p in enumerate(pools, 1)))
        self.head = nn.Sequential(nn.Linear(2 * c[-1], hidden), nn.ReLU(inplace=True),
                                  nn.Linear(hidden, n_out))
        self.stride = 6 * 2**sum(p == 2 for p in pools)

    def forward(self, x):
        x = self.features(x)                                    # (n, 1, H, W) -> (n, c4, H/24, W/24)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


NETWORKS = {"compact": Compact, "simple_cnn": SimpleCNN, "simple_cnn_residual": SimpleCNN, "resnet_attention": ResNet,
            "resnet_reduced": ResNet, "biggan_encoder": BigGANEncoder, "inception": Inception}


def build(name, frame, n_out, **options):
    """A network by name. frame: (rows, columns); n_out: numbers it returns; options: over models.MODELS[name].

    Raises InputError.
    """
    choice("--model", name, tuple(NETWORKS))
    net = NETWORKS[name](frame, n_out, **{**MODELS.get(name, {}), **options})
    least = getattr(net, "stride", 1)
    if min(frame) < least:
        raise InputError(f"--model {name}: expected a frame of at least {least} pixels each way, got "
                         f"{frame[0]} x {frame[1]}; give maps of a larger mask")
    return net


def values_per_norm(net, frame):
    """Values that one map of a frame (rows, columns) gives a channel of the batch norm that sees the fewest."""
    seen, training = [], net.training
    hooks = [m.register_forward_hook(lambda m, given, out: seen.append(out.shape[2] * out.shape[3]))
             for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 1, *frame))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return min(seen, default=2)


def count_parameters(net):
    """Number of trained parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
