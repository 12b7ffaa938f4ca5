from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.preflight import cost
from pipeline.preflight.cost import cost_of, distance, expense, in_time, matrices, trial, views


def test_a_run_is_its_models_epochs_and_predictions(material, monkeypatch):
    one = material(more='[predict]\ntta = "d4"\nhard_tta = "hflip"\nhard_share = 0.5\n')
    monkeypatch.setattr(cost, "seconds_a_row", lambda material, network: 0.01)
    found = cost_of(one, 0.5, one.first)
    assert views(one.job, one.first) == 8 + 1
    # 40 training rows in batches of 16, 20 rows held out, 60 scored, 24 of the test.
    assert found.epoch == pytest.approx(3 * 0.5 + 20 * 0.01)
    assert found.models == 3
    assert found.total == pytest.approx(3 * (3 * found.epoch + ((20 + 24) * 9 + 84) * 0.01))
    paired = replace(one, job=replace(one.job, config=one.job.config.model_copy(update={"pairs": True})))
    assert cost_of(paired, 0.5, one.first).models == 6
    assert "6 models" in expense(cost_of(paired, 0.5, one.first), 2).seen


@pytest.mark.parametrize("method, times", [("awp", 1.5), ("pgd", 3.5)])
def test_an_attack_costs_its_steps(method, times, material, monkeypatch):
    one = material(more=f'[adversarial]\nmethod = "{method}"\nsteps = 4\nstart = 0.5\n')
    monkeypatch.setattr(cost, "seconds_a_row", lambda material, network: 0.0)
    assert cost_of(one, 0.5, one.first).epoch == pytest.approx(3 * 0.5 * times)


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_steps_and_predictions_are_measured(task, material):
    one = material(task)
    tried = trial(one, 4)
    assert len(tried.losses) == 4
    assert tried.seconds > 0
    found = cost_of(one, tried.seconds, tried.network)
    assert found.row > 0
    assert found.memory > 1e7


def test_how_far_weights_move():
    one = [torch.ones(2, 2), torch.full((3, 1), 2.0), torch.zeros(4, 4), torch.ones(1, 5)]
    assert distance(one, [part + 0.1 for part in one]) == pytest.approx(0.1)
    assert distance([torch.zeros(2, 2)], [torch.ones(2, 2)]) == 0
    net = torch.nn.Linear(3, 2)
    net.weight.requires_grad_(False)
    assert matrices(net) == []


def test_a_step_of_adam_moves_each_weight_by_its_rate(material):
    one = material()
    first = [float(p.detach().square().mean().sqrt()) for p in one.first.parameters() if p.ndim > 1]
    assert trial(one, 1).moved == pytest.approx(1e-2 / np.median(first), rel=0.05)


def test_time_for_a_person():
    assert [in_time(s) for s in (0.1234, 90, 600, 9000)] == ["0.123 s", "90 s", "10 min", "2.5 h"]
