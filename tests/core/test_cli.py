"""Options, exit codes, progress, and how a process is prepared."""
import contextlib
import importlib
import io
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, one_line

from wl import __version__
from wl.core import cli, files, hdf5
from wl.core.checks import InputError, RunError
from wl.core.progress import Progress, _duration, say, warn


def parser():
    made = cli.Parser(prog="run_x.py", description="What it does.\n\n  a -> b")
    made.add_argument("--nstep", type=int, default=10, help="steps of each chain")
    return cli.add_common(made)


# ---------------------------------------------------------------- options
def test_common_options_and_their_defaults():
    args = parser().parse_args([])
    assert (args.seed, args.threads, args.quiet, args.nstep) == (1, None, False, 10)
    args = parser().parse_args(["--seed", "7", "--threads", "3", "--quiet"])
    assert (args.seed, args.threads, args.quiet) == (7, 3, True)
    assert not hasattr(cli.add_common(cli.Parser(), threads=False).parse_args([]), "threads")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "  a -> b" in text             # the description keeps its lines
    assert re.search(r"steps of each chain\s+\(default:\s+10\)", text)
    assert not re.search(r"default: (None|False)", text)
    with pytest.raises(SystemExit):
        parser().parse_args(["--version"])
    assert capsys.readouterr().out == f"wl {__version__}, code {files.code_version()}\n"


@pytest.mark.parametrize("arguments", [
    ["--nstep", "many"], ["--nope"], ["--nst", "5"], ["--threads", "2.5"], ["stray"],
    ["--seed", "-1"], ["--seed", "x"], ["--seed", str(2**63)]])
def test_wrong_usage_is_one_line_and_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse_args(arguments)
    out, error = capsys.readouterr()
    assert end.value.code == 2 and out == "" and error.endswith("see run_x.py --help\n")
    one_line(error.strip(), "run_x.py: error: ")


@pytest.mark.parametrize("arguments, words", [
    (["--nstpe", "5"], "did you mean --nstep?"), (["--thread=3"], "did you mean --threads?"),
    (["--sampler", "exat"], "did you mean exact?"), (["--nstep", ""], "got ''"),
    (["--name", ""], "got nothing"), (["--sigma", "nan"], "finite"),
    (["--sigma", "1e999"], "finite"),
    (["--nstep", "1e3.5"], "whole number"), (["--nstep", "1e-3"], "whole number"),
    (["--nstep", str(10**30)], "whole number"), (["--nstep", "9" * 5000], "whole number")])
def test_mistakes_are_named_and_what_was_meant(arguments, words, capsys):
    made = parser()
    made.add_argument("--sampler", choices=("metropolis", "exact"))
    made.add_argument("--name")
    made.add_argument("--sigma", type=float)
    with pytest.raises(SystemExit):
        made.parse_args(arguments)
    one_line(capsys.readouterr().err.strip(), words)


@pytest.mark.parametrize("text, value", [("1e4", 10000), ("2.5e3", 2500), ("-1e1", -10), ("7", 7)])
def test_whole_numbers(text, value):
    found = parser().parse_args(["--nstep", text]).nstep
    assert found == value and isinstance(found, int)


def test_settings_of_a_file_repeat_a_run_and_options_beside_it_win(tmp_path):
    made = parser()
    made.add_argument("--sigma", type=float, default=0.06)
    made.add_argument("--adapt", action="store_true")
    settings = {"nstep": 500, "sigma": 1e-5, "adapt": True, "n_gal": 30.0,
                "model_options": {"a": 1}}
    hdf5.write(tmp_path / "x.h5", "statistics", {}, settings=settings, seed=7)
    (tmp_path / "x.json").write_text(files.to_json({"settings": settings, "seed": 7}))
    for name in ("x.h5", "x.json"):
        args = cli.parse(made, ["--config", str(tmp_path / name)])
        assert (args.nstep, args.sigma, args.adapt, args.seed) == (500, 1e-5, True, 7)
        assert args.model_options == {"a": 1}
        args = cli.parse(made, ["--nstep", "9", "--config", str(tmp_path / name), "--seed", "1"])
        assert (args.nstep, args.sigma, args.seed) == (9, 1e-5, 1)
    for content, words in (('{"settings": {"nsetp": 3}}', "did you mean nstep?"), ("[1]", "JSON"),
                           ("{", "JSON"), ('{"settings": {"n": 3}}', "n is no option here")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError) as error:
            cli.parse(made, ["--config", str(tmp_path / "x.json")])
        one_line(error, "x.json", words)


