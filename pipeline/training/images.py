"""Decode every image once into a memory-mapped cache that folds, runs and processes share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.command import setting
from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import (
    Array,
    atomic,
    digest,
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
        image = (image.astype(np.uint32) * 255 // 65535).astype(np.uint8)
    if depth == 16 and image.dtype == np.uint8:
        image = image.astype(np.uint16) * 257
    return _to_channels(image if image.ndim == 3 else image[:, :, None], channels)


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


def load(path: Path, known: str, images: Images, size: Sequence[int]) -> Array:
    """Read, verify against its digest in the table of record, decode and resize one image to `size` (height, width)."""
    data = path.read_bytes()
    if digest_bytes(data) != known:
        raise UserError(f"image {path} has changed since the folds were made: run make folds again")
    image = decode(data, images.channels, images.depth)
    if image.shape[:2] != tuple(size):
        shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (size[1], size[0]), interpolation=how).reshape(*size, -1)
    return image


def digest_bytes(data: bytes) -> str:
    """Return the hash that `files.digest_file` gives a file of these bytes."""
    import hashlib

    return hashlib.blake2b(data, digest_size=16).hexdigest()


def cached(
    files: CompetitionFiles, paths: Array, digests: Array, images: Images, size: Sequence[int]
) -> tuple[Array, dict[int, str]]:
    """Return N H W C decoded images, memory-mapped, and what is wrong with those that cannot be read (left black).

    The key is the content of the images and how they are decoded; a second builder waits for the first.
    """
    key = digest(*digests, digest_json([images.channels, images.depth, list(size)]))
    target = files.images / f"{key}.npy"
    with lock(files.images / f".{key}.lock", f"the image cache of {files.name}"):
        if not target.exists():
            _build(files, target, paths, digests, images, size)
        os.utime(target)
        bad = {int(row): why for row, why in read_json(target.with_suffix(".json")).items()}
        return read_npy(target), bad


def _build(
    files: CompetitionFiles, target: Path, paths: Array, digests: Array, images: Images, size: Sequence[int]
) -> None:
    shape = (len(paths), *size, CHANNELS[images.channels])
    need = int(np.prod(shape)) * (images.depth // 8)
    _make_room(files.images, need)
    require_space(files.images, need, f"decoding {len(paths)} images")
    bad: dict[int, str] = {}
    with atomic(target) as temporary:
        header = np.lib.format.open_memmap(temporary, "w+", np.uint8 if images.depth == 8 else np.uint16, shape)
        with open(temporary, "r+b") as handle:
            # A sparse file on a full disk kills the process with SIGBUS; allocating it fails with an error instead.
            os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        def one(row: int) -> None:
            path = files.data / str(paths[row])
            try:
                header[row] = load(path, str(digests[row]), images, size)
            except (BadImage, OSError) as error:
                bad[row] = f"image {path} cannot be read: {error}"

        with ThreadPoolExecutor() as pool:
            work = pool.map(one, range(len(paths)))
            for _ in tqdm(work, total=len(paths), desc="decoding", unit="image", disable=None, leave=False):
                pass
        header.flush()
        write_json(target.with_suffix(".json"), dict(sorted(bad.items())))
    log.info("decoded %d images to %s (%.0f MB)", len(paths), target, need / 1e6)


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
