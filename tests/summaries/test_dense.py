"""Hand-made statistics, dense networks on them, and stacked predictions of several models."""
import signal
import threading

import numpy as np
import pytest
import torch
from conftest import one_line
from scipy import stats
from runs import data, start  # noqa: F401  (a fixture)

from wl.core import hdf5, progress
from wl.maps import batches
from wl.summaries import dense, handmade, network, options as models, predict
from wl.summaries.options import NetworkOptions
from wl.core.checks import InputError, RunError
from wl.core.params import EMULATOR, HOLDOUT, TEST, TRAIN
from wl.summaries.architectures import Dropout

SCALES = (1.5, 3.0, 6.0)
MASK = np.ones((64, 48), bool)
MASK[20:30, 10:15] = False
SMALL = ("--model-option", "scales=2,4", "--model-option", "networks=2", "--model-option",
         "layers=8,6")


def some_maps(n, seed=1):
    """Skewed correlated maps, zero outside the mask."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(n, 64, 48))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2.0 * np.pi**2 * (
        np.fft.fftfreq(64)[:, None]**2 + np.fft.rfftfreq(48)**2)), s=(64, 48))
    kappa = 0.02 * (np.exp(2.0 * smooth) - 1.0) + 0.01 * white
    return np.where(MASK, kappa, 0.0).astype(np.float32)


# ---------------------------------------------------------------- the statistics
def test_features_against_numpy_and_scipy():
    kappa, found = some_maps(3), handmade.Features(MASK, 30.0, SCALES)
    out = found(kappa)
    n = found.statistics[0].width
    scales = len(SCALES)
    assert found.width == n + (2 * scales - 1) * 19
    assert out.shape == (3, found.width) and np.isfinite(out).all()
    assert np.array_equal(out[:, :n], found.statistics[0](kappa))
    shapes = found.statistics[1].shapes
    smooth, valid = shapes.smooth(kappa[1]), shapes.valid
    # the scales, then the bands between them
    smooth = [*smooth, *(smooth[:-1] - smooth[1:])]
    valid = [*valid, *(valid[:-1] & valid[1:])]
    for k, (field, valid, unit) in enumerate(zip(smooth, valid, shapes.unit, strict=True)):
        values, part = field[valid].astype(float), out[1, n + 19 * k:n + 19 * (k + 1)]
        bins = np.array(handmade.PDF_BINS) * (unit, unit, 1.0)
        assert part[:3] == pytest.approx([np.log(values.var()), stats.skew(values),
                                          stats.kurtosis(values, fisher=False)], rel=1e-4, abs=1e-5)
        edges = bins[0] + bins[1] * np.arange(17)
        edges[0], edges[-1] = -np.inf, np.inf
        assert np.allclose(part[3:]**2, np.histogram(values, edges)[0] / valid.sum(), rtol=0,
                           atol=1e-12)
        # bins cover what there is
        assert bins[1] == pytest.approx(0.5 * values.std(), rel=0.9)


def test_features_do_not_know_left_from_right_nor_their_neighbours():
    symmetric = MASK & MASK[::-1] & MASK[:, ::-1] & MASK[::-1, ::-1]
    kappa = np.where(symmetric, some_maps(4), 0.0).astype(np.float32)
    found = handmade.Features(symmetric, 30.0, SCALES)
    out = found(kappa)
    for turned in (kappa[:, ::-1], kappa[:, :, ::-1]):
        near = np.abs(found(np.ascontiguousarray(turned)) - out)
        # a pixel on a bin's edge may change bin
        assert near.max() < 0.03 and near.mean() < 1e-4
    assert np.array_equal(found(kappa[2:3]), out[2:3])
    assert np.abs(found(2.0 * kappa) - out).max() > 0.5


def test_a_map_of_zeros_is_refused_and_fields_without_pixels_are_left_out():
    frame = batches.Frame(MASK, pack=False)
    maps = np.zeros((3, MASK.sum()), np.float16)
    maps[:2] = some_maps(2)[:, MASK]
    with pytest.raises(InputError) as error:
        handmade.measure(handmade.Features(MASK, 30.0, SCALES),
                         batches.Batches(maps, frame, scale=1.0, n_gal=None),
                          np.arange(3), batches.NO_NOISE)
    one_line(error, "map 2 of 3")
    ragged = np.zeros((64, 48), bool)
    ragged[::8, ::8] = True
    without = handmade.Features(ragged, 30.0, SCALES)
    assert not without.statistics[1].used.size
    assert without(some_maps(1)).shape == (1, without.statistics[0].width)


# ---------------------------------------------------------------- the networks
def world(n, seed, c=12):
    """Statistics that are linear in two parameters but for noise, and a useless constant one."""
    rng = np.random.default_rng(seed)
    theta = rng.normal([0.3, 0.8], [0.1, 0.05], (n, 2))
    response = np.random.default_rng(99).normal(size=(2, c))
    x = (theta - [0.3, 0.8]) / [0.1, 0.05] @ response + rng.normal(0.0, 1.5, (n, c))
    return theta, np.concatenate([x, np.full((n, 1), 7.0)], 1).astype(np.float32), response


def recipe(**more):
    plain = dict(seed=1, loss="mse", label_mean=[0.3, 0.8], label_sd=[0.1, 0.05],
                 members=3, layers=(32, 16), features="", split=[])
    return dense.Recipe(model="statistics", **{**plain, **more})


def fitted(n=1000, **more):
    theta, x, _ = world(n, 1)
    again = x + np.float32(0.1) * np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    again[:, -1] = 7.0
    valid_theta, valid, _ = world(n // 4, 2)
    return dense.fit(np.stack([x, again]), theta, valid, valid_theta, recipe(**more))


@pytest.fixture(scope="module")
def small():
    """Networks of few maps, for what does not depend on their number."""
    return fitted(n=300)


def test_a_map_has_the_same_bits_among_any_number():
    """Means over five networks: torch adds in another order in the last rows of a product."""
    net, (_, x, _) = fitted(n=300, members=5), world(700, 3)
    whole = net.predict(x)[0]
    for n in (*range(1, 40), 255, 257, 300, 511, 699):
        assert np.array_equal(net.predict(x[:n])[0], whole[:n]), n
    assert np.array_equal(net.predict(x[::-1])[0][::-1], whole)


def test_networks_come_near_the_best_linear_answer():
    net = fitted()
    theta, x, response = world(4000, 3)
    mean, sd = net.predict(x)
    error = ((mean - theta) / [0.1, 0.05])
    best = np.linalg.inv(np.eye(2) + response @ response.T / 1.5**2)          # posterior covariance
    assert sd is None and (error**2).mean(0) == pytest.approx(np.diag(best), rel=0.15)
    assert not net.used[-1] and net.used[:-1].all()
    losses = [h["validation"] for h in net.history]
    assert len(losses) >= 2
    assert [h["passes"] for h in net.history] == [n // 2 for n in dense.LOOKS[:len(losses)]]
    assert np.ptp(net.net[0].weight.detach().numpy()[:, 0, 0]) > 1e-3             # members differ


def test_schedules_differ_for_the_most_draws_of_noise():
    """With whole passes rounded down, 100 draws had the same schedule twice, and no third."""
    theta, x, _ = world(20, 1)
    net = dense.fit(np.stack([x] * 100), theta, x, theta, recipe())
    assert [h["passes"] for h in net.history] in ([1, 2], [1, 2, 4])


def test_error_bars_are_learnt():
    net = fitted(loss="kl")
    theta, x, response = world(4000, 3)
    mean, sd = net.predict(x)
    best = np.linalg.inv(np.eye(2) + response @ response.T / 1.5**2)
    assert sd.mean(0) / [0.1, 0.05] == pytest.approx(np.sqrt(np.diag(best)), rel=0.2)
    assert (((mean - theta) / sd)**2).mean(0) == pytest.approx([0.85, 0.85], abs=0.2)


def test_it_computes_on_one_thread_whatever_the_number_before(monkeypatch):
    """Sums on several threads round otherwise, but not on every machine and for every size."""
    used, backward, before = set(), torch.Tensor.backward, torch.get_num_threads()

    def record(*words, **more):
        used.add(torch.get_num_threads())
        return backward(*words, **more)
    monkeypatch.setattr(torch.Tensor, "backward", record)
    torch.set_num_threads(2)
    try:
        fitted(n=100)
    finally:
        torch.set_num_threads(before)
    assert used == {1}


def test_weights_follow_from_the_seed_alone(small):
    threads, weights = torch.get_num_threads(), [small.net.state_dict()]
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            torch.manual_seed(n)
            weights.append(fitted(n=300).net.state_dict())
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(weights[0][k], w[k]) for w in weights[1:] for k in w)
    other = fitted(n=300, seed=2).net.state_dict()["0.weight"]
    assert not torch.equal(other, weights[0]["0.weight"])


def test_no_two_layers_schedules_or_seeds_share_their_dropout():
    """A seed plus the layer's number gave layer 2 of seed 1 what layer 1 of seed 2 had."""
    states = [module.generator.get_state().numpy().tobytes()
              for seed in (1, 2, 3) for passes in dense.LOOKS
              for module in dense.first_networks(np.zeros(5), passes, recipe(seed=seed))
              if isinstance(module, Dropout)]
    assert len(states) == len(set(states)) == 3 * 3 * 2


