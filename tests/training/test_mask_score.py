from dataclasses import replace

import numpy as np
import pytest
from masked import masked

from pipeline.training.mask_job import truth_of
from pipeline.training.mask_score import Scores


@pytest.mark.parametrize(
    "given", [{}, {"classes": 2}, {"classes": 3, "masks": "exclusive = true", "metric": "mean_iou"}]
)
def test_perfect_masks_score_one_and_cost_nothing(house, given):
    job = masked(**given)
    truth, rows = truth_of(job), job.table.scored
    scores = Scores(job, rows)
    for row in rows.tolist():
        scores.add(truth[row].astype(np.float16), np.ones(len(truth[row])))
    assert scores.loss == pytest.approx(0, abs=1e-5)
    assert scores.metric.reduce(scores.stats, np.ones(len(rows))) == 1


def test_classes_that_are_not_asked_for_are_not_scored(house):
    job = masked(classes=3, masks="exclusive = true", metric="iou")
    job = replace(job, table=replace(job.table, scored_classes=(1, 2)))
    truth, rows = truth_of(job), job.table.scored
    scores = Scores(job, rows)
    for row in rows.tolist():
        scores.add(np.eye(3)[1][:, None, None] * np.ones(truth[row].shape), np.ones(3))  # all is of the second class
    wanted = [[truth[row][1].mean(), not truth[row][2].any()] for row in rows.tolist()]
    np.testing.assert_allclose(scores.stats, wanted)


def test_log_loss_is_of_pixels(house):
    job = masked(classes=2)
    truth, (row, *_) = truth_of(job), job.table.scored.tolist()
    p = np.random.default_rng(0).uniform(0.1, 0.9, truth[row].shape).astype(np.float32)
    scores = Scores(job, np.array([row]))
    scores.add(p, np.ones(2))
    wanted = -np.where(truth[row], np.log(p), np.log(1 - p)).mean()
    assert scores.loss == pytest.approx(wanted, rel=1e-5)


def test_log_loss_of_exclusive_classes(house):
    job = masked(classes=3, masks="exclusive = true", metric="mean_iou")
    truth, (row, *_) = truth_of(job), job.table.scored.tolist()
    p = np.random.default_rng(0).dirichlet([1, 1, 1], truth[row].shape[1:]).transpose(2, 0, 1).clip(0.01)
    scores = Scores(job, np.array([row]))
    scores.add(p.astype(np.float32), np.ones(3))
    assert scores.loss == pytest.approx(-np.log(p[truth[row]]).sum() / truth[row][0].size, rel=1e-5)


def test_objects_are_those_of_the_truth(house):
    job = masked(metric="dsb_precision", masks="objects = true")
    truth, rows = truth_of(job), job.table.scored
    scores = Scores(job, rows)
    for row in rows.tolist():
        scores.add(truth[row].astype(np.float32), np.ones(1))
    assert scores.stats.shape == (len(rows), 1)
    assert scores.stats.min() == 1
