"""Read the files of a row: image formats of OpenCV, npy arrays, or the user's own decoder; stack channels and views."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.store import config
from pipeline.store.errors import resolve
from pipeline.store.files import Array, digest_bytes
from pipeline.store.table import combined, files_of

log = logging.getLogger(__name__)
TYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}


class BadImage(Exception):
    """An image that cannot be read, with the reason."""


class Changed(Exception):
    """An image that is not what the table of record says."""


def decode(data: bytes, images: config.Images) -> Array:
    """Decode a file to H W C of the contract's channels and depth (uint8, uint16, or float32 in 0..1)."""
    if images.decoder is not None:
        return _to_depth(_own(data, images.decoder, images.each), images.depth)
    if data[:6] == b"\x93NUMPY":
        return _to_depth(_numpy(data, images.each), images.depth)
    image = _to_depth(_opencv(data), images.depth)
    if isinstance(images.channels, str):
        return _to_channels(image, images.channels)
    if image.shape[2] != images.channels:
        raise BadImage(f"{image.shape[2]} channels; images.channels = {images.channels}")
    return image


def _own(data: bytes, name: str, channels: int) -> Array:
    """Call the user's decoder, `bytes -> H W or H W C`; whatever it raises is about this file."""
    function: Callable[[bytes], Array] = resolve({}, name, "images.decoder")
    try:
        image = np.asarray(function(data))
    except Exception as error:  # the user's code may raise anything
        raise BadImage(
            f"{name} raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return _as_rows(image, channels, f"{name} returns")


def _numpy(data: bytes, channels: int) -> Array:
    try:
        return _as_rows(np.load(io.BytesIO(data), allow_pickle=False), channels, "an array of")
    except (ValueError, EOFError) as error:
        raise BadImage(f"not an npy array of numbers: {str(error).splitlines()[0]}") from error


def _as_rows(image: Array, channels: int, what: str) -> Array:
    """Return an array as H W C; C H W is turned where it cannot be anything else."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != channels:
        raise BadImage(f"{what} shape {image.shape}; H x W x {channels} is asked for")
    return image


def _to_depth(image: Array, depth: int) -> Array:
    """Convert between 8 bit, 16 bit and floats in 0..1; what was cut is told once."""
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype.kind == "f":
        low, high = float(image.min(initial=0)), float(image.max(initial=0))
        if not (np.isfinite(image).all() and low >= 0 and high <= 1):
            raise BadImage(f"floats from {low:.4g} to {high:.4g}; scale them to 0..1, for example in images.decoder")
        full = {8: 255, 16: 65535, 32: 1}[depth]
        return np.asarray(image * full if depth == 32 else np.rint(image * full), TYPES[depth])
    if image.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"pixels of type {image.dtype}; 8 and 16 bit and floats in 0..1 are read")
    if depth == 32:
        return (image / np.float32(np.iinfo(image.dtype).max)).astype(np.float32)
    if depth == 8 and image.dtype == np.uint16:
        _warn_of_depth()
        return (image.astype(np.uint32) * 255 // 65535).astype(np.uint8)
    if depth == 16 and image.dtype == np.uint8:
        return image.astype(np.uint16) * 257
    return image


def _opencv(data: bytes) -> Array:
    """Decode an image file to H W C.

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
        raise BadImage("not an image in a format that OpenCV reads; images.decoder may read others")
    return image if image.ndim == 3 else image[:, :, None]


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
    want = {"grey": 1, "rgb": 3, "rgba": 4}[channels]
    if (have, want) == (1, 1):
        return image
    if (have, want) not in codes:
        raise BadImage(f"{have} channels; {channels} is asked for")
    out = cv2.cvtColor(np.ascontiguousarray(image), codes[have, want])
    return out if out.ndim == 3 else out[:, :, None]


def load(folder: Path, path: str, known: str, images: config.Images, size: Sequence[int]) -> Array:
    """Read, verify against the table of record, decode and resize the files of a row.

    Return H W (views x channels) at `size` (height, width); a view that is missing stays black.
    """
    found = files_of(path, images.channel)
    data = {file: _read(folder / file) for file in found if file}
    if combined([digest_bytes(data[file]) if file else "" for file in found]) != known:
        raise Changed(f"image {folder / path} has changed since the folds were made")
    out = np.zeros((*size, images.views * images.width), TYPES[images.depth])
    for slot, file in enumerate(found):
        if file:
            try:
                part = _resize(decode(data[file], images), size)
            except BadImage as error:
                raise BadImage(f"image {folder / file} cannot be read: {error}") from error
            out[:, :, slot * images.each : (slot + 1) * images.each] = part
    return out


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Changed(f"image {path} cannot be opened: {error.strerror}") from error


def _resize(image: Array, size: Sequence[int]) -> Array:
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (size[1], size[0]), interpolation=how).reshape(*size, -1)
