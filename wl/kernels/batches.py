"""The data path in one pass: decode float16, add noise, standardise, scatter into the frame."""
from typing import NamedTuple

import numpy as np
from numba import prange

from . import njit
from .generators import next_uint64, normal, seed_state

_LOW_16 = np.uint64(0xFFFF)
_SHIFT = np.uint64(16)


class Layout(NamedTuple):
    """Where the pixels of a map go in the frame that a network sees.

    targets: (n_symmetry, n_observed) int32, place of each observed pixel.
    copies: (n_symmetry, n_copy, 2) int32, (from, to) inside the frame, for pixels that a packed
        frame shows twice.
    """
    targets: np.ndarray
    copies: np.ndarray


class Noise(NamedTuple):
    """The noise of a batch; a map's follows from (seed, stream, its draw) alone.

    quantiles: (65536,) float32, standardised noise by 16-bit quantile, or empty for no noise. It is
        capped at 4.3 sigma and takes four normals from 64 random bits, which halves the cost of a
        map: for training.
    scale: float64, standard deviation of the standardised noise.
    exact: bool, draw from the ziggurat in place of the table.
    seed: int, of the generator.
    stream: int, of core/seeds.py.
    """
    quantiles: np.ndarray
    scale: float
    exact: bool
    seed: int
    stream: int


@njit(cache=True, parallel=True)
def fill_batch(out: np.ndarray, maps: np.ndarray, decode: np.ndarray, rows: np.ndarray,
               draws: np.ndarray, symmetry: np.ndarray, layout: Layout, noise: Noise) -> None:
    """Write a batch of noisy standardised maps into their frames.

    out: (n, n_frame) float32, overwritten.
    maps: (n_all, n_observed) uint16, the bits of the float16 maps.
    decode: (65536,) float32, the standardised value of each bit pattern.
    rows: (n,) int64, which maps.
    draws: (n,) int64, index of each map's draw of noise.
    symmetry: (n,) int64, row of layout.targets.
    layout: Layout.
    noise: Noise.
    """
    n_observed = maps.shape[1]
    quantiles, scale = noise.quantiles, noise.scale
    for b in prange(rows.shape[0]):
        frame, values = out[b], maps[rows[b]]
        target, copy = layout.targets[symmetry[b]], layout.copies[symmetry[b]]
        for k in range(frame.shape[0]):
            frame[k] = np.float32(0.0)
        state = np.empty(4, np.uint64)
        seed_state(state, noise.seed, noise.stream, draws[b])
        if quantiles.shape[0] == 0:
            for p in range(n_observed):
                frame[target[p]] = decode[values[p]]
        elif noise.exact:
            for p in range(n_observed):
                frame[target[p]] = decode[values[p]] + np.float32(scale * normal(state))
        else:
            whole = n_observed - n_observed % 4
            for p in range(0, whole, 4):
                bits = next_uint64(state)
                for k in range(4):
                    quantile = quantiles[np.int64(bits & _LOW_16)]
                    frame[target[p + k]] = decode[values[p + k]] + quantile
                    bits = bits >> _SHIFT
            bits = next_uint64(state)
            for p in range(whole, n_observed):
                frame[target[p]] = decode[values[p]] + quantiles[np.int64(bits & _LOW_16)]
                bits = bits >> _SHIFT
        for k in range(copy.shape[0]):
            frame[copy[k, 1]] = frame[copy[k, 0]]
