from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.forecast.contributions import contributions, guess_of
from pipeline.forecast.level import _labels, ambiguity, level, row_variance, size_match, size_matched
from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.metrics import METRICS, Metric
from pipeline.scoring.problem import Problem
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

WIDTH = {"multiclass": 4, "multilabel": 3}
METRIC_OF = {task: "rmse" if task in ("ordinal", "regression") else "accuracy" for task in TASKS}


def world(task, n, k=5, noise=1.0, seed=0):
    """Targets and the predictions of k models (N P each) whose mean is about right: logits, or values, plus noise."""
    rng = np.random.default_rng(seed)
    p = WIDTH.get(task, 1)
    truth = rng.normal(size=(n, p)) * 1.5
    drawn = [truth + noise * rng.normal(size=(n, p)) for _ in range(k)]
    if task == "multiclass":
        soft = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (truth, *drawn)]
        return (rng.random((n, 1)) > np.cumsum(soft[0], 1)[:, :-1]).sum(1), soft[1:]
    if TASKS[task].probabilities:
        soft = [1 / (1 + np.exp(-z)) for z in (truth, *drawn)]
        y = (rng.random((n, p)) < soft[0]).astype(int)
        return (y if task == "multilabel" else y[:, 0]), soft[1:]
    y = truth + 0.7 * rng.normal(size=(n, p))
    if task == "ordinal":
        return np.rint(y[:, 0] + 2).clip(0, 4).astype(int), [z + 2 for z in drawn]
    return y, drawn


def problem_of(task, metric, y, group=None):
    classes = {"ordinal": 5, "binary": 2, "regression": 1}.get(task) or WIDTH[task]
    return Problem(TASKS[task], METRICS[metric], classes, y, np.arange(len(y)) % 5, group)


def one_a_row(models, shift=0):
    at = np.arange(len(models[0]))
    return np.stack(models)[(at + shift) % len(models), at]


def cuts_of(problem):
    return problem.task.default_cuts(problem.classes)


def truths(problem, models, cuts=None, moved=None):
    """What one model a row scores on average over the ways to deal rows to models, and what the mean scores."""
    cuts = cuts_of(problem) if cuts is None else cuts
    score = lambda p, c: problem.metric(problem.task, problem.y, p, c)  # noqa: E731
    singles = [score(one_a_row(models, s), cuts) for s in range(len(models))]
    return float(np.mean(singles)), score(np.mean(models, 0), cuts if moved is None else moved)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_ambiguity_of_squared_errors_is_an_identity(k, width, seed):
    rng = np.random.default_rng(seed)
    models, y = [rng.normal(size=(7, width)) for _ in range(k)], rng.normal(size=(7, width)) * 9
    single = np.mean([((m - y) ** 2).mean(0) for m in models], 0)
    assert ambiguity(models, np.mean(models, 0)) == pytest.approx(single - ((np.mean(models, 0) - y) ** 2).mean(0))


@pytest.mark.parametrize(
    "task, metric",
    [
        ("regression", "rmse"),
        ("ordinal", "rmse"),
        ("binary", "brier"),
        ("multilabel", "brier"),
        ("multiclass", "brier"),
    ],
)
def test_squared_metrics_are_matched_exactly(task, metric):
    y, models = world(task, 60)
    problem, k = problem_of(task, metric, y), len(models)
    # All models on all rows: the average of the metric's squares over the ways to deal rows to models.
    tall = problem_of(task, metric, np.concatenate([y] * k))
    single = tall.metric(tall.task, tall.y, np.concatenate(models), cuts_of(tall))
    match = size_match(problem, single, models, np.mean(models, 0), cuts_of(problem))
    assert match.exact
    assert match.se == 0
    assert single + match.gain == pytest.approx(truths(problem, models)[1], abs=1e-12)


def test_r2_is_matched_exactly():
    y, models = world("regression", 80)
    problem = problem_of("regression", "r2", y)
    tall = problem_of("regression", "r2", np.concatenate([y] * 5))
    single = tall.metric(tall.task, tall.y, np.concatenate(models), np.zeros(0))
    match = size_match(problem, single, models, np.mean(models, 0), np.zeros(0))
    assert single + match.gain == pytest.approx(truths(problem, models)[1])


