"""The machine a run is on: device, precision, threads; how batches get there, and what to do when they do not fit."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import torch
from torch import Tensor, nn

from pipeline.nets.small_maps import as_products
from pipeline.store.command import setting
from pipeline.store.errors import UserError

N = TypeVar("N", bound=nn.Module)
LAYOUTS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}


@dataclass(frozen=True)
class Machine:
    """What the machine chose: device, precision, threads, and the batch size where it is asked for (else 0).

    Where `fastest` is asked for also the layout of tensors, whether kernels are `quick` (a fused optimiser, products on
    small maps), and the `gain` that this promised in images per second (0: nobody asked); where `predict.fastest` is, a
    way to predict (see `inference`). It is stored with the run and reused on resume.
    """

    device: str
    precision: str
    threads: int
    batch_size: int = 0
    layout: str = "channels_last"
    quick: bool = False
    gain: float = 0.0
    inference: str = ""

    def autocast(self) -> Any:
        """Return the context in which forward passes run."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device, dtype=dtype) if dtype else contextlib.nullcontext()

    def place(self, network: N) -> N:
        """Move a network to the device, its weights laid out and its filters applied as chosen."""
        as_products(network, self.quick)
        network.to(self.device, memory_format=LAYOUTS[self.layout])  # type: ignore[call-overload]
        return network

    def fuse(self, optim: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let an optimiser that can do so update all weights in one pass, if that was chosen."""
        for group in optim.param_groups if self.quick else []:
            # Adagrad counts its steps on the CPU unless it was born fused.
            if "fused" in group and not isinstance(optim, torch.optim.Adagrad):
                group |= {"fused": True, "foreach": False}
        return optim

    def prepare(self) -> None:
        """Set threads and, on a CPU, determinism."""
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(0)
        # use_deterministic_algorithms says the same, and spends a second on importing what compiles networks.
        torch.set_deterministic_debug_mode("error" if self.device == "cpu" else "default")
        # What it fills helps to debug only, and costs 6 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = self.device == "cuda"
        if sys.platform == "linux" and self.device == "cpu":
            _keep_memory()


def choose_machine(precision: str, jobs: int = 1) -> Machine:
    """Choose what to run on; precision `auto` is bf16 where a GPU has it, fp16 on other GPUs, fp32 on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if device == "cuda" else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError('precision = "fp16" needs a GPU; use "fp32" or "bf16"')
    return Machine(device, precision, setting("PODIUM_THREADS", max(torch.get_num_threads() // jobs, 1), least=1))


def _keep_memory() -> None:
    """Let the C library keep freed blocks (up to 1 GB) for the next step, which else pays for every page again.

    A batch of 64 at 224 px is scaled to floats in 40 % of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**30)


def to_device(images: Tensor, machine: Machine) -> Tensor:
    """Move N H W C integers (or floats in 0..1) to the device as N C H W in 0..1."""
    moved = images.to(machine.device, non_blocking=True).permute(0, 3, 1, 2)
    return unit(moved.to(memory_format=LAYOUTS[machine.layout]))


def unit(x: Tensor) -> Tensor:
    """Return integers (or floats in 0..1) as floats in 0..1."""
    full = {torch.uint8: 255, torch.uint16: 65535}.get(x.dtype)
    return x.to(torch.float32) / full if full else x


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
