import logging

import numpy as np
import pytest
import torch

from pipeline.nets.mask_objective import Heads
from pipeline.training.alarm import Alarm

COVERAGE = np.array([0.3, 0.2, 0.5, 0.0])


def alarm(classes=1, exclusive=False):
    return Alarm(Heads(classes), (2, 2), exclusive, COVERAGE, 4, "toy/a fold 0")


def scores(value, n=4, classes=1):
    return torch.full((n, classes * 4 + classes), float(value))


def test_it_speaks_once_after_two_barren_epochs(caplog):
    watch, rows = alarm(), torch.arange(4)
    with caplog.at_level(logging.WARNING):
        watch.see(rows, scores(-1))
        assert not caplog.records
        watch.see(rows, scores(-1))
        watch.see(rows, scores(-1))
    (record,) = caplog.records
    message = record.getMessage()
    assert "toy/a fold 0 predicts empty masks alone" in message
    assert "3 of 4 images" in message
    assert "loss.then" in message
    assert "\n" not in message


@pytest.mark.parametrize("rows, values", [
    (np.arange(4), [-1, 1, -1, 1]),  # it predicts something, now and then
    (np.array([3, 3, 3, 3]), [-1] * 9),  # there is nothing to be seen
    (np.arange(4) + 4, [-1] * 9),  # rows without a label
])  # fmt: skip
def test_it_keeps_quiet(rows, values, caplog):
    watch = alarm()
    with caplog.at_level(logging.WARNING):
        for value in values:
            watch.see(torch.as_tensor(rows), scores(value))
    assert not caplog.records


@pytest.mark.parametrize("pixels, rings", [(0, True), (1, True), (60, False)])
def test_a_stray_pixel_is_no_mask(pixels, rings, caplog):
    """Of 4 x 900 pixels a quarter is mask: below nine of them is next to nothing."""
    watch = Alarm(Heads(1), (30, 30), False, COVERAGE, 4, "t")
    given = torch.full((4, 901), -1.0)
    given[0, :pixels] = 1
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watch.see(torch.arange(4), given)
    assert len(caplog.records) == rings


def test_presence_is_no_mask(caplog):
    """The image-level scores stand behind the maps, and are large where there is no head."""
    watch, given = alarm(), scores(-1)
    given[:, -1] = 30
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watch.see(torch.arange(4), given)
    assert len(caplog.records) == 1


def test_exclusive_classes_collapse_to_the_first(caplog):
    watch, given = alarm(3, exclusive=True), scores(0, classes=3)
    given[:, :4] = 1
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watch.see(torch.arange(4), given)
        assert len(caplog.records) == 1
        given[0, 5] = 2
        other = alarm(3, exclusive=True)
        for _ in range(9):
            other.see(torch.arange(4), given)
    assert len(caplog.records) == 1


def test_it_remembers_over_a_kill(caplog):
    one, rows = alarm(), torch.arange(4)
    one.see(rows, scores(-1))
    two = alarm()
    two.load_state_dict(one.state_dict())
    with caplog.at_level(logging.WARNING):
        two.see(rows, scores(-1))
    assert len(caplog.records) == 1
    assert two.table()[:, 0].tolist() == [2, 2, 2, 2]
    assert np.isnan(alarm().table()).all()
