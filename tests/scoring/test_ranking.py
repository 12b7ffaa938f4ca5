import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.ranking import binary_average_precision, binary_roc_auc, weighted_auc
from pipeline.tasks import TASKS

# A grid of scores, so that ties are common.
scored = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)


@given(scored)
def test_auc_counts_pairs_and_survives_monotone_maps(rows):
    y, s = (np.array(v) for v in zip(*rows, strict=True))
    one, auc = np.ones(len(y)), binary_roc_auc(y, s / 8, np.ones(len(y)))
    if len(set(y)) < 2:
        assert np.isnan(auc)
        return
    higher = s[y == 1][:, None] - s[y == 0]
    assert auc == pytest.approx(((higher > 0) + 0.5 * (higher == 0)).mean())
    assert binary_roc_auc(y, np.exp(3.0 * s) - 5, one) == pytest.approx(auc)
    assert binary_roc_auc(1 - y, s / 8, one) == pytest.approx(1 - auc)


@given(scored)
def test_average_precision_by_thresholds(rows):
    y, s = (np.array(v) for v in zip(*rows, strict=True))
    score = binary_average_precision(y, s / 8, np.ones(len(y)))
    if not y.any():
        assert np.isnan(score)
        return
    expected = sum((y[s == t].sum() / y.sum()) * y[s >= t].mean() for t in set(s))
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_ranking_scores_without_any_positive_are_nan(name, task):
    y = np.zeros((3, 2), int) if task == "multilabel" else np.array([0, 0, 0])
    p = np.array([[0.1, 0.9], [0.5, 0.5], [0.6, 0.4]])
    score = METRICS[name](TASKS[task], y, p, TASKS[task].default_cuts(2))
    assert np.isnan(score) or (name, task, score) == ("average_precision", "multiclass", 1.0)


@given(scored)
def test_weighted_auc_is_that_of_alaska2(rows):
    """In the bands 0..0.4 and 0.4..1 of the true positive rate, of which the first counts twice."""
    y, s = (np.array(v) for v in zip(*rows, strict=True))
    one = np.ones(len(y))
    score = weighted_auc(y, s / 8, one)
    if len(set(y)) < 2:
        assert np.isnan(score)
        return
    # Every positive takes an even part of the rates; inside a tie it is spread over the whole tie.
    grid = (np.arange(4000) + 0.5) / 4000
    alarms, hits, _ = sk.roc_curve(y, s, drop_intermediate=False)
    right = 1 - np.interp(grid, hits + np.arange(len(hits)) * 1e-12, alarms)
    assert score == pytest.approx(np.average(right, weights=np.where(grid < 0.4, 2, 1)), abs=2e-3)
    assert weighted_auc(1 - y, -s / 8, one) >= 0
    assert weighted_auc(y, np.exp(3.0 * s), one) == pytest.approx(score)


def test_weighted_auc_minds_the_low_rates_more():
    """The one positive that is missed costs twice as much at the top of the list."""
    y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    perfect = np.arange(10, 0, -1.0)
    one = np.ones(10)
    assert weighted_auc(y, perfect, one) == 1
    late = np.where(np.arange(10) == 4, 0.0, perfect)  # ranked last of all
    assert weighted_auc(y, late, one) == pytest.approx(1 - 0.2 / 1.4)
    early = np.where(np.arange(10) == 5, 11.0, perfect)  # one negative before everybody
    assert weighted_auc(y, early, one) == pytest.approx(1 - 0.2)
    assert binary_roc_auc(y, late, one) == binary_roc_auc(y, early, one) == pytest.approx(0.8)
