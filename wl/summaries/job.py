"""One network of a run: what it learns from, its seed and files, training and predictions."""
import dataclasses
from collections import namedtuple

import numpy as np

from ..core import hdf5, seeds
from ..core.checks import InputError
from ..core.files import refuse_difference
from ..core.hdf5 import Folder
from ..core.params import EMULATOR, HOLDOUT, PARAMS, TEST, TRAIN
from ..core.progress import Progress, say, warn
from ..maps.dataset import MapSet
from ..maps.splits import Split
from .options import SPECTRUM, NetworkOptions

Predicted = namedtuple("Predicted", "summaries sd fold between weights", defaults=(None,) * 4)
Predicted.__doc__ = """Summaries of maps: the emulator split's, the hold-out's, the test maps.

summaries: (n_map, d)
sd: (n_map, 2), error bars of the network's own, or None
fold: (n_map,) int64, the fold whose networks predicted a map, -1 for a mean over all; or None
between: (d, d), covariance between the folds' networks for the same map, or None
weights: (n_part x d + 1, d), of the parts of a model and a constant, "stack" in the files; or None
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """One network of a run.

    maps, split, options, folder: of the run
    index: int, from 0; parts, folds and members in that order
    Has part (str), fold and member (ints) of its index, whether there are several of its part, and
    the Paths of the trained network (model), of a training under way (checkpoint) and of its own
    predictions.
    """
    maps: MapSet
    split: Split
    options: NetworkOptions
    folder: Folder
    index: int

    def __post_init__(self):
        o = self.options
        part, fold, member = np.unravel_index(self.index, (len(o.parts), o.folds, o.members))
        several = o.folds * o.members > 1
        tag = f"_{o.parts[part]}" * (len(o.parts) > 1) + f"_f{fold}_m{member}" * several
        found = {"part": o.parts[part], "fold": int(fold), "member": int(member),
                 "several": several, "model": self.folder.out / f"model{tag}.pt",
                 "checkpoint": self.folder.out / f"checkpoint{tag}.pt",
                 "predictions": self.folder.out / f"predictions{tag}.h5"}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def seed(self) -> int:
        """Seed of this network: the run's for the first, else one of its own."""
        if not (self.fold or self.member):
            return self.folder.seed
        return seeds.number(self.folder.seed, seeds.NETWORK, self.fold, self.member)

    def codes(self) -> np.ndarray:
        """Use of each realisation, (n_realisation,) int8: EMULATOR to choose the best epoch."""
        split = self.split
        if not split.has_folds:
            return split.code
        code = np.where(split.fold == self.fold, EMULATOR, TRAIN).astype(np.int8)
        code[split.is_shared | (split.fold < 0)] = HOLDOUT
        return code

    def rows(self) -> np.ndarray:
        """Maps of the emulator split that it predicts: its fold's, and those that train none."""
        wanted = self.split.code == EMULATOR
        if self.split.has_folds:
            wanted &= (self.split.fold == self.fold) | self.split.is_shared
        return self.split.rows_of(wanted)

    def training_rows(self) -> tuple:
        """Maps that it learns from, and maps that choose its epoch, (n,) int64 each."""
        code = self.codes()
        return self.split.rows_of(code == TRAIN), self.split.rows_of(code == EMULATOR)

    def predict(self) -> Predicted:
        """Train or load the network and predict with it: of the emulator split only rows()."""
        return self._from_statistics() if self.part == "statistics" else self._from_maps()

    def training(self, inputs: dict) -> tuple:
        """What training.train() takes: the source of noiseless maps, and the recipe.

        inputs: {name: sha256} of the set's files
        Returns batches.Batches, network.Recipe.
        """
        from ..maps import batches
        from .network import Recipe
        maps, options = self.maps, self.options.of_part(self.part)
        frame = batches.Frame(maps.mask, pack=options.packs)
        scale = batches.rms(maps.flat_kappa, maps.n_gal)
        recipe = Recipe(**options.training(), frame=frame.shape, scale=scale, n_gal=maps.n_gal,
                        inputs=inputs, **self._task())
        return batches.Batches(maps.flat_kappa, frame, scale=scale, n_gal=maps.n_gal,
                               seed=self.seed), recipe

    def _task(self):
        """What a network learns, whatever it learns from."""
        theta = self.maps.theta
        return {"seed": self.seed, "split": self.codes().tolist(),
                "label_mean": theta.mean(0).tolist(), "label_sd": theta.std(0).tolist()}

    def _from_maps(self):
        from ..maps import batches
        maps, quiet, threads = self.maps, self.folder.quiet, self.options.threads
        maps.check_maps(quiet)
        digests = self.folder.digests(maps.files)
        source, recipe = self.training({k: digests[k] for k in ("kappa", "label", "mask")})
        network = self._trained(source, recipe)
        rows = np.concatenate([self.rows(), self.split.rows(HOLDOUT)])
        progress = Progress(len(rows) + self.split.n_test, f"predicting{self.name}", quiet)
        # every network sees a map with the same noise, whatever its own seed
        found = [network.predict(part.source, part.rows, noise=part.noise, threads=threads,
                                 symmetries=self.options.views, progress=progress)
                 for part in batches.parts_to_summarise(maps, self.split, rows, source.frame,
                                                        scale=recipe.scale, seed=self.folder.seed)]
        progress.close()
        mean, sd = zip(*found)
        return Predicted(np.concatenate(mean), None if sd[0] is None else np.concatenate(sd))

    @property
    def name(self) -> str:
        """Which of several it is, for messages."""
        return f" (network {self.index + 1} of {self.options.n_networks})" if self.several else ""

    def _trained(self, source, recipe):
        """The network on maps: loaded, or trained from where an earlier run stopped."""
        from . import training
        from .network import Network
        network = self._stored(Network, recipe)
        if network is not None:
            return network
        rows, validation = self.training_rows()
        progress = Progress(recipe.epochs * recipe.batches_of(len(rows)),
                            f"training {self.part}{self.name}", self.folder.quiet)
        self.drop_useless_checkpoint(recipe)
        network = training.train(source, self.maps.flat_theta, rows, validation, recipe,
                                 checkpoint=self.checkpoint, threads=self.options.threads,
                                 progress=progress)
        progress.close()
        network.save(self.model)
        self.checkpoint.unlink(missing_ok=True)
        return network

    def _from_statistics(self):
        from . import dense, features
        options, theta = self.options.of_part(self.part), self.maps.flat_theta
        file = features.measure(self.maps, self.split, self.options, self.folder)
        values, own = file.groups["features"], options.model_options
        recipe = dense.Recipe(model=self.part, loss=options.loss, loss_options=options.loss_options,
                              members=own["networks"], layers=own["layers"], features=file.digest,
                              **self._task())
        network = self._stored(dense.Dense, recipe)
        if network is None:
            rows, validation = self.training_rows()
            several = values["fixed"][rows][None]
            if "fresh" in values:
                fresh = values["fresh"][:, np.searchsorted(values["rows"], rows)]
                several = np.concatenate([several, fresh])
            network = dense.fit(several, theta[rows], values["fixed"][validation],
                                theta[validation], recipe,
                                lambda text: say(text, self.folder.quiet))
            network.save(self.model)
        parts = [values["fixed"][np.concatenate([self.rows(), self.split.rows(HOLDOUT)])]]
        if self.split.n_test:
            parts.append(values["test"])
        return Predicted(*network.predict(np.concatenate(parts)))

    def _stored(self, kind, recipe):
        """The network of an earlier run, or None. Raises InputError for one of another recipe."""
        if not self.model.exists():
            return None
        try:
            network = kind.load(self.model)
        except InputError:
            if not self.folder.force:
                raise
            warn(f"{self.model}: damaged, trained again")
            return None
        return network if self._same(self.model, network.recipe.stored(), recipe) else None

    def _same(self, path, before, recipe):
        """Whether a file was made by this recipe. Raises InputError if not, without --force."""
        if not self.folder.force:
            refuse_difference(f"{path}: was made with", before, recipe.stored())
        return before == recipe.stored()

    def drop_useless_checkpoint(self, recipe) -> None:
        """Remove a checkpoint that is damaged or of another recipe.

        recipe: network.Recipe
        Raises InputError for such a one without --force.
        """
        from .network import load_torch
        if not self.checkpoint.exists():
            return
        try:
            saved = load_torch(self.checkpoint)
            before = saved["settings"] if isinstance(saved, dict) and "settings" in saved else {}
        except InputError as error:
            if not self.folder.force:
                raise InputError(f"{error} to train from the start") from None
            warn(f"{self.checkpoint}: damaged, training begins again")
            before = {}
        if not self._same(self.checkpoint, before, recipe):
            self.checkpoint.unlink()

    def done(self) -> hdf5.File:
        """The job's own predictions file, made if need be."""
        stored = {**self.split.stored(), **self.options.of_part(self.part).stored()}
        del stored["members"]                          # more members keep those there are
        stored |= {"part": self.part, "fold": self.fold, "member": self.member}
        name, digests = self.predictions.name, self.folder.digests(self.maps.files)
        found = self.folder.reuse(name, "predictions", stored, digests)
        return found or write(self, name, self.rows(), self.predict(), stored)


