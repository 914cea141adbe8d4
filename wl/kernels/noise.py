"""Random numbers inside kernels, by xoshiro256++ with a ziggurat; batches of noisy maps.

A state is an array (4,) uint64, one for each item, seeded from (seed, stream, index): an item's
numbers depend on neither threads nor blocks nor jobs. The streams stand in core/seeds.py.

Generators are inlined by force: as calls, with reference counts, a normal took 15 ns, not 2.1.
"""
import math
from collections import namedtuple

import numba
import numpy as np

from . import njit

if numba.config.DISABLE_JIT:      # NumPy's uint64 scalars wrap as the compiled ones do, but warn
    np.seterr(over="ignore")

_GOLDEN, _MIX_1, _MIX_2, _LOW_8, _LOW_16 = (np.uint64(n) for n in (
    0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xFF, 0xFFFF))
_U11, _U16, _U17, _U19, _U23, _U27, _U30, _U31, _U41, _U45 = (
    np.uint64(n) for n in (11, 16, 17, 19, 23, 27, 30, 31, 41, 45))
_TO_UNIT = 2.0**-53               # 53 random bits to [0, 1)
_HALF = 1 << 52                   # 53 random bits to [-2^52, 2^52)
_NORMAL_R = 3.6541528853610088    # where the tail begins with 256 layers (Marsaglia & Tsang 2000)
_EXPONENTIAL_R = 7.697117470131050


def _tables(density, inverse, r, area, scale):
    """Widths, quick tests and densities of 256 layers of equal area below a falling density."""
    x = np.zeros(257)                          # the layers' edges; x[0] is the base's
    x[0], x[1] = area / density(r), r
    for i in range(1, 255):
        x[i + 1] = inverse(area / x[i] + density(x[i]))
    return (x[:256] / scale, np.floor(x[1:] / x[:256] * scale).astype(np.int64),
            np.array([density(v) for v in x]))


_NORMAL_W, _NORMAL_K, _NORMAL_F = _tables(
    lambda x: math.exp(-0.5 * x * x), lambda y: math.sqrt(-2.0 * math.log(y)), _NORMAL_R,
    _NORMAL_R * math.exp(-0.5 * _NORMAL_R**2)
    + math.sqrt(0.5 * math.pi) * math.erfc(_NORMAL_R / math.sqrt(2.0)), 2.0**52)
_EXPONENTIAL_W, _EXPONENTIAL_K, _EXPONENTIAL_F = _tables(
    lambda x: math.exp(-x), lambda y: -math.log(y), _EXPONENTIAL_R,
    (_EXPONENTIAL_R + 1.0) * math.exp(-_EXPONENTIAL_R), 2.0**53)


@njit(forceinline=True)
def _mix(z):
    """The output function of splitmix64 (Steele, Lea & Flood 2014), a bijection of 64 bits."""
    z = (z ^ (z >> _U30)) * _MIX_1
    z = (z ^ (z >> _U27)) * _MIX_2
    return z ^ (z >> _U31)


@njit(forceinline=True)
def seed_state(state: np.ndarray, seed: int, stream: int, index: int) -> None:
    """Fill a generator's state (4,) uint64 from three integers modulo 2^64, by splitmix64.

    Two indices of one seed and stream never share a state, two other triples at odds of 2^-64.
    """
    z = _mix(np.uint64(seed) + _GOLDEN)
    z = _mix((z ^ np.uint64(stream)) + _GOLDEN)
    z = _mix((z ^ np.uint64(index)) + _GOLDEN)
    for k in range(4):
        z = z + _GOLDEN
        state[k] = _mix(z)


