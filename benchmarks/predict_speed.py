"""Inference of resnet18 at 224 px on a CPU: `predict.fastest` against eager PyTorch, and what it does to the score."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import main, race

from pipeline.nets.machine import Machine
from pipeline.nets.models import build
from pipeline.tasks import TASKS
from pipeline.training.inference import WAYS, ready
from pipeline.training.predict import predict

SIDE, TILE, RACED = 224, 56, 64


def digits():
    """scikit-learn's scanned digits of 56 px, each side by side with itself four times either way; and labels."""
    import cv2
    from sklearn.datasets import load_digits

    small, y = load_digits(return_X_y=True)
    tiles = [cv2.resize(i.reshape(8, 8), (TILE, TILE), interpolation=cv2.INTER_CUBIC) for i in small / 16 * 255]
    tiles = np.repeat(np.clip(tiles, 0, 255).astype(np.uint8)[..., None], 3, 3)
    return np.tile(tiles, (1, SIDE // TILE, SIDE // TILE, 1)), y


def trained(images, y, steps=96, size=16, learnt=512):
    """A resnet18 that has learnt the first rows, from quarters of the images; and how many these were."""
    torch.manual_seed(0)
    net = build("resnet18", weights="none", options={}, channels=3, size=[SIDE, SIDE], outputs=10, pool="avg",
                dropout=0.0, normalize="imagenet")  # fmt: skip
    machine = Machine("cpu", "bf16", 1, quick=True)
    optim = machine.fuse(torch.optim.AdamW(machine.place(net).parameters(), lr=1e-3))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optim, 1e-3, steps)
    for step in range(steps):
        part = slice(step * size % learnt, step * size % learnt + size)
        with machine.autocast():
            scores = net(torch.from_numpy(images[part, : 2 * TILE, : 2 * TILE]).permute(0, 3, 1, 2))
        nn.functional.cross_entropy(scores.float(), torch.from_numpy(y[part])).backward()
        optim.step()
        schedule.step()
        optim.zero_grad(set_to_none=True)
    return Machine("cpu", "fp32", 1, layout="channels_first").place(net).eval(), learnt


def eager(net, images):
    """What one writes: float32, NCHW, normalised, in batches of 32."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            x = torch.from_numpy(images[start : start + 32]).permute(0, 3, 1, 2).contiguous()
            x = (x.float() / 255 - mean) / std
            found.append(net.head(net.backbone.forward_features(x).mean((2, 3))).softmax(1))
    return torch.cat(found).numpy()


def rows():
    from sklearn.metrics import log_loss, roc_auc_score

    machine = Machine("cpu", "fp32", 1)
    machine.prepare()
    images, y = digits()
    net, seen = trained(images, y)
    left, truth = images[seen:], y[seen:]
    wanted = eager(net, left)
    for way in WAYS:
        started = time.perf_counter()
        twin = ready(net, way, [SIDE, SIDE])
        prepared = time.perf_counter() - started

        def ours(part, twin=twin):
            return predict(twin, TASKS["multiclass"], "classification", left, np.arange(len(left))[:part],
                           machine=machine, tta="none", batch_size=64)[0]  # fmt: skip

        found = ours(len(left))
        scores = {
            "accuracy": lambda p: (p.argmax(1) == truth).mean(),
            "AUC": lambda p: roc_auc_score(truth, p, multi_class="ovr"),
            "log loss": lambda p: -log_loss(truth, p / p.sum(1, keepdims=True, dtype=np.float64)),
        }
        drops = {name: float(score(wanted) - score(found)) for name, score in scores.items()}
        row, _, _ = race(f"inference of resnet18 at {SIDE} px, way {way!r}, {RACED} images", "eager PyTorch",
                         lambda: ours(RACED), lambda: eager(net, left[:RACED]), 2.5, clock=time.process_time)  # fmt: skip
        told = ", ".join(f"{name} {drop:+.5f}" for name, drop in drops.items())
        note = f"prepared in {prepared:.1f} s; lost on {len(left)} rows (accuracy {scores['accuracy'](wanted):.3f}): {told}; probabilities move by {np.abs(found - wanted).mean():.5f}"
        yield type(row)(**{**vars(row), "note": note, "good": max(drops.values()) <= 1e-3})


if __name__ == "__main__":
    main(rows)
