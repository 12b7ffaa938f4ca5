"""The user's mistakes, and plug points that name the nearest match."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake the user can mend: one line that says what is wrong, where, and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return the tail of an error message that names the nearest match and the choices."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    listed = ", ".join(known[:30]) + (", ..." if len(known) > 30 else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"choices: {listed}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names for a sentence, the first few of many."""
    return ", ".join(map(repr, names[:most])) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def resolve(table: Mapping[str, T], name: str, what: str) -> T:
    """Look `name` up in a plug table; a name with a colon is an import path `module:attribute`."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise UserError(f"unknown {what} {name!r}; {nearest(name, table)}")
    module, _, attribute = name.partition(":")
    try:
        found: T = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{what} {name!r} cannot be imported: {error}") from error
    return found
