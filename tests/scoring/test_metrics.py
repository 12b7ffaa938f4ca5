import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
from problems import CASES
from scipy import stats

from pipeline.masks.metrics import MASK_METRICS
from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.classification import log_loss
from pipeline.scoring.metrics import METRICS, Metric, get_metric, metric_of
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

CLASSES = 4


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


def sk_top(k, y, p, w):
    # Of equals scikit-learn takes the last, we the first.
    last = p.shape[1] - 1
    return sk.top_k_accuracy_score(last - y, p[:, ::-1], k=k, sample_weight=w, labels=range(last + 1))


def apk(k, y, p, w):
    """The average precision at k as Kaggle's kernels have it."""
    scores = []
    for truth, row in zip(y, p, strict=True):
        predicted, hits, score = np.argsort(-row, kind="stable")[:k].tolist(), 0.0, 0.0
        for i, label in enumerate(predicted):
            if label == truth and label not in predicted[:i]:
                hits += 1.0
                score += hits / (i + 1.0)
        scores.append(score)
    return np.average(scores, weights=w)


def per_target(score, y, p, w):
    y, p = y.reshape(len(y), -1), p.reshape(len(p), -1)
    return np.mean([score(y[:, t], p[:, t], w) for t in range(y.shape[1])])


def correlation(a, b, w):
    covariance = np.cov(a, b, aweights=np.ones(len(a)) if w is None else w)
    return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def rank_correlation(a, b, w):
    """Spearman of rows repeated by their weights in thousandths, so that scipy knows the weights."""
    if w is None:
        return stats.spearmanr(a, b).statistic
    times = np.round(w * 1000).astype(int)
    return stats.spearmanr(a.repeat(times), b.repeat(times)).statistic


def sk_balanced_log_loss(y, p, w):
    w, wide = np.ones(len(y)) if w is None else w, p if p.ndim == 2 else np.column_stack([1 - p, p])
    here = [c for c in range(wide.shape[1]) if (y == c).any()]
    return np.mean(
        [sk.log_loss(y[y == c], wide[y == c], sample_weight=w[y == c], labels=range(wide.shape[1])) for c in here]
    )


def sk_weighted_auc(y, p, w):
    """Along scikit-learn's curve, segment by segment: what lies right of it between two true positive rates."""
    alarms, hits, _ = sk.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
    total = 0.0
    for x0, x1, t0, t1 in zip(alarms, alarms[1:], hits, hits[1:], strict=False):
        for low, high, times in ((0, 0.4, 2), (0.4, 1, 1)):
            start, end = max(t0, low), min(t1, high)
            if end > start:
                middle = x0 + (x1 - x0) * ((start + end) / 2 - t0) / (t1 - t0)
                total += times * (end - start) * (1 - middle)
    return total / 1.4


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
    "linear_kappa": lambda y, p, w: sk.cohen_kappa_score(
        y, p, labels=range(CLASSES), weights="linear", sample_weight=w
    ),
    "balanced_log_loss": sk_balanced_log_loss,
    "kl_divergence": sk_log_loss,
    "weighted_auc": sk_weighted_auc,
    **{f"map_at_{k}": partial(apk, k) for k in (3, 5)},
    "top_3_accuracy": partial(sk_top, 3),
    "mcrmse": partial(per_target, lambda y, p, w: sk.root_mean_squared_error(y, p, sample_weight=w)),
    **{
        f"pinball_{q:g}": partial(lambda q, y, p, w: sk.mean_pinball_loss(y, p, sample_weight=w, alpha=q), q)
        for q in (0.1, 0.5, 0.9)
    },
    "pearson": partial(per_target, correlation),
    "spearman": partial(per_target, rank_correlation),
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
        w = np.random.default_rng(seed).uniform(0.1, 3, len(y)).round(3) if weighted else None
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


def test_get_metric():
    assert get_metric("roc_auc", TASKS["binary"]) is METRICS["roc_auc"]
    with pytest.raises(UserError, match="unknown metric 'roc_acu'; did you mean 'roc_auc'"):
        get_metric("roc_acu", TASKS["binary"])
    with pytest.raises(UserError, match=r"'rmse' does not fit a binary task; choices: accuracy, .*roc_auc"):
        get_metric("rmse", TASKS["binary"])
    with pytest.raises(UserError, match=r"must be a pipeline.scoring.metrics.Metric, not function"):
        get_metric("pipeline.scoring.classification:log_loss", TASKS["binary"])


