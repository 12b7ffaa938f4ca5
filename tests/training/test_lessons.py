"""What a model learns from is exactly what it may, row by row."""

import numpy as np
import pandas as pd
import pytest
import torch
from house import make_competition, prepare, write
from school import job_of, labels, learn

from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, read_json, write_json
from pipeline.store.table import half_of
from pipeline.training.lessons import plan, teacher_says
from pipeline.training.which import Which

ROWS, TEST, C = 60, 24, 4


def names(course):
    """The ids of the rows of a course."""
    return job_of("toy/a").table.ids[course.rows]


def gold_outside(job, *folds):
    return np.flatnonzero(~np.isin(job.table.folds[job.table.scored], folds))


@pytest.mark.parametrize("fold", [0, 1, 2])
@pytest.mark.parametrize("half", [0, 1])
def test_a_student_learns_the_other_folds_and_its_half(school, fold, half):
    job, course = learn("toy/s", fold, half=half)
    frame = labels()
    mine = frame[(frame["fold"] == fold) & (frame["half"] == half)]
    assert np.array_equal(course.lessons.gold, gold_outside(job, fold))
    assert sorted(names(course)[course.lessons.extra]) == sorted(mine["id"])
    assert (half_of(names(course)[course.lessons.extra]) == half).all()
    assert course.lessons.extra.min() >= ROWS
    said = mine.set_index("id").filter(regex="^t").loc[names(course)[course.lessons.extra]].to_numpy()
    assert torch.equal(course.targets[course.lessons.extra], torch.from_numpy(said).float())
    assert torch.equal(course.targets[:ROWS], torch.eye(C)[job.table.y[:ROWS, 0].astype(int)])
    assert (course.weights[course.lessons.gold] == 1).all()
    assert (course.weights[course.lessons.extra] == 1).all()
    for i, row in enumerate(job.table.test):
        assert names(course)[ROWS + i] == job.table.ids[row]
        assert np.array_equal(course.images[ROWS + i], job.images(job.table.test)[0][i])
    assert len(course.images) == len(course.targets) == len(course.weights) == len(names(course)) == ROWS + TEST


def test_a_plain_model_learns_the_other_folds(school):
    job, course = learn("toy/a", 1)
    assert np.array_equal(course.lessons.gold, gold_outside(job, 1))
    assert not len(course.lessons.extra)
    assert len(course.targets) == ROWS
    job, course = learn("toy/b", 0, 2)
    assert np.array_equal(course.lessons.gold, gold_outside(job, 0, 2))


def test_mode_share_and_weights_reach_the_lessons(school):
    frame = labels()
    frame["weight"] = np.linspace(0.1, 0.9, len(frame)).round(3)
    frame.sample(frac=1, random_state=0).to_csv(RunFiles("toy/p").pseudo, index=False)  # any order
    write("s2", 'base = "s"\n[student]\nmode = "finetune"\nshare = 0.25\n')
    _, course = learn("toy/s2", 1, half=0)
    assert (course.lessons.mode, course.lessons.share) == ("finetune", 0.25)
    mine = frame[(frame["fold"] == 1) & (frame["half"] == 0)].set_index("id")
    wanted = mine.loc[names(course)[course.lessons.extra]]
    np.testing.assert_allclose(course.weights[course.lessons.extra], wanted["weight"], rtol=1e-6)
    np.testing.assert_allclose(course.targets[course.lessons.extra], wanted.filter(regex="^t"))


def test_students_without_halves_take_all_rows_of_their_fold(school):
    frame = labels().assign(half=-1)
    frame.to_csv(RunFiles("toy/p").pseudo, index=False)
    _, course = learn("toy/s", 2)
    assert sorted(names(course)[course.lessons.extra]) == sorted(frame["id"][frame["fold"] == 2])


