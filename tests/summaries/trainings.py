"""A small set of maps, and trainings on it, for several test files."""
import numpy as np
import torch
from scipy import ndimage
from torch import nn

from wl.maps.batches import Batches, Frame
from wl.summaries import training
from wl.summaries.network import Network, Recipe
from wl.summaries.options import MODELS

N_COSMOLOGY, N_REALISATION, SHAPE = 6, 8, (64, 48)


def data():
    """Maps of smooth noise whose amplitude is one parameter and whose asymmetry is the other."""
    rng, mask = np.random.default_rng(6), np.ones(SHAPE, bool)
    mask[20:30, 10:15] = False
    theta = np.column_stack([np.linspace(0.1, 0.6, N_COSMOLOGY), [0.7, 0.9, 0.75, 0.95, 0.8, 0.85]])
    kappa = np.empty((N_COSMOLOGY, N_REALISATION, int(mask.sum())), np.float16)
    for c, (omega_m, s_8) in enumerate(theta):
        for r in range(N_REALISATION):
            g = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5, mode="wrap")
            g = g / g.std()
            kappa[c, r] = (0.05 * (s_8 - 0.5) * g + 0.15 * (omega_m - 0.3) * (g * g - 1))[mask]
    label = np.repeat(theta, N_REALISATION, 0)
    return kappa.reshape(-1, kappa.shape[-1]), Frame(mask), label


KAPPA, FRAME, LABEL = data()
ROWS = np.flatnonzero(np.arange(len(LABEL)) % N_REALISATION < 6)
VALIDATION = np.setdiff1d(np.arange(len(LABEL)), ROWS)


def recipe(model="compact", loss="mse", model_options=None, **changes) -> Recipe:
    """Of a training on these maps."""
    plain = dict(epochs=3, batch_size=8, lanes=2, learning_rate=4e-3, weight_decay=1e-4, patience=0,
                 precision="float32", noise="fresh", frame=FRAME.shape, scale=0.02, n_gal=3000.0,
                 seed=3, split=[], label_mean=LABEL.mean(0), label_sd=LABEL.std(0))
    return Recipe(model=model, model_options={**MODELS.get(model, {}), **(model_options or {})},
                  loss=loss, **{**plain, **changes})


def source(n_gal=3000.0) -> Batches:
    return Batches(KAPPA, FRAME, scale=0.02, n_gal=n_gal, seed=3)


def run(threads=1, checkpoint=None, progress=None, rows=ROWS, batches=None, **changes) -> Network:
    """A trained network."""
    return training.train(batches or source(), LABEL, (rows, VALIDATION), recipe(**changes),
                          threads=threads, checkpoint=checkpoint, progress=progress)


def finished(done={}, **changes) -> Network:
    """As run(), but once for all tests: not to be changed."""
    key = repr(sorted(changes.items()))
    if key not in done:
        done[key] = run(**changes)
    return done[key]


def count_parameters(net: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def same_weights(one: Network, two: Network) -> bool:
    """Whether two networks have the same bits."""
    a, b = one.net.state_dict(), two.net.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def same(one: Network, two: Network) -> bool:
    """Whether two trainings ended with the same bits: weights, and losses of every epoch."""
    return same_weights(one, two) and one.history == two.history


class Plain(nn.Module):
    """A network without batch norm: a lane's gradient does not depend on its neighbours."""

    def __init__(self, frame, n_out):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 5, 3), nn.Linear(4, n_out)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


class Kill:
    """A progress that ends the run at a step, as a signal would; and counts."""

    def __init__(self, at=None):
        self.at, self.steps, self.first, self.note = at, 0, None, ""

    def begin_at(self, done, note=""):
        self.first = done

    def update(self, step=1):
        self.steps += step
        if self.steps == self.at:
            raise KeyboardInterrupt
