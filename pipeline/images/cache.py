"""Decode every image once into a memory-mapped cache that folds, runs and processes share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.images.decode import TYPES, BadImage, Changed, load
from pipeline.store import config
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.command import setting
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
from pipeline.store.keys import own_code

log = logging.getLogger(__name__)


class Rows:
    """Arrays of images (n H W C each) as one, those of the first array first.

    Beside them stand `meta` (N M), and where they are normalised by group its mean and sd, `stats` (N 2 C). With
    `corners` (V 2) rows are parts of them, `side` x `side`: those of the first image, then those of the next.
    """

    corners: Array | None = None
    side = 0

    def __init__(self, parts: Sequence[Array], meta: Array, stats: Array | None = None) -> None:
        # A memory map indexes slowly; the array that it also is does not.
        self.parts, self.meta, self.stats = [np.asarray(part) for part in parts], meta.astype(np.float32), stats
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.dtype = self.parts[0].dtype
        self.shape: tuple[int, ...] = (int(self.starts[-1]), *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        if self.corners is None:
            return self._whole(rows)
        image, part = np.divmod(rows, len(self.corners))
        if np.ndim(rows) == 0:
            top, left = self.corners[part]
            return self._whole(int(image))[top : top + self.side, left : left + self.side]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for n, (i, (top, left)) in enumerate(zip(image.tolist(), self.corners[part].tolist(), strict=True)):
            out[n] = self._whole(i)[top : top + self.side, left : left + self.side]
        return out

    def cut(self, corners: Array, side: int) -> Rows:
        """Return parts of all these images as rows."""
        each = len(corners)
        stats = None if self.stats is None else np.repeat(self.stats, each, axis=0)
        found = Rows(self.parts, np.repeat(self.meta, each, axis=0), stats)
        found.corners, found.side = corners, side
        found.shape = (each * self.shape[0], side, side, *self.shape[3:])
        return found

    def _whole(self, rows: Any) -> Array:
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][rows])
        if np.ndim(rows) == 0:
            at = int(np.searchsorted(self.starts, rows, "right")) - 1
            return np.asarray(self.parts[at][rows - self.starts[at]])
        out = np.empty((len(rows), *self.parts[0].shape[1:]), self.parts[0].dtype)
        of = np.searchsorted(self.starts, rows, "right") - 1
        for number, part in enumerate(self.parts):
            out[of == number] = part[rows[of == number] - self.starts[number]]
        return out

    def followed_by(self, other: Rows) -> Rows:
        """Return these rows, then those of another."""
        both = None if self.stats is None or other.stats is None else np.concatenate([self.stats, other.stats])
        return Rows([*self.parts, *other.parts], np.concatenate([self.meta, other.meta]), both)


Images = Array | Rows


def metadata(images: Sized) -> Array:
    """Return what stands beside the images (N M), M = 0 where nothing does."""
    return images.meta if isinstance(images, Rows) else np.zeros((len(images), 0), np.float32)


def cached(
    files: CompetitionFiles, paths: Array, digests: Array, images: config.Images, size: Sequence[int]
) -> tuple[Array, dict[int, str]]:
    """Return N H W C decoded images, memory-mapped, and what is wrong with those that cannot be read (left black).

    The key is the content of the images and how they are decoded.
    """
    how = images.model_dump(include={"channels", "depth", "channel", "view", "decoder"})
    key = digest(*digests, digest_json([how, own_code(how), list(size)]))

    def one(row: int) -> tuple[Array | None, str]:
        try:
            return load(files.data, str(paths[row]), str(digests[row]), images, size), ""
        except BadImage as error:
            return None, str(error)

    shape = (len(paths), *size, images.views * images.width)
    return kept(files, key, one, Plan(shape, TYPES[images.depth], lambda array, row: array[row]), len(paths))


@dataclass(frozen=True)
class Plan:
    """A file of the cache: its shape, its type, and the place of a row in it."""

    shape: tuple[int, ...]
    dtype: Any
    place: Callable[[Array, int], Array]

    @property
    def bytes(self) -> int:
        """Return how large it is."""
        return int(np.prod(self.shape)) * int(np.dtype(self.dtype).itemsize)


def kept(
    files: CompetitionFiles, key: str, one: Callable[[int], tuple[Array | None, str]], plan: Plan, rows: int
) -> tuple[Array, dict[int, str]]:
    """Return a file of the cache, built where it is not there, and what is wrong with the rows left black.

    `one(row)` gives what belongs to a row, or says why there is nothing. A second builder waits for the first.
    """
    target = files.images / f"{key}.npy"
    with lock(files.images / f".{key}.lock", f"the image cache of {files.name}"):
        try:
            if not target.exists():
                _build(files.images, target, one, plan, rows)
            os.utime(target)
            # An unreadable image may have been mended since.
            return read_npy(target), {int(row): one(int(row))[1] for row in read_json(target.with_suffix(".json"))}
        except Changed as error:
            files.table.unlink(missing_ok=True)
            raise UserError(f"{error}: run the same make again, it makes the table of record afresh") from error


def _build(folder: Path, target: Path, one: Callable[[int], tuple[Array | None, str]], plan: Plan, rows: int) -> None:
    """Write what `one(row)` gives, and the rows for which it gives nothing."""
    _make_room(folder, plan.bytes)
    require_space(folder, plan.bytes, f"decoding {rows} images")
    bad = []
    with atomic(target) as temporary:
        header = np.lib.format.open_memmap(temporary, "w+", plan.dtype, plan.shape)
        with open(temporary, "r+b") as handle:
            # A sparse file on a full disk kills the process with SIGBUS; allocating it fails with an error instead.
            os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        def fill(row: int) -> None:
            image, _ = one(row)
            if image is None:
                bad.append(row)
            else:
                plan.place(header, row)[...] = image

        with ThreadPoolExecutor() as pool:
            work = pool.map(fill, range(rows))
            for _ in tqdm(work, total=rows, desc="decoding", unit="image", disable=None, leave=False):
                pass
        header.flush()
        write_json(target.with_suffix(".json"), sorted(bad))
    log.info("decoded %d images to %s (%.0f MB)", rows, target, plan.bytes / 1e6)


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
