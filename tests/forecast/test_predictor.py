"""The row predictor finds what is there, claims nothing that is not, and never learns from the fold it predicts."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.forecast.predictor import LEARNERS, crossfit, fit, parts_of

NAMES = ["a", "b", "c"]


def rows(n, seed=0, signal=2.0):
    """Features, 0/1 contributions that the first feature tells of, and folds."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    p = 1 / (1 + np.exp(-1 - signal * x[:, 0]))
    return x, (rng.random(n) < p).astype(float), rng.integers(0, 5, n), p


def plain(x, target, folds, seed=0, group=None):
    return crossfit(lambda k: (x, NAMES), lambda k: target, x[:, 1], folds, group, seed)


@pytest.mark.parametrize("n", [100, 500])
def test_finds_a_signal(n):
    x, target, folds, p = rows(n)
    found = plain(x, target, folds)
    assert roc_auc_score(target, found.predicted) > roc_auc_score(target, p) - 0.06
    assert np.abs(found.predicted - p).mean() < (0.12 if n == 100 else 0.09)
    assert ((found.predicted >= 0) & (found.predicted <= 1)).all()
    assert abs(found.predicted.mean() - target.mean()) < 0.04


@pytest.mark.parametrize("name", LEARNERS)
def test_each_learner_predicts_means(name):
    x, target, _, p = rows(2000)
    guess = LEARNERS[name](x, target)(x)
    assert guess.mean() == pytest.approx(target.mean(), abs=0.02)
    error = ((guess - p) ** 2).mean()
    assert error == pytest.approx(p.var(), abs=0.01) if name == "constant" else error < p.var() / 10
    graded = np.searchsorted([0.4, 0.8], p) / 2
    guess = LEARNERS[name](x, graded)(x)
    assert name == "constant" or np.corrcoef(guess, graded)[0, 1] > 0.85


def test_trees_are_used_where_lines_do_not_do():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 3))
    target = ((np.abs(x[:, 0]) > 0.7) & (x[:, 1] > 0)).astype(float)
    found = fit((x, NAMES), target, np.arange(1200), 0)
    assert found.learner in ("regressor", "classifier")
    assert ((found.predict((x, NAMES)) > 0.5) == target).mean() > 0.95
    few = fit((x[:150], NAMES), target[:150], np.arange(150), 0)
    assert few.learner in ("constant", "single", "linear")
    patients = fit((x, NAMES), target, np.arange(1200) // 12, 0)
    assert patients.learner in ("constant", "single", "linear"), "a hundred patients are no 1,200 rows"


def test_noise_is_called_noise():
    gains = []
    for seed in range(6):
        x, target, folds, _ = rows(260 if seed == 0 else 150, seed, signal=0)
        found = plain(x, target, folds)
        gains.append(np.mean((found.mean - target) ** 2) - np.mean((found.predicted - target) ** 2))
    assert np.mean(gains) > -0.006
    assert np.max(gains) < 0.01


@pytest.mark.parametrize("fold, n", [(0, 350), (3, 120)])
def test_labels_of_a_fold_never_reach_its_predictions(fold, n):
    x, target, folds, _ = rows(n)
    folds = folds if n == 120 else folds % 2
    mine = folds == fold
    before = plain(x, target, folds)
    after = plain(x, np.where(mine, 1 - target, target), folds)
    for name in ("predicted", "low", "high", "mean", "rule"):
        np.testing.assert_array_equal(getattr(before, name)[mine], getattr(after, name)[mine])
    assert (before.predicted[~mine] != after.predicted[~mine]).any()


def test_strict_views_are_used_outside_the_fold():
    x, target, folds, p = rows(180)
    rng = np.random.default_rng(1)

    def view(k):
        return (x if k is None else np.where((folds == k)[:, None], x, rng.normal(size=x.shape))), NAMES

    told = crossfit(view, lambda k: target, x[:, 1], folds, None, 0)
    assert abs(np.corrcoef(told.predicted, p)[0, 1]) < 0.5, "training rows of a fold come from its own view"
    told = crossfit(
        lambda k: (x, NAMES), lambda k: target if k is None else rng.permutation(target), x[:, 1], folds, None, 0
    )
    assert np.corrcoef(told.predicted, p)[0, 1] < 0.5, "and so do its targets"
    assert np.corrcoef(told.predict((x, NAMES)), p)[0, 1] > 0.9, "the deployed fit has its own"


def test_features_of_another_schema_are_refused():
    x, target, folds, _ = rows(100)
    found = plain(x, target, folds)
    with pytest.raises(ValueError, match="are not those that the predictor was fitted on"):
        found.predict((x, ["a", "c", "b"]))
    with pytest.raises(ValueError, match="are not those"):
        found.predict((x[:, :2], NAMES[:2]), fold=1)
    np.testing.assert_array_equal(found.predict((x, NAMES), 2), found.by_fold[2].predict((x, NAMES)))


def test_parts_keep_units_whole_and_hang_on_the_seed():
    units = np.repeat([f"u{j}" for j in range(30)], 4)
    parts = parts_of(units, 0)
    assert sorted(np.bincount(parts)) == [40, 40, 40]
    assert all(len(set(parts[units == u])) == 1 for u in units)
    assert (parts != parts_of(units, 1)).any()


def test_inner_predictions_never_use_a_group_twice():
    # A label a group: a group that is in two parts could be recognised by its feature, and nothing else can.
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 6)
    target = rng.integers(0, 2, 100)[group].astype(float)
    x = np.column_stack([group, rng.normal(size=600), rng.normal(size=600)]).astype(float)
    assert roc_auc_score(target, fit((x, NAMES), target, group, 0).inner) < 0.6
    assert roc_auc_score(target, fit((x, NAMES), target, np.arange(600), 0).inner) > 0.7


