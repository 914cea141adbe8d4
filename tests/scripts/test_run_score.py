"""run_score.py as a user meets it: a synthetic data set and posteriors."""
import base64
import csv
import html.parser
import json
import os
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest

from conftest import one_line
from wl.core import hdf5
from wl.core.checks import InputError, RunError
from wl.core.hdf5 import Var
from wl.core.params import HOLDOUT, SPLITS, TEST
from wl.scoring import files, report, score, table

N_COSMOLOGY, N_REALISATION, N_TEST = 12, 20, 60
OBSERVED = "observed_data"


def make_data(folder, *, truth=True, unseen=15, shared_seeds=False, seed=1):
    """Label files of a small set; the last `unseen` test maps lie off the design."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    theta = np.column_stack([rng.uniform(low, high, N_COSMOLOGY)
                             for low, high in ((0.1, 0.6), (0.68, 0.95))])
    nuisance = rng.random((1 if shared_seeds else N_COSMOLOGY, N_REALISATION, 3))
    label = np.empty((N_COSMOLOGY, N_REALISATION, 5))
    label[:, :, :2], label[:, :, 2:] = theta[:, None], nuisance
    np.save(folder / "label.npy", label)
    label_test = np.column_stack([theta[rng.integers(0, N_COSMOLOGY, N_TEST)],
                                  rng.random((N_TEST, 3))])
    label_test[N_TEST - unseen:, :2] += 0.01
    if truth:
        np.save(folder / "label_test.npy", label_test)
    return label, label_test


def make_posterior(path, data, label, label_test, *, width=1.0, maps="both", seed=2, inputs=None,
                   **settings):
    """A calibrated Gaussian posterior of the maps: sd 0.03 and 0.015, times width."""
    rng = np.random.default_rng(seed)
    cosmology = np.repeat(np.arange(N_COSMOLOGY), 3)
    realisation = np.tile([4, 9, 17], N_COSMOLOGY)
    split = np.full(len(cosmology), HOLDOUT)
    truth = label[cosmology, realisation, :2]
    if maps != "holdout":
        order = rng.permutation(N_TEST)               # the order of the test maps must not matter
        both = maps == "both"
        cosmology = np.concatenate([cosmology[:both * len(split)], np.full(N_TEST, -1)])
        realisation = np.concatenate([realisation[:both * len(split)], order])
        truth = np.concatenate([truth[:both * len(split)], label_test[order, :2]])
        split = np.concatenate([split[:both * len(split)], np.full(N_TEST, TEST)])
    n, sd = len(split), np.array([0.03, 0.015]) * np.ones((len(split), 2)) * width
    mean = truth + sd / width * rng.normal(size=(n, 2))
    groups = {
        "summary": {"posterior_mean": Var(("map", "param"), mean), "sd": Var(("map", "param"), sd),
                    "correlation": Var(("map",), np.zeros(n)),
                    "acceptance": Var(("map",), np.full(n, 0.31)),
                    "q16": Var(("map", "param"), mean - 0.994 * sd),
                    "q84": Var(("map", "param"), mean + 0.994 * sd),
                    "ess": Var(("map", "param"), np.full((n, 2), 500.0)),
                    "p_value": Var(("map",), rng.random(n)),
                    "rhat": Var(("map", "param"), np.full((n, 2), np.nan)),
                    "flag": Var(("map",), (np.arange(n) == 3).astype(np.int8))},
        "observed_data": {"split": Var(("map",), split.astype(np.int8)),
                          "cosmology": Var(("map",), cosmology.astype(np.int32)),
                          "realisation": Var(("map",), realisation.astype(np.int32))},
        "constant_data": {"design": Var(("cosmology", "param"), label[:, 0, :2])}}
    settings = {"method": "mcmc", "model": "compact", "nstep": 10000, **settings}
    hdf5.write(path, "posterior", groups, settings=settings, seed=seed, inputs=inputs, coords={
        "param": ["Omega_m", "S_8"]}, origin={"data": str(data)})
    return mean, sd, truth, split, realisation


def rewrite(path, change):
    """Write a posterior again after change(groups), {group: {name: Var}}."""
    file = hdf5.read(path)
    groups = {g: {n: Var(file.dims[g][n], a) for n, a in v.items()} for g, v in file.groups.items()}
    change(groups)
    hdf5.write(path, "posterior", groups, settings=file.settings, origin=file.origin,
               coords={"param": ["Omega_m", "S_8"]})


@pytest.fixture()
def case(tmp_path):
    """A data folder and a posterior of it: (folder, path, the posterior's arrays)."""
    label, label_test = make_data(tmp_path / "data" / "set")
    path = tmp_path / "runs" / "main" / "posterior.h5"
    arrays = make_posterior(path, tmp_path / "data" / "set", label, label_test)
    return tmp_path / "data" / "set", path, arrays


def ok(done):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def failed(done, *parts, code=2):
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return one_line(lines[0], "run_score.py", *parts)


def at_hull(label, truth):
    """How many true cosmologies are corners of the design's hull."""
    from scipy.spatial import ConvexHull
    theta = label[:, 0, :2]
    corner = theta[ConvexHull(theta).vertices]
    return int((np.abs(truth[:, None] - corner).max(axis=2).min(axis=1) < 1e-9).sum())


# ---------------------------------------------------------------- the script
def test_table_details_and_json(case, script, tmp_path):
    folder, path, (mean, sd, truth, split, _) = case
    label = np.load(folder / "label.npy")
    text = ok(script("run_score.py", path, "--details", "--no-figures", cwd=tmp_path))
    test = split == TEST
    want = score.challenge_score(truth[test], mean[test], sd[test]).mean()
    verdict, text = text.split("\n\n", 1)
    assert verdict.startswith(f"Score {want:.2f} +- ") and f"on {N_TEST} test maps" in verdict
    said = verdict.replace(str(path), "").replace(str(path.parent), "")
    assert max(map(len, said.split("\n"))) <= 80
    assert len(verdict.splitlines()) <= 8 and "design alone" in verdict
    last = dict(word.split("=") for word in text.splitlines()[-1].split()[1:])
    assert text.splitlines()[-1].startswith("wl-result ") and last["file"] == str(path)
    assert float(last["score"]) == pytest.approx(want, abs=1e-4) and last["maps"] == str(N_TEST)
    for part in ("test, on design", "test, off design", "holdout", "Omega_m: R2",
                 "S_8: truth within 1 sd", "acceptance 0.31",
                 "1 map flagged (1 acceptance outside 0.2 to 0.5)", "knows only the design"):
        assert part in text
    content = json.loads((path.parent / "score.json").read_text())
    assert content["score"] == pytest.approx(want) and content["scored"] == "test"
    assert {k: v["n"] for k, v in content["subsets"].items()} == {
        "test": N_TEST, "test_on_design": N_TEST - 15, "test_off_design": 15, "holdout": 36,
        "test_at_hull": at_hull(label, truth[test])}
    assert content["settings"]["nstep"] == 10000 and content["digest"] == hdf5.read(path).digest
    assert set(content["truth"]) == {"label", "label_test"} and "path" not in content
    for name in ("coverage_68_mean", "coverage_95_mean"):
        assert abs(content["subsets"]["test"][name] - score.LEVELS[name[9:11]][0]) < 0.12
    before = (path.parent / "score.json").read_bytes()
    again = ok(script("run_score.py", path, "--details", "--no-figures", cwd=tmp_path))
    assert again == f"{verdict}\n\n{text}"
    assert (path.parent / "score.json").read_bytes() == before


@pytest.mark.parametrize("width, words", [(1.0, "hold: yes"), (0.4, "too narrow"),
                                          (2.5, "too wide")])
def test_the_verdict_judges_the_error_bars(case, width, words):
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    make_posterior(path, folder, label, label_test, width=width)
    result = report.score_posterior(path, bootstrap=100)
    text = table.verdict(result)
    strange = {"maps": 100, "flagged": 3, "flags": {table.STRANGE: 3}}       # and more would be too
    assert "--folds" not in table.verdict(result | {"diagnostics": strange})
    assert words in " ".join(text.split()) and ("--folds" in text) == (width != 1.0)
    assert words not in table.verdict(report.score_posterior(path, bootstrap=1))     # no errors


class Page(html.parser.HTMLParser):
    """Tags of a page, those that stay open, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.pictures, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.pictures.append(attrs["src"])
        self.links += [v for k, v in attrs.items() if k in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pictures_and_a_page_of_its_own(case, called, tmp_path):
    """Each picture as PNG and PDF, all of them inside one page that needs no other file."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (an optional package)")
    _, path, _ = case
    text = ok(called("run_score.py", path, cwd=tmp_path))
    drawn = sorted(p.name for p in (path.parent / "figures").iterdir())
    names = "truth", "calibration", "residuals", "design", "contours"
    assert drawn == sorted(f"{name}.{end}" for name in names for end in ("png", "pdf"))
    assert (path.parent / "figures" / "truth.pdf").read_bytes().startswith(b"%PDF")
    page = Page((path.parent / "report.html").read_text())
    assert page.open == [] and len(page.pictures) == 5 and "report.html" in text
    assert all(link.startswith("data:") for link in page.links)
    assert base64.b64decode(page.pictures[0].split(",")[1]).startswith(b"\x89PNG")
    shutil.rmtree(path.parent / "figures")
    (path.parent / "report.html").unlink()
    ok(called("run_score.py", path, "--no-figures", cwd=tmp_path))
    assert sorted(p.name for p in path.parent.iterdir()) == ["posterior.h5", "score.json"]


