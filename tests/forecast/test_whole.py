"""The folds of a run put together."""

from dataclasses import replace

import numpy as np
import pytest
from house import make_competition, prepare, stage
from sklearn.metrics import roc_auc_score

from pipeline.forecast.whole import whole_rows
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import load_competition
from pipeline.store.files import read_npy, write_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.runs import load_run
from pipeline.store.train import Train


@pytest.fixture
def job(house):
    """A trained run as its stage poses it."""
    from pipeline.stages.train import pose

    make_competition(house, "binary")
    prepare()
    stage("train", "toy/a")
    files, config = RunFiles("toy/a"), load_run("toy/a")
    assert isinstance(config, Train)
    return pose(config, load_competition("toy"), files, read_table_facts(files.competition), {})


def test_rows_are_of_the_model_that_never_saw_them_and_test_of_all(job):
    rng, table, files = np.random.default_rng(0), job.table, job.files
    folds, y = table.folds[table.scored], table.y[table.scored, 0]
    tests = rng.random((3, len(table.test), 1)).astype(np.float32)
    oof = rng.random((len(folds), 1)).astype(np.float32)
    for k in range(3):
        write_npy(files.fold(k).oof, oof[folds == k])
        write_npy(files.fold(k).test, tests[k])
    found = whole_rows(replace(job))
    np.testing.assert_array_equal(read_npy(files.oof), oof)
    np.testing.assert_allclose(read_npy(files.test), tests.mean(0), atol=1e-6)
    assert found.report["score"] == pytest.approx(roc_auc_score(y, oof[:, 0]))
    assert found.report["size_matched"]["models"] == 3
    assert found.decision is None  # an area under the curve needs no cuts
