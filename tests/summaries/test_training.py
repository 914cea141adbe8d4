"""Training: it learns, its bits follow from the settings alone, a killed run goes on as if never killed."""

import numpy as np
import pytest
import torch
from conftest import one_line
from scipy import ndimage
from torch import nn

from wl.summaries import options as models, networks, training as train
from wl.maps.batches import FIXED, FRESH, NO_NOISE, Batches, Frame
from wl.core.checks import InputError, RunError
from wl.summaries.layers import Dropout
from wl.summaries.losses import Loss
from wl.summaries.networks import count_parameters

N_COSMOLOGY, N_REALISATION, SHAPE = 6, 8, (64, 48)


def data():
    """Maps of smooth noise whose amplitude is one parameter and whose asymmetry is the other."""
    rng, mask = np.random.default_rng(6), np.ones(SHAPE, bool)
    mask[20:30, 10:15] = False
    theta = np.column_stack([np.linspace(0.1, 0.6, N_COSMOLOGY), [0.7, 0.9, 0.75, 0.95, 0.8, 0.85]])
    kappa = np.empty((N_COSMOLOGY, N_REALISATION, int(mask.sum())), np.float16)
    for c, (omega_m, s_8) in enumerate(theta):
        for r in range(N_REALISATION):
            g = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5, mode="wrap")
            g = g / g.std()
            kappa[c, r] = (0.05 * (s_8 - 0.5) * g + 0.15 * (omega_m - 0.3) * (g * g - 1))[mask]
    label = np.repeat(theta, N_REALISATION, 0)
    frame = Frame(mask)
    return kappa.reshape(-1, kappa.shape[-1]), frame, label


KAPPA, FRAME, LABEL = data()
ROWS = np.flatnonzero(np.arange(len(LABEL)) % N_REALISATION < 6)
VALIDATION = np.setdiff1d(np.arange(len(LABEL)), ROWS)


def settings(**changes):
    return {"model": "compact", "frame": list(FRAME.shape), "loss": "mse", "epochs": 3, "batch_size": 8,
            "lanes": 2, "learning_rate": 4e-3, "weight_decay": 1e-4, "patience": 0, "precision": "float32",
            "seed": 3,
            "label_mean": LABEL.mean(0).tolist(), "label_sd": LABEL.std(0).tolist(), **changes}


def source(n_gal=3000.0):
    return Batches(KAPPA, FRAME, scale=0.02, n_gal=n_gal, seed=3)


def run(threads=1, checkpoint=None, progress=None, rows=ROWS, batches=None, **changes):
    return train.train(batches or source(), LABEL, rows, VALIDATION, settings(**changes), threads=threads,
                       checkpoint=checkpoint, progress=progress)


def same_weights(one, two):
    a, b = one.net.state_dict(), two.net.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------- schedule
@pytest.mark.parametrize("steps", [1, 2, 100, 2000, 7, 1203])
def test_learning_rate_schedule(steps):
    rate = np.array([train.learning_rate(i, steps, 0.004) for i in range(steps)])
    assert (rate > 0).all() and rate.max() <= 0.004 and rate.max() > 0.004 * (0.98 if steps > 7 else 0.5)
    top = int(np.argmax(rate))
    assert (np.diff(rate[:top + 1]) > 0).all() and (np.diff(rate[top:]) <= 0).all()
    if steps >= 100:                                           # warm-up of 15 %, then a cosine
        assert top / steps == pytest.approx(0.15, abs=0.02) and rate[-1] < 1e-3 * 0.004
        middle = int(0.15 * steps + 0.85 * steps / 2)
        assert rate[middle] == pytest.approx(0.002, rel=0.05)
        assert np.abs(np.diff(rate)).max() < 0.004 * 8 / steps   # no jump where warm-up ends


def test_momentum_falls_with_the_learning_rate():
    momentum = np.array([train.norm_momentum(i, 400) for i in range(400)])
    rate = np.array([train.learning_rate(i, 400, 1.0) for i in range(400)])
    assert (momentum[:61] == 0.1).all() and (np.diff(momentum) <= 0).all() and (momentum >= 0.002).all()
    falling = (np.arange(400) > 60) & (rate > 0.02)
    assert np.allclose(momentum[falling], 0.1 * rate[falling]) and momentum[-1] == pytest.approx(0.002)


