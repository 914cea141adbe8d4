"""Drawing convergence maps: the survey's grid, pixel window and aliases, Gaussian and log-normal.

    grid = Grid(mask)                              # once per process, about a second
    power = grid.pixel_power(c_ell)                # (n, quarter) from spectra at grid.ell
    kappa = grid.draw(power[0], lam, rng)          # float32 (n_observed,), 3 ms

Spectra are in steradian. The grid is larger than the frame cut from it: opposite edges do not know
of one another. Of what is even along both axes one quarter is kept: ell_y, ell_x >= 0.
"""
import functools
import itertools
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import scipy.fft

from ..core import seeds
from ..core.checks import InputError
from ..core.params import PIXEL_ARCMIN
from ..kernels.halos import Turn
from .theory import cubic_weights, log_ell_grid

ARCMIN = np.pi / 10800.0
MARGIN = 80              # fewest pixels beyond the frame: 1440x192 is 15-18 % high below ell 20
IMAGES = 3               # aliases, in sampling frequencies; 0.01 % of sigma at (0.3, 0.8) is beyond
MAX_CELLS = 1_200_000    # of a quarter grid: 0.5 GB of image matrix
# Gaussian share of a log-normal map's modes, see Grid.share(): all below GAUSSIAN_BELOW, as waves
# there change the power of smaller scales, whose scatter is too large then; GAUSSIAN_SHARE above
# GAUSSIAN_ABOVE, without which no pixel is below -lambda and kurtosis/skewness^2 is 1.55, not 1.83
# (real maps: 2.0). Chosen with LAMBDA_FACTOR by real maps and spectra: benchmarks/README.md
GAUSSIAN_SHARE, GAUSSIAN_BELOW, GAUSSIAN_ABOVE = 0.2, 40.0, 400.0
LAMBDA_FACTOR = 0.85
LAYERS = 2               # of log-normal and Gaussian maps in boxes; those with halos have slices
UNTURNED = Turn(False, False, 0, 0)

# SFC64 draws a field's normals faster than NumPy's default
generator = functools.partial(seeds.generator, kind=np.random.SFC64)


def log_normal_shift(omega_m, s_8) -> np.ndarray:
    """lambda of the shifted log-normal, from the skewness of hyper-extended perturbation theory."""
    return 0.0154 * (np.asarray(omega_m) / 0.3)**0.55 * (np.asarray(s_8) / 0.8)**0.37


def component_shift(lam: float, variance: float, share: float) -> float:
    """lambda of a log-normal with (1 - share) of the variance and the third moment of the whole."""
    x = np.sqrt(variance) / lam
    skewness = (x**3 + 3.0 * x) / (1.0 - share)**1.5         # whose inverse has a sinh
    part = np.sqrt(variance * (1.0 - share))
    return float(part / (2.0 * np.sinh(np.arcsinh(0.5 * skewness) / 3.0)))


