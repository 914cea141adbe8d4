"""What networks are built of: convolution blocks, norms, attention, dropout; and their losses.

Nothing here draws from torch's global generator in training, and every nonlinearity is a module.
"""

import numpy as np
import torch
from torch import nn

from ..core.checks import choice
from ..core.params import PARAMS, SCORE_WEIGHT
from .options import LOSSES

LOG_SIGMA_RANGE = (-7.0, 3.0)           # of the outputs; no gradient beyond


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

    As in BigGAN: queries and keys of c/8 channels, values of c/2, keys and values after 2 x 2
    max-pooling; gamma starts at 0.
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


class Loss:
    """What a network is asked for: the mean over a batch of one loss.

    A network returns means, and log standard deviations where the loss has error bars, both in
    units of the label's standard deviation over the design. With e the error and s the error bar:

      mse    e^2, the mean over the parameters
      kl     e^2 / (2 s^2) + ln s, summed: the Gaussian negative log-likelihood (arXiv:2604.14451)
      score  e^2 / s^2 + ln s^2 + 1000 e^2, summed, in units of the parameters: minus the score

    name, label_sd: of options.LOSSES; (2,) float64, standard deviations of the labels
    Has has_sigma, whether there are error bars; n_out, how many numbers the network has to return.
    Raises InputError for an unknown name.
    """

    def __init__(self, name: str, label_sd=(1.0, 1.0)):
        self.name, self.has_sigma = choice("--loss", name, LOSSES), name != "mse"
        self.label_sd = np.asarray(label_sd, np.float64)
        self.n_out = len(PARAMS) * (2 if self.has_sigma else 1)

    def __call__(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A scalar tensor from outputs (n, n_out) and standardised labels (n, 2)."""
        square = (target - out[:, :2])**2
        if not self.has_sigma:
            return square.mean()
        log_sigma = out[:, 2:].clamp(*LOG_SIGMA_RANGE)
        pull = square * torch.exp(-2.0 * log_sigma)
        if self.name == "kl":
            return (0.5 * pull + log_sigma).sum(1).mean()
        log_sd = torch.as_tensor(np.log(self.label_sd), dtype=out.dtype)
        variance = torch.as_tensor(self.label_sd**2, dtype=out.dtype)
        terms = 2.0 * (log_sigma + log_sd) + pull + SCORE_WEIGHT * variance * square
        return terms.sum(1).mean()

    def sigma(self, log_sigma: np.ndarray) -> np.ndarray:
        """Error bars (n, 2) float64 in the units of the labels from outputs (n, 2) float64."""
        return np.exp(log_sigma) * self.label_sd
