"""Images at their natural size, one after another in a flat memory-mapped array that folds and runs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.images.cache import Plan, kept
from pipeline.images.decode import TYPES, BadImage, load
from pipeline.store import config
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.files import Array, digest, digest_json
from pipeline.store.keys import own_code


@dataclass(frozen=True)
class Stretch:
    """Images h w C of several sizes (N 2), one after another in a flat array."""

    flat: Array
    sizes: Array
    channels: int

    @property
    def starts(self) -> Array:
        """Return where each begins (N + 1)."""
        return starts_of(self.sizes, self.channels)


def starts_of(sizes: Array, channels: int) -> Array:
    """Return where images of some sizes (N 2) begin in a flat array (N + 1)."""
    return np.concatenate([[0], np.cumsum(sizes.astype(np.int64).prod(1) * channels)])


class Ragged:
    """Images of several sizes (each h w C) as one row of them: `images[row]`."""

    def __init__(self, parts: Sequence[Stretch]) -> None:
        self.parts, self.channels = list(parts), parts[0].channels
        self.sizes = np.concatenate([part.sizes for part in parts])
        self._starts = [part.starts for part in parts]
        self._first = np.cumsum([0, *(len(part.sizes) for part in parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, row: int) -> Array:
        of = int(np.searchsorted(self._first, row, "right")) - 1
        starts, own = self._starts[of], row - self._first[of]
        flat = self.parts[of].flat[starts[own] : starts[own + 1]]
        return np.asarray(flat).reshape(*self.sizes[row], self.channels)

    def followed_by(self, other: Ragged) -> Ragged:
        """Return these images, then those of another."""
        return Ragged([*self.parts, *other.parts])


def cached_ragged(
    files: CompetitionFiles, paths: Array, digests: Array, images: config.Images, sizes: Array
) -> tuple[Ragged, dict[int, str]]:
    """Return N images decoded at their own sizes (N 2), and what is wrong with those that cannot be read (black).

    Locked, shared and kept within the budget as `images.cached` is.
    """
    how = images.model_dump(include={"channels", "depth", "channel", "decoder"})
    key = digest(*digests, digest_json([how, own_code(how), sizes.tolist()]))

    def one(row: int) -> tuple[Array | None, str]:
        try:
            return load(files.data, str(paths[row]), str(digests[row]), images, sizes[row].tolist()).ravel(), ""
        except BadImage as error:
            return None, str(error)

    return stretch(files, key, one, sizes, images.width, TYPES[images.depth])


def stretch(
    files: CompetitionFiles,
    key: str,
    one: Callable[[int], tuple[Array | None, str]],
    sizes: Array,
    channels: int,
    dtype: type,
) -> tuple[Ragged, dict[int, str]]:
    """Return a flat file of the cache as images; `one(row)` gives the flat numbers of a row."""
    starts = starts_of(sizes, channels)
    plan = Plan((int(starts[-1]),), dtype, lambda array, row: array[starts[row] : starts[row + 1]])
    flat, bad = kept(files, key, one, plan, len(sizes))
    return Ragged([Stretch(flat, sizes, channels)]), bad
