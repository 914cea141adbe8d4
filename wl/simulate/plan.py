"""What a simulated data set consists of, settled before the first map is drawn."""
import numpy as np

from ..core.checks import InputError, array, choice, positive, within
from .draw import Field, generator
from ..core import seeds
from .fields import GAUSSIAN_BELOW, GAUSSIAN_SHARE, LAMBDA_FACTOR, check_frame
from ..maps.dataset import RELEASES, TEST_FILE, load_npy, read_label, read_mask
from .halo_sky import check_cells
from .matter import Matter
from ..core.params import F_0_RANGE, FRAME, N_GAL, T_AGN_RANGE, noise_sigma
from ..core.files import digest_array
from .sky import PIXEL_SCATTER, Sky, checked
from .mask import design as procedural_design
from .mask import FIXED_NUISANCES, draw_nuisances, draw_unseen, procedural_mask, wide_design
from .theory import DELTA_Z_MAX

FIELDS = ("lognormal", "halo", "gaussian")
NUISANCE_WAYS = ("drawn", "fixed", "design")
KAPPA_FILE, LABEL_FILE = RELEASES["public"]


class Plan:
    """Settings, labels, mask and tasks of one data set.

    Arguments as simulate.simulate(); room: bytes that the set may take, or None. settings, inputs
    (digests), origin: dicts; label: float64 (n_cosmology, n_realisation, 5); label_test: float64 (n_test, 5); mask:
    bool (rows, columns); field: drawing.Field. Raises InputError.
    """

    def __init__(self, *, cosmologies=None, realisations=None, test=512, unseen=0, seed=1, field="lognormal",
                 mask=None, periodic=False, design=None, wide=False, nuisances=None, shared_seeds=False,
                 gaussian_share=GAUSSIAN_SHARE, gaussian_below=GAUSSIAN_BELOW, lambda_factor=LAMBDA_FACTOR,
                 lambda_scatter=0.0, pixel_scatter=PIXEL_SCATTER, n_gal=N_GAL, boxes=0, room=None, **sky):
        self.seed = whole("--seed", seed, 0)
        self.test, self.unseen = whole("--test", test, 0), whole("--unseen", unseen, 0)
        self.field = Field(
            choice("--field", field, FIELDS), within("--gaussian-share", gaussian_share, 0.0, 0.9),
            within("--gaussian-below", gaussian_below, 0.0, 1e4),
            positive("--lambda-factor", lambda_factor), within("--lambda-scatter", lambda_scatter, 0.0, 1.0),
            within("--pixel-scatter", pixel_scatter, 0.0, 1.0), bool(periodic), checked(**{**Sky()._asdict(), **sky}),
            whole("--boxes", boxes, 0))
        self.n_gal, self.shared_seeds = positive("--n-gal", n_gal), bool(shared_seeds)
        if mask is None:
            self.mask = procedural_mask()
        else:
            self.mask = np.ones(FRAME, bool) if str(mask) == "none" else read_mask(mask)
        check_frame(self.mask.shape, periodic)
        if field == "halo" and periodic:
            check_cells(*self.mask.shape)
        self.n_observed = int(self.mask.sum())
        given = None if design is None else load_npy(design)
        self.nuisances = self._way(nuisances, given)
        wanted = None if realisations is None else whole("--realisations", realisations, 1)
        count = None if cosmologies is None else whole("--cosmologies", cosmologies, 1)
        self._check_room(count, wanted, given, room)
        if wide and design is not None:
            raise InputError(f"--wide: expected no --design with it, got {design}; give one of the two")
        self.label = self._labels(count, wanted, design, given, wide_design if wide else procedural_design)
        self.label_test = self._test_labels()
        self._check()
        self.settings = {
            "cosmologies": self.label.shape[0], "realisations": self.label.shape[1], "test": self.test,
            "unseen": self.unseen, "seed": self.seed, "n_gal": self.n_gal, "wide": bool(wide),
            "nuisances": self.nuisances, "shared_seeds": self.shared_seeds, **self.field._asdict()}
        self.settings.update(self.settings.pop("sky")._asdict())
        if field != "lognormal":                   # what only the log-normal field has must not tell two sets apart
            self.settings.update(dict.fromkeys(("gaussian_share", "gaussian_below", "lambda_factor", "lambda_scatter")))
        self.origin = {"mask": "procedural" if mask is None else str(mask),
                       "design": ("wide" if wide else "procedural") if design is None else str(design)}
        self.inputs = {"mask": digest_array(self.mask), "label": digest_array(self.label)}

    def _check_room(self, cosmologies, realisations, given, room):
        """Refuse more maps than the disk holds, before so much as their labels are drawn."""
        shape = (101, 32) if given is None else given.shape[:2] if given.ndim == 3 else (given.size // 2, 32)
        maps = (cosmologies or shape[0]) * (realisations or min(shape[1], 32)) + self.test + self.unseen
        need = maps * (2 * self.n_observed + 40)
        if room is not None and need > 0.98 * room:
            raise InputError(f"--cosmologies, --realisations, --test: {maps} maps need {need / 1e9:.2f} GB of disk, "
                             f"{room / 1e9:.2f} GB are free; make room, or ask for fewer maps")

    @staticmethod
    def _way(nuisances, given):
        """How nuisances are settled; the design file's, if it has any, unless asked otherwise."""
        has = given is not None and given.ndim == 3
        if nuisances is None:
            return "design" if has else "drawn"
        if choice("--nuisances", nuisances, NUISANCE_WAYS) == "design" and not has:
            raise InputError("--nuisances design: expected a --design file with labels (n_cosmology, n_realisation, "
                             "5), got none; give one, or --nuisances drawn")
        return nuisances

    def _labels(self, cosmologies, realisations, design, given, procedural):
        if given is not None and given.ndim == 3:
            label = read_label(design)
            label = label[:_at_most("--cosmologies", cosmologies, label.shape[0], design)]
            if self.nuisances == "design":
                n = _at_most("--realisations", realisations or min(32, label.shape[1]), label.shape[1], design)
                return np.ascontiguousarray(label[:, :n])
            theta = label[:, 0, :2]
        elif given is None:
            theta = procedural(101 if cosmologies is None else cosmologies)
        else:
            theta = array(design, given, (None, 2), ("f",), advice="or give labels (n_cosmology, "
                          "n_realisation, 5)").astype(float)
            theta = theta[:_at_most("--cosmologies", cosmologies, len(theta), design)]
        label = np.empty((len(theta), realisations or 32, 5))
        label[:, :, :2] = theta[:, None]
        for c, r in np.ndindex(label.shape[:2]):
            c_seed = 0 if self.shared_seeds else c         # the first release repeats the nuisances as well
            label[c, r, 2:] = self._nuisances(1, generator(self.seed, seeds.NUISANCE, c_seed, r))[0]
        return label

    def _nuisances(self, n, rng):
        return np.tile(FIXED_NUISANCES, (n, 1)) if self.nuisances == "fixed" else draw_nuisances(n, rng)

    def _test_labels(self):
        theta = self.label[:, 0, :2]
        label = np.empty((self.test + self.unseen, 5))
        self.cosmology_test = np.full(len(label), -1)
        for i in range(self.test):
            rng = generator(self.seed, seeds.TEST_LABEL, i)
            self.cosmology_test[i] = rng.integers(len(theta))
            label[i, :2] = theta[self.cosmology_test[i]]
            label[i, 2:] = self._nuisances(1, rng)[0]
        if self.unseen:
            rng = generator(self.seed, seeds.UNSEEN)
            label[self.test:, :2] = draw_unseen(theta, self.unseen, rng)
            label[self.test:, 2:] = self._nuisances(self.unseen, rng)
        return label

    def _check(self):
        for omega_m, s_8 in self.label[:, 0, :2]:
            Matter.check(omega_m, s_8)
        ranges = (T_AGN_RANGE, F_0_RANGE, (-DELTA_Z_MAX, DELTA_Z_MAX))
        for name, column, limits in zip(("log10 T_AGN", "f_0", "Delta_z"), (2, 3, 4), ranges):
            for value in (self.label[..., column].min(), self.label[..., column].max()):
                within(f"design: {name}", value, *limits)

    def tasks(self):
        """(name, file, places, labels, keys, noise) of each task: the maps of one kind of one cosmology."""
        sigma = noise_sigma(self.n_gal)
        n = self.label.shape[1]
        for c, label in enumerate(self.label):
            yield (f"train {c}", KAPPA_FILE, np.arange(c * n, (c + 1) * n), label,
                   [(seeds.KAPPA, 0 if self.shared_seeds else c, r) for r in range(n)], 0.0)
            rows = np.flatnonzero(self.cosmology_test == c)
            if len(rows):
                keys = [(seeds.TEST_KAPPA, int(row)) for row in rows]
                yield f"test {c}", TEST_FILE, rows, self.label_test[rows], keys, sigma
        for row in range(self.test, self.test + self.unseen):
            keys = [(seeds.UNSEEN, row - self.test)]
            yield f"unseen {row}", TEST_FILE, [row], self.label_test[[row]], keys, sigma


def whole(name, value, least):
    """A whole number of at least least. Raises InputError."""
    if isinstance(value, bool) or int(value) != value or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value}")
    return int(value)


def _at_most(name, value, most, source):
    if value is not None and value > most:
        raise InputError(f"{name}: expected at most {most}, which {source} has, got {value}")
    return most if value is None else value
