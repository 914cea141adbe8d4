"""From predictions to posterior.h5: statistics, emulator, sampler; and the direct network's shortcut."""
import numpy as np

from . import report, statistics, store
from .checks import InputError, choice, positive
from .cli import Progress, say
from .params import HOLDOUT, PARAMS, STATISTICS, TEST


def settings_of(args):
    """What a posterior depends on beyond its predictions, checked. Raises InputError."""
    settings = {"smooth": choice("--smooth", args.smooth, ("auto", "none", "always")), "prior": args.prior,
                "sampler": args.sampler}
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
    path = run.out / "posterior.h5"
    if path.exists() and not run.args.force:
        run.compare_settings(path, "posterior", {**run.settings, **prediction_settings(run), **settings})


def prediction_settings(run):
    """What predictions.h5 depends on beyond the maps and their split, checked. Raises InputError."""
    from . import pipeline
    if run.method == "spectrum":
        return {"n_bin": 10, "ell_min": 100.0, "ell_max": 10000.0}
    return {**pipeline.training_settings(run.args), "views": run.args.views,
            "statistics_fraction": run.args.statistics_fraction}


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
    chosen = np.flatnonzero(((split == TEST) & (run.target != "holdout")) | ((split == HOLDOUT) & (run.target != "test")))
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
    return write_posterior(run, predictions, chosen, summary, settings, inputs, chains, constant)


def infer_direct(run, predictions):
    """posterior.h5 from a network's own means and error bars. Returns its path."""
    data = predictions.groups["predictions"]
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if run.reuse("posterior.h5", "posterior", predictions.settings, inputs) is not None:
        return run.out / "posterior.h5"
    chosen = np.flatnonzero(np.isin(data["split"], (HOLDOUT, TEST)))
    from . import posterior
    summary = posterior.gaussian(data["estimate"][chosen], data["sd"][chosen])
    return write_posterior(run, predictions, chosen, summary, predictions.settings, inputs)


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
    report.save(result)
    print(report.table([result]))
    print(report.details(result))
