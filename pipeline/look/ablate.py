"""The first ablation of a new competition: what winners changed most often, as far as task and baseline allow."""

from __future__ import annotations

import math
from typing import Any

from pipeline.store.toml import literal

# A verdict after fewer steps says little of a long training; after more, or on all five folds, it takes a night.
STEPS, SEEDS, FOLDS, TRIED = 800, 3, 5, 3
HEAVIER = {"medium": "heavy", "light": "inception"}
OF_LABELS = {
    "focal": {"loss.name": "focal"},
    "class_weight": {"loss.class_weight": "inverse"},
}
OF_TASK: dict[str, dict[str, dict[str, Any]]] = {
    "binary": OF_LABELS,
    "multiclass": {"smoothing": {"loss.smoothing": 0.1}, **OF_LABELS},
    "multilabel": {"asymmetric": {"loss.name": "asymmetric"}, **OF_LABELS},
    "ordinal": {"cumulative": {"model.head": "cumulative"}, "both_heads": {"model.head": "both"}},
    "regression": {"huber": {"loss.name": "huber"}, "log_cosh": {"loss.name": "log_cosh"}},
    "several": {},
}


def variants(task: str, base: dict[str, Any], exclusive: bool = False) -> dict[str, dict[str, Any]]:
    """Return changes (dotted keys) to the settings of a baseline, by name."""
    recipe, lr, batch = base["augment"]["recipe"], base["optim"]["lr"], base["batch_size"]
    averaged, views = base.get("average", {}).get("ema", 0.0), base["predict"]["tta"]
    found: dict[str, dict[str, Any]] = {"no_augment": {"augment.recipe": "none"}}
    if recipe in HEAVIER and task != "segmentation":
        found["heavier"] = {"augment.recipe": HEAVIER[recipe]}
    elif recipe == "medium":
        found["heavier"] = {"augment.recipe": "heavy"}
    found |= {
        "lr_up": {"optim.lr": 3 * lr},
        "lr_down": {"optim.lr": float(f"{lr / 3:.2g}")},
        "weight_decay": {"optim.weight_decay": 0.1},
        "clip": {"optim.clip": 1.0},
        "batch_double": {"batch_size": 2 * batch},
        "dropout": {"model.dropout": 0.2},
        "no_ema" if averaged else "ema": {"average.ema": 0.0 if averaged else 0.99},
    }
    if views != "none":
        found["one_view"] = {"predict.tta": "none"}
    if task == "segmentation":
        return found | _of_masks(exclusive)
    return found | {
        "mixup": {"augment.mixup": 0.4},
        "cutmix": {"augment.cutmix": 1.0},
        "swa": {"average.swa": 0.25},
        "onecycle": {"optim.schedule": "onecycle", "optim.warmup": 0.25},
        "gem": {"model.pool": "gem"},
        **OF_TASK[task],
    }


def _of_masks(exclusive: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        "presence": {"model.presence": True},
        "coordinates": {"model.coordinates": True},
        "hypercolumn": {"model.hypercolumn": True},
        "focal_too": {"loss.terms.focal": 1.0},
        "size_classes": {"loss.size_classes": 0.1},
        "lovasz_late": {"loss.then.at": 0.8},
    }
    return found if exclusive else found | {"distance": {"loss.distance": 1.0}}


def steps_of(rows: int, base: dict[str, Any]) -> int:
    """Return the steps of each fit: a short schedule, but one epoch at least, and no more than the baseline's."""
    epoch = math.ceil(rows * (FOLDS - 1) / FOLDS / int(base["batch_size"]))
    return max(epoch, min(STEPS, int(base["epochs"]) * epoch))


def hours(rows: int, base: dict[str, Any], count: int, minutes_an_epoch: float) -> float:
    """Return how long an ablation of so many variants takes, by the minutes of an epoch of all folds."""
    epochs = steps_of(rows, base) * int(base["batch_size"]) / (rows * (FOLDS - 1) / FOLDS)
    return (count + 3) * SEEDS * epochs * minutes_an_epoch * TRIED / FOLDS / 60


def text(title: list[str], task: str, rows: int, base: dict[str, Any], exclusive: bool) -> str:
    """Return the config, under a title."""
    lines = [*title, 'stage = "ablate"', 'base = "baseline"', f"seeds = {SEEDS}", f"steps = {steps_of(rows, base)}"]
    lines += [f"folds = {list(range(TRIED))}", "", "[variants]"]
    lines += [f"{name} = {literal(change)}" for name, change in variants(task, base, exclusive).items()]
    return "\n".join(lines) + "\n"
