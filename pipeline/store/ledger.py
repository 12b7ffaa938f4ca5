"""The ledger of submissions: one committed CSV of what was believed and what came."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, fields, replace

from pipeline.store.artifacts import LEDGER, LEDGER_LOCK
from pipeline.store.errors import UserError
from pipeline.store.files import lock, write_text


@dataclass(frozen=True)
class Row:
    """One submitted file; NaN where a score is not known (yet).

    `predicted` is the public score that an `lb` run foretold, `low` and `high` its 90 % interval.
    """

    run: str
    hash: str
    time: str
    metric: str
    cv: float
    se: float
    fold_sd: float
    fold_map: str = ""
    predicted: float = math.nan
    low: float = math.nan
    high: float = math.nan
    public: float = math.nan
    private: float = math.nan

    @property
    def surprise(self) -> bool:
        """Say whether the public score lies outside the interval that was foretold: a leak, or a shift."""
        return self.public < self.low or self.public > self.high


def read() -> list[Row]:
    """Return the rows, oldest first."""
    if not LEDGER.exists():
        return []
    with open(LEDGER, encoding="utf-8", newline="") as handle:
        found = list(csv.DictReader(handle))
    try:
        return [_row(cells) for cells in found]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{LEDGER} is damaged ({error}): restore it with git checkout {LEDGER}") from error


def enter(row: Row) -> None:
    """Add a row; the same file of the same run keeps its first time and the scores it has."""
    with lock(LEDGER_LOCK, "the ledger"):
        rows = read()
        for at, old in enumerate(rows):
            if (old.run, old.hash, old.metric) == (row.run, row.hash, row.metric):
                known = {n: getattr(old, n) for n in ("public", "private") if math.isnan(getattr(row, n))}
                rows[at] = replace(row, time=old.time, **known)
                break
        else:
            rows.append(row)
        _write(rows)


def _newest(run: str, rows: list[Row]) -> int:
    """Return the place of the newest row of a run."""
    for at in range(len(rows) - 1, -1, -1):
        if rows[at].run == run:
            return at
    raise UserError(f"{LEDGER} has no submission of {run!r}: run make submit first")


def record(run: str, scores: dict[str, float]) -> Row:
    """Set scores of the newest row of a run by hand; return the row as it was."""
    with lock(LEDGER_LOCK, "the ledger"):
        rows = read()
        at = _newest(run, rows)
        old = rows[at]
        rows[at] = _row({**_cells(old), **{name: repr(value) for name, value in scores.items()}})
        _write(rows)
        return old


def looks(competition: str) -> int:
    """Return how many different files of a competition have been scored on its private labels."""
    return len({row.hash for row in read() if row.run.startswith(f"{competition}/") and not math.isnan(row.private)})


def _write(rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(_cells(row))
    write_text(LEDGER, text.getvalue())


def _row(cells: dict[str, str]) -> Row:
    texts = {name: cells[name] for name in ("run", "hash", "time", "metric")}
    numbers = {name: float(cells[name] or "nan") for name in ("cv", "se", "fold_sd", "public", "private")}
    # Rows of before these were kept have none.
    numbers |= {name: float(cells.get(name) or "nan") for name in ("predicted", "low", "high")}
    return Row(**texts, **numbers, fold_map=cells.get("fold_map", ""))  # type: ignore[arg-type]


def _cells(row: Row) -> dict[str, str]:
    return {k: ("" if math.isnan(v) else f"{v:.6g}") if isinstance(v, float) else v for k, v in asdict(row).items()}
