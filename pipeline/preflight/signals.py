"""What goes through a network before its first step: activations forward, gradients backward, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.preflight.findings import BROKEN, Finding, judged, worse
from pipeline.preflight.learner import loss_of, without_dropout
from pipeline.preflight.material import Batch, Material

# Outputs were up to 5.9 in rms, and .01 to .7 of the features' energy differed between images, over six networks (small
# CNN, ResNet, ViT, EfficientNet, ConvNeXt) for five tasks, 6 to 20 seeds each, and the U-Nets of blobs and nuclei.
LOUD, ALIKE = (1e3, 1e6), (1e3, 1e5)
# Layers whose silence is their purpose.
QUIET = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


@dataclass(frozen=True)
class Layer:
    """A layer: rms of its outputs, the share of its channels that say the same everywhere, rms of its gradient."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: float
    still: float
    gradient: float | None


def signals(material: Material, batch: Batch) -> tuple[list[Layer], float, float]:
    """Return what each layer says, in the order of the forward pass, how much features differ, and the loss."""
    network = material.network()
    without_dropout(network)
    found: dict[str, tuple[str, tuple[int, ...], float, float]] = {}
    pooled: list[Tensor] = []

    def listen(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.is_floating_point():
                found[name] = (type(module).__name__, tuple(out.shape[1:]), *heard(out.detach()))

        return hook

    for name, module in network.named_modules():
        if not list(module.children()) and not isinstance(module, QUIET):
            module.register_forward_hook(listen(name))
    network.head.register_forward_pre_hook(lambda module, given: pooled.append(given[0].detach().float()))
    loss = loss_of(material, network, batch).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = gradients(network)
    layers = [Layer(name, *told, slopes.get(name)) for name, told in found.items()]
    return layers, differing(pooled[0]), float(loss.detach())


def heard(out: Tensor) -> tuple[float, float]:
    """Return the rms of outputs (N C ...), and the share of channels that have one value everywhere."""
    out = out.float()
    last = out.ndim == 3  # tokens have their channels last
    channels = out.flatten(0, 1).T if last else out.transpose(0, 1).flatten(1)
    spread = channels.std(1, correction=0)
    return float(out.square().mean().sqrt()), float((spread <= 1e-6 * spread.max().clamp(min=1e-12)).float().mean())


def gradients(network: nn.Module) -> dict[str, float]:
    """Return the rms of the gradient of each layer with a weight matrix or filter."""
    found = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and weight.grad is not None:
            found[name] = float(weight.grad.float().square().mean().sqrt())
    return found


def differing(features: Tensor) -> float:
    """Return the share of the energy of features (N F ...) that is not the same in every row."""
    flat = features.flatten(1).double()
    total = flat.square().sum()
    return float((flat - flat.mean(0)).square().sum() / total) if total > 0 else 0.0


def flow(material: Material, batch: Batch) -> tuple[Finding, list[Layer]]:
    """Ask whether images reach the head and gradients the first layer, neither fading nor exploding on the way."""
    layers, differs, loss = signals(material, batch)
    sizes = [layer.size for layer in layers]
    slopes = [layer.gradient for layer in layers if layer.gradient is not None]
    words = f"rms {min(sizes):.1e} to {max(sizes):.1e}, gradients {min(slopes, default=0):.1e} to "
    words += f"{max(slopes, default=0):.1e}, {differs:.1%} of the features' energy differs between images"
    verdict, advice = judged_flow(layers, differs, loss)
    return Finding("signals", verdict, words, advice), layers


def judged_flow(layers: list[Layer], differs: float, loss: float) -> tuple[str, str]:
    """Return the verdict on what goes through a network, and the advice."""
    loud = max(layers, key=lambda layer: layer.size)
    if not math.isfinite(loss) or not math.isfinite(loud.size):
        return BROKEN, f"not finite: weights start too large (look at {loud.name}) or pixels are not normalised"
    first = next((layer for layer in layers if layer.gradient is not None), None)
    if differs < 1e-6:
        return BROKEN, "the head is told the same of every image: some layer on the way is dead (all weights 0?)"
    if first is not None and not first.gradient:
        return BROKEN, f"no gradient reaches {first.name}: a layer after it has weights of 0, or is cut off"
    verdict = worse(judged(loud.size, *LOUD), judged(1 / max(differs, 1e-9), *ALIKE))
    return verdict, f"signals fade or explode (most at {loud.name}): look at the initial weights, add norms"
