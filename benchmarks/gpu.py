"""On a GPU: steps fed by the loader and by images on the device against steps fed with nothing, four backbones against
the loop of timm's benchmark, compiled too, and whole trainings of small images; where there is none, a line that says so."""

import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import Row, main

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.nets.machine import choose_machine
from pipeline.nets.models import build
from pipeline.nets.normalize import on_device
from pipeline.nets.objective import Objective
from pipeline.tasks import TASKS
from pipeline.training.engine import _step, fit
from pipeline.training.feed import Resident
from pipeline.training.optim import parameter_groups, sgd
from pipeline.training.sampling import Batches, Lessons, Views, loader
from pipeline.training.watch import Watch

MODELS = ("resnet50", "seresnext50_32x4d", "efficientnet_b0", "convnext_tiny")
SIDE, BATCH, CLASSES, N = 224, 128, 10, 5


def wait(machine):
    if machine.device == "cuda":
        torch.cuda.synchronize()


class Watched:
    """The mean share of time in which the GPU computed, asked of the driver four times a second."""

    def __enter__(self):
        self.seen, self.stop = [], threading.Event()
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def ask(self):
        while not self.stop.wait(0.25):
            try:
                self.seen.append(torch.cuda.utilization())
            except Exception:  # pynvml is not everywhere
                return

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def __str__(self):
        busy = f"GPU {mean(self.seen):.0f} % busy" if self.seen else "utilisation unknown"
        memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        return f"{busy}, {memory:.1f} GB at most"


class Trainer:
    """Our step with everything around it: bytes to the device, normalisation, loss, watch, SGD."""

    def __init__(self, name, machine, compiled=False, side=SIDE):
        torch.manual_seed(0)
        self.machine = machine
        self.net = machine.place(build(name, weights="none", options={}, channels=3, size=[side, side], outputs=CLASSES,
                                       pool="avg", dropout=0.0, normalize="imagenet"))  # fmt: skip
        self.learner = torch.compile(self.net) if compiled else self.net
        self.optim = machine.fuse(sgd(parameter_groups(self.net, 1e-4), 0.01, 0.9))
        y = np.arange(CLASSES)
        self.objective = Objective(TASKS["multiclass"], "classification", CLASSES, y)
        self.scaler = torch.amp.GradScaler(machine.device, enabled=False)

    def step(self, views, images, rows, targets):
        x = on_device(views, images, rows, self.machine, raw=True)
        y = targets[rows.to(self.machine.device, non_blocking=True)]
        return _step(self.learner, self.objective, x, y, 0, self.machine, self.optim, self.scaler, 1, 0.0)

    def speed(self, batches, images, targets, skip=5):
        """Images a second of a stream of (views, rows), after some steps to warm up."""
        seen, started = 0, 0.0
        for number, (views, rows) in enumerate(batches):
            if number == skip:
                wait(self.machine)
                started = time.perf_counter()
            self.step(views, images, rows, targets)
            seen += len(rows) if number >= skip else 0
        wait(self.machine)
        return seen / (time.perf_counter() - started)


def targets_of(rows, machine):
    y = np.arange(rows) % CLASSES
    encoded = Objective(TASKS["multiclass"], "classification", CLASSES, y).encode(y)
    return torch.cat([encoded, torch.ones(rows, 1)], 1).to(machine.device)


def fed(machine, name="resnet50", side=SIDE, batch=BATCH, steps=40, n=N):
    """Feed the same step with one batch again and again, by the loader, and from the device, in turns."""
    count = batch * steps
    images = Rows(
        [np.random.default_rng(0).integers(0, 255, (count, side + 32, side + 32, 3), np.uint8)], np.zeros((count, 0))
    )
    views, targets, trainer = (
        Views(images, augmenter("shift", side), 0),
        targets_of(count, machine),
        Trainer(name, machine, side=side),
    )
    batches = Batches(Lessons.of(np.arange(count)), batch, 0, 99)
    still = torch.from_numpy(images[np.arange(batch)][:, :side, :side].copy()).to(machine.device)
    ways = {
        "nothing": [(still, torch.arange(batch))] * steps,
        "the loader": loader(views, batches, machine),
        "the device": Resident(views, batches, machine),
    }
    found = {way: [] for way in ways}
    for batches.epoch in range(n + 1):
        for way, given in ways.items():
            with Watched() as watched:
                speed = trainer.speed(given, images, targets)
            found[way] += [speed] if batches.epoch else []  # the first turn starts workers and chooses kernels
    for way in ("the loader", "the device"):
        ratio = median(a / b for a, b in zip(found[way], found["nothing"], strict=True))
        yield Row(
            f"{name} at {side} px, {machine.precision}, batch {batch}: steps fed by {way}",
            "fed with nothing",
            median(found[way]),
            median(found["nothing"]),
            ratio,
            0.97,
            n,
            str(watched),
            True,
            "images/s",
        )


