"""From a posterior file to its scores: score.json, and what a run prints.

Reads the truth of held-out maps; nothing else does.
"""
import json
import pathlib

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, RunError, array
from ..core.files import atomic
from ..core.params import EMULATOR, FLAGS, HOLDOUT, LEVELS, SPLITS, TEST, TRAIN
from ..core.progress import warn
from ..maps import dataset
from ..posterior.posterior import unconverged
from . import score, table

SCHEMA_VERSION = 1
ON_DESIGN = 1e-6            # a test cosmology this near to one of the design counts as seen
MAX_LISTED = 4              # so many maps without truth are listed one by one
MAX_QUADRATURE_ERROR = 0.01 # sd, of a mean or sd
STAMPS = ("label", "noisy_test")         # what of a set a limit depends on


def score_posterior(path, data=None, *, bootstrap: int = 1000, seed: int = 1,
                    floor: float | None = None) -> dict:
    """Score every map of a posterior file whose truth is known.

    path: str or Path, posterior.h5 of any method
    data: str or Path, folder with the label files; None for the one in the file's settings
    bootstrap: int, resamples
    seed: int, of the bootstrap
    floor: float, the lowest score to report, or None
    Returns what score.json holds, and "path". The headline "score" is that of the test maps, else
    of the hold-out ones, None where no truth is known. Raises InputError.
    """
    path = pathlib.Path(path)
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data", "constant_data"))
    *keys, summary = maps_of(file)
    split, _, realisation = keys
    truth, design, cluster, digests, notes = _read_truth(file, data, keys)
    known = np.isfinite(truth[:, 0])
    result = {"schema_version": SCHEMA_VERSION, "posterior": path.name, "path": str(path),
              "digest": file.digest, "settings": file.settings, "posterior_seed": file.seed,
              "code_version": file.code_version, "versions": file.versions, "truth": digests,
              "bootstrap": {"count": bootstrap, "seed": seed}, "floor": floor, "notes": notes,
              "label_variance": design.var(axis=0).tolist(),
              "prior_only_score": score.prior_score(design) if design.std(0).all() else None,
              "scored": None, "score": None, "score_error": None, "limit": None, "subsets": {}}
    subsets = _subsets(split, known, truth, design)
    for name, pick in subsets.items():
        shared = None if cluster is None or name.startswith("test") else cluster[pick]
        try:
            result["subsets"][name] = score.summarise(
                truth[pick], _numbers(summary, pick), design.var(axis=0), count=bootstrap,
                seed=seed, cluster=shared, floor=floor)
        except InputError as error:
            raise InputError(f"{path}: {name} maps: {error}") from None
    if subsets:
        best, pick = next(iter(subsets.items()))
        result |= {"scored": best, **{n: result["subsets"][best][n]
                                      for n in ("score", "score_error")}}
        if best in ("emulator", "train"):
            notes.append(f"the {best} maps were seen when the posterior's inputs were made: not a "
                         "held-out score")
        folder = pathlib.Path(data if data is not None else file.origin.get("data", ""))
        if (folder / dataset.LIMIT_FILE).resolve() != path.resolve():
            result["limit"], more = beside_limit(folder, [key[pick] for key in keys], truth[pick],
                                                 _numbers(summary, pick), bootstrap, seed)
            notes += more
    result["diagnostics"] = _diagnostics(summary)
    if {"ess", "flag"} <= set(summary):
        notes += filter(None, [unconverged(summary)])
    result["without_truth"] = _without_truth(~known, summary, realisation)
    return result


def scored_maps(path, data=None) -> tuple:
    """The maps that the headline score is of: truth, mean and error bars, (n, 2) float64 each.

    path, data: as score_posterior() takes them
    Raises InputError where no truth is known.
    """
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data", "constant_data"))
    *keys, summary = maps_of(file)
    truth, design, *_ = _read_truth(file, data, keys)
    subsets = _subsets(keys[0], np.isfinite(truth[:, 0]), truth, design)
    if not subsets:
        raise InputError(f"{path}: expected maps with known truth, found none; give --data with "
                         "their label files")
    pick = next(iter(subsets.values()))
    return truth[pick], summary["mean"][pick], summary[bars(summary)][pick]


