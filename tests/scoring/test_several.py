"""The metric, cuts and blends of several targets against those of each target alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FIVE_TARGETS

from pipeline.scoring import cuts as cutting
from pipeline.scoring.blend import Blend
from pipeline.scoring.metrics import get_metric, metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words, score_run
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS, task_of

N = 60
FIVE = [
    {"target": "kind", "task": "multiclass", "metric": "balanced_accuracy", "share": 2.0},
    {"target": ["a", "b"], "task": "regression", "metric": "rmse", "weight": 3.0},
    {"target": "grade", "task": "ordinal", "metric": "quadratic_kappa"},
    {"target": "sex", "task": "binary", "metric": "log_loss", "share": 0.5},
    {"target": "tags", "task": "multilabel", "metric": "f1_macro", "separator": " "},
]
CLASSES = FIVE_TARGETS
COUNTS = [3, 2, 4, 2, 2]


def posed(targets=FIVE, classes=CLASSES, seed=0, weighted=False, grouped=False):
    """A problem of several targets, a prediction (N P), and both as each target alone would have them."""
    config = Competition(task="several", id="id", targets=targets, group={"column": "g"}, metric_per_group=grouped)
    task, metric = task_of(config, classes), metric_of(config, CompetitionFiles("x"))
    rng, alone, ys, ps = np.random.default_rng(seed), [], [], []
    folds = np.arange(N) % 3
    weight = rng.choice([0.5, 1.0, 2.0], N) if weighted else None
    blocks = rng.integers(0, 4, N).astype(str) if grouped else None
    for part, piece in zip(config.targets, task.pieces, strict=True):
        c = piece.classes
        if part.task == "multiclass":
            y, p = rng.integers(0, c, N), rng.dirichlet(np.ones(c), N)
        elif part.task == "multilabel":
            y, p = rng.integers(0, 2, (N, c)), rng.random((N, c))
        elif part.task == "regression":
            y, p = rng.normal(size=(N, c)), rng.normal(size=(N, c))
        else:
            y = rng.integers(0, c, N)
            p = ((y + rng.normal(0, 0.6, N)) if c > 2 else (y + rng.random(N)) / 2)[:, None]
        ys, ps = [*ys, y.reshape(N, -1)], [*ps, p]
        one = get_metric(part.metric, TASKS[part.task])
        alone.append(Problem(TASKS[part.task], one, c, y, folds, None, weight, blocks))
    problem = Problem(task, metric, len(classes), np.column_stack(ys).astype(float), folds, None, weight, blocks)
    return problem, np.column_stack(ps), alone, ps


def test_columns_of_the_pieces():
    problem = posed()[0]
    pieces = problem.task.pieces
    assert [piece.classes for piece in pieces] == COUNTS
    assert [piece.name for piece in pieces] == ["kind", "a+b", "grade", "sex", "tags"]
    for name, widths in {"y": [1, 2, 1, 1, 2], "p": [3, 2, 1, 1, 2], "cuts": [0, 0, 3, 1, 2], "names": COUNTS}.items():
        ends = np.cumsum(widths).tolist()
        assert [getattr(piece, name) for piece in pieces] == [
            slice(e - w, e) for e, w in zip(ends, widths, strict=True)
        ]
    assert problem.task.width(len(CLASSES)) == 9
    assert problem.cuts.tolist() == [0.5, 1.5, 2.5, 0.5, 0.5, 0.5]
    assert problem.task.cut_columns(6) == [5, 5, 5, 6, 7, 8]
    assert problem.task.cuts
    assert not problem.task.probabilities
    assert not task_of(Competition(task="several", id="id", targets=FIVE[:2]), CLASSES[:5]).cuts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_score_is_the_mean_of_the_parts(weighted, grouped):
    problem, p, alone, ps = posed(weighted=weighted, grouped=grouped)
    draws = np.random.default_rng(1).integers(0, 3, N).astype(float)
    for drawn in (None, draws):
        each = [part.score(q, draws=drawn) for part, q in zip(alone, ps, strict=True)]
        if grouped and drawn is not None:
            continue  # the mean over groups of the mean is not the mean of the means where one has no score
        expected = (2 * each[0] - each[1] + each[2] - 0.5 * each[3] + each[4]) / 5.5
        assert problem.score(p, draws=drawn) == pytest.approx(expected, rel=1e-12)
    told = score_run(problem, p, "fixed", lambda k: p)[0]
    for name, part, q in zip(["kind", "a+b", "grade", "sex", "tags"], alone, ps, strict=True):
        assert told["parts"][name] == {"metric": part.metric.name, "score": pytest.approx(part.score(q), rel=1e-12)}
    assert f"sex log_loss {alone[3].score(ps[3]):.4f}" in in_words(told)


@pytest.mark.parametrize(
    "parts, greater, signs", [([1, 3], False, [1, 1]), ([0, 2], True, [1, 1]), ([1, 2], True, [-1, 1])]
)
def test_direction(parts, greater, signs):
    names = [name for at in parts for name in (CLASSES[:3], CLASSES[3:5], CLASSES[5:9], CLASSES[9:11])[at]]
    problem, p, alone, ps = posed([FIVE[at] for at in parts], names)
    assert problem.metric.greater is greater
    shares = [FIVE[at].get("share", 1.0) for at in parts]
    each = [sign * part.score(q) for sign, part, q in zip(signs, alone, ps, strict=True)]
    assert problem.score(p) == pytest.approx(np.average(each, weights=shares))
    assert problem.metric.gain(problem.score(p) + 1, problem.score(p)) == pytest.approx(1 if greater else -1)


@pytest.mark.parametrize("method", ["fixed", "ratio", "optimal", "auto"])
def test_cuts_are_those_of_each_target_alone(method):
    problem, p, alone, ps = posed(seed=4, weighted=True)
    found = cutting.crossfit(problem, method, lambda k: p)
    for at, places in ((2, slice(0, 3)), (4, slice(4, 6))):
        one = cutting.crossfit(alone[at], method, lambda k, at=at: ps[at])
        np.testing.assert_array_equal(found.cuts[places], one.cuts)
        for k in range(3):
            np.testing.assert_array_equal(found.by_fold[k][places], one.by_fold[k])
        mine = problem.metric.split(problem.task, found.labels)[at]
        np.testing.assert_array_equal(mine, one.labels)
    assert found.cuts[3] == 0.5
    told, decision = score_run(problem, p, method, lambda k: p)
    assert decision["level"] == "crossfit"
    each = [score_run(part, q, method, lambda k, q=q: q)[0]["score"] for part, q in zip(alone, ps, strict=True)]
    assert told["score"] == pytest.approx((2 * each[0] - each[1] + each[2] - 0.5 * each[3] + each[4]) / 5.5)
    assert told["fixed"] == pytest.approx(problem.score(p))


def test_cuts_move_to_the_mean_of_models_as_alone():
    problem, p, alone, ps = posed()
    models = [p, p[::-1]]
    moved = cutting.match_ensemble(problem.task, problem.cuts + 0.1, models, p * 0.9)
    for at, piece in enumerate(problem.task.pieces):
        if alone[at].task.cuts:
            q = ps[at]
            one = cutting.match_ensemble(alone[at].task, alone[at].cuts + 0.1, [q, q[::-1]], q * 0.9)
            np.testing.assert_array_equal(moved[piece.cuts], one)


def test_decisions_and_strata_are_side_by_side():
    problem, p, alone, ps = posed()
    each = [part.task.decide(q, part.cuts).reshape(N, -1) for part, q in zip(alone, ps, strict=True)]
    np.testing.assert_array_equal(problem.task.decide(p, problem.cuts), np.column_stack(each))
    strata = [part.task.strata(part.y, 5) for part in alone]
    np.testing.assert_array_equal(problem.task.strata(problem.y, 5), np.column_stack(strata))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_the_parts_are_given_is_what_they_are_given_alone(seed):
    problem, p, alone, ps = posed(seed=seed)
    guess = problem.metric.split(problem.task, problem.metric.wanted(problem.task, p, problem.cuts))
    for mine, part, q in zip(guess, alone, ps, strict=True):
        wanted = part.metric.wanted(part.task, q, part.cuts)
        np.testing.assert_array_equal(mine, wanted)
        assert mine.dtype.kind == wanted.dtype.kind
    for (name, mine), part in zip(problem.alone().items(), alone, strict=True):
        assert name in ("kind", "a+b", "grade", "sex", "tags")
        np.testing.assert_array_equal(mine.y, part.y)
        assert mine.y.dtype == part.y.dtype
    assert alone[0].alone() == {}


@pytest.mark.parametrize("method", ["uniform", "hand", "greedy", "auto"])
def test_blends(method):
    problem, p, _, _ = posed()
    good = np.column_stack([np.eye(3)[problem.y[:, 0].astype(int)], problem.y[:, 1:3], problem.y[:, 3:]])
    solver = Blend(problem, [p, (p + 4 * good) / 5], "probability", method, np.array([1.0, 3.0]), bags=2, steps=4)
    found = solver.crossfit()
    assert found.oof.shape == p.shape
    if method in ("greedy", "auto"):
        assert found.deployed[1] > 0.9
        assert "convex" not in found.methods.values()


def test_grades_that_are_measured_must_be_counted():
    targets = [FIVE[0], {"target": "grade", "task": "ordinal", "metric": "rmse"}]
    config = Competition(task="several", id="id", targets=targets)
    names = [*CLASSES[:3], "grade=1", "grade=2"]
    metric = metric_of(config, CompetitionFiles("x"))
    with pytest.raises(UserError, match="metric rmse needs grades 0, 1, 2"):
        metric.refuse_grades(task_of(config, names), names)
    names = [*CLASSES[:3], "grade=0", "grade=1"]
    metric.refuse_grades(task_of(config, names), names)
    with pytest.raises(NotImplementedError):
        metric.function(np.zeros(1), np.zeros(1), np.ones(1))


def test_a_metric_that_does_not_fit_names_its_target():
    targets = [FIVE[0], {"target": "sex", "task": "binary", "metric": "rmse"}]
    with pytest.raises(UserError, match=r"competition\.toml: target 'sex': metric 'rmse' does not fit a binary task"):
        metric_of(Competition(task="several", id="id", targets=targets), CompetitionFiles("x"))
