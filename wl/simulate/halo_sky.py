"""Maps with halos: log-normal slices, halos drawn from them, held to the spectrum of the theory.

    maps = HaloMaps(HaloSky(grid), theory)                 # once per cosmology, 0.1 s
    held = maps.hold(nuisances, power)                     # for a few maps at a time
    kappa = maps.draw(held, i, nuisances[i], rng)          # float32 (n_observed,), 35 ms

The density of a slice is made from a Gaussian field g on cells of 2 x 2 pixels: halos of bias b lie
in a cell with chances in proportion to exp(b g), and what is not in painted halos follows exp(b g)
with the bias that is left for it (log-normal fields: Coles & Jones 1991, MNRAS 248, 1).

Then the map is held to the theory's spectrum, by the spectrum that such maps have on average
(halos.HaloSpectrum) and not by its own, which would take its sample variance away. Where the halos
have too much power, modes are damped. They lack 10 to 15 % at ell 500 to 2000, matter between halos
in filaments: the smooth part's modes are multiplied for the share FILAMENTS of it, Gaussian ones
bring the rest. All modes multiplied, the tails of the one-point PDF are too heavy.
"""
import functools
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import scipy.fft
from scipy.ndimage import maximum_filter

from ..core.checks import InputError
from ..core.params import PIXEL_ARCMIN
from ..kernels import halos as kernels
from .fields import IMAGES, UNTURNED, Grid
from .halos import C_SCATTER, PARTS, SLICES, Halos, HaloSpectrum, Slices, cell_window
from .theory import Theory

LEVELS = 97              # of the density field of a slice
WIDEST = 5.5             # standard deviations: one cell in 3 x 10^7 is beyond
FILAMENTS, MAX_LIFT = 1.0, 1.6       # see above, and the largest factor of a mode
BEYOND = 12              # pixels from observed ones up to which halos are painted: half the time
PER_PIXEL = 16           # radial steps of the profiles in a pixel
SIZES = np.geomspace(0.12, 48.0, 33)       # radii R in pixels; a smaller halo is a point
SHAPES = np.geomspace(0.5, 60.0, 33)       # concentrations
CORNER = np.sqrt(0.5)    # from a pixel's centre to its corner

_NODE, _WEIGHT = np.polynomial.legendre.leggauss(64)
_NODE, _WEIGHT = 0.5 * (_NODE + 1.0), 0.5 * _WEIGHT


def projected_mass(x: np.ndarray, c: float) -> np.ndarray:
    """Share of a halo's mass inside a cylinder of radius x R about its middle; x: (n,) 0 to 1."""
    # r^2 = x^2 + (1 - x^2) t^2 makes the integrand smooth, t = s^2 thickens the nodes in the core
    t, weight = _NODE**2, 2.0 * _NODE * _WEIGHT
    rest = (1.0 - x * x)[:, None]
    r = np.maximum(np.sqrt(x[:, None]**2 + rest * t * t), 1e-12)
    outside = np.sum(weight * rest**1.5 * t * t / (r * (r + 1.0 / c)**2), axis=1)
    return 1.0 - outside / (np.log1p(c) - c / (1.0 + c))


