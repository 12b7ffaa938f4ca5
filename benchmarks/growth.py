"""How time and memory of the stages grow, each in a process of its own: over rows, and of masks over images.

Nothing is trained: what models would have said is invented and laid on the shelves of two runs (see growth_shelves.py).
Rows are graded, a quarter as many are to be submitted; maps are of 96 x 96 pixels. Seconds are of the CPU, one thread;
a stage that has taken `--cap` of them is stopped. `submit` goes without its audit, which would find that nobody trained.
What was measured is kept in cache/growth.json; the tables go to the screen, the plot of both to growth.svg.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from growth_plot import Line, draw, slope

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
os.environ |= {"WANDB_MODE": "disabled", "PODIUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
OF_ROWS = ("folds", "split", "ensemble", "cuts", "thresholds", "pseudo", "tag", "lb", "submit")
OF_IMAGES = ("folds", "ensemble", "pseudo", "tag", "lb", "submit")
Found = dict[int, list[float] | None]


def prepare(kind: str, n: int, part: str) -> None:
    """Write the raw data, or once there are folds the shelves."""
    import growth_shelves as shelves

    made = {"rows": (shelves.invent_rows, shelves.lay_rows), "images": (shelves.invent_images, shelves.lay_maps)}
    if part == "data":
        made[kind][0](n)
        run("data")
    else:
        made[kind][1]()


def run(name: str) -> None:
    """Run a stage."""
    from importlib import import_module

    stage = import_module(f"pipeline.stages.{name}")
    if name == "submit":
        stage.refuse_leaks = lambda run: None
    stage.run(argparse.Namespace(run="grow/one" if name == "submit" else f"grow/{name}", competition="grow"))


def split(n: int) -> Callable[[], object]:
    """Divide `n` rows with 28 labels of power-law frequency."""
    from pipeline.scoring.split import assign

    labels = np.random.default_rng(0).random((n, 28)) < 0.5 / np.arange(1, 29)
    return lambda: assign("multilabel", labels, np.arange(n), 5, 0)


def cuts(n: int) -> Callable[[], object]:
    """Fit the cut points of five grades for kappa, cross-fitted, with the standard error."""
    y = np.random.default_rng(0).integers(0, 5, n)
    return scored("ordinal", "quadratic_kappa", 5, y, y[:, None] + 0.8 * np.random.default_rng(1).normal(size=(n, 1)))


def thresholds(n: int) -> Callable[[], object]:
    """Fit the thresholds of ten labels for F1, cross-fitted, with the standard error."""
    y = np.random.default_rng(0).random((n, 10)) < 0.4 / np.arange(1, 11)
    z = 2 * y - 1 + 1.5 * np.random.default_rng(1).normal(size=y.shape)
    return scored("multilabel", "f1_macro", 10, y.astype(float), 1 / (1 + np.exp(-z)))


def scored(task: str, metric: str, classes: int, y: np.ndarray, p: np.ndarray) -> Callable[[], object]:
    from pipeline.scoring.metrics import METRICS
    from pipeline.scoring.problem import Problem
    from pipeline.scoring.report import score_run
    from pipeline.tasks import TASKS

    problem = Problem(TASKS[task], METRICS[metric], classes, y, np.arange(len(y)) % 5, None)
    return lambda: score_run(problem, p.astype(np.float32), "optimal", lambda k: p)


def measure(name: str, n: int) -> None:
    """Run a stage, or arithmetic alone, in this process and print CPU seconds and the peak of memory (MB)."""
    alone = {"split": split, "cuts": cuts, "thresholds": thresholds}
    work = alone[name](n) if name in alone else lambda: run(name)
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def call(*arguments: object, cap: float | None = None) -> list[float] | None:
    """Run this script in a process of its own; None where it took more than `cap` seconds of CPU."""

    def limit() -> None:
        if cap is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(cap), int(cap) + 5))

    command = [sys.executable, str(HERE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    if done.returncode == -signal.SIGXCPU:
        return None
    if done.returncode:
        sys.exit(f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else []


def grow(kind: str, sizes: list[int], names: Sequence[str], cap: float, known: Path) -> dict[str, Found]:
    """Return seconds and MB by stage and size; those that a file knows are not measured again."""
    kept: dict[str, list[float] | None] = json.loads(known.read_text()) if known.exists() else {}
    for n in sizes:
        if all(f"{kind} {name} {n}" in kept for name in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            call("--prepare", kind, n, "data")
            for name in dict.fromkeys(("folds", *names)):
                if name == "folds" or f"{kind} {name} {n}" not in kept:
                    kept[f"{kind} {name} {n}"] = call("--measure", name, n, cap=cap)
                    known.write_text(json.dumps(kept, indent=1))
                    print(f"{kind} {n} {name}: {kept[f'{kind} {name} {n}']}", file=sys.stderr, flush=True)
                if name == "folds":
                    call("--prepare", kind, n, "shelves")
            os.chdir(ROOT)
    return {name: {n: kept[f"{kind} {name} {n}"] for n in sizes} for name in names}


def table(title: str, sizes: list[int], found: dict[str, Found], cap: float) -> None:
    """Print seconds and MB of every stage, with both slopes over the last step that it ended."""
    print(f"\n| {title} | " + " | ".join(f"{n:,}" for n in sizes) + " | slope of time | of memory |")
    print("|---" * (len(sizes) + 3) + "|")
    for name, by_size in found.items():
        cells = [f"{v[0]:.2f} s, {v[1]:.0f} MB" if (v := by_size[n]) else f"> {cap:.0f} s" for n in sizes]
        slopes = [f"{slope(line(by_size, i)):.2f}" for i in (0, 1)]
        print(f"| {name} | " + " | ".join([*cells, *slopes]) + " |")


def line(by_size: Found, i: int) -> Line:
    """Return the points of what ended: seconds (0) or MB (1)."""
    return [(float(n), max(v[i], 1e-3)) for n, v in by_size.items() if v is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, nargs="*", default=[50, 200, 800])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--cap", type=float, default=180)
    parser.add_argument("--keep", type=Path, default=ROOT / "cache" / "growth.json")
    parser.add_argument("--prepare", nargs=3)
    parser.add_argument("--measure", nargs=2)
    args = parser.parse_args()
    if args.prepare:
        return prepare(args.prepare[0], int(args.prepare[1]), args.prepare[2])
    if args.measure:
        return measure(args.measure[0], int(args.measure[1]))
    args.keep.parent.mkdir(exist_ok=True)
    panels = {}
    for kind, sizes, names in (("rows", args.rows, OF_ROWS), ("images", args.images, OF_IMAGES)):
        wanted = [name for name in names if not args.only or name in args.only]
        if sizes and wanted:
            found = grow(kind, sizes, wanted, args.cap, args.keep)
            table(kind, sizes, found, args.cap)
            for i, unit in enumerate(("CPU seconds", "peak MB")):
                panels[f"{unit} over {kind}"] = {k: points for k, v in found.items() if len(points := line(v, i)) > 1}
    HERE.with_suffix(".svg").write_text(draw(panels))


if __name__ == "__main__":
    main()
