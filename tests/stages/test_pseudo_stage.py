"""`make pseudo`: rows that name a model come from models blind to its fold, and from nothing else."""

import logging
import shutil

import fakes
import numpy as np
import pandas as pd
import pytest
from fakes import table_of
from house import make_competition, prepare, stage, write
from problems import ROW_TASKS as TASKS
from sklearn.metrics import accuracy_score, root_mean_squared_error

from pipeline.scoring.pseudo import Rule, choose, class_entropy, entries, say, sureness
from pipeline.scoring.teacher import Teacher, expected
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_json, write_npy
from pipeline.store.table import half_of

FOLDS = (0, 1, 2)
MEMBERS = ("a", "b")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A competition for each task with two trained runs that nobody trained."""
    root, patch = tmp_path_factory.mktemp("prepared"), pytest.MonkeyPatch()
    for task in TASKS:
        (root / task).mkdir()
        patch.chdir(root / task)
        make_competition(root / task, task)
        prepare()
        for seed, name in enumerate(MEMBERS):
            fakes.train(f"toy/{name}", task, seed)
        write("p", 'stage = "pseudo"\nrun = "a"\n')
    patch.undo()
    return root


@pytest.fixture
def enter(prepared, tmp_path, monkeypatch):
    def house(task="multiclass"):
        shutil.copytree(prepared / task, tmp_path / task)
        monkeypatch.chdir(tmp_path / task)
        return tmp_path / task

    return house


def label(settings="", name="p", run="a"):
    write(name, f'stage = "pseudo"\nrun = "{run}"\n{settings}')
    stage("pseudo", f"toy/{name}")
    return frame_of(name)


def frame_of(name="p"):
    return pd.read_csv(RunFiles(f"toy/{name}").pseudo, dtype={"id": str}, keep_default_na=False, na_values=[""])


def on_test(fold, members=MEMBERS[:1]):
    return np.stack([np.load(f"runs/toy/{name}/fold{fold}/test.npy") for name in members])


def same(frame, other):
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), other.reset_index(drop=True))


def blend(level="crossfit", method="convex"):
    write("blend", f'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "{method}"\n')
    files = RunFiles("toy/blend")
    for path in (files.oof, files.test, *(files.fold(k).test for k in FOLDS)):
        write_npy(path, np.full((2, 2), 0.5, np.float32))  # nobody may read what a fitted blend says
    fakes.sign("toy/blend", "ensemble", level, parents=["toy/a", "toy/b"])


@pytest.mark.parametrize("targets", ["hard", "soft", "sharpened"])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_rows_of_every_fold_and_half(enter, task, targets):
    enter(task.name)
    blend()
    frame = label(f'targets = "{targets}"\nquota = 0.6\nthreshold = 0.1\ntemperature = 0.3\n', run="blend")
    table = table_of()
    ids, cuts = table.ids[table.test], task.default_cuts(len(table.classes))
    for k in FOLDS:
        members = on_test(k, MEMBERS)
        mean, sure = members.mean(0), sureness(task, members, cuts, "confidence")
        kept = choose(Rule("confidence", 0.6, 0.1), sure, entries(task, mean, cuts))
        said = say(task, mean, kept, cuts, targets, 0.3)[kept.any(1)]
        mine = frame[frame["fold"] == k]
        assert mine["id"].tolist() == ids[kept.any(1)].tolist()
        np.testing.assert_allclose(mine.filter(regex="^t"), said, rtol=1e-6)
        assert set(mine["half"]) == {0, 1}
    assert (frame["half"] == half_of(frame["id"])).all()
    assert (frame["weight"] == 1).all()
    assert (frame["repeat"] == 0).all()
    assert list(frame.columns) == ["id", "repeat", "fold", "half", "weight", *(f"t{c}" for c in range(said.shape[1]))]
    assert set(frame["id"]) <= set(ids)
    assert (task.name == "multilabel") == frame.isna().any(axis=None)


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_a_fold_come_from_its_own_models_alone(enter, task):
    """Models of the other folds trained on fold k: whatever they say, fold k's rows stay."""
    enter(task)
    quota = 1.0 if task == "regression" else 0.5  # one regression does not tell how sure it is
    text = f'targets = "soft"\nquota = {quota}\nselect = "margin"\n'
    before = label(text)
    for k in FOLDS:
        for other in set(FOLDS) - {k}:
            fakes_rng = np.random.default_rng([other, k])
            write_npy(RunFiles("toy/a").fold(other).test, fakes.predictions(task, 24, fakes_rng).astype(np.float32))
        fakes.sign("toy/a", "train", k=k)
        after = label(text)
        same(after[after["fold"] == k], before[before["fold"] == k])
        for other in set(FOLDS) - {k}:
            with pytest.raises(AssertionError):
                same(after[after["fold"] == other], before[before["fold"] == other])
        before = after


