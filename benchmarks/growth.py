"""How time and memory of the stages grow, each in a process of its own: over rows, and of masks over images.

Nothing is trained: what models would have said is invented and laid on the shelves of two runs (see growth_shelves.py).
Rows are graded, a quarter as many are to be submitted; maps are of 96 x 96 pixels. Seconds are of the CPU, one thread;
a stage that has taken `--cap` of them is stopped. `submit` goes without its audit, which would find that nobody trained.
The tables go to the screen, the plot of both to growth.svg.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
os.environ |= {"WANDB_MODE": "disabled", "PODIUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
OF_ROWS = ("folds", "split", "ensemble", "cuts", "thresholds", "pseudo", "tag", "lb", "submit")
OF_IMAGES = ("folds", "ensemble", "pseudo", "tag", "lb", "submit")


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
    if done.returncode < 0:
        return None
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else []


def grow(kind: str, sizes: list[int], names: list[str], cap: float) -> dict[str, dict[int, list[float] | None]]:
    """Return seconds and MB by stage and size."""
    found: dict[str, dict[int, list[float] | None]] = {name: {} for name in names}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            call("--prepare", kind, n, "data")
            call("--measure", "folds", n) if "folds" not in names else None
            for name in names:
                found[name][n] = call("--measure", name, n, cap=cap)
                print(f"{kind} {n} {name}: {found[name][n]}", file=sys.stderr, flush=True)
                if name == "folds":
                    call("--prepare", kind, n, "shelves")
            os.chdir(HERE.parents[1])
    return found


def slope(sizes: list[int], values: list[float]) -> float:
    """Return the slope between the last two sizes on logarithmic axes."""
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2])) if len(values) > 1 else float("nan")


def table(title: str, sizes: list[int], found: dict[str, dict[int, list[float] | None]], cap: float) -> None:
    """Print seconds and MB of every stage, and the slopes over the last step."""
    print(f"| {title} | " + " | ".join(f"{n:,}" for n in sizes) + " | slope | MB more a step |\n|---" * 1, end="")
    print("|---" * (len(sizes) + 2) + "|")
    for name, by_size in found.items():
        ended = {n: v for n, v in by_size.items() if v is not None}
        cells = [f"{by_size[n][0]:.2f} s, {by_size[n][1]:.0f} MB" if n in ended else f"> {cap:.0f} s" for n in sizes]
        seconds = slope(list(ended), [v[0] for v in ended.values()])
        peaks = [v[1] for v in ended.values()]
        more = f"{peaks[-1] - peaks[-2]:+.0f}" if len(peaks) > 1 else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds:.2f} | {more} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, nargs="*", default=[50, 200, 800])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--cap", type=float, default=180)
    parser.add_argument("--prepare", nargs=3)
    parser.add_argument("--measure", nargs=2)
    args = parser.parse_args()
    if args.prepare:
        return prepare(args.prepare[0], int(args.prepare[1]), args.prepare[2])
    if args.measure:
        return measure(args.measure[0], int(args.measure[1]))
    for kind, sizes, names in (("rows", args.rows, OF_ROWS), ("images", args.images, OF_IMAGES)):
        if sizes:
            wanted = [name for name in names if not args.only or name in args.only]
            table(kind, sizes, grow(kind, sizes, wanted, args.cap), args.cap)


if __name__ == "__main__":
    main()
