"""The schema of every run's config: one class a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from pipeline.store.errors import UserError, nearest
from pipeline.store.section import Count, Section, Seed, Share, validate
from pipeline.store.settings import Decision
from pipeline.store.toml import ROLES, RUN_STAGES, read_run, sibling
from pipeline.store.train import Train
from pipeline.store.trials import Ablate, Tune, read_trying

R = TypeVar("R", bound=Section)
STACKERS = ("ridge", "logistic", "boosted")


class Ensemble(Section):
    """A run that blends other runs, or puts a stacker (ridge, logistic, boosted trees) on their predictions."""

    stage: Literal["ensemble"]
    members: Annotated[list[str], Field(min_length=1)]
    method: Literal["auto", "uniform", "convex", "greedy", "hand", "ridge", "logistic", "boosted"] = "auto"
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    space: Literal["probability", "logit", "rank"] = "probability"
    seed: Seed = 0
    steps: Count = 25
    bags: Count = 5
    decision: Decision = "auto"

    @model_validator(mode="after")
    def _hand_has_weights(self) -> Ensemble:
        if (self.method == "hand") != (self.weights is not None):
            raise ValueError('weights: method = "hand" needs them, and only it takes them')
        if self.weights is not None and (len(self.weights) != len(self.members) or sum(self.weights) <= 0):
            raise ValueError(f"weights: need {len(self.members)} numbers >= 0, one a member, with a sum above 0")
        if len(set(self.members)) != len(self.members):
            raise ValueError("members: a run stands there twice")
        if self.method == "convex" and self.space != "probability":
            raise ValueError('method = "convex" blends probabilities (or values): set space = "probability"')
        if self.method in STACKERS and self.space != "probability":
            raise ValueError(f'method = "{self.method}" has no blend space: leave space out')
        return self


class Pseudo(Section):
    """Pseudo-labels for the students of a run: which test rows, and what is said of them.

    Of masks `threshold` is the least share of an image's pixels that are sure, and at most the share `empties` of the
    chosen images has no mask.
    """

    stage: Literal["pseudo"]
    run: str
    targets: Literal["hard", "soft", "sharpened"] = "hard"
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.5
    select: Literal["confidence", "margin", "agreement"] = "confidence"
    quota: Share | Annotated[list[Share], Field(min_length=1)] = 1.0
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stratify: bool = True
    empties: Share = 0.5
    weight: Literal["one", "confidence"] = "one"
    halves: bool = True
    tags: str | None = None
    stop: bool = True


class Tag(Section):
    """Difficulty tags of a run's rows."""

    stage: Literal["tag"]
    run: str
    easy_error: Annotated[float, Field(gt=0, lt=1)] = 0.01
    hard_share: Annotated[float, Field(gt=0, lt=1)] = 0.8
    near_tie: Annotated[float, Field(gt=0, lt=1)] = 0.3
    neighbours: Count = 10
    strict: bool = False
    sheet: Count = 48
    seed: Seed = 0


class Capacity(Section):
    """At most `each` rows of a class within a group, which a pattern on the id tells (none: the table's groups)."""

    each: Count = 1
    pattern: str | None = None


class Lb(Section):
    """The predicted score of a run's rows and of its submission, and post-processing chosen by it.

    `mosaic` offers masks that are continued from the training masks of tiles whose borders fit.
    `neighbours`: so many nearest training rows inside each model have a vote, which may be adopted (0: none).
    """

    stage: Literal["lb"]
    run: str
    strict: bool = False
    public_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    capacity: Capacity | None = None
    shift: Literal["report", "weight"] = "report"
    mosaic: Literal["off", "fill"] = "off"
    neighbours: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0


class Full(Section):
    """The models of a run once more, trained on all labelled rows: for the test set, with no score of their own."""

    stage: Literal["full"]
    run: str
    seeds: Count = 3


Run = Train | Ensemble | Pseudo | Tag | Lb | Full | Ablate | Tune
STAGES: dict[str, type[Run]] = dict(
    zip(RUN_STAGES, (Train, Ensemble, Pseudo, Tag, Lb, Full, Ablate, Tune), strict=True)
)


def load_run(run: str) -> Run:
    """Read and check the config of a run, with every `base` laid under it."""
    settings, files = read_run(run)
    stage = settings.get("stage", "train")
    if not isinstance(stage, str) or stage not in STAGES:
        raise UserError(f"{files[0]}: unknown stage {stage!r}; {nearest(str(stage), STAGES)}")
    config = check(run, settings, files[0])
    if isinstance(config, Ensemble):
        return config.model_copy(update={"members": [sibling(run, member) for member in config.members]})
    if isinstance(config, Ablate):
        variants = {name: with_siblings(run, variant) for name, variant in config.variants.items()}
        return config.model_copy(update={"base": with_siblings(run, config.base), "variants": variants})
    if isinstance(config, Tune):
        return config.model_copy(update={"base": with_siblings(run, config.base)})
    return with_siblings(run, config)


def check(run: str, settings: dict[str, Any], path: Path) -> Run:
    """Check the settings of a run, or of one that is laid on it and stands in `path`."""
    stage = settings.get("stage", "train")
    return read_trying(run, settings, path) if stage in ("ablate", "tune") else validate(STAGES[stage], settings, path)


def with_siblings(run: str, config: R) -> R:
    """Return a config whose parents are run ids."""
    named = {role: getattr(config, role, None) for role in ROLES}
    return config.model_copy(update={role: sibling(run, name) for role, name in named.items() if name is not None})
