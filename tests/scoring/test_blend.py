from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from test_convex import PROBABILITIES, table

from pipeline.scoring.blend import Blend, from_space, mix, to_space
from pipeline.scoring.convex import convex
from pipeline.scoring.metrics import METRICS
from pipeline.tasks import TASKS


@pytest.mark.parametrize("task", PROBABILITIES)
@pytest.mark.parametrize("space", ["probability", "logit"])
def test_spaces_round_trip(task, space):
    p = table(task)[1][0]
    assert from_space(TASKS[task], to_space(TASKS[task], p, space), space) == pytest.approx(p)
    assert to_space(TASKS[task], p.astype(np.float32), space).dtype == np.float64
    edge = np.eye(p.shape[1])[[0]] if p.shape[1] > 1 else np.array([[1.0], [0.0]])
    there = to_space(TASKS[task], edge, space)
    assert np.isfinite(there).all()
    assert from_space(TASKS[task], there, space) == pytest.approx(edge, abs=1e-12)


def test_logit_blends_are_geometric_means():
    p = table("multiclass")[1][:2]
    blend = from_space(
        TASKS["multiclass"], mix([to_space(TASKS["multiclass"], q, "logit") for q in p], [0.3, 0.7]), "logit"
    )
    geometric = p[0] ** 0.3 * p[1] ** 0.7
    assert blend == pytest.approx(geometric / geometric.sum(1, keepdims=True))
    q = to_space(TASKS["binary"], np.array([[0.2], [0.9]]), "logit")
    assert q == pytest.approx(np.log([[0.2 / 0.8], [0.9 / 0.1]]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=30))
def test_ranks_are_taken_inside_folds(rows):
    values = np.array(rows)
    p, folds, task = values[:, :2] / 5, values[:, 2], TASKS["multilabel"]
    ranks = to_space(task, p, "rank", folds)
    for k in set(folds.tolist()):
        assert ranks[folds == k] == pytest.approx((rankdata(p[folds == k], axis=0) - 0.5) / (folds == k).sum())
    shifted = p + 7 * (folds == 1)[:, None]
    assert (to_space(task, shifted, "rank", folds) == ranks).all()
    assert to_space(task, p, "rank") == pytest.approx((rankdata(p, axis=0) - 0.5) / len(p))
    assert from_space(task, ranks, "rank") is ranks


def test_mix_wants_a_weight_for_each_member():
    assert mix([np.ones((2, 1)), np.zeros((2, 1))], np.array([0.25, 0.75])).tolist() == [[0.25], [0.25]]
    with pytest.raises(ValueError, match="zip"):
        mix([np.ones((2, 1))], np.array([0.5, 0.5]))


@pytest.mark.parametrize("method", ["convex", "greedy", "auto"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_no_fold_sees_its_own_labels(task, method):
    problem, members = table(task, 120, quality=[0.5, 1, 1.3])
    own = problem.folds == 1
    changed = problem.y.copy()
    changed[own] = np.random.default_rng(1).permutation(problem.y[own])
    one, other = (
        Blend(p, members, "probability", method, steps=6, bags=2) for p in (problem, replace(problem, y=changed))
    )
    first, second = one.fit(~own), other.fit(~own)
    assert (first[0] == second[0]).all()
    assert first[1:] == second[1:]
    if method == "convex":
        assert (one.fit(problem.folds != 0)[0] != other.fit(problem.folds != 0)[0]).any()


def test_fit_by_method():
    problem, members = table("multiclass", quality=[0.5, 1, 1.3])
    everything = np.ones(240, bool)
    asked = Blend(problem, members, "probability", "uniform", hand=np.array([1.0, 1, 2]), steps=5, bags=2)
    w, method, gap = asked.fit(everything)
    assert (w.tolist(), method, gap) == ([1 / 3] * 3, "uniform", None)
    w, method, gap = asked.fit(everything, "hand")
    assert (w.tolist(), method, gap) == ([0.25, 0.25, 0.5], "hand", None)
    w, method, gap = asked.fit(everything, "convex")
    assert w == pytest.approx(convex(problem.task, problem.y, members)[0])
    assert method == "convex"
    assert gap <= 1e-9
    w, method, gap = asked.fit(everything, "greedy")
    assert w.sum() == pytest.approx(1)
    assert (method, gap) == ("greedy", None)
    assert asked.predict(np.array([0, 1, 0])) == pytest.approx(members[1])


def test_greedy_drives_down_a_loss_and_up_a_score():
    for name in ("log_loss", "roc_auc"):
        problem, members = table("binary", quality=[3, 0.3, 3])
        asked = Blend(replace(problem, metric=METRICS[name]), members, "probability", "greedy", steps=5, bags=2)
        assert asked.fit(np.ones(240, bool))[0].argmax() == 1


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_auto_keeps_uniform_for_exchangeable_members(task):
    for seed in range(5):
        problem, members = table(task, seed=seed)
        asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
        assert asked.choose(np.ones(240, bool)) == "uniform"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_auto_adopts_where_one_member_is_clearly_better(task):
    problem, members = table(task, quality=[0.3, 2, 2])
    asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
    w, method, gap = asked.fit(np.ones(240, bool))
    assert method in ("convex", "greedy")
    assert w[0] > 0.6
    assert (gap is not None) == (method == "convex")


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_auto_is_not_fooled_by_weights_that_fit_noise(task):
    problem, members = table(task, 45, 20)
    asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
    assert asked.choose(np.ones(45, bool)) == "uniform"


def test_auto_considers_convex_for_probabilities_only(monkeypatch):
    def refused(*_):
        raise AssertionError("convex weights mean nothing here")

    monkeypatch.setattr("pipeline.scoring.blend.convex", refused)
    problem, members = table("binary", quality=[0.3, 2, 2])
    spaced = [to_space(problem.task, p, "logit") for p in members]
    assert Blend(problem, spaced, "logit", "auto", steps=4, bags=2).choose(np.ones(240, bool)) == "greedy"


def test_auto_without_anything_to_compare_is_uniform():
    problem, members = table("binary", quality=[0.3, 2, 2])
    asked = Blend(problem, members, "probability", "auto")
    assert asked.choose(problem.folds == 0) == "uniform"
    assert replace(asked, members=members[:1]).choose(np.ones(240, bool)) == "uniform"


def test_auto_resamples_groups():
    problem, members = table("binary", 30, quality=[0.9, 1.1, 1.1], seed=2)
    times = 40
    wide = replace(problem, y=problem.y.repeat(times), folds=problem.folds.repeat(times))
    copies, unit = [p.repeat(times, 0) for p in members], np.arange(30).repeat(times)
    methods = [
        Blend(replace(wide, group=group), copies, "probability", "auto", steps=4, bags=2).choose(np.ones(1200, bool))
        for group in (None, unit)
    ]
    assert methods[0] != "uniform"
    assert methods[1] == "uniform"