def test_ids_that_are_no_test_rows_are_refused(school):
    frame = labels()
    mine = (frame["fold"] == 0) & (frame["half"] == 1)
    frame.loc[mine.idxmax(), "id"] = "i000"  # a labelled row
    frame.to_csv(RunFiles("toy/p").pseudo, index=False)
    learn("toy/s", 0, half=0)
    with pytest.raises(UserError, match=r"toy/p/pseudo.csv has no rows for fold 0 half 1, or ids that are no test"):
        learn("toy/s", 0, half=1)


def test_a_student_without_pseudo_labels_is_refused(school):
    frame = labels()
    frame[(frame["fold"] != 2) | (frame["half"] != 0)].to_csv(RunFiles("toy/p").pseudo, index=False)
    learn("toy/s", 2, half=1)
    with pytest.raises(UserError, match="no rows for fold 2 half 0"):
        learn("toy/s", 2, half=0)


def rename(old, new):
    """Other ids in the table of record, which is signed again, and in the pseudo-labels."""
    files = CompetitionFiles("toy")
    for path in (files.table, RunFiles("toy/p").pseudo):
        path.write_text(path.read_text().replace(f"\n{old}", f"\n{new}"))
    facts = read_json(files.table_receipt)
    facts["outputs"][str(files.table)] = digest_file(files.table)
    write_json(files.table_receipt, facts)


def test_the_id_na_is_an_id(school):
    first = labels().iloc[0]
    rename(f"{first['id']},", "NA,")
    _, course = learn("toy/s", 0, half=int(first["half"]))
    assert "NA" in names(course)[course.lessons.extra]


def test_ids_of_digits_keep_their_zeros(school):
    rename("i0", "0")
    _, course = learn("toy/s", 0, half=1)
    assert set(names(course)[course.lessons.extra]) <= {f"0{row}" for row in range(60, 84)}


@pytest.mark.parametrize("task, said", [
    ("binary", [[0.9]]), ("multilabel", [[1.0, np.nan, 0.0]]), ("ordinal", [[1.25]]), ("regression", [[12.5]]),
])  # fmt: skip
def test_every_task_has_pseudo_labels(house, task, said):
    make_competition(house, task)
    prepare()
    write("p", 'stage = "pseudo"\nrun = "a"\n')
    write("s", 'base = "a"\npseudo = "p"\n')
    job = job_of("toy/s")
    ids = job.table.ids[job.table.test][:4]
    frame = pd.DataFrame({"id": ids, "repeat": 0, "fold": 1, "half": -1, "weight": 0.5})
    frame = frame.join(pd.DataFrame(np.repeat(said, 4, 0), columns=[f"t{c}" for c in range(len(said[0]))]))
    path = RunFiles("toy/p").pseudo
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)
    _, course = learn("toy/s", 1)
    wanted = course.objective.encode_prediction(np.array(said))[0]
    for row in course.lessons.extra:
        torch.testing.assert_close(course.targets[row], wanted, equal_nan=True)
    assert course.lessons.extra.tolist() == [60, 61, 62, 63]
    outside = job.table.y[:ROWS][job.table.folds[:ROWS] != 1]
    np.testing.assert_allclose(course.objective.center, outside.mean(0), rtol=1e-5)  # never of the own fold
    scores = torch.zeros(4, wanted.shape[0]).requires_grad_()
    course.objective.loss(scores, course.targets[course.lessons.extra]).sum().backward()
    assert (scores.grad == 0).any().item() == (task == "multilabel")
    assert torch.equal(scores.grad == 0, course.targets[course.lessons.extra].isnan())


# Distillation


