"""Train one network on CPU threads, with checkpoints, and predict with it.

A batch is cut into `lanes`, each run by one thread on its own copy of the buffers while the weights
are shared, and the gradients are added in lane order: the trained weights depend on the number of
lanes, a setting, and not on the number of threads. It is as fast as threads inside each operation
(batch 32, bfloat16: 4.7-5.8 ms a map in 8 lanes, 4.7-5.2 with inner threads).
"""
import copy
import hashlib
import io
import math
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from .batches import FIXED, FRESH, N_SYMMETRY
from .checks import InputError, RunError, choice
from .networks import BatchRenorm2d, Dropout, build
from .params import PARAMS
from .store import atomic

LOSSES = ("mse", "kl")
WARM_UP = 0.15                 # of the steps
EPOCH_STREAM, INIT_STREAM, DROPOUT_STREAM = 101, 102, 103


def outputs_of(loss):
    """Numbers a network returns under a loss: the means, and the log sigmas where it has them."""
    return len(PARAMS) * (1 if loss == "mse" else 2)


def compute_loss(out, target, loss):
    """Mean loss of a batch.

    out: (n, 2) or (n, 4) float32, means and log sigmas in units of the label's sd; target: (n, 2).
    "mse": mean squared error; "kl": the Gaussian negative log-likelihood up to a constant,
    e^2 / (2 sigma^2) + ln sigma, as published for the direct network.
    """
    if loss == "mse":
        return F.mse_loss(out, target)
    mean, log_sigma = out[:, :2], out[:, 2:].clamp(-7.0, 3.0)
    return (0.5 * (target - mean)**2 * torch.exp(-2.0 * log_sigma) + log_sigma).sum(1).mean()


def pick_precision(asked="auto"):
    """Number type of the convolutions: bfloat16 where the CPU computes in it, float32 elsewhere."""
    if asked != "auto":
        return choice("--precision", asked, ("float32", "bfloat16", "float64"))
    return "bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"


def _cpu_flags():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":")[1].split())
    except OSError:
        pass
    return set()


class Lanes:
    """Copies of a network that share its weights, run side by side by a pool of threads."""

    def __init__(self, net, lanes, threads, precision):
        self.net, self.precision = net, precision
        self.copies = [net] + [copy.deepcopy(net) for _ in range(lanes - 1)]
        for other in self.copies[1:]:
            for mine, theirs in zip(net.parameters(), other.parameters()):
                theirs.data = mine.data
        self.pool = ThreadPoolExecutor(min(threads, lanes), initializer=torch.set_num_threads, initargs=(1,))

    def close(self):
        self.pool.shutdown()

    def seed_dropout(self, seed, step):
        """Dropout masks follow from (seed, step, lane, layer) alone, so that a resumed run repeats them."""
        for lane, net in enumerate(self.copies):
            layers = (module for module in net.modules() if isinstance(module, Dropout))
            for layer, module in enumerate(layers):
                spawn = np.random.SeedSequence(seed, spawn_key=(DROPOUT_STREAM, step, lane, layer))
                module.generator.manual_seed(int(spawn.generate_state(1, np.uint64)[0] >> 1))

    def share_buffers(self):
        """Batch-norm statistics: every copy takes the mean over the copies."""
        for group in zip(*(net.buffers() for net in self.copies)):
            if group[0].is_floating_point():
                mean = torch.stack([b.double() for b in group]).mean(0)
                for b in group:
                    b.copy_(mean)

    def set_momentum(self, momentum):
        """Weight of a new batch in the running statistics of the batch renorms."""
        for net in self.copies:
            for module in net.modules():
                if isinstance(module, BatchRenorm2d):
                    module.momentum = momentum

    def _forward(self, net, x):
        x = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        if self.precision == "float64":
            return net(x.double()).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            return net(x).float()

    def step(self, x, target, loss):
        """Gradients of the batch's mean loss into the network's .grad; returns the loss, a float."""
        parts = [p for p in np.array_split(np.arange(len(x)), len(self.copies)) if len(p)]

        def one(net, part):
            net.zero_grad(set_to_none=True)
            value = compute_loss(self._forward(net, x[part[0]:part[-1] + 1]), target[part], loss)
            (value * (len(part) / len(x))).backward()
            return value.item() * len(part) / len(x)

        values = list(self.pool.map(one, self.copies, parts))
        for group in zip(*(net.parameters() for net in self.copies[:len(parts)])):
            for other in group[1:]:
                group[0].grad += other.grad
        return math.fsum(values)

    def predict(self, x):
        """Outputs (n, n_out) of a batch; each lane evaluates its part."""
        parts = [p for p in np.array_split(np.arange(len(x)), len(self.copies)) if len(p)]

        def one(net, part):
            with torch.inference_mode():
                return self._forward(net, x[part[0]:part[-1] + 1])

        return torch.cat(list(self.pool.map(one, self.copies, parts)))

    def train(self, mode=True):
        for net in self.copies:
            net.train(mode)


