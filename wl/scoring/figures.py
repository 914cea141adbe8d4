"""Pictures of scored posteriors, as PNG and PDF; matplotlib is loaded when they are asked for.

Colours are those of Okabe & Ito and of viridis, for colour-blind eyes; dashes too tell lines apart.
"""
import contextlib
import io
import os
import pathlib
import re
import sys

import numpy as np

from ..core import hdf5
from ..core.checks import InputError
from ..core.files import atomic
from ..core.params import LATEX, PARAMS, REGIONS, TEST
from ..maps import dataset
from . import score

LABELS = [f"${LATEX[name]}$" for name in PARAMS]
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
MAX_BARS = 300             # maps whose error bars are drawn; more would hide each other
CHOSEN = 4                 # maps whose contours are drawn
GRID = 160                 # points of a contour along each parameter
PIT_BINS = 20


class _Scored:
    """The maps whose score is the headline, as the pictures take them."""

    def __init__(self, maps, result):
        pick = maps.subsets()[result["scored"]]
        self.maps, self.rows = maps, np.flatnonzero(pick)
        self.numbers, self.truth, self.ids = maps.numbers(pick), maps.truth[pick], maps.ids[pick]
        self.mean, self.bars = self.numbers.mean, self.numbers.sd
        self.pit = score.probabilities(self.truth, self.numbers)
        file = hdf5.read(maps.path, "posterior", groups=("posterior",))
        self.drawn = file.groups.get("posterior")
        self.kept = file.coords.get("posterior", {}).get("map", np.arange(0))
        self.emulator = None
        if maps.path.name == "posterior.h5":
            from ..posterior.infer import load_emulator
            with contextlib.suppress(InputError):              # without emulator
                self.emulator = load_emulator(maps.path.parent)

    def density(self, i, points):
        """Density of map i at points (m, 2) up to a factor: its emulator's, else a Gaussian."""
        row = self.rows[i]
        if self.emulator is not None:
            summary = self.maps.file.groups["observed_data"]["summaries"][row]
            value = self.emulator.log_posterior(points, summary[None])[0]
        else:
            mean, sd = (self.maps.summary[k][row] + 0.0 * points for k in ("posterior_mean", "sd"))
            rho = 0.0 if self.numbers.correlation is None else self.numbers.correlation[i]
            value = -0.5 * score.joint_distance(points, mean, sd, np.full(len(points), rho))
        return np.exp(value - value.max())


def draw_all(maps, result: dict, folder: pathlib.Path) -> dict:
    """Every picture that a scored posterior has the data for: {caption: Path of the PNG}.

    maps, result: Maps, and report.score_maps() of it; folder: Path, gets NAME.png and NAME.pdf
    """
    scored = _Scored(maps, result)
    return {caption: path for name, (function, size, caption) in FIGURES.items()
            if (path := _drawn(function, scored, size, folder / name))}


def compare(results: list, folder: pathlib.Path) -> dict:
    """A bar for each run's score; returns as draw_all(). results: of report.score_posterior()."""
    results = sorted((r for r in results if r["score"] is not None), key=lambda r: r["score"])
    path = results and _drawn(_comparison, results, (6.5, 1.2 + 0.35 * len(results)),
                              folder / "comparison")
    return {"Score of each run, with its error": path} if path else {}


def _drawn(function, data, size, path):
    """The PNG of a picture, and the PDF beside it; None if there are no data for it."""
    if not {"matplotlib", "IPython"} & {*sys.modules}:       # a notebook's may not be here
        os.environ["MPLBACKEND"] = "agg"
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout="constrained")
    if function(figure, data) is False:
        return None
    for suffix, stamp in ((".png", "Software"), (".pdf", "CreationDate")):
        image = io.BytesIO()                      # matplotlib's PDF crashes on a full disk
        figure.savefig(image, format=suffix[1:], dpi=150, metadata={stamp: None})
        with atomic(path.with_suffix(suffix)) as part:
            part.write_bytes(image.getvalue())
    return path.with_suffix(".png")


def _comparison(figure, results):
    axis, places = figure.subplots(), range(len(results))
    bars = axis.barh(places, [r["score"] for r in results], color=BLUE, ecolor=ORANGE, height=0.6,
                     xerr=[r["score_error"] or 0.0 for r in results])
    axis.bar_label(bars, [f"{r['score']:.2f}" for r in results], padding=6)
    axis.set(yticks=places, yticklabels=[pathlib.Path(r["path"]).parent.name for r in results],
             xlabel="score (higher is better)")
    axis.margins(x=0.12)


