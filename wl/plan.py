"""What a simulated data set consists of, settled before the first map is drawn."""
import numpy as np

from .checks import InputError, array, choice, positive, within
from .drawing import KAPPA, NUISANCE, TEST_KAPPA, TEST_LABEL, UNSEEN, generator
from .fields import check_frame
from .maps import RELEASES, TEST_FILE, load_npy, read_label, read_mask
from .matter import Matter
from .params import F_0_RANGE, T_AGN_RANGE, noise_sigma
from .provenance import digest_array
from .survey import design as procedural_design
from .survey import draw_nuisances, draw_unseen, procedural_mask
from .theory import DELTA_Z_MAX

FIELDS = ("lognormal", "gaussian")
KAPPA_FILE, LABEL_FILE = RELEASES["public"]


class Plan:
    """Settings, labels, mask and tasks of one data set.

    Arguments as simulate.simulate(). settings, inputs (digests), origin: dicts; label: float64
    (n_cosmology, n_realisation, 5); label_test: float64 (n_test, 5); mask: bool (rows, columns).
    Raises InputError.
    """

    def __init__(self, cosmologies, realisations, test, unseen, seed, field, mask, design, n_gal):
        self.seed = whole("--seed", seed, 0)
        self.test, self.unseen = whole("--test", test, 0), whole("--unseen", unseen, 0)
        self.field = choice("--field", field, FIELDS)
        self.n_gal = positive("--n-gal", n_gal)
        self.mask = procedural_mask() if mask is None else read_mask(mask)
        check_frame(self.mask.shape)
        self.n_observed = int(self.mask.sum())
        wanted = None if realisations is None else whole("--realisations", realisations, 1)
        count = None if cosmologies is None else whole("--cosmologies", cosmologies, 1)
        self.label = self._labels(count, wanted, design)
        self.label_test = self._test_labels()
        self._check()
        self.settings = {
            "cosmologies": self.label.shape[0], "realisations": self.label.shape[1], "test": self.test,
            "unseen": self.unseen, "seed": self.seed, "field": self.field, "n_gal": self.n_gal}
        self.origin = {name: "procedural" if file is None else str(file)
                       for name, file in (("mask", mask), ("design", design))}
        self.inputs = {"mask": digest_array(self.mask), "label": digest_array(self.label)}

    def _labels(self, cosmologies, realisations, design):
        given = None if design is None else load_npy(design)
        if given is not None and given.ndim == 3:
            label = read_label(design)
            label = label[:_at_most("--cosmologies", cosmologies, label.shape[0], design)]
            n = _at_most("--realisations", realisations or min(32, label.shape[1]), label.shape[1], design)
            return np.ascontiguousarray(label[:, :n])
        if given is None:
            theta = procedural_design(101 if cosmologies is None else cosmologies)
        else:
            theta = array(design, given, (None, 2), ("f",), advice="or give labels (n_cosmology, "
                          "n_realisation, 5)").astype(float)
            theta = theta[:_at_most("--cosmologies", cosmologies, len(theta), design)]
        label = np.empty((len(theta), realisations or 32, 5))
        label[:, :, :2] = theta[:, None]
        for c, r in np.ndindex(label.shape[:2]):
            label[c, r, 2:] = draw_nuisances(1, generator(self.seed, NUISANCE, c, r))[0]
        return label

    def _test_labels(self):
        theta = self.label[:, 0, :2]
        label = np.empty((self.test + self.unseen, 5))
        self.cosmology_test = np.full(len(label), -1)
        for i in range(self.test):
            rng = generator(self.seed, TEST_LABEL, i)
            self.cosmology_test[i] = rng.integers(len(theta))
            label[i, :2] = theta[self.cosmology_test[i]]
            label[i, 2:] = draw_nuisances(1, rng)[0]
        if self.unseen:
            rng = generator(self.seed, UNSEEN)
            label[self.test:, :2] = draw_unseen(theta, self.unseen, rng)
            label[self.test:, 2:] = draw_nuisances(self.unseen, rng)
        return label

    def _check(self):
        for omega_m, s_8 in self.label[:, 0, :2]:
            Matter.check(omega_m, s_8)
        ranges = (T_AGN_RANGE, F_0_RANGE, (-DELTA_Z_MAX, DELTA_Z_MAX))
        for name, column, limits in zip(("log10 T_AGN", "f_0", "Delta_z"), (2, 3, 4), ranges):
            for value in (self.label[..., column].min(), self.label[..., column].max()):
                within(f"design: {name}", value, *limits)

    def bytes_needed(self):
        """Size of the set on disk."""
        maps = self.label.shape[0] * self.label.shape[1] + len(self.label_test)
        return maps * self.n_observed * 2 + self.label.nbytes + self.label_test.nbytes + self.mask.size

    def tasks(self):
        """(name, file, places, labels, keys, noise) of each task: the maps of one kind of one cosmology."""
        sigma = noise_sigma(self.n_gal)
        n = self.label.shape[1]
        for c, label in enumerate(self.label):
            yield (f"train {c}", KAPPA_FILE, np.arange(c * n, (c + 1) * n), label,
                   [(KAPPA, c, r) for r in range(n)], 0.0)
            rows = np.flatnonzero(self.cosmology_test == c)
            if len(rows):
                keys = [(TEST_KAPPA, int(row)) for row in rows]
                yield f"test {c}", TEST_FILE, rows, self.label_test[rows], keys, sigma
        for row in range(self.test, self.test + self.unseen):
            keys = [(UNSEEN, row - self.test)]
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
