"""Scores as text, and as one page with pictures: a verdict, a line a run, all figures of one."""
import base64
import html
import pathlib
import textwrap

import numpy as np

from ..core.files import atomic
from ..core.params import FLAGS, PARAMS

TITLES = {"test_on_design": "test, on design", "test_off_design": "test, off design",
          "test_at_hull": "at the hull", "holdout_at_hull": "at the hull",
          "emulator": "emulator (seen)", "train": "train (seen)"}
SHOWN = ("method", "model", "loss", "sampler", "prior", "nstep", "sigma", "recalibrate", "shard")
PARAM_ROWS = (
    ("MSE / label variance", "mse", 4, 1), ("R2", "r2", 3, 1), ("mean error", "bias", 5, 1),
    ("mean error bar", "mean_sd", 5, 1), ("mean (error / error bar)^2", "mean_pull2", 3, 1),
    ("truth within 1 sd, % (68.3)", "coverage_68", 1, 100),
    ("truth within 2 sd, % (95.4)", "coverage_95", 1, 100),
    ("truth in q16-q84, % (68)", "coverage_68_quantiles", 1, 100),
    ("truth in q2.5-q97.5, % (95)", "coverage_95_quantiles", 1, 100),
    ("p-value: truths even in posterior", "pit_p_value", 3, 1))
# of each set of maps: title, key of score.summarise(), digits, scale, which parameter
ROWS = (
    ("maps", "n", 0, 1, None), ("score", "score", 2, 1, None),
    ("score that the error bars promise", "expected_score", 2, 1, None),
    ("MSE / label variance", "mse_mean", 4, 1, None),
    *((f"{p}: {title}", *how, k) for k, p in enumerate(PARAMS) for title, *how in PARAM_ROWS),
    ("truths inside, % (10, 30, 50, 70, 90)", "coverage_curve", 0, 100, None),
    ("both: truth in 68.3 % ellipse, %", "coverage_68_joint", 1, 100, None),
    ("both: truth in 95.4 % ellipse, %", "coverage_95_joint", 1, 100, None))
SAID = (("acceptance_mean", "acceptance {acceptance_mean:.2f} ({acceptance_min:.2f} to "
                            "{acceptance_max:.2f})"),
        ("ess_median", "effective sample size {ess_median:.0f} (least {ess_min:.0f})"),
        ("rhat_max", "R-hat at most {rhat_max:.3f}"),
        ("tau_median", "autocorrelation time {tau_median:.0f} steps (most {tau_max:.0f})"))
# central interval: its probability in %, how far the coverage may lie from it; that of error bars
NOMINAL = {"68": (68.0, 2.0, 68.3), "95": (95.0, 1.5, 95.4)}
QUANTILES = {f"coverage_{name}_quantiles_mean" for name in NOMINAL}
SURE = 2.8                 # errors beyond which coverage is off: 1 % of calibrated runs are told so
MIN_P = 1e-3               # of the uniformity of PIT, for a verdict without a warning
PUBLISHED = 8.68           # the organisers' network and sampler, on the real test maps
WIDTH, WIDE = 80, 110      # columns of a verdict, and of all figures
MAX_NAME, MAX_NEW = 26, 20               # letters of a run, and new maps, that a table shows
CHAINS = {FLAGS[bit].replace("_", " ") for bit in (1, 2, 4)}     # flags that more steps may mend
UNLIKELY = 0.01            # p-value of a map that the simulations hardly make
STRANGE = FLAGS[16].replace("_", " ")    # more than 1 + 1 % of the maps are no chance
DISTRUST = "Distrust these posteriors: other depth, mask, sky or systematics?"

