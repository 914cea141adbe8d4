"""From predictions to posterior.h5: statistics, emulator, sampler; and the direct network's shortcut."""
import numpy as np

from ..summaries import pipeline
from . import shards, covariance as statistics
from ..core import hdf5
from ..core.checks import InputError, RunError, positive
from ..core.progress import say, warn
from ..simulate.locate import DEFAULT_DATA
from ..core.params import HOLDOUT, PARAMS, STATISTICS, TEST
from ..core.provenance import refuse_difference
from ..core.variables import LEVELS

MOST_RECALIBRATED = 2000       # statistics maps whose posteriors recalibrate the error bars
PRIORS = ("design", "flat")    # anything else is a file
MOST_STEPS = 2**31             # of all chains of a map: the kernels count in 32 bits
LEAST_DRAWS = 4                # of a chain, for an R-hat
LOST = 0.1                     # ln density that a prior's file may lose between the design's points unsaid


def settings_of(args):
    """What a posterior depends on beyond its predictions, checked. args: of either script. Raises InputError."""
    if "sampler" not in args:                             # run_direct.py
        return {"recalibrate": args.recalibrate}
    settings = {"smooth": args.smooth, "prior": args.prior, "sampler": args.sampler,
                "recalibrate": args.recalibrate}
    nstep, sigma = positive("--nstep", args.nstep, integer=True), positive("--sigma", args.sigma)
    chains, draws = positive("--chains", args.chains, integer=True), args.draws
    if not 0.0 <= args.burn_in < 1.0:
        raise InputError(f"--burn-in: expected a fraction from 0 to below 1, got {args.burn_in}")
    if draws < 0:
        raise InputError(f"--draws: expected 0 or more maps, got {draws}")
    thin = None if args.thin is None else positive("--thin", args.thin, integer=True)
    if args.sampler == "exact" and (draws or args.adapt):
        raise InputError(f"{'--draws' if draws else '--adapt'}: the exact sampler makes no chains; leave it out, or "
                         "give --sampler metropolis")
    if nstep * chains >= MOST_STEPS:
        raise InputError(f"--nstep, --chains: expected fewer than {MOST_STEPS} steps for all chains of a map, got "
                         f"{nstep} x {chains}; give fewer")
    kept = nstep - int(args.burn_in * nstep)
    if thin is not None and thin > max(kept // LEAST_DRAWS, 1):
        raise InputError(f"--thin: expected at most {max(kept // LEAST_DRAWS, 1)}, so that each chain keeps "
                         f"{LEAST_DRAWS} draws of its {kept} steps, got {thin}")
    if args.adapt:
        from .metropolis import MIN_ADAPT_STEPS
        if nstep - kept < MIN_ADAPT_STEPS:
            raise InputError(f"--adapt: expected at least {MIN_ADAPT_STEPS} steps of burn-in to learn a proposal from, "
                             f"got {nstep - kept}; raise --nstep or --burn-in")
    if args.sampler == "metropolis":
        settings |= {"nstep": nstep, "sigma": sigma, "burn_in": args.burn_in, "chains": chains, "draws": draws,
                     "thin": thin, "adapt": args.adapt}
    return settings


def given_predictions(args):
    """The predictions of --predictions, None without it. Raises InputError.

    All options that predictions depend on become those that the file was made with; a network's own error bars,
    if it has some, are not used.
    """
    if args.predictions is None:
        return None
    file = hdf5.read(args.predictions, "predictions")
    made = file.settings
    asked = args.target or made["target"]
    if made["target"] not in (asked, "both"):
        raise InputError(f"--target {asked}: {args.predictions} holds predictions for --target {made['target']}; "
                         "leave the option out, or predict again")
    if args.data == DEFAULT_DATA:
        args.data = made["data"]
    args.method = "spectrum" if made["method"] == "spectrum" else "network"
    args.target, args.release, args.holdout_fraction = asked, made["release"], made["holdout_fraction"]
    args.model, args.folds, args.members = made["model"], made.get("folds", 1), made.get("members", 1)
    args.statistics_fraction = made["statistics_fraction"] or args.statistics_fraction
    return file._replace(settings={**made, "method": args.method, "target": asked})


def refuse_early(run, settings, shard=None, given=None):
    """Raise InputError, before any work, if the run cannot end well. given: of given_predictions().

    That is: the folder holds a posterior made with other settings, raw covariances are asked for with too
    few realisations, the prior's file is no prior, or the predictions given are of other maps.
    """
    if given is not None:
        refuse_difference(f"{given.path}: was made from other maps,", given.inputs, run.digests(),
                          "give the --data it was made from")
    if settings.get("prior", PRIORS[0]) not in PRIORS:
        from .prior import read_prior
        read_prior(settings["prior"], run.set.theta)
    made = {**run.settings, **pipeline.prediction_settings(run)} if given is None else given.settings
    n = int((run.split == STATISTICS).sum())
    if settings.get("smooth") == "none":
        statistics.check_count(n, made.get("n_bin", len(PARAMS)))
    if run.method != "direct" and settings["recalibrate"] != "none" and n < 3:
        raise InputError(f"--recalibrate {settings['recalibrate']}: expected at least 3 realisations of the "
                         f"statistics split, to leave some out in turn, got {n}; raise --statistics-fraction or "
                         "give --recalibrate none")
    path = run.out / shards.name_of(shard)
    if path.exists() and not run.args.force:
        of_file = {**made, **settings}
        run.compare_settings(path, "posterior", of_file if shard is None else {**of_file, "shard": list(shard)})


def wanted_maps(run, split):
    """Indices of the maps that --target asks for, (n,)."""
    return np.flatnonzero(((split == TEST) & (run.target != "holdout")) | ((split == HOLDOUT) & (run.target != "test")))


def statistics_maps(predictions):
    """Predictions of the statistics maps, comparable with those of the maps to infer.

    Returns estimate (n_cosmology, n_realisation, d), with folds rescaled to scatter like a mean over them, and
    the maps' indices in the file (n_cosmology x n_realisation,), cosmology by cosmology.
    """
    data, constant = predictions.groups["predictions"], predictions.groups["constant_data"]
    rows = np.flatnonzero(data["split"] == STATISTICS)
    rows = rows[np.argsort(data["cosmology"][rows], kind="stable")]
    estimate = data["estimate"][rows].reshape(len(constant["design"]), -1, data["estimate"].shape[1])
    if "between" in constant:
        estimate = statistics.as_average(estimate, constant["between"], int(data["fold"].max()) + 1)
    return estimate, rows


def infer(run, predictions, settings, shard=None):
    """posterior.h5 of a run, or of a shard (I, N) of its maps: by statistics, emulator and sampler, or infer_direct().

    Returns its path. Raises InputError.
    """
    if run.method == "direct":
        return infer_direct(run, predictions, settings)
    args, name = run.args, shards.name_of(shard)
    data = predictions.groups["predictions"]
    estimate, split = data["estimate"], data["split"]
    settings = {**predictions.settings, **settings}
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if settings["prior"] not in PRIORS:
        inputs["prior"] = hdf5.digest_file(settings["prior"])
    of_file = settings if shard is None else {**settings, "shard": list(shard)}
    if run.reuse(name, "posterior", of_file, inputs) is not None and run.sound("statistics.h5", "statistics"):
        return run.out / name
    theta = predictions.groups["constant_data"]["design"]
    per, _ = statistics_maps(predictions)
    mean, covariance, count, orders = statistics.smoothed(theta, per, settings["smooth"], args.seed)
    say("mean and covariance per cosmology: " + ", ".join(
        f"{kind} {'raw' if orders[kind] < 0 else f'polynomial of order {orders[kind]}'}"
        for kind in ("mean", "covariance")), args.quiet)
    var = hdf5.Var
    hdf5.write(run.out / "statistics.h5", "statistics", {"statistics": {
        "theta": var(("cosmology", "param"), theta), "mean": var(("cosmology", "summary"), mean),
        "covariance": var(("cosmology", "summary", "summary_2"), covariance),
        "count": var(("cosmology",), count)}}, coords={"param": np.array(PARAMS)},
        settings={**settings, "orders": orders}, seed=args.seed, inputs=inputs)

    from . import emulator as emulators, posterior, quadrature, sampling
    emulator = emulators.build(theta, mean, covariance, prior_of(settings["prior"], theta))
    chosen = wanted_maps(run, split)
    constant = {"vertex_log_prior": var(("cosmology",), emulator.vertex_log_prior)}
    if settings["sampler"] == "exact":
        error = quadrature.quadrature_error(emulator, estimate[chosen])
        constant["quadrature_error"] = var(("order",), error)
        say(f"quadrature: order {quadrature.ORDER} is within {error[1]:.1g} sd of order 12, order 6 within {error[0]:.1g}",
            args.quiet)
    if settings["recalibrate"] != "none":
        known = held_out(theta, per, settings, emulator.vertex_log_prior, args.seed)
    at, draws = shards.taken_by(shard, len(chosen), settings.get("draws", 0))
    chosen = chosen[at]
    wanted = np.ascontiguousarray(estimate[chosen])
    guess = wanted if settings["method"] == "network" else None          # a network's summaries are predictions
    chains = sampling.sample(run, emulator, wanted, chosen, guess, {**settings, "draws": draws}, inputs, shard)
    at_mean, spread, _ = emulator.interpolate(chains.mean)
    summary = posterior.summarise(chains, wanted, at_mean, spread)
    stuck = posterior.stuck(summary)
    if stuck:
        sampling.forget(run, shard)
        kept = settings["nstep"] - int(settings["burn_in"] * settings["nstep"])
        raise RunError(f"{run.out / name}: not written: {stuck} of {len(chosen)} chains never moved in the {kept} "
                       "steps they keep; raise --nstep, or set --sigma for an acceptance of 0.2 to 0.5")
    for warning in posterior.warnings(summary):
        warn(warning)
    if settings["recalibrate"] != "none":
        from . import recalibration
        truth, held = known
        pit = recalibration.pit_quantiles(truth, list(LEVELS.values()), [getattr(held, q) for q in LEVELS])
        more, made_of = recalibration.recalibrate(settings["recalibrate"], summary, truth, held.mean, held.sd, pit)
        summary, constant = summary | more, constant | recalibrated(made_of, args.quiet)
    path = write_posterior(run, predictions, chosen, summary, of_file, inputs, chains, constant, name)
    sampling.forget(run, shard)
    return path


def prior_of(prior, theta):
    """What emulator.build() takes as prior: "design", "flat", or (n,) log densities from a user's file."""
    if prior in PRIORS:
        return prior
    from .prior import read_prior
    values, lost = read_prior(prior, theta)
    if lost > LOST:
        warn(f"--prior {prior}: is finer than the design's cosmologies, between which ln density is linear; rms "
             f"difference {lost:.2f} where it matters")
    return values


def held_out(theta, estimate, settings, prior, seed, folds=4):
    """Exact posteriors of statistics maps by emulators that have not seen them: what error bars are fitted on.

    theta: (n_cosmology, 2); estimate: (n_cosmology, n_realisation, d) of the statistics split. Each fold of
    realisations gets mean and covariance of the others. Returns truth (n, 2) and Chains of n maps.
    """
    from . import emulator, posterior, quadrature
    n, truth, parts = estimate.shape[1], [], []
    for k in range(min(folds, n)):
        fold = np.arange(k, n, folds)
        rest = np.setdiff1d(np.arange(n), fold)
        smooth = settings["smooth"] if len(rest) > estimate.shape[2] + 2 else "always"     # a fold is smaller
        mean, covariance, _, _ = statistics.smoothed(theta, estimate[:, rest], smooth, seed)
        some = fold[:max(1, MOST_RECALIBRATED // (folds * len(theta)))]
        truth.append(np.repeat(theta, len(some), axis=0))
        parts.append(quadrature.exact(emulator.build(theta, mean, covariance, prior),
                                      estimate[:, some].reshape(-1, estimate.shape[2])))
    return np.concatenate(truth), posterior.join(parts)


def infer_direct(run, predictions, settings):
    """posterior.h5 from a network's own means and error bars. Returns its path."""
    data, settings = predictions.groups["predictions"], {**predictions.settings, **settings}
    inputs = {"predictions": predictions.digest, "label": predictions.inputs["label"]}
    if run.reuse("posterior.h5", "posterior", settings, inputs) is not None:
        return run.out / "posterior.h5"
    chosen = wanted_maps(run, data["split"])
    from . import posterior
    summary = posterior.gaussian(data["estimate"][chosen], data["sd"][chosen])
    per, rows = statistics_maps(predictions)
    known = (predictions.groups["constant_data"]["design"][data["cosmology"][rows]], per.reshape(-1, per.shape[2]),
             data["sd"][rows])
    constant = {}
    if settings["recalibrate"] != "none":
        from . import recalibration
        more, made_of = recalibration.recalibrate(settings["recalibrate"], summary, *known, recalibration.pit(*known))
        summary, constant = summary | more, recalibrated(made_of, run.args.quiet)
    return write_posterior(run, predictions, chosen, summary, settings, inputs, constant=constant)


def recalibrated(made_of, quiet):
    """What recalibrate() was made of as variables of /constant_data; the factors are said."""
    say("error bars times " + ", ".join(f"{f:.3f} ({p})" for f, p in zip(made_of["temperature"], PARAMS)), quiet)
    dims = {"temperature": ("param",), "recalibration": ("knot", "param")}
    return {name: hdf5.Var(dims[name], value) for name, value in made_of.items()}


def write_posterior(run, predictions, chosen, summary, settings, inputs, chains=None, constant=None,
                    name="posterior.h5"):
    """posterior.h5, or a shard of it, in the layout of the README, the same whatever the method. Returns its path."""
    var, data = hdf5.Var, predictions.groups["predictions"]
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
    path = run.out / name
    coords = {"map": chosen, "param": np.array(PARAMS)}
    for group in ("posterior", "sample_stats"):
        if group in groups:
            coords[group, "map"] = chosen[:len(chains.draws)]
    hdf5.write(path, "posterior", groups, coords=coords, settings=settings, seed=run.args.seed, inputs=inputs)
    return path