def test_saved_networks_are_the_same(tmp_path, small):
    _, x, _ = world(50, 4)
    small.save(tmp_path / "model.pt")
    again = dense.Dense.load(tmp_path / "model.pt")
    assert np.array_equal(again.predict(x)[0], small.predict(x)[0])
    assert again.recipe == small.recipe and again.history == small.history
    network.save_torch(tmp_path / "other.pt", {"settings": {}})
    network.save_torch(tmp_path / "net.pt", {"settings": small.recipe.stored(), "weights": {}})
    for name in ("other.pt", "none.pt", "net.pt"):
        with pytest.raises(InputError) as error:
            dense.Dense.load(tmp_path / name)
        one_line(error, name)


def test_a_misspelt_setting_cannot_pass(small):
    with pytest.raises(TypeError, match="layer"):
        recipe(layer=[3])
    with pytest.raises(TypeError, match="layer"):
        dense.Recipe(**small.recipe.stored(), layer=[3])


def test_maps_that_teach_nothing_end_in_words():
    theta, x, _ = world(300, 1)
    with pytest.raises(RunError) as error:
        dense.fit(x[None], theta, np.full_like(x, np.nan), theta, recipe())
    one_line(error, "not finite")


def test_side_by_side_layers_are_linear_layers():
    side, x = dense.Side(3, 5, 4), torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    for k in range(3):
        oracle = torch.nn.functional.linear(x[k], side.weight[k].T, side.bias[k, 0])
        assert torch.allclose(side(x)[k], oracle, atol=1e-6)
    spread = dense.Side(1, 400, 300).weight.std().item()
    assert spread == pytest.approx(1.0 / np.sqrt(3 * 400), rel=0.02)


