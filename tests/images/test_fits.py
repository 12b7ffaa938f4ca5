import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.fits import Grid, corner, fitted, padded, require_fit, resized, undone, woven
from pipeline.store.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


def stack(height=7, width=10, channels=3, masks=2):
    image = rng().integers(0, 255, (height, width, channels)).astype(np.uint8)
    return np.concatenate([image, 255 * (rng(1).random((height, width, masks)) < 0.3)], 2).astype(np.uint8)


def test_resizing_keeps_masks_hard():
    both = stack()
    for size in ((4, 5), (14, 20), (7, 10)):
        view = fitted(both, 2, "resize", size, rng())
        assert view.shape == (*size, 5)
        assert set(np.unique(view[:, :, 3:])) <= {0, 255}
        wanted = cv2.resize(both[:, :, 3:], size[::-1], interpolation=cv2.INTER_NEAREST)
        assert (view[:, :, 3:] == wanted).all()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_padding_is_undone_exactly(height, width, more, wider):
    image, size = rng().random((height, width, 2)).astype(np.float32), (height + more, width + wider)
    wide = padded(image, size)
    assert wide.shape == (*size, 2)
    again = undone(wide.transpose(2, 0, 1), "pad", (height, width), (height, width))
    assert (again == image.transpose(2, 0, 1)).all()


def test_padding_reflects():
    row = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)
    assert padded(row, (1, 8))[0, :, 0].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert (fitted(stack(), 2, "pad", (9, 12), rng())[1:8, 1:11] == stack()).all()


def test_tiles_are_part_of_the_image():
    both = stack(20, 30)
    seen = set()
    for seed in range(200):
        tile = fitted(both, 2, "tiles", (8, 8), rng(seed))
        places = [(y, x) for y in range(13) for x in range(23) if (both[y : y + 8, x : x + 8] == tile).all()]
        assert len(places) == 1
        seen.add(places[0])
    assert {0, 12} <= {y for y, _ in seen}
    assert fitted(stack(5, 30), 2, "tiles", (8, 8), rng()).shape == (8, 8, 5)


@given(st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_tiles_show_the_class_that_is_asked_for(seed):
    draw = rng(seed)
    masks = np.zeros((15, 21, 2), np.uint8)
    y, x = draw.integers(15), draw.integers(21)
    masks[y, x, 1] = 1
    for show in (1, 2):
        top, left = corner(masks, (5, 5), draw, show)
        assert masks[top : top + 5, left : left + 5, 1].any()
        assert 0 <= top <= 10
        assert 0 <= left <= 16
    top, left = corner(masks, (5, 5), draw, 0)  # a class that is not there: anywhere
    assert 0 <= top <= 10


def test_too_large_to_be_padded():
    sizes = np.array([[8, 8], [8, 9]])
    require_fit("tiles", (8, 8), sizes, np.array(["a", "b"]), "c")
    with pytest.raises(UserError, match="'b' is 8 x 9"):
        require_fit("pad", (8, 8), sizes, np.array(["a", "b"]), "c")


def test_resized_maps_come_back():
    maps = rng().random((3, 16, 16)).astype(np.float32)
    assert (undone(maps, "resize", (16, 16), (16, 16)) == maps).all()
    wide = undone(np.ones((3, 16, 16), np.float32), "resize", (9, 31), (9, 31))
    assert wide.shape == (3, 9, 31)
    np.testing.assert_allclose(wide, 1)
    assert resized(maps.transpose(1, 2, 0), (8, 8)).shape == (8, 8, 3)


@given(st.integers(5, 40), st.integers(5, 40), st.floats(0, 0.9), st.sampled_from(["hann", "flat"]))
@settings(max_examples=60, deadline=None)
def test_woven_tiles_are_the_image_again(height, width, overlap, window):
    """Tiles cut from a map give the map; what differs in overlaps is averaged by the window."""
    whole = rng().random((2, height, width)).astype(np.float32)
    grid = Grid((height, width), (5, 5), overlap, window)
    tops, lefts = grid.starts(0), grid.starts(1)
    assert (tops[0], tops[-1] + 5) == (0, height)
    assert all(b - a <= 5 * (1 - overlap) + 1 for a, b in itertools.pairwise(tops))

    def tiles(noise=0.0):
        draw = rng(3)
        for y in tops:
            for x in lefts:
                yield whole[:, y : y + 5, x : x + 5] + noise * draw.random((2, 5, 5)).astype(np.float32)

    bands = list(woven(grid, tiles()))
    assert [top for top, _ in bands] == tops
    np.testing.assert_allclose(np.concatenate([band for _, band in bands], 1), whole, atol=1e-5)
    total, weight = np.zeros_like(whole), np.zeros((height, width))
    outer = np.outer(grid.weights(0), grid.weights(1))
    for (y, x), tile in zip([(y, x) for y in tops for x in lefts], tiles(1.0), strict=True):
        total[:, y : y + 5, x : x + 5] += tile * outer
        weight[y : y + 5, x : x + 5] += outer
    found = np.concatenate([band for _, band in woven(grid, tiles(1.0))], 1)
    np.testing.assert_allclose(found, total / weight, atol=1e-4)
