"""Convex log-loss weights: ours against scipy SLSQP as people write it (numeric gradient, the full N M C tensor)."""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.scoring.convex import convex
from pipeline.scoring.metrics import METRICS
from pipeline.tasks import TASKS

TASK, METRIC = TASKS["multiclass"], METRICS["log_loss"]


def members(rows, count, classes):
    """Return targets and correlated softmax members of differing quality."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows)
    shared = 2 * np.eye(classes)[y] + rng.normal(size=(rows, classes))
    made = []
    for noise in np.linspace(0.5, 2.5, count):
        z = np.exp(shared + noise * rng.normal(size=(rows, classes)))
        made.append(z / z.sum(1, keepdims=True))
    return y, made


def slsqp(y, tensor):
    m, rows = tensor.shape[1], np.arange(len(y))

    def loss(w):
        blend = np.einsum("nmc,m->nc", tensor, w)
        return -np.log(np.clip(blend[rows, y], 1e-15, 1)).mean()

    total = {"type": "eq", "fun": lambda w: w.sum() - 1}
    return minimize(loss, np.full(m, 1 / m), method="SLSQP", bounds=[(0, 1)] * m, constraints=total).x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--classes", type=int, default=10)
    args = parser.parse_args()
    y, made = members(args.rows, args.members, args.classes)
    tensor, weights, seconds = np.stack(made, axis=1), {}, {"convex": [], "SLSQP": []}
    for _ in range(args.runs):
        start = time.perf_counter()
        weights["convex"], gap = convex(TASK, y, made)
        middle = time.perf_counter()
        weights["SLSQP"] = slsqp(y, tensor)
        seconds["convex"].append(middle - start)
        seconds["SLSQP"].append(time.perf_counter() - middle)
    cpu = next((s[13:] for s in Path("/proc/cpuinfo").read_text().split("\n") if s[:10] == "model name"), "unknown CPU")
    print(f"M={args.members} N={args.rows} C={args.classes}; median (range) of {args.runs} alternating runs")
    print(f"{cpu}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, ", end="")
    print(f"numpy {np.__version__}, scipy {scipy.__version__}\n")
    print(f"{'solver':8} {'seconds':>9} {'range':>15} {'log loss':>14} {'gap':>9}")
    for name, took in seconds.items():
        spread = f"{min(took):.3f}-{max(took):.3f}"
        loss = METRIC(TASK, y, np.einsum("nmc,m->nc", tensor, weights[name] / weights[name].sum()), np.zeros(0))
        certified = f"{gap:.1e}" if name == "convex" else "-"
        print(f"{name:8} {statistics.median(took):9.3f} {spread:>15} {loss:14.10f} {certified:>9}")
    ratio = statistics.median(seconds["SLSQP"]) / statistics.median(seconds["convex"])
    print(f"\nratio {ratio:.0f}x; gap <= 1e-9: {'met' if gap <= 1e-9 else 'MISSED'}; ", end="")
    print(f"ratio >= 100x: {'met' if ratio >= 100 else 'MISSED'}")


if __name__ == "__main__":
    main()
