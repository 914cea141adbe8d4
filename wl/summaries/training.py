"""Train one network on CPU threads.

    recipe = Recipe(model="compact", loss="mse", epochs=12, ...)
    network = train(batches, label, rows, validation, recipe, checkpoint="checkpoint.pt", threads=2)

The weights follow from the maps and the recipe alone: not from the number of threads (see
network.Lanes), nor from when a run was killed and went on.
"""
import copy
import inspect
import math
import os
import time

import numpy as np
import torch

from ..core import seeds
from ..core.checks import InputError, RunError
from ..core.progress import Progress, saving, stop, stopped
from ..maps.batches import FIXED, N_SYMMETRY, Batches, Frame, rms
from .apply import first_of
from .architectures import values_per_norm
from .lanes import Lanes, one_thread
from .network import NOISES, Network, Recipe, load_torch, of_this_version, save_torch

WARM_UP = 0.15                 # of the steps
SAVE_SECONDS = 60.0            # between the checkpoints of one epoch
MAX_VALIDATION = 400           # maps an epoch: all of a fold of two take a fifth of the training
KEPT = ("step", "total", "history", "seconds", "best", "best_weights")      # in a checkpoint as is


def train(batches: Batches, label: np.ndarray, rows: tuple, recipe: Recipe, *,
          start: Network | None = None, checkpoint: str | os.PathLike | None = None,
          threads: int = 1, progress=None) -> Network:
    """Train one network.

    batches, label: Batches, of noiseless maps; (n_map, 2) float64, the parameters of each
    rows: two (n,) int, the maps to learn from, and those that choose the epoch, in the same noise
    start: Network to begin with where no checkpoint is, or None
    checkpoint, threads: path, written each epoch and minute, and resumed from; int, changes nothing
    progress: with begin_at(step, note), update() and note, or None
    Returns the Network with the weights of the best epoch. Raises RunError when the loss becomes
    NaN or no validation loss is finite, InputError for what no such network can learn from.
    """
    progress, a_batch = progress or Progress(1, "", True), min(recipe.batch_size, len(rows[0]))
    with one_thread(), saving():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.number(recipe.seed, seeds.WEIGHTS))
            net = recipe.build()
        if a_batch // recipe.lanes < 2 and values_per_norm(net, recipe.frame) < 2:
            raise InputError(f"--lanes {recipe.lanes}: expected at least 2 maps a lane for "
                             f"{recipe.model} on a frame of {' x '.join(map(str, recipe.frame))}, "
                             f"whose batch norms have one value otherwise, got {a_batch} a batch; "
                             "give fewer --lanes or a larger --batch-size")
        if start is not None:
            recipe.begin_from(net, start)
        with Lanes(net, recipe, threads) as lanes:
            training = _Training(lanes, batches, label, rows, recipe, checkpoint)
            training.resume()
            progress.begin_at(training.step, f"epoch {len(training.history) + 1}/{recipe.epochs}")
            while not training.ended():
                training.run_epoch(progress)
    if training.best_weights is None:
        raise RunError(f"the validation loss was never finite in {len(training.history)} epochs; "
                       f"lower --learning-rate (now {recipe.learning_rate})")
    net.load_state_dict(training.best_weights)
    return Network(net, recipe, training.history, training.seconds)


def of_job(job, frame: Frame) -> Network:
    """The network of a predict.Job on maps that lie in a frame: its file's, or trained now."""
    maps, options, (task, *chosen) = job.maps, job.options.of_part(job.part), job.task()
    digests, scale = job.folder.digests(maps.files), rms(maps.flat_kappa, maps.n_gal)
    recipe = Recipe(**options.training(), **task, frame=frame.shape, scale=scale, n_gal=maps.n_gal,
                    inputs={name: digests[name] for name in ("kappa", "label", "mask")})
    network = job.stored(job.model, Network.load, recipe)
    if network is not None:
        return network
    source = Batches(maps.flat_kappa, frame, scale=scale, n_gal=maps.n_gal, seed=job.seed)
    progress = Progress(recipe.epochs * recipe.batches_of(len(chosen[0])),
                        f"training {job.part}{job.name}", job.folder.quiet)
    if job.stored(job.checkpoint, load_torch, recipe) is None:
        job.checkpoint.unlink(missing_ok=True)
    network = train(source, maps.flat_theta, chosen, recipe, start=first_of(job, Network),
                    threads=options.threads, checkpoint=job.checkpoint, progress=progress)
    progress.close()
    network.save(job.model)
    job.checkpoint.unlink(missing_ok=True)
    return network


