"""From predictions.h5 to posterior.h5: covariance, emulator, sampler; or a network's own bars."""
import pathlib

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, RunError, triangulate
from ..core.hdf5 import Folder, Var
from ..core.params import EMULATOR, LEVELS, NAMES, PARAMS, SPLITS
from ..core.progress import Progress, say, warn
from . import covariance, posterior
from .options import PRIORS, PosteriorOptions, Wanted

MAX_RECALIBRATED = 10_000       # emulator maps whose posteriors recalibrate the error bars
RECALIBRATION_FOLDS = 12       # with few, nuisances that all cosmologies share widen the bars
MAX_PRIOR_LOSS = 0.1           # of ln density between the design's points, without a warning
MAX_NAMED = 5                  # maps that a warning names
ORDERS = np.array(["moments by order 6", "moments by order 8", "quantiles"])  # quadrature_error's
IS_COORDINATE = {"coordinates": "kind"}        # of xarray, beside the dimensions


def infer(predictions: hdf5.File, options: PosteriorOptions, folder: Folder,
          wanted: Wanted) -> pathlib.Path:
    """Make posterior.h5, or a shard of it, from a file of summaries, and return its path.

    predictions: hdf5.File, a predictions.h5; options: PosteriorOptions
    folder: Folder, where it goes; wanted: Wanted, which maps
    Raises InputError where files with other settings stand in the way, RunError where no chain ever
    moved; a map whose chain alone never moved is named and gets NaN.
    """
    data, design = predictions.groups["predictions"], predictions.groups["constant_data"]["design"]
    direct = predictions.settings["method"] == "direct"
    settings = {**predictions.settings, "target": wanted.target, **options.stored(direct)}
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if not direct and options.prior not in PRIORS:
        inputs["prior"] = hdf5.digest_file(options.prior)
    of_file, path = {**settings, **wanted.stored()}, folder.out / wanted.file_name
    whole = direct or folder.is_whole("statistics.h5", "statistics")
    if folder.reuse(path.name, "posterior", of_file, inputs) is not None and whole:
        return path
    chosen, chains, constant = wanted.rows(data["split"]), None, {}
    # by their numbers, as joined shards are
    chosen = chosen[np.argsort(predictions.coords["predictions"]["map"][chosen], kind="stable")]
    if direct:
        per, rows = emulator_maps(predictions)
        summary = posterior.gaussian(data["summaries"][chosen], data["sd"][chosen])
        result = posterior.gaussian(per.reshape(-1, per.shape[2]), data["sd"][rows])
        known = design[data["cosmology"][rows]], result
        pull = (known[0] - result["mean"]) / result["sd"]     # a network gives no correlation
        for one in (summary, result):
            one["correlation"] += np.corrcoef(pull.T)[0, 1]
    else:
        emulator, per, constant = _emulator(predictions, options, folder, settings, inputs)
        summary, chains, more = _sample(predictions, options, folder, emulator, wanted, chosen)
        constant |= more
    if options.recalibrate != "none":
        if not direct:
            known = _held_out(emulator, per, options, folder)
        more, learnt = posterior.recalibrate(options.recalibrate, summary, *known, design)
        summary |= more
        constant |= {name: Var(("knot", "param")[-v.ndim:], v) for name, v in learnt.items()}
        said = [f"error bars times {f:.3f} ({p})" for f, p in zip(learnt["temperature"], PARAMS)]
        if "widening" in learnt:
            said.append("quantiles at the hull {:.2f} and {:.2f} times wider (at most {:g})".format(
                *learnt["widening"], posterior.MAX_WIDENING))
        say(", ".join(said), folder.quiet)
    if "p_value_all" in data:               # sees strange maps that fit the summaries well
        summary["flag"][data["p_value_all"][chosen] < posterior.MIN_P_VALUE] |= posterior.STRANGE
    groups, coords = _groups(predictions, chosen, summary, constant, chains, options)
    folder.write(path.name, "posterior", groups, coords=coords, settings=of_file, inputs=inputs,
                 origin=predictions.origin)
    return path


def refuse_early(settings: dict, n_emulator: int, theta: np.ndarray, options: PosteriorOptions,
                 folder: Folder, wanted: Wanted) -> None:
    """Raise InputError, before any work, if the inference cannot end well.

    settings: dict, of the predictions that are there or still to be made
    n_emulator: int, realisations per cosmology of the emulator split; theta: (n_cosmology, 2)
    options, folder, wanted: as infer() takes them
    """
    direct = settings["method"] == "direct"
    triangulate("design", theta)
    if not direct:
        if options.prior not in PRIORS:
            from .emulator import read_prior
            read_prior(options.prior, theta)
        if options.smooth == "none":
            d = settings.get("n_summary") or settings.get("n_bin", len(PARAMS))
            covariance.check_count(n_emulator, d)
        if options.recalibrate != "none" and n_emulator < 3:
            raise InputError(f"--recalibrate: expected at least 3 realisations of the emulator "
                             f"split, got {n_emulator}; raise --emulator-fraction or give none")
    made = {**settings, "target": wanted.target, **options.stored(direct), **wanted.stored()}
    folder.refuse_other(wanted.file_name, "posterior", made)


