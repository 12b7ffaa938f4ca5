"""Networks that give masks: segmentation-models-pytorch by name, or our own small U-Net, and heads beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.nets.mask_objective import SURE, Heads
from pipeline.nets.models import require_loaded
from pipeline.nets.normalize import by_image, fixed
from pipeline.nets.small_unet import SmallUNet
from pipeline.store.errors import UserError, nearest, resolve

# Those of segmentation-models-pytorch that share its ways; what is asked of dpt differs.
PUBLISHED = (
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
)
OWN: dict[str, Callable[..., Any]] = {"small_unet": SmallUNet}


@dataclass(frozen=True)
class Extras:
    """What is added to a network: coordinates of pixels as channels, features of all levels before the head."""

    coordinates: bool = False
    hypercolumn: bool = False
    dropout: float = 0.0
    normalize: str = "imagenet"


class MaskNetwork(nn.Module):
    """Normalise, encode, decode; one flat row of scores an image (see `Heads`). Input N C H W in 0..1.

    `presence` asks of each class whether it is in the image, from the coarsest features of the encoder (without it
    the answer is yes); further heads answer in training alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: Any, heads: Heads, channels: int, presence: bool, extras: Extras, size: Sequence[int]
    ) -> None:
        super().__init__()
        self.views = 1
        self.heads, self.extras, self.stride = heads, extras, int(net.encoder.output_stride)
        self.backbone, self.decoder = net.encoder, net.decoder
        self.dropout = nn.Dropout2d(extras.dropout)
        coarsest = net.encoder.out_channels[-1]
        self.presence = nn.Linear(coarsest, heads.classes) if presence else None
        self.sizes = nn.Linear(coarsest, heads.sizes) if heads.sizes else None
        for name, value in zip(("mean", "std"), fixed(extras.normalize, channels), strict=True):
            self.register_buffer(name, value, persistent=extras.normalize == "train")
        self.caught: list[Tensor] = []
        blocks = _supervised(net)[: len(heads.deep)]
        for block, _ in blocks:
            block.register_forward_hook(self._catch)
        decoded, features = self._measure(channels + 2 * extras.coordinates, size)
        self.deep = nn.ModuleList(nn.Conv2d(seen.shape[1], heads.classes, 1) for seen in self.caught[::-1])
        self.head = net.segmentation_head
        if extras.hypercolumn:
            self.head = nn.Conv2d(hypercolumn(decoded, features[1:]).shape[1], heads.maps, 3, padding=1)

    @torch.no_grad()
    def _measure(self, channels: int, size: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Run once on an image of `size`: what does not fit fails here, and the heads learn how wide features are."""
        self.eval()
        features = self.backbone(torch.zeros(1, channels, *size))
        decoded = self.decoder(features)
        self.train()
        return decoded, features

    def _catch(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self.caught.append(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores N D."""
        self.caught.clear()
        shape = x.shape[2:]
        x = by_image(x) if self.extras.normalize == "image" else (x - self.mean) / self.std
        if self.extras.coordinates:
            x = torch.cat([x, coordinates(x)], 1)
        features = self.backbone(x)
        decoded = self.decoder(features)
        if self.extras.hypercolumn:
            decoded = hypercolumn(decoded, features[1:])
        maps = self.head(self.dropout(decoded))
        if maps.shape[2:] != shape:
            maps = functional.interpolate(maps, shape, mode="bilinear", align_corners=False)
        pooled = features[-1].mean((2, 3))
        known = x.new_full((len(x), self.heads.classes), SURE) if self.presence is None else self.presence(pooled)
        parts = [maps.flatten(1), known.to(maps.dtype)]
        if self.training:
            parts += [] if self.sizes is None else [self.sizes(pooled)]
            # Blocks answer from coarse to fine, heads are listed from fine to coarse.
            parts += [head(seen).flatten(1) for head, seen in zip(self.deep, self.caught[::-1], strict=True)]
        self.caught.clear()
        return torch.cat([part.to(maps.dtype) for part in parts], 1)


def coordinates(x: Tensor) -> Tensor:
    """Return two channels (N 2 H W): height and width of each pixel, -1 to 1 (CoordConv, Liu 2018)."""
    lines = [torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[2:]]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(len(x), -1, -1, -1)


def hypercolumn(decoded: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Return decoder and encoder features at the decoder's size, each of length 1 at every pixel (Hariharan 2015)."""
    shape = decoded.shape[2:]
    # Some encoders have levels without channels.
    levels = [functional.interpolate(f, shape, mode="bilinear", align_corners=False) for f in features if f.shape[1]]
    return torch.cat([functional.normalize(part, dim=1) for part in (decoded, *levels)], 1)


def _supervised(net: Any) -> list[tuple[nn.Module, int]]:
    """Return the blocks of a decoder whose maps may be supervised, from fine to coarse, and their strides."""
    if hasattr(net, "supervised"):
        return list(net.supervised)
    if type(net).__name__ != "UnetPlusPlus":
        return []
    # The upper row of the nested decoder: all at half size, the one with the most levels below it first.
    last = net.decoder.depth - 1
    return [(net.decoder.blocks[f"x_{k}_{last}"], 2) for k in range(last + 1)]


def build_masks(
    name: str,
    *,
    encoder: str,
    weights: str,
    options: dict[str, Any],
    channels: int,
    size: Sequence[int],
    classes: int,
    extra: int,
    presence: bool,
    sizes: int,
    deep: bool,
    extras: Extras,
) -> MaskNetwork:
    """Build a network of masks by name; what does not fit an image of `size` is told."""
    inputs = channels + 2 * extras.coordinates
    if name in OWN or ":" in name:
        if weights != "none":
            raise UserError(f'model.weights = "{weights}": {name!r} has no weights to load; use "none"')
        net = _called(resolve(OWN, name, "model"), name, inputs, classes + extra, **options)
    else:
        net = _published(name, encoder, weights, inputs, classes + extra, options)
    blocks = _supervised(net) if deep else []
    if deep and not blocks:
        raise UserError(
            f'loss.deep: the decoder of {name!r} has one map alone; use "unetplusplus" or "small_unet" of 3 levels'
        )
    heads = Heads(classes, extra, sizes, tuple(stride for _, stride in blocks))
    try:
        return MaskNetwork(net, heads, channels, presence, extras, size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        stride, why = int(net.encoder.output_stride), " ".join(str(error).split())
        if any(side % stride for side in size):
            why = f'sides must be multiples of {stride}, or image.fit = "pad" to such a size'
        raise UserError(f"model {name!r} cannot take {channels} x {size[0]} x {size[1]} images: {why}") from error


def _published(name: str, encoder: str, weights: str, inputs: int, outputs: int, options: dict[str, Any]) -> Any:
    import segmentation_models_pytorch as smp
    import timm

    if name not in PUBLISHED:
        raise UserError(f"unknown model {name!r}; {nearest(name, [*PUBLISHED, *OWN])}")
    known: list[str] = smp.encoders.get_encoder_names()
    own = encoder in known or encoder.startswith("tu-")
    if (not own and not timm.is_model(encoder)) or (encoder.startswith("tu-") and not timm.is_model(encoder[3:])):
        raise UserError(f"unknown model.encoder {encoder!r}; {nearest(encoder, [*known, *timm.list_models()])}")
    encoder = encoder if own else f"tu-{encoder}"
    if weights not in ("none", "pretrained") and not Path(weights).exists():
        raise UserError(f'model.weights: {weights} does not exist; give a file, "pretrained" or "none"')
    kind = next(c for c in vars(smp).values() if isinstance(c, type) and c.__name__.lower() == name)
    takes = [p.name for p in signature(kind).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    for option in options:
        # What a decoder does not know smp hands on to the encoder, and its own encoders pass over it.
        if option not in takes and not encoder.startswith("tu-"):
            raise UserError(f"model.options: {name!r} takes no {option!r}; {nearest(option, takes)}")
    loaded = None if weights != "pretrained" else True if encoder.startswith("tu-") else "imagenet"

    def make(loaded: Any) -> Any:
        given = {"encoder_weights": loaded, "in_channels": inputs, "classes": outputs, **options}
        return _called(smp.create_model, name, name, encoder, **given)

    try:
        net = make(loaded)
    except UserError:
        raise
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"model {name!r} with encoder {encoder!r} cannot be built ({why})") from error
    if weights not in ("none", "pretrained"):
        _load(net.encoder, weights)
    return net


def _load(encoder: nn.Module, path: str) -> None:
    """Load weights of an encoder (safetensors, or of torch) from a file; names may begin with `encoder.`."""
    from safetensors.torch import load_file

    state = (
        load_file(path)
        if Path(path).suffix.endswith("safetensors")
        else torch.load(path, map_location="cpu", weights_only=True)
    )
    state = {name.removeprefix("encoder.").removeprefix("backbone."): value for name, value in state.items()}
    own = encoder.state_dict()
    drawn = {name: value.clone() for name, value in encoder.named_parameters()}
    encoder.load_state_dict({n: v for n, v in state.items() if n in own and own[n].shape == v.shape}, strict=False)
    require_loaded(encoder, drawn, path)


def _called(builder: Callable[..., Any], name: str, /, *args: Any, **options: Any) -> Any:
    try:
        return builder(*args, **options)
    except TypeError as error:
        raise UserError(f"model.options do not fit {name!r}: {error}") from error
