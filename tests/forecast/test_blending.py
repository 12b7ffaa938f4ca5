"""A blend on its shelf; see also tests/stages/test_ensemble.py, which goes through the stage."""

from types import SimpleNamespace

import numpy as np

from pipeline.forecast.blending import holds_out, predict
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_npy, write_npy


def test_a_holdout_needs_a_prediction_of_every_member(house):
    members = [RunFiles("toy/a"), RunFiles("toy/b")]
    job = SimpleNamespace(table=SimpleNamespace(holdout=np.arange(3)), members=members)
    assert not holds_out(job)
    for member in members:
        write_npy(member.holdout, np.zeros((3, 1)))
    assert holds_out(job)
    assert not holds_out(SimpleNamespace(table=SimpleNamespace(holdout=np.arange(0)), members=members))


def test_predictions_of_each_fold_and_as_deployed_are_written(house):
    files = RunFiles("toy/blend")
    fitted = SimpleNamespace(
        folds=[0, 1], model=lambda name, k: np.full((2, 1), k + 0.25), deployed=lambda name: np.full((2, 1), 0.5)
    )
    models, deployed = predict(files, fitted, "test")
    assert models.keys() == {0, 1}
    for k in (0, 1):
        np.testing.assert_array_equal(read_npy(files.fold(k).test), models[k])
    np.testing.assert_array_equal(read_npy(files.test), deployed)
