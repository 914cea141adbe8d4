"""Train one network on CPU threads, with checkpoints, and predict with it.

The trained weights follow from the settings alone; the number of threads is not among them (see lanes.py).
"""
import copy
import hashlib
import io
import math
import os
import time

import numpy as np
import torch

from ..core.files import atomic
from ..maps.batches import FIXED, FRESH, N_SYMMETRY
from ..core.checks import InputError, RunError
from .replicas import Lanes, as_computed
from .losses import LOG_SIGMA_RANGE, of_settings
from .networks import build, values_per_norm

WARM_UP = 0.15                 # of the steps
EPOCH_STREAM, INIT_STREAM = 101, 102


class Network:
    """A trained network with all that is needed to use it; saved as one self-describing file.

    history: per epoch its number, training and validation loss; seconds: what each epoch took, validation included.
    """

    def __init__(self, net, settings, history=(), seconds=()):
        self.net, self.settings, self.history, self.seconds = net, settings, list(history), list(seconds)

    def save(self, path):
        save_torch(path, {"settings": self.settings, "weights": self.net.state_dict(), "history": self.history,
                          "seconds": self.seconds})

    @classmethod
    def load(cls, path):
        """Raises InputError for a file that is no network of ours."""
        content = load_torch(path)
        if not isinstance(content, dict) or not {"settings", "weights"} <= set(content):
            raise InputError(f"{path}: expected a network written by this suite; remove it and train again")
        s = content["settings"]
        try:
            net = build(s["model"], tuple(s["frame"]), of_settings(s).n_out, **(s.get("model_options") or {}))
            net = as_computed(net, s["precision"])
            net.load_state_dict(content["weights"])
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"{path}: holds no network of this version ({reason}); remove it and train "
                             "again") from None
        return cls(net, s, content.get("history", ()), content.get("seconds", ()))

    def predict(self, batches, rows, *, noise=FIXED, threads=1, symmetries=N_SYMMETRY, batch_size=32, progress=None):
        """Means, and sigmas where the loss has them, averaged over the symmetries of the frame.

        batches: Batches; rows: (n,) indices; symmetries: 1, 2 or 4 flips. Returns mean (n, 2) float64 and sd (n, 2)
        or None, in the units of the labels. Each map's noise is the same in all its views.
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
                        log_sigma[part] += np.clip(out[:, 2:], *LOG_SIGMA_RANGE) / symmetries
                if progress is not None:
                    progress.update(len(rows[part]))
        finally:
            lanes.close()
        if not (np.isfinite(mean).all() and np.isfinite(log_sigma).all()):
            raise RunError("the network predicts NaN; train again with a lower --learning-rate")
        loss = of_settings(self.settings)
        return centre + width * mean, loss.sigma(log_sigma) if loss.has_sigma else None


def save_torch(path, content):
    """torch.save under a seal, whole or not at all.

    torch itself neither notices a flipped bit in what it reads, nor says of a full disk what it is.
    """
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(content, inner)
    data = inner.getvalue()
    seal = hashlib.sha256(data).hexdigest()
    torch.save({"sha256": seal, "data": torch.frombuffer(bytearray(data), dtype=torch.uint8)}, outer)
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
        raise InputError(f"{path}: could not be read as a network ({reason}); remove it and run again, or give "
                         "--force") from None


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
    batch_size, lanes, learning_rate, weight_decay, patience, precision, seed, label_mean, label_sd, and
    if wanted model_options, loss_options, noise ("fixed": the same draw for a map each time);
    checkpoint: path, written each epoch and resumed from. Returns (Network with the weights of the
    best epoch, history: list of dict). Raises RunError when the loss becomes NaN.
    """
    s, loss = settings, of_settings(settings)
    spawn = np.random.SeedSequence(s["seed"], spawn_key=(INIT_STREAM,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(spawn.generate_state(1, np.uint64)[0] >> 1))
        net = build(s["model"], tuple(s["frame"]), loss.n_out, **(s.get("model_options") or {}))
    least = min(s["batch_size"], len(rows)) // s["lanes"]
    if least < 2 and values_per_norm(net, s["frame"]) < 2:
        raise InputError(f"--lanes {s['lanes']}: expected at least 2 maps a lane for {s['model']} on a frame of "
                         f"{s['frame'][0]} x {s['frame'][1]}, whose batch norms have one value otherwise, got "
                         f"{min(s['batch_size'], len(rows))} a batch; give fewer --lanes or a larger --batch-size")
    loss.begin(net)
    net = as_computed(net, s["precision"])
    optimiser = torch.optim.AdamW(net.parameters(), lr=s["learning_rate"], weight_decay=s["weight_decay"], fused=True)
    history, seconds, best, best_weights, first = [], [], math.inf, None, 0
    if checkpoint is not None and os.path.exists(checkpoint):
        saved = load_torch(checkpoint)
        if isinstance(saved, dict) and saved.get("settings") == s:
            net.load_state_dict(saved["weights"])
            optimiser.load_state_dict(saved["optimiser"])
            history, best, best_weights = saved["history"], saved["best"], saved["best_weights"]
            first, seconds = len(history), saved["seconds"]
    lanes = Lanes(net, s["lanes"], threads, s["precision"])
    lanes.share_buffers()
    target = torch.from_numpy(((label - s["label_mean"]) / s["label_sd"]).astype(np.float32))
    if s["precision"] == "float64":
        target = target.double()
    n_batch = len(rows) // s["batch_size"] or 1
    steps = s["epochs"] * n_batch
    if progress is not None:
        progress.begin_at(first * n_batch)
    noise = FIXED if s.get("noise") == "fixed" else FRESH
    buffer = np.empty((min(s["batch_size"], len(rows)), 1, *s["frame"]), np.float32)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epoch in range(first, s["epochs"]):
            if s["patience"] and epoch - _best_epoch(history) >= s["patience"]:
                break
            rng = np.random.default_rng(np.random.SeedSequence(s["seed"], spawn_key=(EPOCH_STREAM, epoch)))
            order, flips = rng.permutation(rows), rng.integers(0, N_SYMMETRY, len(rows))
            lanes.train()
            total, began = 0.0, time.monotonic()
            for i in range(n_batch):
                part = slice(i * s["batch_size"], (i + 1) * s["batch_size"])
                chosen = order[part]
                x = batches.fetch(chosen, noise=noise, symmetry=flips[part],
                                  draws=epoch * len(label) + chosen, out=buffer[:len(chosen)])
                step = epoch * n_batch + i
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, steps, s["learning_rate"])
                lanes.set_momentum(norm_momentum(step, steps))
                lanes.seed_dropout(s["seed"], step)
                value = lanes.step(x, target[chosen], loss)
                optimiser.step()
                total += value
                if not math.isfinite(value):
                    raise RunError(f"the loss became {value} in epoch {epoch + 1}; lower --learning-rate "
                                   f"(now {s['learning_rate']})")
                if progress is not None:
                    progress.update()
            lanes.share_buffers()
            valid = _validate(lanes, batches, target, validation, s, loss)
            if valid < best:
                best, best_weights = valid, copy.deepcopy(net.state_dict())
            history.append({"epoch": epoch + 1, "loss": total / n_batch, "validation": valid})
            seconds.append(time.monotonic() - began)
            if progress is not None:
                progress.note = f"epoch {epoch + 1}/{s['epochs']} loss {total / n_batch:.4f} validation {valid:.4f}"
            if checkpoint is not None:
                save_torch(checkpoint, {"settings": s, "weights": net.state_dict(), "optimiser": optimiser.state_dict(),
                                        "history": history, "seconds": seconds, "best": best,
                                        "best_weights": best_weights})
    finally:
        lanes.close()
        torch.set_num_threads(torch_threads)
    if best_weights is None:
        raise RunError(f"the validation loss was never finite in {len(history)} epochs; lower --learning-rate "
                       f"(now {s['learning_rate']})")
    net.load_state_dict(best_weights)
    return Network(net, s, history, seconds), history


def _best_epoch(history):
    finite = [k for k, h in enumerate(history) if math.isfinite(h["validation"])]
    return min(finite, key=lambda k: history[k]["validation"], default=-1) + 1


def _validate(lanes, batches, target, rows, s, loss):
    lanes.train(False)
    total = 0.0
    for start in range(0, len(rows), s["batch_size"]):
        part = rows[start:start + s["batch_size"]]
        out = lanes.predict(batches.fetch(part, noise=FIXED))
        total += loss(out, target[part]).item() * len(part)
    return total / len(rows)
