"""What the tests of this room share."""

import numpy as np

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.scoring.ranking import binary_roc_auc
from pipeline.tasks import TASKS


def problem(task, y, folds=None, classes=3):
    y = np.asarray(y)
    return Problem(
        TASKS[task], METRICS["accuracy"], classes, y, np.arange(len(y)) % 4 if folds is None else folds, None
    )


def area(happened, p):
    return binary_roc_auc(happened, p, np.ones(len(p)))
