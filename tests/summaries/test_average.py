"""The moving average of the weights, and runs that are really killed."""
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_training import LABEL, ROWS, VALIDATION, Kill, run, same_weights, settings, source

from wl.summaries import training


def spy_on_steps(monkeypatch):
    """The weights and lane 0's statistics after each step, by name."""
    seen, update = [], training.AveragedModel.update_parameters

    def spied(self, net):
        seen.append({k: v.detach().double().numpy().copy() for k, v in net.state_dict().items()})
        return update(self, net)
    monkeypatch.setattr(training.AveragedModel, "update_parameters", spied)
    return seen


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_is_the_recursion(monkeypatch, decay):
    seen = spy_on_steps(monkeypatch)
    network, _ = run(epochs=1, ema=decay, batch_size=4)
    assert len(seen) == len(ROWS) // 4 == 9
    oracle = dict(seen[0])
    for n, now in enumerate(seen[1:], 1):
        keep = min(decay, (1 + n) / (10 + n))
        oracle = {k: keep * oracle[k] + (1 - keep) * now[k] for k in now}
    for name, value in network.net.state_dict().items():
        if value.is_floating_point():
            assert np.allclose(value.double().numpy(), oracle[name], rtol=1e-5, atol=1e-6), name
            assert not np.allclose(value.double().numpy(), seen[-1][name], rtol=1e-5, atol=1e-6), name
        else:
            assert value == seen[-1][name]


def test_average_is_validated_and_training_goes_on_without_it():
    """Other weights are kept, but the path of training is the same: its loss does not feel the average."""
    plain, before = run(epochs=3)
    averaged, after = run(epochs=3, ema=0.9)
    assert [h["loss"] for h in before] == [h["loss"] for h in after]
    assert [h["validation"] for h in before] != [h["validation"] for h in after] and not same_weights(plain, averaged)
    # what was validated is what is kept
    k = int(np.argmin([h["validation"] for h in after]))
    mean, _ = averaged.predict(source(), VALIDATION, symmetries=1)
    error = (mean - LABEL[VALIDATION]) / LABEL.std(0)
    assert np.mean(error**2) == pytest.approx(after[k]["validation"], rel=1e-5)
    none, again = run(epochs=3, ema=0.0)
    assert same_weights(plain, none) and again == before


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_average_does_not_depend_on_threads_or_on_a_kill(tmp_path, precision):
    options = dict(epochs=3, ema=0.95, lanes=3, precision=precision)
    one, history = run(threads=1, **options)
    two, again = run(threads=2, **options)
    assert same_weights(one, two) and history == again
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "checkpoint.pt", progress=Kill(6), **options)
    resumed, again = run(checkpoint=tmp_path / "checkpoint.pt", **options)
    assert same_weights(one, resumed) and history == again


CHILD = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
import test_training
class Stop(test_training.Kill):
    def update(self, step=1):
        self.steps += step
        if self.steps == int(sys.argv[4]):
            os.kill(os.getpid(), int(sys.argv[3]))
test_training.run(checkpoint=sys.argv[2], progress=Stop(), epochs=3, ema=0.9)
"""


def test_a_run_killed_by_the_system_in_mid_epoch_gives_the_same_weights(tmp_path):
    """SIGKILL in the second epoch, SIGTERM in the third of the run that goes on: as if neither had come."""
    whole, history = run(epochs=3, ema=0.9)
    checkpoint = tmp_path / "checkpoint.pt"
    for number, at in ((signal.SIGKILL, 6), (signal.SIGTERM, 7)):
        arguments = [str(a) for a in (os.pathsep.join(sys.path), checkpoint, int(number), at)]
        child = subprocess.run([sys.executable, "-c", CHILD, *arguments], timeout=900, capture_output=True)
        assert child.returncode == -number, child.stderr
        assert len(training.load_torch(checkpoint)["history"]) == (1 if number == signal.SIGKILL else 2)
    resumed, again = run(checkpoint=checkpoint, epochs=3, ema=0.9)
    assert same_weights(whole, resumed) and history == again and torch.get_num_threads() >= 1
    assert settings(ema=0.9) != settings()
