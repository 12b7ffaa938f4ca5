"""Images with their masks: what a network of masks learns from, view by view."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from pipeline.masks.decide import distance_target, resize
from pipeline.masks.maps import Maps
from pipeline.masks.truth import Truth
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.files import Array, digest
from pipeline.training.augment import Augmenter
from pipeline.training.fits import fitted
from pipeline.training.ragged import Ragged, stretch

FULL = {"uint8": 255, "uint16": 65535, "float32": 1.0}


class Dense:
    """Images (h w C each) and the masks of the rows that have one: `rows` are their places in the table.

    `distance`, where it is wanted, is one more mask: how deep in its object a pixel lies, 0..255. Images that follow
    those of `rows` have the maps of a model for masks, `soft`, row by row.
    """

    def __init__(
        self, images: Ragged, truth: Truth, rows: Array, distance: Ragged | None = None, soft: Maps | None = None
    ) -> None:
        self.images, self.truth, self.rows, self.distance, self.soft = images, truth, rows, distance, soft
        self.masks = truth.classes + (distance is not None)
        assert len(images) == len(rows) + (0 if soft is None else len(soft))
        assert soft is None or soft.layout.classes + soft.layout.extra >= self.masks, "the maps lack the distance"

    def __len__(self) -> int:
        return len(self.images)

    def stack(self, row: int) -> Array:
        """Return an image and its masks in one array h w (C + M) of the image's type, whose 1 is its largest number."""
        image = self.images[row]
        full = FULL[image.dtype.name]
        if row >= len(self.rows):
            assert self.soft is not None
            said = resize(self.soft[row - len(self.rows)][: self.masks], image.shape[:2]).transpose(1, 2, 0)
            return np.concatenate([image, (said * full + (full > 1) / 2).astype(image.dtype)], 2)
        masks = self.truth[int(self.rows[row])].transpose(1, 2, 0)
        parts = [image, (masks * np.array(full, image.dtype)).astype(image.dtype)]
        if self.distance is not None:
            parts.append((self.distance[row] / 255 * full).astype(image.dtype))
        return np.concatenate(parts, 2)


class DenseViews(Dataset[tuple[Array, int]]):
    """Augmented images with masks by (epoch, row, place in the epoch): the same view in any process and any order.

    A row that comes twice in an epoch is seen in two ways. Tiles are cut where there is a mask of the classes in
    `show`, which take turns (a number beyond the last class stands for any), or anywhere.
    """

    def __init__(
        self, dense: Dense, augment: Augmenter, seed: int, fit: str, size: tuple[int, int], show: tuple[int, ...] = ()
    ) -> None:
        self.dense, self.augment, self.seed = dense, augment, seed
        self.fit, self.size, self.show = fit, size, show

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Array, int]:
        epoch, row, nth = place
        first, second = np.random.SeedSequence([self.seed, epoch, row, nth]).generate_state(2).tolist()
        show = self.show[nth % len(self.show)] if self.show else -1
        rng = np.random.default_rng(second)
        view = fitted(self.dense.stack(row), self.dense.masks, self.fit, self.size, rng, show)
        return self.augment(np.ascontiguousarray(view), first), row


def distances(files: CompetitionFiles, truth: Truth, rows: Array, sizes: Array) -> Ragged:
    """Return how deep in its object each pixel of some rows lies (h w 1, 0..255), from the cache or into it."""
    key = digest("distance", *(truth.raw(int(row)).tobytes() for row in rows))

    def one(row: int) -> tuple[Array, str]:
        depth = distance_target(truth.instances(int(rows[row])))
        return np.rint(depth * 255).astype(np.uint8).ravel(), ""

    return stretch(files, key, one, sizes, 1, np.uint8)[0]
