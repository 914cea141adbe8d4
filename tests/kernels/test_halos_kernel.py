"""Compiled halves of maps with halos: draws against distributions, stamps against NumPy."""
import numpy as np
import pytest
from scipy import stats

from wl.simulate.fields import UNTURNED
from wl.simulate.halo_sky import PER_PIXEL, SHAPES, SIZES, place_among, profiles
from wl.kernels import halos as kernels
from wl.kernels.halos import Kinds, Table, Turn

ROWS, COLUMNS = 24, 20


@pytest.fixture(scope="module")
def table():
    """Five levels of g from -2 on, and three kinds whose shares change with g."""
    weight = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 3.0, 1.0], [5.0, 3.0, 0.0],
                       [9.0, 1.0, 0.0]])
    chance, other = np.empty(weight.shape, np.float32), np.empty(weight.shape, np.int16)
    kernels.alias(weight, chance, other)
    smooth, mean = np.array([-1.0, 0.0, 2.0, 3.0, 7.0]), np.array([0.0, 1.0, 2.0, 5.0, 9.0])
    return weight, Table(-2.0, 1.0, 0.2 * weight.sum(1), smooth, mean, chance, other)


@pytest.fixture(scope="module")
def kinds():
    return Kinds(np.array([1.0, 0.5, 4.0], np.float32), np.array([0.1, 0.0, 0.0], np.float32),
                 place_among(SIZES, np.array([0.5, 1.3, 6.0])).astype(np.float32),
                 place_among(SHAPES, np.array([8.0, 5.0, 3.0])).astype(np.float32), 2.0)


def scattered(field, table, near=None, turn=UNTURNED, seed=1):
    """Halos and smooth part of a field."""
    smooth = np.zeros(field.shape, np.float32)
    near = np.ones(field.shape, bool) if near is None else near
    return kernels.scatter(field.astype(np.float32), near, turn, table, smooth, seed), smooth


def test_alias_tables_hold_the_weights(rng):
    weight = rng.random((4, 33)) ** 3
    weight[1, :5] = 0.0
    weight[2], weight[3, 7] = 1.0, 200.0
    chance, other = np.empty(weight.shape, np.float32), np.empty(weight.shape, np.int16)
    kernels.alias(weight, chance, other)
    for w, c, o in zip(weight, chance, other):
        share = (c + np.bincount(o, 1.0 - c, len(w))) / len(w)
        assert share == pytest.approx(w / w.sum(), abs=2e-7)


def test_number_of_halos_is_poisson_of_the_rate(table):
    """The mean over fields with one g, between two levels, and its scatter."""
    _, t = table
    field = np.full((ROWS, COLUMNS), 0.25)
    rate = 0.75 * t.rate[2] + 0.25 * t.rate[3]
    counts = np.array([len(scattered(field, t, seed=s)[0]) for s in range(400)])
    expected = rate * field.size
    assert counts.mean() == pytest.approx(expected, abs=4.0 * np.sqrt(expected / 400))
    assert counts.var() == pytest.approx(expected, rel=0.3)


def test_halos_follow_the_field_and_are_even_in_a_cell(table, rng):
    t = table[1]._replace(rate=20.0 * table[1].rate)           # more than one growth of the list
    field = rng.normal(0.0, 0.8, (ROWS, COLUMNS))
    halos = np.concatenate([scattered(field, t, seed=s)[0] for s in range(10)])
    cell = np.floor(halos[:, :2]).astype(int)
    found = np.zeros(field.shape)
    np.add.at(found, tuple(cell.T), 1.0)
    expected = 10 * np.interp(field, [-2, -1, 0, 1, 2], t.rate)
    pull = (found - expected) / np.sqrt(expected)
    assert abs(pull.mean()) < 0.15 and 0.85 < pull.std() < 1.15
    for k in (0, 1):
        assert stats.kstest(halos[:, k] % 1.0, "uniform").pvalue > 1e-3
    assert halos[:, 2] == pytest.approx(np.clip(field, -2, 2)[tuple(cell.T)] + 2.0, abs=1e-5)


