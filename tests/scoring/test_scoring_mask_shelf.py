"""Rows of maps put together, mixed and compared; thresholds of the mean of models."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.masks.decide import Decision
from pipeline.masks.maps import Maps, layout, pack, write_mean
from pipeline.scoring.mask_shelf import LEVELS, Mixed, _above, moving, same_as_mean, same_rows

SIZES = np.array([[4, 6], [5, 5], [3, 8]])


def flat_of(rng, where):
    return np.concatenate(
        [pack(rng.random((where.classes + where.extra, *size)), rng.random(where.classes)) for size in where.sizes]
    )


def test_mixed_maps_are_weighted_means_row_by_row():
    where, rng = layout(SIZES, 2, 1), np.random.default_rng(0)
    members = [Maps(flat_of(rng, where), where) for _ in range(3)]
    weights = rng.dirichlet(np.ones(3), len(SIZES))
    mixed = Mixed(members, weights)
    for i in range(len(SIZES)):
        np.testing.assert_allclose(mixed[i], sum(weights[i, m] * members[m][i] for m in range(3)), atol=1e-6)
        wanted = sum(weights[i, m] * members[m].present(i) for m in range(3))
        np.testing.assert_allclose(mixed.present(i), wanted, atol=1e-6)
        assert mixed.size(i) == tuple(SIZES[i])


def test_rows_that_differ_are_found_and_another_length_is_no_row():
    where, rng = layout(SIZES, 1), np.random.default_rng(1)
    flat = flat_of(rng, where)
    other = flat.copy()
    other[where.starts[1] + 3] += np.float16(0.25)
    assert same_rows(flat, other, where).tolist() == [True, False, True]
    assert same_rows(flat, other, where, 0.3).all()
    assert not same_rows(flat, flat[:-1], where).any()


@given(st.integers(0, 10**6))
def test_shares_above_levels_are_those_of_brute_force(seed):
    where, rng = layout(SIZES, 2, 1), np.random.default_rng(seed)
    maps = Maps(flat_of(rng, where), where)
    found = _above(where, maps.flat)
    pixels = sum(height * width for height, width in SIZES.tolist())
    for level in rng.integers(0, LEVELS + 1, 5):
        wanted = [sum((maps[i][c] > level / LEVELS).sum() for i in range(3)) / pixels for c in range(2)]
        # A half float may lie on a level, where the product is rounded.
        np.testing.assert_allclose(found[:, level], wanted, atol=1.01 / pixels)


def test_thresholds_of_the_mean_leave_what_the_models_leave():
    rng = np.random.default_rng(2)
    where = layout(np.tile([40, 40], (20, 1)), 1)
    models = [np.clip(rng.beta(0.4, 0.4, where.total), 0, 1).astype(np.float16) for _ in range(5)]
    mean = np.mean(models, 0, dtype=np.float32).astype(np.float16)
    setting = (Decision(threshold=0.7, top=0.9, top_area=0.01),)
    (moved,) = moving(where, models, mean)(setting)
    pixel = np.ones(where.total, bool)
    pixel[where.starts[1:] - 1] = False  # presence is no pixel
    for name, old in (("threshold", 0.7), ("top", 0.9)):
        wanted = np.mean([(m[pixel] > old).mean() for m in models])
        assert (mean[pixel] > getattr(moved, name)).mean() == pytest.approx(wanted, abs=0.02)
    assert moved.threshold < 0.7
    assert moving(where, models[:1], models[0])(setting) == setting
    untuned = (Decision(threshold=0.5),)
    assert moving(where, [mean], mean)(untuned) == untuned


def test_a_weighted_mean_is_proved_row_by_row_in_little_memory(tmp_path):
    where, rng = layout(np.tile([64, 64], (60, 1)), 1), np.random.default_rng(3)
    flats, shares = [rng.random(where.total, np.float32).astype(np.float16) for _ in range(3)], [0.5, 0.3, 0.2]
    write_mean(tmp_path / "mean.npy", flats, shares)
    mean = np.array(np.load(tmp_path / "mean.npy"))
    mean[where.starts[7] + 5] += np.float16(0.1)
    tracemalloc.start()
    right = same_as_mean(mean, flats, where, 2e-3, shares)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.flatnonzero(~right).tolist() == [7]
    assert not same_as_mean(mean, flats, where, 2e-3).any(), "by these weights alone"
    assert peak < mean.nbytes / 3
