"""Where images lie: `**/` and `.*` in a pattern, and train rows that are told by class folders instead of a table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.store.errors import UserError

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


def _by_name(data: Path, below: str) -> dict[str, list[str]]:
    """Return the images below a folder by name, and by name with any ending."""
    index = defaultdict(list)
    for path in walk(data, below):
        index[PurePosixPath(path).name].append(path)
        index[f"{PurePosixPath(path).stem}.*"].append(path)
    return index
