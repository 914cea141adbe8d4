"""Copies of a network side by side: on threads, and in the processes that torchrun starts.

    torchrun --nproc-per-node=2 run_mcmc.py --data data/public

Every process begins the script. The first runs it; the others wait in _serve() for lanes of a
batch: they get weights, buffers and maps, and answer with loss, gradients and buffers. The first
adds the gradients in the lanes' order, as it does alone, so that the weights have the same bits for
any number of processes (on CPUs with the same instructions).
"""
import contextlib
import copy
import datetime
import gc
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist

from ..core import cli, progress, seeds
from .architectures import BatchRenorm2d, Dropout

PATIENCE = datetime.timedelta(days=30)       # a helper waits while the first measures and infers


class Lanes(contextlib.AbstractContextManager):
    """Copies of a network that share its weights, run side by side by a pool of threads.

    Each lane takes its part of a batch on its own copy of the buffers, and gradients are added in
    lane order: the weights depend on the number of lanes, a setting, and not of threads.

    net, recipe: module (n, 1, rows, columns) -> (n, n_out), the first copy; its network.Recipe
    threads: int, how many of recipe.lanes copies run at a time at most
    """

    def __init__(self, net: torch.nn.Module, recipe, threads: int):
        self.net, self.recipe, self.used = net, recipe, 0
        self.state = 0.1, 0, 0                            # what begin_step() had last
        self.copies = torch.nn.ModuleList(
            [net, *(copy.deepcopy(net) for _ in range(recipe.lanes - 1))])
        for other in self.copies[1:]:
            for mine, theirs in zip(net.parameters(), other.parameters()):
                theirs.data = mine.data
        self.pool = ThreadPoolExecutor(min(threads, recipe.lanes), initargs=(1,),
                                       initializer=torch.set_num_threads)

    def __exit__(self, *error):
        self.pool.shutdown()

    def begin_step(self, momentum: float, seed: int, step: int) -> None:
        """Set what a step depends on beside weights and maps.

        momentum: float, weight of a new batch in the running statistics of the batch renorms
        seed, step: int; dropped numbers follow from these, lane and layer, in a resumed run too
        """
        self.state = momentum, seed, step
        for module in self.copies.modules():
            if isinstance(module, BatchRenorm2d):
                module.momentum = momentum
        for lane, net in enumerate(self.copies):
            layers = (module for module in net.modules() if isinstance(module, Dropout))
            for layer, module in enumerate(layers):
                module.generator.manual_seed(seeds.number(seed, seeds.DROPOUT, step, lane, layer))

    def share_buffers(self) -> None:
        """Every copy takes the mean of the norm statistics over the copies that have seen maps."""
        for group in zip(*(net.buffers() for net in self.copies)):
            if group[0].is_floating_point():
                seen = group[:self.used or None]                   # before the first step: all
                mean = torch.stack([buffer.double() for buffer in seen]).mean(0)
                for buffer in group:
                    buffer.copy_(mean)

    def stored(self) -> dict:
        """What the copies do not share: their buffers; and how many have seen maps."""
        return {"used": self.used, "buffers": [dict(net.named_buffers()) for net in self.copies]}

    def restore(self, saved: dict) -> None:
        """Take what stored() gave."""
        self.used = saved["used"]
        for net, values in zip(self.copies, saved["buffers"], strict=True):
            _fill(net, values)

    def step(self, x: np.ndarray, target: torch.Tensor, loss: Callable) -> float:
        """Gradients of the mean loss of maps (n, 1, rows, columns) into .grad; returns the loss."""
        parts = self._parts(x)
        self.used = max(self.used, len(parts))
        shares = [(lane, x[part], target[part]) for lane, part in enumerate(parts)]
        n = cli.processes()                                      # lane i: process i modulo them all
        others, weights = range(1, min(n, len(parts))), [p.detach() for p in self.net.parameters()]
        for other in others:
            mine = shares[other::n]
            buffers = [dict(self.copies[lane].named_buffers()) for lane, *_ in mine]
            _send((self.recipe, weights, buffers, self.state, mine, loss, len(x)), other)
        values = self.gradients(shares[::n], loss, len(x))
        for other in others:
            for net, (value, gradients, buffers) in zip(self.copies[other::n], _receive(other)):
                values.append(value)
                for parameter, gradient in zip(net.parameters(), gradients):
                    parameter.grad = gradient
                _fill(net, buffers)
        for group in zip(*(net.parameters() for net in self.copies[:len(parts)])):
            for other in group[1:]:
                group[0].grad += other.grad
        return math.fsum(values)                                        # in any order

    def gradients(self, shares: list, loss: Callable, size: int) -> list[float]:
        """Gradients of shares (lane, maps, targets) of a batch of `size` maps; returns losses."""
        def one(lane, x, target):
            net, n = self.copies[lane], len(x)
            net.zero_grad(set_to_none=True)
            value = loss(self._forward(net, x), target)
            (value * (n / size)).backward()
            return value.item() * n / size
        return list(self.pool.map(lambda share: one(*share), shares))

    def predict(self, x: np.ndarray) -> torch.Tensor:
        """Outputs (n, n_out) of a batch (n, 1, rows, columns); each lane evaluates its part.

        Map by map: in float32 a map's last bits depend on how many go through at once, and one
        alone is faster (compact in bfloat16: 2.0 ms a map, eight at once 2.7).
        """
        def one(net, part):
            with torch.inference_mode():
                return torch.cat([self._forward(net, x[i:i + 1])
                                  for i in range(part.start, part.stop)])
        return torch.cat(list(self.pool.map(one, self.copies, self._parts(x))))

    def _parts(self, x):
        ends = np.cumsum([len(part) for part in np.array_split(x, len(self.copies))]).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends) if b > a]

    def _forward(self, net, x):
        x = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        if self.recipe.precision == "float64":
            return net(x.double())
        # the cache of cast weights is one for all threads, and whichever leaves first empties it: a
        # weight used twice (CBAM) would have its gradients added in a precision that chance decides
        low = self.recipe.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=low, cache_enabled=False):
            return net(x).float()


