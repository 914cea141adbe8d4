"""Folds and members: who trains on what, whose predictions are averaged, what fits the average."""
import json

import h5py
import numpy as np
import pytest
from conftest import one_line
from runs import N_TEST, QUICK, data, interrupt, shared, start  # noqa: F401
from trainings import FRAME, KAPPA, N_COSMOLOGY, N_REALISATION

import run_direct
import run_mcmc
from wl.core import hdf5
from wl.core.checks import InputError, RunError
from wl.core.params import EMULATOR, HOLDOUT, TEST, TRAIN
from wl.maps import batches, dataset, splits
from wl.posterior import covariance, infer
from wl.posterior.options import PosteriorOptions, Wanted
from wl.summaries import options as choices
from wl.summaries import predict, training
from wl.summaries.predict import Job
from wl.summaries.network import Network


# ---------------------------------------------------------------- who trains on what
@pytest.mark.parametrize("n, folds, holdout",
                         [(8, 3, 0.0), (256, 5, 0.15), (32, 2, 0.1), (33, 32, 0.0)])
def test_folds_part_the_realisations(n, folds, holdout):
    split, fold, shared = splits.split_folds(n, folds, holdout, seed=1)
    held = split == HOLDOUT
    assert held.sum() == (max(1, round(holdout * n)) if holdout else 0) and (fold[held] == -1).all()
    assert (split[~held] == EMULATOR).all() and not shared[held].any()
    assert shared.sum() == max(1, round(n / 32))
    sizes = np.bincount(fold[~held], minlength=folds)
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 1 and sizes.min() >= 1
    again = splits.split_folds(n, folds, holdout, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip((split, fold, shared), again))
    assert n < 10 or not np.array_equal(fold, splits.split_folds(n, folds, holdout, seed=2)[1])


@pytest.mark.parametrize("n, folds", [(8, 8), (8, 1), (2, 2), (400, 101), (8, 0)])
def test_impossible_folds_are_refused(n, folds):
    with pytest.raises(InputError) as error:
        splits.split_folds(n, folds, 0.0, seed=1)
    one_line(error, "--folds", f"got {folds}")


def test_jobs_share_no_seed_and_no_training_map_with_their_fold(data):
    work = start(data, "--folds", "3", "--members", "2")
    jobs = [Job(work, i) for i in range(6)]
    assert len({j.seed for j in jobs}) == 6 and jobs[0].seed == work.folder.seed
    assert len({j.model for j in jobs} | {j.checkpoint for j in jobs}
               | {j.predictions for j in jobs}) == 18
    for job in jobs:
        split = job.task()[0]["split"]
        assert (split[work.split.fold == job.fold] != TRAIN).all()
        assert (split[work.split.is_shared] == HOLDOUT).all()
        assert ((split == TRAIN) == ((work.split.fold != job.fold) & (work.split.fold >= 0)
                                     & ~work.split.is_shared)).all()
        assert ((split == EMULATOR)
                == ((work.split.fold == job.fold) & ~work.split.is_shared)).all()
        trained = work.split.rows_of(split == TRAIN)
        assert not np.intersect1d(trained, job.rows()).size
        assert np.isin(work.split.rows_of(work.split.is_shared), job.rows()).all()
    assert work.split.n_train == len(jobs[0].task()[1]) == (
        jobs[0].task()[0]["split"] == TRAIN).sum() * N_COSMOLOGY
    # a member keeps its seed and file when more members are asked for
    more = start(data, "--folds", "3", "--members", "4")
    assert Job(more, 4).seed == jobs[2].seed and Job(more, 4).predictions == jobs[2].predictions
    alone = Job(start(data), 0)
    assert alone.model.name == "model.pt" and alone.seed == 1


# ---------------------------------------------------------------- a whole run, network by network
FOUR = ("--folds", "2", "--members", "2", "--loss", "kl")


@pytest.fixture(scope="module")
def four(shared):  # noqa: F811
    """Work and file of a run of two folds of two members with error bars."""
    work = start(shared, *FOUR, out="four")
    return work, predict.predict(work)


@pytest.fixture(scope="module")
def two(shared):  # noqa: F811
    """Work and file of a run of two members."""
    work = start(shared, "--members", "2", out="two")
    return work, predict.predict(work)