def emulator_maps(predictions: hdf5.File) -> tuple:
    """Summaries of the emulator split, comparable with those of the maps to infer.

    Returns summaries (n_cosmology, n_realisation, d) of the File, with folds rescaled to scatter
    like a mean over them, and the maps' rows in it, cosmology by cosmology.
    """
    data, constant = predictions.groups["predictions"], predictions.groups["constant_data"]
    rows = np.flatnonzero(data["split"] == EMULATOR)
    rows = rows[np.argsort(data["cosmology"][rows], kind="stable")]
    per = data["summaries"][rows].reshape(len(constant["design"]), -1, data["summaries"].shape[1])
    if "between" in constant:
        per = covariance.as_average(per, constant["between"], int(data["fold"].max()) + 1)
    return per, rows


def _held_out(emulator, per, options, folder):
    """Cosmologies of emulator maps, and posteriors by emulators without their realisations."""
    from . import emulator as emulators, quadrature
    theta, n, truth, parts = emulator.theta[:len(per)], per.shape[1], [], []
    prior = "design" if options.prior == "design" else emulator.vertex_log_prior
    max_maps = max(1, MAX_RECALIBRATED // (RECALIBRATION_FOLDS * len(theta)))
    progress = Progress(min(RECALIBRATION_FOLDS, n), "recalibrating", folder.quiet)
    for k in range(min(RECALIBRATION_FOLDS, n)):
        fold = np.arange(k, n, RECALIBRATION_FOLDS)
        rest = np.setdiff1d(np.arange(n), fold)
        smooth = options.smooth if len(rest) > per.shape[2] + 2 else "always"
        mean, spread, _ = covariance.smoothed(theta, per[:, rest], smooth, folder.seed)
        # other realisations at each cosmology: they may share seeds
        size = min(max_maps, len(fold))
        some = fold[np.arange(len(theta) * size).reshape(-1, size) % len(fold)]
        truth.append(np.repeat(theta, size, axis=0))
        other = emulators.build(theta, mean, spread, prior=prior)
        summaries = np.take_along_axis(per, some[..., None], axis=1).reshape(-1, per.shape[2])
        parts.append(quadrature.exact(other, summaries))
        progress.update(1)
    progress.close()
    return np.concatenate(truth), {name: np.concatenate([getattr(part, name) for part in parts])
                                   for name in ("mean", "sd", "correlation", *LEVELS)}


def load_emulator(folder):
    """The emulator of a finished run, from posterior.h5 in its folder. Raises InputError."""
    from .emulator import Emulator
    file = hdf5.read(pathlib.Path(folder, "posterior.h5"), "posterior", groups=("constant_data",))
    try:
        theta, *values = (file.groups["constant_data"][f"vertex_{name}"]
                          for name in ("theta", "mean", "covariance", "log_prior"))
    except KeyError:
        raise InputError(f"{file.path}: expected a run of run_mcmc.py, got one without emulator; "
                         "give another, or repeat the run with --force") from None
    return Emulator(theta, *triangulate("design", theta), *values)


def _emulator(predictions, options, folder, settings, inputs):
    """The emulator, its summaries, and its part of the posterior's file; writes statistics.h5."""
    from . import emulator as emulators
    theta, names = (predictions.groups["constant_data"]["design"],
                    predictions.coords["predictions"]["summary"])
    per, _ = emulator_maps(predictions)
    mean, spread, orders = covariance.smoothed(theta, per, options.smooth, folder.seed)
    say("mean and covariance per cosmology: " + ", ".join(
        f"{kind} {'raw' if orders[kind] < 0 else f'polynomial of order {orders[kind]}'}"
        for kind in ("mean", "covariance")), folder.quiet)
    group = {"theta": Var(("cosmology", "param"), theta),
             "summary_mean": Var(("cosmology", "summary"), mean),
             "covariance": Var(("cosmology", "summary", "summary_2"), spread),
             "n_maps": Var(("cosmology",), np.full(len(theta), per.shape[1]))}
    folder.refuse_other("statistics.h5", "statistics", {**settings, "orders": orders})
    folder.write("statistics.h5", "statistics", {"statistics": group},
                 coords={"param": np.array(PARAMS), "summary": names, "summary_2": names},
                 settings={**settings, "orders": orders}, inputs=inputs, origin=predictions.origin)
    prior = options.prior
    if prior not in PRIORS:
        prior, lost = emulators.read_prior(prior, theta)
        if lost > MAX_PRIOR_LOSS:
            warn(f"--prior {options.prior}: is finer than the design's cosmologies, between which "
                 f"ln density is linear; rms difference {lost:.2f} where it matters")
    made = emulators.build(theta, mean, spread, prior=prior)
    return made, per, {"vertex_theta": Var(("vertex", "param"), made.theta),
                       "vertex_mean": Var(("vertex", "summary"), made.mean),
                       "vertex_covariance": Var(("vertex", "summary", "summary_2"),
                                                made.covariance),
                       "vertex_log_prior": Var(("vertex",), made.vertex_log_prior)}


def _sample(predictions, options, folder, emulator, wanted, chosen):
    """The summary of each chosen map's posterior, its chains, and more for /constant_data."""
    from . import metropolis, quadrature
    data = predictions.groups["predictions"]
    ids, more = predictions.coords["predictions"]["map"][chosen].astype(np.int64), {}
    summaries, keep = data["summaries"][chosen], options.drawn(ids)
    progress = Progress(len(chosen), f"sampling {len(chosen)} maps", folder.quiet)
    if options.sampler == "exact":
        chains = quadrature.exact(emulator, summaries)
        if keep.size:
            chains.draws = quadrature.draw(emulator, summaries[keep], options.draws,
                                           seed=folder.seed, map_index=ids[keep])
        every = Wanted(wanted.target).rows(data["split"])                      # of all shards
        error = quadrature.quadrature_error(emulator, data["summaries"][every])
        more["quadrature_error"] = Var(("order",), error)
        progress.note = f"within {error[1:].max():.1g} sd of a finer quadrature"
    else:
        guess = summaries if predictions.settings["method"] == "network" else None
        chains = metropolis.metropolis(emulator, summaries, options, seed=folder.seed,
                                       map_index=ids, guess=guess, keep=keep, progress=progress)
    progress.close()
    at_mean, spread, _ = emulator.interpolate(chains.mean)
    summary = posterior.summarise(chains, summaries, at_mean, spread)
    stuck, path = ids[(summary["flag"] & posterior.STUCK) > 0], folder.out / wanted.file_name
    if len(stuck) == len(ids):
        raise RunError(f"{path}: not written: the chains never moved in the {options.kept} steps "
                       "they keep; raise --nstep, or set --sigma for an acceptance of 0.2 to 0.5")
    if len(stuck):
        named = ", ".join(map(str, stuck[:MAX_NAMED])) + ", ..." * (len(stuck) > MAX_NAMED)
        warn(f"{path}: the posterior of {len(stuck)} of {len(ids)} maps is NaN (map {named}): "
             "their chains never moved, their summaries lie far from all of the emulator's")
    return summary, chains, more


def _groups(predictions, chosen, summary, constant, chains, options):
    """The groups and coordinates of posterior.h5; draws in float32, which holds them to 3e-8."""
    data, named = predictions.groups["predictions"], predictions.coords["predictions"]
    kind = Var(("map",), np.array(SPLITS)[data["split"][chosen]])
    groups = {"summary": {NAMES.get(name, name): Var(("map", "param")[:np.ndim(value)], value,
                                                     IS_COORDINATE)
                          for name, value in summary.items()} | {"kind": kind}}
    groups["summary"] |= {name: Var(("map",), values[chosen]) for name, values in data.items()
                          if name.startswith("p_value_")}
    coords = {"map": named["map"][chosen], "param": np.array(PARAMS), "summary": named["summary"],
              "summary_2": named["summary"], "knot": posterior.KNOT_SCORES, "order": ORDERS}
    groups["observed_data"] = {
        **{n: Var(("map",), data[n][chosen]) for n in ("split", "cosmology", "realisation")},
        "summaries": Var(("map", "summary"), data["summaries"][chosen], IS_COORDINATE),
        "kind": kind}
    design = predictions.groups["constant_data"]["design"]
    groups["constant_data"] = {"design": Var(("cosmology", "param"), design), **constant}
    if chains is None or chains.draws is None or not chains.draws.size:
        return groups, coords
    dims, keep = ("chain", "draw", "map"), options.drawn(coords["map"])
    sampled = {"posterior": {p: chains.draws[..., i] for i, p in enumerate(PARAMS)}}
    if chains.lp is not None:
        sampled["sample_stats"] = {"lp": chains.lp}
    for group, named in sampled.items():
        groups[group] = {name: Var(dims, np.moveaxis(v.astype(np.float32), 0, 2), IS_COORDINATE)
                         for name, v in named.items()}
        groups[group]["kind"] = Var(("map",), kind.values[keep])
        coords[group, "map"] = coords["map"][keep]
        if options.sampler == "metropolis":
            coords[group, "draw"] = (options.burn + options.draw_steps).astype(np.int32)
    return groups, coords
