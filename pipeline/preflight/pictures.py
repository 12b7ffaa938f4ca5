"""What the model sees: a contact sheet of its first batch, after augmentation and mixing, with its targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.difficulty.sheet import outlined, write_sheet
from pipeline.preflight.material import Batch, Material
from pipeline.store.files import Array
from pipeline.training.auxiliary import parts_of

PICTURES, SHOWN = 24, 0.05


def write_pictures(path: Path, material: Material, batch: Batch) -> None:
    """Write the first images of a batch, with their ids and what the loss is told of them."""
    ids = material.job.table.ids[material.places[batch.rows]]
    pictures = [picture(material, x, y) for x, y in zip(batch.x[:PICTURES], batch.y[:PICTURES], strict=True)]
    captions = [[str(i), told(material, y)] for i, y in zip(ids, batch.y[:PICTURES].cpu(), strict=False)]
    write_sheet(path, pictures, captions)


def picture(material: Material, x: Tensor, y: Tensor) -> Array:
    """Return one view of an image (C H W) as H W C uint8, with the outlines of its masks."""
    width = material.job.competition.images.width
    seen = x[:width].permute(1, 2, 0).float().cpu().numpy()
    low, high = float(min(seen.min(), 0)), float(max(seen.max(), 1))  # beyond 0..1 where groups are normalised
    shown = np.rint((seen - low) / (high - low) * 255).astype(np.uint8)
    if not material.masks:
        return np.asarray(shown[:, :, :3])
    masks = y.cpu().numpy().reshape(-1, *shown.shape[:2])[: len(material.job.table.classes)]
    return outlined(shown, masks.max(0) > 0.5)


def told(material: Material, y: Tensor) -> str:
    """Return the targets of an image (D) in words: classes with their shares, else numbers."""
    names = material.job.table.classes
    if material.masks:
        return ""
    y = y[: len(y) - sum(part.width for part in parts_of(material.job))]
    if len(y) != len(names) or material.job.task.name == "regression":
        return " ".join(f"{value:.2f}" for value in y.tolist())
    shares = [(name, share) for name, share in zip(names, y.tolist(), strict=True) if share > SHOWN]
    words = [name if share > 1 - SHOWN else f"{name} {share:.2f}" for name, share in shares]
    return " ".join(words) or "(no label)"
