"""The learning-rate range test (Smith 2017), and a trial at the rate of the config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding
from pipeline.preflight.learner import Learner
from pipeline.preflight.material import Material
from pipeline.store.files import Array

LOW, HIGH, STEPS, WINDOW = 1e-5, 10.0, 72, 7
OFF, RISE, SURE = 10.0, 1.5, 4.0


@dataclass(frozen=True)
class Range:
    """Rates and losses of a range test, raw and smoothed."""

    rates: Array
    losses: Array
    smooth: Array

    @property
    def steepest(self) -> float:
        """Return the rate where the smoothed loss falls fastest, before its minimum."""
        end = int(self.smooth.argmin())
        return float(self.rates[int(np.gradient(self.smooth[: end + 1]).argmin())]) if end else self.lowest

    @property
    def lowest(self) -> float:
        """Return the rate of the lowest smoothed loss."""
        return float(self.rates[int(self.smooth.argmin())])

    @property
    def suggestion(self) -> float | None:
        """Return a tenth of the rate of the lowest loss, None where the fall to it may be chance.

        Over 9 tests (digits, blobs, other seeds) it lay between .002 and .014, that of the steepest fall between .0005
        and .11: one noisy step decides where that is.
        """
        end = int(self.smooth.argmin())
        # 1.5 times the median deviation is the standard deviation, whatever happens at the highest rates.
        noise = 1.5 * float(np.nanmedian(np.abs(self.losses - self.smooth))) / math.sqrt(WINDOW)
        return self.lowest / 10 if self.smooth[0] - self.smooth[end] > SURE * noise else None


def range_test(material: Material, steps: int = STEPS) -> Range:
    """Raise the rate from LOW to HIGH by the same factor each step, until the loss is far above its lowest."""
    learner, losses = Learner(material, LOW), list[float]()
    rates = np.geomspace(LOW, HIGH, steps)
    for rate, batch in zip(rates, material.stream(), strict=False):
        learner.at(float(rate))
        losses.append(learner.step(batch))
        far = smoothed(losses)
        if not np.isfinite(losses[-1]) or far[-1] > 4 * max(far.min(), losses[0] / 4):
            break
    return Range(rates[: len(losses)], np.array(losses), smoothed(losses))


def smoothed(losses: Sequence[float]) -> Array:
    """Return the mean over a window around each step; what is not finite counts as the largest that is."""
    values = np.array(losses, float)
    known = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, known.max(initial=0) * 10)
    half = WINDOW // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def learning_rate(material: Material, found: Range, losses: Sequence[float], blank: float) -> Finding:
    """Compare the rate of the config with the range test, and its first steps with not looking at the images at all."""
    rate, wanted = material.job.config.optim.lr, found.suggestion
    # The first loss of published weights may lie above that of not looking.
    end, begin = smoothed(losses)[-1], max(blank, losses[0])
    words = f"{rate:.2g}: loss {losses[0]:.3g}, after {len(losses)} steps {end:.3g} ({blank:.3g} without looking); "
    if wanted is None:
        words += f"the range test shows no clear fall in {len(found.rates)} steps"
    else:
        words += f"range test: steepest at {found.steepest:.1e}, lowest at {found.lowest:.1e}, {wanted:.1e} is safe"
    points = list(zip(found.rates.tolist(), found.smooth.tolist(), strict=True))
    verdict = judged_rate(rate / wanted if wanted else 1.0, end / begin)
    advice = f"set optim.lr nearer to {wanted:.0e}" if wanted else "set a lower optim.lr"
    return Finding("learning rate", verdict, words, advice, points, ("learning rate", "loss"))


def judged_rate(ratio: float, rise: float) -> str:
    """Return the verdict on a rate as a share of the safe one, and on the loss it leads to as one of the first."""
    if rise > RISE or not math.isfinite(rise):
        return BROKEN
    return LOOK if (ratio > OFF and rise > 1) or ratio < 1 / OFF**2 else OK
