import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posed import area, problem

from pipeline.difficulty.difficulty import (
    AMBIGUOUS,
    EASY,
    HARD,
    Cuts,
    as_ranked,
    corrected_doubt,
    crossfit,
    cut_offs,
    fit_errors,
    stated_doubt,
    suggest,
    trees,
    wrong_rows,
)
from pipeline.tasks import TASKS


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_stated_doubt_is_the_chance_of_being_wrong():
    of = {name: lambda p, name=name: sigmoid(stated_doubt(TASKS[name], np.array(p))) for name in TASKS}
    np.testing.assert_allclose(of["multiclass"]([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]]), [0.3, 0.4])
    np.testing.assert_allclose(of["binary"]([[0.9], [0.2], [0.5]]), [0.1, 0.2, 0.5])
    np.testing.assert_allclose(of["multilabel"]([[0.9, 0.2]]), [1 - 0.9 * 0.8])
    np.testing.assert_allclose(of["ordinal"]([[1.2]]), [0.5])
    assert np.isfinite(stated_doubt(TASKS["binary"], np.array([[0.0], [1.0]]))).all()


def test_what_is_wrong():
    labels = np.array([0, 1, 2])
    assert wrong_rows(problem("multiclass", [0, 2, 2]), np.zeros((3, 3)), labels).tolist() == [False, True, False]
    rows = wrong_rows(problem("multilabel", [[0, 1], [1, 1]]), np.zeros((2, 2)), np.array([[0, 1], [1, 0]]))
    assert rows.tolist() == [False, True]


def test_a_value_is_wrong_by_the_errors_of_other_folds():
    y = np.zeros((8, 1))
    folds = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p = np.array([1.0, 1, 1, 1, 1.6, 1.6, 1.6, 1.6])[:, None]
    # Errors of 1 are small beside 1.4826 x 1.6, errors of 1.6 large beside 1.4826 x 1; pooled, none would be wrong.
    assert wrong_rows(problem("regression", y, folds), p, p).tolist() == [False] * 4 + [True] * 4
    rng = np.random.default_rng(0)
    p, y = rng.normal(0, 1, (4000, 1)), np.zeros((4000, 1))
    assert wrong_rows(problem("regression", y), p, p).mean() == pytest.approx(0.317, abs=0.03), "beyond one sd"
    assert not wrong_rows(problem("regression", y), y, y).any()


@pytest.mark.parametrize("seed", range(4))
def test_binned_trees_are_those_of_scikit_learn(seed):
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(seed)
    x = np.column_stack(
        [rng.normal(size=900), rng.normal(size=900).round(1), rng.integers(0, 3, 900), rng.normal(size=900).round(2)]
    )
    weight = [np.ones(900), rng.random(900), rng.integers(0, 3, 900).astype(float), rng.random(900).round(1)][seed]
    wrong, new = rng.random(900) < sigmoid(2 * x[:, 0] + x[:, 1]), rng.normal(size=(500, 4)).round(1)
    new[:, 0] += rng.normal(size=500)
    scorer = trees(x, wrong, weight)
    settings = {"max_iter": 60, "max_leaf_nodes": 8, "min_samples_leaf": 20, "l2_regularization": 1.0}
    theirs = HistGradientBoostingClassifier(**settings, early_stopping=False, random_state=0)
    theirs.fit(x, wrong, sample_weight=weight)
    middle = np.average(theirs.decision_function(x), weights=weight)
    np.testing.assert_allclose(scorer(new), theirs.decision_function(new) - middle, atol=1e-9)
    np.testing.assert_allclose(scorer(x), theirs.decision_function(x) - middle, atol=1e-9)


