"""python -m wl.validate limit | realism | calibration: each checks the chain against something outside of it."""
import importlib
import sys

from ..core import cli
from ..core.checks import InputError

COMMANDS = {"limit": "the information limit of a simulated set, which no method can beat but by luck",
            "realism": "a real noisy map beside simulated ones at its best fit",
            "calibration": "ranks and coverage of a run's posteriors on summaries drawn from its own emulator"}


def main():
    """Hand the rest of the command line to the command that its first word names."""
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else None), sys.argv[2:]
    if name in ("-h", "--help"):
        print("usage: python -m wl.validate COMMAND [options]; COMMAND --help explains its options\n\n"
              + "\n".join(f"  {command:12} {text}" for command, text in COMMANDS.items()))
        return None
    if name not in COMMANDS:
        raise InputError(f"expected one of {', '.join(COMMANDS)}, got {name or 'nothing'}; see python -m wl.validate "
                         "--help")
    return importlib.import_module(f".{name}", __package__).main(rest)


cli.run(main)
