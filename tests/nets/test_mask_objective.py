import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.nets import mask_losses as m
from pipeline.nets.mask_objective import SIZES, SURE, Heads, MaskObjective, probabilities
from pipeline.store.errors import UserError

SIZE = (6, 8)
EDGES = torch.tensor([0.1, 0.3])


def drawn(heads, n=4, seed=0):
    torch.manual_seed(seed)
    coarse = sum(heads.classes * -(-SIZE[0] // s) * -(-SIZE[1] // s) for s in heads.deep)
    scores = torch.randn(n, heads.maps * 48 + heads.classes + heads.sizes + coarse)
    truth = (torch.rand(n, heads.classes, *SIZE) < 0.3).float()
    truth[0] = 0
    depth = torch.rand(n, heads.extra, *SIZE)
    return scores, truth, torch.cat([truth, depth], 1).flatten(1)


def test_a_row_is_divided_as_the_shelf_has_it():
    heads = Heads(2, 1, SIZES, (2, 4))
    scores, _, _ = drawn(heads)
    maps, presence, sizes, deep = heads.split(scores, *SIZE)
    assert (maps.shape, presence.shape, sizes.shape) == ((4, 3, 6, 8), (4, 2), (4, 4))
    assert [d.shape for d in deep] == [(4, 2, 3, 4), (4, 2, 2, 2)]
    again = torch.cat([maps.flatten(1), presence, sizes, *(d.flatten(1) for d in deep)], 1)
    assert torch.equal(again, scores)
    kept = scores[:, : 3 * 48 + 2]  # outside training
    assert torch.equal(heads.split(kept, *SIZE)[0], maps)
    assert heads.split(kept, *SIZE)[3] == []


def test_terms_add_up():
    heads = Heads(2)
    scores, truth, targets = drawn(heads)
    maps = heads.split(scores, *SIZE)[0]
    loss = MaskObjective(heads, SIZE, False, EDGES, terms={"bce": 1.0, "dice": 0.5}, non_empty=["dice"])
    there = truth.amax((2, 3))
    wanted = m.bce(maps, truth).mean(1) + 0.5 * (m.dice(maps, truth) * there).mean(1)
    torch.testing.assert_close(loss.loss(scores, targets), wanted)
    plain = MaskObjective(heads, SIZE, False, EDGES, terms=None)
    torch.testing.assert_close(plain.loss(scores, targets), m.bce(maps, truth).mean(1))


def test_another_loss_from_a_share_of_the_epochs_on():
    heads = Heads(1)
    scores, truth, targets = drawn(heads)
    maps = heads.split(scores, *SIZE)[0]
    then = {"at": 0.6, "terms": {"lovasz": 2.0}}
    loss = MaskObjective(heads, SIZE, False, EDGES, terms={"bce": 1.0}, then=then, hinge="elu", symmetric=True)
    for progress, wanted in [
        (0.0, m.bce(maps, truth)),
        (0.59, m.bce(maps, truth)),
        (0.6, 2 * m.lovasz(maps, truth, elu=True, symmetric=True)),
    ]:
        loss.progress = progress
        torch.testing.assert_close(loss.loss(scores, targets), wanted[:, 0])


def test_heads_beside_the_masks():
    heads = Heads(2, 1, SIZES, (2,))
    scores, truth, targets = drawn(heads)
    maps, presence, sizes, deep = heads.split(scores, *SIZE)
    given = {"presence": 0.1, "distance": 3.0, "size_classes": 0.5, "deep": 0.2}
    loss = MaskObjective(heads, SIZE, False, EDGES, terms={"bce": 1.0}, **given)
    depth = targets.reshape(4, 3, *SIZE)[:, 2:]
    share = truth.amax(1).mean((1, 2))
    kind = torch.tensor([0 if s == 0 else 1 + int(s > 0.1) + int(s > 0.3) for s in share.tolist()])
    coarse = functional.avg_pool2d(truth, 2)
    wanted = m.bce(maps[:, :2], truth).mean(1)
    wanted += 3.0 * (maps[:, 2:].sigmoid() - depth).square().mean((1, 2, 3))
    wanted += 0.1 * functional.binary_cross_entropy_with_logits(presence, truth.amax((2, 3)), reduction="none").mean(1)
    wanted += 0.5 * functional.cross_entropy(sizes, kind, reduction="none")
    wanted += 0.2 * m.bce(deep[0], coarse).mean(1)
    torch.testing.assert_close(loss.loss(scores, targets), wanted)
    assert loss.size_of(truth).tolist() == kind.tolist()


def test_sizes_of_exclusive_masks_leave_the_background_out():
    index = torch.zeros(1, 6, 8, dtype=torch.long)
    index[0, 0, :6] = 1  # 6 of 48 pixels
    y = functional.one_hot(index, 3).movedim(-1, 1).float()
    loss = MaskObjective(Heads(3), SIZE, True, EDGES, terms=None)
    assert loss.size_of(y).tolist() == [2]
    assert list(loss.terms) == ["ce"]


@pytest.mark.parametrize("given, word", [
    ({"terms": {"bse": 1.0}}, "bce"),
    ({"terms": {"ce": 1.0}}, "ce"),
    ({"terms": {"bce": 1.0}, "then": {"at": 0.5, "terms": {"lovas": 1.0}}}, "lovasz"),
    ({"terms": {"bce": 1.0}, "non_empty": ["dice"]}, "loss.non_empty"),
])  # fmt: skip
def test_unknown_losses_are_refused(given, word):
    with pytest.raises(UserError, match=word):
        MaskObjective(Heads(1), SIZE, False, EDGES, **given)


def test_probabilities():
    heads = Heads(3, 1)
    scores, _, _ = drawn(heads)
    scores[:, -1] = SURE
    maps, presence = probabilities(heads, True, scores, *SIZE)
    np.testing.assert_allclose(maps[:, :3].sum(1), 1, atol=1e-6)
    assert presence[:, -1].to(torch.float16).eq(1).all()
    maps, _ = probabilities(heads, False, scores, *SIZE)
    torch.testing.assert_close(maps, heads.split(scores, *SIZE)[0].sigmoid())
