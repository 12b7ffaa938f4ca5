"""The median rule (Golovin 2017): a fit that lags behind half of the finished ones is given up on its way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.files import number

Gain = Callable[[float, float], Any]
RUNGS = (1 / 3, 2 / 3)
# The median of fewer fits says little.
ENOUGH = 5


class Pruned(Exception):
    """A fit was given up; `score` is the best until then."""

    def __init__(self, score: float) -> None:
        super().__init__(score)
        self.score = score


def curve_of(path: Path, metric: str) -> list[float]:
    """Return the score on the held-out rows after each epoch, as a log has it."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [number(entry[f"valid_{metric}"]) for entry in entries if f"valid_{metric}" in entry]


def ends(epochs: int) -> list[int]:
    """Return after how many epochs the rungs are."""
    return [math.ceil(share * epochs) for share in RUNGS]


def rungs(curve: Sequence[float], epochs: int, gain: Gain) -> list[float]:
    """Return the best score until each rung, as far as a curve has come."""
    return [best(curve[:end], gain) for end in ends(epochs) if end <= len(curve)]


def best(scores: Sequence[float], gain: Gain) -> float:
    """Return the best of some scores; NaN is worse than any."""
    return max(scores, key=lambda score: -math.inf if math.isnan(score) else float(gain(score, 0.0)))


def bars(known: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of finished fits at each rung: what is to be reached there; NaN while they are few."""
    found = []
    for n in range(len(RUNGS)):
        there = [each[n] for each in known if len(each) > n and not math.isnan(each[n])]
        found.append(float(np.median(there)) if len(there) >= ENOUGH else math.nan)
    return found


class Referee:
    """What the epochs of a fit are told to, in place of a W&B run: it ends the fit below the bar of a rung.

    It reads the scores from the fit's log, where those of before a kill stand too.
    """

    def __init__(self, log_file: Path, bars: Sequence[float], epochs: int, metric: str, gain: Gain) -> None:
        self.log_file, self.metric, self.gain = log_file, metric, gain
        self.bars = {end: bar for end, bar in zip(ends(epochs), bars, strict=True) if end < epochs}
        self.summary: dict[str, Any] = {}

    def log(self, entry: dict[str, Any]) -> None:
        """Take the numbers of an epoch."""
        bar = self.bars.get(entry["epoch"] + 1, math.nan)
        if math.isnan(bar):
            return
        reached = best(curve_of(self.log_file, self.metric)[: entry["epoch"] + 1], self.gain)
        if math.isnan(reached) or self.gain(reached, bar) < 0:
            raise Pruned(reached)
