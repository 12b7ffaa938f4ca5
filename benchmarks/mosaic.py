"""Mosaics: precision and recall of the links between tiles of shuffled fields, and of real photographs."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "masks"))

from fields import cut, cut_fields, score, touching

from pipeline.masks.mosaic import links, place


def report(what, tiles, field, at):
    start = time.perf_counter()
    found = links(tiles)
    mosaic, _ = place(found, len(tiles))
    took = time.perf_counter() - start
    precision, recall = score(found, touching(field, at))
    mixed = sum(len(np.unique(field[mosaic == m])) > 1 for m in np.unique(mosaic))
    # A tile that has a neighbour and found one shares its group with it; alone, it may leak into another fold.
    lone = np.mean([(mosaic == mosaic[i]).sum() == 1 for i in np.flatnonzero(np.bincount(field)[field] > 1)])
    print(
        f"{what:58} {len(tiles):5} tiles  precision {precision:.3f}  recall {recall:.3f}  "
        f"mosaics of two fields {mixed}  tiles left alone {lone:.3f}  {took:.1f} s"
    )


def main():
    rng = np.random.default_rng(0)
    for side, noise, smooth in ((48, 0, 4), (48, 5, 4), (48, 15, 4), (48, 0, 12), (32, 5, 4), (96, 5, 4)):
        fields = cut_fields(rng, 150, side, noise=noise, smooth=smooth)
        report(f"150 smooth fields, {side} px, blur {smooth}, noise sd {noise} of 40", *fields)
    from sklearn.datasets import load_sample_images

    for side in (32, 64):
        report(f"two photographs (scikit-learn), {side} px", *cut(load_sample_images().images, side, rng))


if __name__ == "__main__":
    main()
