import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.masks.rle import RleError, decode, encode

ORDERS = st.sampled_from(["column", "row"])
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def runs_by_hand(mask, order):
    """The loop of Kaggle's kernels: one pixel after the other."""
    pixels = mask.flatten("F" if order == "column" else "C")
    found, before = [], 0
    for place, pixel in enumerate(pixels, start=1):
        if pixel and not before:
            found += [place, 0]
        if pixel:
            found[-1] += 1
        before = pixel
    return " ".join(map(str, found))


def mask_by_hand(cell, height, width, order):
    flat = np.zeros(height * width, bool)
    numbers = [int(word) for word in cell.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape((height, width), order="F" if order == "column" else "C")


@given(MASKS, ORDERS)
def test_encode_is_the_loop(mask, order):
    assert encode(mask, order) == runs_by_hand(mask, order)


@given(MASKS, ORDERS)
def test_decode_of_encode_is_the_mask(mask, order):
    assert np.array_equal(decode(encode(mask, order), *mask.shape, order), mask)


@given(st.integers(0, 10**6), ORDERS, st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
@settings(max_examples=40)
def test_larger_masks(seed, order, share):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(60, 140, 2))) < share
    cell = encode(mask, order)
    assert cell == runs_by_hand(mask, order)
    found = decode(cell, *mask.shape, order)
    assert found.dtype == bool
    assert np.array_equal(found, mask)
    assert np.array_equal(found, mask_by_hand(cell, *mask.shape, order))


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("kind", ["fortran", "sliced", "uint8", "uint16", "read only"])
def test_memory_and_type_do_not_matter(order, kind):
    mask = np.random.default_rng(0).random((40, 30)) < 0.3
    other = {
        "fortran": np.asfortranarray(mask),
        "sliced": np.repeat(np.repeat(mask, 2, 0), 3, 1)[::2, ::3],
        "uint8": mask.astype(np.uint8) * 255,
        "uint16": mask.astype(np.uint16) * 65280,
        "read only": mask.copy(),
    }[kind]
    other.flags.writeable = kind != "read only"
    assert encode(other, order) == runs_by_hand(mask, order)
    assert np.array_equal(other != 0, mask)


def test_by_hand():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert encode(mask) == "3 3"
    assert encode(mask, "row") == "2 2 5 1"
    assert decode("3 3", 2, 3).tolist() == mask.tolist()
    assert decode("2 2 5 1", 2, 3, "row").tolist() == mask.tolist()


def test_an_empty_cell_is_an_empty_mask_and_a_full_one_a_single_run():
    assert encode(np.zeros((3, 4))) == ""
    assert encode(np.ones((3, 4))) == "1 12"
    for cell in ("", "  ", "\t"):
        assert not decode(cell, 3, 4).any()
        assert decode(cell, 3, 4).shape == (3, 4)
    assert decode("1 12", 3, 4).all()


@given(MASKS, ORDERS, st.integers(0, 10**6))
def test_runs_in_any_order_and_touching_runs_are_harmless(mask, order, seed):
    cell = encode(mask, order)
    numbers = np.array([int(word) for word in cell.split()], int).reshape(-1, 2)
    pieces = [(start + j, 1) for start, length in numbers.tolist() for j in range(length)]
    np.random.default_rng(seed).shuffle(pieces)
    shuffled = "  ".join(f"{start}\t{length}" for start, length in pieces)
    assert np.array_equal(decode(shuffled, *mask.shape, order), mask)


@pytest.mark.parametrize(
    "cell, said",
    [
        ("0 3", "run '0 3' starts before pixel 1"),
        ("4 2 -1 1", "run '-1 1' starts before pixel 1"),
        ("4 0", "run '4 0' has no length"),
        ("4 -2", "run '4 -2' has no length"),
        ("1 2 12 2", r"run '12 2' runs past the end of 3 x 4 = 12 pixels"),
        ("13 1", "runs past the end"),
        ("5 99999999999999999999999", "runs past the end"),
        ("1 2 3", "3 numbers, an odd count"),
        ("1 two", "'two' is not a whole number"),
        ("1 2.0", "'2.0' is not a whole number"),
        ("1,2", "'1,2' is not a whole number"),
        ("nan", "'nan' is not a whole number"),
        ("1 3 3 2", "run '1 3' overlaps run '3 2'"),
        ("6 2 1 6", "run '1 6' overlaps run '6 2'"),
        ("4 1 4 1", "run '4 1' overlaps run '4 1'"),
    ],
)
@pytest.mark.parametrize("order", ["column", "row"])
def test_what_is_wrong_is_named(cell, said, order):
    with pytest.raises(RleError, match=said):
        decode(cell, 3, 4, order)


def test_the_last_pixel_is_within():
    assert decode("12 1", 3, 4)[2, 3]
