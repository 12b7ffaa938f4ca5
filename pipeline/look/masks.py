"""Whether a competition asks for masks, and how it gives them: RLE in the train table, or files of masks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.competitions.mask_cells import EMPTY
from pipeline.competitions.tables import one_row
from pipeline.look import mask_files as look_mask_files
from pipeline.look.folder import Folder, Roles, find_roles
from pipeline.look.paths import NOT_IMAGES, complete, find_id, match
from pipeline.look.words import Finding
from pipeline.store.errors import UserError, listed
from pipeline.store.files import Array
from pipeline.store.masks import Masks

RLE_NAMES = re.compile(r"rle|encodedpixels|mask", re.I)
RLE = re.compile(r"\d+ \d+( \d+ \d+)*")
CLASS_NAMES = re.compile(r"class|label|type|category", re.I)


@dataclass(frozen=True)
class Asked:
    """A competition of masks: the folder with one row an id, its RLE columns, and the keys of the contract."""

    folder: Folder
    columns: list[str]
    findings: list[Finding]


def find(folder: Folder) -> Asked | None:
    """Return how masks are given; None where none are asked for."""
    masks = [path for path in folder.images if NOT_IMAGES.search(path)]
    roles = find_roles(folder, bool(masks))
    train = folder.tables[roles.train] if roles.train else pd.DataFrame()
    columns = [str(c) for c in train.columns if is_rle(str(c), train[c])]
    if columns:
        return from_cells(folder, roles, columns)
    sample = folder.tables[roles.sample]
    new = [c for c in sample.columns[1:] if c not in train.columns]
    if masks and any(RLE_NAMES.search(str(c)) or sample[c].str.fullmatch(RLE).all() for c in new):
        return from_files(folder, roles, masks)
    return None


def is_rle(name: str, cells: pd.Series) -> bool:
    """Say whether cells hold runs: by the column's name, or because they hold many numbers."""
    full = cells.str.strip()
    full = full[(full != "") & ~full.isin(EMPTY)]
    if full.empty or full.str.fullmatch(RLE).mean() <= 0.9:
        return False
    return RLE_NAMES.search(name) is not None or full.str.count(" ").median() >= 7


def from_cells(folder: Folder, roles: Roles, columns: list[str]) -> Asked:
    """Return the form of RLE cells: a column a class, a row for an id and a class, or a row an object."""
    train, sample = folder.tables[roles.train], folder.tables[roles.sample]
    i, separator = name_of_images(train, folder.images, roles.train, columns)
    example = next(cell for cell in train[columns[0]] if cell.strip() and cell.strip() not in EMPTY)
    words = f"column {columns[0]!r} holds run-length codes of masks, for example {example[:24]!r}: segmentation"
    if len(columns) > 1:
        words = f"columns {listed(columns)} hold run-length codes of masks: segmentation"
    found = [Finding("task", "segmentation", words)]
    found.append(Finding("target", columns if len(columns) > 1 else columns[0], "the RLE of a mask"))
    masks: dict[str, str | bool] = {}
    if separator:
        masks["separator"] = separator
        words = f"{i!r} holds an image and a class, joined by {separator!r}, for example {str(train[i].iloc[0])!r}"
        found.append(Finding("masks.separator", separator, words))
    elif not train[i].is_unique:
        many = int(train[i].value_counts().max())
        name = class_column(train, i, columns)
        if name is not None:
            masks["class"] = name
            words = f"an id has up to {many} rows, each of another {name!r}: a row a class"
            found.append(Finding("masks.class", name, words))
            if str(sample.columns[0]) != i and i not in sample.columns:
                sign = joined(sample[str(sample.columns[0])], folder.images)
                masks |= {"separator": sign} if sign else {}
                words = f"ids of the sample are an image and a class, for example {str(sample.iloc[0, 0])!r}"
                found += [Finding("masks.separator", sign, words)] if sign else []
        else:
            masks["objects"] = True
            found.append(Finding("masks.objects", True, f"an id has up to {many} rows: a row an object"))
    form = Masks.model_validate(masks)
    tables = {name: table for name, table in folder.tables.items() if "solution" not in name.lower()}
    for name in (roles.train, roles.sample, *([roles.test] if roles.test else [])):
        if name == roles.train or i in tables[name] or form.separator:
            tables[name] = one_row(form, i, tables[name], folder.path / name)
    return Asked(replace(folder, tables=tables), columns, found)


def name_of_images(train: pd.DataFrame, images: list[str], name: str, columns: list[str]) -> tuple[str, str]:
    """Return the column of ids, and what joins them to a class ("": nothing)."""
    rest = [str(c) for c in train.columns if c not in columns]
    for column in rest:
        if _share(train[column].unique().tolist(), images) > 0.5:
            return column, ""
    for column in rest:
        sign = joined(train[column], images)
        if sign:
            return column, sign
    # No column names images: let the usual search say so.
    return str(find_id(train, images, name, rest).value), ""


