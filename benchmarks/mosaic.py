"""Mosaics: precision and recall of the links between tiles of shuffled fields, and of real photographs."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "masks"))

from fields import cut, cut_fields, score, touching

from pipeline.masks.mosaic import Borders, links, place


def report(what, tiles, field, at):
    start = time.perf_counter()
    found = links(Borders.of(tiles))
    mosaic, _ = place(found, len(tiles))
    took = time.perf_counter() - start
    precision, recall = score(found, touching(field, at))
    mixed = sum(len(np.unique(field[mosaic == m])) > 1 for m in np.unique(mosaic))
    # A tile that has a neighbour and found one shares its group with it; alone, it may leak into another fold.
    social = np.flatnonzero(np.bincount(field)[field] > 1)
    lone = np.mean(np.bincount(mosaic)[mosaic[social]] == 1) if len(social) else 1.0
    print(
        f"{what:48} {len(tiles):5} tiles  precision {precision:.3f}  recall {recall:.3f}  "
        f"links {len(found.pairs)}  mosaics of two fields {mixed}  tiles left alone {lone:.3f}  {took:.1f} s"
    )


def main():
    rng = np.random.default_rng(0)
    settings = ((48, 0, 4), (48, 5, 4), (48, 15, 4), (48, 0, 12), (32, 5, 4), (96, 5, 4))
    for side, noise, smooth in settings:
        fields = cut_fields(rng, 150, side, noise=noise, smooth=smooth)
        report(f"150 fields, {side} px, blur {smooth}, noise {noise} (contrast 40)", *fields)
        if noise < 15 and side == 48 and smooth == 4:
            tiles = fields[0] * rng.uniform(0.8, 1.2, (len(fields[0]), 1, 1, 1))
            report("  each tile 20 % brighter or darker", tiles.clip(0, 255).astype(np.uint8), *fields[1:])
    report("400 tiles without neighbours, 24 px", *cut_fields(rng, 400, 24, (1, 1), (1, 1)))
    from sklearn.datasets import load_sample_images

    for side in (32, 64):
        report(f"two photographs (scikit-learn), {side} px", *cut(load_sample_images().images, side, rng))


if __name__ == "__main__":
    main()
