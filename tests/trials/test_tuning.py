"""A search by rounds, without any training."""

import math

import pytest
from house import make_competition, prepare, write
from tries import Trainer

from pipeline.store.errors import UserError
from pipeline.store.runs import load_run
from pipeline.trials.bench import Bench
from pipeline.trials.fanout import run_units
from pipeline.trials.search import ROUND, Tried
from pipeline.trials.tuning import Search


@pytest.fixture
def search(house):
    make_competition(house, "multiclass", n_train=60, n_test=8)
    prepare()
    write("tune", 'stage = "tune"\nbase = "a"\ntrials = 6\nsteps = 30\nsearch.optim.lr = [0.1, 0.2]\n')
    return Search.of(Bench.of("toy/tune"), load_run("toy/tune"))


def test_rounds_are_of_four_and_the_last_of_what_is_left(search):
    assert list(search.numbers(0)) == list(range(ROUND))
    assert list(search.numbers(ROUND)) == [4, 5]


def test_what_was_tried_is_not_tried_again(search, monkeypatch):
    Trainer(monkeypatch, lambda config: 0.5 + config.optim.lr)
    for begin in (0, ROUND):
        units = search.round(begin)
        run_units(search.bench, units)
        search.take(begin)
    assert len(search.known) == 6
    scores = {each.settings["optim.lr"]: set() for each in search.known}
    for each in search.known:
        scores[each.settings["optim.lr"]].add(each.gain)
    assert all(len(found) == 1 for found in scores.values())
    assert search.others == (1, 2)
    assert search.trial(0).config.epochs == 10  # 30 steps of 3 an epoch


def test_the_bar_of_a_round_is_of_the_rounds_before(search):
    search.known.extend(Tried(n, {"optim.lr": 0.3 + n}, 0.5, (0.1 * n, 0.2 * n)) for n in range(5))
    search.known.append(Tried(9, {"optim.lr": 0.9}, 0.5, (9.0,), "pruned"))
    (unit, *_) = search.round(0)
    assert unit.bars == pytest.approx((0.2, 0.4))


def test_nothing_that_came_to_its_end(search):
    search.known.append(Tried(0, {"optim.lr": 0.1}, math.nan, (), "the loss is not finite"))
    with pytest.raises(UserError, match="no trial came to its end; the first one: the loss is not finite"):
        _ = search.best