@njit(forceinline=True)
def next_uint64(state: np.ndarray) -> np.uint64:
    """The next 64 bits of xoshiro256++ (Blackman & Vigna 2021); state: (4,) uint64, advanced."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    r = s0 + s3
    r = ((r << _U23) | (r >> _U41)) + s0
    t = s1 << _U17
    s2, s3 = s2 ^ s0, s3 ^ s1
    state[0], state[1], state[2] = s0 ^ s3, s1 ^ s2, s2 ^ t
    state[3] = (s3 << _U45) | (s3 >> _U19)
    return r


@njit(forceinline=True)
def uniform(state: np.ndarray) -> float:
    """A uniform float64 in [0, 1) with 53 random bits; state: (4,) uint64, advanced."""
    return np.int64(next_uint64(state) >> _U11) * _TO_UNIT


@njit(forceinline=True)
def normal(state: np.ndarray) -> float:
    """A standard normal by the ziggurat (Marsaglia & Tsang 2000); state: (4,) uint64, advanced."""
    while True:
        bits = next_uint64(state)
        layer = np.int64(bits & _LOW_8)
        j = np.int64(bits >> _U11) - _HALF
        x = j * _NORMAL_W[layer]
        if abs(j) < _NORMAL_K[layer]:          # 98.8 % of the draws
            return x
        if layer == 0:
            while True:
                a = -math.log(1.0 - uniform(state)) / _NORMAL_R
                b = -math.log(1.0 - uniform(state))
                if b + b > a * a:
                    return _NORMAL_R + a if j >= 0 else -_NORMAL_R - a
        inner, outer = _NORMAL_F[layer + 1], _NORMAL_F[layer]
        if outer + uniform(state) * (inner - outer) < math.exp(-0.5 * x * x):
            return x


@njit(forceinline=True)
def exponential(state: np.ndarray) -> float:
    """A standard exponential float64 by the ziggurat; state: (4,) uint64, advanced."""
    shift = 0.0
    while True:
        bits = next_uint64(state)
        layer = np.int64(bits & _LOW_8)
        j = np.int64(bits >> _U11)
        x = j * _EXPONENTIAL_W[layer]
        if j < _EXPONENTIAL_K[layer]:
            return shift + x
        if layer == 0:                         # memoryless: the tail is the whole law, shifted
            shift += _EXPONENTIAL_R
            continue
        inner, outer = _EXPONENTIAL_F[layer + 1], _EXPONENTIAL_F[layer]
        if outer + uniform(state) * (inner - outer) < math.exp(-x):
            return shift + x


Layout = namedtuple("Layout", "targets copies")
Layout.__doc__ = """Where the pixels of a map go in the frame that a network sees.

targets: (n_symmetry, n_observed) int32, place of each observed pixel; copies: (n_symmetry, n_copy,
2) int32, (from, to) inside the frame, for pixels that a packed frame shows twice.
"""

Noise = namedtuple("Noise", "quantiles scale exact seed stream")
Noise.__doc__ = """The noise of a batch; a map's follows from (seed, stream, its draw) alone.

quantiles: (65536,) float32, standardised noise by 16-bit quantile, or empty for no noise; capped at
4.3 sigma, it takes four normals from 64 random bits, at half the cost: for training; scale:
float64, standard deviation of the standardised noise; exact: bool, draw from the ziggurat in place
of the table; seed, stream: ints, of the generator, see core/seeds.py.
"""


@njit()
def fill_batch(out: np.ndarray, maps: np.ndarray, decode: np.ndarray, rows: np.ndarray,
               draws: np.ndarray, symmetry: np.ndarray, layout: Layout, noise: Noise) -> None:
    """Write a batch of noisy standardised maps into their frames, in one pass, for on_threads().

    out: (n, n_frame) float32, overwritten; maps: (n_all, n_observed) uint16, the bits of the
    float16 maps; decode: (65536,) float32, the standardised value of each; rows, draws, symmetry:
    (n,) int64, which maps, the index of each one's draw of noise, and its row of layout.targets.
    """
    n_observed, quantiles, scale = maps.shape[1], noise.quantiles, noise.scale
    for b in range(rows.size):
        frame, values, state = out[b], maps[rows[b]], np.empty(4, np.uint64)
        target, copy = layout.targets[symmetry[b]], layout.copies[symmetry[b]]
        frame[:] = np.float32(0.0)
        seed_state(state, noise.seed, noise.stream, draws[b])
        if quantiles.size == 0:
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
                    bits = bits >> _U16
            bits = next_uint64(state)
            for p in range(whole, n_observed):
                frame[target[p]] = decode[values[p]] + quantiles[np.int64(bits & _LOW_16)]
                bits = bits >> _U16
        for k in range(copy.shape[0]):
            frame[copy[k, 1]] = frame[copy[k, 0]]