@pytest.mark.parametrize(
    "task, metric",
    [
        ("multiclass", "accuracy"),
        ("multiclass", "log_loss"),
        ("multiclass", "roc_auc"),
        ("multiclass", "f1_macro"),
        ("binary", "accuracy"),
        ("binary", "average_precision"),
        ("multilabel", "log_loss"),
        ("multilabel", "f1_micro"),
        ("ordinal", "quadratic_kappa"),
        ("ordinal", "mae"),
        ("regression", "mae"),
    ],
)
def test_other_metrics_are_matched_by_estimate(task, metric):
    # 20,000 rows, so that what is to be estimated is known; the estimate sees 2,000 of them without their labels.
    y, models = world(task, 20_000)
    problem = problem_of(task, metric, y)
    single, mean = truths(problem, models)
    seen = [m[:2000] for m in models]
    match = size_match(problem, single, seen, np.mean(seen, 0), cuts_of(problem))
    assert not match.exact
    assert match.gain * (mean - single) > 0
    assert abs(match.gain - (mean - single)) < max(2 * match.se, 0.003), (match, mean - single)
    assert abs(mean - single) > 0.01


def test_another_submission_than_the_mean_gains_less():
    rng = np.random.default_rng(0)
    models = [rng.normal(size=(50, 2)) for _ in range(3)]
    mean, other = np.mean(models, 0), rng.normal(size=(50, 2))
    less = ambiguity(models, mean) - ((other - mean) ** 2).mean(0)
    assert ambiguity(models, other) == pytest.approx(less)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_labels_scatter_about_the_mean_by_their_sharpness(task):
    _, models = world(task, 400)
    problem, mean, row = problem_of(task, METRIC_OF[task], np.zeros(1)), models[0], np.arange(400)
    u = np.random.default_rng(0).random((400, mean.shape[1]))
    decided = problem.task.decide(mean, cuts_of(problem))
    # The sharper, the nearer to what is decided.
    far = [np.abs(_labels(problem.task, mean, u, row, s, problem.classes) - decided).mean() for s in (0.2, 1, 5, 32)]
    assert far[0] > far[1] > far[2] > far[3]
    assert far[3] < 0.06
    if problem.task.probabilities:
        as_said = _labels(problem.task, np.tile(mean[:1], (400, 1)), u, row, 1.0, problem.classes)
        hot = np.eye(4)[as_said] if task == "multiclass" else as_said.reshape(400, -1)
        assert hot.mean(0) == pytest.approx(mean[0], abs=0.08)


def test_tuned_cuts_move_with_the_mean():
    y, models = world("ordinal", 20_000, noise=1.5)
    problem, cuts = problem_of("ordinal", "quadratic_kappa", y), np.array([-0.2, 1.0, 2.9, 4.3])
    mean = np.mean(models, 0)
    moved = match_ensemble(problem.task, cuts, models, mean)
    single, both = truths(problem, models, cuts, moved)
    match = size_match(problem, single, models, mean, cuts)
    unmoved = truths(problem, models, cuts)[1] - single
    assert abs(match.gain - (both - single)) < abs(match.gain - unmoved)


@pytest.mark.parametrize("task, metric", [("multiclass", "accuracy"), ("ordinal", "mae"), ("regression", "r2")])
def test_models_that_agree_gain_nothing(task, metric):
    y, models = world(task, 50)
    problem = problem_of(task, metric, y)
    for same in (models[:1], [models[0]] * 3):
        match = size_match(problem, 0.5, same, same[0], cuts_of(problem))
        assert match.gain == pytest.approx(0, abs=1e-12)


def test_the_order_of_rows_does_not_matter():
    y, models = world("multiclass", 333)
    problem, order = problem_of("multiclass", "accuracy", y), np.random.default_rng(1).permutation(333)
    there = size_match(problem, 0.6, models, np.mean(models, 0), np.zeros(0))
    again = size_match(problem, 0.6, [m[order] for m in models], np.mean(models, 0)[order], np.zeros(0))
    assert there.gain == again.gain != 0


def test_row_variance_is_what_a_bootstrap_tends_to():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 30, 300)
    values, weight = rng.normal(size=300) + 2 * rng.normal(size=30)[group], rng.random(300)
    for groups, w in ((None, np.ones(300)), (group, np.ones(300)), (group, weight)):
        error = standard_error(lambda drawn, w=w: np.average(values, weights=drawn * w), 300, groups)
        assert row_variance(values, groups, w) ** 0.5 == pytest.approx(error, rel=0.1)


def test_row_variance_of_ungrouped_rows_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=7)
    assert row_variance(values, None, np.ones(7)) == pytest.approx(values.var(ddof=1) / 7)


