"""What a network is shown and when: noiseless and coarse epochs at the start, turned maps, eight views."""
import numpy as np
import pytest
import torch
from conftest import one_line
from test_training import FRAME, KAPPA, LABEL, VALIDATION, Kill, run, same_weights, source

import run_mcmc
from wl.summaries import networks, pipeline, training
from wl.maps.batches import FIXED, FRESH, NO_NOISE, Batches
from wl.core.checks import InputError
from wl.summaries.losses import LOG_SIGMA_RANGE, Loss

ALL = dict(pretrain=1, coarse=2, symmetries=8, ema=0.9, epochs=4)
POOLED = dict(model="simple_cnn", model_options={"widths": [3, 4, 5], "hidden": [6, 5], "head": "pool",
                                                  "dropout": [0.2, 0.1]}, loss="score", loss_options={"start": -4.0})


def spy(monkeypatch):
    """(noise, look) of each training step."""
    fetched, looks = [], []

    class Spy(Batches):
        def fetch(self, rows, *, noise, **options):
            fetched.append(noise)
            return super().fetch(rows, noise=noise, **options)
    step = training.Lanes.step

    def spied(self, x, target, loss, **look):
        looks.append((fetched[-1], look["shrink"], bool(look["turn"])))
        return step(self, x, target, loss, **look)
    monkeypatch.setattr(training.Lanes, "step", spied)
    return Spy(KAPPA, FRAME, scale=0.02, n_gal=3000.0, seed=3), looks


def test_noiseless_and_coarse_epochs_come_first(monkeypatch):
    batches, looks = spy(monkeypatch)
    run(batches=batches, epochs=4, pretrain=1, coarse=2)
    assert [look[:2] for look in looks] == [(NO_NOISE, 2)] * 4 + [(FRESH, 2)] * 4 + [(FRESH, 1)] * 8
    assert not any(look[2] for look in looks)
    looks.clear()
    run(batches=batches, epochs=2, pretrain=1, noise="fixed")
    assert [look[:2] for look in looks] == [(NO_NOISE, 1)] * 4 + [(FIXED, 1)] * 4
    looks.clear()
    run(batches=batches, epochs=1)
    assert looks == [(FRESH, 1, False)] * 4


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


def test_validation_is_noisy_and_fine_in_every_epoch(monkeypatch):
    """Epochs of any kind are judged on the task itself, so that the best may be compared with each other."""
    network, history = run(epochs=1)
    same, again = run(epochs=1, pretrain=1, learning_rate=1e-30, weight_decay=0.0)
    other, third = run(epochs=1, coarse=1, learning_rate=1e-30, weight_decay=0.0)
    for net, found in ((same, again), (other, third)):
        mean, _ = net.predict(source(), VALIDATION, symmetries=1)
        error = (mean - LABEL[VALIDATION]) / LABEL.std(0)
        assert found[0]["validation"] == pytest.approx(np.mean(error**2), rel=1e-5)
    assert again[0]["loss"] != third[0]["loss"] != history[0]["loss"]


def test_half_of_the_batches_are_turned(monkeypatch):
    s = {"seed": 3, "symmetries": 8}
    share = np.mean([training._turns(s, epoch, 400) for epoch in range(10)])
    assert share == pytest.approx(0.5, abs=0.04)
    assert not np.array_equal(training._turns(s, 0, 400), training._turns(s, 1, 400))
    assert not np.array_equal(training._turns(s, 0, 400), training._turns({**s, "seed": 4}, 0, 400))
    assert not training._turns({"seed": 3, "symmetries": 4}, 0, 400).any() and not training._turns({"seed": 3}, 0, 40).any()
    batches, looks = spy(monkeypatch)
    run(batches=batches, epochs=3, symmetries=8)
    assert [look[2] for look in looks] == np.concatenate([training._turns(s, e, 4) for e in range(3)]).tolist()


def gradients(x, **look):
    torch.manual_seed(2)
    net = networks.build("inception", FRAME.shape, 2, stem=4, widths=(8, 8), squeeze=4)
    lanes = training.Lanes(net, 2, 1, "float32")
    try:
        value = lanes.step(x, torch.ones(len(x), 2), Loss("mse"), **look)
    finally:
        lanes.close()
    return value, [p.grad.numpy().copy() for p in net.parameters()]


@pytest.mark.parametrize("look, done", [
    ({"turn": True}, lambda x: x.transpose(0, 1, 3, 2)),
    ({"shrink": 2}, lambda x: x.reshape(6, 1, 32, 2, 24, 2).mean((3, 5))),
    ({"shrink": 2, "turn": True}, lambda x: x.reshape(6, 1, 32, 2, 24, 2).mean((3, 5)).transpose(0, 1, 3, 2))])
