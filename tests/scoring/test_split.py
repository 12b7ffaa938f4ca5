import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.scoring.split import assign, assign_units, balance, union
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
    assert sizes.max() - sizes.min() <= (10 if grouped else 3 if method == "multilabel" else 1)
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
    assert (np.ptp(counts, axis=1) <= 3).all()


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
        ("stratified", 4, [0, 1, 2, 3], "every class has fewer than 4 rows"),
    ],
)
def test_too_few_rows(method, rows, units, word):
    with pytest.raises(UserError, match=f"{word}.*lower folds.n"):
        assign(method, classes(np.arange(rows) % 2), np.array(units), 4, 0)


def test_a_rare_class_is_no_error():
    y = np.r_[np.zeros(20, int), 1]
    assert len(set(assign("stratified", classes(y), np.arange(21), 5, 0).tolist())) == 5


def test_units_of_equal_kind_are_dealt_evenly():
    unit = np.arange(12).repeat(3)
    folds = assign_units(classes(unit % 3), unit, 4, 0)
    assert folds.shape == (12,)
    assert (np.bincount(folds[unit]) == 9).all()
    table = balance(classes(unit % 3), folds[unit], ["a", "b", "c"])
    assert table == {"a": [3] * 4, "b": [3] * 4, "c": [3] * 4}


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
    assert np.mean(ours) <= 1.5 * np.mean(theirs)
    assert np.mean(sizes) < 0.05


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
