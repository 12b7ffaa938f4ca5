"""The labelled rows split once more, by another seed: folds that no choice was made on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.scoring.split import assign
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.files import read_json
from pipeline.store.table import EXTRA, Table
from pipeline.store.train import Train
from pipeline.tasks import task_of

# Folds in time, given ones, and edited ones are what they are for a reason that a seed does not know.
DRAWN = ("kfold", "stratified", "group", "stratified-group", "multilabel", "iterative")


def why_not(files: CompetitionFiles, *runs: Train) -> str | None:
    """Return why runs cannot be tried on fresh folds, None where they can."""
    method = read_json(files.folds_receipt)["method"] if files.folds_receipt.exists() else "given by hand"
    if method not in DRAWN:
        return f"folds that are {method} cannot be drawn anew"
    parents = ("pseudo", "tags", "teacher", "init", "chosen_by")
    named = [(role, getattr(run, role)) for run in runs for role in parents]
    # A model of the committed fold k has seen labels of the fresh one; that of another competition has seen none.
    roles = [role for role, parent in named if parent and parent.split("/")[0] == files.name]
    return f"{roles[0]} = ... is blind to the committed folds only" if roles else None


def resplit(config: Competition, files: CompetitionFiles, table: Table, seed: int) -> Table:
    """Return the table with its scored rows in folds drawn by a seed: the same method and number, groups kept whole."""
    table, rows = table.split(0), table.scored
    task = task_of(config, table.classes)
    y = task.harden(task.targets(table.y[rows]))
    # The size of a mask is that of all classes but the background, as `make folds` has it.
    sized = np.delete(y, y.mean(0).argmax(), 1) if config.masks.exclusive else y
    method, n = read_json(files.folds_receipt)["method"], len(np.unique(table.folds[rows]))
    folds = table.folds.copy()
    folds[rows] = assign(method, task.strata(sized, config.folds.bins), table.units[rows], n, seed)
    return replace(table, folds=folds)


def only(table: Table, folds: tuple[int, ...]) -> Table:
    """Return the table with the rows of some folds scored; those of the others are learnt from alone."""
    return replace(table, folds=np.where(np.isin(table.folds, folds) | (table.folds < 0), table.folds, EXTRA))
