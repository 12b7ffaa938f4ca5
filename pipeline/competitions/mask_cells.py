"""Masks as cells of a table: a column a class, a row for an id and a class, or a row an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.tables import column, divide_ids, read_csv
from pipeline.masks.rle import RleError, decode
from pipeline.masks.truth import Kind
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import Array

# What stands for an empty mask besides an empty cell (SIIM-ACR, and pandas where a table went through it).
EMPTY = ("-1", "nan", "NaN")


@dataclass(frozen=True)
class Place:
    """Where a mask stands, for an error: table or file, id and class or column."""

    path: Path
    id: str
    part: str = ""

    def __str__(self) -> str:
        """Return it as the beginning of a sentence."""
        return f"{self.path}: id {self.id!r}" + (f", {self.part}" if self.part else "")


def rle_columns(config: Competition, frame: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return the columns of RLE of a table, in class order: the targets, the classes, or the only one there is.

    Where masks are files the sample may ask for some of the classes.
    """
    targets = [config.target] if isinstance(config.target, str) else config.target
    for names in (targets, classes):
        if names and set(names) <= set(frame.columns):
            return list(names)
    some = [name for name in classes if name in frame.columns]
    if some and config.masks.pattern is not None:
        return some
    others = [str(c) for c in frame.columns if c not in (config.id, config.masks.class_, "Usage")]
    if config.masks.separator is not None and config.id not in frame.columns:
        others = others[1:]
    return others if len(others) == 1 else list(targets or classes)


def find_classes(config: Competition, data: Path) -> list[str]:
    """Return the names of the classes: of the contract, of the column of classes, or of the RLE columns."""
    if config.classes is not None:
        return config.classes
    if not config.masks.long or config.masks.pattern is not None:
        return [config.target] if isinstance(config.target, str) else config.target or ["mask"]
    path = data / config.train
    frame = read_csv(path)
    names = divide_ids(config.masks, config.id, frame, path)[1]
    if names is None:
        names = column(frame, str(config.masks.class_), path)
    found = set(names.tolist()) - {""}
    if not found:
        raise UserError(f"{path} names no class in column {config.masks.class_!r}: name them in classes = [...]")
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else sorted(found)


def read_cells(
    config: Competition, frame: pd.DataFrame, path: Path, ids: Array, classes: Sequence[str]
) -> list[list[str]]:
    """Return the RLE cells of each id: one a class, "" where the table has none; or one an object."""
    columns = rle_columns(config, frame, classes)
    cells = np.column_stack([np.char.strip(column(frame, name, path)) for name in columns])
    cells[np.isin(cells, EMPTY)] = ""
    named, names = divide_ids(config.masks, config.id, frame, path)
    place = {i: row for row, i in enumerate(ids.tolist())}
    if config.masks.objects:
        found: list[list[str]] = [[] for _ in place]
        for i, cell in zip(named.tolist(), cells[:, 0].tolist(), strict=True):
            found[place[i]] += [cell] if cell else []
        return found
    if names is None:
        if len(columns) < len(classes) and config.masks.pattern is None:
            column(frame, str(config.masks.class_), path)
        some = len(columns) < len(classes)
        full = np.full((len(cells), len(classes)), "", object)
        full[:, [list(classes).index(name) for name in columns] if some else slice(None)] = cells
        rows = {i: row for row, i in enumerate(named.tolist())}
        return [full[rows[i]].tolist() for i in ids.tolist()]
    index, found = {name: c for c, name in enumerate(classes)}, [[""] * len(classes) for _ in place]
    seen = set()
    for i, name, cell in zip(named.tolist(), names.tolist(), cells[:, 0].tolist(), strict=True):
        if name not in index:
            if not name and not cell:
                continue  # an image without any object, in some tables
            raise UserError(f"{path}: id {i!r} has the class {name!r}; {nearest(name, classes)}")
        if (i, name) in seen:
            raise UserError(f"{path}: id {i!r} has class {name!r} twice: keep one row, or set masks.objects = true")
        seen.add((i, name))
        found[place[i]][index[name]] = cell
    return found


def parse(cell: str, size: Array, order: str, place: Place) -> Array:
    """Return the mask (H W bool) of a cell; what is wrong with it is told with where it stands."""
    height, width = size.tolist()
    try:
        return decode(cell, height, width, "row" if order == "row" else "column")
    except RleError as error:
        raise UserError(f"{place} has RLE that does not fit: {error} (masks.order = {order!r})") from None


def draw(
    config: Competition, cells: Sequence[str], size: Array, kind: Kind, classes: Sequence[str], place: Place
) -> Array:
    """Return the mask of a row's cells as it is stored: see `pipeline.masks.truth.Truth`."""
    order = config.masks.order
    if kind == "objects":
        drawn = np.zeros(size, np.uint16)
        for number, cell in enumerate(cells, 1):
            mask = parse(cell, size, order, Place(place.path, place.id, f"object {number}"))
            if drawn[mask].any():
                other = int(drawn[mask].max())
                raise UserError(f"{place}: objects {other} and {number} overlap: a pixel is of one object")
            drawn[mask] = number
        return drawn
    layers = [
        parse(cell, size, order, Place(place.path, place.id, f"class {name!r}" if len(classes) > 1 else ""))
        for cell, name in zip(cells, classes, strict=True)
    ]
    return store(np.stack(layers), kind, classes, place)


def store(layers: Array, kind: Kind, classes: Sequence[str], place: Place) -> Array:
    """Return masks of classes (C H W bool) as they are stored; a pixel of none or of two is refused if exclusive."""
    if kind != "exclusive":
        return layers.astype(np.uint8) if len(layers) > 1 else layers[0].astype(np.uint8)
    count = layers.sum(0, dtype=np.uint16)
    if (count != 1).any():
        y, x = np.argwhere(count != 1)[0].tolist()
        names = [name for name, layer in zip(classes, layers, strict=True) if layer[y, x]]
        what = f"of {' and '.join(map(repr, names))}" if names else "of no class: name the background a class too"
        raise UserError(f"{place}: the pixel in row {y}, column {x} is {what} (or leave masks.exclusive out)")
    # An arg max over layers takes fifteen times as long.
    return np.asarray(sum((np.uint8(c) * layer for c, layer in enumerate(layers)), np.uint8(0)))
