import dataclasses

import numpy as np
import pytest

from pipeline.forecast import level
from pipeline.forecast.contributions import contributions, guess_of
from pipeline.forecast.leaderboard import Submission, _intervals, advice, forecast, in_words, ladder
from pipeline.forecast.level import row_variance
from pipeline.forecast.regression import Scale
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.files import digest_json
from pipeline.tasks import TASKS


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def draw(rng, n, k, noise=1.0, skill=2.0):
    """Labels of 4 classes and the probabilities (K n 4) of k models with errors of their own and one in common."""
    y = rng.integers(0, 4, n)
    shared = skill * np.eye(4)[y] + rng.normal(size=(n, 4))
    return y, np.stack([softmax(shared + noise * rng.normal(size=(n, 4))) for _ in range(k)])


def case(seed=0, n=300, n_test=400, k=5, noise=1.0, metric="accuracy", group=None, **kwargs):
    """A forecast of K models, and the labels of test to compare it with."""
    rng = np.random.default_rng(seed)
    y, models = draw(rng, n, k, noise)
    there, tests = draw(rng, n_test, k, noise)
    oof = models[np.arange(n) % k, np.arange(n)]
    problem = Problem(TASKS["multiclass"], METRICS[metric], 4, y, np.arange(n) % k, group)
    score = problem.metric(problem.task, y, oof, np.zeros(0))
    rows = contributions(problem, guess_of(problem, oof))
    settings = {
        "run": "toy/a",
        "score": score,
        "se": rows.std() / n**0.5,
        "contributions": rows,
        "models": list(tests),
        "mean": tests.mean(0),
        "cuts": np.zeros(0),
        "public_share": 0.3,
        "shift_auc": 0.5,
        "shift_p": 0.6,
    }
    return forecast(problem, **settings | kwargs), (problem, there, tests.mean(0))


def width(interval):
    return interval[1] - interval[0]


def actual(truth, rows):
    problem, y, mean = truth
    return problem.metric(problem.task, y[rows], mean[rows], np.zeros(0))


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "brier"])
def test_cover_in_simulated_competitions(metric, monkeypatch):
    monkeypatch.setattr(level, "SOUGHT", 3000)
    monkeypatch.setattr(level, "TAKEN", 15_000)
    hits, naive = {50: 0, 80: 0, 90: 0, "private": 0}, 0
    for seed in range(200):
        found, truth = case(seed, n=200, n_test=300, noise=0.7, metric=metric)
        order = np.random.default_rng(seed + 1000).permutation(300)
        public, private = actual(truth, order[:90]), actual(truth, order[90:])
        for cover in (50, 80, 90):
            low, high = found.public[cover]
            hits[cover] += low <= public <= high
        low, high = found.private[90]
        hits["private"] += low <= private <= high
        # What the interval would be without the gain of the mean.
        naive += low - found.match.gain <= private <= high - found.match.gain
    assert 0.45 <= hits[50] / 200 <= 0.75
    assert 0.75 <= hits[80] / 200 <= 0.96
    assert 0.86 <= hits[90] / 200 <= 0.99
    assert 0.86 <= hits["private"] / 200 <= 0.99
    assert naive < hits["private"] - 5


def test_intervals_are_nested_and_shrink_with_rows():
    found = [case(public_share=share)[0] for share in (0.1, 0.3, 0.7)]
    for f in found:
        for part in (f.public, f.private):
            assert part[90][0] < part[80][0] < part[50][0] < part[50][1] < part[80][1] < part[90][1]
    for cover in (50, 80, 90):
        assert width(found[0].public[cover]) > width(found[1].public[cover]) > width(found[2].public[cover])
        assert width(found[0].private[cover]) < width(found[1].private[cover]) < width(found[2].private[cover])
    assert found[0].n_public == 40
    assert found[0].n_private == 360
    assert found[0].public_se > found[1].public_se > found[2].public_se


