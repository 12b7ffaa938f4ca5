"""Past (CV, public score) pairs of a competition: what they say of the score of the next submission.

A score is worked with on the scale on which it has no bounds: logit for metrics in [0, 1], logarithm for losses. There
public_j = a + b (cv_j - cv) + e_j, so that `a` is the new submission's. The prior of `a` is the level that is expected
without any submission. Its error, shared by all of them, is the level's own (normal, with the tails of a Student t of 3
degrees, since a leak or a shift may be there) and the part of the public sample's noise that all feel. b is Student t
with 3 degrees about 1: data that say otherwise win. e has a scaled inverse chi-square variance. Given the scales all is
normal, so the posterior is a finite mixture in closed form over a grid of scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.scoring.metrics import Metric
from pipeline.store.files import Array

DRAWS = 8192
SLOPE_SD = 0.3
NU = 4
# The part of the sampling noise of the public rows that is common to the submissions of a competition; with it the 90 %
# interval covers .90 to .95 whether models share their errors or not (benchmarks/leaderboard.py).
SHARED = 0.25
# Variances of the level's error in units of its own, and their weights: a normal with the tails of a t of 3 degrees.
WIDER = 4.0 ** np.arange(10)
WIDER_WEIGHT = 8.0 ** -np.arange(10)
# A Student t of 3 degrees as normals whose variances have an inverse gamma density.
SLOPES = 2.0 ** np.arange(-4, 20)
SLOPES_WEIGHT = SLOPES**-1.5 * np.exp(-1.5 / SLOPES)
NOISES = 2.0 ** np.arange(-8, 14.5, 0.5)
NOISES_WEIGHT = NOISES ** (-NU / 2) * np.exp(-NU / 2 / NOISES)


@dataclass(frozen=True)
class Scale:
    """A monotone scale on which a metric with bounds has none."""

    low: float
    high: float

    @classmethod
    def of(cls, metric: Metric) -> Scale:
        """Return the scale of a metric; linear where none are told."""
        return cls(*metric.bounds)

    @property
    def bounded(self) -> bool:
        """Say whether there is a best and a worst score."""
        return bool(np.isfinite(self.high - self.low))

    def inside(self, x: Array | float, margin: float) -> Array:
        """Move scores off the bounds; a standard error as margin keeps errors on the scale below about one."""
        margin = min(max(margin, 1e-9), (self.high - self.low) / 4)
        return np.clip(x, self.low + margin, self.high - margin)

    def up(self, x: Array) -> Array:
        """Return log(x - low) - log(high - x), each where there is such a bound, or x."""
        z = np.log(x - self.low) if np.isfinite(self.low) else 0.0
        z = z - np.log(self.high - x) if np.isfinite(self.high) else z
        return np.asarray(z if np.isfinite(self.low) or np.isfinite(self.high) else x)

    def slope(self, x: Array) -> Array:
        """Return the derivative of `up`."""
        bound = np.isfinite(self.low) or np.isfinite(self.high)
        return np.asarray(1 / (x - self.low) + 1 / (self.high - x) if bound else np.ones_like(x))

    def down(self, z: Array) -> Array:
        """Return the score of a point of the scale."""
        if self.bounded:
            from scipy.special import expit

            return np.asarray(self.low + (self.high - self.low) * expit(z))
        if np.isfinite(self.low):
            return self.low + np.exp(np.minimum(z, 700.0))
        return self.high - np.exp(np.minimum(-z, 700.0)) if np.isfinite(self.high) else np.asarray(z)


@dataclass(frozen=True)
class Variances:
    """Squared errors on the unbounded scale: the level's own, sampling of public and private rows, and of the CV."""

    level: float
    public: float
    private: float
    cv: float


@dataclass(frozen=True)
class Posterior:
    """What is believed after the pairs: draws of the next public score and of its private score, and the means.

    `offset` is where the level moved to on the public rows, `real` where without their noise, `slope` is b, and `kept`
    the part of e that a private score has too.
    """

    public: Array
    private: Array
    offset: float
    slope: float
    real: float
    kept: float


def posterior(x: Array, y: Array, level: float, errors: Variances) -> Posterior:
    """Return the posterior after past pairs: `x` (n,) CV less the new CV, `y` (n,) public scores, all on the scale."""
    from scipy.special import ndtri

    own = errors.public + errors.cv if len(x) else errors.public
    kept = errors.cv / own if len(x) and own > 0 else 0.0
    noise, noise_weight = (NOISES, NOISES_WEIGHT) if len(x) else (np.ones(1), np.ones(1))
    # Axes: scale of the level's error, of the slope, of the noise.
    error = np.maximum(WIDER[:, None, None] * errors.level, 1e-18)
    common = error + SHARED * errors.public
    b_variance, variance = SLOPES[:, None] * SLOPE_SD**2, np.maximum((1 - SHARED) * own * noise, 1e-18)
    prior = WIDER_WEIGHT[:, None, None] * SLOPES_WEIGHT[:, None] * noise_weight
    rest = y - level - x
    # Precision and mean of (a - level, b - 1), normal given the scales.
    aa, ab, bb = 1 / common + len(x) / variance, x.sum() / variance, 1 / b_variance + x @ x / variance
    to_a, to_b, determinant = rest.sum() / variance, rest @ x / variance, aa * bb - ab**2
    a, b = (bb * to_a - ab * to_b) / determinant, (aa * to_b - ab * to_a) / determinant
    evidence = a * to_a + b * to_b - rest @ rest / variance - len(x) * np.log(variance)
    evidence = (evidence - np.log(common * b_variance * determinant)) / 2 + np.log(prior)
    weight = np.exp(evidence - evidence.max())
    weight = weight / weight.sum()

    u = _even(DRAWS, 5)
    cell = np.searchsorted(np.cumsum(weight.ravel())[:-1], u[:, 0])
    z = ndtri(u[:, 1:]).T

    def of_cells(v: Array) -> Array:
        return np.asarray(np.broadcast_to(v, weight.shape).ravel()[cell])

    moved = of_cells(a) + np.sqrt(of_cells(bb / determinant)) * z[0]
    # Of a move of the level the part that is not the public sample's own noise stays on the private rows.
    share = error / common
    private = of_cells(share) * moved + np.sqrt(of_cells(share * SHARED * errors.public)) * z[1]
    private += np.sqrt(errors.private + kept * of_cells(variance)) * z[3]
    public = moved + np.sqrt(of_cells(variance)) * z[2]
    offset, slope, real = (float((weight * v).sum()) for v in (a, b, share * a))
    return Posterior(level + public, level + private, level + offset, 1 + slope, level + real, kept)


def _even(n: int, dimensions: int) -> Array:
    """Return n points (n D) in the unit cube, each coordinate spread evenly (a Latin hypercube)."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.permutation(n) + 0.5 for _ in range(dimensions)]) / n
