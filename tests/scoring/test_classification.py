import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.scoring.classification import (
    EPS,
    balanced_log_loss,
    brier,
    f_beta,
    f_score,
    kl_divergence,
    linear_kappa,
    log_loss,
    map_at,
    place,
    quadratic_kappa,
    soft_brier_rows,
    soft_kl_divergence_rows,
    soft_log_loss_rows,
    top_accuracy,
)

grades = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)


@given(grades)
def test_kappa_of_equal_grades_is_1_and_kappa_is_symmetric(rows):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    one = np.ones(len(y))
    if len(set(y)) > 1:
        assert quadratic_kappa(y, y, one) == 1
    else:
        assert np.isnan(quadratic_kappa(y, y, one))
    if len(set(y) | set(p)) > 1:
        kappa = quadratic_kappa(y, p, one)
        assert kappa == pytest.approx(quadratic_kappa(p, y, one))
        assert kappa == pytest.approx(quadratic_kappa(2 * y + 3, 2 * p + 3, one))
        assert kappa == pytest.approx(sk.cohen_kappa_score(y, p, labels=range(5), weights="quadratic"))


@pytest.mark.parametrize("beta", [0.5, 1, 2])
@given(rows=grades)
def test_f_of_precision_and_recall(beta, rows):
    y, p = (np.array(v) > 2 for v in zip(*rows, strict=True))
    hit = (y & p).sum()
    precision, recall = hit / max(p.sum(), 1), hit / max(y.sum(), 1)
    expected = (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if hit else 0.0
    assert f_score(hit, p.sum(), y.sum(), beta) == pytest.approx(expected)
    assert f_beta(beta, "binary", y.astype(int), p.astype(int), np.ones(len(y))) == pytest.approx(expected)


def test_log_loss_is_finite_at_0_and_1():
    one = np.ones(2)
    y = np.array([1, 0])
    assert log_loss(y, np.array([0.0, 0.0], np.float32), one) == pytest.approx(-np.log(EPS) / 2)
    # 1 - EPS rounds to the nearest double, so its logarithm is EPS' to 1 % only.
    assert log_loss(y, np.array([0.0, 1.0], np.float32), one) == pytest.approx(-np.log(EPS), rel=0.01)
    assert log_loss(y, np.array([[1.0, 0.0], [0.0, 1.0]]), one) == pytest.approx(-np.log(EPS))


def test_multiclass_log_loss_forgives_rows_that_do_not_sum_to_1():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 30), rng.dirichlet(np.ones(4), 30)
    one = np.ones(len(y))
    assert log_loss(y, p * 0.5, one) == pytest.approx(log_loss(y, p, one))


def soft_classes(seed, n=40, classes=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), n), rng.dirichlet(np.ones(classes), n)


def test_soft_classes_score_as_hard_ones_drawn_from_them():
    """A row with shares .3 and .7 scores as three rows of one class and seven of the other."""
    y = np.array([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    hard, rows, share = np.tile(np.arange(3), 3), np.arange(3).repeat(3), y.ravel()
    one = np.ones(3)
    assert np.average(soft_log_loss_rows(y, p), weights=one) == pytest.approx(log_loss(hard, p[rows], share))
    # The expected squared error of drawn labels has their variance too, sum of y (1 - y).
    drawn = brier(hard, p[rows], share) - (y * (1 - y)).sum(1).mean()
    assert soft_brier_rows(y, p).mean() == pytest.approx(drawn)
    binary, q = np.array([0.25, 1.0, 0.0]), np.array([0.3, 0.9, 0.2])
    expected = sk.log_loss([1, 0] * 3, q.repeat(2), sample_weight=np.column_stack([binary, 1 - binary]).ravel())
    assert log_loss(binary, q, one) == pytest.approx(expected)


def test_kl_divergence_against_scipy():
    y, p = soft_classes(0)
    y[0] = [1, 0, 0, 0]
    np.testing.assert_allclose(soft_kl_divergence_rows(y, p), stats.entropy(y, p, axis=1), atol=1e-12)
    labels, q = y[:, :2], p[:, :2]
    both = [stats.entropy(np.stack([labels, 1 - labels]), np.stack([q, 1 - q]), axis=0)]
    assert kl_divergence(labels, q, np.ones(40)) == pytest.approx(np.mean(both))
    assert kl_divergence(labels[:, 0], q[:, 0], np.ones(40)) == pytest.approx(np.mean(both[0][:, 0]))


@given(st.integers(0, 1000))
def test_soft_targets_are_scored_best_by_themselves(seed):
    y, p = soft_classes(seed, 5)
    assert soft_kl_divergence_rows(y, y) == pytest.approx(0, abs=1e-12)
    assert (soft_kl_divergence_rows(y, p) >= 0).all()
    assert (soft_log_loss_rows(y, p) >= soft_log_loss_rows(y, y)).all()


def test_balanced_log_loss_forgets_how_often_a_class_is_there():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    rows = np.r_[np.arange(60), np.flatnonzero(y == 1).repeat(4)]
    one = balanced_log_loss(y, p, np.ones(60))
    assert balanced_log_loss(y[rows], p[rows], np.ones(len(rows))) == pytest.approx(one)
    assert log_loss(y[rows], p[rows], np.ones(len(rows))) != pytest.approx(log_loss(y, p, np.ones(60)))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=4, max_size=4)), min_size=1, max_size=9)
)
def test_the_place_of_the_truth_is_that_in_a_stable_order(rows):
    y, p = np.array([r[0] for r in rows]), np.array([r[1] for r in rows]) / 4
    order = np.argsort(-p, axis=1, kind="stable")
    want = [row.tolist().index(truth) for row, truth in zip(order, y, strict=True)]
    assert place(y, p).tolist() == want
    one = np.ones(len(y))
    assert map_at(1, y, p, one) == top_accuracy(1, y, p, one) == np.mean([at == 0 for at in want])
    assert map_at(2, y, p, one) == pytest.approx(np.mean([(at == 0) + (at == 1) / 2 for at in want]))
    assert top_accuracy(4, y, p, one) == 1


@given(grades)
def test_linear_kappa_of_equal_grades_is_1_and_kappa_is_symmetric(rows):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    one = np.ones(len(y))
    if len(set(y) | set(p)) == 1:
        assert np.isnan(linear_kappa(y, p, one))
        return
    kappa = linear_kappa(y, p, one)
    assert kappa == pytest.approx(linear_kappa(p, y, one))
    assert kappa == pytest.approx(sk.cohen_kappa_score(y, p, labels=range(5), weights="linear"))
    if len(set(y)) > 1:
        assert linear_kappa(y, y, one) == 1
