"""The learning-rate range test (Smith 2017), and a trial at the rate of the config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.preflight.cost import Trial
from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding, judged, worse
from pipeline.preflight.learner import Learner
from pipeline.preflight.material import Material
from pipeline.store.files import Array

LOW, HIGH, STEPS, WINDOW = 1e-5, 10.0, 72, 7
# After 24 steps the loss was .15 to 1.16 times the first one at rates that are right (digits, blobs, seedlings,
# radiographs; 1 to 4 seeds), and at 1000 times these .6 to 1.8 or 250 times: with batch norm and AdamW it tells little.
RISE = 1.5
# What tells is by what share of its size a layer moves in a step: .034 to .060 for eight runs on these and on nuclei,
# 1 to 3 seeds each. Beyond 1 what was learnt is gone with every step.
MOVED, HARDLY, WELL = (0.3, 1.0), 1e-5, 0.1
# How many standard errors a fall must be, and how many times the suggestion a rate may be.
SURE, OFF = 4.0, 10.0


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

        Over 14 tests (digits, blobs, other seeds) it lay between .0008 and .025, that of the steepest fall between
        .0005 and .11: one noisy step decides where that is.
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


def learning_rate(material: Material, found: Range, tried: Trial, blank: float) -> Finding:
    """Judge the rate of the config by its first steps, and by the range test.

    `blank` is the loss of not looking at the images. The range test is not asked for more than a rate at which a layer
    moves by a tenth of its size.
    """
    rate, losses = material.job.config.optim.lr, tried.losses
    # The first loss of published weights may lie above that of not looking.
    rise = float(smoothed(losses)[-1]) / max(blank, losses[0])
    words = f"{rate:.2g}: a step moves layers by {tried.moved:.1%}; loss {losses[0]:.3g}, after {len(losses)} steps "
    words += f"{smoothed(losses)[-1]:.3g} ({blank:.3g} without looking); range test: "
    most = rate * WELL / max(tried.moved, 1e-12)
    wanted = min(found.suggestion, most) if found.suggestion else None
    if wanted is None:
        words += f"no clear fall in {len(found.rates)} steps"
    else:
        words += f"steepest at {found.steepest:.1e}, lowest at {found.lowest:.1e}, suggests {wanted:.1e}"
    verdict = judged_rate(tried.moved, rise, rate / (wanted or rate))
    points = list(zip(found.rates.tolist(), found.smooth.tolist(), strict=True))
    advice = f"set optim.lr nearer to {min(wanted or most, most):.0e}"
    return Finding("learning rate", verdict, words, advice, points, ("learning rate", "loss"))


def judged_rate(moved: float, rise: float, ratio: float) -> str:
    """Return the verdict on how far weights move, on the loss after and before, on the rate and the suggested one."""
    if not math.isfinite(rise) or rise > RISE:
        return BROKEN
    odd = moved < HARDLY or (ratio > OFF and rise > 1)
    return worse(judged(moved, *MOVED), LOOK if odd else OK)