def grid_size(n: int) -> int:
    """A length of at least n + MARGIN pixels: even, product of 2, 3 and 5, many factors 2."""
    step = 2 ** max(1, int(np.log2(n + MARGIN)) - 3)
    size = -(-(n + MARGIN) // step) * step
    while scipy.fft.next_fast_len(size, real=True) != size:    # real: products of 2, 3 and 5
        size += step
    return size


def check_frame(shape: tuple, periodic: bool = False, field: str = "gaussian") -> None:
    """Refuse a frame whose image matrix would not fit into a process. Raises InputError."""
    step = 4 if field == "halo" else 2               # its cells of 2 x 2 pixels are even as well
    if periodic and any(n % step or n < 4 for n in shape):
        raise InputError(f"--periodic: expected even sides, multiples of {step} and at least 4 for "
                         f"--field {field}, got {tuple(shape)}; give another --mask")
    if np.prod([grid_size(n) // 2 + 1 for n in shape]) > MAX_CELLS:
        raise InputError("mask: expected a frame up to about 2000 x 2000 pixels, got "
                         f"{tuple(shape)}; cut it into parts")


class Grid:
    """The periodic grid of a mask, and all about it that no cosmology changes; for one thread.

    mask, pixel_arcmin: bool (rows, columns), True = observed; side of a pixel
    periodic: the frame itself is the periodic grid, for what needs independent modes
    """

    def __init__(self, mask: np.ndarray, pixel_arcmin: float = PIXEL_ARCMIN,
                 periodic: bool = False):
        check_frame(mask.shape, periodic)
        self.shape = mask.shape if periodic else tuple(grid_size(n) for n in mask.shape)
        self.rows, self.columns = self.shape
        self.quarter = (self.rows // 2 + 1, self.columns // 2 + 1)
        # how often each cell of a half axis stands in the whole one
        self.times = [np.r_[1.0, np.full(q - 2, 2.0), 1.0] for q in self.quarter]
        self.observed = np.ravel_multi_index(np.nonzero(mask), self.shape)  # in the periodic map
        self.pixel = pixel_arcmin * ARCMIN
        self.ell_y, self.ell_x = (2.0 * np.pi * np.arange(q) / (n * self.pixel)
                                  for q, n in zip(self.quarter, self.shape))
        self.ell_2 = np.add.outer(self.ell_y**2, self.ell_x**2).ravel()
        highest = np.sqrt(2.0) * (IMAGES + 0.5) * 2.0 * np.pi / self.pixel
        self.ell = log_ell_grid(0.9 * min(self.ell_y[1], self.ell_x[1]), 1.1 * highest)
        # fresh pages for every temporary array cost more than its arithmetic: 3.3 ms against 0.8
        half = (self.rows, self.quarter[1])
        self._square, *self._work = (np.empty(half, np.float32) for _ in range(4))
        self._modes = np.empty((*half, 2), np.float32)

    @functools.cached_property
    def image_matrix(self) -> np.ndarray:
        """float32 (quarter cells, len(ell)): the pixel's spectrum as a linear map of C at self.ell.

        P(l) = sum_n C(|l + n l_s|) W^2(l + n l_s), W a square pixel's sinc window, l_s the sampling
        frequency; C by cubic interpolation of ell^2 C in ln(ell + 1/2).
        """
        n, low = len(self.ell), np.log(self.ell[0] + 0.5)
        step = np.log((self.ell[1] + 0.5) / (self.ell[0] + 0.5))
        sampling, scale, row = 2.0 * np.pi / self.pixel, self.ell**2, np.arange(self.ell_2.size) * n
        out, images = np.zeros(row.size * n, np.float32), range(-IMAGES, IMAGES + 1)
        window_y, window_x = ([np.sinc((ell / sampling + m))**2 for m in images]
                              for ell in (self.ell_y, self.ell_x))
        for m, k in itertools.product(images, images):
            l2 = np.add.outer(*((ell + shift * sampling)**2 for ell, shift in
                                ((self.ell_y, m), (self.ell_x, k)))).ravel()
            l2[0] = l2[1] if m == k == 0 else l2[0]          # l = 0; set to zero below
            factor = np.multiply.outer(window_y[m + IMAGES], window_x[k + IMAGES]).ravel() / l2
            first, weights = cubic_weights((np.log(np.sqrt(l2) + 0.5) - low) / step, n)
            for i, weight in enumerate(weights):
                out[row + (first + i)] += weight * factor * scale[first + i]
        out[:n] = 0.0                                # the mean of the grid is zero: P(0) = 0
        return out.reshape(-1, n)

    def pixel_power(self, c_ell: np.ndarray) -> np.ndarray:
        """Spectra (m, quarter cells) of pixel averages, float32, of c_ell (m, n) at self.ell."""
        return np.atleast_2d(c_ell).astype(np.float32) @ self.image_matrix.T    # bits depend on m

    def gaussian_power(self, power: np.ndarray, lam: float) -> np.ndarray:
        """Spectrum of g where kappa = lam (exp(g - v/2) - 1): Xavier et al. 2016, MNRAS 459"""
        # xi_g = ln(1 + xi / lam^2) on the periodic grid: their page 3693, equation 26
        # the fields are real and even on both axes, so a DCT-I of a quarter is the whole transform
        xi = scipy.fft.dctn(power.reshape(self.quarter), type=1, workers=1)
        xi *= np.float32(1.0 / (self.rows * self.columns * self.pixel**2 * lam * lam))
        np.log1p(np.maximum(xi, np.float32(-0.9), out=xi), out=xi)     # -0.04 at the default lambda
        out = scipy.fft.dctn(xi, type=1, workers=1, overwrite_x=True)
        out *= np.float32(self.pixel**2)
        return np.maximum(out, 0.0, out=out)

    def draw(self, power: np.ndarray, lam: float | None, rng: np.random.Generator,
             share: np.ndarray | float = 0.0, full: bool = False,
             boxes: "Boxes | None" = None) -> np.ndarray:
        """A map: float32 (n_observed,), the observed pixels in C order of the mask.

        power: float32 (quarter cells) of pixel_power()
        lam: shift of the log-normal, None for a Gaussian field
        rng, boxes: the random numbers, of which only the raw bits are used, if no Boxes give them
        share: part of the power, a number or float32 (quarter cells) of share(), that an
            independent Gaussian field brings; the log-normal one keeps the whole's third moment
        full: return the whole periodic map instead, float32 (rows, columns)
        """
        if lam is None:
            return self._gaussian(power, rng, full, boxes)
        gaussian = power * np.asarray(share, np.float32) if np.any(share) else None
        if gaussian is not None:
            variance = self.variance(power)
            lam = component_shift(lam, variance, self.variance(gaussian) / variance)
        spectrum = self.gaussian_power(power if gaussian is None else power - gaussian, lam)
        field = self._gaussian(spectrum, rng, full, boxes)
        # the variance of the drawn spectrum, not of the target's: clipping leaves the mean at zero
        field -= np.float32(0.5 * self.variance(spectrum))
        np.exp(field, out=field)               # expm1 in float32 takes 16 times as long
        field -= np.float32(1.0)
        field *= np.float32(lam)
        if gaussian is not None:
            field += self._gaussian(gaussian, rng, full, boxes, LAYERS)
        return field

    def share(self, high: float, below: float) -> np.ndarray:
        """Gaussian share s + (1 - s) / (1 + (ell / below)^4), s = high / (1 + (above / ell)^2)."""
        ell_2 = np.maximum(self.ell_2, self.ell_2[1] * 1e-6)
        share = high / (1.0 + GAUSSIAN_ABOVE**2 / ell_2)
        return (share + (1.0 - share) * below**4 / (below**4 + ell_2**2)).astype(np.float32)

    def _gaussian(self, spectrum, rng, full, boxes=None, layer=0):
        def one(rng):
            return scipy.fft.irfft2(self.modes(spectrum, rng), s=self.shape, workers=1,
                                    overwrite_x=True)
        field = one(rng) if boxes is None else boxes.field(one, layer)
        return field if full else field.reshape(-1).take(self.observed)

    def modes(self, spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Gaussian modes for irfft2 with the spectrum (quarter cells), complex64, in kept space."""
        # irfft2 divides by N, hence <|F|^2> = P N / pixel area. A cell of the first and last column
        # meets its conjugate in the same column and irfft2 averages the two: twice the power
        square, per_cell = self._square, np.float32(-self.rows * self.columns / self.pixel**2)
        np.multiply(spectrum.reshape(self.quarter), per_cell, out=square[:self.quarter[0]])
        square[:self.quarter[0], [0, -1]] *= np.float32(2.0)
        square[self.quarter[0]:] = square[self.quarter[0] - 2:0:-1]
        # Box & Muller 1958: |F|^2 is exponential, the phase uniform; from 32 bits each, so |F| ends
        # at 4.8 times its rms. In NumPy's vector units this takes a quarter of standard_normal's
        (radius, phase, work), modes = self._work, self._modes
        bits = rng.bit_generator.random_raw(radius.size).view(np.uint32)
        radius[...] = bits[:radius.size].reshape(radius.shape)
        phase[...] = bits[radius.size:].reshape(radius.shape)
        radius += np.float32(0.5)
        radius *= np.float32(2.0**-32)
        np.log(radius, out=radius)
        radius *= square
        np.sqrt(radius, out=radius)
        phase *= np.float32(2.0 * np.pi * 2.0**-32)
        for part, function in enumerate((np.cos, np.sin)):
            np.multiply(function(phase, out=work), radius, out=modes[..., part])
        return modes.view(np.complex64)[..., 0]

    def variance(self, spectrum: np.ndarray) -> float:
        """Variance of a field with the spectrum (quarter cells)."""
        times_y, times_x = self.times
        total = times_y @ spectrum.reshape(self.quarter).astype(float) @ times_x
        return float(total / (self.rows * self.columns * self.pixel**2))


class Boxes(namedtuple("Boxes", "count rng generator_of")):
    """Large-scale structure that realisations share, as maps from few N-body boxes do.

    A map is a stack of layers, each one of `count` boxes, flipped and shifted at random by rng;
    boxes(layer) gives its random numbers, of generator_of(layer, box), and its Turn.
    """

    def __call__(self, layer: int) -> tuple[np.random.Generator, Turn]:
        box, flips, *shifts = (int(n) for n in self.rng.integers((self.count, 4, 2**20, 2**20)))
        return self.generator_of(layer, box), Turn(bool(flips & 1), bool(flips & 2), *shifts)

    def field(self, draw: Callable, first: int = 0) -> np.ndarray:
        """A sum of LAYERS fields of draw(Generator), each turned, with the variance of one."""
        total = np.float32(0.0)
        for layer in range(first, first + LAYERS):
            rng, turn = self(layer)
            one = draw(rng)[::-1 if turn.flip_y else 1, ::-1 if turn.flip_x else 1]
            total = total + np.roll(one, (turn.shift_y, turn.shift_x), (0, 1))
        return total * np.float32(LAYERS**-0.5)
