"""A network on several threads, with a result that does not depend on how many.

A batch is cut into `lanes`, each run by one thread on its own copy of the buffers while the weights
are shared, and the gradients are added in lane order: the trained weights depend on the number of
lanes, a setting, and not on the number of threads. It is as fast as threads inside each operation
(batch 32, bfloat16: 4.7-5.8 ms a map in 8 lanes, 4.7-5.2 with inner threads).
"""
import contextlib
import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..core import seeds
from .layers import BatchRenorm2d, Dropout
from .losses import Loss


class Lanes:
    """Copies of a network that share its weights, run side by side by a pool of threads.

    net: module (n, 1, rows, columns) -> (n, n_out), which is the first copy
    lanes: int, number of copies
    threads: int, at most so many run at a time
    precision: str, of options.PRECISIONS
    """

    def __init__(self, net: torch.nn.Module, lanes: int, threads: int, precision: str):
        self.net, self.precision, self.used = net, precision, 0
        self.copies = [net] + [copy.deepcopy(net) for _ in range(lanes - 1)]
        for other in self.copies[1:]:
            for mine, theirs in zip(net.parameters(), other.parameters()):
                theirs.data = mine.data
        workers = min(threads, lanes)
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def seed_dropout(self, seed: int, step: int) -> None:
        """Dropped numbers follow from (seed, step, lane, layer) alone, in a resumed run too."""
        for lane, net in enumerate(self.copies):
            layers = (module for module in net.modules() if isinstance(module, Dropout))
            for layer, module in enumerate(layers):
                module.generator.manual_seed(seeds.number(seed, seeds.DROPOUT, step, lane, layer))

    def share_buffers(self) -> None:
        """Every copy takes the mean of the norm statistics over the copies that have seen maps."""
        for group in zip(*(net.buffers() for net in self.copies)):
            if group[0].is_floating_point():
                seen = group[:self.used or None]                   # before the first step: all
                mean = torch.stack([b.double() for b in seen]).mean(0)
                for b in group:
                    b.copy_(mean)

    def stored(self) -> dict:
        """What the copies do not share: their buffers; and how many have seen maps."""
        return {"used": self.used, "buffers": [dict(net.named_buffers()) for net in self.copies]}

    def restore(self, saved: dict) -> None:
        """Take what stored() gave."""
        self.used = saved["used"]
        for net, values in zip(self.copies, saved["buffers"], strict=True):
            for name, buffer in net.named_buffers():
                buffer.copy_(values[name])

    def set_momentum(self, momentum: float) -> None:
        """Weight of a new batch in the running statistics of the batch renorms."""
        for net in self.copies:
            for module in net.modules():
                if isinstance(module, BatchRenorm2d):
                    module.momentum = momentum

    def step(self, x: np.ndarray, target: torch.Tensor, loss: Loss) -> float:
        """Gradients of the batch's mean loss into the network's .grad; returns the loss.

        x: (n, 1, rows, columns) float32, maps in units of their standard deviation
        target: (n, 2), standardised labels
        loss: losses.Loss
        """
        parts = self._parts(x)
        self.used = max(self.used, len(parts))

        def one(net, part):
            net.zero_grad(set_to_none=True)
            value, n = loss(self._forward(net, x[part]), target[part]), part.stop - part.start
            (value * (n / len(x))).backward()
            return value.item() * n / len(x)

        values = list(self.pool.map(one, self.copies, parts))
        for group in zip(*(net.parameters() for net in self.copies[:len(parts)])):
            for other in group[1:]:
                group[0].grad += other.grad
        return math.fsum(values)

    def predict(self, x: np.ndarray) -> torch.Tensor:
        """Outputs (n, n_out) of a batch (n, 1, rows, columns); each lane evaluates its part."""
        def one(net, part):
            with torch.inference_mode():
                return self._forward(net, x[part])

        return torch.cat(list(self.pool.map(one, self.copies, self._parts(x))))

    def train(self, mode: bool = True) -> None:
        """All copies in training mode, or in evaluation mode."""
        for net in self.copies:
            net.train(mode)

    def _parts(self, x):
        """Slices of a batch, one for each lane that has any of it."""
        ends = np.cumsum([len(part) for part in np.array_split(x, len(self.copies))]).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends) if b > a]

    def _forward(self, net, x):
        x = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        if self.precision == "float64":
            return net(x.double())
        # the cache of cast weights is one for all threads, and whichever leaves first empties it: a
        # weight used twice (CBAM) would have its gradients added in bfloat16 or in float32 as the
        # threads happen to run
        low = self.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=low, cache_enabled=False):
            return net(x).float()


@contextlib.contextmanager
def one_thread():
    """One thread inside the operations of torch while the block runs, then as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def as_computed(net: torch.nn.Module, precision: str) -> torch.nn.Module:
    """A network in the number type and memory order it computes in: the same trained or loaded."""
    net = net.double() if precision == "float64" else net
    return net.to(memory_format=torch.channels_last)
