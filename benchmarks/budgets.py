"""How long each network of a comparison trains, and at which learning rate: short trainings that nothing is kept of."""
import contextlib
import dataclasses
import json
import math
import os
import time

from commands import convolutions, parsed

from wl.core.checks import RunError
from wl.core.progress import Progress

RATES = (0.1, 0.3, 1.0, 2.0, 4.0)   # times --learning-rate, for --tune; the first is the published one, 2e-4
TUNING_SEED = 0
TIMED_BATCHES = 12                # an epoch of them is timed for --minutes, after one that is not


def short_training(args, spec, seed, epochs, rate=None, batches=None):
    """A training for its time or its validation loss alone: nothing is written.

    batches: only so many an epoch, with validation maps in proportion. Returns (Network, fraction of the training
    maps that an epoch had).
    """
    from wl.summaries import pipeline, training
    from wl.summaries.job import Job
    options = parsed(args, {**spec, "model": convolutions(spec)}, seed, 1000, "x", rate=rate)
    run = pipeline.Run(options, "direct" if spec["direct"] else "network")
    job = Job(run, 0)
    source, recipe = job.training()
    recipe = dataclasses.replace(recipe, epochs=epochs)
    rows, validation = job.training_rows()
    share = 1.0 if batches is None else min(1.0, batches * options.batch_size / len(rows))
    rows, validation = (r[:max(1, round(share * len(r)))] for r in (rows, validation))
    progress = Progress(epochs * recipe.batches_of(len(rows)),
                            f"trying {spec['model']}" + (f" at rate {rate:g}" if rate else ""), args.quiet)
    network = training.train(source, run.set.flat_theta, rows, validation, recipe,
                             threads=args.threads, progress=progress)
    progress.close()
    return network, share


def settled(path, find):
    """What find() returned, a dict kept at path from the first time on: of several processes the first one's."""
    if not path.exists():
        found, mine = find(), path.with_name(f"{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps(found))
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
    return json.loads(path.read_text())


def tuned_rate(args, spec, folder):
    """The learning rate of RATES with the best validation loss, settled once for all seeds of a variant."""
    def find():
        losses = {}
        for factor in RATES:
            rate = args.learning_rate * factor
            try:
                network, _ = short_training(args, spec, TUNING_SEED, args.tune, rate=rate)
                losses[rate] = min(h["validation"] for h in network.history)
            except RunError:                                     # it went off to infinity
                losses[rate] = math.inf
        best = min(losses, key=losses.get)
        if losses[best] == math.inf:
            raise RunError(f"no learning rate of {', '.join(f'{r:g}' for r in losses)} trains; lower --learning-rate")
        return {"rate": best, "validation": {f"{r:g}": v for r, v in losses.items() if v < math.inf}}
    return settled(folder.parent / "rate.json", find)["rate"]


def fitting_epochs(args, spec, seed, folder):
    """Epochs that fit into --minutes, from the time of a small one; settled once for all seeds of a variant."""
    def find():
        network, share = short_training(args, spec, seed, 2, batches=TIMED_BATCHES)
        seconds = network.seconds[1] / share
        return {"epochs": max(1, int(60.0 * args.minutes / seconds)), "seconds_per_epoch": seconds,
                "minutes": args.minutes}
    return settled(folder.parent / "epochs.json", find)["epochs"]


def feature_seconds(run, folder):
    """Seconds that measuring the hand-made statistics of a run takes, settled when it is done for the row."""
    def find():
        from wl.summaries import features
        from wl.summaries.pipeline import of_part, prediction_settings
        (run.out / "features.h5").unlink(missing_ok=True)            # of a row killed since: its time is lost
        began = time.monotonic()
        features.measure(run, of_part(prediction_settings(run), "statistics")["model_options"])
        return {"seconds": time.monotonic() - began}
    return settled(folder / "features.json", find)["seconds"]
