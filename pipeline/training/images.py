"""Decode every image once into a memory-mapped cache that folds, runs and processes share."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.store import config
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.command import setting
from pipeline.store.errors import UserError
from pipeline.store.files import (
    Array,
    atomic,
    digest,
    digest_bytes,
    digest_json,
    lock,
    read_json,
    read_npy,
    require_space,
    write_json,
)

log = logging.getLogger(__name__)
CHANNELS = {"grey": 1, "rgb": 3, "rgba": 4}


class BadImage(Exception):
    """An image that cannot be read, with the reason."""


class Changed(Exception):
    """An image that is not what the table of record says."""


class Joined:
    """Two arrays of images as one: rows of the second follow those of the first."""

    def __init__(self, first: Array, second: Array) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: Any) -> Array:
        border = len(self.first)
        if np.ndim(rows) == 0:
            return np.asarray(self.first[rows] if rows < border else self.second[rows - border])
        out = np.empty((len(rows), *self.first.shape[1:]), self.first.dtype)
        out[rows < border] = self.first[rows[rows < border]]
        out[rows >= border] = self.second[rows[rows >= border] - border]
        return out


Images = Array | Joined


def decode(data: bytes, channels: str, depth: int) -> Array:
    """Decode an image file to H W C (uint8, or uint16 at depth 16); 16-bit files are scaled where depth is 8.

    OpenCV fills what is missing from a truncated JPEG with grey and only prints a warning, so ends are checked here.
    """
    tail = data[-4096:]
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in tail:
        raise BadImage("truncated JPEG (no end marker)")
    if data[:4] == b"\x89PNG" and b"IEND" not in tail:
        raise BadImage("truncated PNG (no end marker)")
    if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BadImage("truncated WebP")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        raise BadImage(f"OpenCV refuses it: {error.err}") from error
    if image is None:
        raise BadImage("not an image in a format that OpenCV reads")
    if image.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"pixels of type {image.dtype}; 8 and 16 bit are read")
    if depth == 8 and image.dtype == np.uint16:
        _warn_of_depth()
        image = (image.astype(np.uint32) * 255 // 65535).astype(np.uint8)
    if depth == 16 and image.dtype == np.uint8:
        image = image.astype(np.uint16) * 257
    return _to_channels(image if image.ndim == 3 else image[:, :, None], channels)


@functools.cache
def _warn_of_depth() -> None:
    log.warning("warning: 16-bit images are cut to 8 bits; images.depth = 16 in competition.toml keeps them")


def _to_channels(image: Array, channels: str) -> Array:
    """Convert OpenCV's grey, grey+alpha, BGR or BGRA to grey, RGB or RGBA."""
    have = image.shape[2]
    if have == 2:
        image, have = image[:, :, :1], 1
    codes = {
        (1, 3): cv2.COLOR_GRAY2RGB,
        (1, 4): cv2.COLOR_GRAY2RGBA,
        (3, 1): cv2.COLOR_BGR2GRAY,
        (3, 3): cv2.COLOR_BGR2RGB,
        (3, 4): cv2.COLOR_BGR2RGBA,
        (4, 1): cv2.COLOR_BGRA2GRAY,
        (4, 3): cv2.COLOR_BGRA2RGB,
        (4, 4): cv2.COLOR_BGRA2RGBA,
    }
    want = CHANNELS[channels]
    if (have, want) == (1, 1):
        return image
    if (have, want) not in codes:
        raise BadImage(f"{have} channels; {channels} is asked for")
    out = cv2.cvtColor(np.ascontiguousarray(image), codes[have, want])
    return out if out.ndim == 3 else out[:, :, None]


def load(path: Path, known: str, images: config.Images, size: Sequence[int]) -> Array:
    """Read, verify against its digest in the table of record, decode and resize one image to `size` (height, width)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Changed(f"image {path} cannot be opened: {error.strerror}") from error
    if digest_bytes(data) != known:
        raise Changed(f"image {path} has changed since the folds were made")
    image = decode(data, images.channels, images.depth)
    if image.shape[:2] != tuple(size):
        shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (size[1], size[0]), interpolation=how).reshape(*size, -1)
    return image


def cached(
    files: CompetitionFiles, paths: Array, digests: Array, images: config.Images, size: Sequence[int]
) -> tuple[Array, dict[int, str]]:
    """Return N H W C decoded images, memory-mapped, and what is wrong with those that cannot be read (left black).

    The key is the content of the images and how they are decoded; a second builder waits for the first.
    """
    key = digest(*digests, digest_json([images.channels, images.depth, list(size)]))
    target = files.images / f"{key}.npy"

    def one(row: int) -> tuple[Array | None, str]:
        path = files.data / str(paths[row])
        try:
            return load(path, str(digests[row]), images, size), ""
        except BadImage as error:
            return None, f"image {path} cannot be read: {error}"

    with lock(files.images / f".{key}.lock", f"the image cache of {files.name}"):
        try:
            if not target.exists():
                _build(files.images, target, one, (len(paths), *size, CHANNELS[images.channels]), images.depth)
            os.utime(target)
            # An unreadable image may have been mended since.
            return read_npy(target), {int(row): one(int(row))[1] for row in read_json(target.with_suffix(".json"))}
        except Changed as error:
            files.table.unlink(missing_ok=True)
            raise UserError(f"{error}: run the same make again, it makes the table of record afresh") from error


def _build(
    folder: Path, target: Path, one: Callable[[int], tuple[Array | None, str]], shape: tuple[int, ...], depth: int
) -> None:
    """Write the images that `one(row)` gives, and the rows of those it cannot give."""
    need = int(np.prod(shape)) * (depth // 8)
    _make_room(folder, need)
    require_space(folder, need, f"decoding {shape[0]} images")
    bad = []
    with atomic(target) as temporary:
        header = np.lib.format.open_memmap(temporary, "w+", np.uint8 if depth == 8 else np.uint16, shape)
        with open(temporary, "r+b") as handle:
            # A sparse file on a full disk kills the process with SIGBUS; allocating it fails with an error instead.
            os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        def fill(row: int) -> None:
            image, _ = one(row)
            if image is None:
                bad.append(row)
            else:
                header[row] = image

        with ThreadPoolExecutor() as pool:
            work = pool.map(fill, range(shape[0]))
            for _ in tqdm(work, total=shape[0], desc="decoding", unit="image", disable=None, leave=False):
                pass
        header.flush()
        write_json(target.with_suffix(".json"), sorted(bad))
    log.info("decoded %d images to %s (%.0f MB)", shape[0], target, need / 1e6)


def _make_room(folder: Path, need: int) -> None:
    """Keep the cache within PODIUM_CACHE_GB by removing what was used longest ago; open maps stay valid."""
    budget = setting("PODIUM_CACHE_GB", 50) * 10**9
    if need > budget:
        raise UserError(f"decoded images need {need / 1e9:.1f} GB, PODIUM_CACHE_GB allows {budget / 1e9:.0f}: raise it")
    kept = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
    total = need + sum(path.stat().st_size for path in kept)
    while kept and total > budget:
        oldest = kept.pop(0)
        total -= oldest.stat().st_size
        oldest.unlink(missing_ok=True)
        oldest.with_suffix(".json").unlink(missing_ok=True)
