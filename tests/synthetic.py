"""Emulators with known truth for the tests of emulator, sampler and posterior."""
import numpy as np

from wl.posterior.emulator import build
from wl.posterior.metropolis import metropolis
from wl.posterior.options import PosteriorOptions


def design(n=60, seed=5):
    """A random design about as wide and as dense in its middle as the challenge's."""
    rng = np.random.default_rng(seed)
    z = np.clip(rng.normal(size=(n, 2)), -2.2, 2.4)
    return np.stack([0.275 * np.exp(0.36 * z[:, 0]), 0.81 + 0.065 * z[:, 1]], axis=1)


def statistics(theta, d=2, seed=0):
    """Mean (n, d) and covariance (n, d, d): monotonic, shrunk towards the middle, varying widths.

    For d = 2 posteriors have standard deviations of about 0.033 and 0.02, as a network's on the
    challenge's maps.
    """
    rng = np.random.default_rng(seed)
    centre, scale = np.array([0.29, 0.8135]), np.array([0.1055, 0.066])
    z = (theta - centre) / scale
    if d == 2:
        mean = centre + scale * 0.9 * np.arcsinh(z)
        sd = np.array([0.023, 0.015]) * np.exp(0.35 * z * [1.0, -0.5])
        rho = -0.3 + 0.25 * np.tanh(z[:, 0])
        covariance = sd[:, :, None] * sd[:, None, :]
        covariance[:, 0, 1] *= rho
        covariance[:, 1, 0] *= rho
        return mean, covariance
    mean = z @ rng.normal(size=(2, d)) + 0.1 * z**2 @ rng.normal(size=(2, d))
    root = rng.normal(size=(len(theta), d, 3 * d)) * np.exp(0.2 * z[:, :1, None])
    return mean, root @ root.transpose(0, 2, 1) / (3 * d)


def emulator(n=60, d=2, prior="design", seed=5):
    """An emulator of statistics() on a random design."""
    theta = design(n, seed)
    return build(theta, *statistics(theta, d), prior=prior)


def chains(emulator, summary, *, nstep, sigma, burn_in=0.2, chains=1, thin=None, adapt=False,
           draws=0, **options):
    """metropolis() with the options of its chains by name, and the draws of the first maps."""
    walk = PosteriorOptions(nstep, sigma, burn_in, chains, thin, adapt)
    return metropolis(emulator, summary, walk, keep=np.arange(min(draws, len(summary))), **options)


def draw(emulator, n, seed=1):
    """n cosmologies from the emulator's own prior and a summary of each. Returns theta, summary."""
    rng = np.random.default_rng(seed)
    theta = np.empty((0, 2))
    top = emulator.vertex_log_prior.max()
    while len(theta) < n:
        tried = rng.uniform(*emulator.limits, size=(4 * n, 2))
        keep = np.log(rng.uniform(size=len(tried))) + top < log_prior(emulator, tried)
        theta = np.concatenate([theta, tried[keep]])
    theta = theta[:n]
    mean, covariance, _ = emulator.interpolate(theta)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=mean.shape))
    return theta, mean + noise


def grid_posterior(emulator, summary, n=900, sign=1.0):
    """Posterior of one map on a fine grid, by NumPy and SciPy alone.

    sign: of the log-determinant; -1 makes the classic mistake. Returns mean (2,), sd (2,),
    correlation, and quantiles (2, 5) at 0.025, 0.16, 0.5, 0.84, 0.975.
    """
    from scipy.interpolate import LinearNDInterpolator
    low, high = emulator.limits
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    d = emulator.d
    values = np.concatenate([emulator.mean, emulator.covariance.reshape(-1, d * d),
                             emulator.vertex_log_prior[:, None]], axis=1)
    values = LinearNDInterpolator(emulator.theta, values)(points)
    inside = np.flatnonzero(np.isfinite(values[:, 0]))
    residual = summary - values[inside, :d]
    covariance = values[inside, d:d + d * d].reshape(-1, d, d)
    chi2 = np.einsum("nd,nd->n", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    logp = np.full(len(points), -np.inf)
    logp[inside] = values[inside, -1] - 0.5 * chi2 - sign * 0.5 * np.linalg.slogdet(covariance)[1]
    p = np.exp(logp - logp.max()).reshape(n, n)
    p /= p.sum()
    mean = np.array([p.sum(axis=1 - k) @ axes[k] for k in range(2)])
    x, y = axes[0][:, None] - mean[0], axes[1] - mean[1]
    sd = np.sqrt([(p * x**2).sum(), (p * y**2).sum()])
    width = (high - low) / n
    levels = [0.025, 0.16, 0.5, 0.84, 0.975]
    quantiles = np.array([np.interp(levels, np.cumsum(p.sum(axis=1 - k)), axes[k] + 0.5 * width[k])
                          for k in range(2)])
    return mean, sd, (p * x * y).sum() / sd.prod(), quantiles


def places(emulator):
    """Summaries that put the posterior in the middle, at the edge and outside of hull, one far."""
    middle = emulator.interpolate(np.array([[0.28, 0.81]]))[0][0]
    corner = emulator.theta[np.argmax(emulator.theta[:, 0])]
    edge = emulator.interpolate(corner[None] + 0.02 * (np.array([0.28, 0.81]) - corner))[0][0]
    outward = edge - middle
    return np.stack([middle, edge, edge + 0.25 * outward, edge + outward])


def contains(emulator, theta):
    """Whether points lie in the emulator's hull."""
    return emulator.interpolate(theta)[2]


def log_prior(emulator, theta):
    """ln of the prior density that the emulator's kernel interpolates, -inf outside the hull."""
    values, inside = emulator._values(theta)
    return np.where(inside, values[:, 0], -np.inf)


def quantiles(chains, i):
    """Quantiles (2, 5) of map i."""
    return np.array([getattr(chains, q)[i] for q in ("q2_5", "q16", "q50", "q84", "q97_5")]).T