def test_smooth_part_is_interpolated_and_its_ends_hold(table):
    _, t = table
    field = np.linspace(-3.0, 3.0, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    near = np.arange(COLUMNS) < 7
    near = np.broadcast_to(near, field.shape).copy()
    halos, smooth = scattered(field, t, near)
    assert np.all(halos[:, 1] < 7.0) and len(halos) > 50
    expected = np.where(near, np.interp(field, [-2, -1, 0, 1, 2], t.smooth),
                        np.interp(field, [-2, -1, 0, 1, 2], t.mean))
    assert smooth == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("turn", [Turn(True, False, 0, 0), Turn(False, True, 5, 3),
                                  Turn(True, True, 100, 77)])
def test_a_turned_slice_is_the_same_slice(table, rng, turn):
    """Positions and smooth part move as numpy.roll of the flipped field does."""
    _, t = table
    field = rng.normal(0.0, 0.8, (ROWS, COLUMNS))
    halos, smooth = scattered(field, t)
    moved, turned = scattered(field, t, turn=turn)
    y, x = halos[:, 0], halos[:, 1]
    y, x = ROWS - y if turn.flip_y else y, COLUMNS - x if turn.flip_x else x
    assert moved[:, 0] == pytest.approx((y + turn.shift_y) % ROWS, abs=1e-9)
    assert moved[:, 1] == pytest.approx((x + turn.shift_x) % COLUMNS, abs=1e-9)
    assert np.array_equal(moved[:, 2], halos[:, 2])
    there = smooth[::-1 if turn.flip_y else 1, ::-1 if turn.flip_x else 1]
    assert np.array_equal(turned, np.roll(there, (turn.shift_y, turn.shift_x), (0, 1)))


def test_numbers_depend_on_the_seed_alone(table, kinds, rng):
    _, t = table
    field = rng.normal(0.0, 0.8, (ROWS, COLUMNS))
    first, again, other = (scattered(field, t, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first[:5], other[:5])
    maps = np.zeros((3, 2 * ROWS, 2 * COLUMNS), np.float32)
    for sky, seed in zip(maps, (1, 1, 2)):
        kernels.paint(sky, first, t, kinds, profiles(), seed)
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])


def test_painted_mass_is_conserved_also_over_the_edges(table, kinds, rng):
    """Two kinds with one mass: what is painted is their number times it, wherever they lie."""
    _, t = table
    one = kinds._replace(mass=np.full(3, 2.0, np.float32),
                         point=np.full(3, 0.25, np.float32))
    sky = np.zeros((2 * ROWS, 2 * COLUMNS), np.float32)
    halos = rng.random((500, 3)) * (ROWS, COLUMNS, 4.0)
    end = COLUMNS - 1e-12
    halos[:4, :2] = (0.0, 0.0), (ROWS - 1e-12, end), (0.0, end), (ROWS, COLUMNS)
    kernels.paint(sky, halos, t, one, profiles(), 3)
    assert sky.sum(dtype=float) == pytest.approx(500 * 2.25, rel=1e-5)
    assert sky.min() >= 0.0


