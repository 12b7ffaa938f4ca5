"""Both axes on invented models of every task, and on digits with flipped labels."""

from dataclasses import replace

import numpy as np
import pytest
from fake import invent
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from pipeline.difficulty.labels import suspicion
from pipeline.difficulty.tags import Seen, assess, blind, counts, known_mean
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.scoring.ranking import binary_roc_auc
from pipeline.tasks import TASKS


def area(happened, p):
    return binary_roc_auc(np.asarray(happened), np.asarray(p), np.ones(len(p)))


def seen_of(made, pairs=False):
    """What a stage would gather of invented models."""
    problem, n = made.problem, len(made.clean)
    folds, t = sorted(made.train), len(made.test_clean)
    rng = np.random.default_rng(1)
    oof = made.oof
    looks = np.column_stack([made.hardness / 10, rng.random(n + t)])
    epochs = {k: np.column_stack([e, np.where(np.isnan(e[:, -1]), np.nan, 0.0)]) for k, e in made.epochs.items()}
    spoken = {}
    for k in folds if pairs else ():
        rows = np.full(oof.shape, np.nan)
        for j in set(folds) - {k}:
            rows[problem.folds == j] = made.pairs[min(j, k), max(j, k)][0][problem.folds == j]
        spoken[k] = (rows, [made.pairs[min(j, k), max(j, k)][1] for j in folds if j != k])
    return Seen(
        problem, oof, problem.task.decide(oof, problem.task.default_cuts(problem.classes)), oof[None], epochs, looks[:n],
        rng.random(n), {k: np.stack([made.test[k]] * 2) for k in folds}, dict.fromkeys(folds, looks[n:]),
        rng.random((n + t, 2)), spoken if pairs else None,
    )  # fmt: skip


def wrong_labels(task, n=300, seed=0, **options):
    rng = np.random.default_rng(seed)
    classes = 4 if task in ("multiclass", "ordinal") else 3
    clean = {
        "binary": lambda m: rng.integers(2, size=m),
        "multilabel": lambda m: rng.integers(2, size=(m, 3)),
        "regression": lambda m: rng.normal(0, 2, (m, 1)),
    }.get(task, lambda m: rng.integers(classes, size=m))
    rows, test, bad = clean(n), clean(150), rng.random(n) < 0.1
    classes = {"binary": 2, "regression": 1}.get(task, classes)
    other = {"multiclass": (rows + 1) % 4, "ordinal": (rows + 2) % 4, "regression": rows + 8}.get(task)
    other = 1 - rows if other is None else other
    y = rows.copy()
    y[bad] = other[bad]
    return bad, invent(task, y, rows, test, np.arange(n) % 3, classes, seed, **options)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_two_axes(task):
    bad, made = wrong_labels(task)
    seen = seen_of(made)
    report = assess(seen, 0.02, 0.8)
    n = len(bad)
    assert area(bad, report.label_wrong) > 0.9
    hard = made.hardness > np.median(made.hardness)
    assert area(hard, report.p_error) > 0.65, "what is hard"
    assert area(bad, report.p_error[:n]) < 0.7, "is not what is wrongly labelled"
    assert (report.tags[:n][report.label_wrong > 0.5] == "suspect").all()
    assert "suspect" not in report.tags[n:]
    found = counts(seen, report)
    assert found["labels"]["suspects"] == (report.label_wrong > 0.5).sum()
    for part in ("train", "test"):
        assert sum(found["shares"][part].values()) == pytest.approx(1)
    assert not set(report.evidence) & set(report.features), "columns of one table"


@pytest.mark.parametrize("strict", [False, True])
def test_training_tags_of_a_fold_do_not_know_its_labels(strict):
    """Other labels in fold 1: nothing that may train model 1 moves."""
    _, made = wrong_labels("multiclass", pairs=True)
    seen = seen_of(made, strict)
    mine = made.problem.folds == 1
    y = np.where(mine, (made.problem.y + 2) % 4, made.problem.y)
    other = replace(
        seen,
        problem=replace(made.problem, y=y),
        oof=np.where(mine[:, None], seen.oof, seen.oof[:, ::-1]),
        labels=seen.labels[::-1],
        looks=seen.looks[::-1],
        other=seen.other[::-1],
        epochs={k: e if k == 1 else np.sqrt(np.abs(e)) for k, e in seen.epochs.items()},
        test={k: t if k == 1 else t[:, :, ::-1] for k, t in seen.test.items()},
    )
    before, after = blind(seen, 1, 0.05, 0.8), blind(other, 1, 0.05, 0.8)
    rows = np.r_[~mine, np.ones(150, bool)]
    np.testing.assert_array_equal(before.weight[rows], after.weight[rows])
    np.testing.assert_array_equal(before.tags[rows], after.tags[rows])
    np.testing.assert_array_equal(before.difficulty[rows], after.difficulty[rows])
    np.testing.assert_array_equal(before.targets[~mine], after.targets[~mine])
    assert not (blind(seen, 0, 0.05, 0.8).weight == blind(other, 0, 0.05, 0.8).weight).all(), "those of model 0 do"


def test_blind_tags_find_the_wrong_labels_and_suggest_right_ones():
    bad, made = wrong_labels("multiclass", 600)
    found = blind(seen_of(made), 2, 0.02, 0.8)
    outside = np.flatnonzero(made.problem.folds != 2)
    suspects = outside[found.tags[outside] == "suspect"]
    assert bad[suspects].mean() > 0.85
    assert (found.targets[suspects].argmax(1) == made.clean[suspects]).mean() > 0.8
    assert np.isnan(found.targets[made.problem.folds == 2]).all()
    assert area(bad[outside], 1 - found.weight[outside]) > 0.95
    # Difficulty of test rows has the distribution of the training rows', whatever the model's own scale.
    assert np.quantile(found.difficulty[600:], 0.5) == pytest.approx(
        np.quantile(found.difficulty[outside], 0.5), rel=0.1
    )
    assert area(made.hardness[600:] > 0.5, found.difficulty[600:]) > 0.8


