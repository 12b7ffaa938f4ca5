"""Blend weights of masks: fitted on pixels of other folds, uniform unless a gain is shown."""

import numpy as np
import pytest
from salt import Truth, packed, smooth

from pipeline.scoring.mask_blend import fit_weights, sample, zones

SIZE = 32


def members(n, noises, seed=0, classes=1, kind="classes"):
    """Truth, and members that see it through noise."""
    rng = np.random.default_rng(seed)
    masks, seen = [], [[] for _ in noises]
    for _ in range(n):
        fields = np.array([smooth(rng, SIZE, 4) for _ in range(classes)])
        right = fields == fields.max(0) if kind == "exclusive" else fields > 0.7
        masks.append(right)
        for m, noise in enumerate(noises):
            logit = 3 * (2.0 * right - 1) + noise * np.array([smooth(rng, SIZE, 2) for _ in range(classes)])
            p = np.exp(logit) / np.exp(logit).sum(0) if kind == "exclusive" else 1 / (1 + np.exp(-logit))
            seen[m].append(p)
    return Truth(masks, kind), [packed(p, classes=classes) for p in seen]


def test_zones_part_the_image():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    inside, border, outside = zones(mask)
    assert sorted(np.concatenate([inside, border, outside])) == list(range(400))
    assert mask.ravel()[inside].all()
    assert not mask.ravel()[outside].any()
    assert len(inside) == 36
    assert len(border) == 14 * 14 - 36
    assert [len(zone) for zone in zones(np.zeros((4, 4), bool))] == [0, 0, 16]


@pytest.mark.parametrize("kind, classes", [("classes", 1), ("classes", 2), ("exclusive", 3)])
def test_the_sample_is_what_members_gave_to_the_truth(kind, classes):
    truth, maps = members(6, [0.0, 5.0], classes=classes, kind=kind)
    rows = np.array([4, 1, 2])
    found = sample([m.part(rows) for m in maps], truth, rows, 60)
    assert found.true.shape[1] == 2
    counts = np.bincount(found.image)
    assert len(counts) == 3
    assert (counts <= 3 * classes * -(-60 // (3 * classes))).all()
    assert (counts > 20).all()
    assert found.true[:, 0].min() > 0.8, "without noise the truth is likely everywhere"
    assert found.true[:, 1].std() > 0.1
    again = sample([m.part(rows) for m in maps], truth, rows, 60)
    assert (found.true == again.true).all()


def test_maps_of_another_size():
    truth, maps = members(3, [0.0])
    half = [m[:, ::2, ::2] for m in (maps[0][i] for i in range(3))]
    found = sample([packed(half)], truth, np.arange(3))
    assert (found.true > 0.5).mean() > 0.9


def test_the_better_member_weighs_more_and_a_fold_stays_unseen():
    truth, maps = members(40, [2.0, 8.0])
    folds, rows = np.arange(40) % 5, np.arange(40)
    drawn = sample(maps, truth, rows)
    found = fit_weights(drawn, folds, None)
    assert found.method == "convex"
    assert found.deployed[0] > 0.8
    assert found.gap < 1e-6
    assert found.loss[:, 1].mean() < found.loss[:, 0].mean()
    drawn.true[np.isin(drawn.image, np.flatnonzero(folds == 2))] = drawn.true[:, ::-1][
        np.isin(drawn.image, np.flatnonzero(folds == 2))
    ]
    turned = fit_weights(drawn, folds, None)
    assert turned.by_fold[2] == pytest.approx(found.by_fold[2])
    assert turned.by_fold[1] != pytest.approx(found.by_fold[1])


def test_equals_stay_uniform():
    truth, maps = members(30, [3.0, 3.0], seed=3)
    found = fit_weights(sample(maps, truth, np.arange(30)), np.arange(30) % 5, np.arange(30) // 3)
    assert found.method == "uniform"
    assert (found.deployed == 0.5).all()
    assert found.gap is None
    alone = fit_weights(sample(maps[:1], truth, np.arange(30)), np.arange(30) % 5, None)
    assert alone.deployed.tolist() == [1.0]


def test_pixels_are_of_the_classes_that_are_scored():
    truth, maps = members(5, [1.0, 5.0], classes=3)
    some = sample(maps, truth, np.arange(5), 60, classes=(2,))
    alone = [packed([m[i][[2]] for i in range(5)]) for m in maps]
    only = sample(alone, Truth([mask[[2]] for mask in truth.masks]), np.arange(5), 60)
    assert (some.true == only.true).all()
    assert (some.image == only.image).all()
