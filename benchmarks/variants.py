"""The networks and settings that compare_networks.py compares, and the question each set asks."""
from wl.summaries.options import DEFAULT_MODEL, MODELS


def variant(model, *options, direct=False):
    """A model, further options of its script, and whether that is run_direct.py.

    "x0.5" as the value of --learning-rate is half the rate of all."""
    return {"model": model, "options": options, "direct": direct}


def option(*texts):
    return tuple(word for text in texts for word in ("--model-option", text))


def against(base, spec, others):
    """{name: variant} of one and of others compared with it, {name: options over spec's}."""
    first, own = base.split(",")[0], spec["options"]
    return {base: spec, **{f"{first}, {name}": {**spec, "options": (*own, *more), "over": base}
                           for name, more in others.items()}}


def designs(*models, **questions):
    """The same question about several models. questions: {name: options}, "_" for a blank."""
    others = {name.replace("_", " "): more for name, more in questions.items()}
    return {name: spec for m in models for name, spec in against(m, variant(m), others).items()}


def precisions(model):
    others = {p: ("--precision", p) for p in ("bfloat16", "float64")}
    return against(f"{model}, float32", variant(model, "--precision", "float32"), others)


def direct(loss, *options, model="compact"):
    return variant(model, "--loss", loss, *options, direct=True)


BATCHES = {f"batch {n}": ("--batch-size", str(n)) for n in (4, 16, 64)} | {
    f"batch {n}, rate {x}": ("--batch-size", n, "--learning-rate", x)
    for n, x in (("4", "x0.5"), ("64", "x2"))}
# name of a set: what it asks, and its variants; one without "over" is compared with the first
SETS = {
    "designs": ("every network, over the published one", {
        name: variant(name) for name in dict.fromkeys(("simple_cnn", DEFAULT_MODEL, *MODELS))}),
    "direct": ("emulator and posterior, or the network's own error bars", {
        "compact": variant("compact"), DEFAULT_MODEL: variant(DEFAULT_MODEL),
        "simple_cnn, kl direct": direct("kl", model="simple_cnn"),
        "compact, kl direct": direct("kl"), "compact, score direct": direct("score")}),
    "batch": ("batch 4, 16, 64 over 32; also with half and twice the learning rate", designs(
        "simple_cnn", "resnet_reduced", **BATCHES)),
    "lanes": ("batch norm over the batch, or over the 16, 8, 4 maps of a lane", designs(
        "simple_cnn", "compact", **{f"{n}_lanes": ("--lanes", str(n)) for n in (2, 4, 8)})),
    "precision": ("float64 and bfloat16 over float32",
                  precisions("compact") | precisions("simple_cnn")),
    "attention": ("with and without attention", {
        **designs("resnet_attention", "resnet_reduced", "biggan_encoder",
                  no_attention=option("attention=0")),
        **designs("inception", no_squeeze=option("squeeze=0"))}),
    "dropout": ("with and without dropout", designs(
        "simple_cnn", "resnet_reduced", "resnet_attention", no_dropout=option("dropout=0,0"))),
    "depth": ("depth against width at about the same work a map", {
        **designs("resnet_reduced", deep=option("blocks=4"),
                  wide=option("widths=46,92", "stem=46")),
        **designs("compact", deep=option("widths=32,48,64,96,96,96"),
                  wide=option("widths=36,54,72,108"))}),
    "size": ("fewer and more weights in the same design", designs(
        "compact", half=option("widths=16,24,32,48"), double=option("widths=64,96,128,192"))),
    "head": ("global pooling over flatten", against("simple_cnn", variant("simple_cnn"), {
        "pooled": (*option("head=pool"), "--pack", "no"), "pooled, packed": option("head=pool")})),
    "noise": ("noise drawn once", designs("simple_cnn", "compact", fixed=("--noise", "fixed"))),
    "views": ("predictions of one view over four; the whole frame over the folded one", designs(
        "compact", one_view=("--views", "1"), not_packed=("--pack", "no"))),
    "residual": ("residual connections in the simple network", {
        "simple_cnn": variant("simple_cnn"),
        "simple_cnn, 1 residual": variant("simple_cnn_residual", *option("residual=1")),
        "simple_cnn, 2 residual": variant("simple_cnn_residual", *option("residual=2"))}),
}
