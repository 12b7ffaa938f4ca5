"""An `lb` run with masks leaves decided masks that decide back exactly, or the run below bit by bit; both are proved."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from salt import Truth, faint, metric_of, problem_of

from pipeline.forecast.mask_lb import Below, ends_of, evidence, final_mask, parted, post_process, read_back
from pipeline.forecast.masks import in_words
from pipeline.masks.decide import Decision, components, decide
from pipeline.scoring.mask_shelf import Scene, decided, deployed, score_maps
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_npy, write_npy

SCORED, TEST = 150, 60


@dataclass(frozen=True)
class Masks(Truth):
    """True masks of one class."""

    classes: int = 1


def run_below(planted):
    """A run of three folds on the shelf whose models see the test images alike; returns it and the test truth."""
    (maps, truth), (more, right) = faint(SCORED, planted=planted), faint(TEST, seed=1, planted=planted)
    folds = np.r_[np.arange(SCORED) % 3, np.full(TEST, -1)]
    scored, test = np.flatnonzero(folds >= 0), np.flatnonzero(folds < 0)
    ids = np.array([f"r{i}" for i in range(SCORED + TEST)])
    table = SimpleNamespace(
        scored=scored, test=test, folds=folds, ids=ids, classes=["1"], sizes=np.tile([40, 40], (len(ids), 1))
    )
    scene = Scene(table, Masks([*truth.masks, *right.masks]), problem_of(truth, folds=3), 0, 1.0)
    files = RunFiles("toy/a")
    write_npy(files.oof, maps.flat)
    for path in (files.test, *(files.fold(k).test for k in range(3))):
        write_npy(path, more.flat)
    report, decision = score_maps(scene, maps, "auto")
    receipt = {"stage": "train", "folds": [0, 1, 2], "config": {"decision": "auto"}, "decision": decision}
    receipt |= {"maps": scene.shown, "metrics": report}
    return Below(scene, files, receipt, {"toy/a": receipt}), right


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    """Both runs, processed once: with a rule to find, and with none."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for planted in (True, False):
            patch.chdir(folder := tmp_path_factory.mktemp("lb"))
            below, right = run_below(planted)
            statistics = np.random.default_rng(0).random((SCORED + TEST, 3))
            made[planted] = folder, below, right, post_process(below, RunFiles("toy/lb"), statistics, TEST)
    return made


@pytest.fixture
def adopted(shelves, monkeypatch):
    monkeypatch.chdir(shelves[True][0])
    return shelves[True][1:]


@pytest.fixture
def kept(shelves, monkeypatch):
    monkeypatch.chdir(shelves[False][0])
    return shelves[False][1:]


def test_what_is_adopted_lies_there_as_masks_and_is_decided_back(adopted):
    below, right, made = adopted
    files, plain, metric = RunFiles("toy/lb"), Scene(*vars(below.scene).values()), metric_of(below.scene.problem)
    assert made.output.adopted
    assert made.shown == {"extra": 0, "scale": 1.0}
    assert made.decision["method"] == made.method == "fixed"
    setting, facts = deployed(plain, files, {"decision": made.decision, "stage": "lb"})
    assert setting == (Decision(),)
    assert facts["method"] == "fixed"
    for name, rows, shown in (("oof", plain.table.scored, made.output.oof), ("test", plain.table.test, made.test)):
        maps = plain.maps(getattr(files, name), rows)
        for i, mask in enumerate(decided(plain, maps, rows, setting)):
            assert (mask == shown.mask(i)).all()
    scores = np.array([metric.stats(plain.truth[i], made.output.oof.mask(i)).mean() for i in range(SCORED)])
    assert made.report["score"] == pytest.approx(scores.mean())
    assert made.actual == pytest.approx(scores)
    assert made.report["score"] > below.receipt["metrics"]["score"] + 0.02
    assert right is not None


def test_what_is_told_of_each_row_proves_its_mask(adopted):
    below, _, made = adopted
    told, files = evidence(made), RunFiles("toy/lb")
    for name in ("oof", "test"):
        assert len(read_back(below, below.scene, files, name, told[name])) == 0
    flat, where = np.array(read_npy(files.oof)), below.scene.layout(below.scene.table.scored)
    at = where.starts[[3, 7]] + 5
    flat[at] = 1 - flat[at]
    flat[where.starts[10] - 1] = 0.5  # presence of row 9
    write_npy(files.oof, flat)
    assert read_back(below, below.scene, files, "oof", told["oof"]).tolist() == [3, 7, 9]


def test_where_nothing_is_adopted_everything_stays(kept):
    below, _, made = kept
    files = RunFiles("toy/lb")
    assert made.output.adopted is None
    assert files.oof.read_bytes() == below.files.oof.read_bytes()
    assert files.test.read_bytes() == below.files.test.read_bytes()
    assert made.decision == below.receipt["decision"]
    assert made.shown == below.scene.shown
    assert made.method == "auto"
    assert made.report["score"] == pytest.approx(below.receipt["metrics"]["score"])
    assert "oof" not in evidence(made)
    assert in_words(made.output)[-1] == "no change: no rule passed the gate"


def test_models_that_are_alike_gain_nothing(kept):
    _, _, made = kept
    assert made.match.gain == pytest.approx(0, abs=1e-6)
    assert made.apparent == pytest.approx(0, abs=0.02)


def test_intervals_of_a_fold_rest_on_the_other_folds(adopted):
    below, _, made = adopted
    problem, (low, high) = below.scene.problem, made.ends
    predicted = np.r_[made.output.oof.predicted, made.test.predicted]
    assert (low <= predicted).all()
    assert (predicted <= high).all()
    assert np.mean((low[:SCORED] <= made.actual) & (made.actual <= high[:SCORED])) > 0.8
    mine = problem.folds == 1
    other = np.where(mine, 1 - made.actual, made.actual)
    again = ends_of(problem, made.output.oof.predicted, other, made.test.predicted)
    np.testing.assert_array_equal(again[0][:SCORED][mine], low[:SCORED][mine])
    assert (again[0][SCORED:] != low[SCORED:]).any()


def test_objects_that_touch_are_parted():
    labels = np.zeros((6, 8), int)
    labels[1:5, 1:4], labels[1:5, 4:7], labels[5, 5] = 1, 2, 3
    mask = parted(labels)
    assert components(mask)[0].max() == 3 - 1  # the third is one pixel that touches
    assert mask[1:5, 1:4].all()
    assert not mask[1:5, 4].any()
    assert mask[1:5, 5:7].all()
    assert not mask[5, 5]
    apart = np.where(labels == 1, labels, 0)
    assert (parted(apart) == (apart > 0)).all()
    corner = np.diag([1, 2])  # objects that meet at a corner do not touch
    assert (parted(corner) == (corner > 0)).all()


def test_a_split_is_kept_where_objects_count():
    disc = np.hypot(*(np.mgrid[:20, :34] - np.array([10, 10])[:, None, None])) < 8
    both = disc | np.roll(disc, 14, 1)
    maps = (0.02 + 0.96 * both)[None]
    setting = (Decision(split=0.8),)
    source = SimpleNamespace(maps=[maps], members=[])
    made = SimpleNamespace(
        mask=lambda i: decide(maps, np.ones(1), setting, (20, 34)), which=[0], source=source,
        actions=[SimpleNamespace(setting=setting, member=-1)],
    )  # fmt: skip
    assert components(final_mask(made, 0, False)[0])[0].max() == 1
    mask = final_mask(made, 0, True)[0]
    assert components(mask)[0].max() == 2
    assert 0 < both.sum() - mask.sum() < 20
