"""Training: its schedule, what it is shown, that it learns, that its bits follow from a recipe."""
import numpy as np
import pytest
import torch
from conftest import one_line
from trainings import (FRAME, KAPPA, LABEL, ROWS, VALIDATION, recipe, run, same, same_weights,
                       source)

from wl.core.checks import InputError, RunError
from wl.maps.batches import FIXED, FRESH, Batches, Frame
from wl.summaries import training
from wl.summaries.lanes import Lanes


# ---------------------------------------------------------------- schedule
@pytest.mark.parametrize("steps", [1, 2, 100, 2000, 7, 1203])
def test_learning_rate_schedule(steps):
    rate = np.array([training.learning_rate(i, steps, 0.004) for i in range(steps)])
    assert (rate > 0).all()
    assert 0.004 * (0.98 if steps > 7 else 0.5) < rate.max() <= 0.004
    top = int(np.argmax(rate))
    assert (np.diff(rate[:top + 1]) > 0).all() and (np.diff(rate[top:]) <= 0).all()
    if steps >= 100:                                           # warm-up of 15 %, then a cosine
        assert top / steps == pytest.approx(0.15, abs=0.02) and rate[-1] < 1e-3 * 0.004
        middle = int(0.15 * steps + 0.85 * steps / 2)
        assert rate[middle] == pytest.approx(0.002, rel=0.05)
        assert np.abs(np.diff(rate)).max() < 0.004 * 8 / steps   # no jump where warm-up ends


def test_momentum_falls_with_the_learning_rate():
    momentum = np.array([training.norm_momentum(i, 400) for i in range(400)])
    rate = np.array([training.learning_rate(i, 400, 1.0) for i in range(400)])
    assert (momentum[:61] == 0.1).all() and (momentum >= 0.002).all()
    assert (np.diff(momentum) <= 0).all() and momentum[-1] == pytest.approx(0.002)
    falling = (np.arange(400) > 60) & (rate > 0.02)
    assert np.allclose(momentum[falling], 0.1 * rate[falling])


# ---------------------------------------------------------------- what it is shown
def test_every_draw_has_noise_and_dropout_of_its_own(monkeypatch):
    """An epoch shows each training map once, always with new noise; validation noise is fixed."""
    fetched, seeded = [], []

    class Spy(Batches):
        def fetch(self, rows, *, noise, draws=None, symmetry=0, out=None):
            fetched.append((noise, np.array(rows), draws, symmetry))
            return super().fetch(rows, noise=noise, draws=draws, symmetry=symmetry, out=out)
    monkeypatch.setattr(Lanes, "begin_step", lambda self, momentum, *of: seeded.append(of))
    run(batches=Spy(KAPPA, FRAME, scale=0.02, seed=3), epochs=3, rows=ROWS[:33])
    shown = [f for f in fetched if f[0] == FRESH]
    assert len(shown) == 3 * 4 and seeded == [(3, step) for step in range(12)]
    draws = np.concatenate([f[2] for f in shown])
    assert len(np.unique(draws)) == 3 * 32               # the last incomplete batch is left out
    for epoch in range(3):
        rows = np.concatenate([f[1] for f in shown[4 * epoch:4 * epoch + 4]])
        assert len(set(rows)) == 32 and set(rows) <= set(ROWS[:33])
        assert not np.array_equal(rows, np.sort(rows))
    assert set(np.concatenate([f[3] for f in shown])) == {0, 1, 2, 3}
    rest = [f for f in fetched if f[0] != FRESH]
    assert all(f[0] == FIXED and np.all(f[3] == 0) for f in rest)
    assert np.array_equal(np.concatenate([f[1] for f in rest]), np.tile(VALIDATION, 3))


def test_a_few_maps_from_all_of_the_validation_choose_the_epoch(monkeypatch):
    """All of a fold of two took a fifth of the training."""
    fetched = []

    class Spy(Batches):
        def fetch(self, rows, *, noise, **options):
            fetched.extend(rows if noise == FIXED else [])
            return super().fetch(rows, noise=noise, **options)
    monkeypatch.setattr(training, "MAX_VALIDATION", 3)
    run(batches=Spy(KAPPA, FRAME, scale=0.02, seed=3), epochs=1)
    assert len(set(fetched)) == 3 and set(fetched) < set(VALIDATION) and fetched == sorted(fetched)
    monkeypatch.undo()
    assert training.MAX_VALIDATION >= 101           # a map of each cosmology, at least


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_fixed_noise_is_the_same_in_every_epoch_and_fresh_noise_never(noise):
    """The pixels themselves: each map as it was in the epoch before, but for its flips, or not."""
    shown = []

    class Spy(Batches):
        def fetch(self, rows, *, symmetry=0, **options):
            x = super().fetch(rows, symmetry=symmetry, **options)
            if np.ndim(symmetry):                             # not of the validation
                for row, s, image in zip(rows, symmetry, x[:, 0].copy()):
                    shown.append((row, image[::-1 if s & 1 else 1, ::-1 if s & 2 else 1]))
            return x
    run(batches=Spy(KAPPA, FRAME, scale=0.02, n_gal=3000.0, seed=3), epochs=2, noise=noise)
    first, second = (dict(shown[k:k + 32]) for k in (0, 32))
    both = sorted(set(first) & set(second))
    assert len(both) > 20
    assert all(np.array_equal(first[r], second[r]) == (noise == "fixed") for r in both)


