"""Images that are copies of each other: the same bytes, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.scoring.duplicates import SIDE, near_copies
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_file
from pipeline.store.table import combined, files_of

T = TypeVar("T")


def hash_images(data: Path, paths: Array, channel: list[str] | None = None) -> Array:
    """Return the content hash of every row's image files; an empty file is refused by name."""

    def one(path: str) -> str:
        if not path:
            return ""
        if (data / path).stat().st_size == 0:
            raise UserError(f"image {data / path} is empty (0 bytes): fetch it again or drop its row")
        return digest_file(data / path)

    return np.array(each(lambda row: combined([one(file) for file in files_of(row, channel)]), paths))


def find_near(data: Path, paths: Array, channel: list[str] | None, most: int) -> Array:
    """Return a key (N, text; "": none) that near copies share: hashes that differ in `most` bits or fewer; 0: none.

    Of a row of several files the first is looked at.
    """
    if most == 0:
        return np.full(len(paths), "")
    import cv2

    def one(path: str) -> Array:
        first = next(filter(None, files_of(path, channel)))
        image = cv2.imread(str(data / first), cv2.IMREAD_GRAYSCALE)
        # What cannot be read is like nothing; `train` tells of it.
        blank = np.zeros((SIDE, SIDE), np.uint8)
        return blank if image is None else cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    numbers = near_copies(np.stack(each(one, paths)), most)
    return np.where(numbers < 0, "", numbers.astype(str))


def each(work: Callable[[str], T], paths: Array) -> list[T]:
    """Return what `work` makes of every path, by as many threads as there are cores."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, paths.tolist()))
