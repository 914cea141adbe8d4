"""From predictions to posterior.h5: statistics, emulator, sampler; and the direct network's shortcut."""
import numpy as np

from . import report, statistics, store
from .checks import InputError, positive
from .cli import Progress, say
from .params import HOLDOUT, PARAMS, STATISTICS, TEST, TRAIN

MOST_RECALIBRATED = 2000       # statistics maps whose posteriors set the temperature


def settings_of(args):
    """What a posterior depends on beyond its predictions, checked. Raises InputError."""
    settings = {"smooth": args.smooth, "prior": args.prior, "sampler": args.sampler, "recalibrate": args.recalibrate}
    nstep, sigma = positive("--nstep", args.nstep, integer=True), positive("--sigma", args.sigma)
    chains, draws = positive("--chains", args.chains, integer=True), args.draws
    if not 0.0 <= args.burn_in < 1.0:
        raise InputError(f"--burn-in: expected a fraction from 0 to below 1, got {args.burn_in}")
    if draws < 0:
        raise InputError(f"--draws: expected 0 or more maps, got {draws}")
    thin = None if args.thin is None else positive("--thin", args.thin, integer=True)
    if args.sampler == "metropolis":
        settings |= {"nstep": nstep, "sigma": sigma, "burn_in": args.burn_in, "chains": chains, "draws": draws,
                     "thin": thin}
    return settings


def refuse_early(run, settings):
    """Raise InputError, before any work, if the run cannot end well.

    That is: the folder holds a posterior made with other settings, or raw covariances are asked for with too
    few realisations.
    """
    if settings.get("smooth") == "none":
        statistics.check_count(int((run.split == STATISTICS).sum()), 10 if run.method == "spectrum" else len(PARAMS))
    if run.method != "direct" and settings["recalibrate"] != "none":
        n = int((run.split == STATISTICS).sum())
        if n < 3:
            raise InputError(f"--recalibrate {settings['recalibrate']}: expected at least 3 realisations of the "
                             f"statistics split, to leave some out in turn, got {n}; raise --statistics-fraction or "
                             "give --recalibrate none")
    path = run.out / "posterior.h5"
    if path.exists() and not run.args.force:
        run.compare_settings(path, "posterior", {**run.settings, **prediction_settings(run), **settings})


def prediction_settings(run):
    """What predictions.h5 depends on beyond the maps and their split, checked. Raises InputError."""
    from . import pipeline
    if run.method == "spectrum":
        # the fraction does not feed the statistics here, but decides which realisations are held out
        return {"n_bin": 10, "ell_min": 100.0, "ell_max": 10000.0,
                "statistics_fraction": run.args.statistics_fraction}
    return {**pipeline.training_settings(run.args, len(run.rows(TRAIN))), "views": run.args.views,
            "statistics_fraction": run.args.statistics_fraction}


def wanted_maps(run, split):
    """Indices of the maps that --target asks for, (n,)."""
    return np.flatnonzero(((split == TEST) & (run.target != "holdout")) | ((split == HOLDOUT) & (run.target != "test")))


def predict(run):
    """predictions.h5 of a run, made if need be. Returns the store.File."""
    from . import pipeline
    settings = prediction_settings(run)
    if run.method == "spectrum":
        return run.predictions(settings, pipeline.spectrum_predictions)
    return run.predictions(settings, pipeline.network_predictions)


def infer(run, predictions, settings):
    """Statistics, emulator and sampler: posterior.h5 of a run. Returns its path. Raises InputError."""
    args = run.args
    data = predictions.groups["predictions"]
    estimate, split, cosmology = data["estimate"], data["split"], data["cosmology"]
    settings = {**predictions.settings, **settings}
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if run.reuse("posterior.h5", "posterior", settings, inputs) is not None:
        return run.out / "posterior.h5"
    theta, d = predictions.groups["constant_data"]["design"], estimate.shape[1]
    stat = split == STATISTICS
    per = estimate[stat][np.argsort(cosmology[stat], kind="stable")].reshape(len(theta), -1, d)
    mean, covariance, count, orders = statistics.smoothed(theta, per, settings["smooth"], args.seed)
    say("mean and covariance per cosmology: " + ", ".join(
        f"{name} {'raw' if orders[name] < 0 else f'polynomial of order {orders[name]}'}"
        for name in ("mean", "covariance")), args.quiet)
    var = store.Var
    store.write(run.out / "statistics.h5", "statistics", {"statistics": {
        "theta": var(("cosmology", "param"), theta), "mean": var(("cosmology", "summary"), mean),
        "covariance": var(("cosmology", "summary", "summary_2"), covariance),
        "count": var(("cosmology",), count)}}, coords={"param": np.array(PARAMS)},
        settings={**settings, "orders": orders}, seed=args.seed, inputs=inputs)

    from . import emulator as emulate, sampler
    emulator = emulate.build(theta, mean, covariance, prior=settings["prior"])
    chosen = wanted_maps(run, split)
    wanted = np.ascontiguousarray(estimate[chosen])
    progress = Progress(len(chosen), f"sampling {len(chosen)} maps", args.quiet)
    if settings["sampler"] == "exact":
        chains = sampler.exact(emulator, wanted)
    else:
        options = {k: settings[k] for k in ("nstep", "sigma", "burn_in", "chains", "draws", "thin")}
        chains = sampler.metropolis(emulator, wanted, seed=args.seed, map_index=chosen, progress=progress, **options)
    progress.close()
    from . import posterior
    at_mean, spread, _ = emulator.interpolate(chains.mean)
    summary = posterior.summarise(chains, wanted, at_mean, spread)
    for warning in posterior.warnings(summary):
        say(f"warning: {warning}", args.quiet)
    constant = {"vertex_log_prior": var(("cosmology",), emulator.vertex_log_prior)}
    if settings["recalibrate"] == "temperature":
        factor = fit_temperature(theta, per, settings, args.seed)
        summary["errorbar"] = summary["sd"] * factor
        constant["temperature"] = var(("param",), factor)
        say("error bars times " + ", ".join(f"{f:.3f} ({p})" for f, p in zip(factor, PARAMS)), args.quiet)
    return write_posterior(run, predictions, chosen, summary, settings, inputs, chains, constant)


