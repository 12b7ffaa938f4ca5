"""Which delimiter a table has: its header row decides, and where that leaves two, the first rows; never a guess."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

from pipeline.store.errors import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
LOOKED_AT = 50


def delimiter(path: Path) -> str:
    """Return the delimiter of a table (UTF-8, with or without BOM): ',' where there is one column only.

    Raise UserError where two delimiters divide the header and every row looked at.
    """
    rows = {sign: _head(path, sign) for sign in DELIMITERS}
    divide = [sign for sign, head in rows.items() if head and len(head[0]) > 1]
    if len(divide) > 1:
        divide = [sign for sign in divide if all(len(row) == len(rows[sign][0]) for row in rows[sign])]
        if len(divide) != 1:
            names = " and ".join(DELIMITERS[sign] for sign in divide) or "no delimiter"
            raise UserError(f"{path}: {names} divide header and rows alike: put cells that hold the other in quotes")
    return divide[0] if divide else ","


def _head(path: Path, sign: str) -> list[list[str]]:
    """Return the first rows as one delimiter divides them; an endless cell ends them."""
    with open(path, encoding="utf-8-sig", newline="") as handle:
        found = []
        try:
            for row in islice(csv.reader(handle, delimiter=sign), LOOKED_AT):
                found.append(row)
        except csv.Error:
            pass
        return [row for row in found if row]
