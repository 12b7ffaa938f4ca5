"""The register of techniques: `techniques.toml`, its table in docs/TECHNIQUES.md, and which tests prove it.

`python -m pipeline.store.register` prints the table, `python -m pipeline.store.register proofs` the proofs.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.errors import UserError
from pipeline.store.section import Count, Section, validate
from pipeline.store.toml import read_toml

REGISTER = Path("techniques.toml")
ROOMS = {
    "A": "Data, folds, clusters, shift",
    "B": "Networks and layers",
    "C": "Training",
    "D": "Unlabelled data, distillation, adaptation",
    "E": "Prediction, ensembles, post-processing",
    "F": "Protocol, tracking",
    "L": "The leaderboard and difficulty",
}
HEAD = """<!-- written from techniques.toml by `python -m pipeline.store.register > docs/TECHNIQUES.md` -->
# Techniques

Every technique of the ledger that this project grew from: the switch that turns it on, the stage that does it, tests
that fail without it (`make proofs` runs them), and its effect where it was measured, also where there is none.

"""


class Effect(Section):
    """What was measured: of what, how much, its standard error over `n` (rows, seeds, splits: `where` says)."""

    of: str
    effect: float
    se: Annotated[float, Field(ge=0)] | None = None
    n: Count
    where: str

    def in_words(self) -> str:
        """Return it for a person."""
        error = "" if self.se is None else f" +- {self.se:.3g}"
        return f"{self.of}: **{self.effect:.4g}**{error} (n = {self.n:,}; {self.where})"


class Technique(Section):
    """One row of the register; `reason` is what it lacks, or why it is not there ("planned: ..." what is to come)."""

    name: str
    priority: Literal["core", "expected", "extra"]
    switch: list[str] = Field(default_factory=list)
    stage: list[str] = Field(default_factory=list)
    proof: list[str] = Field(default_factory=list)
    status: Literal["works", "partial", "left out"]
    reason: str = ""
    measured: list[Effect] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Technique:
        if self.status != "works" and not self.reason:
            raise ValueError(f"status = {self.status!r} needs a reason")
        if self.status == "left out" and (self.switch or self.stage or self.proof):
            raise ValueError('status = "left out" has no switch, stage or proof')
        if self.status != "left out" and not (self.stage and self.proof):
            raise ValueError(f"status = {self.status!r} needs a stage and a proof")
        return self

    @property
    def planned(self) -> bool:
        """Say whether it is still to be built."""
        return self.status != "works" and self.reason.startswith("planned")


def read_register(path: Path = REGISTER) -> dict[str, Technique]:
    """Return every technique by the id of its row."""
    return {row: validate(Technique, settings, Path(f"{path} [{row}]")) for row, settings in read_toml(path).items()}


def proofs(register: dict[str, Technique]) -> list[str]:
    """Return the pytest ids of all proofs, each once."""
    return list(dict.fromkeys(proof for technique in register.values() for proof in technique.proof))


def counts(register: dict[str, Technique]) -> list[str]:
    """Return how many techniques of each priority have which status, as lines of a table."""
    lines = ["| | works | partial | left out |", "|---|---|---|---|"]
    for priority in ("core", "expected", "extra"):
        found = Counter(technique.status for technique in register.values() if technique.priority == priority)
        lines.append(f"| {priority} | {found['works']} | {found['partial']} | {found['left out']} |")
    return lines


def _cell(parts: list[str]) -> str:
    return "<br>".join(parts).replace("|", "\\|")


def _line(row: str, technique: Technique) -> str:
    switches = [f"`{switch}`" for switch in technique.switch]
    if technique.status != "left out" and not switches:
        switches = ["always on"]
    status = f"**{technique.status}**" if technique.status == "works" else technique.status
    told = [status, *([technique.reason] if technique.reason else [])]
    cells = [row, technique.name, _cell(told), _cell(switches), ", ".join(technique.stage)]
    cells += [_cell([effect.in_words() for effect in technique.measured])]
    cells += [_cell([f"`{proof.removeprefix('tests/')}`" for proof in technique.proof])]
    return f"| {' | '.join(cells)} |"


def table(register: dict[str, Technique]) -> str:
    """Return the page docs/TECHNIQUES.md."""
    lines = counts(register)
    for letter, title in ROOMS.items():
        lines += ["", f"## {letter}. {title}", "", "| | technique | status | switch | stage | measured | proofs |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_line(row, technique) for row, technique in register.items() if row[0] == letter]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        known = read_register()
    except UserError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(proofs(known)) if sys.argv[1:] == ["proofs"] else table(known), end="")
