"""Thresholds and cut points: ours against the rounder by Nelder-Mead and the grid of scikit-learn's F1."""

from dataclasses import replace

import numpy as np
import pandas as pd
from bench import main, race
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score, f1_score

from pipeline.scoring.cuts import optimal_cuts
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

GRID, TIMED = np.arange(1, 100) / 100, 4


def problem(task, metric, classes, y):
    return Problem(TASKS[task], METRICS[metric], classes, y, np.zeros(len(y), np.int64), None)


def graded(rows):
    """Return grades with the shares of a retinopathy set, and predictions that are too narrow."""
    rng = np.random.default_rng(0)
    y = rng.choice(5, rows, p=[0.49, 0.10, 0.27, 0.06, 0.08])
    return y, (0.8 * y + 0.3 + 0.5 * rng.normal(size=rows))[:, None]


def labelled(rows, width):
    """Return labels of falling rates and probabilities that are too low."""
    rng, rates = np.random.default_rng(0), np.arange(1, width + 1) ** -1.3
    y = (rng.random((rows, width)) < np.minimum(1.7 * rates / rates.sum(), 0.6)).astype(np.int64)
    return y, 1 / (1 + np.exp(3 - 2.5 * y - 1.2 * rng.normal(size=y.shape)))


def rounder(y, p):
    """The OptimizedRounder that goes from notebook to notebook."""

    def loss(cuts):
        said = pd.cut(p, [-np.inf, *np.sort(cuts), np.inf], labels=[0, 1, 2, 3, 4])
        return -cohen_kappa_score(y, said, weights="quadratic")

    return np.sort(minimize(loss, [0.5, 1.5, 2.5, 3.5], method="nelder-mead").x)


def grid(y, p):
    """Return the best of 99 thresholds of each label by scikit-learn's F1."""
    return [GRID[np.argmax([f1_score(t, q > cut) for cut in GRID])] for t, q in zip(y.T, p.T, strict=True)]


def rows():
    y, p = graded(100_000)
    asked = problem("ordinal", "quadratic_kappa", 5, y)
    row, mine, his = race(
        "kappa cut points, 100k rows",
        "OptimizedRounder (Nelder-Mead)",
        lambda: optimal_cuts(asked, p),
        lambda: rounder(y, p[:, 0]),
        100,
    )
    ours, theirs = asked.score(p, mine), asked.score(p, his)
    yield replace(
        row, good=bool(ours >= theirs), note=f"kappa on the rows that are fitted {ours:.6f}, the peer's {theirs:.6f}"
    )
    y, p = labelled(31_000, 28)
    asked = problem("multilabel", "f1_macro", 28, y)
    row, mine, _ = race(
        "F1 thresholds, 31k rows x 28 labels",
        "scikit-learn f1_score on a grid of 99",
        lambda: optimal_cuts(asked, p),
        lambda: grid(y[:, :TIMED], p[:, :TIMED]),
        300,
        share=TIMED / 28,
        warm=False,
    )
    ours, theirs = (
        np.array([f1_score(t, q > c) for t, q, c in zip(y.T, p.T, cut, strict=True)]) for cut in (mine, grid(y, p))
    )
    note = f"no label below the grid's best, macro {ours.mean():.6f}, the peer's {theirs.mean():.6f}; {TIMED} of its 28 labels are timed"
    yield replace(row, good=bool((ours >= theirs - 1e-12).all()), note=note)


if __name__ == "__main__":
    main(rows)
