"""The other end for masks: the file of RLE that Kaggle accepts, read back, and scored where a solution is at hand."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.mask_cells import Place, draw, parse, read_cells, rle_columns
from pipeline.competitions.tables import column, divide_ids, one_row, read_csv, read_ids
from pipeline.masks.rle import encode
from pipeline.masks.truth import Kind, components, kind_of, layers_of
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, listed
from pipeline.store.files import Array
from pipeline.tasks import Task


@dataclass(frozen=True)
class MaskForm:
    """How a competition wants masks: the sample's header, ids and RLE columns, and what stands for an empty mask.

    `index` (rows of the sample) is the place of each row's class, -1 where a row is of all classes; `scored` are the
    places of the classes that are asked for at all.
    """

    config: Competition
    classes: list[str]
    path: Path
    sample: pd.DataFrame
    columns: list[str]
    ids: Array
    index: Array
    scored: list[int]
    empty: str

    @property
    def kind(self) -> Kind:
        """Return how masks of this competition are stored."""
        return kind_of(self.config.masks)

    @property
    def some(self) -> tuple[int, ...] | None:
        """Return the places of the classes that are asked for, None where they are all of them."""
        return tuple(self.scored) if len(self.scored) < len(self.classes) else None

    @property
    def asked(self) -> list[str]:
        """Return the ids of the images, once each, in the sample's order."""
        return list(dict.fromkeys(self.ids.tolist()))


def read_mask_form(config: Competition, classes: list[str], data: Path) -> MaskForm:
    """Read the sample submission and decide what its cells are."""
    path = data / config.submission.sample
    sample = read_csv(path)
    read_ids(one_row(config.masks, config.id, sample, path), config.id, path)
    ids, names = divide_ids(config.masks, config.id, sample, path)
    columns = rle_columns(config, sample, classes)
    some = config.masks.pattern is not None and set(columns) <= set(classes)
    room = names is not None or len(columns) == len(classes) or some
    if not room or any(name not in sample.columns for name in columns):
        raise UserError(
            f"{path}: columns {list(map(str, sample.columns))} have no place for the RLE of {listed(classes)}: "
            f"a column each, or masks.class or masks.separator"
        )
    odd = [] if names is None else sorted(set(names.tolist()) - set(classes))
    if odd:
        raise UserError(f"{path}: class {odd[0]!r} is none of {classes[:5]} of {config.train}: names must agree")
    index = np.array([-1 if names is None else classes.index(name) for name in (ids if names is None else names)])
    cells = set(np.char.strip(sample[columns].to_numpy(str)).ravel().tolist())
    scored = list(range(len(classes)))
    if names is not None:
        scored = np.unique(index).tolist()
    elif len(columns) < len(classes):
        scored = [classes.index(name) for name in columns]
    return MaskForm(config, classes, path, sample, columns, ids, index, scored, "-1" if "-1" in cells else "")


def rle_cells(form: MaskForm, ids: Array, masks: Iterable[Array]) -> pd.DataFrame:
    """Fill the sample with the decided masks of the rows `ids`, which come one at a time, in their order.

    A mask is C H W bool; of objects it is H W of object numbers (of a C H W mask the components are the objects).
    Each cell is decoded again and compared. Ids that the sample does not ask for are passed over.
    """
    asked, cells = set(form.asked), dict[str, list[str]]()
    for i, mask in zip(ids.tolist(), masks, strict=True):
        if i in asked:
            cells[i] = [cell or form.empty for cell in write(form, i, np.asarray(mask))]
    missing = [i for i in form.asked if i not in cells]
    if missing:
        raise UserError(
            f"{form.path}: id {missing[0]!r} has no prediction ({len(missing)} in all): run make folds again"
        )
    if form.kind == "objects":
        rows = form.sample.loc[form.sample.index.repeat([max(len(cells[i]), 1) for i in form.ids.tolist()])]
        filled = [cell for i in form.ids.tolist() for cell in cells[i] or [form.empty]]
        return rows.assign(**{form.columns[0]: filled}).reset_index(drop=True)
    if (form.index >= 0).all():
        filled = [cells[i][c] for i, c in zip(form.ids.tolist(), form.index.tolist(), strict=True)]
        return form.sample.assign(**{form.columns[0]: filled})
    places = zip(form.columns, form.scored, strict=True)
    return form.sample.assign(**{name: [cells[i][c] for i in form.ids.tolist()] for name, c in places})


