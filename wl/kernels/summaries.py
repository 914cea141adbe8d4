"""Moments, histogram and peaks of smoothed maps."""
import numpy as np
from . import njit


@njit(cache=True, nogil=True)          # in a parallel region a busy machine took ten times as long for one map
def distribution(field, valid, pdf):
    """Central moments and histogram of the valid pixels of a field.

    field: (rows, columns) float32; valid: (rows, columns) bool; pdf: (3,) float64, the lowest edge, the width
    and the number of the bins, the first and last of which also take what lies beyond.
    Returns moments (3,) float64 (variance, third and fourth central moment) and histogram (pdf[2],) int64.
    """
    rows, columns = field.shape
    histogram = np.zeros(int(pdf[2]), np.int64)
    count, total = 0, 0.0
    for y in range(rows):
        for x in range(columns):
            if valid[y, x]:
                count += 1
                total += np.float64(field[y, x])
    mean = total / max(count, 1)
    second, third, fourth = 0.0, 0.0, 0.0
    for y in range(rows):
        for x in range(columns):
            if valid[y, x]:
                value = np.float64(field[y, x])
                d = value - mean
                second += d * d
                third += d * d * d
                fourth += d * d * d * d
                histogram[bin_of(value, pdf)] += 1
    return np.array([second, third, fourth]) / max(count, 1), histogram


@njit(cache=True, nogil=True)
def describe(field, valid, pdf, peak):
    """Central moments, histogram and peak counts of the valid pixels of a field.

    field, valid, pdf: as in distribution(); peak: the bins of the peaks, likewise. A peak is a valid pixel above
    its eight neighbours, all of them valid, inside the frame.
    Returns moments (3,) float64, histogram (pdf[2],) and peaks (peak[2],) int64.
    """
    rows, columns = field.shape
    moments, histogram = distribution(field, valid, pdf)
    peaks = np.zeros(int(peak[2]), np.int64)
    for y in range(rows):
        for x in range(columns):
            if valid[y, x] and is_peak(field, valid, y, x, rows, columns):
                peaks[bin_of(np.float64(field[y, x]), peak)] += 1
    return moments, histogram, peaks


@njit(cache=True)
def bin_of(value, bins):
    """Bin of a value; what lies beyond goes to the first or last."""
    place = (value - bins[0]) / bins[1]
    if not place > 0.0:                       # NaN too: a cast of it would be undefined
        return 0
    if place >= bins[2]:
        return int(bins[2]) - 1
    return int(place)


@njit(cache=True)
def is_peak(field, valid, y, x, rows, columns):
    """Whether a pixel is valid, off the frame's edge, and above its eight valid neighbours."""
    if y == 0 or x == 0 or y == rows - 1 or x == columns - 1:
        return False
    value = field[y, x]
    for j in range(y - 1, y + 2):
        for k in range(x - 1, x + 2):
            if not valid[j, k]:
                return False
            if (j != y or k != x) and not value > field[j, k]:
                return False
    return True
