"""Teachers of masks: by models blind to a fold, chosen and said as one would by hand; what a choice is worth."""

from types import SimpleNamespace

import numpy as np
import pytest
from salt import Truth, faint, problem_of

from pipeline.masks.maps import Maps
from pipeline.scoring.mask_pseudo import MaskRule, choose, facts
from pipeline.scoring.mask_shelf import Scene
from pipeline.scoring.mask_teacher import MaskTeacher, write_labels
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_npy, write_npy

N, T, FOLDS, SIZE = 30, 12, 3, 24
RUNS = ("toy/a", "toy/b")


@pytest.fixture
def teacher(house):
    """Two runs whose models' maps, with a distance map behind, are drawn by chance; test rows before the scored."""
    shown, truth = faint(N, size=SIZE)
    problem = problem_of(truth, "iou", FOLDS)
    sizes = np.full((T + N, 2), SIZE)
    table = SimpleNamespace(test=np.arange(T), scored=T + np.arange(N), sizes=sizes, classes=["c"])
    scene = Scene(table, _Truth([None] * T + truth.masks), problem, 1, 1.0)
    rng = np.random.default_rng(1)
    for seed, run in enumerate(RUNS):
        for k in range(FOLDS):
            rows = np.flatnonzero(problem.folds == k)
            noise = np.random.default_rng(seed).uniform(-0.1, 0.1, (N, SIZE, SIZE))
            own = [np.stack([np.clip(shown[i][0] + noise[i], 0, 1), rng.random((SIZE, SIZE))]) for i in rows]
            write_npy(RunFiles(run).fold(k).oof, _flat(own))
            edges = np.clip(np.arange(T) * 2 - 6 + rng.integers(-2, 3, T), 0, SIZE)  # of what is mask, from the left
            there = np.arange(SIZE) < edges[:, None, None]
            p = np.where(there, 0.9, 0.1) + rng.uniform(-0.08, 0.08, (T, SIZE, SIZE))
            tests = [np.stack([one, rng.random((SIZE, SIZE))]) for one in p]
            write_npy(RunFiles(run).fold(k).test, _flat(tests))
    return MaskTeacher(scene, [RunFiles(run) for run in RUNS])


class _Truth(Truth):
    classes = 1


def _flat(maps):
    return np.concatenate([np.r_[m.ravel(), 0.75] for m in maps]).astype(np.float16)


def of(run, k, name, rows):
    flat = read_npy(getattr(RunFiles(run).fold(k), name)).astype(np.float64)
    return flat.reshape(rows, -1)[:, : SIZE * SIZE].reshape(rows, SIZE, SIZE)


def test_images_are_chosen_by_models_of_the_fold(teacher):
    for k in range(FOLDS):
        mean = np.mean([of(run, k, "test", T) for run in RUNS], 0)
        sure = ((mean < 0.2) | (mean > 0.8)).mean((1, 2))
        kept, found, coverage = teacher.chosen(MaskRule(0.9, 0.8, 0.5), k, 0)
        assert found == pytest.approx(sure, abs=0.02)
        assert coverage[:, 0] == pytest.approx((mean > 0.5).mean((1, 2)), abs=0.02)
        assert (kept == choose(MaskRule(0.9, 0.8, 0.5), found, coverage)).all()
        assert 0 < kept.sum() < T


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_soft_masks_of_the_chosen_in_their_order(teacher, targets):
    files, rows = RunFiles("toy/p"), {(0, k): np.array([9, 2, 5][: k + 1]) for k in range(FOLDS)}
    write_labels(files, teacher, rows, targets, 0.5)
    for (r, k), at in rows.items():
        maps = Maps(read_npy(files.pseudo_maps(r, k)), teacher.layout(at))
        mean = np.mean([of(run, k, "test", T) for run in RUNS], 0)
        for i, row in enumerate(at):
            assert maps[i].shape == (1, SIZE, SIZE), "no distance map"
            if targets == "soft":
                assert maps[i][0] == pytest.approx(mean[row], abs=1e-3)
            else:
                clear = np.abs(mean[row] - 0.5) > 1e-3
                assert (maps[i][0][clear] == (mean[row] > 0.5)[clear]).all()
            assert maps.present(i) == pytest.approx([0.75])
    assert files.pseudo_files == [files.pseudo, *(files.pseudo_maps(0, k) for k in range(FOLDS))]


def test_what_a_choice_is_worth_is_measured_on_the_other_folds(teacher):
    problem, rule = teacher.scene.problem, MaskRule(0.5, 0.6, 0.3)
    mean = np.zeros((N, SIZE, SIZE))
    for k in range(FOLDS):
        rows = np.flatnonzero(problem.folds == k)
        mean[rows] = np.mean([of(run, k, "oof", len(rows)) for run in RUNS], 0)
    masks = [m[0] for m in teacher.scene.truth.masks[T:]]
    guess = mean > 0.5
    ious = np.array(
        [(m & g).sum() / max((m | g).sum(), 1) if (m | g).any() else 1.0 for m, g in zip(masks, guess, strict=True)]
    )
    sure, coverage = ((mean < 0.2) | (mean > 0.8)).mean((1, 2)), guess.mean((1, 2))[:, None]
    for k in range(FOLDS):
        other = np.flatnonzero(problem.folds != k)
        kept = choose(rule, sure[other], coverage[other])
        found = teacher.expected(rule, k)
        assert found["n"] == pytest.approx(kept.sum(), abs=1)
        assert found["score"] == pytest.approx(ious[other][kept].mean(), abs=0.03)
        assert found["all"] == pytest.approx(ious[other].mean(), abs=0.01)
        assert 0 < found["se"] < 0.2
    # Labels of the fold itself play no part.
    before = teacher.expected(rule, 1)
    for i in np.flatnonzero(problem.folds == 1):
        teacher.scene.truth.masks[T + i] = ~teacher.scene.truth.masks[T + i]
    assert MaskTeacher(teacher.scene, teacher.members).expected(rule, 1) == before
    assert MaskTeacher(teacher.scene, teacher.members).expected(rule, 0)["all"] != teacher.expected(rule, 0)["all"]


def test_facts_of_a_mean_are_those_of_its_maps(teacher):
    mixed = teacher.test(0, 0)
    sure, coverage = facts(mixed, 1)
    for i in range(T):
        assert sure[i] == ((mixed[i][0] < 0.2) | (mixed[i][0] > 0.8)).mean()
        assert coverage[i, 0] == (mixed[i][0] > 0.5).mean()