@pytest.mark.parametrize("n, seeds", [(60, 6), (150, 6), (1200, 1)])
def test_intervals_hold_nine_in_ten(n, seeds):
    held = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 3))
        target = x[:, 0] + (0.2 + 0.8 * (x[:, 1] > 0)) * rng.normal(size=n)
        found = plain(x, target, rng.integers(0, 5, n))
        held.append(((target >= found.low) & (target <= found.high)).mean())
    assert 0.84 < np.mean(held) < 0.96


def test_intervals_are_narrow_where_rows_are_sure():
    x, target, folds, p = rows(1500, signal=4.0)
    folds = folds % 2
    found = plain(x, target, folds)
    width = found.high - found.low
    assert width[p > 0.98].mean() < 0.3 < width[(p > 0.3) & (p < 0.7)].mean()


@pytest.mark.parametrize("target", [np.ones(40), np.full(40, np.pi)])
def test_a_constant_is_predicted_as_such(target):
    x, _, folds, _ = rows(40)
    found = plain(x, target, folds)
    assert set(found.predicted) == {target[0]}
    assert set(found.low) == set(found.high) == {target[0]}


def test_one_group_only():
    x, target, _, _ = rows(40)
    found = fit((x, NAMES), target, np.zeros(40), 0)
    assert np.isfinite(found.predict((x, NAMES))).all()


def test_twice_the_same_bytes():
    x, target, folds, _ = rows(260)
    folds = folds % 2
    np.testing.assert_array_equal(plain(x, target, folds).predicted, plain(x, target, folds).predicted)


def test_the_level_itself_is_known_to_a_standard_error_only():
    x, target, folds, _ = rows(90)
    exact, graded = plain(x, target, folds), plain(x, 0.5 + target, folds)
    assert exact.low.min() >= 0
    assert exact.high.max() <= 1
    some = graded.by_fold[0]
    assert some.margin == pytest.approx(target[folds != 0].std() / np.sqrt((folds != 0).sum()))
    low, high = some.interval(np.array([1.5]))
    assert high[0] == 1.5 + some.margin
    assert low[0] <= 1.5 - some.margin


@pytest.mark.parametrize("factor, slope", [(3.0, 1 / 3), (1.0, 1.0), (-1.0, 0.0), (0.1, 2.0)])
def test_predictions_are_drawn_back_to_what_they_are_worth(factor, slope, monkeypatch):
    monkeypatch.setitem(LEARNERS, "linear", lambda x, t: lambda q: factor * q[:, 0] + 5)
    monkeypatch.setitem(LEARNERS, "single", LEARNERS["constant"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 3))
    found = fit((x, NAMES), x[:, 0] + 0.01 * rng.normal(size=150), np.arange(150), 0)
    assert found.learner == ("linear" if slope else "constant")
    if slope:
        assert found.line[0] == pytest.approx(slope, abs=0.01)
        assert found.predict((x, NAMES)).mean() == pytest.approx(x[:, 0].mean(), abs=0.01)
