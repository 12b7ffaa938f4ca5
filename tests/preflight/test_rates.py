import math

import numpy as np
import pytest

from pipeline.preflight.cost import trial
from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.learner import ignorant, scores_of
from pipeline.preflight.rates import Range, judged_rate, learning_rate, range_test, smoothed


def test_losses_are_smoothed_without_a_lag_and_what_is_not_finite_is_far_above():
    line = list(np.linspace(5, 1, 21))
    np.testing.assert_allclose(smoothed(line)[3:-3], line[3:-3])
    assert smoothed([1.0, 2.0, float("nan")])[-1] > 2
    assert np.isfinite(smoothed([float("nan")])).all()


def test_the_fall_and_its_end_are_found_on_a_curve():
    rates = np.geomspace(1e-5, 10, 61)
    place = np.log10(rates)
    curve = 2.3 - 1.5 / (1 + np.exp(-6 * (place + 3))) + np.where(place > -1, (place + 1) ** 2 * 5, 0)
    found = Range(rates, curve, curve)
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert found.lowest == pytest.approx(0.1, rel=0.3)
    assert found.suggestion == pytest.approx(found.lowest / 10)
    noise = np.random.default_rng(0).normal(0, 0.2, 61)
    assert Range(rates, 2.3 + noise, smoothed(list(2.3 + noise))).suggestion is None
    flat = Range(rates[:1], curve[:1], curve[:1])
    assert flat.steepest == flat.lowest == rates[0]


def test_verdicts_on_a_rate():
    assert judged_rate(0.05, 0.3, 1) == OK
    assert judged_rate(0.05, 0.3, 30) == OK  # above what the range test suggests, and yet it learns
    assert judged_rate(0.05, 1.2, 30) == LOOK
    assert judged_rate(0.5, 0.3, 1) == LOOK
    assert judged_rate(30, 0.3, 1) == BROKEN
    assert judged_rate(1e-7, 1.0, 1) == LOOK
    assert judged_rate(0.05, 2.0, 1) == BROKEN
    assert judged_rate(0.05, math.nan, 1) == BROKEN


@pytest.mark.parametrize(
    "task, optimizer, lr", [("multiclass", "adamw", 1e-2), ("multiclass", "sgd", 5e-2), ("segmentation", "adamw", 1e-2)]
)
def test_a_rate_times_1000_is_caught(task, optimizer, lr, material):
    one = material(task, old="lr = 1e-2", new=f'lr = {lr}\nname = "{optimizer}"')
    tested, verdicts = range_test(one), []
    blank = ignorant(
        one.objective, one.batch(one.rows[:8]), scores_of(one, one.first, one.batch(one.rows[:8])).shape[1]
    )
    for factor in (1, 1000):
        how = one.job.config.optim.model_copy(update={"lr": lr * factor})
        object.__setattr__(one.job, "config", one.job.config.model_copy(update={"optim": how}))
        found = learning_rate(one, tested, trial(one), blank)
        verdicts.append(found.verdict)
    assert verdicts == [OK, BROKEN]
    assert len(found.points) == len(tested.rates)
    assert float(found.advice.split()[-1]) < lr * 100