def fit_temperature(theta, estimate, settings, seed, folds=4):
    """Factor of the error bars, (2,), from posteriors of statistics maps that their own emulator has not seen.

    theta: (n_cosmology, 2); estimate: (n_cosmology, n_realisation, d) of the statistics split. Each fold of
    realisations gets exact posteriors with mean and covariance of the others.
    """
    from . import emulator, posterior, sampler
    n, parts = estimate.shape[1], []
    for k in range(min(folds, n)):
        fold = np.arange(k, n, folds)
        rest = np.setdiff1d(np.arange(n), fold)
        smooth = settings["smooth"] if len(rest) > estimate.shape[2] + 2 else "always"     # a fold is smaller
        mean, covariance = statistics.smoothed(theta, estimate[:, rest], smooth, seed)[:2]
        some = fold[:max(1, MOST_RECALIBRATED // (folds * len(theta)))]
        known = sampler.exact(emulator.build(theta, mean, covariance, prior=settings["prior"]),
                              np.ascontiguousarray(estimate[:, some].reshape(-1, estimate.shape[2])))
        parts.append((np.repeat(theta, len(some), axis=0), known.mean, known.sd))
    return posterior.temperature(*(np.concatenate(p) for p in zip(*parts)))


def infer_direct(run, predictions, settings):
    """posterior.h5 from a network's own means and error bars. Returns its path."""
    data, settings = predictions.groups["predictions"], {**predictions.settings, **settings}
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if run.reuse("posterior.h5", "posterior", settings, inputs) is not None:
        return run.out / "posterior.h5"
    chosen = wanted_maps(run, data["split"])
    from . import posterior
    summary = posterior.gaussian(data["estimate"][chosen], data["sd"][chosen])
    constant = {}
    if settings["recalibrate"] == "temperature":
        stat = data["split"] == STATISTICS
        truth = predictions.groups["constant_data"]["design"][data["cosmology"][stat]]
        factor = posterior.temperature(truth, data["estimate"][stat], data["sd"][stat])
        summary["errorbar"] = summary["sd"] * factor
        constant["temperature"] = store.Var(("param",), factor)
    return write_posterior(run, predictions, chosen, summary, settings, inputs, constant=constant)


def write_posterior(run, predictions, chosen, summary, settings, inputs, chains=None, constant=None):
    """posterior.h5 in the layout of the README, the same whatever the method. Returns its path."""
    var, data = store.Var, predictions.groups["predictions"]
    per_param = {name for name, value in summary.items() if np.ndim(value) == 2}
    groups = {"summary": {name: var(("map", "param") if name in per_param else ("map",), value)
                          for name, value in summary.items()}}
    if chains is not None and chains.draws.size:
        first = slice(0, len(chains.draws))
        draws = np.moveaxis(chains.draws, 0, 2)                     # (chain, draw, map, param)
        groups["posterior"] = {p: var(("chain", "draw", "map"), draws[..., i]) for i, p in enumerate(PARAMS)}
        groups["sample_stats"] = {"lp": var(("chain", "draw", "map"), np.moveaxis(chains.lp, 0, 2))}
    groups["observed_data"] = {
        "estimate": var(("map", "summary"), data["estimate"][chosen]),
        **{name: var(("map",), data[name][chosen]) for name in ("split", "cosmology", "realisation")}}
    groups["constant_data"] = {"design": var(("cosmology", "param"), predictions.groups["constant_data"]["design"]),
                               **(constant or {})}
    path = run.out / "posterior.h5"
    coords = {"map": chosen, "param": np.array(PARAMS)}
    for group in ("posterior", "sample_stats"):
        if group in groups:
            coords[group, "map"] = chosen[:len(chains.draws)]
    store.write(path, "posterior", groups, coords=coords, settings=settings, seed=run.args.seed, inputs=inputs)
    return path


def report_on(path, args):
    """Score a posterior, save score.json, print the table."""
    result = report.score_posterior(path, seed=args.seed)
    print(report.table([result]))
    print(report.details(result))
    try:
        report.save(result)
    except InputError as error:                     # a finished run on a disk that is only read from now on
        say(f"warning: {error}")
