"""Losses against imbalance: effective numbers against timm, logit adjustment against Bayes' rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS as TASKS
from scipy.special import expit, logit
from test_losses import LABELS, RNG, C, N, Y, near, scores
from timm.loss import compute_class_weights
from torch.nn import functional as F

from pipeline.nets.losses import class_weights, effective_weights, entry_weights, log_prior, sides
from pipeline.nets.objective import Objective
from pipeline.store.errors import UserError


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999])
def test_effective_numbers_are_those_of_timm(beta):
    counts = torch.tensor([500.0, 37.0, 4.0, 1.0])
    _, theirs = compute_class_weights(counts, 542, "effective_num", beta=beta)
    ours = effective_weights(counts, beta)
    np.testing.assert_allclose(ours / ours.mean(), theirs, rtol=1e-5)
    assert (ours * counts).sum() / counts.sum() == pytest.approx(1)


@given(st.lists(st.integers(1, 400), min_size=2, max_size=6))
@settings(deadline=None, max_examples=30)
def test_effective_numbers_go_from_none_to_inverse(counts):
    hot = F.one_hot(torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))).float()
    np.testing.assert_allclose(effective_weights(hot.sum(0), 0.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(effective_weights(hot.sum(0), 1 - 1e-9), class_weights(hot), rtol=1e-4)


def test_effective_numbers_of_labels_are_of_both_sides():
    labels = torch.tensor(LABELS)
    labels[0, 0] = torch.nan
    np.testing.assert_allclose(effective_weights(sides(labels), 1 - 1e-9), entry_weights(labels), rtol=1e-4)
    assert sides(labels)[0].sum() == N - 1
    assert effective_weights(torch.tensor([[5.0, 0.0]]), 0.9).tolist() == [[1.0, 0.0]]


def test_the_weights_reach_the_loss():
    y = np.repeat([0, 1, 2], [8, 3, 1])
    made = Objective(TASKS["multiclass"], "classification", 3, y, class_weight="effective", beta=0.9)
    plain = Objective(TASKS["multiclass"], "classification", 3, y)
    weights = np.array([(1 - 0.9) / (1 - 0.9**n) for n in (8, 3, 1)])
    weights *= 12 / (weights @ [8, 3, 1])
    s = scores[:, :3]
    near(made.loss(s, made.encode(y)), plain.loss(s, plain.encode(y)) * weights[y])


def test_logit_adjustment_of_classes_is_that_of_the_paper():
    y = np.repeat([0, 1, 2, 3], [6, 3, 2, 1])
    tau = 1.5
    made = Objective(TASKS["multiclass"], "classification", C, y, logit_adjust=tau)
    z = scores.double() + tau * torch.log(torch.tensor([6, 3, 2, 1.0]).double() / 12)
    near(made.loss(scores, made.encode(y)), F.cross_entropy(z, torch.tensor(y), reduction="none"))


def test_logit_adjustment_of_labels():
    made = Objective(TASKS["multilabel"], "classification", C, LABELS, logit_adjust=1.0)
    z = scores.double() + torch.tensor(logit(LABELS.mean(0)))
    wanted = F.binary_cross_entropy_with_logits(z, torch.tensor(LABELS).double(), reduction="none").mean(1)
    near(made.loss(scores, made.encode(LABELS)), wanted)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_the_optimum_is_what_a_balanced_sample_would_give(task):
    """One feature that says nothing: the best scores say so, whatever the prior."""
    y = np.repeat([0, 1], [90, 10])
    made = Objective(TASKS[task], "classification", 2, y, logit_adjust=1.0)
    best = torch.zeros(1, 2 if task == "multiclass" else 1, requires_grad=True)
    target = made.encode(y)
    (grad,) = torch.autograd.grad(made.loss(best.expand(100, -1), target).mean(), best)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize("head", ["classification", "cumulative", "both", "all"])
def test_the_prior_stands_in_the_columns_of_the_head(head):
    y = np.repeat([0, 1, 2], [6, 3, 1])
    classes, above = np.log([0.6, 0.3, 0.1]), logit([0.4, 0.1])
    wanted = {"classification": classes, "cumulative": above, "both": [*classes, 0], "all": [*classes, *above, 0]}
    made = Objective(TASKS["ordinal"], head, 3, y, logit_adjust=2.0)
    np.testing.assert_allclose(made.log_prior(y), wanted[head], rtol=1e-5)
    np.testing.assert_allclose(made.shift, 2 * np.array(wanted[head]), rtol=1e-5)
    some = torch.tensor(RNG.normal(size=(len(y), len(wanted[head]))), dtype=torch.float32)
    plain = Objective(TASKS["ordinal"], head, 3, y)
    torch.testing.assert_close(made.loss(some, made.encode(y)), plain.loss(some + made.shift, plain.encode(y)))


def test_a_class_that_no_row_has_is_finite():
    assert log_prior(torch.eye(3)[[0, 0, 1, 1]], False).tolist() == pytest.approx(np.log([0.5, 0.5, 0.25]).tolist())
    never = log_prior(torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [torch.nan, 1.0]]), True)
    assert expit(never.numpy()) == pytest.approx([0.25, 0.75])


def test_values_have_no_prior():
    with pytest.raises(UserError, match=r"loss\.logit_adjust need classes"):
        Objective(TASKS["regression"], "regression", 1, RNG.normal(size=9), logit_adjust=1.0)


def test_without_it_nothing_is_added():
    one, other = (Objective(TASKS["multiclass"], "classification", C, Y, **how) for how in ({}, {"logit_adjust": 0.0}))
    assert torch.equal(one.loss(scores, one.encode(Y)), other.loss(scores, other.encode(Y)))
