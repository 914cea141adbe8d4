"""Dense networks on hand-made statistics: a few that differ in their start alone, trained as one, averaged.

They learn in seconds, on several draws of noise of each training map. How long to train is the one thing that
depends on the size of the set: schedules of rising length are tried until the validation maps see no gain.
"""
import math
import time

import numpy as np
import torch
from torch import nn

from ..core.checks import InputError, RunError
from .layers import Dropout
from .losses import LOG_SIGMA_RANGE, of_settings
from .training import learning_rate, load_torch, save_torch

BATCH, PEAK, DECAY, DROPOUT = 256, 2e-3, 1.0, 0.2      # decay: of AdamW; 0.01 overfits: loss 0.120, not 0.103
PASSES = (10, 30, 90)
LEAST_GAIN = 0.005                                     # of the validation loss, for a longer schedule to be tried
LARGEST = 8.0                                          # of a standardised statistic
START_STREAM, ORDER_STREAM = 106, 107


class Side(nn.Module):
    """Several dense layers side by side: (m, n, c_in) -> (m, n, c_out), each with weights of its own."""

    def __init__(self, members, c_in, c_out):
        super().__init__()
        bound = 1.0 / math.sqrt(c_in)                  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(members, c_in, c_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, c_out).uniform_(-bound, bound))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


def build(members, c_in, layers, n_out):
    """Module (m, n, c_in) -> (m, n, n_out) of `members` networks. layers: widths of the hidden ones."""
    parts = []
    for width in layers:
        parts += [Side(members, c_in, width), nn.ReLU(), Dropout(DROPOUT)]
        c_in = width
    return nn.Sequential(*parts, Side(members, c_in, n_out))


class Dense:
    """Trained dense networks with all that is needed to use them.

    centre, width: (c,) float32 of the statistics; used: (c_all,) bool, those that vary over the training maps;
    settings: with loss, label_mean, label_sd, members, layers; history: per schedule its passes and losses;
    seconds: what each schedule took.
    """

    def __init__(self, net, centre, width, used, settings, history=(), seconds=()):
        self.net, self.centre, self.width, self.used = net, centre, width, used
        self.settings, self.history, self.seconds = settings, list(history), list(seconds)

    def save(self, path):
        scaling = {k: torch.from_numpy(getattr(self, k)) for k in ("centre", "width", "used")}
        save_torch(path, {"settings": self.settings, "weights": self.net.state_dict(), "history": self.history,
                          "seconds": self.seconds, **scaling})

    @classmethod
    def load(cls, path):
        """Raises InputError for a file that holds none of ours."""
        content = load_torch(path)
        try:
            s, scaling = content["settings"], [content[k].numpy() for k in ("centre", "width", "used")]
            net = build(s["members"], int(scaling[2].sum()), s["layers"], of_settings(s).n_out)
            net.load_state_dict(content["weights"])
        except (KeyError, TypeError, AttributeError, RuntimeError):
            raise InputError(f"{path}: holds no dense network of this version; remove it and train again") from None
        return cls(net, *scaling, s, content["history"], content.get("seconds", ()))

    def standardise(self, statistics):
        """(n, c_all) -> (n, c) float32 tensor."""
        x = (np.asarray(statistics, np.float32)[:, self.used] - self.centre) / self.width
        return torch.from_numpy(np.clip(x, -LARGEST, LARGEST))

    def predict(self, statistics):
        """Means and sigmas (None where the loss has none), in the labels' units: mean over the networks.

        statistics: (n, c_all). Returns mean (n, 2) and sd (n, 2) float64 or None; of sigmas, the mean logarithm.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)                       # as in fit()
        try:
            out = _averaged(self.net, self.standardise(statistics)).double().numpy()
        finally:
            torch.set_num_threads(threads)
        if not np.isfinite(out).all():
            raise RunError("the dense networks predict NaN; look at the maps")
        s, loss = self.settings, of_settings(self.settings)
        mean = np.array(s["label_mean"]) + np.array(s["label_sd"]) * out[:, :2]
        return mean, loss.sigma(out[:, 2:]) if loss.has_sigma else None


def _averaged(net, x):
    net.eval()
    members = net[0].weight.shape[0]
    with torch.inference_mode():
        out = torch.cat([net(part.expand(members, -1, -1)) for part in x.split(4096)], 1)
        out[..., 2:].clamp_(*LOG_SIGMA_RANGE)
        return out.mean(0)


def fit(statistics, label, validation, validation_label, settings, progress=None):
    """Train the networks with schedules of rising length; the best by the validation loss of their mean is kept.

    statistics: (draws, n, c_all) float32 of the training maps; label: (n, 2) float64; validation: (k, c_all) of
    the maps that choose; validation_label: (k, 2); settings: dict with seed, loss, label_mean, label_sd, members,
    layers; progress: function of one string, or None. The result does not depend on the number of threads.
    Returns Dense. Raises RunError when no schedule ends in a finite loss, InputError as Loss.begin.
    """
    flat = statistics.reshape(-1, statistics.shape[-1])
    centre, width = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    used = width > 1e-6
    dense = Dense(None, centre[used].astype(np.float32), width[used].astype(np.float32), used, settings)
    x, x_valid = dense.standardise(flat), dense.standardise(validation)

    def target_of(value):
        return torch.from_numpy(((value - settings["label_mean"]) / settings["label_sd"]).astype(np.float32))
    y, y_valid = target_of(np.tile(label, (len(statistics), 1))), target_of(validation_label)
    loss, best, threads = of_settings(settings), math.inf, torch.get_num_threads()
    torch.set_num_threads(1)                           # sums of several threads depend on their number
    try:
        for passes in PASSES:
            began = time.monotonic()
            net, value = _train(x, y, passes, loss, settings)
            valid = loss(_averaged(net, x_valid), y_valid).item()
            dense.history.append({"passes": passes, "loss": value, "validation": valid})
            dense.seconds.append(time.monotonic() - began)
            if progress is not None:
                progress(f"statistics: {passes} passes, loss {value:.4f}, validation {valid:.4f}")
            gain, best = best - valid, min(best, valid)
            if gain > 0.0:                             # of NaN, neither
                dense.net = net
            if not gain > LEAST_GAIN * best:
                break
    finally:
        torch.set_num_threads(threads)
    if dense.net is None:
        raise RunError("the validation loss of the dense networks is not finite; look at the maps")
    return dense


def _train(x, y, passes, loss, s):
    """One schedule. Returns the module and its last training loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(s["seed"], spawn_key=(START_STREAM,)).generate_state(1)[0]))
        net = build(s["members"], x.shape[1], s["layers"], loss.n_out)
    for k, module in enumerate(m for m in net if isinstance(m, Dropout)):
        module.generator.manual_seed(s["seed"] % 2**32 + k)
    loss.begin(net)
    weights, biases = ([p for name, p in net.named_parameters() if name.endswith(kind)] for kind in ("weight", "bias"))
    optimiser = torch.optim.AdamW([{"params": weights, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}],
                                  lr=PEAK, fused=True)
    rng = np.random.default_rng(np.random.SeedSequence(s["seed"], spawn_key=(ORDER_STREAM, passes)))
    batches = max(1, len(x) // BATCH)
    net.train()
    for step in range(passes * batches):
        if step % batches == 0:
            order, total = torch.from_numpy(rng.permutation(len(x))).tensor_split(batches), 0.0
        part = order[step % batches]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, passes * batches, PEAK)
        out = net(x[part].expand(s["members"], -1, -1))
        value = sum(loss(one, y[part]) for one in out)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        total += value.item() / s["members"] / batches
    return net, total
