"""Prove that nothing a run rests on saw the labels it is scored on: parent by parent, fold by fold."""

from __future__ import annotations

import argparse
import sys

from pipeline.store.artifacts import RunFiles
from pipeline.store.command import main
from pipeline.store.shelves import require_shelf


def run(args: argparse.Namespace) -> None:
    """Print the lineage of a run with proved levels and the verdict; exit with 1 and the chains where it leaks."""
    if not RunFiles(args.run).receipt.exists():
        require_shelf(args.run, "run")  # says so, before pandas and scipy are imported
    from pipeline.audit.refit import refit
    from pipeline.audit.report import audit

    report = audit(args.run, refit)
    print("\n".join(report.tree))
    for what in report.outside:
        print(f"cannot be audited: {what}")
    for finding in report.findings:
        print(f"not honest: {finding}")
    if report.findings:
        sys.exit(1)
    print(f"OK: {', '.join(f'{count} {what}' for what, count in report.counts.items())}; nothing saw what it must not")


if __name__ == "__main__":
    main(run, __doc__, "run")
