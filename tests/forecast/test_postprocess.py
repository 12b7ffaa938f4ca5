"""Post-processing is adopted where it is worth it, by evidence of other folds, and otherwise changes nothing."""

import numpy as np
import pytest
from test_rules import scene

from pipeline.forecast.candidates import View
from pipeline.forecast.postprocess import Tried, crossfit, decide, deploy, in_words, judge, process
from pipeline.forecast.rules import fit_rules
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


@pytest.fixture(scope="module")
def planted():
    """A problem with a planted rule, its view, the labels of a test set, its view, and what is made of them."""
    problem, view = scene(150)
    truth, test = scene(400, seed=1)
    out = process(problem, lambda k: view, dict.fromkeys(range(3), test), test, None, 0)
    return problem, view, truth.y, test, out


def test_a_planted_rule_is_adopted(planted):
    problem, view, _, _, out = planted
    assert out.adopted == "row"
    assert set(out.by_fold) == {0, 1, 2}
    before = (view.run.argmax(1) == problem.y).mean()
    assert (out.oof.argmax(1) == problem.y).mean() > before + 0.08
    facts = out.evidence["rules"]["row"]
    assert facts["gain"] == pytest.approx(facts["score"] - before)
    assert facts["interval"][0] < facts["gain"] < facts["interval"][1]
    assert 0 < facts["of_oracle"] < 1
    assert out.evidence["over_simple"]["lower"] > 0


def test_what_is_adopted_is_worth_it_on_a_test_set(planted):
    _, _, y, test, out = planted
    assert (out.test.argmax(1) == y).mean() > (test.run.argmax(1) == y).mean() + 0.08
    for p in out.models.values():
        assert p.shape == test.run.shape
    np.testing.assert_allclose(out.test.sum(1), 1, atol=1e-5)


def test_words_name_every_rule(planted):
    lines = in_words(planted[-1])
    assert lines[-1] == "adopted: row"
    assert sum("passed the gate" in line for line in lines) >= 1
    names = {line.split()[1].rstrip(":") for line in lines if line.startswith("rule")}
    assert names == {"global", "surest", "prior", "shares", "row"}


def test_noise_changes_nothing():
    """Rows that are right or wrong at random: 40 runs, and of these about one in forty may be taken in."""
    adopted = 0
    for seed in range(40):
        problem, view = scene(72, seed, skill=1.0)
        y = np.random.default_rng(seed).permutation(np.arange(72) % 3)
        noise = Problem(problem.task, problem.metric, 3, y, problem.folds, None)
        adopted += decide(noise, crossfit(noise, lambda k, v=view: v, None, seed))[0] is not None
    assert adopted <= 3


@pytest.mark.parametrize("metric", ["roc_auc", "brier"])
def test_identical_candidates_gain_nothing_and_nothing_is_touched(metric):
    rng = np.random.default_rng(0)
    p = rng.random((60, 1)).astype(np.float32)
    problem = Problem(TASKS["binary"], METRICS[metric], 2, rng.integers(0, 2, 60), np.arange(60) % 3, None)
    raw, test = p.copy(), rng.random((9, 1)).astype(np.float32)
    view = View(p, raw, np.stack([p, p]), (np.zeros((60, 1)), ["a"]), np.full(60, ""))
    seen = View(test, test, np.stack([test, test]), (np.zeros((9, 1)), ["a"]), np.full(9, ""))
    out = process(problem, lambda k: view, dict.fromkeys(range(3), seen), seen, None, 0)
    assert out.adopted is None
    assert set(out.by_fold.values()) == {None}
    assert all(rule["gain"] == 0 for rule in out.evidence["rules"].values())
    assert out.oof is raw
    assert out.test is test
    assert all(p is test for p in out.models.values())
    assert in_words(out)[-1] == "no change: no rule passed the gate"