class Network:
    """A trained network with all that is needed to use it; saved as one self-describing file."""

    def __init__(self, net, settings):
        self.net, self.settings = net, settings

    def save(self, path):
        save_torch(path, {"settings": self.settings, "weights": self.net.state_dict()})

    @classmethod
    def load(cls, path):
        """Raises InputError for a file that is no network of ours."""
        content = load_torch(path)
        if not isinstance(content, dict) or not {"settings", "weights"} <= set(content):
            raise InputError(f"{path}: expected a network written by this suite; remove it and train again")
        s = content["settings"]
        try:
            net = build(s["model"], tuple(s["frame"]), outputs_of(s["loss"]))
            net = as_computed(net, s["precision"])
            net.load_state_dict(content["weights"])
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"{path}: holds no network of this version ({reason}); remove it and train "
                             "again") from None
        return cls(net, s)

    def predict(self, batches, rows, *, noise=FIXED, threads=1, symmetries=N_SYMMETRY, batch_size=32, progress=None):
        """Means, and sigmas where the loss has them, averaged over the symmetries of the frame.

        batches: Batches; rows: (n,) indices. Returns mean (n, 2) float64 and sd (n, 2) or None, in
        the units of the labels. Each map's noise is the same in all its views.
        """
        precision = self.settings["precision"]
        lanes = Lanes(self.net, self.settings["lanes"], threads, precision)
        lanes.train(False)
        centre, width = np.array(self.settings["label_mean"]), np.array(self.settings["label_sd"])
        mean, log_sigma = np.zeros((len(rows), 2)), np.zeros((len(rows), 2))
        try:
            for start in range(0, len(rows), batch_size):
                part = slice(start, start + batch_size)
                for s in range(symmetries):
                    x = batches.fetch(rows[part], noise=noise, symmetry=np.full(len(rows[part]), s))
                    out = lanes.predict(x).double().numpy()
                    mean[part] += out[:, :2] / symmetries
                    if out.shape[1] > 2:
                        log_sigma[part] += np.clip(out[:, 2:], -7.0, 3.0) / symmetries
                if progress is not None:
                    progress.update(len(rows[part]))
        finally:
            lanes.close()
        if not np.isfinite(mean).all():
            raise RunError("the network predicts NaN; train again with a lower --learning-rate")
        sd = np.exp(log_sigma) * width if self.settings["loss"] != "mse" else None
        return centre + width * mean, sd


def as_computed(net, precision):
    """A network in the number type and memory order it computes in: the same bits trained or loaded."""
    net = net.double() if precision == "float64" else net
    return net.to(memory_format=torch.channels_last)


def save_torch(path, content):
    """torch.save under a seal, whole or not at all.

    torch itself neither notices a flipped bit in what it reads, nor says of a full disk what it is.
    """
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(content, inner)
    data = inner.getvalue()
    torch.save({"sha256": hashlib.sha256(data).hexdigest(), "data": torch.frombuffer(bytearray(data), dtype=torch.uint8)},
               outer)
    with atomic(path) as part:
        part.write_bytes(outer.getbuffer())


def load_torch(path):
    """What save_torch wrote, tensors and plain values only. Raises InputError for a damaged or foreign file."""
    try:
        outer = torch.load(path, map_location="cpu", weights_only=True)
        data = outer["data"].numpy().tobytes()
        if hashlib.sha256(data).hexdigest() != outer["sha256"]:
            raise ValueError("its contents are damaged")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:                     # torch raises half a dozen kinds here
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path}: could not be read as a network ({reason}); remove it and run again") from None


def learning_rate(step, steps, peak, warm_up=WARM_UP):
    """One cycle: linear warm-up, then a cosine to zero (Smith & Topin 2018, arXiv:1708.07120)."""
    begin = max(1.0, warm_up * steps)
    if step < begin:
        return peak * min((step + 1) / begin, 1.0)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - begin) / max(1.0, steps - begin)))


def norm_momentum(step, steps):
    """Momentum of the batch renorms: 0.1, then falling with the learning rate, down to 0.002.

    As the weights slow down, their statistics may average over more batches: at a constant 0.1 their jitter stays
    in every prediction (training loss of the last of 13 epochs 0.176 in place of 0.139, validation 0.147 and 0.142).
    """
    falling = learning_rate(step, steps, 1.0) if step > WARM_UP * steps else 1.0
    return 0.1 * max(falling, 0.02)


