"""The size match of maps on networks made by hand: about right, and nothing where there is nothing to gain."""

import numpy as np
import pytest
from salt import Truth, packed, problem_of, smooth

from pipeline.forecast.mask_match import Views, match_masks, size_matched
from pipeline.masks.decide import Decision
from pipeline.masks.metrics import MASK_METRICS
from pipeline.scoring.mask_variants import measure

N, SIZE, UNTUNED = 120, 48, (Decision(),)


def networks(own, shared, count=5, seed=1):
    """Maps of networks that err together (`shared`) and apart (`own`), their mean, and the true masks."""
    rng = np.random.default_rng(seed)
    masks, seen = [], [[] for _ in range(count)]
    for _ in range(N):
        empty, hard = rng.random() < 0.38, rng.uniform(0.3, 2.5)
        body = smooth(rng, SIZE, SIZE / 5) + rng.normal() - 0.4
        mask = (body > 0) & (not empty)
        logit = 4 * np.clip(3 * body, -1, 1) if mask.any() else np.full((SIZE, SIZE), -4.0)
        logit = np.maximum(logit, 2.2 * smooth(rng, SIZE, 2.5) - 7.5) + shared * hard * smooth(rng, SIZE, 3)
        for maps in seen:
            error = own * hard * (smooth(rng, SIZE, 2) + 0.3 * rng.normal())
            maps.append(1 / (1 + np.exp(-logit - error))[None])
        masks.append(mask[None])
    mean = packed([np.mean(maps, 0) for maps in zip(*seen, strict=True)])
    return Views([packed(maps) for maps in seen], mean, UNTUNED, UNTUNED, np.tile([SIZE] * 2, (N, 1)), False), masks


def scores(views, masks, metric):
    problem = problem_of(Truth(masks), metric)
    each = [measure(m, Truth(masks), np.arange(N), [UNTUNED], MASK_METRICS[metric])[:, 0]
            for m in (*views.models, views.mean)]  # fmt: skip
    *one, mean = [problem.judge(stats) for stats in each]
    return problem, float(np.mean(one)), mean


@pytest.mark.parametrize("metric, error", [("dice_pooled", 0.2), ("iou", 0.6), ("tgs_precision", 1.0)])
@pytest.mark.parametrize("shared", [0.5, 1.0])
def test_the_gain_is_about_right(metric, error, shared):
    views, masks = networks(0.5, shared)
    problem, one, mean = scores(views, masks, metric)
    found = match_masks(problem, one, views)
    assert not found.exact
    assert mean - one > 0.005
    assert found.gain == pytest.approx(mean - one, abs=error * (mean - one) + 0.005)
    assert found.se == pytest.approx(0.6 * found.gain)


def test_networks_that_differ_more_gain_more():
    found = []
    for own in (0.1, 0.4):
        views, masks = networks(own, 1.0)
        problem, one, _ = scores(views, masks, "dice_pooled")
        found.append(match_masks(problem, one, views).gain)
    assert found[1] > 3 * found[0] > 0


def test_networks_that_are_alike_gain_nothing():
    views, masks = networks(0.3, 1.0, 1)
    same = Views(views.models * 3, views.mean, UNTUNED, UNTUNED, views.sizes, False)
    problem, one, _ = scores(same, masks, "iou")
    assert match_masks(problem, one, same).gain == pytest.approx(0, abs=1e-9)
    alone = match_masks(problem, one, views)
    assert (alone.gain, alone.exact) == (0, True)


def test_the_report_holds_it_beside_the_score():
    views, masks = networks(0.3, 1.0)
    problem, one, _ = scores(views, masks, "iou")
    report = size_matched(problem, {"score": one, "se": 0.02}, views, 2)
    found, match = report["size_matched"], match_masks(problem, one, views)
    assert found["score"] == pytest.approx(one + match.gain)
    assert found["se"] == pytest.approx(np.hypot(0.02, match.se))
    assert found["models"] == 10


def test_exclusive_classes_and_objects():
    rng, sizes = np.random.default_rng(0), np.tile([30, 20], (12, 1))
    shared = [rng.normal(size=(3, 30, 20)) * 2 for _ in range(12)]

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(0)

    seen = [[softmax(z + rng.normal(size=z.shape)) for z in shared] for _ in range(4)]
    mean = packed([np.mean(maps, 0) for maps in zip(*seen, strict=True)], classes=3)
    how = (Decision(),) * 3
    views = Views([packed(maps, classes=3) for maps in seen], mean, how, how, sizes, True)
    masks = [np.eye(3, dtype=bool)[z.argmax(0)].transpose(2, 0, 1) for z in shared]
    problem = problem_of(Truth(masks, "exclusive"), "mean_iou")
    assert 0 < match_masks(problem, 0.6, views).gain < 0.4
    views, masks = networks(0.3, 1.0, 3)
    split = (Decision(split=0.5),)
    views = Views(views.models, views.mean, split, split, views.sizes, False)
    assert -0.1 < match_masks(problem_of(Truth(masks), "dsb_precision"), 0.6, views).gain < 0.4
