import json

import numpy as np
import pytest
from masked import masked

from pipeline.masks.maps import Maps
from pipeline.store.errors import UserError
from pipeline.store.files import read_npy
from pipeline.store.tracking import Tracker
from pipeline.training.fold import fit_fold
from pipeline.training.mask_job import look_of, maps_layout
from pipeline.training.mask_predict import predicted
from pipeline.training.mask_shelf import predict_masks
from pipeline.training.weights import fitted
from pipeline.training.which import Which

WHICH = Which((0,))


@pytest.fixture
def trained(house):
    job = masked("[loss]\ndistance = 1.0\n")
    fit_fold(job, WHICH, Tracker(None))
    return job, WHICH.files(job.files)


def test_rows_lie_in_table_order(trained):
    job, files = trained
    predict_masks(job, WHICH, Tracker(None))
    table = job.table
    held_out = np.flatnonzero(table.folds[table.scored] == 0)
    images, _ = job.ragged(table.scored)
    network = fitted(job, files.model)
    wanted = predicted(network, images, held_out, table.sizes[table.scored][held_out], look_of(job), job.machine)
    maps = Maps(read_npy(files.oof), maps_layout(job, table.scored[held_out]))
    for i, (found, present) in enumerate(wanted):
        np.testing.assert_allclose(maps[i], found, atol=1e-3)
        np.testing.assert_allclose(maps.present(i), present, atol=1e-3)
        assert maps[i].shape[0] == 2


def test_the_receipt_tells_what_is_there(trained):
    job, files = trained
    predict_masks(job, WHICH, Tracker(None))
    receipt = json.loads(files.receipt.read_text())
    assert set(receipt["outputs"]) == {
        str(path) for path in (files.model, files.rows, files.oof, files.test, files.epochs, files.holdout)
    }
    assert not files.train.exists()
    assert not files.embeddings.exists()
    assert receipt["held_out"] == [0]
    assert receipt["trained_on"]["rows"] == 12


def test_an_unreadable_test_image_is_refused(trained):
    job, files = trained
    path = job.files.competition.data / str(job.table.paths[job.table.test[0]])
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match="has changed"):
        predict_masks(job, WHICH, Tracker(None))
    assert not files.receipt.exists()
