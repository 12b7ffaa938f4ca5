"""Masks as image files: one a row or one a class, by grey values, by colours, or anything that is not black."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.competitions.mask_cells import Place, store
from pipeline.competitions.paths import locate, regex, walk
from pipeline.masks.truth import Kind
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array


def find_files(config: Competition, data: Path, ids: Array, classes: Sequence[str]) -> list[list[str]]:
    """Return the mask files of every id: one, or one a class; an id without one, a mask without a row are refused."""
    pattern = (config.masks.pattern or "").replace("{split}", config.images.train)
    each = [pattern.replace("{class}", name) for name in classes] if "{class}" in pattern else [pattern]
    found = []
    for one in each:
        paths = locate(data, ids.tolist(), [one.replace("{id}", i) for i in ids.tolist()])
        for i, path in zip(ids.tolist(), paths, strict=True):
            if not (data / path).is_file():
                raise UserError(f"id {i!r} has no mask {data / path}: add it (black where nothing is), or drop the row")
        refuse_strangers(data, one, ids, set(paths))
        found.append(paths)
    return [list(row) for row in zip(*found, strict=True)]


def refuse_strangers(data: Path, pattern: str, ids: Array, taken: set[str]) -> None:
    """Refuse a mask whose id is no row."""
    fits, known = re.compile(regex(pattern)), set(ids.tolist())
    for path in walk(data, pattern.partition("{id}")[0].partition("**/")[0].rpartition("/")[0]):
        match = fits.fullmatch(path)
        if match and path not in taken and match["id"] not in known:
            raise UserError(f"mask {data / path} has no row: there is no id {match['id']!r}; add it, or move the file")


def draw_files(
    config: Competition, data: Path, files: Sequence[str], size: Array, kind: Kind, classes: Sequence[str], i: str
) -> Array:
    """Return the mask of a row's files as it is stored: see `pipeline.masks.truth.Truth`."""
    place = Place(data / files[0], i)
    images = [read(data / file, i, size) for file in files]
    told = config.masks.values or [int(colour[1:], 16) for colour in config.masks.colours or []]
    if not told:
        return store(
            np.stack([anything(image, file) for image, file in zip(images, files, strict=True)]), kind, classes, place
        )
    codes = numbers(images[0], config.masks.colours is not None, place)
    layers = np.stack([codes == code for code in told])
    odd = ~layers.any(0)
    if kind != "exclusive":
        odd &= codes != 0
    if odd.any():
        y, x = np.argwhere(odd)[0].tolist()
        code = int(codes[y, x])
        what = f"colour '#{code:06x}'" if config.masks.colours else f"value {code}"
        key = "colours" if config.masks.colours else "values"
        raise UserError(f"{place}: the pixel in row {y}, column {x} has the {what}, which masks.{key} does not name")
    return store(layers, kind, classes, place)


def read(path: Path, i: str, size: Array) -> Array:
    """Return a mask file (H W or H W C, 8 or 16 bit), which must be of the size of its image."""
    data = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise UserError(f"mask {path} of id {i!r} cannot be read as an image: write it as PNG")
    if image.shape[:2] != tuple(size.tolist()):
        (height, width), (h, w) = size.tolist(), image.shape[:2]
        raise UserError(f"mask {path} is {h} x {w} pixels, the image of id {i!r} {height} x {width}: they must agree")
    return image


def anything(image: Array, file: str) -> Array:
    """Return where a mask file is not black (H W bool); of a JPEG, which blurs, where it is brighter than half."""
    grey = image if image.ndim == 2 else image[:, :, : 3 if image.shape[2] > 2 else 1].max(2)
    return np.asarray(grey > (127 if re.search(r"(?i)\.jpe?g$", file) else 0))


def numbers(image: Array, colours: bool, place: Place) -> Array:
    """Return the grey value of every pixel, or its colour as a number 0xrrggbb (H W)."""
    if colours:
        if image.dtype != np.uint8:
            raise UserError(f"{place}: masks.colours are of 8 bits a channel, this file has 16: give masks.values")
        # OpenCV's blue, green, red and a zero are the bytes of 0x00rrggbb, the lowest first.
        quads = np.zeros((*image.shape[:2], 4), np.uint8)
        wide = image.reshape(*image.shape[:2], -1)
        quads[:, :, :3] = wide[:, :, : 3 if wide.shape[2] > 2 else 1]
        return quads.view("<u4")[:, :, 0]
    if image.ndim == 2:
        return image
    if image.shape[2] > 2 and (image[:, :, :3] != image[:, :, :1]).any():
        raise UserError(f"{place}: the mask is in colour: give masks.colours, not masks.values")
    return np.asarray(image[:, :, 0])
