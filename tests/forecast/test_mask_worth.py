"""What a candidate brings, against leaving the image out; the level of a submission of masks."""

import numpy as np
import pytest
from salt import Truth, problem_of

from pipeline.forecast.level import Match
from pipeline.forecast.mask_worth import foretell, worth


def problem(n, metric):
    return problem_of(Truth([np.zeros((2, 2, 2), bool)] * n), metric)


def test_of_a_mean_it_is_the_image():
    stats = np.random.default_rng(0).random((20, 3, 2))
    assert worth(problem(20, "dice"), stats, stats[:, 0]) == pytest.approx(stats.mean(2))


@pytest.mark.parametrize("metric", ["dice_pooled", "iou_pooled", "mean_iou"])
def test_of_a_pooled_metric_it_is_the_jackknife(metric):
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(5, 90, (2, 15, 3, 2))
    both = np.minimum(truth, guess) * rng.uniform(0.2, 0.9, (15, 3, 2))
    stats = np.concatenate([both, truth, guess], 2)
    case = problem(15, metric)
    base, found = stats[:, 0], worth(case, stats, stats[:, 0])
    for i, a in [(0, 0), (3, 1), (14, 2)]:
        changed = base.copy()
        changed[i] = stats[i, a]
        rest = case.judge(base, 1.0 - (np.arange(15) == i))
        assert found[i, a] == pytest.approx(15 * case.judge(changed) - 14 * rest)
    assert found[:, 0].mean() == pytest.approx(case.judge(base), abs=0.02)


def test_the_level_covers_fresh_images():
    rng = np.random.default_rng(2)
    covered, width = [], []
    for _ in range(40):
        easy = rng.random(500)
        actual = np.clip(easy + 0.2 * rng.normal(size=500), 0, 1)
        test = rng.random(400)
        private = np.clip(test[120:] + 0.2 * rng.normal(size=280), 0, 1).mean()
        found = foretell(
            problem(500, "dice"), run="c/r", score=actual.mean(), se=actual.std() / 500**0.5, actual=actual,
            predicted_oof=easy, predicted_test=test, models=1, match=Match(0.0, 0.0, exact=True), public_share=0.3, shift_auc=0.5,
            shift_p=0.5,
        )  # fmt: skip
        low, high = found.private[90]
        covered.append(low <= private <= high)
        width.append(high - low)
        assert found.match.gain == 0
    assert np.mean(covered) >= 0.8
    assert 0.03 < np.mean(width) < 0.12


def test_the_gain_of_the_mean_comes_on_top_of_what_single_models_score():
    rng = np.random.default_rng(3)
    easy = rng.random(600)
    actual = np.clip(0.6 * easy + 0.1 * rng.normal(size=600), 0, 1)
    test = 0.6 * rng.random(400)
    facts = {"actual": actual, "predicted_oof": 0.6 * easy, "predicted_test": test, "public_share": 0.3}
    facts |= {"run": "c/r", "score": actual.mean(), "se": actual.std() / 600**0.5, "shift_auc": 0.5, "shift_p": 0.5}
    told, plain = (
        foretell(problem(600, "dice"), models=5, match=Match(g, 0.4 * g, exact=False), **facts) for g in (0.08, 0.0)
    )
    assert told.expected - plain.expected == pytest.approx(0.08, abs=0.005)
    assert (told.models, told.match.gain, plain.match.gain) == (5, 0.08, 0.0)
    assert np.diff(told.private[90]) > np.diff(plain.private[90]), "how much it gains is not known exactly"
