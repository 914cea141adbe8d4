"""From a posterior file to its scores: reads the truth (nothing else does), makes score.json."""
import json
import pathlib

import numpy as np

from ..maps import dataset
from ..core import hdf5
from ..core.atomic import atomic
from ..core.checks import InputError, array
from ..core.params import HOLDOUT, SPLITS, STATISTICS, TEST, TRAIN
from ..core.variables import INTERVALS, LEVELS
from ..posterior.posterior import unconverged
from .against_limit import beside_limit
from .score import out_of_distribution as out_of_distribution_rate
from .score import prior_score, summarise

SCHEMA_VERSION = 1
ON_DESIGN = 1e-6            # a test cosmology this near to one of the design counts as seen
FLAGS = {1: "acceptance", 2: "ess", 4: "rhat", 8: "hull contact", 16: "p-value < 0.001"}
FEW = 4                     # so many maps without truth are listed one by one


def score_posterior(path, data=None, *, bootstrap=1000, seed=1, floor=None):
    """Score every map of a posterior file whose truth is known.

    path: posterior.h5 of any method; data: folder with label.npy and label_test.npy, or None for the
    one in the file's settings; bootstrap: resamples; seed: of the bootstrap; floor: None or the least
    score to report. Returns the dict of score.json, with "path" added. The headline "score" is that of
    the test maps, else of the hold-out ones, None where no truth is known. Raises InputError.
    """
    path = pathlib.Path(path)
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data", "constant_data"))
    split, cosmology, realisation, summary = maps_of(file)
    truth, design, cluster, digests, notes = _read_truth(file, data, split, cosmology, realisation)
    known = np.isfinite(truth[:, 0])
    result = {"schema_version": SCHEMA_VERSION, "posterior": path.name, "path": str(path),
              "digest": file.digest, "settings": file.settings, "posterior_seed": file.seed,
              "code_version": file.code_version, "versions": file.versions, "truth": digests,
              "bootstrap": {"count": bootstrap, "seed": seed}, "floor": floor, "notes": notes,
              "label_variance": design.var(axis=0).tolist(),
              "prior_only_score": prior_score(design) if design.std(axis=0).all() else None,
              "scored": None, "score": None, "score_error": None, "limit": None, "subsets": {}}
    subsets = _subsets(split, known, truth, design)
    for name, pick in subsets.items():
        known_quantiles = {q: summary[_quantile(summary, q)][pick] for q in LEVELS if _quantile(summary, q) in summary}
        intervals = {level: (known_quantiles[low], known_quantiles[high])
                     for level, (low, high) in INTERVALS.items() if {low, high} <= set(known_quantiles)}
        shared = None if cluster is None or name.startswith("test") else cluster[pick]
        try:
            result["subsets"][name] = summarise(
                truth[pick], summary["mean"][pick], summary[bars(summary)][pick], design.var(axis=0),
                plain_sd=summary["sd"][pick] if bars(summary) != "sd" else None,
                correlation=summary["correlation"][pick] if "correlation" in summary else None,
                intervals=intervals, quantiles=(list(LEVELS.values()), list(known_quantiles.values()))
                if len(known_quantiles) == len(LEVELS) else None,
                count=bootstrap, seed=seed, cluster=shared, floor=floor)
        except InputError as error:
            raise InputError(f"{path}: {name} maps: {error}") from None
    if result["subsets"]:
        best = next(iter(result["subsets"]))
        result.update(scored=best, **{n: result["subsets"][best][n] for n in ("score", "score_error")})
        if best in ("statistics", "train"):
            notes.append(f"the {best} maps were seen when the posterior's inputs were made: not a held-out "
                         "score")
        folder, pick = data if data is not None else file.settings.get("data", ""), subsets[best]
        result["limit"], more = beside_limit(
            path, folder, np.stack([split, cosmology, realisation], axis=1)[pick], truth[pick],
            summary["mean"][pick], summary[bars(summary)][pick], bootstrap, seed)
        notes += more
    result["diagnostics"] = _diagnostics(summary)
    if {"ess", "flag"} <= set(summary):
        notes += [reason for reason in [unconverged(summary)] if reason is not None]
    result["without_truth"] = _without_truth(~known, summary, realisation)
    return result


