"""The schema of a training run's config."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from pipeline.store.imbalance import Decouple, Sampling
from pipeline.store.metric_learning import MetricLearning, Retrieval
from pipeline.store.patches import Patches, refuse_odd_patches
from pipeline.store.section import Count, Section, Seed
from pipeline.store.settings import (
    Adversarial,
    Augment,
    Average,
    Decision,
    Difficulty,
    Distill,
    Image,
    Loss,
    Model,
    Optim,
    Predict,
    Student,
)
from pipeline.store.shift import Semi


class Train(Section):
    """A run that trains K models.

    With `fastest` a short probe, once a run, chooses the precision (where that is `auto`), the layout of tensors and
    the kernels of the optimiser; `compile` trains by torch.compile.
    """

    stage: Literal["train"] = "train"
    seed: Seed = 0
    epochs: Count = 20
    batch_size: Count | Literal["auto"] = 32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    fastest: bool = False
    compile: bool = False
    fit: Literal["network", "linear", "boosted"] = "network"
    select: Literal["last", "best"] = "last"
    select_by: Literal["metric", "loss"] = "metric"
    on_bad_image: Literal["error", "skip-train"] = "error"
    decision: Decision = "auto"
    model: Model = Model()
    image: Image = Image()
    augment: Augment = Augment()
    adversarial: Adversarial = Adversarial()
    loss: Loss = Loss()
    metric_learning: MetricLearning = MetricLearning()
    optim: Optim = Optim()
    average: Average = Average()
    predict: Predict = Predict()
    decouple: Decouple = Decouple()
    sampling: Sampling = Sampling()
    retrieval: Retrieval = Retrieval()
    semi: Semi = Semi()
    pseudo: str | None = None
    student: Student = Student()
    teacher: str | None = None
    distill: Distill = Distill()
    tags: str | None = None
    difficulty: Difficulty = Difficulty()
    init: str | None = None
    chosen_by: str | None = None
    patches: Patches = Patches()
    indicators: bool = False
    pairs: bool = False

    @model_validator(mode="after")
    def _roles_fit(self) -> Train:
        if self.pseudo and self.teacher:
            raise ValueError("pseudo and teacher exclude each other: soft pseudo-labels are distillation on test rows")
        roles = (self.pseudo, self.teacher, self.tags, self.init, self.chosen_by)
        if self.pairs and (any(roles) or self.select == "best"):
            raise ValueError(
                'pairs = true needs a run of its own: no pseudo, teacher, tags, init, chosen_by, or select = "best"'
            )
        if self.indicators and (self.pseudo or self.teacher or self.tags or self.init or self.select == "best"):
            raise ValueError("indicators = true needs a run of its own: it gives some rows a class that is none")
        if self.pseudo and self.batch_size == 1:
            raise ValueError("batch_size must be 2 or more with pseudo: a batch holds rows of both kinds")
        if (self.difficulty.curriculum or self.difficulty.hard > 1) and self.sampling.balance in ("balanced", "under"):
            raise ValueError(
                f'sampling.balance = "{self.sampling.balance}" says which rows are drawn, as difficulty.hard and '
                'difficulty.curriculum do: take one out, or use "parity" with difficulty.hard'
            )
        for role, section in (("pseudo", "student"), ("teacher", "distill"), ("tags", "difficulty")):
            if section in self.model_fields_set and getattr(self, role) is None:
                raise ValueError(f"[{section}] needs {role}, the name of a run")
        return self

    @model_validator(mode="after")
    def _cut(self) -> Train:
        refuse_odd_patches(self)
        return self

    @model_validator(mode="after")
    def _without_labels(self) -> Train:
        method = self.semi.method
        odd = {
            "pseudo": self.pseudo is not None,
            "pairs": self.pairs,
            "patches": self.patches.size > 0,
            "indicators": self.indicators,
            'select = "best"': self.select == "best",
            "compile": self.compile,
            "adversarial.method": self.adversarial.method != "none",
            "average (its teacher is one)": method != "target_forward" and self.average != Average(),
            "average.swa and average.soup (their batch norms go by training rows)": self.average.swa
            + self.average.soup,
            "init": method == "mmt" and self.init is not None,
            "optim.freeze": method == "mmt" and self.optim.freeze != "none",
        }
        named = [name for name, asked in odd.items() if asked]
        if method != "none" and named:
            raise ValueError(f'semi.method = "{method}" excludes {named[0]}: take one of them out')
        return self

    @model_validator(mode="after")
    def _frozen(self) -> Train:
        odd = [name for name in ("pseudo", "teacher", "tags", "init", "indicators") if getattr(self, name)]
        odd += ['select = "best"'] if self.select == "best" else []
        odd += ['image.normalize = "train"'] if self.image.normalize == "train" else []
        odd += ["predict.bn"] if self.predict.bn != "off" else []
        odd += ["predict.hard_tta"] if self.predict.hard_tta != "none" else []
        odd += [name for name in ("fastest", "compile") if getattr(self, name)]
        odd += ["adversarial.method"] if self.adversarial.method != "none" else []
        odd += ["semi.method"] if self.semi.method != "none" else []
        odd += ["decouple.method"] if self.decouple.method != "none" else []
        odd += ["[metric_learning]"] if self.metric_learning != MetricLearning() else []
        odd += ["sampling.per_class"] if self.sampling.per_class else []
        odd += ["loss.auxiliary"] if self.loss.auxiliary else []
        odd += ["model.head_init"] if self.model.head_init != "auto" else []
        odd += ["model.head_bias"] if self.model.head_bias != "zero" else []
        odd += ["loss.logit_adjust (predict.logit_adjust is)"] if self.loss.logit_adjust else []
        odd += [f"sampling.{key}" for key in ("balance", "repeat") if getattr(self.sampling, key) not in ("none", {})]
        if self.fit == "network" and self.sampling.synthetic != "none":
            raise ValueError('sampling.synthetic makes rows of features: it needs fit = "linear" or "boosted"')
        if self.fit != "network" and odd:
            raise ValueError(f'fit = "{self.fit}" is a head on features that nobody trains: it takes no {odd[0]}')
        return self

    @model_validator(mode="after")
    def _metric_learning(self) -> Train:
        how, each = self.metric_learning, self.sampling.per_class
        if how.loss == "triplet" and (self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                'metric_learning.loss = "triplet" compares classes, and a mixed row is of none: take augment.mixup and '
                "augment.cutmix out"
            )
        if how.loss == "arcface" and self.teacher:
            raise ValueError('metric_learning.loss = "arcface" and teacher exclude each other: it is of hard classes')
        if how.loss == "arcface" and self.decouple.method == "tau":
            raise ValueError('decouple.method = "tau" is of lengths of weights, and those of arcface have none')
        if not how.biased and self.model.head_bias == "prior":
            raise ValueError('model.head_bias = "prior" needs a bias, and metric_learning leaves the head without one')
        if how.loss != "none" and (self.indicators or self.patches.background):
            raise ValueError(
                "metric_learning.loss excludes indicators = true and patches.background: they are no class"
            )
        if each and (self.pseudo or self.difficulty.curriculum or self.difficulty.hard > 1):
            raise ValueError("sampling.per_class says which rows are drawn: take pseudo and draws by difficulty out")
        if each and (isinstance(self.batch_size, str) or self.batch_size % each or self.batch_size < 2 * each):
            raise ValueError(
                f"sampling.per_class = {each} divides a batch by classes: set batch_size to a multiple of it, "
                f"{2 * each} or more"
            )
        return self

    @model_validator(mode="after")
    def _attacks_move_pixels(self) -> Train:
        if self.adversarial.method in ("fgsm", "pgd") and self.image.normalize == "group":
            raise ValueError(
                f'adversarial.method = "{self.adversarial.method}" moves pixels of 0..1, and image.normalize = "group" '
                'changes them before: use "awp", or another normalisation'
            )
        return self

    @model_validator(mode="after")
    def _select_and_swa(self) -> Train:
        if self.select_by == "loss" and self.select == "last":
            raise ValueError('select_by = "loss" is how select = "best" chooses an epoch: set it, or take this out')
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
    def _masks(self) -> Train:
        if self.model.coordinates and self.image.fit == "tiles":
            raise ValueError('model.coordinates and image.fit = "tiles" exclude each other: a tile may lie anywhere')
        if self.model.presence and not self.loss.presence:
            raise ValueError("model.presence = true needs loss.presence, the weight of its loss, above 0")
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
        later = dict.fromkeys(("predict", "decouple", "decision", "retrieval", "stage", "pairs"), True)
        return self.model_dump(exclude={**later, "patches": {"gamma"}})
