import numpy as np
import pytest
from files import encode, pixels

from pipeline.images import cache as module
from pipeline.images.ragged import cached_ragged, stretch
from pipeline.store.config import Images
from pipeline.store.errors import UserError

GREY = Images(pattern="{id}", channels="rgb")
SIZES = [(6, 10), (3, 4), (8, 5)]


def written(add, sizes=SIZES):
    shown = [pixels(3, size=size, seed=seed) for seed, size in enumerate(sizes)]
    names, digests = zip(*[add(f"{i}.png", image) for i, image in enumerate(shown)], strict=True)
    return shown, np.array(names), np.array(digests), np.array(sizes, np.int32)


def test_images_of_any_size(files, add, monkeypatch):
    shown, *rows = written(add)
    images, bad = cached_ragged(files, *rows[:2], GREY, rows[2])
    assert bad == {}
    assert len(images) == 3
    assert all((images[i] == shown[i]).all() for i in range(3))
    assert isinstance(images.parts[0].flat, np.memmap)
    monkeypatch.setattr(module, "_build", None)  # the second time it is there
    again, _ = cached_ragged(files, *rows[:2], GREY, rows[2])
    assert all((again[i] == shown[i]).all() for i in range(3))
    both = images.followed_by(cached_ragged(files, *rows[:2], GREY, rows[2])[0])
    assert len(both) == 6
    assert all((both[i] == shown[i % 3]).all() for i in range(6))


def test_bad_images_are_black_and_named(files, add):
    shown, names, digests, sizes = written(add)
    names[1], digests[1] = add("1.jpg", encode(shown[1], ".jpg")[:-9])
    images, bad = cached_ragged(files, names, digests, GREY, sizes)
    assert list(bad) == [1]
    assert "1.jpg" in bad[1]
    assert not images[1].any()
    assert (images[2] == shown[2]).all()


def test_the_key_is_content_and_sizes(files, add):
    _, names, digests, sizes = written(add)
    cached_ragged(files, names, digests, GREY, sizes)
    cached_ragged(files, names[::-1], digests[::-1], GREY, sizes[::-1])
    cached_ragged(files, names, digests, Images(pattern="{id}", channels="grey"), sizes)
    assert len(list(files.images.glob("*.npy"))) == 3


def test_a_changed_image_is_refused(files, add):
    _, names, digests, sizes = written(add)
    add("0.png", pixels(3, seed=9))
    with pytest.raises(UserError, match="has changed"):
        cached_ragged(files, names, digests, GREY, sizes)


def test_any_numbers_may_be_kept(files):
    files.images.mkdir(parents=True)
    found, _ = stretch(
        files, "k", lambda row: (np.full(2 * (row + 1), row), ""), np.array([[1, 2], [2, 2]]), 1, np.uint8
    )
    assert found[1].shape == (2, 2, 1)
    assert (found[1] == 1).all()
