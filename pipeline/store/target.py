"""One target of a contract that has several, and what a task asks of target columns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Positive, Section

SingleTask = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]
# What a contract with several targets says in each of them, or cannot say.
ELSEWHERE = ("metric", "target", "classes", "separator", "soft", "unknown", "metric_greater", "metric_weights")
Columns = str | Annotated[list[str], Field(min_length=1)]


def refuse_misfit(task: str, target: str | list[str], separator: str | None, classes: list[str] | None) -> None:
    """Raise ValueError where target columns, separator or classes do not fit the task."""
    if classes is not None and len(set(classes)) != len(classes):
        raise ValueError("classes: a name stands there twice")
    if isinstance(target, list) and task in ("binary", "ordinal"):
        raise ValueError(f"target: a {task} task has one target column, got {target}")
    if separator is not None and task != "multilabel":
        raise ValueError("separator: only a multilabel task has a column of joined labels")
    if task == "multilabel" and isinstance(target, str) and separator is None:
        raise ValueError('separator: a multilabel task with one column needs it, for example separator = " "')


class Target(Section):
    """One of several targets: `weight` is that of its loss in the sum, `share` that of its metric in the mean."""

    target: Columns
    task: SingleTask
    metric: str
    separator: str | None = None
    classes: list[str] | None = None
    weight: Positive = 1.0
    share: Positive = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Target:
        refuse_misfit(self.task, self.target, self.separator, self.classes)
        if self.metric.endswith(".py"):
            raise ValueError(f"metric: one target of several takes a named metric, not the file {self.metric}")
        return self

    @property
    def columns(self) -> list[str]:
        """Return the target columns."""
        return self.target if isinstance(self.target, list) else [self.target]

    @property
    def name(self) -> str:
        """Return what the target is called: its columns."""
        return "+".join(self.columns)

    @property
    def _before(self) -> str:
        """Return what stands before a class among those of all targets: two of them may have a class 0."""
        return "" if isinstance(self.target, list) or self.task == "regression" else f"{self.target}="

    def full(self, classes: list[str]) -> list[str]:
        """Return its classes as they are called among those of all targets."""
        return [self._before + name for name in classes]

    def bare(self, names: list[str]) -> list[str]:
        """Return its classes as its own table calls them."""
        return [name.removeprefix(self._before) for name in names]

    def count(self, names: list[str]) -> int:
        """Return how many names at the beginning of those of all targets are its own."""
        if not self._before:
            return len(self.columns)
        return next((n for n, name in enumerate(names) if not name.startswith(self._before)), len(names))


def together(given: dict[str, Any]) -> dict[str, Any]:
    """Return what the targets of a contract say together, {} where it has one; raise ValueError at what they forbid."""
    if given.get("task") != "several":
        if "targets" in given:
            raise ValueError('targets: several [[targets]] go with task = "several"')
        return {}
    if not all(isinstance(part, dict) for part in given.get("targets") or ["none"]):
        raise ValueError('targets: task = "several" needs them: [[targets]] with target, task and metric for each')
    if odd := next((key for key in ELSEWHERE if key in given), None):
        raise ValueError(f'{odd} does not go with task = "several": each of [[targets]] has its own target and metric')
    columns = [part.get("target", "") for part in given["targets"]]
    return {"metric": "several", "target": [c for one in columns for c in (one if isinstance(one, list) else [one])]}


def refuse_overlap(targets: list[Target]) -> None:
    """Raise ValueError where two targets share a column, or a column would be taken for a class of another target."""
    columns = [name for target in targets for name in target.columns]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ValueError(f"targets: column {twice!r} stands there twice")
    odd = next((name for name in columns if "=" in name), None)
    if odd is not None:
        raise ValueError(f"targets: column {odd!r} holds '=', which divides a target from its class: call it otherwise")
