"""What a machine chooses by trying: probed once, stored with the run, reused on resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from pipeline.nets.machine import LAYOUTS, Machine, out_of_memory
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.models import Network
from pipeline.store.errors import UserError
from pipeline.training.job import Job, any_network, without_weights
from pipeline.training.optim import adamw, parameter_groups

log = logging.getLogger(__name__)

# Batch norm is noisy below it, however fast it may be.
SMALLEST = 16
LARGEST = {"cpu": 64, "cuda": 512}
# What is chosen instead of what is usual must be faster by this, twice: less is within the noise of a few steps.
MARGIN = 1.05


def with_batch_size(job: Job) -> Job:
    """Return the job with the batch size its machine chooses, where the config asks for it and none is stored."""
    if job.config.batch_size != "auto" or job.machine.batch_size:
        return job
    network = job.machine.place(any_network(without_weights(job)))
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


def with_fastest(job: Job) -> Job:
    """Return the job with the precision, layout and optimiser kernels that its machine chooses, where it is asked to.

    Half precision is among them only where the config leaves the precision open.
    """
    if not job.config.fastest or job.machine.gain:
        return job
    usual, network = job.machine, any_network(without_weights(job))
    asked = job.config.batch_size
    size = min(asked, 32) if isinstance(asked, int) else 32
    kinds = ["fp32", "bf16"] if (job.config.precision, usual.device) == ("auto", "cpu") else [usual.precision]
    others = [replace(usual, precision=p, layout=m, quick=True) for p, m in product(kinds, LAYOUTS)]
    started = time.monotonic()
    chosen = best_of(lambda machine: images_per_second(network, machine, job.seen, size), usual, others)
    log.info(
        "%s: fastest = true is %s, %s, %s kernels: %.2f times the images per second (probed in %.1f s)",
        job.files.run, chosen.precision, chosen.layout, "quick" if chosen.quick else "usual", chosen.gain,
        time.monotonic() - started,
    )  # fmt: skip
    return replace(job, machine=chosen)


def best_of(speed: Callable[[Machine], float], usual: Machine, others: list[Machine]) -> Machine:
    """Return the fastest way with its gain over the usual one, which stays unless it is beaten clearly, twice."""
    first = {machine: speed(machine) for machine in (usual, *others)}
    best = max(first, key=lambda machine: first[machine])
    if first[best] < MARGIN * first[usual]:
        return replace(usual, gain=1.0)
    again = {machine: max(first[machine], speed(machine)) for machine in (usual, best)}
    gain = again[best] / again[usual]
    return replace(best, gain=round(gain, 3)) if gain >= MARGIN else replace(usual, gain=1.0)


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
    machine.place(network).train()
    optim, seconds = machine.fuse(adamw(parameter_groups(network, 0.0), 1e-4, 0.9)), []
    x = torch.rand(size, network.views * network.mean.shape[1], *side, device=machine.device)
    x = x.contiguous(memory_format=LAYOUTS[machine.layout])
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
