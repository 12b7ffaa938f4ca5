"""What images look like to a frozen encoder: computed once, kept by the content of the images and of the weights."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.images.cache import cached
from pipeline.nets.machine import choose_machine
from pipeline.nets.models import build
from pipeline.scoring.clusters import FLAT
from pipeline.scoring.features import unit
from pipeline.store.artifacts import CompetitionFiles, FoldFiles
from pipeline.store.config import Images
from pipeline.store.encoder import Encoder
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_json, lock, read_npy, write_npy
from pipeline.store.keys import own_code
from pipeline.training.predict import embed
from pipeline.training.weights import header_of

log = logging.getLogger(__name__)
BATCH = 64


def encode(files: CompetitionFiles, paths: Array, digests: Array, images: Images, how: Encoder) -> Array:
    """Return pooled features of images (N F, float32) at length 1; 0 of one that is flat or cannot be read."""
    contract = images.model_dump()
    key = digest(*digests, digest_json([how.facts(), contract, own_code(contract)]))
    target = files.features / f"{key}.npy"
    with lock(target.with_suffix(".lock"), f"the features of {files.name}"):
        if not target.exists():
            started = time.monotonic()
            write_npy(target, _see(cached(files, paths, digests, images, (how.size, how.size))[0], images, how))
            log.info("%s: looks of %d images in %.1f s", how.name, len(paths), time.monotonic() - started)
    return np.asarray(read_npy(target))


def _see(decoded: Array, images: Images, how: Encoder) -> Array:
    """Return the features of decoded images (N H W C)."""
    file = Path(how.weights)
    if how.weights != "pretrained" and not file.is_file():
        raise UserError(f'encoder.weights: {how.weights} does not exist; give a file, or "pretrained"')
    machine = choose_machine("fp32")
    machine.prepare()
    with torch.random.fork_rng([]):  # what is drawn after must not hang on whether the features were kept
        network = build(
            how.name, weights=how.weights, options={}, channels=images.width, views=images.views,
            size=(how.size, how.size), outputs=1, pool="avg", dropout=0.0, normalize="imagenet",
        )  # fmt: skip
    if file.suffix == FoldFiles(file.parent).model.suffix and header_of(file):  # a copy of what a run has learnt
        raise UserError(f"encoder.weights: {how.weights} is of a run, and has learnt labels: take other weights")
    seen = [part.numpy() for part, _ in embed(network, decoded, machine=machine, batch_size=BATCH)]
    x = unit(np.concatenate(seen).astype(np.float32))  # half precision tells lengths to a thousandth only
    full = np.iinfo(decoded.dtype).max if decoded.dtype.kind == "u" else 1
    x[[float(image.std()) < FLAT * full for image in decoded]] = 0  # as is one that cannot be read: black
    return x
