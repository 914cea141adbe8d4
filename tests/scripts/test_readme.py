"""What the README says: every command parses, every file and option it names is there."""
import inspect
import re
import shlex
import subprocess

import pytest

import run_direct
import run_mcmc
import run_score
from conftest import ROOT
from wl.validate import inference, realism
from wl.summaries import options as models
from wl.simulate import simulate

TEXT = (ROOT / "README.md").read_text()
TABLES = (ROOT / "benchmarks" / "README.md").read_text()
CHOICES = TABLES.split("## What can be chosen for a network")[1]
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT + TABLES, re.S)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [c.replace(".venv/bin/", "") for c in COMMANDS
            if re.match(r"(\.venv/bin/)?python (run_|-m wl)", c)]
PARSERS = {"run_mcmc.py": run_mcmc.parser, "run_direct.py": run_direct.parser,
           "run_score.py": run_score.parser, "-m wl.simulate": simulate.parser,
           "-m wl.validate limit": inference.limit_parser,
           "-m wl.validate realism": realism.realism_parser,
           "-m wl.validate calibration": inference.calibration_parser}


def test_commands_were_found():
    assert len(COMMANDS) >= 12
    assert {c.split()[1] for c in COMMANDS} == {"run_mcmc.py", "run_direct.py", "run_score.py",
                                                "-m"}


def test_the_readme_stays_short():
    assert len(TEXT.splitlines()) <= 130 and len(TEXT.split()) <= 1300
    assert "@@" not in TEXT                                    # nothing is left to be filled in


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    name = next(n for n in PARSERS if command.startswith(f"python {n}"))
    PARSERS[name]().parse_args(shlex.split(command)[len(name.split()) + 1:])


@pytest.mark.parametrize("module", [run_mcmc, run_direct, run_score])
def test_examples_of_help_parse(module):
    found = re.findall(r"^  python (run_\w+\.py)(.*?)(?:   .*)?$", module.DESCRIPTION, re.M)
    assert found
    for name, rest in found:
        PARSERS[name]().parse_args(shlex.split(rest))


def test_options_named_in_prose_exist():
    known = " ".join(p().format_help() for p in PARSERS.values())
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)):
        assert option in known, option


def test_relative_links_and_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(links) >= 4
    for target in links:
        assert (ROOT / target).exists(), target
    named = set(re.findall(r"\b(benchmarks|jobs)/([\w.]+\.\w+)", TEXT + TABLES))
    assert {folder for folder, _ in named} == {"benchmarks", "jobs"}
    for folder, file in named:
        assert (ROOT / folder / file).exists(), (folder, file)


def test_main_and_test_commands_are_the_ones_ci_runs():
    for marker in ("main", "test"):
        start = rf"<!-- {marker} command -->\n```sh\npython3 -m venv \.venv\n"
        assert re.search(start, TEXT), marker
    run = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in run
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_models_of_the_help_are_those_of_the_code():
    from wl.summaries.architectures import NETWORKS
    assert (*NETWORKS, "statistics") == tuple(models.MODELS)
    for name, made in NETWORKS.items():
        parameters = inspect.signature(made).parameters.values()
        asked = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert sorted(asked) == sorted(models.MODELS[name]), name


def test_models_and_losses_of_the_tables_are_those_of_the_code():
    """Each has its row with the code's defaults; a row that says "as above" names what differs."""
    for name, options in (models.MODELS | dict.fromkeys(models.LOSSES, {})).items():
        row = next(line for line in CHOICES.splitlines() if line.startswith(f"| `{name}` |"))
        given = dict(re.findall(r"`(\w+)=([^`]+)`", row))
        known = {k: ",".join(map(str, v)) if isinstance(v, tuple)
                 else f"{v:g}" if isinstance(v, float) else str(v) for k, v in options.items()}
        assert all(known[k] == v for k, v in given.items()), (name, given)
        assert "as above" in row or set(given) == set(known), (name, set(known) - set(given))


def test_help_needs_no_torch(python):
    run = python("import sys, run_mcmc, run_direct\n"
                 "run_mcmc.parser().format_help()\nrun_direct.parser().format_help()\n"
                 "assert not {'torch', 'numba'} & set(sys.modules)")
    assert run.returncode == 0, run.stderr


def test_commands_of_an_installed_package():
    """Each names a function that is there; the torch of a shared environment is not pinned."""
    import configparser
    import importlib
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    commands = found["options.entry_points"]["console_scripts"].split("\n")[1:]
    names = [command.split(" = ")[0] for command in commands]
    assert names == ["wl-mcmc", "wl-direct", "wl-score", "wl-simulate"]
    for command in commands:
        module, _, name = command.split(" = ")[1].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert not re.search("torch *==", found["options"]["install_requires"])
    assert re.search("torch==", (ROOT / "requirements.txt").read_text())
    assert {"test", "figures"} <= set(found["options.extras_require"])
    for key in ("classifiers", "author", "long_description"):
        assert found["metadata"][key], key
