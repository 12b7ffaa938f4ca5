"""Print every submission with what was believed (CV) and what came; PUBLIC= and PRIVATE= record a score by hand."""

from __future__ import annotations

import argparse
import math
import os

from pipeline.store import ledger
from pipeline.store.command import main
from pipeline.store.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Record scores given in the environment, then print the table."""
    scores = {}
    for name in ("public", "private"):
        value = os.environ.get(name.upper(), "")
        if value:
            try:
                scores[name] = float(value)
            except ValueError:
                raise UserError(f"{name.upper()}={value} is not a number") from None
            if not math.isfinite(scores[name]):
                raise UserError(f"{name.upper()}={value} is not a finite number")
    if scores:
        if "/" not in (args.run or ""):
            raise UserError("say which submission: make ledger COMP=... NAME=... PUBLIC=0.91")
        old = ledger.record(args.run, scores)
        for name, score in scores.items():
            print(f"{args.run}: {name} {score}, was {getattr(old, name)}")
    competition = (args.run or "").split("/")[0]
    rows = [row for row in ledger.read() if competition in ("", row.run.split("/")[0])]
    if not rows:
        print("no submission yet: make submit COMP=... NAME=...")
        return
    width = max(len(row.run) for row in rows)
    head = f"{'time':19}  {'file':8}  {'metric':18} {'cv':>8}  {'se':>6}  {'fold sd':>7}  {'foretold':>17}"
    head += f"  {'public':>8} {'private':>8}"
    print(f"{'run':{width}}  {head}")
    for row in rows:
        public, private = (f"{v:8.4f}" if not math.isnan(v) else f"{'-':>8}" for v in (row.public, row.private))
        foretold = "-" if math.isnan(row.low) else f"{row.low:.4f} .. {row.high:.4f}"
        numbers = f"{row.cv:8.4f}  {row.se:6.4f}  {row.fold_sd:7.4f}  {foretold:>17}  {public} {private}"
        numbers += "  outside what was foretold: a leak, or a shift" if row.surprise else ""
        print(f"{row.run:{width}}  {row.time:19}  {row.hash[:8]}  {row.metric:18} {numbers}")


if __name__ == "__main__":
    main(run, __doc__, "run?")
