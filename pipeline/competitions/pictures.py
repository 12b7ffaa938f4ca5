"""What must be known of images before any of them is trained on: their sizes, and which tiles fit together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.competitions.paths import ending
from pipeline.images.near import each
from pipeline.store.config import Images
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.store.table import files_of

if TYPE_CHECKING:
    from pipeline.masks.mosaic import Borders


def sizes(images: Images, data: Path, paths: Array) -> Array:
    """Return height and width of the image of every row (N 2, int32); of several channels the first file's."""
    return np.array(each(lambda path: size(images, data / files_of(path, images.channel)[0]), paths), np.int32)


def size(images: Images, path: Path) -> tuple[int, int]:
    """Return height and width of an image; those of a PNG without decoding it."""
    if images.decoder is None:
        with open(path, "rb") as handle:
            head = handle.read(24)
        if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
            return int.from_bytes(head[20:24]), int.from_bytes(head[16:20])
    height, width = read(images, path).shape[:2]
    return height, width


def read(images: Images, path: Path) -> Array:
    """Return an image as it is stored (H W or H W C), by the contract's decoder where it names one."""
    image: Any
    try:
        if images.decoder is not None:
            image = np.asarray(resolve({}, images.decoder, "images.decoder")(path.read_bytes()))
        elif ending(path.name) == "npy":
            image = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except UserError:
        raise
    except Exception as error:  # a decoder of the user's own may raise anything
        raise UserError(f"image {path} cannot be read: {(str(error) or repr(error)).splitlines()[0]}") from error
    if image is None:
        raise UserError(f"image {path} cannot be read: fetch it again, drop its row, or give images.decoder")
    if image.ndim == 3 and image.shape[2] != images.each and image.shape[0] == images.each:
        image = image.transpose(1, 2, 0)
    return np.asarray(image)


def mosaics(images: Images, data: Path, paths: Array) -> Array:
    """Return the mosaic of every tile (N, text; "" for one that fits no other), by the pixels along their borders.

    Only tiles of one size and one number of channels can lie side by side.
    """
    from pipeline.masks.mosaic import assemble

    found = np.full(len(paths), "", object)
    for rows, borders in alike(images, data, paths):
        numbers = assemble(borders)
        values, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            if number in values[counts > 1]:
                found[row] = f"mosaic {rows[int(np.flatnonzero(numbers == number)[0])]}"
    return found.astype(str)


def touching(images: Images, data: Path, paths: Array) -> Array:
    """Return which tiles lie side by side (M 4: positions of one and another, the step down and right)."""
    from pipeline.masks.mosaic import links

    found = [np.zeros((0, 4), np.int64)]
    for rows, borders in alike(images, data, paths):
        pairs = links(borders)
        found.append(np.column_stack([np.array(rows)[pairs.pairs], pairs.steps]))
    return np.concatenate(found)


def alike(images: Images, data: Path, paths: Array) -> Iterator[tuple[list[int], Borders]]:
    """Yield the positions of the tiles of one size and number of channels, with their borders."""
    from pipeline.masks.mosaic import Borders

    def look(path: str) -> tuple[tuple[int, ...], Borders]:
        tile = read(images, data / files_of(path, images.channel)[0])
        return tile.shape, Borders.of(tile[None])  # of a tile no more is kept

    tiles, shapes = each(look, paths), defaultdict[tuple[int, ...], list[int]](list)
    for row, (shape, _) in enumerate(tiles):
        shapes[shape].append(row)
    for rows in shapes.values():
        yield rows, Borders.together([tiles[row][1] for row in rows])
