"""Targets as numbers: classes, grades, labels, probabilities, values; unknown ones where the contract allows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.tables import column, numbers
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import Array
from pipeline.tasks import Several, task_of


def encode(config: Competition, frame: pd.DataFrame, ids: Array, path: Path) -> tuple[Array, list[str]]:
    """Return targets (N T) as numbers and the names of classes, labels, grades or targets."""
    if config.targets is not None:
        each = [encode(part, frame, ids, path) for part in config.parts]
        classes = [c for target, (_, own) in zip(config.targets, each, strict=True) for c in target.full(own)]
        return np.column_stack([y for y, _ in each]), classes
    names = [config.target] if isinstance(config.target, str) else config.target
    cells = np.column_stack([column(frame, name, path) for name in names])
    cells = np.char.strip(cells)
    if config.separator is not None:
        return _encode_joined(config, cells[:, 0], ids, path)
    empty = (cells == "") | (np.char.lower(cells) == "nan")
    refuse_empty(config, empty, names, ids, path)
    if config.task == "regression":
        return numbers(cells, names, ids, path, empty), names
    if config.soft:
        return soft_targets(numbers(cells, names, ids, path, empty), names, config, ids, path)
    if len(names) > 1:
        values = numbers(cells, names, ids, path, empty)
        wrong = ~(np.isin(values, (0, 1)) | empty).all(1)
        if config.task == "multiclass":
            wrong |= values.sum(1) != 1
        if wrong.any():
            want = "exactly one 1 and else 0" if config.task == "multiclass" else "0 or 1"
            raise UserError(f"{path}: id {str(ids[wrong][0])!r} must have {want} in columns {names}")
        return (values if config.task == "multilabel" else values.argmax(1)[:, None]), names
    classes = config.classes or _sorted(np.unique(cells).tolist())
    if config.task == "binary" and len(classes) != 2:
        raise UserError(f"{path}: a binary target has 2 values, column {names[0]!r} has {len(classes)}: {classes[:5]}")
    if len(classes) < 2:
        raise UserError(f"{path}: column {names[0]!r} has one class only ({classes[0]!r}): nothing to learn")
    if config.task == "ordinal":
        try:
            [float(c) for c in classes]
        except ValueError:
            raise UserError(f"{path}: ordinal grades must be numbers, column {names[0]!r} has {classes[:5]}") from None
    index = {c: i for i, c in enumerate(classes)}
    for i, cell in zip(ids.tolist(), cells[:, 0].tolist(), strict=True):
        if cell not in index:
            raise UserError(
                f"{path}: id {i!r} has the label {cell!r}, which is not among the classes; {nearest(cell, classes)}"
            )
    return np.array([[index[cell]] for cell in cells[:, 0].tolist()], float), classes


def with_classes(config: Competition, classes: list[str]) -> Competition:
    """Return the contract with the classes of the train table, for a table that may lack some."""
    task = task_of(config, classes)
    if not isinstance(task, Several) or config.targets is None:
        return config if isinstance(config.target, list) else config.model_copy(update={"classes": classes})
    pairs = zip(config.targets, task.pieces, strict=True)
    known = [target.model_copy(update={"classes": target.bare(classes[piece.names])}) for target, piece in pairs]
    return config.model_copy(update={"targets": known})


def refuse_empty(config: Competition, empty: Array, names: list[str], ids: Array, path: Path) -> None:
    """Refuse empty cells (N T): any, or with unknown = "mask" a whole row or a whole column of them."""
    if config.unknown == "refuse" and empty.any():
        row, t = np.argwhere(empty)[0]
        several = "" if len(names) == 1 else ' (or set unknown = "mask")'
        raise UserError(
            f"{path}: id {str(ids[row])!r} has no value in column {names[t]!r}: fill it or drop the row{several}"
        )
    if empty.all(1).any():
        who = str(ids[empty.all(1)][0])
        raise UserError(f"{path}: id {who!r} has no value in any of the columns {names}: drop the row")
    if len(empty) and empty.all(0).any():
        raise UserError(f"{path}: column {names[int(empty.all(0).argmax())]!r} has no value at all: drop it")


def soft_targets(
    values: Array, names: list[str], config: Competition, ids: Array, path: Path
) -> tuple[Array, list[str]]:
    """Return soft targets (N T) and the names of classes: 0 to 1, those of classes with a sum of 1 (made exact)."""
    wrong = ~(((values >= 0) & (values <= 1)) | np.isnan(values)).all(1)
    want = "numbers from 0 to 1"
    if config.task == "multiclass":
        wrong, want = wrong | (np.abs(values.sum(1) - 1) > 1e-3), f"{want} that sum to 1"
    if wrong.any():
        raise UserError(f"{path}: id {str(ids[wrong][0])!r} must have {want} in columns {names} (soft = true)")
    if config.task == "multiclass":
        return values / values.sum(1, keepdims=True), names
    return values, config.classes or names if config.task == "binary" else names


def _encode_joined(config: Competition, cells: Array, ids: Array, path: Path) -> tuple[Array, list[str]]:
    """Encode a column of joined labels; an empty cell is the valid empty set."""
    assert config.separator is not None
    split = [[part.strip() for part in cell.split(config.separator) if part.strip()] for cell in cells.tolist()]
    classes = config.classes or _sorted({label for labels in split for label in labels})
    if not classes:
        raise UserError(f"{path}: column {config.target!r} has no label at all")
    y = np.zeros((len(split), len(classes)))
    for row, labels in enumerate(split):
        for label in labels:
            if label not in classes:
                who = str(ids[row])
                raise UserError(
                    f"{path}: id {who!r} has the label {label!r}, not among the classes; {nearest(label, classes)}"
                )
            y[row, classes.index(label)] = 1
    return y, classes


def _sorted(values: Sequence[str] | set[str]) -> list[str]:
    """Sort numerically where every value is a number, else by name."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)
