"""The only training loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset
from tqdm import tqdm

from pipeline.images.augment import Augmenter, mix_batch
from pipeline.images.cache import Images, metadata
from pipeline.images.ragged import Ragged
from pipeline.nets.losses import Goal
from pipeline.nets.machine import Machine, memory_advice
from pipeline.nets.normalize import on_device
from pipeline.store.command import setting
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.training.adversarial import Attack, backward
from pipeline.training.alarm import Alarm
from pipeline.training.checkpoint import resume, save, write_log
from pipeline.training.feed import feed
from pipeline.training.layers import free_stages, stages_of, thaw
from pipeline.training.optim import OPTIMIZERS, averaged, factor, parameter_groups, shrink
from pipeline.training.sampling import Batches, Lessons, Views
from pipeline.training.semi import Adaptation
from pipeline.training.watch import Watch

log = logging.getLogger(__name__)


def fit(
    network: nn.Module,
    objective: Goal,
    *,
    images: Images | Ragged,
    targets: Tensor,
    weights: Tensor,
    lessons: Lessons,
    watch: Watch | Alarm,
    names: Array,
    augment: Augmenter,
    machine: Machine,
    evaluate: Callable[[nn.Module], dict[str, float]],
    record: Callable[[dict[str, Any]], None],
    keep: Callable[[dict[str, Any], nn.Module], None] | None,
    checkpoint: Path,
    key: str,
    log_file: Path,
    title: str,
    seed: int,
    epochs: int,
    batch_size: int,
    mixup: float,
    cutmix: float,
    optimizer: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    schedule: str,
    warmup: float,
    milestones: Sequence[float],
    gamma: float,
    power: float,
    clip: float,
    accumulate: int,
    freeze: str,
    layer_decay: float,
    ema: float,
    swa: float,
    soup: int,
    dense: Dataset[tuple[Array, int]] | None = None,
    masks: int = 0,
    compiled: bool = False,
    l1: float = 0.0,
    attack: Attack | None = None,
    adaptation: Adaptation | None = None,
) -> nn.Module:
    """Train on some rows and return the network to predict with; a killed call continues from `checkpoint`.

    `images` N H W C, `targets` N D and loss `weights` N are of all rows, `lessons` say which of them to train on.
    `evaluate` scores a network on the held-out rows after each epoch, `record` gets each epoch's numbers, `keep` each
    epoch's network, `watch` every row's scores. A step sees `batch_size` rows, in `accumulate` pieces.
    `dense` gives views whose last `masks` channels are targets too, the first ones. `compiled`: by torch.compile.
    `attack` trains adversarially, `adaptation` on images without labels beside.
    """
    machine.place(network)
    pupils = adaptation.pupils if adaptation else [network]
    optims = []
    for pupil in pupils:
        groups = parameter_groups(pupil, weight_decay, layer_decay)
        optims.append(machine.fuse(resolve(OPTIMIZERS, optimizer, "optimizer")(groups, lr, momentum)))
        if l1:
            optims[-1].register_step_post_hook(shrink(l1))
    scaler = torch.amp.GradScaler(machine.device, enabled=machine.precision == "fp16")
    average = averaged(network, ema, swa, soup)
    stages = stages_of(network) if freeze != "none" else []
    batches = Batches(lessons, batch_size, seed, epochs, masks > 0)
    views_of = feed(dense or Views(images, augment, seed), batches, machine)
    # Weight and metadata are further targets, so that they mix as they do.
    meta = torch.from_numpy(metadata(images))
    targets = torch.cat([targets, weights[:, None], meta], 1).to(machine.device)
    raw = getattr(network, "reads_bytes", False)
    learner: Any = torch.compile(network) if compiled else network
    taught = list(zip([learner, *pupils[1:]], optims, strict=True))
    parts: dict[str, Any] = {"network": network, "optimizer": optims[0], "scaler": scaler, "watch": watch}
    parts |= {"average": average} if average else {}
    parts |= {f"optimizer{n}": optim for n, optim in enumerate(optims) if n}
    parts |= adaptation.parts if adaptation else {}
    begin = resume(checkpoint, key, parts, log_file)
    saved, total = time.monotonic(), epochs * batches.steps
    bar = tqdm(range(begin, epochs), initial=begin, total=epochs, desc=title, unit="epoch", disable=None, leave=False)
    for epoch in bar:
        started, losses, seen = time.monotonic(), [], []
        batches.epoch, step = epoch, epoch * batches.steps - 1
        network.train()
        objective.progress = epoch / epochs
        armed = attack if attack and epoch / epochs >= attack.start else None
        if stages:
            thaw(network, stages, free_stages(freeze, epoch, epochs, len(stages)))
        if adaptation:
            adaptation.begin(epoch)
        for (views, picked), others in zip(views_of, adaptation.views if adaptation else repeat(None)):  # noqa: B905
            step += 1
            rate = lr * factor(
                schedule, (step + 1) / total, warmup, swa, milestones=milestones, gamma=gamma, power=power
            )
            for group in (group for optim in optims for group in optim.param_groups):
                group["lr"] = rate * group["lr_scale"]
            with memory_advice(batch_size, accumulate, views):
                mixing = np.random.default_rng([seed, epoch, step])
                x = on_device(views, images, picked, machine, raw and not mixup and armed is None)
                y = targets[picked.to(machine.device, non_blocking=True)]
                x, y = mix_batch(x, y, mixup, cutmix, mixing)
                if masks:
                    x, y = x[:, :-masks], torch.cat([x[:, -masks:].flatten(1), y], 1)
                beside = partial(adaptation.descend, batch=others, progress=step / total) if adaptation else None
                loss, scores = _step(
                    learner, objective, x, y, meta.shape[1], machine, taught, scaler, accumulate, clip, armed, beside
                )
                if adaptation:
                    adaptation.follow(step)
            del views, x  # the next batch takes their place in memory
            watch.see(picked, scores)
            losses.append(loss)
            seen.append(picked)
            if average is not None and (ema or (swa and (step + 1) / total > swa)):
                average.update_parameters(network)
            if machine.device == "cpu" or step % 50 == 49:
                _check_finite(losses[-50:], seen[-50:], title, epoch, names)
        numbers = torch.stack(losses).tolist()
        _check_finite(losses, seen, title, epoch, names)
        if average is not None and epoch >= epochs - soup:
            average.update_parameters(network)
        current = adaptation.predictor(network) if adaptation else network
        if average is not None and ema:  # the other averages are ready at the end
            current = average.module
        entry = {"epoch": epoch, "step": (epoch + 1) * batches.steps, "lr": rate, "train_loss": float(np.mean(numbers))}
        entry |= evaluate(current) | {"seconds": round(time.monotonic() - started, 4)}
        write_log(log_file, entry, numbers)
        record(entry)
        log.debug("%s: %s", title, json.dumps(entry))
        bar.set_postfix({k: f"{v:.4g}" for k, v in entry.items() if k in ("train_loss", "valid_loss")})
        if keep is not None:
            keep(entry, current)
        if epoch + 1 < epochs and time.monotonic() - saved >= setting("PODIUM_CHECKPOINT_SECONDS", 10):
            save(checkpoint, key, epoch, parts)
            saved = time.monotonic()
    if average is None:
        return adaptation.predictor(network) if adaptation else network
    final: nn.Module = average.module
    if (swa or soup) and freeze != "head":
        batches.epoch = epochs
        again = (on_device(views, images, picked, machine, raw)[:, : -masks or None] for views, picked in views_of)
        update_bn(again, final, device=torch.device(machine.device))
    return final


def _step(
    network: Any,
    objective: Goal,
    x: Tensor,
    y: Tensor,
    beside: int,
    machine: Machine,
    taught: Sequence[tuple[Any, torch.optim.Optimizer]],
    scaler: torch.amp.GradScaler,
    pieces: int,
    clip: float,
    attack: Attack | None,
    further: Callable[[Any, Any, Any], None] | None,
) -> tuple[Tensor, Tensor]:
    """Take one step down the mean loss of a batch, whose gradient is added up piece by piece.

    The columns of `y` are the targets, the weight of the row, and `beside` of metadata. Return that loss and the
    scores (N D). `further` adds the gradient of what else is learnt.
    """
    total, seen, columns = torch.zeros((), device=x.device), [], [y.shape[1] - beside - 1, 1, beside]

    def value(part: Tensor, target: Tensor, pupil: Any = network) -> tuple[Tensor, Tensor]:
        wanted, weight, meta = torch.split(target, columns, 1)
        with machine.autocast():
            scores = pupil(part, meta) if beside else pupil(part)
        return (objective.loss(scores, wanted) * weight[:, 0]).sum() / len(x), scores.detach()

    parts = list(zip(x.chunk(pieces), y.chunk(pieces), strict=True))
    descend = partial(attack.descend, network) if attack else backward
    for part, target in parts:
        loss, scores = descend(value, scaler, part, target)
        seen.append(scores)
        total += loss
    if attack:
        attack.perturb(network, value, scaler, parts)
    if further:
        further(value, scaler, parts)
    for pupil, optim in taught:
        scaler.unscale_(optim)
        if clip:
            nn.utils.clip_grad_norm_(pupil.parameters(), clip)
        scaler.step(optim)
    scaler.update()
    for _, optim in taught:
        optim.zero_grad(set_to_none=True)
    return total, torch.cat(seen)


def _check_finite(losses: list[Tensor], seen: list[Tensor], title: str, epoch: int, names: Array) -> None:
    bad = torch.stack(losses).isfinite().logical_not().nonzero()
    if len(bad):
        ids = ", ".join(map(str, names[seen[int(bad[0])].numpy()][:4]))
        raise UserError(
            f"{title}: the loss is not finite in epoch {epoch}, batch of ids {ids}, ...: "
            f"lower optim.lr or set optim.clip = 1.0"
        )
