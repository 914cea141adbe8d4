"""The options of a simulated data set, and what they make of it, before the first map is drawn."""
import dataclasses
from collections.abc import Iterator

import numpy as np

from ..core import seeds
from ..core.checks import InputError, Options, array, option, within
from ..core.files import digest_array
from ..core.params import F_0_RANGE, FRAME, N_GAL, T_AGN_RANGE, noise_sigma
from ..maps.dataset import TEST_FILE, load_npy, read_label, read_mask
from .fields import GAUSSIAN_BELOW, GAUSSIAN_SHARE, LAMBDA_FACTOR, Field, check_frame, generator
from .halo_sky import check_cells
from .sets import KAPPA_FILE
from .survey import FIXED_NUISANCES, design, draw_nuisances, draw_unseen, procedural_mask
from .theory import DELTA_Z_MAX, PIXEL_SCATTER, PUBLISHED, Sky, Theory

FIELDS = ("lognormal", "halo", "gaussian")
NUISANCE_WAYS = ("drawn", "fixed", "design")
SKY = Sky()
MAX_MAPS = 10**15


@dataclasses.dataclass(frozen=True)
class SimulationOptions(Options):
    """All that a data set consists of; stored with it. mask and design may be paths."""
    cosmologies: int | None = option(
        None, "cosmologies (default: 101, or all of the --design file)", metavar="N",
        within=(1, MAX_MAPS))
    realisations: int | None = option(
        None, "noiseless maps of each cosmology (default: 32, or what the --design file has if "
        "fewer)", metavar="N", within=(1, MAX_MAPS))
    test: int = option(512, "noisy test maps at cosmologies of the design, each as likely as the "
                       "others", metavar="N", within=(0, MAX_MAPS))
    unseen: int = option(0, "further noisy test maps at cosmologies off the design, drawn from its "
                         "density", metavar="N", within=(0, MAX_MAPS))
    seed: int = option(1, within=(0, 2**63 - 1))
    design: str | None = option(
        None, ".npy labels (cosmology, realisation, 5), whose cosmologies and nuisances are used, "
        "or (cosmology, 2) Omega_m, S_8 (default: points spread like the challenge's)",
        metavar="FILE")
    nuisances: str | None = option(
        None, "log10 T_AGN, f_0 and Delta_z of each map: drawn from the published priors; fixed at "
        "their centres; or the --design file's (default: design if the file has them, else drawn). "
        "Test maps take them from the priors unless they are fixed", choices=NUISANCE_WAYS)
    shared_seeds: bool = option(
        False, "give realisation i the same random field and nuisances in every cosmology, as the "
        "first public release does")
    field: str = option(
        "lognormal", "shifted log-normal; halos in log-normal slices; or Gaussian; all with the "
        "same spectrum", choices=FIELDS)
    boxes: int = option(
        0, "boxes of large-scale structure that the maps of a cosmology share, turned and shifted, "
        "as maps from few simulations do; 0: all maps are independent", metavar="N",
        within=(0, 10**6))
    gaussian_share: float = option(
        GAUSSIAN_SHARE, "part of a log-normal map's power that an independent Gaussian field "
        "brings at high multipoles, at an unchanged third moment. With --gaussian-below 0, 0: a "
        "pure shifted log-normal", metavar="X", within=(0.0, 0.9))
    gaussian_below: float = option(
        GAUSSIAN_BELOW, "multipole under which all of the power is Gaussian; 0: the same share at "
        "every multipole", metavar="ELL", within=(0.0, 1e3))
    lambda_factor: float = option(
        LAMBDA_FACTOR, "multiply the shift lambda of every log-normal (kappa > -lambda): above 1 "
        "less skewed", metavar="X", within=(0.3, 100.0))
    lambda_scatter: float = option(
        0.0, "scatter of ln lambda from map to map, so that skewness is no exact function of the "
        "cosmology", metavar="X", within=(0.0, 0.5))
    pixel_scatter: float = option(
        PIXEL_SCATTER, "white scatter on top of each map with a variance per pixel between 0 and "
        "V, as real maps have it; twice the fitted mean", metavar="V", within=(0.0, 0.01))
    n_gal: float = option(N_GAL, "source galaxies per square arcminute, which set the noise of the "
                          "test maps", metavar="X", within=(0.01, 1e6))
    mask: str | None = option(
        None, f".npy bool (rows, columns), True = observed; none: all of {FRAME[0]} x {FRAME[1]} "
        "pixels (default: a formula that imitates HSC Y3's wide 12-hour field, pixels of 2 arcmin)",
        metavar="FILE|none")
    periodic: bool = option(
        False, "no margin: the frame itself is the periodic grid. With --mask none and --field "
        "gaussian every map has an exact likelihood (python -m wl.validate limit)")
    delta_z_sign: int = option(
        SKY.delta_z_sign, "-1: n(z) -> n(z + Delta_z), as HSC Y3 writes it; 1: sources move to "
        "higher redshift with Delta_z", choices=(-1, 1))
    # sources beyond 0.9 + 5 x 0.06 + 0.15 are not tabulated: a shift upwards is small
    source_shift: float = option(
        SKY.source_shift, "redshift added to all sources, whose mean is 0.75 without it",
        metavar="Z", within=(-0.3, 0.05))
    f_b_max: float = option(
        SKY.f_b_max, "cap on the baryon fraction that feels feedback; 1: none", metavar="X",
        within=(0.0, 1.0))
    stellar_boost: float = option(
        SKY.stellar_boost, "mass that f_0 concentrates in a halo's middle, in units of the stars'",
        metavar="X", within=(0.0, 10.0))
    nonlinear_tilt: float = option(
        SKY.nonlinear_tilt, "multiply non-linear minus linear power by (sigma_8 / 0.8)^X",
        metavar="X", within=(-1.0, 1.0))

    def drawing(self) -> Field:
        """What maps are made of."""
        sky = Sky(*(getattr(self, name) for name in Sky._fields))
        return Field(*(sky if name == "sky" else getattr(self, name) for name in Field._fields))

    @classmethod
    def add_groups(cls, parser) -> None:
        """Add all options to a parser, in groups."""
        names, published = list(cls.__dataclass_fields__), " ".join(
            f"--{name.replace('_', '-')} {value:g}" for name, value in PUBLISHED._asdict().items())
        at = [0, *(names.index(name) for name in ("design", "field", "delta_z_sign")), None]
        for title, first, last in zip(
                ("size", "cosmologies and nuisances", "sky", "spectrum (fitted by "
                 f"benchmarks/fit_sky.py; as published: {published})"), at[:-1], at[1:]):
            cls.add_to(parser, title, only=names[first:last])


