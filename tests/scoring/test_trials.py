"""Fast tries are those of the definition, and choose the same members."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_convex import table

from pipeline.scoring.blend import Blend
from pipeline.scoring.greedy import Plain, greedy
from pipeline.scoring.metrics import METRICS, Metric
from pipeline.scoring.problem import Problem
from pipeline.scoring.trials import quick
from pipeline.tasks import TASKS

LABELS = ["accuracy", "balanced_accuracy", "f1_macro", "f2_macro", "f0.5_micro"]
FAST = [
    *(("binary", name) for name in ["log_loss", "roc_auc", "f1", *LABELS]),
    *(("multiclass", name) for name in ["log_loss", "roc_auc", *LABELS]),
    *(("multilabel", name) for name in ["log_loss", "roc_auc", "f1_macro", "f2_micro"]),
    *(("ordinal", name) for name in ["quadratic_kappa", "linear_kappa", *LABELS]),
]


def small(task, name, rng, n=17, m=4):
    """A small problem whose members often agree to the bit, and say 0 and 1."""
    width = {"multiclass": 3, "multilabel": 3}.get(task, 1)
    if task == "multiclass":
        members = [rng.dirichlet(np.ones(3), n).round(1) + 1e-9 for _ in range(m)]
        members = [p / p.sum(1, keepdims=True) for p in members]
    else:
        members = [rng.integers(0, 6, (n, width)) / 5 * (3 if task == "ordinal" else 1) for _ in range(m)]
    members[-1] = members[0].copy()
    if task == "multilabel":
        y = rng.integers(0, 2, (n, width))
    else:
        y = rng.integers(0, {"binary": 2, "multiclass": 3, "ordinal": 4}[task], n)
    classes = {"binary": 2, "ordinal": 4}.get(task, 3)
    return Problem(TASKS[task], METRICS[name], classes, y, np.arange(n) % 3, None), members


def definition(problem):
    """Return the score that `Blend` gives greedy selection."""

    def score(p, draws):
        return float(np.nan_to_num(problem.metric.gain(problem.score(p, problem.cuts, draws), 0.0), nan=-np.inf))

    return score


@pytest.mark.parametrize("task, name", FAST)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_tries_are_those_of_the_definition(task, name, seed):
    rng = np.random.default_rng(seed)
    problem, members = small(task, name, rng)
    draws = rng.integers(0, 3, len(problem.y)).astype(float)
    draws[0] = 1
    fast, slow = quick(problem, members)(draws), Plain(members, definition(problem), draws)
    assert fast is not None or name == "roc_auc"  # of one class there is no curve
    for size in range(1, 7 if fast else 1):
        assert fast.scores(size) == pytest.approx(slow.scores(size), abs=fast.error / 10)
        pick = int(rng.integers(len(members)))
        fast.add(pick)
        slow.add(pick)


@pytest.mark.parametrize("task, name", FAST)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_same_members_are_chosen(task, name, seed):
    rng = np.random.default_rng(seed)
    problem, members = small(task, name, rng)
    bags = [rng.multinomial(17, np.full(17, 1 / 17)).astype(float) for _ in range(2)]
    score = definition(problem)
    assert (greedy(members, score, bags, 9, quick(problem, members)) == greedy(members, score, bags, 9)).all()


@pytest.mark.parametrize("task, name", [("binary", "f1"), ("multiclass", "log_loss"), ("multilabel", "f1_macro")])
def test_rows_may_weigh_any_amount(task, name):
    rng = np.random.default_rng(3)
    problem, members = small(task, name, rng, 60)
    problem, draws = replace(problem, weight=rng.random(60)), rng.integers(0, 3, 60).astype(float)
    fast, slow = quick(problem, members)(draws), Plain(members, definition(problem), draws)
    for size in range(1, 30):
        assert fast.scores(size) == pytest.approx(slow.scores(size), abs=1e-12)
        fast.add(size % 3)
        slow.add(size % 3)


def test_many_equal_numbers_are_half_won():
    problem, members = small("binary", "roc_auc", np.random.default_rng(0), 500)
    fast = quick(problem, members)(np.ones(500))
    assert fast.scores(1) == pytest.approx([problem.score(p) for p in members], abs=1e-14)


def test_rows_of_float32_sum_to_nearly_1():
    problem, members = small("multiclass", "log_loss", np.random.default_rng(0), 400)
    members = [p.astype(np.float32).astype(float) for p in members]
    assert all(np.abs(p.sum(1) - 1).max() > 1e-9 for p in members)
    fast, slow = quick(problem, members)(np.ones(400)), Plain(members, definition(problem), np.ones(400))
    for size in (1, 2, 3):
        assert fast.scores(size) == pytest.approx(slow.scores(size), abs=1e-12)
        fast.add(1)
        slow.add(1)


def test_saturated_members_are_clipped_as_by_the_definition():
    problem, members = small("binary", "log_loss", np.random.default_rng(0), 40)
    members = [np.clip(p, 0, 1 - 2.0**-53 * k) for k, p in enumerate(members)]
    fast = quick(problem, members)(np.ones(40))
    assert fast.scores(1) == pytest.approx([-problem.score(p) for p in members], abs=1e-13)


def test_what_needs_the_definition():
    rng = np.random.default_rng(0)
    draws = np.ones(17)
    for task, name in (("binary", "brier"), ("multilabel", "accuracy"), ("multilabel", "f1_samples")):
        assert quick(*small(task, name, rng))(draws) is None
    problem, members = small("binary", "log_loss", rng)
    assert quick(problem, members)(draws) is not None
    own = Metric("log_loss", lambda y, p, w: 0.0, False, True, ("binary",))
    for odd in (
        replace(problem, y=problem.y * 0.5),
        replace(problem, metric=own),
        replace(problem, blocks=np.arange(17) % 2),
    ):
        assert quick(odd, members)(draws) is None
    problem_, members_ = small("multiclass", "log_loss", rng)
    assert quick(problem_, [p * 0.9 for p in members_])(draws) is None
    areas = replace(problem, metric=METRICS["roc_auc"])
    assert quick(areas, members)(draws) is not None
    assert quick(areas, members)(draws * 0.5) is None
    assert quick(areas, [p - 0.5 for p in members])(draws) is None


def test_logits_are_scored_in_full(monkeypatch):
    problem, members = table("binary", quality=[0.5, 1, 2])
    asked, everything = Blend(problem, members, "logit", "greedy", steps=4, bags=2), np.ones(240, bool)
    monkeypatch.setattr("pipeline.scoring.blend.quick", None)
    assert asked.fit(everything)[0].sum() == pytest.approx(1)
