"""Put tiles together again by their borders, as a group for folds: tiles that touch must not be divided.

Each tile is continued by one line, linearly from its last three, and compared with the first line of all others. Two
tiles are linked where each is the other's nearest and clearly nearer than the second nearest (after V. Gaitan's kernel
for TGS 2018), where the lines go up and down together, and where they differ little more than a line that is known does
from its own continuation. How lines are continued is fitted on the tiles: in noise 2 edge - inner doubles the noise.
Tiles may be of differing brightness: lines are compared as they are, less their means, and as shares of their lengths.
What fits by chance is counted on lines turned upside down, which no tile continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.store.files import Array

# How much nearer than the second the nearest must be, 1 - d1 / d2, seen from either side.
RATIO = 0.25
# How much further off than inside a tile the next line may be. Of 400 lone tiles none are linked, 246 pairs without.
REACH = 1.5
# What share of the links may be false. Of 1,265 tiles of nuclei that hardly touch 88 fit.
FALSE = 0.05
# How closely the two lines must correlate.
ALIKE = 0.5
# Edges are compared with so many others at once.
BLOCK = 1024


@dataclass(frozen=True)
class Links:
    """Tiles side by side (M 2), the left or upper one first, the step (M 2: down, right), how clear each is (M)."""

    pairs: Array
    steps: Array
    clear: Array


@dataclass(frozen=True)
class Borders:
    """All that is looked at of N tiles: the first column and the last four (N h c; N h 4 c), the first row and the last
    four (N w c; N w 4 c).
    """

    left: Array
    right: Array
    top: Array
    bottom: Array

    @classmethod
    def of(cls, tiles: Array) -> Borders:
        """Return the borders of tiles (N h w or N h w c), copied."""
        wide = tiles if tiles.ndim == 4 else tiles[..., None]
        high = wide.swapaxes(1, 2)
        return cls(*(np.array(part) for part in (wide[:, :, 0], wide[:, :, -4:], high[:, :, 0], high[:, :, -4:])))

    @classmethod
    def together(cls, parts: Sequence[Borders]) -> Borders:
        """Return the borders of all tiles of some parts."""
        return cls(*(np.concatenate([getattr(part, side.name) for part in parts]) for side in fields(cls)))

    def __len__(self) -> int:
        return len(self.left)


def assemble(tiles: Borders, ratio: float = RATIO) -> Array:
    """Return the number of the mosaic of each tile (N): the position of its first tile; a tile alone has its own."""
    return place(links(tiles, ratio), len(tiles))[0]


def links(tiles: Borders, ratio: float = RATIO) -> Links:
    """Return which tiles touch, from left to right and from top to bottom."""
    found = [_touching(tiles.left, tiles.right, ratio), _touching(tiles.top, tiles.bottom, ratio)]
    pairs, clear = (np.concatenate([way[j] for way in found]) for j in (0, 1))
    steps = np.repeat([[0, 1], [1, 0]], [len(way[0]) for way in found], axis=0)
    real = pairs[:, 1] < len(tiles)
    sure = real & (clear >= _least(clear[real], clear[~real]))
    return Links(pairs[sure], steps[sure], clear[sure])


def _least(clear: Array, chance: Array) -> float:
    """Return how clear links must be so that few are false, of which `chance` holds as many as there are by chance."""
    tried, decoys = np.sort(clear), np.sort(chance)
    false = len(decoys) - np.searchsorted(decoys, tried)
    fine = false <= FALSE * (len(tried) - np.arange(len(tried)))
    return float(tried[fine.argmax()]) if fine.any() else np.inf


def place(found: Links, n: int) -> tuple[Array, Array]:
    """Return the mosaic of each of `n` tiles (N) and its place there (N 2: row, column from 0).

    The clearest links come first; one that would put a tile in two places, or two tiles in one, is left out.
    """
    mosaic, at = np.arange(n), np.zeros((n, 2), np.int64)
    members = {k: [k] for k in range(n)}
    for j in np.argsort(-found.clear, kind="stable"):
        a, b = found.pairs[j]
        if mosaic[a] != mosaic[b]:
            _join(mosaic, at, members, at[a] + found.steps[j] - at[b], mosaic[a], mosaic[b])
    for tiles in members.values():
        mosaic[tiles] = min(tiles)
        at[tiles] -= at[tiles].min(0)
    return mosaic, at


def _join(mosaic: Array, at: Array, members: dict[int, list[int]], shift: Array, a: int, b: int) -> None:
    """Move mosaic b by `shift` into the frame of mosaic a, unless they overlap; the smaller of them is moved."""
    if len(members[b]) > len(members[a]):
        a, b, shift = b, a, -shift
    moved = at[members[b]] + shift
    if set(map(tuple, moved.tolist())).isdisjoint(map(tuple, at[members[a]].tolist())):
        at[members[b]] = moved
        mosaic[members[b]] = a
        members[a] += members.pop(b)


def _touching(first: Array, last: Array, ratio: float) -> tuple[Array, Array]:
    """Return pairs (M 2: left, right) of tiles that touch, one a side, and how clear each is (M).

    `first` (N h c) and `last` (N h 4 c) are their first line and the last four.

    Beside them stand as many that are upside down (N + i for tile i): those that fit, fit by chance.
    """
    n = len(first)
    if n < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    edge = np.concatenate([first, first[:, ::-1]]).reshape(2 * n, -1).astype(np.float64)
    beyond, inside, last = _continued(last.astype(np.float64))
    lights = zip(*(_lights(lines) for lines in (beyond, edge, inside, last)), strict=True)
    found = [_mutual(a, b, np.linalg.norm(c - d, axis=1), ratio) for a, b, c, d in lights]
    pairs, clear = np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])
    sure = np.flatnonzero(_alike(beyond[pairs[:, 0]], edge[pairs[:, 1]]))
    sure = sure[np.argsort(-clear[sure], kind="stable")]
    once = [np.unique(side, return_index=True, return_inverse=True) for side in pairs[sure].T]
    best = np.all([index[of] == np.arange(len(sure)) for _, index, of in once], axis=0)
    return pairs[sure][best], clear[sure][best]


def _lights(lines: Array) -> tuple[Array, Array, Array]:
    """Return lines (N d) as they are, less their means, and as shares of their lengths."""
    length = np.linalg.norm(lines, axis=1, keepdims=True)
    return lines, lines - lines.mean(1, keepdims=True), lines / np.maximum(length, 1e-9)


def _mutual(beyond: Array, edge: Array, error: Array, ratio: float) -> tuple[Array, Array]:
    """Return pairs (M 2) that are each other's nearest, clearly and within reach, and how clear each is (M)."""
    here = np.arange(len(beyond))
    right, clear, reach = _nearest(beyond, edge)
    left, back, _ = _nearest(edge, beyond)
    allowed = REACH * np.maximum(np.maximum(error, error[right % len(error)]), np.median(error))
    sure = (left[right] == here) & (clear > ratio) & (back[right] > ratio) & (reach <= allowed)
    return np.column_stack([here, right])[sure], np.minimum(clear, back[right])[sure]


