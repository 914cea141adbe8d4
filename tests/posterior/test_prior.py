"""Priors: normalisation, what the design's density is made of, a user's own, and refusals."""
import tracemalloc

import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay
from scipy.stats import multivariate_normal

from wl.core.checks import InputError
from wl.posterior import prior as priors
from wl.posterior.emulator import build
from wl.posterior.triangles import triangle_areas


@pytest.mark.parametrize("prior", ["flat", "design"])
def test_prior_integrates_to_one(prior):
    """By a plain sum over a fine grid, which knows nothing of triangles."""
    emulator = synthetic.emulator(60, prior=prior)
    n = 1500
    low, high = emulator.limits
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    total = np.exp(emulator.log_prior(points)).sum() * np.prod(high - low) / n**2
    assert abs(total - 1.0) < 2e-3


def test_flat_prior_is_flat():
    emulator = synthetic.emulator(60, prior="flat")
    area = triangle_areas(emulator.theta, emulator.triangles).sum()
    assert np.allclose(emulator.vertex_log_prior, -np.log(area), atol=1e-12)


def test_triangle_integral_of_an_exponential():
    """normalise() against the closed form: twice the area times the second divided difference of exp."""
    theta = np.array([[0.0, 0.0], [2.0, 0.3], [0.4, 1.0]])
    corners = np.array([[0, 1, 2]])
    a, b, c = 0.3, -1.1, 2.0
    exact = 2.0 * 0.5 * (2.0 * 1.0 - 0.3 * 0.4) * (
        np.exp(a) / ((a - b) * (a - c)) + np.exp(b) / ((b - a) * (b - c)) + np.exp(c) / ((c - a) * (c - b)))
    shifted = priors.normalise(np.array([a, b, c]), theta, corners)
    assert np.allclose(np.array([a, b, c]) - shifted, np.log(exact), atol=1e-12)


def test_design_prior_generalises():
    """For fresh points of the density that a design follows, it beats a flat prior by far; and a
    cosmology between design points is not punished: leaving one out changes its density little."""
    fresh = synthetic.design(4000, seed=99)
    gain = []
    for seed in range(4):
        emulator = synthetic.emulator(101, seed=seed)
        value = emulator.log_prior(fresh)
        flat = -np.log(triangle_areas(emulator.theta, emulator.triangles).sum())
        gain.append(value[np.isfinite(value)].mean() - flat)
    assert min(gain) > 0.15
    theta = synthetic.design(101)
    inner = np.setdiff1d(np.arange(101), np.unique(Delaunay(theta).convex_hull))
    full = priors.design_log_density(theta)
    change = []
    for i in inner[:20]:
        rest = np.delete(theta, i, axis=0)
        without = build(rest, *synthetic.statistics(rest)).log_prior(theta[i:i + 1])[0]
        change.append(without - full[i])
    assert np.mean(change) > -0.25 and min(change) > -0.8


def test_design_prior_by_plain_sums():
    """Its three ingredients by SciPy on a fine grid: a kernel's mass in the hull, narrower kernels where points are
    dense (Abramson), the integral of what is linear in ln density between the points. Each of them matters."""
    theta = synthetic.design(40)
    low, high, n = theta.min(axis=0), theta.max(axis=0), 400
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    points = points[Delaunay(theta).find_simplex(points) >= 0]
    cell = np.prod(high - low) / n**2

    def summary(width, edge=True):
        kernels = [multivariate_normal(t, w**2 * np.cov(theta.T)) for t, w in zip(theta, width)]
        mass = [k.pdf(points).sum() * cell if edge else 1.0 for k in kernels]
        return np.mean([k.pdf(theta) / m for k, m in zip(kernels, mass)], axis=0)

    def normalised(density):
        inside = np.exp(LinearNDInterpolator(theta, np.log(density))(points))
        return np.log(density) - np.log(inside.sum() * cell)
    fixed = np.full(40, priors.BANDWIDTH * 40 ** (-1 / 6))
    first = summary(fixed)
    width = fixed * np.sqrt(np.exp(np.log(first).mean()) / first)
    found = priors.design_log_density(theta)
    assert np.allclose(found, normalised(summary(width)), rtol=0, atol=0.02)
    for other in (first, summary(width, edge=False)):
        assert np.abs(found - normalised(other)).max() > 0.1


