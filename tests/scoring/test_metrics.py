import warnings
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.metrics import (
    EPS,
    METRICS,
    Metric,
    binary_average_precision,
    binary_roc_auc,
    f_beta,
    f_score,
    get_metric,
    log_loss,
    quadratic_kappa,
    r2,
)
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

CLASSES = 4
CASES = [(name, task) for name, metric in METRICS.items() for task in metric.tasks]
grades = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)
# A grid of scores, so that ties are common.
scored = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)


def sample(task, seed, absent=False, n=40):
    rng = np.random.default_rng(seed)
    if task == "binary":
        return rng.integers(0, 2, n), rng.integers(1, 10, (n, 1)) / 10
    if task == "multiclass":
        counts = rng.multinomial(6, np.full(CLASSES, 1 / CLASSES), n) + 1
        return rng.choice([0, 2, 3] if absent else CLASSES, n), counts / counts.sum(1, keepdims=True)
    if task == "multilabel":
        y = rng.integers(0, 2, (n, CLASSES)) * [0 if absent else 1, 1, 1, 1]
        return y, rng.integers(1, 10, (n, CLASSES)) / 10
    if task == "ordinal":
        return rng.choice([0, 2, 3] if absent else CLASSES, n), rng.integers(-10, 45, (n, 1)) / 10
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 3))


def per_class(score, y, p, w):
    if p.ndim == 1:
        return score(y, p, sample_weight=w)
    truth = y if y.ndim == 2 else y[:, None] == np.arange(p.shape[1])
    return np.mean([score(truth[:, c], p[:, c], sample_weight=w) for c in range(p.shape[1]) if truth[:, c].any()])


def sk_log_loss(y, p, w):
    if y.ndim == 2:
        return np.mean([sk.log_loss(y[:, c], p[:, c], sample_weight=w, labels=[0, 1]) for c in range(y.shape[1])])
    return sk.log_loss(y, p, sample_weight=w, labels=range(2 if p.ndim == 1 else p.shape[1]))


def sk_brier(y, p, w):
    if y.ndim == 2:
        return np.mean([sk.brier_score_loss(y[:, c], p[:, c], sample_weight=w, labels=[0, 1]) for c in range(CLASSES)])
    return sk.brier_score_loss(y, p, sample_weight=w, labels=range(2 if p.ndim == 1 else p.shape[1]))


def sk_f(beta, average, y, p, w):
    return sk.fbeta_score(y, p, beta=beta, average=average, sample_weight=w, zero_division=0)


REFERENCE = {
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p, sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p, sample_weight=w),
    "log_loss": sk_log_loss,
    "brier": sk_brier,
    "roc_auc": partial(per_class, sk.roc_auc_score),
    "average_precision": partial(per_class, sk.average_precision_score),
    "quadratic_kappa": lambda y, p, w: sk.cohen_kappa_score(
        y, p, labels=range(CLASSES), weights="quadratic", sample_weight=w
    ),
    "rmse": lambda y, p, w: sk.mean_squared_error(y, p, sample_weight=w) ** 0.5,
    "mae": lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
    "r2": lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
    **{
        f"f{beta:g}{suffix}": partial(sk_f, beta, average)
        for beta in (0.5, 1.0, 2.0)
        for suffix, average in (("", "binary"), ("_macro", "macro"), ("_micro", "micro"), ("_samples", "samples"))
    },
}


def wanted(metric, task, y, p):
    """Return what scikit-learn wants of a prediction: labels by our default cuts, or one column flattened."""
    if not metric.label:
        return p[:, 0] if task in ("binary", "ordinal") else p
    if task == "ordinal":
        return (p > np.arange(CLASSES - 1) + 0.5).sum(1)
    return {"binary": p[:, 0] > 0.5, "multiclass": p.argmax(1), "multilabel": p > 0.5}[task].astype(int)