def test_momentum_of_a_run(monkeypatch):
    """The schedule reaches batch renorm in every lane, and leaves the published network's batch norm alone."""
    seen = []

    class Spy(train.Lanes):
        def step(self, *args):
            seen.append([[m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in self.copies])
            return super().step(*args)

    monkeypatch.setattr(train, "Lanes", Spy)
    run(epochs=2)
    steps = 2 * (len(ROWS) // 8)
    assert [set(sum(one, [])) for one in seen] == [{train.norm_momentum(i, steps)} for i in range(steps)]
    assert len(seen[0]) == 2 and len(seen[0][0]) == 4 and seen[-1][0][0] < 0.05
    seen.clear()
    run(epochs=2, model="simple_cnn")
    assert {m for one in seen for m in sum(one, [])} == {0.1}


def test_precision():
    assert models.pick_precision("float64") == "float64"
    assert models.pick_precision("auto") in ("float32", "bfloat16")
    with pytest.raises(InputError) as error:
        models.pick_precision("float16")
    one_line(error, "--precision", "float16", "bfloat16")


# ---------------------------------------------------------------- one step
class Plain(nn.Module):
    """Without batch norm: a lane's gradient does not depend on its neighbours."""

    def __init__(self, frame, n_out):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 5, 3), nn.Linear(4, n_out)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


@pytest.fixture()
def plain(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "plain", Plain)


@pytest.mark.parametrize("loss", ["mse", "kl"])
@pytest.mark.parametrize("n, lanes", [(8, 2), (8, 3), (7, 4), (2, 4), (1, 2)])
def test_lanes_add_up_to_the_whole_batch(loss, n, lanes):
    """Uneven and empty lanes: the gradient of the mean over the batch, and its loss."""
    torch.manual_seed(2)
    loss = Loss(loss, LABEL.std(0))
    net = Plain(FRAME.shape, loss.n_out)
    x, target = source().fetch(np.arange(n), noise=FIXED), torch.randn(n, 2)
    value = loss(net(torch.from_numpy(x)), target)
    value.backward()
    oracle = [p.grad.clone() for p in net.parameters()]
    parallel = train.Lanes(net, lanes, 2, "float32")
    try:
        for _ in range(2):                                     # no gradient is left from the step before
            assert parallel.step(x, target, loss) == pytest.approx(value.item(), rel=1e-5)
            for p, g in zip(net.parameters(), oracle):
                assert torch.allclose(p.grad, g, rtol=1e-4, atol=1e-6)
        with torch.inference_mode():
            assert torch.allclose(parallel.predict(x), net(torch.from_numpy(x)), atol=1e-6)
    finally:
        parallel.close()


def test_lanes_share_weights_and_average_their_statistics():
    torch.manual_seed(2)
    net = networks.build("compact", FRAME.shape, 2)
    lanes = train.Lanes(net, 3, 1, "float32")
    try:
        assert all(a.data_ptr() == b.data_ptr() for other in lanes.copies[1:]
                   for a, b in zip(net.parameters(), other.parameters()))
        lanes.train()
        lanes.step(source().fetch(np.arange(9), noise=FIXED), torch.zeros(9, 2), Loss("mse"))
        name = next(n for n, b in net.named_buffers() if n.endswith("running_mean"))
        each = [dict(c.named_buffers())[name].clone() for c in lanes.copies]
        assert not torch.equal(each[0], each[1])
        lanes.share_buffers()
        for other in lanes.copies:
            assert torch.allclose(dict(other.named_buffers())[name], torch.stack(each).mean(0), atol=1e-7)
    finally:
        lanes.close()


def test_a_lane_without_maps_has_no_say_in_the_statistics():
    torch.manual_seed(2)
    lanes = train.Lanes(networks.build("compact", FRAME.shape, 2), 4, 1, "float32")
    try:
        lanes.train()
        lanes.step(source().fetch(np.arange(3), noise=FIXED), torch.zeros(3, 2), Loss("mse"))
        name = next(n for n, b in lanes.net.named_buffers() if n.endswith("running_mean"))
        each = [dict(c.named_buffers())[name].clone() for c in lanes.copies]
        assert not each[3].any()
        lanes.share_buffers()
        for other in lanes.copies:
            assert torch.allclose(dict(other.named_buffers())[name], torch.stack(each[:3]).mean(0), atol=1e-7)
    finally:
        lanes.close()


def test_float64_is_that_to_the_end():
    lanes = train.Lanes(networks.build("compact", FRAME.shape, 2).double(), 2, 1, "float64")
    lanes.train(False)
    x = source().fetch(np.arange(3), noise=FIXED)
    with torch.inference_mode():
        whole = lanes.net(torch.from_numpy(x).double())
    found = lanes.predict(x)
    lanes.close()
    assert found.dtype == torch.double and torch.allclose(found, whole, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("model, options, frame", [
    ("inception", {"stem": 4, "widths": [8, 8, 12, 12]}, (32, 32)), ("compact", {}, (24, 24)),
    ("resnet_reduced", {"stem": 4, "widths": [4, 5]}, (8, 8))])
def test_one_value_is_not_normalised(model, options, frame):
    """One map a lane whose features are one pixel: refused; two maps, or two pixels, train."""
    def small(batch_size, frame):
        mask = np.ones(frame, bool)
        kappa = np.random.default_rng(1).normal(0, 0.01, (len(LABEL), mask.sum())).astype(np.float16)
        batches = Batches(kappa, Frame(mask, pack=False), scale=0.02, n_gal=3000.0, seed=3)
        return run(batches=batches, frame=list(frame), model=model, model_options=options, batch_size=batch_size,
                   epochs=1)
    with pytest.raises(InputError) as error:
        small(2, frame)
    one_line(error, "--lanes 2", "at least 2", model, f"{frame[0]} x {frame[1]}")
    for wide in (small(4, frame), small(2, (2 * frame[0], frame[1]))):
        assert all(np.isfinite(h["loss"]) for h in wide[1])


# ---------------------------------------------------------------- a whole run
@pytest.fixture(scope="module")
def learnt():
    return run(epochs=24, lanes=2, threads=2)


def test_it_learns_both_parameters(learnt):
    network, history = learnt
    assert len(history) == 24 and history[-1]["epoch"] == 24
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
    _, history = train.train(source(), shuffled, ROWS, VALIDATION, settings(epochs=6))
    assert min(h["validation"] for h in history) > 0.5


def test_kl_learns_its_errors():
    network, history = run(loss="kl", epochs=16)
    mean, sd = network.predict(source(), VALIDATION)
    assert sd.shape == mean.shape and (sd > 0).all()
    pull = (mean - LABEL[VALIDATION]) / sd
    assert 0.3 < np.sqrt(np.mean(pull**2)) < 3.0
    assert history[-1]["validation"] < history[0]["validation"] - 0.3


@pytest.mark.parametrize("model, loss, precision", [
    ("compact", "mse", "float32"), ("compact", "kl", "bfloat16"), ("simple_cnn", "mse", "float32")])
def test_bit_identical_for_any_number_of_threads(model, loss, precision):
    options = dict(model=model, loss=loss, precision=precision, lanes=3, epochs=2)
    before = torch.get_num_threads()
    one, history = run(threads=1, **options)
    torch.set_num_threads(2)
    two, again = run(threads=2, **options)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert same_weights(one, two) and history == again
    for a, b in zip(*(n.predict(source(), VALIDATION, threads=t) for n, t in ((one, 1), (two, 3)))):
        assert (a is None and b is None) or np.array_equal(a, b)
    other, _ = run(seed=4, **options)
    assert not same_weights(one, other)


def test_lanes_agree_without_batch_norm(plain):
    one, _ = run(model="plain", lanes=1)
    two, _ = run(model="plain", lanes=2)
    a, b = one.net.state_dict(), two.net.state_dict()
    assert all(torch.allclose(a[k], b[k], rtol=1e-3, atol=1e-5) for k in a) and not same_weights(one, two)


class Kill:
    """A progress that ends the run at a step, as a signal would; and counts."""

    def __init__(self, at=None):
        self.at, self.steps, self.first, self.note = at, 0, None, ""

    def begin_at(self, done):
        self.first = done

    def update(self, step=1):
        self.steps += step
        if self.steps == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("model, loss, precision, at", [
    ("compact", "mse", "bfloat16", 10), ("simple_cnn", "kl", "float32", 3),
    ("simple_cnn", "kl", "float32", 10)])
def test_a_killed_run_goes_on_as_if_never_killed(tmp_path, model, loss, precision, at):
    """In mid-epoch: 4 steps an epoch, killed in the first epoch or in the third; dropout included."""
    options = dict(model=model, loss=loss, precision=precision, epochs=4)
    whole, history = run(**options)
    checkpoint = tmp_path / "out" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, progress=Kill(at), **options)
    assert checkpoint.exists() == (at > 4)
    progress = Kill()
    resumed, again = run(checkpoint=checkpoint, progress=progress, **options)
    assert progress.first == 4 * (at // 4) and progress.first + progress.steps == 16
    assert same_weights(whole, resumed) and history == again
    assert [p.name for p in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
    assert torch.get_num_threads() >= 1
    # once more: nothing is left to do
    finished, again = run(checkpoint=checkpoint, progress=(progress := Kill()), **options)
    assert progress.steps == 0 and same_weights(whole, finished) and history == again


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    run(checkpoint=checkpoint, epochs=1, seed=8)
    fresh, _ = run(epochs=2)
    other, history = run(checkpoint=checkpoint, epochs=2)
    assert same_weights(fresh, other) and len(history) == 2
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError) as error:
        run(checkpoint=checkpoint, epochs=2)
    one_line(error, "checkpoint.pt", "remove it")


def test_every_draw_has_noise_and_dropout_of_its_own(monkeypatch):
    """An epoch shows each training map once, never with noise that was there before; validation is fixed."""
    fetched, seeded = [], []

    class Spy(Batches):
        def fetch(self, rows, *, noise, draws=None, symmetry=None, out=None):
            fetched.append((noise, np.array(rows), draws, symmetry))
            return super().fetch(rows, noise=noise, draws=draws, symmetry=symmetry, out=out)
    monkeypatch.setattr(train.Lanes, "seed_dropout", lambda self, seed, step: seeded.append((seed, step)))
    run(batches=Spy(KAPPA, FRAME, scale=0.02, seed=3), epochs=3, rows=ROWS[:33])
    training = [f for f in fetched if f[0] == FRESH]
    assert len(training) == 3 * 4 and seeded == [(3, step) for step in range(12)]
    draws = np.concatenate([f[2] for f in training])
    assert len(np.unique(draws)) == 3 * 32                       # the last incomplete batch is left out
    for epoch in range(3):
        rows = np.concatenate([f[1] for f in training[4 * epoch:4 * epoch + 4]])
        assert len(set(rows)) == 32 and set(rows) <= set(ROWS[:33])
        assert not np.array_equal(rows, np.sort(rows))
    assert set(np.concatenate([f[3] for f in training])) == {0, 1, 2, 3}
    rest = [f for f in fetched if f[0] != FRESH]
    assert all(f[0] == FIXED and f[3] is None for f in rest)
    assert np.array_equal(np.concatenate([f[1] for f in rest]), np.tile(VALIDATION, 3))


def test_best_epoch_and_patience(monkeypatch):
    """The weights are those of the best epoch, and training ends `patience` epochs after it."""
    losses = iter([0.5, 0.3, 0.4, 0.35, 0.6, 0.2, 0.1])
    seen = []

    def validate(lanes, *rest):
        seen.append({k: v.clone() for k, v in lanes.net.state_dict().items()})
        return next(losses)
    monkeypatch.setattr(train, "_validate", validate)
    network, history = run(epochs=7, patience=2)
    assert [h["validation"] for h in history] == [0.5, 0.3, 0.4, 0.35]
    assert all(torch.equal(v, seen[1][k]) for k, v in network.net.state_dict().items())
    losses = iter([0.5, 0.3, 0.4, 0.35, 0.6, 0.2, 0.1])
    assert len(run(epochs=7, patience=0)[1]) == 7


def test_fewer_maps_than_a_batch_and_a_batch_that_lanes_do_not_divide():
    network, history = run(rows=ROWS[:5], batch_size=32, lanes=3, epochs=2)
    assert len(history) == 2 and np.isfinite(network.predict(source(), VALIDATION)[0]).all()
    _, history = run(rows=ROWS[:11], batch_size=5, lanes=4, epochs=1)
    assert np.isfinite(history[0]["loss"])


def test_nan_ends_the_run_in_one_line():
    with pytest.raises(RunError) as error:
        run(learning_rate=1e30)
    one_line(error, "--learning-rate", "epoch 1")


# ---------------------------------------------------------------- prediction and files
def test_prediction_is_the_mean_over_the_views(learnt):
    network, _ = learnt
    rows = VALIDATION[:5]
    every, _ = network.predict(source(), rows)
    net, views = network.net.eval(), []
    for s in range(4):
        with torch.inference_mode():
            views.append(net(torch.from_numpy(source().fetch(rows, noise=FIXED, symmetry=np.full(5, s)))))
    oracle = LABEL.mean(0) + LABEL.std(0) * torch.stack(views).double().mean(0).numpy()
    assert np.allclose(every, oracle, atol=1e-6)
    one, _ = network.predict(source(), rows, symmetries=1)
    assert not np.allclose(one, every, atol=1e-6)
    noiseless = Batches(KAPPA, FRAME, scale=0.02, n_gal=None)
    assert not np.allclose(network.predict(noiseless, rows, noise=NO_NOISE)[0], every, atol=1e-6)
    mean, sd = network.predict(source(), np.arange(0))
    assert mean.shape == (0, 2) and sd is None


def test_prediction_does_not_depend_on_the_batch(learnt):
    network, _ = learnt
    whole, _ = network.predict(source(), np.arange(20))
    few, _ = network.predict(source(), np.array([3, 11]), batch_size=2)
    assert np.allclose(whole[[3, 11]], few, atol=1e-6)


@pytest.mark.parametrize("model, loss, precision", [
    ("compact", "mse", "float32"), ("compact", "kl", "bfloat16"), ("simple_cnn", "kl", "float32"),
    ("compact", "mse", "float64")])
def test_save_and_load(tmp_path, model, loss, precision):
    network, _ = run(model=model, loss=loss, precision=precision, epochs=1)
    network.save(tmp_path / "model.pt")
    loaded = train.Network.load(tmp_path / "model.pt")
    assert loaded.settings == network.settings and same_weights(network, loaded)
    for a, b in zip(network.predict(source(), VALIDATION), loaded.predict(source(), VALIDATION)):
        assert (a is None and b is None) or np.array_equal(a, b)
    assert count_parameters(loaded.net) == count_parameters(network.net)


@pytest.mark.parametrize("damage", [
    "missing", "empty", "truncated", "text", "other content", "no settings", "other weights"])
def test_damaged_model_files(tmp_path, learnt, damage):
    network, path = learnt[0], tmp_path / "model.pt"
    network.save(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "truncated", "text"):
        path.write_bytes({"empty": b"", "truncated": content[:len(content) // 2], "text": b"hello"}[damage])
    elif damage == "other content":
        train.save_torch(path, [1, 2])
    elif damage == "no settings":
        train.save_torch(path, {"settings": {}, "weights": network.net.state_dict()})
    else:
        train.save_torch(path, {"settings": network.settings, "weights": {"first.weight": torch.zeros(3)}})
    with pytest.raises(InputError) as error:
        train.Network.load(path)
    one_line(error, "model.pt", "remove it" if damage != "missing" else "model.pt")


def test_a_model_file_runs_no_code(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))
    with open(tmp_path / "model.pt", "wb") as stream:
        pickle.dump({"settings": Evil(), "weights": {}}, stream, protocol=2)
    with pytest.raises(InputError):
        train.Network.load(tmp_path / "model.pt")
    assert not (tmp_path / "proof").exists()


def test_both_dropouts_of_a_step_differ():
    """One seed for two layers would give the second the first's random numbers."""
    net = networks.build("simple_cnn", (32, 32), 2)
    lanes = train.Lanes(net, 2, 1, "float32")
    lanes.close()
    lanes.seed_dropout(3, 7)
    layers = [m for c in lanes.copies for m in c.modules() if isinstance(m, Dropout)]
    assert len(layers) == 4
    assert len({m.generator.get_state().numpy().tobytes() for m in layers}) == 4
