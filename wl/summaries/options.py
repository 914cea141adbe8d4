"""What can be chosen for a network and its loss: names, options and their defaults, known without torch."""
import math
import pathlib

from ..core.checks import InputError, choice

RESNET = {"stem": 64, "widths": (64, 128, 256, 512), "blocks": 2, "attention": 4, "hidden": (256, 128),
          "dropout": (0.3, 0.2)}
SIMPLE = {"widths": (16, 32, 64, 128), "hidden": (512, 128), "dropout": (0.2, 0.1), "residual": 0, "head": "flatten"}

# model: its options with their defaults, the arguments of its constructor in networks.NETWORKS; "statistics" are
# the dense networks of dense.py on what features.py measures
MODELS = {
    "compact": {"widths": (32, 48, 64, 96), "hidden": 128},
    "simple_cnn": SIMPLE,
    "simple_cnn_residual": {**SIMPLE, "residual": 2},
    "resnet_attention": RESNET,
    "resnet_reduced": {**RESNET, "stem": 32, "widths": (32, 64), "attention": 1, "hidden": (128, 64),
                       "dropout": (0.2, 0.1)},
    "biggan_encoder": {"input_pool": 4, "widths": (32, 64, 128, 256), "attention": 2, "fourier": 0},
    "inception": {"stem": 24, "widths": (64, 96, 128, 160), "squeeze": 16},
    "statistics": {"scales": (0.6, 1.5, 3.0, 6.0), "draws": 0, "networks": 5, "layers": (128, 128)},
}
DEFAULT_MODEL = "compact+statistics"           # parts that are stacked

# loss: its options; units are explained in losses.py. start: log-variance to start training at
LOSSES = {
    "mse": {},
    "kl": {"start": None},
    "score": {"start": None},
}

HEADS, PRECISIONS = ("flatten", "pool"), ("float32", "bfloat16", "float64")
LIMITS = {"dropout": (0.0, 0.9), "start": (-20.0, 5.0), "scales": (0.1, 60.0), "draws": (0, 100), "networks": (1, 100),
          "fourier": (0, 16)}
MAY_BE_ZERO = ("residual", "attention", "squeeze")
OF_STAGES = {"residual": 1, "attention": 0}    # these count the stages that widths names, but for so many
LEAST_WIDTH = {"inception": 4}                 # a block is made of so many parts


def pick_precision(asked="auto"):
    """Number type of the convolutions: bfloat16 where the CPU computes in it, float32 elsewhere."""
    if asked != "auto":
        return choice("--precision", asked, PRECISIONS)
    return "bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"


def _cpu_flags():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":")[1].split())
    except OSError:
        pass
    return set()


def parts_of(name):
    """The models that --model names, several with + between them. Raises InputError."""
    parts = name.split("+")
    for part in parts:
        choice("--model", part, tuple(MODELS))
    if len(set(parts)) < len(parts):
        raise InputError(f"--model {name}: expected different models, to be stacked")
    return parts


def model_options(name, texts):
    """The options of a model, those of its parts in one dict each where it has several. Raises InputError.

    An option goes to every part that has it.
    """
    parts = parts_of(name)
    if len(parts) == 1:
        return _of_model(name, texts)
    texts = texts or ()
    known = {key: value for part in parts for key, value in MODELS[part].items()}
    options("--model-option", texts, known)
    return {part: _of_model(part, [t for t in texts if t.partition("=")[0] in MODELS[part]]) for part in parts}


def _of_model(name, texts):
    found = options("--model-option", texts, MODELS[name])
    widths = found.get("widths", ())
    given = {text.partition("=")[0] for text in texts or ()}
    for key, without in OF_STAGES.items():
        most = len(widths) - without
        if key in found and found[key] > most:
            if key in given:
                raise InputError(f"--model-option {key}: expected at most {most} with {len(widths)} widths, got "
                                 f"{found[key]}")
            found[key] = most
    least = LEAST_WIDTH.get(name, 1)
    if widths and min(widths) < least:
        raise InputError(f"--model-option widths: expected at least {least} for {name}, got {min(widths)}")
    return found


def options(flag, texts, defaults):
    """The options of a model or loss, complete.

    flag: of the command line, for messages; texts: "name=value" each, several values with commas between
    them, e.g. "widths=16,32"; defaults: {name: value}, an entry of MODELS or LOSSES, whose types the values take.
    Returns {name: int, float, str, None or list of numbers}, as JSON has them. Raises InputError.
    """
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or name not in defaults:
            known = ", ".join(f"{n}={_shown(v)}" for n, v in defaults.items()) or "none, it has no options"
            raise InputError(f"{flag} {text}: expected NAME=VALUE with one of {known}")
        found[name] = _parsed(f"{flag} {name}", name, value, defaults[name])
    return found


def _shown(value):
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else "none" if value is None else str(value)


def _parsed(what, name, text, default):
    if isinstance(default, str):
        if text not in HEADS:
            raise InputError(f"{what}: expected one of {', '.join(HEADS)}, got {text!r}")
        return text
    if default is None and text == "none":
        return None
    if isinstance(default, tuple):
        parts = text.split(",")
        if name in ("dropout", "hidden") and len(parts) != len(default):
            raise InputError(f"{what}: expected {len(default)} numbers with commas between them, got {text!r}")
        return [_number(what, name, part, default[0]) for part in parts]
    return _number(what, name, text, default)


def _number(what, name, text, default):
    whole = isinstance(default, int)
    low, high = LIMITS.get(name, (0 if name in MAY_BE_ZERO else 1, 4096))
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InputError(f"{what}: expected a {'whole ' if whole else ''}number from {low:g} to {high:g}, got {text!r}")
    return value
