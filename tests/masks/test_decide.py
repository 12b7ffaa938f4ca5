from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline.masks.decide import (
    Decision,
    components,
    decide,
    distance_target,
    fill_holes,
    flood,
    kept,
    objects_of,
    resize,
)
from pipeline.masks.metrics import MASK_METRICS

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
PLAIN = Decision()


def one(p, d=PLAIN, present=1.0, size=None):
    """The mask of one class."""
    p = np.asarray(p, np.float32)
    return decide(p[None], np.array([present]), d, size or p.shape)[0]


def pieces(mask):
    """Sets of pixels joined by their sides, found by walking."""
    left, found = {tuple(at) for at in np.argwhere(mask).tolist()}, []
    while left:
        queue, piece = deque([left.pop()]), set()
        while queue:
            y, x = queue.popleft()
            piece.add((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    queue.append(near)
        found.append(piece)
    return found


@given(arrays(np.float16, (4, 4), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), st.sampled_from([0.25, 0.5]))
def test_a_pixel_is_mask_above_the_threshold(p, threshold):
    assert np.array_equal(one(p, Decision(threshold=threshold)), p > threshold)


def test_hand_made_cases_of_four_by_four():
    score = MASK_METRICS["tgs_precision"]
    nothing = np.zeros((4, 4))
    speck = np.where(np.arange(16).reshape(4, 4) == 5, 0.9, 0.1)
    truth = np.zeros((1, 4, 4), bool)
    assert score.stats(truth, one(nothing)[None]) == [1]  # both empty
    assert score.stats(truth, one(speck)[None]) == [0]  # a false pixel
    for d in (
        Decision(min_area=2 / 16),
        Decision(top=0.95, top_area=1 / 16),
        Decision(top=0.8, top_area=2 / 16),
        Decision(threshold=0.9),
    ):
        assert score.stats(truth, one(speck, d)[None]) == [1]
    assert score.stats(truth, one(speck, Decision(present=0.5), present=0.4)[None]) == [1]
    for d in (Decision(min_area=1 / 16), Decision(top=0.8, top_area=1 / 16), Decision(present=0.4)):
        assert score.stats(truth, one(speck, d, present=0.4)[None]) == [0]


def test_the_triplet_keeps_all_above_the_lower_threshold():
    p = np.array([[0.9, 0.9, 0.4], [0.4, 0.4, 0.2], [0.1, 0.1, 0.1]])
    assert one(p, Decision(threshold=0.3, top=0.8, top_area=2 / 9)).tolist() == (p > 0.3).tolist()
    assert not one(p, Decision(threshold=0.3, top=0.8, top_area=3 / 9)).any()


@given(MASKS)
def test_components_are_what_is_joined_by_sides(mask):
    labels, areas = components(mask)
    found = [{tuple(at) for at in np.argwhere(labels == k).tolist()} for k in range(1, len(areas))]
    assert sorted(map(sorted, found)) == sorted(map(sorted, pieces(mask)))
    assert areas.tolist() == [np.count_nonzero(~mask), *map(len, found)]


@given(MASKS, st.sampled_from([0.0, 0.02, 0.1, 0.2, 0.5]), st.booleans())
def test_small_components_go_and_the_largest_stays(mask, share, largest):
    stay = [piece for piece in pieces(mask) if len(piece) >= share * mask.size]
    if largest and stay:
        most = max(map(len, stay))
        stay = [piece for piece in stay if len(piece) == most]
    found = pieces(kept(mask, Decision(min_area=share, largest=largest)))
    if largest and len(stay) > 1:
        assert len(found) == 1
        assert found[0] in stay
    else:
        assert sorted(map(sorted, found)) == sorted(map(sorted, stay))


@given(MASKS)
def test_holes_are_filled(mask):
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    p = mask.astype(np.float32)
    assert np.array_equal(one(p, Decision(fill=True)), ndimage.binary_fill_holes(mask))


def test_a_filled_ring_is_large_enough():
    ring = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    assert one(ring, Decision(fill=True, min_area=9 / 16)).sum() == 9
    assert one(ring, Decision(min_area=9 / 16)).sum() == 0


def test_classes_have_their_own_decisions():
    p = np.stack([np.full((3, 3), 0.4), np.full((3, 3), 0.6)]).astype(np.float32)
    rules = [Decision(threshold=0.3), Decision(threshold=0.5, present=0.9)]
    assert decide(p, np.array([1.0, 0.8]), rules, (3, 3)).any((1, 2)).tolist() == [True, False]
    assert decide(p, np.array([1.0, 0.9]), rules, (3, 3)).any((1, 2)).tolist() == [True, True]
    assert decide(p, np.array([1.0, 0.8]), Decision(), (3, 3)).any((1, 2)).tolist() == [False, True]


def test_further_maps_are_no_classes():
    maps = np.stack([np.full((3, 3), 0.4), np.full((3, 3), 0.9)])
    assert decide(maps, np.ones(1), PLAIN, (3, 3)).shape == (1, 3, 3)


@given(arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=16)))
def test_of_exclusive_classes_the_likeliest(p):
    found = decide(p, np.ones(3), PLAIN, (4, 5), exclusive=True)
    assert np.array_equal(found.argmax(0), p.argmax(0))
    assert (found.sum(0) == 1).all()


