"""Pixels by training rows, by image, by group: against numpy, and blind to what they must not look at."""

import numpy as np
import pytest
import torch
from files import grouped

from pipeline.nets.machine import Machine, to_device
from pipeline.nets.normalize import CHUNK, FLAT, by_image, fixed, of_rows, on_device, standard
from pipeline.training.predict import part, scaled, turned

CPU = Machine("cpu", "fp32", 1)


def pictures(count=2 * CHUNK + 5, dtype=np.uint8, channels=3):
    rng = np.random.default_rng(3)
    bright = rng.integers(20, 200, (count, 1, 1, channels))
    return (bright + rng.integers(0, 50, (count, 5, 6, channels))).astype(dtype) * (np.iinfo(dtype).max // 255)


def unit(images):
    return images.astype(np.float64) / np.iinfo(images.dtype).max


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_statistics_of_rows(channels, dtype):
    images = pictures(dtype=dtype, channels=channels)
    rows = np.arange(3, len(images), 2)
    mean, std = of_rows(images, rows, channels)
    assert mean.shape == std.shape == (1, channels, 1, 1)
    np.testing.assert_allclose(mean.flatten(), unit(images[rows]).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std.flatten(), unit(images[rows]).std((0, 1, 2)), rtol=1e-5)
    others = images.copy()
    others[np.setdiff1d(np.arange(len(images)), rows)] = 0
    assert all(torch.equal(a, b) for a, b in zip(of_rows(others, rows, channels), (mean, std), strict=True))


def test_views_are_pooled():
    images = pictures(channels=6)
    mean, std = of_rows(images, np.arange(len(images)), 3)
    both = np.concatenate([unit(images[..., :3]), unit(images[..., 3:])])
    np.testing.assert_allclose(mean.flatten(), both.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std.flatten(), both.std((0, 1, 2)), rtol=1e-5)


def test_flat_images_do_not_divide_by_zero():
    flat = np.full((4, 5, 5, 2), 7, np.uint8)
    assert of_rows(flat, np.arange(4), 2)[1].flatten().tolist() == pytest.approx([FLAT] * 2)
    x = by_image(to_device(torch.from_numpy(flat), CPU))
    assert x.abs().max() < 1e-4
    some = grouped(flat, np.array(["a", "a", "", ""]), 2, ())
    assert on_device(torch.from_numpy(flat), some, np.arange(4), CPU).abs().max() < 1e-4


def test_by_image():
    images = pictures(9)
    x = by_image(to_device(torch.from_numpy(images), CPU)).numpy()
    wanted = unit(images)
    wanted = (wanted - wanted.mean((1, 2), keepdims=True)) / wanted.std((1, 2), keepdims=True)
    np.testing.assert_allclose(x.transpose(0, 2, 3, 1), wanted, atol=1e-4)
    # Contrast and brightness of a whole image are nothing to it.
    changed = by_image(torch.from_numpy(unit(images)).permute(0, 3, 1, 2) * 0.3 + 0.2)
    np.testing.assert_allclose(changed, x, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grouped(dtype):
    images, groups = pictures(12, dtype), np.array(["p", "q", "", "p", "q", "q", "", "r", "p", "r", "0", "1"])
    some = grouped(images, groups, 3, ())
    assert len(some) == 12
    assert (some[np.array([3, 1])] == images[[3, 1]]).all()
    assert (some[5] == images[5]).all()
    rows = np.array([4, 2, 0, 10])
    x = on_device(torch.from_numpy(images[rows]), some, rows, CPU).numpy().transpose(0, 2, 3, 1)
    for found, row in zip(x, rows, strict=True):
        mine = unit(images[groups == groups[row]] if groups[row] else images[row : row + 1])
        wanted = (unit(images[row]) - mine.mean((0, 1, 2))) / mine.std((0, 1, 2))
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_unreadable_images_say_nothing_of_their_group():
    images, groups = pictures(6), np.array(["a", "a", "a", "b", "b", "c"])
    clean = grouped(images[[0, 2, 3, 4]], groups[[0, 2, 3, 4]], 3, ())
    images[[1, 5]] = 0
    some = grouped(images, groups, 3, {1: "no end", 5: "no end"})
    np.testing.assert_array_equal(some.stats[:, 0][[0, 2, 3, 4]], clean.stats[:, 0])
    np.testing.assert_array_equal(some.stats[:, 1][[0, 2, 3, 4]], clean.stats[:, 1])
    assert (some.stats[:, 1][5] >= FLAT * 0.999).all()


def test_joined_images_keep_what_is_theirs():
    first, second = (grouped(pictures(n), np.array(list("abab")[:n]), 3, ()) for n in (4, 3))
    both = first.followed_by(second)
    assert len(both) == 7
    np.testing.assert_array_equal(both.stats, np.concatenate([first.stats, second.stats]))
    rows = np.array([5, 0])
    x = on_device(torch.from_numpy(both[rows]), both, torch.tensor(rows), CPU)
    alone = on_device(torch.from_numpy(second[np.array([1])]), second, np.array([1]), CPU)
    torch.testing.assert_close(x[:1], alone)


def test_views_of_a_row_share_its_group():
    images = pictures(4, channels=6)
    some = grouped(images, np.array(["a", "a", "b", "b"]), 3, ())
    x = on_device(torch.from_numpy(images), some, np.arange(4), CPU)
    halves = [
        on_device(torch.from_numpy(images[..., part]), some, np.arange(4), CPU) for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(x, torch.cat(halves, 1))


def test_plain_images_are_only_moved():
    images = torch.from_numpy(pictures(3))
    assert torch.equal(on_device(images, images.numpy(), np.arange(3), CPU), to_device(images, CPU))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("name", ["imagenet", "half", "train", "image", "group"])
def test_fixed(name, channels):
    mean, std = fixed(name, channels)
    assert mean.shape == std.shape == (1, channels, 1, 1)
    if name in ("train", "image", "group"):
        assert (mean == 0).all()
        assert (std == 1).all()
    if name == "imagenet" and channels == 5:  # which of five are red, green and blue nobody knows
        assert mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3] * 5)


VIEWS = [turned(quarter, flip) for flip in (False, True) for quarter in range(4)]
VIEWS += [part(0.5, 1, 7), part(0, 0, 7, True), scaled(0.9, 8), scaled(1.0, 8), lambda x: x]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_bytes_are_scaled_to_the_bit(view, channels):
    """And laid out alike, or convolutions would round elsewhere."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 12, 12, channels), dtype=torch.uint8)
    mean, std = torch.rand(1, channels, 1, 1), torch.rand(1, channels, 1, 1) + 0.1
    wanted = (view(to_device(images, CPU)) - mean) / std
    found = standard(view(on_device(images, images, np.arange(3), CPU, raw=True)), mean, std)
    assert torch.equal(found, wanted)
    assert found.stride() == wanted.stride()


def test_only_bytes_without_groups_stay_raw():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    there = on_device(torch.from_numpy(images), images, np.arange(4), CPU, raw=True)
    assert (there.dtype, there.shape) == (torch.uint8, (4, 3, 5, 5))
    first = Machine("cpu", "fp32", 1, layout="channels_first")
    for given, machine in ((images.astype(np.uint16), CPU), (images, first)):
        floats = on_device(torch.from_numpy(given), given, np.arange(4), machine, raw=True)
        assert torch.equal(floats, to_device(torch.from_numpy(given), machine))
        assert floats.is_contiguous() == (machine is first)
    some = grouped(images, np.array(list("aabb")), 3, ())
    assert on_device(torch.from_numpy(images), some, np.arange(4), CPU, raw=True).dtype == torch.float32