# ---------------------------------------------------------------- stacking
def statistics_alone(data, *options, out="alone"):  # noqa: F811
    return start(data, *options, out=out,
                 quick=["--quiet", "--threads", "2", "--model", "statistics", "--folds", "1"])


def test_stacking_weighs_by_the_inverse_variance_and_leaves_each_group_out():
    rng = np.random.default_rng(1)
    truth = rng.normal([0.3, 0.8], [0.1, 0.05], (4000, 2))
    one = truth + rng.normal(0.0, [0.02, 0.01], truth.shape)
    two = truth + rng.normal(0.0, [0.04, 0.03], truth.shape)
    known, group = 3000, np.arange(3000) % 4
    estimate, weights = predict.stack(np.concatenate([one, two], 1), truth[:known], group)
    assert weights.shape == (5, 2)
    precise = 1.0 / np.array([[0.02, 0.04], [0.01, 0.03]])**2
    for k, best in enumerate(precise):
        assert weights[[k, 2 + k], k] == pytest.approx(best / best.sum(), abs=0.02)
        # S_8 says nothing about Omega_m, nor the reverse
        assert (weights[[1 - k, 3 - k, 4], k] == 0.0).all()
    error = estimate[known:] - truth[known:]
    assert (error**2).mean(0) == pytest.approx(1.0 / precise.sum(1), rel=0.15)
    assert np.allclose(estimate[known:], np.c_[one, two, np.ones(4000)][known:] @ weights)
    # a map's own truth, and its group's, do not reach its prediction; all others' do
    other = truth[:known].copy()
    other[group == 2] += rng.normal(0.0, 0.1, other[group == 2].shape)
    moved, _ = predict.stack(np.concatenate([one, two], 1), other, group)
    same = np.abs(moved - estimate).max(1) == 0.0
    assert same[:known][group == 2].all() and not same[:known][group != 2].any()
    assert not same[known:].any()
    alone, _ = predict.stack(one, truth[:known], np.zeros(known, int))
    assert np.isfinite(alone).all()