def test_predictions_are_out_of_fold_and_averaged(data):
    work = start(data, "--folds", "3", "--members", "2", "--target", "both")
    file = predict.predict(work)
    found, constant = file.groups["predictions"], file.groups["constant_data"]
    split, realisation, cosmology = found["split"], found["realisation"], found["cosmology"]
    assert (split == EMULATOR).sum() == N_COSMOLOGY * (N_REALISATION - 1)
    assert (split == TEST).sum() == N_TEST
    nets = {(k, m): Network.load(work.folder.out / f"model_f{k}_m{m}.pt") for k in range(3)
            for m in range(2)}
    assert len({json.dumps(n.recipe.split) for n in nets.values()}) == 3
    weights = [n.net.features[0][0].weight.detach().numpy().tobytes() for n in nets.values()]
    assert len(set(weights)) == 6
    scale = nets[0, 0].recipe.scale
    source = batches.Batches(KAPPA, FRAME, scale=scale, n_gal=3000.0, seed=1)
    rows = cosmology * N_REALISATION + realisation
    for k in range(3):
        mine = (split == EMULATOR) & (work.split.fold[realisation] == k)
        assert mine.any() and (found["fold"][mine] == k).all()
        assert all(nets[k, m].recipe.split[r] != TRAIN for m in range(2)
                   for r in set(realisation[mine]))
        oracle = np.mean([nets[k, m].predict(source, rows[mine], symmetries=1)[0]
                          for m in range(2)], 0)
        assert np.allclose(found["summaries"][mine], oracle, rtol=0, atol=1e-6)
    held = split == HOLDOUT
    each = [np.mean([nets[k, m].predict(source, rows[held], symmetries=1)[0] for m in range(2)], 0)
            for k in range(3)]
    assert np.allclose(found["summaries"][held], np.mean(each, 0), rtol=0, atol=1e-6)
    assert (found["fold"][held] == -1).all()
    noisy = np.load(data / dataset.TEST_FILE)
    test = batches.Batches(noisy, FRAME, scale=scale, n_gal=None)
    each = [n.predict(test, np.arange(N_TEST), noise=batches.NO_NOISE, symmetries=1)[0]
            for n in nets.values()]
    assert np.allclose(found["summaries"][split == TEST], np.mean(each, 0), rtol=0, atol=1e-6)
    # the spread between the folds' networks, on maps that none was trained on
    rows = work.split.rows_of(work.split.is_shared)
    assert all(np.array(n.recipe.split)[work.split.is_shared].tolist() == [HOLDOUT]
               for n in nets.values())
    each = [np.mean([nets[k, m].predict(source, rows, symmetries=1)[0] for m in range(2)], 0)
            for k in range(3)]
    oracle = np.mean([np.cov(np.array(each)[:, i].T) for i in range(len(rows))], 0)
    assert np.allclose(constant["between"], oracle, rtol=1e-4)


def test_networks_made_one_by_one_give_the_same_file(data, four):
    options, (_, whole) = FOUR, four
    for index in (2, 0, 3):
        assert predict.predict(start(data, *options, "--only", str(index), out="jobs")) is None
    out = data.parent / "jobs"
    made = {p.name: p.stat().st_mtime_ns for p in out.glob("*_f*")}
    ends = ("model", ".pt"), ("predictions", ".h5")
    assert set(made) == {f"{kind}_f{tag}{end}" for kind, end in ends
                         for tag in ("0_m0", "1_m0", "1_m1")}
    merged = predict.predict(start(data, *options, out="jobs"))
    assert merged.digest == whole.digest
    # not done again
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in made.items())
    # a part that is lost is made again from its network, others stay; the result is the same
    (out / "predictions.h5").unlink()
    (out / "predictions_f1_m0.h5").unlink()
    assert predict.predict(start(data, *options, out="jobs")).digest == whole.digest
    assert (out / "model_f1_m0.pt").stat().st_mtime_ns == made["model_f1_m0.pt"]
    # more members: those there are serve
    work = start(data, *options[:3], "3", *options[4:], "--force", out="jobs")
    more = predict.predict(work)
    assert more.digest != whole.digest and (out / "model_f1_m2.pt").exists()
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in made.items()
               if "model" in name)


@pytest.mark.parametrize("name", ["predictions_f0_m0.h5", "model_f0_m0.pt", "predictions_f1_m0.h5"])
def test_foreign_files_in_place_of_a_network_are_refused(data, name):
    index = name.split("_f")[1][0]
    work = start(data, "--folds", "2", "--only", index)
    work.folder.out.mkdir(exist_ok=True)
    (work.folder.out / name).write_bytes(b"not ours" * 100)
    with pytest.raises(InputError) as error:
        predict.predict(work)
    one_line(error, name)
    assert (work.folder.out / name).read_bytes() == b"not ours" * 100