def with_scores(task="binary", metric="accuracy", n=400, group=None, **how):
    y, models = world(task, n, **how)
    problem = problem_of(task, metric, y, group)
    oof = one_a_row(models)
    rows = contributions(problem, guess_of(problem, oof))

    def score(w):
        return problem.metric(problem.task, y, oof, cuts_of(problem), w)

    return problem, score(np.ones(n)), standard_error(score, n, group), rows


@pytest.mark.parametrize(
    "task, metric",
    [("binary", "accuracy"), ("regression", "rmse"), ("ordinal", "quadratic_kappa"), ("multiclass", "roc_auc")],
)
def test_without_a_predictor_the_level_is_cv(task, metric):
    problem, score, se, rows = with_scores(task, metric)
    one = level(problem, score, se, rows)
    assert one.score == score
    assert one.se == pytest.approx(se, rel=0.02)
    assert (one.known, one.doubt) == (0, 0)
    # The spread of one row over the rows is the error of their mean.
    assert (one.spread / len(rows)) ** 0.5 == pytest.approx(se)


def test_few_groups_are_less_sure_than_they_look():
    problem, score, se, rows = with_scores(group=np.arange(400) // 50)
    assert level(problem, score, se, rows).se == pytest.approx(se * (7 / 5) ** 0.5)


@pytest.mark.parametrize("metric, least", [("accuracy", 0.05), ("roc_auc", 0.001)])
def test_a_perfect_score_is_not_certain(metric, least):
    problem = problem_of("binary", metric, np.arange(20) % 2)
    assert level(problem, 1.0, 0.0, np.ones(20)).se >= 0.9 * least / (1 if metric == "accuracy" else 2)


def test_losses_have_no_such_floor():
    assert level(problem_of("regression", "mae", np.zeros((20, 1))), 0.1, 0.0, np.full(20, 0.1)).se == 0


def test_contributions_that_cannot_be_had_leave_cv():
    problem, score, se, rows = with_scores(metric="roc_auc")
    one = level(problem, score, se, np.full(len(rows), np.nan), rows, rows)
    assert (one.score, one.known) == (score, 0)
    assert one.se == pytest.approx(se, rel=0.02)


def predicted(n, n_test, harder, seed):
    """Rows that are right with a known probability, and test rows that are harder by so much."""
    rng = np.random.default_rng(seed)
    p, q = (1 / (1 + np.exp(-rng.normal(1.5 - less, 1.5, size))) for size, less in ((n, 0), (n_test, harder)))
    return (rng.random(n) < p).astype(float), p, q


@pytest.mark.parametrize("harder", [0.0, 1.0])
def test_a_predictor_moves_the_level_to_the_test_rows(harder):
    off, errors, plain, doubt, told = [], [], [], [], []
    for seed in range(60):
        rows, p, q = predicted(300, 500, harder, seed)
        problem = problem_of("binary", "accuracy", np.zeros(300, int))
        se = (rows.mean() * (1 - rows.mean()) / 300) ** 0.5
        one = level(problem, rows.mean(), se, rows, p, q)
        off.append(one.score - q.mean())
        errors.append(one.se)
        plain.append(rows.mean() - q.mean())
        doubt.append(one.doubt)
        assert one.spread + np.var(p) == pytest.approx(rows.var(), rel=0.3)
        told.append(one.known / np.var(q))
    assert 0.8 < np.mean(told) < np.max(told) == pytest.approx(1, rel=0.01)
    assert abs(np.mean(off)) < 4 * np.std(off) / 60**0.5
    assert 0.75 * np.mean(errors) < np.std(off) < 1.3 * (np.mean(errors) ** 2 + np.mean(doubt)) ** 0.5
    # It is surer than CV even where nothing is shifted.
    assert np.mean(np.square(off)) < 0.75 * np.mean(np.square(plain))
    # Where it moves the level by more than chance it is doubted, by as much.
    assert (np.mean(doubt) > 0.01) == (harder > 0)
    assert (np.median(doubt) == 0) == (harder == 0)


def test_weights_make_scored_rows_look_like_test():
    rows, p, _ = predicted(500, 1, 0.0, 3)
    weight = np.where(p < 0.5, 4.0, 0.5)
    problem = problem_of("binary", "accuracy", np.zeros(500, int))
    one = level(problem, rows.mean(), 0.02, rows, weight=weight)
    unit = 0.02 / row_variance(rows, None, np.ones(500)) ** 0.5
    assert one.score == pytest.approx(rows.mean() + unit * (np.average(rows, weights=weight) - rows.mean()))
    assert one.se > 0.02


def test_squares_of_rmse_are_taken_in_its_units():
    problem, score, se, rows = with_scores("regression", "rmse", n=2000)
    more = rows.mean() * np.r_[np.full(150, 1.0), np.full(150, 1.2)]
    one = level(problem, score, se, rows, rows, more)
    # A tenth more squared error is a twentieth more of its root.
    assert one.score == pytest.approx(1.05 * score, rel=0.01)
    assert one.known**0.5 == pytest.approx(0.05 * score, rel=0.1)
    assert one.spread == pytest.approx(0, abs=1e-12)


def test_a_predictor_of_noise_adds_none():
    rng = np.random.default_rng(0)
    rows, noise = (rng.random(300) < 0.8).astype(float), rng.normal(size=700)
    problem = problem_of("binary", "accuracy", np.zeros(300, int))
    plain = level(problem, rows.mean(), 0.02, rows)
    for wrong in (noise, -rows.mean() * noise, np.r_[-rows, noise[:400]], np.full(700, 0.3)):
        one = level(problem, rows.mean(), 0.02, rows, wrong[:300], wrong[300:])
        assert one.se <= plain.se * 1.0001
        assert one.score == pytest.approx(plain.score, abs=0.002)


def test_a_score_is_printed_beside_that_of_the_mean():
    y, models = world("regression", 200)
    problem = problem_of("regression", "rmse", y)
    single, whole = truths(problem, models)
    report = size_matched(problem, {"score": single, "se": 0.02}, None, models, np.mean(models, 0))
    assert report["score"] == single
    assert report["size_matched"] == {"score": pytest.approx(whole, rel=0.02), "se": pytest.approx(0.02), "models": 5}
    y, models = world("multiclass", 200, noise=0.3)
    report = size_matched(problem_of("multiclass", "accuracy", y), {"score": 1.0, "se": 0.0}, None, models, models[0])
    assert 0.9 < report["size_matched"]["score"] <= 1


def soft_problem(metric, seed=0, n=300):
    """Soft classes and three models that see them through noise of their own."""
    rng = np.random.default_rng(seed)
    y = rng.dirichlet(np.full(4, 0.5), n)
    said = [np.exp(np.log(y + 0.05) + 0.8 * rng.normal(size=y.shape)) for _ in range(3)]
    models = [p / p.sum(1, keepdims=True) for p in said]
    problem = Problem(TASKS["multiclass"], METRICS[metric], 4, y, np.arange(n) % 5, None)
    return problem, models, np.mean(models, 0)


@pytest.mark.parametrize("metric", ["kl_divergence", "log_loss", "brier"])
def test_the_mean_of_soft_classes(metric):
    problem, models, mean = soft_problem(metric)
    one = float(np.mean([problem.score(p) for p in models]))
    match, real = size_match(problem, one, models, mean, np.zeros(0)), problem.score(mean) - one
    assert match.exact == (metric == "brier")
    assert match.gain == pytest.approx(real, rel=1e-9 if match.exact else 0.5)
    if metric == "kl_divergence":
        # The entropy of the targets is no gain: both metrics gain the same.
        loss = replace(problem, metric=METRICS["log_loss"])
        entropy = loss.score(problem.y)
        assert match.gain == pytest.approx(size_match(loss, one + entropy, models, mean, np.zeros(0)).gain)


def test_a_metric_file_that_cannot_score_drawn_labels_foretells_no_gain():
    def file(y, p, weight):
        raise UserError("only as many rows as the test set has")

    problem, models, mean = soft_problem("log_loss")
    mine = Metric("metric.py", file, False, False, ("multiclass",), draws=True)
    for y in (problem.y, problem.hard):
        assert size_match(replace(problem, metric=mine, y=y), 0.7, models, mean, np.zeros(0)).gain == 0


def test_weights_of_columns_are_not_those_of_the_exact_formula():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2)) * [1, 10]
    models = [y + rng.normal(size=y.shape) * [1, 10] for _ in range(3)]
    problem = Problem(TASKS["regression"], METRICS["rmse"], 2, y, np.arange(200) % 5, None)
    assert size_match(problem, 7.0, models, np.mean(models, 0), np.zeros(0)).exact
    shared = replace(problem, metric=replace(METRICS["mcrmse"], shares=(1.0, 3.0)))
    assert not size_match(shared, 7.0, models, np.mean(models, 0), np.zeros(0)).exact
    lacking = replace(problem, y=np.where(rng.random(y.shape) < 0.2, np.nan, y))
    assert not size_match(lacking, 7.0, models, np.mean(models, 0), np.zeros(0)).exact
