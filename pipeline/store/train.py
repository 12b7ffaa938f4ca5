"""The schema of a training run's config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Count, Positive, Section, Seed, Share


class Model(Section):
    """The network."""

    name: str = "cnn"
    weights: str = "none"
    pool: Literal["avg", "max", "gem", "catavgmax"] = "avg"
    dropout: Share = 0.0
    head: Literal["auto", "classification", "regression", "both", "cumulative", "all"] = "auto"
    aggregate: Literal["mean", "attention"] = "mean"
    metadata: Count = 32
    options: dict[str, Any] = Field(default_factory=dict)


class Image(Section):
    """What the network sees: images of `size`, or a `crop` of them (0: all), anywhere in training, else the centre.

    Pixels are normalised by fixed numbers, those of the fold's training rows, of each image, or of its group.
    """

    size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 64
    crop: Annotated[int, Field(ge=0)] = 0
    normalize: Literal["imagenet", "half", "train", "image", "group"] = "imagenet"

    @model_validator(mode="after")
    def _crop_fits(self) -> Image:
        if self.crop > (self.size if isinstance(self.size, int) else min(self.size)):
            raise ValueError(f"crop = {self.crop} is larger than size = {self.size}: what is cut out is part of it")
        return self


class Augment(Section):
    """How training images are changed."""

    recipe: str = "light"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0


class Loss(Section):
    """What is minimised."""

    name: str = "auto"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 2.0
    gamma_neg: Annotated[float, Field(ge=0)] = 4.0
    gamma_pos: Annotated[float, Field(ge=0)] = 1.0
    clip: Annotated[float, Field(ge=0, lt=1)] = 0.05
    delta: Positive = 1.0
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    class_weight: Literal["none", "inverse"] = "none"


class Optim(Section):
    """How it is minimised; `milestones` and `gamma` are of the step schedule, `power` of the polynomial one.

    `freeze` trains the head alone, stage by stage (gradual), or (auto) as images per class have it; `layer_decay` is
    the learning rate of a layer as a share of that of the next one.
    """

    name: str = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: str = "cosine"
    warmup: Share = 0.05
    milestones: list[Share] = Field(default_factory=lambda: [0.3, 0.6, 0.9])
    gamma: Positive = 0.1
    power: Positive = 1.0
    clip: Annotated[float, Field(ge=0)] = 0.0
    accumulate: Count = 1
    freeze: Literal["none", "head", "gradual", "auto"] = "none"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Average(Section):
    """Averages of the weights along the way, one of them.

    `ema` is a decay, `swa` the share of training after which it begins, `soup` how many last epochs it is made of.
    """

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    swa: Annotated[float, Field(ge=0, lt=1)] = 0.0
    soup: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one(self) -> Average:
        named = [name for name in ("ema", "swa", "soup") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"average: {' and '.join(named)} exclude each other; set one of them to 0")
        return self


class Predict(Section):
    """How predictions are made; changing it never trains again.

    `hard_tta` is for the `hard_share` of rows, of each model's own and of the test set, that `tta` leaves least sure.
    """

    tta: str = "none"
    hard_tta: str = "none"
    hard_share: Annotated[float, Field(gt=0, le=1)] = 0.33
    batch_size: Count = 256


class Student(Section):
    """How pseudo-labels are used: a `share` of every batch, or alone for the first `share` of the epochs."""

    mode: Literal["mixed", "finetune"] = "mixed"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Distill(Section):
    """How a teacher is followed: alpha T^2 KL + (1 - alpha) loss; `pairs` asks models blind to both folds."""

    temperature: Annotated[float, Field(ge=1)] = 3.0
    alpha: Share = 0.7
    nested: Literal["none", "pairs"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _not_oof(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("nested") == "oof":
            raise ValueError(
                'nested = "oof": out-of-fold targets come from models that trained on fold k, so they are not blind '
                'to it; use "none" (the teacher\'s own model k) or "pairs" (models blind to both folds)'
            )
        return given


class Difficulty(Section):
    """What is made of difficulty tags: suspects, how often a hard row is drawn, easy rows first (share of epochs)."""

    suspect: Literal["keep", "drop", "downweight", "relabel"] = "keep"
    hard: Annotated[float, Field(ge=1)] = 1.0
    curriculum: Share = 0.0


Decision = Literal["auto", "fixed", "optimal", "ratio"]


class Train(Section):
    """A run that trains K models."""

    stage: Literal["train"] = "train"
    seed: Seed = 0
    epochs: Count = 20
    batch_size: Count | Literal["auto"] = 32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    fit: Literal["network", "linear", "boosted"] = "network"
    select: Literal["last", "best"] = "last"
    on_bad_image: Literal["error", "skip-train"] = "error"
    decision: Decision = "auto"
    model: Model = Model()
    image: Image = Image()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optim: Optim = Optim()
    average: Average = Average()
    predict: Predict = Predict()
    pseudo: str | None = None
    student: Student = Student()
    teacher: str | None = None
    distill: Distill = Distill()
    tags: str | None = None
    difficulty: Difficulty = Difficulty()
    init: str | None = None
    indicators: bool = False
    pairs: bool = False

    @model_validator(mode="after")
    def _roles_fit(self) -> Train:
        if self.pseudo and self.teacher:
            raise ValueError("pseudo and teacher exclude each other: soft pseudo-labels are distillation on test rows")
        if self.pairs and (self.pseudo or self.teacher or self.tags or self.init or self.select == "best"):
            raise ValueError('pairs = true needs a run of its own: no pseudo, teacher, tags, init, or select = "best"')
        if self.indicators and (self.pseudo or self.teacher or self.tags or self.init or self.select == "best"):
            raise ValueError("indicators = true needs a run of its own: it gives some rows a class that is none")
        if self.pseudo and self.batch_size == 1:
            raise ValueError("batch_size must be 2 or more with pseudo: a batch holds rows of both kinds")
        for role, section in (("pseudo", "student"), ("teacher", "distill"), ("tags", "difficulty")):
            if section in self.model_fields_set and getattr(self, role) is None:
                raise ValueError(f"[{section}] needs {role}, the name of a run")
        return self

    @model_validator(mode="after")
    def _frozen(self) -> Train:
        odd = [name for name in ("pseudo", "teacher", "tags", "init", "indicators") if getattr(self, name)]
        odd += ['select = "best"'] if self.select == "best" else []
        odd += ['image.normalize = "train"'] if self.image.normalize == "train" else []
        odd += ["predict.hard_tta"] if self.predict.hard_tta != "none" else []
        if self.fit != "network" and odd:
            raise ValueError(f'fit = "{self.fit}" is a head on features that nobody trains: it takes no {odd[0]}')
        return self

    @model_validator(mode="after")
    def _select_and_swa(self) -> Train:
        if self.select == "best" and self.average.swa:
            raise ValueError(
                'select = "best" and average.swa exclude each other: SWA has one set of weights, at the end'
            )
        if self.select == "best" and self.average.soup:
            raise ValueError('select = "best" and average.soup exclude each other: a soup is made once, at the end')
        if self.average.soup > self.epochs:
            raise ValueError(f"average.soup = {self.average.soup} is of more epochs than epochs = {self.epochs}")
        return self

    @model_validator(mode="after")
    def _crops_and_layers(self) -> Train:
        for name in ("tta", "hard_tta"):
            if getattr(self.predict, name) in ("5crop", "10crop") and not self.image.crop:
                raise ValueError(f"predict.{name} takes crops of the image: image.crop must say how large they are")
        freeze = self.optim.freeze
        if freeze != "none" and self.model.weights == "none" and not self.init:
            raise ValueError(f'optim.freeze = "{freeze}" keeps what was learnt: it needs model.weights or init')
        if freeze in ("gradual", "auto") and self.epochs < 2:
            raise ValueError(f'optim.freeze = "{freeze}" needs 2 epochs or more: in the first the head trains alone')
        if self.batch_size == "auto" and self.optim.accumulate > 1:
            raise ValueError('batch_size = "auto" is what fits: it excludes optim.accumulate, for what does not')
        return self

    def fitting(self) -> dict[str, Any]:
        """Return what the weights depend on."""
        return self.model_dump(exclude={"predict", "decision", "stage", "pairs"})
