import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.trials.pruning import ENOUGH, Pruned, Referee, bars, best, ends, rungs


def more(new, old):
    return new - old


def less(new, old):
    return old - new


def test_rungs_are_the_best_until_a_third_and_two_thirds():
    assert ends(9) == [3, 6]
    assert ends(10) == [4, 7]
    curve = [0.1, 0.5, 0.4, 0.3, 0.6, 0.2, 0.9]
    assert rungs(curve, 9, more) == [0.5, 0.6]
    assert rungs(curve, 9, less) == [0.1, 0.1]
    assert rungs(curve[:4], 9, more) == [0.5]
    assert math.isnan(best([math.nan], more))
    assert best([math.nan, 0.2], more) == 0.2


@given(st.lists(st.lists(st.floats(0, 1), max_size=2), max_size=12))
def test_the_bar_is_the_median_of_enough_fits(known):
    for n, bar in enumerate(bars(known)):
        there = sorted(each[n] for each in known if len(each) > n)
        if len(there) < ENOUGH:
            assert math.isnan(bar)
        else:
            assert sum(value <= bar for value in there) >= len(there) / 2 <= sum(value >= bar for value in there)


def follow(path, curve, epochs, bars, gain=more):
    """Tell a referee of a fit's epochs, one by one, as the engine does; return after how many it was given up."""
    path.write_text("")
    referee = Referee(path, bars, epochs, "accuracy", gain)
    for epoch, score in enumerate(curve):
        with path.open("a") as handle:
            handle.write(json.dumps({"step": epoch, "epoch": epoch, "loss": 1.0}) + "\n")
            handle.write(json.dumps({"epoch": epoch, "valid_accuracy": score}) + "\n")
        try:
            referee.log({"epoch": epoch, "valid_accuracy": score})
        except Pruned as stopped:
            return epoch + 1, stopped.score
    return None


def test_a_fit_below_the_bar_is_given_up_at_the_rung(tmp_path):
    path, slow = tmp_path / "log", [0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.9, 0.9, 0.9]
    assert follow(path, slow, 9, (0.31, math.nan)) == (3, 0.3)
    assert follow(path, slow, 9, (0.30, 0.5)) == (6, 0.4)
    assert follow(path, slow, 9, (0.30, 0.4)) is None
    assert follow(path, slow, 9, (math.nan, math.nan)) is None
    assert follow(path, slow, 9, (0.05, 0.2), less) == (3, 0.1)
    assert follow(path, [None, None, None], 9, (0.1, 0.2))[0] == 3  # without a score
    assert follow(path, [0.1], 1, (0.9, 0.9)) is None  # there is nothing left to save


def test_what_came_before_a_kill_counts(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(json.dumps({"epoch": e, "valid_accuracy": 0.8}) + "\n" for e in range(3)))
    Referee(path, (0.7, math.nan), 9, "accuracy", more).log({"epoch": 2, "valid_accuracy": 0.1})
    with pytest.raises(Pruned):
        Referee(path, (0.9, math.nan), 9, "accuracy", more).log({"epoch": 2, "valid_accuracy": 0.1})
