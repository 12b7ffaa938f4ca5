"""Near copies of image files: thumbnails of rows, and what rows of two competitions share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from pipeline.scoring.duplicates import SIDE, near_copies
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.store.keys import read_table_facts
from pipeline.store.table import EXTRA, HOLDOUT, Table, files_of, read_table

T = TypeVar("T")


def thumbnails(data: Path, paths: Array, channel: list[str] | None) -> Array:
    """Return grey thumbnails (N SIDE SIDE, uint8) of rows: of several files the first; what cannot be read is blank."""

    def one(path: str) -> Array:
        first = next(filter(None, files_of(path, channel)))
        image = cv2.imread(str(data / first), cv2.IMREAD_GRAYSCALE)
        # What cannot be read is like nothing; `train` tells of it.
        blank = np.zeros((SIDE, SIDE), np.uint8)
        return blank if image is None else cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    return np.stack(each(one, paths))


def near_between(ours: str, here: Table, theirs: str, there: Table) -> tuple[Array, Array]:
    """Return a number for each row of two competitions (N, M; -1: none) that near copies with an answer share.

    What is a near copy the contract of the first says (`folds.near`; 0: nothing is read).
    """
    found = np.full(len(here.ids), -1), np.full(len(there.ids), -1)
    if most := load_competition(ours).folds.near:
        rows = [np.flatnonzero(table.answered) for table in (here, there)]
        looks = [
            thumbnails(CompetitionFiles(name).data, table.paths[mine], load_competition(name).images.channel)
            for name, table, mine in zip((ours, theirs), (here, there), rows, strict=True)
        ]
        numbers = near_copies(np.concatenate(looks), most)
        for side, mine, part in zip(found, rows, np.split(numbers, [len(rows[0])]), strict=True):
            side[mine] = part
    return found


def refuse_near_copies(other: str, files: RunFiles) -> None:
    """Refuse a run of another competition that learnt from near copies of images which are scored here."""
    theirs, ours = RunFiles(other).competition, files.competition
    if theirs == ours or not load_competition(ours.name).folds.near:
        return
    here, there = (read_table(each, read_table_facts(each)) for each in (ours, theirs))
    mine, known = near_between(ours.name, here, theirs.name, there)
    learnt = known[(there.folds >= 0) | (there.folds == EXTRA)]
    seen = ((here.folds >= 0) | (here.folds == HOLDOUT)) & np.isin(mine, learnt[learnt >= 0])
    if seen.any():
        raise UserError(
            f"init = {other!r} has trained on near copies of {seen.sum()} images that are scored here, for example "
            f"that of id {str(here.ids[seen][0])!r} (folds.near in {ours.config}): its weights are not blind; start "
            "from another run"
        )


def each(work: Callable[[str], T], paths: Array) -> list[T]:
    """Return what `work` makes of every path, by as many threads as there are cores."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, paths.tolist()))