def test_a_run_of_two_parts(data):  # noqa: F811
    options = ("--model", "compact+statistics", *SMALL, "--target", "both")
    work = start(data, *options)
    file = predict.predict(work)
    found, weights = file.groups["predictions"], file.groups["constant_data"]["stacking"]
    names = {p.name for p in work.folder.out.iterdir()}
    assert {"features.h5", "model_compact.pt", "model_statistics.pt", "predictions.h5",
            "predictions_compact.h5",
            "predictions_statistics.h5"} <= names and "model.pt" not in names
    parts = [hdf5.read(work.folder.out / f"predictions_{p}.h5", "predictions").groups["predictions"]
             for p in work.options.parts]
    both = np.concatenate([p["summaries"] for p in parts], 1)
    split = found["split"]
    for part in parts:
        assert np.array_equal(part["split"], split)
        assert np.array_equal(part["realisation"], found["realisation"])
    new = split != EMULATOR
    assert new.any()
    assert np.allclose(found["summaries"][new], np.c_[both, np.ones(len(both))][new] @ weights)
    truth = work.maps.theta[found["cosmology"][~new]]
    weak, good = both[~new, :2], both[~new, 2:]
    share = ((weak - good) * (truth - good)).sum(0) / ((weak - good)**2).sum(0)
    assert np.allclose(weights, [[share[0], 0.0], [0.0, share[1]], [1.0 - share[0], 0.0],
                                 [0.0, 1.0 - share[1]], [0.0, 0.0]])
    # one part alone gives what it gave here, and the parts made one by one the same file
    alone = predict.predict(statistics_alone(data, *SMALL, "--target", "both"))
    assert np.array_equal(alone.groups["predictions"]["summaries"], parts[1]["summaries"])
    for index in (1, 0):
        assert predict.predict(start(data, *options, "--only", str(index), out="jobs")) is None
    again = predict.predict(start(data, *options, "--threads", "1", out="jobs"))
    assert again.digest == file.digest
    # measured maps are the files': draws differ, fixed ones have the noise that the other part sees
    measured = hdf5.read(work.folder.out / "features.h5", "features")
    number = measured.coords["features"]["map"]                # of the maps, as in predictions.h5
    named = file.coords["predictions"]["map"][split != TEST]
    assert number[0] == work.maps.n_test and set(named) <= set(number)
    measured = measured.groups["features"]
    rows = work.split.rows(TRAIN)
    assert np.array_equal(measured["rows"], rows)
    assert measured["fresh"].shape[0] == handmade.MAX_DRAWS - 1
    draws = np.concatenate([measured["fixed"][rows][None], measured["fresh"]])
    assert np.ptp(draws, 0).max(1).min() > 0.0
    source = batches.Batches(work.maps.kappa.reshape(-1, work.maps.kappa.shape[-1]),
                             batches.Frame(work.maps.mask, pack=False), scale=1.0,
                             n_gal=work.maps.n_gal, seed=1)
    kappa = source.fetch(rows[3:4], noise=batches.FIXED)[:, 0]
    oracle = handmade.Features(work.maps.mask, work.maps.n_gal, (2.0, 4.0))(kappa)
    assert np.allclose(measured["fixed"][rows[3]], oracle[0], rtol=1e-6)


def test_measured_statistics_of_another_list_are_refused(data, monkeypatch):  # noqa: F811
    """A new statistic in the code is never silently missing from what an older run measured."""
    work = statistics_alone(data, *SMALL, out="listed")

    def measured():
        return handmade.features_file(work.maps, work.split, work.options, work.folder)
    file = measured()
    assert measured().digest == file.digest
    monkeypatch.setattr(handmade.OnePoint, "NAME", "another")
    with pytest.raises(InputError) as error:
        measured()
    one_line(error, "features.h5", "statistics.another")


