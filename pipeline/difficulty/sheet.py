"""Contact sheets: thumbnails with a few words under each, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.store.files import Array, atomic

THUMB, LINE, COLUMNS, MARGIN = 112, 14, 8, 4
CHARACTERS = 18
# The outlines of a given mask and of a predicted one, RGB.
GIVEN, SAID = np.array([0, 255, 0], np.uint8), np.array([255, 0, 0], np.uint8)


def write_sheet(path: Path, images: Sequence[Array], captions: Sequence[Sequence[str]]) -> None:
    """Write images (H W C each, uint8 or uint16) as one PNG, eight in a row, each over its lines of caption."""
    tall = THUMB + LINE * max((len(lines) for lines in captions), default=1) + MARGIN
    across, down = min(COLUMNS, max(len(images), 2)), max(-(-len(images) // COLUMNS), 1)
    sheet = np.full((down * tall, across * (THUMB + MARGIN), 3), 255, np.uint8)
    for j, (image, lines) in enumerate(zip(images, captions, strict=True)):
        top, left = j // COLUMNS * tall, j % COLUMNS * (THUMB + MARGIN)
        sheet[top : top + THUMB, left : left + THUMB] = thumbnail(image)
        for number, line in enumerate(lines):
            _say(sheet, line, left, top + THUMB + LINE * (number + 1) - MARGIN)
    if not len(images):
        _say(sheet, "none", MARGIN, LINE)
    with atomic(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def outlined(image: Array, *masks: Array) -> Array:
    """Return an image (H W C) as RGB at the size of a thumbnail, with outlines of masks (H W bool each) drawn on it.

    The first is green, the second red, both yellow where they agree. Faint images are brightened, up to eightfold.
    """
    full = {"uint8": 255, "uint16": 65535}.get(image.dtype.name, float(image.max()))
    low = float(image.min())
    span = max(float(image.max()) - low, full / 8, 1e-9)
    colour = np.repeat(image[:, :, :1], 3, 2) if image.shape[2] < 3 else image[:, :, :3]
    scale = THUMB / max(image.shape[:2])
    size = tuple(max(round(side * scale), 1) for side in image.shape[1::-1])
    grey = np.ascontiguousarray(np.clip((colour - low) / span, 0, 1) * 255, np.uint8)
    drawn = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    for number, mask in enumerate(masks):
        whole = cv2.resize(np.ascontiguousarray(mask, np.uint8), size, interpolation=cv2.INTER_NEAREST)
        edge = cv2.morphologyEx(whole, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
        others = edge & (drawn == GIVEN).all(2) if number else np.zeros_like(edge)
        drawn[edge] = SAID if number else GIVEN
        drawn[others] = np.maximum(GIVEN, SAID)
    return np.asarray(drawn)


def thumbnail(image: Array) -> Array:
    """Return an image (H W C) as a square of BGR, uint8, its longer side filled."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    colour = np.repeat(image[:, :, :1], 3, 2) if image.shape[2] < 3 else image[:, :, 2::-1]
    scale = THUMB / max(colour.shape[:2])
    height, width = (max(round(side * scale), 1) for side in colour.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    square = np.full((THUMB, THUMB, 3), 255, np.uint8)
    square[:height, :width] = cv2.resize(np.ascontiguousarray(colour), (width, height), interpolation=how)
    return square


def short(line: str) -> str:
    """Return what fits under a thumbnail, in ASCII, as OpenCV's font knows no more: both ends of a line too long."""
    text = line.encode("ascii", "replace").decode()
    end = CHARACTERS // 2 - 1
    return text if len(text) <= CHARACTERS else f"{text[:end]}..{text[-end:]}"


def _say(sheet: Array, line: str, left: int, bottom: int) -> None:
    cv2.putText(sheet, short(line), (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0), 1, cv2.LINE_AA)
