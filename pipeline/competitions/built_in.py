"""The built-in competitions, by name: each writes a competition folder."""

from __future__ import annotations

from functools import partial

from pipeline.competitions import blobs, digits

MAKERS = {"digits": digits.make, "blobs": blobs.make, "blobs-objects": partial(blobs.make, objects=True)}
