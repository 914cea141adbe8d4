#!/usr/bin/env python3
"""Training speed of ours against the published configuration, alternately in one run.

  python benchmarks/train_step.py                   # full-size maps, leak check of 2000 steps
  python benchmarks/train_step.py --steps 4 --rounds 1 --leak-steps 0 --frame 96x64

The reference is the challenge's network as it was trained: float64, contiguous, batch 4, PyTorch's
DataLoader on a dataset that scatters a map by the boolean mask and adds NumPy's noise, AdamW as it
comes. It runs in a process of its own without our allocator settings, idle while ours is timed.
Ours is the suite's training on the same number of threads: the published network on the same frame,
then the compact one. Figures are the medians over rounds of maps per second, from the batch's first
byte to the updated weights; the data path's share is the time spent in the compiled kernel that
makes the batches. Compilation and the first steps are not timed. The leak check trains the compact
network and reads the process's memory from the operating system.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from wl.core import cli  # noqa: E402
from wl.core.checks import RunError  # noqa: E402
from wl.summaries.options import PRECISIONS, NetworkOptions  # noqa: E402

WARM_UP = 3                     # steps that are not timed


def arguments(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of ours a round")
    parser.add_argument("--reference-steps", type=int, default=20, help="of the reference")
    parser.add_argument("--rounds", type=int, default=3, help="alternations")
    parser.add_argument("--batch-size", type=int, default=32, help="of ours")
    parser.add_argument("--lanes", type=int, default=4, help="of ours")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS),
                        help="of ours")
    parser.add_argument("--leak-steps", type=int, default=2000, help="of the leak check, 0: none")
    parser.add_argument("--leak-batch", type=int, default=8, help="maps a step there")
    parser.add_argument("--frame", default="1424x176", help="rows x columns")
    parser.add_argument("--threads", type=int, default=cli.thread_count(None), help="of both")
    parser.add_argument("--same-allocator", action="store_true",
                        help="our allocator settings for the reference too")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        args.frame = tuple(int(n) for n in args.frame.split("x"))
        if len(args.frame) != 2 or min(args.frame) < 32:
            raise ValueError
    except ValueError:
        parser.error("--frame: expected ROWSxCOLUMNS of at least 32 pixels each, e.g. 96x64")
    for name in ("steps", "reference_steps", "rounds", "batch_size", "lanes", "leak_batch",
                 "threads"):
        value = getattr(args, name)
        if value < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    if args.leak_steps and args.leak_steps < 10:
        parser.error(f"--leak-steps: expected 0 or at least 10, got {args.leak_steps}")
    return args


def maps_of(frame, n=128):
    """A mask and n noiseless maps of white pixels, (n, n_observed) float16, as fast as any."""
    import numpy as np

    from wl.simulate.plan import procedural_mask
    mask = procedural_mask() if frame == (1424, 176) else np.ones(frame, bool)
    rng = np.random.default_rng(1)
    maps = 0.0114 * rng.standard_normal((n, int(mask.sum())), np.float32)
    return mask, maps.astype(np.float16)


# ---------------------------------------------------------------- the published configuration
def reference(args):
    """Answers each line on stdin with the seconds per map of a round."""
    import numpy as np
    import torch
    from torch import nn
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    mask, maps = maps_of(args.frame)
    labels = np.random.default_rng(2).normal(size=(len(maps), 2))

    class Maps(torch.utils.data.Dataset):
        def __len__(self):
            return 4 * (args.reference_steps + WARM_UP)

        def __getitem__(self, i):
            image = np.zeros(mask.shape)
            image[mask] = maps[i % len(maps)]
            image[mask] += np.random.normal(0.0, 0.02582, int(mask.sum()))
            return torch.from_numpy((image / 0.0205)[None]), torch.from_numpy(labels[i % len(maps)])

    def block(c_in, c_out, kernel=3, stride=1):
        return [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), nn.BatchNorm2d(c_out),
                nn.ReLU(), nn.MaxPool2d(2)]

    net = nn.Sequential(*block(1, 16, 5, 2), *block(16, 32), *block(32, 64), *block(64, 128),
                        nn.Flatten(), nn.LazyLinear(512), nn.ReLU(), nn.Dropout(0.2),
                        nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 2))
    net(torch.zeros(2, 1, *mask.shape))
    net.double()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=1e-4)
    for _ in sys.stdin:
        loader = torch.utils.data.DataLoader(Maps(), batch_size=4, shuffle=True)
        for step, (image, label) in enumerate(loader):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(image), label).backward()
            optimiser.step()
            if step == WARM_UP - 1:
                begin = time.perf_counter()
        print((time.perf_counter() - begin) / (4 * args.reference_steps), flush=True)


# ---------------------------------------------------------------- ours
class Clock:
    """A progress for training.train() that notes when each step ended, and the memory if asked."""

    def __init__(self, every=0):
        self.times, self.memory, self.every, self.note = [], [], every, ""

    def begin_at(self, *done):
        pass

    def update(self, step=1):
        self.times.append(time.perf_counter())
        if self.every and len(self.times) % self.every == 0:
            self.memory.append(resident())


def resident():
    """Anonymous memory of this process in MB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RunError("no RssAnon in /proc/self/status; give --leak-steps 0")


