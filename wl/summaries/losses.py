"""The losses: what a network is asked for, from its outputs and the true parameters of a batch.

A network returns means, and log standard deviations where the loss has error bars, both in units of the label's
standard deviation over the design. Losses of error bars are sums over the two parameters, means over the batch:

  mse    e^2, the mean over the parameters too
  kl     e^2 / (2 s^2) + ln s: the Gaussian negative log-likelihood, as published
  score  e^2 / s^2 + ln s^2 + 1000 e^2 with e and s in units of the parameters: minus the challenge's score

start: the natural logarithm of the variance to start at, in squared units of the parameters, for both of them.
The winners' -5 is s = 0.082, close to the design's own scatter of 0.106 and 0.066, which is an answer that
knows nothing yet; in standardised units it would claim a tenth of the final variance before the first step.
none leaves the last layer at its random start, s close to the design's scatter.
"""
import numpy as np
import torch

from ..core.checks import InputError, choice
from .options import LOSSES
from ..core.params import PARAMS, SCORE_WEIGHT

LOG_SIGMA_RANGE = (-7.0, 3.0)           # of the outputs; no gradient beyond


class Loss:
    """One loss with its options; call it for the mean over a batch.

    name: key of models.LOSSES; label_sd: (2,) standard deviations of the labels; options: over
    models.LOSSES[name]. n_out: how many numbers the network has to return.
    """

    def __init__(self, name, label_sd=(1.0, 1.0), **options):
        self.name = choice("--loss", name, tuple(LOSSES))
        self.options = {**LOSSES[name], **options}
        self.label_sd = np.asarray(label_sd, np.float64)
        self.has_sigma = name != "mse"
        self.n_out = len(PARAMS) * (2 if self.has_sigma else 1)

    def __call__(self, out, target):
        """out: (n, n_out) float32 or float64; target: (n, 2), standardised labels. Returns a scalar tensor."""
        square = (target - out[:, :2])**2
        if not self.has_sigma:
            return square.mean()
        log_sigma = out[:, 2:].clamp(*LOG_SIGMA_RANGE)
        pull = square * torch.exp(-2.0 * log_sigma)
        if self.name == "kl":
            return (0.5 * pull + log_sigma).sum(1).mean()
        log_sd = torch.as_tensor(np.log(self.label_sd), dtype=out.dtype)
        variance = torch.as_tensor(self.label_sd**2, dtype=out.dtype)
        return (2.0 * (log_sigma + log_sd) + pull + SCORE_WEIGHT * variance * square).sum(1).mean()

    def sigma(self, log_sigma):
        """Standard deviations (n, 2) float64 in the labels' units from the network's outputs (n, 2) float64."""
        return np.exp(log_sigma) * self.label_sd

    def begin(self, net):
        """Set the last layer's bias so that the log-variances start at `start`; nothing without one.

        Raises InputError for a start so far out that the error bars would get no gradient.
        """
        start = self.options.get("start")
        if start is not None:
            low, high = (2.0 * (limit + np.log(self.label_sd)) for limit in LOG_SIGMA_RANGE)
            if not low.max() < start < high.min():
                raise InputError(f"--loss-option start: expected a number between {low.max():.3g} and {high.min():.3g} "
                                 f"for these labels, got {start:g}")
            bias = [p for name, p in net.named_parameters() if name.endswith("bias")][-1]       # (..., n_out)
            with torch.no_grad():
                bias[..., 2:] = torch.as_tensor(0.5 * start - np.log(self.label_sd), dtype=bias.dtype)


def of_settings(settings):
    """The loss that a training's settings name: loss, loss_options (optional), label_sd."""
    return Loss(settings["loss"], settings["label_sd"], **(settings.get("loss_options") or {}))