def maps_of(file: hdf5.File) -> tuple:
    """Which maps a posterior file holds, and their summaries.

    Returns split, cosmology and realisation, (n,) int64 each, and the arrays of /summary. Raises
    InputError for a file that lacks what every posterior has.
    """
    try:
        summary, observed = file.groups["summary"], file.groups["observed_data"]
        keys = [observed[name].astype(np.int64) for name in ("split", "cosmology", "realisation")]
        for name in ("mean", "sd", bars(summary)):
            array(f"{file.path}: summary/{name}", summary[name], (len(keys[0]), 2), finite=False)
    except KeyError as error:
        raise InputError(f"{file.path}: expected a posterior with {error} in it; repeat the run "
                         "that made it") from None
    return *keys, summary


def bars(summary: dict) -> str:
    """The variable that is scored as error bars: recalibrated ones if there are, else the sd."""
    return "errorbar" if "errorbar" in summary else "sd"


def _numbers(summary, pick):
    """The score.Posterior of some maps, recalibrated where the file has it."""
    quantiles = {}
    for name in LEVELS:
        found = summary.get(f"recalibrated_{name}", summary.get(name))
        if found is not None:
            quantiles[name] = found[pick]
    return score.Posterior(
        summary["mean"][pick], summary[bars(summary)][pick],
        summary["sd"][pick] if bars(summary) != "sd" else None,
        summary["correlation"][pick] if "correlation" in summary else None, quantiles)


def _read_truth(file, data, keys):
    """The only place that reads held-out truth.

    Returns truth (n, 2), NaN where nobody has it; the design (n_cosmology, 2); None or the number
    (n,) that dependent hold-out maps share; {name: sha256} of the files read; notes, a list of str.
    """
    folder = pathlib.Path(data if data is not None else file.origin.get("data", ""))
    if (data is None and "data" not in file.origin) or not folder.is_dir():
        raise InputError(f"{file.path}: its data folder {str(folder)!r} is not there; give --data "
                         "FOLDER with the label files of the maps it was made from")
    split, cosmology, realisation = keys
    truth, test, cluster = np.full((len(split), 2), np.nan), split == TEST, None
    files, notes = {}, []
    design = file.groups.get("constant_data", {}).get("design")
    if design is not None:
        array(f"{file.path}: constant_data/design", design, (None, 2), "f",
              advice="repeat the run of it")
    if design is None or not test.all():
        files["label"] = _label_path(file, folder)
        label, c, r = dataset.read_label(files["label"]), cosmology[~test], realisation[~test]
        _in_range(file, files["label"], c, label.shape[0], "cosmologies")
        _in_range(file, files["label"], r, label.shape[1], "realisations")
        truth[~test] = label[c, r, :2]
        design = label[:, 0, :2] if design is None else design
        if c.size and (c.max() >= len(design)
                       or np.abs(design[c] - truth[~test]).max() > ON_DESIGN):
            raise InputError(f"{files['label']}: expected the cosmologies of {file.path}, got "
                             "others; give the --data it was made from")
        if c.size and _shared_seeds(folder, label):
            cluster = realisation
            notes.append("the cosmologies share their seeds: errors of hold-out figures are a "
                         "bootstrap over realisations")
    if test.any() and (folder / dataset.TRUTH_FILE).is_file():
        files["label_test"] = folder / dataset.TRUTH_FILE
        label_test = dataset.read_truth(folder)
        _in_range(file, files["label_test"], realisation[test], len(label_test), "maps")
        truth[test] = label_test[realisation[test], :2]
    digests = {name: hdf5.digest_file(path) for name, path in files.items()}
    for name, now in digests.items():
        then = file.inputs.get(name, file.inputs.get(files[name].name, now))
        if then != now:
            notes.append(f"{files[name].name} is not the file that was there when the posterior "
                         f"was made (sha256 {then[:12]} then, {now[:12]} now)")
    return truth, design, cluster, digests, notes


def _label_path(file, folder):
    release = file.settings.get("release", "auto")
    names = [label for name, (_, label) in dataset.RELEASES.items()
             if release in ("auto", None, name)]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{file.path}: expected {' or '.join(names)} in {folder}, found none; give "
                     "--data FOLDER with the label files of the maps it was made from")


def _in_range(file, label_path, index, size, what):
    if len(index) and (index.max() >= size or index.min() < 0):
        raise InputError(f"{label_path}: holds {size} {what}, {file.path} refers to number "
                         f"{index.max()}; give the --data it was made from")


