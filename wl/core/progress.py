"""What a run says while it works: progress with an ETA, notes and warnings on stderr."""
import pathlib
import sys
import time


def program() -> str:
    """What the user called: run_mcmc.py, or python -m wl.simulate."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = pathlib.Path(sys.argv[0] or "wl").name
    if spec is None or not spec.name.startswith("wl."):
        return name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def fail(message, code: int) -> int:
    """Say an error in one line. Returns the exit code."""
    print(f"{program()}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


class Progress:
    """Progress with ETA on stderr: a bar on a terminal, dated lines in a log, nothing when quiet.

    total: int, steps
    label: str, what is being done
    quiet: bool
    every: float, seconds between lines in a log
    stream: a text stream, None for stderr
    """

    def __init__(self, total: int, label: str, quiet: bool = False, every: float = 20.0,
                 stream=None):
        self.total, self.label, self.quiet = max(int(total), 1), label, quiet
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.last = time.monotonic()
        self.done = self.first = 0
        self.note = ""

    def begin_at(self, done: int) -> None:
        """Steps that an earlier run did: they count as done but not for the ETA."""
        self.done = self.first = done

    def update(self, step: int = 1, note: str | None = None) -> None:
        """So many more steps are done. note: str, a few words to show behind."""
        self.done += step
        self.note = self.note if note is None else note
        now = time.monotonic()
        if not self.quiet and now - self.last >= self.every:
            self.last = now
            self._show(now)

    def close(self, note: str | None = None) -> None:
        """The last line, with the time all of it took."""
        if not self.quiet:
            self.note = self.note if note is None else note
            took = _duration(time.monotonic() - self.start)
            self._write(f"{self.label}: done in {took}{self._behind()}", last=True)

    def _show(self, now):
        done, share = self.done - self.first, min(self.done / self.total, 1.0)
        eta = (now - self.start) / done * max(self.total - self.done, 0) if done > 0 else 0.0
        head = f"{self.label}: {100.0 * share:3.0f} %"
        if self.terminal:
            filled = int(24 * share)
            head += " [" + "#" * filled + "." * (24 - filled) + "]"
        self._write(f"{head} {self.done}/{self.total}, {_duration(now - self.start)} gone, "
                    f"{_duration(eta)} to go{self._behind()}")

    def _behind(self):
        return f", {self.note}" if self.note else ""

    def _write(self, text, last=False):
        if self.terminal:
            self.stream.write("\r\x1b[K" + text + ("\n" if last else ""))
        else:
            self.stream.write(time.strftime("%Y-%m-%d %H:%M:%S ") + text + "\n")
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
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
