"""Candidates of images: what they are made of, how they score, and objects that go."""

from dataclasses import replace

import numpy as np
import pytest
from salt import Truth, faint, packed, smooth

from pipeline.forecast.mask_features import ACTION, IMAGE, MASK, OBJECT
from pipeline.forecast.mask_survey import (
    CUTS,
    Action,
    Goal,
    Source,
    best_iou,
    default_actions,
    mask_of,
    prune,
    survey,
)
from pipeline.masks.decide import Decision, components, decide, objects_of
from pipeline.masks.metrics import MASK_METRICS


def source_of(maps, truth, members=(), exclusive=False):
    sizes = np.array([mask.shape[1:] for mask in truth.masks])
    return Source(maps, list(members), sizes, np.zeros((len(maps), 0)), exclusive)


def scene(n=8, metric="tgs_precision", members=True):
    maps, truth = faint(n)
    seen = [packed([maps[i] ** power for i in range(n)]) for power in (0.7, 1.4)] if members else []
    goal = Goal(MASK_METRICS[metric], truth, np.arange(n))
    return source_of(maps, truth, seen), truth, goal


@pytest.mark.parametrize("metric", ["tgs_precision", "dsb_precision"])
def test_every_candidate_is_its_own_mask(metric):
    source, truth, goal = scene(metric=metric)
    actions = default_actions(1, False, 2, goal.metric.objects)
    found = survey(source, actions, goal)
    assert found.features.shape == (8, len(actions), len(IMAGE) + len(MASK) + len(ACTION))
    for i in (0, 5):
        for a, action in enumerate(actions):
            maps = source.maps if action.member < 0 else source.members[action.member]
            mask = decide(maps[i], maps.present(i), action.setting, truth[i].shape[1:])
            assert (mask == mask_of(source, i, action)).all()
            area = found.features[i, a, len(IMAGE) + MASK.index("area")]
            assert area == pytest.approx(mask.mean(), abs=1e-6)
            more = (truth.instances(i), objects_of(mask[0], maps[i], action.setting[0])) if goal.metric.objects else ()
            assert found.stats[i, a] == pytest.approx(goal.metric.stats(truth[i], mask, *more))
    blind = survey(source, actions)
    assert (blind.features == found.features).all(), "features know nothing of the truth"
    assert blind.stats.shape == (8, len(actions), 0)
    assert np.isnan(blind.value).all()


def test_untuned_comes_first_and_empty_is_empty():
    actions = default_actions(2, False, 3, False)
    assert actions[0] == Action((Decision(), Decision()))
    assert len(set(actions)) == len(actions)
    assert sum(action.member >= 0 for action in actions) == 3
    assert not any(a.member >= 0 for a in default_actions(1, False, 1, False)), "a single member is the run itself"
    source, *_ = scene()
    assert not any(mask_of(source, i, actions[1].__class__(actions[1].setting[:1])).any() for i in range(8))


def test_objects_and_what_is_left_without_them():
    source, truth, goal = scene()
    seen = survey(source, default_actions(1, False, 0, False), goal)
    assert seen.objects.shape[1] == len(OBJECT)
    i = int(seen.owner[0])
    labels, areas = components(source.maps[i][0] > 0.5)
    right = [truth[i][0][labels == label].mean() for label in range(1, len(areas))]
    assert seen.value[seen.owner == i] == pytest.approx(right)
    values = np.stack([seen.value, np.zeros(len(seen.value))])
    features, stats = prune(source, seen.owner, values, goal)
    assert features.shape[:3] == (8, 2, len(CUTS))
    for i in range(8):
        stay = seen.value[seen.owner == i] >= CUTS[1]
        labels, areas = components(source.maps[i][0] > 0.5)
        mask = np.r_[False, stay][labels][None]
        assert (mask_of(source, i, Action((Decision(),)), np.flatnonzero(~stay)) == mask).all()
        assert stats[i, 0, 1] == pytest.approx(goal.metric.stats(truth[i], mask))
        assert stats[i, 1, 0] == pytest.approx(goal.metric.stats(truth[i], mask & False))
    assert features[0, 0, :, -1] == pytest.approx(CUTS)


def test_the_value_of_an_object_where_objects_are_scored():
    instances, labels = np.zeros((10, 10), np.int32), np.zeros((10, 10), np.int32)
    instances[0:4, 0:4], instances[5:9, 5:9] = 1, 2
    labels[0:4, 0:3], labels[5:7, 5:9], labels[9, 9] = 1, 2, 3
    areas = np.bincount(labels.ravel())
    assert best_iou(labels, areas, instances)[1:] == pytest.approx([0.75, 0.0, 0.0])
    assert best_iou(labels, areas, np.zeros((10, 10), int))[1:].tolist() == [0, 0, 0]


def test_classes_that_exclude_each_other_lose_no_objects():
    rng = np.random.default_rng(0)
    fields = [np.array([smooth(rng, 16, 3) for _ in range(3)]) for _ in range(4)]
    maps = packed([np.exp(f) / np.exp(f).sum(0) for f in fields], classes=3)
    truth = Truth([f == f.max(0) for f in fields], "exclusive")
    seen = survey(
        source_of(maps, truth, exclusive=True),
        default_actions(3, True, 0, False),
        Goal(MASK_METRICS["iou"], truth, np.arange(4)),
    )
    assert len(seen.owner) == 0
    assert (seen.stats[:, 0] > 0.9).all()


def test_features_are_of_the_classes_that_are_scored():
    maps, truth = faint(6)
    other, _ = faint(6, seed=9)
    both = packed([np.concatenate([other[i], maps[i]]) for i in range(6)], classes=2)
    wide = Truth([np.concatenate([~mask, mask]) for mask in truth.masks])
    goals = Goal(MASK_METRICS["dice"].of((1,)), wide, np.arange(6)), Goal(MASK_METRICS["dice"], truth, np.arange(6))
    source = replace(source_of(both, wide, [both, both]), classes=(1,))
    found = survey(source, default_actions(2, False, 2, False), goals[0])
    alone = survey(source_of(maps, truth, [maps, maps]), default_actions(1, False, 2, False), goals[1])
    np.testing.assert_array_equal(found.features, alone.features)
    np.testing.assert_array_equal(found.stats, alone.stats)
    np.testing.assert_array_equal(found.value, alone.value)
    cuts = [prune(s, f.owner, f.value[None], g) for s, f, g in zip(
        (source, source_of(maps, truth, [maps, maps])), (found, alone), goals, strict=True)]  # fmt: skip
    np.testing.assert_array_equal(cuts[0][1], cuts[1][1])
