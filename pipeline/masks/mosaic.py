"""Put tiles together again by their borders, as a group for folds: tiles that touch must not be divided.

The border of a tile is continued by one line (2 edge - next inner) and compared with the edges of all other tiles, each
standardised over tiles, then by tile (V. Gaitan's kernel for TGS 2018; its 4th place). Two tiles are linked where each
is the other's nearest, and clearly nearer than the second nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.store.files import Array

# How much nearer than the second the nearest must be, 1 - d1 / d2, seen from either side.
RATIO = 0.25
# Edges are compared with so many others at once.
BLOCK = 1024


@dataclass(frozen=True)
class Links:
    """Tiles (M 2) that lie side by side, the left or upper one first, the step (M 2: down, right), how clear it is (M)."""

    pairs: Array
    steps: Array
    clear: Array


def assemble(tiles: Array, ratio: float = RATIO) -> Array:
    """Return the number of the mosaic of each tile (N): the position of its first tile; a tile alone has its own.

    `tiles` are N h w or N h w c.
    """
    return place(links(tiles, ratio), len(tiles))[0]


def links(tiles: Array, ratio: float = RATIO) -> Links:
    """Return which tiles touch, from left to right and from top to bottom."""
    wide = tiles.reshape(*tiles.shape[:3], -1)
    found = [_touching(wide, ratio), _touching(wide.swapaxes(1, 2), ratio)]
    steps = [np.tile(step, (len(pairs), 1)) for (pairs, _), step in zip(found, ((0, 1), (1, 0)), strict=True)]
    return Links(np.concatenate([f[0] for f in found]), np.concatenate(steps), np.concatenate([f[1] for f in found]))


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


def _touching(tiles: Array, ratio: float) -> tuple[Array, Array]:
    """Return pairs (M 2: left, right) of tiles (N h w c) that touch, and how clear each is (M)."""
    beyond = _standard(2.0 * tiles[:, :, -1] - tiles[:, :, -2])
    edge = _standard(tiles[:, :, 0].astype(np.float64))
    right, clear, reach = _nearest(beyond, edge)
    left, back, _ = _nearest(edge, beyond)
    here = np.arange(len(tiles))
    # At a distance of sqrt(d) standardised edges correlate by a half: what is no nearer is no neighbour, if alone.
    sure = (left[right] == here) & (clear > ratio) & (back[right] > ratio) & (reach < np.sqrt(edge.shape[1]))
    return np.column_stack([here, right])[sure], np.minimum(clear, back[right])[sure]


def _standard(edges: Array) -> Array:
    """Return edges (N h c) standardised over tiles, then by tile (N d float32); a flat one becomes 0."""
    flat = edges.reshape(len(edges), -1)
    flat = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-9)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(flat.std(1, keepdims=True), 1e-9)
    # Two flat edges look alike whatever they show.
    flat[edges.std(1).max(1) < 1e-6] = 0
    return flat.astype(np.float32)


def _nearest(one: Array, other: Array) -> tuple[Array, Array, Array]:
    """Return for each edge the nearest of the others' (N), 1 - d1 / d2, and d1."""
    n = len(one)
    best, clear, reach = np.zeros(n, np.int64), np.zeros(n), np.full(n, np.inf)
    if n < 2:
        return best, clear, reach
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        # Standardised edges are all of one length, sqrt(d): |a - b|^2 = 2 d - 2 a b; a flat one is far from all.
        square = 2.0 * one.shape[1] - 2.0 * (one[rows] @ other.T)
        square[np.arange(len(rows)), rows] = np.inf
        best[rows] = square.argmin(1)
        first, second = np.partition(np.sqrt(np.maximum(square, 0)), 1, axis=1)[:, :2].T
        reach[rows] = first
        clear[rows] = np.where(second > 0, 1 - first / np.maximum(second, 1e-9), 0)
    return best, clear, reach
