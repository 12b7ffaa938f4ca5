"""Standard errors and paired gates by bootstrap over rows, or over groups where rows share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.store.files import Array

REPLICATES = 400


def resamples(n: int, group: Array | None, replicates: int = REPLICATES, seed: int = 0) -> Iterator[Array]:
    """Yield how often each row (N,) is drawn with replacement; rows of one group are drawn together."""
    rng = np.random.default_rng(seed)
    units, of_row = (n, None) if group is None else _units(group)
    for _ in range(replicates):
        counts = np.bincount(rng.integers(units, size=units), minlength=units).astype(np.float64)
        yield counts if of_row is None else counts[of_row]


def replicate(
    scores: Sequence[Callable[[Array], float]], n: int, group: Array | None, replicates: int = REPLICATES, seed: int = 0
) -> Array:
    """Return every score on the same resamples, replicates x scores (paired)."""
    return np.array([[score(weight) for score in scores] for weight in resamples(n, group, replicates, seed)])


def standard_error(score: Callable[[Array], float], n: int, group: Array | None) -> float:
    """Return the standard deviation of a score over resamples; NaN where fewer than half of them have one."""
    values = replicate([score], n, group)[:, 0]
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > REPLICATES / 2 else float("nan")


def gate(gains: Array, replicated: Array) -> tuple[int | None, Array]:
    """Decide which of several candidates is adopted over the simple rule.

    `gains` (C,) are cross-fitted gains over the simple rule, `replicated` (B C) the same on paired resamples. Each
    lower end is simultaneous: it allows for the maximum over all candidates tried. Return the best candidate whose
    lower end of the 95 % interval is above zero, or None, and the lower ends.
    """
    if not np.isfinite(replicated).all() or not np.isfinite(gains).all():
        return None, np.full(len(gains), np.nan)
    lower = gains - np.quantile((replicated - gains).max(1), 0.975)
    best = int(np.argmax(gains))
    return (best if lower[best] > 0 else None), lower


def adopt(
    scorers: dict[str, Callable[[Array], float]], gain: Callable[[Array, Array], Array], n: int, group: Array | None
) -> str:
    """Return the name of the rule to use: the first (the simple one) unless another passes the gate.

    `scorers` score cross-fitted predictions under row weights; `gain(new, old)` is positive for better.
    """
    names, functions = list(scorers), list(scorers.values())
    now = np.array([score(np.ones(n)) for score in functions])
    boot = replicate(functions, n, group)
    winner, _ = gate(gain(now[1:], now[:1]), gain(boot[:, 1:], boot[:, :1]))
    return names[0] if winner is None else names[1 + winner]


def _units(group: Array) -> tuple[int, Array]:
    names, index = np.unique(group, return_inverse=True)
    return len(names), index