def _shared_seeds(folder, label):
    """Whether realisation i of all cosmologies has the same seed."""
    simulation = dataset.read_simulation(folder)
    if "shared_seeds" in simulation:      # which may have the public labels, but seeds of its own
        return bool(simulation["shared_seeds"])
    nuisances = label[:, :, 2:]
    same, varied = (nuisances == nuisances[:1]).all(), (nuisances != nuisances[:, :1]).any()
    return bool(same and varied and len(label) > 1)


def _subsets(split, known, truth, design):
    """{name: boolean (n,)} of the maps to score apart, the headline first."""
    test = known & (split == TEST)
    near = np.zeros(len(split), bool)
    off = np.abs(truth[test][:, None] - design[None]).max(axis=2)
    near[test] = (off <= ON_DESIGN).any(axis=1)
    found = {"test": test}
    if (test & ~near).any():
        found |= {"test_on_design": test & near, "test_off_design": test & ~near}
    found |= {SPLITS[code]: known & (split == code) for code in (HOLDOUT, EMULATOR, TRAIN)}
    return {name: pick for name, pick in found.items() if pick.any()}


def beside_limit(folder: pathlib.Path, keys: list, truth: np.ndarray,
                 posterior: score.Posterior, count: int = 1000, seed: int = 1) -> tuple:
    """Compare a posterior's scores with the information limit on the maps that both have.

    folder: Path, of the data, where `python -m wl.validate limit` left the limit
    keys: split, cosmology and realisation, (n,) int64 each
    truth: (n, 2)
    posterior: score.Posterior
    count, seed: ints, of the bootstrap
    Returns None without a limit of these maps, else a dict: n, score, score_error (of the limit),
    expected_score (what the limit's error bars promise), difference, difference_error (this
    posterior minus the limit, map by map) and the limit's settings count, prior, nuisances, n_gal,
    field; and notes, a list of str.
    """
    where = folder / dataset.LIMIT_FILE
    if not where.is_file():
        return None, []
    try:
        file = hdf5.read(where, "posterior", groups=("summary", "observed_data"))
    except InputError as error:
        return None, [f"no information limit: {error}"]
    labels = [folder / name for _, name in dataset.RELEASES.values()]
    for name, files in zip(STAMPS, (labels, [folder / dataset.TEST_FILE])):
        found = {hdf5.digest_file(path, quick=True) for path in files if path.is_file()}
        if name in file.inputs and file.inputs[name] not in found:
            return None, [f"{where} was made from another {name} file; repeat python -m "
                          f"wl.validate limit --data {folder}"]
    *theirs, summary = maps_of(file)
    row_of = {key: row for row, key in enumerate(zip(*theirs))}
    rows = np.array([row_of.get(key, -1) for key in zip(*keys)])
    both = rows >= 0
    if both.sum() < 2:
        return None, []
    rows, truth = rows[both], truth[both]
    limit = score.challenge_score(truth, summary["mean"][rows], summary["sd"][rows])
    ours = score.challenge_score(truth, posterior.mean[both], posterior.sd[both])
    values = np.stack([limit, ours - limit], axis=1)
    error = score.bootstrap_means(values, count, seed).std(axis=0, ddof=1)
    named = ("count", "prior", "nuisances", "n_gal", "field")
    return {"n": int(both.sum()), "score": float(limit.mean()), "score_error": float(error[0]),
            "expected_score": float(score.expected_score(summary["sd"][rows]).mean()),
            "difference": float(values[:, 1].mean()), "difference_error": float(error[1]),
            **{name: file.settings.get(name) for name in named}}, []


