"""How long a training loop waits for images from its second epoch on: the decoded cache against decoding in a DataLoader."""

import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import main, race

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows, cached
from pipeline.nets.machine import Machine
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Images
from pipeline.store.files import digest_file
from pipeline.store.table import combined
from pipeline.training.feed import feed
from pipeline.training.sampling import Batches, Lessons, Views

COUNT, SIDE, BATCH = 192, 512, 32
SEEN = (224, 512)  # what the network sees of it


def draw(folder):
    """Write photographs of sorts (smooth shapes, some grain) as JPEGs of the usual quality, 95; return their names."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    smooth = cv2.GaussianBlur(rng.normal(size=(2 * SIDE, 2 * SIDE, 3)), (0, 0), 12)
    smooth = 127 + 50 * smooth / smooth.std()
    for n in range(COUNT):
        y, x = rng.integers(0, SIDE, 2)
        picture = smooth[y : y + SIDE, x : x + SIDE] + rng.normal(0, 5, (SIDE, SIDE, 3))
        cv2.imwrite(str(folder / f"{n}.jpg"), np.clip(picture, 0, 255).astype(np.uint8))
    return [f"train/{n}.jpg" for n in range(COUNT)]


class Decoded(Dataset):
    def __init__(self, paths, side):
        self.paths, self.side = paths, side

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, n):
        image = cv2.cvtColor(cv2.imread(str(self.paths[n])), cv2.COLOR_BGR2RGB)
        if self.side != SIDE:
            image = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(image), n


def rows():
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            names = draw(CompetitionFiles("bench").data / "train")
            for side in SEEN:
                yield measured(names, side)
        finally:
            os.chdir(home)


def measured(names, side):
    machine, files = Machine("cpu", "fp32", 1), CompetitionFiles("bench")
    machine.prepare()
    paths = np.array(names)
    digests = np.array([combined([digest_file(files.data / name)]) for name in names])
    size = sum((files.data / name).stat().st_size for name in names) / COUNT / 1000
    started = time.perf_counter()
    images = Rows(
        [cached(files, paths, digests, Images(pattern="train/{id}.jpg"), (side, side))[0]], np.zeros((COUNT, 0))
    )
    once = time.perf_counter() - started
    batches = Batches(Lessons.of(np.arange(COUNT)), BATCH, 0, 100)
    ours = feed(Views(images, augmenter("none"), 0), batches, machine)
    theirs = DataLoader(Decoded([files.data / name for name in names], side), BATCH, shuffle=True)

    def wait(given):
        batches.epoch, total = batches.epoch + 1, 0
        for pixels, _ in given:
            total += int(pixels[:, 0, 0, 0].sum())
            del pixels  # as the training loop does
        return total

    part = (
        f"data wait of an epoch from the second on, {COUNT} JPEGs of {SIDE} x {SIDE} ({size:.0f} kB), seen at {side} px"
    )
    row, mine, his = race(
        part,
        "opencv in a DataLoader",
        lambda: wait(ours),
        lambda: wait(theirs),
        20,
        clock=time.process_time,
        before=lambda: (images.parts[0].sum(), [(files.data / name).read_bytes() for name in names]),
    )
    plain = []
    for n in range(5):
        images.parts[0].sum()
        some, start = np.random.default_rng(n).permutation(COUNT).reshape(-1, BATCH), time.process_time()
        for batch in some:
            np.take(images.parts[0], batch, 0)
        plain.append((time.process_time() - start) / COUNT * 1e6)
    note = f"{row.ours / COUNT * 1e6:.0f} against {row.theirs / COUNT * 1e6:.0f} us an image (CPU), no worker on either side; to copy the pixels alone takes {np.median(plain):.0f}; decoded once, for all folds and runs, in {once:.1f} s"
    return type(row)(**{**vars(row), "note": note, "good": mine == his})


if __name__ == "__main__":
    main(rows)
