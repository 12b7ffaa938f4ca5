import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.duplicates import SIDE, close_pairs, near_copies, perceptual_hash


def pictures(n, seed=0):
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            cv2.resize(rng.integers(0, 256, (6, 6)).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            for _ in range(n)
        ]
    )


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30), st.integers(0, 12), st.integers(0, 99))
def test_close_pairs_are_those_of_a_search_through_all(values, most, seed):
    rng = np.random.default_rng(seed)
    flips = [v ^ sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 14), replace=False)) for v in values]
    hashes = np.unique(np.array(values + flips, np.uint64))
    apart = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = np.argwhere(np.triu(apart <= most, 1))
    assert close_pairs(hashes, most).tolist() == expected.tolist()


def test_the_hash_survives_brightness_contrast_noise_and_compression():
    images = pictures(50)
    plain = perceptual_hash(images)
    assert np.bitwise_count(plain ^ perceptual_hash(images * 0.5 + 40)).max() <= 1
    noisy = (images + np.random.default_rng(0).normal(0, 3, images.shape)).clip(0, 255)
    assert np.bitwise_count(plain ^ perceptual_hash(noisy)).mean() <= 4
    apart = np.bitwise_count(plain[:, None] ^ plain)[~np.eye(50, dtype=bool)]
    assert apart.min() > 8
    assert apart.mean() == pytest.approx(32, abs=2)


def test_near_copies_are_found_transitively_and_blank_images_are_not():
    images = pictures(40)
    noisy = (images[:5] + np.random.default_rng(0).normal(0, 2, (5, SIDE, SIDE))).clip(0, 255)
    blank = np.full((6, SIDE, SIDE), 128) + np.random.default_rng(1).integers(0, 3, (6, SIDE, SIDE))
    found = near_copies(np.concatenate([images, noisy, images[:2], blank]), 6)
    assert (found[5:40] == -1).all()
    assert (found[47:] == -1).all()
    assert (found[:5] == found[40:45]).all()
    assert (found[:2] == found[45:47]).all()
    assert len(set(found[:5].tolist())) == 5


def test_pictures_of_one_hash_that_look_otherwise_are_kept_apart():
    image = pictures(1)[0].astype(float)
    # High frequencies are not in the hash, but they are in the picture.
    stripes = 60 * np.cos((2 * np.arange(SIDE) + 1) * 20 * np.pi / (2 * SIDE))
    both = np.stack([image / 3 + 80, image / 3 + 80 + stripes])
    assert np.bitwise_count(np.bitwise_xor(*perceptual_hash(both))) == 0
    assert (near_copies(both, 4) == -1).all()


@pytest.mark.parametrize("n", [0, 1])
def test_of_no_image_and_of_one_there_are_no_copies(n):
    assert near_copies(pictures(3)[:n], 4).tolist() == [-1] * n
