"""A forest plot as SVG: the gain of every variant with its 95 % interval, the winner's on fresh folds below its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from pipeline.scoring.ablation import Effect
from pipeline.trials.table import Row, Winner, ordered

LINE, TOP, LEFT, PLOT, RIGHT = 22, 44, 190, 420, 190
COLOURS = {"helps": "#1a7f37", "hurts": "#cf222e", "not shown": "#57606a"}
FRESH = "#0969da"


def forest(rows: Sequence[Row], winner: Winner | None, title: str, smallest: float) -> str:
    """Return the plot; the grey band is what the ablation could not have shown."""
    tried = [row for row in ordered(rows) if row.effect is not None and math.isfinite(row.effect.low)]
    drawn: list[tuple[str, Effect, str, str]] = []
    for row in tried:
        assert row.effect is not None
        drawn.append((row.name, row.effect, COLOURS[row.verdict], row.verdict))
        if winner is not None and winner.name == row.name and math.isfinite(winner.effect.low):
            drawn.append(("  measured again", winner.effect, FRESH, winner.effect.confirmed))
    ends = [0.0, *(end for _, e, _, _ in drawn for end in (e.low, e.high))]
    ends += [smallest, -smallest] if math.isfinite(smallest) else []
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    low, high = low - 0.04 * span, high + 0.04 * span

    def x(value: float) -> float:
        return LEFT + PLOT * (value - low) / (high - low)

    bottom = TOP + LINE * len(drawn)
    width, height = LEFT + PLOT + RIGHT, bottom + 46
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        _text(10, 20, title, size=14),
    ]
    if math.isfinite(smallest):
        parts.append(
            f'<rect x="{x(-smallest):.1f}" y="{TOP - 8}" width="{x(smallest) - x(-smallest):.1f}" '
            f'height="{bottom - TOP + 8}" fill="#eaeef2"/>'
        )
    parts.append(_line(x(0), TOP - 8, x(0), bottom, "#24292f", 1))
    parts += [*_axis(low, high, x, bottom)]
    for n, (name, e, colour, word) in enumerate(drawn):
        y = TOP + LINE * n + LINE / 2
        parts += [
            _text(10, y + 4, name),
            _line(x(e.low), y, x(e.high), y, colour, 2),
            f'<circle cx="{x(e.gain):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
            _text(LEFT + PLOT + 10, y + 4, f"{e.gain:+.4f}  {word}", colour),
        ]
    return "\n".join([*parts, "</svg>", ""])


def _axis(low: float, high: float, x: object, bottom: float) -> Iterator[str]:
    """Yield about five round ticks."""
    assert callable(x)
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw)
    for n in range(math.ceil(low / step), math.floor(high / step) + 1):
        at = n * step
        yield _line(x(at), bottom, x(at), bottom + 5, "#24292f", 1)
        yield _text(
            x(at), bottom + 18, f"{at:+.{max(0, -math.floor(math.log10(step)))}f}" if n else "0", anchor="middle"
        )
    yield _text(
        x((low + high) / 2),
        bottom + 36,
        "gain over the base, 95 % intervals; grey: too small to be shown",
        anchor="middle",
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, wide: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{wide}"/>'


def _text(x: float, y: float, words: str, colour: str = "#24292f", size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}" '
        f'xml:space="preserve">{escape(words)}</text>'
    )
