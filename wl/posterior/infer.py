"""From predictions.h5 to posterior.h5: covariance, emulator, sampler; or a network's own bars."""
import dataclasses
import pathlib
from collections import namedtuple

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, RunError, triangulate
from ..core.hdf5 import Folder, Var
from ..core.params import EMULATOR, LEVELS, PARAMS
from ..core.progress import Progress, say, warn
from . import covariance
from .options import PRIORS, PosteriorOptions, Wanted

MAX_RECALIBRATED = 10_000       # emulator maps whose posteriors recalibrate the error bars
RECALIBRATION_FOLDS = 4
MAX_PRIOR_LOSS = 0.1           # of ln density between the design's points, without a warning

Known = namedtuple("Known", "truth mean sd pit")
Known.__doc__ = """Maps of known cosmology and their posteriors, (n, 2) each."""


def infer(predictions: hdf5.File, options: PosteriorOptions, folder: Folder,
          wanted: Wanted) -> pathlib.Path:
    """Make posterior.h5, or a shard of it, from a file of summaries.

    predictions: hdf5.File, a predictions.h5
    options: PosteriorOptions
    folder: Folder, where it goes
    wanted: Wanted, which maps
    Returns the path. Raises InputError where files with other settings stand in the way, RunError
    where a chain never moved.
    """
    direct = predictions.settings["method"] == "direct"
    settings = {**predictions.settings, "target": wanted.target, **options.stored(direct)}
    inputs = _inputs(predictions, options, direct)
    of_file = {**settings, **wanted.stored()}
    whole = direct or folder.is_whole("statistics.h5", "statistics")
    path = folder.out / wanted.file_name
    if folder.reuse(path.name, "posterior", of_file, inputs) is not None and whole:
        return path
    chosen = wanted.rows(predictions.groups["predictions"]["split"])
    if direct:
        chains, constant = None, {}
        summary, known = _from_network(predictions, options, chosen)
    else:
        emulator, per, constant = _emulator(predictions, options, folder, settings, inputs)
        summary, chains, more = _sample(predictions, options, folder, emulator, wanted)
        constant |= more
        _refuse_stuck(summary, options, path)
        known = held_out(emulator, per, options, folder.seed)
    if known is not None:
        summary, more = _recalibrated(summary, known, options, folder.quiet)
        constant |= more
    groups, coords = _groups(predictions, chosen, summary, chains, constant)
    folder.write(path.name, "posterior", groups, coords=coords, settings=of_file, inputs=inputs,
                 origin=predictions.origin)
    return path


def refuse_early(settings: dict, n_emulator: int, theta: np.ndarray, options: PosteriorOptions,
                 folder: Folder, wanted: Wanted) -> None:
    """Raise InputError, before any work, if the inference cannot end well.

    The reasons: a design without area, too few realisations for raw covariances or for
    recalibration, a prior's file that is no prior, a posterior with other settings in the folder.
    settings: dict, of the predictions that are there or still to be made
    n_emulator: int, realisations per cosmology of the emulator split
    theta: (n_cosmology, 2), the design
    options, folder, wanted: as infer() takes them
    """
    direct = settings["method"] == "direct"
    triangulate("design", theta)
    if not direct:
        if options.prior not in PRIORS:
            from .emulator import read_prior
            read_prior(options.prior, theta)
        if options.smooth == "none":
            covariance.check_count(n_emulator, settings.get("n_bin", len(PARAMS)))
        if options.recalibrate != "none" and n_emulator < 3:
            raise InputError(f"--recalibrate {options.recalibrate}: expected at least 3 "
                             "realisations of the emulator split, to leave some out in turn, got "
                             f"{n_emulator}; raise --emulator-fraction or give --recalibrate none")
    made = {**settings, "target": wanted.target, **options.stored(direct), **wanted.stored()}
    folder.refuse_other(wanted.file_name, "posterior", made)


def emulator_maps(predictions: hdf5.File) -> tuple:
    """Summaries of the emulator split, comparable with those of the maps to infer.

    predictions: hdf5.File
    Returns summaries (n_cosmology, n_realisation, d), with folds rescaled to scatter like a mean
    over them, and the maps' rows in the file (n_cosmology x n_realisation,), cosmology by
    cosmology.
    """
    data, constant = predictions.groups["predictions"], predictions.groups["constant_data"]
    rows = np.flatnonzero(data["split"] == EMULATOR)
    rows = rows[np.argsort(data["cosmology"][rows], kind="stable")]
    per = data["summaries"][rows].reshape(len(constant["design"]), -1, data["summaries"].shape[1])
    if "between" in constant:
        per = covariance.as_average(per, constant["between"], int(data["fold"].max()) + 1)
    return per, rows


