"""The baseline that a network has to beat: a small dense network on hand-made statistics of a map.

Features: the spectrum in 28 bins, and moments, one-point PDF and peak counts after smoothing by 2, 4 and 8
arcminutes (wl.summaries), each made nearly Gaussian by a root or a logarithm and standardised over the training
maps. Used by compare_networks.py on the same maps, splits and noise as the networks.
"""
import time

import numpy as np

from wl.summaries import handmade

N_BIN = 28


class Features:
    """The features of maps, for summaries.measure. mask: (rows, columns) bool, the frame's; n_gal: as Shapes."""

    def __init__(self, mask, n_gal):
        self.spectrum = handmade.Spectrum(mask.shape, int(mask.sum()), n_bin=N_BIN)
        self.shapes = handmade.Shapes(mask, n_gal=n_gal)
        self.width = len(self.spectrum.used) + self.shapes.width

    def __call__(self, kappa):
        """kappa: (n, rows, columns) float32, zero outside the mask. Returns (n, width) float64."""
        moments, pdf, peaks = self.shapes.describe(kappa)
        variance = moments[..., 0]
        found = [np.log(variance), moments[..., 1] / variance**1.5, moments[..., 2] / variance**2, np.sqrt(pdf),
                 np.sqrt(peaks)]
        return np.concatenate([self.spectrum(kappa)] + [f.reshape(len(kappa), -1) for f in found], 1)


def fit(x, y, x_valid, y_valid, seed, epochs=60, width=256, batch=256):
    """Train a network with two hidden layers by AdamW and a cosine schedule; the best epoch is kept.

    x, x_valid: (n, n_feature) standardised; y, y_valid: (n, 2) standardised. Returns the module and the history.
    """
    import copy

    import torch
    from torch import nn

    from wl.summaries.architectures import dense_head
    from wl.summaries.layers import Dropout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = dense_head(x.shape[1], (width, width), (0.2, 0.2), 2)
    for k, module in enumerate(m for m in net if isinstance(m, Dropout)):
        module.generator.manual_seed(1000 * seed + k)
    x, y, x_valid, y_valid = (torch.from_numpy(np.asarray(v, np.float32)) for v in (x, y, x_valid, y_valid))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    rng, best, weights, history = np.random.default_rng(seed), np.inf, None, []
    for epoch in range(epochs):
        net.train()
        total = 0.0
        for part in np.array_split(rng.permutation(len(x)), max(1, len(x) // batch)):
            loss = nn.functional.mse_loss(net(x[part]), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(part) / len(x)
        schedule.step()
        net.eval()
        with torch.inference_mode():
            valid = nn.functional.mse_loss(net(x_valid), y_valid).item()
        history.append({"epoch": epoch + 1, "loss": total, "validation": valid})
        if valid < best:
            best, weights = valid, copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return net.eval(), history


def predict(run, draws=2, epochs=60):
    """Features, training and prediction for a pipeline.Run.

    draws: noise draws of each training map. Returns pipeline.Predicted and a dict with parameters, history,
    seconds (features and training) and n_train.
    """
    import torch

    from wl.maps import batches
    from wl.core.progress import Progress
    from wl.summaries.architectures import count_parameters
    from wl.core.params import HOLDOUT, STATISTICS, TRAIN
    from wl.summaries.pipeline import Predicted
    run.check_maps()
    args, s = run.args, run.set
    frame = batches.Frame(s.mask, pack=False)
    features, kappa = Features(frame.observed, s.n_gal), s.flat_kappa
    train_rows, valid_rows = run.rows(TRAIN), run.rows(STATISTICS)
    rest = np.concatenate([valid_rows, run.rows(HOLDOUT)])
    progress = Progress(draws * len(train_rows) + len(rest) + run.n_test, "measuring statistics", args.quiet)

    def measured(maps, rows, noise, n_gal, seed):
        source = batches.Batches(maps, frame, scale=1.0, n_gal=n_gal, seed=seed)
        return handmade.measure(features, source, rows, noise, args.threads, progress)
    began = time.monotonic()
    x = np.concatenate([measured(kappa, train_rows, batches.FRESH, s.n_gal, args.seed + k) for k in range(draws)])
    seconds = time.monotonic() - began
    x_rest = measured(kappa, rest, batches.FIXED, s.n_gal, args.seed)
    if run.n_test:
        x_test = measured(s.noisy_test, np.arange(run.n_test), batches.NO_NOISE, None, 0)
        x_rest = np.concatenate([x_rest, x_test])
    progress.close()
    centre, width = x.mean(0), x.std(0)
    used = width > 1e-6                       # a bin that no map reaches says nothing
    x, x_rest = ((v[:, used] - centre[used]) / width[used] for v in (x, x_rest))
    x, x_rest = np.clip(x, -8.0, 8.0), np.clip(x_rest, -8.0, 8.0)
    mean, sd = s.theta.mean(0), s.theta.std(0)
    y = (s.flat_theta - mean) / sd
    began = time.monotonic()
    net, history = fit(x, np.tile(y[train_rows], (draws, 1)), x_rest[:len(valid_rows)], y[valid_rows], args.seed,
                       epochs)
    seconds += time.monotonic() - began
    with torch.inference_mode():
        out = net(torch.from_numpy(x_rest.astype(np.float32))).double().numpy()
    figures = {"parameters": count_parameters(net), "history": history, "seconds": seconds,
               "n_train": len(train_rows)}
    return Predicted(mean + sd * out), figures
