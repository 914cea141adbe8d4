"""Drawing convergence maps: the survey's grid, pixel window and aliases, Gaussian and log-normal fields.

    grid = Grid(mask)                              # once per process, about a second
    power = grid.pixel_power(c_ell)                # (n, quarter) from spectra at grid.ell
    kappa = grid.draw(power[0], lam, rng)          # float32 (n_observed,), 3 ms

Spectra are in steradian, ell in 1/radian. The sky is flat; the grid is periodic and larger than the
frame, which is cut from it, so that opposite edges do not know of one another. Real fields that are even
along both axes (spectra, correlation functions) are kept as one quarter: ell_y >= 0, ell_x >= 0.
"""
import numpy as np
import scipy.fft

from ..core.checks import InputError
from .boxes import LAYERS
from .interpolate import cubic_weights
from ..core.params import PIXEL_ARCMIN
from .theory import log_ell_grid

ARCMIN = np.pi / 10800.0
MARGIN = 80              # least number of pixels beyond the frame: 1440x192 is 15-18 % high below ell 20
IMAGES = 3               # aliases, in sampling frequencies; those beyond are 0.01 % of sigma at (0.3, 0.8)
MAX_CELLS = 1_200_000    # of a quarter grid: 0.5 GB of image matrix
GAUSSIAN_SHARE = 0.15    # of the variance of a log-normal map at high multipoles, see Grid.draw()
# Below this multipole a log-normal map's modes are Gaussian: in a log-normal they change the power of all smaller
# scales by 2 kappa/lambda, and log10 P scatters from map to map more than real maps' does. Scatter
# over that of 60 real spectra, bins 4-9 (ell 400-6300): 1.10 1.08 1.10 1.04 1.08 1.02, +- 0.10.
GAUSSIAN_BELOW = 40.0
# Of the shift lambda. Third moments of noisy maps at 0, 2, 4, 8 arcmin, over the mean of three real
# ones' (+- 0.10, 0.14, 0.17, 0.22): 0.92 0.98 0.85 0.64; with 1 and GAUSSIAN_BELOW 0: 0.75 0.87
# 0.83 0.74; with 0.85 and 0: 0.93 1.06 1.00 0.88, but then the scatter is some 0.06 larger.
LAMBDA_FACTOR = 0.85


def log_normal_shift(omega_m, s_8):
    """lambda of the shifted log-normal: kappa > -lambda; arrays or floats.

    A fit (0.8 % rms over the design) to the skewness of hyper-extended perturbation theory.
    """
    return 0.0154 * (np.asarray(omega_m) / 0.3)**0.55 * (np.asarray(s_8) / 0.8)**0.37


def component_shift(lam, variance, share):
    """lambda of a log-normal with (1 - share) of the variance and the third moment of the whole.

    lam, variance: of the single shifted log-normal it stands for; share: 0 to 1, Gaussian. Skewness of a
    log-normal is x^3 + 3 x with x^2 = variance / lambda^2, and x = 2 sinh(asinh(skewness / 2) / 3).
    """
    if share == 0.0:
        return lam
    x = np.sqrt(variance) / lam
    skewness = (x**3 + 3.0 * x) / (1.0 - share)**1.5
    return float(np.sqrt(variance * (1.0 - share)) / (2.0 * np.sinh(np.arcsinh(0.5 * skewness) / 3.0)))


