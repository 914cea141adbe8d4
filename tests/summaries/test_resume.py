"""A training that was killed goes on as if it had not been, from any step."""
import os
import signal
import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT, one_line
from trainings import Kill, finished, run, same

from wl.core.checks import InputError
from wl.summaries import training
from wl.summaries.network import load_torch, save_torch


@pytest.mark.parametrize("every, left", [(60.0, 8), (0.0, 10)])
@pytest.mark.parametrize("model, loss, precision, lanes", [
    ("compact", "mse", "bfloat16", 2), ("simple_cnn", "kl", "float32", 3),
    ("compact", "score", "float64", 3)])
def test_a_killed_run_goes_on_as_if_never_killed(
        tmp_path, monkeypatch, every, left, model, loss, precision, lanes):
    """Killed after the tenth step, the second of an epoch; what was saved is not repeated.

    Dropout, statistics of norms that differ between lanes, running sums and the best so far.
    """
    options = dict(model=model, loss=loss, precision=precision, lanes=lanes, epochs=4)
    whole, checkpoint = finished(**options), tmp_path / "out" / "checkpoint.pt"
    monkeypatch.setattr(training, "SAVE_SECONDS", every)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, progress=Kill(10), **options)
    assert load_torch(checkpoint)["step"] == left
    resumed = run(checkpoint=checkpoint, progress=(progress := Kill()), **options)
    assert progress.first == left and progress.first + progress.steps == 16
    assert same(whole, resumed) and len(resumed.seconds) == 4
    assert [p.name for p in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
    # once more: nothing is left to do
    again = run(checkpoint=checkpoint, progress=(progress := Kill()), **options)
    assert progress.steps == 0 and same(whole, again)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_every_step_can_be_the_last(tmp_path, monkeypatch, at):
    """Killed after each step in turn, until the training is through: the same bits as in one go."""
    options = dict(model="simple_cnn", loss="kl", epochs=2,
                   model_options={"widths": [3, 4, 5], "hidden": [6, 5], "head": "pool"})
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    checkpoint, kills = tmp_path / "checkpoint.pt", 0
    while True:
        try:
            network = run(checkpoint=checkpoint, progress=Kill(at), **options)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 1 and same(network, finished(**options))


def test_without_the_lanes_buffers_the_bits_differ(tmp_path, monkeypatch):
    """Negative control: the statistics of the lanes matter in mid-epoch."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    checkpoint, whole = tmp_path / "checkpoint.pt", finished()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, progress=Kill(6))
    saved = load_torch(checkpoint)
    saved["lanes"]["buffers"][1] = saved["lanes"]["buffers"][0]
    save_torch(checkpoint, saved)
    assert not same(whole, run(checkpoint=checkpoint))


def test_the_first_epoch_of_a_long_run_is_not_lost(tmp_path, monkeypatch):
    """Saved in mid-epoch once SAVE_SECONDS have passed, and not before."""
    now = iter(range(0, 10_000, 25))                     # each look at the clock is 25 s later
    clock = types.SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(training, "time", clock)
    saved, save = [], training.save_torch

    def spied(path, content):
        saved.append(content["step"])
        save(path, content)
    monkeypatch.setattr(training, "save_torch", spied)
    run(checkpoint=tmp_path / "checkpoint.pt", epochs=1, batch_size=2)
    assert saved[-1] == 18 and 3 <= len(saved) < 12 and saved[0] > 1


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    run(checkpoint=checkpoint, epochs=1, seed=8)
    assert same(finished(epochs=2), run(checkpoint=checkpoint, epochs=2))


@pytest.mark.parametrize("damage", ["cut", "without its state"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    checkpoint = tmp_path / "checkpoint.pt"
    run(epochs=1, checkpoint=checkpoint)
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    else:
        save_torch(checkpoint, {"settings": load_torch(checkpoint)["settings"]})
    with pytest.raises(InputError) as error:
        run(epochs=1, checkpoint=checkpoint)
    one_line(error, "checkpoint.pt", "remove it")


CHILD = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
import trainings
from wl.summaries import training
training.SAVE_SECONDS = 0.0
class Stop(trainings.Kill):
    def update(self, step=1):
        self.steps += step
        if self.steps == at:
            os.kill(os.getpid(), number)
for pair in sys.argv[3:]:
    number, at = map(int, pair.split(","))
    child = os.fork()
    if not child:
        trainings.run(checkpoint=sys.argv[2], progress=Stop(), epochs=3)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, training.load_torch(sys.argv[2])["step"])
"""


def test_a_run_killed_by_the_system_in_mid_epoch_gives_the_same_weights(tmp_path):
    """SIGKILL in the second epoch, SIGTERM in the third of the run that goes on."""
    checkpoint = tmp_path / "checkpoint.pt"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "summaries")])
    kill, end = int(signal.SIGKILL), int(signal.SIGTERM)
    child = subprocess.run([sys.executable, "-c", CHILD, path, checkpoint, f"{kill},6", f"{end},4"],
                           timeout=900, capture_output=True, text=True)
    assert child.stdout == f"{-kill} 6\n{-end} 10\n", child.stderr
    threads = torch.get_num_threads()
    assert same(finished(), run(checkpoint=checkpoint, epochs=3))
    assert torch.get_num_threads() == threads
