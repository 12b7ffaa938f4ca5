"""Run-length cells as Kaggle has them: `start length start length ...`, 1-based, down the columns or along the rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.store.files import Array

Order = Literal["column", "row"]
# Farther than any pixel, and far from overflow.
FAR = 10**15


class RleError(ValueError):
    """What is wrong with a cell, in words that a one-line message can end with."""


def encode(mask: Array, order: Order = "column") -> str:
    """Return the cell of a mask (H W, anything not 0 is mask); an empty mask is an empty string."""
    borders = _borders(mask, order)
    borders[1::2] -= borders[::2]
    borders[::2] += 1
    return _text(borders)


def decode(cell: str, height: int, width: int, order: Order = "column") -> Array:
    """Return the mask (H W bool) of a cell; by columns it is a transposed view. What is wrong is an `RleError`.

    Runs may come in any order and may touch, but not overlap.
    """
    starts, ends = _runs(cell, height, width)
    gaps = np.empty(2 * len(starts) + 1, np.int64)
    gaps[0::2] = np.append(starts, height * width)
    gaps[2::2] -= ends
    gaps[1::2] = ends - starts
    inside = np.zeros(len(gaps), bool)
    inside[1::2] = True
    flat = np.repeat(inside, gaps)
    return flat.reshape(height, width) if order == "row" else flat.reshape(width, height).T


def _borders(mask: Array, order: Order) -> Array:
    """Return where runs start and where they end, in turn, counted from 0 in the order of the runs."""
    bits = mask if mask.dtype == bool else mask != 0
    lines = bits if order == "row" else bits.T
    if lines.flags.c_contiguous:
        flat = lines.reshape(-1).view(np.uint8)
        change = flat.copy()
        change[1:] ^= flat[:-1]
        found = nonzero(change)
    else:
        # Against the grain of memory, neighbours are compared row by row: no transpose, only the hits are sorted.
        rows = np.ascontiguousarray(lines.T).view(np.uint8)
        height, width = rows.shape
        change = rows.copy()
        change[1:] ^= rows[:-1]
        change[0, 1:] ^= rows[-1, :-1]
        row, column = np.divmod(nonzero(change.reshape(-1)), width)
        found = np.sort(column * height + row)
    return np.append(found, bits.size) if len(found) % 2 else found


def nonzero(values: Array) -> Array:
    """Return where bytes are not 0, eight at a time: nearly all of them are."""
    whole = len(values) // 8 * 8
    words = np.flatnonzero(values[:whole].view(np.uint64) != 0)
    hits = np.flatnonzero(values[:whole].reshape(-1, 8)[words])
    tail = np.flatnonzero(values[whole:]) + whole
    return np.concatenate([words[hits >> 3] * 8 + (hits & 7), tail])


def _text(numbers: Array) -> str:
    """Return whole numbers from 0 on, joined by spaces."""
    if len(numbers) < 400:
        return " ".join(map(str, numbers.tolist()))
    width = len(str(numbers.max()))
    letters: Array = np.full((len(numbers), width + 1), ord(" "), np.uint8)
    rest: Array = numbers.astype(np.uint32 if width < 10 else np.uint64)
    for j in reversed(range(width)):
        # A digit is written while anything is left, so that no number starts with 0.
        there = rest > 0 if j < width - 1 else True
        tens = rest // 10
        letters[:, j] = np.where(there, rest - tens * 10 + 48, 0)
        rest = tens
    return str(letters[letters != 0].tobytes()[:-1], "ascii")


def _numbers(cell: str) -> Array:
    """Return the whole numbers of a cell."""
    text = np.frombuffer(cell.encode("ascii", "replace"), np.uint8)
    if not ((text - np.uint8(48) < 10) | (text == 32)).all():
        return np.array([_number(word) for word in cell.split()], np.int64)
    return np.minimum(np.fromstring(cell, np.int64, sep=" "), FAR) if cell.strip() else np.zeros(0, np.int64)


def _number(word: str) -> int:
    if not word.removeprefix("-").isdecimal():
        raise RleError(f"{word!r} is not a whole number")
    return max(-FAR, min(int(word), FAR))


def _runs(cell: str, height: int, width: int) -> tuple[Array, Array]:
    """Return where runs start and end (before which pixel), counted from 0, in order; refuse what cannot be."""
    numbers = _numbers(cell)
    if len(numbers) % 2:
        raise RleError(f"{len(numbers)} numbers, an odd count: each run is a start and a length")
    starts, lengths = numbers[::2], numbers[1::2]
    ends = starts + lengths
    # Nearly every cell is right: then three looks are enough, and nothing needs to be sorted.
    ordered = len(starts) and starts[0] > 0 and lengths.min() > 0 and (starts[1:] >= ends[:-1]).all()
    if ordered and ends[-1] - 1 <= height * width:
        return starts - 1, ends - 1
    for bad, words in (
        (starts < 1, "starts before pixel 1: starts are counted from 1"),
        (lengths < 1, "has no length"),
        (ends - 1 > height * width, f"runs past the end of {height} x {width} = {height * width} pixels"),
    ):
        if bad.any():
            raise RleError(f"{_name(starts, lengths, int(bad.argmax()))} {words}")
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, ends, lengths = starts[order], ends[order], lengths[order]
    over = starts[1:] < ends[:-1]
    if over.any():
        at = int(over.argmax())
        raise RleError(f"{_name(starts, lengths, at)} overlaps {_name(starts, lengths, at + 1)}")
    return starts - 1, ends - 1


def _name(starts: Array, lengths: Array, at: int) -> str:
    return f"run '{starts[at]} {lengths[at]}'"