def test_strict_difficulty_of_test_rows_is_on_the_models_own_scale():
    """Test rows that are all harder than any training row are told so; ranks alone could not."""
    _, made = wrong_labels("multiclass", pairs=True)
    for pair, (train, test) in made.pairs.items():
        made.pairs[pair] = (train, 0.2 * test + 0.2)
    strict, ranked = seen_of(made, True), seen_of(made)
    strict = replace(strict, test=ranked.test)
    easy = [(blind(seen, 0, 0.05, 0.8).tags[300:] == "easy").mean() for seen in (strict, ranked)]
    assert easy[0] < 0.05 < easy[1]


def test_two_folds_are_enough():
    bad, made = wrong_labels("multiclass")
    folds = np.arange(300) % 2
    again = invent("multiclass", made.problem.y, made.clean, made.test_clean, folds, 4)
    report = assess(seen_of(again), 0.05, 0.8)
    assert area(bad, report.label_wrong) > 0.9
    assert np.isfinite(blind(seen_of(again), 0, 0.05, 0.8).difficulty).all()


def test_known_mean():
    found = known_mean([np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[3.0, 4.0], [np.nan, np.nan]])])
    np.testing.assert_array_equal(found, [[2, 4], [np.nan, np.nan]])


def learn(x, y, test, folds, rng):
    """Small networks on digits, a fold at a time: their predictions while learning, at the end, and of test rows."""
    n, epochs, oof, tests = len(y), {}, np.zeros((len(y), 10)), {}
    for k in np.unique(folds).tolist():
        rows = folds != k
        network, said = MLPClassifier((96,), learning_rate_init=3e-3, batch_size=32, alpha=1e-3, random_state=k), []
        for epoch in range(14):
            noisy = x[rows] + rng.normal(0, 0.15, x[rows].shape)
            if epoch:
                said.append(network.predict_proba(noisy))
            network.partial_fit(noisy, y[rows], classes=np.arange(10))
        at = np.arange(rows.sum())
        true = np.stack([p[at, y[rows]] for p in said])
        log = np.log(np.clip(said, 1e-9, 1))
        others = log.copy()
        others[:, at, y[rows]] = -np.inf
        lead = log[:, at, y[rows]] - others.max(2)
        forgotten = ((lead[:-1] > 0) & (lead[1:] < 0)).sum(0)
        table = np.full((n, 14), np.nan)
        table[rows] = np.column_stack([np.mean(said, 0), true.std(0), lead.mean(0), forgotten, np.zeros(rows.sum())])
        epochs[k], oof[~rows], tests[k] = table, network.predict_proba(x[~rows]), network.predict_proba(test)
    return epochs, oof, tests


@pytest.fixture(scope="module")
def digits():
    """1,200 digits, 10 % of them with another label; 597 to test on."""
    rng = np.random.default_rng(0)
    x, clean = load_digits(return_X_y=True)
    order = rng.permutation(len(clean))
    x, clean = x[order] / 16, clean[order]
    y = clean[:1200].copy()
    bad = np.arange(1200) < 120
    y[bad] = (y[bad] + rng.integers(1, 10, 120)) % 10
    folds = rng.permutation(1200) % 4
    epochs, oof, tests = learn(x[:1200], y, x[1200:], folds, rng)
    problem = Problem(TASKS["multiclass"], METRICS["accuracy"], 10, y, folds, None)
    looks = np.zeros((1797, 2))
    seen = Seen(
        problem, oof, oof.argmax(1), oof[None], epochs, looks[:1200], np.zeros(1200),
        {k: np.stack([p, p]) for k, p in tests.items()}, dict.fromkeys(tests, looks[1200:]), np.zeros((1797, 0)),
    )  # fmt: skip
    return seen, clean, bad


def test_flipped_digits_are_found(digits):
    seen, _, bad = digits
    report = assess(seen, 0.01, 0.8)
    assert area(bad, report.label_wrong) >= 0.99
    assert bad[np.argsort(-report.label_wrong)[:120]].mean() >= 0.93
    assert report.label_wrong.sum() == pytest.approx(120, rel=0.2)
    over = known_mean(list(seen.epochs.values()))[:, :10]
    both, alone = (suspicion(seen.problem, p)[1] for p in ((seen.oof + over) / 2, seen.oof))
    assert report.label_wrong.sum() == pytest.approx(both, abs=abs(alone - both) / 2), "what both views contradict"
    suspects = report.tags[:1200] == "suspect"
    assert bad[suspects].mean() > 0.9
    assert bad[suspects].sum() > 100
    for k in range(4):
        outside = seen.problem.folds != k
        assert area(bad[outside], 1 - blind(seen, k, 0.01, 0.8).weight[:1200][outside]) > 0.99


def test_errors_on_new_digits_are_foreseen(digits):
    seen, clean, _ = digits
    report = assess(seen, 0.01, 0.8)
    tests = np.stack([slabs[0] for slabs in seen.test.values()])
    wrong = (tests.argmax(2) != clean[1200:]).mean(0)
    p = report.p_error[1200:]
    assert np.mean([area(one.argmax(1) != clean[1200:], p) for one in tests]) >= 0.93
    assert p.mean() == pytest.approx(wrong.mean(), rel=0.6)
    tags = report.tags[1200:]
    assert wrong[tags == "easy"].mean() < 0.015
    assert wrong[tags == "hard"].sum() > 0.6 * wrong.sum()
    assert (tags == "hard").mean() < 0.35
