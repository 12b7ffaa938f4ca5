"""The batch size that a machine chooses: probed once, stored with the run, reused on resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from pipeline.store.errors import UserError
from pipeline.training.job import Job, any_network, without_weights
from pipeline.training.machine import Machine, out_of_memory
from pipeline.training.mask_nets import MaskNetwork
from pipeline.training.models import Network
from pipeline.training.optim import adamw, parameter_groups

log = logging.getLogger(__name__)

# Batch norm is noisy below it, however fast it may be.
SMALLEST = 16
LARGEST = {"cpu": 64, "cuda": 512}


def with_batch_size(job: Job) -> Job:
    """Return the job with the batch size its machine chooses, where the config asks for it and none is stored."""
    if job.config.batch_size != "auto" or job.machine.batch_size:
        return job
    network = any_network(without_weights(job)).to(job.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # An epoch of fewer than about ten steps moves too little, however fast they are.
    most = min(LARGEST[job.machine.device], len(job.table.scored) // 10)
    try:
        size = fastest(partial(images_per_second, network, job.machine, job.seen), most)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        what = f"{SMALLEST} images of {job.seen[0]} x {job.seen[1]} do not fit"
        raise UserError(
            f'{job.files.config}: batch_size = "auto": {what}: set batch_size, or a smaller image'
        ) from error
    log.info("%s: batch_size = auto is %d on this machine", job.files.run, size)
    return replace(job, machine=replace(job.machine, batch_size=size))


def fastest(speed: Callable[[int], float], most: int) -> int:
    """Return the batch size, doubled up to `most` while it makes images per second rise by a tenth and fits."""
    size, best = SMALLEST, speed(SMALLEST)
    while 2 * size <= most:
        try:
            faster = speed(2 * size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        if faster < 1.1 * best:
            break
        size, best = 2 * size, faster
    return size


def images_per_second(
    network: Network | MaskNetwork, machine: Machine, side: list[int], size: int, repeats: int = 3
) -> float:
    """Return how many images of height and width `side` a machine learns from in a second, the best of a few steps."""
    network.train()
    optim, seconds = adamw(parameter_groups(network, 0.0), 1e-4, 0.9), []
    x = torch.rand(size, network.views * network.mean.shape[1], *side, device=machine.device)
    x = x.contiguous(memory_format=torch.channels_last)
    for _ in range(1 + repeats):
        started = time.perf_counter()
        with machine.autocast():
            loss = network(x).float().square().mean()
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)
        if machine.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return size / min(seconds[1:])  # the first one warms up
