"""Tags of masks find false labels and bad masks, and say nothing where there is nothing."""

import numpy as np
import pytest
from salt import Truth, metric_of, packed, problem_of, smooth
from sklearn.metrics import roc_auc_score

from pipeline.difficulty.masks import BAD, assess, label_wrong, look, scores
from pipeline.forecast.mask_survey import Source
from pipeline.masks.decide import Decision
from pipeline.scoring.mask_variants import measure

UNTUNED = (Decision(),)


def drawn(n, seed=0, flips=0.1, size=28):
    """Maps that are right where they are sharp and wrong where they are not; some labels of sharp ones are false."""
    rng = np.random.default_rng(seed)
    maps, masks, flipped, blurred = [], [], [], []
    for _ in range(n):
        field, doubt = smooth(rng, size, 4), rng.random()
        seen = (1 - 0.9 * doubt) * field + 0.9 * doubt * smooth(rng, size, 4)
        mask = field > 0.3
        false = doubt < 0.5 and rng.random() < 2 * flips
        masks.append((np.roll(mask[::-1, ::-1], size // 2, 0) if false else mask)[None])
        maps.append(1 / (1 + np.exp(-(8 - 7 * doubt) * (seen - 0.3)))[None])
        flipped.append(false)
        blurred.append(doubt)
    return packed(maps), Truth(masks), np.array(flipped), np.array(blurred)


def assessed(n=240, seed=0, flips=0.1):
    maps, truth, flipped, doubt = drawn(n, seed, flips)
    problem = problem_of(truth, "iou")
    stats = measure(maps, truth, np.arange(n), [UNTUNED], metric_of(problem))[:, 0]
    source = Source(maps, [], np.full((n, 2), 28), np.zeros((n, 0)))
    seen = look(source, [UNTUNED] * n)
    score = scores(problem, stats)
    return assess(problem, score, seen, [seen, seen], 0.1, 0.8), score, flipped, doubt


def test_scores_of_single_images():
    maps, truth, *_ = drawn(12)
    for metric in ("iou", "iou_pooled"):
        problem = problem_of(truth, metric)
        stats = measure(maps, truth, np.arange(12), [UNTUNED], metric_of(problem))[:, 0]
        ious = [
            (m & g).sum() / (m | g).sum() for m, g in zip(truth.masks, (maps[i] > 0.5 for i in range(12)), strict=True)
        ]
        assert scores(problem, stats) == pytest.approx(ious)


def test_finds_bad_masks_and_false_labels():
    tags, score, flipped, doubt = assessed()
    n = len(score)
    assert (tags.bad == (score < BAD)).all()
    clean = ~flipped
    assert roc_auc_score(tags.bad[clean], tags.p_error[:n][clean]) > 0.75
    assert roc_auc_score(flipped, tags.label_wrong) > 0.9
    suspects = tags.tags[:n] == "suspect"
    assert flipped[suspects].mean() > 0.5
    assert suspects[flipped].mean() > 0.3
    easy, hard = (tags.tags[:n] == name for name in ("easy", "hard"))
    assert score[easy & clean].mean() > score[hard & clean].mean() + 0.2
    assert np.corrcoef(tags.edges[:n], doubt)[0, 1] > 0.3
    assert not (tags.tags[n:] == "suspect").any(), "nothing is known of the labels of test images"


def test_clean_labels_are_hardly_suspect():
    tags, score, *_ = assessed(flips=0.0)
    assert (tags.tags[: len(score)] == "suspect").mean() < 0.05


def test_a_hard_image_is_not_suspect():
    rng = np.random.default_rng(0)
    doubt = rng.random(400)
    score = np.clip(1 - doubt * rng.random(400), 0, 1)
    p = label_wrong(doubt[:, None], score, np.arange(400) % 5)
    assert p[doubt > 0.5].max() < 0.9
    low = np.where(np.arange(400) == np.argmin(doubt), 0.2, score)
    assert label_wrong(doubt[:, None], low, np.arange(400) % 5)[np.argmin(doubt)] > 0.5


def test_empty_masks_doubt_by_their_surest_pixels():
    faint, none = np.full((1, 8, 8), 0.45), np.full((1, 8, 8), 0.01)
    x, edges = look(Source(packed([faint, none]), [], np.full((2, 2), 8), np.zeros((2, 0))), [UNTUNED] * 2)
    assert x[0, 0] > x[1, 0]
    assert edges.tolist() == [0, 0]
