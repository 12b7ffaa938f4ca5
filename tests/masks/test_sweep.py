"""Against a mask a threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.masks import sweep as sweeping
from pipeline.masks.metrics import counts
from pipeline.masks.sweep import MOST, sweep

# Values of maps and thresholds that meet to the bit, and some that no float16 is equal to.
SHARP = [0.0, 0.1, 0.25, 0.3, 0.5, float(np.float16(0.3)), float(np.float32(0.3)), 0.999, 1.0]
halves = st.sampled_from([*SHARP, np.nan, -0.5, 1.5]).map(np.float16)
images = st.lists(st.tuples(arrays(np.float16, (3, 5), elements=halves), arrays(bool, (3, 5))), min_size=1, max_size=4)
levels = st.lists(st.sampled_from(SHARP), min_size=1, max_size=9, unique=True).map(sorted)


def by_masks(pairs, thresholds):
    """Count mask by mask, of each image and threshold."""
    return np.array([[counts(t[None], p.astype(np.float32)[None] > cut)[:, 0] for cut in thresholds] for p, t in pairs])


@given(images, levels)
def test_counts_are_those_of_a_mask_a_threshold(pairs, thresholds):
    found = sweep(*map(np.array, zip(*pairs, strict=True)), thresholds)
    assert (found == by_masks(pairs, thresholds)).all()


@pytest.mark.parametrize("name, value", [("WIDE", False), ("PIXELS", 3), ("BLOCK", 20), ("BLOCK", 31)])
@settings(max_examples=10)
@given(pairs=images, thresholds=levels)
def test_other_ways_to_count_say_the_same(name, value, pairs, thresholds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, name, value)
        found = sweep(*map(np.array, zip(*pairs, strict=True)), thresholds)
    assert (found == by_masks(pairs, thresholds)).all()


def test_as_many_thresholds_as_there_may_be_and_maps_of_any_size():
    rng = np.random.default_rng(0)
    thresholds = np.sort(rng.random(MOST)).tolist()
    pairs = [(rng.random(size).astype(np.float16), rng.random(size) < 0.4) for size in ((40, 31), (7, 90), (1, 1))]
    strided = [(p[::2, 1::3], t[::2, 1::3]) for p, t in pairs[:2]]
    for p, t in (*pairs, *strided):
        assert (sweep(p[None], t[None], thresholds) == by_masks([(p, t)], thresholds)).all()
