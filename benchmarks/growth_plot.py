"""A plot on logarithmic axes as SVG text: a panel a measure, a line a stage, labelled where it ends."""

import math
from collections.abc import Iterator

WIDTH, HEIGHT, MARGIN, LABELS = 470, 330, 46, 96
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e5ba6", "#b5893b", "#3a3a3a", "#d1495b", "#2a9d8f", "#7f7f7f")
Line = list[tuple[float, float]]


def draw(panels: dict[str, dict[str, Line]]) -> str:
    """Return the SVG of panels side by side, two in a row: title -> stage -> points."""
    rows, names = -(-len(panels) // 2), dict.fromkeys(name for lines in panels.values() for name in lines)
    colours = dict(zip(names, COLOURS, strict=False))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{rows * HEIGHT}" font-family="sans-serif" font-size="11">'
    parts = [head, '<rect width="100%" height="100%" fill="white"/>']
    for number, (title, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({number % 2 * WIDTH},{number // 2 * HEIGHT})">')
        parts += [*panel(title, lines, colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def panel(title: str, lines: dict[str, Line], colours: dict[str, str]) -> Iterator[str]:
    """Yield one panel: decades as a grid, slope 1 as a dashed line, every stage with its slope over the last step."""
    xs, ys = ([p[i] for points in lines.values() for p in points] for i in (0, 1))
    left, right, low, high = (
        min(xs),
        max(xs),
        10 ** math.floor(math.log10(min(ys))),
        10 ** math.ceil(math.log10(max(ys))),
    )

    def x(value: float) -> float:
        return MARGIN + (WIDTH - MARGIN - LABELS) * math.log(value / left) / math.log(right / left)

    def y(value: float) -> float:
        return HEIGHT - MARGIN + (2 * MARGIN - HEIGHT) * math.log(value / low) / math.log(high / low)

    yield f'<text x="{MARGIN}" y="{MARGIN - 16}" font-size="13">{title}</text>'
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10.0**decade)
        yield f'<line x1="{MARGIN}" x2="{WIDTH - LABELS}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        yield f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
    for value in sorted(set(xs)):
        yield f'<text x="{x(value):.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{value:,.0f}</text>'
    end = min(high, low * right / left)
    one = f'x1="{x(left):.1f}" y1="{y(low):.1f}" x2="{x(left * end / low):.1f}" y2="{y(end):.1f}"'
    yield f'<line {one} stroke="#999" stroke-dasharray="4 4"/>'
    taken: list[float] = []
    for name, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
        colour = colours[name]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        at = max([y(points[-1][1]), *(other + 12 for other in taken[-1:])])
        taken.append(at)
        yield f'<text x="{x(points[-1][0]) + 5:.1f}" y="{at + 4:.1f}" fill="{colour}">{name} {slope(points):.2f}</text>'


def slope(points: Line) -> float:
    """Return the slope of the last step."""
    if len(points) < 2:
        return float("nan")
    (a, b), (c, d) = points[-2:]
    return math.log(d / b) / math.log(c / a)
