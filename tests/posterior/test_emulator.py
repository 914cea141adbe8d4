"""Emulator and prior: SciPy's interpolator and Gaussians, sums over fine grids, and refusals."""

import numpy as np
import pytest
import synthetic
from conftest import one_line
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay
from scipy.stats import multivariate_normal

from wl.core.checks import InputError
from wl.posterior import emulator as emulators
from wl.posterior.emulator import build, triangle_areas


@pytest.mark.parametrize("d", [1, 2, 10])
def test_equals_linear_nd_interpolator(d, rng):
    """Mean and covariance to 1e-12, and the same points inside."""
    theta = synthetic.design(101)
    mean, covariance = synthetic.statistics(theta, max(d, 2))
    mean, covariance = mean[:, :d], covariance[:, :d, :d]
    emulator = build(theta, mean, covariance, prior="flat")
    low, high = theta.min(axis=0) - 0.05, theta.max(axis=0) + 0.05
    points = rng.uniform(low, high, size=(20000, 2))
    ours, ours_c, inside = emulator.interpolate(points)
    values = np.concatenate([mean, covariance.reshape(-1, d * d)], axis=1)
    values = LinearNDInterpolator(theta, values)(points)
    assert np.array_equal(inside, np.isfinite(values[:, 0])) and 5000 < inside.sum() < 15000
    assert np.abs(ours[inside] - values[inside, :d]).max() < 1e-12 * max(1.0, np.abs(mean).max())
    assert np.abs(ours_c[inside].reshape(-1, d * d) - values[inside, d:]).max() < 1e-12 * max(
        1.0, np.abs(covariance).max())
    assert np.isnan(ours[~inside]).all() and np.isnan(ours_c[~inside]).all()
    assert np.isneginf(synthetic.log_prior(emulator, points)[~inside]).all()
    assert np.isneginf(emulator.log_posterior(points, mean[:1])[0, ~inside]).all()
    assert np.array_equal(synthetic.contains(emulator, points), inside)


def test_exact_at_the_design():
    """At a cosmology of the design, the corners of the hull too, the emulator gives what it was
    given."""
    emulator = synthetic.emulator(101)
    mean, covariance, inside = emulator.interpolate(emulator.theta)
    assert inside.all()
    assert np.allclose(mean, emulator.mean, rtol=0, atol=1e-13)
    assert np.allclose(covariance, emulator.covariance, rtol=0, atol=1e-15)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_log_likelihood_between_covariances(d, rng):
    """All of it, and differences between cosmologies of other covariances, against scipy.stats."""
    emulator = synthetic.emulator(50, d)
    theta, summary = synthetic.draw(emulator, 12)
    ours = emulator.log_posterior(theta, summary) - synthetic.log_prior(emulator, theta)
    values = LinearNDInterpolator(emulator.theta, np.concatenate(
        [emulator.mean, emulator.covariance.reshape(-1, d * d)], axis=1))(theta)
    oracle = np.array([[multivariate_normal.logpdf(e, v[:d], v[d:].reshape(d, d)) for v in values]
                       for e in summary])
    assert np.ptp([np.linalg.slogdet(v[d:].reshape(d, d))[1] for v in values]) > 0.3
    assert np.allclose(np.diff(ours, axis=1), np.diff(oracle, axis=1), rtol=1e-9, atol=1e-9)
    assert np.allclose(ours, oracle, rtol=1e-9, atol=1e-9)
    posterior = emulator.log_posterior(theta, summary)
    assert np.allclose(posterior, oracle + synthetic.log_prior(emulator, theta), rtol=1e-9,
                       atol=1e-9)


def test_order_of_the_design_does_not_matter(rng):
    theta = synthetic.design(60)
    mean, covariance = synthetic.statistics(theta)
    order = rng.permutation(60)
    points = rng.uniform(theta.min(axis=0), theta.max(axis=0), size=(500, 2))
    one = build(theta, mean, covariance)
    other = build(theta[order], mean[order], covariance[order])
    inside = synthetic.contains(one, points)
    assert np.allclose(one.interpolate(points)[0][inside], other.interpolate(points)[0][inside],
                       atol=1e-12)
    assert np.allclose(synthetic.log_prior(one, points)[inside],
                       synthetic.log_prior(other, points)[inside], atol=1e-9)


