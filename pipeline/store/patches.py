"""The section of a training run's config on patches: images learnt from, and predicted by, their parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.store.section import Section

if TYPE_CHECKING:
    from pipeline.store.train import Train


class Patches(Section):
    """Patches of `size` x `size` (0: images as a whole) cut every `stride` pixels or fewer (0: side by side).

    An image is predicted as the mean of its patches, each weighing its confidence to the power `gamma`. With
    `chosen_by` a first run that learnt from all patches says by models blind to an image which share `keep` of its
    patches is learnt from, and how confident one may be of each; `background` makes a class of the others. Its pair
    models are blind to the image and to the fold that ours leaves out; `nested = "none"` asks its model of our fold,
    which has learnt from the image.
    """

    size: Annotated[int, Field(ge=0)] = 0
    stride: Annotated[int, Field(ge=0)] = 0
    keep: Annotated[float, Field(gt=0, le=1)] = 0.25
    gamma: Annotated[float, Field(ge=0)] = 2.0
    background: bool = False
    nested: Literal["pairs", "none"] = "pairs"

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return top and left of the patches of an image, row by row: evenly spread from border to border."""
        rows, columns = (starts(whole, self.size, self.stride or self.size) for whole in (height, width))
        return [(top, left) for top in rows for left in columns]

    def kept(self, patches: int) -> int:
        """Return how many of so many patches are kept: never none."""
        return max(1, round(self.keep * patches))


def starts(whole: int, side: int, stride: int) -> list[int]:
    """Return where parts of a side begin, the first at 0, the last at the end, none further than a stride apart."""
    room = whole - side
    steps = math.ceil(room / stride)
    return [round(room * n / max(steps, 1)) for n in range(steps + 1)]


def shown(config: Train) -> int:
    """Return how many pictures a model learns from an image of: itself, or its patches."""
    patches, size = config.patches, config.image.size
    if not patches.size:
        return 1
    each = len(patches.corners(*([size, size] if isinstance(size, int) else size)))
    return patches.kept(each) if config.chosen_by and not patches.background else each


def has_background(config: Train) -> bool:
    """Say whether patches that were not chosen are a class of their own."""
    return config.patches.background and config.chosen_by is not None


def refuse_odd_patches(config: Train) -> None:
    """Refuse what does not go with patches, and what is about patches where none are asked for (ValueError)."""
    patches, size = config.patches, config.image.size
    if not patches.size:
        if config.chosen_by or patches.model_fields_set - {"size"}:
            raise ValueError("patches.size must say how large patches are: [patches] and chosen_by are about them")
        return
    if patches.size > (size if isinstance(size, int) else min(size)):
        raise ValueError(f"patches.size = {patches.size} is larger than image.size = {size}: they are parts of it")
    if not config.chosen_by and (odd := sorted({"keep", "background", "nested"} & patches.model_fields_set)):
        raise ValueError(f"patches.{odd[0]} is about patches that are chosen: it needs chosen_by, the name of a run")
    named = [name for name in ("pseudo", "teacher", "tags", "indicators") if getattr(config, name)]
    named += [f"fit = {config.fit!r}"] if config.fit != "network" else []
    named += ["image.crop"] if config.image.crop else []
    named += ["predict.hard_tta"] if config.predict.hard_tta != "none" else []
    named += ["decouple.method"] if config.decouple.method != "none" else []
    if named:
        raise ValueError(f"patches.size and {named[0]} exclude each other: what that is about are whole images")
