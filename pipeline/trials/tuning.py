"""A search in rounds: settings are proposed, tried on one fold, pruned by the rounds before; the best is confirmed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.scoring.ablation import Effect, Measured, effect, measure
from pipeline.store.errors import UserError
from pipeline.store.train import Train
from pipeline.store.trials import Span, Tune, changed
from pipeline.trials import trial as trials
from pipeline.trials.bench import BASE, Bench, Trial, Unit
from pipeline.trials.pruning import bars, rungs
from pipeline.trials.search import ROUND, Tried, best_of, propose


@dataclass(frozen=True)
class Confirmed:
    """The best settings and the run itself, where nothing was chosen; scores as the metric has them."""

    best: Tried
    score: float
    se: float
    default: float
    default_se: float
    effect: Effect


@dataclass(frozen=True)
class Search:
    """A search and what it knows; a fit takes `steps`."""

    bench: Bench
    config: Tune
    steps: int
    known: list[Tried] = field(default_factory=list)
    proposed: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, config: Tune) -> Search:
        """Return the search of a config; every value that it lists is checked before anything is trained."""
        if config.fold not in bench.folds:
            raise UserError(f"{bench.files.config}: there is no fold {config.fold}; choices: {list(bench.folds)}")
        search = cls(bench, config, config.steps or config.base.epochs * bench.steps(config.base))
        trials.check(bench, search.default(0))
        for key, values in config.search.items():
            for value in (values.low, values.high) if isinstance(values, Span) else values:
                run = search.run_of({key: value}, f"search.{key}")
                trials.check(bench, Trial(f"search.{key}", search.scheduled(run, 0, f"search.{key}"), (config.fold,)))
        return search

    def run_of(self, settings: dict[str, Any], what: str) -> Train:
        """Return the run with some settings."""
        return changed(self.config.base, settings, self.bench.files.config, what)

    def scheduled(self, run: Train, seed: int, what: str) -> Train:
        """Return a run with a seed, counted from that of the base run, and its epochs."""
        return self.bench.scheduled(run, self.steps, self.config.base.seed + seed, what)

    def trial(self, number: int) -> Trial:
        """Return the trial of a number on the fold of the search; settings that exclude each other are refused."""
        run = self.run_of(self.proposed[number], f"trial {number}")
        found = Trial(name_of(number), self.scheduled(run, 0, f"trial {number}"), (self.config.fold,))
        trials.check(self.bench, found)
        return found

    def round(self, begin: int) -> list[Unit]:
        """Return the fits of a round: of settings that are new and that can be."""
        units, reach = [], bars([each.rungs for each in self.known if each.state == "done"])
        for number in self.numbers(begin):
            self.proposed[number] = propose(self.config, self.known, number)
            trial = self.possible(number)
            if trial is not None and self.same_as(number) == number:
                units.append(Unit((trial,), tuple(self.loss_or_gain(bar) for bar in reach)))
        return units

    def take(self, begin: int) -> None:
        """Add what a round has found to what is known."""
        for number in self.numbers(begin):
            settings, first, trial = self.proposed[number], self.same_as(number), self.possible(number)
            if first != number:
                twin = next(each for each in self.known if each.number == first)
                self.known.append(Tried(number, settings, twin.gain, twin.rungs, twin.state))
            elif trial is None:
                self.known.append(Tried(number, settings, math.nan, state="these settings exclude each other"))
            else:
                self.known.append(self.seen(number, trial))

    def seen(self, number: int, trial: Trial) -> Tried:
        """Return what the receipt of a trial tells."""
        told, gain = trials.receipt_of(self.bench, trial), self.loss_or_gain
        curve = [math.nan if score is None else score for score in (told["curves"] or [[]])[0]]
        reached = tuple(gain(score) for score in rungs(curve, trial.config.epochs, self.bench.metric.gain))
        score = math.nan if told["metrics"]["score"] is None else told["metrics"]["score"]
        state = told.get("failed", "pruned" if "pruned" in told else "done")
        return Tried(number, self.proposed[number], gain(score), reached, state)

    def possible(self, number: int) -> Trial | None:
        """Return the trial of a number, None where its settings exclude each other."""
        try:
            return self.trial(number)
        except UserError:
            return None

    def same_as(self, number: int) -> int:
        """Return the first trial that has the settings of one."""
        return next(n for n in sorted(self.proposed) if self.proposed[n] == self.proposed[number])

    def numbers(self, begin: int) -> range:
        """Return the numbers of a round."""
        return range(begin, min(begin + ROUND, self.config.trials))

    def loss_or_gain(self, score: float) -> float:
        """Return a score as a gain, larger for better, or a gain as a score."""
        return float(self.bench.metric.gain(score, 0.0))

    def default(self, seed: int) -> Trial:
        """Return the run itself where its rival is confirmed."""
        return Trial(BASE, self.scheduled(self.config.base, seed, BASE), self.others)

    def rival(self, seed: int) -> Trial:
        """Return the best settings there."""
        best = self.best
        run = self.run_of(best.settings, f"trial {best.number}")
        return Trial(name_of(best.number), self.scheduled(run, seed, f"trial {best.number}"), self.others)

    @property
    def others(self) -> tuple[int, ...]:
        """Return the folds that the search has not seen."""
        return tuple(k for k in self.bench.folds if k != self.config.fold)

    @property
    def best(self) -> Tried:
        """Return the best that came to its end."""
        found = best_of(self.known)
        if found is None:
            why = self.known[0].state
            raise UserError(f"{self.bench.files.config}: no trial came to its end; the first one: {why}")
        return found

    @property
    def new_seeds(self) -> range:
        """Return the seeds of the confirmation, counted from that of the base run."""
        return range(1, 1 + self.config.seeds)

    def last(self) -> list[Unit]:
        """Return the fits of the confirmation."""
        return [Unit((make(seed),)) for seed in self.new_seeds for make in (self.default, self.rival)]

    def confirm(self) -> Confirmed:
        """Compare the best settings with the run itself."""
        for told in (trials.receipt_of(self.bench, self.rival(seed)) for seed in self.new_seeds):
            if "failed" in told:
                raise UserError(f"{told['run']} failed where it was to be confirmed: {told['failed']}")
        new, base = (self._measured([make(seed) for seed in self.new_seeds]) for make in (self.rival, self.default))
        scores = (self.loss_or_gain(float(run.scores.mean())) for run in (new, base))
        score, default = scores
        return Confirmed(self.best, score, new.se, default, base.se, effect(new, base))

    def _measured(self, told: list[Trial]) -> Measured:
        return measure(self.bench.problem(told[0]), [trials.guess_of(self.bench, each) for each in told])


def name_of(number: int) -> str:
    """Return the name of a trial."""
    return f"t{number:03d}"
