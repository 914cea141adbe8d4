"""A small data set in the public layout, and runs on it, for tests of all rooms."""
import json

import numpy as np
import pytest
from trainings import KAPPA, LABEL, N_COSMOLOGY, N_REALISATION

import run_mcmc
from wl.core import cli
from wl.core.progress import Progress
from wl.maps import dataset
from wl.maps.splits import MapOptions
from wl.simulate.simulate import locate
from wl.summaries import predict
from wl.summaries.options import NetworkOptions

QUICK = ["--model", "compact", "--epochs", "2", "--batch-size", "8", "--lanes", "2", "--precision",
         "float32", "--quiet", "--nstep", "500", "--model-option", "widths=3,4,4,5",
         "--model-option", "hidden=6", "--views", "1", "--threads", "2", "--folds", "1",
         "--no-figures"]
N_TEST = 5


@pytest.fixture()
def data(tmp_path):
    """A set of its own for each test."""
    return make_set(tmp_path / "set")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A set for all tests of a file, for runs that several of them look at."""
    return make_set(tmp_path_factory.mktemp("shared") / "set")


def make_set(folder):
    """The maps of test_training in the public layout, with a few noisy test maps of known truth."""
    mask = np.ones((64, 48), bool)
    mask[20:30, 10:15] = False
    label = np.zeros((N_COSMOLOGY, N_REALISATION, 5))
    label[..., :2] = LABEL.reshape(N_COSMOLOGY, N_REALISATION, 2)
    folder.mkdir()
    np.save(folder / dataset.MASK_FILE, mask)
    np.save(folder / "label.npy", label)
    np.save(folder / dataset.RELEASES["public"][0], KAPPA.reshape(N_COSMOLOGY, N_REALISATION, -1))
    noisy = KAPPA[:N_TEST] + np.random.default_rng(1).normal(0, 0.0026, KAPPA[:N_TEST].shape)
    np.save(folder / dataset.TEST_FILE, noisy.astype(np.float16))
    np.save(folder / "label_test.npy", label.reshape(-1, 5)[:N_TEST])
    (folder / dataset.SIMULATION_FILE).write_text(json.dumps({"settings": {"n_gal": 3000.0}}))
    return folder


def start(data, *options, out="out", parser=run_mcmc.parser, method="network", quick=QUICK):
    """A run as its script prepares it, before any work: predict.Work."""
    argv = [a for a in quick if a not in ("--nstep", "500")] if method == "direct" else quick
    words = ["--data", str(data), "--out", str(data.parent / out), *argv, *options]
    args = cli.parse(parser(), words)
    network = NetworkOptions.of(args, method)
    maps = locate(args)
    return predict.prepare(maps, MapOptions.of(args), network, cli.folder(args, "x"))


def interrupt(patch, count):
    """Let update number `count` of training and predicting be Ctrl-C."""
    steps = []

    class Interrupted(Progress):
        def update(self, step=1):
            steps.append(step)
            if len(steps) == count:
                raise KeyboardInterrupt
            super().update(step)
    for module in ("training", "predict"):
        patch.setattr(f"wl.summaries.{module}.Progress", Interrupted)
