"""The predictor of masks finds a planted rule, changes nothing where there is none, and is blind to its own fold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from salt import faint, metric_of, packed, problem_of

from pipeline.forecast.mask_survey import Goal, Source
from pipeline.forecast.masks import in_words, process, redo, take
from pipeline.scoring.mask_choice import choose
from pipeline.scoring.mask_variants import default_grid, measure

GRID = default_grid(1, False, False, False)


def setting(maps, truth, metric="tgs_precision", **how):
    problem = problem_of(truth, metric, **how)
    n = len(maps)
    source = Source(maps, [], np.array([mask.shape[1:] for mask in truth.masks]), np.zeros((n, 0)))
    goal = Goal(metric_of(problem), truth, np.arange(n))
    choice = choose(problem, GRID, measure(maps, truth, goal.rows, GRID, goal.metric))
    return problem, source, goal, choice


@pytest.fixture(scope="module")
def planted():
    case = setting(*faint(240))
    return case, process(*case)


def test_finds_that_small_faint_objects_are_false(planted):
    (problem, *_), found = planted
    assert found.adopted is not None
    assert found.adopted.startswith("row")
    facts = found.evidence["rules"][found.adopted]
    assert facts["lower"] > 0
    assert facts["of_oracle"] > 0.5
    assert found.evidence["spearman"] > 0.4
    assert found.evidence["mae"] < found.evidence["mae_mean"]
    assert found.evidence["taken"]["objects"] > 0.05
    assert problem.judge(found.stats) > max(found.evidence["simple"].values()) + 0.02
    assert problem.judge(found.stats) < found.evidence["oracle"]


def test_the_masks_are_those_that_were_scored(planted):
    (_, _, goal, _), found = planted
    for i in range(0, 240, 7):
        mask = found.oof.mask(i)
        assert found.stats[i] == pytest.approx(goal.metric.stats(goal.truth[i], mask))
    assert found.actual == pytest.approx(found.stats.mean(1))


def test_decisions_survive_a_file(planted):
    (_, source, _, _), found = planted
    rows = json.loads(json.dumps([found.oof.told(i) for i in range(240)]))
    assert any("gone" in row for row in rows)
    for i in range(0, 240, 11):
        assert (redo(source, i, rows[i]) == found.oof.mask(i)).all()
    lines = in_words(found)
    assert lines[-1] == f"adopted: {found.adopted}"
    assert len(lines) == 2 + len(found.evidence["rules"])


def test_settings_are_moved_to_maps_of_another_kind(planted):
    (_, source, _, _), found = planted
    wide = replace(source, maps=packed([source.maps[i] / 2 for i in range(40)]), sizes=source.sizes[:40])

    def halve(setting):
        return tuple(replace(d, threshold=d.threshold / 2, top=d.top / 2) for d in setting)

    plan = replace(found.plan, rule=None)
    moved, plain = plan.apply(wide, move=halve), plan.apply(replace(source, maps=source.maps.part(np.arange(40))))
    assert all((moved.mask(i) == plain.mask(i)).all() for i in range(40))


def test_the_gain_holds_on_fresh_images(planted):
    (problem, _, goal, choice), found = planted
    maps, truth = faint(240, seed=1)
    fresh, source, goal, _ = setting(maps, truth)
    done = found.plan.apply(source)
    stats = np.array([goal.metric.stats(truth[i], done.mask(i)) for i in range(240)])
    settled = measure(maps, truth, goal.rows, [choice.deployed], goal.metric)[:, 0]
    claimed = problem.judge(found.stats) - problem.judge(choice.stats)
    gained = fresh.judge(stats) - fresh.judge(settled)
    assert gained == pytest.approx(claimed, abs=0.04)
    assert np.corrcoef(done.predicted, stats[:, 0])[0, 1] > 0.4
    assert done.predicted.mean() == pytest.approx(stats.mean(), abs=0.05)


def test_noise_changes_nothing():
    # Whether a small object is true is chance, and so is what an image is.
    case = setting(*faint(160, planted=False))
    found = process(*case)
    assert found.adopted is None
    assert set(found.by_fold.values()) == {None}
    assert (found.stats == case[3].stats).all()
    i = 11
    again = found.plan.apply(case[1])
    assert (again.mask(i) == found.oof.mask(i)).all() or case[3].by_fold[i % 5] != case[3].deployed


def test_shuffled_truth_changes_nothing():
    maps, truth = faint(160)
    order = np.random.default_rng(0).permutation(160)
    found = process(*setting(maps, replace(truth, masks=[truth.masks[i] for i in order])))
    assert found.adopted is None or found.evidence["rules"][found.adopted]["gain"] > 0


def test_a_fold_is_decided_without_its_labels(planted):
    (problem, source, goal, choice), found = planted
    mine = np.flatnonzero(problem.folds == 2)
    masks = list(goal.truth.masks)
    for i in mine:
        masks[i] = ~masks[i]
    turned = process(problem, source, replace(goal, truth=replace(goal.truth, masks=masks)), choice)
    for name in found.evidence["rules"]:
        assert name in turned.evidence["rules"]
    # What is adopted may change, what a fold's images are predicted to score may not.
    same = found.oof.which[mine] == turned.oof.which[mine]
    assert found.oof.predicted[mine][same] == pytest.approx(turned.oof.predicted[mine][same])
    assert turned.by_fold[2] is None or same.all()


def test_rules_take_what_they_say():
    told = np.array([[0.5, 0.53, -np.inf, 0.4], [0.5, 0.4, 0.9, 0.51]])
    soft = np.array([[0.1, 0.2, 0.3], [0.9, 0.2, 0.3]])
    plain = np.array([0, 1])
    assert take(None, told, soft, plain).tolist() == [0, 1]
    assert take("soft", told, soft, plain).tolist() == [2, 0]
    assert take("row 0", told, soft, plain).tolist() == [1, 2]
    assert take("row 0.05", told, soft, plain).tolist() == [0, 2]


@pytest.mark.parametrize("metric, folds", [("iou_pooled", 3), ("tgs_precision", 2)])
def test_pooled_metrics_and_few_folds(metric, folds):
    case = setting(*faint(80), metric, folds=folds)
    found = process(*case)
    assert np.isfinite(found.evidence["oracle"])
    assert found.evidence["taken"]["objects"] == 0 or folds > 2
    assert case[0].judge(found.stats) >= min(found.evidence["simple"].values()) - 0.05


def test_members_are_candidates():
    maps, truth = faint(60)
    members = [packed([maps[i] ** power for i in range(60)]) for power in (0.5, 2.0)]
    problem, source, goal, choice = setting(maps, truth)
    found = process(problem, replace(source, members=members), goal, choice)
    assert sum(action.member >= 0 for action in found.plan.actions) == 2
