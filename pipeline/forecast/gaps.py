"""Where the error comes from: rows that were learnt, held-out rows, those of them like the test rows, and test itself.

Four errors and the gaps between them (Ng, Machine Learning Yearning): what is lost on training rows is bias, what
held-out rows of the same kind add is variance, what rows like the test rows add to that is mismatch, and what the
forecast of the submission adds is over-tuning to the scored rows. The curves of training say which way to go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.scoring.bootstrap import replicate
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.files import Array, read_npy

if TYPE_CHECKING:
    from pipeline.forecast.leaderboard import Forecast
    from pipeline.forecast.sources import Job

REPLICATES = 100
# A fifth of the scored rows, those most like test rows, stand for them.
LIKE = 0.2
# A change of the loss of less than this share of it is none.
MATTERS = 0.02
NAMES = ("bias", "variance", "mismatch", "over-tuning")


@dataclass(frozen=True)
class Gaps:
    """Errors (how far a score is from that of the perfect prediction) of the mean model, and the gaps between them.

    `gaps` are [gap, standard error], `largest` is the name of the largest, None where none is above two of its errors.
    `verdict` of the curves of training is over, under or fine, None where there are none; `evidence` [mean over folds,
    its lower end] is what it rests on.
    """

    errors: dict[str, float]
    gaps: dict[str, list[float]]
    largest: str | None
    verdict: str | None
    evidence: dict[str, list[float]]


def of_leaves(job: Job, likeness: Array, score: float, foretold: Forecast) -> dict[str, Gaps]:
    """Return the gaps of each trained run below; `score` is that of the run, of whose submission `foretold` tells."""
    problem, (low, high) = job.problem, foretold.public[90]
    worse = float(problem.metric.gain(score, float(np.mean(foretold.public[50]))))
    moved = worse, abs(high - low) / 2 / 1.645
    folds, scored = job.parent["folds"], job.table.scored
    return {leaf: told_of(RunFiles(leaf), folds, problem, scored, likeness, moved) for leaf in job.leaves}


def told_of(
    run: RunFiles, folds: Sequence[int], problem: Problem, scored: Array, likeness: Array, moved: tuple[float, float]
) -> Gaps:
    """Return the gaps of a trained run; `scored` are table positions.

    `moved`: how much worse the score of the submission is foretold than the scored rows say, and its standard error.
    """
    models = {k: shelves_of(run.fold(k)) for k in folds}
    predictions = {k: np.array(read_npy(run.fold(k).train)) for k in folds}
    learnt = {k: np.isin(scored, np.concatenate([read_npy(m.rows) for m in each])) for k, each in models.items()}
    errors, found = gaps(problem, predictions, learnt, likeness)
    errors["test"], found["over-tuning"] = errors["dev"] + moved[0], list(moved)
    logs = [curves(model) for each in models.values() for model in each]
    whole = bool(logs) and all(len(log) for log in logs) and len({log.shape for log in logs}) == 1
    verdict, evidence = judged(np.array(logs)) if whole and len(logs) > 1 else (None, {})
    shown = [name for name, (gap, se) in found.items() if gap > 2 * se and gap > 0]
    return Gaps(errors, found, max(shown, key=lambda name: found[name][0], default=None), verdict, evidence)


def shelves_of(model: FoldFiles) -> list[FoldFiles]:
    """Return the model of a fold, or the two of its halves."""
    return [model] if model.rows.exists() else [model.half(0), model.half(1)]


def gaps(
    problem: Problem, predictions: dict[int, Array], learnt: dict[int, Array], likeness: Array
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return errors and [gap, standard error] of K models, from what each says of all scored rows (N P).

    `learnt` (N,) are the rows that it learnt, the others it is scored on together with the other models (as
    out-of-fold predictions are); `likeness` (N,) to test rows chooses the rows of dev among them. Cuts are untuned.
    """
    oof = np.zeros_like(next(iter(predictions.values())))
    for k, p in predictions.items():
        oof[problem.folds == k] = p[problem.folds == k]
    guess = problem.metric.wanted(problem.task, oof, problem.cuts)
    guesses = {k: problem.metric.wanted(problem.task, p, problem.cuts) for k, p in predictions.items()}
    by_chance = np.random.default_rng(0).random(len(likeness))  # where none is more like test than others
    order = np.lexsort([by_chance, -likeness])
    like = np.isin(np.arange(len(order)), order[: max(1, round(LIKE * len(order)))])
    perfect = problem.score(problem.ideal)

    def error(guess: Array, draws: Array) -> float:
        return float(problem.metric.gain(perfect, problem.judge(guess, draws)))

    def train(draws: Array) -> float:
        return float(np.nanmean([error(guesses[k], draws * learnt[k]) for k in predictions]))

    scores: list[Callable[[Array], float]] = [train, lambda d: error(guess, d), lambda d: error(guess, d * like)]
    now = [score(np.ones(len(oof))) for score in scores]
    drawn = replicate(scores, len(oof), problem.group, REPLICATES)
    errors = dict(zip(("train", "train-dev", "dev"), now, strict=True))
    steps, spread = np.diff([0.0, *now]), np.nanstd(np.diff(drawn, axis=1, prepend=0.0), axis=0, ddof=1)
    return errors, {name: [float(g), float(s)] for name, g, s in zip(NAMES, steps, spread, strict=False)}


