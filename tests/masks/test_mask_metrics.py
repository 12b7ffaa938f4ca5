"""Against loops over pixels, thresholds and pairs of objects."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from pipeline.masks.metrics import MASK_METRICS

THRESHOLDS = [Fraction(k, 20) for k in range(10, 20)]


def images(classes=2, objects=False):
    """Lists of (truth, guess) of several images."""
    if objects:
        one = arrays(np.int32, (5, 6), elements=st.integers(0, 4))
    else:
        one = arrays(bool, (classes, 4, 5))
    empty = st.just(np.zeros((5, 6), np.int32) if objects else np.zeros((classes, 4, 5), bool))
    pair = st.tuples(st.one_of(one, empty), st.one_of(one, empty))
    same = one.map(lambda mask: (mask, mask))
    return st.lists(st.one_of(pair, same), min_size=1, max_size=4)


def overlap(truth, guess):
    truth, guess = set(np.flatnonzero(truth)), set(np.flatnonzero(guess))
    return Fraction(len(truth & guess), len(truth | guess)) if truth | guess else None


def dice(truth, guess):
    iou = overlap(truth, guess)
    return 1 if iou is None else 2 * iou / (1 + iou)


def iou(truth, guess):
    found = overlap(truth, guess)
    return 1 if found is None else found


def tgs(truth, guess):
    found = overlap(truth, guess)
    return 1 if found is None else Fraction(sum(found > t for t in THRESHOLDS), 10)


def dsb(truth, guess):
    """Best assignment at each threshold, so that nothing rests on hits being unique."""
    ours = [truth == k for k in np.unique(truth) if k]
    theirs = [guess == k for k in np.unique(guess) if k]
    if not ours and not theirs:
        return 1
    scores = []
    for t in THRESHOLDS:
        hit = np.array([[overlap(a, b) > t for b in theirs] for a in ours], float).reshape(len(ours), len(theirs))
        hits = int(hit[linear_sum_assignment(-hit)].sum())
        scores.append(Fraction(hits, len(ours) + len(theirs) - hits))
    return sum(scores) / 10


def mean_over_images_and_classes(score, pairs, weight):
    each = [np.mean([float(score(t, g)) for t, g in zip(truth, guess, strict=True)]) for truth, guess in pairs]
    return np.average(each, weights=weight)


def stats_of(metric, pairs):
    if metric.objects:
        return np.array([metric.stats(t[None] > 0, g[None] > 0, t, g) for t, g in pairs])
    return np.array([metric.stats(t, g) for t, g in pairs])


@pytest.mark.parametrize("name, score", [("dice", dice), ("iou", iou), ("tgs_precision", tgs)])
@given(data=st.data())
def test_means_over_images(name, score, data):
    metric, pairs = MASK_METRICS[name], data.draw(images())
    weight = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(pairs), max_size=len(pairs))), float)
    stats = stats_of(metric, pairs)
    assert metric.rows
    assert metric.reduce(stats, weight) == pytest.approx(mean_over_images_and_classes(score, pairs, weight), abs=1e-12)


@given(images(objects=True))
def test_objects(pairs):
    metric = MASK_METRICS["dsb_precision"]
    assert stats_of(metric, pairs)[:, 0] == pytest.approx([float(dsb(*pair)) for pair in pairs], abs=1e-12)
    assert metric.reduce(stats_of(metric, pairs), np.ones(len(pairs))) == pytest.approx(
        np.mean([float(dsb(*pair)) for pair in pairs]), abs=1e-12
    )


@pytest.mark.parametrize("name, score", [("dice_pooled", dice), ("iou_pooled", iou)])
@given(pairs=images())
def test_pooled(name, score, pairs):
    metric = MASK_METRICS[name]
    truth, guess = (np.concatenate([np.ravel(pair[k]) for pair in pairs]) for k in (0, 1))
    assert metric.reduce(stats_of(metric, pairs), np.ones(len(pairs))) == pytest.approx(float(score(truth, guess)))


@given(images(classes=3))
def test_mean_iou(pairs):
    metric = MASK_METRICS["mean_iou"]
    truth, guess = (np.concatenate([pair[k].reshape(3, -1) for pair in pairs], axis=1) for k in (0, 1))
    there = [overlap(t, g) for t, g in zip(truth, guess, strict=True)]
    there = [float(score) for score in there if score is not None]
    found = metric.reduce(stats_of(metric, pairs), np.ones(len(pairs)))
    assert found == pytest.approx(np.mean(there) if there else 1.0)


@pytest.mark.parametrize("name", MASK_METRICS)
@given(data=st.data())
def test_a_whole_weight_is_a_repeated_image_and_0_one_left_out(name, data):
    metric = MASK_METRICS[name]
    pairs = data.draw(images(objects=metric.objects))
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)).filter(any))
    stats = stats_of(metric, pairs)
    repeated = metric.reduce(stats.repeat(times, 0), np.ones(sum(times)))
    assert metric.reduce(stats, np.array(times, float)) == pytest.approx(repeated)


@pytest.mark.parametrize("name", MASK_METRICS)
def test_empties(name):
    metric, one = MASK_METRICS[name], np.ones(1)
    nothing, something = np.zeros((1, 4, 4), bool), np.eye(4, dtype=bool)[None]
    for truth, guess, score in ((nothing, nothing, 1), (nothing, something, 0), (something, nothing, 0)):
        labels = (truth[0].astype(int), guess[0].astype(int))
        assert metric.reduce(metric.stats(truth, guess, *labels)[None], one) == score
    assert metric.reduce(metric.stats(something, something, something[0] * 3, something[0] * 7)[None], one) == 1


@pytest.mark.parametrize("both, either, passed", [(10, 20, 0), (11, 20, 1), (12, 20, 2), (19, 20, 9), (20, 20, 10)])
def test_a_threshold_must_be_exceeded(both, either, passed):
    truth = np.arange(40).reshape(1, 1, -1) < either
    guess = np.arange(40).reshape(1, 1, -1) < both
    assert MASK_METRICS["tgs_precision"].stats(truth, guess)[0] == passed / 10
    found = MASK_METRICS["dsb_precision"].stats(truth, guess, truth[0].astype(int), guess[0].astype(int))
    assert found[0] == passed / 10


def test_two_objects_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0]])
    guess = np.array([[5, 5, 5, 0, 0, 0, 0, 2, 0, 0]])
    # IoU 3/4 passes .5 .55 .6 .65 .7: one hit, one missed, one false; else no hit.
    score = MASK_METRICS["dsb_precision"].stats(truth[None] > 0, guess[None] > 0, truth, guess)
    assert score[0] == pytest.approx(0.5 * 1 / 3)


@given(
    images(3), st.sampled_from([(1, 2), (2,), (0, 2)]), st.sampled_from(sorted(set(MASK_METRICS) - {"dsb_precision"}))
)
def test_some_classes_are_scored_as_if_there_were_no_others(pairs, some, name):
    whole = MASK_METRICS[name]
    part = whole.of(some)
    mine = np.stack([part.stats(truth, guess) for truth, guess in pairs])
    alone = np.stack([whole.stats(truth[list(some)], guess[list(some)]) for truth, guess in pairs])
    assert (mine == alone).all()
