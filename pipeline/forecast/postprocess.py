"""Post-processing, cross-fitted along the folds and adopted only through the gate. "No change" is a normal answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.forecast.candidates import View, candidates
from pipeline.forecast.contributions import contributions, guess_of, switchable
from pipeline.forecast.rules import Rules, fit_rules, offered
from pipeline.scoring.bootstrap import gate, replicate
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# Rules that decide the submission as it is, not what single models say of it.
WHOLE = ("prior", "capacity")


@dataclass(frozen=True)
class Tried:
    """What was tried: OOF predictions of every rule (by rules fitted without the row's fold), and the fitted rules."""

    plain: Array
    outputs: dict[str, Array]
    oracle: Array
    by_fold: dict[int, Rules]
    deployed: Rules


def crossfit(problem: Problem, view: Callable[[int | None], View], each: int | None, seed: int) -> Tried:
    """Fit the rules without each fold and apply them to it, and the deployed ones on all rows.

    `view(k)` is all rows as fold k may see them (see `predictor.crossfit`).
    """
    everything = view(None)
    names, folds = offered(problem, everything, each), problem.folds
    outputs = {name: np.array(everything.run) for name in [*names, "oracle"]}
    by_fold = {}
    for k in np.unique(folds).tolist():
        mine, seen = folds == k, view(k)
        by_fold[k] = rules = fit_rules(problem, ~mine, seen, names, each, seed)
        for name in names:
            outputs[name][mine] = rules.apply(name, seen.of(mine))
        outputs["oracle"][mine] = oracle(problem, mine, candidates(problem, seen.of(mine), rules.facts))
    deployed = fit_rules(problem, np.ones(len(folds), bool), everything, names, each, seed)
    return Tried(everything.run, outputs, outputs.pop("oracle"), by_fold, deployed)


def oracle(problem: Problem, rows: Array, found: dict[str, Array]) -> Array:
    """Return for each row of a mask the candidate that its label says is best: what no rule can reach."""
    if not switchable(problem):
        return found["plain"]
    mine = problem.part(rows)
    base = guess_of(mine, found["plain"])
    worth = np.stack([problem.metric.gain(contributions(mine, guess_of(mine, p), base), 0.0) for p in found.values()])
    return np.asarray(np.stack(list(found.values()))[worth.argmax(0), np.arange(len(mine.y))])


def judge(problem: Problem, tried: Tried, rows: Array) -> tuple[str | None, dict[str, Any]]:
    """Return the rule to adopt on the evidence of the rows of a mask (None: no change), and the evidence.

    A rule must pass the gate over the run's own decision, simultaneous over all rules tried; the learned rule must pass
    it over every simple rule as well.
    """
    part = problem.part(rows)
    n, names, metric = len(part.y), ["plain", *tried.outputs], problem.metric
    guesses = [guess_of(problem, p[rows]) for p in (tried.plain, *tried.outputs.values())]
    scorers = [partial(part.judge, guess) for guess in guesses]
    now = np.array([score(np.ones(n)) for score in scorers])
    boot = replicate(scorers, n, part.group)
    gains, over = metric.gain(now[1:], now[0]), metric.gain(boot[:, 1:], boot[:, :1])
    lower = gate(gains, over)[1]
    passed = {name: bool(low > 0) for name, low in zip(names[1:], lower, strict=True)}
    best_simple: dict[str, Any] = {}
    if "row" in names:
        simple = np.array([name != "row" for name in names])
        over_simple = gate(metric.gain(now[~simple], now[simple]), metric.gain(boot[:, ~simple], boot[:, simple]))[1]
        passed["row"] &= bool((over_simple > 0).all())
        rivals = {name: score for name, score in zip(names, now.tolist(), strict=True) if name != "row"}
        strongest = max(rivals, key=lambda name: float(metric.gain(rivals[name], 0.0)))
        best_simple = {"name": strongest, "score": rivals[strongest], "lower": float(over_simple.min())}
    allowed = [name for name in names[1:] if passed[name]]
    adopted = max(allowed, key=lambda name: float(gains[names.index(name) - 1]), default=None)
    ceiling = part.judge(guess_of(problem, tried.oracle[rows]))
    gap = float(metric.gain(ceiling, now[0]))
    table = {
        name: {
            "score": now[j + 1],
            "gain": gains[j],
            "interval": np.quantile(over[:, j], [0.025, 0.975]),
            "lower": lower[j],
            "passed": passed[name],
            "of_oracle": gains[j] / gap if gap > 0 else float("nan"),
        }
        for j, name in enumerate(names[1:])
    }
    return adopted, {"plain": now[0], "oracle": ceiling, "rules": table, "over_simple": best_simple}


def decide(problem: Problem, tried: Tried) -> tuple[str | None, dict[int, str | None], dict[str, Any]]:
    """Return the adopted rule, what each fold adopts on the evidence of the others, and the evidence.

    All rows are evidence of what is deployed; of what a fold gets, only those of the other folds are.
    """
    adopted, evidence = judge(problem, tried, np.ones(len(problem.y), bool))
    others = {k: judge(problem, tried, problem.folds != k)[0] if adopted else None for k in tried.by_fold}
    return adopted, others, evidence


def deploy(rules: Rules, name: str, whole: View, models: Sequence[View]) -> Array:
    """Return the deployed test predictions of a rule: on the mean of the models (`whole`), or model by model.

    What hangs on the scale of predictions is fitted on one model a row; what it changes is averaged over the models.
    """
    if name in WHOLE:
        return rules.apply(name, whole)
    change = np.mean([rules.apply(name, model).astype(np.float64) - model.run for model in models], 0)
    out = whole.run + change
    return np.asarray(np.clip(out, 0, 1) if rules.problem.task.probabilities else out, np.float32)


@dataclass(frozen=True)
class Output:
    """What a run predicts now: OOF rows (N_s P), test rows (N_t P) by each fold's models, and as submitted.

    `oof_cut` and `models_cut` are the same, decided by the untuned cuts.
    """

    oof: Array
    models: dict[int, Array]
    test: Array
    oof_cut: Array
    models_cut: dict[int, Array]
    adopted: str | None
    by_fold: dict[int, str | None]
    evidence: dict[str, Any]


def process(
    problem: Problem,
    view: Callable[[int | None], View],
    models: dict[int, View],
    whole: View,
    each: int | None,
    seed: int,
) -> Output:
    """Try the rules and apply the adopted one; where none is, everything stays as it was, bit for bit.

    `models`: the test rows by the models of each fold, `whole`: as submitted.
    """
    tried = crossfit(problem, view, each, seed)
    adopted, by_fold, evidence = decide(problem, tried)
    if adopted is None:
        cut, raw = {k: seen.run for k, seen in models.items()}, {k: seen.raw for k, seen in models.items()}
        return Output(view(None).raw, raw, whole.raw, tried.plain, cut, None, by_fold, evidence)
    oof, tests = np.array(tried.plain), {}
    for k, name in by_fold.items():
        mine = problem.folds == k
        oof[mine] = tried.outputs[name][mine] if name else oof[mine]
        tests[k] = tried.by_fold[k].apply(name, models[k]) if name else models[k].run
    test = deploy(tried.deployed, adopted, whole, list(models.values()))
    return Output(oof, tests, test, oof, tests, adopted, by_fold, evidence)


def in_words(output: Output) -> list[str]:
    """Return for a person what was tried and what was adopted."""
    found = output.evidence
    lines = [f"post-processing: as it is {found['plain']:.4f}, oracle {found['oracle']:.4f}"]
    for name, facts in found["rules"].items():
        low, high = facts["interval"]
        passed = ", passed the gate" if facts["passed"] else ""
        lines.append(f"rule {name}: {facts['score']:.4f}, gain {facts['gain']:+.4f} [{low:+.4f}, {high:+.4f}]{passed}")
    return [*lines, f"adopted: {output.adopted}" if output.adopted else "no change: no rule passed the gate"]
