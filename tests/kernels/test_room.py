"""The room itself: what it imports, where its compiled code is kept, and the lines of its page."""
import ast
import importlib
import pathlib
import os
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
    """Every compiled function, own or imported; Numba's own setting stays as it was, other files
    stay out."""
    code = (
        "import importlib, numba, sys; before = numba.config.CACHE_DIR; import wl.kernels\n"
        f"module = importlib.import_module('wl.kernels.{name}')\n"
        "assert numba.config.CACHE_DIR == before\n"
        "assert wl.kernels.CACHE_FOLDER.startswith(sys.argv[1])\n"
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
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import wl.kernels; "
            "print(wl.kernels.CACHE_FOLDER)")
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


DRAW = """import numpy as np, resource, sys
if sys.argv[2:] == ["full"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from wl import kernels
from wl.kernels import noise
state = np.empty(4, np.uint64)
noise.seed_state(state, 12, 3, 0)
print(noise.uniform(state), noise.uniform.stats.cache_hits.total(), kernels.CACHE_FOLDER)"""


def test_a_damaged_or_full_or_foreign_cache_ends_no_run(python, tmp_path):
    """Compiled anew, the same numbers; Numba's own cache ends in errors, once in a segfault."""
    def drawn(*words, **env):
        run = python(DRAW, tmp_path, *words, env={"NUMBA_CACHE_DIR": str(tmp_path / "c"), **env})
        assert run.returncode == 0 and run.stderr == "", run.stderr
        return run.stdout.split()
    value, hits, folder = drawn()
    assert hits == "0" and drawn() == [value, "1", folder]
    whole = {path: path.read_bytes() for path in pathlib.Path(folder).glob("*.bin")}
    assert len(whole) >= 3 and os.stat(folder).st_mode & 0o777 == 0o700
    for path, content in whole.items():
        path.write_bytes({0: b"", 1: content[:len(content) // 2], 2: content[:-1] + b"x"}[
            len(path.name) % 3])
    assert drawn() == [value, "0", folder]
    assert {path: path.read_bytes() for path in whole}.keys() == whole.keys()
    shutil.rmtree(folder)
    assert drawn("full") == [value, "0", folder] and not list(pathlib.Path(folder).glob("*.*"))
    os.chmod(folder, 0o777)                      # anybody could have put a file there
    assert drawn()[2] != folder
    os.chmod(folder, 0o700)
    os.chmod(tmp_path / "c", 0o777)              # or another folder in its place
    assert drawn()[2] != folder


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_foreign_folder_and_a_user_without_home_or_entry_in_passwd(python, tmp_path):
    """The predictable folder in the temporary directory is somebody else's: nothing is loaded."""
    planted = tmp_path / "wl-cache-54321"
    planted.mkdir()
    for folder in (*tmp_path.parents[:3], tmp_path):
        folder.chmod(0o711)
    code = ("import os, sys, tempfile; from wl import kernels; tempfile.tempdir = sys.argv[1]\n"
            "for name in ('HOME', 'NUMBA_CACHE_DIR'): os.environ.pop(name, None)\n"
            "os.setgid(54321); os.setuid(54321); kernels.__file__ = '/nowhere/x.py'\n"
            "print(kernels._cache_folder())")
    assert python(code, tmp_path).stdout.strip() == "None"
    os.chown(planted, 54321, 54321)
    run = python(code, tmp_path)
    assert run.stdout.startswith(str(planted)), run.stderr
