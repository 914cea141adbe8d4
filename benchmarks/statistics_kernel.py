"""CPU time to measure the hand-made statistics of a map, against plain NumPy and SciPy.

    python benchmarks/statistics_kernel.py [--maps 16] [--rounds 6] [--scales 0.6 1.2 2.2 4.0 7.0 12.0]

Both take maps of the survey's frame (1424 x 176, 132,019 observed pixels) with signal and noise, and
give the statistics that the dense networks learn from: the spectrum in 28 bins, and moments and PDF
after smoothing at each scale, and of the bands between neighbouring scales. The reference is the textbook's way in float32: a transform of the
frame and numpy.bincount; a padded transform, a product and a transform back for each scale; boolean
indexing, NumPy's moments and numpy.bincount for the PDF. What does not change from map to map is
prepared outside the clock. Alternately in one process on one thread; the round with the least CPU
time of each counts. The drawing of noise is not part of it.
"""
import os
import pathlib
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import scipy.fft  # noqa: E402

from wl.core import cli  # noqa: E402
from wl.maps.batches import FIXED, Batches, Frame  # noqa: E402
from wl.summaries.options import MODELS  # noqa: E402
from wl.core.params import PIXEL_ARCMIN  # noqa: E402
from wl.summaries.handmade import (ELL_MAX, ELL_MIN, FINE_BINS, PDF_BINS, SIGNAL,  # noqa: E402
                                   Features)
from wl.simulate.plan import procedural_mask  # noqa: E402


class Plain:
    """The same statistics in plain NumPy and SciPy. mask: (rows, columns) bool; unit: of the PDFs."""

    def __init__(self, mask, scales, unit):
        self.mask, self.unit = mask, unit
        side = np.radians(PIXEL_ARCMIN / 60.0)
        ell = 2.0 * np.pi / side * np.hypot(np.fft.fftfreq(len(mask))[:, None],
                                            np.fft.rfftfreq(mask.shape[1]))
        self.bin = np.digitize(ell, np.geomspace(ELL_MIN, ELL_MAX, FINE_BINS + 1)).ravel()
        self.times = np.full(ell.shape, 2.0, np.float32)
        self.times[:, [0, -1]] = 1.0
        self.count = np.bincount(self.bin, self.times.ravel(), FINE_BINS + 2)[1:-1]
        self.used, self.norm = self.count > 0, side**2 / mask.sum()
        self.shape = tuple(scipy.fft.next_fast_len(n + 16, real=True) for n in mask.shape)
        k2 = np.fft.fftfreq(self.shape[0])[:, None]**2 + np.fft.rfftfreq(self.shape[1])**2
        self.filters = [np.exp(-2.0 * (np.pi * s / PIXEL_ARCMIN)**2 * k2).astype(np.float32)
                        for s in scales]
        self.cover = [self.smooth(self.modes(mask.astype(np.float32)), f) for f in self.filters]

    def modes(self, kappa):
        """The transform of the padded map."""
        return scipy.fft.rfft2(kappa, s=self.shape, workers=1)

    def smooth(self, modes, one):
        """The smoothed map."""
        field = scipy.fft.irfft2(modes * one, s=self.shape, workers=1)
        return field[:len(self.mask), :self.mask.shape[1]]

    def __call__(self, kappa):
        """kappa: (n, rows, columns) float32. Returns (n, width) float64."""
        out = []
        for one in kappa:
            power = np.abs(scipy.fft.rfft2(one, workers=1))**2 * self.times
            power = np.bincount(self.bin, power.ravel(), FINE_BINS + 2)[1:-1]
            out.append([np.log10(power[self.used] / self.count[self.used] * self.norm)])
            modes = self.modes(one)
            valid = [self.mask & (cover >= 0.6) for cover in self.cover]
            fields = [self.smooth(modes, f).astype(float) / np.maximum(cover, 0.5)
                      for f, cover in zip(self.filters, self.cover)]
            fields += [fine - coarse for fine, coarse in zip(fields, fields[1:])]     # the bands
            valid += [fine & coarse for fine, coarse in zip(valid, valid[1:])]
            for field, counts, unit in zip(fields, valid, self.unit):
                values = field[counts]
                rest = values - values.mean()
                square = rest * rest
                m2, m3, m4 = square.mean(), np.mean(square * rest), np.mean(square * square)
                low, width, n = PDF_BINS
                place = np.clip((values / unit - low) / width, 0, n - 1).astype(int)
                pdf = np.bincount(place, minlength=n) / len(place)
                out[-1] += [[np.log(m2), m3 / m2**1.5, m4 / m2**2], np.sqrt(pdf)]
        return np.array([np.concatenate(parts) for parts in out])


def main():
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--maps", type=int, default=16, help="maps a round (default 16)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds (default 6)")
    parser.add_argument("--scales", type=float, nargs="+", default=MODELS["statistics"]["scales"],
                        help="standard deviations of the Gaussians in arcminutes (default: the model's)")
    options = parser.parse_args()
    for name in ("maps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    mask = procedural_mask()
    frame = Frame(mask, pack=False)
    rng, rows = np.random.default_rng(1), np.arange(options.maps)
    signal = SIGNAL * rng.standard_normal((options.maps, int(mask.sum())), np.float32)
    batches = Batches(signal.astype(np.float16), frame, scale=1.0)
    kappa = batches.fetch(rows, noise=FIXED)[:, 0]
    ours = Features(frame.observed, 30.0, options.scales)
    plain = Plain(frame.observed, options.scales, ours.statistics[1].shapes.unit)
    best, found = {}, {}
    ours(kappa[:1])                                        # compilation or its cache
    for _ in range(options.rounds):
        for function in (ours, plain):
            start = time.process_time()
            found[function] = function(kappa)
            took = (time.process_time() - start) / options.maps
            best[function] = min(took, best.get(function, np.inf))
    off = np.abs(found[ours] - found[plain])
    print(f"{found[ours].shape[1]} statistics of {options.maps} maps; largest difference {off.max():.1e}, "
          f"mean {off.mean():.1e} (logarithms, shapes and roots of shares)")
    print(f"statistics_kernel ratio={best[plain] / best[ours]:.2f} ours={1e3 * best[ours]:.2f} ms "
          f"reference={1e3 * best[plain]:.2f} ms n={options.maps * options.rounds}")


if __name__ == "__main__":
    main()
