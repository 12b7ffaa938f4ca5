"""An ablation in three rounds: all variants once, those that are not hopeless on every seed, the winner on new folds.

The rounds hang on nothing but what was judged, so an ablation that is resumed goes where it would have gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.scoring.ablation import Effect, Measured, detectable, effect, first_effect, holm, measure, verdict
from pipeline.store.errors import UserError
from pipeline.store.trials import Ablate
from pipeline.trials import trial as trials
from pipeline.trials.bench import BASE, Bench, Trial, Unit
from pipeline.trials.fresh import why_not
from pipeline.trials.table import STOPPED, Row, Winner


@dataclass(frozen=True)
class Found:
    """What is known so far: the base, the variants given up (with why), the effect of each, and the winner."""

    base: Measured
    runs: dict[str, Measured]
    effects: dict[str, Effect]
    given_up: dict[str, str]
    winner: Winner | None = None


@dataclass(frozen=True)
class Ablation:
    """The trials of an ablation, by variant: `groups` of them share their models, that of the base comes first."""

    bench: Bench
    config: Ablate
    steps: int
    folds: tuple[int, ...]
    groups: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, bench: Bench, config: Ablate) -> Ablation:
        """Return the plan of a config, every variant checked before anything is trained."""
        folds = tuple(sorted(config.folds or bench.folds))
        for fold in set(folds) - set(bench.folds):
            raise UserError(f"{bench.files.config}: folds: there is no fold {fold}; choices: {list(bench.folds)}")
        steps = config.steps or config.base.epochs * bench.steps(config.base)
        plan = cls(bench, config, steps, folds)
        sharing: dict[str, list[str]] = {}
        for name in (BASE, *config.variants):
            first = plan.trial(name, 0)
            trials.check(bench, first)
            sharing.setdefault(trials.shared_fit(bench, first), []).append(name)
        return cls(bench, config, steps, folds, list(sharing.values()))

    def trial(self, name: str, seed: int, split: int | None = None) -> Trial:
        """Return the trial of a variant with a seed, counted from that of the base run."""
        run = self.config.base if name == BASE else self.config.variants[name]
        what = name if name == BASE else f"variants.{name}"
        config = self.bench.scheduled(run, self.steps, self.config.base.seed + seed, what)
        return Trial(name, config, self.folds, split)

    @property
    def seeds(self) -> range:
        """Return the seeds that all variants have."""
        return range(self.config.seeds)

    def first(self) -> list[Unit]:
        """Return the base with all its seeds (and what predicts otherwise with its models), all others with one."""
        return [*self._units(self.groups[:1], self.seeds), *self._units(self.groups[1:], [0])]

    def judge_first(self) -> Found:
        """Say which variants failed, and which are hopeless."""
        base, effects, given_up = self._measured(BASE, self.seeds), dict[str, Effect](), dict[str, str]()
        for name in (name for group in self.groups[1:] for name in group):
            if why := self._failure(name, [0]):
                given_up[name] = why
                continue
            seen = first_effect(self._measured(name, [0]), base)
            if seen.hopeless:
                effects[name], given_up[name] = seen, STOPPED
        return Found(base, {BASE: base}, effects, given_up)

    def rest(self, found: Found) -> list[Unit]:
        """Return the further seeds of the variants that are not given up."""
        kept = [[name for name in group if name not in found.given_up] for group in self.groups[1:]]
        return self._units([group for group in kept if group], self.seeds[1:])

    def judge(self, found: Found) -> Found:
        """Say what each variant gains, and which of them is the winner."""
        runs, effects, given_up = dict(found.runs), dict(found.effects), dict(found.given_up)
        for name in self.config.variants:
            if name in given_up:
                seeds = [0] if name in effects else []
            elif why := self._failure(name, self.seeds):
                given_up[name], seeds = why, []
            else:
                seeds = list(self.seeds)
            if seeds:
                runs[name] = self._measured(name, seeds)
            if name not in given_up:
                effects[name] = effect(runs[name], found.base)
        above = [name for name in effects if name not in given_up and effects[name].gain > 0]
        best = max(above, key=lambda name: float(np.nan_to_num(effects[name].low, nan=-np.inf)), default=None)
        winner = None
        if best is not None:
            winner = Winner(best, effects[best], effects[best].gain, self._where(best))
        return Found(found.base, runs, effects, given_up, winner)

    def again(self, found: Found) -> list[Unit]:
        """Return the base and the winner on folds and seeds that nothing was chosen on."""
        if found.winner is None:
            return []
        names = [BASE, found.winner.name]
        shared = any(set(names) <= set(group) for group in self.groups)
        return self._units([names] if shared else [[name] for name in names], self._new_seeds, self._split(names[1]))

    def judge_again(self, found: Found) -> Found:
        """Say what the winner gains there."""
        if found.winner is None:
            return found
        name, split = found.winner.name, self._split(found.winner.name)
        for each in (BASE, name):
            if why := self._failure(each, self._new_seeds, split):
                raise UserError(f"{self.bench.files.config}: {each} failed where it was measured again: {why}")
        new, base = (self._measured(each, self._new_seeds, split) for each in (name, BASE))
        winner = Winner(name, effect(new, base), found.winner.chosen_at, found.winner.where)
        return Found(found.base, found.runs, found.effects, found.given_up, winner)

    def rows(self, found: Found) -> list[Row]:
        """Return the table."""
        tested = list(found.effects)
        corrected = dict(zip(tested, holm([found.effects[name].p for name in tested]), strict=True))
        rows = []
        for name in (BASE, *self.config.variants):
            run, seen = found.runs.get(name), found.effects.get(name)
            seeds = len(run.scores) if run is not None else 0
            told = [trials.receipt_of(self.bench, self.trial(name, seed)) for seed in range(seeds)]
            fit = self.trial(name, 0).config
            rows.append(Row(
                name,
                self.published(run) if run is not None else float("nan"),
                run.se if run is not None else float("nan"),
                seeds,
                fit.epochs,
                fit.epochs * self.bench.steps(fit),
                float(np.mean([each["seconds"] for each in told])) if told else float("nan"),
                max((each["memory"] for each in told), default=float("nan")),
                seen,
                corrected.get(name, float("nan")),
                verdict(seen, corrected[name]) if seen is not None else "",
                found.given_up.get(name, ""),
            ))  # fmt: skip
        return rows

    def published(self, run: Measured) -> float:
        """Return the mean score over seeds, as the metric has it."""
        return float(self.bench.metric.gain(run.scores.mean(), 0.0))

    def smallest(self, found: Found) -> float:
        """Return the smallest gain that such an ablation would show."""
        return detectable([e for name, e in found.effects.items() if name not in found.given_up])

    @property
    def _new_seeds(self) -> range:
        return range(self.config.seeds, 2 * self.config.seeds)

    def _split(self, name: str) -> int | None:
        """Return the seed of fresh folds: the first that the competition's repeats leave; None where there are none."""
        if why_not(self.bench.files.competition, self.config.base, self.config.variants[name]):
            return None
        how = self.bench.competition.folds
        return (how.seed + how.repeats) % 2**32

    def _where(self, name: str) -> str:
        first, last = (self.config.base.seed + seed for seed in (self._new_seeds[0], self._new_seeds[-1]))
        split = self._split(name)
        if split is None:
            why = why_not(self.bench.files.competition, self.config.base, self.config.variants[name])
            return f"on the same folds and seeds {first} .. {last} ({why})"
        return f"on fresh folds (seed {split}) and seeds {first} .. {last}"

    def _units(self, groups: Sequence[list[str]], seeds: Sequence[int], split: int | None = None) -> list[Unit]:
        return [Unit(tuple(self.trial(name, seed, split) for name in group)) for seed in seeds for group in groups]

    def _receipts(self, name: str, seeds: Sequence[int], split: int | None) -> list[dict[str, Any]]:
        return [trials.receipt_of(self.bench, self.trial(name, seed, split)) for seed in seeds]

    def _failure(self, name: str, seeds: Sequence[int], split: int | None = None) -> str:
        failed = [each["failed"] for each in self._receipts(name, seeds, split) if "failed" in each]
        return f"failed: {failed[0]}" if failed else ""

    def _measured(self, name: str, seeds: Sequence[int], split: int | None = None) -> Measured:
        told = [self.trial(name, seed, split) for seed in seeds]
        return measure(self.bench.problem(told[0]), [trials.guess_of(self.bench, each) for each in told])
