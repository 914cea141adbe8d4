"""What a notebook needs: a set of maps, its predictions, posteriors, scores, and new maps.

    import wl
    maps = wl.simulate_set("data/small", cosmologies=8, realisations=10, test=20)
    predictions = wl.predict(maps, "data/runs/small", model="statistics")
    posterior = wl.infer(predictions, "data/runs/small", sampler="exact")
    print(wl.score(posterior)["score"])

Options are those of the command line, with _ for -, and have the same defaults and checks. What was
done before is not repeated. Mistakes raise wl.core.checks.InputError, and nothing ends the process.
"""
import dataclasses
import difflib
import pathlib

from .core import cli
from .core.checks import InputError


def open_set(folder, release: str = "auto"):
    """Open a data set in the public layout: a maps.dataset.MapSet, read from disk when needed.

    folder: str or Path
    release: str, which of several releases in the folder
    Raises InputError.

        maps = wl.open_set("data/small")
        print(maps.kappa.shape, maps.theta)
    """
    from .maps import dataset
    return dataset.open_set(folder, release)


def simulate_set(folder, *, processes: int | None = 1, quiet: bool = True, **options):
    """Simulate a data set, or go on with one, and open it.

    folder: str or Path
    processes: int, None for all CPUs; a notebook's own process can draw with 1 alone
    quiet: bool, whether no progress is shown
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

    maps: MapSet of open_set()
    out: str or Path, folder of the results
    method: str, "network", "spectrum", or "direct" for a network with error bars
    seed, threads: ints, of everything random; None for all CPUs
    force, quiet: bools, as on the command line
    options: of the maps and the network; model_options a dict
    Returns a core.hdf5.File. Raises InputError, RunError.

        predictions = wl.predict(maps, "data/runs/small", model="statistics", folds=2)
        print(predictions.groups["predictions"]["summaries"].shape)
    """
    from .maps.splits import MapOptions
    from .summaries import options as choices, predict as stage
    threads = _threads(threads)
    texts = choices.as_texts(options.pop("model_options", {}))
    own, network = _options(options, MapOptions, choices.NetworkOptions)
    if method == choices.SPECTRUM:
        network = dataclasses.replace(network, method=method, model=choices.SPECTRUM)
    else:
        filled = choices.model_options(network.model, texts)
        network = dataclasses.replace(network, method=method, model_options=filled)
    network = dataclasses.replace(network, threads=threads)
    folder = _folder(out, seed, force, quiet)
    return stage.predict(stage.prepare(maps, own, network, folder))


def infer(predictions, out, *, seed: int = 1, threads: int | None = None, force: bool = False,
          quiet: bool = True, target: str | None = None, **options):
    """Posteriors of all maps that have summaries, in OUT/posterior.h5.

    predictions: core.hdf5.File of predict() or apply(), or the path of a predictions.h5
    out, seed, threads, force, quiet: as predict() takes them
    target: str, "test", "holdout" or "both"; None for what the predictions were made for
    options: of the posterior
    Returns a core.hdf5.File. Raises InputError, RunError.

        posterior = wl.infer(predictions, "data/runs/small", sampler="exact")
        print(posterior.groups["summary"]["posterior_mean"])
    """
    from .core import hdf5
    from .posterior import infer as stage
    from .posterior.options import PosteriorOptions, Wanted
    _threads(threads)
    if not isinstance(predictions, hdf5.File):
        predictions = hdf5.read(predictions, "predictions")
    (found,) = _options(options, PosteriorOptions)
    folder = _folder(out, seed, force, quiet)
    wanted = Wanted(target or predictions.settings["target"])
    n_emulator = stage.emulator_maps(predictions)[0].shape[1]
    stage.refuse_early(predictions.settings, n_emulator,
                       predictions.groups["constant_data"]["design"], found, folder, wanted)
    return hdf5.read(stage.infer(predictions, found, folder, wanted), "posterior")


def score(posterior, data=None) -> dict:
    """Scores of the maps whose truth is known, and all that stands in score.json.

    posterior: core.hdf5.File of infer(), or a path
    data: str or Path, folder with the label files, None for the set the posterior was made from
    Raises InputError.

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
        print(wl.infer(new, "data/runs/new", sampler="exact").groups["summary"]["p_value"])
    """
    from .posterior.options import Wanted
    from .summaries import apply as stage
    return stage.apply(stage.open_run(run), maps, Wanted("test").rows, _threads(threads), quiet)


def _threads(asked):
    threads = cli.thread_count(asked)
    cli.prepare_process(threads)
    return threads


def _folder(out, seed, force, quiet):
    from .core.files import lock
    from .core.hdf5 import Folder
    return Folder(pathlib.Path(out), None, seed, force, quiet, lock(out))


def _options(given, *classes):
    """Objects of classes of options, each with its share of what is given. Raises InputError."""
    known = {field.name: cls for cls in classes for field in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(f"{name}: no such option" + (f"; did you mean {near[0]}?" if near
                                                          else f" of {', '.join(known)}"))
    return [cls(**{name: v for name, v in given.items() if known[name] is cls}) for cls in classes]