def maps_of(file):
    """split, cosmology, realisation (n,) and the summary's arrays of a posterior file."""
    try:
        summary, observed = file.groups["summary"], file.groups["observed_data"]
        split, cosmology, realisation = (observed[name].astype(np.int64)
                                         for name in ("split", "cosmology", "realisation"))
        for name in {"mean", "sd", bars(summary)}:
            array(f"{file.path}: summary/{name}", summary[name], (len(split), 2), finite=False)
    except KeyError as error:
        raise InputError(f"{file.path}: expected a posterior with {error} in it; repeat the run that made it"
                         ) from None
    return split, cosmology, realisation, summary


def _read_truth(file, data, split, cosmology, realisation):
    """The only place that reads held-out truth.

    Returns truth (n, 2), NaN where nobody has it; the design (n_cosmology, 2); None or the number (n,) that
    dependent hold-out maps share; {name: sha256} of the files read; notes, a list of str.
    """
    folder = pathlib.Path(data if data is not None else file.settings.get("data", ""))
    if (data is None and "data" not in file.settings) or not folder.is_dir():
        raise InputError(f"{file.path}: its data folder {str(folder)!r} is not there; give --data FOLDER "
                         "with the label files of the maps it was made from")
    truth, test, cluster = np.full((len(split), 2), np.nan), split == TEST, None
    files, notes = {}, []
    design = file.groups.get("constant_data", {}).get("design")
    if design is not None:
        array(f"{file.path}: constant_data/design", design, (None, 2), "f", advice="repeat the run of it")
    if design is None or not test.all():
        files["label"] = _label_path(file, folder)
        label, c, r = dataset.read_label(files["label"]), cosmology[~test], realisation[~test]
        _in_range(file, files["label"], c, label.shape[0], "cosmologies")
        _in_range(file, files["label"], r, label.shape[1], "realisations")
        truth[~test] = label[c, r, :2]
        design = label[:, 0, :2] if design is None else design
        if c.size and (c.max() >= len(design) or np.abs(design[c] - truth[~test]).max() > ON_DESIGN):
            raise InputError(f"{files['label']}: expected the cosmologies of {file.path}, got others; give "
                             "the --data it was made from")
        if c.size and _shared_seeds(folder, label):
            cluster = realisation
            notes.append("the cosmologies share their seeds: errors of hold-out figures are a bootstrap over "
                         "realisations")
    if test.any() and (folder / dataset.TRUTH_FILE).is_file():
        files["label_test"], label_test = folder / dataset.TRUTH_FILE, dataset.read_truth(folder)
        _in_range(file, files["label_test"], realisation[test], len(label_test), "maps")
        truth[test] = label_test[realisation[test], :2]
    digests = {name: hdf5.digest_file(path) for name, path in files.items()}
    for name, now in digests.items():
        then = file.inputs.get(name, file.inputs.get(files[name].name, now))
        if then != now:
            notes.append(f"{files[name].name} is not the file that was there when the posterior was made "
                         f"(sha256 {then[:12]} then, {now[:12]} now)")
    return truth, design, cluster, digests, notes


def bars(summary):
    """The variable to score as error bars: recalibrated ones if the file has them, else the posterior's sd."""
    return "errorbar" if "errorbar" in summary else "sd"


def _quantile(summary, name):
    """The variable that holds a quantile: the recalibrated one if the file has it."""
    return f"recalibrated_{name}" if f"recalibrated_{name}" in summary else name


def _label_path(file, folder):
    release = file.settings.get("release", "auto")
    names = [dataset.RELEASES[r][1] for r in dataset.RELEASES if release in ("auto", None, r)]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{file.path}: expected {' or '.join(names)} in {folder}, found none; give --data "
                     "FOLDER with the label files of the maps it was made from")


def _in_range(file, label_path, index, size, what):
    if len(index) and (index.max() >= size or index.min() < 0):
        raise InputError(f"{label_path}: holds {size} {what}, {file.path} refers to number {index.max()}; "
                         "give the --data it was made from")


def _shared_seeds(folder, label):
    """True if realisation i of all cosmologies has the same seed: as simulated, or by equal rows of nuisances."""
    simulation = dataset.read_simulation(folder)
    if "shared_seeds" in simulation:                     # which may have the public labels, but seeds of its own
        return bool(simulation["shared_seeds"])
    nuisances = label[:, :, 2:]
    same, varied = (nuisances == nuisances[:1]).all(), (nuisances != nuisances[:, :1]).any()
    return bool(same and varied and len(label) > 1)