def test_more_scored_rows_are_narrower():
    widths = [np.mean([width(case(seed, n=n)[0].private[90]) for seed in range(5)]) for n in (60, 200, 1000)]
    assert widths[0] > widths[1] > widths[2]


def test_groups_widen():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 12, 300)
    rows = (rng.random(300) < np.linspace(0.3, 1, 12)[group]).astype(float)
    alone, grouped = (
        case(group=g, contributions=rows, score=rows.mean(), se=se)[0] for g, se in ((None, 0.027), (group, 0.06))
    )
    assert width(grouped.public[90]) > 1.5 * width(alone.public[90])


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(3)
    found, _ = case()
    order, order_test = rng.permutation(300), rng.permutation(400)
    y, models = draw(np.random.default_rng(0), 300, 5)
    oof = models[np.arange(300) % 5, np.arange(300)]
    problem = Problem(TASKS["multiclass"], METRICS["accuracy"], 4, y[order], (np.arange(300) % 5)[order], None)
    _, (_, _, mean) = case()
    rng = np.random.default_rng(0)
    draw(rng, 300, 5)
    tests = draw(rng, 400, 5)[1]
    rows = contributions(problem, guess_of(problem, oof[order]))
    again, _ = case(contributions=rows, models=list(tests[:, order_test]), mean=mean[order_test])
    assert again.match == found.match
    for cover in (50, 80, 90):
        assert again.public[cover] == pytest.approx(found.public[cover])


@pytest.mark.parametrize("right", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "roc_auc", "log_loss"])
def test_bounds_are_respected(right, metric):
    rows = np.r_[
        np.ones(297) * (right > 0.5),
        np.full(3, 1.0 if right != 0.99 else 0.0)[: 3 * (right != 0)],
        np.zeros(3 * (right == 0)),
    ]
    past = [Submission("x", 0.98, 1.0), Submission("y", 0.9, 0.0)]
    for known in ((), past):
        found, _ = case(
            metric=metric, score=float(rows.mean()), se=float(rows.std() / 17), contributions=rows, past=known
        )
        for part in (found.public, found.private):
            for low, high in part.values():
                assert 0 <= low <= high
                assert metric == "log_loss" or high <= 1


def test_a_perfect_public_score_is_within_reach():
    rows = np.r_[np.ones(99), 0.0]
    found, _ = case(n=100, score=0.99, se=0.01, contributions=rows, n_test=100)
    assert found.public[90][1] == 1


@pytest.mark.parametrize("name, half", [("accuracy", 0.05), ("f1_macro", 0.05), ("roc_auc", 0), ("mae", 0), ("r2", 0)])
def test_shares_of_rows_come_in_steps(name, half):
    scale, scores = Scale.of(METRICS[name]), np.linspace(0.5, 0.99, 2001)
    found = _intervals(METRICS[name], scale, scale.up(scores), 10)
    for cover in (50, 80, 90):
        low, high = np.quantile(scores, [0.5 - cover / 200, 0.5 + cover / 200])
        assert found[cover] == pytest.approx((low - half, min(high + half, 1)), abs=1e-4)


PAST = [
    Submission("toy/old", 0.60, 0.70, ("toy/old",)),
    Submission("toy/new", 0.62, 0.72, ("toy/new",)),
    Submission("toy/mix", 0.63, 0.725, ("toy/old", "toy/new")),
]


def test_past_submissions_move_the_forecast():
    alone, few, many = (case(past=PAST[:n], score=0.62)[0] for n in (0, 1, 3))
    middle = [np.mean(f.public[50]) for f in (alone, few, many)]
    # All came out a tenth above their CV; more of them say so more.
    assert abs(middle[2] - 0.72) < abs(middle[1] - 0.72) < abs(middle[0] - 0.72)
    assert width(many.public[90]) < width(few.public[90])
    assert (alone.standing.pairs, few.standing.pairs, many.standing.pairs) == (0, 1, 3)
    assert np.isnan(alone.standing.beats_best)
    assert len(many.standing.privates) == 4
    twenty, _ = case(past=[Submission("x", 0.5 + j / 100, 0.6 + j / 100) for j in range(20)], score=0.62)
    assert np.mean(twenty.public[50]) == pytest.approx(0.72, abs=0.01)


