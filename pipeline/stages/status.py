"""Say of every run what is done, stale, half-way or broken."""

from __future__ import annotations

import argparse

from pipeline.store import graph
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import main
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import number, read_json
from pipeline.store.keys import current_key
from pipeline.store.receipts import damaged
from pipeline.store.runs import load_run
from pipeline.store.toml import parents, read_run


def state_of(run: str) -> tuple[str, str]:
    """Return a run's state (done, stale, partial, not run, broken) and what there is to say about it."""
    files = RunFiles(run)
    try:
        settings, _ = read_run(run)
        if not files.receipt.exists():
            load_run(run)  # says what is wrong with the config, before anybody waits for it
            done = len(files.fold_receipts())
            begun = done or files.state.exists()
            return ("partial", f"{done} fold(s) done") if begun else ("not run", str(settings.get("stage", "train")))
        receipt = read_json(files.receipt)
        broken = damaged(receipt)
        if broken:
            return "broken", f"{broken[0]} is not what the receipt says; delete {files.receipt} and make again"
        if receipt["key"] != current_key(run):
            return "stale", "its config, folds or members changed"
        for parent in parents(run, settings):
            if state_of(parent)[0] != "done":
                return "stale", f"{parent} is {state_of(parent)[0]}"
    except UserError as error:
        return "broken", str(error)
    except FileNotFoundError as error:
        return "stale", f"{error.filename} is missing"
    metrics = receipt["metrics"]
    known = read_json(files.submission_receipt) if files.submission_receipt.exists() else {}
    sent = ", submitted" if known.get("shelf_key") == receipt["key"] and files.submission.exists() else ""
    return "done", f"{metrics['metric']} {number(metrics['score']):.4f} +- {number(metrics['se']):.4f}{sent}"


def run(args: argparse.Namespace) -> None:
    """Print one line a run."""
    competition = args.competition or ""
    if competition and competition not in graph.competitions():
        raise UserError(f"no competition {competition!r}; {nearest(competition, graph.competitions())}")
    runs = [name for name in graph.runs() if competition in ("", name.split("/")[0])]
    if not runs:
        print("no run yet: write configs/<competition>/competition.toml and configs/<competition>/<name>.toml")
    for name in runs:
        state, why = state_of(name)
        print(f"{state:8} {name:{max(map(len, runs))}}  {why}")


if __name__ == "__main__":
    main(run, __doc__, "competition?")
