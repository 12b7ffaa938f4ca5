from dataclasses import replace

import numpy as np
import pytest
from test_thresholds import EXACT, places

from pipeline.scoring.cuts import (
    RARE,
    crossfit,
    fit,
    match_ensemble,
    optimal_cuts,
    ratio_cuts,
)
from pipeline.scoring.metrics import METRICS, Metric
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

BINARY, LABELS, ORDINAL = TASKS["binary"], TASKS["multilabel"], TASKS["ordinal"]


def problem(task, metric, y, classes=None, folds=3, seed=0):
    classes = classes or (y.shape[1] if y.ndim == 2 else int(y.max()) + 1)
    found = METRICS[metric] if isinstance(metric, str) else metric
    return Problem(TASKS[task], found, classes, y, np.random.default_rng(seed).integers(0, folds, len(y)), None)


def sample(task, n=600, seed=0):
    """Informative but miscalibrated predictions: the default cuts are far from the best."""
    rng = np.random.default_rng(seed)
    if task == "ordinal":
        y = rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
        return y, (0.6 * y + 0.5 + 0.4 * rng.normal(size=n))[:, None]
    y = (rng.random((n, 3)) < [0.15, 0.3, 0.5]).astype(int)
    p = 1 / (1 + np.exp(2 - 1.5 * y - rng.normal(size=y.shape)))
    return (y[:, 1], p[:, 1:2]) if task == "binary" else (y, p)


@pytest.mark.parametrize("task", ["binary", "multilabel", "ordinal"])
def test_ratio_cuts_leave_as_many_rows_above_as_the_labels_have(task):
    y, p = sample(task)
    cuts = ratio_cuts(problem(task, "accuracy", y), p)
    labels = TASKS[task].decide(p, cuts)
    if task == "ordinal":
        assert np.bincount(labels).tolist() == np.bincount(y).tolist()
        assert (np.diff(cuts) > 0).all()
    else:
        assert (labels.sum(0) == y.sum(0)).all()


@pytest.mark.parametrize(
    "task, name",
    [
        *EXACT,
        ("multilabel", "accuracy"),
        ("multilabel", "f1_micro"),
        ("multilabel", "f2_samples"),
        *(("ordinal", name) for name in ("quadratic_kappa", "accuracy", "balanced_accuracy", "f1_macro")),
    ],
)
def test_optimal_beats_fixed_and_ratio_on_its_own_rows(task, name):
    y, p = sample(task)
    asked = problem(task, name, y)
    cuts = optimal_cuts(asked, p)
    fixed = TASKS[task].default_cuts(asked.classes)
    best = asked.metric(asked.task, y, p, cuts)
    assert best > asked.metric(asked.task, y, p, fixed)
    if task == "ordinal":  # the search moves on from its better start
        assert best > asked.metric(asked.task, y, p, ratio_cuts(asked, p))
    if task == "binary":
        assert best >= asked.metric(asked.task, y, p, ratio_cuts(asked, p))


def test_pooled_threshold_tries_one_half():
    y = np.zeros((2000, 2), int)
    y[:3] = 1
    p = np.where(y, 0.9, np.random.default_rng(0).uniform(0, 0.499, y.shape))
    # Only cuts in 0.499 .. 0.9 are right, and the highest quantile tried lies below them.
    asked = problem("multilabel", "accuracy", y)
    assert asked.metric(LABELS, y, p, optimal_cuts(asked, p)) == 1


@pytest.mark.parametrize("greater", [True, False])
def test_a_metric_of_the_user(greater):
    def share(y, p, weight):
        assert y.shape == p.shape == weight.shape
        return float(np.average((y == p) == greater, weights=weight))

    y, p = sample("binary")
    asked = problem("binary", Metric("mine", share, label=True, greater=greater, tasks=("binary",)), y)
    right = METRICS["accuracy"](BINARY, y, p, optimal_cuts(asked, p))
    assert right == pytest.approx(max(((p[:, 0] > c) == y).mean() for c in places(p)), abs=0.01)


