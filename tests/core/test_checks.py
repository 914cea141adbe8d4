"""The border: what passes, what is refused, and each refusal one line that says what to do."""
import numpy as np
import pytest
from conftest import one_line

from wl.core.checks import InputError, array, choice, positive, within


def test_array_passes_without_a_copy():
    value = np.ones((2, 3), np.float32)
    assert array("x", value, (2, None), "f") is value
    assert array("x", value, None, (np.float32, np.float64)) is value
    assert array("x", [1, 2], (2,), ("i", "u")).dtype.kind == "i"


@pytest.mark.parametrize("value, shape, dtype, words", [
    (np.ones((2, 3), np.float32), (2, 3), np.float16, ("float16", "float32")),
    (np.ones(3, int), None, "f", ("expected dtype float", "int64")),
    (np.ones(3, "U2"), None, ("f", np.bool_), ("float or bool", "<U2")),
    (np.ones((2, 3)), (2, None, 5), None, ("(2, any, 5)", "(2, 3)")),
    (np.ones((2, 3)), (2, 4), None, ("(2, 4)", "(2, 3)")),
])
def test_array_refuses(value, shape, dtype, words):
    with pytest.raises(InputError) as error:
        array("kappa.npy", value, shape, dtype, advice="do this")
    text = one_line(error, "kappa.npy", "expected", "got", "do this", *words)
    assert "class" not in text                         # np.float16 by its name, not by its repr


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_array_names_the_first_bad_number(bad):
    value = np.zeros((3, 4))
    value[1, 2] = value[2, 0] = bad
    with pytest.raises(InputError) as error:
        array("label.npy", value)
    one_line(error, "label.npy", "(1, 2)", "2 in all", bad)
    assert array("label.npy", value, finite=False) is value


@pytest.mark.parametrize("value", [1, 2.5, "3", np.float32(0.1), np.int64(4)])
def test_positive_passes(value):
    assert positive("--sigma", value) == pytest.approx(float(value))
    assert type(positive("x", value)) is float


@pytest.mark.parametrize("value", [0, -1, -0.0, np.nan, np.inf, -np.inf, None, "", "two", 10**400,
                                   [1, 2]])
@pytest.mark.parametrize("integer", [False, True])
def test_positive_refuses(value, integer):
    with pytest.raises(InputError) as error:
        positive("--sigma", value, integer=integer)
    one_line(error, "--sigma", "expected a positive", "got")


def test_whole_numbers_are_not_rounded():
    assert positive("--nstep", 10000, integer=True) == 10000
    assert positive("--nstep", 1e4, integer=True) == 10000
    assert type(positive("x", "7", integer=True)) is int
    assert positive("--nstep", 2**62 + 1, integer=True) == 2**62 + 1
    with pytest.raises(InputError) as error:
        positive("--nstep", 2.7, integer=True)
    one_line(error, "whole", "2.7")


def test_within_and_choice():
    assert within("x", "0.5", 0, 1) == 0.5 and within("x", 1, 0, 1) == 1.0
    for bad in (1.01, -1, np.nan, "much", None):
        with pytest.raises(InputError) as error:
            within("fraction", bad, 0, 1)
        one_line(error, "fraction", "between 0 and 1", bad)
    assert choice("--prior", "flat", ("flat", "design")) == "flat"
    with pytest.raises(InputError) as error:
        choice("--prior", "round", ("flat", "design"))
    one_line(error, "--prior", "flat, design", "'round'")
