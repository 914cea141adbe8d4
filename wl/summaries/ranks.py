"""Training on several processes: torchrun starts them, the first does all but its helpers' lanes.

    torchrun --nproc-per-node=2 run_mcmc.py --data data/public

Every process begins the script. The first runs it; the others wait in serve() for lanes of a batch:
they get weights, buffers and maps, and answer with loss, gradients and buffers. The first adds the
gradients in the lanes' order, as it does alone, so that the weights have the same bits for any
number of processes (on CPUs with the same instructions).
"""
import datetime
import gc
from collections.abc import Callable

import torch
import torch.distributed as dist

from ..core import cli, progress

PATIENCE = datetime.timedelta(days=30)       # a helper waits while the first measures and infers


def _join():
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)


def _receive(source):
    found = [None]
    dist.recv_object_list(found, src=source)
    return found[0]


def shared(work: Callable[[], None], threads: int) -> None:
    """Do a script's work in the first process, and serve it in the others.

    work: function without arguments; threads: int, of this process
    """
    if cli.rank() > 0:
        return serve(threads)
    try:
        work()
    finally:
        _join()
        for other in range(1, cli.processes()):
            dist.send_object_list([None], dst=other)
        _leave()


def _leave():
    # without this order torch 2.13 may abort at the exit of a good run
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def ask(lanes, parts: list, x, target, loss) -> dict:
    """Send the helpers their lanes of a batch.

    lanes: network.Lanes of the first process; parts: its slices of the batch, lane i is of process
        i modulo cli.processes(); x, target, loss: as Lanes.step() takes them
    Returns {process: its lanes}, for take().
    """
    asked, n = {}, cli.processes()
    weights = [p.detach() for p in lanes.net.parameters()]
    for other in range(1, min(n, len(parts))):
        _join()
        asked[other] = list(range(other, len(parts), n))
        share = [(lane, x[parts[lane]], target[parts[lane]],
                  dict(lanes.copies[lane].named_buffers()), lanes.state) for lane in asked[other]]
        job = {"recipe": lanes.recipe, "weights": weights, "loss": loss, "share": share,
               "size": len(x)}
        dist.send_object_list([job], dst=other)
    return asked


def take(lanes, asked: dict) -> dict:
    """Receive what ask() sent for: {lane: loss}; gradients and buffers go into the copies."""
    values = {}
    for other, mine in asked.items():
        for lane, (value, gradients, buffers) in zip(mine, _receive(other), strict=True):
            values[lane], copy = value, lanes.copies[lane]
            for parameter, gradient in zip(copy.parameters(), gradients):
                parameter.grad = gradient
            _fill(copy, buffers)
    return values


def _fill(net, buffers):
    for name, buffer in net.named_buffers():
        buffer.copy_(buffers[name])


def serve(threads: int) -> None:
    """Compute lanes for the first process until it ends. threads: int, of this process."""
    from .network import Lanes, as_computed
    _join()
    lanes = recipe = None
    while (job := _receive(0)) is not None:
        if job["recipe"] != recipe:
            recipe = job["recipe"]
            net = as_computed(recipe.build(), recipe.precision)
            lanes = Lanes(net, recipe.lanes, threads, recipe.precision)
            lanes.train()
        with torch.no_grad():
            for parameter, weight in zip(lanes.net.parameters(), job["weights"]):
                parameter.copy_(weight)
        for lane, _, _, buffers, state in job["share"]:
            _fill(lanes.copies[lane], buffers)
        lanes.set_momentum(state[0])
        lanes.seed_dropout(*state[1])
        work = [(lanes.copies[lane], x, target) for lane, x, target, *_ in job["share"]]
        values = list(lanes.pool.map(lambda one: lanes.gradients(*one, job["loss"], job["size"]),
                                     work))
        answer = [(value, [p.grad for p in net.parameters()], dict(net.named_buffers()))
                  for value, (net, *_) in zip(values, work)]
        dist.send_object_list([answer], dst=0)
        progress.stop()
    lanes = None
    _leave()
