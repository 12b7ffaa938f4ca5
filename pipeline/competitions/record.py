"""From raw tables to the table of record: the split, its balance and its checks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competitions.table_of_images import Raw, column, read, read_csv
from pipeline.scoring.split import assign, balance, union
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_bytes, digest_file, read_json, write_json, write_text
from pipeline.store.table import TEST, Table, write_table
from pipeline.tasks import TASKS, Task

EDITED = ", edited by hand"


def build(config: Competition, files: CompetitionFiles, target: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the committed split, how it was made, and the table of record to `target`.

    Return how it was made, and the hashes that runs depend on.
    """
    task = TASKS[config.task]
    raw = read(config, files.data)
    train = ~raw.test
    y = task.harden(task.targets(raw.y[train]))
    digests = hash_images(files.data, raw.paths)
    wanted = {
        "folds": config.folds.model_dump(),
        "group": config.group and config.group.model_dump(),
        "task": task.name,
    }
    units = union(raw.groups[train], digests[train])
    known = reuse(files, raw, wanted)
    method, folds = known or split(config, raw, task, y, units, files.data)
    strata = task.strata(y, config.folds.bins)
    counts = balance(strata, folds, stratum_names(task, y, raw.classes, strata.shape[1]))
    errors, warnings = check(raw, digests, folds, counts)
    if errors:
        raise UserError(f"{files.folds}: {'; '.join(errors)}: change [folds] or [group] in {files.config}")
    codes = np.full(len(raw.ids), TEST)
    codes[train] = folds
    all_units = np.arange(len(raw.ids))
    all_units[train] = units
    table = Table(raw.ids, codes, raw.groups, all_units, raw.paths, digests, raw.y, raw.classes, raw.weights)
    write_table(target, table)
    committed = pd.DataFrame({"id": table.ids, "fold": table.folds})
    if (table.groups != "").any():
        committed["group"] = table.groups
    text = committed.to_csv(index=False)
    facts = {
        "method": method,
        "settings": wanted,
        "csv": digest_bytes(text.encode()),
        "fold_map": table.fold_map(),
        "classes": raw.classes,
        "rows": {"train": int(train.sum()), "test": int(raw.test.sum()), "each_fold": np.bincount(folds).tolist()},
        "identical_images": int(train.sum() - len(np.unique(digests[train]))),
        "balance": counts,
        "warnings": warnings,
    }
    if known is None:
        # Else a kill between the two files would leave the old split under the new settings.
        files.folds.unlink(missing_ok=True)
    write_json(files.folds_receipt, facts)
    write_text(files.folds, text)
    hashes = {"scored": table.content(table.scored), "test": table.content(table.test)}
    return facts, {"fold_map": table.fold_map(), "classes": raw.classes, **hashes}


def stratum_names(task: Task, y: Array, classes: list[str], count: int) -> list[str]:
    """Return the names of the columns of `Task.strata`."""
    if task.name == "multilabel":
        return [*classes, "(no label)"]
    if task.name == "regression":
        return [f"bin {s}" for s in range(count)]
    return [classes[v] for v in np.unique(y)]


def choose_method(config: Competition, grouped: bool) -> str:
    """Return the scheme that `auto` stands for."""
    if config.folds.column is not None and config.folds.method not in ("auto", "predefined"):
        raise UserError('folds.column goes with folds.method = "predefined"')
    if config.folds.method != "auto":
        if config.folds.method in ("group", "stratified-group") and not grouped:
            raise UserError(
                f'folds.method = "{config.folds.method}" needs a [group] section: say which rows belong together'
            )
        if config.folds.method == "predefined" and config.folds.column is None:
            raise UserError('folds.method = "predefined" needs folds.column, a column of the train table')
        if config.folds.method == "multilabel" and config.task != "multilabel":
            raise UserError(f'folds.method = "multilabel" does not fit a {config.task} task; use "stratified"')
        return config.folds.method
    if config.folds.column is not None:
        return "predefined"
    if grouped:
        return "stratified-group"
    return "multilabel" if config.task == "multilabel" else "stratified"


