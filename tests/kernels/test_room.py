"""The room itself: what it imports, where its compiled code is kept, and the lines of its page."""
import ast
import importlib
import pathlib
import re
import shutil

import pytest

from wl import kernels

FOLDER = pathlib.Path(kernels.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_kernels_import_nothing_but_numpy_and_numba(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"math", "numba", "numpy"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or node.module in ("numba", "collections", "typing")


@pytest.mark.parametrize("name", NAMES)
def test_each_file_alone_keeps_its_code_in_the_room_s_folder(name, python, tmp_path):
    """Every compiled function, own or imported; Numba's own setting stays as it was, other files stay out."""
    code = ("import importlib, numba, sys; before = numba.config.CACHE_DIR; import wl.kernels\n"
            f"module = importlib.import_module('wl.kernels.{name}')\n"
            "assert numba.config.CACHE_DIR == before and wl.kernels.CACHE_FOLDER.startswith(sys.argv[1])\n"
            "for key, value in vars(module).items():\n"
            "    if isinstance(value, numba.core.dispatcher.Dispatcher):\n"
            "        print(key, value._cache.cache_path.startswith(wl.kernels.CACHE_FOLDER))\n"
            "print(len([m for m in sys.modules if m.startswith('wl.kernels.')]))")
    run = python(code, tmp_path, env={"NUMBA_CACHE_DIR": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    *found, loaded = run.stdout.split("\n")[:-1]
    assert found and all(line.endswith(" True") for line in found), found
    assert int(loaded) <= 3 < len(NAMES)                           # and not all others


def test_another_state_of_the_sources_has_another_folder(tmp_path, python):
    """A comment in one file is enough: a callee in another file may have changed."""
    shutil.copytree(FOLDER.parent, tmp_path / "wl", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import wl.kernels; print(wl.kernels.CACHE_FOLDER)"
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = python(code, tmp_path, env=env).stdout
    with open(tmp_path / "wl" / "kernels" / "likelihood.py", "a") as file:
        file.write("# another\n")
    second = python(code, tmp_path, env=env).stdout
    assert str(tmp_path) in first and str(tmp_path) in second and first != second


@pytest.mark.parametrize("room", ["kernels", "posterior"])
def test_the_page_s_lines_run(room, python):
    lines = re.findall(r"^ {4}(.*)$", importlib.import_module(f"wl.{room}").__doc__, re.M)
    run = python("\n".join(lines))
    assert 0 < len(lines) <= 3 and run.returncode == 0 and run.stdout.strip(), run.stderr
