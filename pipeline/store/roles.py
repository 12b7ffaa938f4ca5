"""The runs that a training run learns from, checked: whatever saw a fold is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.receipts import damaged
from pipeline.store.shelves import leaves, read_shelf, read_stage, refuse_seen, refuse_strangers
from pipeline.store.train import Train


def refuse_misfit(config: Train, competition: Competition, where: object) -> None:
    """Refuse what a run cannot learn from in a competition of this task."""
    one_target = {"a teacher": config.teacher is not None, f"fit = {config.fit!r}": config.fit != "network"}
    for what, asked in one_target.items():
        if asked and competition.targets is not None:
            raise UserError(f'{where}: {what} is for one target, not for task = "several"')
    if config.tags and competition.task == "segmentation":
        raise UserError(f"{where}: tags: those of masks are for a person to read, not blind to a fold: take it out")


def read_parents(config: Train, files: RunFiles, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the receipts of the runs that this one learns from, by role; whatever is not blind is refused."""
    stages = {"pseudo": ("pseudo",), "tags": ("tag",), "teacher": ("train", "ensemble"), "init": ("train",)}
    stages["chosen_by"] = ("train",)
    receipts = {
        role: read_stage(run, role, *stages[role]) for role in stages if (run := getattr(config, role)) is not None
    }
    for role, receipt in receipts.items():
        if role == "teacher":
            for leaf in leaves(receipt["run"]):
                known = read_shelf(leaf, role)
                refuse_seen(known, role)
                refuse_adapted(known, role, files)
                if config.distill.nested == "pairs" and not known["config"].get("pairs"):
                    raise UserError(
                        f'{files.config}: distill.nested = "pairs" needs pairs = true in configs/{leaf}.toml'
                    )
        else:
            refuse_seen(receipt, role)
        if role == "chosen_by":
            refuse_other_patches(config, receipt, files)
        if receipt["run"].split("/")[0] == files.competition.name:
            if role == "init" and (config.semi.method == "none" or config.semi.when == "shifted"):
                refuse_adapted(receipt, role, files)
            refuse_strangers({receipt["run"]: receipt}, table | ({} if role != "init" else {"test": receipt["test"]}))
        else:
            refuse_overlap(receipt["run"], role, files)
    return receipts


def adapted_to_folds(receipt: dict[str, Any]) -> bool:
    """Say whether a trained run has two models a fold: adapted to the fold's images, and to those of test."""
    return bool(receipt["config"].get("semi", {}).get("method", "none") != "none" and not receipt.get("unshifted"))


def refuse_adapted(receipt: dict[str, Any], role: str, files: RunFiles) -> None:
    """Refuse a run whose models learnt from the images of their fold: one that predicts test too would know these."""
    if adapted_to_folds(receipt):
        mend = "adapt this run, too (semi.method, always), or " if role == "init" else ""
        raise UserError(
            f"{files.config}: {role} = {receipt['run']!r} is adapted to the images of each fold (semi.method), which "
            f"would flatter out-of-fold rows against test: {mend}name another run"
        )


def refuse_other_patches(config: Train, receipt: dict[str, Any], files: RunFiles) -> None:
    """Refuse a run that cannot choose patches: it cuts others, did not learn from all, or has no pair models."""
    theirs, ours, run = receipt["config"], config.model_dump(), receipt["run"]
    for key in ("patches.size", "patches.stride", "image.size"):
        section, name = key.split(".")
        if theirs[section][name] != ours[section][name]:
            raise UserError(
                f"{files.config}: chosen_by = {run!r} has {key} = {theirs[section][name]}, this run has "
                f"{ours[section][name]}: patches must be the same to be chosen"
            )
    if theirs["chosen_by"]:
        raise UserError(
            f"{files.config}: chosen_by = {run!r} learnt from chosen patches, and is too sure of all others: name the "
            f"run that chose them, {theirs['chosen_by']!r}"
        )
    if config.patches.nested == "pairs" and not theirs["pairs"]:
        raise UserError(
            f"{files.config}: chosen_by = {run!r} has no models blind to an image and to the fold that is left out: "
            f'set pairs = true in configs/{run}.toml, or patches.nested = "none" (by models that learnt from the image)'
        )


def refuse_damaged(run: str) -> None:
    """Refuse a run whose models' files, which are about to be learnt from, are not what their receipts say."""
    for leaf in leaves(run):
        for path in RunFiles(leaf).fold_receipts():
            broken = damaged(read_json(path))
            if broken:
                raise UserError(f"{leaf}: {broken[0]} is not what {path} says: delete {path}, run it again")


def refuse_overlap(other: str, role: str, files: RunFiles) -> None:
    """Refuse a run of another competition that learnt from images, or groups, which are scored here."""
    from pipeline.store.table import EXTRA, HOLDOUT, read_table

    if role != "init":
        raise UserError(f"{role} = {other!r} is of another competition: only init may be")
    theirs, ours = RunFiles(other).competition, files.competition
    known = read_table(theirs, read_table_facts(theirs))
    here = read_table(ours, read_table_facts(ours))
    learnt = (known.folds >= 0) | (known.folds == EXTRA)
    judged = (here.folds >= 0) | (here.folds == HOLDOUT)
    if (seen := judged & np.isin(here.digests, known.digests[learnt])).any():
        raise UserError(
            f"init = {other!r} has trained on {seen.sum()} images that are scored here, for example that of id "
            f"{str(here.ids[seen][0])!r}: its weights are not blind; start from another run"
        )
    groups = np.setdiff1d(known.groups[learnt], [""])
    column = group_column(theirs.name, ours.name)
    if column is not None and (seen := judged & np.isin(here.groups, groups)).any():
        raise UserError(
            f"init = {other!r} has trained on {len(np.unique(here.groups[seen]))} groups that are scored here, for "
            f"example {column} {str(here.groups[seen][0])!r}: its weights are not blind; start from another run, or "
            "give the column another name there if it means something else"
        )


def group_column(one: str, other: str) -> str | None:
    """Return the column that says in the contracts of both of two competitions what a group is, None for none."""
    named = [load_competition(name).group for name in (one, other)]
    columns = {group.column if group else None for group in named}
    return columns.pop() if len(columns) == 1 else None
