import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.scoring.split import (
    assign,
    balance,
    blocks,
    compact,
    draw_holdout,
    draw_test_like,
    to_sparse,
    too_near,
    union,
)
from pipeline.store.errors import UserError

METHODS = ["kfold", "stratified", "group", "stratified-group", "multilabel"]


def classes(y):
    return np.eye(y.max() + 1, dtype=np.int64)[y]


def patients(seed):
    """Some 150 patients of skewed size; a patient's rows lean to one of five unequal classes."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(2, 0.8, 150).astype(int) + 1
    unit = np.arange(150).repeat(sizes)
    own = rng.choice(5, 150, p=[0.5, 0.25, 0.15, 0.07, 0.03])[unit]
    y = np.where(rng.random(len(unit)) < 0.7, own, rng.choice(5, len(unit), p=[0.5, 0.25, 0.15, 0.07, 0.03]))
    return y, unit


@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
@pytest.mark.parametrize("method", METHODS)
def test_every_row_has_a_fold_and_the_seed_decides(method, grouped):
    rng = np.random.default_rng(0)
    units = rng.integers(0, 60, 200) if grouped else np.arange(200)
    strata = classes(rng.integers(0, 3, 200))
    folds = assign(method, strata, units, 5, seed=1)
    assert folds.shape == (200,)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= (4 if grouped else 1)
    assert all(len(set(folds[units == u])) == 1 for u in set(units))
    assert (folds == assign(method, strata, units, 5, seed=1)).all()
    assert (folds != assign(method, strata, units, 5, seed=2)).any()


@given(st.lists(st.integers(0, 2), min_size=12, max_size=60), st.integers(2, 4), st.integers(0, 3))
def test_stratified_counts_differ_by_1_at_most(y, n, seed):
    y = np.array(y)
    folds = assign("stratified", classes(y), np.arange(len(y)), n, seed)
    for c in set(y.tolist()):
        counts = np.bincount(folds[y == c], minlength=n)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("method", ["multilabel", "stratified", "stratified-group"])
def test_every_label_is_balanced(method):
    strata = (np.random.default_rng(0).random((300, 4)) < [0.5, 0.3, 0.1, 0]).astype(int)
    strata[:, 3] = ~strata.any(1)
    folds = assign(method, strata, np.arange(300), 5, 0)
    counts = np.array(list(balance(strata, folds, list("abcd")).values()))
    assert (counts.sum(1) == strata.sum(0)).all()
    assert (np.ptp(counts, axis=1) <= (1 if method == "multilabel" else 2)).all()


@given(st.lists(st.integers(0, 15), min_size=8, max_size=60), st.integers(2, 4), st.sampled_from(METHODS))
def test_groups_are_never_divided(units, n, method):
    units = np.array(units)
    if len(set(units.tolist())) < n:
        with pytest.raises(UserError, match=rf"groups cannot fill {n} folds: lower folds\.n"):
            assign(method, classes(units % 3), units, n, 0)
        return
    if len(set(units.tolist())) < len(units):
        folds = assign(method, classes(units % 3), units, n, 0)
        assert all(len(set(folds[units == u])) == 1 for u in set(units.tolist()))
        assert set(folds.tolist()) == set(range(n))


def test_kfold_and_group_ignore_the_strata():
    rng = np.random.default_rng(0)
    units = rng.integers(0, 50, 100)
    one, other = classes(rng.integers(0, 3, 100)), classes(rng.integers(0, 3, 100))
    assert (assign("group", one, units, 4, 0) == assign("group", other, units, 4, 0)).all()
    assert (assign("kfold", one, np.arange(100), 4, 0) == assign("kfold", other, np.arange(100), 4, 0)).all()


@pytest.mark.parametrize(
    "method, rows, units, word",
    [
        ("kfold", 3, [0, 1, 2], "3 labelled rows cannot fill 4 folds"),
        ("group", 6, [0, 0, 1, 1, 2, 2], "3 groups cannot fill 4 folds"),
    ],
)
def test_too_few_rows(method, rows, units, word):
    with pytest.raises(UserError, match=f"{word}.*lower folds.n"):
        assign(method, classes(np.arange(rows) % 2), np.array(units), 4, 0)


@pytest.mark.parametrize("method", ["stratified", "multilabel"])
@pytest.mark.parametrize("y", [np.r_[np.zeros(20, int), 1], np.arange(7), np.arange(4).repeat(3)])
def test_classes_rarer_than_the_folds_are_spread_as_well_as_can_be(method, y):
    folds = assign(method, classes(y), np.arange(len(y)), 5, 0)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    assert all(np.bincount(folds[y == c]).max() <= -(-(y == c).sum() // 5) for c in set(y.tolist()))


def test_the_reference_is_a_choice_but_keeps_no_groups():
    strata = np.random.default_rng(0).random((100, 4)) < 0.4
    folds = assign("iterative", strata, np.arange(100), 4, 3)
    splits = MultilabelStratifiedKFold(4, shuffle=True, random_state=3).split(strata, strata)
    assert all((np.flatnonzero(folds == k) == held_out).all() for k, (_, held_out) in enumerate(splits))
    with pytest.raises(UserError, match="cannot keep groups"):
        assign("iterative", strata, np.arange(100) // 2, 4, 3)


def test_a_sparse_label_matrix_gives_the_same_folds():
    strata = np.random.default_rng(0).random((100, 4)) < 0.4
    for units in (np.arange(100), np.arange(100) // 3):
        dense = assign("multilabel", strata, units, 4, 3)
        assert (dense == assign("multilabel", sparse.csr_matrix(strata.astype(float)), units, 4, 3)).all()


def test_quality_against_scikit_learn():
    def spread(y, folds):
        """Mean deviation of a fold's share of a class from one fifth, rare classes as heavy as common ones."""
        shares = np.array([np.bincount(folds[y == c], minlength=5) / (y == c).sum() for c in range(5)])
        return np.abs(shares - 0.2).mean()

    ours, theirs, sizes = [], [], []
    for seed in range(5):
        y, unit = patients(seed)
        folds = assign("stratified-group", classes(y), unit, 5, seed)
        ours.append(spread(y, folds))
        sizes.append(np.ptp(np.bincount(folds)) / len(y))
        other = np.empty(len(y), int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for k, (_, held_out) in enumerate(splitter.split(y, y, unit)):
            other[held_out] = k
        theirs.append(spread(y, other))
    assert np.mean(ours) <= np.mean(theirs)
    assert np.mean(sizes) < 0.005


@given(
    st.integers(1, 15).flatmap(
        lambda n: st.lists(st.tuples(*[st.sampled_from("xyzuvw") | st.just("")] * 3), min_size=n)
    )
)
def test_union_is_transitive(rows):
    keys = [np.array(column) for column in zip(*rows, strict=True)]
    index = union(*keys)
    linked = sum((key[:, None] == key) & (key != "") for key in keys)
    _, expected = connected_components(linked, directed=False)
    assert ((index[:, None] == index) == (expected[:, None] == expected)).all()


def test_union_of_integers_and_of_nothing():
    assert len(set(union(np.array([0, 0, 1, 2])).tolist())) == 3
    assert len(set(union(np.array(["", "", ""])).tolist())) == 3
    # The keys are separate: an "a" of one is not the "a" of the other.
    assert len(set(union(np.array(["a", ""]), np.array(["", "a"])).tolist())) == 2


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), min_size=6, max_size=50), st.integers(2, 5))
def test_blocks_follow_each_other_and_keep_units_and_ties(rows, n):
    order, unit = np.array([r[0] for r in rows], float), compact(np.array([r[1] for r in rows]))
    first = np.array([order[unit == u].min() for u in unit])
    if len(set(first.tolist())) < n:
        with pytest.raises(UserError, match=f"different times cannot fill {n} folds"):
            blocks(order, unit, n)
        return
    folds = blocks(order, unit, n)
    assert set(folds.tolist()) == set(range(n))
    for a in range(len(rows)):
        assert (folds[unit == unit[a]] == folds[a]).all()
        assert (folds[first == first[a]] == folds[a]).all()
        assert (folds[first > first[a]] >= folds[a]).all()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=30), st.integers(0, 6))
