"""What the scripts share: options, exit codes, progress, threads and allocator."""
import argparse
import contextlib
import json
import math
import os
import pathlib
import re
import sys
import traceback

# Linear algebra on several threads rounds differently: with one, --threads changes no result. Read
# when numpy loads.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .. import __version__  # noqa: E402
from .checks import InputError, RunError, meant, number, within  # noqa: E402
from .progress import EXIT_STOPPED, end_of, fail, prepared  # noqa: E402

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
MAX_WHOLE = 10**12             # of any whole number but a seed
# settings of results that no option sets
NO_OPTIONS = ("n_gal", "n_bin", "ell_min", "ell_max", "part", "fold", "member", "orders", "shard",
              "method", "scales", "rows", "data")
RUNS = pathlib.Path("data", "runs")        # where results go without --out
OF_ONE_JOB = ("shard", "only", "threads", "quiet", "force", "out")       # may differ in an array
# glibc returns large tensors to the kernel each step and faults them in again: keeping them took a
# float32 training step of the published network from 23 to 13.6 ms a map. Read at a process's start
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
             "MALLOC_TOP_PAD_": str(1 << 28)}
TRACEBACK = "WL_TRACEBACK"      # environment variable: 1 shows an internal error in full
EPILOG = f"""exit codes: 0 done; 1 failed, or not converged; 2 wrong usage or input; {EXIT_STOPPED}
stopped by SIGTERM, SIGUSR1 or SIGHUP, 130 by Ctrl-C: the same command goes on. An internal error is
one line; with {TRACEBACK}=1 in the environment it is shown in full. Threads, jobs and interruptions
change no bit of a result; a CPU with other instructions may: files name it."""


class Parser(argparse.ArgumentParser):
    """argparse with defaults and exit codes in --help, and mistakes in one line (exit 2).

    Whole numbers may be written 1e4; no option takes an empty text, NaN or inf.
    """

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_Help, epilog=EPILOG, allow_abbrev=False, **kwargs)
        self.presets = {}
        for kind, read in ((int, _whole), (float, _finite), (str, _text), (None, _text)):
            self.register("type", kind, read)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.I)

    def add_presets(self, presets: dict) -> None:
        """Add --preset: {name: {option: default}}, the first of which is taken without it."""
        self.presets, listed = presets, "; ".join(
            f"{name}: {_as_options(of) or 'the defaults of all options'}"
            for name, of in presets.items())
        self.add_argument("--preset", default=next(iter(presets)), choices=tuple(presets),
                          help="defaults for many options at once; an option that is given wins. "
                               + listed)

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
        try:
            value = int(text)
        except ValueError:
            value = int(float(text)) if float(text) == int(float(text)) else high + 1
        if low <= value <= high:
            return value
    raise argparse.ArgumentTypeError(f"expected a whole number {'' if low < 0 else f'from {low} '}"
                                     f"to {high}, got {text[:80]!r}")


