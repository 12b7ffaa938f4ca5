"""Predict the score of every candidate mask of an image and take the best, through the gate or not at all.

The DSB-2018 winners' predictor (a regression of a candidate's IoU on its shape and probabilities) made honest: what
speaks of a fold never saw it, its rivals are the best simple rules, themselves cross-fitted, and it is adopted where
the lower end of its gain over all of them, allowing for all that was tried, is above zero under the true metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.forecast.mask_features import ACTION, MASK
from pipeline.forecast.mask_survey import (
    CUTS,
    Action,
    Goal,
    Source,
    Survey,
    default_actions,
    mask_of,
    prune,
    survey,
)
from pipeline.forecast.mask_table import Model, tabulate
from pipeline.masks.decide import Decision
from pipeline.scoring.bootstrap import gate, replicate
from pipeline.scoring.mask_choice import Choice
from pipeline.scoring.mask_variants import Setting
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# By how much a candidate must be predicted to beat the run's own decision: each margin is a rule of its own.
MARGINS = (0.0, 0.02, 0.05)
# The rule that asks no predictor: masks are continued from those of tiles beside them.
FILL = "mosaic"


@dataclass(frozen=True)
class Decided:
    """Which candidate each image takes (N,): an action, or from A on objects dropped at a cut; its predicted score."""

    source: Source
    actions: Sequence[Action]
    which: Array
    predicted: Array
    values: Array
    owner: Array

    def told(self, i: int) -> dict[str, Any]:
        """Return for a file how an image is decided: settings, whose maps (-1: the run's), and the objects that go."""
        at = int(self.which[i])
        action = self.actions[at if at < len(self.actions) else 0]
        found = action.as_dict()
        if at < len(self.actions):
            return found
        return found | {"gone": np.flatnonzero(self.values[self.owner == i] < CUTS[at - len(self.actions)]).tolist()}

    def mask(self, i: int) -> Array:
        """Return the mask (C H W bool) of an image."""
        return redo(self.source, i, self.told(i))


@dataclass(frozen=True)
class Plan:
    """What is deployed: actions, which of them is the run's own decision, the learners, the rule (None: plain)."""

    actions: Sequence[Action]
    plain: int
    scores: Model
    objects: Model | None
    rule: str | None

    def apply(self, source: Source, move: Callable[[Setting], Setting] = lambda setting: setting) -> Decided:
        """Decide other images, and predict their scores; `move` carries settings for one model over to their mean."""
        made = [replace(action, setting=move(action.setting)) for action in self.actions]
        seen = survey(source, self.actions, made=made)
        values, features = np.zeros(len(seen.owner)), seen.features
        if self.objects is not None:
            values = self.objects(seen.objects)
            features = np.concatenate([features, prune(source, seen.owner, values[None])[0][:, 0]], 1)
        told = self.scores(features.reshape(-1, features.shape[2])).reshape(features.shape[:2])
        if self.rule == FILL:
            which = filled(source, self.actions, self.plain)
        else:
            which = take(self.rule, told, soft_iou(seen), self.plain)
        return Decided(source, made, which, told[np.arange(len(told)), which], values, seen.owner)


@dataclass(frozen=True)
class Output:
    """The scored images as decided, their statistics (N k) and contributions (N,), what is deployed, the evidence."""

    oof: Decided
    stats: Array
    actual: Array
    plan: Plan
    adopted: str | None
    by_fold: dict[int, str | None]
    evidence: dict[str, Any]


def process(problem: Problem, source: Source, goal: Goal, choice: Choice) -> Output:
    """Predict the candidates of the scored images, fold by fold, and adopt the best rule where it passes the gate.

    `choice` is the run's own decision, which a fold's images had without its labels.
    """
    folds, rows = problem.folds, np.arange(len(problem.folds))
    base = default_actions(problem.classes, source.exclusive, len(source.members), goal.metric.objects)
    base += [Action((Decision(),) * problem.classes, fill=True)] * (source.beside is not None)
    actions = list(dict.fromkeys([*base, *(Action(s) for s in (*choice.by_fold.values(), choice.deployed))]))
    table, objects = tabulate(problem, source, goal, actions, len(base))
    plain = np.array([actions.index(Action(choice.by_fold[k])) for k in folds.tolist()])
    told, (stats, worths, values) = table.predict(plain), table.whole()
    soft = np.where(np.isfinite(told[:, : len(actions)]), soft_iou(table.seen), -np.inf)
    which = {name: take(name, told, soft, plain) for name in ("soft", *(f"row {margin:g}" for margin in MARGINS))}
    if source.beside is not None:
        which[FILL] = filled(source, actions, plain)
    oracle = np.where(np.isfinite(told), problem.metric.gain(worths, 0.0), -np.inf).argmax(1)
    held = {name: stats[rows, at] for name, at in which.items()}
    simple = {"plain": stats[rows, plain], "untuned": choice.fixed, "best setting": choice.optimal}
    simple["soft"] = held.pop("soft")
    tried = Tried(problem, simple, held, stats[rows, oracle])
    adopted, evidence = tried.judge(np.ones(len(rows), bool))
    by_fold = {k: tried.judge(folds != k)[0] if adopted else None for k in np.unique(folds).tolist()}
    which["None"] = plain
    final = np.array([which[str(by_fold[k])][i] for i, k in enumerate(folds.tolist())])
    evidence |= diagnose(told[rows, plain], worths[rows, plain], actions, final)
    offered = list(dict.fromkeys([*base, Action(choice.deployed)]))
    plan = Plan(offered, offered.index(Action(choice.deployed)), table.fit(rows, table.view), objects, adopted)
    oof = Decided(source, actions, final, told[rows, final], values, table.seen.owner)
    return Output(oof, stats[rows, final], worths[rows, final], plan, adopted, by_fold, evidence)


def redo(source: Source, i: int, told: dict[str, Any]) -> Array:
    """Return the mask (C H W bool) of an image that is decided as `Decided.told` says."""
    return mask_of(source, i, Action.from_dict(told), np.array(told["gone"], np.int64) if "gone" in told else None)


def filled(source: Source, actions: Sequence[Action], plain: Array | int) -> Array:
    """Return the candidate (N,) of the rule that masks are continued where a tile beside them tells how."""
    assert source.beside is not None
    at = next(a for a, action in enumerate(actions) if action.fill)
    return np.where(source.beside.speaks, at, plain)


def take(rule: str | None, told: Array, soft: Array, plain: Array | int) -> Array:
    """Return the candidate (N,) a rule takes by predicted scores (N A+P) and soft IoU (N A); None: the plain one."""
    rows, plain = np.arange(len(told)), np.broadcast_to(plain, len(told))
    if rule is None:
        return np.array(plain)
    if rule == "soft":
        return np.asarray(soft.argmax(1))
    best = told.argmax(1)
    return np.where(told[rows, best] - told[rows, plain] > float(rule.split()[1]), best, plain)


@dataclass(frozen=True)
class Tried:
    """Statistics (N k) of the simple rules, the run's own decision first, of the rules tried, and of the oracle."""

    problem: Problem
    simple: dict[str, Array]
    rules: dict[str, Array]
    oracle: Array

    def judge(self, rows: Array) -> tuple[str | None, dict[str, Any]]:
        """Return the rule to adopt on the evidence of the rows of a mask (None: no change), and the evidence.

        A rule must pass the gate, simultaneous over all rules tried, over every simple one.
        """
        part, gain = self.problem.part(rows), self.problem.metric.gain
        stats = {name: each[rows] for name, each in {**self.simple, **self.rules}.items()}
        scorers = [partial(part.judge, each) for each in stats.values()]
        now = np.array([score(np.ones(len(part.y))) for score in scorers])
        boot, old = replicate(scorers, len(part.y), part.group), len(self.simple)
        over = [gate(gain(now[old:], now[s]), gain(boot[:, old:], boot[:, [s]]))[1] for s in range(old)]
        lower, best = np.min(over, 0), int(np.argmax(gain(now[:old], 0.0)))
        passed = {name: bool(low > 0) for name, low in zip(self.rules, lower, strict=True)}
        scores = dict(zip(stats, now.tolist(), strict=True))
        allowed = [name for name in self.rules if passed[name]]
        adopted = max(allowed, key=lambda name: float(gain(scores[name], 0.0)), default=None)
        ceiling = part.judge(self.oracle[rows])
        gap, table = float(gain(ceiling, now[best])), {}
        for r, name in enumerate(self.rules):
            more, paired = float(gain(now[old + r], now[best])), gain(boot[:, old + r], boot[:, best])
            ends = np.quantile(paired[np.isfinite(paired)], [0.025, 0.975])
            facts = {"score": scores[name], "gain": more, "interval": ends, "lower": float(lower[r])}
            table[name] = {**facts, "passed": passed[name], "of_oracle": more / gap if gap > 0 else float("nan")}
        simple = {name: scores[name] for name in self.simple}
        return adopted, {"best_simple": list(simple)[best], "simple": simple, "oracle": ceiling, "rules": table}


def diagnose(told: Array, actual: Array, actions: Sequence[Action], final: Array) -> dict[str, Any]:
    """Return how well scores of the run's own masks are predicted, and how often each kind of candidate is taken."""
    from scipy.stats import spearmanr

    order = float(spearmanr(told, actual).statistic) if np.ptp(told) and np.ptp(actual) else float("nan")
    facts: dict[str, Any] = {"spearman": order, "mae": float(np.abs(told - actual).mean())}
    shares = np.bincount(final, minlength=len(actions)) / max(len(final), 1)
    taken = {"untuned": shares[0], "other": shares[1 : len(actions)].sum(), "objects": shares[len(actions) :].sum()}
    facts["mae_mean"] = float(np.abs(actual - actual.mean()).mean())
    return facts | {"taken": {kind: float(share) for kind, share in taken.items()}}


def in_words(output: Output) -> list[str]:
    """Return for a person what was tried and what was adopted."""
    found = output.evidence
    simple = ", ".join(f"{name} {score:.4f}" for name, score in found["simple"].items())
    lines = [
        f"masks: {simple}; oracle {found['oracle']:.4f}; scores predicted with Spearman {found['spearman']:.3f}, "
        f"MAE {found['mae']:.4f} (their mean {found['mae_mean']:.4f})"
    ]
    for name, facts in found["rules"].items():
        low, high = facts["interval"]
        told = f"{facts['score']:.4f}, gain over {found['best_simple']} {facts['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
        passed = ", passed the gate" if facts["passed"] else ""
        lines.append(f"rule {name}: {told}, {facts['of_oracle']:.0%} of the oracle gap{passed}")
    return [*lines, f"adopted: {output.adopted}" if output.adopted else "no change: no rule passed the gate"]


def soft_iou(seen: Survey) -> Array:
    """Return the soft IoU (N A) of each action's mask."""
    at = seen.features.shape[2] - len(ACTION) - len(MASK) + MASK.index("soft iou")
    return np.asarray(seen.features[:, :, at], np.float64)
