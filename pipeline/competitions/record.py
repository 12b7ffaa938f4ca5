"""From raw tables to the table of record: the split, its balance and its checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competitions.checks import check
from pipeline.competitions.copies import Encode, find_alike, hash_images, like_test, with_clusters
from pipeline.competitions.mask_submission import read_mask_form
from pipeline.competitions.masks import write_masks
from pipeline.competitions.pictures import sizes as picture_sizes
from pipeline.competitions.table_of_images import Raw, read
from pipeline.competitions.tables import column, read_csv, read_train
from pipeline.masks.truth import kind_of
from pipeline.scoring.split import assign, balance, draw_holdout, draw_test_like, too_near, union
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_bytes, digest_file, read_json, write_json, write_text
from pipeline.store.folds import Folds
from pipeline.store.table import EXTRA, HOLDOUT, TEST, UNLABELLED, Table, fold_columns, write_table
from pipeline.tasks import Several, Task, task_of

EDITED = ", edited by hand"


def build(
    config: Competition, files: CompetitionFiles, target: Path, encode: Encode | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the committed split, how it was made, and the table of record to `target`.

    `encode` says what images look like (see `find_alike`). Return how it was made, and the hashes that runs depend on.
    """
    raw, sizes, marks, scored = read(config, files.data), None, None, None
    task = task_of(config, raw.classes)
    train = raw.train
    if config.task == "segmentation":
        scored = read_mask_form(config, raw.classes, files.data).some
        sizes = picture_sizes(config.images, files.data, raw.paths)
        y, marks = write_masks(config, files.data, raw, sizes, files.masks)
        raw = replace(raw, y=y)
    y = task.harden(task.targets(raw.y[train]))
    channel = config.images.channel
    digests = hash_images(files.data, raw.paths, channel)
    near, looks = find_alike(config, files.data, raw.paths, digests, encode)
    wanted = {
        "folds": config.folds.model_dump(),
        "group": config.group and config.group.model_dump(),
        "task": task.name,
    }
    units = union(raw.groups[train], digests[train], near[train])
    known = reuse(files, raw, wanted)
    # Of classes that exclude each other the commonest is the background: the size of a mask is that of the others.
    sized = np.delete(y, y.mean(0).argmax(), 1) if config.masks.exclusive else y
    if config.folds.clusters > len(y):
        raise UserError(f"{files.config}: folds.clusters = {config.folds.clusters}: there are {len(y)} rows: lower it")
    strata = with_clusters(
        task.strata(sized, config.folds.bins), looks[train], config.folds.clusters, config.folds.seed
    )
    like = None
    if config.folds.holdout_like == "test" and known is None:
        like = like_test(config, files.data, raw.paths, looks, raw.train, raw.codes == TEST, units)
    method, folds = known or split(config, raw, strata, units, files.data, like)
    held, names = folds[:, 0] == HOLDOUT, stratum_names(task, sized, raw.classes, config.folds.bins)
    names += [f"cluster {c}" for c in range(strata.shape[1] - len(names))]
    counts = balance(strata[~held], folds[~held, 0], names)
    errors, warnings = check(raw, digests, near, folds, counts)
    if errors:
        raise UserError(f"{files.folds}: {'; '.join(errors)}: change [folds] or [group] in {files.config}")
    shut = gaps(config, folds[:, 0], files.data) if config.folds.gap else None
    table = replace(tabulate(raw, digests, near, units, folds, shut), extents=sizes, scored_classes=scored)
    write_table(target, table)
    text = committed_text(table)
    facts = {
        "method": method,
        "settings": wanted,
        "csv": digest_bytes(text.encode()),
        "fold_map": table.fold_map(),
        "classes": raw.classes,
        "metadata": raw.columns,
        "rows": row_counts(table),
        "identical_images": int(train.sum() - len(np.unique(digests[train]))),
        "balance": counts,
        "warnings": warnings,
    }
    if config.task == "segmentation":
        mean = dict(zip(raw.classes, y.mean(0).tolist(), strict=True))
        told: dict[str, Any] = {} if scored is None else {"scored": [raw.classes[c] for c in scored]}
        told |= {"kind": kind_of(config.masks), "empty": int((y.sum(1) == 0).sum()), "coverage": mean}
        facts["masks"] = told
    if held.any():
        facts["holdout"] = dict(zip(names, strata[held].sum(0).tolist(), strict=True))
    if config.folds.near or config.folds.alike:
        sets = np.unique(near[train][near[train] != ""], return_counts=True)[1]
        joined = sets[sets > 1]
        facts["near_copies"] = {"rows": int(joined.sum()), "sets": len(joined), "largest": int(joined.max(initial=0))}
    if known is None:
        # Else a kill between the two files would leave the old split under the new settings.
        files.folds.unlink(missing_ok=True)
    write_json(files.folds_receipt, facts)
    write_text(files.folds, text)

    def content(rows: Array) -> str:
        return table.content(rows) if marks is None else digest(table.content(rows), *marks[rows])

    hashes: dict[str, Any] = {"scored": content(table.scored), "test": table.content(table.test)}
    if len(table.extra):
        hashes["extra"] = digest(content(table.extra), *table.units[table.extra].astype(str))
    if held.any():
        hashes["holdout"] = content(table.holdout)
    hashes |= {} if scored is None else {"scored_classes": scored}
    return facts, {"fold_map": table.fold_map(), "classes": raw.classes, **hashes}


