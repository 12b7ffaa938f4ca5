"""The folder that was given, before anything is read (standard library only: a wrong one is told at once)."""

from __future__ import annotations

from pathlib import Path

from pipeline.store.errors import UserError, nearest

ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


def descend(data: Path) -> tuple[Path, list[str]]:
    """Return the folder that holds the competition, and a line where it is not `data` itself."""
    if not data.exists():
        beside = [p.name for p in data.parent.iterdir()] if data.parent.is_dir() else []
        raise UserError(f"DATA={data} does not exist" + (f"; {nearest(data.name, beside)}" if beside else ""))
    if data.is_file():
        if data.suffix.lower() in ARCHIVES:
            raise UserError(f"DATA={data} is an archive: unpack it, and give the folder")
        raise UserError(f"DATA={data} is a file: give the folder that holds train.csv, the images and the sample")
    inside = [p for p in data.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    if not inside:
        raise UserError(f"DATA={data} is empty: unpack the competition there")
    if len(inside) > 1 or not inside[0].is_dir() or not [*inside[0].glob("*.[ct]sv")]:
        return data, []
    return inside[0], [f"{data} holds nothing but the folder {inside[0].name}, so that is the competition folder"]
