"""Posterior files as xarray and ArviZ open them: runs subtract map by map, nothing is lost or all NaN."""
import time

import numpy as np
import pytest

from wl.core import hdf5
from wl.core.hdf5 import Folder
from wl.core.params import EMULATOR, HOLDOUT, NAMES, TEST, VARIABLES
from wl.posterior import infer
from wl.posterior.options import PosteriorOptions, Wanted

xarray = pytest.importorskip("xarray", reason="xarray is not installed (an optional package)")
N_COSMOLOGY, N_REAL, N_TEST = 16, 24, 30


def predictions(seed, n_test=N_TEST):
    """A file of summaries as predict makes it: test maps 0 ..., then the others; split by the seed."""
    rng = np.random.default_rng(7)
    theta = rng.uniform([0.15, 0.7], [0.5, 0.9], (N_COSMOLOGY, 2))
    truth = np.concatenate([np.repeat(theta, N_REAL, axis=0), theta[rng.integers(0, N_COSMOLOGY, n_test)]])
    summaries = truth + rng.normal(size=truth.shape) * [0.03, 0.02]
    code = np.full(N_REAL, EMULATOR, np.int8)
    code[np.random.default_rng(seed).permutation(N_REAL)[:6]] = HOLDOUT
    split = np.concatenate([np.tile(code, N_COSMOLOGY), np.full(n_test, TEST, np.int8)])
    known = N_COSMOLOGY * N_REAL
    group = {"summaries": summaries, "split": split,
             "cosmology": np.append(np.repeat(np.arange(N_COSMOLOGY), N_REAL), np.full(n_test, -1)),
             "realisation": np.append(np.tile(np.arange(N_REAL), N_COSMOLOGY), np.arange(n_test))}
    ids = np.append(n_test + np.arange(known), np.arange(n_test))
    return hdf5.File(
        path="p.h5", kind="predictions", seed=seed, dims={}, attrs={}, inputs={"label": "ab"}, digest=f"{seed}",
        settings={"method": "network", "target": "both"}, versions={}, code_version="", created_at="",
        groups={"predictions": group, "constant_data": {"design": theta}}, origin={},
        coords={"predictions": {"map": ids, "summary": np.array(["Omega_m", "S_8"])}})


def run(folder, seed=1, n_test=N_TEST, **options):
    made = PosteriorOptions(**{"nstep": 1000, "sigma": 0.03, **options})
    return infer.infer(predictions(seed, n_test), made, Folder(folder, seed=1, quiet=True), Wanted("both"))


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("options", [{}, {"sampler": "exact"}, {"draws": 40, "draw_maps": "0-4,60"}])
def test_groups_open(tmp_path, options, engine):
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    path = run(tmp_path, **options)
    for group in hdf5.read(path).groups:
        with xarray.open_dataset(path, group=group, engine=engine) as data:
            for name, values in data.variables.items():
                assert "long_name" in values.attrs and values.size, name
                if values.dtype.kind == "f":
                    assert not np.isnan(values).all(), name
            if "map" in data.dims:
                assert "kind" in data.coords and set(np.unique(data["kind"])) <= {"test", "holdout"}
                assert (data["kind"].values == np.where(data["map"] < N_TEST, "test", "holdout")).all()
    with xarray.open_dataset(path, group="constant_data", engine=engine) as data:
        assert data["design"].shape == (N_COSMOLOGY, 2)


def test_no_name_is_a_method_of_xarray():
    """ds.sd, ds.posterior_mean: attributes of a Dataset, but for `map`, which counts the maps everywhere."""
    assert set(VARIABLES) & set(dir(xarray.Dataset)) == {"map"}
    assert set(NAMES.values()) <= set(VARIABLES)


