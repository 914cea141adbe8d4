"""The house holds: data flows one way, files and functions stay small, rooms' pages are true."""
import ast
import pathlib
import re

import numpy as np
import pytest
from conftest import ROOT

WL = ROOT / "wl"
# a room, and the rooms that it may import from
ABOVE = {"core": (), "kernels": (), "maps": ("core", "kernels"),
         "simulate": ("core", "kernels", "maps"), "summaries": ("core", "kernels", "maps"),
         "posterior": ("core", "kernels"), "scoring": ("core", "maps", "posterior"),
         "validate": ("core", "kernels", "maps", "simulate", "summaries", "posterior", "scoring")}
FILES = sorted(WL.rglob("*.py"))
MAX_LINES, MAX_COLUMNS, MAX_FUNCTION, MAX_PARAMETERS = 400, 100, 60, 8


def imported(path):
    """Modules that a file imports anywhere in it, as dotted names within wl."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".") for a in node.names if a.name.split(".")[0] == "wl")
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) - node.level + 1] if node.level else ()
            module = [*start, *(node.module or "").split(".")]
            if module[0] == "wl":
                module = [part for part in module if part]
                yield from ([*module, a.name] for a in node.names)


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_imports_only_from_rooms_above_it(room):
    files = (WL / room).glob("*.py")
    found = {name[1] for path in files for name in imported(path) if len(name) > 1}
    rooms = {name for name in found if (WL / name).is_dir()}
    assert rooms - {room} <= set(ABOVE[room]), rooms
    assert "api" not in found and not any(re.match("run_", name) for name in found)


def test_rooms_are_all_known_and_the_rule_can_fail():
    assert {p.name for p in WL.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(ABOVE)
    lines = (WL / "posterior" / "infer.py").read_text()
    assert list(imported(WL / "posterior" / "infer.py")), lines[:200]


def test_no_circle_between_modules():
    graph = {path: set() for path in FILES}
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    for path in FILES:
        tree = ast.parse(path.read_text())
        top = {n for n in tree.body if isinstance(n, ast.ImportFrom)}
        package = path.relative_to(ROOT).with_suffix("").parts[:-1]
        for node in top:
            start = package[:len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *filter(None, (node.module or "").split("."))])
            for name in (module, *(f"{module}.{a.name}" for a in node.names)):
                if name in names:
                    graph[path].add(names[name])
    left = dict(graph)
    while left:
        free = [p for p, needs in left.items() if not needs & set(left) - {p}]
        assert free, sorted(p.name for p in left)
        for p in free:
            del left[p]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(WL)))
def test_files_and_functions_stay_small(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert [i + 1 for i, line in enumerate(lines) if len(line) > MAX_COLUMNS] == []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            a = node.args
            named = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            count = len([one for one in named if one is not None])
            count -= bool(a.args) and a.args[0].arg in ("self", "cls")
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION and count <= MAX_PARAMETERS, (node.name, length, count)


def snippet(room):
    """The lines of Python on a room's page."""
    page = ast.get_docstring(ast.parse((WL / room / "__init__.py").read_text()))
    lines = page.split("In Python:")[1].splitlines()
    return [line[4:] for line in lines if line.startswith("    ")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, script):
    """A folder with data/simulated and the finished run data/runs/main."""
    from wl.simulate.simulate import simulate
    folder = tmp_path_factory.mktemp("pages")
    np.save(folder / "mask.npy", np.ones((64, 48), bool))
    simulate(folder / "data" / "simulated", cosmologies=8, realisations=12, test=16,
             mask=folder / "mask.npy", processes=1, quiet=True)
    run = script("run_mcmc.py", "--method", "spectrum", "--nstep", "2000", "--quiet",
                 "--allow-unconverged", "--out", "data/runs/main", cwd=folder)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("room", ABOVE)
def test_the_page_of_a_room_runs(room, finished, python, monkeypatch):
    lines = snippet(room)
    assert 1 <= len(lines) <= 3
    run = python("\n".join(["import os; os.chdir(os.environ['WHERE'])", *lines]),
                 env={"WHERE": str(finished)})
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_itself_imports_nothing_heavy(room, python):
    heavy = {"torch", "h5py", "matplotlib"}
    if room != "kernels":                                  # numba, which it needs, loads scipy
        heavy |= {"numba", "scipy"}
    run = python(f"import sys; from wl import {room}; print({heavy} & set(sys.modules))")
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


def test_a_script_called_from_a_notebook_neither_restarts_nor_exits(finished, python):
    """As Jupyter does it: IPython is loaded, main() is called with its options."""
    code = ("import os, sys, types; os.chdir(os.environ['WHERE'])\n"
            "sys.modules['IPython'] = types.ModuleType('IPython')\n"
            "before = os.getpid(); import run_mcmc\n"
            "for _ in range(2):\n"
            "    run_mcmc.main(['--method', 'spectrum', '--sampler', 'exact', '--quiet', "
            "'--no-figures', '--out', 'data/runs/b'])\n"
            "assert os.getpid() == before; print('still here')")
    run = python(code, env={"WHERE": str(finished)})
    assert run.returncode == 0 and run.stdout.rstrip().endswith("still here"), run.stderr


def test_a_process_is_restarted_only_for_a_plain_script(tmp_path, python, script):
    """With the allocator's settings for training; never under a notebook or for others' main()."""
    ask = ("import os, sys; from wl.core import cli\n"
           "os.execv = lambda *a: print('restarted')\n"
           "[os.environ.pop(k, None) for k in cli.ALLOCATOR]\n")
    plain = tmp_path / "plain.py"
    plain.write_text(ask + "cli.prepare_process(1, allocator=True)\n")
    assert script(plain, env={"PYTHONPATH": str(ROOT)}).stdout == "restarted\n"
    notebook = ask + "import types; sys.modules['IPython'] = types.ModuleType('IPython')\n"
    for code in (notebook, ask):
        run = python(code + "cli.prepare_process(1, allocator=True)")
        assert run.returncode == 0 and run.stdout == "", run.stderr


def test_pages_of_the_package_name_all_rooms():
    page = ast.get_docstring(ast.parse((WL / "__init__.py").read_text()))
    assert all(re.search(rf"\b{room}\b", page) for room in ABOVE)
    assert pathlib.Path(WL / "__init__.py").read_text().count("import") <= 2


def test_a_caller_of_a_script_s_main_is_not_restarted(tmp_path, python):
    """A script of somebody's own, which is plain, would begin again, and pytest without a word."""
    own = tmp_path / "own.py"
    own.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                   "import os, run_mcmc, run_direct\n"
                   "os.execv = lambda *words: print('restarted')\n"
                   "for module in (run_mcmc, run_direct):\n    try:\n"
                   "        module.main(['--data', 'nowhere'])\n"
                   "    except Exception as error:\n        print(type(error).__name__)\n")
    run = python("import runpy, sys; sys.argv = [sys.argv[1]]; import __main__\n"
                 "__main__.__file__ = sys.argv[0]; exec(open(sys.argv[0]).read())", own)
    assert run.stdout == "InputError\nInputError\n", run.stdout + run.stderr
