"""Signals that stop a run where it can be taken up, and streams that may be closed or full."""
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from .progress import fail

EXIT_STOPPED = 75
GRACE = 25.0                   # seconds to save in; batch systems kill after 30
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_came, _held = [], []          # signals that have come, blocks that must reach their own end


class Stopped(KeyboardInterrupt):
    """A signal (its number is the argument) asks the run to end; what is done is kept."""


def end_of(error: KeyboardInterrupt) -> int:
    """Say in one line by what a run was stopped. Returns the exit code."""
    number = error.args[0] if isinstance(error, Stopped) else signal.SIGINT
    name = "interrupted" if number == signal.SIGINT else f"stopped by {_name(number)}"
    code = 128 + number if number == signal.SIGINT else EXIT_STOPPED
    return fail(f"{name}; run the same command again to go on", code)


def _name(number):
    return signal.Signals(number).name


def _arrived(number, _):
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
    """Raise Stopped if a signal waits and no block has to be ended first."""
    if _came:
        raise Stopped(_came[0])


@contextlib.contextmanager
def prepared() -> Iterator["_Stream"]:
    """Signals and streams of a script, while its main() runs. Gives the standard output."""
    handlers = {number: signal.getsignal(number) for number in ENDING}
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
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Stream, before)
    try:
        yield sys.stdout
    finally:
        sys.stdout, sys.stderr = before
        _came.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Stream:
    """A text stream whose reader may go away and whose disk may fill: the run goes on without it.

    Has error, the OSError that ended it, or None.
    """

    def __init__(self, stream):
        self.stream, self.error = stream, None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")       # names of files are any bytes

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As of any stream."""
        return self._try(self.stream.write, text) or len(text)

    def flush(self) -> None:
        """As of any stream."""
        self._try(self.stream.flush)

    def _try(self, call, *words):
        try:
            return call(*words)
        except OSError as error:
            self.error = self.error or error
            null = os.open(os.devnull, os.O_WRONLY)      # what is buffered has to go somewhere
            os.dup2(null, self.stream.fileno())
            os.close(null)
