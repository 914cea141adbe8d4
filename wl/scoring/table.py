"""Scores as aligned text: a line for each of several posteriors, and all figures of one."""
import pathlib

import numpy as np

from ..core.params import PARAMS
from .against_limit import describe

TITLES = {"test": "test", "test_on_design": "test, on design", "test_off_design": "test, off design",
          "holdout": "holdout", "emulator": "emulator (seen)", "train": "train (seen)"}
SHOWN = ("method", "model", "loss", "sampler", "prior", "likelihood", "nstep", "sigma", "recalibrate", "shard")


def overview(results):
    """The summary of several posteriors as aligned text: a line each, best score first."""
    rows = [("run", "method", "maps", "n", "score", "MSE/var", "R2 " + PARAMS[0], PARAMS[1], "in 68 %",
             "in 95 %", "sd " + PARAMS[0], PARAMS[1])]
    for result in sorted(results, key=lambda r: -np.inf if r["score"] is None else r["score"], reverse=True):
        path, settings = pathlib.Path(result["path"]), result["settings"]
        run = str(path.parent) if path.name == "posterior.h5" else str(path)
        start = (run, str(settings.get("method", "-")))
        if result["scored"] is None:
            lost = result["without_truth"]
            rows.append((*start, "test", str(lost["n"]), "no truth", "-", "-", "-", "-", "-",
                         *(f"{v:.4f}" for v in lost["mean_sd"])))
            continue
        part = result["subsets"][result["scored"]]
        rows.append((*start, TITLES[result["scored"]], str(part["n"]), _pm(part, "score", 2),
                     _pm(part, "mse_mean", 3), *("-" if v is None else f"{v:.3f}" for v in part["r2"]),
                     _pm(part, "coverage_68_mean", 1, 100.0), _pm(part, "coverage_95_mean", 1, 100.0),
                     *(f"{v:.4f}" for v in part["mean_sd"])))
    return _align(rows, left=3)


def details(result):
    """All figures of one posterior as aligned text: a line a figure, a column a set of maps."""
    settings = result["settings"]
    shown = [f"{name} {settings[name]}" for name in SHOWN if settings.get(name) is not None]
    lines = [", ".join([result["path"], *shown, f"seed {result['posterior_seed']}"])]
    parts = result["subsets"]
    if parts:
        rows = [("", *(TITLES[name] for name in parts)), ("maps", *(str(p["n"]) for p in parts.values()))]

        def row(title, key, digits, scale=1.0, at=None):
            if any(key in p for p in parts.values()):
                rows.append((title, *(_pm(p, key, digits, scale, at) for p in parts.values())))

        row("score", "score", 2)
        row("score that the error bars promise", "expected_score", 2)
        row("score before recalibration", "score_plain", 2)
        row("MSE / label variance", "mse_mean", 4)
        for i, param in enumerate(PARAMS):
            row(f"{param}: MSE / label variance", "mse", 4, at=i)
            row(f"{param}: R2", "r2", 3, at=i)
            row(f"{param}: mean error", "bias", 5, at=i)
            row(f"{param}: mean error bar", "mean_sd", 5, at=i)
            row(f"{param}: mean (error / error bar)^2", "mean_pull2", 3, at=i)
            row(f"{param}: truth within 1 sd, % (68.3)", "coverage_68", 1, 100.0, i)
            row(f"{param}: truth within 2 sd, % (95.4)", "coverage_95", 1, 100.0, i)
            row(f"{param}: within 1 sd before recalibration", "coverage_68_plain", 1, 100.0, i)
            row(f"{param}: within 2 sd before recalibration", "coverage_95_plain", 1, 100.0, i)
            row(f"{param}: truth in q16-q84, % (68)", "coverage_68_quantiles", 1, 100.0, i)
            row(f"{param}: truth in q2.5-q97.5, % (95)", "coverage_95_quantiles", 1, 100.0, i)
            row(f"{param}: p-value of uniform PIT", "pit_p_value", 3, at=i)
        rows.append(("truths inside, % (10, 30, 50, 70, 90)", *(" ".join(
            f"{100 * np.mean(curve[i]):.0f}" for i in (0, 2, 4, 6, 8))
            for curve in (p["coverage_curve"].get("quantiles", p["coverage_curve"]["error_bars"])
                          for p in parts.values()))))
        row("both: truth in 68.3 % ellipse, %", "coverage_68_joint", 1, 100.0)
        row("both: truth in 95.4 % ellipse, %", "coverage_95_joint", 1, 100.0)
        lines.append(_align(rows, left=1, indent="  "))
        if result["prior_only_score"] is not None:
            lines.append(f"  an answer that knows only the design scores {result['prior_only_score']:.2f}")
        if result["limit"] is not None:
            lines.append(f"  {describe(result['limit'])}")
    lost = result["without_truth"]
    if lost:
        lines.append(f"  no truth for {lost['n']} test map{'s' * (lost['n'] > 1)}: mean error bar "
                     + ", ".join(f"{v:.4f} ({p})" for v, p in zip(lost["mean_sd"], PARAMS)))
        for one in lost.get("maps", ()):
            text = ", ".join(f"{p} = {m:.4f} +- {s:.4f}" for p, m, s in zip(PARAMS, one["mean"], one["sd"]))
            p_value = "" if one["p_value"] is None else f", chi2 p-value {one['p_value']:.3g}"
            lines.append(f"  test map {one['map']}: {text}{p_value}")
    if "out_of_distribution" in result:
        ood = result["out_of_distribution"]
        lines.append(f"  out of distribution by chi2: mean true-positive rate {ood['tpr']:.3f} ({ood['n_out']} maps "
                     f"against {ood['n_in']})")
    found = result["diagnostics"]
    said = [text.format(**found) for key, text in
            (("acceptance_mean", "acceptance {acceptance_mean:.2f} ({acceptance_min:.2f} to "
                                 "{acceptance_max:.2f})"),
             ("ess_median", "effective sample size {ess_median:.0f} (least {ess_min:.0f})"),
             ("rhat_max", "R-hat at most {rhat_max:.3f}"),
             ("tau_median", "autocorrelation time {tau_median:.0f} steps (most {tau_max:.0f})")) if key in found]
    if found.get("flagged"):
        said.append(f"{found['flagged']} map{'s' * (found['flagged'] > 1)} flagged ("
                    + ", ".join(f"{n} {text}" for text, n in found["flags"].items()) + ")")
    if said:
        lines.append("  " + "; ".join(said))
    return "\n".join(lines + [f"  note: {note}" for note in result["notes"]])


def _pm(part, key, digits, scale=1.0, at=None):
    """A figure with its error as text, "-" where it is not defined."""
    value, error = part.get(key), part.get(f"{key}_error")
    if at is not None:
        value, error = value and value[at], error and error[at]
    if value is None:
        return "-"
    text = f"{scale * value:.{digits}f}"
    return text if error is None else f"{text} +- {scale * error:.{digits}f}"


def _align(rows, left, indent=""):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join((indent + "  ".join(cell.ljust(w) if i < left else cell.rjust(w)
                                         for i, (cell, w) in enumerate(zip(row, widths)))).rstrip()
                     for row in rows)