def _truth(figure, scored):
    truth, mean, bars = scored.truth, scored.mean, scored.bars
    some = np.unique(np.linspace(0, len(truth) - 1, MAX_BARS).astype(int))
    for k, axis in enumerate(figure.subplots(1, 2)):
        ends = [truth[:, k].min(), truth[:, k].max()]
        axis.errorbar(truth[some, k], mean[some, k], bars[some, k], fmt="o", ms=2.5, lw=0.6,
                      color=BLUE, alpha=0.6)
        axis.plot(ends, ends, color="black", lw=1, zorder=3)
        axis.set(xlabel=f"true {LABELS[k]}", ylabel=f"inferred {LABELS[k]}")


def _plane(figure, axis, scored, values, label, colours):
    """Means over the maps of each true cosmology as colours over the plane of Omega_m and S_8."""
    theta, which = np.unique(scored.truth, axis=0, return_inverse=True)
    mean = np.bincount(which, values) / np.bincount(which)
    low, high = np.percentile(mean, [3, 97])            # a few cosmologies of one map hide the rest
    if colours == "PuOr":
        low, high = -max(-low, high), max(-low, high)
    axis.scatter(*scored.maps.design.T, s=10, color="white", edgecolors=GREY, linewidths=0.5)
    points = axis.scatter(*theta.T, c=mean, s=34, cmap=colours, edgecolors="black", linewidths=0.4,
                          vmin=low, vmax=high)
    figure.colorbar(points, ax=axis, label=label, extend="both")
    axis.set(xlabel=LABELS[0], ylabel=LABELS[1])


def _residuals(figure, scored):
    pulls = (scored.mean - scored.truth) / scored.bars
    for pull, label, axis in zip(pulls.T, LABELS, figure.subplots(1, 2, sharey=True)):
        _plane(figure, axis, scored, pull, f"mean error of {label} / error bar", "PuOr")


def _design(figure, scored):
    each = score.challenge_score(scored.truth, scored.mean, scored.bars)
    _plane(figure, figure.subplots(), scored, each, "score", "viridis")


def _calibration(figure, scored):
    axes, level = figure.subplots(1, 3), np.linspace(0.02, 0.98, 49)
    axes[0].plot([0, 1], [0, 1], color="black", lw=1)
    for k, (colour, dash) in enumerate(((BLUE, "-"), (ORANGE, "--"))):
        axes[0].plot(level, score.coverage_curve(scored.pit[:, k], level), color=colour, ls=dash,
                     label=LABELS[k])
        expected = len(scored.pit) / PIT_BINS
        axes[k + 1].axhspan(*(expected + np.array([-2, 2]) * np.sqrt(expected)), color="0.88")
        axes[k + 1].hist(scored.pit[:, k], PIT_BINS, range=(0, 1), color=colour, histtype="step",
                         lw=1.5, ls=dash)
        axes[k + 1].axhline(expected, color="black", lw=1)
        axes[k + 1].set(xlabel=f"posterior probability below the true {LABELS[k]}", ylabel="maps",
                        xlim=(0, 1), ylim=(0, None))
    axes[0].set(xlabel="probability of the interval", ylabel="share of truths inside", xlim=(0, 1),
                ylim=(0, 1), aspect="equal")
    axes[0].legend(frameon=False)


def _contours(figure, scored):
    drawn = np.flatnonzero(np.isin(scored.ids, scored.kept))
    drawn = drawn if drawn.size else np.arange(len(scored.truth))
    order = drawn[np.argsort(scored.truth[drawn, 0], kind="stable")]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, CHOSEN + 2).astype(int)[1:-1])]
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axis, i in zip(axes, chosen):
        _posterior(axis, scored, i)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False, fontsize=8)


def _posterior(axis, scored, i):
    """Regions of 68 and 95 % of map i: exact (or Gaussian), and of its chain if it kept draws."""
    mean, sd, truth = scored.mean[i], scored.maps.summary["sd"][scored.rows[i]], scored.truth[i]
    low, high = np.minimum(mean - 4 * sd, truth - sd), np.maximum(mean + 4 * sd, truth + sd)
    x, y = np.linspace(low, high, GRID, axis=1)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = scored.density(i, points).reshape(GRID, GRID)
    axis.contour(x, y, density, _levels(density), colors=BLUE, linewidths=1.2)
    axis.plot([], [], color=BLUE, label="exact" if scored.emulator else "Gaussian")
    kept = scored.kept == scored.ids[i]
    if kept.any():
        draws = np.stack([scored.drawn[name][..., kept].ravel() for name in PARAMS], axis=1)
        from scipy.ndimage import gaussian_filter
        count, *ends = np.histogram2d(*draws.T, 60, np.stack([low, high], axis=1))
        smooth = gaussian_filter(count.T, 7.5 * len(draws)**(-1 / 6))   # 7.5 bins a sd; Scott 1992
        axis.contour(*((end[1:] + end[:-1]) / 2 for end in ends), smooth, _levels(smooth),
                     colors=ORANGE, linewidths=1.0, linestyles="--")
        axis.plot([], [], color=ORANGE, ls="--", label="draws")
    axis.errorbar(*mean, scored.bars[i][1], scored.bars[i][0], fmt="o", ms=3, color=GREEN, lw=1,
                  label="mean, error bars")
    axis.plot(*truth, "*", color="black", ms=9, ls="none", label="truth")
    axis.set(xlabel=LABELS[0], ylabel=LABELS[1])
    axis.set_title(f"map {scored.ids[i]}", fontsize=9)
    axis.locator_params(axis="x", nbins=4)