def curves(model: FoldFiles) -> Array:
    """Return the loss of training and of held-out rows (E 2) after each epoch, as a model's log tells it."""
    if not model.log.exists():
        return np.zeros((0, 2))
    entries = [json.loads(line) for line in model.log.read_text(encoding="utf-8").splitlines()]
    return np.array([[e["train_loss"], e["valid_loss"]] for e in entries if "valid_loss" in e]).reshape(-1, 2)


def judged(logs: Array) -> tuple[str, dict[str, list[float]]]:
    """Return the verdict of the curves of K models (K E 2: losses of training and held-out rows), and its evidence.

    `over`: held-out loss has risen since the epoch that is best by the *other* models (so none chose its own). `under`:
    it fell in the last fifth of the epochs still, by more than it lies above that of training (which is measured with
    augmentation, dropout and mixing on). A change is shown at 95 % over models, one-sided, and above 2 % of the loss.
    """
    from scipy.special import stdtrit

    train, valid = logs[:, :, 0], logs[:, :, 1]
    best = [int(np.argmin(np.delete(valid, k, 0).mean(0))) for k in range(len(valid))]
    before = max(0, valid.shape[1] - 1 - max(1, valid.shape[1] // 5))
    changes = {
        "risen since the best epoch": valid[:, -1] - valid[np.arange(len(valid)), best],
        "fell in the last fifth": valid[:, before] - valid[:, -1],
        "above training": valid[:, -1] - train[:, -1],
    }
    half = float(stdtrit(len(valid) - 1, 0.95)) / np.sqrt(len(valid))
    evidence = {n: [float(c.mean()), float(c.mean() - half * c.std(ddof=1))] for n, c in changes.items()}
    least = MATTERS * abs(float(valid[:, -1].mean()))
    shown = [mean > least and low > 0 for mean, low in evidence.values()]
    lags = evidence["fell in the last fifth"][0] > evidence["above training"][0]
    return "over" if shown[0] else "under" if shown[1] and lags else "fine", evidence


def in_words(gaps: Gaps, run: str) -> list[str]:
    """Return the table as lines for a person."""
    errors = ", ".join(f"{name} {error:.4f}" for name, error in gaps.errors.items())
    steps = ", ".join(f"{name} {gap:+.4f} +- {se:.4f}" for name, (gap, se) in gaps.gaps.items())
    largest = f"the largest is {gaps.largest}" if gaps.largest else "none is shown"
    lines = [f"gaps: {run}, error of {errors}", f"gaps: {steps}; {largest}"]
    advice = {
        "over": "the loss of held-out rows rises at the end (over-fitted): fewer epochs, more augmentation or decay",
        "under": "the loss of held-out rows still falls (under-fitted): more epochs, a higher rate or a larger network",
        "fine": "the loss of held-out rows neither rises at the end nor lacks epochs",
    }
    return [*lines, f"gaps: {advice[gaps.verdict]}"] if gaps.verdict else lines
