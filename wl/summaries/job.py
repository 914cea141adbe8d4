"""One network of a run: what it learns from, its own seed and files, its training and its predictions."""
import dataclasses

import numpy as np

from ..core.checks import InputError
from ..core.progress import Progress, say, warn
from ..core.params import HOLDOUT, STATISTICS, TRAIN
from .pipeline import Predicted, of_part, packs, training_settings
from ..core.provenance import refuse_difference

SEED_STREAM = 104


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
        """The class of its network, network.Network or dense.Dense."""
        if self.part == "statistics":
            from .dense import Dense
            return Dense
        from .network import Network
        return Network

    def stored(self, recipe):
        """The network of an earlier run, or None. Raises InputError for one that is damaged or of another recipe."""
        if not self.model.exists():
            return None
        try:
            network = self.kind.load(self.model)
        except InputError:
            if not self.run.args.force:
                raise
            warn(f"{self.model}: damaged, trained again")
            return None
        return network if self._same(self.model, network.recipe.stored(), recipe) else None

    def _same(self, path, before, recipe):
        """Whether a file was made by this recipe; False only if --force says so. Raises InputError otherwise."""
        if not self.run.args.force:
            refuse_difference(f"{path}: was made with", before, recipe.stored())
        return before == recipe.stored()

    def predict(self, settings):
        """Train the network (or load it) and predict with it. Returns Predicted, statistics maps of rows() only."""
        return self._from_statistics(settings) if self.part == "statistics" else self._from_maps()

    def training(self):
        """Maps and recipe of a network on maps: batches.Batches, and Recipe without the digests."""
        from ..maps import batches
        from .network import Recipe
        run, s = self.run, self.run.set
        chosen = of_part(training_settings(run.args, run.n_train, run.precision), self.part)
        frame, scale = batches.Frame(s.mask, pack=packs(chosen)), batches.rms(s.flat_kappa, s.n_gal)
        settings = {k: v for k, v in chosen.items() if k not in ("folds", "members", "pack")}
        recipe = Recipe(**settings, frame=frame.shape, scale=scale, n_gal=s.n_gal, **self._task())
        return batches.Batches(s.flat_kappa, frame, scale=scale, n_gal=s.n_gal, seed=self.seed), recipe

    def _task(self):
        """Settings of a network on whatever it learns from."""
        theta = self.run.set.theta
        return {"seed": self.seed, "split": self.split().tolist(), "label_mean": theta.mean(0).tolist(),
                "label_sd": theta.std(0).tolist()}

    def _from_maps(self):
        from ..maps import batches
        from . import training
        run, args, s = self.run, self.run.args, self.run.set
        run.check_maps()
        source, recipe = self.training()
        inputs = {k: run.digests()[k] for k in ("kappa", "label", "mask")}
        recipe = dataclasses.replace(recipe, inputs=inputs)
        network = self.stored(recipe)
        if network is None:
            rows, validation = self.training_rows()
            progress = Progress(recipe.epochs * recipe.batches_of(len(rows)),
                                f"training {recipe.model}{self.name}", args.quiet)
            self.drop_useless_checkpoint(recipe)
            network = training.train(source, s.flat_theta, rows, validation, recipe, threads=args.threads,
                                     checkpoint=self.checkpoint, progress=progress)
            progress.close()
            network.save(self.model)
            self.checkpoint.unlink(missing_ok=True)
        rows = np.concatenate([self.rows(), run.rows(HOLDOUT)])
        progress = Progress(len(rows) + run.n_test, f"predicting{self.name}", args.quiet)
        options = dict(threads=args.threads, symmetries=args.views, progress=progress)
        # every network sees a map with the same noise, whatever its own seed
        source = batches.Batches(s.flat_kappa, source.frame, scale=recipe.scale, n_gal=s.n_gal, seed=args.seed)
        mean, sd = network.predict(source, rows, noise=batches.FIXED, **options)
        if run.n_test:
            test = batches.Batches(s.noisy_test, source.frame, scale=recipe.scale, n_gal=None)
            more, more_sd = network.predict(test, np.arange(run.n_test), noise=batches.NO_NOISE, **options)
            mean, sd = np.concatenate([mean, more]), None if sd is None else np.concatenate([sd, more_sd])
        progress.close()
        return Predicted(mean, sd)

    def _from_statistics(self, settings):
        from . import dense, features
        run, options, theta = self.run, settings["model_options"], self.run.set.flat_theta
        file = features.measure(run, options)
        values = file.groups["features"]
        recipe = dense.Recipe(model=self.part, loss=settings["loss"], loss_options=settings["loss_options"],
                              members=options["networks"], layers=options["layers"], features=file.digest,
                              **self._task())
        network = self.stored(recipe)
        if network is None:
            rows, validation = self.training_rows()
            several = values["fixed"][rows][None]
            if "fresh" in values:
                several = np.concatenate([several, values["fresh"][:, np.searchsorted(values["rows"], rows)]])
            network = dense.fit(several, theta[rows], values["fixed"][validation], theta[validation], recipe,
                                lambda text: say(text, run.args.quiet))
            network.save(self.model)
        parts = [values["fixed"][np.concatenate([self.rows(), run.rows(HOLDOUT)])]]
        return Predicted(*network.predict(np.concatenate(parts + ([values["test"]] if run.n_test else []))))

    def drop_useless_checkpoint(self, recipe):
        """Remove a checkpoint that is damaged or of other settings if --force says so. Raises InputError otherwise."""
        from .network import load_torch
        if self.checkpoint.exists():
            try:
                saved = load_torch(self.checkpoint)
                before = saved["settings"] if isinstance(saved, dict) and "settings" in saved else {}
            except InputError as error:
                if not self.run.args.force:
                    raise InputError(f"{error} to train from the start") from None
                warn(f"{self.checkpoint}: damaged, training begins again")
                before = {}
            if not self._same(self.checkpoint, before, recipe):
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
