"""Atomic files, hashes, locks, receipts, the graph and the ledger."""

import dataclasses
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import files, graph, ledger, receipts, toml
from pipeline.store.errors import UserError, resolve
from pipeline.store.table import Table


def test_atomic_leaves_the_old_file_when_the_writer_dies(house):
    path = house / "a.txt"
    files.write_text(path, "old")

    def die():
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert path.read_text() == "old"
    assert [p.name for p in house.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("code, kind", [(errno.ENOSPC, UserError), (errno.EDQUOT, UserError), (errno.EACCES, OSError)])
def test_only_a_full_disk_is_the_users(code, kind, house):
    def fail():
        with files.atomic(house / "x") as temporary:
            temporary.write_text("half")
            raise OSError(code, "no")

    with pytest.raises(kind):
        fail()
    assert not list(house.iterdir())


@given(st.lists(st.text(max_size=5), max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_digest_tells_lists_apart(a, b):
    assert (files.digest(*a) == files.digest(*b)) == (a == b)


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=4))
def test_digest_json_ignores_order(value):
    assert files.digest_json(value) == files.digest_json(dict(reversed(value.items())))


def test_json_has_no_nan(house):
    files.write_json(house / "a.json", {"x": math.nan, "y": np.float32(1.5), "z": np.arange(2), 3: (1, 2)})
    assert json.loads((house / "a.json").read_text()) == {"x": None, "y": 1.5, "z": [0, 1], "3": [1, 2]}
    (house / "a.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        files.read_json(house / "a.json")


def test_disk_need_is_forecast(house):
    files.require_space(house, 1, "a byte")
    with pytest.raises(UserError, match="everything needs"):
        files.require_space(house, 10**18, "everything")


def test_receipt_is_fresh_only_with_its_key_and_its_outputs(house):
    files.write_text(house / "out.txt", "x")
    receipts.write_receipt(house / "r.json", stage="train", key="k", outputs=[house / "out.txt"])
    assert receipts.fresh(house / "r.json", "k")
    assert not receipts.fresh(house / "r.json", "other")
    files.write_text(house / "out.txt", "y")
    assert not receipts.fresh(house / "r.json", "k")
    os.remove(house / "out.txt")
    assert receipts.damaged(files.read_json(house / "r.json")) == [str(house / "out.txt")]
    assert not receipts.fresh(house / "nothing.json", "k")


def test_worst_level():
    assert receipts.worst("blind", "crossfit") == "crossfit"
    assert receipts.worst("saw", "blind") == "saw"


def test_resolve_imports_and_names_the_nearest():
    assert resolve({"a": 1}, "a", "thing") == 1
    assert resolve({}, "math:pi", "thing") == math.pi
    with pytest.raises(UserError, match="unknown thing 'colour'; did you mean 'color'"):
        resolve({"color": 1}, "colour", "thing")
    with pytest.raises(UserError, match="cannot be imported"):
        resolve({}, "math:tau2", "thing")


def write_config(house, name, text):
    (house / "configs/c").mkdir(parents=True, exist_ok=True)
    (house / f"configs/c/{name}.toml").write_text(text)


def test_graph_draws_bases_and_members(house):
    write_config(house, "competition", "")
    write_config(house, "a", 'stage = "train"\n[optim]\nlr = 1.0\nclip = 2.0')
    write_config(house, "b", 'base = "a"\n[optim]\nlr = 3.0')
    write_config(house, "blend", 'stage = "ensemble"\nmembers = ["a", "d/x"]')
    drawn = graph.draw().splitlines()
    assert "stage.c/b := train" in drawn
    assert "runs/c/b/cv.json: configs/c/b.toml configs/c/a.toml configs/c/competition.toml cache/c/table.csv" in drawn
    blend = next(line for line in drawn if line.startswith("runs/c/blend/cv.json:"))
    assert blend.endswith("runs/c/a/cv.json")
    assert toml.read_run("c/b")[0]["optim"] == {"lr": 3.0, "clip": 2.0}
    (house / "configs/c/metric.py").touch()
    needs = [line for line in graph.draw().splitlines() if line.startswith("runs/c/") and ": " in line]
    assert len(needs) == 3
    assert all(" configs/c/metric.py" in line for line in needs)


def test_one_broken_config_does_not_stop_the_others(house, capsys):
    write_config(house, "a", "epochs = ")
    write_config(house, "b", "epochs = 1")
    assert "RUNS += runs/c/b/cv.json" in graph.draw()
    assert "a.toml is not valid TOML" in capsys.readouterr().err


def test_a_cycle_is_named(house):
    with pytest.raises(UserError, match="c/a -> c/b -> c/a"):
        graph.check_cycles({"c/a": ["c/b"], "c/b": ["c/a"]})
    graph.check_cycles({"a": ["b", "c"], "b": ["d"], "c": ["d"]})


def row(run="c/a", made="h1", **scores):
    return ledger.Row(run, made, "2026-01-01 00:00:00", "accuracy", 0.9, 0.01, 0.02, **scores)


def test_ledger_keeps_what_is_known(house):
    ledger.enter(row())
    ledger.record("c/a", {"public": 0.91})
    ledger.enter(row())
    (kept,) = ledger.read()
    assert kept.public == 0.91
    assert math.isnan(kept.private)
    ledger.enter(row(made="h2", public=0.5, private=0.6))
    ledger.enter(row(run="c/b", made="h2", private=0.6))
    assert len(ledger.read()) == 3
    assert ledger.looks("c") == 1
    ledger.enter(dataclasses.replace(row(), metric="log_loss"))
    assert math.isnan(ledger.read().pop().public)
    ledger.record("c/a", {"private": 0.7})
    assert [r.private for r in ledger.read() if r.run == "c/a"][2] == 0.7
    with pytest.raises(UserError, match="no submission of 'c/z'"):
        ledger.record("c/z", {"public": 1.0})
    files.write_text(ledger.LEDGER, "run,hash\na,b\n")
    with pytest.raises(UserError, match="is damaged"):
        ledger.read()


def table(folds, groups=("", "", "", ""), units=(0, 1, 2, 3)):
    ids = np.array(["a", "b", "c", "d"])
    return Table(
        ids,
        np.array(folds),
        np.array(groups),
        np.array(units),
        ids,
        ids,
        np.arange(4.0)[:, None],
        ["y"],
        np.ones(4),
        np.zeros((4, 0)),
    )


def test_fold_codes_rule_the_arrays():
    some = table([0, -4, 1, -1])
    assert some.scored.tolist() == [0, 2]
    assert some.test.tolist() == [3, 1]


def test_fold_map_is_of_labelled_rows_only():
    assert table([0, 1, -1, -4]).fold_map() == table([0, 1, -4, -1]).fold_map()
    assert table([0, 1, -1, -1]).fold_map() != table([1, 0, -1, -1]).fold_map()
    assert table([0, 1, -2, -1]).fold_map() != table([0, 1, -1, -1]).fold_map()
    assert table([0, 1, -1, -1]).fold_map() != table([0, 1, -1, -1], ("g", "g", "", "")).fold_map()


def test_units_are_drawn_together():
    assert table([0, 1, 0, 1]).group is None
    assert table([0, 1, 0, -1], units=(0, 1, 0, 3)).group.tolist() == [0, 1, 0]
    assert table([0, 1, -1, -1], units=(0, 1, 2, 2)).group is None


def test_a_table_that_is_not_the_receipts_is_refused(house):
    from house import make_competition, prepare

    from pipeline.store.artifacts import CompetitionFiles
    from pipeline.store.keys import read_table_facts
    from pipeline.store.table import read_table

    make_competition(house, "multiclass", extra="[group]\npattern = '^i(..)'\n")
    prepare()
    toy = CompetitionFiles("toy")
    facts = read_table_facts(toy)
    found = read_table(toy, facts)
    assert found.fold_map() == facts["fold_map"]
    assert found.content(found.test) == facts["test"]
    assert len(np.unique(found.group)) == 6
    toy.table.write_text(toy.table.read_text().replace("i000,", "i0000,"))
    with pytest.raises(UserError, match=r"table.csv is not what .* says: run make folds COMP=toy"):
        read_table(toy, facts)


def test_own_code_is_part_of_a_key(house, monkeypatch):
    from pipeline.store.keys import own_code

    monkeypatch.syspath_prepend(house)
    (house / "mine_own.py").write_text("x = 1")
    settings = {"model": {"name": "mine_own:x", "options": {"a": "b:c d"}}, "loss": "ce"}
    before = own_code(settings)
    assert len(before) == 1
    (house / "mine_own.py").write_text("x = 2")
    assert own_code(settings) != before
    assert own_code("not_there_at_all:x") == []
    Path("metric.py").write_text("one")
    first = own_code("metric.py")
    Path("metric.py").write_text("two")
    assert len(first) == 1
    assert own_code("metric.py") != first
    assert own_code("no_such_metric.py") == []


def test_names_that_make_cannot_hold_are_left_out(house, capsys):
    write_config(house, "a", "epochs = 1")
    write_config(house, "e#1", "epochs = 1")
    write_config(house, "b c", "epochs = 1")
    write_config(house, "odd", 'stage = "ensembl"')
    drawn = graph.draw()
    assert "#1" not in drawn
    assert "b c" not in drawn
    assert capsys.readouterr().err.count("is left out") == 2
    assert "stage.c/odd := train" in drawn


def test_an_empty_table_inside_a_section_takes_the_old_one_out():
    base = {"model": {"name": "cnn", "options": {"widths": [8]}}, "optim": {"lr": 1.0}, "variants": {"a": {"x": 1}}}
    assert toml.merge(base, {"model": {"name": "resnet18", "options": {}}})["model"] == {
        "name": "resnet18",
        "options": {},
    }
    assert toml.merge(base, {"optim": {}, "model": {"options": {"act": "relu"}}}) == base | {
        "model": {"name": "cnn", "options": {"widths": [8], "act": "relu"}}
    }