def gaps(config: Competition, folds: Array, data: Path) -> Array:
    """Return `Table.shut` of the labelled rows; a gap that leaves a fold's model nothing to learn from is refused."""
    shut = too_near(read_times(config, data), folds, config.folds.gap)
    barred = [set(text.split()) for text in shut.tolist()]
    for k in range(int(folds.max()) + 1):
        learnt = (str(k) not in names and str(HOLDOUT) not in names for names in barred)
        if not any(free and fold not in (k, HOLDOUT) for free, fold in zip(learnt, folds.tolist(), strict=True)):
            raise UserError(f"folds.gap = {config.folds.gap} leaves no row to train the model of fold {k}: lower it")
    return shut


def committed_text(table: Table) -> str:
    """Return the committed split: ids, folds and groups, and no targets, which are not ours to publish."""
    frame = pd.DataFrame({"id": table.ids, **fold_columns(table.repeats)})
    if (table.groups != "").any():
        frame["group"] = table.groups
    return frame.to_csv(index=False)


def tabulate(raw: Raw, digests: Array, near: Array, units: Array, folds: Array, shut: Array | None) -> Table:
    """Return the table of record of labelled rows with `units`, `folds` (N R) and `shut`, and of all others."""
    train = raw.train
    codes, all_units = np.repeat(raw.codes[:, None], folds.shape[1], 1), np.arange(len(raw.ids))
    codes[train], all_units[train] = folds, units
    # A near copy of a labelled row is of its unit.
    of = dict(zip(near[train].tolist(), units.tolist(), strict=True))
    for row in np.flatnonzero((raw.codes == EXTRA) & (near != "") & np.isin(near, near[train])):
        all_units[row] = of[near[row]]
    further = codes[:, 1:] if codes.shape[1] > 1 else None
    if shut is not None:
        everywhere = np.full(len(raw.ids), "", shut.dtype)
        everywhere[train] = shut
        shut = everywhere
    return Table(
        raw.ids,
        codes[:, 0],
        raw.groups,
        all_units,
        raw.paths,
        digests,
        raw.y,
        raw.classes,
        raw.weights,
        raw.meta,
        further,
        shut,
        auxiliary=raw.auxiliary,
    )


def row_counts(table: Table) -> dict[str, Any]:
    """Return how many rows are labelled, tested, held out, extra and in each fold."""
    each, held = np.bincount(table.folds[table.scored]).tolist(), len(table.holdout)
    extra, unlabelled = ((table.folds == code).sum().item() for code in (EXTRA, UNLABELLED))
    more = {"holdout": held, "extra": extra, "unlabelled": unlabelled}
    counts = {"train": sum(each) + held, "test": len(table.test) - unlabelled, "each_fold": each}
    return counts | {name: count for name, count in more.items() if count}


def stratum_names(task: Task, y: Array, classes: list[str], bins: int) -> list[str]:
    """Return the names of the columns of `Task.strata`."""
    if isinstance(task, Several):
        own = [(p.name, stratum_names(p.task, p.of(y), classes[p.names], bins)) for p in task.pieces]
        return [name if name in classes else f"{target} {name}" for target, names in own for name in names]
    if task.name == "multilabel":
        return [*classes, "(no label)"]
    if task.name == "regression":
        return [f"bin {s}" for s in range(min(bins, len(y)))]
    if task.name == "segmentation":
        empty, count = bool((y.sum(1) == 0).any()), task.strata(y, bins).shape[1]
        return [*["(empty)"][:empty], *(f"size {s}" for s in range(1, count + 1 - empty))]
    return [classes[v] for v in np.unique(y)]


def choose_method(config: Competition, grouped: bool) -> str:
    """Return the scheme that `auto` stands for."""
    folds, labels = config.folds, config.task in ("multilabel", "several")
    if folds.column is not None:
        return "predefined"
    if folds.order is not None:
        return "time"
    if folds.method == "auto":
        return "stratified-group" if grouped else "multilabel" if labels else "stratified"
    if folds.method in ("group", "stratified-group") and not grouped:
        raise UserError(f'folds.method = "{folds.method}" needs a [group] section: say which rows belong together')
    if folds.method in ("multilabel", "iterative") and not labels:
        raise UserError(f'folds.method = "{folds.method}" does not fit a {config.task} task; use "stratified"')
    return folds.method