def _levels(density):
    ordered = np.sort(density, axis=None)[::-1]
    at = np.searchsorted(np.cumsum(ordered) / ordered.sum(), sorted(REGIONS.values(), reverse=True))
    found = ordered[np.minimum(at, len(ordered) - 1)]
    return found if found[0] < found[1] else [0.5 * found[1], found[1]]


def _map(figure, scored):
    """The first scored test map, smoothed, over its posterior."""
    where = [scored.maps.folder / name for name in (dataset.TEST_FILE, dataset.MASK_FILE)]
    test = np.flatnonzero(scored.maps.split[scored.rows] == TEST)
    if not test.size or not all(path.is_file() for path in where):
        return False
    from scipy.ndimage import gaussian_filter
    i, mask = test[0], np.load(where[1])
    row, frame = scored.maps.realisation[scored.rows[i]], np.zeros(mask.shape)
    frame[mask] = np.load(where[0], mmap_mode="r")[row]
    weight = gaussian_filter(mask.astype(float), 2.0)
    frame = np.where(mask, gaussian_filter(frame, 2.0) / np.maximum(weight, 0.05), np.nan).T
    limit = np.nanquantile(np.abs(frame), 0.995)
    above, below = figure.subplots(2, 1, height_ratios=(1, 2.2))
    image = above.imshow(frame, origin="lower", cmap="viridis", vmin=-limit, vmax=limit,
                         interpolation="nearest", aspect="auto")
    above.set(xlabel="pixel", ylabel="pixel", title=f"map {scored.ids[i]}, smoothed by 2 pixels")
    figure.colorbar(image, ax=above, label=r"$\kappa$")
    _posterior(below, scored, i)
    below.set_title("its posterior", fontsize=9)
    below.legend(frameon=False, fontsize=7)


def _training(figure, scored):
    """Losses of the networks whose predictions these are, where their file stands beside."""
    made_from, found = scored.maps.file.inputs.get("predictions"), {}
    with contextlib.suppress(InputError):                      # none there, or a damaged one
        file = hdf5.read(scored.maps.path.with_name("predictions.h5"), groups=("training",))
        found = file.groups.get("training", {}) if file.digest == made_from else {}
    if not found:
        return False
    names = [re.sub(r"^model_?|_?[fm]?\d+|\.pt$", "", name) for name in
             file.coords["training"]["network"]]
    kinds = list(dict.fromkeys(names))
    for kind, axis in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0]):
        rows = [i for i, name in enumerate(names) if name == kind]
        for name, colour, line in (("loss", ORANGE, "--"), ("validation", BLUE, "-")):
            lines = axis.plot(found["trained"][rows].T, found[name][rows].T, line, color=colour,
                              lw=1, marker=".", ms=3)
            lines[0].set_label({"loss": "maps that train", "validation": "maps held out"}[name])
        kept = rows, np.nanargmin(found["validation"][rows], axis=1)
        axis.plot(found["trained"][kept], found["validation"][kept], "o", color=BLUE, mfc="none",
                  label="kept")
        axis.set(xlabel="epochs or passes", ylabel="loss", title=kind)
        axis.locator_params(axis="x", integer=True)
        axis.legend(frameon=False)


# name of the file: function(figure, scored) that returns False without data, inches, caption
FIGURES = {
    "truth": (_truth, (8.0, 3.6), "Inferred against true parameters; the line is equality"),
    "calibration": (_calibration, (10.5, 3.3), "Whether intervals hold what they promise: on the "
                    "diagonal, and flat within the grey band of two sigma, if so"),
    "residuals": (_residuals, (9.5, 3.6), "Mean error at each cosmology in units of its error bar; "
                  "small open points are cosmologies without scored maps"),
    "design": (_design, (5.6, 3.8), "Score of each cosmology"),
    "contours": (_contours, (11.5, 3.4), "Posteriors of chosen maps: regions of 68 and 95 %"),
    "map": (_map, (7.0, 5.6), "A map and its posterior"),
    "training": (_training, (7.0, 3.4), "Loss of the networks, a line each, as they were trained; "
                 "circles mark the weights that were kept, of the least loss of maps held out"),
}
