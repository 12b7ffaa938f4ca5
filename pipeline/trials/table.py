"""What an ablation found: its rows, as a table for a person and as CSV, and the words that belong under it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.scoring.ablation import HOPELESS, POWER, Effect

COLUMNS = ("variant", "score", "se", "gain", "gain_se", "low", "high", "p", "p_holm", "verdict", "seeds", "epochs",
           "steps", "seconds", "memory_mb", "note")  # fmt: skip
STOPPED = "stopped after one seed"


@dataclass(frozen=True)
class Row:
    """A variant: its score over `seeds` and what it costs; its gain over the base, which has none itself."""

    name: str
    score: float
    se: float
    seeds: int
    epochs: int
    steps: int
    seconds: float
    memory: float
    effect: Effect | None = None
    p_holm: float = float("nan")
    verdict: str = ""
    note: str = ""

    def cells(self) -> dict[str, Any]:
        """Return the cells of the CSV and of the receipt."""
        found = self.effect or Effect(*[float("nan")] * 6)
        values = (self.name, self.score, self.se, found.gain, found.se, found.low, found.high, found.p, self.p_holm,
                  self.verdict, self.seeds, self.epochs, self.steps, round(self.seconds, 2),
                  round(self.memory / 2**20, 1), self.note)  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class Winner:
    """The variant that went furthest above the base, and what it gained where it was not chosen."""

    name: str
    effect: Effect
    chosen_at: float
    where: str


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return the base, then the variants from the largest gain to the smallest, failed ones last."""

    def place(row: Row) -> tuple[bool, float]:
        gain = math.inf if row.effect is None and not row.note else row.effect.gain if row.effect else -math.inf
        return math.isnan(gain), -gain

    return sorted(rows, key=place)


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV; what there is not is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in ordered(rows):
        cells = row.cells().values()
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells])
    return text.getvalue()


def lines(rows: Sequence[Row], winner: Winner | None) -> list[str]:
    """Return the table for a person; the gain of the winner is the one measured again."""
    base = next(row for row in rows if row.effect is None and not row.note)
    wide = max(len(row.name) for row in rows) + 2
    found = [
        f"{'variant':<{wide}} {'score':>7} {'se':>6} {'gain':>8}  {'95 % interval':<18} {'p holm':>6}"
        f"  {'time':>5} {'MB':>6}  verdict"
    ]
    for row in ordered(rows):
        mark = winner is not None and row.name == winner.name
        shown = winner.effect if winner is not None and mark else row.effect
        gain, between, p = "", "", ""
        if shown is not None:
            gain, between = f"{shown.gain:+.4f}", f"[{shown.low:+.4f}, {shown.high:+.4f}]"
            p = _number(row.p_holm, ".3f")
        again = f"measured again: {winner.effect.confirmed}" if winner is not None and mark else ""
        told = "; ".join(filter(None, (row.verdict, again, row.note)))
        found.append(
            f"{row.name + ('*' if mark else ''):<{wide}} {_number(row.score, '.4f'):>7} {_number(row.se, '.4f'):>6} "
            f"{gain:>8}  {between:<18} {p:>6}  {_number(row.seconds / base.seconds, '.2f'):>5} "
            f"{_number(row.memory / 2**20, '.0f'):>6}  {told}"
        )
    return found


def _number(value: float, how: str) -> str:
    return "" if math.isnan(value) else f"{value:{how}}"


def notes(rows: Sequence[Row], winner: Winner | None, steps: int, smallest: float) -> list[str]:
    """Return what must be known to read the table."""
    tried = [row for row in rows if row.effect is not None]
    found = [
        "score: mean over seeds, out of fold; gain: over the base, paired, by rows (groups) and seeds; p: Holm over "
        f"{len(tried)} variants; time: of a fit and its predictions, against the base",
        f"smallest gain that {POWER:.0%} of such ablations would show: {smallest:.4f}",
        f"all took {steps} steps (to whole epochs): a short schedule flatters no augmentation and punishes mixup, "
        "cutmix and strong recipes, which pay late; a verdict is of this length alone",
    ]
    if any(STOPPED in row.note for row in rows):
        found.append(
            f"{STOPPED}: it lies so far below the base that of variants as good as the base, and as noisy, one in "
            f"{1 / HOPELESS:,.0f} would be stopped"
        )
    if winner is None:
        found.append("no variant is above the base: nothing to measure again")
    else:
        e = winner.effect
        found.append(
            f"* {winner.name} gains {e.gain:+.4f} [{e.low:+.4f}, {e.high:+.4f}] {winner.where}: {e.confirmed}; "
            f"it was chosen at {winner.chosen_at:+.4f}, and the best of {len(tried)} flatters itself"
        )
    return found
