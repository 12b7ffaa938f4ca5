"""Rules: who proposes what, what is chosen on which rows, and what a rule makes of other rows."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.forecast.candidates import Facts, View, candidates
from pipeline.forecast.rules import fit_rules, offered, proposals, surest
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

EVERY = ["global", "surest", "prior", "shares", "row"]


def scene(n=150, seed=0, metric="accuracy", leaves=2, skill=1.5, planted=True):
    """Three classes; where planted, class 0 never occurs in bright light, yet is seen wherever class 1 is."""
    rng = np.random.default_rng(seed)
    y, light = rng.integers(0, 3, n), rng.random(n)
    y = np.where((y == 0) & (light > 0.5) & planted, 1, y)
    seen = np.where((y == 1) & (light > 0.5) & planted, 0, y)
    logits = rng.normal(size=(leaves, n, 3)) + skill * np.eye(3)[seen]
    p = np.exp(logits)
    p = (p / p.sum(2, keepdims=True)).astype(np.float32)
    run = p.mean(0)
    p0 = run[:, 0].astype(float)
    problem = Problem(TASKS["multiclass"], METRICS[metric], 3, y, rng.integers(0, 3, n), None)
    return problem, View(
        run, run, p, (np.column_stack([light, p0 * (light > 0.5)]), ["light", "p0 in light"]), np.full(n, "")
    )


def everything(problem):
    return np.ones(len(problem.y), bool)


def test_a_proposal_is_made_once_and_knows_who_makes_it():
    problem, view = scene(40)
    facts = Facts.of(problem, everything(problem), view.run, view.raw)
    found = candidates(problem, view, facts)
    rows, which, (values, names) = proposals(problem, found, view, facts)
    said = {name: p.argmax(1) for name, p in found.items()}
    order = list(found)
    seen = set()
    for row, a, feature in zip(rows, which, values, strict=True):
        told = dict(zip(names, feature, strict=True))
        label = said[order[a]][row]
        assert label != said["plain"][row]
        seen.add((row, label))
        for name in order[1:]:
            assert told[f"by {name}"] == (said[name][row] == label)
        assert told["votes"] == sum(said[name][row] == label for name in order[1:])
        mean = view.leaves.mean(0)[row]
        assert told["p of new"] == pytest.approx(mean[label], abs=1e-6)
        assert told["p of old"] == pytest.approx(mean[said["plain"][row]], abs=1e-6)
        assert told["prior of new"] == pytest.approx(facts.prior[label])
        assert told["light"] == view.features[0][row, 0]
    assert len(seen) == len(rows)
    assert seen == {(i, said[name][i]) for name in order for i in range(40) if said[name][i] != said["plain"][i]}


def test_members_of_a_score_metric_are_proposals_of_their_own():
    problem, view = scene(30, metric="log_loss")
    facts = Facts.of(problem, everything(problem), view.run, view.raw)
    found = candidates(problem, view, facts)
    rows, which, _ = proposals(problem, found, view, facts)
    pairs = {(name, i) for name, p in found.items() for i in range(30) if (p[i] != view.run[i]).any()}
    assert {(list(found)[a], i) for i, a in zip(rows, which, strict=True)} == pairs


def test_label_vectors_are_compared_whole():
    rng = np.random.default_rng(0)
    p = rng.random((2, 20, 10)).astype(np.float32)
    problem = Problem(
        TASKS["multilabel"], METRICS["f1_micro"], 10, rng.integers(0, 2, (20, 10)), np.arange(20) % 2, None
    )
    view = View(p.mean(0), p.mean(0), p, (np.zeros((20, 0)), []), np.full(20, ""))
    facts = Facts.of(problem, everything(problem), view.run, view.raw)
    found = candidates(problem, view, facts)
    rows, which, _ = proposals(problem, found, view, facts)
    said = {name: q > 0.5 for name, q in found.items()}
    want = {(i, said[n][i].tobytes()) for n in found for i in range(20) if (said[n][i] != said["plain"][i]).any()}
    assert {(i, said[list(found)[a]][i].tobytes()) for i, a in zip(rows, which, strict=True)} == want
    assert len(rows) == len(want)


def test_a_planted_confusion_is_learned_and_put_right():
    problem, view = scene(240)
    train = problem.folds != 0
    rules = fit_rules(problem, train, view, EVERY, None, 0)
    out = rules.apply("row", view.of(~train))
    right = (out.argmax(1) == problem.y[~train]).mean()
    assert right > (view.run.argmax(1) == problem.y)[~train].mean() + 0.1
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_labels_of_other_rows_never_matter(name):
    problem, view = scene(120)
    train = problem.folds != 1
    other = Problem(
        problem.task, problem.metric, 3, np.where(train, problem.y, (problem.y + 1) % 3), problem.folds, None
    )
    before, after = (fit_rules(p, train, view, EVERY, None, 0).apply(name, view) for p in (problem, other))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["global", "surest", "prior", "shares", "row"])
def test_rows_are_decided_alone(name):
    problem, view = scene(120)
    rules = fit_rules(problem, problem.folds != 1, view, EVERY, None, 0)
    part = np.arange(7, 60, 3)
    np.testing.assert_array_equal(rules.apply(name, view)[part], rules.apply(name, view.of(part)))


def test_the_best_single_candidate_is_found():
    problem, view = scene(150, skill=0.0)
    good = np.eye(3, dtype=np.float32)[problem.y] * np.float32(0.8) + np.float32(0.2 / 3)
    view = View(view.run, view.raw, np.stack([view.leaves[0], good]), view.features, view.blocks)
    rules = fit_rules(problem, problem.folds != 0, view, ["global"], None, 0)
    assert rules.best == "leaf 1"
    assert rules.chooser is None
    np.testing.assert_array_equal(rules.apply("global", view), good)


def test_what_is_fitted_is_compared_on_rows_it_was_not_fitted_on(monkeypatch):
    problem, view = scene(60)
    train, real, seen = problem.folds != 0, Facts.of, []
    monkeypatch.setattr(Facts, "of", lambda problem, rows, *p: seen.append(rows) or real(problem, rows, *p))
    fit_rules(problem, train, view, ["global"], None, 0)
    *parts, whole = seen
    assert whole.all()
    assert len(whole) == train.sum()
    assert (np.sum(parts, 0) == 2).all(), "each row is in two of the three fits, and judged by the third"


def test_a_prior_adjustment_is_chosen_where_balance_is_asked_for():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 600, p=[0.8, 0.15, 0.05])
    p = np.exp(rng.normal(size=(600, 3)) + 1.5 * np.eye(3)[y]) * [0.8, 0.15, 0.05]
    run = (p / p.sum(1, keepdims=True)).astype(np.float32)
    view = View(run, run, run[None], (np.zeros((600, 1)), ["a"]), np.full(600, ""))
    for metric, want in (("balanced_accuracy", {"prior 1"}), ("accuracy", {"plain", "prior 0.25"})):
        problem = Problem(TASKS["multiclass"], METRICS[metric], 3, y, np.arange(600) % 3, None)
        rules = fit_rules(problem, everything(problem), view, ["prior"], None, 0)
        assert rules.prior in want
    scaled = run / np.bincount(y, minlength=3) ** 1.0
    problem = Problem(TASKS["multiclass"], METRICS["balanced_accuracy"], 3, y, np.arange(600) % 3, None)
    out = fit_rules(problem, everything(problem), view, ["prior"], None, 0).apply("prior", view)
    np.testing.assert_allclose(out, scaled / scaled.sum(1, keepdims=True), atol=1e-5)


def test_a_share_of_the_neighbours_is_taken_where_they_know_better():
    problem, view = scene(240, planted=False, skill=0.3)
    right, rng = np.eye(3)[problem.y], np.random.default_rng(1)
    noise = rng.dirichlet(np.ones(3), 240)
    train = problem.folds != 0
    for votes, want in ((right, "neighbours 0.5"), (1 - right, "plain")):
        votes[::7] = np.nan
        asked = replace(view, votes=votes)
        assert "neighbours" in offered(problem, asked, None)
        rules = fit_rules(problem, train, asked, ["neighbours"], None, 0)
        assert rules.neighbours == want
        out = rules.apply("neighbours", asked)
        np.testing.assert_array_equal(out[::7], view.run[::7])
        mixed = 0.5 * view.run + 0.5 * votes if want != "plain" else view.run
        known = ~np.isnan(votes[:, 0])
        np.testing.assert_allclose(out[known], mixed[known], atol=1e-6)
    asked = replace(view, votes=noise)
    other = replace(problem, y=np.where(train, problem.y, (problem.y + 1) % 3))
    one, two = (
        fit_rules(p, train, asked, ["neighbours"], None, 0).apply("neighbours", asked) for p in (problem, other)
    )
    np.testing.assert_array_equal(one, two)


def test_the_surest_member_speaks():
    problem, view = scene(50)
    out = surest(problem, view)
    members = np.stack([view.run, *view.leaves])
    for i in range(50):
        np.testing.assert_array_equal(out[i], members[members[:, i].max(1).argmax(), i])


def test_capacity_keeps_groups_apart():
    problem, view = scene(30)
    view = View(view.run, view.raw, view.leaves, view.features, np.repeat([f"g{j}" for j in range(10)], 3))
    rules = fit_rules(problem, everything(problem), view, ["capacity"], 1, 0)
    labels = rules.apply("capacity", view).argmax(1).reshape(10, 3)
    assert all(sorted(group) == [0, 1, 2] for group in labels.tolist())


def test_identical_candidates_propose_nothing():
    problem, view = scene(60, metric="log_loss")
    view = View(view.run, view.raw, np.stack([view.run, view.run]), view.features, view.blocks)
    facts = Facts(np.full(3, 1 / 3), np.ones(3), {})
    found = {"plain": view.run, "leaf 0": view.run, "leaf 1": view.run.copy()}
    rows, _, features = proposals(problem, found, view, facts)
    assert len(rows) == len(features[0]) == 0


@pytest.mark.parametrize(
    "task, metric, leaves, each, want",
    [
        ("multiclass", "accuracy", 2, None, {"global", "surest", "prior", "shares", "row"}),
        ("multiclass", "accuracy", 1, 1, {"global", "prior", "shares", "capacity", "row"}),
        ("multiclass", "log_loss", 2, 1, {"global", "surest", "prior", "row"}),
        ("multiclass", "roc_auc", 2, None, {"global", "surest", "prior"}),
        ("binary", "f1", 2, 1, {"global", "surest", "row"}),
        ("ordinal", "quadratic_kappa", 1, None, {"global", "row"}),
        ("regression", "rmse", 2, None, {"global", "row"}),
    ],
)
def test_only_rules_with_a_meaning_are_offered(task, metric, leaves, each, want):
    problem = Problem(TASKS[task], METRICS[metric], 3, np.zeros(4, int), np.zeros(4), None)
    p = np.full((leaves, 4, 3 if task == "multiclass" else 1), 0.5)
    view = View(p[0], p[0], p, (np.zeros((4, 0)), []), np.full(4, ""))
    assert set(offered(problem, view, each)) == want