def write(form: MaskForm, i: str, mask: Array) -> list[str]:
    """Return the cells of an image's mask, one a class or one an object, each proved by decoding it."""
    if form.kind == "objects":
        objects = mask if mask.ndim == 2 else components(mask[0])
        layers = [objects == number for number in np.setdiff1d(np.unique(objects), [0]).tolist()]
    else:
        layers = list(mask)
    order = form.config.masks.order
    cells = [encode(layer, order) for layer in layers]
    for cell, layer in zip(cells, layers, strict=True):
        if (parse(cell, np.array(layer.shape), order, Place(form.path, i)) != layer).any():
            raise AssertionError(f"the RLE of id {i!r} is not its mask")
    return cells


def read_masks_back(form: MaskForm, file: Path, path: Path, filled: pd.DataFrame) -> list[list[str]]:
    """Read a submission as Kaggle would: header, ids, their order and cells must be those that were filled in.

    Return the cells of each id in the sample's order. `file` is what is read, `path` what it will be called.
    """
    frame = read_csv(file)
    if list(frame.columns) != list(form.sample.columns):
        raise UserError(f"{path}: header {list(frame.columns)} is not the sample's {list(form.sample.columns)}")
    named, wanted = frame.to_numpy(str), filled.to_numpy(str)
    if named.shape != wanted.shape or (named != wanted).any():
        raise UserError(f"{path}: what was read back is not what was written: write it again")
    return read_cells(form.config, frame, path, np.array(form.asked), form.classes)


def mask_leaderboard(
    form: MaskForm, task: Task, metric: Metric, path: Path, submitted: list[list[str]], sizes: dict[str, Array]
) -> dict[str, float]:
    """Score the cells of a submission as Kaggle would, against `path`: {"public": ..., "private": ...}.

    `sizes` are height and width of the image of each id. Masks are decoded an image at a time.
    """
    frame = read_csv(path)
    first = one_row(form.config.masks, form.config.id, frame, path)
    ids = read_ids(first, form.config.id, path)
    odd = sorted(set(ids.tolist()) ^ set(form.asked))
    if odd:
        raise UserError(f"{path} and {form.path} do not have the same ids, for example {odd[0]!r} ({len(odd)} in all)")
    usage = np.char.lower(column(first, "Usage", path) if "Usage" in first.columns else np.full(len(ids), "private"))
    unknown = np.setdiff1d(usage, ["public", "private", "ignored"])
    if len(unknown):
        raise UserError(f"{path}: Usage {str(unknown[0])!r} is none of Public, Private, Ignored")
    truth = read_cells(form.config, frame, path, ids, form.classes)
    given = dict(zip(form.asked, submitted, strict=True))
    # Of classes that exclude each other the background may not be asked for: each is drawn by itself.
    kind: Kind = "objects" if form.kind == "objects" else "classes"
    y, folds = np.zeros((len(ids), len(form.classes))), np.zeros(len(ids), np.int64)
    problem = Problem(task, metric, len(form.classes), y, folds, None, scored_classes=form.some)
    measure = problem.mask_metric

    def one(row: int) -> Array:
        i = str(ids[row])
        masks, objects = [], []
        for cells, where in ((truth[row], Place(path, i)), (given[i], Place(form.path, i))):
            drawn = draw(form.config, cells, sizes[i], kind, form.classes, where)
            masks.append(layers_of(drawn, len(form.classes), kind))
            if measure.objects:
                objects.append(drawn if kind == "objects" else components(masks[-1][0]))
        return measure.stats(*masks, *objects)

    with ThreadPoolExecutor() as pool:
        stats = np.stack(list(pool.map(one, range(len(ids)))))
    parts = {name: usage == name for name in ("public", "private")}
    return {name: problem.part(rows).judge(stats[rows]) for name, rows in parts.items() if rows.any()}