def test_design_prior_of_many_cosmologies_in_little_memory(monkeypatch):
    """Kernels a few at a time: the same density, and not the gigabytes of all at once."""
    theta = synthetic.design(150)
    whole = priors.design_log_density(theta)
    blocks = priors._masses
    monkeypatch.setattr(priors, "_masses", lambda *arguments: blocks(*arguments, block=20000))
    assert np.allclose(priors.design_log_density(theta), whole, rtol=0, atol=1e-12)
    monkeypatch.undo()
    tracemalloc.start()
    priors.design_log_density(synthetic.design(500, seed=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e8                                  # 0.42 GB at once


def test_real_design(real):
    """On the challenge's design the prior is highest near (0.3, 0.8) and beats a flat one left out."""
    theta = np.load(real / "label.npy")[:, 0, :2]
    emulator = build(theta, *synthetic.statistics(theta))
    top = theta[np.argmax(emulator.vertex_log_prior)]
    assert abs(top[0] - 0.28) < 0.06 and abs(top[1] - 0.81) < 0.04
    assert 1.5 < np.ptp(emulator.vertex_log_prior) < 4.0


def test_users_own_prior():
    """Log densities at the design's points, in any normalisation."""
    theta = synthetic.design(40)
    own = -((theta[:, 0] - 0.3) / 0.1) ** 2
    emulator = build(theta, *synthetic.statistics(theta), prior=own + 7.0)
    difference = emulator.vertex_log_prior - own
    assert np.ptp(difference) < 1e-12
    assert np.allclose(build(theta, *synthetic.statistics(theta), prior=own).vertex_log_prior,
                       emulator.vertex_log_prior, atol=1e-12)


def test_prior_files(tmp_path):
    """The same density as numbers per cosmology, and as a table in .npy, text and CSV, any normalisation."""
    theta = synthetic.design(40)

    def own(x):
        return -((x[..., 0] - 0.3) / 0.1) ** 2 - ((x[..., 1] - 0.8) / 0.08) ** 2

    side = np.stack(np.meshgrid(np.linspace(0.05, 0.8, 60), np.linspace(0.6, 1.05, 45)), axis=-1).reshape(-1, 2)
    table = np.column_stack([side, 7.0 * np.exp(own(side))])
    table = table[np.random.default_rng(0).permutation(len(table))]
    np.save(tmp_path / "each.npy", own(theta))
    np.savetxt(tmp_path / "each.txt", own(theta))
    np.save(tmp_path / "table.npy", table)
    np.savetxt(tmp_path / "table.txt", table, header="Omega_m S_8 density")
    np.savetxt(tmp_path / "table.csv", table, delimiter=",")
    for name in ("each.npy", "each.txt", "table.npy", "table.txt", "table.csv"):
        values, lost = priors.read_prior(tmp_path / name, theta)
        difference = values - own(theta)
        assert np.ptp(difference) < (1e-9 if name.startswith("each") else 0.05), name
        assert lost == 0.0 if name.startswith("each") else 0.0 < lost < 0.3
    sharp = table.copy()
    sharp[:, 2] = np.exp(-0.5 * ((sharp[:, 0] - 0.3) / 0.004) ** 2) + 1e-30
    np.save(tmp_path / "sharp.npy", sharp)
    assert priors.read_prior(tmp_path / "sharp.npy", theta)[1] > 1.0          # finer than the design: said


def test_prior_file_refusals(tmp_path):
    theta = synthetic.design(30)
    square = np.array([[0, 0.5, 1], [1, 0.5, 1], [0, 1.1, 1], [1, 1.1, 1.0]])
    wrong = {"short.npy": np.zeros(7), "nan.npy": np.where(np.arange(30) == 4, np.nan, 0.0),
             "columns.npy": square[:, :2], "zero.npy": square * [1, 1, 0], "line.npy": np.repeat(square[:1], 9, axis=0),
             "cover.npy": square * [0.3, 1, 1], "pickle.npy": np.array([{}, None], dtype=object),
             "bool.npy": np.ones(30, bool), "number.npy": np.float64(3.0), "cube.npy": np.zeros((3, 3, 3)),
             "huge.npy": np.resize([1e308, -1e308], 30)}
    for name, value in wrong.items():
        np.save(tmp_path / name, value, allow_pickle=True)
    (tmp_path / "words.txt").write_text("flat please\n")
    (tmp_path / "empty.txt").write_text("")
    for name in [*wrong, "words.txt", "missing.txt", "empty.txt"]:
        with pytest.raises(InputError) as error:
            priors.read_prior(tmp_path / name, theta)
        one_line(error, "--prior", name)