def _subsets(split, known, truth, design):
    """{name: boolean (n,)} of the maps to score apart, the headline first."""
    test = known & (split == TEST)
    near = np.zeros(len(split), bool)
    near[test] = (np.abs(truth[test][:, None] - design[None]).max(axis=2) <= ON_DESIGN).any(axis=1)
    found = {"test": test}
    if (test & ~near).any():
        found.update(test_on_design=test & near, test_off_design=test & ~near)
    for code in (HOLDOUT, STATISTICS, TRAIN):
        found[SPLITS[code]] = known & (split == code)
    return {name: pick for name, pick in found.items() if pick.any()}


def _diagnostics(summary):
    """What the sampler said of its own work, over all maps: {name: number or {meaning: count}}."""
    out = {}
    for name, how in (("acceptance", ("mean", "min", "max")), ("ess", ("median", "min")), ("rhat", ("max",)),
                      ("tau", ("median", "max"))):
        values = np.asarray(summary.get(name, np.nan), dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            out.update({f"{name}_{h}": float(getattr(np, h)(values)) for h in how})
    if "flag" in summary:
        flag = summary["flag"].astype(np.int64)
        out["flagged"] = int((flag != 0).sum())
        out["flags"] = {text: int(((flag & bit) != 0).sum()) for bit, text in FLAGS.items()
                        if ((flag & bit) != 0).any()}
    return out


def _without_truth(pick, summary, realisation):
    """Mean error bars of the maps whose truth nobody has, and, of a few, each posterior."""
    if not pick.any():
        return None
    out = {"n": int(pick.sum()), "mean_sd": np.nanmean(summary[bars(summary)][pick], axis=0).tolist()}
    if pick.sum() <= FEW:
        p_value = summary.get("p_value", np.full(len(pick), np.nan))
        out["maps"] = [{"map": int(realisation[i]), "mean": summary["mean"][i].tolist(),
                        "sd": summary[bars(summary)][i].tolist(),
                        "p_value": float(p_value[i]) if np.isfinite(p_value[i]) else None}
                       for i in np.flatnonzero(pick)]
    return out


def save(result):
    """Write score.json beside the posterior, atomically. Returns its path. Raises InputError."""
    path = pathlib.Path(result["path"])
    name = "score.json" if path.name == "posterior.h5" else f"{path.stem}.score.json"
    content = {key: value for key, value in result.items() if key != "path"}
    with atomic(path.with_name(name)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path.with_name(name)


def out_of_distribution(path, other):
    """The metric of the challenge's second phase: how well chi2 tells maps that the simulations do not cover.

    path: posterior.h5 whose maps are from the simulations' distribution; other: a second one whose maps are not,
    or .npy, bool of each of the test maps of the first, True where it is not. Returns a dict with "tpr", the mean
    true-positive rate at 100 false-positive rates from 0.001 to 0.05, and the numbers of maps. Raises InputError.
    """
    def chi2_of(path):
        file = hdf5.read(path, "posterior", groups=("summary", "observed_data"))
        values = maps_of(file)[3].get("chi2", np.full(1, np.nan))
        if np.isnan(values).any():
            raise InputError(f"{path}: expected a chi2 of each map, which only run_mcmc.py gives")
        return values, file.groups["observed_data"]

    values, observed = chi2_of(path)
    if str(other).endswith(".npy"):
        test = np.flatnonzero(observed["split"] == TEST)
        label = array(other, dataset.load_npy(other), (int(observed["realisation"][test].max(initial=-1)) + 1,), ("b",),
                      advice="give one bool per test map, True where it is out of distribution")
        outlying = label[observed["realisation"][test]]
        inside, outside = values[test][~outlying], values[test][outlying]
    else:
        inside, (outside, strange) = values, chi2_of(other)
        d, d_other = (found["estimate"].shape[1] for found in (observed, strange))
        if d != d_other:
            raise InputError(f"{other}: has {d_other} summaries of each map, {path} has {d}, so that their chi2 cannot "
                             "be compared; give a run with the same --method")
    return {"tpr": out_of_distribution_rate(inside, outside), "n_in": len(inside), "n_out": len(outside)}
