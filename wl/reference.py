"""A score beside the information limit of the same maps, which wl.limit left in the folder of the data."""
import pathlib

import numpy as np

from . import maps, store
from .checks import InputError
from .score import bootstrap_means, challenge_score, expected_score

LIMIT_FILE = "limit.h5"
STAMPS = ("label", "noisy_test")         # what of a set a limit depends on


def beside_limit(path, folder, keys, truth, mean, sd, count=1000, seed=1):
    """Compare the scores of a posterior with those of the limit on the maps with known truth that both have.

    path: the posterior's file; folder: of the data; keys: (n, 3) int, split, cosmology and realisation of each
    map; truth, mean, sd: (n, 2); count, seed: of the bootstrap. Returns (dict, notes): the dict with n, score,
    score_error (of the limit), expected_score (what the limit's error bars promise), difference, difference_error
    (this posterior minus the limit, map by map) and the limit's settings count, prior, nuisances, n_gal, field;
    None without a limit of these maps.
    """
    where = pathlib.Path(folder) / LIMIT_FILE
    if not where.is_file() or where.resolve() == pathlib.Path(path).resolve():
        return None, []
    try:
        file = store.read(where, "posterior", groups=("summary", "observed_data"))
    except InputError as error:
        return None, [f"no information limit: {error}"]
    again = f"python -m wl.limit --data {folder}"
    labels = [pathlib.Path(folder) / name for _, name in maps.RELEASES.values()]
    for name, files in zip(STAMPS, (labels, [pathlib.Path(folder) / maps.TEST_FILE])):
        found = {store.digest_file(path, quick=True) for path in files if path.is_file()}
        if name in file.inputs and file.inputs[name] not in found:
            return None, [f"{where} was made from another {name} file; repeat {again}"]
    observed, summary = file.groups["observed_data"], file.groups["summary"]
    theirs = {key: row for row, key in enumerate(zip(*(observed[name].tolist()
                                                       for name in ("split", "cosmology", "realisation"))))}
    rows = np.array([theirs.get(tuple(key), -1) for key in keys.tolist()])
    both = rows >= 0
    if both.sum() < 2:
        return None, []
    limit = challenge_score(truth[both], summary["mean"][rows[both]], summary["sd"][rows[both]])
    ours = challenge_score(truth[both], mean[both], sd[both])
    values = np.stack([limit, ours - limit], axis=1)
    error = bootstrap_means(values, count, seed).std(axis=0, ddof=1)
    named = {name: file.settings.get(name) for name in ("count", "prior", "nuisances", "n_gal", "field")}
    return {"n": int(both.sum()), "score": float(limit.mean()), "score_error": float(error[0]),
            "expected_score": float(expected_score(summary["sd"][rows[both]]).mean()),
            "difference": float(values[:, 1].mean()), "difference_error": float(error[1]), **named}, []


def describe(limit):
    """One line on the dict of beside_limit()."""
    how = "exact, Gaussian sky" if limit["count"] == "exact" else "forecast for a Gaussian sky by counting modes"
    text = (f"information limit of these maps ({how}, {limit['prior']} prior): {limit['score']:.2f} +- "
            f"{limit['score_error']:.2f}, expected {limit['expected_score']:.2f}; this run "
            f"{abs(limit['difference']):.2f} +- {limit['difference_error']:.2f} "
            f"{'below' if limit['difference'] <= 0 else 'above'}")
    if limit["count"] == "exact" and limit["difference"] > 3.0 * limit["difference_error"]:
        text += ", which cannot be: look for truth that leaks into the posterior"
    elif limit["difference"] > 0 and limit["field"] != "gaussian":
        text += ", by what is not Gaussian in them"
    return text