def errors(n, seed, signal=1.0, columns=6):
    """Features, first the stated doubt, of which the second knows of errors too."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, columns))
    x[:, 0] -= 2
    return x, rng.random(n) < sigmoid(x[:, 0] + signal * x[:, 1]), np.arange(n) % 5


def test_without_errors_the_stated_order_stays():
    x, _, folds = errors(100, 0)
    nothing = np.zeros(100, bool)
    score = corrected_doubt(x, nothing, np.ones(100))(x)
    assert np.corrcoef(score, x[:, 0])[0, 1] > 0.999
    model = fit_errors(x, nothing, np.ones(100), folds)
    assert model.own.sum() == pytest.approx(1, rel=0.5), "one error more than none"


def test_the_correction_learns_what_the_prediction_does_not_know():
    x, wrong, folds = errors(2000, 1)
    model = fit_errors(x, wrong, np.ones(2000), folds)
    new, happened, _ = errors(4000, 2)
    assert area(happened, model.predict(new)) > area(happened, new[:, 0]) + 0.05
    best = area(happened, new[:, 0] + new[:, 1])
    assert area(happened, model.predict(new)) > best - 0.01
    assert model.predict(new).mean() == pytest.approx(happened.mean(), abs=0.03)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 1)):
        rows = (model.predict(new) >= low) & (model.predict(new) < high)
        assert model.predict(new)[rows].mean() == pytest.approx(happened[rows].mean(), abs=0.06)


def test_own_rows_are_told_by_learners_that_did_not_see_them():
    """Noise columns as many as a fit can drown in: seen in-sample they would explain anything."""
    rng = np.random.default_rng(3)
    x, wrong = np.column_stack([np.zeros(150), rng.normal(0, 30, (150, 60))]), rng.random(150) < 0.3
    own = fit_errors(x, wrong, np.ones(150), np.arange(150) % 5).own
    score = corrected_doubt(x, wrong, np.ones(150))(x)
    assert area(wrong, score) > 0.75
    assert area(wrong, own) < 0.65


def test_a_fold_with_many_errors_does_not_turn_the_score_around():
    """The base rate of the other folds is low where a fold's is high; that alone must not look like a bad score."""
    rng = np.random.default_rng(4)
    folds = np.arange(600) % 3
    x = np.column_stack([rng.normal(0, 1, 600), np.zeros(600)])
    wrong = rng.random(600) < np.array([0.05, 0.3, 0.6])[folds] * sigmoid(4 * x[:, 0]) * 1.5
    assert area(wrong, fit_errors(x, wrong, np.ones(600), folds).own) > 0.7


def test_weights_decide_which_errors_count():
    x, wrong, folds = errors(1000, 5)
    believed = np.where(x[:, 2] > 0, 0.0, 1.0)
    turned = wrong ^ (believed == 0)
    trusting, doubting = (fit_errors(x, turned, w, folds) for w in (np.ones(1000), believed))
    new, happened, _ = errors(2000, 6)
    assert area(happened, doubting.predict(new)) > area(happened, trusting.predict(new)) + 0.02


def test_trees_are_chosen_where_they_are_better():
    rng = np.random.default_rng(7)
    x = np.column_stack([np.full(1500, -1.0), rng.normal(0, 1, (1500, 2))])
    wrong = rng.random(1500) < np.where(x[:, 1] * x[:, 2] > 0, 0.7, 0.05)
    folds = np.arange(1500) % 2
    model = fit_errors(x, wrong, np.ones(1500), folds, ("logistic", "trees"))
    assert model.learner == "trees"
    assert area(wrong, model.own) > 0.8
    linear, happened, _ = errors(1500, 8)
    assert fit_errors(linear, happened, np.ones(1500), folds, ("logistic", "trees")).learner == "logistic"
    believed = (rng.random(1500) < 0.5).astype(float)
    turned = np.where(believed > 0, wrong, ~wrong)
    assert area(wrong, trees(x, turned, believed)(x)) > area(wrong, trees(x, turned, np.ones(1500))(x)) + 0.02
    few = trees(x[:60], wrong[:60], np.ones(60))
    assert not few(x).any(), "no tree grows on few errors"


