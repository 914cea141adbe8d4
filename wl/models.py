"""What can be chosen for a network and its loss: names, options and their defaults, known without torch."""
import math

from .checks import InputError

RESNET = {"stem": 64, "widths": (64, 128, 256, 512), "blocks": 2, "attention": 4, "hidden": 128, "dropout": (0.3, 0.2)}
SIMPLE = {"widths": (16, 32, 64, 128), "hidden": (512, 128), "dropout": (0.2, 0.1), "residual": 0, "head": "flatten"}

# model: its options with their defaults, the arguments of its constructor in networks.NETWORKS
MODELS = {
    "compact": {"widths": (32, 48, 64, 96), "hidden": 128},
    "simple_cnn": SIMPLE,
    "simple_cnn_residual": {**SIMPLE, "residual": 2},
    "resnet_attention": RESNET,
    "resnet_reduced": {**RESNET, "stem": 32, "widths": (32, 64), "attention": 1, "dropout": (0.2, 0.1)},
    "biggan_encoder": {"input_pool": 4, "widths": (32, 64, 128, 256), "attention": 2, "fourier": 0},
    "densenet": {"growth": 16, "blocks": (4, 6, 8, 6), "compression": 0.5},
    "inception": {"stem": 24, "widths": (64, 96, 128, 160), "squeeze": 16},
}

# loss: its options; weights and units are explained in losses.py. start: log-variance to start training at
LOSSES = {
    "mse": {},
    "kl": {"start": None},
    "score": {"start": None},
    "three_term": {"log_variance": 2.0, "pull": 1.0, "square": 0.0, "start": None},
    "beta_nll": {"beta": 0.5, "start": None},
}

HEADS = ("flatten", "pool")
LIMITS = {"dropout": (0.0, 0.9), "compression": (0.05, 1.0), "beta": (0.0, 1.0), "start": (-20.0, 5.0),
          "log_variance": (1e-6, 1e6), "pull": (1e-6, 1e6), "square": (0.0, 1e6)}
MAY_BE_ZERO = ("residual", "attention", "fourier", "squeeze")


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