@pytest.mark.parametrize("name", ["f1_macro", "f1"])
def test_rare_labels_fall_back_to_ratio(name):
    y, p = sample("multilabel")
    y[np.flatnonzero(y[:, 0])[RARE - 1 :], 0] = 0
    if name == "f1":
        y, p = y[:, 0], p[:, :1]
    asked = problem("multilabel" if y.ndim == 2 else "binary", name, y)
    optimal, ratio = optimal_cuts(asked, p), ratio_cuts(asked, p)
    assert y.reshape(len(y), -1)[:, 0].sum() == RARE - 1
    assert optimal[0] == ratio[0]
    assert (optimal[1:] != ratio[1:]).all()


@pytest.mark.parametrize("method", ["fixed", "ratio", "optimal", "auto"])
@pytest.mark.parametrize(
    "task, name",
    [("binary", "f1"), ("multilabel", "f1_macro"), ("multilabel", "f1_micro"), ("ordinal", "quadratic_kappa")],
)
def test_no_fold_sees_its_own_labels(task, name, method):
    y, p = sample(task)
    before = problem(task, name, y)
    own = before.folds == 1
    changed = y.copy()
    changed[own] = np.random.default_rng(1).permutation(y[own])
    after = Problem(before.task, before.metric, before.classes, changed, before.folds, None)
    one, other = (crossfit(asked, method, lambda _: p) for asked in (before, after))
    assert (one.by_fold[1] == other.by_fold[1]).all()
    assert (one.labels[own] == other.labels[own]).all()
    assert one.methods[1] == other.methods[1]
    if method == "optimal":
        assert (one.by_fold[0] != other.by_fold[0]).any()


@pytest.mark.parametrize("task", ["binary", "multilabel", "ordinal"])
def test_crossfit_gives_every_fold_its_view(task):
    y, p = sample(task)
    asked = problem(task, "accuracy", y)
    decision = crossfit(asked, "ratio", lambda k: p + (10 if k is None else k))
    assert set(decision.by_fold) == {0, 1, 2}
    assert (decision.cuts == ratio_cuts(asked, p + 10)).all()
    assert decision.method == "ratio"
    for k, cuts in decision.by_fold.items():
        mine = asked.folds == k
        assert (cuts == ratio_cuts(asked.part(~mine), p[~mine] + k)).all()
        assert (decision.labels[mine] == asked.task.decide(p[mine] + k, cuts)).all()
    assert decision.labels.shape == y.shape
    assert np.issubdtype(decision.labels.dtype, np.integer)


def test_auto_adopts_a_real_gain():
    for task, name in (("binary", "f1"), ("ordinal", "quadratic_kappa")):
        y, p = sample(task)
        cuts, method = fit(problem(task, name, y), "auto", np.ones(len(y), bool), p)
        assert method != "fixed"
        assert (cuts != TASKS[task].default_cuts(4)).all()


def test_auto_keeps_fixed_without_folds_to_compare_on():
    y, p = sample("binary")
    asked = problem("binary", "f1", y)
    assert fit(asked, "auto", asked.folds == 1, p)[1] == "fixed"


def test_auto_resamples_groups():
    y, p = sample("binary", 60, seed=5)
    times = 40
    y, p, unit = y.repeat(times), p.repeat(times, 0), np.arange(60).repeat(times)
    folds = unit % 3
    methods = [
        fit(Problem(BINARY, METRICS["f1"], 2, y, folds, group), "auto", np.ones(len(y), bool), p)[1]
        for group in (None, unit)
    ]
    # Forty copies look like proof to a gate over rows; over groups there are only 60 cases.
    assert methods[0] != "fixed"
    assert methods[1] == "fixed"


def test_auto_adopts_noise_in_5_percent_at_most():
    rng, n, trials = np.random.default_rng(0), 300, 200
    y, p, everything = np.arange(n) % 2, rng.random((n, 1)), np.ones(n, bool)
    methods = [fit(problem("binary", "accuracy", rng.permutation(y)), "auto", everything, p)[1] for _ in range(trials)]
    assert sum(method != "fixed" for method in methods) <= 0.05 * trials


