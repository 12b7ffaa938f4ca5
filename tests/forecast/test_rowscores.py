"""Scores of rows: of what the run says now, in strict mode from models that are blind to the fold as well."""

import dataclasses

import numpy as np
from test_rules import scene

from pipeline.forecast.contributions import contributions
from pipeline.forecast.postprocess import process
from pipeline.forecast.rowscores import in_words, score_rows, with_own


def scored(strict=False, view=None, n=120, **how):
    problem, plain = scene(n, **how)
    test = scene(30, seed=9, **how)[1]
    models = dict.fromkeys(range(3), test)
    output = process(problem, lambda k: plain, models, test, None, 0)
    return (
        problem,
        plain,
        output,
        score_rows(problem, view(plain) if view else lambda k: plain, models, output, strict, 0),
    )


def test_rows_and_test_rows_have_scores_and_ends():
    problem, plain, output, rows = scored(planted=False)
    assert output.adopted is None
    np.testing.assert_array_equal(rows.actual, plain.run.argmax(1) == problem.y)
    assert rows.oof.shape == (120,)
    assert rows.test.shape == (30,)
    assert [len(end) for end in rows.ends] == [150, 150]
    assert (rows.ends[0] <= np.r_[rows.oof, rows.test] + 1e-9).all()
    assert (rows.ends[1] >= np.r_[rows.oof, rows.test] - 1e-9).all()
    assert rows.report["auroc"][0] > 0.6
    assert not rows.strict
    assert "cross-fitted" in in_words(rows)[0]


def test_what_is_scored_is_what_is_adopted():
    problem, plain, output, rows = scored(n=150)
    assert output.adopted == "row"
    np.testing.assert_array_equal(rows.actual, output.oof.argmax(1) == problem.y)
    assert rows.actual.mean() > (plain.run.argmax(1) == problem.y).mean()


def test_a_lower_score_is_better_where_the_metric_says_so():
    problem, plain, _, rows = scored(metric="log_loss", leaves=1, planted=False, skill=3.0)
    np.testing.assert_allclose(rows.actual, contributions(problem, plain.run), atol=1e-5)
    assert rows.report["spearman_rule"][0] > 0.2, "a sure row has a small loss"


def test_features_say_how_sure_it_is_and_what_was_moved():
    problem, plain = scene(20)
    decided = plain.run[:, ::-1]
    values, names = with_own(problem, plain, decided)
    assert names[-2:] == ["own", "moved"]
    np.testing.assert_array_equal(values[:, -2], decided.max(1))
    np.testing.assert_allclose(values[:, -1], np.abs(decided - plain.run).mean(1), atol=1e-6)


def test_strict_mode_learns_from_views_of_its_own():
    def blank(plain):
        values, names = plain.features
        other = dataclasses.replace(plain, features=(np.zeros_like(values), names), run=np.full_like(plain.run, 1 / 3))
        return lambda k: plain if k is None else other

    rows = scored(strict=True, planted=False)[-1]
    assert rows.strict
    assert rows.report["spearman"][0] > 0.1
    blind = scored(strict=True, view=blank, planted=False)[-1]
    assert len(np.unique(blind.oof)) <= 3, "nothing to learn from but a mean a fold"


def test_strict_mode_ends_where_a_rule_was_adopted():
    _, _, output, rows = scored(strict=True, n=150)
    assert output.adopted
    assert not rows.strict
