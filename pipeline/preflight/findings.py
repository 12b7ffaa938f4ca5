"""What a check says: what was seen, what was to be expected, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

OK, LOOK, BROKEN = "ok", "look", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the verdict; `points` (x, y) are a curve for the page, of which `axes` name the two axes."""

    name: str
    verdict: str
    seen: str
    advice: str = ""
    points: Sequence[tuple[float, float]] = field(default=(), repr=False)
    axes: tuple[str, str] = ("", "")

    @property
    def to_do(self) -> str:
        """Return the advice where there is something to do."""
        return "" if self.verdict == OK else self.advice


def judged(value: float, look: float, broken: float) -> str:
    """Return the verdict of a value that should be low; what is not a number is broken."""
    return OK if value <= look else LOOK if value <= broken else BROKEN


def worse(*verdicts: str) -> str:
    """Return the worst of some verdicts."""
    return max(verdicts, key=(OK, LOOK, BROKEN).index, default=OK)


def in_lines(findings: Sequence[Finding]) -> list[str]:
    """Return the table of verdicts, advice under what is not ok."""
    wide, lines = max((len(finding.name) for finding in findings), default=0), []
    for finding in findings:
        lines.append(f"{finding.verdict:6}  {finding.name:{wide}}  {finding.seen}")
        if finding.to_do:
            lines.append(f"{'':6}  {'':{wide}}  -> {finding.to_do}")
    return lines
