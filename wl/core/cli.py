"""What the scripts share: options, exit codes, progress, threads and allocator."""
import argparse
import contextlib
import errno
import json
import math
import os
import pathlib
import re
import signal
import sys
import traceback

# Read when numpy loads. Linear algebra on several threads rounds differently.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .. import __version__  # noqa: E402
from .checks import InputError, RunError, meant, number, within  # noqa: E402
from .files import code_version, lock  # noqa: E402
from .progress import ENDING, EXIT_STOPPED, end_of, fail, prepared, stop  # noqa: E402

EXIT_FAILED, EXIT_USAGE = 1, 2
MAX_WHOLE = 10**12             # of any whole number but a seed
NO_OPTIONS = ("n_gal", "n_bin", "ell_min", "ell_max", "part", "fold", "member", "orders", "shard",
              "method", "scales", "rows", "data", "start", "predictions")        # of results
OF_OTHERS = ("method", "model", "n_summary", "target")     # of predictions of others, no options
RUNS = pathlib.Path("data", "runs")        # where results go without --out
OF_ONE_JOB = ("shard", "only", "threads", "quiet", "force", "out")       # may differ in an array
# glibc returns large tensors to the kernel each step: keeping them took a step of the published
# network from 23 to 13.6 ms a map, one arena a step of 64 from 1.14 to 0.76 s. Read at the start
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
             "MALLOC_TOP_PAD_": str(1 << 28), "MALLOC_ARENA_MAX": "1"}
TRACEBACK = "WL_TRACEBACK"      # environment variable: 1 shows an internal error in full
EPILOG = f"""exit codes: 0 done; 1 failed, or not converged; 2 wrong usage or input; {EXIT_STOPPED}
stopped by SIGTERM, SIGUSR1 or SIGHUP, 130 by Ctrl-C: the same command goes on. An internal error is
one line; with {TRACEBACK}=1 in the environment it is shown in full. Threads, jobs and interruptions
change no bit of a result; a CPU with other instructions may: files name it."""