def _fill(net, buffers):
    for name, buffer in net.named_buffers():
        buffer.copy_(buffers[name])


def _send(content, target):
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    dist.send_object_list([content], dst=target)


def _receive(source):
    found = [None]
    dist.recv_object_list(found, src=source)
    return found[0]


def _leave():
    gc.collect()                 # without this order torch 2.13 may abort at the exit of a good run
    dist.barrier()
    dist.destroy_process_group()


def shared(work: Callable[[], None], threads: int) -> None:
    """Do a script's work in the first process of torchrun; serve it on `threads` in the others."""
    if cli.rank() > 0:
        return _serve(threads)
    try:
        work()
    finally:
        for other in range(1, cli.processes()):
            _send(None, other)
        _leave()


def _serve(threads):
    """Compute lanes for the first process until it ends."""
    dist.init_process_group("gloo", timeout=PATIENCE)
    lanes = None
    while (job := _receive(0)) is not None:
        recipe, weights, buffers, state, mine, loss, size = job
        if lanes is None or recipe != lanes.recipe:
            lanes = Lanes(recipe.build(), recipe, threads)
            lanes.copies.train()
        with torch.no_grad():
            for parameter, weight in zip(lanes.net.parameters(), weights):
                parameter.copy_(weight)
        for (lane, *_), values in zip(mine, buffers):
            _fill(lanes.copies[lane], values)
        lanes.begin_step(*state)
        nets = [lanes.copies[lane] for lane, *_ in mine]
        answer = [(value, [p.grad for p in net.parameters()], dict(net.named_buffers()))
                  for value, net in zip(lanes.gradients(mine, loss, size), nets)]
        _send(answer, 0)
        progress.stop()
    lanes = None
    _leave()


@contextlib.contextmanager
def one_thread():
    """One thread inside the operations of torch while the block runs, then as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
