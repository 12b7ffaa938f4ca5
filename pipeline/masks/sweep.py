"""What many thresholds make of stored maps: one histogram an image instead of a mask a threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np

from pipeline.store.files import Array

# A bin is a byte: how many thresholds a pixel exceeds, and a bit for the truth.
BYTE = 256
MOST = BYTE // 2 - 1
# OpenCV counts in float32, which is exact up to here.
PIXELS = 1 << 24
# Small images are looked up so many pixels at a time: the calls cost as much as the pixels.
BLOCK = 1 << 20
# From version 5 on OpenCV looks up 16 bits, twice as fast as numpy.
WIDE = int(cv2.__version__.split(".")[0]) >= 5


def sweep(maps: Array, truths: Array, thresholds: Sequence[float]) -> Array:
    """Return the pixels of both, of the truth and of the guess `p > t` (N T 3) of N images of one class.

    `maps` (N H W) are float16, as on the shelf; `truths` (N H W) bool; thresholds ascend, `MOST` of them at most. They
    are exceeded as by the float32 of the map.
    """
    assert len(thresholds) <= MOST
    table, bins = _exceeded(tuple(thresholds)), 2 * len(thresholds) + 2
    exact = np.float32 if maps[0].size <= PIXELS else np.float64
    lanes, together = BYTE // bins, max(1, BLOCK // maps[0].size)
    lane, found = _lanes(maps[0].shape, lanes, bins), np.empty((len(maps), lanes * bins), exact)
    histogram = _histogram(maps[0].size, lanes * bins)
    room = np.empty((min(together, len(maps)), *maps[0].shape), np.uint8)
    for start in range(0, len(maps), together):
        levels = _looked_up(maps[start : start + together], table, room)
        levels |= np.ascontiguousarray(truths[start : start + together]).view(np.uint8)
        levels += lane
        for n, image in enumerate(levels, start):
            found[n] = histogram(image)
    counted = found.reshape(-1, lanes, len(thresholds) + 1, 2).sum(1, dtype=np.float64)
    # A pixel exceeds a threshold where it exceeds more of them than lie before that one.
    upto = counted.cumsum(1)
    beyond = (upto[:, -1:] - upto)[:, :-1]
    return np.stack([beyond[..., 1], np.broadcast_to(upto[:, -1:, 1], beyond.shape[:2]), beyond.sum(-1)], -1)


def _looked_up(maps: Array, table: Array, room: Array) -> Array:
    """Write to `room` what a table (65536, uint8) says of the bits of maps (N H W); return what was written."""
    bits, out = np.ascontiguousarray(maps).view(np.uint16), room[: len(maps)]
    if WIDE:
        cv2.LUT(bits.reshape(-1, bits.shape[2]), table, dst=out.reshape(-1, bits.shape[2]))
    else:
        table.take(bits, mode="clip", out=out)
    return out


@lru_cache(maxsize=16)
def _exceeded(thresholds: tuple[float, ...]) -> Array:
    """Return for the bits of every float16 twice the number of thresholds that it exceeds (65536, uint8)."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return np.asarray(2 * sum((values > t).astype(np.uint8) for t in thresholds), np.uint8).reshape(1 << 16)


@lru_cache(maxsize=16)
def _lanes(shape: tuple[int, int], lanes: int, bins: int) -> Array:
    """Return what sends neighbours (H W, uint8) to other bins: to count one bin again and again takes twice as long."""
    return np.broadcast_to((np.arange(shape[1]) % lanes * bins).astype(np.uint8), shape).copy()


def _histogram(pixels: int, bins: int) -> Callable[[Array], Array]:
    """Return what tells how often each of 0 .. bins - 1 stands in an image (H W, uint8) of so many pixels."""
    if pixels > PIXELS:
        return lambda image: np.bincount(image.ravel(), minlength=bins)
    channels, sizes, ranges = [0], [bins], [0, bins]
    return lambda image: cv2.calcHist([image], channels, None, sizes, ranges).ravel()
