import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.maps import Averaged, InTurn, Maps, gather, layout, pack, write_flat, write_mean
from pipeline.store.files import read_npy

SIZES = np.array([[3, 4], [5, 2], [1, 1], [4, 4], [2, 7]])


def drawn(sizes=SIZES, classes=2, extra=1, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        (rng.random((classes + extra, h, w)).astype(np.float16), rng.random(classes).astype(np.float16))
        for h, w in sizes.tolist()
    ]
    return rows, np.concatenate([pack(*row) for row in rows])


@pytest.mark.parametrize("classes, extra", [(1, 0), (1, 1), (3, 0), (2, 1)])
def test_rows_are_read_as_they_were_packed(classes, extra):
    rows, flat = drawn(classes=classes, extra=extra)
    maps = Maps(flat, layout(SIZES, classes, extra))
    assert flat.dtype == np.float16
    assert len(maps) == 5
    for i, (found, (planes, present)) in enumerate(zip(maps, rows, strict=True)):
        assert found.dtype == np.float32
        assert maps.size(i) == tuple(SIZES[i])
        assert np.array_equal(found, planes)
        assert maps.present(i).tolist() == present.tolist()


def test_a_part_reads_the_same_rows_without_a_copy():
    rows, flat = drawn()
    maps = Maps(flat, layout(SIZES, 2, 1))
    part = maps.part(np.array([3, 0, 4])).part(np.array([True, False, True]))
    assert len(part) == 2
    assert part.flat is flat
    for i, row in enumerate((3, 4)):
        assert np.array_equal(part[i], rows[row][0])
        assert part.present(i).tolist() == rows[row][1].tolist()
        assert part.size(i) == tuple(SIZES[row])


def test_layout_of_a_part_is_that_of_an_array_of_these_rows():
    rows, _ = drawn()
    some = np.array([4, 1])
    part = layout(SIZES, 2, 1).part(some)
    alone = Maps(np.concatenate([pack(*rows[i]) for i in some]), part)
    assert np.array_equal(alone[0], rows[4][0])
    assert np.array_equal(alone[1], rows[1][0])
    assert part.total == len(alone.flat)


@pytest.mark.parametrize("scale, side", [(1.0, 30), (0.5, 15), (0.1, 3), (0.11, 4), (2.0, 60), (1 / 3, 10)])
def test_sides_are_scaled_and_rounded_up(scale, side):
    assert layout(np.array([[30, 30]]), 1, scale=scale).sizes.tolist() == [[side, side]]


def test_a_flat_array_of_another_length_is_our_mistake():
    with pytest.raises(AssertionError, match="values"):
        Maps(np.zeros(3, np.float16), layout(SIZES, 1))


@given(st.lists(st.floats(0, 2), min_size=1, max_size=4).filter(lambda w: sum(w) > 0.1), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_mean_is_the_weighted_mean_whatever_the_chunk(tmp_path_factory, weights, chunk):
    folder = tmp_path_factory.mktemp("mean")
    flats = [drawn(seed=j)[1] for j in range(len(weights))]
    write_mean(folder / "a.npy", flats, weights, chunk)
    write_mean(folder / "b.npy", flats, weights)
    assert (folder / "a.npy").read_bytes() == (folder / "b.npy").read_bytes()
    mean = read_npy(folder / "a.npy")
    assert mean.dtype == np.float16
    assert mean == pytest.approx(np.average(np.array(flats, np.float64), axis=0, weights=weights), abs=1e-3)


def test_the_mean_of_one_is_itself_and_equal_weights_are_the_default(tmp_path):
    flats = [drawn(seed=j)[1] for j in range(3)]
    write_mean(tmp_path / "one.npy", flats[:1])
    assert np.array_equal(read_npy(tmp_path / "one.npy"), flats[0])
    write_mean(tmp_path / "all.npy", flats)
    exact = np.mean([flat.astype(np.float32) for flat in flats], axis=0).astype(np.float16)
    assert np.array_equal(read_npy(tmp_path / "all.npy"), exact)
    write_mean(tmp_path / "twice.npy", flats, [2, 2, 2])
    assert np.array_equal(read_npy(tmp_path / "twice.npy"), exact)
    np.save(tmp_path / "numpy.npy", exact)
    assert (tmp_path / "numpy.npy").read_bytes() == (tmp_path / "all.npy").read_bytes()


def test_parts_of_folds_come_together_in_table_order(tmp_path):
    rows, flat = drawn()
    folds = np.array([2, 0, 2, 1, 0])
    parts = {k: np.concatenate([pack(*rows[i]) for i in np.flatnonzero(folds == k)]) for k in (0, 1, 2)}
    gather(tmp_path / "oof.npy", layout(SIZES, 2, 1), parts, folds)
    assert np.array_equal(read_npy(tmp_path / "oof.npy"), flat)
    with pytest.raises(AssertionError):
        gather(tmp_path / "bad.npy", layout(SIZES, 2, 1), {**parts, 1: np.append(parts[1], parts[1][:1])}, folds)
    assert not (tmp_path / "bad.npy").exists()


def test_too_few_values_are_not_written(tmp_path):
    with pytest.raises(AssertionError, match="3 of 4 values"):
        write_flat(tmp_path / "x.npy", [np.ones(3)], 4)
    assert not list(tmp_path.iterdir())


def test_models_are_averaged_and_take_turns_when_they_are_asked():
    where = layout(SIZES, 2, 1)
    flats = [[drawn(seed=2 * k + r)[1] for r in range(2)] for k in range(2)]
    models = [Averaged([Maps(flat, where) for flat in each]) for each in flats]
    turns, some = InTurn(models, np.array([0, 2, 3])), [0, 2, 3]
    assert (len(models[0]), len(turns)) == (len(SIZES), 3)
    for n, i in enumerate(some):
        start, end = where.starts[i], where.starts[i + 1]
        wanted = np.mean([flat[start:end] for flat in flats[n % 2]], 0, dtype=np.float32)
        for maps, at in ((turns, n), (models[n % 2], i)):
            np.testing.assert_array_equal(np.r_[maps[at].ravel(), maps.present(at)], wanted)