def test_two_runs_subtract_to_the_right_maps(tmp_path):
    """Other splits, so other hold-out maps: what both have is subtracted, map by map."""
    one, two = (run(tmp_path / str(seed), seed, sampler="exact") for seed in (1, 2))
    with xarray.open_dataset(one, group="summary") as a, xarray.open_dataset(two, group="summary") as b:
        difference = a["posterior_mean"] - b["posterior_mean"]
        both = np.intersect1d(a["map"], b["map"])
        assert np.array_equal(np.sort(difference["map"]), both) and N_TEST < len(both) < a.sizes["map"]
        for number in both[::7]:
            assert np.array_equal(difference.sel(map=number), a["posterior_mean"].sel(map=number) - b["posterior_mean"].sel(map=number))
        assert float(np.abs(difference / a["sd"]).max()) < 2.0          # other maps lie many sd apart


def test_draws_are_those_that_were_asked_for(tmp_path):
    """Their number, their maps, their steps; the summary of a map does not depend on them."""
    plain = hdf5.read(run(tmp_path / "a")).groups["summary"]
    other = int(hdf5.read(tmp_path / "a" / "posterior.h5").coords["summary"]["map"].max())
    file = hdf5.read(run(tmp_path / "b", draws=40, chains=1, draw_maps=f"0-4,{other}"))
    assert np.array_equal(file.groups["summary"]["posterior_mean"], plain["posterior_mean"])
    assert file.groups["posterior"]["S_8"].shape == (1, 40, 6) == file.groups["sample_stats"]["lp"].shape
    steps = file.coords["posterior"]["draw"]
    assert np.array_equal(steps, 200 + 20 * np.arange(1, 41))
    assert sorted(file.coords["posterior"]["map"]) == [0, 1, 2, 3, 4, other]
    exact = hdf5.read(run(tmp_path / "c", sampler="exact", draws=300))
    assert exact.groups["posterior"]["S_8"].shape == (1, 300, len(exact.coords["summary"]["map"]))
    mean = exact.groups["posterior"]["S_8"].mean(axis=(0, 1))
    assert np.abs((mean - exact.groups["summary"]["posterior_mean"][:, 1]) / exact.groups["summary"]["sd"][:, 1]).max() < 0.3


def test_one_map_far_from_all_spoils_no_other(tmp_path, capsys):
    """Its row is NaN with a flag, it is named, and the others are what they are without it."""
    before = hdf5.read(run(tmp_path / "a", adapt=False)).groups["summary"]
    far = predictions(1)
    far.groups["predictions"]["summaries"][-3] = [1e5, -1e5]
    path = infer.infer(far, PosteriorOptions(nstep=1000, sigma=0.03, adapt=False),
                       Folder(tmp_path / "b", seed=1, quiet=True), Wanted("both"))
    file, number = hdf5.read(path), N_TEST - 3
    summary, row = file.groups["summary"], np.flatnonzero(file.coords["summary"]["map"] == number)[0]
    assert summary["flag"][row] == 32 and np.isnan(summary["posterior_mean"][row]).all()
    assert np.isnan(summary["errorbar"][row]).all() and np.isnan(summary["recalibrated_q16"][row]).all()
    others = np.delete(np.arange(len(summary["flag"])), row)
    assert np.array_equal(summary["posterior_mean"][others], before["posterior_mean"][others])
    assert np.isfinite(summary["errorbar"][others]).all()
    said = capsys.readouterr().err
    assert f"map {number}" in said and "never moved" in said


def test_many_draws_are_small_and_quick(tmp_path):
    """400 maps with 2000 draws each: a tenth of what has to fit in 250 MB and 20 s."""
    path = run(tmp_path, n_test=400, nstep=10000, draws=2000, draw_maps="0-399")
    assert path.stat().st_size < 25e6
    with xarray.open_dataset(path, group="posterior") as data:
        assert data["S_8"].shape == (1, 2000, 400)
    times = []
    for _ in range(5):
        start = time.process_time()
        xarray.open_dataset(path, group="summary").close()
        times.append(time.process_time() - start)
    assert min(times) < 0.05