@pytest.mark.parametrize("unseen", [0, 15])
def test_the_page_explains_what_it_shows(tmp_path, unseen):
    """What the coverage is of, on which maps it was corrected, no word without its column."""
    label, label_test = make_data(tmp_path / "set", unseen=unseen)
    path = tmp_path / "posterior.h5"
    make_posterior(path, tmp_path / "set", label, label_test, recalibrate="isotonic")
    file = hdf5.read(path)
    mean, sd = (file.groups["summary"][name] for name in ("posterior_mean", "sd"))
    judged = "judged by the {}, recalibrated on maps of the emulator split"
    assert judged.format("error bars") in all_figures(path)
    rewrite(path, lambda groups: groups["summary"].update(
        {name: Var(("map", "param"), mean + width * sd)
         for name, width in (("q2_5", -1.96), ("q97_5", 1.96))}))
    result = report.score_posterior(path, bootstrap=50)
    lines = table.verdict(result).splitlines()
    pattern = r"Error bars hold: yes; truths inside: {0} \(68\), {0} \(95\)\."
    pattern = pattern.format(r"[\d.]+ \+- [\d.]+ %")
    assert sum(re.fullmatch(pattern, line) is not None for line in lines) == 1     # on one line
    for other in ("none", "temperature"):                 # the latter stretches error bars alone
        assert "judged by the quantiles\n" in all_figures(path, {"recalibrate": other})
    table.page(tmp_path / "page.html", "one", [table.verdict(result), table.details(result)], {})
    text = " ".join((tmp_path / "page.html").read_text().split())
    assert judged.format("quantiles") in text
    assert "values near 1 are conservative, as maps of one cosmology are not independent" in text
    assert ("Off design:" in text) == ("off design" in text) == (unseen > 0)
    assert ("At the hull:" in text) == ("at the hull" in text) and "Score of a map" in text
    table.page(tmp_path / "none.html", "none", ["No truth is known: nothing is scored."], {})
    assert (tmp_path / "none.html").read_text().count("<pre>") == 1