def test_a_network_of_other_settings_is_refused(data):
    work = start(data, "--folds", "2", "--only", "0")
    predict.predict(work)
    with pytest.raises(InputError) as error:
        predict.predict(start(data, "--folds", "2", "--only", "0", "--learning-rate", "0.001"))
    one_line(error, "predictions_f0_m0.h5", "learning_rate", "--force")


@pytest.mark.parametrize("file", ["checkpoint.pt", "model.pt"])
def test_trainings_of_other_settings_are_not_thrown_away(data, monkeypatch, file):
    """Of a network without predictions yet: in mid-training, or finished."""
    work = start(data)
    with monkeypatch.context() as patch:
        # dies there
        patch.setattr(Network, "save" if file == "checkpoint.pt" else "predict", None)
        with pytest.raises(TypeError):
            predict.predict(work)
    before = (work.folder.out / file).read_bytes()
    with pytest.raises(InputError) as error:
        predict.predict(start(data, "--learning-rate", "0.001"))
    one_line(error, file, "learning_rate", "0.001", "--force")
    assert (work.folder.out / file).read_bytes() == before
    found = predict.predict(start(data, "--learning-rate", "0.001", "--force"))
    plain = predict.predict(start(data, "--learning-rate", "0.001", out="plain"))
    assert found.digest == plain.digest


