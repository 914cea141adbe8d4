"""The networks of a run: one, or several of folds and members, each a job with its own seed and files.

With folds, network k trains on the realisations of the other folds, so that each map has a prediction by a
network that has not seen it and all realisations feed the statistics; it chooses its best epoch on its own fold.
Members differ in their seed: weights, order, noise, dropout. Averages are plain means of the predictions (of the
log sigmas for error bars): over the members for all maps, and over the folds for hold-out and test maps, which
no network has seen. A mean over folds scatters less than an out-of-fold prediction; statistics.as_average makes
the two comparable with `between`, measured here on the realisations that trained no network.

A model of several parts, compact+statistics say, has such networks for each of them. Their predictions are combined
linearly (stacked, Wolpert 1992) with the weights that fit the statistics split best; a statistics map by weights
that have not seen its realisation, so that its scatter is that of a new map.
"""
import numpy as np

from .checks import InputError
from .cli import Progress, say, warn
from .params import HOLDOUT, PARAMS, STATISTICS, TRAIN
from .pipeline import Predicted, of_part, packs, training_settings

SEED_STREAM = 104
STACK_FOLDS = 4                # of the statistics split's realisations


class Job:
    """One network of a run. run: pipeline.Run; index: 0 to count(run) - 1."""

    def __init__(self, run, index):
        self.run, self.index = run, index
        self.part, self.fold, self.member = np.unravel_index(index, (len(run.parts), run.folds, run.members))
        self.part = run.parts[self.part]
        several = run.folds * run.members > 1
        tag = (f"_{self.part}" if len(run.parts) > 1 else "") + (f"_f{self.fold}_m{self.member}" if several else "")
        self.model, self.checkpoint = run.out / f"model{tag}.pt", run.out / f"checkpoint{tag}.pt"
        self.file = f"predictions{tag}.h5"
        self.name = f" (network {index + 1} of {count(run)})" if several else ""
        self.seed = run.args.seed
        if self.fold or self.member:
            spawn = np.random.SeedSequence(run.args.seed, spawn_key=(SEED_STREAM, self.fold, self.member))
            self.seed = int(spawn.generate_state(1, np.uint64)[0] >> 1)

    def split(self):
        """int8 (n_realisation,): TRAIN, STATISTICS for what chooses its best epoch, HOLDOUT for all else."""
        run = self.run
        if run.folds == 1:
            return run.split
        split = np.where(run.fold == self.fold, STATISTICS, TRAIN).astype(np.int8)
        split[run.shared | (run.fold < 0)] = HOLDOUT
        return split

    def rows(self):
        """Maps of the STATISTICS split that it predicts: its fold's, and those that trained no network."""
        run = self.run
        wanted = run.split == STATISTICS
        if run.folds > 1:
            wanted &= (run.fold == self.fold) | run.shared
        return run.rows_of(wanted)

    def training_rows(self):
        """Indices of the maps that it learns from, and of those that choose its epoch, (n,) int64 each."""
        split = self.split()
        return self.run.rows_of(split == TRAIN), self.run.rows_of(split == STATISTICS)

    @property
    def kind(self):
        """The class of its network, train.Network or dense.Dense."""
        if self.part == "statistics":
            from .dense import Dense
            return Dense
        from .train import Network
        return Network

    def stored(self, settings):
        """The network of an earlier run with these settings, or None. Raises InputError for a damaged one."""
        if not self.model.exists():
            return None
        try:
            network = self.kind.load(self.model)
        except InputError:
            if not self.run.args.force:
                raise
            warn(f"{self.model}: damaged, trained again")
            return None
        return network if network.settings == settings else None

    def predict(self, settings):
        """Train the network (or load it) and predict with it. Returns Predicted, statistics maps of rows() only."""
        return self._from_statistics(settings) if self.part == "statistics" else self._from_maps()

    def training(self):
        """What train.train() takes for a network on maps: batches.Batches, and its settings but for the digests."""
        from . import batches, train
        run, s = self.run, self.run.set
        chosen = of_part(training_settings(run.args, run.n_train), self.part)
        frame, scale = batches.Frame(s.mask, pack=packs(chosen)), batches.rms(s.flat_kappa, s.n_gal)
        settings = {**{k: v for k, v in chosen.items() if k not in ("folds", "members", "pack")},
                    "precision": train.pick_precision(run.args.precision), "frame": [int(n) for n in frame.shape],
                    "scale": scale, "n_gal": s.n_gal, **self._task()}
        return batches.Batches(s.flat_kappa, frame, scale=scale, n_gal=s.n_gal, seed=self.seed), settings

    def _task(self):
        """Settings of a network on whatever it learns from."""
        theta = self.run.set.theta
        return {"seed": self.seed, "split": self.split().tolist(), "label_mean": theta.mean(0).tolist(),
                "label_sd": theta.std(0).tolist()}

    def _from_maps(self):
        from . import batches, train
        run, args, s = self.run, self.run.args, self.run.set
        run.check_maps()
        source, full = self.training()
        full["inputs"] = {k: run.digests()[k] for k in ("kappa", "label", "mask")}
        network = self.stored(full)
        if network is None:
            rows, validation = self.training_rows()
            progress = Progress(full["epochs"] * max(1, len(rows) // full["batch_size"]),
                                f"training {full['model']}{self.name}", args.quiet)
            self.drop_damaged_checkpoint()
            network, _ = train.train(source, s.flat_theta, rows, validation, full, checkpoint=self.checkpoint,
                                     threads=args.threads, progress=progress)
            progress.close()
            network.save(self.model)
            self.checkpoint.unlink(missing_ok=True)
        rows = np.concatenate([self.rows(), run.rows(HOLDOUT)])
        progress = Progress(len(rows) + run.n_test, f"predicting{self.name}", args.quiet)
        options = dict(threads=args.threads, symmetries=args.views, progress=progress)
        # every network sees a map with the same noise, whatever its own seed
        source = batches.Batches(s.flat_kappa, source.frame, scale=full["scale"], n_gal=s.n_gal, seed=args.seed)
        mean, sd = network.predict(source, rows, noise=batches.FIXED, **options)
        if run.n_test:
            test = batches.Batches(s.noisy_test, source.frame, scale=full["scale"], n_gal=None)
            more, more_sd = network.predict(test, np.arange(run.n_test), noise=batches.NO_NOISE, **options)
            mean, sd = np.concatenate([mean, more]), None if sd is None else np.concatenate([sd, more_sd])
        progress.close()
        return Predicted(mean, sd)

    def _from_statistics(self, settings):
        from . import dense, features
        run, options, theta = self.run, settings["model_options"], self.run.set.flat_theta
        file = features.measure(run, options)
        values = file.groups["features"]
        full = {"model": self.part, "loss": settings["loss"], "loss_options": settings["loss_options"],
                "members": options["networks"], "layers": list(options["layers"]), "features": file.digest,
                **self._task()}
        network = self.stored(full)
        if network is None:
            rows, validation = self.training_rows()
            several = values["fixed"][rows][None]
            if "fresh" in values:
                several = np.concatenate([several, values["fresh"][:, np.searchsorted(values["rows"], rows)]])
            network = dense.fit(several, theta[rows], values["fixed"][validation], theta[validation], full,
                                lambda text: say(text, run.args.quiet))
            network.save(self.model)
        parts = [values["fixed"][np.concatenate([self.rows(), run.rows(HOLDOUT)])]]
        return Predicted(*network.predict(np.concatenate(parts + ([values["test"]] if run.n_test else []))))

    def drop_damaged_checkpoint(self):
        """Remove a checkpoint that cannot be read if --force says so. Raises InputError otherwise."""
        from . import train
        if self.checkpoint.exists():
            try:
                train.load_torch(self.checkpoint)
            except InputError as error:
                if not self.run.args.force:
                    raise InputError(f"{error} to train from the start") from None
                warn(f"{self.checkpoint}: damaged, training begins again")
                self.checkpoint.unlink()

    def done(self, settings):
        """The job's own predictions file, made if need be. Returns the store.File."""
        settings = {k: v for k, v in settings.items() if k != "members"}      # more members keep those there are
        settings |= {"part": self.part, "fold": int(self.fold), "member": int(self.member)}
        found = self.run.reuse(self.file, "predictions", settings, self.run.digests())
        if found is None:
            found = self.run.write(self.file, self.rows(), self.predict(settings), settings)
        return found


def count(run):
    """Networks of a run."""
    return len(run.parts) * run.folds * run.members


def predict(run, settings):
    """Predictions by all networks of a run, averaged and stacked; for Run.predictions.

    settings: of the predictions file. Returns Predicted.
    """
    jobs = [Job(run, i) for i in range(count(run))]
    if len(jobs) == 1:
        return jobs[0].predict(settings)
    files = [[[job.done(of_part(settings, part)) for job in jobs if (job.part, job.fold) == (part, k)]
              for k in range(run.folds)] for part in run.parts]
    # of each fold: means over the members, the parts side by side
    estimates = [np.concatenate([_mean(files[p][k], "estimate") for p in range(len(files))], 1)
                 for k in range(run.folds)]
    log_sds = None
    if "sd" in files[0][0][0].groups["predictions"]:
        log_sds = [np.mean([_mean(files[p][k], "sd", np.log) for p in range(len(files))], 0)
                   for k in range(run.folds)]
    if run.folds == 1:
        found = Predicted(estimates[0], None if log_sds is None else np.exp(log_sds[0]))
    else:
        kept = [job.rows() for job in jobs if (job.part, job.member) == (run.parts[0], 0)]
        statistics, shared = run.rows(STATISTICS), run.rows_of(run.shared)
        fold = run.fold[statistics % run.set.n_realisation].astype(np.int64)
        estimate = combine(estimates, kept, statistics, fold)
        sd = None if log_sds is None else np.exp(combine(log_sds, kept, statistics, fold))
        on_shared = np.stack([v[np.searchsorted(rows, shared)] for v, rows in zip(estimates, kept)])
        fold = np.concatenate([fold, np.full(len(estimate) - len(fold), -1)])
        found = Predicted(estimate, sd, fold, covariance_between(on_shared))
    return found if len(run.parts) == 1 else parts_as_one(run, found)


def _mean(files, name, function=lambda x: x):
    return np.mean([function(f.groups["predictions"][name]) for f in files], 0)


def parts_as_one(run, found):
    """Predicted of several parts side by side, (n_map, n_part x 2), to one of their best linear combination."""
    rows = run.rows(STATISTICS)
    truth = run.set.theta[rows // run.set.n_realisation]
    group = np.unique(rows % run.set.n_realisation, return_inverse=True)[1] % STACK_FOLDS
    estimate, weights = stack(found.estimate, truth, group)
    between = found.between if found.between is None else weights[:-1].T @ found.between @ weights[:-1]
    say("parts combined: " + "; ".join(
        f"{p} " + " ".join(f"{w:+.2f} {part}" for w, part in zip(weights[k:-1:2, k], run.parts))
        for k, p in enumerate(PARAMS)), run.args.quiet)
    return found._replace(estimate=estimate, between=between, weights=weights)


def stack(estimate, truth, group):
    """The linear combination of predictions that fits the truth best.

    estimate: (n, c), of which the first k have a truth (k, 2); group: (k,) int: these rows are combined by weights
    fitted to the other groups, all further ones by weights of all k. With one group alone nothing is left out.
    Returns (n, 2) and the weights of all k, (c + 1, 2) float64, the constant last.
    """
    x = np.concatenate([estimate, np.ones((len(estimate), 1))], 1)
    known = x[:len(truth)]

    def fitted(rows):
        return np.linalg.lstsq(known[rows], truth[rows], rcond=None)[0]
    weights = fitted(np.full(len(known), True))
    out = x @ weights
    for g in np.unique(group) if group.any() else ():
        out[:len(truth)][group == g] = known[group == g] @ fitted(group != g)
    return out, weights


def combine(values, kept, statistics, fold):
    """Statistics maps by their own fold's networks, all others by the mean over the folds.

    values: per fold (len(kept[k]) + n_other, d); kept: per fold sorted maps; statistics: (n,) sorted maps; fold:
    (n,) their folds. Returns (n + n_other, d).
    """
    out = np.empty((len(statistics), values[0].shape[1]))
    for k, (value, rows) in enumerate(zip(values, kept)):
        mine = fold == k
        out[mine] = value[np.searchsorted(rows, statistics[mine])]
    return np.concatenate([out, np.mean([v[len(rows):] for v, rows in zip(values, kept)], 0)])


def covariance_between(estimate):
    """Covariance between networks for the same map, its mean over the maps. estimate: (folds, n, d). Returns (d, d)."""
    residual = estimate - estimate.mean(0)
    return np.einsum("kni,knj->ij", residual, residual) / ((len(estimate) - 1) * estimate.shape[1])


def only(run, settings, index):
    """Do one job of a run and no more; for array jobs on a cluster. Raises InputError."""
    total = count(run)
    if total == 1 or not 0 <= index < total:
        raise InputError(f"--only: expected a number from 0 to parts x folds x members - 1, with more than one of "
                         f"them, got {index} of {total}")
    job = Job(run, index)
    job.done(of_part({**run.settings, **settings}, job.part))
    there = sum((run.out / Job(run, i).file).exists() for i in range(total))
    say(f"{job.part}, fold {job.fold}, member {job.member}: {run.out / job.file}; {there} of {total} networks are done",
        run.args.quiet)
