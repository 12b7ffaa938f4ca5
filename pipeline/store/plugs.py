"""The names that a training run may choose among, told before torch is imported to look them up."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from pipeline.store.errors import resolve
from pipeline.store.train import Train

# Setting -> module and table of its names, and what an unknown one is called; of masks `tta` has a table of its own.
TABLES = {
    "optim.name": ("pipeline.training.optim", "OPTIMIZERS", "optimizer"),
    "optim.schedule": ("pipeline.training.optim", "SCHEDULES", "schedule"),
    "augment.recipe": ("pipeline.images.augment", "RECIPES", "augmentation recipe"),
    "predict.tta": ("pipeline.training.predict", "TTA", "predict.tta"),
    "predict.hard_tta": ("pipeline.training.predict", "TTA", "predict.hard_tta"),
}
OF_MASKS = {"predict.tta": ("pipeline.training.mask_predict", "MASK_TTA", "predict.tta")}


def names_in(module: str, table: str) -> list[str]:
    """Return the keys of a plug table at the foot of a module, read off its text: importing it would take seconds."""
    origin = getattr(find_spec(module), "origin", None)
    for node in ast.parse(Path(str(origin)).read_text(encoding="utf-8")).body:
        names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(name, ast.Name) and name.id == table for name in names):
            return [ast.literal_eval(key) for key in value.keys if key is not None]
    raise LookupError(f"{module} has no table {table}")


def refuse_unknown_names(config: Train, masks: bool) -> None:
    """Refuse an optimiser, schedule, recipe or TTA set that there is not; import paths are left to who imports them."""
    for setting, (module, table, what) in (TABLES | (OF_MASKS if masks else {})).items():
        section, name = setting.split(".")
        chosen = getattr(getattr(config, section), name)
        if ":" not in chosen:
            resolve(dict.fromkeys(names_in(module, table)), chosen, what)
