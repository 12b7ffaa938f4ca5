"""Problems that a metric can score, drawn by chance."""

import numpy as np

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

# What a row of one prediction can do; of masks see tests/masks.
# The class names of a kind (three), two values, a grade (four), a sex and two tags: five targets of one contract.
FIVE_TARGETS = [
    "kind=x",
    "kind=y",
    "kind=z",
    "a",
    "b",
    *(f"grade={g}" for g in range(4)),
    "sex=0",
    "sex=1",
    "tags=u",
    "tags=v",
]
ROW_TASKS = {name: task for name, task in TASKS.items() if name != "segmentation"}
CASES = [(name, task) for name, metric in METRICS.items() for task in metric.tasks if task in ROW_TASKS]
COLUMNS = [(n, t) for n, t in CASES if METRICS[n].unknown != "refused" and t in ("multilabel", "regression")]


def draw(name, task, seed, n, values):
    """A problem without weights, a prediction (N P; `values` columns of a regression), and what is left of the dice."""
    rng, classes = np.random.default_rng(seed), {"binary": 2, "multiclass": 4}.get(task, 3)
    if task == "multiclass":
        y, p = rng.integers(0, 4, n), rng.dirichlet(np.ones(4), n)
    elif task == "multilabel":
        y, p = rng.integers(0, 2, (n, 3)), rng.integers(1, 10, (n, 3)) / 10
    elif task == "regression":
        y, p = rng.normal(size=(n, values)), rng.normal(size=(n, values))
    else:
        y, p = rng.integers(0, classes, n), rng.integers(0, 20, (n, 1)) / 10 / (2 if task == "binary" else 1)
    return Problem(TASKS[task], METRICS[name], classes, y, np.arange(n) % 3, None), p, rng
