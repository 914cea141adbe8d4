"""Dense networks on hand-made statistics: a few that differ in their start alone, averaged.

They learn in seconds, on several draws of noise of each training map, all in one module. How long
to train is the one thing that depends on the size of the set: schedules of rising length are tried
until the validation maps see no gain.
"""
import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ..core import seeds
from ..core.checks import InputError, RunError
from .lanes import one_thread
from .layers import LOG_SIGMA_RANGE, Dropout
from .network import Task, load_torch, of_this_version, save_torch
from .training import AdamW, learning_rate

BATCH, PEAK, DROPOUT = 256, 2e-3, 0.2
DECAY = 1.0                    # of AdamW; 0.01 overfits: validation loss 0.120, not 0.103
PASSES = (10, 30, 90)
LEAST_GAIN = 0.005             # of the validation loss, for a longer schedule to be tried
BLOCK = 256                    # maps that are predicted at once
LARGEST = 8.0                  # of a standardised statistic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Task):
    """All that the weights of dense networks follow from, beside the statistics themselves."""

    members: int                   # networks that are trained side by side
    layers: list[int]              # widths of the hidden layers
    features: str                  # digest of the file of statistics


class Side(nn.Module):
    """Several dense layers side by side, each of its own weights: (m, n, c_in) -> (m, n, c_out)."""

    def __init__(self, members: int, c_in: int, c_out: int):
        super().__init__()
        bound = 1.0 / math.sqrt(c_in)                  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(members, c_in, c_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, c_out).uniform_(-bound, bound))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


def build(members: int, c_in: int, layers: Sequence[int], n_out: int) -> nn.Module:
    """m dense networks, (m, n, c_in) -> (m, n, n_out), from torch's global generator."""
    parts = []
    for width in layers:
        parts += [Side(members, c_in, width), nn.ReLU(), Dropout(DROPOUT)]
        c_in = width
    return nn.Sequential(*parts, Side(members, c_in, n_out))