class Parser(argparse.ArgumentParser):
    """argparse with defaults in --help, whole numbers as 1e4, and mistakes in one line (exit 2)."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_Help, epilog=EPILOG, allow_abbrev=False, **kwargs)
        self.presets = {}
        for kind, read in ((int, _whole), (float, _finite), (str, _text), (None, _text)):
            self.register("type", kind, read)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.I)

    def add_presets(self, presets: dict) -> None:
        """Add --preset: {name: {option: default}}, the first of which is taken without it."""
        self.presets, listed = presets, []
        for name, values in presets.items():
            flat = [(key.replace("_", "-"), one) for key, value in values.items()
                    for one in (value if isinstance(value, list) else [value])]
            words = [f"--no-{flag}" if one is False else f"--{flag} {one}" for flag, one in flat]
            listed.append(f"{name}: {' '.join(words) or 'the defaults of all options'}")
        self.add_argument("--preset", default=next(iter(presets)), choices=tuple(presets),
                          help="defaults for many options at once; an option that is given wins. "
                               + "; ".join(listed))

    def error(self, message: str):
        """Say a mistake, and what was perhaps meant, and end the process."""
        word, known = re.search(r"unrecognized arguments: ([^\s=]+)", message), ()
        if word:
            known = self._option_string_actions
        elif word := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            known = word[2].replace("'", "").split(", ")
        self.exit(EXIT_USAGE, f"{self.prog}: error: {' '.join(message.split())}; "
                  f"{meant(word[1], known, '{} ') if word else ''}see {self.prog} --help\n")


def _text(text):
    if text:
        return text
    raise argparse.ArgumentTypeError("expected a value, got nothing; is a shell's variable unset?")


def _finite(text):
    if math.isfinite(value := number(text)):
        return value
    raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")


def _whole(text, low=-MAX_WHOLE, high=MAX_WHOLE):
    with contextlib.suppress(ValueError, OverflowError):
        value = int(text) if re.fullmatch(r"\s*[-+]?\d+\s*", text) else float(text)
        if low <= value <= high and value == int(value):
            return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number {'' if low < 0 else f'from {low} '}"
                                     f"to {high}, got {text[:80]!r}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        plain = action.default in (None, False, True, argparse.SUPPRESS)
        return action.help if plain else super()._get_help_string(action)


def add_common(parser: Parser, *, threads: bool = True) -> Parser:
    """Add the options that mean the same in every script. threads: bool, --threads too."""
    add = parser.add_argument
    add("--seed", type=lambda text: _whole(text, 0, (1 << 63) - 1), default=1, metavar="N",
        help="seed of everything random")
    if threads:
        add("--threads", type=int, metavar="N", help="CPU threads (default: all that there are)")
    add("--quiet", action="store_true", help="no progress and no notes; warnings are shown")
    add("--config", metavar="FILE", help="a result (.h5) or JSON with the settings of a run: it "
        "is repeated; options beside this one win")
    add("--version", action="version", version=f"wl {__version__}, code {code_version()}",
        help="show versions and digest of the code")
    return parser


def add_shown(parser: Parser) -> None:
    """Add the options that say what is shown of a score."""
    parser.add_argument("--details", action="store_true", help="print all figures of the score")
    parser.add_argument("--figures", action=argparse.BooleanOptionalAction, default=True,
                        help="report.html and, with matplotlib, pictures beside the posterior")


def parse(parser: argparse.ArgumentParser, argv: list | None = None) -> argparse.Namespace:
    """The values of a command line, with a checked number of threads. Raises InputError."""
    argv, more = [*map(str, sys.argv[1:] if argv is None else argv)], {}
    args = parser.parse_args(argv)
    for word in argv:                     # a pipe is waited for, /dev/zero has no end
        word = word.partition("=")[2] if word.startswith("--") else word
        if os.path.exists(word) and not (os.path.isfile(word) or os.path.isdir(word)):
            raise InputError(f"{word}: expected a file or a folder, got a pipe or a device")
    if getattr(args, "config", None) is not None:
        words, more = _configured(parser, argv, args.config)
        argv = words + argv
    if getattr(parser, "presets", {}):
        parser.set_defaults(**parser.presets[parser.parse_args(argv).preset])
    args = parser.parse_args(argv)
    vars(args).update(more, threads=thread_count(getattr(args, "threads", None)))
    return args


def _configured(parser, argv, path):
    """The settings of a file as words of a command line, and those that are options of a model."""
    known, words, more = {action.dest: action for action in parser._actions}, [], {}
    if path.endswith(".h5"):
        from .hdf5 import read
        file = read(path, groups=())
        found = {**file.settings, "seed": file.seed, "shard": None,
                 **{name: file.origin.get(name) for name in ("data", "predictions")}}
        if any(word.startswith("--preset") for word in argv):
            raise InputError(f"--config {path}: decides all that --preset does; leave that out")
        if "new_maps" in file.origin:
            raise InputError(f"--config {path}: is of --apply; repeat that command, with its RUN")
        if found.get("method") == "given":           # predictions of others
            found = {k: v for k, v in found.items() if k not in OF_OTHERS}
    else:
        try:
            content = json.loads(pathlib.Path(path).read_text())
            found = dict(content.get("settings", content))
            found |= {k: v for k, v in content.get("origin", {}).items() if os.path.exists(str(v))}
            found["seed"] = content.get("seed", found.get("seed", 1))
            if "scored" in content:
                raise InputError(f"--config {path}: is a score; give the posterior.h5 beside it")
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "no JSON object"
            raise InputError(f"--config {path}: expected a .h5 result or a JSON file with settings,"
                             f" cannot read it ({reason})") from None
    for name, value in found.items():
        if name == "model_options":
            if not isinstance(value, dict):
                raise InputError(f"{path}: expected names and values in {name}, got {value!r:.80}")
            if not any(word.startswith(("--model", f"--{name[:4]}")) for word in argv):
                more[name] = value
        elif name == "start" and value and not any(word.startswith("--init") for word in argv):
            raise InputError(f"--config {path}: began with networks of another run; give --init")
        elif name in known and value is not None:
            flag, *other = known[name].option_strings
            words += ([flag] if value is True else other[:1] if value is False
                      else [f"{flag}={value}"])
        elif name not in known and name not in NO_OPTIONS:
            raise InputError(f"{path}: {name} is no option here{meant(name, known)}")
    return words, more


def folder(args: argparse.Namespace, name: str):
    """The hdf5.Folder of a run's results. name: str, of the run where --out gives none."""
    from .hdf5 import Folder             # a script sets up its process before h5py loads
    home, shares = RUNS / name, {getattr(args, "shard", None), getattr(args, "only", None)}
    job = {k: v for k, v in vars(args).items() if k not in OF_ONE_JOB}
    out, job = pathlib.Path(args.out or home), None if shares == {None} else job
    return Folder(out, home, args.seed, args.force, args.quiet, lock(out, job))


