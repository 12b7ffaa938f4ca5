"""Predicted maps on the shelf: one stretch of a flat array per row, whatever the size of its image.

A stretch holds C h w probabilities, E h w further maps (the distance to an object's border, 0..1), then C probabilities
that the class is there at all. A mean over folds, views or members is then elementwise, and ragged sizes are no
special case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.store.files import Array, atomic

SHELF = np.dtype(np.float16)


@dataclass(frozen=True)
class Layout:
    """How rows lie in a flat array: `sizes` (N 2: height, width of the maps), `classes` and `extra` maps of each."""

    sizes: Array
    classes: int
    extra: int = 0

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def starts(self) -> Array:
        """Return where rows start, and last where the array ends (N+1)."""
        lengths = self.sizes.astype(np.int64).prod(1) * (self.classes + self.extra) + self.classes
        return np.concatenate([[0], np.cumsum(lengths)])

    @property
    def total(self) -> int:
        """Return the length of the flat array."""
        return int(self.starts[-1])

    def part(self, rows: Array) -> Layout:
        """Return the layout of some rows (a mask or positions) that follow one another in an array of their own."""
        return replace(self, sizes=self.sizes[rows])


def layout(sizes: Array, classes: int, extra: int = 0, scale: float = 1.0) -> Layout:
    """Return the layout of maps of images of `sizes` (N 2: height, width), each side times `scale`, rounded up."""
    # 30 * .1 is a little more than 3: what rounding adds must not add a pixel.
    return Layout(np.ceil(np.asarray(sizes) * scale - 1e-9).astype(np.int64).reshape(-1, 2), classes, extra)


@dataclass(frozen=True)
class Maps:
    """Maps of rows, read when asked for: a flat array, its layout, and which rows of it these are (None: all)."""

    flat: Array
    layout: Layout
    rows: Array | None = None

    def __post_init__(self) -> None:
        assert self.flat.shape == (self.layout.total,), f"{self.flat.shape} values, {self.layout.total} in the layout"

    def __len__(self) -> int:
        return len(self.layout if self.rows is None else self.rows)

    def __getitem__(self, i: int) -> Array:
        """Return the maps (C+E h w, float32) of a row."""
        return np.asarray(self.stored(i), np.float32)

    def stored(self, i: int) -> Array:
        """Return the maps (C+E h w) of a row as they lie on the shelf, float16: no pixel is copied."""
        row, end = self._stretch(i)
        return row[:end].reshape(-1, *self.size(i))

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def present(self, i: int) -> Array:
        """Return the probabilities (C, float32) that a class is there at all."""
        row, end = self._stretch(i)
        return np.asarray(row[end:], np.float32)

    def size(self, i: int) -> tuple[int, int]:
        """Return height and width of the maps of a row."""
        height, width = self.layout.sizes[self._row(i)].tolist()
        return height, width

    def part(self, rows: Array) -> Maps:
        """Return the maps of some rows (a mask or positions); no pixel is copied."""
        known = np.arange(len(self.layout)) if self.rows is None else self.rows
        return replace(self, rows=known[rows])

    def _row(self, i: int) -> int:
        return int(i if self.rows is None else self.rows[i])

    def _stretch(self, i: int) -> tuple[Array, int]:
        row = self._row(i)
        start, end = self.layout.starts[row], self.layout.starts[row + 1]
        return self.flat[start:end], int(end - start) - self.layout.classes


@dataclass(frozen=True)
class Averaged:
    """Maps of several models in the mean, taken of a row when it is asked for."""

    models: Sequence[Maps]

    def __len__(self) -> int:
        return len(self.models[0])

    def __getitem__(self, i: int) -> Array:
        """Return the maps (C+E h w, float32) of a row."""
        return np.asarray(np.mean([model[i] for model in self.models], 0, dtype=np.float32))

    def present(self, i: int) -> Array:
        """Return the probabilities (C, float32) that a class is there at all."""
        return np.asarray(np.mean([model.present(i) for model in self.models], 0, dtype=np.float32))


@dataclass(frozen=True)
class InTurn:
    """Some rows (positions) of maps: the first as the first of several models shows it, and so on in turn."""

    models: Sequence[Averaged]
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Array:
        """Return the maps (C+E h w, float32) of a row."""
        return self.models[i % len(self.models)][int(self.rows[i])]

    def present(self, i: int) -> Array:
        """Return the probabilities (C, float32) that a class is there at all."""
        return self.models[i % len(self.models)].present(int(self.rows[i]))


def pack(maps: Array, present: Array) -> Array:
    """Return the stretch (float16) of maps (C+E h w) and presence (C)."""
    return np.concatenate([np.asarray(maps, SHELF).ravel(), np.asarray(present, SHELF).ravel()])


def write_flat(path: Path, parts: Iterable[Array], total: int) -> None:
    """Write stretches one after the other as one flat float16 `.npy` of `total` values, none kept in memory."""
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(SHELF), "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(handle, header)
        written = 0
        for part in parts:
            handle.write(np.ascontiguousarray(part, SHELF).data)
            written += part.size
        assert written == total, f"{written} of {total} values"


def write_mean(
    path: Path, flats: Sequence[Array], weights: Sequence[float] | None = None, chunk: int = 1 << 22
) -> None:
    """Write the weighted mean of flat arrays, added up in float32, `chunk` values at a time.

    The bytes are the same whatever the chunk. Weights need not sum to 1; None: all count alike.
    """
    total = len(flats[0])
    assert all(flat.shape == (total,) for flat in flats), "flat arrays of different lengths"
    shares = np.ones(len(flats), np.float32) if weights is None else np.asarray(weights, np.float32)
    assert len(shares) == len(flats), "a weight for each flat array"

    chunks = ([flat[at : at + chunk] for flat in flats] for at in range(0, total, chunk))
    write_flat(path, (mean_of(parts, shares) for parts in chunks), total)


def mean_of(parts: Sequence[Array], shares: Array | None = None) -> Array:
    """Return the weighted mean (float32) of stretches of one length; None: all count alike."""
    shares = np.ones(len(parts), np.float32) if shares is None else shares
    mean = np.zeros(len(parts[0]), np.float32)
    for part, share in zip(parts, shares, strict=True):
        mean += part.astype(np.float32) * share
    return np.asarray(mean / shares.sum())


def gather(path: Path, layout: Layout, parts: Mapping[int, Array], folds: Array) -> None:
    """Put flat arrays of folds together in table order (see `gathered`)."""
    write_flat(path, gathered(layout, parts, folds), layout.total)


def gathered(layout: Layout, parts: Mapping[int, Array], folds: Array) -> Iterator[Array]:
    """Yield the stretch of each row in table order.

    `parts[k]` holds the rows of `layout` (N) whose fold in `folds` (N) is k, in their order.
    """
    lengths, ends = np.diff(layout.starts), dict.fromkeys(parts, 0)
    for fold, length in zip(folds.tolist(), lengths.tolist(), strict=True):
        ends[fold] += length
        yield parts[fold][ends[fold] - length : ends[fold]]
    assert all(end == len(parts[k]) for k, end in ends.items()), "a fold's array is longer than its rows"
