"""The report on row scores against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pipeline.forecast.diagnosis import _spearman, diagnose
from pipeline.forecast.predictor import crossfit


def predictor(n=120, levels=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    score = x[:, 0] + rng.normal(size=n)
    target = (score > -0.5).astype(float) if levels == 2 else score
    found = crossfit(lambda k: (x, ["a", "b"]), lambda k: target, -x[:, 0], rng.integers(0, 4, n), None, 0)
    return found, target, x


def test_spearman_is_scipys_and_weights_are_copies():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 50), rng.normal(size=50)
    weight = rng.integers(0, 4, 50)
    assert _spearman(a, b)(np.ones(50)) == pytest.approx(spearmanr(a, b).statistic)
    copies = np.repeat(np.arange(50), weight)
    assert _spearman(a, b)(weight.astype(float)) == pytest.approx(spearmanr(a[copies], b[copies]).statistic)
    assert _spearman(np.ones(50), b)(np.ones(50)) == 0


def test_numbers_are_those_of_other_libraries():
    found, target, x = predictor()
    report = diagnose(found, target, x[:, 0], None)
    assert report["n"] == 120
    assert report["spearman"][0] == pytest.approx(spearmanr(found.predicted, target).statistic)
    assert report["auroc"][0] == pytest.approx(roc_auc_score(target, found.predicted))
    assert report["auroc_rule"][0] == pytest.approx(roc_auc_score(target, x[:, 0]))
    assert report["mae"][0] == pytest.approx(np.abs(found.predicted - target).mean())
    assert report["mae_gain_mean"][0] == pytest.approx(np.abs(found.mean - target).mean() - report["mae"][0])
    assert report["mae_gain_rule"][0] == pytest.approx(report["mae_rule"][0] - report["mae"][0])
    for name in ("spearman", "auroc"):
        assert report[f"{name}_gain_rule"][0] == pytest.approx(report[name][0] - report[f"{name}_rule"][0])
    for value, low, high in (
        report[name] for name in report if isinstance(report[name], list) and len(report[name]) == 3
    ):
        assert low <= value <= high
    held = (target >= found.low) & (target <= found.high)
    assert report["coverage"] == pytest.approx(held.mean())
    assert set(report["learners"]) == {"0", "1", "2", "3"}


def test_fifths_go_up_and_add_up():
    found, target, x = predictor(levels=9)
    report = diagnose(found, target, x[:, 0], None)
    fifths = report["quintiles"]
    assert "auroc" not in report
    assert [f["n"] for f in fifths] == [24] * 5
    assert [f["predicted"] for f in fifths] == sorted(f["predicted"] for f in fifths)
    assert np.mean([f["actual"] for f in fifths]) == pytest.approx(target.mean())
    lowest = np.argsort(found.predicted, kind="stable")[:24]
    assert fifths[0]["se"] == pytest.approx(target[lowest].std(ddof=1) / np.sqrt(24))


def test_intervals_are_wider_where_rows_come_in_groups():
    found, target, x = predictor()
    alone = diagnose(found, target, x[:, 0], None)["mae"]
    # Groups of rows that err alike: sorted by error, ten in a row.
    group = np.abs(found.predicted - target).argsort().argsort() // 10
    together = diagnose(found, target, x[:, 0], group)["mae"]
    assert together[0] == alone[0]
    assert together[2] - together[1] > 2 * (alone[2] - alone[1])


def test_all_right_has_no_order():
    found, _, x = predictor()
    report = diagnose(found, np.ones(120), x[:, 0], None)
    assert "auroc" not in report
    assert report["spearman"] == [0, 0, 0]
