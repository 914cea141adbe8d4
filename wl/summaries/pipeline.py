"""The stages that the scripts share: predict, and what each stage stands on.

A stage whose file exists with the same settings and inputs is not repeated; other settings are
refused, with both values named, unless --force.
"""
import functools
import pathlib
from collections import namedtuple

import numpy as np

from ..maps import dataset, splits
from ..core import hdf5
from .arguments import DEFAULT_HOLDOUT, EPOCHS, PRESENTATIONS
from ..core.checks import InputError, positive, within
from ..core.progress import Progress, say, warn
from ..simulate.locate import DEFAULT_DATA, locate
from .options import LOSSES, PRECISIONS, model_options, options, parts_of, pick_precision
from ..core.params import HOLDOUT, PARAMS, STATISTICS, TEST, TRAIN
from ..core.provenance import digest_files, refuse_difference

Predicted = namedtuple("Predicted", "estimate sd fold between weights", defaults=(None, None, None, None))
Predicted.__doc__ = """Predictions of rows(STATISTICS), rows(HOLDOUT) and the test maps, in that order.

estimate: (n_map, d); sd: (n_map, 2) or None; fold: (n_map,) int64, the fold whose networks predicted a map, -1
for a mean over all; between: (d, d), covariance between the folds' networks for the same map, or None; weights:
(n_part x d + 1, d), of the parts of a model and a constant, "stack" in the files, or None.
"""