def test_families_are_called_by_their_number():
    found = get_metric("map_at_12", TASKS["multiclass"])
    assert found.name == "map_at_12"
    assert get_metric("map_at_12", TASKS["multiclass"]) is found
    assert found.built_in
    y, p = sample("multiclass", 0)
    one = np.ones(len(y))
    assert found.function(y, p, one) == get_metric("map_at_4", TASKS["multiclass"]).function(y, p, one)
    assert get_metric("top_1_accuracy", TASKS["multiclass"]).function(y, p, one) == np.mean(p.argmax(1) == y)
    assert get_metric("pinball_0.25", TASKS["regression"]).name == "pinball_0.25"
    assert get_metric("pinball_.50", TASKS["regression"]) is METRICS["pinball_0.5"]
    for name in ("map_at_0", "map_at_x", "pinball_1.5", "pinball_0.0", "top_3"):
        with pytest.raises(UserError, match="unknown metric"):
            get_metric(name, TASKS["regression"])
    with pytest.raises(UserError, match="'map_at_5' does not fit a binary task"):
        get_metric("map_at_5", TASKS["binary"])


def contract(**settings):
    known = {"task": "multilabel", "metric": "roc_auc", "id": "id", "target": ["a", "b", "c"]}
    return Competition.model_validate(known | settings)


def test_metric_of_a_contract():
    files = CompetitionFiles("toy")
    assert metric_of(contract(), files) is METRICS["roc_auc"]
    assert metric_of(contract(metric_weights={"b": 13.0}), files).shares == (1.0, 13.0, 1.0)
    assert metric_of(contract(metric_per_group=True, group={"column": "g"}), files).grouped
    for settings, said in (
        ({"metric_weights": {"d": 2.0}}, "configs/toy/competition.toml: metric 'roc_auc': metric_weights names 'd'"),
        ({"metric": "f1_micro", "metric_weights": {"a": 2.0}}, "needs a mean over labels or targets"),
        ({"metric": "f1_macro", "soft": True}, "metric 'f1_macro' cannot score soft targets; choices: brier, kl_diver"),
    ):
        with pytest.raises(UserError, match=said):
            metric_of(contract(**settings), files)


def test_a_metric_of_the_users_own_takes_no_unknown_targets(monkeypatch):
    own = Metric("mine", METRICS["roc_auc"].function, False, True, ("multilabel",))
    monkeypatch.setitem(METRICS, "mine", own)
    with pytest.raises(UserError, match="cannot score partly unknown targets"):
        metric_of(contract(metric="mine", unknown="mask"), CompetitionFiles("toy"))
    monkeypatch.setitem(METRICS, "mine", replace(own, unknown="columns"))
    assert metric_of(contract(metric="mine", unknown="mask"), CompetitionFiles("toy")).unknown == "columns"


@pytest.mark.parametrize("name", MASK_METRICS)
def test_metrics_of_masks_score_the_numbers_of_images(name):
    metric, rng = METRICS[name], np.random.default_rng(0)
    masks = rng.random((2, 9, 2, 4, 5)) < 0.5
    masks[1] = masks[0] ^ (rng.random((9, 2, 4, 5)) < 0.1)
    numbers = np.array([MASK_METRICS[name].stats(*pair, *np.int32(pair)[:, 0]) for pair in zip(*masks, strict=True)])
    task, y = TASKS["segmentation"], masks[0].mean((2, 3))
    problem = Problem(task, get_metric(name, task), 2, task.targets(y), np.arange(9) % 3, None, np.arange(9) + 1.0)
    assert not problem.soft
    assert metric.wanted(task, numbers, problem.cuts) is numbers
    assert problem.score(numbers) == MASK_METRICS[name].reduce(numbers, np.arange(9) + 1.0)
    assert (metric.rows is not None) == MASK_METRICS[name].rows
    if metric.rows is not None:
        assert problem.score(numbers) == pytest.approx(np.average(metric.rows(y, numbers), weights=np.arange(9) + 1.0))
    assert standard_error(lambda draws: problem.judge(numbers, draws), 9, None) > 0
