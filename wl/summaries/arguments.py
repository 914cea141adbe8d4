"""The options that run_mcmc.py and run_direct.py share, known without torch or numba."""
from ..maps import dataset
from ..simulate.locate import DEFAULT_DATA, DEFAULT_REALISATIONS
from .options import DEFAULT_MODEL, LOSSES, MODELS

DEFAULT_HOLDOUT = 0.15
EPOCHS, PRESENTATIONS = (12, 60), 36_000       # least and most epochs, maps that a network wants to see


def add_data_options(parser):
    """Options that say which maps to use and how to split them."""
    group = parser.add_argument_group("maps")
    group.add_argument("--data", default=DEFAULT_DATA, metavar="DIR",
                       help="folder of the data set, or of folders with one (of several: simulated); a set is "
                            "simulated when it holds none, on the mask and labels found there if they are")
    group.add_argument("--release", default="auto", choices=("auto", *dataset.RELEASES),
                       help="which of several releases in one folder")
    group.add_argument("--realisations", type=int, default=None, metavar="N",
                       help=f"realisations per cosmology of a set that has to be simulated (default: "
                            f"{DEFAULT_REALISATIONS}); one that is there with another number is refused")
    group.add_argument("--statistics-fraction", type=float, default=0.25, metavar="F",
                       help="realisations kept from training, for the mean and covariance of the predictions")
    group.add_argument("--holdout-fraction", type=float, default=None, metavar="F",
                       help="realisations kept from both, for a score (default: 0 where the test maps have a truth "
                            f"and only they are asked for, else {DEFAULT_HOLDOUT})")
    group.add_argument("--target", default=None, choices=("test", "holdout", "both"),
                       help="maps to infer (default: test where they have a truth, else both)")


def add_training_options(parser, loss):
    """Options of the network and its training."""
    group = parser.add_argument_group("network")
    group.add_argument("--model", default=DEFAULT_MODEL, help="one of " + ", ".join(MODELS) + "; or several "
                       "with + between them, each trained on its own and their predictions combined linearly as the "
                       "statistics split shows best")
    group.add_argument("--model-option", action="append", metavar="NAME=VALUE",
                       help="an option of the network, e.g. attention=0 or widths=16,32,64; may be repeated; a wrong "
                            "name lists those there are")
    group.add_argument("--loss", default=loss, choices=tuple(LOSSES),
                       help="mse: means; with error bars: kl, the Gaussian negative log-likelihood; score, minus the "
                            "challenge's score")
    group.add_argument("--loss-option", action="append", metavar="NAME=VALUE",
                       help="an option of the loss: start=-5, the logarithm of the variance, in units of the "
                            "parameters, that training starts at")
    group.add_argument("--epochs", type=int, default=None, metavar="N",
                       help=f"passes over the training maps (default: {EPOCHS[0]}, or as many as make "
                            f"{PRESENTATIONS} maps, at most {EPOCHS[1]})")
    group.add_argument("--batch-size", type=int, default=32, metavar="N", help="maps per step")
    group.add_argument("--lanes", type=int, default=4, metavar="N",
                       help="parts of a batch trained side by side, one thread each; they set the result, "
                            "the number of threads does not")
    group.add_argument("--learning-rate", type=float, default=4e-3, metavar="X", help="peak of the one-cycle schedule")
    group.add_argument("--weight-decay", type=float, default=1e-4, metavar="X", help="of AdamW")
    group.add_argument("--patience", type=int, default=12, metavar="N",
                       help="epochs without a better validation loss before training ends; 0 never")
    group.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16", "float64"),
                       help="of the convolutions (auto: what the folder's networks were begun with, else bfloat16 "
                            "where the CPU computes in it)")
    group.add_argument("--noise", default="fresh", choices=("fresh", "fixed"),
                       help="of the training maps: drawn anew at every use, or once for each map, which overfits")
    group.add_argument("--pack", default="auto", choices=("auto", "yes", "no"),
                       help="fold the half-empty frame to a smaller one (auto: unless the network's head is flat)")
    group.add_argument("--folds", type=int, default=1, metavar="K",
                       help="train K networks, each without its fold of the realisations, so that all of them feed "
                            "the statistics; test maps get the mean over the networks")
    group.add_argument("--members", type=int, default=1, metavar="M",
                       help="networks per fold that differ in their seed; their predictions are averaged")
    group.add_argument("--only", type=int, default=None, metavar="I",
                       help="train and predict with the I-th of the K x M networks (of each part of the model, one "
                            "part after the other) alone, from 0, and end; a run without it goes on from what such "
                            "jobs left")
    group.add_argument("--views", type=int, default=4, choices=(1, 2, 4),
                       help="flips of the frame that a prediction is averaged over")


def add_output_options(parser):
    group = parser.add_argument_group("output")
    group.add_argument("--recalibrate", default="isotonic", choices=("isotonic", "temperature", "none"),
                       help="fit what is scored on the statistics split: the error bars by one factor per parameter "
                            "and (isotonic) the quantiles by their ranks; the posterior itself stays as it is")
    group.add_argument("--out", default=None, metavar="DIR",
                       help="folder of the results (default: data/runs/SET_MODEL, or SET_direct_MODEL)")
    group.add_argument("--force", action="store_true",
                       help="replace results that were made with other settings or inputs")