def test_the_chance_to_beat_the_best():
    chances = [case(past=PAST, score=score)[0].standing.beats_best for score in (0.5, 0.62, 0.75)]
    assert chances[0] < 0.1 < chances[1] < 0.9 < chances[2]
    found = case(past=PAST, score=0.62)[0]
    assert found.standing.best == 0.725
    losses = [Submission("a", 0.9, 0.7), Submission("b", 0.95, 0.8)]
    better, worse = (case(metric="log_loss", past=losses, score=score, se=0.03)[0].standing for score in (0.6, 1.2))
    assert better.best == 0.7
    assert better.beats_best > 0.8 > 0.2 > worse.beats_best


def test_submissions_without_a_score_are_no_pairs():
    unknown = [Submission("toy/x", 0.7, np.nan, ("toy/x",)), Submission("toy/y", np.nan, 0.9)]
    found, plain = case(past=unknown)[0], case()[0]
    assert found.public == plain.public
    assert found.standing.pairs == 0
    assert any("toy/x" in line for line in found.advice)


def test_the_private_score_takes_part_of_a_public_surprise():
    # One submission was lucky on the public rows: a part of it is believed of its private score.
    even = [Submission(f"r{j}", 0.70 + j / 100, 0.72 + j / 100) for j in range(4)]
    lucky = Submission("lucky", 0.715, 0.9)
    plain, moved = (case(score=0.7, past=[*even, s])[0].standing for s in (Submission("lucky", 0.715, 0.735), lucky))
    assert plain.privates[-1] == pytest.approx(plain.privates[2:4].mean(), abs=0.01)
    assert plain.privates[-1] + 0.02 < moved.privates[-1] < 0.87
    # A run of better CV is expected to do better, if the line says so.
    assert (np.diff(plain.privates[1:5]) > 0.004).all()
    # What all gained together on the public rows is only partly their own.
    far = case(score=0.62, past=[Submission("x", 0.62, 0.85)])[0]
    level = case(score=0.62)[0]
    assert np.mean(level.private[50]) < np.mean(far.private[50]) < np.mean(far.public[50])
    assert far.standing.privates[0] == pytest.approx(np.mean(far.private[50]), abs=0.01)


def test_shakeup_is_that_of_splitting_rows():
    rng = np.random.default_rng(0)
    rows = (rng.random(3000) < 0.7).astype(float)
    same = np.full((400, 4), 0.25)
    found, _ = case(n=3000, score=rows.mean(), se=rows.std() / 3000**0.5, contributions=rows, models=[same], mean=same)
    split = []
    for _ in range(2000):
        drawn = rng.choice(rows, 400)
        split.append(drawn[120:].mean() - drawn[:120].mean())
    assert found.shakeup == pytest.approx(np.std(split), rel=0.06)
    assert found.public_se == pytest.approx((0.21 / 120) ** 0.5, rel=0.06)


def test_a_predictor_narrows_what_it_explains():
    rng = np.random.default_rng(1)
    p = np.clip(rng.beta(0.5, 0.3, 700), 0.01, 0.99)
    rows = (rng.random(300) < p[:300]).astype(float)
    how = {"score": rows.mean(), "se": rows.std() / 300**0.5, "contributions": rows}
    plain = case(**how)[0]
    better = case(**how, predicted_oof=p[:300], predicted_test=p[300:])[0]
    assert width(better.private[90]) < 0.9 * width(plain.private[90])
    assert better.one.score != plain.one.score


