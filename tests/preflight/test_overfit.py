import numpy as np
import pytest

from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.overfit import chosen, judged_overfit, known, overfit
from pipeline.tasks import TASKS


def test_verdicts():
    assert judged_overfit(0.2, 0.0, False) == OK
    assert judged_overfit(-0.05, 0.01, False) == LOOK
    assert judged_overfit(-0.3, 0.01, False) == BROKEN
    assert judged_overfit(0.2, -0.5, False) == BROKEN
    assert judged_overfit(0.2, -0.5, True) == LOOK
    assert judged_overfit(float("nan"), 0.01, True) == BROKEN


def test_how_well_a_batch_is_known():
    y = np.array([0, 1, 2, 1])
    assert known(TASKS["multiclass"], y, np.eye(3)[[0, 1, 2, 2]]) == 0.75
    assert known(TASKS["ordinal"], y, np.array([[0.2], [0.8], [1.6], [2.4]])) == 0.75
    assert known(TASKS["multilabel"], np.array([[1, 0], [np.nan, 1]]), np.array([[0.9, 0.8], [0.1, 0.7]])) == 2 / 3
    values = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert known(TASKS["regression"], values, values + 1) == pytest.approx(1 - 1 / 1.25)


def test_rows_come_from_all_classes_in_turn(material):
    one = material()
    rows = chosen(one, 12)
    labels = one.job.table.y[one.job.table.labelled][rows, 0]
    assert len(set(rows)) == 12
    assert set(np.bincount(labels.astype(int), minlength=4)) == {3}


@pytest.mark.parametrize("task", ["multilabel", "ordinal", "regression", "segmentation"])
def test_a_few_rows_can_be_learnt_by_heart(task, material):
    found = overfit(material(task))
    assert found.verdict == OK, found.seen
    assert found.points[0][1] > found.points[-1][1]


def test_a_head_that_says_nothing_cannot(material):
    one = material()
    one.first.head.register_forward_hook(lambda module, given, out: out * 0)
    found = overfit(one)
    assert found.verdict == BROKEN
    assert len(found.points) == 200
    assert overfit(one, steps=20).verdict == LOOK
