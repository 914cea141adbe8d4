"""The power spectrum as a map's summary, in place of a network's predictions."""
import numpy as np

from ..maps import batches
from . import handmade
from ..core.progress import Progress
from ..core.params import HOLDOUT, STATISTICS
from .pipeline import Predicted


def predict(run, settings):
    """The 10-bin power spectrum of every map; for Run.predictions."""
    run.check_maps()
    args, s = run.args, run.set
    frame = batches.Frame(s.mask, pack=False)
    spectrum = handmade.Spectrum(frame.shape, s.kappa.shape[-1])
    rows = np.concatenate([run.rows(STATISTICS), run.rows(HOLDOUT)])
    progress = Progress(len(rows) + run.n_test, "measuring spectra", args.quiet)
    source = batches.Batches(s.flat_kappa, frame, scale=1.0, n_gal=s.n_gal, seed=args.seed)
    out = [handmade.measure(spectrum, source, rows, batches.FIXED, args.threads, progress)]
    if run.n_test:
        test = batches.Batches(s.noisy_test, frame, scale=1.0, n_gal=None)
        out.append(handmade.measure(spectrum, test, np.arange(run.n_test), batches.NO_NOISE, args.threads, progress))
    progress.close()
    return Predicted(np.concatenate(out))
