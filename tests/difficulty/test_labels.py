import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posed import area, problem
from sklearn.linear_model import LogisticRegression

from pipeline.difficulty.labels import (
    SPEAKS,
    belief,
    confident_joint,
    disagreement,
    epoch_parts,
    label_wrong,
    logistic,
    margins,
    platt,
    self_confidence,
    splits,
    suspicion,
)


def softmax(z):
    odds = np.exp(z - z.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def noisy(n, seed, share=0.1, classes=4, sure=5.0):
    """Labels of which some are wrong, and predictions that know better."""
    rng = np.random.default_rng(seed)
    clean, bad = rng.integers(classes, size=n), rng.random(n) < share
    y = np.where(bad, (clean + rng.integers(1, classes, n)) % classes, clean)
    return y, bad, softmax(sure * np.eye(classes)[clean] + rng.normal(0, 1, (n, classes)))


def brute_joint(y, p):
    classes = p.shape[1]
    threshold = [
        np.mean([p[i, c] for i in range(len(y)) if y[i] == c]) if (y == c).any() else np.inf for c in range(classes)
    ]
    joint, flags = np.zeros((classes, classes)), np.zeros(len(y), bool)
    for i in range(len(y)):
        above = [c for c in range(classes) if p[i, c] >= threshold[c] - 1e-6]
        if above:
            likely = max(above, key=lambda c: (p[i, c], -c))
            joint[y[i], likely] += 1
            flags[i] = likely != y[i]
    for c in range(classes):
        if joint[c].sum():
            joint[c] *= (y == c).sum() / joint[c].sum()
    return joint, flags


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), classes=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_confident_joint_is_what_its_definition_counts(seed, n, classes):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(classes, size=n), rng.dirichlet(np.full(classes, 0.4), n)
    joint, flags = confident_joint(y, p)
    expected, off = brute_joint(y, p)
    np.testing.assert_allclose(joint, expected)
    assert (flags == off).all()


def test_confident_joint_by_hand():
    y = np.array([0, 0, 0, 1, 1, 1])
    p = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.9])  # of class 0: thresholds .6 for class 0, 1 - 7/15 for class 1
    joint, flags = confident_joint(y, np.column_stack([p, 1 - p]))
    assert flags.tolist() == [False, False, True, False, False, True]
    np.testing.assert_allclose(joint, [[2, 1], [1, 2]])


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_margins_and_confidence(task):
    rng = np.random.default_rng(0)
    if task == "multiclass":
        y, p = rng.integers(3, size=20), rng.dirichlet(np.ones(3), 20)
        lead = [p[i, y[i]] - max(p[i, c] for c in range(3) if c != y[i]) for i in range(20)]
        true = p[np.arange(20), y]
    elif task in ("binary", "multilabel"):
        y = rng.integers(2, size=20 if task == "binary" else (20, 3))
        p = rng.random((20, 1 if task == "binary" else 3))
        side = np.where(y.reshape(20, -1) == 1, p, 1 - p)
        lead, true = 2 * side - 1, side.mean(1)
    else:
        y = rng.integers(4, size=20) if task == "ordinal" else rng.normal(0, 3, (20, 2))
        p = y.reshape(20, -1) + rng.normal(0, 1, (20, 1 if task == "ordinal" else 2))
        away = np.abs(p - y.reshape(20, -1)) / y.reshape(20, -1).std(0)
        lead, true = -away, np.exp(-away.mean(1))
    mine = problem(task, y)
    np.testing.assert_allclose(margins(mine, p), np.reshape(lead, (20, -1)))
    np.testing.assert_allclose(self_confidence(mine, p), true)
    # A label that is what the prediction says beats one that is not.
    if task == "binary":
        assert margins(problem(task, p[:, 0] > 0.5), p).min() > 0


def test_constant_targets_have_finite_margins():
    mine = problem("regression", np.ones((6, 1)))
    assert np.isfinite(margins(mine, np.arange(6.0)[:, None])).all()


def test_epoch_parts_are_columns():
    y, _, p = noisy(30, 0)
    table = np.column_stack([p, np.arange(30), np.arange(30) * 2, np.arange(30) * 3])
    parts = epoch_parts(problem("multiclass", y, classes=4), table)
    np.testing.assert_array_equal(parts["data_map_mean"], p[np.arange(30), y])
    for name, factor in (("data_map_sd", 1), ("aum", 2), ("forgetting", 3)):
        np.testing.assert_array_equal(parts[name], np.arange(30) * factor)
    assert set(parts) <= set(SPEAKS)


