"""What joins the rooms. A notebook needs a set of maps, its predictions, posteriors, scores: the
examples of simulate_set, predict, infer and score, one after the other, are a whole run.

Options are those of the command line, with _ for -, and have the same defaults and checks. What was
done before is not repeated. Mistakes raise wl.core.checks.InputError, and nothing ends the process.
For --dry-run of the scripts: what a run would do, read and write, and about how long it takes.
"""
import dataclasses
import pathlib

import numpy as np

from .core import cli, hdf5
from .core.checks import InputError, meant, within
from .core.files import lock
from .core.params import N_OBSERVED, TEST
from .maps.dataset import open_set, read_new
from .maps.splits import DEFAULT_REALISATIONS, MapOptions
from .posterior.options import OF_RUN, PosteriorOptions, Wanted, options_of, read_predictions

# seconds of one core: a map of the survey's size simulated, measured; dense networks, for each map
# that trains; a step of a chain, a map by quadrature; what a stage begins with, but compilation
COSTS = {"simulate": 0.011, "statistics": 0.0062, "spectrum": 0.0017, "dense": 0.006,
         "step": 75e-9, "exact": 1.4e-4, "begin": 3.0}
# of a training step on such a map: benchmarks/README.md, "Which network", by the pixels of a frame
NETWORKS = {"compact": 0.0092, "simple_cnn": 0.011, "simple_cnn_residual": 0.012,
            "resnet_attention": 0.2, "resnet_reduced": 0.037, "biggan_encoder": 0.02,
            "inception": 0.035}


def simulate_set(folder, *, processes: int | None = 1, quiet: bool = True, **options):
    """Simulate a data set, or go on with one, and open it.

    folder: str or Path
    processes, quiet: int, None for all CPUs (1 in a notebook's own process); bool, no progress
    options: of `python -m wl.simulate`
    Returns a maps.dataset.MapSet. Raises InputError, RunError.

        maps = wl.simulate_set("data/small", cosmologies=8, realisations=10, test=20)
    """
    from .simulate.plan import SimulationOptions
    from .simulate.simulate import simulate
    (found,) = _options(options, SimulationOptions)
    simulate(folder, found, processes=processes, quiet=quiet)
    return open_set(folder)


def predict(maps, out, *, method: str = "network", seed: int = 1, threads: int | None = None,
            force: bool = False, quiet: bool = True, **options):
    """Summaries of a set's maps, in OUT/predictions.h5: trains what has to be trained.

    maps: MapSet of open_set(), or the path of its folder
    out: str or Path, folder of the results
    method: str, "network", "spectrum", or "direct" for a network with error bars
    seed, threads: ints, of everything random; None for all CPUs
    force, quiet: bools, as on the command line
    options: of the maps and the network; model_options a dict
    Returns a core.hdf5.File. Raises InputError, RunError.

        predictions = wl.predict(maps, "data/runs/small", model="statistics")
        print(predictions.groups["predictions"]["summaries"].shape)
    """
    from .summaries import options as choices, predict as stage
    threads = cli.prepare_process(threads)
    maps = maps if hasattr(maps, "files") else open_set(maps)
    texts = choices.as_texts(options.pop("model_options", {}))
    if method == "network" and "emulator_fraction" not in options:      # as on the command line
        options.setdefault("folds", choices.DEFAULT_FOLDS)
    own, network = _options(options, MapOptions, choices.NetworkOptions)
    more = ({"model": method, "model_options": {}} if method == choices.SPECTRUM else
            {"model_options": choices.model_options(network.model, texts)})
    network = dataclasses.replace(network, method=method, threads=threads, **more)
    return stage.predict(stage.prepare(maps, own, network, _folder(out, seed, force, quiet)))


