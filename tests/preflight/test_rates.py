import math

import numpy as np
import pytest

from pipeline.preflight.cost import trial
from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.rates import HIGH, Range, judged_rate, learning_rate, range_test, smoothed


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
    assert judged_rate(1, 0.3) == OK
    assert judged_rate(30, 0.3) == OK  # above what the range test calls safe, and yet it learns
    assert judged_rate(30, 1.2) == LOOK
    assert judged_rate(1e-3, 1.0) == LOOK
    assert judged_rate(1, 2.0) == BROKEN
    assert judged_rate(1, math.nan) == BROKEN


@pytest.mark.parametrize("optimizer, lr", [("adamw", 1e-2), ("sgd", 5e-2)])
def test_a_rate_times_1000_is_caught(optimizer, lr, material):
    one = material(old="lr = 1e-2", new=f'lr = {lr}\nname = "{optimizer}"')
    tested = range_test(one)
    assert tested.rates[-1] < HIGH or tested.smooth[-1] > tested.smooth.min()
    verdicts = []
    for factor in (1, 1000):
        how = one.job.config.optim.model_copy(update={"lr": lr * factor})
        object.__setattr__(one.job, "config", one.job.config.model_copy(update={"optim": how}))
        found = learning_rate(one, tested, trial(one)[0], np.log(4))
        verdicts.append(found.verdict)
    assert verdicts == [OK, BROKEN]
    assert len(found.points) == len(tested.rates)
