"""The section of a training run's config on images without labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Positive, Section, refuse_idle


class Semi(Section):
    """How a model learns from images without labels: those of its own fold, and one more model a fold from the test's.

    `target_forward` shows them to the batch norms alone (Ge 2020). The others add `weight` times a loss of a strong
    view, and an average of the weights, of decay `ema`, predicts: `mean_teacher` agrees with what that average says of
    a weak view (Tarvainen 2017), `fixmatch` learns what the network itself says of it, where it is sure by `threshold`
    (Sohn 2020), `mmt` trains two networks, each taught by the average of the other (Ge 2020). A step sees `ratio`
    images without labels for one with. With `when = "shifted"` nothing is adapted unless the test images can be told
    from the scored ones (adversarial validation of image statistics, permutation p < .05).
    """

    method: Literal["none", "target_forward", "mean_teacher", "fixmatch", "mmt"] = "none"
    weight: Positive = 1.0
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.95
    ratio: Positive = 2.0
    ema: Annotated[float, Field(gt=0, lt=1)] = 0.99
    when: Literal["always", "shifted"] = "always"

    @model_validator(mode="after")
    def _asked(self) -> Semi:
        refuse_idle(self, "method")
        return self
