"""Posterior files in other tools: runs subtract map by map, each tool reads our numbers, nothing is
all NaN."""
import re
import shutil
import subprocess
import time
import warnings

import numpy as np
import pytest

from wl.core import hdf5
from wl.core.hdf5 import Folder
from wl.core.params import EMULATOR, HOLDOUT, NAMES, TEST, VARIABLES
from wl.posterior import infer
from wl.posterior.options import PosteriorOptions, Wanted
from wl.scoring import files

xarray = pytest.importorskip("xarray", reason="xarray is not installed (an optional package)")
N_COSMOLOGY, N_REAL, N_TEST = 16, 24, 30


def predictions(seed, n_test=N_TEST):
    """A file of summaries as predict makes it: test maps 0 ..., then the others; split by the
    seed."""
    rng = np.random.default_rng(7)
    theta = rng.uniform([0.15, 0.7], [0.5, 0.9], (N_COSMOLOGY, 2))
    truth = np.concatenate([np.repeat(theta, N_REAL, axis=0),
                            theta[rng.integers(0, N_COSMOLOGY, n_test)]])
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
        path="p.h5", kind="predictions", seed=seed, dims={}, attrs={}, inputs={"label": "ab"},
        digest=f"{seed}",
        settings={"method": "network", "target": "both"}, versions={}, code_version="",
        created_at="",
        groups={"predictions": group, "constant_data": {"design": theta}}, origin={},
        coords={"predictions": {"map": ids, "summary": np.array(["Omega_m", "S_8"])}})


def run(folder, seed=1, n_test=N_TEST, **options):
    made = PosteriorOptions(**{"nstep": 1000, "sigma": 0.03, **options})
    return infer.infer(predictions(seed, n_test), made, Folder(folder, seed=1, quiet=True),
                       Wanted("both"))


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("options",
                         [{}, {"sampler": "exact"}, {"draws": 40, "draw_maps": "0-4,60"}])
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
                assert (data["kind"].values
                        == np.where(data["map"] < N_TEST, "test", "holdout")).all()
    with xarray.open_dataset(path, group="constant_data", engine=engine) as data:
        assert data["design"].shape == (N_COSMOLOGY, 2)


def test_no_name_is_a_method_of_xarray():
    """ds.sd, ds.posterior_mean: attributes of a Dataset, but for `map`, which counts the maps
    everywhere."""
    assert set(VARIABLES) & set(dir(xarray.Dataset)) == {"map"}
    assert set(NAMES.values()) <= set(VARIABLES)


def test_two_runs_subtract_to_the_right_maps(tmp_path):
    """Other splits, so other hold-out maps: what both have is subtracted, map by map."""
    one, two = (run(tmp_path / str(seed), seed, sampler="exact") for seed in (1, 2))
    opened = (xarray.open_dataset(path, group="summary") for path in (one, two))
    with next(opened) as a, next(opened) as b:
        difference = a["posterior_mean"] - b["posterior_mean"]
        both = np.intersect1d(a["map"], b["map"])
        assert np.array_equal(np.sort(difference["map"]), both)
        assert N_TEST < len(both) < a.sizes["map"]
        for number in both[::7]:
            assert np.array_equal(difference.sel(map=number), a["posterior_mean"].sel(map=number)
                                  - b["posterior_mean"].sel(map=number))
        # other maps lie many sd apart
        assert float(np.abs(difference / a["sd"]).max()) < 2.0


def test_draws_are_those_that_were_asked_for(tmp_path):
    """Their number, their maps, their steps; the summary of a map does not depend on them."""
    plain = hdf5.read(run(tmp_path / "a")).groups["summary"]
    other = int(hdf5.read(tmp_path / "a" / "posterior.h5").coords["summary"]["map"].max())
    file = hdf5.read(run(tmp_path / "b", draws=40, chains=1, draw_maps=f"0-4,{other}"))
    assert np.array_equal(file.groups["summary"]["posterior_mean"], plain["posterior_mean"])
    for group, name in (("posterior", "S_8"), ("sample_stats", "lp")):
        assert file.groups[group][name].shape == (1, 40, 6)
    steps = file.coords["posterior"]["draw"]
    assert np.array_equal(steps, 200 + 20 * np.arange(1, 41))
    assert sorted(file.coords["posterior"]["map"]) == [0, 1, 2, 3, 4, other]
    exact = hdf5.read(run(tmp_path / "c", sampler="exact", draws=300))
    assert exact.groups["posterior"]["S_8"].shape == (1, 300, len(exact.coords["summary"]["map"]))
    mean = exact.groups["posterior"]["S_8"].mean(axis=(0, 1))
    assert np.abs((mean - exact.groups["summary"]["posterior_mean"][:, 1])
                  / exact.groups["summary"]["sd"][:, 1]).max() < 0.3


