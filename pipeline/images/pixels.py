"""Views of whole pixels, cut by the batch: nothing is interpolated, so a place and a flip say all of a view."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.images.cache import Images
from pipeline.store.files import Array

STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(numbers: Array) -> Array:
    """Return well mixed numbers (uint64), one of each: the output of splitmix64 (Steele 2014)."""
    x = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def seeds_of(seed: int, epoch: int, rows: Array) -> Array:
    """Return a seed (uint64) for the view of each row, whatever rows stand beside it in a batch."""
    first = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return mixed(first + rows.astype(np.uint64) * STEP)


def below(seeds: Array, bounds: Sequence[int]) -> Array:
    """Return whole numbers from 0 to below each of some bounds (N B), drawn by each of some seeds (N, uint64)."""
    drawn = mixed(seeds[:, None] + np.arange(1, len(bounds) + 1, dtype=np.uint64) * STEP) >> np.uint64(32)
    return np.asarray((drawn * np.array(bounds, np.uint64)) >> np.uint64(32), np.int64)


class Still:
    """The centre of images, `crop` x `crop` (0: all of them)."""

    def __init__(self, crop: int = 0) -> None:
        self.crop = crop

    def places(self, seeds: Array, height: int, width: int) -> Array:
        """Return of each view whether it is mirrored, and the first row and column of the (mirrored) image (N 3)."""
        place = [0, (height - (self.crop or height)) // 2, (width - (self.crop or width)) // 2]
        return np.tile(place, (len(seeds), 1))

    def __call__(self, image: Array, seed: int) -> Array:
        """Return the view h w C of an image (H W C, any number of channels)."""
        return np.asarray(self.batch(image[None], np.zeros(1, np.int64), np.array([seed], np.uint64))[0])

    def batch(self, images: Images, rows: Array, seeds: Array) -> Array:
        """Return the views (N h w C) of some rows of `images` (H W C each), by the seed of each."""
        _, height, width, _ = images.shape
        _, top, left = self.places(seeds[:1], height, width)[0]
        bottom, right = top + (self.crop or height), left + (self.crop or width)
        return np.asarray(images[rows][:, top:bottom, left:right])

    def pixels(self, seeds: Array, height: int, width: int) -> tuple[Array, Array]:
        """Return the row and the column in the image of each row (N h) and column (N w) of the views."""
        mirrored, top, left = self.places(seeds, height, width).T[:, :, None]
        y = _reflected(top + np.arange(self.crop or height), height)
        x = _reflected(left + np.arange(self.crop or width), width)
        return y, np.where(mirrored, width - 1 - x, x)


class Shifted(Still):
    """Flip left to right, shift by up to an eighth of the side in whole pixels, reflected, and crop anywhere."""

    def places(self, seeds: Array, height: int, width: int) -> Array:
        """Return the same, drawn evenly."""
        h, w = self.crop or height, self.crop or width
        most = np.array([h // 8, w // 8])
        drawn = below(seeds, [2, *(2 * most + 1).tolist(), height - h + 1, width - w + 1])
        return np.column_stack([drawn[:, :1], drawn[:, 3:] - (drawn[:, 1:3] - most)])

    def batch(self, images: Images, rows: Array, seeds: Array) -> Array:
        """Return the same, each view moved by its own draw."""
        _, height, width, channels = images.shape
        out = np.empty((len(rows), self.crop or height, self.crop or width, channels), images.dtype)
        places = self.places(seeds, height, width).tolist()
        for view, row, (mirrored, top, left) in zip(out, rows.tolist(), places, strict=True):
            # A window of the mirrored image is the mirrored window on the other side.
            _cut(images[row], top, width - view.shape[1] - left if mirrored else left, view)
            if mirrored:
                cv2.flip(view, 1, dst=view)
        return out


def _cut(image: Array, top: int, left: int, out: Array) -> None:
    """Copy a window of an image, which may run past its borders by less than it shows, into `out` (h w C)."""
    height, width = image.shape[:2]
    bottom, right = top + out.shape[0], left + out.shape[1]
    inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    past = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    if any(past):
        cv2.copyMakeBorder(inside, *past, cv2.BORDER_REFLECT_101, dst=out)
    else:
        out[:] = inside


def _reflected(at: Array, side: int) -> Array:
    """Return positions in 0 .. side - 1 of those that lie up to a side beyond; no border pixel comes twice."""
    at = np.abs(at)
    return np.where(at < side, at, 2 * side - 2 - at)
