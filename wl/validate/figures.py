"""Pictures. matplotlib is imported inside the functions, so that nothing else needs it."""
import pathlib

import numpy as np

from ..core.checks import InputError
from ..core.params import PARAMS, PIXEL_ARCMIN, noise_sigma

SUFFIXES = (".png", ".pdf", ".svg")
REAL, SIMULATED = "#c1272d", "#0b4f8a"


def check(path):
    """Refuse, before the work, a picture that could not be drawn. Raises InputError."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--figure: expected a name that ends in {', '.join(SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise InputError(f"--figure: no such folder {path.parent}; make it first")
    _pyplot()


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        raise InputError("pictures need matplotlib, which is not installed: pip install matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot
    return pyplot


def realism(path, comparison, kappa, result):
    """A real noisy map and a simulated one in the same colours, and four statistics of them.

    path: .png, .pdf or .svg; comparison: realism.Comparison; kappa: (n_observed,) the real map; result: what
    comparison.compare() returned. Raises InputError without matplotlib.
    """
    pyplot = _pyplot()
    figure = pyplot.figure(figsize=(13, 8.6), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(1.0, 1.0, 2.3))
    smooth, scale = comparison.shapes, comparison.shapes.scales[0]
    valid = smooth.valid[0]
    pictures = []
    for one in (kappa, result["example"]):
        frame = np.zeros(comparison.mask.shape, np.float32)
        frame[comparison.mask] = one
        pictures.append(np.where(valid, smooth.smooth(frame)[0], np.nan))
    low, high = np.nanpercentile(np.stack(pictures), (0.5, 99.7))
    degrees = [n * PIXEL_ARCMIN / 60.0 for n in comparison.mask.shape]
    titles = ("real, noisy", "simulated at " + ", ".join(
        f"{name} = {value:.3f}" for name, value in zip(PARAMS, result["label"])))
    for row, (picture, title) in enumerate(zip(pictures, titles)):
        axes = figure.add_subplot(grid[row, :])
        image = axes.imshow(picture.T, origin="lower", cmap="magma", vmin=low, vmax=high, interpolation="nearest",
                            extent=(0, degrees[0], 0, degrees[1]))
        axes.set_title(f"{title}, smoothed with {scale:g} arcmin", fontsize=10, loc="left")
        axes.set_ylabel("degrees")
        figure.colorbar(image, ax=axes, label=r"$\kappa$", pad=0.01)
    tests = result["tests"]

    edges = comparison.spectrum.edges
    centre = np.sqrt(edges[:-1] * edges[1:])[comparison.spectrum.used]
    unit = 1e-4 / (centre**2 / (2.0 * np.pi))
    white = (noise_sigma(comparison.n_gal)**2 + result["scatter"]) * comparison.area
    signal = {name: value - white if name in ("real", "mean") else value for name, value in tests["spectrum"].items()}
    _bars(figure.add_subplot(grid[2, 0]), centre, signal, unit, "power spectrum without noise",
          r"$\ell$", r"$10^4\,\ell^2 C_\ell / 2\pi$", xscale="log", yscale="log")
    figure.axes[-1].set_xticks([200, 500, 1000, 2000], labels=["200", "500", "1000", "2000"])
    figure.axes[-1].minorticks_off()
    for column, (name, title, bins) in enumerate((("pdf", "one-point PDF", smooth.bins[0]),
                                                  ("peaks", "peak counts", smooth.bins[1])), start=1):
        place = (bins[0] + bins[1] * (np.arange(int(bins[2])) + 0.5)) * smooth.unit[0]
        _bars(figure.add_subplot(grid[2, column]), place, tests[f"{name} {scale:g}"], 1.0,
              f"{title} at {scale:g} arcmin", r"$\kappa$", "pixels" if name == "pdf" else "peaks", yscale="log")
    axes = figure.add_subplot(grid[2, 3])
    scales = list(result["skewness"])
    real, mean, sd = (np.array([result["skewness"][s][name] for s in scales]) for name in ("real", "mean", "sd"))
    axes.errorbar(scales, mean, sd, color=SIMULATED, fmt="o-", capsize=3, label="simulated")
    axes.plot(scales, real, "s", color=REAL, label="real")
    axes.set_title("skewness, against smoothing", fontsize=10)
    axes.set(xlabel="smoothing (arcmin)", xticks=scales)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def _bars(axes, place, test, unit, title, xlabel, ylabel, **scales):
    """One statistic: simulated mean and scatter against the real numbers, bins without any left out."""
    shown = test["mean"] > 0
    place, unit = place[shown], np.broadcast_to(unit, place.shape)[shown]
    mean, sd, real = (test[name][shown] / unit for name in ("mean", "sd", "real"))
    axes.fill_between(place, np.maximum(mean - sd, 1e-3 * mean), mean + sd, color=SIMULATED, alpha=0.25, lw=0)
    axes.plot(place, mean, color=SIMULATED, label="simulated")
    axes.plot(place, np.where(real > 0, real, np.nan), "s", ms=4, color=REAL, label="real")
    axes.set(title=f"{title}\nchi2 {test['chi2']:.1f} of {test['bins']} bins, p = {test['p_value']:.2f}",
             xlabel=xlabel, ylabel=ylabel, ylim=(0.4 * mean.min(), 2.0 * mean.max()), **scales)
    axes.title.set_fontsize(10)
