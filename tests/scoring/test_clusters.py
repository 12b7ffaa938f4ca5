"""Look-alikes and clusters: against OpenCV, a search through all pairs, and planted truth."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.scoring.clusters import CELLS, SIDE, alike, areas, clusters, embed, shrink


@given(st.integers(SIDE, 40), st.integers(SIDE, 40), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25)
def test_small_pictures_are_means_over_areas(height, width, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, channels)).astype(np.uint8)
    for image, small in zip(images, shrink(images), strict=True):
        wanted = cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(255 * small, wanted.reshape(small.shape), atol=0.01)


@pytest.mark.parametrize("side", [1, 3, SIDE, 17])
def test_a_small_pixel_is_made_of_whole_shares(side):
    np.testing.assert_allclose(areas(side).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(areas(side).sum(0), SIDE / side, rtol=1e-6)
    assert shrink(np.full((1, side, side, 1), 65535, np.uint16)) == pytest.approx(1)


def test_products_are_correlations_whatever_the_brightness_and_flat_pictures_are_like_nothing():
    pictures = np.random.default_rng(0).random((6, SIDE, SIDE, 3)).astype(np.float32)
    x = embed(np.concatenate([pictures, 0.3 * pictures + 0.5, np.full_like(pictures[:2], 0.5)]))
    np.testing.assert_allclose(x[:6] @ x[:6].T, np.corrcoef(pictures.reshape(6, -1)), atol=1e-5)
    np.testing.assert_allclose((x[:6] * x[6:12]).sum(1), 1, atol=1e-5)
    assert not x[12:].any()
    assert (alike(x, 0.01)[12:] == -1).all()


def partition(numbers):
    """The sets that share a number, as a matrix of pairs."""
    return (numbers[:, None] == numbers) & (numbers >= 0)[:, None]


@given(st.integers(1, 60), st.floats(0.01, 0.5), st.integers(0, 999))
@settings(max_examples=60)
def test_look_alikes_are_those_of_a_search_through_all(n, distance, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[rng.random(n) < 0.1] = 0
    near = (x @ x.T >= 1 - distance) & x.any(1)[:, None]
    _, wanted = connected_components(near, directed=False)
    wanted[np.bincount(wanted)[wanted] == 1] = -1
    assert (partition(alike(x, distance)) == partition(wanted)).all()


def test_copies_are_found_though_most_pairs_are_never_compared():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(900, 40)), 4, 0) + 0.1 * rng.normal(size=(3600, 40))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert round(3600**0.5 / 2) > 2 * CELLS
    found = alike(x, 0.1)
    assert adjusted_rand_score(np.repeat(np.arange(900), 4), found) > 0.999


def test_clusters_are_the_planted_ones_and_no_more_than_there_are_points():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), [30, 20, 10, 5, 2])
    x = 5 * np.eye(8)[truth] + 0.1 * rng.normal(size=(67, 8))
    assert adjusted_rand_score(truth, clusters(x, 5, 0)) == 1
    assert (clusters(x, 5, 3) == clusters(x, 5, 3)).all()
    assert np.unique(clusters(x, 7, 0)).tolist() == list(range(7))
    assert len(np.unique(clusters(np.eye(8)[truth], 9, 0))) == 5
    assert clusters(np.ones((4, 8)), 3, 0).tolist() == [0] * 4


@pytest.mark.parametrize("seed", range(3))
def test_folds_by_look_alikes_close_the_leak_of_copies(seed):
    """Digits, each five times, moved in brightness and noise: random folds say 1.000, whole sets what is true."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    mine, fresh = np.repeat(order[:250], 5), order[250:]
    copies = digits.images[mine] / 16 * rng.uniform(0.7, 1, (1250, 1, 1)) + rng.normal(0, 0.02, (1250, 8, 8))
    groups = alike(embed(shrink(copies[..., None])), 0.015)
    groups = np.where(groups < 0, groups.max(initial=0) + 1 + np.arange(1250), groups)
    x, y, learner = copies.reshape(1250, -1), digits.target[mine], KNeighborsClassifier(1)
    true = learner.fit(x, y).score(digits.data[fresh] / 16, digits.target[fresh])
    leaky = cross_val_score(learner, x, y, cv=KFold(5, shuffle=True, random_state=seed)).mean()
    honest = cross_val_score(learner, x, y, groups=groups, cv=GroupKFold(5)).mean()
    print(
        f"true {true:.3f}, random folds {leaky:.3f}, by sets {honest:.3f}, sets {adjusted_rand_score(mine, groups):.3f}"
    )
    assert leaky > 0.995
    assert abs(honest - true) < 0.03 < leaky - true
