"""All streams of random numbers, and the one way to a generator.

    rng = generator(seed, seeds.SPLIT)       # the same numbers wherever and whenever it is called
    rng = generator(seed, seeds.EPOCH, 3)    # others for another index

Every generator follows from (seed, stream, index) alone, by SeedSequence(seed, spawn_key=(stream,
*index)): two streams never share numbers, nor do two seeds. Kernels' generators follow likewise.
"""
import numpy as np

# the simulator: signal, nuisances, noise and labels of maps, what scatters from map to map
KAPPA, NUISANCE, TEST_KAPPA, TEST_NOISE, TEST_LABEL, UNSEEN, SCATTER = range(1, 8)
REALISM, LABELLED = 9, 10                    # validate realism, and labelled spectra
BOX = 11                                     # structure that maps of a cosmology share
SPLIT = 100                                  # which realisations train
EPOCH, WEIGHTS, DROPOUT = 101, 102, 103      # order and flips of an epoch, first weights, dropout
NETWORK = 104                                # the seed of one network of several
DENSE_WEIGHTS, DENSE_ORDER, NOISE_DRAW, DENSE_DROPOUT = range(106, 110)
COVARIANCE_FOLDS, CALIBRATION_DRAW = 110, 111          # cross-validation of the smoothing
CHAIN_START, EXACT_DRAW = 113, 116           # of chains; independent draws of a map's posterior
# of the kernels' generators: a chain's stream is METROPOLIS + 256 chain
TRAINING_NOISE, FIXED_NOISE, METROPOLIS = 1, 2, 3


def generator(seed: int, stream: int, *index: int, kind=np.random.PCG64) -> np.random.Generator:
    """A NumPy generator whose numbers depend on (seed, stream, index) alone.

    seed, stream, index: ints: of the run, one of this module's, e.g. cosmology and realisation
    kind: NumPy's bit generator; the simulator's SFC64 draws fields faster
    """
    return np.random.Generator(kind(np.random.SeedSequence(seed, spawn_key=(stream, *index))))


def number(seed: int, stream: int, *index: int) -> int:
    """A whole number of 63 bits from (seed, stream, index): a seed of torch or of a network."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