def test_what_is_predicted_of_single_rows_is_no_noise_of_all_of_them():
    rng = np.random.default_rng(0)
    rows, there = rng.exponential(size=300), rng.exponential(size=400)
    there += rows.mean() - there.mean()
    how = {"metric": "log_loss", "score": 1.0, "se": row_variance(rows, None, np.ones(300)) ** 0.5}
    how |= {"contributions": rows, "predicted_oof": rows, "models": [np.full((400, 4), 0.25)]}
    how["mean"] = how["models"][0]
    found = [case(**how, predicted_test=there, public_share=share)[0] for share in (0.1, 0.9975)]
    assert found[1].n_private == 1
    # Which rows are public is all that is unknown.
    expected = (there.var() * (1 / 40 - 1 / 400)) ** 0.5
    assert found[0].public_se == pytest.approx(expected, rel=0.15)
    assert found[1].public_se < 0.2 * found[0].public_se
    assert found[0].shakeup == pytest.approx((there.var() * (1 / 40 + 1 / 360)) ** 0.5, rel=0.15)
    # A level that the predictor moves beyond chance is doubted.
    moved = case(**how, predicted_test=there + 0.6, public_share=0.9975)[0]
    assert moved.expected - found[1].expected == pytest.approx(0.6, abs=0.1)
    assert width(moved.public[80]) > 0.6
    assert width(found[1].public[80]) < 0.3


def test_the_ladder():
    accuracy, loss = METRICS["accuracy"], METRICS["log_loss"]
    publics = [0.80, 0.805, 0.80, 0.82, 0.825, 0.829]
    assert ladder(accuracy, publics, 0.01) == 3
    assert ladder(accuracy, publics, 0.0) == 5
    assert ladder(accuracy, publics, 1.0) == 0
    assert ladder(loss, [0.5, 0.49, 0.4, 0.6], 0.05) == 2
    found = case(past=[Submission(str(j), 0.6, p) for j, p in enumerate(publics)])[0]
    assert found.standing.real_best == str(ladder(accuracy, publics, found.public_se))


def test_advice_takes_the_best_and_another_family():
    runs = [
        Submission("a", 0.9, np.nan, ("x",)),
        Submission("b", 0.8, 0.9, ("y",)),
        Submission("c", 0.85, 0.9, ("z",)),
        Submission("d", 0.99, 0.9, ("x", "y")),
    ]
    one, two = advice(METRICS["accuracy"], runs, np.array([0.9, 0.8, 0.85, 0.7]))
    assert one.startswith("final 1: a, ")
    assert two.startswith("final 2: c, ")
    one, two = advice(METRICS["log_loss"], runs, np.array([0.9, 0.8, 0.85, 0.7]))
    # Shares least with d, among those that share nothing.
    assert one.startswith("final 1: d, ")
    assert two.startswith("final 2: c, ")
    assert "another family" in advice(METRICS["accuracy"], runs[:1], np.array([0.9]))[1]
    # Where all share something, the least is best.
    assert advice(METRICS["accuracy"], [runs[0], runs[3]], np.array([0.9, 0.8]))[1].startswith("final 2: d, ")


def test_words_tell_both_numbers_and_the_shift():
    found, _ = case(past=PAST, shift_auc=0.613, shift_p=0.004)
    text = in_words(found)
    assert f"CV accuracy {found.cv:.4f}" in text[0]
    assert f"{found.expected:.4f}" in text[0]
    assert "AUC 0.613 (p 0.004)" in text[0]
    assert "predicted public accuracy (120 rows): 50 %" in text[1]
    assert "predicted private accuracy (280 rows): 50 %" in text[2]
    assert any("with probability" in line for line in text)
    assert text[-2:] == found.advice
    assert "an estimate without labels" in text[0]
    assert "exact" in in_words(case(metric="brier")[0])[0]
    assert not any("past submissions" in line for line in in_words(case()[0]))


def test_a_forecast_can_be_written_and_reads_no_private_score():
    assert digest_json(dataclasses.asdict(case(past=PAST)[0]))
    assert "private" not in {field.name for field in dataclasses.fields(Submission)}


def test_a_run_without_a_score_has_no_level():
    found, _ = case(score=float("nan"), se=float("nan"))
    assert np.isnan(found.public[90]).all()