def test_a_blend_speaks_through_its_members_equally(enter):
    """Its weights were fitted on fold k's rows of other folds' models; the members' own models were not."""
    enter()
    write("top", 'stage = "ensemble"\nmembers = ["blend", "a"]\n')
    blend()
    for path in (RunFiles("toy/top").oof, RunFiles("toy/top").fold(0).test):
        write_npy(path, np.zeros(1))
    fakes.sign("toy/top", "ensemble", "crossfit", parents=["toy/blend", "toy/a"])
    frames = [label('targets = "soft"\n', run=run) for run in ("blend", "top")]
    same(*frames)  # every run below, once
    wanted = np.concatenate([on_test(k, MEMBERS).mean(0) for k in FOLDS])
    np.testing.assert_allclose(frames[0].filter(regex="^t"), wanted, rtol=1e-6)
    known = read_json(RunFiles("toy/p").receipt)
    assert [(p["role"], p["run"]) for p in known["parents"]] == [("teacher", "toy/a"), ("teacher", "toy/b")]
    assert known["level"] == dict.fromkeys("012", "blind")


def test_members_that_disagree_are_not_sure(enter):
    enter()
    blend()
    by_vote = label('select = "agreement"\nquota = 0.4\n', run="blend")
    members = on_test(0, MEMBERS)
    sure = sureness(TASKS["multiclass"], members, np.zeros(0), "agreement")[:, 0]
    mean = members.mean(0)
    for label_of in range(4):
        rows = np.flatnonzero(mean.argmax(1) == label_of)
        best = rows[np.argsort(-sure[rows], kind="stable")][: round(0.4 * len(rows))]
        mine = by_vote[(by_vote["fold"] == 0) & (by_vote["t0"].index >= 0)]
        said = mine[mine[f"t{label_of}"] == 1]["id"]
        assert sorted(said) == sorted(table_of().ids[table_of().test][best])


def test_weights_by_confidence(enter):
    enter("multilabel")
    frame = label('weight = "confidence"\nquota = 0.5\n')
    sure = sureness(TASKS["multilabel"], on_test(1), np.full(3, 0.5), "confidence")
    mine = frame[frame["fold"] == 1].set_index("id")
    for row, name in enumerate(table_of().ids[table_of().test]):
        if name in mine.index:
            kept = mine.loc[name].filter(regex="^t").notna().to_numpy()
            assert mine.loc[name, "weight"] == pytest.approx(sure[row, kept].mean(), rel=1e-6)


