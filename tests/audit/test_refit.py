"""Honest numbers are had again whatever task, metric and method; numbers that saw their own fold are not."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.audit.refit import blend, decisions, labels, refit, stopping, unchanged
from pipeline.scoring.blend import Blend, from_space, mix, to_space
from pipeline.scoring.metrics import get_metric
from pipeline.scoring.problem import Problem
from pipeline.scoring.pseudo import Rule, choose, entries, say, sureness
from pipeline.scoring.report import score_run
from pipeline.store.config import Competition
from pipeline.tasks import TASKS

N, K, TESTS = 90, 3, 40
METRIC = {
    "binary": "f1",
    "multiclass": "accuracy",
    "multilabel": "f1_macro",
    "ordinal": "quadratic_kappa",
    "regression": "rmse",
}


def problem_of(task, metric=None, seed=0):
    rng = np.random.default_rng(seed)
    kinds = {
        "binary": lambda: rng.integers(0, 2, N),
        "multilabel": lambda: rng.integers(0, 2, (N, 3)),
        "regression": lambda: rng.normal(size=(N, 2)),
    }
    y = kinds.get(task, lambda: rng.integers(0, 4, N))()
    classes = {"binary": 2, "multilabel": 3, "regression": 2}.get(task, 4)
    named = get_metric(metric or METRIC[task], TASKS[task])
    return Problem(TASKS[task], named, classes, y, rng.permutation(np.arange(N) % K), None)


def predict(problem, rng, rows=None, skill=1.0):
    """Predictions of some use (N P), of random rows where none are given."""
    task, count = problem.task.name, TESTS if rows is None else len(rows)
    y = problem.y[rng.integers(0, N, TESTS)] if rows is None else problem.y[rows]
    if task == "multiclass":
        raw = np.exp(skill * np.eye(4)[y] + rng.normal(size=(count, 4)))
        return (raw / raw.sum(1, keepdims=True)).astype(np.float32)
    wide = y.reshape(count, -1)
    if problem.task.probabilities:
        return (1 / (1 + np.exp(-(skill * (2 * wide - 1) + rng.normal(size=wide.shape))))).astype(np.float32)
    return (skill * wide + rng.normal(size=wide.shape)).astype(np.float32)


def shelf_of(problem, stage, receipt, oof=None, tests=None, **more):
    found = SimpleNamespace(stage=stage, receipt=receipt, oof=oof, tests=tests, tags=None, models=[], **more)
    found.test = lambda k, repeat=0: found.tests[k]
    found.view = found.test
    found.table = SimpleNamespace(ids=np.array([f"t{i}" for i in range(TESTS)]), test=np.arange(TESTS), splits=[0])
    return found


def reasons(doubts):
    return [doubt.reason for doubt in doubts]


@pytest.mark.parametrize("method", ["fixed", "ratio", "optimal", "auto"])
@pytest.mark.parametrize("task", ["binary", "multilabel", "ordinal"])
def test_cuts(task, method):
    problem = problem_of(task)
    oof = predict(problem, np.random.default_rng(1), np.arange(N))
    report, told = score_run(problem, oof, method, lambda k: oof)
    told["by_fold"] = {k: np.asarray(cut).tolist() for k, cut in told["by_fold"].items()}
    shelf = shelf_of(problem, "train", {"decision": told, "config": {"decision": method}, "metrics": report})
    views = dict.fromkeys(range(K), oof)
    assert reasons(decisions(shelf, problem, oof, views)) == []
    if method == "optimal":
        cuts = np.asarray(told["cuts"]).tolist()
        told["by_fold"] = dict.fromkeys("012", cuts)
        report["score"] = problem.metric(problem.task, problem.y, oof, np.array(cuts))
        found = list(decisions(shelf, problem, oof, views))
        assert found
        assert all("it was fitted in-sample" in doubt.reason and not doubt.rows for doubt in found)
        told["by_fold"]["1"] = (np.asarray(cuts) + 0.01).tolist()
        (other,) = [doubt for doubt in decisions(shelf, problem, oof, views) if doubt.fold == 1]
        assert other.reason == "the cuts of fold 1 are not those of a fit without it"


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_scores(task):
    problem = problem_of(task)
    oof = predict(problem, np.random.default_rng(1), np.arange(N))
    report, _ = score_run(problem, oof, "auto", lambda k: oof)
    shelf = shelf_of(problem, "train", {"decision": None, "config": {"decision": "auto"}, "metrics": report})
    assert reasons(decisions(shelf, problem, oof, {})) == []
    report["score"] += 1e-3
    assert "is not what its predictions give" in reasons(decisions(shelf, problem, oof, {}))[0]
    report["score"] = None
    assert "its score nan is not" in reasons(decisions(shelf, problem, oof, {}))[0]


def blended(task, method, space, metric=None):
    """A blend as the ensemble stage leaves it."""
    problem, rng = problem_of(task, metric), np.random.default_rng(2)
    members = []
    for skill in (1.5, 0.7, 0.3):
        tests = {k: predict(problem, rng, skill=skill) for k in range(K)}
        members.append(shelf_of(problem, "train", {}, predict(problem, rng, np.arange(N), skill), tests))
    spaced = [to_space(problem.task, m.oof, space, problem.folds) for m in members]
    hand = [1.0, 2.0, 1.0] if method == "hand" else None
    solver = Blend(problem, spaced, space, method, None if hand is None else np.array(hand))
    weights = solver.crossfit()
    tests = {
        k: from_space(problem.task, mix([to_space(problem.task, m.tests[k], space) for m in members], w), space)
        for k, w in weights.by_fold.items()
    }
    view = lambda k: solver.predict(weights.deployed if k is None else weights.by_fold[k]).astype(np.float32)  # noqa: E731
    report, decision = score_run(problem, weights.oof, "optimal", view)
    config = {"method": method, "space": space, "weights": hand, "seed": 0, "steps": 25, "bags": 5}
    receipt = {
        "config": config | {"decision": "optimal"},
        "folds": list(range(K)),
        "weights_by_fold": {str(k): w.tolist() for k, w in weights.by_fold.items()},
        "decision": decision,
        "metrics": report,
    }
    return problem, solver, weights, shelf_of(problem, "ensemble", receipt, weights.oof, tests, members=members)


@pytest.mark.parametrize("method", ["uniform", "hand", "convex", "greedy", "auto"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_blends(task, method):
    problem, *_, shelf = blended(task, method, "probability")
    assert reasons(blend(shelf, problem)) == []
    honest = shelf.receipt["weights_by_fold"]
    shelf.receipt["weights_by_fold"] = honest | {"1": [0.0, 0.0, 1.0]}
    found = reasons(blend(shelf, problem))
    assert "the weights of fold 1 are not those of a fit without it" in found
    assert "the rows of fold 1 are not blended with the weights of fold 1" in found
    assert "the test predictions of fold 1 are not blended with the weights of fold 1" in found
    assert not any("fold 0" in reason or "fold 2" in reason for reason in found)


def test_blend_in_sample():
    problem, solver, weights, shelf = blended("multiclass", "convex", "probability", "log_loss")
    shelf.receipt["weights_by_fold"] = dict.fromkeys("012", weights.deployed.tolist())
    shelf.oof = solver.predict(weights.deployed).astype(np.float32)
    for k in range(K):
        shelf.tests[k] = mix([m.tests[k] for m in shelf.members], weights.deployed)
    shelf.receipt["metrics"]["score"] = problem.metric(problem.task, problem.y, shelf.oof, np.zeros(0))
    found = list(blend(shelf, problem))
    assert {doubt.fold for doubt in found} == {0, 1, 2}
    assert all(doubt.rows and "it was fitted in-sample" in doubt.reason for doubt in found)


@pytest.mark.parametrize("space, metric", [("logit", "log_loss"), ("rank", "roc_auc")])
def test_blend_spaces(space, metric):
    problem, *_, shelf = blended("binary", "greedy", space, metric)
    assert reasons(blend(shelf, problem)) == []
    shelf.oof = shelf.oof[::-1]
    assert len(reasons(blend(shelf, problem))) >= K


def labelled(task, rule, targets, of, weight="one", quota=None):
    """Pseudo-labels as the stage writes them; `of(tests, k)` are the predictions that fold k's come from."""
    problem, rng = problem_of(task), np.random.default_rng(3)
    teachers = [shelf_of(problem, "train", {}, None, {k: predict(problem, rng) for k in range(K)}) for _ in range(2)]
    cuts, parts = problem.task.default_cuts(problem.classes), []
    for k in range(K):
        members = of(np.array([[t.tests[j] for j in range(K)] for t in teachers]), k)
        mean, sure = members.mean(0), sureness(problem.task, members, cuts, rule.select)
        kept = choose(rule, sure, entries(problem.task, mean, cuts))
        said, rows = say(problem.task, mean, kept, cuts, targets, 0.5), np.flatnonzero(kept.any(1))
        part = pd.DataFrame({"id": [f"t{i}" for i in rows], "repeat": 0, "fold": k, "half": 0, "weight": 1.0})
        parts.append(part.join(pd.DataFrame(said[rows], columns=[f"t{c}" for c in range(said.shape[1])])))
    config = {"targets": targets, "temperature": 0.5, "quota": quota or rule.quota, "select": rule.select}
    config |= {"threshold": rule.threshold, "stratify": rule.stratify, "weight": weight}
    receipt = {"config": config, "folds": list(range(K)), "rounds": [{}]}
    # As a CSV would round them.
    named = pd.concat(parts, ignore_index=True).map(lambda v: float(f"{v:.9g}") if isinstance(v, float) else v)
    return problem, shelf_of(problem, "pseudo", receipt, members=teachers, named=named)


