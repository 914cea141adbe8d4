"""Large-scale structure that realisations share, as maps from few N-body boxes do.

A map is a stack of layers; each layer is one of a few boxes, flipped and shifted at random. Every
cosmology has boxes of its own. The challenge's real maps have one box for each cosmology and range
of redshifts, with 18 to 36 rotations and shifts.
"""
from collections.abc import Callable

import numpy as np

from ..kernels.halos import Turn

LAYERS = 2               # of log-normal and Gaussian maps; those with halos have their slices
UNTURNED = Turn(False, False, 0, 0)


class Boxes:
    """The boxes of one realisation: boxes(layer) gives a layer's random numbers and its Turn.

    count: boxes of each layer.
    rng: Generator of the realisation.
    generator_of: (layer, box) -> a fresh Generator, the same for all realisations.
    """

    def __init__(self, count: int, rng: np.random.Generator, generator_of: Callable):
        self.count, self.rng, self.generator_of = count, rng, generator_of

    def __call__(self, layer: int) -> tuple[np.random.Generator, Turn]:
        box, flips, *shifts = (int(n) for n in self.rng.integers((self.count, 4, 2**20, 2**20)))
        return self.generator_of(layer, box), Turn(bool(flips & 1), bool(flips & 2), *shifts)

    def field(self, draw: Callable, first: int = 0) -> np.ndarray:
        """A sum of LAYERS independent Gaussian fields, each turned, with the variance of one.

        draw: Generator -> (rows, columns) float32, periodic.
        first: number of the first layer.
        """
        total = np.float32(0.0)
        for layer in range(first, first + LAYERS):
            rng, turn = self(layer)
            one = draw(rng)[::-1 if turn.flip_y else 1, ::-1 if turn.flip_x else 1]
            total = total + np.roll(one, (turn.shift_y, turn.shift_x), (0, 1))
        return total * np.float32(LAYERS**-0.5)
