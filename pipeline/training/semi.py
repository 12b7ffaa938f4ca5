"""Learning from images without labels beside a training: teachers that are averages of weights, and their losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.images.cache import metadata
from pipeline.nets.machine import Machine
from pipeline.nets.models import to_prediction
from pipeline.nets.normalize import on_device
from pipeline.nets.objective import Objective
from pipeline.scoring.pseudo import say, sureness
from pipeline.store.shift import Semi
from pipeline.tasks import Task
from pipeline.training.adversarial import Scaler, Value, backward, differentiable, still
from pipeline.training.layers import norms_of
from pipeline.training.sampling import loader
from pipeline.training.unlabelled import Drawn, Pairs

# The weight of what teachers say rises over this share of the steps: at first they know nothing (Tarvainen 2017).
RAMP = 0.3
MEANT = ("mean_teacher", "mmt")


class Adaptation:
    """What a network learns from images without labels, and the network to predict with.

    `pupils` are the network and, of mutual mean teaching, a second one; `teachers` their averages (none: of the network
    itself is predicted). A teacher's weights are the pupil's mean; its batch norms see images of the target alone.
    """

    def __init__(
        self,
        how: Semi,
        task: Task,
        head: str,
        objective: Objective,
        pupils: Sequence[nn.Module],
        pairs: Pairs,
        drawn: Drawn,
        machine: Machine,
    ) -> None:
        self.how, self.task, self.head, self.objective, self.machine = how, task, head, objective, machine
        self.pupils = [machine.place(pupil) for pupil in pupils]
        self.teachers = (
            [copy.deepcopy(p).requires_grad_(False) for p in pupils] if how.method != "target_forward" else []
        )
        self.images, self.batches = pairs.weak.images, drawn
        self.views = loader(pairs, drawn, machine)
        self.meta = torch.from_numpy(metadata(self.images)).to(machine.device)
        self.columns = int(pupils[0].head.out_features)  # type: ignore[union-attr, arg-type]
        self.center, self.spread = objective.center, objective.spread
        self.cuts = task.default_cuts(objective.classes) if hasattr(objective, "classes") else np.zeros(0)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return what a checkpoint must keep besides the network."""
        teachers = {f"teacher{n}": teacher for n, teacher in enumerate(self.teachers)}
        return teachers | {f"pupil{n}": pupil for n, pupil in enumerate(self.pupils) if n}

    def predictor(self, network: nn.Module) -> nn.Module:
        """Return the network to predict with: the first teacher, where there is one."""
        return self.teachers[0] if self.teachers else network

    def begin(self, epoch: int) -> None:
        """Get ready for an epoch."""
        self.batches.epoch = epoch
        for pupil in self.pupils[1:]:
            pupil.train()

    def descend(
        self,
        value: Callable[..., tuple[Tensor, Tensor]],
        scaler: Scaler,
        parts: Sequence[tuple[Tensor, Tensor]],
        batch: tuple[Tensor, Tensor],
        progress: float,
    ) -> None:
        """Add the gradient of a second pupil's labelled batch, in `parts`, and of a batch of pairs (N H W 2C, rows).

        `progress` is the share of the steps that are over; `value(x, y, pupil)` the loss of a labelled part.
        """
        for pupil in self.pupils[1:]:
            mine: Value = partial(value, pupil=pupil)
            for x, y in parts:
                backward(mine, scaler, x, y)
        views, rows = batch
        raw = getattr(self.pupils[0], "reads_bytes", False)
        x = on_device(views, self.images, rows, self.machine, raw)
        meta = self.meta[rows.to(self.machine.device)]
        scale = self.how.weight * (ramp(progress) if self.how.method in MEANT else 1.0) / len(x)
        pieces = zip(*(part.chunk(len(parts)) for part in (*x.chunk(2, 1), meta)), strict=True)
        for weak, strong, beside in pieces:
            given = [beside] if beside.shape[1] else []
            loss = METHODS[self.how.method](self, weak, strong, given)
            if loss is not None:
                scaler.scale(scale * loss.sum()).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the teachers towards their pupils after step number `step`: the mean of all, then one that forgets."""
        keep = min(1 - 1 / (step + 2), self.how.ema)
        for teacher, pupil in zip(self.teachers, self.pupils, strict=False):
            for mean, value in zip(teacher.parameters(), pupil.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)

    def ask(self, network: nn.Module, x: Tensor, given: list[Tensor]) -> Tensor:
        """Return the scores (N D) of the targets."""
        with self.machine.autocast():
            return network(x, *given)[:, : self.columns].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def taught(self, teacher: nn.Module, x: Tensor, given: list[Tensor]) -> Tensor:
        """Return what a teacher predicts (N P), normalised by the batch, which its batch norms remember."""
        differentiable(teacher)  # what was predicted between epochs may not be written to
        teacher.eval()
        for norm in norms_of(teacher):
            norm.train()
        return self.read(self.ask(teacher, x, given))

    def read(self, scores: Tensor) -> Tensor:
        """Return predictions N P of scores N D."""
        return to_prediction(self.task, self.head, scores, self.center.to(scores.device), self.spread.to(scores.device))

    def compared(self, scores: Tensor, said: Tensor, least: float | None = None) -> Tensor:
        """Return the losses (N) against what was predicted (N P), or, where it is sure enough, against its decision."""
        told = said.cpu().numpy()
        if least is not None:
            sure = sureness(self.task, told[None], self.cuts, "confidence")
            told = say(self.task, told, sure >= least, self.cuts, "hard", 1.0)
        targets = self.objective.encode_prediction(told.astype(np.float32)).to(scores.device)
        if told.shape[1] > 1 and self.task.name != "multiclass":
            return self.objective.loss(scores, targets)  # labels that are not sure are unknown
        known = targets.isnan().logical_not().all(1)
        return self.objective.loss(scores, targets.nan_to_num()) * known


def ramp(progress: float) -> float:
    """Return the share of its weight that what teachers say has at a share of the steps."""
    return math.exp(-5 * (1 - min(progress / RAMP, 1.0)) ** 2)


def target_forward(school: Adaptation, weak: Tensor, strong: Tensor, given: list[Tensor]) -> None:
    """Show a batch to the batch norms, and to nothing else."""
    with torch.no_grad():
        school.ask(school.pupils[0], weak, given)


def mean_teacher(school: Adaptation, weak: Tensor, strong: Tensor, given: list[Tensor]) -> Tensor:
    """Return the squared distance (N) of predictions from the teacher's; values in units of their spread."""
    said = school.taught(school.teachers[0], weak, given)
    unit = 1.0 if school.task.probabilities else school.spread.to(said.device)
    own = school.read(school.ask(school.pupils[0], strong, given))
    return ((own - said) / unit).square().sum(1)