@pytest.mark.parametrize("absent", [False, True], ids=["all", "absent"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name, task", CASES)
def test_against_scikit_learn(name, task, weighted, absent):
    metric, cuts = METRICS[name], TASKS[task].default_cuts(CLASSES)
    for seed in range(4):
        y, p = sample(task, seed, absent)
        w = np.random.default_rng(seed).uniform(0.1, 3, len(y)) if weighted else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's word on absent classes
            expected = REFERENCE[name](y, wanted(metric, task, y, p), w)
        assert metric(TASKS[task], y, p, cuts, w) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name, task", CASES)
def test_an_integer_weight_is_a_repeated_row_and_0_a_row_left_out(name, task):
    metric, cuts = METRICS[name], TASKS[task].default_cuts(CLASSES)
    for seed in range(4):
        y, p = sample(task, seed)
        times = np.random.default_rng(seed).integers(0, 3, len(y))
        if y.ndim == 1 and task != "binary":
            times[(y == 1) | (TASKS[task].decide(p, cuts) == 1)] = 0  # a class that only left-out rows have
        repeated = metric(TASKS[task], y.repeat(times, 0), p.repeat(times, 0), cuts)
        assert metric(TASKS[task], y, p, cuts, times.astype(float)) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize("name, task", CASES)
def test_truth_beats_every_prediction(name, task):
    metric, cuts = METRICS[name], TASKS[task].default_cuts(CLASSES)
    y, p = sample(task, 7)
    if task == "multilabel":
        y[~y.any(1), 0] = 1  # F of a row without labels is 0
    exact = np.eye(CLASSES)[y] if task == "multiclass" else y.reshape(len(y), -1).astype(float)
    best = metric(TASKS[task], y, exact, cuts)
    assert best == pytest.approx(1.0 if metric.greater else 0.0, abs=1e-12)
    assert metric.gain(best, metric(TASKS[task], y, p, cuts)) > 0.01


@pytest.mark.parametrize("greater", [True, False])
def test_gain_is_positive_for_better(greater):
    metric = Metric("m", log_loss, False, greater, ("binary",))
    gains = metric.gain(np.array([0.7, 0.2]), 0.5)
    assert gains == pytest.approx([0.2, -0.3] if greater else [-0.2, 0.3])


@given(scored)
def test_auc_counts_pairs_and_survives_monotone_maps(rows):
    y, s = (np.array(v) for v in zip(*rows, strict=True))
    one, auc = np.ones(len(y)), binary_roc_auc(y, s / 8, np.ones(len(y)))
    if len(set(y)) < 2:
        assert np.isnan(auc)
        return
    higher = s[y == 1][:, None] - s[y == 0]
    assert auc == pytest.approx(((higher > 0) + 0.5 * (higher == 0)).mean())
    assert binary_roc_auc(y, np.exp(3.0 * s) - 5, one) == pytest.approx(auc)
    assert binary_roc_auc(1 - y, s / 8, one) == pytest.approx(1 - auc)


@given(scored)
def test_average_precision_by_thresholds(rows):
    y, s = (np.array(v) for v in zip(*rows, strict=True))
    score = binary_average_precision(y, s / 8, np.ones(len(y)))
    if not y.any():
        assert np.isnan(score)
        return
    expected = sum((y[s == t].sum() / y.sum()) * y[s >= t].mean() for t in set(s))
    assert score == pytest.approx(expected)


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
    y, p = sample("multiclass", 0)
    one = np.ones(len(y))
    assert log_loss(y, p * 0.5, one) == pytest.approx(log_loss(y, p, one))


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_ranking_scores_without_any_positive_are_nan(name, task):
    y = np.zeros((3, 2), int) if task == "multilabel" else np.array([0, 0, 0])
    p = np.array([[0.1, 0.9], [0.5, 0.5], [0.6, 0.4]])
    score = METRICS[name](TASKS[task], y, p, TASKS[task].default_cuts(2))
    assert np.isnan(score) or (name, task, score) == ("average_precision", "multiclass", 1.0)


@pytest.mark.parametrize("value", [0.1, 1e9, 0.0])
@pytest.mark.parametrize("n", [2, 3, 1000])
def test_r2_of_a_constant_target_is_nan(value, n):
    y = np.column_stack([np.full(n, value), np.arange(n)])
    assert np.isnan(r2(y, y + 1, np.ones(n)))
    weight = np.r_[0.0, np.linspace(0.1, 0.7, n)]
    assert np.isnan(r2(np.r_[value + 1, np.full(n, value)][:, None], np.zeros((n + 1, 1)), weight))


def test_get_metric():
    assert get_metric("roc_auc", TASKS["binary"]) is METRICS["roc_auc"]
    with pytest.raises(UserError, match="unknown metric 'roc_acu'; did you mean 'roc_auc'"):
        get_metric("roc_acu", TASKS["binary"])
    with pytest.raises(UserError, match=r"'rmse' does not fit a binary task; choices: accuracy, .*roc_auc"):
        get_metric("rmse", TASKS["binary"])
    with pytest.raises(UserError, match=r"must be a pipeline.scoring.metrics.Metric, not function"):
        get_metric("pipeline.scoring.metrics:log_loss", TASKS["binary"])
