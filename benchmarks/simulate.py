#!/usr/bin/env python3
"""Speed of drawing log-normal maps of the survey, against plain NumPy code for the same map.

  python benchmarks/simulate.py
  python benchmarks/simulate.py --maps 64 --rounds 8
  python benchmarks/simulate.py --gaussian-share 0         # a pure log-normal

Both turn the C_ell of a cosmology and its nuisances into the observed pixels of a map: pixel window
and aliases, log-normal transform of the spectrum, draw of it and of the Gaussian share, mask,
float16. The reference is the textbook's way: float64, numpy.fft, numpy.interp, no symmetry used,
and only the 9 nearest aliases of the 49 that ours adds up; what does not change from map to map is
prepared outside the clock. Ours has to pay for the table of spectra of its cosmology as well (once
for 32 maps). Alternately in one process on one thread; the best round of each counts. Figures are
maps per second. The last line compares all of it, the line before only what follows the pixel
spectrum.
"""
import argparse
import os
import pathlib
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from wl.simulate.fields import GAUSSIAN_SHARE, Grid, component_shift  # noqa: E402
from wl.simulate.fields import generator, log_normal_shift  # noqa: E402
from wl.simulate.halo_sky import draw_maps  # noqa: E402
from wl.simulate.plan import (SimulationOptions, draw_nuisances,  # noqa: E402
                              procedural_mask)
from wl.simulate.theory import Theory  # noqa: E402

THETA = (0.3, 0.8)


class Plain:
    """The same map in plain NumPy."""

    def __init__(self, mask, rows, columns, pixel, ell):
        self.mask, self.shape, self.pixel, self.log_ell = mask, (rows, columns), pixel, np.log(ell)
        y = 2.0 * np.pi * np.fft.fftfreq(rows, pixel)[:, None]
        x = 2.0 * np.pi * np.fft.rfftfreq(columns, pixel)
        sampling = 2.0 * np.pi / pixel
        self.images = []
        for m in (-1, 0, 1):
            for n in (-1, 0, 1):
                ell_y, ell_x = y + m * sampling, x + n * sampling
                window = np.sinc(ell_y / sampling) * np.sinc(ell_x / sampling)
                self.images.append((np.log(np.hypot(ell_y, ell_x) + 1e-9), window**2))

    def power(self, c_ell):
        """Spectrum of the pixels, float64 (rows, columns / 2 + 1)."""
        log_c = np.log(c_ell)
        power = sum(np.exp(np.interp(log_l, self.log_ell, log_c)) * window2
                    for log_l, window2 in self.images)
        power[0, 0] = 0.0
        return power

    def draw(self, power, lam, rng, share):
        """A map, float16 (n_observed,)."""
        xi = np.fft.irfft2(power, s=self.shape) / self.pixel**2
        lam = component_shift(lam, xi[0, 0], share)
        power_g = np.fft.rfft2(np.log(1.0 + (1.0 - share) * xi / lam**2)).real * self.pixel**2
        power_g = np.clip(power_g, 0.0, None)
        variance = np.fft.irfft2(power_g, s=self.shape)[0, 0] / self.pixel**2
        kappa = lam * (np.exp(self.gaussian(power_g, rng) - 0.5 * variance) - 1.0)
        if share:
            kappa += np.sqrt(share) * self.gaussian(power, rng)
        return kappa[:self.mask.shape[0], :self.mask.shape[1]][self.mask].astype(np.float16)

    def gaussian(self, power, rng):
        """A Gaussian field on the whole grid."""
        noise = rng.standard_normal(power.shape) + 1j * rng.standard_normal(power.shape)
        modes = noise * np.sqrt(0.5 * power * self.shape[0] * self.shape[1] / self.pixel**2)
        modes[:, [0, -1]] *= np.sqrt(2.0)
        return np.fft.irfft2(modes, s=self.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=32, help="our maps a round (default 32)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds (default 4)")
    parser.add_argument("--gaussian-share", type=float, default=GAUSSIAN_SHARE,
                        help=f"as in wl.simulate (default {GAUSSIAN_SHARE})")
    options = parser.parse_args()
    share = options.gaussian_share
    mask = procedural_mask()
    grid = Grid(mask)
    rng = np.random.default_rng(1)
    labels = np.column_stack([np.tile(THETA, (options.maps, 1)), draw_nuisances(options.maps, rng)])
    keys = [(1, 0, r) for r in range(options.maps)]
    lam = float(log_normal_shift(*THETA))
    spectra = Theory(*THETA).table(grid.ell)(*labels[:, 2:].T)
    plain = Plain(mask, grid.rows, grid.columns, grid.pixel, grid.ell)
    power = grid.pixel_power(spectra)
    fewer = max(2, options.maps // 4)
    draws = generator(1, 1)

    def all_ours():
        field = SimulationOptions(gaussian_share=share, gaussian_below=0.0, lambda_factor=1.0,
                                  pixel_scatter=0.0)
        return [m.astype(np.float16) for m in draw_maps(grid, labels, 1, keys, field)]

    def all_plain():
        return [plain.draw(plain.power(c), lam, rng, share) for c in spectra[:fewer]]

    def draw_ours():
        return [grid.draw(p, lam, draws, share).astype(np.float16) for p in power]

    plain_power = plain.power(spectra[0])

    def draw_plain():
        return [plain.draw(plain_power, lam, rng, share) for _ in range(fewer)]

    best, sigma = {}, {}
    for _ in range(options.rounds):
        for function in (all_ours, all_plain, draw_ours, draw_plain):
            start = time.perf_counter()
            maps = function()
            took = (time.perf_counter() - start) / len(maps)
            best[function] = min(took, best.get(function, np.inf))
            sigma.setdefault(function, []).append(np.std(np.float32(maps)))
    print("sigma of the maps: " + ", ".join(f"{f.__name__} {np.mean(s):.5f}"
                                            for f, s in sigma.items()))
    print(f"from the pixel spectrum on: ratio={best[draw_plain] / best[draw_ours]:.2f}, ours "
          f"{1e3 * best[draw_ours]:.2f} ms, reference {1e3 * best[draw_plain]:.2f} ms a map")
    print(f"simulate ratio={best[all_plain] / best[all_ours]:.2f} ours={1 / best[all_ours]:.4g} "
          f"reference={1 / best[all_plain]:.4g} n={options.maps * options.rounds}")


if __name__ == "__main__":
    main()
