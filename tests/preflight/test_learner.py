import numpy as np
import pytest
import torch

from pipeline.nets.objective import Objective
from pipeline.preflight.learner import Learner, free_loss, frozen, ignorant, loss_of, without_dropout
from pipeline.preflight.material import Batch
from pipeline.tasks import TASKS


def batch_of(objective, y):
    targets = objective.encode(y)
    return Batch(torch.zeros(len(y), 1, 2, 2), targets, torch.ones(len(y)), torch.zeros(len(y), 0), np.arange(len(y)))


def test_what_nothing_but_the_targets_tells():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [50, 30, 20])
    plain = Objective(TASKS["multiclass"], "classification", 3, y)
    batch = batch_of(plain, y)
    prior = np.array([0.5, 0.3, 0.2])
    assert ignorant(plain, batch, 3) == pytest.approx(np.log(3), abs=1e-5)
    assert free_loss(plain, batch, 3, shared=True) == pytest.approx(-(prior * np.log(prior)).sum(), abs=1e-3)
    assert free_loss(plain, batch, 3, shared=False) < 1e-3
    smooth = Objective(TASKS["multiclass"], "classification", 3, y, smoothing=0.3)
    target = np.array([0.8, 0.1, 0.1])
    assert free_loss(smooth, batch_of(smooth, y), 3, shared=False) == pytest.approx(
        -(target * np.log(target)).sum(), abs=1e-3
    )
    values = rng.normal(5, 3, (80, 1))
    real = Objective(TASKS["regression"], "regression", 1, values)
    assert ignorant(real, batch_of(real, values), 1) == pytest.approx(1, abs=1e-3)
    assert free_loss(real, batch_of(real, values), 1, shared=True) == pytest.approx(1, abs=1e-3)
    labels = rng.integers(0, 2, (40, 5))
    several = Objective(TASKS["multilabel"], "classification", 5, labels)
    assert ignorant(several, batch_of(several, labels), 5) == pytest.approx(np.log(2), abs=1e-5)


def test_a_step_in_pieces_is_the_step(material):
    whole = material(more="clip = 0.1\n")
    pieces = whole.job.config.model_copy(update={"optim": whole.job.config.optim.model_copy(update={"accumulate": 3})})
    batch = whole.batch(whole.rows[:10])
    first, second = Learner(whole, 1e-2), Learner(whole, 1e-2)
    # Batch norm sees the pieces one by one: in evaluation they are the same.
    first.network.eval()
    second.network.eval()
    losses = [first.step(batch)]
    object.__setattr__(whole.job, "config", pieces)
    losses.append(second.step(batch))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert loss_of(whole, first.network, batch).mean().item() < losses[0]


def test_dropout_is_off_and_the_rest_trains():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Dropout2d(0.9), torch.nn.BatchNorm2d(2)).train()
    without_dropout(net)
    assert [module.training for module in net] == [True, False, True]


def test_a_frozen_trunk_stays_as_it_is(material, tmp_path):
    free = material()
    torch.save(free.first.backbone.state_dict(), tmp_path / "w.pt")
    assert not frozen(free)
    how = free.job.config.optim.model_copy(update={"freeze": "head"})
    object.__setattr__(free.job, "config", free.job.config.model_copy(update={"optim": how}))
    assert frozen(free)
    learner = Learner(free, 1e-2)
    learner.step(free.batch(free.rows[:8]))
    for one, other in zip(learner.network.backbone.parameters(), free.first.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(learner.network.head.weight, free.first.head.weight)
