"""Look at a competition folder and infer its contract; prove that the contract can be read before anybody keeps it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.mask_submission import read_mask_form
from pipeline.competitions.paths import class_folders, regex
from pipeline.competitions.submission import Format, read_format
from pipeline.competitions.table_of_images import read
from pipeline.look import groups as look_groups
from pipeline.look import images as look_images
from pipeline.look import mask_proof as look_mask_proof
from pipeline.look import masks as look_masks
from pipeline.look import paths as look_paths
from pipeline.look import target as look_target
from pipeline.look.folder import Folder, class_folder_root, find_roles, read_folder
from pipeline.look.paths import NOT_IMAGES, Pattern
from pipeline.look.words import Finding, settings, value_of
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, listed
from pipeline.store.section import validate
from pipeline.tasks import task_of


@dataclass(frozen=True)
class Look:
    """What was found: the folder, the findings, what else to tell, and what the first configs are chosen by."""

    path: Path
    findings: list[Finding]
    notes: list[str]
    rows: int
    side: int
    symmetry: str
    why: str


@dataclass(frozen=True)
class Tables:
    """Train rows, test rows and sample as tables of text, where they come from, and the pattern of their images."""

    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    pattern: Pattern
    findings: list[Finding]
    others: dict[str, pd.DataFrame]


def look(data: Path) -> Look:
    """Return what a competition folder holds, in words and as keys of a contract."""
    folder = read_folder(data)
    masks = look_masks.find(folder)
    folder = folder if masks is None else masks.folder
    tables = read_tables(folder)
    i = value_of(tables.findings, "id")
    used, spare, note = divide(folder, tables)
    kinds = look_images.look_at(folder.path, used)
    if masks is None:
        target = look_target.find_target(tables.train, tables.sample, i)
        asked = target.value if isinstance(target.value, list) else [target.value]
        tasks = look_target.find_task(tables.train, tables.sample, target.value, i)
        if value_of(tasks, "targets"):  # which name the columns
            target = replace(target, value=None)
        answers = [target, *tasks]
    else:
        asked, answers = masks.columns, [*masks.findings, *look_masks.finish(masks, kinds.sides, len(tables.train))]
    labels = tables.train[str(asked[0])] if len(asked) == 1 and masks is None else None
    groups = look_groups.find_groups(i, tables.train, tables.test, labels, tables.others)
    taken = [i, *asked, *(g.value for g in groups if g.key == "group.column" and g.value)]
    columns = look_groups.find_columns(tables.train, tables.test, taken, tables.others, i)
    findings = [
        *tables.findings,
        *answers,
        *image_findings(tables),
        *kinds.findings,
        *groups,
        *(f for f in columns if masks is None or not f.key.startswith("metadata.")),
        *spare,
        Finding("folds.n", 5, f"{len(tables.train)} labelled rows are divided in five"),
    ]
    side = int(np.median(kinds.sides.min(1))) if len(kinds.sides) else 64
    return Look(folder.path, findings, [*folder.notes, *note], len(tables.train), side, kinds.symmetry, kinds.why)


def read_tables(folder: Folder) -> Tables:
    """Return train and test rows, from tables or class folders, and where their images lie."""
    roles = find_roles(folder)
    sample = folder.tables[roles.sample]
    named = [] if roles.sample == "sample_submission.csv" else [roles.sample]
    found = [Finding("submission.sample", name, "the sample submission has another name") for name in named]
    others = {name: folder.tables[name] for name in roles.others}
    if not roles.train:
        train, pattern, more = from_class_folders(folder, sample, roles.sample)
        return Tables(train, sample, sample, pattern, [*found, *more], others)
    train = folder.tables[roles.train]
    if not len(train):
        raise UserError(f"{folder.path / roles.train} has no rows")
    ids = look_paths.find_id(train, folder.images, roles.train, [str(c) for c in sample.columns])
    found.append(ids)
    if roles.train != "train.csv":
        words = f"there is no train.csv; this table has {len(train)} rows and a column that names images"
        found.append(Finding("train", roles.train, words, False))
    test, table = sample, folder.tables.get(roles.test)
    words = f"{len(sample)} test rows, named by {roles.sample}"
    if table is not None and ids.value in table.columns and sample[ids.value].isin(set(table[ids.value])).all():
        test, words = table, f"{len(table)} test rows with {listed([str(c) for c in table.columns])}"
        found.append(Finding("test", roles.test, words))
    else:
        found.append(Finding("test", None, words))
    if not len(test):
        raise UserError(f"{folder.path / (roles.test or roles.sample)} has no rows: there is nothing to predict")
    pattern = look_paths.find_pattern(folder.images, train[ids.value].tolist(), test[ids.value].tolist())
    return Tables(train, test, sample, pattern, found, others)


def from_class_folders(folder: Folder, sample: pd.DataFrame, name: str) -> tuple[pd.DataFrame, Pattern, list[Finding]]:
    """Return the rows that class folders tell: the folder is the class, the id what the pattern makes of the path."""
    root = class_folder_root(folder.images)
    inside = [p for p in folder.images if p.startswith(f"{root}/")]
    outside = [p for p in folder.images if not p.startswith(f"{root}/")]
    columns = [str(c) for c in sample.columns]
    if not len(sample):
        raise UserError(f"{folder.path / name} has no rows: there is nothing to predict")
    if not outside:
        raise UserError(f"{folder.path} has no images outside {root}: the test images are missing")
    ids = look_paths.find_id(sample, outside, name, columns)
    test = look_paths.complete(look_paths.match(outside, sample[ids.value]), sample[ids.value].tolist(), outside)[0]
    before, _, after = test.partition("{id}")
    if after and not all(p.endswith(after) for p in inside):
        after = ".*"
    pattern = Pattern(f"{{split}}/{{id}}{after}", root, before.rstrip("/") or ".")
    asked = [c for c in columns if c != ids.value]
    target, glob = asked[0] if len(asked) == 1 else "class", f"{root}/*/*"
    names, classes = class_folders(folder.path, glob, pattern.text.replace("{split}", root))
    train = pd.DataFrame({ids.value: names, target: classes}, dtype=str)
    words = f"there is no train.csv; {len(set(classes))} folders of {root}/ hold {len(train)} images: folder = class"
    found = [ids, Finding("train", glob, words), Finding("test", None, f"{len(sample)} test rows, named by {name}")]
    return train, pattern, found


def image_findings(tables: Tables) -> list[Finding]:
    """Return the keys of the image pattern."""
    pattern = tables.pattern
    held = "hold the file's ending" if pattern.text.endswith("{id}") else "do not hold the file's ending"
    words = f"every train and test id has its image there; ids {held}"
    if pattern.channels or pattern.views:
        words = f"every id has {max(len(pattern.channels), 1) * max(len(pattern.views), 1)} images"
    found = [Finding("images.pattern", pattern.text, f"{words}; {pattern.note}".rstrip("; "), pattern.sure)]
    for key, value in (("train", pattern.train), ("test", pattern.test)):
        if value != key and "{split}" in pattern.text:
            found.append(Finding(f"images.{key}", value, f"what stands for {{split}} in {key} images"))
    for key, values in (("channel", pattern.channels), ("view", pattern.views)):
        if values:
            words = f"files of one row that are stacked as {key}s" if key == "channel" else "views of one row"
            found.append(Finding(f"images.{key}", list(values), words, pattern.sure))
    return found


def divide(folder: Folder, tables: Tables) -> tuple[list[str], list[Finding], list[str]]:
    """Return the images of the rows, a folder of images that no table names, and what to tell of other ones."""
    pattern, i = tables.pattern, value_of(tables.findings, "id")
    used: set[str] = set()
    for split, table in ((pattern.train, tables.train), (pattern.test, tables.test)):
        text = pattern.text.replace("{split}", split)
        fits = re.compile(regex(text).replace(r"\{channel\}", "[^/]+").replace(r"\{view\}", "[^/]+"))
        ids = set(table[i])
        used |= {p for p in folder.images if (m := fits.fullmatch(p)) is not None and m["id"] in ids}
    where = Counter(os.path.dirname(p) for p in used)
    left = Counter(os.path.dirname(p) for p in folder.images if p not in used)
    notes = [
        f"{n} images in {name or '.'}/ have no row in any table: left alone" for name, n in left.items() if where[name]
    ]
    spare = [name for name, _ in left.most_common() if not where[name] and not NOT_IMAGES.search(name)]
    notes += [f"{left[name]} images in {name}/ belong to no table: left alone" for name in spare[1:6]]
    notes += [
        f"{n} images in {name}/ look like masks: left alone" for name, n in left.items() if NOT_IMAGES.search(name)
    ]
    sure = bool(spare) and re.search("unlabel|extra|external", spare[0], re.I) is not None
    words = f"{left[spare[0]]} images that no table names" if spare else ""
    found = [Finding("unlabelled", os.path.join(spare[0], "*"), words, sure)] if spare else []
    return [p for p in folder.images if p in used], found, notes


def prove(found: Look, path: Path) -> Look:
    """Read tables, images and sample by the contract as later stages will; raise UserError where that fails.

    Return what was found and what a submission will hold.
    """
    config = validate(Competition, settings(found.findings), path)
    metric = metric_of(config, CompetitionFiles(path.parent.name))
    raw = read(config, found.path)
    if config.task == "segmentation":
        order = look_mask_proof.prove(config, found.path, raw)
        cells = look_mask_proof.submission(read_mask_form(config, raw.classes, found.path))
        return replace(found, findings=[*found.findings, *order, cells])
    form = read_format(config, task_of(config, raw.classes), metric, raw.classes, found.path)
    return replace(found, findings=[*found.findings, submission(form)])


def submission(form: Format) -> Finding:
    """Return in words what the file for Kaggle will hold, uncertain where the sample's cells look otherwise."""
    if form.parts:
        each = [(part, submission(part)) for part in form.parts]
        words = "; ".join(f"{listed(part.columns)}: {said.words}" for part, said in each)
        return Finding("submission.format", None, words, all(said.sure for _, said in each))
    cells = np.unique(form.sample[form.columns].to_numpy(str))
    points = any(re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", cell) for cell in cells.tolist())
    what = "a value" if form.task.name in ("regression", "ordinal") else "a probability"
    if form.cells.joined:
        words = f"each cell will hold the labels of a row, joined by {form.config.separator!r}"
    elif len(form.columns) > 1:
        words = f"each row will hold {'0 or 1' if form.labels else what} in {len(form.columns)} columns"
    elif form.labels:
        words = f"each cell will hold one of {listed(form.classes)}"
    else:
        words = f"each cell will hold {what}" + (f", that of {form.classes[1]!r}" if form.task.name == "binary" else "")
    known = not form.labels or form.cells.joined or len(form.columns) > 1 or set(cells.tolist()) <= set(form.classes)
    words += f"; the sample has {listed(cells.tolist(), 3)}"
    return Finding("submission.format", None, words, known and points != form.labels)
