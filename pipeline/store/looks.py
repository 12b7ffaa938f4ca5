"""Looks at the holdout of a competition: one committed CSV, a line for each different file scored on it."""

from __future__ import annotations

import csv
import io
from typing import Any

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.files import lock, write_text

COLUMNS = ("run", "predictions", "metric", "score", "se")


def look(files: CompetitionFiles, run: str, predictions: str, metric: str, scored: dict[str, Any]) -> int:
    """Enter a look at the holdout by predictions of some hash; return how many different ones there were by then."""
    with lock(files.looks_lock, f"the looks at the holdout of {files.name}"):
        text = files.looks.read_text(encoding="utf-8") if files.looks.exists() else ",".join(COLUMNS) + "\n"
        known = [row["predictions"] for row in csv.DictReader(io.StringIO(text))]
        if predictions not in known:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow([run, predictions, metric, scored["score"], scored["se"]])
            write_text(files.looks, text + line.getvalue())
            known.append(predictions)
        return len(dict.fromkeys(known))
