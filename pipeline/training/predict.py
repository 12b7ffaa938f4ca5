"""The only inference: the same for out-of-fold rows and test rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.tasks import Task
from pipeline.training.images import Images, metadata
from pipeline.training.machine import Machine, to_device
from pipeline.training.models import Network, to_prediction

View = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return the image as it is."""
    return x


def hflip(x: Tensor) -> Tensor:
    """Flip left to right."""
    return x.flip(3)


def turned(quarter: int, flip: bool) -> View:
    """Return one of the eight symmetries of the square."""
    return lambda x: (x.flip(3) if flip else x).rot90(quarter, (2, 3))


TTA: dict[str, list[View]] = {
    "none": [identity],
    "hflip": [identity, hflip],
    "d4": [turned(quarter, flip) for flip in (False, True) for quarter in range(4)],
}


@torch.inference_mode()
def scores(
    network: nn.Module, images: Images, rows: Array, *, machine: Machine, batch_size: int, view: View = identity
) -> Tensor:
    """Return the raw scores (N D, float32, on the CPU) of some rows of `images` (H W C each) seen through a view."""
    network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts, meta = [], torch.from_numpy(metadata(images))
    for batch in np.split(rows, range(batch_size, len(rows), batch_size)):
        x = to_device(torch.from_numpy(images[batch]), machine)
        beside = [meta[batch].to(machine.device)] if meta.shape[1] else []
        with machine.autocast():
            parts.append(network(view(x), *beside).float().cpu())
    return torch.cat(parts)


def predict(
    network: Network, task: Task, head: str, images: Images, rows: Array, *, machine: Machine, tta: str, batch_size: int
) -> tuple[Array, Array]:
    """Return predictions (N P, float32) of some rows of `images`, mean over the views of `tta`, and their spread.

    The spread (N, float32) is the standard deviation over the views, mean over the columns.
    """
    views = resolve(TTA, tta, "predict.tta")
    center, spread = network.center.cpu(), network.spread.cpu()
    seen = torch.stack(
        [
            to_prediction(task, head, scored[:, : scored.shape[1] - network.extra], center, spread)
            for view in views
            for scored in [scores(network, images, rows, machine=machine, batch_size=batch_size, view=view)]
        ]
    )
    return seen.mean(0).numpy(), seen.std(0, correction=0).mean(1).numpy()


@torch.inference_mode()
def embed(network: Network, images: Images, *, machine: Machine, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pooled features (n F, float16) and raw scores (n D, float32) of all images, batch by batch, on the CPU."""
    network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    meta = torch.from_numpy(metadata(images))
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, min(start + batch_size, len(images)))
        x = to_device(torch.from_numpy(images[rows]), machine)
        with machine.autocast():
            features = network.features(x)
            scored = network.classify(features, meta[rows].to(machine.device))
            yield features.to(torch.float16).cpu(), scored.float().cpu()
