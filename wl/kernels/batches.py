"""The data path in one pass: decode float16, add noise, standardise, scatter into the frame, flip."""
import numpy as np
from numba import njit, prange

from .generators import next_uint64, normal, seed_state

_LOW_16 = np.uint64(0xFFFF)
_SHIFT = np.uint64(16)


@njit(cache=True, parallel=True)
def fill_batch(out, maps, rows, targets, copies, symmetry, decode, quantiles, scale, exact, seed, stream,
               draws):
    """Write a batch of noisy standardised maps into their frames.

    out: (n, n_frame) float32, overwritten; maps: (n_all, n_observed) uint16, the bits of the float16
    maps; rows: (n,) int64, which maps; targets: (n_symmetry, n_observed) int32, where each observed
    pixel goes; copies: (n_symmetry, n_copy, 2) int32, (from, to) inside the frame, for pixels that a
    packed frame shows twice; symmetry: (n,) int64, row of targets; decode: (65536,) float32, the
    standardised value of each bit pattern; quantiles: (65536,) float32, standardised noise by 16-bit
    quantile, or empty for no noise; scale: standard deviation of the standardised noise; exact: draw
    from the ziggurat in place of the table; seed, stream: of the generator; draws: (n,) int64, index
    of the noise draw. Each map's noise follows from (seed, stream, draw) alone.

    The table holds 4 normals per 64 random bits and is capped at 4.3 sigma: for training, where it
    halves the cost of a map; the ziggurat is exact.
    """
    n_observed = maps.shape[1]
    for b in prange(rows.shape[0]):
        frame, values, target, copy = out[b], maps[rows[b]], targets[symmetry[b]], copies[symmetry[b]]
        for k in range(frame.shape[0]):
            frame[k] = np.float32(0.0)
        state = np.empty(4, np.uint64)
        seed_state(state, seed, stream, draws[b])
        if quantiles.shape[0] == 0:
            for p in range(n_observed):
                frame[target[p]] = decode[values[p]]
        elif exact:
            for p in range(n_observed):
                frame[target[p]] = decode[values[p]] + np.float32(scale * normal(state))
        else:
            whole = n_observed - n_observed % 4
            for p in range(0, whole, 4):
                bits = next_uint64(state)
                for k in range(4):
                    frame[target[p + k]] = decode[values[p + k]] + quantiles[np.int64(bits & _LOW_16)]
                    bits = bits >> _SHIFT
            bits = next_uint64(state)
            for p in range(whole, n_observed):
                frame[target[p]] = decode[values[p]] + quantiles[np.int64(bits & _LOW_16)]
                bits = bits >> _SHIFT
        for k in range(copy.shape[0]):
            frame[copy[k, 1]] = frame[copy[k, 0]]
