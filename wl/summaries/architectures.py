"""The published designs: each in its paper's form, its options as keywords (defaults: models.MODELS)."""
from torch import nn

from .layers import (BasicBlock, CBAM, DownBlock, Dropout, FourierFeatures, InceptionBlock, ResidualConv,
                     SelfAttention, conv_block, convolution)


class GlobalMean(nn.Module):
    """(n, c, H, W) -> (n, c)."""

    def forward(self, x):
        return x.mean((2, 3))


class Pooled(nn.Module):
    """A network that is features, a global mean and a head: its weights serve any frame.

    features: module (n, 1, H, W) -> (n, c, H / stride, W / stride); head: module (n, c) -> (n, n_out).
    """

    def __init__(self, features, head, stride):
        super().__init__()
        self.features, self.pool, self.head, self.stride = features, GlobalMean(), head, stride
        for module in features.modules():
            if isinstance(module, nn.Conv2d):
                self.begin(module.weight)

    @staticmethod
    def begin(weight):
        """Start of a convolution's weights, as the papers have it (He et al. 2015, arXiv:1502.01852)."""
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.head(self.pool(self.features(x)))


def dense_head(c_in, hidden, dropout, n_out):
    """Hidden layers with ReLU and dropout, and the outputs. hidden, dropout: as many of each."""
    layers = []
    for width, p in zip(hidden, dropout):
        layers += [nn.Linear(c_in, width), nn.ReLU(), Dropout(p)]
        c_in = width
    return nn.Sequential(*layers, nn.Linear(c_in, n_out))


class SimpleCNN(nn.Module):
    """The published network of the challenge's starting kit (Dai et al. 2026, arXiv:2604.14451).

    Four convolutions, the first 5 x 5 with stride 2, each with batch norm, ReLU and 2 x 2 max-pooling,
    then a dense head of 512 and 128 on the flattened map: 14.6 M parameters at 1424 x 176. One map in,
    n_out numbers out; the flat head ties the weights to one frame. residual: how many of the last
    convolutions get a shortcut; head: "flatten", or "pool" for the mean over the frame.
    """

    def __init__(self, frame, n_out, *, widths, hidden, dropout, residual, head):
        super().__init__()
        c = (1, *widths)
        blocks = [conv_block(c[0], c[1], 5, 2, 2)]
        for i in range(1, len(widths)):
            shortcut = i >= len(widths) - residual
            blocks.append(ResidualConv(c[i], c[i + 1]) if shortcut else conv_block(c[i], c[i + 1], pool=2))
        self.convolutions, self.stride = nn.Sequential(*blocks), 2**(len(widths) + 1)
        rows, columns = (max(-(-n // 2) >> len(widths), 1) for n in frame)
        flat = head == "flatten"
        self.head = nn.Sequential(nn.Flatten() if flat else GlobalMean(),
                                  dense_head(widths[-1] * (rows * columns if flat else 1), hidden, dropout, n_out))

    def forward(self, x):
        return self.head(self.convolutions(x))      # (n, 1, H, W) -> (n, 128, H/32, W/32) -> (n, n_out)


class ResNet(Pooled):
    """Residual network (He et al. 2016, arXiv:1512.03385) with CBAM after its stages (Woo et al. 2018).

    A stem of 7 x 7 with stride 2 and 3 x 3 max-pooling, stages of `blocks` basic blocks, all but the first of
    which halve the frame; attention: how many stages, counted from the last, end in a CBAM; global mean; a dense
    head, each hidden layer with its dropout. Four stages of two are ResNet-18.
    """

    def __init__(self, frame, n_out, *, stem, widths, blocks, attention, hidden, dropout):
        layers = [convolution(1, stem, 7, 2), nn.BatchNorm2d(stem), nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True)]
        c_in = stem
        for i, c_out in enumerate(widths):
            for k in range(blocks):
                layers.append(BasicBlock(c_in, c_out, 2 if i > 0 and k == 0 else 1))
                c_in = c_out
            if i >= len(widths) - attention:
                layers.append(CBAM(c_out))
        head = dense_head(c_in, hidden, dropout, n_out)
        super().__init__(nn.Sequential(*layers), head, 2**(len(widths) + 1))


class BigGANEncoder(Pooled):
    """Encoder of the residual blocks of BigGAN's discriminator (Brock et al. 2018, arXiv:1809.11096).

    input_pool: mean-pooling of the map before all else; fourier: octaves of sines and cosines of the pixel
    values beside them, 0 for none; attention: number of the block that self-attention follows, 0 for none.
    The features are averaged over the frame where the paper sums them: a sum would grow with the frame.
    """

    def __init__(self, frame, n_out, *, input_pool, widths, attention, fourier):
        layers = [nn.AvgPool2d(input_pool)] if input_pool > 1 else []
        if fourier:
            layers.append(FourierFeatures(fourier))
        c_in = 1 + 2 * fourier
        for i, c_out in enumerate(widths):
            layers.append(DownBlock(c_in, c_out, first=i == 0))
            if i + 1 == attention:
                layers.append(SelfAttention(c_out))
            c_in = c_out
        layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
        attended = 2**(attention + 1) if attention else 1              # attention pools what the block leaves
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, n_out), input_pool * max(2**len(widths), attended))

    @staticmethod
    def begin(weight):
        """Orthogonal, as BigGAN."""
        nn.init.orthogonal_(weight)


class Inception(Pooled):
    """A small Inception (Szegedy et al. 2016, arXiv:1512.00567) with squeeze and excitation (Hu et al. 2018).

    A stem of 5 x 5 with stride 2, then one Inception block per width; max-pooling 2 x 2 follows the stem and
    every block but the last.
    """

    def __init__(self, frame, n_out, *, stem, widths, squeeze):
        layers, c_in = [conv_block(1, stem, 5, 2, 2)], stem
        for i, c_out in enumerate(widths):
            layers.append(InceptionBlock(c_in, c_out, squeeze))
            if i + 1 < len(widths):
                layers.append(nn.MaxPool2d(2))
            c_in = c_out
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, n_out), 2**(len(widths) + 1))
