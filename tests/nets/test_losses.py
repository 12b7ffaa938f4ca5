import numpy as np
import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch.nn import functional as F

from pipeline.nets.losses import (
    asymmetric,
    bce,
    ce,
    class_weights,
    focal_sigmoid,
    focal_softmax,
    huber,
    log_cosh,
    mse,
)

N, C = 12, 4
RNG = np.random.default_rng(0)
S = RNG.normal(0, 2, (N, C)).astype(np.float32)
Y = RNG.permutation(np.arange(N) % C)
LABELS = (RNG.random((N, C)) < 0.4).astype(np.float32)
VALUES = RNG.normal(5, 3, (N, 2))
scores, classes, labels = torch.from_numpy(S), torch.from_numpy(Y), torch.from_numpy(LABELS)
HOT = F.one_hot(classes, C).float()
P = np.exp(S) / np.exp(S).sum(1, keepdims=True)
Q = 1 / (1 + np.exp(-S))


def near(a, b):
    assert a.shape == (N,)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_ce():
    near(ce(scores, HOT), F.cross_entropy(scores, classes, reduction="none"))


def test_bce():
    near(bce(scores, labels), -(LABELS * np.log(Q) + (1 - LABELS) * np.log(1 - Q)).mean(1))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_focal(gamma):
    own = P[np.arange(N), Y]
    near(focal_softmax(scores, HOT, gamma), -((1 - own) ** gamma) * np.log(own))
    right = np.where(LABELS == 1, Q, 1 - Q)
    near(focal_sigmoid(scores, labels, gamma), (-((1 - right) ** gamma) * np.log(right)).mean(1))


def test_focal_without_gamma_is_plain():
    near(focal_softmax(scores, HOT, 0.0), ce(scores, HOT))
    near(focal_sigmoid(scores, labels, 0.0), bce(scores, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", [focal_softmax, focal_sigmoid])
def test_focal_is_finite_for_sure_scores(loss, gamma):
    sure = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    value = loss(sure, torch.tensor([[1.0, 0.0], [0.9, 0.1]]), gamma)
    value.sum().backward()
    assert value.isfinite().all()
    assert sure.grad.isfinite().all()


def test_mse_and_huber():
    a, b = RNG.normal(0, 2, (2, N, 3)).astype(np.float32)
    error = np.abs(a - b)
    near(mse(torch.from_numpy(a), torch.from_numpy(b)), (error**2).mean(1))
    for delta in (0.5, 1.0, 2.0):
        terms = np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
        near(huber(torch.from_numpy(a), torch.from_numpy(b), delta), terms.mean(1))


@pytest.mark.parametrize(
    "gamma_neg, gamma_pos, clip", [(4, 1, 0.05), (4, 1, 0.0), (2, 0, 0.2), (0, 0, 0.0), (1, 3, 0.1)]
)
def test_asymmetric_is_that_of_timm(gamma_neg, gamma_pos, clip):
    theirs = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, reduction="none")(scores, labels).mean(1)
    near(asymmetric(scores, labels, gamma_neg, gamma_pos, clip), theirs)
    if (gamma_neg, gamma_pos, clip) == (0, 0, 0.0):
        near(asymmetric(scores, labels, 0, 0, 0), bce(scores, labels))


def test_asymmetric_forgives_easy_negatives():
    low = torch.tensor([[-3.2, -6.0, -200.0]], requires_grad=True)  # p = .039 and less, below the clip
    value = asymmetric(low, torch.zeros(1, 3))
    value.backward()
    assert value.item() == 0
    assert (low.grad == 0).all()
    sure = torch.tensor([[200.0, -200.0]], requires_grad=True)
    asymmetric(sure, torch.tensor([[0.0, 1.0]])).backward()
    assert sure.grad.isfinite().all()


def test_log_cosh():
    a, b = RNG.normal(0, 2, (2, N, 3))
    near(log_cosh(torch.from_numpy(a), torch.from_numpy(b)), np.log(np.cosh(a - b)).mean(1))
    far = torch.tensor([[1e4]], requires_grad=True)
    value = log_cosh(far, torch.zeros(1, 1))
    value.backward()
    assert value.item() == pytest.approx(1e4 - np.log(2))
    assert far.grad.item() == pytest.approx(1)


def test_class_weights_balance_classes():
    y = np.array([0] * 9 + [2] * 3)
    weights = class_weights(F.one_hot(torch.from_numpy(y), 3).float())
    np.testing.assert_allclose(weights, [12 / 27, 0, 12 / 9], rtol=1e-6)  # nobody is of class 1