def all_figures(path, settings=None):
    """What --details prints of a posterior, had its run other settings."""
    result = report.score_posterior(path, bootstrap=50)
    return table.details(result | {"settings": settings or result["settings"]})


def test_the_picture_of_losses_marks_the_weights_that_were_kept(case):
    matplotlib = pytest.importorskip("matplotlib.figure", reason="matplotlib is optional")
    from wl.scoring.figures import _Scored, _training
    folder, path, _ = case
    loss = np.array([[3.0, 2.0, 1.0], [3.0, 1.5, np.nan]])
    held = np.array([[3.0, 2.2, 2.5], [2.8, 2.9, np.nan]])
    dims, trained = ("network", "entry"), np.arange(3.0) + [[1.0], [1.0]]
    hdf5.write(path.with_name("predictions.h5"), "predictions", {"training": {
        "trained": Var(dims, trained), "loss": Var(dims, loss), "validation": Var(dims, held)}},
        coords={"network": ["model_m0.pt", "model_m1.pt"]}, settings={"method": "network"})
    made_from = {"predictions": hdf5.read(path.with_name("predictions.h5")).digest}
    make_posterior(path, folder, np.load(folder / "label.npy"), np.load(folder / "label_test.npy"),
                   inputs=made_from)
    maps, figure = files.open_maps(path), matplotlib.Figure()
    assert _training(figure, _Scored(maps, report.score_maps(maps, bootstrap=10))) is None
    kept = next(line for line in figure.axes[0].lines if line.get_label() == "kept")
    assert np.array_equal(kept.get_xydata(), [[2.0, 2.2], [1.0, 2.8]])


