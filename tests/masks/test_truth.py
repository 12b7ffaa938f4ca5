"""The flat file of masks: stretches, layers, objects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.masks.truth import components, coverage, create, lay_out, layers_of

SIZES = np.array([[4, 5], [3, 3], [2, 7], [1, 1]], np.int32)
LABELLED = np.array([True, False, True, True])


@pytest.mark.parametrize(
    "kind, classes, high", [("classes", 1, 2), ("classes", 3, 2), ("exclusive", 3, 3), ("objects", 1, 9)]
)
def test_what_is_set_is_read(kind, classes, high, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "m"
    truth = create(path, SIZES, LABELLED, classes, kind)
    given_ = {}
    for row in np.flatnonzero(LABELLED):
        shape = (classes, *SIZES[row]) if kind == "classes" and classes > 1 else tuple(SIZES[row])
        given_[row] = rng.integers(0, high, shape)
        truth.raw(row)[...] = given_[row]
    truth.flat.flush()
    flat = np.load(path, mmap_mode="r")
    assert flat.dtype == (np.uint16 if kind == "objects" else np.uint8)
    assert len(flat) == (20 + 14 + 1) * (3 if kind == "classes" and classes == 3 else 1)
    assert (flat == np.concatenate([m.ravel() for m in given_.values()])).all()
    for row, mask in given_.items():
        layers = truth[row]
        assert layers.dtype == bool
        assert layers.shape == (classes, *SIZES[row])
        want = [mask == c for c in range(3)] if kind == "exclusive" else mask.reshape(classes, *SIZES[row]) != 0
        assert (layers == want).all()
        assert np.allclose(coverage(truth.raw(row), classes, kind), layers.mean((1, 2)))
        if kind == "objects":
            assert (truth.instances(row) == mask).all()
            assert truth.instances(row).dtype == np.int32
    assert len(truth) == 4
    with pytest.raises(AssertionError, match="row 1 of the table has no mask"):
        truth.raw(1)


def test_stretches_follow_the_table():
    assert lay_out(SIZES, LABELLED, 2, "classes").tolist() == [0, 40, 40, 68, 70]
    assert lay_out(SIZES, LABELLED, 2, "exclusive").tolist() == [0, 20, 20, 34, 35]


@given(st.integers(0, 2**32 - 1))
def test_components_are_scipys(seed):
    mask = np.random.default_rng(seed).random((9, 11)) < 0.5
    ours, theirs = components(mask), ndimage.label(mask)[0]
    pairs = np.unique(np.column_stack([ours.ravel(), theirs.ravel()]), axis=0)
    # One to one, and the background is the background.
    assert len(pairs) == len(np.unique(ours)) == len(np.unique(theirs))
    assert ((ours == 0) == ~mask).all()


def test_diagonal_pixels_are_two_objects():
    assert components(np.eye(3, dtype=bool)).max() == 3


def test_layers_of_an_exclusive_mask_share_no_pixel():
    layers = layers_of(np.array([[0, 2], [1, 2]], np.uint8), 3, "exclusive")
    assert (layers.sum(0) == 1).all()
    assert layers[2].tolist() == [[False, True], [False, True]]
