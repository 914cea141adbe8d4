"""What a network is shown in training, and what its lanes do with it."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_training import FRAME, KAPPA, LABEL, VALIDATION, run, same_weights, source

import run_mcmc
from wl.maps.batches import Batches
from wl.summaries import networks, pipeline, training
from wl.summaries.losses import LOG_SIGMA_RANGE


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_fixed_noise_is_the_same_in_every_epoch_and_fresh_noise_never(noise):
    """The pixels themselves: each map as it was in the epoch before, but for its flips, or not."""
    shown = []

    class Spy(Batches):
        def fetch(self, rows, *, symmetry=None, **options):
            x = super().fetch(rows, symmetry=symmetry, **options)
            if symmetry is not None:
                for row, s, image in zip(rows, symmetry, x[:, 0].copy()):
                    shown.append((row, image[::-1 if s & 1 else 1, ::-1 if s & 2 else 1]))
            return x
    run(batches=Spy(KAPPA, FRAME, scale=0.02, n_gal=3000.0, seed=3), epochs=2, noise=noise)
    first, second = (dict(shown[k:k + 32]) for k in (0, 32))
    both = sorted(set(first) & set(second))
    assert len(both) > 20 and all(np.array_equal(first[r], second[r]) == (noise == "fixed") for r in both)


def test_default_epochs_make_36000_maps_and_leave_the_options_alone():
    args = run_mcmc.parser().parse_args([])
    found = [pipeline.training_settings(args, n)["epochs"] for n in (100, 2000, 3000, 30000)]
    assert found == [60, 18, 12, 12] and args.epochs is None


# ---------------------------------------------------------------- inside a training
def test_lanes_train_in_training_and_share_their_statistics_in_validation(monkeypatch):
    """Every copy in training mode at every step; in evaluation mode, with equal buffers, when it is validated."""
    step, validate, seen = training.Lanes.step, training._validate, []

    def stepped(self, *args):
        seen.append("step" if all(net.training for net in self.copies) else "idle step")
        return step(self, *args)

    def validated(lanes, *rest):
        found = [dict(net.named_buffers()) for net in lanes.copies]
        same = all(torch.equal(found[0][k], other[k]) for other in found[1:] for k in found[0] if "mean" in k)
        value = validate(lanes, *rest)
        seen.append("validation" if same and not any(net.training for net in lanes.copies) else "unfit")
        return value
    monkeypatch.setattr(training.Lanes, "step", stepped)
    monkeypatch.setattr(training, "_validate", validated)
    run(epochs=2, lanes=3, model="resnet_reduced", model_options={"stem": 3, "widths": [3, 4]})
    assert seen == (["step"] * 4 + ["validation"]) * 2


def test_dropout_differs_from_step_to_step_lane_to_lane_and_seed_to_seed():
    lanes = training.Lanes(networks.build("simple_cnn", (32, 32), 2), 3, 1, "float32")
    lanes.close()
    states = set()
    for seed, step in ((3, 7), (3, 8), (4, 7)):
        lanes.seed_dropout(seed, step)
        states |= {m.generator.get_state().numpy().tobytes() for net in lanes.copies for m in net.modules()
                   if hasattr(m, "generator")}
    assert len(states) == 3 * 3 * 2


def test_weight_decay_shrinks_the_weights():
    def size(network):
        return sum(float((p.detach()**2).sum()) for n, p in network.net.named_parameters() if n.endswith("weight"))
    plain, strong = (run(epochs=2, weight_decay=w)[0] for w in (0.0, 20.0))
    assert size(strong) < 0.9 * size(plain)


def test_wild_log_sigmas_are_cut_in_prediction_as_in_the_loss():
    network, _ = run(epochs=1, loss="kl")
    with torch.no_grad():
        network.net.head[-1].bias[2:] = torch.tensor([60.0, -60.0])
    _, sd = network.predict(source(), VALIDATION[:3])
    assert np.allclose(sd, LABEL.std(0) * np.exp([LOG_SIGMA_RANGE[1], LOG_SIGMA_RANGE[0]]))


# ---------------------------------------------------------------- kills
CHILD = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
import test_training
class Stop(test_training.Kill):
    def update(self, step=1):
        self.steps += step
        if self.steps == int(sys.argv[4]):
            os.kill(os.getpid(), int(sys.argv[3]))
test_training.run(checkpoint=sys.argv[2], progress=Stop(), epochs=3)
"""


def test_a_run_killed_by_the_system_in_mid_epoch_gives_the_same_weights(tmp_path):
    """SIGKILL in the second epoch, SIGTERM in the third of the run that goes on: as if neither had come."""
    whole, history = run(epochs=3)
    checkpoint = tmp_path / "checkpoint.pt"
    for number, at in ((signal.SIGKILL, 6), (signal.SIGTERM, 7)):
        arguments = [str(a) for a in (os.pathsep.join(sys.path), checkpoint, int(number), at)]
        child = subprocess.run([sys.executable, "-c", CHILD, *arguments], timeout=900, capture_output=True, cwd=ROOT)
        assert child.returncode == -number, child.stderr
        assert len(training.load_torch(checkpoint)["history"]) == (1 if number == signal.SIGKILL else 2)
    resumed, again = run(checkpoint=checkpoint, epochs=3)
    assert same_weights(whole, resumed) and history == again and torch.get_num_threads() >= 1
