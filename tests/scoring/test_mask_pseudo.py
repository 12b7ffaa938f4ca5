"""Pseudo-labels of masks: sure images, by size of their masks, not too many empty ones, soft as they are."""

import numpy as np
import pytest
from salt import packed

from pipeline.scoring.mask_pseudo import MaskRule, choose, facts, soft, stratum, worth


def test_certainty_by_hand():
    first = np.array([[[0.1, 0.9], [0.5, 0.85]]])
    second = np.array([[[0.3, 0.7], [0.1, 0.1]]])
    sure, coverage = facts(packed([first, second]))
    assert sure == pytest.approx([0.75, 0.5])
    assert coverage[:, 0] == pytest.approx([0.5, 0.25])
    both, shares = facts(packed([np.concatenate([first, second])], classes=2))
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


def test_targets_are_soft_and_the_rule_is_judged():
    maps = packed([np.full((1, 2, 2), v) for v in (0.25, 0.5, 0.75)])
    kept = np.array([True, False, True])
    targets = soft(maps, kept)
    assert [float(targets[i].mean()) for i in range(len(targets))] == [0.25, 0.75]
    assert worth(np.array([0.5, 0.1, 0.9]), kept) == pytest.approx({"kept": 2 / 3, "score": 0.7, "score_of_all": 0.5})
    assert np.isnan(worth(np.array([0.5]), np.array([False]))["score"])
