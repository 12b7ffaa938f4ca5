"""What was found of a competition, in words that a person can check, and as a contract."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store.toml import literal

WIDTH = 110
TOP = ["task", "metric", "train", "test", "id", "target", "separator", "classes", "weight", "unlabelled"]
SECTIONS = ["images", "masks", "metadata", "group", "folds", "submission"]


@dataclass(frozen=True)
class Finding:
    """One inference: the key it sets (dotted; value None: only said), what it is and why, and whether that is sure."""

    key: str
    value: Any
    words: str
    sure: bool = True

    def __str__(self) -> str:
        """Return it as a sentence, marked where it wants a look."""
        return self.words if self.sure else f"{self.words} (uncertain: check this)"


def value_of(findings: Sequence[Finding], key: str, default: Any = None) -> Any:
    """Return what a key was found to be."""
    return next((f.value for f in findings if f.key == key and f.value is not None), default)


def settings(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the contract as a nested table, as TOML would give it."""
    found: dict[str, Any] = {}
    for finding in findings:
        if finding.value is not None:
            section, _, name = finding.key.rpartition(".")
            (found.setdefault(section, {}) if section else found)[name] = finding.value
    return found


def to_toml(title: Sequence[str], findings: Sequence[Finding]) -> str:
    """Return the contract: every key under the words that explain it."""
    lines = [f"# {part}" for line in title for part in textwrap.wrap(line, WIDTH)]
    by_section: dict[str, list[Finding]] = {}
    for finding in findings:
        by_section.setdefault(finding.key.rpartition(".")[0], []).append(finding)
    for section in ["", *SECTIONS]:
        found = by_section.get(section, [])
        if section and any(f.value is not None for f in found):
            lines += ["", f"[{section}]"]
        for finding in sorted(found, key=_place):
            name = finding.key.rpartition(".")[2]
            said = str(finding) if finding.value is not None else f"{finding.key}: {finding}"
            lines += [f"# {line}" for line in textwrap.wrap(said, WIDTH, break_on_hyphens=False)]
            if finding.value is not None:
                lines.append(f"{name} = {literal(finding.value)}")
    return "\n".join(lines) + "\n"


def _place(finding: Finding) -> int:
    return TOP.index(finding.key) if finding.key in TOP else len(TOP)
