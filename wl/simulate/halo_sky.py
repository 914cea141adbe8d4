"""Maps with halos: log-normal slices, halos drawn from them, held to the spectrum of the theory.

    maps = HaloMaps(HaloSky(grid), theory)                 # once per cosmology, 0.1 s
    held = maps.hold(nuisances, power)                     # for a few maps at a time
    kappa = maps.draw(held, i, nuisances[i], rng)          # float32 (n_observed,), 35 ms

The density of a slice is made from a Gaussian field g on cells of 2 x 2 pixels: halos of bias b lie
in a cell with chances in proportion to exp(b g), and what is not in painted halos follows exp(b g)
with the bias that is left for it (log-normal fields: Coles & Jones 1991, MNRAS 248, 1). Then the
map is held to the theory's spectrum, by the spectrum that such maps have on average
(halos.HaloSpectrum): its own would take its sample variance away. Where halos have too much power,
modes are damped. They lack 10 to 15 % at ell 500 to 2000, matter between halos in filaments: the
smooth part's modes are multiplied for it, and Gaussian ones bring what is left.
"""
import functools
import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator

import numpy as np
import scipy.fft

from ..core import seeds
from ..core.params import PIXEL_ARCMIN
from ..kernels import halos as kernels
from .fields import IMAGES, UNTURNED, Boxes, Grid, generator, log_normal_shift
from .halos import C_SCATTER, PARTS, SLICES, Halos, HaloSpectrum, cell_window
from .plan import SimulationOptions
from .theory import Theory

CHUNK = 16               # spectra made in one matrix product
LEVELS = 97              # of the density field of a slice
WIDEST = 5.5             # standard deviations: one cell in 3 x 10^7 is beyond
MAX_LIFT = 1.6           # largest factor of a mode of the smooth part
BEYOND = 12              # pixels from observed ones up to which halos are painted: half the time
PER_PIXEL = 16           # radial steps of the profiles in a pixel
SIZES = np.geomspace(0.12, 48.0, 33)       # radii R in pixels; a smaller halo is a point
SHAPES = np.geomspace(0.5, 60.0, 33)       # concentrations
CORNER = np.sqrt(0.5)    # from a pixel's centre to its corner

_NODE, _WEIGHT = (0.5 * (v + i) for i, v in zip((1.0, 0.0), np.polynomial.legendre.leggauss(64)))


def projected_mass(x: np.ndarray, c: float) -> np.ndarray:
    """Share of a halo's mass inside a cylinder of radius x R about its middle; x: (n,) 0 to 1."""
    # r^2 = x^2 + (1 - x^2) t^2 makes the integrand smooth, t = s^2 thickens the nodes in the core
    t, weight, rest = _NODE**2, 2.0 * _NODE * _WEIGHT, (1.0 - x * x)[:, None]
    r = np.maximum(np.sqrt(x[:, None]**2 + rest * t * t), 1e-12)
    outside = np.sum(weight * rest**1.5 * t * t / (r * (r + 1.0 / c)**2), axis=1)
    return 1.0 - outside / (np.log1p(c) - c / (1.0 + c))


def _pixel_share(r, y):
    """Share of a ring of radius y in a pixel r from its middle, in pixels, over orientations."""
    # the ring's points up to the angle at which it leaves the circle through the corners
    cosine = (r * r + y * y - CORNER**2) / np.maximum(2.0 * r * y, 1e-9)
    widest = np.arccos(np.clip(cosine, -1.0, 1.0))
    d2 = (r[..., None]**2 + y[..., None]**2
          - 2.0 * (r * y)[..., None] * np.cos(widest[..., None] * _NODE))
    d = np.sqrt(np.maximum(d2, 1e-12))
    # of a circle of radius d > 1/2 about the pixel's centre
    share = np.where(d <= 0.5, 1.0, 1.0 - 4.0 / np.pi * np.arccos(np.minimum(0.5 / d, 1.0)))
    share[d > CORNER] = 0.0
    return widest / np.pi * np.sum(_WEIGHT * share, axis=-1)


@functools.cache
def profiles() -> kernels.Profiles:
    """The table of pixel-averaged profiles that painting reads."""
    band, reach = int(np.ceil(CORNER * PER_PIXEL)) + 1, SIZES + CORNER
    width = np.ceil(reach * PER_PIXEL).astype(np.int64) + 2
    first = np.concatenate([[0], np.cumsum(width * len(SHAPES))])
    radius = np.arange(width[-1])[:, None]
    ring = radius + np.arange(-band, band)             # the rings that a pixel at a radius meets
    share = _pixel_share(radius / PER_PIXEL, np.maximum(ring + 0.5, 0.5) / PER_PIXEL)
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
Held.__doc__ = """Of n maps, float32 (n, quarter cells): factor of modes, which holds their spectra;
spectrum of Gaussian modes to add before; factor of the smooth part's modes."""


