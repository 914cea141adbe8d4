"""Fixtures that several test files use."""
import contextlib
import gc
import importlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

# as wl.core.cli, before numpy loads: two threads of small products wait for each other:
# posterior/test_covariance.py took 31 s of CPU time in place of 9
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:       # in a shell's background: children too
    signal.signal(signal.SIGINT, signal.default_int_handler)
REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real():
    """Folder with the challenge's real mask, labels and one test map."""
    if not (REAL / "label.npy").is_file():
        pytest.skip("no real files: ../shared/real is not beside the clone")
    return REAL


@pytest.fixture(scope="session")
def script():
    """script("run_score.py", "--help", cwd=...) runs a script, returns the CompletedProcess."""
    def run(name, *arguments, cwd=None, env=None, timeout=900):
        return subprocess.run([sys.executable, str(ROOT / name), *map(str, arguments)], cwd=cwd,
                              env={**os.environ, **(env or {})}, timeout=timeout, text=True,
                              capture_output=True)
    return run


@pytest.fixture(scope="session")
def called():
    """As script(), but in this process: the imports of another cost seconds."""
    def run(name, *arguments, cwd=None):
        from wl.core import cli
        module, before = importlib.import_module(name.removesuffix(".py")), (os.getcwd(), sys.argv)
        streams = io.StringIO(), io.StringIO()
        os.chdir(cwd or before[0])
        sys.argv = [name, *map(str, arguments)]
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                cli.run(module.main)
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.chdir(before[0])
            sys.argv = before[1]
        if code:
            gc.collect()                        # what a traceback held: the lock of a folder
        out, error = (stream.getvalue() for stream in streams)
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=error)
    return run


@pytest.fixture(scope="session")
def python():
    """python("code") runs code in a fresh interpreter that finds wl: the CompletedProcess."""
    return run_code


def run_code(code, *arguments, env=None, timeout=600):
    folders = [ROOT, *(p for p in (ROOT / "tests").glob("**/") if p.name != "__pycache__")]
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], timeout=timeout,
                          env={**os.environ, "PYTHONPATH": path, **(env or {})}, text=True,
                          capture_output=True)


# ---------------------------------------------------------------- work beside the tests
def pytest_collection_modifyitems(items):
    """Tests of work that goes on beside the others come last: it is done by then."""
    items.sort(key=lambda item: "begun" in item.fixturenames)


@pytest.fixture(scope="session", autouse=True)
def beside(request, tmp_path_factory):
    """What begin(folder) of a test file returns, by file: called in a thread before all tests.

    It starts other processes, which compute or wait while the tests take one of two cores.
    """
    files = {i.module: None for i in request.session.items if "begun" in i.fixturenames}
    pool = ThreadPoolExecutor(1)
    yield {file: pool.submit(file.begin, tmp_path_factory.mktemp(file.__name__)) for file in files}
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def begun(request, beside):
    """What begin(folder) of this file returned."""
    return beside[request.module].result()


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    """A small mask with holes, in a file."""
    mask = np.random.default_rng(0).random((40, 36)) < 0.8
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    np.save(path, mask)
    return path


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
