"""The hand-made statistics that a dense network learns from, and their measurement for a run.

A map becomes some hundred numbers: its spectrum, and moments and one-point PDF after smoothing at several scales, the
smallest of which is hardly any. On 101 x 24 maps with two draws of noise, dense networks on these reach a mean squared
error of 0.101 in units of the labels' variance, on maps of other realisations. Without the smallest scale it is 0.105,
on the spectrum alone 0.27; eight scales with all bands between them 0.101; peaks, minima, spectra of the amplitude in
bands and skew-spectra beside moments and PDF gained 0.001 to 0.002 at most and cost more than all else.
"""
import numpy as np

from ..core import hdf5, seeds
from ..core.params import HOLDOUT, TRAIN
from ..core.progress import Progress
from ..maps import batches
from . import handmade

N_BIN = 28                              # of the spectrum, from ell 100 to 10,000
PDF_BINS = (-3.0, 0.5, 16)              # of a field, in units of its typical standard deviation
MIN_TRAINING_MAPS = 10_000              # that dense networks want, all draws of noise together
MAX_DRAWS = 4                           # of noise per training map; two at least
MIN_PIXELS = 100                        # that a smoothed field needs to count


class Features:
    """Spectrum, and moments and PDF of smoothed maps, each made nearly Gaussian by a root or a logarithm.

    mask: (rows, columns) bool, of the frame; n_gal: galaxies per square arcminute; scales: standard deviations of
    the Gaussians in arcminutes. Moments: ln variance, skewness, kurtosis; PDF: root of the share of the pixels in
    each bin. width: numbers per map.
    """

    def __init__(self, mask, n_gal, scales):
        self.spectrum = handmade.Spectrum(mask.shape, int(mask.sum()), n_bin=N_BIN)
        self.shapes = handmade.Shapes(mask, scales=scales, n_gal=n_gal)
        self.used = np.flatnonzero(self.shapes.valid.sum((1, 2)) >= MIN_PIXELS)
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


def measure(maps, split, options, folder) -> hdf5.File:
    """features.h5 of a run, made if need be.

    maps: dataset.MapSet
    split: splits.Split
    options: options.NetworkOptions with the part "statistics"
    folder: hdf5.Folder
    Returns the file, whose variables are "fixed" (map, feature) of all maps of the set, in their order, with
    the noise that emulator and hold-out maps have; "fresh" (draw, row, feature), further draws of noise for
    the maps `rows` that train; "test" (test_map, feature). Raises InputError.
    """
    own, seed = options.of_statistics(), folder.seed
    rows = split.rows_of(split.code != HOLDOUT if split.has_folds else split.code == TRAIN)
    draws = own["draws"] or min(max(2, -(-MIN_TRAINING_MAPS // len(rows))), MAX_DRAWS)
    settings = {"scales": list(own["scales"]), "draws": draws, "rows": hdf5.digest_array(rows),
                "n_gal": maps.n_gal, "test_maps": split.n_test}
    digests = folder.digests(maps.files)
    found = folder.reuse("features.h5", "features", settings, digests)
    if found is not None:
        return found
    maps.check_maps(folder.quiet)
    frame = batches.Frame(maps.mask, pack=False)
    features, every = Features(frame.observed, maps.n_gal, own["scales"]), np.arange(len(maps.flat_kappa))
    total = len(every) + (draws - 1) * len(rows) + split.n_test
    progress = Progress(total, "measuring statistics", folder.quiet)

    def measured(source, which, noise):
        values = handmade.measure(features, source, which, noise, options.threads, progress)
        return values.astype(np.float32)

    parts = [measured(*part) for part in batches.parts_to_summarise(maps, split, every, frame, seed=seed)]
    var = hdf5.Var
    groups = {"fixed": var(("map", "feature"), parts[0]), "rows": var(("row",), rows)}
    if draws > 1:
        # FIXED noise, whose tails are exact, as emulator and test maps have
        sources = [batches.Batches(maps.flat_kappa, frame, scale=1.0, n_gal=maps.n_gal,
                                   seed=seeds.number(seed, seeds.NOISE_DRAW, k)) for k in range(1, draws)]
        fresh = np.stack([measured(source, rows, batches.FIXED) for source in sources])
        groups["fresh"] = var(("draw", "row", "feature"), fresh)
    if split.n_test:
        groups["test"] = var(("test_map", "feature"), parts[1])
    progress.close()
    return folder.write("features.h5", "features", {"features": groups}, settings=settings, inputs=digests,
                        origin=maps.origin())