def fixmatch(school: Adaptation, weak: Tensor, strong: Tensor, given: list[Tensor]) -> Tensor:
    """Return the losses (N) against the network's own decisions on weak views, 0 where it is not sure."""
    pupil = school.pupils[0]
    with torch.no_grad(), still(pupil):
        said = school.read(school.ask(pupil, weak, given))
    school.taught(school.teachers[0], weak, given)  # for its batch norms
    return school.compared(school.ask(pupil, strong, given), said, school.how.threshold)


def mmt(school: Adaptation, weak: Tensor, strong: Tensor, given: list[Tensor]) -> Tensor:
    """Return the losses (N) of both pupils against the other's teacher: half its prediction, half its decision."""
    said = [school.taught(teacher, weak, given) for teacher in school.teachers]
    total = torch.zeros(len(weak), device=weak.device)
    for pupil, other in zip(school.pupils, said[::-1], strict=True):
        scores = school.ask(pupil, strong, given)
        total = total + (school.compared(scores, other) + school.compared(scores, other, 0.0)) / 2
    return total


METHODS: dict[str, Callable[[Adaptation, Tensor, Tensor, list[Tensor]], Tensor | None]] = {
    "target_forward": target_forward,
    "mean_teacher": mean_teacher,
    "fixmatch": fixmatch,
    "mmt": mmt,
}
