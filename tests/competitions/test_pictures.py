"""Sizes of images without training on them, whatever they are."""

import tracemalloc

import cv2
import numpy as np
import pytest

from pipeline.competitions.pictures import mosaics, size, sizes, touching
from pipeline.store.config import Images
from pipeline.store.errors import UserError

RNG = np.random.default_rng(0)


def images(**settings):
    return Images.model_validate({"pattern": "{id}", **settings})


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("shape", [(7, 11), (7, 11, 3), (300, 2)])
def test_sizes_of_files(ending, shape, tmp_path):
    path = tmp_path / f"a.{ending}"
    assert cv2.imwrite(str(path), RNG.integers(0, 255, shape, np.uint8))
    assert size(images(), path) == shape[:2]


@pytest.mark.parametrize("shape", [(7, 11), (7, 11, 5), (5, 7, 11)])
def test_sizes_of_arrays(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    assert size(images(channels=1 if len(shape) == 2 else 5), tmp_path / "a.npy") == (7, 11)


def decoder(data):
    """Read a format of our own: two numbers and what follows."""
    return np.frombuffer(data[2:], np.uint8).reshape(data[0], data[1])


def test_sizes_by_a_decoder(tmp_path):
    (tmp_path / "a.own").write_bytes(bytes([2, 3, *range(6)]))
    assert size(images(decoder="test_pictures:decoder", channels=1), tmp_path / "a.own") == (2, 3)
    (tmp_path / "b.own").write_bytes(bytes([2, 3, 1]))
    with pytest.raises(UserError, match="b.own cannot be read: cannot reshape"):
        size(images(decoder="test_pictures:decoder", channels=1), tmp_path / "b.own")


def test_many_rows_of_several_channels(tmp_path):
    for i, shape in (("a", (4, 5)), ("b", (6, 7))):
        for c in "rg":
            cv2.imwrite(str(tmp_path / f"{i}_{c}.png"), np.zeros(shape, np.uint8))
    found = sizes(
        images(pattern="{id}_{channel}.png", channel=["r", "g"]),
        tmp_path,
        np.array(["a_{channel}.png", "b_{channel}.png"]),
    )
    assert found.tolist() == [[4, 5], [6, 7]]
    assert found.dtype == np.int32


def test_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8no")
    with pytest.raises(UserError, match="image .*a.jpg cannot be read"):
        size(images(), tmp_path / "a.jpg")


def test_tiles_of_other_sizes_and_strangers_stand_alone(tmp_path):
    from scipy.ndimage import gaussian_filter

    paths = []
    for field in range(6):
        picture = gaussian_filter(RNG.normal(size=(96, 96)), 2)
        picture = np.uint8(128 + 100 * picture / np.abs(picture).max())
        side = 48 if field < 5 else 24
        for at, (y, x) in enumerate((y, x) for y in range(0, 96, side) for x in range(0, 96, side)):
            if field == 4 and at:
                continue  # a tile whose neighbours are not there
            paths.append(f"{field}_{at}.png")
            cv2.imwrite(str(tmp_path / paths[-1]), picture[y : y + side, x : x + side])
    found = mosaics(images(channels="grey"), tmp_path, np.array(paths))
    of = {
        field: {g for g, p in zip(found.tolist(), paths, strict=True) if p.startswith(f"{field}_")}
        for field in range(6)
    }
    assert of[4] == {""}
    assert all(len(of[field]) == 1 and "" not in of[field] for field in (0, 1, 2, 3, 5))
    assert len({*map(tuple, of.values())}) == 6
    pairs = touching(images(channels="grey"), tmp_path, np.array(paths))
    for one, other, down, right in pairs.tolist():
        (field, at), (same, next_to) = ((int(n) for n in paths[row].split(".")[0].split("_")) for row in (one, other))
        wide = 2 if field < 5 else 4
        assert same == field
        assert divmod(next_to, wide) == (at // wide + down, at % wide + right)
    assert len(pairs) > 4 * 4 + 12


def test_of_tiles_no_more_than_borders_is_held(tmp_path):
    paths = [f"{i}.png" for i in range(24)]
    for path in paths:
        cv2.imwrite(str(tmp_path / path), RNG.integers(0, 255, (256, 256, 3), np.uint8))
    tracemalloc.start()
    assert (mosaics(images(), tmp_path, np.array(paths)) == "").all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 256 * 256 * 3, "less than the tiles once"
