"""What a model thought of its training rows, against scores that were written down and summed up by hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import ROW_TASKS as TASKS
from scipy.special import expit, softmax

from pipeline.nets.objective import Objective
from pipeline.training.sampling import Batches, Lessons
from pipeline.training.watch import Watch

N, C, EPOCHS = 14, 4, 6
WAYS = [(name, head, 0) for name, task in TASKS.items() for head in task.heads] + [("multiclass", "classification", 1)]


def truth(name, extra=0):
    rng = np.random.default_rng(5)
    if name == "regression":
        return rng.normal([10, 0], [5, 0.1], (N, 2))
    if name == "multilabel":
        return rng.integers(0, 2, (N, 3))
    return rng.integers(0, 2, N) if name == "binary" else rng.permutation(np.arange(N) % (C + extra))


def watch_of(name, head, y, extra=0):
    task = TASKS[name]
    width = {"multiclass": C, "multilabel": 3, "regression": 2}.get(name, 1)
    objective = Objective(task, head, C + extra if name == "multiclass" else C, y)
    return Watch(task, head, y, width, objective.center, objective.spread)


def columns(name, head, extra=0):
    if name == "ordinal":
        return {"regression": 1, "classification": C, "both": C + 1, "cumulative": C - 1, "all": 2 * C}[head]
    return {"multiclass": C + extra, "multilabel": 3, "regression": 2}.get(name, 1)


def opinion(name, head, score, y, center, spread):
    """Prediction, probability of the truth, margin, and whether it is right, of one row in one epoch."""
    if name == "multiclass":
        p = softmax(score)[y]
        others = [s for c, s in enumerate(score) if c != y]
        return softmax(score[:C]), p, score[y] - max(others), score[y] > max(others)
    if TASKS[name].probabilities:
        y = np.atleast_1d(y)
        p, margin = np.where(y == 1, expit(score), expit(-score)), np.where(y == 1, score, -score)
        return expit(score), p.mean(), margin.mean(), bool((margin > 0).all())
    if head == "regression":
        value = score * spread + center
    elif head == "cumulative":
        value = np.array([expit(score).sum()])
    else:
        value = np.array([softmax(score[:C]) @ np.arange(C)])
        if head == "both":
            value = (value + score[C:] * spread + center) / 2
        if head == "all":
            value = (value + expit(score[C:-1]).sum() + score[-1:] * spread + center) / 3
    error = np.abs(value - y)
    right = error[0] < 0.5 if name == "ordinal" else bool((error / spread < 1).all())
    return value, np.exp(-(error / spread).mean()), -(error / spread).mean(), right


def by_hand(name, head, y, scores, seen):
    values = y.reshape(N, -1)
    center, spread = values.mean(0), values.std(0)
    rows = []
    for i in range(N):
        told = [opinion(name, head, scores[e, i], y[i], center, spread) for e in range(len(scores)) if seen[e, i]]
        if not told:
            rows.append(None)
            continue
        predictions, truths, margins, right = zip(*told, strict=True)
        forgotten = sum(a and not b for a, b in pairwise(right))
        rows.append([*np.mean(predictions, 0), np.std(truths), np.mean(margins), forgotten])
    width = len(next(row for row in rows if row is not None))
    return np.array([row or [np.nan] * width for row in rows])


@pytest.mark.parametrize("name, head, extra", WAYS)
def test_the_table_is_that_by_hand(name, head, extra):
    rng, y = np.random.default_rng(1), truth(name, extra)
    scores = rng.normal(0, 2, (EPOCHS, N, columns(name, head, extra))).astype(np.float32)
    seen = np.ones((EPOCHS, N), bool)
    seen[:, [3, 8]] = False  # never trained on
    seen[::2, 5] = False  # not in every epoch
    watch = watch_of(name, head, y, extra)
    for e in range(EPOCHS):
        order = rng.permutation(np.flatnonzero(seen[e]))
        for part in np.array_split(order, 3):
            # Rows beyond the labelled ones are pseudo-labelled: nothing is known of them.
            rows = np.concatenate([part, [N, N + 7]])
            given = np.concatenate([scores[e, part], np.full((2, scores.shape[2]), 9.0, np.float32)])
            watch.see(torch.from_numpy(rows), torch.from_numpy(given))
    table, wanted = watch.table(), by_hand(name, head, y, scores, seen)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, wanted, rtol=2e-4, atol=1e-5)
    assert wanted[:, -1][~np.isnan(wanted[:, -1])].max() >= 1
    assert np.isnan(table[[3, 8]]).all()


def test_only_pseudo_labelled_rows_in_a_batch():
    watch = watch_of("multiclass", "classification", truth("multiclass"))
    watch.see(torch.tensor([N, N + 1]), torch.ones(2, C))
    assert np.isnan(watch.table()).all()


def test_a_row_twice_in_a_batch_counts_twice():
    y = truth("multiclass")
    twice, apart = (watch_of("multiclass", "classification", y) for _ in range(2))
    scores = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (3, C)).astype(np.float32))
    twice.see(torch.tensor([2, 4, 2]), scores)
    for row, score in zip((2, 4, 2), scores, strict=True):
        apart.see(torch.tensor([row]), score[None])
    np.testing.assert_allclose(twice.table()[:, :-1], apart.table()[:, :-1], rtol=1e-5)


def test_half_precision_scores_are_summed_in_full():
    watch = watch_of("multiclass", "classification", truth("multiclass"))
    watch.see(torch.arange(N), torch.ones(N, C, dtype=torch.bfloat16))
    assert watch.table()[:, :C] == pytest.approx(0.25)


class Killed(Exception):
    pass


def test_the_loop_watches_the_rows_it_trains_on(run_fit, toy, monkeypatch):
    """The network's own scores of each step, written down by a hook, against what the watch made of them."""
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    net, written = toy(), []
    net.register_forward_hook(lambda module, args, out: written.append(out.detach().numpy().copy()))
    given = {"epochs": EPOCHS, "recipe": "none", "batch_size": 6, "accumulate": 2}
    y = run_fit(toy(), "y", epochs=1).y
    watch = loop_watch(y)
    run_fit(net, "whole", watch=watch, **given)
    batches, scores = Batches(Lessons.of(np.arange(20)), 6, 3, EPOCHS), np.zeros((EPOCHS, 24, 3))
    for epoch in range(EPOCHS):
        batches.epoch = epoch
        for batch in batches:
            rows = [row for _, row in batch]
            scores[epoch, rows] = np.concatenate([written.pop(0), written.pop(0)])
    table = watch.table()
    p = softmax(scores[:, :20], 2)
    np.testing.assert_allclose(table[:20, :3], p.mean(0), rtol=1e-4)
    truths = np.take_along_axis(p, np.broadcast_to(y[None, :20, None], (EPOCHS, 20, 1)), 2)[:, :, 0]
    np.testing.assert_allclose(table[:20, 3], truths.std(0), rtol=1e-3, atol=1e-5)
    assert np.isnan(table[20:]).all()

    # Killed in epoch 3 and taken up by another process: the same table.
    def die(entry):
        if entry["epoch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        run_fit(toy(), "cut", watch=loop_watch(y), record=die, **given)
    again = loop_watch(y)
    run_fit(toy(), "cut", watch=again, **given)
    np.testing.assert_array_equal(again.table(), table)


def loop_watch(y):
    objective = Objective(TASKS["multiclass"], "classification", 3, y)
    return Watch(TASKS["multiclass"], "classification", y, 3, objective.center, objective.spread)


def test_watching_changes_nothing(run_fit, toy, monkeypatch):
    states = []
    for watched in (True, False):
        if not watched:
            monkeypatch.setattr(Watch, "see", lambda *args: None)
        torch.manual_seed(0)
        run = run_fit(toy(dropout=0.3), f"watched {watched}")
        states.append(run.net.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_unknown_labels_and_values_are_passed_over(name):
    rng, y = np.random.default_rng(1), truth(name).astype(np.float64)
    scores = torch.from_numpy(rng.normal(0, 2, (N, columns(name, TASKS[name].heads[0], 0))).astype(np.float32))
    full = watch_of(name, TASKS[name].heads[0], y)
    part = y.copy()
    part[2, 0] = part[4, 1] = np.nan
    seen = watch_of(name, TASKS[name].heads[0], part)
    seen.center, seen.spread = full.center, full.spread
    for watch in (full, seen):
        watch.see(torch.arange(N), scores)
    same = np.setdiff1d(np.arange(N), [2, 4])
    np.testing.assert_array_equal(seen.table()[same], full.table()[same])
    assert np.isfinite(seen.table()).all()
    # The margin of the row is that of what is known of it.
    rest = watch_of(name, TASKS[name].heads[0], y[:, 1:])
    rest.center, rest.spread, rest.width = full.center[1:], full.spread[1:], y.shape[1] - 1
    rest.sums = rest.sums[:, 1:]
    rest.see(torch.tensor([2]), scores[[2], 1:])
    width = y.shape[1]
    assert seen.table()[2, width + 1] == pytest.approx(rest.table()[2, width], rel=1e-5)
