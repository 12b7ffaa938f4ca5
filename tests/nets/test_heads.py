"""How heads start: weights by name, and a bias from which no constant is better."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.nets.heads import HEAD_INITS, prior, set_bias, start_head
from pipeline.nets.models import to_prediction
from pipeline.nets.objective import Objective
from pipeline.tasks import TASKS

RNG = np.random.default_rng(0)
LABELS = (RNG.random((40, 3)) < [0.1, 0.5, 0.8]).astype(float)
HOLES = np.where(RNG.random((40, 3)) < 0.2, np.nan, LABELS)
GRADES = RNG.choice(4, 40, p=[0.6, 0.2, 0.1, 0.1])
WEIGHTS = torch.as_tensor(RNG.uniform(0.5, 2, 40), dtype=torch.float32)
CASES = [
    ("multiclass", "classification", 4, GRADES, {}),
    ("multiclass", "classification", 4, GRADES, {"class_weight": "inverse"}),
    ("multiclass", "classification", 4, GRADES, {"smoothing": 0.1}),
    ("multilabel", "classification", 3, LABELS, {}),
    ("multilabel", "classification", 3, LABELS, {"class_weight": "inverse", "smoothing": 0.2}),
    ("multilabel", "classification", 3, HOLES, {}),
    ("multiclass", "classification", 4, GRADES, {"logit_adjust": 0.5}),
    ("multilabel", "classification", 3, LABELS, {"class_weight": "effective", "beta": 0.9, "logit_adjust": 0.5}),
    ("binary", "classification", 2, LABELS[:, 0], {}),
    ("regression", "regression", 3, RNG.normal(5, 3, (40, 3)), {"name": "mse"}),
    ("ordinal", "regression", 4, GRADES, {"name": "mse"}),
    ("ordinal", "classification", 4, GRADES, {}),
    ("ordinal", "both", 4, GRADES, {"name": "mse", "class_weight": "inverse"}),
    ("ordinal", "cumulative", 4, GRADES, {}),
    ("ordinal", "all", 4, GRADES, {"name": "mse", "logit_adjust": 0.5}),
    ("ordinal", "all", 4, GRADES, {"name": "mse", "class_weight": "inverse"}),
]


@pytest.mark.parametrize("task, head, classes, y, options", CASES)
def test_no_constant_is_better(task, head, classes, y, options):
    """The gradient of the weighted loss is 0 at the prior, and is not at 0 (but where a value is standardised)."""
    objective = Objective(TASKS[task], head, classes, y, **options)
    targets = objective.encode(y)
    slopes = []
    for start in (prior(objective, y, WEIGHTS), torch.zeros(targets.shape[1])):
        bias = start.clone().requires_grad_()
        (objective.loss(bias.expand(len(y), -1), targets) * WEIGHTS).sum().backward()
        slopes.append(bias.grad.abs().max().item())
    # An unknown entry changes how many a row's loss is the mean of; the shares are of the known rows all the same.
    assert slopes[0] < (2.0 if y is HOLES else 1e-3)
    assert slopes[1] > 0.5 or head == "regression"


def test_shares_come_out_as_predictions():
    labels = Objective(TASKS["multilabel"], "classification", 3, HOLES)
    bias = prior(labels, HOLES, torch.ones(40))[None]
    said = to_prediction(labels.task, "classification", bias, labels.center, labels.spread)
    np.testing.assert_allclose(said[0], np.nanmean(HOLES, 0), rtol=1e-5)
    grades = Objective(TASKS["ordinal"], "all", 4, GRADES)
    said = to_prediction(grades.task, "all", prior(grades, GRADES, torch.ones(40))[None], grades.center, grades.spread)
    assert said.item() == pytest.approx(GRADES.mean(), rel=1e-5)


def test_classes_that_are_never_or_always_there_stay_finite():
    y = np.array([[0.0, 1.0]] * 10)
    objective = Objective(TASKS["multilabel"], "classification", 2, y)
    np.testing.assert_allclose(prior(objective, y, torch.ones(10)).sigmoid(), [0.05, 0.95], rtol=1e-5)
    objective = Objective(TASKS["multiclass"], "classification", 3, np.zeros(10, int))
    np.testing.assert_allclose(prior(objective, np.zeros(10, int), torch.ones(10)).exp(), [1, 0.05, 0.05], rtol=1e-5)


SPREADS = {"kaiming": (2 / 400) ** 0.5, "xavier": (2 / 600) ** 0.5, "normal": 0.01, "orthogonal": (1 / 400) ** 0.5}


@pytest.mark.parametrize("init", HEAD_INITS)
def test_weights_have_the_spread_of_their_paper(init):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(7, 400), nn.Linear(400, 200))
    before = head[0].weight.clone()
    layer = start_head(head, init)
    assert layer is head[1]
    assert torch.equal(head[0].weight, before)
    assert layer.weight.std().item() == pytest.approx(SPREADS[init], rel=0.02)
    if init == "orthogonal":
        torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(200), atol=1e-5, rtol=0)


def test_auto_draws_nothing():
    """The numbers of a run without the switch stay what they were."""
    head, state = nn.Linear(3, 2), torch.get_rng_state()
    before = head.weight.clone()
    start_head(head, "auto")
    assert torch.equal(head.weight, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_rest_of_a_bias_stays():
    layer = nn.Conv2d(2, 3, 1)
    last = layer.bias[2].item()
    set_bias(layer, torch.tensor([1.0, 2.0]))
    assert layer.bias.tolist() == [1.0, 2.0, last]
