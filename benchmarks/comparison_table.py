"""The table of the rows that compare_networks.py has trained."""
import pathlib

import numpy as np


def map_scores(row):
    """Challenge score of each test map of a row, (n_test,)."""
    import h5py

    from wl.maps.dataset import TRUTH_FILE
    from wl.core.params import TEST
    from wl.scoring.score import challenge_score
    with h5py.File(row["posterior"]) as file:
        test = file["observed_data/split"][:] == TEST
        number = file["observed_data/realisation"][:][test]
        mean, sd = file["summary/mean"][:][test], file["summary/errorbar"][:][test]
    truth = np.load(pathlib.Path(row["settings"]["data"]) / TRUTH_FILE)[number, :2]
    return challenge_score(truth, mean, sd)


def summary(rows, variants):
    """One dict per variant, means and spreads over its seeds; gain: over another variant, seed by seed, map by map.

    rows: dicts of compare_networks.make_row; variants: {name: variant} of one set, whose first is what those
    without "over" are compared with.
    """
    scores = {(r["name"], r["seed"]): map_scores(r) for r in rows if r["name"] in variants}
    out, first = [], next(iter(variants))
    for name, spec in variants.items():
        mine = sorted((r for r in rows if r["name"] == name), key=lambda r: r["seed"])
        if not mine:
            continue

        def of(subset, key):
            return [r["subsets"][subset][key] for r in mine]
        seconds = np.array([r["seconds"] / r["epochs"] for r in mine])
        line = {"name": name, "parameters": mine[0]["parameters"], "epochs": mine[0]["epochs"],
                "learning_rate": mine[0]["learning_rate"], "precision": mine[0]["precision"],
                "ms_per_map": float(np.mean([1e3 * s / r["n_train"] for s, r in zip(seconds, mine)])),
                "minutes_per_epoch": float(seconds.mean() / 60), "n_test": mine[0]["subsets"]["test"]["n"],
                "seeds": [r["seed"] for r in mine], "validation": of("holdout", "score"), "test": of("test", "score"),
                "test_error": float(np.mean(of("test", "score_error"))), "mse": float(np.mean(of("test", "mse_mean"))),
                "coverage": {level: float(np.mean(of("test", f"coverage_{level}_mean"))) for level in ("68", "95")}}
        over = spec.get("over", first)
        gain = [scores[name, s] - scores[over, s] for s in line["seeds"] if (over, s) in scores and over != name]
        if gain:
            each = np.mean(gain, 1)
            line["gain"] = {"over": over, "mean": float(each.mean()), "seeds": each.tolist(),
                            "seed_error": float(each.std(ddof=1) / len(each)**0.5) if len(each) > 1 else None,
                            "map_error": float(np.std(np.mean(gain, 0), ddof=1) / len(gain[0])**0.5)}
        out.append(line)
    return out


def spread(values):
    """Mean +- sd over the seeds; the mean alone of one."""
    text = f"{np.mean(values):.2f}"
    return text + (f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def gained(gain):
    """Gain with its errors from seed to seed (of the mean) and from map to map, and over what."""
    if gain is None:
        return ""
    seeds = "" if gain["seed_error"] is None else f" +- {gain['seed_error']:.2f}"
    return f"{gain['mean']:+.2f}{seeds} (maps {gain['map_error']:.2f}) over {gain['over']}"


def markdown(lines, title):
    """A table of summary()'s dicts. +- of scores is the sd over the seeds, of gains the error of their mean."""
    head = ["network", "parameters", "rate", "ms/map", "min/epoch", "epochs", "seeds", "validation score",
            "test score", "error", "MSE", "68 %", "95 %", "gain"]
    table = [head, ["---"] + ["---:"] * (len(head) - 2) + ["---"]]
    for s in lines:
        inside = [f"{100 * s['coverage'][level]:.1f}" for level in ("68", "95")]
        rate = "" if s["learning_rate"] is None else f"{s['learning_rate']:g}"
        table.append([s["name"], f"{s['parameters']:,}", rate, f"{s['ms_per_map']:.1f}",
                      f"{s['minutes_per_epoch']:.2f}", str(s["epochs"]), str(len(s["seeds"])), spread(s["validation"]),
                      spread(s["test"]), f"{s['test_error']:.2f}", f"{s['mse']:.3f}", *inside, gained(s.get("gain"))])
    maps = f", {lines[0]['n_test']} test maps" if lines else ""
    return f"### {title}{maps}\n\n" + "\n".join("| " + " | ".join(r) + " |" for r in table) + "\n"
