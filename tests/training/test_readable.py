"""Images that cannot be read: refused, or left out where a config allows it."""

import numpy as np
import pytest
from house import write
from school import job_of

from pipeline.images import cache
from pipeline.images.decode import BadImage
from pipeline.store.errors import UserError
from pipeline.training.readable import every_image, labelled_images


def test_unreadable_images(school):
    job = job_of("toy/a")
    first = job.table.ids[job.table.scored][0]
    for path in (school / "cache/toy/images").glob("*.json"):
        path.write_text("[0]")

    def cannot(path, *args):
        raise BadImage("no end")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load", cannot)
        with pytest.raises(UserError, match=f"no end .id '{first}'; 1 in all.*on_bad_image"):
            labelled_images(job)
        write("n", 'base = "a"\non_bad_image = "skip-train"\n')
        array, bad = labelled_images(job_of("toy/n"))
    assert list(bad) == [0]
    assert array[np.arange(60)].shape == (60, 12, 12, 1)
    assert array[0].dtype == np.uint8


def test_every_row_that_needs_a_prediction_needs_an_image(school):
    job = job_of("toy/a")
    assert len(every_image(job, job.table.test)) == len(job.table.test)

    def cannot(path, *args):
        raise BadImage("no end")

    for path in (school / "cache/toy/images").glob("*.json"):
        path.write_text("[0]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load", cannot)
        with pytest.raises(UserError, match="no end: every test row needs a prediction"):
            every_image(job, job.table.test)
