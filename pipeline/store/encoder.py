"""A frozen encoder of images: the section that names it, wherever images are compared by their looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.store.artifacts import RUNS
from pipeline.store.files import digest_file
from pipeline.store.section import Section


class Encoder(Section):
    """Any timm model whose pooled features of images (at `size` x `size` px) stand in for small pictures of them.

    `weights`: "pretrained" (those of timm), or a file of that model. A run is refused: it has learnt labels, and what
    is the same of all folds must not hang on them.
    """

    name: Annotated[str, Field(min_length=1)]
    weights: str = "pretrained"
    size: Annotated[int, Field(ge=8)] = 224

    @model_validator(mode="after")
    def _learnt_nothing_here(self) -> Encoder:
        if self.weights == "none":
            raise ValueError('encoder.weights: what was never trained tells little: "pretrained", or a file')
        if Path(self.weights).resolve().is_relative_to(RUNS.resolve()):
            raise ValueError(f"encoder.weights: {self.weights} is of a run, and has learnt labels: take other weights")
        return self

    def facts(self) -> list[Any]:
        """Return what its features depend on beside the images."""
        file = Path(self.weights)
        return [self.name, self.size, digest_file(file) if file.is_file() else self.weights]
