"""From a posterior file to its scores: score.json, pictures, and what a run prints."""
import os
import pathlib
from importlib.util import find_spec

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, RunError
from ..core.files import read_json, write_json
from ..core.params import FLAGS, TEST
from ..core.progress import warn
from ..maps import dataset
from ..posterior.posterior import unconverged
from . import score, table
from .files import Maps, open_maps, read_maps

SCHEMA_VERSION = 1
MAX_LISTED = 4              # so many maps without truth are listed one by one
MAX_QUADRATURE_ERROR = 0.02 # sd, of a mean, sd or quantile
STAMPS = ("label", "noisy_test")         # what of a set a limit depends on


def score_posterior(path, data=None, *, bootstrap: int = 1000, seed: int = 1) -> dict:
    """Score every map of a posterior file whose truth is known.

    path: str or Path, posterior.h5 of any method; bootstrap, seed: ints, resamples
    data: str or Path, folder with the label files; None for the one in the file's settings
    Returns what score.json holds, and "path". The headline "score" is that of the test maps, else
    of the hold-out ones, None where no truth is known. Raises InputError.
    """
    return score_maps(open_maps(path, data), bootstrap=bootstrap, seed=seed)


def score_maps(maps: Maps, *, bootstrap: int = 1000, seed: int = 1) -> dict:
    """As score_posterior(), of maps that were opened with their truth."""
    path, file, design, notes = maps.path, maps.file, maps.design, list(maps.notes)
    result = {"schema_version": SCHEMA_VERSION, "posterior": path.name, "path": str(path),
              "digest": file.digest, "maps": file.origin.get("maps"), "settings": file.settings,
              "posterior_seed": file.seed, "code_version": file.code_version,
              "versions": file.versions, "truth": maps.digests, "notes": notes,
              "bootstrap": {"count": bootstrap, "seed": seed},
              "label_variance": design.var(axis=0).tolist(),
              "prior_only_score": score.prior_score(design) if design.std(0).all() else None,
              "subsets": {},
              **dict.fromkeys(("scored", "score", "score_error", "limit", "spectrum"))}
    subsets = maps.subsets()
    for name, pick in subsets.items():
        clustered = maps.cluster is not None and not name.startswith("test")
        try:
            result["subsets"][name] = score.summarise(
                maps.truth[pick], maps.numbers(pick), design.var(axis=0), count=bootstrap,
                seed=seed, cluster=maps.cluster[pick] if clustered else None)
        except InputError as error:
            raise InputError(f"{path}: {name} maps: {error}") from None
    for best, pick in [*subsets.items()][:1]:
        result |= {"scored": best, **{name: result["subsets"][best][name]
                                      for name in ("score", "score_error")}}
        if best in ("emulator", "train"):
            notes.append(f"the {best} maps were seen before: not a held-out score")
        try:
            result["limit"] = _beside_limit(maps, pick, bootstrap, seed)
        except InputError as error:
            notes.append(str(error))
        if file.settings.get("method") != "spectrum":
            result["spectrum"] = _spectrum_beside(result)
    result["diagnostics"] = _diagnostics(maps.summary)
    failed = maps.ids[maps.failed]
    if failed.size:
        notes.append(f"{len(failed)} of {len(maps.ids)} maps have no posterior and are not scored, "
                     "as their chains never moved: map " + ", ".join(map(str, failed[:MAX_LISTED]))
                     + ", ..." * (len(failed) > MAX_LISTED))
    if "flag" in maps.summary:
        notes += filter(None, [unconverged(maps.summary)])
    result["without_truth"] = _without_truth(maps, ~np.isfinite(maps.truth[:, 0]))
    return result