def test_what_a_step_sees(look, done):
    x = source().fetch(np.arange(6), noise=FIXED)
    value, found = gradients(x, **look)
    expected, oracle = gradients(np.ascontiguousarray(done(x)))
    plain, _ = gradients(x)
    assert value == pytest.approx(expected, rel=1e-5) and abs(value - plain) > 1e-4 * abs(plain)
    assert all(np.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found, oracle))


def test_eight_views():
    network, _ = run(epochs=2, symmetries=8)
    rows = VALIDATION[:5]
    net, views = network.net.eval(), []
    for s in range(4):
        x = source().fetch(rows, noise=FIXED, symmetry=np.full(5, s))
        for seen in (x, np.ascontiguousarray(x.transpose(0, 1, 3, 2))):
            with torch.inference_mode():
                views.append(net(torch.from_numpy(seen)).double().numpy())
    eight, _ = network.predict(source(), rows, symmetries=8)
    four, _ = network.predict(source(), rows, symmetries=4)
    assert np.allclose(eight, LABEL.mean(0) + LABEL.std(0) * np.mean(views, 0), atol=1e-6)
    assert not np.allclose(eight, four, atol=1e-6)


@pytest.mark.parametrize("options", [ALL, {**ALL, **POOLED, "lanes": 3, "precision": "bfloat16"}])
@pytest.mark.parametrize("at", [3, 6, 14])
def test_a_killed_run_goes_on_as_if_never_killed(tmp_path, options, at):
    """In the noiseless epoch, in the coarse one, in the last: everything on at once, on one thread and on two."""
    whole, history = run(threads=2, **options)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "checkpoint.pt", progress=Kill(at), **options)
    resumed, again = run(checkpoint=tmp_path / "checkpoint.pt", **options)
    assert same_weights(whole, resumed) and history == again and len(history) == 4


def test_patience_does_not_count_the_first_stage(monkeypatch):
    losses = iter([0.1, 0.9, 0.8, 0.95, 0.5, 0.6, 0.7, 0.8])
    monkeypatch.setattr(training, "_validate", lambda *rest: next(losses))
    assert len(run(epochs=8, patience=2, pretrain=4)[1]) == 6
    losses = iter([0.1, 0.9, 0.8, 0.95, 0.5, 0.6, 0.7, 0.8])
    assert len(run(epochs=8, patience=2)[1]) == 3


def test_it_learns_with_all_of_them():
    network, history = run(epochs=24, pretrain=4, coarse=4, symmetries=8)
    assert min(h["validation"] for h in history) < 0.6


@pytest.mark.parametrize("options, words", [
    (("--pretrain", "3"), ("--pretrain", "0 to 2 of 3 epochs")), (("--coarse", "-1"), ("--coarse", "got -1")),
    (("--model", "simple_cnn", "--coarse", "1"), ("--coarse 1", "head=pool")),
    (("--model", "simple_cnn_residual", "--symmetries", "8"), ("--symmetries 8", "flat head")),
    (("--views", "8"), ("--views 8", "--symmetries 8"))])
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(InputError) as error:
        pipeline.training_settings(run_mcmc.parser().parse_args(["--epochs", "3", *options]), 100)
    one_line(error, *words)
    pooled = ["--model", "simple_cnn", "--model-option", "head=pool", "--coarse", "1", "--symmetries", "8",
              "--views", "8"]
    found = pipeline.training_settings(run_mcmc.parser().parse_args(["--epochs", "3", *pooled]), 100)
    assert (found["coarse"], found["symmetries"], found["pretrain"]) == (1, 8, 0)


def test_default_epochs_make_36000_maps_and_leave_the_options_alone():
    args = run_mcmc.parser().parse_args([])
    found = [pipeline.training_settings(args, n)["epochs"] for n in (100, 2000, 3000, 30000)]
    assert found == [60, 18, 12, 12] and args.epochs is None


def test_coarse_maps_have_to_be_large_enough():
    with pytest.raises(InputError) as error:
        run(model="resnet_attention", model_options={"stem": 4, "widths": [4, 4, 4, 4]}, coarse=1, epochs=2)
    one_line(error, "--coarse", "64 x 48")


# ---------------------------------------------------------------- inside a training
def test_lanes_train_in_training_and_share_their_statistics_in_validation(monkeypatch):
    """Every copy in training mode at every step; in evaluation mode, with equal buffers, when it is validated."""
    step, validate, seen = training.Lanes.step, training._validate, []

    def stepped(self, *args, **look):
        seen.append("step" if all(net.training for net in self.copies) else "idle step")
        return step(self, *args, **look)

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
