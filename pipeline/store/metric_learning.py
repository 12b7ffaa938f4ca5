"""The sections of a training run's config on distances between features: how they are learnt, how they are scored."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Positive, Section, refuse_idle


class MetricLearning(Section):
    """Features whose distances tell classes apart (binary and multiclass).

    `triplet` adds to the loss, times `weight`, that of each row against the farthest of its class and the nearest of
    another in its batch (or piece of it, with optim.accumulate), which must be nearer by `margin`, or softly ("soft").
    `arcface` (multiclass) takes the place of the loss's scores: cosines times `scale`, that of the row's own class with
    an angle `margin` (radians) added in training. `neck` is a batch norm between features and head: triplets compare
    what is before it, head and shelf see what is after it.
    """

    loss: Literal["none", "triplet", "arcface"] = "none"
    weight: Positive = 0.5
    margin: Annotated[float, Field(ge=0)] | Literal["soft"] = 0.3
    scale: Positive = 30.0
    neck: bool = False

    @model_validator(mode="after")
    def _angle(self) -> MetricLearning:
        refuse_idle(self, "loss", "weight", "margin", "scale")
        if self.loss == "arcface" and (isinstance(self.margin, str) or self.margin > math.pi / 2):
            raise ValueError(f"margin = {self.margin!r} is of triplets: that of arcface is an angle of 0 to 1.57")
        return self

    @property
    def biased(self) -> bool:
        """Say whether the head has a bias that is learnt."""
        return self.loss != "arcface" and not self.neck


class Retrieval(Section):
    """Search by features, scored out of fold: rows of fold k in model k among those that it trained on, by cosine.

    `k` is how many neighbours count (0: nothing is scored). `pca` keeps so many principal components of the training
    rows' features (0: all of them as they are), `whiten` gives each the same variance.
    """

    k: Annotated[int, Field(ge=0)] = 0
    pca: Annotated[int, Field(ge=0)] = 0
    whiten: bool = False

    @model_validator(mode="after")
    def _asked(self) -> Retrieval:
        if self.pca and not self.k:
            raise ValueError("pca is of what is searched: set k, how many neighbours count")
        if self.whiten and not self.pca:
            raise ValueError("whiten is of principal components: set pca, how many of them")
        return self