def _continued(last: Array) -> tuple[Array, Array, Array]:
    """Return of the last four lines (N h 4 c) the one beyond, the last by those before it, and the last (N d)."""
    steps = np.diff(last, axis=2)
    before, now = np.moveaxis(steps[:, :, [1, 0]], 2, -1), steps[:, :, 2]
    share = np.linalg.lstsq(before.reshape(-1, 2), now.ravel(), rcond=None)[0]
    beyond = last[:, :, 3] + np.moveaxis(steps[:, :, [2, 1]], 2, -1) @ share
    inside = last[:, :, 2] + before @ share
    return beyond.reshape(len(last), -1), inside.reshape(len(last), -1), last[:, :, 3].reshape(len(last), -1)


def _alike(one: Array, other: Array) -> Array:
    """Say which lines (N d) correlate closely enough; a flat one is like no other."""
    a, b = (lines - lines.mean(1, keepdims=True) for lines in (one, other))
    return np.asarray((a * b).sum(1) > ALIKE * np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _nearest(one: Array, other: Array) -> tuple[Array, Array, Array]:
    """Return for each line (N d) the nearest of the other tiles' (N), 1 - d1 / d2, and d1."""
    n, count = len(one), min(len(one), len(other))
    best, clear, reach = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        square = (one[rows] ** 2).sum(1)[:, None] - 2 * one[rows] @ other.T + (other**2).sum(1)
        square[rows[:, None] % count == np.arange(len(other)) % count] = np.inf
        best[rows] = square.argmin(1)
        first, second = np.sqrt(np.maximum(np.partition(square, 1, axis=1)[:, :2].T, 0))
        reach[rows] = first
        clear[rows] = np.where(second > 0, 1 - first / np.maximum(second, 1e-9), 0)
    return best, clear, reach
