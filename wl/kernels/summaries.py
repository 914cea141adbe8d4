"""Spectra in bins, and moments and histogram of maps smoothed by Gaussians.

A smoothed map lies in blocks of LANES columns, (column blocks, rows x LANES) float32: what happens
to a row of a block is a few vector instructions, and a block is one stretch of memory. Along rows a
convolution runs on blocks of LANES rows, turned. Blocks and rows from which nothing reaches an
observed pixel are skipped: of the survey's frame, a third.
"""
from typing import NamedTuple

import numpy as np
from . import njit

LANES = 32
GROUP = 8              # taps that one pass over a block adds
TRAILS = 4             # geometric series in a kernel's tail


class Smoothing(NamedTuple):
    """A Gaussian on a mask. Its tail at n is the sum of share x ratio^n, none if share[0] is 0."""
    taps: np.ndarray      # (1 + GROUP k,) float32, the kernel at 0, 1, ... without its tail
    ratio: np.ndarray     # (TRAILS,) float32
    share: np.ndarray     # (TRAILS,) float32
    pad: int              # rows of zeros at either end of a block, as many as the taps reach
    across: np.ndarray    # (row blocks, 2) int64, column blocks that LANES rows need, the end + 1
    along: np.ndarray     # (column blocks, 2) int64, rows that LANES columns need, the end + 1


@njit()
def bin_power(modes, order, times, first):
    """Sums of |mode|^2 over bins, (n_bin,) float64.

    modes: (m,) complex64; order: (k,) int64, the modes bin after bin; times: (k,) float32, how
    often each counts; first: (n_bin + 1,) int64, where each bin begins in order.
    """
    out = np.zeros(first.size - 1)
    part = np.zeros(4)                     # sums side by side: an addition waits for the one before
    for b in range(out.size):
        part[:] = 0.0
        for p in range(first[b], first[b + 1]):
            z = modes[order[p]]
            part[p & 3] += np.float64(times[p] * (z.real * z.real + z.imag * z.imag))
        out[b] = (part[0] + part[1]) + (part[2] + part[3])
    return out


@njit()
def turn(kappa, pad, turned):
    """A map in blocks of LANES rows, column after column.

    kappa: (rows, columns); turned: (row blocks, (2 pad + column blocks x LANES) x LANES), float32
    """
    for b in range(turned.shape[0]):
        for l in range(min(LANES, kappa.shape[0] - b * LANES)):
            row, lanes = kappa[b * LANES + l], turned[b]
            for x in range(row.size):
                lanes[(pad + x) * LANES + l] = row[x]


@njit()
def smooth(turned, smoothing, between, out):
    """A map smoothed at one scale.

    turned: of turn(), for a map that is zero where nothing is observed; between: (column blocks,
    (pad + row blocks x LANES + pad) x LANES) float32, zeros before the first map, then as any call
    left it; out: (column blocks, row blocks x LANES x LANES) float32, written in smoothing.along.
    """
    across, along, pad = smoothing.across, smoothing.along, smoothing.pad
    line = np.empty(along.shape[0] * LANES * LANES, np.float32)
    for b in range(across.shape[0]):
        first, last = across[b, 0], across[b, 1]
        _convolve(turned[b], pad + first * LANES, smoothing, line[:(last - first) * LANES * LANES])
        for c in range(first, last):
            part, block = line[(c - first) * LANES * LANES:], between[c, (pad + b * LANES) * LANES:]
            for l in range(LANES):
                for k in range(LANES):
                    block[l * LANES + k] = part[k * LANES + l]
    for c in range(along.shape[0]):
        first, last = along[c, 0], along[c, 1]
        _convolve(between[c], pad + first, smoothing, out[c, first * LANES:last * LANES])


@njit()
def _convolve(block, start, smoothing, out):
    """Convolve the rows of a block (n x LANES,) from `start` on, into out (m x LANES,)."""
    taps, rows = smoothing.taps, out.size // LANES
    here, centre = block[start * LANES:], taps[0]
    for p in range(out.size):
        out[p] = centre * here[p]
    for t in range(1, taps.size, GROUP):
        before, after = block[(start - t - GROUP + 1) * LANES:], block[(start + t) * LANES:]
        _add_taps(before, after, taps[t:], out)
    if smoothing.share[0] != 0.0:
        for side in range(2):
            _add_trails(here, side * (rows - 1), 1 - 2 * side, smoothing, out)


