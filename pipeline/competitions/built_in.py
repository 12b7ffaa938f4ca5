"""The built-in competitions, by name: each writes a competition folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.competitions import blobs, digits

MAKERS: dict[str, Callable[[Path], None]] = {
    "digits": digits.make,
    "blobs": blobs.make,
    "blobs-objects": partial(blobs.make, objects=True),
}