def train(batches, label, rows, validation, settings, *, checkpoint=None, threads=1, progress=None):
    """Train one network.

    batches: Batches of noiseless maps; label: (n_map, 2) float64; rows, validation: indices of the
    maps to learn from and to choose the epoch by; settings: dict with model, frame, loss, epochs,
    batch_size, lanes, learning_rate, weight_decay, patience, precision, seed, label_mean, label_sd;
    checkpoint: path, written each epoch and resumed from. Returns (Network with the weights of the
    best epoch, history: list of dict). Raises RunError when the loss becomes NaN.
    """
    s = settings
    spawn = np.random.SeedSequence(s["seed"], spawn_key=(INIT_STREAM,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(spawn.generate_state(1, np.uint64)[0] >> 1))
        net = build(s["model"], tuple(s["frame"]), outputs_of(s["loss"]))
    net = as_computed(net, s["precision"])
    optimiser = torch.optim.AdamW(net.parameters(), lr=s["learning_rate"], weight_decay=s["weight_decay"], fused=True)
    history, best, best_weights, first = [], math.inf, None, 0
    if checkpoint is not None and os.path.exists(checkpoint):
        saved = load_torch(checkpoint)
        if isinstance(saved, dict) and saved.get("settings") == s:
            net.load_state_dict(saved["weights"])
            optimiser.load_state_dict(saved["optimiser"])
            history, best, best_weights = saved["history"], saved["best"], saved["best_weights"]
            first = len(history)
    lanes = Lanes(net, s["lanes"], threads, s["precision"])
    lanes.share_buffers()
    target = torch.from_numpy(((label - s["label_mean"]) / s["label_sd"]).astype(np.float32))
    if s["precision"] == "float64":
        target = target.double()
    n_batch = len(rows) // s["batch_size"] or 1
    steps = s["epochs"] * n_batch
    if progress is not None:
        progress.begin_at(first * n_batch)
    buffer = np.empty((min(s["batch_size"], len(rows)), 1, *s["frame"]), np.float32)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epoch in range(first, s["epochs"]):
            if s["patience"] and epoch - _best_epoch(history) > s["patience"]:
                break
            rng = np.random.default_rng(np.random.SeedSequence(s["seed"], spawn_key=(EPOCH_STREAM, epoch)))
            order, flips = rng.permutation(rows), rng.integers(0, N_SYMMETRY, len(rows))
            lanes.train()
            total = 0.0
            for i in range(n_batch):
                part = slice(i * s["batch_size"], (i + 1) * s["batch_size"])
                chosen = order[part]
                x = batches.fetch(chosen, noise=FRESH, draws=epoch * len(label) + chosen, symmetry=flips[part],
                                  out=buffer[:len(chosen)])
                step = epoch * n_batch + i
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, steps, s["learning_rate"])
                lanes.set_momentum(norm_momentum(step, steps))
                lanes.seed_dropout(s["seed"], step)
                value = lanes.step(x, target[chosen], s["loss"])
                optimiser.step()
                total += value
                if not math.isfinite(value):
                    raise RunError(f"the loss became {value} in epoch {epoch + 1}; lower --learning-rate "
                                   f"(now {s['learning_rate']})")
                if progress is not None:
                    progress.update()
            lanes.share_buffers()
            valid = _validate(lanes, batches, target, validation, s)
            history.append({"epoch": epoch + 1, "loss": total / n_batch, "validation": valid})
            if progress is not None:
                progress.note = f"epoch {epoch + 1}/{s['epochs']} loss {total / n_batch:.4f} validation {valid:.4f}"
            if valid < best:
                best, best_weights = valid, copy.deepcopy(net.state_dict())
            if checkpoint is not None:
                save_torch(checkpoint, {"settings": s, "weights": net.state_dict(), "history": history, "best": best,
                                        "optimiser": optimiser.state_dict(), "best_weights": best_weights})
    finally:
        lanes.close()
        torch.set_num_threads(torch_threads)
    if best_weights is None:
        raise RunError(f"the validation loss was never finite in {len(history)} epochs; lower --learning-rate "
                       f"(now {s['learning_rate']})")
    net.load_state_dict(best_weights)
    return Network(net, s), history


def _best_epoch(history):
    return min(range(len(history)), key=lambda k: history[k]["validation"], default=-1) + 1


def _validate(lanes, batches, target, rows, s):
    lanes.train(False)
    total = 0.0
    for start in range(0, len(rows), s["batch_size"]):
        part = rows[start:start + s["batch_size"]]
        out = lanes.predict(batches.fetch(part, noise=FIXED))
        total += compute_loss(out, target[part], s["loss"]).item() * len(part)
    return total / len(rows)
