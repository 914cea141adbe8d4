"""A network, the recipe that it is trained by, and its file.

    network = Network.load("data/runs/main/model.pt")
    mean, sd = network.predict(batches, rows, threads=2)
"""
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from typing import Any, Self

import numpy as np
import torch

from ..core.checks import InputError, RunError, choice
from ..core.files import atomic, to_json
from ..core.hdf5 import Var
from ..core.params import PARAMS, SCORE_WEIGHT
from ..core.progress import stop
from ..maps.batches import FIXED, FRESH, N_SYMMETRY, Batches
from .architectures import build
from .lanes import Lanes
from .options import LOSSES, PRECISIONS

NOISES = {"fresh": FRESH, "fixed": FIXED}
LOG_SIGMA_RANGE = (-7.0, 3.0)           # of the outputs; no gradient beyond


class Loss:
    """What a network is asked for: the mean over a batch of one loss.

    A network returns means, and log standard deviations where the loss has error bars, both in
    units of the label's standard deviation over the design. With error e and error bar s:
      mse    e^2, the mean over the parameters
      kl     e^2 / (2 s^2) + ln s, summed: the Gaussian negative log-likelihood (arXiv:2604.14451)
      score  e^2 / s^2 + ln s^2 + 1000 e^2, summed, in units of the parameters: minus the score

    name, label_sd: of options.LOSSES; (2,) float64, standard deviations of the labels
    Has has_sigma, whether there are error bars; n_out, how many numbers the network has to return.
    """

    def __init__(self, name: str, label_sd=(1.0, 1.0)):
        self.name, self.has_sigma = choice("--loss", name, LOSSES), name != "mse"
        self.label_sd = np.asarray(label_sd, np.float64)
        self.n_out = len(PARAMS) * (2 if self.has_sigma else 1)

    def __call__(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A scalar tensor from outputs (n, n_out) and standardised labels (n, 2)."""
        square = (target - out[:, :2])**2
        if not self.has_sigma:
            return square.mean()
        log_sigma = out[:, 2:].clamp(*LOG_SIGMA_RANGE)
        pull = square * torch.exp(-2.0 * log_sigma)
        if self.name == "kl":
            return (0.5 * pull + log_sigma).sum(1).mean()
        log_sd = torch.as_tensor(np.log(self.label_sd), dtype=out.dtype)
        variance = torch.as_tensor(self.label_sd**2, dtype=out.dtype)
        return (2.0 * (log_sigma + log_sd) + pull + SCORE_WEIGHT * variance * square).sum(1).mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What any network is asked for; values take the form that JSON has for them."""
    model: str                              # key of options.MODELS
    loss: str                               # of options.LOSSES
    seed: int                               # of weights, order, noise and dropout
    split: list[int]                        # code of each realisation, as in splits.Split
    label_mean: list[float]                 # of the 2 parameters, in their units: what labels are
    label_sd: list[float]                   # standardised by
    start: str = ""                         # digest of the network that training starts from

    def __post_init__(self):
        for name, value in json.loads(to_json(vars(self))).items():    # tuples, arrays as in files
            object.__setattr__(self, name, value)
        self.loss_function()                                           # checks it

    def stored(self) -> dict[str, Any]:
        """The dict that goes to files."""
        return dataclasses.asdict(self)

    def loss_function(self) -> Loss:
        """The loss that is asked for."""
        return Loss(self.loss, self.label_sd)

    def standardised(self, label: np.ndarray) -> torch.Tensor:
        """Labels (n, 2) in their units, as the targets of the loss, (n, 2) float32."""
        scaled = (label - np.array(self.label_mean)) / np.array(self.label_sd)
        return torch.from_numpy(scaled.astype(np.float32))

    def begin_from(self, net: torch.nn.Module, other) -> None:
        """Give a network of this recipe the weights of another Network or Dense.

        Its answers take the units of these labels. Raises InputError where it is built otherwise.
        """
        try:
            net.load_state_dict(other.net.state_dict())
        except RuntimeError as error:
            raise InputError(f"--init: expected networks built as {self.model} is here, with the "
                             f"same --model-option and statistics, got others "
                             f"({_first_line(error)}); give a run of this model") from None
        sd, new = np.array(other.recipe.label_sd), np.array(self.label_sd)
        ratio, n = sd / new, len(sd)
        shift = (np.array(other.recipe.label_mean) - np.array(self.label_mean)) / new
        *_, weight, bias = net.parameters()
        with torch.no_grad():
            ratio, shift, log = map(torch.as_tensor, (ratio, shift, np.log(ratio)))
            rows = weight[:n].T if weight.ndim == 2 else weight[..., :n]     # of nn.Linear, of Side
            rows *= ratio
            bias[..., :n] = bias[..., :n] * ratio + shift
            if bias.shape[-1] > n:
                bias[..., n:] += log

    def answers(self, out: np.ndarray, advice: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs (n, n_out) float64 of a network in the units of the labels.

        Returns means (n, 2), and error bars (n, 2) or None. Raises RunError with advice for NaN.
        """
        if not np.isfinite(out).all():
            raise RunError(f"the network {self.model} predicts NaN; {advice}")
        mean = np.array(self.label_mean) + np.multiply(self.label_sd, out[:, :2])
        return mean, np.exp(out[:, 2:]) * self.label_sd if out.shape[1] > 2 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Task):
    """All that the weights of a network on maps follow from, beside the maps themselves."""
    model_options: dict[str, Any]           # of the architecture, over options.MODELS[model]
    epochs: int                             # passes over the training maps
    batch_size: int                         # maps a step
    lanes: int                              # parts of a batch that run side by side
    learning_rate: float                    # peak of the one-cycle schedule
    weight_decay: float                     # AdamW's
    patience: int                           # epochs without gain that end the training; 0: none
    precision: str                          # of options.PRECISIONS
    noise: str                              # "fresh" at every use of a map, or "fixed" for a map
    frame: list[int]                        # rows, columns that the network sees
    scale: float                            # kappa that pixels are divided by
    n_gal: float | None                     # galaxies per square arcminute; None: maps have noise
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)    # digests of the set's files

    def __post_init__(self):
        super().__post_init__()
        choice("--precision", self.precision, PRECISIONS)
        choice("--noise", self.noise, tuple(NOISES))

    def batches_of(self, n_map: int) -> int:
        """Steps of an epoch on n_map maps; what is left over waits for the next epoch."""
        return max(1, n_map // self.batch_size)

    def build(self) -> torch.nn.Module:
        """A network with fresh weights, drawn from torch's global generator. Raises InputError."""
        net = build(self.model, tuple(self.frame), self.loss_function().n_out, **self.model_options)
        net = net.double() if self.precision == "float64" else net
        return net.to(memory_format=torch.channels_last)


class Network:
    """A trained network with all that is needed to use it.

    net, recipe: module (n, 1, rows, columns) -> (n, n_out), and what it was trained by
    history, seconds: {"epoch", "loss", "validation"} of each epoch, and what each took
    scaling: arrays of the names SCALING, of what else has to be kept with the weights
    """

    RECIPE, SCALING = Recipe, ()

    def __init__(self, net: torch.nn.Module, recipe: Task, history=(), seconds=(), scaling=()):
        self.net, self.recipe, self.history, self.seconds = net, recipe, [*history], [*seconds]
        vars(self).update(zip(self.SCALING, scaling, strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Write the network to a file, whole or not at all."""
        scaling = {name: torch.from_numpy(getattr(self, name)) for name in self.SCALING}
        save_torch(path, {"settings": self.recipe.stored(), "weights": self.net.state_dict(),
                          "history": self.history, "seconds": self.seconds, **scaling})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """The network of a file. Raises InputError for a file that is no network of ours."""
        content = load_torch(path)
        with of_this_version(path, "network"):
            recipe = cls.RECIPE(**content["settings"])
            scaling = [content[name].numpy() for name in cls.SCALING]
            net = recipe.build(*scaling)
            net.load_state_dict(content["weights"])
            return cls(net, recipe, content["history"], content["seconds"], scaling)

    def predict(self, batches: Batches, rows: np.ndarray, *, noise: int = FIXED, threads: int = 1,
                symmetries: int = N_SYMMETRY, batch_size: int = 32, progress=None
                ) -> tuple[np.ndarray, np.ndarray | None]:
        """Means, and error bars where the loss has them, averaged over flips of the frame.

        batches, rows: the maps, and the indices (n,) int of those that are wanted
        noise: of maps.batches; each map's noise is the same in all its views
        threads, symmetries: int, which changes no result; 1, 2 or 4 flips
        batch_size, progress: int, maps at a time; with update(n), or None
        Returns mean (n, 2) float64 and sd (n, 2) float64 or None, in the units of the labels; of
        error bars the mean logarithm. Raises RunError for NaN.
        """
        total = np.zeros((len(rows), self.recipe.loss_function().n_out))
        with Lanes(self.net, self.recipe, threads) as lanes:
            lanes.copies.eval()
            for start in range(0, len(rows), batch_size):
                part = slice(start, start + batch_size)
                for s in range(symmetries):
                    x = batches.fetch(rows[part], noise=noise, symmetry=s)
                    out = lanes.predict(x).double().numpy()
                    out[:, 2:] = np.clip(out[:, 2:], *LOG_SIGMA_RANGE)
                    total[part] += out / symmetries
                if progress is not None:
                    progress.update(len(rows[part]))
        return self.recipe.answers(total, "train again with a lower --learning-rate")


@contextlib.contextmanager
def of_this_version(path: str | os.PathLike, what: str):
    """Turn what goes wrong with the content of a file into one InputError."""
    try:
        yield
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: holds no {what} of this version ({_first_line(error)}); remove "
                         "it and train again") from None


def _first_line(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def save_torch(path: str | os.PathLike, content: Any) -> None:
    """torch.save, whole or not at all, under a seal: torch itself does not see a flipped bit."""
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(content, inner)
    data = bytearray(inner.getvalue())    # a view of inner would outlive it: Python 3.13 complains
    torch.save({"sha256": hashlib.sha256(data).hexdigest(),
                "data": torch.frombuffer(data, dtype=torch.uint8)}, outer)
    with atomic(path) as part:
        pathlib.Path(part).write_bytes(outer.getvalue())


def histories(paths: list) -> dict[str, Var]:
    """The losses of networks by epoch, of dense networks by passes; {} without. paths: Paths."""
    found = [load_torch(path)["history"] for path in paths]
    table = np.full((3, len(found), max(map(len, found), default=0)), np.nan)
    for i, rows in enumerate(found):
        table[:, i, :len(rows)] = np.transpose([[*row.values()] for row in rows])
    return {name: Var(("network", "entry"), values) for name, values in
            zip(("trained", "loss", "validation"), table) if values.size}


def load_torch(path: str | os.PathLike) -> Any:
    """What save_torch wrote, no code is run. Raises InputError for a damaged or foreign file."""
    try:
        outer = torch.load(path, map_location="cpu", weights_only=True)
        data = outer["data"].numpy().tobytes()
        if hashlib.sha256(data).hexdigest() != outer["sha256"]:
            raise ValueError("its contents are damaged")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:                     # torch raises half a dozen kinds here
        stop()                                     # one of them in place of a signal's
        raise InputError(f"{path}: could not be read as a network ({_first_line(error)}); remove "
                         "it and run again, or give --force") from None
