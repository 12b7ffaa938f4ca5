import numpy as np
import pytest
import torch

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.images.ragged import Ragged, Stretch
from pipeline.nets.machine import Machine
from pipeline.training.feed import Resident, feed, lies_there
from pipeline.training.sampling import Batches, Lessons, Views

CPU = Machine("cpu", "fp32", 1)


def pictures(dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 200, (11, 10, 14, 3)).astype(dtype)
    return Rows([images[:4], images[4:]], np.zeros((11, 0)))


def epochs_of(batches, given):
    found = []
    for batches.epoch in (0, 1):
        found += [(batches.epoch, views.numpy(), rows.tolist()) for views, rows in given]
    return found


@pytest.mark.parametrize("recipe, crop", [("none", 0), ("none", 7), ("shift", 0), ("shift", 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_device_gives_what_workers_give(recipe, crop, dtype):
    views, lessons = Views(pictures(dtype), augmenter(recipe, crop), 5), Lessons.of(np.arange(1, 11))
    lists = []
    for make in (feed, Resident):
        batches = Batches(lessons, 4, 5, 9)
        lists.append(epochs_of(batches, make(views, batches, CPU)))
    assert len(lists[0]) == 6
    for (epoch, ours, rows), (again, theirs, same) in zip(*lists, strict=True):
        assert (epoch, rows) == (again, same)
        assert ours.dtype == theirs.dtype == dtype
        np.testing.assert_array_equal(ours, theirs)
        for view, row in zip(ours, rows, strict=True):
            np.testing.assert_array_equal(view, views[epoch, row][0])  # one alone


def test_epochs_differ():
    views = Views(pictures(), augmenter("shift"), 5)
    batches = Batches(Lessons.of(np.arange(11)), 11, 5, 9)
    (_, first, rows), (_, second, others) = epochs_of(batches, feed(views, batches, CPU))
    order, turned = np.argsort(rows), np.argsort(others)
    assert not np.array_equal(first[order], second[turned])


def test_what_may_lie_there():
    small = pictures()
    shifted = Views(small, augmenter("shift"), 5)
    assert lies_there(shifted, 4 * small.parts[0][:1].nbytes * 11)
    assert not lies_there(shifted, 4 * small.parts[0][:1].nbytes * 11 - 4)
    assert not lies_there(Views(small, augmenter("light"), 5), 10**9)  # turns by degrees, which the library does
    assert not lies_there(Views(pictures(np.uint16), augmenter("shift"), 5), 10**9)  # torch cannot index it there
    ragged = Ragged([Stretch(np.zeros(27, np.uint8), np.array([[3, 3]]), 3)])
    assert not lies_there(Views(ragged, augmenter("none"), 5), 10**9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_them_too():
    views, batches = Views(pictures(), augmenter("shift", 7), 5), Batches(Lessons.of(np.arange(11)), 4, 5, 9)
    given = feed(views, batches, Machine("cuda", "fp32", 1))
    assert isinstance(given, Resident)
    here = list(feed(views, batches, CPU))
    for (there, rows), (view, same) in zip(given, here, strict=True):
        assert there.device.type == "cuda"
        assert torch.equal(rows, same)
        assert torch.equal(there.cpu(), view)
