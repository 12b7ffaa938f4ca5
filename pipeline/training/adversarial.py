"""Adversarial training: a step down the loss of inputs, or of weights, that were first moved up it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.store.settings import Adversarial

# Gives the loss of a piece of a batch, images and targets, and its scores.
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Scaler = torch.amp.GradScaler


@dataclass(frozen=True)
class Attack:
    """How inputs or weights are moved, from the share `start` of the epochs on.

    `fgsm` moves each pixel by `eps` (of 0..1) up the loss (Goodfellow 2015), `pgd` in `steps` from a random place
    within it (Madry 2018); half of the loss is of clean images. `awp` moves each weight matrix by `eps` of its length
    along its gradient, and the step is taken down the gradient found there (Wu 2020).
    """

    method: str
    eps: float
    steps: int = 3
    start: float = 0.0

    def descend(self, network: nn.Module, value: Value, scaler: Scaler, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of a piece N C H W, clean and moved; return its loss and its scores, those of clean ones."""
        if self.method == "awp":
            return backward(value, scaler, x, y)
        differentiable(network)
        clean = x.detach().requires_grad_()
        loss, scores = backward(value, scaler, clean, y, 0.5)
        with still(network):
            moved = self._moved(value, scaler, clean, y)
            return loss + backward(value, scaler, moved, y, 0.5)[0], scores

    def _moved(self, value: Value, scaler: Scaler, clean: Tensor, y: Tensor) -> Tensor:
        """Return images that are harder; what is black, as a view that is missing, stays so."""
        x, there = clean.detach(), (clean.detach() != 0).any(3, keepdim=True).any(2, keepdim=True)
        if self.method == "fgsm":
            assert clean.grad is not None
            return (x + self.eps * clean.grad.sign() * there).clamp(0, 1)
        delta = (2 * torch.rand_like(x) - 1) * self.eps
        for _ in range(self.steps):
            at = (x + delta * there).clamp(0, 1).requires_grad_()
            (slope,) = torch.autograd.grad(scaler.scale(value(at, y)[0]), at)
            delta = (delta + 2.5 * self.eps / self.steps * slope.sign()).clamp(-self.eps, self.eps)
        return (x + delta * there).clamp(0, 1)

    def perturb(
        self, network: nn.Module, value: Value, scaler: Scaler, pieces: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        """Put in place of the gradient of a batch, which lies in the weights, that of weights moved along it."""
        if self.method != "awp":
            return
        moved = [p for p in network.parameters() if p.ndim > 1 and p.grad is not None]
        kept = [p.detach().clone() for p in moved]
        with torch.no_grad():
            for p in moved:
                assert p.grad is not None
                p.add_(p.grad * (self.eps * p.norm() / p.grad.norm().clamp(min=1e-12)))
        network.zero_grad(set_to_none=True)
        with still(network):
            for x, y in pieces:
                backward(value, scaler, x, y)
        with torch.no_grad():
            for p, was in zip(moved, kept, strict=True):
                p.copy_(was)


def attack_of(how: Adversarial) -> Attack | None:
    """Return the attack that a config asks for."""
    return None if how.method == "none" else Attack(how.method, how.eps, how.steps, how.start)


def backward(value: Value, scaler: Scaler, x: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Add the gradient of a share of the loss of a piece; return that share and the scores."""
    loss, scores = value(x, y)
    loss = share * loss
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), scores


def differentiable(network: nn.Module) -> None:
    """Put ordinary buffers in the place of those that a prediction has moved: autograd refuses inference tensors."""
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = buffer.clone()


@contextlib.contextmanager
def still(network: nn.Module) -> Iterator[None]:
    """Keep batch-norm statistics, which are of clean images and of the weights that predict, as they are."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    kept = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
