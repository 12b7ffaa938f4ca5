"""Where the images of a row lie: one file, or one a channel and view."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.store.table import VIEWS, files_of


def find(images: Images, pattern: str, data: Path, ids: Array, splits: Array) -> Array:
    """Return the path of every row, its views side by side; every file must be there (or, if allowed, its view not)."""
    found = []
    for i, split in zip(ids.tolist(), splits.tolist(), strict=True):
        plain = pattern.replace("{split}", split).replace("{id}", i)
        if VIEWS in plain:
            raise UserError(f"image {plain!r} of id {i!r}: {VIEWS!r} may not stand in a file name here: rename it")
        views = [plain.replace("{view}", view) for view in images.view or [""]]
        found.append(VIEWS.join(_present(images, data, i, views)))
    return np.array(found)


def _present(images: Images, data: Path, i: str, views: list[str]) -> list[str]:
    """Return the views of a row that are there, "" for those that may be missing."""
    kept = []
    for view in views:
        lacking = [file for file in files_of(view, images.channel) if not (data / file).is_file()]
        if lacking and (images.missing == "error" or len(lacking) < len(images.channel or [""])):
            raise UserError(_missing(images, data, i, lacking[0]))
        kept.append("" if lacking else view)
    if not any(kept):
        raise UserError(_missing(images, data, i, files_of(views[0], images.channel)[0]))
    return kept


def _missing(images: Images, data: Path, i: str, path: str) -> str:
    wanted = data / path
    may = images.view is not None and images.missing == "error"
    advice = ', or set images.missing = "skip" where a view may be missing' if may else ""
    line = f"id {i!r} has no image {wanted}: check images.pattern{advice}"
    if not wanted.parent.is_dir():
        return f"{line} (the folder {wanted.parent} does not exist)"
    alike = sorted(p.name for p in wanted.parent.glob(f"{PurePosixPath(path).stem}*"))
    return f"{line} (there is {alike[0]!r})" if alike else line


def unlabelled(glob: str, data: Path, taken: Array) -> Array:
    """Return the paths that a glob finds in the data folder and no row uses."""
    if Path(glob).is_absolute() or ".." in Path(glob).parts:
        raise UserError(f"unlabelled = {glob!r} would lead out of the data folder")
    names = [path.relative_to(data).as_posix() for path in sorted(data.glob(glob)) if path.is_file()]
    if not names:
        raise UserError(f"unlabelled = {glob!r} finds no file in {data}")
    if any(VIEWS in name for name in names):
        raise UserError(f"unlabelled = {glob!r}: {VIEWS!r} may not stand in a file name here: rename it")
    return np.setdiff1d(names, taken)
