"""A grid of decisions measured at once is the same as decision by decision."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salt import Truth, faint, packed, smooth

from pipeline.masks.decide import Decision, decide, objects_of
from pipeline.masks.metrics import MASK_METRICS
from pipeline.scoring.mask_variants import default_grid, measure, stream, thresholds_alone, variants

FIELDS = {
    "threshold": st.sampled_from([0.2, 0.5, 0.7]),
    "top": st.sampled_from([0.0, 0.6, 0.9]),
    "top_area": st.sampled_from([0.0, 0.02, 0.3]),
    "present": st.sampled_from([0.0, 0.4, 2.0]),
    "min_area": st.sampled_from([0.0, 0.01, 0.1, 2.0]),
    "fill": st.booleans(),
    "split": st.sampled_from([0.0, 0.5]),
    "largest": st.booleans(),
}
DECISIONS = st.builds(Decision, **FIELDS)


def maps_of(rng, classes, extra, size=24, scale=1):
    """Maps of a few images, of which the last is a different size."""
    found = []
    for height in (size, size, size + 6):
        fields = [smooth(rng, height // scale, 2)[:, : size // scale] for _ in range(classes + extra)]
        found.append(1 / (1 + np.exp(-2 * np.array(fields))))
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(DECISIONS, DECISIONS), min_size=1, max_size=8), st.booleans(), st.integers(0, 50))
def test_variants_are_what_decide_makes(grid, exclusive, seed):
    rng = np.random.default_rng(seed)
    maps, present = maps_of(rng, 2, 1)[-1], rng.random(2)
    size = (45, 40)
    seen = {}
    for places, mask in variants(maps, present, grid, size, exclusive):
        for g in places:
            seen[g] = mask
            assert (mask == decide(maps, present, grid[g], size, exclusive)).all()
    assert sorted(seen) == list(range(len(grid)))


@pytest.mark.parametrize("name", MASK_METRICS)
@pytest.mark.parametrize("kind, classes", [("classes", 1), ("classes", 3), ("exclusive", 3)])
def test_measured_decision_by_decision(name, kind, classes):
    metric = MASK_METRICS[name]
    if metric.objects and classes > 1:
        pytest.skip("objects are of one class")
    rng = np.random.default_rng(1)
    fields = maps_of(rng, classes, 1, scale=2)
    truth = Truth(
        [np.array([smooth(rng, 2 * m.shape[1], 3)[:, : 2 * m.shape[2]] > 0.5 for _ in range(classes)]) for m in fields],
        kind,
    )
    maps = packed(fields, rng.random((3, classes)), classes, 1)
    grid = default_grid(classes, kind == "exclusive", True, metric.objects)[:: 3 * classes]
    rows = np.array([2, 0])
    found = measure(maps.part(rows), truth, rows, grid, metric)
    for i, row in enumerate(rows):
        for g, each in enumerate(grid):
            right = truth[row]
            mask = decide(maps[row], maps.present(row), each, right.shape[1:], kind == "exclusive")
            more = (truth.instances(row), objects_of(mask[0], maps[row], each[0])) if metric.objects else ()
            assert found[i, g] == pytest.approx(metric.stats(right, mask, *more))


def test_the_grid_leaves_classes_alone_that_are_not_scored():
    some = default_grid(3, False, False, False, (2,))
    assert some[0] == (Decision(),) * 3
    assert all(each[:2] == (Decision(),) * 2 for each in some)
    assert [each[2] for each in some] == [each for (each,) in default_grid(1, False, False, False)]
    assert default_grid(3, True, False, False, (2,)) == default_grid(3, True, False, False), "they share each pixel"


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([name for name, metric in MASK_METRICS.items() if not metric.objects]),
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9])] * 2), min_size=1, max_size=6),
    st.sampled_from([None, (0,), (1,)]),
    st.integers(0, 50),
)
def test_thresholds_alone_are_counted_at_once(name, levels, some, seed):
    rng, metric = np.random.default_rng(seed), MASK_METRICS[name].of(some)
    fields = maps_of(rng, 2, 1)
    # The last image is larger than its maps: it takes the long way.
    truth = Truth([rng.random((2, m.shape[1] + 3 * (m is fields[-1]), m.shape[2])) < 0.5 for m in fields])
    maps, rows = packed(fields, None, 2, 1), np.arange(3)
    grid = [tuple(Decision(threshold=t) for t in each) for each in levels]
    assert thresholds_alone(grid)
    found = measure(maps, truth, rows, grid, metric)
    gated = [(replace(each[0], present=-1.0), each[1]) for each in grid]
    assert not thresholds_alone(gated)
    assert (found == measure(maps, truth, rows, gated, metric)).all()


def test_the_grid_tries_what_there_is():
    plain = default_grid(1, False, False, False)
    assert plain[0] == (Decision(),)
    assert len(set(plain)) == len(plain)
    assert not any(each[0].present or each[0].split for each in plain)
    assert any(each[0].top > each[0].threshold for each in plain)
    gated = default_grid(1, False, True, False)
    assert {each[0].present for each in gated} > {0.0, 0.5}
    assert {each[0].split for each in default_grid(1, False, False, True)} > {0.0, 0.5}
    several = default_grid(3, False, False, False)
    assert len(several) == 3 * (len(plain) - 1) + 1
    assert all(sum(d != Decision() for d in each) <= 1 for each in several)
    arg_max = default_grid(2, True, False, False)
    assert {d.threshold for each in arg_max for d in each} == {0.5}, "thresholds decide nothing there"


@pytest.mark.parametrize("threads", ["1", "3"])
def test_streamed_in_order(monkeypatch, threads):
    monkeypatch.setenv("PODIUM_THREADS", threads)
    assert stream(lambda i: i * i, 20) == [i * i for i in range(20)]
    maps, truth = faint(6)
    grid = default_grid(1, False, False, False)
    found = measure(maps, truth, np.arange(6), grid, MASK_METRICS["dice"])
    assert found.shape == (6, len(grid), 1)
    alone = [measure(maps.part([i]), truth, np.array([i]), grid, MASK_METRICS["dice"])[0] for i in range(6)]
    assert all((one == other).all() for one, other in pairwise([found, np.stack(alone)]))
