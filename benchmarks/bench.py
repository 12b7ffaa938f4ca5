"""Ours beside a named peer, in turns, in one process; `make bench` runs every script and writes the table of README.

A script of this folder that races gives `rows()`, an iterator of `Row`, and ends with `if __name__ == "__main__": main(rows)`.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
PEERS = (
    "iterative-stratification",
    "scikit-learn",
    "scipy",
    "pycocotools",
    "opencv-python-headless",
    "albumentations",
    "timm",
    "lightning",
    "torch",
    "numpy",
    "wandb",
)
START, END = "<!-- bench: written by make bench -->", "<!-- /bench -->"


@dataclass(frozen=True)
class Row:
    """What one race found: medians of `n` alternating runs in `unit`, how many times better ours is, what was wanted.

    `good`: whether the result was as good as the peer's; `note` says how both compare.
    """

    part: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    target: float
    n: int
    note: str = ""
    good: bool = True
    unit: str = "s"

    @property
    def met(self) -> bool:
        return self.good and self.ratio >= self.target


def race(
    part: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    target: float,
    n: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    share: float = 1.0,
    warm: bool = True,
    before: Callable[[], Any] = lambda: None,
) -> tuple[Row, Any, Any]:
    """Return the row (seconds; ratio = the median of the n ratios) and what both gave last, after one unmeasured turn.

    `share`: how much of the work `theirs` does, where all of it would take minutes; its time is divided by that, and a
    note must say so. Without `warm` there is no unmeasured turn. `before` runs unmeasured before each side: it reads
    the input where a turn takes seconds, as a virtual machine puts away pages that nobody reads meanwhile.
    """
    mine, his = (ours(), theirs()) if warm else (None, None)
    times: list[tuple[float, float]] = []
    for _ in range(n):
        before()
        start = clock()
        mine = ours()
        taken = clock() - start
        before()
        start = clock()
        his = theirs()
        times.append((taken, (clock() - start) / share))
    return row_of(part, peer, times, target), mine, his


def row_of(part: str, peer: str, times: Sequence[tuple[float, float]], target: float) -> Row:
    """Return the row of pairs of times, ours and the peer's."""
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(part, peer, a, b, statistics.median(y / x for x, y in times), target, len(times))


def told(value: float, unit: str) -> str:
    """Return a quantity with a unit that suits its size."""
    if unit != "s" or value >= 1 or value == 0:
        return f"{value:.3g} {unit}"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def line(row: Row) -> str:
    verdict = "met" if row.met else "short" if row.good else "short (result)"
    ratio = f"{row.ratio:.3g}" if row.ratio < 1000 else f"{row.ratio:,.0f}"
    sides = f"{told(row.ours, row.unit)} | {told(row.theirs, row.unit)} | {ratio}x | >= {row.target:g}x"
    return f"| {row.part} | {row.peer} | {sides} | {row.n} | {verdict} | {row.note} |"


def main(rows: Callable[[], Iterable[Row]]) -> None:
    """Print the rows of one script; with --json also a line of JSON each, for `make bench`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    for row in rows():
        print(json.dumps(asdict(row)) if as_json else line(row), flush=True)


def machine() -> str:
    """Return one line: cores, processor, versions of what races."""
    cpu = (
        next(
            (
                s.split(":")[1].strip()
                for s in Path("/proc/cpuinfo").read_text().splitlines()
                if s.startswith("model name")
            ),
            platform.machine(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, " + ", ".join(versions())


def versions() -> Iterator[str]:
    for name in PEERS:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} not installed"


def everything(names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Run each script that races (or those named) in a process of its own; return all rows, and the scripts that failed."""
    found, failed = [], []
    for script in sorted(HERE.glob("*.py")):
        if "main(rows)" not in script.read_text() or script.name == Path(__file__).name:
            continue
        if names and script.stem not in names:
            continue
        print(f"{script.name} ...", file=sys.stderr, flush=True)
        # One core each unless told otherwise: nothing is hidden in how many there are.
        env = {"OMP_NUM_THREADS": "1", **os.environ}
        done = subprocess.run([sys.executable, str(script), "--json"], stdout=subprocess.PIPE, text=True, env=env)
        lines = [Row(**json.loads(text)) for text in done.stdout.splitlines() if text.startswith("{")]
        print("\n".join(line(row) for row in lines), flush=True)
        found += lines
        if done.returncode:
            failed.append(f"{script.name} failed with exit status {done.returncode}")
    return found, failed


def write(lines: list[str]) -> None:
    """Put the lines into the table between the marks in README.md: in the place of those of the same part and peer."""
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    if START not in text:
        sys.exit(f"README.md has no line {START!r}")
    head = ["| part | peer | ours | peer's | ratio | target | n | | results |", "|---|---|---|---|---|---|---|---|---|"]
    old = text.split(START)[1].split(END)[0].splitlines()
    table = {race_of(each): each for each in old if each.startswith("| ") and each not in head}
    table |= {race_of(each): each for each in lines}
    new = "\n".join([START, machine(), "", *head, *table.values(), END])
    readme.write_text(re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: new, text, flags=re.DOTALL))


def race_of(line: str) -> tuple[str, ...]:
    """Return the part and the peer of a line of the table."""
    return tuple(line.split(" | ")[:2])


if __name__ == "__main__":
    rows, failed = everything(sys.argv[1:])
    write([line(row) for row in rows])
    sys.exit("\n".join(failed) or None)