def test_pieces_of_exclusive_classes_go_to_the_next_likeliest():
    p = np.zeros((3, 4, 4), np.float32)
    p[0] = 0.5
    p[2] = 0.2
    p[1, 1, 1] = 0.9
    found = decide(p, np.ones(3), Decision(min_area=2 / 16), (4, 4), exclusive=True)
    assert found[0].all()
    gated = decide(p, np.array([0.1, 1, 1]), Decision(present=0.5), (4, 4), exclusive=True)
    assert gated.argmax(0).tolist() == np.where(np.arange(16).reshape(4, 4) == 5, 1, 2).tolist()
    assert (p[1, 1, 1], p[0, 0, 0]) == (np.float32(0.9), 0.5)  # what was given is left alone


@pytest.mark.parametrize("size", [(7, 9), (12, 10), (3, 31)])
def test_maps_of_a_scale_come_back_to_the_size_of_the_image(size):
    p = np.zeros((2, (size[0] + 1) // 2, (size[1] + 1) // 2), np.float32)
    p[0, :, : p.shape[2] // 2] = 1
    p[1] = 0.7
    found = decide(p, np.ones(2), PLAIN, size)
    assert found.shape == (2, *size)
    assert found[1].all()
    assert found[0][:, 0].all()
    assert not found[0][:, -1].any()


def test_resizing_is_bilinear_over_the_whole_image():
    ramp = ((np.arange(4) + 0.5) / 4)[None, None].repeat(3, 1).astype(np.float32)
    wide = resize(ramp, (6, 8))[0]
    expected = np.clip((np.arange(8) + 0.5) / 8, 0.125, 0.875)
    assert wide == pytest.approx(np.tile(expected, (6, 1)), abs=1e-6)
    assert resize(ramp, (3, 4)) is ramp
    # Sizes as a table holds them, and maps that are not in one piece.
    assert np.array_equal(resize(ramp, np.array([6, 8], np.int32))[0], wide)
    assert np.array_equal(resize(ramp.swapaxes(1, 2), (8, 6))[0], wide.T)


def discs(size, *at):
    y, x = np.mgrid[:size, :size]
    return [np.hypot(y - cy, x - cx) < r for cy, cx, r in at]


@pytest.mark.parametrize("distance", [False, True], ids=["own distance", "distance map"])
def test_touching_objects_are_divided(distance):
    left, right, far = discs(40, (15, 10, 8), (15, 24, 8), (33, 33, 3))
    mask = left | right | far
    truth = np.select([left & ~right, right, far], [1, 2, 3])
    maps = np.stack([mask, distance_target(truth)])[: 2 if distance else 1].astype(np.float32)
    assert objects_of(mask, maps, PLAIN).max() == 2
    found = objects_of(mask, maps, Decision(split=0.6))
    assert np.array_equal(found > 0, mask)
    assert found.max() == 3
    score = MASK_METRICS["dsb_precision"].stats(mask[None], mask[None], truth, found)[0]
    assert score > 0.85


def test_a_component_without_a_marker_is_one_object():
    mask = np.zeros((9, 9), bool)
    mask[1:4, 1:4] = mask[6:8, 6:8] = True
    maps = np.stack([mask, np.where(np.arange(9) < 5, mask, 0.1 * mask)]).astype(np.float32)
    found = objects_of(mask, maps, Decision(split=0.5))
    assert found.max() == 2
    assert np.array_equal(found > 0, mask)
    assert objects_of(np.zeros((3, 3), bool), maps[:, :3, :3], Decision(split=0.5)).max() == 0


@given(MASKS, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.7]))
@settings(max_examples=60, deadline=None)
def test_objects_are_connected_and_make_up_the_mask(mask, seed, split):
    height = np.random.default_rng(seed).random(mask.shape)
    found = objects_of(mask, np.stack([mask, height]).astype(np.float32), Decision(split=split))
    assert np.array_equal(found > 0, mask)
    assert np.unique(found[mask]).tolist() == list(range(1, found.max() + 1))
    for k in range(1, found.max() + 1):
        assert len(pieces(found == k)) == 1
    labels, areas = components(mask)
    markers = mask & (height.astype(np.float32) > split)
    seeds = [len(pieces(markers & (labels == k))) if split else 1 for k in range(1, len(areas))]
    assert found.max() == sum(max(n, 1) for n in seeds)


def test_a_flood_meets_at_the_pass():
    height = np.array([[0.9, 0.8, 0.5, 0.3, 0.6, 0.7, 0.8, 0.9]], np.float32)
    markers = np.array([[5, 0, 0, 0, 0, 0, 0, 2]])
    assert flood(markers, height, np.ones((1, 8), bool))[0, [0, 1, 2, 4, 5, 6, 7]].tolist() == [2, 2, 2, 1, 1, 1, 1]


@given(arrays(np.int32, (7, 8), elements=st.integers(0, 3)))
def test_the_distance_target_is_that_of_each_object_alone(instances):
    target = distance_target(instances)
    assert target.dtype == np.float32
    expected = np.zeros(instances.shape)
    for k in np.unique(instances[instances > 0]):
        mine = instances == k
        distance = ndimage.distance_transform_edt(mine) if not mine.all() else np.ones(mine.shape)
        expected[mine] = (distance / distance.max())[mine]
    assert target == pytest.approx(expected, abs=1e-6)


def test_a_decision_is_written_and_read_back():
    d = Decision(threshold=0.4, min_area=0.01, fill=True)
    assert Decision.from_dict(d.as_dict()) == d
    assert Decision.from_dict({}) == PLAIN
    assert replace(PLAIN, threshold=0.3) != PLAIN
    with pytest.raises(ValueError, match="unknown key 'treshold'"):
        Decision.from_dict({"treshold": 0.4})