def run(main) -> None:
    """Call main() and end the process: one line on stderr and an exit code for what it raises."""
    with prepared() as out:
        code = _code_of(main)
        out.flush()
        if out.error and not isinstance(out.error, BrokenPipeError):         # `| head` is no error
            code = code or fail(f"standard output: {out.error.strerror}", EXIT_FAILED)
        sys.stderr.flush()
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if main.__module__ == "__main__" or (spec and spec.name.startswith("wl.")):
        for number in ENDING:          # all is done, and a process takes a second to end
            signal.signal(number, signal.SIG_IGN)
    raise SystemExit(code)


def _code_of(main):
    """The exit code of main(), with the line that says why it is not 0."""
    try:
        try:
            return main() or 0
        except Exception:
            stop()                                # a library may make another error of a signal
            raise
    except KeyboardInterrupt as error:
        return end_of(error)
    except SystemExit as error:                       # --help, or what the parser refuses
        return error.code
    except (InputError, RunError) as error:
        return fail(error, EXIT_USAGE if isinstance(error, InputError) else EXIT_FAILED)
    except (OSError, MemoryError) as error:
        name, number = (getattr(error, of, None) for of in ("filename", "errno"))
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return fail(f"{str(name)[:200]}: {text}" if name else text, EXIT_USAGE if number in (
            errno.ENAMETOOLONG, errno.ELOOP) else EXIT_FAILED)
    except Exception as error:
        if "can't start new thread" in str(error):
            return fail("no more threads can be started; give fewer --threads, or raise the limits "
                        "of processes and memory (ulimit -u, -v)", EXIT_FAILED)
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exception(error)
        if isinstance(error, ModuleNotFoundError) and not (error.name or "wl").startswith("wl"):
            return fail(f"{error}; give pip install -r requirements.txt", EXIT_FAILED)
        file, line, *_ = traceback.extract_tb(error.__traceback__)[-1]
        return fail(f"internal error, please report it: {type(error).__name__}: {error} "
                    f"({os.path.basename(file)}:{line}; {TRACEBACK}=1 shows all of it)", 1)


def processes(name: str = "WORLD_SIZE") -> int:
    """Processes that torchrun started for this run, 1 without it. Raises InputError."""
    started = {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"} <= os.environ.keys()
    count = os.environ.get(name, 1) if started else 1
    within("MASTER_PORT in the environment", os.environ["MASTER_PORT"] if started else 1, 1, 65535,
           integer=True)
    return within(f"{name} in the environment", count, 1, 65536, integer=True)


def rank() -> int:
    """Number of this process among them, 0 for the first or the only one."""
    if (count := processes()) < 2:
        return 0
    return within("RANK in the environment", os.environ["RANK"], 0, count - 1, integer=True)


def thread_count(asked: int | None, name: str = "--threads") -> int:
    """The number of threads asked for, None for all that are allotted. Raises InputError."""
    if asked is None:
        cpus = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                else os.cpu_count() or 1)
        return max(1, cpus // max(1, processes("LOCAL_WORLD_SIZE")))
    return within(name, asked, 1, 1024, integer=True)


def prepare_process(threads: int | None, allocator: bool = False) -> int:
    """Set thread limits before numba or torch load; restart a plain script once with ALLOCATOR.

    threads, allocator: of thread_count(), and bool, whether the script trains networks
    Returns the number of threads. Raises InputError.
    """
    threads = thread_count(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if numba := sys.modules.get("numba"):         # its limit cannot change any more: use less of it
        with contextlib.suppress(ValueError):     # of a threading layer that is not installed
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    # whether this process only runs its command line's script: no notebook, no import of it
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    plain = (sys.platform == "linux" and main is not None and "IPython" not in sys.modules
             and not (hasattr(sys, "ps1") or sys.flags.interactive)
             and os.path.realpath(main) == os.path.realpath(sys.argv[0]))
    if allocator and plain and not {*ALLOCATOR} <= {*os.environ}:
        os.environ.update({**ALLOCATOR, **os.environ})
        os.execv(sys.executable, [sys.executable] + sys.orig_argv[1:])   # with python's options
    return threads
