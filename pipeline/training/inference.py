"""Ways to predict that round more than training does: chosen once a run, the same for every row of every fold."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.nets.machine import Machine
from pipeline.nets.models import Network
from pipeline.training.job import Job, new_network, without_weights
from pipeline.training.predict import views_of

log = logging.getLogger(__name__)
CHUNK = 32
# Two ways to compute the same maps may differ by this share of their spread; what differs more computes others.
NEAR = 0.05
Maps = Callable[[Tensor], Tensor]


class Seer(nn.Module):
    """A backbone whose feature maps are computed in another way, from chunks of one size, and returned as float32."""

    def __init__(self, backbone: Any, see: Maps) -> None:
        super().__init__()
        self.num_features = backbone.num_features
        self.num_prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)
        self.see = see

    def forward_features(self, x: Tensor) -> Tensor:
        """Return feature maps; the last chunk is filled up, so that a row never depends on how many there are."""
        parts = []
        for part in torch.split(x, CHUNK):
            full = torch.cat([part, part[-1:].expand(CHUNK - len(part), *part.shape[1:])])
            parts.append(self.see(full.contiguous(memory_format=torch.channels_last))[: len(part)].float())
        return torch.cat(parts)


def rounded(backbone: Any, side: list[int], channels: int) -> Maps:
    """Return what computes the maps in bfloat16."""

    def see(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return backbone.forward_features(x)  # type: ignore[no-any-return]

    return see


def traced(backbone: Any, side: list[int], channels: int) -> Maps:
    """Return the same frozen into one graph: norms folded into filters, what follows a filter done with it (oneDNN)."""

    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone.forward_features(x)  # type: ignore[no-any-return]

    x = torch.rand(CHUNK, channels, *side).contiguous(memory_format=torch.channels_last)
    torch.jit.enable_onednn_fusion(True)
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        warnings.simplefilter("ignore")  # torch would rather have us compile, which takes 20 s a model to gain no more
        graph: Any = torch.jit.freeze(torch.jit.trace(Forward().eval(), x, check_trace=False))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        for _ in range(2):  # it is put together at the second call
            graph(x)
    return lambda x: graph(x)


WAYS: dict[str, Callable[[Any, list[int], int], Maps]] = {"bf16": rounded, "traced": traced}


def ready(network: Network, way: str, side: list[int]) -> Network:
    """Return a network that predicts in a way (`same`: as it trained), for images of height and width `side`."""
    if way == "same":
        return network
    twin = Machine("cpu", "fp32", 1).place(copy.deepcopy(network)).eval()
    twin.backbone = Seer(twin.backbone, WAYS[way](twin.backbone, side, twin.mean.shape[1]))
    return twin


def with_inference(job: Job) -> Job:
    """Return the job with the way to predict that its machine chooses, where `predict.fastest` asks it to.

    What a way costs to prepare counts for every model, so that small jobs stay as they are.
    """
    if not job.config.predict.fastest or job.machine.inference:
        return job
    network = job.machine.place(new_network(without_weights(job))).eval()
    views = 1 + len(views_of(job.config.predict.tta, job.config.image.crop))
    images = views * (len(job.table.scored) + len(job.table.test))
    found = {"same": measure(network, job.machine, job.seen, images, "same")}
    for way in WAYS if job.machine.device == "cpu" else ():
        try:
            found[way] = measure(network, job.machine, job.seen, images, way)
        except Exception as error:  # what a backbone does may be beyond a compiler in any way
            log.debug("%s: %s cannot predict: %s", job.files.run, way, error)
    way = min(found, key=lambda name: found[name])
    way = way if found[way] < 0.9 * found["same"] else "same"
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items())
    log.info("%s: predict.fastest = true is %r on this machine (forecast a model: %s)", job.files.run, way, told)
    return replace(job, machine=replace(job.machine, inference=way))


@torch.inference_mode()
def measure(network: Network, machine: Machine, side: list[int], images: int, way: str) -> float:
    """Return the seconds that a model takes to predict so many images in a way, preparation included."""
    x = torch.rand(CHUNK, network.views * network.mean.shape[1], *side, device=machine.device)
    x = x.contiguous(memory_format=torch.channels_last)
    with machine.autocast():
        plain = network.features(x)
    started = time.perf_counter()
    twin = ready(network, way, side)
    prepared = time.perf_counter() - started
    took = []
    for _ in range(3):
        started = time.perf_counter()
        with machine.autocast():
            seen = twin.features(x)
        took.append(time.perf_counter() - started)
    off = float((seen - plain).float().abs().mean() / plain.float().std().clamp(min=1e-6))
    if off > NEAR:
        raise ValueError(f"features differ by {off:.3f} of their spread")
    return prepared + min(took) * images / CHUNK
