import numpy as np
import pytest
import torch

from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.pixels import content, entrance, flat, judged_moments, normalisation, published, twins


@pytest.mark.parametrize("how", ["imagenet", "half", "train", "image"])
def test_what_the_first_layer_is_given(how, material):
    one = material(old="size = 12", new=f'size = 12\nnormalize = "{how}"')
    batch = one.batch(one.rows)
    seen, pixels = entrance(one, batch), np.asarray(one.images[one.rows])[:, :, :, 0] / 255
    if how == "image":
        expected = (pixels - pixels.mean((1, 2), keepdims=True)) / pixels.std((1, 2), keepdims=True)
    else:
        fixed = {"imagenet": (0.449, 0.226), "half": (0.5, 0.5), "train": (pixels.mean(), pixels.std())}[how]
        expected = (pixels - fixed[0]) / fixed[1]
    np.testing.assert_allclose(seen[:, 0].numpy(), expected, atol=2e-3)
    assert normalisation(one).verdict == OK


def test_coordinates_are_no_pixels(material):
    one = material("segmentation", old="[image]", new="coordinates = true\n[image]")
    assert entrance(one, one.batch(one.rows[:3])).shape[1] == 1


# Pixels of 0..255 with numbers for 0..1, the reverse, twice, 12 bits read as 16.
@pytest.mark.parametrize("mean, std", [(114.5, 57.6), (0.449 / 255, 0.226 / 255), (30.0, 1.0)])
def test_wrong_numbers_are_caught(mean, std, material):
    one = material()
    one.first.mean.fill_(mean)
    one.first.std.fill_(std)
    assert normalisation(one).verdict == BROKEN


def test_moments_near_0_and_1_pass():
    assert [judged_moments(0, s) for s in (1, 0.25, 4, 0.15, 0.01, 100)] == [OK, OK, OK, LOOK, BROKEN, BROKEN]
    assert [judged_moments(m, 1) for m in (3, -3, 6, -20)] == [OK, OK, LOOK, BROKEN]


def test_weights_that_were_trained_on_other_numbers_are_told(material):
    net = material(old='name = "cnn"\noptions = { widths = [8, 16] }', new='name = "test_resnet"').first
    assert published(net) is None  # grey images: the numbers of colours do not apply
    net.mean, net.std = torch.full((1, 3, 1, 1), 0.3), torch.ones(1, 3, 1, 1)
    assert "mean" in published(net)


def test_flat_images_are_counted_before_and_after_augmentation(material):
    one = material()
    assert content(one).verdict == OK
    one.views.augment = lambda image, seed: image * 0
    assert content(one).verdict == BROKEN
    one.plain.augment = lambda image, seed: image * (image.sum() % 7 > 0)
    some = content(one)
    share = np.mean([flat(one.plain[(0, int(row))][0]) for row in one.rows])
    assert 0 < share < 0.4
    assert some.verdict == (LOOK if share <= 0.2 else BROKEN)


def test_copies_with_another_target_are_named(material):
    one = material()
    assert twins(one).verdict == OK
    plain, rows = one.plain.augment, one.rows
    first = np.asarray(one.images[int(rows[0])])
    other = next(row for row in rows if one.job.table.y[one.job.table.labelled][row] != one.y[0])
    same = next(row for row in rows[1:] if one.job.table.y[one.job.table.labelled][row] == one.y[0])
    twin = {int(other): first}
    one.plain.augment = lambda image, seed: twin.get(key(image, one), plain(image, seed))
    found = twins(one)
    ids = one.job.table.ids[one.job.table.labelled]
    assert found.verdict == LOOK
    assert str(ids[rows[0]]) in found.advice
    assert str(ids[other]) in found.advice
    twin.clear()
    twin[int(same)] = first
    assert twins(one).verdict == OK


def key(image, one):
    return next(int(row) for row in one.rows if np.array_equal(image, one.images[int(row)]))
