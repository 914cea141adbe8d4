"""What compare_networks.py holds against each other, and the questions that this answers."""
from wl.summaries.options import DEFAULT_MODEL, MODELS


def variant(model, *options, direct=False):
    """A variant: its model, further options of its script, and whether that is run_direct.py.

    "x0.5" as a value of --learning-rate is half the rate of all.
    """
    return {"model": model, "options": options, "direct": direct}


def option(text):
    return ("--model-option", text)


def against(base, spec, others):
    """A variant, and others that are compared with it: {name: (options over spec's)}.

    Returns {name: variant}.
    """
    first = base.split(",")[0]
    return {base: spec, **{
        f"{first}, {name}": {**spec, "options": (*spec["options"], *more), "over": base}
        for name, more in others.items()}}


def designs(*models, **questions):
    """The same question about several models. questions: {name: options}, "_" for a blank."""
    others = {name.replace("_", " "): more for name, more in questions.items()}
    found = [against(m, variant(m), others) for m in models]
    return {name: spec for variants in found for name, spec in variants.items()}


def batches(model):
    """Batch sizes over the one of all, the learning rate as it is and in step with the batch."""
    return against(model, variant(model), {
        **{f"batch {n}": ("--batch-size", str(n)) for n in (4, 16, 64)},
        "batch 4, half the rate": ("--batch-size", "4", "--learning-rate", "x0.5"),
        "batch 64, twice the rate": ("--batch-size", "64", "--learning-rate", "x2")})


def precisions(model):
    return against(f"{model}, float32", variant(model, "--precision", "float32"), {
        p: ("--precision", p) for p in ("bfloat16", "float64")})


NONE = option("attention=0")
# name of a set: what it asks, and its variants; one without "over" is compared with the set's first
SETS = {
    "designs": ("every published design", {
        m: variant(m) for m in ("compact", DEFAULT_MODEL, "statistics_mlp", *MODELS)}),
    "direct": ("emulator and posterior, or the network's own error bars", {
        "compact": variant("compact"),
        "compact, kl direct": variant("compact", "--loss", "kl", direct=True),
        DEFAULT_MODEL: variant(DEFAULT_MODEL),
        "simple_cnn, kl direct": variant("simple_cnn", "--loss", "kl", direct=True)}),
    "batch": ("batch 4, 16, 64 over 32; also with half and twice the learning rate",
              {**batches("simple_cnn"), **batches("resnet_reduced")}),
    "lanes": ("batch norm over the batch, or over the 16, 8, 4 maps of a lane", designs(
        "simple_cnn", "compact", **{f"{n}_lanes": ("--lanes", str(n)) for n in (2, 4, 8)})),
    "precision": ("float64, float32, bfloat16", {
        **precisions("compact"), **precisions("simple_cnn")}),
    "attention": ("with and without attention", {
        **designs("resnet_attention", "resnet_reduced", "biggan_encoder", no_attention=NONE),
        **designs("inception", no_squeeze=option("squeeze=0"))}),
    "dropout": ("with and without dropout", designs(
        "simple_cnn", "resnet_reduced", "resnet_attention", no_dropout=option("dropout=0,0"))),
    "depth": ("depth against width at about the same work a map", {
        **designs("resnet_reduced", deep=option("blocks=4"),
                  wide=(*option("widths=46,92"), *option("stem=46"))),
        **designs("compact", deep=option("widths=32,48,64,96,96,96"),
                  wide=option("widths=36,54,72,108"))}),
    "size": ("fewer and more weights in the same design", {
        **designs("compact", half=option("widths=16,24,32,48"),
                  double=option("widths=64,96,128,192")),
        **designs("resnet_attention", half=(*option("stem=32"), *option("widths=32,64,128,256")))}),
    "head": ("flatten against global pooling", against("simple_cnn", variant("simple_cnn"), {
        "pooled": (*option("head=pool"), "--pack", "no"), "pooled, packed": option("head=pool")})),
    "noise": ("noise fresh against fixed", designs(
        "simple_cnn", "compact", fixed_noise=("--noise", "fixed"))),
    "resolution": ("the packed frame", designs("compact", not_packed=("--pack", "no"))),
    "symmetries": ("predictions of four views against one", designs(
        "compact", one_view=("--views", "1"))),
    "residual": ("residual connections in the simple network", {
        "simple_cnn": variant("simple_cnn"),
        **{f"simple_cnn, {n} residual": variant("simple_cnn_residual", *option(f"residual={n}"))
           for n in (1, 2)}}),
    "fourier": ("Fourier features", designs("biggan_encoder", fourier_2=option("fourier=2"))),
    "losses": ("the losses, direct", {
        f"compact, {loss} direct": variant("compact", "--loss", loss, direct=True)
        for loss in ("kl", "score")}
        | {"compact, score from -5 direct": variant(
            "compact", "--loss", "score", "--loss-option", "start=-5", direct=True)}),
}
