"""The only inference: the same for out-of-fold rows and test rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.tasks import Task
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
    network: nn.Module, images: Array, rows: Array, *, machine: Machine, batch_size: int, view: View = identity
) -> Tensor:
    """Return the raw scores (N D, float32, on the CPU) of some rows of `images` (H W C each) seen through a view."""
    network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts = []
    for start in range(0, len(rows), batch_size):
        x = to_device(torch.from_numpy(images[rows[start : start + batch_size]]), machine)
        with machine.autocast():
            parts.append(network(view(x)).float().cpu())
    return torch.cat(parts)


def predict(
    network: Network, task: Task, head: str, images: Array, rows: Array, *, machine: Machine, tta: str, batch_size: int
) -> Array:
    """Return predictions (N P, float32) of some rows of `images` (H W C each), mean over the views of `tta`."""
    views = resolve(TTA, tta, "predict.tta")
    center, spread = network.center.cpu(), network.spread.cpu()
    seen = [scores(network, images, rows, machine=machine, batch_size=batch_size, view=view) for view in views]
    return torch.stack([to_prediction(task, head, s, center, spread) for s in seen]).mean(0).numpy()
