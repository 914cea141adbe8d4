"""python -m wl.validate limit | realism | calibration: checks against something outside."""
import importlib
import sys

from ..core import cli
from ..core.checks import choice

COMMANDS = {"limit": ("inference", "the best score that any method can expect of a Gaussian sky"),
            "realism": ("realism", "real noisy maps beside simulated ones at their best fits"),
            "calibration": ("inference", "ranks and coverage of a finished run's posteriors")}


def main() -> None:
    """Hand the rest of the command line to the command that its first word names."""
    name, rest = (sys.argv[1:2] or ["nothing"])[0], sys.argv[2:]
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {command:12} {text}" for command, (_, text) in COMMANDS.items())
        print("usage: python -m wl.validate COMMAND [options]; COMMAND --help explains its options"
              f"\n\n{lines}")
    else:
        choice("command", name, (*COMMANDS, "--help"))
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        getattr(module, f"{name}_main")(rest)


if __name__ == "__main__":
    cli.run(main)
