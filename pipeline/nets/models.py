"""Networks: any timm backbone (or the small CNN below), a pooling, dropout, and a Kaiming-initialised head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.nets.last import fresh_head, fresh_neck
from pipeline.nets.normalize import by_image, fixed, standard
from pipeline.nets.pooling import AGGREGATES, POOLS, Beside
from pipeline.nets.small_cnn import SmallCNN
from pipeline.nets.trunk import Scales, as_map, levels, set_activation, with_drop_path
from pipeline.store.errors import UserError, nearest, resolve
from pipeline.tasks import Several, Task

MODELS: dict[str, Callable[..., Any]] = {"cnn": SmallCNN}


def central(x: Tensor, side: int) -> Tensor:
    """Return the central `side` x `side` of N C H W, 0 for all of it."""
    if not side or x.shape[2:] == (side, side):
        return x
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    return x[:, :, top : top + side, left : left + side]


class Network(nn.Module):
    """Crop, normalise, backbone, pool, dropout, head; the normalisation of pixels happens here, on the device.

    Input N C H W in 0..1, or bytes where it `reads_bytes` (several views: N VC H W), of which only the central `crop`
    is seen (0: all), and metadata N M; output N D raw scores. `center` and `spread` undo the standardisation of
    `values` targets; `extra` last scores are of no real class. `scales` are the widths of the maps that are joined
    (none: the last one alone). In training further columns follow: `aux` scores of auxiliary targets, then D of each
    further dropout mask, then (`show`) F pooled features. `neck`, `bias` and `cosine` (the scale of a cosine head) are
    those of metric learning.
    """

    center: Tensor
    spread: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Any,
        channels: int,
        outputs: int,
        pool: str,
        dropout: float,
        normalize: str,
        values: int = 1,
        extra: int = 0,
        views: int = 1,
        aggregate: str = "mean",
        meta: int = 0,
        beside: int = 32,
        crop: int = 0,
        scales: Sequence[int] = (),
        unit: bool = False,
        aux: int = 0,
        dropouts: int = 1,
        neck: bool = False,
        bias: bool = True,
        cosine: float = 0.0,
        show: bool = False,
    ) -> None:
        super().__init__()
        self.extra, self.views, self.crop, self.normalize, self.dropouts = extra, views, crop, normalize, dropouts
        self.reads_bytes = normalize not in ("image", "group")
        self.backbone = backbone
        self.pool = POOLS[pool]()
        self.dropout = nn.Dropout(dropout)
        self.scales = Scales(len(scales), unit) if scales else None
        width = (sum(scales) or backbone.num_features) * (2 if pool == "catavgmax" else 1)
        self.gather = AGGREGATES[aggregate](width) if views > 1 else None
        self.beside = Beside(meta, beside) if meta else None
        self.neck, self.show, self.width = fresh_neck(width) if neck else None, show, width
        width += beside if meta else 0
        self.head: Any = fresh_head(width, outputs + extra, bias, cosine)
        self.auxiliary = fresh_head(width, aux) if aux else None
        for name, value in zip(("mean", "std"), fixed(normalize, channels), strict=True):
            # What was measured on the training rows belongs to the weights.
            self.register_buffer(name, value, persistent=normalize == "train")
        self.register_buffer("center", torch.zeros(values))
        self.register_buffer("spread", torch.ones(values))

    def features(self, x: Tensor) -> Tensor:
        """Return features N F of the image as the head sees them, before dropout."""
        return self.normed(self.pooled(x))

    def normed(self, pooled: Tensor) -> Tensor:
        """Return pooled features N F behind the neck."""
        return pooled if self.neck is None else self.neck(pooled)

    def pooled(self, x: Tensor) -> Tensor:
        """Return pooled features N F of the image; the views of a row (N VC H W) become one."""
        x = central(x, self.crop)
        if self.gather is None:
            return self.look(x)
        split = x.reshape(len(x) * self.views, -1, *x.shape[2:])
        seen = (split != 0).flatten(1).any(1).view(len(x), self.views)  # one that is missing is black
        split = split.contiguous(memory_format=torch.channels_last)
        return self.gather(self.look(split).view(len(x), self.views, -1), seen | ~seen.any(1, keepdim=True))

    def look(self, x: Tensor) -> Tensor:
        """Return pooled features of single views."""
        x = by_image(x) if self.normalize == "image" else standard(x, self.mean, self.std)
        if self.scales is not None:
            return self.scales([self.pool(maps) for maps in levels(self.backbone, x)])  # type: ignore[no-any-return]
        return self.pool(as_map(self.backbone, self.backbone.forward_features(x)))

    def joined(self, features: Tensor, meta: Tensor | None = None) -> Tensor:
        """Return what the head sees of image features (N F) and metadata (N M)."""
        if self.beside is None:
            return features
        # Without metadata (batch norm is measured so) every row is a mean row.
        meta = self.beside.center.expand(len(features), -1) if meta is None else meta
        return torch.cat([features, self.beside(meta)], 1)

    def classify(self, features: Tensor, meta: Tensor | None = None) -> Tensor:
        """Return raw scores N D of image features (N F) and metadata (N M); in training further columns follow."""
        seen = self.joined(self.dropout(features), meta)
        parts = [self.head(seen)]
        if self.training:
            parts += [] if self.auxiliary is None else [self.auxiliary(seen)]
            parts += [self.head(self.joined(self.dropout(features), meta)) for _ in range(self.dropouts - 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def forward(self, x: Tensor, meta: Tensor | None = None) -> Tensor:
        """Return raw scores N D."""
        pooled = self.pooled(x)
        scores = self.classify(self.normed(pooled), meta)
        return torch.cat([scores, pooled], 1) if self.show and self.training else scores


def build(
    name: str,
    *,
    weights: str,
    options: dict[str, Any],
    channels: int,
    size: Sequence[int],
    multiscale: str = "none",
    act: str = "own",
    drop_path: float = 0.0,
    **head: Any,
) -> Network:
    """Build a network by backbone name: `cnn`, an import path, or any timm model."""
    options = {"in_chans": channels, **options}
    if name in MODELS or ":" in name:
        if weights != "none":
            raise UserError(
                f'model.weights = "{weights}": only timm models have weights to load; use "none" with {name!r}'
            )
        builder = resolve(MODELS, name, "model")
        backbone = with_drop_path(lambda more: _call(builder, name, **more), options, drop_path, name)
    else:
        backbone = with_drop_path(lambda more: _timm(name, weights, more, size), options, drop_path, name)
    set_activation(backbone, act, name)
    try:
        backbone.eval()
        with torch.no_grad():
            seen = torch.zeros(1, channels, *size)
            if multiscale == "none":
                backbone.forward_features(seen)
            else:
                head["scales"] = [maps.shape[1] for maps in levels(backbone, seen)]
        return Network(backbone.train(), channels, unit=multiscale == "concat_l2", **head)
    except (RuntimeError, AssertionError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"model {name!r} cannot take {channels} x {size[0]} x {size[1]} images: {why}") from error


def _timm(name: str, weights: str, options: dict[str, Any], size: Sequence[int]) -> Any:
    import timm

    if not timm.is_model(name):
        raise UserError(f"unknown model {name!r}; {nearest(name, [*MODELS, *timm.list_models()])}")
    if weights not in ("none", "pretrained"):
        if not Path(weights).exists():
            raise UserError(f'model.weights: {weights} does not exist; give a file, "pretrained" or "none"')
        options["pretrained_cfg_overlay"] = {"file": weights}
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise UserError(f"unknown weights tag of model {name!r}; {nearest(name, tags)}") from error
    if published is not None and published.fixed_input_size:
        options.setdefault("img_size", tuple(size))
    try:
        state = torch.get_rng_state()
        backbone = _call(timm.create_model, name, name, pretrained=weights != "none", num_classes=0, **options)
        if weights not in ("none", "pretrained"):
            torch.set_rng_state(state)
            fresh = timm.create_model(name, num_classes=0, **options)
            require_loaded(backbone, dict(fresh.named_parameters()), weights)
        if hasattr(backbone, "pre_logits"):  # of VGG's own head: 120 of 134 million weights, which no feature passes
            backbone.pre_logits = nn.Identity()
        return backbone
    except UserError:
        raise
    except Exception as error:
        if weights == "none":
            raise UserError(f"model {name!r} cannot be built: {error}") from error
        why = str(error).splitlines()[0]
        raise UserError(
            f'weights of {name!r} cannot be loaded ({why}): check the network, or set model.weights to a file or "none"'
        ) from error


def require_loaded(backbone: nn.Module, drawn: dict[str, Tensor], weights: str) -> None:
    """Refuse a file that lacks weights (they are still as they were `drawn`): timm only logs them, and trains on."""
    for name, value in backbone.named_parameters():
        if value.ndim > 1 and torch.equal(value, drawn[name]) and value.min() < value.max():
            raise UserError(f"model.weights: {weights} has no weights for {name!r}: it belongs to another model")


def _call(builder: Callable[..., Any], name: str, /, *args: Any, **options: Any) -> Any:
    try:
        return builder(*args, **options)
    except TypeError as error:
        out = "model.options = {} takes those of a base out"
        raise UserError(f"model.options do not fit {name!r}: {error}; {out}") from error


def outputs_of(task: Task, head: str, classes: int) -> int:
    """Return how many raw scores the head gives."""
    if task.name == "ordinal":
        c = classes
        return {"regression": 1, "classification": c, "both": c + 1, "cumulative": c - 1, "all": 2 * c}[head]
    return task.width(classes)


def to_prediction(task: Task, head: str, scores: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """Turn raw scores N D into predictions N P (see `pipeline.tasks`)."""
    scores = scores.float()
    if isinstance(task, Several):
        each = [(p.task, p.task.heads[0], scores[:, p.p], center[p.p], spread[p.p]) for p in task.pieces]
        return torch.cat([to_prediction(*one) for one in each], 1)
    if task.name == "multiclass":
        return scores.softmax(1)
    if task.probabilities:
        return scores.sigmoid()
    if head == "regression":
        return scores * spread + center
    if head == "cumulative":  # the expected grade is the sum of the probabilities to be above each
        return scores.sigmoid().sum(1, keepdim=True)
    classes = {"classification": scores.shape[1], "both": scores.shape[1] - 1, "all": scores.shape[1] // 2}[head]
    grades = torch.arange(classes, device=scores.device, dtype=scores.dtype)
    expected = (scores[:, :classes].softmax(1) * grades).sum(1, keepdim=True)
    if head == "classification":
        return expected
    value = scores[:, -1:] * spread + center
    if head == "both":
        return (expected + value) / 2
    return (expected + scores[:, classes:-1].sigmoid().sum(1, keepdim=True) + value) / 3
