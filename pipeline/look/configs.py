"""The first runs of a new competition: a baseline, a second network that errs elsewhere, and their blend."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from pipeline.look import ablate as look_ablate
from pipeline.look.look import Look
from pipeline.look.words import WIDTH, value_of
from pipeline.store.toml import literal

# CPU seconds that a step of the small network (32 to 256 channels) takes for a pixel of an image, on a Xeon with AMX.
SECONDS_A_PIXEL = {"bf16": 1.1e-6, "auto": 2.9e-6}
# A member may take 20 minutes: the rest is for decoding, augmentation, prediction, and a fifth fold on one core.
MINUTES, CORES, FOLDS = 11, 2, 5
# Masks may take 10; the small U-Net costs about as much a pixel.
MINUTES_OF_MASKS = 6.9
# Lovasz in the second half, when there are masks to mend: from the first step on it may collapse to empty ones.
LOSS_OF_MASKS = {
    "terms": {"bce": 1.0, "dice": 0.5},
    "then": {"at": 0.5, "terms": {"bce": 0.2, "lovasz": 0.8}},
    "hinge": "elu",
    "symmetric": True,
}
LOSS_OF_CLASSES = {"terms": {"ce": 1.0}, "then": {"at": 0.5, "terms": {"ce": 0.2, "lovasz_softmax": 0.8}}}
RECIPE = {
    "d4": ("medium", "d4", "turns and mirrors of an image are images of the same kind"),
    "hflip": ("light", "hflip", "images have an upright, and may be mirrored"),
    "upright": ("upright", "none", "a mirror image is another thing"),
}


def from_scratch(found: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the baseline and what the second run changes: small CNNs that start from nothing."""
    size = max(24, min(found.side, 96 if found.rows <= 1500 else 64) // 8 * 8)
    widths = [32, 64, 128, 256] if size >= 48 else [32, 64, 128]
    recipe, tta, _ = RECIPE[found.symmetry]
    precision = "bf16" if has_bf16() else "auto"
    first = {
        "epochs": int(min(60, max(4, MINUTES // minutes(found.rows, size, precision)))),
        "batch_size": 32 if found.rows >= 500 else 16,
        "precision": precision,
        "model": {"name": "cnn", "options": {"widths": widths}},
        "image": {"size": size},
        "augment": {"recipe": recipe},
        "optim": {"lr": 2e-3},
        "predict": {"tta": tta},
    }
    coarse = max(16, size * 3 // 4 // 8 * 8)
    second = {"seed": 1, "model.options": {"widths": [48, 96, 192]}, "image.size": coarse, "model.pool": "gem"}
    return first, second


def pretrained(found: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the baseline and what the second run changes: timm networks with published weights."""
    size = 128 if found.side <= 160 else 224 if found.side <= 320 else 320
    recipe, tta, _ = RECIPE[found.symmetry]
    first = {
        "epochs": 15 if found.rows < 20000 else 8,
        "batch_size": 32,
        "model": {"name": "resnet34", "weights": "pretrained"},
        "image": {"size": size, "normalize": "imagenet"},
        "augment": {"recipe": recipe},
        "optim": {"lr": 3e-4},
        "predict": {"tta": tta},
    }
    return first, {"seed": 1, "model.name": "convnext_tiny", "optim.lr": 1e-4}


def small_unet(found: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the baseline and what the second run changes: small U-Nets that start from nothing.

    `size` is a multiple of 32, which is how far they shrink an image.
    """
    size = max(32, -(-min(found.side, 128) // 32) * 32)
    recipe, tta, _ = RECIPE[found.symmetry]
    precision = "bf16" if has_bf16() else "auto"
    exclusive = any(f.key == "masks.exclusive" and f.value for f in found.findings)
    first = {
        "epochs": int(min(40, max(6, MINUTES_OF_MASKS // minutes(found.rows, size, precision)))),
        "batch_size": 16,
        "precision": precision,
        "model": {"name": "small_unet", "options": {"widths": [8, 16, 32, 64, 128]}},
        "image": {"size": size},
        "augment": {"recipe": recipe},
        "loss": LOSS_OF_CLASSES if exclusive else LOSS_OF_MASKS,
        "optim": {"lr": 5e-3, "schedule": "onecycle", "warmup": 0.25},
        "average": {"ema": 0.98},
        "predict": {"tta": tta},
    }
    return first, {"seed": 1, "model.options": {"widths": [12, 24, 48, 96]}, "model.presence": True}


def unet(found: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the baseline and what the second run changes: U-Nets on published encoders."""
    size = max(32, -(-min(found.side, 320) // 32) * 32)
    recipe, tta, _ = RECIPE[found.symmetry]
    first = {
        "epochs": 20,
        "batch_size": 16,
        "model": {"name": "unet", "encoder": "resnet18", "weights": "pretrained"},
        "image": {"size": size},
        "augment": {"recipe": recipe},
        "optim": {"lr": 1e-3},
        "predict": {"tta": tta},
    }
    return first, {"seed": 1, "model.encoder": "resnet34"}


WEIGHTS = {"none": from_scratch, "pretrained": pretrained}
WEIGHTS_OF_MASKS = {"none": small_unet, "pretrained": unet}


def minutes(rows: int, size: int, precision: str) -> float:
    """Return the minutes that one epoch of all folds takes on two cores at a side of `size` pixels."""
    return rows * (FOLDS - 1) * size * size * SECONDS_A_PIXEL[precision] / CORES / 60


def has_bf16() -> bool:
    """Say whether this processor multiplies bfloat16 by itself: there it is three times as fast, elsewhere slower."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and re.search(r"\b(amx_bf16|avx512_bf16)\b", facts.read_text()) is not None


def starters(name: str, found: Look, weights: str) -> dict[str, str]:
    """Return the text of baseline.toml, second.toml, blend.toml and ablate.toml."""
    task = value_of(found.findings, "task")
    first, second = (WEIGHTS_OF_MASKS if task == "segmentation" else WEIGHTS)[weights](found)
    size = first["image"]["size"]
    what, took = f"{first['model']['name']} with published weights", "wants a GPU"
    each = minutes(found.rows, size, first["precision"]) if weights == "none" else None
    if each is not None:
        what = "A small U-Net from scratch" if task == "segmentation" else "A small CNN from scratch"
        took = f"up to about {first['epochs'] * each / 0.6:.0f} minutes on 2 cores"
    recipe = f'"{first["augment"]["recipe"]}": {RECIPE[found.symmetry][2]} ({found.why}; uncertain: look at some).'
    title = [f"{what} at {size} px; task {task}, {found.rows} rows; {took}.", f"Recipe {recipe}"]
    if first.get("precision") == "bf16":
        title.append('This processor multiplies bfloat16 by itself; on one that does not, set precision = "auto".')
    return {
        "baseline": _text([*title, f"make train COMP={name} NAME=baseline"], {"stage": "train", **first}),
        "second": _text(
            ["baseline with another network, in about its time: it errs elsewhere, which is what a blend lives on.",
             f"make train COMP={name} NAME=second"],
            {"base": "baseline", **second},
        ),
        "blend": _text(
            ["Both of them; weights are fitted only if a gain is shown. Builds what it needs.",
             f"make submit COMP={name} NAME=blend"],
            {"stage": "ensemble", "members": ["baseline", "second"]},
        ),
        "ablate": ablation(name, found, task, first, each),
    }  # fmt: skip


def ablation(name: str, found: Look, task: str, first: dict[str, Any], minutes_an_epoch: float | None) -> str:
    """Return the text of ablate.toml: changes to the baseline, and how long they take where that is known."""
    exclusive = any(f.key == "masks.exclusive" and bool(f.value) for f in found.findings)
    count = len(look_ablate.variants(task, first, exclusive))
    took = "wants a GPU"
    if minutes_an_epoch is not None:
        took = f"up to about {look_ablate.hours(found.rows, first, count, minutes_an_epoch) / 0.6:.1f} h on 2 cores"
    title = f"Which of {count} changes to baseline help, each alone, on the same folds, seeds and steps; {took}."
    title += " A short schedule flatters weak augmentation and punishes mixup: raise steps where there is time."
    lines = [f"# {line}" for line in textwrap.wrap(title, WIDTH)]
    return look_ablate.text([*lines, f"# make ablate COMP={name} NAME=ablate"], task, found.rows, first, exclusive)


def _text(title: list[str], settings: dict[str, Any]) -> str:
    lines = [f"# {part}" for line in title for part in textwrap.wrap(line, WIDTH)]
    sections = {key: value for key, value in settings.items() if isinstance(value, dict) and "." not in key}
    lines += [f"{key} = {literal(value)}" for key, value in settings.items() if key not in sections]
    for section, keys in sections.items():
        lines += ["", f"[{section}]", *(f"{key} = {literal(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"
