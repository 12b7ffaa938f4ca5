"""The sections of a training run's config on classes that are not even: which rows are drawn, the classifier after."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.encoder import Encoder
from pipeline.store.section import Section, Share, refuse_idle


class Decouple(Section):
    """Another classifier on the features that a network has learnt; changing it never trains the network again.

    `crt` trains the head anew, on features computed once, for a `share` of the epochs, classes drawn equally often;
    `ncm` is the nearest class mean; `tau` divides the weights of each class by their length to that power.
    """

    method: Literal["none", "crt", "ncm", "tau"] = "none"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    tau: Share = 1.0

    @model_validator(mode="after")
    def _asked(self) -> Decouple:
        refuse_idle(self, "method")
        return self


class Sampling(Section):
    """Which rows are drawn; there are as many steps as without.

    `per_class`: each batch holds so many rows of a class, of batch_size / per_class classes (for triplets); an epoch
    still goes through all rows, those of a class that are too few to make up a number coming again.

    `balance`: classes in proportion to the root of their counts (sqrt), equally often in an epoch (parity) or in turn
    (balanced), or of each as many rows as the rarest has, others every epoch (under); or so many `clusters` of images
    that look alike (to an `encoder`, or as small pictures) equally often in an epoch (clusters). `repeat`: how often a
    row of some classes comes where others come once. `synthetic`: rows of rare classes are made, of features
    (fit = "linear" or "boosted"). Of masks: the share of rows that show any, at first and at last (`non_empty`), or the
    classes in turn (`equal`).
    """

    balance: Literal["none", "sqrt", "parity", "balanced", "under", "clusters"] = "none"
    clusters: Annotated[int, Field(ge=2)] = 20
    encoder: Encoder | None = None
    repeat: dict[str, Annotated[float, Field(ge=1)]] = Field(default_factory=dict)
    synthetic: Literal["none", "gauss", "interpolate", "smote"] = "none"
    per_class: Annotated[int, Field(ge=0)] = 0
    non_empty: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    equal: bool = False

    @model_validator(mode="after")
    def _one(self) -> Sampling:
        asked = {"non_empty": self.non_empty is not None, "equal": self.equal}
        asked |= {"balance": self.balance != "none", "repeat": bool(self.repeat)}
        asked |= {"per_class": self.per_class > 0}
        named = [name for name, wanted in asked.items() if wanted]
        if len(named) > 1:
            raise ValueError(f"sampling: {' and '.join(named)} exclude each other")
        if self.clusters != 20 and self.balance != "clusters":
            raise ValueError('sampling.clusters is how many: it needs sampling.balance = "clusters"')
        if self.encoder and self.balance != "clusters":
            raise ValueError('sampling.encoder is for clusters: it needs sampling.balance = "clusters"')
        return self