def brute_cuts(p, wrong, weight, easy_error, share):
    easy, hard = -np.inf, np.inf
    for cut in np.unique(p):
        rows = p <= cut
        if (weight * wrong)[rows].sum() < easy_error * weight[rows].sum():
            easy = cut
    total = (weight * wrong).sum()
    for cut in np.unique(p)[::-1]:
        hard = cut
        if (weight * wrong)[p >= cut].sum() >= share * total - 1e-12:
            break
    return easy, hard if total > 0 else np.inf


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), easy=st.floats(0.01, 0.9), share=st.floats(0.05, 0.99))
@settings(max_examples=80, deadline=None)
def test_cut_offs_are_the_largest_and_the_smallest_set(seed, n, easy, share):
    rng = np.random.default_rng(seed)
    p, weight = rng.integers(0, 8, n) / 8, rng.integers(0, 3, n) / 2
    wrong = rng.random(n) < p
    found = cut_offs(p, wrong, weight, easy, share)
    assert (found.easy, found.hard) == brute_cuts(p, wrong, weight, easy, share)


def test_tags():
    tags = Cuts(0.1, 0.4).tags(np.array([0.05, 0.1, 0.2, 0.4, 0.9]))
    assert tags.tolist() == [EASY, EASY, AMBIGUOUS, HARD, HARD]
    assert Cuts(0.6, 0.4).tags(np.array([0.5, 0.3])).tolist() == [HARD, EASY], "hard wins"
    assert Cuts(0.6, np.inf).tags(np.array([0.5, 0.9])).tolist() == [EASY, AMBIGUOUS], "no errors, nothing is hard"


def test_nothing_of_a_fold_enters_its_own_numbers():
    x, wrong, folds = errors(400, 9)
    asked = []

    def believe(rows):
        asked.append(rows.copy())
        return np.ones(rows.sum())

    before = crossfit(x, wrong, folds, believe, 0.05, 0.8, ("logistic",))
    masks = [rows for rows in asked if not rows.all()]
    assert sorted(np.unique(folds[~rows]).tolist() for rows in masks) == [[k] for k in range(5)]
    changed = np.where(folds == 2, ~wrong, wrong)
    after = crossfit(x, changed, folds, believe, 0.05, 0.8, ("logistic",))
    assert (before.p_error[folds == 2] == after.p_error[folds == 2]).all()
    assert (before.tags[folds == 2] == after.tags[folds == 2]).all()
    assert before.by_fold[2] == after.by_fold[2]
    assert not np.allclose(before.p_error[folds == 1], after.p_error[folds == 1])
    assert before.cuts != after.cuts, "the deployed ones are fitted on all rows"


def test_the_sets_hold_what_they_promise_on_rows_they_were_not_fitted_on():
    x, wrong, folds = errors(6000, 10, signal=2.0)
    found = crossfit(x, wrong, folds, lambda rows: np.ones(rows.sum()), 0.05, 0.8, ("logistic",))
    assert wrong[found.p_error <= found.cuts.easy].mean() == pytest.approx(0.05, abs=0.015)
    assert wrong[found.tags == HARD].sum() / wrong.sum() == pytest.approx(0.8, abs=0.04)
    assert (found.tags == HARD).mean() < 0.7


def test_as_ranked_has_the_order_of_one_and_the_values_of_the_other():
    rng = np.random.default_rng(0)
    p, reference = rng.random(300) ** 3, rng.random(500)
    carried = as_ranked(p, reference)
    assert (np.argsort(carried, kind="stable") == np.argsort(p, kind="stable")).all()
    assert np.isin(carried, reference).all()
    assert carried.max() == reference.max()
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(carried, q) == pytest.approx(np.quantile(reference, q), abs=0.02)
    assert len(np.unique(as_ranked(np.zeros(5), reference))) == 1, "equal rows stay equal"


def test_suggested_targets_are_prediction_columns():
    said = suggest(problem("multiclass", [0, 0]), np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]]))
    np.testing.assert_array_equal(said, [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(suggest(problem("binary", [0, 0]), np.array([[0.2], [0.7]])), [[0], [1]])
    np.testing.assert_array_equal(suggest(problem("multilabel", [[0, 0]]), np.array([[0.2, 0.7, 0.9]])), [[0, 1, 1]])
    np.testing.assert_array_equal(suggest(problem("ordinal", [0, 0]), np.array([[1.4], [1.6]])), [[1], [2]])
    np.testing.assert_array_equal(suggest(problem("regression", [[0.0]]), np.array([[1.4]])), [[1.4]])
