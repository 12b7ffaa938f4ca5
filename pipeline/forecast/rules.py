"""Post-processing rules: what they propose, how they are fitted on some rows, and what they make of others.

Simple rules: `global` (the single candidate that is best on the fitted rows), `surest` (each row as the surest member
says), `prior` (a class-prior adjustment), `shares` (a factor a class, so that classes are decided as often as they
occur), `capacity` (at most so many rows of a class in a group), `neighbours` (a share of the vote of the nearest
training rows). The learned rule, `row`, takes for each row the candidate whose gain a learner predicts to be largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.forecast.candidates import (
    Facts,
    View,
    assign,
    candidates,
    scale,
    settle,
    sureness,
)
from pipeline.forecast.contributions import contributions, guess_of, switchable
from pipeline.forecast.predictor import Fitted, fit, parts_of
from pipeline.scoring.features import Features
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array


@dataclass(frozen=True)
class Rules:
    """The rules fitted on some rows: what they know, the best candidate, prior adjustment and share of the neighbours,
    the learner of gains.
    """

    problem: Problem
    facts: Facts
    best: str
    prior: str
    neighbours: str
    chooser: Fitted | None
    each: int | None

    def apply(self, name: str, view: View) -> Array:
        """Return the predictions (N P) of a rule; the rules of a whole set take the view for the set."""
        problem, run = self.problem, view.run
        if name == "capacity":
            assert self.each is not None
            return settle(problem.task, run, assign(run, view.blocks, self.each), problem.classes)
        if name == "shares":
            return scale(run, self.facts.factors)
        found = candidates(problem, view, self.facts)
        if name in ("global", "prior", "neighbours"):
            return found[{"global": self.best, "prior": self.prior, "neighbours": self.neighbours}[name]]
        if name == "surest":
            return surest(problem, view)
        return self.choose(found, view)

    def choose(self, found: dict[str, Array], view: View) -> Array:
        """Return for each row the candidate with the largest predicted gain, the run itself where none has any."""
        rows, which, features = proposals(self.problem, found, view, self.facts)
        out = np.array(view.run)
        if self.chooser is None or not len(rows):
            return out
        gain = self.chooser.predict(features)
        order = np.argsort(gain, kind="stable")
        order = order[gain[order] > 0]
        # The last assignment of a row wins: that of the largest gain.
        stacked = np.stack(list(found.values()))
        out[rows[order]] = stacked[which[order], rows[order]]
        return out


def offered(problem: Problem, view: View, each: int | None) -> list[str]:
    """Return the names of the rules that have a meaning here."""
    labels = problem.metric.label and problem.task.name == "multiclass"
    return [
        "global",
        *["surest"] * (len(view.leaves) > 1 and problem.task.name != "regression"),
        *["neighbours"] * (view.votes is not None),
        *["prior"] * (problem.task.name == "multiclass"),
        *["shares"] * labels,
        *["capacity"] * (labels and each is not None),
        *["row"] * switchable(problem),
    ]


def surest(problem: Problem, view: View) -> Array:
    """Return for each row the prediction of the surest member, the run itself among equals."""
    members = [view.run, *view.leaves]
    sure = np.stack([sureness(problem.task, p, problem.classes) for p in members])
    return np.asarray(np.stack(members)[sure.argmax(0), np.arange(len(view.run))])


def proposals(problem: Problem, found: dict[str, Array], view: View, facts: Facts) -> tuple[Array, Array, Features]:
    """Return every change that a candidate proposes: its row (R,), the candidate (R,), features (R F).

    Candidates that propose the same labels for a row are one proposal, which knows who proposes it.
    """
    task, plain, stacked = problem.task, found["plain"], np.stack(list(found.values()))
    said = _said(problem, stacked)
    new = np.stack([(said[:a] != said[a]).all(0) for a in range(len(said))])
    new[0] = False
    which, rows = np.nonzero(new)
    votes = (said[1:, rows] == said[which, rows]).T
    columns, names = [votes, votes.sum(1)], [*(f"by {name}" for name in list(found)[1:]), "votes"]
    proposed = stacked[which, rows]
    shift = proposed.astype(np.float64) - plain[rows]
    columns += [shift.mean(1), np.abs(shift).mean(1), sureness(task, proposed, problem.classes)]
    names += ["shift", "distance of shift", "sureness"]
    if task.name == "multiclass":
        old, new, mean = plain[rows].argmax(1), proposed.argmax(1), view.leaves.mean(0)[rows]
        at = np.arange(len(rows))
        columns += [mean[at, old], mean[at, new], facts.prior[old], facts.prior[new]]
        names += ["p of old", "p of new", "prior of old", "prior of new"]
    values, base = view.features
    return rows, which, (np.column_stack([values[rows], *columns]).astype(np.float64), [*base, *names])


def _said(problem: Problem, stacked: Array) -> Array:
    """Return a number (A N) for what each candidate says of a row: equal where the labels (or values) are."""
    if not problem.metric.label:
        return np.where((stacked != stacked[0]).any(2), np.arange(len(stacked))[:, None], 0)
    labels = np.stack([guess_of(problem, p) for p in stacked])
    if labels.ndim == 2:
        return labels
    return np.unique(labels.reshape(-1, labels.shape[2]), axis=0, return_inverse=True)[1].reshape(labels.shape[:2])


def fit_rules(problem: Problem, rows: Array, view: View, names: Sequence[str], each: int | None, seed: int) -> Rules:
    """Fit the rules on the rows of a mask; what is chosen among candidates is chosen across three parts of them."""
    units = np.arange(len(rows)) if problem.group is None else problem.group
    mine = problem.part(rows)
    seen, parts = view.of(rows), parts_of(units[rows], seed)
    found: dict[str, Array] = {}
    for part in np.unique(parts):
        rest = parts != part if len(np.unique(parts)) > 1 else parts == part
        facts = Facts.of(mine, rest, seen.run, seen.raw)
        for name, p in candidates(mine, seen.of(parts == part), facts).items():
            found.setdefault(name, np.empty_like(seen.run))[parts == part] = p
    facts = Facts.of(mine, np.ones(len(mine.y), bool), seen.run, seen.raw)
    kinds = ("", "prior", "neighbours")
    of = [_best(mine, found, [n for n in found if n == "plain" or n.startswith(kind)]) for kind in kinds]
    chooser = fit_chooser(mine, found, seen, facts, units[rows], seed) if "row" in names else None
    return Rules(problem, facts, of[0], of[1], of[2], chooser, each)


def _best(problem: Problem, found: dict[str, Array], names: list[str]) -> str:
    """Return the best single candidate, the first of equals."""
    gains = [float(problem.metric.gain(problem.score(found[name]), 0.0)) for name in names]
    return names[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]


def fit_chooser(
    problem: Problem, found: dict[str, Array], view: View, facts: Facts, units: Array, seed: int
) -> Fitted | None:
    """Fit the learner of a proposal's gain over the run's own decision, None where nothing is proposed."""
    rows, which, features = proposals(problem, found, view, facts)
    if not len(rows):
        return None
    base = guess_of(problem, found["plain"])
    before = contributions(problem, base)
    worth = np.stack([contributions(problem, guess_of(problem, p), base) for p in found.values()])
    gain = problem.metric.gain(worth[which, rows], before[rows])
    return fit(features, np.round(gain, 9), units[rows], seed)