def test_one_map_far_from_all_spoils_no_other(tmp_path, capsys):
    """Its row is NaN with a flag, it is named, and the others are what they are without it."""
    before = hdf5.read(run(tmp_path / "a", adapt=False)).groups["summary"]
    far = predictions(1)
    far.groups["predictions"]["summaries"][-3] = [1e5, -1e5]
    path = infer.infer(far, PosteriorOptions(nstep=1000, sigma=0.03, adapt=False),
                       Folder(tmp_path / "b", seed=1, quiet=True), Wanted("both"))
    file, number = hdf5.read(path), N_TEST - 3
    summary = file.groups["summary"]
    row = np.flatnonzero(file.coords["summary"]["map"] == number)[0]
    assert summary["flag"][row] == 32 and np.isnan(summary["posterior_mean"][row]).all()
    assert np.isnan(summary["errorbar"][row]).all()
    assert np.isnan(summary["recalibrated_q16"][row]).all()
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


# ---------------------------------------------------------------- other tools, see requirements
def tool(name):
    """A package that is optional; some warn at their import of what they will become."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed (tests/requirements.txt)")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A posterior that keeps all draws of the maps 0, 1, 2 from two chains: its path, File and
    (chain, draw, map, 2)."""
    path = run(tmp_path_factory.mktemp("drawn"), chains=2, draws=1600, draw_maps="0-2")
    file = hdf5.read(path)
    return path, file, np.stack([file.groups["posterior"][p] for p in ("Omega_m", "S_8")], axis=-1)


def test_arviz(drawn):
    """ArviZ 0.x or 1.x: the posterior's moments, and an ESS equal to the file's own."""
    arviz = tool("arviz")
    path, file, draws = drawn
    data = arviz.from_netcdf(path)
    posterior = data["posterior"]
    posterior = posterior.to_dataset() if hasattr(posterior, "to_dataset") else posterior
    assert dict(posterior.sizes) == {"chain": 2, "draw": 800, "map": 3}
    ess = arviz.ess(posterior[["Omega_m", "S_8"]].astype(float), method="bulk")
    ours = file.groups["summary"]["ess"][np.isin(file.coords["summary"]["map"], range(3))]
    for k, name in enumerate(("Omega_m", "S_8")):
        assert np.allclose(ess[name], ours[:, k], rtol=1e-3)
    one = arviz.summary(posterior[["Omega_m", "S_8"]].sel(map=1, drop=True))
    assert np.allclose(one["mean"].astype(float), draws[:, :, 1].mean((0, 1)), atol=1e-3)


def test_getdist(drawn, tmp_path):
    """The export as it is loaded by its root: draws, LaTeX labels, a density in two dimensions."""
    getdist = tool("getdist")
    path, _, draws = drawn
    files.export(files.read_maps(path), "getdist", tmp_path / "g")
    found = getdist.loadMCSamples(str(tmp_path / "g_map2"))
    assert np.allclose(found.getMeans()[:2], draws[:, :, 2].mean((0, 1)), atol=1e-6)
    assert found.parLabel("Omega_m") == r"\Omega_\mathrm{m}" and found.numrows == 1600
    assert found.get2DDensity("Omega_m", "S_8").P.max() == pytest.approx(1.0)


def test_corner(drawn):
    corner = tool("corner")
    path, *_ = drawn
    with xarray.open_dataset(path, group="posterior") as data:
        one = data.sel(map=0).stack(sample=("chain", "draw"))
        labels = [f"${data[name].attrs['latex']}$" for name in ("Omega_m", "S_8")]
        figure = corner.corner(np.stack([one["Omega_m"], one["S_8"]], axis=1), labels=labels)
    assert len(figure.axes) == 4 and figure.axes[2].get_xlabel() == r"$\Omega_\mathrm{m}$"


def test_pandas(drawn, tmp_path):
    """The table that is exported, and a group of the file as a frame."""
    pandas = tool("pandas")
    path, file, _ = drawn
    files.export(files.read_maps(path), "csv", tmp_path / "t.csv")
    table, summary = pandas.read_csv(tmp_path / "t.csv").set_index("map"), file.groups["summary"]
    assert np.array_equal(table.index, file.coords["summary"]["map"])
    assert np.array_equal(table["errorbar_S_8"], summary["errorbar"][:, 1])
    assert set(table["kind"]) == {"test", "holdout"} and table["true_S_8"].isna().all()
    with xarray.open_dataset(path, group="summary") as data:
        frame = data[["posterior_mean", "sd"]].to_dataframe()
    assert frame.index.names == ["map", "param"]
    mean = frame.xs("S_8", level="param")["posterior_mean"]
    assert mean.tolist() == summary["posterior_mean"][:, 1].tolist()


@pytest.mark.parametrize("command, block", [
    (["h5dump", "-y", "-m", "%.17g", "-d", "/summary/posterior_mean"], r"DATA \{(.*?)\}"),
    (["ncdump", "-p", "9,17", "-v", "summary/posterior_mean"], r"\n *posterior_mean =(.*?);")])
def test_command_line_tools(drawn, command, block):
    """h5dump and ncdump print the file's numbers without a word of warning."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (Debian: hdf5-tools, netcdf-bin)")
    path, file, _ = drawn
    done = subprocess.run([*command, path], capture_output=True, text=True, check=True)
    values = re.findall(r"-?\d[\d.e+-]*", re.search(block, done.stdout, re.S)[1])
    assert done.stderr == "" and np.array_equal(np.array(values, float),
                                                file.groups["summary"]["posterior_mean"].ravel())