class _Version(argparse.Action):
    """Says versions and digest of the code; the digest reads all sources, so it is made late."""

    def __call__(self, parser, *_):
        from .files import code_version
        print(f"wl {__version__}, code {code_version()}")
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults shown, description kept as written."""

    def _get_help_string(self, action):
        plain = action.default in (None, False, True, argparse.SUPPRESS)
        return action.help if plain else super()._get_help_string(action)


def add_common(parser: Parser, *, threads: bool = True) -> Parser:
    """Add the options that mean the same in every script. threads: bool, --threads too."""
    add = parser.add_argument
    add("--seed", type=lambda text: _whole(text, 0, (1 << 63) - 1), default=1, metavar="N",
        help="seed of everything random")
    if threads:
        add("--threads", type=int, default=None, metavar="N",
            help="CPU threads (default: all that this process may use)")
    add("--quiet", action="store_true", help="no progress and no notes; warnings are shown")
    add("--config", metavar="FILE",
        help="a result (.h5) or JSON with the settings of a run: it is repeated; options beside "
             "this one win")
    add("--version", action=_Version, nargs=0, help="show versions and digest of the code")
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
    if getattr(args, "config", None) is not None:
        words, more = _configured(parser, argv, args.config)
        argv = words + argv
    if getattr(parser, "presets", {}):
        parser.set_defaults(**parser.presets[args.preset])
    args = parser.parse_args(argv)
    vars(args).update(more, threads=thread_count(getattr(args, "threads", None)))
    return args


def _as_options(values):
    """Values by name as they would stand on a command line."""
    flat = [(name.replace("_", "-"), one) for name, value in values.items()
            for one in (value if isinstance(value, list) else [value])]
    return " ".join(f"--no-{flag}" if one is False else f"--{flag} {one}" for flag, one in flat)


def _configured(parser, argv, path):
    """The settings of a file as words of a command line, and those that are options of a model."""
    known, words, more = {action.dest: action for action in parser._actions}, [], {}
    for name, value in _settings_of(path).items():
        if isinstance(value, dict):                  # options of a model: taken as they are
            if not any(word.startswith(("--model", f"--{name[:4]}")) for word in argv):
                more[name] = value
        elif name in known and value is not None:
            flag, *other = known[name].option_strings
            words += ([flag] if value is True else other[:1] if value is False
                      else [f"{flag}={value}"])
        elif name not in known and name not in NO_OPTIONS:
            raise InputError(f"{path}: {name} is no option here{meant(name, known)}")
    return words, more


def _settings_of(path):
    """Settings and seed of a result, or of a JSON file that holds them."""
    if str(path).endswith(".h5"):
        from . import hdf5
        file = hdf5.read(path, groups=())
        return {**file.settings, "seed": file.seed, "data": file.origin.get("data")}
    try:
        content = json.loads(pathlib.Path(path).read_text())
        settings = dict(content.get("settings", content))
        more = {k: v for k, v in content.get("origin", {}).items() if os.path.exists(str(v))}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "no JSON object"
        raise InputError(f"--config {path}: expected a .h5 result or a JSON file with settings, "
                         f"cannot read it ({reason})") from None
    return {**settings, **more, "seed": content.get(
        "posterior_seed", content.get("seed", settings.get("seed", 1)))}


def folder(args: argparse.Namespace, name: str):
    """The hdf5.Folder of a run's results.

    args: the command line's values, with out, seed, force, quiet
    name: str, of the run where --out gives none
    """
    from .files import lock
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
    raise SystemExit(code)


def _code_of(main):
    """The exit code of main(), with the line that says why it is not 0."""
    try:
        return main() or EXIT_OK
    except InputError as error:
        return fail(error, EXIT_USAGE)
    except RunError as error:
        return fail(error, EXIT_FAILED)
    except (OSError, MemoryError) as error:
        name = getattr(error, "filename", None)
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return fail(f"{name}: {text}" if name else text, EXIT_FAILED)
    except KeyboardInterrupt as error:
        return end_of(error)
    except SystemExit as error:                       # --help, or what the parser refuses
        return error.code
    except Exception as error:                        # a mistake of ours
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
        return fail(f"internal error, please report it: {type(error).__name__}: {error} ({place}; "
                    f"{TRACEBACK}=1 shows all of it)", EXIT_FAILED)


def available_cpus() -> int:
    """CPUs that this process may use by affinity and Slurm's allotment."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes() -> int:
    """Processes that torchrun started for this run, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "MASTER_ADDR" in os.environ else 1


def rank() -> int:
    """Number of this process among them, 0 for the first or the only one."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def thread_count(asked: int | None) -> int:
    """The number of threads asked for, None for all there are. Raises InputError."""
    if asked is None:
        return max(1, available_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return within("--threads", asked, 1, 1024, integer=True)


def prepare_process(threads: int, allocator: bool = False) -> None:
    """Set thread limits before numba or torch load; restart a plain script once with ALLOCATOR.

    threads: int, of numba and of linear algebra
    allocator: bool, whether the script trains networks
    """
    if "numba" in sys.modules:                    # its limit cannot change any more: use less of it
        import numba
        with contextlib.suppress(ValueError):     # of a threading layer that is not installed
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if allocator and not {*ALLOCATOR} <= {*os.environ} and _is_plain_script():
        os.environ.update({**ALLOCATOR, **os.environ})
        os.execv(sys.executable, [sys.executable] + sys.orig_argv[1:])   # with python's options


def _is_plain_script():
    """Whether this process only runs its command line's script: no notebook, no import of it."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return (sys.platform == "linux" and main is not None and "IPython" not in sys.modules
            and not (hasattr(sys, "ps1") or sys.flags.interactive)
            and os.path.realpath(main) == os.path.realpath(sys.argv[0]))