def test_a_student_is_taught_by_the_model_of_its_own_fold(school):
    write("d", 'base = "a"\nteacher = "blend"\n[distill]\ntemperature = 2.0\nalpha = 0.5\n')
    for fold in range(3):
        job, course = learn("toy/d", fold)
        members = [np.load(f"runs/toy/{leaf}/fold{fold}/train.npy") for leaf in ("a", "b")]
        said = np.mean(members, 0)
        np.testing.assert_allclose(teacher_says(job, Which((fold,))), said, rtol=1e-5)
        assert torch.equal(course.targets[:, :C], torch.eye(C)[job.table.y[:ROWS, 0].astype(int)])
        soft = (torch.from_numpy(said).clamp(min=1e-6).log() / 2).softmax(1)
        torch.testing.assert_close(course.targets[:, C:], soft, rtol=1e-4, atol=1e-6)
        assert (course.objective.alpha, course.objective.temperature) == (0.5, 2.0)


def test_pairs_are_blind_to_both_folds(school):
    write("d", 'base = "a"\nteacher = "b"\ndistill.nested = "pairs"\n')
    job = job_of("toy/d")
    folds = job.table.folds[job.table.scored]
    for k in range(3):
        said = teacher_says(job, Which((k,)))
        for j in set(range(3)) - {k}:
            pair = RunFiles("toy/b").pair(j, k)
            trained = set(np.load(pair.rows).tolist())
            assert not trained & set(job.table.scored[np.isin(folds, (j, k))].tolist())
            assert np.array_equal(said[folds == j], np.load(pair.train)[folds == j])


def test_a_students_teacher_may_be_a_student(school):
    write("d", 'base = "a"\nteacher = "s"\n')
    np.testing.assert_allclose(teacher_says(job_of("toy/d"), Which((2,))), np.load("runs/toy/s/fold2/train.npy"))


# Tags


def tag(fold, ids, **columns):
    return pd.DataFrame(
        {"id": ids, "repeat": 0, "fold": fold, "weight": 1.0, "tag": "easy", "difficulty": 0.5} | columns
    )


def tagged(school, **difficulty):
    """Tags by which, for the models of fold 0 and 1, other rows are suspect and hard."""
    job = job_of("toy/a")
    ids, folds = job.table.ids[job.table.scored], job.table.folds[job.table.scored]
    parts = []
    for k in range(3):
        part = tag(k, ids[folds != k])
        part.loc[k : k + 1, "tag"] = "suspect"
        part.loc[k : k + 1, "weight"] = [0.25, 0.5]
        part.loc[10 + k : 14 + k, "tag"] = "hard"
        part["difficulty"] = np.random.default_rng(k).random(len(part)).round(6)
        for c in range(C):
            part[f"t{c}"] = np.where(part["tag"] == "suspect", [0.1, 0.2, 0.3, 0.4][c], np.nan)
        parts.append(part)
    frame = pd.concat(parts)
    path = RunFiles("toy/t").difficulty_train
    path.parent.mkdir(parents=True)
    frame.sample(frac=1, random_state=1).to_csv(path, index=False)
    write("t", 'stage = "tag"\nrun = "a"\n')
    lines = "".join(f"{key} = {value}\n" for key, value in difficulty.items())
    write("u", f'base = "a"\ntags = "t"\n[difficulty]\n{lines}')
    return frame


def of(frame, fold, tag):
    return sorted(frame["id"][(frame["fold"] == fold) & (frame["tag"] == tag)])


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_drop(school, fold):
    frame = tagged(school, suspect='"drop"')
    job, course = learn("toy/u", fold)
    outside = job.table.ids[job.table.scored][gold_outside(job, fold)]
    assert sorted(names(course)[course.lessons.gold]) == sorted(set(outside) - set(of(frame, fold, "suspect")))
    assert len(course.lessons.gold) == 38
    assert course.lessons.draw is course.lessons.difficulty is None
    # What the models of other folds think is another matter: their tags saw this fold.
    others = set(of(frame, (fold + 1) % 3, "suspect")) - set(of(frame, fold, "suspect"))
    assert others & set(outside) <= set(names(course)[course.lessons.gold])