def _beside_limit(maps, pick, count, seed):
    """Scores minus those of the information limit of the same maps; None or InputError without."""
    folder, where = maps.folder, maps.folder / dataset.LIMIT_FILE
    if not where.is_file() or where.resolve() == maps.path.resolve():
        return None
    other = read_maps(where)
    labels = [folder / name for _, name in dataset.RELEASES.values()]
    for name, files in zip(STAMPS, (labels, [folder / dataset.TEST_FILE])):
        found = {hdf5.digest_file(path) for path in files if path.is_file()}
        if other.file.inputs.get(name) not in found:
            raise InputError(f"{where} was made from another {name} file; repeat python -m "
                             f"wl.validate limit --data {folder}")
    both = pick & (maps.split == TEST) & (maps.realisation < len(other.split))
    if both.sum() < 2:
        return None
    rows, truth, ours = maps.realisation[both], maps.truth[both], maps.numbers(both)
    mean, sd = (other.summary[name][rows] for name in ("posterior_mean", "sd"))
    limit = score.challenge_score(truth, mean, sd)
    ours = score.challenge_score(truth, ours.mean, ours.sd)
    values = np.stack([limit, ours - limit], axis=1)
    error = score.bootstrap_means(values, count, seed).std(axis=0, ddof=1)
    return {"n": int(both.sum()), "score": float(limit.mean()), "score_error": float(error[0]),
            "expected_score": float(score.expected_score(sd).mean()),
            "difference": float(values[:, 1].mean()), "difference_error": float(error[1]),
            **{name: other.file.settings.get(name) for name in ("prior", "nuisances", "n_gal")}}


def _spectrum_beside(result):
    whole, home = "shard" not in result["settings"], pathlib.Path(result["path"]).resolve().parent
    for path in sorted(home.parent.glob("*/score.json")) if whole and result["truth"] else ():
        other = read_json(path)
        same = all(other.get(name) == result[name] for name in ("maps", "truth", "scored"))
        if same and other.get("settings", {}).get("method") == "spectrum":
            return {name: other[name] for name in ("score", "score_error")}
    return None