def split(
    config: Competition, raw: Raw, strata: Array, units: Array, data: Path, like: Array | None
) -> tuple[str, Array]:
    """Return the scheme, and the fold of every labelled row in every repeat (N R), -2 for the holdout."""
    folds, path = config.folds, data / config.train
    method = choose_method(config, grouped=bool((raw.groups[raw.train] != "").any()))
    if folds.column is not None:
        return method, whole_folds(column(read_train(config, data), folds.column, path), path, folds.column)[:, None]
    order = None if folds.order is None else read_times(config, data)
    held = np.zeros(len(units), bool)
    if like is not None:
        held = draw_test_like(strata, units, folds.holdout, folds.seed, like)
    elif folds.holdout:
        held = draw_holdout(strata, units, folds.holdout, folds.seed, order)
    codes = np.full((len(units), folds.repeats), HOLDOUT)
    rest = None if order is None else order[~held]
    for r in range(folds.repeats):
        seed = (folds.seed + r) % 2**32
        codes[~held, r] = assign(method, strata[~held], units[~held], folds.n, seed, rest)
    return method, codes


def read_times(config: Competition, data: Path) -> Array:
    """Return the column `folds.order` of numbers or ISO dates (in days) of the labelled rows."""
    path, name = data / config.train, config.folds.order or ""
    cells = column(read_train(config, data), name, path)
    values = pd.to_numeric(pd.Series(cells), errors="coerce")
    if values.isna().any():
        dates = pd.to_datetime(pd.Series(cells), format="ISO8601", errors="coerce", utc=True)
        values = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 86400
    wrong = ~np.isfinite(values.to_numpy(float))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: row {row + 2} has {str(cells[row])!r} in column {name!r}: all must be numbers, or ISO dates"
        )
    return values.to_numpy(float)


def whole_folds(cells: Array, path: Path, name: str) -> Array:
    """Return folds given by hand: whole numbers 0, 1, ... without a gap, at least two, or -2 for the holdout."""
    values = pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(float)
    scored = values[values != HOLDOUT]
    allowed = len(scored) and np.isin(scored, np.arange(len(scored))).all()
    if not allowed or len(np.unique(scored)) != scored.max() + 1 or scored.max() < 1:
        raise UserError(
            f"{path}: column {name!r} must hold folds 0, 1, ... without a gap, at least two (-2: the holdout)"
        )
    return values.astype(np.int64)


def reuse(files: CompetitionFiles, raw: Raw, wanted: dict[str, Any]) -> tuple[str, Array] | None:
    """Return the scheme and folds of the split in `folds/`, where it is of these settings, or was put there by hand."""
    if wanted["folds"]["column"] is not None or not files.folds.exists():
        return None
    given = not files.folds_receipt.exists()
    receipt: dict[str, Any] = {"method": "given by hand", "settings": wanted}
    if not given:
        receipt = read_json(files.folds_receipt)
    # A setting that came later had its default when the split was made.
    made = {**receipt["settings"], "folds": Folds().model_dump() | receipt["settings"]["folds"]}
    if made["group"] is not None:
        made["group"] = {"mosaic": False, **made["group"]}
    if made != wanted:
        return None
    frame = read_csv(files.folds)
    columns = [f"fold_{r}" if r else "fold" for r in range(wanted["folds"]["repeats"])]
    ids, labelled = column(frame, "id", files.folds).tolist(), raw.ids[raw.train].tolist()
    rows = dict(
        zip(ids, zip(*(column(frame, name, files.folds).tolist() for name in columns), strict=True), strict=True)
    )
    lacking = [i for i in labelled if rows.get(i, ("-1",))[0] == "-1"]
    if lacking:
        raise UserError(
            f"{files.folds} has no fold for id {lacking[0]!r} ({len(lacking)} such rows): add them, or delete the file "
            f"to split anew (runs of the old split are refused then)"
        )
    edited = not given and digest_file(files.folds) != receipt["csv"]
    cells = np.array([rows[i] for i in labelled])
    codes = np.column_stack([whole_folds(c, files.folds, name) for c, name in zip(cells.T, columns, strict=True)])
    if ((codes == HOLDOUT).any(1) != (codes == HOLDOUT).all(1)).any():
        raise UserError(f"{files.folds}: a row of the holdout (-2) must be so in every column: {', '.join(columns)}")
    return receipt["method"].removesuffix(EDITED) + (EDITED if edited else ""), codes