def test_fewer_maps_than_a_batch_and_a_batch_that_lanes_do_not_divide():
    network = run(rows=ROWS[:5], batch_size=32, lanes=3, epochs=2)
    assert len(network.history) == 2
    assert np.isfinite(network.predict(source(), VALIDATION)[0]).all()
    assert np.isfinite(run(rows=ROWS[:11], batch_size=5, lanes=4, epochs=1).history[0]["loss"])


@pytest.mark.parametrize("model, options, frame", [
    ("inception", {"stem": 4, "widths": [8, 8, 12, 12]}, (32, 32)), ("compact", {}, (24, 24)),
    ("resnet_reduced", {"stem": 4, "widths": [4, 5]}, (8, 8))])
def test_one_value_is_not_normalised(model, options, frame):
    """One map a lane whose features are one pixel: refused; two maps, or two pixels, train."""
    def small(batch_size, frame):
        mask = np.ones(frame, bool)
        kappa = np.random.default_rng(1).normal(0, 0.01, (len(LABEL), mask.sum()))
        batches = Batches(kappa.astype(np.float16), Frame(mask, pack=False), scale=0.02)
        return run(batches=batches, frame=frame, model=model, model_options=options,
                   batch_size=batch_size, epochs=1)
    with pytest.raises(InputError) as error:
        small(2, frame)
    one_line(error, "--lanes 2", "at least 2", model, f"{frame[0]} x {frame[1]}")
    for wide in (small(4, frame), small(2, (2 * frame[0], frame[1]))):
        assert np.isfinite(wide.history[0]["loss"])


# ---------------------------------------------------------------- a whole run
def test_it_learns_both_parameters():
    network = run(epochs=24, threads=2)
    history = network.history
    assert len(history) == 24 and history[-1]["epoch"] == 24 == len(network.seconds)
    assert history[0]["validation"] > 0.7                      # in units of the labels' variance
    assert min(h["validation"] for h in history) < 0.5         # from 36 maps; 1 knows nothing
    mean, sd = network.predict(source(), VALIDATION)
    error = (mean - LABEL[VALIDATION]) / LABEL.std(0)
    assert sd is None and mean.shape == (len(VALIDATION), 2) and mean.dtype == np.float64
    assert (np.mean(error**2, 0) < 0.6).all()
    assert all(np.corrcoef(mean[:, k], LABEL[VALIDATION, k])[0, 1] > 0.7 for k in range(2))


def test_labels_that_say_nothing_are_not_learnt():
    """Negative control: shuffled labels leave the validation loss near the prior's."""
    shuffled = np.random.default_rng(2).permutation(LABEL)
    network = training.train(source(), shuffled, (ROWS, VALIDATION), recipe(epochs=6))
    assert min(h["validation"] for h in network.history) > 0.5


def test_kl_learns_its_errors():
    network = run(loss="kl", epochs=16)
    mean, sd = network.predict(source(), VALIDATION)
    assert sd.shape == mean.shape and (sd > 0).all()
    pull = (mean - LABEL[VALIDATION]) / sd
    assert 0.3 < np.sqrt(np.mean(pull**2)) < 3.0
    assert network.history[-1]["validation"] < network.history[0]["validation"] - 0.3


@pytest.mark.parametrize("model, loss, precision", [
    ("compact", "mse", "float32"), ("compact", "kl", "bfloat16"), ("simple_cnn", "mse", "float32")])
def test_bit_identical_for_any_number_of_threads(model, loss, precision):
    options = dict(model=model, loss=loss, precision=precision, lanes=3, epochs=2)
    before = torch.get_num_threads()
    try:
        one = run(threads=1, **options)
        torch.set_num_threads(2)
        two = run(threads=2, **options)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert same(one, two)
    found = [n.predict(source(), VALIDATION, threads=t) for n, t in ((one, 1), (two, 3))]
    for a, b in zip(*found):
        assert (a is None and b is None) or np.array_equal(a, b)
    assert not same_weights(one, run(seed=4, **options))


def test_best_epoch_and_patience(monkeypatch):
    """The weights are those of the best epoch, and training ends `patience` epochs after it."""
    losses, seen = [0.5, 0.3, 0.4, 0.35, 0.6, 0.2, 0.1], []

    def validate(self):
        seen.append({k: v.clone() for k, v in self.lanes.net.state_dict().items()})
        return losses[len(seen) - 1]
    monkeypatch.setattr(training._Training, "validate", validate)
    network = run(epochs=7, patience=2)
    assert [h["validation"] for h in network.history] == [0.5, 0.3, 0.4, 0.35]
    assert all(torch.equal(v, seen[1][k]) for k, v in network.net.state_dict().items())
    seen.clear()
    assert len(run(epochs=7, patience=0).history) == 7
    losses[:4] = [np.nan, 0.5, 0.6, 0.7]                 # what is not finite is never the best
    seen.clear()
    assert len(run(epochs=7, patience=2).history) == 4


def test_weight_decay_shrinks_the_weights():
    def size(network):
        return sum(float((p.detach()**2).sum()) for n, p in network.net.named_parameters()
                   if n.endswith("weight"))
    plain, strong = (run(epochs=2, weight_decay=w) for w in (0.0, 20.0))
    assert size(strong) < 0.9 * size(plain)


def test_nan_ends_the_run_in_one_line():
    with pytest.raises(RunError) as error:
        run(learning_rate=1e30)
    one_line(error, "--learning-rate", "epoch 1")


def test_a_validation_that_is_never_finite_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(training._Training, "validate", lambda self: np.nan)
    with pytest.raises(RunError) as error:
        run(epochs=2)
    one_line(error, "never finite in 2 epochs", "--learning-rate")
