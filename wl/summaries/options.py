"""What can be chosen for a network, its loss and its training: known and checked without torch."""
import argparse
import dataclasses
import pathlib

from ..core.checks import InputError, Options, choice, option, within

RESNET = {"stem": 64, "widths": (64, 128, 256, 512), "blocks": 2, "attention": 4,
          "hidden": (256, 128), "dropout": (0.3, 0.2)}
SIMPLE = {"widths": (16, 32, 64, 128), "hidden": (512, 128), "dropout": (0.2, 0.1), "residual": 0,
          "head": "flatten"}

# model: its options with their defaults, the arguments of its constructor in architectures;
# "statistics" are the networks of dense.py on handmade.Features
MODELS = {
    "compact": {"widths": (32, 48, 64, 96), "hidden": 128},
    "simple_cnn": SIMPLE,
    "simple_cnn_residual": {**SIMPLE, "residual": 2},
    "resnet_attention": RESNET,
    "resnet_reduced": {**RESNET, "stem": 32, "widths": (32, 64), "attention": 1,
                       "hidden": (128, 64), "dropout": (0.2, 0.1)},
    "biggan_encoder": {"input_pool": 4, "widths": (32, 64, 128, 256), "attention": 2},
    "inception": {"stem": 24, "widths": (64, 96, 128, 160), "squeeze": 16},
    "statistics": {"scales": (0.6, 1.2, 2.2, 4.0, 7.0, 12.0), "draws": 0, "networks": 5,
                   "layers": (128, 128)},
}
DEFAULT_MODEL = "compact+statistics"           # parts that are stacked
DEFAULT_FOLDS = 2
SPECTRUM = "spectrum"                          # in place of a model: the binned power spectrum

LOSSES = ("mse", "kl", "score")                # see network.Loss

PRESETS = {
    "quick": {},
    "best": {"model": "inception+statistics", "model_option": ["draws=8"], "lanes": 2,
             "folds": 2, "nstep": 20000, "chains": 2},
    "published": {"model": "simple_cnn", "epochs": 15, "batch_size": 64, "lanes": 1,
                  "learning_rate": 2e-4, "noise": "fixed", "patience": 0, "folds": 1, "views": 1,
                  "smooth": "none", "prior": "flat", "recalibrate": "none", "nstep": 10000,
                  "sigma": 0.06, "adapt": False},
}

# least epochs, maps a network wants to see; beside, 9 and 4 views gain 0.01 to 0.04 over 8 and 1
SHOWN, SHOWN_BESIDE, MAX_EPOCHS = (9, 27_000), (7, 22_000), 60
HEADS, PRECISIONS = ("flatten", "pool"), ("float32", "bfloat16", "float64")
LIMITS = {"dropout": (0.0, 0.9), "scales": (0.1, 60.0), "draws": (0, 100), "networks": (1, 100),
          **dict.fromkeys(("residual", "attention", "squeeze"), (0, 4096))}
OF_STAGES = {"residual": 1, "attention": 0}    # count the stages that widths names, but so many