class Run:
    """One run of a script: its settings, its maps, its folder, and the stages done so far."""

    def __init__(self, args, method):
        self.args, self.method = args, method
        model = args.model if method != "spectrum" else "spectrum"
        self.parts = parts_of(model) if method != "spectrum" else [model]
        self.set = locate(args)
        s = self.set
        dataset.check_design(s.files["label"], s.theta)
        self.target = args.target or ("test" if s.has_truth and s.n_test else "both" if s.n_test else "holdout")
        if self.target != "holdout" and s.n_test == 0:
            raise InputError(f"--target {self.target}: {s.folder} has no test maps; give --target holdout")
        holdout = args.holdout_fraction
        if holdout is None:
            holdout = 0.0 if self.target == "test" else DEFAULT_HOLDOUT
        for name, value in (("--statistics-fraction", args.statistics_fraction), ("--holdout-fraction", holdout)):
            within(name, value, 0.0, 1.0)
        if self.target != "test" and holdout <= 0:
            raise InputError(f"--target {self.target}: expected --holdout-fraction above 0, got {holdout}")
        name = f"{s.name}_{'direct_' if method == 'direct' else ''}{model}"
        self.home = pathlib.Path(DEFAULT_DATA) / "runs" / name
        self.out = pathlib.Path(args.out or self.home)
        self.folds, self.members = (1, 1) if method == "spectrum" else (
            positive("--folds", args.folds, integer=True), positive("--members", args.members, integer=True))
        self.split, self.fold, self.shared = self._split(args.statistics_fraction, holdout)
        self.settings = {"data": str(s.folder.resolve()), "release": s.release, "method": method, "model": model,
                         "holdout_fraction": holdout, "target": self.target}
        self.inputs, self.checked = None, False

    def _split(self, statistics, holdout):
        """split, fold and shared of each realisation; see splits.split_folds."""
        n = self.set.n_realisation
        if self.folds > 1:
            return splits.split_folds(n, self.folds, holdout, self.args.seed)
        if self.method == "spectrum":              # nothing is trained: all but the hold-out feed the statistics
            split = np.full(n, STATISTICS, np.int8)
            if holdout > 0:
                parts = splits.split_realisations(n, statistics, holdout, self.args.seed)
                split[parts == HOLDOUT] = HOLDOUT
        else:
            split = splits.split_realisations(n, statistics, holdout, self.args.seed)
        return split, np.full(n, -1, np.int8), np.zeros(n, bool)

    def rows_of(self, chosen):
        """Indices of the maps of the chosen realisations, bool (n_realisation,), cosmology by cosmology, int64."""
        return (np.arange(self.set.n_cosmology)[:, None] * self.set.n_realisation + np.flatnonzero(chosen)).ravel()

    def rows(self, code):
        """Indices of the maps of one split, cosmology by cosmology, (n,) int64."""
        return self.rows_of(self.split == code)

    @functools.cached_property
    def precision(self):
        """Number type of the convolutions. With --precision auto that of the folder's files, else what the CPU has:
        a run goes on where it was, and its networks are of one type, on machines that differ.
        """
        if self.args.precision == "auto" and not self.args.force:
            for pattern in ("predictions*.h5", "model*.pt", "checkpoint*.pt"):
                for path in sorted(self.out.glob(pattern)):
                    found = _settings_of(path).get("precision")
                    if found in PRECISIONS:
                        return found
        return pick_precision(self.args.precision)

    @property
    def n_train(self):
        """Maps that a network trains on (the first, where folds differ by one realisation)."""
        chosen = self.split == TRAIN if self.folds == 1 else (self.fold > 0) & ~self.shared
        return int(chosen.sum()) * self.set.n_cosmology

    def digests(self):
        """sha256 of the set's files, kept beside the results so that a second run need not read them."""
        if self.inputs is None:
            self.inputs = digest_files(self.set.files, self.out / "inputs.json")
        return self.inputs

    def reuse(self, name, kind, settings, inputs):
        """The file of a stage if it stands, None if the stage is to be done. Raises InputError."""
        path = self.out / name
        try:
            found = hdf5.reusable(path, kind, settings, inputs, seed=self.args.seed)
        except InputError:
            if not self.args.force:
                raise
            return None
        if found is not None:
            say(f"{path}: done before, not repeated", self.args.quiet)
        return found

    def compare_settings(self, path, kind, settings):
        """Raise InputError if the file was made with other settings or another seed."""
        file = hdf5.read(path, kind)
        start, first = f"{path}: was made with", ("data", "method", "model", "sampler")     # others follow from these
        refuse_difference(start, {k: file.settings.get(k) for k in first}, {k: settings.get(k) for k in first})
        refuse_difference(start, file.settings, settings)
        refuse_difference(start, {"seed": file.seed}, {"seed": self.args.seed})

    def predictions(self, settings, predict):
        """The stage maps -> predictions.

        settings: what the predictions depend on; predict(run, settings): does the work and returns a
        Predicted. Returns the store.File of predictions.h5.
        """
        settings = {**self.settings, **settings}
        found = self.reuse("predictions.h5", "predictions", settings, self.digests()) or self._at_home(settings)
        return found or self.write("predictions.h5", self.rows(STATISTICS), predict(self, settings), settings)

    def _at_home(self, settings):
        """The same predictions in the folder that the run has without --out: trials of samplers train nothing."""
        path = self.home / "predictions.h5"
        try:
            found = hdf5.reusable(path, "predictions", settings, self.digests(), seed=self.args.seed)
        except InputError:
            return None
        if found is not None:
            say(f"{path}: the same predictions, not repeated", self.args.quiet)
        return found

    def sound(self, name, kind):
        """False for a damaged file that --force replaces, True if it is whole or not there. Raises InputError."""
        try:
            return not (self.out / name).exists() or bool(hdf5.read(self.out / name, kind))
        except InputError as error:
            if not self.args.force:
                raise InputError(f"{error}; or give --force") from None
            warn(error)
            return False

    def check_maps(self):
        """Read every map once and refuse NaN and inf. Raises InputError."""
        if not self.checked:
            total = self.set.n_cosmology * self.set.n_realisation + self.set.n_test
            progress = Progress(total, "checking the maps", self.args.quiet)
            self.set.check_maps(progress)
            progress.close()
        self.checked = True

    def write(self, name, rows, predicted, settings):
        """A predictions file. rows: maps of the STATISTICS split in it. Returns the store.File."""
        n_real, n_test, estimate = self.set.n_realisation, self.n_test, predicted.estimate
        parts = [(STATISTICS, rows), (HOLDOUT, self.rows(HOLDOUT))]
        cosmology = np.concatenate([r // n_real for _, r in parts] + [np.full(n_test, -1)])
        realisation = np.concatenate([r % n_real for _, r in parts] + [np.arange(n_test)])
        split = np.concatenate([np.full(len(r), c) for c, r in parts] + [np.full(n_test, TEST)])
        var, d = hdf5.Var, estimate.shape[1]
        names = np.array(PARAMS if self.method != "spectrum" else [f"log10_C_ell_{i + 1}" for i in range(d)])
        group = {"estimate": var(("map", "summary"), estimate), "split": var(("map",), split.astype(np.int8)),
                 "cosmology": var(("map",), cosmology.astype(np.int32)),
                 "realisation": var(("map",), realisation.astype(np.int32))}
        constant = {"design": var(("cosmology", "param"), self.set.theta)}
        if predicted.sd is not None:
            group["sd"] = var(("map", "param"), predicted.sd)
        if predicted.fold is not None:
            group["fold"] = var(("map",), predicted.fold.astype(np.int32))
            constant["between"] = var(("summary", "summary_2"), predicted.between)
        if predicted.weights is not None:
            constant["stack"] = var(("term", "summary"), predicted.weights)
        coords = {"map": np.arange(len(split)), "summary": names, "param": np.array(PARAMS)}
        hdf5.write(self.out / name, "predictions", {"predictions": group, "constant_data": constant},
                    coords=coords, settings=settings, seed=self.args.seed, inputs=self.digests())
        return hdf5.read(self.out / name, "predictions")

    @property
    def n_test(self):
        return self.set.n_test if self.target != "holdout" else 0


def prediction_settings(run):
    """What predictions.h5 depends on beyond the maps and their split, checked. Raises InputError."""
    if run.method == "spectrum":
        from .handmade import ELL_MAX, ELL_MIN, N_BIN
        # the fraction does not feed the statistics here, but decides which realisations are held out
        return {"n_bin": N_BIN, "ell_min": ELL_MIN, "ell_max": ELL_MAX,
                "statistics_fraction": run.args.statistics_fraction}
    return {**training_settings(run.args, run.n_train, run.precision), "views": run.args.views,
            "statistics_fraction": run.args.statistics_fraction if run.folds == 1 else None}


def _settings_of(path):
    """Settings of a file of predictions, of a network or of its training; none of one that cannot be read."""
    try:
        if path.suffix == ".h5":
            return hdf5.read(path, "predictions", groups=()).settings
        from .network import load_torch
        found = load_torch(path)
        return found["settings"] if isinstance(found, dict) else {}
    except (InputError, KeyError):
        return {}


def training_settings(args, n_train, precision=None):
    """What a trained network depends on beyond the maps, checked. n_train: training maps. Raises InputError.

    precision: in place of args.precision, None for that or what the CPU has.
    """
    names = ("model", "loss", "epochs", "batch_size", "lanes", "learning_rate", "weight_decay", "patience", "precision",
             "noise", "pack", "folds", "members")
    settings = {name: getattr(args, name) for name in names}
    settings["precision"] = precision or pick_precision(args.precision)
    if args.epochs is None:
        settings["epochs"] = min(max(EPOCHS[0], -(-PRESENTATIONS // n_train)), EPOCHS[1])
    for name in ("epochs", "batch_size", "lanes", "folds", "members"):
        positive("--" + name.replace("_", "-"), settings[name], integer=True)
    positive("--learning-rate", args.learning_rate)
    within("--weight-decay", args.weight_decay, 0.0, 1e6)
    if args.patience < 0:
        raise InputError(f"--patience: expected 0 or more epochs, got {args.patience}")
    if args.lanes > args.batch_size:
        raise InputError(f"--lanes: expected at most the batch size {args.batch_size}, got {args.lanes}")
    settings |= {"model_options": model_options(args.model, args.model_option),
                 "loss_options": options("--loss-option", args.loss_option, LOSSES[args.loss])}
    return settings


def of_part(settings, part):
    """The settings of one part of a model that has several, as if it were alone."""
    nested = settings["model_options"].get(part)
    return {**settings, "model": part, **({"model_options": nested} if isinstance(nested, dict) else {})}


def packs(settings):
    """Whether the frame is folded for a network; a flat head is the published one's, on the whole frame."""
    asked = settings.get("pack", "auto")
    return asked == "yes" if asked != "auto" else settings["model_options"].get("head") != "flatten"