@pytest.mark.parametrize("task", ["binary", "multilabel", "ordinal"])
def test_match_ensemble_keeps_the_share_beyond_each_cut(task):
    y, p = sample(task, 1000)
    models = [p + s * np.random.default_rng(k).normal(size=p.shape) for k, s in enumerate((0.3, 0.5, 1.0))]
    mean = np.mean(models, 0)
    cuts = ratio_cuts(problem(task, "accuracy", y), models[0])
    moved = match_ensemble(TASKS[task], cuts, models, mean)
    column = (lambda v: np.repeat(v, len(cuts), 1)) if task == "ordinal" else (lambda v: v)
    wanted = np.mean([(column(m) > cuts).mean(0) for m in models], 0)
    assert (column(mean) > moved).mean(0) == pytest.approx(wanted, abs=0.5 / 1000 + 1e-12)
    assert ((column(mean) > moved).mean(0) != (column(mean) > cuts).mean(0)).any()


def test_match_ensemble_of_one_model_and_without_cuts():
    p, cuts = sample("ordinal")[1], ORDINAL.default_cuts(4)
    moved = match_ensemble(ORDINAL, cuts, [p, p], p)
    assert (ORDINAL.decide(p, moved) == ORDINAL.decide(p, cuts)).all()
    assert match_ensemble(TASKS["multiclass"], np.zeros(0), [p], p).size == 0


WEIGHTED = [*EXACT, ("ordinal", "quadratic_kappa"), ("ordinal", "linear_kappa"), ("multilabel", "f1_micro")]


@pytest.mark.parametrize("method", ["ratio", "optimal"])
@pytest.mark.parametrize("task, name", WEIGHTED)
def test_a_whole_weight_is_a_repeated_row(task, name, method):
    y, p = sample(task, 400 if task != "multilabel" else 900)  # no label is rare
    times = np.random.default_rng(1).integers(0, 3, len(y))
    rows = np.arange(len(y)).repeat(times)
    asked = problem(task, name, y)
    weighted = replace(asked, weight=times.astype(float))
    repeated = asked.part(rows)
    # A row that weighs nothing has no place among those between which a cut is put; what is decided is the same.
    seen = times > 0
    cuts = fit(weighted, method, seen, p)[0]
    want = fit(repeated, method, np.ones(len(rows), bool), p[rows])[0]
    score = weighted.score(p, cuts), repeated.score(p[rows], want)
    if method == "ratio" or (task, name) in EXACT:
        assert cuts == pytest.approx(want)
    assert score[0] == pytest.approx(score[1], abs=0.02)


@pytest.mark.parametrize("method", ["ratio", "optimal"])
def test_unknown_labels_do_not_move_a_threshold(method):
    y, p = sample("multilabel")
    hidden = np.random.default_rng(1).random(y.shape) < 0.4
    asked = problem("multilabel", "f1_macro", np.where(hidden, np.nan, y))
    cuts = fit(asked, method, np.ones(len(y), bool), p)[0]
    for c in range(3):
        known = ~hidden[:, c]
        alone = problem("multilabel", "f1_macro", y[known][:, [c]])
        assert cuts[c] == fit(alone, method, np.ones(known.sum(), bool), p[known][:, [c]])[0][0]


def test_a_mean_over_groups_has_no_exact_threshold():
    y, p = sample("binary", 300)
    blocks = np.arange(300) % 4
    asked = problem("binary", "f1", y)
    grouped = replace(asked, metric=replace(asked.metric, grouped=True), blocks=blocks)
    best = grouped.score(p, optimal_cuts(grouped, p))
    assert best >= max(grouped.score(p, [cut]) for cut in np.quantile(p, np.linspace(0.1, 0.9, 9))) - 0.01
    assert best >= grouped.score(p)