def test_keep_changes_nothing(school):
    tagged(school, suspect='"keep"')
    _, course = learn("toy/u", 0)
    _, plain = learn("toy/a", 0)
    assert torch.equal(course.targets, plain.targets)
    assert torch.equal(course.weights, plain.weights)
    assert np.array_equal(course.lessons.gold, plain.lessons.gold)


def test_downweight(school):
    frame = tagged(school, suspect='"downweight"')
    _, course = learn("toy/u", 1)
    known = frame[frame["fold"] == 1].set_index("id")["weight"]
    wanted = [known.get(name, 1.0) for name in names(course)]
    np.testing.assert_allclose(course.weights, wanted)
    assert len(course.lessons.gold) == 40


def test_relabel(school):
    frame = tagged(school, suspect='"relabel"')
    job, course = learn("toy/u", 2)
    suspect = np.isin(names(course), of(frame, 2, "suspect"))
    assert suspect.sum() == 2
    np.testing.assert_allclose(course.targets[suspect], np.tile([0.1, 0.2, 0.3, 0.4], (2, 1)), rtol=1e-6)
    assert torch.equal(course.targets[~suspect], torch.eye(C)[job.table.y[:ROWS, 0].astype(int)][~suspect])


def test_hard_rows_are_drawn_more_often_and_suspects_never(school):
    frame = tagged(school, hard=3.0)
    _, course = learn("toy/u", 0)
    assert course.lessons.draw is not None
    drawn = dict(zip(names(course)[course.lessons.gold], course.lessons.draw, strict=True))
    assert {name for name, often in drawn.items() if often == 3} == set(of(frame, 0, "hard"))
    assert {often for name, often in drawn.items() if name not in of(frame, 0, "hard")} == {1.0}
    assert set(of(frame, 0, "suspect")) <= set(drawn)


def test_curriculum(school):
    frame = tagged(school, curriculum=0.5)
    _, course = learn("toy/u", 0)
    known = frame[frame["fold"] == 0].set_index("id")["difficulty"]
    assert course.lessons.curriculum == 0.5
    np.testing.assert_allclose(course.lessons.difficulty, known.loc[names(course)[course.lessons.gold]])


def test_tags_and_pseudo_labels_together(school):
    frame = tagged(school, suspect='"drop"', hard=2.0, curriculum=0.5)
    write("u", (school / "configs/toy/u.toml").read_text().replace('tags = "t"', 'tags = "t"\npseudo = "p"'))
    _, course = learn("toy/u", 0, half=1)
    assert len(course.lessons.draw) == len(course.lessons.difficulty) == len(course.lessons.gold) == 38
    assert course.lessons.curriculum == 0.5
    assert len(course.lessons.extra)
    assert not set(of(frame, 0, "suspect")) & set(names(course)[course.lessons.gold])


# Indicators


def test_indicators_have_a_class_of_their_own(school):
    write("i", 'base = "a"\nindicators = true\n')
    marked = {}
    for fold in range(3):
        job, course = learn("toy/i", fold)
        assert len(course.indicators) == 40 // (C + 1)
        assert set(course.indicators) <= set(course.lessons.gold)
        y = job.table.y[:ROWS, 0].astype(int)
        y[course.indicators] = C
        assert torch.equal(course.targets, torch.eye(C + 1)[y])
        marked[fold] = set(names(course)[course.indicators])
    write("j", 'base = "i"\nseed = 5\n')
    _, other = learn("toy/j", 0)
    assert set(names(other)[other.indicators]) != marked[0]
    _, again = learn("toy/i", 0)
    assert set(names(again)[again.indicators]) == marked[0]


def test_unreadable_images_are_not_learnt(school):
    job = job_of("toy/s", halves=True)
    bad = int(gold_outside(job, 1)[3])
    course = plan(job, Which((1,), 0), job.images(job.table.scored)[0], {bad: "black"})
    assert np.array_equal(course.lessons.gold, np.setdiff1d(gold_outside(job, 1), [bad]))
