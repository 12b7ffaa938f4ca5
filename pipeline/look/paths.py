"""Which column names the images, and the pattern that leads from an id to its image, or images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import PurePosixPath

import pandas as pd

from pipeline.look.words import Finding
from pipeline.store.errors import UserError, listed

Found = dict[str, dict[str, str]]  # template -> id -> image
COLOURS = ["red", "green", "blue", "yellow", "nir", "rgb", "dapi", "nuclei", "er", "mito", "actin"]
CHANNEL_MARKS, VIEW_MARKS = (
    ("c", "w", "ch", "chan", "channel", "band"),
    ("s", "v", "z", "site", "view", "slice", "crop"),
)
NOT_IMAGES = re.compile(r"mask|(?<!un)label|annot|segment", re.I)


@dataclass(frozen=True)
class Pattern:
    """An image pattern, what {split} stands for, and the channels and views of a row."""

    text: str
    train: str = "train"
    test: str = "test"
    channels: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    sure: bool = True
    note: str = ""


def ids_of(path: str, ids: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the id in an image's name (the longest), and the one among its folders, each with `{id}` in its place."""
    *folders, name = path.split("/")
    for cut in [len(name), *reversed([m.start() for m in re.finditer(r"[ ._-]", name)])]:
        starts = [s for s in range(len(folders), -1, -1) if "/".join([*folders[s:], name[:cut]]) in ids]
        if starts:
            held = "/".join([*folders[starts[0] :], name[:cut]])
            before = ["{id}" if folder == held else folder for folder in folders[: starts[0]]]
            yield held, "/".join([*before, "{id}"]) + name[cut:]
            break
    for end in range(len(folders), 0, -1):
        starts = [s for s in range(end - 1, -1, -1) if "/".join(folders[s:end]) in ids]
        if starts:
            yield "/".join(folders[starts[0] : end]), "/".join([*folders[: starts[0]], "{id}", *folders[end:], name])
            break


def match(images: Sequence[str], ids: Iterable[str]) -> Found:
    """Return for each template which ids have which image."""
    known = {i for i in ids if i}
    found: Found = defaultdict(dict)
    for path in images:
        for i, template in ids_of(path, known):
            found[template][i] = path
    return dict(found)


def find_id(table: pd.DataFrame, images: Sequence[str], name: str, also: Sequence[str]) -> Finding:
    """Return the column that names images: unique, in `also` (the sample's columns), with most images."""
    hits: dict[str, int] = {}
    for unique in (True, False):  # most tables have a unique id, and a wide one takes long
        for column in (c for c in table.columns if table[c].is_unique == unique and not hits):
            held = {i for found in match(images, table[column]).values() for i in found}
            if len(held) > table[column].nunique() / 2:
                hits[column] = len(held)
    if not hits:
        raise UserError(_no_image(table, images, name))
    best = max(hits, key=lambda c: (c in also, hits[c]))
    if not table[best].is_unique:
        many = str(table[best][table[best].duplicated()].iloc[0])
        raise UserError(
            f"{name}: column {best!r} names the images, but {many!r} has several rows: keep one row an id, or link "
            f"the images under names that hold an id of one row"
        )
    if best not in also:
        raise UserError(
            f"{name}: column {best!r} names the images, but the sample submission has only {listed(list(also))}: "
            f"give the id column one name in both"
        )
    words = f"column {best!r}: its values are unique and {hits[best]} of {len(table)} are names of images"
    return Finding("id", str(best), words, hits[best] == len(table))


def find_pattern(images: Sequence[str], train: Sequence[str], test: Sequence[str]) -> Pattern:
    """Return the pattern that gives every row of train and test its image, or its images."""
    found = match(images, train)
    sides = [complete(found, train, images), complete(match(images, test), test, images)]
    pairs = _pairs(*sides) or _pairs(*([any_ending(t) for t in side] for side in sides))
    if not pairs:
        raise UserError(f"one images.pattern cannot lead to both train ({sides[0][0]}) and test images ({sides[1][0]})")
    named = [p for p in pairs if "{split}" in p.text and p.test == re.sub("(?i)train", "test", p.train) != p.train]
    usual = named or [p for p in pairs if "{split}" not in p.text] or pairs
    usual = [p for p in usual if not NOT_IMAGES.search(p.text.split("{id}")[0])] or usual
    if len(usual) == 1:
        return usual[0]
    pattern = several(usual)
    if pattern.views and len(found) > len(sides[0]):
        note = f"{pattern.note} some rows have more files than these, which are left out".strip()
        return replace(pattern, sure=False, note=note)
    return pattern


def _pairs(train: Iterable[str], test: Sequence[str]) -> list[Pattern]:
    return [merged for a in train for b in test if (merged := merge(a, b)) is not None]


