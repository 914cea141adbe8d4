"""The losses: what a network is asked for, from its outputs and the true parameters of a batch.

A network returns means, and log standard deviations where the loss has error bars, both in units of
the label's standard deviation over the design. With e the error and s the error bar:

  mse    e^2, the mean over the parameters
  kl     e^2 / (2 s^2) + ln s: the Gaussian negative log-likelihood, as published (Dai et al. 2026)
  score  e^2 / s^2 + ln s^2 + 1000 e^2, e and s in units of the parameters: minus the challenge's
  score

kl and score are sums over the two parameters; all are means over the batch.
"""
import numpy as np
import torch

from ..core.checks import InputError, choice
from ..core.params import PARAMS, SCORE_WEIGHT
from .options import LOSSES

LOG_SIGMA_RANGE = (-7.0, 3.0)           # of the outputs; no gradient beyond


class Loss:
    """One loss with its options; call it for the mean over a batch.

    name: str, key of options.LOSSES
    label_sd: (2,) float64, units of the parameters: standard deviations of the labels
    start: float or None, ln s^2 of both parameters, in their units squared, at which training
    starts.
        -5 (a winning entry's) is s = 0.082, close to the design's own scatter of 0.106 and 0.066,
        an answer that knows nothing yet. None leaves the last layer at its random start, s near
        that scatter too.

    has_sigma: bool, whether it has error bars; n_out: int, numbers that the network has to return.
    Raises InputError for an unknown name, and for a start of a loss without error bars.
    """

    def __init__(self, name: str, label_sd=(1.0, 1.0), *, start: float | None = None):
        self.name = choice("--loss", name, tuple(LOSSES))
        self.has_sigma = name != "mse"
        if start is not None and not self.has_sigma:
            raise InputError(f"--loss-option start: expected a loss with error bars, got {name}")
        self.label_sd, self.start = np.asarray(label_sd, np.float64), start
        self.n_out = len(PARAMS) * (2 if self.has_sigma else 1)

    def __call__(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean over a batch, a scalar tensor.

        out: (n, n_out) float32 or float64, outputs of the network
        target: (n, 2), standardised labels
        """
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

    def begin(self, net: torch.nn.Module) -> None:
        """Set the last layer's bias so that the error bars start at `start`; nothing without one.

        net: module whose last bias has n_out entries in its last axis

        Raises InputError for a start so far out that the error bars would get no gradient.
        """
        if self.start is None:
            return
        low, high = (2.0 * (limit + np.log(self.label_sd)) for limit in LOG_SIGMA_RANGE)
        if not low.max() < self.start < high.min():
            raise InputError(f"--loss-option start: expected a number between {low.max():.3g} and "
                             f"{high.min():.3g} for these labels, got {self.start:g}")
        bias = [p for name, p in net.named_parameters() if name.endswith("bias")][-1]
        with torch.no_grad():
            log_sigma = 0.5 * self.start - np.log(self.label_sd)
            bias[..., 2:] = torch.as_tensor(log_sigma, dtype=bias.dtype)
