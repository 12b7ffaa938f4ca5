"""Targets, tasks and metrics as train tables and samples tell them."""

import numpy as np
import pandas as pd
import pytest

from pipeline.look.target import find_separator, find_target, find_task
from pipeline.look.words import value_of
from pipeline.store.errors import UserError


def frame(**columns):
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"id": [f"r{i}" for i in range(n)]} | columns, dtype=str)


def inferred(train, sample):
    train, sample = frame(**train), frame(**sample)
    target = find_target(train, sample, "id").value
    found = find_task(train, sample, target, "id")
    return target, value_of(found, "task"), value_of(found, "metric"), found


FLOATS, INTS = ["0.5"] * 3, ["0"] * 3
CASES = {
    "names": ({"y": ["ant", "bee", "cat"] * 9}, {"y": ["ant"] * 3}, "multiclass", "accuracy"),
    "numbers of classes": ({"y": ["0", "1", "2"] * 9}, {"y": INTS}, "multiclass", "accuracy"),
    "grades": ({"diagnosis": ["0", "1", "2", "3"] * 9}, {"diagnosis": INTS}, "ordinal", "quadratic_kappa"),
    "grades from 1": ({"severity": ["1", "2", "3"] * 9}, {"severity": INTS}, "ordinal", "quadratic_kappa"),
    "grades as floats": ({"diagnosis": ["0.0", "1.0", "2.0"] * 9}, {"diagnosis": INTS}, "ordinal", "quadratic_kappa"),
    "grades sent as values": ({"diagnosis": ["0", "1", "2"] * 9}, {"diagnosis": FLOATS}, "regression", "rmse"),
    "grades with a gap": ({"grade": ["0", "2", "5"] * 9}, {"grade": INTS}, "multiclass", "accuracy"),
    "0 and 1, floats": ({"y": ["0", "1"] * 9}, {"y": FLOATS}, "binary", "roc_auc"),
    "0 and 1, whole": ({"y": ["0", "1"] * 9}, {"y": INTS}, "binary", "accuracy"),
    "grades of two": ({"diagnosis": ["0", "1"] * 9}, {"diagnosis": INTS}, "binary", "accuracy"),
    "two names": ({"y": ["no", "yes"] * 9}, {"y": ["no"] * 3}, "binary", "accuracy"),
    "floats": ({"y": ["0.5", "1.25", "3"] * 9}, {"y": FLOATS}, "regression", "rmse"),
    "many whole numbers": ({"age": [str(v) for v in range(40)] * 3}, {"age": INTS}, "regression", "rmse"),
    "many whole labels": ({"landmark_id": [str(v) for v in range(40)] * 3}, {"landmark_id": INTS}, "multiclass", "accuracy"),
    "one-hot": ({"a": ["1", "0"] * 9, "b": ["0", "1"] * 9}, {"a": FLOATS, "b": FLOATS}, "multiclass", "log_loss"),
    "labels": ({"a": ["1", "0"] * 9, "b": ["1", "1"] * 9}, {"a": FLOATS, "b": FLOATS}, "multilabel", "average_precision"),
    "several values": ({"u": ["1.5", "2"] * 9, "v": ["3", "9"] * 9}, {"u": FLOATS, "v": FLOATS}, "regression", "rmse"),
    "whole values": ({"u": ["3", "2"] * 9, "v": ["3", "9"] * 9}, {"u": INTS, "v": INTS}, "regression", "rmse"),
    "shares": ({"u": ["1", "0"] * 9, "v": ["0", "0.5"] * 9, "w": ["0", "0.5"] * 9}, dict.fromkeys("uvw", FLOATS), "regression", "rmse"),
    "classes and values": ({"u": ["a", "b"] * 9, "v": ["1.5", "2"] * 9}, {"u": ["a"] * 3, "v": FLOATS}, "several", None),
    "0 and 1, and values": ({"u": ["0", "1"] * 9, "v": ["1.5", "2"] * 9}, {"u": INTS, "v": FLOATS}, "several", None),
    "a column a class": ({"y": ["a", "b", "c"] * 9}, dict.fromkeys("abc", FLOATS), "multiclass", "log_loss"),
    "joined": ({"y": ["a", "b", "a b", "b a c", "c", ""] * 3}, {"y": ["a"] * 3}, "multilabel", "f1_macro"),
    "joined numbers": ({"y": ["0", "16 0", "16", "7 0", "7", "7 16"] * 3}, {"y": INTS}, "multilabel", "f1_macro"),
    "joined, other sample": ({"y": ["a", "b", "a b", ""] * 3}, {"y": FLOATS}, "multilabel", "average_precision"),
    "sample with another header": ({"y": ["a", "b", "c"] * 9}, {"predicted": ["a"] * 3}, "multiclass", "accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_task_and_metric(case):
    train, sample, task, metric = CASES[case]
    target, *found, _ = inferred(train, sample)
    assert found == [task, metric]
    names = list(train)
    assert target == (names[0] if len(names) == 1 else names)


def test_targets_of_different_kinds_have_a_task_each():
    train = {"sex": ["no", "yes"] * 9, "age": ["1.5", "2"] * 9, "kind": ["a", "b", "a b"] * 6}
    found = inferred(train, {"sex": ["no"] * 3, "age": FLOATS, "kind": ["a"] * 3})[3]
    assert value_of(found, "targets") == [
        {"target": "sex", "task": "binary", "metric": "accuracy"},
        {"target": "age", "task": "regression", "metric": "rmse"},
        {"target": "kind", "task": "multilabel", "separator": " ", "metric": "f1_macro"},
    ]
    assert not next(f for f in found if f.key == "targets").sure


def test_every_metric_is_marked_uncertain():
    for train, sample, *_ in CASES.values():
        findings = inferred(train, sample)[3]
        assert [f.sure for f in findings if f.key in ("metric", "targets")] == [False]


@pytest.mark.parametrize(
    "names, order",
    [
        (["abnormal", "normal"], ["normal", "abnormal"]),
        (["malignant", "benign"], None),
        (["no", "yes"], None),
        (["cat", "dog"], None),
        (["ill", "Healthy"], None),
        (["bad", "good"], ["good", "bad"]),
    ],
)
def test_the_second_of_two_classes_is_the_one_that_is_asked(names, order):
    train = {"y": names * 9}
    assert value_of(inferred(train, {"y": FLOATS})[3], "classes") == order


def cells(*values):
    return pd.Series(list(values))


@pytest.mark.parametrize("sign", ["|", ";", ",", " "])
def test_separators(sign):
    rng = np.random.default_rng(0)
    names = np.array(["ant", "bee", "cat", "dog"])
    joined = [sign.join(names[rng.random(4) < 0.4]) for _ in range(80)]
    assert find_separator(cells(*joined)) == sign
    assert find_separator(cells(*joined, *(["ant"] * 80))) == sign


@pytest.mark.parametrize(
    "names",
    [
        ["Fat Hen", "Sugar beet", "Common wheat", "Maize", "Black-grass"],
        ["red apple", "green apple", "red pear", "green pear", "blue pear", "blue apple", "big apple", "big pear"],
        ["Smith, John", "Smith, Ann", "Miller, Ann", "Miller, John", "Lee, Ann"],
        ["a", "b"],
    ],
)
def test_names_with_spaces_or_commas_are_not_joined_labels(names):
    assert find_separator(cells(*names * 5)) is None


REFUSED = {
    "nothing asked": ({"y": ["a", "b"]}, {}, "the sample submission has no column beside 'id'"),
    "no target": ({}, {"y": FLOATS}, "the train table has no column beside 'id'"),
    "unknown columns": ({"y": ["a", "b"] * 2}, {"u": FLOATS, "v": FLOATS}, "'u', 'v': neither columns of the train table"),
    "empty": ({"y": ["", ""]}, {"y": FLOATS}, "no value in column 'y'"),
    "decimal commas": ({"y": ["0,5", "1,5"]}, {"y": ["0,5"]}, "decimal commas"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    train, sample, said = REFUSED[case]
    train, sample = (pd.DataFrame({"id": ["0", "1", "2"]}) if not t else frame(**t) for t in (train, sample))
    with pytest.raises(UserError, match=said) as caught:
        find_task(train, sample, find_target(train, sample, "id").value, "id")
    assert "\n" not in str(caught.value)