# what a page explains: what its figures call it, the sentence
GLOSSARY = {
    "MSE": "Score of a map: minus the sum over Omega_m and S_8 of (e / s)^2 + ln s^2 + 1000 e^2, "
           "with its error e and error bar s. MSE / label variance: 0 is perfect, 1 knows only the "
           "design.",
    "off design": "Off design: cosmologies that train no emulator.",
    "at the hull": "At the hull: at the edge of the design, where error bars are too short; "
                   "quantiles are widened there, at most twofold: use these.",
    "p-value: truths": "p-value: that truths are spread evenly over their posteriors; values near "
                       "1 are conservative, as maps of one cosmology are not independent."}
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font-family: system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 0.9em; }}
figure {{ margin: 2em 0; }} img {{ max-width: 100%; height: auto; }} figcaption {{ color: #444; }}
</style></head><body><h1>{title}</h1>
"""


def verdict(result: dict, written: list = ()) -> str:
    """What a run found, in a few plain lines of at most 80 columns.

    result: of report.score_posterior()
    written: Paths of the files that belong to it, which are named with the next command if any
    """
    path, scored, found = pathlib.Path(result["path"]), result["scored"], result["diagnostics"]
    flags = found.get("flags", {})
    strange = flags.get(STRANGE, 0) > 1.0 + 0.01 * found.get("maps", 0)
    if scored is None:
        lines = [f"No truth is known for these {result['without_truth']['n']} maps: nothing is "
                 "scored."]
    else:
        part = result["subsets"][scored]
        others = [] if result["prior_only_score"] is None else [
            f"design alone {result['prior_only_score']:.2f}"]
        others += [f"{words} {_pm(result[name], 'score', 2)}" for name, words in
                   (("spectrum", "power spectrum"), ("limit", "information limit")) if result[name]]
        lines = [f"Score {_pm(part, 'score', 2)} on {part['n']} {scored} maps; higher is better.",
                 f"Beside it: {', '.join(others)}; published recipe {PUBLISHED} (real maps).",
                 _bars_verdict(part, strange)]
    if flags:
        advice = "; raise --nstep or change --sigma." if set(flags) & CHAINS else "."
        lines.append("Flagged: " + ", ".join(f"{n} {text}" for text, n in flags.items()) + advice)
        lines += [DISTRUST] * strange
    if "out_of_distribution" in result:
        lines.append("Out of distribution by {by}: mean true-positive rate {tpr:.3f} ({n_out} maps "
                     "against {n_in}).".format(**result["out_of_distribution"]))
    lines = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines if line]
    if written:
        names = {f.parent.name + "/" if f.parent != path.parent else f.name for f in written}
        lines += [f"Files: {', '.join([path.name, *sorted(names)])} in {path.parent}",
                  f"Next: python run_score.py {path} "            # whole, to be copied
                  + ("--details" if scored else "--submission entry.zip")]
    return "\n".join(lines)


def last_line(result: dict) -> str:
    """The figures of a run in one line fit for grep. result: of report.score_posterior()."""
    said = {"score": None, "error": None, "maps": 0, "kind": result["scored"]}
    if result["scored"] is not None:
        part = result["subsets"][result["scored"]]
        error, bars = part["score_error"], "fail" if _off(part) else "hold"
        said |= {"score": f"{part['score']:.4f}", "error": error and f"{error:.4f}",
                 "maps": part["n"], **{f"in{name}": f"{value:.1f}" for name, value, *_ in
                                       _coverages(part)},
                 "bars": None if part["coverage_68_mean_error"] is None else bars}
    said |= {"flagged": result["diagnostics"].get("flagged", 0), "file": result["path"]}
    return "wl-result " + " ".join(f"{name}={value}" for name, value in said.items())


def _coverages(part):
    """Name, value, error, nominal one and tolerance, in %, of the intervals that are reported."""
    quantiles = part.keys() >= QUANTILES
    for name, (nominal, allowed, of_bars) in NOMINAL.items():
        key = f"coverage_{name}_{'quantiles_' * quantiles}mean"
        error = part[f"{key}_error"]
        yield (name, 100 * part[key], None if error is None else 100 * error,
               nominal if quantiles else of_bars, allowed)


def _off(part):
    """The first coverage that is off its nominal value, minus it; 0 if none is."""
    return next((value - nominal for _, value, error, nominal, allowed in _coverages(part)
                 if abs(value - nominal) > max(allowed, SURE * (error or 0.0))), 0.0)


def _bars_verdict(part, strange):
    """Whether the intervals hold, and what helps if not and no maps are strange; "" of one map."""
    if part["coverage_68_mean_error"] is None:
        return ""
    off, shown = _off(part), ", ".join(f"{value:.1f} +- {error:.1f} % ({name})"
                                       for name, value, error, *_ in _coverages(part))
    answer = "yes" if not off else f"no, too {'wide' if off > 0 else 'narrow'}"
    said = [f"Error bars hold: {answer}; truths inside: {shown}."]
    said += [f"{name} comes out {abs(bias) / sd:.2f} error bars too {'high' if bias > 0 else 'low'}"
             f" on average, or its posterior is misshapen (p = {p:.0e})." for name, p, bias, sd in
             zip(PARAMS, part["pit_p_value"], part["bias"], part["mean_sd"]) if p < MIN_P]
    if (off or len(said) > 1) and not strange:
        said.append("More maps for the emulator (--emulator-fraction, --folds) may help.")
    return " ".join(said)


def new_maps(maps) -> str:
    """What a trained run says of new maps, in lines of at most 80 columns. maps: files.Maps."""
    summary = maps.summary
    mean, sd = summary["posterior_mean"], summary[maps.bars]
    p_value = summary.get("p_value_all", summary.get("p_value"))
    lines = [f"{len(mean)} new maps, mean error bars {_named(np.nanmean(sd, axis=0))}."]
    rows = [["map", *PARAMS], *([str(i), *(f"{a:.4f} +- {b:.4f}" for a, b in zip(m, s))]
                                for i, (m, s) in enumerate(zip(mean[:MAX_NEW], sd)))]
    if p_value is not None:
        found, expected = int((p_value < UNLIKELY).sum()), UNLIKELY * len(mean)
        lines.append(f"{found} of them with a p-value below {UNLIKELY:g}; of maps like those that "
                     + (f"trained {expected:.1f}." if "p_value_all" in summary else
                        f"trained, fewer than {expected:.1f}, as parameters were fitted."))
        if found > expected + 3.0 * np.sqrt(expected) + 1.0:
            lines.append(DISTRUST)
        for row, text in zip(rows, ["p-value", *(f"{p:.3g}" for p in p_value)]):
            row.append(text)
    lines.append(_align(rows, left=0, indent="  "))
    if len(mean) > MAX_NEW:
        lines.append(f"  and {len(mean) - MAX_NEW} more in the file")
    return "\n".join([*lines, f"Files: {maps.path}"])


def _named(values):
    return ", ".join(f"{v:.4f} ({p})" for v, p in zip(values, PARAMS))


def overview(results: list) -> str:
    """Posteriors as a table of 80 columns, best first. results: of report.score_posterior()."""
    rows = [("run", "maps", "n", "score", "MSE/var", "in 68 %", "in 95 %")]
    for result in sorted(results, key=lambda r: np.inf if r["score"] is None else -r["score"]):
        path = pathlib.Path(result["path"]).resolve()
        run = path.parent.name if path.name == "posterior.h5" else f"{path.parent.name}/{path.name}"
        run = run if len(run) <= MAX_NAME else "..." + run[3 - MAX_NAME:]
        if result["scored"] is None:
            rows.append((run, "test", str(result["without_truth"]["n"]), "no truth", *"---"))
            continue
        part = result["subsets"][result["scored"]]
        rows.append((run, result["scored"], str(part["n"]), _pm(part, "score", 2),
                     f"{part['mse_mean']:.3f}", *(f"{v:.1f}" for _, v, *_ in _coverages(part))))
    return _align(rows, left=2)


def details(result: dict) -> str:
    """All figures of a posterior, a column a set of maps. result: of report.score_posterior()."""
    settings, parts = result["settings"], result["subsets"]
    shown = [f"{name} {settings[name]}" for name in SHOWN if settings.get(name) is not None]
    lines = [textwrap.fill(", ".join([result["path"], *shown, f"seed {result['posterior_seed']}"]),
                           WIDE, subsequent_indent="  ")]
    if parts:
        rows = [("", *(TITLES.get(name, name) for name in parts))]
        rows += [(title, *(_pm(part, *how) for part in parts.values())) for title, *how in ROWS
                 if any(how[0] in part for part in parts.values())]
        lines.append(_align(rows, left=1, indent="  "))
        of = "quantiles" if parts[result["scored"]].keys() >= QUANTILES else "error bars"
        if settings.get("recalibrate") in ("isotonic", of == "error bars" and "temperature"):
            of += ", recalibrated on maps of the emulator split"
        lines.append(f"  whether error bars hold is judged by the {of}")
        if (known := result["prior_only_score"]) is not None:
            lines.append(f"  an answer that knows only the design scores {known:.2f}")
        if result["limit"] is not None:
            lines.append(f"  {describe_limit(result['limit'])}")
    if part := result["without_truth"]:
        lines.append(f"  no truth for {part['n']} test map{'s' * (part['n'] > 1)}: mean error bar "
                     + _named(part["mean_sd"]))
        for one in part.get("maps", ()):
            said = [f"{p} = {m:.4f} +- {s:.4f}" for p, m, s in zip(PARAMS, one["mean"], one["sd"])]
            if one["p_value"] is not None:
                said.append(f"p-value {one['p_value']:.3g}")
            lines.append(f"  test map {one['map']}: {', '.join(said)}")
    found = result["diagnostics"]
    said = [text.format(**found) for key, text in SAID if key in found]
    if found.get("flagged"):
        said.append(f"{found['flagged']} map{'s' * (found['flagged'] > 1)} flagged ("
                    + ", ".join(f"{n} {text}" for text, n in found["flags"].items()) + ")")
    lines += ["  " + "; ".join(said)] * bool(said)
    return "\n".join(lines + [f"  note: {note}" for note in result["notes"]])


def describe_limit(limit: dict) -> str:
    """One line on the information limit. limit: of score_maps()."""
    text = (f"information limit of these maps ({limit['prior']} prior): "
            f"{_pm(limit, 'score', 2)}, expected {limit['expected_score']:.2f}; this run "
            f"{abs(limit['difference']):.2f} +- {limit['difference_error']:.2f} "
            f"{'below' if limit['difference'] <= 0 else 'above'}")
    if limit["difference"] > 3.0 * limit["difference_error"]:
        text += ", which cannot be: look for truth that leaks into the posterior"
    return text


def _pm(part, key, digits, scale=1, at=None):
    value, error = part.get(key), part.get(f"{key}_error")
    if key == "coverage_curve":
        return " ".join(f"{scale * np.mean(share):.{digits}f}" for share in value[::2])
    if at is not None:
        value, error = value and value[at], error and error[at]
    shown = [f"{scale * number:.{digits}f}" for number in (value, error) if number is not None]
    return " +- ".join(shown) or "-"


def _align(rows, left, indent=""):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join((indent + "  ".join(cell.ljust(w) if i < left else cell.rjust(w)
                                         for i, (cell, w) in enumerate(zip(row, widths)))).rstrip()
                     for row in rows)


def page(path, title: str, texts: list[str], pictures: dict) -> None:
    """Write a page that needs no other file. Raises InputError if the folder cannot be used.

    path: str or Path; title: str; pictures: {caption: Path of a PNG}
    texts: the first stands above the pictures, what their columns mean below all
    """
    glossary = "\n".join(textwrap.fill(meaning, WIDE) for word, meaning in GLOSSARY.items()
                         if any(word in text for text in texts))
    first, *others = (f"<pre>{html.escape(text)}</pre>\n" for text in [*texts, glossary] if text)
    parts = [HEAD.format(title=html.escape(title)), first]
    for caption, picture in pictures.items():
        data, said = base64.b64encode(picture.read_bytes()).decode(), html.escape(caption)
        parts.append(f'<figure><img src="data:image/png;base64,{data}" alt="{said}">'
                     f"<figcaption>{said}.</figcaption></figure>\n")
    with atomic(path) as part:
        part.write_text("".join([*parts, *others, "</body></html>\n"]), encoding="utf-8",
                        errors="backslashreplace")
