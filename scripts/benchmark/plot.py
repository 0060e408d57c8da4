"""The result as a picture: a panel for each metric, a bar for each contestant, a line from the least to the most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from scripts.benchmark.measures import OURS
from scripts.benchmark.report import number

if TYPE_CHECKING:
    from scripts.benchmark.measures import Direction, Metric
    from scripts.benchmark.results import Results

COLUMNS: Final = 3
PANEL_WIDTH: Final = 380
NAME_WIDTH: Final = 84
BAR_WIDTH: Final = 200
BAR_HEIGHT: Final = 14
TITLE_HEIGHT: Final = 26
GAP: Final = 18
COLOURS: Final = {OURS: "#0b7285", "none": "#ced4da"}
OTHER: Final = "#adb5bd"


def svg(results: Results, directions: tuple[Direction, ...]) -> str:
    """All panels, a block for each direction."""
    names = results.names()
    panel_height = TITLE_HEIGHT + len(names) * (BAR_HEIGHT + 3) + GAP
    parts: list[str] = []
    top = 10
    for direction in directions:
        top += 24
        parts.append(f'<text x="10" y="{top}" font-size="18" font-weight="bold">{direction}</text>')
        top += 12
        metrics = results.metrics(direction)
        for index, metric in enumerate(metrics):
            x, y = 10 + index % COLUMNS * PANEL_WIDTH, top + index // COLUMNS * panel_height
            parts += [
                f'<g transform="translate({x},{y})">',
                *_panel(results, direction, metric, names),
                "</g>",
            ]
        top += -(-len(metrics) // COLUMNS) * panel_height
    width, height = COLUMNS * PANEL_WIDTH + 20, top + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"',
            ' font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(results: Results, direction: Direction, metric: Metric, names: tuple[str, ...]) -> list[str]:
    better = f"{metric.unit}, {metric.better} is better"
    title = f'<text y="16" font-weight="bold">{escape(metric.title)} <tspan fill="#868e96" font-weight="normal">{escape(better)}</tspan></text>'
    measured = {name: results.values(direction, name, metric.key) for name in names}
    most = max((max(values) for values in measured.values() if values), default=0) or 1
    parts = [title]
    for row, name in enumerate(names):
        y = TITLE_HEIGHT + row * (BAR_HEIGHT + 3)
        middle = y + BAR_HEIGHT / 2
        parts.append(f'<text x="{NAME_WIDTH - 6}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        median = results.median(direction, name, metric.key)
        if median is None:
            continue
        least, highest, value = (
            max(part, 0) / most * BAR_WIDTH for part in (min(measured[name]), max(measured[name]), median)
        )
        parts += [
            f'<rect x="{NAME_WIDTH}" y="{y}" width="{value:.1f}" height="{BAR_HEIGHT}" fill="{COLOURS.get(name, OTHER)}"/>',
            f'<line x1="{NAME_WIDTH + least:.1f}" x2="{NAME_WIDTH + highest:.1f}" y1="{middle}" y2="{middle}" stroke="#343a40"/>',
            f'<text x="{NAME_WIDTH + highest + 6:.1f}" y="{middle + 4}">{number(median)}</text>',
        ]
    return parts
