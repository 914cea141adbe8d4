"""What the scripts share: options, exit codes, progress, threads and allocator."""
import argparse
import os
import pathlib
import signal
import sys
import time
import traceback

# Linear algebra on several threads rounds differently: one thread makes results independent of --threads.
# Read when numpy loads, so it stands before the imports that load it.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .. import __version__  # noqa: E402
from .checks import InputError, RunError  # noqa: E402
from .progress import fail  # noqa: E402

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNFINISHED = 0, 1, 2, 75

# glibc returns large tensors to the kernel each step and faults them in again: keeping them took a
# float32 training step of the published network from 23 to 13.6 ms a map. Read when a process starts.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
             "MALLOC_TOP_PAD_": str(1 << 28)}


TRACEBACK = "WL_TRACEBACK"      # environment variable: 1 shows where a mistake of the suite's own happened
EPILOG = f"""exit codes: 0 done; 1 failed, or not converged; 2 wrong usage or input; 130 interrupted (Ctrl-C): the same
command goes on. An internal error is one line; with {TRACEBACK}=1 in the environment it is shown in full."""


class Parser(argparse.ArgumentParser):
    """argparse with defaults in --help, exit codes below it, and every mistake in one line on stderr (exit 2)."""

    def __init__(self, **kwargs):
        kwargs = {"formatter_class": HelpFormatter, "epilog": EPILOG, **kwargs}
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}; see {self.prog} --help\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults shown, description kept as written."""

    def _get_help_string(self, action):
        if action.default in (None, False, True) or action.default is argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


def add_common(parser, *, threads=True):
    """The options that mean the same in every script."""
    parser.add_argument("--seed", type=_seed, default=1, help="seed of everything random")
    if threads:
        parser.add_argument("--threads", type=int, default=None, metavar="N",
                            help="CPU threads (default: all that this process may use)")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes; warnings are shown")
    parser.add_argument("--version", action="version", version=f"wl {__version__}")
    return parser


def _seed(text):
    """A seed that NumPy, torch and the kernels all take."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63 - 1, got {text!r}")
    return value


def run(main):
    """Call main() and turn what it raises into one line on stderr and the exit code of the house."""
    try:
        code = main() or EXIT_OK
        sys.stdout.flush()
    except InputError as error:
        code = fail(error, EXIT_USAGE)
    except RunError as error:
        code = fail(error, EXIT_FAILED)
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):        # `| head` closed the pipe: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = EXIT_OK
        else:
            name = getattr(error, "filename", None)
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            code = fail(f"{name}: {text}" if name else text, EXIT_FAILED)
    except KeyboardInterrupt:
        code = fail("interrupted; run the same command again to go on", 128 + signal.SIGINT)
    except Exception as error:                        # a mistake of ours
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
        code = fail(f"internal error, please report it: {type(error).__name__}: {error} ({place}; {TRACEBACK}=1 shows "
                    "all of it)", EXIT_FAILED)
    raise SystemExit(code)


def available_cpus():
    """CPUs that this process may use (affinity and Slurm's allotment, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(asked):
    """The thread count asked for, checked, or all available."""
    if asked is None:
        return available_cpus()
    if asked < 1 or asked > 1024:
        raise InputError(f"--threads: expected a whole number from 1 to 1024, got {asked}")
    return asked


def prepare_process(threads, allocator=False):
    """Set thread limits before numba or torch load; with allocator=True re-execute once with ALLOCATOR."""
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if allocator and sys.platform == "linux" and any(k not in os.environ for k in ALLOCATOR):
        for key, value in ALLOCATOR.items():
            os.environ.setdefault(key, value)
        os.execv(sys.executable, [sys.executable] + sys.orig_argv[1:])     # with the options of python itself
