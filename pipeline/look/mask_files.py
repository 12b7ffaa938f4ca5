"""What files of masks are: where they lie, and which values or colours stand for which class."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.look.paths import complete, match
from pipeline.look.words import Finding
from pipeline.store.errors import UserError, listed
from pipeline.store.files import Array

LOOKED_AT, MOST = 200, 32


def look_at(data: Path, masks: list[str], ids: list[str], tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """Return the keys `masks.*` and `classes` of files of masks; each id must have one, or one a class."""
    found = match(masks, ids)
    texts = complete(found, ids, masks)
    pattern, classes = by_class(texts)
    words = f"every train id has its mask there ({len(masks)} files)"
    keys = [Finding("masks.pattern", pattern, words)]
    if classes:
        return [*keys, Finding("classes", classes, "what stands for {class} in the names of masks: a file a class")]
    names = [path for path in masks if path in set(found.get(texts[0], {}).values())] or masks
    looked = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).astype(int))]
    codes, coloured = set[int](), set[int]()
    for path in looked:
        image = cv2.imread(str(data / path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise UserError(f"mask {data / path} cannot be read as an image: write masks as PNG")
        values, colour = values_of(image)
        (coloured if colour else codes).update(values)
    told = f"{len(looked)} masks looked at"
    if coloured:
        return [*keys, *of_colours(sorted(coloured | {v * 0x010101 for v in codes}), told, tables)]
    values = sorted(codes)
    if len(values) <= 2 or len(values) > MOST or looked[0].lower().endswith((".jpg", ".jpeg")):
        sure = len(values) <= 2 and (values[0] == 0)
        return [
            *keys,
            Finding("masks.values", None, f"{told} hold {listed(list(map(str, values)))}: 0 and not 0", sure),
        ]
    words = f"{told} hold the values {listed(list(map(str, values)))}: a class each, and every pixel is of one"
    return [
        *keys,
        Finding("classes", [f"value {v}" for v in values], "their names are not known", False),
        Finding("masks.values", values, words, False),
        Finding("masks.exclusive", True, "so a pixel is of exactly one class", False),
    ]


def by_class(texts: list[str]) -> tuple[str, list[str]]:
    """Return one pattern for several files an id: {class} stands where they differ; else the first."""
    cells = [re.findall(r"\{id\}|[^\W_]+|.", text) for text in texts]
    if len(texts) > 1 and len({len(c) for c in cells}) == 1:
        slots = [k for k in range(len(cells[0])) if len({c[k] for c in cells}) > 1]
        if len(slots) == 1:
            names = sorted({c[slots[0]] for c in cells})
            return "".join([*cells[0][: slots[0]], "{class}", *cells[0][slots[0] + 1 :]]), names
    return texts[0], []


def values_of(image: Array) -> tuple[list[int], bool]:
    """Return the different values of an image, and whether they are colours (0xrrggbb)."""
    if image.ndim == 3 and image.shape[2] > 2:
        rgb = image[:, :, 2::-1]
        if (rgb != rgb[:, :, :1]).any() and image.dtype == np.uint8:
            return np.unique(rgb.astype(np.int64) @ [65536, 256, 1]).tolist(), True
        image = rgb[:, :, 0]
    return np.unique(image).tolist(), False


def of_colours(codes: list[int], told: str, tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """Return the keys of masks in colour; a table with columns r, g, b (class_dict.csv) names them."""
    names = {f"#{code:06x}": f"colour {code:06x}" for code in codes}
    words, sure = f"{told} hold these colours", False
    for file, table in tables.items():
        columns = {str(c).strip().lower(): str(c) for c in table.columns}
        rest = [c for low, c in columns.items() if low not in "rgb"]
        if {"r", "g", "b"} <= set(columns) and rest:
            rgb = table[[columns[c] for c in "rgb"]].apply(pd.to_numeric, errors="coerce").to_numpy()
            known = {
                f"#{int(r):02x}{int(g):02x}{int(b):02x}": n for (r, g, b), n in zip(rgb, table[rest[0]], strict=True)
            }
            if set(names) <= set(known):
                names, words, sure = known, f"{file} names them", True
    if len(names) > MOST:
        raise UserError(
            f"masks have {len(names)} colours ({listed(sorted(names), 3)}): write them as PNG, a colour a class"
        )
    return [
        Finding("classes", list(names.values()), words if sure else "their names are not known", sure),
        Finding("masks.colours", list(names), words, sure),
        Finding("masks.exclusive", True, "every pixel has one of these colours: exactly one class", sure),
    ]
