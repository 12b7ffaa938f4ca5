import shutil

import numpy as np
import pytest
from masked import N, job_of, masked

from pipeline.nets.mask_objective import Heads
from pipeline.store.errors import UserError
from pipeline.training.job import check_names
from pipeline.training.mask_job import look_of, maps_layout, mask_objective


@pytest.fixture
def of(house):
    def build(text="", more="", **given):
        job = masked(more, **given)
        if text:
            job.files.config.write_text(job.files.config.read_text().replace(*text))
            job = job_of(job.competition, job.table)
        return job

    return build


@pytest.mark.parametrize("text, words", [
    (("size = 16", "size = 16\ncrop = 8"), "image.crop is not for a segmentation"),
    (("size = 16", 'size = 16\nnormalize = "group"'), "image.normalize"),
    (("size = 16", "size = 14\nfit = \"pad\""), "'r0' is 16 x 12"),
    (("size = 16", 'size = [16, 20]\n[predict]\ntta = "d4"'), "must be square"),
    (("size = 16", 'size = 16\n[predict]\ntta = "d5"'), "d4"),
    (("size = 16", 'size = 16\n[loss]\nname = "focal"'), "loss.name"),
    (("size = 16", "size = 16\n[loss]\nterms = {lovas = 1.0}"), "lovasz"),
    (("epochs = 2", "epochs = 2\nindicators = true"), "indicators"),
    (("epochs = 2", 'epochs = 2\nteacher = "b"'), "teacher"),
    (('name = "small_unet"', 'name = "small_net"'), "small_unet"),
    (("size = 16", 'size = 16\n[sampling]\nbalance = "balanced"'), "equal = true is that of masks"),
    (("size = 16", "size = 16\n[sampling]\nrepeat = { c9 = 2 }"), "no class 'c9'"),
    (("size = 16", 'size = 16\n[decouple]\nmethod = "ncm"'), "decouple.method is not for a segmentation"),
    (("size = 16", "size = 16\n[predict]\nlogit_adjust = 1.0"), "predict.logit_adjust is not for"),
    (("size = 16", "size = 16\n[loss]\nlogit_adjust = 1.0"), "loss.logit_adjust is not for"),
    (("size = 16", "size = 16\n[loss]\nauxiliary = { a = 1.0 }"), "does not name; give it"),
    (("[image]", 'multiscale = "concat"\n[image]'), "hypercolumn = true is that of masks"),
    (("[image]", "dropout = 0.1\ndropouts = 2\n[image]"), "model.dropouts is not for"),
    (("[image]", "drop_path = 0.1\n[image]"), "has no residual blocks"),
    (("[image]", 'act = "rellu"\n[image]'), "did you mean 'relu'"),
])  # fmt: skip
def test_refused_before_anything_is_trained(of, text, words):
    with pytest.raises(UserError, match=words) as caught:
        check_names(of(text))
    assert "\n" not in str(caught.value)


def test_settings_that_contradict(of):
    for text, words in [
        (("[image]", 'coordinates = true\n[image]\nfit = "tiles"'), "a tile may lie anywhere"),
        (("[image]", "presence = true\n[loss]\npresence = 0.0\n[image]"), "needs loss.presence"),
        (("[image]", "[sampling]\nequal = true\nnon_empty = [1.0, 1.0]\n[image]"), "exclude each other"),
        (("[image]", '[predict]\nwindow = "gauss"\n[image]'), "window"),
    ]:
        with pytest.raises(UserError, match=words):
            of(text)


def test_the_disk_is_asked_first(of, monkeypatch):
    job = of()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(UserError, match="the predicted masks of the run needs"):
        check_names(job)


def test_layout_follows_scale_and_distance(of):
    job = of(more="[loss]\ndistance = 1.0\n[predict]\nshelf_scale = 0.5\n", classes=2)
    plan = maps_layout(job, job.table.scored)
    assert (len(plan), plan.classes, plan.extra) == (N, 2, 1)
    assert (plan.sizes == np.ceil(job.table.sizes[job.table.scored] / 2)).all()
    assert look_of(job).scale == 0.5


def test_edges_are_of_the_rows_that_are_trained_on(of):
    job = of(more="[loss]\nsize_classes = 1.0\n")
    rows = job.table.scored[:9]
    share = job.table.y[rows, 0]
    wanted = np.quantile(share[share > 0], [1 / 3, 2 / 3])
    np.testing.assert_allclose(mask_objective(job, Heads(1, 0, 4), rows).edges, wanted, rtol=1e-6)
    assert mask_objective(job, Heads(1, 0, 4), rows).presence == 0
