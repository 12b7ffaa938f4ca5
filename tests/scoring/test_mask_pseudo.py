"""Pseudo-labels of masks: sure images, by size of their masks, not too many empty ones; what is said of them."""

import numpy as np
import pytest
from salt import packed

from pipeline.scoring.mask_pseudo import MaskRule, choose, collapsing, facts, say_mask, state, stratum


def test_certainty_by_hand():
    first = np.array([[[0.1, 0.9], [0.5, 0.85]]])
    second = np.array([[[0.3, 0.7], [0.1, 0.1]]])
    sure, coverage = facts(packed([first, second]), 1)
    assert sure == pytest.approx([0.75, 0.5])
    assert coverage[:, 0] == pytest.approx([0.5, 0.25])
    both, shares = facts(packed([np.concatenate([first, second])], classes=2), 2)
    assert both == pytest.approx([0.5]), "as sure as the least sure class"
    assert shares.tolist() == [[0.5, 0.25]]


def test_strata_of_size():
    assert stratum(np.array([[0.0], [0.001], [0.05], [0.06], [0.3], [0.9]])).tolist() == [0, 1, 1, 2, 3, 5]
    assert stratum(np.array([[0.0, 0.6]])).tolist() == [4]


def test_the_surest_of_each_size():
    rng = np.random.default_rng(0)
    sure, coverage = rng.random(400), rng.choice([0.0, 0.02, 0.2, 0.6], 400)[:, None]
    kept = choose(MaskRule(0.3, 0.5, 1.0), sure, coverage)
    assert (sure[kept] >= 0.3).all()
    for s in np.unique(stratum(coverage)):
        rows = stratum(coverage) == s
        assert kept[rows].sum() == min(round(0.5 * rows.sum()), (sure[rows] >= 0.3).sum())
        assert sure[rows & kept].min() >= sure[rows & ~kept].max()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_empties_are_limited(share):
    sure = np.linspace(0.9, 1, 100)
    coverage = np.where(np.arange(100) < 80, 0.0, 0.1)[:, None]
    kept = choose(MaskRule(0.5, 1.0, share), sure, coverage)
    empties = (kept & (coverage[:, 0] == 0)).sum()
    assert kept[80:].all()
    assert empties <= share * kept.sum() < empties + 1 + share
    assert (np.flatnonzero(kept[:80]) >= 80 - empties).all(), "the surest empties"


def test_exclusive_classes_and_one_quota_for_all():
    p = np.array([[[0.9, 0.9, 0.1, 0.3]], [[0.1, 0.1, 0.9, 0.4]], [[0.0, 0.0, 0.0, 0.3]]])
    sure, coverage = facts(packed([p], classes=3), 3, exclusive=True)
    assert sure == pytest.approx([0.75])
    assert coverage.tolist() == [[0, 0.5, 0]], "the first class is background"
    sure, coverage = np.array([0.9, 0.8, 0.7, 0.6]), np.array([[0.1], [0.1], [0.4], [0.4]])
    assert choose(MaskRule(0, 0.5, stratify=False), sure, coverage).tolist() == [True, True, False, False]
    assert choose(MaskRule(0, 0.5), sure, coverage).tolist() == [True, False, True, False]


def test_what_is_said():
    p = np.array([[[0.1, 0.5, 0.9]], [[0.2, 0.6, 0.3]]], np.float32)
    assert (say_mask(p, False, "soft", 0.5) == p).all()
    assert say_mask(p, False, "hard", 0.5).tolist() == [[[0, 0, 1]], [[0, 1, 0]]]
    assert say_mask(p, True, "hard", 0.5).tolist() == [[[0, 0, 1]], [[1, 1, 0]]]
    assert say_mask(p, False, "sharpened", 0.5) == pytest.approx(p**2 / (p**2 + (1 - p) ** 2))
    assert say_mask(p, True, "sharpened", 0.5) == pytest.approx(p**2 / (p**2).sum(0))


def test_masks_that_fade():
    one = state(np.array([[0.0], [0.2], [0.4], [0.0]]))
    assert one == {"empty": 0.5, "area": pytest.approx(0.15)}
    assert collapsing(one, one) is None
    assert "empty masks rose" in collapsing({"empty": 0.61, "area": 0.15}, one)
    assert collapsing({"empty": 0.59, "area": 0.12}, one) is None
    assert "mean area" in collapsing({"empty": 0.5, "area": 0.11}, one)