def test_labels_of_a_fold_never_reach_its_rows():
    problem, view = scene(120)
    mine = problem.folds == 2
    other = Problem(
        problem.task, problem.metric, 3, np.where(mine, (problem.y + 1) % 3, problem.y), problem.folds, None
    )
    before, after = (crossfit(p, lambda k: view, None, 0) for p in (problem, other))
    for name, p in before.outputs.items():
        np.testing.assert_array_equal(p[mine], after.outputs[name][mine])
    assert any((p != after.outputs[name]).any() for name, p in before.outputs.items())


def test_a_fold_sees_its_own_view():
    problem, view = scene(90)
    blank = View(view.run, view.raw, view.leaves, (np.zeros_like(view.features[0]), view.features[1]), view.blocks)
    want = crossfit(problem, lambda k: blank, None, 0).outputs["row"]
    mixed = crossfit(problem, lambda k: view if k == 1 or k is None else blank, None, 0).outputs["row"]
    np.testing.assert_array_equal(mixed[problem.folds != 1], want[problem.folds != 1])


def tried(y, plain, **outputs):
    """Tried rules with given labels (of 3 classes)."""

    def p(labels):
        return np.eye(3)[labels]

    found = {name: p(labels) for name, labels in outputs.items()}
    return Tried(p(plain), found, p(y), dict.fromkeys(range(3)), None)


def case(n=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    worse = np.where(rng.random(n) < 0.6, y, (y + 1) % 3)
    better = np.where((worse != y) & (rng.random(n) < 0.5), y, worse)
    return Problem(TASKS["multiclass"], METRICS["accuracy"], 3, y, np.arange(n) % 3, None), y, worse, better


def test_the_learned_rule_must_beat_every_simple_one():
    problem, y, worse, better = case()
    everything = np.ones(len(y), bool)
    assert judge(problem, tried(y, worse, row=better, surest=worse), everything)[0] == "row"
    assert judge(problem, tried(y, worse, row=better, surest=better), everything)[0] == "surest"
    evidence = judge(problem, tried(y, worse, row=better, surest=better), everything)[1]
    assert evidence["rules"]["row"]["lower"] > 0
    assert not evidence["rules"]["row"]["passed"]
    assert evidence["over_simple"]["name"] == "surest"
    assert judge(problem, tried(y, worse, row=worse, surest=worse), everything)[0] is None
    assert judge(problem, tried(y, better, row=worse, surest=worse), everything)[0] is None


def test_evidence_is_of_the_rows_that_are_asked_for():
    problem, y, worse, better = case()
    only_zero = np.where(problem.folds == 0, better, worse)
    found = tried(y, worse, row=only_zero, surest=worse)
    adopted, by_fold, evidence = decide(problem, found)
    assert adopted == "row"
    assert by_fold == {0: None, 1: "row", 2: "row"}, "fold 0 is judged by folds where the rule does nothing"
    assert evidence["rules"]["row"]["score"] == pytest.approx((only_zero == y).mean())
    assert evidence["oracle"] == 1


def test_groups_widen_the_interval():
    problem, y, worse, better = case()
    group = (worse != better).argsort(kind="stable").argsort() // 50
    grouped = Problem(problem.task, problem.metric, 3, y, problem.folds, group)
    everything = np.ones(len(y), bool)
    found = tried(y, worse, row=better, surest=worse)
    alone, together = (judge(p, found, everything)[1]["rules"]["row"]["lower"] for p in (problem, grouped))
    assert together < alone


def test_deployed_changes_are_averaged_over_the_models():
    problem, view = scene(120)
    rules = fit_rules(problem, np.ones(120, bool), view, ["row", "prior", "shares"], None, 0)
    one, two = scene(40, seed=1)[1], scene(40, seed=2)[1]
    mean = (one.run + two.run) / 2
    whole = View(mean, mean, one.leaves, one.features, one.blocks)
    for name in ("row", "shares"):
        want = (rules.apply(name, one).astype(float) + rules.apply(name, two)) / 2
        np.testing.assert_allclose(deploy(rules, name, whole, [one, two]), want, atol=1e-6)
    np.testing.assert_array_equal(deploy(rules, "prior", whole, [one, two]), rules.apply("prior", whole))