def infer(predictions, out, *, seed: int = 1, threads: int | None = None, force: bool = False,
          quiet: bool = True, target: str | None = None, **options):
    """Posteriors of all maps that have summaries, in OUT/posterior.h5.

    predictions: core.hdf5.File of predict() or apply(), or a path that --predictions takes
    out, seed, threads, force, quiet: as predict() takes them
    target: "test", "holdout" or "both", None for the predictions' own
    options: of the posterior; after apply() prior, smooth and recalibrate default to its run's
    Returns a core.hdf5.File. Raises InputError, RunError.

        posterior = wl.infer(predictions, "data/runs/small", sampler="exact")
        print(posterior.groups["summary"]["posterior_mean"])
    """
    from .posterior import infer as stage
    cli.prepare_process(threads)
    _options(options, PosteriorOptions)                # wrong ones are refused before all else
    folder = _folder(out, seed, force, quiet)
    if not isinstance(predictions, hdf5.File):
        predictions = read_predictions(predictions, seed)
    of_run = {name: v for name, v in predictions.settings.items() if name in OF_RUN}   # of apply()
    (found,) = _options({**of_run, **options}, PosteriorOptions)
    wanted = Wanted.of(predictions, target)
    stage.refuse_early(predictions.settings, stage.emulator_maps(predictions)[0].shape[1],
                       predictions.groups["constant_data"]["design"], found, folder, wanted)
    return hdf5.read(stage.infer(predictions, found, folder, wanted), "posterior")


def score(posterior, data=None) -> dict:
    """Scores of maps whose truth is known, and all that stands in score.json. Raises InputError.

    posterior: core.hdf5.File of infer(), or a path
    data: str or Path, folder with the label files, None for the set the posterior was made from

        print(wl.score("data/runs/small/posterior.h5")["score"])
    """
    from .scoring.report import score_posterior
    return score_posterior(getattr(posterior, "path", posterior), data)


def apply(run, maps, *, threads: int | None = None, quiet: bool = True):
    """Summaries of new maps by a finished run, for infer(): nothing is trained again.

    run: str or Path, folder of the run
    maps: str or Path, .npy of noisy maps, (n, observed pixels) or frames (n, rows, columns)
    threads, quiet: as predict() takes them
    Returns a core.hdf5.File. Raises InputError.

        new = wl.apply("data/runs/small", "new.npy")
        print(wl.infer(new, "data/runs/new", sampler="exact").groups["summary"]["flag"])
    """
    from .summaries import apply as stage
    own, threads = options_of(run, quiet), cli.prepare_process(threads)
    new = stage.apply(stage.open_run(run), maps, Wanted("test").rows, threads, quiet)
    return new._replace(settings={**new.settings, **own})


def _folder(out, seed, force, quiet):
    seed = within("seed", seed, 0, (1 << 63) - 1, integer=True)
    return hdf5.Folder(pathlib.Path(out), None, seed, force, quiet, lock(out))