def own(tests, k):
    return tests[:, k]


def everyone(tests, k):
    return tests.mean(1)


@pytest.mark.parametrize("targets", ["hard", "soft", "sharpened"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_labels(task, targets):
    rule = Rule("agreement", 0.7, 0.1)
    problem, shelf = labelled(task, rule, targets, own)
    assert reasons(labels(shelf, problem)) == []
    problem, shelf = labelled(task, rule, targets, everyone)
    found = list(labels(shelf, problem))
    assert {doubt.fold for doubt in found} == {0, 1, 2}
    assert all(doubt.rows for doubt in found)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_labels_of_all_folds_are_named(task):
    problem, shelf = labelled(task, Rule(), "soft", everyone)
    assert len(reasons(labels(shelf, problem))) == K
    assert all("but what the models of all folds say" in reason for reason in reasons(labels(shelf, problem)))
    problem, shelf = labelled(task, Rule(), "soft", lambda tests, k: tests[:, (k + 1) % K])
    assert all("models of all folds" not in reason for reason in reasons(labels(shelf, problem)))
    assert len(reasons(labels(shelf, problem))) == K


def test_labels_follow_the_quota_of_their_round():
    problem, shelf = labelled("multiclass", Rule(quota=0.5), "hard", own, quota=[0.2, 0.5])
    assert len(reasons(labels(shelf, problem))) == K
    shelf.receipt["rounds"] = [{}, {}]
    assert reasons(labels(shelf, problem)) == []


def test_weights_of_labels():
    problem, shelf = labelled("multiclass", Rule(), "hard", own, weight="confidence")
    assert all("weigh otherwise" in reason for reason in reasons(labels(shelf, problem)))
    assert len(reasons(labels(shelf, problem))) == K


def test_labels_of_easy_rows_only():
    problem, shelf = labelled("multiclass", Rule(), "hard", own)
    tags = pd.DataFrame({"id": [f"t{i}" for i in range(TESTS)], "repeat": 0, "fold": 1, "tag": "easy"})
    tags = pd.concat([tags.assign(fold=k) for k in range(K)], ignore_index=True)
    shelf.tags = SimpleNamespace(named=tags)
    assert reasons(labels(shelf, problem)) == []
    tags.loc[tags["id"].eq("t7") & tags["fold"].eq(2), "tag"] = "hard"
    (doubt,) = labels(shelf, problem)
    assert doubt.fold == 2
    assert "for example id 't7'" in doubt.reason


def test_a_row_named_twice():
    problem, shelf = labelled("multiclass", Rule(), "hard", own)
    shelf.named = pd.concat([shelf.named, shelf.named[:1]])
    assert reasons(labels(shelf, problem)) == ["a row names the model of fold 0 twice"]


@pytest.mark.parametrize(
    "metric, by, sign", [("accuracy", "metric", 1), ("log_loss", "metric", -1), ("accuracy", "loss", -1)]
)
def test_stopping(metric, by, sign):
    problem = problem_of("multiclass", metric)
    curves = sign * np.array([[0.1, 0.5, 0.2], [0.3, 0.1, 0.2], [0.2, 0.1, 0.6]])
    best = [int(np.argmax(sign * np.delete(curves, k, 0).mean(0))) for k in range(K)]

    def models(epochs):
        named = zip(curves, epochs, strict=True)
        return [
            SimpleNamespace(name=f"fold{k}", named=[k], repeat=0, header={"curve": curve.tolist(), "epoch": epoch})
            for k, (curve, epoch) in enumerate(named)
        ]

    shelf = shelf_of(problem, "train", {"config": {"select_by": by}})
    shelf.models = [*models(best), SimpleNamespace(name="x", named=[0], header={})]
    assert reasons(stopping(shelf, problem)) == []
    shelf.models = models([int(np.argmax(sign * curve)) for curve in curves])
    found = list(stopping(shelf, problem))
    assert [doubt.fold for doubt in found] == [k for k in range(K) if best[k] != np.argmax(sign * curves[k])]
    assert found
    assert all(doubt.rows and "but of its own: it stopped itself" in doubt.reason for doubt in found)


def test_an_unchanged_lb_run():
    problem, rng = problem_of("multiclass"), np.random.default_rng(1)
    oof, tests = predict(problem, rng, np.arange(N)), {k: predict(problem, rng) for k in range(K)}
    below = shelf_of(problem, "train", {}, oof, tests)
    shelf = shelf_of(problem, "lb", {"folds": [0, 1, 2]}, oof.copy(), dict(tests), members=[below], run="c/l")
    below.run = "c/a"
    assert reasons(unchanged(shelf)) == []
    shelf.oof[3, 1] += 1e-6
    assert reasons(unchanged(shelf)) == ["nothing was adopted, and yet its predictions are not those of c/a"]
    shelf.receipt["adopted"] = "a rule"
    assert reasons(unchanged(shelf)) == []
    shelf.receipt["adopted"] = None
    shelf.oof, shelf.tests[2] = oof, tests[2] + 1
    assert len(reasons(unchanged(shelf))) == 1


def test_cuts_of_an_lb_run_are_fitted_as_below_it():
    problem = problem_of("ordinal")
    oof = predict(problem, np.random.default_rng(1), np.arange(N))
    below = shelf_of(problem, "ensemble", {"config": {"decision": "ratio"}})
    for adopted, method in ((None, "ratio"), ("a rule", "fixed")):
        report, told = score_run(problem, oof, method, lambda k: oof)
        receipt = {"decision": told, "config": {}, "metrics": report, "adopted": adopted}
        shelf = shelf_of(problem, "lb", receipt, oof, members=[below])
        assert reasons(decisions(shelf, problem, oof, dict.fromkeys(range(K), oof))) == []
        shelf.receipt["adopted"] = None if adopted else "a rule"
        assert reasons(decisions(shelf, problem, oof, dict.fromkeys(range(K), oof)))


def test_every_stage_is_dispatched():
    problem = problem_of("multiclass")
    oof = predict(problem, np.random.default_rng(1), np.arange(N))
    everyone = {"scored": np.arange(N), "folds": problem.folds, "weights": np.ones(N), "units": np.arange(N)}
    table = SimpleNamespace(classes=list("abcd"), y=problem.y[:, None], **everyone)
    table.group = table.scored_classes = None
    receipt = {"decision": None, "config": {"decision": "auto"}, "metrics": {"score": 2.0}, "folds": [0, 1, 2]}
    competition = Competition.model_validate({"task": "multiclass", "metric": "accuracy", "id": "id", "target": "y"})
    for stage, members in (("train", []), ("lb", [shelf_of(problem, "train", {"config": {"decision": "auto"}}, oof)])):
        shelf = shelf_of(problem, stage, receipt, oof, dict.fromkeys(range(K), oof), competition=competition)
        shelf.table, shelf.members, shelf.run = table, members, "toy/a"
        for member in members:
            member.tests = shelf.tests
        (reason,) = reasons(refit(shelf))
        assert "its score 2.000000 is not what its predictions give" in reason
