"""Learners of masks are blind to the folds that they speak of."""

import numpy as np
import pytest

from pipeline.forecast.mask_table import FEW, opinions, trees


def test_trees_learn_and_stay_in_range():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3))
    y = np.clip(0.5 + 0.3 * np.sign(x[:, 0]) * (x[:, 1] > 0), 0, 1)
    model = trees(x, y)
    fresh = rng.normal(size=(500, 3))
    right = 0.5 + 0.3 * np.sign(fresh[:, 0]) * (fresh[:, 1] > 0)
    assert np.abs(model(fresh) - right).mean() < 0.05
    assert model(100 * fresh).min() >= y.min()
    assert model(100 * fresh).max() <= y.max()
    few = trees(x[: FEW - 1], y[: FEW - 1])
    assert few(fresh) == pytest.approx(np.full(500, y[: FEW - 1].mean()))
    assert trees(x[:0], y[:0])(fresh[:2]).tolist() == [0, 0]
    assert len(model(fresh[:0])) == 0


def test_an_opinion_knows_neither_the_object_nor_the_fold_it_is_for():
    rng = np.random.default_rng(1)
    x, fold, ks = rng.normal(size=(900, 2)), rng.integers(0, 4, 900), [0, 1, 2, 3]
    value = (x[:, 0] > 0).astype(float)
    found, deployed = opinions(x, value, fold, ks)
    assert found.shape == (4, 900)
    assert np.corrcoef(found[2], value)[0, 1] > 0.9
    assert np.corrcoef(deployed(x), value)[0, 1] > 0.9
    turned = np.where(fold == 1, 1 - value, value)
    other, _ = opinions(x, turned, fold, ks)
    same = np.isclose(other, found).all
    assert np.isclose(other[1], found[1]).all(), "what is said for fold 1 never saw fold 1"
    assert np.isclose(other[:, fold == 1], found[:, fold == 1]).all(), "what is said of fold 1 never saw it"
    assert not same()