def test_refusals():
    """Each wrong input in one line that names what is wrong."""
    theta = synthetic.design(30)
    mean, covariance = synthetic.statistics(theta)

    def refused(theta=theta, mean=mean, covariance=covariance, prior="design"):
        with pytest.raises(InputError) as error:
            build(theta, mean, covariance, prior=prior)
        return error

    one_line(refused(theta[:2], mean[:2], covariance[:2]), "at least 3", "got 2")
    line = np.stack([np.linspace(0.1, 0.6, 30), np.linspace(0.7, 0.9, 30)], axis=1)
    one_line(refused(line), "one line")
    one_line(refused(np.concatenate([theta[:29], theta[4:5]])), "cosmology 4", "29", "same")
    one_line(refused(np.where(np.arange(60).reshape(30, 2) == 9, np.nan, theta)), "nan")
    bad = covariance.copy()
    bad[7, 0, 1] = bad[7, 1, 0] = 2.0 * np.sqrt(bad[7, 0, 0] * bad[7, 1, 1])
    one_line(refused(covariance=bad), "cosmology 7", f"{theta[7, 0]:.6g}", f"{theta[7, 1]:.6g}",
             "positive definite")
    bad = covariance.copy()
    bad[3] = 0.0
    one_line(refused(covariance=bad), "cosmology 3", "positive definite")
    bad = covariance.copy()
    bad[5, 0, 1] *= -1.0
    one_line(refused(covariance=bad), "cosmology 5", "symmetric")
    # 3 realisations of 5 summaries
    few = np.random.default_rng(0).normal(size=(30, 3, 2))
    few = np.repeat(few, 3, axis=2)[:, :, :5]
    singular = np.einsum("nra,nrb->nab", few, few)
    one_line(refused(mean=np.zeros((30, 5)), covariance=singular), "positive definite",
             "realisations")
    one_line(refused(mean=mean[:29]), "(29, 2)")
    one_line(refused(covariance=covariance[:, :1]), "shape")
    one_line(refused(prior="other"), "flat", "design", "other")
    one_line(refused(prior=np.zeros(7)), "30")
    emulator = build(theta, mean, covariance)
    for summary in (np.zeros((4, 3)), np.array([[0.3, np.nan]]), np.array([["a", "b"]])):
        with pytest.raises(InputError) as error:
            emulator.log_posterior(theta, summary)
        one_line(error, "summary")


# ---------------------------------------------------------------- the prior
def design_density(theta):
    return emulators.log_prior("design", theta, Delaunay(theta).simplices)


@pytest.mark.parametrize("d", [2, 5])
def test_the_design_prior_goes_on_beyond_the_hull(d):
    """By half a design's sd all around: inside nothing changes, outside means go on with their
    slope."""
    theta = synthetic.design(101)
    slope = np.random.default_rng(1).normal(size=(2, d))
    covariance = synthetic.statistics(theta, d)[1]
    flat, wide = (build(theta, theta @ slope, covariance, prior) for prior in ("flat", "design"))
    assert len(wide.theta) == 101 + emulators.DIRECTIONS and np.array_equal(wide.theta[:101], theta)
    centre, root = theta.mean(axis=0), np.linalg.cholesky(np.cov(theta.T))
    angle = np.linspace(0.0, 2.0 * np.pi, 400)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ root.T
    for i in Delaunay(theta).convex_hull[:, 0]:
        assert synthetic.contains(wide, theta[i] + 0.75 * emulators.MARGIN * circle).all()
        assert not synthetic.contains(wide, theta[i] + 1.05 * emulators.MARGIN * circle).all()
    points = centre + (theta - centre) * 0.99
    for a, b in zip(flat.interpolate(points)[:2], wide.interpolate(points)[:2]):
        assert np.allclose(a, b, rtol=0, atol=1e-12)
    outside = wide.theta[101:]
    assert np.allclose(wide.interpolate(outside - 1e-9 * (outside - centre))[0], outside @ slope,
                       atol=1e-6)
    assert (wide.vertex_log_prior[101:] < wide.vertex_log_prior[:101].max() - 1.0).all()


def test_a_margin_around_few_and_regular_cosmologies():
    """Three corners, and grids with many points on one line of the hull."""
    side = np.linspace(0.0, 1.0, 6)
    grid = np.stack(np.meshgrid(0.1 + 0.4 * side, 0.7 + 0.2 * side), axis=-1).reshape(-1, 2)
    for theta in (grid[[0, 5, 30]], grid[[0, 5, 30, 35]], grid, grid + 0.1 * grid[:, ::-1]):
        emulator = build(theta, theta, np.tile(1e-4 * np.eye(2), (len(theta), 1, 1)))
        middle = emulator.interpolate(theta.mean(axis=0)[None])
        assert middle[2].all() and np.allclose(middle[0], theta.mean(axis=0))
        assert np.isfinite(emulator.vertex_log_prior).all()


