"""Train one network on CPU threads.

    recipe = Recipe(model="compact", loss="mse", epochs=12, ...)
    network = train(batches, label, rows, validation, recipe, checkpoint="checkpoint.pt", threads=2)

The weights follow from the maps and the recipe alone: not from the number of threads (see
replicas.py), nor from when a run was killed and went on.
"""
import copy
import dataclasses
import math
import os
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core import seeds
from ..core.checks import InputError, RunError
from ..maps.batches import FIXED, N_SYMMETRY, Batches
from .architectures import values_per_norm
from .network import NOISES, Network, Recipe, load_torch, of_this_version, save_torch
from .replicas import Lanes, as_computed, one_thread

WARM_UP = 0.15                 # of the steps
SAVE_SECONDS = 60.0            # between the checkpoints of one epoch


class Maps(NamedTuple):
    """What a training learns from.

    batches: Batches, of noiseless maps
    target: (n_map, 2), standardised labels of all maps, in the number type of the network
    rows, validation: (n,) int, indices of the maps to learn from, and to choose the epoch by
    """

    batches: Batches
    target: torch.Tensor
    rows: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass
class State:
    """A training after any step: with maps and recipe, all that the rest of it follows from.

    lanes: Lanes, the network with its copies
    optimiser: torch optimiser of its weights
    step: int, steps done
    total: float, sum of the losses of the steps of this epoch
    began: float, time.monotonic() at which this epoch began, or would have without interruptions
    history: list of {"epoch", "loss", "validation"}, one for each finished epoch
    seconds: list of float, what each took, its validation included
    best, best_weights: least validation loss so far, and the network's state_dict that had it
    """

    lanes: Lanes
    optimiser: torch.optim.Optimizer
    step: int = 0
    total: float = 0.0
    began: float = dataclasses.field(default_factory=time.monotonic)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    best: float = math.inf
    best_weights: dict[str, torch.Tensor] | None = None

    def stored(self) -> dict[str, Any]:
        """The dict that goes to a checkpoint; its tensors are the state's own."""
        return {"step": self.step, "total": self.total, "elapsed": time.monotonic() - self.began,
                "history": self.history, "seconds": self.seconds, "best": self.best,
                "best_weights": self.best_weights, "weights": self.lanes.net.state_dict(),
                "optimiser": self.optimiser.state_dict(), "lanes": self.lanes.stored()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take what stored() gave."""
        self.lanes.net.load_state_dict(saved["weights"])
        self.lanes.restore(saved["lanes"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.began = time.monotonic() - saved["elapsed"]
        for name in ("step", "total", "history", "seconds", "best", "best_weights"):
            setattr(self, name, saved[name])

    def begin_epoch(self) -> None:
        """All copies train; sum and clock start anew."""
        self.total, self.began = 0.0, time.monotonic()

    def end_epoch(self, n_batch: int, validation: float) -> None:
        """Note an epoch of n_batch steps and its validation loss; keep the weights of the best."""
        if validation < self.best:
            self.best, self.best_weights = validation, copy.deepcopy(self.lanes.net.state_dict())
        self.history.append({"epoch": len(self.history) + 1, "loss": self.total / n_batch,
                             "validation": validation})
        self.seconds.append(time.monotonic() - self.began)

    def ended(self, recipe: Recipe) -> bool:
        """Whether all epochs are done, or `patience` of them have passed since the best."""
        done, losses = len(self.history), [h["validation"] for h in self.history]
        best = losses.index(self.best) + 1 if self.best < math.inf else 0
        return done >= recipe.epochs or bool(recipe.patience) and done - best >= recipe.patience


class Checkpoint:
    """The file that a killed training goes on from.

    path: of the file, None for none
    recipe: Recipe; a file of another one is not used
    """

    def __init__(self, path: str | os.PathLike | None, recipe: Recipe):
        self.path, self.recipe, self.last = path, recipe, time.monotonic()

    def resume(self, state: State) -> None:
        """Set a state to the file's, if there is one. Raises InputError for a damaged file."""
        if self.path is not None and os.path.exists(self.path):
            saved = load_torch(self.path)
            if isinstance(saved, dict) and saved.get("settings") == self.recipe.stored():
                with of_this_version(self.path, "checkpoint"):
                    state.restore(saved)

    def save(self, state: State, every: float = 0.0) -> None:
        """Write the state, unless it was written within the last `every` seconds."""
        if self.path is not None and time.monotonic() - self.last >= every:
            save_torch(self.path, {"settings": self.recipe.stored(), **state.stored()})
            self.last = time.monotonic()


def train(batches: Batches, label: np.ndarray, rows: np.ndarray, validation: np.ndarray,
          recipe: Recipe, *, checkpoint: str | os.PathLike | None = None, threads: int = 1,
          progress=None) -> Network:
    """Train one network.

    batches: Batches, of noiseless maps
    label: (n_map, 2) float64, the parameters of each map
    rows: (n,) int, indices of the maps to learn from
    validation: (k,) int, indices of the maps to choose the epoch by, always with the same noise
    recipe: Recipe
    checkpoint: path, written after each epoch and each minute, and resumed from
    threads: int; the result does not depend on it
    progress: with begin_at(step), update() and note, or None

    Returns the Network with the weights of the best epoch. Raises RunError when the loss becomes
    NaN or no validation loss is finite, InputError for what no such network can learn from.
    """
    with one_thread():
        net = first_network(recipe, len(rows))
        target = recipe.standardised(label)
        target = target.double() if recipe.precision == "float64" else target
        maps = Maps(batches, target, rows, validation)
        optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate,
                                      weight_decay=recipe.weight_decay, fused=True)
        with Lanes(net, recipe.lanes, threads, recipe.precision) as lanes:
            state, file = State(lanes, optimiser), Checkpoint(checkpoint, recipe)
            file.resume(state)
            if progress is not None:
                progress.begin_at(state.step)
            while not state.ended(recipe):
                run_epoch(maps, recipe, state, file, progress)
    if state.best_weights is None:
        raise RunError(f"the validation loss was never finite in {len(state.history)} epochs; "
                       f"lower --learning-rate (now {recipe.learning_rate})")
    net.load_state_dict(state.best_weights)
    return Network(net, recipe, state.history, state.seconds)


