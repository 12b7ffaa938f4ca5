"""Augmentation: albumentations behind one function, and mixup / cutmix on batches.

`augmenter(recipe, crop)` gives `(image uint8 or uint16 H W C, seed) -> image`; nothing else here is used outside.
Recipes of whole pixels (`none`, `shift`) need no library and are cut by the batch (`pixels.py`).
The last channels may be masks: geometry moves them with the image, by the nearest pixel, and nothing else touches them.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from inspect import signature
from typing import Any

# Else albumentations asks the network for its newest version at import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch

from pipeline.images.pixels import Shifted, Still
from pipeline.store.errors import resolve
from pipeline.store.files import Array

Augmenter = Callable[[Array, int], Array]


def light() -> list[Any]:
    """Flip left to right, shift a little: safe for photographs."""
    return [A.HorizontalFlip(p=0.5, strict=True), _affine(shift=0.06, scale=0.1, degrees=8, p=0.8)]


def medium() -> list[Any]:
    """Any of the eight symmetries of the square, stronger geometry, some colour: for views without an upright."""
    return [
        A.D4(p=1.0, strict=True),
        _affine(shift=0.1, scale=0.2, degrees=25, p=0.8),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5, strict=True),
    ]


def heavy() -> list[Any]:
    """`medium` with holes, blur and noise."""
    return [
        *medium(),
        A.OneOf([A.GaussianBlur(p=1.0, strict=True), A.GaussNoise(std_range=(0.02, 0.1), p=1.0, strict=True)], p=0.3),
        A.CoarseDropout(num_holes_range=(1, 4), hole_height_range=(0.1, 0.25), hole_width_range=(0.1, 0.25), p=0.5,
                        strict=True),
    ]  # fmt: skip


def upright() -> list[Any]:
    """Geometry without flips: for characters and whatever else loses its meaning in a mirror."""
    return [
        _affine(shift=0.1, scale=0.15, degrees=15, p=0.9, shear=10),
        A.ElasticTransform(alpha=30, sigma=5, p=0.5, strict=True),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.3, strict=True),
    ]


def strong() -> list[Any]:
    """Contrast, blur or noise, a hole; no geometry: what the second view of an image without a label has more."""
    hole: dict[str, Any] = {"hole_height_range": (0.1, 0.35), "hole_width_range": (0.1, 0.35)}
    return [
        A.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.4, p=1.0, strict=True),
        A.OneOf([A.GaussianBlur(p=1.0, strict=True), A.GaussNoise(std_range=(0.02, 0.15), p=1.0, strict=True)], p=0.5),
        A.CoarseDropout(num_holes_range=(1, 1), **hole, p=1.0, strict=True),
    ]


def resnet(size: tuple[int, int], channels: int) -> list[Any]:
    """Scale the shorter side to 256 .. 480 of 224, crop anywhere (He 2016, three steps), flip, colour jitter."""
    side = min(size)
    sides = list(range(round(side * 256 / 224), round(side * 480 / 224) + 1))
    crop = [A.SmallestMaxSize(max_size=sides, p=1.0, strict=True), A.RandomCrop(*size, p=1.0, strict=True)]
    return [*crop, A.HorizontalFlip(p=0.5, strict=True), *_colour(channels)]


def inception(size: tuple[int, int], channels: int) -> list[Any]:
    """Crop .08 to 1 of the area at aspect 3/4 to 4/3, resized (Szegedy 2015), flip, colour jitter."""
    crop = A.RandomResizedCrop(size=size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), p=1.0, strict=True)
    return [crop, A.HorizontalFlip(p=0.5, strict=True), *_colour(channels)]


# A recipe that asks for `size` (of what comes out) and `channels` crops; the others leave the size as it is.
RECIPES: dict[str, Callable[..., list[Any]] | type[Still]] = {
    "none": Still,
    "shift": Shifted,
    "light": light,
    "medium": medium,
    "heavy": heavy,
    "upright": upright,
    "strong": strong,
    "resnet": resnet,
    "inception": inception,
}


def augmenter(recipe: str, crop: int = 0, masks: int = 0) -> Augmenter:
    """Return the augmentation of a recipe; the same (image, seed) gives the same view in any process.

    A view is `crop` x `crop` (0: as large as the image): cut by the recipe, else anywhere, else (no recipe) the centre.
    The last `masks` channels are masks.
    """
    make = resolve(RECIPES, recipe, "augmentation recipe")
    if isinstance(make, type):
        whole: Still = make(crop)
        return whole
    sized = "size" in signature(make).parameters
    plain = [] if sized else make()

    @functools.cache
    def composed(height: int, width: int, channels: int) -> Any:
        if sized:
            return A.Compose(make(size=(crop, crop) if crop else (height, width), channels=channels))
        return A.Compose([*plain, A.RandomCrop(crop, crop, p=1.0, strict=True)] if crop else plain)

    def augment(stack: Array, seed: int) -> Array:
        image = stack[:, :, : stack.shape[2] - masks]
        transform = composed(*image.shape)
        # By the sample, else every worker draws the same views and every epoch repeats them. One stream for all
        # transforms: `set_random_seed` gives each the same, and what is flipped is always moved alike.
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # A view that a row lacks is black, and must stay so for the network to pass over it.
        missing = ~image.any((0, 1))
        floats = image.astype(np.float32) / 65535 if image.dtype == np.uint16 else image
        beside = {"mask": np.ascontiguousarray(stack[:, :, image.shape[2] :])} if masks else {}
        done = transform(image=np.ascontiguousarray(floats), **beside)
        changed = done["image"]
        if image.dtype == np.uint16:
            changed = (np.clip(changed, 0, 1) * 65535).astype(np.uint16)
        elif image.dtype == np.float32:
            changed = np.clip(changed, 0, 1)
        changed = np.asarray(changed).reshape(*changed.shape[:2], image.shape[2])
        if missing.any():
            changed = np.where(missing, np.zeros_like(changed), changed)
        if masks:
            changed = np.concatenate([changed, done["mask"].reshape(*changed.shape[:2], masks)], 2)
        # D4 may leave an image that is not square on its side; a quarter turn more gives one of its own symmetries.
        return changed if crop or changed.shape[:2] == image.shape[:2] else np.rot90(changed)

    return augment


def mix_batch(
    images: torch.Tensor, targets: torch.Tensor, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a batch (N C H W) with a permutation of itself: mixup (Zhang 2018) or cutmix (Yun 2019), one of them a batch.

    `mixup` and `cutmix` are the alphas of their Beta distributions, 0 for never. Targets mix by the share of pixels.
    """
    choices = [name for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    if not choices:
        return images, targets
    pick = choices[int(rng.integers(len(choices)))]
    alpha = mixup if pick == "mixup" else cutmix
    keep = float(rng.beta(alpha, alpha))
    other = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    if pick == "mixup":
        images = keep * images + (1 - keep) * images[other]
    else:
        height, width = images.shape[2:]
        cut_h, cut_w = (round(side * (1 - keep) ** 0.5) for side in (height, width))
        top, left = (int(rng.integers(side - cut + 1)) for side, cut in ((height, cut_h), (width, cut_w)))
        images = images.clone()
        patch = (slice(None), slice(None), slice(top, top + cut_h), slice(left, left + cut_w))
        images[patch] = images[other][patch]
        keep = 1 - cut_h * cut_w / (height * width)
    return images, keep * targets + (1 - keep) * targets[other]


def _colour(channels: int) -> list[Any]:
    """Jitter brightness, contrast and (of RGB) saturation by .4; move colours along their principal components."""
    if channels != 3:
        return [A.RandomBrightnessContrast(brightness_limit=0.4, contrast_limit=0.4, p=1.0, strict=True)]
    span, still = (0.6, 1.4), (0.0, 0.0)
    jitter = A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=still, p=1.0, strict=True)
    return [jitter, A.FancyPCA(alpha=0.1, p=1.0, strict=True)]


def _affine(shift: float, scale: float, degrees: float, p: float, shear: float = 0.0) -> Any:
    return A.Affine(
        translate_percent=(-shift, shift),
        scale=(1 - scale, 1 + scale),
        rotate=(-degrees, degrees),
        shear=(-shear, shear),
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
        strict=True,
    )