def joined(ids: pd.Series, images: list[str]) -> str:
    """Return what joins an image and a class in ids, "_" or "-"; "" where nothing does."""
    for sign in "_-":
        parts = ids.str.rpartition(sign)
        few = parts[2].nunique() <= max(2, parts[0].nunique() // 2)
        if few and (parts[0] != "").all() and _share(parts[0].unique().tolist(), images) > 0.5:
            return sign
    return ""


def _share(ids: list[str], images: list[str]) -> float:
    """Return the share of ids that are names of images."""
    return len({i for of in match(images, ids).values() for i in of}) / max(len(ids), 1)


def class_column(train: pd.DataFrame, i: str, columns: list[str]) -> str | None:
    """Return the column whose values differ between the rows of an id, and are few: the class; None: there is none."""
    rest = [str(c) for c in train.columns if c not in (i, *columns)]
    for name in sorted(rest, key=lambda c: CLASS_NAMES.search(c) is None):
        if train[name].nunique() <= 200 and not train.duplicated([i, name]).any():
            return name
    return None


def from_files(folder: Folder, roles: Roles, masks: list[str]) -> Asked:
    """Return the form of mask files: where they lie, and which values or colours stand for classes."""
    images = [path for path in folder.images if path not in set(masks)]
    tables, found, train = dict(folder.tables), list[Finding](), roles.train
    sample = tables[roles.sample]
    name = name_of_images(tables[train], images, train, [])[0] if train else str(sample.columns[0])
    tables[roles.sample], form = sample_of(sample, name, images)
    if not train:
        train, glob, ids = images_of_masks(tables[roles.sample], roles.sample, images, masks)
        tables["train.csv"] = ids
        found.append(Finding("train", glob, f"there is no train.csv; {len(ids)} images of {glob} have a mask"))
    keys = look_mask_files.look_at(folder.path, masks, tables[train][name].tolist(), tables)
    keys = [named_by(finding, classes_asked(sample, name, form)) for finding in keys]
    words = f"the sample submission asks for RLE, and {len(masks)} images are named like masks: segmentation"
    found = [Finding("task", "segmentation", words), *found, *keys, *form]
    return Asked(replace(folder, tables=tables, images=images), [], found)


def sample_of(sample: pd.DataFrame, name: str, images: list[str]) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the sample with one row an id (column `name`), and the keys that say how it is laid out."""
    first = str(sample.columns[0])
    i = name if name in sample.columns else first
    sign = "" if _share(sample[i].unique().tolist(), images) > 0.5 else joined(sample[i], images)
    other = None if sample[i].is_unique else class_column(sample, i, [])
    if sign:
        words = f"ids of the sample are an image and a class, for example {str(sample[i].iloc[0])!r}"
        found = [Finding("masks.separator", sign, words)]
    elif other is not None:
        found = [Finding("masks.class", other, "the sample has a row for an id and a class")]
    else:
        return sample, []
    form = Masks.model_validate({found[0].key.removeprefix("masks."): found[0].value})
    return one_row(form, name, sample, Path(i)), found


def classes_asked(sample: pd.DataFrame, name: str, form: list[Finding]) -> list[str]:
    """Return the classes of a sample in its order: its columns, the values of a column, or the ends of its ids."""
    if not form:
        return [str(c) for c in sample.columns if c != name]
    key, value = form[0].key, str(form[0].value)
    cells = sample[value] if key == "masks.class" else sample.iloc[:, 0].str.rpartition(value)[2]
    return list(dict.fromkeys(cells.tolist()))


def named_by(finding: Finding, asked: list[str]) -> Finding:
    """Return classes whose names are not known with those of the sample, where it has as many."""
    if finding.key != "classes" or finding.sure or len(asked) != len(finding.value):
        return finding
    return Finding("classes", asked, "named as in the sample, whose order may be another: look at some masks", False)


def images_of_masks(
    sample: pd.DataFrame, name: str, images: list[str], masks: list[str]
) -> tuple[str, str, pd.DataFrame]:
    """Return the name of a train table that is not there, a glob of images with masks, and a table of their ids."""
    ids = find_id(sample, images, name, [str(c) for c in sample.columns])
    named = match(images, sample[ids.value])
    test = set(named[complete(named, sample[ids.value].tolist(), images)[0]].values())
    rest = {PurePosixPath(path).stem: path for path in images if path not in test}
    known = most(match(masks, rest).values())
    if not known:
        raise UserError(f"no mask has the name of an image: {masks[0]!r} is nobody's; make their names agree")
    folders = {str(PurePosixPath(rest[i]).parent) for i in known}
    if len(folders) > 1:
        raise UserError(f"images that have masks lie in several folders ({listed(sorted(folders))}): add a train.csv")
    return "train.csv", f"{folders.pop()}/*", pd.DataFrame({str(ids.value): sorted(known)}, dtype=str)


def most(found: Iterable[dict[str, str]]) -> set[str]:
    """Return the largest set of ids that one template finds."""
    return max((set(of) for of in found), key=len, default=set())


def finish(asked: Asked, sides: Array, rows: int) -> list[Finding]:
    """Return the metric that goes with what was found; the competition's page says what is scored."""
    keys = {f.key: f.value for f in asked.findings}
    classes = keys.get("classes") or keys.get("target")
    one = len(sides) > 0 and bool((sides == sides[0]).all()) and sides[0].max() <= 128
    if keys.get("masks.objects"):
        metric, words = "dsb_precision", "usual where a row is an object"
    elif keys.get("masks.exclusive"):
        metric, words = "mean_iou", "usual where every pixel has a class"
    elif one and not isinstance(classes, list) and "masks.class" not in keys and "masks.separator" not in keys:
        metric, words = (
            "tgs_precision",
            f"one mask for each of {rows} small tiles of one size, as in TGS salt; dice is as common",
        )
    else:
        metric, words = "dice", "usual for masks; iou is as common"
    return [Finding("metric", metric, words, False)]