def _stamp_window(grid):
    """Power of painted profiles, means over the pixel's orientations, over true pixel averages'."""
    sampling, images = 2.0 * np.pi / grid.pixel, range(-IMAGES, IMAGES + 1)
    ell = np.geomspace(1.0, 6.0 * sampling, 3000)
    total, round_window = np.zeros((2, *grid.quarter)), cell_window(ell, grid.pixel)**2
    for m, k in itertools.product(images, images):
        y, x = grid.ell_y[:, None] + m * sampling, grid.ell_x + k * sampling
        r = np.hypot(y, x)
        power = np.maximum(r, ell[0])**-1.5          # about as halos' spectrum falls
        total[0] += power * np.interp(r, ell, round_window)
        total[1] += power * (np.sinc(y / sampling) * np.sinc(x / sampling))**2
    return (total[0] / total[1]).ravel().astype(np.float32)


class HaloSky:
    """What the cosmologies share on a grid, for one thread; sides are multiples of 4 pixels."""

    def __init__(self, grid: Grid):
        from scipy.ndimage import maximum_filter   # 0.1 s that a set on disk does not need
        self.grid, cells = grid, (grid.rows // 2, grid.columns // 2)
        self.coarse = Grid(np.ones(cells, bool), 2.0 * PIXEL_ARCMIN, periodic=True)
        self.profiles, self.window = profiles(), _stamp_window(grid)
        observed = np.bincount(grid.observed, minlength=grid.rows * grid.columns) > 0
        near = maximum_filter(observed.reshape(grid.shape), 2 * BEYOND + 1, mode="wrap")
        self.near = near.reshape(cells[0], 2, cells[1], 2).any((1, 3))
        # a cell's centre is half a pixel beyond the centre of its first pixel
        n, m = grid.rows // 4, grid.columns // 4
        factor_y, factor_x = (np.exp(-1j * np.pi * k) * np.sinc(k) for k in (
            np.arange(1 - n, n) / grid.rows, np.arange(m) / grid.columns))
        self.shift = (4.0 * factor_y[:, None] * factor_x).astype(np.complex64)
        self.map, self.smooth = np.empty(grid.shape, np.float32), np.empty(cells, np.float32)

    def add_smooth(self, modes: np.ndarray, lift: np.ndarray) -> None:
        """Add the modes of the smooth part, pixel averages and lifted, to those of the map."""
        n, m = self.grid.rows // 4, self.grid.columns // 4
        cells, lift = scipy.fft.rfft2(self.smooth, workers=1), lift.reshape(self.grid.quarter)
        modes[:n, :m] += cells[:n, :m] * self.shift[n - 1:] * lift[:n, :m]
        modes[-n + 1:, :m] += cells[-n + 1:, :m] * self.shift[:n - 1] * lift[n - 1:0:-1, :m]


class HaloMaps:
    """The maps of a cosmology; count: halos painted into the last one."""

    def __init__(self, sky: HaloSky, theory: Theory):
        self.sky, self.halos = sky, Halos(theory, sky.coarse)
        self.spectrum = HaloSpectrum(self.halos, sky.grid.ell, sky.grid.pixel)
        self.tables, self.count = [self._table(s) for s in range(SLICES)], 0

    def _table(self, s):
        """Of slice s: Table but for smooth and mean; halos per steradian (level, kind of distance
        and mass); smooth convergence where lensing() is one (level, PARTS)."""
        h, v, part = self.halos, self.halos.variance[s], slice(s * PARTS, (s + 1) * PARTS)
        g = np.sqrt(v) * np.linspace(-WIDEST, WIDEST, LEVELS)
        b, b_smooth = h.bias[part].ravel(), h.smooth_bias[part]
        number = h.number[part, h.heavy].ravel() * np.exp(np.multiply.outer(g, b) - 0.5 * v * b * b)
        smooth = (h.depth * h.smooth)[part] * np.expm1(
            np.multiply.outer(g, b_smooth) - 0.5 * v * b_smooth**2)
        chance, other = np.empty(number.shape, np.float32), np.empty(number.shape, np.int16)
        kernels.alias(number, chance, other)
        rate = self.sky.coarse.pixel**2 * number.sum(1)
        return kernels.Table(g[0], g[1] - g[0], rate, None, None, chance, other), number, smooth

    def hold(self, nuisances: np.ndarray, power: np.ndarray) -> Held:
        """What holds maps to the theory's spectra, at nuisances (n, 3); power: pixel_power()'s."""
        painted, cross, smooth, light = map(self.sky.grid.pixel_power,
                                            self.spectrum(*np.asarray(nuisances).T))
        painted = np.maximum(painted * self.sky.window, 1e-30) + light
        have = painted + 2.0 * cross + smooth
        # smooth x^2 + 2 cross x is to be so much more than with x = 1
        more = np.maximum(power - have, 0.0)
        root = np.sqrt(np.maximum(cross**2 + smooth * (smooth + 2.0 * cross + more), 0.0))
        lift = np.divide(root - cross, smooth, out=np.ones_like(root), where=smooth > 1e-30)
        lift = np.minimum(lift, np.float32(MAX_LIFT))
        have = painted + 2.0 * lift * cross + lift**2 * smooth
        return Held(np.sqrt(np.minimum(power / have, 1.0)), light + np.maximum(power - have, 0.0),
                    lift)

    def paint(self, nuisance: np.ndarray, layers: Callable, everywhere: bool = False) -> None:
        """Fill sky.map with halos, everywhere or near observed pixels, sky.smooth with the rest.

        nuisance, layers: of one map, (3,); slice -> its Generator and Turn
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
        lost, q = area * (1.0 - extended - stars), q.reshape(SLICES, PARTS)
        lost, area, *kinds = (v.reshape(SLICES, -1) for v in (lost, area, *kinds))
        sky.map[...], sky.smooth[...], self.count = 0.0, 0.0, 0
        for s, (table, number, smooth) in enumerate(self.tables):
            rng, turn = layers(s)
            field = sky.coarse.draw(h.power[s], None, rng, full=True)
            # gas that left its halo stays in the cell; where none is painted, whole halos are even
            even, mean = (smooth @ q[s] + number @ a[s] for a in (lost, area))
            table = table._replace(smooth=even, mean=mean)
            kind = kernels.Kinds(*(v[s] for v in kinds), scatter)
            seed = rng.bit_generator.random_raw() >> 1
            halos = kernels.scatter(field, sky.near | everywhere, turn, table, sky.smooth, seed)
            kernels.paint(sky.map, halos, table, kind, sky.profiles, seed)
            self.count += len(halos)

    def draw(self, held: Held, i: int, nuisance: np.ndarray, rng: np.random.Generator,
             layers: Callable | None = None, full: bool = False) -> np.ndarray:
        """A map, float32 (n_observed,), or all of it, (rows, columns).

        held, i, nuisance: of hold(), the map's place in it, (3,)
        rng, layers: random numbers of the map; Boxes with those of the slices, or None for rng's
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
        field = scipy.fft.irfft2(modes, s=grid.shape, workers=1, overwrite_x=True)
        return field if full else field.reshape(-1).take(grid.observed)


halo_sky = functools.lru_cache(maxsize=2)(HaloSky)     # made once for a grid


def draw_maps(grid: Grid, labels: np.ndarray, seed: int, keys: list, field: SimulationOptions,
              noise: float = 0.0) -> Iterator[np.ndarray]:
    """Yield maps of one cosmology, of any field, float32 (n_observed,).

    labels, keys: (n, 5), Omega_m and S_8 the same in all; n tuples, each map's stream and indices
    noise: standard deviation of the shape noise, 0 for none
    """
    omega_m, s_8 = labels[0, :2]
    theory = Theory(omega_m, s_8, field.sky)
    spectrum = theory.table(grid.ell)
    halos = HaloMaps(halo_sky(grid), theory) if field.field == "halo" else None
    # boxes belong to a cosmology, whatever its index: test maps share those of the others
    bits = np.array([omega_m, s_8]).view(np.uint64).tolist()
    of_box = functools.partial(generator, seed, seeds.BOX, *bits)
    share = grid.share(field.gaussian_share, field.gaussian_below)
    shift = field.lambda_factor * float(log_normal_shift(omega_m, s_8))
    for first in range(0, len(labels), CHUNK):
        part = labels[first:first + CHUNK, 2:]
        # always CHUNK rows: a matrix product of another shape may round otherwise in its last bit
        full = np.concatenate([part, np.repeat(part[-1:], CHUNK - len(part), axis=0)])
        power = grid.pixel_power(spectrum(*full.T))
        held = halos.hold(full, power) if halos else None
        for i, key in enumerate(keys[first:first + CHUNK]):
            rng, own = generator(seed, *key), generator(seed, seeds.SCATTER, *key)
            boxes = Boxes(field.boxes, rng, of_box) if field.boxes else None
            lam = (None if field.field == "gaussian" else
                   shift * np.exp(field.lambda_scatter * own.normal()))
            kappa = (halos.draw(held, i, full[i], rng, boxes) if halos else
                     grid.draw(power[i], lam, rng, share, boxes=boxes))
            if field.pixel_scatter:
                sigma = np.sqrt(field.pixel_scatter * own.random())
                kappa += np.float32(sigma) * own.standard_normal(len(kappa), dtype=np.float32)
            if noise:
                rng = generator(seed, seeds.TEST_NOISE, *key)
                kappa += np.float32(noise) * rng.standard_normal(len(kappa), dtype=np.float32)
            yield kappa
