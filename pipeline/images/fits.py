"""How images of any size become what a network sees, and how its maps become maps of the image again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.store.errors import UserError
from pipeline.store.files import Array

FITS = ("resize", "pad", "tiles")


def resized(image: Array, size: tuple[int, int], nearest: bool = False) -> Array:
    """Resize h w C to H W C: by area where it shrinks, else bilinear; masks take the nearest pixel."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    done = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)
    return np.asarray(done).reshape(*size, image.shape[2])


def margins(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Return what is added above and to the left of an image that is padded: half of what lacks."""
    return max(want[0] - have[0], 0) // 2, max(want[1] - have[1], 0) // 2


def padded(image: Array, size: tuple[int, int]) -> Array:
    """Reflect an image h w C (no border pixel twice) to at least H W; again and again, where it is much smaller."""
    for axis, before in enumerate(margins(image.shape[:2], size)):
        have, lacks = image.shape[axis], max(size[axis] - image.shape[axis], 0)
        if lacks:
            width = [(0, 0)] * 3
            width[axis] = (before, lacks - before)
            image = np.pad(image, width, "reflect" if have > 1 else "edge")
    return image


def fitted(
    stack: Array, masks: int, fit: str, size: tuple[int, int], rng: np.random.Generator, show: int = -1
) -> Array:
    """Return what a network sees (H W C) of an image in training; the last `masks` channels of it are masks.

    A tile lies anywhere; with `show` so that some pixel of that mask is in it, if there is one (`masks`: of any).
    """
    split = stack.shape[2] - masks
    if fit == "resize":
        parts = resized(stack[:, :, :split], size), resized(stack[:, :, split:], size, nearest=True)
        return np.concatenate(parts, 2)
    stack = padded(stack, size)
    if fit == "pad":
        return stack
    top, left = corner(stack[:, :, split:], size, rng, show)
    return stack[top : top + size[0], left : left + size[1]]


def corner(masks: Array, size: tuple[int, int], rng: np.random.Generator, show: int) -> tuple[int, int]:
    """Return where a tile begins: anywhere, or so that a random pixel of the mask that it is to show is in it."""
    room = [whole - side for whole, side in zip(masks.shape[:2], size, strict=True)]
    if show >= 0:
        there = np.flatnonzero(masks.any(2) if show >= masks.shape[2] else masks[:, :, show])
        if len(there):
            at = divmod(int(there[rng.integers(len(there))]), masks.shape[1])
            low = [max(0, pixel - side + 1) for pixel, side in zip(at, size, strict=True)]
            high = [min(most, pixel) for most, pixel in zip(room, at, strict=True)]
            first, second = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
            return first, second
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def require_fit(fit: str, size: tuple[int, int], sizes: Array, ids: Array, where: str) -> None:
    """Refuse images that are larger than what they are padded to."""
    too_large = (sizes > np.array(size)).any(1)
    if fit == "pad" and too_large.any():
        row = int(np.flatnonzero(too_large)[0])
        raise UserError(
            f'{where}: image.fit = "pad" to {size[0]} x {size[1]}, but the image of id {str(ids[row])!r} is '
            f'{sizes[row][0]} x {sizes[row][1]}: raise image.size, or set image.fit = "resize" or "tiles"'
        )


def undone(maps: Array, fit: str, have: tuple[int, int], want: tuple[int, int]) -> Array:
    """Return maps (M H W) of what a network saw as maps of the image, whose size was `have`, at the size `want`."""
    if fit == "pad":
        top, left = margins(have, maps.shape[1:])
        maps = maps[:, top : top + have[0], left : left + have[1]]
    return resized(maps.transpose(1, 2, 0), want).transpose(2, 0, 1)


@dataclass(frozen=True)
class Grid:
    """Tiles of `size` that cover an image, neighbours overlapping by a share of the side or more; and their weights."""

    image: tuple[int, int]
    size: tuple[int, int]
    overlap: float
    window: str

    def starts(self, axis: int) -> list[int]:
        """Return where tiles begin, evenly spread, the first at 0 and the last at the end."""
        room = self.image[axis] - self.size[axis]
        count = 1 + int(np.ceil(room / max(self.size[axis] * (1 - self.overlap), 1) - 1e-9))
        return [round(room * n / max(count - 1, 1)) for n in range(count)]

    def weights(self, axis: int) -> Array:
        """Return the weight of a tile's pixels along an axis (float32): a window that is never quite 0, or flat."""
        side = self.size[axis]
        if self.window == "flat":
            return np.ones(side, np.float32)
        return (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 + 1e-3).astype(np.float32)

    def total(self, axis: int) -> Array:
        """Return the sum of the weights of all tiles at each pixel along an axis."""
        out, weights = np.zeros(self.image[axis], np.float32), self.weights(axis)
        for start in self.starts(axis):
            out[start : start + len(weights)] += weights
        return out


def woven(grid: Grid, tiles: Iterator[Array]) -> Iterator[tuple[int, Array]]:
    """Yield the weighted mean of overlapping tiles as bands (top, M r W): no more than such a band is in memory.

    `tiles` yields the maps of one tile after another (M H W), row by row of the grid.
    """
    tops, lefts, (height, width) = grid.starts(0), grid.starts(1), grid.size
    window = grid.weights(0)[:, None] * grid.weights(1)
    down, across = grid.total(0), grid.total(1)
    band: Array | None = None
    for top, below in zip(tops, [*tops[1:], grid.image[0]], strict=True):
        for left in lefts:
            tile = next(tiles)
            if band is None:
                band = np.zeros((len(tile), height, grid.image[1]), np.float32)
            band[:, :, left : left + width] += tile * window
        assert band is not None
        done = below - top
        yield top, band[:, :done] / (down[top:below, None] * across)
        band[:, : height - done] = band[:, done:].copy()
        band[:, height - done :] = 0
