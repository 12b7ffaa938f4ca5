"""Views of whole pixels: what albumentations would make of the same draws, and the same distribution of draws."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.images import pixels
from pipeline.images.augment import augmenter
from pipeline.images.pixels import Shifted, Still, below, mixed, seeds_of

WORD = 2**64


def splitmix(state):
    """The published code, in Python's whole numbers."""
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


@given(st.lists(st.integers(0, WORD - 1), min_size=1, max_size=5), st.lists(st.integers(1, 2**31), min_size=1))
def test_draws_are_splitmix(seeds, bounds):
    states = np.array(seeds, np.uint64)
    assert mixed(states).tolist() == [splitmix(seed) for seed in seeds]
    wanted = [
        [(splitmix((seed + n * int(pixels.STEP)) % WORD) >> 32) * bound >> 32 for n, bound in enumerate(bounds, 1)]
        for seed in seeds
    ]
    found = below(states, bounds)
    assert found.tolist() == wanted
    assert ((found >= 0) & (found < bounds)).all()


def test_seeds_of_rows_are_their_own():
    rows = np.array([5, 0, 7, 10**6])
    seeds = seeds_of(3, 1, rows)
    assert [int(seeds_of(3, 1, rows[k : k + 1])[0]) for k in range(4)] == seeds.tolist()
    others = [tuple(seeds_of(seed, epoch, rows).tolist()) for seed in (3, 4) for epoch in (0, 1)]
    assert len(set(sum(others, ()))) == 16


def ramp(height, width):
    """Every pixel another number, so that a view tells which pixels it shows."""
    return np.arange(height * width, dtype=np.uint16).reshape(height, width, 1)


def library(size, crop, flip=0.5, shift=None, corner=None):
    """The same in albumentations: drawn, or with one flip, shift (down, right) and corner of the crop."""
    most = [(crop or side) // 8 for side in size]
    down, right = ((-m, m) for m in most) if shift is None else ((s, s) for s in shift)
    moves = [A.HorizontalFlip(p=flip, strict=True)]
    moves.append(A.Affine(translate_px={"x": right, "y": down}, border_mode=cv2.BORDER_REFLECT_101, p=1, strict=True))
    if crop:
        y, x = corner or (0, 0)
        cut = A.RandomCrop(crop, crop, strict=True)
        moves.append(cut if corner is None else A.Crop(x_min=x, y_min=y, x_max=x + crop, y_max=y + crop, strict=True))
    return A.Compose(moves)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_view_is_that_of_the_library(data):
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    crop = data.draw(st.integers(0, min(size)))
    most = [(crop or side) // 8 for side in size]
    flip, down, right = (data.draw(st.integers(0, 2 * m)) for m in (0.5, *most))
    y, x = (data.draw(st.integers(0, side - (crop or side))) for side in size)
    drawn = np.array([[flip, down, right, y, x]])
    ours = Shifted(crop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "below", lambda seeds, bounds: drawn)
        image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
        view = ours(image, 0)
        rows, columns = ours.pixels(np.zeros(1, np.uint64), *size)
    shift = (down - most[0], right - most[1])
    theirs = library(size, crop, flip, shift, (y, x))(image=image)["image"]
    np.testing.assert_array_equal(view, theirs)
    np.testing.assert_array_equal(image[rows[0][:, None], columns[0]], view)


def test_views_are_distributed_as_those_of_the_library():
    """Two samples of 3000 views each: what is seen of a ramp (flip, first row, first column), one by one and jointly."""
    size, crop, n = (20, 24), 16, 3000
    image, theirs = ramp(*size), library(size, crop)
    theirs.set_random_seed(0)
    ours = Shifted(crop).batch(image[None], np.zeros(n, int), seeds_of(1, 0, np.arange(n)))
    seen = [ours[:, :, :, 0], np.stack([theirs(image=image.astype(np.float32))["image"][:, :, 0] for _ in range(n)])]
    # Where the middle of a view lies, and which way it faces.
    facts = [np.column_stack([v[:, 8, 8] // 24, v[:, 8, 8] % 24, v[:, 8, 9] > v[:, 8, 8]]).astype(int) for v in seen]
    for column in range(3):
        values = np.unique(np.concatenate([f[:, column] for f in facts]))
        table = np.array([[(f[:, column] == value).sum() for value in values] for f in facts])
        assert stats.chi2_contingency(table[:, table.sum(0) > 20]).pvalue > 1e-3
    mean, theirs_mean = (v.astype(float).mean(0) for v in seen)
    spread = np.stack([v.astype(float).std(0) for v in seen]).max(0)
    assert (np.abs(mean - theirs_mean) < 5 * spread * (2 / n) ** 0.5).all()
    together, others = (np.corrcoef(f.T)[np.triu_indices(3, 1)] for f in facts)
    assert np.abs(together - others).max() < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("kind", [Still, Shifted])
@pytest.mark.parametrize("crop", [0, 9])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_batches_views_and_pixels_agree(kind, crop, channels, dtype):
    images = np.random.default_rng(0).integers(0, 200, (6, 13, 18, channels)).astype(dtype)
    rows, augment = np.array([4, 0, 5, 5]), kind(crop)
    seeds = seeds_of(7, 2, np.array([4, 0, 5, 1]))
    batch = augment.batch(images, rows, seeds)
    assert (batch.dtype, batch.shape) == (dtype, (4, crop or 13, crop or 18, channels))
    y, x = augment.pixels(seeds, 13, 18)
    np.testing.assert_array_equal(batch, images[rows[:, None, None], y[:, :, None], x[:, None, :]])
    for view, row, seed in zip(batch, rows, seeds.tolist(), strict=True):
        np.testing.assert_array_equal(view, augment(images[row], seed))


def test_recipes():
    assert type(augmenter("none", 5)) is Still
    assert type(augmenter("shift", 5)) is Shifted
    assert augmenter("shift", 5).crop == 5