def test_a_run_goes_on_in_the_number_type_it_began_with(data, two, monkeypatch):
    """--precision auto on machines that differ: after a kill, for members; another is refused."""
    auto = ("--members", "2", "--precision", "auto")
    whole = two[1]
    monkeypatch.setattr(choices, "_precision", lambda: "float32")
    with monkeypatch.context() as patch:             # in the second epoch of two
        interrupt(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(start(data, *auto))
    assert len(list((data.parent / "out").glob("checkpoint*"))) == 1
    monkeypatch.setattr(choices, "_precision", lambda: "float64")
    predict.predict(start(data, *auto, "--only", "0"))
    assert predict.predict(start(data, *auto)).digest == whole.digest
    assert start(data, *auto, "--force").options.precision == "float64"
    with pytest.raises(InputError) as error:
        predict.predict(start(data, "--members", "2", "--precision", "float64"))
    one_line(error, "precision", "float32", "float64")


DRAWS = ("--folds", "2", "--members", "2", "--loss", "score", "--model", "resnet_reduced",
         "--model-option", "stem=3")
THIN = [a for a in QUICK if "widths" not in a and "hidden" not in a and a != "--model-option"]
THIN += ["--model-option", "widths=3,4", "--model-option", "hidden=4,3"]


@pytest.fixture(scope="module")
def unbroken(shared):  # noqa: F811
    """Two folds of two members, with all options that draw or average."""
    return predict.predict(start(shared, *DRAWS, out="unbroken", quick=THIN))


@pytest.mark.parametrize("killed_at", [5, 12, 20])
def test_a_run_killed_in_mid_epoch_of_any_network_goes_on(data, unbroken, monkeypatch, killed_at):
    """In the second epoch of the first, second, third network."""
    with monkeypatch.context() as patch:
        interrupt(patch, killed_at)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(start(data, *DRAWS, out="killed", quick=THIN))
    out = data.parent / "killed"
    assert len(list(out.glob("checkpoint*"))) == 1 and not (out / "predictions.h5").exists()
    assert predict.predict(start(data, *DRAWS, out="killed", quick=THIN)).digest == unbroken.digest
    assert not list(out.glob("checkpoint*"))


@pytest.mark.parametrize("options", [
    ("--only", "0"), ("--folds", "2", "--only", "2"), ("--members", "2", "--only", "-1"),
    ("--folds", "0"), ("--members", "0"), ("--folds", "9")])
def test_wrong_numbers_of_networks_are_refused(data, options):
    with pytest.raises(InputError) as error:
        predict.predict(start(data, *options))
    one_line(error, options[-2])
    assert not list(data.parent.glob("out/*.pt"))


def test_error_bars_are_geometric_means_and_statistics_are_of_the_average(four):
    """sd over members, over folds for test maps; what makes the emulator, rescaled by `between`."""
    work, file = four
    found = file.groups["predictions"]
    n = int((found["split"] == EMULATOR).sum())
    parts = {(k, m): hdf5.read(work.folder.out / f"predictions_f{k}_m{m}.h5").groups["predictions"]
             for k in range(2) for m in range(2)}
    logs = {k: np.mean([np.log(parts[k, m]["sd"]) for m in range(2)], 0) for k in range(2)}
    tests = [logs[k][parts[k, 0]["split"] == TEST] for k in range(2)]
    assert np.allclose(np.log(found["sd"][found["split"] == TEST]), np.mean(tests, 0), atol=1e-12)
    for k in range(2):
        both = zip(parts[k, 0]["cosmology"], parts[k, 0]["realisation"])
        at = {(c, r): i for i, (c, r) in enumerate(both)}
        mine = np.flatnonzero(found["fold"][:n] == k)
        rows = [at[c, r] for c, r in zip(found["cosmology"][mine], found["realisation"][mine])]
        assert len(rows) and np.allclose(np.log(found["sd"][mine]), logs[k][rows], atol=1e-12)
    per, rows = infer.emulator_maps(file)
    raw = found["summaries"][rows].reshape(per.shape)
    assert np.array_equal(found["cosmology"][rows], np.repeat(np.arange(N_COSMOLOGY), per.shape[1]))
    expected = covariance.as_average(raw, file.groups["constant_data"]["between"], 2)
    assert np.array_equal(per, expected) and not np.allclose(per, raw, rtol=1e-6)


def test_members_without_folds(two):
    work, found = two[0], two[1].groups
    nets = [Network.load(work.folder.out / f"model_f0_m{m}.pt") for m in range(2)]
    assert nets[0].recipe.split == nets[1].recipe.split == work.split.code.tolist()
    source = batches.Batches(KAPPA, FRAME, scale=nets[0].recipe.scale, n_gal=3000.0, seed=1)
    rows = work.split.rows(EMULATOR)
    oracle = np.mean([n.predict(source, rows, symmetries=1)[0] for n in nets], 0)
    assert np.allclose(found["predictions"]["summaries"][:len(rows)], oracle, rtol=0, atol=1e-6)
    assert "between" not in found["constant_data"] and "fold" not in found["predictions"]


def test_a_dead_network_is_refused_by_name(data, monkeypatch):
    """A training whose last layer ends as its bias alone; beside a part that lives it may."""
    train = training.train

    def dead(*args, **options):
        network = train(*args, **options)
        network.net.head[-1].weight.data.zero_()
        return network
    monkeypatch.setattr(training, "train", dead)
    for options, name in (((), "compact gives"), (("--folds", "2"), "compact, fold 0, gives")):
        with pytest.raises(RunError) as error:
            predict.predict(start(data, *options, out=f"out{len(options)}"))
        one_line(error, name, "Omega_m", "--force", "--learning-rate", "--seed")
        assert not list(data.parent.glob("out*/predictions.h5"))
    small = [f"--model-option={o}" for o in ("networks=2", "layers=8,6", "scales=2,4")]
    work = start(data, "--model", "compact+statistics", *small, out="both")
    assert np.ptp(predict.predict(work).groups["predictions"]["summaries"], 0).min() > 0.0


def test_direct_and_mcmc_run_with_folds(data):
    for parser, method in ((run_mcmc.parser, "network"), (run_direct.parser, "direct")):
        sampler = {"network": ("--sampler", "exact")}.get(method, ("--recalibrate", "temperature"))
        work = start(data, "--folds", "2", "--loss", "score", *sampler,
                     parser=parser, method=method, out=method)
        posterior = PosteriorOptions(sampler="exact") if method == "network" else PosteriorOptions(
            recalibrate="temperature")
        wanted = Wanted(work.split.options.target)
        infer.refuse_early(predict.settings_of(work), work.split.n_emulator, work.maps.theta,
                           posterior, work.folder,
                           wanted)
        path = infer.infer(predict.predict(work), posterior, work.folder, wanted)
        with h5py.File(path) as file:
            assert file["summary/posterior_mean"].shape == (N_TEST, 2)
            assert np.isfinite(file["summary/errorbar"][:]).all()
            assert json.loads(file.attrs["settings"])["loss"] == "score"


# ---------------------------------------------------------------- statistics that fit the average
def world(seed, folds=4, n_cosmology=30, n=40, n_test=3000, members=1):
    """Predictions of networks that share a part of their error, have one each, and an offset each.

    Returns out-of-fold predictions (n_cosmology, n, 2), all networks' for shared maps (folds,
    n_shared, 2), test means (n_test, 2), the true mean and covariance of the latter about the mean
    over the offsets.
    """
    rng = np.random.default_rng(seed)
    common, own = np.array([[1.0, 0.3], [0.3, 0.8]]), np.array([[0.5, -0.2], [-0.2, 0.9]])
    offset = 0.3 * rng.normal(size=(folds, 2))
    mean = 10.0 * rng.normal(size=(n_cosmology, 1, 2))

    def predict(shape):
        shared = rng.multivariate_normal([0, 0], common, shape)
        each = rng.multivariate_normal([0, 0], own, (folds, *shape))
        return shared + offset[(slice(None),) + (None,) * len(shape)] + each

    every = mean + predict((n_cosmology, n))
    fold = np.arange(n) % folds
    out_of_fold = every[fold, :, np.arange(n)].transpose(1, 0, 2)
    shared, test = predict((200,)), predict((n_test,)).mean(0) - offset.mean(0)
    return out_of_fold, shared, test, common + own / folds


@pytest.mark.parametrize("folds", [2, 5])
def test_statistics_scatter_like_the_mean_over_the_folds(folds):
    raw, fitted, test = [], [], []
    for seed in range(12):
        estimate, shared, average, truth = world(seed, folds)
        scaled = covariance.as_average(estimate, predict.covariance_between(shared), folds)
        assert np.allclose(scaled.mean(1), estimate.mean(1))
        raw.append(np.mean([np.cov(e.T) for e in estimate], 0))
        fitted.append(np.mean([np.cov(e.T) for e in scaled], 0))
        inverse = np.linalg.inv(fitted[-1])
        test.append(np.mean(np.einsum("ni,ij,nj->n", average, inverse, average)) / 2)
    assert np.allclose(np.mean(fitted, 0), truth, atol=0.08)
    assert np.mean(test) == pytest.approx(1.0, abs=0.05)         # pulls of test maps
    wide = np.einsum("ni,ij,nj->n", average, np.linalg.inv(raw[-1]), average).mean() / 2
    # negative control: out-of-fold scatter as it is
    assert wide < 0.85
    assert np.abs(np.mean(raw, 0) - truth).max() > 0.2


@pytest.mark.parametrize("d", [1, 3])
def test_as_average_is_exact(d):
    """A S A^T = S - (1 - 1/K) D to rounding, whatever the dimension; limits of it."""
    rng = np.random.default_rng(d)
    size = np.array([1.0, 1e-3, 50.0])[:d]
    estimate = rng.normal(size=(7, 9, d)) @ rng.normal(size=(d, d)) * size

    def scatter(values):
        residual = (values - values.mean(1, keepdims=True)).reshape(-1, d)
        return residual.T @ residual / (7 * 8)
    s = scatter(estimate)
    root = np.linalg.cholesky(s)
    between = root @ np.diag(np.linspace(0.1, 0.7, d)) @ root.T
    assert np.allclose(scatter(covariance.as_average(estimate, between, 4)), s - 0.75 * between,
                       rtol=1e-8)
    assert np.allclose(covariance.as_average(estimate, between, 1), estimate)
    assert np.allclose(covariance.as_average(estimate, 0 * between, 4), estimate)
    # never below S / K
    assert np.allclose(scatter(covariance.as_average(estimate, 5 * s, 4)), s / 4, rtol=1e-8)
    still = np.repeat(estimate[:, :1], 9, 1)
    assert np.allclose(covariance.as_average(still, between, 4), still, rtol=1e-12, atol=0)


def test_covariance_between_networks():
    rng = np.random.default_rng(3)
    estimate = rng.normal(size=(4, 6, 2))
    oracle = np.mean([np.cov(estimate[:, i].T) for i in range(6)], 0)
    assert np.allclose(predict.covariance_between(estimate), oracle)


def test_combine_takes_each_map_from_its_fold():
    # map 5 trained neither network; it is fold 1's
    kept = [np.array([2, 5, 9]), np.array([3, 5, 7])]
    values = [np.array([[2.0], [5.0], [9.0], [100.0]]), np.array([[30.0], [50.0], [70.0], [300.0]])]
    found = predict.combine(values, kept, np.array([2, 3, 5, 7, 9]), np.array([0, 1, 1, 1, 0]))
    assert found[:, 0].tolist() == [2.0, 30.0, 50.0, 70.0, 9.0, 200.0]
