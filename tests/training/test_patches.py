"""Images as their patches: cut, chosen by models that are blind to them, put together by how sure one may be."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from house import TRAIN, make_competition, prepare, stage, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from school import job_of, learn, receipt
from sklearn.datasets import load_digits

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.images.cache import Rows
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.patches import Patches, shown, starts
from pipeline.store.train import Train
from pipeline.tasks import TASKS
from pipeline.training.patches import confidence, joined, of_images, of_truth, surest
from pipeline.training.readable import every_image
from pipeline.training.shelf import embedded
from pipeline.training.weights import fitted_network

FIRST = f"{TRAIN.replace('epochs = 3', 'epochs = 2')}[patches]\nsize = 6\nstride = 4\n".replace(
    'stage = "train"\n', 'stage = "train"\npairs = true\n'
)
SECOND = 'base = "first"\npairs = false\nchosen_by = "first"\npatches.keep = 0.3\n'
V = 9  # patches of 6 in images of 12, 3 apart (the stride is at most 4)


@given(st.integers(1, 40), st.data())
def test_patches_reach_from_border_to_border(whole, data):
    side, stride = data.draw(st.integers(1, whole)), data.draw(st.integers(1, 12))
    found = starts(whole, side, stride)
    assert found[0] == 0
    assert found[-1] == whole - side
    gaps = np.diff(found)
    assert (gaps > 0).all()
    assert (gaps <= stride).all()
    if (whole - side) % stride == 0:
        assert (gaps == stride).all()


@given(st.integers(1, 3), st.integers(2, 4), st.data())
@settings(max_examples=30, deadline=None)
def test_rows_of_patches_are_parts_of_images(first, second, data):
    rng = np.random.default_rng(first)
    parts = [rng.integers(0, 255, (n, 7, 9, 2)).astype(np.uint8) for n in (first, second)]
    corners = np.array(Patches(size=4, stride=data.draw(st.integers(1, 4))).corners(7, 9))
    whole = np.concatenate(parts)
    meta, stats = rng.random((len(whole), 2)), rng.random((len(whole), 2, 2))
    cut = Rows(parts, meta, stats).cut(corners, 4)
    wanted = np.stack([image[t : t + 4, u : u + 4] for image in whole for t, u in corners])
    assert cut.shape == wanted.shape
    assert len(cut) == len(wanted)
    assert np.array_equal(cut[np.arange(len(cut))], wanted)
    some = np.array(data.draw(st.lists(st.integers(0, len(wanted) - 1), min_size=1)))
    assert np.array_equal(cut[some], wanted[some])
    assert np.array_equal(cut[int(some[0])], wanted[some[0]])
    assert np.array_equal(cut.meta, np.repeat(meta, len(corners), 0).astype(np.float32))
    assert np.array_equal(cut.stats, np.repeat(stats, len(corners), 0))


SURE = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(0, 1))


@given(SURE, st.floats(0.01, 1))
def test_no_image_is_dropped(sure, keep):
    kept = Patches(keep=keep).kept(sure.shape[1])
    chosen = surest(sure, kept)
    assert (chosen.sum(1) == max(1, round(keep * sure.shape[1]))).all()
    for row, mask in zip(sure, chosen, strict=True):
        assert row[mask].min() >= row[~mask].max(initial=0.0)


def posed(gamma, task="multiclass"):
    """Images of 4 x 4 in four patches."""
    patches = Patches(size=2, gamma=gamma)
    return SimpleNamespace(config=SimpleNamespace(patches=patches), size=[4, 4], task=TASKS[task])


def said(n, columns, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(columns, 0.5), n * 4)


@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 2.0, 400.0]))
@settings(deadline=None)
def test_patches_are_put_together_by_confidence(seed, gamma):
    p = said(3, 5, seed)
    job, parts = posed(gamma), p.reshape(3, 4, 5)
    found = joined(job, p)
    for image, mean in zip(parts, found, strict=True):
        weight = np.array([((q.max() - 0.2) / 0.8 + 1e-6) ** gamma for q in image])
        np.testing.assert_allclose(mean, (weight[:, None] * image).sum(0) / weight.sum(), rtol=1e-6)
        if gamma == 0:
            np.testing.assert_allclose(mean, image.mean(0))
        if gamma == 400 and np.diff(np.sort(image.max(1)))[-1] > 0.05:
            np.testing.assert_allclose(mean, image[image.max(1).argmax()], atol=1e-3)
    order = np.random.default_rng(seed).permutation(4)
    np.testing.assert_allclose(joined(job, parts[:, order].reshape(12, 5)), found)
    # Another run may say how sure one may be, of predictions and of embeddings alike.
    other = said(3, 5, seed + 100)
    trusted = joined(job, p, other.reshape(3, 4, 5))
    np.testing.assert_allclose(joined(job, p, other.reshape(3, 4, 5), p), trusted)
    np.testing.assert_allclose(joined(job, other, other.reshape(3, 4, 5)), joined(job, other))


def test_labels_weigh_each_by_itself_and_chance_weighs_nothing():
    p = np.array([[0.5, 1.0], [1.0, 0.5], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(joined(posed(2.0, "multilabel"), p), [[1.0, 1.0]])
    np.testing.assert_allclose(joined(posed(2.0, "binary"), p[:, :1]), [[1.0]])
    np.testing.assert_allclose(joined(posed(2.0), np.full((4, 5), 0.2)), [[0.2] * 5])
    assert confidence(TASKS["multiclass"], np.array([0.5, 0.5])) == confidence(TASKS["binary"], np.array([0.5])) == 0


def test_the_truth_of_patches_is_that_of_their_image():
    p, rng = said(3, 4).reshape(3, 4, 4), np.random.default_rng(1)
    y, soft = np.array([2, 0, 3]), rng.dirichlet(np.ones(4), 3)
    labels = np.array([[1, 0, np.nan, 1.0], [0, 0, 0, 0], [np.nan] * 4])
    for i in range(3):
        known = [c for c in range(4) if not np.isnan(labels[i, c])]
        for v in range(4):
            assert of_truth(TASKS["multiclass"], y, p)[i, v] == p[i, v, y[i]]
            assert of_truth(TASKS["multiclass"], soft, p)[i, v] == pytest.approx(soft[i] @ p[i, v])
            right = [p[i, v, c] if labels[i, c] else 1 - p[i, v, c] for c in known]
            assert of_truth(TASKS["multilabel"], labels, p)[i, v] == pytest.approx(np.mean(right) if known else 0)


def test_what_was_seen_of_an_image_is_the_mean_over_its_patches():
    seen = np.arange(16.0).reshape(8, 2)
    seen[1] = seen[4:] = np.nan
    found = of_images(posed(2.0), seen)
    np.testing.assert_allclose(found[0], seen[[0, 2, 3]].mean(0))
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("settings, what", [
    ({"chosen_by": "a"}, "patches.size must say"),
    ({"patches": {"gamma": 1.0}}, "patches.size must say"),
    ({"patches": {"size": 65}}, "is larger than image.size = 64"),
    ({"patches": {"size": 32, "background": True}}, "patches.background is about patches that are chosen"),
    ({"patches": {"size": 32, "keep": 0.5}}, "patches.keep is about"),
    ({"patches": {"size": 32}, "teacher": "b"}, "patches.size and teacher exclude"),
    ({"patches": {"size": 32}, "image": {"crop": 32}}, "patches.size and image.crop exclude"),
    ({"patches": {"size": 32}, "chosen_by": "a", "pairs": True}, "pairs = true needs a run of its own"),
])  # fmt: skip
def test_what_does_not_go_together(settings, what):
    with pytest.raises(ValueError, match=what):
        Train.model_validate(settings)


def test_how_many_pictures_an_epoch_shows():
    for asked, wanted in (
        ({}, 1),
        ({"patches": {"size": 16}}, 16),
        ({"patches": {"size": 16}, "chosen_by": "a"}, 4),
        ({"patches": {"size": 16, "background": True}, "chosen_by": "a"}, 16),
    ):
        assert shown(Train.model_validate(asked)) == wanted


@pytest.fixture(scope="module")
def cut_up(tmp_path_factory):
    """A run that learns from all patches, with pair models, and one that learns from those it chooses."""
    root, patch = tmp_path_factory.mktemp("patches"), pytest.MonkeyPatch()
    patch.chdir(root)
    make_competition(root, "multiclass", extra="holdout = 0.2\n")
    prepare()
    write("first", FIRST)
    write("second", SECOND)
    for name in ("first", "second"):
        stage("train", f"toy/{name}")
    patch.undo()
    return root


@pytest.fixture
def patched(cut_up, tmp_path, monkeypatch):
    shutil.copytree(cut_up, tmp_path / "patches")
    monkeypatch.chdir(tmp_path / "patches")


def test_a_first_run_keeps_what_it_says_of_patches(patched):
    job, files = job_of("toy/first"), RunFiles("toy/first")
    n, t, h = len(job.table.scored), len(job.table.test), len(job.table.holdout)
    for k in range(3):
        shelf, own = files.fold(k), job.table.folds[job.table.scored] == k
        assert np.load(shelf.patches).shape == (n, V, 4)
        assert np.load(shelf.test_patches).shape == (t, V, 4)
        assert np.load(shelf.holdout_patches).shape == (h, V, 4)
        for parts, whole in ((shelf.patches, shelf.train), (shelf.test_patches, shelf.test)):
            mean = joined(job, np.load(parts).reshape(-1, 4))
            np.testing.assert_allclose(np.load(whole), mean, atol=1e-6)
        assert np.load(shelf.embeddings).shape[0] == n + t
        learnt = np.isfinite(np.load(shelf.epochs)).all(1)
        assert np.array_equal(learnt, ~own)
        assert np.array_equal(np.load(shelf.rows), job.table.scored[~own])
    assert files.pair(0, 1).patches.exists()
    assert not files.pair(0, 1).test_patches.exists()


@pytest.mark.parametrize("background", [False, True])
def test_patches_are_chosen_by_models_blind_to_image_and_fold(patched, background):
    """By brute force, from the files of pair models; every image keeps some, the others are told or left out."""
    write("second", SECOND + "patches.background = true\n" * background)
    files = RunFiles("toy/first")
    for k in range(3):
        job, course = learn("toy/second", k)
        folds, y = job.table.folds[job.table.scored], job.table.y[job.table.scored, 0].astype(int)
        wanted = []
        for i, j in enumerate(folds.tolist()):
            if j != k:
                sure = np.load(files.pair(j, k).patches)[i, :, y[i]]
                wanted += sorted(i * V + v for v in np.argsort(-sure, kind="stable")[:3])
        told = course.targets.argmax(1).numpy()
        everything = [i * V + v for i in np.flatnonzero(folds != k) for v in range(V)]
        assert course.lessons.gold.tolist() == (everything if background else wanted)
        assert (told[wanted] == np.repeat(y[folds != k], 3)).all()
        if background:
            others = np.setdiff1d(everything, wanted)
            assert (told[others] == 4).all()
            assert np.array_equal(course.indicators, others)
        assert course.rows[course.lessons.gold].max() < len(job.table.ids)


def test_the_first_run_says_how_sure_one_may_be(patched):
    """Weights are those of its model of the same fold; gamma is never a reason to train again."""
    report = audit("toy/second", refit)
    assert report.findings == []
    known = receipt("toy/second")
    assert [(parent["role"], parent["run"]) for parent in known["parents"]] == [("chosen_by", "toy/first")]
    assert known["level"] == dict.fromkeys("012", "blind")
    files, before = RunFiles("toy/second"), [RunFiles("toy/second").fold(k).model.stat().st_mtime_ns for k in range(3)]
    weighted = np.load(files.test)
    write("second", SECOND + "patches.gamma = 0.0\n")
    stage("train", "toy/second")
    assert [files.fold(k).model.stat().st_mtime_ns for k in range(3)] == before
    assert not np.allclose(np.load(files.test), weighted)
    # Were the first run sure of one patch only, an image would be predicted as that patch is.
    path = RunFiles("toy/first").fold(0).test_patches
    flat = np.full_like(np.load(path), 0.25)
    flat[:, 5] = np.eye(4)[0]
    job = job_of("toy/second")
    network = fitted_network(job, files.fold(0).model)
    images = every_image(job, job.table.test)
    write("second", SECOND)
    found, _, parts = embedded(job_of("toy/second"), network, images, flat)
    np.testing.assert_allclose(found, parts[:, 5], atol=1e-4)


def test_a_background_class_is_never_predicted(patched):
    write("second", SECOND + "patches.background = true\nepochs = 1\n")
    stage("train", "toy/second")
    prediction = np.load(RunFiles("toy/second").oof)
    assert prediction.shape[1] == 4
    np.testing.assert_allclose(prediction.sum(1), 1, atol=1e-5)
    assert audit("toy/second", refit).findings == []


@pytest.mark.parametrize("settings, what", [
    ("patches.size = 4\n", r"chosen_by = 'toy/first' has patches.size = 6, this run has 4"),
    ("image.size = 14\n", r"chosen_by = 'toy/first' has image.size = 12, this run has 14"),
    ('chosen_by = "second"\n', r"chosen_by = 'toy/second' learnt from chosen patches, .* 'toy/first'"),
])  # fmt: skip
def test_a_run_that_cannot_choose(patched, settings, what):
    write("n", (SECOND.replace('chosen_by = "first"\n', "") if "chosen_by" in settings else SECOND) + settings)
    with pytest.raises(UserError, match=what):
        stage("train", "toy/n")


def test_models_that_learnt_from_the_image_choose_only_where_asked(patched):
    write("first", FIRST.replace("pairs = true\n", ""))
    stage("train", "toy/first")
    with pytest.raises(UserError, match=r'set pairs = true in configs/toy/first.toml, or patches.nested = "none"'):
        stage("train", "toy/second")
    write("second", SECOND + 'patches.nested = "none"\n')
    job, course = learn("toy/second", 1)
    folds, y = job.table.folds[job.table.scored], job.table.y[job.table.scored, 0].astype(int)
    sure = np.load(RunFiles("toy/first").fold(1).patches)
    first = np.flatnonzero(folds != 1)[0]
    wanted = np.argsort(-sure[first, :, y[first]], kind="stable")[:3] + first * V
    assert course.lessons.gold[:3].tolist() == sorted(wanted.tolist())
    stage("train", "toy/second")
    assert audit("toy/second", refit).findings == []


@pytest.mark.parametrize("task", ["regression", "ordinal"])
def test_tasks_without_classes_are_refused(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    make_competition(tmp_path, task)
    prepare()
    write("n", 'base = "a"\npatches.size = 6\n')
    with pytest.raises(UserError, match=f"a {task} task has no classes to be confident of"):
        stage("train", "toy/n")


def paste(root, seed, rows=600, side=40):
    """A small digit somewhere in a large image of noise and of pieces of other digits: a competition of its own."""
    rng, (data, y) = np.random.default_rng(seed), load_digits(return_X_y=True)
    digits = (data.reshape(-1, 8, 8) * 12).astype(np.float64)
    chosen = rng.choice(len(y), rows, replace=False)
    folder = root / "data/toy"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    for n, row in enumerate(chosen):
        image = rng.uniform(0, 60, (side, side))
        for _ in range(4):
            piece = digits[rng.integers(len(y))][:4, :4]
            top, left = rng.integers(side - 4, size=2)
            image[top : top + 4, left : left + 4] += np.rot90(piece, rng.integers(4)) / 2
        top, left = rng.integers(side - 8, size=2)
        image[top : top + 8, left : left + 8] = 40 + digits[row]
        split = "train" if n < rows - 20 else "test"
        cv2.imwrite(str(folder / split / f"i{n:03d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    frame = pd.DataFrame({"id": [f"i{n:03d}" for n in range(rows)], "target": np.char.add("d", y[chosen].astype(str))})
    frame[:-20].to_csv(folder / "train.csv", index=False)
    frame[-20:].assign(target="d0").to_csv(folder / "sample_submission.csv", index=False)
    (root / "configs/toy").mkdir(parents=True)
    (root / "configs/toy/competition.toml").write_text(
        'task = "multiclass"\nmetric = "accuracy"\nid = "id"\ntarget = "target"\n'
        '[images]\npattern = "{split}/{id}.png"\nchannels = "grey"\n[folds]\nn = 3\n'
    )


LEARN = """batch_size = 64
seed = {seed}
image.size = 40
augment.recipe = "none"
optim.lr = 5e-3
model.options = {{ widths = [16, 32] }}
"""


def tried(name, text):
    write(name, text)
    stage("train", f"toy/{name}")
    return receipt(f"toy/{name}")["metrics"]["score"]


@pytest.mark.proof
def test_small_digits_in_large_images(tmp_path, monkeypatch):
    """Confidence beats the mean of patches; a second run, with as many steps, needs the confidence of the first."""
    found = []
    for seed in range(3):
        home = tmp_path / str(seed)
        home.mkdir()
        monkeypatch.chdir(home)
        paste(home, seed)
        prepare()
        how = LEARN.format(seed=seed)
        first = f"pairs = true\nepochs = 4\n{how}[patches]\nsize = 16\nstride = 8\n"
        second = 'base = "first"\npairs = false\nchosen_by = "first"\nepochs = 32\npatches.keep = 0.125\n'
        scores = [tried("first", first), tried("second", second)]
        scores += [tried("second", second + "patches.gamma = 0.0\n"), tried("first", first + "gamma = 0.0\n")]
        found.append(scores)
        print(seed, scores, flush=True)
    first, second, second_plain, first_plain = np.mean(found, 0)
    assert first > first_plain + 0.02, found
    assert second > first - 0.02, found
    assert second > second_plain + 0.1, found
