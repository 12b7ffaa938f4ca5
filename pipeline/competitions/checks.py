"""Checks of a split: what would make a score lie, and what a person should know."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from pipeline.competitions.table_of_images import Raw
from pipeline.store.files import Array

# So many rare classes are told one by one.
TOLD = 20
# Strata of values, of mask sizes and of looks are no classes: that a few rows cannot fill them all is said once.
BIN = re.compile(r"(^| )(bin|size|cluster) \d+$")


def check(
    raw: Raw, digests: Array, near: Array, codes: Array, counts: dict[str, list[int]]
) -> tuple[list[str], list[str]]:
    """Return (errors, warnings) of a split of the labelled rows into `codes` (N R); `near` are keys of near copies."""
    errors: list[str] = []
    train = raw.train
    for folds in codes.T:
        errors += divided("group", raw.groups[train], raw.groups[train], folds)
        errors += divided("image", digests[train], raw.ids[train], folds)
    found = rare(counts, int(codes.max()) + 1) + meets_test(raw, digests, near)
    for folds in codes.T:
        found += divided("set(s) of near copies", near[train], raw.ids[train], folds)
    return list(dict.fromkeys(errors)), list(dict.fromkeys(found))


def divided(what: str, keys: Array, names: Array, folds: Array) -> list[str]:
    """Say which keys ("": none) lie in two folds, by the name of a row."""
    rows = keys != ""
    pairs = pd.DataFrame({"key": keys[rows], "name": names[rows], "fold": folds[rows]}).drop_duplicates(["key", "fold"])
    twice = pairs[pairs["key"].duplicated()]
    if not len(twice):
        return []
    what = what if what.startswith("set") else f"{what}(s)"
    return [f"{twice['key'].nunique()} {what} in two folds, for example {str(twice['name'].iloc[0])!r}"]


def rare(counts: dict[str, list[int]], n: int) -> list[str]:
    """Say which classes are missing from which folds, and in one line how many bins of values or of sizes are."""
    said: list[str] = []
    bins: list[str] = []
    for name, row in counts.items():
        gone = [k for k, count in enumerate(row) if count == 0]
        if gone and not (name.endswith("(no label)") and sum(row) == 0):
            few = f": it has {sum(row)} row(s) for {n} folds" if sum(row) < n else ""
            (bins if BIN.search(name) else said).append(f"{name!r} is missing from fold(s) {gone}{few}")
    lines = [f"class {line}" for line in said[:TOLD]]
    lines += [f"so are {len(said) - TOLD} other classes from some fold"] if len(said) > TOLD else []
    more = f"; so are {len(bins) - 1} others from some fold" if len(bins) > 1 else ""
    return lines + [f"stratum {line}{more}" for line in bins[:1]]


def meets_test(raw: Raw, digests: Array, near: Array) -> list[str]:
    """Say what labelled rows and test rows share: ids, images, near copies, groups."""
    said, train, test = [], raw.train, raw.test
    both = np.intersect1d(raw.ids[train], raw.ids[test])
    if len(both):
        said.append(f"{len(both)} id(s) in both train and test, for example {str(both[0])!r}")
    same = train & np.isin(digests, digests[test])
    if same.any():
        said.append(f"{same.sum()} train row(s) have an identical image in test, for example {str(raw.ids[same][0])!r}")
    alike = train & ~same & np.isin(near, np.setdiff1d(near[test], [""]))
    if alike.any():
        said.append(f"{alike.sum()} train row(s) have a near copy in test, for example {str(raw.ids[alike][0])!r}")
    shared = np.setdiff1d(np.intersect1d(raw.groups[train], raw.groups[test]), [""])
    if len(shared):
        said.append(f"{len(shared)} group(s) in both train and test: grouped folds are harder than the test set")
    return said
