"""Dense networks on hand-made statistics: a few that differ in their start alone, averaged.
They learn in seconds, on several draws of noise of each training map, all in one module. As sets
differ, schedules of rising length are tried until the validation maps see little gain.
"""
import dataclasses
import math
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import nn

from ..core import seeds
from ..core.checks import InputError, RunError
from ..core.hdf5 import File
from ..core.progress import say, stop
from .apply import first_of
from .architectures import Dropout
from .lanes import one_thread
from .network import LOG_SIGMA_RANGE, Network, Task
from .training import AdamW, learning_rate

BATCH, PEAK, DROPOUT = 256, 2e-3, 0.2
DECAY = 1.0                    # of AdamW; 0.01 overfits: validation loss 0.120, not 0.103
LOOKS = (40, 120, 360)         # at each training map, over all its draws of noise
GAIN = 60.0                    # a relative gain of GAIN / maps, for a longer schedule to be tried
BLOCK = 256                    # maps that are predicted at once
LARGEST = 8.0                  # of a standardised statistic
GLOBAL = threading.Lock()      # of torch's global generator
ENDED = threading.Event()      # trainings end where one of several has ended by an error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Task):
    """All that the weights of dense networks follow from, beside the statistics themselves."""
    members: int                   # networks that are trained side by side
    layers: list[int]              # widths of the hidden layers
    features: str                  # digest of the file of statistics

    def build(self, centre: np.ndarray, *_) -> nn.Module:
        """Networks (m, n, c) -> (m, n, n_out) with fresh weights, from torch's global generator.

        centre: (c,), as of Dense
        """
        widths, parts = (len(centre), *self.layers), []
        for c_in, c_out in zip(widths, self.layers):
            parts += [Side(self.members, c_in, c_out), nn.ReLU(), Dropout(DROPOUT)]
        return nn.Sequential(*parts, Side(self.members, widths[-1], self.loss_function().n_out))


class Side(nn.Module):
    """Several dense layers side by side, each of its own weights: (m, n, c_in) -> (m, n, c_out)."""

    def __init__(self, members: int, c_in: int, c_out: int):
        super().__init__()
        bound = 1.0 / math.sqrt(c_in)                  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(members, c_in, c_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, c_out).uniform_(-bound, bound))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


class Dense(Network):
    """Trained dense networks, the module of Recipe.build(), with all that is needed to use them.

    centre, width: (c,) float32, mean and standard deviation of the statistics that are used
    used: (c_all,) bool, those that vary over the training maps
    history: {"passes", "loss", "validation"} of each schedule
    """

    RECIPE, SCALING = Recipe, ("centre", "width", "used")

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
    """(n, c) -> (n, n_out), the mean over the networks."""
    net.eval()
    # in blocks of one size: products and means over networks round a row by how many there are
    padded, means = nn.functional.pad(x, (0, 0, 0, -len(x) % BLOCK)), []
    with torch.inference_mode():
        for part in padded.split(BLOCK):
            out = net(part.expand(len(net[0].weight), -1, -1))                  # (m, BLOCK, n_out)
            out[..., 2:].clamp_(*LOG_SIGMA_RANGE)
            means.append(out.mean(0))
        return torch.cat(means)[:len(x)]


