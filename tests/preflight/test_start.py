import numpy as np
import pytest
import torch
from torch import nn

from pipeline.nets.models import Network
from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.start import first_loss, head_is_open

SQUASHED = {
    "softmax": lambda x: x.softmax(1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ReLU": torch.relu,
}


def after_head(monkeypatch, function):
    plain = Network.classify
    monkeypatch.setattr(Network, "classify", lambda self, *given: function(plain(self, *given)))


@pytest.mark.parametrize("name", SQUASHED)
def test_an_activation_after_the_head_is_named(name, material, monkeypatch):
    one = material()
    batch = one.batch(one.rows)
    assert head_is_open(one, batch).verdict == OK
    after_head(monkeypatch, SQUASHED[name])
    found = head_is_open(one, batch)
    assert found.verdict == BROKEN
    assert name in found.seen


def test_what_cannot_be_told_is_for_a_person(material, monkeypatch):
    one = material("binary")
    batch = one.batch(one.rows)
    after_head(monkeypatch, lambda x: x.abs().sqrt() * x.sign() * 3)
    assert head_is_open(one, batch).verdict == LOOK
    after_head(monkeypatch, torch.zeros_like)
    assert head_is_open(one, batch).verdict == LOOK


def test_a_sigmoid_on_masks(material):
    one = material("segmentation")
    batch = one.batch(one.rows[:4])
    assert head_is_open(one, batch).verdict == OK
    one.first.head = nn.Sequential(one.first.head, nn.Sigmoid())
    assert "sigmoid" in head_is_open(one, batch).seen


@pytest.mark.parametrize("task, value", [("multiclass", np.log(4)), ("multilabel", np.log(2)), ("regression", 1)])
def test_the_first_loss_stands_beside_that_of_not_knowing(task, value, material):
    one = material(task)
    batch = one.batch(one.rows)
    found = first_loss(one, batch)
    assert found.verdict != BROKEN
    assert float(found.seen.split()[-1]) == pytest.approx(value, rel=2e-3 if task != "regression" else 0.1)
    with torch.no_grad():
        one.first.head.weight.mul_(1000)
    assert first_loss(one, batch).verdict == BROKEN


@pytest.mark.parametrize("loss", ["arcface", "triplet"])
def test_what_comes_after_a_head_with_company_is_told(loss, material, monkeypatch):
    one = material(more=f'[metric_learning]\nloss = "{loss}"\n')
    batch = one.batch(one.rows)
    assert head_is_open(one, batch).verdict == OK
    after_head(monkeypatch, torch.tanh)
    assert "tanh" in head_is_open(one, batch).seen
