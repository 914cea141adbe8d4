"""The architectures: plain modules from a batch (n, 1, rows, columns) to (n, n_out); no I/O here.

    net = build("compact", frame=(1840, 104), n_out=2)
"""
import torch
from torch import nn

from .checks import InputError, choice


class Dropout(nn.Module):
    """Dropout from a generator of its own: the global one would tie the result to the thread count."""

    def __init__(self, p):
        super().__init__()
        self.p, self.generator = p, torch.Generator()

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self.generator)
        return x * keep / (1.0 - self.p)


def conv_block(c_in, c_out, kernel=3, stride=1, pool=1):
    """Convolution, batch norm, max-pooling, ReLU: pooling before ReLU gives the same values cheaper."""
    layers = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)]
    if pool > 1:
        layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch norm whose training step normalises by the running statistics (Ioffe 2017, arXiv:1702.03275).

    A batch's own statistics carry the amplitude of its maps, which is what S_8 is: plain batch norm in a lane
    of 8 maps blurs it in training, and its evaluation lags behind (validation losses of 0.2 and 2.4 in turn at
    the peak learning rate). Gradients still flow through the batch's statistics. The running statistics include
    the batch (the paper takes those before it), so that a training step gives exactly what evaluation gives. The
    correction comes in over steps 60 to 180, when the running statistics mean something.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y, mean, inverse_sd = torch.native_batch_norm(x, None, None, self.running_mean, self.running_var, True,
                                                      self.momentum, self.eps)
        self.num_batches_tracked += 1
        share = min(max((int(self.num_batches_tracked) - 60) / 120.0, 0.0), 1.0)
        with torch.no_grad():
            running = (self.running_var + self.eps).rsqrt()
            ratio = (running / inverse_sd).clamp(1.0 / (1.0 + 2.0 * share), 1.0 + 2.0 * share)
            shift = ((mean - self.running_mean) * running).clamp(-5.0 * share, 5.0 * share)
        scale, offset = self.weight * ratio, self.weight * shift + self.bias
        return torch.addcmul(offset.to(y.dtype)[:, None, None], y, scale.to(y.dtype)[:, None, None])


def lean_block(c_in, c_out, kernel=3, stride=1, pool=1):
    """Convolution, max-pooling, batch renorm, ReLU: the norm sees a quarter of the numbers."""
    layers = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)]
    if pool > 1:
        layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers, BatchRenorm2d(c_out), nn.ReLU(inplace=True))


class SimpleCNN(nn.Module):
    """The published network of the challenge's starting kit (Dai et al. 2026, arXiv:2604.14451).

    Four convolutions, the first 5 x 5 with stride 2, each with batch norm, ReLU and 2 x 2 max-pooling,
    then a dense head of 512 and 128 on the flattened map: 14.6 M parameters at 1424 x 176. One map in,
    n_out numbers out; the flat head ties the weights to one frame.
    """

    def __init__(self, frame, n_out, widths=(16, 32, 64, 128), dropout=(0.2, 0.1)):
        super().__init__()
        c = (1, *widths)
        self.convolutions = nn.Sequential(conv_block(c[0], c[1], 5, 2, 2),
                                          *(conv_block(c[i], c[i + 1], pool=2) for i in range(1, 4)))
        rows, columns = (-(-n // 2) // 16 for n in frame)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * rows * columns, 512), nn.ReLU(),
                                  Dropout(dropout[0]), nn.Linear(512, 128), nn.ReLU(),
                                  Dropout(dropout[1]), nn.Linear(128, n_out))

    def forward(self, x):
        return self.head(self.convolutions(x))      # (n, 1, H, W) -> (n, 128, H/32, W/32) -> (n, n_out)


class Compact(nn.Module):
    """Few filters at a third of the resolution, early max-pooling, global mean and maximum, small head.

    The first layer takes 7 x 7 pixels at stride 3: shape noise passes the signal at ell = 1000, five
    pixels, so that full resolution costs time and gains nothing. Global pooling makes the answer an
    average over the survey of a local function, and the weights independent of the frame.
    """

    def __init__(self, frame, n_out, widths=(32, 48, 64, 96), hidden=128):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.features = nn.Sequential(lean_block(1, c1, 7, 3, 2), lean_block(c1, c2, pool=2),
                                      lean_block(c2, c3), lean_block(c3, c4, pool=2))
        self.head = nn.Sequential(nn.Linear(2 * c4, hidden), nn.ReLU(inplace=True),
                                  nn.Linear(hidden, n_out))

    def forward(self, x):
        x = self.features(x)                                    # (n, 1, H, W) -> (n, c4, H/24, W/24)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


SMALLEST = {"compact": 24, "simple_cnn": 32}
NETWORKS = {"compact": Compact, "simple_cnn": SimpleCNN}


def build(name, frame, n_out, **options):
    """A network by name. frame: (rows, columns); n_out: numbers it returns. Raises InputError."""
    choice("--model", name, tuple(NETWORKS))
    if min(frame) < SMALLEST.get(name, 1):
        raise InputError(f"--model {name}: expected a frame of at least {SMALLEST[name]} pixels each way, got "
                         f"{frame[0]} x {frame[1]}; give maps of a larger mask")
    return NETWORKS[name](frame, n_out, **options)


def count_parameters(net):
    """Number of trained parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
