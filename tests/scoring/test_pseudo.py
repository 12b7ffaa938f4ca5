"""Pseudo-labels against brute force, scikit-learn and scipy."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS as TASKS
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, mean_squared_error, r2_score

from pipeline.scoring.pseudo import Rule, agreement, choose, class_entropy, collapsing, entries, right, say, sureness

CLASSES = {"binary": 2, "multiclass": 4, "multilabel": 3, "ordinal": 4, "regression": 2}
SELECT = ("confidence", "margin", "agreement")
tasks = st.sampled_from(list(TASKS.values()))
seeds = st.integers(0, 2**32 - 1)


def members_of(task, seed, members=3, rows=12):
    rng = np.random.default_rng(seed)
    if task.name == "multiclass":
        return rng.dirichlet(np.full(4, 0.7), (members, rows)).astype(np.float32)
    if task.probabilities:
        return rng.random((members, rows, task.width(CLASSES[task.name]))).astype(np.float32)
    if task.name == "ordinal":
        return rng.uniform(-0.6, 3.6, (members, rows, 1)).astype(np.float32)
    return (rng.normal(0, [3, 0.1], (1, rows, 2)) + rng.normal(0, 0.2, (members, rows, 2))).astype(np.float32)


def cuts_of(task):
    return task.default_cuts(CLASSES[task.name])


def truth_of(task, seed, rows=12):
    rng = np.random.default_rng([seed, 1])
    if task.name == "regression":
        return rng.normal(0, 1, (rows, 2))
    return rng.integers(0, 2, (rows, 3)) if task.name == "multilabel" else rng.integers(0, CLASSES[task.name], rows)


def decide(task, p):
    """The label of each entry of one row, by the words of the task."""
    if task.name == "multiclass":
        return [max(range(len(p)), key=lambda c: p[c])]
    if task.name == "ordinal":
        return [sum(p[0] > cut for cut in (0.5, 1.5, 2.5))]
    return [0] if task.name == "regression" else [int(x > 0.5) for x in p]


@settings(deadline=None)
@given(tasks, seeds, st.sampled_from(SELECT), st.integers(1, 4))
def test_sureness_is_what_it_says(task, seed, select, count):
    members = members_of(task, seed, count)
    sure = sureness(task, members, cuts_of(task), select)
    mean = members.astype(np.float64).mean(0)
    for i, p in enumerate(mean):
        if task.name == "regression":
            wobble = [members[:, i, t].std() / members[:, :, t].mean(0).std() for t in range(2)]
            wanted = [1 / (1 + np.mean(wobble))]
        elif task.name == "multiclass":
            first, second = sorted(p, reverse=True)[:2]
            wanted = [first - second if select == "margin" else first]
        elif task.name == "ordinal":
            wanted = [min(1, 2 * min(abs(p[0] - cut) for cut in (0.5, 1.5, 2.5)))]
        else:
            wanted = [abs(2 * x - 1) if select == "margin" else max(x, 1 - x) for x in p]
        if select == "agreement" and task.name != "regression":
            votes = [[a == b for a, b in zip(decide(task, m[i]), decide(task, p), strict=True)] for m in members]
            wanted = wanted * np.mean(votes, 0)
        np.testing.assert_allclose(sure[i], wanted, rtol=1e-5, atol=1e-6)
    assert sure.shape == (12, 3 if task.name == "multilabel" else 1)
    assert sure.min() >= 0
    assert sure.max() <= 1 + 1e-6


def test_a_single_class_is_sure_of_itself():
    task, ones = TASKS["multiclass"], np.ones((2, 5, 1))
    assert (sureness(task, ones, cuts_of(task), "margin") == 1).all()


@settings(deadline=None)
@given(tasks, seeds)
def test_entries_are_decisions(task, seed):
    p = members_of(task, seed)[0]
    assert entries(task, p, cuts_of(task)).tolist() == [decide(task, row) for row in p]


grids = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=n, max_size=n),
    )
)


@settings(deadline=None)
@given(grids, st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.booleans())
def test_choose_is_brute_force(grid, quota, threshold, stratify):
    """Few values, so that ties are common: they fall to the first rows of the table."""
    sure, decided = np.array(grid[0]) / 6, np.array(grid[1])
    kept = choose(Rule("confidence", quota, threshold, stratify), sure, decided)
    for e in range(2):
        for label in range(3) if stratify else [None]:
            rows = [i for i in range(len(sure)) if label is None or decided[i, e] == label]
            ranked = sorted(rows, key=lambda i: (-sure[i, e], i))[: round(quota * len(rows))]
            wanted = {i for i in ranked if sure[i, e] >= threshold}
            assert {i for i in rows if kept[i, e]} == wanted


@settings(deadline=None)
@given(grids, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_choose_grows_with_quota_and_shrinks_with_threshold(grid, one, other, threshold):
    sure, decided = np.array(grid[0]) / 6, np.array(grid[1])
    few, many = (choose(Rule(quota=q, threshold=threshold), sure, decided) for q in sorted((one, other)))
    assert (few <= many).all()
    assert (choose(Rule(quota=one, threshold=threshold), sure, decided) <= choose(Rule(quota=one), sure, decided)).all()
    assert choose(Rule(), sure, decided).all()
    assert not choose(Rule(quota=0.0), sure, decided).any()


def test_every_predicted_class_gets_its_share():
    """A class that the teacher is never sure of would vanish from the pseudo-labels without strata."""
    sure = np.r_[np.linspace(0.9, 0.99, 10), np.linspace(0.4, 0.49, 10)][:, None]
    decided = np.repeat([0, 1], 10)[:, None]
    even, pooled = (choose(Rule(quota=0.5, stratify=s), sure, decided)[:, 0] for s in (True, False))
    assert even.reshape(2, 10).sum(1).tolist() == [5, 5]
    assert pooled.reshape(2, 10).sum(1).tolist() == [10, 0]
    assert even[5:10].all()
    assert even[15:].all()


def all_kept(task, p):
    return np.ones((len(p), p.shape[1] if task.name == "multilabel" else 1), bool)


@settings(deadline=None)
@given(tasks, seeds)
def test_hard_is_the_decision(task, seed):
    p = members_of(task, seed)[0]
    said = say(task, p, all_kept(task, p), cuts_of(task), "hard", 0.5)
    wanted = [decide(task, row) for row in p]
    wanted = np.eye(4)[np.ravel(wanted)] if task.name == "multiclass" else wanted
    assert np.array_equal(said, p.astype(np.float64) if task.name == "regression" else wanted)


@settings(deadline=None)
@given(tasks, seeds, st.floats(0.05, 1))
def test_sharpened_lies_between_soft_and_hard(task, seed, temperature):
    p, cuts = members_of(task, seed)[0], cuts_of(task)
    kept = all_kept(task, p)
    assume(task.name == "regression" or sureness(task, p[None], cuts, "margin").min() > 0.02)
    soft, hard = (say(task, p, kept, cuts, how, temperature) for how in ("soft", "hard"))
    assert np.array_equal(soft, p.astype(np.float64))
    np.testing.assert_allclose(say(task, p, kept, cuts, "sharpened", 1.0), soft, atol=1e-6)
    np.testing.assert_allclose(say(task, p, kept, cuts, "sharpened", 1e-4), hard, atol=1e-3)
    said = say(task, p, kept, cuts, "sharpened", temperature)
    assert np.array_equal(entries(task, said, cuts), entries(task, p, cuts))
    if task.name == "multiclass":
        np.testing.assert_allclose(said.sum(1), 1)
        assert (said.max(1) >= soft.max(1) - 1e-6).all()
    elif task.name != "regression":
        assert (np.abs(said - hard) <= np.abs(soft - hard) + 1e-6).all()


def test_sharpened_is_that_of_mixmatch():
    """Berthelot 2019, equation 7; a label is a distribution over yes and no."""
    many, labels, grades = (TASKS[name] for name in ("multiclass", "multilabel", "ordinal"))
    p = np.array([[0.1, 0.2, 0.3, 0.4]])
    powers = p**2.5
    said = say(many, p, np.array([[True]]), cuts_of(many), "sharpened", 0.4)
    np.testing.assert_allclose(said, powers / powers.sum())
    said = say(labels, np.array([[0.2, 0.5, 0.9]]), np.ones((1, 3), bool), cuts_of(labels), "sharpened", 0.5)
    np.testing.assert_allclose(said, [[0.04 / 0.68, 0.5, 0.81 / 0.82]])
    said = say(grades, np.array([[1.3], [2.9], [3.4]]), np.ones((3, 1), bool), cuts_of(grades), "sharpened", 0.25)
    np.testing.assert_allclose(said, [[1.075], [2.975], [3.1]])


@pytest.mark.parametrize("temperature", [1e-3, 1e-9])
def test_sharp_temperatures_do_not_underflow(temperature):
    many, labels = TASKS["multiclass"], TASKS["multilabel"]
    p = np.array([[0.24, 0.26, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]], np.float32)
    said = say(many, p, np.ones((2, 1), bool), cuts_of(many), "sharpened", temperature)
    np.testing.assert_allclose(said, [[0, 1, 0, 0], [0, 0, 0, 1]], atol=1e-9)
    q = np.array([[0.4, 0.6, 0.5], [0.0, 1.0, 0.5]])
    said = say(labels, q, np.ones((2, 3), bool), cuts_of(labels), "sharpened", temperature)
    np.testing.assert_allclose(said, [[0, 1, 0.5], [0, 1, 0.5]], atol=1e-9)


@pytest.mark.parametrize("how", ["hard", "soft", "sharpened"])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_not_kept_is_unknown(task, how):
    p = members_of(task, 3)[0]
    kept = np.random.default_rng(0).random(all_kept(task, p).shape) < 0.5
    said = say(task, p, kept, cuts_of(task), how, 0.5)
    assert said.shape == p.shape
    assert np.array_equal(np.isnan(said), np.broadcast_to(~kept, p.shape))


@settings(deadline=None)
@given(tasks, seeds, st.sampled_from(SELECT), st.floats(0.2, 1))
def test_right_is_that_of_scikit_learn(task, seed, select, quota):
    p, y, cuts = members_of(task, seed)[0], truth_of(task, seed), cuts_of(task)
    kept = choose(Rule(select, quota), sureness(task, p[None], cuts, select), entries(task, p, cuts))
    assume(kept.any())
    hits, count = right(task, y, p, kept, cuts)
    assert hits.shape == count.shape == (12,)
    assert count.sum() == kept.sum()
    share = hits.sum() / count.sum()
    if task.name == "regression":
        assert share == pytest.approx(mean_squared_error(y[kept[:, 0]], p[kept[:, 0]]), rel=1e-5)
        return
    decided = np.array([decide(task, row) for row in p])
    assert share == pytest.approx(accuracy_score(y.reshape(12, -1)[kept], decided[kept]))
    assert ((hits == 0) | kept.any(1)).all()


@settings(deadline=None)
@given(tasks, seeds)
def test_agreement_is_that_of_scikit_learn(task, seed):
    one, other = members_of(task, seed, 2)
    found = agreement(task, one, other, cuts_of(task))
    assert agreement(task, one, one, cuts_of(task)) == 1
    if task.name == "regression":
        assert found == pytest.approx(r2_score(other, one, multioutput="variance_weighted"), abs=1e-5)
    else:
        first, second = (np.ravel([decide(task, row) for row in p]) for p in (one, other))
        assert found == pytest.approx(accuracy_score(second, first))


@settings(deadline=None)
@given(tasks, seeds)
def test_class_entropy_is_that_of_scipy(task, seed):
    p = members_of(task, seed)[0]
    found = class_entropy(task, p, cuts_of(task))
    if task.name == "regression":
        assert found == pytest.approx(np.log(p.astype(np.float64).std(0)).mean(), rel=1e-4, abs=1e-5)
    else:
        columns = np.array([decide(task, row) for row in p]).T
        assert found == pytest.approx(np.mean([entropy(np.bincount(column)) for column in columns]))


def test_a_constant_value_has_the_least_entropy():
    assert np.isfinite(class_entropy(TASKS["regression"], np.ones((5, 1)), np.zeros(0)))


@pytest.mark.parametrize("now, before, why", [
    ({"entropy": 1.0}, {"entropy": 1.05}, None),
    ({"entropy": 1.0}, {"entropy": 1.11}, "class entropy fell from 1.110 to 1.000"),
    ({"entropy": 1.5}, {"entropy": 1.0}, None),
    ({"entropy": 1.0, "agreement": 0.5}, {"entropy": 1.0}, None),  # nothing to compare with in round 2
    ({"entropy": 1.0, "agreement": 0.95}, {"entropy": 1.0, "agreement": 0.9}, None),
    ({"entropy": 1.0, "agreement": 0.85}, {"entropy": 1.0, "agreement": 0.9}, None),  # 2 se of 100 rows are 0.06
    ({"entropy": 1.0, "agreement": 0.83}, {"entropy": 1.0, "agreement": 0.9}, "fell from 0.900 to 0.830"),
    ({"entropy": 1.0, "agreement": 0.99}, {"entropy": 1.0, "agreement": 1.0}, "fell from 1.000 to 0.990"),
])  # fmt: skip
def test_collapsing(now, before, why):
    said = collapsing(now, before, 100)
    assert said is None if why is None else why in said


def test_fewer_rows_are_noisier():
    now, before = {"entropy": 1.0, "agreement": 0.83}, {"entropy": 1.0, "agreement": 0.9}
    assert collapsing(now, before, 20) is None
    assert collapsing(now, before, 100) is not None


def test_what_is_unknown_is_neither_right_nor_wrong():
    labels, values = TASKS["multilabel"], TASKS["regression"]
    y, p = np.array([[1, np.nan], [np.nan, 0], [0, 1]]), np.array([[0.9, 0.9], [0.1, 0.8], [0.9, 0.9]])
    hits, count = right(labels, y, p, np.ones((3, 2), bool), labels.default_cuts(2))
    assert hits.tolist() == [1, 0, 1]
    assert count.tolist() == [1, 1, 2]
    error, count = right(values, y, p, np.ones((3, 1), bool), np.zeros(0))
    assert error == pytest.approx([0.01, 0.64, (0.81 + 0.01) / 2])
    assert count.tolist() == [1, 1, 1]
