"""Views hold the predictions of models that never trained on a row, at cuts fitted without it."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.forecast.views import Seen, Source
from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

N, TEST, K = 12, 4, 3
FOLDS = np.arange(N) % K


def seen(leaf, held_out):
    """A model whose every number says which model it is: leaf.fold, or leaf.first-second for a pair."""
    code = (ord(leaf) - ord("a") + 1) / 10 + sum((k + 1) / 10 ** (j + 2) for j, k in enumerate(held_out))
    known = ~np.isin(np.r_[FOLDS, np.full(TEST, -1)], [*held_out, -1])
    values = np.where(known, np.nan, code)
    return Seen(values[:, None].astype(np.float32), values, 10 * values)


def source(task="binary", metric="roc_auc", decision=None, decisions=None):
    problem = Problem(TASKS[task], METRICS[metric], 2, np.arange(N) % 2, FOLDS, None)
    statistics = np.arange(N + TEST)[:, None].astype(float)
    leaves = {leaf: (decisions or {}).get(leaf) for leaf in "ab"}
    return Source(problem, decision, leaves, seen, statistics, np.array([f"g{i}" for i in range(N + TEST)]))


def column(view, name):
    return view.features[0][:, view.features[1].index(name)]


def test_a_row_is_seen_by_the_models_of_its_fold():
    view = source().scored(lambda below: below["a"])
    for m, leaf in enumerate("ab"):
        want = [seen(leaf, (k,)).p[k, 0] for k in FOLDS]
        np.testing.assert_array_equal(view.leaves[m][:, 0], np.array(want, np.float32))
    np.testing.assert_array_equal(view.run, view.leaves[0])
    both = [np.mean([seen(leaf, (k,)).spread[k] for leaf in "ab"]) for k in FOLDS]
    np.testing.assert_allclose(column(view, "tta_sd"), both)
    np.testing.assert_allclose(column(view, "distance"), 10 * np.array(both))
    np.testing.assert_array_equal(column(view, "image0"), np.arange(N))
    assert view.blocks.tolist() == [f"g{i}" for i in range(N)]
    assert np.isfinite(view.features[0]).all(), "no number of a model that trained on the row"


@pytest.mark.parametrize("blind", range(K))
def test_a_strict_view_is_by_pairs(blind):
    view = source().scored(lambda below: (below["a"] + below["b"]) / 2, blind)
    for m, leaf in enumerate("ab"):
        held = [(k,) if k == blind else tuple(sorted((k, blind))) for k in FOLDS]
        want = [seen(leaf, pair).p[k, 0] for k, pair in zip(FOLDS, held, strict=True)]
        np.testing.assert_array_equal(view.leaves[m][:, 0], np.array(want, np.float32))
    np.testing.assert_allclose(view.run, view.leaves.mean(0))
    assert np.isfinite(view.features[0]).all()


@pytest.mark.parametrize("blind", [None, 1])
def test_votes_are_those_of_the_models_that_see_the_row(blind):
    def voting(leaf, held_out):
        model = seen(leaf, held_out)
        said = np.where(leaf == "b" and np.arange(N + TEST) == 5, np.nan, 2 * model.spread)
        return replace(model, votes=said[:, None])

    where = replace(source(), seen=voting)
    view = where.scored(lambda below: below["a"], blind)
    held = [(k,) if blind in (None, k) else tuple(sorted((k, blind))) for k in FOLDS]
    want = np.array([np.mean([2 * seen(leaf, h).spread[k] for leaf in "ab"]) for k, h in zip(FOLDS, held, strict=True)])
    want[5] = 2 * seen("a", held[5]).spread[5]
    np.testing.assert_allclose(view.votes[:, 0], want)
    np.testing.assert_array_equal(view.of(np.arange(3, 7)).votes, view.votes[3:7])
    raw = np.zeros((TEST, 1), np.float32)
    test = where.test(raw, 2)
    np.testing.assert_allclose(test.votes[:, 0], 2 * np.mean([seen(leaf, (2,)).spread[N:] for leaf in "ab"], 0))
    assert source().test(raw, 2).votes is None


def test_test_rows_are_seen_by_one_fold():
    raw = np.linspace(0, 1, TEST, dtype=np.float32)[:, None]
    view = source().test(raw, 2)
    np.testing.assert_array_equal(view.raw, raw)
    np.testing.assert_array_equal(view.leaves[1][:, 0], np.full(TEST, seen("b", (2,)).p[2, 0]))
    np.testing.assert_array_equal(column(view, "image0"), np.arange(N, N + TEST))
    assert view.blocks.tolist() == [f"g{i}" for i in range(N, N + TEST)]
    assert view.features[1] == source().scored(lambda below: below["a"]).features[1]


def test_each_row_is_carried_from_the_cuts_of_its_fold():
    decision = {"method": "ratio", "cuts": [0.4], "by_fold": {"0": [0.2], "1": [0.6], "2": [0.5]}}
    raw = np.full((N, 1), 0.55, np.float32)
    where = source("binary", "f1", decision, {"a": decision})
    view = where.scored(lambda below: raw)
    np.testing.assert_array_equal(view.run[:, 0] > 0.5, FOLDS != 1)
    np.testing.assert_array_equal(view.raw, raw)
    np.testing.assert_array_equal(
        view.leaves[0][:, 0] > 0.5, [seen("a", (k,)).p[k, 0] > {0: 0.2, 1: 0.6, 2: 0.5}[k] for k in FOLDS]
    )
    np.testing.assert_array_equal(view.leaves[1][:, 0], [seen("b", (k,)).p[k, 0] for k in FOLDS])
    assert (where.scored(lambda below: raw, 1).run < 0.5).all(), "a strict view is decided by the cuts of its fold"
    assert (where.test(raw[:TEST], 1).run < 0.5).all()


def test_the_submission_is_decided_as_submit_does():
    decision = {"method": "ratio", "cuts": [0.4], "by_fold": {"0": [0.2], "1": [0.6], "2": [0.5]}}
    where = source("binary", "f1", decision)
    told = np.array([[0.95, 0.3, 0.3, 0.3], [0.3, 0.9, 0.3, 0.3], [0.3, 0.3, 0.85, 0.3]], np.float32)
    models = [where.test(told[k][:, None], k) for k in range(K)]
    mean = np.mean([view.raw for view in models], 0)
    moved = match_ensemble(TASKS["binary"], np.array([0.4]), [view.raw for view in models], mean)
    whole = where.whole(mean, models)
    assert ((mean > 0.4) != (mean > moved)).sum() == 2, "each model takes one row of four, so the mean does"
    np.testing.assert_array_equal(whole.run[:, 0] > 0.5, mean[:, 0] > moved[0])
    np.testing.assert_array_equal(whole.raw, mean)
    fixed = source("binary", "f1", decision | {"method": "fixed", "cuts": [0.5]}).whole(mean, models)
    np.testing.assert_array_equal(fixed.run, mean)