def ours(args, model, mask, maps, steps, batch_size, clock):
    """Train for some steps; returns the seconds per map and the data path's share of them."""
    import numpy as np

    from wl.maps.batches import FRESH, Batches, Frame
    from wl.summaries import training

    class Timed(Batches):
        spent = []

        def fetch(self, rows, *, noise, **options):
            begin = time.perf_counter()
            out = super().fetch(rows, noise=noise, **options)
            if noise == FRESH:
                self.spent.append(time.perf_counter() - begin)
            return out

    options = NetworkOptions(model=model, epochs=1, batch_size=batch_size, patience=0,
                             lanes=min(args.lanes, batch_size), learning_rate=1e-3,
                             precision=args.precision).decided(len(maps))
    frame = Frame(mask, pack=options.packs)
    label = np.random.default_rng(2).normal(size=(len(maps), 2))
    source = Timed(maps, frame, scale=0.0205, seed=1)
    recipe = training.Recipe(**options.training(), frame=frame.shape, scale=0.0205, n_gal=30.0,
                             split=[], seed=1, label_mean=[0.0, 0.0], label_sd=[1.0, 1.0])
    rows = np.resize(np.arange(len(maps)), (steps + WARM_UP) * batch_size)
    training.train(source, label, (rows, np.arange(2)), recipe, threads=args.threads,
                   progress=clock)
    seconds = clock.times[-1] - clock.times[WARM_UP - 1]
    return seconds / (steps * batch_size), sum(source.spent[WARM_UP:]) / seconds


def alternate(args, mask, maps):
    """Rounds of reference and ours. Returns seconds per map of each, and the data path's shares."""
    environment = {k: v for k, v in os.environ.items()
                   if args.same_allocator or k not in cli.ALLOCATOR}
    child = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--reference"],
                             env=environment, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    times, shares = {"reference": []}, {}
    try:
        for k in range(args.rounds):
            child.stdin.write("go\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            if not answer:
                raise RunError("the reference ended early; its own message stands above")
            times["reference"].append(float(answer))
            for name in ("simple_cnn", "compact"):
                seconds, share = ours(args, name, mask, maps, args.steps, args.batch_size, Clock())
                times.setdefault(name, []).append(seconds)
                shares.setdefault(name, []).append(share)
            print(f"round {k + 1}: ms per map: "
                  + ", ".join(f"{n} {1e3 * t[-1]:.2f}" for n, t in times.items()), flush=True)
    finally:
        child.stdin.close()
        child.wait()
    return times, shares


def main():
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    if args.reference:
        return reference(args)
    cli.prepare_process(args.threads, allocator=True)
    mask, maps = maps_of(args.frame)
    times, shares = alternate(args, mask, maps)
    ratios = {name: statistics.median(r / o for r, o in zip(times["reference"], times[name]))
              for name in shares}
    for name, share in shares.items():
        print(f"{name}: {1e3 * statistics.median(times[name]):.2f} ms per map, {ratios[name]:.1f} "
              "times the published configuration's speed, data path "
              f"{100 * statistics.median(share):.1f} % of a step")
    if args.leak_steps:
        clock = Clock(every=max(args.leak_steps // 10, 1))
        ours(args, "compact", mask, maps, args.leak_steps, args.leak_batch, clock)
        start, end = clock.memory[1], clock.memory[-1]
        print(f"anonymous memory over {args.leak_steps} steps: "
              + ", ".join(f"{m:.0f}" for m in clock.memory)
              + f" MB; {end - start:+.1f} MB after the first fifth")
    print(f"train_step ratio={ratios['simple_cnn']:.1f} "
          f"ours={1 / statistics.median(times['simple_cnn']):.4g} "
          f"reference={1 / statistics.median(times['reference']):.4g} n={args.rounds}")


if __name__ == "__main__":
    cli.run(main)
