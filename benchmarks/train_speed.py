"""Training images per CPU second: `fastest = true` against timm's training defaults and plain Lightning, epochs in turns,
and what the probe chooses against PyTorch's defaults on six backbones."""

import logging
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import Row, main

from pipeline.images.augment import augmenter
from pipeline.nets.machine import LAYOUTS, Machine
from pipeline.nets.models import build
from pipeline.nets.objective import Objective
from pipeline.tasks import TASKS
from pipeline.training.engine import fit
from pipeline.training.predict import predict
from pipeline.training.probe import best_of, images_per_second
from pipeline.training.sampling import Lessons
from pipeline.training.watch import Watch

SIDE, BATCH, EPOCHS, ROWS = 64, 64, 5, 960
BACKBONES = (
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
)
USUAL, CLASSES = Machine("cpu", "fp32", 1), 10


def digits():
    """scikit-learn's scanned digits enlarged to RGB, uint8 N 64 64 3; labels; the rows of fold 0 to learn and to score."""
    import cv2
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    small, y = load_digits(return_X_y=True)
    images = [cv2.resize(i.reshape(8, 8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for i in small / 16 * 255]
    images = np.repeat(np.clip(images, 0, 255).astype(np.uint8)[..., None], 3, 3)
    learnt, scored = next(StratifiedKFold(5, shuffle=True, random_state=0).split(small, y))
    return images, y, learnt[:ROWS], scored


def choose(network, size):
    kinds = product(("fp32", "bf16"), LAYOUTS)
    others = [replace(USUAL, precision=precision, layout=layout, quick=True) for precision, layout in kinds]
    return best_of(lambda machine: images_per_second(network, machine, [SIDE, SIDE], size), USUAL, others)


def backbone(name):
    options = {"img_size": SIDE} if name.startswith("vit") else {}
    torch.manual_seed(0)
    return build(name, weights="none", options=options, channels=3, size=[SIDE, SIDE], outputs=CLASSES, pool="avg",
                 dropout=0.0, normalize="imagenet")  # fmt: skip


class Pictures(Dataset):
    def __init__(self, images, y, view):
        self.images, self.y, self.view = images, y, view

    def __len__(self):
        return len(self.images)

    def __getitem__(self, n):
        return self.view(self.images[n]), int(self.y[n])


def timm_trainer(images, y):
    """The parts of timm's train.py at its defaults: SGD with Nesterov momentum, lr .1 x batch / 256, cosine, smoothing .1,
    random resized crops, flips, colours, NCHW float32; only the 5 warm-up epochs (of 300) are left out."""
    import timm
    from PIL import Image
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=CLASSES)
    optim = create_optimizer_v2(net, opt="sgd", lr=0.1 * BATCH / 256, weight_decay=2e-5, momentum=0.9)
    schedule, loss_of = CosineLRScheduler(optim, t_initial=EPOCHS), LabelSmoothingCrossEntropy(0.1)
    view = create_transform(SIDE, is_training=True, color_jitter=0.4)
    loader = DataLoader(Pictures(images, y, lambda image: view(Image.fromarray(image))), BATCH, shuffle=True)

    def epoch(number):
        net.train()
        started = time.process_time()
        for x, target in loader:
            loss = loss_of(net(x), target)
            optim.zero_grad()
            loss.backward()
            optim.step()
        schedule.step(number + 1)
        return time.process_time() - started

    return net, epoch


def lightning_trainer(images, y):
    """A LightningModule with AdamW and a cosine, and a Dataset with albumentations, as tutorials have them."""
    import albumentations as A
    import cv2
    import lightning
    import timm
    from albumentations.pytorch import ToTensorV2

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("resnet18", num_classes=CLASSES)
            self.optim = torch.optim.AdamW(self.parameters(), lr=1e-3)
            steps = EPOCHS * -(-len(images) // BATCH)
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optim, steps)
            self.seconds = 0.0

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return {"optimizer": self.optim, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

        def on_train_epoch_start(self):
            self.seconds = time.process_time()

        def on_train_epoch_end(self):
            self.seconds = time.process_time() - self.seconds

    most = SIDE // 8
    shift = A.Affine(translate_px=(-most, most), border_mode=cv2.BORDER_REFLECT_101, p=1.0)
    view = A.Compose([A.HorizontalFlip(p=0.5), shift, A.Normalize(), ToTensorV2()])
    torch.manual_seed(0)
    module = Module()
    loader = DataLoader(Pictures(images, y, lambda image: view(image=image)["image"]), BATCH, shuffle=True)

    def epoch(number):
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(module, loader)
        return module.seconds

    return module.net, epoch


def raced(images, y, learnt, scored):
    """Train the three in turns, epoch by epoch; return seconds of each epoch, accuracies and what the probe chose."""
    peers = {"timm": timm_trainer(images[learnt], y[learnt]), "Lightning": lightning_trainer(images[learnt], y[learnt])}
    net = backbone("resnet18")
    started = time.process_time()
    machine = choose(net, BATCH // 2)
    probed, net = time.process_time() - started, backbone("resnet18")
    seconds = {"ours": [], "timm": [], "Lightning": []}
    begun = time.process_time()

    def turn(current):
        nonlocal begun
        seconds["ours"].append(time.process_time() - begun)
        for name, (_, epoch) in peers.items():
            seconds[name].append(epoch(len(seconds["ours"]) - 1))
        begun = time.process_time()
        return {}

    task, names = TASKS["multiclass"], np.arange(len(y)).astype(str)
    objective = Objective(task, "classification", CLASSES, y[learnt])
    watch = Watch(task, "classification", y, CLASSES, objective.center, objective.spread)
    with tempfile.TemporaryDirectory() as folder:
        fit(net, objective, images=images, targets=objective.encode(y), weights=torch.ones(len(y)),
            lessons=Lessons.of(learnt), watch=watch, names=names, augment=augmenter("shift"), machine=machine,
            evaluate=turn, record=lambda entry: None, keep=None, checkpoint=Path(folder, "last"), key="", title="",
            log_file=Path(folder, "log"), seed=0, epochs=EPOCHS, batch_size=BATCH, mixup=0.0, cutmix=0.0,
            optimizer="adamw", lr=1e-3, weight_decay=0.01, momentum=0.9, schedule="cosine", warmup=0.05, milestones=[],
            gamma=0.1, power=1.0, clip=0.0, accumulate=1, freeze="none", layer_decay=1.0, ema=0.0, swa=0.0, soup=0)  # fmt: skip
    p = predict(net, task, "classification", images, scored, machine=machine, tta="none", batch_size=BATCH)[0]
    hits = {"ours": float((p.argmax(1) == y[scored]).mean())}
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(images[scored]).permute(0, 3, 1, 2) / 255 - mean) / std
    for name, (other, _) in peers.items():
        with torch.inference_mode():
            hits[name] = float((other.eval()(x).argmax(1).numpy() == y[scored]).mean())
    return seconds, hits, machine, probed


def told(machine):
    return f"{machine.precision}, {machine.layout}, {'quick' if machine.quick else 'usual'} kernels"


def rows():
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    USUAL.prepare()
    seconds, hits, machine, probed = raced(*digits())
    speed = {name: [ROWS / s for s in each] for name, each in seconds.items()}
    for name in ("timm", "Lightning"):
        ratio = median(a / b for a, b in zip(speed["ours"], speed[name], strict=True))
        chosen = f"{told(machine)}, probed in {probed:.0f} s; " if name == "timm" else ""
        note = f"{chosen}accuracy after {EPOCHS} epochs of fold 0 of digits {hits['ours']:.3f} against {hits[name]:.3f}"
        part = f"training images a CPU second, resnet18 at {SIDE} px, batch {BATCH}"
        yield Row(part, f"{name}, float32 NCHW", median(speed["ours"]), median(speed[name]), ratio, 1.5, EPOCHS, note,
                  hits["ours"] >= hits[name], "images/s")  # fmt: skip
    for name in BACKBONES:
        yield of_backbone(name)


def of_backbone(name, n=7, size=32):
    """Race what the probe chooses against plain PyTorch (float32 NCHW, unfused), a step of each in turn."""
    started = time.perf_counter()
    chosen = choose(backbone(name), size)
    probed = time.perf_counter() - started
    plain = replace(USUAL, layout="channels_first")
    steps = {machine: stepper(backbone(name), machine, size) for machine in (chosen, plain)}
    ratios, times = [], {chosen: [], plain: []}
    for turn in range(n + 1):
        for machine, step in steps.items():
            times[machine].append(step())
        if turn:
            ratios.append(times[plain][-1] / times[chosen][-1])
    drawn = np.random.default_rng(0).choice(ratios, (2000, n))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    note = f"{told(chosen)}; 95 % interval {low:.2f} .. {high:.2f}; probed in {probed:.1f} s"
    a, b = (size / median(times[machine][1:]) for machine in (chosen, plain))
    part = f"step of {name} at {SIDE} px, batch {size}: what the probe chose"
    return Row(part, "float32, NCHW, unfused", a, b, median(ratios), 0.98, n, note, bool(low >= 0.98), "images/s")


def stepper(network, machine, size):
    """Return a function that takes one step and returns its CPU seconds."""
    machine.place(network).train()
    optim = machine.fuse(torch.optim.AdamW(network.parameters(), lr=1e-4))
    x = torch.rand(size, 3, SIDE, SIDE).contiguous(memory_format=LAYOUTS[machine.layout])
    y = torch.arange(size) % CLASSES

    def step():
        started = time.process_time()
        with machine.autocast():
            scores = network(x)
        nn.functional.cross_entropy(scores.float(), y).backward()
        optim.step()
        optim.zero_grad(set_to_none=True)
        return time.process_time() - started

    return step


if __name__ == "__main__":
    main(rows)
