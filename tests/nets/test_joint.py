"""The objective of several targets against those of each target alone."""

import numpy as np
import pytest
import torch
from problems import FIVE_TARGETS

from pipeline.nets.heads import prior
from pipeline.nets.joint import objective_of
from pipeline.nets.models import outputs_of, to_prediction
from pipeline.nets.objective import Objective
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS, task_of
from pipeline.training.watch import Watch

N = 30
TARGETS = [
    {"target": "kind", "task": "multiclass", "metric": "accuracy", "weight": 2.0},
    {"target": ["a", "b"], "task": "regression", "metric": "rmse", "weight": 0.5},
    {"target": "grade", "task": "ordinal", "metric": "quadratic_kappa"},
    {"target": "sex", "task": "binary", "metric": "log_loss"},
    {"target": "tags", "task": "multilabel", "metric": "f1_macro", "separator": " "},
]
CLASSES = FIVE_TARGETS
RNG = np.random.default_rng(0)
YS = [
    RNG.integers(0, 3, N),
    RNG.normal(5, 2, (N, 2)),
    RNG.integers(0, 4, N),
    RNG.integers(0, 2, N),
    RNG.integers(0, 2, (N, 2)),
]
Y = np.column_stack(YS).astype(float)
SCORES = torch.tensor(RNG.normal(size=(N, 9)), dtype=torch.float32)
TASK = task_of(Competition(task="several", id="id", targets=TARGETS), CLASSES)
HEADS = ["classification", "regression", "regression", "classification", "classification"]


def alone(**options):
    """The objective of each target, with the options that it takes."""
    made = []
    for piece, y, head in zip(TASK.pieces, YS, HEADS, strict=True):
        mine = {k: v for k, v in options.items() if head != "regression" or k not in ("smoothing", "class_weight")}
        made.append(Objective(piece.task, head, piece.classes, y, **mine))
    return made


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"class_weight": "inverse"}])
def test_loss_is_the_weighted_sum(options):
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="auto", gamma=2.0, delta=1.0, **options)
    targets, parts = made.encode(Y), alone(**options)
    assert targets.shape == (N, 9) == (N, outputs_of(TASK, "auto", len(CLASSES)))
    expected = torch.zeros(N)
    for piece, y, one in zip(TASK.pieces, YS, parts, strict=True):
        own = one.encode(y)
        torch.testing.assert_close(targets[:, piece.p], own)
        expected += piece.weight * one.loss(SCORES[:, piece.p], own)
    torch.testing.assert_close(made.loss(SCORES, targets), expected)
    assert [piece.weight for piece in TASK.pieces] == [2.0, 0.5, 1.0, 1.0, 1.0]


def test_a_named_loss_is_that_of_the_targets_that_know_it():
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="focal", gamma=3.0)
    expected = torch.zeros(N)
    for piece, y, head in zip(TASK.pieces, YS, HEADS, strict=True):
        name = "auto" if head == "regression" else "focal"
        one = Objective(piece.task, head, piece.classes, y, name=name, gamma=3.0)
        expected += piece.weight * one.loss(SCORES[:, piece.p], one.encode(y))
    torch.testing.assert_close(made.loss(SCORES, made.encode(Y)), expected)
    with pytest.raises(UserError, match="unknown loss of several targets 'focul'; did you mean 'focal'"):
        objective_of(TASK, "auto", len(CLASSES), Y, name="focul")


def test_classes_are_asked_for_by_smoothing():
    two = [{"target": name, "task": "regression", "metric": "rmse"} for name in "ab"]
    task = task_of(Competition(task="several", id="id", targets=two), ["a", "b"])
    with pytest.raises(UserError, match="need classes"):
        objective_of(task, "auto", 2, Y[:, 1:3], name="auto", smoothing=0.1)


def test_gradients_stay_on_the_columns_of_a_target():
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="auto")
    scores = SCORES.clone().requires_grad_()
    at, _, one = made.pieces[1]
    made.loss(scores, made.encode(Y)).sum().backward()
    values = SCORES[:, at].clone().requires_grad_()
    (0.5 * one.loss(values, one.encode(YS[1]))).sum().backward()
    torch.testing.assert_close(scores.grad[:, at], values.grad)


def test_predictions_are_those_of_each_target():
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="auto")
    np.testing.assert_allclose(made.center[3:6], [*YS[1].mean(0), YS[2].mean()], rtol=1e-5)
    np.testing.assert_allclose(made.spread[3:6], [*YS[1].std(0), YS[2].std()], rtol=1e-5)
    assert made.center[[0, 1, 2, 6, 7, 8]].tolist() == [0] * 6
    assert made.spread[[0, 1, 2, 6, 7, 8]].tolist() == [1] * 6
    out = to_prediction(TASK, "auto", SCORES, made.center, made.spread)
    for piece, head, one in zip(TASK.pieces, HEADS, alone(), strict=True):
        torch.testing.assert_close(
            out[:, piece.p], to_prediction(piece.task, head, SCORES[:, piece.p], one.center, one.spread)
        )


def test_watch_tells_the_mean_over_the_targets():
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="auto")
    watch = Watch(TASK, "auto", Y, 9, made.center, made.spread)
    parts = []
    for piece, y, head, one in zip(TASK.pieces, YS, HEADS, alone(), strict=True):
        width = piece.task.width(piece.classes)
        parts.append(Watch(TASKS[piece.task.name], head, y, width, one.center, one.spread))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        scores = torch.randn(N, 9, generator=generator)
        watch.see(torch.arange(N), scores)
        for piece, part in zip(TASK.pieces, parts, strict=True):
            part.see(torch.arange(N), scores[:, piece.p])
    told, each = watch.table(), [part.table() for part in parts]
    assert told.shape == (N, 12)
    for piece, part in zip(TASK.pieces, each, strict=True):
        np.testing.assert_allclose(told[:, piece.p], part[:, :-3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told[:, -2], np.mean([part[:, -2] for part in each], 0), rtol=1e-4, atol=1e-6)
    seen = watch.state_dict()["sums"]
    assert (seen[:, -1] == 3).all()
    right = torch.stack([part.state_dict()["sums"][:, -2] for part in parts]).min(0).values
    assert torch.equal(seen[:, -2], right)


def test_the_prior_is_that_of_each_target():
    made = objective_of(TASK, "auto", len(CLASSES), Y, name="auto", gamma=2.0, delta=1.0)
    found = prior(made, Y, torch.ones(N))
    for piece, y, one in zip(TASK.pieces, YS, alone(), strict=True):
        torch.testing.assert_close(found[piece.p], prior(one, y, torch.ones(N)))