def split(config: Competition, raw: Raw, task: Task, y: Array, units: Array, data: Path) -> tuple[str, Array]:
    """Return the scheme and the fold of every labelled row."""
    method = choose_method(config, grouped=bool((raw.groups[~raw.test] != "").any()))
    if method == "predefined":
        path = data / config.train
        assert config.folds.column is not None
        return method, whole_folds(column(read_csv(path), config.folds.column, path), path, config.folds.column)
    return method, assign(method, task.strata(y, config.folds.bins), units, config.folds.n, config.folds.seed)


def whole_folds(cells: Array, path: Path, name: str) -> Array:
    """Return a column of folds given by hand as whole numbers 0, 1, ... without a gap, at least two."""
    values = pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(float)
    allowed = np.isin(values, np.arange(len(values))).all()
    if not allowed or len(np.unique(values)) != values.max() + 1 or values.max() < 1:
        raise UserError(f"{path}: column {name!r} must hold folds 0, 1, ... without a gap, at least two")
    return values.astype(np.int64)


def check(raw: Raw, digests: Array, folds: Array, counts: dict[str, list[int]]) -> tuple[list[str], list[str]]:
    """Return (errors, warnings) of a split: what would make a score lie, and what a person should know."""
    errors, warnings = [], []
    train, test = ~raw.test, raw.test
    grouped = raw.groups[train] != ""
    for what, key, rows in (
        ("group", raw.groups[train], grouped),
        ("image", digests[train], np.ones(train.sum(), bool)),
    ):
        pairs = pd.DataFrame({"key": key[rows], "fold": folds[rows]}).drop_duplicates()
        twice = pairs["key"][pairs["key"].duplicated()].unique()
        if len(twice):
            example = str(twice[0]) if what == "group" else str(raw.ids[train][digests[train] == twice[0]][0])
            errors.append(f"{len(twice)} {what}(s) in two folds, for example {example!r}")
    for name, row in counts.items():
        if min(row) == 0:
            warnings.append(f"class {name!r} is missing from fold(s) {[k for k, c in enumerate(row) if c == 0]}")
    both = np.intersect1d(raw.ids[train], raw.ids[test])
    if len(both):
        warnings.append(f"{len(both)} id(s) in both train and test, for example {str(both[0])!r}")
    leaked = train & np.isin(digests, digests[test])
    if leaked.any():
        warnings.append(
            f"{leaked.sum()} train row(s) have an identical image in test, for example {str(raw.ids[leaked][0])!r}"
        )
    shared = np.setdiff1d(np.intersect1d(raw.groups[train], raw.groups[test]), [""])
    if len(shared):
        warnings.append(f"{len(shared)} group(s) in both train and test: grouped folds are harder than the test set")
    return errors, warnings


def hash_images(data: Path, paths: Array) -> Array:
    """Return the content hash of every image file; an empty file is refused by name."""

    def one(path: str) -> str:
        if (data / path).stat().st_size == 0:
            raise UserError(f"image {data / path} is empty (0 bytes): fetch it again or drop its row")
        return digest_file(data / path)

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(one, paths.tolist())))


def reuse(files: CompetitionFiles, raw: Raw, wanted: dict[str, Any]) -> tuple[str, Array] | None:
    """Return the scheme and folds of the split in `folds/`, where it is of these settings, or was put there by hand."""
    if wanted["folds"]["column"] is not None or not files.folds.exists():
        return None
    given = not files.folds_receipt.exists()
    receipt: dict[str, Any] = {"method": "given by hand", "settings": wanted}
    if not given:
        receipt = read_json(files.folds_receipt)
    if receipt["settings"] != wanted:
        return None
    frame = read_csv(files.folds)
    of = dict(zip(column(frame, "id", files.folds).tolist(), column(frame, "fold", files.folds).tolist(), strict=True))
    labelled = raw.ids[~raw.test].tolist()
    lacking = [i for i in labelled if of.get(i, "-1") == "-1"]
    if not lacking:
        edited = not given and digest_file(files.folds) != receipt["csv"]
        folds = whole_folds(np.array([of[i] for i in labelled]), files.folds, "fold")
        return receipt["method"].removesuffix(EDITED) + (EDITED if edited else ""), folds
    raise UserError(
        f"{files.folds} has no fold for id {lacking[0]!r} ({len(lacking)} such rows): add them, or delete the file to "
        f"split anew (runs of the old split are refused then)"
    )