def _options(given, *classes):
    """Objects of classes of options, each with its share of what is given. Raises InputError."""
    known = {field.name: cls for cls in classes for field in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            raise InputError(f"{name}: no such option"
                             + (meant(name, known) or f" of {', '.join(known)}"))
    return [cls(**{name: v for name, v in given.items() if known[name] is cls}) for cls in classes]


def rehearsed_set(folder, realisations: int | None, threads: int) -> str:
    """What simulating a set would take. realisations: of each cosmology, None for the default."""
    from .simulate.plan import N_COSMOLOGY
    from .simulate.simulate import DEFAULT_TEST
    n_map = N_COSMOLOGY * (realisations or DEFAULT_REALISATIONS) + DEFAULT_TEST
    return (f"simulate: {folder} holds no maps; {n_map} are simulated, "
            f"{2e-9 * N_OBSERVED * n_map:.1f} GB, in about "
            f"{COSTS['simulate'] * n_map / threads:.0f} s; they decide the rest")


def rehearsed(work, posterior, wanted, threads: int) -> str:
    """What a run of a predict.Work, PosteriorOptions and Wanted would do, a line each."""
    from .summaries import predict
    from .summaries.handmade import N_BIN, draws_of
    maps, split, options, out = work.maps, work.split, work.options, work.folder.out
    size = sum(path.stat().st_size for path in maps.files.values())
    lines, seconds = [f"read: {maps.told()}; {size / 1e6:.0f} MB"], {}
    n_map, full = len(maps.flat_kappa) + split.n_test, maps.mask.sum() / N_OBSERVED
    if (out / "predictions.h5").exists():
        lines.append(f"predict: {out / 'predictions.h5'} is there, nothing is trained or measured")
    elif options.method == "spectrum":
        lines.append(f"measure: the spectrum of {n_map} maps")
        seconds["measure"] = n_map * full * COSTS["spectrum"]
    else:
        jobs = predict.jobs_of(work)
        done = sum(job.model.exists() for job in jobs)
        lines.append(f"train: {len(jobs)} networks ({options.model}, {options.folds} folds, "
                     f"{options.members} members), at most {options.epochs} epochs of "
                     f"{split.n_train} maps each; {done} of them are there")
        if options.of_statistics() and not (out / "features.h5").exists():
            rows, draws = draws_of(split, options)
            seconds["measure"] = (n_map + (draws - 1) * len(rows)) * full * COSTS["statistics"]
        seconds["train"] = 0.0
        for job in jobs:
            n_train = 0 if job.model.exists() else split.n_train
            if job.part == "statistics":                         # a thread each
                seconds["train"] += n_train * COSTS["dense"] * max(1.0, threads / options.folds)
            else:                            # forwards alone costs a third, in each of the views
                steps = options.epochs * n_train + n_map * options.views / 3
                seconds["train"] += steps * full * NETWORKS[job.part]
    count = len(wanted.rows(split.inferred()))
    d = {"direct": 0, "spectrum": N_BIN}.get(options.method, 2)
    return _told(lines, (count, d), posterior, wanted,
                 f"{out}: networks, predictions.h5, ", threads, seconds)


def rehearsed_file(file, path, posterior, wanted, folder, threads: int, new: bool = False) -> str:
    """As rehearsed(), from finished predictions; new: of the maps in `path`, by their networks."""
    (n_map, d), seconds = file.groups["predictions"]["summaries"].shape, {}
    split, told = file.groups["predictions"]["split"], f"{d} summaries each"
    if new:
        mask, names = file.groups["constant_data"]["mask"], file.origin["networks"]
        n_map = len(read_new(path, mask))
        split = np.full(n_map, TEST)
        full, parts = mask.sum() / N_OBSERVED, file.settings["model"].split("+")
        views = n_map * full * file.settings.get("views", 1) / 3 * len(names) / len(parts)
        seconds = {part: views * NETWORKS[part] for part in parts if part in NETWORKS}
        if measured := {"statistics", "spectrum"} & {*parts}:
            seconds["measure"] = n_map * full * COSTS[measured.pop()]
        told = f"{len(names)} networks of {file.path.parent}"
    d = 0 if file.settings["method"] == "direct" else d
    return _told([f"read: {path}; {n_map} maps, {told}"], (len(wanted.rows(split)), d), posterior,
                 wanted, f"{folder.out}: ", threads, seconds, new)


def _told(lines, shape, posterior, wanted, out, threads, seconds, new=False):
    """The lines, and more on how maps are inferred, how long all takes, what is written."""
    (count, d), exact = shape, posterior.sampler == "exact"    # d = 0: no summaries
    scores = ", score.json" if wanted.shard is None and not new else ""
    how = ("the network's own error bars" if d == 0 else "quadrature" if exact else
           f"{posterior.chains} chains of {posterior.nstep} steps")
    cost = 0.0 if d == 0 else COSTS["exact"] if exact else (
        COSTS["step"] * posterior.chains * posterior.nstep * (1.0 + 0.2 * (d - 2)))
    took = {name: COSTS["begin"] + value / threads
            for name, value in {**seconds, "infer": count * cost}.items()}
    shown = {name: f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else
             f"{s / 3600:.1f} h" for name, s in [*took.items(), ("all", sum(took.values()))]}
    return "\n".join([
        *lines, f"infer: {count} maps by {how}",
        f"time: about {shown.pop('all')} on {threads} threads ("
        + ", ".join(f"{name} {text}" for name, text in shown.items())
        + "), on cores such as those of benchmarks/README.md",
        f"write: {out}{'statistics.h5, ' * (d > 0)}{wanted.file_name}{scores}, about "
        f"{max(count * (400 + 24 * posterior.draws) / 1e6, 0.1):.1f} MB; nothing was written now"])
