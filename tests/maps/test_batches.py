"""Frames and batches against plain NumPy indexing; the noise against its law and its promises."""
import numpy as np
import pytest
from scipy import stats

from wl.core.params import FILE_PREFIX, noise_sigma
from wl.core.seeds import FIXED_NOISE
from wl.kernels.noise import normal, seed_state
from wl.maps import dataset
from wl.maps.batches import FIXED, FRESH, N_SYMMETRY, NO_NOISE, Batches, Frame, rms


def odd_masks():
    rng = np.random.default_rng(8)
    one, row, column = (np.zeros((9, 13), bool) for _ in range(3))
    one[4, 11], row[3], column[:, 12] = True, True, True
    gaps = rng.random((50, 61)) < 0.5
    gaps[[0, 1, 20, 21, 49]], gaps[:, [0, 30, 60]] = False, False
    step = np.zeros((200, 96), bool)                 # an L: folds
    step[:, :40], step[90:131] = True, True
    step &= rng.random(step.shape) < 0.9
    top, bottom = step.copy(), step.copy()
    top[:, 40:], bottom[:, 40:] = False, False
    top[:30, 40:], bottom[170:, 40:] = True, True    # the block at either end of the strip
    split = np.zeros((600, 90), bool)                # two blocks: all between them is folded too
    split[:, :35], split[10:40], split[140:160] = True, True, True
    return {"one pixel": one, "one row": row, "one column": column,
            "everything": np.ones((16, 24), bool), "empty rows and columns": gaps,
            "random": rng.random((37, 101)) < 0.3, "L": step, "block on top": top,
            "block below": bottom, "two blocks": split, "wide": np.ascontiguousarray(step.T),
            "narrow": rng.random((400, 5)) < 0.8}


MASKS = odd_masks()
FOLDING = {"L", "block on top", "block below", "two blocks"}