def _diagnostics(summary):
    """What the sampler said of its own work: {name: number or {meaning: count}}."""
    out = {}
    for name, kinds in (("acceptance", "mean min max"), ("ess", "median min"), ("rhat", "max"),
                        ("tau", "median max")):
        values = np.asarray(summary.get(name, np.nan), dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            out |= {f"{name}_{kind}": float(getattr(np, kind)(values)) for kind in kinds.split()}
    if "flag" in summary:
        flag = summary["flag"].astype(np.int64)
        out |= {"maps": flag.size, "flagged": int((flag != 0).sum()),
                "flags": {text.replace("_", " "): n for bit, text in FLAGS.items()
                          if (n := int(((flag & bit) != 0).sum()))}}
    return out


def _without_truth(maps, pick):
    """Mean error bars of the maps whose truth nobody has, and each posterior if they are few."""
    if not pick.any():
        return None
    mean, sd = maps.summary["posterior_mean"], maps.summary[maps.bars]
    out = {"n": int(pick.sum()), "mean_sd": np.nanmean(sd[pick], axis=0).tolist()}
    if pick.sum() <= MAX_LISTED:
        found = maps.summary.get("p_value", np.full(len(pick), np.nan))
        p_value = score.plain(maps.summary.get("p_value_all", found))
        out["maps"] = [{"map": int(maps.realisation[i]), "mean": mean[i].tolist(),
                        "sd": sd[i].tolist(), "p_value": p_value[i]} for i in np.flatnonzero(pick)]
    return out


def out_of_distribution(path, other) -> dict:
    """How well p-values tell maps that simulations do not cover, the metric of the second phase.

    path: str or Path, posterior.h5 with maps from the simulations' distribution
    other: str or Path, one of other maps; or .npy, for each test map of the first whether it is one
    Returns "tpr" of score.out_of_distribution(), "by" what, the numbers of maps. Raises InputError.
    """
    def chi2_of(path):
        maps = read_maps(path)
        values, name = maps.summary.get("chi2", np.full(1, np.nan)), "chi2"
        if "p_value_all" in maps.summary:                 # of hand-made statistics: sees more
            name = "p_value_all"
            values = -np.log(np.maximum(maps.summary[name], 1e-300))
        if np.isnan(values).any():
            raise InputError(f"{path}: expected a chi2 of each map, which only run_mcmc.py gives")
        d = maps.file.groups["observed_data"]["summaries"].shape[1]
        return values, maps, f"{name} of {d} summaries"
    inside, maps, known = chi2_of(path)
    if str(other).endswith(".npy"):
        test = maps.split == TEST
        number, inside = maps.realisation[test], inside[test]
        label = dataset.read_kinds(other, int(number.max(initial=-1)) + 1)
        inside, outside = inside[~label[number]], inside[label[number]]
    else:
        outside, _, found = chi2_of(other)
        if found != known:
            raise InputError(f"{other}: has {found}, {path} has {known}: they cannot be compared; "
                             "give a run with the same --method and --model")
    return {"tpr": score.out_of_distribution(inside, outside), "by": known.split()[0],
            "n_in": len(inside), "n_out": len(outside)}


def save(result: dict) -> pathlib.Path:
    """Write score.json beside the posterior, atomically. Returns its path.

    Raises InputError where it cannot be written, or would replace a score by none.
    """
    path = _beside(result["path"], "score.json")
    before = read_json(path) if result["score"] is None else {}
    if before.get("score") is not None and before.get("digest") == result["digest"]:
        raise InputError(f"{path}: keeps the score of these maps, whose truth is not in the --data "
                         "given")
    write_json(path, {key: value for key, value in result.items() if key != "path"})
    return path


def _beside(path, name):
    path = pathlib.Path(path)
    return path.with_name(name if path.name == "posterior.h5" else f"{path.stem}.{name}")


def publish(scored: list, with_figures: bool = True) -> list[pathlib.Path]:
    """Write score.json of each posterior, and report.html of one or comparison.html of several.

    scored: pairs of files.Maps and what score_maps() returns of them
    with_figures: bool, whether there is more than score.json: a page, and pictures by matplotlib
    Returns the paths of what was written, which an unwritable folder makes fewer, with a warning.
    """
    from . import figures
    written, drawn, results, (maps, result) = [], {}, [each for _, each in scored], scored[0]
    for each in results:
        try:
            written.append(save(each))
        except (InputError, RunError) as error:    # a colleague's folder, or a full disk
            warn(f"no new score.json, {error}")
    if not with_figures:
        return written
    can_draw = find_spec("matplotlib") is not None
    try:
        if len(scored) == 1:
            if result["scored"] is not None and can_draw:
                drawn = figures.draw_all(maps, result, _beside(maps.path, "figures"))
            where, title = _beside(maps.path, "report.html"), maps.path.resolve().parent.name
            texts = [table.verdict(result), table.details(result)]
        else:
            home = os.path.commonpath([each.path.resolve().parent for each, _ in scored])
            drawn = figures.compare(results, pathlib.Path(home)) if can_draw else {}
            where, title = pathlib.Path(home, "comparison.html"), f"runs in {home}"
            texts = [table.overview(results), *map(table.details, results)]
        table.page(where, f"wl: {title}", texts, drawn)
        written.append(where)
    except (InputError, RunError) as error:
        warn(error)
    return written + list(drawn.values())


def check_convergence(path, allowed: bool) -> None:
    """Raise RunError if the chains of path, str or Path, have not converged; warn if allowed."""
    file = hdf5.read(path, "posterior", groups=("summary", "constant_data"))
    error = np.max(file.groups["constant_data"].get("quadrature_error", [0.0, 0.0])[1:])
    reason = unconverged(file.groups["summary"])
    if reason is None and error > MAX_QUADRATURE_ERROR:
        reason = f"not converged: {error:.2g} sd from a finer quadrature; give --sampler metropolis"
    if reason is not None and not allowed:
        raise RunError(f"{path}: {reason}; --allow-unconverged takes it as it is")
    if reason is not None:
        warn(reason)