def first_network(recipe: Recipe, n_map: int) -> torch.nn.Module:
    """The network before its first step. n_map: training maps. Raises InputError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.number(recipe.seed, seeds.WEIGHTS))
        net = recipe.build()
    a_batch = min(recipe.batch_size, n_map)
    if a_batch // recipe.lanes < 2 and values_per_norm(net, recipe.frame) < 2:
        rows, columns = recipe.frame
        raise InputError(f"--lanes {recipe.lanes}: expected at least 2 maps a lane for "
                         f"{recipe.model} on a frame of {rows} x {columns}, whose batch norms have "
                         f"one value otherwise, got {a_batch} a batch; give fewer --lanes or a "
                         "larger --batch-size")
    recipe.loss_function().begin(net)
    return as_computed(net, recipe.precision)


def run_epoch(maps: Maps, recipe: Recipe, state: State, file: Checkpoint, progress) -> None:
    """Train to the end of the epoch, which may be begun, and validate. Raises RunError."""
    n_batch = recipe.batches_of(len(maps.rows))
    epoch = len(state.history)
    first = state.step - epoch * n_batch               # n_batch: only its validation is missing
    if first == 0:
        state.begin_epoch()
    rng = seeds.generator(recipe.seed, seeds.EPOCH, epoch)
    order, flips = rng.permutation(maps.rows), rng.integers(0, N_SYMMETRY, len(maps.rows))
    buffer = np.empty((min(recipe.batch_size, len(maps.rows)), 1, *recipe.frame), np.float32)
    state.lanes.train()
    for i in range(first, n_batch):
        part = slice(i * recipe.batch_size, (i + 1) * recipe.batch_size)
        chosen = order[part]
        x = maps.batches.fetch(chosen, noise=NOISES[recipe.noise], symmetry=flips[part],
                               draws=epoch * len(maps.target) + chosen, out=buffer[:len(chosen)])
        value = run_step(x, maps.target[chosen], recipe, state, recipe.epochs * n_batch)
        if not math.isfinite(value):
            raise RunError(f"the loss became {value} in epoch {epoch + 1}; lower --learning-rate "
                           f"(now {recipe.learning_rate})")
        file.save(state, SAVE_SECONDS)
        if progress is not None:
            progress.update()
    state.lanes.share_buffers()
    state.end_epoch(n_batch, validate(state.lanes, maps, recipe))
    file.save(state)
    if progress is not None:
        last = state.history[-1]
        progress.note = (f"epoch {epoch + 1}/{recipe.epochs} loss {last['loss']:.4f} "
                         f"validation {last['validation']:.4f}")


def run_step(x: np.ndarray, target: torch.Tensor, recipe: Recipe, state: State,
             steps: int) -> float:
    """One step of the optimiser; returns the batch's loss.

    x: (n, 1, rows, columns) float32, the batch
    target: (n, 2), its standardised labels
    recipe, state: of the training
    steps: int, of the whole training
    """
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.step, steps, recipe.learning_rate)
    state.lanes.set_momentum(norm_momentum(state.step, steps))
    state.lanes.seed_dropout(recipe.seed, state.step)
    value = state.lanes.step(x, target, recipe.loss_function())
    state.optimiser.step()
    state.step, state.total = state.step + 1, state.total + value
    return value


def validate(lanes: Lanes, maps: Maps, recipe: Recipe) -> float:
    """Mean loss of the validation maps, with fixed noise and without flips."""
    lanes.train(False)
    loss, total = recipe.loss_function(), 0.0
    for start in range(0, len(maps.validation), recipe.batch_size):
        part = maps.validation[start:start + recipe.batch_size]
        out = lanes.predict(maps.batches.fetch(part, noise=FIXED))
        total += loss(out, maps.target[part]).item() * len(part)
    return total / len(maps.validation)


def learning_rate(step: int, steps: int, peak: float, warm_up: float = WARM_UP) -> float:
    """One cycle: linear warm-up, then a cosine to zero (Smith & Topin 2018, arXiv:1708.07120).

    step: int, from 0
    steps: int, of the whole training
    peak: float, highest rate
    warm_up: float, share of the steps before it
    """
    begin = max(1.0, warm_up * steps)
    if step < begin:
        return peak * min((step + 1) / begin, 1.0)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - begin) / max(1.0, steps - begin)))


def norm_momentum(step: int, steps: int) -> float:
    """Momentum of the batch renorms: 0.1, then falling with the learning rate, down to 0.002.

    As the weights slow down, their statistics may average over more batches: at a constant 0.1
    their jitter stays in every prediction (training loss of the last of 13 epochs 0.176 in place of
    0.139, validation 0.147 and 0.142). step, steps: as in learning_rate.
    """
    falling = learning_rate(step, steps, 1.0) if step > WARM_UP * steps else 1.0
    return 0.1 * max(falling, 0.02)