def test_kinds_have_their_chances_at_every_level(table, kinds):
    """Points of different mass tell the kinds apart; halfway between two levels both count."""
    weight, t = table
    one = kinds._replace(mass=np.zeros(3, np.float32),
                         point=np.array([1.0, 1e3, 1e6], np.float32))
    n = 20_000
    for level in (0.0, 1.5, 3.0, 3.999):
        # a halo a pixel: the map is then the list of kinds
        y, x = np.divmod(np.arange(n), 200)
        halos = np.column_stack([0.5 * (y + 0.5), 0.5 * (x + 0.5), np.full(n, level)])
        sky = np.zeros((100, 200), np.float32)
        kernels.paint(sky, halos, t, one, profiles(), 5)
        found = np.array([np.mean(sky == v) for v in (1.0, 1e3, 1e6)])
        low = int(level)
        share = weight / weight.sum(1, keepdims=True)
        expected = (low + 1 - level) * share[low] + (level - low) * share[min(low + 1, 4)]
        assert found == pytest.approx(expected, abs=4.0 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("y, x, size, shape", [(10.3, 7.8, 12, 16), (0.2, 39.9, 20, 20),
                                               (30.5, 20.5, 26, 10), (47.9, 0.4, 3, 25)])
def test_a_stamp_against_numpy(y, x, size, shape):
    """Distances on the torus, linear interpolation of the row, mass one, all in float64."""
    table = profiles()
    width = (table.first[size + 1] - table.first[size]) // table.shapes
    row = table.value[table.first[size] + shape * width:][:width].astype(float)
    rows, columns = 2 * ROWS, 2 * COLUMNS
    dy = (np.arange(rows) + 0.5 - y + rows / 2) % rows - rows / 2
    dx = (np.arange(columns) + 0.5 - x + columns / 2) % columns - columns / 2
    r = np.hypot(dy[:, None], dx)
    expected = np.interp(r * PER_PIXEL, np.arange(width), row, right=0.0)
    expected[r > table.reach[size]] = 0.0
    sky, stamp = np.zeros((rows, columns), np.float32), np.empty(200 * 200, np.float32)
    where = (y, x, table.reach[size], float(PER_PIXEL))
    kernels._add_stamp(sky, stamp, row.astype(np.float32), where, 3.0)
    expected *= 3.0 / expected.sum()
    assert sky == pytest.approx(expected, abs=1e-4 * expected.max())


def test_sizes_and_concentrations_are_the_asked_ones_on_average(table, kinds):
    """Second moments of many stamps of one kind against the table's between two levels."""
    t, p = table[1], profiles()
    size, c = 3.3, 6.0
    one = Kinds(np.ones(3, np.float32), np.zeros(3, np.float32),
                np.full(3, place_among(SIZES, size), np.float32),
                np.full(3, place_among(SHAPES, c), np.float32), 0.0)
    sky, n = np.zeros((60, 60), np.float32), 4000
    rng = np.random.default_rng(1)
    halos = np.column_stack([15.0 + 0.5 * rng.random((n, 2)), np.full(n, 1.0)])
    kernels.paint(sky, halos, t, one, p, 2)
    at = np.arange(60) + 0.5 - 30.5
    found = np.sum(sky * (at[:, None]**2 + at**2), dtype=float) / n

    def second(place, shape):
        width = (p.first[place + 1] - p.first[place]) // p.shapes
        row = p.value[p.first[place] + shape * width:][:width].astype(float)
        r = np.arange(width) / PER_PIXEL
        return np.sum(row * r**3) / np.sum(row * r)

    i, j = int(place_among(SIZES, size)), int(place_among(SHAPES, c))
    u, v = place_among(SIZES, size) - i, place_among(SHAPES, c) - j
    mean = sum(a * b * second(i + m, j + k) for m, a in enumerate((1 - u, u))
               for k, b in enumerate((1 - v, v)))
    # positions are even over a pixel
    assert found - 2.0 / 12.0 == pytest.approx(mean, rel=0.03)
    assert SIZES[i] < size < SIZES[i + 1] and SHAPES[j] < c < SHAPES[j + 1]


def test_concentrations_scatter(table, kinds):
    """The concentration of a halo in a pixel's middle is read off its highest pixel."""
    t, p, size = table[1], profiles(), 20
    width = (p.first[size + 1] - p.first[size]) // p.shapes
    top = p.value[p.first[size]:p.first[size + 1]].reshape(p.shapes, width)[:, 0]
    one = Kinds(np.ones(3, np.float32), np.zeros(3, np.float32), np.full(3, size, np.float32),
                np.full(3, 15.0, np.float32), 2.5)
    found = []
    for seed in range(600):
        sky = np.zeros((50, 50), np.float32)
        kernels.paint(sky, np.array([[12.25, 12.25, 1.0]]), t, one, p, seed)
        found.append(np.interp(sky.max(), top, np.arange(p.shapes)))
    # rounding a normal number at random keeps its mean and adds 1/6 to its variance
    assert np.mean(found) == pytest.approx(15.0, abs=0.5)
    assert np.var(found) == pytest.approx(2.5**2 + 1.0 / 6.0, rel=0.2)