def test_too_near_is_within_the_gap_of_a_row_of_another_fold(rows, gap):
    order, folds = (np.array(column) for column in zip(*rows, strict=True))
    folds = folds - 2 * (folds == 0)  # the holdout
    apart = np.abs(order[:, None] - order)
    for row, text in enumerate(too_near(order.astype(float), folds, gap).tolist()):
        expected = set(folds[(apart[row] <= gap) & (folds != folds[row])].tolist())
        assert [int(k) for k in text.split()] == sorted(expected)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_blocks_of_rows_without_ties_are_of_one_size(n):
    order = np.random.default_rng(0).permutation(100)
    sizes = np.bincount(blocks(order.astype(float), np.arange(100), n))
    assert np.ptp(sizes) <= 1


@given(st.floats(0.02, 0.5), st.integers(0, 20), st.booleans())
def test_a_holdout_is_a_share_of_whole_units(share, seed, in_time):
    rng = np.random.default_rng(seed)
    units, y = rng.integers(0, 300, 900), rng.choice(3, 900, p=[0.6, 0.3, 0.1])
    order = rng.random(900) if in_time else None
    held = draw_holdout(classes(y), units, share, seed, order)
    assert abs(held.mean() - share) < 0.03
    assert not set(units[held].tolist()) & set(units[~held].tolist())
    if in_time:
        first = np.array([order[units == u].min() for u in units])
        assert first[held].min() > first[~held].max()
    else:
        assert all(abs(held[y == c].mean() - held.mean()) < 0.06 for c in range(3))
    assert (held == draw_holdout(classes(y), units, share, seed, order)).all()


