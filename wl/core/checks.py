"""Validation at the border: each function returns the clean value or raises InputError in one line."""
import math

import numpy as np

# kinds of dtype as a user knows them
KIND_WORDS = {"f": "float", "i": "int", "u": "unsigned int", "b": "bool", "c": "complex"}


class InputError(Exception):
    """Wrong usage or input: the message says what was expected, what came and what to do (exit 2)."""


class RunError(Exception):
    """The run itself failed or did not converge: a one-line message (exit 1)."""


def array(name, value, shape=None, dtype=None, finite=True, advice="check the file"):
    """Check an array without copying it.

    name: what to call it in a message; value: array-like; shape: tuple with an int, or None for
    any length, per axis; dtype: a NumPy kind or tuple of dtypes it must have ("f" any float);
    finite: refuse NaN and inf (reads the array once). Returns the array. Raises InputError.
    """
    value = np.asanyarray(value)
    if dtype is not None:
        kinds = dtype if isinstance(dtype, tuple) else (dtype,)
        if not any(value.dtype.kind == k if isinstance(k, str) and len(k) == 1
                   else value.dtype == np.dtype(k) for k in kinds):
            words = [KIND_WORDS.get(k) or np.dtype(k).name for k in kinds]
            raise InputError(f"{name}: expected dtype {' or '.join(words)}, got {value.dtype}; {advice}")
    if shape is not None:
        want = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        if value.ndim != len(shape) or any(n is not None and n != m
                                           for n, m in zip(shape, value.shape)):
            raise InputError(f"{name}: expected shape {want}, got {value.shape}; {advice}")
    if finite and value.dtype.kind in "fc":
        bad = ~np.isfinite(value)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(f"{name}: expected finite numbers, got {value[where]} at index {where} "
                             f"({int(bad.sum())} in all); {advice}")
    return value


def positive(name, value, integer=False):
    """A number above zero, returned as float (or int). Raises InputError."""
    want, shown = f"{name}: expected a positive {'whole ' if integer else ''}number", _shown(value)
    number = _number(value)
    if number is None or not math.isfinite(number) or (integer and number != int(number)):
        raise InputError(f"{want}, got {shown}; give another one")
    if number <= 0:
        raise InputError(f"{want}, got {shown}; give a larger one")
    if not integer:
        return number
    return int(value) if isinstance(value, (int, np.integer)) else int(number)


def within(name, value, low, high):
    """A number with low <= value <= high, returned as float. Raises InputError."""
    number = _number(value)
    if number is None or not low <= number <= high:       # NaN fails every comparison
        raise InputError(f"{name}: expected a number between {low} and {high}, got {_shown(value)}; "
                         "give another one")
    return number


def _number(value):
    """value as a float, None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(value):
    return repr(value) if isinstance(value, str) else str(value)


def choice(name, value, options):
    """One of a set of words. Raises InputError that lists them."""
    if value not in options:
        raise InputError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
    return value