def test_a_comparison_of_runs(case, called, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (an optional package)")
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    other = path.parent.parent / "narrow" / "posterior.h5"
    make_posterior(other, folder, label, label_test, width=0.5)
    text = ok(called("run_score.py", path, other, "--bootstrap", 50))
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("wl-result"))
    page = Page((path.parent.parent / "comparison.html").read_text())
    assert len(page.pictures) == 1 and (path.parent.parent / "comparison.pdf").is_file()


def test_the_spectrum_of_the_same_maps_stands_beside(case):
    """A run of the power spectrum in the next folder, of the same truth; none of another."""
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    other = path.parent.parent / "spectrum" / "posterior.h5"
    make_posterior(other, folder, label, label_test, width=1.5, method="spectrum")
    result = report.score_posterior(other, bootstrap=20)
    report.save(result)
    beside = report.score_posterior(path, bootstrap=20)
    assert beside["spectrum"]["score"] == result["score"]
    assert "power spectrum" in table.verdict(beside)
    report.save(result | {"maps": {"kappa": "ab"}})      # sets of one seed share their labels
    assert report.score_posterior(path, bootstrap=20)["spectrum"] is None
    report.save(result | {"truth": {"label": "ab"}})
    assert report.score_posterior(path, bootstrap=20)["spectrum"] is None


