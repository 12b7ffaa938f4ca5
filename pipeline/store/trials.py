"""The schemas of runs that try changes to a run: ablations and searches. What they change lies under them as `base`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError, nearest
from pipeline.store.section import Count, Section, validate
from pipeline.store.toml import merge, read_run, read_toml, sibling
from pipeline.store.train import Train

OWN = {
    "ablate": ("variants", "seeds", "steps", "folds"),
    "tune": ("search", "trials", "coarse", "fold", "seeds", "steps"),
}
# What the harness sets itself, and why no variant can.
SET_HERE = {
    "epochs": "epochs follow from steps, the same for all",
    "seed": "seeds are the same for all: set seeds = 3",
    "pairs": "only out-of-fold predictions are made",
}
Fold = Annotated[int, Field(ge=0)]
Seeds = Annotated[int, Field(ge=2)]


class Ablate(Section):
    """Changes to the run `base`, each alone, over the same folds, `seeds` and number of optimiser steps.

    `steps` are those of the base run unless they are given, `folds` all of them.
    """

    stage: Literal["ablate"]
    base: Train
    variants: Annotated[dict[str, Train], Field(min_length=1)]
    seeds: Seeds = 3
    steps: Count | None = None
    folds: Annotated[list[Fold], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _all_folds(self) -> Ablate:
        if self.folds and len(set(self.folds)) < len(self.folds):
            raise ValueError("folds: a fold stands there twice")
        if self.folds and any(run.select == "best" for run in (self.base, *self.variants.values())):
            raise ValueError('folds: select = "best" chooses an epoch on the other folds: it needs all of them')
        return self


class Span(Section):
    """The values of a key from `low` to `high`: whole numbers if both are, even on a logarithmic scale with `log`."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Span:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high" + (", and above 0 with log = true" if self.log else ""))
        return self


class Tune(Section):
    """A search for better settings of the run `base`, on one `fold`: `coarse` of the `trials` by chance, then by TPE.

    The best is confirmed on the other folds and `seeds` more seeds. `search` has a list of values or a span a key.
    """

    stage: Literal["tune"]
    base: Train
    search: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)] | Span], Field(min_length=1)]
    trials: Count = 40
    coarse: Count = 16
    fold: Fold = 0
    seeds: Seeds = 3
    steps: Count | None = None

    @model_validator(mode="after")
    def _network(self) -> Tune:
        if self.base.select == "best":
            raise ValueError('select = "best" chooses an epoch on the other folds, and a search has one')
        return self


Trying = Ablate | Tune


def runs_of(config: Trying) -> list[Train]:
    """Return the runs that a config names: its base, and the variants of an ablation."""
    return [config.base, *(config.variants.values() if isinstance(config, Ablate) else ())]


def base_of(run: str, stage: str) -> str:
    """Return the run of stage train that a config of a `stage` changes, whose settings lie under it."""
    path = RunFiles(run).config
    under = read_toml(path).get("base")
    if not isinstance(under, str):
        raise UserError(f'{path}: base is missing: name the run to change, for example base = "baseline"')
    name = sibling(run, under)
    found = read_run(name)[0].get("stage", "train")
    if found == stage:
        return base_of(name, stage)
    if found != "train":
        raise UserError(f"{path}: base = {under!r} is of stage {found}: it must be a run of stage train")
    return name


def read_trying(run: str, settings: dict[str, Any], path: Path) -> Trying:
    """Check the settings of an ablation or a search, `base` laid under them, and every variant or value of a key."""
    stage = settings["stage"]
    base_of(run, stage)
    own = {key: settings[key] for key in OWN[stage] if key in settings}
    under = {key: value for key, value in settings.items() if key not in (*OWN[stage], "stage")}
    own |= {"stage": stage, "base": _base(under, OWN[stage], path)}
    if stage == "tune":
        keys = _flat(_table(own.get("search"), "search", path))
        own["search"] = {key: _values(values, Path(f"{path}: search.{key}")) for key, values in keys}
        tune = validate(Tune, own, path)
        for key, value in _ends(tune):
            changed(tune.base, {key: value}, path, f"search.{key}")
        return tune
    given = _table(own.get("variants"), "variants", path)
    own["variants"] = {name: _variant(own["base"], name, change, path) for name, change in given.items()}
    return validate(Ablate, own, path)


def changed(base: Train, change: dict[str, Any], path: Path, what: str) -> Train:
    """Return a run with some changes (dotted keys, or tables of them), checked; `what` tells where they stand."""
    nested: dict[str, Any] = {}
    for key, value in change.items():
        *sections, last = key.split(".")
        place: dict[str, Any] = {last: value}
        for section in reversed(sections):
            place = {section: place}
        nested = merge(nested, place)
    for key, why in SET_HERE.items():
        if key in nested:
            raise UserError(f"{path}: {what}: {key} cannot be changed here: {why}")
    return validate(Train, merge(base.model_dump(exclude_unset=True), nested), Path(f"{path}: {what}"))


def _variant(base: Train, name: str, change: Any, path: Path) -> Train:
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "base":
        raise UserError(f"{path}: variants.{name}: name it by letters, digits, '.', '_' and '-', and not 'base'")
    found = changed(base, _table(change, f"variants.{name}", path), path, f"variants.{name}")
    if found.model_dump() == base.model_dump():
        raise UserError(f"{path}: variants.{name} changes nothing: the base has these settings")
    if found.batch_size == "auto":
        raise UserError(f'{path}: variants.{name}: batch_size = "auto" leaves the number of steps open: set a number')
    return found


def _base(under: dict[str, Any], own: tuple[str, ...], path: Path) -> Train:
    odd = [key for key in under if key not in Train.model_fields]
    if odd:  # so that the nearest key may be one of the stage's own
        raise UserError(f"{path}: unknown key {odd[0]!r}; {nearest(odd[0], [*own, *Train.model_fields])}")
    base = validate(Train, under, path)
    if base.batch_size == "auto":
        raise UserError(f'{path}: batch_size = "auto" leaves the number of steps open: set a number')
    return base


def _table(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: [{name}] must be a table of changes, for example optim.lr = ...")
    return value


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys of the values that are lists or spans (tables of low, high, log)."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and not {"low", "high"} & set(value):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _values(given: Any, what: Path) -> list[Any] | Span:
    if isinstance(given, dict):
        return validate(Span, given, what)
    if not isinstance(given, list) or not given:
        raise UserError(f"{what} must be a list of values, or {{ low = ..., high = ..., log = true }}, got {given!r}")
    return given


def _ends(config: Tune) -> Iterator[tuple[str, Any]]:
    """Yield every value of a list, and both ends of a span."""
    for key, values in config.search.items():
        for value in (values.low, values.high) if isinstance(values, Span) else values:
            yield key, value
