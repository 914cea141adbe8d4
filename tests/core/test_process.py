"""How a process ends: signals, closed and full streams. Small mains in real processes."""
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, one_line

START = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom wl.core import cli\n"
END = "\ncli.run(main)"


def started(body, redirect="", **more):
    """A process that runs a main() of this body, with its streams as the shell has them."""
    code = START + "def main():\n    " + body.replace("\n", "\n    ") + END
    return subprocess.Popen(["bash", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=_as_in_a_terminal, **more)


def _as_in_a_terminal():
    """No signal is ignored, as nohup and a shell's background jobs have it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("swallowed", [
    "weakref.finalize(a, end)\ndel a", "A.__del__ = lambda self: end()\ndel a",
    "ctypes.CFUNCTYPE(None)(end)()"])
def test_a_signal_in_a_finalizer_or_callback_ends_the_run_and_is_not_printed(swallowed):
    """An exception there is printed with a traceback and dropped."""
    done = started("import ctypes, os, signal, time, weakref\nclass A: pass\na = A()\n"
                   f"def end(): os.kill(os.getpid(), signal.SIGTERM)\n{swallowed}\n"
                   "print('goes on', flush=True)\ntime.sleep(9)\nprint('too far')")
    out, error = done.communicate(timeout=60)
    assert done.returncode == 75 and out == "goes on\n", (done.returncode, out, error)
    one_line(error.strip(), "stopped by SIGTERM")


def test_what_a_signal_left_half_made_is_silent_and_other_finalizers_are_not():
    code = ("import os, signal\nclass A:\n def __init__(self): {}; self.b = 1\n"
            " def __del__(self): self.b\nA()")
    done = started(code.format("os.kill(os.getpid(), signal.SIGTERM)"))
    _, error = done.communicate(timeout=60)
    assert done.returncode == 75, error
    one_line(error.strip(), "stopped by SIGTERM")
    code = code.replace("A()", "try: A()\nexcept AttributeError: pass")
    done = started(code.format("del self.c"))
    _, error = done.communicate(timeout=60)
    assert done.returncode == 0 and "has no attribute 'b'" in error


def test_an_error_that_a_library_makes_of_a_signal_is_the_signal():
    """Numba's dispatcher gives a SystemError in place of the exception, HDF5 an OSError."""
    done = started("import os, signal\ntry: os.kill(os.getpid(), signal.SIGTERM)\n"
                   "except KeyboardInterrupt as error: raise SystemError('a result') from error")
    out, error = done.communicate(timeout=60)
    assert done.returncode == 75 and out == "", (done.returncode, out, error)
    one_line(error.strip(), "stopped by SIGTERM")


WORK = """from wl.core.checks import RunError
from wl.core.progress import Progress, say, warn
bar = Progress(3, 'working')
bar.every = 0.0
for i in range(3):
    bar.update()
say('a note'); warn('a warning')
print('x' * 100000)
open('result', 'w').write('whole')
if FAILS:
    raise RunError('not converged')
"""


@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize("redirect, full", [
    (">&- 2>&- <&-", 0), (">&-", 0), ("2>&-", 0), ("<&-", 0), ("2>/dev/full", 0), (">/dev/full", 1),
    ("2>&1 | true", 0), ("2> >(true)", 0), ("> >(true)", 0), (">/dev/full 2>&1", 1)])
def test_a_stream_that_is_closed_or_full_ends_no_run(tmp_path, redirect, full, fails):
    """The work is done, the exit code is that of the work; of a full stdout it cannot be 0."""
    body = WORK.replace("FAILS", str(fails))
    if "|" in redirect:
        redirect, body = "> >(true) 2>&1", "import time; time.sleep(.1)\n" + body
    process = started(body, redirect, cwd=tmp_path)
    process.communicate(timeout=60)
    assert (tmp_path / "result").read_text() == "whole"          # and no line of a log got into it
    assert process.returncode == max(fails, full)


def test_nothing_is_written_into_a_file_that_got_a_closed_stream_s_number(tmp_path):
    body = ("import os\nfile = open('result', 'w')\nos.write(2, b'of a library')\n"
            "file.write('whole')")
    process = started(body, "2>&- >&-", cwd=tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "result").read_text() == "whole"


def test_names_of_files_are_any_bytes(tmp_path):
    process = started("print('caf\\u00e9', '\\udcff')", env={**os.environ, "LC_ALL": "POSIX",
                                                            "PYTHONIOENCODING": "ascii"})
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and "udcff" in out, error


def test_a_signal_after_the_end_changes_no_exit_code():
    """A process takes up to a second to end: a batch system would call the job killed."""
    process = started("import atexit, time\natexit.register(time.sleep, 1.0)\n"
                      "atexit.register(print, 'ends', flush=True)")
    assert process.stdout.readline() == "ends\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


PLAIN = """import time
print('begun', flush=True)
time.sleep(60)
"""
SAVING = """import time
from wl.core import progress
with progress.saving():
    print('begun', flush=True)
    for i in range(600):
        time.sleep(0.1)
        if progress.stopped():
            print('saved', flush=True)
            progress.stop()"""


@pytest.mark.parametrize("body, out", [(PLAIN, ""), (SAVING, "saved\n")])
@pytest.mark.parametrize("number, code, words", [
    (signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR1, 75, "SIGUSR1"), (signal.SIGHUP, 75, "SIGHUP"),
    (signal.SIGXCPU, 75, "SIGXCPU"),
    (signal.SIGINT, 130, "interrupted")])
def test_a_signal_saves_and_says_how_to_go_on(body, out, number, code, words):
    process = started(body)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    if number != signal.SIGINT:
        process.send_signal(number)                       # `timeout` sends two
    printed, error = process.communicate(timeout=20)
    assert process.returncode == code and printed == out, error
    one_line(error.strip(), words, "run the same command again")


def test_a_second_ctrl_c_ends_at_once_without_a_traceback():
    process = started(SAVING.replace("if progress.stopped()", "if False"))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 5
    one_line(error.strip(), "interrupted")


def test_a_run_that_hangs_ends_before_a_batch_system_kills_it():
    body = "from wl.core import progress\nprogress.GRACE = 0.5\n" + SAVING.replace(
        "if progress.stopped()", "if False")
    process = started(body)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 75, error
    one_line(error.strip(), "SIGTERM")


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    code = START + ("import time\ndef main():\n    print('begun', flush=True)\n"
                    "    time.sleep(1)\n    print('done')") + END
    process = subprocess.Popen(
        ["bash", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, code],
        stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "done\n" and process.returncode == 0


def test_a_signal_while_a_lock_is_released_is_no_traceback(tmp_path):
    """It would be raised in a finalizer, where Python prints it and goes on."""
    body = f"""import os, signal
from wl.core import files
inner = files._flock
held = files.lock({str(tmp_path / 'out')!r})
def flock(*words):
    os.kill(os.getpid(), signal.SIGTERM)
    return inner(*words)
files._flock = flock
del held
print('whole')"""
    out, error = started(body).communicate(timeout=20)
    assert out == "whole\n" and error == "" and not list(tmp_path.iterdir())