def complete(found: Found, ids: Sequence[str], images: Sequence[str]) -> list[str]:
    """Return the templates that give every id an image, made wider (`.*`, `**/`) where none does."""
    for widen in (lambda t: t, any_ending, any_folder, lambda t: any_folder(any_ending(t))):
        wide: dict[str, set[str]] = defaultdict(set)
        for template, of in found.items():
            wide[widen(template)] |= set(of)
        full = [t for t, have in wide.items() if len(have) == len(ids)]
        if full:
            return sorted(full, key=lambda t: (t.count("/"), len(t), t))
    named = {i for of in found.values() for i in of}
    lacking = [i for i in ids if i not in named]
    if lacking:
        raise UserError(
            f"id {lacking[0]!r} has no image ({len(lacking)} of {len(ids)} ids); the nearest is "
            f"{_nearest(lacking[0], images)!r}: add it or drop the row"
        )
    raise UserError(
        f"no one pattern gives every id an image: {listed([f'{t} ({len(of)} ids)' for t, of in found.items()], 4)}"
    )


def any_ending(template: str) -> str:
    """Let the ending after the id be any."""
    return re.sub(r"\{id\}\.\w+$", "{id}.*", template)


def any_folder(template: str) -> str:
    """Let the folders between the first one and the id be any."""
    before, _, after = template.partition("{id}")
    top, slash, rest = before.partition("/")
    return f"{top}/**/{{id}}{after}" if slash and "/" in rest and rest.endswith("/") else template


def merge(train: str, test: str) -> Pattern | None:
    """Return one pattern for two templates that differ in one stretch, `{split}`; None where that holds the id."""
    a, b = (re.findall(r"\{id\}|\*\*/|[^\W_]+|.", t) for t in (train, test))
    if a == b:
        return Pattern(train)
    front = _alike([a, b])
    back = _alike([a[front:][::-1], b[front:][::-1]])
    one, other = ("".join(t[front : len(t) - back]) for t in (a, b))
    if "{id}" in one + other or not one or not other:
        return None
    return Pattern("".join(a[:front]) + "{split}" + "".join(a[len(a) - back :]), one, other)


def several(patterns: list[Pattern]) -> Pattern:
    """Return one pattern for several files a row: channels, views or both; for copies in other folders the first."""
    first = patterns[0]
    texts = sorted((p.text for p in patterns if (p.train, p.test) == (first.train, first.test)), key=_natural)
    cells = [re.findall(r"\{\w+\}|\d+|[^\W\d_]+|.", t) for t in texts]
    if len({len(c) for c in cells}) == 1:
        slots = [i for i in range(len(cells[0])) if len({c[i] for c in cells}) > 1]
    else:
        front = _alike(cells)
        back = _alike([c[front:][::-1] for c in cells])
        cells = [[*c[:front], "".join(c[front : len(c) - back]), *c[len(c) - back :]] for c in cells]
        slots = [front]
    values = {i: list(dict.fromkeys(c[i] for c in cells)) for i in slots}
    marked = all(kind_of(values[i], cells[0][i - 1]) for i in slots if i < cells[0].index("{id}"))
    if not marked or len(slots) > 2 or len(list(product(*values.values()))) != len(cells):
        return replace(first, sure=False, note=f"every id has {len(texts)} images: {listed(texts, 4)}")
    kinds = {i: kind_of(values[i], cells[0][i - 1] if i else "") or "view" for i in slots}
    if len(slots) == 2 and len(set(kinds.values())) == 1:
        kinds = {slots[0]: "view", slots[1]: "channel"}
    text = list(cells[0])
    for i, kind in kinds.items():
        text[i] = f"{{{kind}}}"
    by_kind = {kind: tuple(in_order(values[i])) for i, kind in kinds.items()}
    sure = all(set(v) <= set(COLOURS) for v in by_kind.values())
    return Pattern("".join(text), first.train, first.test, by_kind.get("channel", ()), by_kind.get("view", ()), sure)


def kind_of(values: Sequence[str], mark: str) -> str:
    """Return whether files a row are channels (colours, c1, w1) or views (s1, slice2); "" where nothing tells."""
    if mark.lower() in VIEW_MARKS:
        return "view"
    return "channel" if mark.lower() in CHANNEL_MARKS or set(map(str.lower, values)) & set(COLOURS) else ""


def in_order(values: Sequence[str]) -> list[str]:
    """Return colours as red, green, blue, ...; other values by number, then by name."""
    if set(values) <= set(COLOURS):
        return sorted(values, key=COLOURS.index)
    return sorted(values, key=_natural)


def _alike(rows: list[list[str]]) -> int:
    """Return how many cells at the front are alike in all rows."""
    differ = (n for n, cells in enumerate(zip(*rows, strict=False)) if len(set(cells)) > 1)
    return next(differ, min(map(len, rows)))


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", text)]


def _no_image(table: pd.DataFrame, images: Sequence[str], name: str) -> str:
    column = str(table.columns[0])
    example = str(table[column].iloc[0]) if len(table) else ""
    return (
        f"{name}: no column holds names of images: {column!r} has for example {example!r}, "
        f"the nearest image is {_nearest(example, images)!r}: make ids and file names agree"
    )


def _nearest(i: str, images: Sequence[str]) -> str:
    names = list(dict.fromkeys(PurePosixPath(path).name for path in images))
    return get_close_matches(i, names[:5000], n=1, cutoff=0.0)[0]