def test_largest_seed():
    assert parser().parse_args(["--seed", str(2**63 - 1)]).seed == 2**63 - 1
    assert parser().parse_args(["--seed", "0"]).seed == 0


# ---------------------------------------------------------------- exit codes
@pytest.mark.parametrize("error, code, words", [
    (InputError("--sigma: expected 1,\n  got 2"), 2, "--sigma: expected 1, got 2"),
    (RunError("not converged"), 1, "not converged"),
    (OSError(28, "No space left on device", "a.h5"), 1, "a.h5: No space left on device"),
    (PermissionError(13, "Permission denied"), 1, "Permission denied"),
    (MemoryError(), 1, "MemoryError"), (MemoryError("Unable to allocate 9 GiB"), 1, "9 GiB"),
    (KeyboardInterrupt(), 130, "run the same command again"),
])
def test_errors_become_one_line_and_a_code(error, code, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_x.py", "--x"])

    def main():
        raise error
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    out, text = capsys.readouterr()
    assert end.value.code == code and out == ""
    assert one_line(text.strip(), words).startswith("run_x.py: error: ")


@pytest.mark.parametrize("value, code", [(None, 0), (0, 0), (1, 1), (75, 75)])
def test_what_main_returns_is_the_code(value, code):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: value)
    assert end.value.code == code
    assert (cli.EXIT_FAILED, cli.EXIT_USAGE) == (1, 2)


@pytest.mark.parametrize("asked, lines", [(None, 1), ("0", 1), ("1", 5)])
def test_our_own_mistakes_are_one_line_unless_asked(asked, lines, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_x.py"])
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    if asked:
        monkeypatch.setenv(cli.TRACEBACK, asked)

    def main():
        raise ValueError("a bug\nof ours")
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    out, text = capsys.readouterr()
    assert end.value.code == 1 and out == "" and (text.count("\n") == 1) == (lines == 1)
    one_line(text.strip().splitlines()[-1], "run_x.py: error: internal error",
             "ValueError: a bug of ours", "test_cli.py:", cli.TRACEBACK)
    assert ("Traceback" in text) == (lines > 1)


def test_an_exit_passes_and_help_names_the_codes():
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: sys.exit(3))
    assert end.value.code == 3
    assert "130" in parser().format_help() and cli.TRACEBACK in parser().format_help()


def test_the_program_is_named_as_it_was_called(python):
    for option, value in (("--field", "x"), ("--mask", "/nowhere/mask.npy")):
        run = python(f"import runpy, sys; sys.argv = ['x', '--out', '/nowhere/x', '{option}', "
                     f"'{value}']; "
                     "runpy.run_module('wl.simulate', run_name='__main__', alter_sys=True)")
        assert run.returncode == 2, run.stderr
        assert run.stderr.startswith("python -m wl.simulate: error: "), run.stderr


# ---------------------------------------------------------------- threads and process
def test_thread_count():
    assert cli.thread_count(None) == len(os.sched_getaffinity(0)) >= 1
    assert cli.thread_count(3) == 3
    for bad in (0, -2, 5000):
        with pytest.raises(InputError) as error:
            cli.thread_count(bad)
        one_line(error, "--threads", "expected", bad)


