import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.difficulty.risk import auroc_inside, risk
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


def problem(n, group=None, folds=None):
    folds = np.arange(n) % 4 if folds is None else folds
    return Problem(TASKS["multiclass"], METRICS["accuracy"], 3, np.zeros(n, np.int64), folds, group)


def sample(n, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random(n) ** 2
    tags = np.where(p < 0.1, "easy", np.where(p > 0.5, "hard", "ambiguous"))
    return p, rng.random(n) < p, tags


def test_comparisons_are_made_inside_blocks():
    p, happened, _ = sample(80)
    weight, blocks = np.random.default_rng(1).integers(0, 3, 80).astype(float), np.arange(80) % 3
    better = total = 0.0
    for i in np.flatnonzero(happened):
        for j in np.flatnonzero(~happened):
            if blocks[i] == blocks[j]:
                total += weight[i] * weight[j]
                better += weight[i] * weight[j] * ((p[i] > p[j]) + (p[i] == p[j]) / 2)
    assert auroc_inside(happened, p, blocks)(weight) == pytest.approx(better / total)
    assert auroc_inside(happened, p, np.zeros(80))(np.ones(80)) == pytest.approx(roc_auc_score(happened, p))
    assert np.isnan(auroc_inside(np.zeros(80, bool), p, blocks)(weight))


def test_the_scale_of_a_fold_does_not_matter():
    p, happened, _ = sample(200)
    folds = np.arange(200) % 4
    shifted = p - 5.0 * folds
    assert auroc_inside(happened, p, folds)(np.ones(200)) == auroc_inside(happened, shifted, folds)(np.ones(200))


def test_the_report_is_of_the_rows():
    p, wrong, tags = sample(400)
    believed = np.random.default_rng(2).random(400)
    report = risk(problem(400), p, wrong, believed, tags)
    folds = np.arange(400) % 4
    assert report["score"] == pytest.approx(auroc_inside(wrong, p, folds)(believed))
    assert report["given"]["score"] == pytest.approx(auroc_inside(wrong, p, folds)(np.ones(400)))
    assert report["low"] < report["score"] < report["high"]
    assert report["per_fold"][1] == pytest.approx(
        roc_auc_score(wrong[folds == 1], p[folds == 1], sample_weight=believed[folds == 1])
    )
    hard = tags == "hard"
    found = report["tags"]["hard"]
    assert found["score"] == pytest.approx(np.average(wrong[hard], weights=believed[hard]))
    assert (found["given"], found["share"], found["n"]) == (wrong[hard].mean(), hard.mean(), hard.sum())
    least = np.argsort(p)[:200]
    assert report["coverage"]["0.5"]["score"] == pytest.approx(np.average(wrong[least], weights=believed[least]))
    risks = [report["coverage"][c]["score"] for c in ("0.5", "0.8", "0.9")]
    assert risks == sorted(risks)
    assert report["tags"]["suspect"]["n"] == 0
    assert np.isnan(report["tags"]["suspect"]["score"])


def test_the_interval_of_the_area_covers():
    inside, (many, happened, _) = 0, sample(40_000, 1)
    for seed in range(16):
        p, wrong, tags = sample(100, seed + 100)
        report = risk(problem(100), p, wrong, np.ones(100), tags)
        inside += report["low"] < roc_auc_score(happened, many) < report["high"]
    assert inside >= 13


def test_no_error_is_no_proof_of_none():
    p, _, tags = sample(100)
    report = risk(problem(100), p, np.zeros(100, bool), np.ones(100), tags)
    easy = report["tags"]["easy"]
    assert easy["score"] == easy["low"] == 0
    assert easy["high"] == pytest.approx(1.96**2 / (easy["n"] + 1.96**2)), "Wilson's upper end"
    assert np.isnan(report["score"])
    assert np.isnan(report["se"])


def test_groups_are_drawn_together():
    p, wrong, tags = sample(60)
    many = [np.repeat(a, 10) for a in (p, wrong, tags)]
    folds, ones = np.repeat(np.arange(60) % 4, 10), np.ones(600)
    rows = risk(problem(600, None, folds), *many[:2], ones, many[2])
    groups = risk(problem(600, np.repeat(np.arange(60), 10), folds), *many[:2], ones, many[2])
    assert groups["se"] > 2 * rows["se"]
