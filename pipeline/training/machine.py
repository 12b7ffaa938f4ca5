"""The machine a run is on: device, precision, threads; how batches get there, and what to do when they do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import Tensor

from pipeline.store.command import setting
from pipeline.store.errors import UserError


@dataclass(frozen=True)
class Machine:
    """What the machine chose: device, precision, threads, and the batch size where it is asked for (else 0).

    It is stored with the run and reused on resume.
    """

    device: str
    precision: str
    threads: int
    batch_size: int = 0

    def autocast(self) -> Any:
        """Return the context in which forward passes run."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device, dtype=dtype) if dtype else contextlib.nullcontext()

    def prepare(self) -> None:
        """Set threads and, on a CPU, determinism."""
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(0)
        # use_deterministic_algorithms says the same, and spends a second on importing what compiles networks.
        torch.set_deterministic_debug_mode("error" if self.device == "cpu" else "default")
        torch.backends.cudnn.benchmark = self.device == "cuda"


def choose_machine(precision: str, jobs: int = 1) -> Machine:
    """Choose what to run on; precision `auto` is bf16 where a GPU has it, fp16 on other GPUs, fp32 on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if device == "cuda" else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError('precision = "fp16" needs a GPU; use "fp32" or "bf16"')
    return Machine(device, precision, setting("PODIUM_THREADS", max(torch.get_num_threads() // jobs, 1), least=1))


def to_device(images: Tensor, machine: Machine) -> Tensor:
    """Move N H W C integers (or floats in 0..1) to the device as N C H W in 0..1."""
    full = {torch.uint8: 255, torch.uint16: 65535}.get(images.dtype, 1)
    moved = images.to(machine.device, non_blocking=True).permute(0, 3, 1, 2)
    return moved.to(torch.float32, memory_format=torch.channels_last) / full


def out_of_memory(error: RuntimeError) -> bool:
    """Say whether an error is that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def memory_advice(batch_size: int, accumulate: int, views: Tensor) -> Iterator[None]:
    """Turn running out of memory into advice."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        size = f"{views.shape[1]} x {views.shape[2]}"
        raise UserError(
            f"out of memory at batch_size = {batch_size}, optim.accumulate = {accumulate}, images {size}: "
            f"set optim.accumulate = {2 * accumulate} (same result, half the memory) or a smaller image.size"
        ) from error
