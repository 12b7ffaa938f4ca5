"""Shelves of trained runs and blends that nobody trained: predictions and receipts as the stages leave them."""

import numpy as np

from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_json, write_json, write_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.receipts import write_receipt
from pipeline.store.runs import load_run
from pipeline.store.table import read_table


def table_of(name="toy"):
    files = RunFiles(f"{name}/x").competition
    return read_table(files, read_table_facts(files))


def predictions(task, rows, rng):
    if task == "multiclass":
        return rng.dirichlet(np.full(4, 0.5), rows)
    if task == "ordinal":
        return rng.uniform(-0.5, 3.5, (rows, 1))
    return (
        rng.normal(12, 2, (rows, 1)) if task == "regression" else rng.random((rows, 3 if task == "multilabel" else 1))
    )


def train(run, task="multiclass", seed=0, level="blind", oof=None, **facts):
    """The shelf of a trained run whose config is written already."""
    files, rng = RunFiles(run), np.random.default_rng(seed)
    table = table_of(files.competition.name)
    folds = np.unique(table.folds[table.scored]).tolist()
    write_npy(files.oof, (predictions(task, len(table.scored), rng) if oof is None else oof).astype(np.float32))
    for k in folds:
        write_npy(files.fold(k).test, predictions(task, len(table.test), rng).astype(np.float32))
        write_npy(files.fold(k).train, predictions(task, len(table.scored), rng).astype(np.float32))
        write_json(files.fold(k).receipt, {"outputs": {}})
    sign(run, "train", level, **facts)


def sign(run, stage, level="blind", parents=(), **facts):
    """The receipt of a shelf as it lies there."""
    files = RunFiles(run)
    known = read_table_facts(files.competition)
    folds = [int(path.parent.name[4:]) for path in sorted(files.folder.glob("fold*/test.npy"))] or [0, 1, 2]
    common = {
        "rows": known["scored"],
        "fold_map": known["fold_map"],
        "test": known["test"],
        "classes": known["classes"],
    }
    outputs = [path for path in (files.oof, files.pseudo, files.difficulty_train) if path.exists()]
    outputs += sorted(files.folder.glob("fold*/test.npy"))
    write_receipt(
        files.receipt, stage=stage, key=f"key of {run}", outputs=outputs, run=run, config=load_run(run).model_dump(),
        folds=folds, level={str(k): level for k in folds}, metrics={"score": 0.5, "se": 0.1, "metric": "m"},
        parents=[{"run": parent, "key": "k", "level": {}} for parent in parents], **(common | facts),
    )  # fmt: skip


def edit(run, **facts):
    """Other facts in a receipt."""
    path = RunFiles(run).receipt
    write_json(path, read_json(path) | facts)
