"""What a run says while it works: progress with an ETA, notes and warnings on stderr."""
import pathlib
import sys
import time


def program():
    """What the user called: run_mcmc.py, or python -m wl.simulate."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = pathlib.Path(sys.argv[0] or "wl").name
    if spec is None or not spec.name.startswith("wl."):
        return name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def fail(message, code):
    """Say an error in one line; returns the exit code."""
    print(f"{program()}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


class Progress:
    """Progress with ETA on stderr: a bar on a terminal, dated lines in a log, nothing when quiet.

    total: number of steps; label: what is being done; every: seconds between lines in a log.
    """

    def __init__(self, total, label, quiet=False, every=20.0, stream=None):
        self.total, self.label, self.quiet = max(int(total), 1), label, quiet
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.last = time.monotonic()
        self.done = self.first = 0
        self.note = ""

    def begin_at(self, done):
        """Steps that an earlier run did: they count as done but not for the ETA."""
        self.done = self.first = done

    def update(self, step=1, note=None):
        """step more are done; note: a few words to show behind."""
        self.done += step
        if note is not None:
            self.note = note
        now = time.monotonic()
        if not self.quiet and (now - self.last >= self.every):
            self.last = now
            self._show(now)

    def close(self, note=None):
        """The last line, with the time all of it took."""
        if note is not None:
            self.note = note
        if not self.quiet:
            took = time.monotonic() - self.start
            text = f"{self.label}: done in {_duration(took)}" + (f", {self.note}" if self.note else "")
            self._write(text, last=True)

    def _show(self, now):
        done, share = self.done - self.first, min(self.done / self.total, 1.0)
        eta = (now - self.start) / done * max(self.total - self.done, 0) if done > 0 else 0.0
        head = f"{self.label}: {100.0 * share:3.0f} %"
        if self.terminal:
            filled = int(24 * share)
            head += " [" + "#" * filled + "." * (24 - filled) + "]"
        self._write(f"{head} {self.done}/{self.total}, {_duration(now - self.start)} gone, "
                    f"{_duration(eta)} to go" + (f", {self.note}" if self.note else ""))

    def _write(self, text, last=False):
        if self.terminal:
            self.stream.write("\r\x1b[K" + text + ("\n" if last else ""))
        else:
            self.stream.write(time.strftime("%Y-%m-%d %H:%M:%S ") + text + "\n")
        self.stream.flush()


def say(text, quiet=False):
    """One dated line on stderr."""
    if not quiet:
        prefix = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%d %H:%M:%S ")
        print(prefix + text, file=sys.stderr, flush=True)


def warn(text):
    """One line on stderr that --quiet does not hide."""
    print(f"{program()}: warning: {' '.join(str(text).split())}", file=sys.stderr, flush=True)


def _duration(seconds):
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