class AdamW(torch.optim.AdamW):
    """torch's, but without its compiler, which these methods load: 1.4 s of every process."""

    add_param_group, load_state_dict, state_dict, zero_grad, step = (
        inspect.unwrap(getattr(torch.optim.AdamW, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad", "step"))
    step = torch.no_grad()(step)


class _Training:
    """A training after any step: all that the rest of it follows from."""

    def __init__(self, lanes, batches, label, rows, recipe, checkpoint):
        self.lanes, self.batches, self.recipe, self.checkpoint = lanes, batches, recipe, checkpoint
        (self.rows, chosen), self.target = rows, recipe.standardised(label)
        some = np.random.default_rng(0).permutation(len(chosen))[:MAX_VALIDATION]
        self.validation = chosen[np.sort(some)]   # a stride can pick the same realisations of all
        if recipe.precision == "float64":
            self.target = self.target.double()
        self.loss, self.n_batch = recipe.loss_function(), recipe.batches_of(len(self.rows))
        self.optimiser = AdamW(lanes.net.parameters(), lr=recipe.learning_rate,
                               weight_decay=recipe.weight_decay, fused=True)
        # steps done, sum of the losses of this epoch's; history and seconds are as Network's
        self.step, self.total, self.history, self.seconds = 0, 0.0, [], []
        self.best, self.best_weights = math.inf, None              # of the validation loss
        self.began = self.saved = time.monotonic()      # of an epoch, as if without interruptions

    def resume(self):
        """Go on from the checkpoint, if one is there. Raises InputError for a damaged file."""
        if self.checkpoint is None or not os.path.exists(self.checkpoint):
            return
        saved = load_torch(self.checkpoint)
        if isinstance(saved, dict) and saved.get("settings") == self.recipe.stored():
            with of_this_version(self.checkpoint, "checkpoint"):
                self.lanes.net.load_state_dict(saved["weights"])
                self.lanes.restore(saved["lanes"])
                self.optimiser.load_state_dict(saved["optimiser"])
                self.began = time.monotonic() - saved["elapsed"]
                vars(self).update({name: saved[name] for name in KEPT})

    def save(self, every: float = 0.0) -> None:
        """Write the checkpoint if the last is `every` seconds old, or at a signal and end by it."""
        now = time.monotonic()
        if self.checkpoint is not None and (stopped() or now - self.saved >= every):
            save_torch(self.checkpoint, {
                **{name: getattr(self, name) for name in KEPT}, "settings": self.recipe.stored(),
                "elapsed": now - self.began, "weights": self.lanes.net.state_dict(),
                "lanes": self.lanes.stored(), "optimiser": self.optimiser.state_dict()})
            self.saved = now
        stop()

    def ended(self):
        """Whether all epochs are done, or `patience` of them have passed since the best."""
        recipe, losses = self.recipe, [h["validation"] for h in self.history]
        best = losses.index(self.best) + 1 if self.best < math.inf else 0
        return len(losses) >= recipe.epochs or 0 < recipe.patience <= len(losses) - best

    def run_epoch(self, progress) -> None:
        """Train to the end of the epoch, which may be begun, and validate. Raises RunError."""
        recipe, epoch, steps = self.recipe, len(self.history), self.recipe.epochs * self.n_batch
        first = self.step - epoch * self.n_batch       # n_batch: only its validation is missing
        if first == 0:
            self.total, self.began = 0.0, time.monotonic()
        rng = seeds.generator(recipe.seed, seeds.EPOCH, epoch)
        order, flips = rng.permutation(self.rows), rng.integers(0, N_SYMMETRY, len(self.rows))
        buffer = np.empty((min(recipe.batch_size, len(order)), 1, *recipe.frame), np.float32)
        self.lanes.copies.train()
        for i in range(first, self.n_batch):
            part = slice(i * recipe.batch_size, (i + 1) * recipe.batch_size)
            chosen = order[part]
            x = self.batches.fetch(chosen, noise=NOISES[recipe.noise], out=buffer[:len(chosen)],
                                   draws=epoch * len(self.target) + chosen, symmetry=flips[part])
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.step, steps, recipe.learning_rate)
            self.lanes.begin_step(norm_momentum(self.step, steps), recipe.seed, self.step)
            value = self.lanes.step(x, self.target[chosen], self.loss)
            self.optimiser.step()
            self.step, self.total = self.step + 1, self.total + value
            if not math.isfinite(value):
                raise RunError(f"the loss became {value} in epoch {epoch + 1}; lower "
                               f"--learning-rate (now {recipe.learning_rate})")
            self.save(SAVE_SECONDS)
            progress.update()
        self.lanes.share_buffers()
        loss, validation = self.total / self.n_batch, self.validate()
        if validation < self.best:
            self.best, self.best_weights = validation, copy.deepcopy(self.lanes.net.state_dict())
        self.history.append({"epoch": epoch + 1, "loss": loss, "validation": validation})
        self.seconds.append(time.monotonic() - self.began)
        self.save()
        progress.note = (f"epoch {epoch + 1}/{recipe.epochs} loss {loss:.4f} "
                         f"validation {validation:.4f}")

    def validate(self) -> float:
        """Mean loss of the validation maps, with fixed noise and without flips."""
        self.lanes.copies.eval()
        total, size = 0.0, self.recipe.batch_size
        for start in range(0, len(self.validation), size):
            part = self.validation[start:start + size]
            out = self.lanes.predict(self.batches.fetch(part, noise=FIXED))
            total += self.loss(out, self.target[part]).item() * len(part)
            self.save(math.inf)                        # a signal does not wait for the end
        return total / len(self.validation)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """One cycle: linear warm-up to the peak, cosine to zero (Smith & Topin 2018, 1708.07120)."""
    begin = max(1.0, WARM_UP * steps)
    if step < begin:
        return peak * min((step + 1) / begin, 1.0)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - begin) / max(1.0, steps - begin)))


def norm_momentum(step: int, steps: int) -> float:
    """Momentum of the batch renorms: 0.1, then falling with the learning rate, down to 0.002.

    At a constant 0.1 the jitter of their statistics stays in every prediction (training loss of the
    last of 13 epochs 0.176 in place of 0.139, validation 0.147 and 0.142).
    """
    return 0.1 * max(learning_rate(step, steps, 1.0) if step > WARM_UP * steps else 1.0, 0.02)