@dataclasses.dataclass(frozen=True)
class NetworkOptions(Options):
    """How maps become summaries.

    model: str, of MODELS, several with + between them; "spectrum" for that method
    model_options: dict, complete; of several parts a dict for each
    epochs: int, None until the number of training maps is known
    """
    method: str = option("network", choices=("network", SPECTRUM, "direct"))
    model: str = option(
        DEFAULT_MODEL, f"one of {', '.join(MODELS)}; or several with + between them, each trained "
        "on its own, and weighted for each parameter as the emulator split shows best")
    model_options: dict = dataclasses.field(default_factory=dict)
    loss: str = option("mse", "mse: means; with error bars: kl, the Gaussian negative "
                       "log-likelihood; score, minus the challenge's score", choices=LOSSES)
    epochs: int | None = option(
        None, "passes over the training maps (default: {}, or as many as make {} maps in all folds,"
        " at most {}; {} and {} in {})".format(*SHOWN, MAX_EPOCHS, *SHOWN_BESIDE, DEFAULT_MODEL),
        metavar="N", within=(1, 10**6))
    batch_size: int = option(32, "maps per step", metavar="N", within=(1, 10**6))
    lanes: int = option(4, "parts of a batch trained side by side, one thread each; they set the "
                        "result, the number of threads does not", metavar="N", within=(1, 1024))
    learning_rate: float = option(
        4e-3, "peak of the one-cycle schedule", metavar="X", positive=True)
    weight_decay: float = option(1e-4, "weight decay of AdamW", metavar="X", within=(0.0, 1e6))
    patience: int = option(12, "epochs without a better validation loss before training ends; 0 "
                           "never", metavar="N", within=(0, 10**6))
    precision: str = option(
        "auto", "number type of the convolutions (auto: what the folder's networks began with, "
        "else bfloat16 where the CPU computes in it)", choices=("auto", *PRECISIONS))
    noise: str = option("fresh", "of the training maps: drawn anew at every use, or once for each "
                        "map, which overfits", choices=("fresh", "fixed"))
    pack: str = option("auto", "fold the half-empty frame to a smaller one (auto: unless the "
                       "network's head is flat)", choices=("auto", "yes", "no"))
    folds: int = option(
        1, "train K networks, each without its fold of the realisations, so that all of them feed "
        f"the emulator; test maps get the networks' mean (default: {DEFAULT_FOLDS} in run_mcmc.py, "
        "1 with --emulator-fraction and in run_direct.py)", metavar="K", within=(1, 1000))
    members: int = option(1, "networks per fold that differ in their seed; their predictions are "
                          "averaged", metavar="M", within=(1, 1000))
    only: int | None = option(
        None, "train and predict with network I alone, of the K x M of each part of the model, and "
        "end. They are counted from 0, one part after the other; a run without --only uses what "
        "such jobs left", metavar="I", within=(0, 10**9))
    init: str | None = option(None, "folder of a finished run of the same model: training starts "
                              "from its weights, rescaled to these labels", metavar="RUN")
    views: int | None = option(
        None, "symmetries of the frame that a prediction is averaged over (default: 4; 1 in "
        f"{DEFAULT_MODEL})", choices=(1, 2, 4))
    threads: int = option(1, positive=True)
    start: str = ""                # digest of the networks of init

    def __post_init__(self):
        super().__post_init__()
        if self.method != SPECTRUM and not self.model_options:
            object.__setattr__(self, "model_options", model_options(self.model, ()))
        if self.lanes > self.batch_size:
            raise InputError(f"--lanes: at most the batch size {self.batch_size}, got {self.lanes}")
        if self.method == "direct" and self.loss == "mse":
            raise InputError("--loss mse: has no error bars; expected kl or score here, or give "
                             "run_mcmc.py the means")
        scales, total = self.of_statistics().get("scales", []), self.n_networks
        if sorted(set(scales)) != list(scales):
            raise InputError("--model-option scales: expected rising numbers, got "
                             + ", ".join(map(str, scales)))
        if self.only is not None and (total == 1 or not 0 <= self.only < total):
            raise InputError("--only: expected a number from 0 to parts x folds x members - 1, "
                             f"with more than one of them, got {self.only} of {total}")

    @classmethod
    def of(cls, args: argparse.Namespace, method: str) -> "NetworkOptions":
        """From the command line's values; texts become complete dicts. Raises InputError."""
        if method == SPECTRUM:
            return cls(method=method, model=SPECTRUM, threads=args.threads)
        alone = method == "direct" or args.emulator_fraction is not None
        folds = (1 if alone else DEFAULT_FOLDS) if args.folds is None else args.folds
        own = vars(args).get("model_options", args.model_option)            # of --config
        preset = PRESETS.get(vars(args).get("preset"), {})
        if isinstance(own, list) and args.model != preset.get("model"):     # --model beside it
            own = own[len(preset.get("model_option", ())):]
        return super().of(args, model_options=model_options(args.model, own), method=method,
                          folds=folds)

    parts = property(lambda self: self.model.split("+"),
                     doc="The models whose summaries are combined.")
    n_networks = property(lambda self: len(self.parts) * self.folds * self.members,
                          doc="Networks that are trained one by one.")

    def of_part(self, part: str) -> "NetworkOptions":
        """The options of one part of a model, as if it were alone."""
        own = self.model_options if len(self.parts) == 1 else self.model_options[part]
        return dataclasses.replace(self, model=part, model_options=own, only=None)

    def of_statistics(self) -> dict:
        """The options of the part "statistics", {} without one."""
        own = self.model_options
        return own if self.model == "statistics" else own.get("statistics", {})

    @property
    def packs(self) -> bool:
        """Whether the frame is folded; a flat head is the published one's, on the whole frame."""
        flat = self.model_options.get("head") == "flatten"
        return not flat if self.pack == "auto" else self.pack == "yes"

    def decided(self, n_train: int, found: str | None = None) -> "NetworkOptions":
        """The same with epochs, views and precision decided for n_train training maps.

        found: precision that the folder's networks were begun with, or None; --precision auto takes
            it, so that a run goes on where it was on a machine that computes otherwise
        """
        if self.method == SPECTRUM:
            return self
        beside = self.model == DEFAULT_MODEL
        least, shown = SHOWN_BESIDE if beside else SHOWN
        wanted = min(max(least, -(-shown // (n_train * self.folds))), MAX_EPOCHS)
        return dataclasses.replace(
            self, epochs=self.epochs or wanted, views=self.views or (1 if beside else 4),
            precision=found or _precision() if self.precision == "auto" else self.precision)

    def training(self) -> dict:
        """What the training of one network depends on beyond the maps, their split and the seed."""
        names = ("model", "model_options", "loss", "epochs", "batch_size", "lanes", "learning_rate",
                 "weight_decay", "patience", "precision", "noise")
        return {name: getattr(self, name) for name in names}

    def stored(self) -> dict:
        """What a file of summaries says of its making."""
        if self.method == SPECTRUM:
            return {"method": self.method, "model": self.model}
        return {name: value for name, value in dataclasses.asdict(self).items()
                if name not in ("only", "threads", "init")}


def add_options(parser: argparse.ArgumentParser, **defaults) -> None:
    """Add the options of NetworkOptions to a parser. defaults: others than the dataclass's."""
    add = NetworkOptions.add_to(parser, "network", folds=None, **defaults)
    add("--model-option", action="append", metavar="NAME=VALUE",
        help="an option of the network, e.g. attention=0 or widths=16,32,64; may be repeated; a "
             "wrong name lists those there are")


def _precision():
    info = pathlib.Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else ()
    return "bfloat16" if {"avx512_bf16", "amx_bf16"}.intersection(flags) else "float32"


def model_options(name: str, given) -> dict:
    """The options of a --model, complete; of several parts a dict for each. Raises InputError.

    given: list of "name=value", each for every part that has it; a complete dict; or None
    """
    parts = name.split("+")
    for part in parts:
        choice("--model", part, tuple(MODELS))
    if len(set(parts)) < len(parts):
        raise InputError(f"--model {name}: expected different models, to be stacked")
    if isinstance(given, dict):
        given = given if len(parts) > 1 else {name: given}
        for part in given:
            choice("--config: options of the model", part, parts)
        texts = {part: as_texts(given.get(part, {})) for part in parts}
    else:
        options(given, {key: value for part in parts for key, value in MODELS[part].items()})
        texts = {part: [text for text in given or () if text.partition("=")[0] in MODELS[part]]
                 for part in parts}
    found = {part: _of_model(part, texts[part]) for part in parts}
    return found if len(parts) > 1 else found[name]


def as_texts(values: dict) -> list:
    """Options by name as --model-option has them. Raises InputError."""
    if not isinstance(values, dict):
        raise InputError(f"--config: expected options of a model by name, got {values!r:.80}")
    return [f"{name}={','.join(map(str, v)) if isinstance(v, (list, tuple)) else v}"
            for name, v in values.items()]


def _of_model(name, texts):
    found = options(texts, MODELS[name])
    widths = found.get("widths", ())
    for key, without in OF_STAGES.items():
        max_count = len(widths) - without
        if key in found and found[key] > max_count:
            if any(text.startswith(f"{key}=") for text in texts):
                raise InputError(f"--model-option {key}: expected at most {max_count} with "
                                 f"{len(widths)} widths, got {found[key]}")
            found[key] = max_count
    if name == "inception" and min(widths) < 4:              # a block is made of so many parts
        raise InputError(f"--model-option widths: inception expects at least 4, got {min(widths)}")
    return found


def options(texts: list | None, defaults: dict) -> dict:
    """The options of a model, complete and as JSON has them. Raises InputError.

    texts: list of "name=value", several values as "widths=16,32", or None
    defaults: an entry of MODELS, whose types the values take
    """
    found = {n: list(v) if isinstance(v, tuple) else v for n, v in defaults.items()}
    for text in texts or ():
        name, equals, value = text.partition("=")
        what, default = f"--model-option {name}", defaults.get(name)
        if not equals or name not in defaults:
            known = ", ".join(f"{n}={str(v).strip('()').replace(' ', '').lower()}"
                              for n, v in defaults.items())
            raise InputError(f"--model-option {text}: expected NAME=VALUE with one of "
                             f"{known or 'none, it has no options'}")
        if isinstance(default, str):
            found[name] = choice(what, value, HEADS)
            continue
        several = default if isinstance(default, tuple) else (default,)
        parts = value.split(",") if several is default else [value]
        if name in ("dropout", "hidden") and len(parts) != len(several):
            raise InputError(f"{what}: expected {len(several)} numbers with commas, got {value!r}")
        low, high = LIMITS.get(name, (1, 4096))
        numbers = [within(what, part, low, high, isinstance(several[0], int)) for part in parts]
        found[name] = numbers if several is default else numbers[0]
    return found