def held_out(emulator, per: np.ndarray, options: PosteriorOptions, seed: int) -> Known | None:
    """Exact posteriors of emulator maps, each by an emulator that has not seen its realisation.

    Error bars are fitted on these. Each fold of realisations gets mean and covariance of the
    others.
    emulator: emulator.Emulator, for its design and prior
    per: (n_cosmology, n_realisation, d), summaries of the emulator split
    options: PosteriorOptions
    seed: int
    Returns None where nothing is recalibrated.
    """
    if options.recalibrate == "none":
        return None
    from . import emulator as emulators, quadrature
    from .posterior import join
    from .posterior import pit_quantiles
    theta, n, truth, parts = emulator.theta, per.shape[1], [], []
    max_maps = max(1, MAX_RECALIBRATED // (RECALIBRATION_FOLDS * len(theta)))
    for k in range(min(RECALIBRATION_FOLDS, n)):
        fold = np.arange(k, n, RECALIBRATION_FOLDS)
        rest = np.setdiff1d(np.arange(n), fold)
        enough = len(rest) > per.shape[2] + 2              # the rest is smaller than the split
        mean, spread, *_ = covariance.smoothed(theta, per[:, rest],
                                               options.smooth if enough else "always", seed)
        some = fold[:max_maps]
        truth.append(np.repeat(theta, len(some), axis=0))
        other = emulators.build(theta, mean, spread, prior=emulator.vertex_log_prior)
        summaries = np.ascontiguousarray(per[:, some].reshape(-1, per.shape[2]))
        parts.append(quadrature.exact(other, summaries))
    truth, chains = np.concatenate(truth), join(parts)
    quantiles = [getattr(chains, name) for name in LEVELS]
    return Known(truth, chains.mean, chains.sd,
                 pit_quantiles(truth, list(LEVELS.values()), quantiles))


def prior_of(prior: str, theta: np.ndarray) -> str | np.ndarray:
    """What emulator.build() takes as prior.

    prior: str, of PRIORS or a file
    theta: (n, 2), the design
    Returns the word, or (n,) log densities from the file; warns where the design is too coarse for
    it.
    """
    if prior in PRIORS:
        return prior
    from .emulator import read_prior
    values, lost = read_prior(prior, theta)
    if lost > MAX_PRIOR_LOSS:
        warn(f"--prior {prior}: is finer than the design's cosmologies, between which ln density "
             f"is linear; rms difference {lost:.2f} where it matters")
    return values


def _inputs(predictions, options, direct):
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if not direct and options.prior not in PRIORS:
        inputs["prior"] = hdf5.digest_file(options.prior)
    return inputs


def _emulator(predictions, options, folder, settings, inputs):
    """The emulator, its summaries, and its part of the posterior's file; writes statistics.h5."""
    from . import emulator as emulators
    theta = predictions.groups["constant_data"]["design"]
    per, _ = emulator_maps(predictions)
    mean, spread, count, orders = covariance.smoothed(theta, per, options.smooth, folder.seed)
    say("mean and covariance per cosmology: " + ", ".join(
        f"{kind} {'raw' if orders[kind] < 0 else f'polynomial of order {orders[kind]}'}"
        for kind in ("mean", "covariance")), folder.quiet)
    group = {"theta": Var(("cosmology", "param"), theta),
             "mean": Var(("cosmology", "summary"), mean),
             "covariance": Var(("cosmology", "summary", "summary_2"), spread),
             "count": Var(("cosmology",), count)}
    folder.write("statistics.h5", "statistics", {"statistics": group},
                 coords={"param": np.array(PARAMS)}, settings={**settings, "orders": orders},
                 inputs=inputs, origin=predictions.origin)
    made = emulators.build(theta, mean, spread, prior=prior_of(options.prior, theta))
    return made, per, {"vertex_log_prior": Var(("cosmology",), made.vertex_log_prior)}


def _sample(predictions, options, folder, emulator, wanted):
    """The summary of each chosen map's posterior, its chains, and more for /constant_data."""
    from . import metropolis, posterior, quadrature
    data, ids = predictions.groups["predictions"], predictions.coords["predictions"]["map"]
    chosen = wanted.rows(data["split"])
    summaries, more = np.ascontiguousarray(data["summaries"][chosen]), {}
    progress = Progress(len(chosen), f"sampling {len(chosen)} maps", folder.quiet)
    if options.sampler == "exact":
        chains = quadrature.exact(emulator, summaries)
    else:
        # a network's summaries are guesses of the parameters
        guess = summaries if predictions.settings["method"] == "network" else None
        chains = metropolis.metropolis(emulator, summaries, options, seed=folder.seed,
                                       map_index=ids[chosen].astype(np.int64), guess=guess,
                                       draws=wanted.position(options.draws), progress=progress)
    progress.close()
    if options.sampler == "exact":
        every = dataclasses.replace(wanted, shard=None).rows(data["split"])    # of all shards
        error = quadrature.quadrature_error(emulator, data["summaries"][every])
        more["quadrature_error"] = Var(("order",), error)
        say(f"quadrature: order {quadrature.ORDER} is within {error[1]:.1g} sd of order 12, order "
            f"6 within {error[0]:.1g}", folder.quiet)
    at_mean, spread, _ = emulator.interpolate(chains.mean)
    return posterior.summarise(chains, summaries, at_mean, spread), chains, more


def _from_network(predictions, options, chosen):
    """A network's own means and error bars as posteriors, and those of emulator maps, Known."""
    from . import posterior
    data = predictions.groups["predictions"]
    summary = posterior.gaussian(data["summaries"][chosen], data["sd"][chosen])
    if options.recalibrate == "none":
        return summary, None
    per, rows = emulator_maps(predictions)
    truth = predictions.groups["constant_data"]["design"][data["cosmology"][rows]]
    mean, sd = per.reshape(-1, per.shape[2]), data["sd"][rows]
    return summary, Known(truth, mean, sd, posterior.pit(truth, mean, sd))


def _recalibrated(summary, known, options, quiet):
    """A summary with recalibrated error bars and quantiles, and the curves for /constant_data."""
    from . import posterior
    more, learnt = posterior.recalibrate(options.recalibrate, summary, *known)
    say("error bars times " + ", ".join(
        f"{f:.3f} ({p})" for f, p in zip(learnt["temperature"], PARAMS)), quiet)
    dims = {"temperature": ("param",), "recalibration": ("knot", "param")}
    return summary | more, {name: Var(dims[name], value) for name, value in learnt.items()}


def _refuse_stuck(summary, options, path):
    """Raise RunError where a chain never moved: it says nothing of its map."""
    from . import posterior
    stuck = posterior.stuck(summary)
    if stuck:
        raise RunError(f"{path}: not written: {stuck} of {len(summary['mean'])} chains never moved "
                       f"in the {options.kept} steps they keep; raise --nstep, or set --sigma for "
                       "an acceptance of 0.2 to 0.5")
    for warning in posterior.warnings(summary):
        warn(warning)


def _groups(predictions, chosen, summary, chains, constant):
    """The groups and coordinates of posterior.h5, the same whatever the method."""
    data, named = predictions.groups["predictions"], predictions.coords["predictions"]
    groups = {"summary": {name: Var(("map", "param")[:np.ndim(value)], value)
                          for name, value in summary.items()}}
    groups["summary"] |= {name: Var(("map",), values[chosen]) for name, values in data.items()
                          if name.startswith("p_value_")}
    ids = named["map"][chosen]
    coords = {"map": ids, "param": np.array(PARAMS), "summary": named["summary"]}
    if chains is not None and chains.draws.size:
        draws = np.moveaxis(chains.draws, 0, 2)                     # (chain, draw, map, param)
        dims = ("chain", "draw", "map")
        groups["posterior"] = {p: Var(dims, draws[..., i]) for i, p in enumerate(PARAMS)}
        groups["sample_stats"] = {"lp": Var(dims, np.moveaxis(chains.lp, 0, 2))}
        coords["posterior", "map"] = coords["sample_stats", "map"] = ids[:len(chains.draws)]
    groups["observed_data"] = {
        "summaries": Var(("map", "summary"), data["summaries"][chosen]),
        **{n: Var(("map",), data[n][chosen]) for n in ("split", "cosmology", "realisation")}}
    design = predictions.groups["constant_data"]["design"]
    groups["constant_data"] = {"design": Var(("cosmology", "param"), design), **constant}
    return groups, coords
