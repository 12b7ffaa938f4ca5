"""The scores of a run: pooled with a standard error, per fold, fixed against tuned decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.cuts import Decision, crossfit
from pipeline.scoring.problem import Problem
from pipeline.scoring.several import Together
from pipeline.store.files import Array


def score_oof(problem: Problem, oof: Array, decision: Decision | None) -> dict[str, Any]:
    """Return the scores of OOF predictions (N P).

    `score` is the one to publish: cross-fitted wherever something was tuned; `se` its bootstrap standard error (by
    group where there are groups). Label metrics also get `fixed` (untuned cuts) and `in_sample` (cuts fitted on rows
    they are scored on: too high, shown for comparison only).
    """
    metric, y = problem.metric, problem.y
    decided = metric.wanted(problem.task, oof, problem.cuts)
    guess = decision.labels if decision is not None and metric.label else decided

    def score(draws: Array) -> float:
        return problem.judge(guess, draws)

    ks = np.unique(problem.folds).tolist()
    per_fold = [score((problem.folds == k).astype(np.float64)) for k in ks]
    report: dict[str, Any] = {
        "metric": metric.name,
        "score": score(np.ones(len(y))),
        "se": standard_error(score, len(y), problem.group),
        "n": len(y),
        "per_fold": per_fold,
        "fold_sd": float(np.std(per_fold, ddof=1)) if len(ks) > 1 else float("nan"),
    }
    if decision is not None and metric.label:
        report["fixed"] = problem.judge(decided)
        report["in_sample"] = problem.score(oof, decision.cuts)
    pieces = problem.alone().items()
    if pieces and isinstance(metric, Together):
        each = zip(pieces, metric.split(problem.task, guess), strict=True)
        report["parts"] = {name: {"metric": p.metric.name, "score": p.judge(mine)} for (name, p), mine in each}
    return report


def score_run(
    problem: Problem, oof: Array, method: str, view: Callable[[int | None], Array]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the scores of a run and, for tasks with cuts, its cross-fitted decision (see `cuts.crossfit`)."""
    if not (problem.task.cuts and problem.metric.label):
        return score_oof(problem, oof, None), None
    decision = crossfit(problem, method, view)
    cuts = {str(k): cut for k, cut in decision.by_fold.items()}
    facts = {"method": decision.method, "cuts": decision.cuts, "by_fold": cuts, "methods": decision.methods}
    return score_oof(problem, oof, decision), facts | {"level": "crossfit"}


def in_words(report: dict[str, Any]) -> str:
    """Return the scores as one line for a person."""
    line = f"{report['metric']} {report['score']:.4f} +- {report['se']:.4f} (se, n={report['n']})"
    line += f", folds sd {report['fold_sd']:.4f}"
    if "parts" in report:
        line += "; " + ", ".join(f"{n} {p['metric']} {p['score']:.4f}" for n, p in report["parts"].items())
    if "in_sample" in report and not report["score"] == report["fixed"] == report["in_sample"]:
        line += f"; fixed cuts {report['fixed']:.4f}, tuned in-sample {report['in_sample']:.4f} (optimistic)"
    if "by_repeat" in report:
        *each, mean = report["by_repeat"]
        alone = f"{np.mean(each):.4f} (sd {np.std(each, ddof=1):.4f})"
        untuned = " at fixed cuts" if "fixed" in report else ""
        line += f"; one repeat alone {alone}, the mean of {len(each)} {mean:.4f}{untuned}"
    if "retrieval" in report:
        r = report["retrieval"]
        line += f"; retrieval mAP@{r['k']} {r['map']:.4f} +- {r['map_se']:.4f}, top-1 {r['top1']:.4f}"
        line += f" +- {r['top1_se']:.4f} (n={r['n']})"
    if "size_matched" in report:
        matched = report["size_matched"]
        line += f"; expected of the mean of {matched['models']} on test {matched['score']:.4f} +- {matched['se']:.4f}"
    return line