@pytest.mark.parametrize("kept", ["whole", "damaged", "none"])
def test_measuring_goes_on_where_it_was_stopped(data, monkeypatch, kept):  # noqa: F811
    """Each block once, the same file; what is kept of other settings, or damaged, is left."""
    monkeypatch.setattr(handmade, "BLOCK", 16)
    monkeypatch.setattr(handmade, "SAVE_SECONDS", -1.0)
    inner, blocks = handmade.measure, []

    def features(out, stop_at=None):
        work, count = statistics_alone(data, *SMALL, out=f"{out}_{kept}"), len(blocks)

        def measure(statistic, source, rows, *more):
            if len(blocks) - count == stop_at:
                raise KeyboardInterrupt
            blocks.append(len(rows))
            return inner(statistic, source, rows, *more)
        monkeypatch.setattr(handmade, "measure", measure)
        return handmade.features_file(work.maps, work.split, work.options, work.folder)
    whole, total = features("whole"), len(blocks)
    with pytest.raises(KeyboardInterrupt):
        features("stopped", 3)
    path = whole.path.parents[1] / f"stopped_{kept}" / handmade.PART_FILE
    if kept == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    elif kept == "none":
        path.unlink()
    assert features("stopped").digest == whole.digest and not path.exists()
    assert len(blocks) == 2 * total + (0 if kept == "whole" else 3) and max(blocks) == 16


def folds(data, threads, out):
    return start(data, *SMALL, out=out, quick=[
        "--quiet", "--threads", str(threads), "--model", "statistics", "--folds", "2"])


