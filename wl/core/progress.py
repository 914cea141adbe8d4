"""What a run says while it works, signals that stop it, streams that may be closed or full."""
import contextlib
import functools
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

EXIT_STOPPED = 75
GRACE = 25.0                   # seconds to save in; batch systems kill after 30
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU)
_came, _held = [], []          # signals that have come, blocks that must reach their own end


def program() -> str:
    """What the user called: run_mcmc.py, or python -m wl.simulate."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith("wl."):
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return pathlib.Path(sys.argv[0] or "wl").name


def fail(message, code: int) -> int:
    """Say an error in one line. Returns the exit code."""
    print(f"{program()}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


class Progress:
    """Progress with ETA on stderr: a bar on a terminal, dated lines in a log, nothing when quiet.

    total, label: int, steps, and str, what is being done
    Has note: str, a few words to show behind; every: float, seconds between lines.
    """

    def __init__(self, total: int, label: str, quiet: bool = False):
        self.total, self.label, self.quiet = max(int(total), 1), label, quiet
        self.stream, self.note, self.done, self.first = sys.stderr, "", 0, 0
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else 20.0
        self.start = self.last = time.monotonic()

    def begin_at(self, done: int, note: str = "") -> None:
        """Steps an earlier run did: they count as done but not for the ETA. note: see above."""
        self.done = self.first = done
        self.start, self.note = time.monotonic(), note
        if done and not self.quiet:
            self._write(f"goes on from {100.0 * done / self.total:.0f} %", "\n")

    def update(self, step: int = 1) -> None:
        """So many more steps are done."""
        self.done += step
        now = time.monotonic()
        if self.quiet or now - self.last < self.every:
            return
        self.last, done, share = now, self.done - self.first, min(self.done / self.total, 1.0)
        eta = (now - self.start) / done * max(self.total - self.done, 0) if done > 0 else 0.0
        bar = f" [{'#' * int(24 * share):.<24}]" if self.terminal else ""
        self._write(f"{100.0 * share:3.0f} %{bar} {self.done}/{self.total}, "
                    f"{_duration(now - self.start)} gone, {_duration(eta)} to go")

    def close(self) -> None:
        """The last line, with the time all of it took."""
        if not self.quiet:
            self._write(f"done in {_duration(time.monotonic() - self.start)}", "\n")

    def _write(self, text, end=""):
        text = f"{self.label}: {text}" + (f", {self.note}" if self.note else "")
        dated = time.strftime("%Y-%m-%d %H:%M:%S ") + text + "\n"
        self.stream.write("\r\x1b[K" + text + end if self.terminal else dated)
        self.stream.flush()


def say(text: str, quiet: bool = False) -> None:
    """One dated line on stderr."""
    if not quiet:
        prefix = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%d %H:%M:%S ")
        print(prefix + text, file=sys.stderr, flush=True)


def warn(text) -> None:
    """One line on stderr that --quiet does not hide."""
    print(f"{program()}: warning: {' '.join(str(text).split())}", file=sys.stderr, flush=True)


def _duration(seconds):
    minutes, seconds = divmod(int(round(seconds)), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Stopped(KeyboardInterrupt):
    """A signal (its number is the argument) asks the run to end; what is done is kept."""


def end_of(error: KeyboardInterrupt) -> int:
    """Say in one line by what a run was stopped. Returns the exit code."""
    number = error.args[0] if isinstance(error, Stopped) else signal.SIGINT
    by, code = f"stopped by {signal.Signals(number).name}", EXIT_STOPPED
    if number == signal.SIGINT:
        by, code = "interrupted", 128 + number
    return fail(f"{by}; run the same command again to go on", code)


def _arrived(number, frame):
    if _came:
        if number == signal.SIGINT:                       # a second Ctrl-C: at once, no traceback
            os._exit(end_of(Stopped(number)))
        return                                            # `timeout` sends SIGTERM twice
    _came.append(number)
    late = threading.Timer(GRACE, lambda: os._exit(end_of(Stopped(number))))
    late.daemon = True
    late.start()
    if not _held:
        raise Stopped(number)


def _swallowed(lost):
    """The signal again: a finalizer or a callback from C prints an exception and goes on."""
    if isinstance(lost.exc_value, Stopped):
        _came.clear()
        threading.Timer(0.01, os.kill, (os.getpid(), lost.exc_value.args[0])).start()
    elif not _came:                # what a signal left half made may complain
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Let a signal wait while the block runs; the block looks at stopped() and ends by stop()."""
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()
    stop()


def stopped() -> bool:
    """Whether a signal waits."""
    return bool(_came)


def stop() -> None:
    """Raise Stopped if a signal waits."""
    if _came:
        raise Stopped(_came[0])


@contextlib.contextmanager
def prepared() -> Iterator["_Stream"]:
    """Signals and streams of a script, while its main() runs. Gives the standard output."""
    handlers = {number: signal.getsignal(number) for number in ENDING}
    hook, sys.unraisablehook = sys.unraisablehook, _swallowed
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:                            # nohup ignores SIGHUP
            signal.signal(number, _arrived)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:         # closed: a file of ours would get its number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r+" if number else "r", closefd=False))
    try:
        with contextlib.redirect_stderr(_Stream(sys.stderr)), contextlib.redirect_stdout(
                _Stream(sys.stdout)) as out:
            yield out
    finally:
        _came.clear()
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Stream:
    """A text stream whose reader may go away, whose disk may fill: the run goes on without it."""

    def __init__(self, stream):
        self.stream, self.error = stream, None                      # the OSError that ended it
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")       # names of files are any bytes

    def __getattr__(self, name):
        found = getattr(self.stream, name)
        return functools.partial(self._try, found) if name in ("write", "flush") else found

    def _try(self, call, *words):
        try:
            return call(*words)
        except OSError as error:
            self.error = self.error or error
            null = os.open(os.devnull, os.O_WRONLY)      # what is buffered has to go somewhere
            os.dup2(null, self.stream.fileno())
            os.close(null)
