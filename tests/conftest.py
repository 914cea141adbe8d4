"""Fixtures that several test files use."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real():
    """Folder with the challenge's real mask, labels and one test map."""
    if not (REAL / "label.npy").is_file():
        pytest.skip("no real files: ../shared/real is not beside the clone")
    return REAL


@pytest.fixture(scope="session")
def script():
    """script("run_score.py", "--help", cwd=..., env={...}) runs a script, returns the CompletedProcess."""
    def run(name, *arguments, cwd=None, env=None, timeout=900):
        return subprocess.run([sys.executable, str(ROOT / name), *map(str, arguments)], cwd=cwd,
                              env={**os.environ, **(env or {})}, timeout=timeout, capture_output=True,
                              text=True)
    return run


@pytest.fixture(scope="session")
def python():
    """python("code") runs code in a fresh interpreter that finds wl, returns the CompletedProcess."""
    def run(code, *arguments, env=None, timeout=600):
        folders = [ROOT, *(p for p in (ROOT / "tests").glob("**/") if p.name != "__pycache__")]
        path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
        return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], timeout=timeout,
                              env={**os.environ, "PYTHONPATH": path, **(env or {})}, capture_output=True,
                              text=True)
    return run


@pytest.fixture()
def rng():
    return np.random.default_rng(20240607)


def one_line(error, *parts):
    """Assert that an error message is one line and names each part."""
    text = str(getattr(error, "value", error))
    assert "\n" not in text and len(text) < 500, text
    for part in parts:
        assert str(part) in text, f"{part!r} is not in: {text}"
    return text
