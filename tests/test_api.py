"""The functions of wl itself: every example of their docstrings runs, and mistakes are refused."""
import inspect
import os
import textwrap

import numpy as np
import pytest
from conftest import one_line

import wl
from wl import api
from wl.core.checks import InputError
from wl.maps import dataset


def examples():
    """The indented lines of the functions' docstrings, in order of use."""
    names = ["simulate_set", "open_set", "predict", "infer", "score", "apply"]
    docs = [inspect.getdoc(getattr(api, name)) for name in names]
    return ["\n".join(line[4:] for line in textwrap.dedent(doc).splitlines()
                      if line.startswith("    ")) for doc in docs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder whose data/ holds a small mask, so that examples are quick."""
    folder = tmp_path_factory.mktemp("api")
    np.save(folder / "mask.npy", np.ones((64, 48), bool))
    return folder


def run(folder, code, names):
    """Run an example, on small maps and networks."""
    code = code.replace("test=20)", "test=20, mask='mask.npy')")
    code = code.replace('model="statistics"', 'model="statistics", '
                        'model_options={"networks": 2, "layers": (8, 8)}, emulator_fraction=0.4')
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(code, names)
    finally:
        os.chdir(before)


def test_every_example_runs(folder, capsys):
    names, functions = {"wl": wl}, examples()
    assert len(functions) == len(wl.__all__) and all(f"wl.{n}(" in "".join(functions)
                                                     for n in wl.__all__)
    process = os.getpid()
    for code in functions:
        run(folder, code, names)
        said = capsys.readouterr().out
        if "wl.simulate_set(" in code:
            test = np.load(folder / "data" / "small" / dataset.TEST_FILE)
            np.save(folder / "new.npy", test)
        if "wl.score(" in code:
            assert np.isfinite(float(said))
    posterior = names["posterior"]
    assert os.getpid() == process
    line = 'new = wl.infer(wl.apply("data/runs/small", "new.npy"), "x", sampler="exact")'
    run(folder, line, names)
    for name in ("posterior_mean", "sd", "p_value"):
        assert np.array_equal(names["new"].groups["summary"][name],
                              posterior.groups["summary"][name])


def test_folds_are_those_of_the_command_line(folder):
    maps = wl.simulate_set(folder / "data" / "folds", cosmologies=5, realisations=6, test=4,
                           mask=str(folder / "mask.npy"))
    small = {"networks": 1, "layers": (4,), "draws": 1}
    for more, folds in (({}, 2), ({"folds": 3}, 3), ({"emulator_fraction": 0.4}, 1)):
        found = wl.predict(maps, folder / f"folds{folds}", model="statistics", model_options=small,
                           **more)
        assert found.settings["folds"] == folds
    found = wl.predict(maps, folder / "spectrum", method="spectrum")
    assert found.settings["model"] == "spectrum" and "model_options" not in found.settings
    assert wl.infer(found, folder / "spectrum", sampler="exact", smooth="always").digest


@pytest.mark.parametrize("code, words", [
    ('wl.predict(maps, "x", modle="statistics")', ("modle", "did you mean model?")),
    ('wl.infer("missing.h5", "x")', ("missing.h5",)),
    ('wl.simulate_set("y", cosmologies=-1)', ("--cosmologies", "-1")),
    ('wl.open_set("missing")', ("missing", "no such folder")),
    ('wl.predict(maps, "x", model="nothing")', ("--model", "nothing")),
    ('wl.apply("data/runs/none", "new.npy")', ("data/runs/none",))])
def test_mistakes_are_one_line(folder, code, words):
    names = {"wl": wl}
    run(folder, 'maps = wl.simulate_set("data/small", cosmologies=8, realisations=10, test=20)',
        names)
    with pytest.raises(InputError) as error:
        run(folder, code, names)
    one_line(error, *words)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="nothing"):
        wl.nothing


@pytest.mark.parametrize("call, words", [
    (lambda maps, new, out: wl.infer(new, out, target="all"), ("--target", "holdout", "'all'")),
    (lambda maps, new, out: wl.infer(new, out, target="holdout"), ("--target holdout", "--target test")),
    (lambda maps, new, out: wl.infer(new, out, target="both"), ("--target both", "--target test")),
    (lambda maps, new, out: wl.infer(new, out, prior=None), ("--prior", "text", "None")),
    (lambda maps, new, out: wl.infer(new, out, adapt="no"), ("--adapt", "True or False", "'no'")),
    (lambda maps, new, out: wl.infer(new, out, adapt=np.ones(2)), ("--adapt", "True or False")),
    (lambda maps, new, out: wl.infer(new, out, target=["test"]), ("--target", "['test']")),
    (lambda maps, new, out: wl.infer(new, out, samplr="exact"), ("samplr", "sampler")),
    (lambda maps, new, out: wl.predict(maps, out, folds=2, only=1.5), ("--only", "whole", "1.5")),
    (lambda maps, new, out: wl.predict(maps, out, views=np.ones(2)), ("--views", "one value")),
    (lambda maps, new, out: wl.predict(maps, out, model=["compact"]), ("--model", "['compact']")),
    (lambda maps, new, out: wl.infer(new, out, seed="x"), ("seed", "'x'")),
    (lambda maps, new, out: wl.infer(new, out, draws=5, draw_maps=[1, 2]), ("--draw-maps", "[1, 2]")),
    (lambda maps, new, out: wl.predict(maps, out, seed=1.5), ("seed", "1.5")),
    (lambda maps, new, out: wl.open_set(maps.folder, release="foo"), ("--release", "'foo'"))])
def test_wrong_values_of_a_notebook_are_refused(folder, tmp_path, call, words):
    maps = wl.open_set(folder / "data" / "small")
    new = wl.apply(folder / "data" / "runs" / "small", folder / "new.npy")
    with pytest.raises(InputError) as error:
        call(maps, new, tmp_path / "out")
    one_line(error, *words)
    assert "samplr" not in words or not (tmp_path / "out").exists()


def test_values_of_numpy_and_of_pathlib_are_those_of_python(folder, tmp_path):
    new = wl.apply(folder / "data" / "runs" / "small", folder / "new.npy")
    prior, design = tmp_path / "prior.txt", new.groups["constant_data"]["design"]
    np.savetxt(prior, np.column_stack([design, np.ones(len(design))]))
    made = wl.infer(new, tmp_path / "a", sampler=np.str_("exact"), adapt=np.bool_(False),
                    draws=np.int64(3), draw_maps=np.int64(1), prior=prior)
    assert made.settings["draw_maps"] == 1 and made.settings["prior"] == str(prior)
    again = wl.infer(new, tmp_path / "a", sampler="exact", adapt=False, draws=3, draw_maps=1,
                     prior=str(prior))
    assert again.digest == made.digest