def test_disagreement_of_neighbours():
    near = np.array([[0, 0, 1], [2, 2, 2]])
    np.testing.assert_allclose(disagreement(problem("multiclass", [0, 1]), near), [1 / 3, 1])
    labels = np.array([[[1, 0], [1, 1]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(disagreement(problem("multilabel", [[1, 0], [1, 1]]), labels), [1 / 4, 1])
    values = np.array([[1.0, 3.0], [8.0, 10.0]])
    np.testing.assert_allclose(disagreement(problem("ordinal", [0, 4]), values), [1.0, 2.5])
    np.testing.assert_allclose(disagreement(problem("regression", [[0.0], [4.0]]), values[:, :, None]), [1.0, 2.5])


def test_suspicion_finds_wrong_labels_of_every_task():
    y, bad, p = noisy(600, 1)
    flags, count = suspicion(problem("multiclass", y, classes=4), p)
    assert flags[bad].mean() > 0.75
    assert flags[~bad].mean() < 0.02
    assert 0.7 * bad.sum() < count < 1.4 * bad.sum()
    rng = np.random.default_rng(2)
    clean = rng.integers(2, size=(600, 3))
    bad = rng.random((600, 3)) < 0.05
    said = 1 / (1 + np.exp(-(5 * (2 * clean - 1) + rng.normal(0, 1, clean.shape))))
    flags, count = suspicion(problem("multilabel", clean ^ bad), said)
    assert flags[bad.any(1)].mean() > 0.6
    assert flags[~bad.any(1)].mean() < 0.02
    assert 0.7 * bad.any(1).sum() < count < 1.4 * bad.any(1).sum()
    grade = rng.integers(5, size=600)
    bad = rng.random(600) < 0.08
    # Shrunk to the middle as a regression head is: half a grade off at the ends is no contradiction.
    said = 0.75 * (grade - 2) + 2 + rng.normal(0, 0.3, 600)
    flags, count = suspicion(problem("ordinal", np.where(bad, (grade + 2) % 5, grade), classes=5), said[:, None])
    assert flags[bad].mean() > 0.8
    assert flags[~bad].mean() < 0.01
    assert count == flags.sum()
    value = rng.normal(0, 1, (600, 2))
    bad = rng.random(600) < 0.03
    given = value + 5 * np.column_stack([bad, np.zeros(600)])
    flags, count = suspicion(problem("regression", given), value + rng.normal(0, 0.3, (600, 2)))
    assert (flags == bad).mean() > 0.99
    assert count == flags.sum()


def test_suspicion_does_not_depend_on_the_order_of_rows():
    y, _, p = noisy(200, 3)
    order = np.random.default_rng(0).permutation(200)
    flags, count = suspicion(problem("multiclass", y, classes=4), p)
    again, same = suspicion(problem("multiclass", y[order], classes=4), p[order])
    assert (flags[order] == again).all()
    assert count == pytest.approx(same)


def test_exact_values_are_no_outliers():
    y = np.random.default_rng(0).normal(0, 1, (50, 1))
    flags, count = suspicion(problem("regression", y), y + 1e-12 * y**2)
    assert count == 0
    assert not flags.any()


def test_splits_leave_each_fold_out():
    folds = np.array([2, 0, 0, 2, 5])
    for rows, mine in splits(folds):
        assert (rows ^ mine).all()
        assert len(np.unique(folds[mine])) == 1
    assert len(list(splits(folds))) == 3
    ((rows, mine),) = splits(np.zeros(4))
    assert rows.all()
    assert mine.all()


def views(n=600, seed=0, **options):
    y, bad, p = noisy(n, seed, **options)
    over = 0.9 * noisy(n, seed, **options)[2] + 0.1 * np.eye(4)[y]
    mine = problem("multiclass", y, classes=4)
    rng = np.random.default_rng(seed)
    parts = {"self_confidence": self_confidence(mine, p), "label_margin": margins(mine, p)[:, 0]}
    parts |= {
        "data_map_mean": self_confidence(mine, over),
        "data_map_sd": rng.random(n),
        "neighbours": 0.5 * bad + rng.random(n),
    }
    return mine, bad, [p, over], parts


def test_label_wrong_ranks_and_counts():
    mine, bad, said, parts = views()
    p = label_wrong(mine, said, parts)
    assert area(bad, p) > 0.99
    assert bad[np.argsort(-p)[: bad.sum()]].mean() > 0.93
    assert p.sum() == pytest.approx(bad.sum(), rel=0.25)
    # Its sum is the estimate: each fold is given the share that the others have.
    shares = []
    for rows, rest in splits(mine.folds):
        count = suspicion(mine.part(rows), np.mean(said, 0)[rows])[1]
        shares.append((count + 0.5) / rows.sum() * rest.sum())
    assert p.sum() == pytest.approx(sum(shares), rel=0.1)


def test_label_wrong_of_a_row_does_not_depend_on_other_rows_of_its_fold():
    mine, _, said, parts = views(200)
    before = label_wrong(mine, said, parts)
    own = mine.folds == 0
    keep = np.flatnonzero(own)[0]
    rng, changed = np.random.default_rng(9), own.copy()
    changed[keep] = False
    y = mine.y.copy()
    y[changed] = rng.integers(4, size=changed.sum())
    altered = {name: np.where(changed, rng.random(200), values) for name, values in parts.items()}
    after = label_wrong(problem("multiclass", y, mine.folds, 4), said, altered)
    assert after[keep] == before[keep]
    assert not np.allclose(after[~own], before[~own]), "rows of the other folds do"


def test_a_clean_set_has_no_suspects_and_keeps_its_order():
    mine, _, said, parts = views(share=0.0, sure=9.0)
    p = label_wrong(mine, said, parts)
    assert p.max() < 0.5
    assert p.sum() < 4
    assert np.corrcoef(p.argsort().argsort(), parts["self_confidence"].argsort().argsort())[0, 1] < -0.5


def test_label_wrong_survives_what_is_missing():
    mine, bad, said, parts = views(80)
    constant = {name: np.zeros(80) for name in parts}
    assert np.isfinite(label_wrong(mine, said, constant)).all()
    one_fold = problem("multiclass", mine.y, np.zeros(80), 4)
    assert area(bad, label_wrong(one_fold, said, parts)) > 0.95
    absent = problem("multiclass", np.where(mine.y == 3, 2, mine.y), mine.folds, 4)
    assert np.isfinite(label_wrong(absent, said, parts)).all()
    alone = problem("multiclass", np.zeros(80, int), mine.folds, 4)
    assert np.isfinite(label_wrong(alone, said, parts)).all()


def test_suspects_are_not_believed_at_all():
    np.testing.assert_allclose(belief(np.array([0.0, 0.2, 0.5, 0.6, 1.0])), [1, 0.8, 0.5, 0, 0])


@pytest.mark.parametrize("ridge", [0.5, 10.0])
def test_logistic_is_scikit_learns(ridge):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(0, 1, (80, 3)), rng.random(80)
    happened = rng.random(80) < 1 / (1 + np.exp(-x @ [1, -2, 0] + 1))
    yes, no = weight @ happened, weight @ ~happened
    target = np.where(happened, (yes + 1) / (yes + 2), 1 / (no + 2))
    reference = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000)
    reference.fit(np.r_[x, x], np.r_[np.ones(80), np.zeros(80)], np.r_[weight * target, weight * (1 - target)])
    expected = np.r_[reference.coef_[0], reference.intercept_]
    np.testing.assert_allclose(logistic(x, happened, weight, ridge=ridge), expected, atol=1e-3)


def test_logistic_keeps_an_offset():
    """With the truth as offset nothing is left to learn; a shifted offset is shifted back."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (20_000, 2))
    truth = x @ [2.0, -1.0] + 0.5
    happened = rng.random(20_000) < 1 / (1 + np.exp(-truth))
    np.testing.assert_allclose(logistic(x, happened, np.ones(20_000), truth), 0, atol=0.08)
    np.testing.assert_allclose(logistic(x, happened, np.ones(20_000), truth - 3), [0, 0, 3], atol=0.08)


def test_one_class_alone_has_a_finite_answer():
    slope, middle = logistic(np.arange(10.0)[:, None], np.zeros(10, bool), np.ones(10))
    assert np.isfinite([slope, middle]).all()
    _, middle = platt(np.zeros(98), np.zeros(98, bool), np.ones(98))
    assert 1 / (1 + np.exp(-middle)) == pytest.approx(0.01, rel=0.01)


def test_platt():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    happened = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * z - 1)))
    slope, middle = platt(z, happened, np.ones(20_000))
    assert slope == pytest.approx(0.5, abs=0.03)
    assert middle == pytest.approx(-1, abs=0.06)
    assert platt(z[:2], np.array([True, False]), np.ones(2))[0] == pytest.approx(1, abs=0.8), "too little to learn from"
    backwards = platt(z, ~happened, np.ones(20_000))
    assert backwards[0] == 0.01
    assert (1 / (1 + np.exp(-(backwards[0] * z + backwards[1])))).mean() == pytest.approx((~happened).mean(), abs=0.01)
