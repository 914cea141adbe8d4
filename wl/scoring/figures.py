"""Pictures of a posterior file; matplotlib is loaded when one is asked for."""
import pathlib

import numpy as np

from ..core.checks import InputError
from ..core.files import atomic
from ..core.params import PARAMS

LABELS = {"Omega_m": r"$\Omega_\mathrm{m}$", "S_8": r"$S_8$"}
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"      # Okabe & Ito: safe for colour-blind eyes
MAX_BARS = 300             # maps whose error bars are drawn; more would hide each other
SUFFIXES = (".png", ".pdf", ".svg")


def check(path) -> None:
    """Raise InputError if no picture can be made with this name, or without matplotlib."""
    if pathlib.Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"--figure {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(f"--figure {path}: matplotlib is not installed; pip install matplotlib, "
                         "or leave the option out") from None


def blank(width: float, height: float):
    """An empty matplotlib Figure. width, height: float, inches"""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def draw(path, truth: np.ndarray, mean: np.ndarray, bars: np.ndarray, title: str) -> None:
    """Truth against estimate for both parameters, and the coverage of the error bars.

    path: file of the picture
    truth, mean, bars: (n, 2) float64, Omega_m and S_8 of maps with known truth
    title: str
    """
    from scipy.special import ndtr
    figure = blank(9.0, 3.1)
    axes = figure.subplots(1, 3)
    some = np.unique(np.linspace(0, len(truth) - 1, MAX_BARS).astype(int))
    for k, name in enumerate(PARAMS):
        low, high = truth[:, k].min(), truth[:, k].max()
        axes[k].plot([low, high], [low, high], color=GREY, lw=1, zorder=3)
        axes[k].errorbar(truth[some, k], mean[some, k], bars[some, k], fmt="o", ms=2, lw=0.5,
                         color=BLUE, alpha=0.6)
        axes[k].set(xlabel=f"true {LABELS[name]}", ylabel=f"inferred {LABELS[name]}")
    levels = np.linspace(0.02, 0.98, 49)
    axes[2].plot([0, 1], [0, 1], color=GREY, lw=1)
    for k, (name, colour) in enumerate(zip(PARAMS, (BLUE, ORANGE))):
        inside = np.abs(2.0 * ndtr((truth[:, k] - mean[:, k]) / bars[:, k]) - 1.0)
        axes[2].plot(levels, [(inside <= level).mean() for level in levels], color=colour,
                     ls=("-", "--")[k], label=LABELS[name])
    axes[2].set(xlabel="probability of the interval", ylabel="share of truths inside", xlim=(0, 1),
                ylim=(0, 1))
    axes[2].legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    with atomic(path) as part:
        figure.savefig(part, dpi=110)