def write(job, name: str, rows: np.ndarray, predicted: Predicted, settings: dict) -> hdf5.File:
    """Write a predictions file.

    job: anything with maps, split, options and folder
    name: str, of the file
    rows: (n,) int64, maps of the emulator split in it
    predicted: Predicted
    settings: dict, all that the summaries depend on
    """
    maps, split, var, d = job.maps, job.split, hdf5.Var, predicted.summaries.shape[1]
    n_real, n_test = maps.n_realisation, split.n_test
    parts = [(EMULATOR, rows), (HOLDOUT, split.rows(HOLDOUT))]
    cosmology = np.concatenate([r // n_real for _, r in parts] + [np.full(n_test, -1)])
    realisation = np.concatenate([r % n_real for _, r in parts] + [np.arange(n_test)])
    code = np.concatenate([np.full(len(r), c) for c, r in parts] + [np.full(n_test, TEST)])
    spectrum = job.options.method == SPECTRUM
    names = [f"log10_C_ell_{i + 1}" for i in range(d)] if spectrum else PARAMS
    group = {"summaries": var(("map", "summary"), predicted.summaries),
             "split": var(("map",), code.astype(np.int8)),
             "cosmology": var(("map",), cosmology.astype(np.int32)),
             "realisation": var(("map",), realisation.astype(np.int32))}
    constant = {"design": var(("cosmology", "param"), maps.theta)}
    if predicted.sd is not None:
        group["sd"] = var(("map", "param"), predicted.sd)
    if predicted.fold is not None:
        group["fold"] = var(("map",), predicted.fold.astype(np.int32))
        constant["between"] = var(("summary", "summary_2"), predicted.between)
    if predicted.weights is not None:
        constant["stack"] = var(("term", "summary"), predicted.weights)
    # the same number for a map in all runs of a set: test maps first, then the noiseless ones
    ids = np.concatenate([maps.n_test + r for _, r in parts] + [np.arange(n_test)])
    coords = {"map": ids, "summary": np.array(names), "param": np.array(PARAMS)}
    return job.folder.write(name, "predictions", {"predictions": group, "constant_data": constant},
                            coords=coords, settings=settings, inputs=job.folder.digests(maps.files),
                            origin=maps.origin())
