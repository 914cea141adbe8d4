"""Networks of a run, and the first one that measures the statistics: "20 10", say.

Takes the options of run_mcmc.py, and refuses wrong ones before a job is submitted.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import run_mcmc  # noqa: E402
from wl.core import cli  # noqa: E402
from wl.core.checks import InputError  # noqa: E402

OF_THE_GRAPH = ("--shard", "--only", "--out", "--dry-run", "--predictions", "--apply", "--maps")


def main() -> None:
    """Print the two numbers. Raises InputError."""
    for word in sys.argv[1:]:
        if word.partition("=")[0] in OF_THE_GRAPH:
            raise InputError(f"{word}: is not for a graph of jobs; leave it out")
    args = cli.parse(run_mcmc.parser())
    from wl.maps.splits import DEFAULT_DATA, MapOptions
    from wl.posterior.options import PRIORS, PosteriorOptions
    from wl.summaries.options import NetworkOptions
    MapOptions.of(args), PosteriorOptions.of(args)
    options = NetworkOptions.of(args, args.method)
    for name, path, fits in (("data", args.data, pathlib.Path.is_dir),
                             ("init", args.init, pathlib.Path.is_dir),
                             ("prior", args.prior, pathlib.Path.is_file)):
        if path not in (None, DEFAULT_DATA, *PRIORS) and not fits(pathlib.Path(path)):
            raise InputError(f"--{name} {path}: is not there")
    first = options.parts.index("statistics") if "statistics" in options.parts else 0
    print(options.n_networks, first * options.folds * options.members)


cli.run(main)
