"""Which rows belong together, and which other columns could help: metadata, weights, given folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.look.words import Finding
from pipeline.store.errors import listed

GROUPS = re.compile(
    r"patient|subject|person|individual|participant|study|source|group|plate|experiment|slide|case|session|site|"
    r"location|video|sequence|scene|camera|series|client|user|specimen|batch|well",
    re.I,
)
PATTERNS = {
    r"^(\d+)[LR]$": "a number, then the side L or R",
    r"^(.+)[ _-](?i:left|right|l|r)$": "a name, then the side",
    r"^(.+)[_-][^_-]+$": "what stands before the last '_' or '-'",
    r"^([^_-]+)[_-]": "what stands before the first '_' or '-'",
}
LEAST = 10  # groups: fewer cannot fill five folds evenly


@dataclass(frozen=True)
class Candidate:
    """A way to group rows: its keys, the group of every train row, of the test rows it knows, and where it is from."""

    keys: dict[str, Any]
    train: pd.Series
    test: pd.Series
    words: str


def find_groups(
    id_name: str, train: pd.DataFrame, test: pd.DataFrame, labels: pd.Series | None, tables: dict[str, pd.DataFrame]
) -> list[Finding]:
    """Return the group of the contract: the coarsest of what looks like one; [] where nothing does."""
    found = [c for c in _candidates(id_name, train, test, tables) if _groups(c.train, labels)]
    if not found:
        words = (
            "nothing looks like a group: no such column, no shared beginnings of ids; if rows share a patient, say so"
        )
        return [Finding("group.column", None, words, False)]
    named = [c for c in found if "pattern" not in c.keys] or found[:1]
    best = min(named, key=lambda c: c.train.nunique())
    shared = best.test[best.test.isin(set(best.train))]
    words = f"{best.words}: {best.train.nunique()} groups of {len(best.train)} train rows, the largest has "
    words += f"{best.train.value_counts().max()}"
    if len(best.test) >= 20 and len(shared) == 0:
        words += "; no group is in train and test both, so the test set was divided by it"
    elif len(shared):
        words += f"; {len(shared)} of {len(best.test)} test rows share a group with train rows"
    rest = [c.words for c in found if c.train.nunique() != best.train.nunique()]
    if rest:
        words += f" (other candidates: {'; '.join(rest)})"
    sure = len(best.test) >= 20 and len(shared) == 0
    return [
        Finding(f"group.{key}", v, words if not k else "of it", sure or k > 0)
        for k, (key, v) in enumerate(best.keys.items())
    ]


def _candidates(
    id_name: str, train: pd.DataFrame, test: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> list[Candidate]:
    found = []
    for name in [str(c) for c in train.columns if c != id_name and GROUPS.search(str(c))]:
        known = test[name] if name in test.columns else pd.Series([], dtype=str)
        found.append(Candidate({"column": name}, train[name], known, f"column {name!r}"))
    for file, table in tables.items():
        key = id_column(table, id_name, train[id_name])
        for name in [str(c) for c in table.columns if key and c != key and GROUPS.search(str(c))]:
            of = table.set_index(key)[name]
            where = {"table": file, "column": name} | ({"id": key} if key != id_name else {})
            known = test[id_name].map(of).dropna()
            found.append(Candidate(where, train[id_name].map(of), known, f"column {name!r} of {file}"))
    for pattern, words in PATTERNS.items():
        if train[id_name].str.fullmatch(r".*\.[A-Za-z]\w+").all():
            pattern = re.sub(r"\$$", r"\\.\\w+$", pattern)
        parts, other = (t[id_name].str.extract(pattern, expand=False) for t in (train, test))
        if parts.notna().all():
            found.append(Candidate({"pattern": pattern}, parts, other.dropna(), f"ids that share {words}"))
    return found


def id_column(table: pd.DataFrame, name: str, ids: pd.Series) -> str:
    """Return the column of a second table that holds every id once; "" where none does."""
    for column in sorted(map(str, table.columns), key=lambda c: c != name):
        if table[column].is_unique and ids.isin(set(table[column])).all():
            return column
    return ""


def _groups(of: pd.Series, labels: pd.Series | None) -> bool:
    """Say whether values could be groups: enough, shared by rows, none of a tenth of all rows, and not the classes."""
    if of.isna().any() or (of == "").any() or not LEAST <= of.nunique() <= 0.9 * len(of):
        return False
    if of.value_counts().max() > max(len(of) / 10, 2):
        return False
    return labels is None or of.nunique() != labels.nunique() or labels.groupby(of.to_numpy()).nunique().max() > 1


def find_columns(
    train: pd.DataFrame, test: pd.DataFrame, used: Sequence[str], tables: dict[str, pd.DataFrame], id_name: str
) -> list[Finding]:
    """Return what the other columns could be: a weight, given folds, metadata of train and test rows."""
    found = []
    rest = [str(c) for c in train.columns if c not in used and not str(c).startswith("Unnamed: ")]
    for name in list(rest):
        values = pd.to_numeric(train[name], errors="coerce")
        if re.fullmatch("(sample_?)?weights?", name, re.I) and values.gt(0).all():
            found.append(Finding("weight", name, f"column {name!r} holds numbers above 0", False))
            rest.remove(name)
        elif re.fullmatch("k?folds?", name, re.I) and set(values) == set(range(train[name].nunique())):
            found.append(Finding("folds.column", name, f"column {name!r} holds folds 0, 1, ...: a given split", False))
            rest.remove(name)
    source, key, names = "", id_name, [c for c in rest if c in test.columns]
    if not names:
        source, key, names = _second(tables, train, test, id_name) or (source, key, names)
    numeric, categorical = kinds(tables[source] if source else train, [c for c in names if c not in used])
    numeric = [c for c in numeric if not GROUPS.search(c)]  # numbers of patients are no measurement
    if numeric or categorical:
        where = source or "the train and the test table"
        words = f"{where} have it for train and test rows: {listed([*numeric, *categorical])}"
        found += [Finding("metadata.numeric", numeric, words, False)] if numeric else []
        words = "as above, with few values" if numeric else words
        found += [Finding("metadata.categorical", categorical, words, False)] if categorical else []
        found += [Finding("metadata.table", source, "where these columns lie", False)] if source else []
        found += [Finding("metadata.id", key, "the column of ids there")] if source and key != id_name else []
    only = [c for c in rest if c not in names]
    if only:
        found.append(Finding("columns", None, f"columns that no test row has, left alone: {listed(only)}"))
    return found


def kinds(table: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide columns into numeric and categorical ones; texts that differ from row to row are neither."""
    numeric, categorical = [], []
    for name in names:
        cells = table[name].str.strip()
        full = cells[cells != ""]
        number = pd.to_numeric(full, errors="coerce").notna().all()
        if full.nunique() < 2:
            continue
        if number and full.nunique() > 10:
            numeric.append(name)
        elif full.nunique() <= min(50, len(full) / 5):
            categorical.append(name)
    return numeric, categorical


def _second(
    tables: dict[str, pd.DataFrame], train: pd.DataFrame, test: pd.DataFrame, id_name: str
) -> tuple[str, str, list[str]] | None:
    """Return the first second table with a row for every id: its name, its id column and its other columns."""
    ids = pd.concat([train[id_name], test[id_name]])
    for file, table in tables.items():
        key = id_column(table, id_name, ids)
        if key:
            return file, key, [str(c) for c in table.columns if c != key and not str(c).startswith("Unnamed: ")]
    return None
