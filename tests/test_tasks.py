import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks import TASKS, Task

Y = np.array([[0.0], [1.0], [2.0]])


@pytest.mark.parametrize(
    "name, width, cuts",
    [
        ("binary", 1, [0.5]),
        ("multiclass", 4, []),
        ("multilabel", 4, [0.5] * 4),
        ("ordinal", 1, [0.5, 1.5, 2.5]),
        ("regression", 4, []),
        ("segmentation", 4, []),
    ],
)
def test_width_and_default_cuts(name, width, cuts):
    task = TASKS[name]
    assert task.name == name
    assert task.width(4) == width
    assert task.default_cuts(4).tolist() == cuts
    assert task.cuts == bool(cuts)
    assert task.probabilities == (name in ("binary", "multiclass", "multilabel", "segmentation"))


@pytest.mark.parametrize("name", ["binary", "multiclass", "ordinal"])
def test_targets_are_one_column_of_integers(name):
    y = TASKS[name].targets(Y)
    assert y.dtype == np.int64
    assert y.tolist() == [0, 1, 2]


def test_targets_keep_the_columns_of_labels_and_values():
    assert TASKS["multilabel"].targets(Y).tolist() == [[0], [1], [2]]
    assert TASKS["multilabel"].targets(Y).dtype == np.int64
    assert TASKS["regression"].targets(Y + 0.5).tolist() == [[0.5], [1.5], [2.5]]


@pytest.mark.parametrize(
    "name, p, cuts, labels",
    [
        ("binary", [[0.5], [0.51], [0.2]], [0.5], [0, 1, 0]),
        ("multiclass", [[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], [], [1, 0]),
        ("multilabel", [[0.2, 0.2], [0.9, 0.1]], [0.5, 0.1], [[0, 1], [1, 0]]),
        ("ordinal", [[-3.0], [0.5], [0.6], [2.4], [9.0]], [0.5, 1.5, 2.5], [0, 0, 1, 2, 3]),
        ("regression", [[0.3, 4.0]], [], [[0.3, 4.0]]),
    ],
)
def test_decide(name, p, cuts, labels):
    assert TASKS[name].decide(np.array(p), np.array(cuts)).tolist() == labels


@given(st.lists(st.floats(-1, 5), min_size=1, max_size=20), st.lists(st.floats(0, 4), min_size=1, max_size=4))
def test_a_grade_is_the_number_of_cuts_below(values, cuts):
    p, cut = np.array(values)[:, None], np.sort(cuts)
    assert (TASKS["ordinal"].decide(p, cut) == (p > cut).sum(1)).all()


def test_float32_predictions_meet_float64_cuts_without_rounding():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    p, cut = np.array([[low], [high]], np.float32), np.array([(float(low) + float(high)) / 2])
    for name in ("binary", "ordinal"):
        assert TASKS[name].decide(p, cut).tolist() == [0, 1]
    assert TASKS["multilabel"].decide(p, cut).tolist() == [[0], [1]]


@pytest.mark.parametrize("name", ["binary", "multiclass", "ordinal"])
def test_strata_are_the_classes(name):
    strata = TASKS[name].strata(np.array([0, 2, 2, 5]), bins=3)
    assert strata.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_a_row_without_labels_is_a_stratum():
    strata = TASKS["multilabel"].strata(np.array([[1, 1], [0, 0], [0, 1]]), bins=3)
    assert strata.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("n, bins", [(100, 10), (23, 5), (3, 10), (1, 10)])
def test_regression_strata_are_equal_bins_in_order(n, bins):
    y = np.random.default_rng(0).normal(size=(n, 2))
    strata = TASKS["regression"].strata(y, bins)
    assert (strata.sum(1) == 1).all()
    sizes = strata.sum(0)
    assert len(sizes) == min(n, bins)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(strata.argmax(1)[y[:, 0].argsort()]) >= 0).all()


@pytest.mark.parametrize("n, bins", [(40, 4), (7, 10), (1, 3)])
def test_masks_are_stratified_by_whether_and_how_large(n, bins):
    rng = np.random.default_rng(0)
    y = rng.random((n, 2)) * (rng.random((n, 1)) < 0.7)
    task = TASKS["segmentation"]
    assert task.targets(y) is y
    assert task.harden(y) is y
    strata, empty = task.strata(y, bins), y.sum(1) == 0
    assert (strata.sum(1) == 1).all()
    parts = [np.flatnonzero(column) for column in strata.T]
    assert not empty.any() or set(parts.pop(0)) == set(np.flatnonzero(empty))
    assert len(parts) == min(bins, np.count_nonzero(~empty))
    assert np.ptp([len(part) for part in parts] or [0]) <= 1
    assert all(y[a].sum(1).max() < y[b].sum(1).min() for a, b in itertools.pairwise(parts))


def test_masks_that_are_all_empty_are_one_stratum():
    assert TASKS["segmentation"].strata(np.zeros((3, 1)), 4).tolist() == [[1], [1], [1]]


def test_tasks_are_frozen():
    assert all(isinstance(task, Task) and task.heads for task in TASKS.values())
    with pytest.raises(AttributeError):
        TASKS["binary"].name = "x"


def test_soft_and_unknown_targets_stay_numbers():
    soft = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    multiclass, labels, binary = (TASKS[n] for n in ("multiclass", "multilabel", "binary"))
    assert multiclass.targets(soft) is soft
    assert multiclass.harden(soft).tolist() == [0, 1]
    assert multiclass.strata(soft, 3).tolist() == [[1, 0], [0, 1]]
    assert labels.targets(soft) is soft
    assert labels.harden(soft).tolist() == [[0, 0, 0], [0, 1, 0]]
    assert binary.targets(soft[:, :1]).tolist() == [0.5, 0.0]
    assert binary.harden(np.array([0.5, 0.51])).tolist() == [0, 1]
    assert binary.targets(np.array([[1.0], [0.0]])).dtype == np.int64
    part = np.array([[1.0, np.nan], [np.nan, 0.0], [0.0, 1.0]])
    assert np.array_equal(labels.targets(part), part, equal_nan=True)
    assert np.array_equal(labels.harden(part), part, equal_nan=True)
    assert labels.strata(labels.targets(part), 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    values = TASKS["regression"]
    assert values.harden(part) is part
    assert values.strata(np.array([[3.0, 1.0], [np.nan, 2.0], [1.0, np.nan], [2.0, 0.0]]), 4).argmax(1).tolist() == [
        2,
        3,
        0,
        1,
    ]
