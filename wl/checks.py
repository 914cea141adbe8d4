"""Validation at the border: each function returns the clean value or raises InputError in one line."""
import numpy as np


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
            raise InputError(f"{name}: expected dtype {' or '.join(str(k) for k in kinds)}, "
                             f"got {value.dtype}; {advice}")
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
    kind = int if integer else float
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected a positive {'whole ' if integer else ''}number, "
                         f"got {value!r}") from None
    if not np.isfinite(number) or number <= 0:
        raise InputError(f"{name}: expected a positive {'whole ' if integer else ''}number, "
                         f"got {value}; give a larger one")
    return number


def within(name, value, low, high):
    """A number with low <= value <= high, returned as float. Raises InputError."""
    number = float(value)
    if not low <= number <= high:
        raise InputError(f"{name}: expected a number between {low} and {high}, got {value}")
    return number


def choice(name, value, options):
    """One of a set of words. Raises InputError that lists them."""
    if value not in options:
        raise InputError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
    return value
