"""The page of a check: the verdicts, curves and layers, in one HTML file without a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from pipeline.preflight.findings import Finding
from pipeline.preflight.signals import Layer
from pipeline.store.files import write_text

COLOURS = {"ok": "#2a7d2a", "look": "#b07000", "broken": "#c02020"}
STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em auto;max-width:62em;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}"
    "small{color:#555}img{max-width:100%}svg{margin-right:1em}"
)
WIDE, TALL, EDGE = 420, 200, 36


def write_page(path: Path, run: str, findings: Sequence[Finding], layers: Sequence[Layer], sheet: str) -> None:
    """Write the page of a run; `sheet` is the file of the contact sheet beside it."""
    verdicts = "".join(
        f'<tr><td style="color:{COLOURS[f.verdict]}"><b>{f.verdict}</b></td><td>{escape(f.name)}</td>'
        f"<td>{escape(f.seen)}{f'<br><small>{escape(f.to_do)}</small>' if f.to_do else ''}</td></tr>"
        for f in findings
    )
    curves = "".join(f"<h3>{escape(f.name)}</h3>{curve(f)}" for f in findings if len(f.points) > 1)
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{escape(one.kind)}</td><td>{'x'.join(map(str, one.shape))}</td>"
        f"<td>{one.size:.2g}</td><td>{one.still:.0%}</td>"
        f"<td>{'' if one.gradient is None else f'{one.gradient:.1e}'}</td></tr>"
        for one in layers
    )
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(run)}: check</title>'
        f"<style>{STYLE}</style><h1>{escape(run)}: before it trains</h1><table>{verdicts}</table>"
        f"<h2>What the model sees</h2><p>Its first batch, after augmentation and mixing (masks are outlined, and the "
        f'faint images below them brightened).</p><img src="{sheet}" alt="first batch">'
        f"<h2>Curves</h2>{curves}<h2>Layers before the first step</h2><table><tr><th>layer</th><th>kind</th>"
        f"<th>shape</th><th>rms of outputs</th><th>channels that say nothing</th><th>rms of gradient</th></tr>"
        f"{rows}</table></html>\n",
    )


def curve(finding: Finding) -> str:
    """Draw the points of a finding as SVG; an axis that spans a factor of 1000 or more is logarithmic."""
    points = [(x, y) for x, y in finding.points if math.isfinite(y)]
    if len(points) < 2:
        return ""
    (left, right, across), (low, high, up) = (axis([p[n] for p in points]) for n in (0, 1))
    placed = " ".join(
        f"{EDGE + across(x) * (WIDE - 2 * EDGE):.1f},{TALL - EDGE - up(y) * (TALL - 2 * EDGE):.1f}" for x, y in points
    )
    texts = [
        (EDGE, TALL - EDGE / 2, left), (WIDE - 2 * EDGE, TALL - EDGE / 2, right), (0, TALL - EDGE, low),
        (0, EDGE, high), (WIDE / 2, TALL - 4, finding.axes[0]), (0, EDGE / 2, finding.axes[1]),
    ]  # fmt: skip
    words = "".join(f'<text x="{x}" y="{y}" font-size="11">{escape(str(text))}</text>' for x, y, text in texts)
    frame = (
        f'<rect x="{EDGE}" y="{EDGE}" width="{WIDE - 2 * EDGE}" height="{TALL - 2 * EDGE}" fill="none" stroke="#ccc"/>'
    )
    line = f'<polyline points="{placed}" fill="none" stroke="#205090" stroke-width="1.5"/>'
    return f'<svg viewBox="0 0 {WIDE} {TALL}" width="{WIDE}" height="{TALL}">{frame}{line}{words}</svg>'


def axis(values: Sequence[float]) -> tuple[str, str, Callable[[float], float]]:
    """Return the ends of an axis as text, and the function from a value to its place in 0..1."""
    low, high = min(values), max(values)
    log = low > 0 and high / low >= 1000
    start, end = (math.log(low), math.log(high)) if log else (low, high)

    def place(value: float) -> float:
        return ((math.log(value) if log else value) - start) / ((end - start) or 1.0)

    return f"{low:.3g}", f"{high:.3g}", place
