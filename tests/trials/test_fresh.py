"""Folds drawn anew: as many, as even, groups whole; and where there are none."""

from pathlib import Path

import numpy as np
import pytest
from house import make_competition, prepare
from mask_house import make_masks
from tries import table_of

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import load_competition
from pipeline.store.files import read_json, write_json
from pipeline.store.runs import load_run
from pipeline.store.table import EXTRA
from pipeline.trials.fresh import only, resplit, why_not

GROUPS = "[group]\npattern = '^i(..)'\n"
FILES = CompetitionFiles("toy")


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
@pytest.mark.parametrize("extra", ["", GROUPS], ids=["rows", "groups"])
def test_as_many_as_even_and_groups_whole(task, extra, house):
    make_competition(house, task, extra=extra)
    prepare()
    table = table_of()
    other = resplit(load_competition("toy"), FILES, table, 9)
    sizes = np.bincount(other.folds[other.scored])
    assert len(sizes) == 3
    assert sizes.max() - sizes.min() <= (10 if extra else 1)
    assert (other.folds != table.folds).any()
    assert (other.folds[table.test] == -1).all()
    for group in np.unique(other.groups[other.scored]) if extra else ():
        assert len(set(other.folds[other.groups == group])) == 1
    again = resplit(load_competition("toy"), FILES, table, 9)
    np.testing.assert_array_equal(again.folds, other.folds)
    # The committed seed gives the committed folds: the same method on the same rows.
    np.testing.assert_array_equal(resplit(load_competition("toy"), FILES, table, 0).folds, table.folds)


def test_masks_are_spread_by_size(house):
    make_masks(house)
    prepare()
    table = table_of()
    np.testing.assert_array_equal(resplit(load_competition("toy"), FILES, table, 0).folds, table.folds)


def test_where_there_are_none(house):
    make_competition(house, "multiclass")
    prepare()
    Path("configs/toy/t.toml").write_text('base = "a"\nteacher = "a"\n')
    Path("configs/toy/i.toml").write_text('base = "a"\ninit = "other/a"\n')
    assert why_not(FILES, load_run("toy/a")) is None
    assert why_not(FILES, load_run("toy/a"), load_run("toy/t")).startswith("teacher = ... is blind")
    assert why_not(FILES, load_run("toy/i")) is None  # it has seen no image of these
    receipt = read_json(FILES.folds_receipt)
    write_json(FILES.folds_receipt, receipt | {"method": "time"})
    assert "time cannot be drawn anew" in why_not(FILES, load_run("toy/a"))
    FILES.folds_receipt.unlink()
    assert "given by hand" in why_not(FILES, load_run("toy/a"))


def test_the_other_folds_are_learnt_from_alone(house):
    make_competition(house, "multiclass")
    prepare()
    table = table_of()
    some = only(table, (1,))
    assert set(some.folds[table.folds == 2].tolist()) == {EXTRA}
    np.testing.assert_array_equal(some.scored, np.flatnonzero(table.folds == 1))
    np.testing.assert_array_equal(np.sort(some.labelled), table.scored)