@njit()
def _add_taps(before, after, taps, out):
    """Add GROUP taps: of pairs that lie around each number, `before` begins at the furthest."""
    t0, t1, t2, t3, t4, t5, t6, t7 = (taps[0], taps[1], taps[2], taps[3],
                                      taps[4], taps[5], taps[6], taps[7])
    for p in range(out.size):
        a = (t0 * (before[p + 7 * LANES] + after[p])
             + t1 * (before[p + 6 * LANES] + after[p + LANES]))
        b = (t2 * (before[p + 5 * LANES] + after[p + 2 * LANES])
             + t3 * (before[p + 4 * LANES] + after[p + 3 * LANES]))
        c = (t4 * (before[p + 3 * LANES] + after[p + 4 * LANES])
             + t5 * (before[p + 2 * LANES] + after[p + 5 * LANES]))
        d = (t6 * (before[p + LANES] + after[p + 6 * LANES])
             + t7 * (before[p] + after[p + 7 * LANES]))
        out[p] += (a + b) + (c + d)


@njit()
def _add_trails(block, first, step, smoothing, out):
    """Add the tail of what lies on one side, by recursion from row `first` on, step 1 or -1."""
    ratio, share = smoothing.ratio, smoothing.share
    r0, r1, r2, r3 = ratio[0], ratio[1], ratio[2], ratio[3]
    s0, s1, s2, s3 = share[0], share[1], share[2], share[3]
    trail = np.zeros((TRAILS, LANES), np.float32)
    for k in range(out.size // LANES - 1):
        at = (first + k * step) * LANES
        here, beyond = block[at:at + LANES], out[at + step * LANES:at + (step + 1) * LANES]
        for l in range(LANES):
            a, b = r0 * (trail[0, l] + here[l]), r1 * (trail[1, l] + here[l])
            c, d = r2 * (trail[2, l] + here[l]), r3 * (trail[3, l] + here[l])
            trail[0, l], trail[1, l], trail[2, l], trail[3, l] = a, b, c, d
            beyond[l] += (s0 * a + s1 * b) + (s2 * c + s3 * d)


@njit()
def subtract(field, weight, coarse, coarse_weight, along, out):
    """What lies between two scales: the difference of two smoothed maps times their weights.

    field, weight, coarse, coarse_weight: (column blocks, rows x LANES) float32, as distribution()
    takes them; along: see Smoothing; out: the same shape, written inside along.
    """
    for c in range(along.shape[0]):
        at = slice(along[c, 0] * LANES, along[c, 1] * LANES)
        f, w, result = field[c, at], weight[c, at], out[c, at]
        g, v = coarse[c, at], coarse_weight[c, at]
        for p in range(result.size):
            result[p] = f[p] * w[p] - g[p] * v[p]


@njit()
def distribution(field, weight, along, bins):
    """Central moments and histogram of a smoothed map's pixels times their weights.

    field, weight: (column blocks, rows x LANES) float32, as smooth() writes it; a pixel of weight
    zero does not count; along: see Smoothing; bins: (3,) float64, lowest edge, width and number of
    the bins, the first and last of which also take what lies beyond.
    Returns variance, third and fourth central moment (3,) float64, histogram (bins[2],) int64.
    """
    last = np.int64(bins[2]) - 1
    low, per, top = bins[0], 1.0 / bins[1], np.float64(last)
    powers, place = np.zeros((4, LANES)), np.empty(LANES, np.int64)
    counts = np.zeros((4, last + 2), np.int64)             # side by side: see bin_power()
    for c in range(along.shape[0]):
        for p in range(along[c, 0] * LANES, along[c, 1] * LANES, LANES):
            f, w = field[c, p:p + LANES], weight[c, p:p + LANES]
            for l in range(LANES):
                x = np.float64(f[l] * w[l])
                square = x * x
                powers[0, l] += x
                powers[1, l] += square
                powers[2, l] += square * x
                powers[3, l] += square * square
                at = (x - low) * per
                at = at if at > 0.0 else 0.0               # NaN too, which no cast knows
                place[l] = np.int64(at if at < top else top) if w[l] != 0.0 else last + 1
            for l in range(LANES):
                counts[l & 3, place[l]] += 1
    histogram = (counts[0] + counts[1] + counts[2] + counts[3])[:last + 1]
    mean = np.zeros(4)
    for l in range(LANES):
        mean += powers[:, l]
    mean /= max(histogram.sum(), 1)
    m, m2, m3, m4 = mean[0], mean[1], mean[2], mean[3]     # small mean: no digits are lost
    return np.array([m2 - m * m, m3 - 3.0 * m * m2 + 2.0 * m * m * m,
                     m4 - 4.0 * m * m3 + 6.0 * m * m * m2 - 3.0 * m * m * m * m]), histogram
