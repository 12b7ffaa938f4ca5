"""Look at a competition folder: its tables, its images, and which table is which."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.competitions.paths import ENDINGS, walk
from pipeline.competitions.tables import read_csv
from pipeline.look.given import ARCHIVES, descend
from pipeline.store.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A competition folder: tables by file name (cells as text), images as paths relative to it, what to tell."""

    path: Path
    tables: dict[str, pd.DataFrame]
    images: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Roles:
    """Which table is which; `train` is "" where class folders or mask files tell it, `test` where the sample does."""

    train: str
    test: str
    sample: str
    others: list[str]


def read_folder(data: Path) -> Folder:
    """Read a competition folder, or the one folder inside it; what cannot be one is refused with what to do."""
    data, notes = descend(data)
    tables = sorted(p for p in data.iterdir() if p.suffix.lower() in (".csv", ".tsv") and not p.name.startswith("."))
    images = list(walk(data))
    if not images:
        packed = sorted(p.name for p in data.iterdir() if p.suffix.lower() in ARCHIVES)
        hint = f": unpack {packed[0]} there first" if packed else f" (sought: {', '.join(sorted(ENDINGS))})"
        raise UserError(f"{data} holds no images{hint}")
    return Folder(data, {p.name: read_csv(p) for p in tables if p.stat().st_size}, images, notes)


def find_roles(folder: Folder, masks: bool = False) -> Roles:
    """Return which table is which, by their names; a missing one is told with what was found instead.

    Where there are files of masks, `masks`, a train table may be missing.
    """
    plain = {name: re.sub(r"[^a-z0-9]", "", PurePosixPath(name).stem.lower()) for name in folder.tables}
    samples = [name for name, p in plain.items() if re.search("sample.*sub|sub.*sample|^submission$", p)]
    rest = {name: p for name, p in plain.items() if name not in samples and "solution" not in p}
    trains = sorted((n for n, p in rest.items() if p.startswith("train")), key=lambda n: (plain[n] != "train", n))
    trains += [n for n, p in rest.items() if p == "labels"]
    tests = sorted((n for n, p in rest.items() if p.startswith("test")), key=lambda n: (plain[n] != "test", n))
    missing = []
    if not trains and not masks and not class_folder_root(folder.images):
        missing.append("train.csv (ids and targets; or class folders train/<class>/...)")
    if not samples:
        missing.append("sample_submission.csv (its header, and one row for each test image)")
    if missing:
        raise UserError(
            f"{folder.path} has no {' and no '.join(missing)}; found {contents(folder)}: add what is missing"
        )
    train, test = trains[0] if trains else "", tests[0] if tests else ""
    return Roles(train, test, samples[0], [name for name in rest if name not in (train, test)])


def class_folder_root(images: list[str]) -> str:
    """Return the folder `train...` whose folders, two or more, hold images directly: the classes ("": none)."""
    classes: dict[str, set[str]] = {}
    for path in images:
        parts = path.split("/")
        if len(parts) == 3 and parts[0].lower().startswith("train"):
            classes.setdefault(parts[0], set()).add(parts[1])
    found = [root for root, names in classes.items() if len(names) > 1 and not names & {"images", "masks"}]
    return found[0] if found else ""


def contents(folder: Folder) -> str:
    """Return in words which tables and images a folder holds."""
    tables = [f"{name} ({', '.join(map(str, t.columns[:6]))}; {len(t)} rows)" for name, t in folder.tables.items()]
    where = Counter(os.path.dirname(path) or "." for path in folder.images)
    return ", ".join([*tables[:5], *(f"{n} images in {name}/" for name, n in where.most_common(4))])
