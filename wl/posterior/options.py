"""How summaries become a posterior: the options, their checks, and what of them goes into files."""
import argparse
import dataclasses

from ..core.checks import InputError, choice, positive

SMOOTHS, SAMPLERS = ("auto", "none", "always"), ("metropolis", "exact")
RECALIBRATIONS = ("isotonic", "temperature", "none")
PRIORS = ("design", "flat")    # anything else is a file
MAX_STEPS = 2**31              # of all chains of a map: the kernels count in 32 bits
MIN_DRAWS = 4                  # of a chain, for an R-hat
MIN_ADAPT_STEPS = 128          # of burn-in, to learn a proposal from


@dataclasses.dataclass(frozen=True)
class PosteriorOptions:
    """How summaries become a posterior.

    smooth: str, of SMOOTHS, mean and covariance fitted over the design
    prior: str, of PRIORS or a file
    sampler: str, of SAMPLERS
    recalibrate: str, of RECALIBRATIONS
    nstep, chains: ints, steps of each chain and chains per map
    sigma: float, width of the proposal in Omega_m and S_8
    burn_in: float, share of the steps that is dropped
    adapt: bool, whether each chain learns its proposal in its burn-in
    draws: int, maps whose draws are kept; thin: int or None, steps between draws
    """
    smooth: str = "auto"
    prior: str = "design"
    sampler: str = "metropolis"
    recalibrate: str = "isotonic"
    nstep: int = 10000
    sigma: float = 0.06
    burn_in: float = 0.2
    chains: int = 1
    adapt: bool = False
    draws: int = 0
    thin: int | None = None

    def __post_init__(self):
        for name, options in (("smooth", SMOOTHS), ("sampler", SAMPLERS), ("recalibrate", RECALIBRATIONS)):
            choice(f"--{name}", getattr(self, name), options)
        positive("--nstep", self.nstep, integer=True)
        positive("--sigma", self.sigma)
        positive("--chains", self.chains, integer=True)
        if not 0.0 <= self.burn_in < 1.0:
            raise InputError(f"--burn-in: expected a fraction from 0 to below 1, got {self.burn_in}")
        if self.draws < 0:
            raise InputError(f"--draws: expected 0 or more maps, got {self.draws}")
        if self.thin is not None:
            positive("--thin", self.thin, integer=True)
        if self.sampler == "exact" and (self.draws or self.adapt):
            raise InputError(f"{'--draws' if self.draws else '--adapt'}: the exact sampler makes no chains; "
                             "leave it out, or give --sampler metropolis")
        if self.nstep * self.chains >= MAX_STEPS:
            raise InputError(f"--nstep, --chains: expected fewer than {MAX_STEPS} steps for all chains of a "
                             f"map, got {self.nstep} x {self.chains}; give fewer")
        max_thin = max(self.kept // MIN_DRAWS, 1)
        if self.thin is not None and self.thin > max_thin:
            raise InputError(f"--thin: expected at most {max_thin}, so that each chain keeps {MIN_DRAWS} draws "
                             f"of its {self.kept} steps, got {self.thin}")
        if self.adapt and self.nstep - self.kept < MIN_ADAPT_STEPS:
            raise InputError(f"--adapt: expected at least {MIN_ADAPT_STEPS} steps of burn-in to learn a proposal "
                             f"from, got {self.nstep - self.kept}; raise --nstep or --burn-in")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "PosteriorOptions":
        """From the command line's values, those of run_direct.py too. Raises InputError."""
        given = {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if f.name in args}
        return cls(**given)

    @property
    def kept(self) -> int:
        """Steps of a chain behind its burn-in."""
        return self.nstep - int(self.burn_in * self.nstep)

    def stored(self, direct: bool = False) -> dict:
        """What a posterior depends on beyond the summaries. direct: a network's own means and error bars."""
        if direct:
            return {"recalibrate": self.recalibrate}
        stored = dataclasses.asdict(self)
        if self.sampler == "exact":
            for name in ("nstep", "sigma", "burn_in", "chains", "adapt", "draws", "thin"):
                del stored[name]
        return stored


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of PosteriorOptions to a parser, but for --recalibrate."""
    add = parser.add_argument_group("posterior").add_argument
    add("--smooth", default="auto", choices=SMOOTHS,
        help="fit mean and covariance over the design by polynomials of cross-validated order; auto includes "
             "the raw values among the candidates")
    add("--prior", default="design", metavar="design|flat|FILE",
        help="density of the design, which the challenge's test maps follow, flat in its hull, or a file "
             "(.npy or text) with rows of Omega_m, S_8, density")
    add("--sampler", default="metropolis", choices=SAMPLERS,
        help="chains, or quadrature over the triangles of the design")
    add("--nstep", type=int, default=10000, metavar="N", help="steps of each chain")
    add("--sigma", type=float, default=0.06, metavar="X",
        help="width of the proposal in Omega_m and S_8; aim at an acceptance of 0.2 to 0.5")
    add("--burn-in", type=float, default=0.2, metavar="F", help="fraction of the steps dropped")
    add("--chains", type=int, default=1, metavar="N", help="chains per map")
    add("--adapt", action="store_true",
        help="learn each chain's proposal in its burn-in, beginning with --sigma")
    add("--allow-unconverged", action="store_true",
        help="exit 0 even if more than 1 %% of the maps have an effective sample size below 100 or an R-hat "
             "above 1.05")
    add("--shard", default=None, metavar="I/N",
        help="infer only every N-th map from the I-th; join the files with run_score.py --merge")
    add("--draws", type=int, default=0, metavar="N",
        help="maps, from the first, whose thinned chains are kept in the file")
    add("--thin", type=int, default=None, metavar="N",
        help="steps between the draws that R-hat and effective sample size are made of, and that are kept "
             "(default: 500 draws a chain or a few more)")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what becomes of the results."""
    add = parser.add_argument_group("output").add_argument
    add("--recalibrate", default="isotonic", choices=RECALIBRATIONS,
        help="fit what is scored on the emulator split: the error bars by one factor per parameter and "
             "(isotonic) the quantiles by their ranks; the posterior itself stays as it is")
    add("--out", default=None, metavar="DIR",
        help="folder of the results (default: data/runs/SET_MODEL, or SET_direct_MODEL)")
    add("--force", action="store_true",
        help="replace results that were made with other settings or inputs")
