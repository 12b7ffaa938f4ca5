"""From the cache to the normalised batch (flip, shift, crop, normalise): recipe `shift` against albumentations in a DataLoader."""

import os
import sys
import time
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import main, race

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.nets.machine import Machine
from pipeline.nets.normalize import fixed, on_device, standard
from pipeline.training.feed import feed
from pipeline.training.sampling import Batches, Lessons, Views

BATCH = 64


class Augmented(Dataset):
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, n):
        return self.transform(image=self.images[n])["image"], n


def smooth(count, side):
    """Images whose brightness falls from one corner to the other, so that a mean tells of flips and shifts."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:side, :side]
    slopes = rng.uniform(20, 100, (count, 2, 1, 1, 1))
    ramps = slopes[:, 0] * y[:, :, None] / side + slopes[:, 1] * x[:, :, None] / side
    return (ramps + rng.integers(0, 50, (count, side, side, 3))).astype(np.uint8)


def spellings(crop):
    """The same views in albumentations: as one would write it; and with a frame cut anywhere instead of a shift."""
    end, most = [A.RandomCrop(crop, crop, strict=True), A.Normalize(strict=True), ToTensorV2()], crop // 8
    border = cv2.BORDER_REFLECT_101
    return {
        "Affine": [A.HorizontalFlip(p=0.5), A.Affine(translate_px=(-most, most), border_mode=border, p=1.0), *end],
        "Pad": [A.HorizontalFlip(p=0.5), A.Pad(most, border_mode=border), *end],
    }


def rows():
    machine = Machine("cpu", "fp32", 1)
    machine.prepare()
    for side, crop, count in ((72, 64, 1024), (256, 224, 256)):
        images = smooth(count, side)
        batches, (mean, std) = Batches(Lessons.of(np.arange(count)), BATCH, 0, 100), fixed("imagenet", 3)
        given = Rows([images], np.zeros((count, 0)))
        fed = feed(Views(given, augmenter("shift", crop), 0), batches, machine)
        loaders = {
            name: DataLoader(Augmented(images, A.Compose(list_of)), BATCH, shuffle=True)
            for name, list_of in spellings(crop).items()
        }

        def ours(fed=fed, batches=batches, given=given, mean=mean, std=std):
            batches.epoch += 1
            return moments(standard(on_device(v, given, r, machine, raw=True), mean, std) for v, r in fed)

        part = f"input path {crop} x {crop} of {side} x {side} (flip, shift, crop, normalise), {count} images"
        row, mine, his = race(part, "albumentations, DataLoader", ours, lambda d=loaders: moments(b for b, _ in d["Affine"]), 4, clock=time.process_time)  # fmt: skip
        cheap = race(part, "", ours, lambda d=loaders: moments(b for b, _ in d["Pad"]), 1, clock=time.process_time)[0]
        off = float((mine - his).abs().max())
        note = f"{row.ours / count * 1e6:.0f} against {row.theirs / count * 1e6:.0f} us an image (CPU); {cheap.ratio:.2g}x against Pad and RandomCrop, whose places are distributed otherwise; means of corners and middle within {off:.3f} sd"
        yield type(row)(**{**vars(row), "note": note, "good": off < 0.15})


def moments(batches):
    """The mean of nine places over an epoch (what a loop would do with a batch costs little beside)."""
    found = []
    for x in batches:
        step = x.shape[2] // 2 - 1
        found.append(x[:, :, ::step, ::step][:, :, :3, :3].mean((0, 1)))
    return torch.stack(found).mean(0)


if __name__ == "__main__":
    main(rows)