@pytest.mark.parametrize("prior", ["flat", "design"])
def test_prior_integrates_to_one(prior):
    """By a plain sum over a fine grid, which knows nothing of triangles."""
    emulator = synthetic.emulator(60, prior=prior)
    n = 1500
    low, high = emulator.limits
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    total = np.exp(synthetic.log_prior(emulator, points)).sum() * np.prod(high - low) / n**2
    assert abs(total - 1.0) < 2e-3


def test_flat_prior_is_flat():
    emulator = synthetic.emulator(60, prior="flat")
    area = triangle_areas(emulator.theta, emulator.triangles).sum()
    assert np.allclose(emulator.vertex_log_prior, -np.log(area), atol=1e-12)


def test_triangle_integral_of_an_exponential():
    """Normalised against the closed form: twice the area times the second divided difference of
    exp."""
    theta = np.array([[0.0, 0.0], [2.0, 0.3], [0.4, 1.0]])
    corners = np.array([[0, 1, 2]])
    a, b, c = 0.3, -1.1, 2.0
    exact = 2.0 * 0.5 * (2.0 * 1.0 - 0.3 * 0.4) * (
        np.exp(a) / ((a - b) * (a - c)) + np.exp(b) / ((b - a) * (b - c)) + np.exp(c)
        / ((c - a) * (c - b)))
    shifted = emulators.log_prior(np.array([a, b, c]), theta, corners)
    assert np.allclose(np.array([a, b, c]) - shifted, np.log(exact), atol=1e-12)


def test_design_prior_generalises():
    """For fresh points of the density that a design follows, it beats a flat prior by far; and a
    cosmology between design points is not punished: leaving one out changes its density little."""
    fresh = synthetic.design(4000, seed=99)
    gain = []
    for seed in range(4):
        emulator = synthetic.emulator(101, seed=seed)
        value = synthetic.log_prior(emulator, fresh)
        flat = -np.log(triangle_areas(emulator.theta, emulator.triangles).sum())
        gain.append(value[np.isfinite(value)].mean() - flat)
    assert min(gain) > 0.15
    theta = synthetic.design(101)
    inner = np.setdiff1d(np.arange(101), np.unique(Delaunay(theta).convex_hull))
    full = design_density(theta)
    change = []
    for i in inner[:20]:
        rest = np.delete(theta, i, axis=0)
        without = synthetic.log_prior(build(rest, *synthetic.statistics(rest)), theta[i:i + 1])[0]
        change.append(without - full[i])
    assert np.mean(change) > -0.25 and min(change) > -0.8


def test_design_prior_by_plain_sums():
    """Its two ingredients by SciPy on a fine grid: narrower kernels where points are dense
    (Abramson), the integral of what is linear in ln density between the points. The first
    matters."""
    theta = synthetic.design(40)
    low, high, n = theta.min(axis=0), theta.max(axis=0), 400
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    points = points[Delaunay(theta).find_simplex(points) >= 0]
    cell = np.prod(high - low) / n**2

    def summary(width):
        kernels = [multivariate_normal(t, w**2 * np.cov(theta.T)) for t, w in zip(theta, width)]
        return np.mean([k.pdf(theta) for k in kernels], axis=0)

    def normalised(density):
        inside = np.exp(LinearNDInterpolator(theta, np.log(density))(points))
        return np.log(density) - np.log(inside.sum() * cell)
    fixed = np.full(40, emulators.BANDWIDTH * 40 ** (-1 / 6))
    first = summary(fixed)
    width = fixed * np.sqrt(np.exp(np.log(first).mean()) / first)
    found = design_density(theta)
    assert np.allclose(found, normalised(summary(width)), rtol=0, atol=0.02)
    assert np.abs(found - normalised(first)).max() > 0.1


