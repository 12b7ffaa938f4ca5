import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.holdout import score_holdout
from pipeline.scoring.metrics import METRICS
from pipeline.store.table import HOLDOUT, TEST, Table
from pipeline.tasks import TASKS


def table(y, held, units=None):
    ids = np.array([f"r{i}" for i in range(len(y))])
    folds = np.where(held, HOLDOUT, np.arange(len(y)) % 3)
    folds[-2:] = TEST
    units = np.arange(len(y)) if units is None else units
    return Table(
        ids,
        folds,
        ids,
        units,
        ids,
        ids,
        y.astype(float).reshape(len(y), -1),
        ["a", "b", "c"],
        np.ones(len(y)),
        np.zeros((len(y), 0)),
    )


def test_only_rows_of_the_holdout_are_scored():
    rng = np.random.default_rng(0)
    y, held = rng.integers(0, 3, 200), np.arange(200) % 4 == 0
    mean = rng.random((50, 3))
    found = score_holdout(table(y, held), TASKS["multiclass"], METRICS["accuracy"], [mean], mean, None)
    assert found["score"] == accuracy_score(y[held], mean.argmax(1))
    assert found["n"] == 50
    share = found["score"]
    assert found["se"] == pytest.approx(np.sqrt(share * (1 - share) / 50), rel=0.15)


def test_rows_of_one_group_are_drawn_together():
    rng = np.random.default_rng(0)
    y, held, units = np.arange(200) // 8 % 3, np.arange(200) < 160, np.arange(200) // 8
    mean = np.eye(3)[np.where((np.arange(160) // 8) % 2, y[:160], (y[:160] + 1) % 3)] + rng.random((160, 3)) / 9
    args = (TASKS["multiclass"], METRICS["accuracy"], [mean], mean, None)
    grouped, alone = (score_holdout(table(y, held, u), *args)["se"] for u in (units, None))
    assert grouped > 2 * alone


def test_tuned_cuts_are_moved_to_the_mean_of_the_models():
    rng = np.random.default_rng(0)
    y, held = (rng.random((300, 3)) < 0.2).astype(int), np.arange(300) < 200
    models = [(0.3 * y[:200] + 0.7 * rng.random((200, 3))).astype(np.float32) for _ in range(5)]
    mean, cuts, task = np.mean(models, 0), np.array([0.4, 0.5, 0.6]), TASKS["multilabel"]
    found = score_holdout(
        table(y, held), task, METRICS["f1_macro"], models, mean, {"method": "optimal", "cuts": cuts.tolist()}
    )
    moved = match_ensemble(task, cuts, models, mean)
    assert found["score"] == pytest.approx(f1_score(y[:200], mean > moved, average="macro"))
    assert found["score"] != pytest.approx(f1_score(y[:200], mean > cuts, average="macro"), abs=1e-6)
