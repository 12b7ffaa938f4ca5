"""Where the images of a row lie: one file, or one a channel and view; `**/` and `.*` in a pattern; class folders."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.store.table import VIEWS, files_of

ENDINGS = {"bmp", "dcm", "gif", "jp2", "jpeg", "jpg", "npy", "pgm", "png", "ppm", "tif", "tiff", "webp"}


def ending(name: str) -> str:
    """Return what a file name ends on, in small letters without the point."""
    return os.path.splitext(name)[1].lower()[1:]


def walk(data: Path, below: str = "") -> Iterator[str]:
    """Yield every image below a folder as a path relative to `data`, in order; hidden names are left out."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(data / below, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        inside = PurePosixPath(os.path.relpath(folder, data))
        for name in sorted(names):
            if not name.startswith(".") and ending(name) in ENDINGS:
                yield str(inside / name)


def locate(data: Path, ids: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Replace `**/` (any folders, or none) and a closing `.*` (any ending) by what is there; other paths pass.

    Raise UserError for an id with no such image, or with several.
    """
    indices: dict[str, dict[str, list[str]]] = {}
    found = []
    for i, path in zip(ids, paths, strict=True):
        if "**/" not in path and not path.endswith(".*"):
            found.append(path)
            continue
        below = path.split("**/")[0] if "**/" in path else str(PurePosixPath(path).parent)
        index = indices.setdefault(below, {})
        if not index:
            index.update(_by_name(data, below))
        fits = re.compile(regex(path))
        hits = [p for p in index.get(PurePosixPath(path).name, []) if fits.fullmatch(p)]
        if len(hits) != 1:
            what = f"{len(hits)} images ({hits[0]}, {hits[1]})" if hits else "no image"
            raise UserError(f"id {i!r} has {what} that fits {data / path}: check images.pattern")
        found.append(hits[0])
    return found


def regex(pattern: str) -> str:
    """Return an image pattern as a regular expression; `{id}` becomes the group `id`."""
    text = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?")
    text = re.sub(r"\\\.\\\*$", r"\\.[^./]+", text)
    return text.replace(r"\{id\}", "(?P<id>.+)", 1).replace(r"\{id\}", "(?P=id)")


def class_folders(data: Path, glob: str, pattern: str) -> tuple[list[str], list[str]]:
    """Return ids and classes of images that lie in class folders (`glob`: train/*/*).

    The class is the name of the folder, the id what `{id}` stands for in `pattern`.
    """
    files = [str(p.relative_to(data)) for p in sorted(data.glob(glob)) if ending(p.name) in ENDINGS]
    if not files:
        raise UserError(f"{data / glob}: no image fits train = {glob!r}")
    fits = re.compile(regex(pattern))
    ids = []
    for path in files:
        match = fits.fullmatch(path)
        if match is None:
            raise UserError(f"{data / path} fits train = {glob!r} but not images.pattern ({pattern}): make them agree")
        ids.append(match["id"])
    return ids, [PurePosixPath(path).parent.name for path in files]


def find(images: Images, pattern: str, data: Path, ids: Array, splits: Array) -> Array:
    """Return the path of every row, its views side by side; every file must be there (or, if allowed, its view not)."""
    pairs = zip(ids.tolist(), splits.tolist(), strict=True)
    named = locate(data, ids.tolist(), [pattern.replace("{split}", split).replace("{id}", i) for i, split in pairs])
    found = []
    for i, plain in zip(ids.tolist(), named, strict=True):
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


def _by_name(data: Path, below: str) -> dict[str, list[str]]:
    """Return the images below a folder by name, and by name with any ending."""
    index = defaultdict(list)
    for path in walk(data, below):
        index[PurePosixPath(path).name].append(path)
        index[f"{PurePosixPath(path).stem}.*"].append(path)
    return index
