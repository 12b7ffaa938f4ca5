"""Images with their masks: what a network of masks learns from, view by view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from pipeline.images.augment import Augmenter
from pipeline.images.fits import fitted
from pipeline.images.ragged import Ragged, stretch
from pipeline.masks.decide import distance_target, resize
from pipeline.masks.maps import Maps
from pipeline.masks.truth import Truth, components
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.files import Array, digest

FULL = {"uint8": 255, "uint16": 65535, "float32": 1.0}


@dataclass(frozen=True)
class Soft:
    """Masks that teachers draw (`maps`, probabilities) of the images in `at`: their places among those of a Dense."""

    maps: Maps
    at: Array

    def of(self, place: int, size: tuple[int, int]) -> Array:
        """Return the masks of an image (C h w, 0..1) at its size."""
        return resize(self.maps[self._index[place]], size)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {place: i for i, place in enumerate(self.at.tolist())}


class Dense:
    """Images (h w C each) and their masks: of the first, `rows` are the places in the table; of others see `soft`.

    `distance`, where it is wanted, is one more mask: how deep in its object a pixel lies, 0..255.
    """

    def __init__(
        self, images: Ragged, truth: Truth, rows: Array, distance: Ragged | None = None, soft: Soft | None = None
    ) -> None:
        self.images, self.truth, self.rows, self.distance, self.soft = images, truth, rows, distance, soft
        self.masks = truth.classes + (distance is not None)

    def __len__(self) -> int:
        return len(self.images)

    def stack(self, row: int) -> Array:
        """Return an image and its masks in one array h w (C + M) of the image's type, whose 1 is its largest number."""
        image = self.images[row]
        full = FULL[image.dtype.name]
        if row >= len(self.rows):
            return np.concatenate([image, *self._drawn(row, image.shape[:2], full, image.dtype)], 2)
        masks = self.truth[int(self.rows[row])].transpose(1, 2, 0)
        parts = [image, (masks * np.array(full, image.dtype)).astype(image.dtype)]
        if self.distance is not None:
            parts.append((self.distance[row] / 255 * full).astype(image.dtype))
        return np.concatenate(parts, 2)

    def _drawn(self, row: int, size: tuple[int, int], full: float, dtype: np.dtype[Any]) -> list[Array]:
        """Return the masks of an image as its teachers draw them, and the distances in what they decide at one half."""
        assert self.soft is not None
        masks = self.soft.of(row, size)
        parts = [masks]
        if self.distance is not None:
            parts.append(distance_target(components(masks[0] > 0.5))[None])
        scaled = [part.transpose(1, 2, 0) * full for part in parts]
        return [(part if dtype.kind == "f" else np.rint(part)).astype(dtype) for part in scaled]


class DenseViews(Dataset[tuple[Array, int]]):
    """Augmented images with masks by (epoch, row, place in the epoch): the same view in any process and any order.

    A row that comes twice in an epoch is seen in two ways. Tiles are cut where there is a mask of the classes in
    `show`, which take turns (a number beyond the last class stands for any), or anywhere; of soft masks anywhere.
    """

    def __init__(
        self, dense: Dense, augment: Augmenter, seed: int, fit: str, size: tuple[int, int], show: tuple[int, ...] = ()
    ) -> None:
        self.dense, self.augment, self.seed = dense, augment, seed
        self.fit, self.size, self.show = fit, size, show

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Array, int]:
        epoch, row, nth = place
        first, second = np.random.SeedSequence([self.seed, epoch, row, nth]).generate_state(2).tolist()
        drawn = row >= len(self.dense.rows)  # a soft mask shows every class a little
        show = self.show[nth % len(self.show)] if self.show and not drawn else -1
        rng = np.random.default_rng(second)
        view = fitted(self.dense.stack(row), self.dense.masks, self.fit, self.size, rng, show)
        return self.augment(np.ascontiguousarray(view), first), row


def distances(files: CompetitionFiles, truth: Truth, rows: Array, sizes: Array) -> Ragged:
    """Return how deep in its object each pixel of some rows lies (h w 1, 0..255), from the cache or into it."""
    marks = (digest(truth.raw(int(row)).tobytes(), str(truth.sizes[row].tolist())) for row in rows)
    key = digest("distance", truth.kind, *marks)

    def one(row: int) -> tuple[Array, str]:
        depth = distance_target(truth.instances(int(rows[row])))
        return np.rint(depth * 255).astype(np.uint8).ravel(), ""

    return stretch(files, key, one, sizes, 1, np.uint8)[0]
