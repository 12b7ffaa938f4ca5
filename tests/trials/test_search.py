"""What a search tries next, and how Optuna is told."""

import sys

import numpy as np
import pytest

from pipeline.store.errors import UserError
from pipeline.store.train import Train
from pipeline.store.trials import Span, Tune
from pipeline.trials.search import ROUND, Tried, best_of, propose, write_journal

SEARCH = {
    "optim.lr": Span(low=1e-5, high=1e-1, log=True),
    "model.dropout": Span(low=0.0, high=0.5),
    "epochs_of": Span(low=1, high=4),
    "optim.milestones": [[0.3], [0.5, 0.7]],
}


def config(trials=30, coarse=16, seed=0):
    return Tune(stage="tune", base=Train(seed=seed), search=SEARCH, trials=trials, coarse=coarse)


def worth(settings):
    """Best at lr = 10 ** -2.5, dropout .2, two milestones."""
    far = (np.log10(settings["optim.lr"]) + 2.5) ** 2 / 2 + ((settings["model.dropout"] - 0.2) / 0.25) ** 2 / 2
    return float(-far - 0.3 * (len(settings["optim.milestones"]) != 2))


def searched(how):
    known = []
    for number in range(how.trials):
        settings = propose(how, known, number)
        known.append(Tried(number, settings, worth(settings)))
    return known


def test_settings_are_values_of_the_config():
    known = [propose(config(), [], number) for number in range(40)]
    assert {type(s["epochs_of"]) for s in known} == {int}
    assert {s["epochs_of"] for s in known} == {1, 2, 3, 4}
    assert {str(s["optim.milestones"]) for s in known} == {"[0.3]", "[0.5, 0.7]"}
    rates = np.array([s["optim.lr"] for s in known])
    assert ((rates >= 1e-5) & (rates <= 1e-1)).all()
    assert 0.2 < (rates < 1e-3).mean() < 0.8  # even in the logarithm
    assert all(rate == float(f"{rate:.4g}") for rate in rates)


def test_refinement_beats_chance():
    """At 30 trials, in the median of five seeds."""
    refined = [best_of(searched(config(seed=seed))).gain for seed in range(5)]
    chance = [best_of(searched(config(seed=seed, coarse=30))).gain for seed in range(5)]
    assert np.median(refined) > np.median(chance)


def test_what_comes_next_hangs_on_the_rounds_before_alone():
    known = searched(config(trials=24))
    number = 5 * ROUND + 2
    assert propose(config(), known, number) == known[number].settings
    assert propose(config(), known[: 5 * ROUND], number) == known[number].settings
    assert propose(config(), known[: 5 * ROUND - 1], number) != known[number].settings


def test_the_journal_is_optunas(tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    known = searched(config(trials=5))
    known[1] = Tried(1, known[1].settings, -3.0, (-3.5,), "pruned")
    known[2] = Tried(2, known[2].settings, float("nan"), (), "the loss is not finite")
    for _ in range(2):  # written anew, whatever a kill left there
        write_journal(tmp_path / "journal.log", "toy/tune", config(), known)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.load_study(study_name="toy/tune", storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.best_value == best_of(known).gain
    assert study.trials[1].intermediate_values == {0: -3.5}


def test_the_best_is_one_that_came_to_its_end():
    known = [Tried(0, {}, 0.5), Tried(1, {}, 0.9, (), "pruned"), Tried(2, {}, 0.5), Tried(3, {}, float("nan"))]
    assert best_of(known).number == 0
    assert best_of(known[1:2]) is None


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="a search needs optuna: pip install"):
        propose(config(), [], 0)