def pixel_share(r: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of a ring of radius y in a pixel r from its middle, in pixels, over orientations.

    A circle of radius d about a pixel's centre is inside up to d = 1/2, then the part
    1 - 4/pi arccos(1/(2d)) of it, and nothing beyond the corners.
    """
    # the ring's points up to the angle at which it leaves the circle through the corners
    cosine = (r * r + y * y - CORNER**2) / np.maximum(2.0 * r * y, 1e-9)
    widest = np.arccos(np.clip(cosine, -1.0, 1.0))
    angle = widest[..., None] * _NODE
    d2 = r[..., None]**2 + y[..., None]**2 - 2.0 * (r * y)[..., None] * np.cos(angle)
    d = np.sqrt(np.maximum(d2, 1e-12))
    share = np.where(d <= 0.5, 1.0, 1.0 - 4.0 / np.pi * np.arccos(np.minimum(0.5 / d, 1.0)))
    share[d > CORNER] = 0.0
    return widest / np.pi * np.sum(_WEIGHT * share, axis=-1)


@functools.cache
def profiles() -> kernels.Profiles:
    """The table of pixel-averaged profiles that painting reads."""
    band = int(np.ceil(CORNER * PER_PIXEL)) + 1
    reach = SIZES + CORNER
    width = np.ceil(reach * PER_PIXEL).astype(np.int64) + 2
    first = np.concatenate([[0], np.cumsum(width * len(SHAPES))])
    radius = np.arange(width[-1])[:, None]
    ring = radius + np.arange(-band, band)             # the rings that a pixel at a radius meets
    share = pixel_share(radius / PER_PIXEL, np.maximum(ring + 0.5, 0.5) / PER_PIXEL)
    share = np.where(ring >= 0, share, 0.0)
    x = np.linspace(0.0, 1.0, 400)                     # its square: more points in the core
    inside = np.array([projected_mass(x * x, c) for c in SHAPES])
    value = np.empty(first[-1], np.float32)
    for i, size in enumerate(SIZES):
        edge = np.minimum(np.arange(width[i] + 2 * band) / (PER_PIXEL * size), 1.0)
        mass = np.diff([np.interp(np.sqrt(edge), x, row) for row in inside], axis=1)
        rows = np.einsum("rk,srk->sr", share[:width[i]], mass[:, np.maximum(ring[:width[i]], 0)])
        value[first[i]:first[i + 1]] = rows.ravel()
    return kernels.Profiles(first, reach, value, len(SHAPES), float(PER_PIXEL))


def place_among(nodes: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Place among SIZES or SHAPES, a fraction of the way between two."""
    return np.log(value / nodes[0]) / np.log(nodes[1] / nodes[0])


Held = namedtuple("Held", "transfer rest lift")
Held.__doc__ = """What holds n maps to their spectra: float32 (n, quarter cells) each.

transfer: factor of modes.
rest: spectrum of Gaussian modes to add before, steradian.
lift: factor of the smooth part's modes."""


def stamp_window(grid: Grid) -> np.ndarray:
    """Power of painted profiles over that of true pixel averages, float32 (quarter cells).

    Painting averages over orientations of the pixel; for a spectrum that falls as ell^-1.5.
    """
    sampling = 2.0 * np.pi / grid.pixel
    ell = np.geomspace(1.0, 6.0 * sampling, 3000)
    round_window = cell_window(ell, grid.pixel)**2
    total = np.zeros((2, *grid.quarter))
    for m in range(-IMAGES, IMAGES + 1):
        for k in range(-IMAGES, IMAGES + 1):
            y, x = grid.ell_y[:, None] + m * sampling, grid.ell_x + k * sampling
            r = np.hypot(y, x)
            power = np.maximum(r, ell[0])**-1.5
            total[0] += power * np.interp(r, ell, round_window)
            total[1] += power * (np.sinc(y / sampling) * np.sinc(x / sampling))**2
    return (total[0] / total[1]).ravel().astype(np.float32)


def check_cells(rows: int, columns: int) -> None:
    """Refuse a periodic grid that cells of 2 x 2 pixels do not fill evenly. Raises InputError."""
    if rows % 4 or columns % 4:
        raise InputError("--field halo: expected a periodic frame with sides of multiples of 4 "
                         f"pixels, got {rows} x {columns}; give another --mask, or no --periodic")


class HaloSky:
    """What the cosmologies share on a grid. Work space is kept: one serves one thread.

    grid: of the maps.
    Raises InputError for a periodic frame whose sides are no multiples of 4.
    """

    def __init__(self, grid: Grid):
        check_cells(grid.rows, grid.columns)
        self.grid = grid
        cells = (grid.rows // 2, grid.columns // 2)
        self.coarse = Grid(np.ones(cells, bool), 2.0 * PIXEL_ARCMIN, periodic=True)
        self.profiles, self.window = profiles(), stamp_window(grid)
        observed = np.zeros((grid.rows, grid.columns), bool)
        observed.reshape(-1)[grid.observed] = True
        near = maximum_filter(observed, 2 * BEYOND + 1, mode="wrap")
        self.near = near.reshape(cells[0], 2, cells[1], 2).any((1, 3))
        self.everywhere = np.ones(cells, bool)
        # a cell's centre is half a pixel beyond the centre of its first pixel
        y = np.arange(-(grid.rows // 4) + 1, grid.rows // 4) / grid.rows
        x = np.arange(grid.columns // 4) / grid.columns
        factor_y, factor_x = (np.exp(-1j * np.pi * k) * np.sinc(k) for k in (y, x))
        self.shift = (4.0 * factor_y[:, None] * factor_x).astype(np.complex64)
        self.map = np.empty((grid.rows, grid.columns), np.float32)
        self.smooth = np.empty(cells, np.float32)

    def add_smooth(self, modes: np.ndarray, lift: np.ndarray) -> None:
        """Add the modes of the smooth part, pixel averages and lifted, to those of the map."""
        n, m = self.grid.rows // 4, self.grid.columns // 4
        cells, lift = scipy.fft.rfft2(self.smooth, workers=1), lift.reshape(self.grid.quarter)
        modes[:n, :m] += cells[:n, :m] * self.shift[n - 1:] * lift[:n, :m]
        modes[-n + 1:, :m] += cells[-n + 1:, :m] * self.shift[:n - 1] * lift[n - 1:0:-1, :m]


class HaloMaps:
    """The maps of a cosmology; count: halos painted into the last one."""

    def __init__(self, sky: HaloSky, theory: Theory):
        self.sky, self.halos = sky, Halos(theory)
        self.slices = Slices(self.halos, sky.coarse)
        self.spectrum = HaloSpectrum(self.slices, sky.grid.ell, sky.grid.pixel)
        self.tables = [self._table(s) for s in range(SLICES)]
        self.count = 0

    def _table(self, s):
        """Of slice s: lowest level and step of g; mean number of halos of a cell (level,); number
        per steradian (level, kind); smooth convergence where lensing() is one (level, PARTS); alias
        tables. A kind is one of PARTS distances and a mass."""
        h, v, part = self.halos, self.slices.variance[s], slice(s * PARTS, (s + 1) * PARTS)
        g = np.sqrt(v) * np.linspace(-WIDEST, WIDEST, LEVELS)
        b, b_smooth = self.slices.bias[part].ravel(), self.slices.smooth_bias[part]
        number = h.number[part, h.heavy].ravel() * np.exp(np.multiply.outer(g, b) - 0.5 * v * b * b)
        smooth = (h.depth * self.slices.smooth)[part] * np.expm1(
            np.multiply.outer(g, b_smooth) - 0.5 * v * b_smooth**2)
        chance, other = np.empty(number.shape, np.float32), np.empty(number.shape, np.int16)
        kernels.alias(number, chance, other)
        rate = self.sky.coarse.pixel**2 * number.sum(1)
        return g[0], g[1] - g[0], rate, number, smooth, chance, other

    def hold(self, nuisances: np.ndarray, power: np.ndarray) -> Held:
        """What holds maps to the theory's spectra, at nuisances (n, 3); power: pixel_power()'s."""
        painted, cross, smooth, light = map(self.sky.grid.pixel_power,
                                            self.spectrum(*np.asarray(nuisances).T))
        painted = np.maximum(painted * self.sky.window, 1e-30) + light
        have = painted + 2.0 * cross + smooth
        # smooth x^2 + 2 cross x is to be so much more than with x = 1
        more = np.float32(FILAMENTS) * np.maximum(power - have, 0.0)
        root = np.sqrt(np.maximum(cross**2 + smooth * (smooth + 2.0 * cross + more), 0.0))
        lift = np.divide(root - cross, smooth, out=np.ones_like(root), where=smooth > 1e-30)
        lift = np.minimum(lift, np.float32(MAX_LIFT))
        have = painted + 2.0 * lift * cross + lift**2 * smooth
        return Held(np.sqrt(np.minimum(power / have, 1.0)), light + np.maximum(power - have, 0.0),
                    lift)

    def paint(self, nuisance: np.ndarray, layers: Callable, everywhere: bool = False) -> None:
        """Fill sky.map with halos and sky.smooth with the rest.

        nuisance: (3,).
        layers: slice -> its Generator and Turn.
        everywhere: paint halos also where nothing is observed.
        """
        sky, h = self.sky, self.halos
        extended, swell, stars = h.feedback(*nuisance[:2])
        q = h.lensing(nuisance[2:])[0][:, None]
        extended, stars, area = (v[:, h.heavy] for v in (extended, stars, q * h.area))
        mass = area / sky.grid.pixel**2
        kinds = [v.astype(np.float32) for v in (
            mass * extended, mass * stars, place_among(SIZES, h.angle[:, h.heavy] / sky.grid.pixel),
            place_among(SHAPES, (h.concentration * swell)[:, h.heavy]))]
        scatter = C_SCATTER / np.log(SHAPES[1] / SHAPES[0])
        lost = area * (1.0 - extended - stars)
        near = sky.everywhere if everywhere else sky.near
        sky.map[...], sky.smooth[...], self.count = 0.0, 0.0, 0
        for s, (low, step, rate, number, smooth, chance, other) in enumerate(self.tables):
            part = slice(s * PARTS, (s + 1) * PARTS)
            rng, turn = layers(s)
            field = sky.coarse.draw(self.slices.power[s], None, rng, full=True)
            # gas that left its halo stays in the cell; where none is painted, whole halos are even
            rest = smooth @ q[part, 0]
            even, mean = (rest + number @ a[part].ravel() for a in (lost, area))
            table = kernels.Table(low, step, rate, even, mean, chance, other)
            kind = kernels.Kinds(*(v[part].ravel() for v in kinds), scatter)
            seed = rng.bit_generator.random_raw() >> 1
            halos = kernels.scatter(field, near, turn, table, sky.smooth, seed)
            kernels.paint(sky.map, halos, table, kind, sky.profiles, seed)
            self.count += len(halos)

    def draw(self, held: Held, i: int, nuisance: np.ndarray, rng: np.random.Generator,
             layers: Callable | None = None, full: bool = False) -> np.ndarray:
        """A map: float32 (n_observed,), the observed pixels in C order of the mask.

        held, i: of hold(), and the map's place in it; nuisance: (3,).
        rng: Generator of the map, of which only raw bits are used.
        layers: Boxes that give the random numbers of the slices, or None for rng's.
        full: return the whole periodic map, (rows, columns), instead.
        """
        grid = self.sky.grid
        # a box must hold the same halos wherever it lies in the map: all of them, then
        self.paint(nuisance, layers or (lambda s: (rng, UNTURNED)), full or layers is not None)
        modes = scipy.fft.rfft2(self.sky.map, workers=1)
        self.sky.add_smooth(modes, held.lift[i])
        modes += grid.modes(held.rest[i], rng)
        transfer, n = held.transfer[i].reshape(grid.quarter), grid.quarter[0]
        modes[:n] *= transfer
        modes[n:] *= transfer[n - 2:0:-1]
        field = scipy.fft.irfft2(modes, s=(grid.rows, grid.columns), workers=1, overwrite_x=True)
        return field if full else field.reshape(-1).take(grid.observed)
