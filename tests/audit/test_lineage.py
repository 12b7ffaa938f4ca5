"""What a model saw, against a brute-force reading of the rules: own rows, groups and images, through any chain."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audit.lineage import Fold, Lineage, Seen, worst_seen
from pipeline.audit.records import Model, Shelf
from pipeline.store.artifacts import FoldFiles
from pipeline.store.table import EXTRA, HOLDOUT, TEST, UNLABELLED, Table

CODES = [0, 1, 2, TEST, HOLDOUT, EXTRA, UNLABELLED]


@st.composite
def tables(draw):
    n = draw(st.integers(4, 12))
    folds = np.array(draw(st.lists(st.sampled_from(CODES), min_size=n, max_size=n)))
    groups = np.array(draw(st.lists(st.sampled_from(["", "", "p", "q"]), min_size=n, max_size=n)))
    digests = np.array(draw(st.lists(st.sampled_from([f"d{i}" for i in range(9)]), min_size=n, max_size=n)))
    ids = np.array([f"i{i}" for i in range(n)])
    return Table(
        ids, folds, groups, np.arange(n), ids, digests, np.zeros((n, 1)), ["a", "b"], np.ones(n), np.zeros((n, 0))
    )


def model_of(run, rows, parents=(), chosen_on=(), fold=0):
    folder = Path("runs") / run / f"fold{fold}"
    model = Model(run, FoldFiles(folder), {"parents": list(parents), "chosen_on": list(chosen_on)})
    model.__dict__["rows"] = np.array(rows, np.int64)
    return model


def lineage_of(models, **by_name):
    lineage = Lineage(lambda shelf: [])
    lineage._tables = by_name
    for model in models:
        receipt = {"stage": "train", "config": {}, "parents": [], "outputs": {}}
        lineage._shelves[model.run] = Shelf(
            model.run, receipt, by_name[model.run.split("/")[0]], None, [], [model], lineage
        )
    return lineage


def tells(table, row, other, fold, same=False, near=None):
    """Say whether a labelled row of `other` tells of a fold of `table`; `same`: names of groups mean the same in both.

    `near` are numbers of the rows of both that near copies share (-1: none).
    """
    if other.folds[row] in (TEST, UNLABELLED):
        return False
    for mine in np.flatnonzero(table.folds == fold):
        if other.digests[row] == table.digests[mine]:
            return True
        if near is not None and near[1][row] == near[0][mine] >= 0:
            return True
        if other is table and row == mine:
            return True
        if (other is table or same) and other.groups[row] == table.groups[mine] != "":
            return True
    return False


@given(tables(), st.data())
@settings(max_examples=150, deadline=None)
def test_what_rows_tell(table, data):
    rows = data.draw(st.lists(st.integers(0, len(table.ids) - 1), unique=True))
    fold = data.draw(st.sampled_from([0, 1, HOLDOUT]))
    model = model_of("c/a", rows)
    seen = lineage_of([model], c=table).model_saw(model, Fold("c", fold))
    assert seen.level == ("saw" if any(tells(table, row, table, fold) for row in rows) else "blind")
    assert (seen.chain == ()) == (seen.level == "blind")


@given(tables(), tables(), st.data())
@settings(max_examples=150, deadline=None)
def test_what_another_competition_tells_through_a_chain(table, other, data):
    rows = data.draw(st.lists(st.integers(0, len(other.ids) - 1), unique=True))
    chosen = data.draw(st.sampled_from([[], [1], [0, 1, 2]]))
    far = model_of("far/a", rows, chosen_on=chosen)
    middle = model_of("far/b", [], [{"role": "init", "run": "far/a", "files": {"runs/far/a/fold0/x": ""}}])
    near = model_of("c/a", [], [{"role": "init", "run": "far/b", "files": {"runs/far/b/fold0/x": ""}}])
    lineage = lineage_of([far, middle, near], c=table, far=other)
    lineage.made_by = lambda path: [far if "far/a" in str(path) else middle]
    learnt = [*rows, *np.flatnonzero(np.isin(other.folds, chosen))]
    same = data.draw(st.booleans())
    numbers = st.sampled_from([-1, -1, -1, 0, 1])
    alike = tuple(np.array([data.draw(numbers) for _ in rows.ids]) for rows in (table, other))
    meant = patch("pipeline.audit.lineage.group_column", return_value="patient" if same else None)
    with meant, patch("pipeline.audit.lineage.near_between", return_value=alike):
        seen = lineage.model_saw(near, Fold("c", 1))
    assert seen.level == ("saw" if any(tells(table, row, other, 1, same, alike) for row in learnt) else "blind")
    if seen.chain:
        assert seen.chain[:-1] == ("c/a/fold0", "init far/b", "far/b/fold0", "init far/a", "far/a/fold0")


@given(tables(), st.sets(st.sampled_from([0, 1, 2])))
def test_what_a_choice_of_epochs_tells(table, chosen):
    model = model_of("c/a", [], chosen_on=sorted(chosen))
    seen = lineage_of([model], c=table).model_saw(model, Fold("c", 1))
    rows = np.flatnonzero(np.isin(table.folds, list(chosen)))
    saw = any(tells(table, row, table, 1) for row in rows)
    assert seen.level == ("saw" if saw else "crossfit" if chosen else "blind")


@given(tables(), st.data())
@settings(max_examples=150, deadline=None)
def test_what_a_model_of_another_repeat_saw(table, data):
    """Each is judged by the fold of its own repeat, and a run's rows by all of them."""
    order = np.array(data.draw(st.permutations(range(len(table.ids)))))
    free = table.folds >= 0
    further = table.folds.copy()
    further[free] = table.folds[order[free[order]]]
    twice = replace(table, further=further[:, None])
    rows = data.draw(st.lists(st.integers(0, len(table.ids) - 1), unique=True))
    folder = Path("runs/c/a/repeat1/fold1")
    model = Model("c/a", FoldFiles(folder), {"parents": [], "chosen_on": []})
    model.__dict__["rows"] = np.array(rows, np.int64)
    lineage, split = lineage_of([model], c=twice), replace(table, folds=further)
    seen = lineage.model_saw(model, Fold("c", 1, 1))
    assert seen.level == ("saw" if any(tells(split, row, split, 1) for row in rows) else "blind")
    # Rows of fold 0 of the first repeat rest on it as well.
    assert lineage.run_saw("c/a", Fold("c", 0)).level == seen.level
    assert lineage.model_saw(model, Fold("c", HOLDOUT)).level == (
        "saw" if any(tells(table, row, table, HOLDOUT) for row in rows) else "blind"
    )


def test_names_of_models():
    assert model_of("c/a", [], fold=12).repeat == 0
    late = Model("c/repeat3", FoldFiles(Path("runs/c/repeat3/repeat11/pair1-2")), {})
    assert (late.repeat, late.named) == (11, [1, 2])
    assert Model("c/repeat3", FoldFiles(Path("runs/c/repeat3/fold2")), {}).repeat == 0
    assert model_of("c/a", [], fold=12).named == [12]
    assert Model("c/a", FoldFiles(Path("runs/c/a/pair3-11")), {}).named == [3, 11]
    half = Model("c/fold9", FoldFiles(Path("runs/c/fold9/fold2/half1")), {})
    assert half.name == "c/fold9/fold2/half1"
    assert half.named == [2]


def test_the_worst_is_the_first_of_the_worst():
    seen = [Seen(), Seen("crossfit", ("x",)), Seen("saw", ("y",)), Seen("saw", ("z",))]
    assert worst_seen(seen) == Seen("saw", ("y",))
    assert worst_seen([]) == Seen()
    assert Seen().through("a") == Seen()
    assert Seen("saw", ("y",)).through("a").chain == ("a", "y")