class Plan:
    """Labels, mask and tasks of one data set.

    options: of the set
    room: bytes that it may take, None for any
    settings, inputs (digests), origin: dicts
    label: float64 (cosmology, realisation, 5); label_test: float64 (test map, 5)
    mask: bool (rows, columns)
    field: Field
    Raises InputError.
    """

    def __init__(self, options: SimulationOptions, room: int | None = None):
        self.options, self.field = options, options.drawing()
        self.mask = (procedural_mask() if options.mask is None else np.ones(FRAME, bool)
                     if str(options.mask) == "none" else read_mask(options.mask))
        check_frame(self.mask.shape, options.periodic)
        if options.field == "halo" and options.periodic:
            check_cells(*self.mask.shape)
        self.n_observed = int(self.mask.sum())
        given = None if options.design is None else load_npy(options.design)
        self.nuisances = self._way(given)
        self._check_room(given, room)
        self.label = self._labels(given)
        self.label_test = self._test_labels()
        self._check()
        self.settings = self._settings()
        self.origin = {name: str(getattr(options, name) or "procedural")
                       for name in ("mask", "design")}
        self.inputs = {"mask": digest_array(self.mask), "label": digest_array(self.label)}

    def _settings(self):
        """The options as they are stored."""
        stored = dataclasses.asdict(self.options)
        del stored["mask"], stored["design"]                  # their contents are inputs
        stored.update(cosmologies=self.label.shape[0], realisations=self.label.shape[1],
                      nuisances=self.nuisances)
        if self.options.field != "lognormal":     # what only that has must not tell two sets apart
            stored.update(dict.fromkeys(("gaussian_share", "gaussian_below", "lambda_factor",
                                         "lambda_scatter")))
        return stored

    def _check_room(self, given, room):
        """Refuse more maps than the disk holds, before so much as their labels are drawn."""
        options, shape = self.options, (101, 32)
        if given is not None:
            shape = given.shape[:2] if given.ndim == 3 else (given.size // 2, 32)
        maps = (options.cosmologies or shape[0]) * (options.realisations or min(shape[1], 32))
        maps += options.test + options.unseen
        need = maps * (2 * self.n_observed + 40)
        if room is not None and need > 0.98 * room:
            raise InputError(f"--cosmologies, --realisations, --test: {maps} maps need "
                             f"{need / 1e9:.2f} GB of disk, {room / 1e9:.2f} GB are free; make "
                             "room, or ask for fewer maps")

    def _way(self, given):
        """How nuisances are settled."""
        has, way = given is not None and given.ndim == 3, self.options.nuisances
        if way == "design" and not has:
            raise InputError("--nuisances design: expected a --design file with labels "
                             "(n_cosmology, n_realisation, 5), got none; give one, or --nuisances "
                             "drawn")
        return way or ("design" if has else "drawn")

    def _labels(self, given):
        """Labels of the training maps."""
        options = self.options
        path, cosmologies, realisations = options.design, options.cosmologies, options.realisations
        if given is not None and given.ndim == 3:
            label = read_label(path)
            label = label[:_at_most("--cosmologies", cosmologies, label.shape[0], path)]
            if self.nuisances == "design":
                n = _at_most("--realisations", realisations or min(32, label.shape[1]),
                             label.shape[1], path)
                return np.ascontiguousarray(label[:, :n])
            theta = label[:, 0, :2]
        elif given is None:
            theta = design(cosmologies or 101)
        else:
            theta = array(path, given, (None, 2), ("f",), advice="or give labels (n_cosmology, "
                          "n_realisation, 5)").astype(float)
            theta = theta[:_at_most("--cosmologies", cosmologies, len(theta), path)]
        label = np.empty((len(theta), realisations or 32, 5))
        label[:, :, :2] = theta[:, None]
        for c, r in np.ndindex(label.shape[:2]):
            index = 0 if options.shared_seeds else c  # the first release repeats nuisances as well
            rng = generator(options.seed, seeds.NUISANCE, index, r)
            label[c, r, 2:] = self._nuisances(1, rng)[0]
        return label

    def _nuisances(self, n, rng):
        """Nuisances (n, 3) that no file gives."""
        fixed = self.nuisances == "fixed"
        return np.tile(FIXED_NUISANCES, (n, 1)) if fixed else draw_nuisances(n, rng)

    def _test_labels(self):
        theta, test, unseen = self.label[:, 0, :2], self.options.test, self.options.unseen
        label = np.empty((test + unseen, 5))
        self.cosmology_test = np.full(len(label), -1)
        for i in range(test):
            rng = generator(self.options.seed, seeds.TEST_LABEL, i)
            self.cosmology_test[i] = rng.integers(len(theta))
            label[i, :2] = theta[self.cosmology_test[i]]
            label[i, 2:] = self._nuisances(1, rng)[0]
        if unseen:
            rng = generator(self.options.seed, seeds.UNSEEN)
            label[test:, :2] = draw_unseen(theta, unseen, rng)
            label[test:, 2:] = self._nuisances(unseen, rng)
        return label

    def _check(self):
        for omega_m, s_8 in self.label[:, 0, :2]:
            Theory.check(omega_m, s_8)
        ranges = (T_AGN_RANGE, F_0_RANGE, (-DELTA_Z_MAX, DELTA_Z_MAX))
        for name, column, limits in zip(("log10 T_AGN", "f_0", "Delta_z"), (2, 3, 4), ranges):
            for value in (self.label[..., column].min(), self.label[..., column].max()):
                within(f"design: {name}", value, *limits)

    def tasks(self) -> Iterator[tuple]:
        """(name, file, places, labels, keys, noise) of each task: maps of a kind of a cosmology."""
        sigma, test = noise_sigma(self.options.n_gal), self.options.test
        n = self.label.shape[1]
        for c, label in enumerate(self.label):
            index = 0 if self.options.shared_seeds else c
            yield (f"train {c}", KAPPA_FILE, np.arange(c * n, (c + 1) * n), label,
                   [(seeds.KAPPA, index, r) for r in range(n)], 0.0)
            rows = np.flatnonzero(self.cosmology_test == c)
            if len(rows):
                keys = [(seeds.TEST_KAPPA, int(row)) for row in rows]
                yield f"test {c}", TEST_FILE, rows, self.label_test[rows], keys, sigma
        for row in range(test, test + self.options.unseen):
            keys = [(seeds.UNSEEN, row - test)]
            yield f"unseen {row}", TEST_FILE, [row], self.label_test[[row]], keys, sigma


def _at_most(name, value, most, source):
    if value is not None and value > most:
        raise InputError(f"{name}: expected at most {most}, which {source} has, got {value}")
    return most if value is None else value
