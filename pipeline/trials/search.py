"""A search for better settings: by chance first, then by TPE (Bergstra 2011), a few at a time.

What is tried next hangs on the finished rounds and its own number alone, so a search that was killed goes on as it
would have gone, with one process or several. The receipts of the trials are the record; Optuna's journal is written
from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.store.errors import UserError
from pipeline.store.files import digest
from pipeline.store.trials import Span, Tune

# So many are tried side by side; what they find is known to the next ones.
ROUND = 4


@dataclass(frozen=True)
class Tried:
    """Settings (dotted keys) that were tried: their gain over nothing (larger is better), and that at each rung.

    `state`: done, pruned (on its way), or why it failed.
    """

    number: int
    settings: dict[str, Any]
    gain: float
    rungs: tuple[float, ...] = ()
    state: str = "done"


def load_optuna() -> Any:
    """Return Optuna, which is an extra."""
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs optuna: pip install -e '.[tune]' (make setup does it)") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distributions(search: dict[str, list[Any] | Span]) -> dict[str, Any]:
    """Return what Optuna calls a search space; values of a list are named by their JSON."""
    optuna, found = load_optuna(), dict[str, Any]()
    for key, values in search.items():
        if isinstance(values, list):
            names = list(dict.fromkeys(json.dumps(value) for value in values))
            found[key] = optuna.distributions.CategoricalDistribution(names)
        elif isinstance(values.low, int) and isinstance(values.high, int):
            found[key] = optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
        else:
            found[key] = optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    return found


def propose(config: Tune, known: Sequence[Tried], number: int) -> dict[str, Any]:
    """Return the settings of a trial, by what was tried in the rounds before its own."""
    optuna, space = load_optuna(), distributions(config.search)
    seed = int(digest(str(config.base.seed), str(number))[:8], 16)
    chance = optuna.samplers.RandomSampler(seed=seed)
    sampler = chance if number < config.coarse else optuna.samplers.TPESampler(n_startup_trials=1, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([as_trial(each, space) for each in known if each.number < number // ROUND * ROUND])
    return {key: _value(config.search[key], value) for key, value in study.ask(space).params.items()}


def as_trial(tried: Tried, space: dict[str, Any]) -> Any:
    """Return settings that were tried as Optuna has them."""
    optuna = load_optuna()
    states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    state = states.get(tried.state, optuna.trial.TrialState.FAIL)
    reached = {n: gain for n, gain in enumerate(tried.rungs) if math.isfinite(gain)}
    params = {
        key: json.dumps(tried.settings[key]) if hasattr(how, "choices") else tried.settings[key]
        for key, how in space.items()
    }
    return optuna.trial.create_trial(
        state=state,
        params=params,
        distributions=space,
        value=tried.gain if tried.state == "done" else None,
        intermediate_values=reached if tried.state in states else {},
    )


def write_journal(path: Path, name: str, config: Tune, known: Sequence[Tried]) -> None:
    """Write what was tried as a study of Optuna's (`JournalFileBackend`), for its own tools to read."""
    optuna, space = load_optuna(), distributions(config.search)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.unlink(missing_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))), study_name=name, direction="maximize"
    )
    study.add_trials([as_trial(each, space) for each in known])


def best_of(known: Sequence[Tried]) -> Tried | None:
    """Return the best of what was tried to the end, the first of equals."""
    done = [each for each in known if each.state == "done" and math.isfinite(each.gain)]
    return max(done, key=lambda each: each.gain, default=None)


def _value(values: list[Any] | Span, found: Any) -> Any:
    """Return a value as a config has it: floats to four digits, so that what is written is what was tried."""
    if isinstance(values, list):
        return json.loads(found)
    if isinstance(found, float):
        return min(max(float(f"{found:.4g}"), float(values.low)), float(values.high))
    return found
