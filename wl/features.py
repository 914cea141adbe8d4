"""The hand-made statistics that a dense network learns from, and their measurement for a run.

A map becomes some hundred numbers: its spectrum, and moments and one-point PDF after smoothing at several scales, the
smallest of which is hardly any. On 101 x 24 maps with two draws of noise, dense networks on these reach a mean squared
error of 0.101 in units of the labels' variance, on maps of other realisations. Without the smallest scale it is 0.105,
on the spectrum alone 0.27; eight scales with all bands between them 0.101; peaks, minima, spectra of the amplitude in
bands and skew-spectra beside moments and PDF gained 0.001 to 0.002 at most and cost more than all else.
"""
import numpy as np

from . import batches, store, summaries
from .checks import InputError
from .cli import Progress
from .params import HOLDOUT, TRAIN

N_BIN = 28                              # of the spectrum, from ell 100 to 10,000
PDF_BINS = (-3.0, 0.5, 16)              # of a field, in units of its typical standard deviation
MEASURED = 10_000                       # training maps that dense networks want, all draws together; two draws at least
MOST_DRAWS = 4
LEAST_PIXELS = 100                      # that a smoothed field needs to count
DRAW_STREAM = 108


class Features:
    """Spectrum, and moments and PDF of smoothed maps, each made nearly Gaussian by a root or a logarithm.

    mask: (rows, columns) bool, of the frame; n_gal: galaxies per square arcminute; scales: standard deviations of
    the Gaussians in arcminutes. Moments: ln variance, skewness, kurtosis; PDF: root of the share of the pixels in
    each bin. width: numbers per map.
    """

    def __init__(self, mask, n_gal, scales):
        self.spectrum = summaries.Spectrum(mask.shape, int(mask.sum()), n_bin=N_BIN)
        self.shapes = summaries.Shapes(mask, scales=scales, n_gal=n_gal)
        self.used = np.flatnonzero(self.shapes.valid.sum((1, 2)) >= LEAST_PIXELS)
        self.width = self.spectrum.width + len(self.used) * (3 + PDF_BINS[2])

    def __call__(self, kappa):
        """kappa: (n, rows, columns) float32, zero outside the mask. Returns (n, width) float64.

        A map without any power has infinite entries.
        """
        moments, histogram = self.shapes.distributions(kappa, PDF_BINS)
        moments, histogram = moments[:, self.used], histogram[:, self.used]
        variance, third, fourth = np.moveaxis(moments, 2, 0)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.log(variance), third / variance**1.5, fourth / variance**2,
                     np.sqrt(histogram / histogram.sum(2, keepdims=True))]
        rest = np.concatenate(parts, 2).reshape(len(kappa), self.width - self.spectrum.width)
        return np.concatenate([self.spectrum(kappa), rest], axis=1)


def measure(run, options):
    """features.h5 of a run, made if need be. Returns the store.File.

    options: of the model "statistics": scales, and draws (0: as many as MEASURED needs). Its variables: "fixed" of
    all maps of the set, in their order, with the noise that statistics and hold-out maps have; "fresh" (draw, row,
    feature), further draws of noise for the maps `rows` that train; "test". Raises InputError.
    """
    args, s, scales = run.args, run.set, list(options["scales"])
    if sorted(set(scales)) != scales:
        raise InputError(f"--model-option scales: expected rising numbers, got {', '.join(map(str, scales))}")
    rows = run.rows_of(run.split == TRAIN if run.folds == 1 else run.split != HOLDOUT)
    draws = options["draws"] or min(max(2, -(-MEASURED // len(rows))), MOST_DRAWS)
    settings = {**run.settings, "scales": scales, "draws": draws, "rows": store.digest_array(rows)}
    found = run.reuse("features.h5", "features", settings, run.digests())
    if found is not None:
        return found
    run.check_maps()
    frame = batches.Frame(s.mask, pack=False)
    features, kappa = Features(frame.observed, s.n_gal, scales), s.flat_kappa
    progress = Progress(len(kappa) + (draws - 1) * len(rows) + run.n_test, "measuring statistics", args.quiet)

    def measured(maps, which, noise, n_gal, seed):
        source = batches.Batches(maps, frame, scale=1.0, n_gal=n_gal, seed=seed)
        return summaries.measure(features, source, which, noise, args.threads, progress).astype(np.float32)
    var = store.Var
    fixed = measured(kappa, np.arange(len(kappa)), batches.FIXED, s.n_gal, args.seed)
    groups = {"fixed": var(("map", "feature"), fixed), "rows": var(("row",), rows)}
    if draws > 1:
        groups["fresh"] = var(("draw", "row", "feature"), np.stack([
            measured(kappa, rows, batches.FIXED, s.n_gal, draw_seed(args.seed, k)) for k in range(1, draws)]))
    if run.n_test:
        groups["test"] = var(("test_map", "feature"),
                             measured(s.noisy_test, np.arange(run.n_test), batches.NO_NOISE, None, 0))
    progress.close()
    store.write(run.out / "features.h5", "features", {"features": groups}, settings=settings, seed=args.seed,
                inputs=run.digests())
    return store.read(run.out / "features.h5", "features")


def draw_seed(seed, draw):
    """Seed of the noise of a further draw: FIXED noise, whose tails are exact, as statistics and test maps have."""
    return int(np.random.SeedSequence(seed, spawn_key=(DRAW_STREAM, draw)).generate_state(1, np.uint64)[0] >> 1)
