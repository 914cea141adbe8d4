"""What a data set consists of, before its first map is drawn: mask, design, nuisances, options.

Mask and design come from formulas that imitate the challenge's files in what matters to an analysis
(shape, holes, density) and copy none of their numbers.
"""
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from scipy.spatial import Delaunay, QhullError

from ..core import seeds
from ..core.checks import InputError, Options, array, option, plausible, triangulate
from ..core.files import digest_array
from ..core.params import DELTA_Z_SIGMA, F_0_RANGE, FRAME, LABELS, N_GAL, T_AGN_RANGE, noise_sigma
from ..maps.dataset import RELEASES, TEST_FILE, load_npy, read_label, read_mask
from ..maps.splits import DEFAULT_REALISATIONS
from .fields import (GAUSSIAN_ABOVE, GAUSSIAN_BELOW, GAUSSIAN_SHARE, LAMBDA_FACTOR, check_frame,
                     generator)
from .theory import PIXEL_SCATTER, Sky, check

KAPPA_FILE, LABEL_FILE = RELEASES["public"]
FIELDS, N_COSMOLOGY = ("lognormal", "halo", "gaussian"), 101
SKY, MAX_MAPS = Sky(), 10**15
OMEGA_M_RANGE, S_8_RANGE = (0.0913, 0.619), (0.680, 0.9552)   # of the challenge's design
DESIGN_SCALE = np.array([0.1055, 0.0660])    # standard deviations of the design, a metric
DESIGN_CENTRE = np.array([0.28, 0.822])      # where the design is densest
FIXED_NUISANCES = (7.85, 0.01325, 0.0)       # the centres of the priors
GOLDEN = 0.6180339887498949


