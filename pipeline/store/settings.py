"""The sections of a training run's config: network, images, augmentation, loss, optimiser, prediction."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Count, Positive, Section, Share, refuse_idle


class Model(Section):
    """The network; of masks also its encoder and what is added to it.

    `presence` asks of every class whether it is in the image at all, `coordinates` tells the network where a pixel is,
    `hypercolumn` shows its head the features of all levels.
    `head_init` draws the head's weights (auto: Kaiming's, of masks those of the library), `head_bias` starts it at what
    is usual among the training rows.
    `multiscale` joins pooled features of the last stages of a backbone, with concat_l2 each at a length of its own;
    `dropouts` is over how many dropout masks the loss is averaged (multi-sample dropout); `act` replaces the
    activations of a network, `drop_path` is the rate of stochastic depth in its last block.
    """

    name: str = "cnn"
    encoder: str = "resnet18"
    presence: bool = False
    coordinates: bool = False
    hypercolumn: bool = False
    weights: str = "none"
    pool: Literal["avg", "max", "gem", "catavgmax"] = "avg"
    dropout: Share = 0.0
    head_init: Literal["auto", "kaiming", "xavier", "normal", "orthogonal"] = "auto"
    head_bias: Literal["zero", "prior"] = "zero"
    dropouts: Count = 1
    multiscale: Literal["none", "concat", "concat_l2"] = "none"
    act: str = "own"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head: Literal["auto", "classification", "regression", "both", "cumulative", "all"] = "auto"
    aggregate: Literal["mean", "attention"] = "mean"
    metadata: Count = 32
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _samples_differ(self) -> Model:
        if self.dropouts > 1 and not self.dropout:
            raise ValueError("model.dropouts are masks of model.dropout: set it above 0")
        return self


class Image(Section):
    """What the network sees: images of `size`, or a `crop` of them (0: all), anywhere in training, else the centre.

    Pixels are normalised by fixed numbers, those of the fold's training rows, of each image, or of its group. `fit` is
    for masks, whose images may be of any size: they are resized, padded (reflected), or seen in tiles of `size`.
    """

    size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 64
    crop: Annotated[int, Field(ge=0)] = 0
    normalize: Literal["imagenet", "half", "train", "image", "group"] = "imagenet"
    fit: Literal["resize", "pad", "tiles"] = "resize"

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


class Adversarial(Section):
    """Training on inputs (fgsm, pgd) or with weights (awp) that were moved by `eps` to be harder.

    From the share `start` of the epochs on; `steps` are of pgd.
    """

    method: Literal["none", "fgsm", "pgd", "awp"] = "none"
    eps: Positive = 0.01
    steps: Count = 3
    start: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _asked(self) -> Adversarial:
        refuse_idle(self, "method")
        return self


Terms = Annotated[dict[str, Positive], Field(min_length=1)]


class Then(Section):
    """The terms of the loss from a share of the epochs on."""

    at: Annotated[float, Field(gt=0, lt=1)]
    terms: Terms


class Loss(Section):
    """What is minimised.

    `class_weight` is by the inverse of the count of a class, or of its effective number (`beta`); `logit_adjust` adds
    so many times the log prior to the scores while they are learnt. `auxiliary` are weights of columns of [auxiliary].
    Of masks: `terms` are losses with their weights (none: cross-entropy), `then` others later on; those in `non_empty`
    count where the class is in the image. Weights: `presence` of the question whether it is, `distance` of a map of the
    distance to the border of an object, `size_classes` of the size of the mask, `deep` of coarser maps. `hinge` and
    `symmetric` are of lovasz; `tversky` weighs what is wrongly there and wrongly away.
    """

    name: str = "auto"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 2.0
    gamma_neg: Annotated[float, Field(ge=0)] = 4.0
    gamma_pos: Annotated[float, Field(ge=0)] = 1.0
    clip: Annotated[float, Field(ge=0, lt=1)] = 0.05
    delta: Positive = 1.0
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    class_weight: Literal["none", "inverse", "effective"] = "none"
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    logit_adjust: Annotated[float, Field(ge=0)] = 0.0
    auxiliary: dict[str, Positive] = Field(default_factory=dict)
    terms: Terms | None = None
    then: Then | None = None
    non_empty: list[str] = Field(default_factory=list)
    presence: Annotated[float, Field(ge=0)] = 0.1
    distance: Annotated[float, Field(ge=0)] = 0.0
    size_classes: Annotated[float, Field(ge=0)] = 0.0
    deep: Annotated[float, Field(ge=0)] = 0.0
    hinge: Literal["relu", "elu"] = "relu"
    symmetric: bool = False
    tversky: Annotated[list[Positive], Field(min_length=2, max_length=2)] = Field(default_factory=lambda: [0.3, 0.7])


class Optim(Section):
    """How it is minimised; `milestones` and `gamma` are of the step schedule, `power` of the polynomial one.

    `freeze` trains the head alone, stage by stage (gradual), or (auto) as images per class have it; `layer_decay` is
    the learning rate of a layer as a share of that of the next one; `l1` draws weights to 0 by that times the rate.
    """

    name: str = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    l1: Annotated[float, Field(ge=0)] = 0.0
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
    """How predictions are made; changing it never trains again. `fastest` lets a CPU round as that pays (bf16).

    `logit_adjust` takes so many times the log prior of the training rows from the scores.
    `bn` gives batch norms the statistics of the images that are predicted (AdaBN), of a fold for it and of the test set
    for that: theirs alone (replace), or with those of training counted as `bn_prior` images (blend).
    `hard_tta` is for the `hard_share` of rows, of each model's own and of the test set, that `tta` leaves least sure.
    Of masks: maps are kept at `shelf_scale` of the image's size; tiles overlap by a share of their side or more and are
    weighed by a `window`.
    """

    tta: str = "none"
    hard_tta: str = "none"
    hard_share: Annotated[float, Field(gt=0, le=1)] = 0.33
    batch_size: Count = 256
    fastest: bool = False
    logit_adjust: Annotated[float, Field(ge=0)] = 0.0
    bn: Literal["off", "replace", "blend"] = "off"
    bn_prior: Count = 16
    shelf_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    window: Literal["hann", "flat"] = "hann"

    @model_validator(mode="after")
    def _asked(self) -> Predict:
        refuse_idle(self, "bn", "bn_prior")
        return self


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
