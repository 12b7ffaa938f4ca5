"""How batches reach the network: from the cache through workers, or from images that lie on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.images.pixels import Still, seeds_of
from pipeline.images.ragged import Ragged
from pipeline.nets.machine import Machine
from pipeline.store.files import Array
from pipeline.training.sampling import Batches, Views, keys_of, loader

log = logging.getLogger(__name__)
# The rest is for the network: its activations want most of it.
SHARE = 0.25


class Resident:
    """The batches that the loader would give (views N H W C on the device, rows), cut on the device by an index."""

    def __init__(self, views: Views, batches: Batches, machine: Machine) -> None:
        assert isinstance(views.augment, Still)
        assert not isinstance(views.images, Ragged)
        self.augment, self.seed, self.batches, self.device = views.augment, views.seed, batches, machine.device
        self.images = torch.from_numpy(views.images[np.arange(len(views.images))]).to(machine.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        height, width = self.images.shape[1:3]
        for places in self.batches:
            rows = np.array([row for _, row, *_ in places])
            at = rows, *self.augment.pixels(seeds_of(self.seed, self.batches.epoch, keys_of(places)), height, width)
            n, y, x = (torch.from_numpy(index).to(self.device, non_blocking=True) for index in at)
            yield self.images[n[:, None, None], y[:, :, None], x[:, None, :]], torch.from_numpy(rows)


def feed(views: Dataset[tuple[Array, int]], batches: Batches, machine: Machine) -> Iterable[tuple[Tensor, Tensor]]:
    """Return what gives the batches of an epoch: on a GPU, where recipe and memory allow it, what lies there."""
    if machine.device == "cuda" and isinstance(views, Views) and lies_there(views, torch.cuda.mem_get_info()[0]):
        log.debug("%d images lie on the device", len(views.images))
        return Resident(views, batches, machine)
    return loader(views, batches, machine)


def lies_there(views: Views, free: int) -> bool:
    """Say whether images may lie on a device with so many free bytes, and be cut there."""
    images = views.images
    if isinstance(images, Ragged) or not isinstance(views.augment, Still) or images.dtype == np.uint16:
        return False
    return int(np.prod(images.shape)) * images.dtype.itemsize <= SHARE * free