@pytest.mark.parametrize("stratify", ["true", "false"])
def test_classes_have_their_share_unless_told(enter, stratify):
    enter()
    sure = np.r_[np.full(12, 0.9), np.full(12, 0.5)]
    said = (1 - sure[:, None]) / 3 * np.ones((24, 4))
    said[np.arange(24), np.arange(24) // 12] = sure
    speak("a", [said] * 3)
    frame = label(f"quota = 0.5\nstratify = {stratify}\n")
    assert frame.filter(regex="^t").sum().tolist() == ([18, 18, 0, 0] if stratify == "true" else [36, 0, 0, 0])


def test_without_halves_every_row_is_for_the_one_student(enter):
    enter()
    frame = label("halves = false\n")
    assert (frame["half"] == -1).all()
    assert len(frame) == 72


# How right the selection is


def teacher_of(task, members=MEMBERS):
    cuts = TASKS[task].default_cuts(len(table_of().classes))
    return Teacher([RunFiles(f"toy/{name}") for name in members], TASKS[task], cuts)


@pytest.mark.parametrize("task", TASKS)
def test_precision_is_that_of_the_other_folds_rows(enter, task):
    from dataclasses import replace

    enter(task)
    table, teacher, rule = table_of(), teacher_of(task), Rule("confidence", 0.5)
    folds = table.folds[table.scored]
    rng = np.random.default_rng(0)
    for k in FOLDS:
        found = expected(teacher, rule, table, k)
        others = folds != k
        p = np.mean([np.load(f"runs/toy/{name}/oof.npy") for name in MEMBERS], 0)[others]
        y = TASKS[task].targets(table.y[table.scored])[others].reshape(others.sum(), -1)
        stack = np.stack([np.load(f"runs/toy/{name}/oof.npy")[others] for name in MEMBERS])
        decided = entries(TASKS[task], p, teacher.cuts)
        kept = choose(rule, sureness(TASKS[task], stack, teacher.cuts, "confidence"), decided)
        for name, mask in (("score", kept), ("all", np.ones_like(kept))):
            wanted = (
                root_mean_squared_error(y[mask], p[mask])
                if task == "regression"
                else accuracy_score(y[mask], decided[mask])
            )
            assert found[name] == pytest.approx(wanted, rel=1e-5)
        assert found["n"] == kept.sum()
        assert 0 < found["se"] < 1 or task == "regression"
        # Labels and predictions of the own fold: whatever they are, the number stays; those of others move it.
        for which, moved in ((folds == k, False), (folds != k, True)):
            y = table.y.copy()
            y[table.scored[which]] = rng.permutation(y[table.scored[which]])
            again = expected(teacher, rule, replace(table, y=y), k)
            assert (again == found) != moved


def test_precision_has_a_standard_error_by_group(enter):
    from dataclasses import replace

    enter()
    table, teacher = table_of(), teacher_of("multiclass")
    alone = expected(teacher, Rule(), table, 0)
    units = table.units.copy()
    correct = np.mean([np.load(f"runs/toy/{name}/oof.npy") for name in MEMBERS], 0).argmax(1) == table.y[:60, 0]
    units[table.scored] = correct.astype(int) * 1000 + np.arange(60) % 4  # few groups, each all right or all wrong
    grouped = expected(teacher, Rule(), replace(table, units=units), 0)
    assert grouped["score"] == alone["score"]
    assert grouped["se"] > 1.5 * alone["se"]
    share = alone["score"]
    assert alone["se"] == pytest.approx((share * (1 - share) / 40) ** 0.5, rel=0.2)


def test_the_receipt_tells_how_right(enter, caplog):
    enter()
    with caplog.at_level(logging.INFO):
        label("quota = 0.5\n")
    known, table = read_json(RunFiles("toy/p").receipt), table_of()
    by_fold = [expected(teacher_of("multiclass", ("a",)), Rule(quota=0.5), table, k) for k in FOLDS]
    assert known["precision"] == {str(k): pytest.approx(found) for k, found in zip(FOLDS, by_fold, strict=True)}
    assert known["metrics"]["metric"] == "precision"
    assert known["metrics"]["score"] == pytest.approx(np.mean([found["score"] for found in by_fold]))
    assert known["metrics"]["kept"] == pytest.approx(len(frame_of()) / 72)
    assert "by the same rule on other folds' rows" in caplog.text
    assert f"expected precision {known['metrics']['score']:.4f}" in caplog.text
    state = [class_entropy(TASKS["multiclass"], on_test(k)[0], np.zeros(0)) for k in FOLDS]
    assert known["rounds"] == [{"entropy": pytest.approx(np.mean(state))}]


# Rounds


def student(name, pseudo, tests):
    """A student of pseudo-labels whose models say `tests` of the test rows."""
    write(name, f'base = "a"\npseudo = "{pseudo}"\n')
    fakes.train(f"toy/{name}")
    speak(name, tests)


def speak(name, tests):
    for k in FOLDS:
        write_npy(RunFiles(f"toy/{name}").fold(k).test, tests[k].astype(np.float32))
    fakes.sign(f"toy/{name}", "train")


def sharp(classes):
    return np.eye(4)[classes] * 0.6 + 0.1


def test_the_quota_grows_by_round(enter):
    enter()
    even = [sharp(np.arange(24) % 4)] * 3
    speak("a", even)
    teacher, counts = "a", []
    for number in range(4):
        counts.append(len(label("quota = [0.5, 0.67, 1.0]\n", f"p{number}", teacher)))
        assert len(read_json(RunFiles(f"toy/p{number}").receipt)["rounds"]) == number + 1
        student(f"s{number}", f"p{number}", even)
        teacher = f"s{number}"
    assert counts == [36, 48, 72, 72]  # 3, 4, 6 of the 6 of each class and fold
    assert read_json(RunFiles("toy/p3").receipt)["rounds"][-1]["agreement"] == 1


def test_one_quota_is_for_all_rounds(enter):
    enter()
    even = [sharp(np.arange(24) % 4)] * 3
    assert len(label("quota = 0.5\n", "p0")) < 72
    student("s", "p0", even)
    assert len(label("quota = 0.5\n", "p1", "s")) == 36


def test_a_collapsing_teacher_is_stopped(enter, caplog):
    enter()
    label("", "p0")
    student("s", "p0", [sharp(np.r_[np.zeros(21, int), 1, 2, 3])] * 3)
    with pytest.raises(
        UserError, match=r"toy/p1: round 2 stops here: class entropy fell from .*submit the previous teacher"
    ):
        label("quota = 1.0\n", "p1", "s")
    assert not RunFiles("toy/p1").pseudo.exists()
    assert not RunFiles("toy/p1").receipt.exists()
    with caplog.at_level(logging.WARNING):
        label("stop = false\n", "p1", "s")
    assert "warning: toy/p1: class entropy fell" in caplog.text


def test_a_teacher_that_turns_around_is_stopped(enter):
    enter()
    even = sharp(np.arange(24) % 4)
    label("", "p0")
    student("s0", "p0", [even] * 3)
    label("stop = false\n", "p1", "s0")
    student("s1", "p1", [even] * 3)
    label("", "p2", "s1")
    rounds = read_json(RunFiles("toy/p2").receipt)["rounds"]
    assert rounds[2]["agreement"] == 1
    assert rounds[1]["agreement"] < 1
    student("s2", "p2", [np.roll(even, 2, axis=0)] * 3)
    with pytest.raises(
        UserError, match=r"round 4 stops here: agreement with the previous teacher fell from 1.000 to 0.000"
    ):
        label("", "p3", "s2")


# Tags


def tags(frame, level="blind"):
    write("t", 'stage = "tag"\nrun = "a"\n')
    path = RunFiles("toy/t").difficulty_train
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    fakes.sign("toy/t", "tag", level)


def test_tags_leave_the_easy_rows_of_their_fold(enter):
    enter()
    table = table_of()
    ids, rng = table.ids[table.test], np.random.default_rng(3)
    frame = pd.concat(
        [
            pd.DataFrame(
                {"id": ids, "repeat": 0, "fold": k, "weight": 1.0, "tag": rng.choice(["easy", "hard", "ambiguous"], 24)}
            )
            for k in FOLDS
        ]
    )
    tags(frame)
    plain, restricted = label(), label('tags = "t"\n', "q")
    for k in FOLDS:
        easy = set(frame["id"][(frame["fold"] == k) & (frame["tag"] == "easy")])
        mine = plain[plain["fold"] == k]
        same(restricted[restricted["fold"] == k], mine[mine["id"].isin(easy)])
    assert 3 < len(restricted) < len(plain)
    assert read_json(RunFiles("toy/q").receipt)["tags"] == "toy/t"


def test_the_id_na_may_be_easy(enter):
    """Pandas takes such ids for missing values unless it is told."""
    house = enter()
    old = table_of().ids[table_of().test][5]
    for path in (house / "data/toy").glob("*.csv"):
        path.write_text(path.read_text().replace(f"{old},", "NA,"))
    (house / f"data/toy/test/{old}.png").rename(house / "data/toy/test/NA.png")
    prepare()
    fakes.train("toy/a")
    table = table_of()
    assert "NA" in table.ids[table.test]
    ids = table.ids[table.test]
    tags(pd.concat([pd.DataFrame({"id": ids, "repeat": 0, "fold": k, "weight": 1.0, "tag": "easy"}) for k in FOLDS]))
    assert (label('tags = "t"\n')["id"] == "NA").sum() == 3


# What is refused


@pytest.mark.parametrize("level", ["crossfit", "saw"])
def test_a_teacher_that_is_not_blind(enter, level):
    enter()
    fakes.sign("toy/a", "train", level)
    with pytest.raises(UserError, match=rf"teacher = 'toy/a' is not blind to fold 0 \(level {level}\)"):
        label()
    blend()
    with pytest.raises(UserError, match="teacher = 'toy/a' is not blind"):
        label(run="blend")
    assert not RunFiles("toy/p").pseudo.exists()


def test_tags_that_are_not_blind(enter):
    enter()
    tags(pd.DataFrame({"id": ["i060"], "repeat": 0, "fold": 0, "weight": 1.0, "tag": "easy"}), "saw")
    with pytest.raises(UserError, match="tags = 'toy/t' is not blind to fold 0"):
        label('tags = "t"\n')


@pytest.mark.parametrize("fact", ["fold_map", "test"])
def test_tags_of_an_older_split(enter, fact):
    """Their models of fold k trained on rows that are fold k's today."""
    enter()
    tags(pd.DataFrame({"id": ["i060"], "repeat": 0, "fold": 0, "weight": 1.0, "tag": "easy"}))
    fakes.edit("toy/t", **{fact: "older"})
    with pytest.raises(UserError, match="'toy/t' was made for other folds or test rows than those of today"):
        label('tags = "t"\n')


def test_tags_and_teachers_of_another_stage(enter):
    enter()
    with pytest.raises(UserError, match="tags = 'toy/b' is of stage train; it must be of stage tag"):
        label('tags = "b"\n')
    label()
    with pytest.raises(UserError, match="'toy/p' is of stage pseudo"):
        label(name="q", run="p")
    with pytest.raises(
        UserError, match=r'configs/toy/a.toml has stage = "train": run make train instead of make pseudo'
    ):
        stage("pseudo", "toy/a")


@pytest.mark.parametrize("fact", ["fold_map", "test", "rows", "classes"])
def test_members_that_do_not_belong_together(enter, fact):
    enter()
    blend()
    fakes.edit("toy/b", **{fact: "another"})
    with pytest.raises(UserError, match="'toy/b' has another"):
        label(run="blend")


@pytest.mark.parametrize("fact", ["fold_map", "test"])
def test_a_teacher_of_an_older_split(enter, fact):
    enter()
    fakes.edit("toy/a", **{fact: "older"})
    with pytest.raises(UserError, match="'toy/a' was made for other folds or test rows than those of today"):
        label()


def test_a_teacher_that_was_tampered_with(enter):
    enter()
    write_npy(RunFiles("toy/a").fold(1).test, np.zeros((24, 4), np.float32))
    with pytest.raises(UserError, match=r"toy/a/fold1/test.npy is not what its receipt says"):
        label()


def test_a_teacher_that_has_not_run(enter):
    enter()
    write("c", 'base = "a"\n')
    with pytest.raises(UserError, match="'toy/c' has no runs/toy/c/cv.json: run make train COMP=toy NAME=c first"):
        label(run="c")
    with pytest.raises(UserError, match="toy/bb.toml; did you mean"):
        label(run="bb")


@pytest.mark.parametrize("settings", ["quota = 0.5\n", "threshold = 0.5\n"])
def test_one_regression_does_not_tell_how_sure_it_is(enter, settings):
    enter("regression")
    with pytest.raises(UserError, match="one regression does not tell how sure it is"):
        label(settings)


@pytest.mark.parametrize("settings", ["threshold = 0.999\n", "quota = 0.0\n"])
def test_an_empty_selection(enter, settings):
    enter()
    with pytest.raises(UserError, match=r"no test row is left for the student of fold 0, half \d: raise quota"):
        label(settings)
    with pytest.raises(UserError, match=r"no test row is left for the student of fold 0: raise quota"):
        label(f"{settings}halves = false\n")
    assert not RunFiles("toy/p").receipt.exists()


def test_one_empty_half_is_enough(enter):
    enter()
    ids = table_of().ids[table_of().test]
    first = ids[half_of(ids) == 0]
    rows = pd.concat(
        [
            pd.DataFrame({"id": ids if k != 1 else first, "repeat": 0, "fold": k, "weight": 1.0, "tag": "easy"})
            for k in FOLDS
        ]
    )
    tags(rows)
    with pytest.raises(UserError, match="for the student of fold 1, half 1"):
        label('tags = "t"\n')


# When there is nothing to do, and when there is


def test_a_second_call_does_nothing(enter):
    house = enter()
    label()
    files = RunFiles("toy/p")
    receipt, table, at = files.receipt.read_bytes(), files.pseudo.stat().st_mtime_ns, files.receipt.stat().st_mtime_ns
    config = house / "configs/toy/p.toml"
    config.write_text("# a comment\n" + config.read_text())
    stage("pseudo", "toy/p")
    assert files.receipt.read_bytes() == receipt
    assert files.pseudo.stat().st_mtime_ns == table
    assert files.receipt.stat().st_mtime_ns > at


def test_what_changes_the_labels_makes_them_again(enter):
    enter()
    first = label()
    softer = label('targets = "soft"\n')
    assert not first.equals(softer)
    fakes.train("toy/a", seed=9)
    again = label('targets = "soft"\n')
    np.testing.assert_allclose(again[again["fold"] == 2].filter(regex="^t"), on_test(2)[0], rtol=1e-6)


def test_new_test_rows_have_new_labels(enter):
    house = enter()
    assert len(label()) == 72
    sample = house / "data/toy/sample_submission.csv"
    sample.write_text("\n".join(sample.read_text().splitlines()[:-4]) + "\n")
    prepare()
    with pytest.raises(UserError, match="'toy/a' was made for other folds or test rows"):
        stage("pseudo", "toy/p")
    fakes.train("toy/a")
    stage("pseudo", "toy/p")
    assert set(frame_of()["id"]) == set(table_of().ids[table_of().test])
    assert len(frame_of()) == 60


def test_settings_that_make_no_sense(enter):
    enter()
    for settings, what in (
        ("quota = 1.5\n", "quota"), ("quota = []\n", "quota"), ('targets = "firm"\n', "targets"),
        ("temperature = 0.0\n", "temperature"), ("threshold = 1.0\n", "threshold"), ('select = "best"\n', "select"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"configs/toy/p.toml: {what}"):
            label(settings)


def test_what_is_about_masks_is_told(enter):
    enter()
    with pytest.raises(UserError, match=r"configs/toy/p.toml: empties is about masks"):
        label("empties = 0.3")
