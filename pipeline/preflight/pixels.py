"""What reaches the first layer: normalisation, images without content, copies whose labels differ."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.preflight.findings import LOOK, OK, Finding, judged, worse
from pipeline.preflight.material import Batch, Material, Net
from pipeline.store.files import Array, digest

SOME, ROWS, TWINS = 64, 256, 4096
# With the numbers of ImageNet means were -1.3 to .6, deviations .31 to 1.4 on digits, blobs, seedlings, radiographs and
# nuclei; 8 bits in files of 16 give -2 and .005, pixels of 0..255 with numbers of 0..1 hundreds.
MEAN, SPREAD = (4, 10), (5, 25)
# Of the same sets no image was of one colour and no copy had another label; augmentation left 6 % of the nuclei black.
FLAT, ODD = (0.0, 0.2), (0.0, 0.1)


def normalisation(material: Material) -> Finding:
    """Compare mean and standard deviation of each channel at the first layer with 0 and 1."""
    seen = entrance(material, material.batch(material.sample(SOME)))
    mean, std = (part.tolist() for part in (seen.mean((0, 2, 3)), seen.std((0, 2, 3))))
    at = max(range(len(std)), key=lambda c: abs(np.log(max(std[c], 1e-9))) + abs(mean[c]))
    verdict = worse(*(judged_moments(m, s) for m, s in zip(mean, std, strict=True)))
    how = material.job.config.image.normalize
    other = published(material.first) if material.job.config.model.weights != "none" else None
    words = f"normalize = {how!r}: channel {at} has mean {mean[at]:.2g}, sd {std[at]:.2g} at the first layer"
    if verdict != OK:
        advice = 'look at images.depth and the files; image.normalize = "train" measures the training rows'
        return Finding("normalisation", verdict, words, advice)
    if other is not None:
        advice = f"its weights were trained on {other}: set image.normalize accordingly"
        return Finding("normalisation", LOOK, words, advice)
    return Finding("normalisation", OK, words)


def judged_moments(mean: float, std: float) -> str:
    """Return the verdict on a channel, which should be near 0 and 1."""
    spread = max(std, 1e-9)
    return worse(judged(abs(mean), *MEAN), judged(max(spread, 1 / spread), *SPREAD))


def published(network: Net) -> str | None:
    """Return the mean and sd that pretrained weights want, where the network has others."""
    known = getattr(network.backbone, "pretrained_cfg", None)
    if not known or getattr(network, "normalize", "") not in ("imagenet", "half") or network.mean.shape[1] != 3:
        return None
    wanted = torch.tensor([known["mean"], known["std"]])
    own = torch.stack([network.mean.flatten(), network.std.flatten()]).cpu()
    return None if torch.allclose(wanted, own, atol=1e-3) else f"mean {known['mean']}, sd {known['std']}"


class Enough(Exception):
    """Ends a forward pass whose rest nobody wants."""


@torch.no_grad()
def entrance(material: Material, batch: Batch) -> Tensor:
    """Return what the first layer that computes anything is given (N C H W; coordinates left out)."""
    network, caught = material.network(), list[Tensor]()

    def catch(module: nn.Module, given: Any) -> None:
        caught.append(given[0])
        raise Enough

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(catch)
    with contextlib.suppress(Enough):
        network(batch.x, *([batch.meta] if batch.meta.shape[1] else []))
    return caught[0][:, : material.job.competition.images.width].float().cpu()


def content(material: Material) -> Finding:
    """Count images of one colour, before augmentation and by it."""
    rows = material.sample(ROWS)
    before = np.array([flat(pixels(material, row)) for row in rows])
    after = np.array([flat(pixels(material, row, True)) for row in rows])
    verdict = judged(before.mean(), *FLAT)
    words = f"{before.sum()} of {len(rows)} images are of one colour"
    ids = material.job.table.ids[material.places]
    if verdict != OK:
        first = str(ids[rows[before.argmax()]])
        return Finding("images", verdict, words, f"look at id {first!r}: is it decoded rightly, and not empty?")
    if after.any():
        verdict, first = judged(after.mean(), *FLAT), str(ids[rows[after.argmax()]])
        words += f", {after.sum()} after augmentation"
        return Finding("images", verdict, words, f"augment.recipe leaves nothing of id {first!r}: take a weaker one")
    return Finding("images", OK, words + ", before and after augmentation")


def pixels(material: Material, row: int, augmented: bool = False) -> Array:
    """Return the pixels of a training row (H W C) as the network is given them, without masks."""
    place = (0, int(row), *([0] if material.masks else []))
    view = (material.views if augmented else material.plain)[place][0]
    return view[:, :, : view.shape[2] - material.masks]


def flat(image: Array) -> bool:
    """Say whether an image has one value a channel."""
    return bool((image == image[:1, :1]).all())


def twins(material: Material) -> Finding:
    """Count training rows that have a copy, pixel for pixel, whose target is another."""
    rows, groups = material.sample(TWINS), dict[str, list[int]]()
    for n, row in enumerate(rows):
        groups.setdefault(digest(pixels(material, row).tobytes()), []).append(n)
    table, places = material.job.table, material.places[rows]
    y, ids = table.y[places], table.ids[places]
    alike = [g for g in groups.values() if len(g) > 1]
    odd = [g for g in alike if any(not np.array_equal(y[g[0]], y[n], equal_nan=True) for n in g)]
    count = sum(map(len, odd))
    words = f"{count} of {len(rows)} training rows have a copy with another target ({sum(map(len, alike))} have one)"
    if not odd:
        return Finding("copies", OK, words)
    other = next(n for n in odd[0] if not np.array_equal(y[n], y[odd[0][0]], True))
    first, second = str(ids[odd[0][0]]), str(ids[other])
    advice = f"for example ids {first!r} and {second!r}: at most one of them is right"
    return Finding("copies", judged(count / len(rows), *ODD), words, advice)