def numbered(mask):
    """Two maps that number the pixels in base 1024 from 1: exact in float16."""
    number = np.arange(1, int(mask.sum()) + 1)
    return np.stack([number % 1024, number // 1024]).astype(np.float16)


def numbers(mask, frame, symmetry=0):
    """The number of the observed pixel at each place of the frame, 0 where there is none."""
    low, high = Batches(numbered(mask), frame, scale=1.0, n_gal=None).fetch(
        np.arange(2), noise=NO_NOISE, symmetry=np.full(2, symmetry))[:, 0]
    return (low + 1024 * high).astype(int)


def check_unpacked(mask):
    frame = Frame(mask, pack=False)
    found = numbers(mask, frame)
    y, x = np.nonzero(mask)
    oracle = np.zeros(frame.shape, int)
    oracle[y - y.min(), x - x.min()] = np.arange(1, len(y) + 1)    # C order of the mask, as on disk
    assert np.array_equal(found, oracle)
    assert all(n % 8 == 0 for n in frame.shape)
    assert all(n - 8 < m <= n for n, m in zip(frame.shape, (np.ptp(y) + 1, np.ptp(x) + 1)))
    assert np.array_equal(numbers(mask, frame, 1), oracle[::-1])
    assert np.array_equal(numbers(mask, frame, 2), oracle[:, ::-1])
    assert np.array_equal(numbers(mask, frame, 3), oracle[::-1, ::-1])


def check_packed(mask, must_fold, overlap=32):
    """No pixel is lost, a folded part is moved as one block, neighbours stay so somewhere."""
    frame = Frame(mask)
    assert (frame.copies.size > 0) == must_fold
    found = numbers(mask, frame)
    y, x = np.nonzero(mask)
    assert set(found[found > 0]) == set(range(1, len(y) + 1))
    assert np.bincount(found.ravel())[1:].max() == (2 if must_fold else 1)
    r, c = np.nonzero(found)
    moves = np.stack([r - y[found[r, c] - 1], c - x[found[r, c] - 1]], 1)
    assert len(np.unique(moves, axis=0)) == (2 if must_fold else 1)
    for s, flip in enumerate((np.s_[:, :], np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1])):
        assert np.array_equal(numbers(mask, frame, s), found[flip])
    # every pair of observed pixels within half the overlap of each other is seen side by side
    places = {}
    for at, number in zip(zip(r, c), found[r, c]):
        places.setdefault(number, []).append(at)
    index = np.zeros(mask.shape, int)
    index[mask] = np.arange(1, len(y) + 1)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 8), (8, 0), (5, -7), (0, overlap // 2)):
        if dy >= mask.shape[0] or abs(dx) >= mask.shape[1]:
            continue
        a = index[max(0, -dy):mask.shape[0] - max(0, dy), max(0, -dx):mask.shape[1] - max(0, dx)]
        b = index[max(0, dy):mask.shape[0] + min(0, dy), max(0, dx):mask.shape[1] + min(0, dx)]
        pairs = np.stack([a, b], -1)[(a > 0) & (b > 0)]
        for p, q in pairs[::max(1, len(pairs) // 4000)]:
            assert any((i + dy, j + dx) in places[q] for i, j in places[p]), (p, q, dy, dx)
    return frame


@pytest.mark.parametrize("name", MASKS)
def test_unpacked_frames_of_odd_masks(name):
    check_unpacked(MASKS[name])


@pytest.mark.parametrize("name", MASKS)
def test_packed_frames_of_odd_masks(name):
    frame = check_packed(MASKS[name], name in FOLDING)
    if name in FOLDING:
        unpacked = Frame(MASKS[name], pack=False)
        assert frame.size < unpacked.size


def test_real_mask(real):
    mask = dataset.read_mask(real / f"{FILE_PREFIX}_mask.npy")
    check_unpacked(mask)
    assert check_packed(mask, True).shape == (1840, 104)


def test_real_map_at_its_place(real):
    """A whole noisy map through the batch equals frame[mask] = map, to float32 rounding."""
    mask = dataset.read_mask(real / f"{FILE_PREFIX}_mask.npy")
    kappa = np.load(real / f"{FILE_PREFIX}_kappa_noisy_test.npy")
    batches = Batches(kappa, Frame(mask, pack=False), scale=0.028, n_gal=None)
    out = batches.fetch([0], noise=FIXED)[0, 0]
    oracle = np.zeros(mask.shape)
    oracle[mask] = kappa[0].astype(np.float64) / 0.028
    assert np.array_equal(out, oracle.astype(np.float32))


def test_every_float16_is_decoded():
    bits = np.arange(65536, dtype=np.uint16)
    value = bits.view(np.float16)
    keep = np.isfinite(value)
    out = Batches(value[None], Frame(np.ones((256, 256), bool), pack=False), scale=0.5,
                  n_gal=None).fetch([0], noise=NO_NOISE).ravel()
    assert np.array_equal(out[keep], 2.0 * value[keep].astype(np.float32))


def test_maps_that_do_not_fit_the_frame():
    with pytest.raises(ValueError, match="do not fit"):
        Batches(np.zeros((3, 5), np.float16), Frame(np.ones((2, 3), bool)), scale=1.0)


# ---------------------------------------------------------------- noise
SIDE = 48
EMPTY = np.zeros((64, SIDE * SIDE), np.float16)       # maps without signal: a batch is its noise


@pytest.fixture(scope="module")
def silent():
    return Batches(EMPTY, Frame(np.ones((SIDE, SIDE), bool)), scale=1.0, seed=7)


def test_noise_level_is_the_surveys():
    assert noise_sigma() == pytest.approx(0.025820, abs=5e-7)
    assert noise_sigma(n_gal=7.5) == pytest.approx(2 * noise_sigma())
    assert noise_sigma(pixel_arcmin=4.0) == pytest.approx(noise_sigma() / 2)


@pytest.mark.parametrize("kind", [FRESH, FIXED])
@pytest.mark.parametrize("n_gal, scale", [(30.0, 1.0), (30.0, 0.0282), (10.0, 0.5)])
def test_noise_has_the_right_law(kind, n_gal, scale):
    batches = Batches(EMPTY, Frame(np.ones((SIDE, SIDE), bool)), scale=scale, n_gal=n_gal, seed=3)
    x = batches.fetch(np.arange(64), noise=kind).ravel().astype(np.float64)
    x /= noise_sigma(n_gal) / scale
    n = x.size                                                # 147,456: 4 sigma on each
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs(stats.skew(x)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(x[::3], "norm").pvalue > 1e-4
    assert (4.0 if kind == FRESH else 4.1) < np.abs(x).max() < (4.4 if kind == FRESH else 6.0)


def test_the_table_of_normals_is_exact_in_its_first_moments(silent):
    z = silent.quantiles.astype(float) / noise_sigma()
    assert z.shape == (65536,) and abs(z.mean()) < 1e-6 and z.std() == pytest.approx(1.0, abs=2e-7)
    assert (np.diff(z) > 0).all() and np.allclose(z, -z[::-1], atol=1e-6)
    assert z.max() == pytest.approx(4.325, abs=2e-3)
    assert -1e-3 < stats.kurtosis(z) < 0                       # what the cap at 4.3 sigma takes


@pytest.mark.parametrize("kind", [FRESH, FIXED])
def test_noise_is_independent(silent, kind):
    x = silent.fetch(np.arange(64), noise=kind).reshape(64, -1)
    pixels = x.ravel() / x.std()
    for lag in (1, 2, 3, 4, 5, 8, SIDE, 2 * SIDE):          # the table draws four from one integer
        assert abs(np.mean(pixels[lag:] * pixels[:-lag])) < 4.5 / np.sqrt(pixels.size), lag
    between = np.corrcoef(x)[np.triu_indices(64, 1)] * np.sqrt(x.shape[1])
    assert abs(between.std() - 1) < 0.08 and np.abs(between).max() < 5.0
    other = silent.fetch(np.arange(64), noise=FRESH if kind == FIXED else FIXED).ravel()
    assert abs(np.corrcoef(x.ravel(), other)[0, 1]) < 4.5 / np.sqrt(x.size)
    reseeded = Batches(EMPTY, silent.frame, scale=1.0, seed=8).fetch(np.arange(64), noise=kind)
    assert abs(np.corrcoef(x.ravel(), reseeded.ravel())[0, 1]) < 4.5 / np.sqrt(x.size)


def test_fixed_noise_is_the_generators_own(silent):
    """Pixel after pixel in the mask's order from the state (seed, FIXED_NOISE, map)."""
    state = np.empty(4, np.uint64)
    seed_state(state, 7, FIXED_NOISE, 5)
    oracle = [np.float32(noise_sigma() * normal(state)) for _ in range(20)]
    assert np.array_equal(silent.fetch([5], noise=FIXED).ravel()[:20], np.array(oracle, np.float32))


def test_fixed_noise_is_the_same_for_ever(silent):
    """It follows from (seed, map) alone: not from the batch, the call, or the view."""
    whole = silent.fetch(np.arange(64), noise=FIXED)
    assert np.array_equal(whole, silent.fetch(np.arange(64), noise=FIXED))
    assert np.array_equal(whole[[9, 3]], silent.fetch([9, 3], noise=FIXED))
    for symmetry, flip in enumerate((np.s_[:, :], np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1])):
        view = silent.fetch([9], noise=FIXED, symmetry=[symmetry])[0, 0]
        assert np.array_equal(view, whole[9, 0][flip])
    empty = np.zeros((4, int(MASKS["L"].sum())), np.float16)
    packed = Batches(empty, Frame(MASKS["L"]), scale=1.0, seed=7)
    plain = Batches(packed.maps.view(np.float16), Frame(MASKS["L"], pack=False), scale=1.0, seed=7)
    number = numbers(MASKS["L"], packed.frame)
    index = numbers(MASKS["L"], plain.frame)
    by_number = np.zeros(number.max() + 1, np.float32)
    by_number[index] = plain.fetch([2], noise=FIXED)[0, 0]
    # copies carry the noise of their pixel
    assert np.array_equal(packed.fetch([2], noise=FIXED)[0, 0], by_number[number])


def test_fresh_noise_follows_from_seed_and_draw_alone(silent):
    draws = np.array([5, 900, 5, 2**40])
    first = silent.fetch([0, 1, 2, 3], noise=FRESH, draws=draws)
    assert np.array_equal(first[0], first[2])                 # one draw, two maps
    assert not np.array_equal(first[0], first[1])
    silent.fetch(np.arange(10), noise=FRESH)                  # no state is left behind
    assert np.array_equal(first[::-1], silent.fetch([3, 2, 1, 0], noise=FRESH, draws=draws[::-1]))
    assert np.array_equal(first[1], silent.fetch([40], noise=FRESH, draws=[900])[0])
    flipped = silent.fetch([40], noise=FRESH, draws=[900], symmetry=[3])[0]
    assert np.array_equal(first[1], flipped[:, ::-1, ::-1])


def test_noise_adds_to_the_signal(silent, rng):
    kappa = rng.normal(0, 0.01, EMPTY.shape).astype(np.float16)
    loud = Batches(kappa, silent.frame, scale=1.0, seed=7)
    for kind in (FRESH, FIXED):
        sum_ = silent.fetch([3, 60], noise=kind) + loud.fetch([3, 60], noise=NO_NOISE)
        assert np.array_equal(loud.fetch([3, 60], noise=kind), sum_)
    noiseless = Batches(kappa, silent.frame, scale=1.0, n_gal=None)
    assert np.array_equal(noiseless.fetch([3], noise=FRESH), loud.fetch([3], noise=NO_NOISE))


def test_output_array_is_cleaned_and_used():
    mask = MASKS["random"]
    batches = Batches(np.ones((3, int(mask.sum())), np.float16), Frame(mask), scale=1.0, seed=7)
    out = np.full((2, 1, *batches.frame.shape), np.nan, np.float32)
    assert batches.fetch([0, 2], noise=FRESH, out=out) is out
    assert np.isfinite(out).all() and np.array_equal(out, batches.fetch([0, 2], noise=FRESH))
    outside = numbers(mask, batches.frame) == 0
    assert (out[:, 0][:, outside] == 0).all() and (out[:, 0][:, ~outside] != 0).all()
    for rows, symmetry in (([3], [0]), ([-1], [0]), ([0], [4]), ([0], [-1])):
        with pytest.raises(IndexError, match="expected 0 to"):
            batches.fetch(rows, noise=FRESH, symmetry=symmetry)
    assert batches.fetch([], noise=FRESH).shape == (0, 1, *batches.frame.shape)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 6, 7])
def test_the_last_pixels_get_noise_too(pixels):
    """The table fills four pixels at a time: the rest must not be forgotten."""
    frame = Frame(np.ones((1, pixels), bool))
    batches = Batches(np.zeros((200, pixels), np.float16), frame, scale=1.0)
    x = batches.fetch(np.arange(200), noise=FRESH)[:, 0, 0, :pixels]
    assert (np.abs(x) > 0).all() and np.abs(x.std(0) / noise_sigma() - 1).max() < 0.25
    assert np.abs(np.corrcoef(x.T) - np.eye(pixels)).max() < 0.35


def test_memory_map_and_array_agree(tmp_path, silent, rng):
    kappa = rng.normal(0, 0.01, EMPTY.shape).astype(np.float16)
    np.save(tmp_path / "kappa.npy", kappa)
    mapped = Batches(dataset.load_npy(tmp_path / "kappa.npy", mmap=True), silent.frame, scale=1.0)
    assert np.array_equal(mapped.fetch([1, 5], noise=FRESH),
                          Batches(kappa, silent.frame, scale=1.0).fetch([1, 5], noise=FRESH))


def test_rms(rng):
    kappa = rng.normal(0, 0.0114, (40, 5000)).astype(np.float16)
    assert rms(kappa) == pytest.approx(np.hypot(0.0114, noise_sigma()), rel=2e-3)
    assert rms(kappa) == rms(kappa)
    assert rms(kappa[:1], n_gal=1e12) == pytest.approx(0.0114, rel=0.03)


CODE = """
import hashlib
import numpy as np
from wl.maps.batches import FIXED, FRESH, NO_NOISE, Batches, Frame
mask = np.zeros((40, 72), bool)
mask[:, :20], mask[5:20] = True, True
mask[7, 9] = False
kappa = np.random.default_rng(0).normal(0, 0.01, (6, mask.sum())).astype(np.float16)
digest = hashlib.sha256()
for pack in (True, False):
    batches = Batches(kappa, Frame(mask, pack=pack, overlap=8), scale=0.0282, seed=2**62 + 3)
    for noise in (NO_NOISE, FRESH, FIXED):
        out = batches.fetch([4, 0, 5], noise=noise, draws=[3, 2**50, 7], symmetry=[0, 1, 3])
        digest.update(out.tobytes())
print(batches.frame.copies.size > 0, digest.hexdigest())
"""


def test_bit_identical_for_any_threads_and_without_jit(python):
    found = []
    for env in ({"NUMBA_NUM_THREADS": "1"}, {"NUMBA_NUM_THREADS": "2"}, {"NUMBA_DISABLE_JIT": "1"}):
        run = python(CODE, env=env)
        assert run.returncode == 0 and run.stderr == "", run.stderr
        found.append(run.stdout)
    assert found[0] == found[1] == found[2]


def test_four_symmetries():
    assert N_SYMMETRY == 4 and len({NO_NOISE, FRESH, FIXED}) == 3
