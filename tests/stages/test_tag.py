"""Tags of runs whose models are invented: what is wrong with the labels and which rows are hard is known."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from fake import METRIC, invent, shelve
from house import make_competition, prepare, stage

from pipeline.scoring.ranking import binary_roc_auc
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.tasks import TASKS

TASK_NAMES = ["binary", "multiclass", "multilabel", "ordinal", "regression"]


def another(task, y, classes, rng):
    """Labels that are certainly not y."""
    if task == "multiclass":
        return (y + rng.integers(1, classes, len(y))) % classes
    if task == "ordinal":
        return np.where(y < classes / 2, classes - 1, 0)
    return y + 4 if task == "regression" else 1 - y


def invented(house, task, n=150, seed=0, share=0.1, **options):
    """A toy competition some of whose labels are wrong, and what models that know better say of it."""
    make_competition(house, task, n_train=n, n_test=60, metric=METRIC[task])
    prepare()
    files = CompetitionFiles("toy")
    facts = read_table_facts(files)
    table, rng = read_table(files, facts), np.random.default_rng(seed)
    y, folds = TASKS[task].targets(table.y[table.scored]), table.folds[table.scored]
    bad = rng.random(n) < share
    clean = y.copy()
    clean[bad] = another(task, y, len(table.classes), rng)[bad]
    return table, facts, bad, invent(task, y, clean, clean[:60], folds, len(table.classes), seed, **options)


def tags(house, text="", name="tag", of="a"):
    (house / f"configs/toy/{name}.toml").write_text(f'stage = "tag"\nrun = "{of}"\n{text}\n')
    stage("tag", f"toy/{name}")
    folder = house / "runs/toy" / name
    receipt = json.loads((folder / "cv.json").read_text())
    read = {"dtype": {"id": str, "tag": str}, "keep_default_na": False, "na_values": [""]}
    return receipt, pd.read_csv(folder / "difficulty.csv", **read), pd.read_csv(folder / "difficulty_train.csv", **read)


def area(happened, p):
    return binary_roc_auc(np.asarray(happened), np.asarray(p), np.ones(len(p)))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_run_is_tagged(task, house):
    # Of few rows with several labels each none may be wrong and believed: there is nothing to foresee then.
    table, facts, bad, made = invented(house, task, n=480 if task == "multilabel" else 240)
    shelve("toy/a", made, table, facts)
    receipt, report, train = tags(house)
    n = len(bad)
    assert report.id.tolist() == [*table.ids[table.scored], *table.ids[table.test]]
    assert report.p_label_wrong[:n].notna().all()
    assert report.p_label_wrong[n:].isna().all()
    assert report.p_error.between(0, 1).all()
    assert set(report.tag[:n]) <= {"easy", "ambiguous", "hard", "suspect"}
    assert "suspect" not in set(report.tag[n:])
    assert area(bad, report.p_label_wrong[:n]) > (0.9 if task in ("multilabel", "regression") else 0.95)
    # The label-free axis knows how hard a row is, of test rows too.
    order = np.corrcoef(report.p_error[n:].rank(), made.hardness[n:].argsort().argsort())[0, 1]
    assert order > 0.3, order
    check_training_tags(task, train, table, bad)
    assert set(receipt["level"].values()) == {"blind"}
    assert set(receipt["report_level"].values()) == {"crossfit"}
    assert receipt["source"] == "epochs"
    for name in ("suspects", "hard_train", "hard_test"):
        assert cv2.imread(str(house / f"runs/toy/tag/{name}.png")) is not None


def check_training_tags(task, train, table, bad):
    folds = table.folds[table.scored]
    ids = pd.Index(table.ids[table.scored])
    for k, mine in train.groupby("fold"):
        gold = mine[mine.id.isin(ids)]
        assert sorted(gold.id) == sorted(ids[folds != k]), "a fold's own rows have no tags, all others have"
        rest = mine[~mine.id.isin(ids)]
        assert sorted(rest.id) == sorted(table.ids[table.test])
        assert set(rest.tag) <= {"easy", "ambiguous", "hard"}
        assert (rest.weight == 1).all()
        assert rest.filter(regex=r"^t\d").isna().all(axis=None)
        wrong = bad[ids.get_indexer(gold.id)]
        assert area(wrong, 1 - gold.weight) > 0.85
        assert gold.weight.between(0, 1).all()
        assert ((gold.tag == "suspect") == (gold.weight < 0.5)).all()
        targets = gold.filter(regex=r"^t\d").to_numpy()
        assert targets.shape[1] == TASKS[task].width(len(table.classes))
        if task == "multiclass":
            assert (targets.sum(1) == 1).all()
    assert (train.repeat == 0).all()
    assert train.difficulty.between(0, 1).all()


def test_review_begins_with_the_suspects(house):
    table, facts, _, made = invented(house, "multiclass", n=240)
    shelve("toy/a", made, table, facts)
    receipt, _, _ = tags(house)
    review = pd.read_csv(house / "runs/toy/tag/review.csv", dtype={"id": str}).set_index("id")
    suspects = review.tag == "suspect"
    assert suspects.sum() == receipt["metrics"]["labels"]["suspects"] > 10
    assert suspects[: suspects.sum()].all()
    assert review.p_label_wrong[: suspects.sum()].is_monotonic_decreasing
    by_id = dict(zip(table.ids[table.scored], made.problem.y, strict=True))
    assert [table.classes[by_id[i]] for i in review.index] == review.label.tolist()
    assert all((house / path).exists() for path in review.path)
    truth = dict(zip(table.ids[table.scored], made.clean, strict=True))
    first = review[: suspects.sum()]
    assert np.mean([table.classes[truth[i]] == p for i, p in zip(first.index, first.predicted, strict=True)]) > 0.8


def test_training_tags_of_a_fold_do_not_know_its_labels(house):
    """Other labels in fold 0, hence other out-of-fold predictions of the rest, change nothing that model 0 is taught."""
    table, facts, _, made = invented(house, "multiclass")
    shelve("toy/a", made, table, facts)
    _, before, train_before = tags(house, name="before")
    rng = np.random.default_rng(1)
    for k in (1, 2):
        mine = made.problem.folds != 0
        made.train[k][mine] = made.train[k][mine][:, ::-1]
        made.epochs[k] = np.where(np.isnan(made.epochs[k]), np.nan, rng.random(made.epochs[k].shape)).astype(np.float32)
        made.test[k] = made.test[k][:, ::-1]
    shelve("toy/a", made, table, facts)
    _, after, train_after = tags(house, name="after")
    assert not np.allclose(before.p_error, after.p_error), "the report does depend on them"
    pd.testing.assert_frame_equal(train_before[train_before.fold == 0], train_after[train_after.fold == 0])


def test_strict_tags_come_from_pair_models(house):
    table, facts, bad, made = invented(house, "multiclass", pairs=True)
    (house / "configs/toy/a.toml").write_text(
        (house / "configs/toy/a.toml").read_text().replace("epochs = 3", "epochs = 3\npairs = true")
    )
    shelve("toy/a", made, table, facts)
    receipt, _, train = tags(house, "strict = true")
    assert receipt["source"] == "pairs"
    folds, ids = made.problem.folds, table.ids[table.scored]
    for k in range(3):
        mine = train[train.fold == k].set_index("id").loc[ids[folds != k]]
        expected = np.zeros((len(ids), 4))
        for j in {0, 1, 2} - {k}:
            expected[folds == j] = made.pairs[min(j, k), max(j, k)][0][folds == j]
        assert (mine.filter(regex=r"^t\d").to_numpy().argmax(1) == expected[folds != k].argmax(1)).all()
    check_training_tags("multiclass", train, table, bad)


def test_strict_needs_pairs(house):
    table, facts, _, made = invented(house, "binary")
    shelve("toy/a", made, table, facts)
    with pytest.raises(UserError, match="set pairs = true in configs/toy/a.toml"):
        tags(house, "strict = true")


def test_a_blend_is_tagged_by_its_leaves(house):
    table, facts, bad, made = invented(house, "multiclass", n=240)
    shelve("toy/a", made, table, facts)
    other = invent("multiclass", made.problem.y, made.clean, made.test_clean, made.problem.folds, 4, seed=5)
    shelve("toy/b", other, table, facts, level="crossfit")
    stage("ensemble", "toy/blend")
    receipt, report, _ = tags(house, of="blend")
    assert {"member_sd", "member_other"} <= set(report.columns)
    assert area(bad, report.p_label_wrong[: len(bad)]) > 0.97
    assert set(receipt["level"].values()) == {"crossfit"}, "the worst of the leaves"
    assert [parent["run"] for parent in receipt["parents"]] == ["toy/blend", "toy/a", "toy/b"]


def test_students_in_halves_answer_for_their_rows(house):
    """Embeddings of the half model that did not predict a row are garbage here; nothing may read them."""
    table, facts, _, made = invented(house, "multiclass")
    shelve("toy/a", made, table, facts)
    shelve("toy/b", made, table, facts, halves=True)
    _, one, train_one = tags(house, name="one")
    _, two, train_two = tags(house, name="two", of="b")
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(train_one, train_two)


def test_indicator_samples_mark_low_margins(house):
    table, facts, bad, made = invented(house, "multiclass")
    shelve("toy/a", made, table, facts, indicators=0.5)
    _, report, _ = tags(house)
    n = len(bad)
    aum = np.stack([made.epochs[k][:, -2] for k in range(3)])
    np.testing.assert_allclose(report.aum_low[:n], np.nanmean(np.where(np.isnan(aum), np.nan, aum < 0.5), 0))


def test_rows_that_no_model_was_taught_are_ambiguous(house):
    table, facts, _, made = invented(house, "multiclass")
    for k in range(3):
        made.epochs[k][:9] = np.nan
    shelve("toy/a", made, table, facts)
    _, report, train = tags(house)
    assert report[["p_label_wrong", "aum", "data_map_mean", "forgetting"]][: len(made.clean)].notna().all(axis=None)
    untaught = train[train.id.isin(table.ids[table.scored][:9])]
    assert (untaught.tag == "ambiguous").all()
    assert (untaught.weight == 1).all()
    assert untaught.difficulty.notna().all()


def test_sheets_show_the_worst_first(house, monkeypatch):
    from pipeline.difficulty import sheet

    table, facts, _, made = invented(house, "multiclass", n=240)
    shelve("toy/a", made, table, facts)
    shown, draw = {}, sheet.write_sheet

    def write_sheet(path, images, captions):
        shown[path.stem] = captions
        assert len(images) == len(captions)
        draw(path, images, captions)

    monkeypatch.setattr(sheet, "write_sheet", write_sheet)
    _, report, _ = tags(house, "sheet = 6")
    assert [len(captions) for captions in shown.values()] == [6, 6, 6]
    for name, values in (
        ("suspects", report.p_label_wrong[report.tag == "suspect"]),
        ("hard_train", report.p_error[:240][report.tag[:240] == "hard"]),
        ("hard_test", report.p_error[240:][report.tag[240:] == "hard"]),
    ):
        assert [lines[-1] for lines in shown[name]] == [f"p {p:.2f}" for p in sorted(values, reverse=True)[:6]]
    assert all(len(lines) == 3 for lines in shown["suspects"])
    assert all(lines[0].startswith("is ") for lines in shown["hard_test"]), "no label is known of test rows"


def test_near_ties_are_told(house):
    table, facts, _, made = invented(house, "multiclass", n=240)
    shelve("toy/a", made, table, facts)
    ties = tags(house, "near_tie = 0.5")[0]["metrics"]["near_ties"]
    lead = np.diff(np.sort(made.oof, 1)[:, -2:])[:, 0]
    assert ties["rows"] == pytest.approx((lead < 0.5).mean())
    assert ties["pairs"][0]["rows"] >= ties["pairs"][-1]["rows"]
    assert set(ties["rules"]) == {"plain", "minority", "prior", "tau", "adopted"}


def test_a_missing_array_is_one_line(house):
    table, facts, _, made = invented(house, "binary")
    shelve("toy/a", made, table, facts)
    (house / "runs/toy/a/fold1/epochs.npy").unlink()
    with pytest.raises(UserError, match="fold1/epochs.npy is missing: delete"):
        tags(house)


def test_nothing_to_do_touches_only(house):
    table, facts, _, made = invented(house, "binary")
    shelve("toy/a", made, table, facts)
    tags(house)
    before = (house / "runs/toy/tag/difficulty.csv").stat().st_mtime_ns
    tags(house, "# a comment")
    assert (house / "runs/toy/tag/difficulty.csv").stat().st_mtime_ns == before
    from pipeline.stages.status import state_of

    assert state_of("toy/tag")[0] in ("done", "stale")
    with pytest.raises(UserError, match='has stage = "train": run make train instead'):
        stage("tag", "toy/a")