def fit(statistics: np.ndarray, label: np.ndarray, validation: np.ndarray,
        validation_label: np.ndarray, recipe: Recipe, name: str | None = None,
        start: Dense | None = None) -> Dense:
    """Train the networks by schedules of rising length, and keep those of the best validation loss.

    statistics, label: (draws, n, c_all) float32, (n, 2) float64, of the training maps
    validation, validation_label: (k, c_all), (k, 2), of the maps that choose
    name, start: str, said in a line of each, or None; Dense to begin with, or None
    Returns Dense, the same for any number of threads. Raises RunError when no loss is finite.
    """
    flat = statistics.reshape(-1, statistics.shape[-1])                         # (draws n, c_all)
    moments = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    used = moments[1] > 1e-6
    scaling = *(v[used].astype(np.float32) for v in moments), used
    dense, loss, best = Dense(None, recipe, (), (), scaling), recipe.loss_function(), math.inf
    x, x_valid = dense.standardise(flat), dense.standardise(validation)
    y = recipe.standardised(np.tile(label, (len(statistics), 1)))
    y_valid = recipe.standardised(validation_label)
    with one_thread():                        # sums of several threads depend on their number
        for passes in (-(-looks // len(statistics)) for looks in LOOKS):
            began = time.monotonic()
            net, value = _train(x, y, passes, dense, start)
            valid = loss(_averaged(net, x_valid), y_valid).item()
            dense.history.append({"passes": passes, "loss": value, "validation": valid})
            dense.seconds.append(time.monotonic() - began)
            say(f"{name}: {passes} passes, loss {value:.4f}, validation {valid:.4f}", name is None)
            if valid < best:
                dense.net = net
            if not best - valid > GAIN / len(label) * (valid if recipe.loss == "mse" else 1.0):
                break
            best = valid
    if dense.net is None:
        raise RunError("the validation loss of the dense networks is not finite; look at the maps")
    return dense


def of_jobs(jobs: list, file: File) -> None:
    """Train what is not there yet of several predict.Jobs, side by side: each needs one thread."""
    missing = [job for job in jobs if of_job(job, file, False) is None]    # refused before any work
    try:
        with one_thread(), ThreadPoolExecutor(jobs[0].options.threads) as pool:
            futures = [pool.submit(of_job, job, file) for job in missing]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                ENDED.set()
    finally:
        ENDED.clear()


def of_job(job, file: File, trains: bool = True) -> Dense | None:
    """The networks of a predict.Job on handmade.features_file(): as stored, or trained now."""
    values, own, theta = file.groups["features"], job.options.of_statistics(), job.maps.flat_theta
    task, train, validation = job.task()
    recipe = Recipe(**task, model=job.part, loss=job.options.loss, members=own["networks"],
                    layers=own["layers"], features=file.digest)
    network = job.stored(job.model, Dense.load, recipe)
    if network is None and trains:
        draws = [values["fixed"][train][None]]
        if "fresh" in values:
            draws.append(values["fresh"][:, np.searchsorted(values["rows"], train)])
        name = None if job.folder.quiet else f"training {job.part}{job.name}"
        network = fit(np.concatenate(draws), theta[train], values["fixed"][validation],
                      theta[validation], recipe, name, first_of(job, Dense))
        network.save(job.model)
    return network


def _train(x, y, passes, dense, start):
    """One schedule. Returns the module and the mean training loss of its last pass."""
    recipe, loss = dense.recipe, dense.recipe.loss_function()
    net = first_networks(dense.centre, passes, recipe)
    if start is not None:
        recipe.begin_from(net, start)
    groups = [{"params": [p for name, p in net.named_parameters() if name.endswith(kind)],
               "weight_decay": decay} for kind, decay in (("weight", DECAY), ("bias", 0.0))]
    optimiser = AdamW(groups, lr=PEAK, fused=True)
    rng = seeds.generator(recipe.seed, seeds.DENSE_ORDER, passes)
    batches = max(1, len(x) // BATCH)
    net.train()
    for step in range(passes * batches):
        stop()
        if ENDED.is_set():               # nobody waits for the rest of a schedule, nor at a signal
            raise RunError("another training ended")
        if step % batches == 0:
            order, total = torch.from_numpy(rng.permutation(len(x))).tensor_split(batches), 0.0
        part = order[step % batches]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, passes * batches, PEAK)
        value = sum(loss(one, y[part]) for one in net(x[part].expand(recipe.members, -1, -1)))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        total += value.item() / recipe.members / batches
    return net, total


def first_networks(centre: np.ndarray, passes: int, recipe: Recipe) -> nn.Module:
    """The networks before their first step: first weights of all schedules, own dropped numbers."""
    with GLOBAL, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.number(recipe.seed, seeds.DENSE_WEIGHTS))
        net = recipe.build(centre)
    for k, layer in enumerate(m for m in net if isinstance(m, Dropout)):
        layer.generator.manual_seed(seeds.number(recipe.seed, seeds.DENSE_DROPOUT, passes, k))
    return net