def test_a_holdout_of_less_than_a_group_is_refused():
    with pytest.raises(UserError, match=r"folds.holdout = 0.05 of 10 rows is not one whole group"):
        draw_holdout(classes(np.zeros(10, int)), np.arange(10), 0.05, 0)


@given(st.lists(st.integers(-5, 40) | st.just(10**6), max_size=20).map(np.array), st.booleans())
def test_compact_numbers_units_in_order(units, text):
    units = units.astype(str) if text else units.astype(int)
    assert compact(units).tolist() == np.unique(units, return_inverse=True)[1].tolist()


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.sampled_from([bool, np.int64, float]))
def test_to_sparse_is_the_same_matrix(rows, width, seed, kind):
    labels = (np.random.default_rng(seed).random((rows, width)) < 0.4).astype(kind)
    made = to_sparse(labels)
    assert (made.toarray() == labels).all()
    assert made.has_canonical_format


@given(st.integers(90, 200), st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.35]), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=40)
def test_a_holdout_like_test_is_of_whole_units_at_the_top(n, share, size, seed):
    rng = np.random.default_rng(seed)
    units, like, y = rng.permutation(n) // size, rng.normal(size=n), rng.integers(0, 3, n)
    held = draw_test_like(classes(y), units, share, seed, like)
    assert not set(units[held]) & set(units[~held])
    assert abs(held.sum() - share * n) <= max(2 * size, 0.05 * n)
    mean = np.bincount(units, like) / np.bincount(units)
    order = np.argsort(-mean)
    least = mean[order[np.bincount(units)[order].cumsum() >= max(share, 0.2) * n - 1e-9][0]]
    assert mean[units[held]].min() >= least
    assert (draw_test_like(classes(y), units, share, seed, 3 * like + 1) == held).all()


def test_too_few_groups_like_test_are_told():
    with pytest.raises(
        UserError, match="folds.holdout = 0.02: of the 10 rows most like test it is not one whole group"
    ):
        draw_test_like(np.ones((40, 1), int), np.arange(40) // 3, 0.02, 0, np.arange(40.0))
