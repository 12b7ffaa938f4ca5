"""What masks of the mean of K models score above those of one model a row: the size match of maps, without labels.

True masks are drawn about the mean's map: its logits move by an error that is partly of the whole image and partly has
the texture of what sets models apart (of another image's, so that it is none of this one's), scaled to this image. How
large it is, is the one thing unknown: it is set so that one model a row scores on these masks what cross-validation
says; what the mean's masks score there beyond that is the gain. It takes the mean to be right but for such an error.
Truths that are mere level sets of the mean's map would be simpler, but put the gain three times too high for
precisions over thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.forecast.level import Match
from pipeline.forecast.regression import Scale
from pipeline.masks.decide import components, decide, objects_of, resize
from pipeline.masks.metrics import MaskMetric
from pipeline.scoring.mask_choice import from_decision
from pipeline.scoring.mask_shelf import Mixed, Scene, deployed
from pipeline.scoring.mask_variants import Setting, Shown, stream
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array

# So many images are asked, evenly chosen, shrunk to a side of no more than this, with so many drawn masks each.
IMAGES, SIDE, DRAWS = 100, 96, 3
# The error in sds of what sets models apart, and the part of it (of its sd) that is of the whole image.
ERRORS, WHOLE = 2.0 ** np.arange(4, -4, -1), 0.8
# Over 33 settings (networks that share more or less of their errors; tgs_precision, iou, dice_pooled) the estimate was
# off by 20 % of itself in the median, by 55 % or less in three quarters; best for pooled metrics (10 %), and for
# precisions over thresholds of networks that share little up to 2.8 times too high.
DOUBT = 0.6


@dataclass(frozen=True)
class Views:
    """Images as each of K models shows them and as their mean does; how either is decided; full sizes (N 2)."""

    models: Sequence[Shown]
    mean: Shown
    one: Setting
    deployed: Setting
    sizes: Array
    exclusive: bool

    @classmethod
    def of(cls, scene: Scene, files: RunFiles, shelf: dict[str, Any]) -> Views:
        """Return the test images as a run shows them; `shelf`: its `folds`, `repeats` and `decision`."""
        from pipeline.store.table import TEST

        table, repeats = scene.table, range(shelf.get("repeats", 1))
        real = np.flatnonzero(table.folds[table.test] == TEST)
        even = np.full((len(real), len(repeats)), 1 / len(repeats))

        def of_fold(k: int) -> Shown:
            return Mixed([scene.maps(files.fold(k, r).test, table.test).part(real) for r in repeats], even)

        one = from_decision(shelf["decision"])
        return cls(
            [of_fold(k) for k in shelf["folds"]], scene.maps(files.test, table.test).part(real), one,
            deployed(scene, files, shelf)[0], table.sizes[table.test][real], scene.truth.kind == "exclusive",
        )  # fmt: skip


def match_masks(problem: Problem, score: float, views: Views) -> Match:
    """Return what the mean scores above one model a row, where the latter scores `score`."""
    if len(views.models) == 1 or not np.isfinite(score) or len(views.sizes) < 2:
        return Match(0.0, 0.0, exact=len(views.models) == 1)
    metric = problem.mask_metric
    stats = _drawn_scores(metric, views)
    stats = stats.reshape(*stats.shape[:2], -1, stats.shape[-1])
    scores = np.array([[metric.reduce(each, np.ones(len(each))) for each in level] for level in stats])
    one = scores[:, :-1].mean(1)
    gain = float(np.interp(score, np.maximum.accumulate(one), scores[:, -1] - one))
    return Match(gain, DOUBT * abs(gain), exact=False)


def size_matched(problem: Problem, report: dict[str, Any], views: Views, repeats: int = 1) -> dict[str, Any]:
    """Return the scores of a run with masks and what the mean of its models is expected to score on test beside them.

    With `repeats` an out-of-fold row is the mean of as many models, and so is each of the views'.
    """
    scale, se = Scale.of(problem.metric), report["se"]
    start = float(scale.inside(report["score"], se))
    match = match_masks(problem, start, views)
    expected = float(scale.inside(start + match.gain, se / 4))
    found = {"score": expected, "se": float(np.hypot(se, match.se)), "models": len(views.models) * repeats}
    return report | {"size_matched": found}


def logits(p: Array, exclusive: bool) -> Array:
    """Return what is compared with 0, or of exclusive classes with that of the others, to decide p (C H W)."""
    p = p.clip(1e-4, 1 - 1e-4)
    return np.log(p) if exclusive else np.log(p) - np.log1p(-p)


def labels(z: Array, exclusive: bool) -> Array:
    """Return the masks (C H W bool) of logits."""
    return np.asarray(z.argmax(0) == np.arange(len(z))[:, None, None] if exclusive else z > 0)


def _drawn_scores(metric: MaskMetric, views: Views) -> Array:
    """Return statistics (E K+1 N D k) of every model's masks, the mean's last, on masks drawn with each error."""
    rows = np.linspace(0, len(views.sizes) - 1, min(len(views.sizes), IMAGES)).astype(int)
    n, k, rng = len(rows), len(views.models), np.random.default_rng(0)
    apart = stream(lambda j: _apart(views, int(rows[j])), n)
    shift = _normal((rng.permutation(n * DRAWS) + 0.5) / (n * DRAWS)).reshape(n, DRAWS)
    others = (np.arange(n)[:, None] + rng.integers(1, n, (n, DRAWS))) % n
    whose, signs = rng.integers(k, size=others.shape), rng.choice([-1.0, 1.0], others.shape)

    def one(j: int) -> Array:
        (centre, mine), i = apart[j], int(rows[j])
        size = centre.shape[1:]
        seen = [(m[i], m.present(i), views.one) for m in views.models]
        seen.append((views.mean[i], views.mean.present(i), views.deployed))
        guesses = [_decided(metric, *each, size, views.exclusive) for each in seen]
        drawn = zip(others[j], whose[j], signs[j], strict=True)
        textures = [sign * resize(apart[o][1][m], size) for o, m, sign in drawn]
        fine = [np.sqrt(1 - WHOLE**2) * t / max(_rms(t), 1e-9) for t in textures]
        errors = [_rms(mine) * (WHOLE * at + t) for at, t in zip(shift[j], fine, strict=True)]
        return np.array([_scores(metric, [labels(centre + by * e, views.exclusive) for e in errors], guesses)
                         for by in ERRORS])  # fmt: skip

    return np.stack(stream(one, n), 2)


def _scores(metric: MaskMetric, truths: list[Array], guesses: list[tuple[Array, Array | None]]) -> list[list[Array]]:
    """Return the statistics of every guess on every truth."""
    told = [(truth, components(truth[0])[0] if metric.objects else None) for truth in truths]
    return [[metric.stats(t, mask, n, objects) for t, n in told] for mask, objects in guesses]


def _decided(
    metric: MaskMetric, maps: Array, present: Array, how: Setting, size: tuple[int, int], exclusive: bool
) -> tuple[Array, Array | None]:
    """Return the masks of an image and, where the metric is of objects, their objects."""
    mask = decide(maps, present, how, size, exclusive)
    return mask, objects_of(mask[0], maps, how[0], len(present)) if metric.objects else None


def _apart(views: Views, i: int) -> tuple[Array, Array]:
    """Return the logits of an image, shrunk, in the mean (C H W), and how models are apart from it (K C H W)."""
    height, width = views.sizes[i].tolist()
    by, classes = min(1.0, SIDE / max(height, width)), len(views.mean.present(i))
    size = max(1, round(height * by)), max(1, round(width * by))
    each = np.stack([logits(resize(m[i][:classes], size), views.exclusive) for m in views.models])
    centre = logits(resize(views.mean[i][:classes], size), views.exclusive)
    return centre, (each - each.mean(0)) * np.sqrt(len(each) / (len(each) - 1))


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _normal(u: Array) -> Array:
    from scipy.special import ndtri

    return np.asarray(ndtri(u))