def test_process_is_prepared_before_anything_loads(tmp_path):
    """Thread limits reach numba; one re-execution sets the allocator and keeps the arguments."""
    code = ("import os, sys\n"
            "from wl.core import cli\n"
            "assert not {'numba', 'torch', 'h5py'} & set(sys.modules)\n"
            "print(sys.argv[1:], sys.dont_write_bytecode, flush=True)\n"
            "cli.prepare_process(3, allocator=True)\n"
            "import numba\n"
            "names = 'OMP_NUM_THREADS', 'MALLOC_MMAP_MAX_', 'OPENBLAS_NUM_THREADS'\n"
            "print(numba.config.NUMBA_NUM_THREADS, *(os.environ[n] for n in names))\n")
    path = tmp_path / "main.py"
    path.write_text(code)
    ours = ("MALLOC_", "OMP_", "NUMBA_", "OPENBLAS_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    run = subprocess.run([sys.executable, "-B", path, "a b", "--c"], capture_output=True, text=True,
                         timeout=60, env={**env, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    head = "['a b', '--c'] True"
    assert run.stdout.splitlines() == [head, head, "3 3 0 1"]


def test_allocator_is_left_alone_when_set_or_not_asked_for(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("ran again"))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("NUMBA_NUM_THREADS", os.environ.get("NUMBA_NUM_THREADS", "1"))
    cli.prepare_process(1)
    for key in cli.ALLOCATOR:
        monkeypatch.setenv(key, "1")
    cli.prepare_process(1, allocator=True)
    assert os.environ["OMP_NUM_THREADS"] == "5"                  # what the user has set stands


# ---------------------------------------------------------------- progress
class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture()
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("wl.core.progress.time.monotonic", lambda: now[0])
    return now


def progress_on(stream, *given, every=None, **options):
    """A Progress that writes into a stream, a line each `every` seconds if that is given."""
    with contextlib.redirect_stderr(stream):
        progress = Progress(*given, **options)
    progress.every = progress.every if every is None else every
    return progress


def test_progress_in_a_log_is_dated_and_rare(clock):
    stream = io.StringIO()
    progress = progress_on(stream, 100, "training")
    for _ in range(50):
        clock[0] += 1.0
        progress.note = "loss 0.5"
        progress.update()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2                                       # each 20 s
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d training:  40 % 40/100, 40 s gone, "
                        r"1 min 00 s to go, loss 0.5", lines[1])
    clock[0] += 3600
    progress.note = "accuracy 1"
    progress.close()
    assert stream.getvalue().splitlines()[-1].endswith("training: done in 1 h 00 min, accuracy 1")


def test_progress_on_a_terminal_is_a_bar(clock):
    stream = Terminal()
    progress = progress_on(stream, 4, "sampling")
    for _ in range(4):
        clock[0] += 1.0
        progress.update()
    progress.close()
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("sampling: done in 4 s\n")
    assert "[############............]" in text
    assert all(part.startswith("\x1b[K") for part in text.split("\r")[1:])


def test_progress_of_a_resumed_run_counts_only_its_own_time(clock):
    stream = io.StringIO()
    progress = progress_on(stream, 100, "training", every=0.0)
    clock[0] += 5.0                                              # of loading
    progress.begin_at(80, "epoch 9/10")
    assert stream.getvalue().endswith("training: goes on from 80 %, epoch 9/10\n")
    clock[0] += 10.0
    progress.update(10)
    assert "90 % 90/100, 10 s gone, 10 s to go" in stream.getvalue()


def test_quiet_progress_and_odd_totals(clock):
    stream = io.StringIO()
    progress = progress_on(stream, 10, "x", quiet=True)
    clock[0] += 100
    progress.update()
    progress.close()
    assert stream.getvalue() == ""
    for total in (0, 5):
        progress = progress_on(stream, total, "x", every=0.0)
        clock[0] += 1
        progress.update(0)
        progress.update(7)                                       # more than was announced
        progress.close()
    assert set(re.findall(r"\d+ %", stream.getvalue())) == {"0 %", "100 %"}
    assert "-" not in re.sub(r"\d{4}-\d\d-\d\d", "", stream.getvalue())     # no negative time to go


@pytest.mark.parametrize("seconds, text", [
    (0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"),
    (90061, "25 h 01 min")])
def test_duration(seconds, text):
    assert _duration(seconds) == text


def test_warnings_are_always_shown(capsys):
    warn("sigma\nis large")
    out, error = capsys.readouterr()
    assert out == "" and error.endswith(": warning: sigma is large\n") and error.count("\n") == 1


def test_say(capsys):
    say("done before")
    say("hidden", quiet=True)
    out, error = capsys.readouterr()
    assert out == "" and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d done before\n", error)


# ---------------------------------------------------------------- presets
def test_a_preset_sets_defaults_only(capsys):
    made = parser()
    made.add_argument("--slow", action="store_true", default=True)
    made.add_argument("--option", action="append")
    made.add_presets({"plain": {}, "much": {"nstep": 99, "slow": False, "option": ["a=1", "b=2"]}})
    assert cli.parse(made, []).nstep == 10 and cli.parse(made, []).slow
    much = cli.parse(made, ["--preset", "much"])
    assert (much.nstep, much.slow, much.option) == (99, False, ["a=1", "b=2"])
    beside = cli.parse(made, ["--nstep", "5", "--preset", "much", "--option", "a=3"])
    assert beside.nstep == 5 and beside.option == ["a=1", "b=2", "a=3"]
    text = " ".join(made.format_help().split())
    assert "much: --nstep 99 --no-slow --option a=1 --option b=2" in text
    assert "plain: the defaults" in text
    with pytest.raises(SystemExit):
        cli.parse(made, ["--preset", "nope"])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_preset_of_a_config_counts(tmp_path):
    """Of a JSON that names one, beneath its other settings; a result decides all, and has none."""
    made = parser()
    made.add_presets({"plain": {}, "much": {"nstep": 99}})
    (tmp_path / "x.json").write_text('{"preset": "much"}')
    assert cli.parse(made, ["--config", str(tmp_path / "x.json")]).nstep == 99
    (tmp_path / "x.json").write_text('{"preset": "much", "nstep": 7}')
    assert cli.parse(made, ["--config", str(tmp_path / "x.json")]).nstep == 7
    result = str(tmp_path / "x.h5")
    hdf5.write(result, "posterior", {}, settings={"nstep": 3})
    assert cli.parse(made, ["--config", result]).nstep == 3
    with pytest.raises(InputError, match="--preset"):
        cli.parse(made, ["--config", result, "--preset", "much"])


def test_leftovers_of_torchrun(monkeypatch):
    """A part of its variables is none of it; a rank beyond the world would wait for ever."""
    for name, value in dict(WORLD_SIZE="2", MASTER_ADDR="localhost", RANK="1").items():
        monkeypatch.setenv(name, value)
    assert cli.processes() == 1 and cli.rank() == 0                # without MASTER_PORT
    monkeypatch.setenv("MASTER_PORT", "1")
    assert cli.processes() == 2 and cli.rank() == 1
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(InputError) as error:
        cli.rank()
    one_line(error, "RANK", "1", "5")
    monkeypatch.setenv("MASTER_PORT", "abc")
    with pytest.raises(InputError) as error:
        cli.processes()
    one_line(error, "MASTER_PORT", "abc")


@pytest.mark.parametrize("script", ["run_mcmc.py", "run_direct.py", "run_score.py",
                                    "-m wl.simulate"])
def test_a_python_without_the_packages_is_one_line(script):
    run = subprocess.run([sys.executable, "-S", *script.split()], capture_output=True, text=True,
                         cwd=ROOT)
    assert run.returncode == 1 and run.stderr.count("\n") == 1, run.stderr
    assert "numpy" in run.stderr and ".venv" in run.stderr


def test_a_package_that_is_missing_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: importlib.import_module("nonesuch"))
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith("'nonesuch'; give pip install -r requirements.txt\n")
    with pytest.raises(SystemExit):                       # a damaged copy of wl: pip does not help
        cli.run(lambda: importlib.import_module("wl.nonesuch"))
    assert "internal error" in capsys.readouterr().err
