"""Greedy selection (Caruana 2004): ours against the loop that scores every mean in full with scikit-learn's metrics."""

from dataclasses import replace

import numpy as np
from bench import main, race
from sklearn.metrics import cohen_kappa_score, f1_score, log_loss, roc_auc_score

from pipeline.scoring.greedy import greedy
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.scoring.trials import quick
from pipeline.tasks import TASKS

ROWS, MEMBERS, STEPS, TIMED = 100_000, 20, 100, 4
CUTS = np.arange(4) + 0.5
CASES = {
    "roc_auc": ("binary", lambda y, p: roc_auc_score(y, p[:, 0])),
    "f1": ("binary", lambda y, p: f1_score(y, p[:, 0] > 0.5)),
    "quadratic_kappa": (
        "ordinal",
        lambda y, p: cohen_kappa_score(y, np.searchsorted(CUTS, p[:, 0]), weights="quadratic"),
    ),
    "log_loss": ("multiclass", lambda y, p: -log_loss(y, p, labels=np.arange(p.shape[1]))),
}


def members(task):
    """Return a problem and members of it, correlated, of differing quality."""
    rng, noise = np.random.default_rng(0), np.linspace(0.5, 2.5, MEMBERS)
    if task == "multiclass":
        y = rng.integers(0, 10, ROWS)
        shared = 2 * np.eye(10)[y] + rng.normal(size=(ROWS, 10))
        made = [np.exp(shared + s * rng.normal(size=shared.shape)) for s in noise]
        return y, [p / p.sum(1, keepdims=True) for p in made]
    if task == "ordinal":
        y = rng.choice(5, ROWS, p=[0.5, 0.1, 0.25, 0.07, 0.08])
        shared = y + 0.5 * rng.normal(size=ROWS)
        return y, [(shared + 0.6 * s * rng.normal(size=ROWS))[:, None] for s in noise]
    y = (rng.random(ROWS) < 0.2).astype(np.int64)
    shared = 2 * y - 2 + 0.7 * rng.normal(size=ROWS)
    return y, [1 / (1 + np.exp(-(shared + s * rng.normal(size=ROWS))))[:, None] for s in noise]


def loop(y, made, score, steps):
    """Score the mean with every member at every step; keep the best prefix."""
    running, chosen, course = np.zeros(made[0].shape), [], []
    for size in range(1, steps + 1):
        scores = [score(y, (running + p) / size) for p in made]
        chosen.append(int(np.argmax(scores)))
        course.append(scores[chosen[-1]])
        running += made[chosen[-1]]
    kept = chosen[: int(np.argmax(course)) + 1]
    return np.bincount(kept, minlength=len(made)) / len(kept)


def case(name):
    """Return the row of a metric."""
    task, score = CASES[name]
    y, made = members(task)
    classes = max(made[0].shape[1], {"binary": 2, "ordinal": 5}.get(task, 0))
    problem, bag = Problem(TASKS[task], METRICS[name], classes, y, np.zeros(ROWS, np.int64), None), [np.ones(ROWS)]

    def full(p, draws):
        return float(problem.metric.gain(problem.score(p, problem.cuts, draws), 0.0))

    row, mine, his = race(
        f"greedy selection, {name}, {STEPS} steps, M = {MEMBERS}, N = {ROWS // 1000}k",
        "a loop over scikit-learn's metric",
        lambda: greedy(made, full, bag, STEPS, quick(problem, made)),
        lambda: loop(y, made, score, TIMED),
        20,
        share=TIMED / STEPS,
        warm=False,
    )
    same = (mine == greedy(made, full, bag, STEPS)).all() and (his == greedy(made, full, bag, TIMED)).all()
    note = f"the same members as a loop in full over our metric, {STEPS} steps, and as scikit-learn's: {TIMED} of its"
    return replace(row, good=bool(same), note=f"{note} {STEPS} steps are timed, all cost the same")


def rows():
    for name in CASES:
        yield case(name)


if __name__ == "__main__":
    main(rows)