def test_folds_train_at_once_with_the_bits_of_one_after_the_other(data, monkeypatch):  # noqa: F811
    alone = predict.predict(folds(data, 1, "one_by_one"))
    inner, meeting = dense._train, threading.Barrier(2, timeout=60)     # breaks if one comes alone

    def train(x, y, passes, *more):
        if -(-dense.LOOKS[0] // handmade.MAX_DRAWS) == passes:
            meeting.wait()
        return inner(x, y, passes, *more)
    monkeypatch.setattr(dense, "_train", train)
    both = predict.predict(folds(data, 2, "at_once"))
    assert both.digest == alone.digest
    weights = [[dense.Dense.load(path).net.state_dict() for path in sorted(
        file.path.parent.glob("model_*.pt"))] for file in (alone, both)]
    assert len(weights[0]) == 2
    for one, other in zip(*weights, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


# of 1500 maps the third is tried after 4 % of the squared error
@pytest.mark.parametrize("loss, values, kept, tried", [
    ("mse", (0.20, 0.19, 0.195), 1, 3), ("mse", (0.20, 0.195, 0.1), 1, 2),
    ("mse", (0.20, 0.21, 0.1), 0, 2), ("kl", (-1.50, -1.48, -1.485), 0, 2),
    ("kl", (-1.50, -1.53, -1.6), 1, 2), ("kl", (-0.02, -0.1, -0.2), 2, 3),
    ("mse", (0.2, np.nan, 0.1), 0, 2)])
def test_the_best_schedule_is_kept_and_longer_ones_are_tried_where_they_may_pay(
        monkeypatch, loss, values, kept, tried):
    theta, x, _ = world(1500, 1)
    nets, left = [], list(values)

    def train(x, y, passes, *more):
        nets.append(torch.nn.Linear(1, 1))
        return nets[-1], 0.0
    monkeypatch.setattr(dense, "_train", train)
    monkeypatch.setattr(dense, "_averaged", lambda net, x: None)
    monkeypatch.setattr(dense.Recipe, "loss_function",
                        lambda self: lambda *of: torch.tensor(left.pop(0)))
    found = dense.fit(x[None], theta, x, theta, recipe(loss=loss))
    assert found.net is nets[kept] and len(nets) == tried == len(found.history)


def test_folds_of_an_unbroken_run_after_one_of_them_was_lost(data, monkeypatch):  # noqa: F811
    """A network that was loaded while another's first weights were drawn moved their bits."""
    whole = folds(data, 2, "unbroken")
    digest = predict.predict(whole).digest
    for name in ("predictions.h5", "predictions_f1_m0.h5", "model_f1_m0.pt"):
        (whole.folder.out / name).unlink()
    assert predict.predict(folds(data, 2, "unbroken")).digest == digest
    # other settings are refused before any network is trained
    for path in [whole.folder.out / "predictions.h5", *whole.folder.out.glob("*_f1_m0*"),
                 whole.folder.out / "predictions_f0_m0.h5"]:
        path.unlink()
    monkeypatch.setattr(dense, "_train", None)
    work = start(data, *SMALL, "--model-option", "layers=9,6", out="unbroken", quick=[
        "--quiet", "--threads", "2", "--model", "statistics", "--folds", "2"])
    with pytest.raises(InputError) as error:
        predict.predict(work)
    one_line(error, "model_f0_m0.pt", "layers")


def test_an_error_of_one_fold_ends_the_others(data, monkeypatch):  # noqa: F811
    """Ctrl-C in a notebook, where no handler is, waited for all that the others had to do."""
    work, steps, inner = folds(data, 2, "broken"), [], dense.learning_rate

    def rate(*words):
        steps.append(words)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return inner(*words)
    monkeypatch.setattr(dense, "learning_rate", rate)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(work)
    assert len(steps) < 40 and not list(work.folder.out.glob("model*"))
    monkeypatch.undo()
    assert predict.predict(work).digest == predict.predict(folds(data, 1, "as_ever")).digest


def test_a_signal_ends_all_folds_within_a_step(data, monkeypatch):  # noqa: F811
    work, steps, inner = folds(data, 2, "stopped"), [], dense.learning_rate

    def rate(*words):
        steps.append(words)
        if len(steps) == 9:
            progress._came.append(signal.SIGTERM)
        return inner(*words)
    monkeypatch.setattr(dense, "learning_rate", rate)
    try:
        with pytest.raises(progress.Stopped):
            predict.predict(work)
    finally:
        progress._came.clear()
    assert len(steps) < 40 and not list(work.folder.out.glob("model*"))
    monkeypatch.undo()
    assert predict.predict(work).digest == predict.predict(folds(data, 1, "whole")).digest


def test_two_parts_with_folds_and_error_bars(data):  # noqa: F811
    options = ("--model", "compact+statistics", *SMALL, "--folds", "2", "--loss", "kl", "--target",
               "both")
    work = start(data, *options)
    file = predict.predict(work)
    found, constant = file.groups["predictions"], file.groups["constant_data"]
    assert found["summaries"].shape[1] == 2 and constant["between"].shape == (2, 2)
    assert constant["stacking"].shape == (5, 2)
    assert (np.linalg.eigvalsh(constant["between"]) > 0).all()
    paths = work.folder.out / "predictions_{}_f{}_m0.h5"
    parts = [[hdf5.read(str(paths).format(p, k), "predictions").groups["predictions"]
              for k in range(2)] for p in work.options.parts]
    held = [[f["split"] != EMULATOR for f in files] for files in parts]
    both = np.concatenate([np.mean([f["summaries"][h] for f, h in zip(files, hs)], 0)
                           for files, hs in zip(parts, held)], 1)
    new = found["split"] != EMULATOR
    assert set(found["split"][new]) == {HOLDOUT, TEST}
    assert np.allclose(found["summaries"][new],
                       np.c_[both, np.ones(len(both))] @ constant["stacking"])
    logs = np.mean([np.log(f["sd"][h]) for files, hs in zip(parts, held)
                    for f, h in zip(files, hs)], 0)
    assert np.allclose(found["sd"][new], np.exp(logs))


@pytest.mark.parametrize("options, words", [
    (("--model", "compact+huge"), "huge"), (("--model", "compact+compact"), "different"),
    (("--model", "compact+statistics", "--model-option", "depth=3"), "depth"),
    (("--model-option", "scales=4,2"), "rising"), (("--model-option", "draws=-1"), "draws")])
def test_wrong_models_are_refused(data, options, words):  # noqa: F811
    with pytest.raises(InputError) as error:
        predict.predict(start(data, *options)
                        if "--model" in options else statistics_alone(data, *options))
    one_line(error, words)


def test_options_of_parts():
    found = models.model_options("simple_cnn+statistics", ["draws=2", "dropout=0,0"])
    assert found["statistics"]["draws"] == 2 and found["simple_cnn"]["dropout"] == [0.0, 0.0]
    assert "dropout" not in found["statistics"]
    assert set(found["simple_cnn"]) == set(models.MODELS["simple_cnn"])
    whole = NetworkOptions(model="simple_cnn+statistics", model_options=found)
    part = whole.of_part("statistics")
    assert part.model == "statistics" and part.model_options == found["statistics"]
    assert whole.of_statistics() == found["statistics"]
    assert not whole.of_part("simple_cnn").of_statistics()
