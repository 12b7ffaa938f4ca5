import cv2
import numpy as np
import torch

from pipeline.preflight.pictures import picture, told, write_pictures


def test_the_sheet_shows_views_and_what_the_loss_is_told(material, tmp_path):
    one = material(more="", old='recipe = "none"', new='recipe = "light"\nmixup = 1.0')
    batch = next(one.stream())
    write_pictures(tmp_path / "seen.png", one, batch)
    assert cv2.imread(str(tmp_path / "seen.png")).shape[2] == 3
    shown = picture(one, batch.x[0], batch.y[0])
    np.testing.assert_array_equal(shown[:, :, 0], np.rint(batch.x[0, 0].numpy() * 255))


def test_targets_in_words(material):
    one = material()
    assert told(one, torch.tensor([0.0, 1.0, 0.0, 0.0])) == "bee"
    assert told(one, torch.tensor([0.7, 0.0, 0.3, 0.0])) == "ant 0.70 cat 0.30"


def test_a_row_without_a_label_says_so(material):
    one = material("multilabel")
    assert told(one, torch.zeros(3)) == "(no label)"


def test_values_are_told_as_numbers(material):
    assert told(material("regression"), torch.tensor([0.5])) == "0.50"


def test_masks_are_outlined(material):
    one = material("segmentation")
    batch = one.batch(one.rows[:6])
    with_mask = next(n for n in range(6) if batch.y[n].any())
    assert (picture(one, batch.x[with_mask], batch.y[with_mask]) == (0, 255, 0)).all(2).any()
    assert told(one, batch.y[0]) == ""