def timm_step(name, machine, side, batch):
    """The loop of timm's benchmark.py, --bench train --amp --amp-dtype bfloat16 --channels-last: a batch of noise."""
    import timm
    from timm.optim import create_optimizer_v2

    net = timm.create_model(name, num_classes=CLASSES).to(machine.device, memory_format=torch.channels_last).train()
    optim = create_optimizer_v2(net, opt="sgd", lr=1e-4)
    x = torch.randn(batch, 3, side, side, device=machine.device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (batch,), device=machine.device)

    def step(learner=net):
        optim.zero_grad()
        with torch.autocast(machine.device, torch.bfloat16):
            loss = nn.functional.cross_entropy(learner(x), y)
        loss.backward()
        optim.step()

    return net, step


def against_timm(machine, name, side=SIDE, batch=BATCH, steps=30, n=N):
    """Our whole step on bytes against timm's on floats that are there already; compiled in a second row."""
    rows = torch.arange(batch)
    still = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (batch, side, side, 3), np.uint8)).to(
        machine.device
    )
    targets, stream = targets_of(batch, machine), [(still, rows)] * steps
    net, step = timm_step(name, machine, side, batch)
    for compiled in (False, True):
        trainer = Trainer(name, replace(machine, quick=True), compiled, side)
        learner = torch.compile(net) if compiled else net
        ours, theirs = [], []
        for turn in range(n + 1):
            with Watched() as watched:
                speed = trainer.speed(stream, still, targets)
            for number in range(steps):
                if number == 5:
                    wait(machine)
                    started = time.perf_counter()
                step(learner)
            wait(machine)
            if turn:
                ours.append(speed)
                theirs.append(batch * (steps - 5) / (time.perf_counter() - started))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        part = f"{name} at {side} px, {machine.precision}, batch {batch}{', compiled' if compiled else ''}"
        yield Row(
            part,
            "the loop of timm's benchmark",
            median(ours),
            median(theirs),
            ratio,
            1.0,
            n,
            str(watched),
            True,
            "images/s",
        )


def whole(machine, what, count, side, epochs, models, network, batch=512):
    """Train some models of small images from start to end, images on the device; return the line to print."""
    images, y = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), np.uint8), np.arange(count) % CLASSES
    task, started = TASKS["multiclass"], time.perf_counter()
    with Watched() as watched:
        for fold in range(models):
            learnt = np.flatnonzero(np.arange(count) // CLASSES % 5 != fold)
            objective = Objective(task, "classification", CLASSES, y[learnt])
            watch = Watch(task, "classification", y, CLASSES, objective.center, objective.spread)
            net = build(
                network,
                weights="none",
                options={},
                channels=3,
                size=[side, side],
                outputs=CLASSES,
                pool="avg",
                dropout=0.0,
                normalize="half",
            )
            with tempfile.TemporaryDirectory() as folder:
                fit(net, objective, images=Rows([images], np.zeros((count, 0))), targets=objective.encode(y),
                    weights=torch.ones(count), lessons=Lessons.of(learnt), watch=watch, names=y.astype(str),
                    augment=augmenter("shift"), machine=machine, evaluate=lambda net: {}, record=lambda entry: None,
                    keep=None, checkpoint=Path(folder, "last"), key="", title="", log_file=Path(folder, "log"),
                    seed=fold, epochs=epochs, batch_size=batch, mixup=0.0, cutmix=0.0, optimizer="sgd", lr=0.1,
                    weight_decay=5e-4, momentum=0.9, schedule="onecycle", warmup=0.25, milestones=[], gamma=0.1,
                    power=1.0, clip=0.0, accumulate=1, freeze="none", layer_decay=1.0, ema=0.0, swa=0.0, soup=0)  # fmt: skip
    took = time.perf_counter() - started
    seen = models * epochs * count * 4 / 5
    return f"{what}: {models} models of {network}, {epochs} epochs of {count} images of {side} px: {took:.1f} s, {seen / took:.0f} images/s; {watched}"


def rows():
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no GPU here, so nothing was measured", file=sys.stderr)
        return
    machine = choose_machine("bf16")
    machine.prepare()
    print(torch.cuda.get_device_name(), file=sys.stderr)
    yield from fed(machine)
    for name in MODELS:
        yield from against_timm(machine, name)
    quick = replace(machine, quick=True)
    print(whole(quick, "digits, five folds", 1797, 24, 20, 5, "cnn", 256), file=sys.stderr)
    print(whole(quick, "as large as CIFAR, five folds", 50_000, 32, 8, 5, "resnet18"), file=sys.stderr)


if __name__ == "__main__":
    main(rows)
