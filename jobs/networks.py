"""Networks of a run, and the first one that measures the statistics: "20 10", say.

Takes the options of run_mcmc.py, and refuses wrong ones before a job is submitted.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import run_mcmc  # noqa: E402
from wl.core import cli  # noqa: E402


def main() -> None:
    """Print the two numbers."""
    args = cli.parse(run_mcmc.parser())
    from wl.maps.splits import MapOptions
    from wl.posterior.options import PosteriorOptions
    from wl.summaries.options import NetworkOptions
    MapOptions.of(args), PosteriorOptions.of(args)
    options = NetworkOptions.of(args, args.method)
    first = options.parts.index("statistics") if "statistics" in options.parts else 0
    print(options.n_networks, first * options.folds * options.members)


cli.run(main)
