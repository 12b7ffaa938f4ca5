"""Candidates say what they claim, by the least change of the prediction."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from problems import ROW_TASKS as TASKS

from pipeline.forecast.candidates import (
    Facts,
    View,
    assign,
    candidates,
    class_factors,
    minority,
    recut,
    runner_up,
    scale,
    settle,
    sureness,
)
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.errors import UserError

CUT = ("binary", "multilabel", "ordinal")


def probabilities(rows, columns):
    grid = hnp.arrays(np.float32, (rows, columns), elements=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.75, 1.0]))
    return grid.map(
        lambda p: ((p + np.float32(1e-3)) / (p + np.float32(1e-3)).sum(1, keepdims=True)).astype(np.float32)
    )


@given(probabilities(6, 4), hnp.arrays(np.int64, 6, elements=st.integers(0, 3)))
def test_settled_classes_are_decided_and_probabilities_only_change_places(p, labels):
    out = settle(TASKS["multiclass"], p, labels, 4)
    np.testing.assert_array_equal(out.argmax(1), labels)
    np.testing.assert_allclose(np.sort(out, 1), np.sort(p, 1), atol=1e-6)
    kept = p.argmax(1) == labels
    np.testing.assert_array_equal(out[kept], p[kept])


@pytest.mark.parametrize("task", CUT)
@settings(deadline=None)
@given(data=st.data())
def test_settled_values_are_decided_and_move_no_further_than_needed(task, data):
    width, top = (3, 1) if task == "multilabel" else (1, 3 if task == "ordinal" else 1)
    values = st.floats(-1, 4, width=32) if task == "ordinal" else st.floats(0, 1, width=32)
    p = data.draw(hnp.arrays(np.float32, (5, width), elements=values | st.sampled_from([0.5, 1.5, 2.5][:top])))
    labels = data.draw(hnp.arrays(np.int64, (5, width), elements=st.integers(0, top)))
    labels = labels if task == "multilabel" else labels[:, 0]
    kind, cuts = TASKS[task], TASKS[task].default_cuts(4 if task == "ordinal" else width)
    out = settle(kind, p, labels, 4)
    np.testing.assert_array_equal(kind.decide(out, cuts), labels)
    same = (kind.decide(p, cuts) == labels).reshape(5, -1)
    np.testing.assert_array_equal(out[same], p[same])
    at_border = np.abs(out[~same][:, None] - cuts[None]).min(1) if (~same).any() else np.zeros(0)
    assert (at_border < 1e-6).all()


@pytest.mark.parametrize("task", CUT)
@settings(deadline=None)
@given(data=st.data())
def test_recut_predictions_decide_as_the_cuts_do_and_keep_their_order(task, data):
    width = 3 if task == "multilabel" else 1
    values = st.floats(-1, 4, width=32) if task == "ordinal" else st.floats(0, 1, width=32)
    p = data.draw(hnp.arrays(np.float32, (8, width), elements=values))
    cut = st.floats(-0.5, 3.5) if task == "ordinal" else st.floats(-0.2, 1.2)
    cuts = np.sort(data.draw(hnp.arrays(np.float64, 3 if width == 3 or task == "ordinal" else 1, elements=cut)))
    kind = TASKS[task]
    out = recut(kind, p, cuts)
    default = kind.default_cuts(len(cuts) + 1 if task == "ordinal" else len(cuts))
    np.testing.assert_array_equal(kind.decide(out, default), kind.decide(p, cuts))
    if task != "ordinal":
        assert ((out >= 0) & (out <= 1)).all()
    for c in range(width):
        order = np.argsort(p[:, c], kind="stable")
        assert (np.diff(out[order, c]) >= -1e-6).all()
    assert recut(kind, p, default) is p


def test_recut_keeps_distances():
    out = recut(TASKS["binary"], np.array([[0.0], [0.1], [0.2], [0.6], [1.0]]), np.array([0.2]))
    np.testing.assert_allclose(out[:, 0], [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    out = recut(TASKS["ordinal"], np.array([[-1.0], [0.7], [0.9], [1.4], [3.0]]), np.array([0.7, 1.1]))
    np.testing.assert_allclose(out[:, 0], [-1.2, 0.5, 1.0, 1.8, 3.4], atol=1e-6)


def test_runners_up():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    assert runner_up(TASKS["multiclass"], p, 3).tolist() == [1, 1]
    assert runner_up(TASKS["binary"], np.array([[0.2], [0.6]]), 2).tolist() == [1, 0]
    grades = np.array([[-1.0], [0.4], [0.6], [1.4], [1.6], [9.0]])
    assert runner_up(TASKS["ordinal"], grades, 4).tolist() == [1, 1, 0, 2, 1, 2]
    labels = np.array([[0.9, 0.45, 0.1], [0.52, 0.8, 0.9]])
    assert runner_up(TASKS["multilabel"], labels, 3).tolist() == [[1, 1, 0], [0, 1, 1]]


def test_minority_takes_the_rarer_of_two_near_ties():
    prior = np.array([0.6, 0.3, 0.1])
    p = np.array([[0.5, 0.4, 0.1], [0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.35, 0.55]], np.float32)
    out = minority(p, prior)
    assert out.argmax(1).tolist() == [1, 0, 1, 2]
    np.testing.assert_array_equal(out[1:], p[1:])
    np.testing.assert_allclose(np.sort(out, 1), np.sort(p, 1))


def test_factors_give_classes_their_shares():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 600, p=[0.6, 0.2, 0.15, 0.05])
    p = rng.dirichlet(np.ones(4), 600) + 0.8 * np.eye(4)[y] + np.array([0.8, 0, 0, 0])
    p = p / p.sum(1, keepdims=True)
    counts = np.bincount(y, minlength=4)
    before = np.abs(np.bincount(p.argmax(1), minlength=4) - counts).sum()
    out = scale(p, class_factors(p, y))
    assert np.abs(np.bincount(out.argmax(1), minlength=4) - counts).sum() <= 6 < before
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-6)
    exact = np.eye(4)[y] * 0.9 + 0.025
    np.testing.assert_array_equal(class_factors(exact, y), np.ones(4))


@pytest.mark.parametrize("each", [1, 2])
def test_the_assignment_is_the_likeliest_that_there_is(each):
    rng = np.random.default_rng(each)
    p = rng.dirichlet(np.ones(3), 9)
    blocks = np.array(["a", "b", "a", "b", "a", "", "b", "", ""])
    labels = assign(p, blocks, each)
    np.testing.assert_array_equal(labels[blocks == ""], p[blocks == ""].argmax(1))
    for block in "ab":
        mine = p[blocks == block]
        best = max(
            (found for found in itertools.product(range(3), repeat=3) if max(np.bincount(found)) <= each),
            key=lambda found: np.log(mine[range(3), list(found)]).sum(),
        )
        assert labels[blocks == block].tolist() == list(best)


def test_too_many_rows_for_the_capacity():
    with pytest.raises(UserError, match="group 'x' has 4 rows, 3 classes at 1 each hold 3: raise capacity.each"):
        assign(np.full((4, 3), 1 / 3), np.array(["x"] * 4), 1)
    assert sorted(assign(np.full((4, 3), 1 / 3), np.array(["x"] * 4), 2)) != [0, 0, 0, 0]


@pytest.mark.parametrize(
    "task, p, want",
    [
        ("multiclass", [[0.2, 0.8]], 0.8),
        ("binary", [[0.9]], 0.4),
        ("multilabel", [[0.9, 0.3]], 0.3),
        ("ordinal", [[1.8]], 0.3),
        ("regression", [[7.0]], 0.0),
    ],
)
def test_sureness(task, p, want):
    assert sureness(TASKS[task], np.array(p), 2 if task == "multilabel" else 3)[0] == pytest.approx(want)


def view_of(task, n=60, seed=0):
    rng = np.random.default_rng(seed)
    width = {"multiclass": 3, "multilabel": 2, "regression": 2}.get(task, 1)
    slabs = (
        rng.dirichlet(np.ones(3), (2, n))
        if task == "multiclass"
        else rng.random((2, n, width)) * (3 if task == "ordinal" else 1)
    )
    slabs = slabs.astype(np.float32)
    y = rng.random((n, 2)) if task == "regression" else rng.integers(0, 4 if task == "ordinal" else 2, (n, width))
    y = y if task in ("multilabel", "regression") else y[:, 0]
    metric = {
        "multiclass": "f1_macro",
        "binary": "f1",
        "multilabel": "f1_macro",
        "ordinal": "quadratic_kappa",
        "regression": "rmse",
    }
    problem = Problem(
        TASKS[task], METRICS[metric[task]], {"ordinal": 4, "binary": 2}.get(task, width), y, np.arange(n) % 3, None
    )
    run = slabs.mean(0)
    return problem, View(run, run, slabs, (np.zeros((n, 1)), ["a"]), np.full(n, ""))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_candidates_the_run_first(task):
    problem, view = view_of(task)
    rows = problem.folds != 0
    facts = Facts.of(problem, rows, view.run, view.raw)
    found = candidates(problem, view, facts)
    assert next(iter(found)) == "plain"
    assert found["plain"] is view.run
    assert all(p.shape == view.run.shape for p in found.values())
    np.testing.assert_array_equal(found["leaf 1"], view.leaves[1])
    labels = {name for name in found if name in ("minority", "runner-up") or name.startswith("cuts")}
    assert labels == {
        "multiclass": {"minority", "runner-up"},
        "regression": set(),
    }.get(task, {"runner-up", "cuts fixed", "cuts ratio", "cuts optimal"})
    default = problem.task.default_cuts(problem.classes)
    for method, cuts in facts.cuts.items():
        want = problem.task.decide(view.raw, cuts)
        np.testing.assert_array_equal(problem.task.decide(found[f"cuts {method}"], default), want)


def test_facts_know_only_the_rows_they_are_fitted_on():
    for task in ("multiclass", "ordinal"):
        problem, view = view_of(task)
        rows = problem.folds != 0
        before = Facts.of(problem, rows, view.run, view.raw)
        other = Problem(
            problem.task,
            problem.metric,
            problem.classes,
            np.where(rows, problem.y, 1 - problem.y % 2),
            problem.folds,
            None,
        )
        after = Facts.of(other, rows, view.run, view.raw)
        np.testing.assert_array_equal(before.prior, after.prior)
        np.testing.assert_array_equal(before.factors, after.factors)
        assert all((before.cuts[name] == after.cuts[name]).all() for name in before.cuts)
    assert Facts.of(problem, rows, view.run, view.raw).prior.shape == (0,)


def test_a_class_without_rows_has_a_prior():
    problem, view = view_of("multiclass")
    assert (problem.y < 2).all()
    facts = Facts.of(problem, np.ones(60, bool), view.run, view.raw)
    assert facts.prior[2] == pytest.approx(1 / 61)