def _diagnostics(summary):
    """What the sampler said of its own work: {name: number or {meaning: count}}."""
    out = {}
    for name, kinds in (("acceptance", ("mean", "min", "max")), ("ess", ("median", "min")),
                        ("rhat", ("max",)), ("tau", ("median", "max"))):
        values = np.asarray(summary.get(name, np.nan), dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            out |= {f"{name}_{kind}": float(getattr(np, kind)(values)) for kind in kinds}
    if "flag" in summary:
        flag = summary["flag"].astype(np.int64)
        counts = {text.replace("_", " "): int(((flag & bit) != 0).sum())
                  for bit, text in FLAGS.items()}
        out["flagged"] = int((flag != 0).sum())
        out["flags"] = {text: count for text, count in counts.items() if count}
    return out


def _without_truth(pick, summary, realisation):
    """Mean error bars of the maps whose truth nobody has, and each posterior if they are few."""
    if not pick.any():
        return None
    mean, sd = summary["mean"], summary[bars(summary)]
    out = {"n": int(pick.sum()), "mean_sd": np.nanmean(sd[pick], axis=0).tolist()}
    if pick.sum() <= MAX_LISTED:
        p_value = summary.get("p_value", np.full(len(pick), np.nan))
        out["maps"] = [{"map": int(realisation[i]), "mean": mean[i].tolist(), "sd": sd[i].tolist(),
                        "p_value": float(p_value[i]) if np.isfinite(p_value[i]) else None}
                       for i in np.flatnonzero(pick)]
    return out


def out_of_distribution(path, other) -> dict:
    """How well p-values tell maps that simulations do not cover, the metric of the second phase.

    path: str or Path, posterior.h5 with maps from the simulations' distribution
    other: str or Path, a second one whose maps are not; or .npy, a bool or 0/1 for each test map
        of the first, 1 where it is not
    Returns "tpr", of score.out_of_distribution(), and the numbers of maps. Raises InputError.
    """
    def chi2_of(path):
        file = hdf5.read(path, "posterior", groups=("summary", "observed_data"))
        split, _, realisation, summary = maps_of(file)
        values = summary.get("chi2", np.full(1, np.nan))
        if "p_value_all" in summary:                      # of hand-made statistics: sees more
            values = -np.log(np.maximum(summary["p_value_all"], 1e-300))
        if np.isnan(values).any():
            raise InputError(f"{path}: expected a chi2 of each map, which only run_mcmc.py gives")
        return values, split, realisation, file.groups["observed_data"].get("summaries")

    inside, split, realisation, ours = chi2_of(path)
    if str(other).endswith(".npy"):
        test = split == TEST
        number, inside = realisation[test], inside[test]
        label = dataset.read_kinds(other, int(number.max(initial=-1)) + 1)
        inside, outside = inside[~label[number]], inside[label[number]]
    else:
        outside, _, _, theirs = chi2_of(other)
        d, d_other = ours.shape[1], theirs.shape[1]
        if d != d_other:
            raise InputError(f"{other}: has {d_other} summaries of each map, {path} has {d}, so "
                             "that their chi2 cannot be compared; give a run with the same "
                             "--method")
    return {"tpr": score.out_of_distribution(inside, outside), "n_in": len(inside),
            "n_out": len(outside)}


# ---------------------------------------------------------------- what becomes of it
def save(result: dict) -> pathlib.Path:
    """Write score.json beside the posterior, atomically. Returns its path. Raises InputError."""
    path = pathlib.Path(result["path"])
    name = "score.json" if path.name == "posterior.h5" else f"{path.stem}.score.json"
    content = {key: value for key, value in result.items() if key != "path"}
    with atomic(path.with_name(name)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path.with_name(name)


def report_on(path, seed: int, data=None) -> dict:
    """Score a posterior, print verdict and table, and save score.json.

    path, seed, data: as score_posterior() takes them
    Returns what score.json holds.
    """
    result = score_posterior(path, data, seed=seed)
    print(table.verdict(result), end="\n\n")
    print(table.overview([result]))
    print(table.details(result))
    try:
        save(result)
    except InputError as error:        # a finished run on a disk that is only read from now on
        warn(error)
    return result


def report_new(path) -> None:
    """Print what a posterior of new maps says, without a truth. path: str or Path."""
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data"))
    *_, summary = maps_of(file)
    print(table.new_maps(path, summary, bars(summary)))


def check_convergence(path, allowed: bool) -> None:
    """Raise RunError if the chains of a posterior have not converged.

    path: str or Path
    allowed: bool, whether it is only warned of
    """
    file = hdf5.read(path, "posterior", groups=("summary", "constant_data"))
    reason = unconverged(file.groups["summary"])
    error = file.groups["constant_data"].get("quadrature_error")
    if reason is None and error is not None and error[-1] > MAX_QUADRATURE_ERROR:
        reason = (f"not converged: the quadrature is {error[-1]:.2g} sd from a higher order; give "
                  "--sampler metropolis")
    if reason is not None and not allowed:
        raise RunError(f"{path}: {reason}; --allow-unconverged takes it as it is")
    if reason is not None:
        warn(reason)