class Dense:
    """Trained dense networks with all that is needed to use them.

    net, recipe: module of build(), and what it was trained by
    centre, width: (c,) float32, mean and standard deviation of the statistics that are used
    used: (c_all,) bool, those that vary over the training maps
    history, seconds: {"passes", "loss", "validation"} of each schedule, and what each took
    """

    def __init__(self, net: nn.Module | None, centre: np.ndarray, width: np.ndarray,
                 used: np.ndarray, recipe: Recipe, history=(), seconds=()):
        self.net, self.centre, self.width, self.used = net, centre, width, used
        self.recipe, self.history, self.seconds = recipe, [*history], [*seconds]

    def save(self, path: str | os.PathLike) -> None:
        """Write the networks to a file, whole or not at all."""
        scaling = {k: torch.from_numpy(getattr(self, k)) for k in ("centre", "width", "used")}
        save_torch(path, {"settings": self.recipe.stored(), "weights": self.net.state_dict(),
                          "history": self.history, "seconds": self.seconds, **scaling})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Dense":
        """The networks of a file. Raises InputError for a file that holds none of ours."""
        content = load_torch(path)
        with of_this_version(path, "dense network"):
            recipe = Recipe.from_stored(content["settings"])
            scaling = [content[k].numpy() for k in ("centre", "width", "used")]
            net = build(recipe.members, int(scaling[2].sum()), recipe.layers,
                        recipe.loss_function().n_out)
            net.load_state_dict(content["weights"])
            return cls(net, *scaling, recipe, content["history"], content["seconds"])

    def standardise(self, statistics: np.ndarray) -> torch.Tensor:
        """Statistics (n, c_all) as the networks take them, (n, c) float32. Raises InputError."""
        if statistics.shape[1] != len(self.used):
            raise InputError(f"expected {len(self.used)} statistics of a map, which the networks "
                             f"learnt from, this code measures {statistics.shape[1]}; repeat the "
                             "run with --force")
        x = (np.asarray(statistics, np.float32)[:, self.used] - self.centre) / self.width
        return torch.from_numpy(np.clip(x, -LARGEST, LARGEST))

    def predict(self, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """As Task.answers() of statistics (n, c_all) of maps, the mean over the networks."""
        with one_thread():
            out = _averaged(self.net, self.standardise(statistics)).double().numpy()
        return self.recipe.answers(out, "look at the maps")


def _averaged(net, x):
    """(n, c) -> (n, n_out), the mean over the networks.

    In blocks of one size: a product of matrices rounds a map's row by how many there are.
    """
    net.eval()
    padded = nn.functional.pad(x, (0, 0, 0, -len(x) % BLOCK))
    with torch.inference_mode():
        out = [net(part.expand(len(net[0].weight), -1, -1)) for part in padded.split(BLOCK)]
        out = torch.cat(out, 1)[:, :len(x)]            # (m, n, n_out)
        out[..., 2:].clamp_(*LOG_SIGMA_RANGE)
        return out.mean(0)


def fit(statistics: np.ndarray, label: np.ndarray, validation: np.ndarray,
        validation_label: np.ndarray, recipe: Recipe,
        progress: Callable[[str], None] | None = None, start: Dense | None = None) -> Dense:
    """Train the networks by schedules of rising length, and keep those of the best validation loss.

    statistics, label: (draws, n, c_all) float32, of the training maps with several draws of noise;
        (n, 2) float64, their parameters
    validation, validation_label: (k, c_all), (k, 2), of the maps that choose
    progress, start: function of one string, or None; Dense to begin with, or None
    Returns Dense, the same for any number of threads. Raises RunError when no loss is finite.
    """
    flat = statistics.reshape(-1, statistics.shape[-1])                         # (draws n, c_all)
    moments = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    used = moments[1] > 1e-6
    centre, width = (v[used].astype(np.float32) for v in moments)
    dense, loss, best = Dense(None, centre, width, used, recipe), recipe.loss_function(), math.inf
    x, x_valid = dense.standardise(flat), dense.standardise(validation)
    y = recipe.standardised(np.tile(label, (len(statistics), 1)))
    y_valid = recipe.standardised(validation_label)
    with one_thread():                        # sums of several threads depend on their number
        for passes in PASSES:
            began = time.monotonic()
            net, value = _train(x, y, passes, loss, recipe, start)
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
    if dense.net is None:
        raise RunError("the validation loss of the dense networks is not finite; look at the maps")
    return dense


def _train(x, y, passes, loss, recipe, start):
    """One schedule. Returns the module and the mean training loss of its last pass."""
    net = first_networks(x.shape[1], passes, recipe)
    if start is not None:
        recipe.begin_from(net, start)
    groups = [{"params": [p for name, p in net.named_parameters() if name.endswith(kind)],
               "weight_decay": decay} for kind, decay in (("weight", DECAY), ("bias", 0.0))]
    optimiser = AdamW(groups, lr=PEAK, fused=True)
    rng = seeds.generator(recipe.seed, seeds.DENSE_ORDER, passes)
    batches = max(1, len(x) // BATCH)
    net.train()
    for step in range(passes * batches):
        if step % batches == 0:
            order, total = torch.from_numpy(rng.permutation(len(x))).tensor_split(batches), 0.0
        part = order[step % batches]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, passes * batches, PEAK)
        out = net(x[part].expand(recipe.members, -1, -1))                       # (m, batch, n_out)
        value = sum(loss(one, y[part]) for one in out)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        total += value.item() / recipe.members / batches
    return net, total


def first_networks(c_in: int, passes: int, recipe: Recipe) -> nn.Module:
    """The networks before their first step: first weights of all schedules, own dropped numbers."""
    loss = recipe.loss_function()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.number(recipe.seed, seeds.DENSE_WEIGHTS))
        net = build(recipe.members, c_in, recipe.layers, loss.n_out)
    for k, layer in enumerate(m for m in net if isinstance(m, Dropout)):
        layer.generator.manual_seed(seeds.number(recipe.seed, seeds.DENSE_DROPOUT, passes, k))
    return net