def grid_size(n):
    """A length of at least n + MARGIN pixels: even, product of 2, 3 and 5, many factors 2."""
    want = n + MARGIN
    step = 2 ** max(1, int(np.log2(want)) - 3)
    size = -(-want // step) * step
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += step


def check_frame(shape, periodic=False):
    """Refuse a frame whose image matrix would not fit into a process. Raises InputError."""
    if periodic and any(n % 2 or n < 4 for n in shape):
        raise InputError(f"--periodic: expected a frame with even sides of at least 4 pixels, got {tuple(shape)}; "
                         "give another --mask")
    if np.prod([grid_size(n) // 2 + 1 for n in shape]) > MAX_CELLS:
        raise InputError(f"mask: expected a frame up to about 2000 x 2000 pixels, got {tuple(shape)}; "
                         "cut it into parts")


class Grid:
    """The periodic grid of a mask, and everything about it that no cosmology changes.

    mask: bool (rows, columns), True = observed; pixel_arcmin: side of a pixel; periodic: the frame itself is
    the periodic grid, for what needs independent modes (wl/limit.py).
    """

    def __init__(self, mask, pixel_arcmin=PIXEL_ARCMIN, periodic=False):
        check_frame(mask.shape, periodic)
        self.rows, self.columns = mask.shape if periodic else (grid_size(n) for n in mask.shape)
        self.quarter = (self.rows // 2 + 1, self.columns // 2 + 1)
        x, y = np.nonzero(mask)
        self.observed = x * self.columns + y                 # places in the periodic map
        self.pixel = pixel_arcmin * ARCMIN
        self.ell_y = 2.0 * np.pi * np.arange(self.quarter[0]) / (self.rows * self.pixel)
        self.ell_x = 2.0 * np.pi * np.arange(self.quarter[1]) / (self.columns * self.pixel)
        highest = np.sqrt(2.0) * (IMAGES + 0.5) * 2.0 * np.pi / self.pixel
        self.ell = log_ell_grid(0.9 * min(self.ell_y[1], self.ell_x[1]), 1.1 * highest)
        self._images = None
        # fresh pages for every temporary array cost more than the arithmetic on them: 3.3 ms against 0.8
        half = (self.rows, self.quarter[1])
        self._square = np.empty(half, np.float32)
        self._work = (*(np.empty(half, np.float32) for _ in range(3)), np.empty((*half, 2), np.float32))

    def image_matrix(self):
        """float32 (quarter cells, len(ell)): the pixel's spectrum as a linear map of C at self.ell.

        P(l) = sum_n C(|l + n l_s|) W^2(l + n l_s), W the sinc window of a square pixel, l_s the sampling
        frequency; C by cubic interpolation of ell^2 C in ln(ell + 1/2).
        """
        n = len(self.ell)
        low = np.log(self.ell[0] + 0.5)
        step = np.log((self.ell[1] + 0.5) / (self.ell[0] + 0.5))
        sampling = 2.0 * np.pi / self.pixel
        out = np.zeros(self.quarter[0] * self.quarter[1] * n, np.float32)
        row = np.arange(self.quarter[0] * self.quarter[1]) * n
        scale = self.ell**2
        window_y, window_x = ([np.sinc((ell / sampling + m))**2 for m in range(-IMAGES, IMAGES + 1)]
                              for ell in (self.ell_y, self.ell_x))
        for m in range(-IMAGES, IMAGES + 1):
            for k in range(-IMAGES, IMAGES + 1):
                l2 = np.add.outer((self.ell_y + m * sampling)**2, (self.ell_x + k * sampling)**2).ravel()
                if m == k == 0:
                    l2[0] = l2[1]                            # l = 0; set to zero below
                factor = np.multiply.outer(window_y[m + IMAGES], window_x[k + IMAGES]).ravel() / l2
                first, weights = cubic_weights((np.log(np.sqrt(l2) + 0.5) - low) / step, n)
                for i, weight in enumerate(weights):
                    out[row + (first + i)] += weight * factor * scale[first + i]
        out = out.reshape(-1, n)
        out[0] = 0.0                                         # the mean of the grid is zero: P(0) = 0
        return out

    def pixel_power(self, c_ell):
        """Spectrum of the pixel averages, window and aliases included.

        c_ell: float64 (m, n), steradian, at self.ell. Returns float32 (m, quarter cells), steradian. A
        float32 matrix product: its last bits depend on m and on the number of BLAS threads.
        """
        if self._images is None:
            self._images = self.image_matrix()
        return np.atleast_2d(c_ell).astype(np.float32) @ self._images.T

    def gaussian_power(self, power, lam):
        """Spectrum of g where kappa = lam (exp(g - v/2) - 1): xi_g = ln(1 + xi / lam^2), clipped at zero.

        power: float32 (quarter cells); lam: float. Returns float32 (quarter), same units as power.
        Xavier, Abdalla & Joachimi 2016, MNRAS 459, 3693, equation 26; done on the periodic grid.
        """
        # the fields are real and even on both axes, so a DCT-I of a quarter is the whole transform
        xi = scipy.fft.dctn(power.reshape(self.quarter), type=1, workers=1)
        xi *= np.float32(1.0 / (self.rows * self.columns * self.pixel**2 * lam * lam))
        np.log1p(xi, out=xi)
        out = scipy.fft.dctn(xi, type=1, workers=1, overwrite_x=True)
        out *= np.float32(self.pixel**2)
        return np.maximum(out, 0.0, out=out)

    def draw(self, power, lam, rng, share=0.0, full=False, boxes=None):
        """One map: float32 (n_observed,), the observed pixels in C order of the mask.

        power: float32 (quarter cells) of pixel_power(); lam: shift of the log-normal, None for a Gaussian
        field; rng: numpy Generator, of which only the raw bits are used; share: part of the power, a number
        or float32 (quarter cells) of share(), that an independent Gaussian field brings, the log-normal one
        keeping the third moment of the whole (component_shift); full: return the whole periodic map instead,
        float32 (rows, columns); boxes: Boxes that give the random numbers, or None. Work space is kept: one Grid
        serves one thread.

        With a share of 0.15 pixels below -0.02 exist, as in real maps, and at (0.3, 0.8) kurtosis/skewness^2
        is 1.80 in place of 1.54, real maps 2.0 (all clipped to -0.02 ... 0.07, as the real ones were seen).
        """
        if lam is None:
            return self._gaussian(power, rng, full, boxes)
        gaussian = power * np.asarray(share, np.float32) if np.any(share) else None
        if gaussian is not None:
            lam = component_shift(lam, self.variance(power), self.variance(gaussian) / self.variance(power))
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

    def share(self, high, below):
        """Gaussian share of each mode: high + (1 - high) / (1 + (ell / below)^2), float32 (quarter cells).

        high: share at high multipoles; below: multipole under which modes are Gaussian, 0 for none.
        """
        ell2 = np.add.outer(self.ell_y**2, self.ell_x**2).ravel()
        return (high + (1.0 - high) * below**2 / np.maximum(below**2 + ell2, ell2[1])).astype(np.float32)

    def _gaussian(self, spectrum, rng, full, boxes=None, layer=0):
        """A Gaussian field with the spectrum (quarter cells), arguments as draw(); layer: first of boxes."""
        def one(rng):
            return scipy.fft.irfft2(self.modes(spectrum, rng), s=(self.rows, self.columns), workers=1,
                                    overwrite_x=True)
        field = one(rng) if boxes is None else boxes.field(one, layer)
        return field if full else field.reshape(-1).take(self.observed)

    def modes(self, spectrum, rng):
        """Gaussian modes for irfft2 with the spectrum (quarter cells), complex64, in work space that is kept."""
        # irfft2 divides by N, hence <|F|^2> = P N / pixel area. A cell of the first and last column meets
        # its conjugate in the same column and irfft2 averages the two: twice the power
        square = self._square
        np.multiply(spectrum.reshape(self.quarter), np.float32(-self.rows * self.columns / self.pixel**2),
                    out=square[:self.quarter[0]])
        square[:self.quarter[0], [0, -1]] *= np.float32(2.0)
        square[self.quarter[0]:] = square[self.quarter[0] - 2:0:-1]
        return self._random_modes(square, rng)

    def _random_modes(self, minus_square, rng):
        """Complex Gaussian modes F with <|F|^2> = -minus_square, complex64 of its shape.

        Box & Muller 1958: |F|^2 is exponential, the phase uniform; from 32 bits each, so |F| ends at 4.8
        times its rms. In NumPy's vector units this takes a quarter of the time of standard_normal.
        """
        radius, phase, work, modes = self._work
        bits = rng.bit_generator.random_raw(radius.size).view(np.uint32)
        radius[...] = bits[:radius.size].reshape(radius.shape)
        phase[...] = bits[radius.size:].reshape(radius.shape)
        radius += np.float32(0.5)
        radius *= np.float32(2.0**-32)
        np.log(radius, out=radius)
        radius *= minus_square
        np.sqrt(radius, out=radius)
        phase *= np.float32(2.0 * np.pi * 2.0**-32)
        np.cos(phase, out=work)
        np.multiply(work, radius, out=modes[..., 0])
        np.sin(phase, out=work)
        np.multiply(work, radius, out=modes[..., 1])
        return modes.view(np.complex64)[..., 0]

    def variance(self, spectrum):
        """Variance of a field with the spectrum (quarter), a float."""
        weight_y, weight_x = (np.full(n, 2.0) for n in self.quarter)     # mirror images
        weight_y[0] = weight_y[-1] = weight_x[0] = weight_x[-1] = 1.0
        total = weight_y @ spectrum.reshape(self.quarter).astype(float) @ weight_x
        return float(total / (self.rows * self.columns * self.pixel**2))
