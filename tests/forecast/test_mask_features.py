"""Features of masks and objects, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salt import disc, smooth

from pipeline.forecast.mask_features import ACTION, IMAGE, MASK, OBJECT, iou, of_action, of_image, of_mask, of_objects
from pipeline.masks.decide import Decision, components

NONE = np.zeros((0, 1, 8, 8), np.float32)


def square():
    p = np.full((1, 8, 8), 0.1, np.float32)
    p[0, 2:6, 2:6] = 0.9
    return p


def named(names, values):
    assert len(names) == len(values)
    return dict(zip(names, values, strict=True))


def test_of_an_image():
    found = named(IMAGE, of_image(square(), np.array([0.7]), NONE))
    assert found["mean"] == pytest.approx((16 * 0.9 + 48 * 0.1) / 64)
    assert found["max"] == found["top"] == pytest.approx(0.9)
    assert found["sure"] == 1
    assert found["doubt"] == pytest.approx(0.36)
    assert found["present"] == 0.7
    assert found["area 0.2"] == found["area 0.8"] == 0.25
    assert (found["member sd"], found["member iou"]) == (0, 1)
    members = np.stack([square(), np.full((1, 8, 8), 0.9, np.float32)])
    apart = named(IMAGE, of_image(square(), np.ones(1), members))
    assert apart["member iou"] == apart["member least"] == 0.25
    assert apart["member sd"] == pytest.approx(0.75 * 0.4)


def test_of_a_mask():
    p = square()
    mask = p > 0.5
    found = named(MASK, of_mask(p, mask, mask, NONE > 0.5))
    both, total = 16 * 0.9, 16 * 0.9 + 48 * 0.1
    assert found["soft iou"] == pytest.approx(both / (total + 16 - both))
    assert found["soft dice"] == pytest.approx(2 * both / (total + 16))
    assert (found["area"], found["objects"], found["largest"], found["solidity"]) == (0.25, 1, 1, 1)
    assert found["mean inside"] == pytest.approx(0.9)
    assert found["max outside"] == pytest.approx(0.1)
    assert found["perimeter"] == 12 / 4
    assert found["border"] == 0
    assert found["doubt at edge"] == pytest.approx(0.36)
    assert found["iou with plain"] == found["iou with members"] == 1


def test_of_odd_masks():
    p = square()
    nothing = named(MASK, of_mask(p, p > 2, p > 0.5, NONE > 0.5))
    assert (nothing["area"], nothing["soft iou"], nothing["objects"], nothing["iou with plain"]) == (0, 0, 0, 0)
    everything = named(MASK, of_mask(p, p > 0, p > 0.5, NONE > 0.5))
    assert (everything["area"], everything["border"], everything["iou with plain"]) == (1, 1, 0.25)
    two = (p > 0.5) & (np.arange(8) != 4)
    assert named(MASK, of_mask(p, two, p > 0.5, NONE > 0.5))["objects"] == 2
    assert named(MASK, of_mask(p, two, p > 0.5, NONE > 0.5))["largest"] == pytest.approx(2 / 3)
    hollow = np.zeros((1, 8, 8), bool)
    hollow[0, 1:7, 1], hollow[0, 6, 1:7] = True, True
    assert named(MASK, of_mask(p, hollow, p > 0.5, NONE > 0.5))["solidity"] < 0.7


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_features_are_finite_and_turn_with_the_image(seed, level):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-2 * np.stack([smooth(rng, 16, 2) for _ in range(2)]))).astype(np.float32)
    members = np.stack([p, p**2])
    mask, plain = p > level, p > 0.5
    found = of_mask(p, mask, plain, members > 0.5)
    assert np.isfinite(found).all()
    assert np.isfinite(of_image(p, np.ones(2), members)).all()
    turn = [np.ascontiguousarray(np.rot90(v, axes=(-2, -1))) for v in (p, mask, plain, members)]
    assert of_mask(*turn[:3], turn[3] > 0.5) == pytest.approx(found, abs=1e-5)


def test_of_actions():
    found = named(ACTION, of_action([Decision(threshold=0.4, min_area=0.1), Decision(fill=True)], True, 0.35))
    assert found["threshold"] == pytest.approx(0.45)
    assert (found["min area"], found["fill"], found["of member"], found["pruned at"]) == (0.05, 0.5, 1, 0.35)


def test_of_objects():
    p = np.full((20, 20), 0.1, np.float32)
    small, large = disc(20, (4, 4), 2.1) > 0, disc(20, (13, 13), 4.1) > 0
    p[small], p[large] = 0.6, 0.9
    p[0, 10] = 0.7
    labels, areas = components(p > 0.5)
    chosen = np.arange(1, 4)
    members = np.stack([p, np.where(large, 0.9, 0.1)]).astype(np.float32)
    found = of_objects(p, labels, areas, chosen, members)
    of = {int(labels[at]): row for at, row in zip(((0, 10), (4, 4), (13, 13)), range(3), strict=True)}
    by = {where: dict(zip(OBJECT, found[label - 1], strict=False)) for label, where in of.items()}
    assert [by[w]["border"] for w in range(3)] == [1, 0, 0]
    assert by[2]["area"] == pytest.approx(large.sum() / 400)
    assert by[1]["of median"] == 1
    assert by[1]["mean p"] == pytest.approx(0.6)
    assert (by[1]["members"], by[2]["members"]) == (0.5, 1)
    assert by[1]["member sd"] == pytest.approx(0.25)
    assert by[0]["p around"] == pytest.approx(0.1)
    assert all(row["objects"] == 3 for row in by.values())
    assert of_objects(p, labels, areas, chosen[:0], members).shape == (0, 16)
    assert iou(small, large) == 0