def draw_nuisances(n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows of (log10 T_AGN, f_0, Delta_z) from the published priors: float64 (n, 3)."""
    return np.column_stack([rng.uniform(*T_AGN_RANGE, n), rng.uniform(*F_0_RANGE, n),
                            rng.normal(0.0, DELTA_Z_SIGMA, n)])


def design(n: int) -> np.ndarray:
    """n cosmologies spread like the challenge's: float64 (n, 2), Omega_m and S_8.

    A sunflower (angles by the golden section: any n is evenly spread) that thins outwards, and
    about sqrt(n) points on the region's border that span the hull. Raises InputError below 3.
    """
    if n < 3:
        raise InputError(f"--cosmologies: expected at least 3 to span a region, got {n}; give a "
                         "--design file for fewer")
    # the border of the challenge's region as a dense closed polygon
    (low, high), (least, most) = OMEGA_M_RANGE, S_8_RANGE
    om = low + (high - low) * (0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 300)))
    bottom = (least + 0.045 * np.clip((0.16 - om) / 0.0687, 0, 1)**1.5
              + 0.050 * np.clip((om - 0.42) / 0.199, 0, 1)**1.5)
    top = (most - 0.215 * np.clip((om - 0.20) / 0.419, 0, 1)**2
           - 0.130 * np.clip((0.135 - om) / 0.0437, 0, 1)**2)
    corner = np.concatenate([np.column_stack([om, bottom]), np.column_stack([om, top])[::-1]])
    side = np.roll(corner, -1, axis=0) - corner
    pieces = np.maximum(1, np.hypot(*(side / DESIGN_SCALE).T) / 0.01).astype(int)    # at most 0.01
    edge = np.concatenate([a + s * np.arange(m)[:, None] / m
                           for a, s, m in zip(corner, side, pieces)])
    edge = (edge - DESIGN_CENTRE) / DESIGN_SCALE
    angle = np.arctan2(edge[:, 1], edge[:, 0])
    first = angle[np.argmax(edge[:, 0])]          # a boundary point sits on the largest Omega_m
    order, grid = np.argsort(angle), first + np.linspace(0.0, 2.0 * np.pi, 2001)
    border = np.interp(grid, angle[order], np.hypot(*edge[order].T), period=2.0 * np.pi)
    # share of the points per angle ~ border^0.6: between even (0) and the same density (2)
    share = np.concatenate([[0.0], np.cumsum(border[1:]**0.6 + border[:-1]**0.6)])
    outer = min(n, max(3, round(1.1 * np.sqrt(n))))
    inner = np.arange(n - outer)
    # radius = border x quantile^(1/1.2): a uniform density has 1/2, a real design is denser inside
    radius = ((inner + 0.5) / max(n - outer, 1))**(1.0 / 1.2) * (1.0 - 0.6 / np.sqrt(n))
    at = np.concatenate([np.interp((inner * GOLDEN) % 1.0, share / share[-1], grid),
                         first + 2.0 * np.pi * np.arange(outer) / outer])
    radius = np.concatenate([radius, np.ones(outer)]) * np.interp(at, grid, border)
    direction = np.column_stack([np.cos(at), np.sin(at)])
    return DESIGN_CENTRE + DESIGN_SCALE * radius[:, None] * direction


def _draw_unseen(theta, n, rng):
    """n cosmologies off the design theta (m, 2), from its density, inside its hull: (n, 2)."""
    x = np.unique(np.asarray(theta, float), axis=0) / DESIGN_SCALE
    try:
        hull = Delaunay(x)
    except (QhullError, ValueError):
        raise InputError(f"design: {len(x)} different cosmologies span no area; unseen ones need "
                         "at least 3 that are not on a line") from None
    distance = np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, min(3, len(x) - 1)]
    out = np.empty((0, 2))
    while len(out) < n:
        pick = rng.integers(len(x), size=n + 16)
        # half of the way to a point's third neighbour, in each direction
        trial = x[pick] + 0.5 * distance[pick, None] * rng.standard_normal((len(pick), 2))
        out = np.concatenate([out, trial[hull.find_simplex(trial) >= 0]])
    return out[:n] * DESIGN_SCALE


def _given(path):
    """Labels (n_cosmology, n_realisation, 5) of a --design file, or the first two of each."""
    values = load_npy(path)
    if values.ndim == 3:
        return read_label(path)
    theta = array(path, values, (None, 2), ("f",), advice="or give labels (n_cosmology, "
                  "n_realisation, 5)").astype(float)
    if not len(theta):
        raise InputError(f"{path}: expected cosmologies, got shape {theta.shape}")
    plausible(path, theta, "the columns are Omega_m, S_8")
    return np.broadcast_to(theta[:, None], (len(theta), DEFAULT_REALISATIONS, 2))


def procedural_mask() -> np.ndarray:
    """benchmarks/mask.py's imitation of HSC Y3's 12-hour field: bool (1424, 176), True observed."""
    packed = np.load(pathlib.Path(__file__).with_name("mask.npz"))["mask"]
    return np.unpackbits(packed, axis=1).astype(bool)


@dataclasses.dataclass(frozen=True)
class SimulationOptions(Options):
    """All that a data set consists of; stored with it. mask and design may be paths."""
    cosmologies: int | None = option(None, f"cosmologies (default: {N_COSMOLOGY}, or all of the "
                                     "--design file)", metavar="N", within=(1, MAX_MAPS))
    realisations: int | None = option(
        None, f"noiseless maps of each cosmology (default: {DEFAULT_REALISATIONS}, or fewer if the "
        "--design file has fewer)", metavar="N", within=(1, MAX_MAPS))
    test: int = option(512, "noisy test maps, at cosmologies drawn uniformly from the design's",
                       metavar="N", within=(0, MAX_MAPS))
    unseen: int = option(0, "further noisy test maps at cosmologies off the design, drawn from its "
                         "density", metavar="N", within=(0, MAX_MAPS))
    seed: int = option(1, within=(0, 2**63 - 1))
    design: str | None = option(
        None, ".npy labels (cosmology, realisation, 5), whose cosmologies and nuisances are used, "
        "or (cosmology, 2) Omega_m, S_8 (default: spread like the challenge's)", metavar="FILE")
    nuisances: str | None = option(
        None, "log10 T_AGN, f_0, Delta_z: drawn from the published priors; fixed at their centres; "
        "or the --design file's, the default if it has them (test maps': drawn)",
        choices=("drawn", "fixed", "design"))
    shared_seeds: bool = option(False, "give realisation i the same random field and nuisances in "
                                "every cosmology, as the first public release does")
    field: str = option("lognormal", "shifted log-normal; halos in log-normal slices; or Gaussian; "
                        "all with the same spectrum", choices=FIELDS)
    boxes: int = option(
        0, "boxes of large-scale structure that the maps of a cosmology share, turned and shifted, "
        "as maps from few simulations do; 0: all are independent", metavar="N", within=(0, 10**6))
    gaussian_share: float = option(
        GAUSSIAN_SHARE, f"part of a log-normal map's power above multipole {GAUSSIAN_ABOVE:g} that "
        "an independent Gaussian field brings, at an unchanged third moment; 0, with "
        "--gaussian-below 0: a pure shifted log-normal", metavar="X", within=(0.0, 0.9))
    gaussian_below: float = option(GAUSSIAN_BELOW, "multipole under which all of the power is "
                                   "Gaussian", metavar="ELL", within=(0.0, 1e3))
    lambda_factor: float = option(LAMBDA_FACTOR, "factor of the shift lambda (kappa > -lambda); "
                                  "above 1: less skewed", metavar="X", within=(0.3, 100.0))
    lambda_scatter: float = option(
        0.0, "scatter of ln lambda from map to map, so that skewness is no exact function of the "
        "cosmology", metavar="X", within=(0.0, 0.5))
    pixel_scatter: float = option(
        PIXEL_SCATTER, "white scatter on top of each map, as real maps have it, of a variance per "
        "pixel from 0 to V; by default twice the fitted mean", metavar="V", within=(0.0, 0.01))
    n_gal: float = option(N_GAL, "source galaxies per square arcminute, which set the noise of the "
                          "test maps", metavar="X", within=(0.01, 1e6))
    mask: str | None = option(
        None, f".npy bool (rows, columns), True = observed; none: all {FRAME[0]} x {FRAME[1]} "
        "pixels (default: like HSC Y3's wide 12-hour field at 2 arcmin)", metavar="FILE|none")
    periodic: bool = option(
        False, "no margin: the frame itself is the periodic grid. With --mask none and --field "
        "gaussian every map has an exact likelihood (python -m wl.validate limit)")
    delta_z_sign: int = option(SKY.delta_z_sign, "-1: n(z) -> n(z + Delta_z), as HSC Y3 writes it; "
                               "1: sources move to higher redshift with Delta_z", choices=(-1, 1))
    # sources beyond 0.9 + 5 x 0.06 + 0.15 are not tabulated: a shift upwards is small
    source_shift: float = option(SKY.source_shift, "redshift added to all sources, whose mean is "
                                 "0.75 without it", metavar="Z", within=(-0.3, 0.05))
    f_b_max: float = option(SKY.f_b_max, "cap on the baryon fraction that feels feedback; 1: none",
                            metavar="X", within=(0.0, 1.0))
    stellar_boost: float = option(SKY.stellar_boost, "mass that f_0 concentrates in a halo's "
                                  "middle, in units of the stars'", metavar="X", within=(0.0, 10.0))
    nonlinear_tilt: float = option(SKY.nonlinear_tilt, "multiply non-linear minus linear power by "
                                   "(sigma_8 / 0.8)^X", metavar="X", within=(-1.0, 1.0))

    sky = property(lambda self: Sky(*(getattr(self, name) for name in Sky._fields)),
                   doc="What the spectrum is made of.")


class Plan:
    """Labels, mask and tasks of one data set; room: bytes that it may take, None for any.

    Has settings, inputs (digests) and origin, dicts; label (cosmology, realisation, 5) and
    label_test (test map, 5), float64; mask (rows, columns) bool. Raises InputError.
    """

    def __init__(self, options: SimulationOptions, room: int | None = None):
        self.options = options
        self.mask = (procedural_mask() if options.mask is None else np.ones(FRAME, bool)
                     if str(options.mask) == "none" else read_mask(options.mask))
        check_frame(self.mask.shape, options.periodic, options.field)
        self.n_observed = int(self.mask.sum())
        given = None if options.design is None else _given(options.design)
        has = given is not None and given.shape[2] == 5
        if options.nuisances == "design" and not has:
            raise InputError("--nuisances design: expected labels (n_cosmology, n_realisation, 5) "
                             "by --design, got none; give them, or --nuisances drawn")
        self.nuisances = options.nuisances or ("design" if has else "drawn")
        self._nuisances = draw_nuisances
        if options.nuisances == "fixed":
            self._nuisances = lambda n, rng: np.tile(FIXED_NUISANCES, (n, 1))
        n, m = (N_COSMOLOGY, DEFAULT_REALISATIONS) if given is None else given.shape[:2]
        n, m = options.cosmologies or n, options.realisations or min(m, DEFAULT_REALISATIONS)
        if given is not None and n > 2:
            triangulate(options.design, given[:n, 0, :2])
        # more maps than the disk holds are refused before so much as their labels are drawn
        maps = n * m + options.test + options.unseen
        need = maps * (2 * self.n_observed + 40)
        if room is not None and need > 0.98 * room:
            raise InputError(f"--cosmologies, --realisations, --test: {maps} maps need "
                             f"{need / 1e9:.2f} GB of disk, {room / 1e9:.2f} GB are free; make "
                             "room, or ask for fewer maps")
        self.label = self._labels(given, n, m)
        self.label_test = self._test_labels()
        check(**dict(zip(LABELS, np.moveaxis(self.label, 2, 0))))
        self.settings = dataclasses.asdict(options) | {
            "cosmologies": n, "realisations": m, "nuisances": self.nuisances}
        if options.field != "lognormal":          # what only that has must not tell two sets apart
            self.settings |= dict.fromkeys(("gaussian_share", "gaussian_below", "lambda_factor",
                                            "lambda_scatter"))
        self.origin = {name: str(self.settings.pop(name) or "procedural")     # contents are inputs
                       for name in ("mask", "design")}
        self.inputs = {"mask": digest_array(self.mask), "label": digest_array(self.label)}

    def _labels(self, given, n, m):
        """Labels of m training maps of each of n cosmologies."""
        own = self.nuisances == "design"
        for name, asked, there in zip(("--cosmologies", "--realisations")[:1 + own], (n, m),
                                      () if given is None else given.shape):
            if asked > there:
                raise InputError(f"{name}: expected at most {there}, which {self.options.design} "
                                 f"has, got {asked}")
        if own:
            return np.ascontiguousarray(given[:n, :m])
        label = np.empty((n, m, 5))
        label[:, :, :2] = (design(n) if given is None else given[:n, 0, :2])[:, None]
        for c, r in np.ndindex(n, m):
            # the first release repeats nuisances as well
            key = seeds.NUISANCE, 0 if self.options.shared_seeds else c, r
            label[c, r, 2:] = self._nuisances(1, generator(self.options.seed, *key))[0]
        return label

    def _test_labels(self):
        theta, test, unseen = self.label[:, 0, :2], self.options.test, self.options.unseen
        label, self.cosmology_test = np.empty((test + unseen, 5)), np.full(test + unseen, -1)
        for i in range(test):
            rng = generator(self.options.seed, seeds.TEST_LABEL, i)
            self.cosmology_test[i] = rng.integers(len(theta))
            label[i] = *theta[self.cosmology_test[i]], *self._nuisances(1, rng)[0]
        if unseen:
            rng = generator(self.options.seed, seeds.UNSEEN)
            label[test:, :2] = _draw_unseen(theta, unseen, rng)
            label[test:, 2:] = self._nuisances(unseen, rng)
        return label

    def tasks(self) -> Iterator[tuple]:
        """(name, file, places, labels, keys, noise) of each task: maps of a kind of a cosmology."""
        sigma, test, n = noise_sigma(self.options.n_gal), self.options.test, self.label.shape[1]
        for c, label in enumerate(self.label):
            keys = [(seeds.KAPPA, 0 if self.options.shared_seeds else c, r) for r in range(n)]
            yield f"train {c}", KAPPA_FILE, np.arange(c * n, (c + 1) * n), label, keys, 0.0
            rows = np.flatnonzero(self.cosmology_test == c)
            if len(rows):
                keys = [(seeds.TEST_KAPPA, int(row)) for row in rows]
                yield f"test {c}", TEST_FILE, rows, self.label_test[rows], keys, sigma
        for row in range(test, test + self.options.unseen):
            yield (f"unseen {row}", TEST_FILE, [row], self.label_test[[row]],
                   [(seeds.UNSEEN, row - test)], sigma)
