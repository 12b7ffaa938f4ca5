"""Convex log-loss weights: ours against scipy SLSQP as people write it, and greedy selection as AutoGluon does it."""

import tracemalloc
from dataclasses import replace

import numpy as np
from bench import Row, main, race
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from pipeline.scoring.convex import convex
from pipeline.tasks import TASKS

ROWS, MEMBERS, CLASSES = 100_000, 20, 10
STEPS, TIMED = 100, 2


def members():
    """Return targets and correlated softmax members of differing quality."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    shared = 2 * np.eye(CLASSES)[y] + rng.normal(size=(ROWS, CLASSES))
    made = []
    for noise in np.linspace(0.5, 2.5, MEMBERS):
        z = np.exp(shared + noise * rng.normal(size=(ROWS, CLASSES)))
        made.append(z / z.sum(1, keepdims=True))
    return y, made


def full_loss(y, tensor):
    """Return the log loss of weights, computed from all N M C numbers."""
    rows = np.arange(len(y))

    def loss(w):
        blend = np.einsum("nmc,m->nc", tensor, w)
        return -np.log(np.clip(blend[rows, y], 1e-15, 1)).mean()

    return loss


def slsqp(y, made):
    """Minimise it by SLSQP with the gradient that scipy estimates."""
    m, total = len(made), {"type": "eq", "fun": lambda w: w.sum() - 1}
    loss = full_loss(y, np.stack(made, axis=1))
    return minimize(loss, np.full(m, 1 / m), method="SLSQP", bounds=[(0, 1)] * m, constraints=total).x


def ensemble_selection(y, made, steps):
    """Choose greedily as AutoGluon's EnsembleSelection does; written anew after its source, step by step.

    The mean so far is kept; with each member added its rows are normalised and scored by scikit-learn's log loss (that
    is its scorer); from the second step on losses are rounded to 6 decimals; of equal ones a member already chosen goes
    first, then chance; the best prefix is kept.
    """
    chance, chosen, course = np.random.RandomState(0), [], []
    mean, scaled, tried = (np.zeros(made[0].shape) for _ in range(3))
    for _ in range(steps):
        size, losses = len(chosen), np.zeros(len(made))
        if size:
            mean *= (size - 1) / size
            mean += made[chosen[-1]] / size
            scaled[:] = size / (size + 1) * mean
        for j, p in enumerate(made):
            tried[:] = scaled + p / (size + 1)
            tried /= tried.sum(1)[:, None]
            losses[j] = log_loss(y, tried, labels=np.arange(CLASSES))
            if size:
                losses[j] = losses[j].round(6)
        best = np.flatnonzero(np.isclose(losses, losses.min(), atol=0, rtol=1e-12))
        known = [j for j in best if j in chosen]
        chosen.append(int(chance.choice(known or best)))
        course.append(losses[chosen[-1]])
    kept = chosen[: int(np.argmin(course)) + 1]
    return np.bincount(kept, minlength=len(made)) / len(kept)


def peak(work):
    """Return the megabytes that work takes at most, beside what there was."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def rows():
    (y, made), task = members(), TASKS["multiclass"]
    part = f"convex blend weights, log loss, M = {MEMBERS}, N = {ROWS // 1000}k, C = {CLASSES}"
    loss = full_loss(y, np.stack(made, axis=1))
    row, (w, gap), theirs = race(
        part,
        "scipy SLSQP, numeric gradient, full tensor",
        lambda: convex(task, y, made),
        lambda: slsqp(y, made),
        100,
        warm=False,
        before=lambda: [p.sum() for p in made],
    )
    more = loss(theirs) - loss(w)
    yield replace(
        row, good=bool(gap <= 1e-9 and more > -1e-9), note=f"certified gap {gap:.1g}; the peer's loss {more:+.1g}"
    )
    row, _, _ = race(
        part,
        f"greedy as AutoGluon's EnsembleSelection, {STEPS} steps",
        lambda: convex(task, y, made),
        lambda: ensemble_selection(y, made, TIMED),
        300,
        share=TIMED / STEPS,
        warm=False,
        before=lambda: [p.sum() for p in made],
    )
    note = f"its loop written anew after its source; {TIMED} of {STEPS} steps are timed, all cost the same"
    yield replace(row, good=bool(gap <= 1e-9), note=note)
    mine, his = peak(lambda: convex(task, y, made)), peak(lambda: full_loss(y, np.stack(made, axis=1))(w))
    note = "C times less at best: beside the members, N x M numbers instead of N x M x C"
    yield Row("the same, memory", "the full tensor", mine, his, his / mine, CLASSES, 1, note, unit="MB")


if __name__ == "__main__":
    main(rows)
