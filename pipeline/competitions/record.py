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
from pipeline.competitions.scheme import read_times, reuse, split, stratum_names
from pipeline.competitions.table_of_images import Raw, read
from pipeline.masks.truth import kind_of
from pipeline.scoring.split import balance, too_near, union
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_bytes, write_json, write_text
from pipeline.store.table import EXTRA, HOLDOUT, TEST, UNLABELLED, Table, fold_columns, write_table
from pipeline.tasks import task_of


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
    near, looks, tones = find_alike(config, files.data, raw.paths, digests, encode)
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
        like = like_test(looks, tones, raw.train, raw.codes == TEST, units, config.folds.seed)
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
