from dataclasses import replace

import numpy as np
import pytest
from house import prepare
from hypothesis import given
from hypothesis import strategies as st
from miniatures import pets

from pipeline.preflight.findings import BROKEN, OK
from pipeline.preflight.labels import agreement, alignment, cheap, columns, judged_shuffle, local, neighbours, teller
from pipeline.preflight.material import material_of
from pipeline.preflight.overfit import overfit
from pipeline.stages.check import pose
from pipeline.tasks import TASKS
from pipeline.training.which import Which


@given(st.integers(2, 4), st.integers(0, 10**6))
def test_agreement_is_the_mean_over_pairs_of_neighbours(classes, seed):
    rng = np.random.default_rng(seed)
    y, features = rng.integers(0, classes, 12), rng.normal(size=(12, 3))
    t, near = columns(TASKS["multiclass"], y[:, None], classes), neighbours(features, 3)
    distance = ((features[:, None] - features) ** 2).sum(2) + np.diag(np.full(12, np.inf))
    pairs = [(i, j) for i in range(12) for j in distance[i].argsort()[:3]]
    freq = np.bincount(y, minlength=classes) / 12
    if (freq > 0).sum() > 1:
        # Agreement beyond what the frequencies of the classes make likely, as a share of its most.
        expected = np.mean([(y[i] == y[j]) - freq[y[i]] - freq[y[j]] + (freq**2).sum() for i, j in pairs])
        assert agreement(t, near) == pytest.approx(expected / (1 - (freq**2).sum()), abs=1e-9)


def test_a_row_is_never_its_own_neighbour_even_among_copies():
    near = neighbours(np.zeros((9, 2)), 3)
    assert not (near == np.arange(9)[:, None]).any()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
def test_targets_become_centred_columns_of_one_variance(task):
    rng = np.random.default_rng(1)
    y = rng.normal(size=(40, 2)) if task == "regression" else rng.integers(0, 2, (40, 2)).astype(float)
    y = y if task in ("multilabel", "regression") else y[:, :1] * 2
    if task in ("multilabel", "regression"):
        y[3, 1] = np.nan
    t = columns(TASKS[task], y, 3)
    known = ~np.isnan(y).any(1)
    assert np.abs(t[known].mean(0)).max() < 0.1
    assert (t**2).sum() / len(t) == pytest.approx(1, abs=0.05)
    if task in ("multilabel", "regression"):
        assert t[3, 1] == 0


def test_a_shuffle_test_is_right_as_often_as_it_says():
    rng = np.random.default_rng(2)
    verdicts = [judged_shuffle(*np.split(rng.random(200), [1]), "", "labels").verdict for _ in range(400)]
    assert np.mean([verdict == OK for verdict in verdicts]) < 0.03  # 1 % of shuffled labels pass
    assert np.mean([verdict == BROKEN for verdict in verdicts]) > 0.9
    assert judged_shuffle(2.0, rng.random(199), "", "labels").verdict == OK


def test_cheap_features_tell_brightness_place_and_direction():
    images = np.zeros((4, 16, 16, 1), np.uint8)
    images[0], images[1, :4, :4], images[2, ::4], images[3, :, ::4] = 200, 200, 200, 200
    features = cheap(list(images))
    distance = np.linalg.norm(features[:, None] - features, axis=2)
    assert (distance[~np.eye(4, dtype=bool)] > 0.5).all()
    assert np.isfinite(features).all()


def test_the_regression_on_pixels_is_that_of_scikit_learn():
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(3)
    images = rng.random((5, 40, 40, 2)).astype(np.float32)
    x, masks = np.stack([local(image) for image in images]), rng.random((5, 2, 32, 32))
    y = masks.reshape(5, 2, -1).transpose(0, 2, 1).reshape(-1, 2)
    flat = x.reshape(len(y), -1).astype(np.float64)
    error = ((LinearRegression().fit(flat, y).predict(flat) - y) ** 2).sum()
    assert teller(x)(masks) == pytest.approx(1 - error / ((y - y.mean(0)) ** 2).sum(), abs=1e-6)


def test_any_number_of_channels_and_any_depth():
    rng = np.random.default_rng(5)
    for channels, kind in ((1, np.uint8), (3, np.uint16), (12, np.float32)):
        full = 1 if kind is np.float32 else np.iinfo(kind).max
        images = [(rng.random((20, 14, channels)) * full).astype(kind) for _ in range(3)]
        assert cheap(images).shape == (3, channels * 64 + 2 * channels + 128)
        assert local(images[0] / np.float32(full)).shape == (32 * 32, 5 * channels + 1)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_that_fit_pass_and_shuffled_ones_do_not(task, material):
    one = material(task)
    assert alignment(one).verdict == OK
    table = one.job.table
    order = np.random.default_rng(4).permutation(len(table.scored))
    mixed = replace(table, y=np.concatenate([table.y[table.scored][order], table.y[len(order) :]]))
    assert alignment(replace(one, job=replace(one.job, table=mixed))).verdict == BROKEN


def test_several_targets_are_asked_together(house):
    pets(house)
    prepare("pets")
    one = material_of(pose("pets/a"), Which((0,)))
    t = columns(one.job.task, one.y, len(one.job.table.classes))
    np.testing.assert_allclose([(t[:, :3] ** 2).sum(), (t[:, 3:] ** 2).sum()], len(one.y))
    assert alignment(one).verdict == OK
    assert overfit(one).verdict == OK


def turned(one, turn):
    """Masks that are written into the flat file in another way."""
    dense = one.plain.dense
    dense.truth = replace(dense.truth, flat=np.array(dense.truth.flat))
    for row in one.job.table.labelled:
        raw = dense.truth.raw(int(row))
        raw[...] = turn(raw.copy())


def test_masks_that_fit_pass_and_those_of_other_images_or_upside_down_do_not(material):
    one = material("segmentation")
    fits = alignment(one)
    assert fits.verdict == OK
    turned(one, lambda raw: raw[::-1])
    assert "upside down they fit better" in alignment(one).advice
    assert alignment(one).verdict == BROKEN
