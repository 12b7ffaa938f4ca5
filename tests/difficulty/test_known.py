"""What is gathered from shelves is what the right model says of the right row."""

import numpy as np
import pytest
from fake import METRIC, invent, shelve
from house import make_competition, prepare

from pipeline.difficulty import known
from pipeline.difficulty.known import Case, gather, look, pairs_of, readers, within
from pipeline.scoring.features import in_model
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import half_of, read_table
from pipeline.tasks import TASKS


def case_of(house, task="multiclass", **options):
    make_competition(house, task, metric=METRIC[task])
    prepare()
    files = CompetitionFiles("toy")
    facts = read_table_facts(files)
    table = read_table(files, facts)
    problem = Problem.of(table, TASKS[task], METRICS[METRIC[task]])
    made = invent(task, problem.y, problem.y, problem.y[:24], problem.folds, len(table.classes), **options)
    shelve("toy/a", made, table, facts)
    receipt = read_json(RunFiles("toy/a").receipt)
    case = Case(RunFiles("toy/a"), load_competition("toy"), table, problem, receipt, {"toy/a": receipt})
    return case, made, facts


def test_rows_are_seen_by_the_model_that_did_not_train_on_them(house):
    case, made, _ = case_of(house)
    n, folds = 60, case.problem.folds
    looks, test_looks, other = look(case, 5)
    for k in range(3):
        mine, embeddings = folds == k, made.embeddings[k]
        away, labels = in_model(embeddings[:n][mine], embeddings[:n][~mine], 5, case.problem.y[~mine])
        np.testing.assert_allclose(looks[mine, 1], away)
        np.testing.assert_allclose(other[mine], (labels != case.problem.y[mine][:, None]).mean(1))
        np.testing.assert_allclose(test_looks[k][:, 1], in_model(embeddings[n:], embeddings[:n][~mine], 5)[0])
    np.testing.assert_allclose(looks[:, 0], made.hardness[:n] / 10, rtol=1e-6)
    np.testing.assert_allclose(test_looks[1][:, 0], made.hardness[n:] / 10, rtol=1e-6)


def test_neighbours_are_looked_for_among_so_many_rows(house, monkeypatch):
    case, made, _ = case_of(house)
    monkeypatch.setattr(known, "REFERENCES", 10)
    looks, _, _ = look(case, 3)
    mine, embeddings = case.problem.folds == 0, made.embeddings[0][:60]
    references = embeddings[np.flatnonzero(~mine)[::4]]
    np.testing.assert_allclose(looks[mine, 1], in_model(embeddings[mine], references, 3)[0])


def test_everything_is_gathered(house):
    case, made, _ = case_of(house, pairs=True)
    seen = within(case, gather(case, 5), 0, True)
    np.testing.assert_array_equal(seen.oof, made.oof)
    np.testing.assert_array_equal(seen.labels, made.oof.argmax(1))
    assert seen.statistics.shape == (84, 5)
    for k in range(3):
        np.testing.assert_allclose(seen.epochs[k][:, :-1], made.epochs[k], rtol=1e-6)
        assert np.nansum(seen.epochs[k][:, -1]) == 0, "no indicator samples, nothing below their margin"
        np.testing.assert_array_equal(seen.test[k], np.stack([made.test[k]] * 2))
    assert seen.pairs is not None
    rows, tests = pairs_of(case, 2, 0)
    np.testing.assert_array_equal(rows, seen.pairs[2][0])
    for j in (0, 1):
        mine = case.problem.folds == j
        np.testing.assert_array_equal(rows[mine], made.pairs[j, 2][0][mine])
        np.testing.assert_array_equal(tests[j], made.pairs[j, 2][1])
    assert np.isnan(rows[case.problem.folds == 2]).all()


def test_tuned_cuts_decide(house):
    case, made, _ = case_of(house, "binary")
    by_fold = {"0": [0.1], "1": [0.5], "2": [0.9]}
    case.shelf["decision"] = {"cuts": [0.3], "by_fold": by_fold}
    labels = gather(case, 5).labels
    cuts = np.array([0.1, 0.5, 0.9])[case.problem.folds]
    np.testing.assert_array_equal(labels, made.oof[:, 0] > cuts)
    assert case.decide(np.array([[0.2], [0.4]]), None).tolist() == [0, 1]


def test_halves_answer_for_the_other_half(house):
    case, made, facts = case_of(house)
    shelve("toy/b", made, case.table, facts, halves=True)
    leaf, ids = RunFiles("toy/b"), case.table.ids[case.rows]
    for h, (model, answers) in enumerate(case.models(leaf, 1)):
        assert model == leaf.fold(1).half(h)
        mine = np.r_[case.problem.folds == 1, np.ones(24, bool)]
        np.testing.assert_array_equal(answers, mine & (half_of(ids) != h))
    case.members["toy/b"] = case.members.pop("toy/a")
    found = readers(case)
    assert len(found) == 6
    assert sum(reader.answers for reader in found).tolist() == [1] * 60
    assert all((reader.trained == (case.problem.folds != j // 2)).all() for j, reader in enumerate(found))


def test_labels_in_words(house):
    case, _, _ = case_of(house)
    assert case.say(np.array([0, 2])) == ["ant", "cat"]


@pytest.mark.parametrize("task, labels, said", [
    ("multilabel", [[1, 0, 1], [0, 0, 0]], ["blue red", ""]),
    ("ordinal", [3, 0], ["3", "0"]),
    ("regression", [[12.34567], [1.0]], ["12.35", "1"]),
])  # fmt: skip
def test_labels_of_other_tasks_in_words(task, labels, said, house):
    case, _, _ = case_of(house, task)
    assert [" ".join(sorted(words.split())) for words in case.say(np.array(labels))] == said


def test_a_missing_array_is_one_line(house):
    case, _, _ = case_of(house)
    RunFiles("toy/a").fold(1).embeddings.unlink()
    with pytest.raises(UserError, match="fold1/emb.npy is missing: delete"):
        gather(case, 5)
