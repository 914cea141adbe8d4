"""Time to draw a map with halos, against plain NumPy code for the same map.

    python benchmarks/halos.py [--maps 16] [--rounds 3]

Both draw from the same mass function, density fields and profiles at (0.3, 0.8), and hold the map
to the same spectrum. The reference takes NumPy's poisson for the halos of each cell, searchsorted
for their kinds, adds their masses to pixels in 14 groups of angular size, and convolves each group
with a mean profile by numpy.fft in float64. Its concentrations have no scatter and its groups one
size, so its maps lack some power at small scales. What no map changes is prepared outside the
clock; ours pays for the tables of its cosmology as well, once a round. CPU time, alternately in one
process on one thread; the best round counts.
"""
import argparse
import os
import pathlib
import resource
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from wl.simulate.fields import Grid  # noqa: E402
from wl.simulate.halos import PARTS, SLICES  # noqa: E402
from wl.simulate.halo_sky import HaloMaps, draw_maps, halo_sky  # noqa: E402
from wl.simulate.plan import (FIXED_NUISANCES, SimulationOptions,  # noqa: E402
                              procedural_mask)
from wl.simulate.theory import Theory, nfw_window  # noqa: E402

THETA = (0.3, 0.8)
GROUPS = 14


class Plain:
    """The same map in plain NumPy, with the physics of a HaloMaps."""

    def __init__(self, maps, mask, power):
        grid, coarse, h = maps.sky.grid, maps.sky.coarse, maps.halos
        self.maps, self.mask, self.grid, self.coarse = maps, mask, grid, coarse
        held = maps.hold(np.array([FIXED_NUISANCES]), power)
        self.transfer, self.rest, self.lift = (self.whole(a[0], grid) for a in held)
        self.amplitude = [np.sqrt(self.whole(p, coarse)) for p in maps.halos.power]
        q = h.lensing(np.zeros(1))[0][:, None]
        extended, swell, stars = h.feedback(*FIXED_NUISANCES[:2])
        self.mass = (q * h.area * (extended + stars))[:, h.heavy] / grid.pixel**2
        lost = (q * h.area * (1.0 - extended - stars))[:, h.heavy].reshape(SLICES, -1)
        q = q.reshape(SLICES, PARTS)
        self.smooth = [number @ lost[s] + loose @ q[s]
                       for s, (_, number, loose) in enumerate(maps.tables)]
        angle, c = h.angle[:, h.heavy], (h.concentration * swell)[:, h.heavy]
        edges = np.geomspace(angle.min(), angle.max() * 1.001, GROUPS + 1)
        self.group = np.digitize(angle, edges) - 1
        y, x = np.fft.fftfreq(grid.rows)[:, None], np.fft.rfftfreq(grid.columns)
        ell = 2.0 * np.pi / grid.pixel * np.hypot(y, x)
        window = np.sinc(y) * np.sinc(x)
        self.window = []
        for i in range(GROUPS):
            a, one = np.sqrt(edges[i] * edges[i + 1]), np.mean(c[self.group == i])
            self.window.append(window * nfw_window(np.maximum(ell, 1e-3) * a / one, one))
        self.share = [number.cumsum(1) / number.sum(1, keepdims=True)
                      for _, number, _ in maps.tables]

    @staticmethod
    def whole(quarter, grid):
        quarter = quarter.reshape(grid.quarter).astype(float)
        return np.concatenate([quarter, quarter[-2:0:-1]])

    def gaussian(self, amplitude, grid, rng):
        noise = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
        noise *= amplitude * np.sqrt(0.5 * grid.rows * grid.columns) / grid.pixel
        noise[:, [0, -1]] *= np.sqrt(2.0)
        return noise

    def draw(self, rng):
        """A map, float16 (n_observed,)."""
        grid, rows, columns = self.grid, self.coarse.rows, self.coarse.columns
        sky = np.zeros((GROUPS, grid.rows * grid.columns))
        smooth = np.zeros((rows, columns))
        for s in range(SLICES):
            g = np.fft.irfft2(self.gaussian(self.amplitude[s], self.coarse, rng), s=(rows, columns))
            low, step, rate, *_ = self.maps.tables[s][0]
            place = np.clip((g - low) / step, 0.0, len(rate) - 1.001)
            smooth += np.interp(place, np.arange(len(rate)), self.smooth[s])
            count = rng.poisson(np.interp(place, np.arange(len(rate)), rate))
            cell = np.repeat(np.arange(count.size), count.ravel())
            level = np.round(place.ravel()[cell]).astype(int)
            chance = rng.random(len(cell))
            kind = np.empty(len(cell), int)
            for one in np.unique(level):
                here = level == one
                kind[here] = np.searchsorted(self.share[s][one], chance[here])
            kind = np.minimum(kind, self.share[s].shape[1] - 1)
            y, x = (2.0 * (at + rng.random(len(cell))) for at in np.divmod(cell, columns))
            pixel = y.astype(int) * grid.columns + x.astype(int)
            part = slice(s * PARTS, (s + 1) * PARTS)
            group, mass = self.group[part].ravel()[kind], self.mass[part].ravel()[kind]
            for i in np.unique(group):
                sky[i] += np.bincount(pixel[group == i], mass[group == i], sky.shape[1])
        modes = self.gaussian(np.sqrt(self.rest), grid, rng)
        for one, window in zip(sky, self.window):
            modes += np.fft.rfft2(one.reshape(grid.rows, grid.columns)) * window
        modes += self.lift * np.fft.rfft2(np.kron(smooth, np.ones((2, 2))))
        kappa = np.fft.irfft2(modes * self.transfer, s=(grid.rows, grid.columns))
        return kappa[:self.mask.shape[0], :self.mask.shape[1]][self.mask].astype(np.float16)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=16, help="our maps a round (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args()
    mask = procedural_mask()
    grid, theory = Grid(mask), Theory(*THETA)
    labels = np.tile([*THETA, *FIXED_NUISANCES], (options.maps, 1))
    keys = [(1, 0, r) for r in range(options.maps)]
    field = SimulationOptions(field="halo", pixel_scatter=0.0)
    power = grid.pixel_power(theory.table(grid.ell)(*np.array(FIXED_NUISANCES)[:, None]))
    plain = Plain(HaloMaps(halo_sky(grid), theory), mask, power)
    rng, few = np.random.default_rng(1), max(2, options.maps // 4)
    best, sigma = {}, {}
    for _ in range(options.rounds):
        for name, maps in (("ours", draw_maps(grid, labels, 1, keys, field)),
                           ("reference", (plain.draw(rng) for _ in range(few)))):
            start = time.process_time()
            drawn = np.float32([kappa.astype(np.float16) for kappa in maps])
            took = (time.process_time() - start) / len(drawn)
            best[name] = min(took, best.get(name, np.inf))
            sigma.setdefault(name, []).append(drawn.std())
    print("sigma of the maps: " + ", ".join(f"{name} {np.mean(s):.5f}" for name, s in sigma.items())
          + f"; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    print(f"halos ratio={best['reference'] / best['ours']:.2f} ours={1e3 * best['ours']:.1f} ms "
          f"reference={1e3 * best['reference']:.1f} ms n={options.maps * options.rounds}")


if __name__ == "__main__":
    main()