def test_pictures_where_a_notebook_has_set_a_backend_of_its_own(python):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (an optional package)")
    run = python("from wl.scoring import figures\n"
                 "print(figures._drawn(lambda figure, data: False, (), (1, 1), None))",
                 env={"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    assert run.stdout == "None\n", run.stderr


def test_a_full_disk_takes_no_verdict(case, called, monkeypatch):
    folder, path, _ = case

    def full(*_):
        raise RunError("picture.png: could not be written")
    monkeypatch.setattr(report, "save", full)
    run = called("run_score.py", path, "--no-figures")
    assert run.returncode == 0 and "Score " in run.stdout and "could not be" in run.stderr


def test_a_page_of_a_folder_whose_name_is_any_bytes(tmp_path):
    table.page(tmp_path / "page.html", "bad\udcff", ["text \udcff"], {})
    assert "bad\\udcff" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_exports(case, called, tmp_path):
    """A table, and the file with its truth; chains only where draws were kept."""
    folder, path, (mean, _, truth, split, realisation) = case
    ok(called("run_score.py", path, "--no-figures", "--export", "csv", "t.csv", cwd=tmp_path))
    with open(tmp_path / "t.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["posterior_mean_S_8"]) for row in rows] == mean[:, 1].tolist()
    assert [float(row["true_Omega_m"]) for row in rows] == pytest.approx(truth[:, 0].tolist())
    assert [row["kind"] for row in rows] == [SPLITS[code] for code in split]
    ok(called("run_score.py", path, "--no-figures", "--export", "arviz", "a.nc", "--export", "csv",
              "u.csv", cwd=tmp_path))                                     # each of several
    assert (tmp_path / "u.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    assert np.allclose(hdf5.read(tmp_path / "a.nc").groups["constant_data"]["truth"], truth)
    for form, name in (("csv", "t.csv"), ("arviz", "a.nc")):       # a table again, but nothing else
        ok(called("run_score.py", path, "--no-figures", "--export", form, name, cwd=tmp_path))
        other = tmp_path / "mine.npy"
        np.save(other, truth)
        failed(called("run_score.py", path, "--no-figures", "--export", form, other), "mine.npy")
        assert np.array_equal(np.load(other), truth, equal_nan=True)
    failed(called("run_score.py", path, "--no-figures", "--export", "getdist", "g"), "--draws")
    failed(called("run_score.py", path, "--export", "word", "g"), "--export", "getdist")
    draws = np.random.default_rng(1).normal([0.3, 0.8], 0.02, size=(2, 50, 1, 2))
    rewrite(path, lambda groups: groups.update(posterior={
        p: Var(("chain", "draw", "map"), draws[..., k]) for k, p in enumerate(("Omega_m", "S_8"))}))
    ok(called("run_score.py", path, "--no-figures", "--export", "getdist", "g", cwd=tmp_path))
    failed(called("run_score.py", path, "--export", "getdist", "new/", cwd=tmp_path))
    table_ = np.loadtxt(tmp_path / "g_map0_2.txt")
    assert np.allclose(table_[:, 2:], draws[1, :, 0]) and (table_[:, 0] == 1.0).all()
    names = (tmp_path / "g_map0.paramnames").read_text().split()
    assert names == ["Omega_m", r"\Omega_\mathrm{m}", "S_8", "S_8"]
    getdist = pytest.importorskip("getdist", reason="GetDist is not installed")
    found = getdist.loadMCSamples(str(tmp_path / "g_map0"))
    assert np.allclose(found.getMeans()[:2], draws.mean(axis=(0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("wrong", [
    ("--export", "csv", "folder"), ("--export", "arviz", "{path}"), ("--export", "csv", "{path}"),
    ("--export", "getdist", "g"), ("--export", "csv", "label.npy/x.csv"), ("--ood", "none.h5"),
    ("--ood", "label.npy"), ("--ood", "folder")])
def test_a_wrong_target_is_refused_before_anything_is_written(case, called, tmp_path, wrong):
    folder, path, _ = case
    shutil.copy(folder / "label.npy", tmp_path)
    (tmp_path / "folder").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    zipped = () if "x.csv" in wrong[-1] else ("--submission", "entry.zip")
    failed(called("run_score.py", path, *(word.format(path=path) for word in wrong), *zipped,
                  cwd=tmp_path))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_score_is_not_replaced_by_none(case, called, tmp_path):
    """Labels without the truth of the test maps give no score: the one that stands stays."""
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    make_posterior(path, folder, label, label_test, maps="test")
    ok(called("run_score.py", path, "--no-figures"))
    before = (path.parent / "score.json").read_bytes()
    bare = tmp_path / "bare"
    bare.mkdir()
    done = called("run_score.py", path, "--data", bare, "--no-figures")
    assert "warning" in done.stderr and "score.json" in done.stderr
    assert (path.parent / "score.json").read_bytes() == before
    failed(called("run_score.py", path, "--data", "", "--no-figures"), "--data", "unset")


def test_a_map_without_posterior_is_left_out(case):
    """Its chain never moved: NaN and a flag; the others are scored, and it is named."""
    _, path, (mean, sd, truth, split, _) = case
    row = int(np.flatnonzero(split == TEST)[4])

    def change(groups):
        groups["summary"]["flag"].values[row] = 32
        for name in ("posterior_mean", "sd", "q16", "q84", "correlation"):
            groups["summary"][name].values[row] = np.nan
    rewrite(path, change)
    result = report.score_posterior(path, bootstrap=10)
    rest = (split == TEST) & (np.arange(len(split)) != row)
    expected = score.challenge_score(truth[rest], mean[rest], sd[rest]).mean()
    assert result["score"] == pytest.approx(expected)
    assert any(f"map {row}" in note and "never moved" in note for note in result["notes"])
    with pytest.raises(RunError) as error:
        report.check_convergence(path, False)
    one_line(error, "1 never moved")
    with pytest.raises(InputError):
        files.submit(path, path.with_name("x.zip"))


def test_several_posteriors_best_first(case, called, tmp_path):
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    names = [tmp_path / "runs" / n / "posterior.h5" for n in ("narrow", "main", "holdout")]
    make_posterior(names[0], folder, label, label_test, width=0.3)
    make_posterior(names[2], folder, label, label_test, width=1.3, maps="holdout")
    text = ok(called("run_score.py", *names, "--no-figures", "--bootstrap", 50))
    rows = [line.split() for line in text.splitlines()[1:4]]
    scores = [float(row[3]) for row in rows]
    assert scores == sorted(scores, reverse=True) and rows[-1][0].endswith("narrow")
    listed = json.loads(ok(called("run_score.py", *names, "--json", "--no-figures",
                                  "--bootstrap", 50)))
    assert [r["path"] for r in listed] == [str(n) for n in names]


def test_one_bad_file_of_several(case, called, tmp_path):
    _, path, _ = case
    (tmp_path / "bad.h5").write_bytes(b"no")
    done = called("run_score.py", tmp_path / "bad.h5", path, "--no-figures")
    failed(done, tmp_path / "bad.h5")
    assert path.parent.name in done.stdout and (path.parent / "score.json").exists()


def test_a_set_without_truth(tmp_path, called):
    folder = tmp_path / "public"
    label, label_test = make_data(folder, truth=False)
    both, only = tmp_path / "a" / "posterior.h5", tmp_path / "b" / "posterior.h5"
    make_posterior(both, folder, label, label_test)
    make_posterior(only, folder, label, label_test, maps="test")
    text = ok(called("run_score.py", both, only, "--details", "--no-figures"))
    assert text.splitlines()[1].split()[1] == "holdout" and "no truth" in text.splitlines()[2]
    assert text.count(f"no truth for {N_TEST} test maps") == 2
    assert json.loads((only.parent / "score.json").read_text())["score"] is None


def test_one_real_map(tmp_path, called):
    """One test map without truth: its posterior and chi2 p-value are printed."""
    label, label_test = make_data(tmp_path / "set", truth=False)
    path = tmp_path / "posterior.h5"
    groups = {"summary": {"posterior_mean": Var(("map", "param"), [[0.3, 0.8]]),
                          "sd": Var(("map", "param"), [[0.05, 0.02]]),
                          "p_value": Var(("map",), [0.25])},
              "observed_data": {"split": Var(("map",), np.array([TEST])),
                                "cosmology": Var(("map",), [-1]),
                                "realisation": Var(("map",), [0])},
              "constant_data": {"design": Var(("cosmology", "param"), label[:, 0, :2])}}
    hdf5.write(path, "posterior", groups, origin={"data": str(tmp_path / "set")})
    assert ("test map 0: Omega_m = 0.3000 +- 0.0500, S_8 = 0.8000 +- 0.0200, p-value 0.25"
            in ok(called("run_score.py", path, "--details")))


def test_relative_data_folder_and_data_option(case, called, tmp_path):
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    make_posterior(path, os.path.join("data", "set"), label, label_test)
    text = ok(called("run_score.py", path, "--no-figures", cwd=tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    failed(called("run_score.py", path, cwd=elsewhere), path, "--data")
    again = called("run_score.py", path, "--no-figures", "--data", folder, cwd=elsewhere)
    assert ok(again) == text


@pytest.mark.parametrize("name", ["label", "label_test"])
def test_another_truth_is_refused(case, called, name):
    """By its digest, whatever folder it lies in."""
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    now = {n: hdf5.digest_file(folder / f"{n}.npy") for n in ("label", "label_test")}
    make_posterior(path, folder, label, label_test, inputs=now)
    ok(called("run_score.py", path, "--no-figures"))
    before = (path.parent / "score.json").read_bytes()
    other = np.load(folder / f"{name}.npy")
    other[..., 3] += 0.1                                  # a nuisance: the cosmologies are the same
    np.save(folder / f"{name}.npy", other)
    failed(called("run_score.py", path, "--no-figures"), f"{name}.npy", now[name][:12], "--data")
    assert (path.parent / "score.json").read_bytes() == before


@pytest.mark.parametrize("simulation", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_shared_seeds_widen_the_error(tmp_path, shared, simulation):
    """By equal nuisances, or as simulation.json says.

    The public labels repeat their nuisances, but maps simulated for them have seeds of their own.
    """
    label, label_test = make_data(tmp_path / "set", shared_seeds=shared or simulation)
    if simulation:
        settings = json.dumps({"settings": {"shared_seeds": shared}})
        (tmp_path / "set" / "simulation.json").write_text(settings)
    make_posterior(tmp_path / "posterior.h5", tmp_path / "set", label, label_test)
    notes = report.score_posterior(tmp_path / "posterior.h5", bootstrap=10)["notes"]
    assert any("share their seeds" in note for note in notes) == shared


def test_the_recalibrated_error_bars_are_scored(case):
    _, path, (mean, sd, truth, split, _) = case
    before = report.score_posterior(path, bootstrap=10)["subsets"]["test"]
    rewrite(path, lambda groups: groups["summary"].update(errorbar=Var(("map", "param"), 3.0 * sd)))
    after = report.score_posterior(path, bootstrap=10)["subsets"]["test"]
    assert min(after["coverage_68"]) > 0.95 and after["score"] != before["score"]


def test_an_unconverged_posterior_is_noted(case):
    _, path, _ = case
    assert not report.score_posterior(path, bootstrap=10)["notes"]
    rewrite(path, lambda groups: groups["summary"]["flag"].values[:20].fill(2))
    notes = report.score_posterior(path, bootstrap=10)["notes"]
    assert any("not converged" in note for note in notes)


def test_real_labels_give_the_prior_score(real, tmp_path):
    """The design's mean and sd for every real training map, by way of file and report."""
    label = np.load(real / "label.npy")
    index = np.arange(101)
    shape = np.ones((101, 1))
    groups = {"summary": {"posterior_mean": Var(("map", "param"), label[:, 0, :2].mean(0) * shape),
                          "sd": Var(("map", "param"), label[:, 0, :2].std(0) * shape)},
              "observed_data": {"split": Var(("map",), np.full(101, HOLDOUT)),
                                "cosmology": Var(("map",), index),
                                "realisation": Var(("map",), index)},
              "constant_data": {"design": Var(("cosmology", "param"), label[:, 0, :2])}}
    hdf5.write(tmp_path / "posterior.h5", "posterior", groups, origin={"data": str(real)})
    result = report.score_posterior(tmp_path / "posterior.h5", bootstrap=50)
    assert result["score"] == pytest.approx(-7.56, abs=0.005) == result["prior_only_score"]
    assert result["subsets"]["holdout"]["mse_mean"] == pytest.approx(1.0)
    # the first release's flaw
    assert any("share their seeds" in note for note in result["notes"])


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize("name", ["label.npy", "label_test.npy"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "shape", "dtype", "nan", "pickle",
                                    "small"])
def test_damaged_truth(case, name, damage):
    folder, path, _ = case
    target, values = folder / name, np.load(folder / name)
    if damage in ("empty", "truncated", "text"):
        raw = target.read_bytes()
        target.write_bytes({"empty": b"", "truncated": raw[:len(raw) // 2],
                            "text": b"0.3 0.8"}[damage])
    else:
        bad = {"shape": values[..., :4], "dtype": values.astype(int), "small": values[:3],
               "nan": np.where(np.arange(5) == 1, np.nan, values),
               "pickle": np.array([{}], object)}[damage]
        np.save(target, bad, allow_pickle=True)
    with pytest.raises(InputError) as error:
        report.score_posterior(path, bootstrap=10)
    one_line(error, target)


def test_other_cosmologies_are_refused(case, called, tmp_path):
    _, path, _ = case
    make_data(tmp_path / "other", seed=5)
    failed(called("run_score.py", path, "--data", tmp_path / "other"), "label.npy", "--data")
    assert not (path.parent / "score.json").exists()


def test_data_folder_without_labels_or_gone(case, called, tmp_path):
    folder, path, _ = case
    (folder / "label.npy").unlink()
    failed(called("run_score.py", path), path, "label.npy", "--data")
    folder.rename(tmp_path / "moved")
    failed(called("run_score.py", path), path, "--data")


@pytest.mark.parametrize("arguments, part", [
    ((), "POSTERIOR"), (("none.h5",), "none.h5"), (("{path}", "--bootstrap", "19"), "--bootstrap"),
    (("{path}", "--bootstrap", "x"), "--bootstrap"),
    (("{path}", "--bootstrap", 2**63), "--bootstrap"),
    (("{path}", "--data", ""), "--data"), (("{path}", "--seed", "-1"), "--seed"),
    (("{path}", "--colour"), "--colour"), (("{path}", "--submission", "x.txt"), ".zip"),
    (("{path}", "{path}", "--submission", "x.zip"), "one posterior"),
    (("{path}", "--data", "nowhere"), "nowhere")])
def test_wrong_usage(case, called, tmp_path, arguments, part):
    _, path, _ = case
    words = [str(a).format(path=path) for a in arguments]
    failed(called("run_score.py", *words, cwd=tmp_path), part)
    assert not (path.parent / "score.json").exists() and not list(tmp_path.glob("x.*"))


def test_a_map_whose_sampler_failed(case, tmp_path):
    folder, path, _ = case
    rewrite(path, lambda groups: groups["summary"]["sd"].values[5, 1:].fill(np.nan))
    with pytest.raises(InputError) as error:
        report.score_posterior(path, bootstrap=10)
    one_line(error, path, "nan", "sampler failed")
    rewrite(path, lambda groups: groups["summary"].pop("sd"))
    with pytest.raises(InputError) as error:
        report.score_posterior(path, bootstrap=10)
    one_line(error, path, "sd")


# ---------------------------------------------------------------- submission
def test_submission(case, called, tmp_path):
    _, path, (mean, sd, _, split, realisation) = case
    out = tmp_path / "out" / "entry.zip"
    done = called("run_score.py", path, "--submission", out, "--no-figures")
    ok(done)
    assert f"{N_TEST} test maps" in done.stderr
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["result.json"] and archive.testzip() is None
        result = json.loads(archive.read("result.json"))
    assert set(result) == {"means", "errorbars"}
    at = {r: i for i, r in enumerate(realisation) if split[i] == TEST}
    for test_map in range(N_TEST):
        assert result["means"][test_map] == mean[at[test_map]].tolist()
        assert result["errorbars"][test_map] == sd[at[test_map]].tolist()
    before = out.read_bytes()
    assert ok(called("run_score.py", path, "--submission", out, "--quiet", "--no-figures"))
    assert out.read_bytes() == before
    out.write_bytes(b"somebody's")
    failed(called("run_score.py", path, "--submission", out, "--no-figures"), out, "--force")
    assert out.read_bytes() == b"somebody's"
    ok(called("run_score.py", path, "--submission", out, "--force", "--no-figures"))
    assert out.read_bytes() == before


@pytest.mark.parametrize("why", ["holdout", "shard", "incomplete", "twice"])
def test_no_submission(case, tmp_path, why):
    folder, path, _ = case
    label, label_test = np.load(folder / "label.npy"), np.load(folder / "label_test.npy")
    make_posterior(path, folder, label, label_test, maps="holdout" if why == "holdout" else "test",
                   **({"shard": [1, 4]} if why == "shard" else {}))
    if why in ("incomplete", "twice"):
        other = 1000 if why == "incomplete" else hdf5.read(path).groups[OBSERVED]["realisation"][8]
        rewrite(path, lambda groups: groups[OBSERVED]["realisation"].values[7:8].fill(other))
    with pytest.raises(InputError) as error:
        files.submit(path, tmp_path / "entry.zip")
    words = {"holdout": "no test maps", "shard": "shard 1 of 4"}.get(why, "once each")
    one_line(error, path, words)
    assert not (tmp_path / "entry.zip").exists()


# ---------------------------------------------------------------- how it behaves
def test_help_teaches(script):
    text = ok(script("run_score.py", "--help"))
    assert text.count("  python run_score.py ") == 5
    for word in ("--data", "--submission", "--json", "--bootstrap", "--seed", "default: 1000",
                 "label_test"):
        assert word in text


def test_no_torch_and_no_numba(case, python):
    _, path, _ = case
    done = python("import sys, run_score; run_score.main([*sys.argv[1:], '--no-figures']); "
                  "print('heavy', {'torch', 'numba', 'scipy.stats', 'matplotlib'} & "
                  "set(sys.modules))", path)
    assert done.stdout.strip().endswith("heavy set()"), done.stdout + done.stderr


def test_a_folder_that_cannot_be_written(case, called):
    _, path, _ = case
    (path.parent / "score.json").mkdir()                  # root may write anywhere else
    done = called("run_score.py", path, "--no-figures")
    assert "Score " in ok(done) and "warning" in done.stderr and "score.json" in done.stderr


def test_arviz_opens_the_export(case, called, tmp_path):
    """Draws with dimensions chain, draw, map, and the truth beside the design."""
    _, path, _ = case
    arviz = pytest.importorskip("arviz", reason="ArviZ is not installed (an optional package)")
    draws = np.random.default_rng(1).normal([0.3, 0.8], 0.02, size=(2, 50, 3, 2))
    rewrite(path, lambda groups: groups.update(posterior={
        p: Var(("chain", "draw", "map"), draws[..., k]) for k, p in enumerate(("Omega_m", "S_8"))}))
    ok(called("run_score.py", path, "--no-figures", "--export", "arviz", "a.nc", cwd=tmp_path))
    data = arviz.from_netcdf(tmp_path / "a.nc")
    assert np.allclose(data["posterior"]["S_8"], draws[..., 1]) and "truth" in data["constant_data"]


def test_the_page_in_a_browser(case, script, tmp_path):
    """Headless Chromium shows all of its pictures, in full size, and its console says nothing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: chromium)")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (an optional package)")
    _, path, _ = case
    ok(script("run_score.py", path, "--bootstrap", 20, cwd=tmp_path))
    page, probe = path.with_name("report.html"), tmp_path / "probe.html"
    count = ("<script>window.onload = () => console.log('broken ' + "
             "[...document.images].filter(i => !i.naturalWidth).length"
             " + ' of ' + document.images.length)</script>")
    probe.write_text(page.read_text().replace("</body>", count + "</body>"))
    for file, words in ((page, []), (probe, ["broken 0 of 5"])):
        done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu",
                               "--enable-logging=stderr", "--dump-dom",
                               f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "<h1>" in done.stdout, done.stderr
        said = re.findall(r"CONSOLE.*?\] \"(.*?)\", source", done.stderr)
        assert said == words, done.stderr