def test_real_design(real):
    """On the challenge's design the prior is highest near (0.3, 0.8) and beats a flat one left
    out."""
    theta = np.load(real / "label.npy")[:, 0, :2]
    emulator = build(theta, *synthetic.statistics(theta))
    top = theta[np.argmax(emulator.vertex_log_prior)]
    assert abs(top[0] - 0.28) < 0.06 and abs(top[1] - 0.81) < 0.04
    assert 1.5 < np.ptp(emulator.vertex_log_prior[:101]) < 4.5


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
    """The same density as a table in .npy, text and CSV, in any normalisation."""
    theta = synthetic.design(40)

    def own(x):
        return -((x[..., 0] - 0.3) / 0.1) ** 2 - ((x[..., 1] - 0.8) / 0.08) ** 2

    side = np.stack(np.meshgrid(np.linspace(0.05, 0.8, 60), np.linspace(0.6, 1.05, 45)),
                    axis=-1).reshape(-1, 2)
    table = np.column_stack([side, 7.0 * np.exp(own(side))])
    table = table[np.random.default_rng(0).permutation(len(table))]
    np.save(tmp_path / "table.npy", table)
    np.savetxt(tmp_path / "table.txt", table, header="Omega_m S_8 density")
    np.savetxt(tmp_path / "table.csv", table, delimiter=",")
    for name in ("table.npy", "table.txt", "table.csv"):
        values, lost = emulators.read_prior(tmp_path / name, theta)
        assert np.ptp(values - own(theta)) < 0.05 and 0.0 < lost < 0.3, name
    sharp = table.copy()
    sharp[:, 2] = np.exp(-0.5 * ((sharp[:, 0] - 0.3) / 0.004) ** 2) + 1e-30
    np.save(tmp_path / "sharp.npy", sharp)
    # finer than the design: said
    assert emulators.read_prior(tmp_path / "sharp.npy", theta)[1] > 1.0


@pytest.mark.parametrize("kind", [np.float32, lambda table: np.round(table, 6)])
def test_a_prior_on_the_rounded_design(tmp_path, kind):
    """Points that are the design's but for rounding give each cosmology its own density, on the
    hull too."""
    theta = synthetic.design(60)
    density = np.random.default_rng(3).uniform(0.5, 2.0, 60)
    density[7] = 0.0                                     # a statement: excluded
    np.save(tmp_path / "p.npy", np.asarray(kind(np.column_stack([theta, density]))))
    values, lost = emulators.read_prior(tmp_path / "p.npy", theta)
    others = np.delete(np.arange(60), 7)
    assert np.allclose(values[others], np.log(density[others]), atol=1e-5) and lost < 1e-6
    assert values[7] < values[others].min() - 20.0 and np.isfinite(values[7])
    emulator = build(theta, *synthetic.statistics(theta), prior=values)
    assert np.isfinite(emulator.vertex_log_prior).all()


def test_a_point_of_a_prior_given_twice(tmp_path):
    """The same density is taken once, another one is refused by its rows, whatever their order."""
    square = np.array([[0, 0.5, 1], [1, 0.5, 2], [0, 1.2, 1], [1, 1.2, 1], [0.5, 0.9, 3]])
    theta = synthetic.design(30)
    np.save(tmp_path / "once.npy", square)
    np.save(tmp_path / "same.npy", square[[0, 1, 2, 1, 3, 4]])
    assert np.array_equal(*(emulators.read_prior(tmp_path / n, theta)[0]
                            for n in ("once.npy", "same.npy")))
    twice = np.concatenate([square, square[1:2] * [1, 1, 0.5]])
    for table in (twice, twice[::-1]):
        np.save(tmp_path / "twice.npy", table)
        rows = np.flatnonzero((table[:, :2] == [1, 0.5]).all(axis=1))
        with pytest.raises(InputError) as error:
            emulators.read_prior(tmp_path / "twice.npy", theta)
        one_line(error, f"rows {rows[0]} and {rows[1]}", "densities")


def test_prior_file_refusals(tmp_path):
    theta = synthetic.design(30)
    square = np.array([[0, 0.5, 1], [1, 0.5, 1], [0, 1.1, 1], [1, 1.1, 1.0]])
    wrong = {"short.npy": np.zeros(7), "nan.npy": np.where(np.arange(30) == 4, np.nan, 0.0),
             "columns.npy": square[:, :2], "zero.npy": square * [1, 1, 0],
             "line.npy": np.repeat(square[:1], 9, axis=0),
             "cover.npy": square * [0.3, 1, 1], "pickle.npy": np.array([{}, None], dtype=object),
             "bool.npy": np.ones(30, bool), "number.npy": np.float64(3.0),
             "cube.npy": np.zeros((3, 3, 3)),
             "huge.npy": np.resize([1e308, -1e308], 30)}
    for name, value in wrong.items():
        np.save(tmp_path / name, value, allow_pickle=True)
    (tmp_path / "words.txt").write_text("flat please\n")
    (tmp_path / "empty.txt").write_text("")
    for name in [*wrong, "words.txt", "missing.txt", "empty.txt"]:
        with pytest.raises(InputError) as error:
            emulators.read_prior(tmp_path / name, theta)
        one_line(error, "--prior", name)
