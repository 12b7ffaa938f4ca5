"""Losses of masks against segmentation-models-pytorch, scipy and plain sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch.nn import functional

from pipeline.nets import mask_losses as m

smp = pytest.importorskip("segmentation_models_pytorch")


def drawn(seed=0, n=4, c=2, side=7, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 2, (n, c, side, side)), dtype=dtype)
    masks = torch.tensor(rng.random((n, c, side, side)) < 0.4, dtype=dtype)
    masks[0, 0] = 0
    masks[1, 1] = 1
    return logits, masks


def one_hot(seed=0, n=3, c=4, side=6):
    rng = np.random.default_rng(seed)
    index = torch.tensor(rng.integers(0, c - 1, (n, side, side)))  # the last class is nowhere
    logits = torch.tensor(rng.normal(0, 2, (n, c, side, side)))
    return logits, functional.one_hot(index, c).movedim(-1, 1).double(), index


def each(loss, logits, masks):
    """A reference of whole batches, image by image and class by class."""
    return torch.stack([
        torch.stack([loss(logits[n : n + 1, c : c + 1], masks[n : n + 1, c : c + 1]) for c in range(logits.shape[1])])
        for n in range(len(logits))
    ])  # fmt: skip


def smooth(kind, smooth=1.0, **options):
    """smp passes over empty masks, ours do not: see below. Its Dice halves both sums, so that one pixel is a half."""
    return getattr(smp.losses, kind)("binary", from_logits=True, smooth=smooth, **options)


@pytest.mark.parametrize("ours, theirs", [
    (m.dice, smooth("DiceLoss", 0.5)),
    (m.jaccard, smooth("JaccardLoss")),
    (lambda z, y: m.tversky(z, y, more=0.3, less=0.7), smooth("TverskyLoss", alpha=0.3, beta=0.7)),
])  # fmt: skip
def test_overlaps_are_those_of_smp(ours, theirs):
    logits, masks = drawn()
    found, wanted = ours(logits, masks), each(theirs, logits, masks)
    there = masks.amax((2, 3)) > 0
    torch.testing.assert_close(found[there], wanted[there], atol=1e-6, rtol=0)
    assert found[~there].min() > 0.5  # an empty mask that is predicted full
    sure = torch.full_like(logits, -40.0)
    torch.testing.assert_close(ours(sure, masks)[~there], torch.zeros(int((~there).sum())).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("ours, theirs", [
    (m.bce, smp.losses.SoftBCEWithLogitsLoss()),
    (m.focal, smp.losses.FocalLoss("binary")),
    (lambda z, y: m.focal(z, y, gamma=0.5), smp.losses.FocalLoss("binary", gamma=0.5)),
])  # fmt: skip
def test_pixelwise_losses_are_those_of_smp(ours, theirs):
    logits, masks = drawn()
    torch.testing.assert_close(ours(logits, masks), each(theirs, logits, masks), atol=1e-6, rtol=0)


def test_lovasz_hinge_is_that_of_smp():
    logits, masks = drawn(dtype=torch.float32)  # the reference mixes types where it is given others
    torch.testing.assert_close(
        m.lovasz(logits, masks), each(smp.losses.LovaszLoss("binary", per_image=True, from_logits=True), logits, masks),
        atol=1e-6, rtol=0,
    )  # fmt: skip


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_lovasz_hinge_of_hard_logits_is_the_jaccard_loss(seed, side):
    rng = np.random.default_rng(seed)
    truth, guess = (torch.tensor(rng.random((3, 1, side, side)) < share).double() for share in rng.random(2))
    both, either = (truth * guess).sum((2, 3)), torch.maximum(truth, guess).sum((2, 3))
    wanted = 1 - torch.where(either > 0, both / either.clamp(min=1), 1.0)
    torch.testing.assert_close(m.lovasz(2 * guess - 1, truth) / 2, wanted, atol=1e-6, rtol=0)


def test_lovasz_elu_and_symmetric():
    logits, masks = drawn()
    truth, guess = masks, 2.0 * (logits > 0) - 1
    # elu + 1 is 3 at an error of 2, 1 at 0: never below relu, and its slope never 0.
    assert (m.lovasz(guess, truth, elu=True) >= m.lovasz(guess, truth)).all()
    z = logits.clone().requires_grad_()
    far = (z * 0 + 50 * (2 * masks - 1) + z).requires_grad_()
    (grad,) = torch.autograd.grad(m.lovasz(far, masks, elu=True).sum(), far)
    assert grad.isfinite().all()
    turned = m.lovasz(-logits, 1 - masks)
    torch.testing.assert_close(m.lovasz(logits, masks, symmetric=True), (m.lovasz(logits, masks) + turned) / 2)
    errors = (1 - logits * (2 * masks - 1)).flatten(2)
    slow = torch.zeros(4, 2, dtype=torch.float64)
    for n in range(4):
        for c in range(2):
            order = errors[n, c].argsort(descending=True)
            y = masks[n, c].flatten()[order]
            before = 0.0
            for k in range(len(order)):
                wrong = torch.zeros_like(y, dtype=torch.bool)
                wrong[: k + 1] = True
                union = (y.bool() | wrong).sum()
                now = 1 - ((y.bool() & ~wrong).sum() / union)
                slow[n, c] += (functional.elu(errors[n, c][order[k]]) + 1) * (now - before)
                before = now
    torch.testing.assert_close(m.lovasz(logits, masks, elu=True), slow, atol=1e-6, rtol=0)


def test_exclusive_losses_are_those_of_torch_and_smp():
    logits, masks, index = one_hot()
    wanted = functional.cross_entropy(logits, index, reduction="none").mean((1, 2))
    torch.testing.assert_close(m.ce(logits, masks)[:, 0], wanted, atol=1e-6, rtol=0)
    lovasz = smp.losses.LovaszLoss("multiclass", per_image=True, from_logits=True)
    wanted = torch.stack([lovasz(logits[n : n + 1].float(), index[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(m.lovasz_softmax(logits, masks)[:, 0].float(), wanted, atol=1e-6, rtol=0)
    p = logits.softmax(1)
    torch.testing.assert_close(
        m.focal(logits, masks, exclusive=True, gamma=2.0)[:, 0],
        -(masks * (1 - p) ** 2 * p.log()).sum(1).mean((1, 2)), atol=1e-6, rtol=0,
    )  # fmt: skip
    both, total = (p * masks).sum((2, 3)), p.sum((2, 3)) + masks.sum((2, 3))
    torch.testing.assert_close(m.dice(logits, masks, exclusive=True), 1 - (2 * both + 1) / (total + 1))


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_signed_distance_is_that_of_scipy(seed, share):
    mask = np.random.default_rng(seed).random((7, 9)) < share
    found = m.signed_distance(mask)
    if mask.any() and not mask.all():
        wanted = distance_transform_edt(~mask) - np.maximum(distance_transform_edt(mask) - 1, 0)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:
        assert not found.any()


def test_boundary_loss_rewards_the_inside():
    logits, masks = drawn()
    p, far = logits.sigmoid().numpy(), np.zeros(logits.shape)
    for n in range(4):
        for c in range(2):
            mask = masks[n, c].numpy() > 0
            if mask.any() and not mask.all():
                far[n, c] = distance_transform_edt(~mask) - np.maximum(distance_transform_edt(mask) - 1, 0)
    np.testing.assert_allclose(m.boundary(logits, masks), (p * far).mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", m.INDEPENDENT)
@pytest.mark.parametrize("hinge", ["relu", "elu"])
def test_gradients_are_finite(name, hinge):
    options = m.options_of(name, False, {"hinge": hinge, "symmetric": True, "gamma": 0.5})
    for scale in (0.0, 1.0, 1e4):
        for masks in (torch.zeros(2, 1, 5, 5), torch.ones(2, 1, 5, 5), drawn(dtype=torch.float32)[1][:2, :1, :5, :5]):
            logits = (scale * torch.randn(2, 1, 5, 5)).requires_grad_()
            loss = m.INDEPENDENT[name](logits, masks, **options)
            assert loss.shape == (2, 1)
            (grad,) = torch.autograd.grad(loss.sum(), logits)
            assert loss.isfinite().all()
            assert grad.isfinite().all()


@pytest.mark.parametrize("name", m.EXCLUSIVE)
def test_gradients_of_exclusive_losses_are_finite(name):
    _, masks, _ = one_hot()
    for scale in (0.0, 1.0, 1e4):
        logits = (scale * torch.randn(masks.shape)).requires_grad_()
        loss = m.EXCLUSIVE[name](logits, masks.float(), **m.options_of(name, True, {}))
        assert loss.shape in ((3, 1), (3, 4))
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert grad.isfinite().all()
